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
//! What has waited too long to be read, in a node that has no time left, is refused instead of run ([`StandingQueue`],
//! [`Saturation`](super::saturation::Saturation)), at the price of reading its id.
//!
//! A planned end loses no reply: the node says `closing`, the client sends nothing more and closes its half, and what
//! was on its way until then is still answered. A client that does not close its half is given [`LINGER`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use softstore_proto::batch::{OpBatch, Ops, ReplyBatch, ReplyBatchNotes, STREAM_VERSIONS};
use softstore_proto::error::WireError;
use softstore_proto::v1::Status;
use softstore_sharding::Timestamp;
use softstore_sharding::session::VersionRange;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Streaming;

use super::identity::Unconfirmed;
use super::metrics::{add, count};
use super::operation::{Asked, Execution, Step, StoodStill, Wait};
use super::replies::Replies;
use super::standing_queue::{Limits, StandingQueue};
use super::state::NodeState;
use super::waiting::{self, patience_ms};
use crate::grpc;
use crate::places::{Call, Held};

/// How long a closing stream waits for its client to close its half.
const LINGER: Duration = Duration::from_millis(500);

/// How many operations of a batch are run before their replies are sent. The fewer, the sooner the client has work; the
/// more, the fewer system calls an operation costs.
const PART_OPS: usize = 32;

/// Bytes of values and replies after which a part ends early: while it runs, ownership cannot change.
const PART_BYTES: usize = 256 << 10;

/// The replies of one client's stream.
pub(super) struct DataStream {
    state: Arc<NodeState>,
    /// To count what is held apart from its messages.
    call: Option<Arc<Call>>,
    inbound: Streaming<OpBatch>,
    inbound_ended: bool,
    unconfirmed: Option<Unconfirmed>,
    /// The first batch was read.
    has_begun: bool,
    /// What the client is yet to be told of the stream.
    to_tell: ReplyBatchNotes,
    /// The batch that is being run, if parts of it are left.
    batch: Option<Batch>,
    /// What the client sent cannot be read: it is told so after what came before is answered.
    refusal: Option<tonic::Status>,
    /// A part was just answered: the connection's task goes before the next.
    is_yielding: bool,
    /// How many bytes the last part's replies took: the next may take as many.
    part_bytes: usize,
    /// What waits to be read.
    queue: StandingQueue,
    late: mpsc::UnboundedReceiver<Late>,
    late_sender: mpsc::UnboundedSender<Late>,
    waiting: usize,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Runs once `closing` was said.
    linger: Option<Pin<Box<Sleep>>>,
}

/// What became of an operation that had to wait, and what is held of it until it is read.
type Late = (Result<Replies, StoodStill>, Option<Held>);

/// An operation that waits in a task of its own. However that ends, its stream hears of it, and does not count it as waiting for
/// ever: one that broke off has no reply, and its client learns at its deadline that its outcome is unknown.
struct Answering {
    replies: Late,
    late: mpsc::UnboundedSender<Late>,
}

impl Answering {
    fn to(late: &mpsc::UnboundedSender<Late>) -> Self {
        Self {
            replies: (Ok(Replies::default()), None),
            late: late.clone(),
        }
    }

    fn end(mut self, replies: Late) {
        self.replies = replies;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let replies = std::mem::replace(&mut self.replies, (Ok(Replies::default()), None));
        // The client may have gone.
        let _ = self.late.send(replies);
    }
}

/// What is left to run of a batch.
struct Batch {
    ops: Ops,
    /// The first operation that was not run.
    next: usize,
    arrived: Timestamp,
    /// How long it had waited then, to be read.
    waited_us: u64,
}

impl Batch {
    /// How long it has waited at `now` since its client sent it, the way included only as far as it is known to be slow.
    fn waited_ms(&self, now: Timestamp) -> u64 {
        now.ms_since(self.arrived) + self.waited_us / 1_000
    }

