//! A job: which request comes next.
//!
//! - Requests one after another keep to the job's own section of the range, and begin again at its
//!   start. Random ones go anywhere in the range.
//! - With `verify` every job keeps to its own section, and has one request of a unit under way.
//! - All choices follow from the seed and the number of the job, and not from what the target does;
//!   but with `verify` a unit that is busy is passed over.

use std::ops::Range;

use super::ledger::Ledger;
use crate::{
    random::Random,
    report::Direction,
    workload::{Course, Mode, QUEUE_DEPTH_MAX},
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
    /// With `verify`, what is known of the section.
    pub(super) ledger: Option<Ledger>,
    /// All that is known is being read.
    is_verifying: bool,
    /// Units that are to be read again, since their association was lost.
    again: Vec<u64>,
}

/// How often a random unit that is busy is drawn again, before the next one that is not is taken.
const DRAWS: usize = 8;

impl Lane {
    pub(super) fn new(
        course: &Course,
        job: u16,
        slots: impl Iterator<Item = usize>,
        ledger: Option<Ledger>,
    ) -> Self {
        let mode = course.workload.mode;
        let is_anywhere = mode.is_random() && ledger.is_none();
        let units = if is_anywhere { 0..course.units } else { course.section(job) };
        Self {
            mode,
            next: units.start,
            units,
            // Loops have the streams from zero on.
            random: Random::new(course.workload.seed, 1 << 32 | u64::from(job)),
            left: course.requests_of(job),
            free: slots.collect(),
            ledger,
            is_verifying: false,
            again: Vec::new(),
        }
    }

    /// From now on reads all that is known of its section, once.
    pub(super) fn begin_verifying(&mut self) {
        self.is_verifying = true;
        self.next = self.units.start;
        self.left = None;
        self.again.clear();
    }

    /// Whether it submits nothing more.
    pub(super) fn is_finished(&self) -> bool {
        match self.is_verifying {
            true => self.next == self.units.end && self.again.is_empty(),
            false => self.left == Some(0),
        }
    }

    /// The next request: its slot, its direction, and which unit of the range. None while there is
    /// no slot, or everything that could be next is busy.
    pub(super) fn next(&mut self) -> Option<(usize, Direction, u64)> {
        if self.is_finished() || self.free.is_empty() {
            return None;
        }
        let (direction, unit) = match self.is_verifying {
            true => (Direction::Read, self.next_known()?),
            false => (self.draw_direction(), self.next_unit()?),
        };
        let slot = self.free.pop().expect("as just seen");
        self.left = self.left.map(|left| left - 1);
        if let Some(ledger) = &mut self.ledger {
            ledger.take(unit);
        }
        Some((slot, direction, unit))
    }

    /// A request could not be submitted now: it is as if it had not been drawn.
    pub(super) fn put_back(&mut self, slot: usize, unit: u64) {
        self.left = self.left.map(|left| left + 1);
        self.end(slot, unit);
        if self.is_verifying {
            self.again.push(unit);
        }
    }

    /// A request has ended.
    pub(super) fn end(&mut self, slot: usize, unit: u64) {
        self.free.push(slot);
        if let Some(ledger) = &mut self.ledger {
            ledger.put_back(unit);
        }
    }

    /// The association of a request was lost.
    pub(super) fn lose(&mut self, slot: usize, unit: u64) {
        self.end(slot, unit);
        if self.is_verifying {
            self.again.push(unit);
        }
    }

    /// How far the verification is: units looked at, of all.
    pub(super) fn verified(&self) -> u64 {
        if self.is_verifying { self.next - self.units.start } else { 0 }
    }

    fn draw_direction(&mut self) -> Direction {
        match self.mode.read_percent() {
            0 => Direction::Write,
            100 => Direction::Read,
            percent if self.random.below(100) < percent.into() => Direction::Read,
            _ => Direction::Write,
        }
    }

