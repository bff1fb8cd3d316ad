//! Administrative calls: volumes, snapshots and clones come, change and go.
//!
//! ```text
//!   call: checked at once --> ranges held --> checked again, committed as one entry
//!                                          --> flushed --> Done, durable
//! ```
//!
//! What a call changes it changes by one log entry, so that it happens entirely or not
//! at all. Calls that must not see half a write hold the ranges of their volumes:
//! a snapshot stops writes until those under way have ended, a rollback or a deletion stops
//! reads too. The holds end when the entry has been appended, not when it is durable: what
//! is written later has a later entry.

use fathom_block::Error as BlockError;
use fathom_units::ByteCount;
use thiserror::Error;
use uuid::Uuid;

use crate::{
    acceptance::LAYERS_MAX,
    action::Action,
    format::{
        Malformed,
        op::{Op, PoolRecord, SnapshotRecord, VolumeRecord},
    },
    geometry::{LayerId, MemberIndex, ObjectId},
    grow::MemberRefused,
    ranges::Hold,
    store::{Store, TaskKey, Work, bits},
};

/// Names an administrative call from its start to [`Action::Done`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// Why a call was refused. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    /// The name is taken, perhaps by a deleted volume that still has snapshots.
    #[error("the name \"{0}\" is taken")]
    NameTaken(String),
    /// The UUID is taken.
    #[error("the UUID {0} is taken")]
    UuidTaken(Uuid),
    /// There is no such volume.
    #[error("there is no volume with id {}", .0.0)]
    NoVolume(ObjectId),
    /// There is no such snapshot.
    #[error("there is no snapshot with id {}", .0.0)]
    NoSnapshot(ObjectId),
    /// The snapshot is of another volume.
    #[error("snapshot \"{snapshot}\" is not a snapshot of volume \"{volume}\"")]
    ForeignSnapshot {
        /// The snapshot's name.
        snapshot: String,
        /// The volume's name.
        volume: String,
    },
    /// A volume cannot shrink.
    #[error("volume \"{name}\" has {size} and cannot shrink to {wanted}")]
    Shrinks {
        /// The volume's name.
        name: String,
        /// Its size.
        size: ByteCount,
        /// The size that was asked for.
        wanted: ByteCount,
    },
    /// A value is not allowed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The pool cannot set this much space aside.
    #[error("{missing} more free space is needed to guarantee every write")]
    NoSpace {
        /// What is missing, in bytes.
        missing: ByteCount,
    },
    /// The pool promises no more than its over-commit limit allows.
    #[error("volumes would promise {promised}, the pool allows {allowed}")]
    Overcommitted {
        /// What all volumes would promise, in bytes.
        promised: ByteCount,
        /// What the limit allows, in bytes.
        allowed: ByteCount,
    },
    /// The pool's metadata has no room for more objects or fragments.
    #[error("the pool's metadata is full; delete volumes or snapshots")]
    MetadataFull,
    /// Every id of the pool has been used once.
    #[error("the pool has used up its ids for layers or objects; move its volumes to a new pool")]
    NoIds,
    /// More was asked for at once than one log entry holds.
    #[error("this takes {bytes} bytes of the log at once, and {most} are possible")]
    TooMuch {
        /// What it takes.
        bytes: usize,
        /// What one entry holds.
        most: usize,
    },
    /// A volume was to lie on a member that the pool has not.
    #[error("the pool has no member {}", .0.0)]
    NoMember(MemberIndex),
    /// The members cannot be changed like this.
    #[error(transparent)]
    Member(#[from] MemberRefused),
    /// The pool acknowledges nothing.
    #[error("the pool has failed: {0}")]
    Failed(&'static str),
}

/// A volume to be created. Ids and layers are the store's business; the rest is as in
/// [`VolumeRecord`], whose `id`, `tip` and `members` are ignored when `members` is 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewVolume {
    /// What it shall be.
    pub record: VolumeRecord,
    /// The volume or snapshot whose content it begins with.
    pub source: Option<ObjectId>,
}

/// A snapshot to be taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewSnapshot {
    /// Of which volume.
    pub volume: ObjectId,
    /// Its name, unique among the volume's snapshots.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// When it is taken, in nanoseconds since 1970.
    pub created_ns: u64,
    /// Labels.
    pub labels: Vec<(String, String)>,
}

