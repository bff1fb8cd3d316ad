//! The metadata of a pool taken apart, and put together again with right checksums.
//!
//! What is between the structures is kept right: checksums, the chain of entries, the checksum of
//! chunks, lengths. What is in them is whatever an attack made of it.

use fathom_lvs::{
    Medium,
    format::{
        checkpoint::{
            CHUNK_HEADER, CHUNK_MAX, ChunkHeader, Class, Key, SLOT_HEADER, SlotHeader, decode_slot,
            encode_slot, seal_chunk, verify_chunk,
        },
        checksum::{self, Seed},
        entry::{ENTRY_HEADER, ENTRY_MAX, EntryHeader, seal_entry, verify_entry},
        label::{Extent, LABEL_SIZE, Label, label_offsets},
        op::{Decoder, Op},
    },
    geometry::Lsn,
};
use fathom_test_sim::rig::Disks;
use uuid::Uuid;

const BLOCK: usize = 4096;

/// Where the checksum of each structure stands in it.
const LABEL_SUM: usize = 16;
const SLOT_SUM: usize = 8;
const CHUNK_SUM: usize = 8;
const ENTRY_SUM: usize = 56;

/// Operations with the header of what holds them.
#[derive(Clone, Debug)]
pub struct Part<H> {
    /// The header; lengths and checksums in it are made right when it is written.
    pub header: H,
    /// The operations, encoded.
    pub payload: Vec<u8>,
    /// Bytes of the header to be changed before the checksum is made right: offset and bytes.
    pub patches: Vec<(usize, Vec<u8>)>,
}

/// The metadata of a pool.
#[derive(Clone, Debug)]
pub struct Image {
    /// The label of each disk, by slot of the medium.
    pub labels: Vec<Label>,
    /// Bytes of each label to be changed: offset and bytes.
    pub label_patches: Vec<Vec<(usize, Vec<u8>)>>,
    /// The newest slot header.
    pub slot: SlotHeader,
    /// Bytes of it to be changed.
    pub slot_patches: Vec<(usize, Vec<u8>)>,
    /// The chunks that it names.
    pub chunks: Vec<Part<ChunkHeader>>,
    /// The entries from its start LSN on.
    pub entries: Vec<Part<EntryHeader>>,
}

impl Image {
    /// Takes the metadata of the pool on `disks` apart.
    ///
    /// # Panics
    ///
    /// When it is not intact on the first disk: the caller has just written it.
    pub fn read(disks: &mut Disks) -> Self {
        let labels: Vec<Label> = (0..disks.slots())
            .map(|slot| Label::decode(&read(disks, slot, 0, LABEL_SIZE)).expect("a label"))
            .collect();
        let first = &labels[0];
        let seed = Seed::of_pool(first.pool);
        let slots = [&first.slot_a, &first.slot_b].map(|extents| extents[0]);
        let newest = |extent: &Extent| {
            let bytes = read(disks, 0, extent.offset, SLOT_HEADER);
            decode_slot(seed, &bytes).ok().map(|header| (header, *extent))
        };
        let (slot, extent) = slots
            .iter()
            .filter_map(newest)
            .max_by_key(|(header, _)| header.generation)
            .expect("a slot header");
        let mut chunks = Vec::new();
        let mut position = SLOT_HEADER;
        for _ in 0..slot.chunks {
            let length = CHUNK_MAX.min(to_usize(extent.length) - position);
            let bytes = read(disks, 0, extent.offset + position as u64, length);
            let (header, _, payload) = verify_chunk(seed, &bytes).expect("a chunk");
            position += usize::from(header.blocks) * BLOCK;
            chunks.push(Part { header, payload: payload.to_vec(), patches: Vec::new() });
        }
        let entries = read_entries(disks, &first.log[0], seed, &slot);
        let label_patches = vec![Vec::new(); labels.len()];
        Self { labels, label_patches, slot, slot_patches: Vec::new(), chunks, entries }
    }

    /// The seed of the pool's checksums.
    pub fn seed(&self) -> Seed {
        Seed::of_pool(self.labels[0].pool)
    }

    /// Blocks in a cluster.
    pub fn blocks(&self) -> u16 {
        self.labels[0].cluster_size.blocks()
    }

    /// The payloads of all chunks and entries.
    pub fn payloads(&mut self) -> Vec<&mut Vec<u8>> {
        let chunks = self.chunks.iter_mut().map(|part| &mut part.payload);
        chunks.chain(self.entries.iter_mut().map(|part| &mut part.payload)).collect()
    }

