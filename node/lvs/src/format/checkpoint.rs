//! Checkpoints: the slot header, and the chunks that hold the state as operations.
//!
//! The checkpoint writer [`seal_chunk`]s one chunk after another and writes
//! [`encode_slot`] last, which makes them valid. Opening a pool takes the newest slot that
//! [`decode_slot`] accepts, then [`verify_chunk`]s what it names. Source: section 5.
//!
//! - A slot header holds the checksum of its chunks' checksums
//!   ([`checksum::of_checksums`]), so it never names the chunks of another checkpoint.
//! - Chunk 0 begins at [`Key::MIN`], and every other one above it.

use core::mem::offset_of;

use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::{
    Malformed,
    checksum::{self, Seed},
    require_zero,
};
use crate::geometry::{BLOCK_SIZE, LayerId, Lsn, ObjectId};

/// Bytes of a slot header.
pub const SLOT_HEADER: usize = 4096;
/// Bytes of a chunk's header.
pub const CHUNK_HEADER: usize = 64;
/// The most bytes of a chunk, header and padding included.
pub const CHUNK_MAX: usize = 64 << 10;

const SLOT_MAGIC: [u8; 4] = *b"FCP1";
const CHUNK_MAGIC: [u8; 4] = *b"FCC1";
const VERSION: u32 = 1;
const SLOT: &str = "checkpoint slot";
const CHUNK: &str = "checkpoint chunk";
const BLOCK: usize = BLOCK_SIZE as usize;

/// What a slot header says of its checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotHeader {
    /// The number of the checkpoint, never zero: the higher one is newer.
    pub generation: u64,
    /// The first entry to replay, never zero.
    pub start: Lsn,
    /// Where that entry lies in the ring, in bytes, a multiple of 4 KiB.
    pub position: u64,
    /// The checksum of the entry before it; 0 when it is the first.
    pub previous: u64,
    /// The incarnation of the writer.
    pub incarnation: u64,
    /// The bytes from the slot header to the end of the last chunk, a multiple of 4 KiB:
    /// the chunks, and what was left over at the ends of extents.
    pub chunk_bytes: u64,
    /// The number of chunks, never zero.
    pub chunks: u32,
    /// The id of the next layer.
    pub next_layer: LayerId,
    /// The id of the next volume or snapshot.
    pub next_object: ObjectId,
    /// [`checksum::of_checksums`] of the chunks, in order.
    pub chunks_checksum: u64,
}

/// What the header of a chunk says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    /// The generation of its checkpoint, never zero.
    pub generation: u64,
    /// The state in this chunk is that after this entry. 0: before the first one.
    pub lsn: Lsn,
    /// Its place among the chunks.
    pub index: u32,
    /// The least key that it covers; [`Key::MIN`] in chunk 0 and only there.
    pub first: Key,
    /// The length of the chunk in blocks of 4 KiB, 1 to 16.
    pub blocks: u16,
    /// The bytes of operations behind the header, a multiple of 8.
    pub payload_length: u32,
}

/// What a piece of state is filed under. Ordered by class, then by its parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// The kind of state.
    pub class: Class,
    /// The id of an object, or a layer.
    pub first: u64,
    /// The logical cluster of a fragment, else 0.
    pub second: u32,
}

/// The kinds of state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// The pool and its members.
    Pool = 1,
    /// Layers.
    Layer = 2,
    /// Volumes.
    Volume = 3,
    /// Snapshots.
    Snapshot = 4,
    /// Fragments.
    Fragment = 5,
}

impl Key {
    /// The least of all keys.
    pub const MIN: Self = Self { class: Class::Pool, first: 0, second: 0 };

    fn check(self) -> Result<(), Malformed> {
        let Self { class, first, second } = self;
        if matches!(class, Class::Layer | Class::Fragment) && u32::try_from(first).is_err() {
            return Err(chunk_error("first key", format_args!("names layer {first}")));
        }
        if class != Class::Fragment && second != 0 {
            let detail = format_args!("of class {} has second part {second}", class as u16);
            return Err(chunk_error("first key", detail));
        }
        Ok(())
    }
}

impl Class {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Pool,
            2 => Self::Layer,
            3 => Self::Volume,
            4 => Self::Snapshot,
            5 => Self::Fragment,
            _ => return None,
        })
    }
}

