//! How long after a restart's signal every slot group was served again.
//!
//! A group counts as served from the first answer that only an owner can give (a value, an acknowledged write or fill) to
//! a request sent after the signal. A group without such an answer until the next signal is counted up to then if it was
//! asked anything, else not at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::slots::SLOT_GROUPS;

const NEVER: u64 = u64::MAX;

/// Watches the groups from signal to signal.
#[derive(Debug)]
pub(crate) struct ServedAgain {
    round: Mutex<Option<Instant>>,
    /// A copy of `round` in nanoseconds since `origin`, for requests to read cheaply; [`NEVER`] before the first signal.
    since_ns: AtomicU64,
    origin: Instant,
    first_answer_ns: Vec<AtomicU64>,
    asked: Vec<AtomicU64>,
    longest_ms: AtomicU64,
}

impl ServedAgain {
    pub(crate) fn new() -> Self {
        let groups = |value| (0..SLOT_GROUPS).map(|_| AtomicU64::new(value)).collect();
        Self {
            round: Mutex::new(None),
            since_ns: AtomicU64::new(NEVER),
            origin: Instant::now(),
            first_answer_ns: groups(NEVER),
            asked: groups(0),
            longest_ms: AtomicU64::new(0),
        }
    }

    fn ns(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(NEVER - 1)
    }

    /// A signal is about to be sent. The round before it is closed.
    pub(crate) fn signal(&self, at: Instant) {
        let mut round = self.round.lock();
        self.close(*round, at);
        for group in 0..SLOT_GROUPS {
            self.first_answer_ns[group].store(NEVER, Ordering::Relaxed);
            self.asked[group].store(0, Ordering::Relaxed);
        }
        *round = Some(at);
        self.since_ns.store(self.ns(at), Ordering::Release);
    }

    /// Closes the last round and gives the longest time of all rounds; 0 without a signal.
    pub(crate) fn finish(&self, at: Instant) -> u64 {
        let mut round = self.round.lock();
        self.close(round.take(), at);
        self.since_ns.store(NEVER, Ordering::Release);
        self.longest_ms.load(Ordering::Relaxed)
    }

    fn close(&self, round: Option<Instant>, at: Instant) {
        let Some(begun) = round else { return };
        let begun_ns = self.ns(begun);
        for group in 0..SLOT_GROUPS {
            if self.asked[group].load(Ordering::Relaxed) == 0 {
                continue;
            }
            let answered_ns = self.first_answer_ns[group]
                .load(Ordering::Relaxed)
                .min(self.ns(at));
            let waited = Duration::from_nanos(answered_ns.saturating_sub(begun_ns));
            self.longest_ms.fetch_max(
                u64::try_from(waited.as_millis()).unwrap_or(NEVER),
                Ordering::Relaxed,
            );
        }
    }

    /// A request of that group, sent at `sent`, ended now; `proves_an_owner`: only an owner can have answered so.
    pub(crate) fn note(&self, group: usize, sent: Instant, proves_an_owner: bool) {
        let since_ns = self.since_ns.load(Ordering::Acquire);
        // Most requests end here: the group of theirs is known to be served.
        if since_ns == NEVER || self.first_answer_ns[group].load(Ordering::Relaxed) != NEVER {
            return;
        }
        if self.ns(sent) < since_ns {
            return;
        }
        self.asked[group].fetch_add(1, Ordering::Relaxed);
        if proves_an_owner {
            self.first_answer_ns[group].fetch_min(self.ns(Instant::now()), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_signal_to_the_first_owners_answer() {
        let served = ServedAgain::new();
        let signal = Instant::now().checked_sub(Duration::from_millis(700)).unwrap();
        let origin_fix = ServedAgain {
            origin: signal - Duration::from_secs(1),
            ..served
        };
        let served = origin_fix;
        served.note(0, Instant::now(), true);
        served.signal(signal);
        served.note(1, signal - Duration::from_millis(1), true);
        served.note(2, signal, false);
        served.note(2, signal, true);
        let waited_ms = served.finish(Instant::now());
        assert!((700..5_000).contains(&waited_ms), "{waited_ms}");
    }

    #[test]
    fn a_group_never_served_counts_in_full_and_one_never_asked_does_not() {
        let served = ServedAgain::new();
        let signal = Instant::now();
        served.signal(signal);
        assert_eq!(served.finish(signal + Duration::from_secs(9)), 0);
        served.signal(signal);
        served.note(5, signal, false);
        assert_eq!(served.finish(signal + Duration::from_secs(9)), 9_000);
    }
}
