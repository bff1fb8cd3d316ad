//! A device whose requests a test holds back.
//!
//! It stands where a pool would: sessions send it their requests. Until it is let go, it answers
//! none; afterwards each at once, with zeros for a read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use fathom_block::{Operation, Request};
use fathom_engine::{
    message::NodeMessage,
    native::message::{Answer, FromThread, PoolMessage},
};
use fathom_runtime::{Actor, Address, Buffer, Context, Event, Loops, Remote};

use crate::node::wait_until;

/// The test's end of it.
pub struct Held {
    /// Where requests go.
    pub address: Address,
    remote: Remote<NodeMessage>,
    count: Arc<AtomicUsize>,
}

impl Held {
    /// Puts one onto the first of the loops.
    ///
    /// # Panics
    ///
    /// When the loop has ended.
    pub fn start(loops: &Loops<NodeMessage>) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let remote = loops.remote(0);
        let birth = Box::new(move |_: &mut Context<'_, NodeMessage>| {
            Box::new(Device { waiting: Vec::new(), holds: true, count: counted }) as _
        });
        let address = remote.give_birth(birth).expect("the loop runs");
        Self { address, remote, count }
    }

    /// Waits until so many requests are held.
    ///
    /// # Panics
    ///
    /// When that takes longer than anything should.
    pub fn wait_for(&self, requests: usize) {
        let what = format!("{requests} requests are at the device");
        wait_until(&what, || self.held() == requests);
    }

    /// How many requests are held.
    pub fn held(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Answers what is held, and from now on everything at once.
    pub fn let_go(&self) {
        let message = PoolMessage::Thread(FromThread::Retire);
        // A loop that has ended has let go of everything.
        drop(self.remote.send(self.address, message.into()));
    }
}

struct Device {
    waiting: Vec<(Address, Request, Option<Buffer>)>,
    holds: bool,
    count: Arc<AtomicUsize>,
}

impl Device {
    fn answer_all(&mut self, context: &mut Context<'_, NodeMessage>) {
        for (from, request, mut data) in self.waiting.drain(..) {
            if let (Operation::Read, Some(data)) = (request.operation, &mut data) {
                data.fill(0);
            }
            let answer = Answer { id: request.id, result: Ok(()), data };
            drop(context.reply(from, PoolMessage::Answer(answer).into()));
        }
        self.count.store(0, Ordering::SeqCst);
    }
}

impl Actor<NodeMessage> for Device {
    fn handle(&mut self, event: Event<NodeMessage>, context: &mut Context<'_, NodeMessage>) {
        match event {
            Event::Message { from, message: NodeMessage::Pool(message) } => match message {
                PoolMessage::Submit { request, data, .. } => {
                    self.waiting.push((from, request, data));
                    self.count.store(self.waiting.len(), Ordering::SeqCst);
                }
                PoolMessage::Thread(FromThread::Retire) => self.holds = false,
                PoolMessage::Thread(_) | PoolMessage::Answer(_) => {}
            },
            Event::Stop => {
                self.answer_all(context);
                return context.retire();
            }
            _ => {}
        }
        if !self.holds {
            self.answer_all(context);
        }
    }
}
