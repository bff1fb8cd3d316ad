//! When a member fails: what goes on, and what stops.
//!
//! A failed write or flush of metadata is never tried again: what the device then says is
//! worth nothing. Where another metadata member has a copy, the failed one is recorded there
//! as stale, and only when that is on stable media does anything go on that the failed copy
//! has missed. Where there is no other copy, the pool acknowledges nothing any more.

use fathom_block::{Buffer, Error};

use crate::{
    action::{IoData, IoKind},
    format::label::{MemberRole, label_offsets},
    geometry::{BLOCK_LEN, MemberIndex},
    store::{Route, Store, TaskKey, Work, bits},
};

/// How the pool is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// Everything is in order.
    Good,
    /// The pool goes on without some members or their metadata copies.
    Degraded {
        /// The members whose metadata copy is stale.
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

/// A metadata copy that failed and is being recorded as stale on the others.
pub(crate) struct Demotion {
    pub(crate) member: MemberIndex,
    /// I/Os under way, and how many of the steps are done (write, flush, write, flush).
    outstanding: u32,
    step: u32,
}

impl Store {
    /// How the pool is.
    pub fn health(&self) -> Health {
        if let Some((member, reason)) = self.failure {
            return Health::Failed { member, reason };
        }
        let table = self.labels.values().next().map_or(&[][..], |label| &label.members);
        let members = || (0..16).map(MemberIndex).zip(table);
        let stale: Vec<MemberIndex> = members()
            .filter(|(member, entry)| {
                entry.role == MemberRole::DataAndMetadata && self.copies & (1 << member.0) == 0
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
    /// again. The member is given up. If data on it waits to be settled, the whole pool stops:
    /// a checkpoint could no longer tell what of that data is there.
    pub(crate) fn lose_member(&mut self, member: MemberIndex) {
        self.failed_members |= 1 << member.0;
        self.alloc.give_up(member);
        self.fail_rounds(member);
        if self.settlement.has_open(member) {
            return self.fail(member, "a flush failed while data waited for it");
        }
        self.lose_copy(member, "a flush of the metadata log failed");
        self.mark_progress();
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
        }
    }

    /// A metadata copy missed a write: record that on the other one before anything that it
    /// missed is acknowledged, or stop.
    pub(crate) fn lose_copy(&mut self, member: MemberIndex, reason: &'static str) {
        let bit = 1 << member.0;
        if self.copies & bit == 0 || self.failure.is_some() {
            return;
        }
        if self.copies == bit || self.demotion.is_some() {
            if self.demotion.as_ref().is_some_and(|demotion| demotion.member == member) {
                return;
            }
            self.fail(member, reason);
            return;
        }
        let incarnation = self.labels[&member].incarnation;
        for label in self.labels.values_mut() {
            label.generation += 1;
            let entry = &mut label.members[usize::from(member.0)];
            entry.stale_since = Some(incarnation);
        }
        self.demotion = Some(Demotion { member, outstanding: 0, step: 0 });
        self.demotion_write();
    }

    /// Writes copy 0 of the labels, then flushes, then copies 1 and 2, then flushes.
    fn demotion_write(&mut self) {
        let Some(demotion) = &self.demotion else { return };
        let (lost, step) = (demotion.member, demotion.step);
        let mut outstanding = 0;
        let survivors: Vec<MemberIndex> = self
            .labels
            .keys()
            .copied()
            .filter(|&member| member != lost && self.is_present(member))
            .collect();
        for member in survivors {
            if step % 2 == 1 {
                self.start_io(Route::Label, member, IoKind::Flush, 0, 0, IoData::None);
                outstanding += 1;
                continue;
            }
            let label = &self.labels[&member];
            let offsets = label_offsets(label.member_size);
            let copies = if step == 0 { &offsets[..1] } else { &offsets[1..] };
            let mut buffer = Buffer::zeroed(BLOCK_LEN);
            buffer.bytes_mut().copy_from_slice(&label.encode());
            for &offset in copies {
                let data = IoData::Owned(buffer.clone());
                let kind = IoKind::Write { fua: false };
                self.start_io(Route::Label, member, kind, offset, BLOCK_LEN, data);
                outstanding += 1;
            }
        }
        if let Some(demotion) = &mut self.demotion {
            demotion.outstanding = outstanding;
        }
    }

    pub(crate) fn demotion_step_done(&mut self) {
        let Some(demotion) = &mut self.demotion else { return };
        demotion.outstanding -= 1;
        if demotion.outstanding > 0 {
            return;
        }
        demotion.step += 1;
        if demotion.step < 4 {
            self.demotion_write();
            return;
        }
        let member = demotion.member;
        self.demotion = None;
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
