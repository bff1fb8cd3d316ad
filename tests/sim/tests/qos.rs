//! Limits of volumes on a simulated clock: ten seconds of load, within 5 percent.

use std::{collections::BTreeMap, time::Duration};

use fathom_block::{Error, Operation, RequestId};
use fathom_lvs::{
    format::op::{QosLimits, Rates},
    geometry::ObjectId,
};
use fathom_test_sim::{
    pool::{Shape, Story, new_snapshot, new_volume},
    rig::{Event, unread},
};
use fathom_test_support::random::Random;

const SECONDS: u64 = 10;
/// Requests that each load has under way.
const DEPTH: usize = 32;
const READ: Operation = Operation::Read;
const WRITE: Operation = Operation::Write { fua: false };
const NO_RATES: Rates = Rates { all: 0, read: 0, write: 0 };

fn story() -> Story {
    Story::new(7, Shape { members: 1, log_bytes: 1 << 20, clusters: 128 })
}

fn limited(story: &mut Story, uuid: u128, limits: QosLimits) -> ObjectId {
    let mut new = new_volume(uuid, 2 << 20, 4096);
    new.record.limits = limits;
    story.create_volume(new)
}

fn iops(iops: Rates) -> QosLimits {
    QosLimits { burst_s: 0, iops, bandwidth: NO_RATES }
}

fn bandwidth(bandwidth: Rates) -> QosLimits {
    QosLimits { burst_s: 0, iops: NO_RATES, bandwidth }
}

fn set_limits(story: &mut Story, volume: ObjectId, limits: QosLimits) {
    let mut record = story.rig.store.volumes().find(|record| record.id == volume).cloned();
    let mut record = record.take().expect("it exists");
    record.limits = limits;
    story.rig.store.update_volume(record).expect("a legal change");
}

/// So much of one kind, all the time.
#[derive(Clone, Copy)]
struct Load {
    device: ObjectId,
    operation: Operation,
    /// Blocks of 4096 bytes in a request: so many at least and at most.
    blocks: (u64, u64),
}

impl Load {
    fn of(device: ObjectId, operation: Operation, blocks: u64) -> Self {
        Self { device, operation, blocks: (blocks, blocks) }
    }
}

/// What a load came to.
#[derive(Clone, Copy, Default, Debug)]
struct Came {
    requests: u64,
    bytes: u64,
}

/// Keeps all loads going for so long; the clock moves on by `tick` when the store waits.
fn run(story: &mut Story, loads: &[Load], seconds: u64, tick: Duration) -> Vec<Came> {
    let begin = story.rig.now;
    let mut random = Random::new(1);
    let mut came = vec![Came::default(); loads.len()];
    let mut under: BTreeMap<RequestId, (usize, u64)> = BTreeMap::new();
    while story.rig.now.since(begin) < Duration::from_secs(seconds) {
        for (index, load) in loads.iter().enumerate() {
            let busy = under.values().filter(|(of, _)| *of == index).count();
            for _ in busy..DEPTH {
                let blocks = random.range(load.blocks.0..load.blocks.1 + 1);
                let bytes = blocks * 4096;
                let data = unread(usize::try_from(bytes).expect("small"));
                // Reads and writes apart, since what overlaps waits for each other.
                let half = if load.operation == READ { 0 } else { 256 };
                let lba = half + random.below(257 - blocks);
                let id = story.rig.submit(load.device, load.operation, lba, blocks, data);
                under.insert(id, (index, bytes));
            }
        }
        story.rig.pump();
        while story.rig.has_io() {
            story.rig.step(&mut random);
        }
        story.rig.now = story.rig.now + tick;
        for event in story.rig.events.drain(..) {
            let Event::Completed(id, result, _) = event else { continue };
            result.expect("a healthy pool");
            let (index, bytes) = under.remove(&id).expect("a request of this run");
            came[index].requests += 1;
            came[index].bytes += bytes;
        }
    }
    story.rig.settle(&mut story.random);
    story.rig.events.clear();
    came
}

const TICK: Duration = Duration::from_micros(500);

