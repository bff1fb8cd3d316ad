//! What is asked of a target: where it is, which requests, how many at once, and for how long.
//!
//! Before: the CLI, or a test. Next: [`crate::run`](crate::run()), which checks it first; what depends
//! on the namespace is checked when that is known, as a [`Course`].

use std::{net::SocketAddr, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use fathom_host::config::{IO_QUEUE_ENTRIES_MAX, IO_QUEUES_MAX, REQUESTS_MAX};
use fathom_nvme::{Nqn, fabrics::HostId, tcp::Digests};
use fathom_runtime::LOOPS_MAX;
use fathom_units::{ByteCount, Lba, Nsid};

use crate::{
    error::BenchError,
    journal::{Journal, UNITS_MAX},
};

/// The most requests that a job has under way: an I/O queue has one entry more.
pub const QUEUE_DEPTH_MAX: u32 = IO_QUEUE_ENTRIES_MAX - 1;
/// The most jobs on one loop: the I/O queues of an association.
pub const JOBS_MAX: u16 = IO_QUEUES_MAX;
/// The most bytes of a request.
pub const BLOCK_BYTES_MAX: u32 = 16 << 20;
/// The most memory for the data of requests with `verify`, in bytes a loop.
pub const VERIFY_BYTES_MAX: u64 = 4 << 30;
/// The most addresses of a target.
pub const ADDRESSES_MAX: usize = 16;

/// How patient a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// How long opening a connection and each step of setting up may take.
    pub setup: Duration,
    /// How long a request may take; it is noticed up to an eighth later.
    pub command: Duration,
    /// KATO: after how long without a sign of life the controller ends the association.
    pub keep_alive: Duration,
    /// After the loss of an association, how long a new one is tried; none ends the run with an
    /// error at once.
    pub reconnect: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            setup: Duration::from_secs(5),
            command: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            reconnect: None,
        }
    }
}

/// What is put under load.
#[derive(Clone, Debug)]
pub struct Target {
    /// The subsystem.
    pub subsystem: Nqn,
    /// The namespace in it.
    pub nsid: Nsid,
    /// Where it is: tried in order until one answers, 1 to [`ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// The name of this host.
    pub host: Nqn,
    /// The identifier of this host, which belongs to its name.
    pub host_id: HostId,
    /// The digests to use.
    pub digests: Digests,
    /// How patient the run is.
    pub timeouts: Timeouts,
}

/// Which requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Reads, one after another.
    Read,
    /// Writes, one after another.
    Write,
    /// Reads anywhere.
    RandRead,
    /// Writes anywhere.
    RandWrite,
    /// Reads and writes anywhere.
    RandRw {
        /// Of a hundred requests, how many are reads: 0 to 100.
        read_percent: u8,
    },
}

impl Mode {
    /// Whether it changes what the namespace holds.
    pub fn writes(self) -> bool {
        match self {
            Self::Read | Self::RandRead => false,
            Self::Write | Self::RandWrite => true,
            Self::RandRw { read_percent } => read_percent < 100,
        }
    }

    /// Whether requests are anywhere, and not one after another.
    pub fn is_random(self) -> bool {
        !matches!(self, Self::Read | Self::Write)
    }

    /// Of a hundred requests, how many are reads.
    pub fn read_percent(self) -> u8 {
        match self {
            Self::Read | Self::RandRead => 100,
            Self::Write | Self::RandWrite => 0,
            Self::RandRw { read_percent } => read_percent,
        }
    }
}

/// When a load ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// After so long. What is under way then is waited for, and counted.
    Elapsed(Duration),
    /// After so many requests, of all jobs together.
    Requests(u64),
}

/// What is asked of a target.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Which requests.
    pub mode: Mode,
    /// Bytes of a request: a multiple of the logical block, at most [`BLOCK_BYTES_MAX`].
    pub block_bytes: u32,
    /// How many requests each job has under way, 1 to [`QUEUE_DEPTH_MAX`].
    pub queue_depth: u32,
    /// How many jobs there are, each with an I/O queue of its own: 1 to [`JOBS_MAX`] a loop.
    pub jobs: u16,
    /// How many event loops the jobs are spread over; there are never more than jobs.
    pub loops: u16,
    /// The cores on which the loops stay, one for each; when there are none, anywhere.
    pub cores: Vec<usize>,
    /// When it ends.
    pub until: Until,
    /// Which bytes of the namespace are used; all of it without. Both ends are multiples of the
    /// logical block.
    pub range: Option<Range<u64>>,
    /// What all random choices follow from.
    pub seed: u64,
    /// A file outside of the daemon, which is made or gone on with: with it, each write tells which
    /// one it is, each read is compared, and all that was written is read at the end.
    pub verify: Option<PathBuf>,
}

impl Default for Workload {
    /// Random reads of 4 KiB for ten seconds, 32 at once.
    fn default() -> Self {
        Self {
            mode: Mode::RandRead,
            block_bytes: 4096,
            queue_depth: 32,
            jobs: 1,
            loops: 1,
            cores: Vec::new(),
            until: Until::Elapsed(Duration::from_secs(10)),
            range: None,
            seed: 1,
            verify: None,
        }
    }
}

