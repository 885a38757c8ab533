//! [`Settings`]: what the planner strives for, and what it may spend on it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::assignment::REPLICAS_MAX;

/// How the planner weighs evenness against moving. Fractions are of a node's fair load, or of its capacity if that is more:
/// what is uneven in an idle cluster hurts nobody.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "snake_case")]
pub struct Settings {
    /// A node is relieved when its load is above its fair share by more than this. 0 to 10; default 0.05.
    pub tolerance_high: f64,
    /// It is relieved down to this. 0 to `tolerance_high`; default 0.02.
    pub tolerance_low: f64,
    /// A node is given more when its load is below its fair share by more than this. 0 to 1; default 0.15.
    pub underused: f64,
    /// How far each report of a part's or a key's load wavers around the true one (standard deviation, independently). What the
    /// reports of a node may waver together, three times, comes on top of `tolerance_high`. 0 to 1; default 0.1.
    pub noise: f64,
    /// A node's bytes may be above its fair share by this. 0 to 10; default 0.1.
    pub memory_tolerance: f64,
    /// A node whose bytes are below this part of its budget is never too full. 0 to 1; default 0.8.
    pub memory_free_below: f64,
    /// Balancing moves at most this part of the data set's bytes in a round. What drains or dies is moved all the same. 0 to 1;
    /// default 0.25.
    pub churn_budget: f64,
    /// Slices are cut, the hottest first, until there are this many for each node: more than one only if each is to be measured
    /// by itself, as nodes report the load of parts of them. 1 to 1,024; default 1.
    pub slices_per_node_min: u32,
    /// Slices are merged, the coldest first, when there are more than this for each node. At least 4 times the minimum, and
    /// up to 65,536; default 128.
    pub slices_per_node_max: u32,
    /// A key gets a slice of its own from this part of a node's fair load on. Above 0; default 0.05.
    pub isolate_above: f64,
    /// A key of its own slice gets another replica while each draws more than this part of a node's fair load. Above 0;
    /// default 0.8.
    pub replicate_above: f64,
    /// What was isolated or replicated is taken back when its load is below this part of what it was done for. 0 to 1;
    /// default 0.5.
    pub cool_below: f64,
    /// Most nodes that serve a slice, its owner included, 1 to 33; default 1.
    pub replicas_max: u32,
    /// How fast a taker pulls, bytes per second. Above 0; default 200,000,000.
    pub pull_bytes_per_s: f64,
    /// A move to balance must make up for its predicted misses, at one load unit each, within this many seconds. 0 or above;
    /// default 300.
    pub payback_s: f64,
    /// Balancing stops when it has looked at so many slices in a round; each look takes some 10 ns. What is uneven then is for the
    /// next round; what drains or died is placed all the same. 1,000 to 1,000,000,000; default 4,000,000.
    pub looks_max: u64,
}

/// Why settings are refused.
#[derive(Clone, PartialEq, Debug, Error)]
#[error("{name} is {value}, and must be {range}")]
pub struct SettingsError {
    name: &'static str,
    value: f64,
    range: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tolerance_high: 0.05,
            tolerance_low: 0.02,
            underused: 0.15,
            noise: 0.1,
            memory_tolerance: 0.1,
            memory_free_below: 0.8,
            churn_budget: 0.25,
            slices_per_node_min: 1,
            slices_per_node_max: 128,
            isolate_above: 0.05,
            replicate_above: 0.8,
            cool_below: 0.5,
            replicas_max: 1,
            pull_bytes_per_s: 200e6,
            payback_s: 300.0,
            looks_max: 4_000_000,
        }
    }
}

impl Settings {
    /// Checks the ranges that the fields state.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let within = |name, value: f64, least: f64, most: f64, range| {
            let fits = (least..=most).contains(&value);
            if fits {
                Ok(())
            } else {
                Err(SettingsError { name, value, range })
            }
        };
        let some = f64::MIN_POSITIVE;
        within("tolerance_high", self.tolerance_high, 0.0, 10.0, "0 to 10")?;
        within(
            "tolerance_low",
            self.tolerance_low,
            0.0,
            self.tolerance_high,
            "0 to tolerance_high",
        )?;
        within("underused", self.underused, 0.0, 1.0, "0 to 1")?;
        within("noise", self.noise, 0.0, 1.0, "0 to 1")?;
        within("memory_tolerance", self.memory_tolerance, 0.0, 10.0, "0 to 10")?;
        within("memory_free_below", self.memory_free_below, 0.0, 1.0, "0 to 1")?;
        within("churn_budget", self.churn_budget, 0.0, 1.0, "0 to 1")?;
        let least = self.slices_per_node_min;
        within("slices_per_node_min", least.into(), 1.0, 1_024.0, "1 to 1,024")?;
        let most = self.slices_per_node_max.into();
        let range = "4 times slices_per_node_min to 65,536";
        within(
            "slices_per_node_max",
            most,
            f64::from(least) * 4.0,
            65_536.0,
            range,
        )?;
        within("isolate_above", self.isolate_above, some, f64::MAX, "above 0")?;
        within("replicate_above", self.replicate_above, some, f64::MAX, "above 0")?;
        within("cool_below", self.cool_below, 0.0, 1.0, "0 to 1")?;
        let owners_max = REPLICAS_MAX as f64 + 1.0;
        within(
            "replicas_max",
            self.replicas_max.into(),
            1.0,
            owners_max,
            "1 to 33",
        )?;
        within(
            "pull_bytes_per_s",
            self.pull_bytes_per_s,
            some,
            f64::MAX,
            "above 0",
        )?;
        within("payback_s", self.payback_s, 0.0, f64::MAX, "0 or above")?;
        let range = "1,000 to 1,000,000,000";
        within("looks_max", self.looks_max as f64, 1_000.0, 1e9, range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_held_to() {
        assert_eq!(Settings::default().validate(), Ok(()));
        let bad = Settings {
            tolerance_low: 0.2,
            ..Settings::default()
        };
        let error = bad.validate().unwrap_err().to_string();
        assert_eq!(error, "tolerance_low is 0.2, and must be 0 to tolerance_high");
        let nothing = Settings {
            pull_bytes_per_s: f64::NAN,
            ..Settings::default()
        };
        assert!(nothing.validate().is_err());
    }
}
