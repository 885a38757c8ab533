//! [`Saturation`]: whether the node's threads have time left.
//!
//! What waits too long on a stream need not wait for this node: its client may read its replies slowly, or the wire be
//! slow. A node that has time left has nothing to gain by refusing work. So one task looks every [`LOOK_INTERVAL`] how
//! much of their time the runtime's workers were busy of late; the data path reads the verdict.
//!
//! The runtime adds to a worker's busy time when the worker parks, and else once in some dozens of polls, which is seldom
//! just when there is most to do. So the time since a worker was last seen to park counts as well, and one look does not
//! decide: the last [`LOOKS`] do, together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::RuntimeMetrics;
use tokio_util::sync::CancellationToken;

use super::state::NodeState;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// So many looks, a fifth of a second, are judged together.
const LOOKS: usize = 4;

/// Workers that are busy for so many percent of the time have none left: looking for events takes the rest.
const SATURATED_PERCENT: u64 = 80;

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Saturation {
    saturated: AtomicBool,
    busy_percent: AtomicU64,
    /// Since the start, of all workers.
    busy_us: AtomicU64,
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

    /// How long the workers have been busy since the start, together, in microseconds.
    pub(super) fn busy_us(&self) -> u64 {
        self.busy_us.load(Ordering::Relaxed)
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

/// What the runtime counts of a worker.
#[derive(Clone, Copy, Debug)]
struct WorkerCounts {
    busy: Duration,
    /// How often it parked and unparked: odd while it is parked.
    turns: u64,
}

/// How busy the workers were, from what the runtime counts.
#[derive(Debug)]
struct BusyTime {
    workers: Vec<WorkerSeen>,
    /// When was looked, and the workers' busy time until then.
    looks: VecDeque<(Instant, Duration)>,
}

#[derive(Clone, Copy, Debug)]
struct WorkerSeen {
    turns: u64,
    /// Since when it has been seen at the same turn.
    since: Instant,
    /// The most that its busy time was taken for: the runtime's count may fall behind an estimate.
    most: Duration,
}

impl BusyTime {
    fn new(now: Instant, counts: &[WorkerCounts]) -> Self {
        let seen = |worker: &WorkerCounts| WorkerSeen {
            turns: worker.turns,
            since: now,
            most: worker.busy,
        };
        let workers: Vec<_> = counts.iter().map(seen).collect();
        let total = workers.iter().map(|worker| worker.most).sum();
        Self {
            workers,
            looks: VecDeque::from([(now, total)]),
        }
    }

    /// How long the workers were busy in the time of the last looks, and how long they could have been.
    fn look(&mut self, now: Instant, counts: &[WorkerCounts]) -> (Duration, Duration) {
        let mut total = Duration::ZERO;
        for (worker, counts) in self.workers.iter_mut().zip(counts) {
            if worker.turns != counts.turns {
                worker.turns = counts.turns;
                worker.since = now;
            }
            let is_parked = counts.turns % 2 == 1;
            let uncounted = if is_parked {
                Duration::ZERO
            } else {
                now - worker.since
            };
            worker.most = worker.most.max(counts.busy + uncounted);
            total += worker.most;
        }
        self.looks.push_back((now, total));
        if self.looks.len() > LOOKS + 1 {
            self.looks.pop_front();
        }
        let (first, before) = self.looks[0];
        let workers = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        (total - before, (now - first) * workers)
    }

    /// How long the workers were busy in all, at the last look. Never less than before.
    fn total(&self) -> Duration {
        self.looks.back().map_or(Duration::ZERO, |(_, total)| *total)
    }
}

/// Looks until `stop`.
pub(super) async fn watch(state: Arc<NodeState>, stop: CancellationToken) {
    let runtime = tokio::runtime::Handle::current().metrics();
    let mut busy = BusyTime::new(Instant::now(), &worker_counts(&runtime));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let (lately, possible) = busy.look(Instant::now(), &worker_counts(&runtime));
        state.saturation.looked(lately, possible);
        let total_us = u64::try_from(busy.total().as_micros()).unwrap_or(u64::MAX);
        state.saturation.busy_us.store(total_us, Ordering::Relaxed);
    }
}

fn worker_counts(runtime: &RuntimeMetrics) -> Vec<WorkerCounts> {
    let of = |worker| WorkerCounts {
        busy: runtime.worker_total_busy_duration(worker),
        turns: runtime.worker_park_unpark_count(worker),
    };
    (0..runtime.num_workers()).map(of).collect()
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

    /// Plan: one worker works without end and the runtime counts that in lumps of 120 ms; another is parked all the time.
    /// At each look but the first few the first one is seen to be busy nearly all of the time, the second one never.
    #[test]
    fn what_the_runtime_has_not_counted_yet_counts() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let counts = |ms: u64| WorkerCounts {
            busy: Duration::from_millis(ms / 120 * 120),
            // It parks for no time and goes on.
            turns: ms / 120 * 2,
        };
        let parked = WorkerCounts {
            busy: Duration::from_millis(7),
            turns: 5,
        };
        let mut busy = BusyTime::new(start, &[counts(0), parked]);
        for look in 1..100 {
            let ms = look * 50;
            let (was_busy, possible) = busy.look(at(ms), &[counts(ms), parked]);
            if look > LOOKS as u64 {
                assert_eq!(possible, Duration::from_millis(400));
                assert!(was_busy >= Duration::from_millis(160), "{was_busy:?} at {ms} ms");
                assert!(was_busy <= Duration::from_millis(240), "{was_busy:?} at {ms} ms");
            }
        }
    }

    /// Plan: a worker that works for a tenth of each millisecond, parking in between, and is caught at work by each look.
    #[test]
    fn a_worker_that_parks_often_is_not_busy() {
        let start = Instant::now();
        let counts = |ms: u64| WorkerCounts {
            busy: Duration::from_micros(ms * 100),
            turns: ms * 2,
        };
        let mut busy = BusyTime::new(start, &[counts(0)]);
        for look in 1..100 {
            let ms = look * 50;
            let (was_busy, possible) = busy.look(start + Duration::from_millis(ms), &[counts(ms)]);
            assert!(was_busy * 5 < possible, "{was_busy:?} of {possible:?}");
        }
    }
}
