//! Failed and missing members, and full metadata: an answer each time, and no panic.

use fathom_block::{Error, Operation, RequestId};
use fathom_lvs::{
    CreateError, Health, IoKind, MemberIo, NewPool, OpenError, OpenOptions, Refused,
    format::label::MemberState,
    geometry::{ClusterSize, MemberIndex, ObjectId},
};
use fathom_test_sim::{
    pool::{METADATA, SLOT_BYTES, Shape, Story, new_disks, new_pool, new_snapshot, new_volume},
    rig::{Disks, Event, Rig},
};
use fathom_test_support::{
    disk::{Cut, SimulatedDisk},
    random::Random,
};
use uuid::Uuid;

const LOG_BYTES: u64 = 128 << 10;
/// Bytes of a checkpoint slot with room for a thousand fragments or two.
const FEW_FRAGMENTS: u64 = 192 << 10;
const WHOLE: OpenOptions = OpenOptions::WHOLE;
const DEGRADED: OpenOptions = OpenOptions::DEGRADED;
/// The member that fails: it has data only.
const LAST: MemberIndex = MemberIndex(2);
/// A block that every volume has on stable media, and what is in it.
const KEPT: (u64, u8) = (100, 0x77);

/// Three members and a volume of 2 MiB on the first and on the last one.
fn story(clusters: u64) -> (Story, ObjectId, ObjectId) {
    let mut story = Story::new(5, Shape { members: 3, log_bytes: LOG_BYTES, clusters });
    let mut volume = |member: MemberIndex| {
        let mut new = new_volume(0x100 + u128::from(member.0), 2 << 20, 4096);
        new.record.members = 1 << member.0;
        let volume = story.create_volume(new);
        story.write(volume, KEPT.0, 1, KEPT.1).expect("healthy disks");
        story.flush(volume).expect("healthy disks");
        volume
    };
    let (first, last) = (volume(MemberIndex(0)), volume(LAST));
    (story, first, last)
}

/// The flush of the last member fails now.
fn fail_flush(story: &mut Story) {
    assert!(story.rig.run_one(|io| io.member == LAST && io.kind == IoKind::Flush));
}

/// Many times round the log.
fn go_round_the_log(story: &mut Story, volume: ObjectId) {
    for count in 0..120 {
        story.write(volume, count % 32, 1, 3).expect("its member is there");
        story.flush(volume).expect("its member is there");
    }
}

/// Everything is answered, and `LAST` is lost: volumes on it answer `NotReady`, the others go on,
/// now and after openings without it. When it is back, what was flushed is there, and block 0 of
/// the last volume is as one of `allowed`.
fn assert_lost(mut story: Story, allowed: &[u8]) {
    story.rig.settle(&mut story.random);
    let gone = Health::Degraded { stale: Vec::new(), gone: vec![LAST], late: Vec::new() };
    assert_eq!(story.rig.store.health(), gone);
    let state = story.rig.store.member_table()[usize::from(LAST.0)].state;
    assert!(matches!(state, MemberState::Lost { .. }), "{state:?}");
    let (first, last) = (story.volume(0x100), story.volume(0x102));
    for round in 0..3 {
        assert_eq!(story.flush(last), Err(Error::NotReady));
        assert_eq!(story.read(last, KEPT.0), Err(Error::NotReady));
        go_round_the_log(&mut story, first);
        let snapshot = story.create_snapshot(first, 0x900 + round);
        story.write(first, 0, 1, 4).expect("its member is there");
        story.rig.store.delete_snapshot(snapshot).expect("it exists");
        story.done().expect("its member is there");
        // Power is lost, and the member is not there when the pool is opened, or back.
        let mut disks = story.rig.disks;
        disks.0.iter_mut().for_each(SimulatedDisk::clear_faults);
        disks.power_cut(&mut Random::new(1), Cut::LoseAll);
        let mut whole = Story::open(disks.clone(), 6, WHOLE);
        assert_eq!(whole.rig.store.health(), Health::Good, "round {round}");
        assert_eq!(whole.rig.store.blocks_to_prove(), []);
        for volume in [first, last] {
            assert_eq!(whole.read(volume, KEPT.0), Ok(KEPT.1));
        }
        let found = whole.read(last, 0).expect("healthy disks");
        assert!(allowed.contains(&found), "{found:#x}");
        story = with_the_last_disk_apart(disks);
    }
}