impl SlotHeader {
    fn check(&self) -> Result<(), Malformed> {
        for (field, number) in [
            ("generation", self.generation),
            ("start LSN", self.start.0),
            ("number of chunks", self.chunks.into()),
            ("next layer id", self.next_layer.0.into()),
            ("next object id", self.next_object.0),
        ] {
            if number == 0 {
                return Err(slot_error(field, "is zero"));
            }
        }
        if !self.position.is_multiple_of(BLOCK as u64) {
            let detail = format_args!("{} is not a multiple of {BLOCK}", self.position);
            return Err(slot_error("byte position", detail));
        }
        let least = u64::from(self.chunks) * BLOCK as u64;
        let bytes = self.chunk_bytes;
        if !bytes.is_multiple_of(BLOCK as u64) || bytes < least {
            let detail = format_args!("{bytes} cannot be the length of {} chunks", self.chunks);
            return Err(slot_error("bytes of chunks", detail));
        }
        Ok(())
    }
}

impl ChunkHeader {
    fn check(&self) -> Result<(), Malformed> {
        if self.generation == 0 {
            return Err(chunk_error("generation", "is zero"));
        }
        self.first.check()?;
        if (self.index == 0) != (self.first == Key::MIN) {
            let detail = format_args!("{:?} does not fit chunk {}", self.first, self.index);
            return Err(chunk_error("first key", detail));
        }
        let length = usize::from(self.blocks) * BLOCK;
        if length == 0 || length > CHUNK_MAX {
            let most = CHUNK_MAX / BLOCK;
            let detail = format_args!("{} is not between 1 and {most}", self.blocks);
            return Err(chunk_error("length in blocks", detail));
        }
        let payload = self.payload_length as usize;
        if payload > length - CHUNK_HEADER || !payload.is_multiple_of(8) {
            let most = length - CHUNK_HEADER;
            let detail = format_args!("{payload} is not a multiple of 8 up to {most}");
            return Err(chunk_error("payload length", detail));
        }
        Ok(())
    }
}

/// The bytes of a slot header, sealed.
///
/// # Panics
///
/// When the header states what the format does not allow.
pub fn encode_slot(seed: Seed, header: &SlotHeader) -> [u8; SLOT_HEADER] {
    if let Err(error) = header.check() {
        panic!("a slot that could not be read again: {error}");
    }
    let mut layout = SlotLayout::new_zeroed();
    layout.magic = SLOT_MAGIC;
    layout.version = VERSION.into();
    layout.generation = header.generation.into();
    layout.start = header.start.0.into();
    layout.position = header.position.into();
    layout.previous = header.previous.into();
    layout.incarnation = header.incarnation.into();
    layout.chunk_bytes = header.chunk_bytes.into();
    layout.chunks = header.chunks.into();
    layout.next_layer = header.next_layer.0.into();
    layout.next_object = header.next_object.0.into();
    layout.chunks_checksum = header.chunks_checksum.into();
    let mut bytes: [u8; SLOT_HEADER] = zerocopy::transmute!(layout);
    checksum::seal(seed, &mut bytes, SLOT_CHECKSUM_AT);
    bytes
}

/// The slot header in `bytes`, which are a slot header's length.
///
/// # Errors
///
/// [`Malformed`] when there is none of this pool, or it is damaged.
pub fn decode_slot(seed: Seed, bytes: &[u8]) -> Result<SlotHeader, Malformed> {
    let Ok(layout) = SlotLayout::ref_from_bytes(bytes) else {
        return Err(slot_error("length", format_args!("{} is not {SLOT_HEADER}", bytes.len())));
    };
    check_identity(SLOT, layout.magic, SLOT_MAGIC, layout.version)?;
    check_checksum(SLOT, seed, bytes, SLOT_CHECKSUM_AT)?;
    layout.value()
}

