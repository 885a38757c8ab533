//! [`Loads`]: what nodes report of their load, as the Sharder is to see it.
//!
//! A report says what a node measured over the last seconds, and that lags behind what the Assigner knows: who has just taken a
//! range reports next to nothing of it. Acted on as it stands, it would be given more, and all would swing. So:
//!
//! - What each node bears is smoothed with a half-life of [`BORNE_HALF_LIFE_MS`], unless [`ODD_MAX`] reports on end are all far
//!   off on the same side, which is no noise; and it counts as its *share* of what all report now, which does not lag when all
//!   load rises or falls. A range that moves takes its part along at once, and is known by what was seen of it before for
//!   [`CARRIED_MS`].
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

/// What has moved is known by what was seen of it before for so many milliseconds: its new owner has measured 15/16 of it then.
const CARRIED_MS: u64 = 4_000;

/// From so many reports on what a node bears is known well enough to move anything by it.
const REPORTS_KNOWN: u32 = 8;

/// Reports are looked at no more often than nodes send them.
const REFRESH_MS_MIN: u64 = 500;

/// A hot key counts with what was reported of it highest within so many milliseconds.
const HOT_HELD_MS: u64 = 3_000;

/// A hot key rises while a round finds it above the last one by more than this part, and so does the whole load...
const RISING: f64 = 0.2;

/// ...and a key only if it draws more than this part of a node's fair load...
const RISING_FROM: f64 = 0.1;

/// ...which counts as so many operations per second at least: what few operations do from second to second is chance, and a
/// cluster that is nearly idle fills who joins it all the same.
const RISING_LOAD_MIN: f64 = 1_000.0;

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
    /// What all reported, hot keys apart, in the last balancing round.
    whole_asked: f64,
    /// What each bore, smoothed, when it was last looked at...
    bore_before: BTreeMap<Life, f64>,
    /// ...and how it lay.
    seen: BTreeMap<Life, Vec<SliceLoad>>,
    /// What was seen of ranges that have just moved.
    carried: Vec<Carried>,
}

/// A range that has just moved.
#[derive(Clone, Debug)]
struct Carried {
    /// Who took it.
    life: Life,
    /// What was seen of it where it was.
    load: SliceLoad,
    until: Timestamp,
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

    /// Ranges that move from one node take their parts of what it bears with them, and are known by what was seen of them until
    /// their new owners have measured them.
    fn moved(&mut self, from: &Life, slices: &[(Slice, Life)], now: Timestamp) {
        let seen = self.seen.get(from).cloned().unwrap_or_default();
        let whole: f64 = seen.iter().map(|part| part.operations_per_second).sum();
        for (slice, to) in slices {
            let within = seen.iter().filter_map(|part| {
                let common = part.slice.intersect(*slice)?;
                let of_it = common.width() as f64 / part.slice.width() as f64;
                Some(cut(part, common, of_it))
            });
            let within: Vec<SliceLoad> = within.collect();
            let load: f64 = within.iter().map(|part| part.operations_per_second).sum();
            self.carried.extend(within.into_iter().map(|load| Carried {
                life: to.clone(),
                load,
                until: now.plus_ms(CARRIED_MS),
            }));
            let part = if whole > 0.0 { (load / whole).min(1.0) } else { 0.0 };
            self.shift(from, to, part);
        }
    }

