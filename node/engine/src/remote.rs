//! A namespace of another node, reached over NVMe/TCP: the host of `node/host` on the sockets of a
//! loop.
//!
//! ```text
//!   an actor --submit--> RemoteNamespace --> Host --> Send --> sockets
//!            <--poll----                 <--      <-- Received
//! ```
//!
//! It is a part of an actor, not one itself: whoever has requests for a remote namespace calls it,
//! so that a request costs no message. Its actor gives it the events that carry its token, and then
//! asks [`RemoteNamespace::poll`] until there is nothing.
//!
//! - What is to be written is sent from where it lies. What is read is copied once, from what the
//!   loop received to its place.
//! - A connection on which much waits is given nothing more until that has left; the others go on.
//! - It waits for nothing without a deadline: the host has one for each step and each command.
//! - All of an association's queues live on the actor's loop. Who wants more loops makes one on
//!   each.
//!
//! Before it: whoever uses the namespace. After it: the loop's sockets.

use std::{mem, net::SocketAddr, time::Duration};

use fathom_block::{self as block, Request, RequestId};
use fathom_host::{
    Action, AssociationId, Config, ConnectionId, DataDigest, Event, Header, Host, Payload,
    Received, Refused,
};
use fathom_nvme::Status;
use fathom_runtime::{
    Buffer, Context, Message, Slice, TimerKey,
    net::{Close, Flow, SocketEvent, SocketKey, SocketOptions},
};
use fathom_units::{Monotonic, Qid};

/// How long the last bytes of a connection that is closed may take to leave.
const LINGER: Duration = Duration::from_secs(2);
/// In a token, below the actor's own part: which connection, or this, which is the timer.
const TIMER: u64 = 0xFFFF_FFFF;

/// The bytes of a request, which are here until it is completed.
#[derive(Default, Debug)]
pub enum Data {
    /// There are none. Those that a read brings are dropped.
    #[default]
    None,
    /// What is read is put there.
    Into(Buffer),
    /// This is written, or compared.
    From(Slice),
}

/// Something that the actor is told.
#[derive(Debug)]
pub enum Happened {
    /// A request has ended.
    Completed(Completed),
    /// What the host says.
    Event(Event),
}

/// A request that has ended.
#[derive(Debug)]
pub struct Completed {
    /// The request.
    pub id: RequestId,
    /// Done, or why not.
    pub result: Result<(), block::Error>,
    /// The status with which the controller has failed it, if it did.
    pub status: Option<Status>,
    /// Its bytes. Of what was read, all are there when the result is good.
    pub data: Data,
}

/// How a namespace is reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the host is told.
    pub host: Config,
    /// The controller's address.
    pub address: SocketAddr,
    /// How its connections are set up.
    pub sockets: SocketOptions,
    /// The upper half of the tokens of its sockets and its timer: its actor's name for it.
    pub token: u32,
    /// The requests that it is given have identifiers below this.
    pub requests: usize,
}

/// A connection of the association that is now.
struct Link {
    socket: SocketKey,
    is_open: bool,
}

/// A namespace that is reached over NVMe/TCP.
pub struct RemoteNamespace {
    host: Host,
    address: SocketAddr,
    options: SocketOptions,
    token: u64,
    connect_timeout: Duration,
    association: AssociationId,
    /// By the number of the queue.
    links: Vec<Option<Link>>,
    /// By the identifier of the request.
    memory: Vec<Data>,
    timer: Option<(Monotonic, TimerKey)>,
    /// Sockets that are not closed yet, of earlier associations too.
    sockets: usize,
    cause: Option<String>,
}

