//! The engines: what keeps the volumes that a node serves, and serving them.
//!
//! - [`native`]: our own store on io_uring, embedded.
//! - [`serve`]: the NVMe/TCP target on sockets, for the volumes of any engine.
//! - [`remote`]: a namespace of another node, reached by the NVMe/TCP host on sockets.
//! - [`message`]: what all actors of a node say to each other.
//!
//! Above it: the API and the attach paths. Below it: `node/lvs`, `node/target` and `node/host`, which
//! decide, and `node/runtime`, which carries out.

pub mod native;
pub mod serve;

pub mod remote;

pub mod message;