    /// When an operation expires whose client waits for it for so long, at most.
    fn expires(&self, patience_ms: u64) -> Timestamp {
        let left_ms = patience_ms.saturating_sub(self.waited_us / 1_000);
        self.arrived.plus_ms(left_ms)
    }
}

impl DataStream {
    /// `unconfirmed`: the client says a founding that this node does not know yet.
    pub(super) fn new(
        state: Arc<NodeState>,
        inbound: Streaming<OpBatch>,
        call: Option<Arc<Call>>,
        unconfirmed: Option<Unconfirmed>,
    ) -> Self {
        let (late_sender, late) = mpsc::unbounded_channel();
        let closing = Box::pin(state.closing.clone().cancelled_owned());
        let queue = StandingQueue::new(Limits {
            target_us: state.config.queue_target_ms * 1_000,
            interval_us: state.config.queue_interval_ms * 1_000,
        });
        Self {
            state,
            call,
            inbound,
            inbound_ended: false,
            unconfirmed,
            has_begun: false,
            to_tell: ReplyBatchNotes::default(),
            batch: None,
            refusal: None,
            is_yielding: false,
            part_bytes: 0,
            queue,
            late,
            late_sender,
            waiting: 0,
            closing,
            linger: None,
        }
    }

    /// Replies of operations that had to wait.
    fn poll_late(&mut self, context: &mut Context<'_>, replies: &mut Replies) -> Result<(), tonic::Status> {
        while !replies.is_full() {
            let Poll::Ready(Some((late, _held))) = self.late.poll_recv(context) else {
                break;
            };
            self.waiting -= 1;
            replies.append(late?);
        }
        Ok(())
    }

    /// Runs a part of the batch, or less if the message is full; what cannot be answered at once goes on by itself.
    fn run_batch(&mut self, replies: &mut Replies) -> Result<(), tonic::Status> {
        let Some(mut batch) = self.batch.take() else {
            return Ok(());
        };
        if let Some(unconfirmed) = self.unconfirmed {
            match unconfirmed.look(&self.state) {
                Ok(None) => {}
                Ok(Some(())) => self.unconfirmed = None,
                Err(refusal) => {
                    self.refusal = Some(refusal);
                    return Ok(());
                }
            }
        }
        if self.is_to_be_shed(&batch) {
            self.shed(batch, replies);
            return Ok(());
        }
        replies.reserve(self.part_bytes);
        let state = &self.state;
        let bytes_max = replies.len_bytes() + PART_BYTES;
        let mut request_bytes = 0;
        let mut waits = Vec::new();
        let mut execution = Execution::begin(state);
        let end = batch.ops.len().min(batch.next + PART_OPS);
        while batch.next < end && !replies.is_full() && replies.len_bytes() + request_bytes < bytes_max {
            let index = batch.next;
            batch.next += 1;
            let op = match batch.ops.get(index) {
                Ok(op) => op,
                Err(error) => {
                    count(&state.metrics.bad_requests);
                    self.refusal = Some(error.into());
                    batch.next = batch.ops.len();
                    break;
                }
            };
            request_bytes += op.value.len();
            let patience_ms = patience_ms(batch.ops.patience_ms(&op));
            // Its client may have read the replies before it late: nothing starts after its deadline.
            let expires = batch.expires(patience_ms);
            if execution.now() >= expires {
                replies.push_status(op.id, Status::Expired);
                state.metrics.operation(op.kind, Status::Expired.into());
                continue;
            }
            let since = batch.ops.since_of(&op);
            match execution.run(&Asked::first(&op, since), replies) {
                Step::Answered(status) => state.metrics.operation(op.kind, status.into()),
                // What waits would perhaps be done after this node turns out to be of another cluster.
                Step::Wait(_) if self.unconfirmed.is_some() => {
                    replies.push_status(op.id, Status::NotReady);
                    state.metrics.operation(op.kind, Status::NotReady.into());
                }
                Step::Wait(wait) => waits.push((index, wait, expires)),
            }
        }
        execution.end()?;
        for (index, wait, expires) in waits {
            self.wait_apart(&batch.ops, index, wait, expires)?;
        }
        if batch.next < batch.ops.len() {
            self.batch = Some(batch);
        }
        Ok(())
    }

