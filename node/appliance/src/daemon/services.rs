//! The gRPC services: a message in, a call of the node, a message out. Nothing is decided here.
//!
//! - Calls of the node block, so each runs on a thread that may; at most [`CALLS_MAX`] at a time,
//!   and who comes then is told to try again.
//! - An error becomes a gRPC status in one place: `CallFailed` -> `Status`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use fathom_api::v1::{self as api};
use fathom_lvs::{
    Health,
    format::op::{PoolRecord, QosLimits, Rates, VolumeRecord},
    geometry::BLOCK,
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    error::{CallFailed, Kind},
    labels,
    node::{Node, OpenPool},
    pools::{NewPoolOptions, PoolChange, PoolStatus},
    snapshots::{FoundSnapshot, Wanted},
    volumes::{Found, LimitsChange, NewVolumeOptions, RatesChange, VolumeChange},
};

/// Calls that may be under way at once.
pub(crate) const CALLS_MAX: usize = 32;

/// The node's services.
#[derive(Clone)]
pub(crate) struct Services {
    node: Arc<Node>,
    calls: Arc<Semaphore>,
}

impl Services {
    /// The services of a node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, calls: Arc::new(Semaphore::new(CALLS_MAX)) }
    }

    /// Makes a call of the node on a thread that may wait.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Node) -> Result<T, CallFailed> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let Ok(permit) = Arc::clone(&self.calls).try_acquire_owned() else {
            let told = format!("{CALLS_MAX} calls are under way; try again");
            return Err(Status::unavailable(told));
        };
        let node = Arc::clone(&self.node);
        let called = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            call(&node)
        });
        match called.await {
            Ok(result) => Ok(Response::new(result?)),
            Err(error) => Err(Status::internal(format!("the call ended by itself: {error}"))),
        }
    }
}

fn uuid(text: Option<String>) -> Result<Option<Uuid>, CallFailed> {
    let parse = |text: String| {
        Uuid::try_parse(&text)
            .map_err(|_| CallFailed::new(Kind::Invalid, format_args!("\"{text}\" is no UUID")))
    };
    text.map(parse).transpose()
}

fn paths(paths: Vec<String>) -> Vec<PathBuf> {
    paths.into_iter().map(PathBuf::from).collect()
}

fn new_labels(set: BTreeMap<String, String>) -> labels::Change {
    labels::Change { set, remove: Vec::new() }
}

fn limits(limits: api::Limits) -> QosLimits {
    QosLimits {
        burst_s: limits.burst_s,
        iops: Rates { all: limits.iops, read: limits.read_iops, write: limits.write_iops },
        bandwidth: Rates {
            all: limits.bandwidth,
            read: limits.read_bandwidth,
            write: limits.write_bandwidth,
        },
    }
}

fn limits_change(change: api::LimitsChange) -> LimitsChange {
    LimitsChange {
        burst_s: change.burst_s,
        iops: RatesChange { all: change.iops, read: change.read_iops, write: change.write_iops },
        bandwidth: RatesChange {
            all: change.bandwidth,
            read: change.read_bandwidth,
            write: change.write_bandwidth,
        },
    }
}

fn limits_message(limits: &QosLimits) -> api::Limits {
    api::Limits {
        iops: limits.iops.all,
        read_iops: limits.iops.read,
        write_iops: limits.iops.write,
        bandwidth: limits.bandwidth.all,
        read_bandwidth: limits.bandwidth.read,
        write_bandwidth: limits.bandwidth.write,
        burst_s: limits.burst_s,
    }
}

fn health(health: &Health) -> (api::PoolHealth, String) {
    match health {
        Health::Good => (api::PoolHealth::Good, String::new()),
        Health::Degraded { stale, gone, late } => {
            let mut told = Vec::new();
            for (members, what) in [
                (stale, "has no up-to-date copy of the metadata"),
                (gone, "is missing"),
                (late, "does not answer"),
            ] {
                told.extend(members.iter().map(|member| format!("member {} {what}", member.0)));
            }
            (api::PoolHealth::Degraded, told.join("; "))
        }
        Health::Failed { member, reason } => {
            let told = format!("nothing is acknowledged: {reason} on member {}", member.0);
            (api::PoolHealth::Failed, told)
        }
    }
}

