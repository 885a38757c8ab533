//! One arm: warm up, run the open loop, restart the nodes (or not), and hand back what was recorded.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::{interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::choreography::{Choreography, Observer, RestartPlan, Restarts};
use crate::control::ClusterControl;
use crate::error::DrillError;
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::options::ArmName;
use crate::pace::{self, OpenLoop, Rate, Replayed};
use crate::progress::Progress;
use crate::record::{Record, Records};
use crate::replay::Replay;
use crate::request::Sequence;
use crate::served::ServedAgain;
use crate::slots::SlotGroups;
use crate::target::Target;

/// What all arms have in common.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) sequence: Arc<Sequence>,
    pub(crate) groups: Arc<SlotGroups>,
    pub(crate) rate: Rate,
    pub(crate) in_flight_max: usize,
    pub(crate) warm_up: u64,
    pub(crate) load_ms: u64,
    /// Capacity of the record, in measured positions.
    pub(crate) positions_max: u64,
}

/// A moment of an arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: u64,
    pub(crate) node: String,
    pub(crate) kind: MarkKind,
}

/// What happened at a [`Mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// The node got its signal (or the operator was asked to restart).
    Signalled,
    /// The node, or its replacement, listened.
    Returned,
    /// The last hand-off had ended; no node is named.
    Filled,
}

/// What an arm left behind.
#[derive(Debug)]
pub(crate) struct ArmRun {
    pub(crate) name: ArmName,
    /// By measured position.
    pub(crate) records: Vec<Option<Record>>,
    /// Measured positions from the first signal to the tail's end; empty without restarts.
    pub(crate) window: Range<usize>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) restarts: Restarts,
    pub(crate) served_again_ms: u64,
    pub(crate) stale_reads: u64,
    pub(crate) resurrected: u64,
    pub(crate) errors: u64,
    pub(crate) writes_unavailable: u64,
    pub(crate) outcome_unknown: u64,
    /// Of the first few errors.
    pub(crate) messages: Vec<String>,
    /// Requests that had to wait because too many were in flight.
    pub(crate) held_up: u64,
}

#[cfg(test)]
impl ArmRun {
    /// A run in which nothing was asked.
    pub(crate) fn empty(name: ArmName) -> Self {
        Self {
            name,
            records: Vec::new(),
            window: 0..0,
            marks: Vec::new(),
            restarts: Restarts::default(),
            served_again_ms: 0,
            stale_reads: 0,
            resurrected: 0,
            errors: 0,
            writes_unavailable: 0,
            outcome_unknown: 0,
            messages: Vec::new(),
            held_up: 0,
        }
    }
}

/// An arm after its warm-up, its open loop running.
pub(crate) struct ArmInProgress<T> {
    name: ArmName,
    replay: Arc<Replay<T>>,
    open_loop: OpenLoop,
    progress: Progress,
    requests: Option<u64>,
}

impl Load {
    /// Measured positions that exist.
    fn positions(&self) -> u64 {
        let left = self
            .sequence
            .length()
            .map(|length| length.saturating_sub(self.warm_up));
        left.unwrap_or(u64::MAX).min(self.positions_max)
    }

    /// Warms the target up and starts the open loop over at most `positions` positions.
    pub(crate) async fn start<T: Target>(
        &self,
        name: ArmName,
        target: T,
        positions: Option<u64>,
        progress: Progress,
    ) -> Result<ArmInProgress<T>, DrillError> {
        let replay = Arc::new(Replay {
            target,
            sequence: self.sequence.clone(),
            groups: self.groups.clone(),
            ledger: Ledger::new(self.sequence.keys()),
            records: Records::new(self.positions()),
            counts: Default::default(),
            served: ServedAgain::new(),
            load_ms: self.load_ms,
            warm_up: self.warm_up,
        });
        progress.say(&format!("warm-up of {} requests", self.warm_up));
        let begun = Instant::now();
        pace::warm_up(&replay, 0..self.warm_up).await;
        progress.say(&format!("warm after {:.1} s", begun.elapsed().as_secs_f64()));
        let positions = positions.unwrap_or(u64::MAX).min(self.positions());
        let open_loop =
            OpenLoop::start(&replay, self.rate, self.in_flight_max, positions).map_err(|source| {
                DrillError::System {
                    what: "cannot start the pacing thread",
                    source,
                }
            })?;
        let requests = self.sequence.length();
        Ok(ArmInProgress {
            name,
            replay,
            open_loop,
            progress,

            requests,
        })
    }
}

impl<T: Target> ArmInProgress<T> {
    /// When the first measured request was due.
    pub(crate) fn started(&self) -> Instant {
        self.open_loop.started()
    }

    /// The application, for what is asked beside the sequence.
    pub(crate) fn replay(&self) -> Arc<Replay<T>> {
        self.replay.clone()
    }

    /// For arms without restarts: until all positions have been replayed.
    pub(crate) async fn run_out(self) -> ArmRun {
        let live = self.live();
        let replayed = self.open_loop.run_out().await;
        drop(live);
        finish(self.name, &self.replay, replayed)
    }

