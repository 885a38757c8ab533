//! What the scenario `hot-key` can be told beside what every drill can.

use crate::error::OptionsError;
use crate::options::within;

/// The key's rise, and the limits of the verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct HotKeyOptions {
    /// Part of all reads that the key takes while it is hot, 0.01 to 0.99. Default 0.5.
    pub share: f64,
    /// How often a second it is written meanwhile, 0 to 10,000. Default 100.
    pub writes_per_second: u32,
    /// How long it is hot, in milliseconds, 1,000 to 3,600,000. Default 20,000.
    pub hot_ms: u64,
    /// How long the load goes on after that, in milliseconds, at most 3,600,000. Default 10,000.
    pub cool_ms: u64,
    /// Most milliseconds until an assignment gives the key a slice of its own. Default 3,000.
    pub isolated_ms_max: u64,
    /// Most milliseconds until reads of the key are spread. Default 5,000.
    pub spread_ms_max: u64,
    /// Of the key's writes that are due, at least so many percent must be acknowledged, 0 to 100. Default 99.
    pub writes_percent_min: f64,
}

impl Default for HotKeyOptions {
    fn default() -> Self {
        Self {
            share: 0.5,
            writes_per_second: 100,
            hot_ms: 20_000,
            cool_ms: 10_000,
            isolated_ms_max: 3_000,
            spread_ms_max: 5_000,
            writes_percent_min: 99.0,
        }
    }
}

const HOUR_MS: u64 = 3_600_000;

impl HotKeyOptions {
    /// Load before the key becomes hot unless told otherwise, in milliseconds: the nodes' rates have settled and what the
    /// warm-up left uneven is balanced.
    pub const LEAD_IN_MS: u64 = 10_000;

    pub(crate) fn validate(&self) -> Result<(), OptionsError> {
        within("hot-share", self.share, 0.01, 0.99)?;
        within("hot-writes-per-s", self.writes_per_second, 0, 10_000)?;
        within("hot-s", self.hot_ms, 1_000, HOUR_MS)?;
        within("cool-s", self.cool_ms, 0, HOUR_MS)?;
        within("max-isolated-ms", self.isolated_ms_max, 0, HOUR_MS)?;
        within("max-spread-ms", self.spread_ms_max, 0, HOUR_MS)?;
        within("min-hot-writes", self.writes_percent_min, 0.0, 100.0)
    }
}
