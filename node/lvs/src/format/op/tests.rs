//! Tests of operations: the exact bytes, round trips, and what is refused.

use fathom_units::{ByteCount, ByteOffset};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{blocks::BlockSet, format::bytes_at};

const SIZES: [u16; 7] = [16, 32, 64, 128, 256, 512, 1024];

fn encode(op: &Op, blocks: u16) -> Vec<u8> {
    let mut out = vec![0xee; 3];
    op.encode(blocks, &mut out);
    assert_eq!(out.len() - 3, op.encoded_len(blocks), "encoded_len of {op:?}");
    out.split_off(3)
}

fn map() -> Op {
    Op::Map {
        layer: LayerId(0x0403_0201),
        at: LogicalCluster(0x1413_1211),
        cluster: ClusterNo(0x1423_2221),
        first: 0x0031,
        proofs: vec![0x4847_4645_4443_4241, 0x5857_5655_5453_5251],
    }
}

fn fragment(cluster: Option<u32>, valid: &[u64], opaque: &[u64]) -> Fragment {
    Fragment {
        cluster: cluster.map(ClusterNo),
        valid: BlockSet::from_words(valid),
        opaque: BlockSet::from_words(opaque),
    }
}

/// With 16 blocks in a cluster: a run of each kind that runs, and one of each other kind.
fn fragments() -> Op {
    let full = |cluster| fragment(Some(cluster), &[0xffff], &[]);
    let zero = fragment(None, &[], &[0xffff]);
    let items = [
        (0x0000_0005, Fragment::ABSENT),
        (0x0000_0006, Fragment::ABSENT),
        (0x0000_0008, full(0x1413_1211)),
        (0x0000_0009, full(0x1423_2221)),
        (0x0000_000a, full(0x1433_3231)),
        (0x0000_000b, zero),
        (0x0000_000c, zero),
        (0x0000_000d, fragment(Some(0x1443_4241), &[0x5251], &[])),
        (0x0000_000e, fragment(Some(0x1463_6261), &[0x7271], &[0x8281])),
        (0x7473_7271, fragment(None, &[], &[0x8483])),
    ];
    let items = items.map(|(at, fragment)| (LogicalCluster(at), fragment)).to_vec();
    Op::Fragments { layer: LayerId(0x0403_0201), items }
}

fn volume() -> VolumeRecord {
    VolumeRecord {
        id: ObjectId(0x0807_0605_0403_0201),
        uuid: Uuid::from_bytes([0x11; 16]),
        tip: Some(LayerId(0x2423_2221)),
        flags: VolumeFlags { thick: true, write_cache_off: false, exported: true, any_host: true },
        size: ByteCount(0x33_3435_3600),
        logical_block_size: 512,
        created_ns: 0x4847_4645_4443_4241,
        identity: Identity {
            subsystem_nqn: "nqn.s".to_owned(),
            serial: *b"0123456789abcdefghij",
            nsid: 0x5453_5251,
            nguid: [0x61; 16],
            uuid: Uuid::from_bytes([0x71; 16]),
        },
        cntlid_min: 0x8281,
        cntlid_max: 0x8483,
        members: 0x9291,
        limits: QosLimits {
            burst_s: 0xa4a3_a2a1,
            iops: Rates { all: 0xb1, read: 0xb2, write: 0xb3 },
            bandwidth: Rates { all: 0xc1, read: 0xc2, write: 0xc3 },
        },
        name: "vol".to_owned(),
        hosts: vec!["nqn.a".to_owned(), "nqn.bb".to_owned()],
        labels: vec![("k".to_owned(), "vv".to_owned()), ("kk".to_owned(), String::new())],
    }
}

fn snapshot() -> SnapshotRecord {
    SnapshotRecord {
        id: ObjectId(0x0807_0605_0403_0201),
        uuid: Uuid::from_bytes([0x11; 16]),
        volume: ObjectId(0x2827_2625_2423_2221),
        layer: LayerId(0x3433_3231),
        size: ByteCount(0x41_4243_4445),
        created_ns: 0x5857_5655_5453_5251,
        name: "snäp".to_owned(),
        labels: vec![("k".to_owned(), "v".to_owned())],
    }
}

fn pool() -> PoolRecord {
    PoolRecord {
        overcommit_percent: 0x0403_0201,
        watermark_low_percent: 0x51,
        watermark_high_percent: 0x62,
        labels: vec![("key".to_owned(), "value".to_owned())],
    }
}

fn member() -> Op {
    let segment = |first, clusters, offset| Segment {
        first: ClusterNo(first),
        clusters,
        offset: ByteOffset(offset),
    };
    Op::PutMember {
        member: MemberIndex(11),
        segments: vec![segment(0x0413_1211, 0x0423_2221, 0x3837_3635_3433_3000), segment(7, 8, 0)],
    }
}

/// One operation of each type, valid with 64 blocks in a cluster or with any.
fn one_of_each() -> Vec<Op> {
    vec![
        map(),
        Op::Unmap { layer: LayerId(1), opaque: true, first_block: 2, blocks: 3 },
        Op::Fragments { layer: LayerId(1), items: vec![(LogicalCluster(9), Fragment::ABSENT)] },
        Op::PutLayer { layer: LayerId(1), parent: Some(LayerId(2)) },
        Op::DropLayer { layer: LayerId(1) },
        Op::PutVolume(Box::new(volume())),
        Op::DropVolume { volume: ObjectId(1) },
        Op::PutSnapshot(Box::new(snapshot())),
        Op::DropSnapshot { snapshot: ObjectId(1) },
        Op::PutPool(pool()),
        member(),
        Op::Settled { member: MemberIndex(1), lsn: Lsn(2) },
    ]
}

