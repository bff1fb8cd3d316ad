//! The gates against a naive oracle: tokens as fractions, one queue, everything looked at.

use fathom_units::Monotonic;
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn rates(all: u64, read: u64, write: u64) -> Rates {
    Rates { all, read, write }
}

fn iops(all: u64, read: u64, write: u64) -> QosLimits {
    QosLimits { burst_s: 0, iops: rates(all, read, write), bandwidth: Rates::default() }
}

fn bandwidth(all: u64) -> QosLimits {
    QosLimits { burst_s: 0, iops: Rates::default(), bandwidth: rates(all, 0, 0) }
}

fn arrival(what: u32, direction: Direction, first: u64) -> Arrival<u32> {
    Arrival { what, direction, bytes: 4096, first, end: first + 1 }
}

/// How many requests of `bytes` a gate lets through up to `end`, when there are always some.
fn passed(gate: &mut Gate<u32>, direction: Direction, bytes: u64, begin: u64, end: u64) -> u64 {
    let mut count = 0;
    let mut now = Monotonic(begin);
    loop {
        gate.push(Arrival { bytes, ..arrival(0, direction, 0) });
        while gate.pop(now).is_none() {
            now = gate.opens_at(now).expect("something waits");
            if now.0 > end {
                return count;
            }
        }
        count += 1;
    }
}

#[test]
fn the_rate_is_exact_for_small_and_large_requests() {
    for (rate, bytes) in [(10 << 20, 4096), (10 << 20, 1 << 20), (1 << 40, 32 << 20), (7, 1)] {
        let mut gate = Gate::new(&bandwidth(rate), Monotonic(0));
        let count = passed(&mut gate, Direction::Write, bytes, 0, 10 * SECOND);
        let exact = 10 * rate / bytes;
        assert!((exact..=exact + 1).contains(&count), "{count} of {bytes} bytes at {rate}");
    }
}

#[test]
fn a_late_driver_loses_nothing_within_the_slack() {
    let mut gate = Gate::new(&iops(50_000, 0, 0), Monotonic(0));
    let mut count = 0_u64;
    for at in (0..=10 * SECOND).step_by(3_000_000) {
        for _ in 0..1000 {
            gate.push(arrival(0, Direction::Read, 0));
        }
        while gate.pop(Monotonic(at)).is_some() {
            count += 1;
        }
        gate.reads.clear();
    }
    assert!((499_500..=500_500).contains(&count), "{count}");
}

#[test]
fn what_an_idle_volume_saves_is_bounded_by_its_burst() {
    for (burst_s, saved) in [(0, 5), (2, 2000)] {
        let limits = QosLimits { burst_s, ..iops(1000, 0, 0) };
        let mut gate = Gate::new(&limits, Monotonic(0));
        let hour = 3600 * SECOND;
        let at_once = passed(&mut gate, Direction::Write, 4096, hour, hour);
        assert_eq!(at_once, saved + 1);
        let later = passed(&mut gate, Direction::Write, 4096, hour, hour + SECOND);
        assert!((999..=1001).contains(&later), "{later}");
    }
}

#[test]
fn a_limit_on_reads_holds_back_no_write() {
    let mut gate = Gate::new(&iops(0, 1, 0), Monotonic(0));
    for at in 0..3 {
        gate.push(arrival(1, Direction::Read, at));
        gate.push(arrival(2, Direction::Write, 10 + at));
    }
    let order: Vec<u32> =
        core::iter::from_fn(|| gate.pop(Monotonic(0))).map(|arrival| arrival.what).collect();
    assert_eq!(order, [1, 2, 2, 2]);
}

#[test]
fn what_overlaps_an_older_request_goes_after_it() {
    let mut gate = Gate::new(&iops(0, 1, 0), Monotonic(0));
    gate.push(arrival(1, Direction::Read, 5));
    gate.push(arrival(2, Direction::Read, 6));
    gate.push(arrival(3, Direction::Write, 6));
    gate.push(arrival(4, Direction::Write, 7));
    let now = Monotonic(0);
    assert_eq!(gate.pop(now).expect("the first goes").what, 1);
    assert!(gate.pop(now).is_none(), "both writes wait for the read of block 6");
    let opens = gate.opens_at(now).expect("the read waits");
    assert_eq!(opens, Monotonic(SECOND));
    let order: Vec<u32> =
        core::iter::from_fn(|| gate.pop(opens)).map(|arrival| arrival.what).collect();
    assert_eq!(order, [2, 3, 4]);
}

