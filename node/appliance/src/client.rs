//! Every command but `fathom node`: a call of the daemon's API, and its answer shown. `pool check`
//! needs no daemon.

mod bench;
mod check;
mod pool;
mod snapshot;
mod volume;

use std::{collections::BTreeMap, error::Error, future::Future, path::PathBuf, time::Duration};

use fathom_api::v1 as api;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    command::{Form, NodeShow},
    output::{self, Table},
    paths,
};

pub(crate) use self::{bench::bench, pool::pool, snapshot::snapshot, volume::volume};

/// How long the daemon may take to accept a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// The longest list that is taken, in bytes: a hundred thousand volumes take a part of it.
const ANSWER_MAX: usize = 256 << 20;

/// What a command ends with.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// A command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    /// Nobody answers.
    #[error(
        "no daemon answers at {path}: {reason}; start one with `fathom node`, or name its socket \
             with --api or FATHOM_API"
    )]
    NoDaemon { path: String, reason: String },
    /// The daemon refused or failed.
    #[error("{0}")]
    Refused(String),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => {
                Self::Refused("the daemon is of another version and does not know this".to_owned())
            }
            _ => Self::Refused(status.message().to_owned()),
        }
    }
}

/// Connects to the daemon and does `work` with the connection.
fn with_daemon<T, F: Future<Output = Result<T, Status>>>(
    api: Option<PathBuf>,
    work: impl FnOnce(Channel) -> F,
) -> Result<T, Box<dyn Error>> {
    let path = api.unwrap_or_else(paths::api);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shown = path.display().to_string();
        let absolute = std::path::absolute(&path)?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", absolute.display()))?;
        let channel = endpoint.connect_timeout(CONNECT_WAIT).connect().await;
        let channel = channel
            .map_err(|error| ClientError::NoDaemon { path: shown, reason: root_cause(&error) })?;
        Ok(work(channel).await.map_err(ClientError::from)?)
    })
}

/// The innermost reason: the others only say that something failed.
fn root_cause(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// `KEY=VALUE`s as the API has them.
fn labels(labels: Vec<(String, String)>) -> BTreeMap<String, String> {
    labels.into_iter().collect()
}

fn labels_shown(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(" ")
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// Nanoseconds since 1970 as date and time, UTC. The calendar is Howard Hinnant's `civil_from_days`.
fn time_shown(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `fathom node show`.
pub(crate) fn node(socket: Option<PathBuf>, form: Form, command: NodeShow) -> Outcome {
    let NodeShow::Show = command;
    let node = with_daemon(socket, async |channel| {
        let mut client = api::node_client::NodeClient::new(channel);
        Ok(client.get_node(api::GetNodeRequest {}).await?.into_inner())
    })?;
    output::show(form, &node, || {
        let mut pairs = vec![
            ("version", node.version.clone()),
            ("listens on", node.listeners.join(" ")),
            ("event loops", node.loops.to_string()),
            ("connections", node.connections.to_string()),
            ("uptime", format!("{} s", node.uptime_s)),
        ];
        for pool in &node.closed_pools {
            pairs.push(("not open", format!("pool \"{}\": {}", pool.name, pool.reason)));
        }
        Table::Object(pairs)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_795_219_200, "2026-11-21 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(time_shown(seconds * 1_000_000_000 + 5), shown);
        }
    }
}
