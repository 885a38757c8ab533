//! What a placement is worth and what it cost: imbalance, what moved and why, what had to. It judges who owned what before and
//! after, whoever decided it and whatever they say of it.

use std::collections::BTreeMap;

use softstore_sharding::Slice;
use softstore_sharding::sharder::auto::Standing;

use super::fleet::{LifeNumber, Seat};
use super::policy::Owned;
use super::truth::{Truth, Weight};

/// One round's figures.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct RoundFigures {
    /// (max - mean) / max(capacity, mean) over the living nodes; of load per capacity, so that each may have its own size.
    pub imbalance: f64,
    /// The same of the bytes held, over the budget in place of the capacity.
    pub memory_imbalance: f64,
    /// Part of the data set's bytes that changed hands because an owner drained or died, or a node came.
    pub moved_by_membership: f64,
    /// Part of it that changed hands between nodes that stayed.
    pub moved_to_balance: f64,
    /// Load that changed hands, in parts of the whole.
    pub moved_load: f64,
    /// Load that had to: of lost nodes, and what was above the tolerance at nodes that stayed.
    pub forced_load: f64,
    /// Hits that moving may cost: the time of all that a node takes from another, times the hits of that.
    pub predicted_misses: f64,
    /// How many ranges have other owners or borders than before.
    pub changed_ranges: usize,
    /// How many ranges there are.
    pub ranges: usize,
    /// Nodes that live and do not drain.
    pub living: usize,
    /// Nodes that drain.
    pub draining: usize,
    /// Bytes that the control plane sends.
    pub control_bytes: u64,
}

/// Judges one round.
pub(super) struct Judge<'a> {
    pub(super) seats: &'a [Seat],
    pub(super) truth: &'a Truth,
    /// Above the fair load by this is what must go.
    pub(super) tolerance: f64,
    pub(super) pull_bytes_per_s: f64,
    /// By life: it owned nothing before, in this life.
    pub(super) is_new: Vec<bool>,
}

impl Judge<'_> {
    pub(super) fn judge(&self, before: &Owned, after: &Owned) -> RoundFigures {
        let mut figures = RoundFigures {
            forced_load: self.forced(before),
            ranges: after.len(),
            ..RoundFigures::default()
        };
        self.weigh(after, &mut figures);
        self.moves(before, after, &mut figures);
        figures
    }

    fn is_living(&self, life: LifeNumber) -> bool {
        let standing = self.seats[life as usize].standing;
        standing != Standing::Dead && standing != Standing::Leaving
    }

    /// What each life bears and holds. A dead replica bears nothing.
    fn borne(&self, owned: &Owned) -> (Vec<f64>, Vec<f64>, f64) {
        let (mut loads, mut bytes) = (vec![0.0; self.seats.len()], vec![0.0; self.seats.len()]);
        let mut lost = 0.0;
        for (slice, owners) in owned {
            let weight = self.truth.of(*slice);
            let living = || owners.iter().filter(|owner| self.is_living(**owner));
            let count = living().count();
            if count == 0 {
                lost += weight.load;
            }
            for owner in living() {
                loads[*owner as usize] += weight.load / count as f64;
                bytes[*owner as usize] += weight.bytes;
            }
        }
        (loads, bytes, lost)
    }

    fn living(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| self.is_living(seat.life))
    }

    fn forced(&self, before: &Owned) -> f64 {
        let (loads, _, lost) = self.borne(before);
        let whole = self.truth.total().load;
        let capacity: f64 = self.living().map(|seat| seat.capacity_load).sum();
        let mean = whole / capacity;
        let over: f64 = self
            .living()
            .map(|seat| {
                let most = mean + self.tolerance * mean.max(1.0);
                (loads[seat.life as usize] - most * seat.capacity_load).max(0.0)
            })
            .sum();
        (lost + over) / whole.max(f64::MIN_POSITIVE)
    }

    fn weigh(&self, after: &Owned, figures: &mut RoundFigures) {
        let (loads, bytes, _) = self.borne(after);
        let imbalance = |of: &dyn Fn(&Seat) -> f64, capacity: &dyn Fn(&Seat) -> f64| {
            let whole: f64 = self.living().map(of).sum();
            let all: f64 = self.living().map(capacity).sum();
            let mean = whole / all;
            let most = self
                .living()
                .map(|seat| of(seat) / capacity(seat))
                .fold(0.0, f64::max);
            (most - mean) / mean.max(1.0)
        };
        figures.imbalance = imbalance(&|seat| loads[seat.life as usize], &|seat| seat.capacity_load);
        figures.memory_imbalance = imbalance(&|seat| bytes[seat.life as usize], &|seat| {
            seat.capacity_bytes as f64
        });
        figures.living = self.living().count();
        let drains = |seat: &&Seat| seat.standing == Standing::Leaving;
        figures.draining = self.seats.iter().filter(drains).count();
    }

    /// Walks both maps at once and adds up what each range's new owners did not have.
    fn moves(&self, before: &Owned, after: &Owned, figures: &mut RoundFigures) {
        let whole = self.truth.total();
        let mut pulls = BTreeMap::new();
        let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
        while let (Some((left, had)), Some((right, has))) = (old.peek(), new.peek()) {
            if left != right || had != has {
                figures.changed_ranges += usize::from(right.last() <= left.last());
            }
            if let Some(slice) = left.intersect(*right)
                && had != has
            {
                self.add_move(slice, (had, has), (whole.load, whole.bytes), figures, &mut pulls);
            }
            let (left, right) = (left.last(), right.last());
            if left <= right {
                old.next();
            }
            if right <= left {
                new.next();
            }
        }
        // All that one node takes from another arrives in one pull, however it is cut.
        let misses = |pull: &Weight| pull.bytes / self.pull_bytes_per_s * pull.hits;
        figures.predicted_misses = pulls.values().map(misses).fold(0.0, |sum, pull| sum + pull);
    }

    fn add_move(
        &self,
        slice: Slice,
        (had, has): (&[LifeNumber], &[LifeNumber]),
        (load, bytes): (f64, f64),
        figures: &mut RoundFigures,
        pulls: &mut BTreeMap<(LifeNumber, LifeNumber), Weight>,
    ) {
        let weight = self.truth.of(slice);
        let is_lost = !had.iter().any(|owner| self.is_living(*owner));
        // What a drainer has can be pulled; what is dead cannot.
        let giver = had
            .iter()
            .find(|owner| self.seats[**owner as usize].standing != Standing::Dead);
        for taker in has.iter().filter(|owner| !had.contains(owner)) {
            let part = weight.bytes / bytes.max(f64::MIN_POSITIVE);
            if is_lost || self.is_new[*taker as usize] {
                figures.moved_by_membership += part;
            } else {
                figures.moved_to_balance += part;
            }
            figures.moved_load += weight.load / has.len() as f64 / load.max(f64::MIN_POSITIVE);
            if let Some(giver) = giver {
                let pull = pulls.entry((*giver, *taker)).or_default();
                pull.bytes += weight.bytes;
                pull.hits += weight.hits / has.len() as f64;
            }
        }
    }
}
