//! One seed, one history: a random workload with crashes along the way.

mod crashes;
mod fill;
mod hang;
mod limits;
mod losses;
mod members;

use std::collections::{BTreeMap, BTreeSet};

use fathom_block::{Error, Operation, RequestId};
use fathom_lvs::{
    Failed, Fill, NewSnapshot, OpenOptions, Severity, Ticket,
    format::op::VolumeRecord,
    geometry::{MemberIndex, ObjectId},
};
use fathom_test_support::random::Random;
use uuid::Uuid;

pub use self::crashes::observe;
use self::members::Newcomer;
use crate::{
    model::{Crash, Device, Existence, Expected, Model, SECTOR, content, tag},
    pool::{METADATA, SLOT_BYTES, Shape, new_disks, new_pool, new_volume},
    rig::{Disks, Event, Rig, unread},
};

const REQUESTS_MAX: usize = 16;
const VOLUMES_MAX: usize = 4;
const SNAPSHOTS_MAX: usize = 6;
/// While members are being changed, a crash is tried once in so many steps.
const CHANGE_CRASH_EVERY: u64 = 10;
/// A member hangs, and another one fails to flush, once in so many steps.
const HANG_EVERY: u64 = 500;

/// How long a history is.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Steps of the workload.
    pub steps: u32,
    /// A crash is tried once in so many steps.
    pub crash_every: u64,
}

/// What a history came to, for a summary.
#[derive(Clone, Copy, Default, Debug)]
pub struct Summary {
    /// Crashes from which the pool was opened and verified.
    pub crashes: u64,
    /// Of these, with a second crash while it was being opened.
    pub double_crashes: u64,
    /// Crashes from which the pool was opened with one of two metadata members missing.
    pub alone: u64,
    /// Blocks that were taken back.
    pub taken_back: u64,
    /// Log entries replayed.
    pub replayed: u64,
    /// Requests completed.
    pub requests: u64,
    /// Requests that met a full pool.
    pub full: u64,
    /// Requests that limits held back, in the lives that ended well.
    pub held_back: u64,
    /// Members that hung past their deadline.
    pub hung: u64,
    /// Members whose flushes failed.
    pub lost: u64,
    /// Blocks that were given up with a member.
    pub given_up: u64,
    /// Members that were added or enlarged.
    pub grown: u64,
    /// Stale copies that joined again.
    pub rejoined: u64,
}

enum Under {
    Write {
        device: u128,
        first: usize,
        count: usize,
        durable: bool,
    },
    Flush {
        device: u128,
        submitted: u64,
    },
    Read {
        device: u128,
        first: usize,
        expected: Vec<Expected>,
    },
    /// A Compare with these tags.
    Compare {
        device: u128,
        first: usize,
        expected: Vec<Expected>,
        tags: Vec<u64>,
    },
    /// A fused Compare and Write; `durable` as in a write.
    CompareAndWrite {
        device: u128,
        first: usize,
        expected: Vec<Expected>,
        tags: Vec<u64>,
        durable: bool,
    },
}

/// Whether what is there is what it is compared with.
fn equal(expected: &[Expected], tags: &[u64]) -> bool {
    expected.iter().map(|expected| expected.tag).eq(tags.iter().copied())
}

impl Under {
    fn device(&self) -> u128 {
        match *self {
            Self::Write { device, .. }
            | Self::Flush { device, .. }
            | Self::Read { device, .. }
            | Self::Compare { device, .. }
            | Self::CompareAndWrite { device, .. } => device,
        }
    }
}

enum Call {
    Create(u128),
    Snapshot(Vec<u128>),
    Delete(u128),
    RollBack { volume: u128, operation: u64 },
    Grow(u128),
    Limit,
    AddMember,
    GrowMember(MemberIndex),
    Rejoin,
    GiveUp,
}

/// Whether a history goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    GoesOn,
    Ends,
}

