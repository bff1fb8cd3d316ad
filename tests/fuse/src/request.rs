//! What a program asked of a disk, and what the test wants done about it.

use std::fmt;

/// The most that one request reads or writes, in bytes: the kernel splits what is longer, and
/// what does not begin at a page in memory may be split once more.
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// What a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write {
        /// With `O_DSYNC`, `O_SYNC`, `RWF_DSYNC` or `RWF_SYNC`: stable when it is answered.
        fua: bool,
    },
    /// A hole is punched (or a range zeroed) by `fallocate`.
    Discard,
    /// `fsync` or `fdatasync`.
    Flush,
    /// The file is made longer by `ftruncate` or `fallocate`.
    Grow,
}

impl Kind {
    /// Whether it changes what a power cut leaves: everything but a read.
    #[must_use]
    pub fn is_change(self) -> bool {
        self != Self::Read
    }

    /// Whether it is a write, with FUA or without.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::Write { .. })
    }
}

/// A request that arrived at a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Counts the requests to all disks, from 0 on.
    pub number: u64,
    /// The disk.
    pub disk: usize,
    /// What it asks.
    pub kind: Kind,
    /// The first byte; 0 for a flush.
    pub offset: u64,
    /// How many bytes; 0 for a flush.
    pub length: u64,
}

impl fmt::Display for Arrival {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, disk, kind, offset, length } = self;
        write!(formatter, "#{number} disk {disk} {kind:?} {offset:#x}+{length:#x}")
    }
}

/// How many requests arrived since the files were mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes, with FUA and without.
    pub writes: u64,
    /// Of these, with FUA.
    pub fua_writes: u64,
    /// Discards.
    pub discards: u64,
    /// Flushes.
    pub flushes: u64,
    /// Growths.
    pub growths: u64,
}

impl Counts {
    pub(crate) fn count(&mut self, kind: Kind) {
        match kind {
            Kind::Read => self.reads += 1,
            Kind::Write { fua } => {
                self.writes += 1;
                self.fua_writes += u64::from(fua);
            }
            Kind::Discard => self.discards += 1,
            Kind::Flush => self.flushes += 1,
            Kind::Grow => self.growths += 1,
        }
    }
}

/// What a failing request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// `EINVAL`: not whole sectors of 512 bytes.
    Invalid,
}

/// How often a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// For the first request that it meets.
    Once,
    /// Until it is lifted.
    Always,
}

/// Names a rule, to lift it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(pub(crate) u64);

/// What becomes of a request that a rule meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It waits before it reaches the disk.
    Hold,
    /// It reaches the disk, and its answer waits.
    HoldAnswer,
    /// It never reaches the disk.
    Fail(Failure),
}

pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) which: Box<dyn Fn(&Arrival) -> bool + Send>,
    pub(crate) treatment: Treatment,
    pub(crate) times: Times,
}
