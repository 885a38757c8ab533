//! [`Node`]: one simulated node process: the real cores, a [`ModelStore`], and a shell that turns messages and time into
//! events and carries the actions out, as the server's does.
//!
//! ```text
//!   operations   admit, execute under one roof, hold back, answer
//!   peeks        ask a giver before a key is called absent; answer a taker
//!   session      the slicelet and its session with the Assigner
//!   streams      both ends of a pull
//!   replicas     both ends of a read lease
//! ```

mod operations;
mod peeks;
mod replicas;
mod session;
mod streams;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::slicelet::{Identity, Slicelet, SliceletEvent};
use softstore_sharding::{
    Generation, Incarnation, Life, NodeId, Peer, ProcessId, PullId, RangeMap, SliceKey, Timestamp,
};
use softstore_store::{ModelStore, ModelStoreConfig, Part, Store};
use softstore_transfer::chunk::CHUNK_VERSIONS;
use softstore_transfer::handoff::{ColdReason, Notice, PullEnd};
use softstore_transfer::{Action, Admission, HandoffCore};

use crate::clock::Clock;
use crate::env::{Env, Event, NodeTimer};
use crate::message::{Endpoint, Message, Reply, Request};
use operations::Waiting;
use peeks::{Asked, OpenPeek, ServedPeek};
use replicas::{COPIES, Replicas};
use streams::{Incoming, Outgoing};

/// See the head of this file.
pub(crate) struct Node {
    slot: usize,
    /// The slot whose node's name it has: its own, but for twins and successors.
    name: usize,
    process: u64,
    core: HandoffCore,
    slicelet: Slicelet,
    store: ModelStore,
    /// Its clock's origin differs from every other's.
    clock: Clock,
    /// It stands still: it serves nothing, and does not know it.
    stands_still: bool,
    could_serve: bool,
    /// It went on serving after a standstill without having reached the Assigner.
    pub(crate) resumed_alone: bool,
    /// It has gone; its slot is to be cleared.
    pub(crate) stopped: bool,
    connection: Option<u64>,
    core_wake_us: Option<u64>,
    slicelet_wake_us: Option<u64>,
    waiting: BTreeMap<u64, Waiting>,
    /// [`Bug::MovedAfterApplying`]: operations that were applied and are not answered.
    applied: BTreeMap<u64, (Request, Reply)>,
    asked: BTreeMap<(PullId, Bytes), Asked>,
    open_peeks: BTreeMap<u64, OpenPeek>,
    served_peeks: BTreeMap<u64, ServedPeek>,
    replicas: Replicas,
    outgoing: BTreeMap<u64, Outgoing>,
    incoming: BTreeMap<PullId, Incoming>,
    /// All that this process has ever opened.
    streams_opened: BTreeSet<u64>,
    woken: bool,
    core_changed: bool,
    /// Per key: its place in the history's ownerships while this node serves it.
    served: Vec<Option<usize>>,
    keys: Vec<SliceKey>,
}

/// The slot that an address names.
pub(crate) fn slot_of(address: &str) -> Option<usize> {
    address.strip_prefix('n')?.strip_suffix(":1")?.parse().ok()
}

/// Incarnations are drawn: their order says nothing about their age.
fn new_incarnation(slot: usize, env: &mut Env) -> u64 {
    if planted::is(Bug::IncarnationReused) {
        slot as u64 + 1
    } else {
        env.random.bits() | 1
    }
}

fn process_id(process: u64) -> ProcessId {
    ProcessId::new(process + 1).expect("not 0")
}

fn peer(slot: usize, name: usize, incarnation: u64) -> Peer {
    let node = NodeId::new(&format!("n{name}")).expect("a short plain name");
    let life = Life {
        node,
        incarnation: Incarnation::new(incarnation),
    };
    Peer {
        life,
        address: format!("n{slot}:1").into(),
    }
}

