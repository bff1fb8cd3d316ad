//! Closing the serving side: what was received is finished, and hosts see closed connections only.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use fathom_block::Operation;
use fathom_engine::serve::{handle::ServeError, message::Closure};
use fathom_nvme::{Status, nvm::NvmCommand, sgl::SglDescriptor, tcp::Digests};
use fathom_runtime::Buffer;
use fathom_target::connection::Limits;
use fathom_test_conformance::{
    held::Held,
    network::Network,
    node::{LONG, Node, wait_until},
};
use fathom_test_target::{
    host::{Host, Received, transfer},
    rig::{VOLUME, nqn},
};
use fathom_units::{BlockCount, Cid, Lba, Nsid};

const BLOCK: usize = 4096;
/// What one host has under way.
const DEPTH: u64 = 16;
/// Blocks of one write: even ones go in the capsule, odd ones by R2T.
const BLOCKS_OF_WRITE: [usize; 2] = [2, 16];

fn port_is_open(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Begins a write of `value` in every byte at place `place`, and returns its CID.
fn begin(network: &mut Network, io: &mut Host, place: u64, value: u8) -> Cid {
    let blocks = BLOCKS_OF_WRITE[usize::from(place % 2 == 1)];
    let length = u32::try_from(blocks * BLOCK).expect("short");
    let cid = io.cid();
    let entry = NvmCommand::Write(transfer(place * 16, blocks * BLOCK)).entry(Nsid(1));
    let entry = entry.with_cid(cid);
    match place % 2 {
        0 => {
            let entry = entry.with_sgl(SglDescriptor::in_capsule(length));
            io.send_capsule(network, entry, &vec![value; blocks * BLOCK]);
        }
        _ => io.send_capsule(network, entry.with_sgl(SglDescriptor::transport(length)), &[]),
    }
    cid
}

/// Writes to its places until the connection ends. Returns what was acknowledged last of each.
fn write_until_the_end(
    address: SocketAddr,
    first: u64,
    digests: Digests,
    acknowledged: &AtomicUsize,
) -> BTreeMap<u64, u8> {
    let mut network = Network::new(address);
    let (_admin, mut io) = Host::pair(&mut network, digests);
    let mut under_way = BTreeMap::new();
    for place in first..first + DEPTH {
        under_way.insert(begin(&mut network, &mut io, place, 1).0, (place, 1));
    }
    let mut last = BTreeMap::new();
    loop {
        let received = io.receive(&mut network);
        if received.is_empty() {
            return last;
        }
        for one in received {
            match one {
                Received::Completion(done) => {
                    assert_eq!(done.status, Status::SUCCESS, "a command got an error status");
                    let (place, value) = under_way.remove(&done.cid.0).expect("it is under way");
                    last.insert(place, value);
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    let value: u8 = value % 250 + 1;
                    let cid = begin(&mut network, &mut io, place, value);
                    under_way.insert(cid.0, (place, value));
                }
                Received::R2t(r2t) => {
                    let (_, value) = under_way[&r2t.cid.0];
                    let length = usize::try_from(r2t.length).expect("short");
                    io.answer_r2t(&mut network, &r2t, &vec![value; length]);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn under_load_every_acknowledged_write_is_there_and_no_command_fails() {
    for digests in [Digests::default(), Digests { header: true, data: true }] {
        let node = Node::start(2, Limits::default());
        let counts: [Arc<AtomicUsize>; 4] = Default::default();
        let hosts: Vec<_> = (0..)
            .zip(counts.clone())
            .map(|(number, count)| {
                let (address, first) = (node.address, number * DEPTH);
                thread::spawn(move || write_until_the_end(address, first, digests, &count))
            })
            .collect();
        let writes = |count: &Arc<AtomicUsize>| count.load(Ordering::SeqCst) > 100;
        wait_until("every host writes", || counts.iter().all(writes));
        assert_eq!(node.target.close(LONG), Ok(Closure { found: true, cut: 0 }));
        assert_eq!(node.limit.open(), 0, "every connection is closed");
        assert!(!port_is_open(node.address));
        for host in hosts {
            let last = host.join().expect("no command got an error status");
            for (place, value) in last {
                let blocks = BLOCKS_OF_WRITE[usize::from(place % 2 == 1)];
                let (lba, count) = (Lba(place * 16), BlockCount(blocks as u64));
                let room = Some(Buffer::zeroed(blocks * BLOCK));
                let data = node.pool.request(node.object, Operation::Read, lba, count, room);
                let data = data.expect("the pool runs").expect("a read has data");
                // The next one may have been done, too, and its answer not have arrived.
                let next = value % 250 + 1;
                let is_it = [value, next].iter().any(|value| data.iter().all(|at| at == value));
                assert!(is_it, "place {place}: {value} was acknowledged, there is {}", data[0]);
            }
        }
        assert_eq!(node.target.close(LONG), Err(ServeError::Closed));
        node.stop();
    }
}

#[test]
fn what_is_at_a_device_is_waited_for_and_answered() {
    let node = Node::start(2, Limits::default());
    node.unexport();
    let held = Held::start(&node.loops);
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (admin, mut io) = Host::pair(&mut network, Digests::default());
    let cid = begin(&mut network, &mut io, 0, 7);
    held.wait_for(1);
    let closing = thread::spawn({
        let target = node.target.clone();
        move || target.close(LONG)
    });
    // The admin queue has nothing to finish: so the I/O queue has been told, too.
    network.wait_for_end(admin.id);
    assert!(!port_is_open(node.address), "the port is closed first");
    assert!(!closing.is_finished(), "a write is at the device");
    begin(&mut network, &mut io, 2, 8);
    held.let_go();
    let received = io.receive(&mut network);
    let [Received::Completion(done)] = received[..] else { panic!("the answer: {received:?}") };
    assert_eq!((done.cid, done.status), (cid, Status::SUCCESS));
    assert_eq!(io.receive(&mut network), [], "what was sent afterwards is not answered");
    drop(network);
    let closure = closing.join().expect("it ends");
    assert_eq!(closure, Ok(Closure { found: true, cut: 0 }));
}

/// A loop has one buffer of 1 MiB: the second read waits for that of the first.
#[test]
fn a_command_that_waits_for_memory_is_answered_too() {
    let node = Node::start(1, Limits::default());
    node.unexport();
    let held = Held::start(&node.loops);
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (admin, mut io) = Host::pair(&mut network, Digests::default());
    let cids: Vec<Cid> = (0..2)
        .map(|at| {
            let cid = io.cid();
            let read = NvmCommand::Read(transfer(at * 256, 1 << 20)).entry(Nsid(1)).with_cid(cid);
            io.send_capsule(&mut network, read.with_sgl(SglDescriptor::transport(1 << 20)), &[]);
            cid
        })
        .collect();
    held.wait_for(1);
    let closing = thread::spawn({
        let target = node.target.clone();
        move || target.close(LONG)
    });
    network.wait_for_end(admin.id);
    network.close(admin.id);
    held.let_go();
    for cid in cids {
        assert_eq!(io.finish(&mut network, cid, &[]).completion.status, Status::SUCCESS);
    }
    assert_eq!(io.receive(&mut network), []);
    drop(network);
    assert_eq!(closing.join().expect("it ends"), Ok(Closure { found: true, cut: 0 }));
}

#[test]
fn what_is_not_finished_at_the_deadline_ends_without_a_status() {
    let node = Node::start(2, Limits::default());
    node.unexport();
    let held = Held::start(&node.loops);
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (admin, mut io) = Host::pair(&mut network, Digests::default());
    begin(&mut network, &mut io, 0, 7);
    held.wait_for(1);
    let closure = node.target.close(Duration::from_millis(100));
    // The admin queue's host has not closed its side either.
    assert!(matches!(closure, Ok(Closure { found: true, cut: 1..=2 })), "{closure:?}");
    assert_eq!(io.receive(&mut network), [], "no status");
    network.wait_for_end(admin.id);
    held.let_go();
    node.wait_for_silence();
    node.stop();
}

#[test]
fn one_portal_is_closed_and_the_other_goes_on() {
    let node = Node::start(2, Limits::default());
    let second = node.listen();
    let (mut here, mut there) = (Network::new(node.address), Network::new(second));
    let (_admin, mut io) = Host::pair(&mut here, Digests::default());
    let (other_admin, other) = Host::pair(&mut there, Digests::default());
    let closing = thread::spawn({
        let target = node.target.clone();
        move || target.close_portal(second, LONG)
    });
    there.wait_for_end(other.id);
    there.wait_for_end(other_admin.id);
    drop(there);
    assert_eq!(closing.join().expect("it ends"), Ok(Closure { found: true, cut: 0 }));
    assert!(!port_is_open(second));
    assert_eq!(io.write(&mut here, 0, &[1; BLOCK]), Status::SUCCESS);
    let (_admin, mut io) = Host::pair(&mut here, Digests::default());
    assert_eq!(io.write(&mut here, 0, &[2; BLOCK]), Status::SUCCESS);
    let again = node.target.close_portal(second, LONG);
    assert_eq!(again, Ok(Closure { found: false, cut: 0 }));
}

#[test]
fn unexporting_waits_for_what_is_at_devices_and_says_so_at_its_deadline() {
    let node = Node::start(1, Limits::default());
    node.unexport();
    let held = Held::start(&node.loops);
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (admin, mut io) = Host::pair(&mut network, Digests::default());
    begin(&mut network, &mut io, 0, 7);
    held.wait_for(1);
    let short = Duration::from_millis(50);
    let late = node.target.unexport(nqn(VOLUME), short).expect_err("a write is at the device");
    let subsystem = Box::new(nqn(VOLUME));
    assert_eq!(late, ServeError::Unfenced { subsystem, waited: short });
    assert!(late.to_string().contains(VOLUME), "{late}");
    // It is not served any more, and the same call waits again.
    network.wait_for_end(admin.id);
    assert_eq!(held.held(), 1);
    assert_eq!(node.target.unexport(nqn(VOLUME), short), Err(late));
    held.let_go();
    // Whether it still found somebody, or all was over by then.
    assert!(node.target.unexport(nqn(VOLUME), LONG).is_ok());
    assert_eq!(held.held(), 0);
    assert_eq!(node.target.unexport(nqn(VOLUME), LONG), Ok(false), "nobody is left");
    let received = io.receive(&mut network);
    assert!(matches!(received[..], [Received::Completion(_)]), "it was answered: {received:?}");
}

#[test]
fn taking_a_host_off_the_list_waits_for_what_it_has_at_devices() {
    use fathom_target::export::Hosts;
    let node = Node::start(1, Limits::default());
    node.unexport();
    let held = Held::start(&node.loops);
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    begin(&mut network, &mut io, 0, 7);
    held.wait_for(1);
    let nobody = || Hosts::Listed(std::collections::BTreeSet::new());
    let short = Duration::from_millis(50);
    let late = node.target.set_hosts(nqn(VOLUME), nobody(), short);
    let subsystem = Box::new(nqn(VOLUME));
    assert_eq!(late, Err(ServeError::Unfenced { subsystem, waited: short }));
    held.let_go();
    assert_eq!(node.target.set_hosts(nqn(VOLUME), nobody(), LONG), Ok(true));
}
