//! TCP sockets on event loops.
//!
//! ```text
//!   Listener --listen--> socket --Accepted(Connection)--> an actor sends it on, to any loop
//!                                                              |
//!   address --connect--> socket --Connected--+              adopt
//!                                            v                 v
//!      Received, Filled, Drained, EndOfStream <---- socket ----+--- close --> Closed
//! ```
//!
//! A socket belongs to one actor, which is told what it has by [`Event::Socket`](crate::Event).
//!
//! - Bytes arrive in order, each once, as [`Slice`]s of chunks that belong to the loop: a silent
//!   connection holds no memory. An actor that keeps many slices pauses its socket, for it keeps
//!   them from the other sockets of its loop.
//! - Bytes leave in the order in which they were sent. What is sent while a `sendmsg` is under way
//!   goes out with the next one. What waits is bounded, and the actor is told when it is much.
//! - [`SocketEvent::Closed`] is the last event of each socket and comes once, when nothing of it is
//!   under way and its descriptor is closed. An error ends a socket by itself.
//! - Nothing here decides what is silent for too long; the actor has timers.
//!
//! Before it: the network. After it: the target, the host.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fathom_units::Monotonic;
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    net::{
        AddressFamily, SocketFlags, SocketType, bind, getpeername, getsockname, ipproto, listen,
        socket_with, sockopt,
    },
};
use thiserror::Error;

use crate::{arena::Buffer, io::Errno, patience, slice::Slice};

mod calls;

pub(crate) mod sockets;

mod inbound;
mod outbound;
pub(crate) mod traffic;

/// Names a socket on its loop until it is closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What a socket tells its actor.
#[derive(Debug)]
pub enum SocketEvent {
    /// A listening socket has a new connection, for whoever shall [adopt] it.
    ///
    /// [adopt]: crate::Context::adopt
    Accepted(Connection),
    /// A listening socket could not take connections. It goes on; this is told once until it has
    /// taken one again, or when the cause is another one.
    NotAccepted(NotAccepted),
    /// The connection is there: its own address, and the peer's.
    Connected {
        /// The address on this side.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
    },
    /// Bytes have arrived.
    Received(Slice),
    /// The range of the buffer is filled that [`Context::receive_into`] has named.
    ///
    /// [`Context::receive_into`]: crate::Context::receive_into
    Filled(Buffer),
    /// The peer sends nothing more; a buffer that was to be filled is gone. What is sent to the peer
    /// may still arrive. Told once, after all that was received.
    EndOfStream,
    /// What waits to be sent was much, and is little now.
    Drained,
    /// The socket is closed: by its actor, or by an error, which an actor that has begun to close
    /// it is told too if something could not be sent. Its key names nothing any more.
    Closed(Result<(), Errno>),
}

/// Why a listening socket has not taken a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAccepted {
    /// As many connections are open as may be. The new one was reset.
    Limit,
    /// The kernel refuses, for lack of descriptors or memory most likely. It is asked again soon.
    Refused(Errno),
}

/// How a socket is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// At once, with a reset: what was not sent is lost, and so may be what the peer has not read.
    Reset,
    /// All that waits is sent, then the end of the stream, and then the peer's end is waited for;
    /// what still arrives is dropped. At this moment it is over in any case: what has not been given
    /// to the kernel is lost then, which [`SocketEvent::Closed`] tells as `ETIMEDOUT`.
    Gracefully {
        /// The deadline.
        by: Monotonic,
    },
}

/// Whether an actor should send more.
#[must_use = "who sends more though much waits fills the queue"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Little waits.
    Free,
    /// [`SocketOptions::send_high_bytes`] wait, or more. [`SocketEvent::Drained`] will come.
    High,
}

/// Why something was not taken to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SendError {
    /// The socket is closed, or about to be, or not connected yet.
    #[error("the socket is not open")]
    NotOpen,
    /// The actor went on though it was told that much waits: the queue is full. The stream would
    /// have a hole now, so the socket ends, with `ENOBUFS`.
    #[error("too much waits to be sent")]
    Full,
}

/// How a connection is set up.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Send at once what is small (`TCP_NODELAY`).
    pub no_delay: bool,
    /// Look whether a silent peer is still there.
    pub keepalive: Option<Keepalive>,
    /// Give a connection up on which sent data is not acknowledged for so long
    /// (`TCP_USER_TIMEOUT`); the kernel's choice without.
    pub user_timeout: Option<Duration>,
    /// Bytes that may wait before the actor is told [`Flow::High`]. [`SocketEvent::Drained`] comes
    /// at half of it.
    pub send_high_bytes: usize,
    /// The kernel's buffer for what is to be sent; its own choice without.
    pub kernel_send_bytes: Option<usize>,
    /// The kernel's buffer for what was received; its own choice without.
    pub kernel_receive_bytes: Option<usize>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            no_delay: true,
            keepalive: None,
            user_timeout: None,
            send_high_bytes: 1 << 20,
            kernel_send_bytes: None,
            kernel_receive_bytes: None,
        }
    }
}

