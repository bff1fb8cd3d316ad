//! How full the pool is, and telling so.
//!
//! ```text
//!              allocation reaches the high watermark
//!    below  ------------------------------------------>  above
//!           <------------------------------------------
//!              allocation falls below the low watermark
//! ```
//!
//! - Each crossing is told once, as [`Action::Event`]. What holds already when the pool is opened
//!   is told after the first [`Store::pump`].
//! - Allocation is what [`crate::Capacity`] calls so: clusters that hold data, against all of them.
//! - A pool is *full* from the write that found no space, in the clusters or in the metadata, until
//!   there is more of it. Whether it was full before it was opened is not known.
//! - A pool is *over-committed* while its volumes together are larger than it is.

use crate::{action::Action, store::Store};

/// Something about the pool has changed that somebody may have to act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Allocation has reached the high watermark.
    AboveHighWatermark,
    /// Allocation has fallen below the low watermark, after it had reached the high one.
    BelowLowWatermark,
    /// A write found no space, the first one since there was some.
    Full,
    /// There is space again.
    NotFull,
    /// The volumes promise more than the pool has.
    Overcommitted,
    /// The pool has what the volumes promise.
    NotOvercommitted,
}

/// How full a pool is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fill {
    /// Allocation has reached the high watermark, and not fallen below the low one since.
    pub above_high_watermark: bool,
    /// A write found no space, and there has not been more since.
    pub full: bool,
    /// The volumes promise more than the pool has.
    pub overcommitted: bool,
}

/// What a write lacked.
#[derive(Clone, Copy, Debug)]
enum Lack {
    /// Clusters, when so many were free, and so many of them not kept for thick volumes.
    Clusters {
        free: u64,
        unreserved: u64,
    },
    Metadata,
}

/// What is known of how full the pool is.
pub(crate) struct Gauge {
    told: Fill,
    lack: Option<Lack>,
    overcommitted: bool,
    /// Volumes or members have changed since they were last counted.
    objects_changed: bool,
}

impl Gauge {
    pub(crate) fn new() -> Self {
        Self { told: Fill::default(), lack: None, overcommitted: false, objects_changed: true }
    }

    pub(crate) fn objects_changed(&mut self) {
        self.objects_changed = true;
    }
}

/// Whether allocation counts as high, when it did or not `before`. Marks are percent, 0 for none;
/// without a low one, or with one above the high one, the high one serves for both.
fn is_high(before: bool, allocated: u64, capacity: u64, low: u16, high: u16) -> bool {
    if high == 0 {
        return false;
    }
    let low = if low == 0 { high } else { low.min(high) };
    let mark = if before { low } else { high };
    u128::from(allocated) * 100 >= u128::from(capacity) * u128::from(mark)
}

impl Store {
    /// How full the pool is, as of the last [`Store::pump`].
    pub fn fill(&self) -> Fill {
        self.gauge.told
    }

    /// A write found no space.
    pub(crate) fn met_full(&mut self) {
        if self.gauge.lack.is_none() {
            self.gauge.lack = Some(if self.metadata_has_room() {
                Lack::Clusters { free: self.alloc.free(), unreserved: self.unreserved() }
            } else {
                Lack::Metadata
            });
        }
    }

    /// Looks at how full the pool is, and tells what has changed.
    pub(crate) fn tell_fill(&mut self) {
        if core::mem::take(&mut self.gauge.objects_changed) {
            self.gauge.overcommitted = self.promised() > self.capacity_bytes();
            // Space that was kept for a thick volume is free without any cluster coming back.
            if let Some(Lack::Clusters { unreserved, .. }) = self.gauge.lack
                && self.unreserved() > unreserved
            {
                self.gauge.lack = None;
            }
        }
        let over = match self.gauge.lack {
            Some(Lack::Clusters { free, .. }) => self.alloc.free() > free,
            Some(Lack::Metadata) => self.metadata_has_room(),
            None => false,
        };
        if over {
            self.gauge.lack = None;
        }
        let pool = &self.state.pool;
        let (low, high) = (pool.watermark_low_percent, pool.watermark_high_percent);
        let capacity = self.alloc.capacity();
        // Free clusters of members that are not there count as allocated: nobody can take them.
        let allocated = capacity - self.alloc.free() - self.alloc.quarantined();
        let before = self.gauge.told;
        let after = Fill {
            above_high_watermark: is_high(
                before.above_high_watermark,
                allocated,
                capacity,
                low,
                high,
            ),
            full: self.gauge.lack.is_some(),
            overcommitted: self.gauge.overcommitted,
        };
        if before == after {
            return;
        }
        self.gauge.told = after;
        let changes = [
            (
                before.above_high_watermark,
                after.above_high_watermark,
                Event::AboveHighWatermark,
                Event::BelowLowWatermark,
            ),
            (before.full, after.full, Event::Full, Event::NotFull),
            (
                before.overcommitted,
                after.overcommitted,
                Event::Overcommitted,
                Event::NotOvercommitted,
            ),
        ];
        for (before, after, begins, ends) in changes {
            if before != after {
                self.act(Action::Event(if after { begins } else { ends }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each allocation of 100 clusters counts as, one after another.
    fn levels(low: u16, high: u16, allocations: &[u64]) -> Vec<bool> {
        let mut level = false;
        let mut next = |&allocated: &u64| {
            level = is_high(level, allocated, 100, low, high);
            level
        };
        allocations.iter().map(&mut next).collect()
    }

    #[test]
    fn between_the_marks_nothing_changes() {
        let found = levels(60, 80, &[79, 80, 79, 60, 59, 60, 79, 100]);
        assert_eq!(found, [false, true, true, true, false, false, false, true]);
    }

    #[test]
    fn without_a_low_mark_or_with_one_above_the_high_one_there_is_one_mark() {
        for low in [0, 80, 95] {
            assert_eq!(levels(low, 80, &[79, 80, 79, 100]), [false, true, false, true]);
        }
    }

    #[test]
    fn without_a_high_mark_nothing_is_high() {
        assert_eq!(levels(60, 0, &[0, 60, 100]), [false, false, false]);
        assert_eq!(levels(60, 100, &[99, 100]), [false, true]);
    }

    #[test]
    fn the_largest_pool_does_not_overflow() {
        assert!(is_high(false, u64::MAX, u64::MAX, 1, 100));
        assert!(!is_high(false, u64::MAX - 1, u64::MAX, 1, 100));
    }
}
