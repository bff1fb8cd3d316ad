//! Members whose flushes fail.

use super::History;

/// Steps for which the pool goes on, at most.
const STEPS_MAX: u64 = 120;

impl History {
    /// The flushes of a member fail from now on. The pool goes on for a while, with whatever is
    /// left of it, and then there is a crash, after which the member is as it was.
    pub(super) fn lose(&mut self) -> Result<(), String> {
        if self.call.is_some() || self.newcomer.is_some() {
            return Ok(());
        }
        let members = self.rig.disks.0.len() as u64;
        // Mostly one that has data only.
        let victim = if members > 2 && self.random.chance(4, 5) {
            self.random.range(2..members)
        } else {
            self.random.below(members)
        };
        self.hung = true;
        self.summary.lost += 1;
        let slot = usize::try_from(victim).expect("few members");
        self.rig.disks.0[slot].fail_flushes(true);
        for _ in 0..self.random.below(STEPS_MAX) {
            self.load();
            for _ in 0..self.random.below(12) {
                self.rig.step(&mut self.random);
            }
            self.take_events()?;
        }
        if self.random.chance(1, 2) {
            self.rig.settle(&mut self.random);
            self.take_events()?;
            if !self.under.is_empty() || !self.rig.store.is_idle() {
                return Err(format!("{} requests are unanswered", self.under.len()));
            }
        }
        if victim < 2 {
            self.options = fathom_lvs::OpenOptions::DEGRADED;
        }
        self.crash()
    }
}
