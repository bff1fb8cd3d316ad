//! Random attacks over many seeds.
//!
//! `FATHOM_SEEDS` says how many histories are attacked (24 by default), `FATHOM_SEED` attacks just
//! one.

use fathom_test_hostile::attack::{Summary, run};
use fathom_test_support::seeds;

const TRIALS: u32 = 40;

#[test]
fn hostile_bytes_end_in_a_sound_pool_or_a_refusal() {
    let command = "cargo test --release -p fathom-test-hostile --test attack";
    let summaries = seeds::each(24, command, |seed| run(seed, TRIALS));
    let mut total = Summary::default();
    for summary in &summaries {
        total.opened += summary.opened;
        total.refused += summary.refused;
    }
    assert!(total.opened > 0 && total.refused > 0, "attacks of both kinds: {total:?}");
    eprintln!("{} histories: {total:?}", summaries.len());
}
