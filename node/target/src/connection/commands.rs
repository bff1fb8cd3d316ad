//! Commands: from a capsule to requests to a device, or to a question to the target.
//!
//! ```text
//!   capsule --> plan --> Memory --> Data --> Ready --> Device --> answer
//!                 |                   ^        |
//!                 |          R2T -----'        '--> Target --> answer
//!                 '-- refused: its data is thrown away --> answer
//! ```
//!
//! - A command that cannot be done is answered when all of its data has come.
//! - The two commands of a fused operation are one request to the device, whose memory, the first
//!   one's, holds the data of both.
//! - A Dataset Management command is one request for each of its ranges, a few at a time.
//!
//! Sources: TCP section 3.3.2; Base sections 3.4.2 and 6; NVM section 3.3.

use std::ops::RangeInclusive;

use fathom_block::{Error, Operation, Request, RequestId};
use fathom_nvme::{
    Status, SubmissionEntry, admin,
    fabrics::{self, CONNECT_DATA_SIZE, Connect, ConnectData, FabricsCommand},
    nvm::{Control, NvmCommand, Transfer},
    sgl::DataPointer,
    submission::Fuse,
    tcp::{H2cData, PduType, Violation},
};
use fathom_units::{BlockCount, Cid, Lba};

use super::{
    Action, AdminRequest, Answer, ConnectRequest, Connection, Loss, Slot, Stage,
    dataset::{DATASET_BYTES_MAX, Dataset},
    incoming::Destination,
};
use crate::{
    export::{self, DeviceId},
    status,
};

/// Whose data a PDU carries.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    /// A Connect's.
    Connect(Cid, Connect),
    /// A command's that has a slot.
    Command(Slot),
    /// A command's that is answered with this when the data is gone.
    Refused(Cid, Status),
}

/// A command under way.
pub(super) struct Command {
    pub(super) cid: Cid,
    work: Work,
    /// Its data in bytes, in either direction; of a command for the target, the room that the host
    /// has for an answer.
    bytes: u32,
    /// How much of it the host has sent, as the headers of PDUs say it.
    received: u32,
    /// How much of that has come into the memory of the driver.
    pub(super) arrived: u32,
    pub(super) state: State,
    /// Why it fails, if it does.
    pub(super) status: Status,
    pub(super) pair: Pair,
}

enum Work {
    /// `now`, and then, when that has succeeded, `then`.
    Device {
        device: DeviceId,
        now: Operation,
        then: Option<Operation>,
        lba: Lba,
        blocks: BlockCount,
    },
    Dataset(Box<Dataset>),
    /// A question to the target.
    Target(SubmissionEntry),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Its memory is wanted.
    Memory,
    /// Its data comes in the capsule.
    Capsule,
    /// Its data comes in answer to an R2T.
    Transfer,
    /// It waits for the other command of its fused operation.
    Ready,
    /// It is at a device, or at the target.
    Away,
}

/// The other command of a fused operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pair {
    None,
    First { second: Option<Slot> },
    Second { first: Slot },
}

/// Whether the second command of a fused operation has to come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fused {
    None,
    First(Slot),
    /// The first one has been refused.
    FirstRefused,
}

/// Where the data of a command comes from or goes to.
#[derive(Clone, Copy)]
enum Data {
    None,
    FromCapsule,
    FromHost,
    ToHost,
}

impl Connection {
    // Capsules.

    /// A command has come, with `capsule_bytes` of data in its capsule. Returns whose that data is
    /// and where it belongs.
    pub(super) fn begin_command(
        &mut self,
        entry: &SubmissionEntry,
        capsule_bytes: u32,
    ) -> Result<(Owner, Destination), Violation> {
        self.queue.head = (self.queue.head + 1) % self.queue.entries;
        let cid = entry.cid();
        match self.plan(entry, capsule_bytes) {
            Ok(planned) => Ok(planned),
            Err(Refused::Command(status)) => {
                Ok((Owner::Refused(cid, status), Destination::Nowhere))
            }
            Err(Refused::Capsule) => Err(Violation::Sequence(PduType::CapsuleCommand)),
        }
    }

