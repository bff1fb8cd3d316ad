//! Snapshots: create several at one point, find, list, roll back, delete; where data is.

use std::{collections::BTreeMap, sync::Arc};

use fathom_lvs::{
    NewSnapshot, Page,
    format::op::{SnapshotRecord, VolumeRecord},
    geometry::{BLOCK, ObjectId},
};
use uuid::Uuid;

use super::{
    error::{CallFailed, Kind},
    labels,
    names::{self, SnapshotName},
    node::{Node, OpenPool},
    pools::now_ns,
    volumes::live,
};

/// The most snapshots of one call.
const TOGETHER_MAX: usize = 64;
/// The most ranges of one page.
const RANGES_MAX: usize = 1024;
/// Records that one look at a store takes.
const PAGE: usize = 256;

/// A snapshot, its volume, and the pool they are in.
pub(crate) type FoundSnapshot = (Arc<OpenPool>, SnapshotRecord, VolumeRecord);

/// A snapshot to be taken: `VOLUME@NAME`.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) uuid: Option<Uuid>,
}

impl Node {
    /// The snapshot that a name means.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`], or [`Kind::Invalid`] when the name could mean two or is none.
    pub(crate) fn snapshot(&self, text: &str) -> Result<FoundSnapshot, CallFailed> {
        let missing = || {
            CallFailed::new(
                Kind::NotFound,
                format_args!(
                    "there is no snapshot \"{text}\"; `fathom snapshot list` shows what there is{}",
                    self.of_closed_pools()
                ),
            )
        };
        match names::snapshot(text)? {
            SnapshotName::Uuid(uuid) => {
                for pool in self.open_pools_by_name() {
                    let meant = move |snapshot: &SnapshotRecord| snapshot.uuid == uuid;
                    if let Some((snapshot, volume)) = find(&pool, meant)? {
                        return Ok((pool, snapshot, volume));
                    }
                }
                Err(missing())
            }
            SnapshotName::Name { volume, name } => {
                let mut found = Vec::new();
                for (pool, volume) in self.find_volumes(&volume, |_| true)? {
                    if let Some((snapshot, volume)) = find(&pool, named(&volume, name))? {
                        found.push((pool, snapshot, volume));
                    }
                }
                match (found.pop(), found.pop()) {
                    (Some(found), None) => Ok(found),
                    (Some(_), Some(_)) => Err(CallFailed::new(
                        Kind::Invalid,
                        format_args!("two pools have a snapshot \"{text}\"; give POOL/VOLUME@NAME"),
                    )),
                    (None, _) => Err(missing()),
                }
            }
        }
    }

    /// Takes snapshots of several volumes of a pool at one point in time.
    ///
    /// # Errors
    ///
    /// When some of them exist, or a volume does not, or volumes are in different pools, or there is
    /// no space to guarantee a thick volume's next writes.
    pub(crate) fn create_snapshots(
        &self,
        wanted: &[Wanted],
        change: &labels::Change,
    ) -> Result<Vec<FoundSnapshot>, CallFailed> {
        if wanted.is_empty() || wanted.len() > TOGETHER_MAX {
            let wrong = format!("name 1 to {TOGETHER_MAX} snapshots, as VOLUME@NAME");
            return Err(CallFailed::new(Kind::Invalid, wrong));
        }
        let mut volumes = Vec::new();
        for Wanted { name, .. } in wanted {
            let Some((volume, snapshot)) = name.split_once('@') else {
                let wrong = format!("\"{name}\" names no snapshot: give VOLUME@NAME");
                return Err(CallFailed::new(Kind::Invalid, wrong));
            };
            names::check_new("snapshot", snapshot)?;
            volumes.push((self.volume(volume)?, snapshot.to_owned()));
        }
        let pool = Arc::clone(&volumes[0].0.0);
        if let Some(((other, record), _)) = volumes.iter().find(|((p, _), _)| p.uuid != pool.uuid) {
            let wrong = format!(
                "volume \"{}\" is in pool \"{}\", the first one in \"{}\": only volumes of one \
                 pool have one point in time",
                record.name, other.name, pool.name
            );
            return Err(CallFailed::new(Kind::Invalid, wrong));
        }
        let mut new_labels = Vec::new();
        change.apply(&mut new_labels)?;
        let _changes = pool.hold();
        let volumes: Vec<(VolumeRecord, String)> = volumes
            .into_iter()
            .map(|((_, record), name)| Ok((live(&pool, record.uuid)?, name)))
            .collect::<Result<_, CallFailed>>()?;
        if existing(&pool, &volumes, wanted, &new_labels)? {
            pool.confirm()?;
            return taken(&pool, &volumes);
        }
        let created_ns = now_ns();
        let new: Vec<NewSnapshot> = volumes
            .iter()
            .zip(wanted)
            .map(|((record, name), wanted)| NewSnapshot {
                volume: record.id,
                name: name.clone(),
                uuid: wanted.uuid.unwrap_or_else(Uuid::new_v4),
                created_ns,
                labels: new_labels.clone(),
            })
            .collect();
        let names = wanted.iter().map(|wanted| wanted.name.as_str()).collect::<Vec<_>>().join(", ");
        let called = pool.call(move |store| store.create_snapshots(new));
        called.map_err(|failed| failed.about("snapshot", &names))?;
        taken(&pool, &volumes)
    }

