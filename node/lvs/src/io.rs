//! A request to a volume, from its start to its answer.
//!
//! ```text
//!  write         Start -> Edges -> Place -> Data -> Sync -> Finish
//!  write zeroes  Start -> Edges -> Place -> Data -> Unmap -> Sync -> Finish
//!  read, compare Start ----------------------> Data ----------------> Finish
//!  flush         Start ------------------------------------> Sync --> Finish
//! ```
//!
//! - *Edges* are the first and last block of a write that covers them only in part: they
//!   are read, changed and written whole.
//! - *Place* decides for each cluster: in place, or a Map with proofs, with a new cluster
//!   where there is none. It changes nothing until everything it needs is there.
//! - *Data* waits for the member I/O and for the log entry. Data that overwrites an
//!   unsettled block starts when the entry with its proof is complete.
//! - Data that could not be written is taken back: the blocks are what they were before.
//!
//! The request holds its range of blocks throughout ([`crate::ranges`]).

use fathom_block::{Buffer, Error, Operation, Request};

use crate::{
    action::{Action, IoData, IoKind, Payloads},
    blocks::BlockSet,
    format::{checksum, op::Op},
    geometry::{
        BLOCK, BLOCK_LEN, BLOCK_SIZE, ClusterNo, LayerId, LogicalCluster, Lsn, MemberIndex,
        ObjectId,
    },
    map::Fragment,
    settle::Maps,
    state::Source,
    store::{Route, Store, TaskKey, UNSETTLED_MAX, Work},
};

/// Logical clusters that one step of unmapping looks at.
const UNMAP_CLUSTERS: u64 = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Start,
    Place,
    Data,
    Unmap,
    Sync,
    Finish,
}

/// A block that the request covers in part.
struct Edge {
    block: u64,
    buffer: Buffer,
}

/// What a member I/O of the task was for.
enum Part {
    /// Straight into the request's data.
    Read,
    /// A block of which the request wants a part.
    Fill { offset: usize, range: core::ops::Range<usize> },
    /// An edge to be changed and written.
    Edge { index: usize },
    /// Data to compare with the request's, or an edge block of it.
    Compare { offset: usize, range: core::ops::Range<usize>, buffer: Option<Buffer> },
    /// Data of a piece.
    Write { piece: usize },
}

/// What a write does to one cluster.
struct Piece {
    at: LogicalCluster,
    first: u16,
    count: u16,
    cluster: ClusterNo,
    member: MemberIndex,
    /// The entry of its Map, and the blocks that the Map made valid.
    mapped: Option<(Lsn, BlockSet)>,
    /// It overwrites unsettled blocks that have these Maps.
    overwrites: Option<Maps>,
    issued: bool,
    outstanding: u32,
    failed: bool,
}

/// A request under way.
pub(crate) struct IoTask {
    object: ObjectId,
    request: Request,
    /// Blocks of 4 KiB, `first..end`.
    first: u64,
    end: u64,
    stage: Stage,
    error: Option<Error>,
    epoch: Option<u64>,
    edges: Vec<Edge>,
    edges_changed: bool,
    pieces: Vec<Piece>,
    parts: Vec<Part>,
    layer: Option<LayerId>,
    /// How far unmapping has come.
    unmapped: u64,
}

impl IoTask {
    pub(crate) fn new(object: ObjectId, request: Request, first: u64, end: u64) -> Self {
        Self {
            object,
            request,
            first,
            end,
            stage: Stage::Start,
            error: None,
            epoch: None,
            edges: Vec::new(),
            edges_changed: false,
            pieces: Vec::new(),
            parts: Vec::new(),
            layer: None,
            unmapped: first,
        }
    }

    pub(crate) fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    pub(crate) fn describe(&self) -> String {
        let Self { object, request, stage, .. } = self;
        format!("{:?} of object {} in stage {stage:?}", request.operation, object.0)
    }
}

