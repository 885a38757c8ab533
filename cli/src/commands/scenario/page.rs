//! A scenario's report as one HTML file: the figures, charts over rounds, why things moved, and the JSON. It looks like the drill's,
//! whose page and charts it is drawn with.

use std::fmt::Write;

use softstore_drill::chart::{Chart, Line, escape};
use softstore_drill::page;
use softstore_sim::scenario::{Quantiles, RoundFigures, ScenarioReport};

const MEBIBYTE: f64 = 1_048_576.0;

/// The whole page.
pub(super) fn page(report: &ScenarioReport) -> String {
    let (scenario, sharder) = (escape(&report.scenario), report.sharder);
    let mut page = page::begin(&format!("softstore scenario: {scenario}"));
    let _ = write!(
        page,
        "<h1>softstore scenario {scenario}</h1>\
         <p class=\"dim\">Sharder {sharder}, {} rounds, seed {}. What moves in the first {} rounds is not counted below.</p>",
        report.rounds, report.seed, report.warm_up_rounds
    );
    write_figures(report, &mut page);
    page += "<p><span class=\"key transfer\">&#9632; by membership; alive; slices</span>\
             <span class=\"key cold\">&#9632; to balance; draining</span></p>";
    page += &page::charts(&charts(report));
    write_reasons(report, &mut page);
    page + &page::json("The figures", true, report)
}

fn write_figures(report: &ScenarioReport, page: &mut String) {
    let Quantiles { p50, p90, p99, max } = report.imbalance;
    let (moved, times) = (report.moved_fraction, report.round_ms);
    let round = Quantiles::of(report.round_ms_each.iter().copied());
    let misses: f64 = report.figures.iter().map(|round| round.predicted_misses).sum();
    let rows = [
        (
            "Imbalance, p50 / p90 / p99 / max",
            format!(
                "{:.2}% / {:.2}% / {:.2}% / {:.2}%",
                100.0 * p50,
                100.0 * p90,
                100.0 * p99,
                100.0 * max
            ),
        ),
        (
            "Moved by membership, in data sets",
            format!("{:.4}", moved.membership),
        ),
        (
            "Moved to balance, in data sets",
            format!("{:.4}", moved.balancing),
        ),
        (
            "Most that a round moved over what it had to, by load",
            format!("{:.2}", report.churn_over_forced_max),
        ),
        ("Predicted misses, all rounds", format!("{misses:.0}")),
        (
            "Processor time of the sharder each time that it is asked, p50 / p99 / max",
            format!("{:.2} / {:.2} / {:.2} ms", times.p50, times.p99, times.max),
        ),
        (
            "Processor time of the sharder in a round, p50 / p99 / max",
            format!("{:.2} / {:.2} / {:.2} ms", round.p50, round.p99, round.max),
        ),
        (
            "Control plane sends",
            format!("{:.2} MiB", report.control_bytes as f64 / MEBIBYTE),
        ),
    ];
    *page += "<div class=\"scroll\"><table>";
    for (name, value) in rows {
        let _ = write!(page, "<tr><td>{name}</td><td>{value}</td></tr>");
    }
    *page += "</table></div>";
}

/// One chart for each thing that has a course over the rounds.
fn charts(report: &ScenarioReport) -> Vec<Chart> {
    let line = |class, value: &dyn Fn(&RoundFigures) -> f64| Line {
        class,
        values: report.figures.iter().map(|round| Some(value(round))).collect(),
    };
    let chart = |title, unit, lines| Chart {
        title,
        lines,
        moments: Vec::new(),
        from_zero: true,
        ceiling: None,
        unit,
        time_unit: "",
    };
    let times = Line {
        class: "transfer",
        values: report.round_ms_each.iter().copied().map(Some).collect(),
    };
    vec![
        chart(
            "Imbalance",
            "%",
            vec![line("transfer", &|round| 100.0 * round.imbalance)],
        ),
        chart(
            "Bytes moved, of the data set",
            "%",
            vec![
                line("transfer", &|round| 100.0 * round.moved_by_membership),
                line("cold", &|round| 100.0 * round.moved_to_balance),
            ],
        ),
        chart(
            "Predicted misses",
            "",
            vec![line("transfer", &|round| round.predicted_misses)],
        ),
        chart(
            "Nodes",
            "",
            vec![
                line("transfer", &|round| round.living as f64),
                line("cold", &|round| round.draining as f64),
            ],
        ),
        chart("Slices", "", vec![line("transfer", &|round| round.ranges as f64)]),
        chart(
            "Control plane sends",
            " MiB",
            vec![line("transfer", &|round| round.control_bytes as f64 / MEBIBYTE)],
        ),
        chart("Processor time of the sharder", " ms", vec![times]),
    ]
}

