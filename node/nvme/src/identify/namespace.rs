//! Identify Namespace of the NVM command set: a namespace's size, format and limits (CNS 00h, 11h).
//!
//! Source: NVM section 4.1.5.1, Figure 114.

use core::mem::offset_of;

use bitflags::bitflags;
use fathom_units::BlockCount;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64, U128},
};

use super::{IDENTIFY_SIZE, sized, zero_based_16};
use crate::Malformed;

const STRUCTURE: &str = "Identify Namespace";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    /// Bytes 7:0, NVM 4.1.5.1 NSZE.
    nsze: U64,
    /// Bytes 15:8, NVM 4.1.5.1 NCAP.
    ncap: U64,
    /// Bytes 23:16, NVM 4.1.5.1 NUSE.
    nuse: U64,
    /// Byte 24, NVM 4.1.5.1 NSFEAT.
    nsfeat: u8,
    /// Byte 25, NVM 4.1.5.1 NLBAF.
    nlbaf: u8,
    /// Byte 26, NVM 4.1.5.1 FLBAS.
    flbas: u8,
    /// Byte 27, NVM 4.1.5.1 MC.
    mc: u8,
    /// Byte 28, NVM 4.1.5.1 DPC.
    dpc: u8,
    /// Byte 29, NVM 4.1.5.1 DPS.
    dps: u8,
    /// Byte 30, NVM 4.1.5.1 NMIC.
    nmic: u8,
    /// Byte 31, NVM 4.1.5.1 RESCAP.
    rescap: u8,
    /// Byte 32, NVM 4.1.5.1 FPI.
    fpi: u8,
    /// Byte 33, NVM 4.1.5.1 DLFEAT.
    dlfeat: u8,
    /// Bytes 35:34, NVM 4.1.5.1 NAWUN.
    nawun: U16,
    /// Bytes 37:36, NVM 4.1.5.1 NAWUPF.
    nawupf: U16,
    /// Bytes 39:38, NVM 4.1.5.1 NACWU.
    nacwu: U16,
    /// Bytes 41:40, NVM 4.1.5.1 NABSN.
    nabsn: U16,
    /// Bytes 43:42, NVM 4.1.5.1 NABO.
    nabo: U16,
    /// Bytes 45:44, NVM 4.1.5.1 NABSPF.
    nabspf: U16,
    /// Bytes 47:46, NVM 4.1.5.1 NOIOB.
    noiob: U16,
    /// Bytes 63:48, NVM 4.1.5.1 NVMCAP.
    nvmcap: U128,
    /// Bytes 65:64, NVM 4.1.5.1 NPWG.
    npwg: U16,
    /// Bytes 67:66, NVM 4.1.5.1 NPWA.
    npwa: U16,
    /// Bytes 69:68, NVM 4.1.5.1 NPDG.
    npdg: U16,
    /// Bytes 71:70, NVM 4.1.5.1 NPDA.
    npda: U16,
    /// Bytes 73:72, NVM 4.1.5.1 NOWS.
    nows: U16,
    /// Bytes 75:74, NVM 4.1.5.1 MSSRL.
    mssrl: U16,
    /// Bytes 79:76, NVM 4.1.5.1 MCL.
    mcl: U32,
    /// Byte 80, NVM 4.1.5.1 MSRC.
    msrc: u8,
    /// Byte 81, NVM 4.1.5.1 KPIOS.
    kpios: u8,
    /// Byte 82, NVM 4.1.5.1 NULBAF.
    nulbaf: u8,
    /// Byte 83, reserved.
    reserved_83: u8,
    /// Bytes 87:84, NVM 4.1.5.1 KPIODAAG.
    kpiodaag: U32,
    /// Bytes 91:88, reserved.
    reserved_88: [u8; 4],
    /// Bytes 95:92, NVM 4.1.5.1 ANAGRPID.
    anagrpid: U32,
    /// Bytes 98:96, reserved.
    reserved_96: [u8; 3],
    /// Byte 99, NVM 4.1.5.1 NSATTR.
    nsattr: u8,
    /// Bytes 101:100, NVM 4.1.5.1 NVMSETID.
    nvmsetid: U16,
    /// Bytes 103:102, NVM 4.1.5.1 ENDGID.
    endgid: U16,
    /// Bytes 119:104, NVM 4.1.5.1 NGUID.
    nguid: [u8; 16],
    /// Bytes 127:120, NVM 4.1.5.1 EUI64.
    eui64: [u8; 8],
    /// Bytes 383:128, NVM 4.1.5.1 LBAF0 to LBAF63.
    lbaf: [LbaFormatLayout; FORMATS_MAX],
    /// Bytes 4095:384, vendor specific.
    vendor: [U64; 464],
}

