//! The association: its connections, its requests, and what happens when it is lost.
//!
//! ```text
//!               start                     all I/O queues connected
//!   Idle ------------------> SettingUp ------------------------------> Live
//!                             ^     |                                 |   |
//!       reconnect_delay over  |     | error                     error |   | shut_down
//!                             |     v                                 |   v
//!                            Waiting <--------------------------------+  ShuttingDown
//!                             |                                           |  done, late or error
//!                             | give_up over, or the error is final       |
//!                             v                                           v
//!                            Ended <--------------------------------------+
//! ```
//!
//! On an error every connection is closed, after H2CTermReq on the one where the controller broke
//! the rules. Then, of the requests that had commands under way:
//!
//! | request | what becomes of it |
//! |---|---|
//! | Read, Compare, Flush | waits for the next association, and is begun anew there |
//! | Write, Write Zeroes, Deallocate | waits until the old association is fenced, and then likewise |
//! | Compare and Write | waits until then, and ends with [`fathom_block::Error::NotReady`]: nobody can tell whether it was done, and twice is not once |
//!
//! - A change that is submitted while another waits to be fenced waits behind it: on the new
//!   association it could be overtaken by what is left of the old one.
//! - A read that overlaps such a change waits behind it, too.
//! - Flush is begun anew because it concerns what was acknowledged, on whichever association.
//! - With [`Host::give_up`] or in Ended, what need not be fenced ends with `NotReady` at once, and
//!   the rest when it is fenced.

mod admin;
mod requests;

use std::collections::VecDeque;

use fathom_block::{Operation, Request, RequestId};
use fathom_units::{BlockCount, Lba, Monotonic, Qid};
use slab::Slab;

use crate::{
    action::{Action, AssociationId, ConnectionId, Event, Header, Payload, Received, Refused},
    config::{ADMIN_QUEUE_ENTRIES, Config, Purpose},
    error::Error,
    queue::{Input, Outgoing, Queue},
    request::{Pending, Piece, Span, Work},
    setup::{ANSWER_MAX, Namespace, Session, Step, connect},
};

/// A late command is looked for so often in the time that it may take.
const LOOKS: u32 = 8;
/// The in-capsule data of admin and Fabrics commands (TCP 3.3.1).
const ADMIN_CAPSULE_DATA: u32 = fathom_nvme::tcp::ADMIN_CAPSULE_DATA_MAX;

/// For whom a command is under way.
#[derive(Clone, Copy)]
enum Token {
    Piece(Piece),
    Step,
    IoConnect,
    KeepAlive,
    EventRequest,
}

enum Link {
    Opening,
    Up(Box<Queue<Token>>),
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    /// Until then, a step has to end. With a step none, I/O queues are being connected.
    SettingUp {
        deadline: Monotonic,
    },
    Live,
    Waiting {
        until: Monotonic,
    },
    ShuttingDown {
        deadline: Monotonic,
    },
    Ended,
}

/// A change that waits to be fenced, or behind one that does.
struct Unfenced {
    key: usize,
    /// Commands of it were under way in this association.
    association: Option<AssociationId>,
}

/// A request of which commands have been begun and that is not completed.
struct Active {
    key: usize,
    span: Span,
}

/// Events that are to be looked after, one at a time.
#[derive(Clone, Copy, Default)]
struct Jobs {
    namespaces: bool,
    ana: bool,
    discovery: bool,
}

/// An NVMe/TCP host with one association at a time.
pub struct Host {
    config: Config,
    state: State,
    association: AssociationId,
    links: Vec<Link>,
    session: Session,
    step: Option<Step>,
    /// When the step is to be asked again.
    poll_at: Option<Monotonic>,
    answer: Box<[u8; ANSWER_MAX]>,
    own: Vec<u8>,
    connected_queues: u16,
    jobs: Jobs,
    namespace: Option<Namespace>,
    requests: Slab<Pending>,
    waiting: VecDeque<usize>,
    active: Vec<Active>,
    unfenced: VecDeque<Unfenced>,
    next_queue: usize,
    next_poll: usize,
    keep_alive_at: Monotonic,
    keep_alive_under_way: bool,
    look_at: Monotonic,
    lost_at: Option<Monotonic>,
    last_error: Option<Error>,
    actions: VecDeque<Action>,
}

