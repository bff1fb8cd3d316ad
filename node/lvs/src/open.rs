//! Opening a pool: from its members to a store that can be driven.
//!
//! ```text
//!   labels -> complete? in sync? -> replay -> flush -> new incarnation -> level -> checkpoint -> Store
//! ```
//!
//! Opening ends with a checkpoint, so that everything which a power cut left to be proved
//! is decided once, and the log begins empty. Until its header is written, the old
//! checkpoint and the log are untouched: a crash while opening changes nothing.
//!
//! Source: `docs/formats/lvs.md` sections 2 and 7.

use core::time::Duration;
use std::collections::BTreeMap;

use fathom_units::ByteCount;
use thiserror::Error;
use uuid::Uuid;

use crate::{
    damage::Damage,
    deadline::IO_DEADLINE,
    format::{
        Malformed,
        checkpoint::{
            CHUNK_HEADER, ChunkHeader, Key, SLOT_HEADER, SlotHeader, encode_slot, seal_chunk,
        },
        checksum::{self, Seed},
        label::{self, Extent, Label, LabelMember, MemberRole, MemberState},
    },
    geometry::{BLOCK_LEN, ClusterSize, LayerId, Lsn, MemberIndex, ObjectId},
    leveling::level,
    log::{Log, LogStart, Ring},
    medium::{Medium, MediumError},
    membership::{
        Labels, check_agreement, check_sizes, membership, newest_label, read_labels, same_members,
        unknown_feature,
    },
    replay::{Places, Replayed, ToProve, replay},
    settle::{Place, Proof},
    state::State,
    store::{Opened, Store},
};

/// How to open a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenOptions {
    /// Open it though members are missing or have a stale metadata copy.
    pub degraded: bool,
    /// How long metadata I/O of the open pool may take before it counts as failed. Opening itself
    /// takes as long as the medium.
    pub deadline: Duration,
}

impl OpenOptions {
    /// With every member, or not at all.
    pub const WHOLE: Self = Self { degraded: false, deadline: IO_DEADLINE };
    /// Also without some members.
    pub const DEGRADED: Self = Self { degraded: true, ..Self::WHOLE };
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::WHOLE
    }
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
    /// Nothing but a device that was about to become a member.
    #[error("slot {slot} was only about to become a member; give the members of its pool, too")]
    Proposed {
        /// The slot.
        slot: usize,
    },
    /// The pool is being destroyed; a crash has ended that.
    #[error(
        "member {slot} is what is left of pool \"{pool}\" ({uuid}), which is being destroyed; destroy it again"
    )]
    Destroyed {
        /// The slot.
        slot: usize,
        /// The name of the pool.
        pool: String,
        /// Its UUID.
        uuid: Uuid,
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
    /// A label says what no pool can be driven by.
    #[error("slot {slot}: the {field} in its label {detail}")]
    Unusable {
        /// The slot.
        slot: usize,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        detail: String,
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
    /// Its UUID.
    pub uuid: Uuid,
    /// The size of its clusters.
    pub cluster_size: ClusterSize,
    /// Which slot each present member is.
    pub members: BTreeMap<MemberIndex, usize>,
    /// Log entries that were replayed.
    pub replayed: u64,
    /// Blocks that a power cut took back: written, never flushed, and not on the medium.
    pub taken_back: u64,
}

/// Writes a label: copy 0, flush, copies 1 and 2, flush.
pub(crate) fn write_label(
    medium: &mut dyn Medium,
    slot: usize,
    label: &Label,
) -> Result<(), MediumError> {
    let bytes = label.encode();
    let [first, second, last] = label::label_offsets(label.member_size);
    medium.write(slot, first, &bytes)?;
    medium.flush(slot)?;
    medium.write(slot, second, &bytes)?;
    medium.write(slot, last, &bytes)?;
    medium.flush(slot)
}

fn proofs(to_prove: &ToProve, place: Place) -> &[Proof] {
    to_prove.get(&place).map_or(&[], |(_, proofs)| proofs)
}

/// The lengths of the chunks of a checkpoint of `state`, in bytes.
fn chunk_lengths(state: &State, to_prove: &ToProve) -> Vec<u64> {
    let mut lengths = Vec::new();
    let mut next = Some(Key::MIN);
    while let Some(first) = next {
        let (payload, after) = crate::checkpoint::capture(state, first, &|at| proofs(to_prove, at));
        lengths.push((CHUNK_HEADER + payload.len()).next_multiple_of(BLOCK_LEN) as u64);
        next = after;
    }
    lengths
}

/// Whether chunks of these lengths fit a slot.
fn hold_chunks(extents: &[Extent], lengths: &[u64]) -> bool {
    let ring = Ring::new(extents);
    let mut position = SLOT_HEADER as u64;
    for length in lengths {
        position = ring.place(position, *length) + length;
        if position > ring.length() {
            return false;
        }
    }
    true
}

/// Writes a whole checkpoint at once and makes it valid.
///
/// # Panics
///
/// When it does not fit its slot.
#[expect(clippy::too_many_arguments, reason = "what a slot header holds")]
pub(crate) fn write_checkpoint(
    medium: &mut dyn Medium,
    copies: &[usize],
    extents: &[Extent],
    seed: Seed,
    state: &State,
    to_prove: &ToProve,
    generation: u64,
    incarnation: u64,
    start: LogStart,
) -> Result<(), MediumError> {
    let ring = Ring::new(extents);
    let mut position = SLOT_HEADER as u64;
    let mut checksums = Vec::new();
    let mut next = Some(Key::MIN);
    while let Some(first) = next {
        let (payload, after) = crate::checkpoint::capture(state, first, &|at| proofs(to_prove, at));
        let length = (CHUNK_HEADER + payload.len()).next_multiple_of(BLOCK_LEN);
        let begin = ring.place(position, length as u64);
        assert!(begin + length as u64 <= ring.length(), "the checkpoint fits its slot");
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
    Ok(())
}

/// A pool as it was read, before anything is written.
pub(crate) struct Read {
    pub(crate) name: String,
    labels: Labels,
    members: BTreeMap<MemberIndex, usize>,
    /// The member table to go on with, and who becomes stale by it.
    table: Vec<LabelMember>,
    missed: Vec<MemberIndex>,
    /// The metadata members in sync and their slots.
    copies: Vec<(MemberIndex, usize)>,
    /// A label of one of them.
    layout: Label,
    pub(crate) replayed: Replayed,
}

impl Read {
    pub(crate) fn pool(&self) -> Uuid {
        self.layout.pool
    }
}

/// The members of a pool, and where its metadata lies.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) members: BTreeMap<MemberIndex, usize>,
    pub(crate) table: Vec<LabelMember>,
    missed: Vec<MemberIndex>,
    pub(crate) copies: Vec<(MemberIndex, usize)>,
    pub(crate) layout: Label,
}

impl Found {
    /// Where the metadata is to be read.
    pub(crate) fn places(&self) -> Places<'_> {
        places(&self.layout, &self.table, &self.members, &self.copies)
    }
}

