//! An open pool: the part that is driven.
//!
//! ```text
//!   submit, create_volume ... --> tasks --> pump --> actions: member I/O, completions
//!                                   ^                       |
//!                                   +---- complete_io <-----+
//! ```
//!
//! A [`Store`] does no I/O and knows no clock. Its driver submits requests, calls
//! [`Store::pump`], carries out the [`Action`]s, and reports each member I/O with
//! [`Store::complete_io`]. All that is under way is a *task*; a task waits for member I/O,
//! for a log entry, for flush rounds or for room, and takes its next step when what it
//! waits for has come.
//!
//! - Every request is completed once; every action is carried out once.
//! - When the log can no longer be kept, the store answers `NotReady` to everything and
//!   says why in [`Store::health`]; it never acknowledges what it could not log.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fathom_block::{Buffer, Completion, Error, Operation, Request};
use fathom_units::{ByteOffset, Lba, Monotonic};
use slab::Slab;

use crate::{
    action::{
        Action, IoData, IoError, IoKind, IoToken, MemberIo, Payloads, REQUEST_BYTES_MAX, Wake,
    },
    admin::AdminTask,
    alloc::Allocator,
    checkpoint::CheckpointTask,
    device::Devices,
    direct::Direct,
    directory::Directory,
    epochs::Epochs,
    fill::Gauge,
    format::{
        checksum::Seed,
        label::{Extent, Label},
        op::Op,
    },
    geometry::{BLOCK, ClusterNo, LayerId, LogicalCluster, Lsn, MemberIndex, ObjectId},
    grow::GrowTask,
    inflight::{Inflight, Pending},
    io::IoTask,
    labels::LabelChanges,
    log::Log,
    qos::Gates,
    ranges::{Claims, Hold, Ranges},
    reclaim::{ReclaimRun, ReclaimTask},
    replay::ToProve,
    settle::Settlement,
    state::State,
};

/// The most blocks that may wait to be settled: what has to be proved after a power cut.
pub const UNSETTLED_MAX: usize = 32_768;

/// Names a task.
pub(crate) type TaskKey = usize;

/// A flush round that a task waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) member: MemberIndex,
    pub(crate) ticket: u64,
    /// For data on the member, and not only for its copy of the log.
    pub(crate) data: bool,
}

/// What a task is waiting for.
#[derive(Default, Debug)]
pub(crate) struct Waits {
    /// Member I/Os that have not completed.
    pub(crate) io: u32,
    /// A log entry, 0 for none.
    pub(crate) entry: u64,
    /// Flush rounds.
    pub(crate) rounds: Vec<Round>,
    /// Ranges that it has asked for and not been granted.
    pub(crate) ranges: u32,
}

pub(crate) enum Work {
    Io(IoTask),
    Admin(AdminTask),
    Checkpoint(CheckpointTask),
    Reclaim(ReclaimTask),
    Grow(GrowTask),
}

pub(crate) struct Task {
    pub(crate) waits: Waits,
    pub(crate) work: Work,
    /// The ranges that it holds or has asked for.
    pub(crate) claims: Claims,
    /// It is in the run queue or in the stalled list.
    pub(crate) queued: bool,
}

/// What the end of a member I/O means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route {
    /// Data of a task; the number is the task's own.
    Task { key: TaskKey, part: usize },
    /// A log entry.
    Entry { lsn: Lsn },
    /// A flush round.
    Flush,
    /// Part of an update of labels.
    Label,
    /// Part of a checkpoint.
    Checkpoint { key: TaskKey },
    /// Part of making a metadata copy.
    Join { key: TaskKey },
    /// All of a request.
    Direct(Direct),
    /// Discarding a run of clusters that nobody uses.
    Discard { first: ClusterNo },
}

