//! Replicas: what an owner lends, and waits for before a write; what a replica reads, and asks its owners for.

use std::collections::BTreeMap;

use bytes::Bytes;
use softstore_sharding::{
    Epoch, FrequencyClass, Generation, Life, Peer, PullId, Slice, SliceKey, Timestamp, VersionCounter,
};
use softstore_store::{Absence, Import, ImportOutcome, OpContext, Outcome, Part, Store};
use softstore_transfer::Admission;
use softstore_transfer::handoff::{
    Clearance, Fills, Join, READ_LEASE_OUT_MS_MAX, READ_LEASE_RENEW_MS, ReadingHere, Writes,
};
use softstore_transfer::message::{
    Entry, FillAnswer, FillKey, FillRequest, Invalidate, LeaseReply, LeaseRequest, Refusal,
};

use super::operations::lent_by;
use super::{Node, slot_of};
use crate::env::{Env, NodeTimer};
use crate::message::{Endpoint, Message, Reply};

/// The pull under which copies are put into the store: one that never ends, and in which nothing is written.
pub(super) const COPIES: PullId = PullId::new(u64::MAX);

/// How long an owner waits for an answer to an invalidation before it repeats it, in microseconds.
const INVALIDATE_RETRY_US: u64 = 50_000;

/// Orders to forget that are remembered; an answer to an older one is not believed.
const ORDERS_MAX: usize = 1_000;

/// Requests for leases that are remembered, so that late answers come to the core, which has to judge them.
const REQUESTS_MAX: usize = 32;

/// Both sides' state beside the core.
#[derive(Default)]
pub(super) struct Replicas {
    writes: Writes,
    orders: BTreeMap<u64, Order>,
    fills: Fills,
    open_fills: BTreeMap<u64, OpenFill>,
    /// When the requests for leases were sent.
    asked: BTreeMap<u64, Timestamp>,
}

/// What an answer to an `Invalidate` is an answer to.
enum Order {
    Write {
        token: u64,
        reader: Life,
    },
    Recall {
        reader: Peer,
        slices: Vec<Slice>,
        number: u64,
        /// Then the leases are over.
        until: Timestamp,
    },
}

/// A question to an owner.
struct OpenFill {
    token: u64,
    key: Bytes,
    at: SliceKey,
    reading: ReadingHere,
    sent: Timestamp,
    /// The operations that wait; the first one asked.
    waiting: Vec<u64>,
}

/// What an operation that may change something knows of those who read what it changes.
#[derive(Default)]
pub(super) struct Leave {
    clearance: Clearance,
    /// What it has marked, and when.
    marked: Option<(Slice, u64)>,
}

impl Node {
    /// Whether an operation may change a slice now. If not, it has marked the slice and told its readers.
    pub(super) fn may_change(&mut self, token: u64, slice: Slice, leave: &mut Leave, env: &mut Env) -> bool {
        let now = self.now(env);
        if self.core.may_write(slice, &leave.clearance, now) {
            return true;
        }
        if leave.marked.is_none() {
            // First the mark, then a look at who reads: see `Writes`.
            self.replicas.writes.begin(slice);
            leave.marked = Some((slice, env.now_us));
            leave.clearance = self.core.clearance();
            env.counters.writes_waited += 1;
            self.tell_readers(token, slice, leave, env);
        }
        self.core.may_write(slice, &leave.clearance, now)
    }

    /// The write has changed what it marked, or never will.
    pub(super) fn unmark(&mut self, leave: &mut Leave) {
        if let Some((slice, _)) = leave.marked.take() {
            self.replicas.writes.end(slice);
        }
        leave.clearance = Clearance::default();
    }

    /// Tells those that a write still waits for, now and again.
    pub(super) fn tell_readers(&mut self, token: u64, slice: Slice, leave: &Leave, env: &mut Env) {
        let now = self.now(env);
        let waited_us = leave.marked.map_or(0, |(_, since_us)| env.now_us - since_us);
        for lease in self.core.waits_for(slice, &leave.clearance, now) {
            if waited_us >= READ_LEASE_RENEW_MS * 1_000 {
                env.counters.withheld += 1;
                self.core.withhold(&lease.reader.life, now);
            }
            let (keys, revoked) = if slice.width() == 1 {
                (vec![slice.low()], Vec::new())
            } else {
                (Vec::new(), vec![slice])
            };
            let reader = lease.reader.life.clone();
            let order = Order::Write { token, reader };
            self.order(
                &lease.reader.life,
                &lease.reader.address,
                keys,
                revoked,
                order,
                env,
            );
        }
        self.timer(INVALIDATE_RETRY_US, NodeTimer::Readers { token }, env);
    }

