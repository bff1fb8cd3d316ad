//! Taking a device for oneself, and telling who has it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock, major, minor},
    io::Errno,
};

use super::{Access, DeviceError, Kind};
use crate::patience;

/// How a device file is opened.
pub(super) fn options(kind: Kind, access: Access) -> OpenOptions {
    let mut flags = libc::O_DIRECT | libc::O_CLOEXEC | libc::O_NONBLOCK;
    if kind == Kind::BlockDevice && access != Access::Look {
        flags |= libc::O_EXCL;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::Own).custom_flags(flags);
    options
}

/// Opens and locks, trying for as long as `wait` when somebody else has it: the kernel offers no event
/// for a block device or an `flock` that can be waited for under a deadline.
pub(super) fn acquire(
    path: &Path,
    kind: Kind,
    access: Access,
    wait: Duration,
) -> Result<File, DeviceError> {
    let file = patience::until(wait, || attempt(path, kind, access))?;
    file.ok_or_else(|| DeviceError::InUse { path: path.to_owned(), holder: holder(path, kind) })
}

/// `None` when somebody else has it.
fn attempt(path: &Path, kind: Kind, access: Access) -> Result<Option<File>, DeviceError> {
    let file = match options(kind, access).open(path) {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::EBUSY) if kind == Kind::BlockDevice => Ok(None),
                Some(libc::EINVAL) => Err(DeviceError::NoDirectIo { path: path.to_owned() }),
                _ => Err(DeviceError::Open { path: path.to_owned(), source: error }),
            };
        }
    };
    let lock = match access {
        Access::Own => FlockOperation::NonBlockingLockExclusive,
        Access::Read => FlockOperation::NonBlockingLockShared,
        Access::Look => return Ok(Some(file)),
    };
    if kind == Kind::BlockDevice {
        return Ok(Some(file));
    }
    match flock(&file, lock) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => {
            let source = io::Error::from(error);
            Err(DeviceError::Open { path: path.to_owned(), source })
        }
    }
}

/// Who has it, as far as the kernel tells.
fn holder(path: &Path, kind: Kind) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    match kind {
        Kind::BlockDevice => device_holder(metadata.rdev()),
        Kind::File => lock_holder(metadata.dev(), metadata.ino()),
    }
}

/// Devices that are built on it (`dm-3`), or the mount points of its file system.
fn device_holder(number: u64) -> Option<String> {
    let number = format!("{}:{}", major(number), minor(number));
    let holders = fs::read_dir(format!("/sys/dev/block/{number}/holders")).ok();
    let names = holders.into_iter().flatten().flatten();
    if let Some(name) = names.map(|entry| entry.file_name()).next() {
        return Some(format!("the device {}", name.to_string_lossy()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(2) == Some(number.as_str())).then(|| fields.nth(1)).flatten()
    })?;
    Some(format!("the file system that is mounted at {mount}"))
}

/// The process that has an `flock` on a file, from a line such as
/// `1: FLOCK  ADVISORY  WRITE 708 08:01:1234 0 EOF`.
fn lock_holder(device: u64, inode: u64) -> Option<String> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let process = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&file.as_str());
        is_it.then(|| fields[4].to_owned())
    })?;
    // The process that locked it may have ended, and its lock live on with an I/O.
    Some(match fs::read_to_string(format!("/proc/{process}/comm")) {
        Ok(name) => format!("process {process} ({})", name.trim()),
        Err(_) => format!("process {process}, which has ended while the device had work to do"),
    })
}
