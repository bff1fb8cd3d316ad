//! The actor that loads a target from one loop: one association, an I/O queue for each of its jobs.
//!
//! ```text
//!              address refused: the next one        lost: unknown what is under way
//!                    +------+                     +----------------------------+
//!                    v      |                     v                            |
//!   birth ------> Connecting ----Live----> told: Ready --Begin--> loading -----+
//!                    |                                               |
//!                    | no address, or not in time                    | end, and nothing under way
//!                    v                                               v
//!              told: Failed                                    told: Loaded --Close--> told: Closed
//! ```
//!
//! - A request has a slot of its job, and its identifier is the number of the slot. When it ends,
//!   the slot is used for the next one in the same turn; all that a turn submits is sent together.
//! - Latency counts from the event in which a request was submitted to the event that brought its
//!   completion, by a clock that is read once an event.
//! - Bytes of plain reads are received and dropped: nothing looks at them.
//! - With `verify` a read has a buffer and is compared, and a write is made for its block.
//! - The thread that has asked for the load is told everything that ends, also when the loop dies.
//!
//! Before it: [`crate::run`](crate::run()). After it: `RemoteNamespace` of `node/engine`.

mod lane;
mod ledger;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use fathom_block::{self as block, Operation, Request, RequestId};
use fathom_engine::remote::{Completed, Data, Happened, Options, RemoteNamespace};
use fathom_host::{Config, Error as HostError, Event as HostEvent, Namespace, Purpose};
use fathom_nvme::tcp::Alignment;
use fathom_runtime::{
    Actor, Birth, Buffer, Context, Event, Message, Slice,
    net::{SocketEvent, SocketOptions},
};
use fathom_units::{BlockCount, Monotonic};

use self::{lane::Lane, ledger::Ledger};
use crate::{
    error::{BenchError, Failure},
    journal::JournalError,
    random::Random,
    report::{Direction, Tally},
    workload::{Course, Target, Until, Workload},
};

/// How long after all addresses have refused they are tried again, when that is wanted.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// The most memory for what plain writes write, in bytes a loop. Requests share it.
const CONTENT_BYTES: usize = 8 << 20;

/// Tokens of timers; those of namespaces have an upper half.
const END_TIMER: u64 = 1;
const RECONNECT_TIMER: u64 = 2;

/// What a load is told.
pub(crate) enum BenchMessage {
    /// Begin the load.
    Begin(Arc<Course>),
    /// Read all that is known to have been written, once, and compare it.
    Verify(Arc<Course>),
    /// Submit nothing more, and say what was counted when all has ended.
    Stop,
    /// Shut the controller down and disconnect.
    Close,
}

impl Message for BenchMessage {
    fn undeliverable(self) -> Option<Self> {
        None
    }
}

/// What a load says to the thread that has asked for it.
pub(crate) enum Said {
    /// The namespace can be used.
    Ready { number: usize, namespace: Namespace, io_queues: usize },
    /// The load or the verification is over.
    Loaded(Box<Loaded>),
    /// There is no association, and there will be none. The load is over too, if it had begun.
    Failed { failures: Vec<Failure>, was_live: bool, loaded: Box<Loaded> },
    /// Something is wrong with which the load does not go on.
    Broken(Box<BenchError>),
    /// The association is closed.
    Closed,
    /// The loop has died.
    Gone,
    /// Somebody wants the run to end.
    Cancelled,
}

/// What one loop has counted, and when.
pub(crate) struct Loaded {
    pub(crate) tally: Tally,
    /// When the load began.
    pub(crate) began: Option<Instant>,
    /// When the last request ended.
    pub(crate) ended: Option<Instant>,
}

/// What can be seen of a load while it goes on.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Units that the verification has looked at.
    pub(crate) verified: AtomicU64,
}

