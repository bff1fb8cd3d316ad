//! What a process that serves the storage of its own machine tells the kernel of itself.
//!
//! Dirty pages are written back when memory is short, and then this process has to go on: it must
//! not wait for memory that only its own work can free, nor be the one that is killed. Each call is
//! made once, when the process starts; without privilege each may be refused, and the process runs
//! on with what was reported.

use std::{fs, io};

use thiserror::Error;

/// `linux/prctl.h`; the libc crate has it not yet.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// The kernel refused a wish of the process about itself.
#[derive(Debug, Error)]
#[error("{what} was refused: {source}; {needed}")]
pub struct Refused {
    /// What was wished.
    pub what: &'static str,
    /// What the kernel said.
    pub source: io::Error,
    /// What is needed, and what happens without.
    pub needed: &'static str,
}

/// Says that the calling thread, and threads that it starts, work for block I/O: their memory
/// allocations do not wait for that I/O (`PR_SET_IO_FLUSHER`).
///
/// # Errors
///
/// When the process has no `CAP_SYS_RESOURCE`.
pub fn become_io_flusher() -> Result<(), Refused> {
    // SAFETY: it takes no pointers.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    Err(Refused {
        what: "serving I/O without waiting for memory that this I/O frees (PR_SET_IO_FLUSHER)",
        source: io::Error::last_os_error(),
        needed: "CAP_SYS_RESOURCE is needed; without it, this machine's own writes to its volumes \
                 may hang when memory is short",
    })
}

/// Sets how readily the kernel kills this process when memory is short: from -1000, never, to
/// 1000 (`oom_score_adj`).
///
/// # Errors
///
/// When it is lowered without `CAP_SYS_RESOURCE`.
///
/// # Panics
///
/// When it is out of range.
pub fn set_oom_score(score: i32) -> Result<(), Refused> {
    assert!((-1000..=1000).contains(&score), "from -1000 to 1000");
    fs::write(OOM_SCORE_ADJ, score.to_string()).map_err(|source| Refused {
        what: "staying alive when memory is short (oom_score_adj)",
        source,
        needed: "CAP_SYS_RESOURCE is needed; without it, the kernel may kill this process when \
                 memory is short",
    })
}
