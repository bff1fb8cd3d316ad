//! What a fuzzer runs: a target for each decoder of the format, one for opening a pool, and those of
//! [`crate::wire`].
//!
//! Each of the format makes the checksum right, so that a fuzzer gets past it, and panics when something is
//! wrong: when what was decoded does not encode and decode to itself, or when a pool that opens
//! does not live. `tests/fuzz` has an executable for each; its own tests run them on the stable
//! toolchain, too.

use std::sync::OnceLock;

use fathom_lvs::format::{
    checkpoint::{SLOT_HEADER, decode_slot, encode_slot, read_chunk_header, verify_chunk},
    checksum::{self, Seed},
    entry::{read_header, verify_entry},
    label::{LABEL_SIZE, Label},
    op::Decoder,
    tombstone::{TOMBSTONE_SIZE, Tombstone},
};
use fathom_test_sim::{history, rig::Disks};
use fathom_test_support::random::Random;
use uuid::Uuid;

use crate::{
    attack,
    image::{Image, put},
    wire,
};

/// The longest input that a target looks at, in bytes.
pub const INPUT_MAX: usize = 64 << 10;
/// Histories from which seeds are taken, and their steps: long ones for operations of each type,
/// a short one for the pool that is opened.
const HISTORIES: u64 = 4;
const HISTORY_STEPS: u32 = 120;
const POOL_STEPS: u32 = 25;

/// A function that takes any bytes, and bytes from which a fuzzer may begin.
pub struct Target {
    /// Its name, and that of its executable.
    pub name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "label", run: label, seeds: label_seeds },
    Target { name: "tombstone", run: tombstone, seeds: tombstone_seeds },
    Target { name: "entry", run: entry, seeds: entry_seeds },
    Target { name: "slot", run: slot, seeds: slot_seeds },
    Target { name: "chunk", run: chunk, seeds: chunk_seeds },
    Target { name: "op_map", run: operation::<1>, seeds: operation_seeds::<1> },
    Target { name: "op_unmap", run: operation::<2>, seeds: operation_seeds::<2> },
    Target { name: "op_fragments", run: operation::<3>, seeds: operation_seeds::<3> },
    Target { name: "op_put_layer", run: operation::<4>, seeds: operation_seeds::<4> },
    Target { name: "op_drop_layer", run: operation::<5>, seeds: operation_seeds::<5> },
    Target { name: "op_put_volume", run: operation::<6>, seeds: operation_seeds::<6> },
    Target { name: "op_drop_volume", run: operation::<7>, seeds: operation_seeds::<7> },
    Target { name: "op_put_snapshot", run: operation::<8>, seeds: operation_seeds::<8> },
    Target { name: "op_drop_snapshot", run: operation::<9>, seeds: operation_seeds::<9> },
    Target { name: "op_put_pool", run: operation::<10>, seeds: operation_seeds::<10> },
    Target { name: "op_put_member", run: operation::<11>, seeds: operation_seeds::<11> },
    Target { name: "op_settled", run: operation::<12>, seeds: operation_seeds::<12> },
    Target { name: "payload", run: payload, seeds: payload_seeds },
    Target { name: "open", run: open, seeds: open_seeds },
    Target { name: "pdu", run: wire::pdu, seeds: wire::pdu_seeds },
    Target { name: "initialize", run: wire::initialize, seeds: wire::initialize_seeds },
    Target { name: "command", run: wire::command, seeds: wire::command_seeds },
    Target { name: "connect_data", run: wire::connect_data, seeds: wire::connect_data_seeds },
    Target {
        name: "identify_controller",
        run: wire::identify_controller,
        seeds: wire::identify_controller_seeds,
    },
    Target {
        name: "identify_namespace",
        run: wire::identify_namespace,
        seeds: wire::identify_namespace_seeds,
    },
    Target { name: "identify_lists", run: wire::identify_lists, seeds: wire::identify_lists_seeds },
    Target {
        name: "identify_command_set",
        run: wire::identify_command_set,
        seeds: wire::identify_command_set_seeds,
    },
    Target { name: "log_discovery", run: wire::log_discovery, seeds: wire::log_discovery_seeds },
    Target { name: "log_ana", run: wire::log_ana, seeds: wire::log_ana_seeds },
    Target { name: "log_pages", run: wire::log_pages, seeds: wire::log_pages_seeds },
    Target { name: "feature_data", run: wire::feature_data, seeds: wire::feature_data_seeds },
];

