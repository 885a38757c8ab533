//! Peeks: asking the giver of an open pull for keys before they are called absent. Coalesced per pull.
//!
//! One task per pull sends what has gathered while the batches before are on their way; operations on the same key share
//! one question. A found entry is imported like any other, so an operation that was written to meanwhile keeps its own
//! state (H3); afterwards the waiters run again with absence final.
//!
//! Questions are asked only for a pull that is open, of a node that runs: their task ends with either, and is not begun
//! after it, since it keeps the node's state alive (H7).
//!
//! An operation gives up after `peek_timeout_ms`. The call itself goes on for [`PEEK_CALL_TIMEOUT_MS`], and what it brings
//! is still imported: dropping calls so soon would reset their streams, and a giver whose connection sees many resets
//! closes it, with the pull on it. What bounds the rest when a giver is slow: calls per pull, questions per pull, and
//! questions that nobody waits for any more are not sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use softstore_sharding::{Incarnation, Peer, PullId, SliceKey, Timestamp};
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

/// How much longer a question is waited for at most where pauses explain that it takes longer, in milliseconds: two periods of
/// a container's quota, and a little.
const PAUSE_MS_MAX: u64 = 250;

/// What a question led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// The giver gave its word, and what it had was imported; or the pull is not open any more, so that nobody is to be
    /// asked. What is absent now is absent.
    Known,
    /// There was no answer, or it did not come in time: the giver may have the key.
    Unknown,
}

/// The open questions of all pulls.
#[derive(Debug, Default)]
pub struct Peeks(Mutex<HashMap<PullId, PullPeeks>>);

/// The open questions of one pull.
#[derive(Debug)]
struct PullPeeks {
    /// Whether the giver gave its word. Closed (its sender dropped) when the question is settled.
    open: HashMap<SliceKey, watch::Receiver<bool>>,
    queue: mpsc::Sender<Question>,
}

#[derive(Debug)]
struct Question {
    key: Bytes,
    at: SliceKey,
    /// Dropping it lets the waiters go on.
    settled: watch::Sender<bool>,
}

/// Why a question is not asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refused {
    /// Too many wait to be sent already.
    Full,
    /// The pull is not open, or the node has ended.
    NotOpen,
}

impl Question {
    /// Whether anybody still waits for the answer. (One receiver is the map's own.)
    fn is_awaited(&self) -> bool {
        self.settled.receiver_count() > 1
    }
}

impl Peeks {
    /// Asks the giver of a pull for a key; returns when the answer was imported, could not be had, or took longer than
    /// the configured timeout and what pauses of either process explain. Bounded by what is held back: each asker is an operation that waits.
    pub async fn ask(state: &Arc<NodeState>, pull: PullId, at: SliceKey, key: &[u8]) -> Asked {
        count(&state.metrics.peeks_asked);
        match state.peeks.enqueue(state, pull, at, key) {
            Ok((mut settled, giver)) => {
                let begun = Instant::now();
                let usual = Duration::from_millis(state.config.peek_timeout_ms);
                let pause_ms = state.pauses.allowance_ms(giver).min(PAUSE_MS_MAX);
                let timeout = usual + Duration::from_millis(pause_ms);
                // An error is the sender's drop: settled, without the giver's word.
                match tokio::time::timeout(timeout, settled.wait_for(|is_known| *is_known)).await {
                    Ok(Ok(_)) => {
                        if begun.elapsed() > usual {
                            count(&state.metrics.peeks_answered_late);
                        }
                        return Asked::Known;
                    }
                    Ok(Err(_)) => {}
                    Err(_) => count(&state.metrics.peeks_unanswered),
                }
            }
            Err(Refused::Full) => count(&state.metrics.peeks_shed),
            Err(Refused::NotOpen) => {}
        }
        if state.core().peek_target(pull, at).is_some() {
            Asked::Unknown
        } else {
            Asked::Known
        }
    }

    fn enqueue(
        &self,
        state: &Arc<NodeState>,
        pull: PullId,
        at: SliceKey,
        key: &[u8],
    ) -> Result<(watch::Receiver<bool>, Incarnation), Refused> {
        let mut pulls = self.0.lock();
        // Under the lock: whoever ends the pull, or the node, removes its questions after that, and so these too.
        let target = state.core().peek_target(pull, at);
        let Some((giver, _)) = target.filter(|_| !state.stop.is_cancelled()) else {
            return Err(Refused::NotOpen);
        };
        let giver = giver.life.incarnation;
        let peeks = pulls.entry(pull).or_insert_with(|| {
            let (queue, questions) = mpsc::channel(PEEK_QUESTIONS_MAX);
            state.tasks.spawn(run(state.clone(), pull, questions));
            PullPeeks {
                open: HashMap::new(),
                queue,
            }
        });
        if let Some(open) = peeks.open.get(&at).filter(|open| open.has_changed().is_ok()) {
            return Ok((open.clone(), giver));
        }
        let place = peeks.queue.try_reserve().map_err(|_| Refused::Full)?;
        let (settled, waiting) = watch::channel(false);
        peeks.open.insert(at, waiting.clone());
        place.send(Question {
            // The question must not pin the batch that the key came in.
            key: Bytes::copy_from_slice(key),
            at,
            settled,
        });
        Ok((waiting, giver))
    }

