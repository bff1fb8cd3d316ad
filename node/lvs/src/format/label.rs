//! The label: who a member is, which pool it belongs to, and where that pool's metadata lies.
//!
//! Opening a pool begins here: the copies at [`label_offsets`] of every member are read and
//! decoded, the valid one with the highest generation counts, and its extents lead to the
//! checkpoint slots and the log. Source: section 2.
//!
//! - A disk without a label ([`Malformed::NotALabel`]) is told from a damaged label.
//! - A label is summed with the seed of the pool that it names itself, so it can be read
//!   before anything is known about the pool.
//! - Feature extents are kept as they were found, whatever the feature is.

use uuid::Uuid;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::{
    Malformed,
    checksum::{self, Seed},
    require_zero,
};
use crate::geometry::{
    BLOCK, BLOCK_SIZE, CLUSTER_SIZE_MAX, CLUSTER_SIZE_MIN, ClusterSize, MEMBERS_MAX, MemberIndex,
};

/// Bytes in a label.
pub const LABEL_SIZE: usize = 4096;
/// Where slots, log and clusters may begin on a member, in bytes: behind label copy 1.
pub const DATA_OFFSET: u64 = 1 << 20;
/// The smallest member, in bytes: room for the labels and nothing else.
pub const MEMBER_SIZE_MIN: u64 = DATA_OFFSET + LABEL_SIZE as u64;
/// The most extents of a slot or of the log.
pub const EXTENTS_MAX: usize = 8;
/// The most feature extents.
pub const FEATURE_EXTENTS_MAX: usize = 16;
/// The longest name of a pool, volume or snapshot, in bytes.
pub const NAME_MAX: usize = 63;

/// The incompatible features that this program knows, one bit each.
const INCOMPATIBLE_KNOWN: u64 = 0;
/// The read-only-compatible features that this program knows, one bit each.
const READ_ONLY_COMPATIBLE_KNOWN: u64 = 0;

const MAGIC: [u8; 8] = *b"FATHOMLV";
const VERSION: u32 = 1;
const LENGTH: u32 = 4096;
const LABEL: &str = "label";

/// A label of one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// Grows with each update of labels; the same on all members that an update reaches.
    pub generation: u64,
    /// Grows with each opening of the pool for writing.
    pub incarnation: u64,
    /// The UUID of the pool, not nil.
    pub pool: Uuid,
    /// The UUID of this member; the member table has it at [`Self::index`].
    pub member: Uuid,
    /// This member's place in the member table.
    pub index: MemberIndex,
    /// What else the pool uses, beyond version 1 of the format.
    pub features: Features,
    /// The size of a cluster, the same on all members.
    pub cluster_size: ClusterSize,
    /// The size of this member, in bytes.
    pub member_size: u64,
    /// When the pool was created, in nanoseconds since 1970.
    pub created_ns: u64,
    /// The name of the pool, 1 to 63 bytes.
    pub name: String,
    /// Checkpoint slot A on this member: 1 to 8 extents on a metadata member, else none.
    pub slot_a: Vec<Extent>,
    /// Checkpoint slot B, likewise.
    pub slot_b: Vec<Extent>,
    /// The log, likewise.
    pub log: Vec<Extent>,
    /// Every member of the pool by its index, 1 to 16.
    pub members: Vec<LabelMember>,
    /// Space that features own, each at the place in the table where it was found.
    pub feature_extents: [Option<FeatureExtent>; FEATURE_EXTENTS_MAX],
}

/// Feature bits of a pool. Version 1 of the format defines none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Features {
    /// Unknown ones are ignored.
    pub compatible: u64,
    /// With an unknown one, the pool opens for reading only.
    pub read_only_compatible: u64,
    /// With an unknown one, the pool is refused.
    pub incompatible: u64,
}

/// A run of bytes on a member; both ends are multiples of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes, never zero.
    pub length: u64,
}

/// One member in the member table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LabelMember {
    /// The UUID of the member, not nil.
    pub uuid: Uuid,
    /// The size of the member, in bytes.
    pub size: u64,
    /// What the member holds.
    pub role: MemberRole,
    /// How far it counts.
    pub state: MemberState,
}

