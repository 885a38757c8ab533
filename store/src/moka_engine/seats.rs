//! [`Seats`]: moka's map, and how the seats that it takes become known.
//!
//! moka calls its listener in the middle of its own work, with locks of its own held. So what the listener does must be
//! short and must wait for nothing but the list that it adds to (`evictions`).
//!
//! Under an explorer's locks a listener must not even wait for that: moka's locks are real, and a thread that stood still
//! inside would hold them. There the notes are put down right after the call that brought them, which shows other threads
//! the same as a listener that is slow: moka has taken the seat, and the note is about to come.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::RandomState;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use softstore_sharding::SliceKey;

use super::evictions::Evictions;
use super::seat::{Seat, Ticket};

/// moka's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SeatKey {
    /// The seat of the entry at a position.
    At(SliceKey),
    /// A seat that stands for no entry, by number.
    Ballast(u32),
}

impl Hash for SeatKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One word, as of a position alone; that some few numbers meet a position's does no harm.
        state.write_u64(match self {
            Self::At(at) => at.get(),
            Self::Ballast(number) => u64::from(*number),
        });
    }
}

/// The seats that moka has. See the head of this file.
#[derive(Debug)]
pub(super) struct Seats {
    cache: Cache<SeatKey, Seat, RandomState>,
    #[cfg(any(feature = "shuttle", feature = "loom"))]
    late: late::Notes,
}

impl Seats {
    /// Room for so many bytes. What moka evicts is noted in `evictions`; if it is ballast, in `ballast_shed`.
    pub(super) fn new(room_bytes: u64, evictions: &Arc<Evictions>, ballast_shed: Arc<AtomicBool>) -> Self {
        #[cfg(any(feature = "shuttle", feature = "loom"))]
        let (late, note) = late::Notes::new(evictions.clone());
        #[cfg(not(any(feature = "shuttle", feature = "loom")))]
        let note = {
            let evictions = evictions.clone();
            move |at, ticket| evictions.note(at, ticket)
        };
        let cache = Cache::builder()
            .max_capacity(room_bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, seat: &Seat| seat.weight_bytes)
            .eviction_listener(move |at, seat, cause| {
                // The other causes are our own doing, and the index knows already.
                if cause == RemovalCause::Size {
                    match *at {
                        SeatKey::At(at) => note(at, seat.ticket),
                        SeatKey::Ballast(_) => ballast_shed.store(true, Ordering::Release),
                    }
                }
            })
            .build_with_hasher(RandomState::default());
        Self {
            cache,
            #[cfg(any(feature = "shuttle", feature = "loom"))]
            late,
        }
    }

    /// Gives a seat, in place of the one at its position. Under the position's stripe.
    pub(super) fn give(&self, at: SliceKey, seat: Seat) {
        self.cache.insert(SeatKey::At(at), seat);
        self.put_down_notes();
    }

    /// Gives up the seat at a position, if there is one. Under the position's stripe.
    pub(super) fn give_up(&self, at: SliceKey) {
        self.cache.invalidate(&SeatKey::At(at));
        self.put_down_notes();
    }

    /// Uses a seat, which makes it the youngest. One that is gone is a miss, which moka does not mind.
    pub(super) fn touch(&self, at: SliceKey) {
        let _ = self.cache.get(&SeatKey::At(at));
        self.put_down_notes();
    }

    /// Makes a seat that stands for no entry the youngest, of this weight; of 0, it is given up. `is_new`: it has another weight
    /// now, or may be gone.
    pub(super) fn give_ballast(&self, number: u32, weight_bytes: u32, is_new: bool) {
        let key = SeatKey::Ballast(number);
        if is_new {
            // As for any seat: its weight is never changed.
            self.cache.invalidate(&key);
        }
        if weight_bytes > 0 {
            let ticket = Ticket::default();
            self.cache.insert(key, Seat { ticket, weight_bytes });
        }
        self.put_down_notes();
    }

    /// Lets moka apply what it has pending, and evict.
    pub(super) fn apply(&self) {
        self.cache.run_pending_tasks();
        self.put_down_notes();
    }

    #[cfg(any(feature = "shuttle", feature = "loom"))]
    fn put_down_notes(&self) {
        self.late.put_down();
    }

    #[cfg(not(any(feature = "shuttle", feature = "loom")))]
    #[inline(always)]
    #[expect(
        clippy::unused_self,
        reason = "what it is there for is only there under an explorer"
    )]
    fn put_down_notes(&self) {}

    /// The seat at a position.
    #[cfg(test)]
    pub(super) fn at(&self, at: SliceKey) -> Option<Seat> {
        self.cache.get(&SeatKey::At(at))
    }

    /// How many seats there are and what they weigh, after [`Seats::apply`].
    #[cfg(test)]
    pub(super) fn count_and_bytes(&self) -> (u64, u64) {
        (self.cache.entry_count(), self.cache.weighted_size())
    }
}

/// Notes that are put down after moka's call has ended.
#[cfg(any(feature = "shuttle", feature = "loom"))]
mod late {
    use std::sync::{Arc, Mutex, PoisonError};

    use softstore_sharding::SliceKey;

    use crate::moka_engine::evictions::Evictions;
    use crate::moka_engine::seat::Ticket;

    /// What the listener has heard and nobody has put down yet. A real lock: it is held for no step of an explorer.
    type Heard = Arc<Mutex<Vec<(SliceKey, Ticket)>>>;

    #[derive(Debug)]
    pub(super) struct Notes {
        heard: Heard,
        evictions: Arc<Evictions>,
    }

    impl Notes {
        /// The notes, and what the listener does.
        pub(super) fn new(evictions: Arc<Evictions>) -> (Self, impl Fn(SliceKey, Ticket) + Send + Sync) {
            let heard = Heard::default();
            let listener = heard.clone();
            let hear = move |at, ticket| {
                let mut heard = listener.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push((at, ticket));
            };
            (Self { heard, evictions }, hear)
        }

        pub(super) fn put_down(&self) {
            let heard = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
            for (at, ticket) in heard {
                self.evictions.note(at, ticket);
            }
        }
    }
}
