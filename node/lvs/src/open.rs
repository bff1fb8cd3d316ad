//! Creating a pool, and opening one: which members belong together, and who goes on.
//!
//! ```text
//!   labels -> complete? in sync? -> replay -> flush -> new incarnation -> checkpoint -> Store
//! ```
//!
//! Opening ends with a checkpoint, so that everything which a power cut left to be proved
//! is decided once, and the log begins empty. Until its header is written, the old
//! checkpoint and the log are untouched: a crash while opening changes nothing.
//!
//! Source: `docs/formats/lvs.md` sections 2 and 7.

use std::collections::BTreeMap;

use fathom_units::{ByteCount, ByteOffset};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    format::{
        Malformed,
        checkpoint::{
            CHUNK_HEADER, ChunkHeader, Key, SLOT_HEADER, SlotHeader, encode_slot, seal_chunk,
        },
        checksum::{self, Seed},
        label::{
            self, DATA_OFFSET, Extent, FEATURE_EXTENTS_MAX, Features, LABEL_SIZE, Label,
            LabelMember, MemberRole,
        },
        op::PoolRecord,
    },
    geometry::{
        BLOCK, BLOCK_LEN, CLUSTERS_MAX, ClusterNo, ClusterSize, LayerId, Lsn, MEMBERS_MAX,
        MemberIndex, ObjectId, Segment,
    },
    log::{Log, LogStart, Ring},
    medium::{Medium, MediumError},
    replay::{Damage, Places, Replayed, replay},
    state::State,
    store::{Opened, Store},
};

/// The smallest log, in bytes.
const LOG_MIN: u64 = 64 << 10;
/// The smallest checkpoint slot, in bytes: room for some volumes beside what every checkpoint takes.
const SLOT_MIN: u64 = 192 << 10;
/// Bytes at the start of a member that have to be zero, if it is not to be taken for somebody
/// else's.
const FOREIGN_BYTES: usize = 64 << 10;

/// A member of a pool to be created, in the order of slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewMember {
    /// Its UUID, random.
    pub uuid: Uuid,
}

/// A pool to be created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewPool {
    /// Its name, 1 to 63 bytes.
    pub name: String,
    /// Its UUID, random: it seeds every checksum.
    pub uuid: Uuid,
    /// Its members, one for each slot of the medium.
    pub members: Vec<NewMember>,
    /// The cluster size.
    pub cluster_size: ClusterSize,
    /// When it is created, in nanoseconds since 1970.
    pub created_ns: u64,
    /// What can be set later on.
    pub record: PoolRecord,
    /// Bytes of the log; by the pool's size when not given.
    pub log_bytes: Option<u64>,
    /// Bytes of a checkpoint slot; by the pool's size when not given.
    pub slot_bytes: Option<u64>,
    /// Overwrite what is on the members.
    pub force: bool,
}

/// Why a pool was not created. Nothing was written, but for [`CreateError::Medium`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CreateError {
    /// A pool has 1 to 16 members, one for each slot.
    #[error("a pool has 1 to {MEMBERS_MAX} members, not {0}")]
    Members(usize),
    /// A member belongs to a pool.
    #[error("member {slot} belongs to pool \"{pool}\" ({uuid}); force would destroy it")]
    Labelled {
        /// The slot.
        slot: usize,
        /// The name of the pool.
        pool: String,
        /// Its UUID.
        uuid: Uuid,
    },
    /// A member is not empty.
    #[error("member {slot} is not empty: byte {offset} is in use; force would destroy it")]
    Foreign {
        /// The slot.
        slot: usize,
        /// The first byte that is not zero.
        offset: u64,
    },
    /// A member has no room for the metadata and one cluster.
    #[error("member {slot} has {size}, and needs {needed} at least")]
    TooSmall {
        /// The slot.
        slot: usize,
        /// Its size.
        size: ByteCount,
        /// The least size.
        needed: ByteCount,
    },
    /// The log cannot hold the largest operation on a cluster.
    #[error("a log of {size} is too small for this cluster size; {needed} are needed")]
    LogTooSmall {
        /// The size asked for.
        size: ByteCount,
        /// The least size.
        needed: ByteCount,
    },
    /// A checkpoint slot cannot hold the metadata of the clusters that the pool has.
    #[error("a checkpoint slot of {size} is too small for this pool; {needed} are needed")]
    SlotTooSmall {
        /// The size asked for.
        size: ByteCount,
        /// The least size.
        needed: ByteCount,
    },
    /// The members have more clusters than can be numbered.
    #[error("the pool would have more than {CLUSTERS_MAX} clusters; choose a larger cluster size")]
    TooLarge,
    /// A value is not allowed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A member failed; the pool is not usable.
    #[error(transparent)]
    Medium(#[from] MediumError),
}

