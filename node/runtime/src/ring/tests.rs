//! The ring against the real kernel, on pipes and files in memory.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
};

use fathom_block::Buffer as Owned;
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, memfd_create, open},
    pipe::pipe,
};

use super::*;
use crate::io::Memory;
use crate::{
    arena::{Buffer, SizeClass},
    lend::{Purpose, Shared},
};

struct Rig {
    ring: Ring,
    arena: Arena,
    waker: Arc<Waker>,
}

fn rig(slots: u32) -> Rig {
    let classes = [
        SizeClass { chunk_bytes: 4096, chunks: 8 },
        SizeClass { chunk_bytes: 64 << 10, chunks: 2 },
    ];
    let arena = Arena::new(&classes);
    let waker = Arc::new(Waker::new().expect("an eventfd"));
    let receive = SizeClass { chunk_bytes: 4096, chunks: 0 };
    let capacity = Capacity { ios: slots, files: 8, sockets: 0, receive };
    let ring = Ring::new(capacity, &arena, Arc::clone(&waker)).map_err(|(_, error)| error);
    let ring = ring.expect("io_uring works here");
    Rig { ring, arena, waker }
}

/// An I/O that has ended.
struct Ended {
    owner: u64,
    token: u64,
    io: Io,
    result: Result<usize, Errno>,
}

impl Rig {
    fn open(&mut self, file: impl Into<OwnedFd>) -> FileKey {
        self.ring.open(Arc::new(file.into())).expect("there is room for a file")
    }

    /// Waits for the next I/O to end.
    fn finish(&mut self) -> Ended {
        let mut completions = Vec::new();
        loop {
            self.ring.wait(Monotonic(0), None);
            // One at a time, so that none is lost.
            let first = self.ring.uring.completion().next();
            completions.extend(first.map(|entry| Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            }));
            for completion in completions.drain(..) {
                if let Some(Finished::Io { owner, token, io, result }) =
                    self.ring.finish(completion)
                {
                    return Ended { owner, token, io, result };
                }
            }
        }
    }

    fn run(&mut self, io: Io) -> Ended {
        self.ring.submit(7, 9, io).expect("there is room");
        let finished = self.finish();
        assert_eq!((finished.owner, finished.token), (7, 9));
        finished
    }

    fn errno(&mut self, io: Io) -> i32 {
        self.run(io).result.expect_err("it fails").0
    }
}

fn memory_file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.write_all(bytes).expect("it is written");
    file
}

fn read(file: FileKey, offset: u64, length: usize) -> Io {
    Io::Read { file, offset, memory: Memory::Buffer(Buffer::zeroed(length)) }
}

fn write(file: FileKey, offset: u64, bytes: &[u8]) -> Io {
    let mut buffer = Buffer::zeroed(bytes.len());
    buffer.copy_from_slice(bytes);
    Io::Write { file, offset, memory: Memory::Buffer(buffer), fua: false }
}

fn device(path: &str) -> OwnedFd {
    open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("every Linux has it")
}

#[test]
fn every_kind_of_memory_is_read_and_written() {
    let mut rig = rig(4);
    let mut plain = memory_file(&[0; 8192]);
    let file = rig.open(plain.try_clone().expect("a second descriptor"));
    let mut fixed = rig.arena.take(4096).expect("it is free");
    fixed.fill(1);
    let mut owned = Owned::zeroed(4096);
    owned.bytes_mut().fill(2);
    let mut shared = Shared::default();
    shared.put(rig.arena.take(4096).expect("it is free"));
    shared.bytes_mut(0..4096).fill(3);
    let loan = shared.lend(1024..3072, Purpose::Drain);
    let memories =
        [(0, Memory::Buffer(fixed)), (4096, Memory::Owned(owned, 512)), (6144, Memory::Loan(loan))];
    for (offset, memory) in memories {
        let length = memory.length();
        let io = Io::Write { file, offset, memory, fua: offset == 0 };
        let finished = rig.run(io);
        assert_eq!(finished.result, Ok(length));
        if let Some(Memory::Loan(loan)) = finished.io.into_memory() {
            shared.give_back(loan);
        }
    }
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut plain).expect("it can be read again");
    plain.read_to_end(&mut bytes).expect("it is read");
    let expected = [vec![1; 4096], vec![2; 512], vec![0; 1536], vec![3; 2048]].concat();
    assert_eq!(bytes, expected);

    let loan = shared.lend(0..4096, Purpose::Fill);
    let io = Io::Read { file, offset: 2048, memory: Memory::Loan(loan) };
    match rig.run(io).io.into_memory() {
        Some(Memory::Loan(loan)) => shared.give_back(loan),
        other => panic!("the loan comes back, not {other:?}"),
    }
    assert_eq!(shared.bytes(), &expected[2048..6144]);
    let buffer = rig.arena.take(512).expect("it is free");
    let finished = rig.run(Io::Read { file, offset: 4096, memory: Memory::Buffer(buffer) });
    assert_eq!(finished.io.into_memory().expect("it comes back").bytes(), &expected[4096..4608]);
    assert_eq!(rig.run(Io::Flush { file }).result, Ok(0));
    assert_eq!(rig.run(Io::Discard { file, offset: 0, length: 4096 }).result, Ok(0));
    let finished = rig.run(read(file, 0, 4096));
    assert!(finished.io.into_memory().expect("it comes back").bytes().iter().all(|&b| b == 0));
}

