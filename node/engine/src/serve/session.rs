//! One connection: a socket, a [`Connection`], and the memory of its slots.
//!
//! ```text
//!   socket --Received--> inbox --> Connection --> requests --> Pool
//!              Filled --> memory ^                              |
//!   socket <--slices, bytes------+<----------- Answer ----------+
//! ```
//!
//! - What has been received waits here until the connection wants it. While its Connect is decided,
//!   or the host takes its answers too slowly, the socket is paused.
//! - A command waits for memory that the loop does not have, or that its host may not take
//!   ([`super::memory`]). A capsule that waits holds up all that comes behind it; so while the host owes
//!   data of other commands, whose memory may be what it waits for, it gets memory beside the arena.
//! - A host that owes data and sends none of it for [`Limits::data_deadline`] loses the connection.
//! - Data of [`DIRECT_MIN`] bytes or more that has not arrived yet is received into its slot's memory
//!   by the kernel; what has arrived is copied there once.
//! - Messages that another loop has no room for wait here, in order. There are never more of them
//!   than the queue has slots.
//! - The session retires when its connection has finished and its socket is closed, and tells its
//!   porter.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fathom_block::RequestId;
use fathom_runtime::{
    Actor, Address, Birth, Buffer, Context, Event, Slice, TimerKey,
    net::{Close, Connection as TcpConnection, Flow, SocketEvent, SocketKey, SocketOptions},
};
use fathom_target::{
    connection::{Action, Connection, Limits, Slot, Stage, Want},
    export::DeviceId,
    target::{ConnectionId, Portal},
};

use super::{
    memory::{Holdings, Leave, Shares},
    message::{CarriesServe, Route, Routes, ServeMessage},
};
use crate::native::message::{Answer as PoolAnswer, PoolMessage};

/// From how many bytes on the kernel is asked to put data into its place.
const DIRECT_MIN: usize = 32 << 10;
/// Up to how many bytes are copied to be sent; what is longer is sent from memory of its own.
const COPIED_MAX: usize = 256;
/// How soon a session looks again for memory that the loop did not have; each time in vain it waits
/// twice as long, up to [`MEMORY_RETRY_MAX`].
const MEMORY_RETRY_MIN: Duration = Duration::from_micros(200);
const MEMORY_RETRY_MAX: Duration = Duration::from_millis(5);
/// How long the last answers of a connection that ends may take to be sent.
const LINGER: Duration = Duration::from_secs(5);

const RETRY_TIMER: u64 = 1;
const DEADLINE_TIMER: u64 = 2;
const DATA_TIMER: u64 = 3;

/// What a session has around it.
pub struct Home {
    /// The hub.
    pub hub: Address,
    /// The porter of its loop, which is told when it retires.
    pub porter: Address,
    /// What connections are granted.
    pub limits: Limits,
    /// Of the memory of its loop.
    pub shares: Arc<Shares>,
}

/// Memory for a command.
struct Memory {
    buffer: Buffer,
    /// Its class in the arena; none beside it.
    class: Option<usize>,
}

/// The actor of one connection.
pub struct Session<M> {
    id: ConnectionId,
    home: Home,
    reached: Portal,
    connection: Connection,
    routes: Routes,
    /// None when it is closed.
    socket: Option<SocketKey>,
    inbox: VecDeque<Slice>,
    /// By the number of the slot.
    memory: Vec<Option<Buffer>>,
    /// What it has of the loop's memory; from its Connect on.
    holdings: Option<Holdings>,
    /// The slot whose memory the kernel fills, and the part of it.
    filling: Option<(Slot, usize, usize)>,
    /// Much waits to be sent.
    high: bool,
    paused: bool,
    /// It waits for memory.
    retry: Option<TimerKey>,
    retry_wait: Duration,
    /// It watches whether data comes that the host owes.
    data_timer: Option<TimerKey>,
    /// Messages that their loops had no room for.
    outbox: VecDeque<(Address, M)>,
    finished: bool,
}