/// How to open a pool.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OpenOptions {
    /// Open it though members are missing or have a stale metadata copy.
    pub degraded: bool,
}

/// Why a pool was not opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OpenError {
    /// There is nothing to open.
    #[error("no members were given")]
    NoMembers,
    /// A member has no label.
    #[error("member {slot} belongs to no pool: {malformed}")]
    Foreign {
        /// The slot.
        slot: usize,
        /// What stands where the label should.
        malformed: Malformed,
    },
    /// No label copy of a member is intact.
    #[error("member {slot} has no intact label copy: {malformed}")]
    Label {
        /// The slot.
        slot: usize,
        /// What is wrong with the first one.
        malformed: Malformed,
    },
    /// The members are of different pools.
    #[error("member {slot} belongs to pool {found}, the others to {expected}")]
    OtherPool {
        /// The slot.
        slot: usize,
        /// Its pool.
        found: Uuid,
        /// The pool of slot 0.
        expected: Uuid,
    },
    /// Two slots say that they are the same member.
    #[error("slots {first} and {second} both claim to be member {uuid}: one is a copy")]
    Duplicate {
        /// One slot.
        first: usize,
        /// The other slot.
        second: usize,
        /// The member's UUID.
        uuid: Uuid,
    },
    /// A member is smaller than it was.
    #[error("member {slot} has {size}, and had {expected}")]
    Shrunk {
        /// The slot.
        slot: usize,
        /// Its size.
        size: ByteCount,
        /// Its size by the label.
        expected: ByteCount,
    },
    /// Members are missing.
    #[error("member {} ({uuid}) of pool \"{pool}\" is missing; open it degraded to go on without", member.0)]
    Missing {
        /// The pool's name.
        pool: String,
        /// The missing member.
        member: MemberIndex,
        /// Its UUID.
        uuid: Uuid,
    },
    /// A member's metadata copy missed a write.
    #[error("member {} of pool \"{pool}\" missed metadata since incarnation {since}; open it degraded to go on without its copy", member.0)]
    Stale {
        /// The pool's name.
        pool: String,
        /// The member.
        member: MemberIndex,
        /// The incarnation in which it missed it.
        since: u64,
    },
    /// Two members each say that the other one is stale: both were used without the other.
    #[error("members of pool \"{pool}\" were used apart: member {} went on without member {}, and the other way around; keep one of them", one.0, other.0)]
    Diverged {
        /// The pool's name.
        pool: String,
        /// One member.
        one: MemberIndex,
        /// The other.
        other: MemberIndex,
    },
    /// Labels that should agree do not.
    #[error(
        "slot {slot}: its label names other members, extents or a cluster size than that of slot {other}"
    )]
    Disagree {
        /// A slot.
        slot: usize,
        /// A slot with another label.
        other: usize,
    },
    /// No member has a metadata copy that can be used.
    #[error("no metadata copy of pool \"{0}\" is present and in sync")]
    NoCopy(String),
    /// The pool uses a feature that this program does not know.
    #[error("pool \"{pool}\" uses {kind} feature {bit}, which this version does not know")]
    Feature {
        /// The pool's name.
        pool: String,
        /// Incompatible or read-only-compatible.
        kind: &'static str,
        /// The number of the feature's bit.
        bit: u32,
    },
    /// The metadata is damaged.
    #[error("pool \"{pool}\": {damage}")]
    Damaged {
        /// The pool's name.
        pool: String,
        /// Where and how.
        damage: Damage,
    },
    /// The metadata is larger than its checkpoint slot.
    #[error("the metadata of pool \"{0}\" does not fit its checkpoint slot")]
    SlotFull(String),
    /// A member failed.
    #[error(transparent)]
    Medium(#[from] MediumError),
}

