//! [`MokaStore`]: the first engine. moka chooses victims; this engine keeps the entries and adds what moka lacks.
//!
//! ```text
//!   get, set, delete, --> lock stripe (256)
//!   touch, add, import      |- index: hash table SliceKey -> entry (one allocation each); ordered positions
//!                           '- written-keys memories of open pulls (H3)
//!
//!   uses (once per turn), writes that matter --> moka map (SliceKey -> seat: ticket, weight): chooses victims
//!                                                   |
//!                                                   v evicts: the listener notes position and ticket
//!                                     evictions (by stripe) --taken by the stripe's next writer, or after a write--> index
//!
//!   maintain: moka's pending tasks, evictions, purges, the sweep for expired entries, recency after a pull
//!
//!   operations: what clients ask   listing: what a hand-off asks   config
//! ```
//!
//! # Which of the two maps is right
//! The index: an entry is present if the index has it. moka has no entries but *seats*: a ticket, given once, and a
//! weight. Whenever nobody holds the stripe, this holds of each entry in the index:
//!
//! > moka has a seat with the entry's ticket at its position, or it has taken that seat and a note that names the ticket
//! > waits or is about to.
//!
//! - *Seated*: under the stripe, an entry gets a ticket that was never given there and moka the seat, in place of
//!   whatever seat it had at the position. So what moka has at a position is what the index has there, or nothing.
//! - *Evicted*: moka takes a seat and calls the listener, which notes just that seat's ticket. Whoever carries the note
//!   out holds the stripe and removes the entry if it has that ticket still.
//! - *Removed*: under the stripe, from the index and from moka.
//! - A seat never changes its weight: one of another weight is given up and a new one taken (`give_up_seat` says why).
//!
//! So no entry stays that moka does not know, and no note removes an entry that was seated after the eviction.
//!
//! # Overwrites
//! moka need not hear of an overwrite that leaves the weight as it was, and weights are size classes. But a write is
//! also a use, and the seat may have been taken. So an entry keeps its seat over an overwrite only if the weight is the
//! same and the seat was given *in this turn* (see `turns`): then it stands at the young end of moka's order already. The
//! first write of a turn takes a new seat, which spares the entry from any note about the old one. And whoever locks a
//! stripe to write first carries out the notes that wait there: an entry whose eviction was noted before the write is
//! absent to it and seated afresh. What remains is a seat of this very turn that moka takes while the overwrite runs,
//! before the note is down: the entry then goes with its seat, evicted for want of room like any other. (It takes the
//! use of all that is resident within one turn for a seat of that turn to be the oldest.)
//!
//! # Reads
//! take the stripe's lock shared, so that "absent" and "not written" are one statement, and find the entry in the index:
//! moka's map and its bookkeeping of uses cost several times as much, nearly all of it cache misses. moka is told of an
//! entry's use once per turn (`turns`). The reader is shown the value under the lock: to count a reference and to
//! discount it costs more than to copy what most values are. A shared entry never changes but for its deadline,
//! frequency, turns and ticket, all atomic; one that nobody shares is overwritten in place, under the exclusive lock.
//!
//! # What moka's policy is told
//! - LRU, not the default TinyLFU: the latter refuses nearly every fresh insert into a hot, full cache, and a set that
//!   was acknowledged must be readable (the conformance suite proves it).
//! - Capacity is 31/32 of the budget. moka cannot be told another one: what a smaller budget takes away is taken by seats
//!   that stand for no entry (`ballast`). moka applies writes in batches and overshoots, and hears of large entries by
//!   instalments; when what is resident passes the budget, the writer makes moka evict before it goes on (`room`).
//! - No TTL: moka reads a clock of its own. Deadlines are in the entries; `reclaim` sweeps for them.
//! - Imports come hottest first, which plain LRU takes for coldest. `import` therefore judges an import against recent
//!   victims once the store is full, and `recency` puts entries in the order of their heat after a pull.
//!
//! Invariants kept here: H3 (with `written`), the store's part of H4 (a version is taken under the stripe).

