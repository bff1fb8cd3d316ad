//! Identify Controller: what a controller is and can do (CNS 01h).
//!
//! Source: section 5.1.13.2.1, Figure 312; NVM section 4.1.5.2 for the fields of the NVM command
//! set.

use core::{fmt, mem::offset_of};

use bitflags::bitflags;
use fathom_units::Cntlid;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64, U128},
};

use super::{IDENTIFY_SIZE, sized, zero_based_8, zero_based_16};
use crate::{Malformed, Nqn, nqn::NQN_FIELD_SIZE, property::Version};

const STRUCTURE: &str = "Identify Controller";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    /// Bytes 1:0, 5.1.13.2.1 VID.
    vid: U16,
    /// Bytes 3:2, 5.1.13.2.1 SSVID.
    ssvid: U16,
    /// Bytes 23:4, 5.1.13.2.1 SN.
    sn: [u8; 20],
    /// Bytes 63:24, 5.1.13.2.1 MN.
    mn: [u8; 40],
    /// Bytes 71:64, 5.1.13.2.1 FR.
    fr: [u8; 8],
    /// Byte 72, 5.1.13.2.1 RAB.
    rab: u8,
    /// Bytes 75:73, 5.1.13.2.1 IEEE.
    ieee: [u8; 3],
    /// Byte 76, 5.1.13.2.1 CMIC.
    cmic: u8,
    /// Byte 77, 5.1.13.2.1 MDTS.
    mdts: u8,
    /// Bytes 79:78, 5.1.13.2.1 CNTLID.
    cntlid: U16,
    /// Bytes 83:80, 5.1.13.2.1 VER.
    ver: U32,
    /// Bytes 87:84, 5.1.13.2.1 RTD3R.
    rtd3r: U32,
    /// Bytes 91:88, 5.1.13.2.1 RTD3E.
    rtd3e: U32,
    /// Bytes 95:92, 5.1.13.2.1 OAES.
    oaes: U32,
    /// Bytes 99:96, 5.1.13.2.1 CTRATT.
    ctratt: U32,
    /// Bytes 101:100, 5.1.13.2.1 RRLS.
    rrls: U16,
    /// Byte 102, 5.1.13.2.1 BPCAP.
    bpcap: u8,
    /// Byte 103, reserved.
    reserved_103: u8,
    /// Bytes 107:104, 5.1.13.2.1 NSSL.
    nssl: U32,
    /// Bytes 109:108, reserved.
    reserved_108: [u8; 2],
    /// Byte 110, 5.1.13.2.1 PLSI.
    plsi: u8,
    /// Byte 111, 5.1.13.2.1 CNTRLTYPE.
    cntrltype: u8,
    /// Bytes 127:112, 5.1.13.2.1 FGUID.
    fguid: [u8; 16],
    /// Bytes 133:128, 5.1.13.2.1 CRDT1 to CRDT3.
    crdt: [U16; 3],
    /// Byte 134, 5.1.13.2.1 CRCAP.
    crcap: u8,
    /// Bytes 239:135, reserved.
    reserved_135: [u8; 105],
    /// Bytes 255:240, for the NVMe Management Interface.
    nvme_mi: [u8; 16],
    /// Bytes 257:256, 5.1.13.2.1 OACS.
    oacs: U16,
    /// Byte 258, 5.1.13.2.1 ACL.
    acl: u8,
    /// Byte 259, 5.1.13.2.1 AERL.
    aerl: u8,
    /// Byte 260, 5.1.13.2.1 FRMW.
    frmw: u8,
    /// Byte 261, 5.1.13.2.1 LPA.
    lpa: u8,
    /// Byte 262, 5.1.13.2.1 ELPE.
    elpe: u8,
    /// Byte 263, 5.1.13.2.1 NPSS.
    npss: u8,
    /// Byte 264, 5.1.13.2.1 AVSCC.
    avscc: u8,
    /// Byte 265, 5.1.13.2.1 APSTA.
    apsta: u8,
    /// Bytes 267:266, 5.1.13.2.1 WCTEMP.
    wctemp: U16,
    /// Bytes 269:268, 5.1.13.2.1 CCTEMP.
    cctemp: U16,
    /// Bytes 271:270, 5.1.13.2.1 MTFA.
    mtfa: U16,
    /// Bytes 279:272, 5.1.13.2.1 HMPRE and HMMIN.
    host_memory: [u8; 8],
    /// Bytes 295:280, 5.1.13.2.1 TNVMCAP.
    tnvmcap: U128,
    /// Bytes 311:296, 5.1.13.2.1 UNVMCAP.
    unvmcap: U128,
    /// Bytes 319:312, 5.1.13.2.1 RPMBS, EDSTT, DSTO, FWUG.
    rpmbs_to_fwug: [u8; 8],
    /// Bytes 321:320, 5.1.13.2.1 KAS.
    kas: U16,
    /// Bytes 341:322, 5.1.13.2.1 HCTMA to ENDGIDMAX.
    hctma_to_endgidmax: [u8; 20],
    /// Byte 342, 5.1.13.2.1 ANATT.
    anatt: u8,
    /// Byte 343, 5.1.13.2.1 ANACAP.
    anacap: u8,
    /// Bytes 347:344, 5.1.13.2.1 ANAGRPMAX.
    anagrpmax: U32,
    /// Bytes 351:348, 5.1.13.2.1 NANAGRPID.
    nanagrpid: U32,
    /// Bytes 355:352, 5.1.13.2.1 PELS.
    pels: U32,
    /// Bytes 357:356, 5.1.13.2.1 Domain Identifier.
    domain: U16,
    /// Byte 358, 5.1.13.2.1 KPIOC.
    kpioc: u8,
    /// Byte 359, reserved.
    reserved_359: u8,
    /// Bytes 361:360, 5.1.13.2.1 MPTFAWR.
    mptfawr: U16,
    /// Bytes 367:362, reserved.
    reserved_362: [u8; 6],
    /// Bytes 383:368, 5.1.13.2.1 MEGCAP.
    megcap: U128,
    /// Byte 384, 5.1.13.2.1 TMPTHHA.
    tmpthha: u8,
    /// Bytes 511:385, reserved and, in 2.1, of other features.
    other_385: [u8; 127],
    /// Byte 512, NVM 4.1.5.2 SQES.
    sqes: u8,
    /// Byte 513, NVM 4.1.5.2 CQES.
    cqes: u8,
    /// Bytes 515:514, 5.1.13.2.1 MAXCMD.
    maxcmd: U16,
    /// Bytes 519:516, 5.1.13.2.1 NN.
    nn: U32,
    /// Bytes 521:520, 5.1.13.2.1 ONCS.
    oncs: U16,
    /// Bytes 523:522, 5.1.13.2.1 FUSES.
    fuses: U16,
    /// Byte 524, 5.1.13.2.1 FNA.
    fna: u8,
    /// Byte 525, 5.1.13.2.1 VWC.
    vwc: u8,
    /// Bytes 527:526, 5.1.13.2.1 AWUN.
    awun: U16,
    /// Bytes 529:528, 5.1.13.2.1 AWUPF.
    awupf: U16,
    /// Byte 530, 5.1.13.2.1 ICSVSCC.
    icsvscc: u8,
    /// Byte 531, 5.1.13.2.1 NWPC.
    nwpc: u8,
    /// Bytes 533:532, 5.1.13.2.1 ACWU.
    acwu: U16,
    /// Bytes 535:534, 5.1.13.2.1 CDFS.
    cdfs: U16,
    /// Bytes 539:536, 5.1.13.2.1 SGLS.
    sgls: U32,
    /// Bytes 543:540, 5.1.13.2.1 MNAN.
    mnan: U32,
    /// Bytes 559:544, 5.1.13.2.1 MAXDNA.
    maxdna: U128,
    /// Bytes 563:560, 5.1.13.2.1 MAXCNA.
    maxcna: U32,
    /// Bytes 767:564, reserved and, in 2.1, of other features.
    other_564: [u8; 204],
    /// Bytes 1023:768, 5.1.13.2.1 SUBNQN.
    subnqn: [u8; NQN_FIELD_SIZE],
    /// Bytes 1791:1024, reserved.
    reserved_1024: [u8; 768],
    /// Bytes 1795:1792, 5.1.13.2.1 IOCCSZ.
    ioccsz: U32,
    /// Bytes 1799:1796, 5.1.13.2.1 IORCSZ.
    iorcsz: U32,
    /// Bytes 1801:1800, 5.1.13.2.1 ICDOFF.
    icdoff: U16,
    /// Byte 1802, 5.1.13.2.1 FCATT.
    fcatt: u8,
    /// Byte 1803, 5.1.13.2.1 MSDBD.
    msdbd: u8,
    /// Bytes 1805:1804, 5.1.13.2.1 OFCS.
    ofcs: U16,
    /// Byte 1806, 5.1.13.2.1 DCTYPE.
    dctype: u8,
    /// Bytes 2047:1807, reserved.
    reserved_1807: [u8; 241],
    /// Bytes 3071:2048, 5.1.13.2.1 PSD0 to PSD31: not reported.
    power_states: [[u8; 32]; 32],
    /// Bytes 4095:3072, vendor specific.
    vendor: [U64; 128],
}

