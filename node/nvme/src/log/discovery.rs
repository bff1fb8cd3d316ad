//! The Discovery log page: which subsystems there are, and how to reach them.
//!
//! Source: section 5.1.12.3.1, Figures 294 and 295; TCP section 3.6.1.1 for TSAS.
//!
//! - The page is a header and an entry for each way to a subsystem. It has no bound, so it is
//!   encoded and decoded piece by piece.

use core::{mem::offset_of, str};

use bitflags::bitflags;
use fathom_units::Cntlid;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use crate::{Malformed, Nqn, nqn::NQN_FIELD_SIZE};

/// The bytes of the page's header.
pub const DISCOVERY_HEADER_SIZE: usize = 1024;
/// The bytes of an entry.
pub const DISCOVERY_ENTRY_SIZE: usize = 1024;
const HEADER: &str = "Discovery Log Page";
const ENTRY: &str = "Discovery Log Page Entry";
const TRADDR: usize = 256;
const TRSVCID: usize = 32;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeaderLayout {
    /// Bytes 7:0, 5.1.12.3.1 GENCTR.
    genctr: U64,
    /// Bytes 15:8, 5.1.12.3.1 NUMREC.
    numrec: U64,
    /// Bytes 17:16, 5.1.12.3.1 RECFMT.
    recfmt: U16,
    /// Byte 18, 5.1.12.3.1 DLPF.
    dlpf: u8,
    /// Byte 19, reserved.
    reserved_19: u8,
    /// Bytes 23:20, 5.1.12.3.1 TDLPL.
    tdlpl: U32,
    /// Bytes 1023:24, reserved.
    reserved_24: [U64; 125],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EntryLayout {
    /// Byte 0, 5.1.12.3.1 TRTYPE.
    trtype: u8,
    /// Byte 1, 5.1.12.3.1 ADRFAM.
    adrfam: u8,
    /// Byte 2, 5.1.12.3.1 SUBTYPE.
    subtype: u8,
    /// Byte 3, 5.1.12.3.1 TREQ.
    treq: u8,
    /// Bytes 5:4, 5.1.12.3.1 PORTID.
    portid: U16,
    /// Bytes 7:6, 5.1.12.3.1 CNTLID.
    cntlid: U16,
    /// Bytes 9:8, 5.1.12.3.1 ASQSZ.
    asqsz: U16,
    /// Bytes 11:10, 5.1.12.3.1 EFLAGS.
    eflags: U16,
    /// Bytes 31:12, reserved.
    reserved_12: [u8; 20],
    /// Bytes 63:32, 5.1.12.3.1 TRSVCID.
    trsvcid: [u8; TRSVCID],
    /// Bytes 255:64, reserved.
    reserved_64: [u8; 192],
    /// Bytes 511:256, 5.1.12.3.1 SUBNQN.
    subnqn: [u8; NQN_FIELD_SIZE],
    /// Bytes 767:512, 5.1.12.3.1 TRADDR.
    traddr: [u8; TRADDR],
    /// Byte 768, TCP 3.6.1.1 SECTYPE, the first of TSAS.
    sectype: u8,
    /// Bytes 1023:769, TCP 3.6.1.1: the rest of TSAS, reserved.
    reserved_769: [u8; 255],
}

const _: () = {
    assert!(size_of::<HeaderLayout>() == DISCOVERY_HEADER_SIZE);
    assert!(offset_of!(HeaderLayout, numrec) == 8);
    assert!(offset_of!(HeaderLayout, recfmt) == 16);
    assert!(offset_of!(HeaderLayout, dlpf) == 18);
    assert!(offset_of!(HeaderLayout, tdlpl) == 20);
    assert!(offset_of!(HeaderLayout, reserved_24) == 24);
    assert!(size_of::<EntryLayout>() == DISCOVERY_ENTRY_SIZE);
    assert!(offset_of!(EntryLayout, treq) == 3);
    assert!(offset_of!(EntryLayout, portid) == 4);
    assert!(offset_of!(EntryLayout, cntlid) == 6);
    assert!(offset_of!(EntryLayout, asqsz) == 8);
    assert!(offset_of!(EntryLayout, eflags) == 10);
    assert!(offset_of!(EntryLayout, trsvcid) == 32);
    assert!(offset_of!(EntryLayout, subnqn) == 256);
    assert!(offset_of!(EntryLayout, traddr) == 512);
    assert!(offset_of!(EntryLayout, sectype) == 768);
};

/// What the page begins with. Its record format is 0, and no attribute of DLPF is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiscoveryHeader {
    /// GENCTR: grows with each change of the page; the same at the start and end of a reading, all
    /// of it is of one version.
    pub generation: u64,
    /// NUMREC: how many entries follow.
    pub entries: u64,
}

