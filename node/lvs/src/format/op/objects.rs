//! The objects of a pool as operations carry them: its settings, volumes and snapshots.
//!
//! A record is the whole object; putting it replaces what was there. Source: section 4.2.
//!
//! - `check` says whether a record may be written. Whoever makes one from a request calls
//!   it first: names and labels come from users, and so does their total size.
//! - Zero means no limit wherever a field is a limit.

use fathom_units::ByteCount;
use uuid::Uuid;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::{HEADER_SIZE, LOGICAL_CLUSTERS_MAX, check_layer, check_object, put};
use crate::{
    format::{
        Malformed,
        cursor::{ALIGNMENT, Cursor},
        label::NAME_MAX,
    },
    geometry::{BLOCK, LayerId, MEMBERS_MAX, ObjectId},
};

/// The longest NVMe qualified name, in bytes.
pub const NQN_MAX: usize = 223;
/// The most hosts that a volume may name.
pub const HOSTS_MAX: usize = 64;
/// The most labels of an object.
pub const LABELS_MAX: usize = 64;
/// The most bytes that the operation with an object may take.
pub const OBJECT_MAX: usize = 32 << 10;

pub(super) const PUT_POOL: &str = "PutPool operation";
pub(super) const PUT_VOLUME: &str = "PutVolume operation";
pub(super) const PUT_SNAPSHOT: &str = "PutSnapshot operation";

/// What is settable on a pool.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PoolRecord {
    /// How much all volumes together may promise, in percent of the pool's capacity.
    /// 0: no limit.
    pub overcommit_percent: u32,
    /// The lower mark of used capacity, 0 to 100 percent.
    pub watermark_low_percent: u16,
    /// The upper mark of used capacity, 0 to 100 percent.
    pub watermark_high_percent: u16,
    /// Keys and values that users gave; no key twice, at most [`LABELS_MAX`].
    pub labels: Vec<(String, String)>,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    /// Its id in the pool.
    pub id: ObjectId,
    /// Its UUID, by which the control plane knows it.
    pub uuid: Uuid,
    /// The layer that it writes; none when it was deleted and is kept for its snapshots.
    pub tip: Option<LayerId>,
    /// What it is and how it is offered.
    pub flags: VolumeFlags,
    /// Its size, a multiple of the logical block size and never zero.
    pub size: ByteCount,
    /// The logical block size in bytes, 512 or 4096.
    pub logical_block_size: u32,
    /// When it was created, in nanoseconds since 1970.
    pub created_ns: u64,
    /// What hosts know it by.
    pub identity: Identity,
    /// The least controller id that it is offered with.
    pub cntlid_min: u16,
    /// The greatest controller id that it is offered with, not below the least.
    pub cntlid_max: u16,
    /// The members on which its clusters may lie, one bit per index.
    pub members: u16,
    /// How much may be asked of it.
    pub limits: QosLimits,
    /// Its name, 1 to 63 bytes.
    pub name: String,
    /// The NQNs of the hosts that may connect, at most [`HOSTS_MAX`] of 1 to 223 bytes.
    pub hosts: Vec<String>,
    /// Keys and values that users gave; no key twice, at most [`LABELS_MAX`].
    pub labels: Vec<(String, String)>,
}

/// What a volume is and how it is offered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VolumeFlags {
    /// Its capacity is set aside from the start.
    pub thick: bool,
    /// Every write is on stable media before it is acknowledged.
    pub write_cache_off: bool,
    /// Hosts may connect to it.
    pub exported: bool,
    /// Every host may connect to it, not only those named.
    pub any_host: bool,
}

/// What hosts know a volume by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The NQN of the NVM subsystem, at most 223 bytes.
    pub subsystem_nqn: String,
    /// The serial number of the subsystem, ASCII, padded with spaces.
    pub serial: [u8; 20],
    /// The namespace id in the subsystem.
    pub nsid: u32,
    /// The namespace globally unique identifier.
    pub nguid: [u8; 16],
    /// The namespace UUID.
    pub uuid: Uuid,
}

/// How much may be asked of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QosLimits {
    /// For how long an idle volume saves what it did not use, in seconds.
    pub burst_s: u32,
    /// Commands per second.
    pub iops: Rates,
    /// Bytes per second.
    pub bandwidth: Rates,
}

