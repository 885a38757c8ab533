//! From two arms to the report of the scenario `hot-key`. Pure: every definition of `docs/drill.md` for it is here or in
//! `timeline`.

use std::ops::Range;

use crate::arm::Load;
use crate::hot_key::arm::{HotKeyWrites, HotRun};
use crate::hot_key::report::{
    HotKeyReport, HotReads, HotWrites, Imbalance, Moments, PhaseReport, SecondReport, SettingsReport,
};
use crate::hot_key::timeline::{HotReadTimes, imbalance};
use crate::judge;
use crate::options::DrillOptions;
use crate::pace::Rate;
use crate::record::{Outcome, Record};
use crate::report::Verdict;

/// Of the phase right after the key's rise.
const FIRST_MS: u64 = 5_000;
/// Above this p99 of control there is a note.
const CONTROL_P99_US_MAX: u64 = 50_000;

/// The two arms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arms<'a> {
    pub(crate) hot: &'a HotRun,
    pub(crate) control: &'a HotRun,
}

/// What the figures are computed from.
struct Case<'a> {
    load: &'a Load,
    arms: Arms<'a>,
    /// Measured positions in which the key is hot, and those after.
    hot: Range<usize>,
    end: usize,
    /// The same in microseconds.
    hot_us: Range<u64>,
    end_us: u64,
    reads: HotReadTimes,
    spread_us: Option<u64>,
}

/// Everything that is computed from the records and observations. `load` is the hot arm's; `hot`: its measured positions in which the
/// key is hot.
pub(crate) fn report(
    options: &DrillOptions,
    load: &Load,
    memory_per_node_bytes: u64,
    hot: &Range<u64>,
    arms: Arms<'_>,
) -> HotKeyReport {
    let case = Case::new(load, arms, hot);
    let runs = [&arms.hot.run, &arms.control.run];
    let sum = |count: fn(&crate::arm::ArmRun) -> u64| runs.into_iter().map(count).sum();
    let mut report = HotKeyReport {
        scenario: "hot-key",
        settings: settings(options, load, memory_per_node_bytes),
        moments: case.moments(),
        hot_reads: case.hot_reads(),
        hot_writes: hot_writes(&arms.hot.writes),
        dip_points: case.dip_points(),
        imbalance: case.imbalance(),
        phases: case.phases(),
        stale_reads: sum(|run| run.stale_reads),
        errors: sum(|run| run.errors),
        writes_unavailable: sum(|run| run.writes_unavailable),
        outcome_unknown: sum(|run| run.outcome_unknown),
        nodes: arms.hot.observed.nodes.clone(),
        seconds: case.seconds(),
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        notes: case.notes(),
    };
    let broken = broken_limits(&report);
    if broken.is_empty() {
        let lost = match report.settings.max_dip_points {
            Some(_) => "nothing lost",
            None => "what was lost is not judged",
        };
        report.reasons = vec![format!("isolated and spread in time; nothing stale, {lost}")];
    } else {
        (report.verdict, report.reasons) = (Verdict::Fail, broken);
    }
    report
}

impl<'a> Case<'a> {
    fn new(load: &'a Load, arms: Arms<'a>, hot: &Range<u64>) -> Self {
        let index = |position| usize::try_from(position).unwrap_or(usize::MAX);
        let end = arms.hot.run.records.len();
        let due_us = |position| load.rate.due_us(position);
        let mut case = Self {
            load,
            arms,
            hot: index(hot.start).min(end)..index(hot.end).min(end),
            end,
            hot_us: due_us(hot.start)..due_us(hot.end),
            end_us: due_us(end as u64),
            reads: HotReadTimes::default(),
            spread_us: None,
        };
        case.reads = case.hot_read_times();
        case.spread_us = arms.hot.observed.spread_us(&case.hot_us, &case.reads);
        case
    }

    fn is_crowd(&self, position: usize) -> bool {
        self.load.sequence.is_crowd(self.load.warm_up + position as u64)
    }

    /// The records of one arm where both arms ask for the same, or those of the hot key's reads.
    fn of_crowd(&self, records: &[Option<Record>], is_crowd: bool) -> Vec<Option<Record>> {
        let records = records.iter().enumerate();
        records
            .map(|(position, record)| record.filter(|_| self.is_crowd(position) == is_crowd))
            .collect()
    }

    fn hot_read_times(&self) -> HotReadTimes {
        let records = self.arms.hot.run.records.iter().enumerate();
        let hot = records.take(self.hot.end).skip(self.hot.start);
        let answered = hot.filter_map(|(position, record)| {
            let record = record.filter(|record| record.outcome.is_answer() && self.is_crowd(position))?;
            Some(self.load.rate.due_us(position as u64) + u64::from(record.latency_us))
        });
        HotReadTimes::new(answered.collect())
    }

