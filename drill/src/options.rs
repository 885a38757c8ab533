//! Everything that a drill can be told, with its defaults and limits. Flags are mapped in `args`.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::error::OptionsError;
use crate::hot_key::HotKeyOptions;
use crate::request::VALUE_BYTES_MAX;
use crate::value::VALUE_BYTES_MIN;
use crate::workload::WorkloadSpec;

/// What happens to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Scenario {
    /// Every node is restarted.
    #[default]
    Restart,
    /// A key that nobody asked for takes a good part of all reads, and cools again.
    HotKey,
}

/// One replay of the sequence against a cluster of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum ArmName {
    /// No restart.
    Control,
    /// The same again: how far two equal runs differ.
    Control2,
    /// Restarts, with state transfer.
    Transfer,
    /// Restarts, without state transfer.
    Cold,
    /// A key becomes hot: the scenario `hot-key` runs it, and a control.
    #[value(skip)]
    Hot,
}

impl ArmName {
    /// All of a restart, in the order of the report.
    pub const ALL: [Self; 4] = [Self::Control, Self::Control2, Self::Transfer, Self::Cold];

    /// Its name in the report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Control2 => "control2",
            Self::Transfer => "transfer",
            Self::Cold => "cold",
            Self::Hot => "hot",
        }
    }

    /// Whether its nodes are restarted.
    #[must_use]
    pub const fn restarts(self) -> bool {
        matches!(self, Self::Transfer | Self::Cold)
    }
}

/// How each node is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum RestartMode {
    /// SIGTERM, wait for the exit, stay away, start again under the same name.
    #[default]
    Rolling,
    /// Start a replacement under a new name first, then SIGTERM.
    Surge,
    /// SIGKILL, stay away, start again under the same name. Nothing can be handed over.
    Kill,
}

impl RestartMode {
    /// Its name in the report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Surge => "surge",
            Self::Kill => "kill",
        }
    }
}

/// In which order a taker pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PullOrder {
    /// Hottest first: what softstore does.
    #[default]
    Hottest,
    /// In no order: to measure what the order is worth.
    Shuffled,
}

impl PullOrder {
    /// As the node's flag spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hottest => "hottest",
            Self::Shuffled => "shuffled",
        }
    }
}

/// What a drill does. Every field has a default ([`Default`]) and is checked by [`Self::validate`].
#[derive(Debug, Clone, PartialEq)]
pub struct DrillOptions {
    /// Default restart.
    pub scenario: Scenario,
    /// Of the scenario `hot-key`.
    pub hot_key: HotKeyOptions,
    /// Nodes of each arm's cluster, 1 to 64. Default 3.
    pub nodes: usize,
    /// The generated load; of a trace, the sizes that it lacks.
    pub workload: WorkloadSpec,
    /// A recorded load instead. Default none.
    pub trace: Option<PathBuf>,
    /// Requests a second after the warm-up, 1 to 1,000,000. Default 10,000.
    pub rate_per_second: u32,
    /// Most requests in flight at once, 1 to 1,000,000. Default 16,384. A request that must wait for a place is timed from its
    /// intended sending all the same.
    pub in_flight_max: usize,
    /// Seed of the sequence. Default 1.
    pub seed: u64,
    /// Requests replayed as fast as the cluster takes them before anything is measured. Default: four per key; of a
    /// trace, its first 40%.
    pub warm_up_requests: Option<u64>,
    /// Default rolling.
    pub restart: RestartMode,
    /// How long a node stays away, in milliseconds, at most 600,000. Default 3,000.
    pub absent_ms: u64,
    /// From the first measured request to the first signal, in milliseconds, at most 600,000. Default 2,000.
    pub lead_in_ms: u64,
    /// From the settled cluster to the next signal, in milliseconds, at most 600,000. Default 1,000.
    pub pause_ms: u64,
    /// From the end of the last hand-off to the end of the window, in milliseconds, at most 600,000. Default 5,000.
    pub tail_ms: u64,
    /// How long an empty node waits to take whole what next drains before it is filled, in milliseconds. Default 10,000.
    pub rebalance_delay_ms: u64,
    /// Longest wait for a cluster to settle and for one node to exit beyond its deadline, in milliseconds. Default 120,000.
    pub settle_timeout_ms: u64,
    /// Each node's budget in bytes. Default: ample, enough for one node to hold everything twice.
    pub memory_per_node_bytes: Option<u64>,
    /// How long a draining node may take, in milliseconds. Default: the node's own (25,000).
    pub drain_deadline_ms: Option<u64>,
    /// Default hottest first.
    pub pull_order: PullOrder,
    /// What each backend load takes, in milliseconds, at most 60,000. Default 0.
    pub load_ms: u64,
    /// Default all four.
    pub arms: Vec<ArmName>,
    /// Most points of hit rate that the transfer arm may lose. Default: 1.0 with rolling or surge and ample memory, a
    /// default drain deadline and the hottest-first order; else not judged.
    pub dip_points_max: Option<f64>,
    /// Most errors in any arm. Default 0.
    pub errors_max: u64,
    /// Most stale reads in any arm. Default 0.
    pub stale_reads_max: u64,
    /// Drive this standing cluster (`host:port` of its nodes) instead of starting one. Default none.
    pub seeds: Vec<String>,
    /// With `seeds`: how long the load goes on after the baseline, in milliseconds, 1,000 to 86,400,000. Default 60,000.
    pub duration_ms: u64,
    /// With `seeds`: how long the load runs before the operator is asked to restart, in milliseconds. Default 10,000.
    pub baseline_ms: u64,
    /// The binary that `assigner` and `node` are run with. Default: this process's own.
    pub program: Option<PathBuf>,
    /// Where the logs of the cluster's processes go. Default: a temporary folder, kept when the drill fails.
    pub log_dir: Option<PathBuf>,
    /// Where the JSON report goes. Default none.
    pub json: Option<PathBuf>,
    /// Where the HTML report goes. Default none.
    pub report: Option<PathBuf>,
    /// Print nothing but errors. Default false.
    pub quiet: bool,
}