/// Opens what is on `disks` without the last one, which stays as it is.
fn with_the_last_disk_apart(mut disks: Disks) -> Story {
    let mut left = disks.clone();
    left.0.pop();
    let mut story = Story::open(left, 6, DEGRADED);
    disks.0.truncate(story.rig.disks.0.len() + 1);
    story.rig.disks.0.extend(disks.0.pop());
    story
}

#[test]
fn after_a_failed_flush_of_unsettled_data_no_flush_succeeds() {
    let (mut story, first, last) = story(32);
    story.write(last, 0, 1, 0xA1).expect("healthy disks");
    story.rig.disks.0[2].fail_flushes(true);
    assert_eq!(story.flush(last), Err(Error::WriteFault));
    assert_eq!(story.flush(last), Err(Error::NotReady));
    assert_eq!(story.write(last, 0, 1, 9), Err(Error::NotReady));
    assert_eq!(story.write(first, 0, 1, 2), Ok(()), "its member is there");
    assert_lost(story, &[0, 0xA1]);
}

#[test]
fn a_merge_of_blocks_on_a_lost_member_comes_to_an_end_though_they_were_trimmed() {
    let (mut story, first, last) = story(32);
    story.write_through(last, 16, 2, 1).expect("healthy disks");
    let snapshot = story.create_snapshot(last, 1);
    // Settled, so that its cluster stays.
    story.write_through(last, 20, 1, 5).expect("healthy disks");
    for volume in [last, first, last] {
        story.write(volume, 20, 1, 5).expect("healthy disks");
        story.flush(volume).expect("healthy disks");
    }
    story.rig.disks.0[2].fail_flushes(true);
    story.write(last, 16, 2, 2).expect("healthy disks");
    story.trim(last, 16, 2).expect("healthy disks");
    story.flush(last).expect_err("its member does not flush");
    assert_eq!(story.rig.store.blocks_to_prove(), [(LAST, 2)], "though they were trimmed");
    story.rig.store.delete_snapshot(snapshot).expect("it exists");
    story.done().expect("the log is on others");
    story.rig.settle(&mut story.random);
    assert!(story.rig.store.reclaiming().stuck > 0);
    go_round_the_log(&mut story, first);
    let mut disks = story.rig.disks;
    disks.0.iter_mut().for_each(SimulatedDisk::clear_faults);
    let mut story = Story::open(disks, 6, WHOLE);
    story.rig.settle(&mut story.random);
    assert_eq!(story.rig.store.reclaiming().stuck, 0);
    assert_eq!((story.read(last, 16), story.read(last, 20)), (Ok(0), Ok(5)));
}

#[test]
fn what_is_proved_on_a_member_that_was_lost_is_written_again() {
    let (mut story, _, last) = story(32);
    story.write(last, 0, 1, 0xA1).expect("healthy disks");
    story.rig.disks.0[2].fail_flushes(true);
    assert_eq!(story.flush(last), Err(Error::WriteFault));
    assert_eq!(story.rig.store.blocks_to_prove(), [(LAST, 1)]);
    let mut disks = story.rig.disks;
    disks.0[2].clear_faults();
    // Only what lies between its first two labels and the last one: its clusters.
    let end = disks.0[2].capacity() - 4096;
    disks.0[2].fail_writes(METADATA..end);
    let refused = Rig::open(disks, WHOLE).err().expect("it has to be written");
    assert!(matches!(refused.0, OpenError::Medium(_)), "{}", refused.0);
    let mut disks = refused.1;
    disks.0[2].clear_faults();
    let mut story = Story::open(disks, 6, WHOLE);
    assert_eq!(story.read(last, 0), Ok(0xA1));
}

