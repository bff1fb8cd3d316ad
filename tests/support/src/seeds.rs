//! Runs one history for each seed, as the environment asks.

use std::panic::{RefUnwindSafe, catch_unwind, resume_unwind};

/// Runs `history` for seed 0 and those after it: `FATHOM_SEEDS` says how many (`by_default`
/// without it), `FATHOM_SEED` that it is just one. `command` repeats a test. Returns what the
/// histories came to, in their order.
///
/// # Panics
///
/// With the seed and how to repeat it, when a history fails or panics; or when a variable is no
/// number.
pub fn each<S>(
    by_default: u64,
    command: &str,
    history: impl Fn(u64) -> Result<S, String> + RefUnwindSafe,
) -> Vec<S> {
    let seeds = match number("FATHOM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FATHOM_SEEDS").unwrap_or(by_default),
    };
    assert!(!seeds.is_empty(), "FATHOM_SEEDS is 0: nothing would be shown");
    seeds
        .map(|seed| {
            let replay = format!("replay: FATHOM_SEED={seed} {command}");
            let outcome = catch_unwind(|| history(seed)).unwrap_or_else(|panic| {
                eprintln!("seed {seed} panicked\n{replay}");
                resume_unwind(panic)
            });
            outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{replay}"))
        })
        .collect()
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is \"{value}\", not a number")))
}
