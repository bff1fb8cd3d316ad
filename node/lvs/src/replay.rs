//! From checkpoint and log back to the state: the reading side of both.
//!
//! ```text
//!   slot header -> chunks -> entries from the start LSN -> consistent? -> proofs
//! ```
//!
//! - Every structure is taken from whichever metadata member has it intact.
//! - An entry counts for a key only above the LSN of the chunk that covers the key.
//! - A block whose Map is not settled counts only if its content matches a proof.
//!
//! Source: `docs/formats/lvs.md` sections 3 to 7.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use thiserror::Error;

use crate::{
    acceptance::{self, check_most},
    alloc::Allocator,
    blocks::BlockSet,
    format::{
        Malformed,
        checkpoint::{
            self, CHUNK_HEADER, CHUNK_MAX, Class, Key, SLOT_HEADER, SlotHeader, decode_slot,
            read_chunk_header,
        },
        checksum::{self, LOST, Seed},
        entry::{self, ENTRY_CLUSTERS_MAX},
        label::{Extent, Label, LabelMember},
        op::{Decoder, Op},
    },
    geometry::{
        BLOCK, BLOCK_LEN, ClusterNo, ClusterSize, LayerId, LogicalCluster, Lsn, MemberIndex,
        ObjectId,
    },
    log::{LogStart, Ring, payload_max},
    map::Fragment,
    medium::{Medium, MediumError},
    scan::{Entries, read_log},
    settle::{FRAGMENT_PROOFS_MAX, Place, Proof},
    state::{Inconsistent, State},
    store::UNSETTLED_MAX,
};

/// Why a pool's metadata cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Damage {
    /// No slot header verifies on any metadata member.
    #[error("neither checkpoint slot has an intact header on any metadata member")]
    NoCheckpoint,
    /// A chunk is bad on every metadata member.
    #[error("checkpoint {generation}, chunk {index} at slot byte {position}: {malformed}")]
    Chunk {
        /// The checkpoint's generation.
        generation: u64,
        /// The chunk.
        index: u32,
        /// Its place in the slot.
        position: u64,
        /// What is wrong with it.
        malformed: Malformed,
    },
    /// The chunks are intact but not the ones that the header was written for.
    #[error("checkpoint {generation}: its chunks are not those that its header names")]
    Mixed {
        /// The checkpoint's generation.
        generation: u64,
    },
    /// A header or the content of a slot contradicts itself.
    #[error("checkpoint {generation} {detail}")]
    Slot {
        /// The checkpoint's generation.
        generation: u64,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// A chunk holds what does not belong there.
    #[error(
        "checkpoint {generation}, chunk {index}: its content is not in the order and range of its keys"
    )]
    Order {
        /// The checkpoint's generation.
        generation: u64,
        /// The chunk.
        index: u32,
    },
    /// Entries that a checkpoint contains already are missing from the log.
    #[error("checkpoint {generation} contains log entry {}, but the log ends before entry {}", lsn.0, end.0)]
    Behind {
        /// The checkpoint's generation.
        generation: u64,
        /// The newest entry that it contains.
        lsn: Lsn,
        /// The first entry that is not there.
        end: Lsn,
    },
    /// An entry that was durable is missing.
    #[error("log entry {} at byte {offset} is missing or bad, but entry {} says that it was durable", lsn.0, later.0)]
    Entry {
        /// The missing entry.
        lsn: Lsn,
        /// Where it should be, in bytes from the start of the first metadata member.
        offset: u64,
        /// The entry that knows of it.
        later: Lsn,
    },
    /// The log belongs to a later life than any checkpoint that is left.
    #[error("log entry {} was written after checkpoint {generation} had been replaced; the newer checkpoints are damaged", lsn.0)]
    OldCheckpoint {
        /// The newest intact checkpoint's generation.
        generation: u64,
        /// The entry.
        lsn: Lsn,
    },
    /// An operation in an intact entry or chunk is malformed.
    #[error("an operation up to LSN {} is malformed: {malformed}", lsn.0)]
    Operation {
        /// The LSN of the entry or chunk.
        lsn: Lsn,
        /// What is wrong with it.
        malformed: Malformed,
    },
    /// The operations contradict each other.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
    /// A cluster has two owners or lies nowhere.
    #[error("cluster {} of layer {} has another owner or lies on no member", cluster.0, layer.0)]
    Cluster {
        /// The cluster.
        cluster: ClusterNo,
        /// A layer that owns it.
        layer: LayerId,
    },
    /// Something names a layer that is not there.
    #[error("{what} {id} names layer {}, which does not exist", layer.0)]
    NoLayer {
        /// What names it.
        what: &'static str,
        /// The id of what names it.
        id: u64,
        /// The layer.
        layer: LayerId,
    },
    /// A volume's tip is shared, or a snapshot has no volume.
    #[error("{what} {id} is not connected as it should be")]
    Links {
        /// What it is.
        what: &'static str,
        /// Its id.
        id: u64,
    },
    /// A number is beyond what the format allows, or cannot be counted on.
    #[error("{what} is {value}, and {most} is the most")]
    Beyond {
        /// What it counts.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The highest that is allowed.
        most: u64,
    },
    /// A segment owns what it may not.
    #[error("the segment of member {} from cluster {} on, at byte {offset}, {detail}", member.0, first.0)]
    Segment {
        /// The member.
        member: MemberIndex,
        /// The first cluster of the segment.
        first: ClusterNo,
        /// Where it lies on the member, in bytes.
        offset: u64,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// Something lies on a member that the pool has not.
    #[error("{what} {id} names member {}, which the pool does not have", member.0)]
    NoMember {
        /// What names it.
        what: &'static str,
        /// The id of what names it.
        id: u64,
        /// The member.
        member: MemberIndex,
    },
    /// Two volumes or snapshots share what only one may have.
    #[error("objects {} and {} are both called {shared}", one.0, other.0)]
    Twins {
        /// One object.
        one: ObjectId,
        /// The other object.
        other: ObjectId,
        /// What they share: a name or a UUID.
        shared: String,
    },
    /// An object cannot be logged or checkpointed again.
    #[error("{what} {id} takes {bytes} bytes, and {most} are possible")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its id.
        id: u64,
        /// What it takes.
        bytes: usize,
        /// What there is room for.
        most: usize,
    },
    /// A member could not be read.
    #[error(transparent)]
    Medium(#[from] MediumError),
}

