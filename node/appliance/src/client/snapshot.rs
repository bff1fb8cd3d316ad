//! `fathom snapshot`.

use std::path::PathBuf;

use fathom_api::v1::{self as api, snapshots_client::SnapshotsClient};

use super::{Outcome, labels, labels_shown, time_shown, with_daemon};
use crate::{
    command::{Form, SnapshotCommand},
    output::{self, Table},
    size::Bytes,
};

/// Ranges that are asked for at a time.
const PAGE: u32 = 1024;

/// Carries a command out and shows its answer.
pub(crate) fn snapshot(socket: Option<PathBuf>, form: Form, command: SnapshotCommand) -> Outcome {
    match command {
        SnapshotCommand::Create { snapshots, label } => {
            let new = |name| api::NewSnapshot { name, uuid: None };
            let request = api::CreateSnapshotsRequest {
                snapshots: snapshots.into_iter().map(new).collect(),
                labels: labels(label),
            };
            let taken = with_daemon(socket, async |channel| {
                Ok(SnapshotsClient::new(channel).create_snapshots(request).await?.into_inner())
            })?;
            output::show(form, &taken.snapshots, || list(&taken.snapshots))
        }
        SnapshotCommand::List { volume } => {
            let listed = with_daemon(socket, async |channel| {
                let request = api::ListSnapshotsRequest { volume: volume.unwrap_or_default() };
                let client =
                    SnapshotsClient::new(channel).max_decoding_message_size(super::ANSWER_MAX);
                Ok({ client }.list_snapshots(request).await?.into_inner())
            })?;
            output::show(form, &listed.snapshots, || list(&listed.snapshots))
        }
        SnapshotCommand::Show { snapshot } => {
            let snapshot = with_daemon(socket, async |channel| {
                let request = api::GetSnapshotRequest { snapshot };
                Ok(SnapshotsClient::new(channel).get_snapshot(request).await?.into_inner())
            })?;
            output::show(form, &snapshot, || object(&snapshot))
        }
        SnapshotCommand::Diff { object, base } => {
            let ranges = with_daemon(socket, async |channel| {
                ranges(SnapshotsClient::new(channel), object, base.unwrap_or_default()).await
            })?;
            output::show(form, &ranges, || ranges_shown(&ranges))
        }
        SnapshotCommand::Rollback { snapshot } => {
            let done = with_daemon(socket, async |channel| {
                let request = api::RollBackRequest { snapshot };
                Ok(SnapshotsClient::new(channel).roll_back(request).await?.into_inner())
            })?;
            output::show(form, &done, || Table::Done)
        }
        SnapshotCommand::Delete { snapshot, if_exists } => {
            let deleted = with_daemon(socket, async |channel| {
                let request = api::DeleteSnapshotRequest { snapshot, allow_missing: if_exists };
                Ok(SnapshotsClient::new(channel).delete_snapshot(request).await?.into_inner())
            })?;
            output::show(form, &deleted, || Table::Done)
        }
    }
}

/// All pages. Ranges that touch are one.
async fn ranges(
    mut client: SnapshotsClient<tonic::transport::Channel>,
    object: String,
    base: String,
) -> Result<Vec<api::Range>, tonic::Status> {
    let mut ranges: Vec<api::Range> = Vec::new();
    let mut from = Some(0);
    while let Some(from_bytes) = from {
        let (object, base) = (object.clone(), base.clone());
        let request = api::ListRangesRequest { object, base, from_bytes, most: PAGE };
        let page = client.list_ranges(request).await?.into_inner();
        for range in page.ranges {
            match ranges.last_mut() {
                Some(last) if last.offset_bytes + last.length_bytes == range.offset_bytes => {
                    last.length_bytes += range.length_bytes;
                }
                _ => ranges.push(range),
            }
        }
        from = page.next_bytes;
    }
    Ok(ranges)
}

fn ranges_shown(ranges: &[api::Range]) -> Table {
    let row =
        |range: &api::Range| vec![range.offset_bytes.to_string(), range.length_bytes.to_string()];
    Table::List { head: vec!["OFFSET", "LENGTH"], rows: ranges.iter().map(row).collect() }
}

fn name(snapshot: &api::Snapshot) -> String {
    format!("{}@{}", snapshot.volume, snapshot.name)
}

fn list(snapshots: &[api::Snapshot]) -> Table {
    let row = |snapshot: &api::Snapshot| {
        vec![
            name(snapshot),
            snapshot.pool.clone(),
            Bytes(snapshot.size_bytes).to_string(),
            time_shown(snapshot.created_ns),
        ]
    };
    let head = vec!["NAME", "POOL", "SIZE", "CREATED"];
    Table::List { head, rows: snapshots.iter().map(row).collect() }
}

fn object(snapshot: &api::Snapshot) -> Table {
    let volume = match snapshot.volume_deleted {
        true => format!("{} (deleted)", snapshot.volume),
        false => snapshot.volume.clone(),
    };
    Table::Object(vec![
        ("name", name(snapshot)),
        ("uuid", snapshot.uuid.clone()),
        ("volume", volume),
        ("pool", snapshot.pool.clone()),
        ("size", Bytes(snapshot.size_bytes).to_string()),
        ("created", time_shown(snapshot.created_ns)),
        ("labels", labels_shown(&snapshot.labels)),
    ])
}
