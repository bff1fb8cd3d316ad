//! Members that answer late, or never.

use std::time::Duration;

use fathom_block::{Error, Operation, RequestId};
use fathom_lvs::{
    Health, IO_DEADLINE, IoKind, MemberIo, OpenError, OpenOptions,
    geometry::{MemberIndex, ObjectId},
};
use fathom_test_sim::{
    pool::{METADATA, SLOT_BYTES, Shape, Story, new_volume},
    rig::{Event, Rig, unread},
};
use fathom_units::Monotonic;

const WRITE: Operation = Operation::Write { fua: false };
/// The member that has data only.
const LAST: MemberIndex = MemberIndex(2);

/// A pool with a volume of 1 MiB on each member, 64 KiB of it on stable media.
fn story(members: u16) -> (Story, Vec<ObjectId>) {
    let shape = Shape { members: members.into(), log_bytes: 128 << 10, clusters: 32 };
    let mut story = Story::new(3, shape);
    let volumes = (0..members).map(|member| {
        let mut new = new_volume(0x100 + u128::from(member), 1 << 20, 4096);
        new.record.members = 1 << member;
        let volume = story.create_volume(new);
        story.write(volume, 0, 16, 7).expect("healthy disks");
        story.flush(volume).expect("healthy disks");
        volume
    });
    let volumes = volumes.collect();
    (story, volumes)
}

fn submit(story: &mut Story, volume: ObjectId, operation: Operation, lba: u64) -> RequestId {
    let blocks = u64::from(operation != Operation::Flush);
    let id = story.rig.submit(volume, operation, lba, blocks, unread(4096));
    story.rig.pump();
    id
}

/// The answer to a request, if it has come.
fn answer(story: &mut Story, id: RequestId) -> Option<Result<(), Error>> {
    let at = story
        .rig
        .events
        .iter()
        .position(|event| matches!(event, Event::Completed(done, ..) if *done == id))?;
    match story.rig.events.remove(at) {
        Event::Completed(_, result, _) => Some(result),
        Event::Done(..) => None,
    }
}

/// The answer to a request, which comes while time hardly goes on.
fn soon(story: &mut Story, id: RequestId) -> Result<(), Error> {
    let begin = story.rig.now;
    loop {
        if let Some(result) = answer(story, id) {
            return result;
        }
        story.rig.step(&mut story.random);
        assert!(story.rig.now.since(begin) < Duration::from_secs(1), "{:?}", story.rig.store);
    }
}

fn settle(story: &mut Story) {
    story.rig.settle(&mut story.random);
}

fn degraded(stale: &[MemberIndex], gone: &[MemberIndex], late: &[MemberIndex]) -> Health {
    Health::Degraded { stale: stale.to_vec(), gone: gone.to_vec(), late: late.to_vec() }
}

fn assert_failed(story: &Story, of: MemberIndex, why: &str) {
    match story.rig.store.health() {
        Health::Failed { member, reason } => {
            assert_eq!((member, reason), (of, why));
        }
        health => panic!("{health:?}"),
    }
}

#[test]
fn without_a_second_copy_a_log_that_does_not_answer_stops_the_pool() {
    let (mut story, volumes) = story(1);
    story.rig.hang(MemberIndex(0));
    let begin = story.rig.now;
    let write = submit(&mut story, volumes[0], WRITE, 20);
    settle(&mut story);
    let took = story.rig.now.since(begin);
    assert!((IO_DEADLINE..IO_DEADLINE + Duration::from_secs(1)).contains(&took), "{took:?}");
    assert_failed(
        &story,
        MemberIndex(0),
        "the metadata log took longer to write than its deadline",
    );
    assert_eq!(answer(&mut story, write), None, "the member still has its data");
    let later = submit(&mut story, volumes[0], WRITE, 21);
    assert_eq!(soon(&mut story, later), Err(Error::NotReady));
    story.rig.wake_up(MemberIndex(0));
    settle(&mut story);
    assert_eq!(answer(&mut story, write), Some(Err(Error::NotReady)), "never into success");
    assert!(story.rig.store.is_idle());
    let mut story = Story::open(story.rig.disks, 4, OpenOptions::WHOLE);
    assert_eq!(story.read(volumes[0], 3), Ok(7));
}

