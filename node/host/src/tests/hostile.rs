//! Controllers that break the rules: each ends the association with a named error, and none the
//! host.

use fathom_nvme::{
    Completion as NvmeCompletion, SubmissionEntry,
    tcp::{
        C2hData, CapsuleResponse, FatalStatus, HEADER_MAX, InitializeResponse, Outbound, PduType,
        R2t, Receiver, TERMINATE_MAX, TerminateRequest, Violation,
    },
};
use fathom_units::{Cid, Qid};
use proptest::prelude::*;

use super::{peer::c2h, *};

/// What a live host says when its request is answered with these bytes.
fn answered(
    operation: Operation,
    blocks: u64,
    answer: impl FnMut(&SubmissionEntry, &Outbound) -> Option<Vec<u8>> + 'static,
) -> Bench {
    let mut bench = Bench::live(config(1, 8), Peer::new(64));
    bench.peer.hook = Some(Box::new(answer));
    bench.submit(1, operation, 0, blocks);
    bench.run();
    bench
}

fn violated(bench: &Bench, violation: Violation) {
    assert_eq!(bench.lost(), Some(Error::Violation { queue: Qid(1), violation }));
    assert_eq!(bench.peer.terminated, Some(violation.terminate()), "the controller is told");
    assert!(bench.result(1).is_none() && !bench.is_live());
}

fn response(completion: &NvmeCompletion, outbound: &Outbound) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let length = CapsuleResponse::encode(completion, outbound, &mut header);
    header[..length].to_vec()
}

fn data(cid: Cid, offset: u32, length: u32, outbound: &Outbound) -> Vec<u8> {
    let pdu = C2hData { cid, offset, length, last: false, success: false };
    c2h(&pdu, &vec![1; length as usize], outbound)
}

fn r2t(cid: Cid, offset: u32, length: u32, outbound: &Outbound) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let length = R2t { cid, transfer_tag: 1, offset, length }.encode(outbound, &mut header);
    header[..length].to_vec()
}

#[test]
fn an_unknown_command_identifier_is_a_violation() {
    let other = |entry: &SubmissionEntry| Cid(entry.cid().0 ^ 1);
    let bench = answered(Operation::Read, 1, move |entry, outbound| {
        Some(response(&NvmeCompletion::success(other(entry)), outbound))
    });
    violated(&bench, Violation::CommandId(PduType::CapsuleResponse));
    let bench = answered(Operation::Read, 1, move |entry, outbound| {
        Some(data(other(entry), 0, 4096, outbound))
    });
    violated(&bench, Violation::CommandId(PduType::C2hData));
    let bench = answered(Operation::Write { fua: false }, 8, move |entry, outbound| {
        Some(r2t(other(entry), 0, 4096, outbound))
    });
    violated(&bench, Violation::CommandId(PduType::R2t));
    // An identifier of an earlier use of the slot.
    let bench = answered(Operation::Read, 1, |entry, outbound| {
        Some(response(&NvmeCompletion::success(Cid(entry.cid().0 ^ 1 << 10)), outbound))
    });
    violated(&bench, Violation::CommandId(PduType::CapsuleResponse));
}

#[test]
fn an_answer_comes_once() {
    let bench = answered(Operation::Flush, 0, |entry, outbound| {
        let once = response(&NvmeCompletion::success(entry.cid()), outbound);
        Some([once.clone(), once].concat())
    });
    assert_eq!(bench.result(1), Some(Ok(())));
    let violation = Violation::CommandId(PduType::CapsuleResponse);
    assert_eq!(bench.lost(), Some(Error::Violation { queue: Qid(1), violation }));
}

#[test]
fn data_that_is_not_where_it_belongs_is_a_violation() {
    for (offset, length, violation) in [
        (4096, 4096, Violation::Sequence(PduType::C2hData)),
        (0, 8196, Violation::OutOfRange(PduType::C2hData)),
        (0, 1 << 20, Violation::OutOfRange(PduType::C2hData)),
    ] {
        let bench = answered(Operation::Read, 2, move |entry, outbound| {
            Some(data(entry.cid(), offset, length, outbound))
        });
        violated(&bench, violation);
    }
    let bench = answered(Operation::Read, 2, |entry, outbound| {
        let one = data(entry.cid(), 0, 4096, outbound);
        Some([one.clone(), one].concat())
    });
    violated(&bench, Violation::Sequence(PduType::C2hData));
    let bench = answered(Operation::Read, 2, |entry, outbound| {
        let last =
            C2hData { cid: entry.cid(), offset: 0, length: 4096, last: true, success: false };
        let more = data(entry.cid(), 4096, 4096, outbound);
        Some([c2h(&last, &[1; 4096], outbound), more].concat())
    });
    violated(&bench, Violation::Sequence(PduType::C2hData));
}

