//! A job: which request comes next.
//!
//! - Requests one after another keep to the job's own section of the range, and begin again at its
//!   start. Random ones go anywhere in the range.
//! - All choices follow from the seed and the number of the job, and not from what the target does.

use std::ops::Range;

use crate::{
    random::Random,
    report::Direction,
    workload::{Course, Mode},
};

/// A job.
pub(super) struct Lane {
    mode: Mode,
    /// Where its requests may be.
    units: Range<u64>,
    next: u64,
    random: Random,
    /// How many requests it is still to submit, if that is limited.
    left: Option<u64>,
    /// Slots that are not in use.
    pub(super) free: Vec<usize>,
}

impl Lane {
    pub(super) fn new(course: &Course, job: u16, slots: impl Iterator<Item = usize>) -> Self {
        let mode = course.workload.mode;
        let units = if mode.is_random() { 0..course.units } else { course.section(job) };
        Self {
            mode,
            next: units.start,
            units,
            // Loops have the streams from zero on.
            random: Random::new(course.workload.seed, 1 << 32 | u64::from(job)),
            left: course.requests_of(job),
            free: slots.collect(),
        }
    }

    /// Whether it submits nothing more.
    pub(super) fn is_finished(&self) -> bool {
        self.left == Some(0)
    }

    /// The next request: its slot, its direction, and which unit of the range.
    pub(super) fn next(&mut self) -> Option<(usize, Direction, u64)> {
        if self.is_finished() {
            return None;
        }
        let slot = self.free.pop()?;
        self.left = self.left.map(|left| left - 1);
        let unit = match self.mode {
            Mode::Read | Mode::Write => {
                let unit = self.next;
                self.next = if unit + 1 == self.units.end { self.units.start } else { unit + 1 };
                unit
            }
            Mode::RandRead | Mode::RandWrite | Mode::RandRw { .. } => {
                self.units.start + self.random.below(self.units.end - self.units.start)
            }
        };
        let direction = match self.mode.read_percent() {
            0 => Direction::Write,
            100 => Direction::Read,
            percent if self.random.below(100) < percent.into() => Direction::Read,
            _ => Direction::Write,
        };
        Some((slot, direction, unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Until, Workload};

    fn lane(mode: Mode, jobs: u16, job: u16, seed: u64) -> Lane {
        let until = Until::Requests(1000 * u64::from(jobs));
        let workload = Workload { mode, jobs, until, seed, ..Workload::default() };
        let course = Course::new(&workload, 4096, 100).expect("it fits");
        Lane::new(&course, job, 0..1)
    }

    fn all(mut lane: Lane) -> Vec<(Direction, u64)> {
        let mut requests = Vec::new();
        while let Some((slot, direction, unit)) = lane.next() {
            requests.push((direction, unit));
            assert!(lane.next().is_none(), "there is one slot");
            lane.free.push(slot);
        }
        requests
    }

    #[test]
    fn requests_one_after_another_go_round_in_their_section() {
        let requests = all(lane(Mode::Write, 4, 1, 1));
        assert_eq!(requests.len(), 1000);
        for (number, request) in (0..).zip(requests) {
            assert_eq!(request, (Direction::Write, 25 + number % 25));
        }
    }

    #[test]
    fn random_requests_reach_the_whole_range_and_repeat_with_their_seed() {
        let requests = all(lane(Mode::RandRead, 2, 1, 1));
        assert!((0..100).all(|unit| requests.contains(&(Direction::Read, unit))));
        assert_eq!(requests, all(lane(Mode::RandRead, 2, 1, 1)));
        assert_ne!(requests, all(lane(Mode::RandRead, 2, 1, 2)));
        assert_ne!(requests, all(lane(Mode::RandRead, 2, 0, 1)));
    }

    #[test]
    fn a_mix_has_its_share_of_reads() {
        let requests = all(lane(Mode::RandRw { read_percent: 70 }, 1, 0, 1));
        let reads = requests.iter().filter(|(direction, _)| *direction == Direction::Read).count();
        assert!((630..770).contains(&reads), "{reads}");
    }
}
