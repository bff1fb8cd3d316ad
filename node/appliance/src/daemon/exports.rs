//! Serving volumes to hosts: from the record on the pool to a subsystem of the target.
//!
//! A volume is one NVM subsystem with one namespace. Who may connect stands in the volume's record;
//! the target has what the record says, from the opening of its pool to its end.

use std::{collections::BTreeSet, sync::Arc};

use fathom_engine::serve::message::Route;
use fathom_lvs::format::op::VolumeRecord;
use fathom_target::export::{Hosts, Namespace, Nqn, Subsystem};
use fathom_units::Nsid;

use super::{
    error::{CallFailed, Kind},
    node::{FENCE_WAIT, Node, OpenPool, hold},
    volumes::live,
};

/// Of what size writes are done best, in bytes: what the store keeps track of.
const PREFERRED_WRITE_BYTES: u32 = fathom_lvs::geometry::BLOCK_SIZE;

/// A name in the form that NVMe gives it.
///
/// # Errors
///
/// [`Kind::Invalid`] when it has not that form.
pub(super) fn nqn(text: &str) -> Result<Nqn, CallFailed> {
    Nqn::new(text)
        .map_err(|error| CallFailed::new(Kind::Invalid, format_args!("NQN \"{text}\": {error}")))
}

/// Who may connect by a record.
fn hosts(record: &VolumeRecord) -> Result<Hosts, CallFailed> {
    if record.flags.any_host {
        return Ok(Hosts::Any);
    }
    let hosts: BTreeSet<Nqn> =
        record.hosts.iter().map(|host| nqn(host)).collect::<Result<_, _>>()?;
    Ok(Hosts::Listed(hosts))
}

/// A volume as a namespace of so many blocks.
fn namespace(pool: &OpenPool, record: &VolumeRecord) -> Namespace {
    Namespace {
        nsid: Nsid(record.identity.nsid),
        device: fathom_target::export::DeviceId(0),
        blocks: record.size.0 / u64::from(record.logical_block_size),
        block_shift: u8::try_from(record.logical_block_size.trailing_zeros()).expect("9 or 12"),
        uuid: record.identity.uuid,
        nguid: record.identity.nguid,
        read_only: false,
        write_cache: !record.flags.write_cache_off,
        preferred_write_bytes: PREFERRED_WRITE_BYTES,
        preferred_deallocate_bytes: pool.cluster_size.bytes(),
    }
}

impl Node {
    /// Serves a volume as its record says.
    ///
    /// # Errors
    ///
    /// When the target does not take it: another volume has its NQN.
    pub(super) fn serve(&self, pool: &OpenPool, record: &VolumeRecord) -> Result<(), CallFailed> {
        let device = self.new_device();
        let subsystem = Subsystem {
            nqn: nqn(&record.identity.subsystem_nqn)?,
            serial: record.identity.serial,
            hosts: hosts(record)?,
            controllers: record.cntlid_min..=record.cntlid_max,
            namespaces: vec![Namespace { device, ..namespace(pool, record) }],
        };
        let route = Route { pool: pool.handle.address(), object: record.id };
        let exported = self.target.export(subsystem, vec![(device, route)])?;
        exported.map_err(|error| CallFailed::new(Kind::Precondition, error))?;
        let nqn = record.identity.subsystem_nqn.clone();
        hold(&self.serving).insert(nqn, (pool.uuid, record.id));
        Ok(())
    }

    /// Whether it is this volume that the target serves under the volume's NQN.
    pub(super) fn is_served(&self, pool: &OpenPool, record: &VolumeRecord) -> bool {
        let serving = hold(&self.serving);
        serving.get(&record.identity.subsystem_nqn) == Some(&(pool.uuid, record.id))
    }

    fn is_not_served(&self, record: &VolumeRecord) {
        hold(&self.serving).remove(&record.identity.subsystem_nqn);
    }

    /// Serves everything that a pool exports. What cannot be served is logged: the others are.
    pub(super) fn restore_exports(&self, pool: &OpenPool) -> Result<(), CallFailed> {
        let exported = |record: &&VolumeRecord| record.flags.exported && record.tip.is_some();
        for record in self.records(pool)?.iter().filter(exported) {
            if let Err(error) = self.serve(pool, record) {
                tracing::error!(pool = pool.name, volume = record.name, %error, "not exported");
            }
        }
        Ok(())
    }

    /// Stops serving all volumes of a pool, to none of which a host is connected.
    pub(super) fn withdraw_all(&self, pool: &OpenPool) -> Result<(), CallFailed> {
        let mut withdrawn = Vec::new();
        for record in self.records(pool)? {
            if !record.flags.exported {
                continue;
            }
            match self.withdraw(pool, &record) {
                Ok(true) => withdrawn.push(record),
                Ok(false) => {}
                Err(failed) => {
                    for record in withdrawn {
                        if let Err(error) = self.serve(pool, &record) {
                            tracing::error!(pool = pool.name, volume = record.name, %error, "not exported");
                        }
                    }
                    return Err(failed.about("pool", &pool.name));
                }
            }
        }
        Ok(())
    }

    /// Stops serving a volume to which no host is connected. Returns whether it was served.
    ///
    /// # Errors
    ///
    /// [`Kind::Precondition`] with the hosts that are connected.
    pub(super) fn withdraw(
        &self,
        pool: &OpenPool,
        record: &VolumeRecord,
    ) -> Result<bool, CallFailed> {
        if !self.is_served(pool, record) {
            return Ok(false);
        }
        let withdrawn = self.target.withdraw(nqn(&record.identity.subsystem_nqn)?)?;
        withdrawn.inspect(|_| self.is_not_served(record)).map_err(|hosts| {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            let connected = format!(
                "{} connected; disconnect there, or `fathom volume unexport` first",
                match &hosts[..] {
                    [host] => format!("host {host} is"),
                    hosts => format!("hosts {} are", hosts.join(", ")),
                }
            );
            CallFailed::new(Kind::Precondition, connected).about("volume", &record.name)
        })
    }

