//! Fabrics commands, byte by byte, and what is refused.

use proptest::prelude::*;

use super::*;

/// An entry of this FCTYPE whose other bytes are all ones.
fn full(fctype: u8) -> [u8; 64] {
    let mut bytes = [0xFF; 64];
    bytes[0] = OPCODE;
    bytes[4] = fctype;
    bytes
}

fn parse(bytes: &[u8; 64]) -> Result<FabricsCommand, Status> {
    FabricsCommand::parse(SubmissionEntry::view(bytes))
}

#[test]
fn connect_has_the_bytes_of_the_specification() {
    let mut bytes = full(1);
    bytes[40..42].copy_from_slice(&[0, 0]);
    bytes[42..44].copy_from_slice(&[0x34, 0x12]);
    bytes[44..46].copy_from_slice(&[0x7F, 0x00]);
    bytes[46] = 0b1110_0111;
    bytes[48..52].copy_from_slice(&[0x88, 0x13, 0x00, 0x00]);
    let connect = Connect {
        qid: Qid(0x1234),
        sq_entries: 128,
        attributes: ConnectAttributes::DISABLE_SQ_FLOW_CONTROL,
        keep_alive_ms: 5000,
    };
    assert_eq!(parse(&bytes), Ok(FabricsCommand::Connect(connect)));
    let encoded = connect.entry().to_bytes();
    assert_eq!(encoded[..8], [0x7F, 0x40, 0, 0, 1, 0, 0, 0]);
    assert_eq!(encoded[40..54], [0, 0, 0x34, 0x12, 0x7F, 0, 0x04, 0, 0x88, 0x13, 0, 0, 0, 0]);
    for (bit, attribute) in [
        (0x04, ConnectAttributes::DISABLE_SQ_FLOW_CONTROL),
        (0x08, ConnectAttributes::INDIVIDUAL_IO_QUEUE_DELETION),
        (0x10, ConnectAttributes::DISCOVERY_CONTROLLER),
    ] {
        bytes[46] = bit;
        let Ok(FabricsCommand::Connect(found)) = parse(&bytes) else { panic!("a Connect") };
        assert_eq!(found.attributes, attribute);
        bytes[46] = !bit;
        let Ok(FabricsCommand::Connect(found)) = parse(&bytes) else { panic!("a Connect") };
        assert_eq!(found.attributes, !attribute);
    }
}

#[test]
fn a_queue_has_one_entry_more_than_sqsize_says() {
    for (sqsize, entries) in [([0, 0], 1), ([1, 0], 2), ([0xFF, 0xFF], 65536)] {
        let mut bytes = full(1);
        bytes[40..42].fill(0);
        bytes[44..46].copy_from_slice(&sqsize);
        let Ok(FabricsCommand::Connect(connect)) = parse(&bytes) else { panic!("a Connect") };
        assert_eq!(connect.sq_entries, entries);
        assert_eq!(connect.entry().to_bytes()[44..46], sqsize);
    }
}

#[test]
fn other_record_formats_are_refused() {
    for fctype in [fctype::CONNECT, fctype::DISCONNECT] {
        for byte in [40, 41] {
            let mut bytes = full(fctype);
            bytes[40..42].fill(0);
            assert!(parse(&bytes).is_ok());
            bytes[byte] = 1;
            assert_eq!(parse(&bytes), Err(Status::CONNECT_INCOMPATIBLE_FORMAT));
        }
    }
}

