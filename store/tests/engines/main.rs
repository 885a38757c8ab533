//! The engines under test: `conformance` runs the suite against each, `oracle` compares each with a plain map over
//! random operations, `cost` measures time and memory (ignored: run by hand).

/// The allocator that nodes run with, since `cost` measures memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

mod conformance;
mod cost;
mod oracle;
