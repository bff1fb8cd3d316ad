//! Pools that grow while they are used: larger members, new members, copies that join.

use fathom_block::Error;
use fathom_lvs::{
    Content, Failed, Health, IO_DEADLINE, IoKind, MemberIo, MemberRefused, OpenError, OpenOptions,
    Refused,
    format::label::{MemberRole, MemberState},
    geometry::{MemberIndex, ObjectId},
};
use fathom_test_sim::{
    pool::{CLUSTER, METADATA, SLOT_BYTES, Shape, Story, new_volume},
    rig::{Disks, Event, Rig},
};
use fathom_test_support::{
    disk::{Cut, SimulatedDisk, Unwritten},
    random::Random,
};
use uuid::Uuid;

const LOG_BYTES: u64 = 128 << 10;
const WHOLE: OpenOptions = OpenOptions::WHOLE;
const DEGRADED: OpenOptions = OpenOptions::DEGRADED;
const ONE: MemberIndex = MemberIndex(1);
const NEW: Uuid = Uuid::from_u128(0xFEED);
const CLUSTERS: u64 = 16;

/// A pool with a volume of 4 MiB, thin, of which the first block is 0xA1 on stable media.
fn story(members: u64) -> (Story, ObjectId) {
    let shape = Shape { members, log_bytes: LOG_BYTES, clusters: CLUSTERS };
    let mut story = Story::new(3, shape);
    let volume = story.create_volume(new_volume(0x100, 4 << 20, 4096));
    story.write_through(volume, 0, 1, 0xA1).expect("healthy disks");
    (story, volume)
}

/// A disk with room for metadata and so many clusters.
fn disk(clusters: u64, unwritten: Unwritten) -> SimulatedDisk {
    let bytes = METADATA + 2 * SLOT_BYTES + LOG_BYTES + (clusters + 1) * CLUSTER;
    SimulatedDisk::new(bytes, unwritten, 77)
}

fn add(story: &mut Story, disk: SimulatedDisk, force: bool) -> Result<(), Refused> {
    story.rig.disks.0.push(disk);
    let slot = story.rig.disks.0.len() - 1;
    story.rig.add_member(slot, NEW, force).map(drop)
}

fn free_clusters(story: &Story) -> u64 {
    story.rig.store.capacity().free.0 / CLUSTER
}

/// Writes a block of as many clusters as there are free; the next one finds the pool full.
fn fill(story: &mut Story, volume: ObjectId, fill: u8) -> u64 {
    let free = free_clusters(story);
    for cluster in 1..=free {
        assert_eq!(story.write(volume, cluster * 16, 1, fill), Ok(()), "cluster {cluster}");
    }
    assert_eq!(story.write(volume, (free + 1) * 16, 1, fill), Err(Error::CapacityExceeded));
    free
}

fn assert_filled(story: &mut Story, volume: ObjectId, clusters: u64, fill: u8) {
    assert_eq!(story.read(volume, 0), Ok(0xA1));
    for cluster in 1..=clusters {
        assert_eq!(story.read(volume, cluster * 16), Ok(fill), "cluster {cluster}");
    }
}

#[test]
fn a_member_that_has_grown_gives_its_new_clusters_to_the_pool() {
    let (mut story, volume) = story(1);
    let before = free_clusters(&story);
    let disk = &mut story.rig.disks.0[0];
    disk.grow(disk.capacity() + 5 * CLUSTER);
    story.rig.grow_member(MemberIndex(0)).expect("it has grown");
    story.done().expect("a healthy disk");
    assert!(free_clusters(&story) >= before + 5);
    // The clusters lie where the last label copy was, too.
    let written = fill(&mut story, volume, 0x66);
    story.flush(volume).expect("a healthy disk");
    let mut disks = story.rig.disks;
    disks.power_cut(&mut Random::new(1), Cut::LoseAll);
    let mut story = Story::open(disks, 4, WHOLE);
    assert_filled(&mut story, volume, written, 0x66);
    story.rig.grow_member(MemberIndex(0)).expect("the same again");
    assert_eq!(story.done(), Ok(()));
    assert_eq!(free_clusters(&story), 0);
}