/// Bytes of LBAFn, NVM 4.1.5.1, Figure 116.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct LbaFormatLayout {
    /// Bits 15:0, NVM 4.1.5.1 MS.
    ms: U16,
    /// Bits 23:16, NVM 4.1.5.1 LBADS.
    lbads: u8,
    /// Bits 25:24, NVM 4.1.5.1 RP; above, reserved.
    rp: u8,
}

const FORMATS_MAX: usize = 64;

const _: () = {
    assert!(size_of::<Layout>() == IDENTIFY_SIZE);
    assert!(offset_of!(Layout, nsfeat) == 24);
    assert!(offset_of!(Layout, nmic) == 30);
    assert!(offset_of!(Layout, dlfeat) == 33);
    assert!(offset_of!(Layout, nawun) == 34);
    assert!(offset_of!(Layout, noiob) == 46);
    assert!(offset_of!(Layout, nvmcap) == 48);
    assert!(offset_of!(Layout, npwg) == 64);
    assert!(offset_of!(Layout, mcl) == 76);
    assert!(offset_of!(Layout, kpiodaag) == 84);
    assert!(offset_of!(Layout, anagrpid) == 92);
    assert!(offset_of!(Layout, nsattr) == 99);
    assert!(offset_of!(Layout, nguid) == 104);
    assert!(offset_of!(Layout, eui64) == 120);
    assert!(offset_of!(Layout, lbaf) == 128);
    assert!(offset_of!(Layout, vendor) == 384);
    assert!(size_of::<LbaFormatLayout>() == 4);
    assert!(offset_of!(LbaFormatLayout, lbads) == 2);
};

bitflags! {
    /// NSFEAT, without the bits that say whether other fields count.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct NamespaceFeatures: u8 {
        /// Bit 0, THINP: NCAP may be below NSZE, and NUSE counts.
        const THIN = 1 << 0;
        /// Bit 2, DAE: reading deallocated blocks can be made an error.
        const DEALLOCATED_ERROR = 1 << 2;
        /// Bit 3, UIDREUSE: NGUID and EUI64 are never used again.
        const IDENTIFIERS_NEVER_REUSED = 1 << 3;
    }

    /// NMIC: who else can have the namespace.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct NamespaceSharing: u8 {
        /// Bit 0, SHRNS: more than one controller.
        const SHARED = 1 << 0;
        /// Bit 1, DISNS: controllers of more than one subsystem.
        const DISPERSED = 1 << 1;
    }

    /// DLFEAT: what deallocated blocks are like.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct DeallocateFeatures: u8 {
        /// Bits 2:0 as 001b, DULBRB: they read as zero.
        const READ_ZEROES = 1 << 0;
        /// Bits 2:0 as 010b, DULBRB: they read as ones.
        const READ_ONES = 1 << 1;
        /// Bit 3, WZDS: Write Zeroes takes DEAC.
        const WRITE_ZEROES_DEALLOCATES = 1 << 3;
        /// Bit 4, GDS: their guard is that of the data they read as.
        const GUARD_OF_DATA = 1 << 4;
    }
}

const NSFEAT_NSABP: u8 = 1 << 1;
/// NSFEAT bits 5:4, OPTPERF, as 01b or 11b: NPWG, NPWA, NPDG, NPDA and NOWS count.
const NSFEAT_OPTPERF: u8 = 1 << 4;

