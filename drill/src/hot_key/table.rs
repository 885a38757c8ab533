//! The scenario's result for a terminal: the moments, and what each phase was like in both arms.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::hot_key::report::{HotKeyReport, PhaseReport};
use crate::table::{count, ending, micros, percent};

/// A phase's figure: its name, and how the report shows it.
pub(crate) type Column = (&'static str, fn(&PhaseReport) -> String);

/// The columns of the phases' table, shared with the HTML report.
pub(crate) const COLUMNS: [Column; 9] = [
    ("phase", |phase| phase.name.replace('_', " ")),
    ("seconds", |phase| {
        format!("{:.1}-{:.1}", seconds(phase.from_ms), seconds(phase.to_ms))
    }),
    ("hit rate", |phase| percent(phase.hot.hit_rate)),
    ("control", |phase| percent(phase.control.hit_rate)),
    ("p50", |phase| micros(phase.hot.p50_us)),
    ("p99", |phase| micros(phase.hot.p99_us)),
    ("control", |phase| micros(phase.control.p99_us)),
    ("p99.9", |phase| micros(phase.hot.p999_us)),
    ("control", |phase| micros(phase.control.p999_us)),
];

/// The figures of the whole, shared with the HTML report.
pub(crate) fn figures(report: &HotKeyReport) -> Vec<(&'static str, String)> {
    let (moments, limits) = (&report.moments, &report.settings);
    let (reads, writes) = (&report.hot_reads, &report.hot_writes);
    let after =
        |took_ms: Option<u64>| took_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ms", count(ms)));
    let within = |took_ms, limit_ms| format!("{} (limit {} ms)", after(took_ms), count(limit_ms));
    let part = |part: Option<f64>| part.map_or_else(|| "-".to_owned(), percent);
    vec![
        (
            "isolated after",
            within(moments.isolated_ms, limits.max_isolated_ms),
        ),
        ("replicas after", after(moments.replicated_ms)),
        ("spread after", within(moments.spread_ms, limits.max_spread_ms)),
        (
            "read by",
            format!(
                "{} nodes at most; the busiest answers {}",
                reads.readers_max,
                part(reads.largest_part_after_spread)
            ),
        ),
        ("without replicas after the fall", after(moments.dereplicated_ms)),
        ("slice shared after the fall", after(moments.merged_ms)),
        (
            "reads of the key",
            format!(
                "{}, {} hits, p50 {}, p99 {}, p99.9 {}",
                count(reads.reads),
                percent(reads.hit_rate),
                micros(reads.p50_us),
                micros(reads.p99_us),
                micros(reads.p999_us)
            ),
        ),
        (
            "writes of the key",
            format!(
                "{} of {} acknowledged, p50 {}, p99 {}, longest {}",
                count(writes.acknowledged),
                count(writes.writes),
                micros(writes.p50_us),
                micros(writes.p99_us),
                micros(writes.max_us)
            ),
        ),
        ("dip of all else, points", format!("{:+.3}", report.dip_points)),
        (
            "imbalance",
            format!(
                "before {}, worst second {}, after spread {}, cooling {}",
                part(report.imbalance.before),
                part(report.imbalance.worst_second),
                part(report.imbalance.after_spread),
                part(report.imbalance.cooling)
            ),
        ),
        ("stale reads", count(report.stale_reads)),
        ("errors", count(report.errors)),
        (
            "writes refused, outcome unknown",
            format!(
                "{}, {}",
                count(report.writes_unavailable),
                count(report.outcome_unknown)
            ),
        ),
    ]
}

/// One sentence on what was run.
pub(crate) fn summary(report: &HotKeyReport) -> String {
    let settings = &report.settings;
    format!(
        "hot-key: {} keys, {} requests/s, seed {}, {} nodes; one key takes {} of reads for {} s and is written {} times a second",
        count(u64::from(settings.keys)),
        count(u64::from(settings.rate_per_second)),
        settings.seed,
        settings.nodes,
        percent(settings.hot_share),
        seconds(settings.hot_ms),
        settings.hot_writes_per_second,
    )
}

/// The tables as text, with the verdict and what it rests on.
pub(crate) fn render(report: &HotKeyReport) -> String {
    let mut figures_table = Table::new();
    figures_table.load_preset(UTF8_BORDERS_ONLY);
    for (name, figure) in figures(report) {
        figures_table.add_row([name.to_owned(), figure]);
    }
    let mut phases = Table::new();
    phases.load_preset(UTF8_BORDERS_ONLY);
    phases.set_header(COLUMNS.map(|(name, _)| name));
    for phase in &report.phases {
        phases.add_row(COLUMNS.map(|(_, cell)| cell(phase)));
    }
    for column in phases.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let ending = ending(&report.notes, report.verdict, &report.reasons);
    format!("{}\n{figures_table}\n{phases}\n{ending}", summary(report))
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
