//! Log entries: the unit of atomicity of a pool.
//!
//! The log fills a buffer with [`ENTRY_HEADER`] bytes of room and operations behind them,
//! of which [`seal_entry`] makes an entry. Opening a pool scans the ring with
//! [`read_header`] and [`verify_entry`], and hands the payload to
//! [`op::Decoder`](super::op::Decoder). Source: section 3.1.
//!
//! - An entry is a multiple of 4 KiB, and its checksum covers all of it.
//! - A header from [`read_header`] says only where an entry might be. Only a verified one
//!   was written by this pool.

use core::mem::offset_of;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::{
    Malformed,
    checksum::{self, Seed},
    require_zero,
};
use crate::geometry::{BLOCK_SIZE, Lsn};

/// Bytes of the header.
pub const ENTRY_HEADER: usize = 64;
/// The most bytes of an entry, header and padding included.
pub const ENTRY_MAX: usize = 64 << 10;
/// The most logical clusters that the Unmap and Fragments operations of an entry name together.
pub const ENTRY_CLUSTERS_MAX: usize = 4096;

const MAGIC: [u8; 4] = *b"FLE1";
const VERSION: u16 = 1;
const ENTRY: &str = "log entry";
const BLOCK: usize = BLOCK_SIZE as usize;

/// What the header of an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    /// The number of the entry, never zero.
    pub lsn: Lsn,
    /// The incarnation of the writer.
    pub incarnation: u64,
    /// Every entry up to this one was on stable media when this one was written, so it is
    /// below `lsn`. 0: none was.
    pub durable: Lsn,
    /// The checksum of the previous entry; 0 for the first.
    pub previous: u64,
    /// The generation of the newest checkpoint that was valid when this was written.
    pub checkpoint_generation: u64,
    /// The length of the entry in blocks of 4 KiB, 1 to 16.
    pub blocks: u16,
    /// The bytes of operations behind the header, a multiple of 8.
    pub payload_length: u32,
}

impl EntryHeader {
    fn check(&self) -> Result<(), Malformed> {
        if self.lsn.0 == 0 {
            return Err(error("LSN", "is zero"));
        }
        if self.durable >= self.lsn {
            let detail = format_args!("{} is not below the LSN, {}", self.durable.0, self.lsn.0);
            return Err(error("durable LSN", detail));
        }
        let length = usize::from(self.blocks) * BLOCK;
        if length == 0 || length > ENTRY_MAX {
            let most = ENTRY_MAX / BLOCK;
            let detail = format_args!("{} is not between 1 and {most}", self.blocks);
            return Err(error("length in blocks", detail));
        }
        let payload = self.payload_length as usize;
        if payload > length - ENTRY_HEADER || !payload.is_multiple_of(8) {
            let most = length - ENTRY_HEADER;
            let detail = format_args!("{payload} is not a multiple of 8 up to {most}");
            return Err(error("payload length", detail));
        }
        Ok(())
    }
}

/// Makes an entry of `buffer`, which holds the operations from [`ENTRY_HEADER`] on: writes
/// the header, zeroes the padding, and returns the checksum for the next entry.
///
/// # Panics
///
/// When the header states what the format does not allow, or a length that is not that of
/// `buffer`.
pub fn seal_entry(seed: Seed, header: &EntryHeader, buffer: &mut [u8]) -> u64 {
    if let Err(error) = header.check() {
        panic!("an entry that could not be read again: {error}");
    }
    assert_eq!(buffer.len(), usize::from(header.blocks) * BLOCK, "the entry fills its buffer");
    let layout = EntryLayout {
        magic: MAGIC,
        version: VERSION.into(),
        blocks: header.blocks.into(),
        lsn: header.lsn.0.into(),
        incarnation: header.incarnation.into(),
        durable: header.durable.0.into(),
        previous: header.previous.into(),
        checkpoint_generation: header.checkpoint_generation.into(),
        payload_length: header.payload_length.into(),
        reserved_52: [0; 4],
        checksum: U64::ZERO,
    };
    buffer[..ENTRY_HEADER].copy_from_slice(layout.as_bytes());
    buffer[ENTRY_HEADER + header.payload_length as usize..].fill(0);
    checksum::seal(seed, buffer, CHECKSUM_AT)
}

