//! What opening makes of crashes and of metadata that cannot be read: right, or refused.

use fathom_block::Operation;
use fathom_lvs::{MemberIo, OpenError, OpenOptions, geometry::ObjectId};
use fathom_test_sim::{
    pool::{METADATA, SLOT_BYTES, Shape, Story, new_volume},
    rig::{Disks, Rig},
};
use fathom_test_support::{disk::Cut, random::Random};

const LOG: u64 = METADATA + 2 * SLOT_BYTES;
const SMALL_LOG: u64 = 96 << 10;
const WHOLE: OpenOptions = OpenOptions::WHOLE;
const DEGRADED: OpenOptions = OpenOptions::DEGRADED;
const VOLUME: u128 = 0x100;

/// A pool with a volume of 2 MiB.
fn story(members: u64, log_bytes: u64) -> (Story, ObjectId) {
    let mut story = Story::new(7, Shape { members, log_bytes, clusters: 64 });
    let volume = story.create_volume(new_volume(VOLUME, 2 << 20, 4096));
    (story, volume)
}

/// Loses power in `cuts` different ways, and gives what a block then reads as.
fn after_power_cuts(story: &Story, cuts: u64, volume: ObjectId, lba: u64) -> Vec<u8> {
    let mut random = Random::new(cuts);
    let one = |_| {
        let mut disks = story.rig.disks.clone();
        disks.power_cut(&mut random, Cut::EachWrite);
        let mut story = Story::open(disks, 1, WHOLE);
        story.read(volume, lba).expect("a healthy disk")
    };
    (0..cuts).map(one).collect()
}

/// The generation of the checkpoint in slot 0 or 1 of member 0, 0 without one.
fn generation(disks: &Disks, slot: u64) -> u64 {
    generation_in(disks, 0, slot)
}

/// The newest generation of a checkpoint header on a disk.
fn generation_on(disks: &Disks, disk: usize) -> u64 {
    generation_in(disks, disk, 0).max(generation_in(disks, disk, 1))
}

fn generation_in(disks: &Disks, disk: usize, slot: u64) -> u64 {
    let mut header = vec![0; 4096];
    let mut disk = disks.0[disk].clone();
    disk.read(METADATA + slot * SLOT_BYTES, &mut header).expect("a healthy disk");
    if !header.starts_with(b"FCP1") {
        return 0;
    }
    u64::from_le_bytes(header[16..24].try_into().expect("8 bytes"))
}

fn newest_generation(disks: &Disks) -> u64 {
    generation(disks, 0).max(generation(disks, 1))
}

/// Opens after the header of the newest checkpoint was damaged; `None` when that is refused.
fn without_newest_checkpoint(mut disks: Disks) -> Option<Story> {
    let slot = u64::from(generation(&disks, 1) > generation(&disks, 0));
    disks.0[0].flip_bit(METADATA + slot * SLOT_BYTES + 100, 3);
    match Rig::open(disks, WHOLE) {
        Ok(rig) => Some(Story { rig, random: Random::new(1) }),
        Err(failed) => {
            assert!(matches!(failed.0, OpenError::Damaged { .. }), "{}", failed.0);
            None
        }
    }
}

#[test]
fn a_neighbour_that_was_taken_back_leaves_acknowledged_data_provable() {
    let (mut story, volume) = story(1, SMALL_LOG);
    story.write(volume, 0, 1, 0xA1).expect("a healthy disk");
    story.rig.disks.0[0].fail_writes(LOG + SMALL_LOG..u64::MAX);
    story.write(volume, 1, 1, 0xB1).expect_err("its data cannot be written");
    story.rig.disks.0[0].clear_faults();
    for found in after_power_cuts(&story, 200, volume, 0) {
        assert!([0, 0xA1].contains(&found), "{found:#x}");
    }
}

#[test]
fn a_write_after_a_trim_never_shows_what_a_flushed_write_replaced() {
    let (mut story, volume) = story(1, SMALL_LOG);
    story.write_through(volume, 0, 2, 0x11).expect("a healthy disk");
    story.create_snapshot(volume, 1);
    story.flush(volume).expect("a healthy disk");
    // Block 1 keeps the cluster when block 0 is trimmed.
    story.write(volume, 0, 2, 0x22).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    story.trim(volume, 0, 1).expect("a healthy disk");
    story.write(volume, 0, 1, 0x33).expect("a healthy disk");
    for found in after_power_cuts(&story, 300, volume, 0) {
        assert!([0x22, 0, 0x33].contains(&found), "{found:#x}");
    }
}