/// How far a member counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// In all that it has.
    InSync,
    /// Its metadata copy missed a write.
    Stale {
        /// The incarnation in which that was, never zero.
        since: u64,
    },
    /// Its metadata copy is being made, and does not count.
    Joining,
    /// It is no member before another label names it. Only in its own label.
    Proposed,
    /// A flush of a member that has data only failed, or never ended.
    Lost {
        /// The incarnation in which that was, never zero.
        since: u64,
    },
}

/// What a member holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberRole {
    /// Clusters only.
    Data,
    /// Clusters, checkpoint slots and the log.
    DataAndMetadata,
}

/// Space on a member that a feature owns. What it means is the feature's business.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureExtent {
    /// The number of the feature, never zero.
    pub feature: u32,
    /// The index of the member that has the space.
    pub member: u16,
    /// Where it begins on the member, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// Where the three label copies of a member of `size` bytes lie, in bytes.
///
/// Below [`MEMBER_SIZE_MIN`] they overlap each other or the end of the device: such a
/// device cannot be a member.
pub fn label_offsets(size: u64) -> [u64; 3] {
    [0, DATA_OFFSET / 2, (size / BLOCK).saturating_sub(1) * BLOCK]
}

impl Label {
    /// The bytes of this label, sealed.
    ///
    /// # Panics
    ///
    /// When [`Self::check`] refuses it.
    pub fn encode(&self) -> [u8; LABEL_SIZE] {
        if let Err(error) = self.check() {
            panic!("a label that could not be read again: {error}");
        }
        let mut layout = LabelLayout::new_zeroed();
        layout.magic = MAGIC;
        layout.version = VERSION.into();
        layout.length = LENGTH.into();
        layout.generation = self.generation.into();
        layout.incarnation = self.incarnation.into();
        layout.pool = self.pool.into_bytes();
        layout.member = self.member.into_bytes();
        layout.index = self.index.0.into();
        layout.members = u16::try_from(self.members.len()).expect("checked: at most 16").into();
        layout.compatible = self.features.compatible.into();
        layout.read_only_compatible = self.features.read_only_compatible.into();
        layout.incompatible = self.features.incompatible.into();
        layout.cluster_size = self.cluster_size.bytes().into();
        layout.block_size = BLOCK_SIZE.into();
        layout.size = self.member_size.into();
        layout.created_ns = self.created_ns.into();
        layout.name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        write_extents(&self.slot_a, &mut layout.slot_a);
        write_extents(&self.slot_b, &mut layout.slot_b);
        write_extents(&self.log, &mut layout.log);
        for (member, to) in self.members.iter().zip(&mut layout.table) {
            *to = MemberLayout::from(member);
        }
        for (extent, to) in self.feature_extents.iter().zip(&mut layout.feature_extents) {
            *to = extent.as_ref().map_or_else(FeatureExtentLayout::new_zeroed, Into::into);
        }
        let mut bytes: [u8; LABEL_SIZE] = zerocopy::transmute!(layout);
        checksum::seal(Seed::of_pool(self.pool), &mut bytes, CHECKSUM_AT);
        bytes
    }

