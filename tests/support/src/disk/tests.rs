//! The promises of the simulated disk, each mode and fault by itself, then all against an
//! oracle that knows for every sector the versions it may have.

use std::collections::BTreeSet;

use super::*;

const CAPACITY_BYTES: u64 = 64 * PAGE_BYTES;
const CUTS: u64 = 200;

type Done = Result<(), DiskError>;

fn disk() -> SimulatedDisk {
    SimulatedDisk::new(CAPACITY_BYTES, Unwritten::Zero, 1)
}

/// `count` sectors, each of whose bytes are `fill`.
fn sectors_of(fill: u8, count: u64) -> Vec<u8> {
    vec![fill; memory_length(count * SECTOR_BYTES)]
}

/// The first byte of each sector of the disk.
fn fills(disk: &mut SimulatedDisk) -> Vec<u8> {
    let mut bytes = sectors_of(0, disk.capacity() / SECTOR_BYTES);
    disk.read(0, &mut bytes).expect("a sound disk reads");
    let sectors = bytes.chunks(memory_length(SECTOR_BYTES));
    sectors
        .map(|sector| {
            assert!(sector.iter().all(|&byte| byte == sector[0]), "a sector is torn");
            sector[0]
        })
        .collect()
}

/// The different states of the first `count` sectors that cuts of `disk` leave.
fn states_after(disk: &SimulatedDisk, cut: Cut, count: usize) -> BTreeSet<Vec<u8>> {
    (0..CUTS)
        .map(|seed| {
            let mut disk = disk.clone();
            disk.power_cut(&mut Random::new(seed), cut);
            assert_eq!(disk.unflushed_writes(), 0);
            let state = fills(&mut disk);
            disk.power_cut(&mut Random::new(seed), Cut::LoseAll);
            assert_eq!(fills(&mut disk), state, "what survived a cut is stable");
            state[..count].to_vec()
        })
        .collect()
}

fn states<const N: usize>(states: &[[u8; N]]) -> BTreeSet<Vec<u8>> {
    states.iter().map(|state| state.to_vec()).collect()
}

#[test]
fn a_write_is_visible_at_once_and_leaves_its_neighbours() -> Done {
    let mut disk = disk();
    disk.write(SECTOR_BYTES, &sectors_of(7, 2), false)?;
    assert_eq!(fills(&mut disk)[..4], [0, 7, 7, 0]);
    Ok(())
}

#[test]
fn flushed_writes_survive_every_cut() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 9), false)?;
    disk.discard(SECTOR_BYTES, 2 * SECTOR_BYTES)?;
    disk.flush()?;
    for cut in Cut::ALL {
        assert_eq!(states_after(&disk, cut, 9), states(&[[1, 0, 0, 1, 1, 1, 1, 1, 1]]));
    }
    Ok(())
}

#[test]
fn lose_all_and_keep_all_do() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 2), true)?;
    disk.write(0, &sectors_of(2, 1), false)?;
    disk.discard(SECTOR_BYTES, SECTOR_BYTES)?;
    assert_eq!(disk.unflushed_writes(), 2);
    assert_eq!(states_after(&disk, Cut::LoseAll, 2), states(&[[1, 1]]));
    assert_eq!(states_after(&disk, Cut::KeepAll, 2), states(&[[2, 0]]));
    Ok(())
}

#[test]
fn prefix_keeps_an_early_part_torn_at_a_sector() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 2), false)?;
    disk.write(2 * SECTOR_BYTES, &sectors_of(2, 1), false)?;
    disk.write(SECTOR_BYTES, &sectors_of(3, 2), false)?;
    assert_eq!(
        states_after(&disk, Cut::Prefix, 3),
        states(&[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 2], [1, 3, 2], [1, 3, 3]])
    );
    Ok(())
}

#[test]
fn each_write_reorders_whole_writes() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 2), false)?;
    disk.write(2 * SECTOR_BYTES, &sectors_of(2, 1), false)?;
    disk.write(SECTOR_BYTES, &sectors_of(3, 1), false)?;
    let expected =
        [[0, 0, 0], [1, 1, 0], [0, 0, 2], [1, 1, 2], [0, 3, 0], [1, 3, 0], [0, 3, 2], [1, 3, 2]];
    assert_eq!(states_after(&disk, Cut::EachWrite, 3), states(&expected));
    Ok(())
}

