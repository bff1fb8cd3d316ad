//! Hosts against the running target, on real sockets over loopback.
//!
//! - [`node`]: event loops, a pool in memory with a volume, and a target that listens.
//! - [`held`]: a device whose requests a test holds back.
//! - [`network`]: sockets of this process for the host of `tests/target`.

pub mod held;
pub mod network;
pub mod node;
