//! The fuzz target `text`: see `softstore_fuzz::text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::text::run(input));