#[test]
fn each_sector_tears_anywhere_and_leaves_any_version() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 2), true)?;
    disk.write(0, &sectors_of(2, 2), false)?;
    disk.write(SECTOR_BYTES, &sectors_of(3, 1), false)?;
    let expected = [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]];
    assert_eq!(states_after(&disk, Cut::EachSector, 2), states(&expected));
    Ok(())
}

#[test]
fn a_discard_is_lost_as_a_write_is() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 2), true)?;
    disk.discard(0, 2 * SECTOR_BYTES)?;
    assert_eq!(states_after(&disk, Cut::Prefix, 2), states(&[[1, 1], [0, 1], [0, 0]]));
    assert_eq!(states_after(&disk, Cut::EachWrite, 2), states(&[[1, 1], [0, 0]]));
    let torn = [[1, 1], [0, 1], [1, 0], [0, 0]];
    assert_eq!(states_after(&disk, Cut::EachSector, 2), states(&torn));
    Ok(())
}

#[test]
fn fua_settles_its_own_sectors_and_no_earlier_write() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 3), false)?;
    disk.write(SECTOR_BYTES, &sectors_of(2, 1), true)?;
    assert_eq!(states_after(&disk, Cut::LoseAll, 3), states(&[[0, 2, 0]]));
    assert_eq!(states_after(&disk, Cut::KeepAll, 3), states(&[[1, 2, 1]]));
    let prefixes = [[0, 2, 0], [1, 2, 0], [1, 2, 1]];
    assert_eq!(states_after(&disk, Cut::Prefix, 3), states(&prefixes));
    assert_eq!(states_after(&disk, Cut::EachWrite, 3), states(&[[0, 2, 0], [1, 2, 1]]));
    let torn = [[0, 2, 0], [1, 2, 0], [0, 2, 1], [1, 2, 1]];
    assert_eq!(states_after(&disk, Cut::EachSector, 3), states(&torn));
    Ok(())
}

#[test]
fn a_write_after_fua_may_be_lost_down_to_the_fua_version() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 1), false)?;
    disk.write(0, &sectors_of(2, 1), true)?;
    disk.write(0, &sectors_of(3, 1), false)?;
    assert_eq!(states_after(&disk, Cut::EachSector, 1), states(&[[2], [3]]));
    Ok(())
}

#[test]
fn the_same_seeds_give_the_same_bytes() {
    let run = |seed| {
        let mut random = Random::new(seed);
        let mut disk = SimulatedDisk::new(CAPACITY_BYTES, Unwritten::Garbage, seed);
        for round in 0..40 {
            disk.die_after(random.below(30));
            while !disk.dead() {
                let _ = random_operation(&mut disk, &mut random);
            }
            disk.revive();
            disk.power_cut(&mut random, Cut::ALL[round % Cut::ALL.len()]);
        }
        let mut bytes = sectors_of(0, CAPACITY_BYTES / SECTOR_BYTES);
        disk.read(0, &mut bytes).expect("a revived disk reads");
        (bytes, disk.counters())
    };
    assert!(run(1) == run(1));
    assert!(run(1) != run(2));
}

fn random_operation(disk: &mut SimulatedDisk, random: &mut Random) -> Done {
    let sector = random.below(CAPACITY_BYTES / SECTOR_BYTES - 20);
    let count = random.range(1..20);
    match random.below(12) {
        0 => disk.flush(),
        1 | 2 => disk.discard(sector * SECTOR_BYTES, count * SECTOR_BYTES),
        kind => {
            let mut data = sectors_of(0, count);
            random.fill(&mut data);
            disk.write(sector * SECTOR_BYTES, &data, kind < 5)
        }
    }
}

#[test]
fn unwritten_sectors_read_as_asked_for_even_beside_written_ones() -> Done {
    let mut bytes = sectors_of(1, 3);
    disk().read(0, &mut bytes)?;
    assert_eq!(bytes, sectors_of(0, 3));

    let mut disk = SimulatedDisk::new(CAPACITY_BYTES, Unwritten::Garbage, 1);
    disk.read(0, &mut bytes)?;
    assert!(bytes.chunks(16).all(|line| line.starts_with(&GARBAGE_MARK)));
    disk.write(SECTOR_BYTES, &sectors_of(2, 1), false)?;
    let mut after = sectors_of(0, 3);
    disk.read(0, &mut after)?;
    let sector = memory_length(SECTOR_BYTES);
    bytes[sector..2 * sector].fill(2);
    assert_eq!(after, bytes);
    disk.power_cut(&mut Random::new(1), Cut::LoseAll);
    disk.read(0, &mut after)?;
    assert!(after[sector..].starts_with(&GARBAGE_MARK), "a lost write leaves the garbage");
    Ok(())
}