/// How the kernel looks whether a silent peer is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// After so much silence, in whole seconds.
    pub idle: Duration,
    /// Again each so often, in whole seconds.
    pub interval: Duration,
    /// It is gone when so many have not been answered.
    pub probes: u32,
}

impl SocketOptions {
    fn apply(&self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        // The ring waits for a socket by itself, unless the socket says that nobody may wait.
        fcntl_setfl(socket, fcntl_getfl(socket)? - OFlags::NONBLOCK)?;
        sockopt::set_tcp_nodelay(socket, self.no_delay)?;
        if let Some(Keepalive { idle, interval, probes }) = self.keepalive {
            sockopt::set_tcp_keepidle(socket, idle)?;
            sockopt::set_tcp_keepintvl(socket, interval)?;
            sockopt::set_tcp_keepcnt(socket, probes)?;
            sockopt::set_socket_keepalive(socket, true)?;
        }
        if let Some(timeout) = self.user_timeout {
            let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(socket, milliseconds)?;
        }
        if let Some(bytes) = self.kernel_send_bytes {
            sockopt::set_socket_send_buffer_size(socket, bytes)?;
        }
        if let Some(bytes) = self.kernel_receive_bytes {
            sockopt::set_socket_recv_buffer_size(socket, bytes)?;
        }
        Ok(())
    }
}

/// How many connections may be open: those of all listeners that share it. A clone is the same one.
#[derive(Clone, Debug)]
pub struct ConnectionLimit(Arc<Limit>);

#[derive(Debug)]
struct Limit {
    open: AtomicUsize,
    most: usize,
}

impl ConnectionLimit {
    /// A limit of so many.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Limit { open: AtomicUsize::new(0), most }))
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    fn admit(&self) -> Option<Admission> {
        let add = |open| (open < self.0.most).then_some(open + 1);
        let added = self.0.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.is_ok().then(|| Admission(Arc::clone(&self.0)))
    }
}

/// Counts one connection as open as long as it exists.
#[derive(Debug)]
struct Admission(Arc<Limit>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that is bound and listens; [`Context::listen`](crate::Context::listen) begins to take
/// its connections.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    local: SocketAddr,
    limit: ConnectionLimit,
}

/// An address could not be listened on.
#[derive(Debug, Error)]
#[error("listening on {address}: {step} was refused: {source}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What was refused.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

impl Listener {
    /// Binds an address and listens on it; port 0 is one that is free. `backlog` connections may
    /// wait to be taken. A socket on an IPv6 address takes no IPv4, whatever the sysctl says.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: the address is in use, is not of this machine, needs a privilege.
    pub fn bind(
        address: SocketAddr,
        backlog: i32,
        limit: &ConnectionLimit,
    ) -> Result<Self, ListenError> {
        let refused = |step| {
            move |error: rustix::io::Errno| ListenError { address, step, source: error.into() }
        };
        let fd = tcp_socket(address).map_err(refused("making a socket"))?;
        sockopt::set_socket_reuseaddr(&fd, true).map_err(refused("setting SO_REUSEADDR"))?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, true).map_err(refused("setting IPV6_V6ONLY"))?;
        }
        bind(&fd, &address).map_err(refused("binding"))?;
        listen(&fd, backlog).map_err(refused("listening"))?;
        let local = getsockname(&fd).and_then(SocketAddr::try_from);
        let local = local.map_err(refused("asking for its address"))?;
        Ok(Self { fd, local, limit: limit.clone() })
    }

    /// As [`Listener::bind`], and tries again for as long as `wait` while the address is in use. The
    /// sockets of a process that was killed last until the kernel has taken its rings down, which is
    /// a moment after its end.
    ///
    /// # Errors
    ///
    /// As [`Listener::bind`].
    pub fn bind_within(
        address: SocketAddr,
        backlog: i32,
        limit: &ConnectionLimit,
        wait: Duration,
    ) -> Result<Self, ListenError> {
        let mut in_use = None;
        let listener = patience::until(wait, || match Self::bind(address, backlog, limit) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => {
                in_use = Some(error);
                Ok(None)
            }
            Err(error) => Err(error),
        })?;
        listener.ok_or_else(|| in_use.expect("it was attempted, and was in use"))
    }

    /// The address that it is bound to, with its port.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

