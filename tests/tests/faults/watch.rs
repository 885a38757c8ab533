//! [`Watch`]: notices that the machine stood still. Who counts as dead after a second of silence counts as dead, too, if it
//! was the machine that was silent: such a cell proves nothing, and is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::cluster::{FAILURE_TIMEOUT_MS, logs_but_of};

/// What a node and an Assigner say of themselves.
const SAID: [&str; 2] = ["stood still for too long", "StoodStill"];

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(5);

/// Looks at the clock again and again in a thread of its own, as long as the test runs.
#[derive(Debug)]
pub(crate) struct Watch(Arc<AtomicU64>);

impl Watch {
    /// Begins.
    pub(crate) fn begin() -> Self {
        let longest_ms = Arc::new(AtomicU64::new(0));
        let told = longest_ms.clone();
        std::thread::spawn(move || {
            let mut before = Instant::now();
            loop {
                std::thread::sleep(LOOK);
                let now = Instant::now();
                let gap_ms = u64::try_from((now - before).as_millis()).unwrap_or(u64::MAX);
                told.fetch_max(gap_ms, Ordering::Relaxed);
                before = now;
            }
        });
        Self(longest_ms)
    }

    /// How the machine stood still, if it did: this process noticed it, or one of the cluster says so of itself, other than
    /// the one that the fault stops.
    pub(crate) fn standstill(&self, paused: Option<&str>) -> Option<String> {
        let longest_ms = self.0.load(Ordering::Relaxed);
        if longest_ms > FAILURE_TIMEOUT_MS / 4 {
            return Some(format!("the test for {longest_ms} ms"));
        }
        logs_but_of(paused)
            .iter()
            .flat_map(|log| log.lines())
            .find(|line| SAID.iter().any(|said| line.contains(said)))
            .map(str::to_owned)
    }
}
