//! The memory of a loop: no host keeps it from others, and nothing waits for it for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use fathom_nvme::{Status, nvm::NvmCommand, sgl::SglDescriptor, tcp::Digests};
use fathom_runtime::{Configuration, SizeClass};
use fathom_target::connection::Limits;
use fathom_test_conformance::{
    held::Held,
    network::Network,
    node::{Node, wait_until},
};
use fathom_test_target::host::{Host, Received, transfer};
use fathom_units::{Cid, Nsid, Qid};

const MIB: usize = 1 << 20;

/// Sends a command whose data does not come with it.
fn send(network: &mut Network, io: &mut Host, command: &NvmCommand, length: usize) -> Cid {
    let cid = io.cid();
    let sgl = SglDescriptor::transport(u32::try_from(length).expect("short"));
    io.send_capsule(network, command.entry(Nsid(1)).with_cid(cid).with_sgl(sgl), &[]);
    cid
}

/// Sends a Write of so many bytes whose data does not come with it.
fn send_write(network: &mut Network, io: &mut Host, lba: u64, length: usize) -> Cid {
    send(network, io, &NvmCommand::Write(transfer(lba, length)), length)
}

/// A host that asks for all chunks that are larger than 4 KiB, and sends no data. On its first queue
/// it has the only one of 1 MiB.
fn occupy(network: &mut Network) -> Vec<Host> {
    let (admin, first) =
        Host::pair_of(network, Digests::default(), "nqn.2026-01.io.fathom:hostile");
    let mut queues = vec![first];
    queues.extend((2..5).map(|qid| admin.io(network, Qid(qid))));
    for (io, length) in queues.iter_mut().zip([MIB, 128 << 10, 16 << 10, 16 << 10]) {
        for _ in 0..31 {
            send_write(network, io, 0, length);
        }
    }
    // It is asked for data as soon as there is memory for it. A queue of its own kind has had its turn
    // when what comes behind its commands is answered.
    for io in &mut queues {
        let cid = io.cid();
        let flush = NvmCommand::Flush.entry(Nsid(1)).with_cid(cid);
        io.send_capsule(network, flush, &[]);
        while !matches!(io.receive(network)[..], [Received::Completion(_)]) {}
    }
    queues.push(admin);
    queues
}

#[test]
fn a_host_that_keeps_memory_leaves_others_enough_to_go_on() {
    // It keeps it to the end.
    let limits = Limits { data_deadline: Duration::from_secs(3600), ..Limits::default() };
    let node = Node::start(1, limits);
    let mut hostile = Network::new(node.address);
    let _queues = occupy(&mut hostile);
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    for length in [4_usize << 10, 16 << 10, 128 << 10].repeat(20) {
        let data: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[1]).collect();
        assert_eq!(io.write(&mut network, 300, &data), Status::SUCCESS);
        let blocks = u64::try_from(length / 4096).expect("few");
        assert!(io.read(&mut network, 300, blocks).data == data, "{length} bytes");
    }
}

/// A loop has one buffer of 1 MiB, which the host that owes data has.
#[test]
fn a_host_that_owes_data_for_too_long_is_cut_off_and_others_go_on() {
    let limits = Limits { data_deadline: Duration::from_millis(200), ..Limits::default() };
    let node = Node::start(1, limits);
    let mut hostile = Network::new(node.address);
    let queues = occupy(&mut hostile);
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    let data = vec![7; MIB];
    assert_eq!(io.write(&mut network, 0, &data), Status::SUCCESS);
    assert!(io.read(&mut network, 0, 256).data == data);
    // Its queue that has none of the memory owes nothing, and stays.
    hostile.wait_for_end(queues[0].id);
}

