//! Peeks: before a key is called absent in a range that is being pulled, its giver is asked. Operations on one key share
//! a question, questions to one giver share a message. And the giver's side, which asks its own giver in a chain.

use bytes::Bytes;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::{Generation, Life, PullId, SliceKey, Timestamp};
use softstore_store::{Frozen, Import, ImportOutcome, Store};
use softstore_transfer::Admission;
use softstore_transfer::handoff::{CopyGrant, ImportTarget};
use softstore_transfer::message::{Entry, PeekAnswer, PeekKey, PeekRequest, Refusal};

use super::{Node, slot_of};
use crate::env::{Env, NodeTimer};
use crate::message::{Endpoint, Message, Operation, Reply};

/// Who waits for an answer.
#[derive(Clone, Copy)]
pub(super) enum Waiter {
    /// An operation held back here.
    Operation(u64),
    /// A key of a taker's question.
    Served { peek: u64, index: usize },
}

/// A question about one key.
#[derive(Default)]
pub(super) struct Asked {
    waiters: Vec<Waiter>,
    is_sent: bool,
}

/// A question on its way.
pub(super) struct OpenPeek {
    pull: PullId,
    keys: Vec<Bytes>,
}

/// A taker's question that is not answered yet.
pub(super) struct ServedPeek {
    from: Endpoint,
    peek: u64,
    taker: Life,
    keys: Vec<PeekKey>,
    answers: Vec<Option<PeekAnswer>>,
}

impl Node {
    pub(super) fn ask(&mut self, pull: PullId, key: Bytes, waiter: Waiter) {
        self.asked.entry((pull, key)).or_default().waiters.push(waiter);
    }

    /// Sends what has gathered, one message for each giver and pull.
    pub(super) fn send_peeks(&mut self, env: &mut Env) {
        loop {
            let Some(pull) = self
                .asked
                .iter()
                .find(|(_, asked)| !asked.is_sent)
                .map(|((pull, _), _)| *pull)
            else {
                return;
            };
            let mut keys: Vec<Bytes> = Vec::new();
            for ((of_pull, key), asked) in &mut self.asked {
                if *of_pull == pull && !std::mem::replace(&mut asked.is_sent, true) {
                    keys.push(key.clone());
                }
            }
            let target = |key: &Bytes| self.core.peek_target(pull, SliceKey::of_key(key));
            let targets: Option<Vec<_>> = keys.iter().map(target).collect();
            let Some(giver) = targets
                .as_ref()
                .and_then(|targets| Some(targets.first()?.0.clone()))
            else {
                // The pull has ended meanwhile.
                for key in keys {
                    self.settle_peek(pull, key, env);
                }
                continue;
            };
            let since = targets.into_iter().flatten().map(|(_, since)| since);
            let asked = keys
                .iter()
                .cloned()
                .zip(since)
                .map(|(key, since)| PeekKey { key, since })
                .collect();
            let (to, taker) = (giver.life, self.life().clone());
            let request = PeekRequest {
                to,
                taker,
                keys: asked,
            };
            let peek = env.name();
            env.counters.peeks += keys.len() as u64;
            self.open_peeks.insert(peek, OpenPeek { pull, keys });
            self.timer(env.plan.peek_timeout_us, NodeTimer::Peek { peek }, env);
            if let Some(slot) = slot_of(&giver.address) {
                env.send(
                    self.endpoint(),
                    Endpoint::Node(slot),
                    Message::Peek { peek, request },
                );
            }
        }
    }

    /// Whoever waits for a key goes on.
    fn settle_peek(&mut self, pull: PullId, key: Bytes, env: &mut Env) {
        let Some(asked) = self.asked.remove(&(pull, key)) else {
            return;
        };
        for waiter in asked.waiters {
            match waiter {
                Waiter::Operation(token) => self.giver_was_asked(token, env),
                Waiter::Served { peek, index } => {
                    let Some(served) = self.served_peeks.get(&peek) else {
                        continue;
                    };
                    let (key, since, taker) = (
                        served.keys[index].key.clone(),
                        served.keys[index].since,
                        served.taker.clone(),
                    );
                    let answer = self
                        .frozen_answer(&key, since, &taker)
                        .unwrap_or(PeekAnswer::Absent);
                    self.served(peek, index, answer, env);
                }
            }
        }
    }

