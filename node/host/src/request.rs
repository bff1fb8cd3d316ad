//! Requests: what a device is asked, and the commands that it takes.
//!
//! Before: [`crate::Host::submit`]. Next: a queue, one command for each piece.
//! Sources: NVM sections 3.3.1 to 3.3.8; Base section 3.4.2 for fused operations.
//!
//! - A request that is larger than one command may be is cut into pieces; it is completed when the
//!   last of them is, with the first error.
//! - A status becomes an error in one function, [`error_of`].

use fathom_block::{Error, Operation, Request};
use fathom_nvme::{
    Status, SubmissionEntry,
    nvm::{
        BLOCKS_MAX, Control, DatasetAttributes, DatasetManagement, DatasetRange, NvmCommand, Range,
        Transfer, WriteZeroes,
    },
    submission::Fuse,
};
use fathom_units::{BlockCount, Lba};

use crate::{queue::DataTransfer, setup::Namespace};

/// How often a request is tried again that the transport or the controller has failed for now.
pub(crate) const RETRIES_MAX: u8 = 5;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Block(Operation),
    Deallocate,
}

/// Which command of a request a piece is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Only,
    FusedCompare,
    FusedWrite,
}

/// One command of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// The request's key.
    pub(crate) key: usize,
    /// Where its data begins in the request's bytes.
    pub(crate) data_offset: u64,
    /// The bytes of a range of Dataset Management, which is not the request's data.
    pub(crate) range: Option<[u8; DatasetRange::SIZE]>,
    pub(crate) part: Part,
}

/// The blocks of a request, to be compared with those of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    first: u64,
    end: u64,
    is_change: bool,
}

impl Span {
    /// Whether the order of the two matters.
    pub(crate) const fn conflicts(&self, other: &Self) -> bool {
        (self.is_change || other.is_change) && self.first < other.end && other.first < self.end
    }
}

/// A request that is not completed.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) work: Work,
    /// How many of its blocks are in commands that have been begun.
    issued: u64,
    /// Commands under way.
    under_way: u32,
    /// It is among those at the controller.
    is_begun: bool,
    retries: u8,
    /// A command failed in a way that will pass.
    again: bool,
    /// The first status with which a command failed for good.
    failed: Option<Status>,
}

impl Pending {
    pub(crate) fn new(request: Request, work: Work) -> Self {
        Self {
            request,
            work,
            issued: 0,
            under_way: 0,
            is_begun: false,
            retries: 0,
            again: false,
            failed: None,
        }
    }

    /// Whether it may change what the namespace holds.
    pub(crate) fn is_change(&self) -> bool {
        match self.work {
            Work::Block(operation) => operation.is_change(),
            Work::Deallocate => true,
        }
    }

    /// Its blocks; a flush has none, and no order.
    pub(crate) fn span(&self) -> Option<Span> {
        let (first, blocks) = (self.request.lba.0, self.request.blocks.0);
        let span = Span { first, end: first + blocks, is_change: self.is_change() };
        (self.work != Work::Block(Operation::Flush)).then_some(span)
    }

