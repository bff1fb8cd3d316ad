//! One queue pair and its connection: PDUs in, PDUs out, and the commands under way.
//!
//! Before: bytes from the driver, commands from [`crate::host`]. Next: what the bytes mean for the
//! commands ([`Input`]), and what is to be sent ([`Outgoing`]).
//! Source: TCP sections 3.3.2, 3.5 and 3.6.2.
//!
//! - A command's data is taken in order and in full, and never beyond its buffer. An answer to a
//!   command that is not under way, or data that nobody asked for, is a violation.
//! - A command identifier is a slot and a count of the slot's uses, so that a late answer to an
//!   earlier use is found out.
//! - At most one R2T of a command is under way, as the ICReq says, so what is to be sent is
//!   bounded by the number of slots.
//! - No data is copied here, and none is kept: digests are computed as it goes by.

use std::{collections::VecDeque, mem};

use fathom_nvme::{
    Completion, SglDescriptor, Status, SubmissionEntry,
    tcp::{
        C2hData, COMMON_HEADER_SIZE, CapsuleCommand, CapsuleResponse, DIGEST_SIZE, DataDigest,
        Digests, Frame, H2cData, HEADER_MAX, HeaderBuffer, IC_SIZE, Inbound, InitializeRequest,
        InitializeResponse, Outbound, PduType, R2t, Receiver, TERMINATE_MAX, TerminateRequest,
        Violation,
    },
};
use fathom_units::{Cid, Monotonic, Qid};

use crate::{
    config::{Config, IO_QUEUE_ENTRIES_MAX},
    error::Error,
};

/// How many bits of a command identifier are its slot.
const SLOT_BITS: u32 = IO_QUEUE_ENTRIES_MAX.ilog2();
const SLOT_MASK: u16 = (1 << SLOT_BITS) - 1;
/// How many R2Ts of one command the host allows: MAXR2T.
const R2T_MAX: u64 = 1;
/// The most data of one C2HData that is taken, in bytes: no command asks for more.
const C2H_DATA_MAX: u32 = u32::MAX;

/// In which direction the data of a command goes, and how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DataTransfer {
    /// There is none.
    None,
    /// To the host.
    In(u32),
    /// To the controller.
    Out(u32),
}

/// A command under way.
struct Flight<T> {
    token: T,
    transfer: DataTransfer,
    /// Bytes that have come, or that the controller has asked for.
    moved: u32,
    /// An R2T that is not all handed out yet.
    r2t: Option<R2t>,
    /// LAST_PDU has come.
    last: bool,
    /// Data came with a wrong digest.
    damaged: bool,
    /// When it was sent; none of a command that may wait forever.
    since: Option<Monotonic>,
    entry: SubmissionEntry,
}

struct Slot<T> {
    uses: u16,
    flight: Option<Flight<T>>,
}

/// What has come.
pub(crate) enum Input<'a, T> {
    /// Nothing that concerns anybody yet.
    Nothing,
    /// The connection has been initialized: commands can be sent.
    Initialized,
    /// Data of a command, to be put there.
    Data { token: T, offset: u32, bytes: &'a [u8] },
    /// A command has ended.
    Completed { token: T, completion: Completion },
}

/// What is to be sent next.
pub(crate) enum Outgoing<T> {
    /// A PDU without data.
    Header(HeaderBuffer, usize),
    /// A PDU with data of a command, from this offset on.
    Data { header: HeaderBuffer, header_length: usize, token: T, offset: u32, length: u32 },
    /// The last PDU of the connection.
    Terminate([u8; TERMINATE_MAX], usize),
}

#[derive(Clone, Copy)]
enum Item {
    Command(Cid),
    Data(Cid),
}

/// Where in a PDU the next byte belongs.
enum Position {
    /// In the header; the frame is known once the common header is there.
    Header { have: usize, frame: Option<Frame> },
    /// In the padding.
    Padding { left: usize, data: C2hData, digest: bool },
    /// In the data.
    Data { cid: Cid, offset: u32, left: u32, last: C2hData, digest: Option<DataDigest> },
    /// In the data digest.
    Digest { have: usize, bytes: [u8; DIGEST_SIZE], data: C2hData, digest: DataDigest },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The ICReq is to be sent.
    Opened,
    /// The ICResp has to come.
    Initializing,
    /// Commands can be sent.
    Open,
}