#[test]
fn a_short_read_goes_on_until_all_is_there() {
    let mut rig = rig(4);
    let (from, to) = pipe().expect("a pipe");
    let mut to = File::from(to);
    let file = rig.open(from);
    rig.ring.submit(7, 9, read(file, 0, 300)).expect("there is room");
    rig.ring.enter();
    to.write_all(&[1; 100]).expect("a pipe takes it");
    let mut seen = Vec::new();
    while seen.is_empty() {
        rig.ring.wait(Monotonic(0), None);
        rig.ring.take_completions(&mut seen);
        seen.retain(|completion| completion.user_data < CANCEL);
    }
    assert_eq!(seen[0].result, 100);
    assert!(rig.ring.finish(seen[0]).is_none(), "100 of 300 bytes are not all");
    to.write_all(&[2; 200]).expect("a pipe takes it");
    let finished = rig.finish();
    assert_eq!(finished.result, Ok(300));
    let memory = finished.io.into_memory().expect("it comes back");
    assert_eq!(memory.bytes(), [vec![1; 100], vec![2; 200]].concat());
}

#[test]
fn what_fails_says_how() {
    let mut rig = rig(4);
    let full = rig.open(device("/dev/full"));
    assert_eq!(rig.errno(write(full, 0, &[1; 512])), libc::ENOSPC);
    assert!(Errno(libc::ENOSPC).is_no_space() && !Errno(libc::EIO).is_no_space());
    let process = rig.open(device("/proc/self/mem"));
    assert_eq!(rig.errno(read(process, 0, 512)), libc::EIO);
    let short = rig.open(memory_file(&[5; 1000]));
    assert_eq!(rig.run(read(short, 500, 501)).result, Err(Errno::SHORT));
    assert_eq!(rig.errno(write(short, u64::MAX >> 1, &[1; 512])), libc::EINVAL);
    let (from, to) = pipe().expect("a pipe");
    let from = rig.open(from);
    assert_eq!(rig.errno(write(from, 0, &[1; 512])), libc::EBADF);
    assert_eq!(rig.errno(Io::Flush { file: from }), libc::EINVAL);
    let discard = Io::Discard { file: from, offset: 0, length: 4096 };
    assert_eq!(rig.errno(discard), libc::EBADF);
    drop(to);
    assert_eq!(rig.run(read(from, 0, 1)).result, Err(Errno::SHORT));
}

#[test]
fn a_full_ring_gives_the_io_back() {
    let mut rig = rig(2);
    let (from, to) = pipe().expect("a pipe");
    let file = rig.open(from);
    for token in 0..2 {
        rig.ring.submit(7, token, read(file, 0, 1)).expect("there is room");
    }
    match rig.ring.submit(7, 2, read(file, 0, 77)) {
        Err(Rejected::Full(io)) => assert_eq!(io.whole_length(), Some(77)),
        other => panic!("two are the most, not {other:?}"),
    }
    File::from(to).write_all(&[1; 1]).expect("a pipe takes it");
    assert_eq!(rig.finish().result, Ok(1));
    rig.ring.submit(7, 2, read(file, 0, 1)).expect("there is room again");
}

