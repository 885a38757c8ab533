//! [`SimConfig`]: what a run is told besides its seed. Everything else, from the number of nodes to the faults, is drawn
//! from the seed.

/// A deliberate bug of the simulated shell, to show that the checkers find it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mischief {
    /// An operation is carried out a while after it was admitted, without being admitted again (breaks H1).
    ServeAfterFence,
    /// An import replaces what stands there (breaks H2 and H3).
    ImportOverwrites,
    /// Writes in a range that is being pulled are not remembered (breaks H3).
    ForgetWrittenKeys,
    /// An imported entry's TTL counts from its arrival (breaks H5).
    TtlFromArrival,
    /// Versions begin at 1 in each holding (breaks H4).
    VersionsStartOver,
    /// A taker tells neither giver nor Assigner that its hand-offs have ended (breaks liveness).
    SilentTaker,
}

/// How a run is set up.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// How long clients work and faults happen, in virtual milliseconds. Default 12,000.
    pub active_ms: u64,
    /// How long the cluster may then take until nothing moves any more, in virtual milliseconds. Default 45,000.
    pub settle_ms_max: u64,
    /// A deliberate bug. Default none.
    pub mischief: Option<Mischief>,
    /// Print every event to standard error. Default off.
    pub trace: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            active_ms: 12_000,
            settle_ms_max: 45_000,
            mischief: None,
            trace: false,
        }
    }
}
