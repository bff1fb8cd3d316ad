//! Volumes: create, find, change, resize, delete.

use std::{collections::BTreeMap, sync::Arc};

use fathom_lvs::{
    NewVolume, Store,
    format::op::{Identity, QosLimits, VolumeFlags, VolumeRecord},
    geometry::ObjectId,
};
use fathom_units::{ByteCount, Nsid};
use uuid::Uuid;

use super::{
    error::{CallFailed, Kind},
    labels,
    names::{self, VolumeName},
    node::{Node, OpenPool},
    pools::now_ns,
};

/// The namespace of a volume's subsystem.
const NSID: u32 = 1;
/// The controller identifiers that this node gives out for a volume. Another node that serves the
/// same volume has others.
const CNTLIDS: (u16, u16) = (1, 4095);
/// The logical block size when none is asked for.
const BLOCK_BYTES: u32 = 4096;
/// Records that one look at a store takes: the loop does I/O, too.
const PAGE: usize = 256;

/// What a new volume shall be.
#[derive(Clone, Debug)]
pub(crate) struct NewVolumeOptions {
    pub(crate) name: String,
    pub(crate) uuid: Option<Uuid>,
    /// Empty: the only one, or that of the source.
    pub(crate) pool: String,
    /// 0: that of the source.
    pub(crate) size: u64,
    pub(crate) thick: bool,
    pub(crate) block_bytes: Option<u32>,
    pub(crate) write_cache: bool,
    pub(crate) limits: QosLimits,
    pub(crate) labels: labels::Change,
    pub(crate) source: Option<String>,
}

/// What changes about a volume; what is not there stays.
#[derive(Clone, Default, Debug)]
pub(crate) struct VolumeChange {
    pub(crate) name: Option<String>,
    pub(crate) limits: LimitsChange,
    pub(crate) labels: labels::Change,
}

/// What changes about limits; what is not there stays, and 0 is no limit.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct LimitsChange {
    pub(crate) burst_s: Option<u32>,
    pub(crate) iops: RatesChange,
    pub(crate) bandwidth: RatesChange,
}

/// As [`LimitsChange`], for each direction and both together.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct RatesChange {
    pub(crate) all: Option<u64>,
    pub(crate) read: Option<u64>,
    pub(crate) write: Option<u64>,
}

impl LimitsChange {
    pub(crate) fn apply(&self, limits: &mut QosLimits) {
        limits.burst_s = self.burst_s.unwrap_or(limits.burst_s);
        for (rates, change) in
            [(&mut limits.iops, &self.iops), (&mut limits.bandwidth, &self.bandwidth)]
        {
            rates.all = change.all.unwrap_or(rates.all);
            rates.read = change.read.unwrap_or(rates.read);
            rates.write = change.write.unwrap_or(rates.write);
        }
    }
}

/// What a volume is made from.
struct Source {
    pool: Arc<OpenPool>,
    object: ObjectId,
    uuid: Uuid,
    size: u64,
    block_bytes: u32,
}

/// A volume and the pool it is in.
pub(crate) type Found = (Arc<OpenPool>, VolumeRecord);

impl Node {
    /// The records of a pool's volumes, by id, deleted ones that are kept for snapshots among them.
    pub(super) fn records(&self, pool: &OpenPool) -> Result<Vec<VolumeRecord>, CallFailed> {
        let mut records: Vec<VolumeRecord> = Vec::new();
        loop {
            let after = records.last().map(|record| record.id);
            let page = pool.look(move |store| {
                let rest = store.volumes().filter(|record| Some(record.id) > after);
                rest.take(PAGE).cloned().collect::<Vec<_>>()
            })?;
            let last = page.len() < PAGE;
            records.extend(page);
            if last {
                return Ok(records);
            }
        }
    }

    /// The volume that a name means.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`], or [`Kind::Invalid`] when the name could mean two.
    pub(crate) fn volume(&self, name: &str) -> Result<Found, CallFailed> {
        if names::is_snapshot(name) {
            let wrong = format!("\"{name}\" names a snapshot, and a volume is needed");
            return Err(CallFailed::new(Kind::Invalid, wrong));
        }
        let live = |record: &VolumeRecord| record.tip.is_some();
        let mut found = self.find_volumes(&names::volume(name), live)?;
        match (found.pop(), found.pop()) {
            (Some(found), None) => Ok(found),
            (Some((one, _)), Some((other, _))) => Err(CallFailed::new(
                Kind::Invalid,
                format_args!(
                    "pools \"{}\" and \"{}\" both have a volume \"{name}\"; give POOL/NAME",
                    other.name, one.name
                ),
            )),
            (None, _) => Err(CallFailed::new(
                Kind::NotFound,
                format_args!(
                    "there is no volume \"{name}\"; `fathom volume list` shows what there is{}",
                    self.of_closed_pools()
                ),
            )),
        }
    }

