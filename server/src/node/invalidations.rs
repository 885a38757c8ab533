//! [`Invalidations`]: has replicas forget what is about to change here, and leases that are to end, and tells when they have.
//!
//! One call to a replica at a time; what is wanted meanwhile goes with the next, so that writes of a hot key cost a call for all
//! that wait and not one each. A call that fails is repeated for as long as a lease of those that wait is not over: after that
//! the replica serves nothing of it, and nobody waits for its word.
//!
//! A replica that wants nothing for a while costs nothing: its task ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use softstore_sharding::{Life, Peer, Slice, SliceKey, Timestamp};
use softstore_sync::Mutex;
use softstore_transfer::message::Invalidate;
use tokio::sync::{mpsc, oneshot};

use super::metrics::count;
use super::state::NodeState;

/// Most things that wait to be told to one replica. Who finds no room waits for the lease to end.
const QUEUE_MAX: usize = 4_096;

/// How long one call may take, in milliseconds.
const CALL_TIMEOUT_MS: u64 = 250;

/// How long a failed call rests before it is repeated.
const CALL_REST: Duration = Duration::from_millis(20);

/// A replica's task ends after so long without anything to tell it.
const IDLE: Duration = Duration::from_secs(10);

/// What a replica is to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Forget {
    /// What it has under a position.
    Key(SliceKey),
    /// Everything, with the leases on it.
    Leases(Slice),
}

/// What waits to be told to each replica.
#[derive(Debug, Default)]
pub(super) struct Invalidations(Mutex<HashMap<Life, mpsc::Sender<Order>>>);

#[derive(Debug)]
struct Order {
    what: Forget,
    /// When the leases on it are over, so that it need not be told any more.
    until: Timestamp,
    done: oneshot::Sender<()>,
}

impl Invalidations {
    /// Has a replica forget something. Returns true when it has said that it did, and false when the leases that it has on it
    /// are over: one or the other, at `until` at the latest. False at once if the node ends.
    pub(super) async fn forget(
        state: &Arc<NodeState>,
        reader: &Peer,
        what: Forget,
        until: Timestamp,
    ) -> bool {
        let (done, told) = oneshot::channel();
        let order = Order { what, until, done };
        let is_queued = state.invalidations.enqueue(state, reader, order);
        let told = async { is_queued && told.await.is_ok() };
        tokio::pin!(told);
        let left = |until: Timestamp| Duration::from_millis(until.ms_since(state.clock.now()));
        let patience = left(until).min(Duration::from_millis(CALL_TIMEOUT_MS));
        match tokio::time::timeout(patience, &mut told).await {
            Ok(true) => return true,
            Ok(false) => state.with_core(|core, now| (core.withhold(&reader.life, now), Vec::new())),
            Err(_) => {
                // Would its leases be extended meanwhile, this would wait for as long as it does not answer.
                state.with_core(|core, now| (core.withhold(&reader.life, now), Vec::new()));
                if tokio::time::timeout(left(until), told).await == Ok(true) {
                    return true;
                }
            }
        }
        count(&state.metrics.invalidations_unanswered);
        // By the node's clock, which runs in suspend: a timer of the runtime may be early by that measure, or a queue full.
        loop {
            let left_ms = until.ms_since(state.clock.now());
            if left_ms == 0 || state.stop.is_cancelled() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(left_ms)).await;
        }
    }

    fn enqueue(&self, state: &Arc<NodeState>, reader: &Peer, order: Order) -> bool {
        let mut readers = self.0.lock();
        if state.stop.is_cancelled() {
            return false;
        }
        let orders = readers.entry(reader.life.clone()).or_insert_with(|| {
            let (orders, queue) = mpsc::channel(QUEUE_MAX);
            state.tasks.spawn(run(state.clone(), reader.clone(), queue));
            orders
        });
        orders.try_send(order).is_ok()
    }

    /// Forgets a replica's queue, unless something waits in it.
    fn end(&self, reader: &Life, queue: &mpsc::Receiver<Order>) -> bool {
        let mut readers = self.0.lock();
        let is_idle = queue.is_empty();
        if is_idle {
            readers.remove(reader);
        }
        is_idle
    }

    /// Ends all of it. Nothing is told after that, if the node's `stop` was cancelled before.
    pub(super) fn end_all(&self) {
        self.0.lock().clear();
    }
}

/// Tells one replica what there is to tell, until there is nothing for a while, or the node ends.
async fn run(state: Arc<NodeState>, reader: Peer, mut queue: mpsc::Receiver<Order>) {
    let stop = state.stop.clone();
    let telling = async {
        let mut batch = Vec::new();
        loop {
            match tokio::time::timeout(IDLE, queue.recv_many(&mut batch, QUEUE_MAX)).await {
                Ok(0) => return,
                Ok(_) => tell(&state, &reader, std::mem::take(&mut batch)).await,
                Err(_) if state.invalidations.end(&reader.life, &queue) => return,
                Err(_) => {}
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = stop.cancelled() => {}
    }
}

/// Tells a batch, again and again until it is answered or none of it need be told any more.
async fn tell(state: &Arc<NodeState>, reader: &Peer, mut orders: Vec<Order>) {
    loop {
        let now = state.clock.now();
        // Who waits for nothing any more has gone, or his lease is over.
        orders.retain(|order| !order.done.is_closed() && now < order.until);
        if orders.is_empty() {
            return;
        }
        let invalidate = message(state, reader, &orders);
        let told = state
            .channels
            .invalidate(&reader.address, &invalidate, CALL_TIMEOUT_MS)
            .await;
        match told {
            Ok(()) => {
                count(&state.metrics.invalidations_sent);
                for order in orders {
                    // Who waited may have gone.
                    let _ = order.done.send(());
                }
                return;
            }
            Err(error) => {
                tracing::debug!(reader = %reader.life, %error, "an invalidation was not answered");
                tokio::time::sleep(CALL_REST).await;
            }
        }
    }
}

fn message(state: &NodeState, reader: &Peer, orders: &[Order]) -> Invalidate {
    let mut keys: Vec<SliceKey> = Vec::new();
    let mut revoked: Vec<Slice> = Vec::new();
    for order in orders {
        match order.what {
            Forget::Key(at) => keys.push(at),
            Forget::Leases(slice) => revoked.push(slice),
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Invalidate {
        to: reader.life.clone(),
        owner: state.core().me().life.clone(),
        keys,
        revoked,
    }
}
