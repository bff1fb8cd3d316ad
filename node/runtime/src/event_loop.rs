//! One loop: its turns, and its rest between them.
//!
//! ```text
//!   turn:  completions -> other loops -> threads -> timers -> messages -> ends of turns
//!            ^                                                              |
//!            |                            show messages, sockets, submit <--+
//!            +-- something to do?  poll a while  -- nothing? sleep --+
//! ```
//!
//! - Every stage is bounded, so that none starves another.
//! - A loop that has nothing to do sleeps in the kernel until an I/O ends, somebody rings, or its
//!   next timer is due. There is no periodic tick.
//! - It polls before it sleeps, as long as recent sleeps were shorter than the polling; the polling
//!   ends by itself when they are not.

use std::{
    panic::resume_unwind,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fathom_units::Monotonic;

use crate::{
    actor::{Actor, ActorKey, Address, Birth, Completed, Context, Event, Message},
    core::{Alarm, Core, Envelope, clock},
    queue::Receiver,
    ring::{COMPLETIONS, Completion, Finished, halves},
    waker::Waker,
};

/// How many looks at the completion queue one turn takes.
const LOOKS: usize = 4;
/// How many messages of one other loop, or of threads, one turn takes.
const MESSAGES: usize = 1024;
/// How many messages within the loop one turn delivers.
const DELIVERIES: usize = 8192;
/// How often in a turn messages and ends of turns follow each other.
const ROUNDS: usize = 8;
/// The shortest time for which polling is worth while.
const POLL_MIN: Duration = Duration::from_micros(4);

/// What other threads have for a loop.
pub(crate) enum Errand<M: Message> {
    Message(Address, M),
    Birth(Birth<M>, std::sync::mpsc::SyncSender<Address>),
    Stop,
}

/// How a loop is doing; read from any thread.
#[derive(Default, Debug)]
pub struct Statistics {
    pub(crate) turns: AtomicU64,
    pub(crate) sleeps: AtomicU64,
    pub(crate) longest_turn_ns: AtomicU64,
    pub(crate) undeliverable: AtomicU64,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) buffers_registered: AtomicUsize,
    pub(crate) sockets: AtomicUsize,
    pub(crate) chunks: AtomicUsize,
    pub(crate) starved: AtomicU64,
}

impl Statistics {
    /// Turns so far.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// How often it went to sleep.
    pub fn sleeps(&self) -> u64 {
        self.sleeps.load(Ordering::Relaxed)
    }

    /// The longest turn since this was asked last.
    pub fn take_longest_turn(&self) -> Duration {
        Duration::from_nanos(self.longest_turn_ns.swap(0, Ordering::Relaxed))
    }

    /// Messages whose addressee was gone.
    pub fn undeliverable(&self) -> u64 {
        self.undeliverable.load(Ordering::Relaxed)
    }

    /// I/Os under way at the end of the last turn.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Sockets that were open at the end of the last turn, with those that listen.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    /// Receive chunks that were free at the end of the last turn: all those of which nobody holds
    /// a [`Slice`](crate::Slice).
    pub fn receive_chunks(&self) -> usize {
        self.chunks.load(Ordering::Relaxed)
    }

    /// How often a socket had to wait for a receive chunk.
    pub fn starved(&self) -> u64 {
        self.starved.load(Ordering::Relaxed)
    }

    /// How many size classes of its buffers the kernel has registered.
    pub fn buffers_registered(&self) -> usize {
        self.buffers_registered.load(Ordering::Relaxed)
    }
}

/// The end of a loop that other threads see.
pub(crate) struct Outside<M: Message> {
    errands: Mutex<Option<Vec<Errand<M>>>>,
    waiting: AtomicUsize,
    pub(crate) aborted: AtomicBool,
    pub(crate) waker: Arc<Waker>,
    pub(crate) statistics: Statistics,
}

/// Errands that may wait for a loop.
const ERRANDS_MAX: usize = 16_384;

