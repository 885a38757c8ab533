//! The bidirectional data stream: batches of operations in, batches of replies out.
//!
//! A batch is run where it is read, in the task that also writes the replies: no queue and no hop between them. An
//! operation that has to wait (a range being taken over, a peek) goes on in a task of its own and its reply comes in a
//! later batch, so it holds up no other. While too many wait, nothing more is read; a client that does not read its
//! replies is not read from either.
//!
//! A planned end loses no reply: the node says `closing`, the client sends nothing more and closes its half, and what
//! was on its way until then is still answered. A client that does not close its half is given [`LINGER`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use softstore_proto::v1;
use softstore_sharding::Generation;
use softstore_store::Absence;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Streaming;

use super::metrics::count;
use super::operation::{self, Step};
use super::state::NodeState;

/// Most operations in one batch.
pub(super) const BATCH_OPS_MAX: usize = 1_024;

/// Most different acquisitions that one batch refers to.
pub(super) const BATCH_SINCES_MAX: usize = 1_024;

/// How long a closing stream waits for its client to close its half.
const LINGER: Duration = Duration::from_millis(500);

/// Late replies that are put into one message.
const LATE_REPLIES_MAX: usize = 1_024;

/// The replies of one client's stream.
pub(super) struct DataStream {
    state: Arc<NodeState>,
    inbound: Streaming<v1::OpBatch>,
    inbound_ended: bool,
    late: mpsc::UnboundedReceiver<v1::Reply>,
    late_sender: mpsc::UnboundedSender<v1::Reply>,
    waiting: usize,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Runs once `closing` was said.
    linger: Option<Pin<Box<Sleep>>>,
}

impl DataStream {
    pub(super) fn new(state: Arc<NodeState>, inbound: Streaming<v1::OpBatch>) -> Self {
        let (late_sender, late) = mpsc::unbounded_channel();
        let closing = Box::pin(state.closing.clone().cancelled_owned());
        Self {
            state,
            inbound,
            inbound_ended: false,
            late,
            late_sender,
            waiting: 0,
            closing,
            linger: None,
        }
    }

    /// Replies of operations that had to wait.
    fn poll_late(&mut self, context: &mut Context<'_>, replies: &mut Vec<v1::Reply>) {
        while replies.len() < LATE_REPLIES_MAX {
            let Poll::Ready(Some(reply)) = self.late.poll_recv(context) else {
                return;
            };
            self.waiting -= 1;
            replies.push(reply);
        }
    }

    /// Runs a batch; what cannot be answered at once goes on by itself.
    fn run(&mut self, batch: v1::OpBatch, replies: &mut Vec<v1::Reply>) -> Result<(), tonic::Status> {
        let sinces = check_batch(&batch).inspect_err(|_| count(&self.state.metrics.bad_requests))?;
        replies.reserve(batch.ops.len());
        for op in batch.ops {
            let since = since_of(&op, &sinces);
            match operation::execute(&self.state, &op, since, Absence::AskGiver) {
                Step::Reply(reply) => {
                    self.state.metrics.operation(op.kind, reply.status);
                    replies.push(reply);
                }
                Step::Wait(wait) => {
                    self.waiting += 1;
                    let (state, late) = (self.state.clone(), self.late_sender.clone());
                    let arrived = Instant::now();
                    self.state.tasks.spawn(async move {
                        let reply = operation::finish(&state, &op, since, wait, arrived).await;
                        state.metrics.operation(op.kind, reply.status);
                        // The client may have gone.
                        let _ = late.send(reply);
                    });
                }
            }
        }
        Ok(())
    }
}

impl Stream for DataStream {
    type Item = Result<v1::ReplyBatch, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut replies = Vec::new();
        this.poll_late(context, &mut replies);
        if !this.inbound_ended && this.waiting < this.state.config.in_flight_ops_max {
            match Pin::new(&mut this.inbound).poll_next(context) {
                Poll::Ready(Some(Ok(batch))) => {
                    if let Err(status) = this.run(batch, &mut replies) {
                        return Poll::Ready(Some(Err(status)));
                    }
                    if replies.is_empty() {
                        // All of the batch waits: look for the next one at once.
                        context.waker().wake_by_ref();
                    }
                }
                Poll::Ready(Some(Err(status))) => {
                    count(&this.state.metrics.bad_requests);
                    tracing::debug!(%status, "a data stream broke");
                    this.inbound_ended = true;
                }
                Poll::Ready(None) => this.inbound_ended = true,
                Poll::Pending => {}
            }
        }
        if this.waiting == 0 && replies.is_empty() && this.inbound_ended {
            return Poll::Ready(None);
        }
        let closing = this.linger.is_none() && this.closing.as_mut().poll(context).is_ready();
        if closing {
            this.linger = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        if closing || !replies.is_empty() {
            return Poll::Ready(Some(Ok(v1::ReplyBatch { replies, closing })));
        }
        match &mut this.linger {
            Some(linger) => linger.as_mut().poll(context).map(|()| None),
            None => Poll::Pending,
        }
    }
}

/// The acquisitions that a batch refers to.
#[expect(
    clippy::result_large_err,
    reason = "tonic's own error type, on the way out of the stream"
)]
pub(super) fn check_batch(batch: &v1::OpBatch) -> Result<Vec<Generation>, tonic::Status> {
    if batch.ops.len() > BATCH_OPS_MAX || batch.sinces.len() > BATCH_SINCES_MAX {
        return Err(tonic::Status::invalid_argument(format!(
            "a batch holds at most {BATCH_OPS_MAX} operations and {BATCH_SINCES_MAX} sinces, not {} and {}",
            batch.ops.len(),
            batch.sinces.len()
        )));
    }
    let sinces = batch.sinces.iter().map(|since| Generation::try_from(*since));
    sinces
        .collect::<Result<_, _>>()
        .map_err(|error| tonic::Status::invalid_argument(error.to_string()))
}

pub(super) fn since_of(op: &v1::Op, sinces: &[Generation]) -> Generation {
    let index = usize::try_from(op.since_index).ok();
    index
        .and_then(|index| sinces.get(index))
        .copied()
        .unwrap_or(Generation::NONE)
}