/// An opened pool.
pub struct Opening {
    /// The pool, ready to be driven.
    pub store: Store,
    /// Its name.
    pub name: String,
    /// Which slot each present member is.
    pub members: BTreeMap<MemberIndex, usize>,
    /// Log entries that were replayed.
    pub replayed: u64,
    /// Blocks that a power cut took back: written, never flushed, and not on the medium.
    pub taken_back: u64,
}

/// Creates a pool on the slots of `medium`. On return it is on stable media.
///
/// # Errors
///
/// When the members cannot be used or a value is not allowed.
pub fn create(medium: &mut dyn Medium, new: &NewPool) -> Result<(), CreateError> {
    let count = medium.slots();
    if count == 0 || count > MEMBERS_MAX || new.members.len() != count {
        return Err(CreateError::Members(count));
    }
    new.record.check()?;
    if !new.force {
        for slot in 0..count {
            refuse_foreign(medium, slot)?;
        }
    }
    let sizes: Vec<u64> = (0..count).map(|slot| medium.size(slot) / BLOCK * BLOCK).collect();
    let (slot_bytes, log_bytes) = metadata_bytes(new, sizes.iter().sum());
    if slot_bytes < SLOT_MIN {
        let (size, needed) = (ByteCount(slot_bytes), ByteCount(SLOT_MIN));
        return Err(CreateError::SlotTooSmall { size, needed });
    }
    // An entry is at most a 32nd of the log, but for the smallest logs, and holds a proof for
    // each block of a cluster.
    let entry = u64::from(new.cluster_size.blocks()) * 8 + 256;
    let needed = if entry <= BLOCK { LOG_MIN } else { 32 * entry.next_multiple_of(BLOCK) };
    if log_bytes < needed {
        let (size, needed) = (ByteCount(log_bytes), ByteCount(needed));
        return Err(CreateError::LogTooSmall { size, needed });
    }
    let layout = |slot: usize| {
        let metadata = if slot < 2 { 2 * slot_bytes + log_bytes } else { 0 };
        (DATA_OFFSET + metadata).next_multiple_of(u64::from(new.cluster_size.bytes()))
    };
    let mut state = State::new(new.cluster_size);
    state.pool = new.record.clone();
    let mut first = 0;
    for (slot, &size) in sizes.iter().enumerate() {
        let data = layout(slot);
        let cluster = u64::from(new.cluster_size.bytes());
        let clusters = size.saturating_sub(data + LABEL_SIZE as u64) / cluster;
        if clusters == 0 {
            let needed = ByteCount(data + cluster + LABEL_SIZE as u64);
            return Err(CreateError::TooSmall { slot, size: ByteCount(size), needed });
        }
        let clusters = u32::try_from(clusters).map_err(|_| CreateError::TooLarge)?;
        let segment = Segment { first: ClusterNo(first), clusters, offset: ByteOffset(data) };
        let next = first.checked_add(clusters).filter(|&next| next <= CLUSTERS_MAX);
        first = next.ok_or(CreateError::TooLarge)?;
        let index = MemberIndex(u16::try_from(slot).expect("16 at most"));
        state.members.insert(index, vec![segment]);
    }
    let role = |slot| if slot < 2 { MemberRole::DataAndMetadata } else { MemberRole::Data };
    let table: Vec<LabelMember> = (0..count)
        .map(|slot| LabelMember {
            uuid: new.members[slot].uuid,
            size: sizes[slot],
            role: role(slot),
            stale_since: None,
        })
        .collect();
    let extent = |slot: usize, offset: u64, length: u64| {
        let extent = Extent { offset, length };
        if slot < 2 { vec![extent] } else { Vec::new() }
    };
    let labels: Vec<Label> = (0..count)
        .map(|slot| Label {
            generation: 1,
            incarnation: 1,
            pool: new.uuid,
            member: new.members[slot].uuid,
            index: MemberIndex(u16::try_from(slot).expect("16 at most")),
            features: Features::default(),
            cluster_size: new.cluster_size,
            member_size: sizes[slot],
            created_ns: new.created_ns,
            name: new.name.clone(),
            slot_a: extent(slot, DATA_OFFSET, slot_bytes),
            slot_b: extent(slot, DATA_OFFSET + slot_bytes, slot_bytes),
            log: extent(slot, DATA_OFFSET + 2 * slot_bytes, log_bytes),
            members: table.clone(),
            feature_extents: [None; FEATURE_EXTENTS_MAX],
        })
        .collect();
    for label in &labels {
        label.check()?;
    }
    let start = LogStart { lsn: Lsn(1), position: 0, previous: 0 };
    let copies: Vec<usize> = (0..count.min(2)).collect();
    let seed = Seed::of_pool(new.uuid);
    let written = write_checkpoint(medium, &copies, &labels[0].slot_a, seed, &state, 2, 1, start)?;
    assert!(written, "a checkpoint of an empty pool fits the smallest slot");
    for (slot, label) in labels.iter().enumerate() {
        write_label(medium, slot, label)?;
    }
    Ok(())
}

