//! Drives a store on simulated disks: every member I/O is delayed and reordered.
//!
//! An I/O is first *pending*, then *executed* on its disk, then *reported* to the store; the
//! order among different I/Os is drawn at random, and one in eight takes long. A crash may come
//! between any two.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fathom_block::{Completion, Error, Operation, Request, RequestId};
use fathom_lvs::{
    Action, Addition, Failed, IoData, IoError, IoKind, IoToken, Medium, MediumError, MemberIo,
    OpenError, OpenOptions, Payloads, Refused, Store, Ticket, Wake,
    geometry::{MemberIndex, ObjectId},
};
use fathom_test_support::{
    disk::{Cut, DiskError, SimulatedDisk},
    random::Random,
};
use fathom_units::{BlockCount, Lba, Monotonic};
use uuid::Uuid;

/// Steps within which everything comes to an end, if it ever does.
pub const STEPS_MAX: u32 = 500_000;
/// How often a slow I/O is passed over, if there are others.
const SLOWNESS: u32 = 4;

/// The disks of a pool, by slot.
#[derive(Clone)]
pub struct Disks(pub Vec<SimulatedDisk>);

impl Disks {
    /// Power is lost on all disks at once.
    pub fn power_cut(&mut self, random: &mut Random, cut: Cut) {
        for disk in &mut self.0 {
            disk.power_cut(random, cut);
            disk.revive();
        }
    }
}

impl Medium for Disks {
    fn slots(&self) -> usize {
        self.0.len()
    }

    fn size(&self, slot: usize) -> u64 {
        self.0[slot].capacity()
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MediumError> {
        self.0[slot].read(offset, buffer).map_err(|error| failed(slot, "reading", offset, &error))
    }

    fn write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Result<(), MediumError> {
        let result = self.0[slot].write(offset, data, false);
        result.map_err(|error| failed(slot, "writing", offset, &error))
    }

    fn flush(&mut self, slot: usize) -> Result<(), MediumError> {
        self.0[slot].flush().map_err(|error| failed(slot, "flushing", 0, &error))
    }
}

fn failed(
    slot: usize,
    operation: &'static str,
    offset: u64,
    error: &dyn std::fmt::Display,
) -> MediumError {
    MediumError { slot, operation, offset, reason: error.to_string() }
}

/// The data of requests under way.
#[derive(Default)]
pub struct Data(BTreeMap<RequestId, Vec<u8>>);

impl Payloads for Data {
    fn bytes(&self, id: RequestId) -> &[u8] {
        &self.0[&id]
    }
}

struct Executed {
    io: MemberIo,
    result: Result<(), IoError>,
}

/// What came back from the store.
pub enum Event {
    /// A request is done; reads carry their data.
    Completed(RequestId, Result<(), Error>, Vec<u8>),
    /// A call is done.
    Done(Ticket, Result<(), Failed>),
}

/// A store and its disks.
pub struct Rig {
    /// The store.
    pub store: Store,
    /// Its disks.
    pub disks: Disks,
    slots: BTreeMap<MemberIndex, usize>,
    data: Data,
    pending: Vec<MemberIo>,
    /// Members that do not answer, and what waits for them.
    hanging: BTreeSet<MemberIndex>,
    stuck: Vec<MemberIo>,
    executed: Vec<Executed>,
    /// I/Os that take long.
    slow: BTreeSet<IoToken>,
    /// How many I/Os the store has asked for.
    taken: u64,
    /// What the store answered.
    pub events: Vec<Event>,
    /// What the store said of how full the pool is.
    pub told: Vec<fathom_lvs::Event>,
    /// Whether writes of data find the file systems under the members full.
    pub full: bool,
    /// Log entries that opening replayed.
    pub replayed: u64,
    /// Blocks that opening took back.
    pub taken_back: u64,
    /// How often the store said that all is reclaimed.
    pub reclaimed: u64,
    next_request: u64,
    /// Every step takes a microsecond; time jumps on when only the store waits for it.
    pub now: Monotonic,
    wake: Wake,
}

impl Rig {
    /// Opens the pool on `disks`.
    ///
    /// # Errors
    ///
    /// As [`fathom_lvs::open`]; the disks come back with it.
    pub fn open(mut disks: Disks, options: OpenOptions) -> Result<Self, Box<(OpenError, Disks)>> {
        match fathom_lvs::open(&mut disks, options) {
            Ok(opening) => Ok(Self {
                store: opening.store,
                disks,
                slots: opening.members,
                data: Data::default(),
                pending: Vec::new(),
                hanging: BTreeSet::new(),
                stuck: Vec::new(),
                executed: Vec::new(),
                slow: BTreeSet::new(),
                taken: 0,
                events: Vec::new(),
                told: Vec::new(),
                full: false,
                replayed: opening.replayed,
                taken_back: opening.taken_back,
                reclaimed: 0,
                next_request: 1,
                now: Monotonic(0),
                wake: Wake::Now,
            }),
            Err(error) => Err(Box::new((error, disks))),
        }
    }

