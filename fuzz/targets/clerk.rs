//! The fuzz target `clerk`: see `softstore_fuzz::clerk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::clerk::run(input));
