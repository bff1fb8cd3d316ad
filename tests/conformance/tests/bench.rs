//! The load of `fathom bench`, through our own host, against the running target.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fathom_bench::{
    BenchError, Cancel, Digests, HostId, Mode, Report, Target, Timeouts, Until, Workload,
    report::Progress, run,
};
use fathom_target::{connection::Limits, export::Hosts};
use fathom_test_conformance::{
    network::Network,
    node::{BLOCKS, Node},
};
use fathom_test_target::{
    host::Host,
    rig::{HOST, VOLUME, nqn},
};
use fathom_units::Nsid;

/// Nothing takes that long; who waits longer has hung.
const LONG: Duration = Duration::from_secs(60);

fn target(address: SocketAddr) -> Target {
    Target {
        subsystem: nqn(VOLUME),
        nsid: Nsid(1),
        addresses: vec![address],
        host: nqn(HOST),
        host_id: HostId([7; 16]),
        digests: Digests::default(),
        timeouts: Timeouts::default(),
    }
}

fn requests(mode: Mode, count: u64) -> Workload {
    Workload { mode, until: Until::Requests(count), ..Workload::default() }
}

fn load(target: &Target, workload: &Workload) -> Result<Report, BenchError> {
    run(target, workload, &Cancel::new(), |_| {})
}

/// Runs for as long as nobody ends it, and does something each time progress is told.
fn load_forever(
    target: &Target,
    workload: &Workload,
    cancel: &Cancel,
    progress: impl FnMut(&Progress),
) -> Result<Report, BenchError> {
    let began = Instant::now();
    let forever = Workload { until: Until::Elapsed(10 * LONG), ..workload.clone() };
    let result = run(target, &forever, cancel, progress);
    assert!(began.elapsed() < LONG, "it has hung");
    result
}

/// A port at which nobody listens.
fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

#[test]
fn every_mode_does_as_many_requests_as_it_is_asked_for() {
    let node = Node::start(2, Limits::default());
    let modes = [
        (Mode::Write, false, true),
        (Mode::Read, true, false),
        (Mode::RandWrite, false, true),
        (Mode::RandRead, true, false),
        (Mode::RandRw { read_percent: 50 }, true, true),
    ];
    for (mode, reads, writes) in modes {
        for (digests, jobs, loops, block_bytes) in [
            (Digests::default(), 1, 1, 4096),
            (Digests { header: true, data: true }, 3, 2, 16 << 10),
            (Digests::default(), 4, 2, 128 << 10),
        ] {
            let target = Target { digests, ..target(node.address) };
            let workload = Workload { jobs, loops, block_bytes, ..requests(mode, 401) };
            let report = load(&target, &workload).expect("it runs");
            let count = |results: &Option<fathom_bench::report::Results>| {
                results.as_ref().map_or((0, 0), |results| (results.requests, results.bytes))
            };
            let (read, read_bytes) = count(&report.read);
            let (written, written_bytes) = count(&report.write);
            assert_eq!(read + written, 401, "{mode:?}");
            assert_eq!(read_bytes + written_bytes, 401 * u64::from(block_bytes));
            assert_eq!((read > 0, written > 0), (reads, writes), "{mode:?}");
            assert_eq!((report.failed(), report.unknown, report.cancelled), (0, 0, false));
            assert_eq!(report.io_queues, usize::from(jobs));
            assert_eq!((report.size.0, report.logical_block_bytes), (BLOCKS * 4096, 4096));
            let latency = report.read.as_ref().or(report.write.as_ref()).expect("some").latency;
            assert!(latency.min_ns > 0 && latency.min_ns <= latency.p50_ns);
            assert!(latency.p50_ns <= latency.p99_ns && latency.p999_ns <= latency.max_ns);
        }
    }
    node.wait_for_silence();
}

#[test]
fn writes_one_after_another_fill_their_range_and_nothing_else() {
    let node = Node::start(1, Limits::default());
    let range = 10 * 4096..110 * 4096;
    let workload = Workload {
        range: Some(range),
        jobs: 3,
        queue_depth: 5,
        block_bytes: 8192,
        ..requests(Mode::Write, 50)
    };
    load(&target(node.address), &workload).expect("it runs");
    let mut network = Network::new(node.address);
    let (_admin, mut io) = Host::pair(&mut network, Digests::default());
    let reply = io.read(&mut network, 0, 128);
    for (block, bytes) in reply.data.chunks(4096).enumerate() {
        let is_written = bytes.iter().any(|byte| *byte != 0);
        assert_eq!(is_written, (10..110).contains(&block), "block {block}");
    }
}