    /// Submits a request; `data` is what it writes or compares, or room for what it reads.
    pub fn submit(
        &mut self,
        object: ObjectId,
        operation: Operation,
        lba: u64,
        blocks: u64,
        data: Vec<u8>,
    ) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.data.0.insert(id, data);
        let request = Request { id, operation, lba: Lba(lba), blocks: BlockCount(blocks) };
        self.store.submit(object, request);
        self.wake = Wake::Now;
        id
    }

    /// Lets the store take its steps and takes over what it wants done.
    pub fn pump(&mut self) {
        self.now = self.now + Duration::from_micros(1);
        self.wake = self.store.pump(self.now, &self.data);
        while let Some(action) = self.store.next_action() {
            match action {
                Action::Io(io) => {
                    if self.hanging.contains(&io.member) {
                        self.stuck.push(io);
                        continue;
                    }
                    self.taken += 1;
                    if Random::new(self.taken).chance(1, 8) {
                        self.slow.insert(io.token);
                    }
                    self.pending.push(io);
                }
                Action::Zero { id, offset, length } => {
                    let data = self.data.0.get_mut(&id).expect("the request is under way");
                    data[offset..offset + length].fill(0);
                }
                Action::Fill { id, offset, buffer, range } => {
                    let data = self.data.0.get_mut(&id).expect("the request is under way");
                    data[offset..offset + range.len()].copy_from_slice(&buffer.bytes()[range]);
                }
                Action::Complete(Completion { id, result }) => {
                    let data = self.data.0.remove(&id).expect("a request completes once");
                    self.events.push(Event::Completed(id, result, data));
                }
                Action::Event(event) => self.told.push(event),
                Action::Reclaimed => self.reclaimed += 1,
                Action::Done { ticket, result } => self.events.push(Event::Done(ticket, result)),
            }
        }
    }

    /// Adds the disk in `slot` to the pool as the member `uuid`.
    ///
    /// # Errors
    ///
    /// As [`Store::add_member`].
    ///
    /// # Panics
    ///
    /// When the disk cannot be read.
    pub fn add_member(&mut self, slot: usize, uuid: Uuid, force: bool) -> Result<Ticket, Refused> {
        let candidate = fathom_lvs::inspect(&mut self.disks, slot).expect("a disk that is read");
        let (ticket, member) = self.store.add_member(&Addition { uuid, candidate, force })?;
        self.slots.insert(member, slot);
        self.wake = Wake::Now;
        Ok(ticket)
    }

    /// Lets a member use all of its disk, which has grown.
    ///
    /// # Errors
    ///
    /// As [`Store::grow_member`].
    pub fn grow_member(&mut self, member: MemberIndex) -> Result<Ticket, Refused> {
        let size = self.disks.size(self.slots[&member]);
        self.wake = Wake::Now;
        self.store.grow_member(member, size)
    }

    /// Makes a stale metadata copy whole.
    ///
    /// # Errors
    ///
    /// As [`Store::rejoin_member`].
    pub fn rejoin_member(&mut self, member: MemberIndex) -> Result<Ticket, Refused> {
        self.wake = Wake::Now;
        self.store.rejoin_member(member)
    }

    /// From now on every member discards clusters that are given back.
    pub fn discard_everywhere(&mut self) {
        for &member in self.slots.keys() {
            self.store.set_discarding(member, true);
        }
        self.wake = Wake::Now;
    }

    /// Whether the disk in a slot is a member of the pool.
    pub fn is_member(&self, slot: usize) -> bool {
        self.slots.values().any(|&other| other == slot)
    }

    /// From now on a member does not answer.
    pub fn hang(&mut self, member: MemberIndex) {
        self.hanging.insert(member);
        let (stuck, pending) =
            core::mem::take(&mut self.pending).into_iter().partition(|io| io.member == member);
        self.pending = pending;
        self.stuck.extend::<Vec<MemberIo>>(stuck);
    }

    /// A member answers again, also what it was asked long ago.
    pub fn wake_up(&mut self, member: MemberIndex) {
        self.hanging.remove(&member);
        let (pending, stuck): (Vec<_>, Vec<_>) =
            core::mem::take(&mut self.stuck).into_iter().partition(|io| io.member == member);
        self.stuck = stuck;
        self.pending.extend(pending);
    }

    /// Whether the store waits for the rig, members that hang apart.
    pub fn has_io(&self) -> bool {
        !self.pending.is_empty() || !self.executed.is_empty()
    }

    /// How many I/Os of those `chosen` the store has asked for and not got back.
    pub fn under_way(&self, chosen: impl Fn(&MemberIo) -> bool) -> usize {
        let executed = self.executed.iter().map(|executed| &executed.io);
        self.pending.iter().chain(executed).filter(|io| chosen(io)).count()
    }

    /// Whether nothing is under way but at members that hang, and the store wants nothing.
    pub fn is_quiet(&self) -> bool {
        let rests = !self.has_io() && self.wake == Wake::OnEvent;
        rests && (self.store.is_idle() || !self.stuck.is_empty())
    }