/// The target called `name`.
///
/// # Panics
///
/// When there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a name of a target")
}

impl Target {
    /// Runs the target.
    ///
    /// # Panics
    ///
    /// When it finds something.
    pub fn run(&self, bytes: &[u8]) {
        (self.run)(&bytes[..bytes.len().min(INPUT_MAX)]);
    }

    /// Inputs to begin from, made by the encoders of the format.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }
}

// Structures. Where one states its own length, an input is that of the whole structure.

const BLOCK: usize = 4096;
const VERSION: [u8; 4] = [1, 0, 0, 0];

/// The seed of checksums that are none of a pool's.
fn seed() -> Seed {
    Seed::of_pool(Uuid::from_u128(1))
}

fn label(bytes: &[u8]) {
    let mut label = [0; LABEL_SIZE];
    put(&mut label, 0, bytes);
    put(&mut label, 0, b"FATHOMLV\x01\x00\x00\x00");
    let pool = label[40..56].try_into().expect("a UUID has 16 bytes");
    checksum::seal(Seed::of_pool(Uuid::from_bytes(pool)), &mut label, 16);
    let Ok(decoded) = Label::decode(&label) else { return };
    assert!(decoded.encode() == label, "what was decoded encodes to the same bytes");
    let _ = (decoded.refusal(), decoded.read_only());
}

fn label_seeds() -> Vec<Vec<u8>> {
    images().flat_map(|image| image.labels).map(|label| label.encode().to_vec()).collect()
}

fn tombstone(bytes: &[u8]) {
    let mut block = [0; LABEL_SIZE];
    put(&mut block, 0, bytes);
    put(&mut block, 0, b"FATHOMRM\x01\x00\x00\x00");
    let pool = block[40..56].try_into().expect("a UUID has 16 bytes");
    let seed = Seed::of_pool(Uuid::from_bytes(pool));
    checksum::seal(seed, &mut block[..TOMBSTONE_SIZE], 16);
    let Ok(decoded) = Tombstone::decode(&block) else { return };
    let decoded = decoded.expect("it begins as one");
    assert!(block.starts_with(&decoded.encode()), "what was decoded encodes to the same bytes");
}

fn tombstone_seeds() -> Vec<Vec<u8>> {
    let labels = images().flat_map(|image| image.labels);
    let seeds = labels
        .map(|Label { pool, member, name, .. }| Tombstone { pool, member, name }.encode().to_vec());
    seeds.collect()
}

fn slot(bytes: &[u8]) {
    let mut slot = [0; SLOT_HEADER];
    put(&mut slot, 0, bytes);
    put(&mut slot, 0, b"FCP1\x01\x00\x00\x00");
    checksum::seal(seed(), &mut slot, 8);
    let Ok(decoded) = decode_slot(seed(), &slot) else { return };
    assert!(encode_slot(seed(), &decoded) == slot, "what was decoded encodes to the same bytes");
}

fn slot_seeds() -> Vec<Vec<u8>> {
    images().map(|image| encode_slot(seed(), &image.slot).to_vec()).collect()
}

/// Whole blocks that begin with `head` and hold `bytes`, with the checksum right for the length
/// that stands at `length_at`.
fn sealed(bytes: &[u8], head: &[u8], length_at: usize, checksum_at: usize) -> Vec<u8> {
    let mut all = vec![0; bytes.len().next_multiple_of(BLOCK).max(BLOCK)];
    put(&mut all, 0, bytes);
    put(&mut all, 0, head);
    let blocks = u16::from_le_bytes([all[length_at], all[length_at + 1]]);
    let length = (usize::from(blocks) * BLOCK).clamp(BLOCK, all.len());
    checksum::seal(seed(), &mut all[..length], checksum_at);
    all
}

fn entry(bytes: &[u8]) {
    let entry = sealed(bytes, b"FLE1\x01\x00", 6, 56);
    let header = read_header(&entry);
    let Ok((verified, sum, payload)) = verify_entry(seed(), &entry) else { return };
    assert_eq!(header, Some(verified));
    let mut again = entry[..usize::from(verified.blocks) * BLOCK].to_vec();
    assert_eq!(payload.len(), verified.payload_length as usize);
    assert_eq!(fathom_lvs::format::entry::seal_entry(seed(), &verified, &mut again), sum);
    assert!(entry.starts_with(&again), "what was decoded encodes to the same bytes");
}