fn pool_message(pool: &OpenPool, status: PoolStatus) -> api::Pool {
    let PoolStatus { record, capacity, fill, reclaiming, volumes, snapshots, .. } = status;
    let (health, health_detail) = health(&status.health);
    let member = |(path, size): &(PathBuf, fathom_units::ByteCount)| api::Member {
        path: path.display().to_string(),
        size_bytes: size.0,
    };
    api::Pool {
        name: pool.name.clone(),
        uuid: pool.uuid.to_string(),
        members: pool.members().iter().map(member).collect(),
        health: health.into(),
        health_detail,
        cluster_bytes: pool.cluster_size.bytes().into(),
        capacity: Some(api::Capacity {
            physical_bytes: capacity.physical.0,
            allocated_bytes: capacity.allocated.0,
            shared_bytes: capacity.shared.0,
            reserved_bytes: capacity.reserved.0,
            returning_bytes: capacity.returning.0,
            free_bytes: capacity.free.0,
        }),
        volumes,
        snapshots,
        overcommit_percent: record.overcommit_percent,
        watermark_low_percent: record.watermark_low_percent.into(),
        watermark_high_percent: record.watermark_high_percent.into(),
        labels: labels::of_users(&record.labels),
        is_volatile: pool.is_volatile,
        is_full: fill.full,
        is_overcommitted: fill.overcommitted,
        reclaiming: Some(api::Reclaiming {
            done: reclaiming.done,
            left: reclaiming.left,
            stuck: reclaiming.stuck,
        }),
    }
}

fn volume_message(pool: &OpenPool, record: &VolumeRecord, snapshots: u64) -> api::Volume {
    api::Volume {
        name: record.name.clone(),
        uuid: record.uuid.to_string(),
        pool: pool.name.clone(),
        size_bytes: record.size.0,
        block_bytes: record.logical_block_size,
        thick: record.flags.thick,
        write_cache: !record.flags.write_cache_off,
        limits: Some(limits_message(&record.limits)),
        labels: labels::of_users(&record.labels),
        export: Some(api::Export {
            exported: record.flags.exported,
            nqn: record.identity.subsystem_nqn.clone(),
            nsid: record.identity.nsid,
            namespace_uuid: record.identity.uuid.to_string(),
            any_host: record.flags.any_host,
            hosts: record.hosts.clone(),
        }),
        created_ns: record.created_ns,
        source_uuid: labels::find(&record.labels, labels::SOURCE).unwrap_or_default().to_owned(),
        snapshots,
    }
}

fn snapshot_message((pool, snapshot, volume): &FoundSnapshot) -> api::Snapshot {
    api::Snapshot {
        name: snapshot.name.clone(),
        uuid: snapshot.uuid.to_string(),
        volume: volume.name.clone(),
        pool: pool.name.clone(),
        size_bytes: snapshot.size.0,
        created_ns: snapshot.created_ns,
        labels: labels::of_users(&snapshot.labels),
        volume_deleted: volume.tip.is_none(),
    }
}

fn shown_pool(node: &Node, pool: &OpenPool) -> Result<api::Pool, CallFailed> {
    Ok(pool_message(pool, node.status(pool)?))
}

fn shown_volume(node: &Node, (pool, record): &Found) -> Result<api::Volume, CallFailed> {
    Ok(volume_message(pool, record, node.snapshots_of(pool, record.id)?))
}

