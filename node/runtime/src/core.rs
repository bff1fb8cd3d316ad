//! What a loop has beside its actors: ring, memory, timers, and the ways to other loops.
//!
//! - What is for an actor of the same loop is delivered in the same turn, up to a bound.
//! - What is for another loop is shown to it, and that loop woken if it sleeps, once a turn.
//! - Questions are refused when too many messages wait; answers are always taken.

use std::{collections::VecDeque, sync::Arc};

use fathom_units::Monotonic;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    actor::{Actor, ActorKey, Address, Birth, Context, Message, Unsent},
    arena::Arena,
    net::{SocketKey, sockets::Sockets},
    queue::Sender,
    ring::Ring,
    timers::Timers,
    waker::Waker,
};

/// How many messages may wait for one loop before questions to it are refused.
pub const WAITING_MAX: usize = 16_384;

/// A message on its way.
pub(crate) struct Envelope<M> {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) message: M,
}

/// The way to one other loop.
pub(crate) struct Outbox<M> {
    pub(crate) sender: Sender<Envelope<M>>,
    /// What did not fit into the queue.
    pub(crate) waiting: VecDeque<Envelope<M>>,
    pub(crate) waker: Arc<Waker>,
}

impl<M: Send> Outbox<M> {
    fn put(&mut self, envelope: Envelope<M>) {
        if !self.waiting.is_empty() {
            return self.waiting.push_back(envelope);
        }
        if let Err(envelope) = self.sender.push(envelope) {
            self.waiting.push_back(envelope);
        }
    }

    /// Shows the other loop what is for it.
    pub(crate) fn publish(&mut self) {
        while let Some(envelope) = self.waiting.pop_front() {
            if let Err(envelope) = self.sender.push(envelope) {
                self.waiting.push_front(envelope);
                break;
            }
        }
        if self.sender.publish() {
            self.waker.ring();
        }
    }

    /// Whether the sender may sleep: nothing waits, or it will be told when there is room.
    pub(crate) fn may_rest(&mut self) -> bool {
        self.waiting.is_empty() || self.sender.want_room()
    }
}

/// Whose timer it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Alarm {
    Actor(ActorKey, u64),
    Socket(SocketKey),
}

/// A loop without its actors.
pub(crate) struct Core<M: Message> {
    pub(crate) number: u16,
    pub(crate) now: Monotonic,
    pub(crate) ring: Ring,
    /// After the ring, so that it goes when nothing of its descriptors is under way any more.
    pub(crate) sockets: Sockets,
    pub(crate) arena: Arena,
    pub(crate) timers: Timers<Alarm>,
    pub(crate) local: VecDeque<Envelope<M>>,
    /// By the number of the loop; none for this one.
    pub(crate) outboxes: Vec<Option<Outbox<M>>>,
    /// Whose turn ends are to be called in this turn, and in the next one.
    pub(crate) turn_ends: Vec<ActorKey>,
    pub(crate) next_turn: Vec<ActorKey>,
    pub(crate) born: Vec<(ActorKey, Box<dyn Actor<M>>)>,
    pub(crate) retired: Vec<ActorKey>,
    /// Places for actors: those that are free, how many there have been, and who is to come next.
    pub(crate) free: Vec<u32>,
    pub(crate) generations: Vec<u32>,
}

impl<M: Message> Core<M> {
    pub(crate) fn has_room(&self, to: Address) -> bool {
        if to.number == self.number {
            return self.local.len() < WAITING_MAX;
        }
        let outbox = self.outboxes.get(usize::from(to.number)).and_then(Option::as_ref);
        outbox.is_none_or(|outbox| outbox.waiting.len() < WAITING_MAX)
    }

    pub(crate) fn send(&mut self, envelope: Envelope<M>) -> Result<(), Unsent<M>> {
        if envelope.to.number == self.number {
            self.local.push_back(envelope);
            return Ok(());
        }
        match self.outboxes.get_mut(usize::from(envelope.to.number)) {
            Some(Some(outbox)) => {
                outbox.put(envelope);
                Ok(())
            }
            _ => Err(Unsent::Gone(envelope.message)),
        }
    }

    pub(crate) fn give_birth(&mut self, birth: Birth<M>) -> Address {
        let index = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            u32::try_from(self.generations.len() - 1).expect("fewer than 2^32 actors")
        });
        let generation = &mut self.generations[index as usize];
        *generation = generation.wrapping_add(1);
        let me = ActorKey { index, generation: *generation };
        let actor = birth(&mut Context { core: self, me });
        self.born.push((me, actor));
        Address { number: self.number, actor: me }
    }
}

/// What the clock says.
pub(crate) fn clock() -> Monotonic {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).expect("the clock began at zero");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are not negative");
    Monotonic(seconds * 1_000_000_000 + nanos)
}