/// One queue pair and its connection.
pub(crate) struct Queue<T> {
    qid: Qid,
    phase: Phase,
    requested: InitializeRequest,
    inbound: Inbound,
    outbound: Outbound,
    max_h2c_data: u32,
    /// The most in-capsule data, in bytes.
    capsule_data_max: u32,
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    position: Position,
    header: [u8; TERMINATE_MAX],
    items: VecDeque<Item>,
    /// A completion that SUCCESS of the data before has given.
    success: Option<Cid>,
    terminate: Option<([u8; TERMINATE_MAX], usize)>,
    /// The driver has much to send.
    is_paused: bool,
}

impl<T: Copy> Queue<T> {
    /// A queue with so many entries, of which one less can be under way, on a connection that has
    /// been opened.
    pub(crate) fn new(qid: Qid, entries: u32, capsule_data_max: u32, config: &Config) -> Self {
        let under_way = u16::try_from(entries - 1).expect("at most 1024 entries");
        Self {
            qid,
            phase: Phase::Opened,
            requested: InitializeRequest {
                alignment: config.alignment,
                digests: config.digests,
                r2t_max: R2T_MAX,
            },
            inbound: Inbound::before_initialize(Receiver::Host),
            outbound: Outbound {
                digests: Digests::default(),
                alignment: fathom_nvme::tcp::Alignment::NONE,
            },
            max_h2c_data: 0,
            capsule_data_max,
            slots: (0..under_way).map(|_| Slot { uses: 0, flight: None }).collect(),
            free: (0..under_way).rev().collect(),
            position: Position::Header { have: 0, frame: None },
            header: [0; TERMINATE_MAX],
            items: VecDeque::new(),
            success: None,
            terminate: None,
            is_paused: false,
        }
    }

    /// Whether a command can be begun now.
    pub(crate) fn has_room(&self) -> bool {
        self.phase == Phase::Open && !self.free.is_empty()
    }

    /// How many commands can be begun now.
    pub(crate) fn room(&self) -> usize {
        if self.phase == Phase::Open { self.free.len() } else { 0 }
    }

    /// Begins a command: gives it an identifier, says where its data is, and notes that it is to
    /// be sent. `since` is now, or none for a command that may wait forever.
    ///
    /// # Panics
    ///
    /// When there is no room.
    pub(crate) fn begin(
        &mut self,
        token: T,
        entry: SubmissionEntry,
        transfer: DataTransfer,
        since: Option<Monotonic>,
    ) {
        assert!(self.has_room(), "a command is begun only when there is room");
        let number = self.free.pop().expect("just checked");
        let slot = &mut self.slots[usize::from(number)];
        slot.uses = slot.uses.wrapping_add(1);
        let cid = Cid(number | slot.uses << SLOT_BITS);
        let sgl = match transfer {
            DataTransfer::None => SglDescriptor::NONE,
            DataTransfer::In(length) => SglDescriptor::transport(length),
            DataTransfer::Out(length) if length <= self.capsule_data_max => {
                SglDescriptor::in_capsule(length)
            }
            DataTransfer::Out(length) => SglDescriptor::transport(length),
        };
        let entry = entry.with_cid(cid).with_sgl(sgl);
        slot.flight = Some(Flight {
            token,
            transfer,
            moved: 0,
            r2t: None,
            last: false,
            damaged: false,
            since,
            entry,
        });
        self.items.push_back(Item::Command(cid));
    }

