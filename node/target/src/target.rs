//! The subsystems that this node serves, the controllers that hosts have in them, and their fences.
//!
//! ```text
//!             Connect (admin)                    Connect (I/O)
//!   none ---> wait for the fence of the last one ---> association: a controller and its queues
//!                                                        |
//!   keep alive expired, admin queue lost, revoked        v
//!                                                     ending: its connections end, one by one
//!                                                        |  the last one has finished
//!                                                        v
//!                                                     fenced: forgotten, tickets answered
//! ```
//!
//! An *association* is what a host and a controller have from the Connect of the admin queue on. It
//! is the grant under which its queues' requests reach devices.
//!
//! - A host that begins a new association with a subsystem waits until its earlier ones that are
//!   ending, or whose keep alive timer has expired, are fenced: no command of theirs can overwrite
//!   what it writes from then on.
//! - [`Target::revoke`] is answered when everything that it ended is fenced.
//! - No refusal of a Connect that may be admitted later carries DNR: a host that tries again in a
//!   while finds the subsystem, its own name among the hosts, or a free controller.
//!
//! Sources: Base sections 3.1.2, 3.1.3.3, 3.3.2.2, 3.9 and 6.3; TCP section 3.5.

mod admin;
mod controller;
mod discovery;
mod events;
mod identify;
mod log_page;
mod schedule;

use core::net::IpAddr;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use fathom_nvme::{
    Nqn, Status,
    fabrics::{ConnectAttributes, HostId, InvalidParameter},
};
use fathom_units::{Cid, Cntlid, Monotonic, Nsid, Qid};

use self::{
    controller::{Controller, Kind},
    schedule::Schedule,
};
use crate::{
    connection::{Admission, Answer, ConnectRequest, Limits, Slot, Traffic},
    export::{DeviceId, Namespace, Subsystem},
};

/// Names a connection; given by its driver, and never twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// Names something that takes a while, until an action answers it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

/// A place where the target is reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Portal {
    /// The address; unspecified (`0.0.0.0`, `::`) for the one that a host has reached.
    pub address: IpAddr,
    /// The TCP port.
    pub port: u16,
}

/// What does not change while a target runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What connections are granted; the same that they are made with.
    pub limits: Limits,
    /// Where hosts can connect to, as the discovery log page tells them.
    pub portals: Vec<Portal>,
    /// The model number, at most 40 printable ASCII characters.
    pub model: String,
    /// The firmware revision, at most 8 printable ASCII characters.
    pub firmware: String,
}

/// Associations of all hosts together.
pub const ASSOCIATIONS_MAX: usize = 16_384;
/// Entries of an admin queue: each may ask for an answer as long as a transfer.
pub(crate) const ADMIN_ENTRIES_MAX: u32 = 64;
/// Connects that wait for a fence.
const WAITING_MAX: usize = 1_024;
/// How long a Connect waits for the fence of its host's last association; then the host is told to
/// try again. A Linux host gives a Connect 60 seconds.
const FENCE_WAIT: Duration = Duration::from_secs(15);
/// How long a host that asked for no keep alive may leave a discovery controller alone (Base
/// 3.1.3.3).
const DISCOVERY_ACTIVITY: Duration = Duration::from_secs(120);
/// In what steps a keep alive timeout is counted (KAS), in milliseconds.
const KEEP_ALIVE_GRANULARITY_MS: u32 = 100;
/// Aborts of one controller that may be under way (ACL).
const ABORTS_MAX: u16 = 4;

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Give it to [`crate::connection::Connection::admit`].
    Admit(ConnectionId, Box<Admission>),
    /// Give it to [`crate::connection::Connection::refuse`].
    Refuse(ConnectionId, Answer),
    /// Give it to [`crate::connection::Connection::answer`].
    Answer(ConnectionId, Slot, Answer),
    /// Call [`crate::connection::Connection::end`].
    End(ConnectionId),
    /// Call [`crate::connection::Connection::drain`].
    Drain(ConnectionId),
    /// Call [`crate::connection::Connection::abort`], then [`Target::aborted`] with what it says, after
    /// the connection's own actions have been carried out.
    Abort(ConnectionId, Cid, Ticket),
    /// Flush the device, then call [`Target::flushed`].
    Flush(DeviceId, Ticket),
    /// What the ticket was given for is done.
    Done(Ticket),
}