/// What has to be proved on members that are missing: the member of each fragment, and the proofs
/// in the order of the Maps.
pub(crate) type ToProve = BTreeMap<Place, (MemberIndex, Vec<Proof>)>;

/// Where metadata is to be read.
pub(crate) struct Places<'a> {
    pub(crate) seed: Seed,
    pub(crate) cluster_size: ClusterSize,
    /// The slots of metadata members in sync.
    pub(crate) copies: Vec<usize>,
    pub(crate) slots: [&'a [Extent]; 2],
    pub(crate) log: &'a [Extent],
    /// A label of one of the copies, and the member table that counts.
    pub(crate) layout: &'a Label,
    pub(crate) table: &'a [LabelMember],
    /// Which slot each present member is.
    pub(crate) members: &'a BTreeMap<MemberIndex, usize>,
}

/// What replaying came to.
pub(crate) struct Replayed {
    pub(crate) state: State,
    pub(crate) alloc: Allocator,
    /// Where the log goes on.
    pub(crate) end: LogStart,
    /// The checkpoint that it came from: its slot and its header.
    pub(crate) slot: usize,
    pub(crate) header: SlotHeader,
    /// Entries that were replayed.
    pub(crate) entries: u64,
    /// Blocks that a power cut took back.
    pub(crate) taken_back: u64,
    /// Blocks that were proved: their member and byte offset.
    pub(crate) proved: Vec<(MemberIndex, u64)>,
    pub(crate) to_prove: ToProve,
}