impl Node {
    /// A process at a slot, with the name of the node that is at home at `name`. Its timers run from now on.
    pub(crate) fn start(slot: usize, name: usize, env: &mut Env) -> Self {
        let process = env.name();
        let me = peer(slot, name, new_incarnation(slot, env));
        let clock = Clock::draw(env);
        let half_sizes = if env.plan.is_uneven {
            env.random.between(1, 4)
        } else {
            2
        };
        let identity = Identity {
            peer: me.clone(),
            http_address: "".into(),
            zone: "".into(),
            capacity_bytes: half_sizes << 19,
            process: process_id(process),
            cluster: None,
        };
        let now = clock.now(env);
        let store = ModelStoreConfig {
            budget_bytes: (env.plan.budget_bytes / 2).saturating_mul(half_sizes),
            written_keys_max: env.plan.written_keys_max,
            ..ModelStoreConfig::default()
        };
        let keys: Vec<SliceKey> = (0..env.plan.keys())
            .map(|key| SliceKey::of_key(&env.plan.key_bytes(key)))
            .collect();
        let mut node = Self {
            slot,
            name,
            process,
            core: HandoffCore::new(me, env.plan.handoff.clone(), CHUNK_VERSIONS),
            slicelet: Slicelet::new(env.plan.slicelet, identity, now),
            store: ModelStore::new(store),
            clock,
            stands_still: false,
            could_serve: false,
            resumed_alone: false,
            stopped: false,
            connection: None,
            core_wake_us: None,
            slicelet_wake_us: None,
            waiting: BTreeMap::new(),
            applied: BTreeMap::new(),
            asked: BTreeMap::new(),
            open_peeks: BTreeMap::new(),
            served_peeks: BTreeMap::new(),
            replicas: Replicas::default(),
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
            streams_opened: BTreeSet::new(),
            woken: false,
            core_changed: true,
            served: vec![None; keys.len()],
            keys,
        };
        env.trace(|| format!("n{slot} starts as {}", node.core.me().life));
        node.store.begin_pull(COPIES);
        node.timer(100_000, NodeTimer::Maintain, env);
        node.tick_slicelet(env);
        node
    }

    pub(crate) fn process(&self) -> u64 {
        self.process
    }

    /// As it calls itself before the Assigner.
    pub(crate) fn process_id(&self) -> ProcessId {
        process_id(self.process)
    }

    pub(crate) fn life(&self) -> &Life {
        &self.core.me().life
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.slicelet.is_draining()
    }

    /// Whether it serves, or will, what an assignment gave it.
    pub(crate) fn holds_ranges(&self) -> bool {
        let counts = self.core.counts();
        counts.held + counts.pending > 0
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Node(self.slot)
    }

    /// The node's own clock.
    fn now(&self, env: &Env) -> Timestamp {
        self.clock.now(env)
    }

    /// Whether it may serve at all: asked anew for each operation.
    fn may_serve(&self, env: &Env) -> bool {
        !self.stopped && !self.stands_still && self.slicelet.may_serve(self.now(env))
    }

    /// The process stands still from now on.
    pub(crate) fn stand_still(&mut self, env: &mut Env) {
        self.stands_still = true;
        self.note_ownership(env);
    }

    /// The process goes on, and looks at its clock before it does anything else.
    pub(crate) fn go_on(&mut self, env: &mut Env) {
        self.stands_still = false;
        self.core_changed = true;
        self.tick_slicelet(env);
        self.settle(env);
    }

    /// A moment of the node's clock as one of the simulation.
    fn to_us(&self, at: Timestamp) -> u64 {
        self.clock.to_us(at)
    }

    fn timer(&self, delay_us: u64, timer: NodeTimer, env: &mut Env) {
        let (slot, process) = (self.slot, self.process);
        env.after(delay_us, Event::Node { slot, process, timer });
    }

    /// The process begins to leave.
    pub(crate) fn drain(&mut self, env: &mut Env) {
        if self.slicelet.is_draining() {
            return;
        }
        self.timer(env.plan.drain_deadline_us, NodeTimer::DrainDeadline, env);
        self.step_slicelet(SliceletEvent::DrainRequested, env);
        self.settle(env);
    }

