//! [`Loads`]: what nodes report of their load, as the Sharder is to see it.
//!
//! A report says what a node measured over the last seconds, and that lags behind what the Assigner knows: who has just taken a
//! range reports next to nothing of it. Acted on as it stands, it would be given more, and all would swing. So:
//!
//! - What each node bears is smoothed with a half-life of [`BORNE_HALF_LIFE_MS`], unless [`ODD_MAX`] reports on end are all far
//!   off on the same side, which is no noise; and it counts as its *share* of what all report now, which does not lag when all
//!   load rises or falls. A range that moves takes its part along at once. How a share lies
//!   within the node is as it was reported last, or, of what it reports nothing yet, even over what it owns.
//! - A hot key is shown with the highest of what its owner and replicas reported together within [`HOT_HELD_MS`]: at once when
//!   it heats up, and for that long when it moves and its new owner has yet to see it.
//! - A node counts only for what it owns or reads for, and one that has died until its ranges are placed.

use std::collections::BTreeMap;

use super::Assigner;
use crate::assignment::Assignment;
use crate::node::Life;
use crate::session::{LoadReport, SliceLoad};
use crate::sharder::HotKey;
use crate::slice::Slice;
use crate::slice_key::SliceKey;
use crate::time::Timestamp;

/// What a node bears is smoothed with this half-life: noise of 10% of it, new in each second, is 1.5% then.
const BORNE_HALF_LIFE_MS: f64 = 16_000.0;

/// A report that differs from what is smoothed by more than this part of it is odd: by three standard deviations of noise of 10%.
const ODD: f64 = 0.3;

/// So many odd reports on end are a step in load. By noise of 10% that is one in years; and who has just taken a range, and sees
/// half of the rest of its load in each second, is odd for three.
const ODD_MAX: u32 = 4;

/// What came with a range is taken for the mean of so many reports.
const REPORTS_MIN: u32 = 32;

/// Reports are looked at no more often than nodes send them.
const REFRESH_MS_MIN: u64 = 500;

/// A hot key counts with what was reported of it highest within so many milliseconds.
const HOT_HELD_MS: u64 = 3_000;

/// A hot key rises while a round finds it above the last one by more than this part...
const RISING: f64 = 0.2;

/// ...and it draws more than this part of a node's fair load.
const RISING_FROM: f64 = 0.1;

/// What a node reports is scaled up to its share by this much; the rest lies evenly over what it owns.
const SCALE_MAX: f64 = 2.0;

/// What is remembered of the load besides the members' last reports.
#[derive(Clone, Debug, Default)]
pub(super) struct Loads {
    hot: BTreeMap<SliceKey, HotSeen>,
    /// What each reporter bears, hot keys apart, in operations per second, smoothed.
    borne: BTreeMap<Life, Borne>,
    /// The last reports of the dead, until their ranges are placed.
    ghosts: BTreeMap<Life, LoadReport>,
    refreshed_at: Option<Timestamp>,
}

/// What one reporter bears.
#[derive(Clone, Copy, Default, Debug)]
struct Borne {
    smoothed: f64,
    /// How many reports that is of: the first ones count alike.
    reports: u32,
    /// Odd reports on end, above what is smoothed if more than 0 and else below, and their sum.
    odd: i32,
    odd_sum: f64,
}

