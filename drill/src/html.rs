//! The report as one HTML file without scripts or outside parts: verdict, charts over time, table, settings.

use std::fmt::Write;

use crate::arm::{ArmRun, MarkKind};
use crate::chart::{Chart, Line, Moment, escape};
use crate::judge::{Second, seconds};
use crate::options::ArmName;
use crate::pace::Rate;
use crate::reference::Reference;
use crate::report::Report;
use crate::table::{self, REFERENCE_COLUMNS};

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#667;--grid:#e3e6ea;--control:#7a828c;--transfer:#0b6bcb;--cold:#c8321e;--reference:#2e8540}\
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e6e9ec;--dim:#98a1ab;--grid:#2b3137;--control:#99a3ad;\
--transfer:#5db0ff;--cold:#ff7a66;--reference:#6fc586}}\
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0 auto;padding:16px;max-width:1040px}\
h1{font-size:1.35em;margin:.2em 0}h2{font-size:1.05em;margin:1.2em 0 .2em}p{margin:.4em 0}.dim{color:var(--dim)}\
.verdict{display:inline-block;padding:0 .6em;border-radius:.4em;border:1px solid currentColor;font-weight:600}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:8px 24px}\
svg{width:100%;height:auto;display:block}.grid{stroke:var(--grid)}.tick{fill:var(--dim);font-size:11px}\
.end{text-anchor:end}.middle{text-anchor:middle}.arm{fill:none;stroke-width:1.8;stroke-linejoin:round}\
.control,.control2{--c:var(--control)}.transfer{--c:var(--transfer)}.cold{--c:var(--cold)}\
.reference{--c:var(--reference)}\
.arm,.moment{stroke:var(--c)}.control2.arm{stroke-dasharray:2 3}.moment{stroke-dasharray:3 3;opacity:.55}\
text.transfer,text.cold{fill:var(--c)}.key{display:inline-block;margin-right:1em;color:var(--c)}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.15em .8em;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}th:first-child,\
td:first-child{text-align:left;padding-left:0}pre{overflow-x:auto;font-size:12px}\
details{margin:1em 0}ul{padding-left:1.2em}@media(max-width:480px){.tick{font-size:13px}\
table{font-size:12px}th,td{padding:.15em .3em;white-space:normal}td:not(:first-child){min-width:3.6em}}";

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
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>softstore drill: {0}</title><style>{STYLE}</style></head><body>\
         <h1>softstore drill <span class=\"verdict {1}\">{0}</span></h1><p>{2}</p><p class=\"dim\">{3}</p>",
        report.verdict.as_str(),
        if report.verdict.as_str() == "fail" {
            "cold"
        } else {
            "transfer"
        },
        escape(&report.reasons.join("; ")),
        escape(&table::summary(report)),
    );
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
    page += "</p><div class=\"charts\">";
    for chart in charts(judged) {
        let _ = write!(
            page,
            "<section><h2>{}</h2>{}</section>",
            escape(chart.title),
            chart.svg()
        );
    }
    let moments = if report.workload.nodes.is_some() {
        "a node of the transfer arm (named) or of the cold arm gets its signal"
    } else {
        "the operator is asked to restart the nodes"
    };
    let _ = write!(
        page,
        "</div><p class=\"dim\">Dashed vertical lines: {moments}. Seconds count from the end of the warm-up.</p>"
    );
    write_table(report, &mut page);
    write_messages(runs, &mut page);
    let json = serde_json::to_string_pretty(report).unwrap_or_default();
    let _ = write!(
        page,
        "<details><summary>All figures and settings (JSON)</summary><pre>{}</pre></details></body></html>",
        escape(&json)
    );
    page
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
        },
        Chart {
            title: "p99 latency, all operations",
            lines: lines(|second| Some(float(second.p99_us) / 1e3)),
            moments: moments(runs, rate),
            from_zero: true,
            ceiling: None,
            unit: " ms",
        },
        Chart {
            title: "Backend loads a second",
            lines: lines(|second| Some(float(second.backend_loads))),
            moments: moments(runs, rate),
            from_zero: true,
            ceiling: None,
            unit: "",
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