/// What placing a write came to.
enum Placed {
    Yes,
    Stalled,
    No(Error),
}

/// What a write needs in one cluster before anything is changed.
struct Plan {
    at: LogicalCluster,
    first: u16,
    count: u16,
    before: Fragment,
    /// Blocks that a Map has to name, as first and count, and which of them are not settled.
    map: Option<(u16, u16, BlockSet)>,
    overwrites: Option<Maps>,
}

impl Store {
    fn io_task(&mut self, key: TaskKey) -> &mut IoTask {
        match &mut self.tasks[key].work {
            Work::Io(task) => task,
            _ => unreachable!("the key names a request"),
        }
    }

    /// Takes the steps of a request that wait for nothing.
    pub(crate) fn step_io(&mut self, key: TaskKey, payloads: &dyn Payloads) {
        loop {
            let task = self.io_task(key);
            let operation = task.request.operation;
            if task.stage == Stage::Start && self.has_failed() {
                self.io_task(key).fail(Error::NotReady);
                self.io_task(key).stage = Stage::Finish;
            }
            let stage = self.io_task(key).stage;
            let next = match stage {
                Stage::Start => self.start_request(key, operation),
                Stage::Place => {
                    self.change_edges(key, payloads);
                    match self.place(key, payloads) {
                        Placed::Yes => Stage::Data,
                        Placed::Stalled => return,
                        Placed::No(error) => {
                            self.io_task(key).fail(error);
                            Stage::Finish
                        }
                    }
                }
                Stage::Data => match self.data_done(key, operation, payloads) {
                    Some(next) => next,
                    None => return,
                },
                Stage::Unmap => match self.unmap_step(key) {
                    Some(next) => next,
                    None => return,
                },
                Stage::Sync => {
                    self.sync(key, operation);
                    Stage::Finish
                }
                Stage::Finish => return self.finish_io(key, operation),
            };
            self.io_task(key).stage = next;
            let waits = &self.tasks[key].waits;
            let entry_open = waits.entry > self.log.completed().0 && !self.has_failed();
            if waits.io > 0 || entry_open || !waits.rounds.is_empty() {
                return;
            }
        }
    }

    fn start_request(&mut self, key: TaskKey, operation: Operation) -> Stage {
        let object = self.io_task(key).object;
        let Some(layer) = self.layer_of(object) else {
            self.io_task(key).fail(Error::NotReady);
            return Stage::Finish;
        };
        self.io_task(key).layer = Some(layer);
        match operation {
            Operation::Flush => Stage::Sync,
            Operation::Read | Operation::Compare => {
                let epoch = self.epochs.begin();
                self.io_task(key).epoch = Some(epoch);
                self.read(key, layer, operation == Operation::Compare);
                Stage::Data
            }
            Operation::Write { .. } | Operation::WriteZeroes => {
                self.load_edges(key, layer);
                let zeroes = operation == Operation::WriteZeroes;
                if zeroes && self.io_task(key).edges.is_empty() {
                    Stage::Unmap
                } else {
                    Stage::Place
                }
            }
        }
    }

    /// The bytes of the volume that the request covers.
    fn byte_range(&mut self, key: TaskKey) -> (u64, u64) {
        let task = self.io_task(key);
        let (object, lba, blocks) = (task.object, task.request.lba, task.request.blocks);
        let block_size = self.device(object).map_or(BLOCK_SIZE, |(_, block_size, _)| block_size);
        let begin = lba.0 * u64::from(block_size);
        (begin, begin + blocks.0 * u64::from(block_size))
    }

    // Reading.

