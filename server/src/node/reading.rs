//! What this node does as a replica: it asks owners for read leases, serves reads from copies, fetches those that it has not got,
//! and forgets what an owner tells it to. The rules are in `transfer::handoff` (`reading`, `fills`); here are the calls and the
//! lock that [`Fills`] wants held while a copy is kept or forgotten (H2).
//!
//! Copies are entries of this node's store, under the epoch of the reading that they were fetched for: they count in its
//! budget, are evicted as others are, and are gone when the reading is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use softstore_sharding::{Epoch, SliceKey, Timestamp, Version, VersionCounter};
use softstore_store::{Absence, OpContext, SetCondition};
use softstore_sync::Mutex;
use softstore_transfer::handoff::{Fills, Join, ReadingHere};
use softstore_transfer::message::{FillAnswer, FillKey, FillRequest, Invalidate, LeaseRequest, Refusal};
use tokio::sync::watch;

use super::channels::PeerError;
use super::metrics::{add, count};
use super::state::NodeState;

/// Most questions to owners under way. A read that finds no room is for the owner to answer.
const FILLS_MAX: usize = 1_024;

/// How long a read waits for a fill, in milliseconds. Then it is for the owner to answer.
const FILL_TIMEOUT_MS: u64 = 250;

/// How long the call may take, in milliseconds. What it brings late is still kept: to drop calls so soon, key after key, would
/// reset so many streams that the owner closes the connection.
const FILL_CALL_TIMEOUT_MS: u64 = 1_000;

/// How often a reader asks anew who came too late for an answer.
const ASKED_ANEW_MAX: usize = 3;

/// What an owner has under a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Filled {
    /// This.
    Found {
        value: Bytes,
        version: Version,
        deadline: Timestamp,
        /// It may be kept, and given to all who wait for it.
        may_keep: bool,
    },
    /// Nothing.
    Absent,
    /// It did not say: the read is for the owner to answer.
    Unread,
}

/// The questions to owners, and who waits for their answers.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<Questions>);

#[derive(Debug, Default)]
struct Questions {
    fills: Fills,
    /// By token.
    open: HashMap<u64, Open>,
}

/// A question whose answer is to come.
#[derive(Debug)]
struct Open {
    /// None until there is an answer; closed if there will be none.
    answer: watch::Receiver<Option<Filled>>,
    /// It has left: who comes now has not asked it.
    is_sent: bool,
}

/// A question to an owner.
struct Question {
    key: Bytes,
    at: SliceKey,
    reading: ReadingHere,
    token: u64,
    answer: watch::Sender<Option<Filled>>,
}

impl Copies {
    /// What the owner has under a key of which there is no copy. Whoever asks was admitted under `reading`.
    pub(super) async fn fill(
        state: &Arc<NodeState>,
        key: &Bytes,
        at: SliceKey,
        reading: &ReadingHere,
    ) -> Filled {
        for _ in 0..ASKED_ANEW_MAX {
            let Some((mut answer, is_asker)) = state.copies.join(state, key, at, reading) else {
                return Filled::Unread;
            };
            let filled = match answer.wait_for(Option::is_some).await {
                Ok(filled) => filled.clone().unwrap_or(Filled::Unread),
                Err(_) => return Filled::Unread,
            };
            let may_have = match filled {
                Filled::Found {
                    may_keep, deadline, ..
                } => Fills::is_for_joiners(may_keep, deadline, state.clock.now()),
                Filled::Absent | Filled::Unread => false,
            };
            if is_asker || may_have || filled == Filled::Unread {
                return filled;
            }
        }
        Filled::Unread
    }

    /// The answer to a question for the key, and whether that leaves only now, so that it is this reader's as much as anybody's;
    /// none if too many are under way.
    fn join(
        &self,
        state: &Arc<NodeState>,
        key: &Bytes,
        at: SliceKey,
        reading: &ReadingHere,
    ) -> Option<(watch::Receiver<Option<Filled>>, bool)> {
        let mut questions = self.0.lock();
        if state.stop.is_cancelled() {
            return None;
        }
        // Of those under way, also what an invalidation has taken away, which nobody joins any more.
        let may_ask = questions.open.len() < FILLS_MAX;
        let Some(join) = questions.fills.join(at, key, reading.epoch, may_ask) else {
            count(&state.metrics.fills_shed);
            return None;
        };
        match join {
            Join::Wait(token) => {
                let open = questions.open.get(&token)?;
                Some((open.answer.clone(), !open.is_sent))
            }
            Join::Ask(token) => {
                let (answer, answers) = watch::channel(None);
                let open = Open {
                    answer: answers.clone(),
                    is_sent: false,
                };
                questions.open.insert(token, open);
                let question = Question {
                    key: key.clone(),
                    at,
                    reading: reading.clone(),
                    token,
                    answer,
                };
                state.tasks.spawn(ask(state.clone(), question));
                Some((answers, true))
            }
        }
    }

    /// A question leaves.
    fn leaves(&self, token: u64) {
        if let Some(open) = self.0.lock().open.get_mut(&token) {
            open.is_sent = true;
        }
    }

    /// Takes note of an answer, and keeps it if it may be kept.
    fn answered(&self, state: &NodeState, question: &Question, filled: &Filled) {
        let may_be_kept = matches!(filled, Filled::Found { may_keep: true, .. });
        let mut questions = self.0.lock();
        questions.open.remove(&question.token);
        let is_kept = questions.fills.answered(question.at, question.token, may_be_kept);
        if is_kept {
            keep(state, question, filled);
        }
    }
}