#[test]
fn an_older_checkpoint_does_not_bring_back_an_entry_that_opening_took_back() {
    let (mut story, volume) = story(1, 1 << 20);
    let other = story.create_volume(new_volume(0x200, 1 << 20, 4096));
    // The entry gets to the disk, the data does not, and the daemon dies.
    story.rig.submit(volume, Operation::Write { fua: false }, 0, 1, vec![0xA1; 4096]);
    story.rig.pump();
    assert!(story.rig.run_one(|io| io.offset.0 < LOG + (1 << 20)), "the entry");
    let mut story = Story::open(story.rig.disks, 2, WHOLE);
    assert_eq!(story.rig.taken_back, 1);
    // The other volume gets the cluster, and gives it back.
    for lba in 0..3 {
        story.write_through(other, lba, 1, 0x55).expect("a healthy disk");
        story.flush(other).expect("a healthy disk");
    }
    story.trim(other, 0, 16).expect("a healthy disk");
    story.flush(other).expect("a healthy disk");
    if let Some(mut story) = without_newest_checkpoint(story.rig.disks) {
        assert_eq!(story.read(volume, 0), Ok(0));
        assert_eq!(story.read(other, 0), Ok(0));
    }
}

#[test]
fn an_older_checkpoint_does_not_lose_what_was_flushed_after_opening() {
    let (mut story, volume) = story(1, 1 << 20);
    story.write(volume, 0, 1, 0xA1).expect("a healthy disk");
    let mut story = Story::open(story.rig.disks, 2, WHOLE);
    assert_eq!(story.rig.taken_back, 0);
    story.write_through(volume, 0, 1, 0xA2).expect("in place");
    story.flush(volume).expect("a healthy disk");
    if let Some(mut story) = without_newest_checkpoint(story.rig.disks) {
        assert_eq!(story.read(volume, 0), Ok(0xA2));
    }
}

#[test]
fn an_older_checkpoint_does_not_lose_what_was_flushed_after_the_newest() {
    let (mut story, volume) = story(1, SMALL_LOG);
    let before = newest_generation(&story.rig.disks);
    let mut blocks = 0;
    while newest_generation(&story.rig.disks) == before {
        story.write(volume, blocks, 1, 0xA1).expect("a healthy disk");
        blocks += 1;
    }
    for lba in 0..blocks - 2 {
        story.write(volume, lba, 1, 0xA2).expect("a healthy disk");
    }
    story.flush(volume).expect("a healthy disk");
    let mut disks = story.rig.disks;
    disks.power_cut(&mut Random::new(1), Cut::LoseAll);
    if let Some(mut story) = without_newest_checkpoint(disks) {
        for lba in 0..blocks - 2 {
            assert_eq!(story.read(volume, lba), Ok(0xA2), "block {lba}");
        }
    }
}

#[test]
fn a_checkpoint_header_that_reached_one_member_only_never_keeps_the_pool_from_opening() {
    let (mut story, volume) = story(2, SMALL_LOG);
    story.write(volume, 0, 1, 0xA1).expect("healthy disks");
    story.flush(volume).expect("healthy disks");
    let slot = u64::from(generation(&story.rig.disks, 0) > generation(&story.rig.disks, 1));
    let header = METADATA + slot * SLOT_BYTES;
    story.rig.disks.0[1].fail_writes(header..header + 4096);
    let before = newest_generation(&story.rig.disks);
    for count in 0..60 {
        let data = vec![0xB1; 4096];
        story.rig.submit(volume, Operation::Write { fua: false }, 1 + count % 500, 1, data);
        story.rig.pump();
        for _ in 0..30 {
            story.rig.step(&mut story.random);
            let mut disks = story.rig.crash(&mut story.random, None);
            disks.0[1].clear_faults();
            assert_eq!(Story::open(disks, 3, DEGRADED).read(volume, 0), Ok(0xA1));
        }
    }
    assert!(newest_generation(&story.rig.disks) > before, "a header was written");
}

