//! The submission queue entry: the 64 bytes of a command, before anybody knows which one it is.
//!
//! Before: a capsule's bytes ([`crate::tcp`]). Next: the command of its set ([`crate::fabrics`],
//! [`crate::admin`], [`crate::nvm`]), whose fields are those of dwords 10 to 15.
//! Source: section 4.1, Figures 91 and 92 (and 94, 95 for Fabrics).

use core::mem::offset_of;

use fathom_units::{Cid, Nsid};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use crate::{SglDescriptor, Status};

/// The bytes in a submission queue entry.
pub const SUBMISSION_ENTRY_SIZE: usize = 64;

/// A submission queue entry, a view of its bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SubmissionEntry {
    /// Byte 0, 4.1 OPC.
    opcode: u8,
    /// Byte 1, 4.1: FUSE in bits 1:0, reserved 5:2, PSDT in bits 7:6.
    flags: u8,
    /// Bytes 3:2, 4.1 CID.
    cid: U16,
    /// Bytes 7:4, 4.1 NSID; in byte 4 of a Fabrics command, FCTYPE.
    nsid: U32,
    /// Bytes 11:8, 4.1 CDW2.
    cdw2: U32,
    /// Bytes 15:12, 4.1 CDW3.
    cdw3: U32,
    /// Bytes 23:16, 4.1 MPTR.
    mptr: U64,
    /// Bytes 39:24, 4.1 DPTR, over fabrics always an SGL descriptor.
    sgl1: SglDescriptor,
    /// Bytes 63:40, 4.1 CDW10 to CDW15.
    command: [U32; 6],
}

const _: () = {
    assert!(size_of::<SubmissionEntry>() == SUBMISSION_ENTRY_SIZE);
    assert!(offset_of!(SubmissionEntry, flags) == 1);
    assert!(offset_of!(SubmissionEntry, cid) == 2);
    assert!(offset_of!(SubmissionEntry, nsid) == 4);
    assert!(offset_of!(SubmissionEntry, cdw2) == 8);
    assert!(offset_of!(SubmissionEntry, cdw3) == 12);
    assert!(offset_of!(SubmissionEntry, mptr) == 16);
    assert!(offset_of!(SubmissionEntry, sgl1) == 24);
    assert!(offset_of!(SubmissionEntry, command) == 40);
};

/// Which part of a fused operation a command is (4.1, FUSE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fuse {
    /// A command by itself.
    Normal,
    /// The first command of a fused operation.
    First,
    /// The second command of a fused operation.
    Second,
}

/// The PSDT of every command over fabrics: SGLs, metadata contiguous (4.1).
const PSDT_SGL: u8 = 0b01;

impl SubmissionEntry {
    /// An entry with this opcode; everything else is zero but PSDT, which says that SGLs are used,
    /// and the descriptor of no data.
    pub fn new(opcode: u8) -> Self {
        Self {
            opcode,
            flags: PSDT_SGL << 6,
            cid: U16::ZERO,
            nsid: U32::ZERO,
            cdw2: U32::ZERO,
            cdw3: U32::ZERO,
            mptr: U64::ZERO,
            sgl1: SglDescriptor::NONE,
            command: [U32::ZERO; 6],
        }
    }

    /// A view of the entry in `bytes`, which are one entry's.
    pub fn view(bytes: &[u8; SUBMISSION_ENTRY_SIZE]) -> &Self {
        zerocopy::transmute_ref!(bytes)
    }

    /// The bytes of the entry.
    pub fn to_bytes(self) -> [u8; SUBMISSION_ENTRY_SIZE] {
        zerocopy::transmute!(self)
    }

    /// Bits 7:0 of dword 0.
    pub const fn opcode(&self) -> u8 {
        self.opcode
    }

