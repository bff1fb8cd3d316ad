//! Which reads may still know of what has changed since they began.
//!
//! A cluster that was given back is not used again before every read that could have found it has
//! ended (rule 5 of `docs/formats/lvs.md`).

use std::collections::BTreeMap;

/// Reads under way by the epoch in which they began.
#[derive(Default)]
pub(crate) struct Epochs {
    current: u64,
    active: BTreeMap<u64, u32>,
}

impl Epochs {
    pub(crate) fn begin(&mut self) -> u64 {
        *self.active.entry(self.current).or_default() += 1;
        self.current
    }

    pub(crate) fn end(&mut self, epoch: u64) {
        let count = self.active.get_mut(&epoch).expect("the read began");
        *count -= 1;
        if *count == 0 {
            self.active.remove(&epoch);
        }
    }

    /// Ends the current epoch; reads up to the returned one may know what changes now.
    pub(crate) fn close(&mut self) -> u64 {
        self.current += 1;
        self.current - 1
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.active.first_key_value().map_or(u64::MAX, |(&epoch, _)| epoch)
    }
}
