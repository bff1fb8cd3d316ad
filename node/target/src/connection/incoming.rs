//! From bytes to PDUs: what a host sends, part by part.
//!
//! ```text
//!   common header -> rest of the header, its digest -> padding -> data -> data digest -> ...
//! ```
//!
//! - A part is looked at when it is complete; only headers and the data of a few commands are kept
//!   here, both bounded.
//! - Data that nobody wants, because its command has failed already, is thrown away.
//!
//! Source: TCP sections 3.3 and 3.6.2.

use fathom_nvme::{
    SubmissionEntry,
    tcp::{
        ADMIN_CAPSULE_DATA_MAX, Alignment, COMMON_HEADER_SIZE, CapsuleCommand, DIGEST_SIZE,
        DataDigest, Frame, H2cData, IC_SIZE, Inbound, InitializeRequest, InitializeResponse,
        Outbound, PduType, Violation,
    },
};

use super::{Action, Connection, Loss, Slot, Stage, Want, commands::Owner};

/// Room for the longest header that a host sends, with its digest.
const HEADER_ROOM: usize = IC_SIZE + DIGEST_SIZE;

/// Where in a PDU the next byte lies.
pub(super) struct Parse {
    part: Part,
    header: [u8; HEADER_ROOM],
    filled: usize,
    /// Of the data under way, if it has one.
    digest: DataDigest,
    /// The data of a command that is not moved to memory of the driver.
    gathered: Vec<u8>,
}

enum Part {
    CommonHeader,
    Header(Frame),
    Data(Data),
    DataDigest { owner: Owner, expected: u32 },
}

/// Data of a PDU under way.
struct Data {
    owner: Owner,
    /// Bytes in front of it.
    padding: usize,
    left: usize,
    to: Destination,
    has_digest: bool,
}

/// Where data goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination {
    /// To the memory of a slot, from this offset on.
    Memory(Slot, usize),
    /// Here.
    Gathered,
    Nowhere,
}

impl Parse {
    pub(super) fn new() -> Self {
        Self {
            part: Part::CommonHeader,
            header: [0; HEADER_ROOM],
            filled: 0,
            digest: DataDigest::new(),
            gathered: Vec::new(),
        }
    }

    pub(super) fn want(&self) -> Want {
        match self.part {
            Part::Data(Data {
                padding: 0, left, to: Destination::Memory(slot, offset), ..
            }) => Want::Data { slot, offset, length: left },
            _ => Want::Bytes,
        }
    }

    /// Fills the header up to `length` bytes. Returns how many were taken, and whether all are
    /// there.
    fn fill(&mut self, bytes: &[u8], length: usize) -> (usize, bool) {
        let taken = bytes.len().min(length - self.filled);
        self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        (taken, self.filled == length)
    }

    fn next_pdu(&mut self) {
        self.part = Part::CommonHeader;
        self.filled = 0;
    }
}

