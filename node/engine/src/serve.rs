//! Serving volumes to hosts: the target of `node/target` on sockets, its devices in pools.
//!
//! ```text
//!   Gate: listening sockets ---Adopt---> Porter, one a loop
//!                                           | gives birth to
//!                                           v
//!   socket <---bytes---> Session: a Connection <---Submit, Answer---> Pool, on any loop
//!                            |  ^
//!      Connect, Command      v  |   Admit, Refuse, Answer, End
//!                          Hub: the Target
//! ```
//!
//! - [`message`]: what they say to each other.
//! - [`gate`]: takes connections, and spreads them over the loops.
//! - [`session`]: one connection.
//! - [`memory`]: who may take how much of a loop's memory.
//! - [`hub`]: everything that is not of one connection, and its timer.
//! - [`handle`]: the same for threads: export, unexport, resize.
//!
//! A read or write concerns its session and its pool only, and takes no lock.
//!
//! A shutdown closes the serving side first ([`handle::TargetHandle::close`]) and its pools then: so
//! every command that was received is answered as if nothing was about to end.

pub mod message;

pub mod gate;

pub mod hub;
pub mod memory;
pub mod session;

pub mod handle;
