//! The Asymmetric Namespace Access log page: in which state each ANA group is.
//!
//! Source: section 5.1.12.1.13, Figures 222 and 223.
//!
//! - The page is a header and a descriptor for each group, behind which stand the NSIDs of the
//!   group. It has no bound, so it is encoded and decoded piece by piece.

use core::mem::offset_of;

use fathom_units::Nsid;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use crate::Malformed;

/// The bytes of the page's header.
pub const ANA_HEADER_SIZE: usize = 16;
const HEADER: &str = "ANA Log Page";
const GROUP: &str = "ANA Group Descriptor";

/// LSP bit 0 (RGO) of Get Log Page: the groups without their NSIDs.
const LSP_GROUPS_ONLY: u8 = 1 << 0;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeaderLayout {
    /// Bytes 7:0, 5.1.12.1.13 CHGCNT.
    chgcnt: U64,
    /// Bytes 9:8, 5.1.12.1.13 NAGD.
    nagd: U16,
    /// Bytes 15:10, reserved.
    reserved_10: [u8; 6],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct GroupLayout {
    /// Bytes 3:0, 5.1.12.1.13 AGID.
    agid: U32,
    /// Bytes 7:4, 5.1.12.1.13 NNV.
    nnv: U32,
    /// Bytes 15:8, 5.1.12.1.13 CHGCNT.
    chgcnt: U64,
    /// Byte 16, 5.1.12.1.13 ANAS in bits 3:0.
    anas: u8,
    /// Bytes 31:17, reserved.
    reserved_17: [u8; 15],
}

const _: () = {
    assert!(size_of::<HeaderLayout>() == ANA_HEADER_SIZE);
    assert!(offset_of!(HeaderLayout, nagd) == 8);
    assert!(offset_of!(HeaderLayout, reserved_10) == 10);
    assert!(size_of::<GroupLayout>() == AnaGroup::SIZE);
    assert!(offset_of!(GroupLayout, nnv) == 4);
    assert!(offset_of!(GroupLayout, chgcnt) == 8);
    assert!(offset_of!(GroupLayout, anas) == 16);
    assert!(offset_of!(GroupLayout, reserved_17) == 17);
};

/// What the page begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnaHeader {
    /// CHGCNT: counts the changes of the page.
    pub changes: u64,
    /// NAGD: how many descriptors follow.
    pub groups: u16,
}

impl AnaHeader {
    /// Whether the LSP of a Get Log Page asks for the groups without their NSIDs.
    pub const fn is_groups_only(specific: u8) -> bool {
        specific & LSP_GROUPS_ONLY != 0
    }

    /// The header.
    pub fn encode(&self) -> [u8; ANA_HEADER_SIZE] {
        let layout = HeaderLayout {
            chgcnt: self.changes.into(),
            nagd: self.groups.into(),
            reserved_10: [0; 6],
        };
        zerocopy::transmute!(layout)
    }

    /// The value of the header that `page` begins with, and what follows it.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it is cut short.
    pub fn decode(page: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (layout, rest) = HeaderLayout::ref_from_prefix(page).map_err(|_| {
            let (expected, found) = (ANA_HEADER_SIZE, page.len());
            Malformed::Length { structure: HEADER, expected, found }
        })?;
        Ok((Self { changes: layout.chgcnt.get(), groups: layout.nagd.get() }, rest))
    }
}

/// How good the paths of a controller to the namespaces of a group are (8.1.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnaState {
    /// 1h: the best there are.
    Optimized,
    /// 2h: to be used when there is no better one.
    NonOptimized,
    /// 3h: none now.
    Inaccessible,
    /// 4h: none any more.
    PersistentLoss,
    /// Fh: changing.
    Change,
}

impl AnaState {
    const fn number(self) -> u8 {
        match self {
            Self::Optimized => 0x1,
            Self::NonOptimized => 0x2,
            Self::Inaccessible => 0x3,
            Self::PersistentLoss => 0x4,
            Self::Change => 0xF,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0x1 => Some(Self::Optimized),
            0x2 => Some(Self::NonOptimized),
            0x3 => Some(Self::Inaccessible),
            0x4 => Some(Self::PersistentLoss),
            0xF => Some(Self::Change),
            _ => None,
        }
    }
}

/// A group and its state; its NSIDs follow, 4 bytes each, in increasing order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnaGroup {
    /// AGID: the group, never 0.
    pub id: u32,
    /// NNV: how many NSIDs follow; 0 when only the groups were asked for.
    pub namespaces: u32,
    /// CHGCNT: the page's when the group last changed.
    pub changes: u64,
    /// ANAS.
    pub state: AnaState,
}

impl AnaGroup {
    /// The bytes of a descriptor without its NSIDs.
    pub const SIZE: usize = 32;
    /// The bytes of an NSID behind it.
    pub const NSID_SIZE: usize = 4;

    /// The descriptor; the bytes of its NSIDs ([`Self::encode_nsid`]) follow.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let layout = GroupLayout {
            agid: self.id.into(),
            nnv: self.namespaces.into(),
            chgcnt: self.changes.into(),
            anas: self.state.number(),
            reserved_17: [0; 15],
        };
        zerocopy::transmute!(layout)
    }

    /// An NSID behind a descriptor.
    pub const fn encode_nsid(nsid: Nsid) -> [u8; Self::NSID_SIZE] {
        nsid.0.to_le_bytes()
    }

    /// The value of the descriptor that `page` begins with, its NSIDs, and what follows them.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it or its NSIDs are cut short, its identifier is 0 or its state reserved.
    pub fn decode(page: &[u8]) -> Result<(Self, impl Iterator<Item = Nsid>, &[u8]), Malformed> {
        let cut = |expected| {
            let found = page.len();
            Malformed::Length { structure: GROUP, expected, found }
        };
        let (layout, rest) = GroupLayout::ref_from_prefix(page).map_err(|_| cut(Self::SIZE))?;
        let namespaces = layout.nnv.get();
        let bytes = (namespaces as usize).saturating_mul(Self::NSID_SIZE);
        let split = rest.split_at_checked(bytes);
        let (nsids, rest) = split.ok_or_else(|| cut(Self::SIZE.saturating_add(bytes)))?;
        let id = layout.agid.get();
        if id == 0 {
            return Err(Malformed::field(GROUP, "AGID", "is 0"));
        }
        let state = AnaState::from_number(layout.anas & 0xF).ok_or(Malformed::field(
            GROUP,
            "ANAS",
            "is reserved",
        ))?;
        let group = Self { id, namespaces, changes: layout.chgcnt.get(), state };
        let (nsids, _) = nsids.as_chunks();
        Ok((group, nsids.iter().map(|nsid| Nsid(u32::from_le_bytes(*nsid))), rest))
    }
}
