//! The log's writing side: operations become entries, entries become durable.
//!
//! Operations are appended to a *batch*; a batch becomes an entry when it is *sealed*,
//! which gives it its place in the ring and its link in the chain of checksums. A few
//! entries are written at once, and each is *complete* when it and all before it are on
//! every copy. What a batch is called, its LSN, is known when the first operation goes
//! into it, so that whoever appends knows what to wait for.
//!
//! - Operations appended together are in one entry: all of them count or none.
//! - Completion is in order of LSN.
//! - The log never writes over an entry that a checkpoint has not made superfluous.
//!
//! Reading it is [`crate::scan`]'s part. Format: `docs/formats/lvs.md` section 3.

use std::collections::VecDeque;

use fathom_block::Buffer;

use crate::{
    format::{
        checksum::Seed,
        entry::{self, ENTRY_CLUSTERS_MAX, ENTRY_HEADER, ENTRY_MAX, EntryHeader},
        label::Extent,
        op::Op,
    },
    geometry::{BLOCK, BLOCK_LEN, Lsn},
};

/// Entries that may be under way at once.
const IN_FLIGHT_MAX: usize = 4;
/// Entries of the greatest length that a request leaves free, so that what gives space back can go on.
const ROOM_ENTRIES: u64 = 6;
/// The same for what gives space back, so that what cannot be refused can go on: data taken back,
/// the end of a merge.
const RESERVE_ENTRIES: u64 = 3;
/// Entries of one block, for each member, that are left for Settled operations alone: a write that
/// a checkpoint waits for may have to wait for blocks to be settled first, which takes one that is
/// under way and the next.
const MARK_ENTRIES: u64 = 2;

/// The shortest log of a pool with `members` members that takes entries of `entry` bytes.
pub(crate) fn log_bytes_min(members: u64, entry: u64) -> u64 {
    // An entry is at most a 32nd of the log, and always one block.
    let entries = if entry <= BLOCK { LOG_MIN } else { 32 * entry };
    entries + 2 * MARK_ENTRIES * BLOCK * members
}

/// The shortest log without what its members need, in bytes.
const LOG_MIN: u64 = 64 << 10;

/// Where ring positions lie on a member. Positions count up for ever; the ring repeats.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    extents: Vec<Extent>,
    length: u64,
}

impl Ring {
    pub(crate) fn new(extents: &[Extent]) -> Self {
        let length = extents.iter().map(|extent| extent.length).sum();
        Self { extents: extents.to_vec(), length }
    }

    /// Bytes in the ring.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The byte offset on a member of a position, and the bytes left in its extent.
    pub(crate) fn locate(&self, position: u64) -> (u64, u64) {
        let mut within = position % self.length;
        for extent in &self.extents {
            if within < extent.length {
                return (extent.offset + within, extent.length - within);
            }
            within -= extent.length;
        }
        unreachable!("a position modulo the ring's length lies in an extent")
    }

    /// Where an entry of `length` bytes begins when the one before it ended at `position`.
    pub(crate) fn place(&self, position: u64, length: u64) -> u64 {
        let (_, left) = self.locate(position);
        if length <= left { position } else { position + left }
    }
}

/// The longest entry of a log, in bytes.
fn entry_max(ring: &Ring) -> u64 {
    (ring.length() / 32).clamp(BLOCK, ENTRY_MAX as u64) / BLOCK * BLOCK
}

/// The most bytes of operations that fit in one entry of a log.
pub(crate) fn payload_max(ring: &Ring) -> usize {
    usize::try_from(entry_max(ring)).expect("at most 64 KiB") - ENTRY_HEADER
}

/// A batch of operations that is not sealed yet.
struct Batch {
    lsn: Lsn,
    payload: Vec<u8>,
    /// Logical clusters that its operations name, [`Op::logical_clusters`].
    clusters: usize,
    /// Somebody waits for it.
    urgent: bool,
}

/// An entry to be written at a byte offset of each metadata member.
pub(crate) struct Sealed {
    pub(crate) lsn: Lsn,
    pub(crate) offset: u64,
    pub(crate) buffer: Buffer,
}

struct InFlight {
    lsn: Lsn,
    /// Members that have not written it yet, a bit per index.
    missing: u32,
}

/// Where replay begins: what a checkpoint records of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogStart {
    pub(crate) lsn: Lsn,
    pub(crate) position: u64,
    pub(crate) previous: u64,
}

/// The writing side of the log.
pub(crate) struct Log {
    ring: Ring,
    seed: Seed,
    incarnation: u64,
    blocks_per_cluster: u16,
    /// Waiting to be sealed; the last one is open.
    batches: VecDeque<Batch>,
    in_flight: VecDeque<InFlight>,
    /// Where the next entry may begin, and where the oldest needed one begins.
    head: u64,
    tail: u64,
    previous: u64,
    completed: Lsn,
    durable: Lsn,
    /// The highest durable LSN that an entry states.
    noted: Lsn,
    checkpoint_generation: u64,
}

