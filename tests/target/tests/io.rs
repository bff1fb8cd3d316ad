//! Commands of an I/O queue, from their bytes to the device and back.

#![expect(clippy::cast_possible_truncation, reason = "what is drawn or counted is small")]

use fathom_block::{Error, Operation};
use fathom_nvme::{
    Status, SubmissionEntry,
    nvm::{
        Control, DatasetAttributes, DatasetManagement, DatasetRange, NvmCommand, Range, Transfer,
        WriteZeroes,
    },
    sgl::SglDescriptor,
    submission::Fuse,
    tcp::Digests,
};
use fathom_test_target::{
    host::{Host, Received, transfer},
    rig::{BLOCKS, DEVICE, Rig},
};
use fathom_units::{BlockCount, Lba, Nsid};

const DIGESTS: [Digests; 4] = [
    Digests { header: false, data: false },
    Digests { header: true, data: false },
    Digests { header: false, data: true },
    Digests { header: true, data: true },
];

fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 512) as u8 ^ at as u8 ^ seed).collect()
}

fn sgl(bytes: usize) -> SglDescriptor {
    SglDescriptor::transport(u32::try_from(bytes).expect("short"))
}

#[test]
fn what_was_written_is_read_with_and_without_digests() {
    for digests in DIGESTS {
        let mut rig = Rig::new();
        let (_admin, mut io) = Host::pair(&mut rig, digests);
        for (seed, blocks) in [(1, 1_usize), (2, 5), (3, 64)] {
            let data = pattern(seed, blocks * 4096);
            assert_eq!(io.write(&mut rig, 10, &data), Status::SUCCESS);
            let reply = io.read(&mut rig, 10, blocks as u64);
            assert_eq!(reply.completion.status, Status::SUCCESS);
            assert!(reply.data == data, "{digests:?}, {blocks} blocks");
        }
        assert!(rig.peers.values().all(|peer| peer.memory.is_empty()), "no memory is left behind");
    }
}

#[test]
fn data_in_the_capsule_is_taken_from_there() {
    for digests in DIGESTS {
        let mut rig = Rig::new();
        let (_admin, mut io) = Host::pair(&mut rig, digests);
        let data = pattern(9, 16 << 10);
        let entry = NvmCommand::Write(transfer(3, data.len())).entry(Nsid(1));
        let reply = io.command_in_capsule(&mut rig, entry, &data);
        assert_eq!(reply.completion.status, Status::SUCCESS);
        assert!(rig.devices[&DEVICE][3 * 4096..][..data.len()] == data);
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests { header: true, data: true });
    let data = pattern(4, 4096);
    let entry = NvmCommand::Write(transfer(1, 4096)).entry(Nsid(1));
    let cid = io.cid();
    let bytes = io.capsule(entry.with_cid(cid).with_sgl(SglDescriptor::in_capsule(4096)), &data);
    for byte in &bytes {
        rig.send(io.id, &[*byte]);
    }
    assert_eq!(io.finish(&mut rig, cid, &[]).completion.status, Status::SUCCESS);
    assert!(rig.devices[&DEVICE][4096..8192] == data);
}

#[test]
fn each_error_of_a_device_is_a_status() {
    for (error, status) in [
        (Error::LbaOutOfRange, Status::LBA_OUT_OF_RANGE.do_not_retry()),
        (Error::CapacityExceeded, Status::CAPACITY_EXCEEDED.do_not_retry()),
        (Error::WriteFault, Status::WRITE_FAULT),
        (Error::ReadOnly, Status::NAMESPACE_IS_WRITE_PROTECTED.do_not_retry()),
        (Error::NotReady, Status::NAMESPACE_NOT_READY),
    ] {
        let mut rig = Rig::new();
        let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
        rig.fault = Some(error);
        assert_eq!(io.write(&mut rig, 0, &pattern(0, 4096)), status);
        rig.fault = None;
        assert_eq!(io.write(&mut rig, 0, &pattern(0, 4096)), Status::SUCCESS);
    }
}

