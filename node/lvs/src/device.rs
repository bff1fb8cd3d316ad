//! What can be read or written now, as requests see it.
//!
//! The table follows from the volumes and snapshots of the state, and is brought up to date with
//! each operation that changes one. It spares every request the search through the records.

use fathom_block::Error;
use rustc_hash::FxHashMap;

use crate::{
    format::op::Op,
    geometry::{LayerId, ObjectId},
    state::State,
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

/// The devices by object.
pub(crate) struct Devices(FxHashMap<ObjectId, Device>);

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
        self.0.get(&object).copied().ok_or(Error::NotReady)
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
        match device(state, object) {
            Some(device) => self.0.insert(object, device),
            None => self.0.remove(&object),
        };
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
