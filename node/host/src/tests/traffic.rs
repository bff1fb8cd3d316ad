//! Requests: every operation, data in and out of capsules, pieces, errors.

use fathom_block::Error as BlockError;
use fathom_nvme::{
    Completion as NvmeCompletion, Status,
    nvm::{Control, NvmCommand},
    tcp::{CapsuleResponse, HEADER_MAX},
};
use proptest::prelude::*;

use super::*;

fn bench(queues: u16, entries: u32) -> Bench {
    Bench::live(config(queues, entries), Peer::new(256))
}

#[test]
fn every_operation_does_what_it_says() {
    let mut bench = bench(1, 8);
    bench.write(1, 2, 2, 0x11);
    bench.run();
    bench.submit(2, Operation::Read, 1, 4);
    bench.run();
    let mut expected = vec![0; 4 * 4096];
    expected[4096..3 * 4096].fill(0x11);
    assert_eq!(bench.memory[&RequestId(2)], expected);
    bench.memory.insert(RequestId(3), vec![0x11; 4096]);
    bench.submit(3, Operation::Compare, 2, 1);
    bench.memory.insert(RequestId(4), vec![0x12; 4096]);
    bench.submit(4, Operation::Compare, 3, 1);
    bench.submit(5, Operation::Flush, 0, 0);
    bench.submit(6, Operation::WriteZeroes, 2, 1);
    bench.run();
    bench.host.deallocate(bench.now, RequestId(7), Lba(3), BlockCount(1)).expect("accepted");
    bench.run();
    assert!(bench.peer.medium.iter().all(|byte| *byte == 0));
    assert_eq!(bench.result(4), Some(Err(BlockError::CompareFailure)));
    for id in [1, 2, 3, 5, 6, 7] {
        assert_eq!(bench.result(id), Some(Ok(())), "{id}");
    }
    assert_eq!(bench.host.outstanding(), 0);
}