/// What is to be done with a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Intent {
    /// Write to it.
    Write,
    /// Read it.
    Read,
}

/// Puts the members together by their labels.
pub(crate) fn find_pool(
    medium: &mut dyn Medium,
    options: OpenOptions,
    intent: Intent,
) -> Result<Found, OpenError> {
    let labels = read_labels(medium)?;
    let newest = newest_label(&labels).clone();
    check_agreement(&labels, &newest)?;
    check_sizes(medium, &labels, &newest)?;
    let members: BTreeMap<MemberIndex, usize> =
        labels.iter().map(|(&member, (slot, _))| (member, *slot)).collect();
    let name = newest.name.clone();
    if let Some((kind, bit)) = unknown_feature(&newest, intent) {
        return Err(OpenError::Feature { pool: name, kind, bit });
    }
    let (table, missed) = membership(&labels, &newest, options)?;
    let copies: Vec<(MemberIndex, usize)> = members
        .iter()
        .map(|(&member, &slot)| (member, slot))
        .filter(|(member, _)| {
            let entry = &table[usize::from(member.0)];
            entry.role == MemberRole::DataAndMetadata && entry.state == MemberState::InSync
        })
        .collect();
    let Some(&(first_copy, _)) = copies.first() else {
        return Err(OpenError::NoCopy(name));
    };
    let layout = labels[&first_copy].1.clone();
    Ok(Found { name, labels, members, table, missed, copies, layout })
}

pub(crate) fn read_pool(
    medium: &mut dyn Medium,
    options: OpenOptions,
    intent: Intent,
) -> Result<Read, OpenError> {
    let found = find_pool(medium, options, intent)?;
    let places = found.places();
    let replayed = replay(medium, &places)
        .map_err(|damage| OpenError::Damaged { pool: found.name.clone(), damage })?;
    if !fits_slots(&places, &replayed) {
        return Err(OpenError::SlotFull(found.name));
    }
    let Found { name, labels, members, table, missed, copies, layout } = found;
    Ok(Read { name, labels, members, table, missed, copies, layout, replayed })
}

/// Whether both slots hold what was read. Opening writes it to both, and nothing at all when that
/// will fail.
pub(crate) fn fits_slots(places: &Places<'_>, replayed: &Replayed) -> bool {
    let lengths = chunk_lengths(&replayed.state, &replayed.to_prove);
    places.slots.iter().all(|extents| hold_chunks(extents, &lengths))
}

