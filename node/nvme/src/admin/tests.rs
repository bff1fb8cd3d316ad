//! Admin commands, byte by byte, and what is refused.

use proptest::prelude::*;

use super::*;

fn parse(bytes: &[u8; 64]) -> Result<AdminCommand, Status> {
    AdminCommand::parse(SubmissionEntry::view(bytes))
}

/// A command whose reserved and unused bytes are all ones.
fn full(opcode: u8) -> [u8; 64] {
    let mut bytes = [0xFF; 64];
    bytes[0] = opcode;
    bytes[4..8].copy_from_slice(&[4, 3, 2, 1]);
    bytes
}

#[test]
fn identify_has_the_bytes_of_the_specification() {
    let mut bytes = full(0x06);
    bytes[40..48].copy_from_slice(&[0x05, 0xFF, 0x34, 0x12, 0x78, 0x56, 0xFF, 0x9A]);
    bytes[56] = 0xBC;
    let identify = Identify {
        cns: Cns::NAMESPACE_OF_COMMAND_SET,
        nsid: Nsid(0x0102_0304),
        controller: 0x1234,
        command_set: 0x9A,
        specific: 0x5678,
        uuid_index: 0x3C,
    };
    assert_eq!(parse(&bytes), Ok(AdminCommand::Identify(identify)));
    let encoded = AdminCommand::Identify(identify).entry().to_bytes();
    assert_eq!(encoded[4..8], [4, 3, 2, 1]);
    assert_eq!(encoded[40..48], [0x05, 0, 0x34, 0x12, 0x78, 0x56, 0, 0x9A]);
    assert_eq!(encoded[56..60], [0x3C, 0, 0, 0]);
    let short = Identify::new(Cns::CONTROLLER, Nsid::NONE);
    assert_eq!(AdminCommand::Identify(short).entry().cdw::<10>(), 1);
}

#[test]
fn get_log_page_has_the_bytes_of_the_specification() {
    let mut bytes = full(0x02);
    bytes[40..44].copy_from_slice(&[0x0C, 0x81, 0xFF, 0x03]);
    bytes[44..48].copy_from_slice(&[0x01, 0x00, 0x34, 0x12]);
    bytes[48..56].copy_from_slice(&[0x08, 1, 2, 3, 4, 5, 6, 7]);
    bytes[56..60].copy_from_slice(&[0x80 | 5, 0xFF, 0x7F, 0x9A]);
    let get = GetLogPage {
        page: LogId::ANA,
        nsid: Nsid(0x0102_0304),
        specific: 1,
        retain_event: true,
        length: (0x0001_03FF + 1) * 4,
        offset: LogOffset::Bytes(0x0706_0504_0302_0108),
        identifier: 0x1234,
        command_set: 0x9A,
        uuid_index: 5,
    };
    assert_eq!(parse(&bytes), Ok(AdminCommand::GetLogPage(get)));
    let encoded = AdminCommand::GetLogPage(get).entry().to_bytes();
    assert_eq!(encoded[40..48], bytes[40..48]);
    assert_eq!(encoded[48..56], bytes[48..56]);
    assert_eq!(encoded[56..60], [5, 0, 0, 0x9A]);
    bytes[58] = 0x80;
    bytes[48] = 0x09;
    let Ok(AdminCommand::GetLogPage(by_index)) = parse(&bytes) else { panic!("Get Log Page") };
    assert_eq!(by_index.offset, LogOffset::Index(0x0706_0504_0302_0109));
    bytes[41] = 0x7E;
    let Ok(AdminCommand::GetLogPage(released)) = parse(&bytes) else { panic!("Get Log Page") };
    assert_eq!((released.specific, released.retain_event), (0x7E, false));
}

#[test]
fn a_log_page_is_read_in_dwords_one_more_than_numd_says() {
    for (dwords, length) in [([0; 4], 4), ([1, 0, 0, 0], 8), ([0xFF; 4], 1u64 << 34)] {
        let mut bytes = full(0x02);
        bytes[42..46].copy_from_slice(&dwords);
        bytes[48] = 0;
        let Ok(AdminCommand::GetLogPage(get)) = parse(&bytes) else { panic!("Get Log Page") };
        assert_eq!(get.length, length);
        assert_eq!(AdminCommand::GetLogPage(get).entry().to_bytes()[42..46], dwords);
    }
}

