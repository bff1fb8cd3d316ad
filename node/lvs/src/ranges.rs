//! Who may touch which blocks of a volume now: overlapping requests take effect in order.
//!
//! Every request holds the range of blocks that it touches from its start to its
//! completion. One that overlaps a held range, or an older one that waits, waits
//! itself; the order among overlapping requests is the order of their arrival.
//!
//! | | read | write | barrier |
//! |---|---|---|---|
//! | **read** | together | ordered | together |
//! | **write** | ordered | ordered | ordered |
//! | **barrier** | together | ordered | ordered |
//!
//! A barrier stops writes without stopping reads: it is what a snapshot or a merge
//! takes.
//!
//! The volume is cut into *segments*. Each knows who came to it last, and a new claim waits for
//! those only: they wait for whoever came before them.
//!
//! ```text
//!             | write 1  | write 1, read 3, read 4 |  read 3 |   nobody   |
//!   a write waits for: 1   3 and 4                   3         nobody
//!   a read waits for:  1   1                         nobody    nobody
//! ```
//!
//! - A claim counts its *blockers* and starts when there are none left; each blocker knows its
//!   *dependents*. So what a claim costs depends on the segments that it covers and on the reads
//!   there, not on how many others wait.
//! - A segment names claims that are there, and lies in the range of each of them.
//! - A few claims that have met nobody stand in a short list and in no segment: for a shallow
//!   queue, comparing with each of them is faster than a tree.

use std::collections::BTreeMap;

use slab::Slab;

use crate::geometry::ObjectId;

/// With more claims than this, all of them are in segments.
const ALONE_MAX: usize = 32;

/// What the holder of a range does with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    Read,
    Write,
    Barrier,
}

/// Names a claim from [`Ranges::acquire`] until it is released or withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClaimKey(u32);

/// What one holder has claimed, on each volume at most once. Nearly always it is one claim.
#[derive(Default, Debug)]
pub(crate) struct Claims {
    one: Option<(ObjectId, ClaimKey)>,
    more: Vec<(ObjectId, ClaimKey)>,
}

impl Claims {
    /// Keeps a claim on `object`.
    pub(crate) fn put(&mut self, object: ObjectId, key: ClaimKey) {
        match self.one {
            None => self.one = Some((object, key)),
            Some(_) => self.more.push((object, key)),
        }
    }

    /// Gives up the claim on `object`.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub(crate) fn take(&mut self, object: ObjectId) -> ClaimKey {
        if let Some((_, key)) = self.one.take_if(|(of, _)| *of == object) {
            return key;
        }
        let at = self.more.iter().position(|(of, _)| *of == object);
        self.more.swap_remove(at.expect("what is given up was claimed")).1
    }
}

#[derive(Debug)]
struct Claim<T> {
    holder: T,
    first: u64,
    end: u64,
    hold: Hold,
    /// Counts the claims of the volume.
    arrival: u64,
    /// How often it stands among the dependents of others. It is held when that is zero.
    blockers: u32,
    /// In the order of their arrival; one that met this claim in several segments, as often.
    dependents: Vec<ClaimKey>,
}

/// Blocks that the same claims came to last.
#[derive(Debug)]
struct Segment {
    end: u64,
    /// The last write.
    write: Option<ClaimKey>,
    /// The last barrier after that write.
    barrier: Option<ClaimKey>,
    /// The reads after that write: the first has its place here, so that it needs no memory.
    read: Option<ClaimKey>,
    reads: Vec<ClaimKey>,
}

impl Segment {
    fn new(end: u64, key: ClaimKey, hold: Hold) -> Self {
        let mut segment = Self { end, write: None, barrier: None, read: None, reads: Vec::new() };
        segment.put(key, hold);
        segment
    }

    /// A claim comes to the segment.
    fn put(&mut self, key: ClaimKey, hold: Hold) {
        match hold {
            Hold::Write => *self = Self::new_write(self.end, key),
            Hold::Barrier => self.barrier = Some(key),
            Hold::Read if self.read.is_none() => self.read = Some(key),
            Hold::Read => self.reads.push(key),
        }
    }

    fn new_write(end: u64, key: ClaimKey) -> Self {
        Self { end, write: Some(key), barrier: None, read: None, reads: Vec::new() }
    }

    /// Those for whom a new claim has to wait.
    fn blockers(&self, hold: Hold, blockers: &mut Vec<ClaimKey>) {
        let before = blockers.len();
        match hold {
            Hold::Read => {}
            Hold::Barrier => blockers.extend(self.barrier),
            Hold::Write => {
                blockers.extend(self.read);
                blockers.extend_from_slice(&self.reads);
                blockers.extend(self.barrier);
            }
        }
        if blockers.len() == before {
            blockers.extend(self.write);
        }
    }

    /// Whether a new claim would have to wait for somebody.
    fn stops(&self, hold: Hold) -> bool {
        self.write.is_some()
            || hold != Hold::Read && self.barrier.is_some()
            || hold == Hold::Write && self.has_reads()
    }