    /// Asks a replica for its leases back.
    pub(super) fn recall(&mut self, reader: &Peer, slices: Vec<Slice>, number: u64, env: &mut Env) {
        env.counters.recalls += 1;
        let until = self.now(env).plus_ms(READ_LEASE_OUT_MS_MAX);
        let order = Order::Recall {
            reader: reader.clone(),
            slices: slices.clone(),
            number,
            until,
        };
        let order = self.order(&reader.life, &reader.address, Vec::new(), slices, order, env);
        self.timer(INVALIDATE_RETRY_US, NodeTimer::Recall { order }, env);
    }

    /// Says it again, until it is answered or of no use.
    pub(super) fn recall_again(&mut self, order: u64, env: &mut Env) {
        let Some(Order::Recall {
            reader,
            slices,
            until,
            ..
        }) = self.replicas.orders.get(&order)
        else {
            return;
        };
        if *until <= self.now(env) {
            return;
        }
        let (reader, slices) = (reader.clone(), slices.clone());
        self.send_order(order, &reader.life, &reader.address, Vec::new(), slices, env);
        self.timer(INVALIDATE_RETRY_US, NodeTimer::Recall { order }, env);
    }

    fn order(
        &mut self,
        to: &Life,
        address: &str,
        keys: Vec<SliceKey>,
        revoked: Vec<Slice>,
        order: Order,
        env: &mut Env,
    ) -> u64 {
        let number = env.name();
        self.replicas.orders.insert(number, order);
        if self.replicas.orders.len() > ORDERS_MAX {
            self.replicas.orders.pop_first();
        }
        self.send_order(number, to, address, keys, revoked, env);
        number
    }

    fn send_order(
        &self,
        order: u64,
        to: &Life,
        address: &str,
        keys: Vec<SliceKey>,
        revoked: Vec<Slice>,
        env: &mut Env,
    ) {
        let message = Invalidate {
            to: to.clone(),
            owner: self.life().clone(),
            keys,
            revoked,
        };
        if let Some(slot) = slot_of(address) {
            let message = Message::Invalidate { order, message };
            env.send(self.endpoint(), Endpoint::Node(slot), message);
        }
    }

    /// A replica has carried out what it was told.
    pub(super) fn invalidated(&mut self, order: u64, env: &mut Env) {
        let order = self.replicas.orders.remove(&order);
        match &order {
            Some(Order::Write { reader, .. }) => self.core.answered_again(reader),
            Some(Order::Recall { reader, .. }) => self.core.answered_again(&reader.life),
            None => {}
        }
        match order {
            Some(Order::Write { token, reader }) => {
                if let Some(waiting) = self.waiting.get_mut(&token) {
                    waiting.leave.clearance.answered(reader);
                    self.retry(token, env);
                }
            }
            Some(Order::Recall {
                reader,
                slices,
                number,
                ..
            }) => self.core.returned(&reader.life, &slices, number),
            None => {}
        }
    }

    /// A replica asks for leases.
    pub(super) fn lend(&mut self, from: Endpoint, sequence: u64, request: &LeaseRequest, env: &mut Env) {
        if !self.may_serve(env) {
            return;
        }
        let now = self.now(env);
        let leased_until = self.slicelet.leased_until();
        let tenure_left_ms = (leased_until != Timestamp::NEVER).then(|| leased_until.ms_since(now));
        let answer = self.core.lend(request, tenure_left_ms, now);
        match &answer {
            Ok(reply) => env.counters.leases += reply.grants.len() as u64,
            Err(_) => env.counters.refused += 1,
        }
        self.core_changed = true;
        env.send(self.endpoint(), from, Message::LeaseReply { sequence, answer });
    }

    /// As replica: asks an owner for leases.
    pub(super) fn ask_lease(&mut self, request: LeaseRequest, address: &str, sequence: u64, env: &mut Env) {
        self.replicas.asked.insert(sequence, self.now(env));
        if self.replicas.asked.len() > REQUESTS_MAX {
            self.replicas.asked.pop_first();
        }
        if let Some(slot) = slot_of(address) {
            let message = Message::AskLease { sequence, request };
            env.send(self.endpoint(), Endpoint::Node(slot), message);
        }
    }

