//! Giving space back in the background: layers that no volume or snapshot names.
//!
//! | a layer without a name that has | is |
//! |---|---|
//! | no child | *discarded*: its fragments go |
//! | one child | *merged* into the child: what shows through moves there |
//! | more children | *pruned*: clusters of which no block can be seen go |
//!
//! ```text
//!   Begin -> Next -> Plan -> Copy -> Read -> Write -> Flush -> Log -> Durable -> Next ...
//!                             ^-----------------|
//! ```
//!
//! Work is done in small steps, each a log entry, so a crash loses at most a step and the
//! state itself says what is left to do. Where a merge has to copy blocks, they go to
//! places that nobody can read yet, are flushed, and only then become visible. A merge
//! into the tip of a volume holds back writes to the clusters of the step, not reads, until the
//! new fragments are on stable media: then a write may rely on them, and be as durable as
//! it asks to be without an entry of its own.
//!
//! A merge begins when what took the layer's name away is on stable media: it may write over
//! blocks of the layer that only the lost name could read, and a power cut must not bring
//! the name back.
//!
//! One task does all of it, one step at a time, with a bounded number of member I/Os under way;
//! requests take their turn between two steps. It cannot be cancelled: what was deleted is gone,
//! and thin and thick writes count on its space. How far it is, [`Store::reclaiming`] tells.
//!
//! Blocks that are not settled hide nothing here: a power cut could take them back, and
//! what they hide would be seen again.

use std::collections::BTreeMap;

use fathom_block::Buffer;

use crate::{
    action::{Action, IoData, IoKind},
    blocks::BlockSet,
    format::op::{Op, VolumeRecord},
    geometry::{BLOCK_LEN, ClusterNo, LayerId, LogicalCluster, MemberIndex, ObjectId},
    map::Fragment,
    ranges::Hold,
    store::{Route, Store, TaskKey, Work},
};

/// Fragments that one step looks at.
const STEP_FRAGMENTS: usize = 256;
/// Blocks that one step copies, at most (but for a single cluster).
const STEP_BLOCKS: usize = 1024;
/// Member I/Os that copy blocks and are under way at once.
const COPIES_MAX: usize = 4;
/// Blocks that one of them moves.
const COPY_BLOCKS_MAX: u16 = 32;

/// How far giving space back has come, in fragments: what one layer holds of one logical cluster.
/// After an opening it begins with what is left.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Reclaiming {
    /// What has been given back, merged or looked at since there was nothing to do. Never less
    /// than before, until all is done.
    pub done: u64,
    /// What is left. Only deleting and rolling back add to it.
    pub left: u64,
    /// What cannot be reclaimed, because a member is gone. It is tried again after the next call
    /// that changes something.
    pub stuck: u64,
    /// What is left of each volume and snapshot that was deleted since there was nothing to do
    /// or the pool was opened, whichever was later. Of older ones only the space is known.
    pub deleted: Vec<(ObjectId, u64)>,
}

/// What reclaiming has done since there was nothing to do.
#[derive(Default)]
pub(crate) struct ReclaimRun {
    done: u64,
    /// The layer under way, and how many of its fragments pruning has looked at.
    looked: Option<(LayerId, u64)>,
    deleted: BTreeMap<ObjectId, LayerId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Discard,
    Merge { child: LayerId },
    Prune,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Begin,
    Begun,
    Next,
    Plan,
    Copy,
    Read,
    Write,
    Flush,
    Log,
    Logged,
    Durable,
}

/// Blocks to be copied from one cluster to the same place in another.
struct Copy {
    from: ClusterNo,
    to: ClusterNo,
    first: u16,
    count: u16,
    buffer: Option<Buffer>,
}

/// What becomes of a logical cluster when a layer is merged into its child.
struct Merged {
    at: LogicalCluster,
    child: Fragment,
    freed: Option<ClusterNo>,
}

/// Reclaiming under way.
pub(crate) struct ReclaimTask {
    layer: LayerId,
    mode: Mode,
    stage: Stage,
    /// Where the next step begins.
    cursor: LogicalCluster,
    /// What the step covers: up to here, exclusive.
    until: LogicalCluster,
    held: Option<ObjectId>,
    copies: Vec<Copy>,
    /// How many of the copies are done.
    copied: usize,
    merged: Vec<Merged>,
    failed: bool,
}

impl ReclaimTask {
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    pub(crate) fn describe(&self) -> String {
        format!("{:?} of layer {} in stage {:?}", self.mode, self.layer.0, self.stage)
    }

