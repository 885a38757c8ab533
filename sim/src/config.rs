//! [`SimConfig`]: what a run is told besides its seed. Everything else, from the number of nodes to the faults, is drawn
//! from the seed.

use std::collections::BTreeSet;

/// What happens to the ranges of a node that is cut off: `docs/simulation.md`, "The two modes".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// It goes on serving. One owner is promised through planned moves and crashes only.
    #[default]
    Available,
    /// It serves under a lease. One owner is promised under all faults.
    Leased,
}

/// How a run is set up.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// How long clients work and faults happen, in virtual milliseconds. Default 12,000.
    pub active_ms: u64,
    /// How long the cluster may then take until nothing moves any more, in virtual milliseconds. Default 20,000.
    pub settle_ms_max: u64,
    /// Who owns what a cut-off node had. Default `available`.
    pub mode: Mode,
    /// At most this many of the clients that the seed draws. Default: all.
    pub clients_max: Option<usize>,
    /// Of the faults that the seed draws, only those with these numbers. Default: all.
    pub faults_kept: Option<BTreeSet<usize>>,
    /// The most events of a run. More are a violation: who asks and answers without end would else keep it from ever ending.
    /// Default 4,000,000, nine times what the busiest of 600 seeds had.
    pub events_max: u64,
    /// Print every event to standard error. Default off.
    pub trace: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            active_ms: 12_000,
            settle_ms_max: 20_000,
            mode: Mode::default(),
            clients_max: None,
            faults_kept: None,
            events_max: 4_000_000,
            trace: false,
        }
    }
}