struct History {
    rig: Rig,
    shape: Shape,
    /// Members discard clusters that are given back.
    discards: bool,
    model: Model,
    random: Random,
    under: BTreeMap<RequestId, (u64, Under)>,
    call: Option<(Ticket, Call)>,
    next_operation: u64,
    next_uuid: u128,
    /// Flushes are rare: much is unsettled at any time.
    careless: bool,
    options: OpenOptions,
    newcomer: Option<Newcomer>,
    /// A member hung past the deadline: until the next crash requests may fail.
    hung: bool,
    /// Writes that failed since: they have changed nothing, something or everything.
    unsure: BTreeSet<u64>,
    /// How full the pool is, as far as it was told.
    told: Fill,
    /// How far reclaiming was, and how often it had ended.
    reclaimed: (u64, u64),
    summary: Summary,
}

/// Runs the history of `seed`.
///
/// # Errors
///
/// What went wrong first.
pub fn run(seed: u64, length: Length) -> Result<Summary, String> {
    let mut history = History::begin(seed)?;
    for _ in 0..length.steps {
        history.step()?;
        let every = if history.changes_members() { CHANGE_CRASH_EVERY } else { length.crash_every };
        if history.random.chance(1, every) {
            history.crash()?;
        }
        if history.random.chance(1, HANG_EVERY) {
            history.hang()?;
        }
        if history.random.chance(1, HANG_EVERY) && history.lose()? == Life::Ends {
            return Ok(history.summary);
        }
    }
    history.end()?;
    Ok(history.summary)
}

fn formatted(random: &mut Random) -> Result<(Disks, Shape), String> {
    let members = 1 + random.below(5);
    let shape = Shape {
        members,
        // From the shortest possible on.
        log_bytes: (64 << 10 << random.below(3)) + (members + random.below(3)) * (16 << 10),
        // At times too few for the workload.
        clusters: if random.chance(1, 3) { 6 + random.below(24) } else { 64 },
    };
    let mut disks = new_disks(random, shape);
    let mut new = new_pool(random, shape);
    let mut percent = || u16::try_from(random.below(101)).expect("small");
    (new.record.watermark_low_percent, new.record.watermark_high_percent) = (percent(), percent());
    fathom_lvs::create(&mut disks, &new).map_err(|error| error.to_string())?;
    Ok((disks, shape))
}

/// The disks that `steps` steps of the history of `seed` leave: everything is answered and at rest,
/// and the log is not empty.
///
/// # Errors
///
/// What went wrong first.
pub fn disks_after(seed: u64, steps: u32) -> Result<Disks, String> {
    let mut history = History::begin(seed)?;
    for _ in 0..steps {
        history.step()?;
    }
    history.rest()?;
    Ok(history.rig.disks)
}

/// Runs a short history of `seed`, then damages metadata on copies of the disks, at one place
/// of one member each, and opens them. What opens must be right: all of it when another member
/// has a copy, at least what was flushed when there is only one. With another copy it must
/// open. Returns how many of `trials` were opened.
///
/// # Errors
///
/// What went wrong first.
pub fn damage(seed: u64, trials: u32) -> Result<u32, String> {
    let mut history = History::begin(seed)?;
    for _ in 0..300 {
        history.step()?;
    }
    history.rest()?;
    let members = history.rig.disks.0.len();
    let crash = if members > 1 { Crash::Daemon } else { Crash::Power };
    let mut opened = 0;
    for _ in 0..trials {
        let mut disks = history.rig.disks.clone();
        let random = &mut history.random;
        let victim = usize::try_from(random.below(members.min(2) as u64)).expect("small");
        let disk = &mut disks.0[victim];
        let end = METADATA + 2 * SLOT_BYTES + history.shape.log_bytes;
        let label = |at| (at, at + 4096);
        let places = [
            label(0),
            label(METADATA / 2),
            label(disk.capacity() - 4096),
            (random.range(METADATA..end), end),
        ];
        let (at, end) = *random.pick(&places);
        if random.chance(1, 2) {
            disk.flip_bit(at, u32::try_from(random.below(8)).expect("small"));
        } else {
            let length = (1 + random.below(8192)).min(end - at);
            disk.corrupt(at..at + length, random);
        }
        let report = fathom_lvs::verify(&mut disks, OpenOptions::default());
        let damaged = report.severity() == Some(Severity::Damage);
        let opening = Rig::open(disks, OpenOptions::default());
        if opening.is_err() != damaged {
            let opened = opening.map_or_else(|failed| failed.0.to_string(), |_| "it opens".into());
            return Err(format!("{opened}, and checking found {report:?}"));
        }
        match opening {
            Ok(mut rig) => {
                let observed = observe(&mut rig, &mut history.random);
                history
                    .model
                    .check(&observed, crash)
                    .map_err(|error| format!("{error} (member {victim} damaged at {at:#x})"))?;
                opened += 1;
            }
            Err(failed) if members > 1 => {
                return Err(format!("{} (member {victim} damaged at {at:#x})", failed.0));
            }
            Err(_) => {}
        }
    }
    Ok(opened)
}

