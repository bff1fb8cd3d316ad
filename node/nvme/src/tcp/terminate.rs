//! H2CTermReq and C2HTermReq: the last PDU of a connection that a peer broke.
//!
//! Sources: TCP sections 3.5, 3.6.2.4 and 3.6.2.5. Both have one layout; the direction is the type.

use core::{fmt, mem::offset_of};

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

use super::frame::{CommonLayout, Frame, PduType, Receiver};

/// The most bytes of the offending header that go with it (TCP 3.5).
pub const TERMINATE_DATA_MAX: usize = 128;
/// The most bytes of the whole PDU (TCP 3.5).
pub const TERMINATE_MAX: usize = size_of::<Layout>() + TERMINATE_DATA_MAX;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    common: CommonLayout,
    /// Bytes 9:8, TCP 3.6.2.4 FES.
    fes: U16,
    /// Bytes 13:10, TCP 3.6.2.4 FEI.
    fei: U32,
    /// Bytes 23:14, reserved.
    reserved_14: [u8; 10],
}

const _: () = {
    assert!(size_of::<Layout>() == 24);
    assert!(offset_of!(Layout, fes) == 8);
    assert!(offset_of!(Layout, fei) == 10);
    assert!(offset_of!(Layout, reserved_14) == 14);
    assert!(TERMINATE_MAX == 152);
};

/// What is wrong with a connection (TCP 3.6.2.4 and 3.6.2.5, FES).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FatalStatus(pub u16);

impl FatalStatus {
    /// A field of a header is wrong; FEI is its offset in the header.
    pub const INVALID_PDU_HEADER_FIELD: Self = Self(0x01);
    /// A PDU came when it may not.
    pub const PDU_SEQUENCE_ERROR: Self = Self(0x02);
    /// A header digest is wrong; FEI is the one that was received.
    pub const HEADER_DIGEST_ERROR: Self = Self(0x03);
    /// Data lies outside of what was asked for.
    pub const DATA_TRANSFER_OUT_OF_RANGE: Self = Self(0x04);
    /// From a controller: an H2CData is longer than MAXH2CDATA. From a host: more R2Ts than MAXR2T.
    pub const LIMIT_EXCEEDED: Self = Self(0x05);
    /// A parameter is not supported; FEI is its offset in the header.
    pub const UNSUPPORTED_PARAMETER: Self = Self(0x06);
}

impl fmt::Display for FatalStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::INVALID_PDU_HEADER_FIELD => "Invalid PDU Header Field",
            Self::PDU_SEQUENCE_ERROR => "PDU Sequence Error",
            Self::HEADER_DIGEST_ERROR => "Header Digest Error",
            Self::DATA_TRANSFER_OUT_OF_RANGE => "Data Transfer Out of Range",
            Self::LIMIT_EXCEEDED => "Data Transfer or R2T Limit Exceeded",
            Self::UNSUPPORTED_PARAMETER => "Unsupported Parameter",
            Self(status) => return write!(f, "fatal error status {status:04x}h"),
        })
    }
}

impl fmt::Debug for FatalStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FatalStatus({self})")
    }
}

/// What a terminating PDU says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TerminateRequest {
    /// FES.
    pub status: FatalStatus,
    /// FEI: an offset or a digest, by the status.
    pub information: u32,
}

impl TerminateRequest {
    /// Writes the PDU for `to` into `pdu` and returns its length. `header` is the header that was
    /// being processed; what of it goes beyond [`TERMINATE_DATA_MAX`] bytes is left out.
    pub fn encode(&self, to: Receiver, header: &[u8], pdu: &mut [u8; TERMINATE_MAX]) -> usize {
        let data = &header[..header.len().min(TERMINATE_DATA_MAX)];
        let length = size_of::<Layout>() + data.len();
        let kind = match to {
            Receiver::Controller => PduType::H2cTerminate,
            Receiver::Host => PduType::C2hTerminate,
        };
        let layout = Layout {
            common: CommonLayout::new(kind, 0, 0, length),
            fes: self.status.0.into(),
            fei: self.information.into(),
            reserved_14: [0; 10],
        };
        let (head, rest) = pdu.split_at_mut(size_of::<Layout>());
        head.copy_from_slice(layout.as_bytes());
        rest[..data.len()].copy_from_slice(data);
        length
    }

    /// What the PDU says whose header is `header`: [`Frame::header_length`] bytes of a frame of
    /// type [`PduType::H2cTerminate`] or [`PduType::C2hTerminate`].
    ///
    /// # Panics
    ///
    /// When the header is shorter than its frame says.
    pub fn decode(frame: &Frame, header: &[u8]) -> Self {
        let (layout, _) = Layout::ref_from_prefix(&header[..frame.header_length()])
            .expect("a frame of this type has a header of this length");
        Self { status: FatalStatus(layout.fes.get()), information: layout.fei.get() }
    }
}
