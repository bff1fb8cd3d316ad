//! The completion queue entry: the 16 bytes with which a command is answered.
//!
//! Source: section 4.2, Figures 96 to 100.

use core::mem::offset_of;

use fathom_units::{Cid, Qid};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U64},
};

use crate::Status;

/// The bytes in a completion queue entry.
pub const COMPLETION_SIZE: usize = 16;

/// In the answer to a Connect, the SQHD that says that SQ flow control is disabled (6.3).
pub const SQHD_FLOW_CONTROL_DISABLED: u16 = 0xFFFF;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    /// Bytes 7:0, 4.2: dwords 0 and 1, what the command returns.
    result: U64,
    /// Bytes 9:8, 4.2.1 SQHD.
    sqhd: U16,
    /// Bytes 11:10, 4.2.1 SQID; reserved over fabrics.
    sqid: U16,
    /// Bytes 13:12, 4.2.2 CID.
    cid: U16,
    /// Bytes 15:14, 4.2.2 and 4.2.3: the status, above the phase tag.
    status: U16,
}

const _: () = {
    assert!(size_of::<Layout>() == COMPLETION_SIZE);
    assert!(offset_of!(Layout, sqhd) == 8);
    assert!(offset_of!(Layout, sqid) == 10);
    assert!(offset_of!(Layout, cid) == 12);
    assert!(offset_of!(Layout, status) == 14);
};

/// What a command is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Dwords 0 (low) and 1: what the command returns, by the command.
    pub result: u64,
    /// How far the controller has consumed the submission queue.
    pub sqhd: u16,
    /// The submission queue; [`Qid::ADMIN`] over fabrics, where the connection tells the queue and
    /// the field is reserved.
    pub sqid: Qid,
    /// The command.
    pub cid: Cid,
    /// How it ended.
    pub status: Status,
}

impl Completion {
    /// Success without a result.
    pub const fn success(cid: Cid) -> Self {
        Self::with_status(cid, Status::SUCCESS)
    }

    /// This status without a result.
    pub const fn with_status(cid: Cid, status: Status) -> Self {
        Self { result: 0, sqhd: 0, sqid: Qid::ADMIN, cid, status }
    }

    /// Dword 0 of the result.
    pub fn dword0(&self) -> u32 {
        u32::try_from(self.result & 0xFFFF_FFFF).expect("masked to 32 bits")
    }

    /// The bytes of the entry, with phase tag 0.
    pub fn encode(&self) -> [u8; COMPLETION_SIZE] {
        let layout = Layout {
            result: self.result.into(),
            sqhd: self.sqhd.into(),
            sqid: self.sqid.0.into(),
            cid: self.cid.0.into(),
            status: self.status.to_field().into(),
        };
        zerocopy::transmute!(layout)
    }

    /// The value of an entry. Every entry has one.
    pub fn decode(bytes: &[u8; COMPLETION_SIZE]) -> Self {
        let layout: &Layout = zerocopy::transmute_ref!(bytes);
        Self {
            result: layout.result.get(),
            sqhd: layout.sqhd.get(),
            sqid: Qid(layout.sqid.get()),
            cid: Cid(layout.cid.get()),
            status: Status::from_field(layout.status.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_stands_where_the_specification_has_it() {
        let completion = Completion {
            result: 0x0807_0605_0403_0201,
            sqhd: 0x0A09,
            sqid: Qid(0x0C0B),
            cid: Cid(0x0E0D),
            status: Status::INVALID_FIELD.do_not_retry(),
        };
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0x04, 0x80];
        assert_eq!(completion.encode(), bytes);
        assert_eq!(Completion::decode(&bytes), completion);
        assert_eq!(completion.dword0(), 0x0403_0201);
    }

    #[test]
    fn every_bit_but_the_phase_tag_is_kept() {
        let base = Completion::decode(&[0x5A; 16]);
        for bit in 0..128 {
            let mut bytes = [0x5A; 16];
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = Completion::decode(&bytes);
            assert_eq!(changed == base, bit == 112, "bit {bit}");
            bytes[14] &= !1;
            assert_eq!(changed.encode(), bytes);
        }
    }
}