    pub(crate) fn timer_fired(&mut self, timer: NodeTimer, env: &mut Env) {
        match timer {
            NodeTimer::Core if !env.is_due(&mut self.core_wake_us) => return,
            NodeTimer::Slicelet if !env.is_due(&mut self.slicelet_wake_us) => return,
            NodeTimer::Core => {
                let actions = self.core.tick(self.now(env));
                self.carry_out(actions, env);
            }
            NodeTimer::Slicelet => self.tick_slicelet(env),
            NodeTimer::Waiting { token } => self.waited_long_enough(token, env),
            NodeTimer::Peek { peek } => self.peek_timed_out(peek, env),
            NodeTimer::Recall { order } => self.recall_again(order, env),
            NodeTimer::Readers { token } => self.still_waits_for_readers(token, env),
            NodeTimer::Fill { fill } => self.fill_timed_out(fill, env),
            NodeTimer::StreamStep { stream } => self.step_stream(stream, env),
            NodeTimer::StreamCheck { pull, stream, seen } => self.check_stream(pull, stream, seen, env),
            NodeTimer::ConnectTimeout { connection } => {
                if self.connection == Some(connection) && !self.slicelet.is_connected() {
                    self.closed(connection, env);
                }
            }
            NodeTimer::DrainDeadline => {
                env.trace(|| format!("n{} reaches its drain deadline", self.slot));
                env.history.is_gentle = false;
                self.step_slicelet(SliceletEvent::StoppedServing, env);
            }
            NodeTimer::Maintain => {
                self.store.maintain(self.now(env));
                self.end_overflowed(env);
                self.timer(100_000, NodeTimer::Maintain, env);
            }
            NodeTimer::Execute { token } => self.execute_late(token, env),
            NodeTimer::Import { pull, entry } => {
                self.import_now(pull, &entry, false, env);
            }
            NodeTimer::StopLate => self.stopped = true,
        }
        self.settle(env);
    }

    pub(crate) fn receive(&mut self, from: Endpoint, message: Message, env: &mut Env) {
        match message {
            Message::Operation(request) => self.arrived(request, env),
            Message::Watch { generation } => self.answer_watch(from, generation, env),
            Message::Take(take) => {
                let answer = self.take(&take, env);
                env.send(self.endpoint(), from, Message::TakeReply(answer));
            }
            Message::TakeReply(answer) => self.take_answered(answer, env),
            Message::Release(release) => {
                let actions = self.core.release(&release).unwrap_or_else(|_| {
                    env.counters.refused += 1;
                    Vec::new()
                });
                self.carry_out(actions, env);
            }
            Message::Peek { peek, request } => self.serve_peek(from, peek, &request, env),
            Message::PeekReply { peek, answers } => self.peek_answered(peek, answers, env),
            Message::AskLease { sequence, request } => self.lend(from, sequence, &request, env),
            Message::LeaseReply { sequence, answer } => self.lease_answered(sequence, answer, env),
            Message::Invalidate { order, message } => self.forget(from, order, &message, env),
            Message::Invalidated { order } => self.invalidated(order, env),
            Message::Fill { fill, request } => self.serve_fill(from, fill, &request, env),
            Message::FillReply { fill, answers } => self.filled(fill, answers, env),
            Message::OpenPull {
                stream,
                pull,
                request,
            } => self.open_stream(from, stream, pull, request, env),
            Message::Chunk(chunk) => self.chunk_arrived(from, &chunk, env),
            Message::PullRefused {
                stream,
                pull,
                refusal,
            } => self.pull_refused(stream, pull, refusal, env),
            Message::ClosePull { stream } => {
                self.outgoing.remove(&stream);
            }
            Message::Accepted { connection } => {
                if self.connection == Some(connection) {
                    let (claims, offers) = (self.core.claims(), self.core.offers());
                    self.step_slicelet(SliceletEvent::SessionOpened { claims, offers }, env);
                }
            }
            Message::Closed { connection } => self.closed(connection, env),
            Message::ToNode { connection, message } => {
                if self.connection == Some(connection) {
                    self.step_slicelet(SliceletEvent::FromAssigner(message), env);
                }
            }
            Message::OperationReply { .. }
            | Message::WatchReply(_)
            | Message::Connect { .. }
            | Message::ToAssigner { .. } => {}
        }
        self.settle(env);
    }

    fn answer_watch(&self, from: Endpoint, known: Generation, env: &mut Env) {
        use softstore_sharding::session::AssignmentUpdate;
        if let Some(held) = self.core.assignment().filter(|held| held.generation() > known) {
            env.send(
                self.endpoint(),
                from,
                Message::WatchReply(AssignmentUpdate::Full(held.clone())),
            );
        }
    }

    fn take(
        &mut self,
        take: &softstore_transfer::message::Take,
        env: &mut Env,
    ) -> Result<softstore_transfer::message::TakeReply, softstore_transfer::message::Refusal> {
        match self.core.take(take, self.now(env)) {
            Ok((reply, actions)) => {
                env.trace(|| {
                    format!(
                        "n{} answers {:?} to {}",
                        self.slot, reply.answers, take.taker.life
                    )
                });
                self.carry_out(actions, env);
                Ok(reply)
            }
            Err(refusal) => {
                env.trace(|| format!("n{} refuses a take of {}: {refusal}", self.slot, take.taker.life));
                env.counters.refused += 1;
                Err(refusal)
            }
        }
    }

