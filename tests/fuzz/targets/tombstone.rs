//! Fuzzes a tombstone.

#![no_main]

use fathom_test_hostile::targets::target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target("tombstone").run(bytes));