    fn plan(
        &mut self,
        entry: &SubmissionEntry,
        capsule_bytes: u32,
    ) -> Result<(Owner, Destination), Refused> {
        entry.check_psdt().map_err(Status::do_not_retry)?;
        if self.stage == Stage::Initialized {
            let connect = plan_connect(entry, capsule_bytes)?;
            return Ok((Owner::Connect(entry.cid(), connect), Destination::Gathered));
        }
        if entry.opcode() == fabrics::OPCODE || self.queue.qid.is_admin() {
            return self.plan_question(entry, capsule_bytes);
        }
        self.plan_io(entry, capsule_bytes)
    }

    /// Gives a command its slot.
    fn take_slot(&mut self, command: Command) -> Result<Slot, Refused> {
        self.slots.take(command).ok_or(Refused::Capsule)
    }

    /// A command for the target: of the admin queue, or a Fabrics command.
    fn plan_question(
        &mut self,
        entry: &SubmissionEntry,
        capsule_bytes: u32,
    ) -> Result<(Owner, Destination), Refused> {
        let room = match entry.sgl().data_pointer().map_err(Status::do_not_retry)? {
            DataPointer::InCapsule { offset, length } => {
                check_capsule(offset, length, capsule_bytes)?;
                0
            }
            DataPointer::Transport { .. } if capsule_bytes > 0 => {
                return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry().into());
            }
            DataPointer::Transport { length } => length,
        };
        let slot = self.take_slot(Command {
            cid: entry.cid(),
            work: Work::Target(*entry),
            bytes: room,
            received: capsule_bytes,
            arrived: 0,
            state: State::Capsule,
            status: Status::SUCCESS,
            pair: Pair::None,
        })?;
        Ok((Owner::Command(slot), Destination::Gathered))
    }

    /// A command of an I/O queue.
    fn plan_io(
        &mut self,
        entry: &SubmissionEntry,
        capsule_bytes: u32,
    ) -> Result<(Owner, Destination), Refused> {
        let expected = core::mem::replace(&mut self.fused, Fused::None);
        let planned = entry.fuse().and_then(|fuse| {
            let (work, bytes, data) = self.plan_work(entry, capsule_bytes)?;
            let pair = self.plan_pair(fuse, expected, &work, bytes)?;
            Ok((work, bytes, data, pair))
        });
        let (work, bytes, data, pair) = match planned {
            Ok(planned) => planned,
            Err(status) => {
                match entry.fuse() {
                    Ok(Fuse::Second) => self.break_pair(expected, Status::ABORTED_FAILED_FUSED),
                    _ => self.break_pair(expected, Status::ABORTED_MISSING_FUSED),
                }
                if entry.fuse() == Ok(Fuse::First) {
                    self.fused = Fused::FirstRefused;
                }
                return Err(status.do_not_retry().into());
            }
        };
        if !matches!(pair, Pair::Second { .. }) {
            self.break_pair(expected, Status::ABORTED_MISSING_FUSED);
        }
        let is_dataset = matches!(work, Work::Dataset(_));
        let in_capsule = matches!(data, Data::FromCapsule);
        let slot = self.take_slot(Command {
            cid: entry.cid(),
            work,
            bytes,
            received: if in_capsule { bytes } else { 0 },
            arrived: 0,
            state: if in_capsule { State::Capsule } else { State::Transfer },
            status: Status::SUCCESS,
            pair,
        })?;
        let to = match pair {
            _ if is_dataset => Destination::Gathered,
            Pair::None | Pair::First { .. } => Destination::Memory(slot, 0),
            Pair::Second { first } => {
                self.slots[first].pair = Pair::First { second: Some(slot) };
                Destination::Memory(first, bytes as usize)
            }
        };
        match (data, pair) {
            (Data::None, _) => {}
            (_, Pair::Second { first }) => self.begin_second(first, slot, data),
            (Data::FromHost, _) if is_dataset => self.ask_for_data(slot),
            _ if is_dataset => {}
            _ => {
                if matches!(pair, Pair::First { .. }) {
                    self.fused = Fused::First(slot);
                }
                let halves = if matches!(pair, Pair::First { .. }) { 2 } else { 1 };
                let wanted = (slot, halves * bytes as usize);
                match data {
                    Data::FromCapsule => self.capsule_memory = Some(wanted),
                    _ => self.memory_wanted.push_back(wanted),
                }
                self.slots[slot].state = State::Memory;
            }
        }
        Ok((Owner::Command(slot), to))
    }

    /// The data of a second command goes behind that of the first one, which may have no memory yet.
    fn begin_second(&mut self, first: Slot, second: Slot, data: Data) {
        let waits = self.slots[first].state == State::Memory;
        if matches!(data, Data::FromCapsule) {
            self.awaited.begin(second);
        }
        match data {
            Data::FromCapsule if waits => {
                let at = self.memory_wanted.iter().position(|(slot, _)| *slot == first);
                let at = at.expect("a command that waits for memory is in the queue");
                self.capsule_memory = self.memory_wanted.remove(at);
            }
            Data::FromHost if waits => self.slots[second].state = State::Memory,
            Data::FromHost => self.ask_for_data(second),
            _ => {}
        }
    }

    /// What a command of an I/O queue asks for, how many bytes go with it, and how.
    fn plan_work(
        &self,
        entry: &SubmissionEntry,
        capsule_bytes: u32,
    ) -> Result<(Work, u32, Data), Status> {
        let namespace = export::find(&self.queue.namespaces, entry.nsid());
        let namespace = namespace.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
        let (device, shift) = (namespace.device, namespace.block_shift);
        let command = NvmCommand::parse(entry)?;
        let work = |now, then, lba, blocks| Work::Device { device, now, then, lba, blocks };
        let (work, bytes) = match command {
            NvmCommand::Flush => (work(Operation::Flush, None, Lba(0), BlockCount(0)), 0),
            NvmCommand::Read(read) => {
                let (lba, blocks, bytes) = self.plan_transfer(&read, shift)?;
                // What is read is to be on stable media (NVM 3.3.4, FUA).
                let steps = match read.control.contains(Control::FORCE_UNIT_ACCESS) {
                    true if namespace.write_cache => (Operation::Flush, Some(Operation::Read)),
                    _ => (Operation::Read, None),
                };
                (work(steps.0, steps.1, lba, blocks), bytes)
            }
            NvmCommand::Write(write) => {
                let (lba, blocks, bytes) = self.plan_transfer(&write, shift)?;
                let fua = write.control.contains(Control::FORCE_UNIT_ACCESS);
                (work(Operation::Write { fua }, None, lba, blocks), bytes)
            }
            NvmCommand::Compare(compare) => {
                let (lba, blocks, bytes) = self.plan_transfer(&compare, shift)?;
                (work(Operation::Compare, None, lba, blocks), bytes)
            }
            NvmCommand::WriteZeroes(zeroes) => {
                let fua = zeroes.control.contains(Control::FORCE_UNIT_ACCESS);
                let then = fua.then_some(Operation::Flush);
                let range = zeroes.range;
                (work(Operation::WriteZeroes, then, range.lba, range.blocks), 0)
            }
            NvmCommand::DatasetManagement(command) => {
                (Work::Dataset(Box::new(Dataset::new(device, &command))), command.data_length())
            }
            NvmCommand::WriteUncorrectable(_) | NvmCommand::Verify(_) => {
                return Err(Status::INVALID_OPCODE);
            }
        };
        let to_host = matches!(command, NvmCommand::Read(_));
        // Linux always gives room for as many ranges as a command can have.
        let longest = if matches!(work, Work::Dataset(_)) { DATASET_BYTES_MAX } else { bytes };
        let data = plan_data(entry, bytes..=longest, capsule_bytes, to_host)?;
        Ok((work, bytes, data))
    }

    /// The range of a command that moves its blocks, and its bytes.
    fn plan_transfer(
        &self,
        transfer: &Transfer,
        shift: u8,
    ) -> Result<(Lba, BlockCount, u32), Status> {
        let range = transfer.range;
        let bytes = u32::try_from(range.blocks.0 << shift).map_err(|_| Status::INVALID_FIELD)?;
        if bytes > self.limits.transfer_bytes_max || transfer.directive != 0 {
            return Err(Status::INVALID_FIELD);
        }
        Ok((range.lba, range.blocks, bytes))
    }

    /// The place of a command in a fused operation (Base 3.4.2; NVM 3.3: Compare and Write).
    fn plan_pair(
        &self,
        fuse: Fuse,
        expected: Fused,
        work: &Work,
        bytes: u32,
    ) -> Result<Pair, Status> {
        let Work::Device { device, now, lba, blocks, .. } = work else {
            return if fuse == Fuse::Normal { Ok(Pair::None) } else { Err(Status::INVALID_FIELD) };
        };
        match (fuse, expected) {
            (Fuse::Normal, _) => Ok(Pair::None),
            (Fuse::First, _)
                if *now == Operation::Compare && bytes <= self.limits.fused_bytes_max() =>
            {
                Ok(Pair::First { second: None })
            }
            (Fuse::First, _) => Err(Status::INVALID_FIELD),
            (Fuse::Second, Fused::None) => Err(Status::ABORTED_MISSING_FUSED),
            (Fuse::Second, Fused::FirstRefused) => Err(Status::ABORTED_FAILED_FUSED),
            (Fuse::Second, Fused::First(first)) => {
                let Work::Device { device: of, lba: at, blocks: count, .. } =
                    &self.slots[first].work
                else {
                    unreachable!("the first command is a Compare");
                };
                let same = (of, at, count) == (device, lba, blocks);
                match now {
                    Operation::Write { .. } if same => Ok(Pair::Second { first }),
                    _ => Err(Status::INVALID_FIELD),
                }
            }
        }
    }

    /// The first command of a fused operation gets no second one.
    fn break_pair(&mut self, expected: Fused, status: Status) {
        let Fused::First(first) = expected else { return };
        let command = &mut self.slots[first];
        command.status = status;
        if command.state == State::Ready {
            self.refuse_command(first);
        }
    }

    // Data and memory.

    /// An H2CData has come. Returns whose data it has and where that belongs.
    pub(super) fn begin_transfer(
        &mut self,
        pdu: &H2cData,
    ) -> Result<(Owner, Destination), Violation> {
        const KIND: PduType = PduType::H2cData;
        let slot = Slot(pdu.transfer_tag);
        let command = self.slots.get_mut(slot).ok_or(Violation::TransferTag)?;
        if command.state != State::Transfer || command.received == command.bytes {
            return Err(Violation::TransferTag);
        }
        if command.cid != pdu.cid {
            return Err(Violation::CommandId(KIND));
        }
        if command.received != pdu.offset {
            return Err(Violation::Sequence(KIND));
        }
        let end = pdu.offset.checked_add(pdu.length).filter(|end| *end <= command.bytes);
        let end = end.ok_or(Violation::OutOfRange(KIND))?;
        if pdu.last && end != command.bytes {
            return Err(Violation::Sequence(KIND));
        }
        command.received = end;
        let at = pdu.offset as usize;
        let to = match (&command.work, command.pair) {
            (Work::Dataset(_), _) => Destination::Gathered,
            (_, Pair::Second { first }) => Destination::Memory(first, command.bytes as usize + at),
            _ => Destination::Memory(slot, at),
        };
        Ok((Owner::Command(slot), to))
    }

    /// A slot for which [`super::Want::Memory`] or [`Connection::memory_wanted`] has asked for memory
    /// has it.
    ///
    /// # Panics
    ///
    /// When none was asked for, or actions have not been taken: one may release the slot's last memory.
    pub fn memory_granted(&mut self, slot: Slot) {
        assert!(self.actions.is_empty(), "actions are carried out before memory is given");
        if self.capsule_memory.is_some_and(|(wanted, _)| wanted == slot) {
            self.capsule_memory = None;
        } else {
            let wanted = self.memory_wanted.pop_front();
            assert!(wanted.is_some_and(|(wanted, _)| wanted == slot), "another slot is the next");
        }
        let command = &mut self.slots[slot];
        if command.received == command.bytes {
            command.state = State::Capsule;
            return self.awaited.begin(slot);
        }
        if command.is_read() {
            return self.submit(slot);
        }
        let pair = command.pair;
        self.ask_for_data(slot);
        if let Pair::First { second: Some(second) } = pair
            && self.slots[second].state == State::Memory
        {
            self.ask_for_data(second);
        }
    }

    fn ask_for_data(&mut self, slot: Slot) {
        let command = &mut self.slots[slot];
        command.state = State::Transfer;
        let (cid, bytes) = (command.cid, command.bytes);
        self.awaited.begin(slot);
        self.send_r2t(cid, slot, bytes);
    }

    /// The data of a PDU has come, or there was none. `intact`: its digest was right.
    pub(super) fn data_arrived(&mut self, owner: Owner, intact: bool) {
        match owner {
            Owner::Refused(cid, status) => self.respond(cid, status, 0),
            Owner::Connect(cid, _) if !intact => {
                self.respond(cid, Status::TRANSIENT_TRANSPORT_ERROR, 0);
            }
            Owner::Connect(cid, command) => self.ask_to_connect(cid, command),
            Owner::Command(slot) => {
                let gathered = self.take_gathered();
                let command = &mut self.slots[slot];
                if !intact {
                    command.status = Status::TRANSIENT_TRANSPORT_ERROR;
                }
                if let Work::Dataset(dataset) = &mut command.work {
                    dataset.gather(&gathered);
                }
                if let Work::Target(entry) = command.work {
                    return self.ask(slot, entry, gathered);
                }
                let has_all = match command.state {
                    State::Memory => false,
                    State::Capsule | State::Transfer => command.received == command.bytes,
                    State::Ready | State::Away => unreachable!("no data is expected"),
                };
                if has_all {
                    self.data_complete(slot);
                }
            }
        }
    }

    /// Everything that the host has to send for a command is there.
    fn data_complete(&mut self, slot: Slot) {
        self.awaited.end(slot);
        let command = &mut self.slots[slot];
        command.state = State::Ready;
        match command.pair {
            Pair::None if command.status.is_success() => self.submit(slot),
            Pair::None => self.refuse_command(slot),
            Pair::First { second: None } if command.status.is_success() => {}
            Pair::First { second: None } => {
                if self.fused == Fused::First(slot) {
                    self.fused = Fused::FirstRefused;
                }
                self.refuse_command(slot);
            }
            Pair::First { second: Some(second) } => self.join(slot, second),
            Pair::Second { first } => self.join(first, slot),
        }
    }

    /// Both commands of a fused operation are known: when both are ready, they are one request.
    fn join(&mut self, first: Slot, second: Slot) {
        if self.slots[first].state != State::Ready || self.slots[second].state != State::Ready {
            return;
        }
        let statuses = [self.slots[first].status, self.slots[second].status];
        if statuses.iter().all(|status| status.is_success()) {
            let Work::Device { now: Operation::Write { fua }, .. } = self.slots[second].work else {
                unreachable!("the second command is a Write");
            };
            let Work::Device { now, .. } = &mut self.slots[first].work else {
                unreachable!("the first command is a Compare");
            };
            *now = Operation::CompareAndWrite { fua };
            self.slots[second].state = State::Away;
            return self.submit(first);
        }
        for (slot, status) in [first, second].into_iter().zip(statuses) {
            if status.is_success() {
                self.slots[slot].status = Status::ABORTED_FAILED_FUSED;
            }
            self.refuse_command(slot);
        }
    }

    /// Answers a command that never reached a device, with its status.
    fn refuse_command(&mut self, slot: Slot) {
        let command = self.slots.remove(slot);
        if command.has_memory() {
            self.actions.push_back(Action::Release(slot));
        }
        self.respond(command.cid, command.status, 0);
    }

    // The target.

    fn ask_to_connect(&mut self, cid: Cid, command: Connect) {
        let data = self.take_gathered();
        let data = data.first_chunk::<CONNECT_DATA_SIZE>().expect("its length was checked");
        match ConnectData::decode(data) {
            Ok(data) => {
                self.stage = Stage::Connecting;
                self.connecting = cid;
                let request = ConnectRequest { command, data };
                self.actions.push_back(Action::Connect(Box::new(request)));
            }
            Err(parameter) => {
                let completion = parameter.completion(cid);
                self.respond(cid, completion.status.do_not_retry(), completion.result);
            }
        }
    }

    fn ask(&mut self, slot: Slot, entry: SubmissionEntry, data: Vec<u8>) {
        let Command { cid, status, .. } = self.slots[slot];
        if !status.is_success() {
            self.slots.remove(slot);
            return self.respond(cid, status, 0);
        }
        if !self.queue.qid.is_admin() {
            self.slots.remove(slot);
            return self.fabrics_of_io_queue(cid, &entry);
        }
        self.slots[slot].state = State::Away;
        let request = AdminRequest { slot, entry, data };
        self.actions.push_back(Action::Command(Box::new(request)));
    }

    /// A Fabrics command of an I/O queue. Only Disconnect has a meaning there (Base 6.4).
    fn fabrics_of_io_queue(&mut self, cid: Cid, entry: &SubmissionEntry) {
        match FabricsCommand::parse(entry) {
            Ok(FabricsCommand::Disconnect) => {
                self.respond(cid, Status::SUCCESS, 0);
                self.lose(Loss::Disconnected);
            }
            Ok(FabricsCommand::Connect(_)) => {
                self.respond(cid, Status::COMMAND_SEQUENCE_ERROR.do_not_retry(), 0);
            }
            Ok(_) => self.respond(cid, Status::INVALID_FIELD.do_not_retry(), 0),
            Err(status) => self.respond(cid, status.do_not_retry(), 0),
        }
    }

    /// The target answers a command of this connection.
    pub fn answer(&mut self, slot: Slot, answer: &Answer) {
        let answered = match self.stage {
            Stage::Live => true,
            // A request for an event may have been given up.
            Stage::Draining => self.slots.get_mut(slot).is_some(),
            _ => false,
        };
        if answered {
            let Command { cid, bytes, .. } = self.slots.remove(slot);
            self.respond_with_answer(cid, bytes, answer);
            self.finish_if_done();
        }
    }

    // Devices.

    fn submit(&mut self, slot: Slot) {
        let command = &mut self.slots[slot];
        command.state = State::Away;
        match &mut command.work {
            Work::Device { device, now, lba, blocks, .. } => {
                let id = RequestId(slot.0.into());
                let request = Request { id, operation: *now, lba: *lba, blocks: *blocks };
                let device = *device;
                self.at_devices += 1;
                self.actions.push_back(Action::Submit { slot, device, request });
            }
            Work::Dataset(dataset) => {
                dataset.begin();
                self.submit_ranges(slot);
            }
            Work::Target(_) => unreachable!("it is asked, not submitted"),
        }
    }

    /// Submits the next ranges of a Dataset Management command, and ends it after the last one.
    fn submit_ranges(&mut self, slot: Slot) {
        let command = &mut self.slots[slot];
        let Work::Dataset(dataset) = &mut command.work else { unreachable!("it has ranges") };
        if !command.status.is_success() {
            dataset.give_up();
        }
        let device = dataset.device;
        while let Some(request) = dataset.next(slot) {
            self.at_devices += 1;
            self.actions.push_back(Action::Submit { slot, device, request });
        }
        if dataset.is_done() {
            let Command { cid, status, .. } = self.slots.remove(slot);
            if self.is_told(status) {
                self.respond(cid, status, 0);
            }
        }
    }

    /// A request has ended. `data` is what the memory of its slot holds.
    ///
    /// # Panics
    ///
    /// When none of the slot was at a device.
    pub fn complete(&mut self, slot: Slot, result: Result<(), Error>, data: &[u8]) {
        assert!(self.at_devices > 0, "no request is at a device");
        self.at_devices -= 1;
        let command = &mut self.slots[slot];
        let ending = self.stage == Stage::Ending;
        match &mut command.work {
            Work::Device { now, then, .. } => {
                if let (Ok(()), Some(next)) = (result, then.take()) {
                    // What would come next is not begun any more, and the host is not told.
                    if !ending {
                        *now = next;
                        self.submit(slot);
                    }
                } else {
                    self.end_request(slot, result, data);
                }
            }
            Work::Dataset(dataset) => {
                dataset.ended();
                if let Err(error) = result {
                    command.status = status::of(error);
                }
                if !ending {
                    self.submit_ranges(slot);
                }
            }
            Work::Target(_) => unreachable!("it is at no device"),
        }
        self.finish_if_done();
    }

    fn end_request(&mut self, slot: Slot, result: Result<(), Error>, data: &[u8]) {
        let Command { cid, work, bytes, pair, .. } = self.slots.remove(slot);
        let Work::Device { now, .. } = work else { unreachable!("it was at a device") };
        if result.is_ok() {
            match now {
                Operation::Read | Operation::Compare => {
                    self.queue.traffic.count(true, bytes.into())
                }
                Operation::Write { .. } | Operation::CompareAndWrite { .. } => {
                    self.queue.traffic.count(false, bytes.into());
                }
                Operation::Flush | Operation::WriteZeroes => {}
            }
        }
        if now == Operation::Read && result.is_ok() {
            return self.respond_with_memory(cid, slot, &data[..bytes as usize]);
        }
        if bytes > 0 {
            self.actions.push_back(Action::Release(slot));
        }
        let status = result.map_or_else(status::of, |()| Status::SUCCESS);
        let told = self.is_told(status);
        match pair {
            Pair::First { second: Some(second) } => {
                let [first_status, second_status] = fused_statuses(result);
                let second = self.slots.remove(second);
                if told {
                    self.respond(cid, first_status, 0);
                    self.respond(second.cid, second_status, 0);
                }
            }
            _ if told => self.respond(cid, status, 0),
            _ => {}
        }
    }
}

