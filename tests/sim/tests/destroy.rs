//! Destroying pools: what is blank afterwards, what is refused, and crashes at any point of it.

use fathom_lvs::{
    Content, CreateError, DestroyError, DestroyOptions, Destroyed, Medium, MemberRefused,
    OpenError, OpenOptions, Refused, create, destroy, geometry::MemberIndex, inspect,
};
use fathom_test_sim::{
    pool::{Shape, Story, new_disks, new_pool, new_snapshot, new_volume},
    rig::{Disks, Rig},
};
use fathom_test_support::{
    disk::{Cut, SimulatedDisk, Unwritten},
    random::Random,
};

const SHAPE: Shape = Shape { members: 3, log_bytes: 128 << 10, clusters: 32 };
const FORCE: DestroyOptions = DestroyOptions { force: true };
const VOLUME: u128 = 0x100;

/// The disks of a pool with a volume whose first block is 7.
fn disks() -> Disks {
    let mut story = Story::new(3, SHAPE);
    let volume = story.create_volume(new_volume(VOLUME, 1 << 20, 4096));
    story.write(volume, 0, 1, 7).expect("healthy disks");
    story.flush(volume).expect("healthy disks");
    story.rig.disks
}

fn contents(disks: &mut Disks) -> Vec<Content> {
    let slots = 0..disks.0.len();
    slots.map(|slot| inspect(disks, slot).expect("healthy disks").content).collect()
}

#[test]
fn a_pool_with_volumes_is_not_destroyed_unless_forced_and_then_its_members_are_blank() {
    let mut story = Story::open(disks(), 1, OpenOptions::WHOLE);
    let volume = story.volume(VOLUME);
    story.rig.store.create_snapshots(vec![new_snapshot(volume, 5)]).expect("it can be made");
    story.done().expect("healthy disks");
    let mut disks = story.rig.disks;
    let before: Vec<_> = disks.0.iter().map(SimulatedDisk::counters).collect();
    let refused = destroy(&mut disks, DestroyOptions::default());
    let names = vec!["v100".to_owned(), "v100@s5".to_owned()];
    let expected = DestroyError::InUse { pool: "pool".to_owned(), objects: names.clone() };
    assert_eq!(refused, Err(expected));
    let after = disks.0.iter().map(SimulatedDisk::counters);
    assert!(before.iter().zip(after).all(|(before, after)| before.writes == after.writes));
    let Destroyed { name, objects, missing, .. } = destroy(&mut disks, FORCE).expect("forced");
    assert_eq!((name.as_str(), objects, missing), ("pool", names, Vec::new()));
    assert!(contents(&mut disks).iter().all(|content| *content == Content::Nothing));
    let mut new = new_pool(&mut Random::new(2), SHAPE);
    new.force = false;
    create(&mut disks, &new).expect("its members are blank");
}

#[test]
fn an_empty_pool_is_destroyed_though_volumes_were_in_it() {
    let mut story = Story::open(disks(), 1, OpenOptions::WHOLE);
    let volume = story.volume(VOLUME);
    story.rig.store.delete_volume(volume).expect("it exists");
    story.done().expect("healthy disks");
    let destroyed = destroy(&mut story.rig.disks, DestroyOptions::default());
    assert_eq!(destroyed.expect("it is empty").objects, Vec::<String>::new());
}