/// Makes a chunk of `buffer`, which holds the operations from [`CHUNK_HEADER`] on: writes
/// the header, zeroes the padding, and returns the checksum for the slot header.
///
/// # Panics
///
/// When the header states what the format does not allow, or a length that is not that of
/// `buffer`.
pub fn seal_chunk(seed: Seed, header: &ChunkHeader, buffer: &mut [u8]) -> u64 {
    if let Err(error) = header.check() {
        panic!("a chunk that could not be read again: {error}");
    }
    assert_eq!(buffer.len(), usize::from(header.blocks) * BLOCK, "the chunk fills its buffer");
    let layout = ChunkLayout {
        magic: CHUNK_MAGIC,
        version: VERSION.into(),
        checksum: U64::ZERO,
        generation: header.generation.into(),
        lsn: header.lsn.0.into(),
        index: header.index.into(),
        payload_length: header.payload_length.into(),
        first_class: (header.first.class as u16).into(),
        blocks: header.blocks.into(),
        first_second: header.first.second.into(),
        first_first: header.first.first.into(),
        reserved_56: [0; 8],
    };
    buffer[..CHUNK_HEADER].copy_from_slice(layout.as_bytes());
    buffer[CHUNK_HEADER + header.payload_length as usize..].fill(0);
    checksum::seal(seed, buffer, CHUNK_CHECKSUM_AT)
}

/// The header at the start of `bytes`, if one could be there. Its checksum is unchecked.
pub fn read_chunk_header(bytes: &[u8]) -> Option<ChunkHeader> {
    view_chunk(bytes).ok()?.value().ok()
}

/// The chunk at the start of `bytes`: its header, its checksum, and its operations.
///
/// # Errors
///
/// [`Malformed`] when there is none of this pool, or not all of it.
pub fn verify_chunk(seed: Seed, bytes: &[u8]) -> Result<(ChunkHeader, u64, &[u8]), Malformed> {
    let layout = view_chunk(bytes)?;
    let length = usize::from(layout.blocks.get()) * BLOCK;
    if length == 0 || length > CHUNK_MAX || length > bytes.len() {
        let (blocks, present) = (layout.blocks, bytes.len());
        let detail = format_args!("{blocks} does not fit the {present} bytes that are there");
        return Err(chunk_error("length in blocks", detail));
    }
    let chunk = &bytes[..length];
    let checksum = check_checksum(CHUNK, seed, chunk, CHUNK_CHECKSUM_AT)?;
    let header = layout.value()?;
    let (payload, padding) = chunk[CHUNK_HEADER..].split_at(header.payload_length as usize);
    require_zero(CHUNK, "padding bytes", padding)?;
    Ok((header, checksum, payload))
}

fn view_chunk(bytes: &[u8]) -> Result<&ChunkLayout, Malformed> {
    let Ok((layout, _)) = ChunkLayout::ref_from_prefix(bytes) else {
        let detail = format_args!("needs {CHUNK_HEADER} bytes and {} are there", bytes.len());
        return Err(chunk_error("header", detail));
    };
    check_identity(CHUNK, layout.magic, CHUNK_MAGIC, layout.version)?;
    Ok(layout)
}

fn check_identity(
    structure: &'static str,
    magic: [u8; 4],
    expected: [u8; 4],
    version: U32,
) -> Result<(), Malformed> {
    if magic != expected {
        let (found, expected) = (magic.escape_ascii(), expected.escape_ascii());
        let detail = format_args!("\"{found}\" is not \"{expected}\"");
        return Err(Malformed::field(structure, "magic", detail));
    }
    if version != VERSION {
        return Err(Malformed::Version { structure, found: version.get() });
    }
    Ok(())
}

fn check_checksum(
    structure: &'static str,
    seed: Seed,
    bytes: &[u8],
    at: usize,
) -> Result<u64, Malformed> {
    let (found, computed) = (checksum::stated(bytes, at), checksum::compute(seed, bytes, at));
    if found != computed {
        return Err(Malformed::Checksum { structure, found, computed });
    }
    Ok(found)
}

/// Section 5, the slot header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SlotLayout {
    magic: [u8; 4],
    version: U32,
    checksum: U64,
    generation: U64,
    start: U64,
    position: U64,
    previous: U64,
    incarnation: U64,
    chunk_bytes: U64,
    chunks: U32,
    next_layer: U32,
    next_object: U64,
    chunks_checksum: U64,
    reserved_88: [u8; 4008],
}

/// Section 5, the chunk header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ChunkLayout {
    magic: [u8; 4],
    version: U32,
    checksum: U64,
    generation: U64,
    lsn: U64,
    index: U32,
    payload_length: U32,
    first_class: U16,
    blocks: U16,
    first_second: U32,
    first_first: U64,
    reserved_56: [u8; 8],
}