/// Why a capsule is not taken.
enum Refused {
    /// Its command is answered with this.
    Command(Status),
    /// The host has more commands under way than its queue has entries.
    Capsule,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Command(status)
    }
}

/// The statuses of Compare and of Write when they were one request that ended with `result`: see
/// [`Operation::CompareAndWrite`].
fn fused_statuses(result: Result<(), Error>) -> [Status; 2] {
    match result {
        Ok(()) => [Status::SUCCESS; 2],
        Err(error @ (Error::CompareFailure | Error::ReadFault)) => {
            [status::of(error), Status::ABORTED_FAILED_FUSED]
        }
        Err(error @ (Error::CapacityExceeded | Error::WriteFault)) => {
            [Status::SUCCESS, status::of(error)]
        }
        Err(error) => [status::of(error); 2],
    }
}

/// The Connect that has to come first (Base 6.3), with all of its data in the capsule.
fn plan_connect(entry: &SubmissionEntry, capsule_bytes: u32) -> Result<Connect, Status> {
    let command = match entry.opcode() {
        fabrics::OPCODE => FabricsCommand::parse(entry).map_err(Status::do_not_retry)?,
        _ => return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()),
    };
    let FabricsCommand::Connect(connect) = command else {
        return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
    };
    match entry.sgl().data_pointer().map_err(Status::do_not_retry)? {
        DataPointer::InCapsule { offset, length } if length as usize == CONNECT_DATA_SIZE => {
            check_capsule(offset, length, capsule_bytes)?;
        }
        _ => return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry()),
    }
    Ok(connect)
}

