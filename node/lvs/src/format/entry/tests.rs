//! Tests of log entries: the exact bytes, and what is refused.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::format::bytes_at;

fn seed() -> Seed {
    Seed::of_pool(Uuid::from_bytes([7; 16]))
}

fn header() -> EntryHeader {
    EntryHeader {
        lsn: Lsn(0x0807_0605_0403_0201),
        incarnation: 0x1817_1615_1413_1211,
        durable: Lsn(0x0807_0605_0403_0200),
        previous: 0x3837_3635_3433_3231,
        checkpoint_generation: 0x4847_4645_4443_4241,
        blocks: 1,
        payload_length: 24,
    }
}

/// A sealed entry of one block with 24 bytes of payload.
fn sealed() -> Vec<u8> {
    let mut bytes = vec![0xee; BLOCK];
    bytes[ENTRY_HEADER..ENTRY_HEADER + 24].fill(0xab);
    seal_entry(seed(), &header(), &mut bytes);
    bytes
}

#[test]
fn an_entry_has_the_bytes_of_section_3_1() {
    let mut bytes = sealed();
    let checksum = checksum::stated(&bytes, 56);
    assert_eq!(checksum, checksum::compute(seed(), &bytes, 56));
    bytes[56..64].fill(0);
    let expected = bytes_at(
        BLOCK,
        &[
            (0, b"FLE1"),
            (4, &[1, 0]),
            (6, &[1, 0]),
            (8, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (16, &[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]),
            (24, &[0, 2, 3, 4, 5, 6, 7, 8]),
            (32, &[0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]),
            (40, &[0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48]),
            (48, &[24, 0, 0, 0]),
            (64, &[0xab; 24]),
        ],
    );
    assert_eq!(bytes, expected);
}

#[test]
fn a_sealed_entry_is_read_back_with_what_follows_it_ignored() {
    let mut bytes = sealed();
    let checksum = checksum::stated(&bytes, 56);
    bytes.extend([0x55; 512]);
    let (read, stated, payload) = verify_entry(seed(), &bytes).expect("it is sealed");
    assert_eq!((read, stated, payload), (header(), checksum, &[0xab; 24][..]));
    assert_eq!(read_header(&bytes), Some(header()));
}

#[test]
fn an_entry_of_another_pool_does_not_verify() {
    let other = Seed::of_pool(Uuid::from_bytes([8; 16]));
    let error = verify_entry(other, &sealed()).expect_err("the seed differs");
    assert!(matches!(error, Malformed::Checksum { structure: "log entry", .. }), "{error}");
}

#[test]
fn every_single_bit_flip_is_detected() {
    let mut bytes = sealed();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(verify_entry(seed(), &bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(verify_entry(seed(), &bytes).is_ok());
}

#[test]
fn every_truncation_is_detected() {
    let bytes = sealed();
    for length in 0..bytes.len() {
        assert!(verify_entry(seed(), &bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn hostile_fields_are_refused_even_with_a_right_checksum() {
    let cases: [(&str, usize, &[u8]); 14] = [
        ("log entry: magic \"FLE2\" is not \"FLE1\"", 3, b"2"),
        ("log entry: version 0 is not known", 4, &[0, 0]),
        ("log entry: version 2 is not known", 4, &[2, 0]),
        ("log entry: length in blocks 0 does not fit", 6, &[0, 0]),
        ("log entry: length in blocks 2 does not fit", 6, &[2, 0]),
        ("log entry: length in blocks 17 does not fit", 6, &[17, 0]),
        ("log entry: length in blocks 65535 does not fit", 6, &[255, 255]),
        ("log entry: LSN is zero", 8, &[0; 8]),
        ("log entry: durable LSN 578437695752307201 is not below", 24, &[1]),
        ("log entry: payload length 25 is not a multiple of 8", 48, &[25]),
        ("log entry: payload length 4040 is not a multiple of 8 up to 4032", 48, &[0xc8, 0x0f]),
        ("log entry: payload length 4294967288 is", 48, &[0xf8, 0xff, 0xff, 0xff]),
        ("log entry: reserved bytes at 52 are not zero: byte 3", 55, &[1]),
        ("log entry: padding bytes are not zero: byte 4007", BLOCK - 1, &[1]),
    ];
    for (expected, at, patch) in cases {
        let mut bytes = sealed();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        checksum::seal(seed(), &mut bytes, CHECKSUM_AT);
        let error = verify_entry(seed(), &bytes).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}, not {expected}");
    }
}

#[test]
fn a_header_that_could_not_begin_an_entry_is_not_read() {
    assert_eq!(read_header(&sealed()[..ENTRY_HEADER - 1]), None);
    assert_eq!(read_header(&[0; BLOCK]), None);
    for (at, value) in [(0, b'X'), (4, 2), (6, 17), (48, 25), (55, 1)] {
        let mut bytes = sealed();
        bytes[at] = value;
        assert_eq!(read_header(&bytes), None, "byte {at}");
    }
}

#[test]
#[should_panic(expected = "payload length 25")]
fn an_entry_that_could_not_be_read_again_is_not_sealed() {
    seal_entry(seed(), &EntryHeader { payload_length: 25, ..header() }, &mut [0; BLOCK]);
}

#[test]
#[should_panic(expected = "fills its buffer")]
fn an_entry_shorter_than_its_buffer_is_not_sealed() {
    seal_entry(seed(), &header(), &mut [0; 2 * BLOCK]);
}

prop_compose! {
    fn headers()(
        lsn in 1..=u64::MAX,
        incarnation: u64,
        durable: u64,
        previous: u64,
        checkpoint_generation: u64,
        blocks in 1..=16u16,
        payload: u32,
    ) -> EntryHeader {
        let most = u32::from(blocks) * BLOCK_SIZE - 64;
        EntryHeader {
            lsn: Lsn(lsn),
            incarnation,
            durable: Lsn(durable % lsn),
            previous,
            checkpoint_generation,
            blocks,
            payload_length: payload % (most / 8 + 1) * 8,
        }
    }
}

proptest! {
    #[test]
    fn what_is_sealed_is_read_back(header in headers(), fill: u8) {
        let mut bytes = vec![fill; usize::from(header.blocks) * BLOCK];
        let sum = seal_entry(seed(), &header, &mut bytes);
        let (read, stated, payload) = verify_entry(seed(), &bytes).expect("it is sealed");
        prop_assert_eq!((read, stated), (header, sum));
        prop_assert_eq!(payload.len(), header.payload_length as usize);
        prop_assert!(payload.iter().all(|&byte| byte == fill));
        prop_assert_eq!(read_header(&bytes), Some(header));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let _ = (read_header(&bytes), verify_entry(seed(), &bytes));
        if bytes.len() >= 8 {
            bytes[..8].copy_from_slice(b"FLE1\x01\0\x01\0");
            let _ = (read_header(&bytes), verify_entry(seed(), &bytes));
        }
        if bytes.len() >= BLOCK {
            checksum::seal(seed(), &mut bytes[..BLOCK], CHECKSUM_AT);
            let _ = verify_entry(seed(), &bytes);
        }
    }
}
