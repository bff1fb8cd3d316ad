//! What the parts of the serving side say to each other.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use fathom_lvs::geometry::ObjectId;
use fathom_runtime::{Address, Message, net::Connection};
use fathom_target::{
    connection::{AdminRequest, Admission, Answer, ConnectRequest, Slot},
    export::DeviceId,
    target::{ConnectionId, Portal, Target, Ticket},
};
use fathom_units::{Cid, Monotonic};

use crate::native::message::CarriesPool;

/// Where the requests to a device go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The pool.
    pub pool: Address,
    /// The volume or snapshot in it.
    pub object: ObjectId,
}

/// The routes of the devices of one subsystem.
pub type Routes = Arc<[(DeviceId, Route)]>;

/// Something that a thread has the hub do.
pub type Errand = Box<dyn FnOnce(&mut super::hub::Desk, &mut Target, Monotonic) + Send>;

/// Names a closing of some or all listening sockets, with the connections that came by them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClosingId(pub u64);

/// What is to be closed: the listening socket that is bound to this address, or everything.
pub type Scope = Option<SocketAddr>;

/// How a closing ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Closure {
    /// Whether there was something that listened.
    pub found: bool,
    /// Connections that had not finished at the deadline, and were reset.
    pub cut: usize,
}

/// To or from a part of the serving side.
pub enum ServeMessage {
    /// To the hub: a connection asks to be a queue.
    Connect {
        /// The connection.
        connection: ConnectionId,
        /// What it asks.
        request: Box<ConnectRequest>,
        /// What the host has reached.
        reached: Portal,
    },
    /// To the hub: a command of an admin queue.
    Command {
        /// The connection.
        connection: ConnectionId,
        /// The command.
        request: Box<AdminRequest>,
    },
    /// To the hub: a connection has ended by itself.
    Lost {
        /// The connection.
        connection: ConnectionId,
    },
    /// To the hub: no request of a connection can reach a device any more.
    Finished {
        /// The connection.
        connection: ConnectionId,
    },
    /// To the hub: a connection is being closed by this side, and finishes what it has.
    Drains {
        /// The connection.
        connection: ConnectionId,
    },
    /// To the hub: from a thread.
    Errand(Errand),
    /// To the hub, from a thread: close, and end what has not finished `within` this time.
    Close {
        /// What.
        scope: Scope,
        /// How long connections have to finish what they have received.
        within: Duration,
        /// Told when everything is closed; has room for it.
        done: SyncSender<Closure>,
    },
    /// To a gate: close listening sockets.
    CloseListeners {
        /// Which.
        scope: Scope,
        /// For which closing.
        closing: ClosingId,
    },
    /// To the hub, from a gate: they take nothing more.
    ListenersClosed {
        /// For which closing.
        closing: ClosingId,
        /// Whether there was one.
        found: bool,
    },
    /// To a porter: have sessions finish what they have.
    DrainSessions {
        /// Those that came by which listening socket.
        scope: Scope,
        /// For which closing.
        closing: ClosingId,
    },
    /// To a porter: have sessions end at once.
    CutSessions {
        /// Those that came by which listening socket.
        scope: Scope,
        /// For which closing.
        closing: ClosingId,
    },
    /// To the hub, from a porter: none of these sessions is left, or they are being reset.
    SessionsClosed {
        /// For which closing.
        closing: ClosingId,
        /// How many are being reset.
        cut: usize,
    },
    /// To a porter, from a session: it retires.
    Retires,
    /// To a session: its Connect is admitted.
    Admit {
        /// To what.
        admission: Box<Admission>,
        /// Where its requests go.
        routes: Routes,
    },
    /// To a session: its Connect is refused.
    Refuse(Answer),
    /// To a session: the answer to a command.
    Answer(Slot, Box<Answer>),
    /// To a session: a command is to be aborted.
    Abort {
        /// Which.
        cid: Cid,
        /// Of the target.
        ticket: Ticket,
    },
    /// To the hub: what the Abort has come to.
    Aborted {
        /// Of the target.
        ticket: Ticket,
        /// The command was aborted at once, and has been answered.
        at_once: bool,
    },
    /// To a session: it is to end.
    End,
    /// To a session: it is to finish what it has received, and to end then.
    Drain,
    /// To a session: it is to reset its socket now.
    Cut,
    /// To the porter of a loop: a connection to live there.
    Adopt {
        /// The address to which the listening socket is bound that it came by.
        listener: SocketAddr,
        /// The connection.
        connection: Box<Connection>,
        /// Its name.
        id: ConnectionId,
    },
}

impl Message for ServeMessage {
    fn undeliverable(self) -> Option<Self> {
        match self {
            // Without a hub there is nothing to be served.
            Self::Connect { .. } | Self::Command { .. } => Some(Self::End),
            Self::Abort { ticket, .. } => Some(Self::Aborted { ticket, at_once: false }),
            // Whoever is gone has nothing that could be closed.
            Self::CloseListeners { closing, .. } => {
                Some(Self::ListenersClosed { closing, found: false })
            }
            Self::DrainSessions { closing, .. } | Self::CutSessions { closing, .. } => {
                Some(Self::SessionsClosed { closing, cut: 0 })
            }
            _ => None,
        }
    }
}

/// The messages of a composition of actors that serves volumes of pools.
pub trait CarriesServe:
    CarriesPool + From<ServeMessage> + TryInto<ServeMessage, Error = Self>
{
}

impl<M> CarriesServe for M where
    M: CarriesPool + From<ServeMessage> + TryInto<ServeMessage, Error = M>
{
}