    /// Whether the node has no time left, and what is left of this batch has waited too long.
    fn is_to_be_shed(&self, batch: &Batch) -> bool {
        self.queue.stands()
            && self.state.saturation.is_saturated()
            && self
                .queue
                .is_too_old(batch.waited_ms(self.state.clock.now()) * 1_000)
    }

    /// Refuses what is left of a batch: all of it has waited at least as long. Nothing is looked at but ids.
    fn shed(&mut self, mut batch: Batch, replies: &mut Replies) {
        let before = batch.next;
        while batch.next < batch.ops.len() && !replies.is_full() {
            match batch.ops.get(batch.next) {
                Ok(op) => {
                    replies.push_status(op.id, Status::Busy);
                    self.state.metrics.operation(op.kind, Status::Busy.into());
                }
                Err(error) => {
                    count(&self.state.metrics.bad_requests);
                    self.refusal = Some(error.into());
                    return;
                }
            }
            batch.next += 1;
        }
        add(&self.state.metrics.operations_shed, (batch.next - before) as u64);
        if batch.next < batch.ops.len() {
            self.batch = Some(batch);
        }
    }

    /// Goes on with an operation in a task of its own, whose replies come late.
    fn wait_apart(
        &mut self,
        ops: &Ops,
        index: usize,
        wait: Wait,
        expires: Timestamp,
    ) -> Result<(), WireError> {
        let op = ops.get(index)?;
        // With bytes of its own: one that waits must not keep the whole message in memory that it came in.
        let (since, op) = (ops.since_of(&op), op.to_op());
        self.waiting += 1;
        let mut held = self.call.as_ref().map(|call| call.held());
        held.iter_mut()
            .for_each(|held| held.set(op.key.len() + op.value.len()));
        let state = self.state.clone();
        let answering = Answering::to(&self.late_sender);
        self.state.tasks.spawn(async move {
            let replies = waiting::finish(&state, &op, since, wait, expires).await;
            let bytes = replies.as_ref().map_or(0, Replies::len_bytes);
            held.iter_mut().for_each(|held| held.set(bytes));
            answering.end((replies, held));
        });
        Ok(())
    }

    /// Reads a batch, unless one is being run or too much is unanswered.
    fn poll_inbound(
        &mut self,
        context: &mut Context<'_>,
        replies: &mut Replies,
    ) -> Result<(), tonic::Status> {
        let may_read = self.batch.is_none() && self.refusal.is_none() && !replies.is_full();
        if self.inbound_ended || !may_read || self.waiting >= self.state.config.in_flight_ops_max {
            return Ok(());
        }
        match Pin::new(&mut self.inbound).poll_next(context) {
            Poll::Ready(Some(Ok(batch))) => {
                self.take_in(batch)
                    .inspect_err(|_| count(&self.state.metrics.bad_requests))?;
                self.run_batch(replies)?;
                if replies.is_empty() && self.batch.is_none() {
                    // All of the batch waits: look for the next one at once.
                    context.waker().wake_by_ref();
                }
            }
            Poll::Ready(Some(Err(status))) => {
                tracing::debug!(%status, "a data stream broke");
                self.inbound_ended = true;
                if grpc::is_malformed(&status) {
                    count(&self.state.metrics.bad_requests);
                    // Its client is told what was wrong.
                    return Err(status);
                }
            }
            Poll::Ready(None) => self.inbound_ended = true,
            // While the node has no time left, more may well lie in the socket: the runtime looks there now and then only.
            Poll::Pending if self.state.saturation.is_saturated() => {}
            Poll::Pending => self.queue.drained(self.state.clock.now_us()),
        }
        Ok(())
    }

