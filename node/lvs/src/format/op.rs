//! Operations: what log entries and checkpoint chunks say about the state of a pool.
//!
//! The log and the checkpoint writer encode them into a buffer that they then seal; the
//! replay takes a verified entry or chunk and draws operations from a [`Decoder`], one at
//! a time. Source: section 4.
//!
//! - An operation is absolute: it says what a thing becomes, not how it differs.
//! - [`Op::check`] states once what values are allowed. The decoder refuses and the encoder
//!   asserts by it. It looks at one operation alone: whether a layer exists or a cluster
//!   lies in a segment is for the replay to find out.
//! - One operation decodes to at most [`FRAGMENTS_MAX`] fragments, whatever its bytes say.

mod fragments;
mod layout;
mod objects;

pub use fragments::FRAGMENTS_MAX;
pub use objects::{
    HOSTS_MAX, Identity, LABELS_MAX, NQN_MAX, OBJECT_MAX, PoolRecord, QosLimits, Rates,
    SnapshotRecord, VolumeFlags, VolumeRecord,
};
use zerocopy::{
    Immutable, IntoBytes,
    little_endian::{U32, U64},
};

use self::layout::{
    FragmentsLayout, HEADER_SIZE, Kind, LENGTH_AT, LayerLayout, MapLayout, OpLayout,
    PutMemberLayout, SegmentLayout, SettledLayout, UNMAP_OPAQUE, UnmapLayout,
};
use super::{
    Malformed,
    cursor::{ALIGNMENT, Cursor, pad},
};
use crate::{
    geometry::{
        BLOCK, CLUSTER_SIZE_MAX, CLUSTER_SIZE_MIN, CLUSTERS_MAX, ClusterNo, LayerId,
        LogicalCluster, Lsn, MEMBERS_MAX, MemberIndex, ObjectId, Segment,
    },
    map::Fragment,
};

/// The most logical clusters in a volume (section 8).
pub const LOGICAL_CLUSTERS_MAX: u64 = u32::MAX as u64;
/// The most logical clusters that one Unmap touches: of a few bytes nobody shall make hours of
/// work.
pub const UNMAP_CLUSTERS_MAX: u64 = 1024;
/// The most segments of a member: what fits one operation of 32 KiB.
pub const SEGMENTS_MAX: usize =
    (OBJECT_MAX - HEADER_SIZE - size_of::<PutMemberLayout>()) / size_of::<SegmentLayout>();

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Gives a fragment its cluster, if it has none, and makes blocks valid.
    Map {
        /// The layer of the fragment.
        layer: LayerId,
        /// The fragment's place in the volume.
        at: LogicalCluster,
        /// The cluster that holds the blocks.
        cluster: ClusterNo,
        /// The first block in the cluster.
        first: u16,
        /// The proof of each block from `first` on: one at least, and none beyond the cluster.
        proofs: Vec<u64>,
    },
    /// Makes blocks read as zero: no longer valid.
    Unmap {
        /// The layer in which they do.
        layer: LayerId,
        /// Whether they become opaque, because the layer has a parent.
        opaque: bool,
        /// The first block, in blocks of 4 KiB from the start of the volume.
        first_block: u64,
        /// How many blocks, never zero.
        blocks: u64,
    },
    /// Sets fragments to exactly these.
    Fragments {
        /// The layer of the fragments.
        layer: LayerId,
        /// The fragments, by strictly increasing logical cluster; absent ones are removed.
        items: Vec<(LogicalCluster, Fragment)>,
    },
    /// Makes a layer, or gives it another parent.
    PutLayer {
        /// The layer.
        layer: LayerId,
        /// The layer that shows through it; never itself.
        parent: Option<LayerId>,
    },
    /// Removes a layer and its fragments.
    DropLayer {
        /// The layer.
        layer: LayerId,
    },
    /// Makes or replaces a volume.
    PutVolume(Box<VolumeRecord>),
    /// Removes a volume.
    DropVolume {
        /// The volume.
        volume: ObjectId,
    },
    /// Makes or replaces a snapshot.
    PutSnapshot(Box<SnapshotRecord>),
    /// Removes a snapshot.
    DropSnapshot {
        /// The snapshot.
        snapshot: ObjectId,
    },
    /// Replaces what is settable on the pool.
    PutPool(PoolRecord),
    /// Makes or replaces a member's segments.
    PutMember {
        /// The member.
        member: MemberIndex,
        /// Its clusters, at most [`SEGMENTS_MAX`] runs.
        segments: Vec<Segment>,
    },
    /// The data of every Map up to an LSN that lies on a member was flushed there.
    Settled {
        /// The member.
        member: MemberIndex,
        /// The last LSN for which this holds.
        lsn: Lsn,
    },
}

