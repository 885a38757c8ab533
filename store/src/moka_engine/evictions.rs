//! What moka's eviction listener leaves behind: the victims that the side index still lists, and how hot they were.
//!
//! moka calls the listener on the thread of whoever happens to run its housekeeping, possibly one that holds a lock
//! stripe. So the listener takes no stripe: it notes the victim and returns. The note holds the very entry, so a victim
//! is told from a newer entry at its position by identity, and nothing inserted again is mistaken for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use softstore_sharding::{FrequencyClass, SliceKey, Timestamp};

use super::entry::Entry;
use crate::frequency::{Decay, Tick};

/// How much of the estimate one victim makes up: 1/16. A few dozen victims, which is what moka evicts at once, turn it.
const VICTIM_SHARE_SHIFT: u32 = 4;

/// The estimate is kept in 1/1,024 of a class.
const FRACTION_BITS: u32 = 10;

/// No victim was seen.
const NONE: u64 = u64::MAX;

/// The victims that wait to be taken from the side index, and the estimate of how hot victims are.
#[derive(Debug)]
pub(super) struct Evictions {
    waiting: Mutex<Vec<(SliceKey, Arc<Entry>)>>,
    waiting_count: AtomicUsize,
    evicted: AtomicU64,
    /// Estimated class above, the tick of the last victim below; or [`NONE`].
    victim_class: AtomicU64,
    decay: Decay,
}

impl Evictions {
    pub(super) fn new(decay: Decay) -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
            waiting_count: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            victim_class: AtomicU64::new(NONE),
            decay,
        }
    }

    /// Notes a victim. Called by moka, for one victim at a time.
    pub(super) fn note(&self, at: SliceKey, victim: Arc<Entry>, now: Timestamp) {
        let class = if victim.is_expired(now) {
            FrequencyClass::COLDEST
        } else {
            victim.frequency.class_at(now, self.decay)
        };
        self.learn(class, now);
        self.evicted.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        waiting.push((at, victim));
        self.waiting_count.store(waiting.len(), Ordering::Release);
    }

    /// Takes up to `count_max` victims to be removed from the index.
    pub(super) fn take(&self, count_max: usize) -> Vec<(SliceKey, Arc<Entry>)> {
        if self.waiting_count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut waiting = self.waiting.lock();
        let kept = waiting.len().saturating_sub(count_max);
        let taken = waiting.split_off(kept);
        self.waiting_count.store(kept, Ordering::Release);
        taken
    }

    /// How many were evicted since the start.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Whether nothing was evicted yet, so that there is nothing to judge by.
    pub(super) fn has_seen_none(&self) -> bool {
        self.victim_class.load(Ordering::Relaxed) == NONE
    }

    /// Whether a class is hotter than what is being evicted. True as long as nothing was.
    pub(super) fn is_hotter_than_victims(&self, class: FrequencyClass, now: Timestamp) -> bool {
        match self.victim_class_at(now) {
            None => true,
            Some(victims) => scaled(class) > victims,
        }
    }

    /// The estimate at `now`, scaled: what was evicted some time ago would have cooled since.
    fn victim_class_at(&self, now: Timestamp) -> Option<u32> {
        let packed = self.victim_class.load(Ordering::Relaxed);
        if packed == NONE {
            return None;
        }
        let (class, tick) = unpack(packed);
        let cooled = self.decay.half_lives(tick, Tick::at(now)) * f32::from(1_u16 << FRACTION_BITS);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast from float saturates"
        )]
        Some(class.saturating_sub(cooled as u32))
    }

    fn learn(&self, class: FrequencyClass, now: Timestamp) {
        let class = scaled(class);
        let learned = match self.victim_class_at(now) {
            None => class,
            Some(before) => before - (before >> VICTIM_SHARE_SHIFT) + (class >> VICTIM_SHARE_SHIFT),
        };
        self.victim_class
            .store(pack(learned, Tick::at(now)), Ordering::Relaxed);
    }
}

fn scaled(class: FrequencyClass) -> u32 {
    u32::from(class.get()) << FRACTION_BITS
}

fn pack(class: u32, tick: Tick) -> u64 {
    u64::from(class) << 32 | u64::from(tick.number())
}

#[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
fn unpack(packed: u64) -> (u32, Tick) {
    ((packed >> 32) as u32, Tick::from_number(packed as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_follows_the_victims_and_cools() {
        let half_life_ms = 64_000;
        let evictions = Evictions::new(Decay::with_half_life_ms(half_life_ms));
        let now = Timestamp::from_ms(1_000_000);
        let class = FrequencyClass::clamped;
        assert!(evictions.is_hotter_than_victims(FrequencyClass::COLDEST, now));
        evictions.learn(class(20), now);
        assert!(!evictions.is_hotter_than_victims(class(20), now));
        assert!(evictions.is_hotter_than_victims(class(21), now));
        for _ in 0..64 {
            evictions.learn(class(10), now);
        }
        assert!(evictions.is_hotter_than_victims(class(12), now));
        assert!(!evictions.is_hotter_than_victims(class(10), now));
        let later = now.plus_ms(2 * half_life_ms);
        assert!(evictions.is_hotter_than_victims(class(10), later));
        assert!(!evictions.is_hotter_than_victims(class(8), later));
    }
}
