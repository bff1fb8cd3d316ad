//! Taking connections: a gate for each call that opens listening sockets, a porter for each loop.
//!
//! The gate's listening sockets are on one loop. Each connection goes to the porter of the next loop
//! in turn, which adopts it and gives birth to its session there, and knows its sessions until they
//! retire. A porter or a gate that is told to stop takes nothing more.
//!
//! When the hub closes something, the listening sockets are closed first, then the sessions end.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fathom_runtime::{
    Actor, Address, Birth, Context, Event,
    net::{Close, Connection, Keepalive, Listener, SocketEvent, SocketKey, SocketOptions},
};
use fathom_target::{connection::Limits, target::ConnectionId};

use super::{
    memory::Shares,
    message::{CarriesServe, ClosingId, Scope, ServeMessage},
    session::{Home, Session},
};

/// Gives connections their names: those of all gates of a target share one.
#[derive(Clone, Default, Debug)]
pub struct Names(Arc<AtomicU64>);

impl Names {
    fn next(&self) -> ConnectionId {
        ConnectionId(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Takes the connections of listening sockets.
pub struct Gate {
    hub: Address,
    porters: Vec<Address>,
    next_porter: usize,
    names: Names,
    /// The address to which each is bound.
    sockets: HashMap<SocketKey, SocketAddr>,
    /// The sockets whose end each of them waits for.
    closings: HashMap<ClosingId, HashSet<SocketKey>>,
}

impl Gate {
    /// A gate that gives the connections of `listeners` to `porters` in turn.
    ///
    /// # Panics
    ///
    /// When there is no porter, or the loop has no room for the listeners' sockets.
    pub fn birth<M: CarriesServe>(
        hub: Address,
        listeners: Vec<Listener>,
        porters: Vec<Address>,
        names: Names,
    ) -> Birth<M> {
        assert!(!porters.is_empty(), "connections have to live somewhere");
        Box::new(move |context: &mut Context<'_, M>| {
            let listen = |listener: Listener| {
                let local = listener.local();
                let socket = context.listen(listener, 0);
                (socket.expect("the loop has room for the listeners of its process"), local)
            };
            let sockets = listeners.into_iter().map(listen).collect();
            let closings = HashMap::new();
            Box::new(Self { hub, porters, next_porter: 0, names, sockets, closings })
        })
    }

    fn accepted<M: CarriesServe>(
        &mut self,
        listener: SocketAddr,
        connection: Connection,
        context: &mut Context<'_, M>,
    ) {
        let id = self.names.next();
        let porter = self.porters[self.next_porter];
        self.next_porter = (self.next_porter + 1) % self.porters.len();
        let adopt = ServeMessage::Adopt { listener, connection: Box::new(connection), id };
        // A loop that is overwhelmed, or has ended, takes no new connection: it is closed, and the
        // host tries again.
        drop(context.send(porter, adopt.into()));
    }

    fn close<M: CarriesServe>(
        &mut self,
        scope: Scope,
        closing: ClosingId,
        context: &mut Context<'_, M>,
    ) {
        let chosen = |local: &SocketAddr| scope.is_none_or(|scope| scope == *local);
        let sockets = self.sockets.iter().filter(|(_, local)| chosen(local));
        let sockets: HashSet<SocketKey> = sockets.map(|(&socket, _)| socket).collect();
        if sockets.is_empty() {
            return self.tell(ServeMessage::ListenersClosed { closing, found: false }, context);
        }
        for socket in &sockets {
            context.close(*socket, Close::Reset);
        }
        self.closings.insert(closing, sockets);
    }

    fn closed<M: CarriesServe>(&mut self, socket: SocketKey, context: &mut Context<'_, M>) {
        self.sockets.remove(&socket);
        let mut done = Vec::new();
        self.closings.retain(|&closing, waiting| {
            waiting.remove(&socket);
            if waiting.is_empty() {
                done.push(closing);
            }
            !waiting.is_empty()
        });
        for closing in done {
            self.tell(ServeMessage::ListenersClosed { closing, found: true }, context);
        }
        if self.sockets.is_empty() {
            context.retire();
        }
    }

    fn tell<M: CarriesServe>(&self, message: ServeMessage, context: &mut Context<'_, M>) {
        // Without a hub there is nobody who waits.
        drop(context.reply(self.hub, message.into()));
    }
}

impl<M: CarriesServe> Actor<M> for Gate {
    fn handle(&mut self, event: Event<M>, context: &mut Context<'_, M>) {
        match event {
            Event::Socket { socket, event: SocketEvent::Accepted(connection), .. } => {
                if let Some(&listener) = self.sockets.get(&socket) {
                    self.accepted(listener, connection, context);
                }
            }
            Event::Socket { socket, event: SocketEvent::Closed(_), .. } => {
                self.closed(socket, context);
            }
            Event::Message { message, .. } => {
                if let Ok(ServeMessage::CloseListeners { scope, closing }) = message.try_into() {
                    self.close(scope, closing, context);
                }
            }
            Event::Stop => {
                for socket in self.sockets.keys() {
                    context.close(*socket, Close::Reset);
                }
                if self.sockets.is_empty() {
                    context.retire();
                }
            }
            _ => {}
        }
    }
}

/// How TCP looks whether a silent host is still there: it may have asked for no keep alive of NVMe.
const KEEPALIVE: Keepalive =
    Keepalive { idle: Duration::from_secs(30), interval: Duration::from_secs(10), probes: 3 };
/// How long a host may leave what was sent unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Gives connections a home on its loop.
pub struct Porter {
    hub: Address,
    limits: Limits,
    options: SocketOptions,
    /// By which listening socket each came.
    sessions: HashMap<Address, SocketAddr>,
    /// Of the memory of the loop.
    shares: Arc<Shares>,
    /// What waits for sessions to retire.
    closings: Vec<(ClosingId, Scope)>,
    /// Everything is being closed: nothing is adopted any more.
    closed: bool,
}

impl Porter {
    /// The porter of the loop on which this is called.
    pub fn birth<M: CarriesServe>(hub: Address, limits: Limits) -> Birth<M> {
        let options = SocketOptions {
            keepalive: Some(KEEPALIVE),
            user_timeout: Some(USER_TIMEOUT),
            ..SocketOptions::default()
        };
        Box::new(move |_| {
            Box::new(Self {
                hub,
                limits,
                options,
                sessions: HashMap::new(),
                shares: Arc::default(),
                closings: Vec::new(),
                closed: false,
            })
        })
    }

    fn of(&self, scope: Scope) -> impl Iterator<Item = Address> {
        let all = self.sessions.iter();
        let chosen = all.filter(move |(_, listener)| scope.is_none_or(|one| one == **listener));
        chosen.map(|(&session, _)| session)
    }

    fn message<M: CarriesServe>(
        &mut self,
        from: Address,
        message: ServeMessage,
        context: &mut Context<'_, M>,
    ) {
        match message {
            // Dropped, a connection is closed.
            ServeMessage::Adopt { .. } if self.closed => {}
            ServeMessage::Adopt { listener, connection, id } => {
                let (hub, porter, limits) = (self.hub, context.me(), self.limits);
                let home = Home { hub, porter, limits, shares: Arc::clone(&self.shares) };
                let session = Session::birth(*connection, id, home, self.options.clone());
                self.sessions.insert(context.give_birth(session), listener);
            }
            ServeMessage::Retires => drop(self.sessions.remove(&from)),
            ServeMessage::DrainSessions { scope, closing } => {
                self.closed |= scope.is_none();
                for session in self.of(scope) {
                    drop(context.reply(session, ServeMessage::Drain.into()));
                }
                self.closings.push((closing, scope));
            }
            ServeMessage::CutSessions { scope, closing } => {
                let mut cut = 0;
                for session in self.of(scope) {
                    drop(context.reply(session, ServeMessage::Cut.into()));
                    cut += 1;
                }
                // What they have at devices they wait for; whoever closes does not. So the question
                // before this one is answered now, too.
                let before = self.closings.len();
                self.closings.retain(|(other, _)| *other != closing);
                if self.closings.len() < before {
                    self.tell(ServeMessage::SessionsClosed { closing, cut: 0 }, context);
                }
                self.tell(ServeMessage::SessionsClosed { closing, cut }, context);
            }
            _ => debug_assert!(false, "a message that no porter understands"),
        }
        self.end_closings(context);
    }

    /// Tells the hub what is closed.
    fn end_closings<M: CarriesServe>(&mut self, context: &mut Context<'_, M>) {
        let closings = core::mem::take(&mut self.closings);
        let (done, waiting) =
            closings.into_iter().partition(|(_, scope)| self.of(*scope).next().is_none());
        self.closings = waiting;
        for (closing, _) in done {
            self.tell(ServeMessage::SessionsClosed { closing, cut: 0 }, context);
        }
        if self.closed && self.sessions.is_empty() {
            context.retire();
        }
    }

    fn tell<M: CarriesServe>(&self, message: ServeMessage, context: &mut Context<'_, M>) {
        // Without a hub there is nobody who waits.
        drop(context.reply(self.hub, message.into()));
    }
}

impl<M: CarriesServe> Actor<M> for Porter {
    fn handle(&mut self, event: Event<M>, context: &mut Context<'_, M>) {
        match event {
            Event::Message { from, message } => {
                if let Ok(message) = message.try_into() {
                    self.message(from, message, context);
                }
            }
            Event::Stop => context.retire(),
            _ => {}
        }
    }
}
