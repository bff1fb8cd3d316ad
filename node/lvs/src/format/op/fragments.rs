//! The items of a Fragments operation: fragments, with runs of like ones written as one.
//!
//! A checkpoint of a volume that was written from end to end takes four bytes for each
//! cluster, and a discarded or absent range eight bytes. Source: section 4.1.
//!
//! - Runs are the encoder's business: the decoder accepts them cut anywhere.
//! - A run is expanded only after its length was found to fit the limit.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::{check_cluster, check_logical_cluster, put};
use crate::{
    blocks::BlockSet,
    format::{
        Malformed,
        cursor::{ALIGNMENT, Cursor, pad},
    },
    geometry::{BLOCK_SIZE, CLUSTER_SIZE_MAX, ClusterNo, LogicalCluster},
    map::Fragment,
};

/// The most fragments that one operation may set: about as many full ones as fit a chunk.
pub const FRAGMENTS_MAX: usize = 4096;

pub(super) const STRUCTURE: &str = "Fragments operation";

/// The cluster number that says none (section 4.1).
const NO_CLUSTER: u32 = u32::MAX;

/// Refuses items that are out of order, too many, or no fragments of such a pool.
pub(super) fn check(
    items: &[(LogicalCluster, Fragment)],
    blocks_per_cluster: u16,
) -> Result<(), Malformed> {
    check_count(items.len(), FRAGMENTS_MAX)?;
    let mut next = 0;
    for (lcluster, fragment) in items {
        check_logical_cluster(STRUCTURE, lcluster.0)?;
        if lcluster.0 < next {
            let detail = format_args!("{} does not follow {}", lcluster.0, next - 1);
            return Err(error("logical cluster", detail));
        }
        next = lcluster.0 + 1;
        match fragment.cluster {
            Some(cluster) => check_cluster(STRUCTURE, cluster.0)?,
            None if fragment.valid.is_empty() => {}
            None => return Err(error("valid bitmap", "is not empty, and there is no cluster")),
        }
        check_bitmap("valid bitmap", &fragment.valid, blocks_per_cluster)?;
        check_bitmap("opaque bitmap", &fragment.opaque, blocks_per_cluster)?;
    }
    Ok(())
}

/// The bytes that [`encode`] appends for `items`.
pub(super) fn encoded_len(items: &[(LogicalCluster, Fragment)], blocks_per_cluster: u16) -> usize {
    let runs = Runs { rest: items, blocks_per_cluster };
    runs.map(|run| run.kind.encoded_len(run.items.len(), blocks_per_cluster)).sum()
}

/// Appends `items`, which have been checked, and returns as how many.
pub(super) fn encode(
    items: &[(LogicalCluster, Fragment)],
    blocks_per_cluster: u16,
    out: &mut Vec<u8>,
) -> u32 {
    let mut count = 0;
    for run in (Runs { rest: items, blocks_per_cluster }) {
        count += 1;
        let start = out.len();
        let (lcluster, first) = &run.items[0];
        let layout = ItemLayout {
            lcluster: lcluster.0.into(),
            kind: run.kind as u8,
            reserved_5: 0,
            count: u16::try_from(run.items.len()).expect("checked: at most 4096").into(),
        };
        put(out, &layout);
        match run.kind {
            Kind::Absent | Kind::Zero => {}
            Kind::Full => {
                for (_, fragment) in run.items {
                    let cluster = fragment.cluster.expect("a full fragment has a cluster");
                    put(out, &U32::new(cluster.0));
                }
            }
            Kind::PartlyValid | Kind::Mixed => {
                let cluster = first.cluster.map_or(NO_CLUSTER, |cluster| cluster.0);
                put(out, &BitmapsLayout { cluster: cluster.into(), reserved_4: [0; 4] });
                put_bitmap(out, &first.valid, blocks_per_cluster);
                if run.kind == Kind::Mixed {
                    put_bitmap(out, &first.opaque, blocks_per_cluster);
                }
            }
        }
        pad(out, start);
    }
    count
}