    fn is_busy(&self, unit: u64) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.is_busy(unit))
    }

    fn after(&self, unit: u64) -> u64 {
        if unit + 1 == self.units.end { self.units.start } else { unit + 1 }
    }

    fn next_unit(&mut self) -> Option<u64> {
        if !self.mode.is_random() {
            let unit = self.next;
            if self.is_busy(unit) {
                return None;
            }
            self.next = self.after(unit);
            return Some(unit);
        }
        let mut unit = self.units.start;
        for _ in 0..DRAWS {
            unit = self.units.start + self.random.below(self.units.end - self.units.start);
            if !self.is_busy(unit) {
                return Some(unit);
            }
        }
        // No more units are busy than there are slots.
        for _ in 0..=QUEUE_DEPTH_MAX {
            unit = self.after(unit);
            if !self.is_busy(unit) {
                return Some(unit);
            }
        }
        None
    }

    /// The next unit of which something is known.
    fn next_known(&mut self) -> Option<u64> {
        if let Some(unit) = self.again.pop() {
            return Some(unit);
        }
        let ledger = self.ledger.as_ref()?;
        while self.next < self.units.end {
            let unit = self.next;
            self.next += 1;
            if ledger.is_known(unit) {
                return Some(unit);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        load::ledger::tests::Bed,
        workload::{Until, Workload},
    };

    fn lane(mode: Mode, jobs: u16, job: u16, seed: u64) -> Lane {
        let until = Until::Requests(1000 * u64::from(jobs));
        let workload = Workload { mode, jobs, until, seed, ..Workload::default() };
        let course = Course::new(&workload, 4096, 100).expect("it fits");
        Lane::new(&course, job, 0..1, None)
    }

    fn all(mut lane: Lane) -> Vec<(Direction, u64)> {
        let mut requests = Vec::new();
        while let Some((slot, direction, unit)) = lane.next() {
            requests.push((direction, unit));
            assert!(lane.next().is_none(), "there is one slot");
            lane.end(slot, unit);
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

    #[test]
    fn with_a_ledger_no_unit_has_two_requests_under_way() {
        let bed = Bed::new("busy", &[]);
        for mode in [Mode::Write, Mode::RandWrite] {
            let course = Course {
                workload: Workload { mode, until: Until::Requests(1000), ..Workload::default() },
                ..bed.course.clone()
            };
            let mut lane = Lane::new(&course, 0, 0..6, Some(bed.ledger()));
            let mut under_way = Vec::new();
            let mut done = 0;
            while !lane.is_finished() {
                while let Some((slot, _, unit)) = lane.next() {
                    assert!(under_way.iter().all(|(_, other)| *other != unit));
                    under_way.push((slot, unit));
                }
                // One behind the other, the one that is next may be busy while others are not.
                let all = mode.is_random() && !lane.is_finished();
                assert!(under_way.len() == 4 || !all, "all four units");
                let (slot, unit) = under_way.remove(done % under_way.len());
                lane.end(slot, unit);
                done += 1;
            }
            assert_eq!(done + under_way.len(), 1000);
        }
    }

    #[test]
    fn verifying_reads_each_unit_that_is_known_and_again_when_it_was_lost() {
        let bed = Bed::new("verifying", &[(0, 1, 1), (2, 1, 0), (3, 9, 9)]);
        let mut lane = Lane::new(&bed.course, 0, 0..2, Some(bed.ledger()));
        lane.begin_verifying();
        let (first, direction, unit) = lane.next().expect("a unit is known");
        assert_eq!((direction, unit), (Direction::Read, 0));
        let (second, _, unit) = lane.next().expect("another one is known");
        assert_eq!((unit, lane.next()), (2, None));
        lane.lose(second, 2);
        lane.end(first, 0);
        let mut again = Vec::new();
        while let Some((slot, _, unit)) = lane.next() {
            again.push(unit);
            lane.end(slot, unit);
        }
        assert_eq!(again, [2, 3]);
        assert!(lane.is_finished());
        assert_eq!(lane.verified(), 4);
    }
}