    fn take_in(&mut self, batch: OpBatch) -> Result<(), tonic::Status> {
        let ops = batch.open()?;
        if !std::mem::replace(&mut self.has_begun, true)
            && let Some(theirs) = ops.versions()
        {
            self.to_tell = ReplyBatchNotes {
                version: common_version(theirs)?,
                value_bytes_max: self.state.config.value_bytes_max as u64,
                closing: false,
            };
        }
        let now_us = self.state.clock.now_us();
        let pauses = &self.state.pauses;
        let stood_still = |since_us| pauses.stood_still_since(since_us, now_us);
        let waited_us = self.queue.arrived(now_us, ops.sent_ms(), stood_still);
        self.state.saturation.waited(waited_us);
        self.batch = Some(Batch {
            ops,
            next: 0,
            arrived: Timestamp::from_ms(now_us / 1_000),
            waited_us,
        });
        Ok(())
    }

    /// What is to be sent next: replies, or the word that the stream closes.
    fn poll_replies(&mut self, context: &mut Context<'_>) -> Result<Replies, tonic::Status> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let mut replies = Replies::default();
        self.poll_late(context, &mut replies)?;
        self.run_batch(&mut replies)?;
        self.poll_inbound(context, &mut replies)?;
        Ok(replies)
    }
}

/// The highest version of the data stream that both sides speak.
fn common_version(theirs: VersionRange) -> Result<u32, tonic::Status> {
    let common = STREAM_VERSIONS.newest_common(theirs);
    common.ok_or_else(|| {
        let VersionRange { min, max } = STREAM_VERSIONS;
        tonic::Status::failed_precondition(format!(
            "this node speaks versions {min} to {max} of the data stream, the client {} to {}: update the older of the two",
            theirs.min, theirs.max
        ))
    })
}

impl Stream for DataStream {
    type Item = Result<ReplyBatch, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if std::mem::take(&mut this.is_yielding) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let replies = match this.poll_replies(context) {
            Ok(replies) => replies,
            Err(status) => {
                // Nothing more is read or run.
                this.batch = None;
                this.inbound_ended = true;
                return Poll::Ready(Some(Err(status)));
            }
        };
        let is_told = this.refusal.is_none();
        if this.waiting == 0 && replies.is_empty() && this.inbound_ended && is_told {
            return Poll::Ready(None);
        }
        let closing = this.linger.is_none() && this.closing.as_mut().poll(context).is_ready();
        if closing {
            this.linger = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        if closing || !replies.is_empty() {
            this.is_yielding = this.batch.is_some() || this.refusal.is_some();
            this.part_bytes = replies.inline_bytes().min(PART_BYTES);
            let notes = ReplyBatchNotes {
                closing,
                ..std::mem::take(&mut this.to_tell)
            };
            return Poll::Ready(Some(Ok(replies.into_batch(notes))));
        }
        if this.batch.is_some() || this.refusal.is_some() {
            // All of this part waits: go on.
            context.waker().wake_by_ref();
        }
        match &mut this.linger {
            Some(linger) => linger.as_mut().poll(context).map(|()| None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plan: an operation that waits breaks off (a panic), and one ends as it should. The stream hears of both.
    #[tokio::test]
    async fn an_operation_that_breaks_off_leaves_its_streams_count() {
        let (late_sender, mut late) = mpsc::unbounded_channel();
        for breaks_off in [true, false] {
            let answering = Answering::to(&late_sender);
            let task = tokio::spawn(async move {
                let _answering = answering;
                assert!(!breaks_off, "as planned");
            });
            assert_eq!(task.await.is_err(), breaks_off);
            assert!(
                late.try_recv()
                    .is_ok_and(|(replies, _)| replies.is_ok_and(|replies| replies.is_empty()))
            );
        }
    }
}