impl Op {
    /// Whether this operation may be written to a pool with that many blocks in a cluster.
    ///
    /// # Errors
    ///
    /// [`Malformed::Field`] with the field that the format does not allow.
    pub fn check(&self, blocks_per_cluster: u16) -> Result<(), Malformed> {
        let structure = self.kind().structure();
        match self {
            Self::Map { layer, at, cluster, first, proofs } => {
                check_layer(structure, *layer)?;
                check_logical_cluster(structure, at.0)?;
                check_cluster(structure, cluster.0)?;
                let blocks = proofs.len();
                if blocks == 0 || usize::from(*first) + blocks > usize::from(blocks_per_cluster) {
                    let detail = format_args!(
                        "{blocks} from {first} on do not lie in a cluster of {blocks_per_cluster}"
                    );
                    return Err(Malformed::field(structure, "blocks", detail));
                }
                Ok(())
            }
            Self::Unmap { layer, opaque: _, first_block, blocks } => {
                check_layer(structure, *layer)?;
                let most = LOGICAL_CLUSTERS_MAX * u64::from(blocks_per_cluster);
                let inside = first_block.checked_add(*blocks).is_some_and(|end| end <= most);
                if *blocks == 0 || !inside {
                    let detail =
                        format_args!("{blocks} from {first_block} on do not lie in a volume");
                    return Err(Malformed::field(structure, "blocks", detail));
                }
                let clusters = self.logical_clusters(blocks_per_cluster);
                if clusters as u64 > UNMAP_CLUSTERS_MAX {
                    let detail = format_args!(
                        "{blocks} from {first_block} on lie in {clusters} logical clusters, and \
                         {UNMAP_CLUSTERS_MAX} is the most"
                    );
                    return Err(Malformed::field(structure, "blocks", detail));
                }
                Ok(())
            }
            Self::Fragments { layer, items } => {
                check_layer(structure, *layer)?;
                fragments::check(items, blocks_per_cluster)
            }
            Self::PutLayer { layer, parent } => {
                check_layer(structure, *layer)?;
                match parent {
                    Some(LayerId(0)) => Err(Malformed::field(structure, "parent", "is zero")),
                    Some(parent) if parent == layer => {
                        let detail = format_args!("{} is the layer itself", parent.0);
                        Err(Malformed::field(structure, "parent", detail))
                    }
                    _ => Ok(()),
                }
            }
            Self::DropLayer { layer } => check_layer(structure, *layer),
            Self::PutVolume(record) => record.check(blocks_per_cluster),
            Self::DropVolume { volume } => check_object(structure, "volume", *volume),
            Self::PutSnapshot(record) => record.check(blocks_per_cluster),
            Self::DropSnapshot { snapshot } => check_object(structure, "snapshot", *snapshot),
            Self::PutPool(record) => record.check(),
            Self::PutMember { member, segments } => {
                check_member(structure, *member)?;
                check_segments(structure, segments)
            }
            Self::Settled { member, lsn } => {
                check_member(structure, *member)?;
                if lsn.0 == 0 {
                    return Err(Malformed::field(structure, "LSN", "is zero"));
                }
                Ok(())
            }
        }
    }