/// An open pool.
pub struct Store {
    pub(crate) state: State,
    pub(crate) alloc: Allocator,
    pub(crate) log: Log,
    pub(crate) settlement: Settlement,
    pub(crate) seed: Seed,
    pub(crate) labels: BTreeMap<MemberIndex, Label>,
    /// Metadata members in sync, a bit per index.
    pub(crate) copies: u32,
    pub(crate) slots: [Vec<Extent>; 2],
    pub(crate) checkpoint_generation: u64,
    pub(crate) checkpointing: bool,
    pub(crate) reclaiming: bool,
    pub(crate) reclaim_wanted: bool,
    pub(crate) reclaim_run: ReclaimRun,
    /// Layers that have been pruned since something was deleted.
    pub(crate) pruned: BTreeSet<LayerId>,
    /// Layers that could not be reclaimed, because a member failed.
    pub(crate) unreclaimable: BTreeSet<LayerId>,
    /// Layers whose merge would wait for a range while somebody waits for space.
    pub(crate) deferred: BTreeSet<LayerId>,
    /// Somebody waits for space.
    pub(crate) space_wanted: bool,
    /// The time of the last call of [`Store::pump`].
    pub(crate) now: Monotonic,
    pub(crate) gates: Gates<Request>,
    /// What can be read or written now: follows from the volumes and snapshots.
    pub(crate) devices: Devices,
    /// What they are found by: follows from the same.
    pub(crate) directory: Directory,
    pub(crate) gauge: Gauge,
    pub(crate) tasks: Slab<Task>,
    pub(crate) ranges: BTreeMap<ObjectId, Ranges<TaskKey>>,
    pub(crate) epochs: Epochs,
    pub(crate) next_ticket: u64,
    pub(crate) fragments: u64,
    pub(crate) io: Inflight,
    actions: VecDeque<Action>,
    run: VecDeque<TaskKey>,
    pub(crate) stalled: Vec<TaskKey>,
    /// Tasks that go on with the next call of [`Store::pump`].
    later: Vec<TaskKey>,
    pub(crate) entry_waiters: BTreeMap<Lsn, Vec<TaskKey>>,
    pub(crate) round_waiters: Vec<TaskKey>,
    pub(crate) settle_wanted: bool,
    progress: bool,
    /// Something has happened since the last [`Store::pump`] that is more than the end of a
    /// request without a task.
    pub(crate) stirred: bool,
    pub(crate) label_changes: LabelChanges,
    /// A member whose metadata copy is being made, and the task that does. It is one of the
    /// copies, but no label says so.
    pub(crate) joining: Option<(MemberIndex, TaskKey)>,
    /// The pool is growing, or a copy is joining.
    pub(crate) growing: bool,
    pub(crate) failed_members: u32,
    pub(crate) failure: Option<(MemberIndex, &'static str)>,
}

/// What [`crate::open`] hands over to make a store.
pub(crate) struct Opened {
    pub(crate) state: State,
    pub(crate) alloc: Allocator,
    pub(crate) log: Log,
    pub(crate) seed: Seed,
    pub(crate) labels: BTreeMap<MemberIndex, Label>,
    pub(crate) copies: u32,
    pub(crate) slots: [Vec<Extent>; 2],
    pub(crate) checkpoint_generation: u64,
    /// What has to be proved on members that are missing.
    pub(crate) to_prove: ToProve,
    pub(crate) deadline: Duration,
}

impl Store {
    pub(crate) fn new(opened: Opened) -> Self {
        let settled = opened.log.completed();
        let members: Vec<MemberIndex> = opened.labels.keys().copied().collect();
        let fragments = opened.state.layers.values().map(|layer| layer.map.len() as u64).sum();
        let mut store = Self {
            settlement: Settlement::new(members.into_iter(), settled),
            devices: Devices::of(&opened.state),
            directory: Directory::of(&opened.state),
            state: opened.state,
            alloc: opened.alloc,
            log: opened.log,
            seed: opened.seed,
            labels: opened.labels,
            copies: opened.copies,
            slots: opened.slots,
            checkpoint_generation: opened.checkpoint_generation,
            checkpointing: false,
            reclaiming: false,
            reclaim_wanted: true,
            reclaim_run: ReclaimRun::default(),
            pruned: BTreeSet::new(),
            unreclaimable: BTreeSet::new(),
            deferred: BTreeSet::new(),
            space_wanted: false,
            now: Monotonic(0),
            gates: Gates::new(),
            gauge: Gauge::new(),
            tasks: Slab::new(),
            ranges: BTreeMap::new(),
            epochs: Epochs::default(),
            next_ticket: 1,
            fragments,
            io: Inflight::new(opened.deadline),
            actions: VecDeque::new(),
            run: VecDeque::new(),
            stalled: Vec::new(),
            later: Vec::new(),
            entry_waiters: BTreeMap::new(),
            round_waiters: Vec::new(),
            settle_wanted: false,
            progress: false,
            stirred: true,
            label_changes: LabelChanges::default(),
            joining: None,
            growing: false,
            failed_members: 0,
            failure: None,
        };
        for (place, (member, proofs)) in opened.to_prove {
            store.settlement.add_absent(place, member, proofs);
        }
        store.set_all_limits();
        store
    }