/// The golden bytes are what `op` encodes to, and decode to it.
fn check_golden(op: Op, blocks: u16, length: usize, fields: &[(usize, &[u8])]) {
    let expected = bytes_at(length, fields);
    assert_eq!(encode(&op, blocks), expected, "{op:?}");
    assert_eq!(decode_all(&expected, blocks), Ok(vec![op]));
}

#[test]
fn operations_on_blocks_have_the_bytes_of_section_4() {
    check_golden(
        map(),
        64,
        40,
        &[
            (0, &[1]),
            (4, &[40]),
            (8, &[1, 2, 3, 4]),
            (12, &[0x11, 0x12, 0x13, 0x14]),
            (16, &[0x21, 0x22, 0x23, 0x14]),
            (20, &[0x31, 0]),
            (22, &[2, 0]),
            (24, &[0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48]),
            (32, &[0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58]),
        ],
    );
    for (opaque, flag) in [(true, 1), (false, 0)] {
        let (layer, first_block, blocks) = (LayerId(0x0403_0201), 0x0125_2423_2221, 0x000e_3231);
        check_golden(
            Op::Unmap { layer, opaque, first_block, blocks },
            1024,
            32,
            &[
                (0, &[2]),
                (4, &[32]),
                (8, &[1, 2, 3, 4]),
                (12, &[flag]),
                (16, &[0x21, 0x22, 0x23, 0x24, 0x25, 1, 0, 0]),
                (24, &[0x31, 0x32, 0x0e]),
            ],
        );
    }
}

#[test]
fn fragments_have_the_bytes_of_section_4_1() {
    check_golden(
        fragments(),
        16,
        144,
        &[
            (0, &[3]),
            (4, &[144]),
            (8, &[1, 2, 3, 4]),
            (12, &[6]),
            // Absent, two.
            (16, &[5, 0, 0, 0, 1, 0, 2, 0]),
            // Full, three, and padding.
            (24, &[8, 0, 0, 0, 2, 0, 3, 0]),
            (32, &[0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x14]),
            (40, &[0x31, 0x32, 0x33, 0x14, 0, 0, 0, 0]),
            // Zero, two.
            (48, &[11, 0, 0, 0, 3, 0, 2, 0]),
            // Partly valid.
            (56, &[13, 0, 0, 0, 4, 0, 1, 0]),
            (64, &[0x41, 0x42, 0x43, 0x14]),
            (72, &[0x51, 0x52]),
            // Mixed, with a cluster.
            (80, &[14, 0, 0, 0, 5, 0, 1, 0]),
            (88, &[0x61, 0x62, 0x63, 0x14]),
            (96, &[0x71, 0x72]),
            (104, &[0x81, 0x82]),
            // Mixed, without one.
            (112, &[0x71, 0x72, 0x73, 0x74, 5, 0, 1, 0]),
            (120, &[0xff; 4]),
            (136, &[0x83, 0x84]),
        ],
    );
}

#[test]
fn bitmaps_have_a_bit_per_block_padded_to_eight_bytes() {
    for (blocks, words) in [(16, 1), (32, 1), (64, 1), (128, 2), (256, 4), (512, 8), (1024, 16)] {
        let mut valid = vec![0; words];
        valid[words - 1] = 1 << ((blocks - 1) % 64);
        let items = vec![(LogicalCluster(1), fragment(Some(2), &valid, &[]))];
        let op = Op::Fragments { layer: LayerId(1), items };
        let bytes = encode(&op, blocks);
        assert_eq!(bytes.len(), 16 + 16 + words * 8);
        let last = 32 + usize::from(blocks - 1) / 8;
        assert_eq!(bytes[last], 1 << ((blocks - 1) % 8), "{blocks} blocks");
        assert!(bytes[32..].iter().enumerate().all(|(i, &byte)| i + 32 == last || byte == 0));
        assert_eq!(decode_all(&bytes, blocks), Ok(vec![op]));
    }
}

#[test]
fn operations_on_layers_members_and_lsns_have_the_bytes_of_section_4() {
    let layer = LayerId(0x0403_0201);
    check_golden(
        Op::PutLayer { layer, parent: Some(LayerId(0x1413_1211)) },
        16,
        16,
        &[(0, &[4]), (4, &[16]), (8, &[1, 2, 3, 4]), (12, &[0x11, 0x12, 0x13, 0x14])],
    );
    check_golden(
        Op::PutLayer { layer, parent: None },
        16,
        16,
        &[(0, &[4]), (4, &[16]), (8, &[1, 2, 3, 4])],
    );
    check_golden(Op::DropLayer { layer }, 16, 16, &[(0, &[5]), (4, &[16]), (8, &[1, 2, 3, 4])]);
    let id = ObjectId(0x0807_0605_0403_0201);
    for (op, number) in [(Op::DropVolume { volume: id }, 7), (Op::DropSnapshot { snapshot: id }, 9)]
    {
        let fields: [(usize, &[u8]); 3] =
            [(0, &[number]), (4, &[16]), (8, &[1, 2, 3, 4, 5, 6, 7, 8])];
        check_golden(op, 16, 16, &fields);
    }
    check_golden(
        member(),
        16,
        48,
        &[
            (0, &[11]),
            (4, &[48]),
            (8, &[11, 0]),
            (10, &[2, 0]),
            (16, &[0x11, 0x12, 0x13, 0x04]),
            (20, &[0x21, 0x22, 0x23, 0x04]),
            (24, &[0, 0x30, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]),
            (32, &[7, 0, 0, 0]),
            (36, &[8, 0, 0, 0]),
        ],
    );
    check_golden(
        Op::Settled { member: MemberIndex(11), lsn: Lsn(0x0807_0605_0403_0201) },
        16,
        24,
        &[(0, &[12]), (4, &[24]), (8, &[11, 0]), (16, &[1, 2, 3, 4, 5, 6, 7, 8])],
    );
}

