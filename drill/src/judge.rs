//! From records to figures and a verdict. Pure: every definition of `docs/drill.md` is a function here.

use std::ops::Range;

use hdrhistogram::Histogram;

use crate::options::{ArmName, DrillOptions};
use crate::pace::Rate;
use crate::record::{Outcome, Record};
use crate::report::{ArmReport, Verdict, WindowReport};

/// Below this loss of the cold arm, in points, keeping the hit rate proves nothing.
pub(crate) const COLD_POINTS_MIN: f64 = 3.0;

/// Above this difference of two equal runs, in points, there is a warning.
const NOISE_POINTS_MAX: f64 = 0.5;
/// Likewise above this p99 of control: a get that comes while the same key is being loaded misses too.
const CONTROL_P99_US_MAX: u64 = 100_000;

/// Counts of some positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Reads {
    gets: u64,
    hits: u64,
    backend_loads: u64,
}

fn reads(records: &[Option<Record>]) -> Reads {
    let mut reads = Reads::default();
    for record in records.iter().flatten() {
        reads.gets += u64::from(record.outcome.is_get());
        reads.hits += u64::from(record.outcome.is_hit());
        reads.backend_loads += u64::from(record.outcome.is_backend_load());
    }
    reads
}

fn part(records: &[Option<Record>], window: &Range<usize>) -> Range<usize> {
    window.start.min(records.len())..window.end.min(records.len())
}

fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of one drill lie far below 2^52"
    )]
    let ratio = part as f64 / whole.max(1) as f64;
    ratio
}

/// Hits among gets, 0 to 1; 0 without gets.
pub(crate) fn hit_rate(records: &[Option<Record>], window: &Range<usize>) -> f64 {
    let reads = reads(&records[part(records, window)]);
    ratio(reads.hits, reads.gets)
}

/// `W` of the report.
pub(crate) fn window(records: &[Option<Record>], window: &Range<usize>, rate: Rate) -> WindowReport {
    let range = part(records, window);
    let records = &records[range.clone()];
    let reads = reads(records);
    let latencies = latencies(records);
    let ended = records.iter().flatten().count() as u64;
    WindowReport {
        gets: reads.gets,
        hit_rate: ratio(reads.hits, reads.gets),
        p50_us: latencies.value_at_quantile(0.5),
        p99_us: latencies.value_at_quantile(0.99),
        p999_us: latencies.value_at_quantile(0.999),
        ops_per_second: ratio(ended * 1_000_000, span_us(records, range.start, rate)),
        backend_loads: reads.backend_loads,
    }
}

/// From the first intended sending to the last answer, but no less than the schedule takes.
fn span_us(records: &[Option<Record>], first: usize, rate: Rate) -> u64 {
    let due_us = |index: usize| rate.due_us((first + index) as u64);
    let answered_us = records
        .iter()
        .enumerate()
        .filter_map(|(index, record)| record.map(|record| due_us(index) + u64::from(record.latency_us)));
    answered_us.max().unwrap_or(0).max(due_us(records.len())) - due_us(0)
}

fn latencies(records: &[Option<Record>]) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, u64::from(u32::MAX), 3)
        .expect("bounds and digits that the crate knows");
    for record in records.iter().flatten() {
        histogram.saturating_record(u64::from(record.latency_us));
    }
    histogram
}

/// Of latencies in microseconds: median, 99th percentile and longest; 0 of none.
pub(crate) fn quantiles_us(records: &[Record]) -> (u64, u64, u64) {
    let records: Vec<_> = records.iter().copied().map(Some).collect();
    let histogram = latencies(&records);
    let at = |quantile| histogram.value_at_quantile(quantile);
    (at(0.5), at(0.99), histogram.max())
}

/// 100 x (control's hit rate - the arm's) over the same positions; positive is a loss.
pub(crate) fn dip_points(control: &[Option<Record>], arm: &[Option<Record>], window: &Range<usize>) -> f64 {
    100.0 * (hit_rate(control, window) - hit_rate(arm, window))
}

/// Gets in the window that brought no value here but did in control at the same position.
pub(crate) fn avoidable_misses(
    control: &[Option<Record>],
    arm: &[Option<Record>],
    window: &Range<usize>,
) -> u64 {
    let pairs = control.iter().zip(arm).skip(window.start).take(window.len());
    let avoidable = pairs.filter(|(control, arm)| {
        let hit = control.is_some_and(|record| record.outcome.is_hit());
        hit && arm
            .is_some_and(|record| record.outcome == Outcome::Miss || record.outcome == Outcome::GetError)
    });
    avoidable.count() as u64
}