#[test]
fn what_is_not_whole_sectors_is_misaligned() {
    let mut disk = disk();
    assert_eq!(disk.read(1, &mut [0; 512]), Err(DiskError::Misaligned));
    assert_eq!(disk.read(0, &mut []), Err(DiskError::Misaligned));
    assert_eq!(disk.write(0, &[0; 511], false), Err(DiskError::Misaligned));
    assert_eq!(disk.write(256, &[0; 512], true), Err(DiskError::Misaligned));
    assert_eq!(disk.discard(0, 100), Err(DiskError::Misaligned));
    assert_eq!(disk.counters(), Counters::default());
}

#[test]
fn what_ends_beyond_the_capacity_is_out_of_range() {
    let mut disk = disk();
    let last = CAPACITY_BYTES - SECTOR_BYTES;
    let huge = u64::MAX - u64::MAX % SECTOR_BYTES;
    assert_eq!(disk.write(last, &[1; 512], false), Ok(()));
    assert_eq!(disk.write(last, &[1; 1024], false), Err(DiskError::OutOfRange));
    assert_eq!(disk.read(CAPACITY_BYTES, &mut [0; 512]), Err(DiskError::OutOfRange));
    assert_eq!(disk.read(huge, &mut [0; 512]), Err(DiskError::OutOfRange));
    assert_eq!(disk.discard(SECTOR_BYTES, huge), Err(DiskError::OutOfRange));
}

#[test]
fn faults_hit_what_touches_them_and_change_nothing() -> Done {
    let mut disk = disk();
    disk.fail_writes(1000..1001);
    assert_eq!(disk.write(0, &sectors_of(1, 2), false), Err(DiskError::Io));
    assert_eq!(disk.discard(SECTOR_BYTES, SECTOR_BYTES), Err(DiskError::Io));
    assert_eq!(disk.unflushed_writes(), 0);
    disk.write(0, &sectors_of(1, 1), false)?;
    disk.write(1024, &sectors_of(1, 1), false)?;
    assert_eq!(fills(&mut disk)[..3], [1, 0, 1]);

    disk.fail_reads(512..1024);
    let mut bytes = sectors_of(9, 2);
    assert_eq!(disk.read(0, &mut bytes), Err(DiskError::Io));
    assert_eq!(bytes, sectors_of(9, 2));
    disk.read(1024, &mut bytes)?;

    disk.fail_flushes(true);
    assert_eq!(disk.flush(), Err(DiskError::Io));
    assert_eq!(disk.unflushed_writes(), 2);

    disk.clear_faults();
    disk.write(0, &sectors_of(2, 2), false)?;
    disk.read(0, &mut bytes)?;
    disk.flush()?;
    assert_eq!(disk.unflushed_writes(), 0);
    Ok(())
}

#[test]
fn a_flipped_bit_is_flipped_whatever_version_survives() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(0x10, 2), true)?;
    disk.write(0, &sectors_of(0x20, 1), false)?;
    disk.flip_bit(3, 0);
    let mut seen = BTreeSet::new();
    for seed in 0..CUTS {
        for cut in Cut::ALL {
            let mut disk = disk.clone();
            disk.power_cut(&mut Random::new(seed), cut);
            let mut bytes = sectors_of(0, 1);
            disk.read(0, &mut bytes)?;
            assert_eq!(bytes[3], bytes[2] | 1);
            assert!(bytes[4..].iter().all(|&byte| byte == bytes[2]));
            seen.insert(bytes[2]);
        }
    }
    assert_eq!(seen, BTreeSet::from([0x10, 0x20]));

    disk.write(0, &sectors_of(0x30, 1), false)?;
    assert_eq!(fills(&mut disk)[..2], [0x30, 0x10], "a later write mends it");
    Ok(())
}

#[test]
fn corrupt_changes_every_byte_of_its_range_and_no_other() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(5, 16), false)?;
    disk.flush()?;
    disk.corrupt(700..6000, &mut Random::new(1));
    disk.power_cut(&mut Random::new(1), Cut::LoseAll);
    let mut bytes = sectors_of(0, 16);
    disk.read(0, &mut bytes)?;
    assert!(bytes[700..6000].iter().all(|&byte| byte != 5));
    assert!(bytes[..700].iter().chain(&bytes[6000..]).all(|&byte| byte == 5));
    Ok(())
}