    /// Ends the questions of a pull; whoever waits goes on.
    pub fn end(&self, pull: PullId) {
        self.0.lock().remove(&pull);
    }

    /// Ends the questions of all pulls. None are asked after that, if the node's `stop` was cancelled before.
    pub fn end_all(&self) {
        self.0.lock().clear();
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

/// Sends the questions of one pull until the pull or the node ends.
async fn run(state: Arc<NodeState>, pull: PullId, questions: mpsc::Receiver<Question>) {
    let stop = state.stop.clone();
    tokio::select! {
        () = send(state, pull, questions) => {}
        () = stop.cancelled() => {}
    }
}

async fn send(state: Arc<NodeState>, pull: PullId, mut questions: mpsc::Receiver<Question>) {
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
            tokio::select! {
                () = ask_batch(&state, pull, batch) => {}
                () = state.stop.cancelled() => {}
            }
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
        // The pull has ended.
        return None;
    };
    let answers = match state
        .channels
        .peek(&giver.address, &request, PEEK_CALL_TIMEOUT_MS)
        .await
    {
        Ok((answers, longest_pause_ms)) => {
            state.pauses.told(giver.life.incarnation, longest_pause_ms);
            answers
        }
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
                question.settled.send_replace(true);
            }
            PeekAnswer::Found(_) => count(&state.metrics.peer_messages_refused),
            PeekAnswer::Absent => drop(question.settled.send_replace(true)),
            PeekAnswer::Unknown => {}
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
    use std::task::{Context, Waker};

    use softstore_transfer::handoff::PullEnd;

    use super::*;
    use crate::node::mid_pull::MidPull;

    /// Polls an asker once, as the task of an operation does, and cancels it.
    fn ask_and_leave(state: &Arc<NodeState>, pull: PullId) {
        let asking = Peeks::ask(state, pull, SliceKey::of_key(b"k"), b"k");
        let _ = std::pin::pin!(asking).poll(&mut Context::from_waker(Waker::noop()));
    }

    fn open_pulls(state: &NodeState) -> usize {
        state.peeks.0.lock().len()
    }

    /// Plan: a node in mid-pull, of which operations have asked its giver, ends; others that were queued ask only then. When
    /// everybody has let go of its state, that is freed, though the runtime lives on: no task keeps it.
    #[tokio::test]
    async fn h7_a_node_that_ends_in_mid_pull_is_freed() {
        let mid_pull = MidPull::start();
        let (state, pull) = (mid_pull.state.clone(), mid_pull.pull);
        let asked = tokio::spawn({
            let state = state.clone();
            async move { Peeks::ask(&state, pull, SliceKey::of_key(b"k"), b"k").await }
        });
        ask_and_leave(&state, pull);
        assert_eq!(open_pulls(&state), 1);
        state.stop_serving();
        state.end();
        ask_and_leave(&state, pull);
        assert_eq!(open_pulls(&state), 0);
        asked.await.unwrap();
        let left = Arc::downgrade(&state);
        drop((mid_pull, state));
        let freed = async {
            while left.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let freed = tokio::time::timeout(Duration::from_secs(5), freed).await;
        assert!(freed.is_ok(), "{} hold the node's state", left.strong_count());
    }

    /// Plan: a pull ends, and an operation that saw it open asks its giver only then, and goes. Nothing is left of that, and one
    /// that stays is told at once that nobody is to be asked.
    #[tokio::test]
    async fn h7_nothing_is_asked_for_a_pull_that_has_ended() {
        let mid_pull = MidPull::start();
        let (state, pull) = (&mid_pull.state, mid_pull.pull);
        ask_and_leave(state, pull);
        assert_eq!(open_pulls(state), 1);
        state.with_core(|core, _| ((), core.pull_ended(pull, PullEnd::Complete)));
        assert_eq!(open_pulls(state), 0);
        ask_and_leave(state, pull);
        assert_eq!(open_pulls(state), 0);
        let asked = Peeks::ask(state, pull, SliceKey::of_key(b"k"), b"k").await;
        assert_eq!(asked, Asked::Known);
    }

    fn question(key_bytes: usize) -> (Question, watch::Receiver<bool>) {
        let (settled, waiting) = watch::channel(false);
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
