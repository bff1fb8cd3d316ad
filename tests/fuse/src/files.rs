//! The mounted folder, and what a test does with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use fathom_test_support::disk::SimulatedDisk;
use fuser::{BackgroundSession, Config, MountOption, Notifier};
use rustix::mount::{UnmountFlags, unmount};

use crate::{
    gate::{Gate, HOLD_MAX},
    moment::Moment,
    request::{Arrival, Counts, Failure, RuleId, Times, Treatment},
    serve::{self, Served},
};

/// How long a test waits for a request to arrive.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// A folder with a file for each disk, mounted until this is dropped.
pub struct DiskFiles {
    folder: PathBuf,
    gate: Arc<Gate>,
    notifier: Notifier,
    /// Until it is dropped.
    session: Option<BackgroundSession>,
    watchdog: Option<JoinHandle<()>>,
}

impl DiskFiles {
    /// Mounts a folder with these disks as files. `label` is part of its name, so that one
    /// knows whose it is.
    ///
    /// # Panics
    ///
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(label: &str, disks: Vec<SimulatedDisk>) -> Self {
        match Self::try_mount(label, disks) {
            Ok(files) => files,
            Err(error) => panic!(
                "FUSE cannot be mounted: {error}. This test needs a kernel with FUSE, the device \
                 /dev/fuse, and either root or fusermount3 (Debian: apt-get install fuse3)"
            ),
        }
    }

    fn try_mount(label: &str, disks: Vec<SimulatedDisk>) -> io::Result<Self> {
        let folder = new_folder(label)?;
        let gate = Arc::new(Gate::new(disks, HOLD_MAX));
        let served = Served {
            gate: Arc::clone(&gate),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("fathom-test".to_owned())];
        let session = fuser::spawn_mount(served, &folder, &config)?;
        let watched = Arc::clone(&gate);
        let watchdog = std::thread::Builder::new()
            .name("fuse-watchdog".to_owned())
            .spawn(move || watched.watch())?;
        let notifier = session.notifier();
        Ok(Self { folder, gate, notifier, session: Some(session), watchdog: Some(watchdog) })
    }

    /// The path of a disk's file.
    #[must_use]
    pub fn path(&self, disk: usize) -> PathBuf {
        self.folder.join(serve::name(disk))
    }

