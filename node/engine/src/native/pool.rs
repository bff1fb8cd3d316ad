//! A pool on a loop: the store's actions become I/O, and its ends the store's events.
//!
//! ```text
//!   Submit, Call --> Store <-- complete_io --- Completed
//!                      |
//!        end of turn: pump, then its actions:
//!          Io --> ring, or memory at once     Complete, Done --> answers     Zero, Fill
//! ```
//!
//! - The store is pumped once a turn, for all requests and completions that the turn brought: their
//!   entries share a write of the log.
//! - An I/O that the ring has no room for waits here, in order. As many can wait as the requests
//!   that were accepted ask for.
//! - A device that is added is carried out on from then on; when it did not become a member it is
//!   given up with its last I/O.
//! - What changes about the pool is told to subscribers, for which it never waits.
//! - A request that does not fit its data is answered and never reaches the store.
//! - On [`Event::Stop`] the pool answers `NotReady` to what is new, finishes what it has and
//!   retires; then its devices are unlocked.

use std::{
    collections::{BTreeMap, VecDeque},
    marker::PhantomData,
    sync::{Arc, mpsc::SyncSender},
};

use fathom_block::{Completion, Error, Request, RequestId};
use fathom_lvs::{
    Action, Addition, IoData, IoError, IoKind, IoToken, MemberIo, REQUEST_BYTES_MAX, Store, Ticket,
    Wake,
    geometry::{MemberIndex, ObjectId},
};
use fathom_runtime::{
    Actor, Address, Birth, Buffer, Completed, Context, Errno, Event, FileKey, Io,
    Memory as IoMemory, Purpose, TimerKey, device::DeviceFile,
};
use fathom_units::Monotonic;

use super::{
    data::{Asker, Over, Requests},
    members::{Member, Memory, Opened},
    message::{Answer, CallError, CarriesPool, FromThread, PoolEvent, PoolMessage, Subscriber},
};

/// How often one turn pumps the store, where members answer at once.
const PUMPS: usize = 16;
/// In the token of an I/O: that no request's data is lent to it.
const NO_REQUEST: u64 = u32::MAX as u64;
/// Requests that a pool takes in at once.
pub const REQUESTS_MAX: usize = 1 << 20;
/// Who may be told what changes about a pool, at once.
pub const SUBSCRIBERS_MAX: usize = 16;

enum Place {
    File(FileKey, Arc<DeviceFile>),
    Memory(Memory),
}

/// The actor that drives a store.
pub struct Pool<M> {
    store: Store,
    /// By the index of the member; none for one that is missing.
    places: Vec<Option<Place>>,
    requests: Requests,
    calls: BTreeMap<Ticket, SyncSender<Result<(), CallError>>>,
    /// Devices whose adding has failed, and that have I/O which waits for the ring.
    leaving: Vec<MemberIndex>,
    subscribers: Vec<Subscriber>,
    /// I/Os that the ring had no room for.
    waiting: VecDeque<MemberIo>,
    in_flight: usize,
    timer: Option<(Monotonic, TimerKey)>,
    stopping: bool,
    _messages: PhantomData<fn(M)>,
}

impl<M: CarriesPool> Pool<M> {
    /// Makes a pool that is open into an actor of the loop on which this is called.
    ///
    /// # Panics
    ///
    /// When the loop's table of files has no room for the members.
    pub fn birth(opened: Opened) -> Birth<M> {
        Box::new(move |context| Box::new(Self::new(opened, context)))
    }

