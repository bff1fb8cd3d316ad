//! Members whose flushes fail.

use fathom_lvs::{Health, OpenOptions};
use fathom_test_support::disk::{Cut, SimulatedDisk};

use super::{Call, History, Life, crashes::observe_readable};
use crate::{model::Crash, rig::Rig};

/// Steps for which the pool goes on, at most.
const STEPS_MAX: u64 = 120;

impl History {
    /// The flushes of a member fail from now on. The pool goes on for a while, with whatever is
    /// left of it, and then there is a crash, after which the member is as it was.
    pub(super) fn lose(&mut self) -> Result<Life, String> {
        if self.call.is_some() || self.newcomer.is_some() {
            return Ok(Life::GoesOn);
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
            self.options = OpenOptions::DEGRADED;
        }
        if self.random.chance(1, 4) {
            self.rig.settle(&mut self.random);
            self.take_events()?;
            let failed = matches!(self.rig.store.health(), Health::Failed { .. });
            if !failed && !self.rig.store.blocks_to_prove().is_empty() {
                self.give_up()?;
                return Ok(Life::Ends);
            }
        }
        self.crash()?;
        Ok(Life::GoesOn)
    }

    /// What has to be proved is given up. From then on it cannot be read, whatever is there; all else
    /// is as after any crash. What cannot be read any more is not in the model, so this is the end.
    fn give_up(&mut self) -> Result<(), String> {
        for (member, _) in self.rig.store.blocks_to_prove() {
            let ticket = self.rig.store.accept_loss(member).map_err(|error| error.to_string())?;
            self.call = Some((ticket, Call::GiveUp));
            self.rig.pump();
            self.rig.settle(&mut self.random);
            self.take_events()?;
        }
        let lost = self.rig.store.lost_blocks();
        self.summary.given_up += lost;
        for _ in 0..self.random.below(STEPS_MAX) {
            self.load();
            self.rig.step(&mut self.random);
            self.take_events()?;
        }
        for _ in 0..2 {
            let cut = self.random.chance(2, 3).then(|| *self.random.pick(&Cut::ALL));
            let mut disks = self.rig.crash(&mut self.random, cut);
            disks.0.iter_mut().for_each(SimulatedDisk::clear_faults);
            let what = |error: String| format!("after {lost} blocks were given up: {error}");
            let mut rig =
                Rig::open(disks, self.options).map_err(|failed| what(failed.0.to_string()))?;
            let mut random = self.random.fork("given up");
            let observed = observe_readable(&mut rig, &mut random);
            // A member was lost: for what is on it this is a power cut.
            self.model.check_readable(&observed, Crash::Power).map_err(what)?;
            rig.settle(&mut random);
            self.rig = rig;
            self.begin_life();
        }
        Ok(())
    }
}