#[test]
fn a_time_ends_the_load_and_progress_is_told() {
    let node = Node::start(1, Limits::default());
    let workload = Workload {
        until: Until::Elapsed(Duration::from_millis(2500)),
        queue_depth: 4,
        ..requests(Mode::RandRead, 1)
    };
    let mut told: Vec<Progress> = Vec::new();
    let report = run(&target(node.address), &workload, &Cancel::new(), |one| told.push(*one));
    let report = report.expect("it runs");
    let read = report.read.expect("it has read");
    assert!(report.elapsed >= Duration::from_millis(2400), "{:?}", report.elapsed);
    assert!(told.len() >= 2, "{told:?}");
    assert!(told[0].requests > 0 && told[0].iops > 0.0 && told[0].mib_per_s > 0.0);
    assert!(told[0].requests < told[1].requests && told[1].requests <= read.requests);
    assert!(told[0].share > 0.3 && told[0].share < told[1].share && told[1].share <= 1.0);
}

#[test]
fn a_load_that_is_cancelled_tells_what_it_has_done() {
    let node = Node::start(1, Limits::default());
    let cancel = Cancel::new();
    let workload = requests(Mode::RandRw { read_percent: 50 }, 1);
    let target = target(node.address);
    let report = load_forever(&target, &workload, &cancel, |_| cancel.cancel());
    let report = report.expect("it ends well");
    assert!(report.cancelled && report.read.is_some() && report.write.is_some());
    assert_eq!((report.failed(), report.unknown), (0, 0));
    // And one that is cancelled before it has begun.
    let report = load_forever(&target, &workload, &cancel, |_| {}).expect("it ends well");
    assert!(report.cancelled && report.read.is_none());
    node.wait_for_silence();
}

#[test]
fn a_refused_connect_tells_the_status_in_words() {
    let node = Node::start(1, Limits::default());
    let unknown = Target { subsystem: nqn("nqn.2026-01.io.fathom:other"), ..target(node.address) };
    let error = load(&unknown, &Workload::default()).expect_err("there is no such subsystem");
    let text = error.to_string();
    assert!(text.contains("nqn.2026-01.io.fathom:other"), "{text}");
    assert!(text.contains(&node.address.to_string()), "{text}");
    assert!(text.to_lowercase().contains("connect invalid parameters"), "{text}");

    assert!(
        node.target
            .set_hosts(nqn(VOLUME), Hosts::Listed(Default::default()), LONG)
            .expect("it runs")
    );
    let error = load(&target(node.address), &Workload::default()).expect_err("it may not");
    let text = error.to_string();
    assert!(text.to_lowercase().contains("connect invalid host"), "{text}");
}

#[test]
fn addresses_are_tried_in_turn_and_each_failure_is_told() {
    let node = Node::start(1, Limits::default());
    let (one, other) = (nowhere(), nowhere());
    let second = Target { addresses: vec![one, node.address], ..target(one) };
    let report = load(&second, &requests(Mode::RandRead, 10)).expect("the second one answers");
    assert_eq!((report.read.expect("it has read").requests, report.reconnects), (10, 0));
    let none = Target { addresses: vec![one, other], ..target(one) };
    let error = load(&none, &requests(Mode::RandRead, 10)).expect_err("nobody listens");
    assert!(matches!(error, BenchError::Connect { .. }));
    let text = error.to_string();
    assert!(text.contains(&one.to_string()) && text.contains(&other.to_string()), "{text}");
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn a_target_that_accepts_and_never_answers_is_given_up_in_its_time() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let timeouts = Timeouts { setup: Duration::from_millis(200), ..Timeouts::default() };
    let silent = Target { timeouts, ..target(address) };
    let began = Instant::now();
    let error = load(&silent, &Workload::default()).expect_err("nobody answers");
    assert!(error.to_string().contains("did not end in time"), "{error}");
    assert!(began.elapsed() < LONG);
}

