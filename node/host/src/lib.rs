//! The NVMe/TCP host: one association with a controller, set up, used, watched and made anew.
//!
//! ```text
//!            driver (sockets, memory, clock)
//!   opened, received, closed, now |        ^ actions: open, send, close, complete, events
//!                                 v        |
//!   submit ->  Host  ->  requests in pieces  ->  queues  ->  PDUs (nvme)
//! ```
//!
//! It follows quinn-proto's form: nothing here does I/O or knows the time. The driver opens
//! connections, gives what it receives to [`Host::receive`], and does what [`Host::poll`] says.
//! Payload stays in the driver's memory: a piece of it is named by its request and an offset, both
//! in what is to be sent and in what has come, so that nothing is copied here.
//!
//! - Whatever the controller sends, the worst that happens is that the association ends, with an
//!   [`Error`] that says why. Memory is bounded by what the configuration allows.
//! - A write whose outcome is unknown, because its association was lost, is neither tried again nor
//!   completed before the driver says that the old association is fenced ([`Host::fenced`]).
//! - Requests that overlap take effect in the order of their submission, as the block contract has
//!   it. NVMe does not order commands, so one that overlaps another waits until that is completed,
//!   and those behind it wait, too.
//!
//! Sources: Base section 3.5.2, TCP sections 3.1 to 3.5.

mod action;
pub mod config;
mod error;
mod host;
mod queue;
mod request;
mod setup;

pub use action::{
    Action, AssociationId, ConnectionId, Event, Header, Payload, Received, Refused, Why,
};
pub use config::{Config, Purpose};
pub use error::Error;
pub use fathom_nvme::tcp::DataDigest;
pub use host::Host;
pub use setup::Namespace;

#[cfg(test)]
mod tests;