#[test]
fn a_new_member_gives_its_clusters_to_the_pool() {
    let (mut story, volume) = story(2);
    let (free, physical) = (free_clusters(&story), story.rig.store.capacity().physical.0);
    add(&mut story, disk(9, Unwritten::Zero), false).expect("it is empty");
    story.done().expect("healthy disks");
    let more = (story.rig.store.capacity().physical.0 - physical) / CLUSTER;
    assert!(more >= 9, "a member without metadata has more room for clusters");
    assert_eq!(free_clusters(&story), free + more);
    let entry = story.rig.store.member_table()[2];
    assert_eq!((entry.role, entry.state), (MemberRole::Data, MemberState::InSync));
    assert_eq!(story.rig.store.health(), Health::Good);
    let written = fill(&mut story, volume, 0x66);
    story.flush(volume).expect("healthy disks");
    let mut story = Story::open(story.rig.disks, 4, WHOLE);
    assert_filled(&mut story, volume, written, 0x66);
    let mut disks = story.rig.disks;
    disks.0.pop();
    let refused = Rig::open(disks, WHOLE).err().expect("a member is missing").0;
    assert!(matches!(refused, OpenError::Missing { .. }), "{refused}");
}

#[test]
fn over_commit_and_watermarks_follow_the_pool() {
    let (mut story, volume) = story(2);
    let mut record = story.rig.store.pool().clone();
    (record.overcommit_percent, record.watermark_high_percent) = (300, 50);
    story.rig.store.update_pool(record).expect("allowed");
    story.done().expect("healthy disks");
    for cluster in 1..CLUSTERS + 4 {
        story.write(volume, cluster * 16, 1, 1).expect("there is room");
    }
    assert!(story.rig.store.fill().above_high_watermark);
    let large = || new_volume(0x200, 8 << 20, 4096);
    let refused = story.rig.store.create_volume(large());
    assert!(matches!(refused, Err(Refused::Overcommitted { .. })), "{refused:?}");
    add(&mut story, disk(4 * CLUSTERS, Unwritten::Zero), false).expect("it is empty");
    story.done().expect("healthy disks");
    assert!(!story.rig.store.fill().above_high_watermark);
    story.create_volume(large());
}

#[test]
fn the_second_member_of_a_pool_gets_a_whole_copy_of_the_metadata() {
    let (mut story, volume) = story(1);
    add(&mut story, disk(9, Unwritten::Garbage), true).expect("forced");
    // Writes go on meanwhile.
    for block in 1..40 {
        story.rig.submit(
            volume,
            fathom_block::Operation::Write { fua: false },
            block,
            1,
            vec![0xB1; 4096],
        );
        story.rig.pump();
    }
    story.done().expect("healthy disks");
    assert_eq!(story.rig.store.health(), Health::Good);
    story.flush(volume).expect("healthy disks");
    for block in 40..60 {
        story.write_through(volume, block, 1, 0xC1).expect("healthy disks");
    }
    for missing in 0..2 {
        let mut disks = story.rig.disks.clone();
        disks.power_cut(&mut Random::new(1), Cut::LoseAll);
        disks.0.remove(missing);
        let mut story = Story::open(disks, 4, DEGRADED);
        let found = [0, 5, 45].map(|block| story.read(volume, block));
        let there = [Ok(0xA1), Ok(0xB1), Ok(0xC1)];
        let gone = [Err(Error::NotReady); 3];
        assert!([there, gone].contains(&found), "without {missing}: {found:?}");
    }
}

/// A stale second copy, as a failed write of its log leaves it.
fn stale(members: u64) -> (Story, ObjectId) {
    let (mut story, volume) = story(members);
    let log = METADATA + 2 * SLOT_BYTES;
    story.rig.disks.0[1].fail_writes(log..log + LOG_BYTES);
    story.write_through(volume, 20, 1, 0xB1).expect("one copy is enough");
    let Health::Degraded { stale, .. } = story.rig.store.health() else { panic!("it is stale") };
    assert_eq!(stale, [ONE]);
    story.rig.disks.0[1].clear_faults();
    (story, volume)
}

#[test]
fn a_stale_copy_joins_again_in_the_same_life_and_after_opening() {
    for reopen in [false, true] {
        let (mut story, volume) = stale(2);
        if reopen {
            story = Story::open(story.rig.disks, 4, DEGRADED);
        }
        story.rig.rejoin_member(ONE).expect("it is there");
        story.done().expect("healthy disks");
        assert_eq!(story.rig.store.health(), Health::Good);
        story.write_through(volume, 21, 1, 0xB2).expect("healthy disks");
        let mut disks = story.rig.disks;
        disks.power_cut(&mut Random::new(1), Cut::LoseAll);
        assert_eq!(Story::open(disks.clone(), 4, WHOLE).read(volume, 20), Ok(0xB1));
        let alone = Disks(vec![disks.0[1].clone()]);
        assert_eq!(Story::open(alone, 4, DEGRADED).rig.store.volumes().count(), 1);
    }
}

