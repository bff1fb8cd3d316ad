//! Hosts that break the transport's rules: each is told which one, and loses its connection.

#![expect(clippy::cast_possible_truncation, reason = "what is drawn or counted is small")]

use fathom_nvme::{
    Status, SubmissionEntry,
    nvm::NvmCommand,
    sgl::SglDescriptor,
    tcp::{Digests, H2cData},
};
use fathom_target::connection::{Loss, Stage};
use fathom_test_support::random::Random;
use fathom_test_target::{
    host::{Host, Received, transfer},
    rig::Rig,
};
use fathom_units::{Monotonic, Nsid, Qid};

const INVALID_HEADER_FIELD: u16 = 1;
const SEQUENCE_ERROR: u16 = 2;
const HEADER_DIGEST_ERROR: u16 = 3;
const OUT_OF_RANGE: u16 = 4;

/// Asserts that the connection has ended with this status.
fn expect_end(rig: &mut Rig, host: &mut Host, status: u16, information: Option<u32>) {
    match host.receive(rig).as_slice() {
        [.., Received::Terminated(found, said)] => {
            assert_eq!(*found, status);
            assert!(information.is_none_or(|information| information == *said), "{said}");
        }
        other => panic!("the host was told {other:?}"),
    }
    assert_eq!(rig.stage(host.id), Stage::Ended);
    assert!(matches!(rig.peers[&host.id].loss, Some(Loss::Violation(_))));
    assert!(rig.peers[&host.id].finished);
}

#[test]
fn every_byte_of_the_common_header_is_checked() {
    // Offset, value, FES and FEI.
    for (at, value, status, information) in [
        (0, 0x0F, INVALID_HEADER_FIELD, 0),
        (0, 0x07, INVALID_HEADER_FIELD, 0),
        (2, 71, INVALID_HEADER_FIELD, 2),
        (3, 8, INVALID_HEADER_FIELD, 3),
        (7, 0xFF, INVALID_HEADER_FIELD, 4),
    ] {
        let mut rig = Rig::new();
        let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
        let entry = NvmCommand::Write(transfer(0, 4096)).entry(Nsid(1));
        let entry = entry.with_sgl(SglDescriptor::in_capsule(4096));
        let mut bytes = io.capsule(entry, &[0; 4096]);
        bytes[at] = value;
        rig.send(io.id, &bytes);
        expect_end(&mut rig, &mut io, status, Some(information));
    }
}

#[test]
fn a_command_before_the_transport_is_agreed_upon_is_out_of_sequence() {
    let mut rig = Rig::new();
    let mut host = Host::open(&mut rig, Digests::default());
    let capsule = host.capsule(SubmissionEntry::new(0x02), &[]);
    let early = rig.open();
    rig.send(early, &capsule);
    host.id = early;
    expect_end(&mut rig, &mut host, SEQUENCE_ERROR, None);
}

#[test]
fn a_second_icreq_is_out_of_sequence() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let mut request = [0; 128];
    request[2] = 128;
    request[4] = 128;
    rig.send(io.id, &request);
    expect_end(&mut rig, &mut io, SEQUENCE_ERROR, None);
}

#[test]
fn a_wrong_header_digest_is_told_with_what_was_received() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests { header: true, data: false });
    let mut bytes = io.capsule(NvmCommand::Flush.entry(Nsid(1)), &[]);
    bytes[72] ^= 0x80;
    let received = u32::from_le_bytes([bytes[72], bytes[73], bytes[74], bytes[75]]);
    rig.send(io.id, &bytes);
    expect_end(&mut rig, &mut io, HEADER_DIGEST_ERROR, Some(received));
}

#[test]
fn data_that_no_r2t_has_asked_for_is_refused() {
    type Change = fn(&mut H2cData);
    let cases: [(Change, u16, Option<u32>); 5] = [
        (|pdu| pdu.transfer_tag ^= 1, INVALID_HEADER_FIELD, Some(10)),
        (|pdu| pdu.cid.0 ^= 1, INVALID_HEADER_FIELD, Some(8)),
        (|pdu| pdu.offset = 4, SEQUENCE_ERROR, None),
        (|pdu| pdu.length = 8192 + 4, OUT_OF_RANGE, None),
        (|pdu| pdu.last = true, SEQUENCE_ERROR, None),
    ];
    for (change, status, information) in cases {
        let mut rig = Rig::new();
        let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
        let cid = io.cid();
        let entry = NvmCommand::Write(transfer(0, 8192)).entry(Nsid(1)).with_cid(cid);
        io.send_capsule(&mut rig, entry.with_sgl(SglDescriptor::transport(8192)), &[]);
        let [Received::R2t(r2t)] = io.receive(&mut rig)[..] else { panic!("an R2T") };
        let mut pdu =
            H2cData { cid, transfer_tag: r2t.transfer_tag, offset: 0, length: 4096, last: false };
        change(&mut pdu);
        let bytes = io.h2c_data(&pdu, &vec![0; pdu.length as usize]);
        rig.send(io.id, &bytes);
        expect_end(&mut rig, &mut io, status, information);
        assert!(rig.log.is_empty(), "nothing has reached the device");
    }
}