/// What of a write is atomic, in blocks from 1 to 65,536 (0's based). NSFEAT says whether a
/// namespace has its own; else the controller's count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Atomicity {
    /// NAWUN: in operation.
    pub write_normal: u32,
    /// NAWUPF: when power fails.
    pub write_power_fail: u32,
    /// NACWU: of a fused Compare and Write.
    pub compare_write: u32,
}

/// In what steps a namespace likes to be used, in blocks from 1 to 65,536 (0's based).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preferred {
    /// NPWG: granularity of writes.
    pub write_granularity: u32,
    /// NPWA: alignment of writes.
    pub write_alignment: u32,
    /// NPDG: granularity of deallocation.
    pub deallocate_granularity: u32,
    /// NPDA: alignment of deallocation.
    pub deallocate_alignment: u32,
    /// NOWS: the best size of a write.
    pub write_size: u32,
}

/// How a namespace's blocks are made (Figure 116).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LbaFormat {
    /// LBADS: a block has 2^LBADS bytes, 9 to 31.
    pub block_size_log2: u8,
    /// MS: bytes of metadata of a block.
    pub metadata_size: u16,
    /// RP: how well it performs, 0 best to 3.
    pub relative_performance: u8,
}

impl LbaFormat {
    /// Blocks of this size without metadata.
    pub const fn of(block_size_log2: u8) -> Self {
        Self { block_size_log2, metadata_size: 0, relative_performance: 0 }
    }

    /// The bytes of a block.
    pub const fn block_size(&self) -> u32 {
        1 << self.block_size_log2
    }
}

/// A namespace's size, format and limits. Encoded, it has the one format that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdentifyNamespace {
    /// NSZE: how many blocks it has.
    pub size: BlockCount,
    /// NCAP: how many of them can be allocated at once.
    pub capacity: BlockCount,
    /// NUSE: how many are.
    pub utilization: BlockCount,
    /// NSFEAT.
    pub features: NamespaceFeatures,
    /// NMIC.
    pub sharing: NamespaceSharing,
    /// RESCAP: what reservations it takes; 0 for none.
    pub reservations: u8,
    /// DLFEAT.
    pub deallocate: DeallocateFeatures,
    /// NAWUN, NAWUPF, NACWU, when it has its own.
    pub atomicity: Option<Atomicity>,
    /// NOIOB: a boundary that I/O had better not cross, in blocks; 0 for none.
    pub io_boundary: u16,
    /// NVMCAP: its capacity in bytes; 0 for not told.
    pub capacity_bytes: u128,
    /// NPWG, NPWA, NPDG, NPDA, NOWS, when told.
    pub preferred: Option<Preferred>,
    /// ANAGRPID: its ANA group, 0 for none.
    pub ana_group: u32,
    /// NSATTR bit 0: it is write protected.
    pub write_protected: bool,
    /// NGUID: all zero for none.
    pub nguid: [u8; 16],
    /// EUI64: all zero for none.
    pub eui64: [u8; 8],
    /// The LBA format that it is in.
    pub format: LbaFormat,
}

impl IdentifyNamespace {
    /// The structure of a namespace that is not active (NVM 4.1.5.1).
    pub const INACTIVE: [u8; IDENTIFY_SIZE] = [0; IDENTIFY_SIZE];

