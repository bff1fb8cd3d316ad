//! Hosts against the running target, on real sockets over loopback.
//!
//! - [`node`]: event loops, a pool in memory with a volume, and a target that listens.
//! - [`daemon`]: `fathom node` as a process, which a test ends and starts again.
//! - [`held`]: a device whose requests a test holds back.
//! - [`network`]: sockets of this process for the host of `tests/target`.
//! - [`guest`]: Linux kernels in QEMU, whose hosts reach loopback.
//! - [`cable`]: what a test can cut between a host and the target.

pub mod cable;
pub mod daemon;
pub mod guest;
pub mod held;
pub mod network;
pub mod node;