impl History {
    /// A pool with two volumes.
    fn begin(seed: u64) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let (disks, shape) = formatted(&mut random)?;
        let rig =
            Rig::open(disks, OpenOptions::default()).map_err(|failed| failed.0.to_string())?;
        let mut history = Self {
            rig,
            shape,
            // Of some histories, without changing the others.
            discards: seed.is_multiple_of(3),
            model: Model::default(),
            careless: random.chance(1, 3),
            options: OpenOptions::WHOLE,
            newcomer: None,
            hung: false,
            unsure: BTreeSet::new(),
            told: Fill::default(),
            reclaimed: (0, 0),
            random,
            under: BTreeMap::new(),
            call: None,
            next_operation: 1,
            next_uuid: 1,
            summary: Summary::default(),
        };
        history.begin_life();
        for _ in 0..2 {
            history.create_volume(None)?;
            history.rest()?;
        }
        Ok(history)
    }

    /// A pool has been opened in which life goes on.
    fn begin_life(&mut self) {
        if self.discards {
            self.rig.discard_everywhere();
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let busy = self.under.len() as u64;
        if self.under.len() < REQUESTS_MAX && !self.random.chance(busy, 2 * REQUESTS_MAX as u64) {
            self.act()?;
        }
        for _ in 0..self.random.below(6) {
            self.rig.step(&mut self.random);
        }
        self.watch_reclaiming()?;
        self.take_events()
    }

    /// Reclaiming goes forward, and begins anew only after it has said that all is done.
    fn watch_reclaiming(&mut self) -> Result<(), String> {
        let (done, ends) = (self.rig.store.reclaiming().done, self.rig.reclaimed);
        let (before, ends_before) = core::mem::replace(&mut self.reclaimed, (done, ends));
        match done < before && ends == ends_before {
            true => Err(format!("reclaiming went back from {before} to {done}")),
            false => Ok(()),
        }
    }

    /// Steps until everything is done.
    fn rest(&mut self) -> Result<(), String> {
        self.rig.pump();
        self.rig.settle(&mut self.random);
        self.take_events()?;
        match (self.under.len(), &self.call) {
            (0, None) => Ok(()),
            (requests, call) => Err(format!(
                "the store rests, but {requests} requests are unanswered, a call: {}",
                call.is_some()
            )),
        }
    }

    fn act(&mut self) -> Result<(), String> {
        if self.options.degraded && self.call.is_none() && self.random.chance(1, 20) {
            self.rejoin();
        }
        match self.random.below(102) {
            0..50 => self.write(),
            50..58 => self.zero(),
            58..66 if self.careless && self.random.chance(7, 8) => {}
            58..66 => self.flush(),
            66..82 => self.read(),
            82..84 => self.compare(),
            84..86 => self.compare_and_write(),
            _ if self.call.is_some() => {}
            86..89 => self.create_snapshots()?,
            89..92 => self.delete_snapshot()?,
            92..94 => self.roll_back()?,
            94..96 => self.create_clone()?,
            96..97 => self.delete_volume()?,
            97..98 => self.grow()?,
            98..99 => self.change_limits()?,
            99..101 => self.change_members()?,
            _ => self.create_volume(None)?,
        }
        self.rig.pump();
        Ok(())
    }

    // Requests.

    fn volume(&mut self) -> Option<u128> {
        self.model.pick(&mut self.random, |device| device.snapshot_of.is_none())
    }

    fn submit(
        &mut self,
        device: u128,
        operation: Operation,
        first: usize,
        count: usize,
        data: Vec<u8>,
        under: Under,
    ) {
        let block = self.model.devices[&device].block_size / SECTOR;
        let object = self.object(device).expect("a device that is sure exists");
        let (lba, blocks) = ((first / block) as u64, (count / block) as u64);
        let id = self.rig.submit(object, operation, lba, blocks, data);
        self.under.insert(id, (self.next_operation, under));
        self.next_operation += 1;
    }

    fn write(&mut self) {
        let Some(device) = self.volume() else { return };
        let (first, count) = self.model.devices[&device].some_range(&mut self.random);
        let operation = self.next_operation;
        let tags: Vec<u64> =
            (first..first + count).map(|sector| operation << 20 | sector as u64).collect();
        let data = tags.iter().flat_map(|&tag| content(tag)).collect();
        self.model.submit(device, operation, first, &tags);
        let fua = !self.careless && self.random.chance(1, 6);
        let under = Under::Write { device, first, count, durable: fua };
        self.submit(device, Operation::Write { fua }, first, count, data, under);
    }

    fn zero(&mut self) {
        let Some(device) = self.volume() else { return };
        let (first, count) = self.model.devices[&device].some_range(&mut self.random);
        let operation = self.next_operation;
        self.model.submit(device, operation, first, &vec![0; count]);
        let under = Under::Write { device, first, count, durable: false };
        self.submit(device, Operation::WriteZeroes, first, count, Vec::new(), under);
    }

    fn flush(&mut self) {
        let Some(device) = self.volume() else { return };
        let submitted = self.model.tick();
        let under = Under::Flush { device, submitted };
        self.submit(device, Operation::Flush, 0, 0, Vec::new(), under);
    }

    fn read(&mut self) {
        let Some(device) = self.model.pick(&mut self.random, |_| true) else { return };
        let (first, count) = self.model.devices[&device].some_range(&mut self.random);
        let content = &self.model.devices[&device];
        let expected = (first..first + count).map(|sector| content.newest_of(sector)).collect();
        let data = unread(count * SECTOR);
        let under = Under::Read { device, first, expected };
        self.submit(device, Operation::Read, first, count, data, under);
    }

    fn compare(&mut self) {
        let Some(device) = self.model.pick(&mut self.random, |_| true) else { return };
        let (first, count) = self.model.devices[&device].some_range(&mut self.random);
        let (expected, tags) = self.tags_to_compare(device, first, count);
        let data = tags.iter().flat_map(|&tag| content(tag)).collect();
        let under = Under::Compare { device, first, expected, tags };
        self.submit(device, Operation::Compare, first, count, data, under);
    }

    fn compare_and_write(&mut self) {
        let Some(device) = self.volume() else { return };
        let (first, count) = self.model.devices[&device].some_range(&mut self.random);
        let (expected, tags) = self.tags_to_compare(device, first, count);
        let operation = self.next_operation;
        let new: Vec<u64> =
            (first..first + count).map(|sector| operation << 20 | sector as u64).collect();
        let data = tags.iter().chain(&new).flat_map(|&tag| content(tag)).collect();
        if equal(&expected, &tags) {
            self.model.submit(device, operation, first, &new);
        }
        let fua = !self.careless && self.random.chance(1, 4);
        let under = Under::CompareAndWrite { device, first, expected, tags, durable: fua };
        self.submit(device, Operation::CompareAndWrite { fua }, first, count, data, under);
    }

    /// What is expected in a range, and tags to compare it with, half of the time equal.
    fn tags_to_compare(
        &mut self,
        device: u128,
        first: usize,
        count: usize,
    ) -> (Vec<Expected>, Vec<u64>) {
        let content = &self.model.devices[&device];
        let expected: Vec<Expected> =
            (first..first + count).map(|sector| content.newest_of(sector)).collect();
        let mut tags: Vec<u64> = expected.iter().map(|expected| expected.tag).collect();
        if self.random.chance(1, 2) {
            let at = usize::try_from(self.random.below(count as u64)).expect("small");
            // No sector ever has such a tag.
            tags[at] ^= 1 << 60;
        }
        (expected, tags)
    }

    fn take_events(&mut self) -> Result<(), String> {
        self.take_told()?;
        for event in core::mem::take(&mut self.rig.events) {
            match event {
                Event::Completed(id, result, data) => {
                    let (operation, under) = self.under.remove(&id).ok_or("completed twice")?;
                    self.summary.requests += 1;
                    self.completed(operation, under, result, &data)?;
                }
                Event::Done(ticket, result) => match self.call.take() {
                    Some((expected, call)) if expected == ticket => self.done(call, result)?,
                    _ => return Err("a call ended that was not under way".to_owned()),
                },
            }
        }
        Ok(())
    }

    fn completed(
        &mut self,
        operation: u64,
        under: Under,
        result: Result<(), Error>,
        data: &[u8],
    ) -> Result<(), String> {
        match (under, result) {
            (Under::Write { device, first, count, durable }, Ok(())) => {
                self.model.acknowledge(device, operation, first, count, durable);
            }
            (Under::Write { device, first, count, .. }, Err(Error::CapacityExceeded)) => {
                self.full(device, operation, first, count)?;
            }
            (
                Under::CompareAndWrite { device, first, expected, tags, .. },
                Err(Error::CapacityExceeded),
            ) if self.hung || equal(&expected, &tags) => {
                self.full(device, operation, first, tags.len())?
            }
            (Under::Flush { device, submitted }, Ok(())) => self.model.flushed(device, submitted),
            (Under::Read { expected, .. }, Ok(())) => {
                for (at, (bytes, expected)) in data.chunks(SECTOR).zip(expected).enumerate() {
                    // It was submitted behind a write of which it is not known what it has done.
                    let unsure = self.unsure.contains(&expected.operation);
                    if tag(bytes) != Some(expected.tag) && !unsure {
                        let found = tag(bytes);
                        return Err(format!(
                            "operation {operation}: sector {at} of the read is {found:x?}, not {expected:x?}"
                        ));
                    }
                }
            }
            // What was there before it may be there, and it, too.
            (_, Err(Error::NotReady | Error::WriteFault | Error::ReadFault)) if self.hung => {
                self.unsure.insert(operation);
            }
            // What they expect may have been refused.
            (Under::Read { .. } | Under::Compare { .. }, _) if self.hung => {}
            // It was held back, and its device is being deleted.
            (under, Err(Error::NotReady)) if !self.is_sure(under.device()) => match under {
                Under::Write { device, first, count, .. } => {
                    self.refused(device, operation, first, count);
                }
                Under::CompareAndWrite { device, first, tags, .. } => {
                    self.refused(device, operation, first, tags.len());
                }
                _ => {}
            },
            (Under::Compare { expected, tags, .. }, Ok(())) if equal(&expected, &tags) => {}
            (Under::Compare { expected, tags, .. }, Err(Error::CompareFailure))
                if !equal(&expected, &tags) => {}
            (Under::CompareAndWrite { device, first, expected, tags, durable }, Ok(()))
                if self.hung || equal(&expected, &tags) =>
            {
                self.model.acknowledge(device, operation, first, tags.len(), durable);
            }
            (
                Under::CompareAndWrite { device, first, expected, tags, .. },
                Err(Error::CompareFailure),
            ) if self.hung || !equal(&expected, &tags) => {
                self.refused(device, operation, first, tags.len());
            }
            (_, result) => return Err(format!("operation {operation} ended with {result:?}")),
        }
        Ok(())
    }

    /// A write met a full pool.
    fn full(
        &mut self,
        device: u128,
        operation: u64,
        first: usize,
        count: usize,
    ) -> Result<(), String> {
        self.summary.full += 1;
        self.refused(device, operation, first, count);
        let flags = self.record(device).map(|record| record.flags).filter(|_| !self.hung);
        match flags.is_some_and(|flags| flags.thick) {
            true => Err(format!("thick volume {device:x} met a full pool")),
            false => Ok(()),
        }
    }

    /// A write changed nothing: what was expected of it is what was there before.
    fn refused(&mut self, device: u128, operation: u64, first: usize, count: usize) {
        // What waited behind a merge may be answered after its device has been deleted.
        let Some(content) = self.model.devices.get(&device) else { return };
        for (_, under) in self.under.values_mut() {
            let (of, begin, expected) = match under {
                Under::Read { device, first, expected }
                | Under::Compare { device, first, expected, .. }
                | Under::CompareAndWrite { device, first, expected, .. } => {
                    (*device, *first, expected)
                }
                Under::Write { .. } | Under::Flush { .. } => continue,
            };
            for (sector, expected) in (begin..).zip(expected) {
                if of == device
                    && expected.operation == operation
                    && let Some(before) = content.before(sector, operation)
                {
                    *expected = before;
                }
            }
        }
        self.model.refuse(operation, first, count);
    }

    // Calls.

    fn new_uuid(&mut self) -> u128 {
        self.next_uuid += 1;
        0x1000 + self.next_uuid
    }

    fn record(&self, device: u128) -> Option<&VolumeRecord> {
        self.rig.store.volumes().find(|record| record.uuid.as_u128() == device)
    }

    fn object(&self, device: u128) -> Option<ObjectId> {
        let snapshot = || {
            let mut snapshots = self.rig.store.snapshots();
            snapshots.find(|record| record.uuid.as_u128() == device).map(|record| record.id)
        };
        self.record(device).map(|record| record.id).or_else(snapshot)
    }

    fn is_sure(&self, device: u128) -> bool {
        let device = self.model.devices.get(&device);
        device.is_some_and(|device| device.existence == Existence::Sure)
    }

    fn count(&self, snapshots: bool) -> usize {
        self.model
            .devices
            .values()
            .filter(|device| device.snapshot_of.is_some() == snapshots)
            .count()
    }

    fn create_volume(&mut self, source: Option<u128>) -> Result<(), String> {
        if self.count(false) >= VOLUMES_MAX {
            return Ok(());
        }
        let uuid = self.new_uuid();
        let origin = source.map(|source| {
            let held = self.held_back(source);
            self.model.devices[&source].branch(None, &held)
        });
        let block_size = match &origin {
            Some(origin) => origin.block_size,
            None => *self.random.pick(&[512, 4096, 4096]),
        };
        let sectors = origin
            .as_ref()
            .map_or_else(|| 8 * (1 + self.random.below(128)), |origin| origin.len() as u64);
        let write_through = !self.careless && self.random.chance(1, 5);
        let size = sectors * SECTOR as u64;
        let mut new = new_volume(uuid, size, u32::try_from(block_size).expect("small"));
        new.record.flags.thick = self.random.chance(1, 5);
        new.record.flags.write_cache_off = write_through;
        if self.random.chance(1, 4) {
            new.record.limits = self.some_limits();
        }
        new.source = source.and_then(|source| self.object(source));
        let Ok(ticket) = self.rig.store.create_volume(new) else { return Ok(()) };
        let sectors = usize::try_from(sectors).expect("small");
        let device = match origin {
            Some(mut device) => {
                device.write_through = write_through;
                device
            }
            None => Device::new(sectors, block_size, write_through),
        };
        self.model.devices.insert(uuid, device);
        self.call = Some((ticket, Call::Create(uuid)));
        Ok(())
    }

    fn create_clone(&mut self) -> Result<(), String> {
        match self.model.pick(&mut self.random, |_| true) {
            Some(source) => self.create_volume(Some(source)),
            None => Ok(()),
        }
    }

    fn create_snapshots(&mut self) -> Result<(), String> {
        if self.count(true) >= SNAPSHOTS_MAX {
            return Ok(());
        }
        let mut volumes: Vec<u128> = (0..1 + self.random.below(2))
            .filter_map(|_| {
                self.model.pick(&mut self.random, |device| device.snapshot_of.is_none())
            })
            .collect();
        volumes.sort_unstable();
        volumes.dedup();
        if volumes.is_empty() {
            return Ok(());
        }
        let mut new = Vec::new();
        let mut devices = Vec::new();
        for &volume in &volumes {
            let uuid = self.new_uuid();
            new.push(NewSnapshot {
                volume: self.object(volume).expect("it exists"),
                name: format!("s{uuid:x}"),
                uuid: Uuid::from_u128(uuid),
                created_ns: 1,
                labels: Vec::new(),
            });
            let held = self.held_back(volume);
            devices.push((uuid, self.model.devices[&volume].branch(Some(volume), &held)));
        }
        let Ok(ticket) = self.rig.store.create_snapshots(new) else { return Ok(()) };
        let uuids = devices.iter().map(|(uuid, _)| *uuid).collect();
        self.model.devices.extend(devices);
        self.call = Some((ticket, Call::Snapshot(uuids)));
        Ok(())
    }

    fn delete_snapshot(&mut self) -> Result<(), String> {
        let snapshot = self.model.pick(&mut self.random, |device| device.snapshot_of.is_some());
        let Some(uuid) = snapshot else { return Ok(()) };
        let object = self.object(uuid).expect("it exists");
        let ticket = self.rig.store.delete_snapshot(object).map_err(|error| error.to_string())?;
        self.going(uuid, ticket);
        Ok(())
    }

    fn delete_volume(&mut self) -> Result<(), String> {
        let Some(uuid) = self.volume() else { return Ok(()) };
        let object = self.object(uuid).expect("it exists");
        let ticket = self.rig.store.delete_volume(object).map_err(|error| error.to_string())?;
        self.going(uuid, ticket);
        Ok(())
    }

    fn going(&mut self, uuid: u128, ticket: Ticket) {
        self.model.devices.get_mut(&uuid).expect("it exists").existence = Existence::Going;
        self.call = Some((ticket, Call::Delete(uuid)));
    }

    fn roll_back(&mut self) -> Result<(), String> {
        let snapshot = self.model.pick(&mut self.random, |device| device.snapshot_of.is_some());
        let Some(snapshot) = snapshot else { return Ok(()) };
        let volume = self.model.devices[&snapshot].snapshot_of.expect("it is a snapshot");
        let sure = |device: &Device| device.existence == Existence::Sure;
        if !self.model.devices.get(&volume).is_some_and(sure) {
            return Ok(());
        }
        let (object, source) = (self.object(volume), self.object(snapshot));
        let (object, source) = (object.expect("it exists"), source.expect("it exists"));
        let ticket = self.rig.store.rollback(object, source).map_err(|error| error.to_string())?;
        let operation = self.next_operation;
        self.next_operation += 1;
        let held = self.held_back(volume);
        self.model.roll_back(volume, snapshot, operation, &held);
        self.expect_rollback(volume, operation, &held);
        self.call = Some((ticket, Call::RollBack { volume, operation }));
        Ok(())
    }

    fn grow(&mut self) -> Result<(), String> {
        let Some(volume) = self.volume() else { return Ok(()) };
        let more = usize::try_from(8 * (1 + self.random.below(64))).expect("small");
        let sectors = self.model.devices[&volume].len() + more;
        let object = self.object(volume).expect("it exists");
        let Ok(ticket) = self.rig.store.resize_volume(object, (sectors * SECTOR) as u64) else {
            return Ok(());
        };
        self.model.grow(volume, sectors);
        self.call = Some((ticket, Call::Grow(volume)));
        Ok(())
    }

    fn done(&mut self, call: Call, result: Result<(), Failed>) -> Result<(), String> {
        if let Err(failed) = result {
            // Space that was there when the call was made may be gone when its turn comes.
            let Failed::Refused(_) = failed else { return Err(failed.to_string()) };
            match call {
                Call::Create(uuid) => drop(self.model.devices.remove(&uuid)),
                Call::Snapshot(uuids) => {
                    self.model.devices.retain(|uuid, _| !uuids.contains(uuid));
                }
                Call::Grow(volume) => self.model.not_grown(volume),
                _ => return Err(failed.to_string()),
            }
            return Ok(());
        }
        match call {
            Call::Create(uuid) => self.model.fixed(uuid),
            Call::Snapshot(uuids) => uuids.into_iter().for_each(|uuid| self.model.fixed(uuid)),
            Call::Delete(uuid) => drop(self.model.devices.remove(&uuid)),
            Call::RollBack { volume, operation } => {
                let sectors = self.model.devices[&volume].len();
                self.model.acknowledge(volume, operation, 0, sectors, true);
            }
            Call::Grow(volume) => self.model.grown(volume),
            Call::Limit | Call::GiveUp => {}
            Call::AddMember | Call::GrowMember(_) | Call::Rejoin => self.members_changed(&call)?,
        }
        Ok(())
    }
}
