//! [`Saturation`]: whether the node's threads have time left.
//!
//! What waits too long on a stream need not wait for this node: its client may read its replies slowly, or the wire be
//! slow. A node that has time left has nothing to gain by refusing work. So one task looks every [`LOOK_INTERVAL`] how
//! much of their time the runtime's workers were busy; the data path reads the verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::RuntimeMetrics;
use tokio_util::sync::CancellationToken;

use super::state::NodeState;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Workers that are busy for so many percent of the time have none left: looking for events takes the rest.
const SATURATED_PERCENT: u64 = 80;

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Saturation {
    saturated: AtomicBool,
    busy_percent: AtomicU64,
    /// The longest delay of a batch since the last look, and in the stretch before it, in microseconds.
    delay_us: AtomicU64,
    last_delay_us: AtomicU64,
}

impl Saturation {
    /// Whether the node had no time left when it was last looked at.
    pub(super) fn is_saturated(&self) -> bool {
        self.saturated.load(Ordering::Relaxed)
    }

    /// How much of their time the workers were busy, in percent.
    pub(super) fn busy_percent(&self) -> u64 {
        self.busy_percent.load(Ordering::Relaxed)
    }

    /// The longest time that a batch waited to be read, between the last two looks, in microseconds.
    pub(super) fn delay_us(&self) -> u64 {
        self.last_delay_us.load(Ordering::Relaxed)
    }

    /// A batch has waited for so long.
    pub(super) fn waited(&self, delay_us: u64) {
        if delay_us > 0 {
            self.delay_us.fetch_max(delay_us, Ordering::Relaxed);
        }
    }

    fn looked(&self, busy: Duration, possible: Duration) {
        let percent = (busy.as_micros() * 100)
            .checked_div(possible.as_micros())
            .unwrap_or(0)
            .min(100);
        let percent = u64::try_from(percent).unwrap_or(100);
        self.busy_percent.store(percent, Ordering::Relaxed);
        self.saturated
            .store(percent >= SATURATED_PERCENT, Ordering::Relaxed);
        let delay_us = self.delay_us.swap(0, Ordering::Relaxed);
        self.last_delay_us.store(delay_us, Ordering::Relaxed);
    }
}

/// Looks until `stop`.
pub(super) async fn watch(state: Arc<NodeState>, stop: CancellationToken) {
    let runtime = tokio::runtime::Handle::current().metrics();
    let workers = u32::try_from(runtime.num_workers()).unwrap_or(u32::MAX);
    let mut last = (Instant::now(), total_busy(&runtime));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let now = (Instant::now(), total_busy(&runtime));
        let busy = now.1.saturating_sub(last.1);
        state.saturation.looked(busy, (now.0 - last.0) * workers);
        last = now;
    }
}

fn total_busy(runtime: &RuntimeMetrics) -> Duration {
    (0..runtime.num_workers())
        .map(|worker| runtime.worker_total_busy_duration(worker))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_without_time_saturate_the_node() {
        let saturation = Saturation::default();
        assert!(!saturation.is_saturated());
        saturation.waited(9_000);
        saturation.waited(4_000);
        saturation.looked(Duration::from_millis(170), Duration::from_millis(200));
        assert!(saturation.is_saturated());
        assert_eq!((saturation.busy_percent(), saturation.delay_us()), (85, 9_000));
        saturation.looked(Duration::from_millis(150), Duration::from_millis(200));
        assert!(!saturation.is_saturated());
        assert_eq!(saturation.delay_us(), 0);
        saturation.looked(Duration::ZERO, Duration::ZERO);
        assert_eq!(saturation.busy_percent(), 0);
    }
}