const SLOT_CHECKSUM_AT: usize = offset_of!(SlotLayout, checksum);
const CHUNK_CHECKSUM_AT: usize = offset_of!(ChunkLayout, checksum);

const _: () = {
    assert!(size_of::<SlotLayout>() == SLOT_HEADER);
    assert!(offset_of!(SlotLayout, magic) == 0);
    assert!(offset_of!(SlotLayout, version) == 4);
    assert!(offset_of!(SlotLayout, checksum) == 8);
    assert!(offset_of!(SlotLayout, generation) == 16);
    assert!(offset_of!(SlotLayout, start) == 24);
    assert!(offset_of!(SlotLayout, position) == 32);
    assert!(offset_of!(SlotLayout, previous) == 40);
    assert!(offset_of!(SlotLayout, incarnation) == 48);
    assert!(offset_of!(SlotLayout, chunk_bytes) == 56);
    assert!(offset_of!(SlotLayout, chunks) == 64);
    assert!(offset_of!(SlotLayout, next_layer) == 68);
    assert!(offset_of!(SlotLayout, next_object) == 72);
    assert!(offset_of!(SlotLayout, chunks_checksum) == 80);
    assert!(offset_of!(SlotLayout, reserved_88) == 88);
    assert!(size_of::<ChunkLayout>() == CHUNK_HEADER);
    assert!(offset_of!(ChunkLayout, magic) == 0);
    assert!(offset_of!(ChunkLayout, version) == 4);
    assert!(offset_of!(ChunkLayout, checksum) == 8);
    assert!(offset_of!(ChunkLayout, generation) == 16);
    assert!(offset_of!(ChunkLayout, lsn) == 24);
    assert!(offset_of!(ChunkLayout, index) == 32);
    assert!(offset_of!(ChunkLayout, payload_length) == 36);
    assert!(offset_of!(ChunkLayout, first_class) == 40);
    assert!(offset_of!(ChunkLayout, blocks) == 42);
    assert!(offset_of!(ChunkLayout, first_second) == 44);
    assert!(offset_of!(ChunkLayout, first_first) == 48);
    assert!(offset_of!(ChunkLayout, reserved_56) == 56);
};

impl SlotLayout {
    /// The second step of decoding: a value with every field checked.
    fn value(&self) -> Result<SlotHeader, Malformed> {
        require_zero(SLOT, "reserved bytes at 88", &self.reserved_88)?;
        let header = SlotHeader {
            generation: self.generation.get(),
            start: Lsn(self.start.get()),
            position: self.position.get(),
            previous: self.previous.get(),
            incarnation: self.incarnation.get(),
            chunk_bytes: self.chunk_bytes.get(),
            chunks: self.chunks.get(),
            next_layer: LayerId(self.next_layer.get()),
            next_object: ObjectId(self.next_object.get()),
            chunks_checksum: self.chunks_checksum.get(),
        };
        header.check()?;
        Ok(header)
    }
}

impl ChunkLayout {
    /// The second step of decoding: a value with every field checked.
    fn value(&self) -> Result<ChunkHeader, Malformed> {
        require_zero(CHUNK, "reserved bytes at 56", &self.reserved_56)?;
        let class = Class::from_number(self.first_class.get()).ok_or_else(|| {
            let detail = format_args!("of class {}, which is not known", self.first_class);
            chunk_error("first key", detail)
        })?;
        let header = ChunkHeader {
            generation: self.generation.get(),
            lsn: Lsn(self.lsn.get()),
            index: self.index.get(),
            first: Key { class, first: self.first_first.get(), second: self.first_second.get() },
            blocks: self.blocks.get(),
            payload_length: self.payload_length.get(),
        };
        header.check()?;
        Ok(header)
    }
}

#[cold]
fn slot_error(field: &'static str, detail: impl std::fmt::Display) -> Malformed {
    Malformed::field(SLOT, field, detail)
}

#[cold]
pub(crate) fn chunk_error(field: &'static str, detail: impl std::fmt::Display) -> Malformed {
    Malformed::field(CHUNK, field, detail)
}

#[cfg(test)]
mod tests;