impl<M: CarriesServe> Session<M> {
    /// Gives a connection a session on the loop on which this is called. A connection that cannot
    /// be adopted is closed.
    pub fn birth(
        tcp: TcpConnection,
        id: ConnectionId,
        home: Home,
        options: SocketOptions,
    ) -> Birth<M> {
        Box::new(move |context: &mut Context<'_, M>| {
            let local = tcp.local();
            let connection = Connection::new(home.limits, context.now());
            let socket = context.adopt(tcp, &options, 0).ok();
            match connection.deadline() {
                Some(deadline) if socket.is_some() => {
                    context.set_timer(deadline, DEADLINE_TIMER);
                }
                _ => context.at_next_turn(),
            }
            Box::new(Self {
                id,
                home,
                reached: Portal { address: local.ip(), port: local.port() },
                connection,
                routes: Routes::default(),
                socket,
                inbox: VecDeque::new(),
                memory: Vec::new(),
                holdings: None,
                filling: None,
                high: false,
                paused: false,
                retry: None,
                retry_wait: MEMORY_RETRY_MIN,
                data_timer: None,
                outbox: VecDeque::new(),
                finished: false,
            })
        })
    }

    // The socket.

    fn socket_event(&mut self, event: SocketEvent, context: &mut Context<'_, M>) {
        match event {
            SocketEvent::Received(slice) => self.inbox.push_back(slice),
            SocketEvent::Filled(buffer) => {
                let (slot, offset, length) = self.filling.take().expect("it was asked for");
                self.connection.received_data(&buffer[offset..offset + length]);
                self.memory[usize::from(slot.0)] = Some(buffer);
            }
            SocketEvent::Drained => self.high = false,
            SocketEvent::EndOfStream => {
                self.filling = None;
                self.connection.lost();
            }
            SocketEvent::Closed(_) => {
                self.socket = None;
                self.filling = None;
                self.connection.lost();
            }
            SocketEvent::Accepted(_)
            | SocketEvent::NotAccepted(_)
            | SocketEvent::Connected { .. } => {
                unreachable!("the socket is a connection")
            }
        }
        self.work(context);
    }

    /// Takes what has arrived as far as possible, and does what follows from it.
    fn work(&mut self, context: &mut Context<'_, M>) {
        loop {
            // Actions first: one may release what a slot had for its last command.
            self.act(context);
            self.find_memory(context);
            self.act(context);
            if self.filling.is_some() || self.high || !self.take_some(context) {
                break;
            }
        }
        self.act(context);
        self.watch_data(context);
        self.pace(context);
        self.retire_if_done(context);
    }

    /// Takes one step with what has arrived. Returns whether there may be another.
    fn take_some(&mut self, context: &mut Context<'_, M>) -> bool {
        match self.connection.want() {
            Want::Memory { slot, length } => {
                let mut memory = self.take_memory(length, context);
                if memory.is_none() && self.connection.awaits_data() {
                    memory = self.take_beside(length);
                }
                let Some(memory) = memory else {
                    self.look_again(context);
                    return false;
                };
                self.grant(slot, memory);
                true
            }
            Want::Bytes => {
                let Some(slice) = self.inbox.front_mut() else { return false };
                let taken = self.connection.receive(slice);
                self.advance(taken);
                true
            }
            Want::Data { slot, offset, length } => {
                let place = &mut self.memory[usize::from(slot.0)];
                let Some(slice) = self.inbox.front() else {
                    let Some(socket) = self.socket.filter(|_| length >= DIRECT_MIN) else {
                        return false;
                    };
                    let buffer = place.take().expect("memory was granted before");
                    self.filling = Some((slot, offset, length));
                    context.receive_into(socket, buffer, offset..offset + length);
                    return false;
                };
                let taken = slice.len().min(length);
                let memory = place.as_mut().expect("memory was granted before");
                memory[offset..offset + taken].copy_from_slice(&slice[..taken]);
                self.connection.received_data(&slice[..taken]);
                self.advance(taken);
                true
            }
            Want::Patience => false,
            Want::Nothing => {
                self.inbox.clear();
                false
            }
        }
    }

    fn advance(&mut self, taken: usize) {
        let slice = self.inbox.front_mut().expect("it was just looked at");
        slice.advance(taken);
        if slice.is_empty() {
            self.inbox.pop_front();
        }
    }

    /// Gives memory to commands that wait for it, as far as the loop has some.
    fn find_memory(&mut self, context: &mut Context<'_, M>) {
        self.settle_sent(context);
        // A host that does not take its answers gets no memory for more of them.
        while !self.high
            && let Some((slot, length)) = self.connection.memory_wanted()
        {
            let Some(memory) = self.take_memory(length, context) else {
                return self.look_again(context);
            };
            self.grant(slot, memory);
            self.act(context);
        }
        let wants = !self.high && matches!(self.connection.want(), Want::Memory { .. });
        if !wants && let Some(holdings) = &mut self.holdings {
            holdings.wants_nothing();
        }
    }

    /// What the socket has sent is not held any more.
    fn settle_sent(&mut self, context: &mut Context<'_, M>) {
        let Some(holdings) = self.holdings.as_mut().filter(|one| one.is_sending()) else { return };
        let unsent = self.socket.map_or(0, |socket| context.unsent(socket));
        holdings.sent(unsent);
    }

    /// Memory from the arena, if there is some and it may be taken.
    fn take_memory(&mut self, length: usize, context: &mut Context<'_, M>) -> Option<Memory> {
        let Some(room) = context.room(length) else { return self.take_beside(length) };
        match self.held().ask(room, length) {
            Leave::Take => {
                let buffer = context.buffer(length)?;
                Some(Memory { buffer, class: Some(room.class) })
            }
            Leave::Wait => None,
        }
    }

    /// Memory beside the arena, if it may be taken.
    fn take_beside(&mut self, length: usize) -> Option<Memory> {
        match self.held().ask_beside(length) {
            Leave::Take => Some(Memory { buffer: Buffer::zeroed(length), class: None }),
            Leave::Wait => None,
        }
    }

    fn held(&mut self) -> &mut Holdings {
        self.holdings.as_mut().expect("a connection that wants memory has asked to be a queue")
    }

    /// Has memory looked for again in a while.
    fn look_again(&mut self, context: &mut Context<'_, M>) {
        if self.retry.is_some() {
            return;
        }
        self.retry = context.set_timer(context.now() + self.retry_wait, RETRY_TIMER);
        self.retry_wait = (self.retry_wait * 2).min(MEMORY_RETRY_MAX);
        if self.retry.is_none() {
            // The loop has no room for timers.
            context.at_next_turn();
        }
    }

    fn grant(&mut self, slot: Slot, memory: Memory) {
        let Memory { buffer, class } = memory;
        let index = usize::from(slot.0);
        if self.memory.len() <= index {
            self.memory.resize_with(index + 1, || None);
        }
        self.held().took(slot, class, buffer.len());
        self.memory[index] = Some(buffer);
        self.retry_wait = MEMORY_RETRY_MIN;
        self.connection.memory_granted(slot);
    }

    /// Sees to it that data which the host owes is waited for under a deadline.
    fn watch_data(&mut self, context: &mut Context<'_, M>) {
        if self.data_timer.is_none() && self.connection.awaits_data() {
            self.connection.forgive_data();
            self.connection.watch_data();
            let at = context.now() + self.home.limits.data_deadline;
            self.data_timer = context.set_timer(at, DATA_TIMER);
        }
    }

    /// Pauses the socket while what it brings cannot be taken, and gives back what it has brought: a
    /// session that waits keeps nothing from the others of its loop.
    fn pace(&mut self, context: &mut Context<'_, M>) {
        let Some(socket) = self.socket.filter(|_| self.filling.is_none()) else { return };
        let waits =
            self.high || matches!(self.connection.want(), Want::Patience | Want::Memory { .. });
        if waits != self.paused {
            self.paused = waits;
            match waits {
                true => context.pause(socket),
                false => context.resume(socket),
            }
        }
        while waits && let Some(slice) = self.inbox.pop_back() {
            context.put_back(socket, slice);
        }
    }

    // What the connection wants done.

    fn act(&mut self, context: &mut Context<'_, M>) {
        while let Some(action) = self.connection.next_action() {
            match action {
                Action::Send(send) => {
                    self.send_bytes(send.head(), context);
                    if let Some((slot, length)) = send.data {
                        let buffer = self.memory[usize::from(slot.0)].take();
                        let buffer = buffer.expect("the answer to a read has data");
                        self.send_slice(buffer.share(0..length), Some(slot), context);
                    }
                    self.send_bytes(send.tail(), context);
                }
                Action::SendBytes(bytes) if bytes.len() <= COPIED_MAX => {
                    self.send_bytes(&bytes, context);
                }
                Action::SendBytes(bytes) => {
                    let mut buffer = Buffer::zeroed(bytes.len());
                    buffer.copy_from_slice(&bytes);
                    self.send_slice(buffer.share(0..bytes.len()), None, context);
                }
                Action::Submit { slot, device, request } => {
                    let data = match request.operation.data_bytes(1) {
                        0 => None,
                        _ => self.memory[usize::from(slot.0)].take(),
                    };
                    let Route { pool, object } = self.route(device);
                    let submit = PoolMessage::Submit { object, request, data };
                    self.post(pool, submit.into(), context);
                }
                Action::Release(slot) => {
                    self.memory[usize::from(slot.0)] = None;
                    self.held().gave_back(slot);
                }
                Action::Connect(request) => {
                    // What was refused before has taken nothing.
                    let (host, subsystem) = (request.data.host, request.data.subsystem);
                    self.holdings = Some(self.home.shares.join(host, subsystem, self.id));
                    let (connection, reached) = (self.id, self.reached);
                    let connect = ServeMessage::Connect { connection, request, reached };
                    self.post(self.home.hub, connect.into(), context);
                }
                Action::Command(request) => {
                    let command = ServeMessage::Command { connection: self.id, request };
                    self.post(self.home.hub, command.into(), context);
                }
                Action::Drains => {
                    let drains = ServeMessage::Drains { connection: self.id };
                    self.post(self.home.hub, drains.into(), context);
                }
                Action::Lost(_) => {
                    let lost = ServeMessage::Lost { connection: self.id };
                    self.post(self.home.hub, lost.into(), context);
                }
                Action::Finished => {
                    self.finished = true;
                    let finished = ServeMessage::Finished { connection: self.id };
                    self.post(self.home.hub, finished.into(), context);
                    self.memory.clear();
                    self.holdings = None;
                    if let Some(socket) = self.socket {
                        context.close(socket, Close::Gracefully { by: context.now() + LINGER });
                    }
                }
            }
        }
    }

    fn route(&self, device: DeviceId) -> Route {
        let found = self.routes.iter().find(|(id, _)| *id == device);
        found.expect("the admission brought the routes of its namespaces").1
    }

    /// Sends a message, or has it wait behind those that wait already.
    fn post(&mut self, to: Address, message: M, context: &mut Context<'_, M>) {
        if !self.outbox.is_empty() {
            return self.outbox.push_back((to, message));
        }
        if let Err(unsent) = context.send(to, message) {
            self.unsent(to, unsent, context);
        }
    }

    fn unsent(
        &mut self,
        to: Address,
        unsent: fathom_runtime::Unsent<M>,
        context: &mut Context<'_, M>,
    ) {
        match unsent {
            fathom_runtime::Unsent::Full(message) => {
                self.outbox.push_front((to, message));
                context.at_next_turn();
            }
            // The loop of the pool or the hub has ended: nothing can be served any more.
            fathom_runtime::Unsent::Gone(message) => {
                if let Some(answer) = message.undeliverable() {
                    self.message(answer, context);
                }
            }
        }
    }

    fn send_bytes(&mut self, bytes: &[u8], context: &mut Context<'_, M>) {
        let Some(socket) = self.socket.filter(|_| !bytes.is_empty()) else { return };
        let flow = context.send_bytes(socket, bytes);
        if let Some(holdings) = self.holdings.as_mut().filter(|_| flow.is_ok()) {
            holdings.sends(bytes.len());
        }
        // A socket that cannot send tells its end by itself.
        self.high |= matches!(flow, Ok(Flow::High));
    }

    /// Sends memory, of a slot or of its own.
    fn send_slice(&mut self, slice: Slice, slot: Option<Slot>, context: &mut Context<'_, M>) {
        let bytes = slice.len();
        let flow = self.socket.map(|socket| context.send_slice(socket, slice));
        let sends = matches!(flow, Some(Ok(_)));
        if let Some(holdings) = &mut self.holdings {
            match slot {
                Some(slot) if sends => holdings.sends_memory(slot, bytes),
                Some(slot) => holdings.gave_back(slot),
                None if sends => holdings.sends(bytes),
                None => {}
            }
        }
        self.high |= matches!(flow, Some(Ok(Flow::High)));
    }

    // Messages.

    fn message(&mut self, message: M, context: &mut Context<'_, M>) {
        let message = match TryInto::<ServeMessage>::try_into(message) {
            Ok(message) => message,
            Err(message) => {
                if let Ok(PoolMessage::Answer(answer)) = message.try_into() {
                    self.answered(answer);
                }
                return self.work(context);
            }
        };
        match message {
            ServeMessage::Admit { admission, routes } => {
                self.routes = routes;
                self.connection.admit(*admission);
            }
            ServeMessage::Refuse(answer) => {
                self.connection.refuse(answer);
                // The deadline may have passed while the Connect was being decided.
                if let Some(deadline) = self.connection.deadline() {
                    context.set_timer(deadline, DEADLINE_TIMER);
                }
            }
            ServeMessage::Answer(slot, answer) => self.connection.answer(slot, &answer),
            ServeMessage::Abort { cid, ticket } => {
                let at_once = self.connection.abort(cid);
                // Its answer comes before that of the Abort.
                self.act(context);
                let aborted = ServeMessage::Aborted { ticket, at_once };
                self.post(self.home.hub, aborted.into(), context);
            }
            ServeMessage::End => self.connection.end(),
            ServeMessage::Drain => self.connection.drain(),
            ServeMessage::Cut => {
                if let Some(socket) = self.socket {
                    context.close(socket, Close::Reset);
                }
                self.connection.end();
            }
            _ => debug_assert!(false, "a message that no session understands"),
        }
        self.work(context);
    }

    fn answered(&mut self, answer: PoolAnswer) {
        let PoolAnswer { id: RequestId(slot), result, data } = answer;
        let slot = Slot(u16::try_from(slot).expect("the number of a slot"));
        match data {
            Some(buffer) => {
                self.connection.complete(slot, result, &buffer);
                // What is not needed any more is released by the actions that follow.
                self.memory[usize::from(slot.0)] = Some(buffer);
            }
            None => self.connection.complete(slot, result, &[]),
        }
    }

    fn retire_if_done(&mut self, context: &mut Context<'_, M>) {
        if self.finished && self.socket.is_none() && self.outbox.is_empty() {
            drop(context.reply(self.home.porter, ServeMessage::Retires.into()));
            context.retire();
        }
    }
}