    /// How many logical clusters an Unmap or Fragments operation names, which its length does not
    /// say. Zero for the others.
    pub fn logical_clusters(&self, blocks_per_cluster: u16) -> usize {
        match self {
            Self::Unmap { first_block, blocks, .. } => {
                let per_cluster = u64::from(blocks_per_cluster);
                let last = first_block.saturating_add(*blocks).saturating_sub(1);
                let clusters = (last / per_cluster).saturating_sub(first_block / per_cluster) + 1;
                usize::try_from(clusters).unwrap_or(usize::MAX)
            }
            Self::Fragments { items, .. } => items.len(),
            _ => 0,
        }
    }

    /// How many bytes [`Self::encode`] appends, a multiple of 8.
    ///
    /// Constant time but for Fragments and for objects, whose items it looks at.
    pub fn encoded_len(&self, blocks_per_cluster: u16) -> usize {
        let body = match self {
            Self::Map { proofs, .. } => size_of::<MapLayout>() + size_of_val(proofs.as_slice()),
            Self::Unmap { .. } => size_of::<UnmapLayout>(),
            Self::Fragments { items, .. } => {
                size_of::<FragmentsLayout>() + fragments::encoded_len(items, blocks_per_cluster)
            }
            Self::PutLayer { .. } | Self::DropLayer { .. } => size_of::<LayerLayout>(),
            Self::PutVolume(record) => record.body_len(),
            Self::DropVolume { .. } | Self::DropSnapshot { .. } => size_of::<U64>(),
            Self::PutSnapshot(record) => record.body_len(),
            Self::PutPool(record) => record.body_len(),
            Self::PutMember { segments, .. } => {
                size_of::<PutMemberLayout>() + segments.len() * size_of::<SegmentLayout>()
            }
            Self::Settled { .. } => size_of::<SettledLayout>(),
        };
        HEADER_SIZE + body.next_multiple_of(ALIGNMENT)
    }

    /// Appends this operation to `out`.
    ///
    /// # Panics
    ///
    /// When [`Self::check`] refuses it.
    pub fn encode(&self, blocks_per_cluster: u16, out: &mut Vec<u8>) {
        if let Err(error) = self.check(blocks_per_cluster) {
            panic!("an operation that could not be read again: {error}");
        }
        let start = out.len();
        let kind = self.kind() as u8;
        put(out, &OpLayout { kind, reserved_1: 0, reserved_2: [0; 2], length: U32::ZERO });
        self.encode_body(blocks_per_cluster, out);
        pad(out, start);
        let length = u32::try_from(out.len() - start).expect("bounded by the checks above");
        out[start + LENGTH_AT..start + HEADER_SIZE].copy_from_slice(&length.to_le_bytes());
    }