fn assert_within(found: u64, wanted: u64) {
    let (low, high) = (wanted * 95 / 100, wanted * 105 / 100);
    assert!((low..=high).contains(&found), "{found}, not {wanted} within 5 percent");
}

#[test]
fn each_limit_on_requests_holds_over_ten_seconds() {
    for (rates, loads, wanted) in [
        (Rates { all: 500, ..NO_RATES }, vec![READ, WRITE], 500),
        (Rates { read: 300, ..NO_RATES }, vec![READ], 300),
        (Rates { write: 100, ..NO_RATES }, vec![WRITE], 100),
        (Rates { write: 200, ..NO_RATES }, vec![Operation::WriteZeroes], 200),
        (Rates { all: 500, read: 100, write: 150 }, vec![READ, WRITE], 250),
        (Rates { all: 200, read: 150, write: 150 }, vec![READ, WRITE], 200),
    ] {
        let mut story = story();
        let volume = limited(&mut story, 1, iops(rates));
        let loads: Vec<Load> = loads.into_iter().map(|load| Load::of(volume, load, 1)).collect();
        let came = run(&mut story, &loads, SECONDS, TICK);
        assert_within(came.iter().map(|came| came.requests).sum(), SECONDS * wanted);
    }
}

#[test]
fn each_limit_on_bytes_holds_over_ten_seconds_for_any_size() {
    const MIB: u64 = 1 << 20;
    for (rates, operation, blocks) in [
        (Rates { all: 10 * MIB, ..NO_RATES }, WRITE, (256, 256)),
        (Rates { all: 4 * MIB, ..NO_RATES }, READ, (1, 1)),
        (Rates { write: 5 * MIB, ..NO_RATES }, WRITE, (1, 256)),
        (Rates { read: 8 * MIB, ..NO_RATES }, READ, (1, 64)),
    ] {
        let mut story = story();
        let volume = limited(&mut story, 1, bandwidth(rates));
        let load = Load { device: volume, operation, blocks };
        let came = run(&mut story, &[load], SECONDS, TICK);
        assert_within(came[0].bytes, SECONDS * (rates.all + rates.read + rates.write));
    }
}

#[test]
fn a_limit_on_reads_leaves_writes_alone_and_zeroes_have_no_bytes() {
    let mut story = story();
    let limits = QosLimits {
        burst_s: 0,
        iops: Rates { read: 100, ..NO_RATES },
        bandwidth: Rates { write: 1 << 20, ..NO_RATES },
    };
    let volume = limited(&mut story, 1, limits);
    let loads = [Load::of(volume, READ, 1), Load::of(volume, Operation::WriteZeroes, 256)];
    let came = run(&mut story, &loads, SECONDS, Duration::from_millis(5));
    assert_within(came[0].requests, SECONDS * 100);
    assert!(came[1].requests > 30_000, "{came:?}");
}

#[test]
fn a_volume_that_is_held_back_slows_no_other() {
    let speed = |limits| {
        let mut story = story();
        let slow = limited(&mut story, 1, limits);
        let other = limited(&mut story, 2, QosLimits::default());
        let loads = [Load::of(slow, WRITE, 1), Load::of(other, WRITE, 1)];
        run(&mut story, &loads, SECONDS, Duration::from_millis(20))
    };
    let alone = speed(iops(Rates { all: 1, ..NO_RATES }));
    let both = speed(QosLimits::default());
    assert!(alone[0].requests <= SECONDS + 1, "{alone:?}");
    assert!(alone[1].requests >= both[1].requests, "{alone:?} {both:?}");
}

#[test]
fn what_an_idle_volume_has_saved_is_spent_at_once() {
    let mut story = story();
    let limits = QosLimits { burst_s: 4, ..iops(Rates { all: 250, ..NO_RATES }) };
    let volume = limited(&mut story, 1, limits);
    story.rig.now = story.rig.now + Duration::from_secs(100);
    let fine = Duration::from_micros(50);
    let came = run(&mut story, &[Load::of(volume, WRITE, 1)], 1, fine);
    assert_within(came[0].requests, 4 * 250 + 250);
    let came = run(&mut story, &[Load::of(volume, WRITE, 1)], SECONDS, TICK);
    assert_within(came[0].requests, SECONDS * 250);
}

