//! Abort: what can still be called back is, and what the host is told of the rest is true.

use fathom_nvme::{
    Completion, Status,
    admin::{Abort, AdminCommand},
    nvm::NvmCommand,
    sgl::SglDescriptor,
    submission::Fuse,
    tcp::Digests,
};
use fathom_test_target::{
    host::{Host, Received, transfer},
    rig::Rig,
};
use fathom_units::{Cid, Nsid, Qid};

const BLOCK: usize = 4096;
const AT_ONCE: u32 = 0;
const NOT_AT_ONCE: u32 = 1;

/// Sends a command whose data does not come with it.
fn send(rig: &mut Rig, io: &mut Host, command: &NvmCommand) -> Cid {
    let cid = io.cid();
    let entry = command.entry(Nsid(1)).with_cid(cid).with_sgl(SglDescriptor::transport(4096));
    io.send_capsule(rig, entry, &[]);
    cid
}

/// Aborts a command of queue 1. Returns dword 0 of the answer.
fn abort(rig: &mut Rig, admin: &mut Host, cid: Cid) -> u32 {
    abort_of(rig, admin, Qid(1), cid)
}

fn abort_of(rig: &mut Rig, admin: &mut Host, qid: Qid, cid: Cid) -> u32 {
    let command = AdminCommand::Abort(Abort { qid, cid });
    let reply = admin.command(rig, command.entry(), &[]);
    assert_eq!(reply.completion.status, Status::SUCCESS);
    reply.completion.dword0()
}

fn completion(received: &[Received]) -> Completion {
    match received {
        [Received::Completion(completion)] => *completion,
        other => panic!("one answer, not {other:?}"),
    }
}