mod ballast;
mod config;
mod entry;
mod evictions;
mod import;
mod index;
mod instalments;
#[cfg(all(test, any(feature = "shuttle", feature = "loom")))]
mod interleavings;
mod listing;
mod operations;
mod recency;
mod reclaim;
mod room;
mod seat;
mod seats;
mod stripe;
mod turns;
mod written;

use std::collections::VecDeque;
use std::sync::Arc;

use softstore_sharding::{Epoch, PullId, SliceKey, Timestamp};
use softstore_sync::Mutex;
use softstore_sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use config::{MokaStoreConfig, VALUE_BYTES_MAX, WRITTEN_KEYS_MAX};
pub use entry::ENTRY_OVERHEAD_BYTES;

use crate::frequency::Decay;
use crate::store::{
    Added, Frozen, Import, ImportOutcome, Listing, OpContext, Outcome, Part, PartStats, Reading,
    SetCondition, SetOutcome, Store, StoreError, StoreStats,
};
use ballast::Ballast;
use evictions::Evictions;
use import::Room;
use instalments::Instalments;
use recency::Reordering;
use reclaim::{Purging, SweepCursor};
use seats::Seats;
use stripe::Stripes;
use turns::Turns;
use written::{Kind, WrittenLimit};

/// The longest value that the configuration can allow, so that every weight fits moka's 32 bits.
const VALUE_BYTES_LIMIT: usize = 1 << 30;

/// An engine on moka's concurrent cache. See the head of this module.
#[derive(Debug)]
pub struct MokaStore {
    config: MokaStoreConfig,
    decay: Decay,
    ballast: Ballast,
    seats: Seats,
    stripes: Stripes,
    turns: Turns,
    written_limit: WrittenLimit,
    evictions: Arc<Evictions>,
    instalments: Instalments,
    /// Weight that moka was given since its tasks last ran by our doing. It runs them itself, too: this is an upper bound.
    unapplied_bytes: AtomicU64,
    latest: LatestTime,
    gauges: Gauges,
    purges: Mutex<VecDeque<Part>>,
    reordering_wanted: AtomicBool,
    housekeeping: Mutex<Housekeeping>,
}

/// Where housekeeping stands; one thread keeps house at a time.
#[derive(Debug, Default)]
struct Housekeeping {
    sweep: SweepCursor,
    purging: Option<Purging>,
    reordering: Reordering,
}

/// The latest time that a write or maintain was given, for whoever carries out evictions and is given none.
#[derive(Debug, Default)]
struct LatestTime(AtomicU64);

impl LatestTime {
    fn see(&self, now: Timestamp) {
        if self.0.load(Ordering::Relaxed) < now.as_ms() {
            self.0.store(now.as_ms(), Ordering::Relaxed);
        }
    }

    fn get(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::Relaxed))
    }
}

/// Counts of what the index holds, and of what happened since the start.
#[derive(Debug, Default)]
struct Gauges {
    entries: AtomicU64,
    bytes: AtomicU64,
    expired: AtomicU64,
    imported: AtomicU64,
    imported_bytes: AtomicU64,
    collisions: AtomicU64,
}

impl MokaStore {
    /// An empty store.
    #[must_use]
    pub fn new(config: MokaStoreConfig) -> Self {
        let config = MokaStoreConfig {
            value_bytes_max: config.value_bytes_max.min(VALUE_BYTES_LIMIT),
            ..config
        };
        let decay = Decay::with_half_life_ms(config.frequency_half_life_ms);
        let ballast = Ballast::new(config.budget_bytes, config.budget_bytes_max);
        let evictions = Arc::new(Evictions::new(decay));
        let store = Self {
            config,
            decay,
            seats: Seats::new(ballast.capacity_bytes(), &evictions, ballast.is_shed()),
            turns: Turns::new(ballast.room_bytes()),
            ballast,
            stripes: Stripes::new(),
            written_limit: WrittenLimit::new(config.written_keys_max),
            evictions,
            instalments: Instalments::default(),
            unapplied_bytes: AtomicU64::new(0),
            latest: LatestTime::default(),
            gauges: Gauges::default(),
            purges: Mutex::default(),
            reordering_wanted: AtomicBool::new(false),
            housekeeping: Mutex::default(),
        };
        store.trim_ballast();
        store
    }
}