    /// Says that a pool is not open, in which what is not found may be.
    pub(super) fn of_closed_pools(&self) -> String {
        let closed: Vec<String> = self.closed().into_iter().map(|(name, _)| name).collect();
        match closed.is_empty() {
            true => String::new(),
            false => format!(" (not open: pool {})", closed.join(", ")),
        }
    }

    /// The volumes of all pools that a name means and `wanted` says of their records.
    pub(super) fn find_volumes(
        &self,
        name: &VolumeName<'_>,
        wanted: impl Fn(&VolumeRecord) -> bool + Clone + Send + 'static,
    ) -> Result<Vec<Found>, CallFailed> {
        let (uuid, in_pool, name) = match *name {
            VolumeName::Uuid(uuid) => (Some(uuid), None, String::new()),
            VolumeName::Name { pool, name } => (None, pool, name.to_owned()),
        };
        let pools = match in_pool {
            Some(pool) => vec![self.pool(pool)?],
            None => self.open_pools_by_name(),
        };
        let mut found = Vec::new();
        for pool in pools {
            let (name, wanted) = (name.clone(), wanted.clone());
            let record = pool.look(move |store| {
                let meant = |record: &&VolumeRecord| {
                    let same = match uuid {
                        Some(uuid) => record.uuid == uuid,
                        None => record.name == name,
                    };
                    same && wanted(record)
                };
                store.volumes().find(meant).cloned()
            })?;
            found.extend(record.map(|record| (pool, record)));
        }
        Ok(found)
    }

    /// How many snapshots a volume has.
    pub(crate) fn snapshots_of(
        &self,
        pool: &OpenPool,
        volume: ObjectId,
    ) -> Result<u64, CallFailed> {
        pool.look(move |store| {
            store.snapshots().filter(|snapshot| snapshot.volume == volume).count() as u64
        })
    }

    /// How many snapshots each volume of a pool has, if it has any.
    pub(crate) fn snapshot_counts(
        &self,
        pool: &OpenPool,
    ) -> Result<BTreeMap<ObjectId, u64>, CallFailed> {
        pool.look(|store| {
            let mut counts = BTreeMap::new();
            for snapshot in store.snapshots() {
                *counts.entry(snapshot.volume).or_default() += 1;
            }
            counts
        })
    }

    /// Creates a volume.
    ///
    /// # Errors
    ///
    /// When the name is taken by one that was made otherwise, a value cannot be, or there is no
    /// space.
    pub(crate) fn create_volume(&self, new: &NewVolumeOptions) -> Result<Found, CallFailed> {
        names::check_new("volume", &new.name)?;
        let about = |failed: CallFailed| failed.about("volume", &new.name);
        let source = new.source.as_ref().map(|source| self.source(source)).transpose();
        let source = source.map_err(about)?;
        let pool = match &source {
            Some(source) => {
                if !new.pool.is_empty() && self.pool(&new.pool)?.name != source.pool.name {
                    let wrong = "a volume is made in the pool of its source";
                    return Err(about(CallFailed::new(Kind::Invalid, wrong)));
                }
                Arc::clone(&source.pool)
            }
            None => self.pool_for(&new.pool).map_err(about)?,
        };
        let mut record = Self::new_record(new, source.as_ref()).map_err(about)?;
        let _changes = pool.hold();
        let (name, uuid) = (new.name.clone(), new.uuid);
        let taken = pool.look(move |store| {
            let taken = |record: &&VolumeRecord| record.name == name || Some(record.uuid) == uuid;
            store.volumes().find(taken).cloned()
        })?;
        if let Some(found) = taken {
            if is_same(&found, &record, new.uuid) {
                pool.confirm()?;
                return Ok((Arc::clone(&pool), found));
            }
            return Err(about(taken_otherwise(&found, &record)));
        }
        record.created_ns = now_ns();
        let uuid = record.uuid;
        // Hosts know a volume by it, whatever pool it is in.
        let mut twins = self.find_volumes(&VolumeName::Uuid(uuid), |_| true)?;
        if let Some((other, twin)) = twins.pop() {
            let wrong = format!(
                "the UUID {uuid} is that of volume \"{}\" in pool \"{}\"",
                twin.name, other.name
            );
            return Err(about(CallFailed::new(Kind::Exists, wrong)));
        }
        let source = source.map(|source| source.object);
        pool.call(move |store| store.create_volume(NewVolume { record, source })).map_err(about)?;
        let created =
            pool.look(move |store| store.volumes().find(|record| record.uuid == uuid).cloned())?;
        let created = created
            .ok_or_else(|| about(CallFailed::new(Kind::Unavailable, "it was deleted meanwhile")))?;
        Ok((Arc::clone(&pool), created))
    }

