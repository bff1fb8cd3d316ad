//! Structures of Identify, byte by byte, and what is refused.

use fathom_units::{BlockCount, Cntlid, Nsid};
use proptest::prelude::*;

use super::*;
use crate::{Nqn, property::Version};

/// Whether `bytes` are zero but for these places.
fn only(bytes: &[u8; IDENTIFY_SIZE], golden: &[(usize, &[u8])]) {
    let mut expected = [0; IDENTIFY_SIZE];
    for (at, field) in golden {
        expected[*at..at + field.len()].copy_from_slice(field);
    }
    for (at, (found, expected)) in bytes.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "byte {at}");
    }
}

/// A structure that is all ones where `golden` has no say.
fn among_ones(golden: &[(usize, &[u8])]) -> [u8; IDENTIFY_SIZE] {
    let mut bytes = [0xFF; IDENTIFY_SIZE];
    for (at, field) in golden {
        bytes[*at..at + field.len()].copy_from_slice(field);
    }
    bytes
}

fn controller() -> IdentifyController {
    IdentifyController {
        vendor: 0x0201,
        subsystem_vendor: 0x0403,
        serial: Ascii::new("S1").expect("ASCII"),
        model: Ascii::new("Fathom").expect("ASCII"),
        firmware: Ascii::new("0.1.0").expect("ASCII"),
        arbitration_burst: 6,
        ieee_oui: [7, 8, 9],
        multi_path: MultiPath::CONTROLLERS | MultiPath::ANA,
        max_data_transfer: 8,
        controller: Cntlid(0x1234),
        version: Version::V2_1,
        events: AsyncEventsSupported::NAMESPACE_ATTRIBUTE | AsyncEventsSupported::ANA_CHANGE,
        attributes: ControllerAttributes::HOST_IDENTIFIER_128
            | ControllerAttributes::TRAFFIC_BASED_KEEP_ALIVE,
        controller_type: ControllerType::Io,
        retry_delays: [0x0102, 0x0304, 0x0506],
        admin_commands: AdminCommands::FORMAT,
        abort_limit: 4,
        event_request_limit: 256,
        firmware_updates: 0b11,
        log_pages: LogPageAttributes::COMMANDS_SUPPORTED | LogPageAttributes::EXTENDED_DATA,
        error_log_entries: 64,
        warning_temperature: 0x0157,
        critical_temperature: 0x0161,
        total_capacity: 0x0F0E_0D0C_0B0A_0908_0706_0504_0302_0100,
        unallocated_capacity: 5,
        keep_alive_granularity_ms: 10_000,
        ana_transition_s: 10,
        ana: AnaCapabilities::OPTIMIZED | AnaCapabilities::GROUP_IS_STABLE,
        ana_group_max: 0x0403_0201,
        ana_groups: 0x0807_0605,
        domain: 0x0A09,
        max_commands: 128,
        namespaces: 0x0400,
        io_commands: IoCommands::COMPARE
            | IoCommands::DATASET_MANAGEMENT
            | IoCommands::WRITE_ZEROES,
        fuses: Fuses::COMPARE_AND_WRITE,
        write_cache: WriteCache { present: true, flush_broadcast: 3 },
        atomic_write_normal: 65536,
        atomic_write_power_fail: 1,
        atomic_compare_write: 2,
        write_protection: 1,
        sgls: SglSupport::SUPPORTED | SglSupport::OFFSET | SglSupport::TRANSPORT,
        max_namespaces: 0x0401,
        subsystem: Nqn::new("nqn.2024-12.io.fathom:v").expect("a name"),
        io_capsule_bytes: 64 + 8192,
        io_response_bytes: 16,
        capsule_data_offset: 0,
        static_controllers: true,
        max_sgl_descriptors: 1,
        disconnect: true,
        discovery_type: 1,
    }
}