#[test]
fn what_waits_for_memory_is_aborted_at_once() {
    let mut rig = Rig::new();
    let (mut admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    rig.peers.get_mut(&io.id).expect("it is open").memory_max = BLOCK;
    let first = send(&mut rig, &mut io, &NvmCommand::Read(transfer(0, BLOCK)));
    let read = send(&mut rig, &mut io, &NvmCommand::Read(transfer(1, BLOCK)));
    let write = send(&mut rig, &mut io, &NvmCommand::Write(transfer(2, BLOCK)));
    let last = send(&mut rig, &mut io, &NvmCommand::Read(transfer(3, BLOCK)));
    for cid in [write, read] {
        assert_eq!(abort(&mut rig, &mut admin, cid), AT_ONCE);
        let completion = completion(&io.receive(&mut rig));
        assert_eq!((completion.cid, completion.status), (cid, Status::ABORT_REQUESTED));
        assert_eq!(abort(&mut rig, &mut admin, cid), NOT_AT_ONCE, "there is no such command");
    }
    for cid in [first, last] {
        rig.release_one();
        let reply = io.finish(&mut rig, cid, &[]);
        assert_eq!(reply.completion.status, Status::SUCCESS);
    }
    assert_eq!(rig.log.len(), 2, "nothing else reached the device");
    assert!(rig.peers[&io.id].memory.is_empty());
}

/// Its transfer tag is the host's until the data has come.
#[test]
fn what_waits_for_data_is_aborted_when_that_has_come() {
    let mut rig = Rig::new();
    let (mut admin, mut io) = Host::pair(&mut rig, Digests { header: true, data: true });
    let cid = send(&mut rig, &mut io, &NvmCommand::Write(transfer(0, BLOCK)));
    let [Received::R2t(r2t)] = io.receive(&mut rig)[..] else { panic!("an R2T") };
    assert_eq!(abort(&mut rig, &mut admin, cid), NOT_AT_ONCE);
    assert_eq!(io.receive(&mut rig), [], "it is not answered yet");
    io.answer_r2t(&mut rig, &r2t, &[1; BLOCK]);
    let answer = completion(&io.receive(&mut rig));
    assert_eq!((answer.cid, answer.status), (cid, Status::ABORT_REQUESTED));
    // The same with half a capsule.
    let cid = io.cid();
    let entry = NvmCommand::Write(transfer(1, BLOCK)).entry(Nsid(1)).with_cid(cid);
    let bytes = io.capsule(entry.with_sgl(SglDescriptor::in_capsule(4096)), &[1; BLOCK]);
    rig.send(io.id, &bytes[..1000]);
    assert_eq!(abort(&mut rig, &mut admin, cid), NOT_AT_ONCE);
    rig.send(io.id, &bytes[1000..]);
    let answer = completion(&io.receive(&mut rig));
    assert_eq!((answer.cid, answer.status), (cid, Status::ABORT_REQUESTED));
    assert!(rig.log.is_empty(), "no device was asked: {:?}", rig.log);
    assert!(rig.peers[&io.id].memory.is_empty());
    assert_eq!(io.write(&mut rig, 0, &[2; BLOCK]), Status::SUCCESS);
}

#[test]
fn what_is_at_a_device_or_half_of_a_fused_operation_is_left_alone() {
    let mut rig = Rig::new();
    let (mut admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    let read = send(&mut rig, &mut io, &NvmCommand::Read(transfer(0, BLOCK)));
    assert_eq!(abort(&mut rig, &mut admin, read), NOT_AT_ONCE);
    rig.release_one();
    assert_eq!(io.finish(&mut rig, read, &[]).completion.status, Status::SUCCESS);
    rig.holding = false;
    // The first half waits for data.
    let (first, second) = (io.cid(), io.cid());
    let sgl = SglDescriptor::transport(4096);
    let compare = NvmCommand::Compare(transfer(1, BLOCK)).entry(Nsid(1)).with_fuse(Fuse::First);
    io.send_capsule(&mut rig, compare.with_cid(first).with_sgl(sgl), &[]);
    assert_eq!(abort(&mut rig, &mut admin, first), NOT_AT_ONCE);
    let write = NvmCommand::Write(transfer(1, BLOCK)).entry(Nsid(1)).with_fuse(Fuse::Second);
    io.send_capsule(&mut rig, write.with_cid(second).with_sgl(sgl), &[]);
    assert_eq!(abort(&mut rig, &mut admin, second), NOT_AT_ONCE);
    for received in io.receive(&mut rig) {
        let Received::R2t(r2t) = received else { panic!("two R2T") };
        io.answer_r2t(&mut rig, &r2t, &[0; BLOCK]);
    }
    let answers = io.receive(&mut rig);
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!(completion(&[answer]).status, Status::SUCCESS);
    }
}

#[test]
fn what_is_not_there_and_commands_of_the_admin_queue_are_not_aborted() {
    let mut rig = Rig::new();
    let (mut admin, mut io) = Host::pair(&mut rig, Digests::default());
    assert_eq!(abort(&mut rig, &mut admin, Cid(0x7777)), NOT_AT_ONCE);
    assert_eq!(abort_of(&mut rig, &mut admin, Qid(4), Cid(1)), NOT_AT_ONCE, "no such queue");
    let event = admin.cid();
    admin.send_capsule(&mut rig, AdminCommand::AsyncEventRequest.entry().with_cid(event), &[]);
    assert_eq!(abort_of(&mut rig, &mut admin, Qid::ADMIN, event), NOT_AT_ONCE);
    assert_eq!(admin.receive(&mut rig), []);
    assert_eq!(io.write(&mut rig, 0, &[2; BLOCK]), Status::SUCCESS);
}

#[test]
fn as_many_aborts_as_the_controller_says_may_be_under_way_and_each_is_answered() {
    let mut rig = Rig::new();
    let (mut admin, io) = Host::pair(&mut rig, Digests::default());
    rig.holding_aborts = true;
    let command = AdminCommand::Abort(Abort { qid: Qid(1), cid: Cid(1) });
    for _ in 0..4 {
        let entry = command.entry().with_cid(admin.cid());
        admin.send_capsule(&mut rig, entry, &[]);
    }
    assert_eq!(admin.receive(&mut rig), []);
    let refused = admin.command(&mut rig, command.entry(), &[]).completion.status;
    assert_eq!(refused, Status::ABORT_COMMAND_LIMIT_EXCEEDED);
    // The queue goes away before it can say anything.
    rig.close(io.id);
    rig.release_aborts();
    let answers = admin.receive(&mut rig);
    assert_eq!(answers.len(), 4);
    for answer in answers {
        let answer = completion(&[answer]);
        assert_eq!((answer.status, answer.dword0()), (Status::SUCCESS, NOT_AT_ONCE));
    }
    // Those of an admin queue that is gone are answered nowhere.
    let (mut admin, _io) = Host::pair(&mut rig, Digests::default());
    rig.holding_aborts = true;
    let entry = command.entry().with_cid(admin.cid());
    admin.send_capsule(&mut rig, entry, &[]);
    rig.close(admin.id);
    rig.release_aborts();
    assert_eq!(admin.receive(&mut rig), []);
}
