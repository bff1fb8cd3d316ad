//! Device files: the raw disks and plain files that are members of pools.
//!
//! ```text
//!   open, lock --> blocking reads and writes (opening a pool) --> a loop's ring
//!       one open file from the first step to the last I/O
//! ```
//!
//! - All I/O bypasses the page cache (`O_DIRECT`).
//! - The lock lives on the very open file that carries the I/O: `O_EXCL` on a block device, `flock`
//!   on a file. So it outlives a killed process until the kernel has finished its last request. It
//!   is never a lock file or a POSIX lock.
//! - What is opened for reading only cannot be written through this file, whatever is asked of it.
//! - A new file is never made over an existing one, and is there after a power cut when
//!   [`DeviceFile::create`] has returned.
//!
//! Before it: the configuration, which names paths. After it: `node/engine`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use fathom_block::{Buffer, PAGE_SIZE};
use fathom_units::ByteCount;
use rustix::{
    fs::{AtFlags, FallocateFlags, FlockOperation, StatxFlags, fallocate, flock, fsync, statx},
    io::Errno,
};
use thiserror::Error;

mod lock;

/// Bytes that one blocking transfer moves through an aligned buffer.
const BOUNCE: usize = 1 << 20;

/// A member of a pool as the kernel sees it: open, locked, without page cache.
#[derive(Debug)]
pub struct DeviceFile {
    file: File,
    path: PathBuf,
    kind: Kind,
    size: u64,
    sector_bytes: u32,
    discards: bool,
}

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A disk, partition, logical volume or loop device.
    BlockDevice,
    /// A plain file.
    File,
}

/// What a device is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    /// To read and write it, and nobody else has it.
    Own,
    /// To read it, and nobody writes it meanwhile. A file may have several readers.
    Read,
    /// To have a look, whoever has it.
    Look,
}

/// Whether a new file's space is taken at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// All of it: writes never find the file system full.
    Full,
    /// None: the file grows as it is written, until the file system is full.
    Sparse,
}

