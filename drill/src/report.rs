//! The report as data: exactly the JSON that `docs/drill.md` documents. Its field names are stable.

use serde::Serialize;

/// What a drill found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was replayed, and every setting that bears on the figures.
    pub workload: WorkloadReport,
    /// Bytes that the cluster held before the first signal (its own count, overhead included).
    pub state_bytes: u64,
    /// In the order control, control2, transfer, cold; only those that ran.
    pub arms: Vec<ArmReport>,
    /// What could have been reached, where a loss is inherent: with a drain deadline, and with tight memory. Else empty.
    pub references: Vec<ReferenceReport>,
    /// Whether what was promised held.
    pub verdict: Verdict,
    /// Why, for people; not in the JSON.
    #[serde(skip)]
    pub reasons: Vec<String>,
    /// What each restart of the transfer arm moved, and how fast, for people; not in the JSON.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// What the drill concludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No limit is broken, and the restart was one that hurts without transfer.
    Pass,
    /// A limit is broken.
    Fail,
    /// No limit is broken, but nothing was proven: without transfer less than 3 points were lost, or that was not measured.
    Inconclusive,
}

impl Verdict {
    /// As in the JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl Report {
    /// The process's exit code: 1 when a limit is broken, else 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(self.verdict == Verdict::Fail)
    }

    /// The arm of that name, if it ran.
    #[must_use]
    pub fn arm(&self, name: &str) -> Option<&ArmReport> {
        self.arms.iter().find(|arm| arm.name == name)
    }
}

/// Load and settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkloadReport {
    /// A preset's name, or the trace's file name.
    pub name: String,
    /// Distinct keys.
    pub keys: u32,
    /// Zipf's exponent; null for a trace.
    pub zipf_alpha: Option<f64>,
    /// reads:writes:deletes; null for a trace.
    pub mix: Option<String>,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Median bytes of a value, where the trace does not say.
    pub value_bytes_median: u32,
    /// Least time to live; 0: none.
    pub ttl_ms_min: u64,
    /// Longest time to live.
    pub ttl_ms_max: u64,
    /// Requests a second.
    pub rate_per_second: u32,
    /// Most requests in flight.
    pub in_flight_max: usize,
    /// The sequence's seed.
    pub seed: u64,
    /// Requests before the first measured one.
    pub warm_up_requests: u64,
    /// Nodes; null for a standing cluster.
    pub nodes: Option<usize>,
    /// rolling, surge or kill; `operator` for a standing cluster.
    pub restart: String,
    /// How long a node was to stay away.
    pub absent_ms: u64,
    /// How long an empty node waited to be filled.
    pub rebalance_delay_ms: u64,
    /// Each node's budget; null for a standing cluster.
    pub memory_per_node_bytes: Option<u64>,
    /// Whether a node could hold everything.
    pub memory_ample: bool,
    /// How long a drain could take; null: the node's default.
    pub drain_deadline_ms: Option<u64>,
    /// hottest or shuffled.
    pub pull_order: String,
    /// What a backend load took.
    pub load_ms: u64,
    /// The limits of the verdict: points of dip (null: not judged), errors, stale reads.
    pub max_dip_points: Option<f64>,
    /// Most errors.
    pub max_errors: u64,
    /// Most stale reads.
    pub max_stale_reads: u64,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmReport {
    /// control, control2, transfer or cold.
    pub name: &'static str,
    /// All measured positions.
    pub whole: WindowReport,
    /// The window; for the controls, that of the transfer arm (else of the cold one).
    pub window: WindowReport,
    /// The hit rate of the window's worst whole second.
    pub worst_second_hit_rate: f64,
    /// 100 x (control's hit rate - this arm's) over the window's positions.
    pub dip_points: f64,
    /// Misses in the window that were hits in control at the same position.
    pub avoidable_misses: u64,
    /// Values older than allowed, resurrected ones included; warm-up included.
    pub stale_reads: u64,
    /// Wrong or untyped results; warm-up included.
    pub errors: u64,
    /// Writes and deletes refused, and said so; fills and warm-up included.
    pub writes_unavailable: u64,
    /// Writes and deletes whose outcome is unknown, and said so; fills and warm-up included.
    pub outcome_unknown: u64,
    /// The longest time in the window in which some slot group was asked and answered nothing.
    pub max_stall_ms: u64,
    /// The longest time, after any signal, in which some slot group was asked before an owner answered it.
    pub served_again_ms: u64,
    /// Entries imported by takers from the first signal on.
    pub moved_entries: u64,
    /// Bytes of them.
    pub moved_bytes: u64,
    /// In order.
    pub restarts: Vec<RestartReport>,
}

/// What happened over a run of positions.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct WindowReport {
    /// Gets among them.
    pub gets: u64,
    /// Hits among the gets, 0 to 1.
    pub hit_rate: f64,
    /// Median latency of all operations, from the intended sending, in microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Operations ended a second.
    pub ops_per_second: f64,
    /// Loads from the backend: one per get that brought no value.
    pub backend_loads: u64,
}

