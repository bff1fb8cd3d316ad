//! The serving side for threads that are no loops: starting it, and changing what is served.

use std::{
    collections::BTreeSet,
    sync::mpsc::{RecvError, sync_channel},
};

use fathom_runtime::{Address, Ended, Loops, Remote, Unsent, net::Listener};
use fathom_target::{
    export::{DeviceId, Hosts, Nqn, Subsystem},
    target::{ExportError, Settings, Target, Ticket},
};
use fathom_units::{Monotonic, Nsid};

use super::{
    gate::{Gate, Porter},
    hub::{Desk, Hub},
    message::{CarriesServe, Errand, Route, ServeMessage},
};

/// Changes what is served, and waits until it is so.
pub struct TargetHandle<M: CarriesServe> {
    remote: Remote<M>,
    hub: Address,
}

impl<M: CarriesServe> Clone for TargetHandle<M> {
    fn clone(&self) -> Self {
        Self { remote: self.remote.clone(), hub: self.hub }
    }
}

/// The serving side has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the target is closed")]
pub struct Closed;

impl From<Ended> for Closed {
    fn from(_: Ended) -> Self {
        Self
    }
}

impl From<RecvError> for Closed {
    fn from(_: RecvError) -> Self {
        Self
    }
}

impl<M: CarriesServe> TargetHandle<M> {
    /// Starts a target on the first of the loops, with a porter on each of them. It serves nothing
    /// yet, and [`TargetHandle::open`] lets hosts in.
    ///
    /// # Errors
    ///
    /// When a loop has ended.
    pub fn start(loops: &Loops<M>, settings: Settings) -> Result<(Self, Vec<Address>), Closed> {
        let limits = settings.limits;
        let remote = loops.remote(0);
        let hub = remote.give_birth(Hub::birth(settings))?;
        let mut porters = Vec::new();
        for number in 0..loops.count() {
            let porter = Porter::birth(hub, limits);
            porters.push(loops.remote(number).give_birth(porter)?);
        }
        Ok((Self { remote, hub }, porters))
    }

    /// Takes connections from now on. Everything that is to be served from the start should be
    /// exported before: a host that does not find its subsystem may give up.
    ///
    /// # Errors
    ///
    /// When the loop has ended.
    pub fn open(&self, listeners: Vec<Listener>, porters: Vec<Address>) -> Result<(), Closed> {
        self.remote.give_birth(Gate::birth(listeners, porters))?;
        Ok(())
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
    ) -> Result<Result<(), ExportError>, Closed> {
        let is_routed = |device| routes.iter().any(|(routed, _)| *routed == device);
        let mut devices = subsystem.namespaces.iter().map(|namespace| namespace.device);
        assert!(devices.all(is_routed), "a namespace of {} has no route", subsystem.nqn);
        self.ask(move |desk, target, _| {
            target.export(subsystem).inspect(|()| desk.routes.extend(routes))
        })
    }

    /// Stops serving a subsystem. On return no request under it can reach a device any more. Returns
    /// whether there was one.
    ///
    /// # Errors
    ///
    /// When the target is closed.
    pub fn unexport(&self, nqn: Nqn) -> Result<bool, Closed> {
        self.wait(move |desk, target| end_export(desk, target, &nqn))
    }

    /// Stops serving a subsystem to which no host is connected. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// The hosts that are connected; then nothing has changed. Or that the target is closed.
    pub fn withdraw(&self, nqn: Nqn) -> Result<Result<bool, BTreeSet<Nqn>>, Closed> {
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
    pub fn hosts_of(&self, nqn: Nqn) -> Result<BTreeSet<Nqn>, Closed> {
        self.ask(move |_, target, _| target.hosts_of(&nqn))
    }

    /// Changes who may connect. On return no request of a host that may not any more can reach a
    /// device. Returns whether there is such a subsystem.
    ///
    /// # Errors
    ///
    /// When the target is closed.
    pub fn set_hosts(&self, nqn: Nqn, hosts: Hosts) -> Result<bool, Closed> {
        self.wait(move |_, target| target.set_hosts(&nqn, hosts))
    }

    /// A namespace has another size: connected hosts are told. Returns whether there is such one.
    ///
    /// # Errors
    ///
    /// When the target is closed.
    pub fn resized(&self, nqn: Nqn, nsid: Nsid, blocks: u64) -> Result<bool, Closed> {
        self.ask(move |_, target, _| target.resized(&nqn, nsid, blocks))
    }

    /// Begins something that ends with a ticket, and waits for it.
    fn wait(
        &self,
        begin: impl FnOnce(&mut Desk, &mut Target) -> Option<Ticket> + Send + 'static,
    ) -> Result<bool, Closed> {
        let (done, ended) = sync_channel(1);
        let begun = self.ask(move |desk, target, _| {
            let ticket = begin(desk, target);
            ticket.is_some_and(|ticket| {
                desk.waiting.insert(ticket, done);
                true
            })
        })?;
        if begun {
            ended.recv()?;
        }
        Ok(begun)
    }

    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Desk, &mut Target, Monotonic) -> T + Send + 'static,
    ) -> Result<T, Closed> {
        let (answer, answered) = sync_channel(1);
        let errand: Errand = Box::new(move |desk, target, now| {
            // Whoever does not wait any more is not told.
            let _ = answer.try_send(ask(desk, target, now));
        });
        let mut message = M::from(ServeMessage::Errand(errand));
        while let Err(unsent) = self.remote.send(self.hub, message) {
            match unsent {
                Unsent::Full(back) => message = back,
                Unsent::Gone(_) => return Err(Closed),
            }
            std::thread::yield_now();
        }
        Ok(answered.recv()?)
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