#[test]
fn a_range_beyond_the_end_is_refused_by_the_device() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let refused = Status::LBA_OUT_OF_RANGE.do_not_retry();
    assert_eq!(io.read(&mut rig, BLOCKS, 1).completion.status, refused);
    assert_eq!(io.read(&mut rig, u64::MAX, 2).completion.status, refused);
    assert_eq!(io.write(&mut rig, BLOCKS - 1, &pattern(0, 8192)), refused);
}

#[test]
fn commands_that_cannot_be_are_refused_by_name() {
    let read = |nsid, bytes| NvmCommand::Read(transfer(0, bytes)).entry(Nsid(nsid));
    let unknown = SubmissionEntry::new(0x7E).with_nsid(Nsid(1));
    let cases = [
        (read(2, 4096).with_sgl(sgl(4096)), Status::INVALID_NAMESPACE_OR_FORMAT),
        (read(1, 4096).with_sgl(sgl(8192)), Status::DATA_SGL_LENGTH_INVALID),
        (read(1, 8192).with_sgl(sgl(4096)), Status::DATA_SGL_LENGTH_INVALID),
        (
            read(1, 4096).with_sgl(SglDescriptor::new(0, 4096, 0x40)),
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
        ),
        (read(1, 2 << 20).with_sgl(sgl(2 << 20)), Status::INVALID_FIELD),
        (unknown, Status::INVALID_OPCODE),
    ];
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    for (entry, status) in cases {
        let reply = io.command(&mut rig, entry, &[]);
        assert_eq!(reply.completion.status, status.do_not_retry(), "{entry:?}");
    }
    assert!(rig.log.is_empty(), "nothing has reached the device");
}

#[test]
fn fua_reaches_the_device_in_every_kind_of_command() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let control = Control::FORCE_UNIT_ACCESS;
    let fua = Transfer { control, ..transfer(5, 4096) };
    let range = Range { lba: Lba(5), blocks: BlockCount(1) };
    for entry in [
        NvmCommand::Write(fua).entry(Nsid(1)).with_sgl(sgl(4096)),
        NvmCommand::Read(fua).entry(Nsid(1)).with_sgl(sgl(4096)),
        NvmCommand::WriteZeroes(WriteZeroes { range, control }).entry(Nsid(1)),
    ] {
        let reply = io.command(&mut rig, entry, &pattern(1, 4096));
        assert_eq!(reply.completion.status, Status::SUCCESS);
    }
    let operations: Vec<Operation> = rig.log.iter().map(|entry| entry.1).collect();
    let expected = [
        Operation::Write { fua: true },
        Operation::Flush,
        Operation::Read,
        Operation::WriteZeroes,
        Operation::Flush,
    ];
    assert_eq!(operations, expected);
}

fn dataset(ranges: &[(u64, u64)], attributes: DatasetAttributes) -> (SubmissionEntry, Vec<u8>) {
    let encode = |&(lba, blocks): &(u64, u64)| {
        DatasetRange { attributes: 0, blocks: BlockCount(blocks), lba: Lba(lba) }.encode()
    };
    let data: Vec<u8> = ranges.iter().flat_map(encode).collect();
    let count = u16::try_from(ranges.len()).expect("few");
    let command = DatasetManagement { ranges: count, attributes };
    let entry = NvmCommand::DatasetManagement(command).entry(Nsid(1));
    (entry.with_sgl(sgl(data.len())), data)
}

#[test]
fn deallocating_zeroes_each_range_and_nothing_else() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests { header: true, data: true });
    rig.devices.get_mut(&DEVICE).expect("there").fill(0xAB);
    let ranges: Vec<(u64, u64)> = (0..100).map(|at| (at * 2, u64::from(at != 3))).collect();
    let (entry, data) = dataset(&ranges, DatasetAttributes::DEALLOCATE);
    assert_eq!(io.command(&mut rig, entry, &data).completion.status, Status::SUCCESS);
    for block in 0..256_usize {
        let gone = block < 200 && block % 2 == 0 && block != 6;
        let byte = if gone { 0 } else { 0xAB };
        assert!(rig.devices[&DEVICE][block * 4096..][..4096].iter().all(|b| *b == byte), "{block}");
    }
}

