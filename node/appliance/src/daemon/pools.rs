//! Pools come and go: create, import, release, list, change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use fathom_engine::native::{
    devices::{Wanted, block_devices, inspect, survey},
    members::{Member, Members, Opened, destroy},
};
use fathom_lvs::{
    Capacity, Content, DestroyOptions, Fill, Health, Medium as _, NewMember, NewPool, Reclaiming,
    format::op::PoolRecord,
    geometry::{CLUSTER_SIZE_DEFAULT, ClusterSize, MemberIndex},
    inspect as inspect_slot,
};
use fathom_runtime::device::{Allocation, DeviceFile};
use fathom_units::ByteCount;
use uuid::Uuid;

use super::{
    error::{CallFailed, Kind},
    labels, names,
    node::{CALL_WAIT, ClosedPool, Node, OpenPool, options, wait_until_closed},
    state::PoolEntry,
};

/// Volumes that an error names.
const NAMED_MAX: usize = 8;

/// What a new pool shall be.
#[derive(Clone, Debug)]
pub(crate) struct NewPoolOptions {
    pub(crate) name: String,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) cluster_bytes: Option<u64>,
    pub(crate) force: bool,
    pub(crate) record: PoolRecord,
}

/// What is settable on a pool; what is not there stays.
#[derive(Clone, Default, Debug)]
pub(crate) struct PoolChange {
    pub(crate) overcommit_percent: Option<u32>,
    pub(crate) watermark_low_percent: Option<u32>,
    pub(crate) watermark_high_percent: Option<u32>,
    pub(crate) labels: labels::Change,
}

/// How a pool is.
#[derive(Clone, Debug)]
pub(crate) struct PoolStatus {
    pub(crate) record: PoolRecord,
    pub(crate) capacity: Capacity,
    pub(crate) health: Health,
    pub(crate) fill: Fill,
    pub(crate) reclaiming: Reclaiming,
    pub(crate) volumes: u64,
    pub(crate) snapshots: u64,
}

impl NewPoolOptions {
    /// One with this name, and everything else as it is by default.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            uuid: None,
            cluster_bytes: None,
            force: false,
            record: PoolRecord::default(),
        }
    }
}

impl PoolChange {
    /// Changes a record.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when a value cannot be.
    pub(crate) fn apply(&self, record: &mut PoolRecord) -> Result<(), CallFailed> {
        let percent = |percent: u32| {
            u16::try_from(percent)
                .map_err(|_| CallFailed::new(Kind::Invalid, "a watermark is 0 to 100 percent"))
        };
        if let Some(overcommit) = self.overcommit_percent {
            record.overcommit_percent = overcommit;
        }
        if let Some(low) = self.watermark_low_percent {
            record.watermark_low_percent = percent(low)?;
        }
        if let Some(high) = self.watermark_high_percent {
            record.watermark_high_percent = percent(high)?;
        }
        self.labels.apply(&mut record.labels)?;
        record.check().map_err(|error| CallFailed::new(Kind::Invalid, error))
    }
}

/// Which pool a name or UUID means.
fn wanted(name: Option<&str>) -> Wanted {
    match name.map(|name| (name, Uuid::try_parse(name))) {
        None => Wanted::Only,
        Some((_, Ok(uuid))) => Wanted::Uuid(uuid),
        Some((name, Err(_))) => Wanted::Named(name.to_owned()),
    }
}

/// Refuses devices that are of another pool than this, or of none: names of disks may have changed.
fn check_are_of(members: &mut Members, paths: &[PathBuf], uuid: Uuid) -> Result<(), CallFailed> {
    for (slot, path) in paths.iter().enumerate() {
        let inspected = inspect_slot(members, slot);
        let content = inspected.map_err(|error| CallFailed::new(Kind::Failed, error))?.content;
        let pool = match &content {
            Content::Label(label) => label.pool,
            Content::Tombstone(tombstone) => tombstone.pool,
            // It was a label, and nobody else's data stands there.
            Content::Damaged(_) => continue,
            Content::Nothing | Content::Other { .. } => Uuid::nil(),
        };
        if pool != uuid {
            let wrong = format!("{} is no member of it: {content}", path.display());
            return Err(CallFailed::new(Kind::Precondition, wrong));
        }
    }
    Ok(())
}

