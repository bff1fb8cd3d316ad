//! The NVMe/TCP target: what hosts connect to. No I/O and no clock.
//!
//! ```text
//!   bytes of a socket --> Connection --> requests to devices --> Connection --> bytes to send
//!                             |  ^
//!        Connect, admin       v  |  admissions, answers, ends
//!                           Target: subsystems, controllers, events, fences
//! ```
//!
//! - [`connection`]: one TCP connection, which is one queue pair. It reads PDUs, turns commands into
//!   requests to devices, moves their data, and answers them. There is one for each socket, and it
//!   may live on any loop.
//! - [`target`]: everything that is not of one queue: which subsystems exist, which hosts may
//!   connect, the controllers and their admin commands, and when each of them ends. There is one in
//!   a process.
//! - [`export`]: what is served, as whoever exports it says it.
//!
//! Both are state machines: their driver brings bytes, answers and the time, and carries out the
//! actions that they return. Neither blocks, allocates on the way of a read or write, or knows
//! what a device is.
//!
//! - **A grant is a fence.** What a connection does, it does under the association that its Connect
//!   was admitted to. When that ends, for whatever reason, the connection takes nothing more, and
//!   says that it is done when every request that it has given to a device has ended. Only when all
//!   connections of the association have said so does the target let go of it, and only then may the
//!   same host begin a new one with the same subsystem.
//! - Everything that a peer can send is bounded and answered as the specifications say. Nothing that
//!   a peer sends makes this crate panic.
//!
//! Above it: the sockets, in `node/engine`. Below it: `node/nvme`, the codec, and `node/block`, the
//! devices. Sources: NVM Express Base Specification 2.1 ("Base"), NVM Command Set Specification 1.1
//! ("NVM"), NVMe over TCP Transport Specification 1.1 ("TCP").

pub mod export;

pub mod connection;
mod status;

pub mod target;
