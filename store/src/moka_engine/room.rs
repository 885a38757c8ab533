//! Keeps what is resident within the budget, and the index in step with what moka evicted.
//!
//! moka applies inserts in batches of 64 and more, so by itself it overshoots by the weight of a batch, which is much
//! when values are large. Resident is what the index counts: inserted and not yet removed, evicted entries included
//! until they are drained. Runs after each write, outside of lock stripes.

use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;
use softstore_sharding::SliceKey;

use super::MokaStore;
use super::stripe::{STRIPE_COUNT, Stripe, stripe_index};

/// From how many stripes a write takes victims while there is room. A write evicts one entry of its own size on average,
/// so their number shrinks.
const CLEARED_STRIPES_MAX: usize = 8;

/// How often one write runs moka's tasks to get within the budget before it lets others do the rest.
const SETTLE_ROUNDS_MAX: usize = 8;

impl MokaStore {
    /// Locks the stripe of a position to change it, and takes from it what moka has evicted there: so whoever holds a
    /// stripe to write sees no entry whose eviction was noted.
    pub(super) fn lock(&self, at: SliceKey) -> RwLockWriteGuard<'_, Stripe> {
        self.lock_nth(stripe_index(at))
    }

    /// The same for a stripe by number, below [`STRIPE_COUNT`].
    pub(super) fn lock_nth(&self, number: usize) -> RwLockWriteGuard<'_, Stripe> {
        let mut stripe = self.stripes.lock_nth(number);
        if self.evictions.has_notes(number) {
            self.clear_evicted(&mut stripe, number);
        }
        stripe
    }

    /// Takes the entries from a stripe whose seats moka took. One that has another seat by now stays.
    fn clear_evicted(&self, stripe: &mut Stripe, number: usize) {
        for (at, ticket) in self.evictions.take(number) {
            if let Some(victim) = stripe.index.remove_if(at, |entry| entry.ticket() == ticket) {
                self.evictions.learn_of(&victim, self.latest.get());
                self.uncount(&victim);
            }
        }
    }

    /// Takes what was evicted from some stripes, and evicts if the budget is exceeded.
    pub(super) fn settle(&self) {
        self.clear_stripes(CLEARED_STRIPES_MAX);
        for _ in 0..SETTLE_ROUNDS_MAX {
            if self.gauges.bytes.load(Ordering::Relaxed) <= self.config.budget_bytes {
                return;
            }
            self.run_moka_tasks();
        }
    }

    /// The same after an import. The first one that finds no room is made to evict at once: later ones are judged by
    /// its victim, which in a store that was empty before the pull is one of the hottest imports.
    pub(super) fn settle_import(&self) {
        let bytes = self.gauges.bytes.load(Ordering::Relaxed);
        if bytes > self.room_bytes && self.evictions.has_seen_none() {
            self.run_moka_tasks();
        }
        self.settle();
    }

    /// Lets moka apply what it has pending, and takes all that it evicted from the index.
    pub(super) fn run_moka_tasks(&self) {
        self.cache.run_pending_tasks();
        self.clear_stripes(STRIPE_COUNT);
    }

    fn clear_stripes(&self, count_max: usize) {
        for _ in 0..count_max {
            let Some(number) = self.evictions.some_noted_stripe() else {
                return;
            };
            drop(self.lock_nth(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::{Epoch, Timestamp, Version, VersionCounter};

    use super::*;
    use crate::moka_engine::MokaStoreConfig;
    use crate::store::{Absence, OpContext, Outcome, SetCondition, SetOutcome};

    /// Plan: fill the store without draining, so that moka has evicted what the index still lists; put half of that
    /// back; drain. What was put back stays, in moka and in the index; the other half goes.
    #[test]
    fn a_late_note_spares_what_was_inserted_since() {
        let store = MokaStore::new(MokaStoreConfig {
            budget_bytes: 64 << 10,
            ..MokaStoreConfig::default()
        });
        let versions = VersionCounter::starting_at(Version::new(1));
        let context = OpContext {
            now: Timestamp::from_ms(1),
            epoch: Epoch::new(1),
            versions: &versions,
            pull: None,
            absence: Absence::Final,
        };
        let add = |number: usize| {
            let key = number.to_string();
            let at = SliceKey::of_key(key.as_bytes());
            let condition = SetCondition::Always;
            let outcome = store.write(key.as_bytes(), at, b"v", Timestamp::NEVER, condition, &context);
            assert!(matches!(outcome, Ok(Outcome::Done(SetOutcome::Stored(_)))));
            at
        };
        let positions: Vec<SliceKey> = (0..300).map(add).collect();
        store.cache.run_pending_tasks();
        let is_indexed = |at: SliceKey| store.stripes.lock(at).index.contains_key(&at);
        let evicted: Vec<usize> = (0..300)
            .filter(|&number| !store.cache.contains_key(&positions[number]))
            .collect();
        assert!(evicted.len() > 100);
        assert!(evicted.iter().all(|&number| is_indexed(positions[number])));
        let (back, gone) = evicted[..100].split_at(50);
        for &number in back {
            add(number);
        }
        store.drain_evictions(usize::MAX);
        assert!(back.iter().all(|&number| is_indexed(positions[number])));
        assert!(
            back.iter()
                .all(|&number| store.cache.contains_key(&positions[number]))
        );
        assert!(!gone.iter().any(|&number| is_indexed(positions[number])));
    }
}
