//! [`Pauses`]: how long this process stood still of late, and what other nodes have said of themselves.
//!
//! A process that gets no processor time (stopped, suspended, throttled by a quota, on a machine with too much to do) is late
//! with everything, though nothing is wrong with it. One task looks every [`LOOK_INTERVAL`]; when it comes late, the process
//! stood still. A giver tells its takers, who then wait for it for so much longer; and who reads a client's stream knows that
//! what lay there may have come while nobody looked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use softstore_sharding::Incarnation;
use tokio_util::sync::CancellationToken;

use super::state::NodeState;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_micros(LOOK_US);
const LOOK_US: u64 = 25_000;

/// A look that comes so much late was kept from coming. Timers are late by a millisecond or two.
const LATE_US: u64 = 10_000;

/// A pause is remembered for one to two such stretches.
const STRETCH_US: u64 = 5_000_000;

/// So many others are remembered.
const OTHERS_MAX: usize = 4_096;

/// See the head of this file. Times are of the node's clock, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// The newest look; 0: none yet.
    looked_us: AtomicU64,
    /// When the newest pause was over.
    ended_us: AtomicU64,
    stretch_began_us: AtomicU64,
    /// The longest pause of this stretch, and of the one before.
    longest_us: AtomicU64,
    longest_before_us: AtomicU64,
    /// The longest pauses of others of late, in milliseconds, as they said last.
    others: Mutex<HashMap<Incarnation, u64>>,
}

impl Pauses {
    /// The task that looks has come. Only it calls this.
    fn looked(&self, now_us: u64) {
        let before_us = self.looked_us.swap(now_us, Ordering::AcqRel);
        if now_us.saturating_sub(self.stretch_began_us.load(Ordering::Relaxed)) >= STRETCH_US {
            self.stretch_began_us.store(now_us, Ordering::Relaxed);
            let longest_us = self.longest_us.swap(0, Ordering::Relaxed);
            self.longest_before_us.store(longest_us, Ordering::Relaxed);
        }
        let away_us = now_us.saturating_sub(before_us);
        if before_us > 0 && away_us > LOOK_US + LATE_US {
            // It may have lasted nearly all the time since the look before.
            self.longest_us.fetch_max(away_us, Ordering::Relaxed);
            self.ended_us.store(now_us, Ordering::Release);
        }
    }

    /// Whether this process stood still at some time from `since_us` to `now_us`, a fresh reading of the clock.
    pub(super) fn stood_still_since(&self, since_us: u64, now_us: u64) -> bool {
        let looked_us = self.looked_us.load(Ordering::Acquire);
        // Whoever wakes first finds that the task has not come for too long.
        let just_woke = looked_us > 0 && now_us.saturating_sub(looked_us) > LOOK_US + LATE_US;
        just_woke || self.ended_us.load(Ordering::Acquire) > since_us
    }

    /// The longest pause of the last seconds, in milliseconds; 0: none. Rather too long than too short, by up to
    /// [`LOOK_INTERVAL`].
    pub(super) fn longest_ms(&self) -> u64 {
        let this_us = self.longest_us.load(Ordering::Relaxed);
        let before_us = self.longest_before_us.load(Ordering::Relaxed);
        this_us.max(before_us) / 1_000
    }

    /// Another node has said how long its pauses were of late.
    pub(super) fn told(&self, node: Incarnation, longest_ms: u64) {
        let mut others = self.others.lock();
        if longest_ms == 0 {
            others.remove(&node);
            return;
        }
        // Those of nodes that are long gone: who is still there says it again.
        if others.len() >= OTHERS_MAX && !others.contains_key(&node) {
            others.clear();
        }
        others.insert(node, longest_ms);
    }

    /// How much longer than usual an answer from `node` may take, since it or this one pauses, in milliseconds.
    pub(super) fn allowance_ms(&self, node: Incarnation) -> u64 {
        let theirs = self.others.lock().get(&node).copied().unwrap_or(0);
        theirs.max(self.longest_ms())
    }
}

/// Looks until `stop`.
pub(super) async fn watch(state: Arc<NodeState>, stop: CancellationToken) {
    loop {
        state.pauses.looked(state.clock.now_us());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plan: looks that come in time, but for one that is 80 ms late. The pause is known from the moment at which anybody could
    /// notice it, counts for what began before its end, and is forgotten after two stretches.
    #[test]
    fn a_pause_is_noticed_at_once_and_forgotten_after_a_while() {
        let pauses = Pauses::default();
        assert!(!pauses.stood_still_since(0, 1_000_000), "nobody looks yet");
        let mut now_us = 1_000_000;
        let mut look = |after_us: u64| {
            now_us += after_us;
            pauses.looked(now_us);
            now_us
        };
        for _ in 0..10 {
            look(LOOK_US + 2_000);
        }
        let drained_us = look(LOOK_US);
        assert!(!pauses.stood_still_since(drained_us, drained_us + LOOK_US));
        assert!(pauses.stood_still_since(drained_us, drained_us + LOOK_US + 80_000));
        let woke_us = look(LOOK_US + 80_000);
        assert!(pauses.stood_still_since(drained_us, woke_us));
        assert!(!pauses.stood_still_since(woke_us, woke_us + LOOK_US));
        assert!((80..=110).contains(&pauses.longest_ms()));
        for _ in 0..2 * STRETCH_US / LOOK_US + 2 {
            look(LOOK_US);
        }
        assert_eq!(pauses.longest_ms(), 0);
    }

    #[test]
    fn what_another_node_says_last_holds() {
        let (pauses, node) = (Pauses::default(), Incarnation::new(7));
        assert_eq!(pauses.allowance_ms(node), 0);
        pauses.told(node, 95);
        assert_eq!(pauses.allowance_ms(node), 95);
        assert_eq!(pauses.allowance_ms(Incarnation::new(8)), 0);
        pauses.told(node, 0);
        assert_eq!(pauses.allowance_ms(node), 0);
    }
}