#[test]
fn objects_have_the_bytes_of_section_4_2() {
    check_golden(
        Op::PutPool(pool()),
        16,
        32,
        &[
            (0, &[10]),
            (4, &[32]),
            (8, &[1, 2, 3, 4]),
            (12, &[0x51, 0]),
            (14, &[0x62, 0]),
            (16, b"\x01\0\x03\0key\x05\0value"),
        ],
    );
    check_golden(
        Op::PutVolume(Box::new(volume())),
        64,
        224,
        &[
            (0, &[6]),
            (4, &[224]),
            (8, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (16, &[0x11; 16]),
            (32, &[0x21, 0x22, 0x23, 0x24]),
            (36, &[13, 0, 0, 0]),
            (40, &[0x00, 0x36, 0x35, 0x34, 0x33, 0, 0, 0]),
            (48, &[0, 2, 0, 0]),
            (52, &[0x51, 0x52, 0x53, 0x54]),
            (56, &[0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48]),
            (64, &[0x61; 16]),
            (80, &[0x71; 16]),
            (96, b"0123456789abcdefghij"),
            (116, &[0x81, 0x82]),
            (118, &[0x83, 0x84]),
            (120, &[0x91, 0x92, 0, 0]),
            (124, &[0xa1, 0xa2, 0xa3, 0xa4]),
            (128, &[0xb1]),
            (136, &[0xb2]),
            (144, &[0xb3]),
            (152, &[0xc1]),
            (160, &[0xc2]),
            (168, &[0xc3]),
            (176, b"\x03\0vol"),
            (181, b"\x05\0nqn.s"),
            (188, b"\x02\0\x05\0nqn.a\x06\0nqn.bb"),
            (205, b"\x02\0\x01\0k\x02\0vv\x02\0kk\0\0"),
        ],
    );
    check_golden(
        Op::PutSnapshot(Box::new(snapshot())),
        64,
        80,
        &[
            (0, &[8]),
            (4, &[80]),
            (8, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (16, &[0x11; 16]),
            (32, &[0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]),
            (40, &[0x31, 0x32, 0x33, 0x34]),
            (48, &[0x45, 0x44, 0x43, 0x42, 0x41, 0, 0, 0]),
            (56, &[0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58]),
            (64, b"\x05\0sn\xc3\xa4p"),
            (71, b"\x01\0\x01\0k\x01\0v"),
        ],
    );
}

#[test]
fn each_flag_of_a_volume_has_its_bit() {
    for (bits, flags) in [
        (1, VolumeFlags { thick: true, ..VolumeFlags::default() }),
        (2, VolumeFlags { write_cache_off: true, ..VolumeFlags::default() }),
        (4, VolumeFlags { exported: true, ..VolumeFlags::default() }),
        (8, VolumeFlags { any_host: true, ..VolumeFlags::default() }),
    ] {
        let op = Op::PutVolume(Box::new(VolumeRecord { flags, ..volume() }));
        let bytes = encode(&op, 64);
        assert_eq!(bytes[36..40], [bits, 0, 0, 0]);
        assert_eq!(decode_all(&bytes, 64), Ok(vec![op]));
    }
}

#[test]
fn hostile_operations_are_refused() {
    // Which of `one_of_each`, what the error says, where the bytes go, and which.
    let cases: [(usize, &str, usize, &[u8]); 62] = [
        (0, "operation: type 0 is not known", 0, &[0]),
        (0, "operation: type 13 is not known", 0, &[13]),
        (0, "operation: type 255 is not known", 0, &[255]),
        (0, "Map operation: reserved bytes at 1", 1, &[1]),
        (0, "Map operation: reserved bytes at 1", 3, &[1]),
        (0, "Map operation: length 0 is not", 4, &[0]),
        (0, "Map operation: body needs 16 bytes and only 0", 4, &[8]),
        (0, "Map operation: proofs needs 16 bytes and only 8", 4, &[32]),
        (0, "Map operation: length 41 is not", 4, &[41]),
        (0, "Map operation: length 48 is not", 4, &[48]),
        (0, "Map operation: length 4294967288 is not", 4, &[0xf8, 0xff, 0xff, 0xff]),
        (0, "Map operation: layer is zero", 8, &[0; 4]),
        (0, "Map operation: logical cluster 4294967295 is not", 12, &[0xff; 4]),
        (0, "Map operation: cluster 536870912 is not", 16, &[0, 0, 0, 0x20]),
        (0, "Map operation: blocks 2 from 63 on do not", 20, &[63]),
        (0, "Map operation: blocks 2 from 65535 on do not", 20, &[255, 255]),
        (0, "Map operation: length is 16 bytes longer", 22, &[0]),
        (0, "Map operation: length is 8 bytes longer", 22, &[1]),
        (0, "Map operation: proofs needs 24 bytes and only 16", 22, &[3]),
        (0, "Map operation: proofs needs 524280 bytes and only 16", 22, &[255, 255]),
        (1, "Unmap operation: layer is zero", 8, &[0]),
        (1, "Unmap operation: flags 0x3 are not all known", 12, &[3]),
        (1, "Unmap operation: flags 0x80000001 are not", 15, &[0x80]),
        (1, "Unmap operation: blocks 3 from 274877906942 on", 16, &[0xfe, 0xff, 0xff, 0xff, 0x3f]),
        (1, "Unmap operation: blocks 3 from 18446744073709551615 on", 16, &[0xff; 8]),
        (1, "Unmap operation: blocks 0 from 2 on", 24, &[0]),
        (1, "Unmap operation: blocks 18446744073709551615 from 2 on", 24, &[0xff; 8]),
        (2, "Fragments operation: layer is zero", 8, &[0]),
        (2, "Fragments operation: length is 8 bytes longer", 12, &[0]),
        (2, "Fragments operation: item needs 8 bytes and only 0", 12, &[2]),
        (2, "Fragments operation: item needs 8 bytes and only 0", 12, &[0xff; 4]),
        (2, "Fragments operation: item kind 0 is not known", 20, &[0]),
        (2, "Fragments operation: item kind 6 is not known", 20, &[6]),
        (2, "Fragments operation: reserved byte at 5 of an item", 21, &[1]),
        (2, "Fragments operation: item count 0 is not", 22, &[0]),
        (2, "Fragments operation: logical cluster 4294967295 is not", 16, &[0xff; 4]),
        (
            2,
            "Fragments operation: logical cluster 4294967295 is fo",
            16,
            &[255, 255, 255, 255, 1, 0, 2],
        ),
        (3, "PutLayer operation: layer is zero", 8, &[0]),
        (3, "PutLayer operation: parent 1 is the layer itself", 12, &[1]),
        (4, "DropLayer operation: layer is zero", 8, &[0]),
        (4, "DropLayer operation: reserved bytes at 12 are not zero", 15, &[1]),
        (6, "DropVolume operation: volume is zero", 8, &[0]),
        (6, "DropVolume operation: volume needs 8 bytes and only 0", 4, &[8]),
        (8, "DropSnapshot operation: snapshot is zero", 8, &[0]),
        (9, "PutPool operation: low watermark 101 is above", 12, &[101]),
        (9, "PutPool operation: high watermark 257 is above", 14, &[1, 1]),
        (9, "PutPool operation: labels are 65, and 64", 16, &[65]),
        (9, "PutPool operation: label value needs 2 bytes and only 0", 16, &[3]),
        (9, "PutPool operation: label key needs 65535 bytes", 18, &[255, 255]),
        (9, "PutPool operation: label value \"\\xffalue\" is not UTF-8", 25, &[255]),
        (9, "PutPool operation: padding bytes are not zero: byte 1", 31, &[1]),
        (10, "PutMember operation: member 16 is not below 16", 8, &[16]),
        (10, "PutMember operation: segments needs 48 bytes and only 32", 10, &[3]),
        (10, "PutMember operation: length is 16 bytes longer", 10, &[1]),
        (10, "PutMember operation: reserved bytes at 12", 15, &[1]),
        (10, "PutMember operation: segment of 69411361 clusters from 538120721", 19, &[0x20]),
        (10, "PutMember operation: segment of 0 clusters from 7", 36, &[0]),
        (10, "PutMember operation: segment of 8 clusters cannot lie at byte 1", 40, &[1]),
        (
            10,
            "PutMember operation: segment of 8 clusters cannot lie",
            40,
            &[0, 0xf0, 255, 255, 255, 255, 255, 255],
        ),
        (11, "Settled operation: member 16 is not below 16", 8, &[16]),
        (11, "Settled operation: reserved bytes at 10 are not zero: byte 5", 15, &[1]),
        (11, "Settled operation: LSN is zero", 16, &[0]),
    ];
    for (which, expected, at, patch) in cases {
        let mut bytes = encode(&one_of_each()[which], 64);
        bytes[at..at + patch.len()].copy_from_slice(patch);
        assert_refused(&bytes, 64, expected);
    }
}

fn assert_refused(bytes: &[u8], blocks: u16, expected: &str) {
    let error = decode_all(bytes, blocks).expect_err(expected).to_string();
    assert!(error.starts_with(expected), "{error}, not {expected}");
}

#[test]
fn hostile_fragments_are_refused() {
    let cases: [(&str, usize, &[u8]); 19] = [
        ("logical cluster 8 does not follow 8", 22, &[4]),
        ("logical cluster 4 does not follow 6", 24, &[4]),
        ("logical cluster 8 does not follow 10", 48, &[8]),
        ("item count 2 is not allowed for kind 4", 62, &[2]),
        ("item count 2 is not allowed for kind 5", 118, &[2]),
        ("reserved byte at 5 of an item", 53, &[1]),
        ("cluster 536870912 is not below", 32, &[0, 0, 0, 0x20]),
        ("cluster 4294967295 is not below", 32, &[0xff; 4]),
        ("padding of an item are not zero: byte 3", 47, &[1]),
        ("cluster 4294967295 is not below", 64, &[0xff; 4]),
        ("reserved bytes at 12 of an item are not zero: byte 0", 68, &[1]),
        ("valid bitmap has bits beyond the 16 of a cluster", 74, &[1]),
        ("valid bitmap has bits beyond the 16 of a cluster", 79, &[0x80]),
        ("cluster 536870912 is not below", 88, &[0, 0, 0, 0x20]),
        ("valid bitmap is not empty, and there is no cluster", 88, &[0xff; 4]),
        ("valid bitmap has bits beyond the 16 of a cluster", 98, &[1]),
        ("opaque bitmap has bits beyond the 16 of a cluster", 106, &[1]),
        ("opaque bitmap has bits beyond the 16 of a cluster", 143, &[0x80]),
        ("opaque bitmap needs 8 bytes and only 0", 4, &[136]),
    ];
    for (expected, at, patch) in cases {
        let mut bytes = encode(&fragments(), 16);
        bytes[at..at + patch.len()].copy_from_slice(patch);
        let bytes = &bytes[..usize::from(bytes[4])];
        assert_refused(bytes, 16, &format!("Fragments operation: {expected}"));
    }
}

#[test]
fn hostile_objects_are_refused() {
    let volume_cases: [(&str, usize, &[u8]); 16] = [
        ("id is zero", 8, &[0; 8]),
        ("flags 0x1d are not all known", 36, &[0x1d]),
        ("size 0 is not between", 40, &[0; 8]),
        ("size 219919234304 is not a multiple of 512", 41, &[0x35]),
        ("size 18446744073709551104 is not between", 40, &[0, 254, 255, 255, 255, 255, 255, 255]),
        ("logical block size 0 is neither", 49, &[0]),
        ("logical block size 1024 is neither", 49, &[4]),
        ("CNTLID minimum 34433 is above 33923", 117, &[0x86]),
        ("members 0x19291 name one above 16", 122, &[1]),
        ("name \"\\xffol\" is not UTF-8", 178, &[0xff]),
        ("name needs 65535 bytes", 176, &[255, 255]),
        ("subsystem NQN \"nqn.\\x80\" is not", 187, &[0x80]),
        ("hosts are 65, and 64 is the most", 188, &[65]),
        ("host NQN needs 26989 bytes", 190, b"mi"),
        ("label key \"\\xff\" is not UTF-8", 209, &[255]),
        ("padding bytes are not zero: byte 3", 223, &[1]),
    ];
    for (expected, at, patch) in volume_cases {
        let mut bytes = encode(&Op::PutVolume(Box::new(volume())), 64);
        bytes[at..at + patch.len()].copy_from_slice(patch);
        assert_refused(&bytes, 64, &format!("PutVolume operation: {expected}"));
    }
    let snapshot_cases: [(&str, usize, &[u8]); 7] = [
        ("id is zero", 8, &[0; 8]),
        ("volume is zero", 32, &[0; 8]),
        ("layer is zero", 40, &[0; 4]),
        ("reserved bytes at 44 are not zero: byte 3", 47, &[1]),
        ("size 0 is not between", 48, &[0; 8]),
        ("name \"sn\\xc3\" is not UTF-8", 64, &[3]),
        ("label value needs 257 bytes", 77, &[1]),
    ];
    for (expected, at, patch) in snapshot_cases {
        let mut bytes = encode(&Op::PutSnapshot(Box::new(snapshot())), 64);
        bytes[at..at + patch.len()].copy_from_slice(patch);
        assert_refused(&bytes, 64, &format!("PutSnapshot operation: {expected}"));
    }
}

/// An operation with a body that the encoder itself would assert against.
fn unchecked(kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    body(&mut bytes);
    pad(&mut bytes, 0);
    let length = u32::try_from(bytes.len()).expect("short");
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes
}

#[test]
fn names_have_1_to_63_bytes() {
    for (length, allowed) in [(0, false), (1, true), (63, true), (64, false)] {
        let name = "n".repeat(length);
        let record = VolumeRecord { name: name.clone(), ..volume() };
        assert_eq!(record.check(64).is_ok(), allowed, "{length}");
        let bytes = unchecked(6, |out| record.encode(out));
        assert_eq!(decode_all(&bytes, 64).is_ok(), allowed, "{length}");
        let record = SnapshotRecord { name, ..snapshot() };
        assert_eq!(record.check(64).is_ok(), allowed, "{length}");
        let bytes = unchecked(8, |out| record.encode(out));
        assert_eq!(decode_all(&bytes, 64).is_ok(), allowed, "{length}");
    }
}

#[test]
fn lists_and_strings_of_objects_are_bounded() {
    let labels = |count: usize, length: usize| -> Vec<(String, String)> {
        (0..count).map(|i| (format!("{i}"), "v".repeat(length))).collect()
    };
    let hosts = |count, length| vec!["h".repeat(length); count];
    let with_labels = |labels| VolumeRecord { labels, ..volume() };
    let with_hosts = |hosts| VolumeRecord { hosts, ..volume() };
    let with_nqn = |length| {
        let subsystem_nqn = "n".repeat(length);
        VolumeRecord { identity: Identity { subsystem_nqn, ..volume().identity }, ..volume() }
    };
    let twice = vec![("k".to_owned(), "1".to_owned()), ("k".to_owned(), "2".to_owned())];
    let keyless = vec![(String::new(), "1".to_owned())];
    for (record, expected) in [
        (with_labels(labels(64, 1)), None),
        (with_labels(labels(65, 1)), Some("labels are 65, and 64 is the most")),
        (with_labels(twice), Some("label key \"k\" occurs twice")),
        (with_labels(keyless), Some("label key has 0 bytes")),
        (with_labels(labels(64, 520)), Some("length 3")),
        (with_labels(labels(1, 32 << 10)), Some("length 3")),
        (with_labels(labels(1, 40_000)), Some("label value has 40000 bytes")),
        (with_hosts(hosts(64, 223)), None),
        (with_hosts(hosts(65, 1)), Some("hosts are 65, and 64 is the most")),
        (with_hosts(hosts(1, 224)), Some("host NQN has 224 bytes")),
        (with_hosts(hosts(1, 0)), Some("host NQN has 0 bytes")),
        (with_nqn(223), None),
        (with_nqn(0), None),
        (with_nqn(224), Some("subsystem NQN has 224 bytes")),
    ] {
        let checked = record.check(64).map_err(|error| error.to_string());
        match (checked, expected) {
            (Ok(()), None) => {
                let op = Op::PutVolume(Box::new(record));
                assert_eq!(decode_all(&encode(&op, 64), 64), Ok(vec![op]));
            }
            (Err(error), Some(expected)) => {
                let rest = error.strip_prefix("PutVolume operation: ").expect("named");
                assert!(rest.starts_with(expected), "{error}, not {expected}");
                assert_refused(
                    &unchecked(6, |out| record.encode(out)),
                    64,
                    "PutVolume operation: ",
                );
            }
            (checked, expected) => panic!("{checked:?}, not {expected:?}"),
        }
    }
}

#[test]
fn an_object_of_32_kib_is_the_longest() {
    let record = |length| PoolRecord {
        labels: vec![("k".to_owned(), "v".repeat(length))],
        ..PoolRecord::default()
    };
    let rest = 8 + 8 + 2 + 3 + 2;
    let longest = Op::PutPool(record(OBJECT_MAX - rest));
    assert_eq!(longest.encoded_len(16), OBJECT_MAX);
    assert_eq!(decode_all(&encode(&longest, 16), 16), Ok(vec![longest]));
    let error = record(OBJECT_MAX - rest + 1).check().expect_err("one byte more").to_string();
    assert_eq!(error, "PutPool operation: length 32776 is above 32768 bytes");
}

#[test]
fn ranges_may_end_exactly_at_their_limits() {
    let blocks_most = LOGICAL_CLUSTERS_MAX * 64;
    let unmap =
        |first_block| Op::Unmap { layer: LayerId(1), opaque: false, first_block, blocks: 5 };
    assert_eq!(unmap(blocks_most - 5).check(64), Ok(()));
    assert!(unmap(blocks_most - 4).check(64).is_err());

    let wide =
        |first_block, blocks| Op::Unmap { layer: LayerId(1), opaque: true, first_block, blocks };
    assert_eq!(wide(64, 1024 * 64).check(64), Ok(()));
    assert!(wide(63, 1024 * 64).check(64).is_err(), "it touches 1025 logical clusters");
    assert!(wide(64, 1024 * 64 + 1).check(64).is_err());

    let map = |first| Op::Map {
        layer: LayerId(1),
        at: LogicalCluster(u32::MAX - 1),
        cluster: ClusterNo(CLUSTERS_MAX - 1),
        first,
        proofs: vec![0; 5],
    };
    assert_eq!(map(59).check(64), Ok(()));
    assert!(map(60).check(64).is_err());

    let member = |first| Op::PutMember {
        member: MemberIndex(15),
        segments: vec![Segment { first: ClusterNo(first), clusters: 5, offset: ByteOffset(0) }],
    };
    assert_eq!(member(CLUSTERS_MAX - 5).check(64), Ok(()));
    assert!(member(CLUSTERS_MAX - 4).check(64).is_err());

    for (size, allowed) in [(blocks_most * 4096, true), (blocks_most * 4096 + 512, false)] {
        let size = ByteCount(size);
        assert_eq!(VolumeRecord { size, ..volume() }.check(64).is_ok(), allowed);
        assert_eq!(SnapshotRecord { size, ..snapshot() }.check(64).is_ok(), allowed);
    }
}

#[test]
fn a_member_may_have_as_many_segments_as_fit_32_kib() {
    let op = |count| Op::PutMember {
        member: MemberIndex(0),
        segments: vec![Segment { first: ClusterNo(1), clusters: 1, offset: ByteOffset(0) }; count],
    };
    assert_eq!(op(SEGMENTS_MAX).encoded_len(16), OBJECT_MAX);
    assert_eq!(decode_all(&encode(&op(SEGMENTS_MAX), 16), 16), Ok(vec![op(SEGMENTS_MAX)]));
    assert!(op(SEGMENTS_MAX + 1).check(16).is_err());
    assert_eq!(decode_all(&encode(&op(0), 16), 16), Ok(vec![op(0)]));
}

/// An operation of runs of absent fragments, of these lengths.
fn runs(lengths: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let count = u32::try_from(lengths.len()).expect("few");
    put(&mut bytes, &[U32::new(3), U32::new(16 + 8 * count), U32::new(1), U32::new(count)]);
    let mut at = 0;
    for &length in lengths {
        put(&mut bytes, &[U32::new(at), U32::new(1 | u32::from(length) << 16)]);
        at += u32::from(length);
    }
    bytes
}

#[test]
fn a_hostile_count_of_fragments_is_refused_before_it_is_expanded() {
    let mut lengths = vec![4000, 96];
    let most = runs(&lengths);
    let ops = decode_all(&most, 16).expect("as many as are allowed");
    let [Op::Fragments { items, .. }] = &ops[..] else { panic!("{ops:?}") };
    assert_eq!(items.len(), FRAGMENTS_MAX);
    assert_eq!(decode_all(&encode(&ops[0], 16), 16).as_ref(), Ok(&ops));

    lengths.push(1);
    assert_refused(&runs(&lengths), 16, "Fragments operation: fragments are 4097 at least");
    assert_refused(&runs(&[u16::MAX]), 16, "Fragments operation: fragments are 65535 at least");

    let two = [most, runs(&[1])].concat();
    assert_refused(&two, 16, "Fragments operation: fragments are 1 at least, and 0 is the most");
    assert_eq!(Decoder::new(&two, 16).filter(Result::is_ok).count(), 2);
}

#[test]
fn runs_are_cut_where_the_sequence_ends() {
    let absent = |range: std::ops::Range<u32>| {
        range.map(|at| (LogicalCluster(at), Fragment::ABSENT)).collect::<Vec<_>>()
    };
    let op = |items| Op::Fragments { layer: LayerId(1), items };
    for (items, runs) in [
        (absent(0..4096), 1),
        ([absent(0..2), absent(3..4)].concat(), 2),
        (absent(u32::MAX - 2..u32::MAX), 1),
        (Vec::new(), 0),
    ] {
        let op = op(items);
        let bytes = encode(&op, 16);
        assert_eq!(bytes.len(), 16 + runs * 8);
        assert_eq!(decode_all(&bytes, 16), Ok(vec![op]));
    }
}

#[test]
fn a_fragment_whose_only_write_failed_survives() {
    let items = vec![(LogicalCluster(3), fragment(Some(4), &[], &[]))];
    let op = Op::Fragments { layer: LayerId(1), items };
    let bytes = encode(&op, 16);
    assert_eq!(bytes[20], 4, "partly valid");
    assert_eq!(decode_all(&bytes, 16), Ok(vec![op]));
}

#[test]
fn every_truncation_is_refused() {
    for op in one_of_each() {
        let bytes = encode(&op, 64);
        for length in 1..bytes.len() {
            assert!(decode_all(&bytes[..length], 64).is_err(), "{length} bytes of {op:?}");
        }
    }
}

#[test]
fn the_decoder_stops_at_the_first_malformed_operation_and_says_where() {
    let mut bytes = encode(&map(), 64);
    bytes.extend([0; 8]);
    bytes.extend(encode(&map(), 64));
    let mut decoder = Decoder::new(&bytes, 64);
    assert_eq!(decoder.next(), Some(Ok(map())));
    assert_eq!(decoder.position(), 40);
    assert!(decoder.next().is_some_and(|op| op.is_err()));
    assert_eq!(decoder.position(), 40);
    assert_eq!(decoder.next(), None);
}

#[test]
#[should_panic(expected = "no cluster has 48 blocks")]
fn decoding_for_an_impossible_cluster_size_is_a_bug() {
    Decoder::new(&[], 48);
}

#[test]
#[should_panic(expected = "could not be read again: Map operation: blocks 0 from 0")]
fn an_operation_that_could_not_be_read_again_is_not_encoded() {
    let (layer, at, cluster) = (LayerId(1), LogicalCluster(0), ClusterNo(0));
    encode(&Op::Map { layer, at, cluster, first: 0, proofs: Vec::new() }, 16);
}

fn layers() -> impl Strategy<Value = LayerId> {
    (1..=u32::MAX).prop_map(LayerId)
}

fn texts(most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec("[a-z.ä€]", 1..=most / 3).prop_map(|parts| parts.concat())
}

fn label_lists() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map(texts(30), "[ -~]{0,40}", 0..8)
        .prop_map(|map| map.into_iter().collect())
}

fn block_sets(blocks: u16) -> impl Strategy<Value = BlockSet> {
    let words = usize::from(blocks).div_ceil(64);
    let mask = if blocks < 64 { (1 << blocks) - 1 } else { u64::MAX };
    prop_oneof![
        Just(BlockSet::EMPTY),
        Just(BlockSet::full(blocks)),
        prop::collection::vec(any::<u64>().prop_map(move |word| word & mask), words)
            .prop_map(|words| BlockSet::from_words(&words)),
    ]
}

fn fragment_items(blocks: u16) -> impl Strategy<Value = Vec<(LogicalCluster, Fragment)>> {
    let fragment = (prop::option::of(0..CLUSTERS_MAX), block_sets(blocks), block_sets(blocks))
        .prop_map(|(cluster, valid, opaque)| Fragment {
            cluster: cluster.map(ClusterNo),
            valid: if cluster.is_some() { valid } else { BlockSet::EMPTY },
            opaque,
        });
    let runs = prop::collection::vec((0..3u32, fragment, 1..20u32), 0..20);
    (0..1u32 << 30, runs).prop_map(|(mut at, runs)| {
        let mut items = Vec::new();
        for (gap, fragment, length) in runs {
            at += gap;
            items.extend((at..at + length).map(|at| (LogicalCluster(at), fragment)));
            at += length;
        }
        items
    })
}

prop_compose! {
    fn volumes(blocks: u16)(
        ids in (1..=u64::MAX, any::<u128>(), any::<u128>(), any::<u32>()),
        tip in prop::option::of(layers()),
        flags: (bool, bool, bool, bool),
        size in 1..=u64::from(u32::MAX) * u64::from(blocks),
        logical_block_size in prop::sample::select(vec![512, 4096]),
        created_ns: u64,
        nguid: [u8; 16],
        serial: [u8; 20],
        cntlid: (u16, u16),
        members: u16,
        limits: (u32, [u64; 3], [u64; 3]),
        texts in (texts(63), texts(223), prop::collection::vec(texts(223), 0..5)),
        labels in label_lists(),
    ) -> VolumeRecord {
        let rates = |[all, read, write]: [u64; 3]| Rates { all, read, write };
        VolumeRecord {
            id: ObjectId(ids.0),
            uuid: Uuid::from_u128(ids.1),
            tip,
            flags: VolumeFlags {
                thick: flags.0,
                write_cache_off: flags.1,
                exported: flags.2,
                any_host: flags.3,
            },
            size: ByteCount(size * 4096),
            logical_block_size,
            created_ns,
            identity: Identity {
                subsystem_nqn: texts.1,
                serial,
                nsid: ids.3,
                nguid,
                uuid: Uuid::from_u128(ids.2),
            },
            cntlid_min: cntlid.0.min(cntlid.1),
            cntlid_max: cntlid.0.max(cntlid.1),
            members,
            limits: QosLimits {
                burst_s: limits.0,
                iops: rates(limits.1),
                bandwidth: rates(limits.2),
            },
            name: texts.0,
            hosts: texts.2,
            labels,
        }
    }
}

prop_compose! {
    fn snapshots(blocks: u16)(
        id in 1..=u64::MAX,
        uuid: u128,
        volume in 1..=u64::MAX,
        layer in layers(),
        size in 1..=u64::from(u32::MAX) * u64::from(blocks) * 4096,
        created_ns: u64,
        name in texts(63),
        labels in label_lists(),
    ) -> SnapshotRecord {
        SnapshotRecord {
            id: ObjectId(id),
            uuid: Uuid::from_u128(uuid),
            volume: ObjectId(volume),
            layer,
            size: ByteCount(size),
            created_ns,
            name,
            labels,
        }
    }
}

fn maps(blocks: u16) -> impl Strategy<Value = Op> {
    let proofs = prop::collection::vec(any::<u64>(), 1..=usize::from(blocks).min(40));
    (layers(), 0..u32::MAX, 0..CLUSTERS_MAX, any::<u16>(), proofs).prop_map(
        move |(layer, at, cluster, first, proofs)| {
            let count = u16::try_from(proofs.len()).expect("at most 40");
            let first = first % (blocks - count + 1);
            Op::Map { layer, at: LogicalCluster(at), cluster: ClusterNo(cluster), first, proofs }
        },
    )
}

fn member_ops() -> impl Strategy<Value = Op> {
    let segment = (0..CLUSTERS_MAX / 2, 1..=CLUSTERS_MAX / 2, 0..1u64 << 50);
    let segment = segment.prop_map(|(first, clusters, block)| Segment {
        first: ClusterNo(first),
        clusters,
        offset: ByteOffset(block * 4096),
    });
    (0..16u16, prop::collection::vec(segment, 0..8))
        .prop_map(|(member, segments)| Op::PutMember { member: MemberIndex(member), segments })
}

fn ops(blocks: u16) -> impl Strategy<Value = Op> {
    let volume_end = u64::from(u32::MAX) * u64::from(blocks);
    let wide = 1023 * u64::from(blocks);
    let unmap = (layers(), any::<bool>(), 0..volume_end, 1..=wide).prop_map(
        move |(layer, opaque, first_block, blocks)| {
            let blocks = blocks.min(volume_end - first_block);
            Op::Unmap { layer, opaque, first_block, blocks }
        },
    );
    let put_layer = (layers(), prop::option::of(layers())).prop_map(|(layer, parent)| {
        Op::PutLayer { layer, parent: parent.filter(|&parent| parent != layer) }
    });
    let pool = (any::<u32>(), 0..=100u16, 0..=100u16, label_lists()).prop_map(
        |(overcommit_percent, watermark_low_percent, watermark_high_percent, labels)| {
            Op::PutPool(PoolRecord {
                overcommit_percent,
                watermark_low_percent,
                watermark_high_percent,
                labels,
            })
        },
    );
    prop_oneof![
        maps(blocks),
        unmap,
        (layers(), fragment_items(blocks))
            .prop_map(|(layer, items)| Op::Fragments { layer, items }),
        put_layer,
        layers().prop_map(|layer| Op::DropLayer { layer }),
        volumes(blocks).prop_map(|record| Op::PutVolume(Box::new(record))),
        (1..=u64::MAX).prop_map(|id| Op::DropVolume { volume: ObjectId(id) }),
        snapshots(blocks).prop_map(|record| Op::PutSnapshot(Box::new(record))),
        (1..=u64::MAX).prop_map(|id| Op::DropSnapshot { snapshot: ObjectId(id) }),
        pool,
        member_ops(),
        (0..16u16, 1..=u64::MAX)
            .prop_map(|(member, lsn)| Op::Settled { member: MemberIndex(member), lsn: Lsn(lsn) }),
    ]
}

/// A number of blocks in a cluster, and operations for it.
fn op_lists() -> impl Strategy<Value = (u16, Vec<Op>)> {
    prop::sample::select(SIZES.to_vec())
        .prop_flat_map(|blocks| (Just(blocks), prop::collection::vec(ops(blocks), 0..12)))
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded((blocks, ops) in op_lists()) {
        let mut bytes = Vec::new();
        for op in &ops {
            let start = bytes.len();
            op.encode(blocks, &mut bytes);
            prop_assert_eq!(bytes.len() - start, op.encoded_len(blocks));
        }
        prop_assert_eq!(decode_all(&bytes, blocks), Ok(ops.clone()));
        let drawn: Result<Vec<Op>, _> = Decoder::new(&bytes, blocks).collect();
        prop_assert_eq!(drawn, Ok(ops));
    }

    #[test]
    fn damaged_operations_never_panic_and_what_decodes_encodes_again(
        (blocks, ops) in op_lists(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = Vec::new();
        ops.iter().for_each(|op| op.encode(blocks, &mut bytes));
        for (place, value) in changes {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
        }
        for op in Decoder::new(&bytes, blocks).flatten() {
            let again = encode(&op, blocks);
            prop_assert_eq!(decode_all(&again, blocks), Ok(vec![op]));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        blocks in prop::sample::select(SIZES.to_vec()),
        kind in 0..14u8,
    ) {
        let _ = decode_all(&bytes, blocks);
        bytes.truncate(bytes.len() & !7);
        if bytes.len() >= 8 {
            let length = u32::try_from(bytes.len()).expect("short");
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[4..8].copy_from_slice(&length.to_le_bytes());
            let _ = decode_all(&bytes, blocks);
        }
    }
}