    /// Bits 9:8 of dword 0.
    ///
    /// # Errors
    ///
    /// [`Status::INVALID_FIELD`] for 11b, which is reserved.
    pub const fn fuse(&self) -> Result<Fuse, Status> {
        match self.flags & 0b11 {
            0 => Ok(Fuse::Normal),
            1 => Ok(Fuse::First),
            2 => Ok(Fuse::Second),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// Bits 15:14 of dword 0 have the value that every command over fabrics has: SGLs.
    ///
    /// # Errors
    ///
    /// [`Status::INVALID_FIELD`] when the command says that it uses PRPs, or a metadata SGL.
    pub const fn check_psdt(&self) -> Result<(), Status> {
        if self.flags >> 6 == PSDT_SGL { Ok(()) } else { Err(Status::INVALID_FIELD) }
    }

    /// Bits 31:16 of dword 0.
    pub const fn cid(&self) -> Cid {
        Cid(self.cid.get())
    }

    /// Dword 1.
    pub const fn nsid(&self) -> Nsid {
        Nsid(self.nsid.get())
    }

    /// Bits 7:0 of dword 1 of a Fabrics command (Figure 94).
    pub const fn fctype(&self) -> u8 {
        (self.nsid.get() & 0xFF) as u8
    }

    /// Dwords 6 to 9.
    pub const fn sgl(&self) -> &SglDescriptor {
        &self.sgl1
    }

    /// Dword `NUMBER` of 10 to 15.
    pub const fn cdw<const NUMBER: usize>(&self) -> u32 {
        const { assert!(NUMBER >= 10 && NUMBER <= 15, "dwords 10 to 15 are the command's") };
        self.command[NUMBER - 10].get()
    }

    /// Dwords `NUMBER` and the next, of 10 to 14, as one number.
    pub const fn cdw_pair<const NUMBER: usize>(&self) -> u64 {
        const { assert!(NUMBER >= 10 && NUMBER <= 14, "dwords 10 to 15 are the command's") };
        let (low, high) = (self.command[NUMBER - 10].get(), self.command[NUMBER - 9].get());
        low as u64 | (high as u64) << 32
    }

    /// The same with this CID.
    #[must_use]
    pub fn with_cid(mut self, cid: Cid) -> Self {
        self.cid = cid.0.into();
        self
    }

    /// The same as this part of a fused operation.
    #[must_use]
    pub fn with_fuse(mut self, fuse: Fuse) -> Self {
        let bits = match fuse {
            Fuse::Normal => 0,
            Fuse::First => 1,
            Fuse::Second => 2,
        };
        self.flags = self.flags & !0b11 | bits;
        self
    }

    /// The same for this namespace.
    #[must_use]
    pub fn with_nsid(mut self, nsid: Nsid) -> Self {
        self.nsid = nsid.0.into();
        self
    }

    /// The same with its data there.
    #[must_use]
    pub fn with_sgl(mut self, sgl: SglDescriptor) -> Self {
        self.sgl1 = sgl;
        self
    }

    /// The same with dword `NUMBER`, of 10 to 15, changed.
    #[must_use]
    pub fn with_cdw<const NUMBER: usize>(mut self, value: u32) -> Self {
        const { assert!(NUMBER >= 10 && NUMBER <= 15, "dwords 10 to 15 are the command's") };
        self.command[NUMBER - 10] = value.into();
        self
    }

    /// The same with dwords `NUMBER` and the next, of 10 to 14, changed.
    #[must_use]
    pub fn with_cdw_pair<const NUMBER: usize>(mut self, value: u64) -> Self {
        const { assert!(NUMBER >= 10 && NUMBER <= 14, "dwords 10 to 15 are the command's") };
        let (low, high) = (value & 0xFFFF_FFFF, value >> 32);
        self.command[NUMBER - 10] = u32::try_from(low).expect("masked to 32 bits").into();
        self.command[NUMBER - 9] = u32::try_from(high).expect("shifted by 32 bits").into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry whose every byte is its own position.
    fn counted() -> [u8; 64] {
        core::array::from_fn(|at| u8::try_from(at).expect("64 bytes"))
    }

    #[test]
    fn each_field_stands_where_the_specification_has_it() {
        let bytes = counted();
        let entry = SubmissionEntry::view(&bytes);
        assert_eq!(entry.opcode(), 0);
        assert_eq!(entry.cid(), Cid(0x0302));
        assert_eq!(entry.nsid(), Nsid(0x0706_0504));
        assert_eq!(entry.fctype(), 0x04);
        assert_eq!(entry.sgl().as_bytes(), &bytes[24..40]);
        assert_eq!(entry.cdw::<10>(), 0x2B2A_2928);
        assert_eq!(entry.cdw::<13>(), 0x3736_3534);
        assert_eq!(entry.cdw::<15>(), 0x3F3E_3D3C);
        assert_eq!(entry.cdw_pair::<10>(), 0x2F2E_2D2C_2B2A_2928);
        assert_eq!(entry.cdw_pair::<14>(), 0x3F3E_3D3C_3B3A_3938);
        assert_eq!(entry.to_bytes(), bytes);
    }

    #[test]
    fn what_is_set_changes_nothing_else() {
        let bytes = [0xFF; 64];
        let full = *SubmissionEntry::view(&bytes);
        let set = full
            .with_cid(Cid(0x1234))
            .with_nsid(Nsid(0x1122_3344))
            .with_fuse(Fuse::First)
            .with_cdw::<12>(0x5566_7788)
            .with_cdw_pair::<14>(0x0102_0304_0506_0708);
        let mut expected = bytes;
        expected[1] = 0xFD;
        expected[2..4].copy_from_slice(&[0x34, 0x12]);
        expected[4..8].copy_from_slice(&[0x44, 0x33, 0x22, 0x11]);
        expected[48..52].copy_from_slice(&[0x88, 0x77, 0x66, 0x55]);
        expected[56..64].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(set.to_bytes(), expected);
    }

    #[test]
    fn fuse_and_psdt_have_two_bits_each() {
        for flags in 0..=255u8 {
            let mut bytes = [0xA5; 64];
            bytes[1] = flags;
            let entry = SubmissionEntry::view(&bytes);
            let fuse = match flags & 3 {
                0 => Ok(Fuse::Normal),
                1 => Ok(Fuse::First),
                2 => Ok(Fuse::Second),
                _ => Err(Status::INVALID_FIELD),
            };
            assert_eq!(entry.fuse(), fuse);
            assert_eq!(entry.check_psdt().is_ok(), flags & 0xC0 == 0x40, "{flags:#x}");
        }
    }

    #[test]
    fn a_new_entry_is_one_of_fabrics_without_data() {
        let bytes = SubmissionEntry::new(0x7F).to_bytes();
        assert_eq!(bytes[..2], [0x7F, 0x40]);
        assert_eq!(bytes[39], 0x5A);
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 3);
    }
}