    /// A claim is gone.
    fn forget(&mut self, key: ClaimKey) {
        for place in [&mut self.write, &mut self.barrier, &mut self.read] {
            if *place == Some(key) {
                *place = None;
                return;
            }
        }
        if let Some(at) = self.reads.iter().position(|&read| read == key) {
            self.reads.swap_remove(at);
        }
    }

    fn has_reads(&self) -> bool {
        self.read.is_some() || !self.reads.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.write.is_none() && self.barrier.is_none() && !self.has_reads()
    }

    /// Whether `key` is the only claim of the segment.
    fn is_only(&self, key: ClaimKey) -> bool {
        let places = [self.write, self.barrier, self.read];
        self.reads.is_empty() && places.iter().flatten().eq([&key])
    }

    /// Whether two segments without reads have the same claims.
    fn is_like(&self, other: &Self) -> bool {
        let read = self.has_reads() || other.has_reads();
        !read && self.write == other.write && self.barrier == other.barrier
    }

    /// Cuts off what begins at `at`.
    fn cut(&mut self, at: u64) -> Self {
        let end = core::mem::replace(&mut self.end, at);
        let Self { write, barrier, read, .. } = *self;
        Self { end, write, barrier, read, reads: self.reads.clone() }
    }
}

/// The held and awaited ranges of one volume, in blocks of 4 KiB; `T` names a holder.
#[derive(Debug)]
pub(crate) struct Ranges<T> {
    claims: Slab<Claim<T>>,
    arrivals: u64,
    /// Held claims that overlap no other one and are in no segment: first, end and name.
    alone: Vec<(u64, u64, ClaimKey)>,
    /// By their first block, without overlap; nobody has come to what lies between them.
    segments: BTreeMap<u64, Segment>,
}

impl<T: Copy> Ranges<T> {
    pub(crate) fn new() -> Self {
        let (claims, alone, segments) = (Slab::new(), Vec::new(), BTreeMap::new());
        Self { claims, arrivals: 0, alone, segments }
    }

    /// Whether nobody holds or awaits any block.
    pub(crate) fn is_idle(&self) -> bool {
        self.claims.is_empty()
    }

    /// Takes `first..end` for `holder` when it is free, and says so; otherwise queues the claim: a
    /// later [`Ranges::release`] will name the holder.
    pub(crate) fn acquire(
        &mut self,
        holder: T,
        first: u64,
        end: u64,
        hold: Hold,
    ) -> (ClaimKey, bool) {
        if self.is_untouched(first, end) {
            return (self.enter_alone(holder, first, end, hold), true);
        }
        self.spread();
        let key = self.insert(holder, first, end, hold);
        self.lay(key, first, end, hold);
        (key, self.claim(key).blockers == 0)
    }

    /// Takes `first..end` for `holder` when it is free. Otherwise nothing happens.
    pub(crate) fn try_acquire(
        &mut self,
        holder: T,
        first: u64,
        end: u64,
        hold: Hold,
    ) -> Option<ClaimKey> {
        if self.is_untouched(first, end) {
            return Some(self.enter_alone(holder, first, end, hold));
        }
        self.spread();
        let from = self.segments.range(..=first).next_back().map_or(first, |(&start, _)| start);
        let mut touched = self.segments.range(from..end).filter(|(_, segment)| segment.end > first);
        if touched.any(|(_, segment)| segment.stops(hold)) {
            return None;
        }
        let key = self.insert(holder, first, end, hold);
        self.lay(key, first, end, hold);
        Some(key)
    }

    /// Gives back what is held, and appends to `granted` who may start now, in the order of their
    /// arrival.
    ///
    /// # Panics
    ///
    /// When the claim is not held: releasing twice is a bug.
    pub(crate) fn release(&mut self, key: ClaimKey, granted: &mut Vec<T>) {
        let claim = self.claims.remove(key.0 as usize);
        assert!(claim.blockers == 0, "only what is held is released");
        if let Some(at) = self.alone.iter().position(|&(_, _, other)| other == key) {
            self.alone.swap_remove(at);
            return;
        }
        self.lift(key, claim.first, claim.end);
        for key in claim.dependents {
            let dependent = self.claim(key);
            dependent.blockers -= 1;
            if dependent.blockers == 0 {
                granted.push(dependent.holder);
            }
        }
    }

