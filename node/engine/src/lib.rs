//! The engines: what keeps the volumes that a node serves, and serving them.
//!
//! - [`native`]: our own store on io_uring, embedded.
//! - [`serve`]: the NVMe/TCP target on sockets, for the volumes of any engine.
//! - [`message`]: what all actors of a node say to each other.
//!
//! Above it: the API and the attach paths. Below it: `node/lvs` and `node/target`, which decide, and
//! `node/runtime`, which carries out.

pub mod native;
pub mod serve;

pub mod message;