#[test]
fn more_commands_than_the_queue_has_entries_end_it() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    for _ in 0..33 {
        let cid = io.cid();
        io.send_capsule(&mut rig, NvmCommand::Flush.entry(Nsid(1)).with_cid(cid), &[]);
    }
    assert_eq!(rig.stage(io.id), Stage::Ending, "what is at the device is waited for");
    assert_eq!(rig.held.len(), 32);
    while rig.release_one() {}
    assert!(rig.peers[&io.id].finished);
}

#[test]
fn a_host_that_terminates_is_let_go() {
    let mut rig = Rig::new();
    let (admin, io) = Host::pair(&mut rig, Digests::default());
    let mut pdu = [0; 24];
    pdu[0] = 0x02;
    pdu[2] = 24;
    pdu[4] = 24;
    pdu[8] = 1;
    rig.send(io.id, &pdu);
    assert_eq!(rig.peers[&io.id].loss, Some(Loss::TerminatedByHost));
    assert!(rig.peers[&io.id].finished);
    assert_eq!(rig.stage(admin.id), Stage::Live);
}

#[test]
fn who_never_speaks_or_never_connects_is_let_go() {
    let mut rig = Rig::new();
    let silent = rig.open();
    let half = Host::open(&mut rig, Digests::default());
    let (admin, _io) = Host::pair(&mut rig, Digests::default());
    let deadline = rig.limits.connect_deadline;
    rig.pass(deadline - std::time::Duration::from_nanos(1));
    assert_eq!(rig.stage(silent), Stage::New);
    rig.pass(std::time::Duration::from_nanos(1));
    for id in [silent, half.id] {
        assert_eq!(rig.peers[&id].loss, Some(Loss::Deadline));
        assert!(rig.peers[&id].finished);
    }
    assert_eq!(rig.stage(admin.id), Stage::Live);
    assert_eq!(rig.peers[&admin.id].connection.deadline(), None::<Monotonic>);
}

#[test]
fn the_first_command_has_to_be_a_connect() {
    let mut rig = Rig::new();
    let mut host = Host::open(&mut rig, Digests::default());
    let reply = host.command(&mut rig, SubmissionEntry::new(0x06), &[]);
    assert_eq!(reply.completion.status, Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
    let completion = host.connect(&mut rig, fathom_test_target::rig::VOLUME, Qid::ADMIN, 0);
    assert_eq!(completion.status, Status::SUCCESS, "the host may do better");
}

/// Whatever comes: no panic, and what ends takes everything with it.
#[test]
fn random_bytes_end_in_an_answer_or_an_end() {
    for seed in 0..2_000 {
        let mut random = Random::new(seed);
        let mut rig = Rig::new();
        let digests = Digests { header: random.chance(1, 2), data: random.chance(1, 2) };
        let (admin, mut io) = Host::pair(&mut rig, digests);
        rig.holding = random.chance(1, 2);
        let memory = [8192, 40960, usize::MAX];
        rig.peers.get_mut(&io.id).expect("open").memory_max = *random.pick(&memory);
        for _ in 0..random.below(20) {
            let mut bytes = if random.chance(1, 4) {
                (0..random.below(200)).map(|_| random.below(256) as u8).collect()
            } else {
                any_command(&mut random, &mut io)
            };
            for _ in 0..random.below(3) {
                if !bytes.is_empty() {
                    let at = random.below(bytes.len().min(160) as u64) as usize;
                    bytes[at] = random.below(256) as u8;
                }
            }
            let to = if random.chance(1, 8) { admin.id } else { io.id };
            rig.send(to, &bytes);
            if random.chance(1, 3) {
                rig.release_one();
            }
        }
        rig.close(io.id);
        rig.close(admin.id);
        while rig.release_one() {}
        assert!(rig.peers[&io.id].finished, "seed {seed}");
        assert!(rig.peers[&admin.id].finished, "seed {seed}");
    }
}

fn any_command(random: &mut Random, io: &mut Host) -> Vec<u8> {
    let mut entry = [0; 64];
    entry.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
    let opcodes = [0, 1, 2, 5, 8, 9, 0x7F, 6, 0x0C];
    entry[0] = *random.pick(&opcodes);
    entry[1] = 0x40 | if random.chance(1, 4) { random.below(4) as u8 } else { 0 };
    entry[4..8].copy_from_slice(&[1, 0, 0, 0]);
    entry[40..64].fill(0);
    entry[48] = random.below(4) as u8;
    let entry = SubmissionEntry::view(&entry).with_cid(io.cid());
    let bytes = (random.below(5) * 4096) as usize;
    match random.chance(1, 2) {
        true => io.capsule(
            entry.with_sgl(SglDescriptor::in_capsule(bytes as u32)),
            &vec![7; bytes.min(16384)],
        ),
        false => io.capsule(entry.with_sgl(SglDescriptor::transport(bytes as u32)), &[]),
    }
}
