//! What the parts of the serving side say to each other.

use std::sync::Arc;

use fathom_lvs::geometry::ObjectId;
use fathom_runtime::{Address, Message, net::Connection};
use fathom_target::{
    connection::{AdminRequest, Admission, Answer, ConnectRequest, Slot},
    export::DeviceId,
    target::{ConnectionId, Portal, Target},
};
use fathom_units::Monotonic;

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
    /// To the hub: from a thread.
    Errand(Errand),
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
    /// To a session: it is to end.
    End,
    /// To the porter of a loop: a connection to live there.
    Adopt {
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
