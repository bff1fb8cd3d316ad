//! What is shown of a pool: members, volumes, and what was done with them.

use fathom_block::{Error, Operation};
use fathom_lvs::{Counted, MemberStatus, OpenOptions, Store, Usage, geometry::MemberIndex};
use fathom_test_sim::pool::{CLUSTER, Shape, Story, new_volume};
use fathom_units::ByteCount;

const SHAPE: Shape = Shape { members: 3, log_bytes: 128 << 10, clusters: 32 };
const BLOCKS: u64 = CLUSTER / 4096;

fn usage(store: &Store, object: fathom_lvs::geometry::ObjectId) -> [u64; 3] {
    let Usage { exclusive, shared, reserved, .. } = store.usage(object).expect("it exists");
    [exclusive, shared, reserved].map(|bytes| bytes.0 / CLUSTER)
}

#[test]
fn each_request_is_counted_once_by_its_kind_and_its_end() {
    let mut story = Story::new(3, SHAPE);
    let volume = story.create_volume(new_volume(0x100, 1 << 20, 4096));
    let other = story.create_volume(new_volume(0x200, 1 << 20, 512));
    story.write(volume, 0, 3, 7).expect("healthy disks");
    story.write(volume, 0, 2, 8).expect("healthy disks");
    story.write_through(volume, 1, 1, 9).expect("healthy disks");
    story.read(volume, 0).expect("healthy disks");
    story.read(volume, 200).expect("it reads as zero");
    story.flush(volume).expect("healthy disks");
    story.trim(volume, 0, 16).expect("healthy disks");
    let compare = |story: &mut Story, lba, fill| {
        story.request(volume, Operation::Compare, lba, 1, vec![fill; 4096]).map(drop)
    };
    compare(&mut story, 20, 0).expect("zeros");
    assert_eq!(compare(&mut story, 20, 1), Err(Error::CompareFailure));
    let both = Operation::CompareAndWrite { fua: false };
    story.request(volume, both, 20, 1, vec![0; 8192]).expect("they are equal");
    let beyond = story.request(volume, Operation::Read, u64::MAX, 1, vec![0; 4096]);
    assert_eq!(beyond, Err(Error::LbaOutOfRange));
    story.request(other, Operation::Write { fua: false }, 3, 2, vec![1; 1024]).expect("healthy");
    let counters = story.rig.store.counters(volume).expect("it is there");
    let counted =
        |requests, errors, blocks: u64| Counted { requests, errors, bytes: blocks * 4096 };
    assert_eq!(counters.reads, counted(3, 1, 2));
    assert_eq!(counters.writes, counted(3, 0, 6));
    assert_eq!(counters.flushes, counted(1, 0, 0));
    assert_eq!(counters.zeroes, counted(1, 0, 16));
    assert_eq!(counters.compares, counted(2, 0, 2));
    assert_eq!(counters.compare_and_writes, counted(1, 0, 1));
    let counters = story.rig.store.counters(other).expect("it is there");
    assert_eq!(counters.writes, Counted { requests: 1, errors: 0, bytes: 1024 });
    // They outlive a change of the volume, and not the pool.
    story.rig.store.resize_volume(volume, 2 << 20).expect("it can grow");
    story.done().expect("healthy disks");
    assert_eq!(story.rig.store.counters(volume).expect("it is there").writes.requests, 3);
    let story = Story::open(story.rig.disks, 1, OpenOptions::WHOLE);
    assert_eq!(story.rig.store.counters(volume).expect("it is there").writes.requests, 0);
}

#[test]
fn errors_of_a_member_are_counted_and_have_no_bytes() {
    let mut story = Story::new(3, Shape { members: 1, ..SHAPE });
    let volume = story.create_volume(new_volume(0x100, 1 << 20, 4096));
    story.write(volume, 0, 1, 7).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    story.rig.disks.0[0].fail_reads(0..u64::MAX);
    assert_eq!(story.read(volume, 0), Err(Error::ReadFault));
    let reads = story.rig.store.counters(volume).expect("it is there").reads;
    assert_eq!(reads, Counted { requests: 1, errors: 1, bytes: 0 });
}

