//! Associations: who may begin one, what ends it, and that nothing of it reaches a device later.

#![expect(clippy::cast_possible_truncation, reason = "what is drawn or counted is small")]

use std::{collections::BTreeSet, time::Duration};

use fathom_block::Operation;
use fathom_nvme::{
    Status,
    admin::AdminCommand,
    fabrics::{Connect, ConnectAttributes, HostId, InvalidParameter},
    nvm::NvmCommand,
    property::{Configuration, ShutdownNotification, ShutdownStatus},
    sgl::SglDescriptor,
    tcp::Digests,
};
use fathom_target::{
    connection::{Loss, Stage},
    export::Hosts,
};
use fathom_test_support::random::Random;
use fathom_test_target::{
    host::{Host, Received, transfer},
    rig::{DEVICE, Rig, VOLUME, nqn},
};
use fathom_units::{Cntlid, Nsid, Qid};

/// Sends a Write of `byte` to a block, without waiting for anything.
fn begin_write(rig: &mut Rig, io: &mut Host, block: u64, byte: u8) {
    let cid = io.cid();
    let entry = NvmCommand::Write(transfer(block, 4096)).entry(Nsid(1)).with_cid(cid);
    io.send_capsule(rig, entry.with_sgl(SglDescriptor::in_capsule(4096)), &[byte; 4096]);
}

/// The Connect of an admin queue, for tests that do not wait for its answer.
fn connect_admin(keep_alive_ms: u32) -> Connect {
    let attributes = ConnectAttributes::empty();
    Connect { qid: Qid::ADMIN, sq_entries: 32, attributes, keep_alive_ms }
}

