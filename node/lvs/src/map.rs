//! What one layer of a volume holds: for each logical cluster at most one
//! [`Fragment`], in little memory.
//!
//! The write path sets fragments once their data is on the disk, the metadata log
//! sets them on import, and the read path asks [`LayerMap::visibility`] from the
//! newest layer to the oldest until nothing shows through. The map does no I/O and
//! knows no other layer.
//!
//! A fragment is a 32-bit `Entry` in the `Index`. One that is neither wholly
//! valid nor wholly zero keeps its bitmaps in a slot of a `Slab`:
//!
//! ```text
//! Index: branches -> leaves -> entries        Slab of parts, slab of mixed
//!  branch  first page                          chunk 0     chunk 1
//!   leaf   page 0  dense: 256 entries          [4 slots]   [8 slots]  ... 1024
//!   leaf   page 1  sparse: (key, entry)          ^
//!   leaf   page 9  sparse                        |
//!                    (7, full cluster 41)        |
//!                    (8, part slot 2) -----------+  cluster, valid bitmap
//! ```
//!
//! Invariants:
//! - [`LayerMap::get`] returns exactly what was set;
//! - the index holds the entry of every fragment and no other;
//! - a slot belongs to exactly one entry or is on its chunk's free list.

mod index;
mod slab;

use std::fmt;

use self::index::{Entry, Index, Kind};
use self::slab::Slab;
use crate::blocks::{BlockSet, run_of_words};
use crate::geometry::{ClusterNo, LogicalCluster};

/// What a layer holds of one logical cluster.
///
/// A block is *data* if it is in `valid`, else *zero* if it is in `opaque`, else
/// it reads through to the parent layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// The physical cluster, below 2^29; `None` only if `valid` is empty. There may
    /// be one with an empty `valid` set: its first write has not ended well.
    pub cluster: Option<ClusterNo>,
    /// The blocks that hold data in `cluster`.
    pub valid: BlockSet,
    /// The blocks for which nothing of a parent layer shows through.
    pub opaque: BlockSet,
}

impl Fragment {
    /// What a layer holds of a logical cluster that it never wrote.
    pub const ABSENT: Self =
        Self { cluster: None, valid: BlockSet::EMPTY, opaque: BlockSet::EMPTY };

    /// Whether the fragment says nothing: no cluster, no block valid or opaque.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        *self == Self::ABSENT
    }
}

/// Where a layer gets a block from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visibility {
    /// Data in this physical cluster, at the same block index.
    Data(ClusterNo),
    /// Zeros, whatever the parent layer holds.
    Zero,
    /// The parent layer, or zeros if there is none.
    Through,
}

/// The fragments of one layer, ordered by logical cluster.
pub struct LayerMap {
    index: Index,
    /// Slots `[cluster, valid..]`: fragments with a cluster and nothing opaque.
    parts: Slab,
    /// Slots `[cluster or NO_CLUSTER, valid.., opaque..]`: all other fragments.
    mixed: Slab,
    len: usize,
    allocated: usize,
    blocks_per_cluster: u16,
}

/// The first word of a mixed slot whose fragment has no cluster.
const NO_CLUSTER: u32 = u32::MAX;

impl LayerMap {
    /// An empty map, which holds no heap memory, for a pool with
    /// `blocks_per_cluster` blocks (a power of two, 16 to 1024) in each cluster.
    ///
    /// # Panics
    ///
    /// If `blocks_per_cluster` is not one of those.
    #[must_use]
    pub fn new(blocks_per_cluster: u16) -> Self {
        assert!(
            blocks_per_cluster.is_power_of_two()
                && (16..=BlockSet::CAPACITY).contains(&blocks_per_cluster),
            "{blocks_per_cluster} blocks per cluster"
        );
        let bitmap_words = blocks_per_cluster.div_ceil(32);
        Self {
            index: Index::default(),
            parts: Slab::new(1 + bitmap_words),
            mixed: Slab::new(1 + 2 * bitmap_words),
            len: 0,
            allocated: 0,
            blocks_per_cluster,
        }
    }

    /// The fragment of `lc`, [`Fragment::ABSENT`] if the layer holds none.
    #[must_use]
    pub fn get(&self, lc: LogicalCluster) -> Fragment {
        self.fragment(self.index.get(lc.0))
    }

    /// Makes `fragment` the fragment of `lc`; [`Fragment::ABSENT`] removes it.
    ///
    /// # Panics
    ///
    /// If the fragment breaks its own rules: blocks beyond the cluster, valid
    /// blocks without a cluster, a cluster number of 2^29 or more.
    pub fn set(&mut self, lc: LogicalCluster, fragment: Fragment) {
        let blocks = self.blocks_per_cluster;
        assert!(
            fragment.valid.is_within(blocks) && fragment.opaque.is_within(blocks),
            "fragment of {lc:?} has blocks beyond {blocks}: {fragment:?}"
        );
        assert!(
            fragment.cluster.is_some() || fragment.valid.is_empty(),
            "fragment of {lc:?} has data without a cluster: {fragment:?}"
        );
        assert!(
            fragment.cluster.is_none_or(|cluster| cluster.0 >> Entry::NUMBER_BITS == 0),
            "fragment of {lc:?} has a cluster number beyond 29 bits: {fragment:?}"
        );
        let old = self.index.get(lc.0);
        self.allocated -= usize::from(self.cluster_of(old).is_some());
        self.allocated += usize::from(fragment.cluster.is_some());
        self.len -= usize::from(old != Entry::ABSENT);
        self.len += usize::from(!fragment.is_absent());
        let new = self.store(old, &fragment);
        if new != old {
            self.index.set(lc.0, new);
        }
    }

