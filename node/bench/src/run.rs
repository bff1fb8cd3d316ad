//! A run, from a target and a workload to a report.
//!
//! ```text
//!   check -> loops -> all connected -> Begin -> progress ... -> all Loaded ---------------+
//!                               journal | Verify -> progress ... -> all Loaded -> Close -> report
//! ```
//!
//! - Everything is told through one channel: what the loads say, and that somebody cancels.
//! - Whatever ends a run early, the other loads are stopped, what they have counted is kept, and
//!   every association is closed.
//!
//! Before it: the CLI. After it: [`crate::load`], one on each loop.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use fathom_host::Namespace;
use fathom_runtime::{Address, Configuration, Loops, SizeClass, Unsent};
use fathom_units::{ByteCount, Nsid};

use crate::{
    error::{BenchError, Failures},
    journal::{Header, Journal, JournalError},
    load::{BenchMessage, Counters, Load, Loaded, Plan, Said},
    random::mix,
    report::{Progress, Report, Stage, Tally, mib_rate, rate},
    workload::{Course, Mode, Target, Until, Workload},
};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);

/// Ends a run from another thread, or from a signal's. A clone is the same one.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<Mutex<Cancellation>>);

#[derive(Default, Debug)]
struct Cancellation {
    is_cancelled: bool,
    /// The run that is to be told.
    run: Option<Sender<Said>>,
}

impl Cancel {
    /// One for a run that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the run end: it submits nothing more, waits for what is under way, and reports.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.is_cancelled = true;
        if let Some(run) = &state.run {
            // One that has ended needs not be told.
            let _ = run.send(Said::Cancelled);
        }
    }

    fn follow(&self, run: Sender<Said>) {
        let mut state = self.lock();
        if state.is_cancelled {
            let _ = run.send(Said::Cancelled);
        }
        state.run = Some(run);
    }

    fn lock(&self) -> MutexGuard<'_, Cancellation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads a target, and reports what came of it. `progress` is told about once a second how far it is.
///
/// Requests that fail do not end a run: they are in the report. Nothing that was written is durable
/// by itself.
///
/// # Errors
///
/// [`BenchError`]: the workload is not possible, the target cannot be reached, or was lost; with
/// [`Workload::verify`] also that a block does not hold what was written.
pub fn run(
    target: &Target,
    workload: &Workload,
    cancel: &Cancel,
    progress: impl FnMut(&Progress),
) -> Result<Report, BenchError> {
    perform(target, workload, None, cancel, progress)
}

/// Reads everything of which a journal knows that it was written, by a run that has ended in whatever
/// way, and compares it. Of the workload only queue depth, jobs, loops and cores count.
///
/// Whether a controller that was lost can still execute a write of the old association, this cannot
/// tell: it is to be called when that is over, which it is when our target lets a host in again.
///
/// # Errors
///
/// [`BenchError`]: the journal cannot be used or is of another volume, the target cannot be reached,
/// or a block does not hold what it must.
pub fn verify(
    target: &Target,
    workload: &Workload,
    journal: &Path,
    cancel: &Cancel,
    progress: impl FnMut(&Progress),
) -> Result<Report, BenchError> {
    let journal = Journal::open(journal)?;
    let header = *journal.header();
    let end = header.end().expect("checked when it was opened");
    let jobs = u16::try_from(header.units).unwrap_or(u16::MAX).min(workload.jobs);
    let workload = Workload {
        mode: Mode::RandRead,
        block_bytes: header.unit_bytes(),
        range: Some(header.start()..end),
        jobs,
        verify: Some(journal.path().to_owned()),
        ..workload.clone()
    };
    perform(target, &workload, Some(journal), cancel, progress)
}

