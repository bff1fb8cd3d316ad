//! Log pages, byte by byte, and what is refused.

use fathom_units::{Cid, Cntlid, Lba, Nsid, Qid};
use proptest::prelude::*;

use super::*;
use crate::{Nqn, Status, feature::FeatureId, identify::Ascii};

/// Whether `bytes` are zero but for these places.
fn only(bytes: &[u8], golden: &[(usize, &[u8])]) {
    let mut expected = vec![0; bytes.len()];
    for (at, field) in golden {
        expected[*at..at + field.len()].copy_from_slice(field);
    }
    for (at, (found, expected)) in bytes.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "byte {at}");
    }
}

fn entry() -> DiscoveryEntry {
    DiscoveryEntry {
        transport: TransportType::TCP,
        address_family: AddressFamily::IPV6,
        subsystem_type: SubsystemType::NVM,
        secure_channel: SecureChannel::NotRequired,
        flow_control_optional: true,
        port_id: 0x0201,
        controller: Cntlid::DYNAMIC,
        admin_queue_entries: 32,
        flags: EntryFlags::PERSISTENT_CONNECTIONS,
        service: TransportAddress::new("4420").expect("ASCII"),
        subsystem: Nqn::new("nqn.2024-12.io.fathom:v").expect("a name"),
        address: TransportAddress::new("fd00::1").expect("ASCII"),
        security: SecurityType::TLS_1_3,
    }
}

#[test]
fn the_discovery_page_has_the_bytes_of_the_specification() {
    let header = DiscoveryHeader { generation: 0x0807_0605_0403_0201, entries: 0x0A09 };
    let golden: &[(usize, &[u8])] = &[(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])];
    only(&header.encode(), golden);
    assert_eq!(DiscoveryHeader::decode(&header.encode()), Ok(header));
    assert_eq!(DiscoveryHeader::decode(&header.encode()[..20]), Ok(header));
    assert!(DiscoveryHeader::decode(&header.encode()[..19]).is_err());
    let mut other = header.encode();
    other[16] = 1;
    assert!(DiscoveryHeader::decode(&other).is_err());

    let mut service = *b"                                ";
    service[..4].copy_from_slice(b"4420");
    let mut address = [b' '; 256];
    address[..7].copy_from_slice(b"fd00::1");
    let golden: &[(usize, &[u8])] = &[
        (0, &[3, 2, 2, 0b110, 1, 2, 0xFF, 0xFF, 32, 0, 2, 0]),
        (32, &service),
        (256, b"nqn.2024-12.io.fathom:v"),
        (512, &address),
        (768, &[2]),
    ];
    let bytes = entry().encode();
    only(&bytes, golden);
    assert_eq!(DiscoveryEntry::decode(&bytes), Ok(entry()));
    let mut zeroes = bytes;
    zeroes[36..64].fill(0);
    zeroes[519..768].fill(0);
    zeroes[3] |= 0xF8;
    zeroes[11] = 0xFF;
    zeroes[12..32].fill(0xFF);
    zeroes[64..256].fill(0xFF);
    zeroes[769..].fill(0xFF);
    assert_eq!(DiscoveryEntry::decode(&zeroes), Ok(entry()), "ended by zeroes, as others do it");
}

#[test]
fn discovery_entries_without_text_are_refused() {
    for (at, byte) in [(32, 0x07), (256, 0), (256, 0xFF), (512, 0x80)] {
        let mut bytes = entry().encode();
        bytes[at] = byte;
        assert!(DiscoveryEntry::decode(&bytes).is_err(), "{at}");
    }
    for (bits, secure) in [
        (0, SecureChannel::NotSpecified),
        (1, SecureChannel::Required),
        (2, SecureChannel::NotRequired),
        (3, SecureChannel::Reserved),
    ] {
        let mut bytes = entry().encode();
        bytes[3] = bits;
        let decoded = DiscoveryEntry::decode(&bytes).expect("any TREQ");
        assert_eq!((decoded.secure_channel, decoded.flow_control_optional), (secure, false));
        assert_eq!(decoded.encode()[3], bits);
    }
    for (bit, flag) in [
        (1, EntryFlags::DUPLICATE_INFORMATION),
        (2, EntryFlags::PERSISTENT_CONNECTIONS),
        (4, EntryFlags::NO_CENTRAL_DISCOVERY),
    ] {
        assert_eq!(DiscoveryEntry { flags: flag, ..entry() }.encode()[10], bit);
    }
    assert_eq!(TransportAddress::<4>::new("12345"), None);
    assert_eq!(TransportAddress::<4>::new("12 "), None);
}

