//! The loops of a process, from their start to their end, and how other threads reach them.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    thread::{Builder, JoinHandle},
    time::Duration,
};

use crate::{
    actor::{Address, Birth, Message, Unsent},
    arena::{Arena, SizeClass},
    core::{Core, Envelope, Outbox, clock},
    event_loop::{Errand, EventLoop, Outside, Statistics, rethrow},
    net::sockets::Sockets,
    queue::{Receiver, queue},
    ring::{Capacity, PROVIDED_MAX, Ring},
    setup::{SetupError, Step},
    timers::Timers,
    waker::Waker,
};

/// The most loops.
pub const LOOPS_MAX: usize = 256;
/// The most I/Os that a loop may have under way.
pub const IN_FLIGHT_MAX: u32 = 32_768;
/// The most sockets that a loop may have open.
pub const SOCKETS_MAX: u32 = 16_384;
/// Messages in the queue between two loops.
const QUEUE: usize = 1024;
/// Timers of a loop.
const TIMERS_MAX: usize = 1 << 20;

/// How many loops there are, and how large each is.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// How many loops, when `cores` names none.
    pub loops: usize,
    /// One loop for each of these cores, which stays on it.
    pub cores: Vec<usize>,
    /// The buffers of each loop.
    pub buffers: Vec<SizeClass>,
    /// The I/Os that a loop may have under way.
    pub in_flight: u32,
    /// The files that a loop may have open.
    pub files: u32,
    /// The sockets that a loop may have open, with those that listen.
    pub sockets: u32,
    /// What the sockets of a loop receive into. Without chunks a loop has no sockets.
    pub receive: SizeClass,
    /// How long a loop polls at most before it sleeps.
    pub poll_max: Duration,
}

impl Default for Configuration {
    /// One loop, which fits into 8 MiB of locked memory with all of its buffers.
    fn default() -> Self {
        Self {
            loops: 1,
            cores: Vec::new(),
            buffers: vec![
                SizeClass { chunk_bytes: 4 << 10, chunks: 512 },
                SizeClass { chunk_bytes: 16 << 10, chunks: 64 },
                SizeClass { chunk_bytes: 128 << 10, chunks: 16 },
                SizeClass { chunk_bytes: 1 << 20, chunks: 1 },
            ],
            in_flight: 4096,
            files: 1024,
            sockets: 1024,
            receive: SizeClass { chunk_bytes: 16 << 10, chunks: 128 },
            poll_max: Duration::from_micros(50),
        }
    }
}

/// The loops. Dropping them ends them at once: what is under way is cancelled, or waited for where
/// it cannot be.
pub struct Loops<M: Message> {
    threads: Vec<JoinHandle<()>>,
    remotes: Vec<Remote<M>>,
}

impl<M: Message> Loops<M> {
    /// Starts all loops.
    ///
    /// # Errors
    ///
    /// What the kernel refused, and why as far as that is known. Then none has been started.
    ///
    /// # Panics
    ///
    /// When more than [`LOOPS_MAX`] loops or [`IN_FLIGHT_MAX`] I/Os are asked for, or none; or
    /// more than [`SOCKETS_MAX`] sockets or 32,768 receive chunks.
    pub fn start(configuration: &Configuration) -> Result<Self, SetupError> {
        let pinned = !configuration.cores.is_empty();
        let count = if pinned { configuration.cores.len() } else { configuration.loops };
        assert!((1..=LOOPS_MAX).contains(&count), "1 to {LOOPS_MAX} loops");
        let in_flight = configuration.in_flight;
        assert!((1..=IN_FLIGHT_MAX).contains(&in_flight), "1 to {IN_FLIGHT_MAX} I/Os");
        assert!(configuration.sockets <= SOCKETS_MAX, "at most {SOCKETS_MAX} sockets");
        let chunks = configuration.receive.chunks;
        assert!(chunks <= PROVIDED_MAX, "at most {PROVIDED_MAX} receive chunks");
        let mut bells = Vec::new();
        for number in 0..count {
            let waker = Waker::new();
            bells.push(Arc::new(waker.map_err(|e| SetupError::new(number, Step::Wakeup, e))?));
        }
        let mut ways = ways(&bells);
        let mut loops = Self { threads: Vec::new(), remotes: Vec::new() };
        let (report, reports) = mpsc::channel();
        for (number, (outboxes, inboxes)) in ways.drain(..).enumerate() {
            let outside = Arc::new(Outside::new(Arc::clone(&bells[number])));
            loops.remotes.push(Remote { outside: Arc::clone(&outside) });
            let plan = Plan {
                number,
                core: configuration.cores.get(number).copied(),
                configuration: configuration.clone(),
                outboxes,
                inboxes,
                bells: bells.clone(),
                outside,
            };
            let report = report.clone();
            let thread = Builder::new().name(format!("fathom-loop-{number}"));
            match thread.spawn(move || plan.run(&report)) {
                Ok(thread) => loops.threads.push(thread),
                Err(error) => return Err(SetupError::new(number, Step::Thread, error)),
            }
        }
        drop(report);
        for _ in 0..count {
            reports.recv().expect("each loop reports how it began")?;
        }
        Ok(loops)
    }

    /// How many loops there are.
    pub fn count(&self) -> usize {
        self.remotes.len()
    }

    /// The way to a loop from other threads.
    ///
    /// # Panics
    ///
    /// When there is no loop of that number.
    pub fn remote(&self, number: usize) -> Remote<M> {
        self.remotes[number].clone()
    }

