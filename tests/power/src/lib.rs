//! Power cuts and kills of the store on real I/O.
//!
//! ```text
//!   workload --> pool under test --> system calls --> files of simulated disks
//!      |                                                 |  a moment between two requests
//!      v                                                 v
//!   journal -------- as it was at that moment ------> verify: crash, open, compare
//! ```
//!
//! [`workload`] writes, flushes, trims, takes snapshots and so on, and keeps in the [`journal`]
//! what it has asked for and what was acknowledged. At moments that it does not know, between
//! any two requests to the disks, the disks and the journal are set aside together. [`verify`]
//! then crashes these disks in every way, opens the pool from them and compares.
//!
//! - What drives the store is behind [`subject::Subject`]: a [`driver`] of plain system calls, and the
//!   native engine's [`pool`] on an event loop; whatever else runs the store takes its place without
//!   a change to workload, journal or verification.
//! - A journal is taken while no request is answered. So what it calls acknowledged was so
//!   before the crash, and what reached a disk before the crash was asked for in it.
//! - A seed decides the workload, the moments and the crashes. Where the subject has threads,
//!   it repeats them only statistically.

pub mod journal;
pub mod subject;
pub mod workload;

pub mod verify;

pub mod history;

pub mod driver;
pub mod pool;
