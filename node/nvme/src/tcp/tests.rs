//! PDUs, byte by byte; every rule of their headers broken; every bit of a header flipped.

use fathom_units::{Cid, Nsid};
use proptest::prelude::*;

use super::*;
use crate::{Completion, SglDescriptor, Status, SubmissionEntry};

const NO_DIGESTS: Digests = Digests { header: false, data: false };
const BOTH: Digests = Digests { header: true, data: true };
const DATA_MAX: u32 = 1 << 17;

fn inbound(receiver: Receiver, digests: Digests, alignment: Alignment) -> Inbound {
    Inbound { receiver, digests, alignment, capsule_data_max: 8192, data_max: DATA_MAX }
}

fn controller() -> Inbound {
    inbound(Receiver::Controller, NO_DIGESTS, Alignment::NONE)
}

fn host() -> Inbound {
    inbound(Receiver::Host, NO_DIGESTS, Alignment::NONE)
}

const PLAIN: Outbound = Outbound { digests: NO_DIGESTS, alignment: Alignment::NONE };

fn frame(inbound: &Inbound, header: &[u8]) -> Result<Frame, Violation> {
    inbound.frame(header.first_chunk().expect("at least a common header"))
}

/// A header with these bytes at its start and ones behind.
fn header<const N: usize>(bytes: [u8; N]) -> HeaderBuffer {
    let mut header = [0xFF; HEADER_MAX];
    header[..N].copy_from_slice(&bytes);
    header
}

fn alignment(bytes: u8) -> Alignment {
    Alignment::from_field(bytes / 4 - 1).expect("at most 128")
}

// ICReq and ICResp.

#[test]
fn initialize_pdus_have_the_bytes_of_the_specification() {
    let request = InitializeRequest { alignment: alignment(64), digests: BOTH, r2t_max: 17 };
    let mut bytes = [0; IC_SIZE];
    bytes[..16].copy_from_slice(&[0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 15, 3, 16, 0, 0, 0]);
    assert_eq!(request.encode(), bytes);
    bytes[16..].fill(0xFF);
    bytes[11] |= 0xFC;
    assert_eq!(InitializeRequest::decode(&bytes), Ok(request));
    let header_only = Digests { header: true, data: false };
    let data_only = Digests { header: false, data: true };
    let response =
        InitializeResponse { alignment: alignment(8), digests: header_only, max_h2c_data: 0x10204 };
    let mut bytes = [0; IC_SIZE];
    bytes[..16].copy_from_slice(&[1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 1, 1, 4, 2, 1, 0]);
    assert_eq!(response.encode(), bytes);
    assert_eq!(InitializeResponse::decode(&bytes, BOTH), Ok(response));
    let response = InitializeResponse { digests: data_only, ..response };
    assert_eq!(response.encode()[11], 2);
    assert_eq!(InitializeResponse::decode(&response.encode(), data_only), Ok(response));
    for pdu in [request.encode(), response.encode()] {
        let receiver = if pdu[0] == 0 { Receiver::Controller } else { Receiver::Host };
        let framed = frame(&Inbound::before_initialize(receiver), &pdu).expect("a good header");
        assert_eq!((framed.header_end(), framed.length()), (128, 128));
        assert_eq!(framed.check_header(&pdu), Ok(()));
    }
}

#[test]
fn one_more_r2t_is_allowed_than_maxr2t_says() {
    for (field, r2t_max) in [([0; 4], 1), ([0xFF; 4], 1 << 32)] {
        let mut pdu =
            InitializeRequest { alignment: Alignment::NONE, digests: NO_DIGESTS, r2t_max: 1 }
                .encode();
        pdu[12..16].copy_from_slice(&field);
        let request = InitializeRequest::decode(&pdu).expect("any MAXR2T is allowed");
        assert_eq!(request.r2t_max, r2t_max);
        assert_eq!(request.encode(), pdu);
    }
}