enum Call {
    Create(Box<NewVolume>),
    /// Everything of a volume but its id, tip, size and members.
    Update(Box<VolumeRecord>),
    Resize(ObjectId, u64),
    DeleteVolume(ObjectId),
    Snapshot(Vec<NewSnapshot>),
    DeleteSnapshot(ObjectId),
    Rollback(ObjectId, ObjectId),
    Pool(PoolRecord),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Commit,
    Flush,
    Done,
}

/// A call under way.
pub(crate) struct AdminTask {
    ticket: Ticket,
    call: Call,
    holds: Vec<ObjectId>,
    members: u32,
    stage: Stage,
    error: Option<BlockError>,
}

impl AdminTask {
    pub(crate) fn fail(&mut self, error: BlockError) {
        self.error.get_or_insert(error);
    }
}

impl Store {
    /// Creates a volume, empty or with the content of `source`, in constant time.
    ///
    /// # Errors
    ///
    /// When the name or UUID is taken, the source does not exist, a value is not allowed,
    /// or a thick volume's space cannot be set aside. Checked again when it is carried out.
    pub fn create_volume(&mut self, new: NewVolume) -> Result<Ticket, Refused> {
        let holds = match new.source {
            Some(source) if self.state.volumes.contains_key(&source) => vec![source],
            _ => Vec::new(),
        };
        self.call(Call::Create(Box::new(new)), holds, Hold::Barrier)
    }

    /// Changes name, labels, hosts, export and limits of a volume to those of `record`, which
    /// names it by `record.id`.
    ///
    /// # Errors
    ///
    /// When there is no such volume, the name is taken or a value is not allowed.
    pub fn update_volume(&mut self, record: VolumeRecord) -> Result<Ticket, Refused> {
        self.call(Call::Update(Box::new(record)), Vec::new(), Hold::Barrier)
    }

    /// Makes a volume larger: `size` in bytes.
    ///
    /// # Errors
    ///
    /// When it would shrink, or a thick volume's space cannot be set aside.
    pub fn resize_volume(&mut self, volume: ObjectId, size: u64) -> Result<Ticket, Refused> {
        self.call(Call::Resize(volume, size), Vec::new(), Hold::Barrier)
    }

    /// Deletes a volume. Its snapshots stay, and its name with them.
    ///
    /// # Errors
    ///
    /// When there is no such volume.
    pub fn delete_volume(&mut self, volume: ObjectId) -> Result<Ticket, Refused> {
        self.call(Call::DeleteVolume(volume), vec![volume], Hold::Write)
    }

    /// Takes snapshots of several volumes at one point in time. Each contains every write
    /// that was acknowledged before the call and none that is submitted after its end.
    ///
    /// # Errors
    ///
    /// When a volume does not exist, a name is taken, or a thick volume's next writes cannot
    /// be guaranteed.
    pub fn create_snapshots(&mut self, new: Vec<NewSnapshot>) -> Result<Ticket, Refused> {
        let mut holds: Vec<ObjectId> = new.iter().map(|new| new.volume).collect();
        holds.sort_unstable();
        holds.dedup();
        self.call(Call::Snapshot(new), holds, Hold::Barrier)
    }

    /// Deletes a snapshot; its space comes back in the background.
    ///
    /// # Errors
    ///
    /// When there is no such snapshot.
    pub fn delete_snapshot(&mut self, snapshot: ObjectId) -> Result<Ticket, Refused> {
        self.call(Call::DeleteSnapshot(snapshot), vec![snapshot], Hold::Write)
    }

    /// Makes a volume's content that of one of its snapshots. Later snapshots stay; the size
    /// stays.
    ///
    /// # Errors
    ///
    /// When either does not exist or the snapshot is of another volume.
    pub fn rollback(&mut self, volume: ObjectId, snapshot: ObjectId) -> Result<Ticket, Refused> {
        self.call(Call::Rollback(volume, snapshot), vec![volume], Hold::Write)
    }

    /// Changes what is settable on the pool.
    ///
    /// # Errors
    ///
    /// When a value is not allowed.
    pub fn update_pool(&mut self, record: PoolRecord) -> Result<Ticket, Refused> {
        self.call(Call::Pool(record), Vec::new(), Hold::Barrier)
    }

    /// What is settable on the pool.
    pub fn pool(&self) -> &PoolRecord {
        &self.state.pool
    }