/// Reads `count` items, at most `most` fragments. Their order and values are unchecked yet.
pub(super) fn decode(
    cursor: &mut Cursor<'_>,
    count: u32,
    blocks_per_cluster: u16,
    most: usize,
) -> Result<Vec<(LogicalCluster, Fragment)>, Malformed> {
    let mut items = Vec::new();
    for _ in 0..count {
        decode_item(cursor, blocks_per_cluster, most, &mut items)?;
    }
    Ok(items)
}

fn decode_item(
    cursor: &mut Cursor<'_>,
    blocks_per_cluster: u16,
    most: usize,
    items: &mut Vec<(LogicalCluster, Fragment)>,
) -> Result<(), Malformed> {
    let item: &ItemLayout = cursor.view("item")?;
    let Some(kind) = Kind::from_number(item.kind) else {
        return Err(error("item kind", format_args!("{} is not known", item.kind)));
    };
    cursor.require_zero("reserved byte at 5 of an item", &[item.reserved_5])?;
    let (first, count) = (item.lcluster.get(), item.count.get());
    if count == 0 || (count != 1 && !kind.runs()) {
        let detail = format_args!("{count} is not allowed for kind {}", item.kind);
        return Err(error("item count", detail));
    }
    let Some(last) = first.checked_add(u32::from(count - 1)) else {
        let detail = format_args!("{first} is followed by {} more", count - 1);
        return Err(error("logical cluster", detail));
    };
    check_count(items.len() + usize::from(count), most)?;

    let lclusters = (first..=last).map(LogicalCluster);
    match kind {
        Kind::Absent => items.extend(lclusters.map(|lcluster| (lcluster, Fragment::ABSENT))),
        Kind::Full => {
            let numbers: &[U32] = cursor.views("cluster numbers", usize::from(count))?;
            let padding = if count % 2 == 1 { size_of::<U32>() } else { 0 };
            let padding = cursor.bytes("padding of an item", padding)?;
            cursor.require_zero("padding of an item", padding)?;
            let fragments = numbers.iter().map(|number| Fragment {
                cluster: Some(ClusterNo(number.get())),
                valid: BlockSet::full(blocks_per_cluster),
                opaque: BlockSet::EMPTY,
            });
            items.extend(lclusters.zip(fragments));
        }
        Kind::Zero => {
            let opaque = BlockSet::full(blocks_per_cluster);
            let fragment = Fragment { cluster: None, valid: BlockSet::EMPTY, opaque };
            items.extend(lclusters.map(|lcluster| (lcluster, fragment)));
        }
        Kind::PartlyValid | Kind::Mixed => {
            let body: &BitmapsLayout = cursor.view("cluster of an item")?;
            cursor.require_zero("reserved bytes at 12 of an item", &body.reserved_4)?;
            let number = body.cluster.get();
            let cluster = match kind {
                Kind::Mixed if number == NO_CLUSTER => None,
                _ => Some(ClusterNo(number)),
            };
            let valid = read_bitmap(cursor, "valid bitmap", blocks_per_cluster)?;
            let opaque = match kind {
                Kind::Mixed => read_bitmap(cursor, "opaque bitmap", blocks_per_cluster)?,
                _ => BlockSet::EMPTY,
            };
            items.push((LogicalCluster(first), Fragment { cluster, valid, opaque }));
        }
    }
    Ok(())
}

fn check_count(count: usize, most: usize) -> Result<(), Malformed> {
    if count > most {
        let detail = format_args!("are {count} at least, and {most} is the most");
        return Err(error("fragments", detail));
    }
    Ok(())
}

/// Refuses bits beyond the blocks of a cluster.
fn check_bitmap(
    field: &'static str,
    blocks: &BlockSet,
    blocks_per_cluster: u16,
) -> Result<(), Malformed> {
    if !blocks.is_within(blocks_per_cluster) {
        let detail = format_args!("has bits beyond the {blocks_per_cluster} of a cluster");
        return Err(error(field, detail));
    }
    Ok(())
}

fn put_bitmap(out: &mut Vec<u8>, blocks: &BlockSet, blocks_per_cluster: u16) {
    for &word in blocks.words(blocks_per_cluster) {
        put(out, &U64::new(word));
    }
}

