//! [`Lane`]: one connection to one life of a node, with one data stream on it: opened, read, broken, opened again.
//!
//! The stream's outgoing half pulls its batches straight from the [`Queue`] when the transport can send, so operations
//! gather by themselves while it cannot. It sends nothing before the node has answered the call: a node that refuses it, or a
//! connection that is closed as soon as it is open, has then read no operation, and nobody need wonder whether it did. After a loss it connects again at once; from the second failure on it backs
//! off, and meanwhile operations are refused at once instead of waiting for a node that does not answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use softstore_proto::batch::{OpBatch, OpView, STREAM_VERSIONS, Value};
use softstore_proto::identity;
use softstore_proto::limits::MESSAGE_BYTES_MAX;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_sharding::{ClusterId, Generation};
use softstore_sync::Mutex;
use softstore_sync::planted::{self, Race};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::answer::Answer;
use crate::backoff::Backoff;
use crate::config::ClientConfig;
use crate::metrics::Counters;
use crate::outbox::BatchLimits;
use crate::queue::{Attempt, Gate, Limits, NotSent, Queue};

#[cfg(all(test, feature = "shuttle"))]
mod interleavings;

/// The least time between two sweeps of deadlines: how late an operation may end.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(2);

/// How long the connection of a node that is no longer listed stays open for replies on their way.
const RETIRED_LINGER: Duration = Duration::from_secs(2);

/// When this part of those who wait for an answer has been woken, they have a turn before more answers are handed out:
/// their next operations leave, and the node works on those while this side works on its replies. If all were woken
/// first, the two would take turns, and each would sleep while the other works.
const WOKEN_SHARE: usize = 8;

/// Fewer are not worth a turn, nor the system call that it leads to.
const WOKEN_MIN: usize = 8;

/// The flow-control windows of a stream and of a connection, in bytes.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// One connection to one life of a node.
#[derive(Debug)]
pub(crate) struct Lane {
    queue: Mutex<Queue>,
    /// Told when a deadline is earlier than the one that the sweeper sleeps for.
    deadlines: Notify,
    /// Ends the tasks. Cancelled when the node is no longer listed, or the client is gone.
    retired: CancellationToken,
    counters: Arc<Counters>,
}

impl Lane {
    /// Starts a connection's tasks. They end when `retired` is cancelled.
    pub(crate) fn start(
        address: Arc<str>,
        cluster: ClusterId,
        config: &Arc<ClientConfig>,
        counters: &Arc<Counters>,
        retired: CancellationToken,
    ) -> Arc<Self> {
        let limits = Limits {
            pending_ops_max: config.pending_ops_max,
            pending_bytes_max: config.pending_bytes_max,
            batch: BatchLimits {
                ops_max: config.batch_ops_max,
                bytes_max: config.batch_bytes_max,
            },
        };
        let lane = Arc::new(Self {
            queue: Mutex::new(Queue::new(limits)),
            deadlines: Notify::new(),
            retired,
            counters: counters.clone(),
        });
        tokio::spawn(sweep_deadlines(lane.clone()));
        tokio::spawn(drive(lane.clone(), address, cluster, config.clone()));
        lane
    }

    /// Queues an operation; `waker`: of the task that will poll the ticket, if it is known. Dropping the ticket withdraws it, if it was not sent.
    pub(crate) fn submit(
        self: &Arc<Self>,
        op: &OpView<'_>,
        value: Value<'_>,
        since: Generation,
        deadline: Instant,
        waker: Option<Waker>,
    ) -> Result<Ticket, NotSent> {
        let submitted = self.queue.lock().submit(op, value, since, deadline, waker)?;
        if let Some(writer) = submitted.wake {
            writer.wake();
        }
        if submitted.new_earliest {
            self.deadlines.notify_one();
        }
        Ok(Ticket {
            lane: self.clone(),
            id: submitted.id,
            is_done: false,
        })
    }

    /// How many operations are pending on it: unsent, or unanswered; all there can be if it takes none in.
    pub(crate) fn pending(&self) -> usize {
        self.queue.lock().pending()
    }

