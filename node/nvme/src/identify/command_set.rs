//! What the NVM command set adds to controller and namespace (CNS 06h, 05h), what is the same for
//! all command sets (CNS 08h), and which command sets there are (CNS 1Ch).
//!
//! Sources: NVM sections 4.1.5.3 and 4.1.5.4; sections 5.1.13.2.8 and 5.1.13.2.19.

use core::mem::offset_of;

use bitflags::bitflags;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::{IDENTIFY_SIZE, NamespaceSharing, sized};
use crate::Malformed;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct NvmControllerLayout {
    /// Byte 0, NVM 4.1.5.4 VSL.
    vsl: u8,
    /// Byte 1, NVM 4.1.5.4 WZSL.
    wzsl: u8,
    /// Byte 2, NVM 4.1.5.4 WUSL.
    wusl: u8,
    /// Byte 3, NVM 4.1.5.4 DMRL.
    dmrl: u8,
    /// Bytes 7:4, NVM 4.1.5.4 DMRSL.
    dmrsl: U32,
    /// Bytes 15:8, NVM 4.1.5.4 DMSL.
    dmsl: U64,
    /// Byte 16, NVM 4.1.5.4 KPIOCAP.
    kpiocap: u8,
    /// Byte 17, NVM 4.1.5.4 WZDSL.
    wzdsl: u8,
    /// Bytes 19:18, NVM 4.1.5.4 AOCS.
    aocs: U16,
    /// Bytes 23:20, NVM 4.1.5.4 VER.
    ver: U32,
    /// Bytes 4095:24, reserved and, in 1.1, of other features.
    other_24: [U64; 509],
}

const _: () = {
    assert!(size_of::<NvmControllerLayout>() == IDENTIFY_SIZE);
    assert!(offset_of!(NvmControllerLayout, dmrl) == 3);
    assert!(offset_of!(NvmControllerLayout, dmrsl) == 4);
    assert!(offset_of!(NvmControllerLayout, dmsl) == 8);
    assert!(offset_of!(NvmControllerLayout, wzdsl) == 17);
    assert!(offset_of!(NvmControllerLayout, aocs) == 18);
    assert!(offset_of!(NvmControllerLayout, ver) == 20);
};

/// How much one command of the NVM command set may do (NVM 4.1.5.4). Zero is no limit told.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NvmController {
    /// VSL: of Verify, 2^VSL smallest pages.
    pub verify_limit: u8,
    /// WZSL: of Write Zeroes, 2^WZSL smallest pages.
    pub write_zeroes_limit: u8,
    /// WUSL: of Write Uncorrectable, 2^WUSL smallest pages.
    pub write_uncorrectable_limit: u8,
    /// DMRL: ranges of Dataset Management (not 0's based).
    pub dataset_ranges: u8,
    /// DMRSL: blocks of one range of Dataset Management.
    pub dataset_range_blocks: u32,
    /// DMSL: blocks of all ranges of Dataset Management.
    pub dataset_blocks: u64,
    /// WZDSL: of Write Zeroes with DEAC, 2^WZDSL smallest pages.
    pub write_zeroes_deallocate_limit: u8,
}

impl NvmController {
    /// The structure.
    pub fn encode(&self) -> [u8; IDENTIFY_SIZE] {
        let layout = NvmControllerLayout {
            vsl: self.verify_limit,
            wzsl: self.write_zeroes_limit,
            wusl: self.write_uncorrectable_limit,
            dmrl: self.dataset_ranges,
            dmrsl: self.dataset_range_blocks.into(),
            dmsl: self.dataset_blocks.into(),
            kpiocap: 0,
            wzdsl: self.write_zeroes_deallocate_limit,
            aocs: U16::ZERO,
            ver: U32::ZERO,
            other_24: [U64::ZERO; 509],
        };
        zerocopy::transmute!(layout)
    }