#[tonic::async_trait]
impl api::node_server::Node for Services {
    async fn get_node(
        &self,
        _: Request<api::GetNodeRequest>,
    ) -> Result<Response<api::NodeInfo>, Status> {
        self.call(|node| {
            let closed = |(name, pool): (String, super::node::ClosedPool)| api::ClosedPool {
                name,
                paths: pool.paths.iter().map(|path| path.display().to_string()).collect(),
                reason: pool.reason,
            };
            Ok(api::NodeInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                listeners: node.listening(),
                loops: u32::try_from(node.loops()).expect("few loops"),
                connections: node.connections() as u64,
                uptime_s: node.uptime().as_secs(),
                closed_pools: node.closed().into_iter().map(closed).collect(),
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl api::pools_server::Pools for Services {
    async fn create_pool(
        &self,
        request: Request<api::CreatePoolRequest>,
    ) -> Result<Response<api::CreatePoolResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let change = PoolChange {
                overcommit_percent: request.overcommit_percent,
                watermark_low_percent: request.watermark_low_percent,
                watermark_high_percent: request.watermark_high_percent,
                labels: new_labels(request.labels),
            };
            let mut record = PoolRecord::default();
            change.apply(&mut record).map_err(|failed| failed.about("pool", &request.name))?;
            let options = NewPoolOptions {
                name: request.name,
                uuid: uuid(request.uuid)?,
                cluster_bytes: request.cluster_bytes,
                force: request.force,
                record,
            };
            let pool = node.create_pool(&paths(request.paths), request.size_bytes, options)?;
            Ok(api::CreatePoolResponse { pool: Some(shown_pool(node, &pool)?) })
        })
        .await
    }

    async fn import_pools(
        &self,
        request: Request<api::ImportPoolsRequest>,
    ) -> Result<Response<api::ImportPoolsResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let name = (!request.pool.is_empty()).then_some(request.pool.as_str());
            let pools = node.import_pools(&paths(request.paths), name, request.degraded)?;
            let pools = pools.iter().map(|pool| shown_pool(node, pool));
            Ok(api::ImportPoolsResponse { pools: pools.collect::<Result<_, _>>()? })
        })
        .await
    }

    async fn release_pool(
        &self,
        request: Request<api::ReleasePoolRequest>,
    ) -> Result<Response<api::ReleasePoolResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            node.release_pool(&request.pool)?;
            Ok(api::ReleasePoolResponse {})
        })
        .await
    }

    async fn grow_pool(
        &self,
        request: Request<api::GrowPoolRequest>,
    ) -> Result<Response<api::Pool>, Status> {
        let api::GrowPoolRequest { pool, paths: new, size_bytes, force } = request.into_inner();
        self.call(move |node| {
            shown_pool(node, &*node.grow_pool(&pool, &paths(new), size_bytes, force)?)
        })
        .await
    }

    async fn rejoin_pool(
        &self,
        request: Request<api::RejoinPoolRequest>,
    ) -> Result<Response<api::Pool>, Status> {
        let request = request.into_inner();
        self.call(move |node| shown_pool(node, &*node.rejoin_pool(&request.pool)?)).await
    }

    async fn destroy_pool(
        &self,
        request: Request<api::DestroyPoolRequest>,
    ) -> Result<Response<api::DestroyPoolResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let missing = node.destroy_pool(&request.pool, request.force)?;
            let missing_members = missing.iter().map(ToString::to_string).collect();
            Ok(api::DestroyPoolResponse { missing_members })
        })
        .await
    }

    async fn list_pools(
        &self,
        _: Request<api::ListPoolsRequest>,
    ) -> Result<Response<api::ListPoolsResponse>, Status> {
        self.call(|node| {
            let mut pools = Vec::new();
            for pool in node.open_pools_by_name() {
                match shown_pool(node, &pool) {
                    Ok(shown) => pools.push(shown),
                    Err(failed) if !node.is_open(&pool) => {
                        tracing::debug!(pool = pool.name, %failed, "closed while pools were listed");
                    }
                    Err(failed) => return Err(failed),
                }
            }
            Ok(api::ListPoolsResponse { pools })
        })
        .await
    }

    async fn get_pool(
        &self,
        request: Request<api::GetPoolRequest>,
    ) -> Result<Response<api::Pool>, Status> {
        let request = request.into_inner();
        self.call(move |node| shown_pool(node, &*node.pool(&request.pool)?)).await
    }

    async fn update_pool(
        &self,
        request: Request<api::UpdatePoolRequest>,
    ) -> Result<Response<api::Pool>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let change = PoolChange {
                overcommit_percent: request.overcommit_percent,
                watermark_low_percent: request.watermark_low_percent,
                watermark_high_percent: request.watermark_high_percent,
                labels: labels::Change { set: request.set_labels, remove: request.remove_labels },
            };
            shown_pool(node, &*node.update_pool(&request.pool, &change)?)
        })
        .await
    }
}

