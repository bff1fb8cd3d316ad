//! [`LayerMap`] against a naive map, and its memory against the bars of the design.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::index::{BRANCH_MAX, DENSE_MIN, Leaf, SPARSE_MAX, page_of, present_of};
use super::slab::{NO_SLOT, place_of_slot, slots_of_chunk};
use super::*;

/// A map, the same map built naively, and the naive map's count of clusters.
struct Pair {
    map: LayerMap,
    oracle: BTreeMap<u32, Fragment>,
    allocated: usize,
}

impl Pair {
    fn new(blocks: u16) -> Self {
        Self { map: LayerMap::new(blocks), oracle: BTreeMap::new(), allocated: 0 }
    }

    fn set(&mut self, key: u32, fragment: Fragment) {
        self.map.set(LogicalCluster(key), fragment);
        let old = if fragment.is_absent() {
            self.oracle.remove(&key)
        } else {
            self.oracle.insert(key, fragment)
        };
        self.allocated += usize::from(fragment.cluster.is_some());
        self.allocated -= usize::from(old.is_some_and(|old| old.cluster.is_some()));
        assert_eq!(self.map.get(LogicalCluster(key)), fragment);
        assert_eq!(self.map.len(), self.oracle.len());
        assert_eq!(self.map.is_empty(), self.oracle.is_empty());
        assert_eq!(self.map.allocated(), self.allocated);
    }

    fn get(&self, key: u32) -> Fragment {
        self.oracle.get(&key).copied().unwrap_or(Fragment::ABSENT)
    }

    fn check_next(&self, from: u32) {
        let expected = self.oracle.range(from..).next();
        let expected = expected.map(|(key, fragment)| (LogicalCluster(*key), *fragment));
        assert_eq!(self.map.next(LogicalCluster(from)), expected);
        let rest = self.oracle.range(from..).take(600).map(|(key, _)| LogicalCluster(*key));
        assert!(self.map.iter_from(LogicalCluster(from)).take(600).map(|(lc, _)| lc).eq(rest));
    }

    fn check_range(&self, from: u32, to: u32) {
        let expected = self.oracle.iter().filter(|(key, _)| (from..to).contains(*key));
        let expected = expected.map(|(key, fragment)| (LogicalCluster(*key), *fragment));
        assert!(self.map.range(LogicalCluster(from), LogicalCluster(to)).eq(expected));
    }

    fn check_visibility(&self, key: u32, block: u16, limit: u16) {
        let fragment = self.get(key);
        let state = |block| match fragment.cluster {
            Some(cluster) if fragment.valid.contains(block) => Visibility::Data(cluster),
            _ if fragment.opaque.contains(block) => Visibility::Zero,
            _ => Visibility::Through,
        };
        let count = (block..limit).take_while(|other| state(*other) == state(block)).count();
        let (visibility, got_count) = self.map.visibility(LogicalCluster(key), block, limit);
        assert_eq!((visibility, usize::from(got_count)), (state(block), count));
    }

    /// Everything that is slow to check.
    fn check_all(&self) {
        assert!(
            self.map
                .iter()
                .map(|(lc, fragment)| (lc.0, fragment))
                .eq(self.oracle.iter().map(|(key, fragment)| (*key, *fragment)))
        );
        check_index(&self.map.index);
        let kinds = || self.map.index.entries(0).map(|(_, entry)| entry.unpack());
        check_slab(
            &self.map.parts,
            kinds().filter_map(|kind| if let Kind::Part(slot) = kind { Some(slot) } else { None }),
        );
        check_slab(
            &self.map.mixed,
            kinds().filter_map(|kind| if let Kind::Mixed(slot) = kind { Some(slot) } else { None }),
        );
        if self.map.is_empty() {
            assert_eq!(self.map.resident_bytes(), 0);
        }
    }
}