const _: () = {
    assert!(size_of::<Layout>() == IDENTIFY_SIZE);
    assert!(offset_of!(Layout, rab) == 72);
    assert!(offset_of!(Layout, cntlid) == 78);
    assert!(offset_of!(Layout, oaes) == 92);
    assert!(offset_of!(Layout, ctratt) == 96);
    assert!(offset_of!(Layout, nssl) == 104);
    assert!(offset_of!(Layout, cntrltype) == 111);
    assert!(offset_of!(Layout, crdt) == 128);
    assert!(offset_of!(Layout, nvme_mi) == 240);
    assert!(offset_of!(Layout, oacs) == 256);
    assert!(offset_of!(Layout, lpa) == 261);
    assert!(offset_of!(Layout, wctemp) == 266);
    assert!(offset_of!(Layout, tnvmcap) == 280);
    assert!(offset_of!(Layout, unvmcap) == 296);
    assert!(offset_of!(Layout, kas) == 320);
    assert!(offset_of!(Layout, anatt) == 342);
    assert!(offset_of!(Layout, nanagrpid) == 348);
    assert!(offset_of!(Layout, domain) == 356);
    assert!(offset_of!(Layout, megcap) == 368);
    assert!(offset_of!(Layout, sqes) == 512);
    assert!(offset_of!(Layout, nn) == 516);
    assert!(offset_of!(Layout, vwc) == 525);
    assert!(offset_of!(Layout, acwu) == 532);
    assert!(offset_of!(Layout, sgls) == 536);
    assert!(offset_of!(Layout, maxcna) == 560);
    assert!(offset_of!(Layout, subnqn) == 768);
    assert!(offset_of!(Layout, ioccsz) == 1792);
    assert!(offset_of!(Layout, icdoff) == 1800);
    assert!(offset_of!(Layout, ofcs) == 1804);
    assert!(offset_of!(Layout, dctype) == 1806);
    assert!(offset_of!(Layout, power_states) == 2048);
    assert!(offset_of!(Layout, vendor) == 3072);
};

