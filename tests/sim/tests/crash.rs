//! Crash enumeration over many seeds.
//!
//! `FATHOM_SEEDS` says how many histories are run (16 by default), `FATHOM_SEED` runs just one.

use fathom_test_sim::history::{Length, Summary, run};
use fathom_test_support::seeds;

const LENGTH: Length = Length { steps: 1200, crash_every: 40 };

#[test]
fn every_crash_leaves_what_was_promised() {
    let command = "cargo test --release -p fathom-test-sim --test crash";
    let summaries = seeds::each(16, command, |seed| run(seed, LENGTH));
    let mut total = Summary::default();
    for summary in &summaries {
        total.crashes += summary.crashes;
        total.double_crashes += summary.double_crashes;
        total.alone += summary.alone;
        total.taken_back += summary.taken_back;
        total.replayed += summary.replayed;
        total.requests += summary.requests;
        total.full += summary.full;
        total.held_back += summary.held_back;
        total.hung += summary.hung;
        total.lost += summary.lost;
        total.given_up += summary.given_up;
        total.grown += summary.grown;
        total.rejoined += summary.rejoined;
    }
    eprintln!("{} histories: {total:?}", summaries.len());
}
