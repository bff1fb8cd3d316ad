//! What an open pool and its driver say to each other.
//!
//! The driver carries out each [`Action`] once, in any order, and reports each [`MemberIo`]
//! with [`crate::Store::complete_io`].

use fathom_block::{Buffer, Completion, RequestId};
use fathom_units::{ByteOffset, Monotonic};

use crate::{
    admin::{Failed, Ticket},
    fill::Event,
    geometry::MemberIndex,
};

/// The most data that goes with one request, in bytes: a fused Compare and Write has two halves.
pub const REQUEST_BYTES_MAX: u64 = 32 << 20;

/// Names a member I/O from its action to [`crate::Store::complete_io`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoToken(pub usize);

/// What is done to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoKind {
    /// Read `length` bytes.
    Read,
    /// Write `length` bytes; with `fua`, they are on stable media at completion.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Bring every completed write to stable media.
    Flush,
    /// Give the space of `length` bytes back. What they read as afterwards does not matter: nobody
    /// reads them before they are written. Asked for only where [`crate::Store::set_discarding`] said
    /// that it can be done.
    Discard,
}

/// Where the bytes of a member I/O are.
#[derive(Debug)]
pub enum IoData {
    /// A flush and a discard have none.
    None,
    /// In the bytes of a request, at this offset.
    Request {
        /// The request.
        id: RequestId,
        /// Bytes from the start of its data.
        offset: usize,
    },
    /// In this buffer, which a read gives back through [`crate::Store::complete_io`].
    Owned(Buffer),
}

/// One I/O to one member. Offset and length are multiples of 4096.
#[derive(Debug)]
pub struct MemberIo {
    /// Its name.
    pub token: IoToken,
    /// The member.
    pub member: MemberIndex,
    /// What to do.
    pub kind: IoKind,
    /// Where on the member.
    pub offset: ByteOffset,
    /// How many bytes; 0 for a flush. Of a discard, more than a request ever has.
    pub length: usize,
    /// From or to where.
    pub data: IoData,
}

/// What the driver has to do next.
#[derive(Debug)]
pub enum Action {
    /// Carry out a member I/O and report it with [`crate::Store::complete_io`].
    Io(MemberIo),
    /// Fill part of a read request's data with zeros.
    Zero {
        /// The request.
        id: RequestId,
        /// Bytes from the start of its data.
        offset: usize,
        /// How many bytes.
        length: usize,
    },
    /// Fill part of a read request's data from a buffer.
    Fill {
        /// The request.
        id: RequestId,
        /// Bytes from the start of its data.
        offset: usize,
        /// The source.
        buffer: Buffer,
        /// Which bytes of the source.
        range: core::ops::Range<usize>,
    },
    /// A request is done.
    Complete(Completion),
    /// What was deleted has been reclaimed, as far as that is possible now
    /// ([`crate::Store::reclaiming`]): nothing is allocated that nobody can read.
    Reclaimed,
    /// An administrative call is done, and durable when it succeeded.
    Done {
        /// What the call returned.
        ticket: Ticket,
        /// Done, or why not.
        result: Result<(), Failed>,
    },
    /// Something about the pool has changed; nothing has to be carried out.
    Event(Event),
}

/// When [`crate::Store::pump`] has to be called again if nothing is submitted or reported before.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Soon, after other work has had its turn: long work is done in pieces.
    Now,
    /// At this moment.
    At(Monotonic),
    /// It need not be called.
    OnEvent,
}

/// Gives access to the data of requests that are under way.
pub trait Payloads {
    /// The data of a request that writes or compares.
    fn bytes(&self, id: RequestId) -> &[u8];
}

/// Why a member I/O failed, as far as the store has to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IoError {
    /// The member could not do it.
    #[error("the member reported an I/O error")]
    Failed,
    /// The file system under a member has no space for what was to be written. For data this is a
    /// full pool; for metadata, whose space is taken beforehand, it is a failed write.
    #[error("the file system under the member is full")]
    NoSpace,
}