/// Bytes of a checkpoint slot and of the log, for members of `total` bytes.
fn metadata_bytes(new: &NewPool, total: u64) -> (u64, u64) {
    let clusters = new.cluster_size.clusters_for(total);
    let bitmaps = 2 * u64::from(new.cluster_size.blocks().div_ceil(64)) * 8;
    let objects = (total / 512).clamp(1 << 20, 64 << 20);
    let slot = new.slot_bytes.unwrap_or(clusters * (16 + bitmaps) + objects);
    let log = new.log_bytes.unwrap_or((total / 16384).clamp(4 << 20, 64 << 20));
    (slot.next_multiple_of(BLOCK), log.max(LOG_MIN).next_multiple_of(BLOCK))
}

fn refuse_foreign(medium: &mut dyn Medium, slot: usize) -> Result<(), CreateError> {
    let size = medium.size(slot);
    for offset in label::label_offsets(size) {
        let mut bytes = vec![0; LABEL_SIZE];
        if offset + LABEL_SIZE as u64 > size {
            continue;
        }
        medium.read(slot, offset, &mut bytes)?;
        if let Ok(label) = Label::decode(&bytes) {
            return Err(CreateError::Labelled { slot, pool: label.name, uuid: label.pool });
        }
    }
    let length = usize::try_from(size).unwrap_or(usize::MAX).min(FOREIGN_BYTES);
    let mut bytes = vec![0; length / LABEL_SIZE * LABEL_SIZE];
    medium.read(slot, 0, &mut bytes)?;
    match bytes.iter().position(|&byte| byte != 0) {
        Some(offset) => Err(CreateError::Foreign { slot, offset: offset as u64 }),
        None => Ok(()),
    }
}

/// Writes a label: copy 0, flush, copies 1 and 2, flush.
fn write_label(medium: &mut dyn Medium, slot: usize, label: &Label) -> Result<(), MediumError> {
    let bytes = label.encode();
    let [first, second, last] = label::label_offsets(label.member_size);
    medium.write(slot, first, &bytes)?;
    medium.flush(slot)?;
    medium.write(slot, second, &bytes)?;
    medium.write(slot, last, &bytes)?;
    medium.flush(slot)
}