impl Workload {
    /// How many loops there will be.
    pub(crate) fn loop_count(&self) -> usize {
        let wanted = if self.cores.is_empty() { self.loops.into() } else { self.cores.len() };
        wanted.min(self.jobs.into())
    }

    /// The jobs of a loop.
    pub(crate) fn jobs_of(&self, number: usize) -> impl Iterator<Item = u16> + use<> {
        let first = u16::try_from(number).expect("at most LOOPS_MAX");
        (first..self.jobs).step_by(self.loop_count())
    }

    /// How many bytes of memory the data of the requests of a loop takes with `verify`: twice what is
    /// under way, since what was sent is let go a little later than it is acknowledged.
    fn verify_bytes(&self) -> u64 {
        let requests = self.verify_buffers() as u64;
        requests * u64::from(self.block_bytes.next_multiple_of(4096))
    }

    pub(crate) fn verify_buffers(&self) -> usize {
        2 * self.jobs_of(0).count() * self.queue_depth as usize
    }

    /// Checks what can be checked without the target.
    pub(crate) fn check(&self, target: &Target) -> Result<(), BenchError> {
        let refuse = |what: String| Err(BenchError::Workload(what));
        let depth = self.queue_depth;
        if !(1..=QUEUE_DEPTH_MAX).contains(&depth) {
            return refuse(format!(
                "a queue depth of {depth}: 1 to {QUEUE_DEPTH_MAX} are possible"
            ));
        }
        if self.jobs == 0 || self.loop_count() == 0 {
            return refuse("there has to be a job, and a loop for it".to_owned());
        }
        if self.loop_count() > LOOPS_MAX {
            return refuse(format!(
                "{} loops: at most {LOOPS_MAX} are possible",
                self.loop_count()
            ));
        }
        let jobs = self.jobs_of(0).count();
        if jobs > usize::from(JOBS_MAX) {
            return refuse(format!("{jobs} jobs on a loop: at most {JOBS_MAX} are possible"));
        }
        let requests = jobs * depth as usize;
        if requests > REQUESTS_MAX {
            return refuse(format!(
                "{requests} requests under way on a loop: at most {REQUESTS_MAX} are possible; take \
                 more loops, or a lower queue depth"
            ));
        }
        if self.block_bytes == 0 || self.block_bytes > BLOCK_BYTES_MAX {
            let most = ByteCount(BLOCK_BYTES_MAX.into());
            return refuse(format!("requests of {} bytes: 1 to {most}", self.block_bytes));
        }
        if self.verify.is_some() && self.verify_bytes() > VERIFY_BYTES_MAX {
            let (wanted, most) = (ByteCount(self.verify_bytes()), ByteCount(VERIFY_BYTES_MAX));
            return refuse(format!(
                "verifying takes {wanted} of memory for the requests of a loop, and may take {most}: \
                 take smaller requests, or fewer at once"
            ));
        }
        if self.mode.read_percent() > 100 {
            return refuse(format!("{} reads of a hundred requests", self.mode.read_percent()));
        }
        if self.until == Until::Elapsed(Duration::ZERO) || self.until == Until::Requests(0) {
            return refuse("it would end before it begins".to_owned());
        }
        if !(1..=ADDRESSES_MAX).contains(&target.addresses.len()) {
            let count = target.addresses.len();
            return refuse(format!("{count} addresses: 1 to {ADDRESSES_MAX} are possible"));
        }
        Ok(())
    }
}

/// A workload on a namespace that is known.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    pub(crate) workload: Workload,
    /// The first block of the range.
    pub(crate) first: Lba,
    /// Logical blocks of a request.
    pub(crate) unit_blocks: u64,
    /// How many requests fit into the range, one behind the other.
    pub(crate) units: u64,
    /// With `verify`.
    pub(crate) journal: Option<Arc<Journal>>,
}

impl Course {
    /// # Errors
    ///
    /// What does not go with the namespace, in words.
    pub(crate) fn new(
        workload: &Workload,
        block_size: u32,
        blocks: u64,
    ) -> Result<Self, BenchError> {
        let refuse = |what: String| Err(BenchError::Workload(what));
        let bytes = workload.block_bytes;
        if !bytes.is_multiple_of(block_size) {
            return refuse(format!(
                "requests of {bytes} bytes: the namespace has blocks of {block_size} bytes, and a \
                 request is a multiple of that"
            ));
        }
        let size = blocks * u64::from(block_size);
        let range = workload.range.clone().unwrap_or(0..size);
        let is_aligned = |at: u64| at.is_multiple_of(block_size.into());
        if range.start >= range.end || range.end > size {
            return refuse(format!(
                "the range from byte {} to {}: the namespace has {size}",
                range.start, range.end
            ));
        }
        if !is_aligned(range.start) || !is_aligned(range.end) {
            return refuse(format!(
                "the range from byte {} to {}: the namespace has blocks of {block_size} bytes, and \
                 both ends are multiples of that",
                range.start, range.end
            ));
        }
        let units = (range.end - range.start) / u64::from(bytes);
        if units < workload.jobs.into() {
            return refuse(format!(
                "{} jobs with requests of {bytes} bytes do not fit into a range of {}: take a larger \
                 one, or smaller requests",
                workload.jobs,
                ByteCount(range.end - range.start)
            ));
        }
        if workload.verify.is_some() && units > UNITS_MAX {
            return refuse(format!(
                "verifying {units} requests that lie behind each other: at most {UNITS_MAX} are \
                 possible; take a smaller range, or larger requests"
            ));
        }
        Ok(Self {
            workload: workload.clone(),
            first: Lba(range.start / u64::from(block_size)),
            unit_blocks: (bytes / block_size).into(),
            units,
            journal: None,
        })
    }

