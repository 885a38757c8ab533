//! The drill's flags, for `softstore drill`.

use std::path::PathBuf;

use clap::Args;

use crate::error::OptionsError;
use crate::hot_key::HotKeyOptions;
use crate::options::{ArmName, DrillOptions, PullOrder, RestartMode, Scenario};
use crate::workload::{Mix, Preset, WorkloadSpec};

/// Restart every node of a cluster under load, or make a key hot, and judge what that costs.
///
/// Without flags: three nodes on this machine, 10,000 requests a second, one rolling restart with state transfer and one
/// without, each beside a run without restarts. Takes under three minutes. With --scenario hot-key: a key takes half of all
/// reads, beside a run without it; under two minutes. docs/drill.md defines every figure.
#[derive(Debug, Clone, Args)]
pub struct DrillArgs {
    /// What happens to the cluster: every node is restarted, or a key becomes hot.
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Scenario::Restart)]
    pub scenario: Scenario,
    /// Nodes of each cluster.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub nodes: usize,
    /// How each node is restarted.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = RestartMode::Rolling)]
    pub restart: RestartMode,
    /// Seconds that a node stays away.
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    pub absent_s: f64,
    /// Milliseconds that an empty node waits to take whole what drains next, before it is filled.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub rebalance_delay_ms: u64,
    /// Each node's memory, in bytes or as 64MiB. The report then tells what an ideal cache of so much memory reaches. Default:
    /// ample, so that one node could hold everything twice.
    #[arg(long, value_name = "SIZE")]
    pub memory_per_node: Option<String>,
    /// Milliseconds that a drain may take. The report then tells what an oracle would have kept (not with --memory-per-node).
    /// Default: the node's own (25,000).
    #[arg(long, value_name = "MS")]
    pub drain_deadline_ms: Option<u64>,
    /// In which order a new owner pulls.
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = PullOrder::Hottest)]
    pub pull_order: PullOrder,
    /// Which arms to run. `control` is needed, and one that restarts.
    #[arg(long, value_name = "ARM,..", value_enum, value_delimiter = ',', default_values_t = ArmName::ALL)]
    pub arms: Vec<ArmName>,

    /// The load, named by its shape.
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Preset::Default, help_heading = "Load")]
    pub workload: Preset,
    /// Replay this recorded load: 4-byte ids, or CSV of time,key,size,op,ttl if its name ends in .csv; plain or xz.
    #[arg(long, value_name = "FILE", help_heading = "Load")]
    pub trace: Option<PathBuf>,
    /// Requests a second, whether or not the cluster keeps up.
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Load")]
    pub rate: u32,
    /// Most requests in flight at once.
    #[arg(long, value_name = "N", default_value_t = 16_384, help_heading = "Load")]
    pub in_flight: usize,
    /// Seed of the sequence.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    pub seed: u64,
    /// Distinct keys. Default: 50,000.
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub keys: Option<u32>,
    /// Zipf's exponent, 0 for uniform. Default: the workload's.
    #[arg(long, value_name = "ALPHA", help_heading = "Load")]
    pub zipf: Option<f64>,
    /// Bytes of a key. Default: the workload's.
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub key_bytes: Option<usize>,
    /// Median bytes of a value. Default: the workload's.
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub value_bytes_median: Option<u32>,
    /// reads:writes:deletes. Default: the workload's.
    #[arg(long, value_name = "R:W:D", help_heading = "Load")]
    pub mix: Option<String>,
    /// Seconds that values live, 0 for ever. Default: the workload's.
    #[arg(long, value_name = "S", help_heading = "Load")]
    pub ttl_s: Option<u64>,
    /// Requests before anything is measured. Default: four per key; of a trace its first 40%.
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub warm_up_requests: Option<u64>,
    /// Seconds of load before the first restart, or before the key is hot. Default: 2; hot-key: 10.
    #[arg(long, value_name = "S", help_heading = "Load")]
    pub lead_in_s: Option<f64>,
    /// Milliseconds that a load from the backend takes.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = "Load")]
    pub load_ms: u64,

    /// Part of all reads that the key takes. Default: 0.5.
    #[arg(long, value_name = "PART", help_heading = "Hot key")]
    pub hot_share: Option<f64>,
    /// How often a second it is written meanwhile. Default: 100.
    #[arg(long, value_name = "N", help_heading = "Hot key")]
    pub hot_writes_per_s: Option<u32>,
    /// Seconds that it is hot. Default: 20.
    #[arg(long, value_name = "S", help_heading = "Hot key")]
    pub hot_s: Option<f64>,
    /// Seconds of load after that. Default: 10.
    #[arg(long, value_name = "S", help_heading = "Hot key")]
    pub cool_s: Option<f64>,
    /// Fail if it takes longer until the key has a slice of its own. Default: 3,000.
    #[arg(long, value_name = "MS", help_heading = "Hot key")]
    pub max_isolated_ms: Option<u64>,
    /// Fail if it takes longer until reads of the key are spread over nodes. Default: 5,000.
    #[arg(long, value_name = "MS", help_heading = "Hot key")]
    pub max_spread_ms: Option<u64>,
    /// Fail if fewer percent of the key's writes are acknowledged. Default: 99.
    #[arg(long, value_name = "PERCENT", help_heading = "Hot key")]
    pub min_hot_writes: Option<f64>,

    /// Drive this standing cluster, which its operator restarts, instead of starting one.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "HOST:PORT",
        help_heading = "Standing cluster"
    )]
    pub seeds: Vec<String>,
    /// Seconds of load before the operator is asked to restart.
    #[arg(
        long,
        value_name = "S",
        default_value_t = 10.0,
        help_heading = "Standing cluster"
    )]
    pub baseline_s: f64,
    /// Seconds of load after that.
    #[arg(
        long,
        value_name = "S",
        default_value_t = 60.0,
        help_heading = "Standing cluster"
    )]
    pub duration_s: f64,

    /// Fail if the transfer arm (hot-key: what is not the hot key, or the key itself) loses more points of hit rate. Default: 1, or unlimited where a loss is inherent (kill, tight
    /// memory, a drain deadline, shuffled order).
    #[arg(long, value_name = "POINTS", help_heading = "Verdict and reports")]
    pub max_dip: Option<f64>,
    /// Fail if an arm has more errors.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Verdict and reports"
    )]
    pub max_errors: u64,
    /// Fail if an arm has more stale reads.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Verdict and reports"
    )]
    pub max_stale: u64,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE", help_heading = "Verdict and reports")]
    pub json: Option<PathBuf>,
    /// Write the report with charts as one HTML file.
    #[arg(long, value_name = "FILE", help_heading = "Verdict and reports")]
    pub report: Option<PathBuf>,
    /// Keep the processes' logs in this folder. Default: a temporary one, kept only when the drill cannot end.
    #[arg(long, value_name = "DIR", help_heading = "Verdict and reports")]
    pub log_dir: Option<PathBuf>,
    /// Print nothing but errors.
    #[arg(long, short, help_heading = "Verdict and reports")]
    pub quiet: bool,
}

