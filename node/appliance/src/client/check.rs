//! `fathom pool check`: looks at the disks by itself, since no daemon may have the pool meanwhile.

use std::{path::PathBuf, time::Duration};

use fathom_engine::native::{
    check::check as check_pool,
    devices::{Wanted, block_devices},
};
use fathom_lvs::{OpenOptions, Severity};
use serde::Serialize;
use uuid::Uuid;

use super::Outcome;
use crate::{
    command::Form,
    output::{self, Table},
};

/// How long a device that somebody else has is waited for.
const WAIT: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Serialize)]
struct Report {
    pool: String,
    devices: Vec<String>,
    /// The worst finding: "note", "warning", "damage", or "nothing".
    severity: String,
    /// A line each.
    findings: Vec<String>,
    volumes: Option<usize>,
    snapshots: Option<usize>,
}

/// Checks a pool and shows what was found.
///
/// # Errors
///
/// When it cannot be looked at, and when it is damaged.
pub(super) fn check(
    form: Form,
    paths: Vec<PathBuf>,
    pool: Option<String>,
    degraded: bool,
) -> Outcome {
    let paths = if paths.is_empty() { block_devices()? } else { paths };
    let wanted = match pool.map(|name| (Uuid::try_parse(&name), name)) {
        None => Wanted::Only,
        Some((Ok(uuid), _)) => Wanted::Uuid(uuid),
        Some((Err(_), name)) => Wanted::Named(name),
    };
    let options = if degraded { OpenOptions::DEGRADED } else { OpenOptions::WHOLE };
    let found = check_pool(&paths, &wanted, options, WAIT)?;
    let worst = found.report.severity();
    let checked = found.report.checked.as_ref();
    let report = Report {
        pool: found.name.clone(),
        devices: found.devices.iter().map(|path| path.display().to_string()).collect(),
        severity: worst.map_or_else(|| "nothing".to_owned(), |worst| worst.to_string()),
        findings: found.lines(),
        volumes: checked.map(|checked| checked.volumes),
        snapshots: checked.map(|checked| checked.snapshots),
    };
    output::show(form, &report, || {
        let count = |count: Option<usize>| match count {
            Some(count) => count.to_string(),
            None => "not known".to_owned(),
        };
        let mut pairs = vec![
            ("pool", report.pool.clone()),
            ("volumes", count(report.volumes)),
            ("snapshots", count(report.snapshots)),
            ("wrong", report.severity.clone()),
        ];
        pairs.extend(report.devices.iter().map(|device| ("device", device.clone())));
        pairs.extend(report.findings.iter().map(|finding| ("finding", finding.clone())));
        Table::Object(pairs)
    })?;
    match worst {
        Some(Severity::Damage) => Err(format!("pool \"{}\" is damaged", found.name).into()),
        _ => Ok(()),
    }
}
