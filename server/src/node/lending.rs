//! What this node does as the owner of ranges that have replicas: it lends, tells what it has, and changes nothing before it is
//! forgotten elsewhere. The rules are in `transfer::handoff` (`lending`, `writes`).
//!
//! Two orders keep H2. A write marks its position, then notes who reads it, has them forget, and is admitted anew. A fill looks
//! for a mark, then reads.

use std::sync::Arc;
use std::time::Duration;

use softstore_sharding::{FrequencyClass, Generation, Peer, PullId, Slice, SliceKey, Timestamp};
use softstore_store::Outcome;
use softstore_transfer::handoff::{Admission, Clearance, READ_LEASE_OUT_MS_MAX};
use softstore_transfer::message::{
    Entry, FillAnswer, FillKey, FillRequest, LeaseReply, LeaseRequest, Refusal,
};

use super::invalidations::{Forget, Invalidations};
use super::metrics::{add, count};
use super::operation::context_of;
use super::peeks::{Asked, Peeks};
use super::state::NodeState;

/// Leave to change something that replicas may read. While it lives, what they fetch of that is not kept there.
#[derive(Debug)]
pub(super) struct Cleared<'a> {
    state: &'a NodeState,
    slice: Slice,
    clearance: Clearance,
}

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        self.state.writes.lock().end(self.slice);
    }
}

impl<'a> Cleared<'a> {
    /// Waits until every replica that may have a copy of a key in `slice` has forgotten it, or its lease is over; none if
    /// `expires` comes first, or the node ends. More may have to be waited for when the write is admitted: then this is called
    /// again.
    pub(super) async fn get(state: &'a Arc<NodeState>, slice: Slice, expires: Timestamp) -> Option<Self> {
        state.writes.lock().begin(slice);
        // From here on the mark ends with this.
        let mut cleared = Self {
            state,
            slice,
            clearance: Clearance::default(),
        };
        cleared.clearance = state.core().clearance();
        count(&state.metrics.writes_of_replicated);
        while !cleared.has_all() {
            if state.stop.is_cancelled() {
                return None;
            }
            let left_ms = expires.ms_since(state.clock.now());
            let patience = Duration::from_millis(left_ms);
            tokio::time::timeout(patience, cleared.ask_readers(state))
                .await
                .ok()?;
        }
        Some(cleared)
    }

    /// What the core is to be told when the write is tried.
    pub(super) fn clearance(&self) -> &Clearance {
        &self.clearance
    }

    fn has_all(&self) -> bool {
        let now = self.state.clock.now();
        self.state.core().may_write(self.slice, &self.clearance, now)
    }

    async fn ask_readers(&mut self, state: &Arc<NodeState>) {
        let what = if self.slice.width() == 1 {
            Forget::Key(self.slice.low())
        } else {
            Forget::Leases(self.slice)
        };
        let waited_for = state
            .core()
            .waits_for(self.slice, &self.clearance, state.clock.now());
        let asked = waited_for.into_iter().map(async |lease| {
            let has_forgotten = Invalidations::forget(state, &lease.reader, what, lease.until).await;
            has_forgotten.then_some(lease.reader.life)
        });
        for reader in futures::future::join_all(asked).await.into_iter().flatten() {
            self.clearance.answered(reader);
        }
    }
}

/// Grants a replica what it asks for, as far as this node may.
pub(super) fn answer_lease(state: &Arc<NodeState>, request: &LeaseRequest) -> Result<LeaseReply, Refusal> {
    state.with_core(|core, now| {
        // Read under the lock: a node that may not serve lends nothing, nor for longer than it may.
        let tenure_left_ms = match state.lease_ms() {
            (0, _) => None,
            (_, left_ms) => Some(left_ms),
        };
        let tenure_left_ms = if state.may_serve(now) {
            tenure_left_ms
        } else {
            Some(0)
        };
        (core.lend(request, tenure_left_ms, now), Vec::new())
    })
}

/// Tells a replica that its leases are over, and the core when that is done.
pub(super) fn recall(state: &Arc<NodeState>, reader: Peer, slices: Vec<Slice>, number: u64) {
    let recalling = state.clone();
    state.tasks.spawn(async move {
        let state = recalling;
        // After this it is of no use: the leases are over.
        let until = state.clock.now().plus_ms(READ_LEASE_OUT_MS_MAX);
        let asked = slices
            .iter()
            .map(|slice| Invalidations::forget(&state, &reader, Forget::Leases(*slice), until));
        let forgotten = futures::future::join_all(asked).await;
        if forgotten.into_iter().all(|is_forgotten| is_forgotten) {
            state.with_core(|core, _| (core.returned(&reader.life, &slices, number), Vec::new()));
        }
    });
}

/// What this node has under the keys that a replica asks for.
pub(super) async fn answer_fill(
    state: &Arc<NodeState>,
    request: &FillRequest,
) -> Result<Vec<FillAnswer>, Refusal> {
    if request.to != state.core().me().life {
        return Err(Refusal::WrongIncarnation);
    }
    let answers = request.keys.iter().map(|asked| fill_one(state, request, asked));
    let answers = futures::future::join_all(answers).await;
    let told = answers.iter().filter(|answer| **answer != FillAnswer::NotLent);
    add(&state.metrics.fills_served, told.count() as u64);
    Ok(answers)
}

async fn fill_one(state: &Arc<NodeState>, request: &FillRequest, asked: &FillKey) -> FillAnswer {
    let at = SliceKey::of_key(&asked.key);
    let pull = match read(state, request, asked, at, None) {
        Ok(answer) => return answer,
        Err(pull) => pull,
    };
    if Peeks::ask(state, pull, at, &asked.key).await == Asked::Unknown {
        return FillAnswer::NotLent;
    }
    read(state, request, asked, at, Some(pull)).unwrap_or(FillAnswer::NotLent)
}

/// Reads a key for a replica; the pull whose giver has to be asked first, if so.
fn read(
    state: &Arc<NodeState>,
    request: &FillRequest,
    asked: &FillKey,
    at: SliceKey,
    peeked: Option<PullId>,
) -> Result<FillAnswer, PullId> {
    let core = state.core();
    let now = state.clock.now();
    let serving = match core.admit(at, Generation::NONE) {
        Admission::Serve(serving)
            if state.may_serve(now) && core.is_lent(at, &request.reader, asked.number, now) =>
        {
            serving
        }
        _ => return Ok(FillAnswer::NotLent),
    };
    // Before the store is read: what a write replaces in between is then not kept (H2).
    let may_keep = !state.writes.lock().is_marked(at);
    let context = context_of(peeked, &serving, now);
    let found = match (state.store.get(&asked.key, at, &context), serving.pull) {
        (Outcome::Done(found), _) => found,
        (Outcome::Unknown, Some(pull)) => return Err(pull),
        (Outcome::Unknown, None) => return Ok(FillAnswer::NotLent),
    };
    // It may have stood still, and what it read belong to another by now (H1).
    if !state.is_current(state.clock.now()) {
        return Ok(FillAnswer::NotLent);
    }
    Ok(found.map_or(FillAnswer::Absent, |found| FillAnswer::Found {
        entry: Entry {
            key: asked.key.clone(),
            value: found.value,
            version: found.version,
            ttl_ms: (found.deadline != Timestamp::NEVER).then(|| found.deadline.ms_since(now)),
            class: FrequencyClass::COLDEST,
        },
        may_keep,
    }))
}