impl TryFrom<DrillArgs> for DrillOptions {
    type Error = OptionsError;

    fn try_from(args: DrillArgs) -> Result<Self, OptionsError> {
        let lead_in_ms = match args.scenario {
            Scenario::Restart => Self::default().lead_in_ms,
            Scenario::HotKey => HotKeyOptions::LEAD_IN_MS,
        };
        let options = Self {
            scenario: args.scenario,
            hot_key: hot_key(&args)?,
            nodes: args.nodes,
            workload: workload(&args)?,
            trace: args.trace,
            rate_per_second: args.rate,
            in_flight_max: args.in_flight,
            seed: args.seed,
            warm_up_requests: args.warm_up_requests,
            restart: args.restart,
            absent_ms: millis("absent-s", args.absent_s)?,
            lead_in_ms: args
                .lead_in_s
                .map_or(Ok(lead_in_ms), |seconds| millis("lead-in-s", seconds))?,
            rebalance_delay_ms: args.rebalance_delay_ms,
            memory_per_node_bytes: args
                .memory_per_node
                .map(|text| size("memory-per-node", &text))
                .transpose()?,
            drain_deadline_ms: args.drain_deadline_ms,
            pull_order: args.pull_order,
            load_ms: args.load_ms,
            arms: args.arms,
            dip_points_max: args.max_dip,
            errors_max: args.max_errors,
            stale_reads_max: args.max_stale,
            seeds: args.seeds,
            duration_ms: millis("duration-s", args.duration_s)?,
            baseline_ms: millis("baseline-s", args.baseline_s)?,
            log_dir: args.log_dir,
            json: args.json,
            report: args.report,
            quiet: args.quiet,
            ..Self::default()
        };
        options.validate()?;
        Ok(options)
    }
}

