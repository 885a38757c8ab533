//! [`MokaStore`]: the first engine. moka holds the entries and chooses victims; this engine adds what moka lacks.
//!
//! ```text
//!   get, set, delete, --> lock stripe (256)
//!   touch, add, import      |- index: BTreeMap<SliceKey, Arc<Entry>>  what is present; lists a slice
//!                           '- written-keys memories of open pulls (H3)
//!
//!   uses (once per turn), writes --> moka map (SliceKey -> Arc<Entry>): chooses victims
//!                                      |
//!                                      v evicts: the listener notes the victim
//!                                    evictions (a queue) --drained outside of stripes--> index
//!
//!   maintain: moka's pending tasks, evictions, purges, the sweep for expired entries, recency after a pull
//! ```
//!
//! # Which of the two maps is right
//! The index: an entry is present if the index has it. Both change under the stripe of the position, except that moka
//! evicts when it likes. So under the stripe, what moka has at a position is what the index has there, or nothing; and
//! what only the index has was evicted, and its note is in the queue or about to be: the entry goes when the note is
//! drained, after the next write or in `maintain`. A note names the entry itself, so removing it from the index cannot
//! hit an entry inserted since.
//!
//! # Reads
//! take the stripe's lock shared, so that "absent" and "not written" are one statement, and find the entry in the index:
//! moka's map and its bookkeeping of uses cost several times as much, nearly all of it cache misses. moka is told of an
//! entry's use once per turn (`turns`). An entry never changes but for its deadline, frequency and turn, all atomic; a
//! write puts a new entry in its place.
//!
//! # What moka's policy is told
//! - LRU, not the default TinyLFU: the latter refuses nearly every fresh insert into a hot, full cache, and a set that
//!   was acknowledged must be readable (the conformance suite proves it).
//! - Capacity is 31/32 of the budget. moka applies writes in batches and overshoots; when what is resident passes the
//!   budget, the writer runs moka's pending tasks before it goes on (`room`).
//! - No TTL: moka reads a clock of its own. Deadlines are in the entries; `reclaim` sweeps for them.
//! - Imports come hottest first, which plain LRU takes for coldest. `import` therefore judges an import against recent
//!   victims once the store is full, and `recency` puts entries in the order of their heat after a pull.
//!
//! Invariants kept here: H3 (with `written`), the store's part of H4 (a version is taken under the stripe).

mod config;
mod entry;
mod evictions;
mod import;
mod index;
mod listing;
mod operations;
mod recency;
mod reclaim;
mod room;
mod seat;
mod stripe;
mod turns;
mod written;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use foldhash::fast::RandomState;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use softstore_sharding::{Epoch, PullId, SliceKey, Timestamp};

pub use config::{MokaStoreConfig, VALUE_BYTES_MAX, WRITTEN_KEYS_MAX};
pub use entry::ENTRY_OVERHEAD_BYTES;

use crate::frequency::Decay;
use crate::store::{
    Added, Frozen, Import, ImportOutcome, Listing, OpContext, Outcome, Part, PartStats, Reading,
    SetCondition, SetOutcome, Store, StoreError, StoreStats,
};
use evictions::Evictions;
use import::Room;
use recency::Reordering;
use reclaim::{Purging, SweepCursor};
use seat::Seat;
use stripe::Stripes;
use turns::Turns;
use written::WrittenLimit;

/// The part of the budget that moka is not told of: 1/32, for writes that it has not applied yet.
const RESERVE_SHIFT: u32 = 5;

/// The longest value that the configuration can allow, so that every weight fits moka's 32 bits.
const VALUE_BYTES_LIMIT: usize = 1 << 30;

/// An engine on moka's concurrent cache. See the head of this module.
#[derive(Debug)]
pub struct MokaStore {
    config: MokaStoreConfig,
    decay: Decay,
    /// moka's capacity.
    room_bytes: u64,
    cache: Cache<SliceKey, Seat, RandomState>,
    stripes: Stripes,
    turns: Turns,
    written_limit: WrittenLimit,
    evictions: Arc<Evictions>,
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
        let room_bytes = config.budget_bytes - (config.budget_bytes >> RESERVE_SHIFT);
        let evictions = Arc::new(Evictions::new(decay));
        Self {
            config,
            decay,
            room_bytes,
            cache: build_cache(room_bytes, &evictions),
            stripes: Stripes::new(),
            turns: Turns::new(room_bytes),
            written_limit: WrittenLimit::new(config.written_keys_max),
            evictions,
            latest: LatestTime::default(),
            gauges: Gauges::default(),
            purges: Mutex::default(),
            reordering_wanted: AtomicBool::new(false),
            housekeeping: Mutex::default(),
        }
    }
}

fn build_cache(room_bytes: u64, evictions: &Arc<Evictions>) -> Cache<SliceKey, Seat, RandomState> {
    let evictions = Arc::clone(evictions);
    Cache::builder()
        .max_capacity(room_bytes)
        .eviction_policy(EvictionPolicy::lru())
        .weigher(|_, seat: &Seat| seat.weight_bytes)
        .eviction_listener(move |at, seat, cause| {
            // The other causes are our own doing, and the index knows already.
            if cause == RemovalCause::Size {
                evictions.note(*at, seat.ticket);
            }
        })
        .build_with_hasher(RandomState::default())
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
        self.open_memories(pull);
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

    fn part_stats(&self, part: Part) -> PartStats {
        self.estimate(part)
    }

    fn maintain(&self, now: Timestamp) {
        self.keep_house(now);
    }

    fn stats(&self) -> StoreStats {
        let read = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        StoreStats {
            entries: read(&self.gauges.entries),
            bytes: read(&self.gauges.bytes),
            budget_bytes: self.config.budget_bytes,
            evicted: self.evictions.evicted(),
            expired: read(&self.gauges.expired),
            imported: read(&self.gauges.imported),
            imported_bytes: read(&self.gauges.imported_bytes),
            written_keys: self.written_limit.keys(),
            collisions: read(&self.gauges.collisions),
        }
    }
}
