//! The scenario's report as one HTML file without scripts or outside parts: verdict, charts over time, tables.

use std::fmt::Write;

use crate::chart::{Chart, Line, Moment, escape};
use crate::hot_key::judge::Arms;
use crate::hot_key::report::{HotKeyReport, SecondReport};
use crate::hot_key::table::{self, COLUMNS};
use crate::hot_key::timeline::float;
use crate::judge::{Second, seconds};
use crate::pace::Rate;
use crate::page;
use crate::record::Record;

/// Colours of nodes; with more nodes they come again.
const NODE_CLASSES: [&str; 6] = ["node1", "node2", "node3", "node4", "node5", "node6"];
/// The whole page.
pub(crate) fn page(report: &HotKeyReport, arms: Arms<'_>, rate: Rate) -> String {
    let summary = table::summary(report);
    let what = "softstore drill, hot key";
    let mut page = page::head(what, report.verdict, &report.reasons, &summary);
    write_legend(report, &mut page);
    page += &page::charts(&charts(report, arms, rate));
    page += "<p class=\"dim\">Dashed vertical lines: the key becomes hot; it has a slice of its own; its reads are spread; \
             it cools. Seconds count from the end of the warm-up. Imbalance: how far the busiest node's operations are above the \
             mean.</p>";
    write_tables(report, &mut page);
    page + &page::json("All figures and settings", false, report)
}

fn write_legend(report: &HotKeyReport, page: &mut String) {
    *page += "<p><span class=\"dim\">Arms </span><span class=\"key hot\">&#9632; hot</span>\
              <span class=\"key control\">&#9632; control</span><span class=\"dim\">Nodes </span>";
    for (number, node) in report.nodes.iter().enumerate() {
        let _ = write!(
            page,
            "<span class=\"key {}\">&#9632; {}</span>",
            node_class(number),
            escape(node)
        );
    }
    *page += "</p>";
}

fn node_class(number: usize) -> &'static str {
    NODE_CLASSES[number % NODE_CLASSES.len()]
}

fn charts(report: &HotKeyReport, arms: Arms<'_>, rate: Rate) -> [Chart; 5] {
    let by_node = |value: fn(&SecondReport, usize) -> Option<f64>| {
        let line = |node| Line {
            class: node_class(node),
            values: report.seconds.iter().map(|second| value(second, node)).collect(),
        };
        (0..report.nodes.len()).map(line).collect::<Vec<_>>()
    };
    let of_arm = |class, records: &[Option<Record>], value: fn(&Second) -> Option<f64>| Line {
        class,
        values: seconds(records, &(0..records.len()), rate)
            .iter()
            .map(value)
            .collect(),
    };
    let by_arm = |value| {
        vec![
            of_arm("control", &arms.control.run.records, value),
            of_arm("hot", &arms.hot.run.records, value),
        ]
    };
    let chart = |title, lines, ceiling, unit| Chart {
        title,
        lines,
        moments: moments(report),
        from_zero: true,
        ceiling,
        unit,
        time_unit: " s",
    };
    let imbalance = report
        .seconds
        .iter()
        .map(|second| second.imbalance.map(|part| 100.0 * part));
    let imbalance = vec![Line {
        class: "hot",
        values: imbalance.collect(),
    }];
    [
        chart(
            "Part of the hot key's reads that each node answers",
            by_node(|second, node| second.hot_parts.get(node).map(|part| 100.0 * part)),
            Some(100.0),
            "%",
        ),
        chart(
            "Operations a second, by node",
            by_node(|second, node| second.operations.get(node).copied()),
            None,
            "",
        ),
        chart("Imbalance", imbalance, None, "%"),
        chart(
            "p99 latency, all operations",
            by_arm(|second| Some(float(second.p99_us) / 1e3)),
            None,
            " ms",
        ),
        Chart {
            from_zero: false,
            ..chart(
                "Hit rate",
                by_arm(|second| second.hit_rate.map(|rate| 100.0 * rate)),
                Some(100.0),
                "%",
            )
        },
    ]
}

fn moments(report: &HotKeyReport) -> Vec<Moment> {
    let (settings, moments) = (&report.settings, &report.moments);
    let risen_ms = settings.lead_in_ms;
    let marks = [
        (Some(risen_ms), "hot"),
        // A second or two apart, their names would lie on top of each other.
        (moments.isolated_ms.map(|ms| risen_ms + ms), ""),
        (moments.spread_ms.map(|ms| risen_ms + ms), ""),
        (Some(risen_ms + settings.hot_ms), "cools"),
    ];
    let marks = marks
        .into_iter()
        .filter_map(|(at_ms, label)| Some((at_ms?, label)));
    marks
        .map(|(at_ms, label)| Moment {
            class: "mark",
            label: label.to_owned(),
            second: float(at_ms) / 1e3,
        })
        .collect()
}

fn write_tables(report: &HotKeyReport, page: &mut String) {
    *page += "<h2>The key</h2><div class=\"scroll\"><table>";
    for (name, figure) in table::figures(report) {
        let _ = write!(page, "<tr><td>{name}</td><td>{}</td></tr>", escape(&figure));
    }
    *page += "</table></div><h2>All operations</h2><div class=\"scroll\"><table><tr>";
    for (name, _) in COLUMNS {
        let _ = write!(page, "<th>{name}</th>");
    }
    *page += "</tr>";
    for phase in &report.phases {
        *page += "<tr>";
        for (_, cell) in COLUMNS {
            let _ = write!(page, "<td>{}</td>", escape(&cell(phase)));
        }
        *page += "</tr>";
    }
    *page += "</table></div>";
    for note in &report.notes {
        let _ = write!(page, "<p>{}</p>", escape(note));
    }
}