#[test]
fn a_member_that_still_owes_an_answer_does_not_join() {
    let (mut story, volume) = story(2);
    story.rig.hang(ONE);
    story.write(volume, 20, 1, 0xB1).expect("one copy is enough");
    let refused = story.rig.rejoin_member(ONE);
    assert_eq!(refused, Err(Refused::Member(MemberRefused::Late(ONE))));
    story.rig.wake_up(ONE);
    story.rig.settle(&mut story.random);
    story.rig.rejoin_member(ONE).expect("it has answered");
    story.done().expect("healthy disks");
    assert_eq!(story.rig.store.health(), Health::Good);
    Story::open(story.rig.disks, 4, WHOLE);
}

#[test]
fn a_copy_that_fails_while_it_joins_costs_the_call_and_nothing_else() {
    let (mut story, volume) = stale(2);
    story.rig.disks.0[1].fail_writes(METADATA..METADATA + 2 * SLOT_BYTES + LOG_BYTES);
    story.rig.rejoin_member(ONE).expect("it is there");
    assert!(matches!(story.done(), Err(Failed::Device(_))));
    story.write_through(volume, 22, 1, 0xB3).expect("one copy is enough");
    story.rig.disks.0[1].clear_faults();
    // What is written while it joins, but for the zeros.
    story.rig.rejoin_member(ONE).expect("it is there");
    story.rig.pump();
    while story.rig.store.health() != Health::Good && story.rig.has_io() {
        let log = METADATA + 2 * SLOT_BYTES;
        if story.rig.under_way(|io| io.member == ONE && in_slots(io)) > 0 {
            story.rig.disks.0[1].fail_writes(METADATA..log);
        }
        story.rig.step(&mut story.random);
    }
    assert!(matches!(story.done(), Err(Failed::Device(_))));
    assert!(matches!(story.rig.store.health(), Health::Degraded { .. }));
    story.write_through(volume, 23, 1, 0xB4).expect("one copy is enough");
    story.rig.disks.0[1].clear_faults();
    let mut story = Story::open(story.rig.disks, 4, DEGRADED);
    assert_eq!((story.read(volume, 22), story.read(volume, 23)), (Ok(0xB3), Ok(0xB4)));
}

/// Whether an I/O writes chunks of a checkpoint.
fn in_slots(io: &MemberIo) -> bool {
    let chunks =
        |slot: u64| METADATA + slot * SLOT_BYTES + 4096..METADATA + (slot + 1) * SLOT_BYTES;
    matches!(io.kind, IoKind::Write { .. })
        && (chunks(0).contains(&io.offset.0) || chunks(1).contains(&io.offset.0))
}

#[test]
fn what_cannot_be_a_member_is_refused_with_the_reason() {
    let refusal = |story: &mut Story, disk: SimulatedDisk, force: bool| {
        let refused = add(story, disk, force);
        story.rig.disks.0.pop();
        match refused {
            Err(Refused::Member(refused)) => refused,
            other => panic!("{other:?}"),
        }
    };
    let (mut pool, _) = story(2);
    let foreign = refusal(&mut pool, disk(9, Unwritten::Garbage), false);
    assert_eq!(foreign, MemberRefused::Foreign { offset: 0, what: None });
    let (other, _) = story(1);
    let other = other.rig.disks.0[0].clone();
    let labelled = refusal(&mut pool, other.clone(), false);
    assert!(matches!(labelled, MemberRefused::Labelled { .. }), "{labelled}");
    let own = pool.rig.disks.0[1].clone();
    let labelled = refusal(&mut pool, own, false);
    assert!(matches!(labelled, MemberRefused::Labelled { .. }), "{labelled}");
    let small = SimulatedDisk::new(METADATA + CLUSTER, Unwritten::Zero, 1);
    let small = refusal(&mut pool, small, false);
    assert_eq!(
        small,
        MemberRefused::TooSmall {
            size: fathom_units::ByteCount(METADATA + CLUSTER),
            needed: fathom_units::ByteCount(METADATA + CLUSTER + 4096),
        }
    );
    let shrinks = pool.rig.store.grow_member(ONE, METADATA);
    assert!(matches!(shrinks, Err(Refused::Member(MemberRefused::Shrinks { .. }))), "{shrinks:?}");
    assert_eq!(
        pool.rig.store.grow_member(MemberIndex(7), 0),
        Err(Refused::NoMember(MemberIndex(7)))
    );
    add(&mut pool, other, true).expect("forced");
    let busy = pool.rig.grow_member(ONE);
    assert_eq!(busy, Err(Refused::Member(MemberRefused::Busy)));
    pool.done().expect("healthy disks");
    Story::open(pool.rig.disks, 4, WHOLE);
}

