//! Limits of volumes: which requests wait, and since when the next one may go.
//!
//! ```text
//!   submit --> Gate of the volume: reads  --> all buckets open? --> ranges, tasks
//!                                  writes -->
//! ```
//!
//! Each limit is a token [`Bucket`]. A request goes when none of its buckets is in debt, and is
//! charged in full then, so that a bucket may fall into debt by one request: the rate is exact
//! for requests of any size, however small the bucket.
//!
//! - Reads and compares wait in one queue, writes and zeroes in another, each in the order of
//!   arrival: a limit on reads holds back no write. When both could go, the older one does.
//! - A request goes after every older one that it overlaps: the order among them stays that
//!   of submission. While it waits for one of the other queue, those behind it in its own do too.
//! - A volume without limits has no [`Gate`], and nothing here is looked at for it but whether
//!   there are gates at all. A gate is looked at when it is due, never all of them.
//! - What waits is bounded by what the submitters have under way.
//!
//! The meeting point with the store is [`crate::limits`].

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fathom_units::Monotonic;

use crate::{
    format::op::{QosLimits, Rates},
    geometry::ObjectId,
};

#[cfg(test)]
mod tests;

/// What a bucket saves though there is no burst: so much lateness of its driver costs nothing.
pub(crate) const SLACK: Duration = Duration::from_millis(5);
/// A bucket counts in these parts of a token, so that a nanosecond at any rate is a whole number.
const PARTS: i128 = 1_000_000_000;

/// A token bucket: so many tokens a second, saved up to its depth.
#[derive(Clone, Debug)]
struct Bucket {
    /// Tokens per second, never zero.
    rate: u64,
    /// The time in which the bucket fills.
    depth: Duration,
    /// In billionths of a token; negative when in debt.
    level: i128,
    /// The moment of this level.
    at: Monotonic,
}

impl Bucket {
    /// A bucket in which nothing has been saved yet.
    fn new(rate: u64, depth: Duration, now: Monotonic) -> Self {
        Self { rate, depth, level: 0, at: now }
    }

    fn most(&self) -> i128 {
        let nanos = i128::try_from(self.depth.as_nanos()).expect("a duration in nanoseconds");
        nanos.saturating_mul(self.rate.into())
    }

    fn refill(&mut self, now: Monotonic) {
        let nanos = i128::from(now.0.saturating_sub(self.at.0));
        let more = nanos.saturating_mul(self.rate.into());
        self.level = self.level.saturating_add(more).min(self.most());
        self.at = self.at.max(now);
    }

    /// Whether a request may go, as of the last refill.
    fn is_open(&self) -> bool {
        self.level >= 0
    }

    /// Charges a request.
    fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(i128::from(tokens) * PARTS);
    }

    /// The first moment at which it is open.
    fn opens_at(&self) -> Monotonic {
        let rate = i128::from(self.rate);
        let nanos = (self.level.min(0).saturating_neg() + rate - 1) / rate;
        Monotonic(self.at.0.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Goes on at another rate. A debt does not take longer to be paid than it would have.
    fn change(&mut self, rate: u64, depth: Duration, now: Monotonic) {
        self.refill(now);
        if self.level < 0 && rate < self.rate {
            let owed = self.level / i128::from(self.rate);
            self.level = owed.saturating_mul(rate.into());
        }
        self.rate = rate;
        self.depth = depth;
        self.level = self.level.min(self.most());
    }
}

/// Which way a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Read, Self::Write];

    fn other(self) -> Self {
        match self {
            Self::Read => Self::Write,
            Self::Write => Self::Read,
        }
    }
}

/// What a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Requests,
    Bytes,
}

/// One of the six limits of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Limit {
    unit: Unit,
    /// What it is for; none: both directions together.
    direction: Option<Direction>,
}

impl Limit {
    /// The limits that are set, with their rates.
    fn set(limits: &QosLimits) -> impl Iterator<Item = (Self, u64)> {
        let of = |unit, Rates { all, read, write }| {
            let directions = [None, Some(Direction::Read), Some(Direction::Write)];
            directions.map(|direction| Self { unit, direction }).into_iter().zip([all, read, write])
        };
        of(Unit::Requests, limits.iops)
            .chain(of(Unit::Bytes, limits.bandwidth))
            .filter(|&(_, rate)| rate > 0)
    }

    fn counts(self, direction: Direction) -> bool {
        self.direction.is_none_or(|of| of == direction)
    }
}

/// A request that comes to a gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<T> {
    pub(crate) what: T,
    pub(crate) direction: Direction,
    /// What it counts as beside one request.
    pub(crate) bytes: u64,
    /// Blocks of 4 KiB, `first..end`.
    pub(crate) first: u64,
    pub(crate) end: u64,
}

