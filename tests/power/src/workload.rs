//! A random workload, and its journal.

use std::collections::{BTreeMap, BTreeSet};

use fathom_block::Operation;
use fathom_test_sim::model::{Device, Existence, Expected, SECTOR, content, tag};
use fathom_test_support::random::Random;

use crate::{
    journal::{Journal, Observed},
    subject::{Answer, Call, Ended, Request, Subject, Volume},
};

/// Requests under way at most.
const REQUESTS_MAX: usize = 16;
const VOLUMES_MAX: usize = 4;
const SNAPSHOTS_MAX: usize = 6;
/// Sectors of a new volume at most.
const SECTORS_MAX: u64 = 1024;
/// What room for a read is filled with, so that nothing read shows.
const UNREAD: u8 = 0xEE;

enum Under {
    Write { device: u128, first: usize, count: usize, durable: bool },
    Flush { device: u128, submitted: u64 },
    Read { expected: Vec<Expected> },
}

/// The workload, as far as it has come.
pub struct Workload {
    journal: Journal,
    random: Random,
    /// Each request with the number of its operation in the model.
    under: BTreeMap<u64, Under>,
    call: Option<(Call, u64)>,
    next_operation: u64,
    next_uuid: u128,
    /// Flushes are rare: much is unsettled at any time.
    careless: bool,
    /// Requests answered.
    pub answered: u64,
}

impl Workload {
    /// A workload that keeps `journal`.
    #[must_use]
    pub fn new(journal: Journal, mut random: Random) -> Self {
        Self {
            journal,
            careless: random.chance(1, 3),
            random,
            under: BTreeMap::new(),
            call: None,
            next_operation: 1,
            next_uuid: 0x1000,
            answered: 0,
        }
    }

    /// Does something, and takes some answers.
    ///
    /// # Errors
    ///
    /// When the subject is broken, answers an error, or a read brings what nobody wrote.
    pub fn step(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        let busy = self.under.len() as u64;
        if self.under.len() < REQUESTS_MAX && !self.random.chance(busy, 2 * REQUESTS_MAX as u64) {
            self.act(subject)?;
        }
        for _ in 0..self.random.below(3) {
            self.take(subject)?;
        }
        if self.random.chance(1, 100) {
            self.rest(subject)?;
        }
        Ok(())
    }

    /// Waits until everything is answered, and what is done in the background has ended.
    ///
    /// # Errors
    ///
    /// As [`Workload::step`].
    pub fn rest(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        while self.take(subject)? {}
        subject.rest()
    }

    /// The subject died: nothing that is under way will be answered.
    pub fn crashed(&mut self) {
        self.under.clear();
        self.call = None;
    }

    /// Reads every device of a subject that does nothing else.
    ///
    /// # Errors
    ///
    /// When the subject is broken or answers an error.
    pub fn observe(&mut self, subject: &mut dyn Subject) -> Result<Observed, String> {
        let mut reads = BTreeMap::new();
        for device in subject.devices()? {
            let id = self.next();
            let data = vec![UNREAD; usize::try_from(device.bytes).expect("small")];
            let blocks = device.bytes / u64::from(device.block_size);
            let (device, operation) = (device.uuid, Operation::Read);
            subject.submit(Request { id, device, operation, first: 0, blocks, data })?;
            reads.insert(id, device);
        }
        let mut observed = Observed::new();
        while !reads.is_empty() {
            match subject.wait()? {
                Answer::Request { id, result, data } => {
                    result.map_err(|error| format!("reading everything: {error}"))?;
                    let device = reads.remove(&id).ok_or("an answer to nothing")?;
                    observed.insert(device, data);
                }
                Answer::Call(_) => return Err("a call ended that was not under way".to_owned()),
            }
        }
        Ok(observed)
    }

    fn next(&mut self) -> u64 {
        self.next_operation += 1;
        self.next_operation - 1
    }

    fn new_uuid(&mut self) -> u128 {
        self.next_uuid += 1;
        self.next_uuid
    }

    fn act(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        let volumes = self.count(false);
        match self.random.below(100) {
            _ if volumes == 0 && self.call.is_none() => self.create(subject, None),
            0..56 => self.write(subject),
            56..66 => self.zero(subject),
            66..74 if self.careless && self.random.chance(7, 8) => Ok(()),
            66..74 => self.flush(subject),
            74..84 => self.read(subject),
            _ if self.call.is_some() => Ok(()),
            84..88 => self.snapshot(subject),
            88..92 => self.delete(subject, |device| device.snapshot_of.is_some()),
            92..94 => self.roll_back(subject),
            94..96 => match self.pick(|_| true) {
                Some(source) => self.create(subject, Some(source)),
                None => Ok(()),
            },
            96..97 => self.delete(subject, |device| device.snapshot_of.is_none()),
            97..98 => self.grow(subject),
            _ => self.create(subject, None),
        }
    }

