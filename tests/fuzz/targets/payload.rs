//! Fuzzes a list of operations.

#![no_main]

use fathom_test_hostile::targets::target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target("payload").run(bytes));
