//! What a pool is made of, and opening it with calls that wait.
//!
//! It is done on a thread of the caller's, for a disk that hangs shall hold up its own pool only.
//! [`Opened`] then goes to a loop with the same open files.
//!
//! - A member file that has room to grow gets the space of its metadata first. So a file system that
//!   fills up later is a full pool and not a broken one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use fathom_lvs::{
    Content, CreateError, DestroyError, DestroyOptions, Destroyed, Medium, MediumError, NewPool,
    OpenError, OpenOptions, Opening,
    format::label::{LABEL_SIZE, Label, label_offsets},
    geometry::ClusterSize,
};
use fathom_runtime::device::{DeviceError, DeviceFile, Kind};
use fathom_units::ByteCount;
use thiserror::Error;
use uuid::Uuid;

use super::devices::occupied;

/// Bytes in a piece of a memory member.
const PIECE: usize = 1 << 20;

/// One disk, file or piece of memory of a pool.
#[derive(Debug)]
pub enum Member {
    /// A block device or plain file.
    Device(Arc<DeviceFile>),
    /// Memory: gone when the process ends.
    Memory(Memory),
}

impl Member {
    /// Opens and locks a device that exists; [`DeviceFile::open`] says more.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub fn open(path: &Path, wait: Duration) -> Result<Self, DeviceError> {
        DeviceFile::open(path, wait).map(Self::from)
    }

    /// Whether clusters that are given back are discarded on it. Not on a file all of whose space is set
    /// aside: a thick volume relies on that.
    pub(crate) fn discards(&self) -> bool {
        match self {
            Self::Device(file) => {
                let promised = file.kind() == Kind::File && file.is_allocated().unwrap_or(true);
                file.discards() && !promised
            }
            Self::Memory(_) => true,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Device(file) => file.size().0,
            Self::Memory(memory) => memory.size,
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Device(file) => file.path().display().to_string(),
            Self::Memory(_) => "memory".to_owned(),
        }
    }
}

impl From<DeviceFile> for Member {
    fn from(file: DeviceFile) -> Self {
        Self::Device(Arc::new(file))
    }
}

/// The memory of a volatile member. It is taken as it is written.
#[derive(Debug)]
pub struct Memory {
    size: u64,
    pieces: Vec<Option<Box<[u8]>>>,
}

impl Memory {
    /// Memory of `size` bytes, all zero.
    ///
    /// # Panics
    ///
    /// When it is larger than addresses reach.
    pub fn new(size: u64) -> Self {
        let pieces = usize::try_from(size.div_ceil(PIECE as u64)).expect("as many as addresses");
        Self { size, pieces: (0..pieces).map(|_| None).collect() }
    }

    /// Splits a range at the ends of pieces: the piece, where in it, and where in the range.
    fn parts(offset: u64, length: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let piece = usize::try_from(at / PIECE as u64).expect("a piece of the memory");
            let within = usize::try_from(at % PIECE as u64).expect("less than a piece");
            let count = (length - done).min(PIECE - within);
            let part = (count > 0).then_some((piece, within, done, count));
            done += count;
            part
        })
    }

    /// Fills `bytes` from byte `offset`.
    ///
    /// # Panics
    ///
    /// When that is beyond its end.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (piece, within, at, count) in Self::parts(offset, bytes.len()) {
            let into = &mut bytes[at..at + count];
            match &self.pieces[piece] {
                Some(piece) => into.copy_from_slice(&piece[within..within + count]),
                None => into.fill(0),
            }
        }
    }

    /// Makes `length` bytes from byte `offset` zero, and gives memory back where it can.
    ///
    /// # Panics
    ///
    /// When that is beyond its end.
    pub fn discard(&mut self, offset: u64, length: usize) {
        for (piece, within, _, count) in Self::parts(offset, length) {
            if count == PIECE {
                self.pieces[piece] = None;
            } else if let Some(piece) = &mut self.pieces[piece] {
                piece[within..within + count].fill(0);
            }
        }
    }

    /// Writes `bytes` at byte `offset`.
    ///
    /// # Panics
    ///
    /// When that is beyond its end, or there is no memory.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (piece, within, at, count) in Self::parts(offset, bytes.len()) {
            let piece = self.pieces[piece].get_or_insert_with(|| vec![0; PIECE].into_boxed_slice());
            piece[within..within + count].copy_from_slice(&bytes[at..at + count]);
        }
    }
}