struct Waiting<T> {
    arrival: Arrival<T>,
    number: u64,
    /// The last request of the other direction that has to go before.
    behind: Option<u64>,
    /// When it was first held back.
    since: Option<Monotonic>,
}

/// What the limits of a volume or snapshot have held back.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HeldBack {
    /// Reads and compares that wait now.
    pub reads_waiting: usize,
    /// Writes and zeroes that wait now.
    pub writes_waiting: usize,
    /// Requests that were held back and wait no more, since the pool was opened.
    pub requests: u64,
    /// For how long, all together.
    pub time: Duration,
}

/// The limits of one volume or snapshot, and what waits for them; `T` is a request.
pub(crate) struct Gate<T> {
    buckets: Vec<(Limit, Bucket)>,
    reads: VecDeque<Waiting<T>>,
    writes: VecDeque<Waiting<T>>,
    next_number: u64,
    due: Option<Monotonic>,
    requests: u64,
    time: Duration,
}

impl<T> Gate<T> {
    pub(crate) fn new(limits: &QosLimits, now: Monotonic) -> Self {
        let mut gate = Self {
            buckets: Vec::new(),
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            next_number: 0,
            due: None,
            requests: 0,
            time: Duration::ZERO,
        };
        gate.set(limits, now);
        gate
    }

    /// Other limits count from now on, for what waits, too. What was spent or saved under a limit
    /// that stays is kept.
    pub(crate) fn set(&mut self, limits: &QosLimits, now: Monotonic) {
        let depth = SLACK.max(Duration::from_secs(limits.burst_s.into()));
        let old = core::mem::take(&mut self.buckets);
        for (limit, rate) in Limit::set(limits) {
            let before = old.iter().find(|&&(of, _)| of == limit);
            let mut bucket =
                before.map_or_else(|| Bucket::new(rate, depth, now), |(_, bucket)| bucket.clone());
            bucket.change(rate, depth, now);
            self.buckets.push((limit, bucket));
        }
    }

    fn queue(&self, direction: Direction) -> &VecDeque<Waiting<T>> {
        match direction {
            Direction::Read => &self.reads,
            Direction::Write => &self.writes,
        }
    }

    fn queue_mut(&mut self, direction: Direction) -> &mut VecDeque<Waiting<T>> {
        match direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        }
    }

    /// Takes a request in.
    pub(crate) fn push(&mut self, arrival: Arrival<T>) {
        let overlaps = |other: &&Waiting<T>| {
            arrival.first < other.arrival.end && other.arrival.first < arrival.end
        };
        let others = self.queue(arrival.direction.other());
        let behind = others.iter().rev().find(overlaps).map(|other| other.number);
        let number = self.next_number;
        self.next_number += 1;
        let direction = arrival.direction;
        self.queue_mut(direction).push_back(Waiting { arrival, number, behind, since: None });
    }

    /// The head of a queue, when nothing older has to go before it.
    fn head(&self, direction: Direction) -> Option<&Waiting<T>> {
        let head = self.queue(direction).front()?;
        let other = self.queue(direction.other()).front();
        let free = match (head.behind, other) {
            (Some(behind), Some(other)) => other.number > behind,
            _ => true,
        };
        free.then_some(head)
    }

    /// Lets the next request through, if one may go at `now`.
    pub(crate) fn pop(&mut self, now: Monotonic) -> Option<Arrival<T>> {
        for (_, bucket) in &mut self.buckets {
            bucket.refill(now);
        }
        let open = |direction: &Direction| {
            self.buckets.iter().all(|(limit, bucket)| !limit.counts(*direction) || bucket.is_open())
        };
        let heads = Direction::BOTH.into_iter().filter(open);
        let heads = heads.filter_map(|direction| Some((self.head(direction)?.number, direction)));
        let (_, direction) = heads.min_by_key(|&(number, _)| number)?;
        let waiting = self.queue_mut(direction).pop_front().expect("it is the head");
        self.ended(&waiting, now);
        for (limit, bucket) in &mut self.buckets {
            if limit.counts(direction) {
                bucket.take(match limit.unit {
                    Unit::Requests => 1,
                    Unit::Bytes => waiting.arrival.bytes,
                });
            }
        }
        Some(waiting.arrival)
    }

    fn ended(&mut self, waiting: &Waiting<T>, now: Monotonic) {
        if let Some(since) = waiting.since {
            self.requests += 1;
            self.time = self.time.saturating_add(now.since(since));
        }
    }

    /// When the next request may go, after [`Gate::pop`] let none through at `now`.
    fn opens_at(&mut self, now: Monotonic) -> Option<Monotonic> {
        for direction in Direction::BOTH {
            let queue = self.queue_mut(direction);
            for waiting in queue.iter_mut().rev().take_while(|waiting| waiting.since.is_none()) {
                waiting.since = Some(now);
            }
        }
        let heads = Direction::BOTH.into_iter().filter(|&direction| self.head(direction).is_some());
        heads
            .filter_map(|direction| {
                let buckets = self.buckets.iter().filter(|(limit, _)| limit.counts(direction));
                buckets.map(|(_, bucket)| bucket.opens_at()).max()
            })
            .min()
    }

    fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.writes.is_empty()
    }

    fn held_back(&self) -> HeldBack {
        HeldBack {
            reads_waiting: self.reads.len(),
            writes_waiting: self.writes.len(),
            requests: self.requests,
            time: self.time,
        }
    }
}

