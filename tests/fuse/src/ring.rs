//! I/O of the product's own event loop, for tests below its engines: many requests in flight
//! together, through an io_uring.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    sync::{Arc, mpsc},
};

use fathom_block::Buffer;
use fathom_runtime::{
    Actor, Address, Configuration, Context, Errno, Event, FileKey, Io, Loops, Memory, Message,
    SetupError, SizeClass,
};

/// Requests of one ring under way at most.
const IN_FLIGHT_MAX: u32 = 1024;

/// A file that a ring does I/O on.
pub type Opened = Arc<dyn AsFd + Send + Sync>;

/// What is asked of a file. Offsets and lengths are multiples of 4096.
pub enum Asked {
    /// Read so many bytes from there.
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        length: usize,
    },
    /// Write these bytes there.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
        /// They are on stable media when it ends.
        fua: bool,
    },
    /// Bring what was written to stable media.
    Flush,
}

/// What came of it: the bytes of a read, or why it failed.
pub type Outcome = Result<Vec<u8>, Errno>;

struct Order {
    file: usize,
    asked: Asked,
    done: Box<dyn FnOnce(Outcome) + Send>,
}

impl Message for Order {
    fn undeliverable(self) -> Option<Self> {
        None
    }
}

/// One event loop and its ring. Dropping it waits for what is under way: who holds requests
/// back releases them first.
pub struct Ring {
    loops: Loops<Order>,
    worker: Address,
}

impl Ring {
    /// A ring for these files, which are named by their position.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    ///
    /// # Panics
    ///
    /// When there are too many files.
    pub fn over(files: Vec<Opened>) -> Result<Self, SetupError> {
        let configuration = Configuration {
            buffers: vec![SizeClass { chunk_bytes: 4096, chunks: 1 }],
            in_flight: IN_FLIGHT_MAX,
            ..Configuration::default()
        };
        let loops = Loops::start(&configuration)?;
        let birth = move |context: &mut Context<'_, Order>| -> Box<dyn Actor<Order>> {
            let files = files.into_iter().map(|file| context.open(file).expect("few files"));
            Box::new(Worker { files: files.collect(), under: BTreeMap::new(), next: 0 })
        };
        let worker = loops.remote(0).give_birth(Box::new(birth)).expect("the loop runs");
        Ok(Self { loops, worker })
    }

    /// Gives the kernel a request; `done` is told on the loop's thread how it ended.
    ///
    /// # Panics
    ///
    /// When the loop has ended, or has more to do than it has room for.
    pub fn begin(&self, file: usize, asked: Asked, done: impl FnOnce(Outcome) + Send + 'static) {
        let order = Order { file, asked, done: Box::new(done) };
        let sent = self.loops.remote(0).send(self.worker, order);
        assert!(sent.is_ok(), "the loop runs and has room");
    }

    /// Begins a write; its end comes through the channel.
    pub fn write(&self, file: usize, offset: u64, bytes: &[u8]) -> mpsc::Receiver<Outcome> {
        let (sender, ended) = mpsc::channel();
        let asked = Asked::Write { offset, bytes: bytes.to_vec(), fua: false };
        self.begin(file, asked, move |outcome| {
            // Whoever began it may have given up.
            let _ = sender.send(outcome);
        });
        ended
    }
}

struct Worker {
    files: Vec<FileKey>,
    under: BTreeMap<u64, Box<dyn FnOnce(Outcome) + Send>>,
    next: u64,
}

impl Actor<Order> for Worker {
    fn handle(&mut self, event: Event<Order>, context: &mut Context<'_, Order>) {
        match event {
            Event::Message { message: Order { file, asked, done }, .. } => {
                let token = self.next;
                self.next += 1;
                let begun = context.submit(token, asked.on(self.files[file]));
                assert!(begun.is_ok(), "at most {IN_FLIGHT_MAX} requests, on open files");
                self.under.insert(token, done);
            }
            Event::Completed(completed) => {
                let done = self.under.remove(&completed.token).expect("it ends once");
                let is_read = matches!(completed.io, Io::Read { .. });
                let memory = completed.io.into_memory().filter(|_| is_read);
                let bytes = memory.map_or_else(Vec::new, |memory| memory.bytes().to_vec());
                done(completed.result.map(|_| bytes));
            }
            Event::Timer { .. } | Event::Socket { .. } => {
                unreachable!("no timer and no socket was asked for")
            }
            Event::Stop => context.retire(),
        }
    }
}

impl Asked {
    fn on(self, file: FileKey) -> Io {
        match self {
            Self::Read { offset, length } => {
                let memory = Memory::Owned(Buffer::zeroed(length), length);
                Io::Read { file, offset, memory }
            }
            Self::Write { offset, bytes, fua } => {
                let mut buffer = Buffer::zeroed(bytes.len());
                buffer.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
                Io::Write { file, offset, memory: Memory::Owned(buffer, bytes.len()), fua }
            }
            Self::Flush => Io::Flush { file },
        }
    }
}