fn entry_seeds() -> Vec<Vec<u8>> {
    let entries = images().flat_map(|image| image.entries);
    let seeds = entries.map(|part| {
        let mut bytes = vec![0; (64 + part.payload.len()).next_multiple_of(BLOCK)];
        put(&mut bytes, 64, &part.payload);
        fathom_lvs::format::entry::seal_entry(seed(), &part.header, &mut bytes);
        bytes
    });
    seeds.collect()
}

fn chunk(bytes: &[u8]) {
    let head = [b"FCC1".as_slice(), &VERSION].concat();
    let chunk = sealed(bytes, &head, 42, 8);
    let header = read_chunk_header(&chunk);
    let Ok((verified, sum, payload)) = verify_chunk(seed(), &chunk) else { return };
    assert_eq!(header, Some(verified));
    let mut again = chunk[..usize::from(verified.blocks) * BLOCK].to_vec();
    assert_eq!(payload.len(), verified.payload_length as usize);
    assert_eq!(fathom_lvs::format::checkpoint::seal_chunk(seed(), &verified, &mut again), sum);
    assert!(chunk.starts_with(&again), "what was decoded encodes to the same bytes");
}

fn chunk_seeds() -> Vec<Vec<u8>> {
    let chunks = images().flat_map(|image| image.chunks);
    let seeds = chunks.map(|part| {
        let mut bytes = vec![0; (64 + part.payload.len()).next_multiple_of(BLOCK)];
        put(&mut bytes, 64, &part.payload);
        fathom_lvs::format::checkpoint::seal_chunk(seed(), &part.header, &mut bytes);
        bytes
    });
    seeds.collect()
}

// Operations. The first byte of an input says how many blocks a cluster has.

fn blocks(byte: u8) -> u16 {
    16 << (byte % 7)
}

/// The body of one operation of type `KIND`.
fn operation<const KIND: u8>(bytes: &[u8]) {
    let Some((&size, body)) = bytes.split_first() else { return };
    let mut op = vec![KIND, 0, 0, 0, 0, 0, 0, 0];
    op.extend(body);
    op.resize(op.len().next_multiple_of(8), 0);
    let length = u32::try_from(op.len()).expect("inputs are short");
    put(&mut op, 4, &length.to_le_bytes());
    decode(&op, blocks(size));
}

fn operation_seeds<const KIND: u8>() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0; 17]];
    for mut image in images() {
        let ops = image.operations().into_iter().filter(|op| op[0] == KIND).take(20);
        seeds.extend(ops.map(|op| [&[0], &op[8..]].concat()));
    }
    seeds
}

fn payload(bytes: &[u8]) {
    let Some((&size, payload)) = bytes.split_first() else { return };
    decode(payload, blocks(size));
}

fn payload_seeds() -> Vec<Vec<u8>> {
    let payloads = images().flat_map(|mut image| {
        image.payloads().iter().map(|payload| payload.to_vec()).collect::<Vec<_>>()
    });
    payloads.map(|payload| [&[0], &payload[..]].concat()).collect()
}

fn decode(payload: &[u8], blocks: u16) {
    for op in Decoder::new(payload, blocks).flatten() {
        let mut again = Vec::new();
        op.encode(blocks, &mut again);
        assert_eq!(again.len(), op.encoded_len(blocks));
        assert!(op.logical_clusters(blocks) <= 4096, "of a few bytes nobody makes much work");
        let decoded = Decoder::new(&again, blocks).next();
        assert_eq!(decoded, Some(Ok(op)), "what was decoded encodes and decodes to itself");
    }
}

// Opening. An input is a list of sections: a type, a length of two bytes, and so many bytes.

/// The disks of a pool with a short history, and their metadata.
fn pool() -> &'static (Disks, Image) {
    static POOL: OnceLock<(Disks, Image)> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut disks = history::disks_after(1, POOL_STEPS).expect("the history is sound");
        let image = Image::read(&mut disks);
        (disks, image)
    })
}

const LABEL: u8 = 0;
const SLOT: u8 = 1;
const CHUNK: u8 = 2;
const ENTRY: u8 = 3;
const CHUNK_HEAD: u8 = 4;
const ENTRY_HEAD: u8 = 5;
const KINDS: u8 = 6;

