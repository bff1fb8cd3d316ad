//! A connection that this side closes: what has come is done and answered, and nothing else is.

use fathom_block::{Error, Operation};
use fathom_nvme::{
    Status,
    admin::AdminCommand,
    nvm::NvmCommand,
    sgl::SglDescriptor,
    submission::Fuse,
    tcp::{Digests, H2cData},
};
use fathom_target::connection::Stage;
use fathom_test_target::{
    host::{Host, Received, transfer},
    rig::{BLOCKS, DEVICE, Rig},
};
use fathom_units::{Cid, Nsid, Qid};

const BLOCK: usize = 4096;

/// Sends a Write of `byte` to a block, with its data in the capsule.
fn write_in_capsule(rig: &mut Rig, io: &mut Host, block: u64, byte: u8) -> Cid {
    let cid = io.cid();
    let entry = NvmCommand::Write(transfer(block, BLOCK)).entry(Nsid(1)).with_cid(cid);
    io.send_capsule(rig, entry.with_sgl(SglDescriptor::in_capsule(4096)), &[byte; BLOCK]);
    cid
}

/// Sends a command whose data does not come with it.
fn send(rig: &mut Rig, io: &mut Host, command: &NvmCommand) -> Cid {
    let cid = io.cid();
    let entry = command.entry(Nsid(1)).with_cid(cid).with_sgl(SglDescriptor::transport(4096));
    io.send_capsule(rig, entry, &[]);
    cid
}

fn completions(received: &[Received]) -> Vec<(Cid, Status)> {
    let completed = received.iter().filter_map(|one| match one {
        Received::Completion(completion) => Some((completion.cid, completion.status)),
        _ => None,
    });
    completed.collect()
}

#[test]
fn what_has_come_is_done_and_answered_and_then_the_connection_ends() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    let first = write_in_capsule(&mut rig, &mut io, 0, 1);
    let second = write_in_capsule(&mut rig, &mut io, 1, 2);
    rig.drain(io.id);
    assert_eq!(rig.stage(io.id), Stage::Draining);
    write_in_capsule(&mut rig, &mut io, 2, 3);
    assert_eq!(rig.held.len(), 2, "what comes afterwards is not taken");
    rig.release_one();
    assert!(!rig.peers[&io.id].finished, "one is at the device");
    rig.release_one();
    let done = completions(&io.receive(&mut rig));
    assert_eq!(done, [(first, Status::SUCCESS), (second, Status::SUCCESS)]);
    assert!(rig.peers[&io.id].finished);
    assert_eq!(rig.devices[&DEVICE][2 * BLOCK], 0);
    assert!(rig.peers[&io.id].memory.is_empty());
}

/// Each of them lacks something that only the host can send.
#[test]
fn what_has_not_come_completely_is_not_answered_at_all() {
    let mut rig = Rig::new();
    let (admin, mut io) = Host::pair(&mut rig, Digests::default());
    let mut capsule = admin.io(&mut rig, Qid(2));
    // Data that is asked for: none has come, a part has come.
    send(&mut rig, &mut io, &NvmCommand::Write(transfer(0, BLOCK)));
    send(&mut rig, &mut io, &NvmCommand::Write(transfer(1, BLOCK)));
    let asked = io.receive(&mut rig);
    let [Received::R2t(_), Received::R2t(r2t)] = asked[..] else { panic!("two R2T: {asked:?}") };
    let transfer_tag = r2t.transfer_tag;
    let part = H2cData { cid: r2t.cid, transfer_tag, offset: 0, length: 1024, last: false };
    let bytes = io.h2c_data(&part, &[9; 1024]);
    rig.send(io.id, &bytes);
    // The second command of a fused operation.
    let compare = NvmCommand::Compare(transfer(2, BLOCK)).entry(Nsid(1)).with_fuse(Fuse::First);
    let entry = compare.with_cid(io.cid()).with_sgl(SglDescriptor::in_capsule(4096));
    io.send_capsule(&mut rig, entry, &[0; BLOCK]);
    // The rest of a capsule.
    let entry = NvmCommand::Write(transfer(3, BLOCK)).entry(Nsid(1)).with_cid(capsule.cid());
    let whole = capsule.capsule(entry.with_sgl(SglDescriptor::in_capsule(4096)), &[9; BLOCK]);
    rig.send(capsule.id, &whole[..2000]);
    for host in [&mut io, &mut capsule] {
        assert!(!rig.peers[&host.id].memory.is_empty());
        rig.drain(host.id);
        assert!(rig.peers[&host.id].finished, "nothing is to be waited for");
        assert_eq!(host.receive(&mut rig), [], "the host hears nothing");
        assert!(rig.peers[&host.id].memory.is_empty());
    }
    rig.send(capsule.id, &whole[2000..]);
    assert!(rig.log.is_empty(), "and no device was asked: {:?}", rig.log);
}

