//! One replay of the scenario: the load, beside it the writes of the hot key, and the observers of assignments and counters.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::arm::{ArmRun, Load};
use crate::error::DrillError;
use crate::hot_key::assignments::Assignments;
use crate::hot_key::counters::Counters;
use crate::hot_key::timeline::{Observed, STEP_US};
use crate::options::ArmName;
use crate::progress::Progress;
use crate::record::Record;
use crate::replay::Replay;
use crate::request::KeyIndex;
use crate::target::Target;

/// Most writes of the hot key that are under way or wait for their turn. One that comes on top is left out.
const WRITES_IN_FLIGHT_MAX: usize = 256;
/// So long after the key's fall one that was due before may still begin.
const WRITES_GRACE: Duration = Duration::from_millis(100);

/// What is done in an arm beside its sequence.
#[derive(Debug, Clone)]
pub(crate) struct HotPlan {
    pub(crate) key: KeyIndex,
    /// Measured positions; all of them are replayed.
    pub(crate) positions: u64,
    /// In which of them the key is hot; empty in control.
    pub(crate) hot: Range<u64>,
    pub(crate) writes_per_second: u32,
    /// The nodes' names.
    pub(crate) nodes: Vec<String>,
}

/// What an arm left behind.
#[derive(Debug)]
pub(crate) struct HotRun {
    pub(crate) run: ArmRun,
    pub(crate) observed: Observed,
    /// Of the writes of the hot key.
    pub(crate) writes: HotKeyWrites,
}

/// What became of the hot key's writes.
#[derive(Debug, Default)]
pub(crate) struct HotKeyWrites {
    /// Those that were sent.
    pub(crate) sent: Vec<Record>,
    /// How many were due and not sent: too many were waiting, or their turn did not come while the key was hot.
    pub(crate) left_out: u64,
}

/// Replays one arm against `target`, and watches the cluster meanwhile.
pub(crate) async fn run<T: Target, A: Assignments, C: Counters>(
    load: &Load,
    name: ArmName,
    plan: &HotPlan,
    target: T,
    (assignments, counters): (A, C),
    progress: Progress,
) -> Result<HotRun, DrillError> {
    let arm = load
        .start(name, target, Some(plan.positions), progress.clone())
        .await?;
    let started = arm.started();
    let observer = Observer::start(started, plan, assignments, counters);
    let hot = load.rate.due_us(plan.hot.start)..load.rate.due_us(plan.hot.end);
    let writing = write(arm.replay(), plan, started, hot.clone());
    let telling = tell(&progress, started, hot, &observer.observed);
    let (run, writes, ()) = tokio::join!(arm.run_out(), writing, telling);
    // The counters once more after the last request, so that the last second lies between two readings.
    observer.read_once_more().await;
    Ok(HotRun {
        run,
        observed: observer.end(),
        writes,
    })
}

/// Writes the key in an open loop of its own: each write is due at its moment, and its latency counts from that. None begins when
/// the key is no longer hot: the cooling is not disturbed.
async fn write<T: Target>(
    replay: Arc<Replay<T>>,
    plan: &HotPlan,
    started: Instant,
    hot_us: Range<u64>,
) -> HotKeyWrites {
    let per_second = u64::from(plan.writes_per_second);
    let count = (hot_us.end - hot_us.start) * per_second / 1_000_000;
    let until = started + Duration::from_micros(hot_us.end) + WRITES_GRACE;
    let (mut tasks, mut writes) = (JoinSet::new(), HotKeyWrites::default());
    for number in 0..count {
        let due = started + Duration::from_micros(hot_us.start + number * 1_000_000 / per_second);
        sleep_until(due.into()).await;
        while let Some(ended) = tasks.try_join_next() {
            writes.note(ended);
        }
        if tasks.len() >= WRITES_IN_FLIGHT_MAX {
            writes.left_out += 1;
            continue;
        }
        let (replay, key) = (replay.clone(), plan.key);
        tasks.spawn(async move {
            let outcome = replay.write(key, until).await?;
            let latency_us = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
            Some(Record { outcome, latency_us })
        });
    }
    while let Some(ended) = tasks.join_next().await {
        writes.note(ended);
    }
    writes
}

impl HotKeyWrites {
    fn note(&mut self, ended: Result<Option<Record>, JoinError>) {
        match ended {
            Ok(Some(record)) => self.sent.push(record),
            Ok(None) => self.left_out += 1,
            // The drill's own mistake.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
}

/// Says what happens, for people.
async fn tell(progress: &Progress, started: Instant, hot_us: Range<u64>, observed: &Mutex<Observed>) {
    if hot_us.is_empty() {
        return;
    }
    let at = |us| sleep_until((started + Duration::from_micros(us)).into());
    at(hot_us.start).await;
    progress.say("the key is hot");
    at(hot_us.end).await;
    let isolated = observed.lock().first(hot_us.start, |range| range.is_own);
    let isolated = isolated.map_or_else(
        || "it never got a slice of its own".to_owned(),
        |us| {
            format!(
                "it got a slice of its own after {} ms",
                (us - hot_us.start) / 1_000
            )
        },
    );
    progress.say(&format!("the key cools; {isolated}"));
}

/// Watches a cluster until it is ended.
struct Observer<C> {
    observed: Arc<Mutex<Observed>>,
    counters: Arc<C>,
    started: Instant,
    _following: AbortOnDropHandle<()>,
    _reading: Vec<AbortOnDropHandle<()>>,
}

impl<C: Counters> Observer<C> {
    fn start<A: Assignments>(started: Instant, plan: &HotPlan, assignments: A, counters: C) -> Self {
        let observed = Arc::new(Mutex::new(Observed {
            nodes: plan.nodes.clone(),
            counts: vec![Vec::new(); plan.nodes.len()],
            ranges: Vec::new(),
        }));
        let counters = Arc::new(counters);
        let reading = (0..plan.nodes.len()).map(|node| {
            let (observed, counters) = (observed.clone(), counters.clone());
            spawn(async move {
                let mut tick = interval(Duration::from_micros(STEP_US));
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    tick.tick().await;
                    read(&observed, &*counters, node, started).await;
                }
            })
        });
        Self {
            _reading: reading.collect(),
            _following: spawn(follow(observed.clone(), assignments, started)),
            observed,
            counters,
            started,
        }
    }

    async fn read_once_more(&self) {
        let nodes = self.observed.lock().nodes.len();
        let all = (0..nodes).map(|node| read(&self.observed, &*self.counters, node, self.started));
        futures::future::join_all(all).await;
    }

    fn end(self) -> Observed {
        let mut observed = self.observed.lock().clone();
        // A reading that was under way may have ended after the last one.
        for readings in &mut observed.counts {
            readings.sort_by_key(|(read_us, _)| *read_us);
        }
        observed
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// Notes what one node's counters say, in the middle of asking.
async fn read<C: Counters>(observed: &Mutex<Observed>, counters: &C, node: usize, started: Instant) {
    let asked_us = micros_since(started);
    if let Some(counts) = counters.read(node).await {
        let read_us = asked_us.midpoint(micros_since(started));
        observed.lock().counts[node].push((read_us, counts));
    }
}

async fn follow<A: Assignments>(observed: Arc<Mutex<Observed>>, mut assignments: A, started: Instant) {
    loop {
        let range = assignments.next().await;
        let came_us = micros_since(started);
        observed.lock().ranges.push((came_us, range));
    }
}

fn micros_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}
