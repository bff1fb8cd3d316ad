//! Admin commands: Identify, Get Log Page, Get and Set Features, Abort, Asynchronous Event Request,
//! Keep Alive.
//!
//! Before: a [`SubmissionEntry`] of the admin queue. Next: the structure that is asked for
//! ([`crate::identify`], [`crate::log`], [`crate::feature`], [`crate::event`]).
//! Sources: sections 5.1.1, 5.1.2, 5.1.11 to 5.1.14 and 5.1.25.

use fathom_units::{Cid, Nsid, Qid};

use crate::{Status, SubmissionEntry, feature::FeatureId, identify::Cns, log::LogId};

/// The opcodes (section 5, Figure 141).
pub mod opcode {
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0A;
    /// Asynchronous Event Request.
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0C;
    /// Keep Alive.
    pub const KEEP_ALIVE: u8 = 0x18;
}

/// An admin command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdminCommand {
    /// Asks what there is.
    Identify(Identify),
    /// Reads a log page.
    GetLogPage(GetLogPage),
    /// Reads a feature.
    GetFeatures(GetFeatures),
    /// Writes a feature.
    SetFeatures(SetFeatures),
    /// Asks to give a command up.
    Abort(Abort),
    /// Waits for an event.
    AsyncEventRequest,
    /// Says that the host lives.
    KeepAlive,
}

impl AdminCommand {
    /// The command in an entry.
    ///
    /// # Errors
    ///
    /// [`Status::INVALID_OPCODE`] for an opcode that is not one of [`opcode`], and
    /// [`Status::INVALID_FIELD`] for a field whose value is reserved.
    pub fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        match entry.opcode() {
            opcode::GET_LOG_PAGE => GetLogPage::parse(entry).map(Self::GetLogPage),
            opcode::IDENTIFY => Ok(Self::Identify(Identify::parse(entry))),
            opcode::ABORT => Ok(Self::Abort(Abort::parse(entry))),
            opcode::SET_FEATURES => Ok(Self::SetFeatures(SetFeatures::parse(entry))),
            opcode::GET_FEATURES => GetFeatures::parse(entry).map(Self::GetFeatures),
            opcode::ASYNC_EVENT_REQUEST => Ok(Self::AsyncEventRequest),
            opcode::KEEP_ALIVE => Ok(Self::KeepAlive),
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// The entry of the command, without CID and data pointer.
    pub fn entry(&self) -> SubmissionEntry {
        match self {
            Self::Identify(command) => command.entry(),
            Self::GetLogPage(command) => command.entry(),
            Self::GetFeatures(command) => command.entry(),
            Self::SetFeatures(command) => command.entry(),
            Self::Abort(command) => command.entry(),
            Self::AsyncEventRequest => SubmissionEntry::new(opcode::ASYNC_EVENT_REQUEST),
            Self::KeepAlive => SubmissionEntry::new(opcode::KEEP_ALIVE),
        }
    }
}

/// Asks for a structure of [`crate::identify`] (5.1.13). Its data has 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identify {
    /// CNS: which structure.
    pub cns: Cns,
    /// NSID: of which namespace, where the structure is of one.
    pub nsid: Nsid,
    /// CNTID: of which controller, or from which on, where the structure says so.
    pub controller: u16,
    /// CSI: of which I/O command set, where the structure is of one.
    pub command_set: u8,
    /// CNSSI: an identifier of something else, where the structure says so.
    pub specific: u16,
    /// UIDX: which UUID of the UUID list, 0 for none.
    pub uuid_index: u8,
}

impl Identify {
    /// The structure `cns` of a namespace, without further choice.
    pub const fn new(cns: Cns, nsid: Nsid) -> Self {
        Self { cns, nsid, controller: 0, command_set: 0, specific: 0, uuid_index: 0 }
    }

    fn parse(entry: &SubmissionEntry) -> Self {
        let [cns, _, controller_low, controller_high] = entry.cdw::<10>().to_le_bytes();
        let [specific_low, specific_high, _, command_set] = entry.cdw::<11>().to_le_bytes();
        Self {
            cns: Cns(cns),
            nsid: entry.nsid(),
            controller: u16::from_le_bytes([controller_low, controller_high]),
            command_set,
            specific: u16::from_le_bytes([specific_low, specific_high]),
            uuid_index: uuid_index(entry),
        }
    }

