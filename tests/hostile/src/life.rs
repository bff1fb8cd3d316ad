//! What is done with a pool that was opened from bytes that nobody vouches for: a little of
//! everything, and then it has to open again.

use fathom_block::Operation;
use fathom_lvs::{Health, NewSnapshot, OpenOptions, geometry::ObjectId};
use fathom_test_sim::{
    pool::{new_snapshot, new_volume},
    rig::{Disks, Rig, unread},
};
use fathom_test_support::random::Random;

/// Requests and calls in a life.
const ACTS: u32 = 40;
/// The most bytes of one request here: the volumes may claim to be of any size.
const BYTES_MAX: u64 = 128 << 10;
/// To this a generation, an incarnation or an LSN may have come when a pool is opened.
const COUNT_MAX: u64 = 1 << 62;
/// Pages of a list that are looked at.
const PAGES: u32 = 4;

/// A volume or snapshot to act on.
#[derive(Clone, Copy)]
struct Thing {
    id: ObjectId,
    size: u64,
    block: u64,
}

/// Uses the pool, and opens it again, twice: after a crash of the daemon, and at rest.
///
/// # Errors
///
/// When the pool fails by itself, or does not open again.
pub fn live(mut rig: Rig, random: &mut Random) -> Result<(), String> {
    look(&mut rig, random);
    for _ in 0..ACTS {
        act(&mut rig, random);
        rig.pump();
        for _ in 0..random.below(8) {
            rig.step(random);
        }
    }
    open_again(rig.crash(random, None))?;
    rig.settle(random);
    look(&mut rig, random);
    if let Health::Failed { member, reason } = rig.store.health() {
        return Err(format!("the pool failed by itself: member {}, {reason}", member.0));
    }
    open_again(rig.disks)
}

/// Opens a pool again that has lived. Only one whose counts had come to the last that is allowed
/// may be refused now, since it has counted on.
fn open_again(disks: Disks) -> Result<(), String> {
    match Rig::open(disks, OpenOptions::default()).map_err(|failed| failed.0.to_string()) {
        Err(error) if !error.contains(&COUNT_MAX.to_string()) => {
            Err(format!("it does not open again: {error}"))
        }
        _ => Ok(()),
    }
}

/// Looks at everything that can be looked at.
fn look(rig: &mut Rig, random: &mut Random) {
    let things = things(rig);
    for &thing in &things {
        let blocks = thing.size / thing.block;
        let most = BYTES_MAX / thing.block;
        for first in [0, blocks.saturating_sub(most), random.below(blocks.max(1))] {
            let count = most.min(blocks.saturating_sub(first));
            let data = unread(usize_of(count * thing.block));
            rig.submit(thing.id, Operation::Read, first, count, data);
        }
        let mut from = if random.chance(1, 2) { 0 } else { random.next_u64() };
        for _ in 0..PAGES {
            let page = rig.store.allocated_ranges(thing.id, from, 16).expect("it exists");
            let other = random.pick(&things).id;
            rig.store.different_ranges(thing.id, other, from, 16).expect("both exist");
            let Some(next) = page.next else { break };
            from = next;
        }
    }
    rig.store.capacity();
    rig.store.reclaiming();
    rig.store.health();
    rig.settle(random);
    rig.events.clear();
}

fn act(rig: &mut Rig, random: &mut Random) {
    let things = things(rig);
    let number = random.below(10_000);
    let uuid = 0xA77A_0000 + u128::from(random.next_u64());
    if things.is_empty() || random.chance(1, 12) {
        let mut new = new_volume(uuid, 4096 * (1 + random.below(64)), 4096);
        new.source = things.first().map(|thing| thing.id).filter(|_| number.is_multiple_of(2));
        new.record.flags.thick = random.chance(1, 3);
        drop(rig.store.create_volume(new));
        return;
    }
    let thing = *random.pick(&things);
    let other = random.pick(&things).id;
    match random.below(16) {
        0 => drop(rig.store.delete_volume(thing.id)),
        1 => drop(rig.store.delete_snapshot(thing.id)),
        2..4 => drop(rig.store.create_snapshots(vec![new_snapshot(thing.id, uuid)])),
        4 => drop(rig.store.rollback(thing.id, other)),
        5 => {
            let sizes = [thing.size.saturating_add(4096), u64::MAX, thing.size * 2, 0];
            drop(rig.store.resize_volume(thing.id, *random.pick(&sizes)));
        }
        6 => {
            let record = rig.store.volumes().next().cloned();
            if let Some(mut record) = record {
                record.name = format!("renamed{number}");
                drop(rig.store.update_volume(record));
            }
        }
        7 => {
            let twice: Vec<NewSnapshot> =
                (0..2).map(|step| new_snapshot(thing.id, uuid + step)).collect();
            drop(rig.store.create_snapshots(twice));
        }
        _ => request(rig, random, thing),
    }
}

fn request(rig: &mut Rig, random: &mut Random, thing: Thing) {
    let blocks = (thing.size / thing.block).max(1);
    let (near, far) = (random.below(blocks.min(256)), random.below(blocks));
    let first = *random.pick(&[0, near, near, blocks - 1, far]);
    let count = 1 + random.below((BYTES_MAX / thing.block).min(64));
    let data = vec![7; usize_of(count * thing.block)];
    let operation = match random.below(6) {
        0 => Operation::Read,
        1 => Operation::Compare,
        2 => Operation::WriteZeroes,
        3 => Operation::Flush,
        _ => Operation::Write { fua: random.chance(1, 4) },
    };
    rig.submit(thing.id, operation, first, count, data);
}

/// Volumes that are not deleted, and snapshots.
fn things(rig: &Rig) -> Vec<Thing> {
    let live = rig.store.volumes().filter(|volume| volume.tip.is_some());
    let mut things: Vec<Thing> = live
        .map(|volume| Thing {
            id: volume.id,
            size: volume.size.0,
            block: u64::from(volume.logical_block_size),
        })
        .collect();
    for snapshot in rig.store.snapshots() {
        let mut volumes = rig.store.volumes();
        let volume = volumes.find(|volume| volume.id == snapshot.volume);
        let block = volume.map_or(4096, |volume| u64::from(volume.logical_block_size));
        things.push(Thing { id: snapshot.id, size: snapshot.size.0, block });
    }
    things
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).expect("64 bits")
}
