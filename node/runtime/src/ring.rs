//! One io_uring: I/O goes in with its memory and comes back with its result.
//!
//! ```text
//!   submit --> slot --> SQE --enter--> kernel --> CQE --> finish --> owner, Io, result
//!                ^                                  |
//!                +------ the rest of a short one ---+
//! ```
//!
//! - From its submission until it is finished, an [`Io`] and its memory lie in a slot, which never
//!   moves. Nobody else can reach that memory.
//! - A file that is released stays open until its last I/O is finished.
//! - Dropping the ring cancels what can be cancelled and waits for the rest.
//! - There are as many slots as were configured, and room for each one's completion.
//! - A read or write ends when all of it is done, or with an error.
//! - What sockets do is reported as the kernel does it; [`crate::net`] makes sense of it. It has
//!   slots of its own, two for each socket, so that it never waits for one.
//! - Files are in the kernel's table, sockets are named by their descriptor: before 6.13 a kernel
//!   lets no file go while anything is under way that began earlier and used that table, and a
//!   receive is under way as long as its connection.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use fathom_units::Monotonic;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::{
    arena::{Arena, SizeClass},
    io::{Errno, FileKey, Io, IoKey, Rejected},
    net::{SocketKey, traffic::Traffic},
    setup::Step,
    slice::Slice,
    waker::Waker,
};

mod provided;

pub(crate) use provided::PROVIDED_MAX;
use provided::{GROUP, Provided};

/// Entries of the submission queue; more are submitted when it is full.
const SUBMISSIONS: u32 = 256;
/// Completions that one look takes over.
pub(crate) const COMPLETIONS: usize = 256;
/// How often an I/O that the kernel puts off (`EAGAIN`, `EINTR`) is tried.
const TRIES_MAX: u32 = 64;
/// The most bytes that the kernel moves in one I/O, in whole pages.
const TRANSFER_MAX: usize = 1 << 30;
/// The name of the wake-up and of the cancellation; no slot has them.
const WAKE: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// Numbers the rings of the process, so that memory knows in which one it is registered.
static NEXT_RING: AtomicU16 = AtomicU16::new(0);

/// How large a ring is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Capacity {
    /// I/Os of files that may be under way.
    pub(crate) ios: u32,
    pub(crate) files: u32,
    pub(crate) sockets: u32,
    /// What sockets receive into; without chunks they cannot.
    pub(crate) receive: SizeClass,
}

impl Capacity {
    /// How many things may be under way: an I/O, or a socket's receive or send.
    fn slots(self) -> u32 {
        self.ios + 2 * self.sockets
    }

    /// One for each slot and chunk, the wake-up and the cancellation. A socket that is cancelled
    /// or that takes connections may add some, for which the kernel has a list of its own.
    fn completions(self) -> u32 {
        let chunks = u32::try_from(self.receive.chunks).expect("at most PROVIDED_MAX");
        (self.slots() + chunks + 2).next_power_of_two().max(SUBMISSIONS)
    }
}

/// A completion as the kernel tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// Something that has ended, or moved on.
pub(crate) enum Finished {
    /// An I/O has ended.
    Io { owner: u64, token: u64, io: Io, result: Result<usize, Errno> },
    /// A socket has something.
    Socket(Report),
}

/// What became of something that a socket had under way.
pub(crate) struct Report {
    pub(crate) socket: SocketKey,
    pub(crate) result: Result<Outcome, Errno>,
    /// What has ended. `None` when more will come of it.
    pub(crate) ended: Option<Traffic>,
}

/// What a socket has done.
pub(crate) enum Outcome {
    /// It has taken a connection.
    Accepted(OwnedFd),
    /// It has received into a chunk.
    Received(Slice),
    /// It has moved so many bytes; of a receive, 0 is the end of the stream.
    Moved(usize),
}

enum InFlight {
    Io(FileIo),
    Socket { socket: SocketKey, fd: RawFd, traffic: Traffic },
}

struct FileIo {
    owner: u64,
    token: u64,
    io: Io,
    /// Bytes that are done.
    done: usize,
    tries: u32,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    in_flight: Option<InFlight>,
}

struct OpenFile {
    file: Arc<dyn AsFd + Send + Sync>,
    in_flight: u32,
    released: bool,
}

#[derive(Default)]
struct FileSlot {
    generation: u32,
    open: Option<OpenFile>,
}