    pub(super) fn lease_answered(
        &mut self,
        sequence: u64,
        answer: Result<LeaseReply, Refusal>,
        env: &mut Env,
    ) {
        if let (Ok(reply), Some(&sent)) = (answer, self.replicas.asked.get(&sequence)) {
            match self.core.lease_answered(&reply, sequence, sent, self.now(env)) {
                Ok(actions) => self.carry_out(actions, env),
                Err(_) => env.counters.refused += 1,
            }
        }
    }

    /// As replica: forgets.
    pub(super) fn forget(&mut self, from: Endpoint, order: u64, message: &Invalidate, env: &mut Env) {
        if self.core.check_invalidate(message).is_err() {
            env.counters.refused += 1;
            return;
        }
        env.counters.invalidations += 1;
        for &at in &message.keys {
            self.replicas.fills.invalidate(at);
            if let Some(epoch) = self.core.reading_epoch(at) {
                let slice = Slice::single(at);
                self.store.purge(Part { slice, epoch });
            }
        }
        if let Ok(actions) = self.core.revoked(message, self.now(env)) {
            self.carry_out(actions, env);
        }
        env.send(self.endpoint(), from, Message::Invalidated { order });
    }

    /// Whether a read may be answered here as by a replica; with the copy, if there is one.
    pub(super) fn read_here(
        &self,
        key: &[u8],
        at: SliceKey,
        since: Generation,
        env: &mut Env,
    ) -> Option<(ReadingHere, Option<Reply>)> {
        let now = self.now(env);
        let copy = self.core.admit_copy(at, since, now)?;
        let versions = VersionCounter::starting_at(softstore_sharding::Version::default());
        let context = OpContext {
            now,
            epoch: copy.epoch,
            versions: &versions,
            pull: None,
            absence: Absence::Final,
        };
        let found = match self.store.get(key, at, &context) {
            Outcome::Done(Some(found)) => Some(Reply::Got(Some((found.value, found.version)))),
            _ => None,
        };
        if found.is_some() {
            env.counters.replica_reads += 1;
            env.counters.copies_read += 1;
        }
        Some((self.core.admit_read(at, since, now)?, found))
    }

    /// An operation waits for what the owner has: it asks, or joins one who has asked.
    pub(super) fn fill(
        &mut self,
        operation: u64,
        key: &Bytes,
        at: SliceKey,
        reading: ReadingHere,
        env: &mut Env,
    ) {
        let token = match self.replicas.fills.join(at, key, reading.epoch, true) {
            None => return,
            Some(Join::Wait(token)) => {
                let mut open = self.replicas.open_fills.values_mut();
                if let Some(open) = open.find(|open| open.token == token) {
                    open.waiting.push(operation);
                }
                return;
            }
            Some(Join::Ask(token)) => token,
        };
        let (number, owner) = (reading.number, reading.owner.clone());
        let request = FillRequest {
            to: owner.life,
            reader: self.life().clone(),
            keys: vec![FillKey {
                key: key.clone(),
                number,
            }],
        };
        let fill = env.name();
        env.counters.fills += 1;
        let open = OpenFill {
            token,
            key: key.clone(),
            at,
            reading,
            sent: self.now(env),
            waiting: vec![operation],
        };
        self.replicas.open_fills.insert(fill, open);
        self.timer(env.plan.fill_timeout_us, NodeTimer::Fill { fill }, env);
        if let Some(slot) = slot_of(&owner.address) {
            env.send(
                self.endpoint(),
                Endpoint::Node(slot),
                Message::Fill { fill, request },
            );
        }
    }

    /// As owner: tells a replica what stands here.
    pub(super) fn serve_fill(&self, from: Endpoint, fill: u64, request: &FillRequest, env: &mut Env) {
        let answers = if request.to == *self.life() {
            Ok(request
                .keys
                .iter()
                .map(|key| self.fill_answer(&request.reader, key, env))
                .collect())
        } else {
            env.counters.refused += 1;
            Err(Refusal::WrongIncarnation)
        };
        env.send(self.endpoint(), from, Message::FillReply { fill, answers });
    }

