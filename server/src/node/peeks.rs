//! Peeks: asking the giver of an open pull for keys before they are called absent. Coalesced per pull.
//!
//! One task per pull sends what has gathered while the batches before are on their way; operations on the same key share
//! one question. A found entry is imported like any other, so an operation that was written to meanwhile keeps its own
//! state (H3); afterwards the waiters run again with absence final.
//!
//! An operation gives up after `peek_timeout_ms`. The call itself goes on for [`PEEK_CALL_TIMEOUT_MS`], and what it brings
//! is still imported: dropping calls so soon would reset their streams, and a giver whose connection sees many resets
//! closes it, with the pull on it. What bounds the rest when a giver is slow: calls per pull, questions per pull, and
//! questions that nobody waits for any more are not sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use softstore_sharding::{Peer, PullId, SliceKey, Timestamp};
use softstore_store::Import;
use softstore_transfer::message::{Entry, PeekAnswer, PeekKey, PeekRequest};
use tokio::sync::{Semaphore, mpsc, watch};

use super::channels::PeerError;
use super::metrics::count;
use super::state::NodeState;

/// Most keys in one peek.
const PEEK_BATCH_KEYS_MAX: usize = 256;

/// Bytes of keys after which a peek is closed.
const PEEK_BATCH_BYTES_MAX: usize = 1 << 20;

/// Batches of one pull on their way at once.
const PEEK_BATCHES_MAX: usize = 8;

/// Most questions of one pull that wait to be sent. Further keys count as absent at once.
const PEEK_QUESTIONS_MAX: usize = 4_096;

/// How long a call may take, however soon those give up who wait for it, in milliseconds.
const PEEK_CALL_TIMEOUT_MS: u64 = 1_000;

/// The open questions of all pulls.
#[derive(Debug, Default)]
pub struct Peeks(Mutex<HashMap<PullId, PullPeeks>>);

/// The open questions of one pull.
#[derive(Debug)]
struct PullPeeks {
    /// Closed (its sender dropped) when the question is settled.
    open: HashMap<SliceKey, watch::Receiver<()>>,
    queue: mpsc::Sender<Question>,
}

#[derive(Debug)]
struct Question {
    key: Bytes,
    at: SliceKey,
    /// Dropping it lets the waiters go on.
    settled: watch::Sender<()>,
}

impl Question {
    /// Whether anybody still waits for the answer. (One receiver is the map's own.)
    fn is_awaited(&self) -> bool {
        self.settled.receiver_count() > 1
    }
}

impl Peeks {
    /// Asks the giver of a pull for a key; returns when the answer was imported, could not be had, or took longer than
    /// the configured timeout. Bounded by what is held back: each asker is an operation that waits.
    pub async fn ask(state: &Arc<NodeState>, pull: PullId, at: SliceKey, key: &[u8]) {
        count(&state.metrics.peeks_asked);
        let Some(mut settled) = state.peeks.enqueue(state, pull, at, key) else {
            count(&state.metrics.peeks_shed);
            return;
        };
        let timeout = Duration::from_millis(state.config.peek_timeout_ms);
        // An error is the sender's drop: settled.
        if tokio::time::timeout(timeout, settled.changed()).await.is_err() {
            count(&state.metrics.peeks_unanswered);
        }
    }

    /// `None`: too many questions wait already.
    fn enqueue(
        &self,
        state: &Arc<NodeState>,
        pull: PullId,
        at: SliceKey,
        key: &[u8],
    ) -> Option<watch::Receiver<()>> {
        let mut pulls = self.0.lock();
        // For a pull that has ended meanwhile this starts a task again: it sees that at its first question, and ends.
        let peeks = pulls.entry(pull).or_insert_with(|| {
            let (queue, questions) = mpsc::channel(PEEK_QUESTIONS_MAX);
            state.tasks.spawn(run(state.clone(), pull, questions));
            PullPeeks {
                open: HashMap::new(),
                queue,
            }
        });
        if let Some(open) = peeks.open.get(&at).filter(|open| open.has_changed().is_ok()) {
            return Some(open.clone());
        }
        let place = peeks.queue.try_reserve().ok()?;
        let (settled, waiting) = watch::channel(());
        peeks.open.insert(at, waiting.clone());
        place.send(Question {
            // The question must not pin the batch that the key came in.
            key: Bytes::copy_from_slice(key),
            at,
            settled,
        });
        Some(waiting)
    }

    /// Ends the questions of a pull; whoever waits goes on.
    pub fn end(&self, pull: PullId) {
        self.0.lock().remove(&pull);
    }

