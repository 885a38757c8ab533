//! The fuzz target `messages`: see `softstore_fuzz::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::messages::run(input));
