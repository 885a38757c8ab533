//! [`Window`]: decayed rates of all that a node holds, and its heavy hitters. The moments are given.

use std::collections::BTreeMap;

use super::Rates;
use super::atoms::{Atom, atoms};
use super::hot_keys::HotKeys;
use super::tally::Tally;
use crate::session::HotKeyLoad;
use crate::slice::Slice;
use crate::slice_key::SLOT_COUNT;
use crate::time::Timestamp;

/// After so many milliseconds half of a rate is what came since.
pub const HALF_LIFE_MS: u32 = 1_000;

/// Tallies are folded in at most so often: what came within fewer milliseconds is too little to tell a rate from.
pub const FOLD_INTERVAL_MS_MIN: u64 = 100;

/// A decayed rate, and how much of the past it knows.
#[derive(Clone, Copy, Debug, Default)]
struct Decayed {
    rates: Rates,
    /// 0 for something new, towards 1: the sum of the weights that its history has.
    weight: f64,
}

impl Decayed {
    fn decay(&mut self, keep: f64) {
        self.rates = self.rates.times(keep);
        self.weight = self.weight * keep + (1.0 - keep);
    }

    fn rates(&self) -> Rates {
        if self.weight > 0.0 {
            self.rates.times(1.0 / self.weight)
        } else {
            Rates::default()
        }
    }
}

/// See the head of this file. 700 KiB.
#[derive(Clone, Debug)]
pub struct Window {
    folded_at: Timestamp,
    slots: Vec<Decayed>,
    /// The slots that were held whole at the last fold.
    is_held: Vec<bool>,
    pieces: BTreeMap<Slice, Decayed>,
    hot_keys: HotKeys,
    /// How long the node's threads were busy, in microseconds per second.
    busy_us: f64,
    /// How much of the past the two before know.
    weight: f64,
}

/// Tallies are being folded into a window.
#[derive(Debug)]
pub struct Fold<'a> {
    window: &'a mut Window,
    /// What one event adds to a rate.
    factor: f64,
}

impl Window {
    /// One that begins at `now`.
    #[must_use]
    pub fn starting_at(now: Timestamp) -> Self {
        Self {
            folded_at: now,
            slots: vec![Decayed::default(); usize::from(SLOT_COUNT)],
            is_held: vec![false; usize::from(SLOT_COUNT)],
            pieces: BTreeMap::new(),
            hot_keys: HotKeys::default(),
            busy_us: 0.0,
            weight: 0.0,
        }
    }

    /// Lets time pass until `now`, for a node that holds `held`, in order. Each of its tallies is then to be given to
    /// [`Fold::add`]. `None`, and nothing happens, if less than [`FOLD_INTERVAL_MS_MIN`] has passed: tallies go on counting.
    pub fn fold(&mut self, held: &[Slice], now: Timestamp) -> Option<Fold<'_>> {
        let passed_ms = now.ms_since(self.folded_at);
        if passed_ms < FOLD_INTERVAL_MS_MIN {
            return None;
        }
        self.folded_at = now;
        let seconds = passed_ms as f64 / 1_000.0;
        let keep = (-seconds * 1_000.0 / f64::from(HALF_LIFE_MS)).exp2();
        self.decay(held, keep);
        Some(Fold {
            window: self,
            factor: (1.0 - keep) / seconds,
        })
    }

    /// What is held at this and at the last fold goes on; what is new begins with nothing, and the rest is forgotten.
    fn decay(&mut self, held: &[Slice], keep: f64) {
        let mut is_held = vec![false; usize::from(SLOT_COUNT)];
        let mut pieces = BTreeMap::new();
        for atom in held.iter().flat_map(|range| atoms(*range)) {
            if atom.is_piece {
                let mut piece = self.pieces.remove(&atom.slice).unwrap_or_default();
                piece.decay(keep);
                pieces.insert(atom.slice, piece);
                continue;
            }
            let number = usize::from(atom.slot.get());
            is_held[number] = true;
            if !self.is_held[number] {
                self.slots[number] = Decayed::default();
            }
            self.slots[number].decay(keep);
        }
        (self.is_held, self.pieces) = (is_held, pieces);
        self.hot_keys.decay(keep);
        self.busy_us *= keep;
        self.weight = self.weight * keep + (1.0 - keep);
    }

    /// The rates of an atom that is held.
    pub(super) fn rates_of(&self, atom: &Atom) -> Rates {
        if atom.is_piece {
            self.pieces
                .get(&atom.slice)
                .map_or_else(Rates::default, Decayed::rates)
        } else {
            self.slots[usize::from(atom.slot.get())].rates()
        }
    }

    /// The rates of a range that is held.
    #[must_use]
    pub fn rates(&self, range: Slice) -> Rates {
        let mut sum = Rates::default();
        for atom in atoms(range) {
            sum += self.rates_of(&atom);
        }
        sum
    }

    /// How long the node's threads were busy, in microseconds per second, decayed: of several threads the sum.
    #[must_use]
    pub fn busy_us(&self) -> f64 {
        if self.weight > 0.0 {
            self.busy_us / self.weight
        } else {
            0.0
        }
    }

    /// The hot keys within what is held, hottest first; `operations` is what the node serves a second.
    #[must_use]
    pub fn hot_keys(&self, held: &[Slice], operations: f64) -> Vec<HotKeyLoad> {
        if self.weight <= 0.0 {
            return Vec::new();
        }
        let mut hot = self.hot_keys.hottest(operations, self.weight);
        hot.retain(|key| {
            let after = held.partition_point(|range| range.low() <= key.at);
            after > 0 && held[after - 1].contains(key.at)
        });
        hot
    }
}

impl Fold<'_> {
    /// Adds what the node's threads were busy for since the last fold, in microseconds.
    pub fn add_busy(&mut self, busy_us: u64) {
        self.window.busy_us += busy_us as f64 * self.factor;
    }

    /// Adds what a tally counted, and empties it.
    pub fn add(&mut self, tally: &mut Tally) {
        let Self { window, factor } = self;
        for (number, cell) in tally.slots.iter_mut().enumerate() {
            if !cell.is_empty() {
                let counts = std::mem::take(cell).counts();
                window.slots[number].rates += counts.times(*factor);
            }
        }
        for (slice, cell) in tally.take_pieces() {
            // A piece that is held no more has no rate.
            if let Some(piece) = window.pieces.get_mut(&slice) {
                piece.rates += cell.counts().times(*factor);
            }
        }
        window.hot_keys.take(&mut tally.sketch, *factor);
    }
}