impl Borne {
    fn heard(self, is: f64, weight: f64) -> Self {
        let off = is - self.smoothed;
        let side = if off > 0.0 { 1 } else { -1 };
        let is_odd = off.abs() > ODD * self.smoothed;
        let goes_on = self.odd.signum() == side;
        let (odd, odd_sum) = match (is_odd, goes_on) {
            (true, true) => (self.odd + side, self.odd_sum + is),
            (true, false) => (side, is),
            (false, _) => (0, 0.0),
        };
        if odd.unsigned_abs() >= ODD_MAX {
            return Self {
                smoothed: odd_sum / f64::from(odd.unsigned_abs()),
                reports: odd.unsigned_abs(),
                ..Self::default()
            };
        }
        let weight = weight.max(1.0 / f64::from(self.reports + 1));
        Self {
            smoothed: self.smoothed + weight * off,
            reports: self.reports.saturating_add(1),
            odd,
            odd_sum,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct HotSeen {
    rate: f64,
    at: Timestamp,
    /// What it was when it was last asked whether it rises.
    asked: f64,
}

/// What one node reports of what it holds.
struct Reported<'a> {
    life: &'a Life,
    /// Without hot keys.
    parts: Vec<SliceLoad>,
    base: f64,
}

impl Loads {
    /// A life is dead.
    pub(super) fn bury(&mut self, life: &Life, last: LoadReport) {
        self.ghosts.insert(life.clone(), last);
    }

    /// Whether a key that draws a good part of a node's load has drawn more than before since this was last asked: what it will
    /// draw is not known yet.
    pub(super) fn is_any_rising(&mut self, fair: f64) -> bool {
        let mut is_rising = false;
        for seen in self.hot.values_mut() {
            let is_more = seen.rate > seen.asked * (1.0 + RISING);
            is_rising |= is_more && seen.rate > fair * RISING_FROM;
            seen.asked = seen.rate;
        }
        is_rising
    }

    /// A range moves: it takes its part of the share with it.
    pub(super) fn moved(&mut self, slice: Slice, from: &Life, to: &Life, report: &LoadReport) {
        let Some(borne) = self.borne.get_mut(from) else {
            return;
        };
        let part = borne.smoothed * part_of(report, slice).min(1.0);
        // What is odd by what was before is not by what is now.
        *borne = Borne {
            smoothed: borne.smoothed - part,
            odd: 0,
            odd_sum: 0.0,
            ..*borne
        };
        let taken = self.borne.entry(to.clone()).or_default();
        *taken = Borne {
            smoothed: taken.smoothed + part,
            // Who has had nothing does not learn from its first report that it has nothing.
            reports: taken.reports.max(REPORTS_MIN),
            odd: 0,
            odd_sum: 0.0,
        };
    }

    /// What the dead held has been placed.
    pub(super) fn placed(&mut self) {
        for life in std::mem::take(&mut self.ghosts).into_keys() {
            self.borne.remove(&life);
        }
    }

    /// The dead one's last report.
    pub(super) fn ghost(&self, life: &Life) -> Option<&LoadReport> {
        self.ghosts.get(life)
    }

    /// Smooths what each bears. Until all owners have reported, there is nothing to smooth.
    fn refresh(&mut self, reported: &[Reported<'_>], all_known: bool, now: Timestamp) {
        // What came after nothing is not smoothed.
        let is_known = self.borne.values().any(|borne| borne.smoothed > 0.0);
        let passed_ms = self.refreshed_at.filter(|_| is_known).map(|at| now.ms_since(at));
        if passed_ms.is_some_and(|ms| ms < REFRESH_MS_MIN) {
            return;
        }
        let weight = passed_ms.map_or(1.0, |ms| 1.0 - (-(ms as f64) / BORNE_HALF_LIFE_MS).exp2());
        if all_known || passed_ms.is_some() {
            self.refreshed_at = Some(now);
        }
        let smoothed = |node: &Reported<'_>| {
            let was = self.borne.get(node.life).copied().unwrap_or_default();
            (node.life.clone(), was.heard(node.base, weight))
        };
        self.borne = reported.iter().map(smoothed).collect();
    }

    /// A node's share of the load, hot keys apart.
    fn share(&self, life: &Life) -> f64 {
        let whole: f64 = self.borne.values().map(|borne| borne.smoothed).sum();
        let borne = self.borne.get(life).map_or(0.0, |borne| borne.smoothed);
        if whole > 0.0 { borne / whole } else { 0.0 }
    }

    fn see_hot(&mut self, sums: BTreeMap<SliceKey, f64>, now: Timestamp) -> Vec<HotKey> {
        for (at, rate) in sums {
            let seen = self.hot.entry(at).or_insert(HotSeen {
                rate,
                at: now,
                asked: 0.0,
            });
            if rate >= seen.rate || now.ms_since(seen.at) >= HOT_HELD_MS {
                *seen = HotSeen {
                    rate,
                    at: now,
                    ..*seen
                };
            }
        }
        self.hot.retain(|_, seen| now.ms_since(seen.at) < HOT_HELD_MS);
        let keys = self.hot.iter().map(|(at, seen)| HotKey {
            at: *at,
            operations_per_second: seen.rate,
        });
        let mut keys: Vec<HotKey> = keys.collect();
        keys.sort_by(|a, b| b.operations_per_second.total_cmp(&a.operations_per_second));
        keys
    }
}

impl Assigner {
    /// Load per slice and hot keys, as the Sharder is to see them, for ranges that are held as `base` says.
    pub(super) fn loads_seen(
        &mut self,
        base: Option<&Assignment>,
        now: Timestamp,
    ) -> (Vec<SliceLoad>, Vec<HotKey>) {
        let living = self.members.values().map(|member| (&member.life, &member.load));
        let reports: Vec<(&Life, &LoadReport)> = living.chain(&self.loads.ghosts).collect();
        let mut sums = BTreeMap::new();
        for (life, report) in &reports {
            for key in &report.hot_keys {
                if holds(base, life, Slice::single(key.at)) {
                    *sums.entry(key.at).or_insert(0.0) += key.operations_per_second;
                }
            }
        }
        let reported: Vec<Reported<'_>> = reports
            .iter()
            .map(|(life, report)| reported(base, life, report))
            .collect();
        let all_known = self.owner_without_report(now).is_none();
        let mut loads = self.loads.clone();
        loads.refresh(&reported, all_known, now);
        let whole: f64 = reported.iter().map(|node| node.base).sum();
        let mut seen = Vec::new();
        for node in &reported {
            let due = whole * loads.share(node.life);
            let scale = if node.base > 0.0 {
                (due / node.base).min(SCALE_MAX)
            } else {
                1.0
            };
            let rest = due - node.base * scale;
            seen.extend(node.parts.iter().map(|part| scaled(part, scale)));
            if rest > whole * 1e-6 {
                seen.extend(spread(base, node.life, rest));
            }
        }
        let hot = loads.see_hot(sums, now);
        seen.extend(hot.iter().map(|key| SliceLoad {
            operations_per_second: key.operations_per_second,
            hits_per_second: key.operations_per_second,
            ..SliceLoad::idle(Slice::single(key.at))
        }));
        self.loads = loads;
        (seen, hot)
    }

    /// A new assignment moves these.
    pub(super) fn loads_moved(&mut self, moves: &[(Slice, Life, Life)]) {
        let mut loads = std::mem::take(&mut self.loads);
        for (slice, from, to) in moves {
            let member = self.members.get(&from.node).filter(|member| member.life == *from);
            let ghost = loads.ghost(from).cloned();
            if let Some(report) = member.map(|member| &member.load).or(ghost.as_ref()) {
                loads.moved(*slice, from, to, report);
            }
        }
        loads.placed();
        self.loads = loads;
    }
}

/// Whether a life owns something of a slice, or reads for it. Before the first assignment all count.
fn holds(base: Option<&Assignment>, life: &Life, slice: Slice) -> bool {
    let Some(base) = base else { return true };
    let mut ranges = base.ranges().overlapping(slice);
    ranges.any(|(_, range)| range.owner == *life || range.readers.replicas.contains(life))
}

/// What a node reports of what it holds, without hot keys.
fn reported<'a>(base: Option<&Assignment>, life: &'a Life, report: &LoadReport) -> Reported<'a> {
    let mut parts = Vec::with_capacity(report.slices.len());
    for slice in &report.slices {
        let hot = report.hot_keys.iter().filter(|key| slice.slice.contains(key.at));
        let hot: f64 = hot.map(|key| key.operations_per_second).sum();
        let cold = scaled(slice, cold_part(slice.operations_per_second, hot));
        let Some(base) = base else {
            parts.push(cold);
            continue;
        };
        for (part, range) in base.ranges().overlapping(slice.slice) {
            if range.owner == *life || range.readers.replicas.contains(life) {
                let of_it = part.width() as f64 / slice.slice.width() as f64;
                let bytes = (cold.bytes as f64 * of_it) as u64;
                parts.push(SliceLoad {
                    slice: part,
                    bytes,
                    ..scaled(&cold, of_it)
                });
            }
        }
    }
    let base = parts.iter().map(|part| part.operations_per_second).sum();
    Reported { life, parts, base }
}