/// A pool whose labels and headers are patched, and whose payloads are the input's.
fn open(bytes: &[u8]) {
    let (mut disks, base) = pool().clone();
    let mut image = base.clone();
    let sections = sections(bytes);
    if sections.iter().any(|(kind, _)| *kind == CHUNK) {
        image.chunks.clear();
    }
    if sections.iter().any(|(kind, _)| *kind == ENTRY) {
        image.entries.clear();
    }
    for (kind, bytes) in sections {
        apply(&mut image, &base, kind, bytes);
    }
    if image.chunks.is_empty() {
        return;
    }
    image.write(&mut disks);
    let number = bytes.iter().fold(7u64, |sum, &byte| sum.wrapping_mul(31) + u64::from(byte));
    if let Err(error) = attack::attempt(disks, &mut Random::new(number)) {
        panic!("{error}");
    }
}

fn sections(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut sections = Vec::new();
    while let [kind, low, high, rest @ ..] = bytes {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (section, after) = rest.split_at(length);
        sections.push((kind % KINDS, section));
        bytes = after;
    }
    sections
}

fn apply(image: &mut Image, base: &Image, kind: u8, bytes: &[u8]) {
    match (kind, bytes) {
        (LABEL, [low, high, bytes @ ..]) => {
            // Magic and version stay: what else is there is no label.
            let at = 12 + usize::from(u16::from_le_bytes([*low, *high])) % (LABEL_SIZE - 12);
            image.label_patches.iter_mut().for_each(|patches| patches.push((at, bytes.to_vec())));
        }
        (SLOT, [low, high, bytes @ ..]) => {
            let at = 8 + usize::from(u16::from_le_bytes([*low, *high])) % (SLOT_HEADER - 8);
            image.slot_patches.push((at, bytes.to_vec()));
        }
        (CHUNK, payload) => {
            let at = image.chunks.len().min(base.chunks.len() - 1);
            let mut part = base.chunks[at].clone();
            part.payload = payload.to_vec();
            image.chunks.push(part);
        }
        (ENTRY, payload) => image.add_payload(payload.to_vec()),
        (CHUNK_HEAD, [at, bytes @ ..]) => {
            if let Some(part) = image.chunks.last_mut() {
                part.patches
                    .push((8 + usize::from(*at) % 56, bytes[..bytes.len().min(8)].to_vec()));
            }
        }
        (ENTRY_HEAD, [at, bytes @ ..]) => {
            if let Some(part) = image.entries.last_mut() {
                part.patches
                    .push((6 + usize::from(*at) % 50, bytes[..bytes.len().min(8)].to_vec()));
            }
        }
        _ => {}
    }
}

fn open_seeds() -> Vec<Vec<u8>> {
    let (_, image) = pool();
    let section = |kind: u8, bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("a payload is below 64 KiB");
        [&[kind], &length.to_le_bytes()[..], bytes].concat()
    };
    let chunks: Vec<u8> =
        image.chunks.iter().flat_map(|part| section(CHUNK, &part.payload)).collect();
    let entries: Vec<u8> =
        image.entries.iter().flat_map(|part| section(ENTRY, &part.payload)).collect();
    let mut seeds = vec![[&chunks[..], &entries].concat(), chunks.clone(), entries.clone()];
    for at in (12..580u16).step_by(8) {
        let patch = [&(at - 12).to_le_bytes()[..], &[1, 0, 0, 0]].concat();
        seeds.push(section(LABEL, &patch));
    }
    for at in (16..88u16).step_by(8) {
        let patch = [&(at - 8).to_le_bytes()[..], &[2, 0, 0, 0]].concat();
        seeds.push([section(SLOT, &patch), chunks.clone()].concat());
    }
    for at in (0..56u8).step_by(8) {
        seeds.push([chunks.clone(), section(CHUNK_HEAD, &[at, 1, 0, 0, 0])].concat());
        seeds.push([entries.clone(), section(ENTRY_HEAD, &[at, 1, 0, 0, 0])].concat());
    }
    seeds
}

/// Metadata of pools with histories.
fn images() -> impl Iterator<Item = Image> {
    (0..HISTORIES).map(|seed| {
        let mut disks = history::disks_after(seed, HISTORY_STEPS).expect("the history is sound");
        Image::read(&mut disks)
    })
}