    /// The questions that somebody waits for; the others are dropped. Nobody joins one meanwhile.
    fn still_awaited(&self, pull: PullId, questions: Vec<Question>) -> Vec<Question> {
        let mut pulls = self.0.lock();
        let (awaited, given_up): (Vec<_>, Vec<_>) = questions.into_iter().partition(Question::is_awaited);
        if let Some(peeks) = pulls.get_mut(&pull) {
            for question in given_up {
                peeks.open.remove(&question.at);
            }
        }
        awaited
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
async fn run(state: Arc<NodeState>, pull: PullId, mut questions: mpsc::Receiver<Question>) {
    let batches = Arc::new(Semaphore::new(PEEK_BATCHES_MAX));
    loop {
        let Ok(permit) = batches.clone().acquire_owned().await else {
            return;
        };
        let mut batch = Vec::new();
        if questions.recv_many(&mut batch, PEEK_BATCH_KEYS_MAX).await == 0 {
            return;
        }
        // The pull itself brings what nobody waits for any more.
        let batch = state.peeks.still_awaited(pull, batch);
        let state = state.clone();
        state.clone().tasks.spawn(async move {
            ask_batch(&state, pull, batch).await;
            drop(permit);
        });
    }
}

/// Asks for a batch, in as many calls as it takes, and settles its questions.
async fn ask_batch(state: &Arc<NodeState>, pull: PullId, mut questions: Vec<Question>) {
    while !questions.is_empty() {
        let fitting = fitting(&questions);
        let Some(answered) = ask_some(state, pull, &questions[..fitting]).await else {
            break;
        };
        state
            .peeks
            .settle(pull, questions.drain(..answered.min(fitting)).collect());
    }
    state.peeks.settle(pull, questions);
}

/// How many of the questions fit one call: at least one.
fn fitting(questions: &[Question]) -> usize {
    let mut bytes = 0;
    let fits = |question: &&Question| {
        bytes += question.key.len();
        bytes <= PEEK_BATCH_BYTES_MAX
    };
    questions.iter().take_while(fits).count().max(1)
}

/// Asks in one call and imports what is found. How many of the questions were answered, from the first on; `None`: no
/// answer is to be had.
async fn ask_some(state: &Arc<NodeState>, pull: PullId, questions: &[Question]) -> Option<usize> {
    let Some((giver, request)) = request(state, pull, questions) else {
        // The pull has ended. If this task was started after that, nobody else ends it.
        state.peeks.end(pull);
        return None;
    };
    let answers = match state
        .channels
        .peek(&giver.address, &request, PEEK_CALL_TIMEOUT_MS)
        .await
    {
        Ok(answers) => answers,
        Err(error) => {
            if matches!(error, PeerError::Wire(_)) {
                count(&state.metrics.peer_messages_refused);
            }
            tracing::debug!(giver = %giver.life, %error, "a peek failed");
            return None;
        }
    };
    let answered = answers.len();
    for (question, answer) in questions.iter().zip(answers) {
        match answer {
            PeekAnswer::Found(entry) if entry.key == question.key => {
                count(&state.metrics.peeks_found);
                import(state, pull, question.at, &entry);
            }
            PeekAnswer::Found(_) => count(&state.metrics.peer_messages_refused),
            PeekAnswer::Absent => {}
            PeekAnswer::Gone => gone(state, pull, question.at),
        }
    }
    Some(answered)
}

/// The call for some questions; `None` if the pull has ended.
fn request(state: &NodeState, pull: PullId, questions: &[Question]) -> Option<(Peer, PeekRequest)> {
    let core = state.core();
    let (giver, _) = core.peek_target(pull, questions.first()?.at)?;
    let keys = questions.iter().map(|question| {
        let (_, since) = core.peek_target(pull, question.at)?;
        Some(PeekKey {
            key: question.key.clone(),
            since,
        })
    });
    let request = PeekRequest {
        to: giver.life.clone(),
        taker: core.me().life.clone(),
        keys: keys.collect::<Option<_>>()?,
    };
    Some((giver, request))
}

/// The giver has no copy of a key's range any more: the range takes no more from the pull.
fn gone(state: &Arc<NodeState>, pull: PullId, at: SliceKey) {
    state.with_core(|core, _| ((), core.pull_gone(pull, at)));
}

/// Imports a peeked entry, unless its range has left the pull meanwhile.
pub(super) fn import(state: &NodeState, pull: PullId, at: SliceKey, entry: &Entry) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn question(key_bytes: usize) -> (Question, watch::Receiver<()>) {
        let (settled, waiting) = watch::channel(());
        let key = Bytes::from(vec![b'k'; key_bytes]);
        let at = SliceKey::of_key(&key);
        (Question { key, at, settled }, waiting)
    }

    #[test]
    fn a_call_holds_so_many_bytes_of_keys_but_one_key_at_least() {
        let (short, _waiting) = question(10);
        assert_eq!(fitting(&[short]), 1);
        let half = PEEK_BATCH_BYTES_MAX / 2;
        let questions: Vec<Question> = [half, half, 1].map(|bytes| question(bytes).0).into();
        assert_eq!(fitting(&questions), 2);
        assert_eq!(fitting(&[question(PEEK_BATCH_BYTES_MAX + 1).0]), 1);
    }

    #[test]
    fn a_question_is_awaited_while_an_operation_waits_beside_the_map() {
        let (question, in_map) = question(3);
        assert!(!question.is_awaited());
        let waiting = in_map.clone();
        assert!(question.is_awaited());
        drop((in_map, waiting));
        assert!(!question.is_awaited());
    }
}
