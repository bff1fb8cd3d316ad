//! The sockets of one loop: what each is at, what it has under way, and what it tells.
//!
//! ```text
//!   listen --> Listening --------------------------------+
//!   connect -> Connecting --> Open --close--> Draining   | error, close
//!   adopt ---------------------^  |              |       v
//!                                 +--------------+--> Ending --> Closed, its place is free
//! ```
//!
//! - What happens to a socket changes its state only; once a turn, [`Sockets::settle`] begins what
//!   follows from it. So a socket that is paused and resumed in one turn costs nothing, and all that
//!   is sent in a turn leaves with one `sendmsg`.
//! - In Ending everything is cancelled. The place is free and the descriptor closed when nothing is
//!   under way any more.
//! - Sockets that find no chunk wait in line. When chunks are there, as many of them are let go on as
//!   there are chunks, the longest waiting first; who takes more than its share comes to the end of
//!   the line.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use fathom_units::Monotonic;
use rustix::net::{Shutdown, SocketAddrAny, shutdown};

use super::{
    Admission, Close, Connection, ConnectionLimit, Flow, Listener, NotAccepted, NotAdopted,
    NotBegun, SendError, SocketEvent, SocketKey, SocketOptions,
    inbound::{Doing, Inbound, Step},
    outbound::{Outbound, Spare},
    reset_on_close, tcp_socket,
    traffic::Traffic,
};
use crate::{
    actor::ActorKey,
    core::Alarm,
    io::{Errno, IoKey},
    ring::{Outcome, Report, Ring},
    slice::Slice,
    timers::{TimerKey, Timers},
};

/// How long a listening socket that the kernel refuses waits before it asks again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

enum Stage {
    Listening {
        limit: ConnectionLimit,
        /// Why no connection could be taken last, until one is.
        refused: Option<NotAccepted>,
    },
    /// The address is here until the kernel is given it.
    Connecting(Option<Box<SocketAddrAny>>),
    Open,
    /// All that waits is being sent; then the peer's end is waited for.
    Draining {
        said_end: bool,
    },
    /// What is under way is being cancelled.
    Ending {
        why: Result<(), Errno>,
        cancelled: bool,
    },
}

struct Socket {
    owner: ActorKey,
    token: u64,
    fd: OwnedFd,
    /// Counts it as open until the descriptor is closed.
    admission: Option<Admission>,
    stage: Stage,
    /// An accept or connect; receives are in `inbound`, sends in `outbound`.
    setting_up: Option<IoKey>,
    inbound: Inbound,
    outbound: Outbound,
    events: VecDeque<SocketEvent>,
    /// When its stage is over in any case, and the timer that is set for it.
    deadline: Option<Monotonic>,
    timer: Option<(Monotonic, TimerKey)>,
    /// Whether it is in one of the lists of [`Sockets`].
    is_dirty: bool,
    has_events: bool,
    is_in_line: bool,
}

#[derive(Default)]
struct Place {
    generation: u32,
    socket: Option<Socket>,
}

pub(crate) struct Sockets {
    places: Vec<Place>,
    free: Vec<u32>,
    most: usize,
    /// Those for which something may have to be begun.
    dirty: Vec<u32>,
    /// Those that may have something to tell.
    telling: VecDeque<u32>,
    /// Those that wait for a chunk.
    line: VecDeque<u32>,
    starvations: u64,
    spare: Spare,
}

impl Sockets {
    pub(crate) fn new(most: u32) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            most: most as usize,
            dirty: Vec::new(),
            telling: VecDeque::new(),
            line: VecDeque::new(),
            starvations: 0,
            spare: Spare::default(),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// How often one found no chunk.
    pub(crate) fn starvations(&self) -> u64 {
        self.starvations
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.telling.is_empty()
    }

    /// Whether a turn has something to do here.
    pub(crate) fn has_work(&self, ring: &Ring) -> bool {
        let goes_on = !self.line.is_empty() && ring.has_chunks();
        goes_on || !self.dirty.is_empty() || self.has_events()
    }

