//! A run, from a target and a workload to a report.
//!
//! ```text
//!   check -> loops -> all connected -> Begin -> progress ... -> all Loaded -> Close -> report
//! ```
//!
//! - Everything is told through one channel: what the loads say, and that somebody cancels.
//! - Whatever ends a run early, the other loads are stopped, what they have counted is kept, and
//!   every association is closed.
//!
//! Before it: the CLI. After it: [`crate::load`], one on each loop.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use fathom_host::Namespace;
use fathom_runtime::{Address, Configuration, Loops, SizeClass, Unsent};
use fathom_units::{ByteCount, Nsid};

use crate::{
    error::{BenchError, Failures},
    load::{BenchMessage, Counters, Load, Loaded, Plan, Said},
    report::{Progress, Report, Tally, mib_rate, rate},
    workload::{Course, Target, Until, Workload},
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
/// [`BenchError`]: the workload is not possible, the target cannot be reached, or was lost.
pub fn run(
    target: &Target,
    workload: &Workload,
    cancel: &Cancel,
    mut progress: impl FnMut(&Progress),
) -> Result<Report, BenchError> {
    workload.check(target)?;
    let (said, heard) = channel();
    cancel.follow(said.clone());
    let mut run = Run::start(target, workload, said, heard)?;
    let result = run.drive(&mut progress);
    run.close();
    result.map(|()| run.report()).map_err(|error| match error {
        BenchError::Lost { subsystem, failures, .. } => {
            BenchError::Lost { subsystem, failures, report: Box::new(run.report()) }
        }
        error => error,
    })
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
            buffers: vec![SizeClass { chunk_bytes: 4096, chunks: 1 }],
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

    /// From the first connection to the last completion.
    fn drive(&mut self, progress: &mut impl FnMut(&Progress)) -> Result<(), BenchError> {
        let mut ready = 0;
        while ready < self.loads.len() {
            let said = self.heard.recv().map_err(|_| BenchError::Ended)?;
            if matches!(said, Said::Ready { .. }) {
                ready += 1;
            }
            self.hear(said)?;
            if self.is_cancelled {
                return Ok(());
            }
        }
        let namespace = self.namespace.expect("each that is ready has told it");
        let course = Course::new(self.workload, namespace.block_size, namespace.size.0)?;
        let course = Arc::new(course);
        let began = Instant::now();
        self.began = Some(began);
        self.tell_all(|| BenchMessage::Begin(Arc::clone(&course)));
        let mut told = (began, 0, 0);
        let mut next = began + PROGRESS;
        while self.loading > 0 {
            let now = Instant::now();
            match self.heard.recv_timeout(next.saturating_duration_since(now)) {
                Ok(said) => self.hear(said)?,
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    next = now + PROGRESS;
                    told = self.tell_progress(began, told, now, progress);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(BenchError::Ended),
            }
        }
        Ok(())
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
            Said::Changed { why } => return Err(BenchError::Changed(why)),
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

    fn tell_progress(
        &self,
        began: Instant,
        (last, requests_before, bytes_before): (Instant, u64, u64),
        now: Instant,
        progress: &mut impl FnMut(&Progress),
    ) -> (Instant, u64, u64) {
        let sum = |of: fn(&Counters) -> u64| self.counters.iter().map(|one| of(one)).sum::<u64>();
        let requests = sum(|counters| counters.requests.load(Ordering::Relaxed));
        let bytes = sum(|counters| counters.bytes.load(Ordering::Relaxed));
        let elapsed = now.saturating_duration_since(began);
        let since = now.saturating_duration_since(last);
        let share = match self.workload.until {
            Until::Elapsed(time) => elapsed.as_secs_f64() / time.as_secs_f64(),
            Until::Requests(all) => share_of(requests, all),
        };
        progress(&Progress {
            elapsed,
            share: share.min(1.0),
            requests,
            failed: sum(|counters| counters.failed.load(Ordering::Relaxed)),
            iops: rate(requests - requests_before, since),
            mib_per_s: mib_rate(bytes - bytes_before, since),
        });
        (now, requests, bytes)
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
            cancelled: self.is_cancelled,
            nsid: namespace.map_or(Nsid::NONE, |namespace| namespace.nsid),
            size: ByteCount(blocks * u64::from(block_bytes)),
            logical_block_bytes: block_bytes,
            io_queues: self.io_queues,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn share_of(part: u64, all: u64) -> f64 {
    part as f64 / all as f64
}
