//! [`Client`]: a simulated application with the real [`Clerk`], and the retry rules of the native client: what was
//! refused is sent again; of what was lost only reads, unconditional deletes and flushes are.

use std::collections::BTreeMap;

use bytes::Bytes;
use softstore_sharding::clerk::{Clerk, Route};
use softstore_sharding::{Generation, Slice, SliceKey, Version};

use crate::env::{ClientTimer, Env, Event};
use crate::history::{Did, Ended, Operation as Recorded};
use crate::message::{Condition, Endpoint, Message, Operation, Reply, Request};
use crate::node::slot_of;
use crate::random::Random;

/// Stands for a value that is none of this workload's.
const NO_NUMBER: i64 = -1;

/// Most keys that are read at once.
const MANY_MAX: u64 = 4;

/// How long who knows of no node goes without asking for an assignment, at the most, in microseconds.
const UNAWARE_US_MAX: u64 = 100_000;

/// See the head of this file.
pub(crate) struct Client {
    index: usize,
    clerk: Clerk,
    random: Random,
    keys: Vec<(Bytes, SliceKey)>,
    open: BTreeMap<u64, Open>,
    /// Versions seen, for conditional sets.
    seen: Vec<Version>,
    /// The slot last asked for its assignment.
    watched: usize,
    stopped: bool,
}

struct Open {
    what: Operation,
    key: usize,
    /// Where it goes: the key's position, or the first of a flush that is left.
    at: SliceKey,
    /// Of a flush: what is left of it.
    left: Vec<Slice>,
    /// Its lines in the history.
    lines: Vec<usize>,
    deadline_us: u64,
    attempt: u32,
    is_in_flight: bool,
    may_be_applied: bool,
    /// Where the present attempt went is not the owner.
    is_at_replica: bool,
    /// A replica did not answer, or sent it on: from now on it goes to the owner.
    is_for_owner: bool,
    /// One of several that were sent at once, and not the last: when it ends, nothing new begins.
    is_extra: bool,
}

/// Where the replicas of a key are, as the assignment says; none if its owner has changed since.
fn replica_slots(clerk: &Clerk, at: SliceKey, since: Generation) -> Vec<usize> {
    let Some(readers) = clerk.readers(at).filter(|readers| readers.since() == since) else {
        return Vec::new();
    };
    let peers = (1..readers.count()).filter_map(|index| readers.peer(index));
    peers.filter_map(|peer| slot_of(&peer.address)).collect()
}

impl Client {
    pub(crate) fn start(index: usize, env: &mut Env) -> Self {
        let keys: Vec<(Bytes, SliceKey)> = (0..env.plan.keys())
            .map(|key| Bytes::from(env.plan.key_bytes(key)))
            .map(|bytes| (bytes.clone(), SliceKey::of_key(&bytes)))
            .collect();
        let seen = vec![Version::default(); keys.len()];
        let random = env.random.fork();
        let client = Self {
            index,
            clerk: Clerk::new(),
            random,
            keys,
            open: BTreeMap::new(),
            seen,
            watched: index,
            stopped: false,
        };
        for _ in 0..env.plan.lanes {
            let delay_us = env.plan.begin_us() + env.random.between(300_000, 900_000);
            client.timer(delay_us, ClientTimer::Next, env);
        }
        client.timer(env.random.below(300_000), ClientTimer::Watch, env);
        client
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Client(self.index)
    }

    fn timer(&self, delay_us: u64, timer: ClientTimer, env: &mut Env) {
        env.after(
            delay_us,
            Event::Client {
                client: self.index,
                timer,
            },
        );
    }

    pub(crate) fn timer_fired(&mut self, timer: ClientTimer, env: &mut Env) {
        match timer {
            ClientTimer::Next if self.stopped => {}
            ClientTimer::Next => self.begin(env),
            ClientTimer::Watch => {
                // Around all addresses, as one who knows only some of them to be taken.
                self.watched = (self.watched + 1) % env.plan.slots;
                let slot = self.watched;
                let generation = self.clerk.generation();
                env.send(
                    self.endpoint(),
                    Endpoint::Node(slot),
                    Message::Watch { generation },
                );
                // Who knows of nobody yet asks again soon.
                let us_max = match generation {
                    Generation::NONE => UNAWARE_US_MAX,
                    _ => env.plan.watch_us_max,
                };
                let delay_us = self.random.between(50_000, us_max);
                self.timer(delay_us, ClientTimer::Watch, env);
            }
            ClientTimer::Retry { operation, attempt } => {
                if self
                    .open
                    .get(&operation)
                    .is_some_and(|open| open.attempt == attempt && !open.is_in_flight)
                {
                    self.attempt(operation, env);
                }
            }
            ClientTimer::Lost { operation, attempt } => self.lost(operation, attempt, env),
        }
    }

