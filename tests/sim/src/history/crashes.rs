//! The crashes of a history, what has to hold after each, and its end.

use std::collections::BTreeMap;

use fathom_block::{Error, Operation};
use fathom_lvs::{Fill, IoKind, MemberIo, OpenOptions, Reclaiming, Severity};
use fathom_test_support::{
    disk::{Cut, SimulatedDisk},
    random::Random,
};

use super::History;
use crate::{
    model::{Crash, SECTOR, UNREADABLE},
    pool::{CLUSTER, METADATA, SLOT_BYTES},
    rig::{Disks, Event, Rig, STEPS_MAX, unread},
};

/// Steps in which a checkpoint may come to its headers.
const HEADER_STEPS: u32 = 400;

impl History {
    pub(super) fn crash(&mut self) -> Result<(), String> {
        if self.random.chance(1, 4) {
            self.await_headers_apart()?;
        }
        let cut = self.random.chance(2, 3).then(|| *self.random.pick(&Cut::ALL));
        let mut crash = if cut.is_some() { Crash::Power } else { Crash::Daemon };
        let mut disks = self.rig.crash(&mut self.random, cut);
        disks.0.iter_mut().for_each(SimulatedDisk::clear_faults);
        let all = disks.clone();
        self.leave_unlabelled(&mut disks);
        self.check_alone(&disks, crash)?;
        self.check_offline(&mut disks)?;
        let mut rig = loop {
            if self.random.chance(1, 3) {
                let victim = self.random.below(disks.0.len() as u64);
                let most = if self.random.chance(1, 2) { 16 } else { 64 };
                let operations = self.random.below(most);
                disks.0[usize::try_from(victim).expect("small")].die_after(operations);
            }
            match Rig::open(disks, self.options) {
                Ok(rig) => break rig,
                Err(failed) => {
                    let error;
                    (error, disks) = *failed;
                    if !disks.0.iter().any(SimulatedDisk::dead) {
                        return Err(format!("after {crash:?} (cut {cut:?}): {error}"));
                    }
                    self.summary.double_crashes += 1;
                    if self.random.chance(2, 3) {
                        crash = Crash::Power;
                        let cut = *self.random.pick(&Cut::ALL);
                        disks.power_cut(&mut self.random, cut);
                    }
                    for disk in &mut disks.0 {
                        disk.revive();
                    }
                    self.leave_unlabelled(&mut disks);
                    self.check_alone(&disks, crash)?;
                }
            }
        };
        for disk in &mut rig.disks.0 {
            disk.revive();
        }
        self.summary.crashes += 1;
        self.summary.replayed += rig.replayed;
        self.summary.taken_back += rig.taken_back;
        let mut random = self.random.fork("verify");
        let observed = observe(&mut rig, &mut random);
        let explain = |error: String| format!("{error} (crash {crash:?}, cut {cut:?})");
        self.model.check(&observed, crash).map_err(explain)?;
        if !self.hung && !self.random.chance(1, 4) {
            return Ok(());
        }
        // Life goes on from here. What was observed stays, whatever is done in the background.
        rig.settle(&mut random);
        self.model.adopt(&observed);
        let later = observe(&mut rig, &mut random);
        self.model.check(&later, Crash::Daemon).map_err(|e| format!("{e} (after reclaiming)"))?;
        self.count_held_back();
        self.rig = rig;
        self.begin_life();
        self.hung = false;
        self.unsure.clear();
        self.told = Fill::default();
        self.under.clear();
        self.call = None;
        self.reclaimed = (0, self.rig.reclaimed);
        self.check_reclaimed()?;
        self.check_audit()?;
        self.resume_newcomer(&all)
    }

    /// Whatever a crash leaves, checking finds no damage in it. It takes its time, so not always.
    fn check_offline(&self, disks: &mut Disks) -> Result<(), String> {
        if !self.summary.crashes.is_multiple_of(8) {
            return Ok(());
        }
        let report = fathom_lvs::verify(disks, self.options);
        if report.severity() == Some(Severity::Damage) {
            return Err(format!("after a crash checking found {report:?}"));
        }
        Ok(())
    }