    /// Runs `change` on the queue, then wakes whom it says.
    fn with_queue<T>(&self, change: impl FnOnce(&mut Queue, &mut Vec<Waker>) -> T) -> T {
        let mut wake = Vec::new();
        let result = change(&mut self.queue.lock(), &mut wake);
        wake.into_iter().for_each(Waker::wake);
        result
    }
}

/// A caller's place in the queue; a future of what became of its operation.
#[derive(Debug)]
pub(crate) struct Ticket {
    lane: Arc<Lane>,
    id: u64,
    is_done: bool,
}

impl Future for Ticket {
    type Output = Attempt;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Attempt> {
        let outcome = self.lane.queue.lock().poll(self.id, context);
        self.is_done = outcome.is_ready();
        outcome
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_done {
            self.lane.queue.lock().abandon(self.id);
        }
    }
}

/// The outgoing half of a stream.
struct Outgoing {
    lane: Arc<Lane>,
    stream: u64,
    /// It has let the other tasks run once since it found something to send.
    has_yielded: bool,
    /// It has sent nothing yet.
    is_first: bool,
}

impl futures::Stream for Outgoing {
    type Item = OpBatch;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<OpBatch>> {
        let this = &mut *self;
        let mut queue = this.lane.queue.lock();
        loop {
            match queue.poll_unsent(this.stream, context) {
                Poll::Pending => {
                    this.has_yielded = false;
                    return Poll::Pending;
                }
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Ready(true) => {}
            }
            if !this.has_yielded && !queue.has_full_batch() {
                // Whoever woke this task is often one of many that a batch of replies has just woken. They run first,
                // and their operations travel together.
                this.has_yielded = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let versions = this.is_first.then_some(STREAM_VERSIONS);
            let Some((batch, ops)) = queue.take_batch(Instant::now(), versions) else {
                continue;
            };
            drop(queue);
            this.has_yielded = false;
            this.is_first = false;
            this.lane.counters.batches.one();
            this.lane.counters.batched_ops.add(ops as u64);
            return Poll::Ready(Some(batch));
        }
    }
}

/// Ends operations at their deadlines.
async fn sweep_deadlines(lane: Arc<Lane>) {
    loop {
        let earliest = lane.with_queue(|queue, wake| queue.sweep(Instant::now(), wake));
        let next = async {
            match earliest {
                Some(earliest) => {
                    let at = earliest.max(Instant::now() + SWEEP_INTERVAL_MIN);
                    tokio::time::sleep_until(at.into()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = next => {}
            () = lane.deadlines.notified() => {}
            () = ended(&lane) => return,
        }
    }
}

/// When nobody can be waiting any more.
async fn ended(lane: &Lane) {
    lane.retired.cancelled().await;
    tokio::time::sleep(RETIRED_LINGER * 2).await;
}

/// How a stream ended.
enum End {
    /// It worked, at least for a while.
    AfterUse,
    /// It never came to be, or nothing came of it.
    Unused,
    /// The node refused it by the first batch, and has run nothing of what was sent on it.
    Refused,
}

/// Closes the queue when the task that serves it is gone, however that came: with its runtime, say. Nobody would end what
/// waits there, deadline or not.
struct Attendance(Arc<Lane>);

impl Drop for Attendance {
    fn drop(&mut self) {
        if planted::is(Race::NobodyEndsWhatWaits) {
            return;
        }
        self.0
            .with_queue(|queue, wake| queue.end_stream(Gate::Down, false, wake));
    }
}

/// Opens the stream again and again until the lane is retired.
async fn drive(lane: Arc<Lane>, address: Arc<str>, cluster: ClusterId, config: Arc<ClientConfig>) {
    let _attendance = Attendance(lane.clone());
    let mut backoff = Backoff::CONNECT;
    loop {
        let end = tokio::select! {
            end = run_stream(&lane, &address, &cluster, &config) => end,
            () = linger_when_retired(&lane) => End::Unused,
        };
        let was_closing = lane.queue.lock().gate() == Gate::Closing;
        let at_once = matches!(end, End::AfterUse) && !was_closing && !lane.retired.is_cancelled();
        let gate = if at_once { Gate::Open } else { Gate::Down };
        let has_refused = matches!(end, End::Refused);
        lane.with_queue(|queue, wake| queue.end_stream(gate, has_refused, wake));
        if lane.retired.is_cancelled() {
            return;
        }
        if at_once {
            backoff = Backoff::CONNECT;
            continue;
        }
        let pause = backoff.pause();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lane.retired.cancelled() => return,
        }
    }
}

/// Ends when the lane is retired and what was sent is answered, or has had its time.
async fn linger_when_retired(lane: &Lane) {
    lane.retired.cancelled().await;
    lane.with_queue(|queue, wake| queue.begin_closing(wake));
    let until = Instant::now() + RETIRED_LINGER;
    while lane.queue.lock().open() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Connects, opens the stream, and hands out replies until it ends.
async fn run_stream(lane: &Arc<Lane>, address: &str, cluster: &ClusterId, config: &ClientConfig) -> End {
    let channel = match connect(address, config).await {
        Ok(channel) => channel,
        Err(error) => {
            lane.counters.connects_failed.one();
            tracing::debug!(address, %error, "cannot connect");
            return End::Unused;
        }
    };
    let stream = lane.with_queue(Queue::begin_stream);
    let outgoing = Outgoing {
        lane: lane.clone(),
        stream,
        has_yielded: false,
        is_first: true,
    };
    let mut client = client_of(channel);
    let opening = tokio::time::timeout(
        config.connect_timeout(),
        client.stream(declared(outgoing, cluster)),
    )
    .await;
    let mut replies = match opening {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => {
            lane.counters.connects_failed.one();
            note_foreign(&status, &lane.counters);
            tracing::debug!(address, %status, "the node refused the stream");
            return End::Unused;
        }
        Err(_) => {
            lane.counters.connects_failed.one();
            tracing::debug!(address, "the node did not open the stream in time");
            return End::Unused;
        }
    };
    lane.counters.streams_opened.one();
    lane.with_queue(Queue::open_gate);
    let mut end = End::Unused;
    let mut answers = Vec::new();
    let mut wake = Vec::new();
    // Callers woken since they last had a turn.
    let mut woken = 0;
    loop {
        match replies.message().await {
            Ok(Some(batch)) => {
                end = End::AfterUse;
                // Outside of the lock: it copies values.
                let notes = batch.read(|reply, frame| answers.push((reply.id, Answer::of(&reply, frame))));
                if notes.as_ref().is_ok_and(|notes| notes.closing) {
                    lane.with_queue(Queue::begin_closing);
                }
                let open = {
                    let mut queue = lane.queue.lock();
                    if let Ok(notes) = &notes
                        && notes.value_bytes_max > 0
                    {
                        queue.limit_values(notes.value_bytes_max);
                    }
                    let open = queue.open();
                    queue.dispatch(answers.drain(..), &mut wake);
                    open
                };
                woken += wake.len();
                wake.drain(..).for_each(Waker::wake);
                if woken >= (open / WOKEN_SHARE).max(WOKEN_MIN) {
                    woken = 0;
                    tokio::task::yield_now().await;
                }
                if let Err(error) = notes {
                    tracing::warn!(address, %error, "the node sent what is no batch of replies");
                    return End::Unused;
                }
            }
            Ok(None) => return end,
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                note_foreign(&status, &lane.counters);
                tracing::warn!(address, %status, "the node cannot serve this client");
                return match end {
                    End::Unused => End::Refused,
                    used => used,
                };
            }
            Err(status) => {
                tracing::debug!(address, %status, "the stream broke");
                return end;
            }
        }
    }
}

/// A request that says which cluster it is meant for, as far as that is known: a node of another one refuses it unread.
pub(crate) fn declared<T>(message: T, cluster: &ClusterId) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    identity::declare(cluster, request.metadata_mut());
    request
}

/// Counts a refusal by a node of another cluster.
fn note_foreign(status: &tonic::Status, counters: &Counters) {
    if identity::refused_by(status).is_some() {
        counters.foreign_refused.one();
    }
}

/// A channel to a node, connected.
pub(crate) async fn connect(
    address: &str,
    config: &ClientConfig,
) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(config.connect_timeout())
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_millis(config.keepalive_interval_ms))
        .keep_alive_timeout(Duration::from_millis(config.keepalive_timeout_ms))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect()
        .await
}

/// The service on a channel, with the limits of the wire.
pub(crate) fn client_of(channel: Channel) -> CacheClient<Channel> {
    CacheClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
