//! Writes through an io_uring, in flight together, for tests of the files themselves.
//!
//! The product has its own ring; this one is for what is tested below it.

use std::{fs::File, io, sync::Arc, time::Duration};

use compio_buf::{IntoInner, IoBuf, Slice};
use compio_driver::{Key, Proactor, PushEntry, op::WriteAt};

/// What direct I/O may ask of an address in memory, in bytes.
const ALIGNMENT: usize = 4096;

type Write = WriteAt<Slice<Vec<u8>>, Arc<File>>;

/// An io_uring.
pub struct Ring {
    proactor: Proactor,
}

/// A write from its beginning to its end.
#[must_use]
pub struct Pending {
    key: Key<Write>,
}

impl Ring {
    /// A ring of the default size.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn new() -> io::Result<Self> {
        Ok(Self { proactor: Proactor::new()? })
    }

    /// Gives the kernel a write of `bytes` at byte `offset`.
    ///
    /// # Errors
    ///
    /// When it has failed already.
    pub fn write(&mut self, file: &Arc<File>, offset: u64, bytes: &[u8]) -> io::Result<Pending> {
        let mut room = vec![0; bytes.len() + ALIGNMENT];
        let first = room.as_ptr().addr().next_multiple_of(ALIGNMENT) - room.as_ptr().addr();
        room[first..first + bytes.len()].copy_from_slice(bytes);
        let buffer = room.slice(first..first + bytes.len());
        match self.proactor.push(WriteAt::new(Arc::clone(file), offset, buffer)) {
            PushEntry::Pending(key) => {
                self.poll(Duration::ZERO)?;
                Ok(Pending { key })
            }
            PushEntry::Ready(done) => {
                done.0?;
                Err(io::Error::other("a write was done before it was submitted"))
            }
        }
    }

    /// Waits for a write, and returns how many bytes it wrote.
    ///
    /// # Errors
    ///
    /// What the kernel answered, or that it did not within `patience`.
    pub fn wait(&mut self, pending: Pending, patience: Duration) -> io::Result<usize> {
        let mut pending = pending;
        loop {
            pending = match self.take(pending) {
                Ok(result) => return result,
                Err(pending) => pending,
            };
            if !self.poll(patience)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// The result of a write that has ended, or the write.
    ///
    /// # Errors
    ///
    /// When it has not ended.
    pub fn take(&mut self, pending: Pending) -> Result<io::Result<usize>, Pending> {
        match self.proactor.pop(pending.key) {
            PushEntry::Pending(key) => Err(Pending { key }),
            PushEntry::Ready(done) => {
                // The memory is no longer needed.
                drop(done.1.into_inner());
                Ok(done.0)
            }
        }
    }

    /// Whether something ended within `patience`.
    fn poll(&mut self, patience: Duration) -> io::Result<bool> {
        match self.proactor.poll(Some(patience)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(error),
        }
    }
}