    /// Restarts all nodes after `lead_in`, and goes on until the plan's tail is over.
    pub(crate) async fn restart<F: Fleet, C: ClusterControl>(
        self,
        fleet: &mut F,
        control: &C,
        plan: RestartPlan,
        lead_in: Duration,
    ) -> Result<ArmRun, DrillError> {
        let live = self.live();
        let mut stage = Stage {
            replay: self.replay.clone(),
            position: self.open_loop.position_handle(),
            progress: self.progress.clone(),
            marks: Vec::new(),
        };
        let acting = async {
            sleep(lead_in).await;
            Choreography::new(fleet, control, &mut stage, plan)
                .restart_all()
                .await
        };
        let restarts = tokio::select! {
            done = Box::pin(acting) => done?,
            () = ran_out(&self.open_loop) => {
                let requests = self.requests.unwrap_or(u64::MAX);
                return Err(DrillError::TraceTooShort { arm: self.name.as_str(), requests });
            }
        };
        let replayed = self.open_loop.stop().await;
        drop(live);
        let mut run = finish(self.name, &self.replay, replayed);
        let start = stage
            .marks
            .iter()
            .find(|mark| mark.kind == MarkKind::Signalled)
            .map_or(replayed.positions, |mark| mark.position);
        run.window = index(start)..index(replayed.positions);
        run.marks = stage.marks;
        run.restarts = restarts;
        Ok(run)
    }

    /// For a cluster that someone else restarts: a baseline, then a window of that length.
    pub(crate) async fn watch(self, baseline: Duration, window: Duration) -> ArmRun {
        let live = self.live();
        let watching = async {
            sleep(baseline).await;
            let start = self.open_loop.position();
            self.progress.say(&format!(
                "restart the nodes now, one after the other (`softstore wait --settled` between them); the drill ends in {window:?}"
            ));
            sleep(window).await;
            start
        };
        let start = tokio::select! {
            start = watching => start,
            () = ran_out(&self.open_loop) => self.open_loop.position(),
        };
        let replayed = self.open_loop.stop().await;
        drop(live);
        let mut run = finish(self.name, &self.replay, replayed);
        run.window = index(start.min(replayed.positions))..index(replayed.positions);
        run.marks = vec![Mark {
            position: start,
            node: "operator".to_owned(),
            kind: MarkKind::Signalled,
        }];
        run
    }

    /// Keeps the live line up to date until dropped.
    fn live(&self) -> AbortOnDropHandle<()> {
        let (replay, position, progress) = (
            self.replay.clone(),
            self.open_loop.position_handle(),
            self.progress.clone(),
        );
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut tick = interval(Duration::from_millis(500));
            let mut from = 0;
            loop {
                tick.tick().await;
                let to = position.get();
                progress.show(live_line(&replay, from..to));
                from = to;
            }
        }))
    }
}

fn live_line<T>(replay: &Replay<T>, positions: Range<u64>) -> String {
    let records: Vec<_> = positions.map(|position| replay.records.get(position)).collect();
    let all = 0..records.len();
    let figures = crate::judge::window(&records, &all, Rate { per_second: 1 });
    let counts = &replay.counts;
    format!(
        "hit rate {:6.2}%   p99 {:>8}   loads {:>5}   unanswered {:>4}   errors {}   stale {}",
        100.0 * figures.hit_rate,
        crate::table::micros(figures.p99_us),
        figures.backend_loads,
        records.iter().filter(|record| record.is_none()).count(),
        counts.errors.load(Ordering::Relaxed),
        counts.stale_reads.load(Ordering::Relaxed),
    )
}

/// Ends when the positions have run out.
async fn ran_out(open_loop: &OpenLoop) {
    let mut tick = interval(Duration::from_millis(50));
    while !open_loop.ran_out() {
        tick.tick().await;
    }
}

fn finish<T>(name: ArmName, replay: &Replay<T>, replayed: Replayed) -> ArmRun {
    let counts = &replay.counts;
    ArmRun {
        name,
        records: replay.records.freeze(replayed.positions),
        window: 0..0,
        marks: Vec::new(),
        restarts: Restarts::default(),
        served_again_ms: replay.served.finish(Instant::now()),
        stale_reads: counts.stale_reads.load(Ordering::Relaxed),
        resurrected: counts.resurrected.load(Ordering::Relaxed),
        errors: counts.errors.load(Ordering::Relaxed),
        writes_unavailable: counts.writes_unavailable.load(Ordering::Relaxed),
        outcome_unknown: counts.outcome_unknown.load(Ordering::Relaxed),
        messages: counts.messages(),
        held_up: replayed.held_up,
    }
}

fn index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// Notes when which node was signalled.
struct Stage<T> {
    replay: Arc<Replay<T>>,
    position: pace::PositionHandle,
    progress: Progress,
    marks: Vec<Mark>,
}

impl<T> Stage<T> {
    fn mark(&mut self, kind: MarkKind, node: &str) {
        self.marks.push(Mark {
            position: self.position.get(),
            node: node.to_owned(),
            kind,
        });
    }
}

impl<T: Target> Observer for Stage<T> {
    fn signal(&mut self, node: &str) {
        self.mark(MarkKind::Signalled, node);
        self.replay.served.signal(Instant::now());
    }

    fn returned(&mut self, node: &str) {
        self.mark(MarkKind::Returned, node);
    }

    fn filled(&mut self) {
        self.mark(MarkKind::Filled, "");
    }

    fn stage(&mut self, stage: String) {
        self.progress.say(&stage);
    }
}
