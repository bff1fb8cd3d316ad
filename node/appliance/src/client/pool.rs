//! `fathom pool`.

use std::path::PathBuf;

use fathom_api::{health_name, v1 as api, v1::pools_client::PoolsClient};

use super::{Outcome, labels, labels_shown, with_daemon, yes_no};
use crate::{
    command::{Form, PoolCommand, PoolSettings},
    output::{self, Table},
    size::Bytes,
};

/// Carries a command out and shows its answer.
pub(crate) fn pool(socket: Option<PathBuf>, form: Form, command: PoolCommand) -> Outcome {
    match command {
        PoolCommand::Create { name, paths, size, cluster_size, force, settings } => {
            let request = api::CreatePoolRequest {
                name,
                paths: absolute(&paths)?,
                size_bytes: size,
                cluster_bytes: cluster_size,
                force,
                uuid: None,
                overcommit_percent: settings.overcommit,
                watermark_low_percent: settings.watermark_low,
                watermark_high_percent: settings.watermark_high,
                labels: labels(settings.label),
            };
            let created = with_daemon(socket, async |channel| {
                Ok(PoolsClient::new(channel).create_pool(request).await?.into_inner())
            })?;
            let pool = created.pool.unwrap_or_default();
            output::show(form, &pool, || object(&pool))
        }
        PoolCommand::Import { paths, pool, degraded } => {
            let pool = pool.unwrap_or_default();
            let request = api::ImportPoolsRequest { paths: absolute(&paths)?, degraded, pool };
            let imported = with_daemon(socket, async |channel| {
                Ok(PoolsClient::new(channel).import_pools(request).await?.into_inner())
            })?;
            output::show(form, &imported.pools, || list(&imported.pools))
        }
        PoolCommand::Release { pool } => {
            let request = api::ReleasePoolRequest { pool };
            let released = with_daemon(socket, async |channel| {
                Ok(PoolsClient::new(channel).release_pool(request).await?.into_inner())
            })?;
            output::show(form, &released, || Table::Done)
        }
        PoolCommand::Grow { pool, paths, size, force } => {
            let paths = absolute(&paths)?;
            let request = api::GrowPoolRequest { pool, paths, size_bytes: size, force };
            let pool = with_daemon(socket, async |channel| {
                Ok(PoolsClient::new(channel).grow_pool(request).await?.into_inner())
            })?;
            output::show(form, &pool, || object(&pool))
        }
        PoolCommand::Rejoin { pool } => {
            let request = api::RejoinPoolRequest { pool };
            let pool = with_daemon(socket, async |channel| {
                Ok(PoolsClient::new(channel).rejoin_pool(request).await?.into_inner())
            })?;
            output::show(form, &pool, || object(&pool))
        }
        PoolCommand::Check { paths, pool, degraded } => {
            super::check::check(form, paths, pool, degraded)
        }
        PoolCommand::Destroy { pool, force } => {
            let request = api::DestroyPoolRequest { pool, force };
            let destroyed = with_daemon(socket, async |channel| {
                Ok(PoolsClient::new(channel).destroy_pool(request).await?.into_inner())
            })?;
            output::show(form, &destroyed, || {
                let missing = destroyed.missing_members.iter();
                match destroyed.missing_members.is_empty() {
                    true => Table::Done,
                    false => Table::Object(
                        missing
                            .map(|uuid| ("not there, and as it was: member", uuid.clone()))
                            .collect(),
                    ),
                }
            })
        }
        PoolCommand::Set { pool, settings, remove_label } => {
            let PoolSettings { overcommit, watermark_low, watermark_high, label } = settings;
            let request = api::UpdatePoolRequest {
                pool,
                overcommit_percent: overcommit,
                watermark_low_percent: watermark_low,
                watermark_high_percent: watermark_high,
                set_labels: labels(label),
                remove_labels: remove_label,
            };
            let pool = with_daemon(socket, async |channel| {
                Ok(PoolsClient::new(channel).update_pool(request).await?.into_inner())
            })?;
            output::show(form, &pool, || object(&pool))
        }
        PoolCommand::List => {
            let listed = with_daemon(socket, async |channel| {
                let request = api::ListPoolsRequest {};
                Ok(PoolsClient::new(channel).list_pools(request).await?.into_inner())
            })?;
            output::show(form, &listed.pools, || list(&listed.pools))
        }
        PoolCommand::Show { pool } => {
            let pool = with_daemon(socket, async |channel| {
                let request = api::GetPoolRequest { pool };
                Ok(PoolsClient::new(channel).get_pool(request).await?.into_inner())
            })?;
            output::show(form, &pool, || object(&pool))
        }
    }
}

