//! The crashes of a history, what has to hold after each, and its end.

use std::collections::BTreeMap;

use fathom_block::Operation;
use fathom_lvs::{Fill, Reclaiming};
use fathom_test_support::{
    disk::{Cut, SimulatedDisk},
    random::Random,
};

use super::History;
use crate::{
    model::{Crash, SECTOR},
    pool::CLUSTER,
    rig::{Event, Rig, STEPS_MAX, unread},
};

impl History {
    pub(super) fn crash(&mut self) -> Result<(), String> {
        let cut = self.random.chance(2, 3).then(|| *self.random.pick(&Cut::ALL));
        let mut crash = if cut.is_some() { Crash::Power } else { Crash::Daemon };
        let mut disks = self.rig.crash(&mut self.random, cut);
        let mut rig = loop {
            if self.random.chance(1, 3) {
                let victim = self.random.below(disks.0.len() as u64);
                let operations = self.random.below(16);
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
        self.hung = false;
        self.unsure.clear();
        self.told = Fill::default();
        self.under.clear();
        self.call = None;
        self.reclaimed = (0, self.rig.reclaimed);
        self.check_reclaimed()
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
    for (uuid, object, size, block_size) in volumes.into_iter().chain(snapshots) {
        let blocks = size.0 / u64::from(block_size);
        let data = unread(usize::try_from(size.0).expect("small"));
        let id = rig.submit(object, Operation::Read, 0, blocks, data);
        reads.insert(id, uuid.as_u128());
    }
    let mut observed = BTreeMap::new();
    for _ in 0..STEPS_MAX {
        if reads.is_empty() {
            return observed;
        }
        rig.step(random);
        rig.events.retain_mut(|event| match event {
            Event::Completed(id, result, data) if reads.contains_key(id) => {
                assert_eq!(*result, Ok(()), "reading everything");
                let uuid = reads.remove(id).expect("just seen");
                observed.insert(uuid, core::mem::take(data));
                false
            }
            _ => true,
        });
    }
    panic!("reading everything does not end: {:?}", rig.store);
}