    fn encode_body(&self, blocks_per_cluster: u16, out: &mut Vec<u8>) {
        match self {
            Self::Map { layer, at, cluster, first, proofs } => {
                let layout = MapLayout {
                    layer: layer.0.into(),
                    lcluster: at.0.into(),
                    cluster: cluster.0.into(),
                    first: (*first).into(),
                    blocks: u16::try_from(proofs.len()).expect("checked: in a cluster").into(),
                };
                put(out, &layout);
                out.extend(proofs.iter().flat_map(|proof| proof.to_le_bytes()));
            }
            Self::Unmap { layer, opaque, first_block, blocks } => {
                let layout = UnmapLayout {
                    layer: layer.0.into(),
                    flags: if *opaque { UNMAP_OPAQUE } else { 0 }.into(),
                    first_block: (*first_block).into(),
                    blocks: (*blocks).into(),
                };
                put(out, &layout);
            }
            Self::Fragments { layer, items } => {
                let start = out.len();
                put(out, &FragmentsLayout { layer: layer.0.into(), items: U32::ZERO });
                let items = fragments::encode(items, blocks_per_cluster, out);
                let at = start + core::mem::offset_of!(FragmentsLayout, items);
                out[at..at + size_of::<U32>()].copy_from_slice(&items.to_le_bytes());
            }
            Self::PutLayer { layer, parent } => {
                let parent = parent.map_or(0, |parent| parent.0);
                put(out, &LayerLayout { layer: layer.0.into(), parent: parent.into() });
            }
            Self::DropLayer { layer } => {
                put(out, &LayerLayout { layer: layer.0.into(), parent: U32::ZERO });
            }
            Self::PutVolume(record) => record.encode(out),
            Self::DropVolume { volume: id } | Self::DropSnapshot { snapshot: id } => {
                put(out, &U64::new(id.0));
            }
            Self::PutSnapshot(record) => record.encode(out),
            Self::PutPool(record) => record.encode(out),
            Self::PutMember { member, segments } => {
                let layout = PutMemberLayout {
                    member: member.0.into(),
                    segments: u16::try_from(segments.len()).expect("checked: bounded").into(),
                    reserved_4: [0; 4],
                };
                put(out, &layout);
                for segment in segments {
                    let layout = SegmentLayout {
                        first: segment.first.0.into(),
                        clusters: segment.clusters.into(),
                        offset: segment.offset.0.into(),
                    };
                    put(out, &layout);
                }
            }
            Self::Settled { member, lsn } => {
                let layout = SettledLayout {
                    member: member.0.into(),
                    reserved_2: [0; 6],
                    lsn: lsn.0.into(),
                };
                put(out, &layout);
            }
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Map { .. } => Kind::Map,
            Self::Unmap { .. } => Kind::Unmap,
            Self::Fragments { .. } => Kind::Fragments,
            Self::PutLayer { .. } => Kind::PutLayer,
            Self::DropLayer { .. } => Kind::DropLayer,
            Self::PutVolume(_) => Kind::PutVolume,
            Self::DropVolume { .. } => Kind::DropVolume,
            Self::PutSnapshot(_) => Kind::PutSnapshot,
            Self::DropSnapshot { .. } => Kind::DropSnapshot,
            Self::PutPool(_) => Kind::PutPool,
            Self::PutMember { .. } => Kind::PutMember,
            Self::Settled { .. } => Kind::Settled,
        }
    }
}

/// Draws operations from the bytes of an entry or chunk, front to back.
///
/// After an error it yields nothing more, since what follows cannot be found.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    position: usize,
    failed: bool,
    blocks_per_cluster: u16,
}

impl<'a> Decoder<'a> {
    /// Draws from `bytes`, written to a pool with that many blocks in a cluster.
    ///
    /// # Panics
    ///
    /// When no cluster size of the format has that many blocks.
    pub fn new(bytes: &'a [u8], blocks_per_cluster: u16) -> Self {
        let cluster_size = u64::from(blocks_per_cluster) * BLOCK;
        let sizes = u64::from(CLUSTER_SIZE_MIN)..=u64::from(CLUSTER_SIZE_MAX);
        assert!(
            blocks_per_cluster.is_power_of_two() && sizes.contains(&cluster_size),
            "no cluster has {blocks_per_cluster} blocks"
        );
        Self { bytes, position: 0, failed: false, blocks_per_cluster }
    }

    /// Where the next operation begins, in bytes; after an error, the one that is malformed.
    pub fn position(&self) -> usize {
        self.position
    }