/// A limit for each direction and for both together. 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rates {
    /// Reads and writes together.
    pub all: u64,
    /// Reads.
    pub read: u64,
    /// Writes.
    pub write: u64,
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRecord {
    /// Its id in the pool.
    pub id: ObjectId,
    /// Its UUID, by which the control plane knows it.
    pub uuid: Uuid,
    /// The volume of which it was taken.
    pub volume: ObjectId,
    /// The layer that it keeps.
    pub layer: LayerId,
    /// The size of the volume when it was taken, never zero.
    pub size: ByteCount,
    /// When it was taken, in nanoseconds since 1970.
    pub created_ns: u64,
    /// Its name, 1 to 63 bytes.
    pub name: String,
    /// Keys and values that users gave; no key twice, at most [`LABELS_MAX`].
    pub labels: Vec<(String, String)>,
}

impl PoolRecord {
    /// Whether this record may be written.
    ///
    /// # Errors
    ///
    /// [`Malformed::Field`] with the field that the format does not allow.
    pub fn check(&self) -> Result<(), Malformed> {
        for (field, percent) in [
            ("low watermark", self.watermark_low_percent),
            ("high watermark", self.watermark_high_percent),
        ] {
            if percent > 100 {
                let detail = format_args!("{percent} is above 100 percent");
                return Err(Malformed::field(PUT_POOL, field, detail));
            }
        }
        check_labels(PUT_POOL, &self.labels)?;
        check_length(PUT_POOL, self.body_len())
    }

    pub(super) fn body_len(&self) -> usize {
        size_of::<PoolLayout>() + labels_len(&self.labels)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let layout = PoolLayout {
            overcommit_percent: self.overcommit_percent.into(),
            watermark_low_percent: self.watermark_low_percent.into(),
            watermark_high_percent: self.watermark_high_percent.into(),
        };
        put(out, &layout);
        put_labels(out, &self.labels);
    }

    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let body: &PoolLayout = cursor.view("body")?;
        Ok(Self {
            overcommit_percent: body.overcommit_percent.get(),
            watermark_low_percent: body.watermark_low_percent.get(),
            watermark_high_percent: body.watermark_high_percent.get(),
            labels: read_labels(cursor)?,
        })
    }
}

impl VolumeRecord {
    /// Whether this record may be written to a pool with that many blocks in a cluster.
    ///
    /// # Errors
    ///
    /// [`Malformed::Field`] with the field that the format does not allow.
    pub fn check(&self, blocks_per_cluster: u16) -> Result<(), Malformed> {
        let error = |field, detail: &dyn std::fmt::Display| {
            Err(Malformed::field(PUT_VOLUME, field, detail))
        };
        check_object(PUT_VOLUME, "id", self.id)?;
        if let Some(tip) = self.tip {
            check_layer(PUT_VOLUME, tip)?;
        }
        if !matches!(self.logical_block_size, 512 | 4096) {
            let size = self.logical_block_size;
            return error("logical block size", &format_args!("{size} is neither 512 nor 4096"));
        }
        check_size(PUT_VOLUME, self.size, blocks_per_cluster)?;
        if !self.size.0.is_multiple_of(u64::from(self.logical_block_size)) {
            let (size, block) = (self.size.0, self.logical_block_size);
            return error("size", &format_args!("{size} is not a multiple of {block}"));
        }
        if self.cntlid_min > self.cntlid_max {
            let (least, most) = (self.cntlid_min, self.cntlid_max);
            return error("CNTLID minimum", &format_args!("{least} is above {most}"));
        }
        check_text(PUT_VOLUME, "name", &self.name, 1, NAME_MAX)?;
        check_text(PUT_VOLUME, "subsystem NQN", &self.identity.subsystem_nqn, 0, NQN_MAX)?;
        if self.hosts.len() > HOSTS_MAX {
            let count = self.hosts.len();
            return error("hosts", &format_args!("are {count}, and {HOSTS_MAX} is the most"));
        }
        for host in &self.hosts {
            check_text(PUT_VOLUME, "host NQN", host, 1, NQN_MAX)?;
        }
        check_labels(PUT_VOLUME, &self.labels)?;
        check_length(PUT_VOLUME, self.body_len())
    }