/// An io_uring and everything that is under way in it.
pub(crate) struct Ring {
    uring: IoUring,
    number: u16,
    slots: Box<[Slot]>,
    free: Vec<u32>,
    ios: u32,
    ios_max: u32,
    files: Box<[FileSlot]>,
    free_files: Vec<u32>,
    /// The file table is registered in the kernel.
    files_registered: bool,
    buffers_registered: usize,
    /// Slots whose rest could not be submitted yet.
    retry: Vec<u32>,
    /// What could not be cancelled yet, by its user data.
    retry_cancel: Vec<u64>,
    /// Where sockets receive.
    provided: Option<Provided>,
    waker: Arc<Waker>,
    /// Where the wake-up is read to.
    wake_count: Box<[u8; 8]>,
    wake_armed: bool,
    unsubmitted: u32,
    /// The kernel lets only the thread that made it submit.
    _stays: std::marker::PhantomData<*const ()>,
}

impl Ring {
    /// Sets up a ring for the calling thread and registers what can be registered.
    ///
    /// # Errors
    ///
    /// What the kernel says when it refuses the ring itself, or the chunks for sockets.
    pub(crate) fn new(
        capacity: Capacity,
        arena: &Arena,
        waker: Arc<Waker>,
    ) -> Result<Self, (Step, io::Error)> {
        let (slots, files) = (capacity.slots(), capacity.files);
        let uring = IoUring::builder()
            .dontfork()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(capacity.completions())
            .build(SUBMISSIONS)
            .map_err(|error| (Step::Ring, error))?;
        let provided = match capacity.receive {
            SizeClass { chunks: 0, .. } => None,
            class => Some(
                Provided::new(class, Arc::clone(&waker), &uring.submitter())
                    .map_err(|error| (Step::Receive, error))?,
            ),
        };
        let mut ring = Self {
            uring,
            number: NEXT_RING.fetch_add(1, Ordering::Relaxed),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            free: (0..slots).rev().collect(),
            ios: 0,
            ios_max: capacity.ios,
            files: (0..files).map(|_| FileSlot::default()).collect(),
            free_files: (0..files).rev().collect(),
            files_registered: false,
            buffers_registered: 0,
            retry: Vec::with_capacity(slots as usize),
            retry_cancel: Vec::new(),
            provided,
            waker,
            wake_count: Box::new([0; 8]),
            wake_armed: false,
            unsubmitted: 0,
            _stays: std::marker::PhantomData,
        };
        // Refused when more files are asked for than the process may open; then each I/O names the
        // descriptor, which costs the kernel a little more.
        ring.files_registered = ring.uring.submitter().register_files_sparse(files).is_ok();
        ring.register_buffers(arena);
        Ok(ring)
    }

    /// Registers the arena's memory, or as much of it as the limit of locked memory allows: the
    /// smallest chunks first, because they gain most. The rest is used without.
    fn register_buffers(&mut self, arena: &Arena) {
        let regions: Vec<_> = arena.regions().collect();
        for count in (1..=regions.len()).rev() {
            let vector = |region: &&Arc<crate::arena::Region>| libc::iovec {
                iov_base: region.start().cast(),
                iov_len: region.bytes(),
            };
            let vectors: Vec<libc::iovec> = regions[..count].iter().map(vector).collect();
            // SAFETY: the kernel pins the pages. An I/O that uses them by index owns a chunk of the
            // region, so the memory is allocated as long as it is used.
            let registered = unsafe { self.uring.submitter().register_buffers(&vectors) };
            if registered.is_ok() {
                for (index, region) in regions[..count].iter().enumerate() {
                    let index = u8::try_from(index).expect("an arena has few classes");
                    region.set_fixed(self.number, index);
                }
                self.buffers_registered = count;
                return;
            }
        }
    }

    /// How many classes of the arena are registered.
    pub(crate) fn buffers_registered(&self) -> usize {
        self.buffers_registered
    }

    /// I/Os of files that are not finished.
    pub(crate) fn in_flight(&self) -> usize {
        self.ios as usize
    }

    /// Whatever is not finished.
    fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    // Files.