fn hot_key(args: &DrillArgs) -> Result<HotKeyOptions, OptionsError> {
    let given = [
        ("hot-share", args.hot_share.is_some()),
        ("hot-writes-per-s", args.hot_writes_per_s.is_some()),
        ("hot-s", args.hot_s.is_some()),
        ("cool-s", args.cool_s.is_some()),
        ("max-isolated-ms", args.max_isolated_ms.is_some()),
        ("max-spread-ms", args.max_spread_ms.is_some()),
        ("min-hot-writes", args.min_hot_writes.is_some()),
    ];
    if let (Scenario::Restart, Some((option, _))) = (args.scenario, given.iter().find(|(_, given)| *given)) {
        return Err(OptionsError::Conflict {
            option,
            with: "--scenario restart",
            because: "no key becomes hot; add --scenario hot-key",
        });
    }
    let defaults = HotKeyOptions::default();
    let ms = |option, seconds: Option<f64>, default_ms| {
        seconds.map_or(Ok(default_ms), |seconds| millis(option, seconds))
    };
    Ok(HotKeyOptions {
        share: args.hot_share.unwrap_or(defaults.share),
        writes_per_second: args.hot_writes_per_s.unwrap_or(defaults.writes_per_second),
        hot_ms: ms("hot-s", args.hot_s, defaults.hot_ms)?,
        cool_ms: ms("cool-s", args.cool_s, defaults.cool_ms)?,
        isolated_ms_max: args.max_isolated_ms.unwrap_or(defaults.isolated_ms_max),
        spread_ms_max: args.max_spread_ms.unwrap_or(defaults.spread_ms_max),
        writes_percent_min: args.min_hot_writes.unwrap_or(defaults.writes_percent_min),
    })
}

fn workload(args: &DrillArgs) -> Result<WorkloadSpec, OptionsError> {
    let preset = WorkloadSpec::preset(args.workload);
    let ttl_ms = args.ttl_s.map(|ttl_s| ttl_s.saturating_mul(1_000));
    Ok(WorkloadSpec {
        keys: args.keys.unwrap_or(preset.keys),
        zipf_alpha: args.zipf.unwrap_or(preset.zipf_alpha),
        key_bytes: args.key_bytes.unwrap_or(preset.key_bytes),
        value_bytes_median: args.value_bytes_median.unwrap_or(preset.value_bytes_median),
        mix: args.mix.as_deref().map_or(Ok(preset.mix), Mix::parse)?,
        ttl_ms_min: ttl_ms.unwrap_or(preset.ttl_ms_min),
        ttl_ms_max: ttl_ms.unwrap_or(preset.ttl_ms_max),
        ..preset
    })
}

