//! [`LoadMeter`]: what a node measures of its load, and what of it goes into a heartbeat. The counting, the decay and the
//! heavy hitters are `softstore_sharding::load`; here is how threads come to count without meeting.
//!
//! There are more tallies than threads that serve. An execution takes the one of its thread, counts what it serves, up to 32
//! operations, with plain additions, and gives it back: one uncontended exchange to take it and one store to give it back,
//! for the whole execution. If another has it, as when two threads share a number, the next free one is as good. Nobody ever
//! waits for a tally: an execution that finds none free goes on uncounted, and a heartbeat that finds one taken for longer
//! than [`TALLY_PATIENCE`] leaves its counts for the next. So these locks decide nothing, and are none for an explorer.
//!
//! A tally is made when it is first taken: 430 KiB for each thread that serves.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use softstore_sharding::load::{Memory, Rates, Tally, Window, cut};
use softstore_sharding::session::{HotKeyLoad, LoadReport, SliceLoad};
use softstore_sharding::{Epoch, Slice, Timestamp};
use softstore_store::Part;

use super::state::NodeState;

/// Tallies per processor: threads that are numbered alike seldom meet.
const TALLIES_PER_PROCESSOR: usize = 2;

/// Most tallies, whatever the machine.
const TALLIES_MAX: usize = 256;

/// How long a heartbeat waits for a tally. Who has one runs at most 32 operations.
const TALLY_PATIENCE: Duration = Duration::from_millis(1);

/// The tally of an execution, for as long as that lasts.
pub(super) type Counting<'a> = Option<MappedMutexGuard<'a, Tally>>;

/// On lines of the processor's cache of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(Mutex<Option<Box<Tally>>>);

/// See the head of this file.
pub(super) struct LoadMeter {
    places: Box<[Place]>,
    kept: Mutex<Option<Kept>>,
    totals: Totals,
    /// As of the last heartbeat, for whoever asks.
    hot_keys: Mutex<Arc<[HotKeyLoad]>>,
}

/// What is kept from heartbeat to heartbeat.
struct Kept {
    window: Window,
    memory: Memory,
    /// How long the threads had been busy at the last fold.
    busy_us: u64,
}

/// What was last reported, rounded, for whoever scrapes.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) operations_per_second: AtomicU64,
    pub(super) bytes_per_second: AtomicU64,
    pub(super) cpu_us_per_second: AtomicU64,
    pub(super) hot_keys: AtomicU64,
    pub(super) hottest_key_operations_per_second: AtomicU64,
}

/// What a heartbeat says of the load.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) rates: Rates,
    /// What the threads were busy, in microseconds per second.
    pub(super) busy_us: f64,
    pub(super) slices: Vec<SliceLoad>,
    pub(super) hot_keys: Vec<HotKeyLoad>,
}

impl fmt::Debug for LoadMeter {
    /// Without the counts of 16,384 slots for each tally.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadMeter")
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}

impl Default for LoadMeter {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = (processors * TALLIES_PER_PROCESSOR).clamp(TALLIES_PER_PROCESSOR, TALLIES_MAX);
        Self {
            places: (0..count).map(|_| Place::default()).collect(),
            kept: Mutex::default(),
            totals: Totals::default(),
            hot_keys: Mutex::default(),
        }
    }
}

/// The number of this thread among those that ever served anything in this process.
fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

impl LoadMeter {
    /// One that measures nothing, to compare with.
    #[cfg(test)]
    pub(super) fn off() -> Self {
        Self {
            places: Box::default(),
            ..Self::default()
        }
    }