#[test]
fn usage_tells_what_one_has_alone_and_what_others_read_too() {
    let mut story = Story::new(3, SHAPE);
    let volume = story.create_volume(new_volume(0x100, 1 << 20, 4096));
    story.write(volume, 0, 3 * BLOCKS, 1).expect("healthy disks");
    assert_eq!(usage(&story.rig.store, volume), [3, 0, 0]);
    let snapshot = story.create_snapshot(volume, 5);
    assert_eq!(usage(&story.rig.store, volume), [0, 3, 0]);
    assert_eq!(usage(&story.rig.store, snapshot), [0, 3, 0]);
    story.write(volume, 0, 1, 2).expect("healthy disks");
    let mut clone = new_volume(0x200, 1 << 20, 4096);
    clone.source = Some(snapshot);
    let clone = story.create_volume(clone);
    story.write(clone, 0, 2 * BLOCKS, 3).expect("healthy disks");
    assert_eq!(usage(&story.rig.store, volume), [1, 3, 0]);
    assert_eq!(usage(&story.rig.store, clone), [2, 3, 0]);
    let whole: u64 = story.rig.store.capacity().allocated.0 / CLUSTER;
    assert_eq!(whole, 6, "alone in each, and once what is shared");
    // When the others are gone, it has everything alone, and nothing is left of them.
    for object in [volume, clone] {
        story.rig.store.delete_volume(object).expect("it exists");
        story.done().expect("healthy disks");
    }
    assert_eq!(usage(&story.rig.store, snapshot), [3, 0, 0]);
    assert_eq!(story.rig.store.usage(volume), None);
    let mut thick = new_volume(0x300, 8 * CLUSTER, 4096);
    thick.record.flags.thick = true;
    let thick = story.create_volume(thick);
    story.write(thick, 0, 1, 1).expect("healthy disks");
    assert_eq!(usage(&story.rig.store, thick), [1, 0, 7]);
}

#[test]
fn each_member_is_told_with_what_is_on_it() {
    let mut story = Story::new(3, SHAPE);
    let mut new = new_volume(0x100, 1 << 20, 4096);
    new.record.members = 1 << 2;
    let volume = story.create_volume(new);
    story.write(volume, 0, 2 * BLOCKS, 1).expect("healthy disks");
    story.flush(volume).expect("healthy disks");
    let members = story.rig.store.usage(volume).expect("it exists").members;
    assert_eq!(members, [MemberIndex(2)]);
    let status = story.rig.store.member_status();
    let allocated = |status: &[MemberStatus]| -> Vec<u64> {
        status.iter().map(|member| member.allocated.0 / CLUSTER).collect()
    };
    assert_eq!(allocated(&status), [0, 0, 2]);
    assert!(status.iter().all(|member| member.present && !member.late));
    let copies: Vec<_> = status.iter().map(|member| member.copy_in_sync).collect();
    assert_eq!(copies, [Some(true), Some(true), None]);
    let physical: u64 = status.iter().map(|member| member.physical.0).sum();
    assert_eq!(ByteCount(physical), story.rig.store.capacity().physical);
    let mut disks = story.rig.disks;
    disks.0.remove(1);
    let story = Story::open(disks, 1, OpenOptions::DEGRADED);
    let status = story.rig.store.member_status();
    assert_eq!(allocated(&status), [0, 0, 2], "what is on one that is missing is known, too");
    let there: Vec<_> = status.iter().map(|member| (member.present, member.copy_in_sync)).collect();
    assert_eq!(there, [(true, Some(true)), (false, Some(false)), (true, None)]);
    let capacity = story.rig.store.capacity();
    let parts = [capacity.allocated, capacity.free, capacity.returning, capacity.unreachable];
    assert_eq!(parts.map(|part| part.0).iter().sum::<u64>(), capacity.physical.0);
    assert_eq!(capacity.unreachable, status[1].physical, "nothing is on it");
}