    /// Takes a file in. `None` when the table is full.
    pub(crate) fn open(&mut self, file: Arc<dyn AsFd + Send + Sync>) -> Option<FileKey> {
        let index = self.free_files.pop()?;
        if self.files_registered {
            let fd = file.as_fd().as_raw_fd();
            let updated = self.uring.submitter().register_files_update(index, &[fd]);
            if updated.is_err() {
                self.free_files.push(index);
                return None;
            }
        }
        let slot = &mut self.files[index as usize];
        slot.generation += 1;
        slot.open = Some(OpenFile { file, in_flight: 0, released: false });
        Some(FileKey { index, generation: slot.generation })
    }

    /// Lets a file go; it is given up when its last I/O is finished.
    pub(crate) fn release(&mut self, key: FileKey) {
        if let Some(open) = self.file_mut(key) {
            open.released = true;
            self.forget_if_unused(key.index);
        }
    }

    fn forget_if_unused(&mut self, index: u32) {
        let slot = &mut self.files[index as usize];
        if slot.open.as_ref().is_some_and(|open| open.released && open.in_flight == 0) {
            slot.open = None;
            if self.files_registered {
                // It names an entry that exists; -1 takes the file out.
                let updated = self.uring.submitter().register_files_update(index, &[-1]);
                debug_assert!(updated.is_ok(), "taking a file out: {updated:?}");
            }
            self.free_files.push(index);
        }
    }

    fn file_mut(&mut self, key: FileKey) -> Option<&mut OpenFile> {
        let slot = &mut self.files[key.index as usize];
        if slot.generation != key.generation {
            return None;
        }
        slot.open.as_mut().filter(|open| !open.released)
    }

    // Submitting.

    /// Starts an I/O for `owner`.
    ///
    /// # Errors
    ///
    /// The I/O comes back when there is no slot, or its file is not in the table.
    pub(crate) fn submit(&mut self, owner: u64, token: u64, io: Io) -> Result<IoKey, Rejected> {
        io.check();
        if self.file_mut(io.file()).is_none() {
            return Err(Rejected::NoFile(io));
        }
        if self.ios == self.ios_max {
            return Err(Rejected::Full(io));
        }
        self.ios += 1;
        self.file_mut(io.file()).expect("as seen above").in_flight += 1;
        Ok(self.begin(InFlight::Io(FileIo { owner, token, io, done: 0, tries: 0 })))
    }

    /// Starts what a socket has to do. A socket has two things under way at most, a receive (or an
    /// accept, or a connect) and a send; its descriptor stays open until both have ended.
    pub(crate) fn submit_traffic(
        &mut self,
        socket: SocketKey,
        fd: RawFd,
        traffic: Traffic,
    ) -> IoKey {
        self.begin(InFlight::Socket { socket, fd, traffic })
    }

