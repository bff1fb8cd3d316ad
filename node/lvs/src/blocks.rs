//! A set of the blocks of one cluster, as a value.
//!
//! Used for the `valid` and `opaque` sets of a fragment ([`crate::map`]) and for
//! the ranges that a command touches. All work is done by 64-bit words.
//!
//! Invariants:
//! - a block index is below [`BlockSet::CAPACITY`] blocks, whatever the pool's
//!   cluster size; the set does not know how many blocks its cluster has;
//! - block `b` is bit `b % 64` (least significant first) of word `b / 64`, in
//!   memory and on disk.

use std::fmt;
use std::ops::{BitAnd, BitOr, Sub};

const WORD_BITS: u16 = 64;
const WORDS: usize = 16;

/// A set of blocks of one cluster: indexes 0 to 1023, in blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlockSet {
    words: [u64; WORDS],
}

impl BlockSet {
    /// The set that holds no block.
    pub const EMPTY: Self = Self { words: [0; WORDS] };

    /// The number of blocks that a set can hold: those of the largest cluster.
    pub const CAPACITY: u16 = 1024;

    /// The blocks `0..blocks`: all of a cluster of `blocks` blocks.
    ///
    /// # Panics
    ///
    /// If `blocks` is above [`BlockSet::CAPACITY`].
    #[must_use]
    pub fn full(blocks: u16) -> Self {
        Self::range(0, blocks)
    }

    /// The blocks `start..start + count`.
    ///
    /// # Panics
    ///
    /// If the range ends beyond [`BlockSet::CAPACITY`].
    #[must_use]
    pub fn range(start: u16, count: u16) -> Self {
        let mut set = Self::EMPTY;
        set.insert_range(start, count);
        set
    }

    /// The set whose words are `words`; the words that are missing are zero. The
    /// inverse of [`BlockSet::words`]. A caller that decodes a disk checks the
    /// result with [`BlockSet::is_within`].
    ///
    /// # Panics
    ///
    /// If there are more than 16 words.
    #[must_use]
    pub fn from_words(words: &[u64]) -> Self {
        assert!(words.len() <= WORDS, "{} words in a block set", words.len());
        let mut set = Self::EMPTY;
        set.words[..words.len()].copy_from_slice(words);
        set
    }

    /// The words that hold the blocks `0..blocks`: one for each 64 blocks begun.
    ///
    /// # Panics
    ///
    /// If `blocks` is above [`BlockSet::CAPACITY`].
    #[must_use]
    pub fn words(&self, blocks: u16) -> &[u64] {
        &self.words[..usize::from(blocks.div_ceil(WORD_BITS))]
    }

    /// Whether `block` is in the set.
    ///
    /// # Panics
    ///
    /// If `block` is not below [`BlockSet::CAPACITY`].
    #[must_use]
    pub fn contains(&self, block: u16) -> bool {
        self.words[usize::from(block / WORD_BITS)] >> (block % WORD_BITS) & 1 == 1
    }

    /// Adds the blocks `start..start + count`.
    ///
    /// # Panics
    ///
    /// If the range ends beyond [`BlockSet::CAPACITY`].
    pub fn insert_range(&mut self, start: u16, count: u16) {
        self.for_each_word_of(start, count, |word, mask| *word |= mask);
    }

    /// Takes out the blocks `start..start + count`.
    ///
    /// # Panics
    ///
    /// If the range ends beyond [`BlockSet::CAPACITY`].
    pub fn remove_range(&mut self, start: u16, count: u16) {
        self.for_each_word_of(start, count, |word, mask| *word &= !mask);
    }

    /// Whether the set holds no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Whether the set is exactly the blocks `0..blocks`.
    ///
    /// # Panics
    ///
    /// If `blocks` is above [`BlockSet::CAPACITY`].
    #[must_use]
    pub fn is_full(&self, blocks: u16) -> bool {
        *self == Self::full(blocks)
    }

    /// Whether no block at or beyond `blocks` is in the set.
    ///
    /// # Panics
    ///
    /// If `blocks` is above [`BlockSet::CAPACITY`].
    #[must_use]
    pub fn is_within(&self, blocks: u16) -> bool {
        (*self - Self::full(blocks)).is_empty()
    }

