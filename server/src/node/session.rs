//! The session with the Assigner: the slicelet's shell. One task that owns the slicelet, its stream and its timer.

use std::sync::Arc;
use std::time::Duration;

use softstore_proto::transfer::Relayed;
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_sharding::session::{AssignerMessage, NodeMessage};
use softstore_sharding::slicelet::{Bar, DrainEnd, Slicelet, SliceletAction, SliceletEvent};
use softstore_sharding::{Life, Timestamp};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::load;
use super::metrics::count;
use super::state::NodeState;
use super::transfer_service::{answer_take, count_refused};
use crate::clock::new_incarnation;
use crate::conditions::Kind;
use crate::{events, grpc};

/// How long connecting to the Assigner may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);

/// A session that says nothing for so long is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the goodbye may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Messages that wait on a session, in each direction. An Assigner that reads no more than this is not there.
const LINK_MESSAGES_MAX: usize = 1_024;

/// Largest message from the Assigner: an assignment of a very large cluster.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// How the node's drain ended, for whoever waits for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainOutcome {
    /// All was handed off and released.
    Drained,
    /// There was nobody to take what the node held.
    NoTaker,
    /// No Assigner came to say who takes it.
    NoAssigner,
    /// The drain's deadline came first.
    Deadline,
}

/// What comes to the session's task from its connection.
enum FromLink {
    Opened,
    Said(Box<AssignerMessage>),
    Closed,
}

/// The slicelet and what surrounds it.
pub(super) struct Session {
    state: Arc<NodeState>,
    slicelet: Slicelet,
    events: mpsc::Receiver<SliceletEvent>,
    link: Link,
    from_link: mpsc::Receiver<(u64, FromLink)>,
    link_sender: mpsc::Sender<(u64, FromLink)>,
    wake_at: Timestamp,
    drained: Option<oneshot::Sender<DrainOutcome>>,
    stopped: bool,
}

/// The present connection. Each has a number, so that what an earlier one still says is not taken for its word.
#[derive(Default)]
struct Link {
    number: u64,
    outbound: Option<mpsc::Sender<v1::NodeMessage>>,
    task: CancellationToken,
}

impl Session {
    pub(super) fn new(
        state: Arc<NodeState>,
        slicelet: Slicelet,
        events: mpsc::Receiver<SliceletEvent>,
        drained: oneshot::Sender<DrainOutcome>,
    ) -> Self {
        let (link_sender, from_link) = mpsc::channel(LINK_MESSAGES_MAX);
        Self {
            wake_at: state.clock.now(),
            state,
            slicelet,
            events,
            link: Link::default(),
            from_link,
            link_sender,
            drained: Some(drained),
            stopped: false,
        }
    }

