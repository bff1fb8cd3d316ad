//! One controller: its properties, and what its host has set.
//!
//! ```text
//!   CC.EN 0 -> 1: ready                 CC.EN 1 -> 0: its I/O queues end, then not ready
//!   CC.SHN: its devices are flushed, then shut down
//! ```
//!
//! Source: Base sections 3.1.4, 3.5.3, 3.6.2 and 3.7.2.

use std::collections::VecDeque;

use fathom_nvme::{
    Status,
    fabrics::{PropertyGet, PropertySet},
    identify::Ascii,
    property::{
        Capabilities, CommandSets, Configuration, ControllerStatus, Property, PropertySize,
        ReadyTimeouts, ShutdownNotification, ShutdownStatus, Version,
    },
};
use fathom_units::Cntlid;

use super::{Portal, Settings, events::Events};
use crate::connection::{Slot, Traffic};

/// The specification that controllers follow.
pub(super) const VERSION: Version = Version::V2_1;
/// How long a controller may take to become ready or not ready, in milliseconds: a reset waits for
/// what is at devices.
pub(super) const READY_TIMEOUT_MS: u32 = 30_000;
/// The smallest memory page, in bytes, in which MDTS counts.
pub(super) const PAGE_BYTES: u32 = 4096;

/// What a controller is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Io,
    /// Discovery, for a host that has reached this side there.
    Discovery {
        reached: Portal,
    },
}

/// What the queues of a controller have moved that are gone.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Moved {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

impl Moved {
    pub(super) fn add(&mut self, traffic: &Traffic) {
        self.reads += traffic.reads();
        self.writes += traffic.writes();
        self.read_bytes += traffic.read_bytes();
        self.written_bytes += traffic.written_bytes();
    }
}

/// A controller.
pub(super) struct Controller {
    pub(super) id: Cntlid,
    pub(super) kind: Kind,
    configuration: Configuration,
    status: ControllerStatus,
    /// I/O queues that the host may have.
    pub(super) io_queues: u16,
    pub(super) keep_alive_ms: u32,
    pub(super) events: Events,
    pub(super) traffic: Moved,
    /// Flushes that a shutdown waits for.
    flushes: usize,
}

/// What the change of a property asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    None,
    /// The I/O queues are to end.
    Reset,
    /// The devices are to be flushed.
    Shutdown,
    /// Both.
    ResetAndShutdown,
}

impl Change {
    pub(super) fn resets(self) -> bool {
        matches!(self, Self::Reset | Self::ResetAndShutdown)
    }

    pub(super) fn shuts_down(self) -> bool {
        matches!(self, Self::Shutdown | Self::ResetAndShutdown)
    }
}

/// # Panics
///
/// When settings cannot be told to a host.
pub(super) fn check(settings: &Settings) {
    let limits = settings.limits;
    let transfer = limits.transfer_bytes_max;
    assert!(transfer.is_power_of_two() && transfer >= PAGE_BYTES, "MDTS is a power of two pages");
    assert!(limits.capsule_bytes_max.is_multiple_of(16), "IOCCSZ counts 16 bytes");
    let h2c = limits.h2c_data_bytes_max;
    assert!(h2c.is_multiple_of(4) && h2c >= 4096, "MAXH2CDATA is a multiple of 4, from 4096 on");
    assert!((2..=65_536).contains(&limits.queue_entries_max), "a queue has 2 to 65,536 entries");
    assert!(limits.io_queues_max > 0, "a controller has an I/O queue");
    assert!(Ascii::<40>::new(&settings.model).is_some(), "the model number is 40 ASCII characters");
    assert!(Ascii::<8>::new(&settings.firmware).is_some(), "the revision is 8 ASCII characters");
}

impl Controller {
    /// A controller that is not enabled yet.
    pub(super) fn new(id: Cntlid, kind: Kind, keep_alive_ms: u32) -> Self {
        Self {
            id,
            kind,
            configuration: Configuration::DISABLED,
            status: ControllerStatus::RESET,
            io_queues: 0,
            keep_alive_ms,
            events: Events::default(),
            traffic: Moved::default(),
            flushes: 0,
        }
    }

    /// Whether it takes commands other than those of fabrics.
    pub(super) fn is_ready(&self) -> bool {
        self.status.ready && self.configuration.enable
    }