/// The gates of all volumes and snapshots that have limits.
pub(crate) struct Gates<T> {
    gates: BTreeMap<ObjectId, Gate<T>>,
    /// When something may go, by gate.
    due: BTreeSet<(Monotonic, ObjectId)>,
    waiting: usize,
}

impl<T> Gates<T> {
    pub(crate) fn new() -> Self {
        Self { gates: BTreeMap::new(), due: BTreeSet::new(), waiting: 0 }
    }

    /// Whether no request waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting == 0
    }

    /// Whether requests to `object` have to come to its gate.
    pub(crate) fn has(&self, object: ObjectId) -> bool {
        !self.gates.is_empty() && self.gates.contains_key(&object)
    }

    pub(crate) fn held_back(&self, object: ObjectId) -> Option<HeldBack> {
        self.gates.get(&object).map(Gate::held_back)
    }

    /// The limits of `object` from now on.
    pub(crate) fn set(&mut self, object: ObjectId, limits: &QosLimits, now: Monotonic) {
        match self.gates.get_mut(&object) {
            Some(gate) => gate.set(limits, now),
            None if Limit::set(limits).next().is_none() => return,
            None => drop(self.gates.insert(object, Gate::new(limits, now))),
        }
        self.look_at(object);
    }

    /// Takes a request to `object`, which has a gate.
    ///
    /// # Panics
    ///
    /// When it has none.
    pub(crate) fn push(&mut self, object: ObjectId, arrival: Arrival<T>) {
        self.gates.get_mut(&object).expect("the object has limits").push(arrival);
        self.waiting += 1;
        self.look_at(object);
    }

    /// The next request that may go at `now`.
    pub(crate) fn pop(&mut self, now: Monotonic) -> Option<(ObjectId, Arrival<T>)> {
        while let Some(&(at, object)) = self.due.first()
            && at <= now
        {
            let gate = self.gates.get_mut(&object).expect("only gates are due");
            if let Some(arrival) = gate.pop(now) {
                self.waiting -= 1;
                return Some((object, arrival));
            }
            let opens = gate.opens_at(now);
            self.reschedule(object, opens);
            let gate = &self.gates[&object];
            if gate.buckets.is_empty() && gate.is_empty() {
                self.gates.remove(&object);
            }
        }
        None
    }

    /// When [`Gates::pop`] has to be called again, after it returned nothing.
    pub(crate) fn due(&self) -> Option<Monotonic> {
        self.due.first().map(|&(at, _)| at)
    }

    /// The object is gone: what waited for it.
    pub(crate) fn remove(&mut self, object: ObjectId, now: Monotonic) -> Vec<T> {
        if !self.has(object) {
            return Vec::new();
        }
        let waiting = self.empty(object, now);
        self.gates.remove(&object);
        waiting
    }

    /// Nothing goes any more: all that waited, and for which object.
    pub(crate) fn empty_all(&mut self, now: Monotonic) -> Vec<(ObjectId, T)> {
        let objects: Vec<ObjectId> = self.gates.keys().copied().collect();
        let all = |object| self.empty(object, now).into_iter().map(move |what| (object, what));
        objects.into_iter().flat_map(all).collect()
    }

    fn empty(&mut self, object: ObjectId, now: Monotonic) -> Vec<T> {
        let gate = self.gates.get_mut(&object).expect("the object has limits");
        let mut waiting: Vec<Waiting<T>> =
            gate.reads.drain(..).chain(gate.writes.drain(..)).collect();
        waiting.sort_unstable_by_key(|waiting| waiting.number);
        for waiting in &waiting {
            gate.ended(waiting, now);
        }
        self.waiting -= waiting.len();
        self.reschedule(object, None);
        waiting.into_iter().map(|waiting| waiting.arrival.what).collect()
    }

    fn look_at(&mut self, object: ObjectId) {
        self.reschedule(object, Some(Monotonic(0)));
    }

    fn reschedule(&mut self, object: ObjectId, at: Option<Monotonic>) {
        let gate = self.gates.get_mut(&object).expect("the object has limits");
        if gate.due == at {
            return;
        }
        let before = core::mem::replace(&mut gate.due, at);
        if let Some(before) = before {
            self.due.remove(&(before, object));
        }
        if let Some(at) = at {
            self.due.insert((at, object));
        }
    }
}
