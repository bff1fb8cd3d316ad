//! The event loops on which everything that does I/O lives.
//!
//! ```text
//!            messages                          messages
//!   actor <------------> actor     |   actor <---------+
//!     |  ^                 |       |     |             |
//!     v  |                 v       |     v             |
//!   io_uring, buffers, timers      |   io_uring ...    |
//!     loop 0, its own thread  <----+---> loop 1        +--- other threads
//! ```
//!
//! One [`Loops`] per process, a loop per configured core. On a loop live [`Actor`]s: synchronous
//! state machines without locks, futures or callbacks. The type of their messages is a parameter, so
//! this crate knows nothing of volumes, controllers or pools. `docs/adr/0006-event-loops.md` says why
//! it is built like this.
//!
//! - Nothing on the way of an I/O takes a lock, allocates, or makes a system call of its own.
//! - Memory under I/O is owned by the ring ([`Io`], [`Memory`]); nobody else can reach it.
//! - Every queue is bounded, and what is refused comes back to whoever offered it.
//!
//! Above it: `node/engine`, the target and the attach paths. Below it: the kernel.

#![expect(unsafe_code, reason = "it speaks with the kernel and shares memory with it")]
#![warn(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

mod actor;
mod arena;
mod io;
mod lend;
mod loops;
mod patience;
mod setup;
mod slice;

pub mod device;
pub mod net;
pub mod process;

mod core;
mod event_loop;
mod queue;
mod ring;
mod timers;
mod waker;

pub use actor::{Actor, Address, Birth, Completed, Context, Event, Message, Unsent};
pub use arena::{Arena, Buffer, CLASSES_MAX, Room, SizeClass};
pub use core::WAITING_MAX;
pub use event_loop::Statistics;
pub use io::{Errno, FileKey, Io, IoKey, Memory, Rejected};
pub use lend::{Loan, Purpose, Shared};
pub use loops::{Configuration, Ended, IN_FLIGHT_MAX, LOOPS_MAX, Loops, Remote, SOCKETS_MAX};
pub use setup::{Cause, KERNEL_MIN, SetupError, Step};
pub use slice::Slice;
pub use timers::TimerKey;
