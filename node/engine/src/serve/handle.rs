//! The serving side for threads that are no loops: starting it, changing what is served, closing it.
//!
//! Every wait has a deadline.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use fathom_runtime::{Address, Ended, Loops, Remote, Unsent, net::Listener};
use fathom_target::{
    export::{DeviceId, Hosts, Nqn, Subsystem},
    target::{ExportError, Settings, Target, Ticket},
};
use fathom_units::{Monotonic, Nsid};

use super::{
    gate::{Gate, Names, Porter},
    hub::{Desk, Hub},
    memory::ENTRIES_MAX,
    message::{CarriesServe, Closure, Errand, Route, Scope, ServeMessage},
};

/// How long the hub may take for what it does within a turn of its loop.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Changes what is served, and waits until it is so.
pub struct TargetHandle<M: CarriesServe> {
    remote: Remote<M>,
    hub: Address,
    names: Names,
}

impl<M: CarriesServe> Clone for TargetHandle<M> {
    fn clone(&self) -> Self {
        Self { remote: self.remote.clone(), hub: self.hub, names: self.names.clone() }
    }
}

/// Why the serving side did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServeError {
    /// It is closed, or its loop has ended.
    #[error("the target is closed")]
    Closed,
    /// Its loop does not take turns. What was asked may still be done.
    #[error("the event loop of the target has not answered within {0:?}")]
    Silent(Duration),
    /// A change of a subsystem counts, and commands that came before it are still at devices. They
    /// are fenced when those have ended; the same call waits for that again.
    #[error(
        "subsystem {subsystem}: commands of hosts that may not use it any more are still at devices \
         after {waited:?}; they are fenced when these have ended"
    )]
    Unfenced {
        /// The subsystem.
        subsystem: Box<Nqn>,
        /// How long that was waited for.
        waited: Duration,
    },
}

impl From<Ended> for ServeError {
    fn from(_: Ended) -> Self {
        Self::Closed
    }
}

impl<M: CarriesServe> TargetHandle<M> {
    /// Starts a target on the first of the loops, with a porter on each of them. It serves nothing
    /// yet, and [`TargetHandle::open`] lets hosts in.
    ///
    /// # Errors
    ///
    /// When a loop has ended.
    ///
    /// # Panics
    ///
    /// When queues may have more than [`ENTRIES_MAX`] entries.
    pub fn start(loops: &Loops<M>, settings: Settings) -> Result<(Self, Vec<Address>), ServeError> {
        let limits = settings.limits;
        assert!(
            limits.queue_entries_max <= ENTRIES_MAX,
            "queues have {ENTRIES_MAX} entries at most"
        );
        let remote = loops.remote(0);
        let hub = remote.give_birth(Hub::birth(settings))?;
        let mut porters = Vec::new();
        for number in 0..loops.count() {
            let porter = Porter::birth(hub, limits);
            porters.push(loops.remote(number).give_birth(porter)?);
        }
        let handle = Self { remote, hub, names: Names::default() };
        let known = porters.clone();
        handle.ask(move |desk, _, _| desk.porters = known)?;
        Ok((handle, porters))
    }

    /// Takes connections from now on. Everything that is to be served from the start should be
    /// exported before: a host that does not find its subsystem may give up.
    ///
    /// # Errors
    ///
    /// When the loop has ended.
    pub fn open(&self, listeners: Vec<Listener>, porters: Vec<Address>) -> Result<(), ServeError> {
        let gate = Gate::birth(self.hub, listeners, porters, self.names.clone());
        let gate = self.remote.give_birth(gate)?;
        self.ask(move |desk, _, _| desk.gates.push(gate))
    }

    /// Closes everything in good order. No connection is taken any more; each that there is takes
    /// nothing more, does and answers what it has received completely, and is closed. No command is
    /// answered with an error because of it: a host sees its connections end, and nothing else.
    ///
    /// Devices have to be there until this returns. Connections that have not finished `within` that
    /// time are reset, without an answer to what they had; what of it is at devices may still be done.
    /// Afterwards every other call finds the target closed.
    ///
    /// # Errors
    ///
    /// When the target is closed already, or its loop does not take turns.
    pub fn close(&self, within: Duration) -> Result<Closure, ServeError> {
        self.close_scope(None, within)
    }

    /// Closes the listening socket that is bound to `listener`, and in the same way the connections
    /// that came by it, and no others.
    ///
    /// # Errors
    ///
    /// As for [`TargetHandle::close`].
    pub fn close_portal(
        &self,
        listener: SocketAddr,
        within: Duration,
    ) -> Result<Closure, ServeError> {
        self.close_scope(Some(listener), within)
    }

    fn close_scope(&self, scope: Scope, within: Duration) -> Result<Closure, ServeError> {
        let (done, ended) = sync_channel(1);
        self.send(ServeMessage::Close { scope, within, done })?;
        receive(&ended, within + ANSWER_WAIT)
    }