impl Host {
    /// A host that has not been started.
    ///
    /// # Errors
    ///
    /// What [`Config::check`] says.
    pub fn new(config: Config) -> Result<Self, &'static str> {
        config.check()?;
        let start = Monotonic(0);
        Ok(Self {
            config,
            state: State::Idle,
            association: AssociationId(0),
            links: Vec::new(),
            session: Session::new(),
            step: None,
            poll_at: None,
            answer: Box::new([0; ANSWER_MAX]),
            own: Vec::new(),
            connected_queues: 0,
            jobs: Jobs::default(),
            namespace: None,
            requests: Slab::new(),
            waiting: VecDeque::new(),
            active: Vec::new(),
            unfenced: VecDeque::new(),
            next_queue: 0,
            next_poll: 0,
            keep_alive_at: start,
            keep_alive_under_way: false,
            look_at: start,
            lost_at: None,
            last_error: None,
            actions: VecDeque::new(),
        })
    }

    // What the driver says.

    /// Begins the first association.
    ///
    /// # Panics
    ///
    /// When it has been begun before.
    pub fn start(&mut self, now: Monotonic) {
        assert!(self.state == State::Idle, "a host is started once");
        self.lost_at = Some(now);
        self.begin_association(now);
    }

    /// A connection is open.
    pub fn opened(&mut self, now: Monotonic, connection: ConnectionId) {
        let entries =
            if connection.queue.is_admin() { ADMIN_QUEUE_ENTRIES } else { self.io_entries() };
        let capsule = if connection.queue.is_admin() {
            ADMIN_CAPSULE_DATA
        } else {
            self.session.capsule_data_max()
        };
        let queue = Queue::new(connection.queue, entries, capsule, &self.config);
        if let Some(link @ Link::Opening) = self.link(connection) {
            *link = Link::Up(Box::new(queue));
            self.extend_deadline(now);
        }
    }

    /// A connection could not be opened, or was closed or lost.
    pub fn closed(&mut self, now: Monotonic, connection: ConnectionId) {
        if self.link(connection).is_some() {
            self.lose(now, Error::Closed(connection.queue));
        }
    }

    /// Bytes have come on a connection. They are taken in steps: see [`Received`].
    pub fn receive<'a>(
        &mut self,
        now: Monotonic,
        connection: ConnectionId,
        mut bytes: &'a [u8],
    ) -> Received<'a> {
        loop {
            let Some(Link::Up(queue)) = self.link(connection) else { return Received::Done };
            match queue.receive(bytes) {
                Err(error) => {
                    self.lose(now, error);
                    return Received::Done;
                }
                Ok((input, rest)) => {
                    bytes = rest;
                    match input {
                        Input::Nothing => return Received::Done,
                        Input::Data { token: Token::Piece(piece), offset, bytes } => {
                            let id = self.requests[piece.key].request.id;
                            let offset = piece.data_offset + u64::from(offset);
                            return Received::Data { id, offset, bytes, rest };
                        }
                        Input::Data { offset, bytes, .. } => {
                            // Only steps ask for data beside requests.
                            let at = offset as usize;
                            self.answer[at..at + bytes.len()].copy_from_slice(bytes);
                        }
                        Input::Initialized => self.initialized(now, connection.queue),
                        Input::Completed { token, completion } => {
                            let qid = connection.queue;
                            if let Err(error) = self.completed(now, qid, token, &completion) {
                                self.lose(now, error);
                                return Received::Done;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Much waits to be sent on a connection: [`Action::Send`] names it no more until
    /// [`Host::resume`], but to end it.
    pub fn pause(&mut self, connection: ConnectionId) {
        if let Some(Link::Up(queue)) = self.link(connection) {
            queue.set_paused(true);
        }
    }

    /// Little waits to be sent on a connection.
    pub fn resume(&mut self, connection: ConnectionId) {
        if let Some(Link::Up(queue)) = self.link(connection) {
            queue.set_paused(false);
        }
    }

    /// Asks for a request to be done. Its bytes stay where they are until it is completed.
    ///
    /// # Errors
    ///
    /// [`Refused`], with the request.
    pub fn submit(&mut self, now: Monotonic, request: Request) -> Result<(), Refused> {
        self.accept(now, request, Work::Block(request.operation))
    }

    /// Asks for a range to be deallocated (Dataset Management). It may read as anything that the
    /// namespace says until it is written again.
    ///
    /// # Errors
    ///
    /// [`Refused`], with a request for Write Zeroes of this range.
    pub fn deallocate(
        &mut self,
        now: Monotonic,
        id: RequestId,
        lba: Lba,
        blocks: BlockCount,
    ) -> Result<(), Refused> {
        let request = Request { id, operation: Operation::WriteZeroes, lba, blocks };
        self.accept(now, request, Work::Deallocate)
    }

    /// No request of this association, or an earlier one, can reach the medium any more: what
    /// waited for that goes on.
    ///
    /// It is for the driver to know: the target said so, or the association has expired
    /// ([`Event::Lost`]), or the namespace has been taken from this host and given back.
    ///
    /// # Panics
    ///
    /// When the association is not lost.
    pub fn fenced(&mut self, now: Monotonic, association: AssociationId) {
        let is_now = association == self.association
            && matches!(
                self.state,
                State::Live | State::SettingUp { .. } | State::ShuttingDown { .. }
            );
        assert!(association <= self.association && !is_now, "the association is not lost");
        for waiting in &mut self.unfenced {
            if waiting.association.is_some_and(|lost| lost <= association) {
                waiting.association = None;
            }
        }
        self.release(now);
    }

    /// Shuts the controller down and ends the association. Requests that are not completed end
    /// with an error, as on a loss.
    pub fn shut_down(&mut self, now: Monotonic) {
        match self.state {
            State::Live => {
                self.state = State::ShuttingDown { deadline: now + self.config.setup_timeout };
                if self.step.is_none() {
                    self.begin_step(now, Step::Shutdown);
                }
            }
            State::Ended | State::ShuttingDown { .. } => {}
            State::Idle | State::SettingUp { .. } | State::Waiting { .. } => {
                self.close_all(None);
                self.end(None);
            }
        }
    }

    /// Ends without another association. What need not be fenced is completed.
    pub fn give_up(&mut self, now: Monotonic) {
        if matches!(self.state, State::Live | State::SettingUp { .. } | State::ShuttingDown { .. })
        {
            self.state = State::ShuttingDown { deadline: now };
            self.lose(now, Error::GivenUp);
        } else if self.state != State::Ended {
            self.end(None);
        }
    }

    /// The time has come that [`Self::deadline`] has told, or any other.
    pub fn elapsed(&mut self, now: Monotonic) {
        match self.state {
            State::Waiting { until } if now >= until => {
                let since = self.lost_at.unwrap_or(now);
                if self.config.give_up.is_some_and(|limit| now.since(since) >= limit) {
                    self.end(self.last_error);
                } else {
                    self.begin_association(now);
                }
                return;
            }
            State::SettingUp { deadline } | State::ShuttingDown { deadline } if now >= deadline => {
                let error = match self.step {
                    Some(Step::Ready) => Error::NotReady,
                    _ => Error::SetupTimeout,
                };
                self.lose(now, error);
                return;
            }
            State::Idle | State::Ended | State::Waiting { .. } => return,
            _ => {}
        }
        if self.poll_at.is_some_and(|at| now >= at) {
            self.poll_at = None;
            let step = self.step.expect("a step that is polled");
            self.begin_step(now, step);
        }
        if now >= self.look_at {
            self.look_at = now + self.config.command_timeout / LOOKS;
            if let Some(queue) = self.late_queue(now) {
                self.lose(now, Error::CommandTimeout(queue));
                return;
            }
        }
        if self.session.controller.is_some() && now >= self.keep_alive_at {
            self.keep_alive(now);
        }
    }

    /// When [`Self::elapsed`] is to be called, at the latest; none when nothing waits for time.
    pub fn deadline(&self) -> Option<Monotonic> {
        match self.state {
            State::Idle | State::Ended => None,
            State::Waiting { until } => Some(until),
            State::Live => Some(self.running_deadline()),
            State::SettingUp { deadline } | State::ShuttingDown { deadline } => {
                Some(deadline.min(self.running_deadline()))
            }
        }
    }

    fn running_deadline(&self) -> Monotonic {
        let mut next = self.look_at;
        if self.session.controller.is_some() {
            next = next.min(self.keep_alive_at);
        }
        self.poll_at.map_or(next, |at| next.min(at))
    }

    /// What is to be done next. To be asked until there is nothing, after anything was said.
    pub fn poll(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        let count = self.links.len();
        for step in 0..count {
            let number = (self.next_poll + step) % count;
            let Link::Up(queue) = &mut self.links[number] else { continue };
            if queue.is_paused() {
                continue;
            }
            let Some(outgoing) = queue.next() else { continue };
            let digest = queue.has_data_digest();
            self.next_poll = number;
            let queue = Qid(u16::try_from(number).expect("at most 129 queues"));
            let connection = ConnectionId { association: self.association, queue };
            return Some(self.send(connection, outgoing, digest));
        }
        None
    }

    /// The namespace as it was told last; none before the host was live.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// How many requests are not completed.
    pub fn outstanding(&self) -> usize {
        self.requests.len()
    }

    // Connections.

    fn link(&mut self, connection: ConnectionId) -> Option<&mut Link> {
        if connection.association != self.association {
            return None;
        }
        let link = self.links.get_mut(usize::from(connection.queue.0))?;
        if matches!(link, Link::Closed) { None } else { Some(link) }
    }

    fn admin(&mut self) -> &mut Queue<Token> {
        match self.links.first_mut() {
            Some(Link::Up(queue)) => queue,
            _ => unreachable!("admin commands follow the opening of the admin queue"),
        }
    }

    fn io_entries(&self) -> u32 {
        match self.config.purpose {
            Purpose::Io { entries, .. } => self.session.queue_entries(entries),
            Purpose::Discovery => 2,
        }
    }

    fn begin_association(&mut self, now: Monotonic) {
        self.association.0 += 1;
        self.session = Session::new();
        self.step = None;
        self.poll_at = None;
        self.jobs = Jobs::default();
        self.connected_queues = 0;
        self.keep_alive_under_way = false;
        self.look_at = now + self.config.command_timeout / LOOKS;
        self.state = State::SettingUp { deadline: now + self.config.setup_timeout };
        self.links = Vec::new();
        self.open(Qid::ADMIN);
    }

    fn open(&mut self, queue: Qid) {
        self.links.push(Link::Opening);
        let connection = ConnectionId { association: self.association, queue };
        self.actions.push_back(Action::Open(connection));
    }

    fn extend_deadline(&mut self, now: Monotonic) {
        if let State::SettingUp { deadline } = &mut self.state {
            *deadline = now + self.config.setup_timeout;
        }
    }

    fn initialized(&mut self, now: Monotonic, queue: Qid) {
        if queue.is_admin() {
            self.begin_step(now, Step::Connect);
            return;
        }
        let entries = self.io_entries();
        let controller = self.session.controller.expect("connected before its I/O queues");
        let (entry, transfer, data) = connect(&self.config, queue, entries, controller);
        // Every I/O queue connects with the same data.
        self.own = data;
        if let Some(Link::Up(queue)) = self.links.get_mut(usize::from(queue.0)) {
            queue.begin(Token::IoConnect, entry, transfer, Some(now));
        }
    }

    fn send(&self, connection: ConnectionId, outgoing: Outgoing<Token>, digest: bool) -> Action {
        let (header, payload) = match outgoing {
            Outgoing::Header(header, length) => (Header::new(&header[..length]), None),
            Outgoing::Terminate(pdu, length) => (Header::new(&pdu[..length]), None),
            Outgoing::Data { header, header_length, token, offset, length } => {
                (Header::new(&header[..header_length]), Some(self.payload(token, offset, length)))
            }
        };
        let digest = digest && payload.is_some();
        Action::Send { connection, header, payload, digest }
    }

    fn payload(&self, token: Token, offset: u32, length: u32) -> Payload {
        match token {
            Token::Piece(piece) => match piece.range {
                Some(range) => Payload::Own(range.to_vec()),
                None => Payload::Request {
                    id: self.requests[piece.key].request.id,
                    offset: piece.data_offset + u64::from(offset),
                    length,
                },
            },
            _ => {
                let range = offset as usize..offset as usize + length as usize;
                Payload::Own(self.own[range].to_vec())
            }
        }
    }

    // Losing an association.

    pub(super) fn late_queue(&self, now: Monotonic) -> Option<Qid> {
        let limit =
            now.0.checked_sub(u64::try_from(self.config.command_timeout.as_nanos()).ok()?)?;
        let late = self.links.iter().position(|link| match link {
            Link::Up(queue) => queue.has_late(Monotonic(limit)),
            _ => false,
        });
        late.map(|number| Qid(u16::try_from(number).expect("at most 129 queues")))
    }

    pub(super) fn lose(&mut self, now: Monotonic, error: Error) {
        let was_ending = matches!(self.state, State::ShuttingDown { .. });
        let closed = match error {
            Error::Closed(queue) => Some(queue),
            _ => None,
        };
        self.close_all(closed);
        let unfenced = self.lose_requests();
        // What was on its way has arrived by now or never will, since the connections are closed;
        // a controller that counts any command as a sign of life looks once in KATO (Base 3.9).
        let expires = now + self.config.keep_alive * 2;
        self.last_error = Some(error);
        let association = self.association;
        let lost = Event::Lost { association, error, unfenced, expires };
        self.actions.push_back(Action::Event(lost));
        let since = *self.lost_at.get_or_insert(now);
        let too_long = self.config.give_up.is_some_and(|limit| now.since(since) >= limit);
        if was_ending {
            self.end(None);
        } else if error.is_final() || too_long {
            self.end(Some(error));
        } else {
            self.state = State::Waiting { until: now + self.config.reconnect_delay };
        }
    }

    /// Closes every connection, after what a violation makes it say, but the one that is `closed`.
    pub(super) fn close_all(&mut self, closed: Option<Qid>) {
        self.step = None;
        self.poll_at = None;
        for number in 0..self.links.len() {
            let queue = Qid(u16::try_from(number).expect("at most 129 queues"));
            let connection = ConnectionId { association: self.association, queue };
            if closed == Some(queue) {
                continue;
            }
            match &mut self.links[number] {
                Link::Closed => continue,
                Link::Opening => {}
                Link::Up(queue) => {
                    if let Some(Outgoing::Terminate(pdu, length)) = queue.last_words() {
                        let header = Header::new(&pdu[..length]);
                        let (payload, digest) = (None, false);
                        let send = Action::Send { connection, header, payload, digest };
                        self.actions.push_back(send);
                    }
                }
            }
            self.actions.push_back(Action::Close(connection));
        }
    }
}