#[test]
fn flags_reach_the_controller() {
    let mut bench = bench(1, 8);
    bench.submit(1, Operation::Write { fua: true }, 0, 1);
    bench.submit(2, Operation::WriteZeroes, 0, 1);
    bench.run();
    let controls: Vec<Control> = bench
        .peer
        .executed
        .iter()
        .map(|command| match command {
            NvmCommand::Write(write) => write.control,
            NvmCommand::WriteZeroes(zeroes) => zeroes.control,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(controls, [Control::FORCE_UNIT_ACCESS, Control::DEALLOCATE]);
}

#[test]
fn compare_and_write_is_one_operation() {
    let mut bench = bench(1, 8);
    let swap = |bench: &mut Bench, id: u64, old: u8, new: u8, blocks: u64| {
        let bytes = usize::try_from(blocks * 4096).expect("small");
        let data = [vec![old; bytes], vec![new; bytes]].concat();
        bench.memory.insert(RequestId(id), data);
        bench.submit(id, Operation::CompareAndWrite { fua: false }, 4, blocks);
        bench.run();
    };
    swap(&mut bench, 1, 0, 1, 2);
    assert_eq!(bench.result(1), Some(Ok(())));
    swap(&mut bench, 2, 0, 2, 2);
    assert_eq!(bench.result(2), Some(Err(BlockError::CompareFailure)));
    assert_eq!(bench.peer.medium[4 * 4096..6 * 4096], [1; 8192]);
    // ACWU of the controller is two blocks.
    let request = Request {
        id: RequestId(3),
        operation: Operation::CompareAndWrite { fua: false },
        lba: Lba(0),
        blocks: BlockCount(3),
    };
    let refused = bench.host.submit(bench.now, request).expect_err("too large");
    assert_eq!(refused.why, Why::Malformed(BlockError::InvalidField));
    // Two commands need two places.
    let mut narrow = Bench::live(config(1, 2), Peer::new(256));
    let request = Request { blocks: BlockCount(1), ..request };
    let refused = narrow.host.submit(narrow.now, request).expect_err("no room, ever");
    assert_eq!(refused, Refused { request, why: Why::Unsupported });
}

#[test]
fn large_writes_are_asked_for_and_large_requests_cut() {
    let mut peer = Peer::new(256);
    peer.r2t_bytes = 20_480;
    peer.max_h2c_data = 8192;
    peer.c2h_bytes = 12_288;
    let mut bench = Bench::live(config(2, 4), peer);
    // MDTS is 32 pages.
    bench.memory.insert(RequestId(1), (0..100u8).flat_map(|block| [block; 4096]).collect());
    bench.submit(1, Operation::Write { fua: false }, 5, 100);
    bench.run();
    assert_eq!(bench.result(1), Some(Ok(())));
    assert_eq!(bench.peer.executed.len(), 4);
    assert_eq!(bench.peer.medium[5 * 4096..105 * 4096], bench.memory[&RequestId(1)]);
    bench.submit(2, Operation::Read, 5, 100);
    bench.run();
    assert_eq!(bench.memory[&RequestId(2)], bench.memory[&RequestId(1)]);
    assert_eq!(bench.result(2), Some(Ok(())));
}

#[test]
fn responses_with_and_without_success_flag_are_the_same() {
    for success in [false, true] {
        let mut peer = Peer::new(64);
        peer.success = success;
        peer.medium.fill(7);
        let mut bench = Bench::live(config(1, 8), peer);
        bench.submit(1, Operation::Read, 0, 3);
        bench.run();
        assert_eq!(bench.result(1), Some(Ok(())));
        assert_eq!(bench.memory[&RequestId(1)], vec![7; 3 * 4096]);
    }
}

#[test]
fn more_requests_than_places_wait_their_turn() {
    let mut bench = bench(2, 4);
    bench.peer.hold = true;
    for id in 0..50 {
        bench.write(id, id, 1, 1);
    }
    bench.run();
    assert_eq!(bench.peer.held.len(), 6, "two queues with three places");
    assert_eq!(bench.host.outstanding(), 50);
    bench.peer.let_go();
    bench.run();
    assert_eq!(bench.completions.len(), 50);
    assert!(bench.completions.iter().all(|done| done.result == Ok(())));
}

#[test]
fn what_cannot_be_done_is_refused_with_the_request() {
    let mut bench = bench(1, 8);
    let mut refused = |operation, lba, blocks| {
        let request =
            Request { id: RequestId(1), operation, lba: Lba(lba), blocks: BlockCount(blocks) };
        let refused = bench.host.submit(bench.now, request).expect_err("refused");
        assert_eq!(refused.request, request);
        refused.why
    };
    let out_of_range = Why::Malformed(BlockError::LbaOutOfRange);
    assert_eq!(refused(Operation::Read, 256, 1), out_of_range);
    assert_eq!(refused(Operation::Read, 255, 2), out_of_range);
    assert_eq!(refused(Operation::Read, u64::MAX, 2), out_of_range);
    assert_eq!(refused(Operation::Read, 0, 0), Why::Malformed(BlockError::InvalidField));
    let mut peer = Peer::new(8);
    peer.identity.io_commands = fathom_nvme::identify::IoCommands::empty();
    let mut plain = Bench::live(config(1, 8), peer);
    for operation in
        [Operation::WriteZeroes, Operation::Compare, Operation::CompareAndWrite { fua: false }]
    {
        let request = Request { id: RequestId(1), operation, lba: Lba(0), blocks: BlockCount(1) };
        let refused = plain.host.submit(plain.now, request).expect_err("not supported");
        assert_eq!(refused.why, Why::Unsupported);
    }
    let refused = plain.host.deallocate(plain.now, RequestId(1), Lba(0), BlockCount(1));
    assert_eq!(refused.expect_err("not supported").why, Why::Unsupported);
    let mut early = Host::new(config(1, 8)).expect("good");
    let request = Request {
        id: RequestId(1),
        operation: Operation::Flush,
        lba: Lba(0),
        blocks: BlockCount(0),
    };
    let refused = early.submit(Monotonic(0), request).expect_err("not started");
    assert_eq!(refused.why, Why::NotLive);
}

/// A bench whose controller answers so many I/O commands with this status.
fn failing(status: Status, mut times: usize) -> Bench {
    let mut bench = bench(1, 8);
    bench.peer.hook = Some(Box::new(move |entry, outbound| {
        times = times.checked_sub(1)?;
        let completion = NvmeCompletion::with_status(entry.cid(), status);
        let mut header = [0; HEADER_MAX];
        let length = CapsuleResponse::encode(&completion, outbound, &mut header);
        Some(header[..length].to_vec())
    }));
    bench
}

#[test]
fn each_status_has_its_error() {
    for (status, error) in [
        (Status::LBA_OUT_OF_RANGE, BlockError::LbaOutOfRange),
        (Status::CAPACITY_EXCEEDED.do_not_retry(), BlockError::CapacityExceeded),
        (Status::COMPARE_FAILURE, BlockError::CompareFailure),
        (Status::NAMESPACE_IS_WRITE_PROTECTED, BlockError::ReadOnly),
        (Status::UNRECOVERED_READ_ERROR, BlockError::ReadFault),
        (Status::WRITE_FAULT, BlockError::WriteFault),
        (Status::INVALID_FIELD, BlockError::InvalidField),
        (Status::ANA_INACCESSIBLE, BlockError::NotReady),
        (Status::new(7, 0xFF), BlockError::NotReady),
    ] {
        let mut bench = failing(status, 1);
        bench.submit(1, Operation::Read, 0, 1);
        bench.run();
        assert_eq!(bench.result(1), Some(Err(error)), "{status}");
        assert_eq!(bench.failed, Some(status));
        assert!(bench.is_live());
    }
}

#[test]
fn what_passes_is_tried_again_a_few_times() {
    for operation in [Operation::Read, Operation::Write { fua: false }, Operation::Flush] {
        let mut bench = failing(Status::TRANSIENT_TRANSPORT_ERROR, 5);
        bench.submit(1, operation, 0, 1);
        bench.run();
        assert_eq!(bench.result(1), Some(Ok(())));
        let mut bench = failing(Status::TRANSIENT_TRANSPORT_ERROR, 6);
        bench.submit(1, operation, 0, 1);
        bench.run();
        assert_eq!(bench.result(1), Some(Err(BlockError::NotReady)));
        let mut bench = failing(Status::COMMAND_INTERRUPTED.do_not_retry(), 1);
        bench.submit(1, operation, 0, 1);
        bench.run();
        assert_eq!(bench.result(1), Some(Err(BlockError::NotReady)));
    }
}

#[test]
fn nothing_is_sent_on_a_connection_that_is_paused() {
    let mut bench = bench(2, 8);
    let [_, first, second] = bench.opened[..] else { panic!("{:?}", bench.opened) };
    bench.host.pause(first);
    for id in 0..4 {
        bench.write(id, id, 1, 1);
    }
    bench.run();
    let done = |bench: &Bench| (0..4).filter(|id| bench.result(*id).is_some()).count();
    assert_eq!(done(&bench), 2, "those of the other connection");
    bench.host.pause(second);
    bench.host.resume(first);
    bench.run();
    assert_eq!(done(&bench), 4);
}

#[test]
fn an_error_of_one_piece_is_that_of_the_request_and_others_go_on() {
    let mut bench = failing(Status::WRITE_FAULT, 1);
    bench.submit(1, Operation::Write { fua: false }, 0, 200);
    bench.write(2, 200, 1, 9);
    bench.run();
    assert_eq!(bench.result(1), Some(Err(BlockError::WriteFault)));
    assert_eq!(bench.result(2), Some(Ok(())));
    assert_eq!(bench.host.outstanding(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random requests, one after another or all at once, do to the medium what they do to an array
    /// in the order of their submission.
    #[test]
    fn requests_do_what_they_do_to_an_array(
        digests in any::<(bool, bool)>(),
        queues in 1..4u16,
        entries in 3..9u32,
        sizes in (1..40usize, 1..40usize, 1..40u32),
        alignments in (0..32u8, 0..32u8),
        at_once: bool,
        success: bool,
        cut in prop_oneof![Just(usize::MAX), 1..5000usize],
        steps in prop::collection::vec((0..6u8, 0..64u64, 1..80u64, any::<u8>()), 1..24),
    ) {
        let mut peer = Peer::new(144);
        (peer.r2t_bytes, peer.c2h_bytes) = (sizes.0 * 1024, sizes.1 * 1024);
        peer.max_h2c_data = sizes.2 * 1024;
        peer.success = success;
        let mut config = config(queues, entries);
        peer.alignment = Alignment::from_field(alignments.0).expect("below 32");
        config.alignment = Alignment::from_field(alignments.1).expect("below 32");
        config.digests = Digests { header: digests.0, data: digests.1 };
        let mut bench = Bench::live(config, peer);
        bench.cut = cut;
        let mut medium = vec![0u8; 144 * 4096];
        let mut results = Vec::new();
        let mut reads = Vec::new();
        for (id, (kind, lba, blocks, byte)) in steps.into_iter().enumerate() {
            let id = id as u64;
            let start = usize::try_from(lba * 4096).expect("small");
            let range = start..start + usize::try_from(blocks * 4096).expect("small");
            let mut expected = Ok(());
            match kind {
                0 | 1 => {
                    bench.write(id, lba, blocks, byte);
                    medium[range].fill(byte);
                }
                2 => {
                    bench.submit(id, Operation::WriteZeroes, lba, blocks);
                    medium[range].fill(0);
                }
                3 => {
                    bench.submit(id, Operation::Read, lba, blocks);
                    reads.push((id, medium[range].to_vec()));
                }
                4 => {
                    bench.memory.insert(RequestId(id), vec![byte; range.len()]);
                    bench.submit(id, Operation::Compare, lba, blocks);
                    if medium[range].iter().any(|found| *found != byte) {
                        expected = Err(BlockError::CompareFailure);
                    }
                }
                _ => bench.submit(id, Operation::Flush, 0, 0),
            }
            results.push((id, expected));
            if !at_once {
                bench.run();
                prop_assert!(bench.peer.medium == medium);
            }
        }
        bench.run();
        prop_assert!(bench.peer.medium == medium);
        for (id, expected) in results {
            prop_assert_eq!(bench.result(id), Some(expected), "{}", id);
        }
        for (id, expected) in reads {
            prop_assert!(bench.memory[&RequestId(id)] == expected, "{}", id);
        }
        prop_assert_eq!(bench.host.outstanding(), 0);
    }
}