/// Where the metadata of the pool is to be read.
fn places<'a>(
    layout: &'a Label,
    table: &'a [LabelMember],
    members: &'a BTreeMap<MemberIndex, usize>,
    copies: &[(MemberIndex, usize)],
) -> Places<'a> {
    Places {
        seed: Seed::of_pool(layout.pool),
        cluster_size: layout.cluster_size,
        copies: copies.iter().map(|&(_, slot)| slot).collect(),
        slots: [&layout.slot_a, &layout.slot_b],
        log: &layout.log,
        layout,
        table,
        members,
    }
}

/// A generation above that of every label.
fn next_generation(labels: &Labels) -> u64 {
    let newest = labels.values().map(|(_, label)| label.generation).max();
    newest.expect("there is a label") + 1
}

/// Labels that missed the last update of members and sizes get the table that counts, still in its
/// incarnation: later ones may rely on it that labels of one incarnation differ by one update.
fn bring_into_agreement(
    medium: &mut dyn Medium,
    labels: &mut Labels,
    table: &[LabelMember],
) -> Result<(), MediumError> {
    let newest = newest_label(labels).clone();
    let generation = next_generation(labels);
    for (slot, label) in labels.values_mut() {
        let own = label.members[usize::from(label.index.0)].state;
        if same_members(label, &newest) && own != MemberState::Proposed {
            continue;
        }
        label.generation = generation;
        label.incarnation = newest.incarnation;
        label.members = table.to_vec();
        label.member_size = table[usize::from(label.index.0)].size;
        write_label(medium, *slot, label)?;
    }
    Ok(())
}

/// Blocks that were proved on a member whose flushes failed are written once more: what it says
/// from now on of what it should have flushed then is worth nothing.
fn write_again(
    medium: &mut dyn Medium,
    members: &BTreeMap<MemberIndex, usize>,
    table: &[LabelMember],
    proved: &[(MemberIndex, u64)],
) -> Result<(), MediumError> {
    let mut content = vec![0; BLOCK_LEN];
    for &(member, offset) in proved {
        if table[usize::from(member.0)].state != MemberState::InSync {
            let slot = members[&member];
            medium.read(slot, offset, &mut content)?;
            medium.write(slot, offset, &content)?;
        }
    }
    Ok(())
}

/// Opens the pool on the slots of `medium`.
///
/// # Errors
///
/// When the slots are not one whole pool, or its metadata is damaged. Nothing that counts was
/// changed then.
pub fn open(medium: &mut dyn Medium, options: OpenOptions) -> Result<Opening, OpenError> {
    let Read { name, mut labels, members, table, missed, copies, layout, replayed } =
        read_pool(medium, options, Intent::Write)?;
    let seed = Seed::of_pool(layout.pool);
    let slots: Vec<usize> = copies.iter().map(|&(_, slot)| slot).collect();
    write_again(medium, &members, &table, &replayed.proved)?;
    // What was read must not be lost any more when it is declared settled.
    for &slot in members.values() {
        medium.flush(slot)?;
    }
    let incarnation = 1 + labels
        .values()
        .map(|(_, label)| label.incarnation)
        .chain([replayed.header.incarnation])
        .max()
        .expect("there is a label");
    bring_into_agreement(medium, &mut labels, &table)?;
    let generation = next_generation(&labels);
    // A lost member that is there has proved what it has to.
    let found = |at: u16| {
        let lost = matches!(table[usize::from(at)].state, MemberState::Lost { .. });
        lost && members.contains_key(&MemberIndex(at))
    };
    for (slot, label) in labels.values_mut() {
        label.generation = generation;
        label.incarnation = incarnation;
        label.members.clone_from(&table);
        for (entry, _) in label.members.iter_mut().zip(0..).filter(|(_, at)| found(*at)) {
            entry.state = MemberState::InSync;
        }
        for index in &missed {
            let state = MemberState::Stale { since: incarnation };
            label.members[usize::from(index.0)].state = state;
        }
        write_label(medium, *slot, label)?;
    }
    let (slot, header) = (replayed.slot, replayed.header);
    level(medium, &places(&layout, &table, &members, &copies), slot, &header)
        .map_err(|damage| OpenError::Damaged { pool: name.clone(), damage })?;
    // Into both slots: a fallback to the other one must not reach back behind this opening.
    let generation = header.generation + 2;
    for generation in [generation - 1, generation] {
        let extents = if generation.is_multiple_of(2) { &layout.slot_a } else { &layout.slot_b };
        let (state, to_prove, end) = (&replayed.state, &replayed.to_prove, replayed.end);
        write_checkpoint(
            medium,
            &slots,
            extents,
            seed,
            state,
            to_prove,
            generation,
            incarnation,
            end,
        )?;
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
        to_prove: replayed.to_prove,
        deadline: options.deadline,
    });
    let (replayed, taken_back) = (replayed.entries, replayed.taken_back);
    let (uuid, cluster_size) = (layout.pool, layout.cluster_size);
    Ok(Opening { store, name, uuid, cluster_size, members, replayed, taken_back })
}