#[test]
fn a_log_that_is_too_short_for_one_more_member_refuses_it() {
    let least = Shape { members: 1, log_bytes: (64 << 10) + (16 << 10), clusters: CLUSTERS };
    let mut story = Story::new(3, least);
    let refused = add(&mut story, disk(9, Unwritten::Zero), false);
    let Err(Refused::Member(MemberRefused::LogTooSmall { needed, .. })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(needed.0, (64 << 10) + 2 * (16 << 10));
}

#[test]
fn a_pool_has_sixteen_members_at_most() {
    let shape = Shape { members: 16, log_bytes: 1 << 20, clusters: 4 };
    let mut story = Story::new(3, shape);
    let refused = add(&mut story, disk(9, Unwritten::Zero), false);
    assert_eq!(refused, Err(Refused::Member(MemberRefused::TooMany)));
}

#[test]
fn a_pool_with_a_member_missing_does_not_grow() {
    let (mut story, _) = story(3);
    story.rig.disks.0.pop();
    let mut story = Story::open(story.rig.disks, 4, DEGRADED);
    let refused = add(&mut story, disk(9, Unwritten::Zero), false);
    assert_eq!(refused, Err(Refused::Member(MemberRefused::NotWhole(MemberIndex(2)))));
    let refused = story.rig.grow_member(ONE);
    assert_eq!(refused, Err(Refused::Member(MemberRefused::NotWhole(MemberIndex(2)))));
}

#[test]
fn a_label_that_is_late_is_not_followed_by_a_newer_one() {
    let (mut story, volume) = story(2);
    let labels = [0, 512 << 10];
    let disk = &mut story.rig.disks.0[0];
    disk.grow(disk.capacity() + CLUSTER);
    story.rig.grow_member(MemberIndex(0)).expect("it has grown");
    story.rig.pump();
    // The second member does not answer the first write of its label.
    story.rig.hang(ONE);
    story.rig.settle(&mut story.random);
    assert_eq!(story.done(), Ok(()), "the other copy knows of it, and of the second one");
    let Health::Degraded { stale, late, .. } = story.rig.store.health() else { panic!("stale") };
    assert_eq!((stale, late), (vec![ONE], vec![ONE]));
    story.write(volume, 20, 1, 0xB1).expect("one copy is enough");
    story.rig.wake_up(ONE);
    let of_label = |io: &MemberIo| io.member == ONE && labels.contains(&io.offset.0);
    assert_eq!(story.rig.under_way(of_label), 1, "the one that is late, and no other");
    story.rig.settle(&mut story.random);
    let refused = story.rig.grow_member(MemberIndex(0));
    assert_eq!(refused, Err(Refused::Member(MemberRefused::NotWhole(ONE))), "until it is opened");
    let mut story = Story::open(story.rig.disks, 4, DEGRADED);
    assert_eq!(story.read(volume, 20), Ok(0xB1));
    assert!(story.rig.now.since(fathom_units::Monotonic(0)) < IO_DEADLINE);
}

/// Runs a call to its end on `begin`, with a crash before each of its I/Os, in several ways. Opens
/// what each leaves and makes the call again.
fn crash_at_every_point(
    begin: impl Fn() -> (Story, ObjectId),
    call: impl Fn(&mut Story),
    whole: impl Fn(&mut Story),
) {
    let (mut story, volume) = begin();
    call(&mut story);
    story.rig.pump();
    let mut points = 0;
    while story.rig.has_io() {
        for seed in 0..4 {
            let mut random = Random::new(points * 4 + seed);
            let cut = *random.pick(&Cut::ALL);
            let disks = story.rig.crash(&mut random, (seed > 0).then_some(cut));
            let mut again = reopened(disks, &mut random);
            assert_eq!(again.read(volume, 0), Ok(0xA1));
            call(&mut again);
            assert_eq!(again.done(), Ok(()), "point {points}, again");
            whole(&mut again);
            let mut again = Story::open(again.rig.disks, 6, WHOLE);
            assert_eq!(again.read(volume, 0), Ok(0xA1));
            whole(&mut again);
        }
        story.rig.step(&mut story.random);
        points += 1;
    }
    assert!(points > 20, "only {points} points");
    assert_eq!(story.done(), Ok(()));
    whole(&mut story);
}

/// Opens what a crash left, as somebody does who looks for labels: a disk without one is set aside,
/// and put back for the next call.
fn reopened(mut disks: Disks, random: &mut Random) -> Story {
    let mut aside = set_aside(&mut disks);
    // The first time, power may be lost again.
    let victim = usize::try_from(random.below(disks.0.len() as u64)).expect("few");
    disks.0[victim].die_after(random.below(200));
    let mut disks = match Rig::open(disks, WHOLE) {
        Ok(rig) => rig.disks,
        Err(failed) => failed.1,
    };
    disks.power_cut(random, Cut::EachWrite);
    aside.extend(set_aside(&mut disks));
    let mut story = Story::open(disks, 5, WHOLE);
    story.rig.disks.0.extend(aside);
    story
}

/// The last disk, if it has no label.
fn set_aside(disks: &mut Disks) -> Vec<SimulatedDisk> {
    let last = disks.0.len() - 1;
    let content = fathom_lvs::inspect(disks, last).expect("a healthy disk").content;
    let labelled = matches!(content, Content::Label(_));
    if labelled { Vec::new() } else { disks.0.pop().into_iter().collect() }
}

#[test]
fn a_crash_at_any_point_of_enlarging_a_member_is_mended_by_calling_again() {
    for member in [0, 2] {
        let grown = || {
            let (mut story, volume) = story(3);
            let disk = &mut story.rig.disks.0[usize::from(member)];
            disk.grow(disk.capacity() + 3 * CLUSTER);
            (story, volume)
        };
        let (before, _) = story(3);
        let before = before.rig.store.capacity().physical.0;
        crash_at_every_point(
            grown,
            |story| {
                story.rig.grow_member(MemberIndex(member)).expect("it has grown");
            },
            |story| assert!(story.rig.store.capacity().physical.0 >= before + 3 * CLUSTER),
        );
    }
}

#[test]
fn what_a_crash_left_of_the_first_label_does_not_make_a_device_foreign() {
    let (mut story, _) = story(2);
    add(&mut story, disk(9, Unwritten::Zero), false).expect("it is empty");
    story.rig.pump();
    assert!(story.rig.run_one(|io| io.member == MemberIndex(2)), "its first label");
    let mut torn = 0;
    for seed in 0..64 {
        let mut random = Random::new(seed);
        let mut disks = story.rig.crash(&mut random, Some(Cut::EachSector));
        let aside = set_aside(&mut disks);
        torn += usize::from(aside.iter().any(|disk| {
            let mut bytes = [0; 4096];
            disk.clone().read(0, &mut bytes).expect("a healthy disk");
            bytes.iter().any(|&byte| byte != 0)
        }));
        let mut again = Story::open(disks, 5, WHOLE);
        again.rig.disks.0.extend(aside);
        let slot = again.rig.disks.0.len() - 1;
        again.rig.add_member(slot, NEW, false).expect("there is nothing else on it");
        assert_eq!(again.done(), Ok(()));
    }
    assert!(torn > 16, "{torn} labels are torn");
    let mut disks = story.rig.crash(&mut Random::new(1), None);
    disks.0[2].write(8192, &[7; 4096], true).expect("a healthy disk");
    disks.0[2].write(0, &[0; 512], true).expect("a healthy disk");
    let aside = set_aside(&mut disks);
    let mut again = Story::open(disks, 5, WHOLE);
    again.rig.disks.0.extend(aside);
    let foreign = again.rig.add_member(2, NEW, false);
    assert!(matches!(foreign, Err(Refused::Member(MemberRefused::Foreign { .. }))), "{foreign:?}");
}

#[test]
fn a_crash_at_any_point_of_adding_a_member_is_mended_by_calling_again() {
    for (members, force) in [(1, false), (1, true), (2, false), (2, true)] {
        let unwritten = if force { Unwritten::Garbage } else { Unwritten::Zero };
        let begin = || {
            let (mut story, volume) = story(members);
            story.rig.disks.0.push(disk(9, unwritten));
            (story, volume)
        };
        crash_at_every_point(
            begin,
            |story| {
                let slot = story.rig.disks.0.len() - 1;
                story.rig.add_member(slot, NEW, force).expect("it is empty, or forced");
            },
            |story| {
                assert_eq!(story.rig.store.health(), Health::Good);
                assert_eq!(story.rig.store.member_table().len() as u64, members + 1);
                let capacity = story.rig.store.capacity().physical.0;
                assert!(capacity >= (members * CLUSTERS + 9) * CLUSTER);
            },
        );
    }
}

/// Makes a call on what `begin` gives, and lets a member hang from before its `point`th step on.
/// What is acknowledged then is there after a crash of either kind. Returns whether there was such
/// a step.
fn hang_at(
    begin: &dyn Fn() -> (Story, ObjectId),
    call: &dyn Fn(&mut Story),
    point: u64,
    victim: MemberIndex,
) -> bool {
    let (mut story, volume) = begin();
    call(&mut story);
    story.rig.pump();
    for _ in 0..point {
        if !story.rig.has_io() {
            return false;
        }
        story.rig.step(&mut story.random);
    }
    story.rig.hang(victim);
    story.rig.settle(&mut story.random);
    let write = story.rig.submit(
        volume,
        fathom_block::Operation::Write { fua: true },
        40,
        1,
        vec![0xB1; 4096],
    );
    story.rig.pump();
    story.rig.settle(&mut story.random);
    let acknowledged = story.rig.events.iter().any(|event| match event {
        Event::Completed(id, result, _) => *id == write && result.is_ok(),
        Event::Done(..) => false,
    });
    for seed in 0..3 {
        let mut random = Random::new(seed);
        let cut = (seed > 0).then(|| *random.pick(&Cut::ALL));
        let mut disks = story.rig.crash(&mut random, cut);
        set_aside(&mut disks);
        let mut story = Story::open(disks, 5, DEGRADED);
        assert_eq!(story.read(volume, 0), Ok(0xA1), "point {point}, {victim:?}");
        let found = story.read(volume, 40).expect("healthy disks");
        assert!(found == 0xB1 || !acknowledged && found == 0, "point {point}, {victim:?}: {found}");
        story.rig.settle(&mut story.random);
        assert!(!matches!(story.rig.store.health(), Health::Failed { .. }));
    }
    true
}

#[test]
fn a_member_that_hangs_at_any_point_of_a_change_of_members_loses_nothing() {
    let newcomer = |members| {
        move || {
            let (mut story, volume) = story(members);
            story.rig.disks.0.push(disk(9, Unwritten::Zero));
            (story, volume)
        }
    };
    let addition = |story: &mut Story| {
        let slot = story.rig.disks.0.len() - 1;
        story.rig.add_member(slot, NEW, false).expect("it is empty");
    };
    let rejoin = |story: &mut Story| {
        story.rig.rejoin_member(ONE).expect("it is there");
    };
    let larger = || {
        let (mut story, volume) = story(3);
        let disk = &mut story.rig.disks.0[1];
        disk.grow(disk.capacity() + 3 * CLUSTER);
        (story, volume)
    };
    let enlarge = |story: &mut Story| {
        story.rig.grow_member(ONE).expect("it has grown");
    };
    let stale = || stale(2);
    type Begin<'a> = &'a dyn Fn() -> (Story, ObjectId);
    type Call<'a> = &'a dyn Fn(&mut Story);
    let (one, two) = (newcomer(1), newcomer(2));
    let changes: [(Begin<'_>, Call<'_>, u16); 4] =
        [(&one, &addition, 2), (&two, &addition, 3), (&stale, &rejoin, 2), (&larger, &enlarge, 3)];
    for (begin, call, members) in changes {
        for victim in (0..members).map(MemberIndex) {
            let points = (0..).take_while(|&point| hang_at(begin, call, point, victim)).count();
            assert!(points > 20, "only {points} points");
        }
    }
}