    /// How many disks there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.gate.lock().disks.len()
    }

    // What arrived.

    /// The newest arrivals, at most [`crate::ARRIVALS_MAX`], oldest first.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.gate.lock().arrivals.iter().copied().collect()
    }

    /// How many requests arrived.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.gate.lock().counts
    }

    // Holding.

    /// Holds the requests that `which` names before they reach their disk, from now on. Where
    /// several rules name a request, the first one counts.
    pub fn hold(&self, which: impl Fn(&Arrival) -> bool + Send + 'static) -> RuleId {
        self.gate.add_rule(Treatment::Hold, Times::Always, Box::new(which))
    }

    /// Lets them reach their disk, and holds back the answer.
    pub fn hold_answers(&self, which: impl Fn(&Arrival) -> bool + Send + 'static) -> RuleId {
        self.gate.add_rule(Treatment::HoldAnswer, Times::Always, Box::new(which))
    }

    /// Never answers a disk again; what arrives does not reach it either.
    pub fn silence(&self, disk: usize) -> RuleId {
        self.hold(move |arrival| arrival.disk == disk)
    }

    /// Ends a rule. What it holds stays held.
    pub fn lift(&self, rule: RuleId) {
        self.gate.lift(rule);
    }

    /// What is held, in the order of arrival.
    #[must_use]
    pub fn held(&self) -> Vec<Arrival> {
        self.gate.lock().held().collect()
    }

    /// Waits until so many requests are held that `which` names, and returns these.
    ///
    /// # Panics
    ///
    /// After [`WAIT_MAX`].
    pub fn wait_for_held(&self, count: usize, which: impl Fn(&Arrival) -> bool) -> Vec<Arrival> {
        let came =
            self.gate.wait_until(WAIT_MAX, |state| state.held().filter(&which).count() >= count);
        let held: Vec<Arrival> = self.held().into_iter().filter(&which).collect();
        assert!(came, "{count} held requests did not come in {WAIT_MAX:?}, only {held:?}");
        held
    }

    /// Waits until so many requests are held, at the longest for `patience`; whether they are.
    pub fn are_held_within(&self, count: usize, patience: Duration) -> bool {
        self.gate.wait_until(patience, |state| state.held().count() >= count)
    }

    /// Waits until so many requests have arrived since the files were mounted.
    ///
    /// # Panics
    ///
    /// After [`WAIT_MAX`].
    pub fn wait_for_arrivals(&self, count: u64) {
        let came = self.gate.wait_until(WAIT_MAX, |state| {
            state.arrivals.back().is_some_and(|arrival| arrival.number + 1 >= count)
        });
        assert!(came, "{count} requests did not come in {WAIT_MAX:?}: {:?}", self.counts());
    }

    /// Lets a held request reach its disk, and answers it. Returns whether it was held.
    pub fn release(&self, arrival: &Arrival) -> bool {
        self.gate.release(arrival.number, None)
    }

    /// Answers a held request with an error; it does not reach its disk any more.
    pub fn release_with(&self, arrival: &Arrival, failure: Failure) -> bool {
        self.gate.release(arrival.number, Some(failure))
    }

    /// Releases all that is held, in the order of arrival.
    pub fn release_all(&self) {
        for arrival in self.held() {
            self.release(&arrival);
        }
    }

    // Failing.

    /// Fails the requests that `which` names; they do not reach their disk.
    pub fn fail(
        &self,
        times: Times,
        failure: Failure,
        which: impl Fn(&Arrival) -> bool + Send + 'static,
    ) -> RuleId {
        self.gate.add_rule(Treatment::Fail(failure), times, Box::new(which))
    }

    // Moments.

    /// All disks now, between two requests.
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.gate.lock().moment()
    }

    /// Calls `take` with all disks as they are when `changes` more requests that are not reads
    /// have arrived, just before the next one. That one counts as under way.
    ///
    /// `take` is called while no request is answered: what it reads of a journal is what was
    /// known at that moment. It must do no I/O on these files.
    pub fn at(&self, changes: u64, take: impl FnOnce(Moment) + Send + 'static) {
        self.gate.set_on_moment(changes, Box::new(take));
    }

    /// Changes the disks themselves, between two requests: to cut their power in place, to
    /// damage them, to grow them, to take others. The number of disks stays.
    pub fn change<R>(&self, change: impl FnOnce(&mut [SimulatedDisk]) -> R) -> R {
        let mut state = self.gate.lock();
        let sizes = |disks: &[SimulatedDisk]| -> Vec<u64> {
            disks.iter().map(SimulatedDisk::capacity).collect()
        };
        let before = sizes(&state.disks);
        let result = change(&mut state.disks);
        let after = sizes(&state.disks);
        drop(state);
        for disk in (0..after.len()).filter(|&disk| before[disk] != after[disk]) {
            // The kernel asks again for a size that nobody told it; a file that nobody opened
            // is none that it knows.
            let _ = self.notifier.inval_inode(serve::inode(disk), -1, 0);
        }
        result
    }
}

impl Drop for DiskFiles {
    fn drop(&mut self) {
        self.gate.close();
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
        cut_off(&self.folder);
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
        let _ = fs::remove_dir(&self.folder);
        if let Some(failure) = self.gate.failure()
            && !std::thread::panicking()
        {
            panic!("{failure}");
        }
    }
}

/// Ends the connection of a mounted folder, whoever still uses it, and unmounts it. Without
/// root this does nothing, and the session unmounts it by fusermount3.
fn cut_off(folder: &Path) {
    let _ = unmount(folder, UnmountFlags::FORCE | UnmountFlags::DETACH);
}

/// A new empty folder below the target directory, named after this process. Those of processes
/// that are gone are removed.
fn new_folder(label: &str) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let executable = std::env::current_exe()?;
    let profile = executable.parent().and_then(Path::parent);
    let all = profile.ok_or_else(|| io::Error::other("a test without a folder"))?.join("fuse");
    fs::create_dir_all(&all)?;
    for entry in fs::read_dir(&all)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let owner = file_name.to_str().and_then(|name| name.split('-').next());
        if owner.is_some_and(|owner| !is_alive(owner)) {
            cut_off(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = all.join(format!("{}-{number}-{label}", std::process::id()));
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// Whether a process still runs. One that was killed while a thread of its own waited for an
/// answer of its own files cannot end, though all of it is dead: it waits for us to cut it off.
fn is_alive(process: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process).join("status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}