/// The members of a pool, in the order in which they were given.
#[derive(Debug, Default)]
pub struct Members(pub Vec<Member>);

impl Members {
    /// Opens and locks the devices of a pool, in this order, all of them within `wait`: a daemon that
    /// was killed keeps its devices until the kernel has finished its last request.
    ///
    /// # Errors
    ///
    /// The first that cannot be used, and why. Those before it are unlocked again.
    pub fn open(paths: &[PathBuf], wait: Duration) -> Result<Self, DeviceError> {
        Self::open_each(paths, wait, DeviceFile::open)
    }

    /// As [`Members::open`], for reading only: others may read them meanwhile, and nobody write.
    ///
    /// # Errors
    ///
    /// The first that cannot be used, and why. Those before it are unlocked again.
    pub fn open_for_reading(paths: &[PathBuf], wait: Duration) -> Result<Self, DeviceError> {
        Self::open_each(paths, wait, DeviceFile::open_for_reading)
    }

    fn open_each(
        paths: &[PathBuf],
        wait: Duration,
        open: impl Fn(&Path, Duration) -> Result<DeviceFile, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let began = Instant::now();
        let open = |path: &PathBuf| open(path, wait.saturating_sub(began.elapsed()));
        let members = paths.iter().map(|path| open(path).map(Member::from));
        Ok(Self(members.collect::<Result<_, _>>()?))
    }

    fn failed(
        &self,
        slot: usize,
        operation: &'static str,
        offset: u64,
        reason: &dyn std::fmt::Display,
    ) -> MediumError {
        let reason = format!("{}: {reason}", self.0[slot].name());
        MediumError { slot, operation, offset, reason }
    }

    /// Has file systems set space aside for the metadata that the labels name.
    fn allocate(&self) -> Result<(), MediumError> {
        for (slot, member) in self.0.iter().enumerate() {
            let Member::Device(file) = member else { continue };
            for (offset, length) in metadata(file) {
                let allocated = file.allocate(offset, length);
                allocated
                    .map_err(|error| self.failed(slot, "setting space aside", offset, &error))?;
            }
        }
        Ok(())
    }
}

/// Where a member has metadata, as offset and length; nothing if its first label cannot be read.
fn metadata(file: &DeviceFile) -> Vec<(u64, u64)> {
    let mut bytes = vec![0; LABEL_SIZE];
    let read = file.read_at(0, &mut bytes);
    let Some(label) = read.ok().and_then(|()| Label::decode(&bytes).ok()) else {
        return Vec::new();
    };
    let labels = label_offsets(label.member_size).map(|offset| (offset, LABEL_SIZE as u64));
    let extents = [&label.slot_a, &label.slot_b, &label.log].into_iter().flatten();
    labels.into_iter().chain(extents.map(|extent| (extent.offset, extent.length))).collect()
}

impl Medium for Members {
    fn slots(&self) -> usize {
        self.0.len()
    }

