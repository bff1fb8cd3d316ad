//! When a member fails: what goes on, and what stops.
//!
//! A failed write or flush of metadata is never tried again: what the device then says is
//! worth nothing. Where another metadata member has a copy, the failed one is recorded there
//! as stale, and only when that is on stable media does anything go on that the failed copy
//! has missed. Where there is no other copy, the pool acknowledges nothing any more.

use fathom_block::Error;

use crate::{
    format::label::MemberRole,
    geometry::MemberIndex,
    labels::LabelChange,
    store::{Store, TaskKey, Work, bits},
};

/// How the pool is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// Everything is in order.
    Good,
    /// The pool goes on without some members or their metadata copies.
    Degraded {
        /// The members whose metadata copy is stale, or still being made.
        stale: Vec<MemberIndex>,
        /// The members that are missing or have been given up.
        gone: Vec<MemberIndex>,
        /// The members that have I/O under way past its deadline. They may yet answer.
        late: Vec<MemberIndex>,
    },
    /// The pool acknowledges nothing any more.
    Failed {
        /// The member that failed last.
        member: MemberIndex,
        /// What failed.
        reason: &'static str,
    },
}

impl Store {
    /// How the pool is.
    pub fn health(&self) -> Health {
        if let Some((member, reason)) = self.failure {
            return Health::Failed { member, reason };
        }
        let members = || (0..16).map(MemberIndex).zip(self.member_table());
        let counting = self.copies & !self.joining.map_or(0, |(member, _)| 1 << member.0);
        let stale: Vec<MemberIndex> = members()
            .filter(|(member, entry)| {
                entry.role == MemberRole::DataAndMetadata && counting & (1 << member.0) == 0
            })
            .map(|(member, _)| member)
            .collect();
        let gone: Vec<MemberIndex> =
            members().map(|(member, _)| member).filter(|&m| !self.is_present(m)).collect();
        let late: Vec<MemberIndex> =
            members().map(|(member, _)| member).filter(|&m| self.is_late(m)).collect();
        if stale.is_empty() && gone.is_empty() && late.is_empty() {
            Health::Good
        } else {
            Health::Degraded { stale, gone, late }
        }
    }

    /// The metadata members in sync.
    pub(crate) fn copy_members(&self) -> impl Iterator<Item = MemberIndex> + use<> {
        bits(self.copies)
    }

    /// A flush failed: what it should have made durable may be gone, and is never asked for
    /// again. The member is lost. What is not settled on it has to be proved when it is back,
    /// and until then checkpoints carry its proofs; others go on. The pool stops when no copy of
    /// the metadata is left, or when the proofs do not fit its checkpoint slots.
    pub(crate) fn lose_member(&mut self, member: MemberIndex, reason: &'static str) {
        if self.member_failed(member) || self.has_failed() {
            return;
        }
        self.failed_members |= 1 << member.0;
        self.alloc.give_up(member);
        self.settlement.lose(member);
        self.fail_rounds(member);
        self.fail_checkpoint();
        if !self.metadata_fits() {
            return self.fail(member, reason);
        }
        let entry = self.member_table().get(usize::from(member.0));
        match entry.map(|entry| entry.role) {
            Some(MemberRole::Data) => self.change_labels(LabelChange::Lost(member), None),
            _ => self.lose_copy(member, reason),
        }
        self.mark_progress();
    }

    /// How many blocks on each member that is missing or lost wait to be proved when it is back.
    pub fn blocks_to_prove(&self) -> Vec<(MemberIndex, usize)> {
        self.settlement.to_prove().collect()
    }

    /// Whoever waits for data on `member` to be flushed has failed.
    fn fail_rounds(&mut self, member: MemberIndex) {
        let waiters = self.round_waiters.clone();
        for key in waiters {
            let rounds = &self.tasks[key].waits.rounds;
            if rounds.iter().any(|round| round.member == member && round.data) {
                self.fail_task(key);
                self.tasks[key].waits.rounds.retain(|round| round.member != member || !round.data);
            }
        }
        self.wake_flushed();
    }

    /// Nobody waits any more for rounds of `member` that only its copy of the log needs.
    fn forget_rounds(&mut self, member: MemberIndex) {
        for &key in &self.round_waiters {
            self.tasks[key].waits.rounds.retain(|round| round.member != member || round.data);
        }
        self.wake_flushed();
    }

    /// Wakes whoever waits for no round any more.
    fn wake_flushed(&mut self) {
        let waiters = core::mem::take(&mut self.round_waiters);
        for key in waiters {
            if self.tasks[key].waits.rounds.is_empty() {
                self.wake(key);
            } else {
                self.round_waiters.push(key);
            }
        }
    }

    pub(crate) fn fail_task(&mut self, key: TaskKey) {
        match &mut self.tasks[key].work {
            Work::Io(task) => task.fail(Error::WriteFault),
            Work::Admin(task) => task.fail(Error::WriteFault),
            Work::Checkpoint(task) => task.fail(),
            Work::Reclaim(task) => task.fail(),
            Work::Grow(task) => task.fail(Error::WriteFault),
        }
    }

    /// A metadata copy missed a write: record that on the other one before anything that it
    /// missed is acknowledged, or stop.
    pub(crate) fn lose_copy(&mut self, member: MemberIndex, reason: &'static str) {
        let bit = 1 << member.0;
        let losing = self.label_changes.becoming_stale();
        if self.copies & bit == 0 || losing & bit != 0 || self.failure.is_some() {
            return;
        }
        let joining = self.joining.map_or(0, |(member, _)| 1 << member.0);
        if joining == bit && !self.abandon_join() {
            return;
        }
        if self.copies & !(bit | losing | joining) == 0 {
            return self.fail(member, reason);
        }
        self.change_labels(LabelChange::Stale(member), None);
    }

    /// A copy that was being made does not count. Returns whether a label may say that it does.
    fn abandon_join(&mut self) -> bool {
        let Some((member, key)) = self.joining.take() else { return false };
        let vouched = matches!(&self.tasks[key].work, Work::Grow(task) if task.has_vouched());
        self.fail_task(key);
        if !vouched {
            self.forget_copy(member);
        }
        vouched
    }

    /// Nobody waits for a metadata copy any more.
    pub(crate) fn forget_copy(&mut self, member: MemberIndex) {
        self.copies &= !(1 << member.0);
        self.forget_rounds(member);
        if self.log.forget_member(member.0) {
            self.entries_completed();
        }
        self.rounds_finished();
    }

    /// Stops acknowledging.
    pub(crate) fn fail(&mut self, member: MemberIndex, reason: &'static str) {
        if self.failure.is_none() {
            self.failure = Some((member, reason));
        }
        self.close_gates();
        self.label_changes.clear();
        self.joining = None;
        // Whoever waits for what will not come is answered.
        let keys: Vec<TaskKey> = self.tasks.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.fail_task(key);
            let task = &mut self.tasks[key];
            task.waits.entry = 0;
            task.waits.rounds.clear();
            self.wake(key);
        }
        self.round_waiters.clear();
        self.entry_waiters.clear();
        self.mark_progress();
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }
}