    /// Takes a request to a volume or snapshot. Its answer comes as [`Action::Complete`].
    pub fn submit(&mut self, object: ObjectId, request: Request) {
        match self.check(object, &request) {
            Err(error) => self.answer(object, &request, Err(error)),
            Ok((first, end)) => {
                if let Some(request) = self.hold_back(object, request, first, end) {
                    self.begin(object, request, first, end);
                }
            }
        }
    }

    /// Begins a request that has been checked and is not held back.
    pub(crate) fn begin(&mut self, object: ObjectId, request: Request, first: u64, end: u64) {
        if self.start_direct(object, &request, first, end) {
            return;
        }
        let hold = match request.operation {
            Operation::Flush => None,
            operation if operation.is_change() => Some(Hold::Write),
            _ => Some(Hold::Read),
        };
        let key = self.spawn(Work::Io(IoTask::new(object, request, first, end)));
        match hold {
            Some(hold) => self.acquire(key, object, first, end, hold),
            None => self.wake(key),
        }
    }

    /// Checks a request; returns the blocks of 4 KiB that it touches, as first and end.
    fn check(&self, object: ObjectId, request: &Request) -> Result<(u64, u64), Error> {
        if self.failure.is_some() {
            return Err(Error::NotReady);
        }
        let device = self.devices.get(object)?;
        if device.read_only && request.operation.is_change() {
            return Err(Error::ReadOnly);
        }
        if request.operation == Operation::Flush {
            return Ok((0, 0));
        }
        if request.blocks.0 == 0 {
            return Err(Error::InvalidField);
        }
        let Lba(first) = request.lba;
        let end = first
            .checked_add(request.blocks.0)
            .filter(|&end| end <= device.size >> device.block_shift);
        let end = end.ok_or(Error::LbaOutOfRange)?;
        let shift = device.block_shift;
        if request.operation.data_bytes(request.blocks.0 << shift) > REQUEST_BYTES_MAX {
            return Err(Error::InvalidField);
        }
        Ok(((first << shift) / BLOCK, (end << shift).div_ceil(BLOCK)))
    }

    /// The logical block size of a volume or snapshot that can be read, in bytes.
    pub fn logical_block_bytes(&self, object: ObjectId) -> Option<u32> {
        self.devices.get(object).ok().map(|device| 1 << device.block_shift)
    }

    /// Reports the end of a member I/O, however late. A read into an owned buffer gives the
    /// buffer back.
    ///
    /// # Panics
    ///
    /// When the token names no I/O under way.
    pub fn complete_io(
        &mut self,
        token: IoToken,
        result: Result<(), IoError>,
        data: Option<Buffer>,
    ) {
        if let Some(pending) = self.io.end(token) {
            self.io_ended(pending, result, data);
        }
    }