impl Counters {
    /// Only the load itself adds, so that no locked addition is needed.
    fn add(counter: &AtomicU64, more: u64) {
        counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

/// The way back to the thread. When the load goes away without having closed, it says so.
struct Voice {
    said: Sender<Said>,
    is_done: bool,
}

impl Voice {
    fn say(&mut self, what: Said) {
        self.is_done |= matches!(what, Said::Closed);
        // A thread that does not listen any more needs not be told.
        let _ = self.said.send(what);
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        if !self.is_done {
            self.say(Said::Gone);
        }
    }
}

/// A request that is under way, or was.
#[derive(Clone, Copy)]
struct Slot {
    lane: usize,
    unit: u64,
    direction: Direction,
    submitted: Instant,
    is_under_way: bool,
}

/// What a load is born with.
pub(crate) struct Plan {
    /// The number of its loop among those of the run.
    pub(crate) number: usize,
    pub(crate) target: Target,
    pub(crate) workload: Workload,
    pub(crate) counters: Arc<Counters>,
    pub(crate) said: Sender<Said>,
}

/// The load of one loop.
pub(crate) struct Load {
    plan: Plan,
    voice: Voice,
    remote: Option<RemoteNamespace>,
    /// Counts the namespaces that were begun: the upper half of their tokens.
    attempts: u32,
    /// Which address is tried or used.
    address: usize,
    /// Why there is no association, since there was one.
    failures: Vec<Failure>,
    /// Until when an association is tried; none for each address once.
    connect_by: Option<Monotonic>,
    namespace: Option<Namespace>,
    is_live: bool,
    course: Option<Arc<Course>>,
    lanes: Vec<Lane>,
    slots: Vec<Slot>,
    under_way: usize,
    contents: Vec<Slice>,
    is_stopping: bool,
    is_verifying: bool,
    is_over: bool,
    /// There is no association, and there will be none.
    has_failed: bool,
    wants_close: bool,
    is_closing: bool,
    loaded: Loaded,
}

impl Load {
    pub(crate) fn birth(plan: Plan) -> Birth<BenchMessage> {
        Box::new(move |context: &mut Context<'_, BenchMessage>| {
            let voice = Voice { said: plan.said.clone(), is_done: false };
            let mut load = Box::new(Self {
                plan,
                voice,
                remote: None,
                attempts: 0,
                address: 0,
                failures: Vec::new(),
                connect_by: None,
                namespace: None,
                is_live: false,
                course: None,
                lanes: Vec::new(),
                slots: Vec::new(),
                under_way: 0,
                contents: Vec::new(),
                is_stopping: false,
                is_verifying: false,
                is_over: false,
                has_failed: false,
                wants_close: false,
                is_closing: false,
                loaded: Loaded { tally: Tally::default(), began: None, ended: None },
            });
            load.connect(context.now());
            context.at_next_turn();
            load
        })
    }

    // The association.

    fn connect(&mut self, now: Monotonic) {
        let Target { subsystem, nsid, host, host_id, digests, timeouts, .. } = self.plan.target;
        let workload = &self.plan.workload;
        let queues = u16::try_from(workload.jobs_of(self.plan.number).count());
        self.attempts += 1;
        let options = Options {
            host: Config {
                host,
                host_id,
                subsystem,
                purpose: Purpose::Io {
                    nsid,
                    queues: queues.expect("as checked, at most JOBS_MAX"),
                    entries: workload.queue_depth + 1,
                },
                digests,
                alignment: Alignment::NONE,
                keep_alive: timeouts.keep_alive,
                command_timeout: timeouts.command,
                setup_timeout: timeouts.setup,
                // Another association is another host: what this one does not know of its requests
                // is unknown.
                reconnect_delay: RECONNECT_DELAY,
                give_up: Some(Duration::ZERO),
            },
            address: self.plan.target.addresses[self.address],
            sockets: SocketOptions::default(),
            token: self.attempts,
            requests: usize::from(workload.jobs) * workload.queue_depth as usize,
        };
        let remote = RemoteNamespace::start(options, now);
        self.remote = Some(remote.expect("as checked before the loops were started"));
    }

    fn host_event(&mut self, event: HostEvent, context: &mut Context<'_, BenchMessage>) {
        match event {
            HostEvent::Live { namespace, .. } => self.live(namespace),
            HostEvent::NamespaceChanged(namespace) => self.compare(&namespace),
            HostEvent::Ended(error) => self.ended(error.unwrap_or(HostError::GivenUp), context),
            // The end follows, and before it the end of what the host knows to be without effect.
            HostEvent::Lost { .. } => self.forget_requests(),
            HostEvent::AnaChanged(_) | HostEvent::Discovered(_) => {}
        }
    }

    fn live(&mut self, namespace: Namespace) {
        self.is_live = true;
        self.failures.clear();
        self.connect_by = None;
        if self.namespace.is_some() {
            self.loaded.tally.reconnects += 1;
            return self.compare(&namespace);
        }
        self.namespace = Some(namespace);
        let io_queues = self.remote.as_ref().map_or(0, RemoteNamespace::io_queues);
        let number = self.plan.number;
        self.voice.say(Said::Ready { number, namespace, io_queues });
    }

    /// Ends the load when a namespace is not one that it can go on with.
    fn compare(&mut self, now: &Namespace) {
        let Some(before) = self.namespace else { return };
        if now.block_size != before.block_size || now.nguid != before.nguid {
            self.break_off(BenchError::Changed("another one is there now".to_owned()));
        }
    }

    /// There is no association any more, or none was made. Tries the next address, or all of them
    /// again, or says so.
    fn ended(&mut self, error: HostError, context: &mut Context<'_, BenchMessage>) {
        let now = context.now();
        let was_live = std::mem::take(&mut self.is_live);
        if self.is_closing {
            return;
        }
        let remote = self.remote.take();
        let cause = remote.and_then(|remote| remote.cause().map(str::to_owned));
        let address = self.plan.target.addresses[self.address];
        if was_live {
            let reconnect = self.plan.target.timeouts.reconnect;
            self.connect_by = Some(now + reconnect.unwrap_or(Duration::ZERO));
        } else {
            // The first tells why it was lost; of what was tried since, the last round is kept.
            let keep = usize::from(self.namespace.is_some()) + self.address;
            self.failures.truncate(keep);
        }
        self.failures.push(Failure { address, error, cause });
        let may_try = self.connect_by.is_none_or(|by| now < by);
        let is_round_over = was_live || self.address + 1 == self.plan.target.addresses.len();
        let goes_on = self.connect_by.is_some() && !error.is_final();
        if may_try && !is_round_over {
            self.address += 1;
            self.connect(now);
        } else if may_try && goes_on {
            self.address = 0;
            let timer = context.set_timer(now + RECONNECT_DELAY, RECONNECT_TIMER);
            assert!(timer.is_some(), "a loop of this run has few timers");
        } else {
            self.fail();
        }
    }

    /// What is under way has an unknown outcome.
    fn forget_requests(&mut self) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if std::mem::take(&mut slot.is_under_way) {
                self.lanes[slot.lane].lose(number, slot.unit);
                self.loaded.tally.unknown += u64::from(!self.is_verifying);
                Counters::add(&self.plan.counters.failed, 1);
            }
        }
        self.under_way = 0;
    }

    fn fail(&mut self) {
        self.has_failed = true;
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let failures = self.failures.clone();
        let was_live = self.namespace.is_some();
        let loaded = self.take_loaded();
        self.voice.say(Said::Failed { failures, was_live, loaded });
    }

    /// Submits nothing more, for something that is no loss.
    fn break_off(&mut self, error: BenchError) {
        self.is_stopping = true;
        self.voice.say(Said::Broken(Box::new(error)));
    }

    fn take_loaded(&mut self) -> Box<Loaded> {
        let Loaded { began, ended, .. } = self.loaded;
        Box::new(Loaded { tally: std::mem::take(&mut self.loaded.tally), began, ended })
    }

    // Requests.

    fn prepare(&mut self, course: &Arc<Course>) -> Result<(), JournalError> {
        let workload = &course.workload;
        let depth = workload.queue_depth as usize;
        let mut lanes = Vec::new();
        for (lane, job) in workload.jobs_of(self.plan.number).enumerate() {
            let ledger = match &course.journal {
                Some(journal) => Some(Ledger::new(Arc::clone(journal), course.section(job))?),
                None => None,
            };
            let slots = (lane * depth..(lane + 1) * depth).rev();
            lanes.push(Lane::new(course, job, slots, ledger));
        }
        self.lanes = lanes;
        let idle = Slot {
            lane: 0,
            unit: 0,
            direction: Direction::Read,
            submitted: Instant::now(),
            is_under_way: false,
        };
        let slots = 0..self.lanes.len() * depth;
        self.slots = slots.map(|slot| Slot { lane: slot / depth, ..idle }).collect();
        Ok(())
    }

    fn begin(&mut self, course: Arc<Course>, context: &mut Context<'_, BenchMessage>) {
        if let Err(error) = self.prepare(&course) {
            self.break_off(error.into());
        }
        let workload = &course.workload;
        if workload.mode.writes() && course.journal.is_none() {
            self.contents = contents(workload, self.plan.number, self.slots.len());
        }
        if let Until::Elapsed(time) = workload.until {
            let timer = context.set_timer(context.now() + time, END_TIMER);
            assert!(timer.is_some(), "a loop of this run has few timers");
        }
        self.loaded.began = Some(Instant::now());
        self.course = Some(course);
    }

    fn begin_verifying(&mut self, course: Arc<Course>) {
        (self.is_stopping, self.is_over, self.is_verifying) = (false, false, true);
        if self.course.is_none()
            && let Err(error) = self.prepare(&course)
        {
            self.break_off(error.into());
        }
        self.course = Some(course);
        self.lanes.iter_mut().for_each(Lane::begin_verifying);
        if self.has_failed {
            self.fail();
        }
    }

    fn completed(&mut self, completed: &Completed, clock: Instant) {
        let Completed { id, result, status, data } = completed;
        let number = usize::try_from(id.0).expect("the number of a slot");
        let Slot { lane, unit, direction, submitted, is_under_way } = self.slots[number];
        if !is_under_way {
            // Its association is lost, and it is counted as unknown.
            return;
        }
        self.slots[number].is_under_way = false;
        self.lanes[lane].end(number, unit);
        self.under_way -= 1;
        let counters = &self.plan.counters;
        Counters::add(&counters.requests, 1);
        let bytes = u64::from(self.plan.workload.block_bytes);
        match result {
            Ok(()) => Counters::add(&counters.bytes, bytes),
            Err(_) => Counters::add(&counters.failed, 1),
        }
        if !self.is_verifying {
            self.loaded.ended = Some(clock);
            let tally = &mut self.loaded.tally;
            match result {
                Ok(()) => {
                    let latency = clock.saturating_duration_since(submitted).as_nanos();
                    let latency_ns = u64::try_from(latency).unwrap_or(u64::MAX);
                    tally.succeeded(direction, latency_ns, bytes);
                }
                Err(error) => tally.failed(direction, *status, *error, 1),
            }
        }
        self.settle(lane, unit, direction, *result, data);
    }

    /// With `verify`: notes what was acknowledged, and compares what was read.
    fn settle(
        &mut self,
        lane: usize,
        unit: u64,
        direction: Direction,
        result: Result<(), block::Error>,
        data: &Data,
    ) {
        let (Some(course), Some(ledger)) = (&self.course, &mut self.lanes[lane].ledger) else {
            return;
        };
        let tally = &mut self.loaded.tally;
        let before = tally.mismatches.count;
        match (direction, result, data) {
            (Direction::Write, Ok(()), _) => {
                if let Err(error) = ledger.acknowledge(unit) {
                    return self.break_off(error.into());
                }
            }
            (Direction::Read, Ok(()), Data::Into(bytes)) => {
                ledger.compare(unit, course, bytes, |wrong| tally.mismatches.add(wrong));
            }
            (Direction::Read, Err(error), _) if self.is_verifying => {
                tally.mismatches.add(ledger.unreadable(unit, course, error));
            }
            _ => {}
        }
        let wrong = tally.mismatches.count - before;
        if self.is_verifying {
            tally.verified_blocks += course.unit_blocks - wrong.min(course.unit_blocks);
            let verified = self.lanes.iter().map(Lane::verified).sum();
            self.plan.counters.verified.store(verified, Ordering::Relaxed);
        } else if wrong > 0 {
            // What is wrong is kept as it is.
            self.is_stopping = true;
        }
    }

    /// Submits as many requests as there are slots for. Returns whether there were any.
    fn issue(&mut self, submitted: Instant, context: &mut Context<'_, BenchMessage>) -> bool {
        let (Some(course), Some(remote)) = (&self.course, &mut self.remote) else { return false };
        if !self.is_live || self.is_stopping || self.is_over {
            return false;
        }
        let before = self.under_way;
        for lane in &mut self.lanes {
            while let Some((number, direction, unit)) = lane.next() {
                let data = match &mut lane.ledger {
                    None => Ok(Some(plain_data(&self.contents, number, direction))),
                    Some(ledger) => told_data(ledger, direction, unit, course, context),
                };
                let data = match data {
                    Ok(Some(data)) => data,
                    Ok(None) => {
                        // What was sent is not let go yet.
                        lane.put_back(number, unit);
                        context.at_next_turn();
                        break;
                    }
                    Err(error) => {
                        lane.put_back(number, unit);
                        self.break_off(error.into());
                        return true;
                    }
                };
                let operation = match direction {
                    Direction::Read => Operation::Read,
                    Direction::Write => Operation::Write { fua: false },
                };
                let request = Request {
                    id: RequestId(number as u64),
                    operation,
                    lba: course.lba(unit),
                    blocks: BlockCount(course.unit_blocks),
                };
                if let Err((refused, _)) = remote.submit(context.now(), request, data) {
                    lane.put_back(number, unit);
                    let why = format!("a request is refused: {:?}", refused.why);
                    self.break_off(BenchError::Changed(why));
                    return true;
                }
                let slot = &mut self.slots[number];
                (slot.unit, slot.direction) = (unit, direction);
                (slot.submitted, slot.is_under_way) = (submitted, true);
                self.under_way += 1;
            }
        }
        self.under_way > before
    }

    /// Does all that follows from an event.
    fn work(&mut self, context: &mut Context<'_, BenchMessage>) {
        let clock = Instant::now();
        loop {
            if self.wants_close && !self.is_closing && (self.under_way == 0 || !self.is_live) {
                self.close(context.now());
            }
            while let Some(happened) = self.remote.as_mut().and_then(|remote| remote.poll(context))
            {
                match happened {
                    Happened::Completed(completed) => self.completed(&completed, clock),
                    Happened::Event(event) => self.host_event(event, context),
                }
            }
            let may_close = self.wants_close && !self.is_closing && self.under_way == 0;
            if !self.issue(clock, context) && !may_close {
                break;
            }
        }
        let has_ended = self.is_stopping || self.lanes.iter().all(Lane::is_finished);
        if self.course.is_some() && !self.is_over && has_ended && self.under_way == 0 {
            self.is_over = true;
            let loaded = self.take_loaded();
            self.voice.say(Said::Loaded(loaded));
        }
        if self.is_closing
            && !self.is_live
            && self.remote.as_ref().is_none_or(|one| one.is_closed())
        {
            self.voice.say(Said::Closed);
            context.retire();
        }
    }

    fn close(&mut self, now: Monotonic) {
        self.is_closing = true;
        if let Some(remote) = &mut self.remote {
            if self.is_live {
                remote.host().shut_down(now);
            } else {
                remote.host().give_up(now);
            }
        }
    }
}