#[test]
fn dataset_hints_change_nothing_and_bad_ranges_fail() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let (entry, data) = dataset(&[(0, 4)], DatasetAttributes::INTEGRAL_READ);
    assert_eq!(io.command(&mut rig, entry, &data).completion.status, Status::SUCCESS);
    assert!(rig.log.is_empty());
    // Linux gives room for 256 ranges, however many there are.
    let (entry, mut data) = dataset(&[(0, 1)], DatasetAttributes::DEALLOCATE);
    rig.devices.get_mut(&DEVICE).expect("there").fill(1);
    let asked = data.clone();
    let reply = io.command(&mut rig, entry.with_sgl(sgl(4096)), &asked);
    assert_eq!(reply.completion.status, Status::SUCCESS);
    data.resize(4096, 0xFF);
    assert_eq!(io.command_in_capsule(&mut rig, entry, &data).completion.status, Status::SUCCESS);
    assert_eq!(rig.log.len(), 2, "what is behind the one range is no range");
    let (entry, data) = dataset(&[(0, 1), (BLOCKS, 1)], DatasetAttributes::DEALLOCATE);
    let refused = Status::LBA_OUT_OF_RANGE.do_not_retry();
    assert_eq!(io.command(&mut rig, entry, &data).completion.status, refused);
}

