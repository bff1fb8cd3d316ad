//! Members that do not answer, for a while or past the deadline.

use fathom_lvs::{Health, OpenOptions, geometry::MemberIndex};

use super::{History, REQUESTS_MAX};

/// Steps for which a member hangs, at most.
const STEPS_MAX: u64 = 60;

impl History {
    /// A member stops answering. When it answers within the deadline nothing has happened. When
    /// it does not, requests may fail; after a crash everything is as after any other.
    pub(super) fn hang(&mut self) -> Result<(), String> {
        if self.call.is_some() {
            return Ok(());
        }
        let members = self.rig.disks.0.len() as u64;
        let victim = u16::try_from(self.random.below(members)).expect("few members");
        let victim = MemberIndex(victim);
        self.rig.hang(victim);
        let steps = self.random.below(STEPS_MAX);
        for _ in 0..steps {
            self.load();
            for _ in 0..self.random.below(6) {
                // With nothing else to do, time would go on to the deadline.
                if self.rig.has_io() {
                    self.rig.step(&mut self.random);
                }
            }
            self.take_events()?;
        }
        if self.random.chance(1, 2) {
            self.rig.wake_up(victim);
            return Ok(());
        }
        self.hung = true;
        self.summary.hung += 1;
        self.rig.settle(&mut self.random);
        for _ in 0..self.random.below(STEPS_MAX) {
            self.load();
            self.rig.step(&mut self.random);
            self.take_events()?;
        }
        if self.random.chance(1, 2) {
            self.rig.wake_up(victim);
            for _ in 0..self.random.below(STEPS_MAX) {
                self.load();
                self.rig.step(&mut self.random);
                self.take_events()?;
            }
            if self.random.chance(1, 2) {
                self.rig.settle(&mut self.random);
                self.take_events()?;
                if !self.under.is_empty() || !self.rig.store.is_idle() {
                    return Err(format!("{} requests are unanswered", self.under.len()));
                }
                if let Health::Degraded { late, .. } = self.rig.store.health()
                    && !late.is_empty()
                {
                    return Err(format!("{late:?} are late, and nothing is under way"));
                }
            }
        }
        self.options = OpenOptions::DEGRADED;
        self.crash()
    }

    /// Requests whose answers can be judged though some fail.
    pub(super) fn load(&mut self) {
        if self.under.len() >= REQUESTS_MAX {
            return;
        }
        match self.random.below(10) {
            0..6 => self.write(),
            6..8 => self.zero(),
            _ => self.flush(),
        }
        self.rig.pump();
    }
}