impl Connection {
    /// Takes bytes of the socket while [`Connection::want`] is [`Want::Bytes`]. Returns how many it
    /// has taken.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.want() == Want::Bytes {
            taken += self.receive_part(&bytes[taken..]);
        }
        taken
    }

    /// `bytes`, which [`Want::Data`] spoke of, have been put into their place.
    ///
    /// # Panics
    ///
    /// When they are more than were wanted, or no data was wanted.
    pub fn received_data(&mut self, bytes: &[u8]) {
        if matches!(self.stage, Stage::Draining | Stage::Ending | Stage::Ended) {
            // It was asked for before the end, and has come after it.
            return;
        }
        let Part::Data(data) = &mut self.parse.part else { panic!("no data was wanted") };
        let Destination::Memory(_, offset) = &mut data.to else { panic!("no data was wanted") };
        assert!(data.padding == 0 && bytes.len() <= data.left, "more data than was wanted");
        *offset += bytes.len();
        data.left -= bytes.len();
        if let Owner::Command(slot) = data.owner {
            self.slots[slot].arrived += u32::try_from(bytes.len()).expect("at most a transfer");
        }
        if data.has_digest {
            self.parse.digest.update(bytes);
        }
        if data.left == 0 {
            self.data_ends();
        }
    }

    /// Takes bytes of one part. Returns how many.
    fn receive_part(&mut self, bytes: &[u8]) -> usize {
        match &mut self.parse.part {
            Part::CommonHeader => {
                let (taken, whole) = self.parse.fill(bytes, COMMON_HEADER_SIZE);
                if whole {
                    self.begin_pdu();
                }
                taken
            }
            Part::Header(frame) => {
                let frame = *frame;
                let (taken, whole) = self.parse.fill(bytes, frame.header_end());
                if whole {
                    self.end_header(frame);
                }
                taken
            }
            Part::Data(data) if data.padding > 0 => {
                let taken = bytes.len().min(data.padding);
                data.padding -= taken;
                taken
            }
            Part::Data(data) => {
                let taken = bytes.len().min(data.left);
                data.left -= taken;
                if data.has_digest {
                    self.parse.digest.update(&bytes[..taken]);
                }
                let whole = data.left == 0;
                if matches!(data.to, Destination::Gathered) {
                    self.parse.gathered.extend_from_slice(&bytes[..taken]);
                }
                if whole {
                    self.data_ends();
                }
                taken
            }
            Part::DataDigest { owner, expected } => {
                let (owner, expected) = (*owner, *expected);
                let (taken, whole) = self.parse.fill(bytes, DIGEST_SIZE);
                if whole {
                    let received = self.parse.header.first_chunk().expect("a digest has 4 bytes");
                    let intact = u32::from_le_bytes(*received) == expected;
                    self.parse.next_pdu();
                    self.data_arrived(owner, intact);
                }
                taken
            }
        }
    }

    fn begin_pdu(&mut self) {
        let common = self.parse.header.first_chunk().expect("the header has room for it");
        match self.inbound.frame(common) {
            Ok(frame) => {
                if let Err(violation) = self.check_sequence(frame.kind()) {
                    let header = self.parse.header;
                    return self.violated(violation, &header[..COMMON_HEADER_SIZE]);
                }
                self.parse.part = Part::Header(frame);
                if frame.header_end() == COMMON_HEADER_SIZE {
                    self.end_header(frame);
                }
            }
            Err(violation) => {
                let header = self.parse.header;
                self.violated(violation, &header[..COMMON_HEADER_SIZE]);
            }
        }
    }

    /// Whether a PDU of this type may come now.
    fn check_sequence(&self, kind: PduType) -> Result<(), Violation> {
        let allowed = match kind {
            PduType::InitializeRequest => self.stage == Stage::New,
            PduType::H2cTerminate => true,
            PduType::CapsuleCommand => self.stage != Stage::New,
            PduType::H2cData => self.stage == Stage::Live,
            _ => false,
        };
        if allowed { Ok(()) } else { Err(Violation::Sequence(kind)) }
    }

    fn end_header(&mut self, frame: Frame) {
        let buffer = self.parse.header;
        let header = &buffer[..frame.header_end()];
        let handled = frame.check_header(header).and_then(|()| match frame.kind() {
            PduType::InitializeRequest => self.initialize(header),
            PduType::CapsuleCommand => {
                let entry = *CapsuleCommand::view(&frame, header);
                self.capsule(&frame, &entry)
            }
            PduType::H2cData => self.h2c_data(&frame, header),
            PduType::H2cTerminate => {
                self.lose(Loss::TerminatedByHost);
                Ok(())
            }
            _ => Err(Violation::Sequence(frame.kind())),
        });
        if let Err(violation) = handled {
            self.violated(violation, header);
        }
    }

    fn initialize(&mut self, header: &[u8]) -> Result<(), Violation> {
        let pdu = header.first_chunk().expect("the frame of this type has 128 bytes");
        let request = InitializeRequest::decode(pdu)?;
        let response = InitializeResponse {
            alignment: Alignment::NONE,
            digests: request.digests,
            max_h2c_data: self.limits.h2c_data_bytes_max,
        };
        self.inbound = Inbound {
            digests: request.digests,
            capsule_data_max: ADMIN_CAPSULE_DATA_MAX,
            data_max: self.limits.h2c_data_bytes_max,
            ..self.inbound
        };
        self.outbound = Outbound { digests: request.digests, alignment: request.alignment };
        self.actions.push_back(Action::SendBytes(response.encode().to_vec()));
        self.stage = Stage::Initialized;
        self.parse.next_pdu();
        Ok(())
    }

    /// A command capsule whose header is complete.
    fn capsule(&mut self, frame: &Frame, entry: &SubmissionEntry) -> Result<(), Violation> {
        let (owner, to) = self.begin_command(entry, frame.data_length())?;
        self.expect_data(frame, owner, to);
        Ok(())
    }

    fn h2c_data(&mut self, frame: &Frame, header: &[u8]) -> Result<(), Violation> {
        let pdu = H2cData::decode(frame, header)?;
        let (owner, to) = self.begin_transfer(&pdu)?;
        self.expect_data(frame, owner, to);
        Ok(())
    }

    /// The data of a PDU comes next, if it has any.
    fn expect_data(&mut self, frame: &Frame, owner: Owner, to: Destination) {
        if matches!(self.stage, Stage::Ending | Stage::Ended) {
            return;
        }
        self.parse.gathered.clear();
        if frame.data_length() == 0 {
            self.parse.next_pdu();
            return self.data_arrived(owner, true);
        }
        self.parse.part = Part::Data(Data {
            owner,
            padding: frame.data_offset() - frame.header_end(),
            left: frame.data_length() as usize,
            to,
            has_digest: frame.has_data_digest(),
        });
        if frame.has_data_digest() {
            self.parse.digest = DataDigest::new();
        }
    }

    fn data_ends(&mut self) {
        let Part::Data(data) = &self.parse.part else { unreachable!("data has just come") };
        let owner = data.owner;
        if data.has_digest {
            let expected = self.parse.digest.value();
            self.parse.filled = 0;
            self.parse.part = Part::DataDigest { owner, expected };
        } else {
            self.parse.next_pdu();
            self.data_arrived(owner, true);
        }
    }

    /// The data that was gathered.
    pub(super) fn take_gathered(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.parse.gathered)
    }
}