/// Reads everything and comes to a state.
pub(crate) fn replay(medium: &mut dyn Medium, places: &Places<'_>) -> Result<Replayed, Damage> {
    let (slot, header) = newest_slot(medium, places)?;
    acceptance::check_slot(slot, &header, places.slots)?;
    let mut replay = Replay {
        state: State::new(places.cluster_size),
        fragments: 0,
        fragments_most: acceptance::fragments_most(places.slots),
        last: None,
        covered: Vec::new(),
        known: BTreeSet::new(),
        proofs: FxHashMap::default(),
    };
    replay.state.next_layer = header.next_layer.0;
    replay.state.next_object = header.next_object.0;
    load_chunks(medium, places, slot, &header, &mut replay)?;
    let (entries, end) = read_log(medium, places, &header)?;
    if let Some(&(_, lsn)) = replay.covered.iter().find(|&&(_, lsn)| lsn >= end.lsn) {
        // The header was written when all of them were on stable media.
        return Err(Damage::Behind { generation: header.generation, lsn, end: end.lsn });
    }
    let settled = settled(&entries, places.cluster_size)?;
    for (lsn, payload) in &entries {
        for op in Decoder::new(payload, places.cluster_size.blocks()) {
            let op = op.map_err(|malformed| Damage::Operation { lsn: *lsn, malformed })?;
            replay.apply(*lsn, op, &settled)?;
            replay.check_bounds()?;
        }
    }
    replay.check_links()?;
    acceptance::check_objects(&replay.state, places.table.len())?;
    acceptance::check_segments(&replay.state, places.table, places.layout)?;
    acceptance::check_lengths(&replay.state, payload_max(&Ring::new(places.log)))?;
    let Proved { taken_back, proved, to_prove } = replay.prove(medium, places)?;
    let alloc = replay.allocate(places)?;
    Ok(Replayed {
        state: replay.state,
        alloc,
        end,
        slot,
        header,
        entries: entries.len() as u64,
        taken_back,
        proved,
        to_prove,
    })
}

/// What came of blocks that have to be proved.
#[derive(Default)]
struct Proved {
    taken_back: u64,
    proved: Vec<(MemberIndex, u64)>,
    to_prove: ToProve,
}

/// The newest slot header that verifies anywhere.
fn newest_slot(
    medium: &mut dyn Medium,
    places: &Places<'_>,
) -> Result<(usize, SlotHeader), Damage> {
    let mut newest: Option<(usize, SlotHeader)> = None;
    for slot in 0..2 {
        let (offset, _) = Ring::new(places.slots[slot]).locate(0);
        let mut found = false;
        let mut unread = None;
        for &copy in &places.copies {
            let mut bytes = vec![0; SLOT_HEADER];
            if let Err(error) = medium.read(copy, offset, &mut bytes) {
                unread = Some(error);
                continue;
            }
            let Ok(header) = decode_slot(places.seed, &bytes) else { continue };
            found = true;
            if newest.as_ref().is_none_or(|(_, other)| header.generation > other.generation) {
                newest = Some((slot, header));
            }
        }
        // What cannot be read may be the newest header: it is not the same as not being there.
        if let (false, Some(error)) = (found, unread) {
            return Err(error.into());
        }
    }
    newest.ok_or(Damage::NoCheckpoint)
}

fn load_chunks(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    slot: usize,
    header: &SlotHeader,
    replay: &mut Replay,
) -> Result<(), Damage> {
    let ring = Ring::new(places.slots[slot]);
    let generation = header.generation;
    let mut position = SLOT_HEADER as u64;
    let mut checksums = Vec::new();
    for index in 0..header.chunks {
        if position >= ring.length() {
            return Err(Damage::Slot {
                generation,
                detail: "states more chunks than its slot holds",
            });
        }
        let FoundChunk { place, header: chunk, checksum, bytes } =
            find_chunk(medium, places, &ring, generation, index, position)?;
        let payload = &bytes[CHUNK_HEADER..][..to_usize(chunk.payload_length)];
        position = place + u64::from(chunk.blocks) * BLOCK;
        checksums.push(checksum);
        let order = Damage::Order { generation, index };
        if replay.last.is_some_and(|last| last >= chunk.first) {
            return Err(order);
        }
        replay.covered.push((chunk.first, chunk.lsn));
        for op in Decoder::new(payload, places.cluster_size.blocks()) {
            let op = op.map_err(|malformed| Damage::Operation { lsn: chunk.lsn, malformed })?;
            let (least, most) = chunk_keys(&op).ok_or_else(|| order.clone())?;
            // The Maps of a fragment come after it.
            let again = matches!(op, Op::Map { .. }) && replay.last == Some(least);
            if least < chunk.first || !again && replay.last.is_some_and(|last| last >= least) {
                return Err(order);
            }
            replay.last = Some(most);
            replay.load(chunk.lsn, op)?;
            replay.check_bounds()?;
        }
    }
    if position - SLOT_HEADER as u64 != header.chunk_bytes {
        return Err(Damage::Slot {
            generation,
            detail: "states another length than its chunks have",
        });
    }
    if checksum::of_checksums(places.seed, checksums) != header.chunks_checksum {
        return Err(Damage::Mixed { generation });
    }
    Ok(())
}