#[test]
fn data_that_nobody_asked_for_is_a_violation() {
    for operation in [Operation::Flush, Operation::Write { fua: false }] {
        let bench =
            answered(operation, 1, |entry, outbound| Some(data(entry.cid(), 0, 4096, outbound)));
        violated(&bench, Violation::Sequence(PduType::C2hData));
    }
}

#[test]
fn success_without_all_data_is_found_out() {
    let bench = answered(Operation::Read, 2, |entry, outbound| {
        let part = data(entry.cid(), 0, 4096, outbound);
        Some([part, response(&NvmeCompletion::success(entry.cid()), outbound)].concat())
    });
    assert_eq!(bench.lost(), Some(Error::MissingData(Qid(1))));
    let bench = answered(Operation::Read, 2, |entry, outbound| {
        let part = C2hData { cid: entry.cid(), offset: 0, length: 4096, last: true, success: true };
        Some(c2h(&part, &[1; 4096], outbound))
    });
    assert_eq!(bench.lost(), Some(Error::MissingData(Qid(1))));
    let bench = answered(Operation::Write { fua: false }, 8, |entry, outbound| {
        Some(response(&NvmeCompletion::success(entry.cid()), outbound))
    });
    assert_eq!(bench.lost(), Some(Error::MissingData(Qid(1))));
    assert_eq!(bench.result(1), None, "the write waits to be fenced");
}

#[test]
fn an_r2t_out_of_range_is_a_violation() {
    for (offset, length, violation) in [
        (4096, 4096, Violation::Sequence(PduType::R2t)),
        (0, 32_772, Violation::OutOfRange(PduType::R2t)),
        (0, !3, Violation::OutOfRange(PduType::R2t)),
        (!3, 4, Violation::Sequence(PduType::R2t)),
        (2, 4, Violation::Offset(PduType::R2t)),
        (0, 0, Violation::DataLength(PduType::R2t)),
    ] {
        let bench = answered(Operation::Write { fua: false }, 8, move |entry, outbound| {
            Some(r2t(entry.cid(), offset, length, outbound))
        });
        violated(&bench, violation);
    }
    let bench = answered(Operation::Write { fua: false }, 8, |entry, outbound| {
        let one = r2t(entry.cid(), 0, 4096, outbound);
        let two = r2t(entry.cid(), 4096, 4096, outbound);
        Some([one, two].concat())
    });
    violated(&bench, Violation::R2tLimit);
    let bench =
        answered(Operation::Read, 8, |entry, outbound| Some(r2t(entry.cid(), 0, 4096, outbound)));
    violated(&bench, Violation::Sequence(PduType::R2t));
}

#[test]
fn an_error_in_the_middle_of_a_write_is_no_violation() {
    let mut peer = Peer::new(64);
    peer.max_h2c_data = 4096;
    let mut bench = Bench::live(config(1, 8), peer);
    bench.peer.hook = Some(Box::new(|entry, outbound| {
        let failed = NvmeCompletion::with_status(entry.cid(), fathom_nvme::Status::WRITE_FAULT);
        Some([r2t(entry.cid(), 0, 16_384, outbound), response(&failed, outbound)].concat())
    }));
    bench.submit(1, Operation::Write { fua: false }, 0, 8);
    while let Some(action) = bench.host.poll() {
        bench.act(action);
    }
    let (connection, bytes) = bench.peer.said.pop_front().expect("R2T and error");
    bench.receive(connection, &bytes);
    assert!(!matches!(bench.host.poll(), Some(Action::Send { .. })), "nothing more of it is sent");
    assert!(bench.is_live() && bench.host.outstanding() == 0);
}

#[test]
fn pdus_out_of_order_are_violations() {
    let mut bench = Bench::live(config(1, 8), Peer::new(64));
    let connection = *bench.opened.last().expect("opened");
    let again = InitializeResponse {
        alignment: Alignment::NONE,
        digests: Digests::default(),
        max_h2c_data: 4096,
    };
    bench.peer.say(connection, &again.encode());
    bench.run();
    let violation = Violation::Sequence(PduType::InitializeResponse);
    assert_eq!(bench.lost(), Some(Error::Violation { queue: Qid(1), violation }));

    let mut peer = Peer::new(64);
    peer.silent = true;
    let mut bench = Bench::new(config(1, 8), peer);
    bench.run();
    let connection = *bench.opened.last().expect("opened");
    let plain = Outbound { digests: Digests::default(), alignment: Alignment::NONE };
    bench.peer.say(connection, &response(&NvmeCompletion::success(Cid(0)), &plain));
    bench.run();
    let violation = Violation::Sequence(PduType::CapsuleResponse);
    assert_eq!(bench.lost(), Some(Error::Violation { queue: Qid(0), violation }));
}

