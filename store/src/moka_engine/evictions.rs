//! What moka's eviction listener leaves behind: which seats were taken, and how hot those who sat there were.
//!
//! moka calls the listener on the thread of whoever happens to run its housekeeping, possibly one that holds a lock
//! stripe. So the listener takes no stripe: it notes position and ticket and returns. Notes wait by stripe, so that
//! whoever writes to a stripe can first take from it what moka has evicted there; a bit per stripe says whether there
//! are any.

use softstore_sharding::{FrequencyClass, SliceKey, Timestamp};
use softstore_sync::Mutex;
use softstore_sync::atomic::{AtomicU64, Ordering};
use softstore_sync::planted::{self, Race};

use super::entry::Entry;
use super::seat::Ticket;
use super::stripe::{STRIPE_COUNT, stripe_index};
use crate::frequency::{Decay, Tick};

/// How much of the estimate one victim makes up: 1/16. A few dozen victims, which is what moka evicts at once, turn it.
const VICTIM_SHARE_SHIFT: u32 = 4;

/// The estimate is kept in 1/1,024 of a class.
const FRACTION_BITS: u32 = 10;

/// No victim was seen.
const NONE: u64 = u64::MAX;

/// Bits in a word.
const WORD_BITS: usize = 64;

/// A seat that moka took for want of room.
pub(super) type Note = (SliceKey, Ticket);

/// The notes that wait to be carried out on the index, and the estimate of how hot victims are.
#[derive(Debug)]
pub(super) struct Evictions {
    waiting: Box<[Mutex<Vec<Note>>]>,
    /// Which stripes have notes. A bit is set after a note was put down and cleared before notes are taken, so it is
    /// never clear for long while a note waits.
    noted: [AtomicU64; STRIPE_COUNT.div_ceil(WORD_BITS)],
    evicted: AtomicU64,
    /// Estimated class above, the tick of the last victim below; or [`NONE`].
    victim_class: AtomicU64,
    decay: Decay,
}

impl Evictions {
    pub(super) fn new(decay: Decay) -> Self {
        Self {
            waiting: (0..STRIPE_COUNT).map(|_| Mutex::default()).collect(),
            noted: Default::default(),
            evicted: AtomicU64::new(0),
            victim_class: AtomicU64::new(NONE),
            decay,
        }
    }

    /// Notes a seat that was taken. Called by moka, for one at a time.
    pub(super) fn note(&self, at: SliceKey, ticket: Ticket) {
        let stripe = stripe_index(at);
        let mark = || self.noted[stripe / WORD_BITS].fetch_or(bit_of(stripe), Ordering::Release);
        if planted::is(Race::MarkSetBeforeNote) {
            mark();
            self.waiting[stripe].lock().push((at, ticket));
        } else {
            self.waiting[stripe].lock().push((at, ticket));
            mark();
        }
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a stripe has notes.
    pub(super) fn has_notes(&self, stripe: usize) -> bool {
        self.noted[stripe / WORD_BITS].load(Ordering::Acquire) & bit_of(stripe) != 0
    }

    /// Takes a stripe's notes. The caller holds the stripe, to carry them out.
    pub(super) fn take(&self, stripe: usize) -> Vec<Note> {
        let wipe = || self.noted[stripe / WORD_BITS].fetch_and(!bit_of(stripe), Ordering::AcqRel);
        if planted::is(Race::MarkWipedAfterNotes) {
            let notes = std::mem::take(&mut *self.waiting[stripe].lock());
            wipe();
            return notes;
        }
        wipe();
        std::mem::take(&mut *self.waiting[stripe].lock())
    }

    /// Some stripe that has notes.
    pub(super) fn some_noted_stripe(&self) -> Option<usize> {
        self.noted.iter().enumerate().find_map(|(index, word)| {
            let bits = word.load(Ordering::Acquire);
            (bits != 0).then(|| index * WORD_BITS + bits.trailing_zeros() as usize)
        })
    }

    /// Learns how hot a victim was.
    pub(super) fn learn_of(&self, victim: &Entry, now: Timestamp) {
        let class = if victim.is_expired(now) {
            FrequencyClass::COLDEST
        } else {
            victim.frequency().class_at(now, self.decay)
        };
        self.learn(class, now);
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

fn bit_of(stripe: usize) -> u64 {
    1 << (stripe % WORD_BITS)
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

    /// Plan: notes for two stripes; each stripe gets its own, once, and a later note is seen again.
    #[test]
    fn notes_wait_by_stripe() {
        let evictions = Evictions::new(Decay::with_half_life_ms(1_000));
        let ticket = Ticket::from_number;
        assert_eq!(evictions.some_noted_stripe(), None);
        for (position, number) in [(3, 1), (200, 2), (200 + 256, 3)] {
            evictions.note(SliceKey::new(position), ticket(number));
        }
        assert!(evictions.has_notes(3) && evictions.has_notes(200) && !evictions.has_notes(4));
        assert_eq!(evictions.some_noted_stripe(), Some(3));
        assert_eq!(evictions.take(3), [(SliceKey::new(3), ticket(1))]);
        assert_eq!(evictions.some_noted_stripe(), Some(200));
        assert_eq!(
            evictions.take(200),
            [(SliceKey::new(200), ticket(2)), (SliceKey::new(456), ticket(3))]
        );
        assert_eq!((evictions.some_noted_stripe(), evictions.evicted()), (None, 3));
        evictions.note(SliceKey::new(3), ticket(4));
        assert!(evictions.has_notes(3));
    }
}