    pub(crate) fn part_done(&mut self, part: usize, failed: bool, data: Option<Buffer>) {
        self.failed |= failed;
        if data.is_some() {
            self.copies[part].buffer = data;
        }
    }
}

impl Store {
    /// How far giving space back has come. [`Action::Reclaimed`] tells when all is done. Takes time
    /// in proportion to the number of layers that nobody names.
    pub fn reclaiming(&self) -> Reclaiming {
        let mut progress = Reclaiming { done: self.reclaim_run.done, ..Reclaiming::default() };
        for layer in self.state.tree.nameless() {
            let left = self.left_to_reclaim(layer);
            match self.unreclaimable.contains(&layer) {
                true => progress.stuck += left,
                false => progress.left += left,
            }
        }
        let deleted = self.reclaim_run.deleted.iter();
        progress.deleted =
            deleted.map(|(&object, &layer)| (object, self.left_to_reclaim(layer))).collect();
        progress
    }

    /// Fragments of a layer that will be given back, merged or looked at.
    fn left_to_reclaim(&self, layer: LayerId) -> u64 {
        let Some(content) = self.state.layers.get(&layer) else { return 0 };
        let (links, fragments) = (self.state.tree.links(layer), content.map.len() as u64);
        match links.children {
            _ if links.names > 0 => 0,
            0 | 1 => fragments,
            // What is shared by several is only looked at, and stays.
            _ if self.pruned.contains(&layer) => 0,
            _ if !self.reclaiming && !self.reclaim_wanted => 0,
            _ => match self.reclaim_run.looked {
                Some((under_way, looked)) if under_way == layer => fragments.saturating_sub(looked),
                _ => fragments,
            },
        }
    }

    /// `ops` are about to take names away.
    pub(crate) fn note_deleted(&mut self, ops: &[Op]) {
        for op in ops {
            let object = match op {
                Op::PutVolume(record) if record.tip.is_none() => record.id,
                Op::DropVolume { volume } => *volume,
                Op::DropSnapshot { snapshot } => *snapshot,
                _ => continue,
            };
            // A volume that was kept for its snapshots is no device any more.
            if let Ok(device) = self.devices.get(object) {
                self.reclaim_run.deleted.insert(object, device.layer);
            }
        }
    }

    /// Whether reclaiming may bring space back that somebody waits for. A merge that itself
    /// waits for a range is put off: the range may be held by who waits for the space.
    pub(crate) fn reclaim_may_help(&mut self) -> bool {
        let blocked = self.tasks.iter().find_map(|(key, task)| match &task.work {
            Work::Reclaim(reclaim) if task.waits.ranges > 0 => Some((key, reclaim.held)),
            _ => None,
        });
        if let Some((key, Some(volume))) = blocked {
            self.withdraw(key, volume);
            self.put_off(key);
        }
        self.reclaiming || self.reclaim_wanted && self.next_reclaim().is_some()
    }

    /// Ends a merge that would have to wait for a range.
    fn put_off(&mut self, key: TaskKey) {
        let task = self.reclaim_task(key);
        task.held = None;
        let layer = task.layer;
        self.deferred.insert(layer);
        self.end_reclaim(key);
    }

    /// Begins with the next layer that has something to give back.
    pub(crate) fn start_reclaim(&mut self) {
        let Some((layer, mode)) = self.next_reclaim() else {
            self.reclaim_wanted = false;
            self.pruned.clear();
            self.mark_progress();
            let ReclaimRun { done, deleted, .. } = &self.reclaim_run;
            if self.deferred.is_empty() && (*done > 0 || !deleted.is_empty()) {
                self.reclaim_run = ReclaimRun::default();
                self.act(Action::Reclaimed);
            }
            return;
        };
        self.reclaiming = true;
        let task = ReclaimTask {
            layer,
            mode,
            stage: Stage::Begin,
            cursor: LogicalCluster(0),
            until: LogicalCluster(0),
            held: None,
            copies: Vec::new(),
            copied: 0,
            merged: Vec::new(),
            failed: false,
        };
        let key = self.spawn(Work::Reclaim(task));
        self.wake(key);
    }