    pub(crate) fn io_ended(
        &mut self,
        pending: Pending,
        result: Result<(), IoError>,
        data: Option<Buffer>,
    ) {
        self.stirred |= !matches!(pending.route, Route::Direct(_));
        let failed = result.is_err();
        if let (Route::Task { key, .. }, Err(IoError::NoSpace)) = (pending.route, result) {
            self.find_no_space(key);
        }
        // A proposed member has no rounds: its label is flushed by the update that writes it.
        if !failed
            && matches!(pending.kind, IoKind::Write { .. })
            && self.settlement.knows(pending.member)
        {
            self.settlement.member(pending.member).touched();
        }
        match pending.route {
            Route::Task { key, part } => self.task_io_done(key, part, failed, data),
            Route::Entry { .. } if failed => {
                self.lose_copy(pending.member, "a write of the metadata log failed");
            }
            Route::Entry { lsn } => {
                if self.log.written(lsn, pending.member.0) {
                    self.entries_completed();
                }
            }
            Route::Flush if failed => {
                self.lose_member(pending.member, "a flush failed");
            }
            Route::Flush => {
                self.settlement.member(pending.member).finish();
                self.rounds_finished();
            }
            Route::Checkpoint { key } => {
                self.tasks[key].waits.io -= 1;
                if failed {
                    self.checkpoint_write_failed(key);
                    self.lose_copy(pending.member, "a write of a checkpoint failed");
                }
                self.wake(key);
            }
            Route::Label => self.label_io_ended(pending.member, pending.kind, failed),
            Route::Join { key } => {
                self.tasks[key].waits.io -= 1;
                if failed {
                    self.fail_task(key);
                }
                self.wake(key);
            }
            Route::Direct(direct) => {
                self.direct_done(direct, pending.kind, result);
            }
            Route::Discard { first } => self.discard_ended(pending.member, first, failed),
        }
    }

    /// Takes the steps that can be taken at `now`, which never goes back. Returns when to call
    /// it again if nothing else happens before. What has completed by `now` has to be reported
    /// first, or it may count as late.
    pub fn pump(&mut self, now: Monotonic, payloads: &dyn Payloads) -> Wake {
        self.now = self.now.max(now);
        self.find_late();
        self.let_through();
        let idle = !self.stirred && !self.progress && self.later.is_empty() && self.run.is_empty();
        if idle && self.alloc.quarantined() == 0 {
            self.io.handed_over(self.now);
            return self.next_wake();
        }
        self.stirred = false;
        let later = core::mem::take(&mut self.later);
        self.run.extend(later);
        loop {
            self.let_through();
            self.run_tasks(payloads);
            self.settle_forward();
            self.write_log();
            self.start_rounds();
            if self.release_quarantine() {
                self.progress = true;
            }
            self.start_discards();
            if self.progress {
                self.progress = false;
                let stalled = core::mem::take(&mut self.stalled);
                self.settle_wanted = false;
                self.space_wanted = false;
                self.run.extend(stalled);
            }
            if self.run.is_empty() && self.gates.due().is_none_or(|due| due > self.now) {
                break;
            }
        }
        self.start_background();
        self.io.handed_over(self.now);
        self.tell_fill();
        self.next_wake()
    }

    fn next_wake(&self) -> Wake {
        if !self.run.is_empty() || !self.later.is_empty() {
            return Wake::Now;
        }
        self.gates.due().into_iter().chain(self.io.due()).min().map_or(Wake::OnEvent, Wake::At)
    }

    /// The next thing for the driver to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether nothing is under way: no request, no call, no background work.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
            && self.io.is_idle()
            && self.actions.is_empty()
            && self.gates.is_idle()
    }

    // Tasks.

    pub(crate) fn spawn(&mut self, work: Work) -> TaskKey {
        self.stirred = true;
        let (waits, claims) = (Waits::default(), Claims::default());
        self.tasks.insert(Task { waits, work, claims, queued: false })
    }

    /// Whether a task waits for nothing.
    fn is_ready(&self, key: TaskKey) -> bool {
        let waits = &self.tasks[key].waits;
        waits.io == 0
            && waits.ranges == 0
            && waits.entry <= self.log.completed().0
            && waits.rounds.is_empty()
    }

    /// Puts a task that waits for nothing into the run queue.
    pub(crate) fn wake(&mut self, key: TaskKey) {
        if self.is_ready(key) && !self.tasks[key].queued {
            self.tasks[key].queued = true;
            self.run.push_back(key);
        }
    }

    /// Lets a task try again when something has moved on.
    pub(crate) fn stall(&mut self, key: TaskKey) {
        self.tasks[key].queued = true;
        self.stalled.push(key);
    }