impl Log {
    /// An empty log that goes on at `start`: everything before it is durable and no longer
    /// needed.
    pub(crate) fn new(
        ring: Ring,
        seed: Seed,
        incarnation: u64,
        blocks_per_cluster: u16,
        start: LogStart,
        checkpoint_generation: u64,
    ) -> Self {
        let before = Lsn(start.lsn.0 - 1);
        let open = Batch { lsn: start.lsn, payload: Vec::new(), clusters: 0, urgent: false };
        Self {
            ring,
            seed,
            incarnation,
            blocks_per_cluster,
            batches: VecDeque::from([open]),
            in_flight: VecDeque::new(),
            head: start.position,
            tail: start.position,
            previous: start.previous,
            completed: before,
            durable: before,
            noted: before,
            checkpoint_generation,
        }
    }

    fn entry_max(&self) -> u64 {
        entry_max(&self.ring)
    }

    /// The most bytes of operations that fit in one entry.
    pub(crate) fn payload_max(&self) -> usize {
        payload_max(&self.ring)
    }

    /// Whether operations of requests may be appended: a quarter of the log, and some entries
    /// in a small one, are kept back for what has to go on when it is full.
    pub(crate) fn has_room(&self, members: usize) -> bool {
        self.used() < self.ring.length() / 4 * 3 && self.leaves(ROOM_ENTRIES, members)
    }

    /// Whether operations may be appended that give space back or end what was begun. The rest
    /// is for what cannot be refused.
    pub(crate) fn has_reserve(&self, members: usize) -> bool {
        self.leaves(RESERVE_ENTRIES, members)
    }

    /// Whether so many entries of the greatest length are free, beside the marks of `members`
    /// members.
    fn leaves(&self, entries: u64, members: usize) -> bool {
        let marks = MARK_ENTRIES * BLOCK * members as u64;
        self.used() + entries * self.entry_max() + marks <= self.ring.length()
    }

    /// Whether a checkpoint should make room.
    pub(crate) fn wants_checkpoint(&self, members: usize) -> bool {
        self.used() > self.ring.length() / 2 || !self.has_room(members)
    }

    /// Appends operations that count together; returns the LSN of their entry.
    ///
    /// # Panics
    ///
    /// When they do not fit in one entry: callers bound what they append.
    pub(crate) fn append(&mut self, ops: &[Op], urgent: bool) -> Lsn {
        let length: usize = ops.iter().map(|op| op.encoded_len(self.blocks_per_cluster)).sum();
        let named = ops.iter().map(|op| op.logical_clusters(self.blocks_per_cluster));
        let clusters: usize = named.sum();
        let limit = self.payload_max();
        assert!(length <= limit, "{length} bytes of operations do not fit in a log entry");
        assert!(clusters <= ENTRY_CLUSTERS_MAX, "{clusters} clusters are too many for an entry");
        let open = self.open();
        if open.payload.len() + length > limit || open.clusters + clusters > ENTRY_CLUSTERS_MAX {
            self.close();
        }
        let blocks = self.blocks_per_cluster;
        let batch = self.batches.back_mut().expect("one batch is always open");
        for op in ops {
            op.encode(blocks, &mut batch.payload);
        }
        batch.clusters += clusters;
        batch.urgent |= urgent;
        batch.lsn
    }

    fn open(&self) -> &Batch {
        self.batches.back().expect("one batch is always open")
    }

    /// Ends the open batch, so that what comes later has a higher LSN, and says that
    /// somebody waits for it. Returns the LSN of the last operation appended so far.
    pub(crate) fn close(&mut self) -> Lsn {
        let open = self.batches.back_mut().expect("one batch is always open");
        if !open.payload.is_empty() {
            open.urgent = true;
            self.open_next();
        }
        Lsn(self.open_lsn().0 - 1)
    }

    /// Says that somebody waits for everything that has been appended so far; returns the LSN of
    /// the last of it. Unlike [`Log::close`] it lets later operations into the same entry.
    pub(crate) fn hurry_all(&mut self) -> Lsn {
        let open = self.batches.back_mut().expect("one batch is always open");
        if open.payload.is_empty() {
            return Lsn(open.lsn.0 - 1);
        }
        open.urgent = true;
        open.lsn
    }

    fn open_next(&mut self) {
        let lsn = Lsn(self.open_lsn().0 + 1);
        self.batches.push_back(Batch { lsn, payload: Vec::new(), clusters: 0, urgent: false });
    }

    /// The LSN that an operation appended now would get, at least.
    pub(crate) fn open_lsn(&self) -> Lsn {
        self.open().lsn
    }

