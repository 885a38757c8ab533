//! [`Loads`]: what nodes report of their load, as the Sharder is to see it.
//!
//! A report says what a node measured over the last seconds, and that wavers, and lags behind what the Assigner knows: who has
//! just taken a range reports next to nothing of it. Acted on as it stands, it would be given more, and all would swing. So what
//! every range draws is kept ([`LoadMap`]), smoothed with a half-life of [`HALF_LIFE_MS`], and
//!
//! - what has changed hands stays as it was known for [`FRESH_MS`];
//! - all is scaled to what is reported now, so it does not lag when all load rises or falls; when the whole leaps, what was known
//!   counts no more, nor that of a node whose load takes a step ([`Steps`]), unless leaps are all there is;
//! - hot keys are kept apart ([`HotKeys`]): they are no noise, and there is no time to lose with them.
//!
//! A node counts only for what it owns or reads for, and one that has died is known by its last report until its ranges are placed.

mod hot;
mod map;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use self::hot::HotKeys;
use self::map::{LoadMap, Measured, Rates, Trust, width};
use self::steps::Steps;
use super::Assigner;
use crate::assignment::Assignment;
use crate::node::Life;
use crate::session::{LoadReport, SliceLoad};
use crate::sharder::HotKey;
use crate::slice::Slice;
use crate::slice_key::SliceKey;
use crate::time::Timestamp;

/// What ranges draw is smoothed with this half-life: noise of 10% of it, new in each second, is 1.5% then.
const HALF_LIFE_MS: f64 = 16_000.0;

/// What has changed hands stays as it was known for so many milliseconds: its new owner has measured 15/16 of it then.
const FRESH_MS: u64 = 4_000;

/// From so many reports on what a range draws is known well enough to move anything by it.
const REPORTS_KNOWN: u32 = 8;

/// Reports are looked at no more often than nodes send them.
const REFRESH_MS_MIN: u64 = 500;

/// The whole load leaps if a balancing round finds it this part off the one before, of the larger...
const LEAP: f64 = 0.2;

/// ...which counts as so many operations per second for each node at least: what few operations do from second to second is
/// chance, and a cluster that is nearly idle fills who joins it all the same.
const LEAP_LOAD_MIN: f64 = 1_000.0;

/// So many milliseconds after a leap all is calm...
const CALM_AFTER_MS: u64 = 8_000;

/// ...and where it has not been for so many, leaps are this load's nature: it is judged by what it is on the whole.
const UNREST_MS_MAX: u64 = 30_000;

/// A hot key that changes is waited for if it draws more than this part of a node's fair load.
const HOT_PART_MIN: f64 = 0.1;

/// What is remembered of the load besides the members' last reports.
#[derive(Debug, Default)]
pub(super) struct Loads {
    map: LoadMap,
    steps: Steps,
    hot: HotKeys,
    /// The last reports of the dead, until their ranges are placed.
    ghosts: BTreeMap<Life, LoadReport>,
    refreshed_at: Option<Timestamp>,
    /// What all reported, hot keys apart, in the last balancing round.
    whole_asked: f64,
    unrest: Option<Unrest>,
}

/// The whole load leaps, again and again.
#[derive(Clone, Copy, Debug)]
struct Unrest {
    since: Timestamp,
    leapt_at: Timestamp,
}

/// What the Sharder is shown of the load.
pub(super) struct LoadsSeen {
    pub(super) slices: Vec<SliceLoad>,
    pub(super) hot_keys: Vec<HotKey>,
    /// A hot key, or all there is, is still on its way up or down, or has only begun: what will be is not known yet.
    pub(super) is_changing: bool,
}

impl Loads {
    /// A life is dead.
    pub(super) fn bury(&mut self, life: &Life, last: LoadReport) {
        self.ghosts.insert(life.clone(), last);
    }

