//! One operation at a node: admitted and executed in one stretch, or held back until what it waits for has happened, and
//! then admitted again.

use softstore_sharding::planted::{self, Bug};
use softstore_sharding::{Epoch, Generation, PullId, Slice, Timestamp, Version, VersionCounter};
use softstore_store::{Absence, OpContext, Outcome, SetCondition, SetOutcome, Store};
use softstore_transfer::Admission;
use softstore_transfer::handoff::{Moved, ReadingHere, Serving};

use super::Node;
use super::peeks::Waiter;
use super::replicas::Leave;
use crate::env::{Env, NodeTimer};
use crate::history::{Answered, Execution};
use crate::message::{Condition, Endpoint, Message, Operation, Reply, Request};

/// How long an operation waits for an assignment that its client knows already, in microseconds.
const BEHIND_WAIT_US: u64 = 100_000;

/// An operation that is not answered yet.
pub(super) struct Waiting {
    pub request: Request,
    pub absence: Absence,
    /// What it knows of those who read what it may change.
    pub leave: Leave,
    why: Why,
    arrived_us: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    JustArrived,
    Owner,
    Assignment,
    Peek(PullId),
    /// Replicas have to forget first.
    Readers,
    /// As a replica: what the owner has.
    Fill,
    /// [`Bug::NoFenceWait`] and [`Bug::WritesOutliveFence`]: it was admitted and runs later.
    Admitted {
        epoch: Epoch,
        pull: Option<PullId>,
        since: Generation,
        next: Version,
    },
}

/// What admission and store say.
enum Step {
    Reply(Reply),
    Wait(Why),
    /// Ask the owner as a replica.
    Fill(ReadingHere),
}

impl Node {
    pub(super) fn arrived(&mut self, request: Request, env: &mut Env) {
        let token = env.name();
        let (arrived_us, absence) = (env.now_us, Absence::AskGiver);
        if let Some(line) = env.history.operations.get_mut(request.line) {
            line.deadline_us = line.deadline_us.max(arrived_us + request.remaining_us);
        }
        let waiting = Waiting {
            request,
            absence,
            leave: Leave::default(),
            why: Why::JustArrived,
            arrived_us,
        };
        self.attempt(token, waiting, env);
    }

    pub(super) fn retry_waiting(&mut self, env: &mut Env) {
        let tokens: Vec<u64> = self.waiting.keys().copied().collect();
        for token in tokens {
            self.retry(token, env);
        }
    }

    /// Tries a waiting operation again, from admission on.
    pub(super) fn retry(&mut self, token: u64, env: &mut Env) {
        // The question of a replica brings its own answer.
        let late = |waiting: &Waiting| matches!(waiting.why, Why::Admitted { .. } | Why::Fill);
        if self.waiting.get(&token).is_some_and(|waiting| !late(waiting))
            && let Some(waiting) = self.waiting.remove(&token)
        {
            self.attempt(token, waiting, env);
        }
    }

    /// The giver was asked, in vain or not: absent is absent now.
    pub(super) fn giver_was_asked(&mut self, token: u64, env: &mut Env) {
        if let Some(waiting) = self.waiting.get_mut(&token) {
            waiting.absence = Absence::Final;
            self.retry(token, env);
        }
    }

    pub(super) fn waited_long_enough(&mut self, token: u64, env: &mut Env) {
        let Some(waiting) = self.waiting.get(&token) else {
            return;
        };
        let waited_us = env.now_us - waiting.arrived_us;
        let reply = match waiting.why {
            Why::Owner if planted::is(Bug::ExpiredHeldWrite) => return,
            Why::Owner if waited_us >= env.plan.hold_ms * 1_000 => Reply::NotReady,
            Why::Assignment if waited_us >= BEHIND_WAIT_US => Reply::Behind,
            _ if waited_us >= waiting.request.remaining_us => Reply::NotReady,
            _ => return,
        };
        if let Some(waiting) = self.waiting.remove(&token) {
            self.answer(waiting, reply, env);
        }
    }

