//! What a node reports of its ranges: parts cut on slot borders so that none has much of the node's load or memory.
//!
//! A part is closed before it would weigh more than `target`, where all that the node holds weighs 2: its processor time 1,
//! its bytes 1. Any two neighbours of a range weigh more than the target together, so a range of weight `w` has at most
//! `2 w / target + 1` parts, and the target follows from how many parts there may be. A slot is not cut unless its range is:
//! what draws load within one slot is found among the hot keys.

use super::atoms::{Atom, atoms};
use super::memory::{Memory, Part};
use super::window::Window;
use super::{Rates, SLICE_REPORTS_MAX};
use crate::session::SliceLoad;
use crate::slice::Slice;

/// What all that a node holds weighs: its load and its memory.
const WEIGHT: f64 = 2.0;

/// The parts of the ranges that a node holds, in order. Their processor time is the node's busy time, shared out by weight:
/// they add up to it. At most [`SLICE_REPORTS_MAX`], or one for each range if there are
/// more of them. They cover the ranges.
#[must_use]
pub fn reports(window: &Window, memory: &Memory, held: &[Slice]) -> Vec<SliceLoad> {
    let load: f64 = held.iter().map(|range| window.rates(*range).cpu_weight()).sum();
    let bytes: f64 = memory.parts().iter().map(|part| part.bytes as f64).sum();
    let room = SLICE_REPORTS_MAX.saturating_sub(held.len());
    let scale = Scale {
        target: if room == 0 {
            f64::INFINITY
        } else {
            2.0 * WEIGHT / room as f64
        },
        load: load.max(f64::MIN_POSITIVE),
        bytes: bytes.max(f64::MIN_POSITIVE),
        busy_us: if load >= LOAD_MIN { window.busy_us() } else { 0.0 },
    };
    let mut parts = memory.parts();
    let mut reports = Vec::new();
    for range in held {
        cut(*range, window, &mut parts, &scale, &mut reports);
    }
    reports
}

/// A load of less than about an operation a second is none: whatever the threads are busy with, it is not that.
const LOAD_MIN: f64 = 1.0;

/// By what a part's weight is told.
struct Scale {
    target: f64,
    load: f64,
    bytes: f64,
    /// The busy time that is shared out, in microseconds per second.
    busy_us: f64,
}

/// A part that is being put together.
struct Open {
    slice: Slice,
    rates: Rates,
    bytes: f64,
    weight: f64,
}

impl Open {
    fn begin(slice: Slice) -> Self {
        Self {
            slice,
            rates: Rates::default(),
            bytes: 0.0,
            weight: 0.0,
        }
    }

    fn close(self, scale: &Scale) -> SliceLoad {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a sum of shares of u64s, never negative; a cast stops at the ends"
        )]
        let bytes = self.bytes.round() as u64;
        SliceLoad {
            operations_per_second: self.rates.operations,
            bytes,
            bytes_per_second: self.rates.bytes,
            hits_per_second: self.rates.hits,
            cpu_us_per_second: self.rates.cpu_weight() / scale.load * scale.busy_us,
            ..SliceLoad::idle(self.slice)
        }
    }
}

fn cut(range: Slice, window: &Window, parts: &mut &[Part], scale: &Scale, reports: &mut Vec<SliceLoad>) {
    let mut open = Open::begin(range);
    for atom in atoms(range) {
        let rates = window.rates_of(&atom);
        let bytes = bytes_of(&atom, parts);
        let weight = rates.cpu_weight() / scale.load + bytes / scale.bytes;
        if open.weight + weight > scale.target
            && let Some((left, right)) = open.slice.split_before(atom.slice.low())
        {
            let whole = std::mem::replace(&mut open, Open::begin(right));
            reports.push(Open { slice: left, ..whole }.close(scale));
        }
        open.rates += rates;
        open.bytes += bytes;
        open.weight += weight;
    }
    reports.push(open.close(scale));
}

/// An atom's share of what the part that it lies in holds. `parts` begins at or before that one, and atoms come in order.
fn bytes_of(atom: &Atom, parts: &mut &[Part]) -> f64 {
    while let [first, rest @ ..] = parts
        && first.slice.last() < atom.slice.low()
    {
        *parts = rest;
    }
    let part = parts.first().filter(|part| part.slice.covers(atom.slice));
    part.map_or(0.0, |part| {
        part.bytes as f64 * (atom.slice.width() as f64 / part.slice.width() as f64)
    })
}
