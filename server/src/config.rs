//! What an operator decides: [`NodeConfig`] and [`AssignerConfig`].
//!
//! Plain structs: every field says its unit, its range and its default, `Default` gives a working machine-local
//! setting, and `validate()` names the field that does not fit and what to do about it. Where the values come from
//! (flags, environment, a file) is the `softstore` binary's matter; an embedding application fills the structs itself.
//!
//! ```text
//! node.rs ---.             choice.rs   on|off, hottest|shuffled, even|ring
//!             +--> check.rs            ConfigError, ranges, the rule about loopback
//! assigner.rs'
//! ```

mod assigner;
mod check;
mod choice;
mod node;

pub use assigner::AssignerConfig;
pub use check::ConfigError;
pub use choice::{ChoiceError, Ownership, PullOrder, SharderKind, Transfer};
pub use node::{CHUNK_VERSIONS_ALL, NodeConfig, VALUE_BYTES_LIMIT};
