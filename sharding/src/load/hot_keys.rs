//! [`HotKeys`]: a node's heavy hitters, as decayed rates, merged from the sketches of its threads at each heartbeat.
//!
//! The invariant of `sketch` holds here as well, of decayed sampled rates: decaying multiplies both sides, and merging adds
//! what a key that one side does not know may have had there at most.

use super::HALF_LIFE_MS;
use super::sketch::{Counted, KeyPrefix, SETS, Sketch, WAYS};
use super::tally::SAMPLE_GAP_MEAN;
use crate::session::HotKeyLoad;
use crate::slice_key::SliceKey;

/// Most hot keys in a node's report.
pub const HOT_KEYS_MAX: usize = 32;

/// A key is reported as hot if it surely draws at least this share of its node's operations.
pub const HOT_SHARE_MIN: f64 = 1.0 / 256.0;

/// How many standard deviations of the sample's noise the stated error covers.
const NOISE_DEVIATIONS: f64 = 3.0;

/// A key, in sampled operations per second.
#[derive(Clone, Debug)]
struct Tracked {
    at: SliceKey,
    /// At least what it draws.
    rate: f64,
    /// At most how much of the rate is not this key's.
    error: f64,
    key: KeyPrefix,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct HotKeys {
    sets: Vec<Vec<Tracked>>,
}

impl Default for HotKeys {
    fn default() -> Self {
        Self {
            sets: vec![Vec::new(); SETS],
        }
    }
}

impl HotKeys {
    /// Lets time pass: of all that was, this share still counts.
    pub(super) fn decay(&mut self, keep: f64) {
        for tracked in self.sets.iter_mut().flatten() {
            tracked.rate *= keep;
            tracked.error *= keep;
        }
    }

    /// Adds what a sketch counted, each count as `factor`, and empties it.
    pub(super) fn take(&mut self, sketch: &mut Sketch, factor: f64) {
        for (number, set) in self.sets.iter_mut().enumerate() {
            merge(set, sketch, number, factor);
        }
        sketch.clear();
    }

    /// The keys that surely draw at least [`HOT_SHARE_MIN`] of `operations` a second, hottest first. `weight`: how much of
    /// the past is known, above 0, at most 1.
    pub(super) fn hottest(&self, operations: f64, weight: f64) -> Vec<HotKeyLoad> {
        let least = operations * HOT_SHARE_MIN;
        let mut hot: Vec<HotKeyLoad> = self
            .sets
            .iter()
            .flatten()
            .map(|tracked| load_of(tracked, weight))
            .filter(|load| load.operations_per_second - load.error_per_second > least)
            .collect();
        hot.sort_by(|a, b| b.operations_per_second.total_cmp(&a.operations_per_second));
        hot.truncate(HOT_KEYS_MAX);
        hot
    }
}

fn merge(set: &mut Vec<Tracked>, sketch: &Sketch, number: usize, factor: f64) {
    let mut counted = sketch.counted(number).peekable();
    if counted.peek().is_none() {
        return;
    }
    let known = set.len();
    let is_full = known >= WAYS;
    let floor = if is_full {
        set.iter()
            .map(|tracked| tracked.rate)
            .fold(f64::INFINITY, f64::min)
    } else {
        0.0
    };
    let sketch_floor = f64::from(sketch.floor(number)) * factor;
    for tracked in set.iter_mut() {
        tracked.rate += sketch_floor;
        tracked.error += sketch_floor;
    }
    for Counted {
        at,
        count,
        error,
        key,
    } in counted
    {
        let (rate, error) = (f64::from(count) * factor, f64::from(error) * factor);
        match set[..known].iter_mut().find(|tracked| tracked.at == at) {
            Some(tracked) => {
                tracked.rate += rate - sketch_floor;
                tracked.error += error - sketch_floor;
            }
            None => set.push(Tracked {
                at,
                rate: rate + floor,
                error: error + floor,
                key,
            }),
        }
    }
    set.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    set.truncate(WAYS);
}

/// In the middle of what it may be, with the distance to either end.
fn load_of(tracked: &Tracked, weight: f64) -> HotKeyLoad {
    let rate = tracked.rate / weight * SAMPLE_GAP_MEAN;
    let half = (tracked.error / weight * SAMPLE_GAP_MEAN / 2.0).max(0.0);
    let seconds = f64::from(HALF_LIFE_MS) / 1_000.0;
    let variance = SAMPLE_GAP_MEAN * rate * std::f64::consts::LN_2 / (2.0 * seconds) / weight;
    HotKeyLoad {
        at: tracked.at,
        operations_per_second: (rate - half).max(0.0),
        error_per_second: half + NOISE_DEVIATIONS * variance.max(0.0).sqrt(),
        key: tracked.key.bytes().to_vec(),
        key_bytes: tracked.key.key_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::sketch::set_of;
    use super::*;

    /// What is known of a key: only its own set may hold it.
    fn tracked(hot: &HotKeys, at: SliceKey) -> Option<&Tracked> {
        hot.sets[set_of(at)].iter().find(|tracked| tracked.at == at)
    }

    proptest! {
        /// Plan: several heartbeats; at each the past is halved and two threads' sketches come in, of keys in one set. Of
        /// each key the truth, halved likewise, lies between rate - error and rate, no error is above an eighth of what came,
        /// and a key that is not known had no more than that.
        #[test]
        fn merging_and_decaying_keep_the_bound(
            beats in prop::collection::vec(prop::collection::vec((0..2usize, 0..40u64), 0..120), 1..6)
        ) {
            let mut hot = HotKeys::default();
            let mut truth: HashMap<SliceKey, f64> = HashMap::new();
            for beat in beats {
                hot.decay(0.5);
                truth.values_mut().for_each(|came| *came *= 0.5);
                let mut sketches = [Sketch::default(), Sketch::default()];
                for (thread, number) in beat {
                    let at = SliceKey::new(number << 20);
                    sketches[thread].add(at, b"k");
                    *truth.entry(at).or_default() += 1.0;
                }
                for sketch in &mut sketches {
                    hot.take(sketch, 1.0);
                }
                let total: f64 = truth.values().sum();
                let bound = total / WAYS as f64 + 1e-9;
                for (at, came) in &truth {
                    match tracked(&hot, *at) {
                        Some(found) => {
                            prop_assert!(found.rate >= came - 1e-9, "{found:?} {came}");
                            prop_assert!(found.rate - found.error <= came + 1e-9, "{found:?} {came}");
                            prop_assert!(found.error <= bound, "{found:?} of {total}");
                        }
                        None => prop_assert!(*came <= bound, "{came} of {total}"),
                    }
                }
            }
        }
    }
}
