//! Imports: entries that arrive from a giver, and the pulls that they arrive in. Keeps H3.
//!
//! # When the store is full
//! Imports come hottest first and go to the recent end of moka's LRU order; at the old end stands first what this store
//! held before and has not used, then the hottest imports. So once there is no room, an import is inserted only if its
//! class is hotter than that of recent victims. As long as those are this store's cold tail, hotter imports displace
//! it; as soon as imports begin to displace hotter imports, the incoming class is the colder one and the pull is told
//! to give up the rest.

use std::sync::Arc;

use softstore_sharding::{Epoch, FrequencyClass, PullId, SliceKey, Timestamp};
use softstore_sync::atomic::{AtomicBool, Ordering};
use softstore_sync::planted::{self, Race};

use super::MokaStore;
use super::entry::{Stamp, weight_bytes};
use super::operations::Draft;
use super::stripe::{STRIPE_COUNT, Stripe};
use super::written::{Kind, Memory};
use crate::frequency::Frequency;
use crate::store::{Import, ImportOutcome};

/// Whether room is made for an import when there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// Only if it is hotter than what is being evicted.
    IfHotter,
    /// As for a set: an operation waits for it.
    Always,
}

impl MokaStore {
    pub(super) fn open_memories(&self, pull: PullId, kind: Kind) {
        let overflowed = Arc::new(AtomicBool::new(false));
        for number in 0..STRIPE_COUNT {
            let overflowed = Arc::clone(&overflowed);
            self.lock_nth(number).written.begin(pull, kind, overflowed);
        }
    }

    pub(super) fn close_memories(&self, pull: PullId) {
        #[cfg(any(feature = "shuttle", feature = "loom"))]
        if planted::is(Race::MemoryFreedBeforeEnd) {
            for number in 0..STRIPE_COUNT {
                self.lock_nth(number).written.free(pull);
            }
        }
        let mut was_open = false;
        for number in 0..STRIPE_COUNT {
            was_open |= self.lock_nth(number).written.end(pull, &self.written_limit);
        }
        if was_open {
            self.reordering_wanted.store(true, Ordering::Release);
        }
    }

    pub(super) fn take_in(
        &self,
        pull: PullId,
        epoch: Epoch,
        now: Timestamp,
        import: &Import<'_>,
        room: Room,
    ) -> ImportOutcome {
        if self.check_fits(import.key, import.value.len()).is_err() {
            return ImportOutcome::Refused;
        }
        let payload_bytes = import.key.len() + import.value.len();
        let stamp = Stamp {
            epoch,
            version: import.version,
            deadline: import.deadline,
            frequency: Frequency::of_class(import.class, now),
        };
        // Made before the lock is taken, as a set's: a value may have megabytes.
        let draft = Draft::of(import.key, import.value, epoch);
        let mut stripe = self.lock(import.at);
        match stripe.written.recall(pull, import.at) {
            Memory::Closed => return ImportOutcome::Ended,
            Memory::Written => return ImportOutcome::Written,
            Memory::Untouched => {}
        }
        if import.deadline <= now {
            return ImportOutcome::Expired;
        }
        if is_taken(&stripe, import.at, epoch, now) {
            return ImportOutcome::Present;
        }
        if room == Room::IfHotter && !self.has_room_for(payload_bytes, import.class, now) {
            return ImportOutcome::TooCold;
        }
        if planted::is(Race::ImportCheckBeforeLock) {
            drop(stripe);
            stripe = self.lock(import.at);
        }
        self.put(&mut stripe, import.at, draft, &stamp, now);
        self.gauges.imported.fetch_add(1, Ordering::Relaxed);
        self.gauges
            .imported_bytes
            .fetch_add(payload_bytes as u64, Ordering::Relaxed);
        ImportOutcome::Inserted
    }

    fn has_room_for(&self, payload_bytes: usize, class: FrequencyClass, now: Timestamp) -> bool {
        let needed = self.gauges.bytes.load(Ordering::Relaxed) + weight_bytes(payload_bytes, 0);
        needed <= self.ballast.room_bytes() || self.evictions.is_hotter_than_victims(class, now)
    }
}

/// Whether something live of this epoch stands at a position, whichever key it has.
fn is_taken(stripe: &Stripe, at: SliceKey, epoch: Epoch, now: Timestamp) -> bool {
    let standing = stripe.index.get(at);
    standing.is_some_and(|entry| entry.epoch() == epoch && !entry.is_expired(now))
}
