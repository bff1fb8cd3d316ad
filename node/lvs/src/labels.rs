//! Changing the labels of the open pool: one update after another.
//!
//! ```text
//!   queue --> begin: a new generation --> copy 0 --> flush --> copies 1 and 2 --> flush --> done
//!                                           (on every member that the update concerns)
//! ```
//!
//! Whoever changes what labels say puts a [`LabelChange`] into the queue: [`crate::members`] when
//! a metadata copy is lost, [`crate::grow`] when the pool grows or a copy joins. Nobody else
//! writes labels of an open pool.
//!
//! - A step begins when the one before it has ended on all members that still take part.
//! - A member whose label was not written, or not in time, is written no label any more: an old
//!   write may still arrive, over a newer label.
//! - What such a member missed is recorded on the others, or the pool stops.
//!
//! Source: `docs/formats/lvs.md` section 2.2.

use std::collections::VecDeque;

use fathom_block::Buffer;

use crate::{
    action::{IoData, IoKind},
    format::label::{LabelMember, MemberState, label_offsets},
    geometry::{BLOCK_LEN, MemberIndex},
    store::{Route, Store, TaskKey, Work, bits},
};

/// What labels shall say from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LabelChange {
    /// The member's metadata copy missed a write.
    Stale(MemberIndex),
    /// The member, which has data only, failed to flush.
    Lost(MemberIndex),
    /// Its metadata copy is whole, in the labels of the other copies.
    Vouch(MemberIndex),
    /// Its metadata copy is whole, in all labels.
    InSync(MemberIndex),
    /// It has another size, in bytes.
    Resize(MemberIndex, u64),
    /// A new member's own label, in which it is proposed.
    Propose(MemberIndex),
    /// The new member, in all labels but its own.
    Include(MemberIndex, LabelMember),
    /// The new member's own label, as the others are.
    Confirm(MemberIndex),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    First,
    FirstFlush,
    Others,
    OthersFlush,
}

/// An update under way.
struct Update {
    change: LabelChange,
    /// The task that waits for its end.
    waiter: Option<TaskKey>,
    /// The members that take part, a bit per index.
    members: u32,
    step: Step,
    /// I/Os of the step under way.
    outstanding: u32,
}

/// The changes of labels that are under way or wait.
#[derive(Default)]
pub(crate) struct LabelChanges {
    queue: VecDeque<(LabelChange, Option<TaskKey>)>,
    update: Option<Update>,
    /// Members on which labels are not written any more, a bit per index.
    unwritable: u32,
}

impl LabelChanges {
    /// The members that are being recorded as stale, a bit per index.
    pub(crate) fn becoming_stale(&self) -> u32 {
        let waiting = self.queue.iter().map(|(change, _)| change);
        let under_way = self.update.iter().map(|update| &update.change);
        waiting.chain(under_way).fold(0, |set, change| match change {
            LabelChange::Stale(member) => set | 1 << member.0,
            _ => set,
        })
    }

    /// Whether labels of the member can be written.
    pub(crate) fn takes(&self, member: MemberIndex) -> bool {
        self.unwritable & (1 << member.0) == 0
    }

    /// A device that did not become a member is none any more.
    pub(crate) fn forget(&mut self, member: MemberIndex) {
        self.unwritable &= !(1 << member.0);
    }

    /// The pool has failed: nothing of this counts any more.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.update = None;
    }
}

impl Store {
    /// Has the labels changed. The task `waiter` is told how it ended.
    pub(crate) fn change_labels(&mut self, change: LabelChange, waiter: Option<TaskKey>) {
        self.label_changes.queue.push_back((change, waiter));
        if self.label_changes.update.is_none() {
            self.next_label_update();
        }
    }

    fn next_label_update(&mut self) {
        let Some((change, waiter)) = self.label_changes.queue.pop_front() else { return };
        let newest = self.labels.values().map(|label| label.generation).max();
        let generation = newest.expect("an open pool has labels") + 1;
        self.apply_to_labels(change);
        let mut members = 0;
        for member in bits(self.concerned(change)) {
            if let Some(label) = self.labels.get_mut(&member) {
                label.generation = generation;
                members |= 1 << member.0;
            }
        }
        let update = Update { change, waiter, members, step: Step::First, outstanding: 0 };
        self.label_changes.update = Some(update);
        self.start_label_step();
    }

    /// The members on which a change is written.
    fn concerned(&self, change: LabelChange) -> u32 {
        let all = self.present_members() & !self.label_changes.unwritable;
        match change {
            LabelChange::Stale(member) | LabelChange::Lost(member) => all & !(1 << member.0),
            LabelChange::Propose(member) | LabelChange::Confirm(member) => 1 << member.0,
            LabelChange::Vouch(member) => all & self.copies & !(1 << member.0),
            LabelChange::InSync(_) | LabelChange::Resize(..) | LabelChange::Include(..) => all,
        }
    }

