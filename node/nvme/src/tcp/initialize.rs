//! ICReq and ICResp: the PDUs that begin a connection.
//!
//! Sources: TCP sections 3.6.2.2 and 3.6.2.3.

use core::mem::offset_of;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

use super::{
    frame::{Alignment, CommonLayout, Digests, PduType},
    violation::Violation,
};

/// The bytes of either PDU.
pub const IC_SIZE: usize = 128;

/// Both PDUs; the last field is MAXR2T in one and MAXH2CDATA in the other.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    common: CommonLayout,
    /// Bytes 9:8, TCP 3.6.2.2 PFV.
    pfv: U16,
    /// Byte 10, TCP 3.6.2.2 HPDA, TCP 3.6.2.3 CPDA.
    pda: u8,
    /// Byte 11, TCP 3.6.2.2 DGST: HDGST_ENABLE in bit 0, DDGST_ENABLE in bit 1.
    dgst: u8,
    /// Bytes 15:12, TCP 3.6.2.2 MAXR2T, TCP 3.6.2.3 MAXH2CDATA.
    limit: U32,
    /// Bytes 127:16, reserved.
    reserved_16: [u8; 112],
}

const _: () = {
    assert!(size_of::<Layout>() == IC_SIZE);
    assert!(offset_of!(Layout, pfv) == 8);
    assert!(offset_of!(Layout, pda) == 10);
    assert!(offset_of!(Layout, dgst) == 11);
    assert!(offset_of!(Layout, limit) == 12);
    assert!(offset_of!(Layout, reserved_16) == 16);
};

const PFV_1_0: u16 = 0;
const HDGST_ENABLE: u8 = 1 << 0;
const DDGST_ENABLE: u8 = 1 << 1;

/// What a host asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitializeRequest {
    /// HPDA: how data is to be aligned in what the controller sends.
    pub alignment: Alignment,
    /// The digests that it wants.
    pub digests: Digests,
    /// MAXR2T: how many R2Ts of one command may be under way, 1 to 2^32 (0's based on the wire).
    pub r2t_max: u64,
}

/// What a controller grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitializeResponse {
    /// CPDA: how data is to be aligned in what the host sends.
    pub alignment: Alignment,
    /// The digests that the connection has.
    pub digests: Digests,
    /// MAXH2CDATA: the most data of one H2CData, in bytes; a multiple of 4, never zero.
    pub max_h2c_data: u32,
}

impl InitializeRequest {
    /// The PDU.
    ///
    /// # Panics
    ///
    /// When [`Self::r2t_max`] is not between 1 and 2^32.
    pub fn encode(&self) -> [u8; IC_SIZE] {
        let limit = self.r2t_max.checked_sub(1).and_then(|limit| u32::try_from(limit).ok());
        let limit = limit.expect("MAXR2T is between 1 and 2^32");
        encode(PduType::InitializeRequest, self.alignment, self.digests, limit)
    }

    /// The request in a PDU whose frame has been checked.
    ///
    /// # Errors
    ///
    /// [`Violation::FormatVersion`] or [`Violation::Alignment`].
    pub fn decode(pdu: &[u8; IC_SIZE]) -> Result<Self, Violation> {
        let (layout, alignment, digests) = decode(PduType::InitializeRequest, pdu)?;
        Ok(Self { alignment, digests, r2t_max: u64::from(layout.limit.get()) + 1 })
    }
}

impl InitializeResponse {
    /// The PDU.
    pub fn encode(&self) -> [u8; IC_SIZE] {
        encode(PduType::InitializeResponse, self.alignment, self.digests, self.max_h2c_data)
    }

    /// The response in a PDU whose frame has been checked, to a request for `requested` digests.
    ///
    /// # Errors
    ///
    /// [`Violation::FormatVersion`], [`Violation::Alignment`], [`Violation::DigestNotRequested`] or
    /// [`Violation::MaxH2cData`].
    pub fn decode(pdu: &[u8; IC_SIZE], requested: Digests) -> Result<Self, Violation> {
        let (layout, alignment, digests) = decode(PduType::InitializeResponse, pdu)?;
        if digests.header && !requested.header || digests.data && !requested.data {
            return Err(Violation::DigestNotRequested);
        }
        let max_h2c_data = layout.limit.get();
        if max_h2c_data == 0 || !max_h2c_data.is_multiple_of(4) {
            return Err(Violation::MaxH2cData);
        }
        Ok(Self { alignment, digests, max_h2c_data })
    }
}

fn encode(kind: PduType, alignment: Alignment, digests: Digests, limit: u32) -> [u8; IC_SIZE] {
    let header = if digests.header { HDGST_ENABLE } else { 0 };
    let data = if digests.data { DDGST_ENABLE } else { 0 };
    let layout = Layout {
        common: CommonLayout::new(kind, 0, 0, IC_SIZE),
        pfv: PFV_1_0.into(),
        pda: alignment.to_field(),
        dgst: header | data,
        limit: limit.into(),
        reserved_16: [0; 112],
    };
    zerocopy::transmute!(layout)
}

fn decode(kind: PduType, pdu: &[u8; IC_SIZE]) -> Result<(&Layout, Alignment, Digests), Violation> {
    let layout: &Layout = zerocopy::transmute_ref!(pdu);
    if layout.pfv.get() != PFV_1_0 {
        return Err(Violation::FormatVersion(kind));
    }
    let alignment = Alignment::from_field(layout.pda).ok_or(Violation::Alignment(kind))?;
    let digests =
        Digests { header: layout.dgst & HDGST_ENABLE != 0, data: layout.dgst & DDGST_ENABLE != 0 };
    Ok((layout, alignment, digests))
}
