//! The engines under test: `conformance` runs the suite against each, `oracle` compares each with a plain map over
//! random operations, `cost` measures time and memory (ignored: run by hand).

mod conformance;
mod cost;
mod oracle;