/// Paths as the daemon finds them, which runs in another directory.
fn absolute(paths: &[PathBuf]) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let path = |path: &PathBuf| {
        let absolute = std::path::absolute(path)?;
        let text = absolute.to_str().map(str::to_owned);
        text.ok_or_else(|| format!("the path {} is not UTF-8", path.display()).into())
    };
    paths.iter().map(path).collect()
}

fn list(pools: &[api::Pool]) -> Table {
    let row = |pool: &api::Pool| {
        let capacity = pool.capacity.unwrap_or_default();
        vec![
            pool.name.clone(),
            health_name(pool.health()).to_owned(),
            Bytes(capacity.physical_bytes).to_string(),
            Bytes(capacity.allocated_bytes).to_string(),
            Bytes(capacity.free_bytes).to_string(),
            pool.volumes.to_string(),
            pool.snapshots.to_string(),
            if pool.is_volatile { "in memory".to_owned() } else { pool.members.len().to_string() },
        ]
    };
    let head =
        vec!["NAME", "HEALTH", "SIZE", "ALLOCATED", "FREE", "VOLUMES", "SNAPSHOTS", "MEMBERS"];
    Table::List { head, rows: pools.iter().map(row).collect() }
}

fn object(pool: &api::Pool) -> Table {
    let capacity = pool.capacity.unwrap_or_default();
    let reclaiming = pool.reclaiming.unwrap_or_default();
    let percent = |percent: u32| match percent {
        0 => "none".to_owned(),
        percent => format!("{percent}%"),
    };
    let mut health = health_name(pool.health()).to_owned();
    if !pool.health_detail.is_empty() {
        health = format!("{health}: {}", pool.health_detail);
    }
    let mut pairs = vec![
        ("name", pool.name.clone()),
        ("uuid", pool.uuid.clone()),
        ("health", health),
        ("size", Bytes(capacity.physical_bytes).to_string()),
        ("allocated", Bytes(capacity.allocated_bytes).to_string()),
        ("shared", Bytes(capacity.shared_bytes).to_string()),
        ("reserved", Bytes(capacity.reserved_bytes).to_string()),
        ("returning", Bytes(capacity.returning_bytes).to_string()),
        ("free", Bytes(capacity.free_bytes).to_string()),
        ("full", yes_no(pool.is_full)),
        ("over-committed", yes_no(pool.is_overcommitted)),
        ("over-commit limit", percent(pool.overcommit_percent)),
        ("low watermark", percent(pool.watermark_low_percent)),
        ("high watermark", percent(pool.watermark_high_percent)),
        ("cluster size", Bytes(pool.cluster_bytes).to_string()),
        ("volumes", pool.volumes.to_string()),
        ("snapshots", pool.snapshots.to_string()),
        ("labels", labels_shown(&pool.labels)),
    ];
    if reclaiming.left > 0 || reclaiming.stuck > 0 {
        let api::Reclaiming { done, left, stuck } = reclaiming;
        let told = format!("{done} of {} fragments, {stuck} wait for a member", done + left);
        pairs.push(("reclaiming", told));
    }
    if pool.is_volatile {
        pairs.push(("members", "in memory: gone when the daemon ends".to_owned()));
    }
    for member in &pool.members {
        pairs.push(("member", format!("{} ({})", member.path, Bytes(member.size_bytes))));
    }
    Table::Object(pairs)
}