    /// Whether the whole load leaps, and is not one that always does.
    fn leaps(&mut self, whole: f64, nodes: f64, now: Timestamp) -> bool {
        let much = whole.max(self.whole_asked).max(LEAP_LOAD_MIN * nodes);
        let is_leaping = (whole - self.whole_asked).abs() > much * LEAP;
        self.unrest
            .take_if(|unrest| now.ms_since(unrest.leapt_at) >= CALM_AFTER_MS);
        if !is_leaping {
            return false;
        }
        let since = self.unrest.map_or(now, |unrest| unrest.since);
        self.unrest = Some(Unrest { since, leapt_at: now });
        now.ms_since(since) < UNREST_MS_MAX
    }

    /// Takes what is reported as it is: the whole load begins, ends or leaps, and no two nodes have measured the same of that.
    fn begin(&mut self, measured: &[Measured], reporters: usize, now: Timestamp) {
        self.map = LoadMap::default();
        self.steps = Steps::default();
        self.refreshed_at = Some(now);
        let trust = Trust {
            weight: 1.0,
            anew: None,
        };
        self.map.hear(measured, &vec![trust; reporters], true, now);
    }

    /// Takes in what is reported.
    fn refresh(&mut self, measured: &[Measured], lives: &[&Life], are_all_known: bool, now: Timestamp) {
        let passed_ms = self.refreshed_at.map(|at| now.ms_since(at));
        if passed_ms.is_some_and(|ms| ms < REFRESH_MS_MIN) {
            return;
        }
        // What comes after nothing is not smoothed.
        let before_ms = passed_ms.filter(|_| self.map.whole() > 0.0);
        let weight = before_ms.map_or(1.0, |ms| 1.0 - (-(ms as f64) / HALF_LIFE_MS).exp2());
        self.refreshed_at = Some(now);
        let compared = self.map.compare(measured, lives.len(), now);
        let trust = self.steps.judge(lives, &compared, weight);
        self.map.hear(measured, &trust, are_all_known, now);
    }
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
        let are_all_known = self.owner_without_report(now).is_none();
        let nodes = self.members.len().max(1) as f64;
        let mut loads = std::mem::take(&mut self.loads);
        let ghosts = std::mem::take(&mut loads.ghosts);
        let living = self.members.values().map(|member| (&member.life, &member.load));
        let reports: Vec<(&Life, &LoadReport)> = living.chain(&ghosts).collect();
        let sums = hot_keys(base, &reports);
        let measured = measured(base, &reports);
        let lives: Vec<&Life> = reports.iter().map(|(life, _)| *life).collect();
        let whole = loads.map.reported(&measured, now);
        let is_leaping = loads.leaps(whole, nodes, now);
        if is_leaping {
            loads.begin(&measured, lives.len(), now);
        } else {
            loads.refresh(&measured, &lives, are_all_known, now);
        }
        let hot: f64 = sums.values().sum();
        let least = ((whole + hot) / nodes).max(LEAP_LOAD_MIN) * HOT_PART_MIN;
        let (hot_keys, is_hot_changing) = loads.hot.see(sums, least, is_round, now);
        if is_round {
            loads.whole_asked = whole;
        }
        let known = loads.map.whole();
        let scale = if known > 0.0 { whole / known } else { 1.0 };
        let mut slices: Vec<SliceLoad> = loads.map.shown(scale).collect();
        slices.extend(hot_keys.iter().map(|key| SliceLoad {
            operations_per_second: key.operations_per_second,
            hits_per_second: key.operations_per_second,
            ..SliceLoad::idle(Slice::single(key.at))
        }));
        let is_changing = is_hot_changing || is_leaping || loads.map.is_newer_than(REPORTS_KNOWN);
        self.loads = Loads { ghosts, ..loads };
        LoadsSeen {
            slices,
            hot_keys,
            is_changing,
        }
    }

    /// A new assignment moves these, each from one to another.
    pub(super) fn loads_moved(&mut self, moves: &[(Slice, Life, Life)], now: Timestamp) {
        for (_, from, to) in moves {
            self.loads.steps.forget(from);
            self.loads.steps.forget(to);
        }
        let slices = moves.iter().map(|(slice, _, _)| *slice).collect();
        self.loads.map.moved(slices, now.plus_ms(FRESH_MS));
        self.loads.ghosts.clear();
    }
}

