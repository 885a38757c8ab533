//! The fuzz target `op_batch`: see `softstore_fuzz::batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| softstore_fuzz::batch::run_ops(input));