    fn new_record(
        new: &NewVolumeOptions,
        source: Option<&Source>,
    ) -> Result<VolumeRecord, CallFailed> {
        let uuid = new.uuid.unwrap_or_else(Uuid::new_v4);
        let mut record_labels = Vec::new();
        new.labels.apply(&mut record_labels)?;
        let (mut size, mut block_bytes) = (new.size, new.block_bytes.unwrap_or(BLOCK_BYTES));
        if let Some(source) = source {
            record_labels.push((labels::SOURCE.to_owned(), source.uuid.to_string()));
            if new.block_bytes.is_some_and(|bytes| bytes != source.block_bytes) {
                let wrong = format!("its source has blocks of {} bytes", source.block_bytes);
                return Err(CallFailed::new(Kind::Invalid, wrong));
            }
            block_bytes = source.block_bytes;
            size = if size == 0 { source.size } else { size };
            if size < source.size {
                let (size, least) = (ByteCount(size), ByteCount(source.size));
                let wrong = format!("{size} is less than its source has, {least}");
                return Err(CallFailed::new(Kind::Invalid, wrong));
            }
        } else if size == 0 {
            return Err(CallFailed::new(Kind::Invalid, "a volume needs a size"));
        }
        let serial = uuid.simple().to_string().to_uppercase();
        let serial: [u8; 20] = serial.as_bytes()[..20].try_into().expect("20 of 32 digits");
        Ok(VolumeRecord {
            id: ObjectId(0),
            uuid,
            tip: None,
            flags: VolumeFlags {
                thick: new.thick,
                write_cache_off: !new.write_cache,
                exported: false,
                any_host: false,
            },
            size: ByteCount(size),
            logical_block_size: block_bytes,
            created_ns: 0,
            identity: Identity {
                subsystem_nqn: format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}"),
                serial,
                nsid: NSID,
                nguid: *uuid.as_bytes(),
                uuid,
            },
            cntlid_min: CNTLIDS.0,
            cntlid_max: CNTLIDS.1,
            members: 0,
            limits: new.limits,
            name: new.name.clone(),
            hosts: Vec::new(),
            labels: record_labels,
        })
    }

    fn pool_for(&self, name: &str) -> Result<Arc<OpenPool>, CallFailed> {
        if !name.is_empty() {
            return self.pool(name);
        }
        let mut pools = self.open_pools_by_name();
        match (pools.len(), pools.pop()) {
            (1, Some(pool)) => Ok(pool),
            (0, _) | (_, None) => {
                let wrong = "the node has no pool; `fathom pool create` makes one";
                Err(CallFailed::new(Kind::Precondition, wrong))
            }
            (_, Some(last)) => {
                let names = pools.iter().map(|pool| pool.name.as_str()).chain([last.name.as_str()]);
                let names = names.collect::<Vec<_>>().join(", ");
                let wrong = format!("name the pool: there are {names}");
                Err(CallFailed::new(Kind::Invalid, wrong))
            }
        }
    }

    fn source(&self, name: &str) -> Result<Source, CallFailed> {
        if names::is_snapshot(name) {
            return self.source_snapshot(name);
        }
        match self.volume(name) {
            Ok((pool, record)) => Ok(Source {
                pool,
                object: record.id,
                uuid: record.uuid,
                size: record.size.0,
                block_bytes: record.logical_block_size,
            }),
            // A UUID may be that of a snapshot.
            Err(failed) if failed.kind == Kind::NotFound && Uuid::try_parse(name).is_ok() => {
                self.source_snapshot(name)
            }
            Err(failed) => Err(failed),
        }
    }

    fn source_snapshot(&self, name: &str) -> Result<Source, CallFailed> {
        let (pool, snapshot, volume) = self.snapshot(name)?;
        Ok(Source {
            pool,
            object: snapshot.id,
            uuid: snapshot.uuid,
            size: snapshot.size.0,
            block_bytes: volume.logical_block_size,
        })
    }

    /// Writes the record of a volume. On return that is durable.
    pub(super) fn write_record(
        &self,
        pool: &OpenPool,
        record: VolumeRecord,
    ) -> Result<(), CallFailed> {
        pool.call(move |store: &mut Store| store.update_volume(record))
    }

    /// Changes the name, the limits and the labels of a volume.
    ///
    /// # Errors
    ///
    /// When the name is taken, a value cannot be, or it is not durable.
    pub(crate) fn update_volume(
        &self,
        name: &str,
        change: &VolumeChange,
    ) -> Result<Found, CallFailed> {
        let about = |failed: CallFailed| failed.about("volume", name);
        if let Some(new) = &change.name {
            names::check_new("volume", new)?;
        }
        let (pool, found) = self.volume(name)?;
        let _changes = pool.hold();
        let record = live(&pool, found.uuid)?;
        let mut new = record.clone();
        if let Some(name) = &change.name {
            new.name.clone_from(name);
        }
        change.limits.apply(&mut new.limits);
        change.labels.apply(&mut new.labels).map_err(about)?;
        if new == record {
            pool.confirm()?;
        } else {
            self.write_record(&pool, new.clone()).map_err(about)?;
        }
        Ok((Arc::clone(&pool), new))
    }

    /// Makes a volume larger, and tells the hosts that are connected.
    ///
    /// # Errors
    ///
    /// When it would shrink, or there is no space for it.
    pub(crate) fn resize_volume(&self, name: &str, size: u64) -> Result<Found, CallFailed> {
        let about = |failed: CallFailed| failed.about("volume", name);
        let (pool, found) = self.volume(name)?;
        let _changes = pool.hold();
        let mut record = live(&pool, found.uuid)?;
        let id = record.id;
        if size != record.size.0 {
            pool.call(move |store| store.resize_volume(id, size)).map_err(about)?;
            record.size = ByteCount(size);
        }
        if self.is_served(&pool, &record) {
            let nqn = super::exports::nqn(&record.identity.subsystem_nqn)?;
            let blocks = size / u64::from(record.logical_block_size);
            self.target.resized(nqn, Nsid(record.identity.nsid), blocks)?;
        }
        pool.confirm()?;
        Ok((Arc::clone(&pool), record))
    }

    /// Deletes a volume. Its snapshots stay.
    ///
    /// # Errors
    ///
    /// When there is none, or a host is connected.
    pub(crate) fn delete_volume(&self, name: &str, allow_missing: bool) -> Result<(), CallFailed> {
        let (pool, found) = match self.volume(name) {
            Err(failed) if allow_missing => return self.is_missing(failed),
            found => found?,
        };
        let _changes = pool.hold();
        let record = match live(&pool, found.uuid) {
            Err(failed) if allow_missing => return self.is_missing(failed),
            record => record?,
        };
        let id = record.id;
        let delete = || pool.call(move |store| store.delete_volume(id));
        self.without_hosts(&pool, &record, Result::is_err, delete)
            .map_err(|failed| failed.about("volume", name))
    }
}

