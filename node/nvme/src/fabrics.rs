//! Fabrics commands: Connect, Property Get and Set, Disconnect; authentication is recognised.
//!
//! Before: a [`SubmissionEntry`] with opcode 7Fh. Sources: sections 6.1 to 6.6.
//!
//! - A Fabrics command can come on any queue, but Property Get and Set only on the admin queue, and
//!   all but Connect only after Connect. That is for a controller to see to.

use core::mem::offset_of;

use bitflags::bitflags;
use fathom_units::{Cid, Cntlid, Qid};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16};

use crate::{
    Completion, Nqn, Status, SubmissionEntry, nqn::NQN_FIELD_SIZE, property::PropertySize,
};

/// The opcode of every Fabrics command (section 6).
pub const OPCODE: u8 = 0x7F;
/// The bytes of the data of a Connect.
pub const CONNECT_DATA_SIZE: usize = 1024;

/// The FCTYPE values (section 6, Figure 540).
mod fctype {
    pub(super) const PROPERTY_SET: u8 = 0x00;
    pub(super) const CONNECT: u8 = 0x01;
    pub(super) const PROPERTY_GET: u8 = 0x04;
    pub(super) const AUTHENTICATION_SEND: u8 = 0x05;
    pub(super) const AUTHENTICATION_RECEIVE: u8 = 0x06;
    pub(super) const DISCONNECT: u8 = 0x08;
}

/// A Fabrics command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FabricsCommand {
    /// Creates a queue.
    Connect(Connect),
    /// Reads a property of the controller.
    PropertyGet(PropertyGet),
    /// Writes a property of the controller.
    PropertySet(PropertySet),
    /// Deletes the I/O queue that it comes on.
    Disconnect,
    /// The host sends an authentication message.
    AuthenticationSend,
    /// The host asks for an authentication message.
    AuthenticationReceive,
}

impl FabricsCommand {
    /// The command in an entry whose opcode is [`OPCODE`].
    ///
    /// # Errors
    ///
    /// [`Status::INVALID_OPCODE`] for an unknown FCTYPE, [`Status::CONNECT_INCOMPATIBLE_FORMAT`]
    /// for a record format of Connect or Disconnect that is not 0, and [`Status::INVALID_FIELD`]
    /// for a property of another size than 4 or 8 bytes.
    pub fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        match entry.fctype() {
            fctype::PROPERTY_SET => PropertySet::parse(entry).map(Self::PropertySet),
            fctype::CONNECT => Connect::parse(entry).map(Self::Connect),
            fctype::PROPERTY_GET => PropertyGet::parse(entry).map(Self::PropertyGet),
            fctype::AUTHENTICATION_SEND => Ok(Self::AuthenticationSend),
            fctype::AUTHENTICATION_RECEIVE => Ok(Self::AuthenticationReceive),
            fctype::DISCONNECT => {
                check_record_format(entry)?;
                Ok(Self::Disconnect)
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// The entry of a Disconnect.
    pub fn disconnect_entry() -> SubmissionEntry {
        entry_of(fctype::DISCONNECT)
    }
}

/// An entry with this FCTYPE, which stands where other commands have their NSID.
fn entry_of(fctype: u8) -> SubmissionEntry {
    SubmissionEntry::new(OPCODE).with_nsid(fathom_units::Nsid(fctype.into()))
}

/// Bytes 41:40 of Connect and Disconnect (RECFMT).
fn check_record_format(entry: &SubmissionEntry) -> Result<(), Status> {
    if entry.cdw::<10>() & 0xFFFF == 0 { Ok(()) } else { Err(Status::CONNECT_INCOMPATIBLE_FORMAT) }
}

bitflags! {
    /// Attributes of a connection (6.3, CATTR), bits 4:2.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ConnectAttributes: u8 {
        /// DISSQFC: the host asks for no SQ flow control.
        const DISABLE_SQ_FLOW_CONTROL = 1 << 2;
        /// INDIVIOQDELS: the host can delete single I/O queues.
        const INDIVIDUAL_IO_QUEUE_DELETION = 1 << 3;
        /// CONNENT: a discovery controller connects, not a host.
        const DISCOVERY_CONTROLLER = 1 << 4;
    }
}

/// Creates a queue, and with the admin queue an association (6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect {
    /// QID: the queue.
    pub qid: Qid,
    /// SQSIZE: how many entries the submission queue has, 1 to 65,536; 1 is not allowed, and how
    /// many are is for the controller to say (0's based on the wire).
    pub sq_entries: u32,
    /// CATTR but the priority class, which has a meaning only with weighted round robin.
    pub attributes: ConnectAttributes,
    /// KATO, in milliseconds; 0 for none. Only with the admin queue.
    pub keep_alive_ms: u32,
}

