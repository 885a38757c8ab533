//! The report as one HTML file without scripts or outside parts: verdict, charts over time, table, settings.

use std::fmt::Write;

use crate::arm::{ArmRun, MarkKind};
use crate::chart::{Chart, Line, Moment, escape};
use crate::judge::{Second, seconds};
use crate::options::ArmName;
use crate::pace::Rate;
use crate::page;
use crate::reference::Reference;
use crate::report::Report;
use crate::table::{self, REFERENCE_COLUMNS};

/// What a page tells of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged<'a> {
    pub(crate) report: &'a Report,
    pub(crate) runs: &'a [ArmRun],
    /// As in the report, in its order.
    pub(crate) references: &'a [Reference],
    pub(crate) rate: Rate,
}

impl<'a> Judged<'a> {
    fn drawn(&self) -> Option<&'a Reference> {
        self.references.iter().find(|reference| reference.is_drawn)
    }
}

/// The whole page.
pub(crate) fn page(judged: &Judged<'_>) -> String {
    let Judged { report, runs, .. } = *judged;
    let summary = table::summary(report);
    let mut page = page::head("softstore drill", report.verdict, &report.reasons, &summary);
    page += "<p>";
    for run in runs {
        let _ = write!(
            page,
            "<span class=\"key {0}\">{1} {0}</span>",
            run.name.as_str(),
            if run.name == ArmName::Control2 {
                "&#9476;"
            } else {
                "&#9632;"
            }
        );
    }
    if let Some(drawn) = judged.drawn() {
        let _ = write!(
            page,
            "<span class=\"key reference\">&#9632; {} (computed)</span>",
            drawn.name
        );
    }
    page += "</p>";
    page += &page::charts(&charts(judged));
    let moments = if report.workload.nodes.is_some() {
        "a node of the transfer arm (named) or of the cold arm gets its signal"
    } else {
        "the operator is asked to restart the nodes"
    };
    let _ = write!(
        page,
        "<p class=\"dim\">Dashed vertical lines: {moments}. Seconds count from the end of the warm-up.</p>"
    );
    write_table(report, &mut page);
    write_messages(runs, &mut page);
    page + &page::json("All figures and settings", false, report)
}

/// Of the references one, and in the hit rate's chart only: they have no latency, and their loads are their misses.
fn charts(judged: &Judged<'_>) -> [Chart; 3] {
    let Judged { runs, rate, .. } = *judged;
    let line = |class, records: &[_], value: fn(&Second) -> Option<f64>| Line {
        class,
        values: seconds(records, &(0..records.len()), rate)
            .iter()
            .map(value)
            .collect(),
    };
    let hit_rate: fn(&Second) -> Option<f64> = |second| second.hit_rate.map(|rate| 100.0 * rate);
    let reference = judged
        .drawn()
        .map(|drawn| line("reference", &drawn.records, hit_rate));
    let lines = |value: fn(&Second) -> Option<f64>| {
        let of = |run: &ArmRun| line(run.name.as_str(), &run.records, value);
        runs.iter().map(of).collect::<Vec<_>>()
    };
    [
        Chart {
            title: "Hit rate",
            lines: lines(hit_rate).into_iter().chain(reference).collect(),
            moments: moments(runs, rate),
            from_zero: false,
            ceiling: Some(100.0),
            unit: "%",
            time_unit: " s",
        },
        Chart {
            title: "p99 latency, all operations",
            lines: lines(|second| Some(float(second.p99_us) / 1e3)),
            moments: moments(runs, rate),
            from_zero: true,
            ceiling: None,
            unit: " ms",
            time_unit: " s",
        },
        Chart {
            title: "Backend loads a second",
            lines: lines(|second| Some(float(second.backend_loads))),
            moments: moments(runs, rate),
            from_zero: true,
            ceiling: None,
            unit: "",
            time_unit: " s",
        },
    ]
}

fn float(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn moments(runs: &[ArmRun], rate: Rate) -> Vec<Moment> {
    let of = |run: &ArmRun| {
        let class = run.name.as_str();
        let moment = |mark: &crate::arm::Mark| Moment {
            class,
            // The names of both arms would lie on top of each other.
            label: if class == "transfer" {
                mark.node.clone()
            } else {
                String::new()
            },
            second: float(rate.due_us(mark.position) / 1_000) / 1_000.0,
        };
        run.marks
            .iter()
            .filter(|mark| mark.kind == MarkKind::Signalled)
            .map(moment)
            .collect::<Vec<_>>()
    };
    runs.iter().flat_map(of).collect()
}

fn write_table(report: &Report, page: &mut String) {
    *page += "<h2>In the window</h2><div class=\"scroll\"><table><tr><th></th>";
    for arm in &report.arms {
        let _ = write!(page, "<th>{}</th>", arm.name);
    }
    *page += "</tr>";
    for (name, cells) in table::rows(report) {
        let _ = write!(page, "<tr><td>{name}</td>");
        for cell in cells {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        *page += "</tr>";
    }
    *page += "</table></div>";
    write_references(report, page);
    for note in &report.notes {
        let _ = write!(page, "<p>{}</p>", escape(note));
    }
}

fn write_references(report: &Report, page: &mut String) {
    if report.references.is_empty() {
        return;
    }
    *page += "<h2>What could have been reached</h2><div class=\"scroll\"><table><tr>";
    for (name, _) in REFERENCE_COLUMNS {
        let _ = write!(page, "<th>{name}</th>");
    }
    *page += "</tr>";
    for reference in &report.references {
        *page += "<tr>";
        for (_, cell) in REFERENCE_COLUMNS {
            let _ = write!(page, "<td>{}</td>", escape(&cell(reference)));
        }
        *page += "</tr>";
    }
    *page += "</table></div><ul>";
    for reference in &report.references {
        let _ = write!(page, "<li>{}: {}</li>", reference.name, escape(reference.about));
    }
    *page += "</ul>";
}

fn write_messages(runs: &[ArmRun], page: &mut String) {
    for run in runs.iter().filter(|run| !run.messages.is_empty()) {
        let _ = write!(
            page,
            "<h2>Faults of {}</h2><pre>{}</pre>",
            run.name.as_str(),
            escape(&run.messages.join("\n"))
        );
    }
}