fn check_index(index: &Index) {
    let mut end_of_last = 0;
    for branch in &index.branches {
        assert!((1..=BRANCH_MAX).contains(&branch.leaves.len()));
        assert_eq!(branch.pages.len(), branch.leaves.len());
        assert_eq!(branch.first, branch.pages[0]);
        for (page, leaf) in branch.pages.iter().zip(&branch.leaves) {
            assert!(*page >= end_of_last, "page {page} is held by the leaf before");
            end_of_last = match leaf {
                Leaf::Sparse(entries) => {
                    assert!((1..SPARSE_MAX).contains(&entries.len()));
                    assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
                    assert!(page_of(entries[0].0) >= *page);
                    assert!(entries.iter().all(|(_, entry)| *entry != Entry::ABSENT));
                    page_of(entries[entries.len() - 1].0) + 1
                }
                Leaf::Dense { entries, live } => {
                    assert!(*live >= DENSE_MIN);
                    assert_eq!(present_of(*page, entries, 0).count(), usize::from(*live));
                    page + 1
                }
            };
        }
    }
}

/// Each slot is used once or on the free list of its chunk, and each chunk with a
/// free slot is known to be roomy.
fn check_slab(slab: &Slab, used: impl Iterator<Item = u32>) {
    let mut free: Vec<u32> = Vec::new();
    for (at, chunk) in slab.chunks.iter().enumerate() {
        let (first, slots) = slots_of_chunk(at);
        let is_roomy = slab.roomy[at / 64] >> (at % 64) & 1 == 1;
        assert_eq!(is_roomy, chunk.live < slots, "chunk {at} of {slots} slots: {}", chunk.live);
        assert_eq!(chunk.words.is_empty(), chunk.live == 0);
        if chunk.live > 0 {
            let mut next = chunk.free;
            while next != NO_SLOT {
                free.push(first + u32::from(next));
                next = u16::try_from(chunk.slot(next, slab.slot_words)[0]).expect("a position");
            }
            let end = first + u32::from(slots);
            let free_here = free.iter().filter(|slot| (first..end).contains(*slot)).count();
            assert_eq!(free_here + usize::from(chunk.live), usize::from(slots));
        }
    }
    assert!(slab.chunks.last().is_none_or(|chunk| chunk.live > 0));
    let mut all: Vec<u32> = used.chain(free.iter().copied()).collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "a slot has two owners");
    let live: usize = slab.chunks.iter().map(|chunk| usize::from(chunk.live)).sum();
    assert_eq!(all.len() - free.len(), live);
}

#[derive(Clone, Debug)]
enum Step {
    Set(u32, Fragment),
    Fill { from: u32, stride: u32, count: u32, fragment: Fragment },
    Next(u32),
    Range(u32, u32),
    Visibility { key: u32, block: u16, limit: u16 },
}

/// Keys of a few pages, of a few hundred pages, and of everywhere.
fn key() -> impl Strategy<Value = u32> {
    prop_oneof![0..1024u32, 0..100_000u32, u32::MAX - 600..=u32::MAX, any::<u32>()]
}

fn block_set(blocks: u16) -> impl Strategy<Value = BlockSet> {
    let ranges = (0..blocks, 1..=blocks)
        .prop_map(move |(start, count)| BlockSet::range(start, count.min(blocks - start)));
    prop_oneof![
        2 => Just(BlockSet::EMPTY),
        2 => Just(BlockSet::full(blocks)),
        3 => prop::collection::vec(ranges, 1..4)
            .prop_map(|ranges| ranges.into_iter().fold(BlockSet::EMPTY, |a, b| a | b)),
    ]
}

fn fragment(blocks: u16) -> impl Strategy<Value = Fragment> {
    let cluster = prop::option::weighted(0.7, (0..1u32 << 29).prop_map(ClusterNo));
    (cluster, block_set(blocks), block_set(blocks)).prop_map(|(cluster, valid, opaque)| Fragment {
        cluster,
        valid: if cluster.is_some() { valid } else { BlockSet::EMPTY },
        opaque,
    })
}

