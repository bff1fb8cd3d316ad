//! Tests of slot headers and chunks: the exact bytes, and what is refused.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::format::bytes_at;

fn seed() -> Seed {
    Seed::of_pool(Uuid::from_bytes([7; 16]))
}

fn slot() -> SlotHeader {
    SlotHeader {
        generation: 0x0807_0605_0403_0201,
        start: Lsn(0x1817_1615_1413_1211),
        position: 0x2827_2625_2423_2000,
        previous: 0x3837_3635_3433_3231,
        incarnation: 0x4847_4645_4443_4241,
        chunk_bytes: 0x2c_b000,
        chunks: 0xb3,
        next_layer: LayerId(0x6463_6261),
        next_object: ObjectId(0x7877_7675_7473_7271),
        chunks_checksum: 0x8887_8685_8483_8281,
    }
}

fn chunk() -> ChunkHeader {
    ChunkHeader {
        generation: 0x0807_0605_0403_0201,
        lsn: Lsn(0x1817_1615_1413_1211),
        index: 0x2423_2221,
        first: Key { class: Class::Fragment, first: 0x3433_3231, second: 0x4443_4241 },
        blocks: 1,
        payload_length: 24,
    }
}

/// A sealed chunk of one block with 24 bytes of payload.
fn sealed() -> Vec<u8> {
    let mut bytes = vec![0xee; BLOCK];
    bytes[CHUNK_HEADER..CHUNK_HEADER + 24].fill(0xab);
    seal_chunk(seed(), &chunk(), &mut bytes);
    bytes
}

