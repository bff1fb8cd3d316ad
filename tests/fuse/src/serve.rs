//! The file system as the kernel asks for it: one folder with one file for each disk.
//!
//! - Nothing is cached: files are opened for direct I/O whatever the program asked, and
//!   attributes are asked for each time. So every read and write of a program arrives here.
//! - Writes to one file may be in flight together, and so may asynchronous ones of one thread:
//!   without both, an io_uring would give the kernel many requests and the kernel us only one.
//! - `O_DSYNC` and `RWF_DSYNC` come as a flag of the write, and there is no flush after it.
//! - Locks are the kernel's own: they are never asked for here.
//!
//! Source: the protocol of `/dev/fuse` as of Linux 6.1 (`include/uapi/linux/fuse.h`).

use std::{
    ffi::OsStr,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags};

use crate::{
    gate::{Answer, Gate},
    moment::Operation,
    request::{Failure, Kind, REQUEST_BYTES_MAX},
};

/// How many asynchronous requests the kernel hands over before it makes programs wait. Held ones
/// count.
pub const REQUESTS_MAX: u16 = 4096;

/// What the kernel may remember of an answer: nothing.
const VALID_FOR: Duration = Duration::ZERO;

/// The inode of the first disk's file; 1 is the folder.
const FIRST_INODE: u64 = 2;

/// The name of a disk's file.
pub(crate) fn name(disk: usize) -> String {
    format!("disk{disk}")
}

pub(crate) fn inode(disk: usize) -> INodeNo {
    INodeNo(FIRST_INODE + disk as u64)
}

pub(crate) struct Served {
    pub(crate) gate: Arc<Gate>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Served {
    fn disk(&self, inode: INodeNo) -> Option<usize> {
        let disk = usize::try_from(inode.0.checked_sub(FIRST_INODE)?).ok()?;
        (disk < self.gate.lock().disks.len()).then_some(disk)
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let size = match inode {
            INodeNo::ROOT => None,
            file => {
                let disk = self.disk(file)?;
                Some(self.gate.lock().disks[disk].capacity())
            }
        };
        let (kind, perm) = match size {
            Some(_) => (FileType::RegularFile, 0o600),
            None => (FileType::Directory, 0o700),
        };
        let size = size.unwrap_or(0);
        let time = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Passes a request on; `reply` is told how it ended.
    fn pass(
        &self,
        inode: INodeNo,
        operation: Operation,
        reply: impl FnOnce(Result<Vec<u8>, Errno>) + Send + 'static,
    ) {
        let Some(disk) = self.disk(inode) else { return reply(Err(Errno::EISDIR)) };
        let reply = |answer: Answer| reply(answer.map_err(errno));
        self.gate.arrive(disk, operation, Box::new(reply));
    }
}

fn errno(failure: Failure) -> Errno {
    match failure {
        Failure::Io => Errno::EIO,
        Failure::NoSpace => Errno::ENOSPC,
        Failure::Invalid => Errno::EINVAL,
    }
}

fn reply_empty(reply: ReplyEmpty) -> impl FnOnce(Result<Vec<u8>, Errno>) + Send {
    |answer| match answer {
        Ok(_) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let missing = |what: &str| io::Error::other(format!("this kernel's FUSE has no {what}"));
        let flags = InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_MAX_PAGES;
        config.add_capabilities(flags).map_err(|flags| missing(&format!("{flags:?}")))?;
        config.set_max_write(REQUEST_BYTES_MAX).map_err(|_| missing("writes of 1 MiB"))?;
        config.set_max_background(REQUESTS_MAX).map_err(|_| missing("background requests"))?;
        config.set_congestion_threshold(REQUESTS_MAX).map_err(|_| missing("congestion"))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, wanted: &OsStr, reply: ReplyEntry) {
        let disks = self.gate.lock().disks.len();
        let disk = (0..disks).find(|&disk| parent == INodeNo::ROOT && *wanted == *name(disk));
        match disk.and_then(|disk| self.attributes(inode(disk))) {
            Some(attributes) => reply.entry(&VALID_FOR, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&VALID_FOR, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(mut attributes) = self.attributes(inode) else {
            return reply.error(Errno::ENOENT);
        };
        let Some(size) = size.filter(|&size| size != attributes.size) else {
            return reply.attr(&VALID_FOR, &attributes);
        };
        if size < attributes.size || !size.is_multiple_of(4096) {
            return reply.error(Errno::EINVAL);
        }
        attributes.size = size;
        let operation = Operation { kind: Kind::Grow, offset: 0, length: size, data: None };
        self.pass(inode, operation, move |answer| match answer {
            Ok(_) => reply.attr(&VALID_FOR, &attributes),
            Err(error) => reply.error(error),
        });
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let operation = Operation { kind: Kind::Read, offset, length: u64::from(size), data: None };
        self.pass(inode, operation, |answer| match answer {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        });
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
        let length = u32::try_from(data.len()).expect("at most what max_write says");
        let operation = Operation {
            kind: Kind::Write { fua: flags.intersects(OFlags::DSYNC) },
            offset,
            length: u64::from(length),
            data: Some(data.into()),
        };
        self.pass(inode, operation, move |answer| match answer {
            Ok(_) => reply.written(length),
            Err(error) => reply.error(error),
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let operation = Operation { kind: Kind::Flush, offset: 0, length: 0, data: None };
        self.pass(inode, operation, reply_empty(reply));
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let zeroes = mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE);
        let known =
            FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if !known.contains(mode) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let kind = match (zeroes, mode.contains(FallocateFlags::KEEP_SIZE)) {
            (true, _) => Kind::Discard,
            (false, false) => Kind::Grow,
            // All space is there.
            (false, true) => return reply.ok(),
        };
        let operation = Operation { kind, offset, length, data: None };
        self.pass(inode, operation, reply_empty(reply));
    }

    fn readdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let disks = self.gate.lock().disks.len();
        let folders = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name.to_owned()));
        let files = (0..disks).map(|disk| (inode(disk), FileType::RegularFile, name(disk)));
        let entries = folders.into_iter().chain(files).zip(1..);
        for ((inode, kind, name), next) in entries.skip(usize::try_from(offset).unwrap_or(0)) {
            if reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