    fn draw(&mut self, fragments_most: usize) -> Option<Result<Op, Malformed>> {
        if self.failed || self.position == self.bytes.len() {
            return None;
        }
        match decode(&self.bytes[self.position..], self.blocks_per_cluster, fragments_most) {
            Ok((op, length)) => {
                self.position += length;
                Some(Ok(op))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

impl Iterator for Decoder<'_> {
    type Item = Result<Op, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.draw(FRAGMENTS_MAX)
    }
}

impl std::iter::FusedIterator for Decoder<'_> {}

/// All operations in `bytes`, with at most [`FRAGMENTS_MAX`] fragments in all of them
/// together. A chunk may hold more: those are drawn from a [`Decoder`].
///
/// # Errors
///
/// [`Malformed`] with the first operation that is.
///
/// # Panics
///
/// As [`Decoder::new`].
pub fn decode_all(bytes: &[u8], blocks_per_cluster: u16) -> Result<Vec<Op>, Malformed> {
    let mut decoder = Decoder::new(bytes, blocks_per_cluster);
    let mut ops = Vec::new();
    let mut fragments_left = FRAGMENTS_MAX;
    while let Some(op) = decoder.draw(fragments_left) {
        let op = op?;
        if let Op::Fragments { items, .. } = &op {
            fragments_left -= items.len();
        }
        ops.push(op);
    }
    Ok(ops)
}

/// The operation at the start of `bytes`, and how many of them it takes.
fn decode(
    bytes: &[u8],
    blocks_per_cluster: u16,
    fragments_most: usize,
) -> Result<(Op, usize), Malformed> {
    let header: &OpLayout = Cursor::new("operation", bytes).view("header")?;
    let Some(kind) = Kind::from_number(header.kind) else {
        let detail = format_args!("{} is not known", header.kind);
        return Err(Malformed::field("operation", "type", detail));
    };
    let structure = kind.structure();
    if header.reserved_1 != 0 || header.reserved_2 != [0; 2] {
        return Err(Malformed::field(structure, "reserved bytes at 1", "are not zero"));
    }
    let length = header.length.get() as usize;
    if length < HEADER_SIZE || !length.is_multiple_of(ALIGNMENT) || length > bytes.len() {
        let left = bytes.len();
        let detail = format_args!("{length} is not a multiple of 8 between 8 and {left}");
        return Err(Malformed::field(structure, "length", detail));
    }
    let mut cursor = Cursor::new(structure, &bytes[HEADER_SIZE..length]);
    let op = decode_body(kind, &mut cursor, blocks_per_cluster, fragments_most)?;
    cursor.finish()?;
    op.check(blocks_per_cluster)?;
    Ok((op, length))
}

fn decode_body(
    kind: Kind,
    cursor: &mut Cursor<'_>,
    blocks_per_cluster: u16,
    fragments_most: usize,
) -> Result<Op, Malformed> {
    Ok(match kind {
        Kind::Map => {
            let body: &MapLayout = cursor.view("body")?;
            let proofs: &[U64] = cursor.views("proofs", usize::from(body.blocks))?;
            Op::Map {
                layer: LayerId(body.layer.get()),
                at: LogicalCluster(body.lcluster.get()),
                cluster: ClusterNo(body.cluster.get()),
                first: body.first.get(),
                proofs: proofs.iter().map(|proof| proof.get()).collect(),
            }
        }
        Kind::Unmap => {
            let body: &UnmapLayout = cursor.view("body")?;
            let flags = body.flags.get();
            if flags & !UNMAP_OPAQUE != 0 {
                let detail = format_args!("{flags:#x} are not all known");
                return Err(cursor.error("flags", detail));
            }
            Op::Unmap {
                layer: LayerId(body.layer.get()),
                opaque: flags & UNMAP_OPAQUE != 0,
                first_block: body.first_block.get(),
                blocks: body.blocks.get(),
            }
        }
        Kind::Fragments => {
            let body: &FragmentsLayout = cursor.view("body")?;
            let items = body.items.get();
            Op::Fragments {
                layer: LayerId(body.layer.get()),
                items: fragments::decode(cursor, items, blocks_per_cluster, fragments_most)?,
            }
        }
        Kind::PutLayer => {
            let body: &LayerLayout = cursor.view("body")?;
            let parent = body.parent.get();
            Op::PutLayer {
                layer: LayerId(body.layer.get()),
                parent: (parent != 0).then_some(LayerId(parent)),
            }
        }
        Kind::DropLayer => {
            let body: &LayerLayout = cursor.view("body")?;
            cursor.require_zero("reserved bytes at 12", body.parent.as_bytes())?;
            Op::DropLayer { layer: LayerId(body.layer.get()) }
        }
        Kind::PutVolume => Op::PutVolume(Box::new(VolumeRecord::decode(cursor)?)),
        Kind::DropVolume => {
            Op::DropVolume { volume: ObjectId(cursor.view::<U64>("volume")?.get()) }
        }
        Kind::PutSnapshot => Op::PutSnapshot(Box::new(SnapshotRecord::decode(cursor)?)),
        Kind::DropSnapshot => {
            Op::DropSnapshot { snapshot: ObjectId(cursor.view::<U64>("snapshot")?.get()) }
        }
        Kind::PutPool => Op::PutPool(PoolRecord::decode(cursor)?),
        Kind::PutMember => {
            let body: &PutMemberLayout = cursor.view("body")?;
            cursor.require_zero("reserved bytes at 12", &body.reserved_4)?;
            let segments: &[SegmentLayout] =
                cursor.views("segments", usize::from(body.segments))?;
            Op::PutMember {
                member: MemberIndex(body.member.get()),
                segments: segments.iter().map(Segment::from).collect(),
            }
        }
        Kind::Settled => {
            let body: &SettledLayout = cursor.view("body")?;
            cursor.require_zero("reserved bytes at 10", &body.reserved_2)?;
            Op::Settled { member: MemberIndex(body.member.get()), lsn: Lsn(body.lsn.get()) }
        }
    })
}

fn check_layer(structure: &'static str, layer: LayerId) -> Result<(), Malformed> {
    if layer.0 == 0 {
        return Err(Malformed::field(structure, "layer", "is zero"));
    }
    Ok(())
}

fn check_object(
    structure: &'static str,
    field: &'static str,
    id: ObjectId,
) -> Result<(), Malformed> {
    if id.0 == 0 {
        return Err(Malformed::field(structure, field, "is zero"));
    }
    Ok(())
}

fn check_logical_cluster(structure: &'static str, number: u32) -> Result<(), Malformed> {
    if u64::from(number) >= LOGICAL_CLUSTERS_MAX {
        let detail = format_args!("{number} is not below {LOGICAL_CLUSTERS_MAX}");
        return Err(Malformed::field(structure, "logical cluster", detail));
    }
    Ok(())
}

fn check_cluster(structure: &'static str, number: u32) -> Result<(), Malformed> {
    if number >= CLUSTERS_MAX {
        let detail = format_args!("{number} is not below {CLUSTERS_MAX}");
        return Err(Malformed::field(structure, "cluster", detail));
    }
    Ok(())
}

fn check_member(structure: &'static str, member: MemberIndex) -> Result<(), Malformed> {
    if usize::from(member.0) >= MEMBERS_MAX {
        let detail = format_args!("{} is not below {MEMBERS_MAX}", member.0);
        return Err(Malformed::field(structure, "member", detail));
    }
    Ok(())
}

fn check_segments(structure: &'static str, segments: &[Segment]) -> Result<(), Malformed> {
    if segments.len() > SEGMENTS_MAX {
        let detail = format_args!("are {}, and {SEGMENTS_MAX} is the most", segments.len());
        return Err(Malformed::field(structure, "segments", detail));
    }
    for segment in segments {
        let (first, clusters, offset) = (segment.first.0, segment.clusters, segment.offset.0);
        let inside = first.checked_add(clusters).is_some_and(|end| end <= CLUSTERS_MAX);
        if clusters == 0 || !inside {
            let detail = format_args!("of {clusters} clusters from {first} does not lie in a pool");
            return Err(Malformed::field(structure, "segment", detail));
        }
        let bytes_most = u64::from(clusters) * u64::from(CLUSTER_SIZE_MAX);
        if !offset.is_multiple_of(BLOCK) || offset.checked_add(bytes_most).is_none() {
            let detail = format_args!("of {clusters} clusters cannot lie at byte {offset}");
            return Err(Malformed::field(structure, "segment", detail));
        }
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, layout: &(impl IntoBytes + Immutable)) {
    out.extend_from_slice(layout.as_bytes());
}

#[cfg(test)]
mod tests;
