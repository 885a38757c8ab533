//! The task that owns the Assigner's core: events in, actions out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use softstore_proto::v1;
use softstore_sharding::assigner::{
    Assigner, AssignerAction, AssignerEvent, ClusterStatus, DeathCause, DrainError, DrainStart, Notice,
    SessionId,
};
use softstore_sharding::session::{AssignerMessage, NodeMessage};
use softstore_sharding::{NodeId, Timestamp};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::metrics::AssignerMetrics;
use crate::clock::{Clock, unix_ms};

/// Where a session's messages to its node go. Dropping it ends the session. A node that does not read them, until it is
/// full, is not there: its session ends.
pub(super) type ToNode = mpsc::Sender<Result<v1::AssignerMessage, tonic::Status>>;

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
    /// What does the cluster look like?
    Status { answer: oneshot::Sender<ClusterStatus> },
    /// Make a node leave.
    Drain {
        node: NodeId,
        answer: oneshot::Sender<Result<DrainStart, DrainError>>,
    },
}

/// The core and what surrounds it.
pub(super) struct Driver {
    core: Assigner,
    calls: mpsc::Receiver<Call>,
    sessions: BTreeMap<SessionId, ToNode>,
    /// Sessions that were ended here, which the core is yet to be told.
    overflowed: Vec<SessionId>,
    drains: Vec<(NodeId, oneshot::Sender<Result<DrainStart, DrainError>>)>,
    metrics: Arc<AssignerMetrics>,
    wake_at: Timestamp,
}

impl Driver {
    pub(super) fn new(core: Assigner, calls: mpsc::Receiver<Call>, metrics: Arc<AssignerMetrics>) -> Self {
        Self {
            core,
            calls,
            sessions: BTreeMap::new(),
            overflowed: Vec::new(),
            drains: Vec::new(),
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
            // Whoever asked may have gone.
            Call::Status { answer } => drop(answer.send(self.core.status(Clock.now()))),
            Call::Drain { node, answer } => {
                self.drains.push((node.clone(), answer));
                self.step(AssignerEvent::DrainNode { node });
            }
        }
    }

    fn step(&mut self, event: AssignerEvent) {
        for action in self.core.step(event, Clock.now(), unix_ms()) {
            match action {
                AssignerAction::Send { session, message } => {
                    self.send(session, &message);
                }
                AssignerAction::CloseSession { session } => {
                    self.sessions.remove(&session);
                }
                AssignerAction::Published(assignment) => {
                    let ranges = assignment.ranges().len();
                    tracing::info!(generation = %assignment.generation(), ranges, "published an assignment");
                    self.metrics.published();
                }
                AssignerAction::WakeAt(at) => self.wake_at = at,
                AssignerAction::DrainAnswered { node, answer } => {
                    if let Some(index) = self.drains.iter().position(|(asked, _)| *asked == node) {
                        let (_, asker) = self.drains.swap_remove(index);
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

    fn send(&mut self, session: SessionId, message: &AssignerMessage) {
        let Some(to_node) = self.sessions.get(&session) else {
            return;
        };
        // One that just ended says so itself; and so will one that is ended here.
        if let Err(TrySendError::Full(_)) = to_node.try_send(Ok(message.into())) {
            tracing::warn!(
                ?session,
                "a node does not read what it is sent; its session is closed"
            );
            self.metrics.session_overflowed();
            self.sessions.remove(&session);
            self.overflowed.push(session);
        }
    }

    fn notice(&self, notice: &Notice) {
        self.metrics.notice(notice);
        match notice {
            Notice::Died {
                cause: DeathCause::Goodbye,
                ..
            } => tracing::info!(?notice),
            Notice::Died { .. }
            | Notice::HelloRefused { .. }
            | Notice::SecondAssigner { .. }
            | Notice::StoodStill { .. }
            | Notice::PlacementRefused(_)
            | Notice::ProtocolBroken(_)
            | Notice::NotPublished(_) => tracing::warn!(?notice),
            _ => tracing::info!(?notice),
        }
    }
}
