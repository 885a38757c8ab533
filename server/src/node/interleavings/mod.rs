//! A node's threads under an explorer's schedules (feature `shuttle`; see `softstore-sync`): the real core
//! behind its lock, the real store, and operations as the data stream runs them. Nothing of tokio's runs: what the core
//! asks to have sent is queued and never sent.
//!
//! ```text
//!   fence      H1, H2, H4: operations against `Take`, and against the end of serving
//!   standstill H1: an operation under way while the process stands still
//!   held       operations held back, and what wakes them
//!   pull       H3: operations of a taker against chunks, peeks and the end of the pull
//!   order      decisions, and places among the held back
//!   rig        a node, and operations on it
//! ```
//!
//! The orderings of `standing` are judged by loom, in `sync/tests/standing.rs`.

mod fence;
mod held;
mod order;
mod pull;
mod rig;
mod standstill;
