//! The fuzz target `node`: see `softstore_fuzz::node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::node::run(input));