/// Why a subsystem is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExportError {
    /// It has the name of the discovery service.
    #[error("a subsystem cannot have the name of the discovery service")]
    DiscoveryName,
    /// There is one of that name.
    #[error("subsystem {0} is exported already")]
    Exists(Box<Nqn>),
    /// It has nothing that a host could use: a controller that says so says how many namespaces there
    /// can be, and none is no number.
    #[error("subsystem {0} has no namespace")]
    NoNamespace(Box<Nqn>),
    /// Its controller identifiers are none, or go beyond FFEFh.
    #[error("subsystem {0}: the range of controller identifiers is empty or exceeds 65519")]
    Controllers(Box<Nqn>),
    /// Namespaces are not in order, or one has an identifier, size or block size that cannot be.
    #[error("subsystem {nqn}: namespace {} cannot be exported as it is", nsid.0)]
    Namespace {
        /// The subsystem.
        nqn: Box<Nqn>,
        /// The namespace.
        nsid: Nsid,
    },
}

/// A subsystem that is served.
struct Served {
    subsystem: Subsystem,
    /// Its namespaces, as connections have them.
    namespaces: Arc<[Namespace]>,
    /// Where the search for a free controller identifier begins.
    next_controller: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct AssociationId(u64);

struct Association {
    /// Of the discovery service, none.
    subsystem: Option<Nqn>,
    host: Nqn,
    host_id: HostId,
    controller: Controller,
    /// Connections that have not finished.
    queues: BTreeMap<ConnectionId, QueuePlace>,
    ending: bool,
}

struct QueuePlace {
    qid: Qid,
    traffic: Arc<Traffic>,
    /// It has been told to end, or has ended by itself.
    ending: bool,
}

/// A Connect that waits for a fence.
struct Waiting {
    connection: ConnectionId,
    request: ConnectRequest,
    reached: Portal,
    since: Monotonic,
}

/// Everything that is not of one queue.
pub struct Target {
    settings: Settings,
    subsystems: BTreeMap<Nqn, Served>,
    associations: BTreeMap<AssociationId, Association>,
    connections: BTreeMap<ConnectionId, AssociationId>,
    /// When hosts are taken for dead. Not those without keep alive, nor those whose association is
    /// ending.
    expiries: Schedule<AssociationId>,
    waiting: VecDeque<Waiting>,
    revocations: BTreeMap<Ticket, BTreeSet<AssociationId>>,
    flushes: BTreeMap<Ticket, AssociationId>,
    /// Aborts that a queue decides about, and the admin queue's slots that they are answered at.
    aborts: BTreeMap<Ticket, (ConnectionId, Slot)>,
    /// Changes of the discovery log page.
    discovery_generation: u64,
    next_controller: u16,
    next_association: u64,
    next_ticket: u64,
    actions: VecDeque<Action>,
}

impl Target {
    /// A target that serves nothing but discovery.
    ///
    /// # Panics
    ///
    /// When a limit is not as [`Limits`] says, or a text of the settings does not fit its field.
    pub fn new(settings: Settings) -> Self {
        controller::check(&settings);
        Self {
            settings,
            subsystems: BTreeMap::new(),
            associations: BTreeMap::new(),
            connections: BTreeMap::new(),
            expiries: Schedule::new(),
            waiting: VecDeque::new(),
            revocations: BTreeMap::new(),
            flushes: BTreeMap::new(),
            aborts: BTreeMap::new(),
            discovery_generation: 1,
            next_controller: 1,
            next_association: 1,
            next_ticket: 1,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do, if there is one.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // What is served.

    /// Serves a subsystem from now on.
    ///
    /// # Errors
    ///
    /// [`ExportError`], and nothing has changed.
    pub fn export(&mut self, subsystem: Subsystem) -> Result<(), ExportError> {
        self.check_export(&subsystem)?;
        let next_controller = *subsystem.controllers.start();
        let namespaces = subsystem.namespaces.clone().into();
        let nqn = subsystem.nqn;
        self.subsystems.insert(nqn, Served { subsystem, namespaces, next_controller });
        self.discovery_changed();
        Ok(())
    }

    fn check_export(&self, subsystem: &Subsystem) -> Result<(), ExportError> {
        let nqn = subsystem.nqn;
        if nqn.is_discovery() {
            return Err(ExportError::DiscoveryName);
        }
        if self.subsystems.contains_key(&nqn) {
            return Err(ExportError::Exists(Box::new(nqn)));
        }
        let controllers = &subsystem.controllers;
        if controllers.is_empty() || *controllers.end() > Cntlid::MAX.0 {
            return Err(ExportError::Controllers(Box::new(nqn)));
        }
        if subsystem.namespaces.is_empty() {
            return Err(ExportError::NoNamespace(Box::new(nqn)));
        }
        let mut last = Nsid::NONE;
        for namespace in &subsystem.namespaces {
            let nsid = namespace.nsid;
            let block = 1_u32 << namespace.block_shift.min(31);
            let whole = |bytes: u32| bytes > 0 && bytes.is_multiple_of(block);
            let sound = nsid > last
                && nsid < Nsid::BROADCAST
                && namespace.blocks > 0
                && (9..=12).contains(&namespace.block_shift)
                && whole(namespace.preferred_write_bytes)
                && whole(namespace.preferred_deallocate_bytes);
            if !sound {
                return Err(ExportError::Namespace { nqn: Box::new(nqn), nsid });
            }
            last = nsid;
        }
        Ok(())
    }

    /// The subsystem of that name, if it is served.
    pub fn subsystem(&self, nqn: &Nqn) -> Option<&Subsystem> {
        self.subsystems.get(nqn).map(|served| &served.subsystem)
    }

    /// Whether a subsystem has a namespace on this device.
    pub fn serves(&self, device: DeviceId) -> bool {
        let namespaces = self.subsystems.values().flat_map(|served| served.namespaces.iter());
        namespaces.into_iter().any(|namespace| namespace.device == device)
    }

    /// The hosts that have an association with a subsystem which is not fenced yet.
    pub fn hosts_of(&self, nqn: &Nqn) -> BTreeSet<Nqn> {
        let associations = self.associations.values();
        associations
            .filter(|association| association.subsystem.as_ref() == Some(nqn))
            .map(|association| association.host)
            .collect()
    }

    /// Changes who may connect. Hosts that may not any more are revoked; the ticket is answered when
    /// they are fenced. `None` when there is no such subsystem.
    pub fn set_hosts(&mut self, nqn: &Nqn, hosts: crate::export::Hosts) -> Option<Ticket> {
        let served = self.subsystems.get_mut(nqn)?;
        served.subsystem.hosts = hosts.clone();
        self.discovery_changed();
        Some(self.revoke(|subsystem, host| subsystem == nqn && !hosts.allow(host)))
    }

    /// Stops serving a subsystem. Everyone who is connected is revoked; the ticket is answered when
    /// all are fenced. `None` when there is no such subsystem, and nobody of an earlier one of that
    /// name is to be waited for.
    pub fn unexport(&mut self, nqn: &Nqn) -> Option<Ticket> {
        match self.subsystems.remove(nqn) {
            Some(_) => self.discovery_changed(),
            None => {
                let mut left = self.associations.values();
                left.find(|association| association.subsystem == Some(*nqn))?;
            }
        }
        Some(self.revoke(|subsystem, _| subsystem == nqn))
    }

    /// Ends every association with a subsystem and host that `chosen` says. The ticket is answered
    /// when no request under any of them can reach a device any more.
    pub fn revoke(&mut self, chosen: impl Fn(&Nqn, &Nqn) -> bool) -> Ticket {
        let ended: BTreeSet<AssociationId> = self
            .associations
            .iter()
            .filter(|(_, association)| {
                association.subsystem.as_ref().is_some_and(|nqn| chosen(nqn, &association.host))
            })
            .map(|(&id, _)| id)
            .collect();
        let ticket = self.ticket();
        if ended.is_empty() {
            self.actions.push_back(Action::Done(ticket));
            return ticket;
        }
        self.revocations.insert(ticket, ended.clone());
        ended.into_iter().for_each(|id| self.end(id));
        ticket
    }

    /// A namespace has another size from now on: connected hosts are told. Returns whether there is
    /// such a namespace.
    pub fn resized(&mut self, nqn: &Nqn, nsid: Nsid, blocks: u64) -> bool {
        let Some(served) = self.subsystems.get_mut(nqn) else { return false };
        let namespaces = &mut served.subsystem.namespaces;
        let Some(namespace) = namespaces.iter_mut().find(|namespace| namespace.nsid == nsid) else {
            return false;
        };
        namespace.blocks = blocks;
        served.namespaces = served.subsystem.namespaces.clone().into();
        let actions = &mut self.actions;
        let associations = self.associations.values_mut();
        for association in associations.filter(|one| one.subsystem == Some(*nqn)) {
            association.controller.events.namespace_changed(nsid);
            association.deliver_events(actions);
        }
        true
    }

    fn discovery_changed(&mut self) {
        self.discovery_generation += 1;
        let actions = &mut self.actions;
        for association in self.associations.values_mut().filter(|one| one.subsystem.is_none()) {
            association.controller.events.discovery_changed();
            association.deliver_events(actions);
        }
    }

    // Connections.

    /// A connection asks to be a queue. `reached` is the address and port of this side.
    pub fn connect(
        &mut self,
        connection: ConnectionId,
        request: &ConnectRequest,
        reached: Portal,
        now: Monotonic,
    ) {
        // Whoever is dead by now is fenced before somebody new comes in.
        self.pass(now);
        if request.command.qid.is_admin() {
            let request = request.clone();
            let waiting = Waiting { connection, request, reached, since: now };
            self.connect_admin(waiting, now);
        } else {
            self.connect_io(connection, request);
        }
    }

    /// Admits the Connect of an admin queue, refuses it, or has it wait for a fence.
    fn connect_admin(&mut self, waiting: Waiting, now: Monotonic) {
        let Waiting { connection, request, reached, .. } = &waiting;
        let connection = *connection;
        let admitted = self.check_admin(request).and_then(|entries| {
            if self.is_being_fenced(request) {
                return Ok(None);
            }
            Ok(Some((entries, self.new_controller(request)?)))
        });
        let refusal = match admitted {
            Ok(Some((entries, controller))) => {
                let kind = match subsystem_of(request) {
                    Some(_) => Kind::Io,
                    None => Kind::Discovery { reached: *reached },
                };
                let id = self.associate(request, kind, controller, now);
                return self.admit(connection, id, request, entries);
            }
            Ok(None) if self.waiting.len() < WAITING_MAX => return self.waiting.push_back(waiting),
            Ok(None) => Status::CONNECT_CONTROLLER_BUSY.into(),
            Err(answer) => answer,
        };
        self.actions.push_back(Action::Refuse(connection, refusal));
    }

    /// What can be said of a Connect of an admin queue by itself. Returns the queue's entries.
    fn check_admin(&self, request: &ConnectRequest) -> Result<u32, Answer> {
        let entries = self.check_entries(request)?;
        if request.data.controller != Cntlid::DYNAMIC {
            return Err(invalid(InvalidParameter::CNTLID));
        }
        let Some(nqn) = subsystem_of(request) else { return Ok(entries) };
        let served = self.subsystems.get(&nqn).ok_or_else(|| invalid(InvalidParameter::SUBNQN))?;
        if !served.subsystem.hosts.allow(&request.data.host) {
            return Err(Status::CONNECT_INVALID_HOST.into());
        }
        Ok(entries)
    }

    fn check_entries(&self, request: &ConnectRequest) -> Result<u32, Answer> {
        let entries = request.command.sq_entries;
        let most = match request.command.qid.is_admin() {
            true => self.settings.limits.queue_entries_max.min(ADMIN_ENTRIES_MAX),
            false => self.settings.limits.queue_entries_max,
        };
        if !(2..=most).contains(&entries) {
            let refusal = invalid(InvalidParameter::SQSIZE);
            return Err(Answer { status: refusal.status.do_not_retry(), ..refusal });
        }
        Ok(entries)
    }

    /// Whether the host of a Connect has an association with the same subsystem that is not fenced
    /// yet.
    fn is_being_fenced(&self, request: &ConnectRequest) -> bool {
        let subsystem = subsystem_of(request);
        subsystem.is_some()
            && self.associations.values().any(|association| {
                association.ending
                    && association.subsystem == subsystem
                    && association.host == request.data.host
                    && association.host_id == request.data.host_id
            })
    }

    /// A free controller identifier for a Connect that is admitted.
    fn new_controller(&mut self, request: &ConnectRequest) -> Result<Cntlid, Answer> {
        let busy = || Answer::from(Status::CONNECT_CONTROLLER_BUSY);
        if self.associations.len() >= ASSOCIATIONS_MAX {
            return Err(busy());
        }
        let subsystem = subsystem_of(request);
        let taken: BTreeSet<u16> = self
            .associations
            .values()
            .filter(|association| association.subsystem == subsystem)
            .map(|association| association.controller.id.0)
            .collect();
        let (range, next) = match subsystem.and_then(|nqn| self.subsystems.get_mut(&nqn)) {
            Some(served) => (served.subsystem.controllers.clone(), &mut served.next_controller),
            None => (1..=Cntlid::MAX.0, &mut self.next_controller),
        };
        // From the one after the last one on, so that an identifier is not used again soon.
        let candidates = (*next..=*range.end()).chain(range.clone());
        let free = candidates.into_iter().find(|id| !taken.contains(id)).ok_or_else(busy)?;
        *next = if free == *range.end() { *range.start() } else { free + 1 };
        Ok(Cntlid(free))
    }

    fn associate(
        &mut self,
        request: &ConnectRequest,
        kind: Kind,
        controller: Cntlid,
        now: Monotonic,
    ) -> AssociationId {
        let id = AssociationId(self.next_association);
        self.next_association += 1;
        let keep_alive_ms = request.command.keep_alive_ms;
        let association = Association {
            subsystem: subsystem_of(request),
            host: request.data.host,
            host_id: request.data.host_id,
            controller: Controller::new(controller, kind, keep_alive_ms),
            queues: BTreeMap::new(),
            ending: false,
        };
        self.associations.insert(id, association);
        self.heard(id, now);
        id
    }

    fn connect_io(&mut self, connection: ConnectionId, request: &ConnectRequest) {
        match self.check_io(request) {
            Ok((id, entries)) => self.admit(connection, id, request, entries),
            Err(answer) => self.actions.push_back(Action::Refuse(connection, answer)),
        }
    }

    /// Which association a Connect of an I/O queue belongs to, and the queue's entries.
    fn check_io(&self, request: &ConnectRequest) -> Result<(AssociationId, u32), Answer> {
        let entries = self.check_entries(request)?;
        let subsystem = subsystem_of(request).ok_or_else(|| invalid(InvalidParameter::QID))?;
        let found = self.associations.iter().find(|(_, association)| {
            association.subsystem == Some(subsystem)
                && association.controller.id == request.data.controller
                && !association.ending
        });
        let (&id, association) = found.ok_or_else(|| invalid(InvalidParameter::CNTLID))?;
        if association.host != request.data.host {
            return Err(invalid(InvalidParameter::HOSTNQN));
        }
        if association.host_id != request.data.host_id {
            return Err(invalid(InvalidParameter::HOSTID));
        }
        if !association.controller.is_ready() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.into());
        }
        let qid = request.command.qid;
        let taken = association.queues.values().any(|place| place.qid == qid);
        if qid.0 > association.controller.io_queues || taken {
            return Err(invalid(InvalidParameter::QID));
        }
        Ok((id, entries))
    }

