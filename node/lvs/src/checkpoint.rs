//! Writing a checkpoint while requests go on.
//!
//! ```text
//!   Capture (chunk by chunk) -> Complete -> Flush -> Header -> Done: the log's tail moves
//! ```
//!
//! Each chunk is the state of a range of keys after one log entry. Between two chunks the
//! pool works on; replay applies later entries on top. The header makes the checkpoint
//! valid, and is written only when everything that the chunks say is on stable media: the
//! data that they name, the entries up to the highest one, the chunks themselves.
//!
//! Format: `docs/formats/lvs.md` section 5.

use fathom_block::Buffer;

use crate::{
    action::{IoData, IoKind},
    blocks::BlockSet,
    format::{
        checkpoint::{
            CHUNK_HEADER, CHUNK_MAX, ChunkHeader, Class, Key, SLOT_HEADER, SlotHeader, encode_slot,
            seal_chunk,
        },
        checksum::{self, LOST},
        op::Op,
    },
    geometry::{BLOCK_LEN, LayerId, LogicalCluster, Lsn, MemberIndex, ObjectId},
    log::{LogStart, Ring},
    map::Fragment,
    settle::{Place, Proof},
    state::State,
    store::{Route, Store, TaskKey, Work, bits},
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Capture,
    Complete,
    Flush,
    Header,
    Done,
}

/// A checkpoint being written.
pub(crate) struct CheckpointTask {
    stage: Stage,
    generation: u64,
    start: LogStart,
    cursor: Option<Key>,
    /// Bytes of the slot that are taken, the header included.
    position: u64,
    checksums: Vec<u64>,
    highest: Lsn,
    failed: bool,
}

impl CheckpointTask {
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }
}

impl Store {
    /// Begins a checkpoint.
    pub(crate) fn start_checkpoint(&mut self) {
        self.checkpointing = true;
        let task = CheckpointTask {
            stage: Stage::Capture,
            generation: self.checkpoint_generation + 1,
            start: self.log.start(),
            cursor: Some(Key::MIN),
            position: SLOT_HEADER as u64,
            checksums: Vec::new(),
            highest: Lsn(0),
            failed: false,
        };
        let key = self.spawn(Work::Checkpoint(task));
        self.wake(key);
    }

    /// A chunk or the header could not be written on one copy. Without its header the checkpoint
    /// is nothing. Once the header has been sent its generation counts wherever it arrived, so
    /// it goes on without the copy.
    pub(crate) fn checkpoint_write_failed(&mut self, key: TaskKey) {
        let task = self.checkpoint_task(key);
        task.failed |= task.stage != Stage::Done;
    }

    /// What a checkpoint under way says of a member that is lost was not flushed.
    pub(crate) fn fail_checkpoint(&mut self) {
        let running = self.tasks.iter().find(|(_, task)| matches!(task.work, Work::Checkpoint(_)));
        if let Some((key, _)) = running {
            self.checkpoint_write_failed(key);
        }
    }

    fn checkpoint_task(&mut self, key: TaskKey) -> &mut CheckpointTask {
        match &mut self.tasks[key].work {
            Work::Checkpoint(task) => task,
            _ => unreachable!("the key names a checkpoint"),
        }
    }

    pub(crate) fn step_checkpoint(&mut self, key: TaskKey) {
        if self.checkpoint_task(key).failed || self.has_failed() {
            // What was written is not valid without its header; the next one starts anew.
            self.checkpointing = false;
            return self.finish(key, &[]);
        }
        match self.checkpoint_task(key).stage {
            Stage::Capture => self.write_chunk(key),
            Stage::Complete => self.complete_chunks(key),
            Stage::Flush => {
                let members = self.present_members();
                self.checkpoint_task(key).stage = Stage::Header;
                self.flush(key, members, true);
                self.wake(key);
            }
            Stage::Header => self.write_header(key),
            Stage::Done => {
                let (start, generation) = {
                    let task = self.checkpoint_task(key);
                    (task.start, task.generation)
                };
                if self.label_changes.becoming_stale() != 0 {
                    // A copy without this header must be known as stale before the log moves on.
                    return self.stall(key);
                }
                self.log.cut(start.position, generation);
                self.checkpoint_generation = generation;
                self.checkpointing = false;
                self.finish(key, &[]);
            }
        }
    }

