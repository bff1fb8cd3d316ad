//! What lives on a loop, and what it can ask of it.
//!
//! An [`Actor`] is a synchronous state machine: it is given an [`Event`] and a [`Context`], does
//! what it can do at once, and returns. Everything that takes time is begun through the context
//! and ends with another event.
//!
//! - An actor is called by its loop only, one event at a time, and never from inside a call of its
//!   own.
//! - A message goes to its addressee, or back to its sender as what [`Message::undeliverable`]
//!   makes of it.
//! - An I/O that was begun ends with one [`Event::Completed`], unless its actor is gone.
//! - Messages from one actor to another arrive in order.

use std::{os::fd::AsFd, sync::Arc};

use fathom_units::Monotonic;

use crate::{
    arena::{Buffer, Room},
    core::{Alarm, Core, Envelope},
    io::{Errno, FileKey, Io, IoKey, Rejected},
    net::{SocketEvent, SocketKey},
    timers::TimerKey,
};

/// Where an actor lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    pub(crate) number: u16,
    pub(crate) actor: ActorKey,
}

impl Address {
    /// The sender of what comes from a thread that is no loop. Nothing can be sent to it.
    pub const OUTSIDE: Self =
        Self { number: u16::MAX, actor: ActorKey { index: u32::MAX, generation: 0 } };

    /// The number of its loop.
    pub fn loop_number(self) -> usize {
        usize::from(self.number)
    }
}

/// Names an actor on its loop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ActorKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What actors say to each other. Each composition of actors has one such type, an enum of what its
/// actors understand.
pub trait Message: Sized + Send + 'static {
    /// What the sender is told when the addressee does not exist any more: for a question, the
    /// answer that it will not be answered, with whatever came with it.
    fn undeliverable(self) -> Option<Self>;
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<M> {
    /// Another actor, or a thread, says something.
    Message {
        /// Who.
        from: Address,
        /// What.
        message: M,
    },
    /// An I/O has ended.
    Completed(Completed),
    /// A socket of the actor has something.
    Socket {
        /// The socket.
        socket: SocketKey,
        /// What the actor gave when the socket became its own.
        token: u64,
        /// What it has.
        event: SocketEvent,
    },
    /// A timer has fired.
    Timer {
        /// What [`Context::set_timer`] was given.
        token: u64,
    },
    /// The loop will end. An actor brings what it has begun to an end, and retires.
    Stop,
}

/// An I/O that has ended.
#[derive(Debug)]
pub struct Completed {
    /// What [`Context::submit`] was given.
    pub token: u64,
    /// The I/O, with its memory.
    pub io: Io,
    /// The number of bytes: of a read or write all of them, else 0.
    pub result: Result<usize, Errno>,
}

/// A state machine that lives on a loop.
pub trait Actor<M: Message> {
    /// Takes the steps that follow from an event.
    fn handle(&mut self, event: Event<M>, context: &mut Context<'_, M>);

    /// Called once at the end of a turn in which it asked for it with [`Context::at_turn_end`], or
    /// of the turn after one in which it asked with [`Context::at_next_turn`].
    fn turn_ends(&mut self, context: &mut Context<'_, M>) {
        let _ = context;
    }
}

/// Makes an actor, on the loop on which it will live: so it may hold what cannot leave a thread.
pub type Birth<M> = Box<dyn FnOnce(&mut Context<'_, M>) -> Box<dyn Actor<M>> + Send>;

/// A message that was not taken. It comes back as it was.
#[derive(Debug, thiserror::Error)]
pub enum Unsent<M> {
    /// Too many messages wait for that loop. It may be tried later.
    #[error("too many messages wait for the event loop")]
    Full(M),
    /// The loop has ended, or there is no such loop.
    #[error("the event loop has ended")]
    Gone(M),
}

impl<M> Unsent<M> {
    /// The message.
    pub fn into_message(self) -> M {
        match self {
            Self::Full(message) | Self::Gone(message) => message,
        }
    }
}

/// What an actor can ask of its loop while it handles an event.
pub struct Context<'a, M: Message> {
    pub(crate) core: &'a mut Core<M>,
    pub(crate) me: ActorKey,
}

impl<M: Message> Context<'_, M> {
    /// The address of the actor that is called.
    pub fn me(&self) -> Address {
        Address { number: self.core.number, actor: self.me }
    }