fn read_bitmap(
    cursor: &mut Cursor<'_>,
    field: &'static str,
    blocks_per_cluster: u16,
) -> Result<BlockSet, Malformed> {
    let from: &[U64] = cursor.views(field, bitmap_words(blocks_per_cluster))?;
    let mut words = [0; BLOCKS_MAX / 64];
    let words = &mut words[..from.len()];
    for (word, from) in words.iter_mut().zip(from) {
        *word = from.get();
    }
    Ok(BlockSet::from_words(words))
}

fn bitmap_words(blocks_per_cluster: u16) -> usize {
    usize::from(blocks_per_cluster).div_ceil(64)
}

/// The most blocks in a cluster.
const BLOCKS_MAX: usize = (CLUSTER_SIZE_MAX / BLOCK_SIZE) as usize;

/// Cuts fragments into runs that are one item each.
struct Runs<'a> {
    rest: &'a [(LogicalCluster, Fragment)],
    blocks_per_cluster: u16,
}

struct Run<'a> {
    kind: Kind,
    /// At least one, by consecutive logical clusters.
    items: &'a [(LogicalCluster, Fragment)],
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        let (first, fragment) = self.rest.first()?;
        let kind = Kind::of(fragment, self.blocks_per_cluster);
        let mut length = 1;
        if kind.runs() {
            let continues = |(lcluster, fragment): &(LogicalCluster, Fragment), length: u32| {
                lcluster.0 - first.0 == length
                    && Kind::of(fragment, self.blocks_per_cluster) == kind
            };
            for (item, length_so_far) in self.rest[1..].iter().zip(1..) {
                if !continues(item, length_so_far) {
                    break;
                }
                length += 1;
            }
        }
        let (items, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(Run { kind, items })
    }
}

/// The kinds of items (section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Absent = 1,
    Full = 2,
    Zero = 3,
    PartlyValid = 4,
    Mixed = 5,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Absent,
            2 => Self::Full,
            3 => Self::Zero,
            4 => Self::PartlyValid,
            5 => Self::Mixed,
            _ => return None,
        })
    }

    /// The shortest kind that can hold `fragment`.
    fn of(fragment: &Fragment, blocks_per_cluster: u16) -> Self {
        let Fragment { cluster, valid, opaque } = fragment;
        match (cluster.is_some(), opaque.is_empty()) {
            (true, true) if valid.is_full(blocks_per_cluster) => Self::Full,
            (true, true) => Self::PartlyValid,
            (false, true) => Self::Absent,
            (false, false) if opaque.is_full(blocks_per_cluster) => Self::Zero,
            (_, false) => Self::Mixed,
        }
    }

    /// Whether an item of this kind may hold more than one fragment.
    fn runs(self) -> bool {
        matches!(self, Self::Absent | Self::Full | Self::Zero)
    }

    fn encoded_len(self, count: usize, blocks_per_cluster: u16) -> usize {
        let bitmap = bitmap_words(blocks_per_cluster) * size_of::<U64>();
        let body = match self {
            Self::Absent | Self::Zero => 0,
            Self::Full => count * size_of::<U32>(),
            Self::PartlyValid => size_of::<BitmapsLayout>() + bitmap,
            Self::Mixed => size_of::<BitmapsLayout>() + 2 * bitmap,
        };
        size_of::<ItemLayout>() + body.next_multiple_of(ALIGNMENT)
    }
}

/// Section 4.1, what every item begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ItemLayout {
    lcluster: U32,
    kind: u8,
    reserved_5: u8,
    count: U16,
}

/// Section 4.1, kinds 4 and 5. The bitmaps follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct BitmapsLayout {
    cluster: U32,
    reserved_4: [u8; 4],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<ItemLayout>() == 8);
    assert!(offset_of!(ItemLayout, kind) == 4);
    assert!(offset_of!(ItemLayout, reserved_5) == 5);
    assert!(offset_of!(ItemLayout, count) == 6);
    assert!(size_of::<BitmapsLayout>() == 8);
    assert!(offset_of!(BitmapsLayout, reserved_4) == 4);
};

#[cold]
fn error(field: &'static str, detail: impl std::fmt::Display) -> Malformed {
    Malformed::field(STRUCTURE, field, detail)
}
