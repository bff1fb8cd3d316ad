//! What can be wrong with the metadata of a pool, and where.
//!
//! None of it can come from a crash. Opening refuses the pool with the first of these that it meets;
//! checking names all that it can.

use thiserror::Error;

use crate::{
    format::Malformed,
    geometry::{ClusterNo, LayerId, Lsn, MemberIndex, ObjectId},
    medium::MediumError,
    state::Inconsistent,
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