/// Two metadata members with a volume each, and a checkpoint whose header only `ahead` has got.
fn one_header_behind(ahead: u16) -> (Disks, [ObjectId; 2]) {
    let mut story = Story::new(7, Shape { members: 2, log_bytes: SMALL_LOG, clusters: 64 });
    let volumes = [0_u16, 1].map(|member| {
        let mut new = new_volume(VOLUME + u128::from(member), 1 << 20, 4096);
        new.record.members = 1 << member;
        let volume = story.create_volume(new);
        story.write(volume, 0, 1, 0xA1).expect("healthy disks");
        story.flush(volume).expect("healthy disks");
        volume
    });
    let headers = [METADATA, METADATA + SLOT_BYTES];
    let held = |io: &MemberIo| io.member.0 != ahead && headers.contains(&io.offset.0);
    let before = generation_on(&story.rig.disks, ahead.into());
    let mut round = 0;
    while generation_on(&story.rig.disks, ahead.into()) == before {
        let volume = volumes[usize::from(ahead)];
        story.rig.submit(volume, Operation::WriteZeroes, 1 + round % 200, 1, Vec::new());
        story.rig.pump();
        while story.rig.run_one(|io| !held(io)) {}
        round += 1;
    }
    assert_eq!(generation_on(&story.rig.disks, usize::from(1 - ahead)), before, "it is held");
    (story.rig.disks, volumes)
}

#[test]
fn a_crash_while_opening_leaves_each_copy_a_checkpoint_to_open_from() {
    for ahead in [0, 1] {
        let (disks, volumes) = one_header_behind(ahead);
        let mut random = Random::new(9);
        for operations in 0..150 {
            let mut disks = disks.clone();
            // Once or twice the power goes while both are being opened; then one of them is gone.
            for _ in 0..1 + random.below(2) {
                let victim = usize::try_from(random.below(2)).expect("small");
                let after = if random.chance(1, 2) { operations } else { random.below(150) };
                disks.0[victim].die_after(after);
                disks = match Rig::open(disks, WHOLE) {
                    Ok(rig) => rig.disks,
                    Err(failed) => failed.1,
                };
                let cut = *random.pick(&Cut::ALL);
                disks.power_cut(&mut random, cut);
            }
            for (alone, volume) in volumes.into_iter().enumerate() {
                let one = Disks(vec![disks.0[alone].clone()]);
                match Rig::open(one, DEGRADED) {
                    Ok(rig) => {
                        let mut story = Story { rig, random: Random::new(1) };
                        assert_eq!(story.read(volume, 0), Ok(0xA1));
                    }
                    Err(failed) => panic!("{alone}, {ahead} was ahead: {}", failed.0),
                }
            }
        }
    }
}

#[test]
fn a_log_block_that_cannot_be_read_is_not_taken_for_the_end_of_the_log() {
    let (mut story, volume) = story(1, SMALL_LOG);
    story.write(volume, 0, 1, 0xA1).expect("a healthy disk");
    story.write_through(volume, 20, 1, 0xA2).expect("a healthy disk");
    story.flush(volume).expect("a healthy disk");
    let mut refused = 0;
    for at in (LOG..LOG + SMALL_LOG).step_by(4096) {
        let mut disks = story.rig.disks.clone();
        disks.0[0].fail_reads(at..at + 4096);
        match Rig::open(disks, WHOLE) {
            Ok(mut rig) => {
                rig.disks.0[0].clear_faults();
                let mut story = Story { rig, random: Random::new(1) };
                assert_eq!(story.read(volume, 0), Ok(0xA1), "{at:#x} cannot be read");
                assert_eq!(story.read(volume, 20), Ok(0xA2), "{at:#x} cannot be read");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "some blocks are needed");
}

#[test]
fn opening_reads_the_log_in_large_pieces() {
    let (mut story, volume) = story(2, 4 << 20);
    story.write(volume, 0, 1, 0xA1).expect("healthy disks");
    let before: Vec<u64> = story.rig.disks.0.iter().map(|disk| disk.counters().reads).collect();
    let mut story = Story::open(story.rig.disks, 2, WHOLE);
    for (disk, before) in story.rig.disks.0.iter().zip(before) {
        let reads = disk.counters().reads - before;
        assert!(reads < 100, "{reads} reads for a log of 1024 blocks");
    }
    assert_eq!(story.read(volume, 0), Ok(0xA1));
}

#[test]
fn members_that_were_used_apart_are_refused() {
    let (mut story, volume) = story(2, SMALL_LOG);
    story.write_through(volume, 0, 1, 0xA1).expect("healthy disks");
    let disks = Story::open(story.rig.disks, 2, WHOLE).rig.disks;
    let alone = |member: usize| {
        let disks = Disks(vec![disks.0[member].clone()]);
        Story::open(disks, 3, DEGRADED).rig.disks.0.remove(0)
    };
    let both = Disks(vec![alone(0), alone(1)]);
    for options in [WHOLE, DEGRADED] {
        let refused = Rig::open(both.clone(), options).err().expect("they diverged").0;
        assert!(matches!(refused, OpenError::Diverged { .. }), "{refused}");
    }
}
