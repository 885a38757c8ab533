//! The shells of a cache node and of the Assigner: sockets, clocks, tasks, metrics. The decisions are made in the pure
//! cores (`sharding`, `transfer`); what happens here is I/O.
//!
//! ```text
//!   node        a cache node: data plane, hand-off, session with the Assigner
//!   assigner    the control plane's process
//!   config      what an operator decides
//!   memory      the limit that counts, and how a node keeps under it
//!   http        /metrics, /healthz, /readyz        exposition, readings    how metrics are written out
//!   grpc        what gRPC ports have in common
//!   listener, opening, connection, places, guard, frames    sockets: their limits, what is counted there
//!   clock       the clocks that the cores are given
//!   conditions  what a person needs to know: told when it begins, lasts, ends
//!   events      a hand-off's phases in the log     log_queue               log lines that nobody waits for
//! ```
//!
//! Both are libraries: an application that is itself sharded embeds a [`node::Node`] in its own process.

pub mod assigner;
pub mod clock;
pub mod conditions;
pub mod config;
mod connection;
pub mod events;
mod exposition;
mod frames;
mod grpc;
mod guard;
pub mod http;
pub mod listener;
pub mod log_queue;
pub mod memory;
pub mod node;
pub mod opening;
mod places;
mod readings;
