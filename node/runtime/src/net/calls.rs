//! What an actor can ask of its loop about sockets.
//!
//! A key whose socket has told its end, or is about to, is left alone by all of these; what came with
//! the call is dropped then.

use std::{net::SocketAddr, ops::Range};

use fathom_units::Monotonic;

use super::{
    Close, Connection, Flow, Listener, NotAdopted, NotBegun, SendError, SocketKey, SocketOptions,
};
use crate::{
    actor::{Context, Message},
    arena::Buffer,
    core::Core,
    ring::Report,
    slice::Slice,
};

impl<M: Message> Context<'_, M> {
    /// Takes connections on a listening socket, which belongs to this actor from now on. Each comes
    /// as [`SocketEvent::Accepted`](super::SocketEvent) with `token`.
    ///
    /// # Errors
    ///
    /// The listener comes back when the loop has no room for another socket.
    pub fn listen(&mut self, listener: Listener, token: u64) -> Result<SocketKey, Listener> {
        self.core.sockets.listen((self.me, token), listener)
    }

    /// Makes a connection this actor's, on this loop. What it receives comes from now on.
    ///
    /// # Errors
    ///
    /// The connection comes back when the loop has no room for another socket, or the kernel refuses
    /// an option.
    pub fn adopt(
        &mut self,
        connection: Connection,
        options: &SocketOptions,
        token: u64,
    ) -> Result<SocketKey, NotAdopted> {
        self.core.sockets.adopt((self.me, token), connection, options)
    }

    /// Connects to an address. [`SocketEvent::Connected`](super::SocketEvent) comes when it is there,
    /// and `Closed` when it fails or is not there at the deadline.
    ///
    /// # Errors
    ///
    /// When it could not be begun.
    pub fn connect(
        &mut self,
        address: SocketAddr,
        options: &SocketOptions,
        by: Monotonic,
        token: u64,
    ) -> Result<SocketKey, NotBegun> {
        self.core.sockets.connect((self.me, token), address, options, by)
    }

    /// Sends a copy of some bytes: headers, digests, what is small. They leave at the end of the
    /// turn, in the order of these calls and those of [`Context::send_slice`].
    ///
    /// # Errors
    ///
    /// When the socket is not open, or the actor did not stop when much waited.
    pub fn send_bytes(&mut self, socket: SocketKey, bytes: &[u8]) -> Result<Flow, SendError> {
        self.core.sockets.send(socket, bytes)
    }

    /// Sends a slice without copying it. Its chunk goes back when the kernel has taken it.
    ///
    /// # Errors
    ///
    /// As [`Context::send_bytes`].
    pub fn send_slice(&mut self, socket: SocketKey, slice: Slice) -> Result<Flow, SendError> {
        self.core.sockets.send_slice(socket, slice)
    }

    /// How many bytes the kernel has not taken yet.
    pub fn unsent(&mut self, socket: SocketKey) -> usize {
        self.core.sockets.unsent(socket)
    }

    /// Has nothing received come until [`Context::resume`]: the peer is held back when the kernel's
    /// buffer is full. What the loop has taken from it already stays in order. As long as nothing is
    /// sent either, a paused socket does not notice that its peer is gone.
    pub fn pause(&mut self, socket: SocketKey) {
        self.core.sockets.pause(socket);
    }

    /// Has what is received come again.
    pub fn resume(&mut self, socket: SocketKey) {
        self.core.sockets.resume(socket);
    }

    /// Gives the rest of what was received back: it comes again, before all that follows it. So an
    /// actor that cannot go on in the middle of a slice pauses and holds nothing meanwhile; and a
    /// buffer for [`Context::receive_into`] takes its first bytes from there.
    ///
    /// # Panics
    ///
    /// When a buffer of this socket is being filled.
    pub fn put_back(&mut self, socket: SocketKey, rest: Slice) {
        self.core.sockets.put_back(socket, rest);
    }

    /// Has the next bytes of the stream fill a range of a buffer, which comes back full as
    /// [`SocketEvent::Filled`](super::SocketEvent); what follows them comes as before. Bytes that the
    /// loop has not taken yet are put there by the kernel. Stopping one kind of receive and beginning
    /// another has its price: it pays from about 32 KiB. A paused socket fills its buffer, too.
    ///
    /// # Panics
    ///
    /// When a buffer of this socket is being filled already, or the range does not lie in it.
    pub fn receive_into(&mut self, socket: SocketKey, buffer: Buffer, range: Range<usize>) {
        self.core.sockets.fill(socket, buffer, range);
    }

    /// Closes a socket. Nothing of it is told any more but
    /// [`SocketEvent::Closed`](super::SocketEvent). A socket that only listens or connects is closed
    /// at once.
    pub fn close(&mut self, socket: SocketKey, how: Close) {
        self.core.sockets.close(socket, how);
    }
}

impl<M: Message> Core<M> {
    /// Takes note of what a socket has done.
    pub(crate) fn report(&mut self, report: Report) {
        self.sockets.report(report, self.now);
    }

    /// Begins what follows for sockets from all that has happened in this turn.
    pub(crate) fn settle_sockets(&mut self) {
        self.sockets.settle(&mut self.ring, &mut self.timers);
    }
}
