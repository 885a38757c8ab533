//! [`Standing`]: whether what this node knows of its ownership can be relied on. Keeps H1 over standstills.
//!
//! A node that stood still (a stopped process, a suspended machine) may have lost what it thinks it owns. Its slicelet
//! notices at its first step after waking; whoever serves an operation notices before that, since the last step is then too
//! long ago. Between the two there must be no gap: a step that finds a standstill suspends first and is counted afterwards,
//! and who looks reads in the other order. So whoever sees the new step sees the suspension.
//!
//! One thread writes (the session's task), any number look.

use softstore_sharding::Timestamp;
use softstore_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use softstore_sync::planted::{self, Race};

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Standing {
    /// Longer than this since the last step, and the node stood still, in milliseconds.
    standstill_ms_max: u64,
    suspended: AtomicBool,
    /// Serving has ended for good.
    stopped: AtomicBool,
    /// When the slicelet last looked around, in ms of the clock.
    stepped_ms: AtomicU64,
}

impl Standing {
    /// A node that steps now.
    pub(super) fn new(standstill_ms_max: u64, now: Timestamp) -> Self {
        Self {
            standstill_ms_max,
            suspended: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stepped_ms: AtomicU64::new(now.as_ms()),
        }
    }

    /// Whether an operation may be served at `now`, a fresh reading of the clock.
    pub(super) fn may_serve(&self, now: Timestamp) -> bool {
        self.is_current(now) && !self.stopped.load(Ordering::Acquire)
    }

    /// Whether what this node knows of its ownership can be relied on at `now`, a fresh reading of the clock.
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        let order = if planted::is(Race::StepSeenUnordered) {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        let stepped = Timestamp::from_ms(self.stepped_ms.load(order));
        let stood_still = now.ms_since(stepped) > self.standstill_ms_max;
        !stood_still && !self.is_suspended()
    }

    /// The slicelet has looked around at `now`, and suspended serving if it had to.
    pub(super) fn step(&self, now: Timestamp) {
        // Released after a suspension of the same step: who sees the step sees the suspension.
        self.stepped_ms.store(now.as_ms(), Ordering::Release);
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
}