#[test]
fn what_is_not_one_whole_pool_is_not_destroyed() {
    let whole = disks();
    let mut part = Disks(whole.0[..2].to_vec());
    let missing = destroy(&mut part, DestroyOptions::default());
    let expected = MemberIndex(2);
    assert!(
        matches!(missing, Err(DestroyError::Open(OpenError::Missing { member, .. })) if member == expected),
        "{missing:?}"
    );
    let gone = destroy(&mut part, FORCE).expect("forced").missing;
    assert_eq!(gone.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [expected]);
    let other = Story::new(4, SHAPE).rig.disks;
    let mut mixed = Disks(vec![whole.0[0].clone(), other.0[1].clone()]);
    let refused = destroy(&mut mixed, FORCE);
    assert!(matches!(refused, Err(DestroyError::Open(OpenError::OtherPool { slot: 1, .. }))));
    let mut twice = Disks(vec![whole.0[1].clone(), whole.0[1].clone()]);
    let refused = destroy(&mut twice, FORCE);
    assert!(matches!(refused, Err(DestroyError::Open(OpenError::Duplicate { .. }))));
    let mut garbage = new_disks(&mut Random::new(9), SHAPE);
    let refused = destroy(&mut garbage, FORCE);
    assert!(matches!(refused, Err(DestroyError::Open(OpenError::Foreign { slot: 0, .. }))));
    let none = destroy(&mut Disks(Vec::new()), FORCE);
    assert_eq!(none, Err(DestroyError::Open(OpenError::NoMembers)));
}

#[test]
fn a_pool_whose_metadata_is_damaged_is_destroyed_when_forced() {
    let mut disks = disks();
    for disk in &mut disks.0[..2] {
        disk.corrupt(1 << 20..(1 << 20) + (512 << 10), &mut Random::new(4));
    }
    let refused = destroy(&mut disks, DestroyOptions::default());
    assert!(matches!(refused, Err(DestroyError::Open(OpenError::Damaged { .. }))), "{refused:?}");
    destroy(&mut disks, FORCE).expect("labels are enough");
    assert!(contents(&mut disks).iter().all(|content| *content == Content::Nothing));
}

#[test]
fn a_member_that_has_grown_since_is_blank_afterwards() {
    let mut disks = disks();
    let old = disks.0[0].capacity();
    for disk in &mut disks.0 {
        disk.grow(old + (8 << 20));
    }
    destroy(&mut disks, FORCE).expect("forced");
    for disk in &mut disks.0 {
        let mut last = vec![0; 4096];
        disk.read(old - 4096, &mut last).expect("a healthy disk");
        assert!(last.iter().all(|&byte| byte == 0), "the last label copy is gone");
    }
}

/// After a crash while a pool was being destroyed: it is all there, or it is refused and can be
/// destroyed to the end.
fn survives(mut disks: Disks, what: &str) -> bool {
    let found = contents(&mut disks);
    assert!(
        found.iter().all(|content| matches!(
            content,
            Content::Nothing | Content::Label(_) | Content::Tombstone(_)
        )),
        "{what}: {found:?}"
    );
    let left = Disks(
        disks
            .0
            .iter()
            .zip(&found)
            .filter(|(_, content)| **content != Content::Nothing)
            .map(|(disk, _)| disk.clone())
            .collect(),
    );
    if left.0.is_empty() {
        return false;
    }
    for options in [OpenOptions::WHOLE, OpenOptions::DEGRADED] {
        match Rig::open(left.clone(), options) {
            Ok(rig) => {
                assert_eq!(left.0.len(), 3, "{what}: it opens with all members or not at all");
                let mut story = Story { rig, random: Random::new(1) };
                let volume = story.volume(VOLUME);
                assert_eq!(story.read(volume, 0), Ok(7), "{what}");
            }
            Err(failed) => {
                assert!(matches!(failed.0, OpenError::Destroyed { .. }), "{what}: {}", failed.0);
            }
        }
    }
    let mut again = left;
    destroy(&mut again, FORCE).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(contents(&mut again).iter().all(|content| *content == Content::Nothing), "{what}");
    true
}

#[test]
fn a_crash_at_any_point_leaves_the_pool_or_what_can_be_destroyed_again() {
    let whole = disks();
    let mut random = Random::new(11);
    let (mut was_left, mut was_gone) = (0, 0);
    for victim in 0..3 {
        // Each member sees nine writes and flushes.
        for operations in 0..10 {
            for cut in Cut::ALL {
                let mut disks = whole.clone();
                disks.0[victim].die_after(operations);
                let destroyed = destroy(&mut disks, FORCE);
                disks.power_cut(&mut random, cut);
                let what = format!("member {victim} died after {operations}, {cut:?}");
                let left = survives(disks, &what);
                assert!(destroyed.is_err() || !left, "{what}: it was reported as done");
                if left {
                    was_left += 1;
                } else {
                    was_gone += 1;
                }
            }
        }
    }
    assert!(was_left > 20 && was_gone > 0, "{was_left} were left, {was_gone} gone");
}