    fn next_reclaim(&self) -> Option<(LayerId, Mode)> {
        let nameless = || {
            let possible = self.state.tree.nameless().filter(|id| !self.unreclaimable.contains(id));
            possible.map(|id| (id, self.state.tree.links(id).children))
        };
        let simple = nameless().find(|(id, children)| match children {
            0 => true,
            1 => !self.deferred.contains(id),
            _ => false,
        });
        if let Some((id, children)) = simple {
            let mode = if children == 0 {
                Mode::Discard
            } else {
                let child = self.state.tree.children(id).next().expect("it has one child");
                Mode::Merge { child }
            };
            return Some((id, mode));
        }
        let prunable =
            |&(id, children): &(LayerId, u32)| children > 1 && !self.pruned.contains(&id);
        nameless().find(prunable).map(|(id, _)| (id, Mode::Prune))
    }

    fn reclaim_task(&mut self, key: TaskKey) -> &mut ReclaimTask {
        match &mut self.tasks[key].work {
            Work::Reclaim(task) => task,
            _ => unreachable!("the key names reclaiming"),
        }
    }

    pub(crate) fn step_reclaim(&mut self, key: TaskKey) {
        if self.reclaim_task(key).failed || self.has_failed() {
            // The state is as before the step. The next call that changes something tries again.
            let layer = self.reclaim_task(key).layer;
            self.unreclaimable.insert(layer);
            return self.end_reclaim(key);
        }
        let stage = self.reclaim_task(key).stage;
        match stage {
            Stage::Begin => {
                let lsn = self.log.close();
                self.reclaim_task(key).stage = Stage::Begun;
                self.wait_for_entry(key, lsn);
                self.wake(key);
            }
            Stage::Begun => {
                self.reclaim_task(key).stage = Stage::Next;
                if matches!(self.reclaim_task(key).mode, Mode::Merge { .. }) {
                    self.flush(key, 0, true);
                }
                self.wake(key);
            }
            Stage::Next => self.next_step(key),
            Stage::Plan => self.plan_merge(key),
            Stage::Copy => self.read_copies(key),
            Stage::Read => self.write_copies(key),
            Stage::Write if self.next_copies(key) => {
                self.reclaim_task(key).stage = Stage::Copy;
                self.later(key);
            }
            Stage::Write => {
                let copies = &self.reclaim_task(key).copies;
                let targets: Vec<ClusterNo> = copies.iter().map(|copy| copy.to).collect();
                let members = targets.into_iter().map(|to| self.locate(to, 0).0);
                let members = members.fold(0, |set, MemberIndex(index)| set | 1 << index);
                self.reclaim_task(key).stage = Stage::Flush;
                self.flush(key, members, false);
                self.wake(key);
            }
            Stage::Flush | Stage::Log => self.log_merge(key),
            Stage::Logged => {
                self.reclaim_task(key).stage = Stage::Durable;
                if self.reclaim_task(key).held.is_some() {
                    self.flush(key, 0, true);
                }
                self.wake(key);
            }
            Stage::Durable => {
                let held = self.reclaim_task(key).held.take();
                if let Some(volume) = held {
                    self.release(key, volume);
                }
                let task = self.reclaim_task(key);
                task.cursor = task.until;
                task.stage = Stage::Next;
                // Others take their turn between two steps.
                self.later(key);
            }
        }
    }

    fn end_reclaim(&mut self, key: TaskKey) {
        let held: Vec<ObjectId> = self.reclaim_task(key).held.take().into_iter().collect();
        self.reclaiming = false;
        self.reclaim_run.looked = None;
        self.finish(key, &held);
    }

    fn next_step(&mut self, key: TaskKey) {
        if !self.log_has_room() {
            return self.stall(key);
        }
        let task = self.reclaim_task(key);
        let (layer, mode, cursor) = (task.layer, task.mode, task.cursor);
        match mode {
            Mode::Discard => self.discard(key, layer),
            Mode::Prune => self.prune(key, layer, cursor),
            Mode::Merge { child } => self.begin_merge(key, layer, child, cursor),
        }
    }

    /// Removes the next fragments of a layer that nobody can read.
    fn discard(&mut self, key: TaskKey, layer: LayerId) {
        let most = STEP_FRAGMENTS.min(self.log.payload_max() / 32);
        let fragments: Vec<(LogicalCluster, Fragment)> =
            self.state.layer(layer).map.iter().take(most).collect();
        if fragments.is_empty() {
            let lsn = self.commit(key, &[Op::DropLayer { layer }]);
            self.log.hurry(lsn);
            return self.end_reclaim(key);
        }
        let mut freed = Vec::new();
        let mut items = Vec::new();
        for (at, fragment) in fragments {
            freed.extend(fragment.cluster);
            items.push((at, Fragment::ABSENT));
            self.settlement.remove((layer, at), BlockSet::full(self.state.blocks()));
        }
        self.reclaim_run.done += items.len() as u64;
        let lsn = self.set_fragments(key, layer, items);
        self.give_back(freed, lsn);
        self.reclaim_task(key).stage = Stage::Logged;
        self.wake(key);
    }