    /// The number of blocks in the set, 0 to 1024.
    #[must_use]
    pub fn count(&self) -> u16 {
        let count: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        u16::try_from(count).expect("a set has at most 1024 blocks")
    }

    /// The longest runs of neighbouring blocks in the set, as `(start, count)` in
    /// blocks, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let set = *self;
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < Self::CAPACITY {
                let start = at;
                let (present, count) = set.run_at(start, Self::CAPACITY);
                at += count;
                if present {
                    return Some((start, count));
                }
            }
            None
        })
    }

    /// Whether block `start` is in the set, and for how many blocks from `start`
    /// (itself included), but not beyond `end` (exclusive), that stays the same.
    ///
    /// # Panics
    ///
    /// Unless `start < end` and `end` is at most [`BlockSet::CAPACITY`].
    #[must_use]
    pub fn run_at(&self, start: u16, end: u16) -> (bool, u16) {
        assert!(end <= Self::CAPACITY, "block {end} leaves the set");
        run_of_words(start, end, |index| self.words[index])
    }

    fn for_each_word_of(&mut self, start: u16, count: u16, change: impl Fn(&mut u64, u64)) {
        let end = start.checked_add(count).filter(|end| *end <= Self::CAPACITY);
        let end = end.unwrap_or_else(|| panic!("{count} blocks at {start} leave the set"));
        for index in start / WORD_BITS..end.div_ceil(WORD_BITS) {
            let first = index * WORD_BITS;
            let below_start = low_bits(start.saturating_sub(first));
            let below_end = low_bits(end - first);
            change(&mut self.words[usize::from(index)], below_end & !below_start);
        }
    }
}

impl BitOr for BlockSet {
    type Output = Self;

    /// The blocks in either set.
    fn bitor(mut self, other: Self) -> Self {
        self.words.iter_mut().zip(other.words).for_each(|(word, other)| *word |= other);
        self
    }
}

impl BitAnd for BlockSet {
    type Output = Self;

    /// The blocks in both sets.
    fn bitand(mut self, other: Self) -> Self {
        self.words.iter_mut().zip(other.words).for_each(|(word, other)| *word &= other);
        self
    }
}

impl Sub for BlockSet {
    type Output = Self;

    /// The blocks in this set and not in the other.
    fn sub(mut self, other: Self) -> Self {
        self.words.iter_mut().zip(other.words).for_each(|(word, other)| *word &= !other);
        self
    }
}

impl fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.runs().map(|(start, count)| start..start + count)).finish()
    }
}

