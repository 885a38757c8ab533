//! [`Explanations`]: why the last assignments changed what they changed, what that was expected to gain and cost, and what it did
//! cost.
//!
//! A *change* is an assignment in which something moves. Its reasons are the Sharder's; where that names none, what is known of
//! the former owner tells it. How each move ended is the takers' word. What they pulled is read off the counters of their
//! heartbeats, from the publishing to the end of all moves to them: so two changes that overlap at one taker share what it
//! pulled between them unevenly, and the sum is right.

use std::cell::LazyCell;
use std::collections::{BTreeMap, VecDeque};

use crate::assignment::Assignment;
use crate::generation::Generation;
use crate::node::{Life, NodeId};
use crate::session::{HandoffOutcome, LoadReport, SliceLoad};
use crate::sharder::{ClusterView, NodeRole, NodesByName, PlacedMove, Placement, Reason};
use crate::slice::Slice;
use crate::time::Timestamp;

/// Most changes that are remembered.
pub const CHANGES_MAX: usize = 256;

/// Most moves of one change that are told one by one; of the others only the number and the sums.
pub const MOVES_PER_CHANGE_MAX: usize = 256;

/// What made the Assigner ask its Sharder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeCause {
    /// There was no assignment.
    First,
    /// Nodes came, went, drained, or ended hand-offs.
    Membership,
    /// The load alone.
    Balance,
}

/// How a move ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveEnd {
    /// All that was to be had has arrived.
    Completed,
    /// The taker gave up: a deadline, a full store, a giver that went away.
    GaveUp,
    /// Nobody living had anything.
    Cold,
    /// The range moved on, or its owner went away, before it was over.
    Overtaken,
    /// Replicas only: nothing is handed over.
    Nothing,
}

/// One move of a change, and what has become of it.
#[derive(Clone, PartialEq, Debug)]
pub struct MoveRecord {
    /// What moved, why, and what was expected.
    pub change: PlacedMove,
    /// How it ended; `None`: it is under way.
    pub end: Option<MoveEnd>,
    /// Milliseconds from its publishing to its end.
    pub took_ms: u64,
    /// Positions whose hand-off is not over.
    left: u128,
    gave_up: bool,
}

/// An assignment in which something moved.
#[derive(Clone, PartialEq, Debug)]
pub struct ChangeRecord {
    /// Which.
    pub generation: Generation,
    /// When, on the wall clock.
    pub unix_ms: u64,
    /// What made it.
    pub cause: ChangeCause,
    /// At most [`MOVES_PER_CHANGE_MAX`].
    pub moves: Vec<MoveRecord>,
    /// How many there were.
    pub moves_total: u64,
    /// Bytes that were expected to be pulled.
    pub predicted_bytes: f64,
    /// Bytes that its takers have pulled, keys and values.
    pub pulled_bytes: u64,
    /// Entries that its takers have pulled.
    pub pulled_entries: u64,
    published_at: Timestamp,
    takers: Vec<Taker>,
}

/// A node that takes something in a change.
#[derive(Clone, PartialEq, Debug)]
struct Taker {
    life: Life,
    bytes_before: u64,
    entries_before: u64,
    bytes: u64,
    entries: u64,
    is_done: bool,
}

/// Why the last assignments changed what they changed.
#[derive(Debug, Default)]
pub struct Explanations {
    oldest_first: VecDeque<ChangeRecord>,
    /// Changes that each life still takes something in.
    open: BTreeMap<Life, Vec<Generation>>,
    totals: MoveTotals,
}

/// All moves since the Assigner's start.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct MoveTotals {
    /// How many for each reason.
    pub moves: BTreeMap<Reason, u64>,
    /// How many for each end.
    pub ended: BTreeMap<&'static str, u64>,
    /// Bytes that were expected to be pulled.
    pub predicted_bytes: f64,
    /// Bytes that were pulled in changes that are over.
    pub pulled_bytes: u64,
}

impl MoveEnd {
    /// Its name, for status and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::GaveUp => "gave up",
            Self::Cold => "cold",
            Self::Overtaken => "overtaken",
            Self::Nothing => "nothing to hand over",
        }
    }
}

impl ChangeCause {
    /// Its name, for status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Membership => "membership",
            Self::Balance => "balance",
        }
    }
}

impl Explanations {
    /// The changes that are remembered, oldest first, at most [`CHANGES_MAX`].
    pub fn changes(&self) -> impl DoubleEndedIterator<Item = &ChangeRecord> {
        self.oldest_first.iter()
    }

    /// All moves since the start.
    #[must_use]
    pub fn totals(&self) -> &MoveTotals {
        &self.totals
    }