    fn entry(&self) -> SubmissionEntry {
        SubmissionEntry::new(opcode::IDENTIFY)
            .with_nsid(self.nsid)
            .with_cdw::<10>(u32::from(self.cns.0) | u32::from(self.controller) << 16)
            .with_cdw::<11>(u32::from(self.specific) | u32::from(self.command_set) << 24)
            .with_cdw::<14>(u32::from(self.uuid_index))
    }
}

/// CDW14 bits 6:0 of the commands that can choose a UUID.
fn uuid_index(entry: &SubmissionEntry) -> u8 {
    entry.cdw::<14>().to_le_bytes()[0] & 0x7F
}

/// From where a log page is read (5.1.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogOffset {
    /// From this byte on, a multiple of 4.
    Bytes(u64),
    /// From this entry of the page's list on.
    Index(u64),
}

/// Reads a log page (5.1.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetLogPage {
    /// LID: which page.
    pub page: LogId,
    /// NSID: of which namespace; 0 or all ones for the controller's.
    pub nsid: Nsid,
    /// LSP: what the page makes of it; 7 bits.
    pub specific: u8,
    /// RAE: the event of the page stays set.
    pub retain_event: bool,
    /// NUMDU and NUMDL: how many bytes, a multiple of 4 and at least 4 (0's based dwords).
    pub length: u64,
    /// LPOU and LPOL, by OT.
    pub offset: LogOffset,
    /// LSI: an identifier of something else, where the page says so.
    pub identifier: u16,
    /// CSI: of which I/O command set.
    pub command_set: u8,
    /// UIDX: which UUID of the UUID list, 0 for none.
    pub uuid_index: u8,
}

impl GetLogPage {
    /// `length` bytes of `page` from its start, a multiple of 4.
    pub const fn new(page: LogId, nsid: Nsid, length: u64) -> Self {
        Self {
            page,
            nsid,
            specific: 0,
            retain_event: false,
            length,
            offset: LogOffset::Bytes(0),
            identifier: 0,
            command_set: 0,
            uuid_index: 0,
        }
    }

    fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        let [page, specific, numdl_low, numdl_high] = entry.cdw::<10>().to_le_bytes();
        let [numdu_low, numdu_high, lsi_low, lsi_high] = entry.cdw::<11>().to_le_bytes();
        let dwords = u32::from_le_bytes([numdl_low, numdl_high, numdu_low, numdu_high]);
        let offset = entry.cdw_pair::<12>();
        let cdw14 = entry.cdw::<14>();
        let offset = if cdw14 & 1 << 23 != 0 {
            LogOffset::Index(offset)
        } else if offset.is_multiple_of(4) {
            LogOffset::Bytes(offset)
        } else {
            return Err(Status::INVALID_FIELD);
        };
        Ok(Self {
            page: LogId(page),
            nsid: entry.nsid(),
            specific: specific & 0x7F,
            retain_event: specific & 0x80 != 0,
            length: (u64::from(dwords) + 1) * 4,
            offset,
            identifier: u16::from_le_bytes([lsi_low, lsi_high]),
            command_set: cdw14.to_le_bytes()[3],
            uuid_index: uuid_index(entry),
        })
    }

    fn entry(&self) -> SubmissionEntry {
        assert!(self.length.is_multiple_of(4), "a log page is read in dwords");
        let dwords = (self.length / 4).checked_sub(1).and_then(|dwords| u32::try_from(dwords).ok());
        let dwords = dwords.expect("NUMD says 1 to 2^32 dwords");
        let (offset, by_index) = match self.offset {
            LogOffset::Bytes(offset) => (offset, 0),
            LogOffset::Index(offset) => (offset, 1),
        };
        SubmissionEntry::new(opcode::GET_LOG_PAGE)
            .with_nsid(self.nsid)
            .with_cdw::<10>(
                u32::from(self.page.0)
                    | u32::from(self.specific & 0x7F) << 8
                    | u32::from(self.retain_event) << 15
                    | dwords << 16,
            )
            .with_cdw::<11>(dwords >> 16 | u32::from(self.identifier) << 16)
            .with_cdw_pair::<12>(offset)
            .with_cdw::<14>(
                u32::from(self.uuid_index & 0x7F)
                    | by_index << 23
                    | u32::from(self.command_set) << 24,
            )
    }
}

