//! How long after a restart's signal every slot group was served again.
//!
//! Per group: from the first request sent after the signal to the first answer that only an owner can give (a value, an
//! acknowledged write or fill) to any request sent after the signal. Not from the signal itself: a group that nobody asks for
//! a second was not unserved for a second. A group without such an answer is counted up to the next signal if it was asked
//! anything, else not at all.

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
    first_ask_ns: Vec<AtomicU64>,
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
            first_ask_ns: groups(NEVER),
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
            self.first_ask_ns[group].store(NEVER, Ordering::Relaxed);
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
        if round.is_none() {
            return;
        }
        let end_ns = self.ns(at);
        for group in 0..SLOT_GROUPS {
            let asked_ns = self.first_ask_ns[group].load(Ordering::Relaxed);
            let answered_ns = self.first_answer_ns[group].load(Ordering::Relaxed).min(end_ns);
            let waited = Duration::from_nanos(answered_ns.saturating_sub(asked_ns));
            self.longest_ms.fetch_max(
                u64::try_from(waited.as_millis()).unwrap_or(NEVER),
                Ordering::Relaxed,
            );
        }
    }

    /// Whether the group's first owner's answer is still awaited by requests sent at that moment.
    fn awaits(&self, group: usize, sent: Instant) -> bool {
        let since_ns = self.since_ns.load(Ordering::Acquire);
        // Most requests end here: their group is known to be served.
        since_ns != NEVER
            && self.first_answer_ns[group].load(Ordering::Relaxed) == NEVER
            && self.ns(sent) >= since_ns
    }

    /// A request of that group is being sent.
    pub(crate) fn ask(&self, group: usize, sent: Instant) {
        if self.awaits(group, sent) {
            self.first_ask_ns[group].fetch_min(self.ns(sent), Ordering::Relaxed);
        }
    }

    /// A request of that group, sent at `sent`, was answered now as only an owner can.
    pub(crate) fn owner_answered(&self, group: usize, sent: Instant) {
        if self.awaits(group, sent) {
            self.first_answer_ns[group].fetch_min(self.ns(Instant::now()), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(ms: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_millis(ms)).unwrap()
    }

    /// Plan: a signal 900 ms ago. Group 1 was asked before it; group 2 at once, again and again, and an owner answers only now;
    /// group 3 was first asked just now, and answers. Only group 2 went unserved, for 700 ms and a little.
    #[test]
    fn counts_from_the_first_ask_after_the_signal_to_the_first_owners_answer() {
        let served = ServedAgain {
            origin: ago(2_000),
            ..ServedAgain::new()
        };
        let (before, first, later) = (ago(950), ago(700), ago(300));
        served.signal(ago(900));
        served.ask(1, before);
        served.ask(2, first);
        served.ask(2, later);
        served.owner_answered(2, later);
        let now = Instant::now();
        served.ask(3, now);
        served.owner_answered(3, now);
        let waited_ms = served.finish(Instant::now());
        assert!((700..890).contains(&waited_ms), "{waited_ms}");
    }

    #[test]
    fn a_group_never_served_counts_in_full_and_one_never_asked_does_not() {
        let served = ServedAgain::new();
        let signal = Instant::now();
        served.signal(signal);
        assert_eq!(served.finish(signal + Duration::from_secs(9)), 0);
        served.signal(signal);
        served.ask(5, signal);
        served.owner_answered(5, signal - Duration::from_millis(1));
        assert_eq!(served.finish(signal + Duration::from_secs(9)), 9_000);
    }
}
