//! The drill: restarts every node of a cluster under load, or makes a key hot, and judges what that cost.
//!
//! ```text
//!   workload, trace  -> request (one sequence, the same for every arm)
//!                          |
//!   pace (open loop) -> replay (read-through) -> target (client_target | a fake in tests)
//!                          |        |
//!                       record    ledger (what a read may return)
//!                          |
//!   arm ---- choreography (restarts) -> fleet (process_fleet: child processes)
//!    |                \-> control (assigner_status: is it settled, what moved)
//!   judge (window, dip, avoidable misses, stalls) -> report -> table, json, html
//!
//!   hot_key    the other scenario: nothing is restarted, a key becomes hot
//!
//!   csv_trace, id_trace, value, position_rng    where the sequence and its values come from
//!   slots, served, stall                        what is measured per part of the key space
//!   reference: ideal, oracle                    what could have been reached
//!   run, args, options, progress, error         a whole drill, how it is told what to do, what a person sees of it
//!   page, chart                                 how reports look
//! ```
//!
//! It talks to the cluster as an application does, through `softstore-client`, and asks the Assigner for its status as an
//! operator does. It knows nothing of a node's inside, so its verdict is independent of the implementation.
//! `docs/drill.md` defines every figure.

mod args;
mod arm;
mod assigner_status;
pub mod chart;
mod choreography;
mod client_target;
mod control;
mod csv_trace;
#[cfg(test)]
mod drill_tests;
mod error;
#[cfg(test)]
mod fake;
mod fleet;
mod hot_key;
mod html;
mod id_trace;
mod ideal;
mod judge;
mod ledger;
mod moved;
mod options;
mod oracle;
mod pace;
pub mod page;
mod position_rng;
mod process_fleet;
mod progress;
mod record;
mod reference;
mod replay;
mod report;
mod request;
mod run;
mod served;
mod slots;
mod stall;
mod table;
mod target;
mod trace;
mod value;
mod workload;

pub use args::DrillArgs;
pub use error::{DrillError, OptionsError, TraceError};
pub use hot_key::{
    HotKeyOptions, HotKeyReport, HotReads, HotWrites, Imbalance, Moments, PhaseReport, SecondReport,
    SettingsReport, run as run_hot_key,
};
pub use options::{ArmName, DrillOptions, PullOrder, RestartMode, Scenario};
pub use report::{ArmReport, ReferenceReport, Report, RestartReport, Verdict, WindowReport, WorkloadReport};
pub use run::run;
pub use workload::{Preset, WorkloadSpec};