    /// Says that somebody waits for entry `lsn`.
    pub(crate) fn hurry(&mut self, lsn: Lsn) {
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.lsn >= lsn) {
            batch.urgent |= !batch.payload.is_empty();
        }
    }

    /// Has an entry state what is durable, if none does yet: only then damage to the newest
    /// entries can be told from a torn tail. For when nothing else is going on.
    pub(crate) fn note_durable(&mut self) {
        if self.durable > self.noted && self.batches.len() == 1 && self.in_flight.is_empty() {
            let open = self.batches.back_mut().expect("one batch is always open");
            open.urgent = true;
        }
    }

    /// Seals the next batch when it is wanted and there is room for it, to be written on
    /// `members` (a bit per index).
    pub(crate) fn seal_next(&mut self, members: u32) -> Option<Sealed> {
        let batch = self.batches.front()?;
        let wanted = batch.urgent || self.batches.len() > 1;
        if !wanted || self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let length = (ENTRY_HEADER + batch.payload.len()).next_multiple_of(BLOCK_LEN);
        let begin = self.ring.place(self.head, length as u64);
        if begin + length as u64 - self.tail > self.ring.length() {
            return None;
        }
        if self.batches.len() == 1 {
            self.open_next();
        }
        let batch = self.batches.pop_front().expect("it was there");
        let mut buffer = Buffer::zeroed(length);
        buffer.bytes_mut()[ENTRY_HEADER..][..batch.payload.len()].copy_from_slice(&batch.payload);
        let header = EntryHeader {
            lsn: batch.lsn,
            incarnation: self.incarnation,
            durable: self.durable,
            previous: self.previous,
            checkpoint_generation: self.checkpoint_generation,
            blocks: u16::try_from(length / BLOCK_LEN).expect("at most 16 blocks"),
            payload_length: u32::try_from(batch.payload.len()).expect("at most 64 KiB"),
        };
        self.noted = self.durable;
        self.previous = entry::seal_entry(self.seed, &header, buffer.bytes_mut());
        self.head = begin + length as u64;
        self.in_flight.push_back(InFlight { lsn: batch.lsn, missing: members });
        let (offset, _) = self.ring.locate(begin);
        Some(Sealed { lsn: batch.lsn, offset, buffer })
    }

    /// Entry `lsn` has been written on member `member`. Returns whether more entries are
    /// complete now.
    pub(crate) fn written(&mut self, lsn: Lsn, member: u16) -> bool {
        if let Some(entry) = self.in_flight.iter_mut().find(|entry| entry.lsn == lsn) {
            entry.missing &= !(1 << member);
        }
        self.advance()
    }

    /// Member `member` no longer counts. Returns whether more entries are complete now.
    pub(crate) fn forget_member(&mut self, member: u16) -> bool {
        for entry in &mut self.in_flight {
            entry.missing &= !(1 << member);
        }
        self.advance()
    }

    fn advance(&mut self) -> bool {
        let before = self.completed;
        while self.in_flight.front().is_some_and(|entry| entry.missing == 0) {
            let entry = self.in_flight.pop_front().expect("it was there");
            self.completed = entry.lsn;
        }
        self.completed != before
    }

    /// Every entry up to here has been written on `member`, a metadata member in sync.
    pub(crate) fn written_on(&self, member: u16) -> Lsn {
        let missing = self.in_flight.iter().find(|entry| entry.missing & (1 << member) != 0);
        let next = missing.map_or_else(|| self.start().lsn, |entry| entry.lsn);
        Lsn(next.0 - 1)
    }

    /// Every entry up to here is on every copy.
    pub(crate) fn completed(&self) -> Lsn {
        self.completed
    }

    /// Every entry up to here is on stable media.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    /// Every entry up to `lsn` is on stable media now.
    pub(crate) fn set_durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
    }

    /// Where replay has to begin for everything that is not sealed yet and all that follows:
    /// what a checkpoint that begins now records.
    pub(crate) fn start(&self) -> LogStart {
        let front = self.batches.front().expect("one batch is always open");
        LogStart { lsn: front.lsn, position: self.head, previous: self.previous }
    }

    /// A checkpoint has made everything before `position` superfluous.
    pub(crate) fn cut(&mut self, position: u64, checkpoint_generation: u64) {
        assert!(position >= self.tail && position <= self.head, "the tail moves forward");
        self.tail = position;
        self.checkpoint_generation = checkpoint_generation;
    }

    /// Bytes in use or spoken for.
    fn used(&self) -> u64 {
        let waiting: usize = self
            .batches
            .iter()
            .filter(|batch| !batch.payload.is_empty())
            .map(|batch| (ENTRY_HEADER + batch.payload.len()).next_multiple_of(BLOCK_LEN))
            .sum();
        self.head - self.tail + waiting as u64
    }
}
