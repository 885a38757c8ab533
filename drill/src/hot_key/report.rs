//! The report of the scenario `hot-key` as data: exactly the JSON that `docs/drill.md` documents. Its field names are stable.

use serde::Serialize;

use crate::report::{Verdict, WindowReport};

/// What the drill found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HotKeyReport {
    /// Always `hot-key`.
    pub scenario: &'static str,
    /// Load, settings and limits.
    pub settings: SettingsReport,
    /// Milliseconds from the key's rise, or its fall.
    pub moments: Moments,
    /// Reads of the key while it was hot.
    pub hot_reads: HotReads,
    /// Its writes.
    pub hot_writes: HotWrites,
    /// 100 x (control's hit rate - the hot arm's) at the positions that ask for the same in both, from the key's rise on.
    pub dip_points: f64,
    /// How uneven the nodes' work was: (max - mean) / mean.
    pub imbalance: Imbalance,
    /// before, first_5_s, after_spread, cooling; `after_spread` is missing if the reads were never spread.
    pub phases: Vec<PhaseReport>,
    /// Values older than allowed, in both arms, warm-up included.
    pub stale_reads: u64,
    /// Wrong or untyped results, likewise.
    pub errors: u64,
    /// Writes refused, and said so, likewise.
    pub writes_unavailable: u64,
    /// Writes whose outcome is unknown, and said so, likewise.
    pub outcome_unknown: u64,
    /// The nodes' names, in the order of the lists in `seconds`.
    pub nodes: Vec<String>,
    /// The hot arm, second by second.
    pub seconds: Vec<SecondReport>,
    /// Whether what was promised held.
    pub verdict: Verdict,
    /// Why, for people; not in the JSON.
    #[serde(skip)]
    pub reasons: Vec<String>,
    /// What to know beside the figures, for people; not in the JSON.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl HotKeyReport {
    /// The process's exit code: 1 when a limit is broken, else 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(self.verdict == Verdict::Fail)
    }
}

/// Load, settings and limits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SettingsReport {
    /// The workload's name.
    pub workload: String,
    /// Distinct keys.
    pub keys: u32,
    /// Zipf's exponent.
    pub zipf_alpha: f64,
    /// reads:writes:deletes of what is not the hot key's.
    pub mix: String,
    /// Requests a second, the hot key's writes not counted.
    pub rate_per_second: u32,
    /// The sequence's seed.
    pub seed: u64,
    /// Requests before the first measured one.
    pub warm_up_requests: u64,
    /// Nodes.
    pub nodes: usize,
    /// Each node's budget.
    pub memory_per_node_bytes: u64,
    /// Part of all reads that the key takes while it is hot.
    pub hot_share: f64,
    /// How often a second it is written meanwhile.
    pub hot_writes_per_second: u32,
    /// Load before it becomes hot.
    pub lead_in_ms: u64,
    /// How long it is hot.
    pub hot_ms: u64,
    /// Load after that.
    pub cool_ms: u64,
    /// The limits of the verdict.
    pub max_isolated_ms: u64,
    /// Until reads of the key are spread.
    pub max_spread_ms: u64,
    /// Percent of the key's writes that must be acknowledged.
    pub min_hot_writes_percent: f64,
    /// Points of dip, and of the key's own misses; null: not judged.
    pub max_dip_points: Option<f64>,
    /// Errors.
    pub max_errors: u64,
    /// Stale reads.
    pub max_stale_reads: u64,
}

/// When what happened; null: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Moments {
    /// From the first hot request until an assignment in which the key's slice holds no other position.
    pub isolated_ms: Option<u64>,
    /// From the first hot request until an assignment in which the key has replicas.
    pub replicated_ms: Option<u64>,
    /// From the first hot request until its reads are spread.
    pub spread_ms: Option<u64>,
    /// From the key's fall until an assignment in which it has no replicas; null also if it had none.
    pub dereplicated_ms: Option<u64>,
    /// From the key's fall until an assignment in which it shares its slice again; null also if it never had its own.
    pub merged_ms: Option<u64>,
}

/// Reads of the key while it was hot.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct HotReads {
    /// How many.
    pub reads: u64,
    /// Part that brought a value.
    pub hit_rate: f64,
    /// Median latency from the intended sending, in microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Most nodes that an assignment let read the key, its owner included.
    pub readers_max: usize,
    /// The largest part that one node answered, from when reads were spread until the key's fall; null if they never were.
    pub largest_part_after_spread: Option<f64>,
}

/// Writes of the key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HotWrites {
    /// How many were due.
    pub writes: u64,
    /// Of which acknowledged.
    pub acknowledged: u64,
    /// Median latency from the intended sending, in microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// (max - mean) / mean of what the nodes answered; null: not known.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Imbalance {
    /// Over the time before the key's rise.
    pub before: Option<f64>,
    /// The worst second while it was hot.
    pub worst_second: Option<f64>,
    /// Over the time from when reads were spread until the key's fall.
    pub after_spread: Option<f64>,
    /// Over the time after its fall.
    pub cooling: Option<f64>,
}

/// A run of positions, in both arms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseReport {
    /// before, first_5_s, after_spread or cooling.
    pub name: &'static str,
    /// From the first measured request.
    pub from_ms: u64,
    /// Likewise, excluded.
    pub to_ms: u64,
    /// In the hot arm.
    pub hot: WindowReport,
    /// In control, at the same positions.
    pub control: WindowReport,
}

/// A second of the hot arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SecondReport {
    /// Hits among gets; null without gets.
    pub hit_rate: Option<f64>,
    /// 99th percentile of all operations.
    pub p99_us: u64,
    /// (max - mean) / mean of `operations`; null: not known.
    pub imbalance: Option<f64>,
    /// What each node answered; empty: not known.
    pub operations: Vec<f64>,
    /// Each node's part of the key's reads; empty: there were none to speak of.
    pub hot_parts: Vec<f64>,
    /// How many nodes the assignment lets read the key at the second's end, its owner included.
    pub readers: usize,
}
