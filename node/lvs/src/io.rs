//! A request to a volume, from its start to its answer.
//!
//! ```text
//!  write         Start -> Edges -> Place -> Data -> Sync -> Finish
//!  write zeroes  Start -> Edges -> Place -> Data -> Unmap -> Sync -> Finish
//!  read, compare Start ----------------------> Data ----------------> Finish
//!  flush         Start ------------------------------------> Sync --> Finish
//!  compare and write:  Start -> Edges -> Compare -> Place ... as a write
//! ```
//!
//! What happens in the stages is told by operation: [`read`], [`write`], [`unmap`]. Here is
//! what they share: the stages, the member I/O, the wait for stable media, the answer.
//!
//! - The request holds its range of blocks throughout ([`crate::ranges`]).
//! - *Data* waits for the member I/O and for the log entry.

mod read;
mod unmap;
mod write;

use fathom_block::{Buffer, Error, Operation, Request};

use self::write::{Edge, Piece, Placed};
use crate::{
    action::{Action, IoData, IoKind, Payloads},
    geometry::{BLOCK_SIZE, LayerId, MemberIndex, ObjectId},
    store::{Route, Store, TaskKey, Work},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Start,
    Compare,
    Place,
    Data,
    Unmap,
    Sync,
    Finish,
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

    /// Whether no flush or checkpoint is complete without this part.
    pub(crate) fn holds_up(&self, part: usize) -> bool {
        let Part::Write { piece } = self.parts[part] else { return false };
        let piece = &self.pieces[piece];
        piece.mapped.is_some() || piece.overwrites.is_some()
    }

    pub(crate) fn describe(&self) -> String {
        let Self { object, request, stage, .. } = self;
        format!("{:?} of object {} in stage {stage:?}", request.operation, object.0)
    }
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
                Stage::Compare => {
                    if self.compare(key, payloads) {
                        Stage::Place
                    } else {
                        Stage::Finish
                    }
                }
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
        let layer = match self.devices.get(object) {
            Ok(device) => device.layer,
            Err(error) => {
                self.io_task(key).fail(error);
                return Stage::Finish;
            }
        };
        self.io_task(key).layer = Some(layer);
        match operation {
            Operation::Flush => Stage::Sync,
            Operation::Read | Operation::Compare => {
                self.begin_reading(key);
                self.read(key, layer, operation == Operation::Compare);
                Stage::Data
            }
            Operation::CompareAndWrite { .. } => {
                self.begin_reading(key);
                self.read(key, layer, true);
                self.load_edges(key, layer);
                Stage::Compare
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
        let shift =
            self.devices.get(object).map_or(BLOCK_SIZE.ilog2(), |device| device.block_shift);
        (lba.0 << shift, (lba.0 + blocks.0) << shift)
    }

    /// Where in the request's data the bytes begin that it writes: a fused Compare and Write has
    /// those before them that it compares.
    fn written_from(&mut self, key: TaskKey) -> u64 {
        let (begin, stop) = self.byte_range(key);
        match self.io_task(key).request.operation {
            Operation::CompareAndWrite { .. } => stop - begin,
            _ => 0,
        }
    }

    /// What the request reads from now on stays where it is until it has been read.
    fn begin_reading(&mut self, key: TaskKey) {
        if self.io_task(key).epoch.is_none() {
            let epoch = self.epochs.begin();
            self.io_task(key).epoch = Some(epoch);
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
                Some(Stage::Finish)
            }
            Operation::Read | Operation::Flush => Some(Stage::Finish),
            Operation::Write { .. }
            | Operation::WriteZeroes
            | Operation::CompareAndWrite { .. } => self.writing_done(key, operation),
        }
    }

    /// Waits for stable media where the request asks for it.
    fn sync(&mut self, key: TaskKey, operation: Operation) {
        let task = self.io_task(key);
        let object = task.object;
        let mapped = task.pieces.iter().any(|piece| piece.mapped.is_some());
        let cached =
            self.state.volumes.get(&object).is_some_and(|volume| !volume.flags.write_cache_off);
        let wanted = match operation {
            Operation::Flush => true,
            Operation::Write { fua } | Operation::CompareAndWrite { fua } => {
                (fua || !cached) && mapped
            }
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
        let (object, request) = (task.object, task.request);
        let result = task.error.map_or(Ok(()), Err);
        if let Some(epoch) = task.epoch.take() {
            self.epochs.end(epoch);
        }
        self.answer(object, &request, result);
        let held: &[ObjectId] = if operation == Operation::Flush { &[] } else { &[object] };
        self.finish(key, held);
    }
}

/// Lengths within one request fit in memory.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("within a request")
}