/// A text of printable ASCII characters in a field that spaces fill (section 1.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ascii<const N: usize>([u8; N]);

impl<const N: usize> Ascii<N> {
    /// The text, if it has at most `N` characters and all are printable ASCII.
    pub fn new(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
        if !printable || text.len() > N {
            return None;
        }
        let mut field = [b' '; N];
        field[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self(field))
    }

    /// The text in a field. Bytes that are not printable, which only a controller that breaks the
    /// rules sends, become question marks.
    pub fn from_field(field: [u8; N]) -> Self {
        Self(field.map(|byte| if (0x20..=0x7E).contains(&byte) { byte } else { b'?' }))
    }

    /// The field, with the spaces that fill it.
    pub const fn as_field(&self) -> &[u8; N] {
        &self.0
    }

    /// The text without the spaces at its end.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).expect("made of ASCII characters").trim_end_matches(' ')
    }
}

impl<const N: usize> fmt::Display for Ascii<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Ascii<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

bitflags! {
    /// CMIC: the other ways into the subsystem.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct MultiPath: u8 {
        /// Bit 0, MPORTS: the subsystem may have more than one port.
        const PORTS = 1 << 0;
        /// Bit 1, MCTRS: the subsystem may have more than one controller.
        const CONTROLLERS = 1 << 1;
        /// Bit 2, FT: the controller is an SR-IOV virtual function.
        const VIRTUAL_FUNCTION = 1 << 2;
        /// Bit 3, ANARS: asymmetric namespace access is reported.
        const ANA = 1 << 3;
    }

    /// OAES: the events that the controller can tell, with the bits of
    /// [`AsyncEventConfiguration`](crate::feature::AsyncEventConfiguration).
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct AsyncEventsSupported: u32 {
        /// Bit 8: changes of attached namespaces.
        const NAMESPACE_ATTRIBUTE = 1 << 8;
        /// Bit 9: firmware activation.
        const FIRMWARE_ACTIVATION = 1 << 9;
        /// Bit 11: changes of asymmetric namespace access.
        const ANA_CHANGE = 1 << 11;
        /// Bit 31: changes of the discovery log page.
        const DISCOVERY_LOG_CHANGE = 1 << 31;
    }

    /// CTRATT: attributes of the controller.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct ControllerAttributes: u32 {
        /// Bit 0, HIDS: 128-bit host identifiers.
        const HOST_IDENTIFIER_128 = 1 << 0;
        /// Bit 2, NSETS: NVM sets.
        const NVM_SETS = 1 << 2;
        /// Bit 4, EGS: endurance groups.
        const ENDURANCE_GROUPS = 1 << 4;
        /// Bit 6, TBKAS: any command keeps the association alive.
        const TRAFFIC_BASED_KEEP_ALIVE = 1 << 6;
        /// Bit 7, NG: namespace granularities.
        const NAMESPACE_GRANULARITY = 1 << 7;
        /// Bit 9, ULIST: a list of UUIDs.
        const UUID_LIST = 1 << 9;
        /// Bit 10, MDS: more than one domain.
        const MULTI_DOMAIN = 1 << 10;
        /// Bit 15, ELBAS: LBA formats with extended protection information.
        const EXTENDED_LBA_FORMATS = 1 << 15;
        /// Bit 18, RHII: reservations depend on the host identifier.
        const RESERVATIONS_BY_HOST_IDENTIFIER = 1 << 18;
    }

    /// OACS: optional admin commands.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct AdminCommands: u16 {
        /// Bit 0: Security Send and Receive.
        const SECURITY = 1 << 0;
        /// Bit 1: Format NVM.
        const FORMAT = 1 << 1;
        /// Bit 2: firmware commands.
        const FIRMWARE = 1 << 2;
        /// Bit 3: namespace management.
        const NAMESPACE_MANAGEMENT = 1 << 3;
        /// Bit 4: device self-test.
        const SELF_TEST = 1 << 4;
        /// Bit 5: directives.
        const DIRECTIVES = 1 << 5;
    }

    /// LPA: what the controller can do with log pages.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct LogPageAttributes: u8 {
        /// Bit 0, SMARTS: a SMART log page of each namespace.
        const SMART_OF_NAMESPACE = 1 << 0;
        /// Bit 1, CSES: the commands supported and effects log page.
        const COMMANDS_SUPPORTED = 1 << 1;
        /// Bit 2, LPEDS: offsets and lengths beyond 16 bits.
        const EXTENDED_DATA = 1 << 2;
        /// Bit 3, TS: telemetry.
        const TELEMETRY = 1 << 3;
        /// Bit 4, PES: the persistent event log.
        const PERSISTENT_EVENTS = 1 << 4;
        /// Bit 5, MLPS: the log pages 00h, 05h scopes, 12h, and others.
        const MISCELLANEOUS = 1 << 5;
    }

    /// ANACAP: which ANA states there can be, and how groups behave.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct AnaCapabilities: u8 {
        /// Bit 0: optimized.
        const OPTIMIZED = 1 << 0;
        /// Bit 1: non-optimized.
        const NON_OPTIMIZED = 1 << 1;
        /// Bit 2: inaccessible.
        const INACCESSIBLE = 1 << 2;
        /// Bit 3: persistent loss.
        const PERSISTENT_LOSS = 1 << 3;
        /// Bit 4: change.
        const CHANGE = 1 << 4;
        /// Bit 6: a namespace's group does not change while it is attached.
        const GROUP_IS_STABLE = 1 << 6;
        /// Bit 7: a group can be chosen when a namespace is made.
        const GROUP_CAN_BE_CHOSEN = 1 << 7;
    }

    /// ONCS: optional I/O commands and features.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct IoCommands: u16 {
        /// Bit 0: Compare.
        const COMPARE = 1 << 0;
        /// Bit 1: Write Uncorrectable.
        const WRITE_UNCORRECTABLE = 1 << 1;
        /// Bit 2: Dataset Management.
        const DATASET_MANAGEMENT = 1 << 2;
        /// Bit 3: Write Zeroes.
        const WRITE_ZEROES = 1 << 3;
        /// Bit 4: features can be saved and selected.
        const SAVE_AND_SELECT = 1 << 4;
        /// Bit 5: reservations.
        const RESERVATIONS = 1 << 5;
        /// Bit 6: the Timestamp feature.
        const TIMESTAMP = 1 << 6;
        /// Bit 7: Verify.
        const VERIFY = 1 << 7;
        /// Bit 8: Copy.
        const COPY = 1 << 8;
        /// Bit 9: a Copy as a whole is atomic.
        const COPY_ATOMIC = 1 << 9;
        /// Bit 10: all fast copies.
        const ALL_FAST_COPY = 1 << 10;
        /// Bit 11: DEAC is honoured for a whole namespace by Write Zeroes with NSZ.
        const WRITE_ZEROES_DEALLOCATES_NAMESPACE = 1 << 11;
    }

    /// FUSES: fused operations.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct Fuses: u16 {
        /// Bit 0: Compare and Write.
        const COMPARE_AND_WRITE = 1 << 0;
    }

    /// SGLS: what SGL descriptors the controller takes.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct SglSupport: u32 {
        /// Bits 1:0 as 01b: SGLs, of any alignment.
        const SUPPORTED = 1 << 0;
        /// Bits 1:0 as 10b: SGLs, in dwords.
        const SUPPORTED_IN_DWORDS = 1 << 1;
        /// Bit 2: keyed data blocks.
        const KEYED = 1 << 2;
        /// Bit 16: bit buckets.
        const BIT_BUCKET = 1 << 16;
        /// Bit 18: an SGL may be longer than the data.
        const LONGER_THAN_DATA = 1 << 18;
        /// Bit 20: an address that is an offset: in-capsule data.
        const OFFSET = 1 << 20;
        /// Bit 21: transport data blocks.
        const TRANSPORT = 1 << 21;
    }
}