    /// Serves a subsystem, whose devices are found by `routes`.
    ///
    /// # Errors
    ///
    /// Why it is not taken, or that the target is closed.
    ///
    /// # Panics
    ///
    /// When a namespace has no route.
    pub fn export(
        &self,
        subsystem: Subsystem,
        routes: Vec<(DeviceId, Route)>,
    ) -> Result<Result<(), ExportError>, ServeError> {
        let is_routed = |device| routes.iter().any(|(routed, _)| *routed == device);
        let mut devices = subsystem.namespaces.iter().map(|namespace| namespace.device);
        assert!(devices.all(is_routed), "a namespace of {} has no route", subsystem.nqn);
        self.ask(move |desk, target, _| {
            target.export(subsystem).inspect(|()| desk.routes.extend(routes))
        })
    }

    /// Stops serving a subsystem. On return no request under it can reach a device any more. Returns
    /// whether there was one, or requests of one that was unexported before.
    ///
    /// # Errors
    ///
    /// When the target is closed, or requests are still at devices after `within`.
    pub fn unexport(&self, nqn: Nqn, within: Duration) -> Result<bool, ServeError> {
        self.wait(nqn, within, move |desk, target| end_export(desk, target, &nqn))
    }

    /// Stops serving a subsystem to which no host is connected. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// The hosts that are connected; then nothing has changed. Or that the target is closed.
    pub fn withdraw(&self, nqn: Nqn) -> Result<Result<bool, BTreeSet<Nqn>>, ServeError> {
        self.ask(move |desk, target, _| {
            let hosts = target.hosts_of(&nqn);
            if !hosts.is_empty() {
                return Err(hosts);
            }
            let begun = end_export(desk, target, &nqn);
            // Nobody is connected: it is done.
            Ok(begun.is_some())
        })
    }

    /// The hosts that are connected to a subsystem.
    ///
    /// # Errors
    ///
    /// When the target is closed.
    pub fn hosts_of(&self, nqn: Nqn) -> Result<BTreeSet<Nqn>, ServeError> {
        self.ask(move |_, target, _| target.hosts_of(&nqn))
    }

    /// Changes who may connect. On return no request of a host that may not any more can reach a
    /// device. Returns whether there is such a subsystem.
    ///
    /// # Errors
    ///
    /// When the target is closed, or requests of such a host are still at devices after `within`.
    pub fn set_hosts(&self, nqn: Nqn, hosts: Hosts, within: Duration) -> Result<bool, ServeError> {
        self.wait(nqn, within, move |_, target| target.set_hosts(&nqn, hosts))
    }

    /// A namespace has another size: connected hosts are told. Returns whether there is such one.
    ///
    /// # Errors
    ///
    /// When the target is closed.
    pub fn resized(&self, nqn: Nqn, nsid: Nsid, blocks: u64) -> Result<bool, ServeError> {
        self.ask(move |_, target, _| target.resized(&nqn, nsid, blocks))
    }

    /// Begins something that ends with a ticket, and waits for it.
    fn wait(
        &self,
        nqn: Nqn,
        within: Duration,
        begin: impl FnOnce(&mut Desk, &mut Target) -> Option<Ticket> + Send + 'static,
    ) -> Result<bool, ServeError> {
        let (done, ended) = sync_channel(1);
        let begun = self.ask(move |desk, target, _| {
            let ticket = begin(desk, target);
            ticket.is_some_and(|ticket| {
                desk.waiting.insert(ticket, done);
                true
            })
        })?;
        if !begun {
            return Ok(false);
        }
        receive(&ended, within).map(|()| true).map_err(|error| match error {
            ServeError::Silent(waited) => ServeError::Unfenced { subsystem: Box::new(nqn), waited },
            other => other,
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Desk, &mut Target, Monotonic) -> T + Send + 'static,
    ) -> Result<T, ServeError> {
        let (answer, answered) = sync_channel(1);
        let errand: Errand = Box::new(move |desk, target, now| {
            // Whoever does not wait any more is not told.
            let _ = answer.try_send(ask(desk, target, now));
        });
        self.send(ServeMessage::Errand(errand))?;
        receive(&answered, ANSWER_WAIT)
    }

    fn send(&self, message: ServeMessage) -> Result<(), ServeError> {
        let began = Instant::now();
        let mut message = M::from(message);
        while let Err(unsent) = self.remote.send(self.hub, message) {
            match unsent {
                Unsent::Full(_) if began.elapsed() >= ANSWER_WAIT => {
                    return Err(ServeError::Silent(ANSWER_WAIT));
                }
                Unsent::Full(back) => message = back,
                Unsent::Gone(_) => return Err(ServeError::Closed),
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// Has the target end a subsystem, and forgets the routes of its devices.
fn end_export(desk: &mut Desk, target: &mut Target, nqn: &Nqn) -> Option<Ticket> {
    let namespaces = target.subsystem(nqn).map(|subsystem| subsystem.namespaces.iter());
    let devices: Vec<DeviceId> =
        namespaces.into_iter().flatten().map(|namespace| namespace.device).collect();
    let ticket = target.unexport(nqn);
    let gone = |device: &DeviceId| devices.contains(device) && !target.serves(*device);
    desk.routes.retain(|device, _| !gone(device));
    ticket
}

/// What the hub says. It drops its end when it retires.
fn receive<T>(answer: &Receiver<T>, within: Duration) -> Result<T, ServeError> {
    answer.recv_timeout(within).map_err(|error| match error {
        RecvTimeoutError::Timeout => ServeError::Silent(within),
        RecvTimeoutError::Disconnected => ServeError::Closed,
    })
}