/// One second of an arm, by intended sending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Second {
    /// `None`: no gets in it.
    pub(crate) hit_rate: Option<f64>,
    pub(crate) p99_us: u64,
    pub(crate) backend_loads: u64,
}

/// The seconds of some positions, counted from the first; a last, partial one is left out.
pub(crate) fn seconds(records: &[Option<Record>], window: &Range<usize>, rate: Rate) -> Vec<Second> {
    let records = &records[part(records, window)];
    let second = |records: &[Option<Record>]| {
        let reads = reads(records);
        Second {
            hit_rate: (reads.gets > 0).then(|| ratio(reads.hits, reads.gets)),
            p99_us: latencies(records).value_at_quantile(0.99),
            backend_loads: reads.backend_loads,
        }
    };
    records
        .chunks_exact(rate.per_second as usize)
        .map(second)
        .collect()
}

/// The least hit rate of a whole second of the window; of the whole window if that is shorter than a second.
pub(crate) fn worst_second_hit_rate(records: &[Option<Record>], window: &Range<usize>, rate: Rate) -> f64 {
    let seconds = seconds(records, window, rate);
    let rates = seconds.iter().filter_map(|second| second.hit_rate);
    rates
        .min_by(f64::total_cmp)
        .unwrap_or_else(|| hit_rate(records, window))
}

/// A warning where the runs without restarts show that the machine was too busy for the dips to say much.
pub(crate) fn noise(arms: &[ArmReport]) -> Option<String> {
    let find = |name: ArmName| arms.iter().find(|arm| arm.name == name.as_str());
    let differ = find(ArmName::Control2).map_or(0.0, |again| again.dip_points.abs());
    let p99_us = find(ArmName::Control).map_or(0, |control| control.window.p99_us);
    let sign = if differ > NOISE_POINTS_MAX {
        format!("two runs without restarts differ by {differ:.2} points")
    } else if p99_us > CONTROL_P99_US_MAX {
        format!("without restarts the p99 is {} ms", p99_us / 1_000)
    } else {
        return None;
    };
    Some(format!(
        "{sign}: the machine was too busy for the dips to say much; lower --rate, or run nothing beside it"
    ))
}

/// The verdict over all arms, and its reasons.
pub(crate) fn verdict(arms: &[ArmReport], options: &DrillOptions) -> (Verdict, Vec<String>) {
    let broken = broken_limits(arms, options);
    if !broken.is_empty() {
        return (Verdict::Fail, broken);
    }
    // A standing cluster is restarted once, by its operator: there is no cold run to compare with.
    if !options.seeds.is_empty() {
        return (
            Verdict::Pass,
            vec![
                "judged against its own time before the restarts; whether any took place is not known here"
                    .to_owned(),
            ],
        );
    }
    match arms.iter().find(|arm| arm.name == ArmName::Cold.as_str()) {
        None => (
            Verdict::Inconclusive,
            vec!["without a cold arm nothing shows that this restart would hurt".to_owned()],
        ),
        Some(cold) if cold.dip_points < COLD_POINTS_MIN => {
            let reason = format!(
                "without transfer only {:.2} points are lost (less than {COLD_POINTS_MIN}), so keeping them proves nothing",
                cold.dip_points
            );
            (Verdict::Inconclusive, vec![reason])
        }
        Some(cold) => (
            Verdict::Pass,
            vec![format!("without transfer {:.2} points are lost", cold.dip_points)],
        ),
    }
}

