//! One seed: lives of a pool on real files, with moments set aside all along.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
    time::Duration,
};

use fathom_lvs::NewPool;
use fathom_runtime::device::DeviceFile;
use fathom_test_fuse::{DiskFiles, Moment, WAIT_MAX};
use fathom_test_sim::{
    model::Crash,
    pool::{Shape, new_disks, new_pool},
};
use fathom_test_support::{disk::Cut, random::Random};

use crate::{
    driver::Members,
    journal::{Journal, Record},
    subject::Subject,
    verify::{self, Verified},
    workload::Workload,
};

/// Changes to the disks from one moment to the next, at most.
const CHANGES_MAX: u64 = 100;
/// A life ends after a moment once in so many times.
const LIFE: u64 = 5;

/// How long a device waits for more requests before it does one of those that it has.
const PATIENCE: Duration = Duration::from_micros(300);
/// How many requests it waits for, at most.
const GATHERED_MAX: u64 = 12;

/// In which order the devices do what they are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// In the order in which it arrives, at once.
    Arrival,
    /// In a random order: some requests are held, and released when others have come. What a
    /// seed does then depends on time.
    Random,
}

/// What a history came to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Summary {
    /// Moments that were set aside and crashed in every way.
    pub moments: u64,
    /// Of these, while a pool was being opened.
    pub while_opening: u64,
    /// Crashes from which life went on, on real files.
    pub lives: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// What came of the crashes.
    pub verified: Verified,
}

/// How the pool under test is opened on files.
pub type Open<'a> = dyn Fn(Members, Random) -> Result<Box<dyn Subject>, String> + 'a;

struct History<'a> {
    files: &'a DiskFiles,
    journal: Journal,
    workload: Workload,
    random: Random,
    open: &'a Open<'a>,
    summary: Summary,
}

/// Runs the history of `seed` up to so many moments, with a pool opened by `open`.
///
/// # Errors
///
/// What went wrong first.
pub fn run(seed: u64, moments: u64, order: Order, open: &Open<'_>) -> Result<Summary, String> {
    let mut random = Random::new(seed);
    // Space for everything that the workload makes: full pools are for the simulation.
    let shape = Shape {
        members: 1 + random.below(3),
        log_bytes: (128 << 10) << random.below(2),
        clusters: 400,
    };
    let disks = new_disks(&mut random, shape);
    let new = new_pool(&mut random, shape);
    let files = DiskFiles::mount(&format!("power-{seed}"), disks.0);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        if order == Order::Random {
            let draw = random.fork("order");
            scope.spawn(|| disorder(&files, draw, &ended));
        }
        let _end = Ending(&ended);
        lives(&files, &new, random, moments, open)
    })
}

/// Says that a history has ended, however it does.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Holds some requests, and releases them one by one in a random order, until the history has
/// ended.
fn disorder(files: &DiskFiles, mut random: Random, ended: &AtomicBool) {
    let rule = files.hold(|arrival| !arrival.number.is_multiple_of(4));
    while !ended.load(Ordering::Relaxed) {
        let gathered = usize::try_from(random.range(1..GATHERED_MAX)).expect("small");
        files.are_held_within(gathered, PATIENCE);
        let held = files.held();
        if !held.is_empty() {
            files.release(random.pick(&held));
        }
    }
    files.lift(rule);
    files.release_all();
}

fn lives(
    files: &DiskFiles,
    new: &NewPool,
    mut random: Random,
    moments: u64,
    open: &Open<'_>,
) -> Result<Summary, String> {
    let mut members = members(files)?;
    fathom_lvs::create(&mut members, new).map_err(|error| error.to_string())?;
    drop(members);
    let journal = Journal::default();
    let workload = Workload::new(journal.clone(), random.fork("workload"));
    let summary = Summary::default();
    let mut history = History { files, journal, workload, random, open, summary };
    while history.summary.moments < moments {
        history.live(moments)?;
    }
    Ok(history.summary)
}

/// The files, opened as a pool's members are.
fn members(files: &DiskFiles) -> Result<Members, String> {
    let open = |disk| DeviceFile::open(&files.path(disk), WAIT_MAX).map(Arc::new);
    let files: Result<Vec<_>, _> = (0..files.count()).map(open).collect();
    Ok(Members(files.map_err(|error| error.to_string())?))
}

impl History<'_> {
    /// From the opening of the pool to its death, or to the last moment.
    fn live(&mut self, moments: u64) -> Result<(), String> {
        let while_opening = self.random.below(40);
        let moment = self.set_aside(while_opening);
        let members = members(self.files)?;
        let mut subject = (self.open)(members, self.random.fork("subject"))?;
        if self.take(&moment)?.is_some() {
            self.summary.while_opening += 1;
        }
        if self.journal.lock().crashed() {
            let observed = self.workload.observe(&mut *subject)?;
            self.journal.lock().adopt(&observed)?;
        }
        while self.summary.moments < moments {
            let changes = self.random.below(CHANGES_MAX);
            let aside = self.set_aside(changes);
            let moment = loop {
                self.workload.step(&mut *subject)?;
                if let Some(moment) = self.take(&aside)? {
                    break moment;
                }
            };
            if self.random.chance(1, LIFE) {
                self.end(subject, &moment);
                return Ok(());
            }
        }
        self.workload.rest(&mut *subject)?;
        self.summary.answered = self.workload.answered;
        let observed = self.workload.observe(&mut *subject)?;
        self.journal.lock().check(&observed, Crash::Daemon)
    }

    /// Has the disks and the journal set aside before the change after so many more.
    fn set_aside(&self, changes: u64) -> Receiver<(Moment, Record)> {
        let (sender, receiver) = mpsc::channel();
        let journal = self.journal.clone();
        self.files.at(changes, move |moment| {
            // Nobody listens any more when the history has failed meanwhile.
            let _ = sender.send((moment, journal.lock().clone()));
        });
        receiver
    }

    /// Verifies what was set aside, if it was.
    fn take(
        &mut self,
        aside: &Receiver<(Moment, Record)>,
    ) -> Result<Option<(Moment, Record)>, String> {
        let (moment, record) = match aside.try_recv() {
            Ok(both) => both,
            Err(TryRecvError::Empty) => return Ok(None),
            Err(TryRecvError::Disconnected) => return Err("no moment comes any more".to_owned()),
        };
        self.summary.moments += 1;
        let mut random = self.random.fork("verify");
        let verified = verify::all_crashes(&moment, &record, &mut random)?;
        self.summary.verified.add(verified);
        Ok(Some((moment, record)))
    }

    /// The subject dies, and life goes on from what a crash at `moment` left.
    fn end(&mut self, subject: Box<dyn Subject>, (moment, record): &(Moment, Record)) {
        drop(subject);
        self.workload.crashed();
        let power = self.random.chance(2, 3);
        let crash = if power { Crash::Power } else { Crash::Daemon };
        let disks = if power {
            let cut = *self.random.pick(&Cut::ALL);
            moment.after_power_cut(&mut self.random, cut)
        } else {
            moment.after_process_crash()
        };
        self.files.change(|present| present.clone_from_slice(&disks));
        let mut journal = self.journal.lock();
        *journal = record.clone();
        journal.crash(crash);
        self.summary.lives += 1;
    }
}