    /// Gives back the clusters of which no block can be seen.
    fn prune(&mut self, key: TaskKey, layer: LayerId, cursor: LogicalCluster) {
        let most = STEP_FRAGMENTS.min((self.log.payload_max() - 64) / self.item_max());
        let fragments: Vec<(LogicalCluster, Fragment)> =
            self.state.layer(layer).map.iter_from(cursor).take(most).collect();
        let Some(&(last, _)) = fragments.last() else {
            self.pruned.insert(layer);
            return self.end_reclaim(key);
        };
        let looked = self.reclaim_run.looked.map_or(0, |(_, looked)| looked);
        self.reclaim_run.looked = Some((layer, looked + fragments.len() as u64));
        self.reclaim_run.done += fragments.len() as u64;
        let mut freed = Vec::new();
        let mut items = Vec::new();
        for (at, fragment) in fragments {
            let Some(cluster) = fragment.cluster else { continue };
            if self.seen(layer, at).is_empty() {
                freed.push(cluster);
                let hidden = Fragment { cluster: None, valid: BlockSet::EMPTY, ..fragment };
                items.push((at, hidden));
                self.settlement.remove((layer, at), fragment.valid);
            }
        }
        let task = self.reclaim_task(key);
        task.until = LogicalCluster(last.0 + 1);
        task.stage = Stage::Logged;
        if !items.is_empty() {
            let lsn = self.set_fragments(key, layer, items);
            self.give_back(freed, lsn);
        }
        self.wake(key);
    }

    /// The blocks of a nameless layer's fragment that some volume or snapshot can read, now or
    /// after a power cut.
    fn seen(&self, layer: LayerId, at: LogicalCluster) -> BlockSet {
        let valid = self.state.fragment(layer, at).valid;
        let mut seen = BlockSet::EMPTY;
        let mut open: Vec<(LayerId, BlockSet)> =
            self.state.tree.children(layer).map(|child| (child, valid)).collect();
        while let Some((id, reaching)) = open.pop() {
            let fragment = self.state.fragment(id, at);
            let unsettled = self.settlement.unsettled((id, at), fragment.valid);
            let hides = fragment.valid - unsettled.map_or(BlockSet::EMPTY, |(blocks, _)| blocks);
            let through = reaching - hides - fragment.opaque;
            if through.is_empty() {
                continue;
            }
            if self.state.tree.links(id).names > 0 {
                seen = seen | through;
            } else {
                open.extend(self.state.tree.children(id).map(|child| (child, through)));
            }
        }
        seen
    }

    /// The most bytes that a fragment takes in an operation.
    fn item_max(&self) -> usize {
        16 + 2 * 8 * usize::from(self.state.blocks().div_ceil(64))
    }

    fn set_fragments(
        &mut self,
        key: TaskKey,
        layer: LayerId,
        items: Vec<(LogicalCluster, Fragment)>,
    ) -> crate::geometry::Lsn {
        self.apply_fragments(layer, &items);
        self.append(key, &[Op::Fragments { layer, items }])
    }

    fn apply_fragments(&mut self, layer: LayerId, items: &[(LogicalCluster, Fragment)]) {
        for &(at, after) in items {
            let before = self.state.fragment(layer, at);
            self.state.set_fragment(layer, at, after).expect("the layer exists");
            self.count_fragment(before.is_absent(), after.is_absent());
        }
    }

    // Merging.