    pub(super) fn body_len(&self) -> usize {
        size_of::<VolumeLayout>()
            + text_len(&self.name)
            + text_len(&self.identity.subsystem_nqn)
            + size_of::<U16>()
            + self.hosts.iter().map(|host| text_len(host)).sum::<usize>()
            + labels_len(&self.labels)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let layout = VolumeLayout {
            id: self.id.0.into(),
            uuid: self.uuid.into_bytes(),
            tip: self.tip.map_or(0, |tip| tip.0).into(),
            flags: self.flags.bits().into(),
            size: self.size.0.into(),
            logical_block_size: self.logical_block_size.into(),
            nsid: self.identity.nsid.into(),
            created_ns: self.created_ns.into(),
            nguid: self.identity.nguid,
            namespace_uuid: self.identity.uuid.into_bytes(),
            serial: self.identity.serial,
            cntlid_min: self.cntlid_min.into(),
            cntlid_max: self.cntlid_max.into(),
            members: u32::from(self.members).into(),
            burst_s: self.limits.burst_s.into(),
            iops: self.limits.iops.into(),
            bandwidth: self.limits.bandwidth.into(),
        };
        put(out, &layout);
        put_text(out, &self.name);
        put_text(out, &self.identity.subsystem_nqn);
        put_count(out, self.hosts.len());
        for host in &self.hosts {
            put_text(out, host);
        }
        put_labels(out, &self.labels);
    }

    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let body: &VolumeLayout = cursor.view("body")?;
        let tip = body.tip.get();
        let flags = body.flags.get();
        let flags = VolumeFlags::from_bits(flags)
            .ok_or_else(|| cursor.error("flags", format_args!("{flags:#x} are not all known")))?;
        let members = u16::try_from(body.members.get()).map_err(|_| {
            let detail = format_args!("{:#x} name one above {MEMBERS_MAX}", body.members);
            cursor.error("members", detail)
        })?;
        let name = cursor.text("name")?.to_owned();
        let subsystem_nqn = cursor.text("subsystem NQN")?.to_owned();
        let hosts = cursor.list("hosts", HOSTS_MAX)?;
        let hosts = (0..hosts)
            .map(|_| cursor.text("host NQN").map(str::to_owned))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id: ObjectId(body.id.get()),
            uuid: Uuid::from_bytes(body.uuid),
            tip: (tip != 0).then_some(LayerId(tip)),
            flags,
            size: ByteCount(body.size.get()),
            logical_block_size: body.logical_block_size.get(),
            created_ns: body.created_ns.get(),
            identity: Identity {
                subsystem_nqn,
                serial: body.serial,
                nsid: body.nsid.get(),
                nguid: body.nguid,
                uuid: Uuid::from_bytes(body.namespace_uuid),
            },
            cntlid_min: body.cntlid_min.get(),
            cntlid_max: body.cntlid_max.get(),
            members,
            limits: QosLimits {
                burst_s: body.burst_s.get(),
                iops: Rates::from(&body.iops),
                bandwidth: Rates::from(&body.bandwidth),
            },
            name,
            hosts,
            labels: read_labels(cursor)?,
        })
    }
}

impl SnapshotRecord {
    /// Whether this record may be written to a pool with that many blocks in a cluster.
    ///
    /// # Errors
    ///
    /// [`Malformed::Field`] with the field that the format does not allow.
    pub fn check(&self, blocks_per_cluster: u16) -> Result<(), Malformed> {
        check_object(PUT_SNAPSHOT, "id", self.id)?;
        check_object(PUT_SNAPSHOT, "volume", self.volume)?;
        check_layer(PUT_SNAPSHOT, self.layer)?;
        check_size(PUT_SNAPSHOT, self.size, blocks_per_cluster)?;
        check_text(PUT_SNAPSHOT, "name", &self.name, 1, NAME_MAX)?;
        check_labels(PUT_SNAPSHOT, &self.labels)?;
        check_length(PUT_SNAPSHOT, self.body_len())
    }

