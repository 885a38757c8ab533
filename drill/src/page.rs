//! What all reports look like: one HTML file without scripts or outside parts, light and dark, on a desk and on a phone.

use std::fmt::Write;

use serde::Serialize;

use crate::chart::{Chart, escape};
use crate::report::Verdict;

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
.reference{--c:var(--reference)}.hot{--c:var(--transfer)}.mark{--c:var(--control)}\
.node1{--c:#9a6bd0}.node2{--c:var(--cold)}.node3{--c:var(--reference)}.node4{--c:#c08a1e}.node5{--c:#1f9c9c}.node6{--c:#c2559d}\
.arm,.moment{stroke:var(--c)}.control2.arm{stroke-dasharray:2 3}.moment{stroke-dasharray:3 3;opacity:.55}\
text.transfer,text.cold,text.mark{fill:var(--c)}.key{display:inline-block;margin-right:1em;color:var(--c)}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.15em .8em;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}th:first-child,\
td:first-child{text-align:left;padding-left:0}pre{overflow-x:auto;font-size:12px}\
details{margin:1em 0}ul{padding-left:1.2em}@media(max-width:480px){.tick{font-size:13px}\
table{font-size:12px}th,td{padding:.15em .3em;white-space:normal}td:not(:first-child){min-width:3.6em}}";

/// The beginning of a page, up to its body. Classes that draw in a colour of their own: `control`, `transfer`, `cold`,
/// `reference`, `hot`, `mark`, and `node1` to `node6`.
#[must_use]
pub fn begin(title: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head><body>",
        escape(title)
    )
}

/// The beginning of a drill's page: what it was, its verdict, why, and what was run.
pub(crate) fn head(what: &str, verdict: Verdict, reasons: &[String], summary: &str) -> String {
    let word = verdict.as_str();
    let class = match verdict {
        Verdict::Fail => "cold",
        _ => "transfer",
    };
    let (reasons, summary) = (escape(&reasons.join("; ")), escape(summary));
    let mut html = begin(&format!("{what}: {word}"));
    let _ = write!(
        html,
        "<h1>{what} <span class=\"verdict {class}\">{word}</span></h1><p>{reasons}</p><p class=\"dim\">{summary}</p>"
    );
    html
}

/// The end of a page: all that it shows as JSON, folded or not.
#[must_use]
pub fn json(what: &str, is_open: bool, report: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(report).unwrap_or_default();
    let open = if is_open { " open" } else { "" };
    format!(
        "<details{open}><summary>{what} (JSON)</summary><pre>{}</pre></details></body></html>",
        escape(&json)
    )
}

/// Charts side by side, as many as there is room for.
#[must_use]
pub fn charts(charts: &[Chart]) -> String {
    let mut html = String::from("<div class=\"charts\">");
    for chart in charts {
        let _ = write!(
            html,
            "<section><h2>{}</h2>{}</section>",
            escape(chart.title),
            chart.svg()
        );
    }
    html + "</div>"
}
