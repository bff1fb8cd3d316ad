//! Fuzzes the data of features.

#![no_main]

use fathom_test_hostile::targets::target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target("feature_data").run(bytes));
