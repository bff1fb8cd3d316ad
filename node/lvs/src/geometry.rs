//! Where things are: clusters, blocks and the members that hold them.
//!
//! A pool numbers its clusters once, over all members; a member contributes *segments*
//! of that space. Everything above the last step to a device speaks of [`ClusterNo`]
//! and of blocks in a cluster, never of byte offsets.

use fathom_units::ByteOffset;

/// Bytes in a block, the unit of validity and of all pool I/O.
pub const BLOCK_SIZE: u32 = 4096;
/// [`BLOCK_SIZE`] as a `u64`, for arithmetic on offsets.
pub const BLOCK: u64 = BLOCK_SIZE as u64;
/// [`BLOCK_SIZE`] as a `usize`, for buffers.
pub const BLOCK_LEN: usize = BLOCK_SIZE as usize;
/// The smallest cluster, in bytes.
pub const CLUSTER_SIZE_MIN: u32 = 64 << 10;
/// The largest cluster, in bytes.
pub const CLUSTER_SIZE_MAX: u32 = 4 << 20;
/// The cluster size when none is asked for, in bytes.
pub const CLUSTER_SIZE_DEFAULT: u32 = 1 << 20;
/// The most clusters that a pool can number.
pub const CLUSTERS_MAX: u32 = 1 << 29;
/// The most members of a pool.
pub const MEMBERS_MAX: usize = 16;

/// The number of a cluster in its pool, below [`CLUSTERS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterNo(pub u32);

/// The position of a cluster in a volume, in clusters from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogicalCluster(pub u32);

/// The index of a member in its pool, below [`MEMBERS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberIndex(pub u16);

/// The id of a layer; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LayerId(pub u32);

/// The id of a volume or snapshot in its pool; never zero, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId(pub u64);

/// The number of a log entry; the first one is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lsn(pub u64);

/// A run of cluster numbers that lies in one piece on one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The number of the first cluster.
    pub first: ClusterNo,
    /// How many clusters follow it, itself included.
    pub clusters: u32,
    /// Where the first cluster begins on the member.
    pub offset: ByteOffset,
}

impl Segment {
    /// Whether `cluster` lies in this segment.
    pub fn contains(&self, cluster: ClusterNo) -> bool {
        cluster.0 >= self.first.0 && cluster.0 - self.first.0 < self.clusters
    }
}

/// Cluster size and block arithmetic of one pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterSize {
    bytes: u32,
}

impl ClusterSize {
    /// A cluster size, when `bytes` is a power of two within the limits of the format.
    pub fn new(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (CLUSTER_SIZE_MIN..=CLUSTER_SIZE_MAX).contains(&bytes))
            .then_some(Self { bytes })
    }

    /// Bytes in a cluster.
    pub fn bytes(self) -> u32 {
        self.bytes
    }

    /// Blocks in a cluster, 16 to 1024.
    pub fn blocks(self) -> u16 {
        u16::try_from(self.bytes / BLOCK_SIZE).expect("at most 4 MiB / 4 KiB")
    }

    /// The logical cluster and the block in it of a volume's block number `block`.
    ///
    /// # Panics
    ///
    /// When the block lies beyond the largest volume; sizes are checked at creation.
    pub fn split(self, block: u64) -> (LogicalCluster, u16) {
        let blocks = u64::from(self.blocks());
        let cluster = u32::try_from(block / blocks).expect("volume sizes are bounded");
        let within = u16::try_from(block % blocks).expect("below the blocks of a cluster");
        (LogicalCluster(cluster), within)
    }

    /// How many clusters hold `bytes` bytes.
    pub fn clusters_for(self, bytes: u64) -> u64 {
        bytes.div_ceil(u64::from(self.bytes))
    }
}
