//! The fuzz target `assigner`: see `softstore_fuzz::assigner`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::assigner::run(input));