    /// The part of the range that is a job's own.
    pub(crate) fn section(&self, job: u16) -> Range<u64> {
        self.cut(self.units, job)..self.cut(self.units, job + 1)
    }

    /// Where a job's part of so many begins.
    fn cut(&self, all: u64, job: u16) -> u64 {
        let at = u128::from(all) * u128::from(job) / u128::from(self.workload.jobs);
        u64::try_from(at).expect("not above all of them")
    }

    /// How many requests a job has, if that is limited.
    pub(crate) fn requests_of(&self, job: u16) -> Option<u64> {
        let Until::Requests(all) = self.workload.until else { return None };
        Some(self.cut(all, job + 1) - self.cut(all, job))
    }

    /// The first block of a request.
    pub(crate) fn lba(&self, unit: u64) -> Lba {
        Lba(self.first.0 + unit * self.unit_blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            subsystem: Nqn::discovery(),
            nsid: Nsid(1),
            addresses: vec!["127.0.0.1:4420".parse().expect("an address")],
            host: Nqn::discovery(),
            host_id: HostId([1; 16]),
            digests: Digests::default(),
            timeouts: Timeouts::default(),
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_bounds() {
        let is_refused = |change: &dyn Fn(&mut Workload), words: &str| {
            let mut workload = Workload::default();
            change(&mut workload);
            let error = workload.check(&target()).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        };
        Workload::default().check(&target()).expect("the default is possible");
        is_refused(&|workload| workload.queue_depth = 0, "queue depth of 0");
        is_refused(&|workload| workload.queue_depth = 1024, "1 to 1023");
        is_refused(&|workload| workload.jobs = 0, "a job");
        is_refused(&|workload| workload.loops = 0, "a loop");
        is_refused(&|workload| workload.jobs = 129, "129 jobs");
        is_refused(
            &|workload| (workload.jobs, workload.queue_depth) = (100, 1000),
            "100000 requests",
        );
        is_refused(&|workload| workload.block_bytes = 0, "0 bytes");
        is_refused(&|workload| workload.block_bytes = BLOCK_BYTES_MAX + 1, "16 MiB");
        is_refused(&|workload| workload.mode = Mode::RandRw { read_percent: 101 }, "101 reads");
        is_refused(&|workload| workload.until = Until::Requests(0), "before it begins");
        let nowhere = Target { addresses: Vec::new(), ..target() };
        let error = Workload::default().check(&nowhere).expect_err("no address");
        assert!(error.to_string().contains("0 addresses"));
    }

    #[test]
    fn what_does_not_fit_the_namespace_is_refused_with_the_reason() {
        let is_refused = |change: &dyn Fn(&mut Workload), words: &str| {
            let mut workload = Workload::default();
            change(&mut workload);
            let error = Course::new(&workload, 4096, 100).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        };
        is_refused(&|workload| workload.block_bytes = 512, "blocks of 4096 bytes");
        is_refused(&|workload| workload.range = Some(0..101 * 4096), "has 409600");
        is_refused(&|workload| workload.range = Some(4096..4096), "from byte 4096 to 4096");
        is_refused(&|workload| workload.range = Some(1..8192), "both ends");
        is_refused(
            &|workload| {
                workload.range = Some(0..8192);
                workload.jobs = 3;
            },
            "3 jobs",
        );
    }

    #[test]
    fn sections_and_requests_cover_everything_once() {
        for (jobs, units) in [(1, 1), (3, 10), (7, 7), (16, 1000)] {
            let until = Until::Requests(units + 5);
            let workload = Workload { jobs, until, ..Workload::default() };
            let course = Course::new(&workload, 512, units * 8).expect("it fits");
            assert_eq!(course.units, units);
            let mut next = 0;
            for job in 0..jobs {
                let section = course.section(job);
                assert_eq!(section.start, next);
                assert!(!section.is_empty());
                next = section.end;
            }
            assert_eq!(next, units);
            let requests: u64 = (0..jobs).filter_map(|job| course.requests_of(job)).sum();
            assert_eq!(requests, units + 5);
        }
    }

    #[test]
    fn jobs_are_spread_over_the_loops() {
        let workload = Workload { jobs: 5, loops: 2, ..Workload::default() };
        let of = |number| workload.jobs_of(number).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (vec![0, 2, 4], vec![1, 3]));
        let more = Workload { jobs: 2, loops: 8, ..Workload::default() };
        assert_eq!(more.loop_count(), 2);
    }
}