    /// Begins nothing any more, and asks for the newest assignment: it may have known for long of nobody who still is where he was.
    pub(crate) fn end_of_faults(&mut self, env: &mut Env) {
        self.stopped = true;
        self.timer(0, ClientTimer::Watch, env);
    }

    /// Reads every key once, to see that all is served. (After the faults.)
    pub(crate) fn read_all(&mut self, env: &mut Env) {
        for key in 0..self.keys.len() {
            self.invoke(key, Operation::Get, Did::Read, false, env);
        }
    }

    fn begin(&mut self, env: &mut Env) {
        // Low keys are hotter.
        let count = self.keys.len();
        let key = self.random.index(count).min(self.random.index(count));
        let key = if self.random.chance(150) {
            count - 1 - key
        } else {
            key
        };
        if self.random.chance(env.plan.flush_per_mille) {
            return self.begin_flush(key, env);
        }
        // Where slices are replicated there is more to be read.
        let is_read = env.plan.replication.is_some() && self.random.chance(500);
        let (what, did) = if is_read {
            (Operation::Get, Did::Read)
        } else if self.random.chance(env.plan.removals_per_mille) {
            let report_existence = self.random.chance(300);
            (Operation::Delete { report_existence }, Did::Remove)
        } else if env.plan.is_counter(key) {
            self.on_counter(env)
        } else {
            self.on_plain(key, env)
        };
        if what == Operation::Get && self.random.chance(60) {
            for _ in 1..self.random.between(2, MANY_MAX) {
                let other = self.random.index(count);
                self.invoke(other, Operation::Get, Did::Read, true, env);
            }
        }
        self.invoke(key, what, did, false, env);
    }

    fn on_counter(&mut self, env: &mut Env) -> (Operation, Did) {
        match self.random.below(10) {
            0..5 => {
                let delta = i64::try_from(self.random.between(1, 1 << 44)).expect("44 bits");
                (Operation::Add { delta }, Did::Add(delta))
            }
            5..8 => (Operation::Get, Did::Read),
            8 => (
                Operation::Delete {
                    report_existence: self.random.chance(500),
                },
                Did::Remove,
            ),
            _ => {
                let ttl_ms = self.random.between(50, env.plan.ttl_ms_max);
                (Operation::Touch { ttl_ms }, Did::Touch { ttl_ms })
            }
        }
    }

    fn on_plain(&mut self, key: usize, env: &mut Env) -> (Operation, Did) {
        let condition = match self.random.below(100) {
            0..52 => return (Operation::Get, Did::Read),
            52..78 => Condition::Always,
            78..82 => Condition::IfAbsent,
            82..85 => Condition::IfPresent,
            85..88 => Condition::IfVersion(self.seen[key]),
            88..92 => {
                return (
                    Operation::Delete {
                        report_existence: true,
                    },
                    Did::Remove,
                );
            }
            92..96 => {
                return (
                    Operation::Delete {
                        report_existence: false,
                    },
                    Did::Remove,
                );
            }
            _ => {
                let ttl_ms = self.random.between(50, env.plan.ttl_ms_max);
                return (Operation::Touch { ttl_ms }, Did::Touch { ttl_ms });
            }
        };
        let number = i64::try_from(env.name()).expect("not that many names");
        let has_ttl = self.random.chance(env.plan.ttl_per_mille);
        let ttl_ms = has_ttl.then(|| self.random.between(30, env.plan.ttl_ms_max));
        let value = Bytes::from(format!("{number}"));
        (
            Operation::Set {
                value,
                ttl_ms,
                condition,
            },
            Did::Write {
                value: number,
                ttl_ms,
                expected: match condition {
                    Condition::IfVersion(version) => Some(version),
                    _ => None,
                },
            },
        )
    }

