//! `fathom bench --verify` against the running target: it finds what is wrong, and nothing else.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use fathom_bench::{
    BenchError, Cancel, Digests, HostId, Mismatch, Mode, Report, Target, Timeouts, Until, Workload,
    content::Found, run, verify,
};
use fathom_nvme::Status;
use fathom_target::connection::Limits;
use fathom_test_conformance::{network::Network, node::Node};
use fathom_test_target::{
    host::Host,
    rig::{VOLUME, nqn},
};
use fathom_units::{Lba, Nsid};

const LONG: Duration = Duration::from_secs(60);
/// The blocks that the loads of these tests use: from here on, so many.
const FIRST: u64 = 100;
const COUNT: u64 = 400;

/// A file of its own, which is gone with it.
struct Journal(PathBuf);

impl Journal {
    fn new(name: &str) -> Self {
        let name = format!("fathom-verify-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn target(address: SocketAddr) -> Target {
    Target {
        subsystem: nqn(VOLUME),
        nsid: Nsid(1),
        addresses: vec![address],
        host: nqn("nqn.2026-01.io.fathom:bench"),
        host_id: HostId([7; 16]),
        digests: Digests::default(),
        timeouts: Timeouts { reconnect: Some(LONG), ..Timeouts::default() },
    }
}

fn workload(mode: Mode, requests: u64, journal: &Journal) -> Workload {
    Workload {
        mode,
        until: Until::Requests(requests),
        queue_depth: 8,
        range: Some(FIRST * 4096..(FIRST + COUNT) * 4096),
        verify: Some(journal.0.clone()),
        ..Workload::default()
    }
}

fn load(node: &Node, workload: &Workload) -> Result<Report, BenchError> {
    run(&target(node.address), workload, &Cancel::new(), |_| {})
}

fn check(node: &Node, journal: &Journal) -> Result<Report, BenchError> {
    let workload = Workload { jobs: 3, loops: 2, ..Workload::default() };
    verify(&target(node.address), &workload, &journal.0, &Cancel::new(), |_| {})
}

/// A host that goes behind the load's back.
struct Intruder {
    network: Network,
    _admin: Host,
    io: Host,
}

impl Intruder {
    fn new(node: &Node) -> Self {
        let mut network = Network::new(node.address);
        let (admin, io) = Host::pair(&mut network, Digests::default());
        Self { network, _admin: admin, io }
    }

    fn read(&mut self, lba: u64) -> Vec<u8> {
        self.io.read(&mut self.network, lba, 1).data
    }

    fn write(&mut self, lba: u64, data: &[u8]) {
        assert_eq!(self.io.write(&mut self.network, lba, data), Status::SUCCESS);
    }
}

fn mismatch(result: Result<Report, BenchError>) -> (u64, Mismatch, String) {
    match result {
        Err(error @ BenchError::Mismatch { .. }) => {
            let text = error.to_string();
            let BenchError::Mismatch { count, first, .. } = error else { unreachable!() };
            (count, first, text)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_as_it_was_written_passes_in_every_mode() {
    let node = Node::start(2, Limits::default());
    for (number, (digests, jobs, loops, block_bytes)) in [
        (Digests::default(), 1, 1, 4096),
        (Digests { header: true, data: true }, 3, 2, 16 << 10),
        (Digests { header: false, data: true }, 2, 2, 100 << 10),
    ]
    .into_iter()
    .enumerate()
    {
        let journal = Journal::new(&format!("modes-{number}"));
        let target = Target { digests, ..target(node.address) };
        let modes = [
            Mode::Write,
            Mode::RandWrite,
            Mode::RandRw { read_percent: 50 },
            Mode::Read,
            Mode::RandRead,
        ];
        for mode in modes {
            let units = COUNT * 4096 / u64::from(block_bytes);
            let workload =
                Workload { jobs, loops, block_bytes, ..workload(mode, 2 * units, &journal) };
            let report = run(&target, &workload, &Cancel::new(), |_| {}).expect("all is right");
            assert_eq!((report.failed(), report.unknown, report.reconnects), (0, 0, 0));
            let blocks = units * u64::from(block_bytes) / 4096;
            assert_eq!(report.verified_blocks, Some(blocks), "{mode:?}");
        }
        let report = check(&node, &journal).expect("all is right");
        assert!(report.verified_blocks.is_some_and(|blocks| blocks > 0));
        assert!(report.read.is_none() && report.write.is_none(), "it is no load");
    }
}

/// A command may move 1 MiB.
#[test]
fn requests_that_take_several_commands_are_as_they_were_written() {
    let node = Node::start(1, Limits::default());
    let journal = Journal::new("large");
    let block_bytes = 5 << 19;
    let load_of = |mode| Workload {
        block_bytes,
        queue_depth: 3,
        range: None,
        ..workload(mode, 50, &journal)
    };
    for mode in [Mode::Write, Mode::RandRw { read_percent: 50 }] {
        let report = load(&node, &load_of(mode)).expect("all is right");
        assert_eq!(report.verified_blocks, Some(64 * 2 / 5 * 640));
    }
}

#[test]
fn what_is_changed_behind_its_back_is_found_with_block_and_content() {
    let node = Node::start(1, Limits::default());
    let journal = Journal::new("planted");
    load(&node, &workload(Mode::Write, COUNT, &journal)).expect("all is right");
    let mut intruder = Intruder::new(&node);
    let old = intruder.read(FIRST + 5);
    load(&node, &workload(Mode::Write, COUNT, &journal)).expect("all is right");
    let good = intruder.read(FIRST + 5);
    assert!(old != good);

    let mut torn = good.clone();
    torn[2048..].copy_from_slice(&old[2048..]);
    let other = intruder.read(FIRST + 6);
    let displaced = Found::Displaced { lba: Lba(FIRST + 6), version: 2 };
    for (data, found, words) in [
        (&old, Found::Version(1), "found write 1 of it"),
        (&torn, Found::Torn { version: 2, at: 2048 }, "write 2 of it up to byte 2048"),
        (&other, displaced, "write 2 of block 106"),
        (&vec![0; 4096], Found::Zeros, "found zeros"),
        (&vec![7; 4096], Found::Foreign, "never wrote"),
    ] {
        intruder.write(FIRST + 5, data);
        let (count, first, text) = mismatch(check(&node, &journal));
        assert_eq!(count, 1, "{text}");
        let lba = Lba(FIRST + 5);
        assert_eq!(first, Mismatch { lba, acknowledged: 2, issued: 2, found });
        assert!(text.contains("block 105: expected write 2 of it, acknowledged"), "{text}");
        assert!(text.contains(words) && text.contains(VOLUME), "{text}");
    }
    intruder.write(FIRST + 5, &good);
    check(&node, &journal).expect("all is right again");
}

#[test]
fn a_read_of_the_load_finds_it_and_ends_the_load() {
    let node = Node::start(1, Limits::default());
    let journal = Journal::new("reads");
    load(&node, &workload(Mode::Write, COUNT, &journal)).expect("all is right");
    Intruder::new(&node).write(FIRST + 399, &[0; 4096]);
    let reads = workload(Mode::Read, COUNT * 1_000_000, &journal);
    let (count, first, _) = mismatch(load(&node, &reads));
    assert_eq!((count, first.lba, first.found), (1, Lba(FIRST + 399), Found::Zeros));
}

#[test]
fn what_was_never_acknowledged_may_be_as_it_was() {
    let node = Node::start(1, Limits::default());
    let mut intruder = Intruder::new(&node);
    intruder.write(FIRST + 1, &[3; 4096]);
    let journal = Journal::new("before");
    // Nothing was written: nothing is looked at.
    let report = load(&node, &workload(Mode::RandRead, 1000, &journal)).expect("all is right");
    assert_eq!(report.verified_blocks, Some(0));
    // And the first block only, of which nobody knows whether it was written.
    let file = std::fs::OpenOptions::new().write(true).open(&journal.0).expect("it is there");
    std::os::unix::fs::FileExt::write_all_at(&file, &[1, 0, 0, 0], 4096 + 8).expect("written");
    drop(file);
    let report = check(&node, &journal).expect("the old content is right");
    assert_eq!(report.verified_blocks, Some(1));
}

#[test]
fn a_load_with_a_loss_in_between_verifies_and_tells_what_it_does_not_know() {
    let node = Node::start(1, Limits::default());
    let journal = Journal::new("loss");
    let forever = Workload {
        until: Until::Elapsed(10 * LONG),
        jobs: 2,
        loops: 2,
        ..workload(Mode::RandRw { read_percent: 30 }, 1, &journal)
    };
    let mut before = Vec::new();
    let cancel = Cancel::new();
    let report = run(&target(node.address), &forever, &cancel, |progress| {
        before.push(progress.requests);
        match before[..] {
            [_] => {
                node.unexport();
                node.export();
            }
            [.., last, now] if now > last => cancel.cancel(),
            _ => {}
        }
    });
    let report = report.expect("it goes on");
    assert_eq!((report.reconnects, report.cancelled, report.verified_blocks), (2, true, None));
    let report = check(&node, &journal).expect("all is right");
    assert!(report.verified_blocks.is_some_and(|blocks| blocks > 0));
}

#[test]
fn a_journal_of_something_else_is_refused_and_nothing_is_written() {
    let node = Node::start(1, Limits::default());
    let journal = Journal::new("other");
    load(&node, &workload(Mode::Write, COUNT, &journal)).expect("all is right");
    let other_size = Workload { block_bytes: 8192, ..workload(Mode::Write, COUNT, &journal) };
    let other_range = Workload { range: None, ..workload(Mode::Write, COUNT, &journal) };
    for (workload, words) in [(other_size, "another size"), (other_range, "another range")] {
        let error = load(&node, &workload).expect_err("it is of something else");
        assert!(matches!(error, BenchError::Journal(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = check(&node, &Journal::new("nowhere")).expect_err("there is none");
    assert!(error.to_string().contains("opening it"), "{error}");
    let report = check(&node, &journal).expect("all is as it was");
    assert_eq!(report.verified_blocks, Some(COUNT));
}
