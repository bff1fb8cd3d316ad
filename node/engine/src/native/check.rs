//! Checking a pool that nobody uses, from any of its devices, and writing nothing.
//!
//! ```text
//!   paths --> survey --> the pool's devices, opened for reading, locked --> verify --> a report with paths
//! ```
//!
//! - Devices are opened for reading only: the kernel refuses what this program would never ask for.
//! - The lock keeps a daemon from using the pool meanwhile, and this from checking a pool in use.

use std::{fmt, path::PathBuf, time::Duration};

use fathom_lvs::{OpenOptions, Report, Severity, verify};

use super::{
    devices::{Finding, ImportError, Survey, Wanted, survey},
    members::Members,
};

/// What checking a pool found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolReport {
    /// The pool's name.
    pub name: String,
    /// The devices in the order of the slots of the report.
    pub devices: Vec<PathBuf>,
    /// Devices that were given and are not blank, but no member of any pool that could be told: a
    /// damaged label, a tombstone, or what cannot be read. One of them may be what is missing.
    pub others: Vec<String>,
    /// What was found.
    pub report: Report,
}

impl PoolReport {
    /// A line for each finding: how bad it is, the device, the byte, and what.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.report.findings.iter().map(|finding| Line(self, finding).to_string()).collect();
        if self.report.more > 0 {
            lines.push(format!("{} more findings", self.report.more));
        }
        lines.extend(self.others.iter().map(|other| format!("{}: {other}", Severity::Note)));
        lines
    }
}

struct Line<'a>(&'a PoolReport, &'a fathom_lvs::Finding);

impl fmt::Display for Line<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(PoolReport { devices, .. }, finding) = self;
        write!(formatter, "{}: ", finding.severity)?;
        if let Some(device) = finding.slot.and_then(|slot| devices.get(slot)) {
            write!(formatter, "{}: ", device.display())?;
        }
        if let Some(offset) = finding.offset {
            write!(formatter, "byte {offset}: ")?;
        }
        formatter.write_str(&finding.detail)
    }
}

/// Finds the members of a pool among `paths`, locks them for reading, all within `wait`, and looks at
/// everything on them. Writes nothing; waits for the devices.
///
/// Missing members are in the report: as damage, or as a warning when `options` says to go on without.
///
/// # Errors
///
/// When the pool is not among the devices, two devices claim to be one member, or one is in use or
/// cannot be opened.
pub fn check(
    paths: &[PathBuf],
    wanted: &Wanted,
    options: OpenOptions,
    wait: Duration,
) -> Result<PoolReport, ImportError> {
    let survey = survey(paths.iter().map(PathBuf::as_path));
    let pool = survey.find(wanted)?;
    // What is missing, the report says.
    let devices = survey.devices_of(pool, OpenOptions::DEGRADED)?;
    let mut members = Members::open_for_reading(&devices, wait)?;
    let report = verify(&mut members, options);
    Ok(PoolReport { name: pool.name.clone(), devices, others: others(&survey), report })
}

fn others(survey: &Survey) -> Vec<String> {
    let strange = survey
        .devices
        .iter()
        .filter(|device| matches!(device.finding, Finding::Occupied(_) | Finding::Unreadable(_)));
    strange.map(ToString::to_string).collect()
}
