//! Why a run ended with an error.
//!
//! Each error says what was wrong, with which object, and as far as that is known what to do.

use std::{fmt, net::SocketAddr};

use fathom_host::Error as HostError;
use fathom_runtime::SetupError;
use fathom_units::{Lba, Nsid};
use thiserror::Error;

use crate::{content::Found, journal::JournalError, report::Report};

/// Why there is no association with an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The address.
    pub address: SocketAddr,
    /// What the host says.
    pub error: HostError,
    /// What the kernel said of the connection, if that is the reason.
    pub cause: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.error)?;
        match &self.cause {
            Some(cause) if matches!(self.error, HostError::Closed(_)) => write!(f, " ({cause})"),
            _ => Ok(()),
        }
    }
}

/// Failures, one after another in one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failures(pub Vec<Failure>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, failure) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{failure}")?;
        }
        Ok(())
    }
}

/// A block that does not hold what it must.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// The block.
    pub lba: Lba,
    /// The last write of it that was acknowledged; none for zero.
    pub acknowledged: u32,
    /// The last write of it that was issued.
    pub issued: u32,
    /// What is there.
    pub found: Found,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lba, acknowledged, issued, found } = self;
        write!(f, "block {}: expected ", lba.0)?;
        match (acknowledged, issued) {
            (0, 0) => f.write_str("what was there before the run")?,
            (0, _) => write!(f, "what was there before the run, or a write of it up to {issued}")?,
            (one, other) if one == other => write!(f, "write {one} of it, acknowledged")?,
            _ => write!(f, "write {acknowledged} of it, acknowledged, up to {issued}, issued")?,
        }
        write!(f, "; found {found}")
    }
}

/// Why a run ended with an error.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The workload is not possible, or not with this namespace.
    #[error("this load is not possible: {0}")]
    Workload(String),
    /// The event loops did not start.
    #[error("the event loops did not start: {0}")]
    Loops(#[from] SetupError),
    /// There is no association with the subsystem at any of its addresses.
    #[error("cannot connect to {subsystem}: {failures}")]
    Connect {
        /// The subsystem.
        subsystem: String,
        /// Why not, for each address.
        failures: Failures,
    },
    /// The association was lost, and not made anew in time.
    #[error("the connection to {subsystem} was lost: {failures}")]
    Lost {
        /// The subsystem.
        subsystem: String,
        /// Why, and why there is no new one.
        failures: Failures,
        /// What was counted until then.
        report: Box<Report>,
    },
    /// A request was not taken, because the namespace is not what it was.
    #[error("the namespace has changed under the load: {0}")]
    Changed(String),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Blocks do not hold what they must.
    #[error(
        "{count} blocks of namespace {} of {subsystem} do not hold what was written; {first}",
        nsid.0
    )]
    Mismatch {
        /// The subsystem.
        subsystem: String,
        /// The namespace.
        nsid: Nsid,
        /// How many.
        count: u64,
        /// The first of them that was found.
        first: Mismatch,
        /// That one and others, as far as they are kept.
        mismatches: Vec<Mismatch>,
        /// What was counted until then.
        report: Box<Report>,
    },
    /// A loop has ended by itself.
    #[error("an event loop has ended under the load")]
    Ended,
}