#[test]
fn with_a_second_copy_the_pool_goes_on_without_the_one_that_does_not_answer() {
    for hanging in 0..2_u16 {
        let (mut story, volumes) = story(2);
        let volume = volumes[usize::from(1 - hanging)];
        let hanging = MemberIndex(hanging);
        story.rig.hang(hanging);
        story.write(volume, 20, 1, 8).expect("one copy is enough");
        story.flush(volume).expect("likewise");
        assert_eq!(story.rig.store.health(), degraded(&[hanging], &[], &[hanging]));
        let write = submit(&mut story, volume, WRITE, 30);
        assert_eq!(soon(&mut story, write), Ok(()), "nothing waits for it any more");
        story.rig.wake_up(hanging);
        settle(&mut story);
        assert_eq!(story.rig.store.health(), degraded(&[hanging], &[], &[]));
        assert!(story.rig.store.is_idle());
        story.write(volume, 40, 1, 9).expect("one copy is enough");
        let disks = story.rig.disks;
        match Rig::open(disks.clone(), OpenOptions::WHOLE) {
            Ok(_) => panic!("the stale member was taken"),
            Err(refused) => assert!(matches!(refused.0, OpenError::Stale { .. })),
        }
        let mut story = Story::open(disks, 4, OpenOptions::DEGRADED);
        assert_eq!((story.read(volume, 20), story.read(volume, 40)), (Ok(8), Ok(9)));
    }
}

#[test]
fn a_copy_that_is_lost_does_not_end_a_flush_of_data_on_its_member() {
    let (mut story, volumes) = story(2);
    story.write(volumes[1], 5, 1, 8).expect("in place");
    story.rig.hang(MemberIndex(1));
    let write = submit(&mut story, volumes[0], WRITE, 20);
    while story.rig.has_io() {
        story.rig.step(&mut story.random);
    }
    story.rig.now = story.rig.now + Duration::from_secs(1);
    let flush = submit(&mut story, volumes[1], Operation::Flush, 0);
    settle(&mut story);
    assert_eq!(answer(&mut story, write), Some(Ok(())));
    assert_eq!(answer(&mut story, flush), Some(Err(Error::WriteFault)));
}

#[test]
fn when_no_copy_answers_the_pool_stops() {
    let (mut story, volumes) = story(2);
    story.rig.hang(MemberIndex(0));
    story.rig.hang(MemberIndex(1));
    let write = submit(&mut story, volumes[0], WRITE, 20);
    settle(&mut story);
    assert!(matches!(story.rig.store.health(), Health::Failed { .. }));
    assert_eq!(answer(&mut story, write), None);
    story.rig.wake_up(MemberIndex(0));
    story.rig.wake_up(MemberIndex(1));
    settle(&mut story);
    assert_eq!(answer(&mut story, write), Some(Err(Error::NotReady)));
    assert!(story.rig.store.is_idle());
}

#[test]
fn an_answer_within_the_deadline_is_no_failure() {
    let (mut story, volumes) = story(2);
    story.rig.hang(MemberIndex(1));
    let write = submit(&mut story, volumes[0], Operation::Write { fua: true }, 20);
    while story.rig.has_io() {
        story.rig.step(&mut story.random);
    }
    story.rig.now = story.rig.now + (IO_DEADLINE - Duration::from_millis(1));
    story.rig.pump();
    assert_eq!(story.rig.store.health(), Health::Good);
    story.rig.wake_up(MemberIndex(1));
    assert_eq!(soon(&mut story, write), Ok(()));
    settle(&mut story);
    assert_eq!(story.rig.store.health(), Health::Good);
}

#[test]
fn the_deadline_is_what_the_pool_was_opened_with() {
    let (story, volumes) = story(1);
    let deadline = Duration::from_secs(3);
    let options = OpenOptions { deadline, ..OpenOptions::WHOLE };
    let mut story = Story::open(story.rig.disks, 4, options);
    settle(&mut story);
    story.rig.now = Monotonic(u64::MAX / 2);
    story.rig.hang(MemberIndex(0));
    let begin = story.rig.now;
    submit(&mut story, volumes[0], WRITE, 20);
    settle(&mut story);
    let took = story.rig.now.since(begin);
    assert!((deadline..deadline + Duration::from_millis(1)).contains(&took), "{took:?}");
    assert!(matches!(story.rig.store.health(), Health::Failed { .. }));
}

#[test]
fn a_data_member_that_never_answers_a_flush_is_given_up_and_others_go_on() {
    let (mut story, volumes) = story(3);
    story.write(volumes[2], 5, 1, 8).expect("in place");
    story.rig.hang(LAST);
    let flush = submit(&mut story, volumes[2], Operation::Flush, 0);
    for volume in [volumes[0], volumes[1]] {
        for operation in [WRITE, Operation::Flush, Operation::Read] {
            let id = submit(&mut story, volume, operation, 20);
            assert_eq!(soon(&mut story, id), Ok(()), "{operation:?}");
        }
    }
    assert_eq!(story.rig.store.health(), Health::Good, "not yet");
    settle(&mut story);
    assert_eq!(answer(&mut story, flush), Some(Err(Error::WriteFault)));
    assert_eq!(story.rig.store.health(), degraded(&[], &[LAST], &[LAST]));
    assert_eq!(story.write(volumes[0], 30, 1, 9), Ok(()));
    assert_eq!(story.flush(volumes[1]), Ok(()));
    assert_eq!(story.flush(volumes[2]), Err(Error::NotReady));
    story.rig.wake_up(LAST);
    settle(&mut story);
    assert_eq!(story.flush(volumes[2]), Err(Error::NotReady), "a late answer changes nothing");
    assert_eq!(story.rig.store.health(), degraded(&[], &[LAST], &[]));
    assert!(story.rig.store.is_idle());
}

