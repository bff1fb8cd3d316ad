//! Fuzzes the data of a Connect.

#![no_main]

use fathom_test_hostile::targets::target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target("connect_data").run(bytes));