#[test]
fn a_slot_header_has_the_bytes_of_section_5() {
    let mut bytes = encode_slot(seed(), &slot());
    assert_eq!(checksum::stated(&bytes, 8), checksum::compute(seed(), &bytes, 8));
    bytes[8..16].fill(0);
    let expected = bytes_at(
        4096,
        &[
            (0, b"FCP1"),
            (4, &[1, 0, 0, 0]),
            (16, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (24, &[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]),
            (32, &[0, 0x20, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]),
            (40, &[0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]),
            (48, &[0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48]),
            (56, &[0, 0xb0, 0x2c, 0, 0, 0, 0, 0]),
            (64, &[0xb3, 0, 0, 0]),
            (68, &[0x61, 0x62, 0x63, 0x64]),
            (72, &[0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78]),
            (80, &[0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88]),
        ],
    );
    assert_eq!(bytes[..], expected);
}

#[test]
fn a_chunk_has_the_bytes_of_section_5() {
    let mut bytes = sealed();
    assert_eq!(checksum::stated(&bytes, 8), checksum::compute(seed(), &bytes, 8));
    bytes[8..16].fill(0);
    let expected = bytes_at(
        BLOCK,
        &[
            (0, b"FCC1"),
            (4, &[1, 0, 0, 0]),
            (16, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (24, &[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]),
            (32, &[0x21, 0x22, 0x23, 0x24]),
            (36, &[24, 0, 0, 0]),
            (40, &[5, 0]),
            (42, &[1, 0]),
            (44, &[0x41, 0x42, 0x43, 0x44]),
            (48, &[0x31, 0x32, 0x33, 0x34, 0, 0, 0, 0]),
            (64, &[0xab; 24]),
        ],
    );
    assert_eq!(bytes, expected);
}

#[test]
fn a_sealed_chunk_is_read_back_with_what_follows_it_ignored() {
    let mut bytes = sealed();
    let checksum = checksum::stated(&bytes, 8);
    bytes.extend([0x55; 512]);
    let (read, stated, payload) = verify_chunk(seed(), &bytes).expect("it is sealed");
    assert_eq!((read, stated, payload), (chunk(), checksum, &[0xab; 24][..]));
    assert_eq!(read_chunk_header(&bytes), Some(chunk()));
    assert_eq!(read_chunk_header(&bytes[..CHUNK_HEADER - 1]), None);
}

#[test]
fn structures_of_another_pool_do_not_verify() {
    let other = Seed::of_pool(Uuid::from_bytes([8; 16]));
    let error = decode_slot(other, &encode_slot(seed(), &slot())).expect_err("other seed");
    assert!(matches!(error, Malformed::Checksum { structure: SLOT, .. }), "{error}");
    let bytes = sealed();
    let error = verify_chunk(other, &bytes).expect_err("other seed");
    assert!(matches!(error, Malformed::Checksum { structure: CHUNK, .. }), "{error}");
}

#[test]
fn every_single_bit_flip_is_detected() {
    let (mut chunk, mut slot) = (sealed(), encode_slot(seed(), &slot()));
    for bit in 0..BLOCK * 8 {
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        chunk[byte] ^= mask;
        assert!(verify_chunk(seed(), &chunk).is_err(), "bit {bit} of the chunk");
        chunk[byte] ^= mask;
        slot[byte] ^= mask;
        assert!(decode_slot(seed(), &slot).is_err(), "bit {bit} of the slot header");
        slot[byte] ^= mask;
    }
    assert!(verify_chunk(seed(), &chunk).is_ok());
    assert!(decode_slot(seed(), &slot).is_ok());
}

#[test]
fn every_truncation_is_detected() {
    let (chunk, slot) = (sealed(), encode_slot(seed(), &slot()));
    for length in 0..BLOCK {
        assert!(verify_chunk(seed(), &chunk[..length]).is_err(), "{length} bytes");
        assert!(decode_slot(seed(), &slot[..length]).is_err(), "{length} bytes");
    }
    assert!(decode_slot(seed(), &[0; BLOCK + 1]).is_err());
}

#[test]
fn hostile_slot_headers_are_refused_even_with_a_right_checksum() {
    let cases: [(&str, usize, &[u8]); 12] = [
        ("checkpoint slot: magic \"FCC1\" is not \"FCP1\"", 2, b"C"),
        ("checkpoint slot: version 0 is not known", 4, &[0]),
        ("checkpoint slot: version 258 is not known", 4, &[2, 1]),
        ("checkpoint slot: generation is zero", 16, &[0; 8]),
        ("checkpoint slot: start LSN is zero", 24, &[0; 8]),
        ("checkpoint slot: byte position 2893323226570760193 is not", 32, &[1]),
        ("checkpoint slot: bytes of chunks 2928641 cannot", 56, &[1]),
        ("checkpoint slot: bytes of chunks 729088 cannot", 56, &[0, 0x20, 0x0b]),
        ("checkpoint slot: number of chunks is zero", 64, &[0]),
        ("checkpoint slot: next layer id is zero", 68, &[0; 4]),
        ("checkpoint slot: next object id is zero", 72, &[0; 8]),
        ("checkpoint slot: reserved bytes at 88 are not zero: byte 4007", 4095, &[1]),
    ];
    for (expected, at, patch) in cases {
        let mut bytes = encode_slot(seed(), &slot());
        bytes[at..at + patch.len()].copy_from_slice(patch);
        checksum::seal(seed(), &mut bytes, SLOT_CHECKSUM_AT);
        let error = decode_slot(seed(), &bytes).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}, not {expected}");
    }
}

#[test]
fn hostile_chunks_are_refused_even_with_a_right_checksum() {
    let cases: [(&str, usize, &[u8]); 17] = [
        ("checkpoint chunk: magic \"FCP1\" is not \"FCC1\"", 2, b"P"),
        ("checkpoint chunk: version 0 is not known", 4, &[0]),
        ("checkpoint chunk: version 65537 is not known", 6, &[1]),
        ("checkpoint chunk: generation is zero", 16, &[0; 8]),
        ("checkpoint chunk: first key Key", 32, &[0; 4]),
        ("checkpoint chunk: payload length 25 is not", 36, &[25]),
        ("checkpoint chunk: payload length 4040 is not", 36, &[0xc8, 0x0f]),
        ("checkpoint chunk: first key of class 0,", 40, &[0]),
        ("checkpoint chunk: first key of class 6,", 40, &[6]),
        ("checkpoint chunk: first key of class 261,", 41, &[1]),
        ("checkpoint chunk: first key of class 3 has second part", 40, &[3]),
        ("checkpoint chunk: length in blocks 0 does", 42, &[0]),
        ("checkpoint chunk: length in blocks 2 does", 42, &[2]),
        ("checkpoint chunk: length in blocks 257 does", 43, &[1]),
        ("checkpoint chunk: first key names layer 5170737713", 52, &[1]),
        ("checkpoint chunk: reserved bytes at 56 are not zero: byte 7", 63, &[1]),
        ("checkpoint chunk: padding bytes are not zero: byte 0", 88, &[1]),
    ];
    for (expected, at, patch) in cases {
        let mut bytes = sealed();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        checksum::seal(seed(), &mut bytes, CHUNK_CHECKSUM_AT);
        let error = verify_chunk(seed(), &bytes).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}, not {expected}");
    }
}