impl Store for MokaStore {
    fn read(
        &self,
        key: &[u8],
        at: SliceKey,
        context: &OpContext<'_>,
        answer: &mut dyn FnMut(Reading<'_>),
    ) -> Outcome<bool> {
        self.look_up(key, at, context, answer)
    }

    fn set(
        &self,
        key: &[u8],
        at: SliceKey,
        value: &[u8],
        deadline: Timestamp,
        condition: SetCondition,
        context: &OpContext<'_>,
    ) -> Result<Outcome<SetOutcome>, StoreError> {
        let outcome = self.write(key, at, value, deadline, condition, context);
        self.settle();
        outcome
    }

    fn delete(
        &self,
        key: &[u8],
        at: SliceKey,
        report_existence: bool,
        context: &OpContext<'_>,
    ) -> Outcome<bool> {
        let outcome = self.erase(key, at, report_existence, context);
        self.settle();
        outcome
    }

    fn touch(&self, key: &[u8], at: SliceKey, deadline: Timestamp, context: &OpContext<'_>) -> Outcome<bool> {
        self.move_deadline(key, at, deadline, context)
    }

    fn add(
        &self,
        key: &[u8],
        at: SliceKey,
        delta: i64,
        deadline: Timestamp,
        context: &OpContext<'_>,
    ) -> Result<Outcome<Added>, StoreError> {
        let outcome = self.count(key, at, delta, deadline, context);
        self.settle();
        outcome
    }

    fn begin_pull(&self, pull: PullId) {
        self.open_memories(pull, Kind::Pulled);
    }

    fn begin_awaiting(&self, pull: PullId) {
        self.open_memories(pull, Kind::Awaited);
    }

    fn end_pull(&self, pull: PullId) {
        self.close_memories(pull);
    }

    fn pull_overflowed(&self, pull: PullId) -> bool {
        // Each stripe's part knows; any will do.
        self.stripes.look_nth(0).written.overflowed(pull)
    }

    fn import(&self, pull: PullId, epoch: Epoch, now: Timestamp, import: &Import<'_>) -> ImportOutcome {
        let outcome = self.take_in(pull, epoch, now, import, Room::IfHotter);
        self.settle_import();
        outcome
    }

    fn import_peeked(
        &self,
        pull: PullId,
        epoch: Epoch,
        now: Timestamp,
        import: &Import<'_>,
    ) -> ImportOutcome {
        let outcome = self.take_in(pull, epoch, now, import, Room::Always);
        self.settle_import();
        outcome
    }

    fn is_written(&self, pull: PullId, at: SliceKey) -> bool {
        self.stripes.look(at).written.recall(pull, at) != written::Memory::Untouched
    }

    fn list(&self, parts: &[Part], as_of: Timestamp) -> Listing {
        self.list_parts(parts, as_of)
    }

    fn read_frozen(&self, at: SliceKey, epoch: Epoch, as_of: Timestamp) -> Option<Frozen> {
        self.read_uncounted(at, epoch, as_of)
    }

    fn purge(&self, part: Part) {
        self.purges.lock().push_back(part);
    }

    fn purges_waiting(&self) -> usize {
        self.purges.lock().len()
    }

    fn part_stats(&self, part: Part) -> PartStats {
        self.estimate(part)
    }

    fn maintain(&self, now: Timestamp) {
        self.keep_house(now);
    }

    fn set_budget(&self, budget_bytes: u64) {
        self.aim_at_budget(budget_bytes);
    }

    fn stats(&self) -> StoreStats {
        let read = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        StoreStats {
            entries: read(&self.gauges.entries),
            bytes: read(&self.gauges.bytes),
            budget_bytes: self.ballast.budget_bytes(),
            evicted: self.evictions.evicted(),
            expired: read(&self.gauges.expired),
            imported: read(&self.gauges.imported),
            imported_bytes: read(&self.gauges.imported_bytes),
            written_keys: self.written_limit.keys(),
            collisions: read(&self.gauges.collisions),
        }
    }
}
