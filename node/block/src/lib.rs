//! The block contract: what a block device is asked, and what it answers.
//!
//! Everything that stores or forwards blocks (a volume of the store, a replica set, a
//! raw disk, a remote namespace) takes a [`Request`] and answers it with a
//! [`Completion`]. The bytes of a request stay with whoever drives the device: a
//! request names a range, and the driver moves data to or from the place that goes
//! with the request's id. So nothing here allocates, copies or knows an address.
//!
//! - A request is completed exactly once, with success or with one [`Error`].
//! - A write that ends with [`Error::WriteFault`] or [`Error::NotReady`] may have changed any of
//!   its blocks: each is old or new. With any other error it changed nothing. Write Zeroes that
//!   ends with an error may have zeroed a part of its range.
//! - Requests that overlap take effect in the order in which they were submitted.
//! - A write is acknowledged when a crash of this process cannot lose it; it survives a
//!   power cut when it was asked for with `fua`, or after a later [`Operation::Flush`] has
//!   completed.

mod buffer;

pub use buffer::{Buffer, PAGE_SIZE};
use fathom_units::{BlockCount, Lba};
use thiserror::Error;

/// Names a request from its submission to its completion; chosen by the submitter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// What a device is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Bring the range into the request's bytes.
    Read,
    /// Store the request's bytes.
    Write {
        /// Complete only when the data survives a power cut.
        fua: bool,
    },
    /// Make every write that was acknowledged before survive a power cut. Has no range.
    Flush,
    /// Make the range read as zero and give its space back.
    WriteZeroes,
    /// Compare the range with the request's bytes; [`Error::CompareFailure`] when they differ.
    /// Where they differ is not told: NVMe has no field for it in the completion.
    Compare,
    /// Compare the range with the first half of the request's bytes, and if they are equal store
    /// the second half there. No other request to the range takes effect in between.
    ///
    /// It is what NVMe calls the fused operation Compare and Write (NVM Express Base
    /// Specification 1.4, sections 4.12 and 6.2.1): one range for both commands; when the first
    /// fails the second is aborted; when the second fails the result of the first stands. So an
    /// error says whose it is:
    ///
    /// | error | Compare | Write |
    /// |---|---|---|
    /// | [`Error::CompareFailure`], [`Error::ReadFault`] | failed with it | not begun |
    /// | [`Error::CapacityExceeded`], [`Error::WriteFault`] | succeeded | failed with it |
    /// | any other | not done, or its result is not known | failed with it |
    CompareAndWrite {
        /// Complete only when the data survives a power cut.
        fua: bool,
    },
}

impl Operation {
    /// Whether it may change what the device holds.
    pub const fn is_change(self) -> bool {
        match self {
            Self::Write { .. } | Self::WriteZeroes | Self::CompareAndWrite { .. } => true,
            Self::Read | Self::Flush | Self::Compare => false,
        }
    }

    /// How many bytes go with a request for `range_bytes` bytes of the device.
    pub const fn data_bytes(self, range_bytes: u64) -> u64 {
        match self {
            Self::Read | Self::Write { .. } | Self::Compare => range_bytes,
            Self::CompareAndWrite { .. } => 2 * range_bytes,
            Self::Flush | Self::WriteZeroes => 0,
        }
    }
}

/// One request to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The submitter's name for it.
    pub id: RequestId,
    /// What is asked.
    pub operation: Operation,
    /// The first logical block; ignored by [`Operation::Flush`].
    pub lba: Lba,
    /// How many logical blocks; ignored by [`Operation::Flush`].
    pub blocks: BlockCount,
}

/// The answer to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The request that is answered.
    pub id: RequestId,
    /// Done, or why not.
    pub result: Result<(), Error>,
}

/// Why a device did not do what it was asked. Each maps to one NVMe status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Error {
    /// The range does not lie in the device.
    #[error("the range lies beyond the end of the device")]
    LbaOutOfRange,
    /// A request without blocks, or with bytes that do not match its blocks.
    #[error("the request is malformed")]
    InvalidField,
    /// There is no space for new data. Trying again does not help until space is freed.
    #[error("the pool is full")]
    CapacityExceeded,
    /// The range differs from what it was compared with.
    #[error("compare found different data")]
    CompareFailure,
    /// The device was written to though it can only be read.
    #[error("the device is read-only")]
    ReadOnly,
    /// The medium failed to return data.
    #[error("the medium cannot be read")]
    ReadFault,
    /// The medium failed to take data.
    #[error("the medium cannot be written")]
    WriteFault,
    /// The device is not there now but may be again: a missing member, a failed pool.
    #[error("the device is not ready")]
    NotReady,
}