#[test]
fn more_than_the_submission_queue_holds_is_submitted() {
    let mut rig = rig(1000);
    let file = rig.open(memory_file(&[3; 4096]));
    for token in 0..1000 {
        rig.ring.submit(7, token, read(file, token, 8)).expect("there is room");
    }
    let mut tokens: Vec<u64> = (0..1000).map(|_| rig.finish().token).collect();
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..1000));
    assert_eq!(rig.ring.in_flight(), 0);
}

#[test]
fn a_cancelled_read_gives_its_memory_back() {
    let mut rig = rig(2);
    let (from, _to) = pipe().expect("a pipe");
    let file = rig.open(from);
    let key = rig.ring.submit(7, 9, read(file, 0, 123)).expect("there is room");
    rig.ring.cancel(key);
    let finished = rig.finish();
    assert_eq!(finished.result, Err(Errno::CANCELLED));
    assert_eq!(finished.io.into_memory().expect("it comes back").length(), 123);
    // Its slot may have another one by now, which is left alone.
    let next = rig.ring.submit(7, 10, read(file, 0, 1)).expect("there is room");
    assert_eq!(key.number, next.number);
    rig.ring.cancel(key);
    rig.ring.enter();
    assert_eq!(rig.ring.in_flight(), 1);
}

#[test]
fn dropping_the_ring_ends_what_is_under_way() {
    let Rig { mut ring, mut arena, waker } = rig(8);
    let (from, to) = pipe().expect("a pipe");
    let file = ring.open(Arc::new(from)).expect("there is room for a file");
    let free = arena.free(4096);
    for token in 0..4 {
        let memory = Memory::Buffer(arena.take(4096).expect("it is free"));
        ring.submit(7, token, Io::Read { file, offset: 0, memory }).expect("there is room");
    }
    ring.enter();
    // The wake-up is under way too, and one I/O that the kernel has not been given yet.
    waker.fall_asleep();
    waker.ring();
    ring.wait(Monotonic(0), None);
    let memory = Memory::Buffer(arena.take(4096).expect("it is free"));
    ring.submit(7, 4, Io::Read { file, offset: 0, memory }).expect("there is room");
    assert_eq!(arena.free(4096), free - 5);
    drop(ring);
    assert_eq!(arena.free(4096), free);
    let error = File::from(to).write(&[1]).expect_err("nobody has the other end any more");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn a_released_file_stays_until_its_last_io() {
    let mut rig = rig(2);
    let (from, to) = pipe().expect("a pipe");
    let from = Arc::new(from);
    let watch = Arc::downgrade(&from);
    let file = rig.ring.open(from).expect("there is room for a file");
    rig.ring.submit(7, 9, read(file, 0, 1)).expect("there is room");
    rig.ring.release(file);
    assert!(matches!(rig.ring.submit(7, 9, read(file, 0, 1)), Err(Rejected::NoFile(_))));
    assert!(watch.upgrade().is_some());
    File::from(to).write_all(&[1]).expect("a pipe takes it");
    assert_eq!(rig.finish().result, Ok(1));
    assert!(watch.upgrade().is_none());
}

#[test]
fn the_file_table_is_bounded_and_its_places_are_used_again() {
    let mut rig = rig(2);
    let keys: Vec<FileKey> = (0..8).map(|_| rig.open(memory_file(&[1]))).collect();
    assert!(rig.ring.open(Arc::new(memory_file(&[1]))).is_none());
    rig.ring.release(keys[3]);
    let key = rig.open(memory_file(&[2]));
    assert_eq!(rig.run(read(key, 0, 1)).io.into_memory().expect("it is back").bytes(), [2]);
    assert!(matches!(rig.ring.submit(7, 9, read(keys[3], 0, 1)), Err(Rejected::NoFile(_))));
}

#[test]
#[should_panic(expected = "a read fills its memory")]
fn a_read_into_what_is_lent_to_be_drained_is_refused() {
    let mut rig = rig(2);
    let file = rig.open(memory_file(&[1]));
    let mut shared = Shared::default();
    shared.put(Buffer::zeroed(8));
    let memory = Memory::Loan(shared.lend(0..8, Purpose::Drain));
    let _key = rig.ring.submit(7, 9, Io::Read { file, offset: 0, memory });
}

#[test]
fn a_wait_ends_at_its_time() {
    let mut rig = rig(2);
    rig.ring.wait(Monotonic(0), Some(Monotonic(1_000_000)));
    rig.ring.wait(Monotonic(5), Some(Monotonic(5)));
}