/// Whether the data that a command has in its capsule is all that there is.
fn check_capsule(offset: u64, length: u32, capsule_bytes: u32) -> Result<(), Status> {
    if offset != 0 {
        return Err(Status::SGL_OFFSET_INVALID.do_not_retry());
    }
    if length != capsule_bytes {
        return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
    }
    Ok(())
}

/// How the data of a command of an I/O queue is moved, of which there are so many `bytes`.
fn plan_data(
    entry: &SubmissionEntry,
    bytes: RangeInclusive<u32>,
    capsule_bytes: u32,
    to_host: bool,
) -> Result<Data, Status> {
    if *bytes.end() == 0 {
        return if capsule_bytes == 0 { Ok(Data::None) } else { Err(Status::INVALID_FIELD) };
    }
    match entry.sgl().data_pointer()? {
        DataPointer::InCapsule { .. } if to_host => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
        DataPointer::InCapsule { offset, length } => {
            check_capsule(offset, length, capsule_bytes)?;
            match bytes.contains(&length) {
                true => Ok(Data::FromCapsule),
                false => Err(Status::DATA_SGL_LENGTH_INVALID),
            }
        }
        DataPointer::Transport { length } if bytes.contains(&length) && capsule_bytes == 0 => {
            Ok(if to_host { Data::ToHost } else { Data::FromHost })
        }
        DataPointer::Transport { .. } => Err(Status::DATA_SGL_LENGTH_INVALID),
    }
}

impl Command {
    /// Whether its slot has memory of the driver, once its data can come.
    pub(super) fn has_memory(&self) -> bool {
        let gathered = matches!(self.work, Work::Dataset(_) | Work::Target(_));
        self.bytes > 0 && !gathered && !matches!(self.pair, Pair::Second { .. })
    }

    /// Whether it waits for something to happen.
    pub(super) fn is_event_request(&self) -> bool {
        let Work::Target(entry) = &self.work else { return false };
        entry.opcode() == admin::opcode::ASYNC_EVENT_REQUEST
    }

    pub(super) fn is_read(&self) -> bool {
        let Work::Device { now, then, .. } = &self.work else { return false };
        *now == Operation::Read || *then == Some(Operation::Read)
    }
}
