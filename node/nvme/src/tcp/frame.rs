//! The common header of every PDU, and what it says about the parts behind it.
//!
//! Sources: TCP sections 3.3, 3.3.1.1 and 3.6.2.1, and the flags and lengths of 3.6.2.2 to 3.6.2.10.
//!
//! - A [`Frame`] exists only of a PDU whose type, direction, flags, HLEN, PDO and PLEN are allowed,
//!   so its parts lie one behind the other and end where PLEN says.
//! - HLEN, PDO and PLEN where the specification fixes or reserves them are checked or ignored as it
//!   says; padding is never looked at.

use core::{fmt, mem::offset_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U32};

use super::{
    digest::{DIGEST_SIZE, header_digest},
    terminate::TERMINATE_MAX,
    violation::Violation,
};

/// The bytes of the common header.
pub const COMMON_HEADER_SIZE: usize = size_of::<CommonLayout>();
/// The most bytes in front of the data of a PDU: header, header digest, padding. It is a command
/// capsule's at an alignment of 72 bytes: alignments need not be powers of two.
pub const HEADER_MAX: usize = 144;
/// Where a header is encoded.
pub type HeaderBuffer = [u8; HEADER_MAX];

/// What every PDU begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct CommonLayout {
    /// Byte 0, TCP 3.6.2.1 PDU-Type.
    kind: u8,
    /// Byte 1, TCP 3.6.2.1 FLAGS.
    flags: u8,
    /// Byte 2, TCP 3.6.2.1 HLEN.
    hlen: u8,
    /// Byte 3, TCP 3.6.2.1 PDO.
    pdo: u8,
    /// Bytes 7:4, TCP 3.6.2.1 PLEN.
    plen: U32,
}

const _: () = {
    assert!(size_of::<CommonLayout>() == 8);
    assert!(offset_of!(CommonLayout, flags) == 1);
    assert!(offset_of!(CommonLayout, hlen) == 2);
    assert!(offset_of!(CommonLayout, pdo) == 3);
    assert!(offset_of!(CommonLayout, plen) == 4);
};

const _: () = {
    // No type of PDU needs more at any alignment.
    let digests = Digests { header: true, data: true };
    let mut field = 0;
    while field <= Alignment::MAX.0 {
        let outbound = Outbound { digests, alignment: Alignment(field) };
        assert!(outbound.data_offset(PduType::CapsuleCommand) <= HEADER_MAX);
        assert!(outbound.data_offset(PduType::H2cData) <= HEADER_MAX);
        let plain = Outbound { digests: Digests { header: false, data: false }, ..outbound };
        assert!(plain.data_offset(PduType::CapsuleCommand) <= HEADER_MAX);
        field += 1;
    }
};

/// Where the fields lie that a violation can name, in bytes from the start of the header.
pub(super) mod offsets {
    pub(in super::super) const PDU_TYPE: u32 = 0;
    pub(in super::super) const FLAGS: u32 = 1;
    pub(in super::super) const HLEN: u32 = 2;
    pub(in super::super) const PDO: u32 = 3;
    pub(in super::super) const PLEN: u32 = 4;
    /// ICReq and ICResp.
    pub(in super::super) const PFV: u32 = 8;
    /// ICReq (HPDA) and ICResp (CPDA).
    pub(in super::super) const PDA: u32 = 10;
    pub(in super::super) const DGST: u32 = 11;
    pub(in super::super) const MAXH2CDATA: u32 = 12;
    /// H2CData, C2HData and R2T.
    pub(in super::super) const CCCID: u32 = 8;
    pub(in super::super) const TTAG: u32 = 10;
    /// H2CData and C2HData; in R2T it is R2TO.
    pub(in super::super) const DATAO: u32 = 12;
    /// H2CData and C2HData; in R2T it is R2TL.
    pub(in super::super) const DATAL: u32 = 16;
}

/// FLAGS bit 0: a header digest follows the header.
pub(super) const HDGSTF: u8 = 1 << 0;
/// FLAGS bit 1: a data digest follows the data.
pub(super) const DDGSTF: u8 = 1 << 1;
/// FLAGS bit 2 of H2CData and C2HData.
pub(super) const LAST_PDU: u8 = 1 << 2;
/// FLAGS bit 3 of C2HData.
pub(super) const SUCCESS: u8 = 1 << 3;

