//! What waits to be proved on a lost member is given up: it reads as an error until it is written or
//! zeroed, and never as zeros or as older data.

use fathom_block::{Error, Operation};
use fathom_lvs::{
    BlockRange, MemberRefused, OpenOptions, Refused,
    geometry::{MemberIndex, ObjectId},
};
use fathom_test_sim::{
    pool::{METADATA, Shape, Story, new_volume},
    rig::Disks,
};
use fathom_test_support::{
    disk::{Cut, SimulatedDisk},
    random::Random,
};

const LAST: MemberIndex = MemberIndex(2);
const WHOLE: OpenOptions = OpenOptions::WHOLE;
const DEGRADED: OpenOptions = OpenOptions::DEGRADED;

/// Three members, a volume on the first and one on the last. Of the last one, blocks 0 to 3 were
/// older content and were written again in a layer above it, 4 and 5 have older content only, and
/// the member is lost; then what waited for its proof is given up.
fn given_up() -> (Story, ObjectId, ObjectId) {
    let shape = Shape { members: 3, log_bytes: 128 << 10, clusters: 32 };
    let mut story = Story::new(5, shape);
    let mut volume = |member: u16| {
        let mut new = new_volume(0x100 + u128::from(member), 2 << 20, 4096);
        new.record.members = 1 << member;
        story.create_volume(new)
    };
    let (first, last) = (volume(0), volume(2));
    story.write_through(last, 0, 6, 0x11).expect("healthy disks");
    story.create_snapshot(last, 1);
    story.rig.disks.0[2].fail_flushes(true);
    story.write(last, 0, 4, 0x22).expect("it need not be durable");
    story.flush(last).expect_err("its member does not flush");
    assert_eq!(story.rig.store.blocks_to_prove(), [(LAST, 4)]);
    story.rig.store.accept_loss(LAST).expect("it is lost");
    story.done().expect("the log is on others");
    assert_eq!(story.rig.store.blocks_to_prove(), []);
    assert_eq!(story.rig.store.lost_blocks(), 4);
    (story, first, last)
}

/// The disks after a power cut, without faults.
fn cut(story: Story, cut: Cut, seed: u64) -> Disks {
    let mut disks = story.rig.disks;
    disks.0.iter_mut().for_each(SimulatedDisk::clear_faults);
    disks.power_cut(&mut Random::new(seed), cut);
    disks
}

/// What each of the first six blocks reads as.
fn read(story: &mut Story, volume: ObjectId) -> [Result<u8, Error>; 6] {
    [0, 1, 2, 3, 4, 5].map(|block| story.read(volume, block))
}

const LOST: Result<u8, Error> = Err(Error::ReadFault);
const OLD: Result<u8, Error> = Ok(0x11);

/// Many times round the log, with checkpoints.
fn go_round_the_log(story: &mut Story, volume: ObjectId) {
    for count in 0..120 {
        story.write(volume, count % 32, 1, 3).expect("its member is there");
        story.flush(volume).expect("its member is there");
    }
}

#[test]
fn what_was_given_up_reads_as_an_error_through_crashes_and_checkpoints() {
    // Whatever is there: the member may have all of it, or nothing.
    for mode in [Cut::KeepAll, Cut::LoseAll] {
        let (mut story, first, last) = given_up();
        go_round_the_log(&mut story, first);
        let mut disks = cut(story, mode, 1);
        // Without the member, and with it, and once more.
        let apart = disks.0.pop().expect("three disks");
        let mut story = Story::open(disks, 6, DEGRADED);
        assert_eq!(story.rig.store.lost_blocks(), 4);
        go_round_the_log(&mut story, first);
        let mut disks = story.rig.disks;
        disks.0.push(apart);
        for _ in 0..2 {
            let mut story = Story::open(disks, 6, WHOLE);
            assert_eq!(read(&mut story, last), [LOST, LOST, LOST, LOST, OLD, OLD]);
            let snapshot = story.snapshot(1);
            assert_eq!(read(&mut story, snapshot), [OLD; 6]);
            let page = story.rig.store.lost_ranges(last, 0, 8).expect("it exists");
            assert_eq!(page.ranges, [BlockRange { first: 0, blocks: 4 }]);
            let page = story.rig.store.allocated_ranges(last, 0, 8).expect("it exists");
            assert_eq!(page.ranges[0].first, 0, "a difference would have to be copied");
            assert_eq!(story.rig.store.lost_ranges(snapshot, 0, 8).expect("it exists").ranges, []);
            let compared = story.request(last, Operation::Compare, 0, 1, vec![0x11; 4096]);
            assert_eq!(compared, Err(Error::ReadFault));
            go_round_the_log(&mut story, first);
            disks = story.rig.disks;
        }
    }
}