impl<M: Message> Outside<M> {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self {
            errands: Mutex::new(Some(Vec::new())),
            waiting: AtomicUsize::new(0),
            aborted: AtomicBool::new(false),
            waker,
            statistics: Statistics::default(),
        }
    }

    /// Gives the loop an errand. It comes back when the loop has ended (`true`) or has too many.
    pub(crate) fn give(&self, errand: Errand<M>) -> Result<(), (Errand<M>, bool)> {
        let mut errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(list) = &mut *errands else { return Err((errand, true)) };
        if list.len() >= ERRANDS_MAX && !matches!(errand, Errand::Stop) {
            return Err((errand, false));
        }
        list.push(errand);
        self.waiting.store(list.len(), Ordering::Release);
        drop(errands);
        self.waker.ring();
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    fn take(&self, into: &mut Vec<Errand<M>>) {
        let mut errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = &mut *errands {
            std::mem::swap(list, into);
        }
        self.waiting.store(0, Ordering::Release);
    }

    /// No errands are taken any more; those that wait are dropped.
    pub(crate) fn close(&self) {
        let mut errands = self.errands.lock().unwrap_or_else(PoisonError::into_inner);
        *errands = None;
    }
}

struct Place<M: Message> {
    key: ActorKey,
    actor: Box<dyn Actor<M>>,
}

/// A loop with its actors. It stays on the thread that made it.
pub(crate) struct EventLoop<M: Message> {
    core: Core<M>,
    actors: Vec<Option<Place<M>>>,
    /// By the number of the loop that they come from; none for this one.
    inboxes: Vec<Option<Receiver<Envelope<M>>>>,
    /// The bells of the loops by their numbers.
    bells: Vec<Arc<Waker>>,
    outside: Arc<Outside<M>>,
    completions: Vec<Completion>,
    errands: Vec<Errand<M>>,
    called: Vec<ActorKey>,
    stopping: bool,
    poll: Duration,
    poll_max: Duration,
}

impl<M: Message> EventLoop<M> {
    pub(crate) fn new(
        core: Core<M>,
        inboxes: Vec<Option<Receiver<Envelope<M>>>>,
        bells: Vec<Arc<Waker>>,
        outside: Arc<Outside<M>>,
        poll_max: Duration,
    ) -> Self {
        let registered = core.ring.buffers_registered();
        outside.statistics.buffers_registered.store(registered, Ordering::Relaxed);
        Self {
            core,
            actors: Vec::new(),
            inboxes,
            bells,
            outside,
            completions: Vec::with_capacity(COMPLETIONS),
            errands: Vec::new(),
            called: Vec::new(),
            stopping: false,
            poll: Duration::ZERO,
            poll_max,
        }
    }

    /// Takes turns until it was told to stop and its last actor has retired, or it is aborted.
    pub(crate) fn run(&mut self) {
        loop {
            self.core.now = clock();
            let began = self.core.now;
            self.turn();
            self.note_turn(began);
            let done = self.stopping && self.actors.iter().all(Option::is_none);
            if done || self.outside.aborted.load(Ordering::Relaxed) {
                return;
            }
            if !self.has_work() {
                self.rest();
            }
        }
    }

    fn note_turn(&mut self, began: Monotonic) {
        let statistics = &self.outside.statistics;
        let took = u64::try_from(clock().since(began).as_nanos()).unwrap_or(u64::MAX);
        // This thread alone adds, so that loads and stores do.
        let turns = statistics.turns.load(Ordering::Relaxed);
        statistics.turns.store(turns + 1, Ordering::Relaxed);
        statistics.in_flight.store(self.core.ring.in_flight(), Ordering::Relaxed);
        statistics.sockets.store(self.core.sockets.count(), Ordering::Relaxed);
        statistics.chunks.store(self.core.ring.chunks(), Ordering::Relaxed);
        statistics.starved.store(self.core.sockets.starvations(), Ordering::Relaxed);
        if took > statistics.longest_turn_ns.load(Ordering::Relaxed) {
            statistics.longest_turn_ns.store(took, Ordering::Relaxed);
        }
    }

    // A turn.

