//! All disks at one moment, and what a crash at that moment leaves of them.

use std::sync::Arc;

use fathom_test_support::{
    disk::{Cut, PAGE_BYTES, SimulatedDisk},
    random::Random,
};

use crate::request::{Failure, Kind};

/// An operation with its data.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// What a write writes.
    pub(crate) data: Option<Arc<[u8]>>,
}

impl Operation {
    /// Does it on the disk. A read gives its bytes, fewer than asked at the end of the disk.
    pub(crate) fn execute(&self, disk: &mut SimulatedDisk) -> Result<Vec<u8>, Failure> {
        let end = self.offset.saturating_add(self.length);
        match self.kind {
            Kind::Read => return read(disk, self.offset, end.min(disk.capacity())),
            Kind::Write { fua } => {
                if end > disk.capacity() {
                    disk.grow(end.next_multiple_of(PAGE_BYTES));
                }
                let data = self.data.as_deref().expect("a write has data");
                disk.write(self.offset, data, fua)
            }
            // A hole is punched up to the end of the file, and beyond it nothing is changed.
            Kind::Discard if self.offset >= disk.capacity() => Ok(()),
            Kind::Discard => disk.discard(self.offset, end.min(disk.capacity()) - self.offset),
            Kind::Flush => disk.flush(),
            Kind::Grow => {
                if end > disk.capacity() {
                    disk.grow(end.next_multiple_of(PAGE_BYTES));
                }
                Ok(())
            }
        }
        .map_err(Failure::from)?;
        Ok(Vec::new())
    }
}

/// Reads whole sectors and returns what was asked of them: a program that reads without
/// `O_DIRECT` may ask for any bytes.
fn read(disk: &mut SimulatedDisk, offset: u64, end: u64) -> Result<Vec<u8>, Failure> {
    if offset >= end {
        return Ok(Vec::new());
    }
    let to_usize = |bytes: u64| usize::try_from(bytes).expect("a request fits memory");
    let first = offset / PAGE_BYTES * PAGE_BYTES;
    let mut bytes = vec![0; to_usize(end.next_multiple_of(PAGE_BYTES) - first)];
    disk.read(first, &mut bytes)?;
    bytes.truncate(to_usize(end - first));
    bytes.drain(..to_usize(offset - first));
    Ok(bytes)
}

/// All disks at one moment between two requests, and what was under way: requests that the
/// kernel had been given and that had not reached their disk.
#[derive(Clone)]
pub struct Moment {
    pub(crate) disks: Vec<SimulatedDisk>,
    /// In the order of their arrival.
    pub(crate) under_way: Vec<(usize, Operation)>,
}

impl Moment {
    /// The disks after the program alone has died: everything that the kernel was given is
    /// done, in the order of its arrival. What the program had given to an io_uring and had not
    /// arrived is not done, as the kernel cancels it.
    #[must_use]
    pub fn after_process_crash(&self) -> Vec<SimulatedDisk> {
        let mut disks = self.disks.clone();
        for (disk, operation) in &self.under_way {
            // One that fails changes nothing, and nobody is there to be told.
            let _ = operation.execute(&mut disks[*disk]);
        }
        disks
    }

    /// The disks after power was lost on all of them: of what was under way any part reached
    /// its disk, in any order, and of what was not flushed remains what `cut` says.
    #[must_use]
    pub fn after_power_cut(&self, random: &mut Random, cut: Cut) -> Vec<SimulatedDisk> {
        let mut disks = self.disks.clone();
        let mut under_way: Vec<&(usize, Operation)> = self.under_way.iter().collect();
        random.shuffle(&mut under_way);
        for (disk, operation) in under_way {
            if random.chance(1, 2) {
                let _ = operation.execute(&mut disks[*disk]);
            }
        }
        for disk in &mut disks {
            disk.power_cut(random, cut);
            disk.revive();
        }
        disks
    }

    /// The number of requests that were under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }
}