impl Connect {
    fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        check_record_format(entry)?;
        let [_, _, qid_low, qid_high] = entry.cdw::<10>().to_le_bytes();
        let [sqsize_low, sqsize_high, attributes, _] = entry.cdw::<11>().to_le_bytes();
        Ok(Self {
            qid: Qid(u16::from_le_bytes([qid_low, qid_high])),
            sq_entries: u32::from(u16::from_le_bytes([sqsize_low, sqsize_high])) + 1,
            attributes: ConnectAttributes::from_bits_truncate(attributes),
            keep_alive_ms: entry.cdw::<12>(),
        })
    }

    /// The entry of the command; its data is a [`ConnectData`].
    ///
    /// # Panics
    ///
    /// When [`Self::sq_entries`] is not between 1 and 65,536.
    pub fn entry(&self) -> SubmissionEntry {
        let sqsize = self.sq_entries.checked_sub(1).and_then(|size| u16::try_from(size).ok());
        let sqsize = sqsize.expect("a submission queue has 1 to 65,536 entries");
        entry_of(fctype::CONNECT)
            .with_cdw::<10>(u32::from(self.qid.0) << 16)
            .with_cdw::<11>(u32::from(sqsize) | u32::from(self.attributes.bits()) << 16)
            .with_cdw::<12>(self.keep_alive_ms)
    }
}

/// Names a host, beside its NQN: 128 bits that are the same in all its connections (5.1.25.1.28).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub [u8; 16]);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ConnectDataLayout {
    /// Bytes 15:0, 6.3 HOSTID.
    hostid: [u8; 16],
    /// Bytes 17:16, 6.3 CNTLID.
    cntlid: U16,
    /// Bytes 255:18, reserved.
    reserved_18: [u8; 238],
    /// Bytes 511:256, 6.3 SUBNQN.
    subnqn: [u8; NQN_FIELD_SIZE],
    /// Bytes 767:512, 6.3 HOSTNQN.
    hostnqn: [u8; NQN_FIELD_SIZE],
    /// Bytes 1023:768, reserved.
    reserved_768: [u8; 256],
}

const _: () = {
    assert!(size_of::<ConnectDataLayout>() == CONNECT_DATA_SIZE);
    assert!(offset_of!(ConnectDataLayout, cntlid) == 16);
    assert!(offset_of!(ConnectDataLayout, reserved_18) == 18);
    assert!(offset_of!(ConnectDataLayout, subnqn) == 256);
    assert!(offset_of!(ConnectDataLayout, hostnqn) == 512);
    assert!(offset_of!(ConnectDataLayout, reserved_768) == 768);
};

/// Who connects to what: the data of a Connect (6.3, Figure 546).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectData {
    /// HOSTID.
    pub host_id: HostId,
    /// CNTLID: [`Cntlid::DYNAMIC`] with the admin queue of a dynamic controller, then that one.
    pub controller: Cntlid,
    /// SUBNQN.
    pub subsystem: Nqn,
    /// HOSTNQN.
    pub host: Nqn,
}

impl ConnectData {
    /// The data.
    pub fn encode(&self) -> [u8; CONNECT_DATA_SIZE] {
        let layout = ConnectDataLayout {
            hostid: self.host_id.0,
            cntlid: self.controller.0.into(),
            reserved_18: [0; 238],
            subnqn: self.subsystem.to_field(),
            hostnqn: self.host.to_field(),
            reserved_768: [0; 256],
        };
        zerocopy::transmute!(layout)
    }

    /// The value of the data.
    ///
    /// # Errors
    ///
    /// The [`InvalidParameter`] that is no name.
    pub fn decode(bytes: &[u8; CONNECT_DATA_SIZE]) -> Result<Self, InvalidParameter> {
        let layout: &ConnectDataLayout = zerocopy::transmute_ref!(bytes);
        Ok(Self {
            host_id: HostId(layout.hostid),
            controller: Cntlid(layout.cntlid.get()),
            subsystem: Nqn::from_field(&layout.subnqn).map_err(|_| InvalidParameter::SUBNQN)?,
            host: Nqn::from_field(&layout.hostnqn).map_err(|_| InvalidParameter::HOSTNQN)?,
        })
    }
}

/// Which parameter of a Connect is not allowed (6.3, Figure 548).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidParameter {
    /// IPO: where it begins, in bytes from the start of the command or of its data.
    offset: u16,
    /// IATTR bit 0: the offset is one in the data.
    in_data: bool,
}

impl InvalidParameter {
    /// The queue identifier.
    pub const QID: Self = Self { offset: 42, in_data: false };
    /// The size of the submission queue.
    pub const SQSIZE: Self = Self { offset: 44, in_data: false };
    /// The attributes.
    pub const CATTR: Self = Self { offset: 46, in_data: false };
    /// The keep alive timeout.
    pub const KATO: Self = Self { offset: 48, in_data: false };
    /// The host identifier.
    pub const HOSTID: Self = Self { offset: 0, in_data: true };
    /// The controller identifier.
    pub const CNTLID: Self = Self { offset: 16, in_data: true };
    /// The name of the subsystem.
    pub const SUBNQN: Self = Self { offset: 256, in_data: true };
    /// The name of the host.
    pub const HOSTNQN: Self = Self { offset: 512, in_data: true };