impl Actor<BenchMessage> for Load {
    fn handle(&mut self, event: Event<BenchMessage>, context: &mut Context<'_, BenchMessage>) {
        match event {
            Event::Message { message, .. } => match message {
                BenchMessage::Begin(course) => self.begin(course, context),
                BenchMessage::Verify(course) => self.begin_verifying(course),
                BenchMessage::Stop => self.is_stopping = true,
                BenchMessage::Close => (self.is_stopping, self.wants_close) = (true, true),
            },
            Event::Socket { token, event, .. } => self.socket_event(token, event, context),
            Event::Timer { token: END_TIMER } => self.is_stopping = true,
            Event::Timer { token: RECONNECT_TIMER } => {
                if !self.is_closing && self.remote.is_none() {
                    self.connect(context.now());
                }
            }
            Event::Timer { token } => {
                if let Some(remote) = self.remote.as_mut().filter(|_| is_of(token, self.attempts)) {
                    remote.elapsed(context.now());
                }
            }
            Event::Stop => (self.is_stopping, self.wants_close) = (true, true),
            Event::Completed(_) => unreachable!("a load begins no I/O of files"),
        }
        self.work(context);
    }

    fn turn_ends(&mut self, context: &mut Context<'_, BenchMessage>) {
        self.work(context);
    }
}