impl RemoteNamespace {
    /// Begins to set up the first association, with the next [`RemoteNamespace::poll`].
    ///
    /// # Errors
    ///
    /// What [`Config::check`] says.
    pub fn start(options: Options, now: Monotonic) -> Result<Self, &'static str> {
        let connect_timeout = options.host.setup_timeout;
        let mut host = Host::new(options.host)?;
        host.start(now);
        Ok(Self {
            host,
            address: options.address,
            options: options.sockets,
            token: u64::from(options.token) << 32,
            connect_timeout,
            association: AssociationId(0),
            links: Vec::new(),
            memory: (0..options.requests).map(|_| Data::None).collect(),
            timer: None,
            sockets: 0,
            cause: None,
        })
    }

    // What the actor wants.

    /// The host, to be asked, and to be told of fences and of the end.
    pub fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    /// Asks for a request to be done.
    ///
    /// # Errors
    ///
    /// The host's refusal, with the bytes.
    ///
    /// # Panics
    ///
    /// When its identifier is too large or that of a request that is not completed; when a write
    /// comes without its bytes.
    pub fn submit(
        &mut self,
        now: Monotonic,
        request: Request,
        data: Data,
    ) -> Result<(), (Refused, Data)> {
        let place = place(request.id);
        assert!(matches!(self.memory[place], Data::None), "the identifier is in use");
        match self.host.submit(now, request) {
            Ok(()) => {
                self.memory[place] = data;
                Ok(())
            }
            Err(refused) => Err((refused, data)),
        }
    }

    /// Why a connection could not be made or was lost last, in words of the kernel.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// How many connections for I/O the association has.
    pub fn io_queues(&self) -> usize {
        self.links.iter().skip(1).flatten().filter(|link| link.is_open).count()
    }

    /// Whether every socket that it ever had is closed.
    pub fn is_closed(&self) -> bool {
        self.sockets == 0
    }

    // What the loop tells.

    /// A socket whose token is one of this namespace has something.
    pub fn socket_event<M: Message>(
        &mut self,
        token: u64,
        event: SocketEvent,
        context: &mut Context<'_, M>,
    ) {
        let now = context.now();
        if matches!(event, SocketEvent::Closed(_)) {
            self.sockets -= 1;
        }
        let connection = self.connection_of(token);
        let Some(link) = self.link(connection) else { return };
        match event {
            SocketEvent::Connected { .. } => {
                link.is_open = true;
                self.host.opened(now, connection);
            }
            SocketEvent::Received(slice) => self.receive(now, connection, &slice),
            SocketEvent::Drained => self.host.resume(connection),
            SocketEvent::EndOfStream => {
                let socket = link.socket;
                self.links[usize::from(connection.queue.0)] = None;
                context.close(socket, Close::Gracefully { by: now + LINGER });
                self.cause = Some("the controller has closed the connection".to_owned());
                self.host.closed(now, connection);
            }
            SocketEvent::Closed(result) => {
                self.links[usize::from(connection.queue.0)] = None;
                if let Err(errno) = result {
                    self.cause = Some(errno.to_string());
                }
                self.host.closed(now, connection);
            }
            SocketEvent::Filled(_) | SocketEvent::Accepted(_) | SocketEvent::NotAccepted(_) => {
                unreachable!("nobody has asked for it")
            }
        }
    }

    /// The timer has fired whose token is one of this namespace.
    pub fn elapsed(&mut self, now: Monotonic) {
        self.timer = None;
        self.host.elapsed(now);
    }

    /// Does what there is to do, up to the next thing that the actor is to be told.
    pub fn poll<M: Message>(&mut self, context: &mut Context<'_, M>) -> Option<Happened> {
        while let Some(action) = self.host.poll() {
            match action {
                Action::Send { connection, header, payload, digest } => {
                    self.send(connection, &header, payload, digest, context);
                }
                Action::Complete(completion, status) => {
                    let data = mem::take(&mut self.memory[place(completion.id)]);
                    let block::Completion { id, result } = completion;
                    let completed = Completed { id, result, status, data };
                    return Some(Happened::Completed(completed));
                }
                Action::Event(event) => return Some(Happened::Event(event)),
                Action::Open(connection) => self.open(connection, context),
                Action::Close(connection) => self.close(connection, context),
            }
        }
        self.set_timer(context);
        None
    }

    // Connections.

    /// The token of a connection: the actor's part, 16 bits of the association, the queue.
    fn token_of(&self, connection: ConnectionId) -> u64 {
        let association = (connection.association.0 & 0xFFFF) << 16;
        self.token | association | u64::from(connection.queue.0)
    }

    /// The connection of a token, as one of the association that is now.
    fn connection_of(&self, token: u64) -> ConnectionId {
        let [low, high, ..] = token.to_le_bytes();
        let queue = Qid(u16::from_le_bytes([low, high]));
        let connection = ConnectionId { association: self.association, queue };
        if self.token_of(connection) == token {
            return connection;
        }
        // One of an earlier association, which nobody looks for any more.
        ConnectionId { association: AssociationId(0), queue }
    }

    fn link(&mut self, connection: ConnectionId) -> Option<&mut Link> {
        let is_now = connection.association == self.association;
        self.links.get_mut(usize::from(connection.queue.0)).filter(|_| is_now)?.as_mut()
    }

    fn open<M: Message>(&mut self, connection: ConnectionId, context: &mut Context<'_, M>) {
        if connection.association != self.association {
            self.association = connection.association;
            self.links.clear();
        }
        let (by, token) = (context.now() + self.connect_timeout, self.token_of(connection));
        let queue = usize::from(connection.queue.0);
        if self.links.len() <= queue {
            self.links.resize_with(queue + 1, || None);
        }
        match context.connect(self.address, &self.options, by, token) {
            Ok(socket) => {
                self.sockets += 1;
                self.links[queue] = Some(Link { socket, is_open: false });
            }
            Err(error) => {
                self.cause = Some(error.to_string());
                self.host.closed(context.now(), connection);
            }
        }
    }

    fn close<M: Message>(&mut self, connection: ConnectionId, context: &mut Context<'_, M>) {
        if self.link(connection).is_none() {
            return;
        }
        if let Some(link) = self.links[usize::from(connection.queue.0)].take() {
            let how = match link.is_open {
                true => Close::Gracefully { by: context.now() + LINGER },
                false => Close::Reset,
            };
            context.close(link.socket, how);
        }
    }

    fn set_timer<M: Message>(&mut self, context: &mut Context<'_, M>) {
        let Some(deadline) = self.host.deadline() else { return };
        // One that fires too early costs a look; so it is not moved when the deadline is.
        if self.timer.is_some_and(|(at, _)| at <= deadline) {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            context.cancel_timer(timer);
        }
        let timer = context.set_timer(deadline, self.token | TIMER);
        self.timer = timer.map(|timer| (deadline, timer));
    }

    // Bytes.

    fn receive(&mut self, now: Monotonic, connection: ConnectionId, mut bytes: &[u8]) {
        while let Received::Data { id, offset, bytes: data, rest } =
            self.host.receive(now, connection, bytes)
        {
            if let Data::Into(buffer) = &mut self.memory[place(id)] {
                let start = usize::try_from(offset).expect("it lies in the buffer");
                buffer[start..start + data.len()].copy_from_slice(data);
            }
            bytes = rest;
        }
    }

    fn send<M: Message>(
        &mut self,
        connection: ConnectionId,
        header: &Header,
        payload: Option<Payload>,
        digest: bool,
        context: &mut Context<'_, M>,
    ) {
        let Some(socket) = self.link(connection).map(|link| link.socket) else { return };
        let mut flow = context.send_bytes(socket, header.as_bytes());
        let mut sum = DataDigest::new();
        match payload {
            None => {}
            Some(Payload::Own(bytes)) => {
                if digest {
                    sum.update(&bytes);
                }
                flow = context.send_bytes(socket, &bytes);
            }
            Some(Payload::Request { id, offset, length }) => {
                let Data::From(all) = &self.memory[place(id)] else {
                    panic!("a write comes with its bytes")
                };
                let mut part = all.clone();
                part.advance(usize::try_from(offset).expect("it lies in the slice"));
                part.truncate(length as usize);
                if digest {
                    sum.update(&part);
                }
                flow = context.send_slice(socket, part);
            }
        }
        if digest {
            flow = context.send_bytes(socket, &sum.to_bytes());
        }
        // A socket that cannot send tells its end by itself.
        if let Ok(Flow::High) = flow {
            self.host.pause(connection);
        }
    }
}

/// Where a request's bytes are.
fn place(id: RequestId) -> usize {
    usize::try_from(id.0).expect("identifiers are below the number of requests")
}
