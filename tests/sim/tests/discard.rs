//! Discarding clusters that were given back: when, when not, and that nobody waits for it.

use fathom_block::Operation;
use fathom_lvs::{IoKind, MemberIo, OpenOptions, geometry::ObjectId};
use fathom_test_sim::{
    pool::{CLUSTER, Shape, Story, new_volume},
    rig::Event,
};

const BLOCKS: u64 = CLUSTER / 4096;
const CLUSTERS: u64 = 32;

fn story(members: u64) -> (Story, ObjectId) {
    let mut story = Story::new(3, Shape { members, log_bytes: 128 << 10, clusters: CLUSTERS });
    story.rig.discard_everywhere();
    let volume = story.create_volume(new_volume(0x100, 64 << 20, 4096));
    (story, volume)
}

fn is_discard(io: &MemberIo) -> bool {
    io.kind == IoKind::Discard
}

fn discards(story: &Story) -> u64 {
    story.rig.disks.0.iter().map(|disk| disk.counters().discards).sum()
}

/// Does all that is to be done but discards.
fn run_others(story: &mut Story) {
    while story.rig.run_one(|io| !is_discard(io)) {}
}

fn begin_trim(story: &mut Story, volume: ObjectId, first: u64, clusters: u64) {
    let (first, blocks) = (first * BLOCKS, clusters * BLOCKS);
    story.rig.submit(volume, Operation::WriteZeroes, first, blocks, Vec::new());
    story.rig.pump();
}

/// A flush that has ended, and with it what was given back before may be discarded.
fn flush(story: &mut Story, volume: ObjectId) {
    run_others(story);
    story.rig.submit(volume, Operation::Flush, 0, 0, Vec::new());
    story.rig.pump();
    run_others(story);
}

/// How many requests have ended well.
fn ended(story: &mut Story) -> usize {
    let events = core::mem::take(&mut story.rig.events);
    let good = |event: &&Event| matches!(event, Event::Completed(_, Ok(()), _));
    events.iter().filter(good).count()
}

#[test]
fn a_cluster_is_discarded_when_the_entry_that_frees_it_is_on_stable_media() {
    let (mut story, volume) = story(1);
    story.write(volume, 0, 4 * BLOCKS, 7).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    begin_trim(&mut story, volume, 0, 4);
    // Everything but flushes: the entry is written, and acknowledged.
    while story.rig.run_one(|io| io.kind != IoKind::Flush) {}
    assert_eq!(ended(&mut story), 1);
    assert_eq!((story.rig.under_way(is_discard), discards(&story)), (0, 0));
    assert_eq!(story.rig.store.capacity().returning.0, 4 * CLUSTER);
    flush(&mut story, volume);
    // What lies together goes together.
    assert_eq!(story.rig.under_way(is_discard), 1);
    let capacity = story.rig.store.capacity();
    assert_eq!((capacity.allocated.0, capacity.returning.0), (0, 4 * CLUSTER));
    assert!(story.rig.run_one(is_discard));
    let capacity = story.rig.store.capacity();
    assert_eq!((capacity.returning.0, capacity.free), (0, capacity.physical));
    assert_eq!(story.read(volume, 1), Ok(0));
}

#[test]
fn what_is_being_discarded_is_not_used_and_who_wants_space_gets_the_rest_at_once() {
    let (mut story, volume) = story(1);
    let all = story.rig.store.capacity().free.0 / CLUSTER;
    story.write(volume, 0, all * BLOCKS, 7).expect("it just fits");
    story.flush(volume).expect("a healthy disk");
    // Four places that do not lie together: two are discarded, two wait for it.
    for at in [1, 3, 5, 7] {
        begin_trim(&mut story, volume, at, 1);
    }
    flush(&mut story, volume);
    assert_eq!(ended(&mut story), 5);
    assert_eq!(story.rig.under_way(is_discard), 2);
    for at in 0..3 {
        let data = vec![9; 4096];
        let lba = (all + at) * BLOCKS;
        story.rig.submit(volume, Operation::Write { fua: false }, lba, 1, data);
    }
    story.rig.pump();
    run_others(&mut story);
    assert_eq!(ended(&mut story), 2, "the third one waits for a discard");
    assert!(story.rig.run_one(is_discard));
    run_others(&mut story);
    assert_eq!(ended(&mut story), 1);
    story.rig.settle(&mut story.random);
    for at in 0..3 {
        assert_eq!(story.read(volume, (all + at) * BLOCKS), Ok(9));
    }
    assert_eq!(story.read(volume, 0), Ok(7));
    assert_eq!(discards(&story), 2, "the others were used instead");
}

#[test]
fn a_member_that_fails_to_discard_is_not_asked_again_and_its_space_is_free() {
    let (mut story, volume) = story(1);
    story.write(volume, 0, 8 * BLOCKS, 7).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    begin_trim(&mut story, volume, 0, 4);
    flush(&mut story, volume);
    story.rig.disks.0[0].fail_writes(0..u64::MAX);
    assert!(story.rig.run_one(is_discard));
    story.rig.disks.0[0].clear_faults();
    story.rig.settle(&mut story.random);
    assert_eq!(story.rig.store.capacity().returning.0, 0);
    story.trim(volume, 4 * BLOCKS, 4 * BLOCKS).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    story.rig.settle(&mut story.random);
    let capacity = story.rig.store.capacity();
    assert_eq!((discards(&story), capacity.free), (0, capacity.physical));
    assert!(matches!(story.rig.store.health(), fathom_lvs::Health::Good), "data is not concerned");
}

#[test]
fn a_member_that_hangs_in_a_discard_holds_nobody_up() {
    let (mut story, volume) = story(1);
    story.write(volume, 0, 4 * BLOCKS, 7).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    begin_trim(&mut story, volume, 0, 2);
    flush(&mut story, volume);
    assert_eq!((ended(&mut story), story.rig.under_way(is_discard)), (2, 1));
    for lba in 100..140 {
        story.rig.submit(volume, Operation::Write { fua: true }, lba, 1, vec![3; 4096]);
        story.rig.pump();
        run_others(&mut story);
    }
    assert_eq!((ended(&mut story), story.rig.under_way(is_discard)), (40, 1));
}

#[test]
fn nothing_is_discarded_where_nobody_said_so_or_somebody_took_it_back() {
    let (story, volume) = story(2);
    let mut story = Story::open(story.rig.disks, 1, OpenOptions::WHOLE);
    let round = |story: &mut Story| {
        story.write(volume, 0, 4 * BLOCKS, 7).expect("healthy disks");
        story.flush(volume).expect("healthy disks");
        story.trim(volume, 0, 4 * BLOCKS).expect("healthy disks");
        story.flush(volume).expect("healthy disks");
        story.rig.settle(&mut story.random);
        let capacity = story.rig.store.capacity();
        assert_eq!(capacity.free, capacity.physical);
    };
    let before = discards(&story);
    round(&mut story);
    assert_eq!(discards(&story), before);
    story.rig.discard_everywhere();
    round(&mut story);
    let some = discards(&story);
    assert!(some > before);
    for member in [0, 1] {
        story.rig.store.set_discarding(fathom_lvs::geometry::MemberIndex(member), false);
    }
    round(&mut story);
    assert_eq!(discards(&story), some);
}
