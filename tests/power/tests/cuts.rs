//! Power cuts and kills of the store on real I/O.
//!
//! `FATHOM_CUTS` says at how many moments each test sets the disks aside and crashes them in
//! every way (240 by default), `FATHOM_SEED` runs the history of just one seed. With plain system
//! calls a history is made by one thread, so that a seed repeats it, but for what the kernel
//! splits differently. In the engine's pool many requests are under way and the order of their ends
//! depends on time, so that a seed repeats it only statistically: run it again some times.

use fathom_test_power::{
    driver::Driver,
    history::{Open, Order, Summary, run},
    pool::EnginePool,
};

/// Moments in one history.
const MOMENTS: u64 = 40;
const CUTS: u64 = 240;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is \"{value}\", not a number")))
}

fn run_all(test: &str, order: Order, open: &Open<'_>) -> Summary {
    let seeds: Vec<u64> = match number("FATHOM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FATHOM_CUTS").unwrap_or(CUTS).div_ceil(MOMENTS)).collect(),
    };
    let mut total = Summary::default();
    for &seed in &seeds {
        let repeat = format!(
            "FATHOM_SEED={seed} cargo test --release -p fathom-test-power --test cuts {test}"
        );
        eprintln!("seed {seed}; repeat: {repeat}");
        let outcome = run(seed, MOMENTS, order, open);
        let summary = outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{repeat}"));
        total.moments += summary.moments;
        total.while_opening += summary.while_opening;
        total.lives += summary.lives;
        total.answered += summary.answered;
        total.verified.add(summary.verified);
    }
    eprintln!("{} histories: {total:?}", seeds.len());
    total
}

#[test]
fn every_moment_of_plain_system_calls_leaves_what_was_promised() {
    let test = "every_moment_of_plain_system_calls_leaves_what_was_promised";
    run_all(test, Order::Arrival, &|members, random| Ok(Box::new(Driver::plain(members, random)?)));
}

#[test]
fn every_moment_of_the_engines_pool_leaves_what_was_promised() {
    let test = "every_moment_of_the_engines_pool_leaves_what_was_promised";
    let total =
        run_all(test, Order::Random, &|members, _| Ok(Box::new(EnginePool::open(members)?)));
    // The one before which the moment comes always is.
    let others = total.verified.under_way - total.moments;
    assert!(others > total.moments / 4, "others are under way at a moment: {total:?}");
}