const CONTROLLER: &[(usize, &[u8])] = &[
    (0, &[1, 2, 3, 4]),
    (4, b"S1                  "),
    (24, b"Fathom                                  "),
    (64, b"0.1.0   "),
    (72, &[6, 7, 8, 9, 0b1010, 8, 0x34, 0x12, 0x00, 0x01, 0x02, 0x00]),
    (92, &[0x00, 0x09, 0x00, 0x00, 0x41, 0x00, 0x00, 0x00]),
    (111, &[1]),
    (128, &[2, 1, 4, 3, 6, 5]),
    (256, &[2, 0, 3, 255, 0b11, 0b110, 63, 0, 0, 0, 0x57, 0x01, 0x61, 0x01]),
    (280, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 5]),
    (320, &[100, 0]),
    (342, &[10, 0x41, 1, 2, 3, 4, 5, 6, 7, 8]),
    (356, &[9, 10]),
    (512, &[0x66, 0x44, 128, 0, 0, 4, 0, 0, 0b1101, 0, 1, 0, 0, 0b111, 0xFF, 0xFF, 0, 0]),
    (531, &[1, 1, 0]),
    (536, &[1, 0, 0x30, 0, 1, 4, 0, 0]),
    (768, b"nqn.2024-12.io.fathom:v"),
    (1792, &[4, 2, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1]),
];

#[test]
fn identify_controller_has_the_bytes_of_the_specification() {
    only(&controller().encode(), CONTROLLER);
    assert_eq!(IdentifyController::decode(&controller().encode()), Ok(controller()));
    // What no field of the value has may be anything.
    let mut rest = CONTROLLER.to_vec();
    rest.push((297, &[0; 15]));
    rest.push((791, &[0]));
    let decoded = IdentifyController::decode(&among_ones(&rest)).expect("what counts is there");
    assert_eq!(decoded, controller());
}

#[test]
fn each_flag_of_identify_controller_has_its_bit() {
    fn bit(at: usize, shift: u32, set: impl Fn(&mut IdentifyController)) {
        let mut value = controller();
        value.multi_path = MultiPath::empty();
        value.events = AsyncEventsSupported::empty();
        value.attributes = ControllerAttributes::empty();
        value.log_pages = LogPageAttributes::empty();
        value.ana = AnaCapabilities::empty();
        value.io_commands = IoCommands::empty();
        value.sgls = SglSupport::empty();
        let before = value.encode();
        set(&mut value);
        let after = value.encode();
        let changed: Vec<usize> =
            (0..IDENTIFY_SIZE).filter(|at| before[*at] != after[*at]).collect();
        let byte = at + shift as usize / 8;
        assert_eq!(changed, [byte], "bit {shift} from byte {at}");
        assert_eq!(after[byte], 1 << (shift % 8));
    }
    for (shift, flag) in [(0, MultiPath::PORTS), (1, MultiPath::CONTROLLERS), (3, MultiPath::ANA)] {
        bit(76, shift, |value| value.multi_path = flag);
    }
    for (shift, flag) in [
        (8, AsyncEventsSupported::NAMESPACE_ATTRIBUTE),
        (9, AsyncEventsSupported::FIRMWARE_ACTIVATION),
        (11, AsyncEventsSupported::ANA_CHANGE),
        (31, AsyncEventsSupported::DISCOVERY_LOG_CHANGE),
    ] {
        bit(92, shift, |value| value.events = flag);
    }
    for (shift, flag) in [
        (0, ControllerAttributes::HOST_IDENTIFIER_128),
        (6, ControllerAttributes::TRAFFIC_BASED_KEEP_ALIVE),
        (15, ControllerAttributes::EXTENDED_LBA_FORMATS),
        (18, ControllerAttributes::RESERVATIONS_BY_HOST_IDENTIFIER),
    ] {
        bit(96, shift, |value| value.attributes = flag);
    }
    for (shift, flag) in [
        (0, LogPageAttributes::SMART_OF_NAMESPACE),
        (1, LogPageAttributes::COMMANDS_SUPPORTED),
        (2, LogPageAttributes::EXTENDED_DATA),
        (5, LogPageAttributes::MISCELLANEOUS),
    ] {
        bit(261, shift, |value| value.log_pages = flag);
    }
    for (shift, flag) in [
        (0, AnaCapabilities::OPTIMIZED),
        (1, AnaCapabilities::NON_OPTIMIZED),
        (2, AnaCapabilities::INACCESSIBLE),
        (3, AnaCapabilities::PERSISTENT_LOSS),
        (4, AnaCapabilities::CHANGE),
        (6, AnaCapabilities::GROUP_IS_STABLE),
        (7, AnaCapabilities::GROUP_CAN_BE_CHOSEN),
    ] {
        bit(343, shift, |value| value.ana = flag);
    }
    for (shift, flag) in [
        (0, IoCommands::COMPARE),
        (1, IoCommands::WRITE_UNCORRECTABLE),
        (2, IoCommands::DATASET_MANAGEMENT),
        (3, IoCommands::WRITE_ZEROES),
        (4, IoCommands::SAVE_AND_SELECT),
        (5, IoCommands::RESERVATIONS),
        (6, IoCommands::TIMESTAMP),
        (7, IoCommands::VERIFY),
        (8, IoCommands::COPY),
    ] {
        bit(520, shift, |value| value.io_commands = flag);
    }
    for (shift, flag) in [
        (0, SglSupport::SUPPORTED),
        (1, SglSupport::SUPPORTED_IN_DWORDS),
        (2, SglSupport::KEYED),
        (16, SglSupport::BIT_BUCKET),
        (18, SglSupport::LONGER_THAN_DATA),
        (20, SglSupport::OFFSET),
        (21, SglSupport::TRANSPORT),
    ] {
        bit(536, shift, |value| value.sgls = flag);
    }
}

