//! The clocks that the cores are given: [`Clock`] (monotonic, runs in suspend) and the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(not(feature = "shuttle"))]
use rustix::time::{ClockId, clock_gettime};
use softstore_sharding::{Founding, Incarnation, ProcessId, Timestamp};

/// Reads `CLOCK_BOOTTIME`: monotonic, and it runs while the machine is suspended, so that no TTL outlives a suspend (H5).
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Now.
    #[must_use]
    pub fn now(self) -> Timestamp {
        Timestamp::from_ms(self.now_us() / 1_000)
    }

    /// Now, in microseconds of the same clock.
    #[must_use]
    #[cfg(not(feature = "shuttle"))]
    pub fn now_us(self) -> u64 {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
        seconds * 1_000_000 + nanoseconds / 1_000
    }

    /// Now, in microseconds of the scenario's clock.
    #[must_use]
    #[cfg(feature = "shuttle")]
    pub fn now_us(self) -> u64 {
        scenario::now_ms() * 1_000
    }
}

/// The clock of an explored scenario: it stands until the scenario moves it.
#[cfg(feature = "shuttle")]
pub(crate) mod scenario {
    use std::cell::Cell;

    // All threads of a scenario run on the thread that explores it.
    std::thread_local! {
        static NOW_MS: Cell<u64> = const { Cell::new(1_000_000) };
    }

    pub(crate) fn now_ms() -> u64 {
        NOW_MS.get()
    }

    #[cfg(test)]
    pub(crate) fn advance_ms(ms: u64) {
        NOW_MS.set(NOW_MS.get() + ms);
    }
}

/// Milliseconds since 1970, UTC; 0 on a machine whose clock stands before that.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A fresh incarnation: random, never 0.
#[must_use]
pub fn new_incarnation() -> Incarnation {
    Incarnation::new(rand::random::<u64>().max(1))
}

/// The founding of a cluster that may be founded: 128 random bits.
///
/// # Panics
/// Never: what is drawn is at least 1.
#[must_use]
pub fn new_founding() -> Founding {
    Founding::new(rand::random::<u128>().max(1)).expect("at least 1")
}

/// The id of a process that starts: random.
///
/// # Panics
/// Never: what is drawn is at least 1.
#[must_use]
pub fn new_process_id() -> ProcessId {
    ProcessId::new(rand::random::<u64>().max(1)).expect("at least 1")
}