#[test]
fn a_change_counts_at_once_and_keeps_what_was_spent() {
    let mut gate = Gate::new(&bandwidth(1 << 20), Monotonic(0));
    gate.push(Arrival { bytes: 32 << 20, ..arrival(1, Direction::Write, 0) });
    gate.push(arrival(2, Direction::Write, 1));
    assert!(gate.pop(Monotonic(0)).is_some());
    assert_eq!(gate.opens_at(Monotonic(0)), Some(Monotonic(32 * SECOND)));
    gate.set(&bandwidth(32 << 20), Monotonic(0));
    assert_eq!(gate.opens_at(Monotonic(0)), Some(Monotonic(SECOND)), "bytes stay bytes");
    gate.set(&bandwidth(1 << 20), Monotonic(0));
    assert_eq!(gate.opens_at(Monotonic(0)), Some(Monotonic(SECOND)), "nobody waits longer for it");
    gate.set(&QosLimits::default(), Monotonic(0));
    assert_eq!(gate.pop(Monotonic(0)).expect("no limit is left").what, 2);
}

#[test]
fn extreme_limits_do_not_overflow() {
    for rate in [1, u64::MAX] {
        let limits = QosLimits { burst_s: u32::MAX, ..bandwidth(rate) };
        let mut gate = Gate::new(&limits, Monotonic(0));
        for now in [0, 1, u64::MAX / 2, u64::MAX - 1] {
            gate.push(Arrival { bytes: u64::MAX, ..arrival(1, Direction::Read, 0) });
            if gate.pop(Monotonic(now)).is_none() {
                assert!(gate.opens_at(Monotonic(now)) > Some(Monotonic(now)));
            }
        }
        gate.set(&bandwidth(1), Monotonic(u64::MAX));
    }
}

#[test]
fn gates_count_what_waits_and_for_how_long() {
    let mut gates = Gates::new();
    let (limited, free) = (ObjectId(1), ObjectId(2));
    gates.set(limited, &iops(1000, 0, 0), Monotonic(0));
    gates.set(free, &QosLimits::default(), Monotonic(0));
    assert!(gates.has(limited) && !gates.has(free));
    for _ in 0..3 {
        gates.push(limited, arrival(1, Direction::Read, 0));
    }
    assert!(gates.pop(Monotonic(0)).is_some() && gates.pop(Monotonic(0)).is_none());
    assert_eq!(gates.due(), Some(Monotonic(1_000_000)));
    assert_eq!(gates.held_back(limited).expect("it has limits").reads_waiting, 2);
    assert!(gates.pop(Monotonic(1_000_000)).is_some() && gates.pop(Monotonic(1_000_000)).is_none());
    assert_eq!(gates.remove(limited, Monotonic(1_500_000)), [1]);
    assert!(gates.is_idle() && gates.due().is_none() && !gates.has(limited));
}

#[test]
fn time_held_back_is_counted_when_it_ends() {
    let mut gates = Gates::new();
    let limited = ObjectId(1);
    gates.set(limited, &iops(1000, 0, 0), Monotonic(0));
    for _ in 0..3 {
        gates.push(limited, arrival(1, Direction::Write, 0));
    }
    for now in [0, 1_000_000, 2_000_000] {
        assert!(gates.pop(Monotonic(now)).is_some() && gates.pop(Monotonic(now)).is_none());
    }
    let held = gates.held_back(limited).expect("it has limits");
    assert_eq!((held.requests, held.time), (2, Duration::from_millis(3)));
}

/// A step of a random life of a gate.
#[derive(Clone, Debug)]
enum Step {
    Push {
        direction: Direction,
        bytes: u64,
        first: u64,
        count: u64,
    },
    /// So much time passes.
    Pass(u64),
    Set(QosLimits),
}

fn directions() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Read), Just(Direction::Write)]
}

/// Rates at which the time of a request is a whole number of nanoseconds or not.
fn some_rates() -> impl Strategy<Value = Rates> {
    let rate = || prop_oneof![3 => Just(0), 1 => 1_u64..10, 2 => 100_u64..1_000_000];
    (rate(), rate(), rate()).prop_map(|(all, read, write)| Rates { all, read, write })
}