/// Writes a whole checkpoint at once and makes it valid. Returns `false` when it does not fit.
#[expect(clippy::too_many_arguments, reason = "what a slot header holds")]
fn write_checkpoint(
    medium: &mut dyn Medium,
    copies: &[usize],
    extents: &[Extent],
    seed: Seed,
    state: &State,
    generation: u64,
    incarnation: u64,
    start: LogStart,
) -> Result<bool, MediumError> {
    let ring = Ring::new(extents);
    let mut position = SLOT_HEADER as u64;
    let mut checksums = Vec::new();
    let mut next = Some(Key::MIN);
    while let Some(first) = next {
        let (payload, after) = crate::checkpoint::capture(state, first);
        let length = (CHUNK_HEADER + payload.len()).next_multiple_of(BLOCK_LEN);
        let begin = ring.place(position, length as u64);
        if begin + length as u64 > ring.length() {
            return Ok(false);
        }
        let mut bytes = vec![0; length];
        bytes[CHUNK_HEADER..][..payload.len()].copy_from_slice(&payload);
        let header = ChunkHeader {
            generation,
            lsn: Lsn(start.lsn.0 - 1),
            index: u32::try_from(checksums.len()).expect("slots are bounded"),
            first,
            blocks: u16::try_from(length / BLOCK_LEN).expect("at most 16 blocks"),
            payload_length: u32::try_from(payload.len()).expect("at most 64 KiB"),
        };
        checksums.push(seal_chunk(seed, &header, &mut bytes));
        for &copy in copies {
            medium.write(copy, ring.locate(begin).0, &bytes)?;
        }
        position = begin + length as u64;
        next = after;
    }
    for &copy in copies {
        medium.flush(copy)?;
    }
    let header = SlotHeader {
        generation,
        start: start.lsn,
        position: start.position,
        previous: start.previous,
        incarnation,
        chunk_bytes: position - SLOT_HEADER as u64,
        chunks: u32::try_from(checksums.len()).expect("slots are bounded"),
        next_layer: LayerId(state.next_layer),
        next_object: ObjectId(state.next_object),
        chunks_checksum: checksum::of_checksums(seed, checksums),
    };
    let bytes = encode_slot(seed, &header);
    for &copy in copies {
        medium.write(copy, ring.locate(0).0, &bytes)?;
        medium.flush(copy)?;
    }
    Ok(true)
}

/// What checking a pool found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// The pool's name.
    pub name: String,
    /// Its UUID.
    pub pool: Uuid,
    /// Log entries since the last checkpoint.
    pub entries: u64,
    /// Blocks that a power cut took back: opening will not show them.
    pub taken_back: u64,
    /// Volumes, deleted ones that are kept for their snapshots among them.
    pub volumes: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Clusters in use.
    pub allocated_clusters: u64,
}

/// Verifies the pool on the slots of `medium` and changes nothing: labels, checkpoint and log, that
/// every cluster has one owner, and the blocks that have to be proved.
///
/// # Errors
///
/// What [`open`] would refuse.
pub fn check(medium: &mut dyn Medium, options: OpenOptions) -> Result<Checked, OpenError> {
    let Read { name, layout, replayed, .. } = read_pool(medium, options)?;
    Ok(Checked {
        name,
        pool: layout.pool,
        entries: replayed.entries,
        taken_back: replayed.taken_back,
        volumes: replayed.state.volumes.len(),
        snapshots: replayed.state.snapshots.len(),
        allocated_clusters: replayed.alloc.capacity() - replayed.alloc.free(),
    })
}

/// A pool as it was read, before anything is written.
struct Read {
    name: String,
    labels: Labels,
    members: BTreeMap<MemberIndex, usize>,
    /// The member table to go on with, and who becomes stale by it.
    table: Vec<LabelMember>,
    missed: Vec<MemberIndex>,
    /// The metadata members in sync and their slots.
    copies: Vec<(MemberIndex, usize)>,
    /// A label of one of them.
    layout: Label,
    replayed: Replayed,
}

fn read_pool(medium: &mut dyn Medium, options: OpenOptions) -> Result<Read, OpenError> {
    let labels = read_labels(medium)?;
    check_agreement(&labels)?;
    let members: BTreeMap<MemberIndex, usize> =
        labels.iter().map(|(&member, (slot, _))| (member, *slot)).collect();
    let newest = newest_label(&labels).clone();
    let name = newest.name.clone();
    if let Some((kind, bit)) = unknown_feature(&newest) {
        return Err(OpenError::Feature { pool: name, kind, bit });
    }
    let (table, missed) = membership(&labels, &newest, options)?;
    let copies: Vec<(MemberIndex, usize)> = members
        .iter()
        .map(|(&member, &slot)| (member, slot))
        .filter(|(member, _)| {
            let entry = &table[usize::from(member.0)];
            entry.role == MemberRole::DataAndMetadata && entry.stale_since.is_none()
        })
        .collect();
    let Some(&(first_copy, _)) = copies.first() else {
        return Err(OpenError::NoCopy(name));
    };
    let layout = labels[&first_copy].1.clone();
    let seed = Seed::of_pool(layout.pool);
    let places = Places {
        seed,
        cluster_size: layout.cluster_size,
        copies: copies.iter().map(|&(_, slot)| slot).collect(),
        slots: [&layout.slot_a, &layout.slot_b],
        log: &layout.log,
        members: &members,
    };
    let replayed = replay(medium, &places)
        .map_err(|damage| OpenError::Damaged { pool: name.clone(), damage })?;
    Ok(Read { name, labels, members, table, missed, copies, layout, replayed })
}