    /// Lets a task go on with the next [`Store::pump`], so that others take their turn.
    pub(crate) fn later(&mut self, key: TaskKey) {
        self.tasks[key].queued = true;
        self.later.push(key);
    }

    /// Has stalled tasks try again.
    pub(crate) fn mark_progress(&mut self) {
        self.progress = true;
    }

    /// As [`Store::stall`], and blocks have to be settled for it.
    pub(crate) fn stall_for_settlement(&mut self, key: TaskKey) {
        self.settle_wanted = true;
        self.stall(key);
    }

    /// Removes a task and gives back the ranges that it holds on `objects`.
    pub(crate) fn finish(&mut self, key: TaskKey, objects: &[ObjectId]) {
        for object in objects {
            self.release(key, *object);
        }
        self.tasks.remove(key);
        self.progress = true;
    }

    fn run_tasks(&mut self, payloads: &dyn Payloads) {
        while let Some(key) = self.run.pop_front() {
            self.tasks[key].queued = false;
            if !self.is_ready(key) {
                // It began to wait after it had been queued, and is woken again.
                continue;
            }
            let work = &self.tasks[key].work;
            match work {
                Work::Io(_) => self.step_io(key, payloads),
                Work::Admin(_) => self.step_admin(key),
                Work::Checkpoint(_) => self.step_checkpoint(key),
                Work::Reclaim(_) => self.step_reclaim(key),
                Work::Grow(_) => self.step_grow(key),
            }
        }
    }

    fn task_io_done(&mut self, key: TaskKey, part: usize, failed: bool, data: Option<Buffer>) {
        let task = &mut self.tasks[key];
        task.waits.io -= 1;
        match &mut task.work {
            Work::Io(_) => self.io_part_done(key, part, failed, data),
            Work::Reclaim(task) => task.part_done(part, failed, data),
            Work::Checkpoint(_) | Work::Admin(_) | Work::Grow(_) => {
                unreachable!("they do no data I/O")
            }
        }
        self.progress = true;
        self.wake(key);
    }

    // Member I/O.