fn step(blocks: u16) -> impl Strategy<Value = Step> {
    let fill = (key(), prop_oneof![1..4u32, 1..2000u32], 1..700u32);
    let fragment_or_absent = || prop_oneof![2 => fragment(blocks), 1 => Just(Fragment::ABSENT)];
    let window = (0..blocks).prop_flat_map(move |block| (Just(block), block + 1..=blocks));
    prop_oneof![
        6 => (key(), fragment_or_absent()).prop_map(|(key, fragment)| Step::Set(key, fragment)),
        2 => (fill, fragment_or_absent()).prop_map(|((from, stride, count), fragment)| {
            Step::Fill { from, stride, count, fragment }
        }),
        2 => key().prop_map(Step::Next),
        1 => (key(), key()).prop_map(|(from, to)| Step::Range(from, to)),
        4 => (key(), window)
            .prop_map(|(key, (block, limit))| Step::Visibility { key, block, limit }),
    ]
}

fn plan() -> impl Strategy<Value = (u16, Vec<Step>)> {
    prop_oneof![Just(16u16), Just(256), Just(1024)]
        .prop_flat_map(|blocks| (Just(blocks), prop::collection::vec(step(blocks), 1..60)))
}

proptest! {
    #[test]
    fn map_equals_naive_map((blocks, steps) in plan()) {
        let mut pair = Pair::new(blocks);
        for step in steps {
            match step {
                Step::Set(key, fragment) => pair.set(key, fragment),
                Step::Fill { from, stride, count, fragment } => {
                    for nth in 0..count {
                        pair.set(from.wrapping_add(nth.wrapping_mul(stride)), fragment);
                    }
                    pair.check_all();
                }
                Step::Next(from) => pair.check_next(from),
                Step::Range(from, to) => pair.check_range(from, to),
                Step::Visibility { key, block, limit } => pair.check_visibility(key, block, limit),
            }
        }
        pair.check_all();
        for key in pair.oracle.keys().copied().collect::<Vec<_>>() {
            pair.check_visibility(key, 0, blocks);
            pair.check_visibility(key, blocks / 2, blocks);
        }
        for key in pair.oracle.keys().copied().collect::<Vec<_>>() {
            pair.set(key, Fragment::ABSENT);
        }
        pair.check_all();
    }

    #[test]
    fn fragment_comes_back_as_it_was_set(
        (blocks, fragments) in prop_oneof![Just(16u16), Just(32), Just(64), Just(256), Just(1024)]
            .prop_flat_map(|blocks| (Just(blocks), prop::collection::vec(fragment(blocks), 1..20))),
    ) {
        let mut pair = Pair::new(blocks);
        for fragment in fragments {
            pair.set(5, fragment);
            for block in 0..blocks {
                pair.check_visibility(5, block, blocks);
            }
            pair.check_all();
        }
    }
}

/// A repeatable sequence of numbers that look random (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let scaled = (((z ^ (z >> 31)) >> 32) * u64::from(bound)) >> 32;
        u32::try_from(scaled).expect("below the bound")
    }

    fn shuffled(&mut self, count: u32) -> Vec<u32> {
        let mut keys: Vec<u32> = (0..count).collect();
        for last in (1..count).rev() {
            keys.swap(last as usize, self.below(last + 1) as usize);
        }
        keys
    }
}

const MILLION: u32 = 1 << 20;

fn full_fragment(cluster: u32, blocks: u16) -> Fragment {
    let valid = BlockSet::full(blocks);
    Fragment { cluster: Some(ClusterNo(cluster)), valid, opaque: BlockSet::EMPTY }
}

fn part_fragment(cluster: u32, blocks: u16) -> Fragment {
    let valid = BlockSet::range(3, blocks / 2);
    Fragment { valid, ..full_fragment(cluster, blocks) }
}

fn mixed_fragment(cluster: u32, blocks: u16) -> Fragment {
    Fragment { opaque: BlockSet::range(1, 9), ..part_fragment(cluster, blocks) }
}

fn map_of(keys: impl IntoIterator<Item = u32>, fragment: fn(u32, u16) -> Fragment) -> LayerMap {
    let mut map = LayerMap::new(256);
    keys.into_iter().for_each(|key| map.set(LogicalCluster(key), fragment(key, 256)));
    map
}

