//! What a job of a load with `--verify` knows of its section, and what may be found there.
//!
//! A block may hold the last write of it that was acknowledged, or one that was issued later. Where
//! none was acknowledged it may also hold what was there before. It never holds a part of a write,
//! or what was written to another block.
//!
//! - A unit has one request under way at a time.
//! - The journal knows of a write before the target does, and of its acknowledgement after.

use std::{ops::Range, sync::Arc};

use fathom_units::Lba;

use crate::{
    content::{self, Found},
    error::Mismatch,
    journal::{Journal, JournalError, Known},
    workload::Course,
};

/// What a job knows of its section.
pub(super) struct Ledger {
    journal: Arc<Journal>,
    section: Range<u64>,
    known: Vec<Known>,
    busy: Vec<bool>,
}

impl Ledger {
    pub(super) fn new(journal: Arc<Journal>, section: Range<u64>) -> Result<Self, JournalError> {
        let known = journal.read(section.clone())?;
        let busy = vec![false; known.len()];
        Ok(Self { journal, section, known, busy })
    }

    fn place(&self, unit: u64) -> usize {
        usize::try_from(unit - self.section.start).expect("at most UNITS_MAX")
    }

    /// Whether a request of a unit is under way.
    pub(super) fn is_busy(&self, unit: u64) -> bool {
        self.busy[self.place(unit)]
    }

    /// Whether something is known of what a unit holds.
    pub(super) fn is_known(&self, unit: u64) -> bool {
        self.known[self.place(unit)].issued > 0
    }

    /// A request of a unit is about to be sent.
    pub(super) fn take(&mut self, unit: u64) {
        let place = self.place(unit);
        self.busy[place] = true;
    }

    /// A request of a unit has ended, or its association has.
    pub(super) fn put_back(&mut self, unit: u64) {
        let place = self.place(unit);
        self.busy[place] = false;
    }

    /// Notes the next write of a unit and fills its bytes.
    ///
    /// # Errors
    ///
    /// When the journal cannot be written.
    pub(super) fn issue(
        &mut self,
        unit: u64,
        course: &Course,
        bytes: &mut [u8],
    ) -> Result<(), JournalError> {
        let place = self.place(unit);
        let version = self.journal.next(self.known[place].issued)?;
        self.journal.issue(unit, version)?;
        self.known[place].issued = version;
        let (run, size) = (self.journal.header().run, self.journal.header().block_bytes as usize);
        for (lba, block) in (course.lba(unit).0..).zip(bytes.chunks_exact_mut(size)) {
            content::fill(block, run, Lba(lba), version);
        }
        Ok(())
    }

    /// Notes that the last write of a unit was acknowledged.
    ///
    /// # Errors
    ///
    /// When the journal cannot be written.
    pub(super) fn acknowledge(&mut self, unit: u64) -> Result<(), JournalError> {
        let place = self.place(unit);
        let version = self.known[place].issued;
        self.known[place].acknowledged = version;
        self.journal.acknowledge(unit, version)
    }

    /// Compares what was read of a unit with what may be there, and tells each block that is wrong.
    pub(super) fn compare(
        &self,
        unit: u64,
        course: &Course,
        bytes: &[u8],
        mut wrong: impl FnMut(Mismatch),
    ) {
        let Known { issued, acknowledged } = self.known[self.place(unit)];
        let (run, size) = (self.journal.header().run, self.journal.header().block_bytes as usize);
        for (lba, block) in (course.lba(unit).0..).zip(bytes.chunks_exact(size)) {
            let lba = Lba(lba);
            let found = content::look(block, run, lba);
            let is_right = match found {
                Found::Version(version) => (acknowledged.max(1)..=issued).contains(&version),
                Found::Zeros | Found::Foreign => acknowledged == 0,
                Found::Torn { .. } | Found::Displaced { .. } | Found::Unreadable(_) => false,
            };
            if !is_right {
                wrong(Mismatch { lba, acknowledged, issued, found });
            }
        }
    }

