//! [`Invalidations`]: has replicas forget what is about to change here, and leases that are to end, and tells when they have.
//!
//! One call to a replica at a time; what is wanted meanwhile goes with the next, so that writes of a hot key cost a call for all
//! that wait and not one each. What a call did not bring about goes with the next as well, for as long as a lease of those that
//! wait is not over: after that the replica serves nothing of it, and nobody waits for its word.
//!
//! A replica that answers nothing for [`PATIENCE_MS`] is lent nothing (`HandoffCore::withhold`), and the first answer ends
//! that. The task that calls sees to it and not who waits: clients may have less patience (H7). An answer that is a refusal is
//! none. Not even "that life is not here": who has its address by now does not know that it has ended.
//!
//! A replica that wants nothing for a while costs nothing: its task ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use softstore_sharding::{Life, Peer, RangeMap, Slice, SliceKey, Timestamp};
use softstore_sync::Mutex;
use softstore_transfer::message::Invalidate;
use tokio::sync::{Notify, oneshot};

use super::channels::PeerError;
use super::metrics::count;
use super::state::NodeState;

/// Most things that wait to be told to one replica. Who finds no room waits for it.
const ORDERS_MAX: usize = 1 << 14;

/// A replica that has answered nothing for so long, in milliseconds, is lent nothing.
const PATIENCE_MS: u64 = 250;

/// How long one call may take, in milliseconds. An answer that is late is one: it spares its writes the rest of the lease.
const CALL_TIMEOUT_MS: u64 = 1_000;

/// How long a failed call rests before the next.
const CALL_REST: Duration = Duration::from_millis(20);

/// The same after a refusal, which another call will hardly change.
const REFUSED_REST: Duration = Duration::from_millis(250);

/// A replica's task ends after so long without anything to tell it.
const IDLE: Duration = Duration::from_secs(10);

/// What a replica is to forget.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Forget {
    /// What it has under a position.
    Key(SliceKey),
    /// Everything, with the leases on it.
    Leases(Slice),
}

/// What waits to be told to each replica.
#[derive(Debug, Default)]
pub(super) struct Invalidations(Mutex<HashMap<Life, Queue>>);

#[derive(Debug, Default)]
struct Queue {
    orders: Orders,
    /// There is something to tell.
    more: Arc<Notify>,
}

/// What is to be told, once each, however many wait for it.
type Orders = BTreeMap<Forget, Order>;

