//! Tests of the label: the exact bytes, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::format::bytes_at;

const MIB: u64 = 1 << 20;

fn uuid(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}

fn extent(offset: u64, length: u64) -> Extent {
    Extent { offset, length }
}

fn label() -> Label {
    let mut feature_extents = [None; FEATURE_EXTENTS_MAX];
    feature_extents[2] = Some(FeatureExtent {
        feature: 0x0403_0201,
        member: 0x0605,
        offset: 0x1817_1615_1413_1211,
        length: 0x2827_2625_2423_2221,
    });
    Label {
        generation: 0x0807_0605_0403_0201,
        incarnation: 0x1817_1615_1413_1211,
        pool: Uuid::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
        member: uuid(0xa1),
        index: MemberIndex(1),
        features: Features {
            compatible: 0x3837_3635_3433_3231,
            read_only_compatible: 0x4847_4645_4443_4240,
            incompatible: 0x5857_5655_5453_5250,
        },
        cluster_size: ClusterSize::new(256 << 10).expect("256 KiB is a cluster size"),
        member_size: 0x6867_6665,
        created_ns: 0x7877_7675_7473_7271,
        name: "pool-ü".to_owned(),
        slot_a: vec![extent(MIB, 0x1000), extent(0x20_1000, 0x2000)],
        slot_b: vec![extent(0x30_0000, 0x3000)],
        log: vec![extent(0x40_0000, 0x4000), extent(0x50_0000, 0x5000), extent(0x61_0000, 0x6000)],
        members: vec![
            LabelMember {
                uuid: uuid(0xb1),
                size: 0x8887_8685_8483_8281,
                role: MemberRole::Data,
                state: MemberState::Stale { since: 0x9897_9695_9493_9291 },
            },
            LabelMember {
                uuid: uuid(0xa1),
                size: 0x6867_6665,
                role: MemberRole::DataAndMetadata,
                state: MemberState::InSync,
            },
        ],
        feature_extents,
    }
}

/// [`label`] without incompatible features, so that errors name what they find.
fn plain() -> Label {
    Label { features: Features::default(), ..label() }
}

fn reseal(bytes: &mut [u8; LABEL_SIZE]) {
    let pool = Uuid::from_slice(&bytes[40..56]).expect("16 bytes");
    checksum::seal(Seed::of_pool(pool), bytes, CHECKSUM_AT);
}

