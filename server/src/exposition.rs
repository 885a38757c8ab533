//! How `/metrics` is written: in the text format that Prometheus and most agents read (`text/plain; version=0.0.4`), or in
//! OpenMetrics 1.0.0 where a scraper's `Accept` prefers that (RFC 9110, section 12.5.1). The two differ in how they name
//! counters' families, and in the last line.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// A text format of metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// Prometheus' own, as of version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a request's `Accept` asks for; without one, Prometheus' own.
    pub(crate) fn asked_for(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let open = quality(accept, &["application/openmetrics-text"]);
        let plain = quality(accept, &["text/plain", "text/*", "*/*"]);
        if open > 0.0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Its name in `Content-Type`.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes all metrics.
    ///
    /// # Errors
    /// If one cannot be written.
    pub(crate) fn write(self, registry: &Registry) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, registry)?;
        Ok(match self {
            Self::OpenMetrics => text,
            Self::Prometheus => as_prometheus(&text),
        })
    }
}

/// How much one of these kinds is wanted, 0 to 1: the most that is said of any.
fn quality(accept: &str, kinds: &[&str]) -> f64 {
    let wanted = accept.split(',').filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let kind = parts.next()?.to_ascii_lowercase();
        let said = parts.find_map(|part| part.strip_prefix("q="));
        let quality = said.map_or(Some(1.0), |said| said.parse().ok())?;
        kinds.contains(&kind.as_str()).then_some(quality)
    });
    wanted.fold(0.0, f64::max)
}

/// OpenMetrics names a counter's family without the `_total` of its samples; Prometheus' format with it, and knows neither units
/// nor a last line.
fn as_prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(of_family) = line.strip_prefix("# HELP ") {
            help = of_family.split_once(' ');
        } else if let Some((family, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                text.push_str(&format!("# HELP {family}{total} {help}\n"));
            }
            text.push_str(&format!("# TYPE {family}{total} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_answered() {
        let of = Format::asked_for;
        for plain in [
            None,
            Some("*/*"),
            Some("text/plain"),
            Some("text/html,application/xhtml+xml,*/*;q=0.8"),
            Some("text/plain;version=0.0.4;q=0.5, application/openmetrics-text;q=0.1"),
            Some("application/openmetrics-text;q=0"),
            Some("application/openmetrics-text;q=much"),
            Some(";;,,q=1"),
        ] {
            assert_eq!(of(plain), Format::Prometheus, "{plain:?}");
        }
        for open in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; q=0.8, text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "text/plain, Application/OpenMetrics-Text",
        ] {
            assert_eq!(of(Some(open)), Format::OpenMetrics, "{open}");
        }
    }

    #[test]
    fn counters_are_named_as_each_format_has_it() {
        let open = "# HELP a Things, all of them.\n# TYPE a counter\na_total{x=\"# TYPE\"} 1\n# HELP b_bytes B.\n\
                    # TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2\n# EOF\n";
        let plain = "# HELP a_total Things, all of them.\n# TYPE a_total counter\na_total{x=\"# TYPE\"} 1\n\
                     # HELP b_bytes B.\n# TYPE b_bytes gauge\nb_bytes 2\n";
        assert_eq!(as_prometheus(open), plain);
    }
}