/// Sends a Compare and a Write as one fused operation; returns their statuses.
fn compare_and_write(rig: &mut Rig, io: &mut Host, old: &[u8], new: &[u8]) -> [Status; 2] {
    let compare = NvmCommand::Compare(transfer(8, old.len())).entry(Nsid(1));
    let write = NvmCommand::Write(transfer(8, new.len())).entry(Nsid(1));
    let cids = [io.cid(), io.cid()];
    let compare = compare.with_fuse(Fuse::First).with_cid(cids[0]).with_sgl(sgl(old.len()));
    let write = write.with_fuse(Fuse::Second).with_cid(cids[1]).with_sgl(sgl(new.len()));
    io.send_capsule(rig, compare, &[]);
    io.send_capsule(rig, write, &[]);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        for received in io.receive(rig) {
            match received {
                Received::R2t(r2t) => {
                    let data = if r2t.cid == cids[0] { old } else { new };
                    io.answer_r2t(rig, &r2t, data);
                }
                Received::Completion(completion) => {
                    statuses.push((completion.cid, completion.status));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    statuses.sort_unstable_by_key(|(cid, _)| *cid);
    match statuses[..] {
        [(first, compare), (second, write)] if [first, second] == cids => [compare, write],
        _ => panic!("{statuses:?}"),
    }
}

#[test]
fn a_fused_compare_and_write_is_one_request() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests { header: true, data: true });
    let (old, new) = (vec![0; 8192], pattern(7, 8192));
    let statuses = compare_and_write(&mut rig, &mut io, &old, &new);
    assert_eq!(statuses, [Status::SUCCESS; 2]);
    assert!(rig.devices[&DEVICE][8 * 4096..][..8192] == new);
    let statuses = compare_and_write(&mut rig, &mut io, &old, &new);
    assert_eq!(statuses, [Status::COMPARE_FAILURE.do_not_retry(), Status::ABORTED_FAILED_FUSED]);
    assert!(rig.devices[&DEVICE][8 * 4096..][..8192] == new);
    let fused = rig.log.iter().filter(|entry| matches!(entry.1, Operation::CompareAndWrite { .. }));
    assert_eq!(fused.count(), 2);
    assert!(rig.peers.values().all(|peer| peer.memory.is_empty()), "no memory is left behind");
}

#[test]
fn half_a_fused_operation_is_aborted() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let compare = NvmCommand::Compare(transfer(8, 4096)).entry(Nsid(1));
    let compare = compare.with_fuse(Fuse::First).with_sgl(SglDescriptor::in_capsule(4096));
    let first = io.cid();
    io.send_capsule(&mut rig, compare.with_cid(first), &pattern(0, 4096));
    assert!(io.receive(&mut rig).is_empty(), "it waits for the second command");
    let cid = io.cid();
    io.send_capsule(&mut rig, NvmCommand::Flush.entry(Nsid(1)).with_cid(cid), &[]);
    let statuses: Vec<Status> = io
        .receive(&mut rig)
        .iter()
        .map(|received| match received {
            Received::Completion(completion) => completion.status,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(statuses, [Status::ABORTED_MISSING_FUSED, Status::SUCCESS]);
    // A second one alone.
    let write = NvmCommand::Write(transfer(8, 4096)).entry(Nsid(1)).with_fuse(Fuse::Second);
    let reply = io.command_in_capsule(&mut rig, write, &pattern(0, 4096));
    assert_eq!(reply.completion.status, Status::ABORTED_MISSING_FUSED.do_not_retry());
    assert!(rig.peers.values().all(|peer| peer.memory.is_empty()), "no memory is left behind");
    // Ranges that differ.
    let first = io.cid();
    io.send_capsule(&mut rig, compare.with_cid(first), &pattern(0, 4096));
    let write = NvmCommand::Write(transfer(9, 4096)).entry(Nsid(1)).with_fuse(Fuse::Second);
    let second = io.cid();
    let write = write.with_cid(second).with_sgl(SglDescriptor::in_capsule(4096));
    io.send_capsule(&mut rig, write, &pattern(0, 4096));
    let mut statuses: Vec<_> = io
        .receive(&mut rig)
        .into_iter()
        .map(|received| match received {
            Received::Completion(completion) => (completion.cid, completion.status),
            other => panic!("{other:?}"),
        })
        .collect();
    statuses.sort_unstable_by_key(|(cid, _)| *cid);
    let expected =
        [(first, Status::ABORTED_FAILED_FUSED), (second, Status::INVALID_FIELD.do_not_retry())];
    assert_eq!(statuses, expected);
    assert!(rig.log.iter().all(|entry| entry.1 == Operation::Flush));
}

#[test]
fn a_wrong_data_digest_fails_the_command_and_not_the_connection() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests { header: false, data: true });
    let entry = NvmCommand::Write(transfer(0, 4096)).entry(Nsid(1));
    let cid = io.cid();
    let mut bytes =
        io.capsule(entry.with_cid(cid).with_sgl(SglDescriptor::in_capsule(4096)), &[1; 4096]);
    *bytes.last_mut().expect("a digest") ^= 1;
    rig.send(io.id, &bytes);
    let reply = io.finish(&mut rig, cid, &[]);
    assert_eq!(reply.completion.status, Status::TRANSIENT_TRANSPORT_ERROR);
    assert!(rig.log.is_empty(), "the device has not seen it");
    assert_eq!(io.write(&mut rig, 0, &[2; 4096]), Status::SUCCESS);
    assert!(rig.peers.values().all(|peer| peer.memory.is_empty()), "no memory is left behind");
}