    fn size(&self, slot: usize) -> u64 {
        self.0[slot].size()
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MediumError> {
        match &self.0[slot] {
            Member::Device(file) => {
                let read = file.read_at(offset, buffer);
                read.map_err(|error| self.failed(slot, "reading", offset, &error))
            }
            Member::Memory(memory) => {
                memory.read(offset, buffer);
                Ok(())
            }
        }
    }

    fn write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Result<(), MediumError> {
        match &mut self.0[slot] {
            Member::Device(file) => {
                let written = file.write_at(offset, data);
                written.map_err(|error| self.failed(slot, "writing", offset, &error))
            }
            Member::Memory(memory) => {
                memory.write(offset, data);
                Ok(())
            }
        }
    }

    fn flush(&mut self, slot: usize) -> Result<(), MediumError> {
        match &self.0[slot] {
            Member::Device(file) => {
                file.flush().map_err(|error| self.failed(slot, "flushing", 0, &error))
            }
            Member::Memory(_) => Ok(()),
        }
    }
}

/// Why a pool was not created or opened.
#[derive(Debug, Error)]
pub enum PoolError {
    /// It was not created.
    #[error("the pool was not created: {0}")]
    Create(#[from] CreateError),
    /// It was not opened.
    #[error("the pool was not opened: {0}")]
    Open(#[from] OpenError),
    /// A new pool's metadata has no space on its file system.
    #[error("the pool was not created: {0}")]
    Space(#[from] MediumError),
}

/// Destroys the pool that is on `members`, so that they are blank. On return that is durable, and they
/// are unlocked. Waits for the devices.
///
/// # Errors
///
/// When they are not one whole pool without volumes, unless forced; nothing is written then. When a
/// device failed it can be called again with what is left.
pub fn destroy(mut members: Members, options: DestroyOptions) -> Result<Destroyed, DestroyError> {
    fathom_lvs::destroy(&mut members, options)
}

/// An open pool with its members, before it goes to a loop.
pub struct Opened {
    pub(crate) opening: Opening,
    pub(crate) members: Members,
}

impl Opened {
    /// Creates a pool on `members` and opens it. Waits for the devices.
    ///
    /// # Errors
    ///
    /// Why not. The members are closed and unlocked.
    pub fn create(mut members: Members, new: &NewPool) -> Result<Self, PoolError> {
        fathom_lvs::create(&mut members, new)?;
        members.allocate()?;
        Self::open(members, OpenOptions::default())
    }

    /// Opens the pool that is on `members`. Waits for the devices.
    ///
    /// # Errors
    ///
    /// Why not. The members are closed and unlocked.
    pub fn open(mut members: Members, options: OpenOptions) -> Result<Self, PoolError> {
        // A pool opens on a full file system too; what has no space there then fails when it is
        // written.
        let _ = members.allocate();
        let opening = fathom_lvs::open(&mut members, options)?;
        Ok(Self { opening, members })
    }

    /// As [`Opened::create`], over whatever is on `members`, and says what that was: the name of each
    /// device that was not blank, and what stood on it.
    ///
    /// # Errors
    ///
    /// Why not. The members are closed and unlocked; some may be overwritten by then.
    pub fn create_over(
        mut members: Members,
        new: &NewPool,
    ) -> Result<(Self, Vec<(String, Content)>), PoolError> {
        let destroyed = occupied(&mut members)?;
        Ok((Self::create(members, &NewPool { force: true, ..new.clone() })?, destroyed))
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.opening.name
    }

    /// The pool's UUID.
    pub fn uuid(&self) -> Uuid {
        self.opening.uuid
    }

    /// The size of its clusters.
    pub fn cluster_size(&self) -> ClusterSize {
        self.opening.cluster_size
    }

    /// What opening found: log entries that were replayed, and blocks that a power cut took back.
    pub fn recovered(&self) -> (u64, u64) {
        (self.opening.replayed, self.opening.taken_back)
    }

    /// Whether nobody else can take the space of its members: each is a block device or memory, or a
    /// file all of which is set aside. On a sparse file a thick volume has its clusters of the pool,
    /// but their space on the file system is not promised.
    ///
    /// # Errors
    ///
    /// When a file cannot be asked.
    pub fn has_its_space(&self) -> Result<bool, DeviceError> {
        for member in &self.members.0 {
            if let Member::Device(file) = member
                && !file.is_allocated()?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The path and size of each member that is a device, in the order in which they were given.
    pub fn paths(&self) -> Vec<(PathBuf, ByteCount)> {
        let members = self.members.0.iter();
        members
            .filter_map(|member| match member {
                Member::Device(file) => Some((file.path().to_owned(), file.size())),
                Member::Memory(_) => None,
            })
            .collect()
    }

    /// Whether everything is gone when the process ends.
    pub fn is_volatile(&self) -> bool {
        self.members.0.iter().any(|member| matches!(member, Member::Memory(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_as_it_was_written_and_else_zero() {
        let mut memory = Memory::new(3 * PIECE as u64 + 4096);
        let bytes: Vec<u8> = (0..=250).cycle().take(PIECE + 8192).collect();
        memory.write(PIECE as u64 - 4096, &bytes);
        let mut read = vec![9; PIECE + 16384];
        memory.read(PIECE as u64 - 8192, &mut read);
        assert_eq!(read[4096..PIECE + 12288], bytes);
        assert!(read[..4096].iter().chain(&read[PIECE + 12288..]).all(|&byte| byte == 0));
        memory.read(3 * PIECE as u64, &mut read[..4096]);
        assert!(memory.pieces[3].is_none(), "what is not written takes no memory");
    }
}
