//! `fathom bench`: load through our own NVMe/TCP host, against a volume of the node or any target.
//!
//! ```text
//!   --volume:  asked of the daemon, exported to this host --+
//!   --scratch: made, exported to this host -----------------+--> load --> table --> undone
//!   --nqn:     as it is ------------------------------------+
//! ```

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use fathom_api::v1::{self as api, node_client::NodeClient, volumes_client::VolumesClient};
use fathom_bench::{
    Cancel, Digests, HostId, Mode, Nqn, Progress, Report, Target, Timeouts, Until, Workload,
    report::{Direction, Latency, Results},
    run,
};
use fathom_units::Nsid;
use serde::Serialize;
use tonic::{Status, transport::Channel};
use uuid::Uuid;

use super::{Outcome, with_daemon};
use crate::{
    command::{BenchCommand, Form, Pattern},
    output::{self, Table},
};

/// Characters of the progress bar.
const BAR: usize = 30;

/// Where the load goes, and what was changed for it.
struct Place {
    nqn: Nqn,
    nsid: u32,
    address: SocketAddr,
    undo: Undo,
}

/// What is done when the load has ended.
enum Undo {
    /// Nothing.
    Nothing,
    /// This host may not connect to the volume any more.
    RemoveHost { volume: String, host: String },
    /// The volume is deleted.
    Delete { volume: String },
}

/// Puts a target under load and shows what came of it.
pub(crate) fn bench(socket: Option<PathBuf>, form: Form, command: BenchCommand) -> Outcome {
    let mode = match command.rw {
        Pattern::Read => Mode::Read,
        Pattern::Write => Mode::Write,
        Pattern::Randread => Mode::RandRead,
        Pattern::Randwrite => Mode::RandWrite,
        Pattern::Randrw => Mode::RandRw { read_percent: command.read_percent },
    };
    if mode.writes() && !command.scratch && !command.overwrite {
        return Err("this writes: give --scratch to have a volume made for it, or --overwrite to \
                    lose what is there"
            .into());
    }
    let workload = Workload {
        mode,
        block_bytes: u32::try_from(command.bs).map_err(|_| "--bs is too large")?,
        queue_depth: command.qd,
        jobs: command.jobs,
        loops: command.loops,
        until: Until::Elapsed(Duration::from_secs(command.time)),
        ..Workload::default()
    };
    let id = Uuid::new_v4();
    let host = command.hostnqn.clone();
    let host = host.unwrap_or_else(|| format!("nqn.2014-08.org.nvmexpress:uuid:{id}"));
    // Whatever can be wrong, before anything is changed.
    let host_name = name(&host)?;
    let cancel = Cancel::new();
    cancel_on_interrupt(&cancel)?;
    let place = prepare(socket.clone(), &command, &host)?;
    let target = Target {
        subsystem: place.nqn,
        nsid: Nsid(place.nsid),
        addresses: vec![place.address],
        host: host_name,
        host_id: HostId(*id.as_bytes()),
        digests: Digests { header: command.hdgst, data: command.ddgst },
        timeouts: Timeouts::default(),
    };
    let mut bar = Bar { shown: io::stderr().is_terminal() };
    let result = run(&target, &workload, &cancel, |progress| bar.show(progress));
    bar.end();
    // Whatever came of it.
    let undone = undo(socket, place.undo).map_err(|error| format!("undoing the export: {error}"));
    let report = match (result, undone) {
        (Ok(report), Ok(())) => report,
        (Ok(_), Err(error)) => return Err(error.into()),
        (Err(error), Ok(())) => return Err(error.into()),
        (Err(error), Err(other)) => return Err(format!("{error}\n{other}").into()),
    };
    let shown = Shown::of(&report);
    output::show(form, &shown, || table(&shown))?;
    match report.failed() + report.unknown {
        0 => Ok(()),
        failed => {
            Err(format!("{failed} requests failed, or it is unknown what they have done").into())
        }
    }
}

fn name(text: &str) -> Result<Nqn, String> {
    Nqn::new(text).map_err(|error| format!("NQN \"{text}\": {error}"))
}

