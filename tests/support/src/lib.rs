//! What the tests stand on: a disk that can lose power, and the randomness that decides how.
//!
//! But for [`seeds`], everything here is a pure function of its seeds: no clock, no thread, no global state, no
//! iteration in hash order. A test that prints its seed can be replayed on any platform.
//!
//! - [`seeds`]: one history after another, as many as the environment asks for.
//! - [`random`]: the generator every simulation draws from.
//! - [`disk`]: the simulated disk with its volatile write cache, power cuts and faults.

pub mod seeds;

pub mod random;

pub mod disk;

mod cache;

mod contents;

mod sectors;