    // Sockets come.

    fn has_room(&self) -> bool {
        self.count() < self.most
    }

    fn add(&mut self, socket: Socket) -> SocketKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("at most SOCKETS_MAX")
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.socket = Some(socket);
        let generation = place.generation;
        self.touch(index);
        SocketKey { index, generation }
    }

    pub(crate) fn listen(
        &mut self,
        (owner, token): (ActorKey, u64),
        listener: Listener,
    ) -> Result<SocketKey, Listener> {
        if !self.has_room() {
            return Err(listener);
        }
        let stage = Stage::Listening { limit: listener.limit, refused: None };
        Ok(self.add(Socket::new((owner, token), listener.fd, stage, 0)))
    }

    pub(crate) fn adopt(
        &mut self,
        owner: (ActorKey, u64),
        connection: Connection,
        options: &SocketOptions,
    ) -> Result<SocketKey, NotAdopted> {
        if !self.has_room() {
            return Err(NotAdopted::Full(connection));
        }
        if let Err(error) = options.apply(&connection.fd) {
            return Err(NotAdopted::Refused(connection, error));
        }
        let Connection { fd, admission, .. } = connection;
        let mut socket = Socket::new(owner, fd, Stage::Open, options.send_high_bytes);
        socket.admission = admission;
        Ok(self.add(socket))
    }

    pub(crate) fn connect(
        &mut self,
        owner: (ActorKey, u64),
        address: SocketAddr,
        options: &SocketOptions,
        by: Monotonic,
    ) -> Result<SocketKey, NotBegun> {
        if !self.has_room() {
            return Err(NotBegun::Full);
        }
        let fd = tcp_socket(address).map_err(|error| NotBegun::Refused(error.into()))?;
        options.apply(&fd).map_err(NotBegun::Refused)?;
        let stage = Stage::Connecting(Some(Box::new(address.into())));
        let mut socket = Socket::new(owner, fd, stage, options.send_high_bytes);
        socket.deadline = Some(by);
        Ok(self.add(socket))
    }

    // What actors want of them. A socket that is not there has told its end, or is about to.

    fn socket(&mut self, key: SocketKey) -> Option<&mut Socket> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation == key.generation { place.socket.as_mut() } else { None }
    }

    /// The socket, if it is open; it will be settled.
    fn touch_open(&mut self, key: SocketKey) -> Option<&mut Socket> {
        let is_open = matches!(self.socket(key)?.stage, Stage::Open);
        is_open.then(|| self.touch(key.index))?;
        self.socket(key)
    }

    pub(crate) fn pause(&mut self, key: SocketKey) {
        if let Some(socket) = self.touch_open(key) {
            socket.inbound.pause();
        }
    }

    pub(crate) fn resume(&mut self, key: SocketKey) {
        if let Some(socket) = self.touch_open(key) {
            socket.inbound.resume();
        }
    }

    pub(crate) fn put_back(&mut self, key: SocketKey, rest: Slice) {
        if let Some(socket) = self.touch_open(key) {
            socket.inbound.put_back(rest);
        }
    }

    pub(crate) fn fill(
        &mut self,
        key: SocketKey,
        buffer: crate::Buffer,
        range: std::ops::Range<usize>,
    ) {
        if let Some(socket) = self.touch_open(key) {
            socket.inbound.fill(buffer, range);
        }
    }

    pub(crate) fn send(&mut self, key: SocketKey, bytes: &[u8]) -> Result<Flow, SendError> {
        self.enqueue(key, |outbound, spare| outbound.copy(bytes, spare))
    }

    pub(crate) fn send_slice(&mut self, key: SocketKey, slice: Slice) -> Result<Flow, SendError> {
        self.enqueue(key, |outbound, spare| outbound.add(slice, spare))
    }

    fn enqueue(
        &mut self,
        key: SocketKey,
        put: impl FnOnce(&mut Outbound, &mut Spare) -> Result<Flow, SendError>,
    ) -> Result<Flow, SendError> {
        self.touch_open(key).ok_or(SendError::NotOpen)?;
        let socket = self.places[key.index as usize].socket.as_mut().expect("as just seen");
        let put = put(&mut socket.outbound, &mut self.spare);
        if put.is_err() {
            socket.end(Err(Errno(libc::ENOBUFS)), &mut self.spare);
        }
        put
    }

    pub(crate) fn unsent(&mut self, key: SocketKey) -> usize {
        self.socket(key).map_or(0, |socket| socket.outbound.unsent())
    }

    pub(crate) fn close(&mut self, key: SocketKey, how: Close) {
        if self.socket(key).is_none() {
            return;
        }
        self.touch(key.index);
        let socket = self.places[key.index as usize].socket.as_mut().expect("as just seen");
        match (how, &socket.stage) {
            (_, Stage::Ending { .. }) => {}
            (Close::Gracefully { by }, Stage::Open) => {
                socket.stage = Stage::Draining { said_end: false };
                socket.deadline = Some(by);
                socket.inbound.discard();
                socket.events.clear();
            }
            (Close::Gracefully { by }, Stage::Draining { .. }) => socket.deadline = Some(by),
            _ => socket.reset(Ok(()), &mut self.spare),
        }
    }

    /// Resets the sockets of an actor that is gone.
    pub(crate) fn abandon(&mut self, owner: ActorKey) {
        for index in 0..self.places.len() {
            let Some(socket) = &mut self.places[index].socket else { continue };
            if socket.owner == owner {
                socket.reset(Ok(()), &mut self.spare);
                self.touch(u32::try_from(index).expect("at most SOCKETS_MAX"));
            }
        }
    }

    fn touch(&mut self, index: u32) {
        let Some(socket) = &mut self.places[index as usize].socket else { return };
        if !std::mem::replace(&mut socket.is_dirty, true) {
            self.dirty.push(index);
        }
        self.tell(index);
    }

    fn tell(&mut self, index: u32) {
        let Some(socket) = &mut self.places[index as usize].socket else { return };
        if !std::mem::replace(&mut socket.has_events, true) {
            self.telling.push_back(index);
        }
    }

    // What the kernel did.

    /// Takes note of what has ended or come.
    pub(crate) fn report(&mut self, report: Report, now: Monotonic) {
        let Report { socket: key, result, ended } = report;
        let index = key.index;
        let socket = self.places[index as usize].socket.as_mut();
        // It stays as long as something of it is under way.
        let socket = socket.expect("what is under way belongs to a socket");
        match ended {
            Some(Traffic::Send(gather)) => socket.sent(gather, result, &mut self.spare),
            Some(Traffic::Connect(_)) => socket.connected(result, &mut self.spare),
            Some(Traffic::Accept) => {
                socket.setting_up = None;
                socket.accepted(result, now);
            }
            Some(Traffic::Fill(filling)) => {
                socket.inbound.doing = Doing::Nothing;
                let count = match result {
                    Ok(Outcome::Moved(count)) => count,
                    _ => 0,
                };
                if matches!(socket.stage, Stage::Open) {
                    socket.inbound.filled(filling, count);
                }
                socket.received(result, &mut self.spare);
            }
            Some(Traffic::Receive) => {
                socket.inbound.doing = Doing::Nothing;
                if matches!(result, Err(Errno(libc::ENOBUFS))) {
                    self.starve(index);
                } else {
                    socket.received(result, &mut self.spare);
                }
            }
            None if matches!(socket.stage, Stage::Listening { .. }) => socket.accepted(result, now),
            None => socket.received(result, &mut self.spare),
        }
        self.touch(index);
    }

    /// Has a socket wait for a chunk.
    fn starve(&mut self, index: u32) {
        let Some(socket) = &mut self.places[index as usize].socket else { return };
        socket.inbound.doing = Doing::Starving;
        self.starvations += 1;
        if !std::mem::replace(&mut socket.is_in_line, true) {
            self.line.push_back(index);
        }
    }

    /// The deadline of a socket's stage has come.
    pub(crate) fn alarm(&mut self, key: SocketKey) {
        let Some(place) = self.places.get_mut(key.index as usize) else { return };
        let Some(socket) = place.socket.as_mut().filter(|_| place.generation == key.generation)
        else {
            return;
        };
        (socket.timer, socket.deadline) = (None, None);
        let late = Err(Errno(libc::ETIMEDOUT));
        match socket.stage {
            Stage::Connecting(_) => socket.end(late, &mut self.spare),
            // The kernel goes on sending what it has.
            Stage::Draining { said_end: true } => socket.end(Ok(()), &mut self.spare),
            Stage::Draining { said_end: false } => socket.reset(late, &mut self.spare),
            Stage::Listening { .. } | Stage::Open | Stage::Ending { .. } => {}
        }
        self.touch(key.index);
    }

    // What follows.

    /// The next thing that an actor is to be told: the actor, which socket, its token, and what.
    pub(crate) fn next_event(&mut self) -> Option<(ActorKey, SocketKey, u64, SocketEvent)> {
        while let Some(index) = self.telling.pop_front() {
            let place = &mut self.places[index as usize];
            let Some(socket) = &mut place.socket else { continue };
            socket.has_events = false;
            let key = SocketKey { index, generation: place.generation };
            let (owner, token) = (socket.owner, socket.token);
            if let Some(event) = socket.next_event() {
                // There may be more, and room for more of it.
                self.touch(index);
                return Some((owner, key, token, event));
            }
            if let Some(why) = socket.is_over() {
                // The descriptor is closed, the admission given back.
                place.socket = None;
                self.free.push(index);
                return Some((owner, key, token, SocketEvent::Closed(why)));
            }
        }
        None
    }

    /// Begins what follows from all that has happened in a turn.
    pub(crate) fn settle(&mut self, ring: &mut Ring, timers: &mut Timers<Alarm>) {
        let chunks = ring.refill();
        for _ in 0..chunks {
            let Some(index) = self.line.pop_front() else { break };
            let Some(socket) = &mut self.places[index as usize].socket else { continue };
            socket.is_in_line = false;
            if socket.inbound.doing == Doing::Starving {
                socket.inbound.doing = Doing::Nothing;
                self.touch(index);
            }
        }
        while let Some(index) = self.dirty.pop() {
            let place = &mut self.places[index as usize];
            let key = SocketKey { index, generation: place.generation };
            let Some(socket) = &mut place.socket else { continue };
            socket.is_dirty = false;
            socket.settle(key, ring);
            let is_starved =
                socket.inbound.doing == Doing::Nothing && socket.receives() == Step::Receive;
            let is_ending = socket.is_ending();
            if !socket.set_timer(key, timers) {
                // The loop has no room for timers: the deadline has come.
                self.alarm(key);
            }
            if is_starved {
                self.starve(index);
            }
            if is_ending {
                self.tell(index);
            }
        }
        if !self.line.is_empty() && ring.chunks() == 0 {
            for socket in self.places.iter_mut().filter_map(|place| place.socket.as_mut()) {
                socket.inbound.spill();
            }
            // When one has come back already, the next turn finds it.
            ring.want_chunks();
        }
    }
}