/// Two hosts want the one buffer of 1 MiB all the time, one of them with many commands.
#[test]
fn a_busy_host_does_not_keep_another_one_from_its_turn() {
    let node = Node::start(1, Limits::default());
    let enough = Arc::new(AtomicBool::new(false));
    let busy = thread::spawn({
        let (address, enough) = (node.address, Arc::clone(&enough));
        move || {
            let mut network = Network::new(address);
            let name = "nqn.2026-01.io.fathom:busy";
            let (_admin, mut io) = Host::pair_of(&mut network, Digests::default(), name);
            let data = vec![3; MIB];
            for _ in 0..8 {
                send_write(&mut network, &mut io, 0, MIB);
            }
            while !enough.load(Ordering::SeqCst) {
                for received in io.receive(&mut network) {
                    match received {
                        Received::R2t(r2t) => io.answer_r2t(&mut network, &r2t, &data),
                        Received::Completion(done) => {
                            assert_eq!(done.status, Status::SUCCESS);
                            send_write(&mut network, &mut io, 0, MIB);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    });
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    for round in 0..20 {
        assert_eq!(io.read(&mut network, 256, 256).completion.status, Status::SUCCESS, "{round}");
    }
    enough.store(true, Ordering::SeqCst);
    busy.join().expect("it ends");
}

/// Nothing happens on the connection that waits when the memory comes back: the other host is of the
/// same loop, and holds it until its data has come.
#[test]
fn memory_that_comes_back_is_found_by_who_waits_for_it() {
    // No other timer of the connection does it by chance.
    let limits = Limits { connect_deadline: Duration::from_secs(3600), ..Limits::default() };
    let node = Node::start(1, limits);
    let mut other = Network::new(node.address);
    let name = "nqn.2026-01.io.fathom:other";
    let (_other_admin, mut holder) = Host::pair_of(&mut other, Digests::default(), name);
    send_write(&mut other, &mut holder, 0, MIB);
    let [Received::R2t(r2t)] = holder.receive(&mut other)[..] else { panic!("it has the memory") };
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    let waits = send(&mut network, &mut io, &NvmCommand::Read(transfer(0, MIB)), MIB);
    // Its capsule has been taken when what comes behind it is answered.
    assert_eq!(io_answers_a_flush(&mut network, &mut io), Status::SUCCESS);
    holder.answer_r2t(&mut other, &r2t, &vec![5; MIB]);
    assert!(matches!(holder.receive(&mut other)[..], [Received::Completion(_)]));
    let reply = io.finish(&mut network, waits, &[]);
    assert_eq!(reply.completion.status, Status::SUCCESS, "a read waits for memory that is there");
    assert!(reply.data == vec![5; MIB]);
}

#[test]
fn a_command_that_waits_for_memory_is_aborted_on_whatever_loop_it_is() {
    use fathom_nvme::admin::{Abort, AdminCommand};
    let node = Node::start(2, Limits::default());
    node.unexport();
    let held = Held::start(&node.loops);
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (mut admin, mut io) = Host::pair(&mut network, Digests::default());
    let read = NvmCommand::Read(transfer(0, MIB));
    let first = send(&mut network, &mut io, &read, MIB);
    held.wait_for(1);
    let second = send(&mut network, &mut io, &read, MIB);
    // Until its capsule has been taken there is nothing to abort.
    wait_until("the read is aborted", || {
        let abort = AdminCommand::Abort(Abort { qid: Qid(1), cid: second });
        let answer = admin.command(&mut network, abort.entry(), &[]).completion;
        assert_eq!(answer.status, Status::SUCCESS);
        answer.dword0() == 0
    });
    let aborted = io.finish(&mut network, second, &[]).completion.status;
    assert_eq!(aborted, Status::ABORT_REQUESTED);
    held.let_go();
    assert_eq!(io.finish(&mut network, first, &[]).completion.status, Status::SUCCESS);
}

/// Sends a Flush and waits for its answer, which comes before that of anything that waits.
fn io_answers_a_flush(network: &mut Network, io: &mut Host) -> Status {
    io.command(network, NvmCommand::Flush.entry(Nsid(1)), &[]).completion.status
}

/// Chunks for two capsules, of which a host gets one. What comes behind a capsule that waits is not
/// taken; so it must not wait while the host owes data.
#[test]
fn a_capsule_waits_for_memory_unless_the_host_owes_data() {
    let buffers = vec![
        SizeClass { chunk_bytes: 8 << 10, chunks: 2 },
        SizeClass { chunk_bytes: MIB, chunks: 1 },
    ];
    let configuration = Configuration { loops: 1, buffers, ..Configuration::default() };
    let node = Node::start_with(&configuration, Limits::default());
    node.unexport();
    let held = Held::start(&node.loops);
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    let in_capsule = |network: &mut Network, io: &mut Host, lba| {
        let cid = io.cid();
        let entry = NvmCommand::Write(transfer(lba, 8192)).entry(Nsid(1)).with_cid(cid);
        io.send_capsule(network, entry.with_sgl(SglDescriptor::in_capsule(8192)), &[1; 8192]);
    };
    // The first one has the chunk that the host may have, the others wait.
    (0..8).for_each(|at| in_capsule(&mut network, &mut io, at * 2));
    held.wait_for(1);
    held.let_go();
    for _ in 0..8 {
        let [Received::Completion(done)] = io.receive(&mut network)[..] else { panic!("answers") };
        assert_eq!(done.status, Status::SUCCESS);
    }
    // It owes 16 KiB in the only larger chunk, and the data is behind the capsules.
    let held = Held::start(&node.loops);
    node.unexport();
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    send_write(&mut network, &mut io, 100, 16 << 10);
    let [Received::R2t(r2t)] = io.receive(&mut network)[..] else { panic!("an R2T") };
    (0..8).for_each(|at| in_capsule(&mut network, &mut io, at * 2));
    io.answer_r2t(&mut network, &r2t, &vec![2; 16 << 10]);
    // None of them has to be answered for all to be taken.
    held.wait_for(9);
}

/// 80 reads of 1 MiB are more than the queue of a socket takes.
#[test]
fn answers_to_large_reads_fit_the_queue_of_the_socket() {
    let buffers = vec![
        SizeClass { chunk_bytes: 4 << 10, chunks: 64 },
        SizeClass { chunk_bytes: MIB, chunks: 160 },
    ];
    let configuration = Configuration { loops: 1, buffers, ..Configuration::default() };
    let node = Node::start_with(&configuration, Limits::default());
    node.unexport();
    let held = Held::start(&node.loops);
    node.export_from(held.address);
    let mut network = Network::new(node.address);
    let (admin, _io) = Host::pair(&mut network, Digests::default());
    let mut io = admin.deep_io(&mut network, Qid(2), 128);
    let read = NvmCommand::Read(transfer(0, MIB));
    let cids: Vec<Cid> = (0..80).map(|_| send(&mut network, &mut io, &read, MIB)).collect();
    wait_until("reads are at the device", || held.held() > 0);
    held.let_go();
    for cid in cids {
        let reply = io.finish(&mut network, cid, &[]);
        assert_eq!((reply.completion.status, reply.data.len()), (Status::SUCCESS, MIB));
    }
}