    /// A unit could not be read.
    pub(super) fn unreadable(
        &self,
        unit: u64,
        course: &Course,
        error: fathom_block::Error,
    ) -> Mismatch {
        let Known { issued, acknowledged } = self.known[self.place(unit)];
        let found = Found::Unreadable(error);
        Mismatch { lba: course.lba(unit), acknowledged, issued, found }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{journal::Header, workload::Workload};

    /// A journal of four units of two blocks, from block 10 on, and its course.
    pub(crate) struct Bed {
        path: PathBuf,
        pub(crate) course: Course,
        pub(crate) journal: Arc<Journal>,
    }

    impl Bed {
        pub(crate) fn new(name: &str, known: &[(u64, u32, u32)]) -> Self {
            let name = format!("fathom-ledger-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = std::fs::remove_file(&path);
            let header = Header {
                block_bytes: 512,
                unit_blocks: 2,
                nsid: 1,
                run: 7,
                first: 10,
                units: 4,
                nguid: [1; 16],
            };
            let journal = Journal::open_or_create(&path, header).expect("it is new");
            for (unit, issued, acknowledged) in known {
                journal.issue(*unit, *issued).expect("noted");
                journal.acknowledge(*unit, *acknowledged).expect("noted");
            }
            let range = Some(10 * 512..18 * 512);
            let workload = Workload { block_bytes: 1024, range, ..Workload::default() };
            let course = Course::new(&workload, 512, 100).expect("it fits");
            Self { path, course, journal: Arc::new(journal) }
        }

        pub(crate) fn ledger(&self) -> Ledger {
            Ledger::new(Arc::clone(&self.journal), 0..4).expect("it can be read")
        }
    }

    impl Drop for Bed {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[test]
    fn a_block_may_hold_the_last_acknowledged_write_or_a_later_one_that_was_issued() {
        for acknowledged in 0..4 {
            for issued in acknowledged..5 {
                let bed = Bed::new("may-hold", &[(1, issued, acknowledged)]);
                let ledger = bed.ledger();
                let first = bed.course.lba(1);
                let mut good = vec![0; 1024];
                let version = if issued == 0 { 1 } else { issued };
                content::fill(&mut good[..512], 7, first, version);
                let second = Lba(first.0 + 1);
                for found in 0..8 {
                    // The first block is right, if anything was issued; the second one varies.
                    let block = &mut good[512..];
                    match found {
                        0 => block.fill(0),
                        6 => block.fill(0xEE),
                        7 => content::fill(block, 7, first, issued),
                        version => content::fill(block, 7, second, version),
                    }
                    let may_be = match found {
                        0 | 6 => acknowledged == 0,
                        7 => false,
                        version => version >= acknowledged && version <= issued,
                    };
                    let mut wrong = Vec::new();
                    ledger.compare(1, &bed.course, &good, |one| wrong.push(one.lba));
                    wrong.retain(|lba| *lba == second);
                    assert_eq!(wrong.is_empty(), may_be, "{acknowledged}..{issued}: {found}");
                }
            }
        }
    }

    #[test]
    fn the_journal_knows_of_a_write_before_it_is_sent_and_after_it_is_acknowledged() {
        let bed = Bed::new("knows", &[(2, 5, 3)]);
        let mut ledger = bed.ledger();
        let noted = || bed.journal.read(2..3).expect("it can be read")[0];
        let mut bytes = vec![0; 1024];
        ledger.issue(2, &bed.course, &mut bytes).expect("noted");
        assert_eq!(noted(), Known { issued: 6, acknowledged: 3 });
        for (number, block) in bytes.chunks(512).enumerate() {
            let lba = Lba(bed.course.lba(2).0 + number as u64);
            assert_eq!(content::look(block, 7, lba), Found::Version(6));
        }
        ledger.acknowledge(2).expect("noted");
        assert_eq!(noted(), Known { issued: 6, acknowledged: 6 });
    }
}