    /// Every operation in it, encoded one by one.
    pub fn operations(&mut self) -> Vec<Vec<u8>> {
        let blocks = self.blocks();
        let payloads = self.payloads();
        payloads.iter().flat_map(|payload| split(payload, blocks)).collect()
    }

    /// An entry of these operations, to be the next of the log.
    pub fn add_entry(&mut self, ops: &[Op]) {
        let mut payload = Vec::new();
        let blocks = self.blocks();
        ops.iter().for_each(|op| op.encode(blocks, &mut payload));
        self.add_payload(payload);
    }

    /// An entry with this payload, to be the next of the log.
    pub fn add_payload(&mut self, payload: Vec<u8>) {
        let header = EntryHeader {
            lsn: Lsn(1),
            incarnation: self.slot.incarnation,
            durable: Lsn(0),
            previous: 0,
            checkpoint_generation: self.slot.generation,
            blocks: 1,
            payload_length: 0,
        };
        self.entries.push(Part { header, payload, patches: Vec::new() });
    }

    /// Replaces all chunks by one with these operations.
    pub fn one_chunk(&mut self, ops: &[Op]) {
        let mut payload = Vec::new();
        let blocks = self.blocks();
        ops.iter().for_each(|op| op.encode(blocks, &mut payload));
        let mut part = self.chunks[0].clone();
        part.payload = payload;
        self.chunks = vec![part];
    }

    /// Puts it onto `disks`, on every metadata member, with every checksum right.
    pub fn write(&self, disks: &mut Disks) {
        for (slot, label) in self.labels.iter().enumerate() {
            self.write_label(disks, slot, label);
        }
        let copies: Vec<usize> =
            (0..self.labels.len()).filter(|&slot| !self.labels[slot].log.is_empty()).collect();
        let Some(&first) = copies.first() else { return };
        let layout = &self.labels[first];
        self.write_slot(disks, &copies, layout);
        self.write_log(disks, &copies, &layout.log[0]);
        for disk in &mut disks.0 {
            disk.flush().expect("a sound disk");
        }
    }

    fn write_label(&self, disks: &mut Disks, slot: usize, label: &Label) {
        let mut bytes = label.encode();
        for (offset, patch) in &self.label_patches[slot] {
            put(&mut bytes, *offset, patch);
        }
        let pool = bytes[40..56].try_into().expect("a UUID has 16 bytes");
        checksum::seal(Seed::of_pool(Uuid::from_bytes(pool)), &mut bytes, LABEL_SUM);
        for offset in label_offsets(disks.size(slot)) {
            write(disks, slot, offset, &bytes);
        }
    }

    fn write_slot(&self, disks: &mut Disks, copies: &[usize], layout: &Label) {
        let even = self.slot.generation.is_multiple_of(2);
        let extent = if even { layout.slot_a[0] } else { layout.slot_b[0] };
        let mut position = SLOT_HEADER;
        let mut checksums = Vec::new();
        for (index, part) in self.chunks.iter().enumerate() {
            let mut buffer = framed(CHUNK_HEADER, &part.payload, CHUNK_MAX);
            if position + buffer.len() > to_usize(extent.length) {
                break;
            }
            let index = u32::try_from(index).expect("few chunks");
            let first = if index == 0 { Key::MIN } else { part.header.first };
            let first = if index > 0 && first == Key::MIN {
                Key { class: Class::Layer, first: 1, second: 0 }
            } else {
                first
            };
            let (blocks, payload_length) = lengths(&buffer, CHUNK_HEADER, &part.payload);
            let generation = self.slot.generation;
            let header =
                ChunkHeader { generation, index, first, blocks, payload_length, ..part.header };
            seal_chunk(self.seed(), &header, &mut buffer);
            part.patches.iter().for_each(|(offset, bytes)| put(&mut buffer, *offset, bytes));
            checksums.push(checksum::seal(self.seed(), &mut buffer, CHUNK_SUM));
            for &copy in copies {
                write(disks, copy, extent.offset + position as u64, &buffer);
            }
            position += buffer.len();
        }
        let header = SlotHeader {
            chunk_bytes: (position - SLOT_HEADER) as u64,
            chunks: u32::try_from(checksums.len()).expect("few chunks").max(1),
            chunks_checksum: checksum::of_checksums(self.seed(), checksums),
            ..self.slot
        };
        let header = SlotHeader { chunk_bytes: header.chunk_bytes.max(BLOCK as u64), ..header };
        let mut bytes = encode_slot(self.seed(), &header);
        self.slot_patches.iter().for_each(|(offset, patch)| put(&mut bytes, *offset, patch));
        checksum::seal(self.seed(), &mut bytes, SLOT_SUM);
        for &copy in copies {
            write(disks, copy, extent.offset, &bytes);
        }
    }

