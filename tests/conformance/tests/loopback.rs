//! The target as it runs: loops, sockets, a pool.

use std::time::Duration;

use fathom_nvme::{
    Status,
    admin::{AdminCommand, SetFeatures},
    event::AsyncEvent,
    feature::{AsyncEventConfiguration, FeatureId},
    nvm::NvmCommand,
    sgl::SglDescriptor,
    tcp::Digests,
};
use fathom_target::connection::Limits;
use fathom_test_conformance::{
    network::Network,
    node::{BLOCKS, Node},
};
use fathom_test_target::{
    host::{Host, Received, Wire as _, transfer},
    rig::{HOST, VOLUME, nqn},
};
use fathom_units::{Nsid, Qid};

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 4096 * 7 + at + seed).to_le_bytes()[0]).collect()
}

#[test]
fn what_is_written_is_read_in_every_size_with_and_without_digests() {
    for (loops, digests) in [(1, Digests::default()), (2, Digests { header: true, data: true })] {
        let node = Node::start(loops, Limits::default());
        let mut network = Network::new(node.address);
        let (_admin, mut io) = Host::pair(&mut network, digests);
        for blocks in [1_usize, 3, 4, 8, 9, 32, 100, 256] {
            let data = pattern(blocks, blocks * 4096);
            let lba = blocks as u64 * 10;
            assert_eq!(io.write(&mut network, lba, &data), Status::SUCCESS, "{blocks} blocks");
            let reply = io.read(&mut network, lba, blocks as u64);
            assert_eq!(reply.completion.status, Status::SUCCESS);
            assert!(reply.data == data, "{blocks} blocks");
        }
        let flush = io.command(&mut network, NvmCommand::Flush.entry(Nsid(1)), &[]);
        assert_eq!(flush.completion.status, Status::SUCCESS);
        let reply = io.read(&mut network, BLOCKS, 1);
        assert_eq!(reply.completion.status, Status::LBA_OUT_OF_RANGE.do_not_retry());
    }
}

#[test]
fn many_commands_are_under_way_at_once_on_many_queues() {
    let node = Node::start(2, Limits::default());
    let mut network = Network::new(node.address);
    let (admin, first) = Host::pair(&mut network, Digests::default());
    let mut queues = vec![first];
    queues.extend((2..5).map(|qid| admin.io(&mut network, Qid(qid))));
    for round in 0..20_u64 {
        for (number, io) in queues.iter_mut().enumerate() {
            for slot in 0..16_u64 {
                let lba = (number as u64 * 16 + slot) * 20 + round % 5;
                let data = pattern(lba.to_le_bytes()[0].into(), 8192);
                let entry = NvmCommand::Write(transfer(lba, 8192)).entry(Nsid(1));
                let cid = io.cid();
                let entry = entry.with_cid(cid).with_sgl(SglDescriptor::in_capsule(8192));
                io.send_capsule(&mut network, entry, &data);
            }
        }
        for io in &mut queues {
            for _ in 0..16 {
                match io.receive(&mut network)[..] {
                    [Received::Completion(done)] => assert_eq!(done.status, Status::SUCCESS),
                    ref other => panic!("{other:?}"),
                }
            }
        }
    }
    for number in 0..4_u64 {
        for slot in 0..16 {
            let lba = (number * 16 + slot) * 20 + 4;
            let reply = queues[0].read(&mut network, lba, 2);
            assert!(reply.data == pattern(lba.to_le_bytes()[0].into(), 8192), "block {lba}");
        }
    }
}

