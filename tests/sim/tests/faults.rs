//! Members that fail, are missing, or are not what they should be.

use fathom_block::{Error, Operation};
use fathom_lvs::{
    CreateError, Health, OpenError, OpenOptions,
    geometry::{MemberIndex, ObjectId},
};
use fathom_test_sim::{
    pool::{METADATA, SLOT_BYTES, Shape, Story, new_disks, new_pool, new_volume},
    rig::{Disks, Rig},
};
use fathom_test_support::random::Random;

const LOG_BYTES: u64 = 128 << 10;
const DEGRADED: OpenOptions = OpenOptions::DEGRADED;
const WHOLE: OpenOptions = OpenOptions::WHOLE;

fn disks(members: u64) -> (Disks, Random) {
    let mut random = Random::new(members);
    let shape = Shape { members, log_bytes: LOG_BYTES, clusters: 32 };
    let mut disks = new_disks(&mut random, shape);
    let new = new_pool(&mut random, shape);
    fathom_lvs::create(&mut disks, &new).expect("a new pool");
    (disks, random)
}

fn open(disks: Disks, random: Random, options: OpenOptions) -> Story {
    match Rig::open(disks, options) {
        Ok(rig) => Story { rig, random },
        Err(failed) => panic!("{}", failed.0),
    }
}

fn refusal(disks: Disks, options: OpenOptions) -> OpenError {
    match Rig::open(disks, options) {
        Ok(_) => panic!("the pool was opened"),
        Err(failed) => failed.0,
    }
}

/// A pool with one volume of 1 MiB on each member.
fn story(members: u64) -> (Story, Vec<ObjectId>) {
    let (disks, random) = disks(members);
    let mut story = open(disks, random, WHOLE);
    let volumes = (0..members)
        .map(|member| {
            let mut new = new_volume(0x100 + u128::from(member), 1 << 20, 4096);
            new.record.members = 1 << member;
            story.rig.store.create_volume(new).expect("a fresh name");
            story.done().expect("a healthy pool");
            story.volume(0x100 + u128::from(member))
        })
        .collect();
    (story, volumes)
}

/// Where clusters and the log lie on a metadata member.
fn data() -> core::ops::Range<u64> {
    METADATA + 2 * SLOT_BYTES + LOG_BYTES..u64::MAX
}

fn log() -> core::ops::Range<u64> {
    METADATA + 2 * SLOT_BYTES..METADATA + 2 * SLOT_BYTES + LOG_BYTES
}

#[test]
fn data_that_cannot_be_written_is_taken_back() {
    let (mut story, volumes) = story(1);
    let allocated = story.rig.store.capacity().allocated;
    story.rig.disks.0[0].fail_writes(data());
    assert_eq!(story.write(volumes[0], 3, 40, 7), Err(Error::WriteFault));
    story.rig.disks.0[0].clear_faults();
    assert_eq!(story.read(volumes[0], 3), Ok(0), "as before, not what an earlier life left");
    assert_eq!(story.rig.store.capacity().allocated, allocated);
    let Story { rig, random } = story;
    let mut story = open(rig.disks, random, WHOLE);
    assert_eq!(story.read(volumes[0], 3), Ok(0));
    assert_eq!(story.write(volumes[0], 3, 40, 8), Ok(()));
    assert_eq!(story.read(volumes[0], 42), Ok(8));
}

#[test]
fn a_full_file_system_under_a_member_is_a_full_pool() {
    let (mut story, volumes) = story(1);
    story.write(volumes[0], 0, 3, 6).expect("there is space");
    let allocated = story.rig.store.capacity().allocated;
    story.rig.full = true;
    assert_eq!(story.write(volumes[0], 2, 40, 7), Err(Error::CapacityExceeded));
    assert_eq!(story.read(volumes[0], 1), Ok(6), "reads go on");
    assert_eq!(story.read(volumes[0], 30), Ok(0), "as before");
    assert_eq!(story.trim(volumes[0], 0, 1), Ok(()), "what gives space back goes on");
    assert_eq!(story.rig.store.capacity().allocated, allocated);
    assert_eq!(story.rig.store.health(), Health::Good);
    story.rig.full = false;
    assert_eq!(story.write(volumes[0], 2, 40, 8), Ok(()));
    assert_eq!(story.read(volumes[0], 30), Ok(8));
}