    fn admit(
        &mut self,
        connection: ConnectionId,
        id: AssociationId,
        request: &ConnectRequest,
        entries: u32,
    ) {
        let association = self.associations.get_mut(&id).expect("it was just found");
        let qid = request.command.qid;
        let traffic = Arc::<Traffic>::default();
        let place = QueuePlace { qid, traffic: Arc::clone(&traffic), ending: false };
        association.queues.insert(connection, place);
        self.connections.insert(connection, id);
        let served = association.subsystem.and_then(|nqn| self.subsystems.get(&nqn));
        let namespaces =
            served.map_or_else(|| Arc::new([]) as _, |served| Arc::clone(&served.namespaces));
        let attributes = request.command.attributes;
        self.actions.push_back(Action::Admit(
            connection,
            Box::new(Admission {
                qid,
                entries,
                without_flow_control: attributes
                    .contains(ConnectAttributes::DISABLE_SQ_FLOW_CONTROL),
                controller: association.controller.id,
                namespaces,
                traffic,
            }),
        ));
    }

    /// A connection has ended by itself. When it was the admin queue, so does its association. A host
    /// that resets or shuts its controller down closes the I/O queues first, and says so on the admin
    /// queue afterwards.
    pub fn lost(&mut self, connection: ConnectionId) {
        self.waiting.retain(|waiting| waiting.connection != connection);
        let Some(&id) = self.connections.get(&connection) else { return };
        let association = self.associations.get_mut(&id).expect("connections have one");
        let place = association.queues.get_mut(&connection).expect("it is one of its queues");
        place.ending = true;
        if place.qid.is_admin() {
            self.end(id);
        }
    }

