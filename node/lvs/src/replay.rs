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

use crate::{
    acceptance::{self, check_most},
    alloc::Allocator,
    blocks::BlockSet,
    chunks::{FoundChunk, find_chunk, newest_slot},
    damage::Damage,
    format::{
        checkpoint::{CHUNK_HEADER, Class, Key, SLOT_HEADER, SlotHeader},
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
    medium::Medium,
    scan::{Entries, ReadLog, read_log},
    settle::{FRAGMENT_PROOFS_MAX, Place, Proof},
    state::{Inconsistent, State},
    store::UNSETTLED_MAX,
};

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

/// What is told of each damage beyond which there is more to be seen. With an error reading ends.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Damage) -> Result<(), Damage>;

/// Reads everything and comes to a state, or to the first damage.
pub(crate) fn replay(medium: &mut dyn Medium, places: &Places<'_>) -> Result<Replayed, Damage> {
    replay_telling(medium, places, &mut Err)
}

/// As [`replay`], but goes on behind damage as far as that makes sense, if `tell` lets it. The state
/// that comes of it is good for looking on only.
pub(crate) fn replay_telling(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    tell: Tell<'_>,
) -> Result<Replayed, Damage> {
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
    let ReadLog { entries, end, missing } = read_log(medium, places, &header)?;
    if let Some(missing) = missing {
        tell(missing)?;
    } else if let Some(&(_, lsn)) = replay.covered.iter().find(|&&(_, lsn)| lsn >= end.lsn) {
        // The header was written when all of them were on stable media.
        tell(Damage::Behind { generation: header.generation, lsn, end: end.lsn })?;
    }
    let settled = settled(&entries, places.cluster_size)?;
    for (lsn, payload) in &entries {
        for op in Decoder::new(payload, places.cluster_size.blocks()) {
            let op = op.map_err(|malformed| Damage::Operation { lsn: *lsn, malformed })?;
            replay.apply(*lsn, op, &settled)?;
            replay.check_bounds()?;
        }
    }
    replay.check_links(tell)?;
    acceptance::check_objects(&replay.state, places.table.len()).or_else(&mut *tell)?;
    // Without sound segments nothing can be said of clusters.
    acceptance::check_segments(&replay.state, places.table, places.layout)?;
    acceptance::check_lengths(&replay.state, payload_max(&Ring::new(places.log)))
        .or_else(&mut *tell)?;
    let Proved { taken_back, proved, to_prove } = replay.prove(medium, places, tell)?;
    let alloc = replay.allocate(places, tell)?;
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
    fn prove(
        &mut self,
        medium: &mut dyn Medium,
        places: &Places<'_>,
        tell: Tell<'_>,
    ) -> Result<Proved, Damage> {
        let mut blocks: Vec<((ClusterNo, u16), Unproved)> =
            core::mem::take(&mut self.proofs).into_iter().collect();
        blocks.sort_unstable_by_key(|&(place, _)| place);
        let mut found = Proved::default();
        let mut content = vec![0; BLOCK_LEN];
        for ((cluster, block), unproved) in blocks {
            let Unproved { layer, at, proofs, lost } = unproved;
            let Some((member, offset)) = self.state.locate(cluster, block) else {
                tell(Damage::Cluster { cluster, layer })?;
                continue;
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
    fn check_links(&self, tell: Tell<'_>) -> Result<(), Damage> {
        let state = &self.state;
        for (&id, layer) in &state.layers {
            if !self.known.contains(&id) {
                tell(Inconsistent::NoLayer(id).into())?;
            }
            // Parents are older than their children, so there is no cycle.
            if let Some(parent) = layer.parent {
                acceptance::check_parent(state, id, parent).or_else(&mut *tell)?;
            }
        }
        for (id, volume) in &state.volumes {
            let Some(tip) = volume.tip else { continue };
            if !state.layers.contains_key(&tip) {
                tell(Damage::NoLayer { what: "volume", id: id.0, layer: tip })?;
            }
            let links = state.tree.links(tip);
            if links.names != 1 || links.children != 0 {
                tell(Damage::Links { what: "the tip of volume", id: id.0 })?;
            }
        }
        for (&ObjectId(id), snapshot) in &state.snapshots {
            let layer = snapshot.layer;
            if !state.layers.contains_key(&layer) {
                tell(Damage::NoLayer { what: "snapshot", id, layer })?;
            }
            if !state.volumes.contains_key(&snapshot.volume) {
                tell(Damage::Links { what: "snapshot", id })?;
            }
        }
        Ok(())
    }

    /// Finds the free space, and that every cluster has one owner.
    fn allocate(&self, places: &Places<'_>, tell: Tell<'_>) -> Result<Allocator, Damage> {
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
                    tell(Damage::Cluster { cluster, layer })?;
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
