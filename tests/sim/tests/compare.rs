//! The fused Compare and Write, story by story.

use fathom_block::{Error, Operation, PAGE_SIZE};
use fathom_lvs::{OpenOptions, geometry::ObjectId};
use fathom_test_sim::{
    pool::{CLUSTER, METADATA, SLOT_BYTES, Shape, Story, new_volume},
    rig::Event,
};
use fathom_test_support::disk::Cut;

const VOLUME: u128 = 0x100;
const SNAPSHOT: u128 = 0x200;
const LOG_BYTES: u64 = 128 << 10;
const SECTOR: usize = 512;
const FUSED: Operation = Operation::CompareAndWrite { fua: false };

/// A pool with one volume of 1 MiB.
fn story(logical_block_size: u32) -> (Story, ObjectId) {
    let mut story = Story::new(7, Shape { members: 1, log_bytes: LOG_BYTES, clusters: 64 });
    let volume = story.create_volume(new_volume(VOLUME, 1 << 20, logical_block_size));
    (story, volume)
}

fn halves(old: u8, new: u8, bytes: usize) -> Vec<u8> {
    let mut data = vec![old; bytes];
    data.resize(2 * bytes, new);
    data
}

/// Replaces blocks of 4096 bytes that all hold `old`.
fn replace(
    story: &mut Story,
    volume: ObjectId,
    lba: u64,
    blocks: usize,
    old: u8,
    new: u8,
) -> Result<(), Error> {
    let data = halves(old, new, blocks * PAGE_SIZE);
    story.request(volume, FUSED, lba, blocks as u64, data).map(drop)
}

#[test]
fn what_is_equal_is_replaced_and_what_differs_is_not_touched() {
    let (mut story, volume) = story(4096);
    assert_eq!(replace(&mut story, volume, 3, 1, 0, 1), Ok(()), "never written: zeros");
    assert_eq!(story.read(volume, 3), Ok(1));
    let before = story.rig.disks.0[0].counters();
    assert_eq!(replace(&mut story, volume, 3, 1, 0, 2), Err(Error::CompareFailure));
    assert_eq!(replace(&mut story, volume, 2, 2, 1, 2), Err(Error::CompareFailure));
    assert_eq!(story.rig.disks.0[0].counters().writes, before.writes);
    assert_eq!(story.read(volume, 3), Ok(1));
    assert_eq!(story.read(volume, 2), Ok(0));
    story.create_snapshot(volume, SNAPSHOT);
    assert_eq!(replace(&mut story, volume, 3, 1, 1, 2), Ok(()), "what a snapshot holds");
    let snapshot = story.snapshot(SNAPSHOT);
    assert_eq!(story.read(snapshot, 3), Ok(1));
    assert_eq!(story.read(volume, 3), Ok(2));
    story.trim(volume, 3, 1).expect("a healthy pool");
    assert_eq!(replace(&mut story, volume, 3, 1, 2, 3), Err(Error::CompareFailure));
    assert_eq!(replace(&mut story, volume, 3, 1, 0, 3), Ok(()), "trimmed: zeros");
    assert_eq!(story.read(volume, 3), Ok(3));
    let last = CLUSTER / 4096 - 1;
    assert_eq!(replace(&mut story, volume, last, 2, 0, 4), Ok(()), "across two clusters");
    assert_eq!((story.read(volume, last), story.read(volume, last + 1)), (Ok(4), Ok(4)));
}

#[test]
fn parts_of_a_block_are_replaced_and_the_rest_stays() {
    let (mut story, volume) = story(512);
    // Sectors 5 to 18 touch three blocks of 4 KiB, the first and the last in part.
    for (first, sectors) in [(5, 14), (6, 1), (40, 3)] {
        let range = first * SECTOR..(first + sectors) * SECTOR;
        let (lba, count) = (first as u64, sectors as u64);
        let mut old: Vec<u8> = (0..64).flat_map(|sector| vec![sector; SECTOR]).collect();
        let write = Operation::Write { fua: false };
        story.request(volume, write, 0, 64, old.clone()).expect("a healthy pool");
        let new = vec![0xAB; range.len()];
        let mut data = [&old[range.clone()], &new].concat();
        data[range.len() - 1] ^= 1;
        let differs = story.request(volume, FUSED, lba, count, data.clone());
        assert_eq!(differs, Err(Error::CompareFailure));
        data[range.len() - 1] ^= 1;
        story.request(volume, FUSED, lba, count, data).expect("it is equal");
        old[range].copy_from_slice(&new);
        let read = story.request(volume, Operation::Read, 0, 64, vec![0xEE; 64 * SECTOR]);
        assert!(read == Ok(old), "sectors {first} and {sectors}");
    }
}