    /// The snapshots of a volume, or of all.
    ///
    /// # Errors
    ///
    /// When there is no such volume.
    pub(crate) fn snapshots(&self, volume: &str) -> Result<Vec<FoundSnapshot>, CallFailed> {
        let of: Option<Vec<(Arc<OpenPool>, VolumeRecord)>> = match volume.is_empty() {
            true => None,
            false => Some(self.find_volumes(&names::volume(volume), |_| true)?),
        };
        if of.as_ref().is_some_and(Vec::is_empty) {
            // Told as every call does that needs a volume.
            self.volume(volume)?;
        }
        let pools = match &of {
            Some(of) => of.iter().map(|(pool, _)| Arc::clone(pool)).collect(),
            None => self.open_pools_by_name(),
        };
        let mut found = Vec::new();
        for pool in pools {
            let wanted: Option<Vec<ObjectId>> = of.as_ref().map(|of| {
                let here = of.iter().filter(|(other, _)| other.uuid == pool.uuid);
                here.map(|(_, record)| record.id).collect()
            });
            let volumes: BTreeMap<ObjectId, VolumeRecord> =
                self.records(&pool)?.into_iter().map(|record| (record.id, record)).collect();
            let mut after: Option<ObjectId> = None;
            loop {
                let page: Vec<SnapshotRecord> = pool.look(move |store| {
                    let rest = store.snapshots().filter(|record| Some(record.id) > after);
                    rest.take(PAGE).cloned().collect()
                })?;
                after = page.last().map(|record| record.id);
                let last = page.len() < PAGE;
                for snapshot in page {
                    let asked = wanted.as_ref().is_none_or(|ids| ids.contains(&snapshot.volume));
                    if let (true, Some(volume)) = (asked, volumes.get(&snapshot.volume)) {
                        found.push((Arc::clone(&pool), snapshot, volume.clone()));
                    }
                }
                if last {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Deletes a snapshot. Its space comes back in the background.
    ///
    /// # Errors
    ///
    /// When there is none, or it is not durable.
    pub(crate) fn delete_snapshot(
        &self,
        name: &str,
        allow_missing: bool,
    ) -> Result<(), CallFailed> {
        let (pool, record, _) = match self.snapshot(name) {
            Err(failed) if allow_missing => return self.is_missing(failed),
            found => found?,
        };
        let _changes = pool.hold();
        // Ids are never given twice: one that was deleted meanwhile is not found.
        match pool.call(move |store| store.delete_snapshot(record.id)) {
            Err(failed) if allow_missing => self.is_missing(failed),
            deleted => deleted.map_err(|failed| failed.about("snapshot", name)),
        }
    }

    /// Makes a volume's content that of one of its snapshots.
    ///
    /// # Errors
    ///
    /// When a host is connected to the volume, or it was deleted.
    pub(crate) fn roll_back(&self, name: &str) -> Result<(), CallFailed> {
        let (pool, snapshot, volume) = self.snapshot(name)?;
        let _changes = pool.hold();
        let volume = live(&pool, volume.uuid).unwrap_or(VolumeRecord { tip: None, ..volume });
        if volume.tip.is_none() {
            let wrong = "its volume was deleted; make a volume from it instead";
            return Err(CallFailed::new(Kind::Precondition, wrong).about("snapshot", name));
        }
        let (of, id) = (volume.id, snapshot.id);
        let roll_back = || pool.call(move |store| store.rollback(of, id));
        self.without_hosts(&pool, &volume, |_| true, roll_back)
            .map_err(|failed| failed.about("snapshot", name))
    }

    /// Where a volume or snapshot has data, or where it may differ from `base`: from byte `from` on,
    /// `most` ranges at most. In units of 4096 bytes.
    ///
    /// # Errors
    ///
    /// When one of them does not exist, or they are in different pools.
    pub(crate) fn ranges(
        &self,
        object: &str,
        base: &str,
        from: u64,
        most: usize,
    ) -> Result<Page, CallFailed> {
        let (pool, id) = self.object(object)?;
        let (from, most) = (from / BLOCK, most.clamp(1, RANGES_MAX));
        let page = if base.is_empty() {
            pool.look(move |store| store.allocated_ranges(id, from, most))?
        } else {
            let (other, base_id) = self.object(base)?;
            if other.uuid != pool.uuid {
                let wrong = format!("\"{object}\" and \"{base}\" are in different pools");
                return Err(CallFailed::new(Kind::Invalid, wrong));
            }
            pool.look(move |store| store.different_ranges(id, base_id, from, most))?
        };
        Ok(page?)
    }

    /// The volume or snapshot that a name means.
    fn object(&self, name: &str) -> Result<(Arc<OpenPool>, ObjectId), CallFailed> {
        let snapshot = || self.snapshot(name).map(|(pool, snapshot, _)| (pool, snapshot.id));
        if names::is_snapshot(name) {
            return snapshot();
        }
        match self.volume(name) {
            Ok((pool, record)) => Ok((pool, record.id)),
            Err(failed) if failed.kind == Kind::NotFound && Uuid::try_parse(name).is_ok() => {
                snapshot()
            }
            Err(failed) => Err(failed),
        }
    }
}

/// Whether the snapshots of a call were taken by one that was made before: all of them, or none.
fn existing(
    pool: &OpenPool,
    volumes: &[(VolumeRecord, String)],
    wanted: &[Wanted],
    new_labels: &[(String, String)],
) -> Result<bool, CallFailed> {
    let mut found = Vec::new();
    for ((volume, name), Wanted { name: whole, uuid }) in volumes.iter().zip(wanted) {
        let Some((snapshot, _)) = find(pool, named(volume, name))? else { continue };
        let same = uuid.is_none_or(|uuid| uuid == snapshot.uuid);
        if !same || snapshot.labels != new_labels {
            let wrong = "the name is taken by one that was taken otherwise";
            return Err(CallFailed::new(Kind::Exists, wrong).about("snapshot", whole));
        }
        found.push(whole.as_str());
    }
    match found.len() {
        0 => Ok(false),
        count if count == wanted.len() => Ok(true),
        _ => {
            let wrong = format!("of these, {} exist already", found.join(", "));
            Err(CallFailed::new(Kind::Exists, wrong))
        }
    }
}

/// The snapshots that a call has taken.
fn taken(
    pool: &Arc<OpenPool>,
    volumes: &[(VolumeRecord, String)],
) -> Result<Vec<FoundSnapshot>, CallFailed> {
    let found = volumes.iter().map(|(volume, name)| {
        let found = find(pool, named(volume, name))?;
        let (snapshot, volume) = found.ok_or_else(|| {
            CallFailed::new(Kind::NotFound, "it was deleted meanwhile").about("snapshot", name)
        })?;
        Ok((Arc::clone(pool), snapshot, volume))
    });
    found.collect()
}

/// Whether a record is that of this snapshot of this volume.
fn named(
    volume: &VolumeRecord,
    name: &str,
) -> impl Fn(&SnapshotRecord) -> bool + Send + use<> + 'static {
    let (id, name) = (volume.id, name.to_owned());
    move |snapshot| snapshot.volume == id && snapshot.name == name
}

/// The snapshot of a pool that is meant, with its volume.
fn find(
    pool: &OpenPool,
    meant: impl Fn(&SnapshotRecord) -> bool + Send + 'static,
) -> Result<Option<(SnapshotRecord, VolumeRecord)>, CallFailed> {
    pool.look(move |store| {
        let snapshot = store.snapshots().find(|snapshot| meant(snapshot))?.clone();
        let volume = store.volumes().find(|volume| volume.id == snapshot.volume)?.clone();
        Some((snapshot, volume))
    })
}
