//! Whether what was read is a pool that can be driven: the last look before anything is written.
//!
//! A right checksum says that a structure belongs to the pool, not that it makes sense: the pool's
//! UUID, which seeds the checksums, stands on the disk for everybody. So what the rest of the
//! store relies on is checked here once, over all structures together, and refused with its place.
//!
//! - Nothing of this can come from a crash: it is damage, or somebody wrote it on purpose.
//! - What passes can be counted on: no number overflows, everything fits its log and its slots,
//!   and no two things own the same bytes.
//!
//! Source: `docs/formats/lvs.md` sections 7 and 8.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    damage::Damage,
    format::{
        checkpoint::{CHUNK_HEADER, CHUNK_MAX, SlotHeader},
        entry::ENTRY_MAX,
        label::{DATA_OFFSET, Extent, Label, LabelMember, MemberRole, label_offsets},
        op::{Op, VolumeRecord},
    },
    geometry::{BLOCK, ClusterNo, ClusterSize, LayerId, MemberIndex, ObjectId, Segment},
    log::{Ring, log_bytes_min},
    state::State,
};

/// The most that a generation, an incarnation, an LSN or a ring position may have come to when a
/// pool is opened. What is counted on from here never ends.
pub(crate) const COUNT_MAX: u64 = 1 << 62;
/// The most layers in a pool: each takes memory, whatever it holds.
pub(crate) const LAYERS_MAX: usize = 1 << 17;
/// The most segments of all members together: what fits the first chunk of a checkpoint with
/// the longest description of the pool.
pub(crate) const SEGMENTS_MAX: usize = 1024;
/// The largest log, in bytes: opening holds what is replayed in memory.
pub(crate) const LOG_MAX: u64 = 1 << 30;
/// The smallest checkpoint slot, in bytes: room for some volumes beside what every checkpoint takes.
pub(crate) const SLOT_MIN: u64 = 192 << 10;
/// The smallest extent of a slot or of the log, in bytes: the longest chunk or entry fits.
const EXTENT_MIN: u64 = if ENTRY_MAX > CHUNK_MAX { ENTRY_MAX as u64 } else { CHUNK_MAX as u64 };
/// What a checkpoint takes at least for one fragment, in bytes.
const FRAGMENT_LEAST: u64 = 4;
/// Fragments that may come on top of those of a full slot before the store takes no more.
const FRAGMENTS_BEYOND: u64 = 8192;

/// The least bytes of the log of a pool with so many members: an entry holds a proof for each block
/// of a cluster.
pub(crate) fn log_least(cluster_size: ClusterSize, members: usize) -> u64 {
    let entry = u64::from(cluster_size.blocks()) * 8 + 256;
    log_bytes_min(members as u64, entry.next_multiple_of(BLOCK))
}

/// The most fragments that a pool with such slots can hold.
pub(crate) fn fragments_most(slots: [&[Extent]; 2]) -> u64 {
    let most = slots.into_iter().map(|extents| Ring::new(extents).length()).max();
    most.unwrap_or(0) / FRAGMENT_LEAST + FRAGMENTS_BEYOND
}

/// Refuses a number that has come too far to be counted on.
pub(crate) fn check_count(what: &'static str, value: u64) -> Result<(), Damage> {
    check_most(what, value, COUNT_MAX)
}

/// Refuses more than `most` of something.
pub(crate) fn check_most(what: &'static str, value: u64, most: u64) -> Result<(), Damage> {
    if value > most { Err(Damage::Beyond { what, value, most }) } else { Ok(()) }
}

/// Whether a pool can go on from a slot header that verifies.
pub(crate) fn check_slot(
    slot: usize,
    header: &SlotHeader,
    slots: [&[Extent]; 2],
) -> Result<(), Damage> {
    let generation = header.generation;
    check_count("the generation of a checkpoint", generation)?;
    check_count("the start LSN of a checkpoint", header.start.0)?;
    check_count("the ring position of a checkpoint", header.position)?;
    check_count("the incarnation of a checkpoint", header.incarnation)?;
    if crate::checkpoint::slot_of(generation) != slot {
        return Err(Damage::Slot { generation, detail: "stands in the slot of the other one" });
    }
    let room = Ring::new(slots[slot]).length() - BLOCK;
    if header.chunk_bytes > room {
        return Err(Damage::Slot { generation, detail: "states more chunks than its slot holds" });
    }
    Ok(())
}