/// VWC: the volatile write cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteCache {
    /// Bit 0, VWCP: there is one.
    pub present: bool,
    /// Bits 2:1, FB: whether Flush takes NSID FFFFFFFFh: 0 not told, 2 no, 3 yes.
    pub flush_broadcast: u8,
}

/// CNTRLTYPE: what kind of controller it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControllerType {
    /// Not reported, by controllers before 1.4.
    NotReported,
    /// For I/O.
    Io,
    /// For discovery.
    Discovery,
    /// For administration.
    Administrative,
    /// Reserved.
    Reserved(u8),
}

impl ControllerType {
    const fn number(self) -> u8 {
        match self {
            Self::NotReported => 0,
            Self::Io => 1,
            Self::Discovery => 2,
            Self::Administrative => 3,
            Self::Reserved(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::NotReported,
            1 => Self::Io,
            2 => Self::Discovery,
            3 => Self::Administrative,
            _ => Self::Reserved(number),
        }
    }
}

/// What a controller is and can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdentifyController {
    /// VID: PCI vendor, 0 where there is none.
    pub vendor: u16,
    /// SSVID: PCI subsystem vendor, 0 where there is none.
    pub subsystem_vendor: u16,
    /// SN: serial number, of the subsystem.
    pub serial: Ascii<20>,
    /// MN: model number.
    pub model: Ascii<40>,
    /// FR: firmware revision.
    pub firmware: Ascii<8>,
    /// RAB: the arbitration burst to be recommended, 2^RAB commands.
    pub arbitration_burst: u8,
    /// IEEE: the vendor's OUI, least significant byte first.
    pub ieee_oui: [u8; 3],
    /// CMIC.
    pub multi_path: MultiPath,
    /// MDTS: the most data of a command is 2^MDTS pages of CAP.MPSMIN; 0 for no limit. See
    /// [`Self::max_transfer_bytes`].
    pub max_data_transfer: u8,
    /// CNTLID.
    pub controller: Cntlid,
    /// VER.
    pub version: Version,
    /// OAES.
    pub events: AsyncEventsSupported,
    /// CTRATT.
    pub attributes: ControllerAttributes,
    /// CNTRLTYPE.
    pub controller_type: ControllerType,
    /// CRDT1 to CRDT3: command retry delays, in 100 ms.
    pub retry_delays: [u16; 3],
    /// OACS.
    pub admin_commands: AdminCommands,
    /// ACL: how many Aborts may be under way, 1 to 256 (0's based).
    pub abort_limit: u16,
    /// AERL: how many Asynchronous Event Requests may be under way, 1 to 256 (0's based).
    pub event_request_limit: u16,
    /// FRMW: bits 3:1 the number of firmware slots, bit 0 slot 1 is read-only.
    pub firmware_updates: u8,
    /// LPA.
    pub log_pages: LogPageAttributes,
    /// ELPE: entries of the error log, 1 to 256 (0's based).
    pub error_log_entries: u16,
    /// WCTEMP: the temperature at which a warning is told, in kelvins; 0 for not told.
    pub warning_temperature: u16,
    /// CCTEMP: the critical temperature, in kelvins; 0 for not told.
    pub critical_temperature: u16,
    /// TNVMCAP: the capacity of the subsystem, in bytes; 0 for not told.
    pub total_capacity: u128,
    /// UNVMCAP: what of it no namespace has, in bytes.
    pub unallocated_capacity: u128,
    /// KAS: the granularity of the keep alive timer, in milliseconds, a multiple of 100; 0 for no
    /// keep alive.
    pub keep_alive_granularity_ms: u32,
    /// ANATT: the most time of an ANA transition, in seconds.
    pub ana_transition_s: u8,
    /// ANACAP.
    pub ana: AnaCapabilities,
    /// ANAGRPMAX: the largest ANA group identifier.
    pub ana_group_max: u32,
    /// NANAGRPID: how many ANA groups there can be.
    pub ana_groups: u32,
    /// Domain Identifier, 0 without domains.
    pub domain: u16,
    /// MAXCMD: how many commands a queue shall have under way at most; 0 for not told.
    pub max_commands: u16,
    /// NN: the largest NSID.
    pub namespaces: u32,
    /// ONCS.
    pub io_commands: IoCommands,
    /// FUSES.
    pub fuses: Fuses,
    /// VWC.
    pub write_cache: WriteCache,
    /// AWUN: blocks that are written atomically in operation, 1 to 65,536 (0's based).
    pub atomic_write_normal: u32,
    /// AWUPF: blocks that are written atomically when power fails, 1 to 65,536 (0's based).
    pub atomic_write_power_fail: u32,
    /// ACWU: blocks that are compared and written atomically, 1 to 65,536 (0's based).
    pub atomic_compare_write: u32,
    /// NWPC: write protection of namespaces; bit 0, that there is some.
    pub write_protection: u8,
    /// SGLS.
    pub sgls: SglSupport,
    /// MNAN: how many namespaces there can be; 0 for as many as NN.
    pub max_namespaces: u32,
    /// SUBNQN.
    pub subsystem: Nqn,
    /// IOCCSZ: the most bytes of an I/O command capsule, a multiple of 16, from 64 (16-byte units).
    pub io_capsule_bytes: u32,
    /// IORCSZ: the most bytes of an I/O response capsule, a multiple of 16 (16-byte units).
    pub io_response_bytes: u32,
    /// ICDOFF: where in-capsule data begins, in 16-byte units; 0 over TCP.
    pub capsule_data_offset: u16,
    /// FCATT bit 0: controllers are static; else a host gets any.
    pub static_controllers: bool,
    /// MSDBD: how many SGL data blocks a capsule may have; 0 for no limit.
    pub max_sgl_descriptors: u8,
    /// OFCS bit 0: Disconnect is supported.
    pub disconnect: bool,
    /// DCTYPE: of a discovery controller, what kind it is: 0 not told, 1 DDC, 2 CDC.
    pub discovery_type: u8,
}

