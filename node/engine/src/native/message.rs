//! What a pool is asked, and what it answers.
//!
//! A request takes its data along and brings it back with the answer; so nobody else has it
//! meanwhile, on whichever loop he is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use fathom_block::{Error, Request, RequestId};
use fathom_lvs::{
    Addition, Failed, Refused, Store, Ticket,
    geometry::{MemberIndex, ObjectId},
};
use fathom_runtime::{Buffer, Message, device::DeviceFile};

use super::members::Member;

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
    /// Add a device as a member.
    Add {
        /// The device, locked. It is unlocked when it is not taken, and when adding it fails so that
        /// it is no member.
        device: Member,
        /// What it is.
        addition: Addition,
        /// Where the end of the call goes. It has room for it.
        answer: SyncSender<Result<(), CallError>>,
    },
    /// Give the device of a member, if it is a device and there.
    Device {
        /// Which one.
        member: MemberIndex,
        /// Where it goes. It has room for it.
        answer: SyncSender<Arc<DeviceFile>>,
    },
    /// A look at the store.
    Look(Look),
    /// Tell what changes about the pool.
    Subscribe(Subscriber),
    /// The pool shall finish what it has and retire.
    Retire,
}

/// Something about a pool has changed. Nothing has to be done for the pool to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolEvent {
    /// How full it is.
    Fill(fathom_lvs::Event),
    /// What was deleted has been reclaimed, as far as that is possible now.
    Reclaimed,
    /// More has changed than was waited for: a look at the store says what is so now.
    Missed,
}

/// The end of a subscription that a pool has. It never waits for the other end.
pub struct Subscriber {
    to: SyncSender<PoolEvent>,
    missed: Arc<AtomicBool>,
}

/// The end of a subscription that is told.
pub struct Events {
    told: Receiver<PoolEvent>,
    missed: Arc<AtomicBool>,
}

/// A subscription of which `waiting` events may not have been taken yet.
pub fn subscription(waiting: usize) -> (Subscriber, Events) {
    let (to, told) = sync_channel(waiting.max(1));
    let missed = Arc::new(AtomicBool::new(false));
    (Subscriber { to, missed: Arc::clone(&missed) }, Events { told, missed })
}

impl Subscriber {
    /// Tells an event, or notes that it was missed. False when nobody listens any more.
    pub(crate) fn tell(&self, event: PoolEvent) -> bool {
        let Err(error) = self.to.try_send(event) else { return true };
        if matches!(error, TrySendError::Full(_)) {
            // Noted before it is tried again: whoever makes room sees the note after that.
            self.missed.store(true, Ordering::SeqCst);
            let again = self.to.try_send(event);
            return !matches!(again, Err(TrySendError::Disconnected(_)));
        }
        false
    }
}

impl Events {
    /// Waits for the next event, for so long at most.
    ///
    /// # Errors
    ///
    /// When none has come, or none will because the pool is closed or has too many subscribers.
    pub fn next(&self, wait: Duration) -> Result<PoolEvent, RecvTimeoutError> {
        if self.missed.swap(false, Ordering::SeqCst) {
            return Ok(PoolEvent::Missed);
        }
        self.told.recv_timeout(wait)
    }
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
    /// The pool's loop has no room for another device; nothing has changed.
    #[error("the pool's event loop has no room for another device")]
    NoRoom,
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn what_is_missed_is_told_and_the_pool_never_waits() {
        let (subscriber, events) = subscription(2);
        assert_eq!(events.next(NOW), Err(RecvTimeoutError::Timeout));
        let full = PoolEvent::Fill(fathom_lvs::Event::Full);
        for _ in 0..5 {
            assert!(subscriber.tell(full));
        }
        let told: Vec<_> = std::iter::from_fn(|| events.next(NOW).ok()).collect();
        assert_eq!(told, [PoolEvent::Missed, full, full]);
        assert!(subscriber.tell(PoolEvent::Reclaimed));
        assert_eq!(events.next(NOW), Ok(PoolEvent::Reclaimed));
        drop(events);
        assert!(!subscriber.tell(full), "nobody listens");
    }
}