    /// Every command under way, which is forgotten with it.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = T> {
        let slots = mem::take(&mut self.slots);
        self.free.clear();
        self.items.clear();
        slots.into_iter().filter_map(|slot| slot.flight.map(|flight| flight.token))
    }

    /// Whether a command has been under way since `limit` or longer.
    pub(crate) fn has_late(&self, limit: Monotonic) -> bool {
        let flights = self.slots.iter().filter_map(|slot| slot.flight.as_ref());
        flights.filter_map(|flight| flight.since).any(|since| since <= limit)
    }

    // Sending.

    /// Whether the driver has much to send, and does not want more.
    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(crate) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// What is to be sent next, if anything is.
    pub(crate) fn next(&mut self) -> Option<Outgoing<T>> {
        if self.phase == Phase::Opened {
            self.phase = Phase::Initializing;
            let mut header = [0; HEADER_MAX];
            header[..IC_SIZE].copy_from_slice(&self.requested.encode());
            return Some(Outgoing::Header(header, IC_SIZE));
        }
        while let Some(item) = self.items.front().copied() {
            let outgoing = match item {
                Item::Command(cid) => {
                    self.items.pop_front();
                    self.command(cid)
                }
                Item::Data(cid) => self.data(cid),
            };
            if outgoing.is_some() {
                return outgoing;
            }
        }
        None
    }

    fn command(&mut self, cid: Cid) -> Option<Outgoing<T>> {
        let flight = self.slots[slot_of(cid)].flight.as_mut()?;
        let in_capsule = match flight.transfer {
            DataTransfer::Out(length) if length <= self.capsule_data_max => length,
            _ => 0,
        };
        flight.moved += in_capsule;
        let (token, entry) = (flight.token, flight.entry);
        let mut header = [0; HEADER_MAX];
        let header_length = CapsuleCommand::encode(&entry, in_capsule, &self.outbound, &mut header);
        Some(match in_capsule {
            0 => Outgoing::Header(header, header_length),
            length => Outgoing::Data { header, header_length, token, offset: 0, length },
        })
    }

    /// The next H2CData of an R2T. With the last one, the item is gone.
    fn data(&mut self, cid: Cid) -> Option<Outgoing<T>> {
        let is_under_way = |flight: &&mut Flight<T>| flight.entry.cid() == cid;
        let flight = self.slots[slot_of(cid)].flight.as_mut().filter(is_under_way);
        let Some((flight, r2t)) = flight
            .and_then(|flight| Some((flight.r2t?, flight)))
            .map(|(r2t, flight)| (flight, r2t))
        else {
            // The command has ended meanwhile, with an error.
            self.items.pop_front();
            return None;
        };
        let length = r2t.length.min(self.max_h2c_data);
        let last = length == r2t.length;
        flight.r2t = (!last).then_some(R2t {
            offset: r2t.offset + length,
            length: r2t.length - length,
            ..r2t
        });
        let token = flight.token;
        if last {
            self.items.pop_front();
        }
        let data =
            H2cData { cid, transfer_tag: r2t.transfer_tag, offset: r2t.offset, length, last };
        let mut header = [0; HEADER_MAX];
        let header_length = data.encode(&self.outbound, &mut header);
        Some(Outgoing::Data { header, header_length, token, offset: r2t.offset, length })
    }

    /// What a violation makes the host say before it closes the connection.
    pub(crate) fn last_words(&mut self) -> Option<Outgoing<T>> {
        self.terminate.take().map(|(pdu, length)| Outgoing::Terminate(pdu, length))
    }

    /// Whether data goes with a digest behind it.
    pub(crate) fn has_data_digest(&self) -> bool {
        self.outbound.digests.data
    }

    // Receiving.

    /// Takes bytes up to the next thing that concerns somebody. The bytes behind it are to be given
    /// again, also when there are none left, until the answer is [`Input::Nothing`].
    ///
    /// # Errors
    ///
    /// Why the association has to end.
    pub(crate) fn receive<'a>(
        &mut self,
        mut bytes: &'a [u8],
    ) -> Result<(Input<'a, T>, &'a [u8]), Error> {
        if let Some(cid) = self.success.take() {
            let input = self.complete(&Completion::success(cid))?;
            return Ok((input, bytes));
        }
        while !bytes.is_empty() {
            match &mut self.position {
                Position::Header { .. } => {
                    let (input, rest) = self.receive_header(bytes)?;
                    bytes = rest;
                    if let Some(input) = input {
                        return Ok((input, bytes));
                    }
                }
                Position::Padding { left, .. } => {
                    let skipped = bytes.len().min(*left);
                    bytes = &bytes[skipped..];
                    *left -= skipped;
                    if *left == 0 {
                        self.begin_data();
                    }
                }
                Position::Data { .. } => {
                    let (input, rest) = self.receive_data(bytes);
                    return Ok((input, rest));
                }
                Position::Digest { .. } => {
                    bytes = self.receive_digest(bytes);
                    if let Some(cid) = self.success.take() {
                        let input = self.complete(&Completion::success(cid))?;
                        return Ok((input, bytes));
                    }
                }
            }
        }
        Ok((Input::Nothing, bytes))
    }

    /// Gathers the header and looks at it once it is complete.
    fn receive_header<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<(Option<Input<'a, T>>, &'a [u8]), Error> {
        let Position::Header { have, frame } = &mut self.position else {
            unreachable!("only called in a header")
        };
        let need = match frame {
            None => COMMON_HEADER_SIZE,
            Some(frame) => header_bytes(frame),
        };
        let taken = bytes.len().min(need - *have);
        self.header[*have..*have + taken].copy_from_slice(&bytes[..taken]);
        *have += taken;
        let rest = &bytes[taken..];
        if *have < need {
            return Ok((None, rest));
        }
        let Some(frame) = *frame else {
            let common = self.header.first_chunk().expect("152 bytes");
            let found = self.inbound.frame(common);
            let found = found.map_err(|violation| self.violate(violation, COMMON_HEADER_SIZE))?;
            self.position = Position::Header { have: need, frame: Some(found) };
            // No PDU ends with its common header.
            return Ok((None, rest));
        };
        self.position = Position::Header { have: 0, frame: None };
        let header = self.header;
        let length = frame.header_length();
        frame.check_header(&header).map_err(|violation| self.violate(violation, length))?;
        let input = self.handle(&frame, &header)?;
        Ok((input, rest))
    }

    /// Ends the connection for a violation, whose header has `length` bytes.
    fn violate(&mut self, violation: Violation, length: usize) -> Error {
        let mut pdu = [0; TERMINATE_MAX];
        let header = &self.header[..length.min(self.header.len())];
        let pdu_length = violation.terminate().encode(Receiver::Controller, header, &mut pdu);
        self.terminate = Some((pdu, pdu_length));
        Error::Violation { queue: self.qid, violation }
    }

    fn handle<'a>(
        &mut self,
        frame: &Frame,
        header: &[u8; TERMINATE_MAX],
    ) -> Result<Option<Input<'a, T>>, Error> {
        let kind = frame.kind();
        let length = frame.header_length();
        let is_initialize = kind == PduType::InitializeResponse;
        let is_in_order = match self.phase {
            _ if kind == PduType::C2hTerminate => true,
            Phase::Opened => false,
            Phase::Initializing => is_initialize,
            Phase::Open => !is_initialize,
        };
        if !is_in_order {
            return Err(self.violate(Violation::Sequence(kind), length));
        }
        match kind {
            PduType::InitializeResponse => self.initialized(header).map(Some),
            PduType::C2hTerminate => {
                let end = TerminateRequest::decode(frame, header);
                Err(Error::Terminated {
                    queue: self.qid,
                    status: end.status,
                    information: end.information,
                })
            }
            PduType::CapsuleResponse => {
                let completion = CapsuleResponse::decode(frame, header);
                self.complete(&completion).map(Some)
            }
            PduType::C2hData => {
                let data = C2hData::decode(frame, header)
                    .and_then(|data| self.expect_data(&data).map(|()| data))
                    .map_err(|violation| self.violate(violation, length))?;
                let left = frame.data_offset() - frame.header_end();
                let digest = frame.has_data_digest();
                self.position = Position::Padding { left, data, digest };
                if left == 0 {
                    self.begin_data();
                }
                Ok(None)
            }
            PduType::R2t => {
                R2t::decode(frame, header)
                    .and_then(|r2t| self.ready_to_transfer(r2t))
                    .map_err(|violation| self.violate(violation, length))?;
                Ok(None)
            }
            PduType::InitializeRequest
            | PduType::H2cTerminate
            | PduType::CapsuleCommand
            | PduType::H2cData => unreachable!("the frame is one for a host"),
        }
    }

    fn initialized<'a>(&mut self, header: &[u8; TERMINATE_MAX]) -> Result<Input<'a, T>, Error> {
        let pdu = header.first_chunk().expect("152 bytes");
        let response = InitializeResponse::decode(pdu, self.requested.digests);
        let response = response.map_err(|violation| self.violate(violation, IC_SIZE))?;
        if response.digests != self.requested.digests {
            return Err(Error::DigestsNotGranted);
        }
        self.inbound = Inbound {
            receiver: Receiver::Host,
            digests: response.digests,
            alignment: self.requested.alignment,
            capsule_data_max: 0,
            data_max: C2H_DATA_MAX,
        };
        self.outbound = Outbound { digests: response.digests, alignment: response.alignment };
        self.max_h2c_data = response.max_h2c_data;
        self.phase = Phase::Open;
        Ok(Input::Initialized)
    }

    /// The command under way that an identifier names.
    fn flight(&mut self, cid: Cid) -> Option<&mut Flight<T>> {
        let flight = self.slots.get_mut(slot_of(cid))?.flight.as_mut()?;
        (flight.entry.cid() == cid).then_some(flight)
    }

    /// Whether data may come as it is announced.
    fn expect_data(&mut self, data: &C2hData) -> Result<(), Violation> {
        const KIND: PduType = PduType::C2hData;
        let flight = self.flight(data.cid).ok_or(Violation::CommandId(KIND))?;
        let DataTransfer::In(total) = flight.transfer else {
            return Err(Violation::Sequence(KIND));
        };
        if flight.last || data.offset != flight.moved {
            return Err(Violation::Sequence(KIND));
        }
        if data.length > total - flight.moved {
            return Err(Violation::OutOfRange(KIND));
        }
        flight.moved += data.length;
        flight.last = data.last;
        Ok(())
    }

    fn begin_data(&mut self) {
        let Position::Padding { data, digest, .. } = self.position else {
            unreachable!("data begins behind the padding")
        };
        self.position = Position::Data {
            cid: data.cid,
            offset: data.offset,
            left: data.length,
            last: data,
            digest: digest.then(DataDigest::new),
        };
    }

    fn receive_data<'a>(&mut self, bytes: &'a [u8]) -> (Input<'a, T>, &'a [u8]) {
        let Position::Data { cid, offset, left, last, digest } = &mut self.position else {
            unreachable!("only called in data")
        };
        let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(*left);
        let (now, rest) = bytes.split_at(taken as usize);
        let at = *offset;
        *offset += taken;
        *left -= taken;
        if let Some(digest) = digest {
            digest.update(now);
        }
        let (cid, data) = (*cid, *last);
        if *left == 0 {
            match *digest {
                Some(digest) => {
                    let bytes = [0; DIGEST_SIZE];
                    self.position = Position::Digest { have: 0, bytes, data, digest };
                }
                None => self.end_data(data, false),
            }
        }
        let flight = self.flight(cid).expect("checked when the data was announced");
        (Input::Data { token: flight.token, offset: at, bytes: now }, rest)
    }

    fn receive_digest<'a>(&mut self, received: &'a [u8]) -> &'a [u8] {
        let Position::Digest { have, bytes, data, digest } = &mut self.position else {
            unreachable!("only called in a digest")
        };
        let taken = received.len().min(DIGEST_SIZE - *have);
        bytes[*have..*have + taken].copy_from_slice(&received[..taken]);
        *have += taken;
        if *have == DIGEST_SIZE {
            let (data, damaged) = (*data, *bytes != digest.to_bytes());
            self.end_data(data, damaged);
        }
        &received[taken..]
    }

    /// All data of a PDU has come.
    fn end_data(&mut self, data: C2hData, damaged: bool) {
        self.position = Position::Header { have: 0, frame: None };
        let flight = self.flight(data.cid).expect("it cannot end before its data");
        flight.damaged |= damaged;
        if data.success {
            self.success = Some(data.cid);
        }
    }

    /// Notes what the controller asks for.
    fn ready_to_transfer(&mut self, r2t: R2t) -> Result<(), Violation> {
        const KIND: PduType = PduType::R2t;
        let flight = self.flight(r2t.cid).ok_or(Violation::CommandId(KIND))?;
        let DataTransfer::Out(total) = flight.transfer else {
            return Err(Violation::Sequence(KIND));
        };
        if flight.r2t.is_some() {
            return Err(Violation::R2tLimit);
        }
        if r2t.offset != flight.moved {
            return Err(Violation::Sequence(KIND));
        }
        if r2t.length > total - flight.moved {
            return Err(Violation::OutOfRange(KIND));
        }
        flight.moved += r2t.length;
        flight.r2t = Some(r2t);
        self.items.push_back(Item::Data(r2t.cid));
        Ok(())
    }

    /// Ends a command.
    fn complete<'a>(&mut self, completion: &Completion) -> Result<Input<'a, T>, Error> {
        let cid = completion.cid;
        let Some(flight) = self.flight(cid) else {
            let violation = Violation::CommandId(PduType::CapsuleResponse);
            return Err(self.violate(violation, PduType::CapsuleResponse.header_length().into()));
        };
        let mut completion = *completion;
        if completion.status.is_success() {
            let all = match flight.transfer {
                DataTransfer::None => true,
                DataTransfer::In(total) => flight.moved == total,
                DataTransfer::Out(total) => flight.moved == total && flight.r2t.is_none(),
            };
            if !all {
                return Err(Error::MissingData(self.qid));
            }
            if flight.damaged {
                completion.status = Status::TRANSIENT_TRANSPORT_ERROR;
            }
        }
        let token = flight.token;
        self.slots[slot_of(cid)].flight = None;
        self.free.push(cid.0 & SLOT_MASK);
        Ok(Input::Completed { token, completion })
    }
}

fn slot_of(cid: Cid) -> usize {
    usize::from(cid.0 & SLOT_MASK)
}

/// How many bytes of a PDU are gathered before it is looked at: its header, and all of a
/// terminating PDU, which is short.
fn header_bytes(frame: &Frame) -> usize {
    match frame.kind() {
        PduType::C2hTerminate => frame.length(),
        _ => frame.header_end(),
    }
}
