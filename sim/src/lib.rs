//! A deterministic simulation of a whole cluster: the real cores of the Assigner, the nodes and the clients under a
//! seeded virtual clock and network, with faults, and checkers that know nothing of the implementation.
//!
//! ```text
//!   run          one cluster from start to rest        env       clock, event queue, network
//!   plan         what the seed decides                 faults    what goes wrong and when
//!   inflict      how a fault is done to the cluster    counters  how often what happened
//!   control      the Assigner's shell                  message   what travels
//!   node         a node's shell                        client    an application's shell
//!   trap         what is done at a phase of a hand-off   absence   nodes that go away and come back
//!   replicating  the Sharder: even ranges, and random replicas
//!   history      what was seen                         check     what must not have been
//!   plants       the search for planted bugs
//!   scenario     rounds of the control plane alone: what a sharder's placements are worth
//!   config       what a run is told besides its seed    shrink    a smaller run that breaks the same
//! ```
//!
//! The same seed gives the same history, byte for byte: there is one thread, one source of chance, and no hash order.

mod absence;
mod client;
mod clock;
mod config;
mod control;
mod counters;
mod env;
mod faults;
mod inflict;
mod message;
mod node;
mod plan;
mod replicating;
mod trap;

pub mod check;
pub mod history;
#[cfg(feature = "planted-bugs")]
pub mod plants;
pub mod random;
pub mod run;
pub mod scenario;
pub mod shrink;

pub use config::{Mode, SimConfig};
pub use counters::Counters;
pub use run::{SimReport, run};