/// Checks that the map takes at most `millibytes` / 1000 bytes for each fragment.
#[track_caller]
fn assert_resident(map: &LayerMap, millibytes: usize) {
    let bytes = map.resident_bytes();
    assert!(bytes * 1000 <= map.len() * millibytes, "{bytes} bytes for {}", map.len());
    // No less than the entries themselves: the count does count something.
    assert!(bytes >= map.len() * 4, "{bytes} bytes for {}", map.len());
}

#[test]
fn large_map_with_many_branches_equals_naive_map() {
    let mut numbers = Numbers(1);
    let mut pair = Pair::new(16);
    let space = 400 * 256 * 16;
    for round in 0..6 {
        for _ in 0..60_000 {
            // Every second round is mostly removals, of runs, to empty whole leaves.
            let key = numbers.below(space);
            match (round % 2, numbers.below(4)) {
                (0, 0) => pair.set(key, mixed_fragment(key, 16)),
                (0, _) => pair.set(key, full_fragment(key, 16)),
                (_, 0) => pair.set(key, part_fragment(key, 16)),
                (_, _) => {
                    let keys: Vec<u32> =
                        pair.oracle.range(key..).take(4).map(|(key, _)| *key).collect();
                    keys.into_iter().for_each(|key| pair.set(key, Fragment::ABSENT));
                }
            }
        }
        pair.check_all();
        assert!(round != 0 || pair.map.index.branches.len() > 2, "one branch tests no branches");
        for _ in 0..1000 {
            pair.check_next(numbers.below(space));
        }
    }
}

#[test]
fn dense_map_filled_and_emptied_in_any_order_equals_naive_map() {
    let count = 600 * 256;
    let orders: [fn(&mut Numbers, u32) -> Vec<u32>; 3] = [
        |_, count| (0..count).collect(),
        |_, count| (0..count).rev().collect(),
        |numbers, count| numbers.shuffled(count),
    ];
    let mut numbers = Numbers(2);
    for fill in orders {
        for empty in orders {
            let mut pair = Pair::new(16);
            fill(&mut numbers, count).iter().for_each(|key| pair.set(*key, part_fragment(7, 16)));
            pair.check_all();
            let keys = empty(&mut numbers, count);
            for half in keys.chunks(keys.len() / 2) {
                half.iter().for_each(|key| pair.set(*key, Fragment::ABSENT));
                pair.check_all();
            }
            assert!(pair.map.index.branches.is_empty() && pair.map.parts.chunks.is_empty());
        }
    }
}

#[test]
fn sparse_leaf_that_lost_its_first_page_becomes_dense_in_its_own() {
    let mut pair = Pair::new(16);
    pair.set(0, full_fragment(1, 16));
    (256..300).for_each(|key| pair.set(key, full_fragment(key, 16)));
    pair.set(0, Fragment::ABSENT);
    (300..512).for_each(|key| pair.set(key, full_fragment(key, 16)));
    pair.check_all();
    assert!(matches!(pair.map.index.branches[0].leaves[..], [Leaf::Dense { live: 256, .. }]));
    pair.set(3, full_fragment(1, 16));
    pair.check_all();
}

#[test]
fn branches_with_few_leaves_are_joined() {
    let mut map = map_of(0..MILLION, full_fragment);
    assert!(map.index.branches.len() > 10);
    (0..MILLION).filter(|key| key % 65_536 != 7).for_each(|key| {
        map.set(LogicalCluster(key), Fragment::ABSENT);
    });
    check_index(&map.index);
    assert_eq!((map.len(), map.index.branches.len()), (16, 1));
}

#[test]
fn last_logical_cluster_can_be_held() {
    let mut pair = Pair::new(256);
    pair.set(u32::MAX, part_fragment(1, 256));
    pair.check_next(u32::MAX);
    pair.check_range(0, u32::MAX);
    assert_eq!(pair.map.iter().count(), 1);
    pair.check_all();
}

#[test]
fn places_of_slots_follow_one_another() {
    let mut next = 0;
    for chunk in 0..20 {
        let (first, slots) = slots_of_chunk(chunk);
        assert_eq!(first, next);
        for position in 0..slots {
            assert_eq!(place_of_slot(next), (chunk, position));
            next += 1;
        }
    }
    assert_eq!(slots_of_chunk(0), (0, 4));
    assert_eq!(slots_of_chunk(8), (1020, 1024));
    assert_eq!(slots_of_chunk(9), (2044, 1024));
}

