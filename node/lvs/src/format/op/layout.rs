//! The fixed parts of operations, field by field: what the bytes of section 4 are cut into.

use core::mem::offset_of;

use fathom_units::ByteOffset;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::{fragments, objects};
use crate::geometry::{ClusterNo, Segment};

/// The types of operations (section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Map = 1,
    Unmap = 2,
    Fragments = 3,
    PutLayer = 4,
    DropLayer = 5,
    PutVolume = 6,
    DropVolume = 7,
    PutSnapshot = 8,
    DropSnapshot = 9,
    PutPool = 10,
    PutMember = 11,
    Settled = 12,
}

impl Kind {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Map,
            2 => Self::Unmap,
            3 => Self::Fragments,
            4 => Self::PutLayer,
            5 => Self::DropLayer,
            6 => Self::PutVolume,
            7 => Self::DropVolume,
            8 => Self::PutSnapshot,
            9 => Self::DropSnapshot,
            10 => Self::PutPool,
            11 => Self::PutMember,
            12 => Self::Settled,
            _ => return None,
        })
    }

    pub(super) fn structure(self) -> &'static str {
        match self {
            Self::Map => "Map operation",
            Self::Unmap => "Unmap operation",
            Self::Fragments => fragments::STRUCTURE,
            Self::PutLayer => "PutLayer operation",
            Self::DropLayer => "DropLayer operation",
            Self::PutVolume => objects::PUT_VOLUME,
            Self::DropVolume => "DropVolume operation",
            Self::PutSnapshot => objects::PUT_SNAPSHOT,
            Self::DropSnapshot => "DropSnapshot operation",
            Self::PutPool => objects::PUT_POOL,
            Self::PutMember => "PutMember operation",
            Self::Settled => "Settled operation",
        }
    }
}

/// Section 4, what every operation begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct OpLayout {
    pub(super) kind: u8,
    pub(super) reserved_1: u8,
    pub(super) reserved_2: [u8; 2],
    pub(super) length: U32,
}

pub(super) const HEADER_SIZE: usize = size_of::<OpLayout>();
pub(super) const LENGTH_AT: usize = offset_of!(OpLayout, length);

/// Section 4, type 1. The proofs follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MapLayout {
    pub(super) layer: U32,
    pub(super) lcluster: U32,
    pub(super) cluster: U32,
    pub(super) first: U16,
    pub(super) blocks: U16,
}

/// Section 4, type 2.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct UnmapLayout {
    pub(super) layer: U32,
    pub(super) flags: U32,
    pub(super) first_block: U64,
    pub(super) blocks: U64,
}

/// The flag of an Unmap that makes blocks opaque.
pub(super) const UNMAP_OPAQUE: u32 = 1;

/// Section 4, type 3. The items follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FragmentsLayout {
    pub(super) layer: U32,
    pub(super) items: U32,
}

/// Section 4, types 4 and 5; of type 5 the parent is reserved.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LayerLayout {
    pub(super) layer: U32,
    pub(super) parent: U32,
}

/// Section 4, type 11. The segments follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct PutMemberLayout {
    pub(super) member: U16,
    pub(super) segments: U16,
    pub(super) reserved_4: [u8; 4],
}

/// Section 4, a segment of type 11.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SegmentLayout {
    pub(super) first: U32,
    pub(super) clusters: U32,
    pub(super) offset: U64,
}

impl From<&SegmentLayout> for Segment {
    fn from(layout: &SegmentLayout) -> Self {
        Self {
            first: ClusterNo(layout.first.get()),
            clusters: layout.clusters.get(),
            offset: ByteOffset(layout.offset.get()),
        }
    }
}

/// Section 4, type 12.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SettledLayout {
    pub(super) member: U16,
    pub(super) reserved_2: [u8; 6],
    pub(super) lsn: U64,
}

const _: () = {
    assert!(size_of::<OpLayout>() == 8);
    assert!(offset_of!(OpLayout, reserved_1) == 1);
    assert!(offset_of!(OpLayout, reserved_2) == 2);
    assert!(offset_of!(OpLayout, length) == 4);
    assert!(size_of::<MapLayout>() == 16);
    assert!(offset_of!(MapLayout, lcluster) == 4);
    assert!(offset_of!(MapLayout, cluster) == 8);
    assert!(offset_of!(MapLayout, first) == 12);
    assert!(offset_of!(MapLayout, blocks) == 14);
    assert!(size_of::<UnmapLayout>() == 24);
    assert!(offset_of!(UnmapLayout, flags) == 4);
    assert!(offset_of!(UnmapLayout, first_block) == 8);
    assert!(offset_of!(UnmapLayout, blocks) == 16);
    assert!(size_of::<FragmentsLayout>() == 8);
    assert!(offset_of!(FragmentsLayout, items) == 4);
    assert!(size_of::<LayerLayout>() == 8);
    assert!(offset_of!(LayerLayout, parent) == 4);
    assert!(size_of::<PutMemberLayout>() == 8);
    assert!(offset_of!(PutMemberLayout, segments) == 2);
    assert!(offset_of!(PutMemberLayout, reserved_4) == 4);
    assert!(size_of::<SegmentLayout>() == 16);
    assert!(offset_of!(SegmentLayout, clusters) == 4);
    assert!(offset_of!(SegmentLayout, offset) == 8);
    assert!(size_of::<SettledLayout>() == 16);
    assert!(offset_of!(SettledLayout, reserved_2) == 2);
    assert!(offset_of!(SettledLayout, lsn) == 8);
};
