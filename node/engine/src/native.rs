//! The native engine: a pool of our own store, driven on an event loop.
//!
//! ```text
//!   members: locked, open        Pool: an actor on one loop
//!     | blocking reads             requests --> Store --> member I/O --> ring
//!     v                                 ^                                  |
//!   Opened ------- moves to ------------+------------ completions <--------+
//! ```
//!
//! - [`devices`]: what stands on devices, and which of them make a pool.
//! - [`check`]: what is wrong with a pool that nobody uses.
//! - [`members`]: the disks, files or memory that make the pool, until it is open.
//! - [`message`]: what a pool is asked and answers, from actors of any loop.
//! - [`pool`]: the actor.
//! - [`handle`]: the same for threads.
//! - [`grow`]: more devices, and devices that have grown, for a pool that is used.
//!
//! The open files that the lock is on are those from which the pool is opened and those that
//! carry its I/O, so nobody can come between.

pub mod check;
pub mod devices;
pub mod members;
pub mod message;

mod data;
pub mod pool;

pub mod handle;

pub mod grow;