fn perform(
    target: &Target,
    workload: &Workload,
    journal: Option<Journal>,
    cancel: &Cancel,
    mut progress: impl FnMut(&Progress),
) -> Result<Report, BenchError> {
    workload.check(target)?;
    let (said, heard) = channel();
    cancel.follow(said.clone());
    let mut run = Run::start(target, workload, said, heard)?;
    let result = run.drive(journal, &mut progress);
    run.close();
    let mut error = match result {
        Ok(()) => return Ok(run.report()),
        Err(error) => error,
    };
    if let BenchError::Lost { report, .. } | BenchError::Mismatch { report, .. } = &mut error {
        // Now all is counted.
        **report = run.report();
    }
    Err(error)
}

struct Run<'a> {
    target: &'a Target,
    workload: &'a Workload,
    loops: Option<Loops<BenchMessage>>,
    loads: Vec<Address>,
    counters: Vec<Arc<Counters>>,
    heard: Receiver<Said>,
    namespace: Option<Namespace>,
    io_queues: usize,
    tally: Tally,
    began: Option<Instant>,
    ended: Option<Instant>,
    is_verified: bool,
    /// Loads that have not said yet what they have counted.
    loading: usize,
    is_cancelled: bool,
    /// Loads that are gone without having closed.
    gone: usize,
}

impl<'a> Run<'a> {
    fn start(
        target: &'a Target,
        workload: &'a Workload,
        said: Sender<Said>,
        heard: Receiver<Said>,
    ) -> Result<Self, BenchError> {
        let configuration = Configuration {
            loops: workload.loop_count(),
            cores: workload.cores.iter().copied().take(workload.loop_count()).collect(),
            buffers: vec![buffers(workload)],
            ..Configuration::default()
        };
        let loops = Loops::start(&configuration)?;
        let count = loops.count();
        let mut run = Self {
            target,
            workload,
            loops: Some(loops),
            loads: Vec::new(),
            counters: (0..count).map(|_| Arc::default()).collect(),
            heard,
            namespace: None,
            io_queues: 0,
            tally: Tally::default(),
            began: None,
            ended: None,
            is_verified: false,
            loading: count,
            is_cancelled: false,
            gone: 0,
        };
        for number in 0..count {
            let plan = Plan {
                number,
                target: target.clone(),
                workload: workload.clone(),
                counters: Arc::clone(&run.counters[number]),
                said: said.clone(),
            };
            let remote = run.loops().remote(number);
            let load = remote.give_birth(Load::birth(plan)).map_err(|_| BenchError::Ended)?;
            run.loads.push(load);
        }
        Ok(run)
    }

    fn loops(&self) -> &Loops<BenchMessage> {
        self.loops.as_ref().expect("they end with the run")
    }

    /// From the first connection to the last completion. With a journal that is open, nothing is
    /// loaded, and all that it knows is verified.
    fn drive(
        &mut self,
        journal: Option<Journal>,
        progress: &mut impl FnMut(&Progress),
    ) -> Result<(), BenchError> {
        let mut ready = 0;
        while ready < self.loads.len() {
            let said = self.heard.recv().map_err(|_| BenchError::Ended)?;
            ready += usize::from(matches!(said, Said::Ready { .. }));
            self.hear(said)?;
            if self.is_cancelled {
                return Ok(());
            }
        }
        let namespace = self.namespace.expect("each that is ready has told it");
        let mut course = Course::new(self.workload, namespace.block_size, namespace.size.0)?;
        let is_load = journal.is_none();
        course.journal = self.journal(journal, &course, &namespace)?.map(Arc::new);
        let course = Arc::new(course);
        if is_load {
            self.tell_all(|| BenchMessage::Begin(Arc::clone(&course)));
            self.wait(Stage::Load, &course, progress)?;
        }
        self.check_mismatches()?;
        if course.journal.is_some() && !self.is_cancelled {
            self.loading = self.loads.len();
            self.tell_all(|| BenchMessage::Verify(Arc::clone(&course)));
            self.wait(Stage::Verify, &course, progress)?;
            self.check_mismatches()?;
            self.is_verified = !self.is_cancelled;
        }
        Ok(())
    }

