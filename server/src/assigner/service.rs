//! The `Assigner` service: sessions of nodes, and what operators ask.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use softstore_proto::v1;
use softstore_sharding::NodeId;
use softstore_sharding::assigner::{DrainError, ForgetError, SessionId};
use softstore_sharding::session::NodeMessage;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::driver::Call;
use super::metrics::AssignerMetrics;
use crate::conditions::Kind;
use crate::grpc;

/// Largest message of a node: an assignment that a new Assigner fetches from it.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Messages that wait for a node to read them. It gets one for each of its heartbeats, and one for each assignment.
const SESSION_MESSAGES_MAX: usize = 1_024;

/// Longest time for which balancing may be frozen beforehand: 30 days.
const FREEZE_MS_MAX: u64 = 30 * 24 * 3_600 * 1_000;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct AssignerService {
    calls: mpsc::Sender<Call>,
    metrics: Arc<AssignerMetrics>,
    sessions_opened: Arc<AtomicU64>,
    /// Held while a plan is made.
    planning: Arc<tokio::sync::Mutex<()>>,
    /// How long a plan may take, in milliseconds.
    plan_ms_max: u64,
    stop: CancellationToken,
}

impl AssignerService {
    pub(super) fn new(
        calls: mpsc::Sender<Call>,
        metrics: Arc<AssignerMetrics>,
        plan_ms_max: u64,
        stop: CancellationToken,
    ) -> Self {
        Self {
            calls,
            metrics,
            sessions_opened: Arc::default(),
            planning: Arc::default(),
            plan_ms_max,
            stop,
        }
    }

    async fn call(&self, call: Call) -> Result<(), Status> {
        self.calls
            .send(call)
            .await
            .map_err(|_| Status::unavailable("the Assigner is stopping"))
    }

    /// Calls, and waits for the answer.
    async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, Status> {
        let (answer, answered) = oneshot::channel();
        self.call(call(answer)).await?;
        answered
            .await
            .map_err(|_| Status::unavailable("the Assigner is stopping"))
    }

    /// Passes on what a node says until its session ends. The error is what to tell a node that says what cannot be
    /// understood.
    async fn listen(
        &self,
        session: SessionId,
        mut inbound: Streaming<v1::NodeMessage>,
    ) -> Result<(), Status> {
        loop {
            let said = tokio::select! {
                said = inbound.message() => said,
                () = self.stop.cancelled() => return Ok(()),
            };
            let message = match said {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(status) if grpc::is_malformed(&status) => return Err(status),
                Err(status) => {
                    tracing::debug!(%status, "a node's session broke");
                    return Ok(());
                }
            };
            let message = NodeMessage::try_from(message)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let message = Box::new(message);
            if self.calls.send(Call::Said { session, message }).await.is_err() {
                return Ok(());
            }
        }
    }
}

#[tonic::async_trait]
impl v1::assigner_server::Assigner for AssignerService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::AssignerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let session = SessionId::new(self.sessions_opened.fetch_add(1, Ordering::Relaxed) + 1);
        let (to_node, messages) = mpsc::channel(SESSION_MESSAGES_MAX);
        // Weak: dropping the driver's end ends the session.
        let refusals = to_node.downgrade();
        self.call(Call::Opened { session, to_node }).await?;
        let (service, inbound) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(refusal) = service.listen(session, inbound).await {
                service.metrics.protocol_error();
                service
                    .metrics
                    .conditions
                    .observe(Kind::MessagesRefused, "", refusal.message());
                if let Some(to_node) = refusals.upgrade() {
                    // The node may have gone, or not be reading.
                    let _ = to_node.try_send(Err(refusal));
                }
            }
            // If the driver has gone there is nothing to tell.
            let _ = service.calls.send(Call::Closed { session }).await;
        });
        let messages = ReceiverStream::new(messages).map(|said| said.map(|message| (&message).into()));
        let messages = messages.take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(messages)))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        let changes_max = request.into_inner().changes_max as usize;
        let status = |answer| Call::Status { changes_max, answer };
        let (status, changes) = self.ask(status).await?;
        Ok(Response::new(v1::ClusterStatus {
            changes: changes.iter().map(Into::into).collect(),
            conditions: self.metrics.conditions.lines(),
            ..(&status).into()
        }))
    }

    async fn plan(&self, _: Request<v1::PlanRequest>) -> Result<Response<v1::PlanReply>, Status> {
        // One at a time: whoever asks again and again must not have the Sharder run on all threads, nor have the driver put
        // together what it would be asked.
        let running = self.planning.clone().try_lock_owned();
        let running =
            running.map_err(|_| Status::resource_exhausted("another plan is being made: ask again"))?;
        let job = self.ask(|answer| Call::Plan { answer }).await?;
        let job = job.ok_or_else(|| {
            Status::failed_precondition("there is no assignment yet, or no node that may take anything")
        })?;
        let (done, report) = oneshot::channel();
        let run = move || {
            // Whoever asked may have gone.
            let _ = done.send(job.run());
            drop(running);
        };
        let thread = std::thread::Builder::new().name("plan".to_owned());
        thread
            .spawn(run)
            .map_err(|error| Status::resource_exhausted(format!("no thread to plan on: {error}")))?;
        let in_time = tokio::time::timeout(Duration::from_millis(self.plan_ms_max), report).await;
        let report = in_time
            .map_err(|_| {
                let after_ms = self.plan_ms_max;
                let why = format!("the Sharder has not answered within {after_ms} ms (place_timeout_ms)");
                Status::deadline_exceeded(why + ": there is no other plan before it does")
            })?
            .map_err(|_| Status::internal("the Sharder broke off; see the Assigner's log"))?;
        Ok(Response::new((&report).into()))
    }

    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Result<Response<v1::FreezeReply>, Status> {
        let for_ms = request.into_inner().for_ms;
        if for_ms > FREEZE_MS_MAX {
            return Err(Status::invalid_argument("a freeze lasts at most 30 days"));
        }
        let for_ms = (for_ms > 0).then_some(for_ms);
        self.ask(|answer| Call::Freeze { for_ms, answer }).await?;
        Ok(Response::new(v1::FreezeReply {}))
    }

    async fn unfreeze(&self, _: Request<v1::UnfreezeRequest>) -> Result<Response<v1::UnfreezeReply>, Status> {
        self.ask(|answer| Call::Unfreeze { answer }).await?;
        Ok(Response::new(v1::UnfreezeReply {}))
    }

    async fn forget(&self, request: Request<v1::ForgetRequest>) -> Result<Response<v1::ForgetReply>, Status> {
        let node = NodeId::new(&request.into_inner().node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        match self.ask(|answer| Call::Forget { node, answer }).await? {
            Ok(()) => Ok(Response::new(v1::ForgetReply {})),
            Err(error @ ForgetError::UnknownNode(_)) => Err(Status::not_found(error.to_string())),
        }
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        let node = NodeId::new(&request.into_inner().node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        match self.ask(|answer| Call::Drain { node, answer }).await? {
            Ok(start) => Ok(Response::new(v1::DrainReply {
                bytes: start.bytes,
                entries: start.entries,
            })),
            Err(error @ DrainError::UnknownNode(_)) => Err(Status::not_found(error.to_string())),
            Err(error @ DrainError::NoTaker(_)) => Err(Status::failed_precondition(error.to_string())),
        }
    }
}
