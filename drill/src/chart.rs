//! One chart over time as inline SVG: a line per arm, the restarts as vertical lines. Other reports than the drill's draw with it too.
//!
//! Colours come from the page's CSS classes, so that one drawing serves light and dark. The drawing is 420 units wide, about
//! a phone's width, so its letters stay readable there.

use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 200.0;
/// Room for `1000 ms` in the letters that a phone gets.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 22.0;

/// One arm's values: one a second, or one a round.
#[derive(Debug, Clone)]
pub struct Line {
    /// CSS class: the arm's name.
    pub class: &'static str,
    /// None breaks the line.
    pub values: Vec<Option<f64>>,
}

/// A moment.
#[derive(Debug, Clone)]
pub struct Moment {
    /// CSS class.
    pub class: &'static str,
    /// Above its line; may be empty.
    pub label: String,
    /// When: a second, or a round.
    pub second: f64,
}

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Above it.
    pub title: &'static str,
    /// Drawn in this order.
    pub lines: Vec<Line>,
    /// Vertical lines.
    pub moments: Vec<Moment>,
    /// The axis begins at 0; else a little below the least value.
    pub from_zero: bool,
    /// The axis ends no higher.
    pub ceiling: Option<f64>,
    /// After each number of the axis.
    pub unit: &'static str,
    /// After each number of the horizontal axis.
    pub time_unit: &'static str,
}

struct Scale {
    low: f64,
    high: f64,
    /// Between two labels; low and high are multiples of it.
    step: f64,
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
        // A flat line must not be magnified to fill the chart.
        let step = value_step((high - low).max(high * 0.002).max(1e-3));
        let low = (low / step).floor() * step;
        let high = ((high / step).ceil() * step).max(low + step);
        let seconds = self
            .lines
            .iter()
            .map(|line| line.values.len())
            .max()
            .unwrap_or(0)
            .max(1);
        Scale {
            low: if self.ceiling.is_some_and(|ceiling| high > ceiling) {
                low.min(high - 2.0 * step)
            } else {
                low
            },
            high: high.min(self.ceiling.unwrap_or(f64::INFINITY)),
            step,
            seconds: f64::from(u32::try_from(seconds).unwrap_or(u32::MAX)),
        }
    }

    /// The chart as an `<svg>` element.
    #[must_use]
    pub fn svg(&self) -> String {
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
        let mut value = scale.low;
        while value <= scale.high + scale.step / 2.0 {
            let y = scale.y(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{value:.*}{}</text>",
                WIDTH - RIGHT,
                LEFT - 4.0,
                y + 3.5,
                decimals(scale.step),
                escape(self.unit),
            );
            value += scale.step;
        }
        let mut second = 0.0;
        while second <= scale.seconds {
            let _ = write!(
                svg,
                "<text class=\"tick middle\" x=\"{:.1}\" y=\"{:.1}\">{second:.0}{}</text>",
                scale.x(second),
                HEIGHT - 7.0,
                escape(self.time_unit)
            );
            second += time_step(scale.seconds);
        }
    }
}

/// 1, 2 or 5 of some power of ten, so that at most five steps cover the span.
fn value_step(span: f64) -> f64 {
    let power = 10_f64.powf((span / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        // Powers are not exact: a span of five steps may look a little longer.
        .find(|step| span / step <= 5.001)
        .unwrap_or(10.0 * power)
}

/// How many digits after the point tell multiples of that step apart.
fn decimals(step: f64) -> usize {
    [1.0, 0.1, 0.01, 0.001]
        .into_iter()
        .position(|unit| step >= unit * 0.999)
        .unwrap_or(4)
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
#[must_use]
pub fn escape(text: &str) -> String {
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
            unit: "%",
            time_unit: " s",
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
    fn the_axis_has_round_numbers_and_ends_at_its_ceiling() {
        for (span, step) in [
            (5.0, 1.0),
            (5.1, 2.0),
            (0.49, 0.1),
            (31.0, 10.0),
            (74_000.0, 20_000.0),
        ] {
            assert!(
                (value_step(span) / step - 1.0).abs() < 1e-9,
                "{span}: {}",
                value_step(span)
            );
        }
        let svg = Chart {
            ceiling: Some(100.0),
            ..chart(vec![Some(83.2), Some(99.7)])
        }
        .svg();
        for label in [">80%<", ">85%<", ">100%<"] {
            assert!(svg.contains(label), "{label} is missing in {svg}");
        }
        assert!(!svg.contains(">105%<"));
    }

    #[test]
    fn nothing_to_draw_draws_finite_numbers() {
        for values in [vec![], vec![None], vec![Some(0.0)]] {
            let svg = chart(values).svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
