//! Data that the host owes: a host that sends none of it loses the connection, a slow one does not.
//!
//! There is no clock in these tests: a look stands for the end of an interval.

use fathom_nvme::{
    nvm::NvmCommand,
    sgl::SglDescriptor,
    submission::Fuse,
    tcp::{Digests, H2cData, R2t},
};
use fathom_target::connection::{Loss, PROGRESS_BYTES, Stage};
use fathom_test_target::{
    host::{Host, Received, transfer},
    rig::Rig,
};
use fathom_units::Nsid;

const LENGTH: usize = 32 << 10;

/// The end of an interval. Returns whether the connection is still there.
fn look(rig: &mut Rig, io: &Host) -> bool {
    rig.peers.get_mut(&io.id).expect("it is open").connection.watch_data();
    rig.settle();
    rig.stage(io.id) == Stage::Live
}

/// Sends a Write and returns what it is asked for.
fn begin_write(rig: &mut Rig, io: &mut Host, block: u64) -> R2t {
    let cid = io.cid();
    let entry = NvmCommand::Write(transfer(block, LENGTH)).entry(Nsid(1)).with_cid(cid);
    let sgl = SglDescriptor::transport(u32::try_from(LENGTH).expect("short"));
    io.send_capsule(rig, entry.with_sgl(sgl), &[]);
    let [Received::R2t(r2t)] = io.receive(rig)[..] else { panic!("an R2T") };
    r2t
}

/// The bytes of a part of the data that was asked for.
fn part(io: &Host, r2t: &R2t, offset: u32, length: u32) -> Vec<u8> {
    let last = offset + length == r2t.length;
    let pdu = H2cData { cid: r2t.cid, transfer_tag: r2t.transfer_tag, offset, length, last };
    io.h2c_data(&pdu, &vec![1; usize::try_from(length).expect("short")])
}

#[test]
fn who_sends_nothing_between_two_looks_loses_the_connection() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    assert!(look(&mut rig, &io) && look(&mut rig, &io), "nothing is owed");
    assert!(!rig.peers[&io.id].connection.awaits_data());
    begin_write(&mut rig, &mut io, 0);
    assert!(rig.peers[&io.id].connection.awaits_data());
    assert!(look(&mut rig, &io), "it has just been asked for");
    assert!(!look(&mut rig, &io));
    assert_eq!(rig.peers[&io.id].loss, Some(Loss::DataDeadline));
    assert!(rig.peers[&io.id].finished);
    assert_eq!(io.receive(&mut rig), [], "the transport has no error for it");
}

#[test]
fn who_sends_slowly_keeps_the_connection_and_who_sends_next_to_nothing_does_not() {
    for (step, stays) in [(PROGRESS_BYTES, true), (PROGRESS_BYTES - 4, false)] {
        let mut rig = Rig::new();
        let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
        let r2t = begin_write(&mut rig, &mut io, 0);
        assert!(look(&mut rig, &io));
        // In one PDU, whose header says that all of it comes.
        let bytes = part(&io, &r2t, 0, r2t.length);
        let header = bytes.len() - LENGTH;
        rig.send(io.id, &bytes[..header + usize::try_from(step).expect("short")]);
        assert_eq!(look(&mut rig, &io), stays, "{step} bytes");
    }
}

/// A host serves one R2T after another: that the second makes no progress is no sign.
#[test]
fn only_the_oldest_has_to_make_progress() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let first = begin_write(&mut rig, &mut io, 0);
    let second = begin_write(&mut rig, &mut io, 8);
    let third = begin_write(&mut rig, &mut io, 16);
    assert!(look(&mut rig, &io));
    for at in 0..8 {
        let bytes = part(&io, &first, at * PROGRESS_BYTES, PROGRESS_BYTES);
        rig.send(io.id, &bytes);
        assert!(look(&mut rig, &io), "part {at}");
    }
    // The first is complete. What came of the third does not help the second.
    let bytes = part(&io, &third, 0, PROGRESS_BYTES);
    rig.send(io.id, &bytes);
    assert!(!look(&mut rig, &io));
    assert_eq!(rig.peers[&io.id].loss, Some(Loss::DataDeadline));
    let _ = second;
}

#[test]
fn half_a_capsule_is_owed_too() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let entry = NvmCommand::Write(transfer(0, 8192)).entry(Nsid(1)).with_cid(io.cid());
    let bytes = io.capsule(entry.with_sgl(SglDescriptor::in_capsule(8192)), &[1; 8192]);
    rig.send(io.id, &bytes[..1000]);
    assert!(look(&mut rig, &io));
    assert!(!look(&mut rig, &io));
}

/// The second command's data is on its way while the first one's is there.
#[test]
fn half_of_the_second_capsule_of_a_fused_operation_is_owed_too() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    let sgl = SglDescriptor::in_capsule(8192);
    let compare = NvmCommand::Compare(transfer(0, 8192)).entry(Nsid(1)).with_fuse(Fuse::First);
    let compare = compare.with_cid(io.cid()).with_sgl(sgl);
    io.send_capsule(&mut rig, compare, &[0; 8192]);
    let write = NvmCommand::Write(transfer(0, 8192)).entry(Nsid(1)).with_fuse(Fuse::Second);
    let write = write.with_cid(io.cid()).with_sgl(sgl);
    let bytes = io.capsule(write, &[1; 8192]);
    rig.send(io.id, &bytes[..1000]);
    assert!(look(&mut rig, &io));
    assert!(!look(&mut rig, &io));
}

#[test]
fn while_this_side_takes_nothing_the_host_owes_nothing() {
    let mut rig = Rig::new();
    let (_admin, mut io) = Host::pair(&mut rig, Digests::default());
    begin_write(&mut rig, &mut io, 0);
    assert!(look(&mut rig, &io));
    rig.peers.get_mut(&io.id).expect("it is open").connection.forgive_data();
    assert!(look(&mut rig, &io), "it was forgiven");
    // A capsule that waits for memory is in front of everything else.
    rig.peers.get_mut(&io.id).expect("it is open").memory_max = 0;
    let entry = NvmCommand::Write(transfer(8, 4096)).entry(Nsid(1)).with_cid(io.cid());
    io.send_capsule(&mut rig, entry.with_sgl(SglDescriptor::in_capsule(4096)), &[1; 4096]);
    assert!(look(&mut rig, &io) && look(&mut rig, &io) && look(&mut rig, &io));
}