    /// The label in `bytes`, which are a label's length.
    ///
    /// # Errors
    ///
    /// [`Malformed::NotALabel`] when there is none, and the other kinds when there is one that
    /// is damaged or of another version. A label with an incompatible feature that is not
    /// known may give either a value whose [`Self::refusal`] names it, or
    /// [`Malformed::Feature`] where the feature made it unreadable.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let Ok(layout) = LabelLayout::ref_from_bytes(bytes) else {
            return Err(error("length", format_args!("{} is not {LABEL_SIZE}", bytes.len())));
        };
        if layout.magic != MAGIC {
            return Err(Malformed::NotALabel { found: layout.magic });
        }
        if layout.version != VERSION {
            return Err(Malformed::Version { structure: LABEL, found: layout.version.get() });
        }
        let found = layout.checksum.get();
        let seed = Seed::of_pool(Uuid::from_bytes(layout.pool));
        let computed = checksum::compute(seed, bytes, CHECKSUM_AT);
        if found != computed {
            return Err(Malformed::Checksum { structure: LABEL, found, computed });
        }
        layout.value().map_err(|error| {
            let unknown = first_bit(layout.incompatible.get() & !INCOMPATIBLE_KNOWN);
            unknown.map_or(error, |bit| Malformed::Feature { bit })
        })
    }

    /// The number of the first incompatible feature that is not known, for which the pool
    /// must be refused.
    pub fn refusal(&self) -> Option<u32> {
        first_bit(self.features.incompatible & !INCOMPATIBLE_KNOWN)
    }

    /// The number of the first read-only-compatible feature that is not known, with which
    /// the pool must not be written to.
    pub fn read_only(&self) -> Option<u32> {
        first_bit(self.features.read_only_compatible & !READ_ONLY_COMPATIBLE_KNOWN)
    }

    /// Whether this label may be written.
    ///
    /// # Errors
    ///
    /// [`Malformed::Field`] with the field that the format does not allow.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.pool.is_nil() {
            return Err(error("pool UUID", "is zero"));
        }
        if self.member_size < MEMBER_SIZE_MIN {
            let detail = format_args!("{} is below {MEMBER_SIZE_MIN}", self.member_size);
            return Err(error("member size", detail));
        }
        if self.name.is_empty() || self.name.len() > NAME_MAX {
            let length = self.name.len();
            let detail = format_args!("has {length} bytes, and 1 to {NAME_MAX} are allowed");
            return Err(error("pool name", detail));
        }
        if self.name.contains('\0') {
            return Err(error("pool name", "contains a zero byte"));
        }
        self.check_members()?;
        self.check_extents()?;
        for extent in self.feature_extents.iter().flatten() {
            if extent.feature == 0 {
                return Err(error("feature extent", "of feature 0 is in use"));
            }
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), Malformed> {
        let count = self.members.len();
        if count == 0 || count > MEMBERS_MAX {
            let detail = format_args!("{count} is not between 1 and {MEMBERS_MAX}");
            return Err(error("number of members", detail));
        }
        for (index, member) in self.members.iter().enumerate() {
            if member.uuid.is_nil() {
                return Err(error("member table", format_args!("has UUID zero at {index}")));
            }
            if self.members[..index].iter().any(|other| other.uuid == member.uuid) {
                let detail = format_args!("names {} twice", member.uuid);
                return Err(error("member table", detail));
            }
            if member.size < MEMBER_SIZE_MIN {
                let detail = format_args!("has a member of {} bytes at {index}", member.size);
                return Err(error("member table", detail));
            }
            self.check_state(index, member)?;
        }
        let index = usize::from(self.index.0);
        let Some(own) = self.members.get(index) else {
            let detail = format_args!("{index} is not below the number of members, {count}");
            return Err(error("member index", detail));
        };
        if own.uuid != self.member {
            let detail =
                format_args!("{} is not that of the member table, {}", self.member, own.uuid);
            return Err(error("member UUID", detail));
        }
        if own.size != self.member_size {
            let (size, table) = (self.member_size, own.size);
            let detail = format_args!("{size} is not that of the member table, {table}");
            return Err(error("member size", detail));
        }
        Ok(())
    }

    fn check_state(&self, index: usize, member: &LabelMember) -> Result<(), Malformed> {
        let wrong = match member.state {
            MemberState::InSync => None,
            MemberState::Stale { since } => (since == 0).then_some("stale since incarnation 0"),
            MemberState::Lost { since } => {
                let alone = since == 0 || member.role == MemberRole::DataAndMetadata;
                alone.then_some("lost that has metadata, or since incarnation 0")
            }
            MemberState::Joining => {
                (member.role == MemberRole::Data).then_some("joining without metadata")
            }
            MemberState::Proposed => {
                let own = index == usize::from(self.index.0);
                let last = index + 1 == self.members.len();
                (!own || !last || index == 0).then_some("proposed where that says nothing")
            }
        };
        match wrong {
            Some(wrong) => {
                Err(error("member table", format_args!("has a member {wrong} at {index}")))
            }
            None => Ok(()),
        }
    }

    fn check_extents(&self) -> Result<(), Malformed> {
        let metadata = self.members[usize::from(self.index.0)].role == MemberRole::DataAndMetadata;
        let end = label_offsets(self.member_size)[2];
        let mut all: Vec<Extent> = Vec::new();
        for (field, extents) in self.extent_lists() {
            if extents.len() > EXTENTS_MAX {
                let count = extents.len();
                let detail = format_args!("has {count} extents, and {EXTENTS_MAX} is the most");
                return Err(error(field, detail));
            }
            if extents.is_empty() == metadata {
                let detail = if metadata {
                    "has no extents on a metadata member"
                } else {
                    "has extents on a member without metadata"
                };
                return Err(error(field, detail));
            }
            for &extent in extents {
                let Extent { offset, length } = extent;
                let aligned = offset.is_multiple_of(BLOCK) && length.is_multiple_of(BLOCK);
                let inside = offset >= DATA_OFFSET
                    && offset.checked_add(length).is_some_and(|extent_end| extent_end <= end);
                if length == 0 || !aligned || !inside {
                    let detail = format_args!(
                        "extent of {length} bytes at {offset} does not lie in whole blocks \
                         between {DATA_OFFSET} and {end}"
                    );
                    return Err(error(field, detail));
                }
                if let Some(other) = all.iter().find(|other| other.overlaps(extent)) {
                    let detail =
                        format_args!("extent at {offset} overlaps the one at {}", other.offset);
                    return Err(error(field, detail));
                }
                all.push(extent);
            }
        }
        Ok(())
    }

    fn extent_lists(&self) -> [(&'static str, &[Extent]); 3] {
        [("slot A", &self.slot_a), ("slot B", &self.slot_b), ("log", &self.log)]
    }
}