#[test]
fn a_change_counts_at_once_for_what_waits_too() {
    let mut story = story();
    let volume = limited(&mut story, 1, iops(Rates { all: 1, ..NO_RATES }));
    for lba in 0..DEPTH as u64 {
        story.rig.submit(volume, WRITE, lba, 1, unread(4096));
    }
    story.rig.pump();
    let held = story.rig.store.held_back(volume).expect("it has limits");
    assert_eq!((held.reads_waiting, held.writes_waiting), (0, DEPTH - 1));
    let begin = story.rig.now;
    set_limits(&mut story, volume, QosLimits::default());
    story.rig.pump();
    story.rig.settle(&mut story.random);
    assert_eq!(story.rig.events.len(), DEPTH + 1, "the requests and the call");
    assert!(story.rig.now.since(begin) < Duration::from_millis(100));
    assert_eq!(story.rig.store.held_back(volume), None);
    story.rig.events.clear();
    set_limits(&mut story, volume, iops(Rates { write: 400, ..NO_RATES }));
    story.done().expect("a healthy pool");
    let came = run(&mut story, &[Load::of(volume, WRITE, 1)], SECONDS, TICK);
    assert_within(came[0].requests, SECONDS * 400);
    let held = story.rig.store.held_back(volume).expect("it has limits");
    assert!(held.requests > 0 && held.time > Duration::from_secs(1), "{held:?}");
}

#[test]
fn a_snapshot_has_the_limits_of_its_volume_and_spends_nothing_of_them() {
    let mut story = story();
    let volume = limited(&mut story, 1, iops(Rates { read: 200, ..NO_RATES }));
    let snapshot = story.create_snapshot(volume, 2);
    let loads = [Load::of(volume, READ, 1), Load::of(snapshot, READ, 1)];
    for came in run(&mut story, &loads, SECONDS, TICK) {
        assert_within(came.requests, SECONDS * 200);
    }
    set_limits(&mut story, volume, iops(Rates { read: 100, ..NO_RATES }));
    story.done().expect("a healthy pool");
    for came in run(&mut story, &loads, SECONDS, TICK) {
        assert_within(came.requests, SECONDS * 100);
    }
}

#[test]
fn limits_come_back_with_the_pool() {
    let mut story = story();
    let limits = iops(Rates { all: 300, ..NO_RATES });
    let volume = limited(&mut story, 1, limits);
    let snapshot = story.create_snapshot(volume, 2);
    let mut story = Story::open(story.rig.disks, 7, Default::default());
    let loads = [Load::of(volume, WRITE, 1), Load::of(snapshot, READ, 1)];
    for came in run(&mut story, &loads, SECONDS, TICK) {
        assert_within(came.requests, SECONDS * 300);
    }
}

/// Submits this, and does not wait.
fn submit(
    story: &mut Story,
    device: ObjectId,
    operation: Operation,
    lba: u64,
    fill: u8,
) -> RequestId {
    story.rig.submit(device, operation, lba, 1, vec![fill; 4096])
}

#[test]
fn overlapping_requests_keep_their_order_though_one_waits() {
    let mut story = story();
    let limits = QosLimits {
        burst_s: 0,
        iops: Rates { read: 10, ..NO_RATES },
        bandwidth: Rates { write: 4096, ..NO_RATES },
    };
    let volume = limited(&mut story, 1, limits);
    let mut reads = BTreeMap::new();
    for fill in 1..20 {
        submit(&mut story, volume, WRITE, 5, fill);
        reads.insert(submit(&mut story, volume, READ, 5, 0xEE), fill);
        submit(&mut story, volume, Operation::WriteZeroes, 5, 0);
        reads.insert(submit(&mut story, volume, READ, 5, 0xEE), 0);
    }
    story.rig.settle(&mut story.random);
    for event in story.rig.events.drain(..) {
        let Event::Completed(id, result, data) = event else { continue };
        assert_eq!(result, Ok(()));
        if let Some(fill) = reads.remove(&id) {
            assert!(data.iter().all(|byte| *byte == fill), "{} and not {fill}", data[0]);
        }
    }
    assert!(reads.is_empty());
}