#[test]
fn proofs_that_do_not_fit_a_checkpoint_stop_the_pool() {
    let shape = Shape { members: 3, log_bytes: 1 << 20, clusters: 1200 };
    let mut story = Story::with(5, shape, |new| new.slot_bytes = Some(FEW_FRAGMENTS));
    let mut new = new_volume(0x102, 1200 << 16, 4096);
    new.record.members = 1 << LAST.0;
    let last = story.create_volume(new);
    // Every other block, so that each proof is a Map by itself.
    for block in (0..6000).step_by(2) {
        story.rig.submit(last, Operation::Write { fua: false }, block, 1, vec![1; 4096]);
    }
    story.rig.pump();
    story.rig.settle(&mut story.random);
    story.rig.disks.0[2].fail_flushes(true);
    story.flush(last).expect_err("its member does not flush");
    let health = story.rig.store.health();
    assert!(matches!(health, Health::Failed { member: LAST, .. }), "{health:?}");
}

#[test]
fn an_overwrite_under_way_when_the_flush_of_its_member_fails_is_answered() {
    let (mut story, _, last) = story(32);
    story.write(last, 0, 1, 1).expect("healthy disks");
    story.rig.disks.0[2].fail_flushes(true);
    story.rig.submit(last, Operation::Write { fua: false }, 0, 1, vec![2; 4096]);
    story.rig.pump();
    story.rig.submit(last, Operation::Flush, 0, 0, Vec::new());
    story.rig.pump();
    fail_flush(&mut story);
    story.rig.settle(&mut story.random);
    assert_eq!(story.rig.events.len(), 2);
    assert_lost(story, &[0, 1, 2]);
}

#[test]
fn a_write_through_whose_member_fails_to_flush_is_not_acknowledged() {
    let (mut story, _, last) = story(32);
    story.write(last, 40, 1, 1).expect("healthy disks");
    story.rig.disks.0[2].fail_flushes(true);
    story.rig.submit(last, Operation::Flush, 0, 0, Vec::new());
    story.rig.pump();
    story.rig.submit(last, Operation::Write { fua: true }, 0, 1, vec![0xF0; 4096]);
    story.rig.pump();
    let data = |io: &MemberIo| matches!(io.kind, IoKind::Write { .. });
    assert!(story.rig.run_one(|io| io.member == LAST && data(io)));
    fail_flush(&mut story);
    story.rig.settle(&mut story.random);
    let failed = |event: &Event| matches!(event, Event::Completed(_, Err(_), _));
    assert!(story.rig.events.len() == 2 && story.rig.events.iter().all(failed));
    assert_lost(story, &[0, 0xF0]);
}

#[test]
fn a_snapshot_of_unsettled_data_on_a_member_that_fails_to_flush_is_answered() {
    let (mut story, _, last) = story(32);
    story.write(last, 0, 1, 0xA1).expect("healthy disks");
    story.rig.disks.0[2].fail_flushes(true);
    story.rig.store.create_snapshots(vec![new_snapshot(last, 1)]).expect("it can be made");
    story.done().expect_err("the data of the snapshot cannot be made durable");
    assert_lost(story, &[0, 0xA1]);
}

#[test]
fn merging_unsettled_data_on_a_member_that_fails_to_flush_comes_to_an_end() {
    let (mut story, _, last) = story(32);
    story.write_through(last, 0, 2, 1).expect("healthy disks");
    let snapshot = story.create_snapshot(last, 1);
    story.write(last, 0, 1, 2).expect("healthy disks");
    story.rig.disks.0[2].fail_flushes(true);
    story.rig.store.delete_snapshot(snapshot).expect("it exists");
    story.rig.pump();
    assert_lost(story, &[1, 2]);
}

