//! Fuzzes the structures of a command set that Identify returns.

#![no_main]

use fathom_test_hostile::targets::target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target("identify_command_set").run(bytes));
