//! What the tests stand on: a disk that can lose power, and the randomness that decides how.
//!
//! Everything here is a pure function of its seeds: no clock, no thread, no global state, no
//! iteration in hash order. A test that prints its seed can be replayed on any platform.
//!
//! - [`random`]: the generator every simulation draws from.
//! - [`disk`]: the simulated disk with its volatile write cache, power cuts and faults.

pub mod random;

pub mod disk;

mod cache;

mod contents;

mod sectors;