    /// An assignment is published that makes these moves.
    pub(super) fn published(
        &mut self,
        (generation, unix_ms, cause): (Generation, u64, ChangeCause),
        moves: Vec<PlacedMove>,
        assignment: &Assignment,
        load_of: impl Fn(&Life) -> (u64, u64),
        now: Timestamp,
    ) {
        self.overtake(assignment, now);
        if moves.is_empty() {
            return;
        }
        for change in &moves {
            *self.totals.moves.entry(change.reason).or_default() += 1;
            self.totals.predicted_bytes += change.cost_bytes;
        }
        let predicted_bytes = moves.iter().map(|change| change.cost_bytes).sum();
        let (moves_total, mut takers) = (moves.len() as u64, BTreeMap::new());
        let mut records = Vec::new();
        for change in moves.into_iter().take(MOVES_PER_CHANGE_MAX) {
            let mut left = 0;
            for (part, range) in assignment.ranges().overlapping(change.slice) {
                if range.since == generation && !range.providers.is_empty() {
                    left += part.width();
                    takers.entry(range.owner.clone()).or_insert(());
                }
            }
            let end = match (left, change.reason) {
                (1.., _) => None,
                (0, Reason::Replicated | Reason::Dereplicated | Reason::HotKeyIsolated) => {
                    Some(MoveEnd::Nothing)
                }
                (0, _) => Some(MoveEnd::Cold),
            };
            if let Some(end) = end {
                *self.totals.ended.entry(end.as_str()).or_default() += 1;
            }
            records.push(MoveRecord {
                change,
                end,
                took_ms: 0,
                left,
                gave_up: false,
            });
        }
        let taker = |life: &Life| {
            let (bytes_before, entries_before) = load_of(life);
            Taker {
                life: life.clone(),
                bytes_before,
                entries_before,
                bytes: 0,
                entries: 0,
                is_done: false,
            }
        };
        for life in takers.keys() {
            self.open.entry(life.clone()).or_default().push(generation);
        }
        self.oldest_first.push_back(ChangeRecord {
            generation,
            unix_ms,
            cause,
            moves: records,
            moves_total,
            predicted_bytes,
            pulled_bytes: 0,
            pulled_entries: 0,
            published_at: now,
            takers: takers.keys().map(taker).collect(),
        });
        if self.oldest_first.len() > CHANGES_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            for open in self.open.values_mut() {
                open.retain(|generation| *generation != oldest.generation);
            }
            self.open.retain(|_, open| !open.is_empty());
        }
    }

    /// A taker's word on a hand-off.
    pub(super) fn ended(&mut self, slice: Slice, since: Generation, outcome: HandoffOutcome, now: Timestamp) {
        let Some(change) = self
            .oldest_first
            .iter_mut()
            .rev()
            .find(|change| change.generation == since)
        else {
            return;
        };
        for record in change.moves.iter_mut().filter(|record| record.end.is_none()) {
            let Some(part) = record.change.slice.intersect(slice) else {
                continue;
            };
            record.left = record.left.saturating_sub(part.width());
            record.gave_up |= outcome == HandoffOutcome::GaveUp;
            if record.left == 0 {
                let end = if record.gave_up {
                    MoveEnd::GaveUp
                } else {
                    MoveEnd::Completed
                };
                record.end = Some(end);
                record.took_ms = now.ms_since(change.published_at);
                *self.totals.ended.entry(end.as_str()).or_default() += 1;
            }
        }
    }

    /// Moves that are under way and that a newer assignment says nothing of any more.
    fn overtake(&mut self, assignment: &Assignment, now: Timestamp) {
        for change in self
            .oldest_first
            .iter_mut()
            .filter(|change| change.takers.iter().any(|taker| !taker.is_done))
        {
            let since = change.generation;
            for record in change.moves.iter_mut().filter(|record| record.end.is_none()) {
                let mut ranges = assignment.ranges().overlapping(record.change.slice);
                if ranges.any(|(_, range)| range.since == since && !range.providers.is_empty()) {
                    continue;
                }
                record.end = Some(MoveEnd::Overtaken);
                record.took_ms = now.ms_since(change.published_at);
                *self.totals.ended.entry(MoveEnd::Overtaken.as_str()).or_default() += 1;
            }
        }
    }

    /// A heartbeat says how much its node has pulled in all.
    pub(super) fn heard(&mut self, life: &Life, load: &LoadReport) {
        let Some(open) = self.open.remove(life) else {
            return;
        };
        let mut still_open = Vec::new();
        for generation in open {
            let found = self.oldest_first.iter_mut().rev();
            let Some(change) = found.into_iter().find(|change| change.generation == generation) else {
                continue;
            };
            let is_open =
                |record: &MoveRecord| record.end.is_none() && record.change.to.as_ref() == Some(&life.node);
            let is_done = !change.moves.iter().any(is_open);
            for taker in change.takers.iter_mut().filter(|taker| taker.life == *life) {
                taker.bytes = load.bytes_imported.saturating_sub(taker.bytes_before);
                taker.entries = load.entries_imported.saturating_sub(taker.entries_before);
                taker.is_done = is_done;
                if is_done {
                    self.totals.pulled_bytes += taker.bytes;
                }
            }
            change.pulled_bytes = change.takers.iter().map(|taker| taker.bytes).sum();
            change.pulled_entries = change.takers.iter().map(|taker| taker.entries).sum();
            if !is_done {
                still_open.push(generation);
            }
        }
        if !still_open.is_empty() {
            self.open.insert(life.clone(), still_open);
        }
    }

    /// A life is dead: it pulls nothing any more.
    pub(super) fn forget(&mut self, life: &Life) {
        self.open.remove(life);
        let takers = self.oldest_first.iter_mut().flat_map(|change| &mut change.takers);
        for taker in takers.filter(|taker| taker.life == *life) {
            taker.is_done = true;
        }
    }
}

