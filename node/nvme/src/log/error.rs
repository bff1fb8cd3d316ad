//! The Error Information log page: what went wrong last, the newest first.
//!
//! Source: section 5.1.12.1.2, Figure 205.

use core::mem::offset_of;

use fathom_units::{Cid, Lba, Nsid, Qid};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::TransportType;
use crate::Status;

/// The bytes of an entry.
pub const ERROR_ENTRY_SIZE: usize = 64;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    /// Bytes 7:0, 5.1.12.1.2 ERRCNT.
    errcnt: U64,
    /// Bytes 9:8, 5.1.12.1.2 SQID.
    sqid: U16,
    /// Bytes 11:10, 5.1.12.1.2 CID.
    cid: U16,
    /// Bytes 13:12, 5.1.12.1.2 STS, above the phase tag.
    sts: U16,
    /// Bytes 15:14, 5.1.12.1.2 PEL.
    pel: U16,
    /// Bytes 23:16, 5.1.12.1.2 LBA.
    lba: U64,
    /// Bytes 27:24, 5.1.12.1.2 NSID.
    nsid: U32,
    /// Byte 28, 5.1.12.1.2 VSIA.
    vsia: u8,
    /// Byte 29, 5.1.12.1.2 TRTYPE.
    trtype: u8,
    /// Byte 30, 5.1.12.1.2 CSI.
    csi: u8,
    /// Byte 31, 5.1.12.1.2 OPC.
    opc: u8,
    /// Bytes 39:32, 5.1.12.1.2 CSINFO.
    csinfo: U64,
    /// Bytes 41:40, 5.1.12.1.2 TTSI.
    ttsi: U16,
    /// Bytes 62:42, reserved.
    reserved_42: [u8; 21],
    /// Byte 63, 5.1.12.1.2 LPVER.
    lpver: u8,
}

const _: () = {
    assert!(size_of::<Layout>() == ERROR_ENTRY_SIZE);
    assert!(offset_of!(Layout, sqid) == 8);
    assert!(offset_of!(Layout, cid) == 10);
    assert!(offset_of!(Layout, sts) == 12);
    assert!(offset_of!(Layout, pel) == 14);
    assert!(offset_of!(Layout, lba) == 16);
    assert!(offset_of!(Layout, nsid) == 24);
    assert!(offset_of!(Layout, trtype) == 29);
    assert!(offset_of!(Layout, opc) == 31);
    assert!(offset_of!(Layout, csinfo) == 32);
    assert!(offset_of!(Layout, ttsi) == 40);
    assert!(offset_of!(Layout, reserved_42) == 42);
    assert!(offset_of!(Layout, lpver) == 63);
};

/// LPVER of 2.1: OPC and CSI are valid.
const VERSION: u8 = 1;
/// PEL of an error that no field of the command is to blame for.
const NO_LOCATION: u16 = 0xFFFF;

/// Which field of a command is to blame (PEL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorLocation {
    /// The byte of the command, 0 to 63.
    pub byte: u8,
    /// The bit of the byte, 0 to 7.
    pub bit: u8,
}

/// What went wrong once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorEntry {
    /// ERRCNT: counts errors from 1 on; 0 says that the entry is none.
    pub count: u64,
    /// SQID: the queue, all ones when none is to blame.
    pub qid: Qid,
    /// CID: the command, all ones when none is to blame.
    pub cid: Cid,
    /// STS: what the command was answered with.
    pub status: Status,
    /// PEL.
    pub location: Option<ErrorLocation>,
    /// LBA: the first block that the error concerns, 0 for none.
    pub lba: Lba,
    /// NSID: the namespace, 0 for none.
    pub nsid: Nsid,
    /// TRTYPE: over what it came.
    pub transport: TransportType,
    /// OPC: of the command.
    pub opcode: u8,
}

impl ErrorEntry {
    /// The bytes of an entry that is none.
    pub const NONE: [u8; ERROR_ENTRY_SIZE] = [0; ERROR_ENTRY_SIZE];

    /// The entry.
    ///
    /// # Panics
    ///
    /// When a location lies outside of a command.
    pub fn encode(&self) -> [u8; ERROR_ENTRY_SIZE] {
        let pel = match self.location {
            None => NO_LOCATION,
            Some(location) => {
                assert!(location.byte < 64 && location.bit < 8, "a command has 64 bytes");
                u16::from(location.byte) | u16::from(location.bit) << 8
            }
        };
        let layout = Layout {
            errcnt: self.count.into(),
            sqid: self.qid.0.into(),
            cid: self.cid.0.into(),
            sts: self.status.to_field().into(),
            pel: pel.into(),
            lba: self.lba.0.into(),
            nsid: self.nsid.0.into(),
            vsia: 0,
            trtype: self.transport.0,
            csi: 0,
            opc: self.opcode,
            csinfo: U64::ZERO,
            ttsi: U16::ZERO,
            reserved_42: [0; 21],
            lpver: VERSION,
        };
        zerocopy::transmute!(layout)
    }

    /// The value of an entry; none of one whose count is 0.
    pub fn decode(bytes: &[u8; ERROR_ENTRY_SIZE]) -> Option<Self> {
        let layout: &Layout = zerocopy::transmute_ref!(bytes);
        let count = layout.errcnt.get();
        let [byte, bit] = layout.pel.get().to_le_bytes();
        let location = ErrorLocation { byte: byte & 0x3F, bit: bit & 0x7 };
        (count != 0).then(|| Self {
            count,
            qid: Qid(layout.sqid.get()),
            cid: Cid(layout.cid.get()),
            status: Status::from_field(layout.sts.get()),
            location: (layout.pel.get() != NO_LOCATION).then_some(location),
            lba: Lba(layout.lba.get()),
            nsid: Nsid(layout.nsid.get()),
            transport: TransportType(layout.trtype),
            opcode: layout.opc,
        })
    }
}
