//! The sending side of one connection.
//!
//! ```text
//!   send --> last gather ... first gather --sendmsg--> kernel
//!              waiting          under way, or the rest of it again
//! ```
//!
//! - One `sendmsg` is under way at a time, so that bytes leave in order. A short one is continued with
//!   its rest.
//! - What is sent meanwhile is gathered into the next one. Gathers come from the loop and go back to
//!   it, so that a connection that sends nothing has none.

use std::collections::VecDeque;

use crate::{
    io::IoKey,
    net::{Flow, SendError, traffic::Gather},
    slice::Slice,
};

/// The most gathers of one socket that wait: 4,096 parts.
const GATHERS_MAX: usize = 64;
/// The most unused gathers that a loop keeps.
const SPARE_MAX: usize = 256;

/// The gathers of a loop that are not in use.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "a gather stays where it is, in its box")]
pub(crate) struct Spare(Vec<Box<Gather>>);

impl Spare {
    fn take(&mut self) -> Box<Gather> {
        self.0.pop().unwrap_or_else(Gather::new)
    }

    fn keep(&mut self, mut gather: Box<Gather>) {
        gather.clear();
        if self.0.len() < SPARE_MAX {
            self.0.push(gather);
        }
    }
}

pub(crate) struct Outbound {
    waiting: VecDeque<Box<Gather>>,
    /// Under way in the ring.
    pub(crate) io: Option<IoKey>,
    unsent: usize,
    high: usize,
    is_high: bool,
}

impl Outbound {
    pub(crate) fn new(high: usize) -> Self {
        Self { waiting: VecDeque::new(), io: None, unsent: 0, high, is_high: false }
    }

    /// Bytes that the kernel has not taken.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(crate) fn copy(&mut self, bytes: &[u8], spare: &mut Spare) -> Result<Flow, SendError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some(last) = self.waiting.back_mut() {
                rest = &rest[last.copy(rest)..];
            }
            if !rest.is_empty() {
                self.add_gather(spare)?;
            }
        }
        Ok(self.added(bytes.len()))
    }

    pub(crate) fn add(&mut self, slice: Slice, spare: &mut Spare) -> Result<Flow, SendError> {
        let length = slice.len();
        let left = match self.waiting.back_mut() {
            Some(last) => last.add(slice),
            None => Err(slice),
        };
        if let Err(slice) = left {
            let added = self.add_gather(spare)?.add(slice);
            assert!(added.is_ok(), "an empty gather takes a part");
        }
        Ok(self.added(length))
    }

    fn add_gather(&mut self, spare: &mut Spare) -> Result<&mut Gather, SendError> {
        if self.waiting.len() >= GATHERS_MAX {
            return Err(SendError::Full);
        }
        self.waiting.push_back(spare.take());
        Ok(self.waiting.back_mut().expect("it was just put there"))
    }

    fn added(&mut self, length: usize) -> Flow {
        self.unsent += length;
        self.is_high |= self.unsent >= self.high;
        if self.is_high { Flow::High } else { Flow::Free }
    }

    /// What is to be sent next, when nothing is under way.
    pub(crate) fn next(&mut self) -> Option<Box<Gather>> {
        if self.io.is_some() { None } else { self.waiting.pop_front() }
    }

    /// The kernel has taken so many bytes. Whether the queue was high and is low now.
    pub(crate) fn sent(
        &mut self,
        mut gather: Box<Gather>,
        count: usize,
        spare: &mut Spare,
    ) -> bool {
        self.io = None;
        gather.advance(count);
        self.unsent -= count;
        if gather.is_sent() {
            spare.keep(gather);
        } else {
            self.waiting.push_front(gather);
        }
        let drained = self.is_high && self.unsent <= self.high / 2;
        self.is_high &= !drained;
        drained
    }

    /// Forgets what waits.
    pub(crate) fn discard(&mut self, spare: &mut Spare) {
        self.waiting.drain(..).for_each(|gather| spare.keep(gather));
    }
}