    fn write_chunk(&mut self, key: TaskKey) {
        let task = self.checkpoint_task(key);
        let Some(first) = task.cursor else {
            task.stage = Stage::Complete;
            return self.wake(key);
        };
        let (generation, position) = (task.generation, task.position);
        let index = u32::try_from(task.checksums.len()).expect("slots are bounded");
        // Whatever is appended from here on has a higher LSN than this chunk.
        let lsn = self.log.close();
        let (payload, next) =
            capture(&self.state, first, &|place| self.settlement.absent_proofs(place));
        let length = (CHUNK_HEADER + payload.len()).next_multiple_of(BLOCK_LEN);
        let ring = Ring::new(&self.slots[slot_of(generation)]);
        let begin = ring.place(position, length as u64);
        if begin + length as u64 > ring.length() {
            let member = MemberIndex(0);
            return self.fail(member, "the metadata does not fit its checkpoint slot");
        }
        let mut buffer = Buffer::zeroed(length);
        buffer.bytes_mut()[CHUNK_HEADER..][..payload.len()].copy_from_slice(&payload);
        let header = ChunkHeader {
            generation,
            lsn,
            index,
            first,
            blocks: u16::try_from(length / BLOCK_LEN).expect("at most 16 blocks"),
            payload_length: u32::try_from(payload.len()).expect("at most 64 KiB"),
        };
        let checksum = seal_chunk(self.seed, &header, buffer.bytes_mut());
        let task = self.checkpoint_task(key);
        task.checksums.push(checksum);
        task.highest = lsn;
        task.cursor = next;
        task.position = begin + length as u64;
        self.write_slot(key, generation, begin, &buffer, false);
    }

    fn write_slot(&mut self, key: TaskKey, generation: u64, at: u64, buffer: &Buffer, fua: bool) {
        let (offset, _) = Ring::new(&self.slots[slot_of(generation)]).locate(at);
        for member in bits(self.copies & self.present_members()) {
            let data = IoData::Owned(buffer.clone());
            let length = buffer.bytes().len();
            let kind = IoKind::Write { fua };
            self.start_io(Route::Checkpoint { key }, member, kind, offset, length, data);
        }
    }

    fn complete_chunks(&mut self, key: TaskKey) {
        let highest = self.checkpoint_task(key).highest;
        let open = self.log.open_lsn();
        let members: Vec<MemberIndex> = self.settlement.members().collect();
        let written = self.log.completed() >= highest
            && members.into_iter().all(|member| {
                self.member_failed(member)
                    || self.settlement.member(member).data_complete(open) >= highest
            });
        if !written {
            self.stall(key);
            return self.give_up_on_data(highest);
        }
        // Data that failed has been taken back by entries up to here.
        let lsn = self.log.close();
        self.checkpoint_task(key).stage = Stage::Flush;
        self.wait_for_entry(key, lsn);
        self.wake(key);
    }

    /// The members whose data up to entry `highest` does not come within the deadline hold up
    /// no checkpoint.
    fn give_up_on_data(&mut self, highest: Lsn) {
        let open = self.log.open_lsn();
        let members: Vec<MemberIndex> = self.settlement.members().collect();
        for member in members {
            let waits = self.settlement.member(member).data_complete(open) < highest;
            if waits && self.io.is_bound(member) && !self.member_failed(member) {
                self.give_up_late(member);
            }
        }
    }