impl Load {
    fn socket_event(
        &mut self,
        token: u64,
        event: SocketEvent,
        context: &mut Context<'_, BenchMessage>,
    ) {
        // Those of an earlier association close by themselves.
        if let Some(remote) = self.remote.as_mut().filter(|_| is_of(token, self.attempts)) {
            remote.socket_event(token, event, context);
        }
    }
}

/// Whether a token is one of the namespace that was begun as this one.
fn is_of(token: u64, attempt: u32) -> bool {
    token >> 32 == u64::from(attempt)
}

/// The bytes of a request that nobody looks at.
fn plain_data(contents: &[Slice], number: usize, direction: Direction) -> Data {
    match direction {
        Direction::Read => Data::None,
        Direction::Write => Data::From(contents[number % contents.len()].clone()),
    }
}

/// The bytes of a request with `verify`, which the journal knows of then; none while the loop has no
/// memory for them.
fn told_data(
    ledger: &mut Ledger,
    direction: Direction,
    unit: u64,
    course: &Course,
    context: &mut Context<'_, BenchMessage>,
) -> Result<Option<Data>, JournalError> {
    let bytes = course.workload.block_bytes as usize;
    let Some(mut buffer) = context.buffer(bytes) else { return Ok(None) };
    if direction == Direction::Read {
        return Ok(Some(Data::Into(buffer)));
    }
    ledger.issue(unit, course, &mut buffer)?;
    Ok(Some(Data::From(buffer.share(0..bytes))))
}

/// What plain writes write: random bytes, the same for requests that share a slice.
fn contents(workload: &Workload, number: usize, slots: usize) -> Vec<Slice> {
    let bytes = workload.block_bytes as usize;
    let count = (CONTENT_BYTES / bytes).clamp(1, slots);
    let mut random = Random::new(workload.seed, number as u64);
    let content = |_| {
        let mut buffer = Buffer::zeroed(bytes);
        random.fill(&mut buffer);
        buffer.share(0..bytes)
    };
    (0..count).map(content).collect()
}
