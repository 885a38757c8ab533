//! [`HotKeys`]: which keys draw much by themselves, as the Sharder is to see them.
//!
//! A key counts with the highest of what its owner and replicas reported together within [`HELD_MS`]: at once when it heats up, and
//! for that long when it moves and its new owner has yet to see it.

use std::collections::BTreeMap;

use crate::sharder::HotKey;
use crate::slice_key::SliceKey;
use crate::time::Timestamp;

/// A hot key counts with what was reported of it highest within so many milliseconds.
const HELD_MS: u64 = 3_000;

/// A hot key rises while a round finds it above the last one by more than this part, and falls in the same way.
const RISING: f64 = 0.2;

/// The hot keys of late.
#[derive(Clone, Default, Debug)]
pub(super) struct HotKeys(BTreeMap<SliceKey, Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    rate: f64,
    at: Timestamp,
    /// What it was when it was last asked whether it rises.
    asked: f64,
}

impl HotKeys {
    /// The hot keys, hottest first, and whether one of them still rises or falls, above `least`. `sums`: what is reported of each
    /// now. What is on its way up counts with as much again as it has risen since the last round: so it has its replicas when it
    /// needs them.
    pub(super) fn see(
        &mut self,
        sums: BTreeMap<SliceKey, f64>,
        least: f64,
        is_round: bool,
        now: Timestamp,
    ) -> (Vec<HotKey>, bool) {
        for (at, rate) in sums {
            let seen = self.0.entry(at).or_insert(Seen {
                rate,
                at: now,
                asked: 0.0,
            });
            if rate >= seen.rate || now.ms_since(seen.at) >= HELD_MS {
                *seen = Seen {
                    rate,
                    at: now,
                    ..*seen
                };
            }
        }
        let is_much = |seen: &Seen| seen.rate.max(seen.asked) > least;
        let mut is_any_changing = false;
        self.0.retain(|_, seen| {
            let is_seen = now.ms_since(seen.at) < HELD_MS;
            is_any_changing |= !is_seen && is_much(seen);
            is_seen
        });
        let mut keys = Vec::with_capacity(self.0.len());
        for (at, seen) in &mut self.0 {
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