/// A connection that is on no loop: it travels in messages, and is [adopted] on one.
///
/// [adopted]: crate::Context::adopt
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    admission: Option<Admission>,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Connection {
    fn new(fd: OwnedFd, admission: Option<Admission>) -> io::Result<Self> {
        let local = SocketAddr::try_from(getsockname(&fd)?)?;
        let peer = getpeername(&fd)?.ok_or(rustix::io::Errno::NOTCONN)?;
        Ok(Self { fd, admission, local, peer: SocketAddr::try_from(peer)? })
    }

    /// The address on this side: the one that the peer reached.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl TryFrom<TcpStream> for Connection {
    type Error = io::Error;

    /// # Errors
    ///
    /// When the connection is gone.
    fn try_from(stream: TcpStream) -> io::Result<Self> {
        Self::new(stream.into(), None)
    }
}

/// A connection that was not adopted. It comes back as it was.
#[derive(Debug, Error)]
pub enum NotAdopted {
    /// As many sockets are open on this loop as may be.
    #[error("the event loop has no room for another socket")]
    Full(Connection),
    /// The kernel refuses one of the options.
    #[error("setting up the connection was refused: {1}")]
    Refused(Connection, #[source] io::Error),
}

/// A connection was not begun.
#[derive(Debug, Error)]
pub enum NotBegun {
    /// As many sockets are open on this loop as may be.
    #[error("the event loop has no room for another socket")]
    Full,
    /// The kernel refuses the socket or one of the options.
    #[error("setting up the connection was refused: {0}")]
    Refused(#[source] io::Error),
}

fn tcp_socket(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))
}

/// Has the next closing of the socket send a reset.
fn reset_on_close(socket: impl AsFd) {
    // Refused for a socket that is broken already; then there is nothing to reset.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

// Miri has no sockets.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_a_connection_are_set() {
        let second = Duration::from_secs(1);
        let options = SocketOptions {
            keepalive: Some(Keepalive { idle: 5 * second, interval: 2 * second, probes: 3 }),
            user_timeout: Some(Duration::from_millis(1500)),
            kernel_send_bytes: Some(16 << 10),
            kernel_receive_bytes: Some(32 << 10),
            ..SocketOptions::default()
        };
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let socket = tcp_socket(any).expect("a socket");
        fcntl_setfl(&socket, OFlags::NONBLOCK).expect("it can be set");
        options.apply(&socket).expect("the kernel knows them all");
        assert!(!fcntl_getfl(&socket).expect("it can be asked").contains(OFlags::NONBLOCK));
        assert!(sockopt::tcp_nodelay(&socket).expect("it can be asked"));
        assert!(sockopt::socket_keepalive(&socket).expect("it can be asked"));
        assert_eq!(sockopt::tcp_keepidle(&socket), Ok(5 * second));
        assert_eq!(sockopt::tcp_keepintvl(&socket), Ok(2 * second));
        assert_eq!(sockopt::tcp_keepcnt(&socket), Ok(3));
        assert_eq!(sockopt::tcp_user_timeout(&socket), Ok(1500));
        // The kernel doubles what it is told, for what it needs beside the bytes.
        assert_eq!(sockopt::socket_send_buffer_size(&socket), Ok(32 << 10));
        assert_eq!(sockopt::socket_recv_buffer_size(&socket), Ok(64 << 10));
    }

    #[test]
    fn what_cannot_be_listened_on_is_told_with_the_address() {
        let limit = ConnectionLimit::new(1);
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = Listener::bind(any, 1, &limit).expect("a free port");
        let error = Listener::bind(first.local(), 1, &limit).expect_err("it is in use");
        let text = error.to_string();
        assert!(text.starts_with(&format!("listening on {}: binding", first.local())), "{text}");
        let again = Listener::bind_within(first.local(), 1, &limit, Duration::ZERO);
        assert_eq!(again.expect_err("it is in use").to_string(), text);
        let foreign = "192.0.2.1:4420".parse().expect("an address");
        let error = Listener::bind(foreign, 1, &limit).expect_err("no machine has it");
        assert_eq!(error.source.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }

    #[test]
    fn an_address_that_is_let_go_of_in_time_is_taken() {
        let limit = ConnectionLimit::new(1);
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = Listener::bind(any, 1, &limit).expect("a free port");
        let address = first.local();
        let second = std::thread::spawn(move || {
            Listener::bind_within(address, 1, &limit, Duration::from_secs(60))
        });
        drop(first);
        let second = second.join().expect("it does not panic").expect("it is free in the end");
        assert_eq!(second.local(), address);
    }
}