#[test]
fn empty_map_takes_less_than_200_bytes() {
    let mut map = LayerMap::new(1024);
    assert_eq!(map.resident_bytes(), 0);
    assert!(size_of::<LayerMap>() < 200, "{}", size_of::<LayerMap>());
    map.set(LogicalCluster(9), mixed_fragment(9, 1024));
    map.set(LogicalCluster(9), Fragment::ABSENT);
    assert_eq!(map.resident_bytes(), 0);
}

#[test]
fn million_full_fragments_take_at_most_4_5_bytes_each() {
    assert_resident(&map_of(0..MILLION, full_fragment), 4_500);
    assert_resident(&map_of((0..MILLION).rev(), full_fragment), 4_500);
    assert_resident(&map_of(Numbers(3).shuffled(MILLION), full_fragment), 4_500);
}

#[test]
fn million_part_fragments_take_at_most_43_bytes_each() {
    assert_resident(&map_of(0..MILLION, part_fragment), 43_000);
    assert_resident(&map_of(Numbers(4).shuffled(MILLION), part_fragment), 43_000);
}

#[test]
fn thousand_fragments_spread_over_a_volume_take_at_most_20_bytes_each() {
    for space in [2000, 20_000, MILLION, 64 * MILLION] {
        let mut numbers = Numbers(u64::from(space));
        let map = map_of((0..1000).map(|_| numbers.below(space)), full_fragment);
        assert_resident(&map, 20_000);
    }
}

#[test]
fn fragments_at_any_density_take_at_most_20_bytes_each() {
    for percent in 1..100u32 {
        let mut numbers = Numbers(u64::from(percent));
        let map = map_of((0..100_000).filter(|_| numbers.below(100) < percent), full_fragment);
        assert_resident(&map, 20_000);
    }
}

#[test]
fn fragments_that_become_full_leave_no_slots_behind() {
    let mut map = map_of(0..10_000, mixed_fragment);
    for key in Numbers(5).shuffled(10_000) {
        map.set(LogicalCluster(key), full_fragment(key, 256));
    }
    assert_eq!(map.parts.resident_bytes() + map.mixed.chunks.len(), 0);
    assert_resident(&map, 5_000);
}

#[test]
fn removals_give_memory_back() {
    let mut map = map_of(0..MILLION, part_fragment);
    let before = map.resident_bytes();
    (0..MILLION).filter(|key| key % 64 != 0).for_each(|key| {
        map.set(LogicalCluster(key), Fragment::ABSENT);
    });
    // The survivors are spread over all chunks of slots, but the index shrinks.
    assert!(map.index.resident_bytes() <= map.len() * 20, "{}", map.index.resident_bytes());
    assert!(map.resident_bytes() < before);
    check_index(&map.index);
}

#[test]
#[should_panic(expected = "has blocks beyond 16")]
fn set_of_a_block_beyond_the_cluster_panics() {
    LayerMap::new(16).set(LogicalCluster(0), full_fragment(0, 32));
}

#[test]
#[should_panic(expected = "has data without a cluster")]
fn set_of_data_without_a_cluster_panics() {
    let fragment = Fragment { cluster: None, ..full_fragment(0, 16) };
    LayerMap::new(16).set(LogicalCluster(0), fragment);
}

#[test]
#[should_panic(expected = "cluster number")]
fn set_of_a_cluster_number_beyond_29_bits_panics() {
    LayerMap::new(16).set(LogicalCluster(0), part_fragment(1 << 29, 16));
}

#[test]
#[should_panic(expected = "blocks 4..17 of 16")]
fn visibility_beyond_the_cluster_panics() {
    let _ = LayerMap::new(16).visibility(LogicalCluster(0), 4, 17);
}

#[test]
#[should_panic(expected = "24 blocks per cluster")]
fn odd_cluster_size_panics() {
    let _ = LayerMap::new(24);
}