    /// The number of fragments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no fragment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of fragments with a physical cluster, and so of the physical
    /// clusters that the layer occupies.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.allocated
    }

    /// The first fragment at or after `from`.
    #[must_use]
    pub fn next(&self, from: LogicalCluster) -> Option<(LogicalCluster, Fragment)> {
        self.iter_from(from).next()
    }

    /// All fragments, in ascending order of logical cluster.
    pub fn iter(&self) -> impl Iterator<Item = (LogicalCluster, Fragment)> {
        self.iter_from(LogicalCluster(0))
    }

    /// The fragments at and after `from`, in ascending order.
    pub fn iter_from(
        &self,
        from: LogicalCluster,
    ) -> impl Iterator<Item = (LogicalCluster, Fragment)> {
        let entries = self.index.entries(from.0);
        entries.map(|(key, entry)| (LogicalCluster(key), self.fragment(entry)))
    }

    /// The fragments of `from..to_exclusive`, in ascending order.
    pub fn range(
        &self,
        from: LogicalCluster,
        to_exclusive: LogicalCluster,
    ) -> impl Iterator<Item = (LogicalCluster, Fragment)> {
        self.iter_from(from).take_while(move |(lc, _)| *lc < to_exclusive)
    }

    /// Where the layer gets block `block` of `lc` from, and for how many blocks
    /// from there (itself included), but not beyond block `limit` (exclusive), that
    /// stays the same.
    ///
    /// # Panics
    ///
    /// Unless `block < limit` and `limit` is at most the blocks per cluster.
    #[must_use]
    pub fn visibility(&self, lc: LogicalCluster, block: u16, limit: u16) -> (Visibility, u16) {
        assert!(
            block < limit && limit <= self.blocks_per_cluster,
            "blocks {block}..{limit} of {}",
            self.blocks_per_cluster
        );
        match self.index.get(lc.0).unpack() {
            Kind::Absent => (Visibility::Through, limit - block),
            Kind::Full(cluster) => (Visibility::Data(cluster), limit - block),
            Kind::Zero => (Visibility::Zero, limit - block),
            Kind::Part(slot) => {
                let (cluster, valid) = self.part(slot);
                match run_of_words(block, limit, |index| word_of(valid, index)) {
                    (true, count) => (Visibility::Data(cluster), count),
                    (false, count) => (Visibility::Through, count),
                }
            }
            Kind::Mixed(slot) => self.visibility_in_mixed(slot, block, limit),
        }
    }

    /// The heap memory that the map holds, in bytes: capacities, without what the
    /// memory allocator adds to each allocation.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.index.resident_bytes() + self.parts.resident_bytes() + self.mixed.resident_bytes()
    }

    fn fragment(&self, entry: Entry) -> Fragment {
        let full = || BlockSet::full(self.blocks_per_cluster);
        match entry.unpack() {
            Kind::Absent => Fragment::ABSENT,
            Kind::Full(cluster) => {
                Fragment { cluster: Some(cluster), valid: full(), opaque: BlockSet::EMPTY }
            }
            Kind::Zero => Fragment { opaque: full(), ..Fragment::ABSENT },
            Kind::Part(slot) => {
                let (cluster, valid) = self.part(slot);
                let (valid, opaque) = (self.unpack_blocks(valid), BlockSet::EMPTY);
                Fragment { cluster: Some(cluster), valid, opaque }
            }
            Kind::Mixed(slot) => {
                let (cluster, valid, opaque) = self.mixed(slot);
                let (valid, opaque) = (self.unpack_blocks(valid), self.unpack_blocks(opaque));
                Fragment { cluster, valid, opaque }
            }
        }
    }

    fn cluster_of(&self, entry: Entry) -> Option<ClusterNo> {
        match entry.unpack() {
            Kind::Absent | Kind::Zero => None,
            Kind::Full(cluster) => Some(cluster),
            Kind::Part(slot) => Some(self.part(slot).0),
            Kind::Mixed(slot) => self.mixed(slot).0,
        }
    }

    /// The entry for `fragment`, in the place of `old`: takes over the slot of `old`
    /// or frees it, and allocates a slot where one is needed.
    fn store(&mut self, old: Entry, fragment: &Fragment) -> Entry {
        let blocks = self.blocks_per_cluster;
        match (fragment.cluster, fragment.opaque.is_empty()) {
            (None, true) => {
                self.release(old);
                Entry::ABSENT
            }
            (None, false) if fragment.opaque.is_full(blocks) => {
                self.release(old);
                Entry::pack(Kind::Zero)
            }
            (Some(cluster), true) if fragment.valid.is_full(blocks) => {
                self.release(old);
                Entry::pack(Kind::Full(cluster))
            }
            (Some(cluster), true) => {
                let slot = if let Kind::Part(slot) = old.unpack() {
                    slot
                } else {
                    self.release(old);
                    self.parts.allocate()
                };
                let words = self.parts.slot_mut(slot);
                words[0] = cluster.0;
                pack_blocks(&fragment.valid, &mut words[1..]);
                Entry::pack(Kind::Part(slot))
            }
            (cluster, false) => {
                let slot = if let Kind::Mixed(slot) = old.unpack() {
                    slot
                } else {
                    self.release(old);
                    self.mixed.allocate()
                };
                let (first, bitmaps) =
                    self.mixed.slot_mut(slot).split_first_mut().expect("a slot has a first word");
                *first = cluster.map_or(NO_CLUSTER, |cluster| cluster.0);
                let (valid, opaque) = bitmaps.split_at_mut(bitmaps.len() / 2);
                pack_blocks(&fragment.valid, valid);
                pack_blocks(&fragment.opaque, opaque);
                Entry::pack(Kind::Mixed(slot))
            }
        }
    }

    fn release(&mut self, entry: Entry) {
        match entry.unpack() {
            Kind::Absent | Kind::Full(_) | Kind::Zero => {}
            Kind::Part(slot) => self.parts.free(slot),
            Kind::Mixed(slot) => self.mixed.free(slot),
        }
    }

    fn visibility_in_mixed(&self, slot: u32, block: u16, limit: u16) -> (Visibility, u16) {
        let (cluster, valid, opaque) = self.mixed(slot);
        let (is_valid, count) = run_of_words(block, limit, |index| word_of(valid, index));
        if is_valid {
            let cluster = cluster.expect("valid blocks are in a cluster");
            return (Visibility::Data(cluster), count);
        }
        match run_of_words(block, block + count, |index| word_of(opaque, index)) {
            (true, count) => (Visibility::Zero, count),
            (false, count) => (Visibility::Through, count),
        }
    }

    /// The cluster and the valid bitmap in a slot of the parts.
    fn part(&self, slot: u32) -> (ClusterNo, &[u32]) {
        let words = self.parts.slot(slot);
        (ClusterNo(words[0]), &words[1..])
    }

    /// The cluster and the valid and opaque bitmaps in a slot of the mixed.
    fn mixed(&self, slot: u32) -> (Option<ClusterNo>, &[u32], &[u32]) {
        let words = self.mixed.slot(slot);
        let cluster = (words[0] != NO_CLUSTER).then_some(ClusterNo(words[0]));
        let (valid, opaque) = words[1..].split_at(words.len() / 2);
        (cluster, valid, opaque)
    }

    fn unpack_blocks(&self, bitmap: &[u32]) -> BlockSet {
        let mut words = [0; 16];
        let used = &mut words[..usize::from(self.blocks_per_cluster.div_ceil(64))];
        used.iter_mut().enumerate().for_each(|(index, word)| *word = word_of(bitmap, index));
        BlockSet::from_words(used)
    }
}