    /// A tally for an execution, this thread's own if it is free; `None` if none is.
    pub(super) fn counting(&self) -> Counting<'_> {
        let count = self.places.len();
        let mut places = (0..count).map(|offset| thread_number().wrapping_add(offset) % count);
        places.find_map(|number| {
            let place = self.places[number].0.try_lock()?;
            Some(MutexGuard::map(place, |tally| {
                &mut **tally.get_or_insert_with(|| Box::new(Tally::seeded(number as u64)))
            }))
        })
    }

    /// What was measured until `now` of what the node holds, in order. `busy_us`: how long the threads have been busy until
    /// now, in microseconds since whenever. `bytes_of` estimates what a part holds.
    pub(super) fn measure(
        &self,
        held: &[(Slice, Epoch)],
        now: Timestamp,
        busy_us: u64,
        bytes_of: impl Fn(Part) -> u64,
    ) -> Measured {
        let slices: Vec<Slice> = held.iter().map(|(slice, _)| *slice).collect();
        let mut kept = self.kept.lock();
        let Kept {
            window,
            memory,
            busy_us: busy_us_before,
        } = kept.get_or_insert_with(|| Kept {
            window: Window::starting_at(now),
            memory: Memory::default(),
            busy_us,
        });
        if let Some(mut fold) = window.fold(&slices, now) {
            for place in &self.places {
                if let Some(mut place) = place.0.try_lock_for(TALLY_PATIENCE)
                    && let Some(tally) = &mut *place
                {
                    fold.add(tally);
                }
            }
            let before = std::mem::replace(busy_us_before, busy_us);
            fold.add_busy(busy_us.saturating_sub(before));
            memory.look(&slices, |number, slice| {
                let (_, epoch) = held[number];
                bytes_of(Part { slice, epoch })
            });
        }
        let mut rates = Rates::default();
        for slice in &slices {
            rates += window.rates(*slice);
        }
        let measured = Measured {
            rates,
            busy_us: window.busy_us(),
            hot_keys: window.hot_keys(&slices, rates.operations),
            slices: cut::reports(window, memory, &slices),
        };
        drop(kept);
        self.totals.set(&measured);
        *self.hot_keys.lock() = measured.hot_keys.as_slice().into();
        measured
    }

    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The hot keys of the last heartbeat, hottest first.
    pub(super) fn hot_keys(&self) -> Arc<[HotKeyLoad]> {
        self.hot_keys.lock().clone()
    }
}

impl Totals {
    fn set(&self, measured: &Measured) {
        let hottest = measured.hot_keys.first();
        let set = |total: &AtomicU64, value: f64| total.store(rounded(value), Ordering::Relaxed);
        set(&self.operations_per_second, measured.rates.operations);
        set(&self.bytes_per_second, measured.rates.bytes);
        set(&self.cpu_us_per_second, measured.busy_us);
        set(
            &self.hottest_key_operations_per_second,
            hottest.map_or(0.0, |key| key.operations_per_second),
        );
        self.hot_keys
            .store(measured.hot_keys.len() as u64, Ordering::Relaxed);
    }
}

fn rounded(rate: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a rate is finite and never negative; the cast stops at the ends"
    )]
    let rounded = rate.round() as u64;
    rounded
}