    /// Runs until the slicelet has said goodbye, or `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut assignment = self.state.ticks();
        self.tick();
        while !self.stopped {
            let now = self.state.clock.now();
            let sleep = Duration::from_millis(self.wake_at.ms_since(now));
            // Input goes before timers: what was said before the timer ran out counts.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((number, said)) = self.from_link.recv() => self.link_event(number, said),
                Some(event) = self.events.recv() => self.step(event),
                // What the core holds may have changed: perhaps a drain is over.
                _ = assignment.changed() => {}
                () = tokio::time::sleep(sleep) => self.tick(),
            }
            if self.state.take_reports_lost() {
                self.step(SliceletEvent::Contradicted);
            }
            self.look_for_end_of_drain();
        }
        self.say_last_words(&stop).await;
        self.link.task.cancel();
    }

    /// Lets what was sent last, the goodbye, go out: the Assigner ends the session when it has read to the end.
    async fn say_last_words(&mut self, stop: &CancellationToken) {
        self.link.outbound = None;
        let link_closed = async {
            while let Some((_, said)) = self.from_link.recv().await {
                if matches!(said, FromLink::Closed) {
                    return;
                }
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(LAST_WORDS, link_closed) => {}
            () = stop.cancelled() => {}
        }
    }

    fn look_for_end_of_drain(&mut self) {
        if self.slicelet.is_draining() && self.drained.is_some() && self.state.core().is_empty() {
            self.step(SliceletEvent::Drained);
        }
    }

    fn tick(&mut self) {
        let load = load::report(&self.state);
        self.step(SliceletEvent::Tick { load });
    }

    fn link_event(&mut self, number: u64, said: FromLink) {
        if number != self.link.number {
            return;
        }
        match said {
            FromLink::Opened => {
                self.state.conditions.clear(Kind::NoAssigner, "");
                let (claims, offers) = {
                    let core = self.state.core();
                    (core.claims(), core.offers())
                };
                self.step(SliceletEvent::SessionOpened { claims, offers });
            }
            FromLink::Said(message) => {
                let is_answer = matches!(*message, AssignerMessage::HeartbeatAnswer { .. });
                self.step(SliceletEvent::FromAssigner(*message));
                if is_answer {
                    self.state.assigner_answered();
                }
            }
            FromLink::Closed => {
                self.link.outbound = None;
                self.step(SliceletEvent::SessionClosed);
            }
        }
    }

    fn step(&mut self, event: SliceletEvent) {
        if event == SliceletEvent::StoppedServing {
            // The last heartbeat, if it was not sent yet.
            self.tick();
        }
        let now = self.state.clock.now();
        let actions = self.slicelet.step(event, now);
        self.carry_out(actions);
        // After the actions: a suspension that this step asked for is in force already.
        self.state.slicelet_stepped((&self.slicelet).into());
    }

    fn carry_out(&mut self, actions: Vec<SliceletAction>) {
        for action in actions {
            match action {
                SliceletAction::OpenSession => self.open(),
                SliceletAction::CloseSession => self.close(),
                SliceletAction::Send(message) => self.send(&message),
                SliceletAction::Adopt(assignment) => self.state.adopt(&assignment),
                SliceletAction::Deliver { from, payload } => deliver(&self.state, &from, &payload),
                SliceletAction::Suspend => {
                    self.state.conditions.observe(Kind::Suspended, "", "");
                    self.state.set_suspended(true);
                }
                SliceletAction::Resume => {
                    self.state.conditions.clear(Kind::Suspended, "");
                    self.state.set_suspended(false);
                }
                SliceletAction::LeaseEnded => {
                    self.state.lease_ended();
                    self.state.conditions.observe(Kind::LeaseOver, "", "");
                }
                SliceletAction::LeaseRegained => self.state.conditions.clear(Kind::LeaseOver, ""),
                SliceletAction::ServesUnder {
                    lease_ms: Some(lease_ms),
                } => {
                    // A new life's first lease is none that was regained.
                    self.state.conditions.clear(Kind::LeaseOver, "");
                    tracing::info!(lease_ms, "serving under leases");
                }
                SliceletAction::ServesUnder { lease_ms: None } => {
                    self.state.conditions.clear(Kind::LeaseOver, "");
                    tracing::info!("serving without leases");
                }
                SliceletAction::Reborn => self.reborn(),
                SliceletAction::OffersHeard { behind_ms } => {
                    self.state
                        .with_core(|core, _| (core.offers_heard(behind_ms), Vec::new()));
                }
                SliceletAction::BeginDrain => {
                    events::draining();
                    self.state.set_draining();
                }
                SliceletAction::EndDrain { reason } => self.end_drain(reason),
                SliceletAction::Stop => self.stopped = true,
                SliceletAction::Barred(by) => self.barred(&by),
                SliceletAction::Admitted => {
                    self.state.set_barred(None);
                    tracing::info!("the Assigner hears this node again");
                }
                SliceletAction::ForeignAssignment { theirs } => {
                    self.state.identity.count_refused();
                    tracing::warn!(
                        ours = ?self.state.identity.founding(), ?theirs,
                        "the Assigner sent an assignment of another founding: not adopted"
                    );
                }
                SliceletAction::Refused { reason } => {
                    count(&self.state.metrics.hellos_refused);
                    self.state.conditions.observe(Kind::HelloRefused, "", reason);
                }
                SliceletAction::WakeAt(at) => self.wake_at = at,
            }
        }
    }

    /// The Assigner does not hear this node. What it holds stays, and what it serves.
    fn barred(&mut self, by: &Bar) {
        self.state.set_barred(Some(match by {
            Bar::NameTaken { .. } => {
                "another process holds this node's name: waiting until it has left or died"
            }
            Bar::OtherCluster { .. } => "the Assigner is of another cluster",
        }));
        match by {
            Bar::NameTaken { holder } => tracing::warn!(
                name = %self.slicelet.life().node, %holder,
                "another process holds this node's name: waiting until it has left or died"
            ),
            Bar::OtherCluster { theirs } => {
                self.state.identity.count_refused();
                tracing::warn!(
                    assigner = %self.state.config.assigner, ours = %self.state.identity.cluster(), %theirs,
                    "the Assigner is of another cluster: nothing that it says counts, and nothing is dropped. Mend --assigner or \
                     --cluster; or, if its cluster was founded anew and this node's entries are not wanted, restart this node"
                );
            }
        }
    }

    fn reborn(&mut self) {
        let mut me = self.state.core().me().clone();
        me.life.incarnation = new_incarnation();
        let incarnation = me.life.incarnation;
        self.state.reborn(me);
        let offered = self.state.core().counts().offered;
        let why = format_args!("{offered} ranges that it held are offered to who took them over");
        self.state.conditions.observe(Kind::DeclaredDead, "", why);
        let actions = self.slicelet.reborn(incarnation, self.state.clock.now());
        self.carry_out(actions);
    }

    fn end_drain(&mut self, reason: DrainEnd) {
        let outcome = match reason {
            DrainEnd::Drained => DrainOutcome::Drained,
            DrainEnd::NoTaker => DrainOutcome::NoTaker,
            DrainEnd::NoAssigner => DrainOutcome::NoAssigner,
        };
        events::drain_ended(outcome);
        if let Some(drained) = self.drained.take() {
            // Whoever embeds this node may not wait for it.
            let _ = drained.send(outcome);
        }
    }

    fn send(&mut self, message: &NodeMessage) {
        let Some(outbound) = &self.link.outbound else {
            return;
        };
        if outbound.try_send(message.into()).is_err() {
            // It reads nothing, or it just broke. Dropping the sender ends the stream, and the link says so itself.
            self.link.outbound = None;
            self.link.task.cancel();
        }
    }

    fn open(&mut self) {
        self.link.task.cancel();
        let number = self.link.number + 1;
        let (outbound, messages) = mpsc::channel(LINK_MESSAGES_MAX);
        let task = CancellationToken::new();
        self.link = Link {
            number,
            outbound: Some(outbound),
            task: task.clone(),
        };
        let (state, sender) = (self.state.clone(), self.link_sender.clone());
        self.state.tasks.spawn(async move {
            let address = &state.config.assigner;
            let ended = tokio::select! {
                ended = talk(address, messages, number, &sender) => ended,
                () = task.cancelled() => Ok(()),
            };
            match ended {
                Ok(()) => {}
                Err(LinkError::Malformed(error)) => {
                    count(&state.metrics.assigner_messages_refused);
                    state
                        .conditions
                        .observe(Kind::AssignerNotUnderstood, address, error.message());
                }
                Err(error) => {
                    let why = format!("{address}: {}", error.why());
                    state.conditions.observe(Kind::NoAssigner, "", why);
                }
            }
            // The session's task may be gone, or be at its next link and not care.
            let _ = sender.send((number, FromLink::Closed)).await;
        });
    }

    /// Ends the outbound stream; what was sent before still goes out.
    fn close(&mut self) {
        self.link.outbound = None;
        self.link.number += 1;
    }
}

