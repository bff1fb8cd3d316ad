//! What a host and its driver say to each other.
//!
//! Before: the driver, or [`crate::Host::poll`]. Next: the other one.

use fathom_block::{self as block, Completion, Request, RequestId};
use fathom_nvme::{
    Status,
    log::{AnaState, DiscoveryEntry},
    tcp::TERMINATE_MAX,
};
use fathom_units::{Monotonic, Qid};

use crate::{error::Error, setup::Namespace};

/// Counts the associations of a host, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AssociationId(pub u64);

/// Names a connection: one for each queue of an association.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionId {
    /// The association.
    pub association: AssociationId,
    /// The queue.
    pub queue: Qid,
}

/// The header of a PDU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    bytes: [u8; TERMINATE_MAX],
    length: usize,
}

impl Header {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut header = Self { bytes: [0; TERMINATE_MAX], length: bytes.len() };
        header.bytes[..bytes.len()].copy_from_slice(bytes);
        header
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The data of a PDU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Bytes of a request.
    Request {
        /// The request.
        id: RequestId,
        /// From this one of its bytes on.
        offset: u64,
        /// So many.
        length: u32,
    },
    /// Bytes of the host's own.
    Own(Vec<u8>),
}

/// What the driver is to do, in this order on each connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Open a connection, and say [`Host::opened`] or [`Host::closed`].
    Open(ConnectionId),
    /// Send on a connection: the header, then the data, then, if `digest` is set, the
    /// [`DataDigest`](crate::DataDigest) of the data.
    Send {
        /// The connection.
        connection: ConnectionId,
        /// What is sent first.
        header: Header,
        /// What is sent then.
        payload: Option<Payload>,
        /// Whether the data's digest follows.
        digest: bool,
    },
    /// Close a connection once what was to be sent is sent. Nothing more is to be said of it.
    Close(ConnectionId),
    /// A request is completed: its bytes belong to the submitter again, once what the driver was
    /// told before to send of them is sent or given up. The status is the one with which the
    /// controller has failed it, if it did.
    Complete(Completion, Option<Status>),
    /// Something worth knowing.
    Event(Event),
}

/// Something worth knowing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The namespace can be used; also when it can be used again.
    Live {
        /// The association.
        association: AssociationId,
        /// The namespace as it is now.
        namespace: Namespace,
    },
    /// The namespace has another size, or can be written to or not any more.
    NamespaceChanged(Namespace),
    /// The state of the namespace's ANA group has changed to this; none when it cannot be told.
    AnaChanged(Option<AnaState>),
    /// The discovery log page: once it is read, and again after each change.
    Discovered(Vec<DiscoveryEntry>),
    /// The association is lost.
    Lost {
        /// The association.
        association: AssociationId,
        /// Why.
        error: Error,
        /// Whether changes wait for [`Host::fenced`] with it.
        unfenced: bool,
        /// By when a controller that keeps to the specification has ended it by itself.
        expires: Monotonic,
    },
    /// There will be no other association: the host was shut down, or gave up for this error.
    Ended(Option<Error>),
}

/// What came of bytes that were given to [`Host::receive`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received<'a> {
    /// They are all taken.
    Done,
    /// These are to be put into a request's memory, before anything else is asked of the host;
    /// then `rest` is to be given to [`Host::receive`], also when it is empty.
    Data {
        /// The request.
        id: RequestId,
        /// Where in its bytes.
        offset: u64,
        /// What is to be put there.
        bytes: &'a [u8],
        /// What follows.
        rest: &'a [u8],
    },
}

/// A request that was not accepted, given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The request.
    pub request: Request,
    /// Why.
    pub why: Why,
}

/// Why a request is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The host has never been live, or there will be no other association.
    NotLive,
    /// Too many requests are not completed; it may be tried again when one is.
    Full,
    /// It has no blocks, or lies beyond the end, or can never be done there.
    Malformed(block::Error),
    /// The controller has no such command, or cannot do so much as one operation.
    Unsupported,
}