#[test]
fn a_member_without_unsettled_data_fails_alone() {
    let (mut story, first, last) = story(10);
    story.write(last, KEPT.0, 1, 0x78).expect("in place");
    story.rig.disks.0[2].fail_flushes(true);
    assert_eq!(story.flush(last), Err(Error::WriteFault));
    let gone = Health::Degraded { stale: Vec::new(), gone: vec![LAST], late: Vec::new() };
    assert_eq!(story.rig.store.health(), gone);
    assert_eq!(story.flush(last), Err(Error::NotReady));
    for count in 0..200 {
        story.write(first, count % 32, 1, 3).expect("its member is there");
        story.flush(first).expect("its member is there");
    }
    let snapshot = story.create_snapshot(first, 1);
    story.write(first, 0, 1, 4).expect("its member is there");
    story.rig.store.delete_snapshot(snapshot).expect("it exists");
    story.done().expect("its member is there");
    let mut disks = story.rig.disks;
    disks.0[2].clear_faults();
    disks.power_cut(&mut Random::new(1), Cut::LoseAll);
    let mut story = Story::open(disks, 6, WHOLE);
    assert_eq!(story.read(first, 1), Ok(3));
    assert_eq!(story.read(first, KEPT.0), Ok(KEPT.1));
    let found = story.read(last, KEPT.0).expect("healthy disks");
    assert!([KEPT.1, 0x78].contains(&found), "{found:#x}");
}

#[test]
fn a_pool_with_a_member_given_up_fills_up_and_says_so() {
    let (mut story, first, last) = story(10);
    story.write(last, KEPT.0, 1, 0x78).expect("in place");
    story.rig.disks.0[2].fail_flushes(true);
    assert_eq!(story.flush(last), Err(Error::WriteFault));
    let answers: Vec<_> = (0..32).map(|at| story.write(first, at * 16, 1, 2)).collect();
    assert!(answers[..5].iter().all(Result::is_ok));
    assert_eq!(answers[31], Err(Error::CapacityExceeded));
}

/// Two members and a volume on the first one; the second one has failed to flush, and the
/// label of the first one is being written. Gives the flush that started it.
fn demoting() -> (Story, ObjectId, RequestId) {
    let mut story = Story::new(4, Shape { members: 2, log_bytes: LOG_BYTES, clusters: 32 });
    let mut new = new_volume(0x100, 1 << 20, 4096);
    new.record.members = 1;
    let volume = story.create_volume(new);
    story.write(volume, 0, 1, 0xA1).expect("healthy disks");
    story.rig.disks.0[1].fail_flushes(true);
    let flush = story.rig.submit(volume, Operation::Flush, 0, 0, Vec::new());
    story.rig.pump();
    let failing = |io: &MemberIo| io.member == MemberIndex(1) && io.kind == IoKind::Flush;
    assert!(story.rig.run_one(failing));
    (story, volume, flush)
}

/// Waits for everything and takes the answer to one request.
fn answer(story: &mut Story, request: RequestId) -> Result<(), Error> {
    story.rig.pump();
    story.rig.settle(&mut story.random);
    let mut answers = story.rig.events.iter().filter_map(|event| match event {
        Event::Completed(done, result, _) if *done == request => Some(*result),
        _ => None,
    });
    answers.next_back().expect("a store at rest has answered everything")
}

#[test]
fn a_flush_while_a_failed_copy_is_being_recorded_succeeds() {
    let (mut story, volume, _) = demoting();
    let flush = story.rig.submit(volume, Operation::Flush, 0, 0, Vec::new());
    assert_eq!(answer(&mut story, flush), Ok(()));
    let health = story.rig.store.health();
    assert!(matches!(health, Health::Degraded { .. }), "{health:?}");
}

#[test]
fn a_write_while_a_failed_copy_is_being_recorded_succeeds() {
    let (mut story, volume, _) = demoting();
    let write = Operation::Write { fua: false };
    let write = story.rig.submit(volume, write, 5, 1, vec![3; 4096]);
    assert_eq!(answer(&mut story, write), Ok(()));
    let health = story.rig.store.health();
    assert!(matches!(health, Health::Degraded { .. }), "{health:?}");
    assert_eq!(story.read(volume, 5), Ok(3));
}

#[test]
fn a_flush_that_only_a_second_copy_fails_succeeds() {
    let (mut story, _, flush) = demoting();
    assert_eq!(answer(&mut story, flush), Ok(()));
}

