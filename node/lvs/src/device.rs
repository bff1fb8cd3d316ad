//! What can be read or written now, as requests see it.
//!
//! The table follows from the volumes and snapshots of the state, and is brought up to date with
//! each operation that changes one. It spares every request the search through the records.

use fathom_block::{Error, Operation};
use rustc_hash::FxHashMap;

use crate::{
    format::op::Op,
    geometry::{LayerId, ObjectId},
    state::State,
    statistics::Counters,
};

/// A volume or snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Device {
    /// Where its content begins: the tip of a volume, the layer of a snapshot.
    pub(crate) layer: LayerId,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The binary logarithm of the logical block size in bytes.
    pub(crate) block_shift: u32,
    pub(crate) read_only: bool,
    pub(crate) write_cache_off: bool,
}

struct Entry {
    device: Device,
    /// What has been done with it since the pool was opened.
    counters: Counters,
}

/// The devices by object.
pub(crate) struct Devices(FxHashMap<ObjectId, Entry>);

impl Devices {
    /// Those of a state.
    pub(crate) fn of(state: &State) -> Self {
        let mut devices = Self(FxHashMap::default());
        for &object in state.volumes.keys().chain(state.snapshots.keys()) {
            devices.refresh(state, object);
        }
        devices
    }

    /// The device of an object; a volume that was deleted has none.
    ///
    /// # Errors
    ///
    /// [`Error::NotReady`] without one.
    pub(crate) fn get(&self, object: ObjectId) -> Result<Device, Error> {
        self.0.get(&object).map(|entry| entry.device).ok_or(Error::NotReady)
    }

    /// What has been done with the device of an object.
    pub(crate) fn counters(&self, object: ObjectId) -> Option<Counters> {
        self.0.get(&object).map(|entry| entry.counters)
    }

    /// Counts a request for so many logical blocks that has ended. One for an object that has no device
    /// any more is not counted.
    pub(crate) fn count(
        &mut self,
        object: ObjectId,
        operation: Operation,
        blocks: u64,
        result: Result<(), Error>,
    ) {
        if let Some(Entry { device, counters }) = self.0.get_mut(&object) {
            counters.count(operation, blocks << device.block_shift, result);
        }
    }

    /// `op` has been applied to the state.
    pub(crate) fn follow(&mut self, state: &State, op: &Op) {
        match op {
            Op::PutVolume(record) => self.refresh(state, record.id),
            Op::DropVolume { volume } => self.refresh(state, *volume),
            Op::PutSnapshot(record) => self.refresh(state, record.id),
            Op::DropSnapshot { snapshot } => self.refresh(state, *snapshot),
            _ => {}
        }
    }

    fn refresh(&mut self, state: &State, object: ObjectId) {
        let Some(device) = device(state, object) else {
            self.0.remove(&object);
            return;
        };
        let new = || Entry { device, counters: Counters::default() };
        self.0.entry(object).or_insert_with(new).device = device;
    }
}

fn device(state: &State, object: ObjectId) -> Option<Device> {
    if let Some(volume) = state.volumes.get(&object) {
        return Some(Device {
            layer: volume.tip?,
            size: volume.size.0,
            block_shift: volume.logical_block_size.ilog2(),
            read_only: false,
            write_cache_off: volume.flags.write_cache_off,
        });
    }
    let snapshot = state.snapshots.get(&object)?;
    // A snapshot has the block size of its volume, which never changes.
    let volume = state.volumes.get(&snapshot.volume)?;
    Some(Device {
        layer: snapshot.layer,
        size: snapshot.size.0,
        block_shift: volume.logical_block_size.ilog2(),
        read_only: true,
        write_cache_off: false,
    })
}