/// The types of PDUs (TCP 3.3, Figure 10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PduType {
    /// Initialize Connection Request.
    InitializeRequest,
    /// Initialize Connection Response.
    InitializeResponse,
    /// Host to Controller Terminate Connection Request.
    H2cTerminate,
    /// Controller to Host Terminate Connection Request.
    C2hTerminate,
    /// Command Capsule.
    CapsuleCommand,
    /// Response Capsule.
    CapsuleResponse,
    /// Host to Controller Data.
    H2cData,
    /// Controller to Host Data.
    C2hData,
    /// Ready to Transfer.
    R2t,
}

/// The sides of a connection, by what they receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// The controller, which receives H2C PDUs.
    Controller,
    /// The host, which receives C2H PDUs.
    Host,
}

/// Which digests a connection has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Digests {
    /// Behind each header.
    pub header: bool,
    /// Behind each PDU's data.
    pub data: bool,
}

/// To what the data of a PDU is aligned, from the start of the PDU: 4 to 128 bytes in steps of 4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alignment(u8);

impl Alignment {
    /// 4 bytes, which asks for no padding.
    pub const NONE: Self = Self(0);
    /// 128 bytes.
    pub const MAX: Self = Self(31);

    /// The alignment that HPDA or CPDA says, which counts dwords from zero; none above 31.
    pub const fn from_field(dwords: u8) -> Option<Self> {
        if dwords <= Self::MAX.0 { Some(Self(dwords)) } else { None }
    }

    /// What HPDA or CPDA says.
    pub const fn to_field(self) -> u8 {
        self.0
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        (self.0 as usize + 1) * 4
    }
}

impl PduType {
    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0x00 => Self::InitializeRequest,
            0x01 => Self::InitializeResponse,
            0x02 => Self::H2cTerminate,
            0x03 => Self::C2hTerminate,
            0x04 => Self::CapsuleCommand,
            0x05 => Self::CapsuleResponse,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return None,
        })
    }

    /// What stands in the byte PDU-Type.
    pub const fn number(self) -> u8 {
        match self {
            Self::InitializeRequest => 0x00,
            Self::InitializeResponse => 0x01,
            Self::H2cTerminate => 0x02,
            Self::C2hTerminate => 0x03,
            Self::CapsuleCommand => 0x04,
            Self::CapsuleResponse => 0x05,
            Self::H2cData => 0x06,
            Self::C2hData => 0x07,
            Self::R2t => 0x09,
        }
    }

    /// Who receives it: bit 0 of its number says so (TCP 3.3, Figure 10).
    pub const fn receiver(self) -> Receiver {
        if self.number() & 1 == 0 { Receiver::Controller } else { Receiver::Host }
    }

    /// Its HLEN, in bytes.
    pub const fn header_length(self) -> u8 {
        match self {
            Self::InitializeRequest | Self::InitializeResponse => 128,
            Self::CapsuleCommand => 72,
            _ => 24,
        }
    }

    /// Whether a header digest follows its header when they are enabled (TCP 3.3.1.1).
    const fn has_header_digest(self) -> bool {
        !matches!(
            self,
            Self::InitializeRequest
                | Self::InitializeResponse
                | Self::H2cTerminate
                | Self::C2hTerminate
        )
    }
}

impl fmt::Display for PduType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InitializeRequest => "ICReq",
            Self::InitializeResponse => "ICResp",
            Self::H2cTerminate => "H2CTermReq",
            Self::C2hTerminate => "C2HTermReq",
            Self::CapsuleCommand => "CapsuleCmd",
            Self::CapsuleResponse => "CapsuleResp",
            Self::H2cData => "H2CData",
            Self::C2hData => "C2HData",
            Self::R2t => "R2T",
        })
    }
}

/// What a side of a connection expects of what it receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inbound {
    /// Which side it is.
    pub receiver: Receiver,
    /// The digests that were agreed upon; none before the ICResp.
    pub digests: Digests,
    /// The alignment that this side has asked for.
    pub alignment: Alignment,
    /// The most in-capsule data of a command, in bytes; a longer capsule is a violation.
    pub capsule_data_max: u32,
    /// The most data of an H2CData or C2HData, in bytes. A controller's MAXH2CDATA; a host has no
    /// such limit and gives what it can bear.
    pub data_max: u32,
}

/// The parts of one PDU: header, header digest, padding, data, data digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    kind: PduType,
    flags: u8,
    header_digest: bool,
    data_digest: bool,
    data_offset: u8,
    data_length: u32,
}