/// What `placement` changes against what is held, each with its reason: the Sharder's if it names one. `loads`: as in
/// [`ClusterView::loads`].
pub(super) fn moves_of(
    view: &ClusterView<'_>,
    loads: &[SliceLoad],
    placement: &Placement,
) -> Vec<PlacedMove> {
    let Some(previous) = view.previous else {
        return Vec::new();
    };
    let told = Told::new(placement.moves());
    // Sorting all that is reported is for what the Sharder has not told of.
    let bytes = LazyCell::new(|| Bytes::new(loads));
    let nodes = NodesByName::of(view);
    let role = |node: &NodeId| nodes.named(node).map(|held| held.role);
    let mut placed = placement.walk();
    let mut moves = Vec::new();
    for (slice, range) in previous.ranges().iter() {
        let from = nodes.node(&range.owner);
        for (part, node) in placed.next_in(slice) {
            if from.is_some_and(|from| from.life.node == *node) {
                continue;
            }
            let named = from.map(|from| &from.life.node);
            if let Some(told) = told.find(part, Some(node)) {
                moves.push(told);
                continue;
            }
            let reason = match from.map(|from| from.role) {
                None => Reason::LostNode,
                Some(NodeRole::Leaving) if role(node) == Some(NodeRole::Reserve) => Reason::ReserveFill,
                Some(NodeRole::Leaving) => Reason::Drain,
                Some(_) => Reason::Underused,
            };
            moves.push(PlacedMove {
                slice: part,
                from: named.cloned(),
                to: Some(node.clone()),
                reason,
                gain: 0.0,
                cost_bytes: if from.is_some() { bytes.of(part) } else { 0.0 },
                cost_misses: 0.0,
            });
        }
    }
    let only_read = |reason: Reason| {
        matches!(
            reason,
            Reason::Replicated | Reason::Dereplicated | Reason::HotKeyIsolated
        )
    };
    let of_replicas = placement.moves().iter().filter(|change| only_read(change.reason));
    moves.extend(of_replicas.cloned());
    moves
}

/// The Sharder's reasons, by range.
struct Told<'a> {
    by_low: Vec<&'a PlacedMove>,
}

impl<'a> Told<'a> {
    fn new(moves: &'a [PlacedMove]) -> Self {
        let mut by_low: Vec<&PlacedMove> = moves.iter().filter(|change| change.to.is_some()).collect();
        by_low.sort_by_key(|change| change.slice.low());
        Self { by_low }
    }

    /// The reason why a range goes to a node, with its part of gain and cost.
    fn find(&self, slice: Slice, to: Option<&NodeId>) -> Option<PlacedMove> {
        let end = self
            .by_low
            .partition_point(|change| change.slice.low() <= slice.low());
        // What moves in a round does not move in it again, but a cut of it may be told as well.
        let near = self.by_low[..end].iter().rev().take(64);
        let covers = |change: &&&PlacedMove| change.slice.covers(slice) && change.to.as_ref() == to;
        let found = near.clone().find(covers).copied().or_else(|| {
            // Several pieces of the Sharder's may be one range: the first of them tells why.
            let inside = self.by_low[end.saturating_sub(1)..].iter().take(64);
            inside
                .filter(|change| change.to.as_ref() == to)
                .find(|change| change.slice.intersect(slice).is_some())
                .copied()
        })?;
        let part = (slice.width() as f64 / found.slice.width() as f64).min(1.0);
        let is_part = found.slice.covers(slice);
        let scale = if is_part { part } else { 1.0 };
        Some(PlacedMove {
            slice,
            gain: found.gain * scale,
            cost_bytes: found.cost_bytes * scale,
            cost_misses: found.cost_misses * scale,
            ..found.clone()
        })
    }
}

/// Bytes over the key space, as reported.
struct Bytes<'a> {
    by_last: Vec<&'a SliceLoad>,
}

impl<'a> Bytes<'a> {
    fn new(loads: &'a [SliceLoad]) -> Self {
        let mut by_last: Vec<&SliceLoad> = loads.iter().filter(|load| load.bytes > 0).collect();
        by_last.sort_by_key(|load| load.slice.last());
        Self { by_last }
    }

    fn of(&self, slice: Slice) -> f64 {
        let first = self
            .by_last
            .partition_point(|load| load.slice.last() < slice.low());
        let near = self.by_last[first..].iter();
        near.map_while(|load| {
            let part = load.slice.intersect(slice)?;
            Some(load.bytes as f64 * part.width() as f64 / load.slice.width() as f64)
        })
        .sum()
    }
}
