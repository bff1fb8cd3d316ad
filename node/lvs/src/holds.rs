//! Which tasks and requests hold which ranges of blocks: asked for, granted, given back.
//!
//! The rules of who waits for whom are those of [`crate::ranges`]; here they meet the tasks of the store.

use crate::{
    geometry::ObjectId,
    ranges::{ClaimKey, Hold, Ranges},
    store::{Store, TaskKey},
};

/// Under this name requests without a task hold their ranges; it never waits for one.
const DIRECT: TaskKey = TaskKey::MAX;

impl Store {
    pub(crate) fn acquire(
        &mut self,
        key: TaskKey,
        object: ObjectId,
        first: u64,
        end: u64,
        hold: Hold,
    ) {
        let ranges = self.ranges.entry(object).or_insert_with(Ranges::new);
        let (claim, held) = ranges.acquire(key, first, end, hold);
        self.tasks[key].claims.put(object, claim);
        if held {
            self.wake(key);
        } else {
            self.tasks[key].waits.ranges += 1;
        }
    }

    /// Takes a range for a request without a task. Nothing happens when it is not free.
    pub(crate) fn try_acquire(
        &mut self,
        object: ObjectId,
        first: u64,
        end: u64,
        hold: Hold,
    ) -> Option<ClaimKey> {
        let ranges = self.ranges.entry(object).or_insert_with(Ranges::new);
        ranges.try_acquire(DIRECT, first, end, hold)
    }

    pub(crate) fn release(&mut self, key: TaskKey, object: ObjectId) {
        let claim = self.tasks[key].claims.take(object);
        self.release_claim(object, claim);
    }

    pub(crate) fn release_claim(&mut self, object: ObjectId, claim: ClaimKey) {
        let mut granted = Vec::new();
        let ranges = self.ranges.get_mut(&object).expect("a held range has a volume");
        ranges.release(claim, &mut granted);
        if ranges.is_idle() {
            self.ranges.remove(&object);
        }
        self.granted(granted);
        if !self.deferred.is_empty() {
            self.deferred.clear();
            self.reclaim_wanted = true;
            self.stirred = true;
        }
    }

    /// Withdraws the range that `key` waits for on `object`.
    pub(crate) fn withdraw(&mut self, key: TaskKey, object: ObjectId) {
        let mut granted = Vec::new();
        let claim = self.tasks[key].claims.take(object);
        let ranges = self.ranges.get_mut(&object).expect("an awaited range has a volume");
        ranges.withdraw(claim, &mut granted);
        self.tasks[key].waits.ranges -= 1;
        self.granted(granted);
    }

    fn granted(&mut self, keys: Vec<TaskKey>) {
        for key in keys {
            self.tasks[key].waits.ranges -= 1;
            self.wake(key);
        }
    }
}
