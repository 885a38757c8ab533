//! The heap of a fuzz target: what one input may make it grow by is limited, so that a length that lies is a crash.
//!
//! The limit is on live bytes over those at the input's start. An allocation beyond it fails, and a failed allocation
//! aborts the process with the input that caused it. Only Rust's allocations count, not the fuzzer's own.

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// What may be allocated whatever the input is.
pub const BYTES_FREE: usize = 256 << 10;

/// Runs `test`, which may have `bytes` more on the heap at once than there were before.
///
/// # Panics
/// Not while targets run one input at a time: nobody else allocates.
pub fn within<T>(bytes: usize, test: impl FnOnce() -> T) -> T {
    let limit = HEAP.allocated().saturating_add(bytes);
    HEAP.set_limit(limit).expect("it is above what is allocated");
    let result = test();
    HEAP.set_limit(usize::MAX).expect("it is above what is allocated");
    result
}

/// As [`within`], with [`BYTES_FREE`] and `factor` bytes for each byte of input.
pub fn in_proportion<T>(input: &[u8], factor: usize, test: impl FnOnce() -> T) -> T {
    within(BYTES_FREE + input.len() * factor, test)
}