    /// The value of a structure.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = sized("Identify Controller of the NVM command set", bytes)?;
        let layout: &NvmControllerLayout = zerocopy::transmute_ref!(bytes);
        Ok(Self {
            verify_limit: layout.vsl,
            write_zeroes_limit: layout.wzsl,
            write_uncorrectable_limit: layout.wusl,
            dataset_ranges: layout.dmrl,
            dataset_range_blocks: layout.dmrsl.get(),
            dataset_blocks: layout.dmsl.get(),
            write_zeroes_deallocate_limit: layout.wzdsl,
        })
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct NvmNamespaceLayout {
    /// Bytes 7:0, NVM 4.1.5.3 LBSTM.
    lbstm: U64,
    /// Byte 8, NVM 4.1.5.3 PIC.
    pic: u8,
    /// Bytes 11:9, NVM 4.1.5.3 PIFA and reserved.
    pifa: [u8; 3],
    /// Bytes 267:12, NVM 4.1.5.3 ELBAF0 to ELBAF63.
    elbaf: [U32; 64],
    /// Bytes 271:268, NVM 4.1.5.3 NPDGL.
    npdgl: U32,
    /// Bytes 275:272, NVM 4.1.5.3 NPRG.
    nprg: U32,
    /// Bytes 279:276, NVM 4.1.5.3 NPRA.
    npra: U32,
    /// Bytes 283:280, NVM 4.1.5.3 NORS.
    nors: U32,
    /// Bytes 287:284, NVM 4.1.5.3 NPDAL.
    npdal: U32,
    /// Bytes 4095:288, reserved and, in 1.1, of other features.
    other_288: [U64; 476],
}

const _: () = {
    assert!(size_of::<NvmNamespaceLayout>() == IDENTIFY_SIZE);
    assert!(offset_of!(NvmNamespaceLayout, pic) == 8);
    assert!(offset_of!(NvmNamespaceLayout, elbaf) == 12);
    assert!(offset_of!(NvmNamespaceLayout, npdgl) == 268);
    assert!(offset_of!(NvmNamespaceLayout, other_288) == 288);
};

/// What the NVM command set says of a namespace beyond Identify Namespace (NVM 4.1.5.3).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NvmNamespace {
    /// LBSTM: which bits of a storage tag are checked; 0 without protection information.
    pub storage_tag_mask: u64,
    /// PIC: what protection information there can be, bit by bit; 0 for none.
    pub protection: u8,
}

impl NvmNamespace {
    /// The structure.
    pub fn encode(&self) -> [u8; IDENTIFY_SIZE] {
        let layout = NvmNamespaceLayout {
            lbstm: self.storage_tag_mask.into(),
            pic: self.protection,
            pifa: [0; 3],
            elbaf: [U32::ZERO; 64],
            npdgl: U32::ZERO,
            nprg: U32::ZERO,
            npra: U32::ZERO,
            nors: U32::ZERO,
            npdal: U32::ZERO,
            other_288: [U64::ZERO; 476],
        };
        zerocopy::transmute!(layout)
    }

    /// The value of a structure.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = sized("Identify Namespace of the NVM command set", bytes)?;
        let layout: &NvmNamespaceLayout = zerocopy::transmute_ref!(bytes);
        Ok(Self { storage_tag_mask: layout.lbstm.get(), protection: layout.pic })
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct IndependentLayout {
    /// Byte 0, 5.1.13.2.8 NSFEAT.
    nsfeat: u8,
    /// Byte 1, 5.1.13.2.8 NMIC.
    nmic: u8,
    /// Byte 2, 5.1.13.2.8 RESCAP.
    rescap: u8,
    /// Byte 3, 5.1.13.2.8 FPI.
    fpi: u8,
    /// Bytes 7:4, 5.1.13.2.8 ANAGRPID.
    anagrpid: U32,
    /// Byte 8, 5.1.13.2.8 NSATTR.
    nsattr: u8,
    /// Byte 9, reserved.
    reserved_9: u8,
    /// Bytes 11:10, 5.1.13.2.8 NVMSETID.
    nvmsetid: U16,
    /// Bytes 13:12, 5.1.13.2.8 ENDGID.
    endgid: U16,
    /// Byte 14, 5.1.13.2.8 NSTAT.
    nstat: u8,
    /// Byte 15, 5.1.13.2.8 KPIOS.
    kpios: u8,
    /// Bytes 17:16, 5.1.13.2.8 MAXKT.
    maxkt: U16,
    /// Bytes 19:18, reserved.
    reserved_18: [u8; 2],
    /// Bytes 23:20, 5.1.13.2.8 RGRPID.
    rgrpid: U32,
    /// Bytes 4095:24, reserved.
    reserved_24: [U64; 509],
}

const _: () = {
    assert!(size_of::<IndependentLayout>() == IDENTIFY_SIZE);
    assert!(offset_of!(IndependentLayout, anagrpid) == 4);
    assert!(offset_of!(IndependentLayout, nsattr) == 8);
    assert!(offset_of!(IndependentLayout, nvmsetid) == 10);
    assert!(offset_of!(IndependentLayout, endgid) == 12);
    assert!(offset_of!(IndependentLayout, nstat) == 14);
    assert!(offset_of!(IndependentLayout, maxkt) == 16);
    assert!(offset_of!(IndependentLayout, rgrpid) == 20);
};

bitflags! {
    /// NSFEAT of the independent structure.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct IndependentFeatures: u8 {
        /// Bit 3, UIDREUSE: NGUID and EUI64 are never used again.
        const IDENTIFIERS_NEVER_REUSED = 1 << 3;
        /// Bit 4, RMEDIA: the media rotate.
        const ROTATIONAL = 1 << 4;
        /// Bit 5, VWCNP: of this namespace there is no volatile write cache.
        const NO_WRITE_CACHE = 1 << 5;
    }
}