    pub(crate) fn start_io(
        &mut self,
        route: Route,
        member: MemberIndex,
        kind: IoKind,
        offset: u64,
        length: usize,
        data: IoData,
    ) {
        if let Route::Task { key, .. } | Route::Checkpoint { key } | Route::Join { key } = route {
            self.tasks[key].waits.io += 1;
        }
        debug_assert!(self.is_present(member), "I/O to a member that is not there");
        let token = self.io.begin(Pending { route, member, kind });
        let offset = ByteOffset(offset);
        self.actions.push_back(Action::Io(MemberIo { token, member, kind, offset, length, data }));
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(crate) fn answer(
        &mut self,
        object: ObjectId,
        request: &Request,
        result: Result<(), Error>,
    ) {
        if result == Err(Error::CapacityExceeded) {
            self.met_full();
        }
        // What was under way when the pool failed may not have been logged.
        let result = if self.failure.is_some() { Err(Error::NotReady) } else { result };
        self.devices.count(object, request.operation, request.blocks.0, result);
        self.actions.push_back(Action::Complete(Completion { id: request.id, result }));
    }

    /// The member and byte offset of a block of a cluster.
    pub(crate) fn locate(&self, cluster: ClusterNo, block: u16) -> (MemberIndex, u64) {
        self.state.locate(cluster, block).expect("a mapped cluster lies on a member")
    }

    pub(crate) fn member_failed(&self, member: MemberIndex) -> bool {
        self.failed_members & (1 << member.0) != 0
    }

    // The log.

    /// Appends operations on objects as one entry, applies them, and lets `key` wait for it.
    pub(crate) fn commit(&mut self, key: TaskKey, ops: &[Op]) -> Lsn {
        self.change_limits(ops);
        self.gauge.objects_changed();
        self.note_deleted(ops);
        for op in ops {
            self.state.apply_object(op).expect("operations are built from the state");
            self.devices.follow(&self.state, op);
            self.directory.follow(&self.state, op);
        }
        self.append(key, ops)
    }

    /// Appends operations that have been applied, and lets `key` wait for their entry.
    pub(crate) fn append(&mut self, key: TaskKey, ops: &[Op]) -> Lsn {
        let lsn = self.log.append(ops, true);
        self.wait_for_entry(key, lsn);
        lsn
    }

    pub(crate) fn wait_for_entry(&mut self, key: TaskKey, lsn: Lsn) {
        if self.failure.is_some() {
            // It is not written any more.
            return;
        }
        let waits = &mut self.tasks[key].waits;
        waits.entry = waits.entry.max(lsn.0);
        self.entry_waiters.entry(lsn).or_default().push(key);
    }

    /// Whether the log takes operations of requests.
    pub(crate) fn log_has_room(&self) -> bool {
        self.log.has_room(self.settlement.member_count())
    }

    /// Whether the log takes operations that give space back.
    pub(crate) fn log_has_reserve(&self) -> bool {
        self.log.has_reserve(self.settlement.member_count())
    }

    pub(crate) fn write_log(&mut self) {
        if self.failure.is_some() {
            return;
        }
        while let Some(sealed) = self.log.seal_next(self.copies) {
            for member in bits(self.copies & self.present_members()) {
                let route = Route::Entry { lsn: sealed.lsn };
                let length = sealed.buffer.bytes().len();
                let data = IoData::Owned(sealed.buffer.clone());
                let kind = IoKind::Write { fua: false };
                self.start_io(route, member, kind, sealed.offset, length, data);
            }
        }
    }

    pub(crate) fn entries_completed(&mut self) {
        self.progress = true;
        let completed = self.log.completed();
        while let Some(waiters) = self.entry_waiters.first_entry()
            && *waiters.key() <= completed
        {
            for key in waiters.remove() {
                if self.tasks.contains(key) {
                    self.wake(key);
                }
            }
        }
    }

    // Space.

    /// Puts clusters that entry `lsn` gives back into quarantine.
    pub(crate) fn give_back(&mut self, clusters: impl IntoIterator<Item = ClusterNo>, lsn: Lsn) {
        let mut epoch = None;
        for cluster in clusters {
            let epoch = *epoch.get_or_insert_with(|| self.epochs.close());
            self.alloc.quarantine(cluster, lsn, epoch);
        }
    }

    fn release_quarantine(&mut self) -> bool {
        if self.alloc.quarantined() == 0 {
            return false;
        }
        self.alloc.release_quarantine(self.log.durable(), self.epochs.oldest()) > 0
    }

    /// Has the log flushed, so that quarantine ends.
    pub(crate) fn hurry_quarantine(&mut self) {
        let appended = Lsn(self.log.hurry_all().0 + 1);
        for copy in bits(self.copies & self.present_members()) {
            self.settlement.member(copy).ticket(appended);
        }
    }

    // Background work.

    fn start_background(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if !self.checkpointing && self.log.wants_checkpoint(self.settlement.member_count()) {
            self.start_checkpoint();
        }
        if !self.reclaiming && self.reclaim_wanted {
            self.start_reclaim();
        }
        if self.tasks.is_empty() && self.log_has_room() {
            self.quieten();
        }
    }

    /// What has been counted as fragments changes by what `before` became.
    pub(crate) fn count_fragment(&mut self, was_absent: bool, is_absent: bool) {
        match (was_absent, is_absent) {
            (true, false) => self.fragments += 1,
            (false, true) => self.fragments -= 1,
            _ => {}
        }
    }

    /// Splits blocks `first..end` of a volume at cluster boundaries.
    pub(crate) fn pieces(
        &self,
        first: u64,
        end: u64,
    ) -> impl Iterator<Item = (LogicalCluster, u16, u16)> + use<> {
        let size = self.state.cluster_size;
        let mut at = first;
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (cluster, block) = size.split(at);
            let count = (end - at).min(u64::from(size.blocks() - block));
            at += count;
            Some((cluster, block, u16::try_from(count).expect("within a cluster")))
        })
    }
}

/// The members of a set with a bit per index.
pub(crate) fn bits(set: u32) -> impl Iterator<Item = MemberIndex> {
    (0..16).filter(move |index| set & (1 << index) != 0).map(MemberIndex)
}