impl Extent {
    /// Whether a byte lies in both. Neither ends beyond `u64::MAX`.
    fn overlaps(self, other: Self) -> bool {
        self.offset < other.offset + other.length && other.offset < self.offset + self.length
    }
}

/// Section 2.1.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct LabelLayout {
    magic: [u8; 8],
    version: U32,
    length: U32,
    checksum: U64,
    generation: U64,
    incarnation: U64,
    pool: [u8; 16],
    member: [u8; 16],
    index: U16,
    members: U16,
    reserved_76: [u8; 4],
    compatible: U64,
    read_only_compatible: U64,
    incompatible: U64,
    cluster_size: U32,
    block_size: U32,
    size: U64,
    created_ns: U64,
    name: [u8; NAME_MAX + 1],
    slot_a: [ExtentLayout; EXTENTS_MAX],
    slot_b: [ExtentLayout; EXTENTS_MAX],
    log: [ExtentLayout; EXTENTS_MAX],
    table: [MemberLayout; MEMBERS_MAX],
    feature_extents: [FeatureExtentLayout; FEATURE_EXTENTS_MAX],
    reserved_1728: [u8; 2368],
}

/// Section 2.1, an entry of the slots and the log.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ExtentLayout {
    offset: U64,
    length: U64,
}

/// Section 2.1, a member table entry.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MemberLayout {
    uuid: [u8; 16],
    size: U64,
    role: u8,
    state: u8,
    reserved_26: [u8; 6],
    stale_since: U64,
    reserved_40: [u8; 8],
}

/// Section 2.1, a feature extent.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FeatureExtentLayout {
    feature: U32,
    member: U16,
    reserved_6: [u8; 2],
    offset: U64,
    length: U64,
}

