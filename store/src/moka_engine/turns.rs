//! [`Turns`]: how often moka is told that an entry is used. Not at each use, but once per turn.
//!
//! To tell moka of a use costs more than the read itself: it looks the entry up again, queues a record, and later moves
//! a link in a list of all entries; about ten cache misses. And the order of uses matters only against evictions, which
//! only inserts bring about. So a turn ends when 1/64 of the room has been inserted, or after [`TURN_MS`], and an entry
//! used again in the same turn is not moved again: LRU's order is exact to 1/64 of the room. (memcached likewise moves
//! an item once a minute at most.)

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use softstore_sharding::Timestamp;

/// The part of the room whose insertion ends a turn: 1/64.
const TURN_ROOM_SHIFT: u32 = 6;

/// Longest turn in milliseconds; looked at in housekeeping.
const TURN_MS: u64 = 60_000;

/// The present turn, and what ends it.
#[derive(Debug)]
pub(super) struct Turns {
    /// Wraps around: an entry unused for exactly 65,536 turns misses one move, and nothing else.
    current: AtomicU16,
    turn_bytes: AtomicU64,
    inserted_bytes: AtomicU64,
    begun_ms: AtomicU64,
}

impl Turns {
    pub(super) fn new(room_bytes: u64) -> Self {
        Self {
            current: AtomicU16::new(0),
            turn_bytes: AtomicU64::new(turn_bytes(room_bytes)),
            inserted_bytes: AtomicU64::new(0),
            begun_ms: AtomicU64::new(0),
        }
    }

    /// There is another room now.
    pub(super) fn set_room(&self, room_bytes: u64) {
        self.turn_bytes.store(turn_bytes(room_bytes), Ordering::Relaxed);
    }

    /// The present turn.
    pub(super) fn current(&self) -> u16 {
        self.current.load(Ordering::Relaxed)
    }

    /// What the store holds grows by this weight. (An overwrite of equal weight brings no eviction about.)
    pub(super) fn inserted(&self, bytes: u64) {
        let before = self.inserted_bytes.fetch_add(bytes, Ordering::Relaxed);
        let turn_bytes = self.turn_bytes.load(Ordering::Relaxed);
        if before / turn_bytes != before.wrapping_add(bytes) / turn_bytes {
            self.end();
        }
    }

    /// Ends a turn that has lasted long enough.
    pub(super) fn look_at_clock(&self, now: Timestamp) {
        let begun = Timestamp::from_ms(self.begun_ms.load(Ordering::Relaxed));
        if now.ms_since(begun) >= TURN_MS {
            self.begun_ms.store(now.as_ms(), Ordering::Relaxed);
            self.end();
        }
    }

    /// Ends the present turn.
    pub(super) fn end(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}

fn turn_bytes(room_bytes: u64) -> u64 {
    (room_bytes >> TURN_ROOM_SHIFT).max(1)
}

#[cfg(test)]
mod tests {
    use softstore_sharding::{Epoch, SliceKey, Version, VersionCounter};

    use super::*;
    use crate::moka_engine::{MokaStore, MokaStoreConfig};
    use crate::store::{Absence, OpContext, Outcome, SetCondition, Store};

    #[test]
    fn a_turn_ends_by_bytes_or_by_time() {
        let turns = Turns::new(64_000);
        turns.inserted(999);
        assert_eq!(turns.current(), 0);
        turns.inserted(1);
        assert_eq!(turns.current(), 1);
        let now = Timestamp::from_ms(1_000_000);
        turns.look_at_clock(now);
        assert_eq!(turns.current(), 2);
        turns.look_at_clock(now.plus_ms(TURN_MS - 1));
        assert_eq!(turns.current(), 2);
        turns.look_at_clock(now.plus_ms(TURN_MS));
        assert_eq!(turns.current(), 3);
    }

    /// Plan: one key is read again and again while ten times the room is written, and time stands still. It outlives all
    /// that was written with it and not read.
    #[test]
    fn what_is_used_outlives_what_is_not() {
        let store = MokaStore::new(MokaStoreConfig {
            budget_bytes: 256 << 10,
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
        let set = |number: u32| {
            let key = number.to_string();
            let at = SliceKey::of_key(key.as_bytes());
            let stored = store.set(
                key.as_bytes(),
                at,
                b"v",
                Timestamp::NEVER,
                SetCondition::Always,
                &context,
            );
            assert!(matches!(stored, Ok(Outcome::Done(_))));
        };
        let is_present = |number: u32| {
            let key = number.to_string();
            let found = store.get(key.as_bytes(), SliceKey::of_key(key.as_bytes()), &context);
            matches!(found, Outcome::Done(Some(_)))
        };
        (0..100).for_each(set);
        for number in 100..6_000 {
            set(number);
            assert!(is_present(7), "after {number}");
        }
        store.maintain(context.now);
        assert!(!(0..100).any(|number| number != 7 && is_present(number)));
    }
}