impl<M: CarriesServe> Actor<M> for Session<M> {
    fn handle(&mut self, event: Event<M>, context: &mut Context<'_, M>) {
        match event {
            Event::Socket { event, .. } => self.socket_event(event, context),
            Event::Message { message, .. } => self.message(message, context),
            Event::Timer { token: RETRY_TIMER } => {
                self.retry = None;
                self.work(context);
            }
            Event::Timer { token: DATA_TIMER } => {
                self.data_timer = None;
                // A host that is not read from cannot send.
                if !self.high {
                    self.connection.watch_data();
                }
                self.work(context);
            }
            Event::Timer { .. } => {
                self.connection.check_deadline(context.now());
                self.work(context);
            }
            Event::Stop => {
                self.connection.end();
                self.work(context);
            }
            Event::Completed(_) => unreachable!("a session begins no I/O of files"),
        }
    }

    fn turn_ends(&mut self, context: &mut Context<'_, M>) {
        if self.socket.is_none() && self.connection.stage() == Stage::New {
            // It was not adopted.
            self.connection.lost();
        }
        while let Some((to, message)) = self.outbox.pop_front() {
            if let Err(unsent) = context.send(to, message) {
                self.unsent(to, unsent, context);
                break;
            }
        }
        self.work(context);
    }
}