    fn begin_flush(&mut self, key: usize, env: &mut Env) {
        let at = self.keys[key].1;
        let width = u64::MAX >> self.random.between(1, 12);
        let low = SliceKey::new(at.get().saturating_sub(width / 2));
        let last = SliceKey::new(at.get().saturating_add(width / 2));
        let slice = Slice::between(low, last).expect("the key lies between");
        self.invoke(key, Operation::Flush { slice }, Did::Remove, false, env);
    }

    fn invoke(&mut self, key: usize, what: Operation, did: Did, is_extra: bool, env: &mut Env) {
        let operation = env.name();
        let deadline_us = env.now_us + env.plan.operation_ms * 1_000;
        let (touched, left) = match &what {
            Operation::Flush { slice } => {
                let within = |key: &usize| slice.contains(self.keys[*key].1);
                ((0..self.keys.len()).filter(within).collect(), vec![*slice])
            }
            _ => (vec![key], Vec::new()),
        };
        let mut lines = Vec::new();
        for key in touched {
            lines.push(env.history.operations.len());
            env.history.operations.push(Recorded {
                client: self.index,
                key,
                did,
                invoked_us: env.now_us,
                returned_us: u64::MAX,
                // The node counts from when it reads the request, and puts this off by then.
                deadline_us,
                ended: Ended::Open,
                may_come_again: false,
                answered: None,
                overtaken_us: None,
            });
        }
        env.counters.operations += 1;
        let client = self.index;
        env.trace(|| format!("client {client} begins {operation}: {did:?} of key {key}"));
        let at = left.first().map_or(self.keys[key].1, |slice| slice.low());
        let (is_in_flight, may_be_applied) = (false, false);
        let open = Open {
            what,
            key,
            at,
            left,
            lines,
            deadline_us,
            attempt: 0,
            is_in_flight,
            may_be_applied,
            is_at_replica: false,
            is_for_owner: false,
            is_extra,
        };
        self.open.insert(operation, open);
        self.attempt(operation, env);
    }

    fn attempt(&mut self, operation: u64, env: &mut Env) {
        let Some(open) = self.open.get_mut(&operation) else {
            return;
        };
        if env.now_us >= open.deadline_us {
            let ended = if open.may_be_applied {
                Ended::Unknown
            } else {
                Ended::Failed
            };
            return self.finish(operation, ended, env);
        }
        open.attempt += 1;
        let (attempt, at) = (open.attempt, open.at);
        let owner = match self.clerk.route(at) {
            Route::To { address, since, .. } => slot_of(address).map(|slot| (slot, since)),
            Route::Unreachable { .. } | Route::Unknown => None,
        };
        let Some((owner, since)) = owner else {
            open.is_in_flight = false;
            return self.retry_later(operation, attempt, env);
        };
        let may_be_read = open.what == Operation::Get && !open.is_for_owner;
        let readers = if may_be_read {
            replica_slots(&self.clerk, at, since)
        } else {
            Vec::new()
        };
        let slot = match self.random.index(readers.len() + 1) {
            0 => owner,
            index => readers[index - 1],
        };
        open.is_at_replica = slot != owner;
        open.is_in_flight = true;
        let what = match (&open.what, open.left.first()) {
            (Operation::Flush { .. }, Some(&slice)) => Operation::Flush { slice },
            (what, _) => what.clone(),
        };
        let request = Request {
            operation,
            attempt,
            line: open.lines.first().copied().unwrap_or(usize::MAX),
            client: self.index,
            key: self.keys[open.key].0.clone(),
            at,
            since,
            what,
            remaining_us: open.deadline_us - env.now_us,
            answered: None,
        };
        env.send(self.endpoint(), Endpoint::Node(slot), Message::Operation(request));
        self.timer(env.plan.attempt_us, ClientTimer::Lost { operation, attempt }, env);
    }

    fn retry_later(&mut self, operation: u64, attempt: u32, env: &mut Env) {
        let delay_us = self.random.between(1_000, 15_000);
        self.timer(delay_us, ClientTimer::Retry { operation, attempt }, env);
    }

    /// No answer came.
    fn lost(&mut self, operation: u64, attempt: u32, env: &mut Env) {
        let Some(open) = self.open.get_mut(&operation) else {
            return;
        };
        if open.attempt != attempt || !open.is_in_flight {
            return;
        }
        open.is_in_flight = false;
        open.may_be_applied |= open.what.changes_something();
        open.is_for_owner |= open.is_at_replica;
        if open.what.is_repeatable() {
            self.attempt(operation, env);
        } else {
            self.finish(operation, Ended::Unknown, env);
        }
    }