/// A line that no cluster ran: computed for the transfer arm's window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReferenceReport {
    /// oracle, oracle-past, oracle-20, oracle-past-20, ideal, ideal-alive, ideal-owning.
    pub name: &'static str,
    /// What it is, for people; not in the JSON.
    #[serde(skip)]
    pub about: &'static str,
    /// Hits among the gets, 0 to 1.
    pub hit_rate: f64,
    /// 100 x (control's hit rate - this one's); negative where it does better than control.
    pub dip_points: f64,
    /// The hit rate of its worst whole second.
    pub worst_second_hit_rate: f64,
    /// 100 x (this hit rate - the transfer arm's): how far the transfer arm stayed behind it.
    pub ahead_points: f64,
}

/// One node's restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestartReport {
    /// The node that was signalled.
    pub node: String,
    /// From the signal to the exit.
    pub drain_ms: u64,
    /// From the exit until its successor listened; 0 with surge, where it listened before.
    pub absent_ms: u64,
}

#[cfg(test)]
impl WorkloadReport {
    /// Some values for every field.
    pub(crate) fn sample() -> Self {
        Self {
            name: "default".to_owned(),
            keys: 10,
            zipf_alpha: Some(0.99),
            mix: Some("1:0:0".to_owned()),
            key_bytes: 24,
            value_bytes_median: 230,
            ttl_ms_min: 0,
            ttl_ms_max: 0,
            rate_per_second: 1_000,
            in_flight_max: 64,
            seed: 1,
            warm_up_requests: 40,
            nodes: Some(3),
            restart: "rolling".to_owned(),
            absent_ms: 3_000,
            rebalance_delay_ms: 10_000,
            memory_per_node_bytes: Some(1 << 28),
            memory_ample: true,
            drain_deadline_ms: None,
            pull_order: "hottest".to_owned(),
            load_ms: 0,
            max_dip_points: Some(1.0),
            max_errors: 0,
            max_stale_reads: 0,
        }
    }
}

#[cfg(test)]
impl ArmReport {
    /// An arm that found nothing wrong.
    pub(crate) fn sample(name: &'static str) -> Self {
        Self {
            name,
            whole: WindowReport::default(),
            window: WindowReport {
                gets: 1_000,
                hit_rate: 0.9,
                ..WindowReport::default()
            },
            worst_second_hit_rate: 0.9,
            dip_points: 0.0,
            avoidable_misses: 0,
            stale_reads: 0,
            errors: 0,
            writes_unavailable: 0,
            outcome_unknown: 0,
            max_stall_ms: 3,
            served_again_ms: 4,
            moved_entries: 0,
            moved_bytes: 0,
            restarts: vec![RestartReport {
                node: "n1".to_owned(),
                drain_ms: 5,
                absent_ms: 3_000,
            }],
        }
    }
}

#[cfg(test)]
impl ReferenceReport {
    /// Some values for every field.
    pub(crate) fn sample(name: &'static str) -> Self {
        Self {
            name,
            about: "what could have been",
            hit_rate: 0.875,
            dip_points: 2.5,
            worst_second_hit_rate: 0.7,
            ahead_points: 1.25,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    /// Plan: serialise a report with one arm and one restart; at each level the fields must be the documented ones, no more
    /// and no fewer. (`workload` is open.)
    #[test]
    fn the_json_has_exactly_the_documented_fields() {
        let report = Report {
            workload: WorkloadReport::sample(),
            state_bytes: 1,
            arms: vec![ArmReport::sample("transfer")],
            references: vec![ReferenceReport::sample("oracle")],
            verdict: Verdict::Inconclusive,
            reasons: vec!["told to people only".to_owned()],
            notes: vec!["likewise".to_owned()],
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            keys(&json),
            ["arms", "references", "state_bytes", "verdict", "workload"]
        );
        let reference = "ahead_points dip_points hit_rate name worst_second_hit_rate";
        assert_eq!(
            keys(&json["references"][0]),
            reference.split(' ').collect::<Vec<_>>()
        );
        assert_eq!(json["verdict"], "inconclusive");
        let arm = &json["arms"][0];
        let documented = "avoidable_misses dip_points errors max_stall_ms moved_bytes moved_entries name outcome_unknown \
                          restarts served_again_ms stale_reads whole window worst_second_hit_rate writes_unavailable";
        assert_eq!(keys(arm), documented.split_whitespace().collect::<Vec<_>>());
        let window = "backend_loads gets hit_rate ops_per_second p50_us p999_us p99_us";
        assert_eq!(keys(&arm["whole"]), window.split(' ').collect::<Vec<_>>());
        assert_eq!(keys(&arm["window"]), window.split(' ').collect::<Vec<_>>());
        assert_eq!(keys(&arm["restarts"][0]), ["absent_ms", "drain_ms", "node"]);
    }

    #[test]
    fn only_a_broken_limit_is_an_exit_code() {
        for (verdict, code) in [(Verdict::Pass, 0), (Verdict::Inconclusive, 0), (Verdict::Fail, 1)] {
            let report = Report {
                workload: WorkloadReport::sample(),
                state_bytes: 0,
                arms: Vec::new(),
                references: Vec::new(),
                verdict,
                reasons: Vec::new(),
                notes: Vec::new(),
            };
            assert_eq!(report.exit_code(), code);
        }
    }
}