/// What is said of a namespace whatever its command set is (5.1.13.2.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndependentNamespace {
    /// NSFEAT.
    pub features: IndependentFeatures,
    /// NMIC.
    pub sharing: NamespaceSharing,
    /// RESCAP: what reservations it takes; 0 for none.
    pub reservations: u8,
    /// ANAGRPID: its ANA group, 0 for none.
    pub ana_group: u32,
    /// NSATTR bit 0: it is write protected.
    pub write_protected: bool,
    /// NSTAT bit 0, NRDY: it is ready.
    pub ready: bool,
}

impl IndependentNamespace {
    /// The structure.
    pub fn encode(&self) -> [u8; IDENTIFY_SIZE] {
        let layout = IndependentLayout {
            nsfeat: self.features.bits(),
            nmic: self.sharing.bits(),
            rescap: self.reservations,
            fpi: 0,
            anagrpid: self.ana_group.into(),
            nsattr: u8::from(self.write_protected),
            reserved_9: 0,
            nvmsetid: U16::ZERO,
            endgid: U16::ZERO,
            nstat: u8::from(self.ready),
            kpios: 0,
            maxkt: U16::ZERO,
            reserved_18: [0; 2],
            rgrpid: U32::ZERO,
            reserved_24: [U64::ZERO; 509],
        };
        zerocopy::transmute!(layout)
    }

    /// The value of a structure.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = sized("I/O Command Set Independent Identify Namespace", bytes)?;
        let layout: &IndependentLayout = zerocopy::transmute_ref!(bytes);
        Ok(Self {
            features: IndependentFeatures::from_bits_truncate(layout.nsfeat),
            sharing: NamespaceSharing::from_bits_truncate(layout.nmic),
            reservations: layout.rescap,
            ana_group: layout.anagrpid.get(),
            write_protected: layout.nsattr & 1 == 1,
            ready: layout.nstat & 1 == 1,
        })
    }
}

bitflags! {
    /// Command sets that a controller can have at once (5.1.13.2.19, Figure 326).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CommandSetCombination: u64 {
        /// Bit 0: the NVM command set.
        const NVM = 1 << 0;
        /// Bit 1: the key value command set.
        const KEY_VALUE = 1 << 1;
        /// Bit 2: the zoned namespace command set.
        const ZONED = 1 << 2;
        /// Command sets that have no name here.
        const _ = !0;
    }
}

impl CommandSetCombination {
    /// The structure that offers these combinations (CNS 1Ch); at most 512.
    pub fn encode_all(combinations: &[Self]) -> [u8; IDENTIFY_SIZE] {
        let mut bytes = [0; IDENTIFY_SIZE];
        for (combination, entry) in combinations.iter().zip(bytes.chunks_exact_mut(8)) {
            entry.copy_from_slice(&combination.bits().to_le_bytes());
        }
        bytes
    }

    /// The combinations that a structure offers, up to the first that is empty.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another.
    pub fn decode_all(bytes: &[u8]) -> Result<impl Iterator<Item = Self>, Malformed> {
        let (entries, _) = sized("Identify I/O Command Sets", bytes)?.as_chunks();
        let all = entries.iter().map(|entry| Self::from_bits_retain(u64::from_le_bytes(*entry)));
        Ok(all.take_while(|combination| !combination.is_empty()))
    }
}