#[test]
fn a_snapshot_of_a_volume_on_a_missing_member_is_answered() {
    let (mut story, first, last) = story(32);
    story.write_through(last, 0, 1, 1).expect("healthy disks");
    let mut disks = Story::open(story.rig.disks, 6, WHOLE).rig.disks;
    let taken = disks.0.pop().expect("three disks");
    let mut story = Story::open(disks, 6, DEGRADED);
    story.rig.store.create_snapshots(vec![new_snapshot(last, 1)]).expect("it exists");
    let made = story.done().is_ok();
    story.write(first, 0, 1, 2).expect("its member is there");
    let mut disks = story.rig.disks;
    disks.0.push(taken);
    let mut story = Story::open(disks, 6, WHOLE);
    assert_eq!(story.read(last, 0), Ok(1));
    assert_eq!(story.rig.store.snapshots().count(), usize::from(made));
}

#[test]
fn an_unreadable_snapshot_does_not_keep_other_space_from_being_reclaimed() {
    let mut story = Story::new(8, Shape { members: 1, log_bytes: LOG_BYTES, clusters: 12 });
    let volume = story.create_volume(new_volume(0x100, 1 << 20, 4096));
    story.write_through(volume, 0, 2, 1).expect("a healthy disk");
    let snapshot = story.create_snapshot(volume, 1);
    // Both have a cluster now, and block 1 shows through: it has to be copied.
    story.write_through(volume, 0, 1, 2).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    let other = story.create_volume(new_volume(0x200, 1 << 20, 4096));
    for cluster in 0..8 {
        story.write(other, cluster * 16, 1, 3).expect("there is room");
    }
    story.rig.disks.0[0].fail_reads(METADATA + 2 * SLOT_BYTES + LOG_BYTES..u64::MAX);
    story.rig.store.delete_snapshot(snapshot).expect("it exists");
    story.done().expect("a healthy log");
    story.rig.store.delete_volume(other).expect("it exists");
    story.done().expect("a healthy log");
    let third = story.create_volume(new_volume(0x300, 1 << 20, 4096));
    for cluster in 0..8 {
        assert_eq!(story.write(third, cluster * 16, 1, 4), Ok(()), "cluster {cluster}");
    }
    story.rig.disks.0[0].clear_faults();
    assert_eq!(story.read(volume, 0), Ok(2));
    assert_eq!(story.read(volume, 1), Ok(1));
}

#[test]
fn writes_to_full_metadata_are_refused_and_the_pool_opens_again() {
    let shape = Shape { members: 1, log_bytes: LOG_BYTES, clusters: 8000 };
    let mut story = Story::with(9, shape, |new| new.slot_bytes = Some(FEW_FRAGMENTS));
    let volume = story.create_volume(new_volume(0x100, 8000 << 16, 4096));
    let mut answers = (0..8000).map(|cluster| (cluster, story.write(volume, cluster * 16, 1, 1)));
    let (refused, answer) = answers.find(|(_, answer)| answer.is_err()).expect("a small slot");
    assert_eq!(answer, Err(Error::CapacityExceeded));
    assert!(refused > 100, "only {refused} clusters");
    assert_eq!(story.rig.store.health(), Health::Good);
    assert_eq!(story.write(volume, 0, 1, 2), Ok(()), "in place");
    let mut story = Story::open(story.rig.disks, 6, WHOLE);
    assert_eq!(story.read(volume, 0), Ok(2));
    assert_eq!(story.read(volume, (refused - 1) * 16), Ok(1));
    assert_eq!(story.read(volume, refused * 16), Ok(0));
}