    /// Executes a pending I/O, or reports an executed one. Slow ones come seldom while there are
    /// others.
    pub fn step(&mut self, random: &mut Random) {
        let choices = self.pending.len() + self.executed.len();
        if choices == 0 {
            // Nothing can happen before the store wants to be called again.
            if let Wake::At(at) = self.wake {
                self.now = self.now.max(at);
            }
            return self.pump();
        }
        let mut at = 0;
        for _ in 0..SLOWNESS {
            at = usize::try_from(random.below(choices as u64)).expect("small");
            let executed = at.checked_sub(self.pending.len());
            let io = executed.map_or_else(|| &self.pending[at], |at| &self.executed[at].io);
            if !self.slow.contains(&io.token) {
                break;
            }
        }
        if at < self.pending.len() {
            let io = self.pending.swap_remove(at);
            let executed = self.execute(io);
            self.executed.push(executed);
        } else {
            let executed = self.executed.swap_remove(at - self.pending.len());
            self.report(executed);
        }
    }

    /// Executes the oldest pending I/O that is one of `chosen` and reports it at once. All
    /// others are held back. Returns whether there was one.
    pub fn run_one(&mut self, chosen: impl Fn(&MemberIo) -> bool) -> bool {
        let Some(at) = self.pending.iter().position(chosen) else { return false };
        let io = self.pending.remove(at);
        let executed = self.execute(io);
        self.report(executed);
        true
    }

    fn report(&mut self, Executed { io, result }: Executed) {
        let buffer = match io.data {
            IoData::Owned(buffer) if io.kind == IoKind::Read => Some(buffer),
            _ => None,
        };
        self.slow.remove(&io.token);
        self.store.complete_io(io.token, result, buffer);
        self.pump();
    }

    fn execute(&mut self, mut io: MemberIo) -> Executed {
        if self.full
            && matches!((io.kind, &io.data), (IoKind::Write { .. }, IoData::Request { .. }))
        {
            return Executed { io, result: Err(IoError::NoSpace) };
        }
        let disk = &mut self.disks.0[self.slots[&io.member]];
        let offset = io.offset.0;
        let result = match (io.kind, &mut io.data) {
            (IoKind::Flush, _) => disk.flush(),
            (IoKind::Discard, _) => disk.discard(offset, io.length as u64),
            (IoKind::Read, IoData::Owned(buffer)) => {
                disk.read(offset, &mut buffer.bytes_mut()[..io.length])
            }
            (IoKind::Read, IoData::Request { id, offset: at }) => {
                let data = self.data.0.get_mut(id).expect("the request is under way");
                disk.read(offset, &mut data[*at..*at + io.length])
            }
            (IoKind::Write { fua }, IoData::Owned(buffer)) => {
                disk.write(offset, &buffer.bytes()[..io.length], fua)
            }
            (IoKind::Write { fua }, IoData::Request { id, offset: at }) => {
                disk.write(offset, &self.data.0[id][*at..*at + io.length], fua)
            }
            (_, IoData::None) => unreachable!("reads and writes have data"),
        };
        Executed { io, result: result.map_err(|_| IoError::Failed) }
    }

    /// Steps until nothing is under way.
    ///
    /// # Panics
    ///
    /// When that does not happen within a very large number of steps: something hangs.
    pub fn settle(&mut self, random: &mut Random) {
        for _ in 0..STEPS_MAX {
            if self.is_quiet() {
                return;
            }
            self.step(random);
        }
        panic!("the store does not come to rest: {:?}", self.store);
    }

    /// The disks as a crash now leaves them: of what is pending, any part is still executed.
    /// Injected faults stay.
    /// With `cut` power is lost, else only the daemon dies.
    pub fn crash(&mut self, random: &mut Random, cut: Option<Cut>) -> Disks {
        let mut disks = self.disks.clone();
        let mut under: Vec<&MemberIo> = self.pending.iter().chain(&self.stuck).collect();
        random.shuffle(&mut under);
        for io in under {
            if !matches!(io.kind, IoKind::Write { .. } | IoKind::Discard) || random.chance(1, 2) {
                continue;
            }
            let disk = &mut disks.0[self.slots[&io.member]];
            let data = match &io.data {
                IoData::Owned(buffer) => &buffer.bytes()[..io.length],
                IoData::Request { id, offset } => &self.data.0[id][*offset..*offset + io.length],
                IoData::None => &[],
            };
            let done = match io.kind {
                IoKind::Write { fua } => disk.write(io.offset.0, data, fua),
                _ => disk.discard(io.offset.0, io.length as u64),
            };
            if let Err(error) = done {
                assert_eq!(error, DiskError::Io, "only a fault that the test injected");
            }
        }
        if let Some(cut) = cut {
            disks.power_cut(random, cut);
        }
        disks
    }
}

/// Room for what a read brings, filled so that nothing read shows.
pub fn unread(length: usize) -> Vec<u8> {
    vec![0xEE; length]
}