    /// The structure.
    ///
    /// # Panics
    ///
    /// When a number does not fit into its field.
    pub fn encode(&self) -> [u8; IDENTIFY_SIZE] {
        let mut layout = Layout::new_zeroed();
        layout.nsze = self.size.0.into();
        layout.ncap = self.capacity.0.into();
        layout.nuse = self.utilization.0.into();
        layout.nsfeat = self.features.bits();
        layout.nmic = self.sharing.bits();
        layout.rescap = self.reservations;
        layout.dlfeat = self.deallocate.bits();
        if let Some(atomicity) = &self.atomicity {
            layout.nsfeat |= NSFEAT_NSABP;
            layout.nawun = zero_based_16("NAWUN", atomicity.write_normal);
            layout.nawupf = zero_based_16("NAWUPF", atomicity.write_power_fail);
            layout.nacwu = zero_based_16("NACWU", atomicity.compare_write);
        }
        layout.noiob = self.io_boundary.into();
        layout.nvmcap = self.capacity_bytes.into();
        if let Some(preferred) = &self.preferred {
            layout.nsfeat |= NSFEAT_OPTPERF;
            layout.npwg = zero_based_16("NPWG", preferred.write_granularity);
            layout.npwa = zero_based_16("NPWA", preferred.write_alignment);
            layout.npdg = zero_based_16("NPDG", preferred.deallocate_granularity);
            layout.npda = zero_based_16("NPDA", preferred.deallocate_alignment);
            layout.nows = zero_based_16("NOWS", preferred.write_size);
        }
        layout.anagrpid = self.ana_group.into();
        layout.nsattr = u8::from(self.write_protected);
        layout.nguid = self.nguid;
        layout.eui64 = self.eui64;
        let format = &self.format;
        assert!((9..=31).contains(&format.block_size_log2), "a block has 512 bytes to 2 GiB");
        assert!(format.relative_performance < 4, "RP has 2 bits");
        layout.lbaf[0] = LbaFormatLayout {
            ms: format.metadata_size.into(),
            lbads: format.block_size_log2,
            rp: format.relative_performance,
        };
        zerocopy::transmute!(layout)
    }

    /// The value of a structure.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another, or it is not in one of its formats, or that has
    /// blocks below 512 bytes or above 2 GiB, as the structure of a namespace that is not active.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let layout: &Layout = zerocopy::transmute_ref!(sized(STRUCTURE, bytes)?);
        let index = usize::from(layout.flbas & 0xF | (layout.flbas >> 5 & 0b11) << 4);
        // Bits 6:5 count only with more than 16 formats.
        let index = if layout.nlbaf <= 15 { index & 0xF } else { index };
        if index > usize::from(layout.nlbaf) {
            return Err(Malformed::field(STRUCTURE, "FLBAS", "is not one of the formats"));
        }
        let format = &layout.lbaf[index];
        if !(9..=31).contains(&format.lbads) {
            return Err(Malformed::field(STRUCTURE, "LBADS", "is not 9 to 31"));
        }
        let count = |field: U16| u32::from(field.get()) + 1;
        let atomicity = (layout.nsfeat & NSFEAT_NSABP != 0).then(|| Atomicity {
            write_normal: count(layout.nawun),
            write_power_fail: count(layout.nawupf),
            compare_write: count(layout.nacwu),
        });
        let preferred = (layout.nsfeat & NSFEAT_OPTPERF != 0).then(|| Preferred {
            write_granularity: count(layout.npwg),
            write_alignment: count(layout.npwa),
            deallocate_granularity: count(layout.npdg),
            deallocate_alignment: count(layout.npda),
            write_size: count(layout.nows),
        });
        Ok(Self {
            size: BlockCount(layout.nsze.get()),
            capacity: BlockCount(layout.ncap.get()),
            utilization: BlockCount(layout.nuse.get()),
            features: NamespaceFeatures::from_bits_truncate(layout.nsfeat),
            sharing: NamespaceSharing::from_bits_truncate(layout.nmic),
            reservations: layout.rescap,
            deallocate: DeallocateFeatures::from_bits_truncate(layout.dlfeat),
            atomicity,
            io_boundary: layout.noiob.get(),
            capacity_bytes: layout.nvmcap.get(),
            preferred,
            ana_group: layout.anagrpid.get(),
            write_protected: layout.nsattr & 1 == 1,
            nguid: layout.nguid,
            eui64: layout.eui64,
            format: LbaFormat {
                block_size_log2: format.lbads,
                metadata_size: format.ms.get(),
                relative_performance: format.rp & 0b11,
            },
        })
    }
}