#[test]
fn what_was_given_up_is_there_again_when_it_is_written_or_zeroed() {
    let (story, first, last) = given_up();
    let mut story = Story::open(cut(story, Cut::LoseAll, 1), 6, WHOLE);
    story.write_through(last, 0, 1, 0x33).expect("healthy disks");
    story.trim(last, 1, 1).expect("healthy disks");
    let expected = [Ok(0x33), Ok(0), LOST, LOST, OLD, OLD];
    assert_eq!(read(&mut story, last), expected);
    assert_eq!(story.rig.store.lost_blocks(), 2);
    story.flush(last).expect("healthy disks");
    go_round_the_log(&mut story, first);
    let mut story = Story::open(cut(story, Cut::LoseAll, 1), 6, WHOLE);
    assert_eq!(read(&mut story, last), expected);
    // Deleting it all leaves nothing that is lost.
    let snapshot = story.snapshot(1);
    story.rig.store.delete_volume(last).expect("it exists");
    story.done().expect("healthy disks");
    story.rig.store.delete_snapshot(snapshot).expect("it exists");
    story.done().expect("healthy disks");
    assert_eq!(story.rig.store.lost_blocks(), 0);
    Story::open(story.rig.disks, 6, WHOLE);
}

#[test]
fn a_write_that_does_not_reach_the_media_leaves_lost_blocks_lost() {
    let (story, _, last) = given_up();
    let disks = cut(story, Cut::LoseAll, 1);
    for seed in 0..100 {
        let mut story = Story::open(disks.clone(), seed, WHOLE);
        story.write(last, 0, 2, 0x33).expect("healthy disks");
        assert_eq!(read(&mut story, last), [Ok(0x33), Ok(0x33), LOST, LOST, OLD, OLD]);
        // Never flushed: the power takes it, or not.
        let mut story = Story::open(cut(story, Cut::EachWrite, seed), 6, WHOLE);
        for found in &read(&mut story, last)[..2] {
            assert!([Ok(0x33), LOST].contains(found), "{found:?}");
        }
    }
    // One that fails.
    let mut story = Story::open(disks, 6, WHOLE);
    let end = story.rig.disks.0[2].capacity() - 4096;
    story.rig.disks.0[2].fail_writes(METADATA..end);
    assert_eq!(story.write(last, 0, 1, 0x33), Err(Error::WriteFault));
    story.rig.disks.0[2].clear_faults();
    assert_eq!(story.read(last, 0), LOST);
    assert_eq!(Story::open(story.rig.disks, 6, WHOLE).read(last, 0), LOST);
}

#[test]
fn merging_leaves_what_is_lost_where_it_is() {
    let (story, first, last) = given_up();
    let mut story = Story::open(cut(story, Cut::LoseAll, 1), 6, WHOLE);
    let snapshot = story.snapshot(1);
    story.rig.store.delete_snapshot(snapshot).expect("it exists");
    story.done().expect("healthy disks");
    assert!(story.rig.store.reclaiming().stuck > 0);
    assert_eq!(read(&mut story, last), [LOST, LOST, LOST, LOST, OLD, OLD]);
    story.write(last, 0, 4, 0x44).expect("healthy disks");
    story.flush(last).expect("healthy disks");
    // The next call that changes something tries again.
    story.create_snapshot(first, 2);
    assert_eq!(story.rig.store.reclaiming().stuck, 0);
    let all = [Ok(0x44), Ok(0x44), Ok(0x44), Ok(0x44), OLD, OLD];
    assert_eq!(read(&mut story, last), all);
    let mut story = Story::open(cut(story, Cut::LoseAll, 1), 6, WHOLE);
    assert_eq!(read(&mut story, last), all);
}

#[test]
fn only_a_member_that_is_not_there_can_be_given_up() {
    let (story, ..) = given_up();
    let mut story = Story::open(cut(story, Cut::LoseAll, 1), 6, WHOLE);
    let refused = story.rig.store.accept_loss(LAST);
    assert_eq!(refused, Err(Refused::Member(MemberRefused::NotLost(LAST))));
    let refused = story.rig.store.accept_loss(MemberIndex(3));
    assert_eq!(refused, Err(Refused::NoMember(MemberIndex(3))));
}

#[test]
fn a_member_that_is_lost_again_leaves_rewritten_blocks_lost_or_new() {
    for (mode, expected) in [(Cut::KeepAll, Ok(0x33)), (Cut::LoseAll, LOST)] {
        let (story, first, last) = given_up();
        let mut story = Story::open(cut(story, Cut::LoseAll, 1), 6, WHOLE);
        story.rig.disks.0[2].fail_flushes(true);
        story.write(last, 0, 2, 0x33).expect("it need not be durable");
        story.flush(last).expect_err("its member does not flush");
        go_round_the_log(&mut story, first);
        let mut disks = cut(story, mode, 1);
        let apart = disks.0.pop().expect("three disks");
        let mut story = Story::open(disks, 6, DEGRADED);
        go_round_the_log(&mut story, first);
        let mut disks = story.rig.disks;
        disks.0.push(apart);
        let mut story = Story::open(disks, 6, WHOLE);
        assert_eq!(read(&mut story, last), [expected, expected, LOST, LOST, OLD, OLD]);
    }
}
