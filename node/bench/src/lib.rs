//! The load of `fathom bench`: our own NVMe/TCP host against any target.
//!
//! ```text
//!   run --Begin--> Load, one a loop --requests--> RemoteNamespace (engine) --> sockets
//!    ^                |
//!    +----- what it has counted -----+
//! ```
//!
//! - [`workload`]: what is asked of the target, and what is allowed.
//! - [`run`](run()): from a target and a workload to a [`Report`].
//! - [`verify`]: whether a target still holds what an earlier run was told that it does.
//! - [`report`]: what came of it.
//! - [`histogram`]: latencies, counted.
//! - [`content`] and [`journal`]: what `--verify` writes, and what it knows of it.
//!
//! Each loop has one association with the target, and one I/O queue in it for each job. So a request
//! concerns one thread only. Nothing is allocated for a request, memory is bounded by queue depth,
//! jobs and block size, and every wait has a deadline.
//!
//! Before it: the CLI. After it: `node/engine`, `node/host` and `node/runtime`.

pub mod workload;

pub mod content;
pub mod journal;

pub mod histogram;
pub mod report;

mod error;
mod random;

mod load;
mod run;

pub use error::{BenchError, Failure, Mismatch};
pub use fathom_nvme::{Nqn, fabrics::HostId, tcp::Digests};
pub use report::{Progress, Report};
pub use run::{Cancel, run, verify};
pub use workload::{Mode, Target, Timeouts, Until, Workload};
