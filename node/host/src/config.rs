//! What a host is told: who it is, what it wants to reach, and how patient it is.

use std::time::Duration;

use fathom_nvme::{
    Nqn,
    fabrics::HostId,
    tcp::{Alignment, Digests},
};
use fathom_units::Nsid;

/// The entries of the admin submission queue: what every controller has to allow (Base 3.3.2.2).
pub const ADMIN_QUEUE_ENTRIES: u32 = 32;
/// The most entries of an I/O submission queue. A command identifier has so many bits for its slot.
pub const IO_QUEUE_ENTRIES_MAX: u32 = 1024;
/// The most I/O queues.
pub const IO_QUEUES_MAX: u16 = 128;
/// The most requests that a host has accepted and not completed.
pub const REQUESTS_MAX: usize = 65536;

/// What a host is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To use one namespace of an NVM subsystem.
    Io {
        /// The namespace.
        nsid: Nsid,
        /// How many I/O queues are wanted, 1 to [`IO_QUEUES_MAX`]; the controller may give less.
        queues: u16,
        /// How many entries each submission queue has, 2 to [`IO_QUEUE_ENTRIES_MAX`]; one less is
        /// how many commands it has under way. The controller may allow less.
        entries: u32,
    },
    /// To read the discovery log page, and again whenever it changes.
    Discovery,
}

/// What a host is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this host.
    pub host: Nqn,
    /// The identifier of this host, which belongs to its name.
    pub host_id: HostId,
    /// The name of the subsystem.
    pub subsystem: Nqn,
    /// What for.
    pub purpose: Purpose,
    /// The digests to ask for. When the controller does not grant one, the connection is given up.
    pub digests: Digests,
    /// The alignment of data to ask for.
    pub alignment: Alignment,
    /// KATO: after how long without a sign of life the controller ends the association; a keep
    /// alive is sent in half of it. At least a millisecond.
    pub keep_alive: Duration,
    /// How long a command may take. It is noticed up to an eighth later.
    pub command_timeout: Duration,
    /// How long opening a connection and each step of setting up may take.
    pub setup_timeout: Duration,
    /// How long after a loss a new association is tried.
    pub reconnect_delay: Duration,
    /// After how long without an association the host gives up; none for never.
    pub give_up: Option<Duration>,
}

impl Config {
    /// Checks what a person may have got wrong.
    ///
    /// # Errors
    ///
    /// A sentence about the first value that is not allowed.
    pub fn check(&self) -> Result<(), &'static str> {
        if let Purpose::Io { nsid, queues, entries } = self.purpose {
            if nsid == Nsid::NONE || nsid == Nsid::BROADCAST {
                return Err("the namespace identifier names no single namespace");
            }
            if !(1..=IO_QUEUES_MAX).contains(&queues) {
                return Err("there can be 1 to 128 I/O queues");
            }
            if !(2..=IO_QUEUE_ENTRIES_MAX).contains(&entries) {
                return Err("an I/O queue has 2 to 1024 entries");
            }
        }
        let least = Duration::from_millis(1);
        let times = [self.keep_alive, self.command_timeout, self.setup_timeout];
        if times.iter().any(|time| *time < least) || self.reconnect_delay < least {
            return Err("a timeout or delay is below a millisecond");
        }
        if self.keep_alive.as_millis() > u128::from(u32::MAX) {
            return Err("the keep alive timeout is above 49 days");
        }
        Ok(())
    }
}
