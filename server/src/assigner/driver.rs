//! The task that owns the Assigner's core: events in, actions out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use softstore_proto::v1;
use softstore_sharding::assigner::{
    Assigner, AssignerAction, AssignerEvent, ClusterStatus, DrainError, DrainStart, Notice, SessionId,
};
use softstore_sharding::session::{AssignerMessage, NodeMessage};
use softstore_sharding::{NodeId, Timestamp};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::metrics::AssignerMetrics;
use crate::clock::{Clock, unix_ms};
use crate::events;

/// Where a session's messages to its node go. Dropping it ends the session.
pub(super) type ToNode = mpsc::Sender<Result<v1::AssignerMessage, tonic::Status>>;

/// Messages that wait for one node. One that reads so much too slowly loses its session, and comes back for what it missed.
pub(super) const TO_NODE_MESSAGES_MAX: usize = 1_024;

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
        let mut unread = Vec::new();
        for action in self.core.step(event, Clock.now(), unix_ms()) {
            match action {
                AssignerAction::Send { session, message } => {
                    if !self.tell(session, &message) {
                        unread.push(session);
                    }
                }
                AssignerAction::CloseSession { session } => {
                    self.sessions.remove(&session);
                }
                AssignerAction::Published(assignment) => {
                    events::published(&assignment);
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
        for session in unread {
            self.step(AssignerEvent::SessionClosed { session });
        }
    }

    /// Puts a message on its way to a node. False: the node left so much unread that its session is closed.
    fn tell(&mut self, session: SessionId, message: &AssignerMessage) -> bool {
        // A session that just ended says so itself.
        let is_read = self.sessions.get(&session).is_none_or(|to_node| {
            !matches!(to_node.try_send(Ok(message.into())), Err(TrySendError::Full(_)))
        });
        if !is_read {
            tracing::warn!(
                ?session,
                "a node does not read what it is told: its session is closed"
            );
            self.metrics.session_unread();
            self.sessions.remove(&session);
        }
        is_read
    }

    fn notice(&self, notice: &Notice) {
        self.metrics.notice(notice);
        match notice {
            Notice::Died { .. } => events::died(notice),
            Notice::HelloRefused { .. }
            | Notice::SecondAssigner { .. }
            | Notice::StoodStill { .. }
            | Notice::PlacementRefused(_)
            | Notice::ProtocolBroken(_)
            | Notice::NotPublished(_) => tracing::warn!(?notice),
            _ => tracing::info!(?notice),
        }
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::Incarnation;
    use softstore_sharding::assigner::AssignerConfig;
    use softstore_sharding::sharder::EvenRange;

    use super::*;

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
        let (_, calls) = mpsc::channel(1);
        let mut driver = Driver::new(core, calls, Arc::default());
        let (deaf, other) = (SessionId::new(1), SessionId::new(2));
        let (to_deaf, _unread) = mpsc::channel(TO_NODE_MESSAGES_MAX);
        let (to_other, mut read) = mpsc::channel(TO_NODE_MESSAGES_MAX);
        driver.take(Call::Opened {
            session: deaf,
            to_node: to_deaf,
        });
        driver.take(Call::Opened {
            session: other,
            to_node: to_other,
        });
        for _ in 0..TO_NODE_MESSAGES_MAX {
            assert!(driver.tell(deaf, &AssignerMessage::YouAreDead));
            assert!(driver.tell(other, &AssignerMessage::YouAreDead));
            assert!(read.try_recv().is_ok());
        }
        assert!(!driver.tell(deaf, &AssignerMessage::YouAreDead));
        assert!(
            driver.tell(deaf, &AssignerMessage::YouAreDead),
            "nobody is there to be told"
        );
        assert!(driver.tell(other, &AssignerMessage::YouAreDead));
        assert_eq!(driver.sessions.len(), 1);
    }
}