fn write_reasons(report: &ScenarioReport, page: &mut String) {
    *page += "<h2>Why things changed</h2>";
    if report.reasons.iter().next().is_none() {
        let _ = write!(page, "<p>The sharder {} does not say.</p>", report.sharder);
        return;
    }
    *page += "<p class=\"dim\">As the sharder predicted it, over all rounds. Gain: by how many load units less nodes are above their \
              fair shares; negative for what had to be done. Misses, in load units times seconds, are an upper bound.</p>\
              <div class=\"scroll\"><table><tr><th>reason</th><th>changes</th><th>gain</th><th>MiB to pull</th>\
              <th>misses</th></tr>";
    for (reason, figures) in report.reasons.iter() {
        let _ = write!(
            page,
            "<tr><td>{reason}</td><td>{}</td><td>{:.0}</td><td>{:.1}</td><td>{:.0}</td></tr>",
            figures.count,
            figures.gain_load,
            figures.cost_bytes / MEBIBYTE,
            figures.cost_misses
        );
    }
    *page += "</table></div>";
}

#[cfg(test)]
mod tests {
    use super::*;
    use softstore_sim::scenario::{SharderName, builtin, run};

    /// Each tag that is opened is closed, in order; those that HTML never closes aside.
    fn assert_well_formed(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1) {
            let name = tag.split([' ', '>', '/']).next().unwrap_or_default();
            let is_void =
                tag.starts_with('!') || name == "meta" || tag.split('>').next().unwrap().ends_with('/');
            if let Some(closed) = tag.strip_prefix('/') {
                let closed = closed.split('>').next().unwrap();
                assert_eq!(open.pop(), Some(closed), "at </{closed}>");
            } else if !is_void {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} are not closed");
    }

    /// Plan: a few rounds of a scenario in which things move. The page has each chart with as many points as rounds, the table
    /// of reasons, the figures, nothing that is loaded from elsewhere, and is well-formed.
    #[test]
    fn a_page_has_every_chart() {
        let mut scenario = builtin("rolling-in-place-16").unwrap();
        scenario.rounds = 30;
        let report = run(&scenario, SharderName::Auto, 1).unwrap();
        let page = page(&report);
        assert_well_formed(&page);
        for title in [
            "Imbalance",
            "Bytes moved, of the data set",
            "Predicted misses",
            "Nodes",
            "Slices",
            "Control plane sends",
            "Processor time of the sharder",
        ] {
            assert!(
                page.contains(&format!("<h2>{title}</h2><svg")),
                "{title} is missing"
            );
        }
        assert_eq!(page.matches("<polyline").count(), 9);
        let points = page.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(points.split(' ').count(), 30);
        assert!(page.contains("<td>fill of a reserve</td>") && page.contains("&quot;moved_fraction&quot;"));
        assert!(!page.contains("<script") && !page.contains("http") && !page.contains("NaN"));
    }

    #[test]
    fn a_sharder_that_gives_no_reasons_is_told_so() {
        let mut scenario = builtin("zipf-16").unwrap();
        scenario.rounds = 3;
        let report = run(&scenario, SharderName::Ring, 1).unwrap();
        let page = page(&report);
        assert_well_formed(&page);
        assert!(page.contains("The sharder ring does not say."));
    }
}