/// Seconds, at most a year of them, as whole milliseconds.
fn millis(option: &'static str, seconds: f64) -> Result<u64, OptionsError> {
    const YEAR_S: f64 = 31_536_000.0;
    if !(0.0..=YEAR_S).contains(&seconds) {
        let (value, min, max) = (seconds.to_string(), "0".to_owned(), YEAR_S.to_string());
        return Err(OptionsError::OutOfRange {
            option,
            value,
            min,
            max,
        });
    }
    let duration = std::time::Duration::from_secs_f64(seconds);
    Ok(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn size(option: &'static str, text: &str) -> Result<u64, OptionsError> {
    let lower = text.trim().to_ascii_lowercase();
    let units = [("gib", 30), ("mib", 20), ("kib", 10), ("b", 0)];
    let (digits, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| lower.strip_suffix(unit).map(|digits| (digits, shift)))
        .unwrap_or((&lower, 0));
    let number = digits
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| OptionsError::Size {
        option,
        value: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn options(flags: &[&str]) -> Result<DrillOptions, OptionsError> {
        let command = DrillArgs::augment_args(Command::new("drill"));
        let matches = command
            .try_get_matches_from([&["drill"], flags].concat())
            .unwrap();
        DrillArgs::from_arg_matches(&matches).unwrap().try_into()
    }

    #[test]
    fn no_flags_are_the_defaults() {
        assert_eq!(options(&[]), Ok(DrillOptions::default()));
    }

    #[test]
    fn flags_override_the_preset() {
        let options = options(&[
            "--workload=write-heavy",
            "--keys=7",
            "--ttl-s=9",
            "--memory-per-node=64MiB",
        ])
        .unwrap();
        assert_eq!((options.workload.keys, options.workload.ttl_ms_max), (7, 9_000));
        assert_eq!(options.workload.mix, WorkloadSpec::preset(Preset::WriteHeavy).mix);
        assert_eq!(options.memory_per_node_bytes, Some(64 << 20));
    }

    /// Plan: the other scenario has its own defaults of what both have, and refuses what it cannot do.
    #[test]
    fn a_hot_key_has_defaults_and_refusals_of_its_own() {
        let hot = options(&["--scenario=hot-key"]).unwrap();
        assert_eq!(hot.hot_key, HotKeyOptions::default());
        assert_eq!(hot.lead_in_ms, 10_000);
        let longer = options(&["--scenario=hot-key", "--lead-in-s=30"]).unwrap();
        assert_eq!(longer.lead_in_ms, 30_000);
        for flag in [
            "--restart=kill",
            "--seeds=a:1",
            "--trace=f",
            "--arms=control,cold",
            "--absent-s=1",
            "--drain-deadline-ms=9000",
            "--pull-order=shuffled",
        ] {
            let refused = options(&["--scenario=hot-key", flag]);
            assert!(matches!(refused, Err(OptionsError::Conflict { .. })), "{flag}");
        }
        for flag in [
            "--hot-share=1",
            "--hot-share=NaN",
            "--nodes=1",
            "--hot-s=0.5",
            "--min-hot-writes=101",
        ] {
            let refused = options(&["--scenario=hot-key", flag]);
            assert!(matches!(refused, Err(OptionsError::OutOfRange { .. })), "{flag}");
        }
        // And a restart refuses what only a hot key has, at its default too.
        for flag in ["--hot-share=0.5", "--cool-s=1", "--min-hot-writes=99"] {
            let refused = options(&[flag]);
            assert!(matches!(refused, Err(OptionsError::Conflict { .. })), "{flag}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        assert!(matches!(options(&["--mix=1"]), Err(OptionsError::Mix(_))));
        assert!(matches!(
            options(&["--memory-per-node=lots"]),
            Err(OptionsError::Size { .. })
        ));
        assert!(matches!(
            options(&["--absent-s=NaN"]),
            Err(OptionsError::OutOfRange { .. })
        ));
        assert!(matches!(
            options(&["--rate=0"]),
            Err(OptionsError::OutOfRange { .. })
        ));
    }
}