#[test]
fn only_chunk_zero_begins_at_the_least_key() {
    let mut bytes = [0; BLOCK];
    let first = ChunkHeader { index: 0, first: Key::MIN, ..chunk() };
    seal_chunk(seed(), &first, &mut bytes);
    assert_eq!(verify_chunk(seed(), &bytes).expect("it is sealed").0, first);
    bytes[32] = 1;
    checksum::seal(seed(), &mut bytes, CHUNK_CHECKSUM_AT);
    assert!(verify_chunk(seed(), &bytes).is_err());
}

#[test]
fn keys_are_ordered_by_class_then_object_then_logical_cluster() {
    let key = |class, first, second| Key { class, first, second };
    let keys = [
        Key::MIN,
        key(Class::Pool, 1, 0),
        key(Class::Layer, 0, 0),
        key(Class::Layer, 9, 0),
        key(Class::Volume, 1, 0),
        key(Class::Snapshot, 1, 0),
        key(Class::Fragment, 1, 9),
        key(Class::Fragment, 2, 3),
        key(Class::Fragment, 2, 4),
    ];
    assert!(keys.is_sorted_by(|a, b| a < b));
}

#[test]
#[should_panic(expected = "next object id is zero")]
fn a_slot_header_that_could_not_be_read_again_is_not_encoded() {
    encode_slot(seed(), &SlotHeader { next_object: ObjectId(0), ..slot() });
}

#[test]
#[should_panic(expected = "fills its buffer")]
fn a_chunk_longer_than_its_buffer_is_not_sealed() {
    seal_chunk(seed(), &ChunkHeader { blocks: 2, ..chunk() }, &mut [0; BLOCK]);
}

fn keys() -> impl Strategy<Value = Key> {
    (1..=5u16, any::<u32>(), any::<u32>()).prop_map(|(class, first, second)| {
        let class = Class::from_number(class).expect("1 to 5 are known");
        let second = if class == Class::Fragment { second } else { 0 };
        Key { class, first: u64::from(first), second }
    })
}

prop_compose! {
    fn slots()(
        generation in 1..=u64::MAX,
        start in 1..=u64::MAX,
        position: u64,
        checksums: (u64, u64),
        incarnation: u64,
        chunks in 1..=u32::MAX,
        blocks: u64,
        next in (1..=u32::MAX, 1..=u64::MAX),
    ) -> SlotHeader {
        let blocks = u64::from(chunks) + blocks % (u64::from(chunks) * 15 + 1);
        SlotHeader {
            generation,
            start: Lsn(start),
            position: position & !4095,
            previous: checksums.0,
            incarnation,
            chunk_bytes: blocks * 4096,
            chunks,
            next_layer: LayerId(next.0),
            next_object: ObjectId(next.1),
            chunks_checksum: checksums.1,
        }
    }
}

prop_compose! {
    fn chunks()(
        generation in 1..=u64::MAX,
        lsn: u64,
        index: u32,
        key in keys(),
        blocks in 1..=16u16,
        payload: u32,
    ) -> ChunkHeader {
        let first = if index == 0 { Key::MIN } else { key };
        let most = u32::from(blocks) * BLOCK_SIZE - 64;
        ChunkHeader {
            generation,
            lsn: Lsn(lsn),
            index: if first == Key::MIN { 0 } else { index },
            first,
            blocks,
            payload_length: payload % (most / 8 + 1) * 8,
        }
    }
}

proptest! {
    #[test]
    fn an_encoded_slot_header_is_read_back(header in slots()) {
        prop_assert_eq!(decode_slot(seed(), &encode_slot(seed(), &header)), Ok(header));
    }

    #[test]
    fn a_sealed_chunk_is_read_back(header in chunks(), fill: u8) {
        let mut bytes = vec![fill; usize::from(header.blocks) * BLOCK];
        let sum = seal_chunk(seed(), &header, &mut bytes);
        let (read, stated, payload) = verify_chunk(seed(), &bytes).expect("it is sealed");
        prop_assert_eq!((read, stated), (header, sum));
        prop_assert_eq!(payload.len(), header.payload_length as usize);
        prop_assert!(payload.iter().all(|&byte| byte == fill));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 4096)) {
        let _ = (verify_chunk(seed(), &bytes), decode_slot(seed(), &bytes));
        for magic in [b"FCC1\x01\0\0\0", b"FCP1\x01\0\0\0"] {
            bytes[..8].copy_from_slice(magic);
            bytes[42..44].copy_from_slice(&[1, 0]);
            checksum::seal(seed(), &mut bytes, 8);
            let _ = (read_chunk_header(&bytes), verify_chunk(seed(), &bytes));
            let _ = decode_slot(seed(), &bytes);
        }
    }
}