/// Why a device file cannot be used. Nothing was written, but for [`DeviceError::Create`].
#[derive(Debug, Error)]
pub enum DeviceError {
    /// It cannot be opened.
    #[error("{path}: cannot be opened: {source}", path = path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error("{path}: is neither a block device nor a plain file", path = path.display())]
    Kind {
        /// The path.
        path: PathBuf,
    },
    /// The file system has no direct I/O, or none that suits.
    #[error(
        "{path}: its file system offers no direct I/O in units of 4096 bytes (O_DIRECT); use a \
         file system that does, such as ext4 or xfs, or a block device",
        path = path.display()
    )]
    NoDirectIo {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error("{path}: is in use{}", by(holder), path = path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// Who, if that can be known.
        holder: Option<String>,
    },
    /// A file of that name exists where a new one was to be made.
    #[error("{path}: exists already, and is not overwritten", path = path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// A new file could not be made; what was made of it was removed.
    #[error("{path}: cannot be created with {size}: {source}", path = path.display())]
    Create {
        /// The path.
        path: PathBuf,
        /// Its size.
        size: ByteCount,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not say what has to be known of it.
    #[error("{path}: {what} cannot be found out: {source}", path = path.display())]
    Unknown {
        /// The path.
        path: PathBuf,
        /// What.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn by(holder: &Option<String>) -> String {
    holder.as_ref().map_or_else(String::new, |holder| format!(" by {holder}"))
}

impl DeviceFile {
    /// Opens and locks an existing block device or file. When somebody else has it, waits for up
    /// to `wait` until it is given up: a daemon that was killed keeps its devices until the kernel
    /// has finished its last request.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, and who has it if somebody does.
    pub fn open(path: &Path, wait: Duration) -> Result<Self, DeviceError> {
        Self::open_for(path, Access::Own, wait)
    }

    /// As [`DeviceFile::open`], but for reading only. The lock keeps everybody from writing it who
    /// takes one; of a file there may be several readers.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, and who has it if somebody does.
    pub fn open_for_reading(path: &Path, wait: Duration) -> Result<Self, DeviceError> {
        Self::open_for(path, Access::Read, wait)
    }

    /// Opens it for reading only and without a lock, whoever has it: what is read may change at any
    /// time, so it serves to tell people what is there.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub fn open_to_look(path: &Path) -> Result<Self, DeviceError> {
        Self::open_for(path, Access::Look, Duration::ZERO)
    }

    fn open_for(path: &Path, access: Access, wait: Duration) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::Open { path: path.to_owned(), source };
        // Looked at by its name first, since opening a pipe waits for its other end.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let kind = match metadata.file_type() {
            kind if kind.is_block_device() => Kind::BlockDevice,
            kind if kind.is_file() => Kind::File,
            _ => return Err(DeviceError::Kind { path: path.to_owned() }),
        };
        let file = lock::acquire(path, kind, access, wait)?;
        // The name may mean something else by now: what was opened counts.
        let opened = file.metadata().map_err(failed)?;
        let same = match kind {
            Kind::BlockDevice => opened.file_type().is_block_device(),
            Kind::File => opened.is_file(),
        };
        if !same {
            return Err(DeviceError::Kind { path: path.to_owned() });
        }
        Self::new(file, path, kind, access)
    }

    /// Makes a new file of `size` bytes, rounded up to whole pages, and locks it. On return it is
    /// on stable media under its name.
    ///
    /// # Errors
    ///
    /// When something of that name exists, or it cannot be made.
    pub fn create(path: &Path, size: u64, allocation: Allocation) -> Result<Self, DeviceError> {
        let size = size.next_multiple_of(PAGE_SIZE as u64);
        let failed =
            |source| DeviceError::Create { path: path.to_owned(), size: ByteCount(size), source };
        let file =
            match lock::options(Kind::File, Access::Own).create_new(true).mode(0o600).open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(DeviceError::Exists { path: path.to_owned() });
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    // The file is made before the kernel finds that it has no direct I/O. It is removed
                    // if it is empty, which the file of somebody else who was quicker is not.
                    if std::fs::metadata(path).is_ok_and(|made| made.is_file() && made.len() == 0) {
                        let _ = std::fs::remove_file(path);
                    }
                    return Err(DeviceError::NoDirectIo { path: path.to_owned() });
                }
                Err(error) => return Err(failed(error)),
            };
        let made = make(&file, path, size, allocation).map_err(failed);
        let device = made.and_then(|()| Self::new(file, path, Kind::File, Access::Own));
        if device.is_err() {
            // It is this call's own, and of no use.
            let _ = std::fs::remove_file(path);
        }
        device
    }

    fn new(file: File, path: &Path, kind: Kind, access: Access) -> Result<Self, DeviceError> {
        let unknown =
            |what| move |source| DeviceError::Unknown { path: path.to_owned(), what, source };
        let sector_bytes = sector_bytes(&file, kind).map_err(unknown("its sector size"))?;
        if sector_bytes as usize > PAGE_SIZE || !PAGE_SIZE.is_multiple_of(sector_bytes as usize) {
            return Err(DeviceError::NoDirectIo { path: path.to_owned() });
        }
        let size = end_of(&file).map_err(unknown("its size"))?;
        // What cannot be written gives no space back either.
        let discards = access == Access::Own
            && discards(&file, kind, size).map_err(unknown("whether it discards"))?;
        Ok(Self { file, path: path.to_owned(), kind, size, sector_bytes, discards })
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its size in bytes when it was opened.
    pub fn size(&self) -> ByteCount {
        ByteCount(self.size)
    }

    /// Its size in bytes now: a device may have grown since it was opened.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn size_now(&self) -> Result<ByteCount, DeviceError> {
        let unknown = |source| {
            let what = "its size";
            DeviceError::Unknown { path: self.path.clone(), what, source }
        };
        end_of(&self.file).map(ByteCount).map_err(unknown)
    }

    /// The unit in which it can be read and written, in bytes: at most 4096.
    pub fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    /// Whether space in it can be given back.
    pub fn discards(&self) -> bool {
        self.discards
    }

    // Blocking I/O, for opening a pool.

    /// Fills `bytes` from byte `offset`; both are multiples of 4096. Waits for the device.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut bounce = Buffer::zeroed(bytes.len().min(BOUNCE));
        let mut offset = offset;
        for part in bytes.chunks_mut(BOUNCE) {
            let aligned = &mut bounce.bytes_mut()[..part.len()];
            self.file.read_exact_at(aligned, offset)?;
            part.copy_from_slice(aligned);
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Writes `bytes` at byte `offset`; both are multiples of 4096. Waits for the device. It is on
    /// stable media after the next [`DeviceFile::flush`].
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut bounce = Buffer::zeroed(bytes.len().min(BOUNCE));
        let mut offset = offset;
        for part in bytes.chunks(BOUNCE) {
            let aligned = &mut bounce.bytes_mut()[..part.len()];
            aligned.copy_from_slice(part);
            self.file.write_all_at(aligned, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Brings every completed write to stable media. Waits for the device.
    ///
    /// # Errors
    ///
    /// What the kernel said; what was written before may then be gone.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Has the file system set space aside for a range of a file, so that writing it does not find
    /// the file system full. Content stays. A block device has its space.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.kind == Kind::BlockDevice {
            return Ok(());
        }
        Ok(fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length)?)
    }

    /// Whether all of its space is set aside. A block device has its space.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn is_allocated(&self) -> Result<bool, DeviceError> {
        /// The unit of `st_blocks`, whatever the file system's is.
        const UNIT: u64 = 512;
        if self.kind == Kind::BlockDevice {
            return Ok(true);
        }
        let what = "its allocated space";
        let unknown = |source| DeviceError::Unknown { path: self.path.clone(), what, source };
        Ok(self.file.metadata().map_err(unknown)?.blocks() * UNIT >= self.size)
    }
}