#[test]
fn destroying_is_durable_when_it_has_ended() {
    for cut in Cut::ALL {
        let mut disks = disks();
        destroy(&mut disks, FORCE).expect("forced");
        disks.power_cut(&mut Random::new(1), cut);
        assert!(contents(&mut disks).iter().all(|content| *content == Content::Nothing), "{cut:?}");
    }
}

#[test]
fn what_is_being_destroyed_is_no_blank_device() {
    let mut disks = disks();
    disks.0[1].die_after(0);
    destroy(&mut disks, FORCE).expect_err("a member died");
    disks.0[1].revive();
    let found = contents(&mut disks);
    assert!(matches!(&found[0], Content::Tombstone(tombstone) if tombstone.name == "pool"));
    let mut new = new_pool(&mut Random::new(2), SHAPE);
    new.force = false;
    let refused = create(&mut disks, &new).expect_err("what is there is named");
    assert!(matches!(refused, CreateError::Remains { slot: 0, .. }), "{refused}");
    assert!(refused.to_string().contains("pool \"pool\""), "{refused}");
    let grave = disks.0.swap_remove(0);
    let mut story = Story::new(5, SHAPE);
    story.rig.disks.0.push(grave);
    let refused = story.rig.add_member(3, uuid::Uuid::from_u128(77), false);
    assert!(matches!(refused, Err(Refused::Member(MemberRefused::Remains(_)))), "{refused:?}");
}

#[test]
fn creating_over_something_leaves_nothing_that_others_know_it_by() {
    let shape = Shape { members: 1, ..SHAPE };
    let mut disks = new_disks(&mut Random::new(1), shape);
    let size = disks.0[0].capacity();
    disks.0[0] = SimulatedDisk::new(size, Unwritten::Zero, 1);
    // Btrfs marks itself behind the first label copy, and a partition table has a copy at the end.
    let mut sector = vec![0; 4096];
    sector[0x40..0x48].copy_from_slice(b"_BHRfS_M");
    disks.write(0, 64 << 10, &sector).expect("a healthy disk");
    let found = contents(&mut disks);
    let offset = (64 << 10) + 0x40;
    assert_eq!(found[0], Content::Other { offset, what: Some("a Btrfs file system") });
    let mut new = new_pool(&mut Random::new(2), shape);
    new.force = false;
    let refused = create(&mut disks, &new).expect_err("it is in use");
    assert!(refused.to_string().contains("a Btrfs file system"), "{refused}");
    new.force = true;
    create(&mut disks, &new).expect("forced");
    disks.read(0, 64 << 10, &mut sector).expect("a healthy disk");
    assert!(sector.iter().all(|&byte| byte == 0), "it is not found again");
    Story::open(disks, 1, OpenOptions::WHOLE);
}

#[test]
fn a_device_with_something_at_its_end_only_is_not_blank() {
    let shape = Shape { members: 1, ..SHAPE };
    let mut disks = new_disks(&mut Random::new(1), shape);
    let size = disks.0[0].capacity();
    disks.0[0] = SimulatedDisk::new(size, Unwritten::Zero, 1);
    assert_eq!(contents(&mut disks), [Content::Nothing]);
    let mut sector = vec![0; 4096];
    sector[4096 - 512..][..8].copy_from_slice(b"EFI PART");
    disks.write(0, size - 4096, &sector).expect("a healthy disk");
    let what = Some("the copy of a GPT partition table");
    assert_eq!(contents(&mut disks), [Content::Other { offset: size - 512, what }]);
}