#[test]
fn without_memory_the_host_waits_and_nothing_is_lost() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.peers.get_mut(&io.id).expect("open").memory_max = 8192;
    rig.holding = true;
    let mut cids = Vec::new();
    for block in 0..10 {
        let entry = NvmCommand::Write(transfer(block, 4096)).entry(Nsid(1));
        let cid = io.cid();
        let sgl = SglDescriptor::in_capsule(4096);
        let data = vec![u8::try_from(block).expect("small") + 1; 4096];
        io.send_capsule(&mut rig, entry.with_cid(cid).with_sgl(sgl), &data);
        cids.push(cid);
    }
    assert_eq!(rig.held.len(), 2, "as many as there is memory for");
    while rig.release_one() {}
    let answered: Vec<_> = io
        .receive(&mut rig)
        .iter()
        .map(|received| match received {
            Received::Completion(completion) => (completion.cid, completion.status),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<_> = cids.into_iter().map(|cid| (cid, Status::SUCCESS)).collect();
    assert_eq!(answered, expected);
    for block in 0..10_usize {
        let byte = u8::try_from(block).expect("small") + 1;
        assert!(rig.devices[&DEVICE][block * 4096..][..4096].iter().all(|found| *found == byte));
    }
}

/// The data of the first command comes behind the second one, for which there is no memory.
#[test]
fn commands_that_wait_for_memory_do_not_hold_up_the_data_of_others() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests { header: true, data: true });
    rig.peers.get_mut(&io.id).expect("open").memory_max = 65536;
    let write =
        |block| NvmCommand::Write(transfer(block, 65536)).entry(Nsid(1)).with_sgl(sgl(65536));
    let cids = [io.cid(), io.cid(), io.cid()];
    for (at, cid) in cids.into_iter().enumerate() {
        io.send_capsule(&mut rig, write(at as u64 * 16).with_cid(cid), &[]);
    }
    for (at, cid) in cids.into_iter().enumerate() {
        let data = vec![at as u8 + 1; 65536];
        let [Received::R2t(r2t)] = io.receive(&mut rig)[..] else { panic!("one R2T at a time") };
        assert_eq!(r2t.cid, cid);
        io.answer_r2t(&mut rig, &r2t, &data);
        let mut output = rig.peers[&io.id].output.clone();
        // The answer, and the R2T of the next one.
        assert!(!output.is_empty());
        let answer = output.make_contiguous()[4] as usize;
        let answer: Vec<u8> =
            rig.peers.get_mut(&io.id).expect("open").output.drain(..answer).collect();
        assert_eq!(answer[0], 5, "a response capsule");
    }
    for at in 0..3_usize {
        assert!(rig.devices[&DEVICE][at * 65536..][..65536].iter().all(|b| *b == at as u8 + 1));
    }
}

/// A command that fails and the next one in one piece: the second gets the slot of the first, whose
/// memory is released only then.
#[test]
fn a_slot_that_is_used_again_at_once_keeps_its_memory() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests { header: false, data: true });
    let write = NvmCommand::Write(transfer(0, 4096)).entry(Nsid(1));
    let first = io.cid();
    let in_capsule = SglDescriptor::in_capsule(4096);
    let mut bytes = io.capsule(write.with_cid(first).with_sgl(in_capsule), &[1; 4096]);
    *bytes.last_mut().expect("a digest") ^= 1;
    let second = io.cid();
    bytes.extend(io.capsule(write.with_cid(second).with_sgl(sgl(4096)), &[]));
    rig.send(io.id, &bytes);
    let received = io.receive(&mut rig);
    let [Received::Completion(failed), Received::R2t(r2t)] = received[..] else {
        panic!("{received:?}")
    };
    assert_eq!((failed.cid, failed.status), (first, Status::TRANSIENT_TRANSPORT_ERROR));
    io.answer_r2t(&mut rig, &r2t, &[2; 4096]);
    assert_eq!(io.finish(&mut rig, second, &[]).completion.status, Status::SUCCESS);
    assert!(rig.devices[&DEVICE][..4096].iter().all(|byte| *byte == 2));
    assert!(rig.peers.values().all(|peer| peer.memory.is_empty()), "no memory is left behind");
}

#[test]
fn a_fused_operation_of_more_than_half_a_transfer_is_refused() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let bytes = (512 << 10) + 4096;
    let compare = NvmCommand::Compare(transfer(0, bytes)).entry(Nsid(1)).with_fuse(Fuse::First);
    let reply = io.command(&mut rig, compare.with_sgl(sgl(bytes)), &[]);
    assert_eq!(reply.completion.status, Status::INVALID_FIELD.do_not_retry());
}
