//! What a peer can do wrong, and what the terminating PDU says of it.
//!
//! Sources: TCP sections 3.3.2.1, 3.3.2.2, 3.5 and 3.6.2.4, 3.6.2.5. Each variant ends the
//! connection. A wrong data digest does not, and so is none: it fails its command with
//! [`Status::TRANSIENT_TRANSPORT_ERROR`](crate::Status::TRANSIENT_TRANSPORT_ERROR) (TCP 3.5).

use thiserror::Error;

use super::{
    frame::{PduType, offsets},
    terminate::{FatalStatus, TerminateRequest},
};

/// A PDU, or its place among the others, that the transport does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// PDU-Type is reserved.
    #[error("PDU type {0:02x}h is unknown")]
    UnknownType(u8),
    /// The PDU is one that this side sends.
    #[error("{0} goes in the other direction")]
    WrongDirection(PduType),
    /// HDGSTF or DDGSTF does not say what was agreed upon.
    #[error("{0}: the flags contradict the digests that were agreed upon")]
    DigestFlags(PduType),
    /// SUCCESS is set without LAST_PDU.
    #[error("C2HData: SUCCESS is set and LAST_PDU is not")]
    SuccessWithoutLast,
    /// HLEN is not that of the PDU's type.
    #[error("{0}: the header length is wrong")]
    HeaderLength(PduType),
    /// PDO points into the header or is not aligned as agreed.
    #[error("{0}: the data offset is inside of the header or not aligned")]
    DataOffset(PduType),
    /// PLEN is too small for the header and its digests, or larger than allowed.
    #[error("{0}: the PDU length is out of bounds")]
    Length(PduType),
    /// PFV is not 0.
    #[error("{0}: the PDU format version is not supported")]
    FormatVersion(PduType),
    /// HPDA or CPDA is above 31.
    #[error("{0}: the data alignment is above 128 bytes")]
    Alignment(PduType),
    /// A digest is enabled that was not asked for.
    #[error("ICResp: a digest is enabled that was not asked for")]
    DigestNotRequested,
    /// MAXH2CDATA is zero or not a multiple of 4.
    #[error("ICResp: MAXH2CDATA is not allowed")]
    MaxH2cData,
    /// CCCID names no command that is under way here.
    #[error("{0}: no such command is under way")]
    CommandId(PduType),
    /// TTAG names no R2T that is under way.
    #[error("H2CData: no such transfer tag is under way")]
    TransferTag,
    /// DATAO or R2TO is not a multiple of 4.
    #[error("{0}: the offset in the data is not a multiple of 4")]
    Offset(PduType),
    /// DATAL or R2TL is not a multiple of 4, zero where it may not be, or not what PLEN leaves.
    #[error("{0}: the length of the data is not allowed")]
    DataLength(PduType),
    /// The PDU comes when it may not, or its data is not where the last one's ended.
    #[error("{0} out of sequence")]
    Sequence(PduType),
    /// The header digest is wrong.
    #[error("header digest error: {received:08x}h was received")]
    HeaderDigest {
        /// The digest in the PDU.
        received: u32,
    },
    /// The data lies outside of what the R2T asked for, or of the command data buffer.
    #[error("{0}: the data is out of range")]
    OutOfRange(PduType),
    /// An H2CData is longer than MAXH2CDATA.
    #[error("H2CData: more data than MAXH2CDATA")]
    DataLimit,
    /// More R2Ts of a command are under way than MAXR2T.
    #[error("more R2Ts than MAXR2T")]
    R2tLimit,
}

impl Violation {
    /// What H2CTermReq or C2HTermReq says of it.
    pub const fn terminate(self) -> TerminateRequest {
        let (status, information) = match self {
            Self::UnknownType(_) | Self::WrongDirection(_) => Self::header(offsets::PDU_TYPE),
            Self::DigestFlags(_) | Self::SuccessWithoutLast => Self::header(offsets::FLAGS),
            Self::HeaderLength(_) => Self::header(offsets::HLEN),
            Self::DataOffset(_) => Self::header(offsets::PDO),
            Self::Length(_) => Self::header(offsets::PLEN),
            Self::FormatVersion(_) => (FatalStatus::UNSUPPORTED_PARAMETER, offsets::PFV),
            Self::Alignment(_) => Self::header(offsets::PDA),
            Self::DigestNotRequested => Self::header(offsets::DGST),
            Self::MaxH2cData => Self::header(offsets::MAXH2CDATA),
            Self::CommandId(_) => Self::header(offsets::CCCID),
            Self::TransferTag => Self::header(offsets::TTAG),
            Self::Offset(_) => Self::header(offsets::DATAO),
            Self::DataLength(_) => Self::header(offsets::DATAL),
            Self::Sequence(_) => (FatalStatus::PDU_SEQUENCE_ERROR, 0),
            Self::HeaderDigest { received } => (FatalStatus::HEADER_DIGEST_ERROR, received),
            Self::OutOfRange(_) => (FatalStatus::DATA_TRANSFER_OUT_OF_RANGE, 0),
            Self::DataLimit | Self::R2tLimit => (FatalStatus::LIMIT_EXCEEDED, 0),
        };
        TerminateRequest { status, information }
    }

    const fn header(offset: u32) -> (FatalStatus, u32) {
        (FatalStatus::INVALID_PDU_HEADER_FIELD, offset)
    }
}
