//! The open pool's flushes: who waits for which round, and what brings settling forward.
//!
//! The rules are those of [`crate::settle`]; here they meet the tasks, the log and the members.

use crate::{
    action::{IoData, IoKind},
    format::op::Op,
    geometry::MemberIndex,
    settle::Step,
    store::{Round, Route, Store, TaskKey, UNSETTLED_MAX, bits},
};

impl Store {
    /// Lets `key` wait until everything completed by now on `members` is on stable media, and
    /// with `log` all complete entries. Fails it when one of the members was given up; one
    /// that has not been there since the pool was opened has nothing to be flushed.
    pub(crate) fn flush(&mut self, key: TaskKey, members: u32, log: bool) {
        if self.has_failed() {
            // Nothing that it would wait for counts any more.
            return self.fail_task(key);
        }
        if members & self.failed_members != 0 {
            self.fail_task(key);
        }
        let appended = self.log.open_lsn();
        let copies = if log { self.copies } else { 0 };
        let mut rounds = Vec::new();
        for member in bits((members | copies) & self.present_members()) {
            let ticket = self.settlement.member(member).ticket(appended);
            if !self.settlement.member(member).is_done(ticket) {
                rounds.push(Round { member, ticket, data: members & (1 << member.0) != 0 });
            }
        }
        if !rounds.is_empty() {
            self.round_waiters.push(key);
        }
        self.tasks[key].waits.rounds = rounds;
    }

    pub(crate) fn start_rounds(&mut self) {
        let appended = self.log.open_lsn();
        let members: Vec<MemberIndex> = self.settlement.members().collect();
        for member in members {
            if self.member_failed(member) {
                continue;
            }
            if self.io.is_bound(member) && self.settlement.member(member).is_held_up() {
                self.give_up_late(member);
                continue;
            }
            let written = self.log.written_on(member.0);
            if self.settlement.member(member).start(appended, written) {
                self.start_io(Route::Flush, member, IoKind::Flush, 0, 0, IoData::None);
            }
        }
    }

    pub(crate) fn rounds_finished(&mut self) {
        self.mark_progress();
        let durable = self.copy_members().map(|m| self.settlement.member(m).flushed_log()).min();
        if let Some(durable) = durable {
            self.log.set_durable(durable);
        }
        let waiters = core::mem::take(&mut self.round_waiters);
        for key in waiters {
            let mut rounds = core::mem::take(&mut self.tasks[key].waits.rounds);
            rounds.retain(|&Round { member, ticket, .. }| {
                !self.settlement.member(member).is_done(ticket)
            });
            let done = rounds.is_empty();
            self.tasks[key].waits.rounds = rounds;
            if done {
                self.wake(key);
            } else {
                self.round_waiters.push(key);
            }
        }
    }

    pub(crate) fn settle_forward(&mut self) {
        let durable = self.log.durable();
        let marks = self.settlement.advance(durable);
        // A full log keeps its last entries for marks that somebody waits for.
        let marked = self.settle_wanted || self.log_has_reserve();
        for (member, value) in marks.into_iter().filter(|_| marked) {
            let lsn = self.log.append(&[Op::Settled { member, lsn: value }], false);
            self.settlement.marked(member, value, lsn);
        }
        if !self.settle_wanted && self.settlement.blocks() < UNSETTLED_MAX / 2 {
            return;
        }
        let appended = self.log.open_lsn();
        let completed = self.log.completed();
        let members: Vec<MemberIndex> = self.settlement.members().collect();
        for member in members {
            let step = self.settlement.next_step(member, completed);
            if let Step::WriteLog(lsn) = step {
                self.log.hurry(lsn);
            }
            if step == Step::FlushAll {
                self.settlement.member(member).want_data(appended);
            }
            if matches!(step, Step::FlushAll | Step::FlushLog) {
                for copy in bits(self.copies & self.present_members()) {
                    self.settlement.member(copy).ticket(appended);
                }
            }
        }
    }

    /// The pool falls quiet: what has been flushed is noted durably.
    pub(crate) fn quieten(&mut self) {
        let (appended, completed) = (self.log.open_lsn(), self.log.completed());
        let members: Vec<MemberIndex> = self.settlement.members().collect();
        for member in members {
            match self.settlement.next_step(member, completed) {
                Step::WriteLog(lsn) => self.log.hurry(lsn),
                Step::FlushLog => {
                    for copy in bits(self.copies & self.present_members()) {
                        self.settlement.member(copy).ticket(appended);
                    }
                }
                Step::FlushAll | Step::Nothing => {}
            }
        }
        self.log.note_durable();
        self.write_log();
        self.start_rounds();
    }
}