impl Inbound {
    /// What a side expects before digests and limits are agreed upon: ICReq or ICResp.
    pub const fn before_initialize(receiver: Receiver) -> Self {
        Self {
            receiver,
            digests: Digests { header: false, data: false },
            alignment: Alignment::NONE,
            capsule_data_max: 0,
            data_max: 0,
        }
    }

    /// The parts of the PDU that begins with `header`.
    ///
    /// # Errors
    ///
    /// The [`Violation`] with the lowest offset in the header; then the connection is to be ended
    /// with what [`Violation::terminate`] says.
    pub fn frame(&self, header: &[u8; COMMON_HEADER_SIZE]) -> Result<Frame, Violation> {
        let layout: &CommonLayout = zerocopy::transmute_ref!(header);
        let kind = PduType::from_number(layout.kind).ok_or(Violation::UnknownType(layout.kind))?;
        if kind.receiver() != self.receiver {
            return Err(Violation::WrongDirection(kind));
        }
        let mut frame = Frame {
            kind,
            flags: layout.flags,
            header_digest: self.digests.header && kind.has_header_digest(),
            data_digest: false,
            data_offset: 0,
            data_length: 0,
        };
        if kind.has_header_digest() && (layout.flags & HDGSTF != 0) != self.digests.header {
            return Err(Violation::DigestFlags(kind));
        }
        self.check_data_flags(layout)?;
        if layout.hlen != kind.header_length() {
            return Err(Violation::HeaderLength(kind));
        }
        let plen = layout.plen.get();
        match kind {
            PduType::CapsuleCommand | PduType::H2cData | PduType::C2hData => {
                self.place_data(layout, &mut frame)?;
            }
            PduType::H2cTerminate | PduType::C2hTerminate => {
                let most = u32::try_from(TERMINATE_MAX).expect("152 bytes");
                let least = u32::from(kind.header_length());
                if !(least..=most).contains(&plen) {
                    return Err(Violation::Length(kind));
                }
                frame.data_offset = kind.header_length();
                frame.data_length = plen - least;
            }
            _ => {
                if plen as usize != frame.header_end() {
                    return Err(Violation::Length(kind));
                }
            }
        }
        Ok(frame)
    }

    /// DDGSTF and SUCCESS of a PDU that can carry data. A command capsule without data has no data
    /// digest, and hosts set the flag as they like (TCP 3.3.1.1 speaks of capsules with data).
    fn check_data_flags(&self, layout: &CommonLayout) -> Result<(), Violation> {
        let kind = PduType::from_number(layout.kind).ok_or(Violation::UnknownType(layout.kind))?;
        if !matches!(kind, PduType::H2cData | PduType::C2hData) {
            return Ok(());
        }
        if (layout.flags & DDGSTF != 0) != self.digests.data {
            return Err(Violation::DigestFlags(kind));
        }
        if kind == PduType::C2hData && layout.flags & (SUCCESS | LAST_PDU) == SUCCESS {
            return Err(Violation::SuccessWithoutLast);
        }
        Ok(())
    }

    /// Where the data lies of a PDU that can carry some.
    fn place_data(&self, layout: &CommonLayout, frame: &mut Frame) -> Result<(), Violation> {
        let kind = frame.kind;
        let plen = layout.plen.get();
        let header_end = u32::try_from(frame.header_end()).expect("at most 132 bytes");
        if kind == PduType::CapsuleCommand && plen == header_end {
            // PDO means nothing without data.
            frame.data_offset = kind.header_length();
            return Ok(());
        }
        let digest = if self.digests.data { 4 } else { 0 };
        if self.digests.data != (layout.flags & DDGSTF != 0) {
            return Err(Violation::DigestFlags(kind));
        }
        let pdo = u32::from(layout.pdo);
        if pdo < header_end || !usize::from(layout.pdo).is_multiple_of(self.alignment.bytes()) {
            return Err(Violation::DataOffset(kind));
        }
        let Some(data_length) = plen.checked_sub(pdo + digest).filter(|length| *length > 0) else {
            return Err(Violation::Length(kind));
        };
        match kind {
            PduType::CapsuleCommand if data_length > self.capsule_data_max => {
                return Err(Violation::Length(kind));
            }
            PduType::H2cData if data_length > self.data_max => return Err(Violation::DataLimit),
            PduType::C2hData if data_length > self.data_max => {
                return Err(Violation::OutOfRange(kind));
            }
            _ => {}
        }
        frame.data_digest = self.digests.data;
        frame.data_offset = layout.pdo;
        frame.data_length = data_length;
        Ok(())
    }
}

impl Frame {
    /// Which PDU it is.
    pub const fn kind(&self) -> PduType {
        self.kind
    }

