//! The receiving side of one connection.
//!
//! ```text
//!   kernel --Receive (many times)--> inbox --> Received
//!      |                               |
//!      +--Fill (once)--> buffer <------+ pour    --> Filled
//! ```
//!
//! No byte is lost and none overtakes another, because one operation at a time takes bytes from the
//! socket: the next one begins when the last completion of the one before was seen. Each completion
//! of a receive is queued in the inbox, in the order in which the kernel made them. Pausing and
//! filling cancel the receive; a receive that is cancelled has taken just the bytes that its
//! completions brought before the last one. Those lie in the inbox, from where a buffer that is to be
//! filled takes them before the kernel is asked for the rest.
//!
//! - What lies in the inbox of a paused socket is what one look at it took from the kernel, whose own
//!   buffer for it bounds that. It lies in chunks of the loop until others need them: then it is
//!   copied, so that a peer that has itself paused takes nothing from others.
//! - Source: `io_uring_prep_recv_multishot(3)`.

use std::{collections::VecDeque, ops::Range};

use crate::{
    arena::Buffer,
    io::IoKey,
    net::{SocketEvent, traffic::Filling},
    slice::Slice,
};

/// What the kernel does for this side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doing {
    Nothing,
    /// It puts what arrives into chunks.
    Receiving(IoKey),
    /// It was asked to end that.
    Cancelling,
    /// It fills a buffer.
    Filling(IoKey),
    /// It has no chunk; the socket waits for one.
    Starving,
}

/// What is to be begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Nothing,
    Receive,
    Cancel(IoKey),
    Fill,
}

pub(crate) struct Inbound {
    pub(crate) doing: Doing,
    inbox: VecDeque<Slice>,
    /// How many of them, from the first, lie in memory of their own.
    spilled: usize,
    /// A buffer to be filled, when it is not with the kernel.
    filling: Option<Filling>,
    paused: bool,
    /// The peer has ended its stream, and whether that was told.
    ended: bool,
    told: bool,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            doing: Doing::Nothing,
            inbox: VecDeque::new(),
            spilled: 0,
            filling: None,
            paused: false,
            ended: false,
            told: false,
        }
    }

    // What the actor wants.

    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    pub(crate) fn resume(&mut self) {
        self.paused = false;
    }

    /// # Panics
    ///
    /// When a buffer is being filled, which would have taken these bytes.
    pub(crate) fn put_back(&mut self, rest: Slice) {
        let fills = self.filling.is_some() || matches!(self.doing, Doing::Filling(_));
        assert!(!fills, "what is put back comes before what fills a buffer");
        if !rest.is_empty() {
            self.inbox.push_front(rest);
            self.spilled = 0;
        }
    }

    /// # Panics
    ///
    /// When a buffer is being filled already.
    pub(crate) fn fill(&mut self, buffer: Buffer, range: Range<usize>) {
        let busy = self.filling.is_some() || matches!(self.doing, Doing::Filling(_));
        assert!(!busy, "one buffer is filled at a time");
        self.filling = Some(Filling::new(buffer, range));
        self.pour();
    }

    /// Forgets what was received and is wanted; from now on everything is dropped.
    pub(crate) fn discard(&mut self) {
        self.inbox.clear();
        self.spilled = 0;
        self.filling = None;
        self.paused = false;
    }

    // What the kernel did.

    pub(crate) fn received(&mut self, slice: Slice) {
        self.inbox.push_back(slice);
        self.pour();
    }

    pub(crate) fn filled(&mut self, mut filling: Filling, count: usize) {
        filling.advance(count);
        self.filling = Some(filling);
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Gives the chunks back that lie in the inbox of a paused socket, and keeps their bytes.
    pub(crate) fn spill(&mut self) {
        if !self.paused || self.inbox.len() == self.spilled {
            return;
        }
        let mut copy = Buffer::zeroed(self.inbox.iter().map(|slice| slice.len()).sum());
        let mut at = 0;
        for slice in self.inbox.drain(..) {
            copy[at..at + slice.len()].copy_from_slice(&slice);
            at += slice.len();
        }
        self.inbox.push_back(copy.share(0..at));
        self.spilled = 1;
    }

    fn take_first(&mut self) -> Option<Slice> {
        self.spilled = self.spilled.saturating_sub(1);
        self.inbox.pop_front()
    }

    /// Puts what has arrived into the buffer that is to be filled.
    fn pour(&mut self) {
        let Some(filling) = &mut self.filling else { return };
        while !filling.is_full()
            && let Some(slice) = self.inbox.front_mut()
        {
            filling.pour(slice);
            if slice.is_empty() {
                self.inbox.pop_front();
                self.spilled = self.spilled.saturating_sub(1);
            }
        }
    }

    // What follows.

    /// What the kernel is to be asked for.
    pub(crate) fn step(&self) -> Step {
        let fills = self.filling.as_ref().is_some_and(|filling| !filling.is_full());
        match self.doing {
            Doing::Nothing if self.ended => Step::Nothing,
            Doing::Nothing | Doing::Starving if fills => Step::Fill,
            Doing::Nothing if !self.paused && self.filling.is_none() => Step::Receive,
            Doing::Receiving(io) if fills || self.paused => Step::Cancel(io),
            _ => Step::Nothing,
        }
    }

    /// The buffer for [`Step::Fill`].
    pub(crate) fn take_filling(&mut self) -> Filling {
        self.filling.take().expect("it is what is to be filled")
    }

    /// What the actor is to be told next.
    pub(crate) fn next_event(&mut self) -> Option<SocketEvent> {
        if self.filling.as_ref().is_some_and(Filling::is_full) {
            return self.filling.take().map(|full| SocketEvent::Filled(full.into_buffer()));
        }
        let fills = self.filling.is_some() || matches!(self.doing, Doing::Filling(_));
        if fills && !self.ended {
            return None;
        }
        if !self.paused
            && let Some(slice) = self.take_first()
        {
            return Some(SocketEvent::Received(slice));
        }
        if self.ended && self.inbox.is_empty() && !self.told {
            self.told = true;
            self.filling = None;
            return Some(SocketEvent::EndOfStream);
        }
        None
    }
}