#[derive(Debug, Default)]
struct Order {
    /// When the leases on it are over, so that it need not be told any more.
    until: Timestamp,
    /// Those who wait.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Order {
    fn join(&mut self, until: Timestamp, waiting: impl IntoIterator<Item = oneshot::Sender<()>>) {
        self.until = self.until.max(until);
        self.waiting.extend(waiting);
    }
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
        // By the node's clock, which runs in suspend: a timer of the runtime may be early by that measure.
        loop {
            let left_ms = until.ms_since(state.clock.now());
            if left_ms == 0 || state.stop.is_cancelled() {
                count(&state.metrics.invalidations_unanswered);
                return false;
            }
            let left = Duration::from_millis(left_ms);
            match state.invalidations.order(state, reader, what, until) {
                Some(told) => {
                    if let Ok(Ok(())) = tokio::time::timeout(left, told).await {
                        return true;
                    }
                }
                None => tokio::time::sleep(left.min(CALL_REST)).await,
            }
        }
    }

    /// None if there is no room, or the node ends.
    fn order(
        &self,
        state: &Arc<NodeState>,
        reader: &Peer,
        what: Forget,
        until: Timestamp,
    ) -> Option<oneshot::Receiver<()>> {
        let mut readers = self.0.lock();
        if state.stop.is_cancelled() {
            return None;
        }
        let queue = readers.entry(reader.life.clone()).or_insert_with(|| {
            let queue = Queue::default();
            let teller = Teller {
                state: state.clone(),
                reader: reader.clone(),
                silent_since: None,
            };
            state.tasks.spawn(teller.run(queue.more.clone()));
            queue
        });
        if queue.orders.len() >= ORDERS_MAX && !queue.orders.contains_key(&what) {
            return None;
        }
        let (waiting, told) = oneshot::channel();
        queue.orders.entry(what).or_default().join(until, [waiting]);
        queue.more.notify_one();
        Some(told)
    }

    /// Takes what is to be told to a replica now.
    fn take(&self, reader: &Life) -> Orders {
        let mut readers = self.0.lock();
        let queue = readers.get_mut(reader);
        queue.map_or_else(Orders::new, |queue| std::mem::take(&mut queue.orders))
    }

    /// Puts back what was not told, to those who came meanwhile.
    fn put_back(&self, reader: &Life, orders: Orders) {
        let mut readers = self.0.lock();
        // It is gone if the node ends.
        let Some(queue) = readers.get_mut(reader) else {
            return;
        };
        for (what, order) in orders {
            let same = queue.orders.entry(what).or_default();
            same.join(order.until, order.waiting);
        }
    }

    /// Forgets a replica's queue, unless something waits in it.
    fn end(&self, reader: &Life) -> bool {
        let mut readers = self.0.lock();
        let is_idle = readers.get(reader).is_none_or(|queue| queue.orders.is_empty());
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

/// Tells one replica.
struct Teller {
    state: Arc<NodeState>,
    reader: Peer,
    /// Since when it was told something and has answered nothing.
    silent_since: Option<Timestamp>,
}

impl Teller {
    /// Tells what there is to tell, until there is nothing for a while, or the node ends.
    async fn run(mut self, more: Arc<Notify>) {
        let stop = self.state.stop.clone();
        let telling = async {
            loop {
                let orders = self.state.invalidations.take(&self.reader.life);
                if !orders.is_empty() {
                    self.tell(orders).await;
                } else if tokio::time::timeout(IDLE, more.notified()).await.is_err()
                    && self.state.invalidations.end(&self.reader.life)
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = telling => {}
            () = stop.cancelled() => {}
        }
    }

    /// One call.
    async fn tell(&mut self, orders: Orders) {
        let state = self.state.clone();
        let invalidate = message(&state, &self.reader, orders.keys());
        let silent_since = *self.silent_since.get_or_insert_with(|| state.clock.now());
        let silent_ms = || state.clock.now().ms_since(silent_since);
        let address = self.reader.address.clone();
        let call = state.channels.invalidate(&address, &invalidate, CALL_TIMEOUT_MS);
        tokio::pin!(call);
        let patience = Duration::from_millis(PATIENCE_MS.saturating_sub(silent_ms()));
        let told = match tokio::time::timeout(patience, &mut call).await {
            Ok(told) => told,
            Err(_) => {
                self.withhold();
                call.await
            }
        };
        match told {
            Ok(()) => self.answered(orders),
            Err(error) => {
                if silent_ms() >= PATIENCE_MS {
                    self.withhold();
                }
                let rest = self.rest_after(&error, &invalidate);
                self.put_back(orders);
                tokio::time::sleep(rest).await;
            }
        }
    }

    fn answered(&mut self, orders: Orders) {
        count(&self.state.metrics.invalidations_sent);
        self.silent_since = None;
        let reader = &self.reader.life;
        let is_withheld = self.state.core().owes_an_answer(reader);
        if is_withheld {
            self.state
                .with_core(|core, _| (core.answered_again(reader), Vec::new()));
        }
        for waiting in orders.into_values().flat_map(|order| order.waiting) {
            // Who waited may have gone.
            let _ = waiting.send(());
        }
    }

    /// Would its leases be extended, writes would wait for as long as it does not answer.
    fn withhold(&self) {
        self.state
            .with_core(|core, now| (core.withhold(&self.reader.life, now), Vec::new()));
    }

    /// Puts back what is to be told still: leases on it are not over, and somebody waits or it has yet to show that the replica
    /// does not answer.
    fn put_back(&self, mut orders: Orders) {
        let now = self.state.clock.now();
        let is_withheld = self.state.core().owes_an_answer(&self.reader.life);
        orders.retain(|_, order| {
            order.waiting.retain(|waiting| !waiting.is_closed());
            now < order.until && !(is_withheld && order.waiting.is_empty())
        });
        self.state.invalidations.put_back(&self.reader.life, orders);
    }

    fn rest_after(&self, error: &PeerError, invalidate: &Invalidate) -> Duration {
        let reader = &self.reader.life;
        if error.is_invalid() {
            let (keys, slices) = (invalidate.keys.len(), invalidate.revoked.len());
            count(&self.state.metrics.invalidations_refused);
            tracing::debug!(%reader, keys, slices, %error, "a replica calls an invalidation malformed");
        } else {
            tracing::debug!(%reader, %error, "an invalidation was not answered");
        }
        if error.is_refusal() {
            REFUSED_REST
        } else {
            CALL_REST
        }
    }
}

/// What a replica is told: slices that overlap, as one flush and the next do, are told as one.
fn message<'a>(state: &NodeState, reader: &Peer, orders: impl Iterator<Item = &'a Forget>) -> Invalidate {
    let mut keys: Vec<SliceKey> = Vec::new();
    let mut revoked: RangeMap<()> = RangeMap::new();
    for what in orders {
        match *what {
            Forget::Key(at) => keys.push(at),
            Forget::Leases(slice) => revoked.insert(slice, ()),
        }
    }
    revoked.coalesce(|(), ()| true);
    Invalidate {
        to: reader.life.clone(),
        owner: state.core().me().life.clone(),
        keys,
        revoked: revoked.iter().map(|(slice, ())| slice).collect(),
    }
}

#[cfg(test)]
mod tests;
