//! The task that owns the Assigner's core: events in, actions out.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use softstore_sharding::assigner::{
    Assigner, AssignerAction, AssignerEvent, ChangeRecord, ClusterStatus, DrainError, DrainStart,
    ForgetError, Notice, PlaceJob, PlanJob, SessionId,
};
use softstore_sharding::session::{AssignerMessage, NodeMessage};
use softstore_sharding::{Founding, Generation, Life, NodeId, Peer, Timestamp};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::metrics::AssignerMetrics;
use super::seek::Seekers;
use super::state_file::State;
use crate::clock::{Clock, unix_ms};
use crate::conditions::Kind;
use crate::events;

/// Most moves that one status tells one by one; of what is left out, the numbers are told. At about 100 bytes each, well below
/// what gRPC takes for the largest message by default.
const STATUS_MOVES_MAX: usize = 8_192;

/// Answers of the Sharder that wait for the driver: it is asked one question at a time.
const PLACED_MAX: usize = 4;

/// Where a session's messages to its node go. Dropping it ends the session. A node that does not read them, until it is
/// full, is not there: its session ends. What they are on the wire is the session's own task's work: an update goes to every
/// node, and heartbeats wait for the driver.
pub(super) type ToNode = mpsc::Sender<Result<AssignerMessage, tonic::Status>>;

/// What sessions and operators want of the driver.
pub(super) enum Call {
    /// A session was opened.
    Opened { session: SessionId, to_node: ToNode },
    /// A node said something.
    Said {
        session: SessionId,
        message: Box<NodeMessage>,
    },
    /// A session ended.
    Closed { session: SessionId },
    /// Who are the members, and where do they listen?
    Members { answer: oneshot::Sender<Vec<Peer>> },
    /// It was tried whether a member answers there.
    Probed { life: Life, reached: bool },
    /// What does the cluster look like?
    Status {
        /// How many of the last changes are wanted with it.
        changes_max: usize,
        answer: oneshot::Sender<(ClusterStatus, Vec<ChangeRecord>)>,
    },
    /// What would the Sharder do now?
    Plan {
        answer: oneshot::Sender<Option<PlanJob>>,
    },
    /// Balance nothing, for so long, or until told otherwise.
    Freeze {
        for_ms: Option<u64>,
        answer: oneshot::Sender<()>,
    },
    /// Balance again.
    Unfreeze { answer: oneshot::Sender<()> },
    /// Make a node leave.
    Drain {
        node: NodeId,
        answer: oneshot::Sender<Result<DrainStart, DrainError>>,
    },
    /// Take the holder of a name for dead.
    Forget {
        node: NodeId,
        answer: oneshot::Sender<Result<(), ForgetError>>,
    },
    /// Who answers where a node should be.
    HolderSought(Box<AssignerEvent>),
}

/// The core and what surrounds it.
pub(super) struct Driver {
    core: Assigner,
    calls: mpsc::Receiver<Call>,
    /// What the Sharder says, from its thread.
    placed: (mpsc::Sender<AssignerEvent>, mpsc::Receiver<AssignerEvent>),
    sessions: BTreeMap<SessionId, ToNode>,
    /// Sessions that were ended here, which the core is yet to be told.
    overflowed: Vec<SessionId>,
    drains: Vec<(NodeId, oneshot::Sender<Result<DrainStart, DrainError>>)>,
    forgets: Vec<(NodeId, oneshot::Sender<Result<(), ForgetError>>)>,
    /// Looks at addresses, beside everything else.
    seekers: Seekers,
    /// To whom it is that remembers it.
    states: watch::Sender<Option<State>>,
    metrics: Arc<AssignerMetrics>,
    wake_at: Timestamp,
}

/// The changes, newest first, with so many moves in all at most.
fn told<'a>(changes: impl Iterator<Item = &'a ChangeRecord>, mut moves_max: usize) -> Vec<ChangeRecord> {
    let told = changes.map(|change| {
        let mut change = change.clone();
        change.moves.truncate(moves_max);
        moves_max -= change.moves.len();
        change
    });
    told.collect()
}