#[test]
fn what_initialize_pdus_may_not_say_is_answered_with_its_place() {
    let good =
        InitializeResponse { alignment: Alignment::NONE, digests: NO_DIGESTS, max_h2c_data: 4096 };
    let change = |at: usize, value: u8| {
        let mut pdu = good.encode();
        pdu[at] = value;
        let response = InitializeResponse::decode(&pdu, NO_DIGESTS);
        pdu[0] = 0;
        (InitializeRequest::decode(&pdu), response)
    };
    let fei = |violation: Violation| {
        let end = violation.terminate();
        (end.status.0, end.information)
    };
    for at in [8, 9] {
        let (request, response) = change(at, 1);
        assert_eq!(fei(request.expect_err("a version")), (6, 8));
        assert_eq!(fei(response.expect_err("a version")), (6, 8));
    }
    let (request, response) = change(10, 32);
    assert_eq!(fei(request.expect_err("beyond 128 bytes")), (1, 10));
    assert_eq!(fei(response.expect_err("beyond 128 bytes")), (1, 10));
    assert!(change(10, 31).0.is_ok());
    for digest in [1, 2, 3] {
        let (request, response) = change(11, digest);
        assert!(request.is_ok());
        assert_eq!(fei(response.expect_err("not asked for")), (1, 11));
    }
    let (_, response) = change(12, 2);
    assert_eq!(fei(response.expect_err("no multiple of 4")), (1, 12));
    let (_, response) = change(13, 0);
    assert_eq!(fei(response.expect_err("nothing at all")), (1, 12));
}

// Capsules.