#[test]
fn a_target_that_goes_away_ends_the_load_with_an_error_and_what_was_done() {
    let node = Node::start(2, Limits::default());
    let workload = Workload {
        jobs: 4,
        loops: 2,
        queue_depth: 16,
        ..requests(Mode::RandRw { read_percent: 50 }, 1)
    };
    let mut gone = false;
    let error = load_forever(&target(node.address), &workload, &Cancel::new(), |_| {
        if !std::mem::replace(&mut gone, true) {
            node.unexport();
        }
    });
    let Err(BenchError::Lost { failures, report, .. }) = error else { panic!("{error:?}") };
    assert_eq!(failures.0[0].address, node.address);
    assert!(report.read.expect("it has read").requests > 0);
    assert!(report.unknown > 0 && report.unknown <= 4 * 16, "{}", report.unknown);
    node.wait_for_silence();
}

#[test]
fn a_load_goes_on_when_its_target_comes_back() {
    let node = Node::start(1, Limits::default());
    let timeouts = Timeouts { reconnect: Some(LONG), ..Timeouts::default() };
    let target = Target { timeouts, ..target(node.address) };
    let workload = requests(Mode::RandRw { read_percent: 50 }, 1);
    let cancel = Cancel::new();
    let mut before = Vec::new();
    let report = load_forever(&target, &workload, &cancel, |progress| {
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
    assert_eq!((report.reconnects, report.failed()), (1, 0));
}

#[test]
fn a_target_that_does_not_come_back_in_time_ends_the_load() {
    let node = Node::start(1, Limits::default());
    let reconnect = Some(Duration::from_millis(700));
    let timeouts = Timeouts { reconnect, ..Timeouts::default() };
    let target = Target { timeouts, ..target(node.address) };
    let mut gone = false;
    let workload = requests(Mode::RandRead, 1);
    let error = load_forever(&target, &workload, &Cancel::new(), |_| {
        if !std::mem::replace(&mut gone, true) {
            node.unexport();
        }
    });
    let Err(BenchError::Lost { failures, .. }) = error else { panic!("{error:?}") };
    let text = failures.to_string();
    assert_eq!(failures.0.len(), 2, "the loss, and the last try: {text}");
    assert!(text.to_lowercase().contains("connect"), "{text}");
}

/// Passes everything on until it is told to hold it.
fn hold_up(to: SocketAddr, held: &Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let held = Arc::clone(held);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.expect("a connection");
            let far = TcpStream::connect(to).expect("the target listens");
            for (mut from, mut to) in [
                (near.try_clone().expect("a socket"), far.try_clone().expect("a socket")),
                (far, near),
            ] {
                let held = Arc::clone(&held);
                std::thread::spawn(move || {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        // What comes while it holds is lost.
                        if !held.load(Ordering::Relaxed) && to.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    address
}

#[test]
fn a_target_that_does_not_answer_any_more_is_noticed_in_its_time() {
    let node = Node::start(1, Limits::default());
    let held = Arc::new(AtomicBool::new(false));
    let address = hold_up(node.address, &held);
    let timeouts = Timeouts { command: Duration::from_millis(500), ..Timeouts::default() };
    let target = Target { timeouts, ..target(address) };
    let workload = Workload { queue_depth: 3, ..requests(Mode::RandRead, 1) };
    let error =
        load_forever(&target, &workload, &Cancel::new(), |_| held.store(true, Ordering::Relaxed));
    let Err(BenchError::Lost { failures, report, .. }) = error else { panic!("{error:?}") };
    assert!(failures.to_string().contains("not answered in time"), "{failures}");
    assert_eq!(report.unknown, 3);
}

#[test]
fn errors_are_counted_by_their_status_and_end_nothing() {
    let node = Node::start(1, Limits::default());
    // Hosts are told that the volume is twice as large as it is.
    assert!(node.target.resized(nqn(VOLUME), Nsid(1), BLOCKS * 2).expect("it runs"));
    let workload = requests(Mode::RandWrite, 400);
    let report = load(&target(node.address), &workload).expect("errors end nothing");
    let [errors] = report.errors[..] else { panic!("{:?}", report.errors) };
    assert_eq!(errors.count + report.write.expect("some succeed").requests, 400);
    assert!((100..300).contains(&errors.count), "{}", errors.count);
    assert_eq!(errors.status, Some(fathom_nvme::Status::LBA_OUT_OF_RANGE));
    assert_eq!(errors.error, fathom_block::Error::LbaOutOfRange);
}