    fn moments(&self) -> Moments {
        let observed = &self.arms.hot.observed;
        let risen = |at_us: u64| (at_us - self.hot_us.start) / 1_000;
        let fallen = |at_us: u64| at_us.saturating_sub(self.hot_us.end) / 1_000;
        let first = |is_it: fn(&super::assignments::KeyRange) -> bool| {
            // What was so already when the key rose, was so at once.
            let is_so = observed.range_at(self.hot_us.start).is_some_and(is_it);
            let later = || observed.first(self.hot_us.start, is_it);
            let at_us = is_so.then_some(self.hot_us.start).or_else(later);
            // What happens to the key after its fall is no answer to its rise.
            at_us.filter(|at_us| *at_us < self.hot_us.end)
        };
        // What was so already when the key fell, was so at once.
        let undone = |is_it: fn(&super::assignments::KeyRange) -> bool| {
            let is_so = observed.range_at(self.hot_us.end).is_some_and(is_it);
            let later = || observed.first(self.hot_us.end, is_it).map(fallen);
            if is_so { Some(0) } else { later() }
        };
        let isolated = first(|range| range.is_own);
        let replicated = first(|range| range.replicas > 0);
        Moments {
            isolated_ms: isolated.map(risen),
            replicated_ms: replicated.map(risen),
            spread_ms: self.spread_us.map(risen),
            dereplicated_ms: replicated.and_then(|_| undone(|range| range.replicas == 0)),
            merged_ms: isolated.and_then(|_| undone(|range| !range.is_own)),
        }
    }

    fn hot_reads(&self) -> HotReads {
        let observed = &self.arms.hot.observed;
        let records = self.of_crowd(&self.arms.hot.run.records, true);
        let window = judge::window(&records, &self.hot, self.load.rate);
        let ranges = observed.ranges.iter();
        let largest_part = self.spread_us.and_then(|spread_us| {
            let span = spread_us..self.hot_us.end;
            let parts = observed.parts(&span, self.reads.answered(&span))?;
            parts.into_iter().max_by(f64::total_cmp)
        });
        HotReads {
            reads: window.gets,
            hit_rate: window.hit_rate,
            p50_us: window.p50_us,
            p99_us: window.p99_us,
            p999_us: window.p999_us,
            readers_max: ranges.map(|(_, range)| 1 + range.replicas).max().unwrap_or(0),
            largest_part_after_spread: largest_part,
        }
    }

    fn dip_points(&self) -> f64 {
        let Arms { hot, control } = self.arms;
        let background = |run: &HotRun| self.of_crowd(&run.run.records, false);
        judge::dip_points(
            &background(control),
            &background(hot),
            &(self.hot.start..self.end),
        )
    }

    fn imbalance(&self) -> Imbalance {
        let observed = &self.arms.hot.observed;
        let over = |span: Range<u64>| imbalance(&observed.operations(&span)?);
        let hot = self.seconds().into_iter();
        let hot = hot
            .skip(second_of(self.hot_us.start))
            .take(second_of(self.hot_us.end - self.hot_us.start));
        Imbalance {
            // The first reading comes a moment after the first request.
            before: over(self.hot_us.start.min(1_000_000)..self.hot_us.start),
            worst_second: hot.filter_map(|second| second.imbalance).max_by(f64::total_cmp),
            after_spread: self
                .spread_us
                .and_then(|spread_us| over(spread_us..self.hot_us.end)),
            cooling: over(self.hot_us.end..self.end_us),
        }
    }

