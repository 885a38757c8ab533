//! The client against nodes that do what a test tells them: real gRPC on loopback, scripted answers.
//!
//! - `fake`: the nodes
//! - `absent`: a cluster that is not there
//! - `operations`: what each call sends and gives back; batching; many keys; flush
//! - `outcomes`: retries, lost answers, deadlines, unreachable owners
//! - `following`: assignments, `Moved`, seeds, restarts
//! - `loading`: `get_or_load`
//! - `replicas`: reads of what is replicated

mod absent;
mod fake;
mod following;
mod loading;
mod operations;
mod outcomes;
mod replicas;