    /// The volumes, deleted ones that are kept for their snapshots among them.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.state.volumes.values()
    }

    /// The snapshots.
    pub fn snapshots(&self) -> impl Iterator<Item = &SnapshotRecord> {
        self.state.snapshots.values()
    }

    fn call(&mut self, call: Call, holds: Vec<ObjectId>, hold: Hold) -> Result<Ticket, Refused> {
        self.operations(&call)?;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let task = AdminTask {
            ticket,
            call,
            holds: holds.clone(),
            members: 0,
            stage: Stage::Commit,
            error: None,
        };
        let key = self.spawn(Work::Admin(task));
        for &object in &holds {
            self.acquire(key, object, 0, u64::MAX, hold);
        }
        self.wake(key);
        Ok(ticket)
    }

    fn admin_task(&mut self, key: TaskKey) -> &mut AdminTask {
        match &mut self.tasks[key].work {
            Work::Admin(task) => task,
            _ => unreachable!("the key names a call"),
        }
    }

    pub(crate) fn step_admin(&mut self, key: TaskKey) {
        if self.has_failed() {
            let task = self.admin_task(key);
            task.fail(BlockError::NotReady);
            task.stage = Stage::Done;
        }
        match self.admin_task(key).stage {
            Stage::Commit => self.commit_call(key),
            Stage::Flush => {
                let members = self.admin_task(key).members;
                self.flush(key, members, true);
                self.admin_task(key).stage = Stage::Done;
                self.wake(key);
            }
            Stage::Done => {
                let task = self.admin_task(key);
                let (ticket, error) = (task.ticket, task.error);
                let holds = core::mem::take(&mut task.holds);
                self.finish(key, &holds);
                self.act(Action::Done { ticket, result: error.map_or(Ok(()), |e| Err(e.into())) });
            }
        }
    }

    fn commit_call(&mut self, key: TaskKey) {
        if !self.log_has_reserve() {
            return self.stall(key);
        }
        let task = self.admin_task(key);
        let call = core::mem::replace(&mut task.call, Call::Snapshot(Vec::new()));
        match self.operations(&call) {
            Ok((ops, members)) => {
                self.commit(key, &ops);
                self.reclaim_wanted = true;
                self.unreclaimable.clear();
                let task = self.admin_task(key);
                task.members = members;
                task.stage = Stage::Flush;
                // Later writes have later entries: they need not wait for this one.
                let holds = core::mem::take(&mut task.holds);
                for object in holds {
                    self.release(key, object);
                }
            }
            Err(refused) => {
                let task = self.admin_task(key);
                let ticket = task.ticket;
                let holds = core::mem::take(&mut task.holds);
                self.finish(key, &holds);
                self.act(Action::Done { ticket, result: Err(refused.into()) });
            }
        }
    }

    /// What a call does to the state as it is now, and the members whose data it promises.
    fn operations(&self, call: &Call) -> Result<(Vec<Op>, u32), Refused> {
        if self.has_failed() {
            return Err(Refused::Failed("its metadata could not be written"));
        }
        let (ops, members) = self.changes(call)?;
        let bytes = ops.iter().map(|op| op.encoded_len(self.state.blocks())).sum();
        let most = self.log.payload_max();
        if bytes > most {
            return Err(Refused::TooMuch { bytes, most });
        }
        let removes = |op: &Op| matches!(op, Op::DropVolume { .. } | Op::DropSnapshot { .. });
        let deletes = ops.iter().any(removes) || matches!(call, Call::DeleteVolume(_));
        if !deletes && !self.metadata_has_room() {
            return Err(Refused::MetadataFull);
        }
        Ok((ops, members))
    }

    /// Whether there are ids left for what a call makes, and the pool may have so many layers.
    fn check_ids(&self, call: &Call) -> Result<(), Refused> {
        let needed = match call {
            Call::Create(_) => 2,
            Call::Snapshot(new) => new.len(),
            Call::Rollback(..) => 1,
            _ => return Ok(()),
        };
        let layers = u32::try_from(needed).ok();
        if layers.and_then(|layers| self.state.next_layer.checked_add(layers)).is_none()
            || self.state.next_object.checked_add(needed as u64).is_none()
        {
            return Err(Refused::NoIds);
        }
        if self.state.layers.len() + needed > LAYERS_MAX {
            return Err(Refused::MetadataFull);
        }
        Ok(())
    }

    fn changes(&self, call: &Call) -> Result<(Vec<Op>, u32), Refused> {
        self.check_ids(call)?;
        let ops = match call {
            Call::Create(new) => return self.create(new),
            Call::Update(record) => self.update(record)?,
            Call::Resize(volume, size) => self.resize(*volume, *size)?,
            Call::DeleteVolume(volume) => {
                let record = self.live(*volume)?;
                if self.directory.snapshots(*volume).next().is_some() {
                    vec![Op::PutVolume(Box::new(VolumeRecord { tip: None, ..record.clone() }))]
                } else {
                    vec![Op::DropVolume { volume: *volume }]
                }
            }
            Call::Snapshot(new) => return self.snapshot(new),
            Call::DeleteSnapshot(snapshot) => {
                let record = self.state.snapshots.get(snapshot);
                let record = record.ok_or(Refused::NoSnapshot(*snapshot))?;
                let mut ops = vec![Op::DropSnapshot { snapshot: *snapshot }];
                let deleted =
                    self.state.volumes.get(&record.volume).is_some_and(|v| v.tip.is_none());
                if deleted && self.directory.snapshots(record.volume).nth(1).is_none() {
                    ops.push(Op::DropVolume { volume: record.volume });
                }
                ops
            }
            Call::Rollback(volume, snapshot) => {
                let record = self.live(*volume)?;
                let source = self.state.snapshots.get(snapshot);
                let source = source.ok_or(Refused::NoSnapshot(*snapshot))?;
                if source.volume != *volume {
                    let (snapshot, volume) = (source.name.clone(), record.name.clone());
                    return Err(Refused::ForeignSnapshot { snapshot, volume });
                }
                let layer = LayerId(self.state.next_layer);
                let record = VolumeRecord { tip: Some(layer), ..record.clone() };
                vec![
                    Op::PutLayer { layer, parent: Some(source.layer) },
                    Op::PutVolume(Box::new(record)),
                ]
            }
            Call::Pool(record) => {
                record.check()?;
                vec![Op::PutPool(record.clone())]
            }
        };
        Ok((ops, 0))
    }

    fn live(&self, volume: ObjectId) -> Result<&VolumeRecord, Refused> {
        let record = self.state.volumes.get(&volume).filter(|record| record.tip.is_some());
        record.ok_or(Refused::NoVolume(volume))
    }

    fn name_is_free(&self, name: &str, except: Option<ObjectId>) -> Result<(), Refused> {
        let taken = self.directory.volume(name).is_some_and(|other| Some(other) != except);
        if taken { Err(Refused::NameTaken(name.to_owned())) } else { Ok(()) }
    }

    fn uuid_is_free(&self, uuid: Uuid) -> Result<(), Refused> {
        if self.directory.knows(uuid) { Err(Refused::UuidTaken(uuid)) } else { Ok(()) }
    }

    fn create(&self, new: &NewVolume) -> Result<(Vec<Op>, u32), Refused> {
        self.name_is_free(&new.record.name, None)?;
        self.uuid_is_free(new.record.uuid)?;
        let mut next = self.state.next_layer;
        let mut layer = || {
            next += 1;
            LayerId(next - 1)
        };
        let mut ops = Vec::new();
        let mut promised = 0;
        let mut extra = 0;
        let parent = match new.source {
            None => None,
            Some(source) => match self.state.snapshots.get(&source) {
                Some(snapshot) => Some(snapshot.layer),
                None => {
                    // The volume and the clone both go on from what the volume wrote so far.
                    let origin = self.live(source)?;
                    let tip = origin.tip.expect("live volumes have one");
                    extra = self.next_writes(origin, tip);
                    let layer = layer();
                    ops.push(Op::PutLayer { layer, parent: Some(tip) });
                    let record = VolumeRecord { tip: Some(layer), ..origin.clone() };
                    ops.push(Op::PutVolume(Box::new(record)));
                    promised = u32::from(origin.members);
                    Some(tip)
                }
            },
        };
        let tip = layer();
        ops.push(Op::PutLayer { layer: tip, parent });
        let mut record = new.record.clone();
        record.id = ObjectId(self.state.next_object);
        record.tip = Some(tip);
        if record.members == 0 {
            record.members = self.roomiest_member();
        }
        let unknown = |member: &MemberIndex| !self.state.members.contains_key(member);
        if let Some(member) = bits(u32::from(record.members)).find(unknown) {
            return Err(Refused::NoMember(member));
        }
        record.check(self.state.blocks())?;
        if record.flags.thick {
            extra += self.state.cluster_size.clusters_for(record.size.0);
        } else {
            self.may_promise(record.size.0)?;
        }
        self.may_reserve(extra)?;
        ops.push(Op::PutVolume(Box::new(record)));
        Ok((ops, promised))
    }

    fn update(&self, new: &VolumeRecord) -> Result<Vec<Op>, Refused> {
        let old = self.live(new.id)?;
        self.name_is_free(&new.name, Some(new.id))?;
        let record = VolumeRecord {
            id: old.id,
            uuid: old.uuid,
            tip: old.tip,
            size: old.size,
            logical_block_size: old.logical_block_size,
            created_ns: old.created_ns,
            identity: old.identity.clone(),
            members: old.members,
            flags: crate::format::op::VolumeFlags {
                thick: old.flags.thick,
                write_cache_off: old.flags.write_cache_off,
                ..new.flags
            },
            ..new.clone()
        };
        record.check(self.state.blocks())?;
        Ok(vec![Op::PutVolume(Box::new(record))])
    }

    fn resize(&self, volume: ObjectId, size: u64) -> Result<Vec<Op>, Refused> {
        let old = self.live(volume)?;
        if size < old.size.0 {
            let (name, size, wanted) = (old.name.clone(), old.size, ByteCount(size));
            return Err(Refused::Shrinks { name, size, wanted });
        }
        let record = VolumeRecord { size: ByteCount(size), ..old.clone() };
        record.check(self.state.blocks())?;
        if old.flags.thick {
            let clusters = |size| self.state.cluster_size.clusters_for(size);
            self.may_reserve(clusters(size) - clusters(old.size.0))?;
        } else {
            self.may_promise(size - old.size.0)?;
        }
        Ok(vec![Op::PutVolume(Box::new(record))])
    }

    fn snapshot(&self, new: &[NewSnapshot]) -> Result<(Vec<Op>, u32), Refused> {
        let mut ops = Vec::new();
        let mut members = 0;
        let mut extra = 0;
        for (index, new_one) in new.iter().enumerate() {
            let volume = self.live(new_one.volume)?;
            let NewSnapshot { name, uuid, created_ns, labels, .. } = new_one;
            let (name, uuid, created_ns) = (name.clone(), *uuid, *created_ns);
            let twin = |other: &NewSnapshot| other.volume == volume.id || other.uuid == uuid;
            if self.directory.snapshot(volume.id, &name).is_some() || new[..index].iter().any(twin)
            {
                return Err(Refused::NameTaken(format!("{}@{name}", volume.name)));
            }
            self.uuid_is_free(uuid)?;
            let tip = volume.tip.expect("live volumes have one");
            extra += self.next_writes(volume, tip);
            members |= u32::from(volume.members);
            let step = u64::try_from(index).expect("a short list");
            let layer = LayerId(self.state.next_layer + u32::try_from(index).expect("likewise"));
            let record = SnapshotRecord {
                id: ObjectId(self.state.next_object + step),
                uuid,
                volume: volume.id,
                layer: tip,
                size: volume.size,
                created_ns,
                name,
                labels: labels.clone(),
            };
            record.check(self.state.blocks())?;
            ops.push(Op::PutLayer { layer, parent: Some(tip) });
            ops.push(Op::PutSnapshot(Box::new(record)));
            let record = VolumeRecord { tip: Some(layer), ..volume.clone() };
            ops.push(Op::PutVolume(Box::new(record)));
        }
        self.may_reserve(extra)?;
        Ok((ops, members))
    }

    /// Clusters that a thick volume needs again once its tip is shared.
    fn next_writes(&self, volume: &VolumeRecord, tip: LayerId) -> u64 {
        if volume.flags.thick { self.state.layer(tip).map.allocated() as u64 } else { 0 }
    }
}

/// Why a call failed after it had been taken.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Failed {
    /// It was refused when its turn came.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The pool could not carry it out, or not durably.
    #[error("it may not be durable: {0}")]
    Device(#[from] BlockError),
}