const CHECKSUM_AT: usize = core::mem::offset_of!(LabelLayout, checksum);

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<LabelLayout>() == LABEL_SIZE);
    assert!(offset_of!(LabelLayout, magic) == 0);
    assert!(offset_of!(LabelLayout, version) == 8);
    assert!(offset_of!(LabelLayout, length) == 12);
    assert!(offset_of!(LabelLayout, checksum) == 16);
    assert!(offset_of!(LabelLayout, generation) == 24);
    assert!(offset_of!(LabelLayout, incarnation) == 32);
    assert!(offset_of!(LabelLayout, pool) == 40);
    assert!(offset_of!(LabelLayout, member) == 56);
    assert!(offset_of!(LabelLayout, index) == 72);
    assert!(offset_of!(LabelLayout, members) == 74);
    assert!(offset_of!(LabelLayout, reserved_76) == 76);
    assert!(offset_of!(LabelLayout, compatible) == 80);
    assert!(offset_of!(LabelLayout, read_only_compatible) == 88);
    assert!(offset_of!(LabelLayout, incompatible) == 96);
    assert!(offset_of!(LabelLayout, cluster_size) == 104);
    assert!(offset_of!(LabelLayout, block_size) == 108);
    assert!(offset_of!(LabelLayout, size) == 112);
    assert!(offset_of!(LabelLayout, created_ns) == 120);
    assert!(offset_of!(LabelLayout, name) == 128);
    assert!(offset_of!(LabelLayout, slot_a) == 192);
    assert!(offset_of!(LabelLayout, slot_b) == 320);
    assert!(offset_of!(LabelLayout, log) == 448);
    assert!(offset_of!(LabelLayout, table) == 576);
    assert!(offset_of!(LabelLayout, feature_extents) == 1344);
    assert!(offset_of!(LabelLayout, reserved_1728) == 1728);
    assert!(size_of::<ExtentLayout>() == 16);
    assert!(offset_of!(ExtentLayout, length) == 8);
    assert!(size_of::<MemberLayout>() == 48);
    assert!(offset_of!(MemberLayout, size) == 16);
    assert!(offset_of!(MemberLayout, role) == 24);
    assert!(offset_of!(MemberLayout, state) == 25);
    assert!(offset_of!(MemberLayout, reserved_26) == 26);
    assert!(offset_of!(MemberLayout, stale_since) == 32);
    assert!(offset_of!(MemberLayout, reserved_40) == 40);
    assert!(size_of::<FeatureExtentLayout>() == 24);
    assert!(offset_of!(FeatureExtentLayout, member) == 4);
    assert!(offset_of!(FeatureExtentLayout, reserved_6) == 6);
    assert!(offset_of!(FeatureExtentLayout, offset) == 8);
    assert!(offset_of!(FeatureExtentLayout, length) == 16);
};

impl LabelLayout {
    /// The second step of decoding: a value with every field checked.
    fn value(&self) -> Result<Label, Malformed> {
        if self.length != LENGTH {
            return Err(error("length", format_args!("{} is not {LENGTH}", self.length)));
        }
        require_zero(LABEL, "reserved bytes at 76", &self.reserved_76)?;
        require_zero(LABEL, "reserved bytes at 1728", &self.reserved_1728)?;
        if self.block_size != BLOCK_SIZE {
            let detail = format_args!("{} is not {BLOCK_SIZE}", self.block_size);
            return Err(error("block size", detail));
        }
        let cluster_size = ClusterSize::new(self.cluster_size.get()).ok_or_else(|| {
            let (least, most) = (CLUSTER_SIZE_MIN >> 10, CLUSTER_SIZE_MAX >> 20);
            let detail = format_args!(
                "{} is not a power of two between {least} KiB and {most} MiB",
                self.cluster_size
            );
            error("cluster size", detail)
        })?;
        let label = Label {
            generation: self.generation.get(),
            incarnation: self.incarnation.get(),
            pool: Uuid::from_bytes(self.pool),
            member: Uuid::from_bytes(self.member),
            index: MemberIndex(self.index.get()),
            features: Features {
                compatible: self.compatible.get(),
                read_only_compatible: self.read_only_compatible.get(),
                incompatible: self.incompatible.get(),
            },
            cluster_size,
            member_size: self.size.get(),
            created_ns: self.created_ns.get(),
            name: self.name()?,
            slot_a: read_extents("slot A", &self.slot_a)?,
            slot_b: read_extents("slot B", &self.slot_b)?,
            log: read_extents("log", &self.log)?,
            members: self.members()?,
            feature_extents: self.feature_extents()?,
        };
        label.check()?;
        Ok(label)
    }

    fn name(&self) -> Result<String, Malformed> {
        let length = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        let (name, padding) = self.name.split_at(length);
        require_zero(LABEL, "bytes after the pool name", padding)?;
        match str::from_utf8(name) {
            Ok(name) => Ok(name.to_owned()),
            Err(cause) => {
                let detail = format_args!("\"{}\" is not UTF-8: {cause}", name.escape_ascii());
                Err(error("pool name", detail))
            }
        }
    }

    fn members(&self) -> Result<Vec<LabelMember>, Malformed> {
        let count = usize::from(self.members.get());
        if count == 0 || count > MEMBERS_MAX {
            let detail = format_args!("{count} is not between 1 and {MEMBERS_MAX}");
            return Err(error("number of members", detail));
        }
        let (used, unused) = self.table.split_at(count);
        require_zero(LABEL, "unused member table entries", unused.as_bytes())?;
        used.iter().map(LabelMember::try_from).collect()
    }