/// Why a connection to the Assigner ended.
#[derive(Debug, Error)]
enum LinkError {
    /// There was none, or it broke.
    #[error(transparent)]
    Connection(#[from] tonic::transport::Error),
    /// The Assigner, or the connection, ended the session.
    #[error("{0}")]
    Session(Box<tonic::Status>),
    /// The Assigner said what this build cannot read.
    #[error("{0}")]
    Malformed(Box<tonic::Status>),
    /// The session's task is gone.
    #[error("nobody listens to the session any more")]
    Unheard,
}

impl LinkError {
    /// Why, for people.
    fn why(&self) -> String {
        match self {
            Self::Connection(error) => grpc::why(error),
            Self::Session(status) => grpc::why(status.as_ref()),
            Self::Malformed(_) | Self::Unheard => self.to_string(),
        }
    }
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        if grpc::is_malformed(&status) {
            Self::Malformed(Box::new(status))
        } else {
            Self::Session(Box::new(status))
        }
    }
}

impl From<mpsc::error::SendError<(u64, FromLink)>> for LinkError {
    fn from(_: mpsc::error::SendError<(u64, FromLink)>) -> Self {
        Self::Unheard
    }
}

/// Keeps one connection to the Assigner.
async fn talk(
    address: &str,
    messages: mpsc::Receiver<v1::NodeMessage>,
    number: u64,
    sender: &mpsc::Sender<(u64, FromLink)>,
) -> Result<(), LinkError> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_INTERVAL)
        .connect()
        .await?;
    let mut client = AssignerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut answers = client.session(ReceiverStream::new(messages)).await?.into_inner();
    sender.send((number, FromLink::Opened)).await?;
    while let Some(answer) = answers.message().await? {
        let message = AssignerMessage::try_from(answer)
            .map_err(|error| LinkError::Malformed(Box::new(error.into())))?;
        sender.send((number, FromLink::Said(Box::new(message)))).await?;
    }
    Ok(())
}

/// Takes in a hand-off message that came through the Assigner.
fn deliver(state: &Arc<NodeState>, from: &Life, payload: &[u8]) {
    match Relayed::decode(payload) {
        Ok(Relayed::Take(take)) if take.taker.life == *from => match answer_take(state, &take) {
            Ok(reply) => {
                let payload = Relayed::TakeReply(reply).encode();
                state.tell_slicelet(SliceletEvent::RelayTo {
                    to: from.clone(),
                    payload,
                });
            }
            Err(refusal) => {
                tracing::debug!(%from, "a relayed take is refused");
                count_refused(state, refusal);
            }
        },
        Ok(Relayed::TakeReply(reply)) if reply.from == *from => {
            state.with_core(|core, now| ((), core.take_answered(&reply, now)));
        }
        Ok(_) => count(&state.metrics.peer_messages_refused),
        Err(error) => {
            count(&state.metrics.bad_requests);
            tracing::debug!(%from, %error, "a relayed message is malformed");
        }
    }
}