#[test]
fn the_ana_page_has_the_bytes_of_the_specification() {
    let header = AnaHeader { changes: 0x0807_0605_0403_0201, groups: 2 };
    let group = AnaGroup {
        id: 0x0403_0201,
        namespaces: 2,
        changes: 0x0807_0605_0403_0201,
        state: AnaState::Inaccessible,
    };
    let mut page = header.encode().to_vec();
    only(&page, &[(0, &[1, 2, 3, 4, 5, 6, 7, 8, 2, 0])]);
    let golden: &[(usize, &[u8])] = &[(0, &[1, 2, 3, 4, 2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 3])];
    only(&group.encode(), golden);
    page.extend(group.encode());
    page.extend(AnaGroup::encode_nsid(Nsid(5)));
    page.extend(AnaGroup::encode_nsid(Nsid(0x0403_0201)));
    let empty = AnaGroup { id: 9, namespaces: 0, changes: 0, state: AnaState::Optimized };
    page.extend(empty.encode());
    page[16 + 16] |= 0xF0;

    let (decoded, rest) = AnaHeader::decode(&page).expect("a header");
    assert_eq!(decoded, header);
    let (decoded, nsids, rest) = AnaGroup::decode(rest).expect("a group");
    assert_eq!(decoded, group);
    assert!(nsids.eq([Nsid(5), Nsid(0x0403_0201)]));
    let (decoded, nsids, rest) = AnaGroup::decode(rest).expect("a group");
    assert_eq!((decoded, nsids.count(), rest.len()), (empty, 0, 0));
    assert!(AnaHeader::decode(&page[..15]).is_err());
    assert!(AnaGroup::decode(&page[16..16 + 39]).is_err(), "an NSID is missing");
    assert!(AnaGroup::decode(&page[16..16 + 31]).is_err());
    for number in 0..16u8 {
        page[16 + 16] = number;
        let known = [1, 2, 3, 4, 15].contains(&number);
        let decoded = AnaGroup::decode(&page[16..]).map(|(group, ..)| group);
        assert_eq!(decoded.is_ok(), known, "{number}");
        if let Ok(group) = decoded {
            assert_eq!(group.encode()[16], number);
        }
    }
    page[16 + 16] = 1;
    page[16..20].fill(0);
    assert!(AnaGroup::decode(&page[16..]).is_err(), "no group is 0");
    assert!(AnaHeader::is_groups_only(0x7F) && !AnaHeader::is_groups_only(0x7E));
}

#[test]
fn pages_of_effects_have_the_bytes_of_the_specification() {
    let pages = SupportedLogPages::new(&[
        (LogId::SUPPORTED_LOG_PAGES, LogPageSupport::SUPPORTED),
        (LogId::DISCOVERY, LogPageSupport::all()),
    ]);
    only(pages.as_bytes(), &[(0, &[1]), (0x70 * 4, &[3])]);
    let again = SupportedLogPages::decode(pages.as_bytes()).expect("1024 bytes");
    assert_eq!(again.support(LogId::DISCOVERY), LogPageSupport::all());
    assert_eq!(again.support(LogId::HEALTH), LogPageSupport::empty());
    assert!(SupportedLogPages::decode(&[0; 1023]).is_err());

    let effects = EffectsLog::new(&CommandEffects {
        admin: &[(0x09, CommandEffect::SUPPORTED | CommandEffect::CONTROLLER_CAPABILITY)],
        io: &[(0x01, CommandEffect::SUPPORTED | CommandEffect::CONTENT | CommandEffect::ALONE)],
    });
    let golden: &[(usize, &[u8])] = &[(36, &[0b1_0001]), (1024 + 4, &[0b11, 0, 0b10])];
    only(effects.as_bytes(), golden);
    let again = EffectsLog::decode(effects.as_bytes()).expect("4096 bytes");
    assert!(again.io(0x01).contains(CommandEffect::ALONE));
    assert!(again.admin(0x09).contains(CommandEffect::CONTROLLER_CAPABILITY));
    assert!(again.admin(0x01).is_empty() && again.io(0x09).is_empty());
    assert!(EffectsLog::decode(&[0; 1024]).is_err());
    for (bit, effect) in [
        (0, CommandEffect::SUPPORTED),
        (1, CommandEffect::CONTENT),
        (2, CommandEffect::NAMESPACE_CAPABILITY),
        (3, CommandEffect::NAMESPACE_INVENTORY),
        (4, CommandEffect::CONTROLLER_CAPABILITY),
        (16, CommandEffect::ALONE_IN_NAMESPACE),
        (17, CommandEffect::ALONE),
        (20, CommandEffect::SCOPE_NAMESPACE),
        (21, CommandEffect::SCOPE_CONTROLLER),
        (25, CommandEffect::SCOPE_SUBSYSTEM),
    ] {
        assert_eq!(effect.bits(), 1 << bit);
    }

    let features = FeatureEffects::new(&[(
        FeatureId::HOST_IDENTIFIER,
        FeatureEffect::SUPPORTED | FeatureEffect::SCOPE_CONTROLLER,
    )]);
    only(features.as_bytes(), &[(0x81 * 4, &[1, 0, 0x20])]);
    let again = FeatureEffects::decode(features.as_bytes()).expect("1024 bytes");
    assert!(again.effect(FeatureId::HOST_IDENTIFIER).contains(FeatureEffect::SUPPORTED));
    assert!(again.effect(FeatureId::TIMESTAMP).is_empty());
    assert!(FeatureEffects::decode(&[]).is_err());
}