#[test]
fn a_flush_waits_for_no_limit() {
    let mut story = story();
    let volume = limited(&mut story, 1, iops(Rates { all: 1, ..NO_RATES }));
    let begin = story.rig.now;
    story.write(volume, 0, 1, 7).expect("a healthy pool");
    submit(&mut story, volume, WRITE, 1, 8);
    let flush = story.rig.submit(volume, Operation::Flush, 0, 0, Vec::new());
    let answered = |event: &Event| matches!(event, Event::Completed(id, Ok(()), _) if *id == flush);
    while !story.rig.events.iter().any(answered) {
        story.rig.step(&mut story.random);
    }
    assert!(story.rig.now.since(begin) < Duration::from_millis(100));
}

/// What the requests that were held back are answered.
fn answers(story: &mut Story) -> Vec<Result<(), Error>> {
    story.rig.settle(&mut story.random);
    let events = story.rig.events.drain(..);
    events
        .filter_map(|event| match event {
            Event::Completed(_, result, _) => Some(result),
            Event::Done(..) => None,
        })
        .collect()
}

#[test]
fn what_waits_for_a_deleted_volume_is_answered_at_once() {
    let mut story = story();
    let volume = limited(&mut story, 1, iops(Rates { all: 1, ..NO_RATES }));
    let snapshot = story.create_snapshot(volume, 2);
    let begin = story.rig.now;
    for device in [volume, snapshot] {
        submit(&mut story, device, READ, 0, 0);
        submit(&mut story, device, READ, 1, 0);
    }
    story.rig.pump();
    story.rig.store.delete_volume(volume).expect("it exists");
    story.rig.store.delete_snapshot(snapshot).expect("it exists");
    story.rig.pump();
    let mut answers = answers(&mut story);
    answers.sort_unstable_by_key(Result::is_err);
    assert_eq!(answers, [Ok(()), Ok(()), Err(Error::NotReady), Err(Error::NotReady)]);
    assert!(story.rig.now.since(begin) < Duration::from_millis(100));
    assert_eq!(story.rig.store.held_back(volume), None);
}

#[test]
fn what_waits_is_answered_when_the_pool_fails() {
    let mut story = story();
    let volume = limited(&mut story, 1, iops(Rates { read: 1, ..NO_RATES }));
    story.write(volume, 0, 1, 7).expect("a healthy pool");
    let begin = story.rig.now;
    submit(&mut story, volume, READ, 0, 0);
    submit(&mut story, volume, READ, 0, 0);
    submit(&mut story, volume, WRITE, 9, 8);
    story.rig.disks.0[0].fail_writes(0..u64::MAX);
    let answers = answers(&mut story);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    assert_eq!(answers.len(), 3);
    assert!(story.rig.now.since(begin) < Duration::from_millis(100));
}

#[test]
fn a_snapshot_does_not_wait_for_what_is_held_back() {
    let mut story = story();
    let volume = limited(&mut story, 1, iops(Rates { write: 1, ..NO_RATES }));
    submit(&mut story, volume, WRITE, 0, 7);
    submit(&mut story, volume, WRITE, 1, 8);
    story.rig.pump();
    let begin = story.rig.now;
    story.rig.store.create_snapshots(vec![new_snapshot(volume, 2)]).expect("it can be made");
    story.rig.pump();
    while !story.rig.events.iter().any(|event| matches!(event, Event::Done(..))) {
        story.rig.step(&mut story.random);
    }
    assert!(story.rig.now.since(begin) < Duration::from_millis(100));
    story.rig.settle(&mut story.random);
    story.rig.events.clear();
    let snapshot = story.snapshot(2);
    assert_eq!((story.read(snapshot, 0), story.read(snapshot, 1)), (Ok(7), Ok(0)));
    assert_eq!(story.read(volume, 1), Ok(8), "it came after the snapshot");
}
