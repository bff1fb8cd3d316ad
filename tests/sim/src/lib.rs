//! Crash enumeration of the logical volume store.
//!
//! ```text
//!   workload --> Store --> rig (delays, reorders) --> simulated disks
//!       |                        |  crash here, on copies of the disks, in every way
//!       v                        v
//!     model <---- verify ---- reopened Store
//! ```
//!
//! One seed is one history: members, volumes, a random workload, and at many points crashes
//! of both kinds on copies of the disks, crashes during the recovery from them, and sometimes
//! a life that goes on from what was recovered. What every sector may hold then is said by
//! [`model`], which knows nothing of how the store works. A failing seed prints itself and
//! replays exactly.

pub mod history;
pub mod model;
pub mod pool;
pub mod rig;