#[test]
fn an_error_has_the_bytes_of_the_specification() {
    let error = ErrorEntry {
        count: 0x0807_0605_0403_0201,
        qid: Qid(0x0201),
        cid: Cid(0x0403),
        status: Status::LBA_OUT_OF_RANGE.do_not_retry(),
        location: Some(ErrorLocation { byte: 40, bit: 3 }),
        lba: Lba(0x100F_0E0D_0C0B_0A09),
        nsid: Nsid(0x1413_1211),
        transport: TransportType::TCP,
        opcode: 0x02,
    };
    let golden: &[(usize, &[u8])] = &[
        (0, &[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 0x00, 0x81, 40, 3]),
        (16, &[9, 10, 11, 12, 13, 14, 15, 16, 0x11, 0x12, 0x13, 0x14, 0, 3, 0, 2]),
        (63, &[1]),
    ];
    only(&error.encode(), golden);
    assert_eq!(ErrorEntry::decode(&error.encode()), Some(error));
    let nowhere = ErrorEntry { location: None, ..error };
    assert_eq!(nowhere.encode()[14..16], [0xFF, 0xFF]);
    assert_eq!(ErrorEntry::decode(&nowhere.encode()), Some(nowhere));
    assert_eq!(ErrorEntry::decode(&ErrorEntry::NONE), None);
}

#[test]
fn health_has_the_bytes_of_the_specification() {
    let health = Health {
        warning: CriticalWarning::READ_ONLY,
        temperature: 0x0201,
        spare: 100,
        spare_threshold: 10,
        used: 3,
        bytes_read: 512_000,
        bytes_written: 0x0201 * 512_000,
        read_commands: 1,
        write_commands: 2,
        busy_minutes: 3,
        power_cycles: 4,
        power_on_hours: 5,
        power_losses: 6,
        media_errors: 7,
        error_entries: 0x0100_0000_0000_0000_0000_0000_0000_0008,
    };
    let mut last = [0; 16];
    (last[0], last[15]) = (8, 1);
    let golden: &[(usize, &[u8])] = &[
        (0, &[8, 1, 2, 100, 10, 3]),
        (32, &[1]),
        (48, &[1, 2]),
        (64, &[1]),
        (80, &[2]),
        (96, &[3]),
        (112, &[4]),
        (128, &[5]),
        (144, &[6]),
        (160, &[7]),
        (176, &last),
    ];
    only(&health.encode(), golden);
    assert_eq!(Health::decode(&health.encode()), Ok(health));
    assert!(Health::decode(&[0; 511]).is_err());
    let little = Health { bytes_read: 1, ..health };
    assert_eq!(little.encode()[32], 1, "rounded up");
    for (bit, warning) in [
        (1, CriticalWarning::SPARE_BELOW_THRESHOLD),
        (2, CriticalWarning::TEMPERATURE),
        (4, CriticalWarning::RELIABILITY_DEGRADED),
        (8, CriticalWarning::READ_ONLY),
        (16, CriticalWarning::VOLATILE_MEMORY_BACKUP_FAILED),
        (32, CriticalWarning::PERSISTENT_MEMORY_READ_ONLY),
    ] {
        assert_eq!(warning.bits(), bit);
    }
}

#[test]
fn firmware_slots_have_the_bytes_of_the_specification() {
    let mut revisions = [None; 7];
    revisions[0] = Ascii::new("0.1.0");
    revisions[6] = Ascii::new("12345678");
    let slots = FirmwareSlots { active: 1, next: 7, revisions };
    let golden: &[(usize, &[u8])] = &[(0, &[0x71]), (8, b"0.1.0   "), (56, b"12345678")];
    only(&slots.encode(), golden);
    assert_eq!(FirmwareSlots::decode(&slots.encode()), Ok(slots));
    let mut reserved = slots.encode();
    reserved[0] |= 0x88;
    reserved[1..8].fill(0xFF);
    assert_eq!(FirmwareSlots::decode(&reserved), Ok(slots));
    assert!(FirmwareSlots::decode(&[]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
        if let Ok(header) = DiscoveryHeader::decode(&bytes) {
            prop_assert_eq!(DiscoveryHeader::decode(&header.encode()), Ok(header));
        }
        if let Some(Ok(entry)) = bytes.first_chunk().map(DiscoveryEntry::decode) {
            prop_assert_eq!(DiscoveryEntry::decode(&entry.encode()), Ok(entry));
        }
        if let Some(Some(error)) = bytes.first_chunk().map(ErrorEntry::decode) {
            prop_assert_eq!(ErrorEntry::decode(&error.encode()), Some(error));
        }
        if let Ok((_, mut rest)) = AnaHeader::decode(&bytes) {
            while let Ok((_, nsids, after)) = AnaGroup::decode(rest) {
                prop_assert!(nsids.count() <= rest.len() / 4);
                rest = after;
            }
        }
        if let Some(Ok(health)) = bytes.get(..512).map(Health::decode) {
            prop_assert!(Health::decode(&health.encode()).is_ok());
        }
        if let Some(Ok(slots)) = bytes.get(..512).map(FirmwareSlots::decode) {
            prop_assert!(slots.next < 8);
        }
    }
}