    fn read(&mut self, key: TaskKey, layer: LayerId, compare: bool) {
        let (begin, stop) = self.byte_range(key);
        let task = self.io_task(key);
        let (id, first, end) = (task.request.id, task.first, task.end);
        let per_cluster = u64::from(self.state.blocks());
        for (at, first, count) in self.pieces(first, end) {
            let mut block = first;
            while block < first + count {
                let (source, run) = self.state.source(layer, at, block, first + count);
                let volume_block = u64::from(at.0) * per_cluster + u64::from(block);
                let run_begin = volume_block * BLOCK;
                let run_end = run_begin + u64::from(run) * BLOCK;
                let (want_begin, want_end) = (run_begin.max(begin), run_end.min(stop));
                let offset = to_usize(want_begin - begin);
                let length = to_usize(want_end - want_begin);
                match source {
                    Source::Zero if compare => {
                        let buffer = Some(Buffer::zeroed(length));
                        let part = Part::Compare { offset, range: 0..length, buffer };
                        self.io_task(key).parts.push(part);
                    }
                    Source::Zero => self.act(Action::Zero { id, offset, length }),
                    Source::Data(cluster) if !self.is_reachable(cluster) => {
                        return self.io_task(key).fail(Error::NotReady);
                    }
                    Source::Data(cluster) => {
                        let (member, at) = self.locate(cluster, block);
                        let inner = to_usize(want_begin - run_begin);
                        let whole = length as u64 == run_end - run_begin;
                        let span = to_usize(run_end - run_begin);
                        let range = inner..inner + length;
                        let (part, data) = if compare {
                            let part = Part::Compare { offset, range, buffer: None };
                            (part, IoData::Owned(Buffer::zeroed(span)))
                        } else if whole {
                            (Part::Read, IoData::Request { id, offset })
                        } else {
                            (Part::Fill { offset, range }, IoData::Owned(Buffer::zeroed(span)))
                        };
                        self.part_io(key, part, member, IoKind::Read, at, span, data);
                    }
                }
                block += run;
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a member I/O is just these")]
    fn part_io(
        &mut self,
        key: TaskKey,
        part: Part,
        member: MemberIndex,
        kind: IoKind,
        offset: u64,
        length: usize,
        data: IoData,
    ) {
        let parts = &mut self.io_task(key).parts;
        parts.push(part);
        let part = parts.len() - 1;
        self.start_io(Route::Task { key, part }, member, kind, offset, length, data);
    }

    /// A member I/O of the request has ended.
    pub(crate) fn io_part_done(
        &mut self,
        key: TaskKey,
        part: usize,
        failed: bool,
        data: Option<Buffer>,
    ) {
        let task = self.io_task(key);
        let id = task.request.id;
        match &mut task.parts[part] {
            Part::Write { piece } => {
                let piece = *piece;
                self.piece_io_done(key, piece, failed);
            }
            _ if failed => task.fail(Error::ReadFault),
            Part::Read => {}
            Part::Fill { offset, range } => {
                let (offset, range) = (*offset, range.clone());
                let buffer = data.expect("an owned read gives its buffer back");
                self.act(Action::Fill { id, offset, buffer, range });
            }
            Part::Edge { index } => {
                let index = *index;
                task.edges[index].buffer = data.expect("an owned read gives its buffer back");
            }
            Part::Compare { buffer, .. } => *buffer = data,
        }
    }

    // Writing.

    /// Reads the blocks that the request covers in part.
    fn load_edges(&mut self, key: TaskKey, layer: LayerId) {
        let (begin, stop) = self.byte_range(key);
        let task = self.io_task(key);
        let (first, end) = (task.first, task.end);
        let mut blocks = Vec::new();
        if !begin.is_multiple_of(BLOCK) {
            blocks.push(first);
        }
        if !stop.is_multiple_of(BLOCK) && blocks.last() != Some(&(end - 1)) {
            blocks.push(end - 1);
        }
        if blocks.is_empty() {
            return;
        }
        let epoch = self.epochs.begin();
        self.io_task(key).epoch = Some(epoch);
        for (index, block) in blocks.into_iter().enumerate() {
            let edge = Edge { block, buffer: Buffer::zeroed(BLOCK_LEN) };
            self.io_task(key).edges.push(edge);
            let (at, within) = self.state.cluster_size.split(block);
            if let (Source::Data(cluster), _) = self.state.source(layer, at, within, within + 1) {
                if !self.is_reachable(cluster) {
                    return self.io_task(key).fail(Error::NotReady);
                }
                let (member, offset) = self.locate(cluster, within);
                let data = IoData::Owned(Buffer::zeroed(BLOCK_LEN));
                let part = Part::Edge { index };
                self.part_io(key, part, member, IoKind::Read, offset, BLOCK_LEN, data);
            }
        }
    }

    /// Puts the request's data, or zeros, into the edges.
    fn change_edges(&mut self, key: TaskKey, payloads: &dyn Payloads) {
        if let Some(epoch) = self.io_task(key).epoch.take() {
            self.epochs.end(epoch);
        }
        let (begin, stop) = self.byte_range(key);
        let task = self.io_task(key);
        if core::mem::replace(&mut task.edges_changed, true) {
            return;
        }
        let (id, zeroes) = (task.request.id, task.request.operation == Operation::WriteZeroes);
        for edge in &mut task.edges {
            let edge_begin = edge.block * BLOCK;
            let (from, to) = (edge_begin.max(begin), (edge_begin + BLOCK).min(stop));
            let inside = to_usize(from - edge_begin)..to_usize(to - edge_begin);
            let target = &mut edge.buffer.bytes_mut()[inside];
            if zeroes {
                target.fill(0);
            } else {
                let bytes = payloads.bytes(id);
                target.copy_from_slice(&bytes[to_usize(from - begin)..to_usize(to - begin)]);
            }
        }
    }

    /// Decides where the data goes, and starts what can be started.
    fn place(&mut self, key: TaskKey, payloads: &dyn Payloads) -> Placed {
        if self.has_failed() {
            return Placed::No(Error::NotReady);
        }
        let task = self.io_task(key);
        if let Some(error) = task.error {
            return Placed::No(error);
        }
        let object = task.object;
        let (first, end) = (task.first, task.end);
        let Some(layer) = self.layer_of(object) else { return Placed::No(Error::NotReady) };
        let task = self.io_task(key);
        task.layer = Some(layer);
        let ranges: Vec<(u64, u64)> = if task.request.operation == Operation::WriteZeroes {
            task.edges.iter().map(|edge| (edge.block, edge.block + 1)).collect()
        } else {
            vec![(first, end)]
        };
        let mut plans = Vec::new();
        for (first, end) in ranges {
            for (at, first, count) in self.pieces(first, end) {
                let plan = self.plan(layer, at, first, count);
                let before = plan.before.cluster;
                if before.is_some_and(|cluster| !self.is_reachable(cluster)) {
                    return Placed::No(Error::NotReady);
                }
                if let (Some(maps), Some(cluster)) = (plan.overwrites, before) {
                    let (member, _) = self.locate(cluster, 0);
                    if !self.settlement.member(member).may_overwrite(maps) {
                        self.stall_for_settlement(key);
                        return Placed::Stalled;
                    }
                }
                plans.push(plan);
            }
        }
        let mapped: usize =
            plans.iter().filter_map(|plan| plan.map.as_ref()).map(|map| usize::from(map.1)).sum();
        if mapped > 0 {
            if !self.metadata_has_room() {
                if !self.reclaim_may_help() {
                    return Placed::No(Error::CapacityExceeded);
                }
                self.space_wanted = true;
                self.stall(key);
                return Placed::Stalled;
            }
            if !self.log.has_room() {
                self.stall(key);
                return Placed::Stalled;
            }
            if self.settlement.blocks() + mapped > UNSETTLED_MAX {
                self.stall_for_settlement(key);
                return Placed::Stalled;
            }
        }
        let mut new: Vec<LogicalCluster> =
            plans.iter().filter(|plan| plan.before.cluster.is_none()).map(|plan| plan.at).collect();
        new.dedup();
        let clusters = new.len();
        let members = match self.admit_clusters(key, object, clusters as u64) {
            Ok(Some(members)) => members,
            Ok(None) => return Placed::Stalled,
            Err(error) => return Placed::No(error),
        };
        for plan in plans {
            self.carry_out(key, layer, plan, members, payloads);
        }
        Placed::Yes
    }

    fn plan(&mut self, layer: LayerId, at: LogicalCluster, first: u16, count: u16) -> Plan {
        let before = self.state.fragment(layer, at);
        let span = BlockSet::range(first, count);
        let fresh = span - before.valid;
        let unsettled = self.settlement.unsettled((layer, at), span);
        let (overwritten, overwrites) = match unsettled {
            Some((blocks, maps)) => (blocks, Some(maps)),
            None => (BlockSet::EMPTY, None),
        };
        let named = fresh | overwritten;
        let map = bounds(named).map(|(first, count)| (first, count, named));
        Plan { at, first, count, before, map, overwrites }
    }

    fn carry_out(
        &mut self,
        key: TaskKey,
        layer: LayerId,
        plan: Plan,
        members: u32,
        payloads: &dyn Payloads,
    ) {
        // Not the plan's: the other edge of a request may have brought a cluster meanwhile.
        let holds = self.state.fragment(layer, plan.at).cluster;
        let cluster = holds.unwrap_or_else(|| {
            self.alloc.take(members).expect("admit_clusters found that many free ones")
        });
        let (member, _) = self.locate(cluster, 0);
        let mapped = plan.map.map(|(first, count, named)| {
            let proofs = self.proofs(key, plan.at, first, count, payloads);
            let op = Op::Map { layer, at: plan.at, cluster, first, proofs };
            let before = self
                .state
                .map_blocks(layer, plan.at, cluster, first, count)
                .expect("the plan was made from this fragment");
            self.count_fragment(before.is_absent(), false);
            let lsn = self.append(key, &[op]);
            self.settlement.add((layer, plan.at), named, lsn, member);
            self.settlement.member(member).expect_data(lsn);
            (lsn, BlockSet::range(first, count) - before.valid)
        });
        // The overwritten blocks were acknowledged, so their Maps are in entries before this one,
        // though another block of the cluster may be named in it, too.
        let overwrites = match (plan.overwrites, &mapped) {
            (Some(maps), &Some((own, _))) => {
                Some(Maps { newest: maps.newest.min(Lsn(own.0 - 1)), ..maps })
            }
            _ => None,
        };
        let task = self.io_task(key);
        task.pieces.push(Piece {
            at: plan.at,
            first: plan.first,
            count: plan.count,
            cluster,
            member,
            mapped,
            overwrites,
            issued: false,
            outstanding: 0,
            failed: false,
        });
        let index = task.pieces.len() - 1;
        if overwrites.is_none() {
            self.issue_piece(key, index);
        }
    }

    /// The proofs of the new content of blocks of a cluster.
    fn proofs(
        &mut self,
        key: TaskKey,
        at: LogicalCluster,
        first: u16,
        count: u16,
        payloads: &dyn Payloads,
    ) -> Vec<u64> {
        let seed = self.seed;
        let (begin, _) = self.byte_range(key);
        let start = u64::from(at.0) * u64::from(self.state.blocks());
        let task = self.io_task(key);
        (first..first + count)
            .map(|block| {
                let block = start + u64::from(block);
                match task.edges.iter().find(|edge| edge.block == block) {
                    Some(edge) => checksum::proof(seed, edge.buffer.bytes()),
                    None => {
                        let offset = to_usize(block * BLOCK - begin);
                        let bytes = payloads.bytes(task.request.id);
                        checksum::proof(seed, &bytes[offset..offset + BLOCK_LEN])
                    }
                }
            })
            .collect()
    }

    /// Starts the member I/O of a piece: edges from their buffers, the rest from the request.
    fn issue_piece(&mut self, key: TaskKey, index: usize) {
        let (begin, _) = self.byte_range(key);
        let start_of_cluster = u64::from(self.state.blocks());
        let task = self.io_task(key);
        let id = task.request.id;
        let fua = task.request.operation == Operation::Write { fua: true };
        let object = task.object;
        let fua = fua || self.state.volumes.get(&object).is_some_and(|v| v.flags.write_cache_off);
        let task = self.io_task(key);
        let piece = &mut task.pieces[index];
        piece.issued = true;
        let kind = IoKind::Write { fua: fua && piece.mapped.is_none() };
        let (first, count, cluster) = (piece.first, piece.count, piece.cluster);
        let start = u64::from(piece.at.0) * start_of_cluster;
        let overwrites = piece.overwrites.is_some();
        let mut runs: Vec<(u16, u16, Option<Buffer>)> = Vec::new();
        for block in first..first + count {
            let edge = task.edges.iter().find(|edge| edge.block == start + u64::from(block));
            match (edge, runs.last_mut()) {
                (Some(edge), _) => runs.push((block, 1, Some(edge.buffer.clone()))),
                (None, Some((_, length, None))) => *length += 1,
                (None, _) => runs.push((block, 1, None)),
            }
        }
        let outstanding = u32::try_from(runs.len()).expect("at most a cluster of blocks");
        task.pieces[index].outstanding = outstanding;
        for (block, length, edge) in runs {
            let (member, offset) = self.locate(cluster, block);
            let bytes = usize::from(length) * BLOCK_LEN;
            let data = match edge {
                Some(buffer) => IoData::Owned(buffer),
                None => {
                    let offset = to_usize((start + u64::from(block)) * BLOCK - begin);
                    IoData::Request { id, offset }
                }
            };
            self.part_io(key, Part::Write { piece: index }, member, kind, offset, bytes, data);
        }
        if overwrites {
            let (member, _) = self.locate(cluster, 0);
            self.settlement.member(member).begin_overwrite();
        }
    }

    fn piece_io_done(&mut self, key: TaskKey, index: usize, failed: bool) {
        let task = self.io_task(key);
        if failed {
            task.fail(Error::WriteFault);
        }
        let piece = &mut task.pieces[index];
        piece.failed |= failed;
        piece.outstanding -= 1;
        if piece.outstanding > 0 {
            return;
        }
        let (member, mapped, failed) = (piece.member, piece.mapped, piece.failed);
        if piece.overwrites.is_some() {
            self.settlement.member(member).end_overwrite();
        }
        if let (Some((lsn, _)), false) = (mapped, failed) {
            self.settlement.member(member).data_written(lsn);
        }
    }

    /// Everything that was started has ended, and the entry is complete.
    fn data_done(
        &mut self,
        key: TaskKey,
        operation: Operation,
        payloads: &dyn Payloads,
    ) -> Option<Stage> {
        match operation {
            Operation::Compare => {
                self.compare(key, payloads);
                return Some(Stage::Finish);
            }
            Operation::Read | Operation::Flush => return Some(Stage::Finish),
            Operation::Write { .. } | Operation::WriteZeroes => {}
        }
        let waiting: Vec<usize> = self
            .io_task(key)
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| !piece.issued)
            .map(|(index, _)| index)
            .collect();
        if !waiting.is_empty() && !self.has_failed() {
            // Each waits for older entries only, and another piece may be the older one.
            let mut stalled = true;
            for index in waiting {
                let piece = &self.io_task(key).pieces[index];
                let (member, maps) = (piece.member, piece.overwrites);
                let maps = maps.expect("only overwrites of unsettled blocks wait");
                if !self.is_present(member) {
                    // It was given up meanwhile; the data is taken back below.
                    let task = self.io_task(key);
                    task.fail(Error::WriteFault);
                    task.pieces[index].issued = true;
                    task.pieces[index].failed = true;
                    stalled = false;
                } else if self.settlement.member(member).may_overwrite(maps) {
                    self.issue_piece(key, index);
                    stalled = false;
                }
            }
            if stalled {
                self.stall_for_settlement(key);
                return None;
            }
            return Some(Stage::Data);
        }
        self.take_back(key);
        let task = self.io_task(key);
        Some(match (task.error, operation) {
            (Some(_), _) => Stage::Finish,
            (None, Operation::WriteZeroes) => Stage::Unmap,
            (None, _) => Stage::Sync,
        })
    }

    /// Undoes the Maps of pieces whose data was not written.
    fn take_back(&mut self, key: TaskKey) {
        let task = self.io_task(key);
        let layer = task.layer;
        let failed: Vec<_> = task
            .pieces
            .iter_mut()
            .filter(|piece| piece.failed || !piece.issued)
            .filter_map(|piece| piece.mapped.take().map(|map| (piece.at, piece.member, map)))
            .collect();
        let per_cluster = u64::from(self.state.blocks());
        for (at, member, (lsn, fresh)) in failed {
            let layer = layer.expect("a placed write has a layer");
            for (first, count) in fresh.runs() {
                // Not opaque: what was below shows again, and blocks that were zeroed stay so.
                let (before, freed) = self
                    .state
                    .unmap_blocks(layer, at, first, count, false)
                    .expect("the layer is written to");
                self.unmapped(layer, at, before, freed);
                let first_block = u64::from(at.0) * per_cluster + u64::from(first);
                let blocks = u64::from(count);
                let op = Op::Unmap { layer, opaque: false, first_block, blocks };
                let entry = self.append(key, &[op]);
                self.give_back(freed, entry);
            }
            self.settlement.member(member).data_written(lsn);
        }
    }

    /// Blocks of a fragment have been unmapped. They stay unsettled while the cluster stays: a
    /// power cut may bring their Maps back, so a new content needs a proof before it is written.
    fn unmapped(
        &mut self,
        layer: LayerId,
        at: LogicalCluster,
        before: Fragment,
        freed: Option<ClusterNo>,
    ) {
        self.count_fragment(before.is_absent(), self.state.fragment(layer, at).is_absent());
        if freed.is_some() {
            self.settlement.remove((layer, at), BlockSet::full(self.state.blocks()));
        }
    }

    fn compare(&mut self, key: TaskKey, payloads: &dyn Payloads) {
        let task = self.io_task(key);
        let bytes = payloads.bytes(task.request.id);
        let differs = task.parts.iter().any(|part| match part {
            Part::Compare { offset, range, buffer: Some(buffer) } => {
                buffer.bytes()[range.clone()] != bytes[*offset..*offset + range.len()]
            }
            _ => false,
        });
        if differs {
            task.fail(Error::CompareFailure);
        }
    }

    // Unmapping.

    /// Unmaps the next clusters of the request; ends in another stage when none are left.
    fn unmap_step(&mut self, key: TaskKey) -> Option<Stage> {
        let (begin, stop) = self.byte_range(key);
        let task = self.io_task(key);
        let layer = task.layer.expect("a started request has a layer");
        let first = task.unmapped.max(begin.div_ceil(BLOCK));
        let end = stop / BLOCK;
        if first >= end || self.has_failed() {
            // Blocks that read as zero already may do so by an entry that is not complete yet: that
            // of a rollback, say. What is acknowledged here relies on it.
            let lsn = self.log.close();
            self.wait_for_entry(key, lsn);
            return Some(Stage::Sync);
        }
        if !self.log.has_reserve() {
            self.stall(key);
            return None;
        }
        if !self.metadata_has_reserve() {
            self.io_task(key).fail(Error::CapacityExceeded);
            return Some(Stage::Finish);
        }
        // Each cluster may need an operation of its own.
        let clusters = UNMAP_CLUSTERS.min(self.log.payload_max() as u64 / 32);
        let step = clusters * u64::from(self.state.blocks());
        let until = end.min((first / step + 1) * step);
        self.unmap(key, layer, first, until);
        self.io_task(key).unmapped = until;
        if until < end {
            // Others take their turn between two steps.
            self.later(key);
            return None;
        }
        Some(Stage::Unmap)
    }

    /// Makes blocks `first..end` of a layer read as zero.
    fn unmap(&mut self, key: TaskKey, layer: LayerId, first: u64, end: u64) {
        struct Run {
            first: u64,
            end: u64,
            opaque: bool,
            freed: Vec<ClusterNo>,
        }
        let per_cluster = u64::from(self.state.blocks());
        let mut run: Option<Run> = None;
        let mut runs = Vec::new();
        for (at, block, count) in self.pieces(first, end) {
            let opaque = self.state.shows_through(layer, at);
            let before = self.state.fragment(layer, at);
            if before.cluster.is_none() && !opaque {
                runs.extend(run.take());
                continue;
            }
            let (before, freed) = self
                .state
                .unmap_blocks(layer, at, block, count, opaque)
                .expect("the layer is written to");
            self.unmapped(layer, at, before, freed);
            let begins = u64::from(at.0) * per_cluster + u64::from(block);
            let ends = begins + u64::from(count);
            match &mut run {
                Some(run) if run.opaque == opaque && run.end == begins => {
                    run.end = ends;
                    run.freed.extend(freed);
                }
                _ => {
                    runs.extend(run.take());
                    let freed = freed.into_iter().collect();
                    run = Some(Run { first: begins, end: ends, opaque, freed });
                }
            }
        }
        runs.extend(run);
        for run in runs {
            let Run { first, end, opaque, freed } = run;
            let op = Op::Unmap { layer, opaque, first_block: first, blocks: end - first };
            let lsn = self.append(key, &[op]);
            self.give_back(freed, lsn);
        }
    }

    // Ending.

    /// Waits for stable media where the request asks for it.
    fn sync(&mut self, key: TaskKey, operation: Operation) {
        let task = self.io_task(key);
        let object = task.object;
        let mapped = task.pieces.iter().any(|piece| piece.mapped.is_some());
        let cached =
            self.state.volumes.get(&object).is_some_and(|volume| !volume.flags.write_cache_off);
        let wanted = match operation {
            Operation::Flush => true,
            Operation::Write { fua } => (fua || !cached) && mapped,
            Operation::WriteZeroes => !cached,
            Operation::Read | Operation::Compare => false,
        };
        if !wanted {
            return;
        }
        let members = self.state.volumes.get(&object).map_or(0, |volume| u32::from(volume.members));
        if members & !self.present_members() != 0 {
            // What was written to a member that is gone cannot be made durable any more.
            return self.io_task(key).fail(Error::NotReady);
        }
        self.flush(key, members, true);
    }

    fn finish_io(&mut self, key: TaskKey, operation: Operation) {
        let task = self.io_task(key);
        let (object, id) = (task.object, task.request.id);
        let result = task.error.map_or(Ok(()), Err);
        if let Some(epoch) = task.epoch.take() {
            self.epochs.end(epoch);
        }
        self.answer(id, result);
        let held: &[ObjectId] = if operation == Operation::Flush { &[] } else { &[object] };
        self.finish(key, held);
    }
}

/// The smallest run that holds all blocks of a set, as first and count.
fn bounds(blocks: BlockSet) -> Option<(u16, u16)> {
    let mut runs = blocks.runs();
    let (first, count) = runs.next()?;
    let (last, length) = runs.last().unwrap_or((first, count));
    Some((first, last + length - first))
}

/// Lengths within one request fit in memory.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("within a request")
}