/// Whether a pool can be driven by what a label says of its place. An error is a field and what is
/// wrong with it.
pub(crate) fn check_label(label: &Label) -> Result<(), (&'static str, String)> {
    for (field, number) in [("generation", label.generation), ("incarnation", label.incarnation)] {
        if number > COUNT_MAX {
            return Err((field, format!("{number} is above {COUNT_MAX}")));
        }
    }
    let log_least = log_least(label.cluster_size, label.members.len());
    for (field, extents, least, most) in [
        ("slot A", &label.slot_a, SLOT_MIN, u64::MAX),
        ("slot B", &label.slot_b, SLOT_MIN, u64::MAX),
        ("log", &label.log, log_least, LOG_MAX),
    ] {
        if extents.is_empty() {
            continue;
        }
        if let Some(short) = extents.iter().find(|extent| extent.length < EXTENT_MIN) {
            let Extent { offset, length } = short;
            let detail =
                format!("has an extent of {length} bytes at {offset}; {EXTENT_MIN} are the least");
            return Err((field, detail));
        }
        let length = Ring::new(extents).length();
        if length < least || length > most {
            return Err((field, format!("has {length} bytes, and {least} to {most} are allowed")));
        }
    }
    Ok(())
}

/// Whether the segments lie where they may, and no two own the same clusters or bytes.
pub(crate) fn check_segments(
    state: &State,
    table: &[LabelMember],
    layout: &Label,
) -> Result<(), Damage> {
    let count: usize = state.members.values().map(Vec::len).sum();
    check_most("the number of segments", count as u64, SEGMENTS_MAX as u64)?;
    let mut clusters: BTreeMap<ClusterNo, (MemberIndex, Segment)> = BTreeMap::new();
    for (&member, segments) in &state.members {
        let refuse = |segment: &Segment, detail| {
            let (first, offset) = (segment.first, segment.offset.0);
            Err(Damage::Segment { member, first, offset, detail })
        };
        let Some(entry) = table.get(usize::from(member.0)) else {
            return Err(Damage::NoMember { what: "a segment", id: 0, member });
        };
        let end = label_offsets(entry.size)[2];
        let mut taken: BTreeMap<u64, u64> = BTreeMap::new();
        if entry.role == MemberRole::DataAndMetadata {
            let metadata = [&layout.slot_a, &layout.slot_b, &layout.log];
            let extents = metadata.into_iter().flatten();
            taken.extend(extents.map(|extent| (extent.offset, extent.offset + extent.length)));
        }
        for segment in segments {
            let length = u64::from(segment.clusters) * u64::from(state.cluster_size.bytes());
            let (begin, stop) = (segment.offset.0, segment.offset.0 + length);
            if begin < DATA_OFFSET || stop > end {
                return refuse(segment, "does not lie between the label copies of its member");
            }
            if overlaps(&taken, begin, stop) {
                return refuse(segment, "lies on other clusters or on metadata of its member");
            }
            taken.insert(begin, stop);
            let next = clusters.range(..ClusterNo(segment.first.0 + segment.clusters)).next_back();
            if next.is_some_and(|(first, (_, other))| first.0 + other.clusters > segment.first.0) {
                return refuse(segment, "has cluster numbers that another one has");
            }
            clusters.insert(segment.first, (member, *segment));
        }
    }
    Ok(())
}

/// Whether `begin..stop` overlaps one of `taken`, which do not overlap each other.
fn overlaps(taken: &BTreeMap<u64, u64>, begin: u64, stop: u64) -> bool {
    taken.range(..stop).next_back().is_some_and(|(_, &end)| end > begin)
}

