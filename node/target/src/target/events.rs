//! Asynchronous events of one controller: what has happened, and whether its host wants to know.
//!
//! - An event is told once: it is told again only after the host has read the log page that says
//!   more (Base section 5.1.2).
//! - What happens while no request is there waits, at most once of each kind.

use std::collections::{BTreeSet, VecDeque};

use fathom_nvme::{
    event::AsyncEvent, feature::AsyncEventConfiguration, identify::AsyncEventsSupported, log::LogId,
};
use fathom_units::Nsid;

use crate::connection::Slot;

/// Requests that a host can leave at a controller (AERL).
pub(super) const REQUESTS_MAX: usize = 4;
/// Entries of the Changed Attached Namespace List; with more it says that all have changed.
const CHANGED_MAX: usize = 1024;

/// One kind of event.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Standing {
    /// Nothing has happened that the host does not know.
    #[default]
    Quiet,
    /// Something has happened, and the host is to be told.
    Due,
    /// The host has been told and has not read the log page.
    Told,
}

/// The events of a controller.
#[derive(Default)]
pub(super) struct Events {
    pub(super) configuration: AsyncEventConfiguration,
    requests: VecDeque<Slot>,
    namespaces: Standing,
    discovery: Standing,
    changed: BTreeSet<Nsid>,
}

impl Events {
    /// What an I/O controller can tell.
    pub(super) const IO: AsyncEventsSupported =
        AsyncEventsSupported::NAMESPACE_ATTRIBUTE.union(AsyncEventsSupported::ANA_CHANGE);
    /// What a discovery controller can tell.
    pub(super) const DISCOVERY: AsyncEventsSupported = AsyncEventsSupported::DISCOVERY_LOG_CHANGE;

    /// Leaves a request. Returns `false` when there are too many.
    pub(super) fn request(&mut self, slot: Slot) -> bool {
        let room = self.requests.len() < REQUESTS_MAX;
        if room {
            self.requests.push_back(slot);
        }
        room
    }

    /// A namespace's attributes have changed.
    pub(super) fn namespace_changed(&mut self, nsid: Nsid) {
        self.changed.insert(nsid);
        if self.namespaces == Standing::Quiet {
            self.namespaces = Standing::Due;
        }
    }

    /// The discovery log page has changed.
    pub(super) fn discovery_changed(&mut self) {
        if self.discovery == Standing::Quiet {
            self.discovery = Standing::Due;
        }
    }

    /// The host has read a log page, and not asked for its event to stay.
    pub(super) fn read(&mut self, page: LogId) {
        match page {
            LogId::CHANGED_NAMESPACES => {
                self.namespaces = Standing::Quiet;
                self.changed.clear();
            }
            LogId::DISCOVERY => self.discovery = Standing::Quiet,
            _ => {}
        }
    }

    /// The namespaces that have changed since this was read last; all ones when they are too many
    /// for the list.
    pub(super) fn changed(&self) -> Vec<Nsid> {
        match self.changed.len() > CHANGED_MAX {
            true => vec![Nsid::BROADCAST],
            false => self.changed.iter().copied().collect(),
        }
    }

    /// The next event for the host, and the request that it answers.
    pub(super) fn next(&mut self) -> Option<(Slot, AsyncEvent)> {
        type Wanted = AsyncEventConfiguration;
        let kinds = [
            (
                &mut self.namespaces,
                Wanted::NAMESPACE_ATTRIBUTE_CHANGED,
                AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED,
            ),
            (&mut self.discovery, Wanted::DISCOVERY_LOG_CHANGED, AsyncEvent::DISCOVERY_LOG_CHANGED),
        ];
        for (standing, wanted, event) in kinds {
            if *standing == Standing::Due && self.configuration.contains(wanted) {
                let slot = self.requests.pop_front()?;
                *standing = Standing::Told;
                return Some((slot, event));
            }
        }
        None
    }

    /// The controller is reset. Returns the requests, which nothing answers any more.
    pub(super) fn reset(&mut self) -> VecDeque<Slot> {
        core::mem::take(self).requests
    }
}
