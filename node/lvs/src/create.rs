//! Creating a pool: a layout, labels and an empty checkpoint.
//!
//! The labels are written last, so that a pool that was not created to the end is none.
//!
//! Source: `docs/formats/lvs.md` section 2.

use fathom_units::{ByteCount, ByteOffset};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    acceptance::{self, LOG_MAX, SLOT_MIN},
    candidate::{Content, erase, inspect},
    format::{
        Malformed,
        checksum::Seed,
        label::{
            DATA_OFFSET, Extent, FEATURE_EXTENTS_MAX, Features, LABEL_SIZE, Label, LabelMember,
            MemberRole, MemberState,
        },
        op::PoolRecord,
    },
    geometry::{
        BLOCK, CLUSTERS_MAX, ClusterNo, ClusterSize, Lsn, MEMBERS_MAX, MemberIndex, Segment,
    },
    log::LogStart,
    medium::{Medium, MediumError},
    open::{write_checkpoint, write_label},
    replay::ToProve,
    state::State,
};

/// More than any member has: sizes that are asked for are cut here, so that sums of them do not
/// overflow.
const BYTES_MAX: u64 = 1 << 56;

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
    /// Overwrite what is on the members; [`inspect`] names it. What others know it by, at both ends
    /// of each member, is overwritten with zeros.
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
    #[error("member {slot} is not empty: it has {}; force would destroy it", Content::Other { offset: *offset, what: *what })]
    Foreign {
        /// The slot.
        slot: usize,
        /// The first byte that is not zero.
        offset: u64,
        /// What it looks like, if that is known.
        what: Option<&'static str>,
    },
    /// A member has what was a label.
    #[error("member {slot} has {content}; force would destroy it")]
    Remains {
        /// The slot.
        slot: usize,
        /// A damaged label or a tombstone.
        content: Box<Content>,
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
    /// The log is larger than what is held in memory when the pool is opened.
    #[error("a log of {size} is too large; {most} is the most")]
    LogTooLarge {
        /// The size asked for.
        size: ByteCount,
        /// The largest size.
        most: ByteCount,
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
    let mut in_use = Vec::new();
    for slot in 0..count {
        let content = inspect(medium, slot)?.content;
        if !new.force {
            refuse_content(slot, &content)?;
        }
        if content != Content::Nothing {
            in_use.push(slot);
        }
    }
    let sizes: Vec<u64> = (0..count).map(|slot| medium.size(slot) / BLOCK * BLOCK).collect();
    let total = sizes.iter().fold(0u64, |sum, &size| sum.saturating_add(size));
    let (slot_bytes, log_bytes) = metadata_bytes(new, total);
    if slot_bytes < SLOT_MIN {
        let (size, needed) = (ByteCount(slot_bytes), ByteCount(SLOT_MIN));
        return Err(CreateError::SlotTooSmall { size, needed });
    }
    let needed = acceptance::log_least(new.cluster_size, count);
    if log_bytes < needed {
        let (size, needed) = (ByteCount(log_bytes), ByteCount(needed));
        return Err(CreateError::LogTooSmall { size, needed });
    }
    if log_bytes > LOG_MAX {
        let (size, most) = (ByteCount(log_bytes), ByteCount(LOG_MAX));
        return Err(CreateError::LogTooLarge { size, most });
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
            state: MemberState::InSync,
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
    for slot in in_use {
        // Nobody shall find again what a label does not lie on.
        erase(medium, slot)?;
    }
    let start = LogStart { lsn: Lsn(1), position: 0, previous: 0 };
    let copies: Vec<usize> = (0..count.min(2)).collect();
    let seed = Seed::of_pool(new.uuid);
    // A checkpoint of an empty pool fits the smallest slot.
    write_checkpoint(
        medium,
        &copies,
        &labels[0].slot_a,
        seed,
        &state,
        &ToProve::new(),
        2,
        1,
        start,
    )?;
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
    let slot = new.slot_bytes.unwrap_or(clusters.saturating_mul(16 + bitmaps) + objects);
    let log = new.log_bytes.unwrap_or((total / 16384).clamp(4 << 20, 64 << 20));
    let whole = |bytes: u64| bytes.min(BYTES_MAX).next_multiple_of(BLOCK);
    (whole(slot), whole(log))
}

/// Refuses a member that is not blank.
fn refuse_content(slot: usize, content: &Content) -> Result<(), CreateError> {
    match content {
        Content::Nothing => Ok(()),
        Content::Label(label) => {
            let (pool, uuid) = (label.name.clone(), label.pool);
            Err(CreateError::Labelled { slot, pool, uuid })
        }
        &Content::Other { offset, what } => Err(CreateError::Foreign { slot, offset, what }),
        Content::Damaged(_) | Content::Tombstone(_) => {
            Err(CreateError::Remains { slot, content: Box::new(content.clone()) })
        }
    }
}
