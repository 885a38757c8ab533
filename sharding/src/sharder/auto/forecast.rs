//! [`Forecast`]: whether the load that was reported says anything about the load to come.
//!
//! A planner that levels by a load which does not repeat itself only makes the key space uneven. So each round's load is compared
//! with the round's before: *trust* is how much nearer that came to it than an even load would have, averaged over rounds.
//! Below [`BELIEVED_FROM`] the planner is told an even load instead. A flash crowd costs one round's trust, not all of it.

use super::cluster::{Cluster, Part, Standing};
use super::density::Density;
use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// Load is compared in so many equal parts of the key space.
const CELLS: u64 = 1 << 10;

/// How much of the trust each round decides.
const DECAY: f64 = 0.3;

/// What differs from even by less than this part of the load is as good as even.
const EVEN: f64 = 0.02;

/// Reported load is believed from this trust on.
const BELIEVED_FROM: f64 = 0.5;

/// Compares each round's load with the round's before.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    trust: f64,
    last: Vec<f64>,
}

impl Forecast {
    /// Looks at a round's load, and returns the trust, 0 to 1. It has to be earned: it begins at 0.
    pub fn observe(&mut self, cluster: &Cluster) -> f64 {
        let now = shares(&Density::new(&cluster.loads, &cluster.hot_keys));
        let even = 1.0 / CELLS as f64;
        if self.last.len() == now.len() {
            let error: f64 = self
                .last
                .iter()
                .zip(&now)
                .map(|(last, now)| (last - now).abs())
                .sum();
            let unevenness: f64 = now.iter().map(|now| (now - even).abs()).sum();
            let score = (1.0 - error / unevenness.max(EVEN)).clamp(0.0, 1.0);
            self.trust += DECAY * (score - self.trust);
        }
        self.last = now;
        self.trust
    }

    /// The cluster with the load that is believed.
    #[must_use]
    pub fn believed(&self, mut cluster: Cluster) -> Cluster {
        if self.trust >= BELIEVED_FROM {
            return cluster;
        }
        // As much as the nodes bear: what is idle now may not be in the next round.
        let living = cluster
            .nodes
            .iter()
            .filter(|node| node.standing != Standing::Dead);
        let capacity: f64 = living.map(|node| node.capacity_load).sum();
        let load: f64 = cluster.loads.iter().map(|part| part.load).sum();
        let even = Part {
            slice: Slice::FULL,
            load: load.max(capacity),
            bytes: cluster.loads.iter().map(|part| part.bytes).sum(),
            hits: cluster.loads.iter().map(|part| part.hits).sum(),
        };
        cluster.loads = vec![even];
        cluster.hot_keys.clear();
        cluster
    }
}

/// Each cell's part of the load.
fn shares(density: &Density) -> Vec<f64> {
    let shift = u64::BITS - CELLS.trailing_zeros();
    let total = density.total().load.max(f64::MIN_POSITIVE);
    let share = |cell: u64| {
        let low = cell << shift;
        let last = low | ((1 << shift) - 1);
        Slice::between(SliceKey::new(low), SliceKey::new(last))
            .map_or(0.0, |slice| density.of(slice).load / total)
    };
    (0..CELLS).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(loads: &[f64]) -> Cluster {
        let width = u64::MAX / loads.len() as u64;
        let parts = loads.iter().enumerate().map(|(index, load)| {
            let low = index as u64 * width;
            let slice = Slice::between(SliceKey::new(low), SliceKey::new(low + width - 1));
            Part {
                slice: slice.unwrap(),
                load: *load,
                bytes: 1.0,
                hits: 0.0,
            }
        });
        Cluster {
            loads: parts.collect(),
            ..Cluster::default()
        }
    }

    /// Plan: an uneven load that stays earns trust; one new hot spot costs some of it and it comes back; a load that is another
    /// each time loses it, and the planner is told an even one.
    #[test]
    fn trust_is_earned_by_repeating() {
        let mut forecast = Forecast::default();
        let steady = cluster(&[1.0, 5.0, 2.0, 9.0, 1.0, 3.0]);
        let crowd = cluster(&[1.0, 5.0, 30.0, 9.0, 1.0, 3.0]);
        assert_eq!(forecast.observe(&steady), 0.0);
        assert_eq!(forecast.believed(steady.clone()).loads.len(), 1, "not earned yet");
        for _ in 0..10 {
            forecast.observe(&steady);
        }
        assert!(forecast.observe(&crowd) > BELIEVED_FROM);
        assert!(forecast.observe(&crowd) > BELIEVED_FROM);
        assert_eq!(forecast.believed(steady.clone()).loads.len(), 6);
        for round in 0..12 {
            let mut loads = [0.0; 6];
            loads[(round * 5) % 6] = 10.0;
            forecast.observe(&cluster(&loads));
        }
        assert_eq!(forecast.believed(steady).loads.len(), 1);
    }
}
