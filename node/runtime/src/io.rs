//! What a loop's ring is asked to do, and with what memory.

use std::{fmt, io};

use fathom_block::Buffer as Owned;

use crate::{
    arena::Buffer,
    lend::{Loan, Purpose},
};

/// Names a file in the table of one loop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Names an I/O on one loop until it has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IoKey {
    pub(crate) number: u32,
    pub(crate) generation: u32,
}

/// An I/O. It comes back with its completion, and its memory with it.
#[derive(Debug)]
pub enum Io {
    /// Fill the memory from byte `offset` of a file.
    Read {
        /// The file.
        file: FileKey,
        /// Where, in bytes.
        offset: u64,
        /// Where to.
        memory: Memory,
    },
    /// Write the memory to byte `offset` of a file.
    Write {
        /// The file.
        file: FileKey,
        /// Where, in bytes.
        offset: u64,
        /// Where from.
        memory: Memory,
        /// On completion it is on stable media.
        fua: bool,
    },
    /// Bring every write that has ended to stable media.
    Flush {
        /// The file.
        file: FileKey,
    },
    /// Give the space of a range back; it reads as zero if the file says so.
    Discard {
        /// The file.
        file: FileKey,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
}

impl Io {
    /// The file that it is for.
    pub fn file(&self) -> FileKey {
        match self {
            Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::Flush { file }
            | Self::Discard { file, .. } => *file,
        }
    }

    /// The memory that it came with.
    pub fn into_memory(self) -> Option<Memory> {
        match self {
            Self::Read { memory, .. } | Self::Write { memory, .. } => Some(memory),
            Self::Flush { .. } | Self::Discard { .. } => None,
        }
    }

    /// # Panics
    ///
    /// When it would change what is lent only to be looked at.
    pub(crate) fn check(&self) {
        if let Self::Read { memory: Memory::Loan(loan), .. } = self {
            assert_eq!(loan.purpose(), Purpose::Fill, "a read fills its memory");
        }
    }

    /// The bytes that have to be moved, where less than all is not enough.
    pub(crate) fn whole_length(&self) -> Option<usize> {
        match self {
            Self::Read { memory, .. } | Self::Write { memory, .. } => Some(memory.length()),
            Self::Flush { .. } | Self::Discard { .. } => None,
        }
    }

    /// Whether the same may simply be tried again. A flush that failed never is: the kernel
    /// forgets what it could not write.
    pub(crate) fn is_retried(&self) -> bool {
        !matches!(self, Self::Flush { .. })
    }
}

/// Memory that an I/O owns while it is under way.
pub enum Memory {
    /// A buffer, as long as it is set to be.
    Buffer(Buffer),
    /// A part of a buffer that others use too.
    Loan(Loan),
    /// A buffer of the block contract, and how many of its bytes.
    Owned(Owned, usize),
}

impl Memory {
    /// How many bytes.
    pub fn length(&self) -> usize {
        match self {
            Self::Buffer(buffer) => buffer.len(),
            Self::Loan(loan) => loan.length(),
            Self::Owned(_, length) => *length,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Loan(loan) => loan.bytes(),
            Self::Owned(buffer, length) => &buffer.bytes()[..*length],
        }
    }

    /// The bytes, to be changed.
    ///
    /// # Panics
    ///
    /// When they are lent only to be looked at.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Loan(loan) => loan.bytes_mut(),
            Self::Owned(buffer, length) => &mut buffer.bytes_mut()[..*length],
        }
    }

    /// The first byte behind `done` bytes, and how many the kernel may move from there.
    pub(crate) fn rest(&mut self, done: usize, most: usize) -> (*mut u8, u32) {
        let length = (self.length() - done).min(most);
        let start = match self {
            Self::Buffer(buffer) => buffer.chunk().start(),
            Self::Loan(loan) => loan.start(),
            Self::Owned(buffer, _) => buffer.bytes_mut().as_mut_ptr(),
        };
        // `done` is less than the length, so the place is within the memory.
        let start = start.wrapping_add(done);
        (start, u32::try_from(length).expect("as `most` says"))
    }

    /// The index of the memory among the buffers that are registered in a ring.
    pub(crate) fn fixed_in(&self, ring: u16) -> Option<u16> {
        match self {
            Self::Buffer(buffer) => buffer.chunk().region().fixed_in(ring),
            Self::Loan(loan) => loan.chunk().region().fixed_in(ring),
            Self::Owned(..) => None,
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("length", &self.length()).finish()
    }
}

/// An I/O that was not begun. It comes back as it was.
#[derive(Debug)]
pub enum Rejected {
    /// As many are under way as the loop has room for. It may be tried when one has ended.
    Full(Io),
    /// Its file is not in the loop's table.
    NoFile(Io),
}

impl Rejected {
    /// The I/O.
    pub fn into_io(self) -> Io {
        match self {
            Self::Full(io) | Self::NoFile(io) => io,
        }
    }
}

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// A read or write ended before its end: the device is shorter, or takes no more.
    pub const SHORT: Self = Self(libc::ENODATA);
    /// There is no space left on the file system.
    pub const NO_SPACE: Self = Self(libc::ENOSPC);
    /// It was cancelled.
    pub const CANCELLED: Self = Self(libc::ECANCELED);

    /// Whether the place where it would be written cannot be had now, while reads and other writes
    /// are not concerned: a file system that is full or a quota that is used up.
    pub fn is_no_space(self) -> bool {
        matches!(self.0, libc::ENOSPC | libc::EDQUOT)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}
