//! A pool for threads that are no loops: the gRPC services, tests.
//!
//! It takes locks and wakes threads, so it is not for the I/O path of a volume that is served.

use std::sync::{
    Arc,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use fathom_block::{Error, Operation, Request, RequestId};
use fathom_lvs::{
    Refused, Store, Ticket,
    geometry::{MemberIndex, ObjectId},
};
use fathom_runtime::{Address, Buffer, Ended, Remote, device::DeviceFile};
use fathom_units::{BlockCount, Lba};

use super::{
    members::Opened,
    message::{
        Answer, CallError, CarriesPool, Events, FromThread, PoolMessage, Reply, subscription,
    },
    pool::Pool,
};

/// Asks a pool and waits for its answers.
pub struct PoolHandle<M: CarriesPool> {
    remote: Remote<M>,
    address: Address,
}

impl<M: CarriesPool> Clone for PoolHandle<M> {
    fn clone(&self) -> Self {
        Self { remote: self.remote.clone(), address: self.address }
    }
}

/// Many requests whose answers come in any order.
pub struct Submitter<M: CarriesPool> {
    handle: PoolHandle<M>,
    answer: SyncSender<Answer>,
    answers: Receiver<Answer>,
    under_way: usize,
    most: usize,
}

impl<M: CarriesPool> PoolHandle<M> {
    /// Puts a pool that is open onto a loop.
    ///
    /// # Errors
    ///
    /// When the loop has ended; the pool is closed then.
    pub fn start(remote: Remote<M>, opened: Opened) -> Result<Self, Ended> {
        let address = remote.give_birth(Pool::birth(opened))?;
        Ok(Self { remote, address })
    }

    /// The actor, for other actors.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Makes an administrative call and waits for its end. On success it is durable.
    ///
    /// # Errors
    ///
    /// Why it was refused or failed.
    pub fn call(
        &self,
        call: impl FnOnce(&mut Store) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Result<(), CallError> {
        let answered = self.begin_call(call);
        answered.recv().unwrap_or(Err(CallError::Closed))
    }

    /// Begins an administrative call. Its end comes through the channel, which ends without it when
    /// the pool is closed.
    pub fn begin_call(
        &self,
        call: impl FnOnce(&mut Store) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Receiver<Result<(), CallError>> {
        let (answer, answered) = sync_channel(1);
        self.send(FromThread::Call { call: Box::new(call), answer });
        answered
    }

    /// Has what changes about the pool told, with room for so many events that were not taken yet.
    pub fn subscribe(&self, waiting: usize) -> Events {
        let (subscriber, events) = subscription(waiting);
        self.send(FromThread::Subscribe(subscriber));
        events
    }

    /// Looks at the store. `None` when the pool is closed.
    pub fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        let look = move |store: &Store| drop(answer.try_send(look(store)));
        self.send(FromThread::Look(Box::new(look)));
        answered.recv().ok()
    }

    /// The device of a member: its path, its sizes, and what it writes at once. `None` for a member that is
    /// missing or memory, and when the pool is closed. Whoever keeps it keeps its lock.
    pub fn device(&self, member: MemberIndex) -> Option<Arc<DeviceFile>> {
        let (answer, device) = sync_channel(1);
        self.send(FromThread::Device { member, answer });
        device.recv().ok()
    }

    /// Does one request and waits for its answer. It brings `data` back.
    ///
    /// # Errors
    ///
    /// What the store answered, or `NotReady` when the pool is closed.
    pub fn request(
        &self,
        object: ObjectId,
        operation: Operation,
        lba: Lba,
        blocks: BlockCount,
        data: Option<Buffer>,
    ) -> Result<Option<Buffer>, Error> {
        let mut submitter = self.submitter(1);
        let request = Request { id: RequestId(0), operation, lba, blocks };
        submitter.submit(object, request, data);
        let answer = submitter.answer().ok_or(Error::NotReady)?;
        answer.result.map(|()| answer.data)
    }

    /// Submits up to `most` requests at a time.
    pub fn submitter(&self, most: usize) -> Submitter<M> {
        let (answer, answers) = sync_channel(most);
        Submitter { handle: self.clone(), answer, answers, under_way: 0, most }
    }

    /// Has the pool finish what it has, and closes it.
    pub fn retire(&self) {
        self.send(FromThread::Retire);
    }

    /// What cannot be sent is dropped, and with it the way of its answer, which is how the waiting
    /// side is told.
    pub(crate) fn send(&self, message: FromThread) {
        let mut message = M::from(PoolMessage::Thread(message));
        while let Err(fathom_runtime::Unsent::Full(back)) = self.remote.send(self.address, message)
        {
            message = back;
            std::thread::yield_now();
        }
    }
}

impl<M: CarriesPool> Submitter<M> {
    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Submits a request; its id is the caller's own.
    ///
    /// # Panics
    ///
    /// When as many are under way as were announced.
    pub fn submit(&mut self, object: ObjectId, request: Request, data: Option<Buffer>) {
        assert!(self.under_way < self.most, "no more than {} at a time", self.most);
        self.under_way += 1;
        let answer = Reply::new(request.id, self.answer.clone());
        self.handle.send(FromThread::Submit { object, request, data, answer });
    }

    /// Waits for the next answer; `NotReady` when the pool is closed. `None` when none is due.
    pub fn answer(&mut self) -> Option<Answer> {
        if self.under_way == 0 {
            return None;
        }
        self.under_way -= 1;
        Some(self.answers.recv().expect("this side keeps the channel open"))
    }
}
