//! What a pool tells of how full it is.

use fathom_block::Error;
use fathom_lvs::{Event, Fill, OpenOptions, geometry::ObjectId};
use fathom_test_sim::pool::{CLUSTER, Shape, Story, new_volume};

/// Blocks in a cluster.
const BLOCKS: u64 = CLUSTER / 4096;
/// Clusters that the pools here have, and one more for what rounding leaves.
const CLUSTERS: u64 = 20;

/// A pool with these watermarks and a thin volume of 32 clusters, more than it has.
fn story(low: u16, high: u16) -> (Story, ObjectId) {
    let shape = Shape { members: 1, log_bytes: 128 << 10, clusters: CLUSTERS };
    let mut story = Story::with(11, shape, |new| {
        new.record.watermark_low_percent = low;
        new.record.watermark_high_percent = high;
    });
    let volume = story.create_volume(new_volume(1, 32 * CLUSTER, 4096));
    assert_eq!(told(&mut story), [Event::Overcommitted]);
    (story, volume)
}

fn told(story: &mut Story) -> Vec<Event> {
    core::mem::take(&mut story.rig.told)
}

fn clusters(story: &Story) -> u64 {
    story.rig.store.capacity().physical.0 / CLUSTER
}

/// Writes the first block of clusters `range`.
fn fill(story: &mut Story, volume: ObjectId, range: core::ops::Range<u64>) {
    for at in range {
        story.write(volume, at * BLOCKS, 1, 7).expect("there is space");
    }
}

fn trim(story: &mut Story, volume: ObjectId, range: core::ops::Range<u64>) {
    let blocks = (range.end - range.start) * BLOCKS;
    story.trim(volume, range.start * BLOCKS, blocks).expect("it needs no space");
    story.flush(volume).expect("a healthy pool");
}

#[test]
fn each_watermark_is_told_once_when_it_is_crossed() {
    let (mut story, volume) = story(40, 70);
    let all = clusters(&story);
    let (low, high) = (all * 40 / 100, (all * 70).div_ceil(100));
    fill(&mut story, volume, 0..high - 1);
    assert_eq!(told(&mut story), []);
    fill(&mut story, volume, high - 1..high);
    assert_eq!(told(&mut story), [Event::AboveHighWatermark]);
    assert!(story.rig.store.fill().above_high_watermark);
    fill(&mut story, volume, high..high + 1);
    trim(&mut story, volume, low + 2..high + 1);
    fill(&mut story, volume, low + 2..high + 1);
    assert_eq!(told(&mut story), [], "between the marks nothing is told");
    trim(&mut story, volume, 0..high + 1);
    assert_eq!(told(&mut story), [Event::BelowLowWatermark]);
    assert!(!story.rig.store.fill().above_high_watermark);
    fill(&mut story, volume, 0..high);
    assert_eq!(told(&mut story), [Event::AboveHighWatermark]);
}

#[test]
fn a_pool_that_is_opened_above_its_watermark_says_so_once() {
    let (mut story, volume) = story(40, 70);
    let all = clusters(&story);
    fill(&mut story, volume, 0..all - 1);
    let mut story = Story::open(story.rig.disks, 12, OpenOptions::WHOLE);
    story.rig.settle(&mut story.random);
    assert_eq!(told(&mut story), [Event::AboveHighWatermark, Event::Overcommitted]);
    let volume = story.volume(1);
    fill(&mut story, volume, 0..1);
    assert_eq!(told(&mut story), []);
}

#[test]
fn other_watermarks_count_at_once() {
    let (mut story, volume) = story(0, 0);
    let half = clusters(&story) / 2;
    fill(&mut story, volume, 0..half);
    assert_eq!(told(&mut story), [], "no mark, no event");
    for (high, event) in [(40, Event::AboveHighWatermark), (90, Event::BelowLowWatermark)] {
        let mut record = story.rig.store.pool().clone();
        record.watermark_high_percent = high;
        story.rig.store.update_pool(record).expect("a legal change");
        story.done().expect("a healthy pool");
        assert_eq!(told(&mut story), [event]);
    }
}

#[test]
fn a_full_pool_says_so_once_until_there_is_space() {
    let (mut story, volume) = story(0, 0);
    let all = clusters(&story);
    fill(&mut story, volume, 0..all);
    assert_eq!(told(&mut story), []);
    for at in all..all + 3 {
        assert_eq!(story.write(volume, at * BLOCKS, 1, 7), Err(Error::CapacityExceeded));
    }
    assert_eq!(told(&mut story), [Event::Full]);
    assert!(story.rig.store.fill().full);
    story.write(volume, 0, 1, 8).expect("in place");
    assert_eq!(told(&mut story), []);
    trim(&mut story, volume, 0..1);
    assert_eq!(told(&mut story), [Event::NotFull]);
    fill(&mut story, volume, all..all + 1);
    assert_eq!(story.write(volume, 0, 1, 7), Err(Error::CapacityExceeded));
    assert_eq!(told(&mut story), [Event::Full]);
}

#[test]
fn space_that_a_thick_volume_no_longer_keeps_ends_a_full_pool() {
    let (mut story, volume) = story(0, 0);
    let all = clusters(&story);
    let mut thick = new_volume(2, (all - 1) * CLUSTER, 4096);
    thick.record.flags.thick = true;
    let thick = story.create_volume(thick);
    fill(&mut story, volume, 0..1);
    assert_eq!(story.write(volume, BLOCKS, 1, 7), Err(Error::CapacityExceeded));
    assert_eq!(told(&mut story), [Event::Full]);
    story.rig.store.delete_volume(thick).expect("it exists");
    story.done().expect("a healthy pool");
    assert_eq!(told(&mut story), [Event::NotFull]);
    fill(&mut story, volume, 1..2);
}

#[test]
fn promising_more_than_there_is_is_told_when_it_begins_and_ends() {
    let (mut story, volume) = story(0, 0);
    let overcommitted = Fill { overcommitted: true, ..Fill::default() };
    assert_eq!(story.rig.store.fill(), overcommitted);
    let small = story.create_volume(new_volume(2, CLUSTER, 4096));
    assert_eq!(told(&mut story), [], "still so");
    story.rig.store.delete_volume(volume).expect("it exists");
    story.done().expect("a healthy pool");
    assert_eq!(told(&mut story), [Event::NotOvercommitted]);
    assert_eq!(story.rig.store.fill(), Fill::default());
    let all = clusters(&story);
    story.rig.store.resize_volume(small, all * CLUSTER).expect("thin");
    story.done().expect("a healthy pool");
    assert_eq!(told(&mut story), [], "just what there is");
    story.rig.store.resize_volume(small, all * CLUSTER + 4096).expect("thin");
    story.done().expect("a healthy pool");
    assert_eq!(told(&mut story), [Event::Overcommitted]);
}