    fn new(opened: Opened, context: &mut Context<'_, M>) -> Self {
        let Opened { opening, members } = opened;
        let mut store = opening.store;
        let mut slots: Vec<Option<Member>> = members.0.into_iter().map(Some).collect();
        let mut places = Vec::new();
        for (MemberIndex(index), slot) in opening.members {
            let member = slots[slot].take().expect("each slot is one member");
            store.set_discarding(MemberIndex(index), member.discards());
            let place = Self::place(member, context);
            places.resize_with(places.len().max(usize::from(index) + 1), || None);
            places[usize::from(index)] =
                Some(place.expect("the loop has room for the members of its pools"));
        }
        context.at_turn_end();
        Self {
            store,
            places,
            requests: Requests::default(),
            calls: BTreeMap::new(),
            leaving: Vec::new(),
            subscribers: Vec::new(),
            waiting: VecDeque::new(),
            in_flight: 0,
            timer: None,
            stopping: false,
            _messages: PhantomData,
        }
    }

    /// `None` when the loop has no room for another file.
    fn place(member: Member, context: &mut Context<'_, M>) -> Option<Place> {
        Some(match member {
            Member::Device(file) => Place::File(context.open(Arc::clone(&file) as Arc<_>)?, file),
            Member::Memory(memory) => Place::Memory(memory),
        })
    }

    // What comes in.

    fn message(&mut self, from: Address, message: PoolMessage, context: &mut Context<'_, M>) {
        match message {
            PoolMessage::Submit { object, request, data } => {
                self.submit(Asker::Actor(from), object, request, data, context);
            }
            PoolMessage::Thread(FromThread::Submit { object, request, data, answer }) => {
                self.submit(Asker::Thread(answer), object, request, data, context);
            }
            PoolMessage::Thread(FromThread::Call { call, answer }) => {
                let ended = if self.stopping { Err(CallError::Closed) } else { Ok(()) };
                match ended.and_then(|()| Ok(call(&mut self.store)?)) {
                    Ok(ticket) => drop(self.calls.insert(ticket, answer)),
                    // Whoever does not wait any more is not told.
                    Err(error) => drop(answer.try_send(Err(error))),
                }
            }
            PoolMessage::Thread(FromThread::Add { device, addition, answer }) => {
                match self.add_member(device, &addition, context) {
                    Ok(ticket) => drop(self.calls.insert(ticket, answer)),
                    Err(error) => drop(answer.try_send(Err(error))),
                }
            }
            PoolMessage::Thread(FromThread::Device { member, answer }) => {
                if let Some(Some(Place::File(_, file))) = self.places.get(usize::from(member.0)) {
                    drop(answer.try_send(Arc::clone(file)));
                }
            }
            PoolMessage::Thread(FromThread::Look(look)) => look(&self.store),
            PoolMessage::Thread(FromThread::Subscribe(subscriber)) => {
                // One too many is dropped, by which the other end sees that nothing will come.
                if self.subscribers.len() < SUBSCRIBERS_MAX {
                    self.subscribers.push(subscriber);
                }
            }
            PoolMessage::Thread(FromThread::Retire) => self.stopping = true,
            PoolMessage::Answer(answer) => {
                debug_assert!(false, "a pool asks nothing, and got the answer {answer:?}");
            }
        }
        context.at_turn_end();
    }

    fn add_member(
        &mut self,
        device: Member,
        addition: &Addition,
        context: &mut Context<'_, M>,
    ) -> Result<Ticket, CallError> {
        if self.stopping {
            return Err(CallError::Closed);
        }
        // A member that is there keeps its own device.
        self.store.check_addition(addition)?;
        let discards = device.discards();
        let place = Self::place(device, context).ok_or(CallError::NoRoom)?;
        let (ticket, MemberIndex(index)) = match self.store.add_member(addition) {
            Ok(begun) => begun,
            Err(refused) => {
                release(place, context);
                return Err(refused.into());
            }
        };
        self.store.set_discarding(MemberIndex(index), discards);
        self.leaving.retain(|leaving| leaving.0 != index);
        let index = usize::from(index);
        self.places.resize_with(self.places.len().max(index + 1), || None);
        if let Some(before) = self.places[index].replace(place) {
            release(before, context);
        }
        Ok(ticket)
    }

