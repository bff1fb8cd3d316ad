//! Why an association ends, by name.
//!
//! Whatever a controller sends, this is the worst that happens: the association ends with one of
//! these, and what it carried is dealt with as [`crate::Host`] says.

use fathom_nvme::{
    Malformed, Status,
    fabrics::InvalidParameter,
    tcp::{FatalStatus, Violation},
};
use fathom_units::Qid;
use thiserror::Error;

/// Why an association ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Error {
    /// The driver said that a connection could not be opened, or was closed or lost.
    #[error("the connection of queue {} is closed", .0.0)]
    Closed(Qid),
    /// The controller broke a rule of the transport, and is told so by H2CTermReq.
    #[error("the controller broke the protocol on queue {}: {violation}", queue.0)]
    Violation {
        /// The queue.
        queue: Qid,
        /// The rule.
        violation: Violation,
    },
    /// The controller ended the connection with C2HTermReq.
    #[error("the controller ended queue {}: {status}, {information:#x}", queue.0)]
    Terminated {
        /// The queue.
        queue: Qid,
        /// FES.
        status: FatalStatus,
        /// FEI.
        information: u32,
    },
    /// A read was answered with success, but not with all of its data; or a write without asking
    /// for all of its data.
    #[error("the controller said success on queue {} without moving all of the data", .0.0)]
    MissingData(Qid),
    /// The controller does not grant a digest that was asked for.
    #[error("the controller does not use the digests that were asked for")]
    DigestsNotGranted,
    /// Connect was refused.
    #[error("connecting queue {} was refused: {status}", queue.0)]
    ConnectRefused {
        /// The queue.
        queue: Qid,
        /// With which status.
        status: Status,
        /// Which parameter is at fault, if the controller said so.
        parameter: Option<InvalidParameter>,
    },
    /// The controller wants to authenticate the host, which is not supported.
    #[error("the controller requires authentication")]
    AuthenticationRequired,
    /// A command of setting up was refused.
    #[error("{command} was refused: {status}")]
    Refused {
        /// Which command.
        command: &'static str,
        /// With which status.
        status: Status,
    },
    /// A structure that the controller returned is not allowed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The controller cannot do something without which it cannot be used.
    #[error("the controller {0}")]
    Unsupported(&'static str),
    /// CSTS.CFS is set.
    #[error("the controller reports a fatal error")]
    ControllerFatal,
    /// The controller did not become ready in the time that it states.
    #[error("the controller did not become ready in time")]
    NotReady,
    /// A command was not answered in time; the keep alive is one, too.
    #[error("a command on queue {} was not answered in time", .0.0)]
    CommandTimeout(Qid),
    /// A step of setting up did not end in time.
    #[error("setting up did not end in time")]
    SetupTimeout,
    /// The namespace does not exist, or is not the one that it was.
    #[error("the namespace {0}")]
    Namespace(&'static str),
    /// The driver gave the association up.
    #[error("the association was given up")]
    GivenUp,
    /// The discovery log page changed whenever it was read.
    #[error("the discovery log page changes too often to be read")]
    DiscoveryUnstable,
}

impl Error {
    /// Whether trying again is of no use: the controller said so (DNR), or what it is cannot be
    /// used.
    pub fn is_final(&self) -> bool {
        match self {
            Self::ConnectRefused { status, .. } | Self::Refused { status, .. } => {
                status.is_do_not_retry()
            }
            Self::AuthenticationRequired | Self::Unsupported(_) | Self::DigestsNotGranted => true,
            _ => false,
        }
    }
}