    /// This side closes a connection, which finishes what it has. When it is the admin queue, the
    /// other queues of its association do the same, and nothing new is admitted to it.
    pub fn drains(&mut self, connection: ConnectionId) {
        self.waiting.retain(|waiting| waiting.connection != connection);
        let Some(&id) = self.connections.get(&connection) else { return };
        let association = self.associations.get_mut(&id).expect("connections have one");
        let place = association.queues.get_mut(&connection).expect("it is one of its queues");
        place.ending = true;
        if place.qid.is_admin() {
            association.ending = true;
            self.expiries.set(id, None);
            for (&other, place) in &mut association.queues {
                if !core::mem::replace(&mut place.ending, true) {
                    self.actions.push_back(Action::Drain(other));
                }
            }
        }
    }

    /// No request of a connection can reach a device any more.
    pub fn finished(&mut self, connection: ConnectionId, now: Monotonic) {
        self.waiting.retain(|waiting| waiting.connection != connection);
        let Some(id) = self.connections.remove(&connection) else { return };
        let association = self.associations.get_mut(&id).expect("connections have one");
        let place = association.queues.remove(&connection).expect("it is one of its queues");
        association.controller.traffic.add(&place.traffic);
        if association.queues.is_empty() {
            return self.forget(id, now);
        }
        self.complete_reset(id);
    }

