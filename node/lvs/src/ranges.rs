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

use std::collections::VecDeque;

/// What the holder of a range does with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    Read,
    Write,
    Barrier,
}

impl Hold {
    fn excludes(self, other: Hold) -> bool {
        match (self, other) {
            (Hold::Write, _) | (_, Hold::Write) => true,
            (Hold::Barrier, Hold::Barrier) => true,
            (Hold::Read, _) | (_, Hold::Read) => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Claim<T> {
    holder: T,
    first: u64,
    end: u64,
    hold: Hold,
}

impl<T> Claim<T> {
    fn excludes(&self, other: &Claim<T>) -> bool {
        self.first < other.end && other.first < self.end && self.hold.excludes(other.hold)
    }
}

/// The held and awaited ranges of one volume, in blocks of 4 KiB; `T` names a holder.
#[derive(Debug)]
pub(crate) struct Ranges<T> {
    held: Vec<Claim<T>>,
    waiting: VecDeque<Claim<T>>,
}

impl<T: Copy + PartialEq> Ranges<T> {
    pub(crate) fn new() -> Self {
        Self { held: Vec::new(), waiting: VecDeque::new() }
    }

    /// Whether nobody holds or awaits any block.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    /// Takes `first..end` for `holder` when it is free; otherwise queues the claim and
    /// returns `false`: a later [`Ranges::release`] will name the holder.
    pub(crate) fn acquire(&mut self, holder: T, first: u64, end: u64, hold: Hold) -> bool {
        let free = self.try_acquire(holder, first, end, hold);
        if !free {
            self.waiting.push_back(Claim { holder, first, end, hold });
        }
        free
    }

    /// Takes `first..end` for `holder` when it is free. Otherwise nothing happens.
    pub(crate) fn try_acquire(&mut self, holder: T, first: u64, end: u64, hold: Hold) -> bool {
        let claim = Claim { holder, first, end, hold };
        let free = !self.held.iter().any(|other| other.excludes(&claim))
            && !self.waiting.iter().any(|other| other.excludes(&claim));
        if free {
            self.held.push(claim);
        }
        free
    }

    /// Gives back what `holder` holds, and appends to `granted` who may start now.
    ///
    /// # Panics
    ///
    /// When `holder` holds nothing: releasing twice is a bug.
    pub(crate) fn release(&mut self, holder: T, granted: &mut Vec<T>) {
        let at = self
            .held
            .iter()
            .position(|claim| claim.holder == holder)
            .expect("only a holder releases");
        self.held.swap_remove(at);
        self.grant(granted);
    }

    /// Withdraws a claim that still waits, and appends to `granted` who may start now.
    ///
    /// # Panics
    ///
    /// When `holder` waits for nothing.
    pub(crate) fn withdraw(&mut self, holder: T, granted: &mut Vec<T>) {
        let at = self
            .waiting
            .iter()
            .position(|claim| claim.holder == holder)
            .expect("only a waiting claim is withdrawn");
        self.waiting.remove(at);
        self.grant(granted);
    }

    fn grant(&mut self, granted: &mut Vec<T>) {
        let mut at = 0;
        while at < self.waiting.len() {
            let claim = &self.waiting[at];
            let free = !self.held.iter().any(|other| other.excludes(claim))
                && !self.waiting.iter().take(at).any(|other| other.excludes(claim));
            if free {
                let claim = self.waiting.remove(at).expect("index is in range");
                granted.push(claim.holder);
                self.held.push(claim);
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_writes_start_in_the_order_of_arrival() {
        let mut ranges = Ranges::new();
        let mut granted = Vec::new();
        assert!(ranges.acquire(1, 0, 8, Hold::Write));
        assert!(!ranges.acquire(2, 4, 12, Hold::Write));
        assert!(!ranges.acquire(3, 8, 16, Hold::Read), "must not overtake the waiting write");
        assert!(ranges.acquire(4, 16, 20, Hold::Write));
        ranges.release(1, &mut granted);
        assert_eq!(granted, [2]);
        ranges.release(2, &mut granted);
        assert_eq!(granted, [2, 3]);
    }

    #[test]
    fn a_barrier_lets_reads_pass_and_holds_writes() {
        let mut ranges = Ranges::new();
        let mut granted = Vec::new();
        assert!(ranges.acquire(1, 0, 8, Hold::Write));
        assert!(!ranges.acquire(2, 0, u64::MAX, Hold::Barrier));
        assert!(!ranges.acquire(3, 100, 101, Hold::Write));
        assert!(ranges.acquire(4, 200, 201, Hold::Read));
        assert!(!ranges.acquire(5, 100, 101, Hold::Read), "the write before it comes first");
        ranges.release(1, &mut granted);
        assert_eq!(granted, [2]);
        ranges.release(2, &mut granted);
        assert_eq!(granted, [2, 3]);
        ranges.release(3, &mut granted);
        assert_eq!(granted, [2, 3, 5]);
        ranges.release(4, &mut granted);
        ranges.release(5, &mut granted);
        assert!(ranges.is_idle());
    }

    #[test]
    fn withdrawing_a_waiting_claim_lets_later_ones_start() {
        let mut ranges = Ranges::new();
        let mut granted = Vec::new();
        assert!(ranges.acquire(1, 0, 8, Hold::Read));
        assert!(!ranges.acquire(2, 0, 8, Hold::Write));
        assert!(!ranges.acquire(3, 0, 8, Hold::Read));
        ranges.withdraw(2, &mut granted);
        assert_eq!(granted, [3]);
    }
}