impl Driver {
    pub(super) fn new(
        core: Assigner,
        calls: mpsc::Receiver<Call>,
        seekers: Seekers,
        states: watch::Sender<Option<State>>,
        metrics: Arc<AssignerMetrics>,
    ) -> Self {
        Self {
            core,
            calls,
            placed: mpsc::channel(PLACED_MAX),
            sessions: BTreeMap::new(),
            overflowed: Vec::new(),
            drains: Vec::new(),
            forgets: Vec::new(),
            seekers,
            states,
            metrics,
            wake_at: Clock.now(),
        }
    }

    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.step(AssignerEvent::Tick);
        loop {
            let wait = Duration::from_millis(self.wake_at.ms_since(Clock.now()));
            // Input goes before timers: a heartbeat that is queued counts before silence is judged.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(event) = self.placed.1.recv() => self.step(event),
                call = self.calls.recv() => match call {
                    Some(call) => self.take(call),
                    None => return,
                },
                () = tokio::time::sleep(wait) => self.step(AssignerEvent::Tick),
            }
            self.metrics.observe(&self.core, self.sessions.len());
        }
    }

    fn take(&mut self, call: Call) {
        match call {
            Call::Opened { session, to_node } => {
                self.sessions.insert(session, to_node);
            }
            Call::Said { session, message } => {
                if self.sessions.contains_key(&session) {
                    self.step(AssignerEvent::FromNode {
                        session,
                        message: *message,
                    });
                }
            }
            Call::Closed { session } => {
                if self.sessions.remove(&session).is_some() {
                    self.step(AssignerEvent::SessionClosed { session });
                }
            }
            Call::Probed { life, reached } => self.step(AssignerEvent::Probed { life, reached }),
            // Whoever asked may have gone.
            Call::Members { answer } => drop(answer.send(self.core.peers())),
            Call::Status { changes_max, answer } => {
                let changes = self.core.explanations().changes().rev().take(changes_max);
                let changes = told(changes, STATUS_MOVES_MAX);
                drop(answer.send((self.core.status(Clock.now()), changes)));
            }
            Call::Plan { answer } => drop(answer.send(self.core.plan(Clock.now()))),
            Call::Freeze { for_ms, answer } => {
                self.step(AssignerEvent::Freeze { for_ms });
                let _ = answer.send(());
            }
            Call::Unfreeze { answer } => {
                self.step(AssignerEvent::Unfreeze);
                let _ = answer.send(());
            }
            Call::Drain { node, answer } => {
                self.drains.push((node.clone(), answer));
                self.step(AssignerEvent::DrainNode { node });
            }
            Call::Forget { node, answer } => {
                self.forgets.push((node.clone(), answer));
                self.step(AssignerEvent::ForgetNode { node });
            }
            Call::HolderSought(event) => self.step(*event),
        }
    }

    fn step(&mut self, event: AssignerEvent) {
        for action in self.core.step(event, Clock.now(), unix_ms()) {
            match action {
                AssignerAction::Send { session, message } => {
                    self.send(session, message);
                }
                AssignerAction::CloseSession { session } => {
                    self.sessions.remove(&session);
                }
                AssignerAction::Published(assignment) => {
                    events::published(&assignment);
                    self.metrics.published();
                }
                AssignerAction::Remember { founding, generation } => self.remember(founding, generation),
                AssignerAction::Place(job) => self.place(job),
                AssignerAction::WakeAt(at) => self.wake_at = at,
                AssignerAction::DrainAnswered { node, answer } => {
                    if let Some(index) = self.drains.iter().position(|(asked, _)| *asked == node) {
                        let (_, asker) = self.drains.swap_remove(index);
                        let _ = asker.send(answer);
                    }
                }
                AssignerAction::SeekHolder { life, address } => self.seekers.look(life, address),
                AssignerAction::ForgetAnswered { node, answer } => {
                    if let Some(index) = self.forgets.iter().position(|(asked, _)| *asked == node) {
                        let (_, asker) = self.forgets.swap_remove(index);
                        let _ = asker.send(answer);
                    }
                }
                AssignerAction::Notice(notice) => self.notice(&notice),
            }
        }
        while let Some(session) = self.overflowed.pop() {
            self.step(AssignerEvent::SessionClosed { session });
        }
    }

    /// Passes on what the next Assigner is to know; nothing waits until it is written.
    fn remember(&self, founding: Founding, generation: Generation) {
        if let Some(cluster) = self.core.cluster().name.clone() {
            self.states.send_replace(Some(State {
                cluster,
                founding,
                generation,
            }));
        }
    }

    /// Has the Sharder answer on a thread of its own, which nothing waits for: not the heartbeats, and not the end of the
    /// process either.
    fn place(&mut self, job: PlaceJob) {
        let ticket = job.ticket();
        let (placed, metrics) = (self.placed.0.clone(), self.metrics.clone());
        let run = move || {
            let begun = Clock.now();
            let answer = std::panic::catch_unwind(AssertUnwindSafe(|| job.run()));
            metrics.round_ran(Clock.now().ms_since(begun));
            // The core asks one question at a time, so there is room; and the driver may have gone.
            let _ = placed.blocking_send(answer.unwrap_or(AssignerEvent::PlacingFailed { ticket }));
        };
        let thread = std::thread::Builder::new().name("sharder".to_owned());
        if let Err(error) = thread.spawn(run) {
            tracing::warn!(%error, "no thread for the Sharder");
            let _ = self.placed.0.try_send(AssignerEvent::PlacingFailed { ticket });
        }
    }

    fn send(&mut self, session: SessionId, message: AssignerMessage) {
        let Some(to_node) = self.sessions.get(&session) else {
            return;
        };
        // One that just ended says so itself; and so will one that is ended here.
        if let Err(TrySendError::Full(_)) = to_node.try_send(Ok(message)) {
            let which = format!("session {session:?}");
            self.metrics.conditions.observe(Kind::NodeNotReading, "", which);
            self.metrics.session_overflowed();
            self.sessions.remove(&session);
            self.overflowed.push(session);
        }
    }

    fn notice(&self, notice: &Notice) {
        self.metrics.notice(notice);
        let conditions = &self.metrics.conditions;
        match notice {
            Notice::Died { .. } => events::died(notice),
            Notice::OtherCluster { is_news: false, .. } => {}
            Notice::OtherCluster {
                life,
                address,
                theirs,
                why,
                ..
            } => tracing::warn!(
                node = %life.node, %address, %theirs, %why,
                "refused a node of another cluster: nothing that it says is heard, and it keeps what it holds"
            ),
            Notice::TwoFoundings { foundings } => tracing::error!(
                ?foundings,
                "nodes of several foundings say hello: nothing is published until all but one are gone, or the Assigner is started \
                 with --founding and the one to keep"
            ),
            Notice::NameTaken {
                life,
                address,
                holder,
            } => tracing::warn!(
                node = %life.node, %address, %holder,
                "a second process wants this node's name: it waits until the first has left or is dead (or: softstore forget)"
            ),
            Notice::NameFreed { life, after_ms } => {
                tracing::info!(node = %life.node, after_ms, "a process that waited for this name has it");
            }
            // What others can have it say again and again is a condition.
            Notice::HelloRefused { life, reason } => {
                conditions.observe(Kind::NodeRefused, life.node.as_str(), reason);
            }
            Notice::ToldDead(life) => {
                conditions.observe(Kind::DeadNode, life.node.as_str(), life);
            }
            Notice::SecondAssigner { other, generation } => {
                let why = format!("Assigner {other}, generation {generation}");
                conditions.observe(Kind::SecondAssigner, "", why);
            }
            Notice::RelayDropped { to } => conditions.observe(Kind::RelaysDropped, to.node.as_str(), ""),
            Notice::ProtocolBroken(session) => {
                let why = format!("{session:?} sent what it must not send at that point");
                conditions.observe(Kind::MessagesRefused, "", why);
            }
            Notice::StoodStill { .. }
            | Notice::PlacementRefused(_)
            | Notice::PlacingGivenUp { .. }
            | Notice::NotPublished(_) => tracing::warn!(?notice),
            _ => tracing::info!(?notice),
        }
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::assigner::AssignerConfig;
    use softstore_sharding::sharder::EvenRange;
    use softstore_sharding::{ClusterId, Incarnation};

    use super::*;

    const UNREAD_MAX: usize = 1_024;

    /// Plan: a node does not read what it is told. So many messages wait for it and no more; then its session is closed, and
    /// the others go on.
    #[test]
    fn what_a_node_leaves_unread_is_bounded() {
        let sharder = Box::new(EvenRange);
        let core = Assigner::new(
            AssignerConfig::default(),
            Incarnation::new(1),
            sharder,
            Clock.now(),
        );
        let (sender, calls) = mpsc::channel(1);
        let seekers = Seekers::new(&sender, ClusterId::default());
        let states = watch::channel(None).0;
        let mut driver = Driver::new(core, calls, seekers, states, Arc::default());
        let (deaf, other) = (SessionId::new(1), SessionId::new(2));
        let (to_deaf, _unread) = mpsc::channel(UNREAD_MAX);
        let (to_other, mut read) = mpsc::channel(UNREAD_MAX);
        driver.take(Call::Opened {
            session: deaf,
            to_node: to_deaf,
        });
        driver.take(Call::Opened {
            session: other,
            to_node: to_other,
        });
        for _ in 0..UNREAD_MAX {
            driver.send(deaf, AssignerMessage::YouAreDead);
            driver.send(other, AssignerMessage::YouAreDead);
            assert!(read.try_recv().is_ok());
        }
        assert_eq!((driver.sessions.len(), driver.overflowed.len()), (2, 0));
        driver.send(deaf, AssignerMessage::YouAreDead);
        assert_eq!(driver.overflowed, [deaf]);
        // Nobody is there to be told.
        driver.send(deaf, AssignerMessage::YouAreDead);
        driver.step(AssignerEvent::Tick);
        assert_eq!((driver.sessions.len(), driver.overflowed.len()), (1, 0));
    }
}