    /// The value of a property.
    pub(super) fn get(&self, get: PropertyGet, settings: &Settings) -> Result<u64, Status> {
        let property = Property::at(get.offset).ok_or(Status::INVALID_FIELD)?;
        if property.size() != get.size {
            return Err(Status::INVALID_FIELD);
        }
        match property {
            Property::Capabilities => Ok(self.capabilities(settings).encode()),
            Property::Version => Ok(VERSION.encode().into()),
            Property::Configuration => Ok(self.configuration.encode().into()),
            Property::Status => Ok(self.status.encode().into()),
            Property::ReadyTimeouts => {
                let timeouts =
                    ReadyTimeouts { with_media_ms: READY_TIMEOUT_MS, independent_of_media_ms: 0 };
                Ok(timeouts.encode().into())
            }
            Property::SubsystemReset => Err(Status::INVALID_FIELD),
        }
    }

    fn capabilities(&self, settings: &Settings) -> Capabilities {
        Capabilities {
            queue_entries_max: settings.limits.queue_entries_max,
            contiguous_queues: true,
            arbitration: 0,
            timeout_ms: READY_TIMEOUT_MS,
            subsystem_reset: false,
            command_sets: match self.kind {
                Kind::Io => CommandSets::NVM | CommandSets::IO_COMMAND_SETS,
                Kind::Discovery { .. } => CommandSets::NVM,
            },
            page_size_min: 0,
            page_size_max: 0,
            ready_modes: 0b01,
        }
    }

    /// Sets a property. Only the configuration can be set.
    pub(super) fn set(&mut self, set: PropertySet) -> Result<Change, Status> {
        if Property::at(set.offset) != Some(Property::Configuration)
            || set.size != PropertySize::Four
        {
            return Err(Status::INVALID_FIELD);
        }
        let value = u32::try_from(set.value).map_err(|_| Status::INVALID_FIELD)?;
        let old = core::mem::replace(&mut self.configuration, Configuration::decode(value));
        let new = self.configuration;
        let resets = old.enable && !new.enable;
        if resets {
            // Of the life that ends. A shutdown that is asked for now, or until the next one begins,
            // is another one.
            self.status.shutdown = ShutdownStatus::Normal;
        }
        if !old.enable && new.enable {
            self.enable();
        }
        let asked = |configuration: Configuration| {
            matches!(
                configuration.shutdown,
                ShutdownNotification::Normal | ShutdownNotification::Abrupt
            )
        };
        let shuts_down = asked(new) && !asked(old);
        if shuts_down {
            self.status.shutdown = ShutdownStatus::Occurring;
        }
        Ok(match (resets, shuts_down) {
            (true, true) => Change::ResetAndShutdown,
            (true, false) => Change::Reset,
            (false, true) => Change::Shutdown,
            (false, false) => Change::None,
        })
    }

    fn enable(&mut self) {
        let new = self.configuration;
        // Hosts of a discovery controller leave the entry sizes at zero.
        let sizes = new.io_submission_entry_size == Configuration::IOSQES
            && new.io_completion_entry_size == Configuration::IOCQES
            || matches!(self.kind, Kind::Discovery { .. });
        let command_set =
            matches!(new.command_set, Configuration::CSS_NVM | Configuration::CSS_ALL);
        let sound = sizes
            && command_set
            && new.page_size == 0
            && new.arbitration == Configuration::AMS_ROUND_ROBIN;
        self.status = ControllerStatus { ready: sound, fatal: !sound, ..ControllerStatus::RESET };
    }

    /// No request of the I/O queues can reach a device any more: a reset that waits for that is
    /// complete, and the controller is what it is before it is enabled (Base 3.7.2). The keep alive
    /// timeout is the association's and stays. Returns the requests for events that are left.
    pub(super) fn io_queues_gone(&mut self) -> VecDeque<Slot> {
        // A controller that is not enabled can be shut down all the same (Base 3.6).
        let reset = ControllerStatus { shutdown: self.status.shutdown, ..ControllerStatus::RESET };
        if self.configuration.enable || self.status == reset {
            return VecDeque::new();
        }
        self.status = reset;
        self.io_queues = 0;
        self.events.reset()
    }

    /// Whether it waits for a reset, a shutdown or to be enabled, which may take longer than a host's
    /// keep alive timeout; hosts send no keep alive meanwhile (Base 3.9).
    pub(super) fn is_in_transition(&self) -> bool {
        !self.is_ready() || self.status.shutdown != ShutdownStatus::Normal
    }

    /// A shutdown waits for so many flushes.
    pub(super) fn shut_down(&mut self, flushes: usize) {
        // Those of a shutdown that was given up may still be under way.
        self.flushes += flushes;
        if self.flushes == 0 {
            self.status.shutdown = ShutdownStatus::Complete;
        }
    }

    /// One of the flushes of a shutdown has ended.
    pub(super) fn flushed(&mut self, succeeded: bool) {
        self.flushes -= 1;
        self.status.fatal |= !succeeded;
        if self.flushes == 0 && self.status.shutdown == ShutdownStatus::Occurring {
            self.status.shutdown = ShutdownStatus::Complete;
        }
    }
}
