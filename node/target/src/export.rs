//! What is served: NVM subsystems, their namespaces, and who may connect.
//!
//! Whoever exports a volume says this to the [target](crate::target); connections get the part that
//! their queue needs with the admission of their Connect. Source: Base sections 3.1.1, 3.2.1 and 4.5.

use std::{collections::BTreeSet, ops::RangeInclusive};

pub use fathom_nvme::Nqn;
use fathom_units::Nsid;
use uuid::Uuid;

/// Names a device that requests go to. What it is, the driver of the connections knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u64);

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its identifier in the subsystem, neither 0 nor all ones.
    pub nsid: Nsid,
    /// What its requests go to.
    pub device: DeviceId,
    /// How many logical blocks it has.
    pub blocks: u64,
    /// The binary logarithm of the size of a logical block, in bytes: 9 or 12.
    pub block_shift: u8,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its namespace globally unique identifier; all zero for none.
    pub nguid: [u8; 16],
    /// Only reads are allowed.
    pub read_only: bool,
    /// A write may be lost with the power until the next flush.
    pub write_cache: bool,
    /// Of what size, in bytes, writes are done best; a multiple of the logical block size.
    pub preferred_write_bytes: u32,
    /// Of what size, in bytes, deallocating gives space back; a multiple of the logical block size.
    pub preferred_deallocate_bytes: u32,
}

/// Which hosts may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hosts {
    /// Every host.
    Any,
    /// Hosts with these names.
    Listed(BTreeSet<Nqn>),
}

impl Hosts {
    /// Whether this host may connect.
    pub fn allow(&self, host: &Nqn) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(hosts) => hosts.contains(host),
        }
    }
}

/// An NVM subsystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subsystem {
    /// Its name, not that of the discovery service.
    pub nqn: Nqn,
    /// Its serial number, ASCII, padded with spaces.
    pub serial: [u8; 20],
    /// Who may connect.
    pub hosts: Hosts,
    /// The controller identifiers that this node may give out, at most FFEFh. Another node that
    /// serves the same subsystem has others.
    pub controllers: RangeInclusive<u16>,
    /// Its namespaces, by ascending identifier.
    pub namespaces: Vec<Namespace>,
}

impl Subsystem {
    /// The namespace with this identifier.
    pub fn namespace(&self, nsid: Nsid) -> Option<&Namespace> {
        find(&self.namespaces, nsid)
    }
}

/// The namespace with this identifier, in a list by ascending identifier.
pub(crate) fn find(namespaces: &[Namespace], nsid: Nsid) -> Option<&Namespace> {
    let at = namespaces.binary_search_by_key(&nsid, |namespace| namespace.nsid).ok()?;
    Some(&namespaces[at])
}
