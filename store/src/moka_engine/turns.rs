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
const TURN_MS: u64 = 10_000;

/// The present turn, and what ends it.
#[derive(Debug)]
pub(super) struct Turns {
    /// Wraps around: an entry unused for exactly 65,536 turns misses one move, and nothing else.
    current: AtomicU16,
    turn_bytes: u64,
    inserted_bytes: AtomicU64,
    begun_ms: AtomicU64,
}

impl Turns {
    pub(super) fn new(room_bytes: u64) -> Self {
        Self {
            current: AtomicU16::new(0),
            turn_bytes: (room_bytes >> TURN_ROOM_SHIFT).max(1),
            inserted_bytes: AtomicU64::new(0),
            begun_ms: AtomicU64::new(0),
        }
    }

    /// The present turn.
    pub(super) fn current(&self) -> u16 {
        self.current.load(Ordering::Relaxed)
    }

    /// An entry of this weight is inserted.
    pub(super) fn inserted(&self, bytes: u64) {
        let before = self.inserted_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before / self.turn_bytes != before.wrapping_add(bytes) / self.turn_bytes {
            self.current.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends a turn that has lasted long enough.
    pub(super) fn look_at_clock(&self, now: Timestamp) {
        let begun = Timestamp::from_ms(self.begun_ms.load(Ordering::Relaxed));
        if now.ms_since(begun) >= TURN_MS {
            self.begun_ms.store(now.as_ms(), Ordering::Relaxed);
            self.current.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