    fn take_answered(
        &mut self,
        answer: Result<softstore_transfer::message::TakeReply, softstore_transfer::message::Refusal>,
        env: &mut Env,
    ) {
        if let Ok(reply) = answer {
            let actions = self.core.take_answered(&reply, self.now(env));
            self.carry_out(actions, env);
        }
    }

    /// Carries the core's actions out, in order. Nothing is admitted before the store's have been.
    fn carry_out(&mut self, actions: Vec<Action>, env: &mut Env) {
        self.core_changed = true;
        for action in actions {
            match action {
                Action::SendTake { take, address, relay } => {
                    if relay {
                        let to = take.to.clone();
                        self.relay(to, Message::Take(take.clone()), env);
                    }
                    if let Some(slot) = slot_of(&address) {
                        env.send(self.endpoint(), Endpoint::Node(slot), Message::Take(take));
                    }
                }
                Action::BeginPull(pull) => self.store.begin_pull(pull),
                Action::BeginAwaiting(pull) => self.store.begin_awaiting(pull),
                Action::EndPull(pull) => self.store.end_pull(pull),
                Action::StartPull { pull, giver, request } => self.start_pull(pull, &giver, request, env),
                Action::StopPull(pull) => self.stop_pull(pull, env),
                Action::SendRelease { release, address } => {
                    let is_silent = planted::is(Bug::SilentTaker);
                    if let Some(slot) = slot_of(&address).filter(|_| !is_silent) {
                        env.send(self.endpoint(), Endpoint::Node(slot), Message::Release(release));
                    }
                }
                Action::Report(_) if planted::is(Bug::SilentTaker) => {}
                Action::Report(reports) => self.step_slicelet(SliceletEvent::Handoffs(reports), env),
                Action::Contradicted => self.step_slicelet(SliceletEvent::Contradicted, env),
                Action::Purge(..) if planted::is(Bug::LeftoversKept) => {}
                Action::Purge(slice, epoch) => self.store.purge(Part { slice, epoch }),
                Action::AskLease {
                    request,
                    address,
                    sequence,
                } => self.ask_lease(request, &address, sequence, env),
                Action::Recall {
                    reader,
                    slices,
                    number,
                } => self.recall(&reader, slices, number, env),
                Action::Wake => self.woken = true,
                Action::Notice(notice) => self.notice(&notice, env),
            }
        }
    }

    /// Ends what is awaited where more was written meanwhile than can be remembered.
    fn end_overflowed(&mut self, env: &mut Env) {
        let memories = self.core.memories_awaiting();
        let overflowed: Vec<PullId> = memories
            .filter(|memory| self.store.pull_overflowed(*memory))
            .collect();
        for memory in overflowed {
            let actions = self.core.pull_ended(memory, PullEnd::Overflow);
            self.carry_out(actions, env);
        }
    }

    fn notice(&self, notice: &Notice, env: &mut Env) {
        env.trace(|| format!("n{} {notice:?}", self.slot));
        match notice {
            Notice::Took { .. } => env.counters.handoffs += 1,
            Notice::StartedCold { reason, .. } => {
                env.counters.cold_starts += 1;
                debug_assert!(*reason != ColdReason::TransferOff, "transfer is on");
            }
            Notice::Renewed { .. } => env.counters.renewals += 1,
            Notice::PullEnded {
                end: PullEnd::Complete,
                ..
            } => env.counters.pulls_complete += 1,
            Notice::PullEnded { .. } => env.counters.pulls_cut_short += 1,
            Notice::Fenced { slice, taker, since } => {
                let copy = self.core.copy_at(slice.low(), *since, taker);
                env.counters.chains += u64::from(copy.is_some_and(|copy| copy.upstream.is_some()));
            }
            Notice::CameBack { .. } => env.counters.revivals += 1,
            Notice::CopyDropped { .. }
            | Notice::Dropped { .. }
            | Notice::Awaiting { .. }
            | Notice::NotBack { .. }
            | Notice::Offered { .. } => {}
        }
    }

