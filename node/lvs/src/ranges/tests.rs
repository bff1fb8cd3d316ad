//! Tests of the ranges: stories, and every sequence of calls against the obvious way.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// The obvious way: every claim is compared with every other one.
#[derive(Default)]
struct Naive {
    held: Vec<(u32, u64, u64, Hold)>,
    waiting: VecDeque<(u32, u64, u64, Hold)>,
}

fn excludes(one: &(u32, u64, u64, Hold), other: &(u32, u64, u64, Hold)) -> bool {
    let together = match (one.3, other.3) {
        (Hold::Write, _) | (_, Hold::Write) | (Hold::Barrier, Hold::Barrier) => false,
        (Hold::Read, _) | (_, Hold::Read) => true,
    };
    one.1 < other.2 && other.1 < one.2 && !together
}

impl Naive {
    fn acquire(&mut self, holder: u32, first: u64, end: u64, hold: Hold) -> bool {
        let claim = (holder, first, end, hold);
        let free = !self.held.iter().chain(&self.waiting).any(|other| excludes(other, &claim));
        if free {
            self.held.push(claim);
        } else {
            self.waiting.push_back(claim);
        }
        free
    }

    fn end(&mut self, holder: u32) -> Vec<u32> {
        self.held.retain(|claim| claim.0 != holder);
        self.waiting.retain(|claim| claim.0 != holder);
        let mut granted = Vec::new();
        let mut at = 0;
        while at < self.waiting.len() {
            let claim = self.waiting[at];
            let before = self.waiting.iter().take(at);
            if self.held.iter().chain(before).any(|other| excludes(other, &claim)) {
                at += 1;
            } else {
                granted.push(claim.0);
                self.held.push(claim);
                self.waiting.remove(at);
            }
        }
        granted
    }
}

