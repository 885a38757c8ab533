//! The scenario `hot-key`: a key that nobody asked for suddenly takes a good part of all reads, and is written all the while.
//!
//! ```text
//!   options                 how much, for how long, and the limits
//!   crowd -> the sequence   who turns to the key, position by position
//!     arm                   one replay: the load, the key's writes, and two observers beside it
//!       assignments           what each assignment says of the key (the nodes' own watch)
//!       counters              what each node says it has answered (its /metrics)
//!     timeline              from observations and records to seconds: shares, imbalance, when it was spread
//!   judge                   figures, limits, verdict -> report -> table, html
//!   run                     the clusters, the two arms, the files
//! ```
//!
//! Load, pacing, ledger and records are those of the restart drill.

mod arm;
mod assignments;
mod counters;
mod crowd;
mod html;
mod judge;
mod options;
mod report;
mod run;
mod table;
#[cfg(test)]
mod tests;
mod timeline;

pub(crate) use crowd::{Crowd, CrowdRead};
pub use options::HotKeyOptions;
pub use report::{
    HotKeyReport, HotReads, HotWrites, Imbalance, Moments, PhaseReport, SecondReport, SettingsReport,
};
pub use run::run;