    fn begin(&mut self, in_flight: InFlight) -> IoKey {
        let number = self.free.pop().expect("I/Os and sockets are counted, and have their slots");
        let slot = &mut self.slots[number as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.in_flight = Some(in_flight);
        let key = IoKey { number, generation: slot.generation };
        self.start(number);
        key
    }

    // Chunks for what sockets receive.

    /// Gives the chunks that have come back to the kernel; returns how many are with it.
    pub(crate) fn refill(&mut self) -> usize {
        self.provided.as_mut().map_or(0, |provided| {
            provided.refill();
            provided.count()
        })
    }

    /// How many chunks are with the kernel.
    pub(crate) fn chunks(&self) -> usize {
        self.provided.as_ref().map_or(0, Provided::count)
    }

    /// Whether there are chunks for a socket that waits for one, with the kernel or for it.
    pub(crate) fn has_chunks(&self) -> bool {
        self.chunks() > 0 || self.provided.as_ref().is_some_and(Provided::has_more)
    }

    /// Has the loop woken when a chunk comes back. False when there is one now.
    pub(crate) fn want_chunks(&mut self) -> bool {
        self.provided.as_mut().is_none_or(Provided::want)
    }

    fn file_done(&mut self, key: FileKey) {
        let open = self.files[key.index as usize].open.as_mut();
        open.expect("a file with I/O stays").in_flight -= 1;
        self.forget_if_unused(key.index);
    }

    /// Puts the I/O of a slot, or what is left of it, into the submission queue.
    fn start(&mut self, number: u32) {
        let entry = self.entry(number);
        if !self.push(&entry) {
            self.retry.push(number);
        }
    }

    /// Whether there was room.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        if self.uring.submission().is_full() {
            // Refused for lack of memory or room: it is tried again with the next turn.
            self.submit_now();
        }
        // SAFETY: what the entry points to lies in a slot, or in `wake_count`, until its completion
        // has been seen.
        let pushed = unsafe { self.uring.submission().push(entry) }.is_ok();
        self.unsubmitted += u32::from(pushed);
        pushed
    }

    fn submit_now(&mut self) {
        if let Ok(submitted) = self.uring.submit() {
            self.count_submitted(submitted);
        }
    }

    fn count_submitted(&mut self, submitted: usize) {
        let submitted = u32::try_from(submitted).unwrap_or(u32::MAX);
        self.unsubmitted = self.unsubmitted.saturating_sub(submitted);
    }

    fn entry(&mut self, number: u32) -> squeue::Entry {
        let slot = &mut self.slots[number as usize];
        let user_data = u64::from(slot.generation) << 32 | u64::from(number);
        let in_flight = slot.in_flight.as_mut().expect("something is under way in the slot");
        let FileIo { io, done, .. } = match in_flight {
            InFlight::Io(io) => io,
            InFlight::Socket { fd, traffic, .. } => {
                return build_traffic(traffic, types::Fd(*fd)).user_data(user_data);
            }
        };
        let index = io.file().index;
        let open = self.files[index as usize].open.as_ref().expect("a file with I/O stays");
        let fd = if self.files_registered {
            types::Fd(i32::try_from(index).expect("a table is small"))
        } else {
            types::Fd(open.file.as_fd().as_raw_fd())
        };
        let entry = build(io, *done, fd, self.number).user_data(user_data);
        if self.files_registered { entry.flags(squeue::Flags::FIXED_FILE) } else { entry }
    }

    /// Asks the kernel to give an I/O up. It still ends with a completion: done, or `ECANCELED`.
    pub(crate) fn cancel(&mut self, key: IoKey) {
        let slot = &self.slots[key.number as usize];
        if slot.generation == key.generation && slot.in_flight.is_some() {
            let user_data = u64::from(key.generation) << 32 | u64::from(key.number);
            if self.retry.contains(&key.number) {
                // It has to be begun before it can be found.
                self.retry_cancel.push(user_data);
            } else {
                self.push_cancel(user_data);
            }
        }
    }

    fn push_cancel(&mut self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build().user_data(CANCEL);
        if !self.push(&entry) {
            self.retry_cancel.push(user_data);
        }
    }

    // Entering the kernel.

    /// Whether the kernel has something for this ring, or it for the kernel.
    pub(crate) fn has_work(&mut self) -> bool {
        self.unsubmitted > 0
            || !self.retry.is_empty()
            || !self.retry_cancel.is_empty()
            || !self.uring.completion().is_empty()
            || self.uring.submission().taskrun()
            || self.uring.submission().cq_overflow()
    }

    /// Submits everything and lets the kernel report what has ended.
    ///
    /// # Panics
    ///
    /// When the kernel refuses in a way that no later try can mend.
    pub(crate) fn enter(&mut self) {
        self.try_again();
        let entered = self.uring.submit();
        self.entered(entered);
    }

    /// As [`Ring::enter`], and waits until something has ended or `until` has come.
    pub(crate) fn wait(&mut self, now: Monotonic, until: Option<Monotonic>) {
        self.try_again();
        if !self.wake_armed {
            self.arm_wake();
        }
        if !self.wake_armed || !self.retry.is_empty() || !self.retry_cancel.is_empty() {
            // Nobody could wake it, or something has to be begun: it comes again.
            return self.enter();
        }
        let entered = match until {
            None => self.uring.submit_and_wait(1),
            Some(until) => {
                let time = types::Timespec::from(until.since(now));
                let arguments = types::SubmitArgs::new().timespec(&time);
                self.uring.submitter().submit_with_args(1, &arguments)
            }
        };
        self.entered(entered);
    }

    fn entered(&mut self, entered: io::Result<usize>) {
        match entered {
            Ok(submitted) => self.count_submitted(submitted),
            Err(error) => match error.raw_os_error() {
                // A signal, the end of the time, a lack of memory, completions to be taken first.
                // What was submitted before a wait ended is not told, so it is counted anew.
                Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY) => {
                    let left = self.uring.submission().len();
                    self.unsubmitted = u32::try_from(left).expect("the queue is small");
                }
                _ => panic!("io_uring_enter: {error}"),
            },
        }
    }

    /// Starts what could not be started before.
    fn try_again(&mut self) {
        for _ in 0..self.retry.len() {
            let number = self.retry.swap_remove(0);
            self.start(number);
        }
        for _ in 0..self.retry_cancel.len() {
            // Who was given its place meanwhile has another generation, and is left alone.
            let user_data = self.retry_cancel.swap_remove(0);
            self.push_cancel(user_data);
        }
    }

    fn arm_wake(&mut self) {
        let fd = types::Fd(self.waker.as_fd().as_raw_fd());
        let entry = opcode::Read::new(fd, self.wake_count.as_mut_ptr(), 8).build().user_data(WAKE);
        self.wake_armed = self.push(&entry);
    }

    // Completions.

    /// Takes over up to [`COMPLETIONS`] completions.
    pub(crate) fn take_completions(&mut self, into: &mut Vec<Completion>) {
        let completions = self.uring.completion().take(COMPLETIONS);
        into.extend(completions.map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    /// What a completion ends or tells, if it does.
    pub(crate) fn finish(&mut self, completion: Completion) -> Option<Finished> {
        if completion.user_data == WAKE {
            self.wake_armed = false;
            return None;
        }
        if completion.user_data == CANCEL {
            return None;
        }
        let (_, number) = halves(completion.user_data);
        let slot = &mut self.slots[number as usize];
        let in_flight = slot.in_flight.as_mut();
        match in_flight.expect("a completion belongs to something under way") {
            InFlight::Io(io) => {
                let Some(result) = io.advance(completion.result) else {
                    self.start(number);
                    return None;
                };
                let Some(InFlight::Io(io)) = self.vacate(number) else { unreachable!("as seen") };
                let FileIo { owner, token, io, .. } = io;
                self.ios -= 1;
                self.file_done(io.file());
                Some(Finished::Io { owner, token, io, result })
            }
            InFlight::Socket { socket, traffic, .. } => {
                let (socket, accepts) = (*socket, matches!(traffic, Traffic::Accept));
                let result = self.outcome(completion, accepts);
                let mut ended = None;
                if !cqueue::more(completion.flags)
                    && let Some(InFlight::Socket { traffic, .. }) = self.vacate(number)
                {
                    ended = Some(traffic);
                }
                Some(Finished::Socket(Report { socket, result, ended }))
            }
        }
    }

    fn outcome(&mut self, completion: Completion, accepts: bool) -> Result<Outcome, Errno> {
        let Completion { result, flags, .. } = completion;
        let length = usize::try_from(result);
        // A chunk may come with an error or with the end of the stream too.
        let received = cqueue::buffer_select(flags).map(|number| {
            let provided = self.provided.as_mut().expect("the kernel has chunks of them");
            provided.take(number, *length.as_ref().unwrap_or(&0))
        });
        let Ok(length) = length else { return Err(Errno(-result)) };
        Ok(match received {
            // SAFETY: the kernel has made this descriptor for us, and tells it once.
            _ if accepts => Outcome::Accepted(unsafe { OwnedFd::from_raw_fd(result) }),
            Some(slice) if length > 0 => Outcome::Received(slice),
            _ => Outcome::Moved(length),
        })
    }

    fn vacate(&mut self, number: u32) -> Option<InFlight> {
        self.free.push(number);
        self.slots[number as usize].in_flight.take()
    }
}

impl FileIo {
    /// Takes note of a completion's result. `None` when there is more to do.
    fn advance(&mut self, result: i32) -> Option<Result<usize, Errno>> {
        let Ok(moved) = usize::try_from(result) else {
            let errno = Errno(-result);
            let put_off = matches!(errno.0, libc::EAGAIN | libc::EINTR) && self.io.is_retried();
            self.tries += 1;
            return if put_off && self.tries < TRIES_MAX { None } else { Some(Err(errno)) };
        };
        let Some(length) = self.io.whole_length() else { return Some(Ok(moved)) };
        self.done += moved;
        if self.done >= length {
            return Some(Ok(self.done));
        }
        // The end of the device, or a device that takes nothing.
        if moved == 0 {
            return Some(Err(Errno::SHORT));
        }
        None
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut completions = Vec::with_capacity(COMPLETIONS);
        let mut cancelled = false;
        // What the kernel has not been given is not begun any more.
        for number in std::mem::take(&mut self.retry) {
            self.vacate(number);
        }
        while self.under_way() > 0 || self.wake_armed {
            if !cancelled {
                let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any());
                cancelled = self.push(&entry.build().user_data(CANCEL));
            }
            self.take_completions(&mut completions);
            if completions.is_empty() {
                let entered = self.uring.submit_and_wait(1);
                let errno = entered.err().and_then(|error| error.raw_os_error());
                if errno
                    .is_some_and(|errno| !matches!(errno, libc::EINTR | libc::EAGAIN | libc::EBUSY))
                {
                    // The kernel may still use the memory, and will never tell: it is given up.
                    std::mem::forget(std::mem::take(&mut self.slots));
                    std::mem::forget(std::mem::take(&mut self.wake_count));
                    std::mem::forget(self.provided.take());
                    return;
                }
            }
            for completion in completions.drain(..) {
                self.end(completion);
            }
        }
        if let Some(provided) = &self.provided {
            provided.unregister(&self.uring.submitter());
        }
        // Without this the kernel lets the files go some time later, and their locks with them.
        // Where nothing is registered it is refused, and nothing is lost.
        let _ = self.uring.submitter().unregister_files();
    }
}