    fn write_header(&mut self, key: TaskKey) {
        let incarnation = self.labels.values().next().map_or(0, |label| label.incarnation);
        let (next_layer, next_object) = (self.state.next_layer, self.state.next_object);
        let seed = self.seed;
        let task = self.checkpoint_task(key);
        task.stage = Stage::Done;
        let header = SlotHeader {
            generation: task.generation,
            start: task.start.lsn,
            position: task.start.position,
            previous: task.start.previous,
            incarnation,
            chunk_bytes: task.position - SLOT_HEADER as u64,
            chunks: u32::try_from(task.checksums.len()).expect("slots are bounded"),
            next_layer: LayerId(next_layer),
            next_object: ObjectId(next_object),
            chunks_checksum: checksum::of_checksums(seed, task.checksums.iter().copied()),
        };
        let generation = task.generation;
        let mut buffer = Buffer::zeroed(SLOT_HEADER);
        buffer.bytes_mut().copy_from_slice(&encode_slot(seed, &header));
        self.write_slot(key, generation, 0, &buffer, true);
    }
}

/// What proves the blocks of a fragment whose member is not there, in the order of the Maps.
pub(crate) type Proofs<'a> = &'a dyn Fn(Place) -> &'a [Proof];

/// The state from key `first` on, as much as fits one chunk, and the key that comes next.
pub(crate) fn capture(state: &State, first: Key, proofs: Proofs<'_>) -> (Vec<u8>, Option<Key>) {
    let mut chunk = Chunk { blocks: state.blocks(), payload: Vec::new() };
    let next = capture_objects(state, first, proofs, &mut chunk);
    (chunk.payload, next)
}

fn capture_objects(
    state: &State,
    first: Key,
    proofs: Proofs<'_>,
    chunk: &mut Chunk,
) -> Option<Key> {
    let key = |class, first| Key { class, first, second: 0 };
    if first.class == Class::Pool {
        chunk.push(&Op::PutPool(state.pool.clone()));
        for (&member, segments) in &state.members {
            chunk.push(&Op::PutMember { member, segments: segments.clone() });
        }
    }
    if first.class <= Class::Layer {
        let from = if first.class == Class::Layer { first.first } else { 0 };
        let from = LayerId(u32::try_from(from).expect("layer ids are 32 bits"));
        for (&layer, content) in state.layers.range(from..) {
            if !chunk.try_push(&Op::PutLayer { layer, parent: content.parent }) {
                return Some(key(Class::Layer, u64::from(layer.0)));
            }
        }
    }
    if first.class <= Class::Volume {
        let from = ObjectId(if first.class == Class::Volume { first.first } else { 0 });
        for (&id, volume) in state.volumes.range(from..) {
            if !chunk.try_push(&Op::PutVolume(Box::new(volume.clone()))) {
                return Some(key(Class::Volume, id.0));
            }
        }
    }
    if first.class <= Class::Snapshot {
        let from = ObjectId(if first.class == Class::Snapshot { first.first } else { 0 });
        for (&id, snapshot) in state.snapshots.range(from..) {
            if !chunk.try_push(&Op::PutSnapshot(Box::new(snapshot.clone()))) {
                return Some(key(Class::Snapshot, id.0));
            }
        }
    }
    let at = if first.class == Class::Fragment { (first.first, first.second) } else { (0, 0) };
    let from = LayerId(u32::try_from(at.0).expect("layer ids are 32 bits"));
    for (&layer, content) in state.layers.range(from..) {
        let begin = if layer == from { LogicalCluster(at.1) } else { LogicalCluster(0) };
        if let Some(next) = chunk.push_fragments(state, layer, content.map.iter_from(begin), proofs)
        {
            let first = u64::from(layer.0);
            return Some(Key { class: Class::Fragment, first, second: next.0 });
        }
    }
    None
}

/// Which slot a generation of a checkpoint lies in.
pub(crate) fn slot_of(generation: u64) -> usize {
    usize::from(generation % 2 == 1)
}

/// A chunk being filled.
struct Chunk {
    blocks: u16,
    payload: Vec<u8>,
}

