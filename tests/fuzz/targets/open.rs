//! Fuzzes opening a pool, and its life.

#![no_main]

use fathom_test_hostile::targets::target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target("open").run(bytes));