/// SQES and CQES of the NVM command set: 64 and 16 bytes, at least and at most.
const SQES: u8 = 0x66;
const CQES: u8 = 0x44;
const CAPSULE_UNIT: u32 = 16;
const KAS_UNIT_MS: u32 = 100;

impl IdentifyController {
    /// The most data of a command, in bytes, when the smallest page is 2^(12 + `page_size_min`)
    /// bytes (CAP.MPSMIN); none when there is no limit.
    pub fn max_transfer_bytes(&self, page_size_min: u8) -> Option<u64> {
        let shift = u32::from(self.max_data_transfer) + 12 + u32::from(page_size_min);
        if self.max_data_transfer == 0 { None } else { Some(1u64.checked_shl(shift)?) }
    }

    /// The most in-capsule data of an I/O command, in bytes.
    pub fn capsule_data_bytes(&self) -> u32 {
        self.io_capsule_bytes.saturating_sub(64)
    }

    /// The structure.
    ///
    /// # Panics
    ///
    /// When a number does not fit into its field.
    pub fn encode(&self) -> [u8; IDENTIFY_SIZE] {
        let mut layout = Layout::new_zeroed();
        self.encode_admin(&mut layout);
        self.encode_io(&mut layout);
        zerocopy::transmute!(layout)
    }

