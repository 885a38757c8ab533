//! The bidirectional data stream: batches of operations in, batches of replies out.
//!
//! A batch is run where it is read, in the task that also writes the replies: no queue and no hop between them. An
//! operation that has to wait (a range being taken over, a peek) goes on in a task of its own and its reply comes in a
//! later batch, so it holds up no other. While too many wait, nothing more is read; a client that does not read its
//! replies is not read from either. Replies with large values are spread over several messages, and the rest of their
//! batch is run when the client has taken those: so no batch of gets asks for more memory than a message.
//!
//! A large batch is answered in parts, and the connection may send each before the next is run. The client works on one
//! part while the node runs the next; answered as a whole, they would take turns, and each core would idle half the time.
//!
//! A planned end loses no reply: the node says `closing`, the client sends nothing more and closes its half, and what
//! was on its way until then is still answered. A client that does not close its half is given [`LINGER`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use softstore_proto::v1;
use softstore_sharding::Generation;
use softstore_store::Absence;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Code, Streaming};

use super::metrics::count;
use super::operation::{self, Step};
use super::state::NodeState;

/// Most operations in one batch.
pub(super) const BATCH_OPS_MAX: usize = 1_024;

/// Most different acquisitions that one batch refers to.
pub(super) const BATCH_SINCES_MAX: usize = 1_024;

/// How long a closing stream waits for its client to close its half.
const LINGER: Duration = Duration::from_millis(500);

/// Most replies in one message.
const REPLIES_MAX: usize = 1_024;

/// How many operations of a batch are run before their replies are sent. The smaller, the sooner the client has work; the
/// larger, the fewer system calls an operation costs.
const PART_OPS: usize = 24;

/// Bytes of replies after which a message is closed; what it exceeds this by is less than one reply.
pub(super) const REPLIES_BYTES_MAX: usize = 4 << 20;

/// What a reply takes beside its value and its text, roughly, in bytes. (Where a slice went takes more, but the number of
/// replies bounds that.)
const REPLY_OVERHEAD_BYTES: usize = 64;

/// The replies of one client's stream.
pub(super) struct DataStream {
    state: Arc<NodeState>,
    inbound: Streaming<v1::OpBatch>,
    inbound_ended: bool,
    /// The batch that is being run, if parts of it are left.
    batch: Option<Batch>,
    /// A part was just answered: the connection's task goes before the next.
    is_yielding: bool,
    late: mpsc::UnboundedReceiver<v1::Reply>,
    late_sender: mpsc::UnboundedSender<v1::Reply>,
    waiting: usize,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Runs once `closing` was said.
    linger: Option<Pin<Box<Sleep>>>,
}

/// What is left to run of a batch.
struct Batch {
    ops: std::vec::IntoIter<v1::Op>,
    sinces: Vec<Generation>,
    arrived: Instant,
}

/// The replies of one message.
#[derive(Default)]
struct Replies {
    list: Vec<v1::Reply>,
    bytes: usize,
}

impl Replies {
    fn push(&mut self, reply: v1::Reply) {
        self.bytes += reply.value.len() + reply.message.len() + REPLY_OVERHEAD_BYTES;
        self.list.push(reply);
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn is_full(&self) -> bool {
        self.list.len() >= REPLIES_MAX || self.bytes >= REPLIES_BYTES_MAX
    }
}

impl DataStream {
    pub(super) fn new(state: Arc<NodeState>, inbound: Streaming<v1::OpBatch>) -> Self {
        let (late_sender, late) = mpsc::unbounded_channel();
        let closing = Box::pin(state.closing.clone().cancelled_owned());
        Self {
            state,
            inbound,
            inbound_ended: false,
            batch: None,
            is_yielding: false,
            late,
            late_sender,
            waiting: 0,
            closing,
            linger: None,
        }
    }

    /// Replies of operations that had to wait.
    fn poll_late(&mut self, context: &mut Context<'_>, replies: &mut Replies) {
        while !replies.is_full() {
            let Poll::Ready(Some(reply)) = self.late.poll_recv(context) else {
                return;
            };
            self.waiting -= 1;
            replies.push(reply);
        }
    }