    /// Chooses the clusters of the next step and holds back writes to them.
    fn begin_merge(
        &mut self,
        key: TaskKey,
        layer: LayerId,
        child: LayerId,
        cursor: LogicalCluster,
    ) {
        // Each fragment is named twice: what it becomes in the child, and absent in the layer.
        let most = STEP_FRAGMENTS.min((self.log.payload_max() - 128) / (self.item_max() + 16));
        let blocks = usize::from(self.state.blocks());
        let mut copying = 0;
        let mut until = None;
        for (at, fragment) in self.state.layer(layer).map.iter_from(cursor).take(most) {
            let both =
                fragment.cluster.is_some() && self.state.fragment(child, at).cluster.is_some();
            if both {
                copying += blocks;
                if copying > STEP_BLOCKS.max(blocks) {
                    break;
                }
            }
            until = Some(LogicalCluster(at.0 + 1));
        }
        let Some(until) = until else {
            let parent = self.state.layer(layer).parent;
            let ops = [Op::PutLayer { layer: child, parent }, Op::DropLayer { layer }];
            let lsn = self.commit(key, &ops);
            self.log.hurry(lsn);
            return self.end_reclaim(key);
        };
        let writer = self.state.tree.writer(child);
        let task = self.reclaim_task(key);
        task.until = until;
        task.stage = Stage::Plan;
        task.held = writer;
        if let Some(volume) = writer {
            let per_cluster = blocks as u64;
            let (first, end) = (u64::from(cursor.0), u64::from(until.0));
            self.acquire(key, volume, first * per_cluster, end * per_cluster, Hold::Barrier);
            if self.tasks[key].waits.ranges > 0 && self.space_wanted {
                self.withdraw(key, volume);
                self.put_off(key);
            }
        } else {
            self.wake(key);
        }
    }

    fn plan_merge(&mut self, key: TaskKey) {
        let task = self.reclaim_task(key);
        let (layer, cursor, until) = (task.layer, task.cursor, task.until);
        let Mode::Merge { child } = task.mode else { unreachable!("only merges are planned") };
        let lower: Vec<(LogicalCluster, Fragment)> =
            self.state.layer(layer).map.range(cursor, until).collect();
        let all = BlockSet::full(self.state.blocks());
        let unsettled = |id, at| self.settlement.unsettled((id, at), all).is_some();
        let absent = |id, at| {
            let cluster = self.state.fragment(id, at).cluster;
            let lost = cluster.is_some_and(|cluster| !self.state.lost_of(cluster).is_empty());
            lost || self.settlement.stays_unsettled((id, at))
        };
        if lower.iter().any(|&(at, _)| absent(layer, at) || absent(child, at)) {
            // They are not settled before their member is back, and what is lost is not copied.
            self.reclaim_task(key).fail();
            return self.wake(key);
        }
        if lower.iter().any(|&(at, _)| unsettled(layer, at) || unsettled(child, at)) {
            return self.stall_for_settlement(key);
        }
        let below = self.state.layer(layer).parent.is_some();
        let mut copies = Vec::new();
        let mut merged = Vec::new();
        for (at, lower) in lower {
            let upper = self.state.fragment(child, at);
            merged.push(merge(at, lower, upper, below, &mut copies));
        }
        let task = self.reclaim_task(key);
        task.stage = if copies.is_empty() { Stage::Log } else { Stage::Copy };
        task.copies = copies;
        task.copied = 0;
        task.merged = merged;
        self.wake(key);
    }

    /// Whether the members of the next copies are there. Without them the layer stays as it is.
    fn may_copy(&mut self, key: TaskKey) -> bool {
        let task = self.reclaim_task(key);
        let copies = task.copies.iter().skip(task.copied).take(COPIES_MAX);
        let clusters: Vec<ClusterNo> = copies.flat_map(|copy| [copy.from, copy.to]).collect();
        let there = clusters.into_iter().all(|cluster| self.is_reachable(cluster));
        if !there {
            self.reclaim_task(key).fail();
            self.wake(key);
        }
        there
    }

    /// Reads the next blocks to be copied.
    fn read_copies(&mut self, key: TaskKey) {
        if !self.may_copy(key) {
            return;
        }
        let task = self.reclaim_task(key);
        task.stage = Stage::Read;
        let copied = task.copied;
        let copies = task.copies.iter().enumerate().skip(copied).take(COPIES_MAX);
        let reads: Vec<_> =
            copies.map(|(part, copy)| (part, copy.from, copy.first, copy.count)).collect();
        for (part, from, first, count) in reads {
            let (member, offset) = self.locate(from, first);
            let length = usize::from(count) * BLOCK_LEN;
            let data = IoData::Owned(Buffer::zeroed(length));
            self.start_io(Route::Task { key, part }, member, IoKind::Read, offset, length, data);
        }
    }

    /// The blocks that were read have been written. Returns whether there are more.
    fn next_copies(&mut self, key: TaskKey) -> bool {
        let task = self.reclaim_task(key);
        task.copied += COPIES_MAX;
        task.copied < task.copies.len()
    }

