//! Carries out one position's request, read-through, under the ledger's rules.
//!
//! A get that misses loads from the backend (counted; it costs `load_ms`) and fills. The latency recorded is that of the cache's
//! answer, from the request's intended sending; load and fill come after it. A set or delete waits for its key's turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::timeout_at;

use crate::ledger::{Ending, Freshness, Ledger, Sight, Turn};
use crate::record::{Outcome, Record, Records};
use crate::request::{KeyIndex, Request, RequestKind, Sequence};
use crate::served::ServedAgain;
use crate::slots::SlotGroups;
use crate::target::{ReadOutcome, Target, WriteOutcome};
use crate::value::{self, WriteNumber};

/// How many messages of errors are kept to be shown.
const MESSAGES_MAX: usize = 5;

/// Counts of a whole arm, warm-up and fills included.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) gets: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) stale_reads: AtomicU64,
    pub(crate) resurrected: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) writes_unavailable: AtomicU64,
    pub(crate) outcome_unknown: AtomicU64,
    messages: Mutex<Vec<String>>,
}

impl Counts {
    pub(crate) fn messages(&self) -> Vec<String> {
        self.messages.lock().clone()
    }

    fn error(&self, message: impl FnOnce() -> String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.keep(message);
    }

    fn keep(&self, message: impl FnOnce() -> String) {
        let mut messages = self.messages.lock();
        if messages.len() < MESSAGES_MAX {
            messages.push(message());
        }
    }
}

/// One arm's application: the sequence, a cache, a backend.
#[derive(Debug)]
pub(crate) struct Replay<T> {
    pub(crate) target: T,
    pub(crate) sequence: Arc<Sequence>,
    pub(crate) groups: Arc<SlotGroups>,
    pub(crate) ledger: Ledger,
    pub(crate) records: Records,
    pub(crate) counts: Counts,
    pub(crate) served: ServedAgain,
    pub(crate) load_ms: u64,
    /// Positions below are warm-up and not recorded.
    pub(crate) warm_up: u64,
}

impl<T: Target> Replay<T> {
    /// Carries out the request at `position` of the sequence.
    pub(crate) async fn run(&self, position: u64, intended: Instant) {
        let request = self.sequence.at(position);
        let key_bytes = self.sequence.key_bytes(request.key);
        match request.kind {
            RequestKind::Get => self.get(position, intended, request, key_bytes).await,
            RequestKind::Set | RequestKind::Delete => {
                let outcome = self.mutate(request, key_bytes).await;
                self.record(position, intended, outcome);
            }
        }
    }