    /// Completes the reset of a controller whose I/O queues are gone.
    fn complete_reset(&mut self, id: AssociationId) {
        let association = self.associations.get_mut(&id).expect("an association that is there");
        let mut queues = association.queues.iter();
        if !queues.all(|(_, place)| place.qid.is_admin()) {
            return;
        }
        let admin = association.queues.first_key_value().map(|(&connection, _)| connection);
        let Some(admin) = admin else { return };
        for slot in association.controller.io_queues_gone() {
            let aborted = Status::ABORT_REQUESTED.into();
            self.actions.push_back(Action::Answer(admin, slot, aborted));
        }
    }

    /// An association ends: so do its connections.
    fn end(&mut self, id: AssociationId) {
        let association = self.associations.get_mut(&id).expect("an association that is there");
        association.ending = true;
        self.expiries.set(id, None);
        for (&connection, place) in &mut association.queues {
            if !core::mem::replace(&mut place.ending, true) {
                self.actions.push_back(Action::End(connection));
            }
        }
    }

    /// An association is fenced.
    fn forget(&mut self, id: AssociationId, now: Monotonic) {
        self.associations.remove(&id);
        self.expiries.set(id, None);
        let mut done = Vec::new();
        for (&ticket, ended) in &mut self.revocations {
            if ended.remove(&id) && ended.is_empty() {
                done.push(ticket);
            }
        }
        for ticket in done {
            self.revocations.remove(&ticket);
            self.actions.push_back(Action::Done(ticket));
        }
        for waiting in core::mem::take(&mut self.waiting) {
            self.connect_admin(waiting, now);
        }
    }