impl Ring {
    /// Takes note of a completion when nothing is begun or told any more.
    fn end(&mut self, completion: Completion) {
        match completion.user_data {
            WAKE => self.wake_armed = false,
            CANCEL => {}
            user_data => {
                let (_, number) = halves(user_data);
                let in_flight = self.slots[number as usize].in_flight.as_ref();
                if let Some(InFlight::Socket { traffic, .. }) = in_flight {
                    // A connection or chunk that came with it is let go.
                    drop(self.outcome(completion, matches!(traffic, Traffic::Accept)));
                    if cqueue::more(completion.flags) {
                        return;
                    }
                }
                self.vacate(number);
            }
        }
    }
}

/// The upper and the lower half.
pub(crate) fn halves(both: u64) -> (u32, u32) {
    let lower = u32::try_from(both & u64::from(u32::MAX)).expect("half of the bits");
    ((both >> 32) as u32, lower)
}

/// The submission entry of an I/O of which `done` bytes are done.
fn build(io: &mut Io, done: usize, fd: types::Fd, ring: u16) -> squeue::Entry {
    match io {
        Io::Read { offset, memory, .. } => {
            let at = *offset + done as u64;
            let (start, length) = memory.rest(done, TRANSFER_MAX);
            match memory.fixed_in(ring) {
                Some(index) => opcode::ReadFixed::new(fd, start, length, index).offset(at).build(),
                None => opcode::Read::new(fd, start, length).offset(at).build(),
            }
        }
        Io::Write { offset, memory, fua, .. } => {
            let at = *offset + done as u64;
            let flags = if *fua { libc::RWF_DSYNC } else { 0 };
            let (start, length) = memory.rest(done, TRANSFER_MAX);
            match memory.fixed_in(ring) {
                Some(index) => opcode::WriteFixed::new(fd, start, length, index)
                    .offset(at)
                    .rw_flags(flags)
                    .build(),
                None => opcode::Write::new(fd, start, length).offset(at).rw_flags(flags).build(),
            }
        }
        Io::Flush { .. } => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        Io::Discard { offset, length, .. } => opcode::Fallocate::new(fd, *length)
            .offset(*offset)
            .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
            .build(),
    }
}

/// The submission entry of what a socket does.
fn build_traffic(traffic: &mut Traffic, fd: types::Fd) -> squeue::Entry {
    match traffic {
        Traffic::Accept => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
        Traffic::Connect(address) => {
            opcode::Connect::new(fd, address.as_ptr().cast(), address.addr_len()).build()
        }
        Traffic::Receive => opcode::RecvMulti::new(fd, GROUP).build(),
        Traffic::Fill(filling) => {
            let (start, length) = filling.rest();
            // Not with `MSG_WAITALL`: when the connection is reset it tells the bytes before, and the
            // reset as the end of the stream.
            opcode::Recv::new(fd, start, length).build()
        }
        Traffic::Send(gather) => {
            // The kernel adds this by itself; it is what is meant.
            let flags = u32::try_from(libc::MSG_NOSIGNAL).expect("one bit");
            opcode::SendMsg::new(fd, gather.message()).flags(flags).build()
        }
    }
}

// Miri has no io_uring.
#[cfg(all(test, not(miri)))]
mod tests;