    fn apply_to_labels(&mut self, change: LabelChange) {
        let set = |store: &mut Self, member: MemberIndex, state: MemberState| {
            for label in store.labels.values_mut() {
                label.members[usize::from(member.0)].state = state;
            }
        };
        match change {
            LabelChange::Stale(member) => {
                let since = self.labels[&member].incarnation;
                set(self, member, MemberState::Stale { since });
            }
            LabelChange::Lost(member) => {
                let since = self.labels[&member].incarnation;
                set(self, member, MemberState::Lost { since });
            }
            LabelChange::Vouch(member) => {
                for copy in bits(self.concerned(change)) {
                    let label = self.labels.get_mut(&copy).expect("a copy has a label");
                    label.members[usize::from(member.0)].state = MemberState::InSync;
                }
            }
            LabelChange::InSync(member) => set(self, member, MemberState::InSync),
            LabelChange::Resize(member, size) => {
                for label in self.labels.values_mut() {
                    label.members[usize::from(member.0)].size = size;
                }
                self.labels.get_mut(&member).expect("it is present").member_size = size;
            }
            LabelChange::Propose(_) => {}
            LabelChange::Include(new, entry) => {
                for (_, label) in self.labels.iter_mut().filter(|&(&member, _)| member != new) {
                    label.members.push(entry);
                }
            }
            LabelChange::Confirm(new) => {
                let table = self.member_table().to_vec();
                self.labels.get_mut(&new).expect("its label was proposed").members = table;
            }
        }
    }

    /// Starts the member I/O of the step, or ends the update when nobody takes part any more.
    fn start_label_step(&mut self) {
        let reachable = self.labels.keys().filter(|&&member| self.is_present(member));
        let reachable = reachable.fold(0, |set, member| set | 1 << member.0);
        let Some(update) = &mut self.label_changes.update else { return };
        // One that was given up meanwhile takes part no longer.
        update.members &= reachable;
        let (step, members) = (update.step, update.members);
        if members == 0 {
            return self.label_update_done();
        }
        let mut outstanding = 0;
        for member in bits(members) {
            if matches!(step, Step::FirstFlush | Step::OthersFlush) {
                self.start_io(Route::Label, member, IoKind::Flush, 0, 0, IoData::None);
                outstanding += 1;
                continue;
            }
            let label = &self.labels[&member];
            let offsets = label_offsets(label.member_size);
            let copies = if step == Step::First { &offsets[..1] } else { &offsets[1..] };
            let mut buffer = Buffer::zeroed(BLOCK_LEN);
            buffer.bytes_mut().copy_from_slice(&label.encode());
            for &offset in copies {
                let data = IoData::Owned(buffer.clone());
                let kind = IoKind::Write { fua: false };
                self.start_io(Route::Label, member, kind, offset, BLOCK_LEN, data);
                outstanding += 1;
            }
        }
        if let Some(update) = &mut self.label_changes.update {
            update.outstanding = outstanding;
        }
    }

    /// A write or flush of a label has ended.
    pub(crate) fn label_io_ended(&mut self, member: MemberIndex, kind: IoKind, failed: bool) {
        let Some(update) = &mut self.label_changes.update else { return };
        update.outstanding -= 1;
        let bit = 1 << member.0;
        if failed && update.members & bit != 0 {
            update.members &= !bit;
            self.label_changes.unwritable |= bit;
            self.lose_labels(member, kind);
        }
        let Some(update) = &mut self.label_changes.update else { return };
        if update.outstanding > 0 {
            return;
        }
        update.step = match update.step {
            Step::First => Step::FirstFlush,
            Step::FirstFlush => Step::Others,
            Step::Others => Step::OthersFlush,
            Step::OthersFlush => return self.label_update_done(),
        };
        self.start_label_step();
    }

    /// A member's labels are not written any more.
    fn lose_labels(&mut self, member: MemberIndex, kind: IoKind) {
        let bit = 1 << member.0;
        if !self.settlement.knows(member) {
            // It is proposed: no member yet.
            return;
        }
        let reason = "the label could not be updated";
        if kind == IoKind::Flush {
            return self.lose_member(member, reason);
        }
        if self.copies & bit != 0 {
            return self.lose_copy(member, reason);
        }
        let entry = &self.member_table()[usize::from(member.0)];
        if !matches!(entry.state, MemberState::Stale { .. }) {
            // Others call a stale one stale already. This one would not be told of the others.
            self.lose_member(member, reason);
        }
    }

    fn label_update_done(&mut self) {
        let Some(Update { change, waiter, members, .. }) = self.label_changes.update.take() else {
            return;
        };
        let done = match change {
            LabelChange::Stale(_)
            | LabelChange::Lost(_)
            | LabelChange::Vouch(_)
            | LabelChange::Include(..) => members != 0,
            LabelChange::InSync(member)
            | LabelChange::Resize(member, _)
            | LabelChange::Propose(member)
            | LabelChange::Confirm(member) => members & (1 << member.0) != 0,
        };
        match change {
            LabelChange::Stale(member) => self.forget_copy(member),
            LabelChange::Include(member, _) => {
                let appended = self.log.open_lsn();
                self.settlement.add_member(member, appended);
                self.gauge.objects_changed();
            }
            _ => {}
        }
        if let Some(key) = waiter {
            match &mut self.tasks[key].work {
                Work::Grow(task) => task.label_changed(done),
                _ => unreachable!("only growing waits for labels"),
            }
            self.wake(key);
        }
        self.mark_progress();
        if self.label_changes.update.is_none() {
            self.next_label_update();
        }
    }

    /// The members as the labels have them now, by index.
    pub fn member_table(&self) -> &[LabelMember] {
        let oldest = self.labels.values().next();
        oldest.map_or(&[], |label| &label.members)
    }
}
