//! Ten thousand volumes and snapshots: made, opened again, and deleted. How long that took is printed,
//! and nothing depends on it.

use std::time::Instant;

use fathom_lvs::{Capacity, NewSnapshot, OpenOptions, Refused, Store, Ticket, geometry::ObjectId};
use fathom_test_sim::{
    pool::{CLUSTER, METADATA, Shape, Story, new_pool, new_snapshot, new_volume},
    rig::{Disks, Event, Rig},
};
use fathom_test_support::{
    disk::{SimulatedDisk, Unwritten},
    random::Random,
};

const VOLUMES: u128 = 5_000;
/// Of every tenth one some snapshots are taken, so that there are as many of them as volumes.
const STEP: usize = 10;
const SNAPSHOTS_EACH: u128 = 10;
const SLOT: u64 = 16 << 20;
const LOG: u64 = 8 << 20;
const CLUSTERS: u64 = 2_000;
/// Calls under way at once.
const BATCH: usize = 250;

/// Makes calls, many at a time, and waits for all of them.
fn call_all<T>(
    story: &mut Story,
    what: &str,
    all: impl IntoIterator<Item = T>,
    mut call: impl FnMut(&mut Store, T) -> Result<Ticket, Refused>,
) {
    let began = Instant::now();
    let mut left = all.into_iter().peekable();
    let mut calls = 0;
    while left.peek().is_some() {
        for one in left.by_ref().take(BATCH) {
            call(&mut story.rig.store, one).unwrap_or_else(|error| panic!("{what}: {error}"));
            calls += 1;
        }
        story.rig.pump();
        story.rig.settle(&mut story.random);
        for event in story.rig.events.drain(..) {
            let Event::Done(_, result) = event else { panic!("{what}: only calls were made") };
            result.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    eprintln!("{what}: {calls} in {:?}", began.elapsed());
}

fn volumes(store: &Store) -> Vec<ObjectId> {
    store.volumes().filter(|volume| volume.tip.is_some()).map(|volume| volume.id).collect()
}

fn snapshots(store: &Store) -> Vec<ObjectId> {
    store.snapshots().map(|snapshot| snapshot.id).collect()
}

fn reopen(disks: Disks) -> Story {
    let began = Instant::now();
    let mut disks = disks;
    let report = fathom_lvs::verify(&mut disks, OpenOptions::WHOLE);
    assert_eq!(report.findings, [], "it is sound");
    eprintln!("checked in {:?}", began.elapsed());
    let began = Instant::now();
    let rig = Rig::open(disks, OpenOptions::WHOLE).unwrap_or_else(|failed| panic!("{}", failed.0));
    eprintln!("opened in {:?}, {} entries replayed", began.elapsed(), rig.replayed);
    Story { rig, random: Random::new(2) }
}

#[test]
fn ten_thousand_volumes_and_snapshots_are_made_opened_and_deleted() {
    let mut random = Random::new(1);
    let bytes = METADATA + 2 * SLOT + LOG + (CLUSTERS + 2) * CLUSTER;
    let mut disks = Disks(vec![SimulatedDisk::new(bytes, Unwritten::Zero, 1)]);
    let mut new = new_pool(&mut random, Shape { members: 1, log_bytes: LOG, clusters: CLUSTERS });
    (new.slot_bytes, new.log_bytes) = (Some(SLOT), Some(LOG));
    fathom_lvs::create(&mut disks, &new).expect("a new pool");
    let mut story = Story::open(disks, 1, OpenOptions::WHOLE);
    call_all(&mut story, "volumes", 1..=VOLUMES, |store, uuid| {
        store.create_volume(new_volume(uuid << 32, 1 << 20, 4096))
    });
    let written: Vec<ObjectId> = volumes(&story.rig.store).into_iter().step_by(STEP).collect();
    for (fill, &volume) in (0..=250).cycle().zip(&written) {
        story.write(volume, 1, 1, fill).expect("a healthy disk");
    }
    for round in 1..=SNAPSHOTS_EACH {
        call_all(&mut story, "snapshots", &written, |store, &volume| {
            let uuid = u128::from(volume.0) << 64 | round;
            let new: NewSnapshot = new_snapshot(volume, uuid);
            store.create_snapshots(vec![new])
        });
        if round % 5 == 0 {
            for &volume in &written {
                story.write(volume, 2, 1, 9).expect("a healthy disk");
            }
        }
    }
    let counts = |store: &Store| (volumes(store).len(), snapshots(store).len());
    let expected = (usize::try_from(VOLUMES).expect("few"), written.len() * 10);
    assert_eq!(counts(&story.rig.store), expected);
    let mut story = reopen(story.rig.disks);
    assert_eq!(counts(&story.rig.store), expected);
    for (fill, &volume) in (0..=250).cycle().zip(&written) {
        assert_eq!(story.read(volume, 1), Ok(fill));
    }
    assert_eq!(story.rig.store.audit(), Vec::<String>::new());
    let before: Capacity = story.rig.store.capacity();
    assert!(before.allocated.0 >= written.len() as u64 * CLUSTER);
    // Half of the snapshots, then all volumes, then the rest.
    let all = snapshots(&story.rig.store);
    call_all(&mut story, "snapshots deleted", all.iter().step_by(2), |store, &snapshot| {
        store.delete_snapshot(snapshot)
    });
    let all = volumes(&story.rig.store);
    call_all(&mut story, "volumes deleted", all, Store::delete_volume);
    let mut story = reopen(story.rig.disks);
    let rest = snapshots(&story.rig.store);
    assert_eq!((counts(&story.rig.store).0, rest.len()), (0, expected.1 / 2));
    call_all(&mut story, "the rest deleted", rest, Store::delete_snapshot);
    assert_eq!((story.rig.store.volumes().count(), counts(&story.rig.store)), (0, (0, 0)));
    assert_eq!(story.rig.store.audit(), Vec::<String>::new());
    let left = story.rig.store.capacity();
    assert_eq!((left.allocated.0, left.reserved.0), (0, 0), "all space is back");
    let story = reopen(story.rig.disks);
    assert_eq!(story.rig.store.capacity().allocated.0, 0);
}