/// The node's condition, for a heartbeat.
pub(super) fn report(state: &NodeState) -> LoadReport {
    let stats = state.store.stats();
    let (gets, hits) = state.metrics.gets_and_hits();
    let now = state.clock.now();
    let (counts, serving, held) = {
        let core = state.core();
        // What is read as a replica is load as well.
        let mut held: Vec<(Slice, Epoch)> = core.held().chain(core.read_parts()).collect();
        held.sort_unstable_by_key(|(slice, _)| slice.low());
        (core.counts(), state.serving(&core, now), held)
    };
    let bytes_of = |part| state.store.part_stats(part).bytes;
    let measured = state
        .load
        .measure(&held, state.clock.now(), state.saturation.busy_us(), bytes_of);
    LoadReport {
        entries: stats.entries,
        bytes: stats.bytes,
        gets,
        hits,
        ranges_taking: (counts.pending + counts.pulling) as u64,
        ranges_giving: counts.giving as u64,
        entries_imported: stats.imported,
        bytes_imported: stats.imported_bytes,
        operations_per_second: measured.rates.operations,
        bytes_per_second: measured.rates.bytes,
        cpu_us_per_second: measured.busy_us,
        busy_percent: u8::try_from(state.saturation.busy_percent()).unwrap_or(100),
        slices: measured.slices,
        hot_keys: measured.hot_keys,
        conditions: state.conditions.lines(),
        serving: Some(serving),
        drain: state.drain_report(),
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::SliceKey;
    use softstore_sharding::load::{Served, Was};

    use super::*;

    fn count(meter: &LoadMeter, times: usize) -> bool {
        let Some(mut tally) = meter.counting() else {
            return false;
        };
        for _ in 0..times {
            tally.count(&Served {
                at: SliceKey::new(9),
                range: Slice::FULL,
                key: b"k",
                bytes: 10,
                was: Was::Hit,
            });
        }
        true
    }

    fn held() -> [(Slice, Epoch); 1] {
        [(Slice::FULL, Epoch::new(1))]
    }

    /// Plan: threads count at once, more than there are tallies on a small machine. Nothing of what was counted is lost, and
    /// nothing counts twice.
    #[test]
    fn what_threads_count_arrives_once() {
        const THREADS: usize = 6;
        const TIMES: usize = 2_000;
        let meter = LoadMeter::default();
        meter.measure(&held(), Timestamp::ZERO, 0, |_| 0);
        let mut counted = 0;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| scope.spawn(|| (0..TIMES).filter(|_| count(&meter, 32)).count()))
                .collect();
            counted = threads
                .into_iter()
                .map(|thread| thread.join().expect("it counts"))
                .sum();
        });
        let rates = meter.measure(&held(), Timestamp::from_ms(1_000), 0, |_| 0).rates;
        assert!(counted > THREADS * TIMES / 2, "{counted}");
        assert!(
            (rates.operations - (counted * 32) as f64).abs() < 1e-3,
            "{rates:?} {counted}"
        );
    }

    /// Plan: two ranges, one of which draws twice the gets of the other; the threads were busy for 60 ms in a second, having been
    /// so for long before. That second's busy time is shared out, two to one, and no more; without an operation nobody has it.
    #[test]
    fn slices_share_the_busy_time() {
        let meter = LoadMeter::default();
        let (low, high) = Slice::FULL.split_before(SliceKey::new(1 << 63)).expect("inside");
        let held = [(low, Epoch::new(1)), (high, Epoch::new(2))];
        let measure = |ms, busy_us| meter.measure(&held, Timestamp::from_ms(ms), busy_us, |_| 0);
        measure(0, 7_000_000);
        let idle = measure(1_000, 7_001_000);
        assert!(
            idle.slices.iter().all(|slice| slice.cpu_us_per_second == 0.0),
            "{idle:?}"
        );
        let meter = LoadMeter::default();
        let measure = |ms, busy_us| meter.measure(&held, Timestamp::from_ms(ms), busy_us, |_| 0);
        measure(0, 7_000_000);
        let mut tally = meter.counting().expect("it is free");
        for (range, times) in [(low, 200), (high, 100)] {
            for _ in 0..times {
                tally.count(&Served {
                    at: range.low(),
                    range,
                    key: b"k",
                    bytes: 10,
                    was: Was::Hit,
                });
            }
        }
        drop(tally);
        let measured = measure(1_000, 7_060_000);
        assert!((measured.busy_us - 60_000.0).abs() < 1e-6, "{measured:?}");
        let of = |range: Slice| {
            let within = measured.slices.iter().filter(|part| range.covers(part.slice));
            within.map(|part| part.cpu_us_per_second).sum::<f64>()
        };
        assert!((of(low) - 40_000.0).abs() < 1e-6, "{measured:?}");
        assert!((of(high) - 20_000.0).abs() < 1e-6, "{measured:?}");
    }

    /// Plan: the thread's own tally is taken; the next one counts. All are taken: nobody waits, and nothing is counted.
    #[test]
    fn nobody_waits_for_a_tally() {
        let meter = LoadMeter::default();
        let mut taken = Vec::new();
        while let Some(tally) = meter.counting() {
            taken.push(tally);
        }
        assert_eq!(taken.len(), meter.places.len());
        assert!(!count(&meter, 1));
        drop(taken);
        assert!(count(&meter, 1));
    }
}