impl fmt::Debug for LayerMap {
    /// Counts only: a layer may hold millions of fragments.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerMap")
            .field("len", &self.len)
            .field("allocated", &self.allocated)
            .finish_non_exhaustive()
    }
}

/// Word `index` of 64 bits of a bitmap of 32-bit words.
#[inline]
fn word_of(bitmap: &[u32], index: usize) -> u64 {
    let high = bitmap.get(2 * index + 1).copied().unwrap_or(0);
    u64::from(bitmap[2 * index]) | u64::from(high) << 32
}

#[expect(clippy::cast_possible_truncation, reason = "a 64-bit word is cut in its two halves")]
fn pack_blocks(set: &BlockSet, bitmap: &mut [u32]) {
    for (halves, word) in bitmap.chunks_mut(2).zip(set.words(BlockSet::CAPACITY)) {
        halves[0] = *word as u32;
        if let Some(high) = halves.get_mut(1) {
            *high = (*word >> 32) as u32;
        }
    }
}

/// Makes room for `more` elements; a vector that grows one by one gets a quarter of
/// its length ahead, not its length again.
fn reserve<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        vec.reserve_exact(more.max(vec.len() / 4));
    }
}

/// Gives back memory once more than about a third is unused.
fn trim<T>(vec: &mut Vec<T>) {
    if vec.is_empty() || vec.capacity() > vec.len() + vec.len() / 2 + 8 {
        vec.shrink_to(vec.len() + vec.len() / 4);
    }
}

fn bytes_of<T>(vec: &Vec<T>) -> usize {
    vec.capacity() * size_of::<T>()
}

#[cfg(test)]
mod tests;