#[test]
fn a_read_error_fails_the_read_and_nothing_else() {
    let (mut story, volumes) = story(1);
    story.write(volumes[0], 0, 32, 7).expect("a healthy disk");
    story.rig.disks.0[0].fail_reads(data());
    assert_eq!(story.read(volumes[0], 5), Err(Error::ReadFault));
    assert_eq!(story.read(volumes[0], 40), Ok(0), "nothing has to be read for zeros");
    story.rig.disks.0[0].clear_faults();
    assert_eq!(story.read(volumes[0], 5), Ok(7));
}

#[test]
fn without_a_second_copy_a_failed_log_write_stops_the_pool() {
    let (mut story, volumes) = story(1);
    story.write(volumes[0], 0, 1, 7).expect("a healthy disk");
    story.rig.disks.0[0].fail_writes(log());
    assert_eq!(story.write(volumes[0], 20, 1, 8), Err(Error::NotReady));
    assert!(matches!(story.rig.store.health(), Health::Failed { member: MemberIndex(0), .. }));
    story.rig.disks.0[0].clear_faults();
    assert_eq!(story.read(volumes[0], 0), Err(Error::NotReady), "it does not come back by itself");
    let Story { rig, random } = story;
    let mut story = open(rig.disks, random, WHOLE);
    assert_eq!(story.read(volumes[0], 0), Ok(7));
}

#[test]
fn with_a_second_copy_the_pool_goes_on_and_remembers_the_stale_one() {
    for failing in 0..2 {
        let (mut story, volumes) = story(2);
        story.write(volumes[0], 0, 1, 7).expect("healthy disks");
        story.rig.disks.0[failing].fail_writes(log());
        story.write(volumes[0], 20, 1, 8).expect("one copy is enough");
        let stale = MemberIndex(u16::try_from(failing).expect("small"));
        assert_eq!(
            story.rig.store.health(),
            Health::Degraded { stale: vec![stale], gone: Vec::new(), late: Vec::new() }
        );
        let Story { mut rig, random } = story;
        for disk in &mut rig.disks.0 {
            disk.clear_faults();
        }
        let refused = refusal(rig.disks.clone(), WHOLE);
        assert!(matches!(refused, OpenError::Stale { member, .. } if member == stale));
        let mut story = open(rig.disks, random, DEGRADED);
        assert_eq!(story.read(volumes[0], 0), Ok(7));
        assert_eq!(story.read(volumes[0], 20), Ok(8));
        let Story { rig, random } = story;
        let mut story = open(rig.disks, random, DEGRADED);
        assert_eq!(story.read(volumes[0], 20), Ok(8), "and again");
    }
}

#[test]
fn when_both_copies_fail_nothing_more_is_acknowledged() {
    let (mut story, volumes) = story(2);
    for disk in &mut story.rig.disks.0 {
        disk.fail_writes(0..u64::MAX);
    }
    assert_eq!(story.write(volumes[0], 20, 1, 8), Err(Error::NotReady));
    assert!(matches!(story.rig.store.health(), Health::Failed { .. }));
}

fn flush(story: &mut Story, volume: ObjectId) -> Result<(), Error> {
    story.request(volume, Operation::Flush, 0, 0, Vec::new()).map(drop)
}

#[test]
fn a_failed_flush_is_never_tried_again() {
    let (mut story, volumes) = story(3);
    for &volume in &volumes {
        story.write(volume, 0, 1, 7).expect("healthy disks");
        flush(&mut story, volume).expect("healthy disks");
    }
    story.write(volumes[2], 0, 1, 8).expect("in place");
    story.rig.disks.0[2].fail_flushes(true);
    assert_eq!(flush(&mut story, volumes[2]), Err(Error::WriteFault));
    story.rig.disks.0[2].fail_flushes(false);
    assert_eq!(flush(&mut story, volumes[2]), Err(Error::NotReady), "the member is given up");
    assert_eq!(story.write(volumes[2], 0, 1, 9), Err(Error::NotReady));
    let gone = vec![MemberIndex(2)];
    let gone = Health::Degraded { stale: Vec::new(), gone, late: Vec::new() };
    assert_eq!(story.rig.store.health(), gone);
    assert_eq!(story.write(volumes[1], 5, 1, 9), Ok(()), "the others go on");
    assert_eq!(flush(&mut story, volumes[1]), Ok(()));
}

#[test]
fn a_failed_flush_of_data_that_is_not_settled_costs_the_member_only() {
    let (mut story, volumes) = story(3);
    story.write(volumes[2], 0, 1, 7).expect("healthy disks");
    story.rig.disks.0[2].fail_flushes(true);
    assert_eq!(flush(&mut story, volumes[2]), Err(Error::WriteFault));
    assert_eq!(story.rig.store.blocks_to_prove(), [(MemberIndex(2), 1)]);
    assert_eq!(story.write(volumes[2], 0, 1, 7), Err(Error::NotReady));
    assert_eq!(story.write(volumes[0], 0, 1, 7), Ok(()));
    assert_eq!(flush(&mut story, volumes[0]), Ok(()));
}

