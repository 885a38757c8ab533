//! The report as one HTML file without scripts or outside parts: verdict, charts over time, table, settings.

use std::fmt::Write;

use crate::arm::ArmRun;
use crate::chart::{Chart, Line, Moment, escape};
use crate::judge::{Second, seconds};
use crate::pace::Rate;
use crate::report::Report;
use crate::table::{self, ROWS};

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#667;--grid:#e3e6ea;--control:#7a828c;--transfer:#0b6bcb;--cold:#c8321e}\
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e6e9ec;--dim:#98a1ab;--grid:#2b3137;--control:#99a3ad;\
--transfer:#5db0ff;--cold:#ff7a66}}\
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0 auto;padding:16px;max-width:1040px}\
h1{font-size:1.35em;margin:.2em 0}h2{font-size:1.05em;margin:1.2em 0 .2em}p{margin:.4em 0}.dim{color:var(--dim)}\
.verdict{display:inline-block;padding:0 .6em;border-radius:.4em;border:1px solid currentColor;font-weight:600}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:8px 24px}\
svg{width:100%;height:auto;display:block}.grid{stroke:var(--grid)}.tick{fill:var(--dim);font-size:11px}\
.end{text-anchor:end}.middle{text-anchor:middle}.arm{fill:none;stroke-width:1.8;stroke-linejoin:round}\
.control,.control2{--c:var(--control)}.transfer{--c:var(--transfer)}.cold{--c:var(--cold)}\
.arm,.moment{stroke:var(--c)}.control2.arm{stroke-dasharray:2 3}.moment{stroke-dasharray:3 3;opacity:.55}\
text.transfer,text.cold{fill:var(--c)}.key{display:inline-block;margin-right:1em;color:var(--c)}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.15em .8em;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}th:first-child,\
td:first-child{text-align:left}pre{overflow-x:auto;font-size:12px}";

/// The whole page.
pub(crate) fn page(report: &Report, runs: &[ArmRun], rate: Rate) -> String {
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
            "<span class=\"key {0}\">&#9632; {0}</span>",
            run.name.as_str()
        );
    }
    page += "</p><div class=\"charts\">";
    for chart in charts(runs, rate) {
        let _ = write!(
            page,
            "<section><h2>{}</h2>{}</section>",
            escape(chart.title),
            chart.svg()
        );
    }
    page += "</div><p class=\"dim\">Dashed vertical lines: a node of the transfer arm (named) or of the cold arm gets its signal. \
             Seconds count from the end of the warm-up.</p>";
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

fn charts(runs: &[ArmRun], rate: Rate) -> [Chart; 3] {
    let lines = |value: fn(&Second) -> Option<f64>| {
        let line = |run: &ArmRun| Line {
            class: run.name.as_str(),
            values: seconds(&run.records, &(0..run.records.len()), rate)
                .iter()
                .map(value)
                .collect(),
        };
        runs.iter().map(line).collect::<Vec<_>>()
    };
    [
        Chart {
            title: "Hit rate",
            lines: lines(|second| second.hit_rate.map(|rate| 100.0 * rate)),
            moments: moments(runs, rate),
            from_zero: false,
            ceiling: Some(100.0),
            label: |value| format!("{value:.1}%"),
        },
        Chart {
            title: "p99 latency, all operations",
            lines: lines(|second| Some(float(second.p99_us))),
            moments: moments(runs, rate),
            from_zero: true,
            ceiling: None,
            label: |value| format!("{:.1} ms", value / 1e3),
        },
        Chart {
            title: "Backend loads a second",
            lines: lines(|second| Some(float(second.backend_loads))),
            moments: moments(runs, rate),
            from_zero: true,
            ceiling: None,
            label: |value| format!("{value:.0}"),
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
        run.marks.iter().map(moment).collect::<Vec<_>>()
    };
    runs.iter().flat_map(of).collect()
}

fn write_table(report: &Report, page: &mut String) {
    *page += "<h2>In the window</h2><div class=\"scroll\"><table><tr><th></th>";
    for arm in &report.arms {
        let _ = write!(page, "<th>{}</th>", arm.name);
    }
    *page += "</tr>";
    for (name, cell) in ROWS {
        let _ = write!(page, "<tr><td>{name}</td>");
        for arm in &report.arms {
            let _ = write!(page, "<td>{}</td>", escape(&cell(arm, report)));
        }
        *page += "</tr>";
    }
    *page += "</table></div>";
    for note in &report.notes {
        let _ = write!(page, "<p>{}</p>", escape(note));
    }
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