    /// Does something while no host is connected to a volume, and serves it again if `again` says
    /// so of the result.
    pub(super) fn without_hosts<T>(
        &self,
        pool: &OpenPool,
        record: &VolumeRecord,
        again: impl FnOnce(&Result<T, CallFailed>) -> bool,
        work: impl FnOnce() -> Result<T, CallFailed>,
    ) -> Result<T, CallFailed> {
        let was_served = self.withdraw(pool, record)?;
        let result = work();
        if was_served && again(&result) {
            self.serve(pool, record)?;
        }
        result
    }

    /// Exports a volume, or changes to which hosts it is. Hosts that may not connect any more are
    /// gone, and no request of theirs can reach it, when this returns.
    ///
    /// # Errors
    ///
    /// When a host's NQN is none, or there are none.
    pub(crate) fn export_volume(
        &self,
        name: &str,
        hosts: &[String],
        any_host: bool,
    ) -> Result<(Arc<OpenPool>, VolumeRecord), CallFailed> {
        if any_host != hosts.is_empty() {
            let wrong = "name the hosts that may connect, or say that any host may";
            return Err(CallFailed::new(Kind::Invalid, wrong).about("volume", name));
        }
        for host in hosts {
            nqn(host)?;
        }
        let (pool, found) = self.volume(name)?;
        let _changes = pool.hold();
        let record = live(&pool, found.uuid)?;
        let mut new = record.clone();
        new.flags.exported = true;
        new.flags.any_host = any_host;
        new.hosts = hosts.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        self.serve_as(&pool, record, new.clone()).map_err(|failed| failed.about("volume", name))?;
        Ok((Arc::clone(&pool), new))
    }

    /// Adds hosts to those that may connect, and removes others. A volume is exported from the first
    /// one on, and not any more when the last one is gone.
    ///
    /// # Errors
    ///
    /// When a host's NQN is none, or any host may connect.
    pub(crate) fn change_hosts(
        &self,
        name: &str,
        add: &[String],
        remove: &[String],
    ) -> Result<(Arc<OpenPool>, VolumeRecord), CallFailed> {
        for host in add {
            nqn(host)?;
        }
        let (pool, found) = self.volume(name)?;
        let _changes = pool.hold();
        let record = live(&pool, found.uuid)?;
        if record.flags.any_host {
            let wrong = "any host may connect; export it to single ones first";
            return Err(CallFailed::new(Kind::Precondition, wrong).about("volume", name));
        }
        let mut new = record.clone();
        let kept = record.hosts.iter().filter(|host| !remove.contains(host));
        new.hosts = kept.chain(add).cloned().collect::<BTreeSet<_>>().into_iter().collect();
        new.flags.exported = !new.hosts.is_empty();
        if new.flags.exported {
            let served = self.serve_as(&pool, record, new.clone());
            served.map_err(|failed| failed.about("volume", name))?;
        } else {
            self.end_serving(&pool, record, &new)?;
        }
        Ok((Arc::clone(&pool), new))
    }

    /// Writes the record of a volume that is exported from now on, or to other hosts, and has the
    /// target do so. Made again, it waits again for hosts to be fenced.
    fn serve_as(
        &self,
        pool: &OpenPool,
        before: VolumeRecord,
        new: VolumeRecord,
    ) -> Result<(), CallFailed> {
        if new == before {
            pool.confirm()?;
        } else {
            self.write_record(pool, new.clone())?;
        }
        if self.is_served(pool, &new) {
            let nqn = nqn(&new.identity.subsystem_nqn)?;
            if self.target.set_hosts(nqn, hosts(&new)?, FENCE_WAIT)? {
                return Ok(());
            }
        }
        self.serve(pool, &new).or_else(|failed| {
            if new != before {
                self.write_record(pool, before)?;
            }
            Err(failed)
        })
    }

    /// Writes the record of a volume that is exported no more, and returns when no request of a host
    /// can reach it. Made again, it waits for that again.
    fn end_serving(
        &self,
        pool: &OpenPool,
        before: VolumeRecord,
        new: &VolumeRecord,
    ) -> Result<(), CallFailed> {
        if before == *new {
            pool.confirm()?;
        } else {
            self.write_record(pool, new.clone())?;
        }
        if self.is_served(pool, new) {
            self.target.unexport(nqn(&new.identity.subsystem_nqn)?, FENCE_WAIT)?;
            self.is_not_served(new);
        }
        Ok(())
    }

    /// Stops serving a volume. When this returns no request of a host can reach it.
    ///
    /// # Errors
    ///
    /// When it is not durable.
    pub(crate) fn unexport_volume(
        &self,
        name: &str,
    ) -> Result<(Arc<OpenPool>, VolumeRecord), CallFailed> {
        let (pool, found) = self.volume(name)?;
        let _changes = pool.hold();
        let record = live(&pool, found.uuid)?;
        let mut new = record.clone();
        new.flags.exported = false;
        new.flags.any_host = false;
        new.hosts.clear();
        self.end_serving(&pool, record, &new).map_err(|failed| failed.about("volume", name))?;
        Ok((Arc::clone(&pool), new))
    }
}