/// Opens the pool on the slots of `medium`.
///
/// # Errors
///
/// When the slots are not one whole pool, or its metadata is damaged. Nothing that counts was
/// changed then.
pub fn open(medium: &mut dyn Medium, options: OpenOptions) -> Result<Opening, OpenError> {
    let Read { name, mut labels, members, table, missed, copies, layout, replayed } =
        read_pool(medium, options)?;
    let seed = Seed::of_pool(layout.pool);
    let slots: Vec<usize> = copies.iter().map(|&(_, slot)| slot).collect();
    // What was read must not be lost any more when it is declared settled.
    for &slot in members.values() {
        medium.flush(slot)?;
    }
    let incarnation = 1 + labels
        .values()
        .map(|(_, label)| label.incarnation)
        .chain([replayed.incarnation])
        .max()
        .expect("there is a label");
    for (slot, label) in labels.values_mut() {
        label.generation += 1;
        label.incarnation = incarnation;
        label.members.clone_from(&table);
        for index in &missed {
            label.members[usize::from(index.0)].stale_since = Some(incarnation);
        }
        write_label(medium, *slot, label)?;
    }
    // Into both slots: a fallback to the other one must not reach back behind this opening.
    let generation = replayed.checkpoint_generation + 2;
    for generation in [generation - 1, generation] {
        let extents = if generation.is_multiple_of(2) { &layout.slot_a } else { &layout.slot_b };
        let (state, end) = (&replayed.state, replayed.end);
        let fits =
            write_checkpoint(medium, &slots, extents, seed, state, generation, incarnation, end)?;
        if !fits {
            return Err(OpenError::SlotFull(name));
        }
    }
    let end = replayed.end;
    let log = Log::new(
        Ring::new(&layout.log),
        seed,
        incarnation,
        layout.cluster_size.blocks(),
        end,
        generation,
    );
    let store = Store::new(Opened {
        state: replayed.state,
        alloc: replayed.alloc,
        log,
        seed,
        labels: labels.into_iter().map(|(member, (_, label))| (member, label)).collect(),
        copies: copies.iter().fold(0, |set, (member, _)| set | 1 << member.0),
        slots: [layout.slot_a, layout.slot_b],
        checkpoint_generation: generation,
    });
    let (entries, taken_back) = (replayed.entries, replayed.taken_back);
    Ok(Opening { store, name, members, replayed: entries, taken_back })
}

type Labels = BTreeMap<MemberIndex, (usize, Label)>;

fn read_labels(medium: &mut dyn Medium) -> Result<Labels, OpenError> {
    if medium.slots() == 0 {
        return Err(OpenError::NoMembers);
    }
    let mut labels = Labels::new();
    let mut pool = None;
    for slot in 0..medium.slots() {
        let label = read_label(medium, slot)?;
        let expected = *pool.get_or_insert(label.pool);
        if label.pool != expected {
            return Err(OpenError::OtherPool { slot, found: label.pool, expected });
        }
        let size = medium.size(slot);
        if size < label.member_size {
            let (size, expected) = (ByteCount(size), ByteCount(label.member_size));
            return Err(OpenError::Shrunk { slot, size, expected });
        }
        let uuid = label.member;
        if let Some((first, _)) = labels.insert(label.index, (slot, label)) {
            return Err(OpenError::Duplicate { first, second: slot, uuid });
        }
    }
    Ok(labels)
}