    /// Whether doing it once more leaves what doing it once would have left.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self.work, Work::Block(Operation::CompareAndWrite { .. }))
    }

    /// Whether it is among those at the controller, from its first command to its completion.
    pub(crate) fn is_begun(&self) -> bool {
        self.is_begun
    }

    pub(crate) fn set_begun(&mut self, is_begun: bool) {
        self.is_begun = is_begun;
    }

    /// Whether commands of it are under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// Whether every piece has been begun, or none is to be begun any more.
    pub(crate) fn is_issued(&self) -> bool {
        let blocks = match self.work {
            Work::Block(Operation::Flush) => 1,
            _ => self.request.blocks.0,
        };
        self.issued >= blocks || self.failed.is_some() || self.again
    }

    /// How many commands the next piece takes.
    pub(crate) fn commands(&self) -> usize {
        match self.work {
            Work::Block(Operation::CompareAndWrite { .. }) => 2,
            _ => 1,
        }
    }

    /// The commands of the next piece, which are begun now.
    pub(crate) fn issue(
        &mut self,
        key: usize,
        namespace: &Namespace,
        begin: &mut impl FnMut(Piece, SubmissionEntry, DataTransfer),
    ) {
        let block_size = u64::from(namespace.block_size);
        let left = self.request.blocks.0 - self.issued.min(self.request.blocks.0);
        let blocks = left.min(self.piece_blocks(namespace));
        let lba = Lba(self.request.lba.0 + self.issued);
        let range = Range { lba, blocks: BlockCount(blocks) };
        let data_offset = self.issued * block_size;
        let bytes = u32::try_from(blocks * block_size);
        let piece = Piece { key, data_offset, range: None, part: Part::Only };
        let nsid = namespace.nsid;
        let out = || DataTransfer::Out(bytes.expect("cut to fit a command"));
        let mut one = |command: NvmCommand, transfer| begin(piece, command.entry(nsid), transfer);
        self.issued += blocks.max(1);
        self.under_way += 1;
        self.is_begun = true;
        match self.work {
            Work::Block(Operation::Flush) => one(NvmCommand::Flush, DataTransfer::None),
            Work::Block(Operation::Read) => {
                let transfer = DataTransfer::In(bytes.expect("cut to fit a command"));
                one(NvmCommand::Read(Transfer::new(range)), transfer);
            }
            Work::Block(Operation::Write { fua }) => {
                one(NvmCommand::Write(transfer_of(range, fua)), out());
            }
            Work::Block(Operation::Compare) => {
                one(NvmCommand::Compare(Transfer::new(range)), out());
            }
            Work::Block(Operation::WriteZeroes) => {
                let deallocate = namespace.zeroes_deallocate;
                let control = if deallocate { Control::DEALLOCATE } else { Control::empty() };
                one(NvmCommand::WriteZeroes(WriteZeroes { range, control }), DataTransfer::None);
            }
            Work::Deallocate => {
                let attributes = DatasetAttributes::DEALLOCATE;
                let command = DatasetManagement { ranges: 1, attributes };
                let range = DatasetRange { attributes: 0, blocks: BlockCount(blocks), lba };
                let piece = Piece { range: Some(range.encode()), ..piece };
                let entry = NvmCommand::DatasetManagement(command).entry(nsid);
                begin(piece, entry, DataTransfer::Out(command.data_length()));
            }
            Work::Block(Operation::CompareAndWrite { fua }) => {
                self.under_way += 1;
                let fused = |command: NvmCommand, fuse| command.entry(nsid).with_fuse(fuse);
                let compare = NvmCommand::Compare(Transfer::new(range));
                let write = NvmCommand::Write(transfer_of(range, fua));
                let first = Piece { part: Part::FusedCompare, ..piece };
                begin(first, fused(compare, Fuse::First), out());
                let data_offset = blocks * block_size;
                let second = Piece { part: Part::FusedWrite, data_offset, ..piece };
                begin(second, fused(write, Fuse::Second), out());
            }
        }
    }

    /// The most blocks of one command.
    fn piece_blocks(&self, namespace: &Namespace) -> u64 {
        match self.work {
            Work::Block(Operation::WriteZeroes) => namespace.zeroes_blocks,
            Work::Deallocate => namespace.deallocate_blocks,
            _ => namespace.transfer_blocks,
        }
    }

    /// Takes the answer to a command. Returns the result when it was the last one.
    pub(crate) fn complete(&mut self, part: Part, status: Status) -> Option<Outcome> {
        self.under_way -= 1;
        if !status.is_success() {
            self.fail(part, status);
        }
        if self.under_way > 0 || !self.is_issued() {
            return None;
        }
        if self.failed.is_some() || !self.again {
            return Some(Outcome::Completed(self.failed));
        }
        self.again = false;
        self.retries += 1;
        self.issued = 0;
        Some(Outcome::Again)
    }

    fn fail(&mut self, part: Part, status: Status) {
        if status.code() == Status::ABORTED_FAILED_FUSED {
            // The other command of the pair says why.
            return;
        }
        let passes = is_passing(status) && self.retries < RETRIES_MAX;
        if passes && part != Part::FusedWrite && self.failed.is_none() {
            self.again = true;
        } else {
            self.failed.get_or_insert(status);
        }
    }

    /// The commands under way are lost, and nobody knows what became of them.
    pub(crate) fn lose(&mut self) {
        self.under_way = 0;
        self.issued = 0;
        self.again = false;
        self.failed = None;
    }
}

/// What became of a request whose commands have all ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It is done, or has failed with this status.
    Completed(Option<Status>),
    /// It is to be begun anew.
    Again,
}

fn transfer_of(range: Range, fua: bool) -> Transfer {
    let control = if fua { Control::FORCE_UNIT_ACCESS } else { Control::empty() };
    Transfer { control, ..Transfer::new(range) }
}

/// Whether the same command may succeed at once: the transport or the controller failed it, and
/// the controller does not say otherwise.
fn is_passing(status: Status) -> bool {
    let passing = [Status::TRANSIENT_TRANSPORT_ERROR, Status::COMMAND_INTERRUPTED];
    !status.is_do_not_retry() && passing.contains(&status.code())
}

/// The error that a status means.
pub(crate) fn error_of(status: Status) -> Error {
    match status.code() {
        Status::LBA_OUT_OF_RANGE => Error::LbaOutOfRange,
        Status::CAPACITY_EXCEEDED => Error::CapacityExceeded,
        Status::COMPARE_FAILURE => Error::CompareFailure,
        Status::NAMESPACE_IS_WRITE_PROTECTED
        | Status::WRITE_TO_READ_ONLY_RANGE
        | Status::ACCESS_DENIED => Error::ReadOnly,
        Status::UNRECOVERED_READ_ERROR
        | Status::DEALLOCATED_OR_UNWRITTEN_BLOCK
        | Status::GUARD_CHECK_ERROR
        | Status::APPLICATION_TAG_CHECK_ERROR
        | Status::REFERENCE_TAG_CHECK_ERROR => Error::ReadFault,
        Status::WRITE_FAULT => Error::WriteFault,
        Status::INVALID_FIELD | Status::INVALID_OPCODE | Status::COMMAND_SIZE_LIMIT_EXCEEDED => {
            Error::InvalidField
        }
        // Everything else says nothing about the request: the controller or the path failed.
        _ => Error::NotReady,
    }
}

/// How many blocks of `block_size` bytes one command may have when it may move `bytes`.
pub(crate) fn blocks_in(bytes: Option<u64>, block_size: u32) -> u64 {
    let most = u64::from(BLOCKS_MAX);
    // The length of an SGL has 32 bits, and offsets in data have, too.
    let limit = bytes.unwrap_or(u64::MAX).min(u64::from(u32::MAX)) / u64::from(block_size);
    limit.min(most)
}