/// Where a structure may begin that follows one ending at `position`: there, or at the start
/// of the next extent.
pub(crate) fn candidates(ring: &Ring, position: u64) -> Vec<u64> {
    let (_, left) = ring.locate(position);
    if left == ring.length() { vec![position] } else { vec![position, position + left] }
}

/// A chunk that is intact on some copy.
pub(crate) struct FoundChunk {
    /// Where in the slot it begins.
    pub(crate) place: u64,
    pub(crate) header: checkpoint::ChunkHeader,
    pub(crate) checksum: u64,
    /// All of it.
    pub(crate) bytes: Vec<u8>,
}

/// Chunk `index` of a checkpoint, which follows a structure that ends at `position`, from
/// whichever copy has it.
///
/// # Errors
///
/// [`Damage::Chunk`] when none has.
pub(crate) fn find_chunk(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    ring: &Ring,
    generation: u64,
    index: u32,
    position: u64,
) -> Result<FoundChunk, Damage> {
    let mut wrong = None;
    for place in candidates(ring, position) {
        for &copy in &places.copies {
            match read_chunk(medium, places.seed, copy, ring, place) {
                Ok(chunk)
                    if chunk.header.generation == generation && chunk.header.index == index =>
                {
                    return Ok(chunk);
                }
                Ok(_) => {}
                Err(malformed) => wrong = Some(malformed),
            }
        }
    }
    let other = || checkpoint::chunk_error("header", "is that of another chunk");
    Err(Damage::Chunk { generation, index, position, malformed: wrong.unwrap_or_else(other) })
}

fn read_chunk(
    medium: &mut dyn Medium,
    seed: Seed,
    copy: usize,
    ring: &Ring,
    place: u64,
) -> Result<FoundChunk, Malformed> {
    let (offset, left) = ring.locate(place);
    let mut bytes = vec![0; BLOCK_LEN];
    if medium.read(copy, offset, &mut bytes).is_ok()
        && let Some(header) = read_chunk_header(&bytes)
    {
        let length = u64::from(header.blocks) * BLOCK;
        if length <= left.min(CHUNK_MAX as u64) {
            let mut whole = vec![0; usize::try_from(length).expect("at most 64 KiB")];
            if medium.read(copy, offset, &mut whole).is_ok() {
                bytes = whole;
            }
        }
    }
    let (header, checksum, _) = checkpoint::verify_chunk(seed, &bytes)?;
    Ok(FoundChunk { place, header, checksum, bytes })
}

fn to_usize(bytes: u32) -> usize {
    usize::try_from(bytes).expect("at most a chunk")
}

/// The highest settled LSN of each member. Refuses an entry that names more logical clusters than
/// the store ever puts into one: replaying it would take far longer than reading it.
fn settled(
    entries: &Entries,
    cluster_size: ClusterSize,
) -> Result<BTreeMap<MemberIndex, Lsn>, Damage> {
    let mut settled: BTreeMap<MemberIndex, Lsn> = BTreeMap::new();
    for (lsn, payload) in entries {
        let mut clusters = 0;
        for op in Decoder::new(payload, cluster_size.blocks()) {
            let op = op.map_err(|malformed| Damage::Operation { lsn: *lsn, malformed })?;
            clusters += op.logical_clusters(cluster_size.blocks());
            if clusters > ENTRY_CLUSTERS_MAX {
                let malformed = entry::too_many_clusters(clusters);
                return Err(Damage::Operation { lsn: *lsn, malformed });
            }
            if let Op::Settled { member, lsn } = op {
                let newest = settled.entry(member).or_insert(lsn);
                *newest = (*newest).max(lsn);
            }
        }
    }
    Ok(settled)
}