    fn turn(&mut self) {
        self.take_completions();
        self.take_messages();
        if self.outside.is_waiting() {
            self.take_errands();
        }
        while let Some(alarm) = self.core.timers.due(self.core.now) {
            match alarm {
                Alarm::Actor(key, token) => self.call(key, Event::Timer { token }),
                Alarm::Socket(socket) => self.core.sockets.alarm(socket),
            }
        }
        let mut again = std::mem::take(&mut self.core.next_turn);
        self.core.turn_ends.append(&mut again);
        self.core.next_turn = again;
        for _ in 0..ROUNDS {
            self.tell_of_sockets();
            self.deliver();
            self.end_turns();
            let core = &self.core;
            if core.local.is_empty() && core.turn_ends.is_empty() && !core.sockets.has_events() {
                break;
            }
        }
        for outbox in self.core.outboxes.iter_mut().flatten() {
            outbox.publish();
        }
        self.core.settle_sockets();
        if self.core.ring.has_work() {
            self.core.ring.enter();
        }
    }

    fn take_completions(&mut self) {
        for _ in 0..LOOKS {
            let mut completions = std::mem::take(&mut self.completions);
            self.core.ring.take_completions(&mut completions);
            let full = completions.len() == COMPLETIONS;
            for completion in completions.drain(..) {
                let Some(finished) = self.core.ring.finish(completion) else { continue };
                match finished {
                    Finished::Io { owner, token, io, result } => {
                        let (generation, index) = halves(owner);
                        let completed = Completed { token, io, result };
                        self.call(ActorKey { index, generation }, Event::Completed(completed));
                    }
                    Finished::Socket(report) => {
                        self.core.report(report);
                        self.tell_of_sockets();
                    }
                }
            }
            self.completions = completions;
            if !full {
                return;
            }
        }
    }

    /// Tells actors what their sockets have.
    fn tell_of_sockets(&mut self) {
        for _ in 0..DELIVERIES {
            let Some((owner, socket, token, event)) = self.core.sockets.next_event() else {
                return;
            };
            self.call(owner, Event::Socket { socket, token, event });
        }
    }

    fn take_messages(&mut self) {
        for number in 0..self.inboxes.len() {
            let Some(inbox) = &mut self.inboxes[number] else { continue };
            let mut taken = 0;
            while taken < MESSAGES
                && let Some(envelope) = inbox.pop()
            {
                // Delivered with the local ones, so that all messages to an actor keep their order.
                self.core.local.push_back(envelope);
                taken += 1;
            }
            if taken > 0 && inbox.room_was_wanted() {
                self.bells[number].ring();
            }
        }
    }

    fn take_errands(&mut self) {
        let mut errands = std::mem::take(&mut self.errands);
        self.outside.take(&mut errands);
        for errand in errands.drain(..) {
            match errand {
                Errand::Message(to, message) => {
                    let from = Address::OUTSIDE;
                    self.core.local.push_back(Envelope { from, to, message });
                }
                Errand::Birth(birth, answer) => {
                    let address = self.core.give_birth(birth);
                    self.settle_births();
                    // Whoever asked may have gone; the actor stays.
                    let _ = answer.try_send(address);
                }
                Errand::Stop => self.stop(),
            }
        }
        self.errands = errands;
    }

    fn stop(&mut self) {
        self.stopping = true;
        let keys: Vec<ActorKey> = self.actors.iter().flatten().map(|place| place.key).collect();
        for key in keys {
            self.call(key, Event::Stop);
        }
    }

    fn deliver(&mut self) {
        for _ in 0..DELIVERIES {
            let Some(Envelope { from, to, message }) = self.core.local.pop_front() else { return };
            let Some(place) = place(&mut self.actors, to.actor) else {
                self.return_to_sender(from, to, message);
                continue;
            };
            let mut context = Context { core: &mut self.core, me: to.actor };
            place.actor.handle(Event::Message { from, message }, &mut context);
            self.settle_births();
        }
    }

    fn return_to_sender(&mut self, from: Address, to: Address, message: M) {
        let count = &self.outside.statistics.undeliverable;
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if let Some(message) = message.undeliverable() {
            // A thread outside cannot be told; what it sent has its own way to tell.
            let _ = self.core.send(Envelope { from: to, to: from, message });
        }
    }

