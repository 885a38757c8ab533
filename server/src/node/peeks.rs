//! Peeks: asking the giver of an open pull for keys before they are called absent. Coalesced per pull.
//!
//! One task per pull sends what has gathered while the last batch was on its way; operations on the same key share one
//! question. A found entry is imported like any other, so an operation that was written to meanwhile keeps its own
//! state (H3); afterwards the waiters run again with absence final.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use softstore_sharding::{PullId, SliceKey, Timestamp};
use softstore_store::Import;
use softstore_transfer::message::{Entry, PeekAnswer, PeekKey, PeekRequest};
use tokio::sync::{Semaphore, mpsc, watch};

use super::metrics::{add, count};
use super::state::NodeState;

/// Most keys in one peek.
const PEEK_BATCH_KEYS_MAX: usize = 256;

/// Batches of one pull on their way at once.
const PEEK_BATCHES_MAX: usize = 8;

/// The open questions of all pulls.
#[derive(Debug, Default)]
pub struct Peeks(Mutex<HashMap<PullId, PullPeeks>>);

/// The open questions of one pull.
#[derive(Debug)]
struct PullPeeks {
    /// Closed (its sender dropped) when the question is settled.
    open: HashMap<SliceKey, watch::Receiver<()>>,
    queue: mpsc::UnboundedSender<Question>,
}

struct Question {
    key: Bytes,
    at: SliceKey,
    /// Dropping it lets the waiters go on.
    _settled: watch::Sender<()>,
}

impl Peeks {
    /// Asks the giver of a pull for a key; returns when the answer was imported, could not be had, or took longer than
    /// the configured timeout. Bounded by what is held back: each asker is an operation that waits.
    pub async fn ask(state: &Arc<NodeState>, pull: PullId, at: SliceKey, key: &Bytes) {
        count(&state.metrics.peeks_asked);
        let mut settled = state.peeks.enqueue(state, pull, at, key);
        let timeout = Duration::from_millis(state.config.peek_timeout_ms);
        // An error is the sender's drop: settled.
        if tokio::time::timeout(timeout, settled.changed()).await.is_err() {
            count(&state.metrics.peeks_unanswered);
        }
    }

    fn enqueue(
        &self,
        state: &Arc<NodeState>,
        pull: PullId,
        at: SliceKey,
        key: &Bytes,
    ) -> watch::Receiver<()> {
        let mut pulls = self.0.lock();
        let peeks = pulls.entry(pull).or_insert_with(|| {
            let (queue, questions) = mpsc::unbounded_channel();
            state.tasks.spawn(run(state.clone(), pull, questions));
            PullPeeks {
                open: HashMap::new(),
                queue,
            }
        });
        if let Some(open) = peeks.open.get(&at).filter(|open| open.has_changed().is_ok()) {
            return open.clone();
        }
        let (settled, waiting) = watch::channel(());
        // The question must not pin the batch that the key came in.
        let question = Question {
            key: Bytes::copy_from_slice(key),
            at,
            _settled: settled,
        };
        if peeks.queue.send(question).is_ok() {
            peeks.open.insert(at, waiting.clone());
        }
        waiting
    }

    /// Ends the questions of a pull; whoever waits goes on.
    pub fn end(&self, pull: PullId) {
        self.0.lock().remove(&pull);
    }

    fn settle(&self, pull: PullId, questions: Vec<Question>) {
        let mut pulls = self.0.lock();
        if let Some(peeks) = pulls.get_mut(&pull) {
            for question in &questions {
                peeks.open.remove(&question.at);
            }
        }
        drop(pulls);
        drop(questions);
    }
}

/// Sends the questions of one pull until the pull ends.
async fn run(state: Arc<NodeState>, pull: PullId, mut questions: mpsc::UnboundedReceiver<Question>) {
    let batches = Arc::new(Semaphore::new(PEEK_BATCHES_MAX));
    loop {
        let Ok(permit) = batches.clone().acquire_owned().await else {
            return;
        };
        let mut batch = Vec::new();
        if questions.recv_many(&mut batch, PEEK_BATCH_KEYS_MAX).await == 0 {
            return;
        }
        let state = state.clone();
        state.clone().tasks.spawn(async move {
            ask_batch(&state, pull, &batch).await;
            state.peeks.settle(pull, batch);
            drop(permit);
        });
    }
}

/// Asks for one batch and imports what is found.
async fn ask_batch(state: &Arc<NodeState>, pull: PullId, batch: &[Question]) {
    let (giver, request) = {
        let core = state.core();
        let targets: Option<Vec<_>> = batch
            .iter()
            .map(|question| core.peek_target(pull, question.at))
            .collect();
        let Some(targets) = targets else { return };
        let Some((giver, _)) = targets.first().cloned() else {
            return;
        };
        let keys = batch.iter().zip(&targets).map(|(question, (_, since))| PeekKey {
            key: question.key.clone(),
            since: *since,
        });
        let request = PeekRequest {
            to: giver.life.clone(),
            taker: core.me().life.clone(),
            keys: keys.collect(),
        };
        (giver, request)
    };
    let answers = match state
        .channels
        .peek(&giver.address, &request, state.config.peek_timeout_ms)
        .await
    {
        Ok(answers) => answers,
        Err(error) => {
            tracing::debug!(giver = %giver.life, %error, "a peek failed");
            return;
        }
    };
    let mut gone = false;
    for (question, answer) in batch.iter().zip(answers) {
        match answer {
            PeekAnswer::Found(entry) if entry.key == question.key => {
                count(&state.metrics.peeks_found);
                import(state, pull, question.at, &entry);
            }
            PeekAnswer::Found(_) => count(&state.metrics.peer_messages_refused),
            PeekAnswer::Absent => {}
            PeekAnswer::Gone => gone = true,
        }
    }
    if gone {
        state.with_core(|core, _| ((), core.pull_gone(pull)));
    }
}

/// Imports a peeked entry, unless its range has left the pull meanwhile.
fn import(state: &NodeState, pull: PullId, at: SliceKey, entry: &Entry) {
    let core = state.core();
    let Some(target) = core.import_target(pull, at) else {
        return;
    };
    let import = Import {
        key: &entry.key,
        at,
        value: &entry.value,
        version: entry.version,
        deadline: entry
            .ttl_ms
            .map_or(Timestamp::NEVER, |ttl_ms| target.first_sent.plus_ms(ttl_ms)),
        class: entry.class,
    };
    let outcome = state
        .store
        .import_peeked(pull, target.epoch, state.clock.now(), &import);
    tracing::trace!(?outcome, "imported a peeked entry");
}

/// A place among the requests held back: bounded in count and bytes.
#[derive(Debug)]
pub(super) struct HeldBack<'a> {
    state: &'a NodeState,
    bytes: u64,
}

impl<'a> HeldBack<'a> {
    /// Takes a place, if there is one.
    pub(super) fn enter(state: &'a NodeState, bytes: usize) -> Option<Self> {
        let bytes = bytes as u64;
        let requests = state.held_requests.fetch_add(1, Ordering::Relaxed);
        let held = state.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = Self { state, bytes };
        if requests >= state.config.hold_requests_max as u64
            || held + bytes > state.config.hold_bytes_max as u64
        {
            count(&state.metrics.hold_overflows);
            return None;
        }
        add(&state.metrics.operations_held_back, 1);
        Some(place)
    }
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        self.state.held_requests.fetch_sub(1, Ordering::Relaxed);
        self.state.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