/// Asks the owner, and hands on what it answers.
async fn ask(state: Arc<NodeState>, question: Question) {
    let stop = state.stop.clone();
    let asking = async {
        let mut answered = std::pin::pin!(ask_owner(&state, &question));
        let patience = Duration::from_millis(FILL_TIMEOUT_MS);
        if let Ok(filled) = tokio::time::timeout(patience, &mut answered).await {
            return filled;
        }
        // For all who wait, and who come while the call goes on.
        question.answer.send_replace(Some(Filled::Unread));
        answered.await
    };
    let filled = tokio::select! {
        filled = asking => filled,
        () = stop.cancelled() => Filled::Unread,
    };
    state.copies.answered(&state, &question, &filled);
    question.answer.send_replace(Some(filled));
}

async fn ask_owner(state: &Arc<NodeState>, question: &Question) -> Filled {
    let owner = &question.reading.owner;
    let request = FillRequest {
        to: owner.life.clone(),
        reader: state.core().me().life.clone(),
        keys: vec![FillKey {
            key: question.key.clone(),
            number: question.reading.number,
        }],
    };
    count(&state.metrics.fills_asked);
    // Those who have waited for the answer before in vain, because the key was being written, are just being woken: they all
    // ask with this one, so that each round trip serves everybody who waits.
    tokio::task::yield_now().await;
    state.copies.leaves(question.token);
    let sent = state.clock.now();
    let answers = state
        .channels
        .fill(&owner.address, &request, FILL_CALL_TIMEOUT_MS)
        .await;
    match answers.map(|answers| answers.into_iter().next()) {
        Ok(Some(FillAnswer::Found { entry, may_keep })) if entry.key == question.key => Filled::Found {
            value: entry.value,
            version: entry.version,
            deadline: entry
                .ttl_ms
                .map_or(Timestamp::NEVER, |ttl_ms| sent.plus_ms(ttl_ms)),
            may_keep,
        },
        Ok(Some(FillAnswer::Absent)) => Filled::Absent,
        Ok(Some(FillAnswer::NotLent) | None) => Filled::Unread,
        Ok(Some(FillAnswer::Found { .. })) => {
            count(&state.metrics.peer_messages_refused);
            Filled::Unread
        }
        Err(error) => {
            if matches!(error, PeerError::Wire(_)) {
                count(&state.metrics.peer_messages_refused);
            }
            tracing::debug!(owner = %owner.life, %error, "a fill failed");
            Filled::Unread
        }
    }
}

/// Puts an answer among the copies, if the reading that it was asked for is still valid.
fn keep(state: &NodeState, question: &Question, filled: &Filled) {
    let Filled::Found {
        value,
        version,
        deadline,
        ..
    } = filled
    else {
        return;
    };
    let (core, now) = (state.core(), state.clock.now());
    let epoch = question.reading.epoch;
    if !core.reading_stands(question.at, epoch, now) {
        return;
    }
    // A copy has its owner's version.
    let versions = VersionCounter::starting_at(*version);
    let context = context_of(epoch, &versions, now);
    let always = SetCondition::Always;
    let kept = state
        .store
        .set(&question.key, question.at, value, *deadline, always, &context);
    if kept.is_ok() {
        count(&state.metrics.copies_kept);
    }
}

/// How copies of a reading are read and written.
pub(super) fn context_of(epoch: Epoch, versions: &VersionCounter, now: Timestamp) -> OpContext<'_> {
    OpContext {
        now,
        epoch,
        versions,
        pull: None,
        absence: Absence::Final,
    }
}

/// Forgets what an owner says. When this returns, no copy of it is served or kept here any more.
pub(super) fn forget(state: &Arc<NodeState>, invalidate: &Invalidate) -> Result<(), Refusal> {
    if invalidate.revoked.is_empty() {
        state.core().check_invalidate(invalidate)?;
    } else {
        state.with_core(|core, now| match core.revoked(invalidate, now) {
            Ok(actions) => (Ok(()), actions),
            Err(refusal) => (Err(refusal), Vec::new()),
        })?;
    }
    add(&state.metrics.keys_invalidated, invalidate.keys.len() as u64);
    for &at in &invalidate.keys {
        let mut questions = state.copies.0.lock();
        questions.fills.invalidate(at);
        let core = state.core();
        let now = state.clock.now();
        let Some(epoch) = core.reading_epoch(at) else {
            continue;
        };
        if let Some(copy) = state.store.read_frozen(at, epoch, now) {
            let versions = VersionCounter::starting_at(copy.version);
            let context = context_of(epoch, &versions, now);
            state.store.delete(&copy.key, at, false, &context);
        }
    }
    Ok(())
}

/// Asks an owner for read leases.
pub(super) fn ask_lease(state: &Arc<NodeState>, request: LeaseRequest, address: Arc<str>, sequence: u64) {
    let asking = state.clone();
    state.tasks.spawn(async move {
        let state = asking;
        let sent = state.clock.now();
        let answered = state.channels.read_lease(&address, &request).await;
        match answered {
            Ok(reply) => {
                let taken =
                    state.with_core(
                        |core, now| match core.lease_answered(&reply, sequence, sent, now) {
                            Ok(actions) => (Ok(()), actions),
                            Err(refusal) => (Err(refusal), Vec::new()),
                        },
                    );
                if let Err(refusal) = taken {
                    count(&state.metrics.peer_messages_refused);
                    tracing::debug!(owner = %request.to, %refusal, "an answer about read leases is refused");
                }
            }
            // The next one is due soon.
            Err(error) => {
                if error.is_malformed() {
                    count(&state.metrics.peer_messages_refused);
                }
                tracing::debug!(owner = %request.to, %error, "no answer to a request for read leases");
            }
        }
    });
}

#[cfg(test)]
mod tests;
