//! H2CData, C2HData and R2T: how data goes between capsules.
//!
//! Sources: TCP sections 3.3.2.1, 3.3.2.2 and 3.6.2.8 to 3.6.2.10. The three have one layout.
//!
//! - Offsets and lengths are multiples of 4, and a length is that of the frame's data. Whether they
//!   lie where they should is for the side that knows the command.

use core::mem::offset_of;

use fathom_units::Cid;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

use super::{
    frame::{CommonLayout, Frame, HeaderBuffer, LAST_PDU, Outbound, PduType, SUCCESS},
    violation::Violation,
};

/// All three PDUs.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    common: CommonLayout,
    /// Bytes 9:8, TCP 3.6.2.8 CCCID.
    cccid: U16,
    /// Bytes 11:10, TCP 3.6.2.8 TTAG; reserved in C2HData.
    ttag: U16,
    /// Bytes 15:12, TCP 3.6.2.8 DATAO, TCP 3.6.2.10 R2TO.
    offset: U32,
    /// Bytes 19:16, TCP 3.6.2.8 DATAL, TCP 3.6.2.10 R2TL.
    length: U32,
    /// Bytes 23:20, reserved.
    reserved_20: [u8; 4],
}

const _: () = {
    assert!(size_of::<Layout>() == 24);
    assert!(offset_of!(Layout, cccid) == 8);
    assert!(offset_of!(Layout, ttag) == 10);
    assert!(offset_of!(Layout, offset) == 12);
    assert!(offset_of!(Layout, length) == 16);
    assert!(offset_of!(Layout, reserved_20) == 20);
};

/// Data from the host that an R2T has asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct H2cData {
    /// CCCID: the command.
    pub cid: Cid,
    /// TTAG: the R2T's.
    pub transfer_tag: u16,
    /// DATAO: where the data belongs in the command data buffer, in bytes.
    pub offset: u32,
    /// DATAL: how many bytes follow, never zero.
    pub length: u32,
    /// LAST_PDU: the last data that answers the R2T.
    pub last: bool,
}

/// Data from the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct C2hData {
    /// CCCID: the command.
    pub cid: Cid,
    /// DATAO: where the data belongs in the command data buffer, in bytes.
    pub offset: u32,
    /// DATAL: how many bytes follow, never zero.
    pub length: u32,
    /// LAST_PDU: the last data of the command.
    pub last: bool,
    /// SUCCESS: the command has succeeded, and no response capsule will come. Only with `last`.
    pub success: bool,
}

/// The controller asks for data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct R2t {
    /// CCCID: the command.
    pub cid: Cid,
    /// TTAG: what the H2CData shall carry.
    pub transfer_tag: u16,
    /// R2TO: from where in the command data buffer, in bytes.
    pub offset: u32,
    /// R2TL: how many bytes, never zero.
    pub length: u32,
}

impl H2cData {
    /// Writes the header into `header`, and returns how many bytes of it are to be sent; the data
    /// follows.
    pub fn encode(&self, outbound: &Outbound, header: &mut HeaderBuffer) -> usize {
        write(self.cid, self.transfer_tag, self.offset, self.length, header);
        let flags = if self.last { LAST_PDU } else { 0 };
        outbound.seal(PduType::H2cData, flags, self.length, header)
    }

    /// The fields of a header of this type.
    ///
    /// # Errors
    ///
    /// [`Violation::Offset`] or [`Violation::DataLength`].
    ///
    /// # Panics
    ///
    /// When the header is shorter than [`Frame::header_length`].
    pub fn decode(frame: &Frame, header: &[u8]) -> Result<Self, Violation> {
        let layout = read(frame, header, frame.data_length())?;
        Ok(Self {
            cid: Cid(layout.cccid.get()),
            transfer_tag: layout.ttag.get(),
            offset: layout.offset.get(),
            length: layout.length.get(),
            last: frame.is_set(LAST_PDU),
        })
    }
}

impl C2hData {
    /// Writes the header into `header`, and returns how many bytes of it are to be sent; the data
    /// follows.
    pub fn encode(&self, outbound: &Outbound, header: &mut HeaderBuffer) -> usize {
        write(self.cid, 0, self.offset, self.length, header);
        let last = if self.last { LAST_PDU } else { 0 };
        let success = if self.success { SUCCESS } else { 0 };
        outbound.seal(PduType::C2hData, last | success, self.length, header)
    }

    /// The fields of a header of this type.
    ///
    /// # Errors
    ///
    /// [`Violation::Offset`] or [`Violation::DataLength`].
    ///
    /// # Panics
    ///
    /// When the header is shorter than [`Frame::header_length`].
    pub fn decode(frame: &Frame, header: &[u8]) -> Result<Self, Violation> {
        let layout = read(frame, header, frame.data_length())?;
        Ok(Self {
            cid: Cid(layout.cccid.get()),
            offset: layout.offset.get(),
            length: layout.length.get(),
            last: frame.is_set(LAST_PDU),
            success: frame.is_set(SUCCESS),
        })
    }
}

impl R2t {
    /// Writes the PDU into `header`, and returns how many bytes of it are to be sent.
    pub fn encode(&self, outbound: &Outbound, header: &mut HeaderBuffer) -> usize {
        write(self.cid, self.transfer_tag, self.offset, self.length, header);
        outbound.seal(PduType::R2t, 0, 0, header)
    }

    /// The fields of a header of this type.
    ///
    /// # Errors
    ///
    /// [`Violation::Offset`] or [`Violation::DataLength`].
    ///
    /// # Panics
    ///
    /// When the header is shorter than [`Frame::header_length`].
    pub fn decode(frame: &Frame, header: &[u8]) -> Result<Self, Violation> {
        let layout = view(header);
        let layout = read(frame, header, layout.length.get())?;
        Ok(Self {
            cid: Cid(layout.cccid.get()),
            transfer_tag: layout.ttag.get(),
            offset: layout.offset.get(),
            length: layout.length.get(),
        })
    }
}

fn view(header: &[u8]) -> &Layout {
    Layout::ref_from_prefix(header).expect("a frame of this type has a header of this length").0
}

/// The fields, of which `length` is the length.
fn read<'a>(frame: &Frame, header: &'a [u8], length: u32) -> Result<&'a Layout, Violation> {
    let layout = view(header);
    if !layout.offset.get().is_multiple_of(4) {
        return Err(Violation::Offset(frame.kind()));
    }
    let stated = layout.length.get();
    if stated != length || stated == 0 || !stated.is_multiple_of(4) {
        return Err(Violation::DataLength(frame.kind()));
    }
    Ok(layout)
}

fn write(cid: Cid, ttag: u16, offset: u32, length: u32, header: &mut HeaderBuffer) {
    let layout = Layout {
        common: CommonLayout::blank(),
        cccid: cid.0.into(),
        ttag: ttag.into(),
        offset: offset.into(),
        length: length.into(),
        reserved_20: [0; 4],
    };
    header[..size_of::<Layout>()].copy_from_slice(layout.as_bytes());
}