#[test]
fn a_read_that_waits_for_memory_gets_it_and_a_write_does_not() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    rig.peers.get_mut(&io.id).expect("it is open").memory_max = BLOCK;
    let first = send(&mut rig, &mut io, &NvmCommand::Read(transfer(0, BLOCK)));
    send(&mut rig, &mut io, &NvmCommand::Write(transfer(1, BLOCK)));
    let third = send(&mut rig, &mut io, &NvmCommand::Read(transfer(2, BLOCK)));
    assert_eq!(rig.held.len(), 1, "the others wait for its memory");
    rig.drain(io.id);
    rig.release_one();
    rig.release_one();
    let received = io.receive(&mut rig);
    let done = completions(&received);
    assert_eq!(done, [(first, Status::SUCCESS), (third, Status::SUCCESS)]);
    assert!(received.iter().all(|one| !matches!(one, Received::R2t(_))), "no data is asked for");
    assert!(rig.peers[&io.id].finished);
}

/// A flush before a read with FUA, and the ranges of a deallocation that are not at the device yet.
#[test]
fn what_consists_of_several_requests_is_done_to_its_end() {
    use fathom_nvme::nvm::{Control, DatasetAttributes, DatasetManagement, DatasetRange};
    use fathom_units::{BlockCount, Lba};
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    let mut read = transfer(0, BLOCK);
    read.control = Control::FORCE_UNIT_ACCESS;
    let read = send(&mut rig, &mut io, &NvmCommand::Read(read));
    let attributes = DatasetAttributes::DEALLOCATE;
    let trim = DatasetManagement { ranges: 40, attributes };
    let ranges: Vec<u8> = (0..40)
        .flat_map(|at| DatasetRange { attributes: 0, blocks: BlockCount(1), lba: Lba(at) }.encode())
        .collect();
    let entry = NvmCommand::DatasetManagement(trim).entry(Nsid(1));
    let trim = io.cid();
    let length = u32::try_from(ranges.len()).expect("short");
    let entry = entry.with_cid(trim).with_sgl(SglDescriptor::in_capsule(length));
    io.send_capsule(&mut rig, entry, &ranges);
    rig.drain(io.id);
    while rig.release_one() {}
    let done = completions(&io.receive(&mut rig));
    assert_eq!(done.len(), 2);
    assert!(done.contains(&(read, Status::SUCCESS)) && done.contains(&(trim, Status::SUCCESS)));
    let zeroed = rig.log.iter().filter(|(_, operation, ..)| *operation == Operation::WriteZeroes);
    assert_eq!(zeroed.count(), 40);
    assert!(rig.peers[&io.id].finished);
}

#[test]
fn an_error_of_the_device_is_told_and_that_it_is_closed_is_not() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    for (fault, told) in [(Error::WriteFault, 1), (Error::NotReady, 0)] {
        let mut io = if told == 1 { io.io(&mut rig, Qid(2)) } else { io.io(&mut rig, Qid(3)) };
        rig.holding = true;
        write_in_capsule(&mut rig, &mut io, 0, 1);
        rig.fault = Some(fault);
        rig.drain(io.id);
        rig.release_one();
        assert_eq!(completions(&io.receive(&mut rig)).len(), told, "{fault:?}");
        assert!(rig.peers[&io.id].finished);
    }
    // The one that is not drained is told.
    write_in_capsule(&mut rig, &mut io, 0, 1);
    rig.release_one();
    let done = completions(&io.receive(&mut rig));
    assert_eq!(done[0].1, Status::NAMESPACE_NOT_READY);
    assert_eq!(u64::try_from(rig.devices[&DEVICE].len()).expect("small"), BLOCKS * 4096);
}

/// The host keeps no controller without an admin queue, and what its I/O queues have is finished.
#[test]
fn with_the_admin_queue_the_others_drain_and_a_new_association_waits_for_them() {
    let mut rig = Rig::new();
    let (mut admin, mut io) = Host::pair(&mut rig, Digests::default());
    let cid = admin.cid();
    admin.send_capsule(&mut rig, AdminCommand::AsyncEventRequest.entry().with_cid(cid), &[]);
    rig.holding = true;
    let write = write_in_capsule(&mut rig, &mut io, 0, 1);
    rig.drain(admin.id);
    assert!(rig.peers[&admin.id].finished, "requests for events are not waited for");
    assert_eq!(admin.receive(&mut rig), []);
    assert_eq!(rig.stage(io.id), Stage::Draining);
    let mut again = Host::open(&mut rig, Digests::default());
    again.send_connect(
        &mut rig,
        fathom_test_target::rig::VOLUME,
        fathom_nvme::fabrics::Connect {
            qid: Qid::ADMIN,
            sq_entries: 32,
            attributes: fathom_nvme::fabrics::ConnectAttributes::empty(),
            keep_alive_ms: 0,
        },
    );
    assert_eq!(again.receive(&mut rig), [], "it waits for the write");
    rig.release_one();
    assert_eq!(completions(&io.receive(&mut rig)), [(write, Status::SUCCESS)]);
    assert_eq!(completions(&again.receive(&mut rig)).len(), 1);
}

#[test]
fn a_connection_that_is_no_queue_yet_just_ends() {
    let mut rig = Rig::new();
    let silent = rig.open();
    let agreed = Host::open(&mut rig, Digests::default());
    for id in [silent, agreed.id] {
        rig.drain(id);
        assert!(rig.peers[&id].finished);
        assert!(rig.peers[&id].output.is_empty());
    }
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.drain(io.id);
    rig.drain(io.id);
    rig.close(io.id);
    assert!(rig.peers[&io.id].finished && io.receive(&mut rig).is_empty());
}
