//! Crash enumeration over many seeds.
//!
//! `FATHOM_SEEDS` says how many histories are run (16 by default), `FATHOM_SEED` runs just one.

use fathom_test_sim::history::{Length, Summary, run};

const LENGTH: Length = Length { steps: 1200, crash_every: 40 };

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is \"{value}\", not a number")))
}

#[test]
fn every_crash_leaves_what_was_promised() {
    let seeds: Vec<u64> = match number("FATHOM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FATHOM_SEEDS").unwrap_or(16)).collect(),
    };
    let mut total = Summary::default();
    for &seed in &seeds {
        let replay = format!(
            "replay: FATHOM_SEED={seed} cargo test --release -p fathom-test-sim --test crash"
        );
        let outcome = std::panic::catch_unwind(|| run(seed, LENGTH)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} panicked\n{replay}");
            std::panic::resume_unwind(panic)
        });
        match outcome {
            Ok(summary) => {
                total.crashes += summary.crashes;
                total.double_crashes += summary.double_crashes;
                total.taken_back += summary.taken_back;
                total.replayed += summary.replayed;
                total.requests += summary.requests;
                total.full += summary.full;
                total.held_back += summary.held_back;
                total.hung += summary.hung;
            }
            Err(error) => panic!("seed {seed}: {error}\n{replay}"),
        }
    }
    eprintln!("{} histories: {total:?}", seeds.len());
}