#[test]
fn unexporting_ends_when_nothing_can_reach_the_device_any_more() {
    let mut rig = Rig::new();
    let (admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    begin_write(&mut rig, &mut io, 0, 1);
    let ticket = rig.target.unexport(&nqn(VOLUME)).expect("it is exported");
    rig.settle();
    assert!(rig.done.is_empty(), "a write is at the device");
    assert_eq!((rig.stage(io.id), rig.stage(admin.id)), (Stage::Ending, Stage::Ended));
    begin_write(&mut rig, &mut io, 1, 2);
    assert_eq!(rig.held.len(), 1, "what came afterwards is not executed");
    rig.release_one();
    assert_eq!(rig.done, [ticket]);
    assert!(matches!(io.receive(&mut rig)[..], [Received::Completion(_)]), "it is answered");
    let completion = Host::open(&mut rig, Digests::default()).connect(&mut rig, VOLUME, Qid(0), 0);
    assert_eq!(InvalidParameter::of(&completion), Some(InvalidParameter::SUBNQN));
    assert!(!completion.status.is_do_not_retry(), "it may be exported again");
}

#[test]
fn only_hosts_that_are_listed_may_connect_and_stay() {
    let mut rig = Rig::new();
    let (_admin, io) = Host::pair(&mut rig, Digests::default());
    let other = Hosts::Listed(BTreeSet::from([nqn("nqn.2026-01.io.fathom:other")]));
    let ticket = rig.target.set_hosts(&nqn(VOLUME), other).expect("it is exported");
    rig.settle();
    assert_eq!(rig.done, [ticket]);
    assert_eq!(rig.stage(io.id), Stage::Ended);
    let mut host = Host::open(&mut rig, Digests::default());
    let completion = host.connect(&mut rig, VOLUME, Qid::ADMIN, 0);
    assert_eq!(completion.status, Status::CONNECT_INVALID_HOST, "without DNR: it may be listed");
    host.host = nqn("nqn.2026-01.io.fathom:other");
    assert_eq!(host.connect(&mut rig, VOLUME, Qid::ADMIN, 0).status, Status::SUCCESS);
}

#[test]
fn an_expired_keep_alive_ends_the_association_and_one_in_time_does_not() {
    let mut rig = Rig::new();
    let mut admin = Host::open(&mut rig, Digests::default());
    assert_eq!(admin.connect(&mut rig, VOLUME, Qid::ADMIN, 5_000).status, Status::SUCCESS);
    admin.enable(&mut rig);
    for _ in 0..3 {
        rig.pass(Duration::from_millis(4_999));
        let reply = admin.command(&mut rig, AdminCommand::KeepAlive.entry(), &[]);
        assert_eq!(reply.completion.status, Status::SUCCESS);
    }
    rig.pass(Duration::from_millis(4_999));
    assert_eq!(rig.stage(admin.id), Stage::Live);
    assert_eq!(rig.target.deadline(), Some(rig.now + Duration::from_millis(1)));
    rig.pass(Duration::from_millis(1));
    assert!(rig.peers[&admin.id].finished);
    assert_eq!(rig.target.deadline(), None);
}

/// Its host shows no more that it lives, and need not.
#[test]
fn an_association_that_is_ending_does_not_expire() {
    let mut rig = Rig::new();
    let (admin, mut io) = connect_pair(&mut rig, 5_000).expect("nobody else is there");
    assert!(rig.target.deadline().is_some());
    rig.holding = true;
    begin_write(&mut rig, &mut io, 0, 1);
    rig.close(admin.id);
    assert_eq!(rig.stage(io.id), Stage::Ending, "the write is at the device");
    assert_eq!(rig.target.deadline(), None);
    let (admin, mut io) = {
        rig.release_one();
        connect_pair(&mut rig, 5_000).expect("it is fenced")
    };
    begin_write(&mut rig, &mut io, 0, 1);
    rig.drain(admin.id);
    assert_eq!(rig.stage(io.id), Stage::Draining, "the write is at the device");
    assert_eq!(rig.target.deadline(), None);
}

/// Many hosts with different keep alive timeouts, against a list of when each of them expires.
#[test]
fn of_many_hosts_just_those_expire_that_were_silent_for_too_long() {
    let mut random = Random::new(5);
    let mut rig = Rig::new();
    rig.target.unexport(&nqn(VOLUME));
    let mut subsystem = fathom_test_target::rig::volume();
    subsystem.controllers = 1..=1000;
    rig.target.export(subsystem).expect("it is new");
    let mut hosts: Vec<(Host, u64, u64)> = Vec::new();
    for step in 0..600 {
        match random.below(10) {
            0 if hosts.len() < 60 => {
                let timeout_ms = (1 + random.below(50)) * 100;
                let mut admin = Host::open(&mut rig, Digests::default());
                admin.host_id = HostId([u8::try_from(step % 251).expect("small"); 16]);
                let keep_alive_ms = timeout_ms as u32;
                let reply = admin.connect(&mut rig, VOLUME, Qid::ADMIN, keep_alive_ms);
                assert_eq!(reply.status, Status::SUCCESS);
                admin.enable(&mut rig);
                let expires = rig.now.0 + timeout_ms * 1_000_000;
                hosts.push((admin, timeout_ms, expires));
            }
            1..=5 if !hosts.is_empty() => {
                let which = random.below(hosts.len() as u64) as usize;
                let (admin, timeout_ms, expires) = &mut hosts[which];
                admin.command(&mut rig, AdminCommand::KeepAlive.entry(), &[]);
                *expires = rig.now.0 + *timeout_ms * 1_000_000;
            }
            _ => {
                rig.pass(Duration::from_millis(random.below(400)));
                hosts.retain(|(admin, _, expires)| {
                    let lives = *expires > rig.now.0;
                    assert_eq!(rig.stage(admin.id) == Stage::Live, lives, "step {step}");
                    lives
                });
            }
        }
        let next = hosts.iter().map(|(_, _, expires)| *expires).min();
        assert_eq!(rig.target.deadline().map(|at| at.0), next, "step {step}");
    }
    assert!(hosts.len() > 3, "some live: {}", hosts.len());
}

#[test]
fn a_new_association_waits_for_the_fence_of_the_last_one() {
    let mut rig = Rig::new();
    let (admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    begin_write(&mut rig, &mut io, 0, 1);
    rig.close(admin.id);
    let mut again = Host::open(&mut rig, Digests::default());
    again.controller = Cntlid::DYNAMIC;
    again.send_connect(&mut rig, VOLUME, connect_admin(0));
    assert!(again.receive(&mut rig).is_empty(), "it waits");
    // Another host does not.
    let mut other = Host::open(&mut rig, Digests::default());
    other.host_id = HostId([1; 16]);
    assert_eq!(other.connect(&mut rig, VOLUME, Qid::ADMIN, 0).status, Status::SUCCESS);
    rig.release_one();
    let [Received::Completion(completion)] = again.receive(&mut rig)[..] else {
        panic!("it is admitted when the write has ended");
    };
    assert_eq!(completion.status, Status::SUCCESS);
}

#[test]
fn who_waits_too_long_for_a_fence_is_told_to_try_again() {
    let mut rig = Rig::new();
    let (admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    begin_write(&mut rig, &mut io, 0, 1);
    rig.close(admin.id);
    let mut again = Host::open(&mut rig, Digests::default());
    again.send_connect(&mut rig, VOLUME, connect_admin(0));
    rig.pass(Duration::from_secs(15));
    let [Received::Completion(completion)] = again.receive(&mut rig)[..] else {
        panic!("it is answered");
    };
    assert_eq!(completion.status, Status::CONNECT_CONTROLLER_BUSY);
}

/// Linux resets a controller by closing its I/O queues and disabling it on the admin queue then.
#[test]
fn the_association_outlives_its_io_queues_and_ends_with_its_admin_queue() {
    let mut rig = Rig::new();
    let (mut admin, mut first) = Host::pair(&mut rig, Digests::default());
    let second = admin.io(&mut rig, Qid(2));
    let disconnect = fathom_nvme::fabrics::FabricsCommand::disconnect_entry();
    let reply = first.command(&mut rig, disconnect, &[]);
    assert_eq!(reply.completion.status, Status::SUCCESS);
    assert_eq!(rig.peers[&first.id].loss, Some(Loss::Disconnected));
    rig.close(second.id);
    assert!(rig.peers[&second.id].finished);
    admin.configure(&mut rig, Configuration::DISABLED);
    assert!(!admin.status(&mut rig).ready);
    admin.enable(&mut rig);
    admin.grant_queues(&mut rig);
    let third = admin.io(&mut rig, Qid(1));
    rig.close(admin.id);
    assert!(rig.peers[&third.id].finished && rig.peers[&admin.id].finished);
}

#[test]
fn a_queue_is_admitted_to_its_own_controller_only() {
    let mut rig = Rig::new();
    let (admin, _io) = Host::pair(&mut rig, Digests::default());
    let refused = |rig: &mut Rig, change: &dyn Fn(&mut Host), qid| {
        let mut io = Host::open(rig, Digests::default());
        io.controller = admin.controller;
        change(&mut io);
        let completion = io.connect(rig, VOLUME, Qid(qid), 0);
        assert!(!completion.status.is_do_not_retry());
        InvalidParameter::of(&completion)
    };
    let unchanged = |_: &mut Host| {};
    assert_eq!(refused(&mut rig, &unchanged, 1), Some(InvalidParameter::QID), "it is taken");
    assert_eq!(
        refused(&mut rig, &unchanged, 5),
        Some(InvalidParameter::QID),
        "beyond what was granted"
    );
    let other_id = |io: &mut Host| io.host_id = HostId([3; 16]);
    assert_eq!(refused(&mut rig, &other_id, 2), Some(InvalidParameter::HOSTID));
    let other_name = |io: &mut Host| io.host = nqn("nqn.2026-01.io.fathom:thief");
    assert_eq!(refused(&mut rig, &other_name, 2), Some(InvalidParameter::HOSTNQN));
    let unknown = |io: &mut Host| io.controller = Cntlid(99);
    assert_eq!(refused(&mut rig, &unknown, 2), Some(InvalidParameter::CNTLID));
    assert_eq!(refused(&mut rig, &unchanged, 2), None, "that one is free");
}

#[test]
fn controller_identifiers_come_from_the_range_and_run_out() {
    let mut rig = Rig::new();
    let mut hosts: Vec<Host> = (0..8).map(|_| Host::admin(&mut rig)).collect();
    let ids: Vec<u16> = hosts.iter().map(|host| host.controller.0).collect();
    assert_eq!(ids, (1..=8).collect::<Vec<_>>());
    let mut ninth = Host::open(&mut rig, Digests::default());
    let completion = ninth.connect(&mut rig, VOLUME, Qid::ADMIN, 0);
    assert_eq!(completion.status, Status::CONNECT_CONTROLLER_BUSY);
    rig.close(hosts.remove(2).id);
    let completion = ninth.connect(&mut rig, VOLUME, Qid::ADMIN, 0);
    assert_eq!((completion.status, completion.result), (Status::SUCCESS, 3));
}

#[test]
fn a_reset_waits_for_the_io_queues() {
    let mut rig = Rig::new();
    let (mut admin, mut io) = Host::pair(&mut rig, Digests::default());
    rig.holding = true;
    begin_write(&mut rig, &mut io, 0, 1);
    admin.configure(&mut rig, Configuration::DISABLED);
    assert!(admin.status(&mut rig).ready, "a write is at the device");
    rig.release_one();
    assert!(!admin.status(&mut rig).ready);
    assert!(rig.peers[&io.id].finished);
    let reply = admin.command(&mut rig, AdminCommand::KeepAlive.entry(), &[]);
    assert_eq!(reply.completion.status, Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
    admin.enable(&mut rig);
}

#[test]
fn a_shutdown_flushes_what_may_be_lost() {
    let mut rig = Rig::new();
    let mut admin = Host::admin(&mut rig);
    let configuration = Configuration {
        enable: true,
        shutdown: ShutdownNotification::Normal,
        io_submission_entry_size: Configuration::IOSQES,
        io_completion_entry_size: Configuration::IOCQES,
        ..Configuration::DISABLED
    };
    admin.configure(&mut rig, configuration);
    assert_eq!(rig.flushes, 1);
    assert_eq!(admin.status(&mut rig).shutdown, ShutdownStatus::Complete);
}

/// It need not be enabled for that, and may be resetting.
#[test]
fn a_controller_that_is_not_enabled_can_be_shut_down_and_enabled_again() {
    let shut_down =
        Configuration { shutdown: ShutdownNotification::Normal, ..Configuration::DISABLED };
    let mut rig = Rig::new();
    // While its reset waits for a write; and in one step with the reset.
    for at_once in [false, true] {
        let (mut admin, mut io) = Host::pair(&mut rig, Digests::default());
        rig.holding = true;
        begin_write(&mut rig, &mut io, 0, 1);
        if !at_once {
            admin.configure(&mut rig, Configuration::DISABLED);
        }
        let flushes = rig.flushes;
        admin.configure(&mut rig, shut_down);
        assert_eq!(rig.flushes, flushes + 1);
        assert_eq!(admin.status(&mut rig).shutdown, ShutdownStatus::Complete);
        assert!(admin.status(&mut rig).ready, "a write is at the device");
        rig.release_one();
        let status = admin.status(&mut rig);
        assert_eq!((status.ready, status.shutdown), (false, ShutdownStatus::Complete));
        rig.holding = false;
        admin.enable(&mut rig);
        assert_eq!(admin.status(&mut rig).shutdown, ShutdownStatus::Normal);
        admin.grant_queues(&mut rig);
        let mut io = admin.io(&mut rig, Qid(1));
        assert_eq!(io.write(&mut rig, 0, &[1; 4096]), Status::SUCCESS);
        rig.close(admin.id);
    }
    // Before it is enabled for the first time.
    let mut admin = Host::open(&mut rig, Digests::default());
    assert_eq!(admin.connect(&mut rig, VOLUME, Qid::ADMIN, 0).status, Status::SUCCESS);
    admin.configure(&mut rig, shut_down);
    assert_eq!(admin.status(&mut rig).shutdown, ShutdownStatus::Complete);
    admin.enable(&mut rig);
}

/// A host whose network goes away for longer than its timeout: what it sent before may arrive late,
/// or never, but nothing of it changes what was acknowledged on its next association.
#[test]
fn after_a_partition_no_old_command_overwrites_a_new_one() {
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let mut rig = Rig::new();
        let keep_alive_ms = 1_000 + random.below(4_000) as u32;
        let mut old = connect_pair(&mut rig, keep_alive_ms).expect("nobody else is there");
        rig.holding = true;
        // Some of these are at the device, some in the network, when the partition begins.
        let mut late = Vec::new();
        for _ in 0..random.below(8) {
            let cid = old.1.cid();
            let entry = NvmCommand::Write(transfer(random.below(4), 4096)).entry(Nsid(1));
            let entry = entry.with_cid(cid).with_sgl(SglDescriptor::in_capsule(4096));
            let bytes = old.1.capsule(entry, &[0xAA; 4096]);
            match random.chance(1, 2) && late.is_empty() {
                true => rig.send(old.1.id, &bytes),
                false => late.extend(bytes),
            }
        }
        // The host gives up after its keep alive time, and comes back. This side may have slept all
        // the time, and notice that only then.
        let partition = Duration::from_millis(u64::from(keep_alive_ms.div_ceil(100) * 100));
        match random.chance(1, 2) {
            true => rig.pass(partition),
            false => rig.now = rig.now + partition,
        }
        if random.chance(1, 2) {
            rig.send(old.1.id, &late);
            late.clear();
        }
        let mut new = loop {
            if let Some(pair) = connect_pair(&mut rig, keep_alive_ms) {
                break pair;
            }
            assert!(rig.release_one(), "seed {seed}: nothing is left that it could wait for");
        };
        assert!(rig.held.is_empty(), "seed {seed}: an old request is at the device");
        rig.holding = false;
        for block in 0..4 {
            assert_eq!(new.1.write(&mut rig, block, &[0xBB; 4096]), Status::SUCCESS);
        }
        rig.send(old.1.id, &late);
        rig.settle();
        assert!(rig.devices[&DEVICE][..4 * 4096].iter().all(|byte| *byte == 0xBB), "seed {seed}");
        let old_ones = rig.log.iter().rev().take(4).all(|(id, operation, ..)| {
            *id == new.1.id && matches!(operation, Operation::Write { .. })
        });
        assert!(old_ones, "seed {seed}");
    }
}

/// An admin queue and an I/O queue. `None` when the Connect waits.
fn connect_pair(rig: &mut Rig, keep_alive_ms: u32) -> Option<(Host, Host)> {
    let mut admin = Host::open(rig, Digests::default());
    admin.send_connect(rig, VOLUME, connect_admin(keep_alive_ms));
    let [Received::Completion(completion)] = admin.receive(rig)[..] else {
        rig.close(admin.id);
        return None;
    };
    assert_eq!(completion.status, Status::SUCCESS);
    admin.controller = fathom_nvme::fabrics::Connected::from_result(completion.result).controller;
    admin.enable(rig);
    admin.grant_queues(rig);
    let io = admin.io(rig, Qid(1));
    Some((admin, io))
}
