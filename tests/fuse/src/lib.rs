//! Real files whose device is a simulated disk: for tests of real I/O.
//!
//! ```text
//!   program --> io_uring, pread, fdatasync --> kernel --> FUSE --> gate --> SimulatedDisk
//!                                                                   ^
//!                                       test: holds, fails, cuts ---+
//! ```
//!
//! A program under test opens the files and does real system calls. The test decides, between
//! any two requests, what the device does: it holds requests back and releases them in any
//! order, fails them, never answers a disk again, and takes all disks as a crash of the
//! program, or a loss of power, would leave them at one moment.
//!
//! - A request of a program is one request to the disk, up to [`REQUEST_BYTES_MAX`]; what is
//!   longer arrives as several, and may be torn between them.
//! - `fsync` and `fdatasync` flush the disk; `RWF_DSYNC` and `O_DSYNC` are FUA; a hole punched
//!   is a discard.
//! - Nothing is left mounted: dropping [`DiskFiles`] answers everything that is held with an
//!   error and cuts off whoever still has a file open. What a killed test left is removed by
//!   the next one.

mod request;

mod moment;

mod gate;

mod serve;

mod files;

pub mod ring;

pub use files::{DiskFiles, WAIT_MAX};
pub use gate::{ARRIVALS_MAX, HOLD_MAX};
pub use moment::Moment;
pub use request::{Arrival, Counts, Failure, Kind, REQUEST_BYTES_MAX, RuleId, Times};
pub use serve::REQUESTS_MAX;