    /// A write that waits for replicas looks around.
    pub(super) fn still_waits_for_readers(&mut self, token: u64, env: &mut Env) {
        let waits = |waiting: &Waiting| waiting.why == Why::Readers;
        if !self.waiting.get(&token).is_some_and(waits) {
            return;
        }
        self.retry(token, env);
        if let Some(waiting) = self.waiting.remove(&token) {
            if waits(&waiting) {
                self.tell_readers(token, changed(&waiting.request), &waiting.leave, env);
            }
            self.waiting.insert(token, waiting);
        }
    }

    /// Answers an operation, which no longer is about to change anything.
    fn answer(&mut self, mut waiting: Waiting, reply: Reply, env: &mut Env) {
        self.unmark(&mut waiting.leave);
        self.reply(&waiting.request, reply, env);
    }

    fn attempt(&mut self, token: u64, mut waiting: Waiting, env: &mut Env) {
        let expires_us = waiting.arrived_us + waiting.request.remaining_us;
        let is_late = env.now_us >= expires_us && !planted::is(Bug::ExpiredHeldWrite);
        if is_late || !self.may_serve(env) {
            return self.answer(waiting, Reply::NotReady, env);
        }
        match self.execute(token, &mut waiting, env) {
            Step::Reply(reply) if self.answers_late(&waiting.request, &reply, env) => {
                self.unmark(&mut waiting.leave);
                self.applied.insert(token, (waiting.request, reply));
                let delay_us = env.random.between(2_000, 30_000);
                self.timer(delay_us, NodeTimer::Execute { token }, env);
            }
            Step::Reply(reply) => self.answer(waiting, reply, env),
            Step::Fill(reading) => {
                let delay_us = expires_us.saturating_sub(env.now_us);
                self.timer(delay_us, NodeTimer::Waiting { token }, env);
                let (key, at) = (waiting.request.key.clone(), waiting.request.at);
                waiting.why = Why::Fill;
                self.waiting.insert(token, waiting);
                self.fill(token, &key, at, reading, env);
            }
            Step::Wait(why) => {
                let until_us = match why {
                    Why::Owner => waiting.arrived_us + env.plan.hold_ms * 1_000,
                    Why::Assignment => waiting.arrived_us + BEHIND_WAIT_US,
                    _ => expires_us,
                };
                if why == Why::Owner && waiting.why != why {
                    env.counters.held_back += 1;
                }
                if let Why::Admitted { .. } = why {
                    let delay_us = env.random.between(2_000, 30_000);
                    self.timer(delay_us, NodeTimer::Execute { token }, env);
                } else if waiting.why != why {
                    let delay_us = until_us.min(expires_us).saturating_sub(env.now_us);
                    self.timer(delay_us, NodeTimer::Waiting { token }, env);
                }
                waiting.why = why;
                let key = waiting.request.key.clone();
                self.waiting.insert(token, waiting);
                if let Why::Peek(pull) = why {
                    self.ask(pull, key, Waiter::Operation(token));
                }
            }
        }
    }