/// Removes files that were made for nothing.
fn remove(made: Vec<PathBuf>) {
    for path in made {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "a new file was left behind");
        }
    }
}

/// Nanoseconds since 1970.
pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Node {
    /// Creates a pool and opens it.
    ///
    /// # Errors
    ///
    /// When the name is taken, or a member cannot be used or holds something.
    pub(crate) fn create_pool(
        &self,
        paths: &[PathBuf],
        size: Option<u64>,
        options: NewPoolOptions,
    ) -> Result<Arc<OpenPool>, CallFailed> {
        let name = options.name.clone();
        names::check_new("pool", &name)?;
        if paths.is_empty() {
            let failed = CallFailed::new(Kind::Invalid, "give at least one disk or file");
            return Err(failed.about("pool", &name));
        }
        let _changes = self.hold();
        if let Some(pool) = self.find_open(&name) {
            let same = pool.paths() == paths
                && options.uuid.is_none_or(|uuid| uuid == pool.uuid)
                && options
                    .cluster_bytes
                    .is_none_or(|bytes| bytes == u64::from(pool.cluster_size.bytes()));
            if same && pool.look(|store| store.pool().clone())? == options.record {
                pool.confirm()?;
                return Ok(pool);
            }
            let failed = CallFailed::new(Kind::Exists, "a pool of this name is open");
            return Err(failed.about("pool", &name));
        }
        self.check_name(&name, None)?;
        let opened = self.create_on_paths(paths, size, options);
        self.adopt(opened.map_err(|failed| failed.about("pool", &name))?, true)
    }

    /// Creates a pool on paths: what does not exist becomes a file of `size` bytes.
    pub(super) fn create_on_paths(
        &self,
        paths: &[PathBuf],
        size: Option<u64>,
        options: NewPoolOptions,
    ) -> Result<Opened, CallFailed> {
        let mut made = Vec::new();
        let created = self.create_members(paths, size, &mut made);
        let created = created.and_then(|members| self.create(members, options));
        if created.is_err() {
            remove(made);
        }
        created
    }

    fn create_members(
        &self,
        paths: &[PathBuf],
        size: Option<u64>,
        made: &mut Vec<PathBuf>,
    ) -> Result<Members, CallFailed> {
        let mut members = Vec::new();
        for path in paths {
            if path.exists() {
                let found = Members::open(std::slice::from_ref(path), CALL_WAIT)?;
                members.extend(found.0);
                continue;
            }
            let Some(size) = size else {
                let wrong =
                    format!("{} does not exist; give a size to have a file made", path.display());
                return Err(CallFailed::new(Kind::Invalid, wrong));
            };
            members.push(Member::from(DeviceFile::create(path, size, Allocation::Full)?));
            made.push(path.clone());
        }
        Ok(Members(members))
    }

    /// Creates a pool on members, and opens it.
    pub(super) fn create(
        &self,
        members: Members,
        options: NewPoolOptions,
    ) -> Result<Opened, CallFailed> {
        let bytes = options.cluster_bytes.unwrap_or(u64::from(CLUSTER_SIZE_DEFAULT));
        let cluster_size = u32::try_from(bytes).ok().and_then(ClusterSize::new);
        let cluster_size = cluster_size.ok_or_else(|| {
            let wrong = "a cluster has 64 KiB to 4 MiB, and a power of two of them";
            CallFailed::new(Kind::Invalid, wrong)
        })?;
        let uuids = members.0.iter().map(|_| NewMember { uuid: Uuid::new_v4() }).collect();
        let new = NewPool {
            name: options.name,
            uuid: options.uuid.unwrap_or_else(Uuid::new_v4),
            members: uuids,
            cluster_size,
            created_ns: now_ns(),
            record: options.record,
            log_bytes: None,
            slot_bytes: None,
            force: options.force,
        };
        Ok(Opened::create(members, &new)?)
    }

    /// Opens the pools that have members among `paths`, or among all block devices, or the one of
    /// that name or UUID, and records them.
    ///
    /// # Errors
    ///
    /// When there is none, or one cannot be opened; the others are open then.
    pub(crate) fn import_pools(
        &self,
        paths: &[PathBuf],
        name: Option<&str>,
        degraded: bool,
    ) -> Result<Vec<Arc<OpenPool>>, CallFailed> {
        let _changes = self.hold();
        let devices = match paths.is_empty() {
            true => block_devices().map_err(|error| {
                CallFailed::new(Kind::Failed, format_args!("listing the block devices: {error}"))
            })?,
            false => paths.to_vec(),
        };
        let survey = survey(devices.iter().map(PathBuf::as_path));
        let found: Vec<Uuid> = match name {
            Some(_) => vec![survey.find(&wanted(name))?.pool],
            None if survey.pools.is_empty() => vec![survey.find(&Wanted::Only)?.pool],
            None => survey.pools.iter().map(|pool| pool.pool).collect(),
        };
        let (mut pools, mut refused) = (Vec::new(), Vec::new());
        for uuid in found {
            let open = self.open_pools_by_name().into_iter().find(|pool| pool.uuid == uuid);
            let imported = open.map(Ok).unwrap_or_else(|| {
                let wanted = Wanted::Uuid(uuid);
                let opened = Opened::import(&devices, &wanted, options(degraded), CALL_WAIT);
                self.adopt(opened?, true)
            });
            match imported {
                Ok(pool) => pools.push(pool),
                Err(failed) => refused.push(failed),
            }
        }
        match refused.pop() {
            None => Ok(pools),
            Some(last) => {
                let told = refused.iter().map(|failed| format!("{failed}\n")).collect::<String>();
                Err(CallFailed::new(last.kind, format_args!("{told}{last}")))
            }
        }
    }

    /// Adds devices to a pool that is in use; what does not exist becomes a file of `size` bytes.
    /// Without any, has the pool use what its devices have grown by.
    ///
    /// # Errors
    ///
    /// When a device cannot be used or holds something, or the pool does not allow it now. Those
    /// before it are members then.
    pub(crate) fn grow_pool(
        &self,
        name: &str,
        paths: &[PathBuf],
        size: Option<u64>,
        force: bool,
    ) -> Result<Arc<OpenPool>, CallFailed> {
        let _changes = self.hold();
        let pool = self.pool(name)?;
        let about = |failed: CallFailed| failed.about("pool", &pool.name);
        if pool.is_volatile {
            let wrong = "it is in memory; make a larger one";
            return Err(about(CallFailed::new(Kind::Precondition, wrong)));
        }
        let grown = self.grow_members(&pool, paths, size, force);
        // Also of a call that failed, or that a crash ended before it was recorded.
        let entry = PoolEntry { name: pool.name.clone(), uuid: pool.uuid, paths: pool.paths() };
        let recorded = self.record(&entry);
        grown.and(recorded).map_err(about)?;
        Ok(pool)
    }

    fn grow_members(
        &self,
        pool: &OpenPool,
        paths: &[PathBuf],
        size: Option<u64>,
        force: bool,
    ) -> Result<(), CallFailed> {
        if paths.is_empty() {
            for index in 0..pool.members().len() {
                self.use_growth(pool, index)?;
            }
        }
        for path in paths {
            match pool.paths().iter().position(|member| member == path) {
                Some(index) => self.use_growth(pool, index)?,
                None => self.add_member(pool, path, size, force)?,
            }
        }
        Ok(())
    }

    fn use_growth(&self, pool: &OpenPool, index: usize) -> Result<(), CallFailed> {
        let mut members = pool.members();
        let member = MemberIndex(u16::try_from(index).expect("few members"));
        pool.handle.grow_member(member)?;
        let size = inspect([members[index].0.as_path()]).pop().and_then(|device| device.size);
        members[index].1 = size.unwrap_or(members[index].1);
        pool.set_members(members);
        Ok(())
    }

    fn add_member(
        &self,
        pool: &OpenPool,
        path: &Path,
        size: Option<u64>,
        force: bool,
    ) -> Result<(), CallFailed> {
        let (mut made, uuid) = (Vec::new(), Uuid::new_v4());
        let members = self.create_members(&[path.to_owned()], size, &mut made);
        let members = members.inspect_err(|_| remove(std::mem::take(&mut made)))?;
        let size = members.size(0);
        let device = members.0.into_iter().next().expect("one path was given");
        let added = pool.handle.add_member(device, uuid, force);
        // It may be a member though the call failed: when the labels name it.
        let is_member = match &added {
            Ok(_) => true,
            Err(_) => pool.look(move |store| store.member_of(uuid).is_some()).unwrap_or(true),
        };
        if is_member {
            let mut members = pool.members();
            members.push((path.to_owned(), ByteCount(size)));
            pool.set_members(members);
        } else {
            remove(made);
        }
        let added = added?;
        let destroyed = added.destroyed.map(|content| content.to_string());
        let member = added.member.0;
        tracing::info!(pool = pool.name, path = %path.display(), member, destroyed, "member added");
        Ok(())
    }

    /// Makes the copies of a pool's metadata whole that are stale.
    ///
    /// # Errors
    ///
    /// When a member is missing or does not answer.
    pub(crate) fn rejoin_pool(&self, name: &str) -> Result<Arc<OpenPool>, CallFailed> {
        let _changes = self.hold();
        let pool = self.pool(name)?;
        if let Health::Degraded { stale, .. } = pool.look(|store| store.health())? {
            for member in stale {
                let rejoined = pool.handle.rejoin_member(member);
                rejoined.map_err(|error| CallFailed::from(error).about("pool", &pool.name))?;
            }
        }
        Ok(pool)
    }

    /// Destroys a pool: its members are blank afterwards, and nothing can bring it back.
    ///
    /// # Errors
    ///
    /// When it has volumes or snapshots and `force` is not set, or a host is connected; when a member
    /// failed, what is left can be destroyed by the same call.
    ///
    /// Returns the UUIDs of the members that were not there: they are what they were.
    pub(crate) fn destroy_pool(&self, name: &str, force: bool) -> Result<Vec<Uuid>, CallFailed> {
        let _changes = self.hold();
        let (name, uuid, paths) = match self.pool(name) {
            Ok(pool) => {
                if !force {
                    self.refuse_with_objects(&pool)?;
                }
                self.close_pool(&pool)?;
                if pool.is_volatile {
                    return Ok(Vec::new());
                }
                (pool.name.clone(), pool.uuid, pool.paths())
            }
            Err(failed) if failed.kind == Kind::Unavailable => {
                let (name, closed) = self.find_closed(name).ok_or(failed)?;
                let Some(uuid) = closed.uuid else {
                    let wrong = "it was never open, so what is on these disks may be another one; \
                                 import it first";
                    return Err(CallFailed::new(Kind::Precondition, wrong).about("pool", &name));
                };
                (name, uuid, closed.paths)
            }
            Err(failed) => return Err(failed),
        };
        let destroyed =
            Members::open(&paths, CALL_WAIT).map_err(CallFailed::from).and_then(|mut members| {
                check_are_of(&mut members, &paths, uuid)?;
                Ok(destroy(members, DestroyOptions { force })?)
            });
        match destroyed {
            Ok(destroyed) => {
                let missing = destroyed.missing.len();
                tracing::info!(
                    pool = name,
                    objects = destroyed.objects.len(),
                    missing,
                    "destroyed"
                );
                self.forget(&name)?;
                self.forget_closed(&name);
                Ok(destroyed.missing.into_iter().map(|(_, uuid)| uuid).collect())
            }
            Err(failed) => {
                let reason = format!("it was to be destroyed: {failed}");
                self.refuse(&name, ClosedPool { uuid: Some(uuid), paths, reason });
                Err(failed.about("pool", &name))
            }
        }
    }

    /// The pool of that name or UUID that is not open.
    fn find_closed(&self, name: &str) -> Option<(String, ClosedPool)> {
        let uuid = Uuid::try_parse(name).ok();
        let meant = |(closed, pool): &(String, ClosedPool)| {
            closed == name || uuid.is_some() && pool.uuid == uuid
        };
        self.closed().into_iter().find(meant)
    }

    /// Refuses to destroy a pool that has volumes or snapshots, and names them.
    fn refuse_with_objects(&self, pool: &OpenPool) -> Result<(), CallFailed> {
        let records = self.records(pool)?;
        if records.is_empty() {
            return Ok(());
        }
        let mut names: Vec<&str> =
            records.iter().map(|record| record.name.as_str()).take(NAMED_MAX).collect();
        let more = format!("and {} more", records.len().saturating_sub(NAMED_MAX));
        if records.len() > NAMED_MAX {
            names.push(&more);
        }
        let wrong = format!(
            "it has volumes or their snapshots: {}; delete them, or destroy it with --force",
            names.join(", ")
        );
        Err(CallFailed::new(Kind::Precondition, wrong).about("pool", &pool.name))
    }

    /// The pool of that name or UUID.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`], or [`Kind::Unavailable`] when it could not be opened.
    pub(crate) fn pool(&self, name: &str) -> Result<Arc<OpenPool>, CallFailed> {
        let uuid = Uuid::try_parse(name).ok();
        let found = self.open_pools_by_name().into_iter().find(|pool| match uuid {
            Some(uuid) => pool.uuid == uuid,
            None => pool.name == name,
        });
        if let Some(pool) = found {
            return Ok(pool);
        }
        match self.find_closed(name) {
            Some((_, closed)) => {
                let reason = format!("it is not open: {}", closed.reason);
                Err(CallFailed::new(Kind::Unavailable, reason).about("pool", name))
            }
            None => Err(CallFailed::new(
                Kind::NotFound,
                format_args!("there is no pool \"{name}\"; `fathom pool list` shows what there is"),
            )),
        }
    }

    /// How a pool is.
    ///
    /// # Errors
    ///
    /// When it was closed meanwhile.
    pub(crate) fn status(&self, pool: &OpenPool) -> Result<PoolStatus, CallFailed> {
        pool.look(|store| PoolStatus {
            record: store.pool().clone(),
            capacity: store.capacity(),
            health: store.health(),
            fill: store.fill(),
            reclaiming: store.reclaiming(),
            volumes: store.volumes().filter(|volume| volume.tip.is_some()).count() as u64,
            snapshots: store.snapshots().count() as u64,
        })
    }

    /// Changes what is settable on a pool.
    ///
    /// # Errors
    ///
    /// When a value cannot be, or it is not durable.
    pub(crate) fn update_pool(
        &self,
        name: &str,
        change: &PoolChange,
    ) -> Result<Arc<OpenPool>, CallFailed> {
        let pool = self.pool(name)?;
        let _changes = pool.hold();
        let mut record = pool.look(|store| store.pool().clone())?;
        let before = record.clone();
        change.apply(&mut record).map_err(|failed| failed.about("pool", &pool.name))?;
        if record != before {
            pool.call(move |store| store.update_pool(record))?;
        }
        Ok(Arc::clone(&pool))
    }

    /// Closes a pool and forgets it; its members keep everything.
    ///
    /// # Errors
    ///
    /// When a host is connected to one of its volumes.
    pub(crate) fn release_pool(&self, name: &str) -> Result<(), CallFailed> {
        let _changes = self.hold();
        let pool = match self.pool(name) {
            Ok(pool) => pool,
            // One that could not be opened is forgotten, so that it is not tried again.
            Err(failed) if failed.kind == Kind::Unavailable => {
                let (name, _) = self.find_closed(name).ok_or(failed)?;
                self.forget(&name)?;
                self.forget_closed(&name);
                return Ok(());
            }
            Err(failed) => return Err(failed),
        };
        self.close_pool(&pool)?;
        self.forget(&pool.name).inspect_err(|failed| {
            let (uuid, paths, reason) = (Some(pool.uuid), pool.paths(), failed.to_string());
            self.refuse(&pool.name, ClosedPool { uuid, paths, reason });
        })
    }

    /// Stops serving a pool's volumes and closes it.
    pub(super) fn close_pool(&self, pool: &Arc<OpenPool>) -> Result<(), CallFailed> {
        let _changes = pool.hold();
        self.withdraw_all(pool)?;
        // Before it closes, so that nobody asks it any more.
        let (uuid, paths, reason) = (Some(pool.uuid), pool.paths(), "it is closing".to_owned());
        self.refuse(&pool.name, ClosedPool { uuid, paths, reason });
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.remove(&pool.name);
        drop(pools);
        wait_until_closed(pool)?;
        self.forget_closed(&pool.name);
        tracing::info!(pool = pool.name, "pool closed");
        Ok(())
    }

    pub(super) fn forget(&self, name: &str) -> Result<(), CallFailed> {
        self.state.forget(name).map_err(|error| CallFailed::new(Kind::Failed, error))
    }
}