    /// Bytes 511:0.
    fn encode_admin(&self, layout: &mut Layout) {
        layout.vid = self.vendor.into();
        layout.ssvid = self.subsystem_vendor.into();
        layout.sn = self.serial.0;
        layout.mn = self.model.0;
        layout.fr = self.firmware.0;
        layout.rab = self.arbitration_burst;
        layout.ieee = self.ieee_oui;
        layout.cmic = self.multi_path.bits();
        layout.mdts = self.max_data_transfer;
        layout.cntlid = self.controller.0.into();
        layout.ver = self.version.encode().into();
        layout.oaes = self.events.bits().into();
        layout.ctratt = self.attributes.bits().into();
        layout.cntrltype = self.controller_type.number();
        layout.crdt = self.retry_delays.map(U16::new);
        layout.oacs = self.admin_commands.bits().into();
        layout.acl = zero_based_8("ACL", self.abort_limit);
        layout.aerl = zero_based_8("AERL", self.event_request_limit);
        layout.frmw = self.firmware_updates;
        layout.lpa = self.log_pages.bits();
        layout.elpe = zero_based_8("ELPE", self.error_log_entries);
        layout.wctemp = self.warning_temperature.into();
        layout.cctemp = self.critical_temperature.into();
        layout.tnvmcap = self.total_capacity.into();
        layout.unvmcap = self.unallocated_capacity.into();
        let kas = self.keep_alive_granularity_ms;
        assert!(kas.is_multiple_of(KAS_UNIT_MS), "KAS counts 100 ms");
        layout.kas = u16::try_from(kas / KAS_UNIT_MS).expect("KAS has 16 bits").into();
        layout.anatt = self.ana_transition_s;
        layout.anacap = self.ana.bits();
        layout.anagrpmax = self.ana_group_max.into();
        layout.nanagrpid = self.ana_groups.into();
        layout.domain = self.domain.into();
    }