    fn write_log(&self, disks: &mut Disks, copies: &[usize], extent: &Extent) {
        let zeros = vec![0; to_usize(extent.length)];
        for &copy in copies {
            write(disks, copy, extent.offset, &zeros);
        }
        let mut lsn = self.slot.start;
        let mut previous = self.slot.previous;
        let mut position = self.slot.position % extent.length;
        let mut room = extent.length;
        for part in &self.entries {
            let mut buffer = framed(ENTRY_HEADER, &part.payload, ENTRY_MAX);
            let length = buffer.len() as u64;
            let left = extent.length - position;
            let skipped = if length > left { left } else { 0 };
            if skipped + length > room {
                break;
            }
            room -= skipped + length;
            position = (position + skipped) % extent.length;
            let (blocks, payload_length) = lengths(&buffer, ENTRY_HEADER, &part.payload);
            let durable = part.header.durable.min(Lsn(lsn.0 - 1));
            let header =
                EntryHeader { lsn, previous, blocks, payload_length, durable, ..part.header };
            seal_entry(self.seed(), &header, &mut buffer);
            part.patches.iter().for_each(|(offset, bytes)| put(&mut buffer, *offset, bytes));
            previous = checksum::seal(self.seed(), &mut buffer, ENTRY_SUM);
            for &copy in copies {
                write(disks, copy, extent.offset + position, &buffer);
            }
            position = (position + length) % extent.length;
            let Some(next) = lsn.0.checked_add(1) else { break };
            lsn = Lsn(next);
        }
    }
}

fn read_entries(
    disks: &mut Disks,
    extent: &Extent,
    seed: Seed,
    slot: &SlotHeader,
) -> Vec<Part<EntryHeader>> {
    let mut entries = Vec::new();
    let (mut lsn, mut previous, mut position) = (slot.start, slot.previous, slot.position);
    loop {
        let mut found = None;
        for candidate in [position % extent.length, 0] {
            let length = (extent.length - candidate).min(ENTRY_MAX as u64);
            let bytes = read(disks, 0, extent.offset + candidate, to_usize(length));
            match verify_entry(seed, &bytes) {
                Ok((header, sum, payload)) if header.lsn == lsn && header.previous == previous => {
                    found = Some((candidate, header, sum, payload.to_vec()));
                    break;
                }
                _ => {}
            }
        }
        let Some((begin, header, sum, payload)) = found else { return entries };
        position = begin + u64::from(header.blocks) * BLOCK as u64;
        previous = sum;
        lsn = Lsn(lsn.0 + 1);
        entries.push(Part { header, payload, patches: Vec::new() });
    }
}

/// The operations of a payload, encoded one by one.
pub fn split(payload: &[u8], blocks: u16) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new(payload, blocks);
    let mut pieces = Vec::new();
    let mut begin = 0;
    while let Some(Ok(_)) = decoder.next() {
        pieces.push(payload[begin..decoder.position()].to_vec());
        begin = decoder.position();
    }
    pieces
}

/// A buffer of whole blocks with room for a header before the payload, which is cut where it
/// becomes too long.
fn framed(header: usize, payload: &[u8], most: usize) -> Vec<u8> {
    let payload = &payload[..payload.len().min(most - header) & !7];
    let mut buffer = vec![0; (header + payload.len()).next_multiple_of(BLOCK)];
    buffer[header..header + payload.len()].copy_from_slice(payload);
    buffer
}

fn lengths(buffer: &[u8], header: usize, payload: &[u8]) -> (u16, u32) {
    let payload = payload.len().min(buffer.len() - header) & !7;
    let blocks = u16::try_from(buffer.len() / BLOCK).expect("at most 16 blocks");
    (blocks, u32::try_from(payload).expect("at most 64 KiB"))
}

/// Puts `patch` over `bytes` from `offset` on, as far as they reach.
pub fn put(bytes: &mut [u8], offset: usize, patch: &[u8]) {
    let end = (offset + patch.len()).min(bytes.len());
    if offset < end {
        bytes[offset..end].copy_from_slice(&patch[..end - offset]);
    }
}

fn read(disks: &mut Disks, slot: usize, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    disks.read(slot, offset, &mut bytes).expect("a sound disk");
    bytes
}

/// Writes what of `bytes` lies on the disk.
fn write(disks: &mut Disks, slot: usize, offset: u64, bytes: &[u8]) {
    if offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= disks.size(slot)) {
        disks.write(slot, offset, bytes).expect("a sound disk");
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("test disks are small")
}