    /// The question counts as answered in vain. A late answer is imported all the same.
    pub(super) fn peek_timed_out(&mut self, peek: u64, env: &mut Env) {
        let Some(open) = self.open_peeks.get(&peek) else {
            return;
        };
        let (pull, keys) = (open.pull, open.keys.clone());
        for key in keys {
            self.settle_peek(pull, key, env);
        }
    }

    pub(super) fn peek_answered(
        &mut self,
        peek: u64,
        answers: Result<Vec<PeekAnswer>, Refusal>,
        env: &mut Env,
    ) {
        let Some(OpenPeek { pull, keys }) = self.open_peeks.remove(&peek) else {
            return;
        };
        let answers = answers.unwrap_or_default();
        for (key, answer) in keys.iter().zip(answers) {
            match answer {
                PeekAnswer::Found(entry) if entry.key == *key => {
                    env.counters.peeks_found += 1;
                    self.import(pull, &entry, true, env);
                    if planted::is(Bug::WaiterGetsPeekedValue) {
                        self.answer_with_peeked(pull, &entry, env);
                    }
                }
                PeekAnswer::Found(_) | PeekAnswer::Absent | PeekAnswer::Unknown => {}
                PeekAnswer::Gone => {
                    let actions = self.core.pull_gone(pull, SliceKey::of_key(key));
                    self.carry_out(actions, env);
                }
            }
        }
        for key in keys {
            self.settle_peek(pull, key, env);
        }
    }

    /// [`Bug::WaiterGetsPeekedValue`].
    fn answer_with_peeked(&mut self, pull: PullId, entry: &Entry, env: &mut Env) {
        let Some(asked) = self.asked.get(&(pull, entry.key.clone())) else {
            return;
        };
        for waiter in asked.waiters.clone() {
            if let Waiter::Operation(token) = waiter
                && self
                    .waiting
                    .get(&token)
                    .is_some_and(|waiting| waiting.request.what == Operation::Get)
                && let Some(waiting) = self.waiting.remove(&token)
            {
                let found = Some((entry.value.clone(), entry.version));
                self.reply(&waiting.request, Reply::Got(found), env);
            }
        }
    }

    /// Imports an entry, unless its range has left the pull. `Some`: what the store made of it.
    pub(super) fn import(
        &mut self,
        pull: PullId,
        entry: &Entry,
        is_peeked: bool,
        env: &mut Env,
    ) -> Option<ImportOutcome> {
        if planted::is(Bug::ImportCheckOutsideLock)
            && !is_peeked
            && self.core.import_target(pull, entry.at()).is_some()
        {
            if self.store.is_written(pull, entry.at()) {
                return Some(ImportOutcome::Written);
            }
            let (entry, delay_us) = (entry.clone(), env.random.between(1_000, 20_000));
            self.timer(delay_us, NodeTimer::Import { pull, entry }, env);
            return None;
        }
        self.import_now(pull, entry, is_peeked, env)
    }