    /// After each event: what it woke is tried again, what changed is noted, and the next tick is set.
    fn settle(&mut self, env: &mut Env) {
        let may_serve = self.may_serve(env);
        self.core_changed |= std::mem::replace(&mut self.could_serve, may_serve) != may_serve;
        while std::mem::take(&mut self.woken) {
            self.retry_waiting(env);
        }
        self.send_peeks(env);
        if self.slicelet.is_draining() && self.core.is_empty() && !self.stopped {
            self.step_slicelet(SliceletEvent::Drained, env);
        }
        if let Some(at) = self.core.wake_at() {
            let at_us = self.to_us(at).max(env.now_us + 1);
            if self.core_wake_us.is_none_or(|due| at_us < due) {
                self.core_wake_us = Some(at_us);
                self.timer(at_us - env.now_us, NodeTimer::Core, env);
            }
        }
        if std::mem::take(&mut self.core_changed) {
            self.note_ownership(env);
        }
        env.counters.evicted = env.counters.evicted.max(self.store.stats().evicted);
    }

    /// Which keys would be served here.
    fn note_ownership(&mut self, env: &mut Env) {
        let is_serving = self.may_serve(env);
        for key in 0..self.keys.len() {
            let since = match self.core.admit(self.keys[key], Generation::NONE) {
                Admission::Serve(serving) if is_serving => Some(serving.since),
                _ => None,
            };
            let serving = since.map(|since| (&self.core.me().life, since));
            env.history
                .serves(&mut self.served[key], key, serving, env.now_us);
        }
    }

    /// The process is gone.
    pub(crate) fn end(mut self, env: &mut Env) {
        for key in 0..self.keys.len() {
            env.history.serves(&mut self.served[key], key, None, env.now_us);
        }
        for connection in env.connections_of(Some(self.slot)) {
            env.break_connection(connection);
        }
    }

    /// Leases lent or read that should not be in a cluster at rest, where these lives are living; and what should be read here
    /// and is not.
    pub(crate) fn wrong_leases(&self, living: &BTreeSet<&Life>) -> Vec<String> {
        let Some(assignment) = self.core.assignment() else {
            return Vec::new();
        };
        let mut wrong = Vec::new();
        for (slice, reader) in self.core.lent() {
            let range = assignment.range_at(slice.low());
            if range.owner != *self.life()
                || !range.readers.replicas.contains(reader)
                || !living.contains(reader)
            {
                wrong.push(format!("n{} lends {slice} to {reader}", self.slot));
            }
        }
        let mut read: RangeMap<()> = RangeMap::new();
        for (slice, owner) in self.core.readings() {
            read.insert(slice, ());
            let range = assignment.range_at(slice.low());
            if range.owner != *owner
                || !range.readers.replicas.contains(self.life())
                || !living.contains(owner)
            {
                wrong.push(format!("n{} reads {slice} of {owner}", self.slot));
            }
        }
        for (slice, range) in assignment.ranges().iter() {
            if range.readers.replicas.contains(self.life()) && !read.gaps(slice).is_empty() {
                wrong.push(format!(
                    "n{} is a replica of {slice} and does not read it",
                    self.slot
                ));
            }
        }
        wrong
    }

    /// What is still on in a cluster where nothing should be; empty if nothing is.
    pub(crate) fn unfinished(&self, env: &Env) -> String {
        let counts = self.core.counts();
        let mut left = Vec::new();
        let mut note = |what: &str, count: usize| {
            if count > 0 {
                left.push(format!("{count} {what}"));
            }
        };
        note("searches open", counts.pending);
        note("ranges pulling", counts.pulling);
        note("frozen copies", counts.giving);
        note("pulls open", self.core.pulls_open());
        note("operations held back", self.waiting.len());
        note(
            "keys remembered as written",
            usize::try_from(self.store.stats().written_keys).unwrap_or(usize::MAX),
        );
        for (what, count) in self.unfinished_of_replicas() {
            note(what, count);
        }
        note("without leave to serve", usize::from(!self.may_serve(env)));
        if left.is_empty() {
            String::new()
        } else {
            format!("n{}: {}", self.slot, left.join(", "))
        }
    }

    /// Whether it serves a key.
    pub(crate) fn serves(&self, at: SliceKey, env: &Env) -> bool {
        self.may_serve(env) && matches!(self.core.admit(at, Generation::NONE), Admission::Serve(_))
    }
}