    fn write_copies(&mut self, key: TaskKey) {
        if !self.may_copy(key) {
            return;
        }
        let task = self.reclaim_task(key);
        let copied = task.copied;
        let copies = task.copies.iter_mut().enumerate().skip(copied).take(COPIES_MAX);
        let writes: Vec<_> = copies
            .map(|(part, copy)| {
                let buffer = copy.buffer.take().expect("the read gave its buffer back");
                (part, copy.to, copy.first, buffer)
            })
            .collect();
        self.reclaim_task(key).stage = Stage::Write;
        for (part, to, first, buffer) in writes {
            let (member, offset) = self.locate(to, first);
            let length = buffer.bytes().len();
            let (kind, data) = (IoKind::Write { fua: false }, IoData::Owned(buffer));
            self.start_io(Route::Task { key, part }, member, kind, offset, length, data);
        }
    }

    fn log_merge(&mut self, key: TaskKey) {
        let task = self.reclaim_task(key);
        let layer = task.layer;
        let Mode::Merge { child } = task.mode else { unreachable!("only merges get here") };
        task.stage = Stage::Logged;
        task.copies.clear();
        let merged = core::mem::take(&mut task.merged);
        self.reclaim_run.done += merged.len() as u64;
        let upper: Vec<_> = merged.iter().map(|merged| (merged.at, merged.child)).collect();
        let lower: Vec<_> = merged.iter().map(|merged| (merged.at, Fragment::ABSENT)).collect();
        if !upper.is_empty() {
            self.spread(key, &upper);
            self.apply_fragments(child, &upper);
            self.apply_fragments(layer, &lower);
            let ops = [
                Op::Fragments { layer: child, items: upper },
                Op::Fragments { layer, items: lower },
            ];
            let lsn = self.append(key, &ops);
            self.give_back(merged.into_iter().filter_map(|merged| merged.freed), lsn);
        }
        self.wake(key);
    }

    /// The volume that is merged into gets clusters that another volume wrote, perhaps on other
    /// members: they are its members from now on, and its flushes cover them.
    fn spread(&mut self, key: TaskKey, fragments: &[(LogicalCluster, Fragment)]) {
        let Some(volume) = self.reclaim_task(key).held else { return };
        // It may have been deleted before the range was granted.
        let Some(record) = self.state.volumes.get(&volume) else { return };
        let members = fragments
            .iter()
            .filter_map(|(_, fragment)| self.state.member_of(fragment.cluster?))
            .fold(record.members, |set, MemberIndex(index)| set | 1 << index);
        if members != record.members {
            let record = VolumeRecord { members, ..record.clone() };
            self.commit(key, &[Op::PutVolume(Box::new(record))]);
        }
    }
}

/// Merges the fragment `lower` of a layer into the fragment `upper` of its only child. Fewer
/// blocks are copied, whichever way. `below`: the layer has a parent itself.
fn merge(
    at: LogicalCluster,
    lower: Fragment,
    upper: Fragment,
    below: bool,
    copies: &mut Vec<Copy>,
) -> Merged {
    let through = lower.valid - upper.valid - upper.opaque;
    let opaque = if below { upper.opaque | lower.opaque } else { BlockSet::EMPTY };
    let valid = upper.valid | through;
    let (cluster, freed) = match (lower.cluster, upper.cluster) {
        (Some(old), _) if through.is_empty() => (upper.cluster, Some(old)),
        (Some(old), None) => (Some(old), None),
        (Some(old), Some(new)) if through.count() <= upper.valid.count() => {
            copy_blocks(copies, old, new, through);
            (Some(new), Some(old))
        }
        (Some(old), Some(new)) => {
            copy_blocks(copies, new, old, upper.valid);
            (Some(old), Some(new))
        }
        (None, upper) => (upper, None),
    };
    Merged { at, child: Fragment { cluster, valid, opaque }, freed }
}

fn copy_blocks(copies: &mut Vec<Copy>, from: ClusterNo, to: ClusterNo, blocks: BlockSet) {
    for (first, count) in blocks.runs() {
        let end = first + count;
        copies.extend((first..end).step_by(usize::from(COPY_BLOCKS_MAX)).map(|first| {
            let count = COPY_BLOCKS_MAX.min(end - first);
            Copy { from, to, first, count, buffer: None }
        }));
    }
}