impl Default for DrillOptions {
    fn default() -> Self {
        Self {
            scenario: Scenario::default(),
            hot_key: HotKeyOptions::default(),
            nodes: 3,
            workload: WorkloadSpec::default(),
            trace: None,
            rate_per_second: 10_000,
            in_flight_max: 16_384,
            seed: 1,
            warm_up_requests: None,
            restart: RestartMode::default(),
            absent_ms: 3_000,
            lead_in_ms: 2_000,
            pause_ms: 1_000,
            tail_ms: 5_000,
            rebalance_delay_ms: 10_000,
            settle_timeout_ms: 120_000,
            memory_per_node_bytes: None,
            drain_deadline_ms: None,
            pull_order: PullOrder::default(),
            load_ms: 0,
            arms: ArmName::ALL.to_vec(),
            dip_points_max: None,
            errors_max: 0,
            stale_reads_max: 0,
            seeds: Vec::new(),
            duration_ms: 60_000,
            baseline_ms: 10_000,
            program: None,
            log_dir: None,
            json: None,
            report: None,
            quiet: false,
        }
    }
}

const TEN_MINUTES_MS: u64 = 600_000;

impl DrillOptions {
    /// The dip limit that applies unless one is given, where the design promises to lose next to nothing.
    pub const DIP_POINTS_MAX: f64 = 1.0;

    /// Checks ranges and contradictions.
    ///
    /// # Errors
    /// The first [`OptionsError`] found.
    pub fn validate(&self) -> Result<(), OptionsError> {
        self.validate_cluster()?;
        self.validate_load()?;
        if !self.seeds.is_empty() {
            self.validate_seeds()?;
        }
        if self.scenario == Scenario::HotKey {
            self.hot_key.validate()?;
            self.validate_hot_key()?;
        }
        Ok(())
    }

    fn validate_hot_key(&self) -> Result<(), OptionsError> {
        let conflict = |option, because| {
            Err(OptionsError::Conflict {
                option,
                with: "--scenario hot-key",
                because,
            })
        };
        if !self.seeds.is_empty() {
            return conflict("seeds", "it reads the counters of nodes that it starts itself");
        }
        if self.trace.is_some() {
            return conflict("trace", "it must know which key nobody asks for");
        }
        if self.restart != RestartMode::Rolling {
            return conflict("restart", "nothing is restarted");
        }
        if self.arms != ArmName::ALL {
            return conflict("arms", "it always has two, hot and control");
        }
        if self.absent_ms != Self::default().absent_ms {
            return conflict("absent-s", "no node goes away");
        }
        if self.drain_deadline_ms.is_some() {
            return conflict("drain-deadline-ms", "no node drains");
        }
        if self.pull_order != PullOrder::default() {
            return conflict("pull-order", "no node takes over from one that goes");
        }
        // One node has nobody to spread anything to, and of one key nothing else can be read.
        within("nodes", self.nodes, 2, 64)?;
        within("keys", self.workload.keys, 2, 20_000_000)
    }

    fn validate_cluster(&self) -> Result<(), OptionsError> {
        within("nodes", self.nodes, 1, 64)?;
        within("absent-s", self.absent_ms, 0, TEN_MINUTES_MS)?;
        within("lead-in-s", self.lead_in_ms, 0, TEN_MINUTES_MS)?;
        within("rebalance-delay-ms", self.rebalance_delay_ms, 0, TEN_MINUTES_MS)?;
        within("pause-ms", self.pause_ms, 0, TEN_MINUTES_MS)?;
        within("tail-ms", self.tail_ms, 0, TEN_MINUTES_MS)?;
        within(
            "settle-timeout-ms",
            self.settle_timeout_ms,
            1,
            10 * TEN_MINUTES_MS,
        )?;
        if let Some(bytes) = self.memory_per_node_bytes {
            within("memory-per-node", bytes, 1 << 20, 1 << 44)?;
        }
        if let Some(deadline_ms) = self.drain_deadline_ms {
            within("drain-deadline-ms", deadline_ms, 1, TEN_MINUTES_MS)?;
        }
        let restarts = self.arms.iter().any(|arm| arm.restarts());
        if self.seeds.is_empty() && !(restarts && self.arms.contains(&ArmName::Control)) {
            return Err(OptionsError::Arms);
        }
        Ok(())
    }