impl Node {
    /// Whether what was not found is gone: it may be in a pool that is not open, or its deletion may
    /// be in memory only.
    pub(super) fn is_missing(&self, failed: CallFailed) -> Result<(), CallFailed> {
        match failed.kind {
            Kind::NotFound if self.closed().is_empty() => {
                self.open_pools_by_name().iter().try_for_each(|pool| pool.confirm())
            }
            Kind::NotFound => Err(CallFailed { kind: Kind::Unavailable, ..failed }),
            _ => Err(failed),
        }
    }
}

/// The volume of a pool that has this UUID, as it is now.
///
/// # Errors
///
/// [`Kind::NotFound`] when it was deleted meanwhile.
pub(super) fn live(pool: &OpenPool, uuid: Uuid) -> Result<VolumeRecord, CallFailed> {
    let found = pool.look(move |store| {
        store.volumes().find(|record| record.uuid == uuid && record.tip.is_some()).cloned()
    })?;
    found.ok_or_else(|| CallFailed::new(Kind::NotFound, format_args!("volume {uuid} was deleted")))
}

/// Whether a volume is what a call that creates one asks for.
fn is_same(found: &VolumeRecord, wanted: &VolumeRecord, uuid: Option<Uuid>) -> bool {
    let mut labels = [found.labels.clone(), wanted.labels.clone()];
    labels.iter_mut().for_each(|labels| labels.sort());
    found.tip.is_some()
        && found.name == wanted.name
        && uuid.is_none_or(|uuid| uuid == found.uuid)
        && found.size == wanted.size
        && found.logical_block_size == wanted.logical_block_size
        && found.flags.thick == wanted.flags.thick
        && found.flags.write_cache_off == wanted.flags.write_cache_off
        && found.limits == wanted.limits
        && labels[0] == labels[1]
}

fn taken_otherwise(found: &VolumeRecord, wanted: &VolumeRecord) -> CallFailed {
    let what = match (found.tip.is_some(), found.name == wanted.name) {
        (true, true) => "the name is taken by a volume that was made otherwise".to_owned(),
        (false, true) => {
            "the name is taken by a deleted volume that still has snapshots; delete them first"
                .to_owned()
        }
        (_, false) => format!("the UUID {} is that of volume \"{}\"", found.uuid, found.name),
    };
    CallFailed::new(Kind::Exists, what)
}