#[test]
fn a_doomed_disk_dies_after_its_operations_until_revived() -> Done {
    let mut disk = disk();
    disk.die_after(3);
    disk.write(0, &sectors_of(1, 1), false)?;
    disk.discard(SECTOR_BYTES, SECTOR_BYTES)?;
    assert_eq!(disk.write(1, &[], false), Err(DiskError::Misaligned), "does not count");
    disk.flush()?;
    disk.read(0, &mut [0; 512])?;
    assert!(!disk.dead());
    assert_eq!(disk.write(0, &sectors_of(2, 1), false), Err(DiskError::Dead));
    assert!(disk.dead());
    let counters = disk.counters();
    assert_eq!(disk.read(0, &mut [0; 512]), Err(DiskError::Dead));
    assert_eq!(disk.write(0, &[0; 512], true), Err(DiskError::Dead));
    assert_eq!(disk.discard(0, 512), Err(DiskError::Dead));
    assert_eq!(disk.flush(), Err(DiskError::Dead));
    disk.power_cut(&mut Random::new(1), Cut::LoseAll);
    assert!(disk.dead(), "a power cut alone does not revive");
    disk.revive();
    assert_eq!(disk.counters(), counters);
    assert_eq!(fills(&mut disk)[..2], [1, 0]);
    disk.write(0, &sectors_of(3, 1), false)
}

/// The states that the death of `last` leaves over many seeds, after `cut`.
fn states_after_death(cut: Cut, last: impl Fn(&mut SimulatedDisk) -> Done) -> BTreeSet<Vec<u8>> {
    (0..CUTS)
        .map(|seed| {
            let mut disk = SimulatedDisk::new(CAPACITY_BYTES, Unwritten::Zero, seed);
            disk.die_after(2);
            assert_eq!(disk.write(0, &sectors_of(1, 1), false), Ok(()));
            assert_eq!(disk.write(SECTOR_BYTES, &sectors_of(1, 1), false), Ok(()));
            assert_eq!(last(&mut disk), Err(DiskError::Dead));
            disk.revive();
            disk.power_cut(&mut Random::new(seed), cut);
            fills(&mut disk)[..2].to_vec()
        })
        .collect()
}

#[test]
fn the_last_operation_happens_whole_in_part_or_not_at_all() {
    let write = |fua| move |disk: &mut SimulatedDisk| disk.write(0, &sectors_of(2, 2), fua);
    let torn = states(&[[1, 1], [2, 1], [2, 2]]);
    assert_eq!(states_after_death(Cut::KeepAll, write(false)), torn);
    assert_eq!(states_after_death(Cut::LoseAll, write(false)), states(&[[0, 0]]));
    assert_eq!(states_after_death(Cut::KeepAll, write(true)), torn);
    let settled = states(&[[0, 0], [2, 0], [2, 2]]);
    assert_eq!(states_after_death(Cut::LoseAll, write(true)), settled);

    let discard = |disk: &mut SimulatedDisk| disk.discard(0, 2 * SECTOR_BYTES);
    let discarded = states(&[[1, 1], [0, 1], [0, 0]]);
    assert_eq!(states_after_death(Cut::KeepAll, discard), discarded);

    let flushed = states(&[[0, 0], [1, 0], [0, 1], [1, 1]]);
    assert_eq!(states_after_death(Cut::LoseAll, SimulatedDisk::flush), flushed);
    assert_eq!(states_after_death(Cut::KeepAll, SimulatedDisk::flush), states(&[[1, 1]]));
}

#[test]
fn the_last_fua_write_is_stable_or_still_volatile() {
    let unflushed: BTreeSet<_> = (0..CUTS)
        .map(|seed| {
            let mut disk = SimulatedDisk::new(CAPACITY_BYTES, Unwritten::Zero, seed);
            disk.die_after(0);
            assert_eq!(disk.write(0, &sectors_of(2, 1), true), Err(DiskError::Dead));
            disk.revive();
            let happened = fills(&mut disk)[0] == 2;
            (happened, disk.unflushed_writes())
        })
        .collect();
    assert_eq!(unflushed, BTreeSet::from([(false, 0), (true, 0), (true, 1)]));
}

#[test]
fn a_grown_disk_keeps_its_bytes_and_has_room_at_the_end() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 1), false)?;
    disk.grow(1 << 40);
    assert_eq!(disk.capacity(), 1 << 40);
    let last = (1 << 40) - SECTOR_BYTES;
    disk.write(last, &sectors_of(2, 1), false)?;
    let mut bytes = sectors_of(0, 1);
    disk.read(last, &mut bytes)?;
    assert_eq!(bytes, sectors_of(2, 1));
    disk.power_cut(&mut Random::new(1), Cut::LoseAll);
    disk.read(0, &mut bytes)?;
    assert_eq!(bytes, sectors_of(0, 1), "growth did not settle what was volatile");
    Ok(())
}