impl Chunk {
    fn room(&self) -> usize {
        CHUNK_MAX - CHUNK_HEADER - self.payload.len()
    }

    fn push(&mut self, op: &Op) {
        op.encode(self.blocks, &mut self.payload);
    }

    fn try_push(&mut self, op: &Op) -> bool {
        let fits = op.encoded_len(self.blocks) <= self.room();
        if fits {
            self.push(op);
        }
        fits
    }

    /// Adds fragments of a layer while there is room; returns the first that was left out.
    fn push_fragments(
        &mut self,
        state: &State,
        layer: LayerId,
        fragments: impl Iterator<Item = (LogicalCluster, Fragment)>,
        proofs: Proofs<'_>,
    ) -> Option<LogicalCluster> {
        // An item is never longer than this; runs of full clusters are much shorter.
        let bitmap = usize::from(self.blocks.div_ceil(64)) * 8;
        let mut room = self.room().saturating_sub(64);
        let mut items = Vec::new();
        let mut left_out = None;
        for (at, fragment) in fragments {
            let unproved = proofs((layer, at));
            let lost = fragment.cluster.map_or(BlockSet::EMPTY, |cluster| state.lost_of(cluster));
            if !unproved.is_empty() || !lost.is_empty() {
                self.push_items(layer, &mut items);
                let lost = lost.runs().flat_map(|(first, count)| first..first + count);
                let lost = lost.map(|block| (block, LOST));
                let unproved: Vec<Proof> = lost.chain(unproved.iter().copied()).collect();
                if !self.push_unproved(layer, at, fragment, &unproved) {
                    return Some(at);
                }
                room = self.room().saturating_sub(64);
                continue;
            }
            let length = match fragment {
                Fragment { valid, opaque, .. }
                    if opaque.is_empty() && valid.is_full(self.blocks) =>
                {
                    16
                }
                Fragment { opaque, .. } if opaque.is_empty() => 16 + bitmap,
                _ => 16 + 2 * bitmap,
            };
            if length > room {
                left_out = Some(at);
                break;
            }
            room -= length;
            items.push((at, fragment));
        }
        self.push_items(layer, &mut items);
        left_out
    }

    fn push_items(&mut self, layer: LayerId, items: &mut Vec<(LogicalCluster, Fragment)>) {
        if !items.is_empty() {
            let items = core::mem::take(items);
            self.push(&Op::Fragments { layer, items });
        }
    }

    /// Adds a fragment without the blocks that have to be proved, and then their Maps. Nothing is
    /// added when there is no room for all of it.
    fn push_unproved(
        &mut self,
        layer: LayerId,
        at: LogicalCluster,
        fragment: Fragment,
        unproved: &[Proof],
    ) -> bool {
        let cluster = fragment.cluster.expect("a block that was written lies in a cluster");
        let mut proved = fragment;
        unproved.iter().for_each(|&(block, _)| proved.valid.remove_range(block, 1));
        if proved.valid.is_empty() {
            proved.cluster = None;
        }
        let mut ops = Vec::new();
        if !proved.is_absent() {
            ops.push(Op::Fragments { layer, items: vec![(at, proved)] });
        }
        for (first, proofs) in runs(unproved) {
            ops.push(Op::Map { layer, at, cluster, first, proofs });
        }
        let length: usize = ops.iter().map(|op| op.encoded_len(self.blocks)).sum();
        let fits = length <= self.room();
        if fits {
            ops.iter().for_each(|op| self.push(op));
        }
        fits
    }
}

/// Proofs of neighbouring blocks together, in their order.
fn runs(proofs: &[Proof]) -> Vec<(u16, Vec<u64>)> {
    let mut runs: Vec<(u16, Vec<u64>)> = Vec::new();
    for &(block, proof) in proofs {
        match runs.last_mut() {
            Some((first, run)) if usize::from(*first) + run.len() == usize::from(block) => {
                run.push(proof);
            }
            _ => runs.push((block, vec![proof])),
        }
    }
    runs
}