#[test]
fn capsules_have_the_bytes_of_the_specification() {
    let entry = SubmissionEntry::new(0x02).with_cid(Cid(0x1234)).with_nsid(Nsid(1));
    let mut header = [0xEE; HEADER_MAX];
    assert_eq!(CapsuleCommand::encode(&entry, 0, &PLAIN, &mut header), 72);
    assert_eq!(header[..12], [4, 0, 72, 0, 72, 0, 0, 0, 0x02, 0x40, 0x34, 0x12]);
    let framed = frame(&controller(), &header).expect("a good header");
    assert_eq!((framed.kind(), framed.data_length()), (PduType::CapsuleCommand, 0));
    assert_eq!((framed.data_offset(), framed.length()), (72, 72));
    assert_eq!(*CapsuleCommand::view(&framed, &header), entry);

    let with_data = entry.with_sgl(SglDescriptor::in_capsule(0x1000));
    assert_eq!(CapsuleCommand::encode(&with_data, 0x1000, &PLAIN, &mut header), 72);
    assert_eq!(header[..8], [4, 0, 72, 72, 0x48, 0x10, 0, 0]);
    let framed = frame(&controller(), &header).expect("a good header");
    assert_eq!((framed.data_offset(), framed.data_length()), (72, 0x1000));
    assert!(!framed.has_data_digest());

    let completion = Completion { result: 7, ..Completion::success(Cid(0x1234)) };
    assert_eq!(CapsuleResponse::encode(&completion, &PLAIN, &mut header), 24);
    assert_eq!(header[..16], [5, 0, 24, 0, 24, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    let framed = frame(&host(), &header).expect("a good header");
    assert_eq!(framed.length(), 24);
    assert_eq!(CapsuleResponse::decode(&framed, &header), completion);
}

#[test]
fn digests_and_padding_stand_where_the_specification_has_them() {
    let entry = SubmissionEntry::new(0x01).with_sgl(SglDescriptor::in_capsule(512));
    let outbound = Outbound { digests: BOTH, alignment: alignment(128) };
    let mut header = [0xEE; HEADER_MAX];
    assert_eq!(CapsuleCommand::encode(&entry, 512, &outbound, &mut header), 128);
    assert_eq!(header[..8], [4, 0b11, 72, 128, 0x84, 0x02, 0, 0]);
    assert_eq!(header[72..76], header_digest(&header[..72]).to_le_bytes());
    assert_eq!(header[76..128], [0; 52]);
    let inbound = inbound(Receiver::Controller, BOTH, alignment(128));
    let framed = frame(&inbound, &header).expect("a good header");
    assert_eq!((framed.header_length(), framed.header_end()), (72, 76));
    assert_eq!((framed.data_offset(), framed.data_length()), (128, 512));
    assert!(framed.has_data_digest());
    assert_eq!(framed.length(), 128 + 512 + 4);
    assert_eq!(framed.check_header(&header), Ok(()));

    // Without data there is neither padding nor data digest, and the flag says so.
    assert_eq!(CapsuleCommand::encode(&entry, 0, &outbound, &mut header), 76);
    assert_eq!(header[..8], [4, 0b01, 72, 0, 76, 0, 0, 0]);
    let framed = frame(&inbound, &header).expect("a good header");
    assert_eq!((framed.data_offset(), framed.length()), (76, 76));

    // 24 + 40 bytes: the example of section 3.3.
    let outbound = Outbound { digests: NO_DIGESTS, alignment: alignment(64) };
    let data = H2cData { cid: Cid(1), transfer_tag: 2, offset: 0, length: 4, last: true };
    assert_eq!(data.encode(&outbound, &mut header), 64);
    assert_eq!(header[..8], [6, 0b100, 24, 64, 68, 0, 0, 0]);
    assert_eq!(header[24..64], [0; 40]);
}

#[test]
fn a_capsule_without_data_may_have_any_offset_and_data_digest_flag() {
    for flags in [0b01, 0b11] {
        for pdo in [0, 1, 72, 76, 255] {
            let bytes = header([4, flags, 72, pdo, 76, 0, 0, 0]);
            for data in [false, true] {
                let digests = Digests { header: true, data };
                let inbound = inbound(Receiver::Controller, digests, alignment(16));
                let framed = frame(&inbound, &bytes).expect("no data, no rules for it");
                assert_eq!((framed.data_length(), framed.length()), (0, 76));
                assert!(!framed.has_data_digest());
            }
        }
    }
}

// Data and R2T.

#[test]
fn data_pdus_have_the_bytes_of_the_specification() {
    let data = H2cData {
        cid: Cid(0x0201),
        transfer_tag: 0x0403,
        offset: 0x0807_0604,
        length: 0x1000,
        last: false,
    };
    let mut header = [0xEE; HEADER_MAX];
    assert_eq!(data.encode(&PLAIN, &mut header), 24);
    let mut golden =
        [6, 0, 24, 24, 0x18, 0x10, 0, 0, 1, 2, 3, 4, 4, 6, 7, 8, 0, 0x10, 0, 0, 0, 0, 0, 0];
    assert_eq!(header[..24], golden);
    golden[20..].fill(0xFF);
    golden[1] = 0xF8;
    let framed = frame(&controller(), &golden).expect("a good header");
    assert_eq!((framed.data_offset(), framed.data_length(), framed.length()), (24, 4096, 4120));
    assert_eq!(H2cData::decode(&framed, &golden), Ok(data));
    golden[1] = 0x04;
    let framed = frame(&controller(), &golden).expect("a good header");
    assert_eq!(H2cData::decode(&framed, &golden), Ok(H2cData { last: true, ..data }));

    for (flags, last, success) in [(0, false, false), (4, true, false), (12, true, true)] {
        let data = C2hData { cid: Cid(0x0201), offset: 0x0807_0604, length: 0x1000, last, success };
        assert_eq!(data.encode(&PLAIN, &mut header), 24);
        assert_eq!(header[..12], [7, flags, 24, 24, 0x18, 0x10, 0, 0, 1, 2, 0, 0]);
        assert_eq!(header[12..24], [4, 6, 7, 8, 0, 0x10, 0, 0, 0, 0, 0, 0]);
        header[10..12].fill(0xFF);
        let framed = frame(&host(), &header).expect("a good header");
        assert_eq!(C2hData::decode(&framed, &header), Ok(data));
    }

    let r2t =
        R2t { cid: Cid(0x0201), transfer_tag: 0x0403, offset: 0x0807_0604, length: 0x0C0B_0A08 };
    assert_eq!(r2t.encode(&PLAIN, &mut header), 24);
    let golden = [9, 0, 24, 0, 24, 0, 0, 0, 1, 2, 3, 4, 4, 6, 7, 8, 8, 10, 11, 12, 0, 0, 0, 0];
    assert_eq!(header[..24], golden);
    let framed = frame(&host(), &golden).expect("a good header");
    assert_eq!(framed.length(), 24);
    assert_eq!(R2t::decode(&framed, &golden), Ok(r2t));
}

#[test]
fn offsets_and_lengths_of_data_are_checked() {
    let golden = [6, 0, 24, 24, 0x20, 0, 0, 0, 1, 2, 3, 4, 4, 6, 7, 8, 8, 0, 0, 0, 0, 0, 0, 0];
    let framed = frame(&controller(), &golden).expect("a good header");
    for (at, value, fei) in [(12, 5, 12), (12, 6, 12), (16, 4, 16), (16, 12, 16), (19, 1, 16)] {
        let mut bytes = golden;
        bytes[at] = value;
        let violation = H2cData::decode(&framed, &bytes).expect_err("not what PLEN leaves");
        let end = violation.terminate();
        assert_eq!((end.status.0, end.information), (1, fei));
        assert_eq!(C2hData::decode(&framed, &bytes), Err(violation));
    }
    let mut odd = golden;
    odd[4] = 0x1E;
    odd[16] = 6;
    let framed = frame(&controller(), &odd).expect("PLEN may be odd");
    let violation = Violation::DataLength(PduType::H2cData);
    assert_eq!(H2cData::decode(&framed, &odd), Err(violation));
    for length in [0, 2] {
        let mut r2t = [9, 0, 24, 0, 24, 0, 0, 0, 1, 2, 3, 4, 4, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        r2t[16] = length;
        let framed = frame(&host(), &r2t).expect("a good header");
        assert_eq!(R2t::decode(&framed, &r2t), Err(Violation::DataLength(PduType::R2t)));
        r2t[12] = 5;
        assert_eq!(R2t::decode(&framed, &r2t), Err(Violation::Offset(PduType::R2t)));
    }
}

// The rules of the common header.

#[test]
fn of_all_types_nine_are_known_and_each_has_one_direction() {
    for number in 0..=255u8 {
        let bytes = header([number, 0, 0, 0, 0, 0, 0, 0]);
        let results = [frame(&controller(), &bytes), frame(&host(), &bytes)];
        let errors = results.map(|result| result.expect_err("HLEN 0 is never right"));
        if number <= 7 || number == 9 {
            // Bit 0 is the direction.
            let wrong = usize::from(number & 1 == 0);
            assert!(matches!(errors[wrong], Violation::WrongDirection(_)), "{number}");
            assert!(matches!(errors[1 - wrong], Violation::HeaderLength(_)), "{number}");
        } else {
            assert_eq!(errors, [Violation::UnknownType(number); 2]);
        }
        let end = errors[usize::from(number & 1 == 0)].terminate();
        assert_eq!((end.status.0, end.information), (1, 0));
    }
}

#[test]
fn each_broken_rule_has_its_place_in_the_header() {
    let padded = inbound(Receiver::Controller, NO_DIGESTS, alignment(8));
    let plain = controller();
    for (inbound, bytes, fes, fei) in [
        // Flags that contradict what was agreed upon.
        (&plain, [6, 1, 24, 24, 28, 0, 0, 0], 1, 1),
        (&plain, [6, 2, 24, 24, 28, 0, 0, 0], 1, 1),
        (&plain, [4, 1, 72, 0, 72, 0, 0, 0], 1, 1),
        (&plain, [4, 2, 72, 72, 76, 0, 0, 0], 1, 1),
        // HLEN.
        (&plain, [6, 0, 23, 24, 28, 0, 0, 0], 1, 2),
        (&plain, [4, 0, 24, 0, 72, 0, 0, 0], 1, 2),
        (&plain, [0, 0, 127, 0, 128, 0, 0, 0], 1, 2),
        // PDO inside of the header, and not aligned.
        (&plain, [6, 0, 24, 20, 28, 0, 0, 0], 1, 3),
        (&plain, [6, 0, 24, 25, 32, 0, 0, 0], 1, 3),
        (&padded, [6, 0, 24, 28, 32, 0, 0, 0], 1, 3),
        (&plain, [4, 0, 72, 0, 76, 0, 0, 0], 1, 3),
        // PLEN.
        (&plain, [6, 0, 24, 24, 24, 0, 0, 0], 1, 4),
        (&plain, [6, 0, 24, 24, 0, 0, 0, 0], 1, 4),
        (&plain, [4, 0, 72, 72, 71, 0, 0, 0], 1, 4),
        (&plain, [4, 0, 72, 72, 0x49, 0x20, 0, 0], 1, 4),
        (&plain, [0, 0, 128, 0, 127, 0, 0, 0], 1, 4),
        (&plain, [0, 0, 128, 0, 128, 0, 0, 1], 1, 4),
        (&plain, [2, 0, 24, 0, 23, 0, 0, 0], 1, 4),
        (&plain, [2, 0, 24, 0, 153, 0, 0, 0], 1, 4),
        // More than MAXH2CDATA.
        (&plain, [6, 0, 24, 24, 0x1C, 0x00, 0x02, 0], 5, 0),
        (&plain, [6, 0, 24, 24, 0xFF, 0xFF, 0xFF, 0xFF], 5, 0),
    ] {
        let end = frame(inbound, &bytes).expect_err("a broken rule").terminate();
        assert_eq!((end.status.0, end.information), (fes, fei), "{bytes:?}");
    }
    for bytes in [
        [6, 0, 24, 24, 28, 0, 0, 0],
        [6, 0, 24, 24, 0x18, 0x00, 0x02, 0],
        [4, 0, 72, 72, 0x48, 0x20, 0, 0],
        [2, 0, 24, 0, 152, 0, 0, 0],
        [2, 0, 24, 0, 24, 0, 0, 0],
    ] {
        assert!(frame(&plain, &bytes).is_ok(), "{bytes:?}");
    }
    let success = frame(&host(), &[7, 0b1000, 24, 24, 28, 0, 0, 0]);
    assert_eq!(success, Err(Violation::SuccessWithoutLast));
    let long = frame(&host(), &[7, 0, 24, 24, 0x1C, 0x00, 0x02, 0]);
    assert_eq!(long, Err(Violation::OutOfRange(PduType::C2hData)));
    let response = frame(&host(), &[5, 0, 24, 0, 28, 0, 0, 0]);
    assert_eq!(response, Err(Violation::Length(PduType::CapsuleResponse)));
    let r2t = frame(&host(), &[9, 1, 24, 0, 28, 0, 0, 0]);
    assert_eq!(r2t, Err(Violation::DigestFlags(PduType::R2t)));
}

#[test]
fn missing_digest_flags_are_refused_where_digests_were_agreed_upon() {
    let inbound = inbound(Receiver::Controller, BOTH, Alignment::NONE);
    for (bytes, kind) in [
        ([4, 2, 72, 0, 76, 0, 0, 0], PduType::CapsuleCommand),
        ([4, 1, 72, 76, 84, 0, 0, 0], PduType::CapsuleCommand),
        ([6, 1, 24, 28, 36, 0, 0, 0], PduType::H2cData),
        ([6, 2, 24, 28, 36, 0, 0, 0], PduType::H2cData),
    ] {
        assert_eq!(frame(&inbound, &bytes), Err(Violation::DigestFlags(kind)), "{bytes:?}");
    }
    // Terminating and initializing PDUs never have one.
    let end = frame(&inbound, &[2, 0, 24, 0, 24, 0, 0, 0]).expect("without digest");
    assert_eq!(end.header_end(), 24);
    let initialize = frame(&inbound, &[0, 0, 128, 0, 128, 0, 0, 0]).expect("without digest");
    assert_eq!(initialize.header_end(), 128);
}

#[test]
fn every_flipped_bit_of_a_header_with_digest_is_found() {
    let outbound = Outbound { digests: BOTH, alignment: alignment(16) };
    let inbound = inbound(Receiver::Controller, BOTH, alignment(16));
    let mut header = [0; HEADER_MAX];
    let entry = SubmissionEntry::new(0x01).with_sgl(SglDescriptor::in_capsule(4096));
    CapsuleCommand::encode(&entry, 4096, &outbound, &mut header);
    assert!(frame(&inbound, &header).expect("good").check_header(&header).is_ok());
    for bit in 0..76 * 8 {
        let mut flipped = header;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = frame(&inbound, &flipped).and_then(|framed| framed.check_header(&flipped));
        let violation = found.expect_err("a flipped bit");
        if bit >= 8 * 8 {
            let received = u32::from_le_bytes(*flipped[72..].first_chunk().expect("a digest"));
            assert_eq!(violation, Violation::HeaderDigest { received });
            let end = violation.terminate();
            assert_eq!((end.status.0, end.information), (3, received));
        }
    }
}

// Terminating PDUs.

#[test]
fn terminating_pdus_have_the_bytes_of_the_specification() {
    let end =
        TerminateRequest { status: FatalStatus::HEADER_DIGEST_ERROR, information: 0x0403_0201 };
    let mut pdu = [0xEE; TERMINATE_MAX];
    let offending = [7; 24];
    assert_eq!(end.encode(Receiver::Host, &offending, &mut pdu), 48);
    assert_eq!(pdu[..16], [3, 0, 24, 0, 48, 0, 0, 0, 3, 0, 1, 2, 3, 4, 0, 0]);
    assert_eq!(pdu[14..24], [0; 10]);
    assert_eq!(pdu[24..48], offending);
    let framed = frame(&host(), &pdu).expect("a good header");
    assert_eq!((framed.data_offset(), framed.data_length(), framed.length()), (24, 24, 48));
    assert_eq!(TerminateRequest::decode(&framed, &pdu), end);
    assert_eq!(end.encode(Receiver::Controller, &[7; 200], &mut pdu), 152);
    assert_eq!(pdu[..8], [2, 0, 24, 0, 152, 0, 0, 0]);
    assert!(frame(&controller(), &pdu).is_ok());
    assert_eq!(end.encode(Receiver::Controller, &[], &mut pdu), 24);
}

#[test]
fn each_violation_of_order_has_its_status() {
    for (violation, fes, fei) in [
        (Violation::Sequence(PduType::H2cData), 2, 0),
        (Violation::OutOfRange(PduType::H2cData), 4, 0),
        (Violation::DataLimit, 5, 0),
        (Violation::R2tLimit, 5, 0),
        (Violation::CommandId(PduType::C2hData), 1, 8),
        (Violation::TransferTag, 1, 10),
    ] {
        let end = violation.terminate();
        assert_eq!((end.status.0, end.information), (fes, fei), "{violation}");
    }
    assert_eq!(
        Violation::R2tLimit.terminate().status.to_string(),
        "Data Transfer or R2T Limit Exceeded"
    );
    assert_eq!(FatalStatus(9).to_string(), "fatal error status 0009h");
}

#[test]
fn an_alignment_is_one_dword_more_than_its_field_says() {
    for field in 0..=255u8 {
        let alignment = Alignment::from_field(field);
        assert_eq!(alignment.is_some(), field < 32);
        if let Some(alignment) = alignment {
            assert_eq!(alignment.bytes(), (usize::from(field) + 1) * 4);
            assert_eq!(alignment.to_field(), field);
        }
    }
    assert_eq!((Alignment::NONE.bytes(), Alignment::MAX.bytes()), (4, 128));
}

fn digests() -> impl Strategy<Value = Digests> {
    any::<(bool, bool)>().prop_map(|(header, data)| Digests { header, data })
}

fn alignments() -> impl Strategy<Value = Alignment> {
    (0..32u8).prop_map(|field| Alignment::from_field(field).expect("below 32"))
}

proptest! {
    /// What is encoded for the other side decodes there to the same, its parts follow each other,
    /// and the header fits its buffer.
    #[test]
    fn what_one_side_encodes_the_other_decodes(
        digests in digests(),
        alignment in alignments(),
        cid: u16,
        tag: u16,
        offset in 0..1u32 << 30,
        dwords in 1..=DATA_MAX / 4,
        last: bool,
        success: bool,
    ) {
        let outbound = Outbound { digests, alignment };
        let to_controller = inbound(Receiver::Controller, digests, alignment);
        let to_host = inbound(Receiver::Host, digests, alignment);
        let (cid, offset, length) = (Cid(cid), offset * 4, dwords * 4);
        let mut header = [0xEE; HEADER_MAX];

        let h2c = H2cData { cid, transfer_tag: tag, offset, length, last };
        let sent = h2c.encode(&outbound, &mut header);
        let framed = frame(&to_controller, &header).expect("well made");
        prop_assert_eq!(framed.check_header(&header), Ok(()));
        prop_assert_eq!(H2cData::decode(&framed, &header), Ok(h2c));
        prop_assert_eq!((framed.data_offset(), framed.data_length()), (sent, length));
        prop_assert!(framed.header_end() <= sent && sent.is_multiple_of(alignment.bytes()));

        let (capsule, short) = (SubmissionEntry::new(1).with_cid(cid), length % 8192 + 1);
        let sent = CapsuleCommand::encode(&capsule, short, &outbound, &mut header);
        let framed = frame(&to_controller, &header).expect("well made");
        prop_assert_eq!(framed.check_header(&header), Ok(()));
        prop_assert_eq!(*CapsuleCommand::view(&framed, &header), capsule);
        prop_assert_eq!((framed.data_offset(), framed.data_length()), (sent, short));
        prop_assert!(sent.is_multiple_of(alignment.bytes()));

        let c2h = C2hData { cid, offset, length, last, success: success && last };
        let sent = c2h.encode(&outbound, &mut header);
        let framed = frame(&to_host, &header).expect("well made");
        prop_assert_eq!(framed.check_header(&header), Ok(()));
        prop_assert_eq!(C2hData::decode(&framed, &header), Ok(c2h));
        prop_assert_eq!(framed.data_offset(), sent);

        let r2t = R2t { cid, transfer_tag: tag, offset, length };
        let sent = r2t.encode(&outbound, &mut header);
        let framed = frame(&to_host, &header).expect("well made");
        prop_assert_eq!(framed.check_header(&header), Ok(()));
        prop_assert_eq!(R2t::decode(&framed, &header), Ok(r2t));
        prop_assert_eq!(framed.length(), sent);

        let completion = Completion::with_status(cid, Status::INTERNAL_ERROR);
        let sent = CapsuleResponse::encode(&completion, &outbound, &mut header);
        let framed = frame(&to_host, &header).expect("well made");
        prop_assert_eq!(framed.check_header(&header), Ok(()));
        prop_assert_eq!(CapsuleResponse::decode(&framed, &header), completion);
        prop_assert_eq!(framed.length(), sent);
    }

    /// Any bytes are a PDU whose parts lie one behind the other, or a violation.
    #[test]
    fn any_header_is_a_frame_or_a_violation(
        mut bytes in prop::collection::vec(any::<u8>(), 160),
        kind in prop_oneof![0..10u8, any::<u8>()],
        hlen in prop_oneof![Just(24u8), Just(72), Just(128), any::<u8>()],
        plen in prop_oneof![0..200u32, any::<u32>()],
        digests in digests(),
        alignment in alignments(),
    ) {
        bytes[0] = kind;
        bytes[2] = hlen;
        bytes[4..8].copy_from_slice(&plen.to_le_bytes());
        for receiver in [Receiver::Controller, Receiver::Host] {
            match frame(&inbound(receiver, digests, alignment), &bytes) {
                Ok(framed) => {
                    prop_assert_eq!(framed.length(), plen as usize);
                    prop_assert!(framed.header_end() <= framed.data_offset());
                    prop_assert!(framed.data_length() <= DATA_MAX);
                    let _ = framed.check_header(&bytes);
                    match framed.kind() {
                        PduType::H2cData => drop(H2cData::decode(&framed, &bytes)),
                        PduType::C2hData => drop(C2hData::decode(&framed, &bytes)),
                        PduType::R2t => drop(R2t::decode(&framed, &bytes)),
                        PduType::H2cTerminate | PduType::C2hTerminate => {
                            TerminateRequest::decode(&framed, &bytes);
                        }
                        _ => {}
                    }
                }
                Err(violation) => {
                    let end = violation.terminate();
                    prop_assert!(end.status != FatalStatus(0));
                }
            }
        }
    }
}