impl AsFd for DeviceFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Locks a file that was just made, gives it its size and makes it and its name durable.
fn make(file: &File, path: &Path, size: u64, allocation: Allocation) -> io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive)?;
    match allocation {
        Allocation::Full => fallocate(file, FallocateFlags::empty(), 0, size)?,
        Allocation::Sparse => file.set_len(size)?,
    }
    fsync(file)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(fsync(File::open(folder.unwrap_or(Path::new(".")))?)?)
}

fn end_of(mut file: &File) -> io::Result<u64> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

fn sector_bytes(file: &File, kind: Kind) -> io::Result<u32> {
    if kind == Kind::BlockDevice {
        return Ok(rustix::fs::ioctl_blksszget(file)?);
    }
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let told = found.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    // Zero: no direct I/O. Not told by a file system that does not say: it was opened so, and each
    // I/O that does not suit fails.
    Ok(match (told, found.stx_dio_offset_align.max(found.stx_dio_mem_align)) {
        (false, _) => 512,
        (true, 0) => u32::MAX,
        (true, align) => align.max(512),
    })
}

/// Whether space can be given back; found out without changing anything.
fn discards(file: &File, kind: Kind, size: u64) -> io::Result<bool> {
    match kind {
        Kind::BlockDevice => {
            let number = file.metadata()?.rdev();
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            let device = format!("/sys/dev/block/{major}:{minor}");
            // A partition has the queue of its disk.
            let limits = ["queue", "../queue"].map(|queue| {
                std::fs::read_to_string(format!("{device}/{queue}/discard_max_bytes"))
            });
            Ok(limits.into_iter().flatten().any(|limit| limit.trim() != "0"))
        }
        Kind::File => {
            // Behind its end there is nothing to be lost.
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let beyond = size.next_multiple_of(PAGE_SIZE as u64);
            match fallocate(file, hole, beyond, PAGE_SIZE as u64) {
                Ok(()) => Ok(true),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
                Err(error) => Err(error.into()),
            }
        }
    }
}
