//! What a pool is asked, and what it answers.
//!
//! A request takes its data along and brings it back with the answer; so nobody else has it
//! meanwhile, on whichever loop he is.

use std::sync::mpsc::SyncSender;

use fathom_block::{Error, Request, RequestId};
use fathom_lvs::{Failed, Refused, Store, Ticket, geometry::ObjectId};
use fathom_runtime::{Buffer, Message};

/// To a pool, or from it.
pub enum PoolMessage {
    /// Do this with a volume or snapshot.
    Submit {
        /// Which one.
        object: ObjectId,
        /// What; its id is the sender's own.
        request: Request,
        /// The data of a write or compare; room for that of a read. As long as the request says.
        data: Option<Buffer>,
    },
    /// What became of it.
    Answer(Answer),
    /// From a thread that is no loop.
    Thread(FromThread),
}

/// What became of a request.
#[derive(Debug)]
pub struct Answer {
    /// The sender's id.
    pub id: RequestId,
    /// Done, or why not.
    pub result: Result<(), Error>,
    /// The data that came with the request; of a read that succeeded, filled.
    pub data: Option<Buffer>,
}

/// Where the answer to a thread goes. When it is dropped without one, `NotReady` goes there: so a
/// thread never waits for a pool that is gone.
#[derive(Debug)]
pub struct Reply {
    id: RequestId,
    to: Option<SyncSender<Answer>>,
}

impl Reply {
    /// The way of the answer to request `id`; `to` has room for it.
    pub fn new(id: RequestId, to: SyncSender<Answer>) -> Self {
        Self { id, to: Some(to) }
    }

    /// Sends the answer.
    pub fn send(mut self, answer: Answer) {
        // Whoever does not wait any more is not told.
        let _ = self.to.take().map(|to| to.try_send(answer));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let answer = Answer { id: self.id, result: Err(Error::NotReady), data: None };
        let _ = self.to.take().map(|to| to.try_send(answer));
    }
}

/// A call of the store's, made on the loop.
pub type Call = Box<dyn FnOnce(&mut Store) -> Result<Ticket, Refused> + Send>;

/// A look at the store, taken on the loop; it sends what it sees by itself.
pub type Look = Box<dyn FnOnce(&Store) + Send>;

/// What threads ask.
pub enum FromThread {
    /// As [`PoolMessage::Submit`].
    Submit {
        /// Which volume or snapshot.
        object: ObjectId,
        /// What.
        request: Request,
        /// The data.
        data: Option<Buffer>,
        /// Where the answer goes.
        answer: Reply,
    },
    /// An administrative call.
    Call {
        /// Which one.
        call: Call,
        /// Where its end goes. It has room for it.
        answer: SyncSender<Result<(), CallError>>,
    },
    /// A look at the store.
    Look(Look),
    /// The pool shall finish what it has and retire.
    Retire,
}

/// Why a call did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// It was refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It failed while it was carried out.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
}

impl Message for PoolMessage {
    fn undeliverable(self) -> Option<Self> {
        match self {
            Self::Submit { request, data, .. } => {
                let (id, result) = (request.id, Err(Error::NotReady));
                Some(Self::Answer(Answer { id, result, data }))
            }
            // A thread sees that its answer cannot come any more.
            Self::Answer(_) | Self::Thread(_) => None,
        }
    }
}

/// The messages of a composition of actors of which a pool is one.
pub trait CarriesPool: Message + From<PoolMessage> + TryInto<PoolMessage> {}

impl<M: Message + From<PoolMessage> + TryInto<PoolMessage>> CarriesPool for M {}