impl DiscoveryHeader {
    /// The header.
    pub fn encode(&self) -> [u8; DISCOVERY_HEADER_SIZE] {
        let layout = HeaderLayout {
            genctr: self.generation.into(),
            numrec: self.entries.into(),
            recfmt: U16::ZERO,
            dlpf: 0,
            reserved_19: 0,
            tdlpl: U32::ZERO,
            reserved_24: [U64::ZERO; 125],
        };
        zerocopy::transmute!(layout)
    }

    /// The value of the header that `bytes` begin with. The fields that count stand in the first
    /// 20 bytes, and so many are enough.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when there are fewer bytes, or the record format is not 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        const NEEDED: usize = offset_of!(HeaderLayout, tdlpl);
        let Some(bytes) = bytes.first_chunk::<NEEDED>() else {
            let (expected, found) = (NEEDED, bytes.len());
            return Err(Malformed::Length { structure: HEADER, expected, found });
        };
        let mut whole = [0; DISCOVERY_HEADER_SIZE];
        whole[..NEEDED].copy_from_slice(bytes);
        let layout: HeaderLayout = zerocopy::transmute!(whole);
        if layout.recfmt.get() != 0 {
            return Err(Malformed::field(HEADER, "RECFMT", "is not 0"));
        }
        Ok(Self { generation: layout.genctr.get(), entries: layout.numrec.get() })
    }
}

/// Defines a type of one byte with named values; others are kept.
macro_rules! byte_type {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$value_doc])* pub const $value: Self = Self($number);)*
        }
    };
}

byte_type! {
    /// TRTYPE: the transport.
    TransportType {
        /// RDMA.
        RDMA = 1,
        /// Fibre Channel.
        FC = 2,
        /// TCP.
        TCP = 3,
        /// Within one host.
        INTRA_HOST = 254,
    }
}

byte_type! {
    /// ADRFAM: what kind of address TRADDR is.
    AddressFamily {
        /// None.
        NONE = 0,
        /// IPv4, or a DNS name for it.
        IPV4 = 1,
        /// IPv6, or a DNS name for it.
        IPV6 = 2,
    }
}

byte_type! {
    /// SUBTYPE: what is reached.
    SubsystemType {
        /// Another discovery service.
        DISCOVERY_REFERRAL = 1,
        /// An NVM subsystem.
        NVM = 2,
        /// The discovery service that has the page.
        CURRENT_DISCOVERY = 3,
    }
}

byte_type! {
    /// SECTYPE in TSAS: how a TCP connection is secured (TCP 3.6.1.1).
    SecurityType {
        /// Not.
        NONE = 0,
        /// By TLS 1.2.
        TLS_1_2 = 1,
        /// By TLS 1.3.
        TLS_1_3 = 2,
    }
}

/// TREQ, bits 1:0: whether a secure channel is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecureChannel {
    /// 00b: not told.
    NotSpecified,
    /// 01b: yes.
    Required,
    /// 10b: no.
    NotRequired,
    /// 11b, reserved.
    Reserved,
}

bitflags! {
    /// EFLAGS: attributes of an entry.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct EntryFlags: u16 {
        /// Bit 0, DUPRETINFO: the page says the same wherever it is read.
        const DUPLICATE_INFORMATION = 1 << 0;
        /// Bit 1, EPCSD: persistent connections to the discovery service are supported.
        const PERSISTENT_CONNECTIONS = 1 << 1;
        /// Bit 2, NCC: there is no connectivity to a centralized discovery controller.
        const NO_CENTRAL_DISCOVERY = 1 << 2;
    }
}

/// A text of printable ASCII characters in a field of `N` bytes: an address or a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransportAddress<const N: usize>([u8; N]);

impl<const N: usize> TransportAddress<N> {
    /// The text, if it has at most `N` characters, all printable ASCII, and no space at its end.
    pub fn new(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
        if !printable || text.len() > N || text.ends_with(' ') {
            return None;
        }
        let mut field = [b' '; N];
        field[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self(field))
    }

