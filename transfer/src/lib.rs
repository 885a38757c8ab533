//! The hand-off of slices between nodes: pure state machines and the chunk codec. No sockets, no clocks, no tasks.
//!
//! ```text
//!   taker                                             giver
//!   HandoffCore::adopt --Take--------------------->   HandoffCore::take      fence
//!   HandoffCore::take_answered <--Fenced-----------
//!   serves at once; absent keys: --Peek----------->   HandoffCore::copy_at
//!   import_target, chunk::decode <--Pull stream----   grant_pull, chunk::encode, pacer
//!   pull_ended --Release-------------------------->   HandoffCore::release   drop the frozen copy
//!
//!   handoff  the core     chunk  the codec     message  what travels     pacer  the rate     config
//! ```

pub mod chunk;
pub mod config;
pub mod handoff;
pub mod message;
pub mod pacer;

pub use config::HandoffConfig;
pub use handoff::{Action, Admission, HandoffCore};