/// What owners and replicas report together of each hot key, and of each that has a slice of its own: that is counted, where a
/// hot key's load is estimated, and known when the key has cooled.
fn hot_keys(base: Option<&Assignment>, reports: &[(&Life, &LoadReport)]) -> BTreeMap<SliceKey, f64> {
    let mut sums = BTreeMap::new();
    for (life, report) in reports {
        let alone = || report.slices.iter().filter(|load| load.slice.width() == 1);
        let counted: BTreeSet<SliceKey> = alone().map(|load| load.slice.low()).collect();
        let estimated = report.hot_keys.iter().filter(|key| !counted.contains(&key.at));
        let estimated = estimated.map(|key| (key.at, key.operations_per_second));
        let counted = alone().map(|load| (load.slice.low(), load.operations_per_second));
        for (at, rate) in estimated.chain(counted) {
            if Held::of(base, life, Slice::single(at)).next().is_some() {
                *sums.entry(at).or_insert(0.0) += rate;
            }
        }
    }
    sums
}

/// A part of a range of which a life reports.
struct Held {
    part: Slice,
    as_owner: bool,
}

impl Held {
    /// What a life owns of a slice, or reads for. Before the first assignment all counts.
    fn of<'a>(base: Option<&'a Assignment>, life: &'a Life, slice: Slice) -> impl Iterator<Item = Held> + 'a {
        let all = base.is_none().then_some(Held {
            part: slice,
            as_owner: true,
        });
        let ranges = base
            .into_iter()
            .flat_map(move |base| base.ranges().overlapping(slice));
        let held = ranges.filter_map(move |(part, range)| {
            let as_owner = range.owner == *life;
            (as_owner || range.readers.replicas.contains(life)).then_some(Held { part, as_owner })
        });
        all.into_iter().chain(held)
    }
}

/// What nodes report of what they hold, hot keys apart: in order, and nothing twice. What replicas report of a range is added to
/// what its owner does.
fn measured(base: Option<&Assignment>, reports: &[(&Life, &LoadReport)]) -> Vec<Measured> {
    let (mut measured, mut read): (Vec<Measured>, Vec<Measured>) = (Vec::new(), Vec::new());
    for (reporter, (life, report)) in reports.iter().enumerate() {
        for slice in &report.slices {
            let hot = report.hot_keys.iter().filter(|key| slice.slice.contains(key.at));
            let hot: f64 = hot.map(|key| key.operations_per_second).sum();
            let is_alone = slice.slice.width() == 1;
            let density = density_of(slice, if is_alone { f64::INFINITY } else { hot });
            for Held { part, as_owner } in Held::of(base, life, slice.slice) {
                let list = if as_owner { &mut measured } else { &mut read };
                list.push(Measured {
                    slice: part,
                    density,
                    reporter,
                });
            }
        }
    }
    measured.sort_by_key(|part| part.slice.low());
    let mut end: Option<SliceKey> = None;
    measured.retain_mut(|part| {
        let from = end.map_or(Some(SliceKey::MIN), SliceKey::next);
        let rest = from.and_then(|from| Slice::between(part.slice.low().max(from), part.slice.last()));
        rest.is_some_and(|rest| {
            part.slice = rest;
            end = Some(rest.last());
            true
        })
    });
    for part in read {
        let from = measured.partition_point(|owned| owned.slice.last() < part.slice.low());
        for owned in &mut measured[from..] {
            let Some(common) = owned.slice.intersect(part.slice) else {
                break;
            };
            let mut density = part.density;
            density.bytes = 0.0;
            owned.density = owned.density.plus(density, width(common) / width(owned.slice));
        }
    }
    measured
}

/// What a report says of each position, without its hot keys, which draw so much, or all there is.
fn density_of(load: &SliceLoad, hot: f64) -> Rates {
    let cold = if load.operations_per_second > 0.0 {
        ((load.operations_per_second - hot) / load.operations_per_second).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let rates = Rates {
        operations: load.operations_per_second * cold,
        bytes_moved: load.bytes_per_second * cold,
        hits: load.hits_per_second * cold,
        cpu_us: load.cpu_us_per_second * cold,
        bytes: load.bytes as f64,
    };
    rates.times(1.0 / width(load.slice))
}