#[test]
fn data_has_no_deadline_but_the_health_names_the_member() {
    let (mut story, volumes) = story(3);
    story.rig.hang(LAST);
    for operation in [Operation::Read, WRITE] {
        let id = submit(&mut story, volumes[2], operation, 3);
        settle(&mut story);
        assert_eq!(story.rig.store.health(), degraded(&[], &[], &[LAST]));
        assert!(story.rig.store.is_late(LAST) && !story.rig.store.is_late(MemberIndex(0)));
        story.rig.now = story.rig.now + Duration::from_secs(3600);
        settle(&mut story);
        assert_eq!(answer(&mut story, id), None);
        let other = submit(&mut story, volumes[1], Operation::Flush, 0);
        assert_eq!(soon(&mut story, other), Ok(()));
        story.rig.wake_up(LAST);
        settle(&mut story);
        assert_eq!(answer(&mut story, id), Some(Ok(())));
        assert_eq!(story.rig.store.health(), Health::Good);
        story.rig.hang(LAST);
    }
}

/// Keeps writing new blocks to the first volume until `LAST` has been given up.
fn until_given_up(story: &mut Story, volume: ObjectId) {
    for round in 0..400 {
        let write = submit(story, volume, WRITE, round % 200);
        let flush = submit(story, volume, Operation::Flush, 0);
        let trim = submit(story, volume, Operation::WriteZeroes, round % 200);
        settle(story);
        let answers = [write, flush, trim].map(|id| answer(story, id));
        match story.rig.store.health() {
            Health::Degraded { gone, .. } if gone.is_empty() => {
                assert_eq!(answers, [Some(Ok(())); 3]);
            }
            _ => return,
        }
    }
    panic!("the log was written many times over, and no checkpoint can end");
}

#[test]
fn a_write_that_never_ends_holds_up_the_log_no_longer_than_the_deadline() {
    let (mut story, volumes) = story(3);
    story.rig.hang(LAST);
    let hanging = submit(&mut story, volumes[2], WRITE, 100);
    until_given_up(&mut story, volumes[0]);
    assert_eq!(story.rig.store.health(), degraded(&[], &[LAST], &[LAST]));
    let write = submit(&mut story, volumes[1], WRITE, 20);
    assert_eq!(soon(&mut story, write), Ok(()), "the others go on");
    story.rig.wake_up(LAST);
    settle(&mut story);
    assert_eq!(answer(&mut story, hanging), Some(Ok(())), "it was written, and may be lost");
    assert_eq!(story.flush(volumes[2]), Err(Error::NotReady));
    assert!(story.rig.store.is_idle());
}

#[test]
fn a_flush_that_an_overwrite_holds_up_fails_at_the_deadline() {
    let (mut story, volumes) = story(3);
    story.write(volumes[2], 100, 1, 8).expect("not settled");
    story.rig.hang(LAST);
    let overwrite = submit(&mut story, volumes[2], WRITE, 100);
    while story.rig.has_io() {
        story.rig.step(&mut story.random);
    }
    let flush = submit(&mut story, volumes[2], Operation::Flush, 0);
    settle(&mut story);
    assert!(answer(&mut story, flush).expect("it is answered").is_err());
    assert_eq!(story.rig.store.health(), degraded(&[], &[LAST], &[LAST]));
    story.rig.wake_up(LAST);
    settle(&mut story);
    assert!(answer(&mut story, overwrite).is_some());
    assert!(story.rig.store.is_idle());
}

#[test]
fn a_checkpoint_that_is_not_written_in_time_costs_the_copy() {
    let (mut story, volumes) = story(2);
    let slots = METADATA..METADATA + 2 * SLOT_BYTES;
    let of_checkpoint = |io: &MemberIo| {
        let write = matches!(io.kind, IoKind::Write { .. });
        io.member == MemberIndex(1) && write && slots.contains(&io.offset.0)
    };
    for round in 0..100 {
        submit(&mut story, volumes[0], WRITE, round);
        submit(&mut story, volumes[0], Operation::WriteZeroes, round);
        while story.rig.run_one(|io| !of_checkpoint(io)) {}
    }
    assert!(story.rig.has_io(), "a checkpoint is under way");
    story.rig.now = story.rig.now + IO_DEADLINE;
    story.rig.pump();
    while story.rig.run_one(|io| !of_checkpoint(io)) {}
    let one = MemberIndex(1);
    assert_eq!(story.rig.store.health(), degraded(&[one], &[], &[one]));
    settle(&mut story);
    assert_eq!(story.rig.store.health(), degraded(&[one], &[], &[]));
    assert!(story.rig.store.is_idle());
    let mut story = Story::open(story.rig.disks, 4, OpenOptions::DEGRADED);
    assert_eq!(story.read(volumes[0], 15), Ok(0));
}