/// Which value of a feature is asked for (5.1.11, SEL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Select {
    /// 000b: the one that counts now.
    Current,
    /// 001b: the one that it has when nothing was set.
    Default,
    /// 010b: the one that outlives a reset.
    Saved,
    /// 011b: not a value but whether it can be saved, changed, and set for a namespace.
    Supported,
}

/// Reads a feature (5.1.11). What is in data and in dword 0 is in [`crate::feature`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetFeatures {
    /// FID: which feature.
    pub feature: FeatureId,
    /// SEL: which of its values.
    pub select: Select,
    /// NSID: of which namespace, where it is of one.
    pub nsid: Nsid,
    /// CDW11: what the feature makes of it.
    pub cdw11: u32,
}

impl GetFeatures {
    fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        let cdw10 = entry.cdw::<10>();
        let select = match cdw10 >> 8 & 0b111 {
            0 => Select::Current,
            1 => Select::Default,
            2 => Select::Saved,
            3 => Select::Supported,
            _ => return Err(Status::INVALID_FIELD),
        };
        Ok(Self {
            feature: FeatureId(cdw10.to_le_bytes()[0]),
            select,
            nsid: entry.nsid(),
            cdw11: entry.cdw::<11>(),
        })
    }

    fn entry(&self) -> SubmissionEntry {
        let select = match self.select {
            Select::Current => 0,
            Select::Default => 1,
            Select::Saved => 2,
            Select::Supported => 3,
        };
        SubmissionEntry::new(opcode::GET_FEATURES)
            .with_nsid(self.nsid)
            .with_cdw::<10>(u32::from(self.feature.0) | select << 8)
            .with_cdw::<11>(self.cdw11)
    }
}

/// Writes a feature (5.1.25). What is in CDW11 to CDW13 and in data is in [`crate::feature`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetFeatures {
    /// FID: which feature.
    pub feature: FeatureId,
    /// SV: the value shall outlive a reset.
    pub save: bool,
    /// NSID: of which namespace, where it is of one.
    pub nsid: Nsid,
    /// CDW11: what the feature makes of it.
    pub cdw11: u32,
    /// CDW12: likewise.
    pub cdw12: u32,
    /// CDW13: likewise.
    pub cdw13: u32,
}

impl SetFeatures {
    /// `cdw11` as the value of a feature of the controller, not saved.
    pub const fn new(feature: FeatureId, cdw11: u32) -> Self {
        Self { feature, save: false, nsid: Nsid::NONE, cdw11, cdw12: 0, cdw13: 0 }
    }

    fn parse(entry: &SubmissionEntry) -> Self {
        let cdw10 = entry.cdw::<10>();
        Self {
            feature: FeatureId(cdw10.to_le_bytes()[0]),
            save: cdw10 & 1 << 31 != 0,
            nsid: entry.nsid(),
            cdw11: entry.cdw::<11>(),
            cdw12: entry.cdw::<12>(),
            cdw13: entry.cdw::<13>(),
        }
    }

    fn entry(&self) -> SubmissionEntry {
        SubmissionEntry::new(opcode::SET_FEATURES)
            .with_nsid(self.nsid)
            .with_cdw::<10>(u32::from(self.feature.0) | u32::from(self.save) << 31)
            .with_cdw::<11>(self.cdw11)
            .with_cdw::<12>(self.cdw12)
            .with_cdw::<13>(self.cdw13)
    }
}

/// Asks to give a command up (5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// SQID: the queue of the command.
    pub qid: Qid,
    /// CID: the command.
    pub cid: Cid,
}

impl Abort {
    fn parse(entry: &SubmissionEntry) -> Self {
        let [qid_low, qid_high, cid_low, cid_high] = entry.cdw::<10>().to_le_bytes();
        Self {
            qid: Qid(u16::from_le_bytes([qid_low, qid_high])),
            cid: Cid(u16::from_le_bytes([cid_low, cid_high])),
        }
    }

    fn entry(&self) -> SubmissionEntry {
        SubmissionEntry::new(opcode::ABORT)
            .with_cdw::<10>(u32::from(self.qid.0) | u32::from(self.cid.0) << 16)
    }

    /// Bit 0 of dword 0 of the answer (IANP): whether the command was not aborted.
    pub const fn result(aborted: bool) -> u64 {
        if aborted { 0 } else { 1 }
    }
}

#[cfg(test)]
mod tests;