    // Requests.

    fn pick(&mut self, fits: impl Fn(&Device) -> bool) -> Option<u128> {
        self.journal.lock().model.pick(&mut self.random, fits)
    }

    fn volume(&mut self) -> Option<u128> {
        self.pick(|device| device.snapshot_of.is_none())
    }

    /// Submits a request of whole sectors. Its journal has been written.
    fn submit(
        &mut self,
        subject: &mut dyn Subject,
        request: (u64, u128, Operation),
        (first, count): (usize, usize),
        data: Vec<u8>,
        under: Under,
    ) -> Result<(), String> {
        let (id, device, operation) = request;
        let block = self.journal.lock().model.devices[&device].block_size / SECTOR;
        let (first, blocks) = ((first / block) as u64, (count / block) as u64);
        self.under.insert(id, under);
        subject.submit(Request { id, device, operation, first, blocks, data })
    }

    fn write(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        let Some(device) = self.volume() else { return Ok(()) };
        let (first, count) =
            self.journal.lock().model.devices[&device].some_range(&mut self.random);
        let id = self.next();
        let tags: Vec<u64> =
            (first..first + count).map(|sector| id << 20 | sector as u64).collect();
        let data = tags.iter().flat_map(|&tag| content(tag)).collect();
        self.journal.lock().model.submit(device, id, first, &tags);
        let fua = !self.careless && self.random.chance(1, 6);
        let under = Under::Write { device, first, count, durable: fua };
        let request = (id, device, Operation::Write { fua });
        self.submit(subject, request, (first, count), data, under)
    }

    fn zero(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        let Some(device) = self.volume() else { return Ok(()) };
        let (first, count) =
            self.journal.lock().model.devices[&device].some_range(&mut self.random);
        let id = self.next();
        self.journal.lock().model.submit(device, id, first, &vec![0; count]);
        let under = Under::Write { device, first, count, durable: false };
        let request = (id, device, Operation::WriteZeroes);
        self.submit(subject, request, (first, count), Vec::new(), under)
    }

    fn flush(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        let Some(device) = self.volume() else { return Ok(()) };
        let id = self.next();
        let submitted = self.journal.lock().model.tick();
        let under = Under::Flush { device, submitted };
        self.submit(subject, (id, device, Operation::Flush), (0, 0), Vec::new(), under)
    }

    fn read(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        let Some(device) = self.pick(|_| true) else { return Ok(()) };
        let (first, count) =
            self.journal.lock().model.devices[&device].some_range(&mut self.random);
        let id = self.next();
        let expected = {
            let record = self.journal.lock();
            let device = &record.model.devices[&device];
            (first..first + count).map(|sector| device.newest_of(sector)).collect()
        };
        let data = vec![UNREAD; count * SECTOR];
        let request = (id, device, Operation::Read);
        self.submit(subject, request, (first, count), data, Under::Read { expected })
    }

    /// Takes an answer, if any is to come; whether one was.
    fn take(&mut self, subject: &mut dyn Subject) -> Result<bool, String> {
        if self.under.is_empty() && self.call.is_none() {
            return Ok(false);
        }
        match subject.wait()? {
            Answer::Request { id, result, data } => {
                let under = self.under.remove(&id).ok_or("an answer to nothing")?;
                self.answered += 1;
                result.map_err(|error| format!("operation {id}: {error}"))?;
                self.completed(id, under, &data)?;
            }
            Answer::Call(ended) => {
                let (call, operation) = self.call.take().ok_or("a call ended that was not")?;
                self.ended(&call, operation, ended)?;
            }
        }
        Ok(true)
    }