    fn execute(&mut self, token: u64, waiting: &mut Waiting, env: &mut Env) -> Step {
        let (request, absence) = (&waiting.request, waiting.absence);
        if let Operation::Flush { slice } = request.what {
            if !self.may_change(token, slice, &mut waiting.leave, env) {
                return Step::Wait(Why::Readers);
            }
            let reply = self.flush(slice, env);
            waiting.request.answered = Some(self.answered(env));
            return Step::Reply(reply);
        }
        let is_served = matches!(self.core.admit(request.at, request.since), Admission::Serve(_));
        if is_served
            && request.what.changes_something()
            && !self.may_change(token, Slice::single(request.at), &mut waiting.leave, env)
        {
            return Step::Wait(Why::Readers);
        }
        if !is_served
            && request.what == Operation::Get
            && let Some((reading, found)) = self.read_here(&request.key, request.at, request.since, env)
        {
            waiting.request.answered = Some(lent_by(&reading, env));
            return found.map_or(Step::Fill(reading), Step::Reply);
        }
        match self.core.admit(request.at, request.since) {
            Admission::Serve(serving) => {
                let changes = request.what.changes_something();
                let outlives = (planted::is(Bug::NoFenceWait) && !changes)
                    || (planted::is(Bug::WritesOutliveFence) && changes);
                if outlives && env.random.chance(300) {
                    let Serving {
                        epoch,
                        pull,
                        since,
                        versions,
                        ..
                    } = serving;
                    return Step::Wait(Why::Admitted {
                        epoch,
                        pull,
                        since,
                        next: versions.peek(),
                    });
                }
                let context = OpContext {
                    now: self.now(env),
                    epoch: serving.epoch,
                    versions: serving.versions,
                    pull: serving.pull,
                    absence: if serving.is_awaiting {
                        Absence::Awaited
                    } else {
                        absence
                    },
                };
                let since = serving.since;
                match (self.run(request, context), serving.pull) {
                    (Some(reply), _) => {
                        waiting.request.answered = Some(self.answered(env));
                        self.log(&waiting.request, since, env);
                        Step::Reply(reply)
                    }
                    (None, Some(pull)) => Step::Wait(Why::Peek(pull)),
                    (None, None) => Step::Reply(Reply::NotReady),
                }
            }
            Admission::Hold => Step::Wait(Why::Owner),
            Admission::Behind => Step::Wait(Why::Assignment),
            Admission::NotReady => Step::Reply(Reply::NotReady),
            Admission::Moved(moved) => Step::Reply(moved_reply(moved)),
        }
    }

    /// What is carried out now is carried out by this life.
    fn answered(&self, env: &Env) -> Answered {
        Answered {
            by: self.life().incarnation,
            at_us: env.now_us,
        }
    }

    fn log(&self, request: &Request, since: Generation, env: &mut Env) {
        let Some(key) = self.keys.iter().position(|at| *at == request.at) else {
            return;
        };
        let life = self.life().clone();
        env.history.executions.push(Execution {
            at_us: env.now_us,
            key,
            life,
            since,
            operation: request.line,
        });
    }

    /// Runs an admitted operation in the store. `None`: the giver has to be asked first.
    fn run(&self, request: &Request, context: OpContext<'_>) -> Option<Reply> {
        let (key, at, now) = (&request.key, request.at, context.now);
        let deadline = |ttl_ms: Option<u64>| ttl_ms.map_or(Timestamp::NEVER, |ttl_ms| now.plus_ms(ttl_ms));
        match &request.what {
            Operation::Get => match self.store.get(key, at, &context) {
                Outcome::Done(found) => Some(Reply::Got(found.map(|found| (found.value, found.version)))),
                Outcome::Unknown => None,
            },
            Operation::Set {
                value,
                ttl_ms,
                condition,
            } => {
                let condition = match condition {
                    Condition::Always => SetCondition::Always,
                    Condition::IfAbsent => SetCondition::IfAbsent,
                    Condition::IfPresent => SetCondition::IfPresent,
                    Condition::IfVersion(version) => SetCondition::IfVersion(*version),
                };
                match self
                    .store
                    .set(key, at, value, deadline(*ttl_ms), condition, &context)
                {
                    Ok(Outcome::Done(SetOutcome::Stored(version))) => Some(Reply::Stored(version)),
                    Ok(Outcome::Done(SetOutcome::Refused(_))) => Some(Reply::Refused),
                    Ok(Outcome::Unknown) => None,
                    Err(error) => panic!("a set of this workload is valid: {error}"),
                }
            }
            Operation::Delete { report_existence } => {
                match self.store.delete(key, at, *report_existence, &context) {
                    Outcome::Done(_) => Some(Reply::Deleted),
                    Outcome::Unknown => None,
                }
            }
            Operation::Touch { ttl_ms } => match self.store.touch(key, at, now.plus_ms(*ttl_ms), &context) {
                Outcome::Done(existed) => Some(Reply::Touched(existed)),
                Outcome::Unknown => None,
            },
            Operation::Add { delta } => match self.store.add(key, at, *delta, Timestamp::NEVER, &context) {
                Ok(Outcome::Done(added)) => Some(Reply::Added {
                    number: added.number,
                    version: added.version,
                }),
                Ok(Outcome::Unknown) => None,
                // What stands there is no number: a checker's business.
                Err(_) => Some(Reply::Refused),
            },
            Operation::Flush { .. } => unreachable!("flushes go through the core"),
        }
    }

