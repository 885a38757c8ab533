//! The restarts of one arm, node by node, each when the cluster is settled from the one before.
//!
//! While it waits for anything it watches the cluster, so that what a node moved is known before its process ends.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use softstore_sharding::Slice;
use tokio::time::sleep;

use crate::control::{ClusterControl, ClusterView, NodeView};
use crate::error::DrillError;
use crate::fleet::{Fleet, Signal};
use crate::moved::{Moved, MovedTally};
use crate::options::RestartMode;
use crate::report::RestartReport;

/// How often the cluster is asked for its status.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// What to do to the nodes.
#[derive(Debug, Clone)]
pub(crate) struct RestartPlan {
    pub(crate) mode: RestartMode,
    pub(crate) absent: Duration,
    /// Between a settled cluster and the next signal.
    pub(crate) pause: Duration,
    /// After the last hand-off has ended.
    pub(crate) tail: Duration,
    /// Longest wait for one exit, and for the cluster to settle.
    pub(crate) patience: Duration,
}

/// What is told while it goes on.
pub(crate) trait Observer: Send {
    /// A node is about to be signalled.
    fn signal(&mut self, node: &str);
    /// A node listens: the one that was away, or a replacement.
    fn returned(&mut self, node: &str);
    /// The last hand-off has ended: every node owns its share again.
    fn filled(&mut self);
    /// What happens now, for people.
    fn stage(&mut self, stage: String);
}

/// What one restart moved, the final fill not included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Move {
    pub(crate) node: String,
    /// Entries that the node held when it was signalled.
    pub(crate) held_entries: u64,
    /// What it owned then.
    pub(crate) slices: Vec<Slice>,
    pub(crate) moved: Moved,
    pub(crate) drain_ms: u64,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Restarts {
    pub(crate) restarts: Vec<RestartReport>,
    /// In the order of `restarts`.
    pub(crate) moves: Vec<Move>,
    pub(crate) moved: Moved,
    /// What the cluster held before the first signal.
    pub(crate) state_bytes: u64,
    pub(crate) state_entries: u64,
}

/// The stage hands of a restart: fleet, control plane, audience.
pub(crate) struct Choreography<'a, F, C, O> {
    pub(crate) fleet: &'a mut F,
    pub(crate) control: &'a C,
    pub(crate) observer: &'a mut O,
    pub(crate) plan: RestartPlan,
    tally: MovedTally,
}