#[test]
fn a_controller_that_does_not_speak_nvm_is_refused() {
    let change = |at: usize, value: u8| {
        let mut bytes = controller().encode();
        bytes[at] = value;
        IdentifyController::decode(&bytes)
    };
    assert!(change(512, 0x67).is_err(), "its smallest entry is too large");
    assert!(change(512, 0x50).is_err(), "its largest entry is too small");
    assert!(change(513, 0x33).is_err());
    assert!(change(512, 0x76).is_ok());
    assert!(change(1795, 0x10).is_err(), "capsules of 4 GiB");
    assert!(change(768, 0).is_err(), "no name");
    let mut discovery = controller().encode();
    discovery[111] = 2;
    discovery[512] = 0;
    let decoded = IdentifyController::decode(&discovery).expect("need not say its entry sizes");
    assert_eq!(decoded.controller_type, ControllerType::Discovery);
    assert!(IdentifyController::decode(&discovery[1..]).is_err());
}

#[test]
fn limits_of_a_controller_are_told_in_bytes() {
    let controller = controller();
    assert_eq!(controller.max_transfer_bytes(0), Some(1 << 20));
    assert_eq!(controller.max_transfer_bytes(4), Some(1 << 24));
    assert_eq!(controller.capsule_data_bytes(), 8192);
    let without = IdentifyController { max_data_transfer: 0, io_capsule_bytes: 0, ..controller };
    assert_eq!((without.max_transfer_bytes(0), without.capsule_data_bytes()), (None, 0));
    let huge = IdentifyController { max_data_transfer: 255, ..controller };
    assert_eq!(huge.max_transfer_bytes(15), None);
}

#[test]
fn texts_are_printable_and_filled_with_spaces() {
    assert_eq!(Ascii::<4>::new("abcde"), None);
    assert_eq!(Ascii::<4>::new("a\n"), None);
    assert_eq!(Ascii::<4>::new("ä"), None);
    assert_eq!(Ascii::<4>::new("ab").map(|text| *text.as_field()), Some(*b"ab  "));
    assert_eq!(Ascii::from_field([b'a', 0, 0xFF, b' ']).as_str(), "a??");
}

fn namespace() -> IdentifyNamespace {
    IdentifyNamespace {
        size: BlockCount(0x0807_0605_0403_0201),
        capacity: BlockCount(0x0908),
        utilization: BlockCount(0x0A),
        features: NamespaceFeatures::THIN | NamespaceFeatures::IDENTIFIERS_NEVER_REUSED,
        sharing: NamespaceSharing::SHARED,
        reservations: 0,
        deallocate: DeallocateFeatures::READ_ZEROES | DeallocateFeatures::WRITE_ZEROES_DEALLOCATES,
        atomicity: Some(Atomicity { write_normal: 1, write_power_fail: 65536, compare_write: 8 }),
        io_boundary: 0x0100,
        capacity_bytes: 0x1000,
        preferred: Some(Preferred {
            write_granularity: 1,
            write_alignment: 2,
            deallocate_granularity: 256,
            deallocate_alignment: 65536,
            write_size: 3,
        }),
        ana_group: 0x0403_0201,
        write_protected: true,
        nguid: [0x11; 16],
        eui64: [0x22; 8],
        format: LbaFormat { block_size_log2: 12, metadata_size: 0, relative_performance: 2 },
    }
}