    pub(crate) fn receive(&mut self, message: Message, env: &mut Env) {
        match message {
            // A full assignment always fits.
            Message::WatchReply(update) => drop(self.clerk.update(&update)),
            Message::OperationReply {
                operation,
                attempt,
                reply,
                answered,
            } => {
                let current = |open: &&Open| open.attempt == attempt && open.is_in_flight;
                if let Some(open) = self.open.get(&operation).filter(current) {
                    let client = self.index;
                    env.trace(|| {
                        format!("client {client} is answered {operation}: {reply:?} by {answered:?}")
                    });
                    for &line in &open.lines {
                        let recorded = &mut env.history.operations[line];
                        let is_of_it = match &reply {
                            Reply::Flushed(parts) => {
                                parts.iter().any(|part| part.contains(self.keys[recorded.key].1))
                            }
                            _ => answered.is_some(),
                        };
                        if is_of_it {
                            recorded.answered = answered;
                        }
                    }
                    self.answered(operation, reply, env);
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, operation: u64, reply: Reply, env: &mut Env) {
        let Some(open) = self.open.get_mut(&operation) else {
            return;
        };
        open.is_in_flight = false;
        let (attempt, key) = (open.attempt, open.key);
        let ended = match reply {
            Reply::Got(found) => {
                // What is no number was written by nobody, which a checker will see.
                let number = |value: &Bytes| std::str::from_utf8(value).ok()?.parse().ok();
                let read = found.map(|(value, version)| (number(&value).unwrap_or(NO_NUMBER), version));
                if let Some((_, version)) = read {
                    self.seen[key] = version;
                }
                Ended::Read(read)
            }
            Reply::Stored(version) => {
                self.seen[key] = version;
                Ended::Written(version)
            }
            Reply::Refused => Ended::Refused,
            Reply::Deleted => Ended::Removed,
            Reply::Touched(existed) => Ended::Touched(existed),
            Reply::Added { number, version } => Ended::Added { number, version },
            Reply::Flushed(parts) => {
                let mut left: softstore_sharding::RangeMap<()> =
                    open.left.iter().map(|slice| (*slice, ())).collect();
                for part in parts {
                    left.remove(part);
                }
                open.left = left.iter().map(|(slice, ())| slice).collect();
                let Some(first) = open.left.first() else {
                    env.counters.flushes += 1;
                    return self.finish(operation, Ended::Removed, env);
                };
                open.at = first.low();
                open.may_be_applied = true;
                return self.attempt(operation, env);
            }
            Reply::Moved {
                slice,
                owner,
                address,
                since,
            } => {
                let was_at_replica = std::mem::take(&mut open.is_at_replica);
                open.is_for_owner |= was_at_replica;
                let follows = self.clerk.moved(slice, owner, address, since, env.unix_ms());
                let knows_better = matches!(self.clerk.route(open.at), Route::To { since: known, .. } if known > Generation::NONE);
                return if (follows || was_at_replica) && knows_better {
                    self.attempt(operation, env)
                } else {
                    self.retry_later(operation, attempt, env)
                };
            }
            Reply::NotReady | Reply::Behind => return self.retry_later(operation, attempt, env),
        };
        self.finish(operation, ended, env);
    }

    fn finish(&mut self, operation: u64, ended: Ended, env: &mut Env) {
        let Some(open) = self.open.remove(&operation) else {
            return;
        };
        for &line in &open.lines {
            let recorded = &mut env.history.operations[line];
            recorded.returned_us = env.now_us;
            recorded.ended = ended;
            recorded.may_come_again = open.may_be_applied;
        }
        match ended {
            Ended::Read(Some(_)) => env.counters.hits += 1,
            Ended::Read(None) => env.counters.misses += 1,
            Ended::Failed => env.counters.failed += 1,
            Ended::Unknown => env.counters.unknown += 1,
            _ => {}
        }
        env.trace(|| format!("client {} ends {operation}: {ended:?}", self.index));
        if open.is_extra {
            return;
        }
        let think_us = self.random.below(env.plan.think_us_max);
        self.timer(think_us, ClientTimer::Next, env);
    }
}