#[test]
fn of_two_that_expect_the_same_only_one_succeeds() {
    let (mut story, volume) = story(512);
    for lba in 0..16 {
        let submit = |story: &mut Story, new| {
            let data = halves(0, new, SECTOR);
            story.rig.submit(volume, FUSED, lba, 1, data)
        };
        let first = submit(&mut story, 1);
        submit(&mut story, 2);
        // To another part of the same block of 4 KiB.
        let other = story.rig.submit(volume, FUSED, 16 + lba, 1, halves(0, 3, SECTOR));
        story.rig.pump();
        story.rig.settle(&mut story.random);
        for event in core::mem::take(&mut story.rig.events) {
            let Event::Completed(id, result, _) = event else { panic!("no call was made") };
            let wins = id == first || id == other;
            assert_eq!(result, if wins { Ok(()) } else { Err(Error::CompareFailure) });
        }
        let read = story.request(volume, Operation::Read, lba, 1, vec![0xEE; SECTOR]);
        assert_eq!(read, Ok(vec![1; SECTOR]));
    }
}

#[test]
fn it_is_as_durable_as_a_write_with_the_same_promise() {
    for write_cache_off in [false, true] {
        let mut story = Story::new(7, Shape { members: 1, log_bytes: LOG_BYTES, clusters: 64 });
        let mut new = new_volume(VOLUME, 1 << 20, 4096);
        new.record.flags.write_cache_off = write_cache_off;
        let volume = story.create_volume(new);
        let operation = Operation::CompareAndWrite { fua: !write_cache_off };
        // First a block that needs a Map, then the same one in place.
        for (old, new) in [(0, 1), (1, 2)] {
            story.request(volume, operation, 9, 1, halves(old, new, 4096)).expect("it is equal");
            for cut in Cut::ALL {
                let disks = story.rig.crash(&mut story.random, Some(cut));
                let mut after = Story::open(disks, 7, OpenOptions::default());
                assert_eq!(after.read(volume, 9), Ok(new), "{cut:?}");
            }
            story.flush(volume).expect("a healthy pool");
        }
    }
}

#[test]
fn it_is_refused_where_a_write_is_refused() {
    let (mut story, volume) = story(4096);
    let snapshot = story.create_snapshot(volume, SNAPSHOT);
    let mut fused = |object, lba, blocks: u64| {
        let data = vec![0; usize::try_from(2 * blocks * 4096).expect("small")];
        story.request(object, FUSED, lba, blocks, data)
    };
    assert_eq!(fused(snapshot, 0, 1), Err(Error::ReadOnly));
    assert_eq!(fused(volume, 0, 0), Err(Error::InvalidField));
    assert_eq!(fused(volume, 255, 2), Err(Error::LbaOutOfRange));
    let large = new_volume(VOLUME + 1, 64 << 20, 4096);
    let large = story.create_volume(large);
    let too_much = story.request(large, FUSED, 0, (16 << 20) / 4096 + 1, Vec::new());
    assert_eq!(too_much, Err(Error::InvalidField), "both halves count");
}

#[test]
fn when_either_half_fails_nothing_is_written() {
    let (mut story, volume) = story(4096);
    story.write(volume, 0, 16, 1).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    let data = METADATA + 2 * SLOT_BYTES + LOG_BYTES..u64::MAX;
    story.rig.disks.0[0].fail_reads(data.clone());
    assert_eq!(replace(&mut story, volume, 3, 1, 1, 2), Err(Error::ReadFault));
    story.rig.disks.0[0].clear_faults();
    assert_eq!(story.read(volume, 3), Ok(1));
    story.rig.disks.0[0].fail_writes(data);
    assert_eq!(replace(&mut story, volume, 20, 1, 0, 2), Err(Error::WriteFault));
    story.rig.disks.0[0].clear_faults();
    assert_eq!(story.read(volume, 20), Ok(0), "taken back");
    let large = story.create_volume(new_volume(VOLUME + 1, 16 << 20, 4096));
    let mut at = 0;
    while story.write(large, at, 16, 1).is_ok() {
        at += 16;
    }
    assert_eq!(replace(&mut story, large, at, 1, 0, 2), Err(Error::CapacityExceeded));
    assert_eq!(replace(&mut story, large, at, 1, 1, 2), Err(Error::CompareFailure));
    assert_eq!(replace(&mut story, large, 0, 1, 1, 2), Ok(()), "in place there is room");
    assert_eq!(story.read(large, at), Ok(0));
}