    /// The journal of the run: the one that is open, or the one of the workload.
    fn journal(
        &self,
        open: Option<Journal>,
        course: &Course,
        namespace: &Namespace,
    ) -> Result<Option<Journal>, BenchError> {
        let Some(path) = &self.workload.verify else { return Ok(None) };
        let wanted = Header {
            block_bytes: namespace.block_size,
            unit_blocks: u32::try_from(course.unit_blocks).expect("a request has 32 bits of bytes"),
            nsid: namespace.nsid.0,
            run: fresh(),
            first: course.first.0,
            units: course.units,
            nguid: namespace.nguid,
        };
        match open {
            None => Ok(Some(Journal::open_or_create(path, wanted)?)),
            Some(journal) => match journal.header().difference(&wanted) {
                None => Ok(Some(journal)),
                Some(why) => Err(JournalError::Unfit { path: path.clone(), why }.into()),
            },
        }
    }

    /// Waits until all loads have said what they have counted, and tells progress meanwhile.
    fn wait(
        &mut self,
        stage: Stage,
        course: &Course,
        progress: &mut impl FnMut(&Progress),
    ) -> Result<(), BenchError> {
        let began = Instant::now();
        let mut told = Told { at: began, ..self.counted() };
        let mut next = began + PROGRESS;
        while self.loading > 0 {
            let now = Instant::now();
            match self.heard.recv_timeout(next.saturating_duration_since(now)) {
                Ok(said) => self.hear(said)?,
                Err(RecvTimeoutError::Timeout) => {
                    let now = self.counted();
                    next = now.at + PROGRESS;
                    progress(&self.progress(stage, course, began, &told, &now));
                    told = now;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(BenchError::Ended),
            }
        }
        Ok(())
    }

    fn check_mismatches(&self) -> Result<(), BenchError> {
        let Some(first) = self.tally.mismatches.first.first().copied() else { return Ok(()) };
        Err(BenchError::Mismatch {
            subsystem: self.target.subsystem.to_string(),
            nsid: self.target.nsid,
            count: self.tally.mismatches.count,
            first,
            mismatches: self.tally.mismatches.first.clone(),
            report: Box::new(self.report()),
        })
    }

    fn hear(&mut self, said: Said) -> Result<(), BenchError> {
        match said {
            Said::Ready { number, namespace, io_queues } => {
                debug_assert!(number < self.loads.len(), "a load of this run");
                self.namespace.get_or_insert(namespace);
                self.io_queues += io_queues;
            }
            Said::Loaded(loaded) => self.add(&loaded),
            Said::Failed { failures, was_live, loaded } => {
                self.add(&loaded);
                let subsystem = self.target.subsystem.to_string();
                let failures = Failures(failures);
                return Err(if was_live {
                    let report = Box::new(self.report());
                    BenchError::Lost { subsystem, failures, report }
                } else {
                    BenchError::Connect { subsystem, failures }
                });
            }
            Said::Broken(error) => return Err(*error),
            Said::Closed => {}
            Said::Gone => {
                self.gone += 1;
                return Err(BenchError::Ended);
            }
            Said::Cancelled => {
                self.is_cancelled = true;
                self.tell_all(|| BenchMessage::Stop);
            }
        }
        Ok(())
    }

    fn add(&mut self, loaded: &Loaded) {
        self.loading -= 1;
        self.tally.add(&loaded.tally);
        self.began = self.began.into_iter().chain(loaded.began).min();
        self.ended = self.ended.into_iter().chain(loaded.ended).max();
    }

    /// Tells each load something. One that is gone says so itself.
    fn tell_all(&self, message: impl Fn() -> BenchMessage) {
        for (number, load) in self.loads.iter().enumerate() {
            let remote = self.loops().remote(number);
            let mut message = message();
            while let Err(Unsent::Full(back)) = remote.send(*load, message) {
                message = back;
                std::thread::yield_now();
            }
        }
    }

    fn counted(&self) -> Told {
        let sum = |of: fn(&Counters) -> &AtomicU64| {
            self.counters.iter().map(|counters| of(counters).load(Ordering::Relaxed)).sum()
        };
        Told {
            at: Instant::now(),
            requests: sum(|counters| &counters.requests),
            failed: sum(|counters| &counters.failed),
            bytes: sum(|counters| &counters.bytes),
            verified: sum(|counters| &counters.verified),
        }
    }

    fn progress(
        &self,
        stage: Stage,
        course: &Course,
        began: Instant,
        before: &Told,
        now: &Told,
    ) -> Progress {
        let elapsed = now.at.saturating_duration_since(began);
        let since = now.at.saturating_duration_since(before.at);
        let share = match (stage, self.workload.until) {
            (Stage::Verify, _) => share_of(now.verified, course.units),
            (Stage::Load, Until::Elapsed(time)) => elapsed.as_secs_f64() / time.as_secs_f64(),
            (Stage::Load, Until::Requests(all)) => share_of(now.requests, all),
        };
        Progress {
            stage,
            elapsed,
            share: share.min(1.0),
            requests: now.requests,
            failed: now.failed,
            iops: rate(now.requests - before.requests, since),
            mib_per_s: mib_rate(now.bytes - before.bytes, since),
        }
    }

    /// Ends all that goes on still, and the loops. Every association is closed within its deadlines.
    fn close(&mut self) {
        self.tell_all(|| BenchMessage::Stop);
        self.tell_all(|| BenchMessage::Close);
        let mut closed = self.gone;
        while closed < self.loads.len() {
            match self.heard.recv() {
                Ok(Said::Closed | Said::Gone) => closed += 1,
                Ok(Said::Loaded(loaded) | Said::Failed { loaded, .. }) => self.add(&loaded),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        self.loops.take().expect("it is closed once").stop();
    }

    fn report(&self) -> Report {
        let elapsed = match (self.began, self.ended) {
            (Some(began), Some(ended)) => ended.saturating_duration_since(began),
            _ => Duration::ZERO,
        };
        let namespace = self.namespace.as_ref();
        let block_bytes = namespace.map_or(0, |namespace| namespace.block_size);
        let blocks = namespace.map_or(0, |namespace| namespace.size.0);
        Report {
            elapsed,
            read: self.tally.read.results(elapsed),
            write: self.tally.write.results(elapsed),
            errors: self.tally.errors.clone(),
            unknown: self.tally.unknown,
            reconnects: self.tally.reconnects,
            verified_blocks: self.is_verified.then_some(self.tally.verified_blocks),
            cancelled: self.is_cancelled,
            nsid: namespace.map_or(Nsid::NONE, |namespace| namespace.nsid),
            size: ByteCount(blocks * u64::from(block_bytes)),
            logical_block_bytes: block_bytes,
            io_queues: self.io_queues,
        }
    }
}

/// What was counted when.
struct Told {
    at: Instant,
    requests: u64,
    failed: u64,
    bytes: u64,
    verified: u64,
}

/// The memory of a loop: for the bytes of requests that are looked at.
fn buffers(workload: &Workload) -> SizeClass {
    match workload.verify {
        None => SizeClass { chunk_bytes: 4096, chunks: 1 },
        Some(_) => SizeClass {
            chunk_bytes: workload.block_bytes.next_multiple_of(4096) as usize,
            chunks: workload.verify_buffers(),
        },
    }
}

/// A number that no other run has: from the time and the process.
fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (high, low) = (now.as_secs(), u64::from(now.subsec_nanos()));
    mix(mix(high << 30 ^ low) ^ u64::from(std::process::id()))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn share_of(part: u64, all: u64) -> f64 {
    part as f64 / all as f64
}
