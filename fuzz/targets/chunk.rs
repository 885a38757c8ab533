//! The fuzz target `chunk`: see `softstore_fuzz::chunk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::chunk::run(input));