    /// Goes on, for a while at most, until one metadata member has the header of a checkpoint and
    /// the other one has not.
    fn await_headers_apart(&mut self) -> Result<(), String> {
        let headers = [METADATA, METADATA + SLOT_BYTES];
        let of_header = |io: &MemberIo| {
            io.kind == IoKind::Write { fua: true } && headers.contains(&io.offset.0)
        };
        for _ in 0..HEADER_STEPS {
            if self.rig.under_way(of_header) == 1 {
                break;
            }
            if !self.rig.has_io() {
                self.write();
                self.rig.pump();
            }
            self.rig.step(&mut self.random);
        }
        self.take_events()
    }

    /// Tries what is left without one of the members: a crash leaves each metadata member with all
    /// that it takes to open, and what is on others can be read. Then it is back.
    fn check_alone(&mut self, disks: &Disks, crash: Crash) -> Result<(), String> {
        if !self.has_two_copies() || self.hung || self.options.degraded || !self.random.chance(1, 3)
        {
            return Ok(());
        }
        let mut random = self.random.fork("alone");
        let missing = usize::try_from(random.below(disks.0.len() as u64)).expect("few");
        let mut left = disks.clone();
        left.0.remove(missing);
        let what = |error: String| format!("without member {missing}, after {crash:?}: {error}");
        let mut rig = match Rig::open(left, OpenOptions::DEGRADED) {
            Ok(rig) => rig,
            Err(failed) => return Err(what(failed.0.to_string())),
        };
        self.summary.alone += 1;
        let observed = observe_readable(&mut rig, &mut random);
        self.model.check_readable(&observed, crash).map_err(what)?;
        // What has to be proved there is kept, and proved when the member is back.
        rig.settle(&mut random);
        let cut = random.chance(1, 2).then(|| *random.pick(&Cut::ALL));
        let mut back = rig.crash(&mut random, cut);
        back.0.insert(missing, disks.0[missing].clone());
        let crash = if cut.is_some() { Crash::Power } else { crash };
        let options = if missing < 2 { OpenOptions::DEGRADED } else { OpenOptions::WHOLE };
        let mut rig = Rig::open(back, options).map_err(|failed| what(failed.0.to_string()))?;
        let observed = observe(&mut rig, &mut random);
        self.model.check(&observed, crash).map_err(|error| format!("{} (back)", what(error)))
    }

    /// The end: everything is right, and when everything is deleted everything is free.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.rest()?;
        self.count_held_back();
        let mut random = self.random.fork("end");
        let observed = observe(&mut self.rig, &mut random);
        self.model.check(&observed, Crash::Daemon)?;
        while self.count(true) > 0 {
            self.delete_snapshot()?;
            self.rest()?;
        }
        let observed = observe(&mut self.rig, &mut random);
        self.model.check(&observed, Crash::Daemon)?;
        self.check_allocation()?;
        self.check_audit()?;
        self.check_reclaimed()?;
        while self.count(false) > 0 {
            let ends = self.rig.reclaimed;
            self.delete_volume()?;
            self.rest()?;
            self.check_reclaimed()?;
            if self.rig.reclaimed == ends {
                return Err("nothing told that a deleted volume was reclaimed".to_owned());
            }
        }
        match self.rig.store.capacity().allocated.0 {
            0 => Ok(()),
            left => Err(format!("{left} bytes are allocated in an empty pool")),
        }
    }

    /// The store rests: what it keeps for quick answers is what follows from the rest.
    fn check_audit(&self) -> Result<(), String> {
        let wrong = self.rig.store.audit();
        if wrong.is_empty() { Ok(()) } else { Err(format!("accounting is wrong: {wrong:?}")) }
    }

    /// Without snapshots, a cluster is allocated just where a volume holds data.
    fn check_allocation(&mut self) -> Result<(), String> {
        let sectors = usize::try_from(CLUSTER).expect("small") / SECTOR;
        let mut least = 0;
        let mut exact = true;
        for device in self.model.devices.values() {
            // Zeroing part of a block of 4 KiB writes zeros, which the model cannot tell apart.
            exact &= device.block_size == 4096;
            least += (0..device.len())
                .step_by(sectors)
                .filter(|&first| {
                    let end = (first + sectors).min(device.len());
                    (first..end).any(|sector| device.newest(sector) != 0)
                })
                .count() as u64;
        }
        let shared = self.rig.store.capacity().shared.0;
        let allocated = self.rig.store.capacity().allocated.0 / CLUSTER;
        if shared == 0 && (allocated < least || exact && allocated != least) {
            return Err(format!("{allocated} clusters are allocated, {least} hold data"));
        }
        Ok(())
    }

    /// The store rests: nothing is left to be reclaimed.
    fn check_reclaimed(&self) -> Result<(), String> {
        let progress = self.rig.store.reclaiming();
        match progress == Reclaiming::default() {
            true => Ok(()),
            false => Err(format!("the store rests, and reclaiming is at {progress:?}")),
        }
    }
}

