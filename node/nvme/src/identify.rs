//! The structures that Identify returns, 4096 bytes each.
//!
//! Before: [`Identify`](crate::admin::Identify). Sources: section 5.1.13, NVM section 4.1.5.
//!
//! - A value has the fields that a controller over fabrics has something to say about; the others
//!   are zero when it is encoded, which says that there is none, and are ignored when decoded.

use crate::Malformed;

mod command_set;
mod controller;
mod lists;
mod namespace;

pub use command_set::{
    CommandSetCombination, IndependentFeatures, IndependentNamespace, NvmController, NvmNamespace,
};
pub use controller::{
    AdminCommands, AnaCapabilities, Ascii, AsyncEventsSupported, ControllerAttributes,
    ControllerType, Fuses, IdentifyController, IoCommands, LogPageAttributes, MultiPath,
    SglSupport, WriteCache,
};
pub use lists::{ControllerList, NamespaceDescriptors, NamespaceList};
pub use namespace::{
    Atomicity, DeallocateFeatures, IdentifyNamespace, LbaFormat, NamespaceFeatures,
    NamespaceSharing, Preferred,
};

/// The bytes of every structure.
pub const IDENTIFY_SIZE: usize = 4096;
/// The NVM command set (5.1.13.1, CSI).
pub const CSI_NVM: u8 = 0x00;

/// Which structure is asked for (5.1.13.1, Figure 310).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cns(pub u8);

impl Cns {
    /// [`IdentifyNamespace`] of an active namespace.
    pub const NAMESPACE: Self = Self(0x00);
    /// [`IdentifyController`].
    pub const CONTROLLER: Self = Self(0x01);
    /// [`NamespaceList`] of active namespaces.
    pub const ACTIVE_NAMESPACES: Self = Self(0x02);
    /// [`NamespaceDescriptors`].
    pub const NAMESPACE_DESCRIPTORS: Self = Self(0x03);
    /// [`NvmNamespace`], for the NVM command set.
    pub const NAMESPACE_OF_COMMAND_SET: Self = Self(0x05);
    /// [`NvmController`], for the NVM command set.
    pub const CONTROLLER_OF_COMMAND_SET: Self = Self(0x06);
    /// [`NamespaceList`] of active namespaces of a command set.
    pub const ACTIVE_NAMESPACES_OF_COMMAND_SET: Self = Self(0x07);
    /// [`IndependentNamespace`].
    pub const NAMESPACE_INDEPENDENT: Self = Self(0x08);
    /// [`NamespaceList`] of allocated namespaces.
    pub const ALLOCATED_NAMESPACES: Self = Self(0x10);
    /// [`IdentifyNamespace`] of an allocated namespace.
    pub const ALLOCATED_NAMESPACE: Self = Self(0x11);
    /// [`ControllerList`] of a namespace's controllers.
    pub const CONTROLLERS_OF_NAMESPACE: Self = Self(0x12);
    /// [`ControllerList`] of the subsystem's controllers.
    pub const CONTROLLERS: Self = Self(0x13);
    /// Primary controller capabilities.
    pub const PRIMARY_CONTROLLER: Self = Self(0x14);
    /// Secondary controllers.
    pub const SECONDARY_CONTROLLERS: Self = Self(0x15);
    /// Namespace granularities.
    pub const NAMESPACE_GRANULARITY: Self = Self(0x16);
    /// UUIDs.
    pub const UUIDS: Self = Self(0x17);
    /// [`NamespaceList`] of allocated namespaces of a command set.
    pub const ALLOCATED_NAMESPACES_OF_COMMAND_SET: Self = Self(0x1A);
    /// [`NvmNamespace`] of an allocated namespace.
    pub const ALLOCATED_NAMESPACE_OF_COMMAND_SET: Self = Self(0x1B);
    /// [`CommandSetCombination`]s.
    pub const COMMAND_SETS: Self = Self(0x1C);
}

/// The bytes of a structure, when there are as many as it has.
fn sized<'a>(
    structure: &'static str,
    bytes: &'a [u8],
) -> Result<&'a [u8; IDENTIFY_SIZE], Malformed> {
    let error = Malformed::Length { structure, expected: IDENTIFY_SIZE, found: bytes.len() };
    <&[u8; IDENTIFY_SIZE]>::try_from(bytes).map_err(|_| error)
}

/// A 0's based field of `count`, which is 1 to 65,536.
fn zero_based_16(field: &'static str, count: u32) -> zerocopy::little_endian::U16 {
    let value = count.checked_sub(1).and_then(|value| u16::try_from(value).ok());
    let Some(value) = value else { panic!("{field} says 1 to 65,536, not {count}") };
    value.into()
}

/// A 0's based field of `count`, which is 1 to 256.
fn zero_based_8(field: &'static str, count: u16) -> u8 {
    let value = count.checked_sub(1).and_then(|value| u8::try_from(value).ok());
    let Some(value) = value else { panic!("{field} says 1 to 256, not {count}") };
    value
}

#[cfg(test)]
mod tests;
