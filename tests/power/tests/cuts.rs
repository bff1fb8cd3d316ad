//! Power cuts and kills of the store on real I/O.
//!
//! `FATHOM_CUTS` says at how many moments the disks are set aside and crashed in every way (240
//! by default), `FATHOM_SEED` runs the history of just one seed. A history is made by one
//! thread, so that a seed repeats it, but for what the kernel splits differently.

use fathom_test_power::{
    history::{Summary, run},
    synchronous::Synchronous,
};

/// Moments in one history.
const MOMENTS: u64 = 40;
const CUTS: u64 = 240;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is \"{value}\", not a number")))
}

#[test]
fn every_moment_of_plain_system_calls_leaves_what_was_promised() {
    let seeds: Vec<u64> = match number("FATHOM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FATHOM_CUTS").unwrap_or(CUTS).div_ceil(MOMENTS)).collect(),
    };
    let mut total = Summary::default();
    for &seed in &seeds {
        let repeat = format!(
            "repeat: FATHOM_SEED={seed} cargo test --release -p fathom-test-power --test cuts"
        );
        eprintln!("seed {seed}; {repeat}");
        let outcome = run(seed, MOMENTS, &|members, random| {
            Ok(Box::new(Synchronous::open(members, random)?))
        });
        let summary = outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{repeat}"));
        total.moments += summary.moments;
        total.while_opening += summary.while_opening;
        total.lives += summary.lives;
        total.answered += summary.answered;
        total.verified.add(summary.verified);
    }
    eprintln!("{} histories: {total:?}", seeds.len());
}