/// The part of a slice's load that is not its hot keys'.
fn cold_part(rate: f64, hot: f64) -> f64 {
    if rate > 0.0 {
        ((rate - hot) / rate).clamp(0.0, 1.0)
    } else {
        0.0
    }
}

/// The same bytes with so many times the load.
fn scaled(load: &SliceLoad, by: f64) -> SliceLoad {
    SliceLoad {
        operations_per_second: load.operations_per_second * by,
        bytes_per_second: load.bytes_per_second * by,
        hits_per_second: load.hits_per_second * by,
        cpu_us_per_second: load.cpu_us_per_second * by,
        ..*load
    }
}

/// A load that lies evenly over what a node owns.
fn spread(base: Option<&Assignment>, life: &Life, rate: f64) -> Vec<SliceLoad> {
    let ranges = base.into_iter().flat_map(|base| base.ranges().iter());
    let owned: Vec<Slice> = ranges
        .filter(|(_, range)| range.owner == *life)
        .map(|(slice, _)| slice)
        .collect();
    let width: f64 = owned.iter().map(|slice| slice.width() as f64).sum();
    let of = |slice: &Slice| SliceLoad {
        operations_per_second: rate * slice.width() as f64 / width,
        ..SliceLoad::idle(*slice)
    };
    owned.iter().map(of).collect()
}

/// Which part of what a node reports lies in a slice; by width, if it reports nothing.
fn part_of(report: &LoadReport, slice: Slice) -> f64 {
    let whole: f64 = report.slices.iter().map(|part| part.operations_per_second).sum();
    let within = |part: &SliceLoad| {
        let common = part.slice.intersect(slice)?;
        Some(part.operations_per_second * common.width() as f64 / part.slice.width() as f64)
    };
    if whole > 0.0 {
        report.slices.iter().filter_map(within).sum::<f64>() / whole
    } else {
        0.0
    }
}
