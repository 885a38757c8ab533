//! Parts of a server in one process: real nodes and Assigners, with a Sharder of the test's own where it needs one.
//!
//! * `load_report`: what a node reports of its load.
//! * `replicas`: reads and writes of a replicated key.
//! * `slow_sharder`: a Sharder that does not answer.

mod load_report;
mod replicas;
mod slow_sharder;