#[test]
fn a_whole_large_disk_is_discarded_and_cut_at_once() -> Done {
    let capacity_bytes = 64 << 30;
    let mut disk = SimulatedDisk::new(capacity_bytes, Unwritten::Garbage, 1);
    disk.discard(0, capacity_bytes)?;
    let last = capacity_bytes - SECTOR_BYTES;
    let mut kept = 0;
    for seed in 0..CUTS {
        let mut disk = disk.clone();
        disk.power_cut(&mut Random::new(seed), Cut::EachSector);
        let mut bytes = sectors_of(1, 1);
        disk.read(last, &mut bytes)?;
        let zeroes = bytes == sectors_of(0, 1);
        assert!(zeroes || bytes.starts_with(&GARBAGE_MARK));
        kept += u64::from(zeroes);
    }
    assert!((CUTS / 4..CUTS * 3 / 4).contains(&kept), "{kept}");
    Ok(())
}

#[test]
fn a_clone_goes_its_own_way() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 1), false)?;
    let mut clone = disk.clone();
    clone.write(0, &sectors_of(2, 1), false)?;
    clone.flush()?;
    assert_eq!(fills(&mut disk)[0], 1);
    assert_eq!(disk.unflushed_writes(), 1);
    assert_eq!(fills(&mut clone)[0], 2);
    Ok(())
}

#[test]
fn counters_count_what_succeeded() -> Done {
    let mut disk = disk();
    disk.write(0, &sectors_of(1, 3), false)?;
    disk.write(0, &sectors_of(1, 1), true)?;
    disk.discard(0, 512)?;
    disk.flush()?;
    disk.read(0, &mut [0; 512])?;
    disk.fail_flushes(true);
    assert_eq!(disk.flush(), Err(DiskError::Io));
    let expected = Counters { reads: 1, writes: 2, discards: 1, flushes: 1, bytes_written: 2048 };
    assert_eq!(disk.counters(), expected);
    Ok(())
}

/// For every sector the versions it may have after a cut; the last is the visible one.
struct Oracle {
    versions: Vec<Vec<u8>>,
}

impl Oracle {
    fn change(&mut self, sector: u64, count: u64, fill: u8, fua: bool) {
        let range = memory_length(sector)..memory_length(sector + count);
        for versions in &mut self.versions[range] {
            if fua {
                versions.clear();
            }
            versions.push(fill);
        }
    }

    fn settle(&mut self, fills: &[u8]) {
        self.versions = fills.iter().map(|&fill| vec![fill]).collect();
    }

    fn visible(&self) -> Vec<u8> {
        self.versions.iter().map(|versions| versions[versions.len() - 1]).collect()
    }
}

#[test]
fn random_runs_agree_with_the_oracle() -> Done {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut disk = SimulatedDisk::new(PAGE_BYTES * 8, Unwritten::Zero, seed);
        let mut oracle = Oracle { versions: vec![vec![0]; 64] };
        for operation in 0..300 {
            let context = format!("seed {seed}, operation {operation}");
            let sector = random.below(64);
            let count = random.range(1..30).min(64 - sector);
            match random.below(20) {
                0 => {
                    let cut = *random.pick(&Cut::ALL);
                    disk.power_cut(&mut random, cut);
                    let left = fills(&mut disk);
                    let possible = left.iter().zip(&oracle.versions);
                    for (sector, (fill, versions)) in possible.enumerate() {
                        let of = format!("{context}, {cut:?}, sector {sector}");
                        assert!(versions.contains(fill), "{of}: {fill} of {versions:?}");
                    }
                    oracle.settle(&left);
                }
                1 => {
                    disk.flush()?;
                    oracle.settle(&oracle.visible());
                }
                2 | 3 => {
                    disk.discard(sector * SECTOR_BYTES, count * SECTOR_BYTES)?;
                    oracle.change(sector, count, 0, false);
                }
                kind => {
                    let fua = kind < 8;
                    let fill = u8::try_from(random.range(1..256)).expect("fits a byte");
                    disk.write(sector * SECTOR_BYTES, &sectors_of(fill, count), fua)?;
                    oracle.change(sector, count, fill, fua);
                }
            }
            assert_eq!(fills(&mut disk), oracle.visible(), "{context}");
        }
    }
    Ok(())
}