    /// The text in a field that spaces, or zero bytes, fill.
    fn from_field(field: &[u8; N]) -> Option<Self> {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(N);
        Self::new(str::from_utf8(&field[..end]).ok()?.trim_end_matches(' '))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("made of ASCII characters").trim_end_matches(' ')
    }
}

impl<const N: usize> core::fmt::Debug for TransportAddress<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// One way to a subsystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiscoveryEntry {
    /// TRTYPE.
    pub transport: TransportType,
    /// ADRFAM.
    pub address_family: AddressFamily,
    /// SUBTYPE.
    pub subsystem_type: SubsystemType,
    /// TREQ, bits 1:0.
    pub secure_channel: SecureChannel,
    /// TREQ, bit 2: SQ flow control may be disabled.
    pub flow_control_optional: bool,
    /// PORTID: the subsystem's port.
    pub port_id: u16,
    /// CNTLID: [`Cntlid::DYNAMIC`] for any controller, or the one that is meant.
    pub controller: Cntlid,
    /// ASQSZ: how many entries an admin submission queue can have, at least 32 (not 0's based).
    pub admin_queue_entries: u16,
    /// EFLAGS.
    pub flags: EntryFlags,
    /// TRSVCID: over TCP, the port's number in decimal.
    pub service: TransportAddress<TRSVCID>,
    /// SUBNQN.
    pub subsystem: Nqn,
    /// TRADDR: over TCP, an IP address or a DNS name.
    pub address: TransportAddress<TRADDR>,
    /// SECTYPE of TSAS, over TCP.
    pub security: SecurityType,
}

const TREQ_FLOW_CONTROL_OPTIONAL: u8 = 1 << 2;

impl DiscoveryEntry {
    /// The entry.
    pub fn encode(&self) -> [u8; DISCOVERY_ENTRY_SIZE] {
        let secure_channel = match self.secure_channel {
            SecureChannel::NotSpecified => 0,
            SecureChannel::Required => 1,
            SecureChannel::NotRequired => 2,
            SecureChannel::Reserved => 3,
        };
        let optional = if self.flow_control_optional { TREQ_FLOW_CONTROL_OPTIONAL } else { 0 };
        let layout = EntryLayout {
            trtype: self.transport.0,
            adrfam: self.address_family.0,
            subtype: self.subsystem_type.0,
            treq: secure_channel | optional,
            portid: self.port_id.into(),
            cntlid: self.controller.0.into(),
            asqsz: self.admin_queue_entries.into(),
            eflags: self.flags.bits().into(),
            reserved_12: [0; 20],
            trsvcid: self.service.0,
            reserved_64: [0; 192],
            subnqn: self.subsystem.to_field(),
            traddr: self.address.0,
            sectype: self.security.0,
            reserved_769: [0; 255],
        };
        zerocopy::transmute!(layout)
    }

    /// The value of an entry.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when a name or address is not text of its kind.
    pub fn decode(bytes: &[u8; DISCOVERY_ENTRY_SIZE]) -> Result<Self, Malformed> {
        let layout: &EntryLayout = zerocopy::transmute_ref!(bytes);
        let not_text = |field| Malformed::field(ENTRY, field, "is not a text of its kind");
        Ok(Self {
            transport: TransportType(layout.trtype),
            address_family: AddressFamily(layout.adrfam),
            subsystem_type: SubsystemType(layout.subtype),
            secure_channel: match layout.treq & 0b11 {
                0 => SecureChannel::NotSpecified,
                1 => SecureChannel::Required,
                2 => SecureChannel::NotRequired,
                _ => SecureChannel::Reserved,
            },
            flow_control_optional: layout.treq & TREQ_FLOW_CONTROL_OPTIONAL != 0,
            port_id: layout.portid.get(),
            controller: Cntlid(layout.cntlid.get()),
            admin_queue_entries: layout.asqsz.get(),
            flags: EntryFlags::from_bits_truncate(layout.eflags.get()),
            service: TransportAddress::from_field(&layout.trsvcid)
                .ok_or_else(|| not_text("TRSVCID"))?,
            subsystem: Nqn::from_field(&layout.subnqn).map_err(|_| not_text("SUBNQN"))?,
            address: TransportAddress::from_field(&layout.traddr)
                .ok_or_else(|| not_text("TRADDR"))?,
            security: SecurityType(layout.sectype),
        })
    }
}
