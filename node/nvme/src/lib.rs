//! NVMe and NVMe/TCP structures and PDUs, and what their fields mean. No behaviour.
//!
//! `target` and `host` speak through this crate: one parses what the other encodes. It says what
//! bytes mean and which bytes may be, and nothing about what to do then.
//!
//! - Decoding takes two steps: a view of the bytes whose size is checked, then a value whose fields
//!   are. No bytes that a peer sends make either panic, and neither allocates.
//! - A value that the wire counts from zero (NLB, NUMD, queue sizes) is converted where it is
//!   parsed: a field of a value says how many there are.
//! - Reserved bits are zero in what is encoded and ignored in what is decoded, unless the
//!   specification says that a receiver checks them.
//! - A command that cannot be parsed gives the [`Status`] to answer it with, a PDU that cannot be
//!   parsed the [`tcp::Violation`] with which the connection ends.
//!
//! Sources: NVM Express Base Specification 2.1 ("Base"), NVM Command Set Specification 1.1 ("NVM"),
//! NVMe over TCP Transport Specification 1.1 ("TCP"). A section number without a name is Base's.

pub mod admin;
pub mod completion;
pub mod fabrics;
mod malformed;
pub mod nqn;
pub mod nvm;
pub mod property;
pub mod sgl;
pub mod status;
pub mod submission;
pub mod tcp;

pub mod event;
pub mod feature;
pub mod identify;
pub mod log;

pub use completion::Completion;
pub use malformed::Malformed;
pub use nqn::Nqn;
pub use sgl::SglDescriptor;
pub use status::Status;
pub use submission::SubmissionEntry;