    /// When this turn began.
    pub fn now(&self) -> Monotonic {
        self.core.now
    }

    /// A buffer of the loop, or `None` when none of that size is free.
    /// [`Arena::take`](crate::Arena::take) says what is in it.
    pub fn buffer(&mut self, length: usize) -> Option<Buffer> {
        self.core.arena.take(length)
    }

    /// What the loop has for buffers of `length` bytes; `None` when it never has one so large.
    pub fn room(&mut self, length: usize) -> Option<Room> {
        self.core.arena.room(length)
    }

    /// Takes a file into the loop's table. `None` when the table is full.
    pub fn open(&mut self, file: Arc<dyn AsFd + Send + Sync>) -> Option<FileKey> {
        self.core.ring.open(file)
    }

    /// Lets a file go; the loop gives it up when its last I/O has ended.
    pub fn release(&mut self, file: FileKey) {
        self.core.ring.release(file);
    }

    /// Begins an I/O; its end comes as [`Event::Completed`] with `token`.
    ///
    /// # Errors
    ///
    /// The I/O comes back when the loop has no room for it or does not know its file.
    ///
    /// # Panics
    ///
    /// When a read's memory is lent only to be looked at.
    pub fn submit(&mut self, token: u64, io: Io) -> Result<IoKey, Rejected> {
        let owner = u64::from(self.me.generation) << 32 | u64::from(self.me.index);
        self.core.ring.submit(owner, token, io)
    }

    /// Asks for an I/O to be given up. It ends as any other, done or with
    /// [`Errno::CANCELLED`]; one that has ended is left alone.
    pub fn cancel(&mut self, io: IoKey) {
        self.core.ring.cancel(io);
    }

    /// Has [`Event::Timer`] come at `at` or soon after. `None` when the loop has too many timers.
    pub fn set_timer(&mut self, at: Monotonic, token: u64) -> Option<TimerKey> {
        self.core.timers.set(at, Alarm::Actor(self.me, token))
    }

    /// Forgets a timer. One that has fired already is left alone.
    pub fn cancel_timer(&mut self, timer: TimerKey) {
        self.core.timers.cancel(timer);
    }

    /// Sends something new: a question, a piece of work.
    ///
    /// # Errors
    ///
    /// The message comes back when too many wait for that loop: the actor has to hold back.
    pub fn send(&mut self, to: Address, message: M) -> Result<(), Unsent<M>> {
        if self.core.has_room(to) { self.reply(to, message) } else { Err(Unsent::Full(message)) }
    }

    /// Sends an answer to something that this actor was sent. It is always taken: as many answers
    /// can wait as questions were accepted.
    ///
    /// # Errors
    ///
    /// The message comes back when there is no such loop, as for [`Address::OUTSIDE`].
    pub fn reply(&mut self, to: Address, message: M) -> Result<(), Unsent<M>> {
        let from = self.me();
        self.core.send(Envelope { from, to, message })
    }

    /// Has [`Actor::turn_ends`] called at the end of this turn; asked for during that call, at
    /// the end of the next turn in which something happens.
    pub fn at_turn_end(&mut self) {
        self.core.turn_ends.push(self.me);
    }

    /// Has [`Actor::turn_ends`] called at the end of the next turn, which begins at once.
    pub fn at_next_turn(&mut self) {
        self.core.next_turn.push(self.me);
    }

    /// Puts another actor onto this loop. It is there when this call of the actor has returned.
    pub fn give_birth(&mut self, birth: Birth<M>) -> Address {
        self.core.give_birth(birth)
    }

    /// Ends the actor that is called. What it has begun goes on, and its end is told to nobody;
    /// its sockets are reset.
    pub fn retire(&mut self) {
        self.core.retired.push(self.me);
    }
}