/// Reads every volume and snapshot whole, by UUID.
///
/// # Panics
///
/// When a read fails or does not end.
pub fn observe(rig: &mut Rig, random: &mut Random) -> BTreeMap<u128, Vec<u8>> {
    read_all(rig, random, u64::MAX, |result, _| assert_eq!(result, Ok(()), "reading everything"))
}

/// The same where members are missing or blocks are lost: those are [`UNREADABLE`].
///
/// # Panics
///
/// When a read does not end, or fails because of something else.
pub(super) fn observe_readable(rig: &mut Rig, random: &mut Random) -> BTreeMap<u128, Vec<u8>> {
    read_all(rig, random, 4096, |result, data| match result {
        Ok(()) => {}
        Err(Error::NotReady | Error::ReadFault) => data.fill(UNREADABLE),
        Err(error) => panic!("{error}"),
    })
}

/// Reads every volume and snapshot in pieces of `piece` bytes; `judge` sees each answer.
fn read_all(
    rig: &mut Rig,
    random: &mut Random,
    piece: u64,
    judge: impl Fn(Result<(), Error>, &mut Vec<u8>),
) -> BTreeMap<u128, Vec<u8>> {
    let volumes: Vec<_> = rig
        .store
        .volumes()
        .filter(|record| record.tip.is_some())
        .map(|record| (record.uuid, record.id, record.size, record.logical_block_size))
        .collect();
    let snapshots: Vec<_> = rig
        .store
        .snapshots()
        .map(|record| {
            let mut volumes = rig.store.volumes();
            let volume = volumes.find(|volume| volume.id == record.volume);
            let block_size = volume.expect("a snapshot has a volume").logical_block_size;
            (record.uuid, record.id, record.size, block_size)
        })
        .collect();
    let mut reads = BTreeMap::new();
    let mut observed: BTreeMap<u128, Vec<u8>> = BTreeMap::new();
    for (uuid, object, size, block_size) in volumes.into_iter().chain(snapshots) {
        let whole = usize::try_from(size.0).expect("small");
        observed.insert(uuid.as_u128(), unread(whole));
        let mut at = 0;
        while at < size.0 {
            let bytes = piece.min(size.0 - at);
            let data = unread(usize::try_from(bytes).expect("small"));
            let block_size = u64::from(block_size);
            let id = rig.submit(object, Operation::Read, at / block_size, bytes / block_size, data);
            reads.insert(id, (uuid.as_u128(), usize::try_from(at).expect("small")));
            at += bytes;
        }
    }
    for _ in 0..STEPS_MAX {
        if reads.is_empty() {
            return observed;
        }
        rig.step(random);
        rig.events.retain_mut(|event| match event {
            Event::Completed(id, result, data) if reads.contains_key(id) => {
                let (uuid, at) = reads.remove(id).expect("just seen");
                judge(*result, data);
                observed.get_mut(&uuid).expect("it was asked for")[at..at + data.len()]
                    .copy_from_slice(data);
                false
            }
            _ => true,
        });
    }
    panic!("reading everything does not end: {:?}", rig.store);
}