    fn phases(&self) -> Vec<PhaseReport> {
        let rate = self.load.rate;
        let index = |at_us: u64| position_at(rate, at_us).min(self.hot.end);
        let first = self.hot.start..index(self.hot_us.start + FIRST_MS * 1_000);
        let spread = self.spread_us.map(|spread_us| index(spread_us)..self.hot.end);
        let phase = |name, range: Range<usize>| PhaseReport {
            name,
            from_ms: rate.due_us(range.start as u64) / 1_000,
            to_ms: rate.due_us(range.end as u64) / 1_000,
            hot: judge::window(&self.arms.hot.run.records, &range, rate),
            control: judge::window(&self.arms.control.run.records, &range, rate),
        };
        [
            Some(phase("before", 0..self.hot.start)),
            Some(phase("first_5_s", first)),
            spread.map(|spread| phase("after_spread", spread)),
            Some(phase("cooling", self.hot.end..self.end)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn seconds(&self) -> Vec<SecondReport> {
        let observed = &self.arms.hot.observed;
        let records = &self.arms.hot.run.records;
        let seconds = judge::seconds(records, &(0..records.len()), self.load.rate);
        let second = |(number, second): (usize, judge::Second)| {
            let start = number as u64 * 1_000_000;
            // The first reading of the counters comes a moment after the first request.
            let span = start.max(first_reading_us(self.arms.hot))..start + 1_000_000;
            let operations = observed.operations(&span).unwrap_or_default();
            SecondReport {
                hit_rate: second.hit_rate,
                p99_us: second.p99_us,
                imbalance: imbalance(&operations),
                operations,
                hot_parts: observed
                    .parts(&span, self.reads.answered(&span))
                    .unwrap_or_default(),
                readers: observed.range_at(span.end).map_or(0, |range| 1 + range.replicas),
            }
        };
        seconds.into_iter().enumerate().map(second).collect()
    }

    fn notes(&self) -> Vec<String> {
        let Arms { hot, control } = self.arms;
        let mut notes = Vec::new();
        let p99_us = judge::window(&control.run.records, &(0..self.end), self.load.rate).p99_us;
        if p99_us > CONTROL_P99_US_MAX {
            notes.push(format!(
                "without a hot key the p99 is {} ms: the machine was too busy for the figures to say much; lower --rate, or run \
                 nothing beside it",
                p99_us / 1_000
            ));
        }
        if hot
            .observed
            .ranges
            .iter()
            .any(|(_, range)| range.others_replicated > 0)
        {
            notes.push(
                "other ranges had replicas as well: reads of their copies are counted as reads of the hot key's".to_owned(),
            );
        }
        if hot.writes.left_out > 0 {
            notes.push(format!(
                "{} writes of the hot key were due and not sent: those before them were still under way; lower --hot-writes-per-s",
                hot.writes.left_out
            ));
        }
        if hot.observed.counts.iter().any(Vec::is_empty) {
            notes.push("a node did not tell its counters: nothing is known of the nodes' parts".to_owned());
        }
        notes
    }
}

fn first_reading_us(run: &HotRun) -> u64 {
    let first = |readings: &Vec<(u64, _)>| readings.first().map_or(0, |(read_us, _)| *read_us);
    run.observed.counts.iter().map(first).max().unwrap_or(0)
}

fn second_of(us: u64) -> usize {
    usize::try_from(us / 1_000_000).unwrap_or(usize::MAX)
}

/// The first position that is due at or after that moment.
fn position_at(rate: Rate, at_us: u64) -> usize {
    let position = u128::from(at_us) * u128::from(rate.per_second) / 1_000_000;
    usize::try_from(position).unwrap_or(usize::MAX)
}

fn hot_writes(writes: &HotKeyWrites) -> HotWrites {
    let (p50_us, p99_us, max_us) = judge::quantiles_us(&writes.sent);
    let is_applied = |write: &&Record| write.outcome == Outcome::Applied;
    HotWrites {
        writes: writes.sent.len() as u64 + writes.left_out,
        acknowledged: writes.sent.iter().filter(is_applied).count() as u64,
        p50_us,
        p99_us,
        max_us,
    }
}

fn settings(options: &DrillOptions, load: &Load, memory_per_node_bytes: u64) -> SettingsReport {
    let hot = &options.hot_key;
    SettingsReport {
        workload: options.workload.preset.to_string(),
        keys: options.workload.keys,
        zipf_alpha: options.workload.zipf_alpha,
        mix: options.workload.mix.to_string(),
        rate_per_second: options.rate_per_second,
        seed: options.seed,
        warm_up_requests: load.warm_up,
        nodes: options.nodes,
        memory_per_node_bytes,
        hot_share: hot.share,
        hot_writes_per_second: hot.writes_per_second,
        lead_in_ms: options.lead_in_ms,
        hot_ms: hot.hot_ms,
        cool_ms: hot.cool_ms,
        max_isolated_ms: hot.isolated_ms_max,
        max_spread_ms: hot.spread_ms_max,
        min_hot_writes_percent: hot.writes_percent_min,
        max_dip_points: options.dip_limit(),
        max_errors: options.errors_max,
        max_stale_reads: options.stale_reads_max,
    }
}

fn broken_limits(report: &HotKeyReport) -> Vec<String> {
    let limits = &report.settings;
    let late = |what: &str, took_ms: Option<u64>, limit_ms: u64| match took_ms {
        Some(took_ms) if took_ms <= limit_ms => None,
        Some(took_ms) => Some(format!("{what} after {took_ms} ms, {limit_ms} allowed")),
        None => Some(format!("never {what} while it was hot")),
    };
    let above = |what: &str, count: u64, limit: u64| {
        (count > limit).then(|| format!("{count} {what}, {limit} allowed"))
    };
    let lost = |what: &str, points: f64| {
        let limit = limits.max_dip_points?;
        (points > limit).then(|| format!("{what} {points:.3} points, {limit} allowed"))
    };
    // Where no write of it was acknowledged, no read of it could be stale.
    let HotWrites {
        writes, acknowledged, ..
    } = report.hot_writes;
    let acknowledged_percent = 100.0 * acknowledged as f64 / writes.max(1) as f64;
    let unwritten = (writes > 0 && acknowledged_percent < limits.min_hot_writes_percent).then(|| {
        let asked = limits.min_hot_writes_percent;
        format!("{acknowledged} of {writes} writes of the hot key acknowledged, {asked}% are asked")
    });
    [
        late("isolated", report.moments.isolated_ms, limits.max_isolated_ms),
        late("spread", report.moments.spread_ms, limits.max_spread_ms),
        above("stale reads", report.stale_reads, limits.max_stale_reads),
        above("errors", report.errors, limits.max_errors),
        unwritten,
        lost("what else is read lost", report.dip_points),
        lost(
            "the hot key itself missed",
            100.0 * (1.0 - report.hot_reads.hit_rate),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}