const NAMESPACE: &[(usize, &[u8])] = &[
    (0, &[1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]),
    (24, &[0b0001_1011, 0, 0]),
    (30, &[1, 0]),
    (33, &[0b0000_1001, 0, 0, 0xFF, 0xFF, 7, 0]),
    (46, &[0, 1, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (64, &[0, 0, 1, 0, 0xFF, 0, 0xFF, 0xFF, 2, 0]),
    (92, &[1, 2, 3, 4]),
    (99, &[1]),
    (104, &[0x11; 16]),
    (120, &[0x22; 8]),
    (128, &[0, 0, 12, 2]),
];

#[test]
fn identify_namespace_has_the_bytes_of_the_specification() {
    only(&namespace().encode(), NAMESPACE);
    assert_eq!(IdentifyNamespace::decode(&namespace().encode()), Ok(namespace()));
    let mut reserved = NAMESPACE.to_vec();
    reserved.push((30, &[0b1111_1101, 0]));
    reserved.push((33, &[0b1110_1001]));
    reserved.push((99, &[0xFF]));
    reserved.push((131, &[0b1111_1110]));
    assert_eq!(IdentifyNamespace::decode(&among_ones(&reserved)), Ok(namespace()));
    // The limits count only when the features say so.
    let mut without = namespace().encode();
    without[24] = 0;
    let decoded = IdentifyNamespace::decode(&without).expect("a namespace");
    assert_eq!((decoded.atomicity, decoded.preferred), (None, None));
    without[24] = 0b0010_0000;
    let decoded = IdentifyNamespace::decode(&without).expect("a namespace");
    assert_eq!(decoded.preferred, None, "OPTPERF 10b has other granularities");
}

#[test]
fn a_namespace_is_in_one_of_its_formats() {
    let mut bytes = namespace().encode();
    bytes[128 + 4 * 17..128 + 4 * 18].copy_from_slice(&[8, 0, 9, 1]);
    // Format 17 is bits 6:5 = 1 and 3:0 = 1.
    bytes[26] = 0b0011_0001;
    bytes[25] = 16;
    assert!(IdentifyNamespace::decode(&bytes).is_err(), "there are formats 0 to 16");
    bytes[25] = 17;
    let decoded = IdentifyNamespace::decode(&bytes).expect("format 17 is there");
    let format = LbaFormat { block_size_log2: 9, metadata_size: 8, relative_performance: 1 };
    assert_eq!(decoded.format, format);
    assert_eq!(decoded.format.block_size(), 512);
    // With 16 formats or less, the upper bits do not count.
    bytes[25] = 15;
    assert!(IdentifyNamespace::decode(&bytes).is_err(), "format 1 is empty");
    bytes[26] = 0b0110_0000;
    assert_eq!(IdentifyNamespace::decode(&bytes).expect("format 0").format.block_size(), 4096);
    for lbads in [0, 8, 32, 255] {
        bytes[130] = lbads;
        assert!(IdentifyNamespace::decode(&bytes).is_err(), "{lbads}");
    }
    assert!(IdentifyNamespace::decode(&IdentifyNamespace::INACTIVE).is_err());
    assert_eq!(LbaFormat::of(12).block_size(), 4096);
}

#[test]
fn each_flag_of_a_namespace_has_its_bit() {
    let none = IdentifyNamespace { atomicity: None, preferred: None, ..namespace() };
    for (flag, byte) in [
        (NamespaceFeatures::THIN, 1),
        (NamespaceFeatures::DEALLOCATED_ERROR, 4),
        (NamespaceFeatures::IDENTIFIERS_NEVER_REUSED, 8),
    ] {
        assert_eq!(IdentifyNamespace { features: flag, ..none }.encode()[24], byte);
    }
    for (flag, byte) in [(NamespaceSharing::SHARED, 1), (NamespaceSharing::DISPERSED, 2)] {
        assert_eq!(IdentifyNamespace { sharing: flag, ..none }.encode()[30], byte);
    }
    for (flag, byte) in [
        (DeallocateFeatures::READ_ZEROES, 1),
        (DeallocateFeatures::READ_ONES, 2),
        (DeallocateFeatures::WRITE_ZEROES_DEALLOCATES, 8),
        (DeallocateFeatures::GUARD_OF_DATA, 16),
    ] {
        assert_eq!(IdentifyNamespace { deallocate: flag, ..none }.encode()[33], byte);
    }
}

#[test]
fn lists_have_the_bytes_of_the_specification() {
    let bytes = NamespaceList::encode([Nsid(0x0403_0201), Nsid(0x0807_0605)]);
    only(&bytes, &[(0, &[1, 2, 3, 4, 5, 6, 7, 8])]);
    let list = NamespaceList::view(&bytes).expect("it increases");
    assert!(list.nsids().eq([Nsid(0x0403_0201), Nsid(0x0807_0605)]));
    let full = NamespaceList::encode((1..2000).map(Nsid));
    assert_eq!(NamespaceList::view(&full).expect("it increases").nsids().count(), 1024);
    let falling = NamespaceList::encode([Nsid(2), Nsid(1)]);
    assert!(NamespaceList::view(&falling).is_err());
    assert!(NamespaceList::view(&NamespaceList::encode([Nsid(2), Nsid(2)])).is_err());
    assert!(NamespaceList::view(&bytes[4..]).is_err());

    let bytes = ControllerList::encode([Cntlid(0x0201), Cntlid(0x0403)]);
    only(&bytes, &[(0, &[2, 0, 1, 2, 3, 4])]);
    let list = ControllerList::view(&bytes).expect("it increases");
    assert!(list.controllers().eq([Cntlid(0x0201), Cntlid(0x0403)]));
    let mut full = ControllerList::encode((0..3000).map(Cntlid));
    assert_eq!(full[..2], [0xFF, 0x07]);
    assert_eq!(ControllerList::view(&full).expect("it increases").controllers().count(), 2047);
    full[1] = 0x08;
    assert!(ControllerList::view(&full).is_err(), "more than there is room for");
    assert!(ControllerList::view(&ControllerList::encode([Cntlid(1), Cntlid(1)])).is_err());
}

#[test]
fn descriptors_have_the_bytes_of_the_specification() {
    let all = NamespaceDescriptors {
        eui64: Some([1; 8]),
        nguid: Some([2; 16]),
        uuid: Some([3; 16]),
        command_set: Some(CSI_NVM),
    };
    let bytes = all.encode();
    let golden: &[(usize, &[u8])] = &[
        (0, &[1, 8, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]),
        (12, &[2, 16, 0, 0]),
        (16, &[2; 16]),
        (32, &[3, 16, 0, 0]),
        (36, &[3; 16]),
        (52, &[4, 1, 0, 0, 0]),
    ];
    only(&bytes, golden);
    assert_eq!(NamespaceDescriptors::decode(&bytes), Ok(all));
    let mut changed = bytes;
    changed[0] = 9;
    let unknown = NamespaceDescriptors { eui64: None, ..all };
    assert_eq!(NamespaceDescriptors::decode(&changed), Ok(unknown), "an unknown type");
    changed[0] = 2;
    assert!(NamespaceDescriptors::decode(&changed).is_err(), "8 bytes are no NGUID");
    changed = bytes;
    changed[12] = 3;
    assert!(NamespaceDescriptors::decode(&changed).is_err(), "two UUIDs");
    let long = [0xFF; IDENTIFY_SIZE];
    assert!(NamespaceDescriptors::decode(&long).is_err(), "its last one goes beyond the end");
    let empty = NamespaceDescriptors::decode(&[0; IDENTIFY_SIZE]);
    assert_eq!(empty, Ok(NamespaceDescriptors::default()));
}

#[test]
fn structures_of_the_command_set_have_the_bytes_of_the_specification() {
    let controller = NvmController {
        verify_limit: 1,
        write_zeroes_limit: 2,
        write_uncorrectable_limit: 3,
        dataset_ranges: 4,
        dataset_range_blocks: 0x0807_0605,
        dataset_blocks: 0x100F_0E0D_0C0B_0A09,
        write_zeroes_deallocate_limit: 0x12,
    };
    let golden: &[(usize, &[u8])] =
        &[(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0, 0x12])];
    only(&controller.encode(), golden);
    assert_eq!(NvmController::decode(&among_ones(golden)), Ok(controller));
    assert!(NvmController::decode(&[]).is_err());

    let namespace = NvmNamespace { storage_tag_mask: 0x0807_0605_0403_0201, protection: 9 };
    let golden: &[(usize, &[u8])] = &[(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9])];
    only(&namespace.encode(), golden);
    assert_eq!(NvmNamespace::decode(&among_ones(golden)), Ok(namespace));
    assert!(NvmNamespace::decode(&[]).is_err());

    let independent = IndependentNamespace {
        features: IndependentFeatures::IDENTIFIERS_NEVER_REUSED
            | IndependentFeatures::NO_WRITE_CACHE,
        sharing: NamespaceSharing::SHARED,
        reservations: 3,
        ana_group: 0x0807_0605,
        write_protected: false,
        ready: true,
    };
    let golden: &[(usize, &[u8])] = &[(0, &[0b0010_1000, 1, 3, 0, 5, 6, 7, 8, 0]), (14, &[1])];
    only(&independent.encode(), golden);
    let among: &[(usize, &[u8])] =
        &[(0, &[0b1110_1111, 0xFD, 3, 0, 5, 6, 7, 8, 0xFE]), (14, &[0xFF])];
    assert_eq!(IndependentNamespace::decode(&among_ones(among)), Ok(independent));
    let rotating =
        IndependentNamespace { features: IndependentFeatures::ROTATIONAL, ..independent };
    assert_eq!(rotating.encode()[0], 0b0001_0000);

    let sets =
        [CommandSetCombination::NVM, CommandSetCombination::NVM | CommandSetCombination::ZONED];
    let bytes = CommandSetCombination::encode_all(&sets);
    only(&bytes, &[(0, &[1]), (8, &[5])]);
    assert!(CommandSetCombination::decode_all(&bytes).expect("4096 bytes").eq(sets));
    assert_eq!(CommandSetCombination::KEY_VALUE.bits(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_decode_or_are_refused(
        mut bytes in prop::collection::vec(any::<u8>(), IDENTIFY_SIZE),
        entry_sizes: bool,
    ) {
        if entry_sizes {
            bytes[512..514].copy_from_slice(&[0x66, 0x44]);
            bytes[768..800].fill(b'x');
            bytes[800] = 0;
            bytes[1795] = 0;
            bytes[1799] = 0;
            bytes[130] = 12;
            bytes[25..27].fill(0);
        }
        let decoded = IdentifyController::decode(&bytes);
        prop_assert!(decoded.is_ok() || !entry_sizes);
        if let Ok(decoded) = decoded {
            prop_assert_eq!(IdentifyController::decode(&decoded.encode()), Ok(decoded));
        }
        let decoded = IdentifyNamespace::decode(&bytes);
        prop_assert!(decoded.is_ok() || !entry_sizes);
        if let Ok(decoded) = decoded {
            prop_assert_eq!(IdentifyNamespace::decode(&decoded.encode()), Ok(decoded));
        }
        if let Ok(decoded) = NamespaceDescriptors::decode(&bytes) {
            prop_assert_eq!(NamespaceDescriptors::decode(&decoded.encode()), Ok(decoded));
        }
        if let Ok(list) = NamespaceList::view(&bytes) {
            prop_assert!(list.nsids().count() <= NamespaceList::MAX);
        }
        if let Ok(list) = ControllerList::view(&bytes) {
            prop_assert!(list.controllers().count() <= ControllerList::MAX);
        }
        let sets = CommandSetCombination::decode_all(&bytes).expect("4096 bytes").count();
        prop_assert!(sets <= 512);
    }
}
