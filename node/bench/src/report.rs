//! What came of a run, and how far it is.
//!
//! A [`Report`] can be serialised, for `-o json`: durations are seconds, sizes are bytes, statuses and
//! errors are words; histograms are left out.

use std::{fmt::Display, time::Duration};

use fathom_block as block;
use fathom_nvme::Status;
use fathom_units::{ByteCount, Nsid};
use serde::{Serialize, Serializer};

use crate::{error::Mismatch, histogram::Histogram};

/// How many blocks that are wrong are kept, of all that are counted.
const MISMATCHES_MAX: usize = 16;

/// In which direction a request moves data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the host.
    Read,
    /// To the target.
    Write,
}

/// Latencies, in nanoseconds, from the submission of a request to its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
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
#[derive(Clone, PartialEq, Debug, Serialize)]
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
    #[serde(skip)]
    pub histogram: Histogram,
}

/// Requests that failed, all in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Errors {
    /// In which direction they would have moved data.
    pub direction: Direction,
    /// The status with which the controller has failed them, without its flags; none when they were
    /// failed without one.
    #[serde(serialize_with = "words_if_any")]
    pub status: Option<Status>,
    /// What that means.
    #[serde(serialize_with = "words")]
    pub error: block::Error,
    /// How many.
    pub count: u64,
}

/// What came of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// From the first request to the last completion.
    #[serde(rename = "elapsed_s", serialize_with = "seconds")]
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
    /// With `verify`, how many blocks were read at the end, and hold what they must; none when the run
    /// ended before.
    pub verified_blocks: Option<u64>,
    /// Whether it was cancelled before its end.
    pub cancelled: bool,
    /// The namespace.
    #[serde(serialize_with = "number")]
    pub nsid: Nsid,
    /// The size of the namespace.
    #[serde(rename = "size_bytes", serialize_with = "bytes")]
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

/// What a run does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The load.
    Load,
    /// Reading what was written.
    Verify,
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Progress {
    /// What it does now.
    pub stage: Stage,
    /// Since its first request.
    pub elapsed: Duration,
    /// Which share of it is over, 0 to 1.
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
    pub(crate) verified_blocks: u64,
    pub(crate) mismatches: Mismatches,
}

/// Blocks that do not hold what they must.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mismatches {
    pub(crate) count: u64,
    pub(crate) first: Vec<Mismatch>,
}

impl Mismatches {
    pub(crate) fn add(&mut self, mismatch: Mismatch) {
        self.count += 1;
        if self.first.len() < MISMATCHES_MAX {
            self.first.push(mismatch);
        }
    }
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
        self.verified_blocks += other.verified_blocks;
        let more = &other.mismatches;
        more.first.iter().for_each(|mismatch| self.mismatches.add(*mismatch));
        self.mismatches.count += more.count - more.first.len() as u64;
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

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

fn bytes<S: Serializer>(size: &ByteCount, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(size.0)
}

fn number<S: Serializer>(nsid: &Nsid, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u32(nsid.0)
}

fn words<S: Serializer>(error: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(error)
}

fn words_if_any<S: Serializer>(status: &Option<Status>, to: S) -> Result<S::Ok, S::Error> {
    match status {
        Some(status) => to.collect_str(status),
        None => to.serialize_none(),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_several_loops_have_counted_is_one_report_in_words_and_numbers() {
        let mut tally = Tally::default();
        let status = Status::LBA_OUT_OF_RANGE.do_not_retry();
        let error = block::Error::LbaOutOfRange;
        for latency_ns in [100, 50] {
            let mut one = Tally::default();
            one.succeeded(Direction::Read, latency_ns, 4096);
            one.failed(Direction::Write, Some(status), error, 2);
            tally.add(&one);
        }
        let elapsed = Duration::from_millis(500);
        let report = Report {
            elapsed,
            read: tally.read.results(elapsed),
            write: tally.write.results(elapsed),
            errors: tally.errors.clone(),
            unknown: 0,
            reconnects: 0,
            verified_blocks: None,
            cancelled: false,
            nsid: Nsid(1),
            size: ByteCount(1 << 20),
            logical_block_bytes: 4096,
            io_queues: 2,
        };
        assert_eq!(report.failed(), 4);
        let value = serde_json::to_value(&report).expect("it can be serialised");
        let latency = json!({
            "min_ns": 50, "mean_ns": 75, "p50_ns": 50, "p90_ns": 100, "p99_ns": 100,
            "p999_ns": 100, "max_ns": 100,
        });
        let expected = json!({
            "elapsed_s": 0.5,
            "read": {
                "requests": 2, "bytes": 8192, "iops": 4.0, "mib_per_s": 0.015_625,
                "latency": latency,
            },
            "write": null,
            "errors": [{
                "direction": "write", "status": "LBA Out of Range", "count": 4,
                "error": "the range lies beyond the end of the device",
            }],
            "unknown": 0, "reconnects": 0, "verified_blocks": null, "cancelled": false,
            "nsid": 1, "size_bytes": 1 << 20, "logical_block_bytes": 4096, "io_queues": 2,
        });
        assert_eq!(value, expected);
    }
}