    /// [`Bug::MovedAfterApplying`]: whether an operation that was applied is answered a while later.
    fn answers_late(&self, request: &Request, reply: &Reply, env: &mut Env) -> bool {
        let is_applied = matches!(reply, Reply::Stored(_) | Reply::Deleted | Reply::Added { .. });
        planted::is(Bug::MovedAfterApplying)
            && is_applied
            && request.what.changes_something()
            && env.random.chance(300)
    }

    /// Ends an operation that a planted bug has put off: one that was applied, or one that runs under what it was admitted
    /// to a while ago.
    pub(super) fn execute_late(&mut self, token: u64, env: &mut Env) {
        if let Some((request, reply)) = self.applied.remove(&token) {
            let reply = match self.core.admit(request.at, request.since) {
                Admission::Moved(moved) => moved_reply(moved),
                _ => reply,
            };
            return self.reply(&request, reply, env);
        }
        let Some(mut waiting) = self.waiting.remove(&token) else {
            return;
        };
        self.unmark(&mut waiting.leave);
        let Why::Admitted {
            epoch,
            pull,
            since,
            next,
        } = waiting.why
        else {
            return;
        };
        let versions = VersionCounter::starting_at(next);
        let now = self.now(env);
        let context = OpContext {
            now,
            epoch,
            versions: &versions,
            pull,
            absence: Absence::Final,
        };
        if let Some(reply) = self.run(&waiting.request, context) {
            waiting.request.answered = Some(self.answered(env));
            self.log(&waiting.request, since, env);
            self.reply(&waiting.request, reply, env);
        }
    }

    /// [`Bug::WriteAfterFreeze`]: what waits to write runs later, where it would have been admitted to now.
    pub(super) fn put_off_writes(&mut self, env: &mut Env) {
        let tokens: Vec<u64> = self.waiting.keys().copied().collect();
        for token in tokens {
            let Some(waiting) = self.waiting.get_mut(&token) else {
                continue;
            };
            let request = &waiting.request;
            let is_flush = matches!(request.what, Operation::Flush { .. });
            let Admission::Serve(serving) = self.core.admit(request.at, request.since) else {
                continue;
            };
            if is_flush || !request.what.changes_something() {
                continue;
            }
            waiting.why = Why::Admitted {
                epoch: serving.epoch,
                pull: None,
                since: serving.since,
                next: serving.versions.peek(),
            };
            let delay_us = env.random.between(100_000, 3_000_000);
            self.timer(delay_us, NodeTimer::Execute { token }, env);
        }
    }

    fn flush(&mut self, slice: softstore_sharding::Slice, env: &mut Env) -> Reply {
        let (flushed, actions) = self.core.flush(slice);
        self.carry_out(actions, env);
        if !flushed.is_empty() {
            return Reply::Flushed(flushed);
        }
        match self.core.admit(slice.low(), Generation::NONE) {
            Admission::Moved(moved) => moved_reply(moved),
            _ => Reply::NotReady,
        }
    }

    pub(super) fn reply(&self, request: &Request, reply: Reply, env: &mut Env) {
        let is_sent_on = matches!(reply, Reply::Moved { .. } | Reply::NotReady | Reply::Behind);
        let message = Message::OperationReply {
            operation: request.operation,
            attempt: request.attempt,
            reply,
            answered: request.answered.filter(|_| !is_sent_on),
        };
        env.send(self.endpoint(), Endpoint::Client(request.client), message);
    }
}

/// What an operation changes, if it changes something.
fn changed(request: &Request) -> Slice {
    match request.what {
        Operation::Flush { slice } => slice,
        _ => Slice::single(request.at),
    }
}

/// What a replica reads counts as its owner's.
pub(super) fn lent_by(reading: &ReadingHere, env: &Env) -> Answered {
    Answered {
        by: reading.owner.life.incarnation,
        at_us: env.now_us,
    }
}

fn moved_reply(moved: Moved) -> Reply {
    Reply::Moved {
        slice: moved.slice,
        owner: moved.owner,
        address: moved.address,
        since: moved.since,
    }
}