/// The newest intact label copy of a slot.
fn read_label(medium: &mut dyn Medium, slot: usize) -> Result<Label, OpenError> {
    let mut newest: Option<Label> = None;
    let mut wrong = None;
    let mut offsets = label::label_offsets(medium.size(slot)).to_vec();
    let mut next = 0;
    while next < offsets.len() {
        let mut bytes = vec![0; LABEL_SIZE];
        let offset = offsets[next];
        next += 1;
        if medium.read(slot, offset, &mut bytes).is_err() {
            continue;
        }
        match Label::decode(&bytes) {
            Ok(label) => {
                // The last copy lies where the member ended when the label was written.
                let last = label::label_offsets(label.member_size)[2];
                if !offsets.contains(&last) {
                    offsets.push(last);
                }
                if newest.as_ref().is_none_or(|other| label.generation > other.generation) {
                    newest = Some(label);
                }
            }
            Err(malformed @ Malformed::NotALabel { .. }) => {
                wrong.get_or_insert(malformed);
            }
            // Damage says more than absence.
            Err(malformed) => wrong = Some(malformed),
        }
    }
    match (newest, wrong) {
        (Some(label), _) => Ok(label),
        (None, Some(malformed @ Malformed::NotALabel { .. })) => {
            Err(OpenError::Foreign { slot, malformed })
        }
        (None, Some(malformed)) => Err(OpenError::Label { slot, malformed }),
        (None, None) => Err(OpenError::Medium(MediumError {
            slot,
            operation: "reading any label copy",
            offset: 0,
            reason: "every read failed".to_owned(),
        })),
    }
}

/// The label whose member table counts: of the highest incarnation, and of these the one that
/// has been updated most often, on a member that nobody calls stale.
fn newest_label(labels: &Labels) -> &Label {
    let stale = |member: MemberIndex| {
        labels.values().any(|(_, other)| {
            other.index != member && other.members.get(usize::from(member.0)).is_some_and(is_stale)
        })
    };
    labels
        .values()
        .map(|(_, label)| label)
        .max_by_key(|label| (!stale(label.index), label.incarnation, label.generation))
        .expect("there is a label")
}

/// Every label names the same members and cluster size, and metadata members the same extents;
/// and no two of them have gone on without each other.
fn check_agreement(labels: &Labels) -> Result<(), OpenError> {
    let identity = |label: &Label| -> Vec<(Uuid, u64, MemberRole)> {
        label.members.iter().map(|entry| (entry.uuid, entry.size, entry.role)).collect()
    };
    let extents = |label: &Label| {
        let metadata = [&label.slot_a, &label.slot_b, &label.log].map(Clone::clone);
        (!label.log.is_empty()).then_some(metadata)
    };
    for (one_slot, one) in labels.values() {
        for (other_slot, other) in labels.values() {
            let metadata = extents(one).zip(extents(other));
            if identity(one) != identity(other)
                || one.cluster_size != other.cluster_size
                || metadata.is_some_and(|(one, other)| one != other)
            {
                return Err(OpenError::Disagree { slot: *one_slot, other: *other_slot });
            }
            let calls_stale = |label: &Label, index: MemberIndex| {
                label.members.get(usize::from(index.0)).is_some_and(is_stale)
            };
            if calls_stale(one, other.index) && calls_stale(other, one.index) {
                let (pool, one, other) = (one.name.clone(), one.index, other.index);
                return Err(OpenError::Diverged { pool, one, other });
            }
        }
    }
    Ok(())
}

fn is_stale(entry: &LabelMember) -> bool {
    entry.stale_since.is_some()
}

fn unknown_feature(label: &Label) -> Option<(&'static str, u32)> {
    // Opening for reading only is not offered yet, so both are refused.
    let incompatible = label.refusal().map(|bit| ("incompatible", bit));
    incompatible.or_else(|| label.read_only().map(|bit| ("read-only-compatible", bit)))
}

/// The member table to go on with, and the members whose metadata copy misses what is
/// written from now on.
fn membership(
    labels: &Labels,
    newest: &Label,
    options: OpenOptions,
) -> Result<(Vec<LabelMember>, Vec<MemberIndex>), OpenError> {
    let table = newest.members.clone();
    let mut missed = Vec::new();
    for (index, entry) in table.iter().enumerate() {
        let member = MemberIndex(u16::try_from(index).expect("16 at most"));
        let pool = newest.name.clone();
        if let Some(since) = entry.stale_since {
            if !options.degraded {
                return Err(OpenError::Stale { pool, member, since });
            }
        } else if !labels.contains_key(&member) {
            if !options.degraded {
                return Err(OpenError::Missing { pool, member, uuid: entry.uuid });
            }
            if entry.role == MemberRole::DataAndMetadata {
                missed.push(member);
            }
        }
    }
    Ok((table, missed))
}
