//! The target without a socket: bytes of hosts go in, PDUs come out.
//!
//! - [`rig`]: a target, its connections, and devices in memory. It does what a driver does, and
//!   holds requests back, keeps memory short, or lets time pass when a test says so.
//! - [`host`]: a host that speaks the protocol, by commands or by bytes.

pub mod host;
pub mod rig;