    fn record(&self, position: u64, intended: Instant, outcome: Outcome) {
        let Some(measured) = position.checked_sub(self.warm_up) else {
            return;
        };
        let latency_us = u32::try_from(intended.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.records.set(measured, Record { outcome, latency_us });
    }

    async fn get(&self, position: u64, intended: Instant, request: Request, key_bytes: Bytes) {
        let sent = self.ask(request.key);
        let sight = self.ledger.sight(request.key);
        let outcome = match self.target.get(key_bytes.clone()).await {
            ReadOutcome::Hit(read) => self.judge(request.key, sight, &read),
            ReadOutcome::Miss => Outcome::Miss,
            ReadOutcome::Failed(message) => {
                self.counts.error(|| format!("get: {message}"));
                Outcome::GetError
            }
        };
        self.record(position, intended, outcome);
        self.note_answer(request.key, sent, outcome);
        self.counts.gets.fetch_add(1, Ordering::Relaxed);
        if outcome.is_hit() {
            self.counts.hits.fetch_add(1, Ordering::Relaxed);
        }
        if outcome.is_backend_load() {
            if self.load_ms > 0 {
                tokio::time::sleep(Duration::from_millis(self.load_ms)).await;
            }
            self.fill(request, key_bytes, sight).await;
        }
    }

    fn judge(&self, key: KeyIndex, sight: Sight, read: &[u8]) -> Outcome {
        let number = match value::decode(key, read) {
            Ok(number) => number,
            Err(error) => {
                self.counts.error(|| format!("get of key {}: {error}", key.0));
                return Outcome::GetError;
            }
        };
        let freshness = self.ledger.judge(key, sight, number);
        match freshness {
            Freshness::Fresh => Outcome::Hit,
            Freshness::Stale | Freshness::Resurrected => {
                self.counts.stale_reads.fetch_add(1, Ordering::Relaxed);
                if freshness == Freshness::Resurrected {
                    self.counts.resurrected.fetch_add(1, Ordering::Relaxed);
                }
                self.counts
                    .keep(|| format!("{freshness:?}: key {} read {}, {sight:?}", key.0, number.0));
                Outcome::StaleHit
            }
            Freshness::Impossible => {
                self.counts.error(|| {
                    format!(
                        "get of key {}: write {} was refused or never begun, yet it was read",
                        key.0, number.0
                    )
                });
                Outcome::GetError
            }
        }
    }

    /// Writes a key beside the sequence, in its turn, which must come before `until`; the value has the key's size and does not expire.
    /// `None`: its turn did not come.
    pub(crate) async fn write(&self, key: KeyIndex, until: Instant) -> Option<Outcome> {
        let turn = timeout_at(until.into(), self.ledger.turn(key));
        let mut turn = turn.await.ok()?;
        let request = Request {
            key,
            kind: RequestKind::Set,
            value_bytes: self.sequence.value_bytes(key),
            ttl_ms: 0,
        };
        let number = turn.begin_write();
        let key_bytes = self.sequence.key_bytes(key);
        Some(self.set(&mut turn, number, request, key_bytes).await)
    }

    async fn fill(&self, request: Request, key_bytes: Bytes, miss: Sight) {
        let mut turn = self.ledger.turn(request.key).await;
        let Some(number) = turn.begin_fill(miss) else {
            return;
        };
        self.set(&mut turn, number, request, key_bytes).await;
    }

    async fn mutate(&self, request: Request, key_bytes: Bytes) -> Outcome {
        let mut turn = self.ledger.turn(request.key).await;
        if request.kind == RequestKind::Set {
            let number = turn.begin_write();
            return self.set(&mut turn, number, request, key_bytes).await;
        }
        turn.begin_delete();
        let sent = self.ask(request.key);
        let answer = self.target.delete(key_bytes).await;
        self.end_mutation(&mut turn, request.key, sent, "delete", answer)
    }

    async fn set(
        &self,
        turn: &mut Turn<'_>,
        number: WriteNumber,
        request: Request,
        key_bytes: Bytes,
    ) -> Outcome {
        let value = value::encode(request.key, number, request.value_bytes);
        let sent = self.ask(request.key);
        let answer = self.target.set(key_bytes, value, request.ttl_ms).await;
        self.end_mutation(turn, request.key, sent, "set", answer)
    }

    fn end_mutation(
        &self,
        turn: &mut Turn<'_>,
        key: KeyIndex,
        sent: Instant,
        what: &str,
        answer: WriteOutcome,
    ) -> Outcome {
        let (outcome, ending) = match answer {
            WriteOutcome::Applied => (Outcome::Applied, Ending::Acknowledged),
            WriteOutcome::Refused(_) => {
                self.counts.writes_unavailable.fetch_add(1, Ordering::Relaxed);
                (Outcome::Refused, Ending::Refused)
            }
            WriteOutcome::OutcomeUnknown => {
                self.counts.outcome_unknown.fetch_add(1, Ordering::Relaxed);
                (Outcome::Unknown, Ending::Unknown)
            }
            WriteOutcome::Failed(message) => {
                self.counts.error(|| format!("{what}: {message}"));
                (Outcome::WriteError, Ending::Unknown)
            }
        };
        turn.end(ending);
        self.note_answer(key, sent, outcome);
        outcome
    }

    /// A request for that key goes out now.
    fn ask(&self, key: KeyIndex) -> Instant {
        let sent = Instant::now();
        self.served.ask(self.groups.group(key), sent);
        sent
    }

    fn note_answer(&self, key: KeyIndex, sent: Instant, outcome: Outcome) {
        if outcome.proves_an_owner() {
            self.served.owner_answered(self.groups.group(key), sent);
        }
    }
}
