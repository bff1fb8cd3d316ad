//! The one SGL descriptor that a command over TCP has: where its data is.
//!
//! Sources: section 4.3.2; TCP section 3.3.2. Data is either in the command's own capsule
//! ([`DataPointer::InCapsule`]) or moved by R2T, H2CData and C2HData
//! ([`DataPointer::Transport`]). Keyed and segment descriptors do not exist over TCP.

use core::mem::offset_of;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use crate::Status;

/// An SGL descriptor as it stands in a command (4.3.2, Figures 115 and 118).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SglDescriptor {
    /// Bytes 7:0, 4.3.2: an address or an offset, by the sub type.
    address: U64,
    /// Bytes 11:8, 4.3.2: a length in bytes.
    length: U32,
    /// Bytes 14:12, reserved.
    reserved_12: [u8; 3],
    /// Byte 15, 4.3.2 (Figure 115): type in bits 7:4, sub type in bits 3:0.
    identifier: u8,
}

const _: () = {
    assert!(size_of::<SglDescriptor>() == 16);
    assert!(offset_of!(SglDescriptor, length) == 8);
    assert!(offset_of!(SglDescriptor, reserved_12) == 12);
    assert!(offset_of!(SglDescriptor, identifier) == 15);
};

/// Data block, sub type offset: data in the capsule.
const IN_CAPSULE: u8 = 0x01;
/// Transport data block, sub type Ah: data in the command data buffer.
const TRANSPORT: u8 = 0x5A;

/// Where the data of a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataPointer {
    /// In the capsule of the command.
    InCapsule {
        /// From the start of the capsule's data, in bytes.
        offset: u64,
        /// In bytes.
        length: u32,
    },
    /// In the host's command data buffer; H2CData and C2HData move it.
    Transport {
        /// The size of that buffer, in bytes.
        length: u32,
    },
}

impl SglDescriptor {
    /// The descriptor of a command without data: a transport data block of no bytes.
    pub const NONE: Self = Self::transport(0);

    /// Data of `length` bytes at the start of the capsule's data.
    pub const fn in_capsule(length: u32) -> Self {
        Self::new(0, length, IN_CAPSULE)
    }

    /// Data of `length` bytes in the host's command data buffer.
    pub const fn transport(length: u32) -> Self {
        Self::new(0, length, TRANSPORT)
    }

    /// A descriptor of any kind.
    pub const fn new(address: u64, length: u32, identifier: u8) -> Self {
        Self {
            address: U64::new(address),
            length: U32::new(length),
            reserved_12: [0; 3],
            identifier,
        }
    }

    /// Where the data is.
    ///
    /// # Errors
    ///
    /// [`Status::SGL_DESCRIPTOR_TYPE_INVALID`] for every type and sub type that is not one of the
    /// two of NVMe/TCP (TCP 3.3.2).
    pub const fn data_pointer(&self) -> Result<DataPointer, Status> {
        let length = self.length.get();
        match self.identifier {
            IN_CAPSULE => Ok(DataPointer::InCapsule { offset: self.address.get(), length }),
            TRANSPORT => Ok(DataPointer::Transport { length }),
            _ => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
        }
    }
}

impl DataPointer {
    /// How many bytes of data there are.
    pub const fn length(self) -> u32 {
        match self {
            Self::InCapsule { length, .. } | Self::Transport { length } => length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_bytes_of_the_specification() {
        let descriptor = SglDescriptor::new(0x1122_3344_5566_7788, 0xAABB_CCDD, 0x5A);
        let bytes =
            [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xDD, 0xCC, 0xBB, 0xAA, 0, 0, 0, 0x5A];
        assert_eq!(descriptor.as_bytes(), bytes);
        assert_eq!(SglDescriptor::in_capsule(7).as_bytes()[8..], [7, 0, 0, 0, 0, 0, 0, 0x01]);
        assert_eq!(SglDescriptor::NONE.as_bytes()[8..], [0, 0, 0, 0, 0, 0, 0, 0x5A]);
    }

    #[test]
    fn of_all_types_and_sub_types_two_are_known() {
        for identifier in 0..=255 {
            let pointer = SglDescriptor::new(3, 5, identifier).data_pointer();
            let expected = match identifier {
                0x01 => Ok(DataPointer::InCapsule { offset: 3, length: 5 }),
                0x5A => Ok(DataPointer::Transport { length: 5 }),
                _ => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
            };
            assert_eq!(pointer, expected, "{identifier:#x}");
        }
    }
}