#[test]
fn a_missing_data_member_stops_only_the_volumes_on_it() {
    let (mut story, volumes) = story(3);
    for &volume in &volumes {
        story.write(volume, 0, 1, 7).expect("healthy disks");
        flush(&mut story, volume).expect("healthy disks");
    }
    let Story { rig, random } = story;
    // A clean opening first: nothing is left to be proved on the member.
    let mut story = open(rig.disks, random, WHOLE);
    story.rig.settle(&mut story.random);
    let Story { rig, random } = story;
    let mut disks = rig.disks;
    let taken = disks.0.pop().expect("three disks");
    let refused = refusal(disks.clone(), WHOLE);
    assert!(matches!(refused, OpenError::Missing { member: MemberIndex(2), .. }));
    let mut story = open(disks, random, DEGRADED);
    assert_eq!(story.read(volumes[0], 0), Ok(7));
    assert_eq!(story.write(volumes[1], 9, 1, 8), Ok(()));
    assert_eq!(story.read(volumes[2], 0), Err(Error::NotReady));
    assert_eq!(story.write(volumes[2], 0, 1, 8), Err(Error::NotReady));
    let Story { rig, random } = story;
    let mut disks = rig.disks;
    disks.0.push(taken);
    let mut story = open(disks, random, WHOLE);
    assert_eq!(story.read(volumes[2], 0), Ok(7));
    assert_eq!(story.read(volumes[1], 9), Ok(8));
}

#[test]
fn a_missing_metadata_member_becomes_stale_by_degraded_opening() {
    let (mut story, volumes) = story(2);
    story.write(volumes[0], 0, 1, 7).expect("healthy disks");
    flush(&mut story, volumes[0]).expect("healthy disks");
    let Story { rig, random } = story;
    let mut disks = open(rig.disks, random.clone(), WHOLE).rig.disks;
    let taken = disks.0.pop().expect("two disks");
    let mut story = open(disks, random, DEGRADED);
    story.write(volumes[0], 0, 1, 8).expect("its member is there");
    let Story { rig, .. } = story;
    let mut disks = rig.disks;
    disks.0.push(taken);
    let refused = refusal(disks, WHOLE);
    assert!(matches!(refused, OpenError::Stale { member: MemberIndex(1), .. }));
}

#[test]
fn members_are_found_by_their_labels_in_any_order() {
    let (mut story, volumes) = story(3);
    story.write(volumes[1], 4, 1, 7).expect("healthy disks");
    let Story { rig, random } = story;
    let mut disks = rig.disks;
    disks.0.reverse();
    assert_eq!(open(disks, random, WHOLE).read(volumes[1], 4), Ok(7));
}

#[test]
fn what_is_not_the_pool_is_refused_by_name() {
    let (whole, _) = disks(2);
    let duplicate = Disks(vec![whole.0[0].clone(), whole.0[0].clone()]);
    assert!(matches!(refusal(duplicate, WHOLE), OpenError::Duplicate { first: 0, second: 1, .. }));
    let (other, _) = disks(3);
    let mixed = Disks(vec![whole.0[0].clone(), other.0[1].clone()]);
    assert!(matches!(refusal(mixed, WHOLE), OpenError::OtherPool { slot: 1, .. }));
    let mut random = Random::new(9);
    let blank = new_disks(&mut random, Shape { members: 1, log_bytes: LOG_BYTES, clusters: 4 });
    assert!(matches!(refusal(blank, WHOLE), OpenError::Foreign { slot: 0, .. }));
    assert_eq!(refusal(Disks(Vec::new()), WHOLE), OpenError::NoMembers);
}

#[test]
fn a_pool_is_not_created_over_anything_unless_forced() {
    let (mut used, mut random) = disks(1);
    let shape = Shape { members: 1, log_bytes: LOG_BYTES, clusters: 32 };
    let mut new = new_pool(&mut random, shape);
    new.force = false;
    let over_pool = fathom_lvs::create(&mut used, &new);
    assert!(matches!(over_pool, Err(CreateError::Labelled { slot: 0, .. })));
    let mut foreign = new_disks(&mut random, shape);
    let over_data = fathom_lvs::create(&mut foreign, &new);
    assert!(matches!(over_data, Err(CreateError::Foreign { slot: 0, .. })));
    new.force = true;
    fathom_lvs::create(&mut used, &new).expect("forced");
}