    /// Withdraws a claim that still waits, and appends to `granted` who may start now. Takes time
    /// in proportion to all claims: it is rare.
    ///
    /// # Panics
    ///
    /// When the claim does not wait.
    pub(crate) fn withdraw(&mut self, key: ClaimKey, granted: &mut Vec<T>) {
        let claim = self.claims.remove(key.0 as usize);
        assert!(claim.blockers > 0, "only a claim that waits is withdrawn");
        // Who waited for it may wait for its own blockers now, or for nobody: all come anew.
        self.alone.clear();
        self.segments.clear();
        let mut all = Vec::new();
        for (key, claim) in &mut self.claims {
            let key = ClaimKey(u32::try_from(key).expect("it was one before"));
            let waited = core::mem::take(&mut claim.blockers) > 0;
            claim.dependents.clear();
            all.push((claim.arrival, key, claim.first, claim.end, claim.hold, waited));
        }
        all.sort_unstable_by_key(|&(arrival, ..)| arrival);
        for (_, key, first, end, hold, waited) in all {
            self.lay(key, first, end, hold);
            let claim = self.claim(key);
            if waited && claim.blockers == 0 {
                granted.push(claim.holder);
            }
        }
    }

    fn claim(&mut self, key: ClaimKey) -> &mut Claim<T> {
        self.claims.get_mut(key.0 as usize).expect("who is named is there")
    }

    fn insert(&mut self, holder: T, first: u64, end: u64, hold: Hold) -> ClaimKey {
        let arrival = self.arrivals;
        self.arrivals += 1;
        let (blockers, dependents) = (0, Vec::new());
        let claim = Claim { holder, first, end, hold, arrival, blockers, dependents };
        let key = self.claims.insert(claim);
        ClaimKey(u32::try_from(key).expect("fewer requests than that are under way"))
    }

    /// Enters a claim that meets nobody.
    fn enter_alone(&mut self, holder: T, first: u64, end: u64, hold: Hold) -> ClaimKey {
        let key = self.insert(holder, first, end, hold);
        if self.claims.len() > ALONE_MAX {
            self.spread();
            self.segments.insert(first, Segment::new(end, key, hold));
        } else {
            self.alone.push((first, end, key));
        }
        key
    }

    /// Enters those that stand alone in the segments, where they meet nobody.
    fn spread(&mut self) {
        for (first, end, key) in self.alone.drain(..) {
            let hold = self.claims[key.0 as usize].hold;
            self.segments.insert(first, Segment::new(end, key, hold));
        }
    }

    /// Whether nobody holds or awaits any of these blocks.
    fn is_untouched(&self, first: u64, end: u64) -> bool {
        let before = self.segments.range(..end).next_back();
        before.is_none_or(|(_, segment)| segment.end <= first)
            && !self.alone.iter().any(|&(other, until, _)| first < until && other < end)
    }

    /// Enters the newest claim in the segments, and lets it wait for those whom it finds there.
    fn lay(&mut self, key: ClaimKey, first: u64, end: u64, hold: Hold) {
        self.cut(first);
        self.cut(end);
        let mut blockers = Vec::new();
        let mut gaps = Vec::new();
        let mut covered = Vec::new();
        let mut at = first;
        for (&start, segment) in self.segments.range_mut(first..end) {
            segment.blockers(hold, &mut blockers);
            if hold == Hold::Write {
                covered.push(start);
                continue;
            }
            segment.put(key, hold);
            if at < start {
                gaps.push((at, start));
            }
            at = segment.end;
        }
        // A write is the last one in all of its range: one segment is enough.
        for start in covered {
            self.segments.remove(&start);
        }
        if at < end {
            gaps.push((at, end));
        }
        for (start, end) in gaps {
            self.segments.insert(start, Segment::new(end, key, hold));
        }
        for &blocker in &blockers {
            self.claim(blocker).dependents.push(key);
        }
        self.claim(key).blockers = u32::try_from(blockers.len()).expect("bounded by the claims");
    }

    /// Takes a claim that is gone out of the segments.
    fn lift(&mut self, key: ClaimKey, first: u64, end: u64) {
        if let Some(segment) = self.segments.get(&first)
            && segment.end == end
            && segment.is_only(key)
        {
            self.segments.remove(&first);
            return;
        }
        let mut empty = Vec::new();
        for (&start, segment) in self.segments.range_mut(first..end) {
            segment.forget(key);
            if segment.is_empty() {
                empty.push(start);
            }
        }
        for start in empty {
            self.segments.remove(&start);
        }
        self.join(first, end);
    }

    /// Has a segment begin at `at`, if one covers it.
    fn cut(&mut self, at: u64) {
        if let Some((_, segment)) = self.segments.range_mut(..at).next_back()
            && segment.end > at
        {
            let rest = segment.cut(at);
            self.segments.insert(at, rest);
        }
    }

    /// Joins neighbours that the same claims came to last, so that a claim that is held for long
    /// is not cut up more and more.
    fn join(&mut self, first: u64, end: u64) {
        let from = self.segments.range(..first).next_back().map_or(first, |(&start, _)| start);
        let mut joined = Vec::new();
        let mut last: Option<&mut Segment> = None;
        for (&start, segment) in self.segments.range_mut(from..=end) {
            match &mut last {
                Some(last) if last.end == start && last.is_like(segment) => {
                    last.end = segment.end;
                    joined.push(start);
                }
                _ => last = Some(segment),
            }
        }
        for start in joined {
            self.segments.remove(&start);
        }
    }
}

#[cfg(test)]
mod tests;