    fn completed(&mut self, id: u64, under: Under, data: &[u8]) -> Result<(), String> {
        let mut record = self.journal.lock();
        match under {
            Under::Write { device, first, count, durable } => {
                record.model.acknowledge(device, id, first, count, durable);
            }
            Under::Flush { device, submitted } => record.model.flushed(device, submitted),
            Under::Read { expected, .. } => {
                for (at, (bytes, expected)) in data.chunks(SECTOR).zip(expected).enumerate() {
                    let found = tag(bytes);
                    if found != Some(expected.tag) {
                        return Err(format!(
                            "operation {id}: sector {at} of the read is {found:x?}, not \
                             {expected:x?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    // Calls.

    fn count(&self, snapshots: bool) -> usize {
        let record = self.journal.lock();
        let devices = record.model.devices.values();
        devices.filter(|device| device.snapshot_of.is_some() == snapshots).count()
    }

    /// Begins a call whose journal has been written as `operation`.
    fn call(
        &mut self,
        subject: &mut dyn Subject,
        call: Call,
        operation: u64,
    ) -> Result<(), String> {
        subject.call(&call)?;
        self.call = Some((call, operation));
        Ok(())
    }

    fn create(&mut self, subject: &mut dyn Subject, source: Option<u128>) -> Result<(), String> {
        if self.count(false) >= VOLUMES_MAX {
            return Ok(());
        }
        let uuid = self.new_uuid();
        let block_size = *self.random.pick(&[512, 4096, 4096]);
        let sectors = 8 * (1 + self.random.below(SECTORS_MAX / 8));
        let write_cache_off = !self.careless && self.random.chance(1, 5);
        let thick = self.random.chance(1, 3);
        let device = match source {
            Some(source) => {
                let mut device =
                    self.journal.lock().model.devices[&source].branch(None, &BTreeSet::new());
                device.write_through = write_cache_off;
                device
            }
            None => {
                let sectors = usize::try_from(sectors).expect("small");
                Device::new(sectors, block_size, write_cache_off)
            }
        };
        let volume = Volume {
            uuid,
            bytes: (device.len() * SECTOR) as u64,
            block_size: u32::try_from(device.block_size).expect("small"),
            thick,
            write_cache_off,
            source,
        };
        self.journal.lock().model.devices.insert(uuid, device);
        self.call(subject, Call::Create(volume), 0)
    }

    fn snapshot(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        if self.count(true) >= SNAPSHOTS_MAX {
            return Ok(());
        }
        let mut volumes: Vec<u128> =
            (0..1 + self.random.below(2)).filter_map(|_| self.volume()).collect();
        volumes.sort_unstable();
        volumes.dedup();
        if volumes.is_empty() {
            return Ok(());
        }
        let mut pairs = Vec::new();
        for volume in volumes {
            let uuid = self.new_uuid();
            let model = &mut self.journal.lock().model;
            let device = model.devices[&volume].branch(Some(volume), &BTreeSet::new());
            model.devices.insert(uuid, device);
            pairs.push((volume, uuid));
        }
        self.call(subject, Call::Snapshot(pairs), 0)
    }

    fn delete(
        &mut self,
        subject: &mut dyn Subject,
        fits: impl Fn(&Device) -> bool,
    ) -> Result<(), String> {
        let Some(uuid) = self.pick(fits) else { return Ok(()) };
        {
            let devices = &mut self.journal.lock().model.devices;
            devices.get_mut(&uuid).expect("just picked").existence = Existence::Going;
        }
        self.call(subject, Call::Delete(uuid), 0)
    }

    fn roll_back(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        let snapshot = self.pick(|device| device.snapshot_of.is_some());
        let Some(snapshot) = snapshot else { return Ok(()) };
        let operation = self.next();
        let volume = {
            let model = &mut self.journal.lock().model;
            let volume = model.devices[&snapshot].snapshot_of.expect("it is a snapshot");
            let there = model.devices.get(&volume);
            if there.is_none_or(|device| device.existence != Existence::Sure) {
                return Ok(());
            }
            model.roll_back(volume, snapshot, operation, &BTreeSet::new());
            volume
        };
        self.call(subject, Call::RollBack { volume, snapshot }, operation)
    }

    fn grow(&mut self, subject: &mut dyn Subject) -> Result<(), String> {
        let Some(volume) = self.volume() else { return Ok(()) };
        let more = usize::try_from(8 * (1 + self.random.below(64))).expect("small");
        let sectors = {
            let model = &mut self.journal.lock().model;
            let sectors = model.devices[&volume].len() + more;
            model.grow(volume, sectors);
            sectors
        };
        self.call(subject, Call::Grow { volume, bytes: (sectors * SECTOR) as u64 }, 0)
    }

    fn ended(&mut self, call: &Call, operation: u64, ended: Ended) -> Result<(), String> {
        let model = &mut self.journal.lock().model;
        if let Ended::Refused(reason) = ended {
            // Space may be too scarce for a volume or a snapshot, and for nothing else.
            match call {
                Call::Create(volume) => drop(model.devices.remove(&volume.uuid)),
                Call::Snapshot(pairs) => {
                    model.devices.retain(|uuid, _| pairs.iter().all(|pair| pair.1 != *uuid));
                }
                Call::Grow { volume, .. } => model.not_grown(*volume),
                _ => return Err(format!("{call:?} was refused: {reason}")),
            }
            return Ok(());
        }
        match call {
            Call::Create(volume) => model.fixed(volume.uuid),
            Call::Snapshot(pairs) => pairs.iter().for_each(|pair| model.fixed(pair.1)),
            Call::Delete(uuid) => drop(model.devices.remove(uuid)),
            Call::RollBack { volume, .. } => {
                let sectors = model.devices[volume].len();
                model.acknowledge(*volume, operation, 0, sectors, true);
            }
            Call::Grow { volume, .. } => model.grown(*volume),
        }
        Ok(())
    }
}