    /// Lets go of devices that did not become members.
    fn let_go(&mut self, context: &mut Context<'_, M>) {
        let waiting = &self.waiting;
        let waits = |member: MemberIndex| waiting.iter().any(|io| io.member == member);
        let (stay, go) = self.leaving.drain(..).partition(|&member| waits(member));
        self.leaving = stay;
        let go: Vec<MemberIndex> = go;
        for MemberIndex(index) in go {
            if let Some(place) = self.places[usize::from(index)].take() {
                release(place, context);
            }
        }
    }

    fn submit(
        &mut self,
        asker: Asker,
        object: ObjectId,
        request: Request,
        data: Option<Buffer>,
        context: &mut Context<'_, M>,
    ) {
        if let Err(error) = self.check(object, &request, data.as_ref()) {
            let answer = Answer { id: request.id, result: Err(error), data };
            return answer_to(Over { asker, answer }, context);
        }
        let id = self.requests.begin(asker, request.id, data);
        self.store.submit(object, Request { id, ..request });
    }

    fn check(
        &self,
        object: ObjectId,
        request: &Request,
        data: Option<&Buffer>,
    ) -> Result<(), Error> {
        if self.stopping || self.requests.count() >= REQUESTS_MAX {
            return Err(Error::NotReady);
        }
        let block_bytes = u64::from(self.store.logical_block_bytes(object).ok_or(Error::NotReady)?);
        let range = request.blocks.0.saturating_mul(block_bytes);
        // Without data a range may be as long as the volume.
        let moves_data = request.operation.data_bytes(1) > 0;
        if moves_data && range > REQUEST_BYTES_MAX {
            return Err(Error::InvalidField);
        }
        let given = data.map_or(0, |data| data.len() as u64);
        let right = !moves_data || request.operation.data_bytes(range) == given;
        if right { Ok(()) } else { Err(Error::InvalidField) }
    }

    fn completed(&mut self, completed: Completed, context: &mut Context<'_, M>) {
        let Completed { token, io, result } = completed;
        self.in_flight -= 1;
        let reads = matches!(io, Io::Read { .. });
        let mut buffer = None;
        match io.into_memory() {
            Some(IoMemory::Loan(loan)) => {
                let over = self.requests.give_back(RequestId(token >> 32), loan);
                over.into_iter().for_each(|over| answer_to(over, context));
            }
            Some(IoMemory::Owned(owned, _)) if reads => buffer = Some(owned),
            _ => {}
        }
        let token = usize::try_from(token & NO_REQUEST).expect("half of a token");
        self.store.complete_io(IoToken(token), result.map(drop).map_err(io_error), buffer);
        while let Some(io) = self.waiting.pop_front() {
            if !self.begin(io, context) {
                break;
            }
        }
        context.at_turn_end();
    }

    // What goes out.

    fn pump(&mut self, context: &mut Context<'_, M>) {
        let mut again = true;
        for _ in 0..PUMPS {
            let wake = self.store.pump(context.now(), &self.requests);
            // What memory answered at once gives the store more to do.
            let ended = self.act(context);
            self.set_timer(wake, context);
            again = ended || wake == Wake::Now;
            if !ended {
                break;
            }
        }
        if again || (!self.waiting.is_empty() && self.in_flight == 0) {
            context.at_next_turn();
        }
    }

    fn set_timer(&mut self, wake: Wake, context: &mut Context<'_, M>) {
        let at = match wake {
            Wake::At(at) => Some(at),
            Wake::Now | Wake::OnEvent => None,
        };
        if self.timer.map(|(at, _)| at) == at {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            context.cancel_timer(timer);
        }
        if let Some(at) = at {
            match context.set_timer(at, 0) {
                Some(timer) => self.timer = Some((at, timer)),
                // The loop has no room for timers: the store is asked again at once.
                None => context.at_next_turn(),
            }
        }
    }