/// [`BlockSet::run_at`] for a set that is held elsewhere: `word(index)` are its
/// 64-bit words, asked for only up to the one that holds block `end - 1`.
///
/// # Panics
///
/// Unless `start < end`.
#[inline]
pub(crate) fn run_of_words(start: u16, end: u16, word: impl Fn(usize) -> u64) -> (bool, u16) {
    assert!(start < end, "no block in {start}..{end}");
    let mut index = start / WORD_BITS;
    let first = word(usize::from(index));
    let present = first >> (start % WORD_BITS) & 1 == 1;
    // With the words flipped so that blocks like `start` are zero, the run ends at
    // the first one bit.
    let flip = if present { u64::MAX } else { 0 };
    let mut unlike = (first ^ flip) & !low_bits(start % WORD_BITS);
    while unlike == 0 {
        index += 1;
        if index * WORD_BITS >= end {
            return (present, end - start);
        }
        unlike = word(usize::from(index)) ^ flip;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a bit number of a word is below 64")]
    let bit = unlike.trailing_zeros() as u16;
    (present, end.min(index * WORD_BITS + bit) - start)
}

/// A word with its `count` least significant bits set; all of them above 64.
fn low_bits(count: u16) -> u64 {
    !u64::MAX.unbounded_shl(u32::from(count))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = (u16, u16)> {
        (0..=1024u16).prop_flat_map(|start| (Just(start), 0..=1024 - start))
    }

    /// A set and the same set built naively, from ranges put in and taken out.
    fn set() -> impl Strategy<Value = (BlockSet, BTreeSet<u16>)> {
        prop::collection::vec((any::<bool>(), range()), 0..8).prop_map(|steps| {
            let (mut set, mut oracle) = (BlockSet::EMPTY, BTreeSet::new());
            for (insert, (start, count)) in steps {
                if insert {
                    set.insert_range(start, count);
                    oracle.extend(start..start + count);
                } else {
                    set.remove_range(start, count);
                    oracle.retain(|block| !(start..start + count).contains(block));
                }
            }
            (set, oracle)
        })
    }

    fn blocks_of(set: &BlockSet) -> BTreeSet<u16> {
        (0..BlockSet::CAPACITY).filter(|block| set.contains(*block)).collect()
    }

    proptest! {
        #[test]
        fn set_equals_naive_set((set, oracle) in set()) {
            prop_assert_eq!(blocks_of(&set), oracle.clone());
            prop_assert_eq!(usize::from(set.count()), oracle.len());
            prop_assert_eq!(set.is_empty(), oracle.is_empty());
            prop_assert_eq!(BlockSet::from_words(set.words(1024)), set);
        }

        #[test]
        fn operators_equal_naive_ones((a, naive_a) in set(), (b, naive_b) in set()) {
            prop_assert_eq!(blocks_of(&(a | b)), &naive_a | &naive_b);
            prop_assert_eq!(blocks_of(&(a & b)), &naive_a & &naive_b);
            prop_assert_eq!(blocks_of(&(a - b)), &naive_a - &naive_b);
        }

        #[test]
        fn runs_are_maximal_and_cover_the_set((set, oracle) in set()) {
            let runs: Vec<_> = set.runs().collect();
            let covered: BTreeSet<u16> =
                runs.iter().flat_map(|(start, count)| *start..start + count).collect();
            prop_assert_eq!(covered, oracle);
            prop_assert!(runs.iter().all(|(_, count)| *count > 0));
            prop_assert!(runs.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0));
        }

        #[test]
        fn run_at_counts_blocks_of_equal_state(
            (set, oracle) in set(),
            (start, end) in (0..1024u16).prop_flat_map(|start| (Just(start), start + 1..=1024)),
        ) {
            let present = oracle.contains(&start);
            let count = (start..end).take_while(|block| oracle.contains(block) == present).count();
            let (got_present, got_count) = set.run_at(start, end);
            prop_assert_eq!((got_present, usize::from(got_count)), (present, count));
        }

        #[test]
        fn full_and_within_agree_with_the_count_of_blocks((set, oracle) in set(), blocks in 0..=1024u16) {
            prop_assert_eq!(set.is_within(blocks), oracle.iter().all(|block| *block < blocks));
            prop_assert_eq!(set.is_full(blocks), oracle.iter().copied().eq(0..blocks));
            prop_assert!(BlockSet::full(blocks).is_full(blocks));
            prop_assert_eq!(BlockSet::full(blocks).count(), blocks);
        }
    }

    #[test]
    fn block_order_in_words_is_little_endian() {
        let mut set = BlockSet::range(62, 3);
        set.insert_range(1, 1);
        assert_eq!(set.words(65), [0xC000_0000_0000_0002, 1]);
        assert_eq!(set.words(64), [0xC000_0000_0000_0002]);
        assert_eq!(set.words(16), set.words(64));
        assert_eq!(BlockSet::from_words(&[0xC000_0000_0000_0002, 1]), set);
    }

    #[test]
    #[should_panic(expected = "2 blocks at 1023 leave the set")]
    fn range_beyond_the_largest_cluster_panics() {
        let _ = BlockSet::range(1023, 2);
    }

    #[test]
    #[should_panic(expected = "leave the set")]
    fn range_whose_end_overflows_panics() {
        let _ = BlockSet::range(u16::MAX, u16::MAX);
    }

    #[test]
    #[should_panic(expected = "no block in 7..7")]
    fn run_in_an_empty_range_panics() {
        let _ = BlockSet::EMPTY.run_at(7, 7);
    }
}