    /// Has every actor bring its work to an end, and returns when all have retired.
    ///
    /// # Panics
    ///
    /// With the panic of a loop.
    pub fn stop(mut self) {
        for remote in &self.remotes {
            // One that has ended already has nothing to stop.
            let _ = remote.outside.give(Errand::Stop);
        }
        for thread in self.threads.drain(..) {
            rethrow(thread.join());
        }
    }
}

impl<M: Message> Drop for Loops<M> {
    fn drop(&mut self) {
        for remote in &self.remotes {
            remote.outside.aborted.store(true, Ordering::Relaxed);
            remote.outside.waker.ring();
        }
        for thread in self.threads.drain(..) {
            rethrow(thread.join());
        }
    }
}

type Way<M> = (Vec<Option<Outbox<M>>>, Vec<Option<Receiver<Envelope<M>>>>);

/// A queue from each loop to each other one.
fn ways<M: Message>(bells: &[Arc<Waker>]) -> Vec<Way<M>> {
    let count = bells.len();
    let none =
        || -> Way<M> { ((0..count).map(|_| None).collect(), (0..count).map(|_| None).collect()) };
    let mut ways: Vec<Way<M>> = (0..count).map(|_| none()).collect();
    for from in 0..count {
        for to in (0..count).filter(|&to| to != from) {
            let (sender, receiver) = queue(QUEUE);
            let waker = Arc::clone(&bells[to]);
            ways[from].0[to] = Some(Outbox { sender, waiting: Default::default(), waker });
            ways[to].1[from] = Some(receiver);
        }
    }
    ways
}

/// What a thread needs to become a loop.
struct Plan<M: Message> {
    number: usize,
    core: Option<usize>,
    configuration: Configuration,
    outboxes: Vec<Option<Outbox<M>>>,
    inboxes: Vec<Option<Receiver<Envelope<M>>>>,
    bells: Vec<Arc<Waker>>,
    outside: Arc<Outside<M>>,
}

/// Closes the loop's door for other threads when its thread ends, by a panic too.
struct Door<M: Message>(Arc<Outside<M>>);

impl<M: Message> Drop for Door<M> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<M: Message> Plan<M> {
    fn run(self, report: &mpsc::Sender<Result<(), SetupError>>) {
        let door = Door(Arc::clone(&self.outside));
        let event_loop = self.build();
        let (event_loop, result) = match event_loop {
            Ok(event_loop) => (Some(event_loop), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // Whoever starts the loops has given up when another one was refused.
        let _ = report.send(result);
        if let Some(mut event_loop) = event_loop {
            event_loop.run();
        }
        drop(door);
    }

    fn build(self) -> Result<EventLoop<M>, SetupError> {
        let Self { number, core, configuration, outboxes, inboxes, bells, outside } = self;
        if let Some(core) = core {
            stay_on(core).map_err(|error| SetupError::new(number, Step::Core(core), error))?;
        }
        // Made here, so that the memory is near the core.
        let arena = Arena::new(&configuration.buffers);
        let receive = configuration.receive;
        let sockets = if receive.chunks == 0 { 0 } else { configuration.sockets };
        let Configuration { in_flight: ios, files, .. } = configuration;
        let capacity = Capacity { ios, files, sockets, receive };
        let ring = Ring::new(capacity, &arena, Arc::clone(&outside.waker));
        let ring = ring.map_err(|(step, error)| SetupError::new(number, step, error))?;
        let core = Core {
            number: u16::try_from(number).expect("at most LOOPS_MAX"),
            now: clock(),
            ring,
            arena,
            sockets: Sockets::new(sockets),
            timers: Timers::new(TIMERS_MAX),
            local: Default::default(),
            outboxes,
            turn_ends: Vec::new(),
            next_turn: Vec::new(),
            born: Vec::new(),
            retired: Vec::new(),
            free: Vec::new(),
            generations: Vec::new(),
        };
        Ok(EventLoop::new(core, inboxes, bells, outside, configuration.poll_max))
    }
}

/// Keeps the calling thread on a core.
fn stay_on(core: usize) -> std::io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    if core >= CpuSet::MAX_CPU {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// The way to one loop from any thread. Not for the I/O path: it takes a lock.
pub struct Remote<M: Message> {
    outside: Arc<Outside<M>>,
}

impl<M: Message> Clone for Remote<M> {
    fn clone(&self) -> Self {
        Self { outside: Arc::clone(&self.outside) }
    }
}

/// The loop has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the event loop has ended")]
pub struct Ended;

impl<M: Message> Remote<M> {
    /// Puts an actor onto the loop, and returns when it is there.
    ///
    /// # Errors
    ///
    /// When the loop has ended.
    pub fn give_birth(&self, birth: Birth<M>) -> Result<Address, Ended> {
        let (answer, answered) = mpsc::sync_channel(1);
        let mut errand = Errand::Birth(birth, answer);
        // A loop with too many errands works on them.
        while let Err((back, ended)) = self.outside.give(errand) {
            if ended {
                return Err(Ended);
            }
            errand = back;
            std::thread::yield_now();
        }
        answered.recv().map_err(|_| Ended)
    }

    /// Sends a message to an actor of the loop, from [`Address::OUTSIDE`].
    ///
    /// # Errors
    ///
    /// The message comes back when the loop has ended, or too many wait for it.
    pub fn send(&self, to: Address, message: M) -> Result<(), Unsent<M>> {
        match self.outside.give(Errand::Message(to, message)) {
            Ok(()) => Ok(()),
            Err((Errand::Message(_, message), true)) => Err(Unsent::Gone(message)),
            Err((Errand::Message(_, message), false)) => Err(Unsent::Full(message)),
            Err(_) => unreachable!("what was given comes back"),
        }
    }

    /// How the loop is doing.
    pub fn statistics(&self) -> &Statistics {
        &self.outside.statistics
    }
}