#[test]
fn a_controller_that_ends_the_connection_says_why() {
    let mut bench = Bench::live(config(1, 8), Peer::new(64));
    let connection = *bench.opened.last().expect("opened");
    let status = FatalStatus::DATA_TRANSFER_OUT_OF_RANGE;
    let end = TerminateRequest { status, information: 0x1234 };
    let mut pdu = [0; TERMINATE_MAX];
    let length = end.encode(Receiver::Host, &[1; 72], &mut pdu);
    bench.peer.say(connection, &pdu[..length]);
    bench.run();
    let error = Error::Terminated { queue: Qid(1), status, information: 0x1234 };
    assert_eq!(bench.lost(), Some(error));
    assert_eq!(bench.peer.terminated, None, "it is not answered");
}

#[test]
fn a_wrong_header_digest_is_a_violation_and_a_wrong_data_digest_is_not() {
    let digests = Digests { header: true, data: true };
    let with_digests = || {
        let mut config = config(1, 8);
        config.digests = digests;
        Bench::live(config, Peer::new(64))
    };
    let mut bench = with_digests();
    bench.peer.hook = Some(Box::new(|entry, outbound| {
        let mut bytes = response(&NvmeCompletion::success(entry.cid()), outbound);
        bytes[9] ^= 1;
        Some(bytes)
    }));
    bench.submit(1, Operation::Flush, 0, 0);
    bench.run();
    let Some(Error::Violation { violation: Violation::HeaderDigest { .. }, .. }) = bench.lost()
    else {
        panic!("{:?}", bench.lost())
    };

    let mut bench = with_digests();
    bench.peer.medium.fill(6);
    let mut times = 1;
    bench.peer.hook = Some(Box::new(move |entry, outbound| {
        times = u32::checked_sub(times, 1)?;
        let all = C2hData { cid: entry.cid(), offset: 0, length: 4096, last: true, success: true };
        let mut bytes = c2h(&all, &[5; 4096], outbound);
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
        Some(bytes)
    }));
    bench.submit(1, Operation::Read, 0, 1);
    bench.run();
    assert!(bench.is_live());
    assert_eq!(bench.result(1), Some(Ok(())), "it is read again");
    assert_eq!(bench.memory[&RequestId(1)], vec![6; 4096]);
}

#[test]
fn what_comes_on_a_closed_connection_is_ignored() {
    let mut bench = Bench::live(config(1, 8), Peer::new(64));
    let connection = *bench.opened.last().expect("opened");
    bench.host.closed(bench.now, connection);
    bench.run();
    assert_eq!(bench.host.receive(bench.now, connection, &[9; 64]), Received::Done);
    bench.host.closed(bench.now, connection);
    bench.host.opened(bench.now, connection);
    let unknown = ConnectionId { association: AssociationId(9), queue: Qid(70) };
    assert_eq!(bench.host.receive(bench.now, unknown, &[9; 64]), Received::Done);
    assert!(bench.host.poll().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes, at any moment of setting up or of use, end in an error or do nothing.
    #[test]
    fn any_bytes_end_in_an_error_or_do_nothing(
        turns in 0..12usize,
        queue in 0..3u16,
        mut bytes in prop::collection::vec(any::<u8>(), 1..400),
        kind in prop_oneof![Just(1u8), Just(3), Just(5), Just(7), Just(9), any::<u8>()],
        shape in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bench = Bench::new(config(2, 8), Peer::new(64));
        for _ in 0..turns {
            while let Some(action) = bench.host.poll() {
                bench.act(action);
            }
            let Some((connection, mut said)) = bench.peer.said.pop_front() else { break };
            if turns % 2 == 1 {
                for (at, value) in &changes {
                    let at = at.index(said.len());
                    said[at] = *value;
                    // What the host says from now on need not make sense to a good controller.
                    bench.peer.deaf = true;
                }
            }
            bench.receive(connection, &said);
        }
        if shape && bytes.len() >= 24 {
            let header = match kind { 1 => 128, _ => 24 };
            bytes[..8].copy_from_slice(&[kind, 0, header, 24, 0, 0, 0, 0]);
            let plen = u32::try_from(bytes.len()).expect("short");
            bytes[4..8].copy_from_slice(&plen.to_le_bytes());
        }
        bench.peer.deaf = true;
        if bench.is_live() {
            bench.submit(1, Operation::Read, 0, 4);
            bench.write(2, 0, 16, 1);
        }
        let association = bench.opened.last().map_or(AssociationId(1), |last| last.association);
        bench.receive(ConnectionId { association, queue: Qid(queue) }, &bytes);
        bench.run();
        bench.wait(100 * SECOND);
        prop_assert!(bench.host.outstanding() <= 2);
    }
}