#[test]
fn properties_have_the_bytes_of_the_specification() {
    let mut bytes = full(4);
    bytes[40] = 0xF9;
    bytes[44..48].copy_from_slice(&[0x14, 0, 0, 0]);
    let get = PropertyGet { size: PropertySize::Eight, offset: 0x14 };
    assert_eq!(parse(&bytes), Ok(FabricsCommand::PropertyGet(get)));
    assert_eq!(get.entry().to_bytes()[4], 4);
    assert_eq!(get.entry().to_bytes()[40..50], [1, 0, 0, 0, 0x14, 0, 0, 0, 0, 0]);

    let mut bytes = full(0);
    bytes[40] = 0xF8;
    bytes[44..56].copy_from_slice(&[0x14, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let set = PropertySet { size: PropertySize::Four, offset: 0x14, value: 0x0403_0201 };
    assert_eq!(parse(&bytes), Ok(FabricsCommand::PropertySet(set)));
    bytes[40] = 0xF9;
    let set = PropertySet { size: PropertySize::Eight, value: 0x0807_0605_0403_0201, ..set };
    assert_eq!(parse(&bytes), Ok(FabricsCommand::PropertySet(set)));
    let encoded = set.entry().to_bytes();
    assert_eq!(encoded[4], 0);
    assert_eq!(encoded[40..56], [1, 0, 0, 0, 0x14, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn properties_of_other_sizes_are_refused() {
    for fctype in [fctype::PROPERTY_GET, fctype::PROPERTY_SET] {
        for size in 2..8 {
            let mut bytes = full(fctype);
            bytes[40] = size;
            assert_eq!(parse(&bytes), Err(Status::INVALID_FIELD));
        }
    }
}

#[test]
fn of_all_command_types_six_are_known() {
    for number in 0..=255 {
        let mut bytes = full(number);
        bytes[40..42].fill(0);
        let known = [0, 1, 4, 5, 6, 8].contains(&number);
        assert_eq!(parse(&bytes).is_ok(), known, "{number}");
        if !known {
            assert_eq!(parse(&bytes), Err(Status::INVALID_OPCODE));
        }
    }
    assert_eq!(FabricsCommand::disconnect_entry().fctype(), 8);
}

fn data() -> ConnectData {
    ConnectData {
        host_id: HostId([0xA5; 16]),
        controller: Cntlid(0x0102),
        subsystem: Nqn::new("nqn.2024-12.io.fathom:v").expect("a name"),
        host: Nqn::new("nqn.2024-12.io.fathom:h").expect("a name"),
    }
}

#[test]
fn connect_data_has_the_bytes_of_the_specification() {
    let bytes = data().encode();
    assert_eq!(bytes[..16], [0xA5; 16]);
    assert_eq!(bytes[16..18], [0x02, 0x01]);
    assert!(bytes[18..256].iter().all(|byte| *byte == 0));
    assert_eq!(&bytes[256..280], b"nqn.2024-12.io.fathom:v\0");
    assert_eq!(&bytes[512..536], b"nqn.2024-12.io.fathom:h\0");
    assert!(bytes[768..].iter().all(|byte| *byte == 0));
    assert_eq!(ConnectData::decode(&bytes), Ok(data()));
    let mut reserved = bytes;
    reserved[18..256].fill(0xFF);
    reserved[768..].fill(0xFF);
    assert_eq!(ConnectData::decode(&reserved), Ok(data()));
}

#[test]
fn bad_names_are_answered_with_their_place() {
    for (at, result) in [(256, 0x0001_0100), (512, 0x0001_0200)] {
        let mut bytes = data().encode();
        bytes[at..at + 256].fill(b'x');
        let error = ConnectData::decode(&bytes).expect_err("no zero byte ends the name");
        let completion = error.completion(Cid(3));
        assert_eq!(completion.status, Status::CONNECT_INVALID_PARAMETERS);
        assert_eq!(completion.result, result);
        assert_eq!(InvalidParameter::of(&completion), Some(error));
    }
    assert_eq!(InvalidParameter::SQSIZE.completion(Cid(3)).result, 44);
    assert_eq!(InvalidParameter::SQSIZE.name(), "SQSIZE");
    assert_eq!(InvalidParameter::of(&Completion::success(Cid(3))), None);
    let mut unnamed = InvalidParameter::SQSIZE.completion(Cid(3));
    unnamed.result = 45;
    assert_eq!(InvalidParameter::of(&unnamed), None);
}

#[test]
fn what_connect_returns_is_the_controller_and_what_it_requires() {
    let connected = Connected {
        controller: Cntlid(0x1234),
        authentication: AuthenticationRequirements::AUTHENTICATION,
    };
    assert_eq!(connected.to_result(), 0x0002_1234);
    assert_eq!(Connected::from_result(0xFFFF_FFFF_0002_1234), connected);
    assert!(!Connected::from_result(0x8000_0000).authentication.is_empty());
    for (bit, flag) in [
        (1, AuthenticationRequirements::AUTHENTICATION),
        (2, AuthenticationRequirements::AUTHENTICATION_AND_SECURE_CHANNEL),
    ] {
        assert_eq!(Connected::from_result(1 << (16 + bit)).authentication, flag);
    }
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(bytes: [u8; 64]) {
        let entry = SubmissionEntry::view(&bytes);
        match FabricsCommand::parse(entry) {
            Ok(FabricsCommand::Connect(connect)) => {
                prop_assert_eq!(parse(&connect.entry().to_bytes()), Ok(FabricsCommand::Connect(connect)));
            }
            Ok(FabricsCommand::PropertyGet(get)) => {
                prop_assert_eq!(parse(&get.entry().to_bytes()), Ok(FabricsCommand::PropertyGet(get)));
            }
            Ok(FabricsCommand::PropertySet(set)) => {
                prop_assert_eq!(parse(&set.entry().to_bytes()), Ok(FabricsCommand::PropertySet(set)));
            }
            _ => {}
        }
    }

    #[test]
    fn any_connect_data_decodes_or_is_refused(bytes in prop::collection::vec(any::<u8>(), 1024)) {
        let bytes: &[u8; 1024] = bytes.first_chunk().expect("1024 bytes");
        if let Ok(data) = ConnectData::decode(bytes) {
            prop_assert_eq!(ConnectData::decode(&data.encode()), Ok(data));
        }
    }
}