    /// The answer that says so, without DNR.
    pub fn completion(self, cid: Cid) -> Completion {
        let attribute = u64::from(self.in_data);
        let mut completion = Completion::with_status(cid, Status::CONNECT_INVALID_PARAMETERS);
        completion.result = u64::from(self.offset) | attribute << 16;
        completion
    }

    /// Which parameter an answer names, if it is one of those that have a name here.
    pub fn of(completion: &Completion) -> Option<Self> {
        if completion.status.code() != Status::CONNECT_INVALID_PARAMETERS {
            return None;
        }
        let [low, high, attribute, _] = completion.dword0().to_le_bytes();
        let found = Self { offset: u16::from_le_bytes([low, high]), in_data: attribute & 1 == 1 };
        Self::NAMED.iter().find(|(parameter, _)| *parameter == found).map(|(named, _)| *named)
    }

    /// The name of the field.
    pub fn name(self) -> &'static str {
        let named = Self::NAMED.iter().find(|(parameter, _)| *parameter == self);
        named.expect("only those with names can be made").1
    }

    const NAMED: [(Self, &'static str); 8] = [
        (Self::QID, "QID"),
        (Self::SQSIZE, "SQSIZE"),
        (Self::CATTR, "CATTR"),
        (Self::KATO, "KATO"),
        (Self::HOSTID, "HOSTID"),
        (Self::CNTLID, "CNTLID"),
        (Self::SUBNQN, "SUBNQN"),
        (Self::HOSTNQN, "HOSTNQN"),
    ];
}

/// What a successful Connect returns in dword 0 (6.3, Figure 548).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connected {
    /// CNTLID: the controller that the association has.
    pub controller: Cntlid,
    /// AUTHREQ: what has to be done before anything else; zero for nothing.
    pub authentication: AuthenticationRequirements,
}

bitflags! {
    /// What a host has to do after Connect (6.3, AUTHREQ).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct AuthenticationRequirements: u16 {
        /// ATR: authentication.
        const AUTHENTICATION = 1 << 1;
        /// ASCR: authentication, and then a secure channel.
        const AUTHENTICATION_AND_SECURE_CHANNEL = 1 << 2;
        /// Reserved bits, which may mean something that a host does not know.
        const _ = !0;
    }
}

impl Connected {
    /// The result of the completion.
    pub fn to_result(self) -> u64 {
        u64::from(self.controller.0) | u64::from(self.authentication.bits()) << 16
    }

    /// What a successful completion says.
    pub fn from_result(result: u64) -> Self {
        let [low, high, auth_low, auth_high, ..] = result.to_le_bytes();
        Self {
            controller: Cntlid(u16::from_le_bytes([low, high])),
            authentication: AuthenticationRequirements::from_bits_retain(u16::from_le_bytes([
                auth_low, auth_high,
            ])),
        }
    }
}

/// Reads a property (6.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PropertyGet {
    /// ATTRIB: how many bytes.
    pub size: PropertySize,
    /// OFST: which property.
    pub offset: u32,
}

/// Writes a property (6.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PropertySet {
    /// ATTRIB: how many bytes.
    pub size: PropertySize,
    /// OFST: which property.
    pub offset: u32,
    /// VALUE; of 4 bytes, the low ones.
    pub value: u64,
}

impl PropertyGet {
    fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        Ok(Self { size: property_size(entry)?, offset: entry.cdw::<11>() })
    }

    /// The entry of the command.
    pub fn entry(&self) -> SubmissionEntry {
        entry_of(fctype::PROPERTY_GET)
            .with_cdw::<10>(self.size.to_field())
            .with_cdw::<11>(self.offset)
    }
}

impl PropertySet {
    fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        let size = property_size(entry)?;
        let value = match size {
            PropertySize::Four => entry.cdw::<12>().into(),
            PropertySize::Eight => entry.cdw_pair::<12>(),
        };
        Ok(Self { size, offset: entry.cdw::<11>(), value })
    }

    /// The entry of the command.
    pub fn entry(&self) -> SubmissionEntry {
        entry_of(fctype::PROPERTY_SET)
            .with_cdw::<10>(self.size.to_field())
            .with_cdw::<11>(self.offset)
            .with_cdw_pair::<12>(self.value)
    }
}

/// Byte 40 of a property command (ATTRIB), bits 2:0.
fn property_size(entry: &SubmissionEntry) -> Result<PropertySize, Status> {
    PropertySize::from_field(entry.cdw::<10>() & 0b111).ok_or(Status::INVALID_FIELD)
}

#[cfg(test)]
mod tests;