    /// Carries out what the store wants. Whether an I/O has ended with it.
    fn act(&mut self, context: &mut Context<'_, M>) -> bool {
        let mut ended = false;
        while let Some(action) = self.store.next_action() {
            match action {
                Action::Io(io) => ended |= self.member_io(io, context),
                Action::Zero { id, offset, length } => {
                    self.requests.part(id, offset..offset + length).fill(0);
                }
                Action::Fill { id, offset, buffer, range } => {
                    let part = self.requests.part(id, offset..offset + range.len());
                    part.copy_from_slice(&buffer.bytes()[range]);
                }
                Action::Complete(Completion { id, result }) => {
                    let over = self.requests.complete(id, result);
                    over.into_iter().for_each(|over| answer_to(over, context));
                }
                Action::Event(event) => self.tell(PoolEvent::Fill(event)),
                Action::Reclaimed => self.tell(PoolEvent::Reclaimed),
                Action::Done { ticket, result } => {
                    if result.is_err() {
                        let places = (0..).map(MemberIndex).zip(&self.places);
                        let gone = places
                            .filter(|(member, place)| {
                                place.is_some() && !self.store.has_member(*member)
                            })
                            .map(|(member, _)| member);
                        self.leaving.extend(gone);
                    }
                    if let Some(answer) = self.calls.remove(&ticket) {
                        let _ = answer.try_send(result.map_err(CallError::from));
                    }
                }
            }
        }
        ended
    }

    fn tell(&mut self, event: PoolEvent) {
        self.subscribers.retain(|subscriber| subscriber.tell(event));
    }

    /// Whether the I/O has ended.
    fn member_io(&mut self, io: MemberIo, context: &mut Context<'_, M>) -> bool {
        if let Some(Some(Place::Memory(_))) = self.places.get(usize::from(io.member.0)) {
            self.memory_io(io);
            return true;
        }
        if self.waiting.is_empty() {
            self.begin(io, context);
        } else {
            self.waiting.push_back(io);
        }
        false
    }

    fn memory_io(&mut self, io: MemberIo) {
        let MemberIo { token, member, kind, offset, length, data } = io;
        let Some(Some(Place::Memory(memory))) = self.places.get_mut(usize::from(member.0)) else {
            unreachable!("the member is memory");
        };
        let mut back = None;
        match (kind, data) {
            (IoKind::Flush, _) => {}
            (IoKind::Discard, _) => memory.discard(offset.0, length),
            (IoKind::Read, IoData::Request { id, offset: at }) => {
                memory.read(offset.0, self.requests.part(id, at..at + length));
            }
            (IoKind::Read, IoData::Owned(mut buffer)) => {
                memory.read(offset.0, &mut buffer.bytes_mut()[..length]);
                back = Some(buffer);
            }
            (IoKind::Write { .. }, IoData::Request { id, offset: at }) => {
                use fathom_lvs::Payloads;
                memory.write(offset.0, &self.requests.bytes(id)[at..at + length]);
            }
            (IoKind::Write { .. }, IoData::Owned(buffer)) => {
                memory.write(offset.0, &buffer.bytes()[..length]);
            }
            (IoKind::Read | IoKind::Write { .. }, IoData::None) => {
                unreachable!("reads and writes have data")
            }
        }
        self.store.complete_io(token, Ok(()), back);
    }