    fn fill_answer(&self, reader: &Life, asked: &FillKey, env: &Env) -> FillAnswer {
        let (at, now) = (SliceKey::of_key(&asked.key), self.now(env));
        if !self.may_serve(env) || !self.core.is_lent(at, reader, asked.number, now) {
            return FillAnswer::NotLent;
        }
        let Admission::Serve(serving) = self.core.admit(at, Generation::NONE) else {
            return FillAnswer::NotLent;
        };
        // First the look, then the read: see `Writes`.
        let may_keep = !self.replicas.writes.is_marked(at);
        let context = OpContext {
            now,
            epoch: serving.epoch,
            versions: serving.versions,
            pull: serving.pull,
            absence: match serving.is_awaiting {
                true => Absence::Awaited,
                false => Absence::AskGiver,
            },
        };
        match self.store.get(&asked.key, at, &context) {
            Outcome::Done(Some(found)) => {
                let expires = found.deadline != Timestamp::NEVER;
                let entry = Entry {
                    key: asked.key.clone(),
                    value: found.value,
                    version: found.version,
                    ttl_ms: expires.then(|| found.deadline.ms_since(now)),
                    class: FrequencyClass::default(),
                };
                FillAnswer::Found { entry, may_keep }
            }
            Outcome::Done(None) => FillAnswer::Absent,
            // Its giver has to be asked first: an operation of a client does that.
            Outcome::Unknown => FillAnswer::NotLent,
        }
    }

    pub(super) fn filled(&mut self, fill: u64, answers: Result<Vec<FillAnswer>, Refusal>, env: &mut Env) {
        let answer = answers.ok().and_then(|answers| answers.into_iter().next());
        self.end_fill(fill, answer.unwrap_or(FillAnswer::NotLent), env);
    }

    /// The question counts as unanswered.
    pub(super) fn fill_timed_out(&mut self, fill: u64, env: &mut Env) {
        self.end_fill(fill, FillAnswer::NotLent, env);
    }

    fn end_fill(&mut self, fill: u64, answer: FillAnswer, env: &mut Env) {
        let Some(open) = self.replicas.open_fills.remove(&fill) else {
            return;
        };
        let may_keep = matches!(&answer, FillAnswer::Found { may_keep: true, .. });
        let now = self.now(env);
        let stands = self.replicas.fills.answered(open.at, open.token, may_keep);
        let is_kept = stands && self.core.reading_stands(open.at, open.reading.epoch, now);
        if let FillAnswer::Found { entry, .. } = &answer {
            let is_kept = is_kept && entry.key == open.key && self.keep(&open, entry, now);
            env.counters.copies_kept += u64::from(is_kept);
            env.counters.copies_not_kept += u64::from(!is_kept);
        }
        let sent = open.sent;
        for (index, operation) in open.waiting.into_iter().enumerate() {
            let Some(mut waiting) = self.waiting.remove(&operation) else {
                continue;
            };
            waiting.request.answered = Some(lent_by(&open.reading, env));
            let has_asked = index == 0;
            let reply = match &answer {
                FillAnswer::Found { entry, .. }
                    if has_asked || Fills::is_for_joiners(may_keep, deadline_of(entry, sent), now) =>
                {
                    Some(Reply::Got(Some((entry.value.clone(), entry.version))))
                }
                FillAnswer::Absent if has_asked => Some(Reply::Got(None)),
                FillAnswer::Found { .. } | FillAnswer::Absent => {
                    env.counters.joiners_sent_on += 1;
                    None
                }
                FillAnswer::NotLent => None,
            };
            env.counters.replica_reads += u64::from(reply.is_some());
            let reply = reply.unwrap_or_else(|| moved_to_owner(&open.reading));
            self.reply(&waiting.request, reply, env);
        }
    }

    fn keep(&self, open: &OpenFill, entry: &Entry, now: Timestamp) -> bool {
        let epoch: Epoch = open.reading.epoch;
        let import = Import {
            key: &entry.key,
            at: open.at,
            value: &entry.value,
            version: entry.version,
            deadline: deadline_of(entry, open.sent),
            class: entry.class,
        };
        self.store.import_peeked(COPIES, epoch, now, &import) == ImportOutcome::Inserted
    }

    /// What of this is still on in a cluster where nothing should be.
    pub(super) fn unfinished_of_replicas(&self) -> [(&'static str, usize); 3] {
        [
            ("positions marked as about to change", self.replicas.writes.len()),
            ("questions of a replica to its owner", self.replicas.fills.len()),
            ("readers waiting for those", self.replicas.open_fills.len()),
        ]
    }
}

/// Until when what a question brought lives: times to live count from its sending.
fn deadline_of(entry: &Entry, sent: Timestamp) -> Timestamp {
    let ttl_ms = entry.ttl_ms;
    ttl_ms.map_or(Timestamp::NEVER, |ttl_ms| sent.plus_ms(ttl_ms))
}

fn moved_to_owner(reading: &ReadingHere) -> Reply {
    Reply::Moved {
        slice: reading.slice,
        owner: reading.owner.life.clone(),
        address: reading.owner.address.clone(),
        since: reading.since,
    }
}