    // Time.

    /// When [`Target::pass`] has to be called, if nothing happens before.
    pub fn deadline(&self) -> Option<Monotonic> {
        let waiting = self.waiting.front().map(|waiting| waiting.since + FENCE_WAIT);
        self.expiries.next().into_iter().chain(waiting).min()
    }

    /// Ends what has expired by `now`.
    pub fn pass(&mut self, now: Monotonic) {
        while let Some(id) = self.expiries.take_due(now) {
            self.end(id);
        }
        while let Some(waiting) = self.waiting.front()
            && waiting.since + FENCE_WAIT <= now
        {
            let busy = Status::CONNECT_CONTROLLER_BUSY.into();
            self.actions.push_back(Action::Refuse(waiting.connection, busy));
            self.waiting.pop_front();
        }
    }

    /// The host of an association has shown at `now` that it lives.
    fn heard(&mut self, id: AssociationId, now: Monotonic) {
        let association = &self.associations[&id];
        if !association.ending {
            self.expiries.set(id, association.expiry(now));
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket - 1)
    }
}

impl Association {
    /// When the host is taken for dead if it shows at `now` that it lives, and not again; none without
    /// keep alive.
    fn expiry(&self, now: Monotonic) -> Option<Monotonic> {
        let timeout = match (self.controller.keep_alive_ms, &self.subsystem) {
            (0, Some(_)) => None,
            (0, None) => Some(DISCOVERY_ACTIVITY),
            (keep_alive_ms, _) => {
                let steps = u64::from(keep_alive_ms.div_ceil(KEEP_ALIVE_GRANULARITY_MS));
                Some(Duration::from_millis(steps * u64::from(KEEP_ALIVE_GRANULARITY_MS)))
            }
        };
        // Nobody sends keep alives while a controller becomes ready, is reset or shut down.
        let least = match self.controller.is_in_transition() {
            true => Duration::from_millis(controller::READY_TIMEOUT_MS.into()),
            false => Duration::ZERO,
        };
        timeout.map(|timeout| now + timeout.max(least))
    }

    /// Answers requests for events as far as there are events. Only what concerns this association
    /// can make one: something has happened, or its host has asked or read.
    fn deliver_events(&mut self, actions: &mut VecDeque<Action>) {
        let mut queues = self.queues.iter();
        let admin = queues.find(|(_, place)| place.qid.is_admin()).map(|(&id, _)| id);
        let Some(admin) = admin.filter(|_| !self.ending) else { return };
        while let Some((slot, event)) = self.controller.events.next() {
            let answer = Answer::result(event.encode().into());
            actions.push_back(Action::Answer(admin, slot, answer));
        }
    }
}

/// The subsystem that a Connect names, none for the discovery service.
fn subsystem_of(request: &ConnectRequest) -> Option<Nqn> {
    let nqn = request.data.subsystem;
    (!nqn.is_discovery()).then_some(nqn)
}

/// The answer to a Connect with a parameter that is not right now.
fn invalid(parameter: InvalidParameter) -> Answer {
    let completion = parameter.completion(Cid(0));
    Answer { status: completion.status, result: completion.result, data: Vec::new() }
}