    /// Bytes 2047:512.
    fn encode_io(&self, layout: &mut Layout) {
        layout.sqes = SQES;
        layout.cqes = CQES;
        layout.maxcmd = self.max_commands.into();
        layout.nn = self.namespaces.into();
        layout.oncs = self.io_commands.bits().into();
        layout.fuses = self.fuses.bits().into();
        assert!(self.write_cache.flush_broadcast < 4, "VWC.FB has 2 bits");
        layout.vwc = u8::from(self.write_cache.present) | self.write_cache.flush_broadcast << 1;
        layout.awun = zero_based_16("AWUN", self.atomic_write_normal);
        layout.awupf = zero_based_16("AWUPF", self.atomic_write_power_fail);
        layout.acwu = zero_based_16("ACWU", self.atomic_compare_write);
        layout.nwpc = self.write_protection;
        layout.sgls = self.sgls.bits().into();
        layout.mnan = self.max_namespaces.into();
        layout.subnqn = self.subsystem.to_field();
        let units = |bytes: u32| {
            assert!(bytes.is_multiple_of(CAPSULE_UNIT), "capsules are counted in 16 bytes");
            U32::new(bytes / CAPSULE_UNIT)
        };
        layout.ioccsz = units(self.io_capsule_bytes);
        layout.iorcsz = units(self.io_response_bytes);
        layout.icdoff = self.capsule_data_offset.into();
        layout.fcatt = u8::from(self.static_controllers);
        layout.msdbd = self.max_sgl_descriptors;
        layout.ofcs = u16::from(self.disconnect).into();
        layout.dctype = self.discovery_type;
    }

