//! Runs the executable of the crash test, one process for each seed.
//!
//! - As many seeds at once as the machine has processors.
//! - A failure is anything but success: an error that the test tells, a panic in the store, a
//!   signal, or no end within [`SEED_LIMIT`].
//! - A process that does not end is killed by its own id.

use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long one seed may take; it takes a fraction of a second.
const SEED_LIMIT: Duration = Duration::from_secs(60);

/// An executable of the crash test.
pub(crate) struct Trial {
    executable: PathBuf,
}

/// A seed that did not pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    /// The first line of the panic, or how the process ended.
    pub(crate) what: String,
}

impl Trial {
    pub(crate) fn new(executable: PathBuf) -> Self {
        Self { executable }
    }

    /// Tries seeds in order until one fails.
    ///
    /// # Errors
    ///
    /// When the executable cannot be run.
    pub(crate) fn first_failure(&self, seeds: Range<u64>) -> Result<Option<Failure>, String> {
        let next = AtomicU64::new(seeds.start);
        let failures = Mutex::new(Vec::new());
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return Ok(());
                }
                if let Some(what) = failure(&self.executable, seed)? {
                    // Nobody begins another seed; smaller ones are still run to their end.
                    next.fetch_max(seeds.end, Ordering::Relaxed);
                    failures.lock().expect("no worker panics").push(Failure { seed, what });
                }
            }
        };
        let workers = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let mut ends = workers.into_iter().map(|worker| worker.join().expect("no panics"));
            ends.try_for_each(|end: io::Result<()>| end)
        })
        .map_err(|error| format!("{}: {error}", self.executable.display()))?;
        let failures = failures.into_inner().expect("no worker panics");
        Ok(failures.into_iter().min_by_key(|failure| failure.seed))
    }
}

/// Runs one seed; returns what went wrong.
fn failure(executable: &Path, seed: u64) -> io::Result<Option<String>> {
    let mut child = Command::new(executable)
        .arg("--no-capture")
        .env("FATHOM_SEED", seed.to_string())
        .env_remove("FATHOM_SEEDS")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stderr = child.stderr.take().expect("it is piped");
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        let result = stderr.read_to_end(&mut bytes).map(|_| bytes);
        // Nobody listens any more after the limit.
        drop(sender.send(result));
    });
    let said = receiver.recv_timeout(SEED_LIMIT);
    if said.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    reader.join().expect("reading does not panic");
    match said {
        Ok(_) if status.success() => Ok(None),
        Ok(said) => {
            let line = first_line(status, &String::from_utf8_lossy(&said?));
            // The seed is told anyway.
            let prefix = format!("seed {seed}: ");
            Ok(Some(line.strip_prefix(&prefix).map_or(line.clone(), str::to_owned)))
        }
        Err(_) => Ok(Some(format!("no end within {} s", SEED_LIMIT.as_secs()))),
    }
}

/// The first line of the first panic.
fn first_line(status: ExitStatus, said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains(" panicked at "));
    match (lines.next(), lines.next()) {
        (Some(_), Some(line)) => line.to_owned(),
        _ => format!("{status}: {}", said.lines().last().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_first_line_of_a_panic_is_told() {
        let said = "\nthread 'x' (1) panicked at a.rs:1:2:\nseed 7: it is gone\nreplay: so\n";
        assert_eq!(first_line(ExitStatus::from_raw(101 << 8), said), "seed 7: it is gone");
    }

    #[test]
    fn an_end_without_a_panic_is_told_by_its_status() {
        let told = first_line(ExitStatus::from_raw(9), "no memory\n");
        assert!(told.contains("signal: 9") && told.ends_with("no memory"), "{told}");
    }

    #[test]
    fn success_is_no_failure_and_the_smallest_failing_seed_is_told() {
        let trial = |executable: &str| Trial::new(PathBuf::from(executable));
        assert_eq!(trial("true").first_failure(0..4), Ok(None));
        let failure = trial("false").first_failure(3..9).expect("it runs").expect("it fails");
        assert_eq!(failure.seed, 3);
        assert!(trial("/nowhere").first_failure(0..1).is_err());
    }
}