#[test]
fn trims_in_full_metadata_are_refused_until_a_volume_is_deleted() {
    let shape = Shape { members: 1, log_bytes: LOG_BYTES, clusters: 200 };
    let mut story = Story::with(10, shape, |new| new.slot_bytes = Some(FEW_FRAGMENTS));
    let volume = story.create_volume(new_volume(0x100, 200 << 16, 4096));
    for cluster in 0..150 {
        story.write(volume, cluster * 16, 16, 1).expect("there is room");
    }
    let snapshot = story.create_snapshot(volume, 1);
    let clones: Vec<ObjectId> = (0..45)
        .map(|number| {
            let mut new = new_volume(0x200 + number, 200 << 16, 4096);
            new.source = Some(snapshot);
            story.create_volume(new)
        })
        .collect();
    // A part of a cluster that shows through: each is one more fragment.
    let mut trims = clones.iter().flat_map(|&clone| (0..150).map(move |at| (clone, at * 16)));
    let refused =
        trims.find_map(|(clone, lba)| Some((clone, lba, story.trim(clone, lba, 1).err()?)));
    let (clone, lba, error) = refused.expect("a small slot");
    assert_eq!(error, Error::CapacityExceeded);
    assert_ne!(clone, clones[0], "one has room");
    assert_eq!(story.rig.store.health(), Health::Good);
    let mut story = Story::open(story.rig.disks, 6, WHOLE);
    assert_eq!(story.read(clone, lba), Ok(1), "as it was");
    assert_eq!(story.read(volume, 0), Ok(1));
    story.rig.store.delete_volume(clones[0]).expect("it exists");
    story.done().expect("there is room for that");
    assert_eq!(story.trim(clone, lba, 1), Ok(()));
    assert_eq!(story.read(clone, lba), Ok(0));
}

#[test]
fn a_clone_that_no_log_entry_holds_is_refused() {
    let mut story = Story::new(11, Shape { members: 1, log_bytes: 4 << 20, clusters: 32 });
    let long = |uuid| {
        let mut new = new_volume(uuid, 1 << 20, 4096);
        new.record.labels = vec![("k".to_owned(), "x".repeat(32530))];
        new
    };
    let volume = story.create_volume(long(0x100));
    let mut clone = long(0x200);
    clone.source = Some(volume);
    let refused = story.rig.store.create_volume(clone);
    assert!(matches!(refused, Err(Refused::TooMuch { .. })), "{refused:?}");
    assert_eq!(story.write(volume, 0, 1, 1), Ok(()));
}

#[test]
fn a_log_too_small_for_the_proofs_of_a_cluster_is_refused() {
    let mut random = Random::new(1);
    let shape = Shape { members: 1, log_bytes: LOG_BYTES, clusters: 1024 };
    let mut disks = new_disks(&mut random, shape);
    let mut new = new_pool(&mut random, shape);
    new.cluster_size = ClusterSize::new(4 << 20).expect("a legal cluster size");
    let refused = fathom_lvs::create(&mut disks, &new);
    let Err(CreateError::LogTooSmall { needed, .. }) = refused else { panic!("{refused:?}") };
    new.log_bytes = Some(needed.0);
    fathom_lvs::create(&mut disks, &new).expect("as large as it said");
    let mut story = Story::open(disks, 6, WHOLE);
    let volume = story.create_volume(new_volume(0x100, 8 << 20, 4096));
    assert_eq!(story.write(volume, 0, 1024, 1), Ok(()));
}

#[test]
fn labels_of_one_pool_that_name_different_members_are_refused() {
    let uuid = |new: &mut NewPool| new.uuid = Uuid::from_u128(0xABC);
    let shape = |members| Shape { members, log_bytes: LOG_BYTES, clusters: 32 };
    let one = Story::with(12, shape(1), uuid).rig.disks;
    let two = Story::with(13, shape(2), uuid).rig.disks;
    // Whichever of them was written later.
    let later = |disks: &Disks| Story::open(disks.clone(), 6, WHOLE).rig.disks;
    for (one, two) in [(later(&later(&one)), two.clone()), (one, later(&later(&two)))] {
        let mixed = Disks(vec![one.0[0].clone(), two.0[1].clone()]);
        let refused = Rig::open(mixed, DEGRADED).err().expect("they disagree").0;
        assert!(matches!(refused, OpenError::Disagree { .. }), "{refused}");
    }
}
