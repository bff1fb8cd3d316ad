//! Log pages: what Get Log Page returns.
//!
//! Before: [`GetLogPage`](crate::admin::GetLogPage). Sources: section 5.1.12.
//!
//! - A page is a row of bytes from which a host reads any part. What encodes one gives the whole
//!   page, or a part of fixed size where a page has no end (ANA, discovery).

use core::fmt;

mod ana;
mod discovery;
mod effects;
mod error;
mod health;

pub use ana::{ANA_HEADER_SIZE, AnaGroup, AnaHeader, AnaState};
pub use discovery::{
    AddressFamily, DISCOVERY_ENTRY_SIZE, DISCOVERY_HEADER_SIZE, DiscoveryEntry, DiscoveryHeader,
    EntryFlags, SecureChannel, SecurityType, SubsystemType, TransportAddress, TransportType,
};
pub use effects::{
    CommandEffect, CommandEffects, EffectsLog, FeatureEffect, FeatureEffects, LogPageSupport,
    SUPPORTED_LOG_PAGES_SIZE, SupportedLogPages,
};
pub use error::{ERROR_ENTRY_SIZE, ErrorEntry, ErrorLocation};
pub use health::{CriticalWarning, FirmwareSlots, Health};

/// A log page identifier (5.1.12, Figure 202).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u8);

impl LogId {
    /// Supported Log Pages.
    pub const SUPPORTED_LOG_PAGES: Self = Self(0x00);
    /// Error Information.
    pub const ERROR_INFORMATION: Self = Self(0x01);
    /// SMART / Health Information.
    pub const HEALTH: Self = Self(0x02);
    /// Firmware Slot Information.
    pub const FIRMWARE_SLOT: Self = Self(0x03);
    /// Changed Attached Namespace List.
    pub const CHANGED_NAMESPACES: Self = Self(0x04);
    /// Commands Supported and Effects.
    pub const COMMAND_EFFECTS: Self = Self(0x05);
    /// Asymmetric Namespace Access.
    pub const ANA: Self = Self(0x0C);
    /// Feature Identifiers Supported and Effects.
    pub const FEATURE_EFFECTS: Self = Self(0x12);
    /// Discovery.
    pub const DISCOVERY: Self = Self(0x70);
}

/// In the Changed Attached Namespace List, the first entry when there are more changes than it has
/// room for (5.1.12.1.5). The list is a [`NamespaceList`](crate::identify::NamespaceList).
pub const CHANGED_NAMESPACES_OVERFLOW: fathom_units::Nsid = fathom_units::Nsid::BROADCAST;

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({:02x}h)", self.0)
    }
}

#[cfg(test)]
mod tests;