/// Makes the target of the load reachable for `host`.
fn prepare(
    socket: Option<PathBuf>,
    command: &BenchCommand,
    host: &str,
) -> Result<Place, Box<dyn std::error::Error>> {
    if let (Some(nqn), Some(address)) = (&command.nqn, command.traddr) {
        let address = SocketAddr::new(address, command.trsvcid);
        return Ok(Place { nqn: name(nqn)?, nsid: command.nsid, address, undo: Undo::Nothing });
    }
    let (volume, node) = with_daemon(socket, async |channel: Channel| {
        let node = NodeClient::new(channel.clone()).get_node(api::GetNodeRequest {}).await?;
        let mut client = VolumesClient::new(channel);
        let volume = match &command.volume {
            Some(volume) => {
                let request = api::GetVolumeRequest { volume: volume.clone() };
                client.get_volume(request).await?.into_inner()
            }
            None => {
                let request = api::CreateVolumeRequest {
                    name: format!("bench-{}", Uuid::new_v4().simple()),
                    size_bytes: command.size,
                    pool: command.pool.clone().unwrap_or_default(),
                    ..Default::default()
                };
                client.create_volume(request).await?.into_inner()
            }
        };
        if !volume.export.as_ref().is_some_and(|export| export.any_host) {
            let (volume, add) = (volume.uuid.clone(), vec![host.to_owned()]);
            client
                .change_hosts(api::ChangeHostsRequest { volume, add, remove: Vec::new() })
                .await?;
        }
        Ok((volume, node.into_inner()))
    })?;
    let before = volume.export.unwrap_or_default();
    let volume = volume.uuid;
    let undo = match command.scratch {
        true => Undo::Delete { volume },
        false if before.any_host => Undo::Nothing,
        false => Undo::RemoveHost { volume, host: host.to_owned() },
    };
    // It is this machine's own node.
    let listener = node.listeners.first().and_then(|listener| listener.parse().ok());
    let mut address: SocketAddr = listener.expect("a node listens somewhere, and says so");
    if address.ip().is_unspecified() {
        address.set_ip(match address.is_ipv4() {
            true => std::net::Ipv4Addr::LOCALHOST.into(),
            false => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(Place { nqn: name(&before.nqn)?, nsid: before.nsid, address, undo })
}

fn undo(socket: Option<PathBuf>, undo: Undo) -> Outcome {
    if matches!(undo, Undo::Nothing) {
        return Ok(());
    }
    with_daemon(socket, async |channel: Channel| -> Result<(), Status> {
        let mut client = VolumesClient::new(channel);
        match undo {
            Undo::Nothing => {}
            Undo::RemoveHost { volume, host } => {
                let (add, remove) = (Vec::new(), vec![host]);
                client.change_hosts(api::ChangeHostsRequest { volume, add, remove }).await?;
            }
            Undo::Delete { volume } => {
                // Nobody else knows it; this host's connections may not be gone yet.
                let request = api::UnexportVolumeRequest { volume: volume.clone() };
                client.unexport_volume(request).await?;
                let request = api::DeleteVolumeRequest { volume, allow_missing: false };
                client.delete_volume(request).await?;
            }
        }
        Ok(())
    })
}

/// Ctrl-C ends the load, and what came of it so far is shown.
fn cancel_on_interrupt(cancel: &Cancel) -> Result<(), io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cancel = cancel.clone();
    std::thread::Builder::new().name("fathom-signals".to_owned()).spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            cancel.cancel();
        }
    })?;
    Ok(())
}

/// A line on a terminal.
struct Bar {
    shown: bool,
}

impl Bar {
    fn show(&mut self, progress: &Progress) {
        if !self.shown {
            return;
        }
        // Cut off where it is not exact: it is a picture.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to BAR")]
        let done = ((progress.share * BAR as f64) as usize).min(BAR);
        let Progress { iops, mib_per_s, failed, .. } = progress;
        let line = format!(
            "\r[{:<BAR$}] {:3.0}%  {iops:.0} IOPS  {mib_per_s:.1} MiB/s  {failed} failed  ",
            "#".repeat(done),
            progress.share * 100.0,
        );
        // A terminal that is gone shows nothing.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn end(&self) {
        if self.shown {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// What is shown of a report.
#[derive(Serialize)]
struct Shown {
    elapsed_s: f64,
    cancelled: bool,
    read: Option<ShownResults>,
    write: Option<ShownResults>,
    errors: Vec<ShownErrors>,
    unknown: u64,
}

#[derive(Serialize)]
struct ShownResults {
    requests: u64,
    bytes: u64,
    iops: f64,
    mib_per_s: f64,
    latency_ns: ShownLatency,
}

#[derive(Serialize)]
struct ShownLatency {
    min: u64,
    mean: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Serialize)]
struct ShownErrors {
    direction: &'static str,
    error: String,
    count: u64,
}

impl Shown {
    fn of(report: &Report) -> Self {
        let results = |results: &Results| {
            let Latency { min_ns, mean_ns, p50_ns, p90_ns, p99_ns, p999_ns, max_ns } =
                results.latency;
            let (p90, p99, p999, max) = (p90_ns, p99_ns, p999_ns, max_ns);
            ShownResults {
                requests: results.requests,
                bytes: results.bytes,
                iops: results.iops,
                mib_per_s: results.mib_per_s,
                latency_ns: ShownLatency {
                    min: min_ns,
                    mean: mean_ns,
                    p50: p50_ns,
                    p90,
                    p99,
                    p999,
                    max,
                },
            }
        };
        let errors = report.errors.iter().map(|errors| ShownErrors {
            direction: match errors.direction {
                Direction::Read => "read",
                Direction::Write => "write",
            },
            error: match errors.status {
                Some(status) => status.to_string(),
                None => errors.error.to_string(),
            },
            count: errors.count,
        });
        Self {
            elapsed_s: report.elapsed.as_secs_f64(),
            cancelled: report.cancelled,
            read: report.read.as_ref().map(results),
            write: report.write.as_ref().map(results),
            errors: errors.collect(),
            unknown: report.unknown,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds with one digit")]
fn us(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1000.0)
}

fn table(shown: &Shown) -> Table {
    let row = |name: &str, results: &ShownResults| {
        let latency = &results.latency_ns;
        let mut row = vec![name.to_owned(), results.requests.to_string()];
        row.extend([format!("{:.0}", results.iops), format!("{:.1}", results.mib_per_s)]);
        let times =
            [latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
        row.extend(times.map(us));
        row
    };
    let directions = [("read", &shown.read), ("write", &shown.write)];
    let mut rows: Vec<Vec<String>> = directions
        .into_iter()
        .filter_map(|(name, results)| results.as_ref().map(|results| row(name, results)))
        .collect();
    for errors in &shown.errors {
        let mut row = vec![format!("{} failed: {}", errors.direction, errors.error)];
        row.push(errors.count.to_string());
        row.resize(10, String::new());
        rows.push(row);
    }
    let head = vec![
        "", "REQUESTS", "IOPS", "MiB/s", "MEAN us", "p50 us", "p90 us", "p99 us", "p99.9 us",
        "MAX us",
    ];
    Table::List { head, rows }
}