#[test]
fn a_label_has_the_bytes_of_section_2_1() {
    let mut bytes = label().encode();
    let seed = Seed::of_pool(label().pool);
    assert_eq!(checksum::stated(&bytes, 16), checksum::compute(seed, &bytes, 16));
    bytes[16..24].fill(0);
    let expected = bytes_at(
        4096,
        &[
            (0, b"FATHOMLV"),
            (8, &[1, 0, 0, 0]),
            (12, &[0, 0x10, 0, 0]),
            (24, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (32, &[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]),
            (40, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
            (56, &[0xa1; 16]),
            (72, &[1, 0]),
            (74, &[2, 0]),
            (80, &[0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]),
            (88, &[0x40, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48]),
            (96, &[0x50, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58]),
            (104, &[0, 0, 4, 0]),
            (108, &[0, 0x10, 0, 0]),
            (112, &[0x65, 0x66, 0x67, 0x68, 0, 0, 0, 0]),
            (120, &[0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78]),
            (128, "pool-ü".as_bytes()),
            (192, &[0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]),
            (208, &[0, 0x10, 0x20, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0]),
            (320, &[0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0]),
            (448, &[0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0]),
            (464, &[0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0]),
            (480, &[0, 0, 0x61, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0, 0, 0, 0]),
            (576, &[0xb1; 16]),
            (592, &[0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88]),
            (600, &[1]),
            (601, &[2]),
            (608, &[0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98]),
            (624, &[0xa1; 16]),
            (640, &[0x65, 0x66, 0x67, 0x68, 0, 0, 0, 0]),
            (648, &[2]),
            (649, &[1]),
            (1392, &[1, 2, 3, 4]),
            (1396, &[5, 6]),
            (1400, &[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]),
            (1408, &[0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]),
        ],
    );
    assert_eq!(bytes[..], expected);
    assert_eq!(Label::decode(&label().encode()), Ok(label()));
}

#[test]
fn copies_lie_at_the_start_at_512_kib_and_in_the_last_whole_block() {
    assert_eq!(label_offsets(8 * MIB), [0, 512 << 10, 8 * MIB - 4096]);
    assert_eq!(label_offsets(8 * MIB + 4095), [0, 512 << 10, 8 * MIB - 4096]);
    assert_eq!(label_offsets(8 * MIB + 4096), [0, 512 << 10, 8 * MIB]);
    assert_eq!(label_offsets(MEMBER_SIZE_MIN), [0, 512 << 10, MIB]);
    for small in [0, 1, 4095, 4096] {
        assert_eq!(label_offsets(small), [0, 512 << 10, 0]);
    }
    assert_eq!(label_offsets(u64::MAX)[2], u64::MAX - 8191);
}

#[test]
fn a_foreign_disk_is_told_from_a_damaged_label() {
    for foreign in [[0; LABEL_SIZE], [0xff; LABEL_SIZE]] {
        let error = Label::decode(&foreign).expect_err("no label");
        assert!(matches!(error, Malformed::NotALabel { .. }), "{error}");
    }
    let mut bytes = [0; LABEL_SIZE];
    bytes[..8].copy_from_slice(b"LABELONE");
    let error = Label::decode(&bytes).expect_err("no label");
    assert_eq!(
        error.to_string(),
        "not a label: it begins with \"LABELONE\" and not with \"FATHOMLV\""
    );
    let mut bytes = label().encode();
    bytes[700] ^= 1;
    let error = Label::decode(&bytes).expect_err("damaged");
    assert!(matches!(error, Malformed::Checksum { structure: "label", .. }), "{error}");
}

#[test]
fn unknown_versions_are_refused_by_number_whatever_their_checksum() {
    for version in [0u32, 2, 0x0102_0304] {
        let mut bytes = label().encode();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let expected = Malformed::Version { structure: "label", found: version };
        assert_eq!(Label::decode(&bytes), Err(expected));
    }
}

#[test]
fn features_are_carried_and_the_first_unknown_one_is_named() {
    let decoded = Label::decode(&label().encode()).expect("features are no damage");
    assert_eq!(decoded.features, label().features);
    assert_eq!(decoded.refusal(), Some(4));
    assert_eq!(decoded.read_only(), Some(6));
    let decoded = Label::decode(&plain().encode()).expect("it is sealed");
    assert_eq!((decoded.refusal(), decoded.read_only()), (None, None));
}

#[test]
fn a_label_that_a_feature_made_unreadable_is_refused_by_the_feature() {
    let mut bytes = label().encode();
    bytes[1728] = 1;
    reseal(&mut bytes);
    assert_eq!(Label::decode(&bytes), Err(Malformed::Feature { bit: 4 }));
}

#[test]
fn every_single_bit_flip_is_detected() {
    let mut bytes = label().encode();
    for bit in 0..LABEL_SIZE * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Label::decode(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Label::decode(&bytes).is_ok());
}

#[test]
fn only_4096_bytes_are_a_label() {
    let mut bytes = label().encode().to_vec();
    for length in [0, 1, 512, 4095] {
        let error = Label::decode(&bytes[..length]).expect_err("too short").to_string();
        assert_eq!(error, format!("label: length {length} is not 4096"));
    }
    bytes.push(0);
    assert!(Label::decode(&bytes).is_err());
}

#[test]
fn hostile_fields_are_refused_even_with_a_right_checksum() {
    let cases: [(&str, usize, &[u8]); 46] = [
        ("length 8192 is not 4096", 13, &[0x20]),
        ("pool UUID is zero", 40, &[0; 16]),
        ("member UUID a2a1", 56, &[0xa2]),
        ("member index 2 is not below the number of members, 2", 72, &[2]),
        ("member UUID a1a1a1a1", 72, &[0]),
        ("number of members 0 is not", 74, &[0]),
        ("number of members 17 is not", 74, &[17]),
        ("unused member table entries are not zero: byte 0", 74, &[1]),
        ("member table has UUID zero at 1", 624, &[0; 16]),
        ("reserved bytes at 76 are not zero: byte 3", 79, &[1]),
        (
            "cluster size 3000 is not a power of two between 64 KiB and 4 MiB",
            104,
            &[0xb8, 0x0b, 0, 0],
        ),
        ("cluster size 32768 is not", 104, &[0, 0x80, 0, 0]),
        ("cluster size 8388608 is not", 104, &[0, 0, 0x80, 0]),
        ("cluster size 0 is not", 104, &[0, 0, 0, 0]),
        ("block size 512 is not 4096", 108, &[0, 2]),
        ("member size 1052671 is below 1052672", 112, &[0xff, 0x0f, 0x10, 0]),
        ("member size 1751606886 is not that of the member table, 1751606885", 112, &[0x66]),
        ("pool name has 0 bytes", 128, &[0; 8]),
        ("bytes after the pool name are not zero", 128, &[0]),
        ("bytes after the pool name are not zero: byte 56", 191, &[1]),
        ("pool name has 64 bytes", 128, &[b'x'; 64]),
        ("pool name \"\\xffool-\\xc3\\xbc\" is not UTF-8", 128, &[0xff]),
        ("slot A extent of 4096 bytes at 0 does", 194, &[0]),
        ("slot A extent at 1048576 overlaps the one at 1048576", 209, &[0, 0x10]),
        ("slot A extent of 4096 bytes at 1048577 does", 192, &[1]),
        ("slot A extent of 4097 bytes at 1048576 does", 200, &[1]),
        ("slot A extent of 0 bytes at 1048576 does", 201, &[0]),
        ("slot A has an extent after the unused one at 0", 192, &[0; 16]),
        ("slot A has an extent after the unused one at 2", 319, &[1]),
        ("slot B has no extents on a metadata member", 320, &[0; 16]),
        ("slot B extent at 2105344 overlaps the one at 2101248", 321, &[0x20, 0x20]),
        (
            "slot B extent of 18446744073709539328 bytes",
            328,
            &[0, 0xd0, 255, 255, 255, 255, 255, 255],
        ),
        ("log extent of 16384 bytes at 1751597056 does", 448, &[0, 0x40, 0x67, 0x68]),
        ("slot A has extents on a member without metadata", 648, &[1]),
        ("member role 0 is not known", 648, &[0]),
        ("member role 3 is not known", 648, &[3]),
        ("member state 0 is not known", 649, &[0]),
        ("member state 6 is not known", 649, &[6]),
        (
            "member table has a member lost that has metadata, or since incarnation 0 at 1",
            649,
            &[5],
        ),
        ("member state is 1, but stale since incarnation 1", 656, &[1]),
        (
            "member table has a member joining without metadata at 0",
            601,
            &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            "member table has a member proposed where that says nothing at 0",
            601,
            &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        ("member table has a member stale since incarnation 0 at 0", 608, &[0; 8]),
        ("reserved bytes at 26 of a member are not zero: byte 5", 607, &[1]),
        ("reserved bytes at 40 of a member are not zero: byte 7", 623, &[1]),
        ("member table names a1a1a1a1", 576, &[0xa1; 16]),
    ];
    for (expected, at, patch) in cases {
        let mut bytes = plain().encode();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        reseal(&mut bytes);
        let error = Label::decode(&bytes).expect_err(expected).to_string();
        let rest = error.strip_prefix("label: ").expect("errors name the structure");
        assert!(rest.starts_with(expected), "{error}, not {expected}");
    }
}

#[test]
fn hostile_table_entries_are_refused() {
    let cases: [(&str, usize, &[u8]); 4] = [
        ("label: member table has a member of 4096 bytes", 592, &[0, 0x10, 0, 0, 0, 0, 0, 0]),
        ("label: bytes of an unused feature extent are not zero: byte 4", 1348, &[1]),
        ("label: reserved bytes of a feature extent are not zero: byte 1", 1399, &[1]),
        ("label: reserved bytes at 1728 are not zero: byte 2367", 4095, &[1]),
    ];
    for (expected, at, patch) in cases {
        let mut bytes = plain().encode();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        reseal(&mut bytes);
        let error = Label::decode(&bytes).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}, not {expected}");
    }
}

#[test]
fn only_the_last_member_proposes_itself() {
    let proposed = |index: usize| {
        let mut label = label();
        label.members[index].state = MemberState::Proposed;
        label
    };
    let label = proposed(1);
    assert_eq!(Label::decode(&label.encode()), Ok(label.clone()));
    assert!(proposed(0).check().is_err());
    let third = LabelMember { uuid: uuid(0xc1), state: MemberState::InSync, ..label.members[1] };
    let mut followed = label;
    followed.members.push(third);
    assert!(followed.check().is_err());
}

#[test]
fn extents_lie_between_the_label_copies() {
    let end = label_offsets(label().member_size)[2];
    for (extent, allowed) in [
        (extent(end - 4096, 4096), true),
        (extent(end - 4096, 8192), false),
        (extent(end, 4096), false),
        (extent(DATA_OFFSET - 4096, 4096), false),
        (extent(DATA_OFFSET + 4096, 4096), true),
    ] {
        let label = Label { log: vec![extent], ..label() };
        assert_eq!(label.check().is_ok(), allowed, "{extent:?}");
    }
}

#[test]
#[should_panic(expected = "could not be read again: label: pool name")]
fn a_label_that_could_not_be_read_again_is_not_encoded() {
    Label { name: "x".repeat(64), ..label() }.encode();
}

#[test]
fn values_that_the_bytes_cannot_hold_are_refused() {
    let extents = |count: u64| (0..count).map(|i| extent(0x100_0000 + i * 4096, 4096)).collect();
    assert_eq!(Label { slot_a: extents(8), ..label() }.check(), Ok(()));
    let mut many = label();
    many.members.extend((0..15).map(|i| LabelMember { uuid: uuid(i + 1), ..label().members[0] }));
    for refused in [
        Label { slot_a: extents(9), ..label() },
        Label { name: "a\0b".to_owned(), ..label() },
        Label { members: Vec::new(), ..label() },
        many,
    ] {
        assert!(refused.check().is_err(), "{refused:?}");
    }
}

prop_compose! {
    fn labels()(
        numbers: (u64, u64, u64),
        ids: (u64, u64),
        features: (u64, u64, u64),
        shift in 16..=22u32,
        blocks in 1024..(1u64 << 52) - 1,
        tail in 0..4096u64,
        name in "[a-zäß€ -~]{1,15}",
        members in prop::collection::vec((any::<u64>(), any::<bool>(), any::<u64>()), 1..=16),
        index: prop::sample::Index,
        counts in (1..=8u64, 1..=8u64, 1..=8u64),
        feature in prop::option::of((1..=u32::MAX, any::<u16>(), any::<u64>(), any::<u64>())),
        place in 0..FEATURE_EXTENTS_MAX,
    ) -> Label {
        let index = index.index(members.len());
        let mut members: Vec<LabelMember> = members
            .into_iter()
            .zip(1..)
            .map(|((size, metadata, stale), number)| LabelMember {
                uuid: Uuid::from_u64_pair(ids.0, number),
                size: size.max(MEMBER_SIZE_MIN),
                role: if metadata { MemberRole::DataAndMetadata } else { MemberRole::Data },
                state: match stale % 4 {
                    0 => MemberState::InSync,
                    1 if metadata => MemberState::Joining,
                    1 => MemberState::Lost { since: stale },
                    _ => MemberState::Stale { since: stale },
                },
            })
            .collect();
        let own = &mut members[index];
        own.size = blocks * 4096 + tail;
        let room = label_offsets(own.size)[2] - DATA_OFFSET;
        let metadata = own.role == MemberRole::DataAndMetadata && room >= 24 * 4096;
        if !metadata {
            own.role = MemberRole::Data;
        }
        let (member, member_size) = (own.uuid, own.size);
        let mut next = DATA_OFFSET;
        let mut extents = |count: u64| -> Vec<Extent> {
            (0..if metadata { count } else { 0 })
                .map(|_| {
                    next += 4096;
                    extent(next - 4096, 4096)
                })
                .collect()
        };
        let mut feature_extents = [None; FEATURE_EXTENTS_MAX];
        feature_extents[place] = feature.map(|(feature, member, offset, length)| {
            FeatureExtent { feature, member, offset, length }
        });
        Label {
            generation: numbers.0,
            incarnation: numbers.1,
            pool: Uuid::from_u64_pair(ids.1, 1),
            member,
            index: MemberIndex(u16::try_from(index).expect("below 16")),
            features: Features {
                compatible: features.0,
                read_only_compatible: features.1,
                incompatible: features.2,
            },
            cluster_size: ClusterSize::new(1 << shift).expect("a power of two in range"),
            member_size,
            created_ns: numbers.2,
            name,
            slot_a: extents(counts.0),
            slot_b: extents(counts.1),
            log: extents(counts.2),
            members,
            feature_extents,
        }
    }
}

proptest! {
    #[test]
    fn an_encoded_label_is_read_back(label in labels()) {
        prop_assert_eq!(Label::decode(&label.encode()), Ok(label));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), LABEL_SIZE),
        label in labels(),
        places in prop::collection::vec((0..1728usize, any::<u8>()), 0..8),
    ) {
        let _ = Label::decode(&bytes);
        bytes[..16].copy_from_slice(b"FATHOMLV\x01\0\0\0\0\x10\0\0");
        let mut bytes: [u8; LABEL_SIZE] = bytes.try_into().expect("the length of a label");
        reseal(&mut bytes);
        let _ = Label::decode(&bytes);

        let mut bytes = label.encode();
        for (place, value) in places {
            bytes[place] = value;
        }
        reseal(&mut bytes);
        if let Ok(label) = Label::decode(&bytes) {
            prop_assert_eq!(label.encode(), bytes);
        }
    }
}
