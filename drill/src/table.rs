//! The final table: one column per arm, one row per figure.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::choreography::Move;
use crate::report::{ArmReport, ReferenceReport, Report, Verdict};

/// A figure's name and how an arm shows it.
type Row = (&'static str, fn(&ArmReport, &Report) -> String);

const ROWS: [Row; 19] = [
    ("gets", |arm, _| count(arm.window.gets)),
    ("hit rate", |arm, _| percent(arm.window.hit_rate)),
    ("dip, points", |arm, _| {
        if arm.name == "control" {
            dash()
        } else {
            format!("{:+.3}", arm.dip_points)
        }
    }),
    ("worst second", |arm, _| percent(arm.worst_second_hit_rate)),
    ("avoidable misses", |arm, report| {
        let has_control = report.arm("control").is_some();
        if has_control && report.workload.memory_ample && arm.name != "control" {
            count(arm.avoidable_misses)
        } else {
            dash()
        }
    }),
    ("backend loads", |arm, _| count(arm.window.backend_loads)),
    ("operations/s", |arm, _| {
        format!("{:.0}", arm.window.ops_per_second)
    }),
    ("p50", |arm, _| micros(arm.window.p50_us)),
    ("p99", |arm, _| micros(arm.window.p99_us)),
    ("p99.9", |arm, _| micros(arm.window.p999_us)),
    ("longest stall", |arm, _| format!("{} ms", arm.max_stall_ms)),
    ("all served again", |arm, _| {
        restarted(arm, || format!("{} ms", arm.served_again_ms))
    }),
    ("stale reads", |arm, _| count(arm.stale_reads)),
    ("errors", |arm, _| count(arm.errors)),
    ("writes refused", |arm, _| count(arm.writes_unavailable)),
    ("outcome unknown", |arm, _| count(arm.outcome_unknown)),
    ("entries moved", |arm, _| {
        restarted(arm, || count(arm.moved_entries))
    }),
    ("bytes moved", |arm, _| restarted(arm, || bytes(arm.moved_bytes))),
    ("drains", |arm, _| restarted(arm, || drains(arm))),
];

/// The rows as text, shared with the HTML report; without those that say nothing of any arm.
pub(crate) fn rows(report: &Report) -> impl Iterator<Item = (&'static str, Vec<String>)> {
    ROWS.iter().filter_map(|(name, cell)| {
        let cells: Vec<_> = report.arms.iter().map(|arm| cell(arm, report)).collect();
        let says_something = cells.iter().any(|cell| *cell != dash());
        says_something.then_some((*name, cells))
    })
}

/// A figure's name and how a reference shows it.
pub(crate) type ReferenceColumn = (&'static str, fn(&ReferenceReport) -> String);

/// The columns of the references' table, shared with the HTML report.
pub(crate) const REFERENCE_COLUMNS: [ReferenceColumn; 5] = [
    ("computed", |line| line.name.to_owned()),
    ("hit rate", |line| percent(line.hit_rate)),
    ("dip, points", |line| format!("{:+.3}", line.dip_points)),
    ("worst second", |line| percent(line.worst_second_hit_rate)),
    ("ahead of transfer, points", |line| {
        format!("{:+.3}", line.ahead_points)
    }),
];

/// The table as text, with the verdict and what it rests on.
pub(crate) fn render(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_header(
        [String::from("in the window")]
            .into_iter()
            .chain(report.arms.iter().map(|arm| arm.name.to_owned())),
    );
    for (name, cells) in rows(report) {
        table.add_row([name.to_owned()].into_iter().chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{}\n{table}\n", summary(report));
    if !report.references.is_empty() {
        text += &format!("{}\n", references(report));
    }
    for reference in &report.references {
        text += &format!("{}: {}\n", reference.name, reference.about);
    }
    text + &ending(&report.notes, report.verdict, &report.reasons)
}

/// What to know beside the figures, and the verdict with what it rests on.
pub(crate) fn ending(notes: &[String], verdict: Verdict, reasons: &[String]) -> String {
    let mut text = String::new();
    for note in notes {
        text += &format!("{note}\n");
    }
    text + &format!("verdict: {} ({})", verdict.as_str(), reasons.join("; "))
}

/// What could have been reached, as rows: there are more of them than fit beside the arms.
fn references(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_header(REFERENCE_COLUMNS.map(|(name, _)| name));
    for reference in &report.references {
        table.add_row(REFERENCE_COLUMNS.map(|(_, cell)| cell(reference)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// One sentence on what was run.
pub(crate) fn summary(report: &Report) -> String {
    let load = &report.workload;
    let nodes = load.nodes.map_or_else(
        || "a standing cluster".to_owned(),
        |nodes| format!("{nodes} nodes"),
    );
    let memory = match load.memory_per_node_bytes {
        Some(limit) => format!(
            ", {} each{}",
            bytes(limit),
            if load.memory_ample { " (ample)" } else { "" }
        ),
        None => String::new(),
    };
    let state = if report.state_bytes > 0 {
        format!("; {} held", bytes(report.state_bytes))
    } else {
        String::new()
    };
    format!(
        "{}: {} keys, {} requests/s, seed {}; {nodes}{memory}, restart: {}{state}",
        load.name,
        count(u64::from(load.keys)),
        count(u64::from(load.rate_per_second)),
        load.seed,
        load.restart,
    )
}

/// What one restart moved, in a sentence.
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
pub(crate) fn told(one: &Move) -> String {
    // The nodes' reports of what they hold lag a little behind what they hand over.
    let part = (100.0 * one.moved.entries as f64 / one.held_entries.max(1) as f64).min(100.0);
    let seconds = one.drain_ms.max(1) as f64 / 1_000.0;
    format!(
        "{} handed over {part:.0}% of its entries ({}) in {} ms: {:.1} MB/s",
        one.node,
        bytes(one.moved.bytes),
        one.drain_ms,
        one.moved.bytes as f64 / 1e6 / seconds,
    )
}

fn restarted(arm: &ArmReport, text: impl FnOnce() -> String) -> String {
    if arm.restarts.is_empty() { dash() } else { text() }
}

fn drains(arm: &ArmReport) -> String {
    let times: Vec<_> = arm
        .restarts
        .iter()
        .map(|restart| restart.drain_ms.to_string())
        .collect();
    if times.len() > 4 {
        let longest = arm
            .restarts
            .iter()
            .map(|restart| restart.drain_ms)
            .max()
            .unwrap_or(0);
        return format!("{} of up to {longest} ms", times.len());
    }
    format!("{} ms", times.join(", "))
}

fn dash() -> String {
    "-".to_owned()
}

/// Of a part of 1.
pub(crate) fn percent(part: f64) -> String {
    format!("{:.2}%", 100.0 * part)
}

/// With commas.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn bytes(bytes: u64) -> String {
    let size = bytes as f64;
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", size / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", size / 1_048_576.0),
        _ => format!("{:.2} GiB", size / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ReferenceReport, Verdict, WorkloadReport};

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(micros(999), "999 us");
        assert_eq!(micros(1_500), "1.50 ms");
        assert_eq!(bytes(3 << 30), "3.00 GiB");
    }

    #[test]
    fn the_table_has_every_arm_and_the_verdict() {
        let report = Report {
            workload: WorkloadReport::sample(),
            state_bytes: 5 << 20,
            arms: vec![
                ArmReport::sample("control"),
                ArmReport {
                    dip_points: 0.04,
                    ..ArmReport::sample("transfer")
                },
            ],
            references: vec![ReferenceReport::sample("oracle")],
            verdict: Verdict::Pass,
            reasons: vec!["all held".to_owned()],
            notes: vec!["n1 handed over".to_owned()],
        };
        let text = render(&report);
        for part in [
            "control",
            "transfer",
            "+0.040",
            "90.00%",
            "verdict: pass (all held)",
            "5.0 MiB held",
            "oracle",
            "+1.25",
            "oracle: what could have been",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
