//! Which names and UUIDs are taken, and which snapshots a volume has.
//!
//! It follows from the volumes and snapshots of the state, and is brought up to date with each
//! operation that changes one: a pool has ten thousand of them, and making one more must not cost a look
//! at all. A deleted volume that is kept for its snapshots keeps its name.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::{format::op::Op, geometry::ObjectId, state::State};

/// What an object is found by.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    uuid: Uuid,
    name: String,
    /// Of a snapshot.
    volume: Option<ObjectId>,
}

/// The names and UUIDs of volumes and snapshots.
#[derive(PartialEq, Eq, Default, Debug)]
pub(crate) struct Directory {
    entries: FxHashMap<ObjectId, Entry>,
    volumes: FxHashMap<String, ObjectId>,
    snapshots: BTreeMap<(ObjectId, String), ObjectId>,
    uuids: FxHashMap<Uuid, ObjectId>,
}

impl Directory {
    /// That of a state, which has no two objects of one name or UUID.
    pub(crate) fn of(state: &State) -> Self {
        let mut directory = Self::default();
        for &object in state.volumes.keys().chain(state.snapshots.keys()) {
            directory.refresh(state, object);
        }
        directory
    }

    /// The volume of a name, deleted or not.
    pub(crate) fn volume(&self, name: &str) -> Option<ObjectId> {
        self.volumes.get(name).copied()
    }

    /// The snapshot of a volume that has a name.
    pub(crate) fn snapshot(&self, volume: ObjectId, name: &str) -> Option<ObjectId> {
        self.snapshots.get(&(volume, name.to_owned())).copied()
    }

    /// The snapshots of a volume, by their names.
    pub(crate) fn snapshots(&self, volume: ObjectId) -> impl Iterator<Item = ObjectId> + '_ {
        let from = self.snapshots.range((volume, String::new())..);
        from.take_while(move |((of, _), _)| *of == volume).map(|(_, &snapshot)| snapshot)
    }

    /// Whether a volume or snapshot has a UUID.
    pub(crate) fn knows(&self, uuid: Uuid) -> bool {
        self.uuids.contains_key(&uuid)
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
        let new = entry(state, object);
        let old = match &new {
            Some(new) => self.entries.insert(object, new.clone()),
            None => self.entries.remove(&object),
        };
        if old == new {
            return;
        }
        if let Some(Entry { uuid, name, volume }) = old {
            self.uuids.remove(&uuid);
            match volume {
                Some(volume) => self.snapshots.remove(&(volume, name)),
                None => self.volumes.remove(&name),
            };
        }
        if let Some(Entry { uuid, name, volume }) = new {
            self.uuids.insert(uuid, object);
            match volume {
                Some(volume) => self.snapshots.insert((volume, name), object),
                None => self.volumes.insert(name, object),
            };
        }
    }
}

fn entry(state: &State, object: ObjectId) -> Option<Entry> {
    if let Some(volume) = state.volumes.get(&object) {
        let (uuid, name) = (volume.uuid, volume.name.clone());
        return Some(Entry { uuid, name, volume: None });
    }
    let snapshot = state.snapshots.get(&object)?;
    let (uuid, name) = (snapshot.uuid, snapshot.name.clone());
    Some(Entry { uuid, name, volume: Some(snapshot.volume) })
}
