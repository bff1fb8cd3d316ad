//! The engines: what keeps the volumes that a node serves.
//!
//! - [`native`]: our own store on io_uring, embedded.
//!
//! Above it: the target and the attach paths, through the block contract. Below it: `node/lvs`,
//! which decides, and `node/runtime`, which carries out.

pub mod native;