    fn validate_load(&self) -> Result<(), OptionsError> {
        let spec = &self.workload;
        within("rate", self.rate_per_second, 1, 1_000_000)?;
        within("in-flight", self.in_flight_max, 1, 1_000_000)?;
        within("load-ms", self.load_ms, 0, 60_000)?;
        within("keys", spec.keys, 1, 20_000_000)?;
        within("zipf", spec.zipf_alpha, 0.0, 5.0)?;
        within("key-bytes", spec.key_bytes, 16, 65_535)?;
        within(
            "value-bytes-median",
            spec.value_bytes_median,
            VALUE_BYTES_MIN,
            VALUE_BYTES_MAX,
        )?;
        within("ttl-s", spec.ttl_ms_max, spec.ttl_ms_min, u64::MAX / 2)?;
        if let Some(dip) = self.dip_points_max {
            within("max-dip", dip, 0.0, 100.0)?;
        }
        if let Some(requests) = self.warm_up_requests {
            within("warm-up-requests", requests, 0, 1 << 40)?;
        }
        Ok(())
    }

    fn validate_seeds(&self) -> Result<(), OptionsError> {
        within("duration-s", self.duration_ms, 1_000, 86_400_000)?;
        within("baseline-s", self.baseline_ms, 1_000, 86_400_000)?;
        let conflict = |option, because| {
            Err(OptionsError::Conflict {
                option,
                with: "--seeds",
                because,
            })
        };
        if self.restart != RestartMode::Rolling {
            return conflict("restart", "the cluster's operator restarts it, not the drill");
        }
        if self.memory_per_node_bytes.is_some() || self.drain_deadline_ms.is_some() {
            return conflict(
                "memory-per-node and --drain-deadline-ms",
                "the nodes already run with their own settings",
            );
        }
        Ok(())
    }

    /// The arms in the report's order, each once.
    #[must_use]
    pub fn arms_in_order(&self) -> Vec<ArmName> {
        ArmName::ALL
            .into_iter()
            .filter(|arm| self.arms.contains(arm))
            .collect()
    }

    /// Whether a node may hold everything: only then is an avoidable miss the restart's doing.
    #[must_use]
    pub fn memory_is_ample(&self) -> bool {
        self.memory_per_node_bytes.is_none()
    }

    /// The dip that breaks the verdict; `None`: the dip is told, not judged.
    #[must_use]
    pub fn dip_limit(&self) -> Option<f64> {
        let promised = self.restart != RestartMode::Kill
            && self.memory_is_ample()
            && self.drain_deadline_ms.is_none()
            && self.pull_order == PullOrder::Hottest;
        self.dip_points_max.or(promised.then_some(Self::DIP_POINTS_MAX))
    }
}

pub(crate) fn within<T: PartialOrd + ToString>(
    option: &'static str,
    value: T,
    min: T,
    max: T,
) -> Result<(), OptionsError> {
    if value >= min && value <= max {
        return Ok(());
    }
    let (value, min, max) = (value.to_string(), min.to_string(), max.to_string());
    Err(OptionsError::OutOfRange {
        option,
        value,
        min,
        max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_bad_values_are_named() {
        assert_eq!(DrillOptions::default().validate(), Ok(()));
        let bad = DrillOptions {
            rate_per_second: 0,
            ..DrillOptions::default()
        };
        assert!(matches!(
            bad.validate(),
            Err(OptionsError::OutOfRange { option: "rate", .. })
        ));
        let mut nan = DrillOptions::default();
        nan.workload.zipf_alpha = f64::NAN;
        assert!(matches!(
            nan.validate(),
            Err(OptionsError::OutOfRange { option: "zipf", .. })
        ));
        let seeds = vec!["127.0.0.1:7401".to_owned()];
        let bad = DrillOptions {
            seeds,
            restart: RestartMode::Kill,
            ..DrillOptions::default()
        };
        assert!(matches!(
            bad.validate(),
            Err(OptionsError::Conflict {
                option: "restart",
                ..
            })
        ));
    }

    #[test]
    fn a_dip_is_judged_by_default_only_where_none_is_promised_away() {
        assert_eq!(DrillOptions::default().dip_limit(), Some(1.0));
        let kill = DrillOptions {
            restart: RestartMode::Kill,
            ..DrillOptions::default()
        };
        assert_eq!(kill.dip_limit(), None);
        assert_eq!(
            DrillOptions {
                dip_points_max: Some(30.0),
                ..kill
            }
            .dip_limit(),
            Some(30.0)
        );
    }
}