    /// Such a part of what one bore is another's.
    fn shift(&mut self, from: &Life, to: &Life, part: f64) {
        let Some(bore) = self.bore_before.get(from).copied() else {
            return;
        };
        let moved = bore * part;
        // What is odd by what was before is not by what is now.
        if let Some(giver) = self.borne.get_mut(from) {
            *giver = Borne {
                smoothed: (giver.smoothed - moved).max(0.0),
                odd: 0,
                odd_sum: 0.0,
                ..*giver
            };
        }
        let taker = self.borne.entry(to.clone()).or_default();
        *taker = Borne {
            smoothed: taker.smoothed + moved,
            // Who has had nothing does not learn from its first report that it has nothing.
            reports: taker.reports.max(REPORTS_MIN),
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

    /// Takes what each bears as it is: the whole load begins, ends or leaps, and no two nodes have measured the same of that.
    fn begin(&mut self, reported: &[Reported<'_>]) {
        let raw = |node: &Reported<'_>| {
            let borne = Borne {
                smoothed: node.base,
                ..Borne::default()
            };
            (node.life.clone(), borne)
        };
        self.borne = reported.iter().map(raw).collect();
        self.refreshed_at = None;
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
            let new = Borne {
                reports: if is_known { REPORTS_MIN } else { 0 },
                ..Borne::default()
            };
            let was = self.borne.get(node.life).copied().unwrap_or(new);
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

    /// The hot keys, hottest first, each with the highest of what was lately reported of it; and whether one of them still rises
    /// or falls, above `least`. What is on its way up counts with as much again as it has risen since the last round: so it has its
    /// replicas when it needs them.
    fn see_hot(
        &mut self,
        sums: BTreeMap<SliceKey, f64>,
        least: f64,
        is_round: bool,
        now: Timestamp,
    ) -> (Vec<HotKey>, bool) {
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
        let is_much = |seen: &HotSeen| seen.rate.max(seen.asked) > least;
        let mut is_any_changing = false;
        self.hot.retain(|_, seen| {
            let is_seen = now.ms_since(seen.at) < HOT_HELD_MS;
            is_any_changing |= !is_seen && is_much(seen);
            is_seen
        });
        let mut keys = Vec::with_capacity(self.hot.len());
        for (at, seen) in &mut self.hot {
            let is_rising = is_much(seen) && seen.rate > seen.asked * (1.0 + RISING);
            let is_falling = is_much(seen) && seen.rate < seen.asked * (1.0 - RISING);
            let rise = if is_rising {
                (seen.rate - seen.asked).min(seen.rate)
            } else {
                0.0
            };
            is_any_changing |= is_rising || is_falling;
            keys.push(HotKey {
                at: *at,
                operations_per_second: seen.rate + rise,
            });
            if is_round {
                seen.asked = seen.rate;
            }
        }
        keys.sort_by(|a, b| b.operations_per_second.total_cmp(&a.operations_per_second));
        (keys, is_any_changing)
    }
}

/// What the Sharder is shown of the load.
pub(super) struct LoadsSeen {
    pub(super) slices: Vec<SliceLoad>,
    pub(super) hot_keys: Vec<HotKey>,
    /// A hot key, or all there is, is still on its way up or down, or has only begun: what will be is not known yet.
    pub(super) is_changing: bool,
}

impl Assigner {
    /// Load per slice and hot keys, as the Sharder is to see them, for ranges that are held as `base` says. `is_round`: in a
    /// balancing round, of which each looks at what the one before saw.
    pub(super) fn loads_seen(
        &mut self,
        base: Option<&Assignment>,
        is_round: bool,
        now: Timestamp,
    ) -> LoadsSeen {
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
        let mut loads = self.loads.clone();
        loads.carried.retain(|carried| now < carried.until);
        let reported: Vec<Reported<'_>> = reports
            .iter()
            .map(|(life, report)| loads.with_carried(base, reported(base, life, report)))
            .collect();
        let all_known = self.owner_without_report(now).is_none();
        let whole: f64 = reported.iter().map(|node| node.base).sum();
        let nodes = self.members.len().max(1) as f64;
        let much = whole.max(loads.whole_asked).max(RISING_LOAD_MIN * nodes);
        let is_changing = (whole - loads.whole_asked).abs() > much * RISING;
        if is_changing {
            loads.begin(&reported);
        } else {
            loads.refresh(&reported, all_known, now);
        }
        loads.seen.clear();
        for node in &reported {
            let due = whole * loads.share(node.life);
            let scale = if node.base > 0.0 {
                (due / node.base).min(SCALE_MAX)
            } else {
                1.0
            };
            let rest = due - node.base * scale;
            let mut seen: Vec<SliceLoad> = node.parts.iter().map(|part| scaled(part, scale)).collect();
            if rest > whole * 1e-6 {
                seen.extend(spread(base, node.life, rest));
            }
            loads.seen.insert(node.life.clone(), seen);
        }
        let bore = loads
            .borne
            .iter()
            .map(|(life, borne)| (life.clone(), borne.smoothed));
        loads.bore_before = bore.collect();
        let hot: f64 = sums.values().sum();
        let least = ((whole + hot) / nodes).max(RISING_LOAD_MIN) * RISING_FROM;
        let (hot_keys, is_hot_changing) = loads.see_hot(sums, least, is_round, now);
        let is_new = loads.borne.values().any(|borne| borne.reports < REPORTS_KNOWN);
        let is_changing = is_hot_changing || is_changing || is_new;
        if is_round {
            loads.whole_asked = whole;
        }
        let mut slices: Vec<SliceLoad> = loads.seen.values().flatten().copied().collect();
        slices.extend(hot_keys.iter().map(|key| SliceLoad {
            operations_per_second: key.operations_per_second,
            hits_per_second: key.operations_per_second,
            ..SliceLoad::idle(Slice::single(key.at))
        }));
        self.loads = loads;
        LoadsSeen {
            slices,
            hot_keys,
            is_changing,
        }
    }

    /// A new assignment moves these.
    pub(super) fn loads_moved(&mut self, moves: Vec<(Slice, Life, Life)>, now: Timestamp) {
        let mut by_giver: BTreeMap<Life, Vec<(Slice, Life)>> = BTreeMap::new();
        for (slice, from, to) in moves {
            by_giver.entry(from).or_default().push((slice, to));
        }
        for (from, slices) in by_giver {
            self.loads.moved(&from, &slices, now);
        }
        self.loads.placed();
    }
}

impl Loads {
    /// What a node reports, with what it has just taken at no less than was seen of that before.
    fn with_carried<'a>(&self, base: Option<&Assignment>, mut node: Reported<'a>) -> Reported<'a> {
        for carried in self.carried.iter().filter(|carried| carried.life == *node.life) {
            if !holds(base, node.life, carried.load.slice) {
                continue;
            }
            let mut kept = Vec::with_capacity(node.parts.len() + 2);
            let (mut load, mut bytes) = (0.0, 0);
            for part in &node.parts {
                let Some(common) = part.slice.intersect(carried.load.slice) else {
                    kept.push(*part);
                    continue;
                };
                let of_it = |slice: Slice| slice.width() as f64 / part.slice.width() as f64;
                let inside = cut(part, common, of_it(common));
                load += inside.operations_per_second;
                bytes += inside.bytes;
                let below = Slice::new(part.slice.low(), Some(common.low()));
                let above = common
                    .high_excluded()
                    .and_then(|high| Slice::between(high, part.slice.last()));
                let outside = below.into_iter().chain(above);
                kept.extend(outside.map(|slice| cut(part, slice, of_it(slice))));
            }
            kept.push(SliceLoad {
                operations_per_second: carried.load.operations_per_second.max(load),
                bytes: carried.load.bytes.max(bytes),
                ..carried.load
            });
            node.parts = kept;
        }
        node.base = node.parts.iter().map(|part| part.operations_per_second).sum();
        node
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
                parts.push(cut(&cold, part, of_it));
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

/// A part of a report that is even within itself.
fn cut(load: &SliceLoad, slice: Slice, of_it: f64) -> SliceLoad {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a part of a number of bytes is not negative; the cast stops at the end"
    )]
    let bytes = (load.bytes as f64 * of_it) as u64;
    SliceLoad {
        slice,
        bytes,
        ..scaled(load, of_it)
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