fn some_limits() -> impl Strategy<Value = QosLimits> {
    let burst = prop_oneof![2 => Just(0_u32), 1 => 1_u32..3];
    (burst, some_rates(), some_rates()).prop_map(|(burst_s, iops, bandwidth)| QosLimits {
        burst_s,
        iops,
        bandwidth,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (directions(), 0_u64..100_000, 0_u64..16, 1_u64..4)
        .prop_map(|(direction, bytes, first, count)| Step::Push { direction, bytes, first, count });
    let step = prop_oneof![
        8 => push,
        6 => prop_oneof![0_u64..10_000, 0_u64..3_000_000_000].prop_map(Step::Pass),
        1 => some_limits().prop_map(Step::Set),
    ];
    prop::collection::vec(step, 1..80)
}

/// Each limit as (unit, direction, rate, level in tokens); requests in one list.
struct Oracle {
    limits: Vec<(Limit, u64, f64)>,
    depth: f64,
    waiting: Vec<Arrival<u32>>,
    now: u64,
}

impl Oracle {
    fn set(&mut self, limits: &QosLimits) {
        self.depth = f64::max(0.005, f64::from(limits.burst_s));
        let old = core::mem::take(&mut self.limits);
        self.limits = Limit::set(limits)
            .map(|(limit, rate)| {
                let before = old.iter().find(|old| old.0 == limit);
                let level = match before {
                    None => 0.0,
                    Some(&(_, _, level)) if level >= 0.0 => level.min(self.depth * rate as f64),
                    Some(&(_, slow, level)) => level * f64::min(1.0, rate as f64 / slow as f64),
                };
                (limit, rate, level)
            })
            .collect();
    }

    fn pass(&mut self, nanos: u64) {
        self.now += nanos;
        for (_, rate, level) in &mut self.limits {
            let more = *rate as f64 * nanos as f64 / 1e9;
            *level = (*level + more).min(self.depth * *rate as f64);
        }
    }

    /// Whether this request of the list may go, and how far its buckets are from saying otherwise.
    fn may_go(&self, at: usize) -> (bool, f64) {
        let candidate = &self.waiting[at];
        let older = &self.waiting[..at];
        let blocked = older.iter().any(|older| {
            older.direction == candidate.direction
                || older.first < candidate.end && candidate.first < older.end
        });
        let levels = || {
            let counting =
                self.limits.iter().filter(|(limit, ..)| limit.counts(candidate.direction));
            counting.map(|&(_, rate, level)| level / rate as f64)
        };
        let doubt = levels().map(f64::abs).fold(f64::INFINITY, f64::min);
        (!blocked && levels().all(|level| level >= 0.0), doubt)
    }

    fn go(&mut self, at: usize) {
        let gone = self.waiting.remove(at);
        for (limit, _, level) in &mut self.limits {
            if limit.counts(gone.direction) {
                *level -= match limit.unit {
                    Unit::Requests => 1.0,
                    Unit::Bytes => gone.bytes as f64,
                };
            }
        }
    }
}

proptest! {
    #[test]
    fn a_gate_does_what_a_naive_one_does(limits in some_limits(), steps in steps()) {
        let mut gate = Gate::new(&limits, Monotonic(0));
        let mut oracle =
            Oracle { limits: Vec::new(), depth: 0.0, waiting: Vec::new(), now: 0 };
        oracle.set(&limits);
        for (what, step) in (0..).zip(steps) {
            match step {
                Step::Push { direction, bytes, first, count } => {
                    let arrival = Arrival { what, direction, bytes, first, end: first + count };
                    gate.push(arrival);
                    oracle.waiting.push(arrival);
                }
                Step::Pass(nanos) => oracle.pass(nanos),
                Step::Set(limits) => {
                    gate.set(&limits, Monotonic(oracle.now));
                    oracle.set(&limits);
                }
            }
            let now = Monotonic(oracle.now);
            while let Some(gone) = gate.pop(now) {
                let at = oracle.waiting.iter().position(|waiting| waiting.what == gone.what);
                let at = at.expect("it waited");
                let (may_go, doubt) = oracle.may_go(at);
                prop_assert!(may_go || doubt < 1e-6, "{gone:?} went at {now:?}");
                let older = (0..at).find(|&older| {
                    let (may_go, doubt) = oracle.may_go(older);
                    may_go && doubt >= 1e-6
                });
                prop_assert!(older.is_none(), "{gone:?} overtook {:?}", older.map(|at| oracle.waiting[at]));
                oracle.go(at);
            }
            for at in 0..oracle.waiting.len() {
                let (may_go, doubt) = oracle.may_go(at);
                prop_assert!(!may_go || doubt < 1e-6, "{:?} was held back", oracle.waiting[at]);
            }
            let opens = gate.opens_at(now);
            prop_assert_eq!(opens.is_some(), !oracle.waiting.is_empty());
            prop_assert!(opens.is_none_or(|opens| opens > now));
        }
    }
}