    pub(super) fn import_now(
        &mut self,
        pull: PullId,
        entry: &Entry,
        is_peeked: bool,
        env: &mut Env,
    ) -> Option<ImportOutcome> {
        let (at, now) = (entry.at(), self.now(env));
        let mut target = self.core.import_target(pull, at);
        if let (None, true, Admission::Serve(serving)) = (
            target,
            is_peeked && planted::is(Bug::LatePeekImported),
            self.core.admit(at, Generation::NONE),
        ) {
            let (epoch, first_sent) = (serving.epoch, now);
            target = Some(ImportTarget { epoch, first_sent });
        }
        let target = target?;
        let from = if planted::is(Bug::TtlFromArrival) {
            now
        } else {
            target.first_sent
        };
        let import = Import {
            key: &entry.key,
            at,
            value: &entry.value,
            version: entry.version,
            deadline: entry
                .ttl_ms
                .map_or(Timestamp::NEVER, |ttl_ms| from.plus_ms(ttl_ms)),
            class: entry.class,
        };
        let outcome = if is_peeked {
            self.store.import_peeked(pull, target.epoch, now, &import)
        } else {
            self.store.import(pull, target.epoch, now, &import)
        };
        env.counters.imports += u64::from(outcome == ImportOutcome::Inserted);
        env.counters.imports_refused += u64::from(outcome == ImportOutcome::Written);
        Some(outcome)
    }

    /// A taker asks.
    pub(super) fn serve_peek(&mut self, from: Endpoint, peek: u64, request: &PeekRequest, env: &mut Env) {
        if request.to != *self.life() {
            env.counters.refused += 1;
            let answers = Err(Refusal::WrongIncarnation);
            env.send(self.endpoint(), from, Message::PeekReply { peek, answers });
            return;
        }
        let served = env.name();
        let (keys, taker) = (request.keys.clone(), request.taker.clone());
        let answers = vec![None; keys.len()];
        self.served_peeks.insert(
            served,
            ServedPeek {
                from,
                peek,
                taker,
                keys,
                answers,
            },
        );
        for (index, PeekKey { key, since }) in request.keys.iter().enumerate() {
            let at = SliceKey::of_key(key);
            let upstream = self
                .core
                .copy_at(at, *since, &request.taker)
                .and_then(|copy| copy.upstream);
            match (self.frozen_answer(key, *since, &request.taker), upstream) {
                (Some(answer), _) => self.served(served, index, answer, env),
                (None, Some(_)) if planted::is(Bug::NegativePeekMidChain) => {
                    self.served(served, index, PeekAnswer::Absent, env);
                }
                (None, Some(pull)) if !self.store.is_written(pull, at) => {
                    env.counters.peeks_passed_on += 1;
                    self.ask(pull, key.clone(), Waiter::Served { peek: served, index });
                }
                (None, _) => self.served(served, index, PeekAnswer::Absent, env),
            }
        }
    }

    /// What the frozen copy itself says of a key; `None`: it does not have it.
    fn frozen_answer(&self, key: &Bytes, since: Generation, taker: &Life) -> Option<PeekAnswer> {
        let at = SliceKey::of_key(key);
        let Some(copy) = self.core.copy_at(at, since, taker) else {
            return Some(PeekAnswer::Gone);
        };
        let frozen = self.store.read_frozen(at, copy.epoch, copy.as_of)?;
        let entry = entry_of(&frozen, &copy)?;
        (entry.key == *key).then_some(PeekAnswer::Found(entry))
    }

    fn served(&mut self, served: u64, index: usize, answer: PeekAnswer, env: &mut Env) {
        let Some(open) = self.served_peeks.get_mut(&served) else {
            return;
        };
        open.answers[index] = Some(answer);
        if open.answers.iter().any(Option::is_none) {
            return;
        }
        if let Some(open) = self.served_peeks.remove(&served) {
            let answers = Ok(open.answers.into_iter().flatten().collect());
            env.send(
                self.endpoint(),
                open.from,
                Message::PeekReply {
                    peek: open.peek,
                    answers,
                },
            );
        }
    }
}

/// A frozen entry as it travels: its TTL is what it had left when the `Take` was received (H5). None: nobody knows how long it may
/// live.
pub(super) fn entry_of(frozen: &Frozen, copy: &CopyGrant) -> Option<Entry> {
    Some(Entry {
        key: frozen.key.clone(),
        value: frozen.value.clone(),
        version: frozen.version,
        ttl_ms: copy.ttl_ms(frozen.deadline).ok()?,
        class: frozen.class,
    })
}