/// What holds between two calls.
fn check(ranges: &Ranges<u32>) {
    let mut covered = 0;
    for (&start, segment) in &ranges.segments {
        assert!(covered <= start && start < segment.end, "segments overlap");
        covered = segment.end;
        assert!(!segment.is_empty(), "an empty segment is left");
        let named = [segment.write, segment.barrier, segment.read];
        for key in named.into_iter().flatten().chain(segment.reads.iter().copied()) {
            let claim = &ranges.claims[key.0 as usize];
            assert!(claim.first <= start && segment.end <= claim.end, "beyond its range");
        }
    }
    for (at, &(first, end, key)) in ranges.alone.iter().enumerate() {
        let claim = &ranges.claims[key.0 as usize];
        assert!(claim.blockers == 0 && claim.dependents.is_empty(), "not alone");
        let others = ranges.alone[at + 1..].iter();
        assert!(others.clone().all(|&(other, until, _)| until <= first || end <= other));
        let before = ranges.segments.range(..end).next_back();
        assert!(before.is_none_or(|(_, segment)| segment.end <= first), "not alone");
    }
    let edges = |claim: &Claim<u32>| claim.dependents.len();
    let dependents: usize = ranges.claims.iter().map(|(_, claim)| edges(claim)).sum();
    let blockers: u32 = ranges.claims.iter().map(|(_, claim)| claim.blockers).sum();
    assert_eq!(dependents, blockers as usize);
    assert!(!ranges.is_idle() || ranges.segments.is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Acquire {
        first: u64,
        blocks: u64,
        hold: Hold,
        or_not: bool,
    },
    /// Release the held claim, or withdraw the waiting one, at this place among all.
    End(prop::sample::Index),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let hold = prop_oneof![
        3 => Just(Hold::Read),
        3 => Just(Hold::Write),
        1 => Just(Hold::Barrier),
    ];
    let blocks = prop_oneof![4 => 1..4u64, 1 => 4..40u64, 1 => Just(u64::MAX)];
    let acquire = (0..24u64, blocks, hold, any::<bool>())
        .prop_map(|(first, blocks, hold, or_not)| Call::Acquire { first, blocks, hold, or_not });
    let end = any::<prop::sample::Index>().prop_map(Call::End);
    // More or fewer than may stand alone; close together, or far apart.
    (1..8u32, 1..8u64).prop_flat_map(move |(ends, apart)| {
        let acquire = acquire.clone().prop_map(move |call| match call {
            Call::Acquire { first, blocks, hold, or_not } => {
                Call::Acquire { first: first * apart, blocks, hold, or_not }
            }
            end @ Call::End(_) => end,
        });
        prop::collection::vec(prop_oneof![5 => acquire, ends => end.clone()], 0..150)
    })
}

proptest! {
    #[test]
    fn ranges_equal_the_obvious_way(calls in calls(), withdrawals in any::<bool>()) {
        let (mut ranges, mut naive) = (Ranges::new(), Naive::default());
        let mut keys: Vec<(u32, ClaimKey)> = Vec::new();
        for (holder, call) in (0u32..).zip(calls) {
            match call {
                Call::Acquire { first, blocks, hold, or_not: true } => {
                    let end = first.saturating_add(blocks);
                    let claim = (holder, first, end, hold);
                    let mut others = naive.held.iter().chain(&naive.waiting);
                    let free = !others.any(|other| excludes(other, &claim));
                    let key = ranges.try_acquire(holder, first, end, hold);
                    prop_assert_eq!(key.is_some(), free);
                    if let Some(key) = key {
                        naive.acquire(holder, first, end, hold);
                        keys.push((holder, key));
                    }
                }
                Call::Acquire { first, blocks, hold, or_not: false } => {
                    let end = first.saturating_add(blocks);
                    let (key, held) = ranges.acquire(holder, first, end, hold);
                    prop_assert_eq!(held, naive.acquire(holder, first, end, hold));
                    keys.push((holder, key));
                }
                Call::End(_) if keys.is_empty() => {}
                Call::End(index) => {
                    let (holder, key) = keys[index.index(keys.len())];
                    let mut granted = Vec::new();
                    if naive.held.iter().any(|claim| claim.0 == holder) {
                        ranges.release(key, &mut granted);
                    } else if withdrawals {
                        ranges.withdraw(key, &mut granted);
                    } else {
                        continue;
                    }
                    keys.retain(|&(other, _)| other != holder);
                    prop_assert_eq!(granted, naive.end(holder));
                }
            }
            check(&ranges);
            prop_assert_eq!(ranges.is_idle(), keys.is_empty());
        }
    }
}

#[test]
fn overlapping_writes_start_in_the_order_of_arrival() {
    let mut ranges = Ranges::new();
    let mut granted = Vec::new();
    let (one, held) = ranges.acquire(1, 0, 8, Hold::Write);
    assert!(held);
    let (two, held) = ranges.acquire(2, 4, 12, Hold::Write);
    assert!(!held);
    let (_, held) = ranges.acquire(3, 8, 16, Hold::Read);
    assert!(!held, "must not overtake the waiting write");
    assert!(ranges.acquire(4, 16, 20, Hold::Write).1);
    ranges.release(one, &mut granted);
    assert_eq!(granted, [2]);
    ranges.release(two, &mut granted);
    assert_eq!(granted, [2, 3]);
}

#[test]
fn a_barrier_lets_reads_pass_and_holds_writes() {
    let mut ranges = Ranges::new();
    let mut granted = Vec::new();
    let (one, _) = ranges.acquire(1, 0, 8, Hold::Write);
    let (two, held) = ranges.acquire(2, 0, u64::MAX, Hold::Barrier);
    assert!(!held);
    let (three, held) = ranges.acquire(3, 100, 101, Hold::Write);
    assert!(!held);
    let (four, held) = ranges.acquire(4, 200, 201, Hold::Read);
    assert!(held);
    let (five, held) = ranges.acquire(5, 100, 101, Hold::Read);
    assert!(!held, "the write before it comes first");
    ranges.release(one, &mut granted);
    assert_eq!(granted, [2]);
    ranges.release(two, &mut granted);
    assert_eq!(granted, [2, 3]);
    ranges.release(three, &mut granted);
    assert_eq!(granted, [2, 3, 5]);
    ranges.release(four, &mut granted);
    ranges.release(five, &mut granted);
    assert!(ranges.is_idle());
}

#[test]
fn withdrawing_a_waiting_claim_lets_later_ones_start() {
    let mut ranges = Ranges::new();
    let mut granted = Vec::new();
    assert!(ranges.acquire(1, 0, 8, Hold::Read).1);
    let (two, held) = ranges.acquire(2, 0, 8, Hold::Write);
    assert!(!held);
    assert!(!ranges.acquire(3, 0, 8, Hold::Read).1);
    ranges.withdraw(two, &mut granted);
    assert_eq!(granted, [3]);
}

#[test]
fn who_waits_behind_a_barrier_knows_only_the_barrier() {
    let mut ranges = Ranges::new();
    let (barrier, _) = ranges.acquire(0, 0, u64::MAX, Hold::Barrier);
    let keys: Vec<ClaimKey> =
        (1..5000).map(|holder| ranges.acquire(holder, 7, 8, Hold::Write).0).collect();
    assert!(ranges.claims.iter().all(|(_, claim)| claim.blockers <= 1));
    let mut granted = Vec::new();
    ranges.release(barrier, &mut granted);
    for key in keys {
        ranges.release(key, &mut granted);
    }
    assert_eq!(granted, (1..5000).collect::<Vec<_>>());
}

#[test]
fn reads_that_come_and_go_leave_no_trace_in_a_barrier() {
    let mut ranges = Ranges::new();
    let (barrier, _) = ranges.acquire(0, 0, u64::MAX, Hold::Barrier);
    for at in 0..1000 {
        let (key, held) = ranges.acquire(1, 2 * at, 2 * at + 1, Hold::Read);
        assert!(held);
        ranges.release(key, &mut Vec::new());
    }
    assert_eq!(ranges.segments.len(), 1);
    ranges.release(barrier, &mut Vec::new());
    assert!(ranges.is_idle());
}

#[test]
#[should_panic(expected = "only what is held is released")]
fn releasing_what_waits_is_a_bug() {
    let mut ranges = Ranges::new();
    let _ = ranges.acquire(1, 0, 8, Hold::Write);
    let (waiting, _) = ranges.acquire(2, 0, 8, Hold::Write);
    ranges.release(waiting, &mut Vec::new());
}

#[test]
fn a_holder_has_one_claim_on_each_volume() {
    let mut claims = Claims::default();
    for object in 0..3u32 {
        claims.put(ObjectId(u64::from(object)), ClaimKey(10 + object));
    }
    for object in [1, 0, 2] {
        assert_eq!(claims.take(ObjectId(u64::from(object))), ClaimKey(10 + object));
    }
}
