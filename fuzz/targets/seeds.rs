//! Not a target: writes the seeds of all others. It is built as one, since what it calls counts its coverage.
#![no_main]

libfuzzer_sys::fuzz_target!(init: softstore_fuzz::seeds::write_and_exit(), |_input: &[u8]| {});