/// What a wait waits for.
enum Until<'a> {
    /// Settled, with these members.
    Settled(&'a [String]),
    /// As well, with nobody waiting to be filled.
    Filled(&'a [String]),
}

impl<'a, F: Fleet, C: ClusterControl, O: Observer> Choreography<'a, F, C, O> {
    pub(crate) fn new(fleet: &'a mut F, control: &'a C, observer: &'a mut O, plan: RestartPlan) -> Self {
        Self {
            fleet,
            control,
            observer,
            plan,
            tally: MovedTally::default(),
        }
    }

    /// Waits for the cluster to be whole before anything is done to it.
    pub(crate) async fn settle(&mut self) -> Result<ClusterView, DrillError> {
        let members = self.fleet.members();
        self.until(&Until::Filled(&members), None).await
    }

    /// Restarts every node, and returns `tail` after the last hand-off (the final fill included) has ended.
    pub(crate) async fn restart_all(&mut self) -> Result<Restarts, DrillError> {
        let nodes = self.fleet.members();
        let before = self.settle().await?;
        let (mut restarts, mut moves) = (Vec::new(), Vec::new());
        for (index, node) in nodes.iter().enumerate() {
            let moved_before = self.tally.moved();
            let held = self.held_by(node).await;
            let restart = match self.plan.mode {
                RestartMode::Rolling => self.replace_in_place(node, Signal::Terminate).await?,
                RestartMode::Kill => self.replace_in_place(node, Signal::Kill).await?,
                RestartMode::Surge => {
                    self.replace_ahead(node, format!("n{}", nodes.len() + index + 1))
                        .await?
                }
            };
            // The nodes' counters reach the Assigner with their heartbeats, so they are read after the pause.
            self.watch_while(sleep(self.plan.pause)).await;
            let moved = self.tally.moved().since(moved_before);
            moves.push(Move {
                node: node.clone(),
                held_entries: held.entries,
                slices: held.slices,
                moved,
                drain_ms: restart.drain_ms,
            });
            restarts.push(restart);
        }
        self.observer.stage("waiting for the last hand-off".to_owned());
        let members = self.fleet.members();
        self.until(&Until::Filled(&members), None).await?;
        self.observer.filled();
        self.observer.stage(format!(
            "all hand-offs have ended; {} s more",
            self.plan.tail.as_secs()
        ));
        self.watch_while(sleep(self.plan.tail)).await;
        Ok(Restarts {
            restarts,
            moves,
            moved: self.tally.moved(),
            state_bytes: before.state_bytes(),
            state_entries: before.state_entries(),
        })
    }

    async fn held_by(&self, node: &str) -> NodeView {
        let view = self.control.view().await.unwrap_or_default();
        view.node(node).cloned().unwrap_or_default()
    }

    async fn replace_in_place(&mut self, node: &str, signal: Signal) -> Result<RestartReport, DrillError> {
        let before = self.incarnation(node).await;
        let drain_ms = self.stop(node, signal).await?;
        let gone = Instant::now();
        self.observer.stage(format!("{node} is away"));
        self.watch_while(sleep(self.plan.absent)).await;
        self.fleet.start(node).await?;
        let absent_ms = millis(gone.elapsed());
        self.observer.returned(node);
        self.observer.stage(format!("{node} is back"));
        let members = self.fleet.members();
        self.until(
            &Until::Settled(&members),
            before.map(|incarnation| (node, incarnation)),
        )
        .await?;
        Ok(RestartReport {
            node: node.to_owned(),
            drain_ms,
            absent_ms,
        })
    }

    async fn replace_ahead(&mut self, node: &str, replacement: String) -> Result<RestartReport, DrillError> {
        self.observer.stage(format!("{replacement} joins for {node}"));
        self.fleet.start(&replacement).await?;
        self.observer.returned(&replacement);
        let members = self.fleet.members();
        self.until(&Until::Settled(&members), None).await?;
        let drain_ms = self.stop(node, Signal::Terminate).await?;
        let members = self.fleet.members();
        self.until(&Until::Settled(&members), None).await?;
        Ok(RestartReport {
            node: node.to_owned(),
            drain_ms,
            absent_ms: 0,
        })
    }

    /// Signals a node and waits for its exit; in milliseconds how long that took.
    async fn stop(&mut self, node: &str, signal: Signal) -> Result<u64, DrillError> {
        self.observer.stage(match signal {
            Signal::Terminate => format!("{node} drains"),
            Signal::Kill => format!("{node} is killed"),
        });
        self.observer.signal(node);
        let signalled = Instant::now();
        self.fleet.signal(node, signal)?;
        let patience = self.plan.patience;
        let Self {
            fleet,
            control,
            tally,
            ..
        } = self;
        let exited = tokio::time::timeout(patience, fleet.exited(node));
        match watch(*control, tally, exited).await {
            Ok(exited) => exited?,
            Err(_) => return Err(self.fleet.no_exit(node, millis(patience))),
        }
        Ok(millis(signalled.elapsed()))
    }

    async fn incarnation(&self, node: &str) -> Option<u64> {
        Some(self.control.view().await.ok()?.node(node)?.incarnation)
    }

    async fn watch_while<T>(&mut self, other: impl Future<Output = T>) -> T {
        watch(self.control, &mut self.tally, other).await
    }

    /// Polls until the cluster is as asked; `replaced`: and that incarnation of the node is gone.
    async fn until(
        &mut self,
        goal: &Until<'_>,
        replaced: Option<(&str, u64)>,
    ) -> Result<ClusterView, DrillError> {
        let begun = Instant::now();
        loop {
            let because = match self.control.view().await {
                Err(reason) => reason,
                Ok(view) => {
                    self.tally.observe(&view);
                    let old = replaced
                        .is_some_and(|(node, old)| view.node(node).is_some_and(|n| n.incarnation == old));
                    if goal.is_met(&view) && !old {
                        return Ok(view);
                    }
                    explain(&view)
                }
            };
            if begun.elapsed() >= self.plan.patience {
                return Err(DrillError::NotSettled {
                    waited_ms: millis(begun.elapsed()),
                    because,
                });
            }
            sleep(WATCH_INTERVAL).await;
        }
    }
}

impl Until<'_> {
    fn is_met(&self, view: &ClusterView) -> bool {
        match self {
            Self::Settled(members) => view.settled_with(members),
            Self::Filled(members) => view.settled_with(members) && view.waiting_to_fill == 0,
        }
    }
}

/// Takes in the cluster's status again and again until `other` is done.
async fn watch<C: ClusterControl, T>(
    control: &C,
    tally: &mut MovedTally,
    other: impl Future<Output = T>,
) -> T {
    let mut other = pin!(other);
    loop {
        let look = async {
            sleep(WATCH_INTERVAL).await;
            control.view().await
        };
        tokio::select! {
            biased;
            done = &mut other => return done,
            view = look => {
                if let Ok(view) = view {
                    tally.observe(&view);
                }
            }
        }
    }
}

fn explain(view: &ClusterView) -> String {
    let nodes: Vec<_> = view.nodes.iter().map(|node| node.id.as_str()).collect();
    let because = if view.because.is_empty() {
        "no reason given"
    } else {
        &view.because
    };
    format!(
        "{because}; nodes: {}; waiting to be filled: {}",
        nodes.join(", "),
        view.waiting_to_fill
    )
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
