//! Giving space back in the background: how far it is, and how much it does at once.

use fathom_block::PAGE_SIZE;
use fathom_lvs::{OpenOptions, Reclaiming, geometry::ObjectId};
use fathom_test_sim::pool::{CLUSTER, METADATA, SLOT_BYTES, Shape, Story, new_volume};

const VOLUME: u128 = 0x100;
const SNAPSHOT: u128 = 0x200;
const LOG_BYTES: u64 = 256 << 10;
/// Member I/Os that may copy at once.
const COPIES_MAX: usize = 4;
const BLOCKS: u64 = CLUSTER / PAGE_SIZE as u64;

/// A pool with a volume of so many clusters, in each of which the first block is written.
fn story(clusters: u64) -> (Story, ObjectId) {
    let mut story = Story::new(7, Shape { members: 1, log_bytes: LOG_BYTES, clusters: 900 });
    let volume = story.create_volume(new_volume(VOLUME, clusters * CLUSTER, 4096));
    for at in 0..clusters {
        story.write(volume, at * BLOCKS, 1, 1).expect("a healthy pool");
    }
    story.flush(volume).expect("a healthy pool");
    (story, volume)
}

#[test]
fn deleting_tells_how_far_it_is_and_when_it_is_done() {
    let (mut story, volume) = story(600);
    let told = story.rig.reclaimed;
    assert_eq!(story.rig.store.reclaiming(), Reclaiming::default());
    story.rig.store.delete_volume(volume).expect("it exists");
    story.rig.pump();
    let mut seen = Vec::new();
    while story.rig.reclaimed == told {
        let Reclaiming { done, left, stuck, deleted } = story.rig.store.reclaiming();
        if deleted.is_empty() {
            assert_eq!((done, left), (0, 0), "it has not begun");
        } else {
            assert_eq!((done + left, stuck), (600, 0));
            assert_eq!(deleted, [(volume, left)]);
            seen.push(done);
        }
        story.rig.step(&mut story.random);
    }
    assert!(seen.is_sorted());
    seen.dedup();
    assert!(seen.len() > 2, "in several steps: {seen:?}");
    assert_eq!(story.rig.store.reclaiming(), Reclaiming::default());
    assert_eq!(story.rig.store.capacity().allocated.0, 0);
    story.rig.settle(&mut story.random);
    assert_eq!(story.rig.reclaimed, told + 1);
}

#[test]
fn after_a_crash_reclaiming_begins_with_what_is_left() {
    let (mut story, volume) = story(600);
    story.rig.store.delete_volume(volume).expect("it exists");
    story.rig.pump();
    // The first step has been logged when the second one is done.
    while story.rig.store.reclaiming().done < 512 {
        story.rig.step(&mut story.random);
    }
    let done = story.rig.store.reclaiming().done;
    let disks = story.rig.crash(&mut story.random, None);
    let mut after = Story::open(disks, 7, OpenOptions::default());
    let Reclaiming { done: again, left, stuck, deleted } = after.rig.store.reclaiming();
    assert_eq!((again, stuck, deleted), (0, 0, Vec::new()));
    assert!(left < 600 && left >= 600 - done, "{left} are left, {done} were done");
    after.rig.settle(&mut after.random);
    assert_eq!(after.rig.store.reclaiming(), Reclaiming::default());
    assert_eq!(after.rig.reclaimed, 1);
    assert_eq!(after.rig.store.capacity().allocated.0, 0);
}

#[test]
fn a_merge_has_few_member_ios_under_way() {
    let (mut story, volume) = story(200);
    // Every other block of some clusters, so that each is copied by itself.
    for at in (0..20 * BLOCKS).step_by(2) {
        story.write(volume, at, 1, 2).expect("a healthy pool");
    }
    let snapshot = story.create_snapshot(volume, SNAPSHOT);
    for at in (1..20 * BLOCKS).step_by(2) {
        story.write(volume, at, 1, 3).expect("a healthy pool");
    }
    story.flush(volume).expect("a healthy pool");
    story.rig.store.delete_snapshot(snapshot).expect("it exists");
    story.rig.pump();
    let told = story.rig.reclaimed;
    let mut most = 0;
    while story.rig.reclaimed == told {
        let data = METADATA + 2 * SLOT_BYTES + LOG_BYTES;
        let copying = story.rig.under_way(|io| io.length > 0 && io.offset.0 >= data);
        most = most.max(copying);
        story.rig.step(&mut story.random);
    }
    assert_eq!(most, COPIES_MAX);
    story.rig.settle(&mut story.random);
    for at in 0..20 * BLOCKS {
        assert_eq!(story.read(volume, at), Ok(if at % 2 == 0 { 2 } else { 3 }));
    }
    assert_eq!(story.rig.store.capacity().allocated.0, 200 * CLUSTER);
}