    pub(super) fn body_len(&self) -> usize {
        size_of::<SnapshotLayout>() + text_len(&self.name) + labels_len(&self.labels)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let layout = SnapshotLayout {
            id: self.id.0.into(),
            uuid: self.uuid.into_bytes(),
            volume: self.volume.0.into(),
            layer: self.layer.0.into(),
            reserved_36: [0; 4],
            size: self.size.0.into(),
            created_ns: self.created_ns.into(),
        };
        put(out, &layout);
        put_text(out, &self.name);
        put_labels(out, &self.labels);
    }

    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let body: &SnapshotLayout = cursor.view("body")?;
        cursor.require_zero("reserved bytes at 44", &body.reserved_36)?;
        Ok(Self {
            id: ObjectId(body.id.get()),
            uuid: Uuid::from_bytes(body.uuid),
            volume: ObjectId(body.volume.get()),
            layer: LayerId(body.layer.get()),
            size: ByteCount(body.size.get()),
            created_ns: body.created_ns.get(),
            name: cursor.text("name")?.to_owned(),
            labels: read_labels(cursor)?,
        })
    }
}

impl VolumeFlags {
    const THICK: u32 = 1;
    const WRITE_CACHE_OFF: u32 = 2;
    const EXPORTED: u32 = 4;
    const ANY_HOST: u32 = 8;

    fn bits(self) -> u32 {
        [
            (self.thick, Self::THICK),
            (self.write_cache_off, Self::WRITE_CACHE_OFF),
            (self.exported, Self::EXPORTED),
            (self.any_host, Self::ANY_HOST),
        ]
        .into_iter()
        .filter_map(|(set, bit)| set.then_some(bit))
        .sum()
    }

    fn from_bits(bits: u32) -> Option<Self> {
        let flags = Self {
            thick: bits & Self::THICK != 0,
            write_cache_off: bits & Self::WRITE_CACHE_OFF != 0,
            exported: bits & Self::EXPORTED != 0,
            any_host: bits & Self::ANY_HOST != 0,
        };
        (flags.bits() == bits).then_some(flags)
    }
}

fn check_size(
    structure: &'static str,
    size: ByteCount,
    blocks_per_cluster: u16,
) -> Result<(), Malformed> {
    let most = LOGICAL_CLUSTERS_MAX * u64::from(blocks_per_cluster) * BLOCK;
    if size.0 == 0 || size.0 > most {
        let detail = format_args!("{} is not between 1 and {most}", size.0);
        return Err(Malformed::field(structure, "size", detail));
    }
    Ok(())
}

fn check_text(
    structure: &'static str,
    field: &'static str,
    text: &str,
    least: usize,
    most: usize,
) -> Result<(), Malformed> {
    let length = text.len();
    if length < least || length > most {
        let detail = format_args!("has {length} bytes, and {least} to {most} are allowed");
        return Err(Malformed::field(structure, field, detail));
    }
    Ok(())
}

fn check_labels(structure: &'static str, labels: &[(String, String)]) -> Result<(), Malformed> {
    if labels.len() > LABELS_MAX {
        let detail = format_args!("are {}, and {LABELS_MAX} is the most", labels.len());
        return Err(Malformed::field(structure, "labels", detail));
    }
    for (index, (key, value)) in labels.iter().enumerate() {
        check_text(structure, "label key", key, 1, OBJECT_MAX)?;
        check_text(structure, "label value", value, 0, OBJECT_MAX)?;
        if labels[..index].iter().any(|(other, _)| other == key) {
            let detail = format_args!("\"{}\" occurs twice", key.escape_debug());
            return Err(Malformed::field(structure, "label key", detail));
        }
    }
    Ok(())
}

fn check_length(structure: &'static str, body: usize) -> Result<(), Malformed> {
    let length = HEADER_SIZE + body.next_multiple_of(ALIGNMENT);
    if length > OBJECT_MAX {
        let detail = format_args!("{length} is above {OBJECT_MAX} bytes");
        return Err(Malformed::field(structure, "length", detail));
    }
    Ok(())
}

fn text_len(text: &str) -> usize {
    size_of::<U16>() + text.len()
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    put(out, &U16::new(u16::try_from(count).expect("an object was checked to be short")));
}

fn labels_len(labels: &[(String, String)]) -> usize {
    let items = labels.iter().map(|(key, value)| text_len(key) + text_len(value));
    size_of::<U16>() + items.sum::<usize>()
}

