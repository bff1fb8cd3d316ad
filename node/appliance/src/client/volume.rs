//! `fathom volume`.

use std::path::PathBuf;

use fathom_api::v1::{self as api, volumes_client::VolumesClient};

use super::{Outcome, labels, labels_shown, time_shown, with_daemon, yes_no};
use crate::{
    command::{Form, LimitFlags, Switch, VolumeCommand},
    output::{self, Table},
    size::Bytes,
};

/// Carries a command out and shows its answer.
pub(crate) fn volume(socket: Option<PathBuf>, form: Form, command: VolumeCommand) -> Outcome {
    match command {
        VolumeCommand::List { pool } => {
            let listed = with_daemon(socket, async |channel| {
                let request = api::ListVolumesRequest { pool: pool.unwrap_or_default() };
                let client =
                    VolumesClient::new(channel).max_decoding_message_size(super::ANSWER_MAX);
                Ok({ client }.list_volumes(request).await?.into_inner())
            })?;
            output::show(form, &listed.volumes, || list(&listed.volumes))
        }
        VolumeCommand::Delete { volume, if_exists } => {
            let deleted = with_daemon(socket, async |channel| {
                let request = api::DeleteVolumeRequest { volume, allow_missing: if_exists };
                Ok(VolumesClient::new(channel).delete_volume(request).await?.into_inner())
            })?;
            output::show(form, &deleted, || Table::Done)
        }
        command => {
            let volume = with_daemon(socket, async |channel| {
                call(VolumesClient::new(channel), command).await
            })?;
            output::show(form, &volume, || object(&volume))
        }
    }
}

/// The commands that answer with the volume.
async fn call(
    mut client: VolumesClient<tonic::transport::Channel>,
    command: VolumeCommand,
) -> Result<api::Volume, tonic::Status> {
    let answer = match command {
        VolumeCommand::Create {
            name,
            size,
            pool,
            thick,
            block_size,
            write_cache,
            from,
            uuid,
            limits,
            label,
        } => {
            let request = api::CreateVolumeRequest {
                name,
                size_bytes: size.unwrap_or(0),
                pool: pool.unwrap_or_default(),
                thick,
                block_bytes: block_size,
                write_cache: Some(write_cache == Switch::On),
                limits: Some(wanted(&limits)),
                labels: labels(label),
                source: from,
                uuid,
            };
            client.create_volume(request).await?
        }
        VolumeCommand::Set { volume, limits, label, remove_label } => {
            let request = api::UpdateVolumeRequest {
                volume,
                name: None,
                limits: Some(api::LimitsChange {
                    iops: limits.iops_limit,
                    read_iops: limits.read_iops_limit,
                    write_iops: limits.write_iops_limit,
                    bandwidth: limits.bandwidth_limit,
                    read_bandwidth: limits.read_bandwidth_limit,
                    write_bandwidth: limits.write_bandwidth_limit,
                    burst_s: limits.burst,
                }),
                set_labels: labels(label),
                remove_labels: remove_label,
            };
            client.update_volume(request).await?
        }
        VolumeCommand::Rename { volume, name } => {
            let request =
                api::UpdateVolumeRequest { volume, name: Some(name), ..Default::default() };
            client.update_volume(request).await?
        }
        VolumeCommand::Show { volume } => {
            client.get_volume(api::GetVolumeRequest { volume }).await?
        }
        VolumeCommand::Resize { volume, size } => {
            client.resize_volume(api::ResizeVolumeRequest { volume, size_bytes: size }).await?
        }
        VolumeCommand::Export { volume, host, any_host } => {
            client.export_volume(api::ExportVolumeRequest { volume, hosts: host, any_host }).await?
        }
        VolumeCommand::Unexport { volume } => {
            client.unexport_volume(api::UnexportVolumeRequest { volume }).await?
        }
        VolumeCommand::List { .. } | VolumeCommand::Delete { .. } => {
            unreachable!("they do not answer with a volume")
        }
    };
    Ok(answer.into_inner())
}

/// The limits of a new volume.
fn wanted(flags: &LimitFlags) -> api::Limits {
    api::Limits {
        iops: flags.iops_limit.unwrap_or(0),
        read_iops: flags.read_iops_limit.unwrap_or(0),
        write_iops: flags.write_iops_limit.unwrap_or(0),
        bandwidth: flags.bandwidth_limit.unwrap_or(0),
        read_bandwidth: flags.read_bandwidth_limit.unwrap_or(0),
        write_bandwidth: flags.write_bandwidth_limit.unwrap_or(0),
        burst_s: flags.burst.unwrap_or(0),
    }
}

fn exported(export: &api::Export) -> String {
    match (export.exported, export.any_host) {
        (false, _) => "no".to_owned(),
        (true, true) => "to any host".to_owned(),
        (true, false) => format!("to {}", export.hosts.join(" ")),
    }
}

fn list(volumes: &[api::Volume]) -> Table {
    let row = |volume: &api::Volume| {
        vec![
            volume.name.clone(),
            volume.pool.clone(),
            Bytes(volume.size_bytes).to_string(),
            if volume.thick { "thick" } else { "thin" }.to_owned(),
            volume.snapshots.to_string(),
            exported(&volume.export.clone().unwrap_or_default()),
        ]
    };
    let head = vec!["NAME", "POOL", "SIZE", "KIND", "SNAPSHOTS", "EXPORTED"];
    Table::List { head, rows: volumes.iter().map(row).collect() }
}

fn object(volume: &api::Volume) -> Table {
    let export = volume.export.clone().unwrap_or_default();
    let limits = volume.limits.unwrap_or_default();
    let mut pairs = vec![
        ("name", volume.name.clone()),
        ("uuid", volume.uuid.clone()),
        ("pool", volume.pool.clone()),
        ("size", Bytes(volume.size_bytes).to_string()),
        ("block size", format!("{} B", volume.block_bytes)),
        ("thick", yes_no(volume.thick)),
        ("write cache", yes_no(volume.write_cache)),
        ("created", time_shown(volume.created_ns)),
        ("snapshots", volume.snapshots.to_string()),
        ("labels", labels_shown(&volume.labels)),
        ("exported", exported(&export)),
        ("nqn", export.nqn),
        ("namespace", format!("{} ({})", export.nsid, export.namespace_uuid)),
    ];
    if !volume.source_uuid.is_empty() {
        pairs.push(("made from", volume.source_uuid.clone()));
    }
    for (name, limit) in [
        ("iops limit", limits.iops),
        ("read iops limit", limits.read_iops),
        ("write iops limit", limits.write_iops),
    ] {
        if limit > 0 {
            pairs.push((name, limit.to_string()));
        }
    }
    for (name, limit) in [
        ("bandwidth limit", limits.bandwidth),
        ("read bandwidth limit", limits.read_bandwidth),
        ("write bandwidth limit", limits.write_bandwidth),
    ] {
        if limit > 0 {
            pairs.push((name, format!("{}/s", Bytes(limit))));
        }
    }
    if limits.burst_s > 0 {
        pairs.push(("burst", format!("{} s", limits.burst_s)));
    }
    Table::Object(pairs)
}
