//! What volumes and snapshots do when nothing fails.

use fathom_block::Operation;
use fathom_lvs::{BlockRange, NewSnapshot, OpenOptions, Refused, geometry::ObjectId};
use fathom_test_sim::{
    pool::{CLUSTER, Shape, Story, new_disks, new_pool, new_volume},
    rig::Rig,
};
use fathom_test_support::random::Random;
use uuid::Uuid;

const VOLUME: u128 = 0x100;
const SNAPSHOT: u128 = 0x200;

/// A pool with one volume of 1 MiB.
fn story() -> (Story, ObjectId) {
    let mut random = Random::new(7);
    let shape = Shape { members: 1, log_bytes: 128 << 10, clusters: 64 };
    let mut disks = new_disks(&mut random, shape);
    fathom_lvs::create(&mut disks, &new_pool(&mut random, shape)).expect("a new pool");
    let rig = match Rig::open(disks, OpenOptions::default()) {
        Ok(rig) => rig,
        Err(failed) => panic!("{}", failed.0),
    };
    let mut story = Story { rig, random };
    story.rig.store.create_volume(new_volume(VOLUME, 1 << 20, 4096)).expect("a fresh name");
    story.done().expect("a healthy pool");
    let volume = story.volume(VOLUME);
    (story, volume)
}

fn snapshot(story: &mut Story, volume: ObjectId) -> ObjectId {
    let new = NewSnapshot {
        volume,
        name: "before".to_owned(),
        uuid: Uuid::from_u128(SNAPSHOT),
        created_ns: 1,
        labels: Vec::new(),
    };
    story.rig.store.create_snapshots(vec![new]).expect("a fresh name");
    story.done().expect("a healthy pool");
    story.snapshot(SNAPSHOT)
}

#[test]
fn lists_name_just_the_blocks_that_were_written() {
    let (mut story, volume) = story();
    story.write(volume, 3, 2, 1).expect("a healthy pool");
    story.write(volume, 14, 4, 2).expect("a healthy pool");
    let before = snapshot(&mut story, volume);
    story.write(volume, 4, 1, 3).expect("a healthy pool");
    story.request(volume, Operation::WriteZeroes, 16, 1, Vec::new()).expect("a healthy pool");
    story.write(volume, 100, 1, 4).expect("a healthy pool");
    let range = |first, blocks| BlockRange { first, blocks };
    let store = &story.rig.store;
    let page = store.allocated_ranges(before, 0, 10).expect("it exists");
    assert_eq!(page.ranges, [range(3, 2), range(14, 4)]);
    assert_eq!(page.next, None);
    let page = store.allocated_ranges(volume, 0, 10).expect("it exists");
    assert_eq!(page.ranges, [range(3, 2), range(14, 2), range(17, 1), range(100, 1)]);
    let page = store.different_ranges(before, volume, 0, 10).expect("both exist");
    assert_eq!(page.ranges, [range(4, 1), range(16, 1), range(100, 1)]);
    let first = store.different_ranges(before, volume, 0, 2).expect("both exist");
    assert_eq!(first.ranges, [range(4, 1), range(16, 1)]);
    let next = first.next.expect("there is more");
    let second = store.different_ranges(before, volume, next, 2).expect("both exist");
    assert_eq!(second.ranges, [range(100, 1)]);
    let same = store.different_ranges(before, before, 0, 10).expect("both exist");
    assert_eq!(same.ranges, []);
    assert_eq!(store.allocated_ranges(ObjectId(99), 0, 10), Err(Refused::NoVolume(ObjectId(99))));
}

#[test]
fn the_first_write_of_a_block_copies_nothing() {
    let (mut story, volume) = story();
    story.write(volume, 0, 16, 1).expect("a healthy pool");
    snapshot(&mut story, volume);
    let before = story.rig.disks.0[0].counters();
    story.write(volume, 5, 1, 2).expect("a healthy pool");
    let after = story.rig.disks.0[0].counters();
    assert_eq!(after.reads, before.reads);
    // The block, its log entry, and the note that the snapshot's flush is durable.
    assert!(after.bytes_written - before.bytes_written <= 3 * 4096);
}

#[test]
fn checking_a_pool_changes_nothing() {
    let (mut story, volume) = story();
    story.write(volume, 0, 20, 1).expect("a healthy pool");
    let mut disks = story.rig.disks.clone();
    let before = disks.0[0].counters();
    let checked = fathom_lvs::check(&mut disks, OpenOptions::default()).expect("an intact pool");
    let after = disks.0[0].counters();
    assert_eq!((after.writes, after.flushes), (before.writes, before.flushes));
    assert_eq!((checked.volumes, checked.snapshots), (1, 0));
    assert_eq!(checked.allocated_clusters, 20 * 4096 / CLUSTER + 1);
}

#[test]
fn a_deleted_volume_keeps_its_name_and_snapshots_until_the_last_is_deleted() {
    let (mut story, volume) = story();
    story.write(volume, 0, 1, 1).expect("a healthy pool");
    let kept = snapshot(&mut story, volume);
    story.rig.store.delete_volume(volume).expect("it exists");
    story.done().expect("a healthy pool");
    assert_eq!(story.read(kept, 0), Ok(1));
    let mut again = new_volume(VOLUME, 1 << 20, 4096);
    again.record.uuid = Uuid::from_u128(0x300);
    let refused = story.rig.store.create_volume(again.clone());
    assert!(matches!(refused, Err(Refused::NameTaken(_))));
    story.rig.store.delete_snapshot(kept).expect("it exists");
    story.done().expect("a healthy pool");
    story.rig.store.create_volume(again).expect("the name is free");
    story.done().expect("a healthy pool");
    assert_eq!(story.rig.store.capacity().allocated.0, 0);
}

#[test]
fn calls_that_cannot_be_carried_out_are_refused_by_name() {
    let (mut story, volume) = story();
    let store = &mut story.rig.store;
    assert!(matches!(store.resize_volume(volume, 4096), Err(Refused::Shrinks { .. })));
    assert!(matches!(store.delete_volume(ObjectId(77)), Err(Refused::NoVolume(ObjectId(77)))));
    assert!(matches!(
        store.create_volume(new_volume(VOLUME, 1 << 20, 4096)),
        Err(Refused::NameTaken(_))
    ));
    let mut thick = new_volume(0x300, 1 << 30, 4096);
    thick.record.flags.thick = true;
    assert!(matches!(store.create_volume(thick), Err(Refused::NoSpace { .. })));
    assert!(matches!(store.create_volume(new_volume(0x300, 0, 4096)), Err(Refused::Malformed(_))));
    let mut elsewhere = new_volume(0x300, 1 << 20, 4096);
    elsewhere.record.members = 0b100;
    assert!(matches!(store.create_volume(elsewhere), Err(Refused::NoMember(_))));
    let mut nameless = new_volume(0x300, 1 << 20, 4096);
    nameless.record.name.clear();
    assert!(matches!(store.create_volume(nameless), Err(Refused::Malformed(_))));
}
