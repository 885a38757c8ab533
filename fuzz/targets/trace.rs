//! The fuzz target `trace`: see `softstore_fuzz::trace_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::trace_file::run(input));
