//! The fuzz target `settings`: see `softstore_fuzz::settings_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::settings_file::run(input));
