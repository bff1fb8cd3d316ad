//! NVMe/TCP: the PDUs, what may be in them, and how a connection that breaks the rules ends.
//!
//! Source: TCP sections 3.3 and 3.6.2.
//!
//! A receiver goes through a PDU in this order:
//!
//! ```text
//! 8 bytes      Inbound::frame      which PDU, and where its parts lie
//! to the end   Frame::check_header the header digest, if there is one
//!  of header   the PDU's own type  (CapsuleCommand, H2cData, ...): its fields
//! data         DataDigest          while the data goes by, wherever it goes
//! ```
//!
//! A sender encodes a header, with its digest and padding, into a [`HeaderBuffer`] of its own, and
//! sends the data (and its digest) behind it. Nothing here sees data but the digest.
//!
//! - Every violation of the format is found before a byte behind the header is needed, and says by
//!   itself with which FES and FEI the connection ends.
//! - Order is not looked at here: which PDU may come when is a matter of behaviour.

mod capsule;
mod data;
mod digest;
mod frame;
mod initialize;
mod terminate;
mod violation;

pub use capsule::{CapsuleCommand, CapsuleResponse};
pub use data::{C2hData, H2cData, R2t};
pub use digest::{DIGEST_SIZE, DataDigest, header_digest};
pub use frame::{
    Alignment, COMMON_HEADER_SIZE, Digests, Frame, HEADER_MAX, HeaderBuffer, Inbound, Outbound,
    PduType, Receiver,
};
pub use initialize::{IC_SIZE, InitializeRequest, InitializeResponse};
pub use terminate::{FatalStatus, TERMINATE_DATA_MAX, TERMINATE_MAX, TerminateRequest};
pub use violation::Violation;

/// The TCP port on which a discovery service is looked for (TCP 3.1.2).
pub const DISCOVERY_PORT: u16 = 8009;
/// The TCP port of NVMe/TCP I/O controllers by convention (TCP 3.1.2).
pub const PORT: u16 = 4420;
/// The most in-capsule data of a Fabrics or admin command, in bytes (TCP 3.3.1).
pub const ADMIN_CAPSULE_DATA_MAX: u32 = 8192;
/// The smallest MAXH2CDATA that a controller should have, in bytes (TCP 3.6.2.3).
pub const MAX_H2C_DATA_MIN: u32 = 4096;

#[cfg(test)]
mod tests;