/// The proofs of one block that has to be proved.
struct Unproved {
    layer: LayerId,
    at: LogicalCluster,
    proofs: Vec<u64>,
    /// It was lost before: what proves nothing is lost again.
    lost: bool,
}

struct Replay {
    state: State,
    /// How many fragments the layers hold together, and may hold.
    fragments: u64,
    fragments_most: u64,
    /// The last key of the chunks so far.
    last: Option<Key>,
    /// The first key of each chunk and the LSN of its state, in the order of keys.
    covered: Vec<(Key, Lsn)>,
    /// Layers that were put, not only written to.
    known: BTreeSet<LayerId>,
    proofs: FxHashMap<(ClusterNo, u16), Unproved>,
}

impl Replay {
    /// Takes an operation from a chunk whose state is that after entry `lsn`.
    fn load(&mut self, lsn: Lsn, op: Op) -> Result<(), Damage> {
        match op {
            Op::Map { layer, at, cluster, first, proofs } => {
                // No Settled operation speaks of a member that is not there.
                self.map(lsn, layer, at, cluster, first, &proofs, &BTreeMap::new())?;
            }
            Op::Fragments { layer, items } => {
                self.state.ensure_layer(layer);
                for (at, fragment) in items {
                    // Keys ascend, so that there was none before.
                    self.count(true, fragment.is_absent());
                    self.state.set_fragment(layer, at, fragment)?;
                }
            }
            op => self.put(&op)?,
        }
        Ok(())
    }

    /// A fragment has changed.
    fn count(&mut self, was_absent: bool, is_absent: bool) {
        self.fragments += u64::from(was_absent);
        self.fragments -= u64::from(is_absent);
    }

    /// Refuses what would take memory out of all proportion to the pool.
    fn check_bounds(&self) -> Result<(), Damage> {
        acceptance::check_layers(&self.state)?;
        check_most("the number of fragments", self.fragments, self.fragments_most)?;
        let unsettled = self.proofs.len() as u64;
        let most = UNSETTLED_MAX * self.state.members.len().max(1);
        check_most("the number of unsettled blocks", unsettled, most as u64)
    }

    fn put(&mut self, op: &Op) -> Result<(), Damage> {
        match op {
            Op::PutLayer { layer, .. } => {
                self.known.insert(*layer);
            }
            Op::DropLayer { layer } => {
                self.known.remove(layer);
            }
            _ => {}
        }
        Ok(self.state.apply_object(op)?)
    }

    /// Whether an entry counts for a key.
    fn counts(&self, lsn: Lsn, class: Class, first: u64, second: u32) -> bool {
        let key = Key { class, first, second };
        let after = self.covered.partition_point(|(first, _)| *first <= key);
        after == 0 || self.covered[after - 1].1 < lsn
    }

