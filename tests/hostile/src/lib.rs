//! Bytes on a disk that have a right checksum and are hostile, or wrong, all the same.
//!
//! ```text
//!   random history -> disks -> image: labels, slot, chunks, entries
//!                                |  attack: fields, operations, lengths, order
//!                                v
//!                 disks with right checksums -> check, open -> a short life -> open again
//! ```
//!
//! The pool's UUID seeds the checksums and stands on the disk, so whoever can write to a member
//! can give anything a right checksum. Opening must then end, in bounded time and memory, with a
//! pool that is consistent or with a refusal that names the place. No panic, and nothing is
//! written unless the pool is accepted.
//!
//! - [`attack`] draws attacks from a seed, [`targets`] takes them from a fuzzer (`tests/fuzz`).
//! - `wire` has the targets for what comes from a connection, which nothing protects at all.
//! - A failing seed prints itself and replays exactly.

pub mod image;

pub mod attack;
pub mod life;
pub mod targets;
mod wire;