/// A loop has one buffer of 1 MiB.
#[test]
fn more_data_than_there_is_memory_for_goes_through() {
    let node = Node::start(1, Limits::default());
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests { header: true, data: true });
    let length = 1 << 20;
    let sgl = SglDescriptor::transport(1 << 20);
    let data: Vec<Vec<u8>> = (0..8).map(|seed| pattern(seed, length)).collect();
    let mut cids = Vec::new();
    for at in 0..8 {
        let cid = io.cid();
        let entry = NvmCommand::Write(transfer(at * 256, length)).entry(Nsid(1));
        io.send_capsule(&mut network, entry.with_cid(cid).with_sgl(sgl), &[]);
        cids.push(cid);
    }
    let mut done = 0;
    while done < 8 {
        for received in io.receive(&mut network) {
            match received {
                Received::R2t(r2t) => {
                    let at = cids.iter().position(|cid| *cid == r2t.cid).expect("one of them");
                    io.answer_r2t(&mut network, &r2t, &data[at]);
                }
                Received::Completion(completion) => {
                    assert_eq!(completion.status, Status::SUCCESS);
                    done += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    for (at, data) in data.iter().enumerate() {
        assert!(io.read(&mut network, at as u64 * 256, 256).data == *data, "write {at}");
    }
}

#[test]
fn unexporting_ends_every_connection_and_exporting_again_lets_hosts_in() {
    let node = Node::start(2, Limits::default());
    let mut network = Network::new(node.address);
    let (admin, mut io) = Host::pair(&mut network, Digests::default());
    assert_eq!(io.write(&mut network, 0, &pattern(1, 4096)), Status::SUCCESS);
    node.unexport();
    network.wait_for_end(io.id);
    network.wait_for_end(admin.id);
    network.close(io.id);
    network.close(admin.id);
    node.wait_for_silence();
    let mut refused = Host::open(&mut network, Digests::default());
    let completion = refused.connect(&mut network, VOLUME, Qid::ADMIN, 0);
    assert!(!completion.status.is_success() && !completion.status.is_do_not_retry());
    node.export();
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    assert!(io.read(&mut network, 0, 1).data == pattern(1, 4096));
}

#[test]
fn a_subsystem_is_withdrawn_only_when_no_host_is_connected() {
    let node = Node::start(1, Limits::default());
    let mut network = Network::new(node.address);
    let (admin, mut io) = Host::pair(&mut network, Digests::default());
    let withdrawn = || node.target.withdraw(nqn(VOLUME)).expect("the target runs");
    let connected = withdrawn().expect_err("a host is connected");
    assert_eq!(Vec::from_iter(&connected), [&nqn(HOST)]);
    assert_eq!(node.target.hosts_of(nqn(VOLUME)), Ok(connected));
    assert_eq!(io.write(&mut network, 0, &pattern(1, 4096)), Status::SUCCESS);
    network.close(io.id);
    network.close(admin.id);
    node.wait_for_silence();
    assert_eq!(withdrawn(), Ok(true));
    assert_eq!(withdrawn(), Ok(false));
    let mut refused = Host::open(&mut network, Digests::default());
    let completion = refused.connect(&mut network, VOLUME, Qid::ADMIN, 0);
    assert!(!completion.status.is_success() && !completion.status.is_do_not_retry());
}

#[test]
fn a_resize_is_told_and_the_new_blocks_are_there() {
    let node = Node::start(1, Limits::default());
    let mut network = Network::new(node.address);
    let (mut admin, mut io) = Host::pair(&mut network, Digests::default());
    let wanted = AsyncEventConfiguration::NAMESPACE_ATTRIBUTE_CHANGED.bits();
    let set = SetFeatures::new(FeatureId::ASYNC_EVENT_CONFIGURATION, wanted);
    admin.command(&mut network, AdminCommand::SetFeatures(set).entry(), &[]);
    let cid = admin.cid();
    let request = AdminCommand::AsyncEventRequest.entry().with_cid(cid);
    admin.send_capsule(&mut network, request, &[]);
    node.resize(BLOCKS * 2);
    let [Received::Completion(completion)] = admin.receive(&mut network)[..] else {
        panic!("the event")
    };
    let event = AsyncEvent::decode(completion.dword0());
    assert_eq!(event, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
    assert_eq!(io.write(&mut network, BLOCKS * 2 - 1, &pattern(3, 4096)), Status::SUCCESS);
}

#[test]
fn a_host_that_goes_away_leaves_nothing_behind() {
    let node = Node::start(2, Limits::default());
    for how in 0..6 {
        let mut network = Network::new(node.address);
        let (_admin, mut io) = Host::pair(&mut network, Digests::default());
        let cid = io.cid();
        let length = 256 << 10;
        let entry = NvmCommand::Write(transfer(0, length)).entry(Nsid(1)).with_cid(cid);
        let sgl = SglDescriptor::transport(u32::try_from(length).expect("short"));
        match how {
            // With a command whose data never comes, half a header, half of the data, ...
            0 => {}
            1 => network.send(io.id, &[4, 0, 72]),
            2 => io.send_capsule(&mut network, entry.with_sgl(sgl), &[]),
            3 => {
                let entry = entry.with_sgl(SglDescriptor::in_capsule(8192));
                let bytes = io.capsule(entry, &[0; 8192]);
                network.send(io.id, &bytes[..1000]);
            }
            4 => {
                io.send_capsule(&mut network, entry.with_sgl(sgl), &[]);
                let [Received::R2t(r2t)] = io.receive(&mut network)[..] else { panic!("an R2T") };
                let pdu = fathom_nvme::tcp::H2cData {
                    cid,
                    transfer_tag: r2t.transfer_tag,
                    offset: 0,
                    length: r2t.length,
                    last: true,
                };
                let bytes = io.h2c_data(&pdu, &vec![1; length]);
                network.send(io.id, &bytes[..100_000]);
            }
            _ => {
                for block in 0..16 {
                    let read = NvmCommand::Read(transfer(block * 256, 1 << 20)).entry(Nsid(1));
                    let cid = io.cid();
                    let sgl = SglDescriptor::transport(1 << 20);
                    io.send_capsule(&mut network, read.with_cid(cid).with_sgl(sgl), &[]);
                }
            }
        }
        drop(network);
        node.wait_for_silence();
    }
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    assert_eq!(io.write(&mut network, 0, &pattern(0, 1 << 20)), Status::SUCCESS);
}

#[test]
fn connections_that_never_speak_are_closed_at_their_deadline_and_others_go_on() {
    let limits = Limits { connect_deadline: Duration::from_millis(500), ..Limits::default() };
    let node = Node::start(2, limits);
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    let mut silent = Network::new(node.address);
    let ids: Vec<_> = (0..900).map(|_| silent.open()).collect();
    assert_eq!(io.write(&mut network, 0, &pattern(0, 64 << 10)), Status::SUCCESS);
    for id in ids {
        silent.wait_for_end(id);
    }
    assert_eq!(io.write(&mut network, 5, &pattern(0, 64 << 10)), Status::SUCCESS);
}

#[test]
fn stopping_ends_every_connection() {
    let node = Node::start(2, Limits::default());
    let mut network = Network::new(node.address);
    let (admin, mut io) = Host::pair(&mut network, Digests::default());
    assert_eq!(io.write(&mut network, 0, &pattern(2, 128 << 10)), Status::SUCCESS);
    let host = std::thread::spawn(move || {
        network.wait_for_end(io.id);
        network.wait_for_end(admin.id);
    });
    node.stop();
    host.join().expect("both connections end");
}
