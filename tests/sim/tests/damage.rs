//! Damaged metadata: what opens is right, and with a second copy everything opens.

use fathom_test_sim::history::damage;

#[test]
fn damaged_metadata_is_repaired_or_refused_and_never_believed() {
    let (seeds, trials) = (24u32, 40);
    let mut opened = 0;
    for seed in 0..seeds {
        match damage(u64::from(seed), trials) {
            Ok(count) => opened += count,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(opened > 0, "some damage hits what is not needed");
    eprintln!("{opened} of {} damaged pools opened", seeds * trials);
}
