//! Fuzzes the body of a DropSnapshot operation.

#![no_main]

use fathom_test_hostile::targets::target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target("op_drop_snapshot").run(bytes));