#[tonic::async_trait]
impl api::volumes_server::Volumes for Services {
    async fn create_volume(
        &self,
        request: Request<api::CreateVolumeRequest>,
    ) -> Result<Response<api::Volume>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let new = NewVolumeOptions {
                name: request.name,
                uuid: uuid(request.uuid)?,
                pool: request.pool,
                size: request.size_bytes,
                thick: request.thick,
                block_bytes: request.block_bytes,
                write_cache: request.write_cache.unwrap_or(true),
                limits: request.limits.map(limits).unwrap_or_default(),
                labels: new_labels(request.labels),
                source: request.source,
            };
            shown_volume(node, &node.create_volume(&new)?)
        })
        .await
    }

    async fn update_volume(
        &self,
        request: Request<api::UpdateVolumeRequest>,
    ) -> Result<Response<api::Volume>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let change = VolumeChange {
                name: request.name,
                limits: request.limits.map(limits_change).unwrap_or_default(),
                labels: labels::Change { set: request.set_labels, remove: request.remove_labels },
            };
            shown_volume(node, &node.update_volume(&request.volume, &change)?)
        })
        .await
    }

    async fn resize_volume(
        &self,
        request: Request<api::ResizeVolumeRequest>,
    ) -> Result<Response<api::Volume>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            shown_volume(node, &node.resize_volume(&request.volume, request.size_bytes)?)
        })
        .await
    }

    async fn delete_volume(
        &self,
        request: Request<api::DeleteVolumeRequest>,
    ) -> Result<Response<api::DeleteVolumeResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            node.delete_volume(&request.volume, request.allow_missing)?;
            Ok(api::DeleteVolumeResponse {})
        })
        .await
    }

    async fn list_volumes(
        &self,
        request: Request<api::ListVolumesRequest>,
    ) -> Result<Response<api::ListVolumesResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let pools = match request.pool.is_empty() {
                true => node.open_pools_by_name(),
                false => vec![node.pool(&request.pool)?],
            };
            let mut volumes = Vec::new();
            for pool in pools {
                let snapshots = node.snapshot_counts(&pool)?;
                let records = node.records(&pool)?;
                let live = records.iter().filter(|record| record.tip.is_some());
                volumes.extend(live.map(|record| {
                    let count = snapshots.get(&record.id).copied().unwrap_or(0);
                    volume_message(&pool, record, count)
                }));
            }
            Ok(api::ListVolumesResponse { volumes })
        })
        .await
    }

    async fn get_volume(
        &self,
        request: Request<api::GetVolumeRequest>,
    ) -> Result<Response<api::Volume>, Status> {
        let request = request.into_inner();
        self.call(move |node| shown_volume(node, &node.volume(&request.volume)?)).await
    }

    async fn export_volume(
        &self,
        request: Request<api::ExportVolumeRequest>,
    ) -> Result<Response<api::Volume>, Status> {
        let api::ExportVolumeRequest { volume, hosts, any_host } = request.into_inner();
        self.call(move |node| shown_volume(node, &node.export_volume(&volume, &hosts, any_host)?))
            .await
    }

    async fn change_hosts(
        &self,
        request: Request<api::ChangeHostsRequest>,
    ) -> Result<Response<api::Volume>, Status> {
        let api::ChangeHostsRequest { volume, add, remove } = request.into_inner();
        self.call(move |node| shown_volume(node, &node.change_hosts(&volume, &add, &remove)?)).await
    }

    async fn unexport_volume(
        &self,
        request: Request<api::UnexportVolumeRequest>,
    ) -> Result<Response<api::Volume>, Status> {
        let request = request.into_inner();
        self.call(move |node| shown_volume(node, &node.unexport_volume(&request.volume)?)).await
    }
}

#[tonic::async_trait]
impl api::snapshots_server::Snapshots for Services {
    async fn create_snapshots(
        &self,
        request: Request<api::CreateSnapshotsRequest>,
    ) -> Result<Response<api::CreateSnapshotsResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let wanted = request.snapshots.into_iter();
            let wanted: Vec<Wanted> = wanted
                .map(|new| Ok(Wanted { name: new.name, uuid: uuid(new.uuid)? }))
                .collect::<Result<_, CallFailed>>()?;
            let taken = node.create_snapshots(&wanted, &new_labels(request.labels))?;
            let snapshots = taken.iter().map(snapshot_message).collect();
            Ok(api::CreateSnapshotsResponse { snapshots })
        })
        .await
    }

    async fn delete_snapshot(
        &self,
        request: Request<api::DeleteSnapshotRequest>,
    ) -> Result<Response<api::DeleteSnapshotResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            node.delete_snapshot(&request.snapshot, request.allow_missing)?;
            Ok(api::DeleteSnapshotResponse {})
        })
        .await
    }

    async fn list_snapshots(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<api::ListSnapshotsResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let found = node.snapshots(&request.volume)?;
            let snapshots = found.iter().map(snapshot_message).collect();
            Ok(api::ListSnapshotsResponse { snapshots })
        })
        .await
    }

    async fn get_snapshot(
        &self,
        request: Request<api::GetSnapshotRequest>,
    ) -> Result<Response<api::Snapshot>, Status> {
        let request = request.into_inner();
        self.call(move |node| Ok(snapshot_message(&node.snapshot(&request.snapshot)?))).await
    }

    async fn roll_back(
        &self,
        request: Request<api::RollBackRequest>,
    ) -> Result<Response<api::RollBackResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            node.roll_back(&request.snapshot)?;
            Ok(api::RollBackResponse {})
        })
        .await
    }

    async fn list_ranges(
        &self,
        request: Request<api::ListRangesRequest>,
    ) -> Result<Response<api::ListRangesResponse>, Status> {
        let request = request.into_inner();
        self.call(move |node| {
            let api::ListRangesRequest { object, base, from_bytes, most } = request;
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let page = node.ranges(&object, &base, from_bytes, most)?;
            let range = |range: &fathom_lvs::BlockRange| api::Range {
                offset_bytes: range.first * BLOCK,
                length_bytes: range.blocks * BLOCK,
            };
            Ok(api::ListRangesResponse {
                ranges: page.ranges.iter().map(range).collect(),
                next_bytes: page.next.map(|block| block * BLOCK),
            })
        })
        .await
    }
}