    /// HLEN: how many bytes the header has, without its digest.
    pub const fn header_length(&self) -> usize {
        self.kind.header_length() as usize
    }

    /// How many bytes header and header digest have: what must be there before
    /// [`Self::check_header`] and the decoding of the PDU's own fields.
    pub const fn header_end(&self) -> usize {
        self.header_length() + if self.header_digest { DIGEST_SIZE } else { 0 }
    }

    /// Where the data begins, in bytes from the start of the PDU; between header and data is
    /// padding. Without data, the end of the header.
    pub const fn data_offset(&self) -> usize {
        if self.data_length == 0 { self.header_end() } else { self.data_offset as usize }
    }

    /// How many bytes of data there are.
    pub const fn data_length(&self) -> u32 {
        self.data_length
    }

    /// Whether a data digest follows the data.
    pub const fn has_data_digest(&self) -> bool {
        self.data_digest
    }

    /// PLEN: how many bytes the whole PDU has.
    pub const fn length(&self) -> usize {
        let digest = if self.data_digest { DIGEST_SIZE } else { 0 };
        self.data_offset() + self.data_length as usize + digest
    }

    /// Checks the header digest, if there is one. `header` begins with the PDU.
    ///
    /// # Errors
    ///
    /// [`Violation::HeaderDigest`] when it is wrong.
    ///
    /// # Panics
    ///
    /// When there are less than [`Self::header_end`] bytes.
    pub fn check_header(&self, header: &[u8]) -> Result<(), Violation> {
        if !self.header_digest {
            return Ok(());
        }
        let (header, digest) = header[..self.header_end()].split_at(self.header_length());
        let received = u32::from_le_bytes(*digest.first_chunk().expect("a digest has 4 bytes"));
        if received == header_digest(header) {
            Ok(())
        } else {
            Err(Violation::HeaderDigest { received })
        }
    }

    pub(super) const fn is_set(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What a side of a connection puts into what it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outbound {
    /// The digests that were agreed upon.
    pub digests: Digests,
    /// The alignment that the other side has asked for.
    pub alignment: Alignment,
}

impl Outbound {
    /// Where data begins behind a header of type `kind`, in bytes from the start of the PDU.
    pub const fn data_offset(&self, kind: PduType) -> usize {
        let digest = if self.digests.header { DIGEST_SIZE } else { 0 };
        (kind.header_length() as usize + digest).next_multiple_of(self.alignment.bytes())
    }

    /// Completes the header of `kind` whose own fields stand in `header`: the common header, with
    /// `flags` beside those of the digests, then the header digest and the padding in front of
    /// `data_length` bytes of data. Returns how many bytes of `header` are to be sent.
    pub(super) fn seal(
        &self,
        kind: PduType,
        flags: u8,
        data_length: u32,
        header: &mut HeaderBuffer,
    ) -> usize {
        let header_length = usize::from(kind.header_length());
        let header_end = header_length + if self.digests.header { DIGEST_SIZE } else { 0 };
        let (offset, digest) = match data_length {
            0 => (header_end, 0),
            _ => (self.data_offset(kind), if self.digests.data { DIGEST_SIZE } else { 0 }),
        };
        let mut all_flags = flags;
        if self.digests.header {
            all_flags |= HDGSTF;
        }
        if digest > 0 {
            all_flags |= DDGSTF;
        }
        let pdo = if data_length == 0 { 0 } else { u8::try_from(offset).expect("at most 144") };
        let plen = offset + data_length as usize + digest;
        let common = CommonLayout::new(kind, all_flags, pdo, plen);
        header[..COMMON_HEADER_SIZE].copy_from_slice(common.as_bytes());
        if self.digests.header {
            let digest = header_digest(&header[..header_length]).to_le_bytes();
            header[header_length..header_end].copy_from_slice(&digest);
        }
        header[header_end..offset].fill(0);
        offset
    }
}

impl CommonLayout {
    pub(super) fn new(kind: PduType, flags: u8, pdo: u8, plen: usize) -> Self {
        Self {
            kind: kind.number(),
            flags,
            hlen: kind.header_length(),
            pdo,
            plen: u32::try_from(plen).expect("a PDU of Fathom is below 4 GiB").into(),
        }
    }

    /// Room for the common header in a layout whose own fields are set first.
    pub(super) const fn blank() -> Self {
        Self { kind: 0, flags: 0, hlen: 0, pdo: 0, plen: U32::ZERO }
    }
}