/// The header at the start of `bytes`, if one could be there. Its checksum is unchecked.
pub fn read_header(bytes: &[u8]) -> Option<EntryHeader> {
    view(bytes).ok()?.value().ok()
}

/// The entry at the start of `bytes`: its header, its checksum, and its operations.
///
/// # Errors
///
/// [`Malformed`] when there is none of this pool, or not all of it.
pub fn verify_entry(seed: Seed, bytes: &[u8]) -> Result<(EntryHeader, u64, &[u8]), Malformed> {
    let layout = view(bytes)?;
    let length = usize::from(layout.blocks.get()) * BLOCK;
    if length == 0 || length > ENTRY_MAX || length > bytes.len() {
        let (blocks, present) = (layout.blocks, bytes.len());
        let detail = format_args!("{blocks} does not fit the {present} bytes that are there");
        return Err(error("length in blocks", detail));
    }
    let entry = &bytes[..length];
    let found = layout.checksum.get();
    let computed = checksum::compute(seed, entry, CHECKSUM_AT);
    if found != computed {
        return Err(Malformed::Checksum { structure: ENTRY, found, computed });
    }
    let header = layout.value()?;
    let (payload, padding) = entry[ENTRY_HEADER..].split_at(header.payload_length as usize);
    require_zero(ENTRY, "padding bytes", padding)?;
    Ok((header, found, payload))
}

fn view(bytes: &[u8]) -> Result<&EntryLayout, Malformed> {
    let Ok((layout, _)) = EntryLayout::ref_from_prefix(bytes) else {
        let detail = format_args!("needs {ENTRY_HEADER} bytes and {} are there", bytes.len());
        return Err(error("header", detail));
    };
    if layout.magic != MAGIC {
        let detail = format_args!("\"{}\" is not \"FLE1\"", layout.magic.escape_ascii());
        return Err(error("magic", detail));
    }
    if layout.version != VERSION {
        let found = layout.version.get().into();
        return Err(Malformed::Version { structure: ENTRY, found });
    }
    Ok(layout)
}

/// Section 3.1.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EntryLayout {
    magic: [u8; 4],
    version: U16,
    blocks: U16,
    lsn: U64,
    incarnation: U64,
    durable: U64,
    previous: U64,
    checkpoint_generation: U64,
    payload_length: U32,
    reserved_52: [u8; 4],
    checksum: U64,
}

const CHECKSUM_AT: usize = offset_of!(EntryLayout, checksum);

const _: () = {
    assert!(size_of::<EntryLayout>() == ENTRY_HEADER);
    assert!(offset_of!(EntryLayout, magic) == 0);
    assert!(offset_of!(EntryLayout, version) == 4);
    assert!(offset_of!(EntryLayout, blocks) == 6);
    assert!(offset_of!(EntryLayout, lsn) == 8);
    assert!(offset_of!(EntryLayout, incarnation) == 16);
    assert!(offset_of!(EntryLayout, durable) == 24);
    assert!(offset_of!(EntryLayout, previous) == 32);
    assert!(offset_of!(EntryLayout, checkpoint_generation) == 40);
    assert!(offset_of!(EntryLayout, payload_length) == 48);
    assert!(offset_of!(EntryLayout, reserved_52) == 52);
    assert!(offset_of!(EntryLayout, checksum) == 56);
};

impl EntryLayout {
    /// The second step of decoding: a value with every field checked.
    fn value(&self) -> Result<EntryHeader, Malformed> {
        require_zero(ENTRY, "reserved bytes at 52", &self.reserved_52)?;
        let header = EntryHeader {
            lsn: Lsn(self.lsn.get()),
            incarnation: self.incarnation.get(),
            durable: Lsn(self.durable.get()),
            previous: self.previous.get(),
            checkpoint_generation: self.checkpoint_generation.get(),
            blocks: self.blocks.get(),
            payload_length: self.payload_length.get(),
        };
        header.check()?;
        Ok(header)
    }
}

/// An entry whose operations name this many logical clusters.
pub(crate) fn too_many_clusters(clusters: usize) -> Malformed {
    let detail = format_args!("are {clusters} at least, and {ENTRY_CLUSTERS_MAX} are the most");
    error("logical clusters", detail)
}

#[cold]
fn error(field: &'static str, detail: impl std::fmt::Display) -> Malformed {
    Malformed::field(ENTRY, field, detail)
}

#[cfg(test)]
mod tests;
