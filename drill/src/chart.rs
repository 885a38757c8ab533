//! One chart over time as inline SVG: a line per arm, the restarts as vertical lines.
//!
//! Colours come from the page's CSS classes, so that one drawing serves light and dark. The drawing is 420 units wide, about
//! a phone's width, so its letters stay readable there.

use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 22.0;

/// One arm's values, one a second.
pub(crate) struct Line {
    /// CSS class: the arm's name.
    pub(crate) class: &'static str,
    pub(crate) values: Vec<Option<f64>>,
}

/// A moment.
pub(crate) struct Moment {
    pub(crate) class: &'static str,
    pub(crate) label: String,
    pub(crate) second: f64,
}

/// What is drawn.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) lines: Vec<Line>,
    pub(crate) moments: Vec<Moment>,
    /// The axis begins at 0; else a little below the least value.
    pub(crate) from_zero: bool,
    /// The axis ends no higher.
    pub(crate) ceiling: Option<f64>,
    pub(crate) label: fn(f64) -> String,
}

struct Scale {
    low: f64,
    high: f64,
    seconds: f64,
}

impl Scale {
    fn x(&self, second: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * second / self.seconds
    }

    fn y(&self, value: f64) -> f64 {
        let part = (value.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
    }
}

impl Chart {
    fn scale(&self) -> Scale {
        let values = || {
            self.lines
                .iter()
                .flat_map(|line| line.values.iter().flatten().copied())
        };
        let high = values().fold(0.0, f64::max);
        let low = if self.from_zero {
            0.0
        } else {
            values().fold(high, f64::min)
        };
        let margin = ((high - low) * 0.08).max(high * 0.005).max(1e-9);
        let seconds = self
            .lines
            .iter()
            .map(|line| line.values.len())
            .max()
            .unwrap_or(0)
            .max(1);
        let seconds = f64::from(u32::try_from(seconds).unwrap_or(u32::MAX));
        let high = (high + margin).min(self.ceiling.unwrap_or(f64::INFINITY));
        Scale {
            low: if self.from_zero {
                0.0
            } else {
                (low - margin).max(0.0)
            },
            high,
            seconds,
        }
    }

    /// The chart as an `<svg>` element.
    pub(crate) fn svg(&self) -> String {
        let scale = self.scale();
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>",
            escape(self.title)
        );
        self.draw_axes(&scale, &mut svg);
        for moment in &self.moments {
            draw_moment(moment, &scale, &mut svg);
        }
        for line in &self.lines {
            draw_line(line, &scale, &mut svg);
        }
        svg + "</svg>"
    }

    fn draw_axes(&self, scale: &Scale, svg: &mut String) {
        for step in 0..=4 {
            let value = scale.low + (scale.high - scale.low) * f64::from(step) / 4.0;
            let y = scale.y(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 4.0,
                y + 3.5,
                escape(&(self.label)(value)),
            );
        }
        let mut second = 0.0;
        while second <= scale.seconds {
            let _ = write!(
                svg,
                "<text class=\"tick middle\" x=\"{:.1}\" y=\"{:.1}\">{second:.0} s</text>",
                scale.x(second),
                HEIGHT - 7.0
            );
            second += time_step(scale.seconds);
        }
    }
}

/// About six labels.
fn time_step(seconds: f64) -> f64 {
    let steps = [
        1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0,
    ];
    steps
        .into_iter()
        .find(|step| seconds / step <= 7.0)
        .unwrap_or(seconds)
}

fn draw_moment(moment: &Moment, scale: &Scale, svg: &mut String) {
    let x = scale.x(moment.second.min(scale.seconds));
    let _ = write!(
        svg,
        "<line class=\"moment {0}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{1:.1}\"/>\
         <text class=\"tick middle {0}\" x=\"{x:.1}\" y=\"{2:.1}\">{3}</text>",
        moment.class,
        HEIGHT - BOTTOM,
        TOP - 5.0,
        escape(&moment.label),
    );
}

/// A second without a value breaks the line.
fn draw_line(line: &Line, scale: &Scale, svg: &mut String) {
    for run in line
        .values
        .iter()
        .enumerate()
        .collect::<Vec<_>>()
        .split(|(_, value)| value.is_none())
    {
        if run.is_empty() {
            continue;
        }
        let points: Vec<_> = run
            .iter()
            .filter_map(|(second, value)| {
                let middle = f64::from(u32::try_from(*second).ok()?) + 0.5;
                Some(format!("{:.1},{:.1}", scale.x(middle), scale.y((**value)?)))
            })
            .collect();
        let _ = write!(
            svg,
            "<polyline class=\"arm {}\" points=\"{}\"/>",
            line.class,
            points.join(" ")
        );
    }
}

/// Text for HTML and for attributes in double quotes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: Vec<Option<f64>>) -> Chart {
        Chart {
            title: "a < b",
            lines: vec![Line {
                class: "cold",
                values,
            }],
            moments: vec![Moment {
                class: "cold",
                label: "<n1>".to_owned(),
                second: 1.0,
            }],
            from_zero: false,
            ceiling: Some(1.0),
            label: |value| format!("{value:.2}"),
        }
    }

    #[test]
    fn a_gap_breaks_the_line_and_text_is_escaped() {
        let svg = chart(vec![Some(0.5), Some(0.6), None, Some(0.9)]).svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("&lt;n1&gt;") && svg.contains("a &lt; b"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn nothing_to_draw_draws_finite_numbers() {
        for values in [vec![], vec![None], vec![Some(0.0)]] {
            let svg = chart(values).svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