impl Socket {
    fn new((owner, token): (ActorKey, u64), fd: OwnedFd, stage: Stage, high: usize) -> Self {
        Self {
            owner,
            token,
            fd,
            admission: None,
            stage,
            setting_up: None,
            inbound: Inbound::new(),
            outbound: Outbound::new(high),
            events: VecDeque::new(),
            deadline: None,
            timer: None,
            is_dirty: false,
            has_events: false,
            is_in_line: false,
        }
    }

    /// Ends it: what is under way will be cancelled, what waits is forgotten.
    fn end(&mut self, why: Result<(), Errno>, spare: &mut Spare) {
        if !matches!(self.stage, Stage::Ending { .. }) {
            self.stage = Stage::Ending { why, cancelled: false };
            self.deadline = None;
            self.inbound.discard();
            self.outbound.discard(spare);
            self.events.clear();
        }
    }

    fn reset(&mut self, why: Result<(), Errno>, spare: &mut Spare) {
        reset_on_close(&self.fd);
        self.end(why, spare);
    }

    fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Ending { .. })
    }

    // What the kernel did.

    fn accepted(&mut self, result: Result<Outcome, Errno>, now: Monotonic) {
        let Stage::Listening { limit, refused } = &mut self.stage else { return };
        let problem = match result {
            Ok(Outcome::Accepted(fd)) => match limit.admit() {
                Some(admission) => {
                    // One that has no peer any more was reset before it was taken.
                    if let Ok(connection) = Connection::new(fd, Some(admission)) {
                        *refused = None;
                        self.events.push_back(SocketEvent::Accepted(connection));
                    }
                    return;
                }
                None => {
                    reset_on_close(&fd);
                    NotAccepted::Limit
                }
            },
            // The peer was quicker to leave than this to take it; the next one may be there.
            Err(Errno(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN)) => return,
            Err(errno) => {
                self.deadline = Some(now + ACCEPT_AGAIN);
                NotAccepted::Refused(errno)
            }
            Ok(_) => unreachable!("an accept makes connections"),
        };
        if refused.replace(problem) != Some(problem) {
            self.events.push_back(SocketEvent::NotAccepted(problem));
        }
    }

    fn connected(&mut self, result: Result<Outcome, Errno>, spare: &mut Spare) {
        self.setting_up = None;
        if self.is_ending() {
            return;
        }
        let addresses = || -> io::Result<(SocketAddr, SocketAddr)> {
            let local = rustix::net::getsockname(&self.fd)?;
            let peer = rustix::net::getpeername(&self.fd)?.ok_or(rustix::io::Errno::NOTCONN)?;
            Ok((SocketAddr::try_from(local)?, SocketAddr::try_from(peer)?))
        };
        let addresses = match result {
            Ok(_) => addresses().map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO))),
            Err(errno) => Err(errno),
        };
        match addresses {
            Ok((local, peer)) => {
                (self.stage, self.deadline) = (Stage::Open, None);
                self.events.push_back(SocketEvent::Connected { local, peer });
            }
            Err(errno) => self.end(Err(errno), spare),
        }
    }

    fn received(&mut self, result: Result<Outcome, Errno>, spare: &mut Spare) {
        match result {
            _ if self.is_ending() => {}
            Ok(Outcome::Received(_)) if matches!(self.stage, Stage::Draining { .. }) => {}
            Ok(Outcome::Received(slice)) => self.inbound.received(slice),
            Ok(Outcome::Moved(0)) => self.inbound.end(),
            Ok(_) => {}
            // It was asked to; what it had taken has come before.
            Err(Errno::CANCELLED | Errno(libc::EAGAIN | libc::EINTR)) => {}
            Err(errno) => self.end(Err(errno), spare),
        }
    }

    fn sent(
        &mut self,
        gather: Box<super::traffic::Gather>,
        result: Result<Outcome, Errno>,
        spare: &mut Spare,
    ) {
        let (count, error) = match result {
            Ok(Outcome::Moved(count)) => (count, None),
            Err(Errno(libc::EAGAIN | libc::EINTR)) => (0, None),
            Err(errno) => (0, Some(errno)),
            Ok(_) => unreachable!("a send moves bytes"),
        };
        if self.outbound.sent(gather, count, spare) && matches!(self.stage, Stage::Open) {
            self.events.push_back(SocketEvent::Drained);
        }
        match error {
            Some(errno) => self.end(Err(errno), spare),
            None if self.is_ending() => self.outbound.discard(spare),
            None => {}
        }
    }

    // What follows.

    fn receives(&self) -> Step {
        match self.stage {
            Stage::Open | Stage::Draining { .. } => self.inbound.step(),
            _ => Step::Nothing,
        }
    }

    fn settle(&mut self, key: SocketKey, ring: &mut Ring) {
        let fd = self.fd.as_raw_fd();
        match &mut self.stage {
            Stage::Listening { .. } => {
                if self.setting_up.is_none() && self.deadline.is_none() {
                    self.setting_up = Some(ring.submit_traffic(key, fd, Traffic::Accept));
                }
            }
            Stage::Connecting(address) => {
                if let Some(address) = address.take() {
                    let connect = Traffic::Connect(address);
                    self.setting_up = Some(ring.submit_traffic(key, fd, connect));
                }
            }
            Stage::Open => {
                self.settle_inbound(key, ring);
                self.settle_outbound(key, ring);
            }
            Stage::Draining { .. } => self.settle_draining(key, ring),
            Stage::Ending { cancelled, .. } => {
                if !std::mem::replace(cancelled, true) {
                    self.cancel(ring);
                }
            }
        }
    }

    fn settle_inbound(&mut self, key: SocketKey, ring: &mut Ring) {
        let fd = self.fd.as_raw_fd();
        match self.inbound.step() {
            Step::Nothing => {}
            // Without chunks it would end at once; who calls finds it undone and has it wait.
            Step::Receive if ring.chunks() == 0 => {}
            Step::Receive => {
                let io = ring.submit_traffic(key, fd, Traffic::Receive);
                self.inbound.doing = Doing::Receiving(io);
            }
            Step::Cancel(io) => {
                ring.cancel(io);
                self.inbound.doing = Doing::Cancelling;
            }
            Step::Fill => {
                let filling = Traffic::Fill(self.inbound.take_filling());
                self.inbound.doing = Doing::Filling(ring.submit_traffic(key, fd, filling));
            }
        }
    }

    fn settle_outbound(&mut self, key: SocketKey, ring: &mut Ring) {
        if let Some(gather) = self.outbound.next() {
            let send = Traffic::Send(gather);
            self.outbound.io = Some(ring.submit_traffic(key, self.fd.as_raw_fd(), send));
        }
    }

    fn settle_draining(&mut self, key: SocketKey, ring: &mut Ring) {
        self.settle_inbound(key, ring);
        self.settle_outbound(key, ring);
        let Stage::Draining { said_end } = &mut self.stage else { return };
        if self.outbound.unsent() > 0 || self.outbound.io.is_some() {
            return;
        }
        if !std::mem::replace(said_end, true) {
            // Refused when the peer has reset it meanwhile; then there is nobody to be told.
            let _ = shutdown(&self.fd, Shutdown::Write);
        }
        if self.inbound.has_ended() {
            self.stage = Stage::Ending { why: Ok(()), cancelled: true };
            self.deadline = None;
        }
    }

    fn cancel(&mut self, ring: &mut Ring) {
        let receiving = match self.inbound.doing {
            Doing::Receiving(io) | Doing::Filling(io) => Some(io),
            Doing::Nothing | Doing::Cancelling | Doing::Starving => None,
        };
        for io in [self.setting_up, receiving, self.outbound.io].into_iter().flatten() {
            ring.cancel(io);
        }
    }

    /// Brings its timer in line with its deadline. False when the loop has no room for it.
    fn set_timer(&mut self, key: SocketKey, timers: &mut Timers<Alarm>) -> bool {
        if self.timer.map(|(at, _)| at) == self.deadline {
            return true;
        }
        if let Some((_, timer)) = self.timer.take() {
            timers.cancel(timer);
        }
        let Some(at) = self.deadline else { return true };
        self.timer = timers.set(at, Alarm::Socket(key)).map(|timer| (at, timer));
        self.timer.is_some()
    }

    fn next_event(&mut self) -> Option<SocketEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if matches!(self.stage, Stage::Open) { self.inbound.next_event() } else { None }
    }

    /// Why it was ended, when nothing of it is under way any more and it was settled.
    fn is_over(&self) -> Option<Result<(), Errno>> {
        let Stage::Ending { why, .. } = self.stage else { return None };
        let doing = matches!(self.inbound.doing, Doing::Nothing | Doing::Starving);
        let idle = doing && self.setting_up.is_none() && self.outbound.io.is_none();
        (idle && self.timer.is_none()).then_some(why)
    }
}