    /// Runs a part of the batch, or less if the message is full; what cannot be answered at once goes on by itself.
    fn run_batch(&mut self, replies: &mut Replies) {
        let Some(mut batch) = self.batch.take() else {
            return;
        };
        replies.list.reserve(batch.ops.len().min(PART_OPS));
        for _ in 0..PART_OPS {
            if replies.is_full() {
                break;
            }
            let Some(op) = batch.ops.next() else { return };
            let since = since_of(&op, &batch.sinces);
            // Its client may have read the replies before it late: nothing starts after its deadline.
            if batch.arrived.elapsed() >= operation::op_deadline(&op) {
                self.state.metrics.operation(op.kind, v1::Status::Expired.into());
                replies.push(operation::reply(&op, v1::Status::Expired));
                continue;
            }
            match operation::execute(&self.state, &op, since, Absence::AskGiver) {
                Step::Reply(reply) => {
                    self.state.metrics.operation(op.kind, reply.status);
                    replies.push(reply);
                }
                Step::Wait(wait) => {
                    self.waiting += 1;
                    let (state, late) = (self.state.clone(), self.late_sender.clone());
                    let (op, arrived) = (detached(op), batch.arrived);
                    self.state.tasks.spawn(async move {
                        let reply = operation::finish(&state, &op, since, wait, arrived).await;
                        state.metrics.operation(op.kind, reply.status);
                        // The client may have gone.
                        let _ = late.send(reply);
                    });
                }
            }
        }
        if !batch.ops.as_slice().is_empty() {
            self.batch = Some(batch);
        }
    }

    /// Reads a batch, unless one is being run or too much is unanswered.
    fn poll_inbound(
        &mut self,
        context: &mut Context<'_>,
        replies: &mut Replies,
    ) -> Result<(), tonic::Status> {
        let may_read = self.batch.is_none() && !replies.is_full();
        if self.inbound_ended || !may_read || self.waiting >= self.state.config.in_flight_ops_max {
            return Ok(());
        }
        match Pin::new(&mut self.inbound).poll_next(context) {
            Poll::Ready(Some(Ok(batch))) => {
                let sinces = check_batch(&batch).inspect_err(|_| count(&self.state.metrics.bad_requests))?;
                self.batch = Some(Batch {
                    ops: batch.ops.into_iter(),
                    sinces,
                    arrived: Instant::now(),
                });
                self.run_batch(replies);
                if replies.is_empty() && self.batch.is_none() {
                    // All of the batch waits: look for the next one at once.
                    context.waker().wake_by_ref();
                }
            }
            Poll::Ready(Some(Err(status))) => {
                tracing::debug!(%status, "a data stream broke");
                self.inbound_ended = true;
                if is_malformed(&status) {
                    count(&self.state.metrics.bad_requests);
                    // Its client is told what was wrong.
                    return Err(status);
                }
            }
            Poll::Ready(None) => self.inbound_ended = true,
            Poll::Pending => {}
        }
        Ok(())
    }
}

/// Whether a stream broke because of what its client sent: not decodable, or too large. (A client that just goes, or a
/// connection that breaks, shows as another code.)
fn is_malformed(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        Code::Internal | Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented
    )
}

/// An operation with bytes of its own: one that waits must not keep the whole message in memory that it came in.
fn detached(op: v1::Op) -> v1::Op {
    v1::Op {
        key: Bytes::copy_from_slice(&op.key),
        value: Bytes::copy_from_slice(&op.value),
        ..op
    }
}

impl Stream for DataStream {
    type Item = Result<v1::ReplyBatch, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if std::mem::take(&mut this.is_yielding) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut replies = Replies::default();
        this.poll_late(context, &mut replies);
        this.run_batch(&mut replies);
        if let Err(status) = this.poll_inbound(context, &mut replies) {
            return Poll::Ready(Some(Err(status)));
        }
        if this.waiting == 0 && replies.is_empty() && this.inbound_ended {
            return Poll::Ready(None);
        }
        let closing = this.linger.is_none() && this.closing.as_mut().poll(context).is_ready();
        if closing {
            this.linger = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        if closing || !replies.is_empty() {
            let replies = replies.list;
            this.is_yielding = this.batch.is_some();
            return Poll::Ready(Some(Ok(v1::ReplyBatch { replies, closing })));
        }
        if this.batch.is_some() {
            // All of this part waits: go on with the next.
            context.waker().wake_by_ref();
        }
        match &mut this.linger {
            Some(linger) => linger.as_mut().poll(context).map(|()| None),
            None => Poll::Pending,
        }
    }
}

/// The acquisitions that a batch refers to.
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
