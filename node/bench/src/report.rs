//! What came of a run, and how far it is.

use std::time::Duration;

use fathom_block as block;
use fathom_nvme::Status;
use fathom_units::{ByteCount, Nsid};

use crate::histogram::Histogram;

/// In which direction a request moves data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To the host.
    Read,
    /// To the target.
    Write,
}

/// Latencies, in nanoseconds, from the submission of a request to its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// The least.
    pub min_ns: u64,
    /// The mean.
    pub mean_ns: u64,
    /// The median.
    pub p50_ns: u64,
    /// What nine of ten are not above.
    pub p90_ns: u64,
    /// What 99 of 100 are not above.
    pub p99_ns: u64,
    /// What 999 of 1000 are not above.
    pub p999_ns: u64,
    /// The greatest.
    pub max_ns: u64,
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        Self {
            min_ns: histogram.min_ns(),
            mean_ns: histogram.mean_ns(),
            p50_ns: histogram.quantile_ns(500_000),
            p90_ns: histogram.quantile_ns(900_000),
            p99_ns: histogram.quantile_ns(990_000),
            p999_ns: histogram.quantile_ns(999_000),
            max_ns: histogram.max_ns(),
        }
    }
}

/// The requests of one direction that succeeded.
#[derive(Clone, PartialEq, Debug)]
pub struct Results {
    /// How many.
    pub requests: u64,
    /// How many bytes they moved.
    pub bytes: u64,
    /// How many a second.
    pub iops: f64,
    /// How many MiB a second.
    pub mib_per_s: f64,
    /// How long they took.
    pub latency: Latency,
    /// The same, whole.
    pub histogram: Histogram,
}

/// Requests that failed, all in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errors {
    /// In which direction they would have moved data.
    pub direction: Direction,
    /// The status with which the controller has failed them, without its flags; none when they were
    /// failed without one.
    pub status: Option<Status>,
    /// What that means.
    pub error: block::Error,
    /// How many.
    pub count: u64,
}

/// What came of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// From the first request to the last completion.
    pub elapsed: Duration,
    /// The reads, if there were any.
    pub read: Option<Results>,
    /// The writes, if there were any.
    pub write: Option<Results>,
    /// Requests that failed, by direction and status.
    pub errors: Vec<Errors>,
    /// Requests whose outcome is unknown, because their association was lost.
    pub unknown: u64,
    /// How often an association was lost and made anew.
    pub reconnects: u64,
    /// Whether it was cancelled before its end.
    pub cancelled: bool,
    /// The namespace.
    pub nsid: Nsid,
    /// The size of the namespace.
    pub size: ByteCount,
    /// The bytes of its logical blocks.
    pub logical_block_bytes: u32,
    /// How many I/O queues there were: less than jobs when the controller allows no more.
    pub io_queues: usize,
}

impl Report {
    /// How many requests failed.
    pub fn failed(&self) -> u64 {
        self.errors.iter().map(|errors| errors.count).sum()
    }
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Progress {
    /// Since the first request.
    pub elapsed: Duration,
    /// Which share of the run is over, 0 to 1.
    pub share: f64,
    /// Requests that have ended.
    pub requests: u64,
    /// Requests that have failed, or whose outcome is unknown.
    pub failed: u64,
    /// Requests a second, since the last time.
    pub iops: f64,
    /// MiB a second, since the last time.
    pub mib_per_s: f64,
}

/// What one loop has counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) read: Count,
    pub(crate) write: Count,
    pub(crate) errors: Vec<Errors>,
    pub(crate) unknown: u64,
    pub(crate) reconnects: u64,
}

/// What one loop has counted in one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) histogram: Histogram,
    pub(crate) bytes: u64,
}

impl Tally {
    pub(crate) fn succeeded(&mut self, direction: Direction, latency_ns: u64, bytes: u64) {
        let count = match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        };
        count.histogram.record(latency_ns);
        count.bytes += bytes;
    }

    pub(crate) fn failed(
        &mut self,
        direction: Direction,
        status: Option<Status>,
        error: block::Error,
        count: u64,
    ) {
        // Without its flags a status is one of some, so the list stays short.
        let status = status.map(Status::code);
        let same = |errors: &&mut Errors| {
            (errors.direction, errors.status, errors.error) == (direction, status, error)
        };
        match self.errors.iter_mut().find(same) {
            Some(errors) => errors.count += count,
            None => self.errors.push(Errors { direction, status, error, count }),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (one, more) in [(&mut self.read, &other.read), (&mut self.write, &other.write)] {
            one.histogram.add(&more.histogram);
            one.bytes += more.bytes;
        }
        for &Errors { direction, status, error, count } in &other.errors {
            self.failed(direction, status, error, count);
        }
        self.unknown += other.unknown;
        self.reconnects += other.reconnects;
    }
}

impl Count {
    pub(crate) fn results(&self, elapsed: Duration) -> Option<Results> {
        let requests = self.histogram.count();
        (requests > 0).then(|| Results {
            requests,
            bytes: self.bytes,
            iops: rate(requests, elapsed),
            mib_per_s: mib_rate(self.bytes, elapsed),
            latency: Latency::of(&self.histogram),
            histogram: self.histogram.clone(),
        })
    }
}

/// So many in that time, a second. Zero when there was no time.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn rate(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

/// So many bytes in that time, in MiB a second.
pub(crate) fn mib_rate(bytes: u64, elapsed: Duration) -> f64 {
    rate(bytes, elapsed) / f64::from(1 << 20)
}
