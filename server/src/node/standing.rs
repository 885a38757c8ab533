//! [`Standing`]: whether what this node knows of its ownership can be relied on. Keeps H1 over standstills and leases.
//!
//! A node that stood still (a stopped process, a suspended machine), or whose lease is over, may have lost what it thinks it
//! owns. Its slicelet notices at its next step; whoever serves an operation notices before that, since the leave that the last
//! step gave is over. Between the two there must be no gap: a step that finds a standstill suspends first and gives leave
//! afterwards, and who looks reads in the other order. So whoever sees the new leave sees the suspension.
//!
//! One thread writes (the session's task), any number look.

use softstore_sharding::Timestamp;
use softstore_sharding::slicelet::Slicelet;
use softstore_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use softstore_sync::planted::{self, Race};

/// How long a node may serve if its slicelet does not look around before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leave {
    /// From then on its lease may be over, or it may have been buried for standing still.
    pub(super) serves_until: Timestamp,
    /// When its lease is over; [`Timestamp::NEVER`] without leases.
    pub(super) leased_until: Timestamp,
    /// Length of the leases under which it serves, in milliseconds; none: without.
    pub(super) lease_ms: Option<u64>,
}

impl From<&Slicelet> for Leave {
    fn from(slicelet: &Slicelet) -> Self {
        Self {
            serves_until: slicelet.serves_until(),
            leased_until: slicelet.leased_until(),
            lease_ms: slicelet.lease_ms(),
        }
    }
}

#[cfg(test)]
impl Leave {
    /// Without an end: for tests that are not about standing still.
    pub(super) fn without_end() -> Self {
        Self {
            serves_until: Timestamp::NEVER,
            leased_until: Timestamp::NEVER,
            lease_ms: None,
        }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Standing {
    suspended: AtomicBool,
    /// Serving has ended for good.
    stopped: AtomicBool,
    serves_until_ms: AtomicU64,
    leased_until_ms: AtomicU64,
    /// 0: without leases.
    lease_ms: AtomicU64,
}

impl Standing {
    /// Whether an operation may be served at `now`, a fresh reading of the clock.
    pub(super) fn may_serve(&self, now: Timestamp) -> bool {
        self.is_current(now) && !self.is_stopped()
    }

    /// Whether what this node knows of its ownership can be relied on at `now`, a fresh reading of the clock.
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        let order = if planted::is(Race::StepSeenUnordered) {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        now.as_ms() < self.serves_until_ms.load(order) && !self.is_suspended()
    }

    /// Whether the Assigner lets this node serve at `now`: with leases, whether its lease is not over.
    pub(super) fn is_tenured(&self, now: Timestamp) -> bool {
        now.as_ms() < self.leased_until_ms.load(Ordering::Acquire)
    }

    /// Length of the leases under which this node serves, and what is left of the present one at `now`, in milliseconds. Both
    /// are 0 without leases.
    pub(super) fn lease_ms(&self, now: Timestamp) -> (u64, u64) {
        let length_ms = self.lease_ms.load(Ordering::Relaxed);
        let until = Timestamp::from_ms(self.leased_until_ms.load(Ordering::Acquire));
        (length_ms, if length_ms > 0 { until.ms_since(now) } else { 0 })
    }

    /// The slicelet has looked around, and suspended serving if it had to.
    pub(super) fn step(&self, leave: Leave) {
        self.lease_ms
            .store(leave.lease_ms.unwrap_or(0), Ordering::Relaxed);
        self.leased_until_ms
            .store(leave.leased_until.as_ms(), Ordering::Release);
        // Released after a suspension of the same step: who sees the leave sees the suspension.
        self.serves_until_ms
            .store(leave.serves_until.as_ms(), Ordering::Release);
    }

    /// Suspends or resumes serving.
    pub(super) fn set_suspended(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Release);
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Ends serving for good. What was admitted before is still in the store.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