    /// Gives an I/O to the ring, or has it wait. Whether the ring took it.
    fn begin(&mut self, io: MemberIo, context: &mut Context<'_, M>) -> bool {
        let MemberIo { token, member, kind, offset, length, data } = io;
        let Some(Some(Place::File(file, _))) = self.places.get(usize::from(member.0)) else {
            unreachable!("the store asks for members that are there");
        };
        let (file, offset) = (*file, offset.0);
        let purpose = if kind == IoKind::Read { Purpose::Fill } else { Purpose::Drain };
        let (request, memory) = match data {
            IoData::None => (NO_REQUEST, None),
            IoData::Owned(buffer) => (NO_REQUEST, Some(IoMemory::Owned(buffer, length))),
            IoData::Request { id, offset: at } => {
                let loan = self.requests.lend(id, at..at + length, purpose);
                (id.0, Some(IoMemory::Loan(loan)))
            }
        };
        let memory = || memory.expect("reads and writes have data");
        let ring_io = match kind {
            IoKind::Read => Io::Read { file, offset, memory: memory() },
            IoKind::Write { fua } => Io::Write { file, offset, memory: memory(), fua },
            IoKind::Flush => Io::Flush { file },
            IoKind::Discard => Io::Discard { file, offset, length: length as u64 },
        };
        let number = request << 32 | token.0 as u64;
        let Err(rejected) = context.submit(number, ring_io) else {
            self.in_flight += 1;
            return true;
        };
        // As it was, at the head of those that wait.
        let data = match rejected.into_io().into_memory() {
            None => IoData::None,
            Some(IoMemory::Owned(buffer, _)) => IoData::Owned(buffer),
            Some(IoMemory::Loan(loan)) => {
                let id = RequestId(request);
                let at = loan.place().start;
                let over = self.requests.give_back(id, loan);
                debug_assert!(over.is_none(), "the store waits for this I/O");
                IoData::Request { id, offset: at }
            }
            Some(IoMemory::Buffer(_)) => unreachable!("requests lend their buffers"),
        };
        let offset = fathom_units::ByteOffset(offset);
        self.waiting.push_front(MemberIo { token, member, kind, offset, length, data });
        false
    }

    fn retire_if_done(&mut self, context: &mut Context<'_, M>) {
        let under_way = self.in_flight + self.requests.count() + self.calls.len();
        if self.stopping && under_way == 0 && self.waiting.is_empty() {
            for place in self.places.drain(..).flatten() {
                release(place, context);
            }
            context.retire();
        }
    }
}

impl<M: CarriesPool> Actor<M> for Pool<M> {
    fn handle(&mut self, event: Event<M>, context: &mut Context<'_, M>) {
        match event {
            Event::Message { from, message } => match message.try_into() {
                Ok(message) => self.message(from, message, context),
                Err(_) => debug_assert!(false, "a message that no pool understands"),
            },
            Event::Completed(completed) => self.completed(completed, context),
            Event::Socket { .. } => unreachable!("a pool has no sockets"),
            Event::Timer { .. } => {
                self.timer = None;
                context.at_turn_end();
            }
            Event::Stop => {
                self.stopping = true;
                context.at_turn_end();
            }
        }
    }

    fn turn_ends(&mut self, context: &mut Context<'_, M>) {
        while let Some(io) = self.waiting.pop_front() {
            if !self.begin(io, context) {
                break;
            }
        }
        if self.stopping {
            // Nobody waits for the rest to be discarded.
            (0..).take(self.places.len()).for_each(|index| {
                self.store.set_discarding(MemberIndex(index), false);
            });
        }
        self.pump(context);
        self.let_go(context);
        self.retire_if_done(context);
    }
}

/// Gives a device up; it is unlocked when its last I/O has ended.
fn release<M: CarriesPool>(place: Place, context: &mut Context<'_, M>) {
    if let Place::File(key, _) = place {
        context.release(key);
    }
}

/// What the store has to know of an error.
fn io_error(errno: Errno) -> IoError {
    if errno.is_no_space() { IoError::NoSpace } else { IoError::Failed }
}

fn answer_to<M: CarriesPool>(over: Over, context: &mut Context<'_, M>) {
    let Over { asker, answer } = over;
    match asker {
        // Where the asker's loop has ended, nobody is left to be told.
        Asker::Actor(address) => {
            drop(context.reply(address, PoolMessage::Answer(answer).into()));
        }
        Asker::Thread(reply) => reply.send(answer),
    }
}
