//! What connections cost that do nothing, in memory of the process.
//!
//! One test alone in its process, so that nothing else takes or returns memory meanwhile. The hosts'
//! side is in it, too: it keeps a descriptor for each connection, and no buffers.

use std::{net::TcpStream, time::Duration};

use fathom_nvme::tcp::Digests;
use fathom_target::connection::Limits;
use fathom_test_conformance::{
    network::Network,
    node::{Node, wait_until},
};
use fathom_test_target::host::Host;
use fathom_units::Qid;

/// Connections that never speak, and what each may cost.
const SILENT: usize = 1_000;
const SILENT_BYTES_MAX: usize = 16 << 10;
/// Controllers with so many I/O queues each that send nothing, and what all may cost.
const CONTROLLERS: usize = 15;
const IO_QUEUES: u16 = 4;
const ENTRIES: u32 = 128;
const CONTROLLERS_BYTES_MAX: usize = 15 << 20;

/// The memory of this process that is resident, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split_whitespace().nth(1).expect("the second field");
    pages.parse::<usize>().expect("a number of pages") * 4096
}

/// Sockets that the loops have, with the one that listens.
fn sockets(node: &Node) -> usize {
    (0..node.loops.count()).map(|number| node.loops.remote(number).statistics().sockets()).sum()
}

#[test]
fn idle_connections_cost_little_memory() {
    let limits = Limits { connect_deadline: Duration::from_secs(3600), ..Limits::default() };
    let node = Node::start(2, limits);
    let listening = 1;
    // What is made once is made before.
    let mut network = Network::new(node.address);
    let (first_admin, first) = Host::pair(&mut network, Digests::default());

    let before = resident();
    let mut hosts = Vec::new();
    for _ in 0..CONTROLLERS {
        let (admin, first) = Host::pair(&mut network, Digests::default());
        let queues = (2..=IO_QUEUES).map(|qid| admin.deep_io(&mut network, Qid(qid), ENTRIES));
        let queues: Vec<Host> = queues.collect();
        hosts.push((admin, first, queues));
    }
    let all = resident().saturating_sub(before);
    eprintln!("{CONTROLLERS} controllers with {IO_QUEUES} I/O queues each: {all} bytes");
    assert!(all < CONTROLLERS_BYTES_MAX, "they cost {all} bytes");
    let queues = usize::from(IO_QUEUES) + 1;
    assert_eq!(sockets(&node), listening + 2 + CONTROLLERS * queues);

    let (open, before) = (sockets(&node), resident());
    let connect = |_| TcpStream::connect(node.address).expect("the target listens");
    let silent: Vec<TcpStream> = (0..SILENT).map(connect).collect();
    wait_until("all are taken", || sockets(&node) == open + SILENT);
    let each = resident().saturating_sub(before) / SILENT;
    eprintln!("a silent connection: {each} bytes");
    assert!(each < SILENT_BYTES_MAX, "a silent connection costs {each} bytes");
    drop(silent);
    wait_until("all are gone", || sockets(&node) == open);
    drop((first_admin, first, hosts));
}