#[test]
fn an_offset_that_is_no_multiple_of_four_is_refused() {
    for low in 1..4 {
        let mut bytes = full(0x02);
        bytes[48] = low;
        bytes[58] = 0;
        assert_eq!(parse(&bytes), Err(Status::INVALID_FIELD));
    }
}

#[test]
fn features_have_the_bytes_of_the_specification() {
    let mut bytes = full(0x0A);
    bytes[40..48].copy_from_slice(&[0x0F, 0xFB, 0xFF, 0xFF, 5, 6, 7, 8]);
    let get = GetFeatures {
        feature: FeatureId::KEEP_ALIVE_TIMER,
        select: Select::Supported,
        nsid: Nsid(0x0102_0304),
        cdw11: 0x0807_0605,
    };
    assert_eq!(parse(&bytes), Ok(AdminCommand::GetFeatures(get)));
    let encoded = AdminCommand::GetFeatures(get).entry().to_bytes();
    assert_eq!(encoded[40..48], [0x0F, 0x03, 0, 0, 5, 6, 7, 8]);
    for (bits, select) in [
        (0, Ok(Select::Current)),
        (1, Ok(Select::Default)),
        (2, Ok(Select::Saved)),
        (3, Ok(Select::Supported)),
        (4, Err(Status::INVALID_FIELD)),
        (7, Err(Status::INVALID_FIELD)),
    ] {
        bytes[41] = 0xF8 | bits;
        let found = parse(&bytes).map(|command| match command {
            AdminCommand::GetFeatures(get) => get.select,
            other => panic!("{other:?}"),
        });
        assert_eq!(found, select);
    }

    let mut bytes = full(0x09);
    bytes[40..56].copy_from_slice(&[0x0B, 0xFF, 0xFF, 0x7F, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let mut set = SetFeatures {
        feature: FeatureId::ASYNC_EVENT_CONFIGURATION,
        save: false,
        nsid: Nsid(0x0102_0304),
        cdw11: 0x0403_0201,
        cdw12: 0x0807_0605,
        cdw13: 0x0C0B_0A09,
    };
    assert_eq!(parse(&bytes), Ok(AdminCommand::SetFeatures(set)));
    bytes[40..44].copy_from_slice(&[0x0B, 0, 0, 0x80]);
    set.save = true;
    assert_eq!(parse(&bytes), Ok(AdminCommand::SetFeatures(set)));
    assert_eq!(AdminCommand::SetFeatures(set).entry().to_bytes()[40..56], bytes[40..56]);
}

#[test]
fn abort_names_a_queue_and_a_command() {
    let mut bytes = full(0x08);
    bytes[40..44].copy_from_slice(&[0x34, 0x12, 0x78, 0x56]);
    let abort = Abort { qid: Qid(0x1234), cid: Cid(0x5678) };
    assert_eq!(parse(&bytes), Ok(AdminCommand::Abort(abort)));
    assert_eq!(AdminCommand::Abort(abort).entry().to_bytes()[40..44], bytes[40..44]);
    assert_eq!((Abort::result(true), Abort::result(false)), (0, 1));
}

#[test]
fn of_all_opcodes_seven_are_known() {
    for number in 0..=255 {
        let mut bytes = full(number);
        bytes[40..60].fill(0);
        let known = [2, 6, 8, 9, 0x0A, 0x0C, 0x18].contains(&number);
        let parsed = parse(&bytes);
        assert_eq!(parsed.is_ok(), known, "{number}");
        match parsed {
            Ok(command) => assert_eq!(command.entry().opcode(), number),
            Err(status) => assert_eq!(status, Status::INVALID_OPCODE),
        }
    }
}

proptest! {
    #[test]
    fn what_is_parsed_encodes_and_parses_to_itself(mut bytes: [u8; 64], opcode in 0..0x19u8) {
        bytes[0] = opcode;
        if let Ok(command) = parse(&bytes) {
            prop_assert_eq!(AdminCommand::parse(&command.entry()), Ok(command));
        }
    }
}