    fn feature_extents(&self) -> Result<[Option<FeatureExtent>; FEATURE_EXTENTS_MAX], Malformed> {
        let mut extents = [None; FEATURE_EXTENTS_MAX];
        for (layout, extent) in self.feature_extents.iter().zip(&mut extents) {
            if layout.feature == 0 {
                require_zero(LABEL, "bytes of an unused feature extent", layout.as_bytes())?;
                continue;
            }
            require_zero(LABEL, "reserved bytes of a feature extent", &layout.reserved_6)?;
            *extent = Some(FeatureExtent {
                feature: layout.feature.get(),
                member: layout.member.get(),
                offset: layout.offset.get(),
                length: layout.length.get(),
            });
        }
        Ok(extents)
    }
}

fn read_extents(field: &'static str, table: &[ExtentLayout]) -> Result<Vec<Extent>, Malformed> {
    let unused = |extent: &ExtentLayout| extent.offset == 0 && extent.length == 0;
    let count = table.iter().position(unused).unwrap_or(table.len());
    let (used, rest) = table.split_at(count);
    if !rest.iter().all(unused) {
        return Err(error(field, format_args!("has an extent after the unused one at {count}")));
    }
    let extent =
        |extent: &ExtentLayout| Extent { offset: extent.offset.get(), length: extent.length.get() };
    Ok(used.iter().map(extent).collect())
}

fn write_extents(extents: &[Extent], table: &mut [ExtentLayout]) {
    for (extent, to) in extents.iter().zip(table) {
        *to = ExtentLayout { offset: extent.offset.into(), length: extent.length.into() };
    }
}

impl TryFrom<&MemberLayout> for LabelMember {
    type Error = Malformed;

    fn try_from(layout: &MemberLayout) -> Result<Self, Malformed> {
        require_zero(LABEL, "reserved bytes at 26 of a member", &layout.reserved_26)?;
        require_zero(LABEL, "reserved bytes at 40 of a member", &layout.reserved_40)?;
        let role = match layout.role {
            1 => MemberRole::Data,
            2 => MemberRole::DataAndMetadata,
            role => return Err(error("member role", format_args!("{role} is not known"))),
        };
        let state = match (layout.state, layout.stale_since.get()) {
            (1, 0) => MemberState::InSync,
            (2, since) => MemberState::Stale { since },
            (3, 0) => MemberState::Joining,
            (4, 0) => MemberState::Proposed,
            (5, since) => MemberState::Lost { since },
            (state @ (1 | 3 | 4), since) => {
                let detail = format_args!("is {state}, but stale since incarnation {since}");
                return Err(error("member state", detail));
            }
            (state, _) => {
                return Err(error("member state", format_args!("{state} is not known")));
            }
        };
        Ok(Self { uuid: Uuid::from_bytes(layout.uuid), size: layout.size.get(), role, state })
    }
}

impl From<&LabelMember> for MemberLayout {
    fn from(member: &LabelMember) -> Self {
        let (state, stale_since) = match member.state {
            MemberState::InSync => (1, 0),
            MemberState::Stale { since } => (2, since),
            MemberState::Joining => (3, 0),
            MemberState::Proposed => (4, 0),
            MemberState::Lost { since } => (5, since),
        };
        Self {
            uuid: member.uuid.into_bytes(),
            size: member.size.into(),
            role: match member.role {
                MemberRole::Data => 1,
                MemberRole::DataAndMetadata => 2,
            },
            state,
            reserved_26: [0; 6],
            stale_since: stale_since.into(),
            reserved_40: [0; 8],
        }
    }
}

impl From<&FeatureExtent> for FeatureExtentLayout {
    fn from(extent: &FeatureExtent) -> Self {
        Self {
            feature: extent.feature.into(),
            member: extent.member.into(),
            reserved_6: [0; 2],
            offset: extent.offset.into(),
            length: extent.length.into(),
        }
    }
}

fn first_bit(bits: u64) -> Option<u32> {
    (bits != 0).then(|| bits.trailing_zeros())
}

#[cold]
fn error(field: &'static str, detail: impl std::fmt::Display) -> Malformed {
    Malformed::field(LABEL, field, detail)
}

#[cfg(test)]
mod tests;