fn put_labels(out: &mut Vec<u8>, labels: &[(String, String)]) {
    put_count(out, labels.len());
    for (key, value) in labels {
        put_text(out, key);
        put_text(out, value);
    }
}

fn read_labels(cursor: &mut Cursor<'_>) -> Result<Vec<(String, String)>, Malformed> {
    let count = cursor.list("labels", LABELS_MAX)?;
    let mut labels = Vec::with_capacity(count);
    for _ in 0..count {
        let key = cursor.text("label key")?.to_owned();
        let value = cursor.text("label value")?.to_owned();
        labels.push((key, value));
    }
    Ok(labels)
}

/// Section 4.2, PutPool. The labels follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PoolLayout {
    overcommit_percent: U32,
    watermark_low_percent: U16,
    watermark_high_percent: U16,
}

/// Section 4.2, PutVolume. Name, subsystem NQN, host NQNs and labels follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct VolumeLayout {
    id: U64,
    uuid: [u8; 16],
    tip: U32,
    flags: U32,
    size: U64,
    logical_block_size: U32,
    nsid: U32,
    created_ns: U64,
    nguid: [u8; 16],
    namespace_uuid: [u8; 16],
    serial: [u8; 20],
    cntlid_min: U16,
    cntlid_max: U16,
    members: U32,
    burst_s: U32,
    iops: RatesLayout,
    bandwidth: RatesLayout,
}

/// Section 4.2, limits of PutVolume.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RatesLayout {
    all: U64,
    read: U64,
    write: U64,
}

impl From<Rates> for RatesLayout {
    fn from(rates: Rates) -> Self {
        Self { all: rates.all.into(), read: rates.read.into(), write: rates.write.into() }
    }
}

impl From<&RatesLayout> for Rates {
    fn from(layout: &RatesLayout) -> Self {
        Self { all: layout.all.get(), read: layout.read.get(), write: layout.write.get() }
    }
}

/// Section 4.2, PutSnapshot. Name and labels follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SnapshotLayout {
    id: U64,
    uuid: [u8; 16],
    volume: U64,
    layer: U32,
    reserved_36: [u8; 4],
    size: U64,
    created_ns: U64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<PoolLayout>() == 8);
    assert!(offset_of!(PoolLayout, watermark_low_percent) == 4);
    assert!(offset_of!(PoolLayout, watermark_high_percent) == 6);
    assert!(size_of::<VolumeLayout>() == 168);
    assert!(offset_of!(VolumeLayout, uuid) == 8);
    assert!(offset_of!(VolumeLayout, tip) == 24);
    assert!(offset_of!(VolumeLayout, flags) == 28);
    assert!(offset_of!(VolumeLayout, size) == 32);
    assert!(offset_of!(VolumeLayout, logical_block_size) == 40);
    assert!(offset_of!(VolumeLayout, nsid) == 44);
    assert!(offset_of!(VolumeLayout, created_ns) == 48);
    assert!(offset_of!(VolumeLayout, nguid) == 56);
    assert!(offset_of!(VolumeLayout, namespace_uuid) == 72);
    assert!(offset_of!(VolumeLayout, serial) == 88);
    assert!(offset_of!(VolumeLayout, cntlid_min) == 108);
    assert!(offset_of!(VolumeLayout, cntlid_max) == 110);
    assert!(offset_of!(VolumeLayout, members) == 112);
    assert!(offset_of!(VolumeLayout, burst_s) == 116);
    assert!(offset_of!(VolumeLayout, iops) == 120);
    assert!(offset_of!(VolumeLayout, bandwidth) == 144);
    assert!(size_of::<RatesLayout>() == 24);
    assert!(offset_of!(RatesLayout, read) == 8);
    assert!(offset_of!(RatesLayout, write) == 16);
    assert!(size_of::<SnapshotLayout>() == 56);
    assert!(offset_of!(SnapshotLayout, volume) == 24);
    assert!(offset_of!(SnapshotLayout, layer) == 32);
    assert!(offset_of!(SnapshotLayout, reserved_36) == 36);
    assert!(offset_of!(SnapshotLayout, size) == 40);
    assert!(offset_of!(SnapshotLayout, created_ns) == 48);
};
