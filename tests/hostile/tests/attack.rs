//! Random attacks over many seeds.
//!
//! `FATHOM_SEEDS` says how many histories are attacked (24 by default), `FATHOM_SEED` attacks just
//! one.

use fathom_test_hostile::attack::{Summary, run};

const TRIALS: u32 = 40;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is \"{value}\", not a number")))
}

#[test]
fn hostile_bytes_end_in_a_sound_pool_or_a_refusal() {
    let seeds: Vec<u64> = match number("FATHOM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FATHOM_SEEDS").unwrap_or(24)).collect(),
    };
    let mut total = Summary::default();
    for &seed in &seeds {
        let replay = format!(
            "replay: FATHOM_SEED={seed} cargo test --release -p fathom-test-hostile --test attack"
        );
        let outcome = std::panic::catch_unwind(|| run(seed, TRIALS)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} panicked\n{replay}");
            std::panic::resume_unwind(panic)
        });
        match outcome {
            Ok(summary) => {
                total.opened += summary.opened;
                total.refused += summary.refused;
            }
            Err(error) => panic!("seed {seed}: {error}\n{replay}"),
        }
    }
    assert!(total.opened > 0 && total.refused > 0, "attacks of both kinds: {total:?}");
    eprintln!("{} histories: {total:?}", seeds.len());
}