    /// The value of a structure.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another, its NQN is none, its entries have not the sizes of
    /// the NVM command set (a discovery controller need not say), or a capsule has less bytes than
    /// its entry or more than can be counted.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let layout: &Layout = zerocopy::transmute_ref!(sized(STRUCTURE, bytes)?);
        let controller_type = ControllerType::from_number(layout.cntrltype);
        if controller_type != ControllerType::Discovery {
            let sizes = |sizes: u8, size: u8| sizes & 0xF <= size && size <= sizes >> 4;
            if !sizes(layout.sqes, SQES & 0xF) || !sizes(layout.cqes, CQES & 0xF) {
                return Err(Malformed::field(STRUCTURE, "SQES or CQES", "does not fit NVM"));
            }
        }
        let subsystem = Nqn::from_field(&layout.subnqn)
            .map_err(|_| Malformed::field(STRUCTURE, "SUBNQN", "is not a name"))?;
        let bytes_of = |field: &'static str, units: U32| {
            let error = Malformed::field(STRUCTURE, field, "is beyond 4 GiB");
            units.get().checked_mul(CAPSULE_UNIT).ok_or(error)
        };
        Ok(Self {
            vendor: layout.vid.get(),
            subsystem_vendor: layout.ssvid.get(),
            serial: Ascii::from_field(layout.sn),
            model: Ascii::from_field(layout.mn),
            firmware: Ascii::from_field(layout.fr),
            arbitration_burst: layout.rab,
            ieee_oui: layout.ieee,
            multi_path: MultiPath::from_bits_truncate(layout.cmic),
            max_data_transfer: layout.mdts,
            controller: Cntlid(layout.cntlid.get()),
            version: Version::decode(layout.ver.get()),
            events: AsyncEventsSupported::from_bits_truncate(layout.oaes.get()),
            attributes: ControllerAttributes::from_bits_truncate(layout.ctratt.get()),
            controller_type,
            retry_delays: layout.crdt.map(|delay| delay.get()),
            admin_commands: AdminCommands::from_bits_truncate(layout.oacs.get()),
            abort_limit: u16::from(layout.acl) + 1,
            event_request_limit: u16::from(layout.aerl) + 1,
            firmware_updates: layout.frmw,
            log_pages: LogPageAttributes::from_bits_truncate(layout.lpa),
            error_log_entries: u16::from(layout.elpe) + 1,
            warning_temperature: layout.wctemp.get(),
            critical_temperature: layout.cctemp.get(),
            total_capacity: layout.tnvmcap.get(),
            unallocated_capacity: layout.unvmcap.get(),
            keep_alive_granularity_ms: u32::from(layout.kas.get()) * KAS_UNIT_MS,
            ana_transition_s: layout.anatt,
            ana: AnaCapabilities::from_bits_truncate(layout.anacap),
            ana_group_max: layout.anagrpmax.get(),
            ana_groups: layout.nanagrpid.get(),
            domain: layout.domain.get(),
            max_commands: layout.maxcmd.get(),
            namespaces: layout.nn.get(),
            io_commands: IoCommands::from_bits_truncate(layout.oncs.get()),
            fuses: Fuses::from_bits_truncate(layout.fuses.get()),
            write_cache: WriteCache {
                present: layout.vwc & 1 == 1,
                flush_broadcast: layout.vwc >> 1 & 0b11,
            },
            atomic_write_normal: u32::from(layout.awun.get()) + 1,
            atomic_write_power_fail: u32::from(layout.awupf.get()) + 1,
            atomic_compare_write: u32::from(layout.acwu.get()) + 1,
            write_protection: layout.nwpc,
            sgls: SglSupport::from_bits_truncate(layout.sgls.get()),
            max_namespaces: layout.mnan.get(),
            subsystem,
            io_capsule_bytes: bytes_of("IOCCSZ", layout.ioccsz)?,
            io_response_bytes: bytes_of("IORCSZ", layout.iorcsz)?,
            capsule_data_offset: layout.icdoff.get(),
            static_controllers: layout.fcatt & 1 == 1,
            max_sgl_descriptors: layout.msdbd,
            disconnect: layout.ofcs.get() & 1 == 1,
            discovery_type: layout.dctype,
        })
    }
}