/// Whether every layer is named once at most, names and UUIDs are unique, and every object lies
/// on members of the pool.
pub(crate) fn check_objects(state: &State, members: usize) -> Result<(), Damage> {
    for &layer in state.layers.keys() {
        if state.tree.links(layer).names > 1 {
            return Err(Damage::Links { what: "layer", id: u64::from(layer.0) });
        }
    }
    let mut names: BTreeMap<&str, ObjectId> = BTreeMap::new();
    let mut uuids: BTreeMap<Uuid, ObjectId> = BTreeMap::new();
    for (&id, volume) in &state.volumes {
        if let Some(one) = names.insert(&volume.name, id) {
            return Err(Damage::Twins { one, other: id, shared: format!("\"{}\"", volume.name) });
        }
        check_uuid(&mut uuids, volume.uuid, id)?;
        if let Some(member) = unknown_member(volume, members) {
            return Err(Damage::NoMember { what: "volume", id: id.0, member });
        }
    }
    let mut named: BTreeMap<(ObjectId, &str), ObjectId> = BTreeMap::new();
    for (&id, snapshot) in &state.snapshots {
        if state.volumes.contains_key(&id) {
            return Err(Damage::Links { what: "snapshot", id: id.0 });
        }
        if let Some(one) = named.insert((snapshot.volume, &snapshot.name), id) {
            return Err(Damage::Twins { one, other: id, shared: format!("\"{}\"", snapshot.name) });
        }
        check_uuid(&mut uuids, snapshot.uuid, id)?;
        let volume = state.volumes.get(&snapshot.volume);
        let block_size = volume.map_or(1, |volume| u64::from(volume.logical_block_size));
        if !snapshot.size.0.is_multiple_of(block_size) {
            return Err(Damage::Links { what: "the size of snapshot", id: id.0 });
        }
    }
    for (&id, volume) in &state.volumes {
        let kept = || named.range((id, "")..).next().is_some_and(|((of, _), _)| *of == id);
        if volume.tip.is_none() && !kept() {
            return Err(Damage::Links { what: "deleted volume", id: id.0 });
        }
    }
    Ok(())
}

fn check_uuid(
    uuids: &mut BTreeMap<Uuid, ObjectId>,
    uuid: Uuid,
    id: ObjectId,
) -> Result<(), Damage> {
    match uuids.insert(uuid, id) {
        None => Ok(()),
        Some(one) => Err(Damage::Twins { one, other: id, shared: format!("UUID {uuid}") }),
    }
}

fn unknown_member(volume: &VolumeRecord, members: usize) -> Option<MemberIndex> {
    crate::store::bits(u32::from(volume.members)).find(|member| usize::from(member.0) >= members)
}

/// Whether what stands in the first chunk of every checkpoint fits it, and every volume, which
/// may have to be logged again at any time, fits a log entry of `payload_max` bytes.
pub(crate) fn check_lengths(state: &State, payload_max: usize) -> Result<(), Damage> {
    let blocks = state.blocks();
    let pool = Op::PutPool(state.pool.clone()).encoded_len(blocks);
    let refuse = |what, id, bytes, most| Err(Damage::TooLong { what, id, bytes, most });
    let segments = |(&member, segments): (&MemberIndex, &Vec<Segment>)| {
        Op::PutMember { member, segments: segments.clone() }.encoded_len(blocks)
    };
    let first = pool + state.members.iter().map(segments).sum::<usize>();
    if first > CHUNK_MAX - CHUNK_HEADER {
        return refuse("the description of all members", 0, first, CHUNK_MAX - CHUNK_HEADER);
    }
    for (&ObjectId(id), volume) in &state.volumes {
        let bytes = Op::PutVolume(Box::new(volume.clone())).encoded_len(blocks);
        if bytes > payload_max {
            return refuse("the description of volume", id, bytes, payload_max);
        }
    }
    Ok(())
}

/// Whether a layer beside those of the pool is one too many.
pub(crate) fn check_layers(state: &State) -> Result<(), Damage> {
    check_most("the number of layers", state.layers.len() as u64, LAYERS_MAX as u64)
}

/// Whether the layers form trees: each parent is there, and older than its children.
pub(crate) fn check_parent(state: &State, id: LayerId, parent: LayerId) -> Result<(), Damage> {
    if !state.layers.contains_key(&parent) {
        return Err(Damage::NoLayer { what: "layer", id: u64::from(id.0), layer: parent });
    }
    if parent >= id {
        return Err(Damage::Links { what: "the parent of layer", id: u64::from(id.0) });
    }
    Ok(())
}