    /// Applies an operation of entry `lsn` as far as the checkpoint does not contain it.
    fn apply(
        &mut self,
        lsn: Lsn,
        op: Op,
        settled: &BTreeMap<MemberIndex, Lsn>,
    ) -> Result<(), Damage> {
        let blocks = self.state.blocks();
        match op {
            Op::Map { layer, at, cluster, first, proofs } => {
                if self.counts(lsn, Class::Fragment, u64::from(layer.0), at.0) {
                    self.map(lsn, layer, at, cluster, first, &proofs, settled)?;
                }
            }
            Op::Unmap { layer, opaque, first_block, blocks: count } => {
                let size = self.state.cluster_size;
                let mut block = first_block;
                while block < first_block + count {
                    let (at, first) = size.split(block);
                    let run = (first_block + count - block).min(u64::from(blocks - first));
                    block += run;
                    let run = u16::try_from(run).expect("within a cluster");
                    if self.counts(lsn, Class::Fragment, u64::from(layer.0), at.0) {
                        self.state.ensure_layer(layer);
                        let (before, _) = self.state.unmap_blocks(layer, at, first, run, opaque)?;
                        let after = self.state.fragment(layer, at);
                        self.count(before.is_absent(), after.is_absent());
                        self.forget(before.cluster, BlockSet::range(first, run));
                    }
                }
            }
            Op::Fragments { layer, items } => {
                for (at, fragment) in items {
                    if self.counts(lsn, Class::Fragment, u64::from(layer.0), at.0) {
                        self.state.ensure_layer(layer);
                        let before = self.state.fragment(layer, at);
                        self.forget(before.cluster, BlockSet::full(blocks));
                        self.forget(fragment.cluster, BlockSet::full(blocks));
                        self.count(before.is_absent(), fragment.is_absent());
                        self.state.set_fragment(layer, at, fragment)?;
                    }
                }
            }
            Op::Settled { .. } => {}
            op => {
                let (class, first) = object_key(&op);
                if self.counts(lsn, class, first, 0) {
                    self.put(&op)?;
                }
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a Map")]
    fn map(
        &mut self,
        lsn: Lsn,
        layer: LayerId,
        at: LogicalCluster,
        cluster: ClusterNo,
        first: u16,
        proofs: &[u64],
        settled: &BTreeMap<MemberIndex, Lsn>,
    ) -> Result<(), Damage> {
        let count = u16::try_from(proofs.len()).expect("the decoder bounds it");
        self.state.ensure_layer(layer);
        let before = self.state.map_blocks(layer, at, cluster, first, count)?;
        self.count(before.is_absent(), false);
        let member = self.state.member_of(cluster);
        let is_settled =
            member.and_then(|member| settled.get(&member)).is_some_and(|&settled| lsn <= settled);
        for (block, &proof) in (first..).zip(proofs) {
            let one = BlockSet::range(block, 1);
            if proof == LOST {
                self.proofs.remove(&(cluster, block));
                self.state.lose(cluster, one);
                continue;
            }
            let lost = self.state.is_lost(cluster, block, 1);
            if lost {
                self.state.rewrite_lost(cluster, one);
            }
            if is_settled {
                self.proofs.remove(&(cluster, block));
                continue;
            }
            let fresh = !before.valid.contains(block) || lost;
            let unproved = if fresh {
                // A block that was unmapped since begins anew.
                let unproved = Unproved { layer, at, proofs: Vec::new(), lost };
                self.proofs.insert((cluster, block), unproved);
                self.proofs.get_mut(&(cluster, block))
            } else {
                self.proofs.get_mut(&(cluster, block))
            };
            if let Some(unproved) = unproved {
                unproved.proofs.push(proof);
            }
        }
        Ok(())
    }

    fn forget(&mut self, cluster: Option<ClusterNo>, blocks: BlockSet) {
        let Some(cluster) = cluster else { return };
        if self.proofs.is_empty() {
            return;
        }
        for (first, count) in blocks.runs() {
            for block in first..first + count {
                self.proofs.remove(&(cluster, block));
            }
        }
    }

    /// Reads the blocks that have to be proved and takes back those that cannot. What lies on a
    /// missing member stays to be proved.
    fn prove(&mut self, medium: &mut dyn Medium, places: &Places<'_>) -> Result<Proved, Damage> {
        let mut blocks: Vec<((ClusterNo, u16), Unproved)> =
            core::mem::take(&mut self.proofs).into_iter().collect();
        blocks.sort_unstable_by_key(|&(place, _)| place);
        let mut found = Proved::default();
        let mut content = vec![0; BLOCK_LEN];
        for ((cluster, block), unproved) in blocks {
            let Unproved { layer, at, proofs, lost } = unproved;
            let Some((member, offset)) = self.state.locate(cluster, block) else {
                return Err(Damage::Cluster { cluster, layer });
            };
            let Some(&slot) = places.members.get(&member) else {
                let kept = &mut found.to_prove.entry((layer, at)).or_insert((member, Vec::new())).1;
                kept.extend(lost.then_some((block, LOST)));
                kept.extend(proofs.into_iter().map(|proof| (block, proof)));
                if kept.len() > FRAGMENT_PROOFS_MAX {
                    let (value, most) = (kept.len() as u64, FRAGMENT_PROOFS_MAX as u64);
                    return Err(Damage::Beyond { what: "the number of proofs", value, most });
                }
                continue;
            };
            medium.read(slot, offset, &mut content)?;
            if proofs.contains(&checksum::proof(places.seed, &content)) {
                found.proved.push((member, offset));
                continue;
            }
            found.taken_back += 1;
            if lost {
                self.state.lose(cluster, BlockSet::range(block, 1));
                continue;
            }
            let mut fragment = self.state.fragment(layer, at);
            fragment.valid.remove_range(block, 1);
            if fragment.valid.is_empty() {
                fragment.cluster = None;
            }
            self.state.set_fragment(layer, at, fragment)?;
        }
        Ok(found)
    }

    /// Every layer that is named exists, and the layers form trees.
    fn check_links(&self) -> Result<(), Damage> {
        let state = &self.state;
        for (&id, layer) in &state.layers {
            if !self.known.contains(&id) {
                return Err(Inconsistent::NoLayer(id).into());
            }
            // Parents are older than their children, so there is no cycle.
            if let Some(parent) = layer.parent {
                acceptance::check_parent(state, id, parent)?;
            }
        }
        for (id, volume) in &state.volumes {
            let Some(tip) = volume.tip else { continue };
            if !state.layers.contains_key(&tip) {
                return Err(Damage::NoLayer { what: "volume", id: id.0, layer: tip });
            }
            let links = state.tree.links(tip);
            if links.names != 1 || links.children != 0 {
                return Err(Damage::Links { what: "the tip of volume", id: id.0 });
            }
        }
        for (&ObjectId(id), snapshot) in &state.snapshots {
            let layer = snapshot.layer;
            if !state.layers.contains_key(&layer) {
                return Err(Damage::NoLayer { what: "snapshot", id, layer });
            }
            if !state.volumes.contains_key(&snapshot.volume) {
                return Err(Damage::Links { what: "snapshot", id });
            }
        }
        Ok(())
    }

    /// Finds the free space, and that every cluster has one owner.
    fn allocate(&self, places: &Places<'_>) -> Result<Allocator, Damage> {
        let mut alloc = Allocator::new();
        for (&member, segments) in &self.state.members {
            for &segment in segments {
                alloc.add(member, segment, places.members.contains_key(&member));
            }
        }
        for (&layer, content) in &self.state.layers {
            for (_, Fragment { cluster, .. }) in content.map.iter() {
                let Some(cluster) = cluster else { continue };
                if !alloc.claim(cluster) {
                    return Err(Damage::Cluster { cluster, layer });
                }
            }
        }
        Ok(alloc)
    }
}

fn object_key(op: &Op) -> (Class, u64) {
    match op {
        Op::PutLayer { layer, .. } | Op::DropLayer { layer } => (Class::Layer, u64::from(layer.0)),
        Op::PutVolume(record) => (Class::Volume, record.id.0),
        Op::DropVolume { volume } => (Class::Volume, volume.0),
        Op::PutSnapshot(record) => (Class::Snapshot, record.id.0),
        Op::DropSnapshot { snapshot } => (Class::Snapshot, snapshot.0),
        _ => (Class::Pool, 0),
    }
}

/// The first and the last key of what an operation in a chunk holds; none when it does not belong
/// into a chunk.
fn chunk_keys(op: &Op) -> Option<(Key, Key)> {
    let key = |class, first, second| Key { class, first, second };
    match op {
        Op::Fragments { layer, items } => {
            let at = |(at, _): &(LogicalCluster, _)| key(Class::Fragment, u64::from(layer.0), at.0);
            items.first().map(at).zip(items.last().map(at))
        }
        Op::Map { layer, at, .. } => {
            let key = key(Class::Fragment, u64::from(layer.0), at.0);
            Some((key, key))
        }
        // Members come after the pool, which has the least key.
        Op::PutMember { member, .. } => {
            let key = key(Class::Pool, 1 + u64::from(member.0), 0);
            Some((key, key))
        }
        Op::PutPool(_) | Op::PutLayer { .. } | Op::PutVolume(_) | Op::PutSnapshot(_) => {
            let (class, first) = object_key(op);
            Some((key(class, first, 0), key(class, first, 0)))
        }
        _ => None,
    }
}