fn broken_limits(arms: &[ArmReport], options: &DrillOptions) -> Vec<String> {
    let mut broken = Vec::new();
    for arm in arms {
        if arm.errors > options.errors_max {
            broken.push(format!(
                "{}: {} errors, {} allowed",
                arm.name, arm.errors, options.errors_max
            ));
        }
        if arm.stale_reads > options.stale_reads_max {
            broken.push(format!(
                "{}: {} stale reads, {} allowed",
                arm.name, arm.stale_reads, options.stale_reads_max
            ));
        }
        let Some(limit) = options.dip_limit() else {
            continue;
        };
        if arm.name == ArmName::Transfer.as_str() && arm.dip_points > limit {
            broken.push(format!(
                "{}: a dip of {:.3} points, {limit} allowed",
                arm.name, arm.dip_points
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 100 };

    fn records(outcomes: impl IntoIterator<Item = Outcome>) -> Vec<Option<Record>> {
        outcomes
            .into_iter()
            .map(|outcome| {
                Some(Record {
                    outcome,
                    latency_us: 100,
                })
            })
            .collect()
    }

    /// Plan: control misses every tenth get. The arm misses those too, and in the window 100 to 300 also every gets at 5 mod 10
    /// of the first half. Outside the window it misses everything, which must not count.
    #[test]
    fn the_dip_is_the_difference_at_the_same_positions() {
        let control = records((0..400).map(|p| if p % 10 == 0 { Outcome::Miss } else { Outcome::Hit }));
        let arm = records((0..400).map(|p| {
            let lost = !(100..300).contains(&p) || p % 10 == 0 || (p < 200 && p % 10 == 5);
            if lost { Outcome::Miss } else { Outcome::Hit }
        }));
        let window = 100..300;
        assert!((dip_points(&control, &arm, &window) - 5.0).abs() < 1e-9);
        assert_eq!(avoidable_misses(&control, &arm, &window), 10);
        assert!((worst_second_hit_rate(&arm, &window, RATE) - 0.8).abs() < 1e-9);
        assert!((dip_points(&control, &control, &window)).abs() < 1e-9);
        let figures = super::window(&arm, &window, RATE);
        assert_eq!((figures.gets, figures.backend_loads), (200, 30));
    }

    #[test]
    fn writes_are_no_gets_and_a_miss_in_control_is_not_avoidable() {
        let control = records([Outcome::Hit, Outcome::Miss, Outcome::Applied, Outcome::Hit]);
        let arm = records([Outcome::Miss, Outcome::Miss, Outcome::Unknown, Outcome::Hit]);
        assert_eq!(avoidable_misses(&control, &arm, &(0..4)), 1);
        assert!((hit_rate(&arm, &(0..4)) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_count_every_operation_from_its_intended_sending() {
        let mut all = records(vec![Outcome::Hit; 1_000]);
        for record in all[..15].iter_mut().flatten() {
            record.latency_us = 50_000;
        }
        let figures = window(&all, &(0..1_000), RATE);
        assert_eq!(figures.p50_us, 100);
        assert!((49_900..50_100).contains(&figures.p99_us), "{}", figures.p99_us);
        assert!(
            (figures.ops_per_second - 100.0).abs() < 0.1,
            "{}",
            figures.ops_per_second
        );
    }

    #[test]
    fn a_window_beyond_the_records_is_cut() {
        let all = records(vec![Outcome::Hit; 10]);
        assert_eq!(window(&all, &(5..50), RATE).gets, 5);
        assert_eq!(window(&all, &(50..60), RATE), WindowReport::default());
    }

    fn arm(name: &'static str, dip_points: f64) -> ArmReport {
        ArmReport {
            dip_points,
            ..ArmReport::sample(name)
        }
    }

    #[test]
    fn two_controls_that_differ_are_warned_of_whichever_did_better() {
        for (points, warned) in [(0.5, false), (0.6, true), (-11.3, true)] {
            let arms = [arm("control", 0.0), arm("control2", points), arm("cold", 9.0)];
            assert_eq!(noise(&arms).is_some(), warned, "{points}");
        }
        assert_eq!(noise(&[arm("transfer", 5.0)]), None);
        let mut slow = arm("control", 0.0);
        slow.window.p99_us = 840_000;
        assert!(noise(&[slow, arm("control2", 0.0)]).is_some_and(|told| told.contains("840 ms")));
    }

    #[test]
    fn nothing_is_proven_where_cold_loses_little() {
        let options = DrillOptions::default();
        let (verdict_, reasons) = verdict(&[arm("transfer", 0.0), arm("cold", 2.9)], &options);
        assert_eq!(verdict_, Verdict::Inconclusive);
        assert!(reasons[0].contains("2.90 points"), "{reasons:?}");
        assert_eq!(
            verdict(&[arm("transfer", 0.0)], &options).0,
            Verdict::Inconclusive
        );
        assert_eq!(
            verdict(&[arm("transfer", 0.0), arm("cold", 3.0)], &options).0,
            Verdict::Pass
        );
    }

    #[test]
    fn a_broken_limit_fails_even_where_nothing_was_proven() {
        let options = DrillOptions {
            dip_points_max: Some(0.1),
            ..DrillOptions::default()
        };
        let judged = |transfer: ArmReport| verdict(&[transfer, arm("cold", 1.0)], &options).0;
        assert_eq!(judged(arm("transfer", 0.11)), Verdict::Fail);
        assert_eq!(judged(arm("transfer", 0.1)), Verdict::Inconclusive);
        assert_eq!(
            judged(ArmReport {
                stale_reads: 1,
                ..arm("transfer", 0.0)
            }),
            Verdict::Fail
        );
        assert_eq!(
            judged(ArmReport {
                errors: 1,
                ..arm("transfer", 0.0)
            }),
            Verdict::Fail
        );
        let stale_cold = ArmReport {
            stale_reads: 1,
            ..arm("cold", 9.0)
        };
        assert_eq!(
            verdict(&[arm("transfer", 0.0), stale_cold], &options).0,
            Verdict::Fail
        );
    }
}
