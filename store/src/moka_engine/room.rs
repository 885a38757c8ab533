//! Keeps what is resident within the budget, and the index in step with what moka evicted.
//!
//! moka applies inserts in batches of 64 and more, so by itself it overshoots by the weight of a batch, which is much
//! when values are large. Resident is what the index counts: inserted and not yet removed, evicted entries included
//! until they are drained. Runs after each write, outside of lock stripes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use softstore_sharding::SliceKey;

use super::MokaStore;
use super::entry::Entry;

/// Most victims that a write takes from the index while there is room. A write evicts one entry of its own size on
/// average, so the queue shrinks.
const DRAIN_COUNT_MAX: usize = 64;

/// How often one write runs moka's tasks to get within the budget before it lets others do the rest. One run evicts
/// for up to 100 ms.
const SETTLE_ROUNDS_MAX: usize = 8;

impl MokaStore {
    /// Drains some evictions, and evicts if the budget is exceeded.
    pub(super) fn settle(&self) {
        self.drain_evictions(DRAIN_COUNT_MAX);
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
        self.drain_evictions(usize::MAX);
    }

    fn drain_evictions(&self, count_max: usize) {
        for (at, victim) in self.evictions.take(count_max) {
            self.forget_victim(at, &victim);
        }
    }

    /// Takes a victim from the index, unless a newer entry stands in its place.
    fn forget_victim(&self, at: SliceKey, victim: &Arc<Entry>) {
        let mut stripe = self.stripes.lock(at);
        let stands = stripe
            .index
            .get(&at)
            .is_some_and(|entry| Arc::ptr_eq(entry, victim));
        if stands {
            stripe.index.remove(&at);
            self.uncount(victim);
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