    fn end_turns(&mut self) {
        let mut called = std::mem::take(&mut self.called);
        std::mem::swap(&mut called, &mut self.core.turn_ends);
        called.sort_unstable_by_key(|key| key.index);
        called.dedup();
        for key in called.drain(..) {
            let Some(place) = place(&mut self.actors, key) else { continue };
            place.actor.turn_ends(&mut Context { core: &mut self.core, me: key });
            self.settle_births();
        }
        self.called = called;
    }

    fn call(&mut self, key: ActorKey, event: Event<M>) {
        // The end of an I/O of an actor that is gone: its memory goes back, and that is all.
        let Some(place) = place(&mut self.actors, key) else { return };
        place.actor.handle(event, &mut Context { core: &mut self.core, me: key });
        self.settle_births();
    }

    /// Gives those who were born their places, and takes those of the retired.
    fn settle_births(&mut self) {
        while let Some((key, actor)) = self.core.born.pop() {
            let index = key.index as usize;
            if self.actors.len() <= index {
                self.actors.resize_with(index + 1, || None);
            }
            self.actors[index] = Some(Place { key, actor });
            if self.stopping {
                self.stop_late(key);
            }
        }
        while let Some(key) = self.core.retired.pop() {
            if place(&mut self.actors, key).is_some() {
                self.actors[key.index as usize] = None;
                self.core.free.push(key.index);
                self.core.sockets.abandon(key);
            }
        }
    }

    /// Tells an actor that was born after the others were told.
    fn stop_late(&mut self, key: ActorKey) {
        let place = place(&mut self.actors, key).expect("it was just given its place");
        place.actor.handle(Event::Stop, &mut Context { core: &mut self.core, me: key });
    }

    // Rest.

    /// Whether something can be done now.
    fn has_work(&mut self) -> bool {
        let core = &mut self.core;
        core.ring.has_work()
            || core.sockets.has_work(&core.ring)
            || !core.local.is_empty()
            || !core.turn_ends.is_empty()
            || !core.next_turn.is_empty()
            || self.outside.is_waiting()
            || self.outside.aborted.load(Ordering::Relaxed)
            || self.inboxes.iter_mut().flatten().any(|inbox| !inbox.is_empty())
    }

    /// Polls for a while, then sleeps until there is something to do.
    fn rest(&mut self) {
        let until = self.core.timers.next();
        let mut now = clock();
        let polled = now + self.poll;
        while now < polled && until.is_none_or(|until| now < until) {
            if self.has_work() {
                return;
            }
            std::hint::spin_loop();
            now = clock();
        }
        if until.is_some_and(|until| until <= now) {
            return;
        }
        self.outside.waker.fall_asleep();
        let may_rest = self.core.outboxes.iter_mut().flatten().all(|outbox| outbox.may_rest());
        if may_rest && !self.has_work() {
            let sleeps = &self.outside.statistics.sleeps;
            sleeps.store(sleeps.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.core.ring.wait(now, until);
            self.adapt(clock().since(now));
        }
        self.outside.waker.wake_up();
    }

    /// Polls longer if that would have saved a short sleep, and less after a long one.
    fn adapt(&mut self, slept: Duration) {
        self.poll = if slept <= self.poll_max {
            (self.poll * 2).clamp(POLL_MIN.min(self.poll_max), self.poll_max)
        } else if self.poll > POLL_MIN {
            self.poll / 2
        } else {
            Duration::ZERO
        };
    }
}

fn place<M: Message>(actors: &mut [Option<Place<M>>], key: ActorKey) -> Option<&mut Place<M>> {
    let place = actors.get_mut(key.index as usize)?.as_mut()?;
    (place.key == key).then_some(place)
}

/// Goes on with the panic of a loop's thread in the thread that waited for it.
pub(crate) fn rethrow(ended: std::thread::Result<()>) {
    if let Err(panic) = ended
        && !std::thread::panicking()
    {
        resume_unwind(panic);
    }
}
