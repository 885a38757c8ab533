//! [`NodeState`]: what all parts of a running node share, and how the core's actions become I/O.
//!
//! The core stands behind a lock (see `transfer::handoff`): operations run under its shared side, everything that
//! changes ownership under its exclusive side. [`NodeState::with_core`] is the only place that takes the exclusive
//! side: it carries out the store's actions before letting go, and starts the rest afterwards, in the order in which the
//! core asked for it. What it has to tell is logged when neither lock is held.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Unit;
use softstore_sharding::session::{DrainReport, ServingReport, WhyUnserved};
use softstore_sharding::slicelet::SliceletEvent;
use softstore_sharding::{Assignment, Life, Peer, PullId, Slice, Timestamp};
use softstore_store::{Part, Store};
use softstore_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use softstore_sync::planted::{self, Race};
use softstore_sync::{Mutex, RwLock, RwLockReadGuard};
use softstore_transfer::handoff::{Action, Clearance, HandoffCore, Notice, PullEnd, Writes};
use softstore_transfer::message::{Release, Take};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::channels::{Channels, PeerError};
use super::givings::Givings;
use super::identity::NodeIdentity;
use super::in_order::InOrder;
use super::invalidations::Invalidations;
use super::lending;
use super::load::LoadMeter;
use super::metrics::{NodeMetrics, count};
use super::pauses::Pauses;
use super::peeks::Peeks;
use super::puller;
use super::reading::{self, Copies};
use super::saturation::Saturation;
use super::standing::{Leave, Standing};
use super::transfer_service::UNHEARD_TAKES_MAX;
use crate::clock::{Clock, unix_ms};
use crate::conditions::{Conditions, Kind};
use crate::config::NodeConfig;
use crate::events;
use crate::listener::ListenerCounters;
use crate::memory::MemoryGauges;
use crate::readings::Reading;

/// How long a `Take` or a release may take before it counts as lost.
pub(super) const PEER_CALL_TIMEOUT_MS: u64 = 1_000;

/// Chunks that arrive damaged, one after the other, at one place of a pull: then it is not the way that damages them, and the
/// pull is given up.
pub(super) const BAD_CHUNKS_MAX: u32 = 16;

/// Parts that wait to be reclaimed from which on no flush may add others. Hand-offs leave no more parts than there are
/// ranges, but clients may send flushes faster than their parts are reclaimed.
const FLUSH_BACKLOG_PARTS_MAX: usize = 4_096;

/// Events that wait for the slicelet. Its task waits for nothing but events, so that they are that many only while the node has no
/// time; and what others can have this node say comes in them.
const SLICELET_EVENTS_MAX: usize = 8_192;

/// Of these, places that are kept for the operator's and the process' own words: drain, stopped.
const SLICELET_EVENTS_RESERVED: usize = 16;

/// What the parts of a node share.
#[derive(Debug)]
pub struct NodeState {
    /// How it is set up.
    pub config: NodeConfig,
    /// Its clock.
    pub clock: Clock,
    /// Its entries.
    pub store: Arc<dyn StoreEngine>,
    /// What it counts.
    pub metrics: NodeMetrics,
    /// What a person needs to know of it.
    pub conditions: Conditions,
    /// Peeks at givers.
    pub peeks: Peeks,
    /// Which process this is, of which cluster.
    pub identity: Arc<NodeIdentity>,
    /// Connections to other nodes.
    pub channels: Channels,
    /// What is about to be changed here, and may be read elsewhere.
    pub(super) writes: Mutex<Writes>,
    /// What is told to replicas.
    pub(super) invalidations: Invalidations,
    /// What is fetched as a replica.
    pub(super) copies: Copies,
    /// What is known of the process' memory.
    pub memory: Arc<MemoryGauges>,
    /// What its ports counted.
    pub listeners: Arc<ListenerCounters>,
    /// Fires when streams are to end after their last reply.
    pub closing: CancellationToken,
    /// Fires when the node has ended: its connections are cut, and its tasks end.
    pub stop: CancellationToken,
    /// Everything this node runs.
    pub tasks: TaskTracker,
    core: RwLock<HandoffCore>,
    /// What the core asked for and is not yet begun.
    actions: InOrder<Action>,
    /// Grows with each change that may let a request go on that was held back.
    wake: watch::Sender<u64>,
    /// The newest assignment, for clients that watch.
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    /// When the core next wants its `tick`.
    tick_at: watch::Sender<Option<Timestamp>>,
    /// To the session's task.
    to_slicelet: mpsc::Sender<SliceletEvent>,
    /// Reports were lost on the way there: the claims of another hello have to make up for them.
    reports_lost: AtomicBool,
    /// Running pull streams.
    pulls: Mutex<HashMap<PullId, CancellationToken>>,
    /// Chunks that arrived damaged, one after the other, at the place where a pull is.
    bad_chunks: Mutex<HashMap<PullId, u32>>,
    /// What is given to whom.
    pub(super) givings: Givings,
    /// Whether what it serves can be relied on.
    standing: Standing,
    /// Grows with each end of a lease.
    lease_ends: watch::Sender<u64>,
    /// Why the Assigner does not hear this node, if so.
    barred: Mutex<Option<&'static str>>,
    /// What it held and had given when its drain began; unset while it does not drain.
    drain_began: OnceLock<DrainReport>,
    /// Whether this node has time left.
    pub(super) saturation: Saturation,
    pub(super) pauses: Pauses,
    /// What its slices draw.
    pub(super) load: LoadMeter,
    /// Places for `Take`s that wait for their assignment.
    pub(super) takes_unheard: Semaphore,
    /// Requests held back, and their bytes.
    pub(super) held_requests: AtomicU64,
    pub(super) held_bytes: AtomicU64,
}

/// A store that can be printed, as the state wants it.
pub trait StoreEngine: Store + std::fmt::Debug {}

impl<S: Store + std::fmt::Debug> StoreEngine for S {}

impl NodeState {
    /// A node that holds nothing. What it has to tell the Assigner comes out of the returned receiver.
    pub fn new(
        config: NodeConfig,
        core: HandoffCore,
        store: Arc<dyn StoreEngine>,
    ) -> (Arc<Self>, mpsc::Receiver<SliceletEvent>) {
        let (to_slicelet, from_node) = mpsc::channel(SLICELET_EVENTS_MAX);
        // The Assigner counts from the last heartbeat, which is up to an interval older than the last step.
        let identity = Arc::new(NodeIdentity::new(Some(config.cluster_name())));
        let state = Self {
            channels: Channels::new(identity.clone()),
            identity,
            config,
            clock: Clock,
            store,
            metrics: NodeMetrics::default(),
            conditions: Conditions::default(),
            peeks: Peeks::default(),
            writes: Mutex::default(),
            invalidations: Invalidations::default(),
            copies: Copies::default(),
            memory: Arc::default(),
            listeners: Arc::default(),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            core: RwLock::new(core),
            actions: InOrder::default(),
            wake: watch::channel(0).0,
            assignment: watch::channel(None).0,
            tick_at: watch::channel(None).0,
            to_slicelet,
            reports_lost: AtomicBool::new(false),
            pulls: Mutex::default(),
            bad_chunks: Mutex::default(),
            givings: Givings::default(),
            standing: Standing::default(),
            lease_ends: watch::channel(0).0,
            barred: Mutex::default(),
            drain_began: OnceLock::new(),
            saturation: Saturation::default(),
            pauses: Pauses::default(),
            load: LoadMeter::default(),
            takes_unheard: Semaphore::new(UNHEARD_TAKES_MAX),
            held_requests: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
        };
        (Arc::new(state), from_node)
    }

    /// The core, shared: for admission and everything that only reads.
    pub fn core(&self) -> RwLockReadGuard<'_, HandoffCore> {
        self.core.read()
    }

    /// Changes the core with nobody else inside, and carries out what follows from it.
    pub fn with_core<R>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut HandoffCore, Timestamp) -> (R, Vec<Action>),
    ) -> R {
        let is_late = planted::is(Race::DecidedOutOfOrder);
        let mut late = Vec::new();
        let mut notices = Vec::new();
        let result = {
            let mut core = self.core.write();
            let (result, mut actions) = change(&mut core, self.clock.now());
            notices.extend(actions.extract_if(.., |action| matches!(action, Action::Notice(_))));
            for action in &actions {
                match action {
                    Action::BeginPull(pull) => self.store.begin_pull(*pull),
                    Action::BeginAwaiting(pull) => self.store.begin_awaiting(*pull),
                    Action::EndPull(pull) => self.store.end_pull(*pull),
                    _ => {}
                }
            }
            if is_late {
                late = actions;
            } else {
                self.actions.add(actions);
            }
            // Under the lock, too: an older moment must not replace a newer one.
            let wake_at = core.wake_at();
            self.tick_at
                .send_if_modified(|at| std::mem::replace(at, wake_at) != wake_at);
            result
        };
        if is_late {
            self.actions.add(late);
        }
        self.actions.carry_out(|action| self.carry_out(action));
        self.tell(notices);
        result
    }

    /// Adopts an assignment and shows it to clients that watch.
    pub fn adopt(self: &Arc<Self>, assignment: &Arc<Assignment>) {
        if let Some(founding) = assignment.founding() {
            self.identity.found(founding);
        }
        self.with_core(|core, now| ((), core.adopt(assignment, now)));
        self.assignment.send_replace(Some(assignment.clone()));
    }

    /// The Assigner has answered a heartbeat.
    pub(super) fn assigner_answered(self: &Arc<Self>) {
        self.with_core(|core, now| {
            core.assigner_answered(now, unix_ms());
            ((), Vec::new())
        });
    }

    /// Takes up a new life after the old one was declared dead.
    pub fn reborn(self: &Arc<Self>, me: Peer) {
        count(&self.metrics.rebirths);
        self.with_core(|core, now| ((), core.reborn(me, now)));
    }

    /// Ends what is awaited where more was written meanwhile than can be remembered.
    pub(super) fn end_overflowed(self: &Arc<Self>) {
        let memories: Vec<PullId> = self.core().memories_awaiting().collect();
        for memory in memories
            .into_iter()
            .filter(|memory| self.store.pull_overflowed(*memory))
        {
            self.with_core(|core, _| ((), core.pull_ended(memory, PullEnd::Overflow)));
        }
    }

    /// Begins what one action asks for. Nothing here waits, logs, or comes back to the core.
    fn carry_out(self: &Arc<Self>, action: Action) {
        match action {
            Action::SendTake { take, address, relay } => self.send_take(take, address, relay),
            Action::StartPull { pull, giver, request } => {
                let stop = self.stop.child_token();
                if let Some(before) = self.pulls.lock().insert(pull, stop.clone()) {
                    before.cancel();
                }
                self.tasks
                    .spawn(puller::run(self.clone(), pull, giver, request, stop));
            }
            Action::StopPull(pull) => {
                if let Some(stop) = self.pulls.lock().remove(&pull) {
                    stop.cancel();
                }
                self.bad_chunks.lock().remove(&pull);
                self.peeks.end(pull);
            }
            Action::SendRelease { release, address } => self.send_release(release, address),
            Action::Report(reports) => self.tell_slicelet(SliceletEvent::Handoffs(reports)),
            Action::Contradicted => {
                self.conditions.observe(Kind::Contradicted, "", "");
                self.tell_slicelet(SliceletEvent::Contradicted);
            }
            Action::AskLease {
                request,
                address,
                sequence,
            } => reading::ask_lease(self, request, address, sequence),
            Action::Recall {
                reader,
                slices,
                number,
            } => lending::recall(self, reader, slices, number),
            Action::Purge(slice, epoch) => self.store.purge(Part { slice, epoch }),
            Action::Wake => self.wake.send_modify(|count| *count += 1),
            // Done already, before the lock was let go; and told when all is begun.
            Action::BeginPull(_) | Action::BeginAwaiting(_) | Action::EndPull(_) | Action::Notice(_) => {}
        }
    }

    fn send_take(self: &Arc<Self>, take: Take, address: Arc<str>, relay: bool) {
        if relay {
            count(&self.metrics.messages_relayed);
            let payload = softstore_proto::transfer::Relayed::Take(take.clone()).encode();
            self.tell_slicelet(SliceletEvent::RelayTo {
                to: take.to.clone(),
                payload,
            });
        }
        let state = self.clone();
        self.tasks.spawn(async move {
            events::asked(&take, relay);
            if address.is_empty() {
                return;
            }
            match state.channels.take(&address, &take).await {
                Ok((reply, longest_pause_ms)) => {
                    state
                        .conditions
                        .clear(Kind::PeerUnreachable, take.to.node.as_str());
                    state.pauses.told(reply.from.incarnation, longest_pause_ms);
                    state.with_core(|core, now| ((), core.take_answered(&reply, now)));
                }
                // Either way the core sends it again.
                Err(error) if error.is_malformed() => {
                    count(&state.metrics.peer_messages_refused);
                    tracing::debug!(to = %take.to, %error, "the answer to a take cannot be understood");
                }
                Err(error) => state.is_unreachable(&take.to, &address, &error),
            }
        });
    }

    fn send_release(self: &Arc<Self>, release: Release, address: Arc<str>) {
        let state = self.clone();
        self.tasks.spawn(async move {
            // Best effort: the giver also drops its copy when the assignment no longer lists it.
            if let Err(error) = state.channels.release(&address, &release).await {
                tracing::debug!(to = %release.to, %error, "a release was not delivered");
            }
        });
    }

    /// Notices that a node from which something is to be taken does not answer, if that is so.
    pub(super) fn is_unreachable(&self, peer: &Life, address: &str, error: &PeerError) {
        if !error.is_refusal() {
            let why = format!("{address}: {}", error.why());
            self.conditions
                .observe(Kind::PeerUnreachable, peer.node.as_str(), why);
        }
    }

    /// A chunk of a pull arrived damaged. Whether that happened at the same place too often.
    pub(super) fn chunk_was_bad(&self, pull: PullId) -> bool {
        let mut bad_chunks = self.bad_chunks.lock();
        let bad = bad_chunks.entry(pull).or_default();
        *bad += 1;
        *bad >= BAD_CHUNKS_MAX
    }

    /// A chunk of a pull arrived as it should.
    pub(super) fn chunk_was_good(&self, pull: PullId) {
        self.bad_chunks.lock().remove(&pull);
    }

    /// Counts and logs what the core has to tell of one step. No lock is held.
    fn tell(&self, told: Vec<Action>) {
        if told.is_empty() {
            return;
        }
        let notices = told.into_iter().filter_map(|action| match action {
            Action::Notice(notice) => Some(notice),
            _ => None,
        });
        let notices: Vec<Notice> = notices.collect();
        for notice in &notices {
            self.metrics.notice(notice);
            if let Notice::PullEnded {
                giver,
                end: PullEnd::Overflow,
                ..
            } = notice
            {
                self.conditions
                    .observe(Kind::WrittenKeysOverflow, giver.node.as_str(), "");
            }
        }
        events::handoff(&notices);
    }

    /// Hands an event to the session's task. If too many wait there, relayed messages are lost, which are sent again anyway, and so
    /// are reports: then the node says hello again, and what it claims tells the same.
    pub fn tell_slicelet(&self, event: SliceletEvent) {
        let is_report = matches!(event, SliceletEvent::Handoffs(_));
        let may_be_lost = is_report || matches!(event, SliceletEvent::RelayTo { .. });
        if may_be_lost && self.to_slicelet.capacity() <= SLICELET_EVENTS_RESERVED {
            count(&self.metrics.slicelet_events_lost);
            if is_report {
                self.reports_lost.store(true, Ordering::Release);
            }
            return;
        }
        // The session's task lives as long as the node; after that nobody is left to tell.
        let _ = self.to_slicelet.try_send(event);
    }

    /// Whether reports were lost since the last time that this was asked.
    pub(super) fn take_reports_lost(&self) -> bool {
        self.reports_lost.swap(false, Ordering::AcqRel)
    }

    /// Waits for the next change that may let a held-back request go on. Subscribe before asking for admission.
    pub fn wakes(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// The newest assignment, as it changes.
    pub fn assignments(&self) -> watch::Receiver<Option<Arc<Assignment>>> {
        self.assignment.subscribe()
    }

    /// When the core next wants its tick, as it changes.
    pub(super) fn ticks(&self) -> watch::Receiver<Option<Timestamp>> {
        self.tick_at.subscribe()
    }

    /// Whether serving is suspended.
    pub fn is_suspended(&self) -> bool {
        self.standing.is_suspended()
    }

    /// Whether an operation may be served at `now`, a fresh reading of the clock. A node that stood still (a stopped
    /// process, a suspended machine) or whose lease is over may have lost what it thinks it owns: the slicelet notices at its
    /// next step, and this notices before that (H1).
    pub fn may_serve(&self, now: Timestamp) -> bool {
        self.standing.may_serve(now)
    }

    /// Whether serving has ended for good.
    pub(super) fn is_stopped(&self) -> bool {
        self.standing.is_stopped()
    }

    /// Whether what this node knows of its ownership can be relied on at `now`, a fresh reading of the clock.
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        self.standing.is_current(now)
    }

    /// Whether the Assigner lets this node serve at `now`: with leases, whether its lease is not over.
    pub(super) fn is_tenured(&self, now: Timestamp) -> bool {
        self.standing.is_tenured(now)
    }

    /// Whether this node serves under leases, and the present one is over: it may be cut off from the Assigner.
    pub(super) fn is_lease_over(&self) -> bool {
        let now = self.clock.now();
        self.standing.lease_ms(now).0 > 0 && !self.is_tenured(now)
    }

    /// Changes with each end of a lease from now on.
    pub(super) fn lease_ends(&self) -> watch::Receiver<u64> {
        self.lease_ends.subscribe()
    }

    /// The lease is over.
    pub(super) fn lease_ended(&self) {
        count(&self.metrics.leases_ended);
        self.lease_ends.send_modify(|ends| *ends += 1);
    }

    /// Length of the leases under which this node serves, and what is left of the present one, in milliseconds. Both are 0
    /// without leases.
    pub(super) fn lease_ms(&self) -> (u64, u64) {
        self.standing.lease_ms(self.clock.now())
    }

    /// Ends serving for good. Where the ranges went is still told.
    pub(super) fn stop_serving(self: &Arc<Self>) {
        self.standing.stop();
        // Whatever was admitted before has left the store when the exclusive lock is had.
        if !planted::is(Race::StopWaitsForNobody) {
            self.with_core(|_, _| ((), Vec::new()));
        }
        self.wake.send_modify(|count| *count += 1);
    }

    /// Ends everything, after [`NodeState::stop_serving`]: connections, pulls, tasks.
    pub(super) fn end(&self) {
        self.stop.cancel();
        self.closing.cancel();
        self.pulls.lock().clear();
        self.peeks.end_all();
        self.invalidations.end_all();
    }

    /// The slicelet has looked around, and suspended serving if it had to.
    pub(super) fn slicelet_stepped(&self, leave: Leave) {
        self.standing.step(leave);
    }

    /// Suspends or resumes serving.
    pub fn set_suspended(&self, suspended: bool) {
        if suspended {
            count(&self.metrics.suspensions);
        }
        self.standing.set_suspended(suspended);
        self.wake.send_modify(|count| *count += 1);
    }

    /// Whether this node is on its way out.
    pub fn is_draining(&self) -> bool {
        self.drain_began.get().is_some()
    }

    /// Marks this node as on its way out.
    pub fn set_draining(&self) {
        self.drain_began.get_or_init(|| DrainReport {
            entries_held: self.store.stats().entries,
            ..self.given()
        });
    }

    /// What takers were sent so far.
    fn given(&self) -> DrainReport {
        let read =
            |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        DrainReport {
            entries_held: 0,
            entries_given: read(&self.metrics.entries_given),
            bytes_given: read(&self.metrics.given_bytes),
        }
    }

    /// How far its drain is; none while it does not drain.
    pub(super) fn drain_report(&self) -> Option<DrainReport> {
        let (began, given) = (self.drain_began.get()?, self.given());
        Some(DrainReport {
            entries_held: began.entries_held,
            entries_given: given.entries_given - began.entries_given,
            bytes_given: given.bytes_given - began.bytes_given,
        })
    }

    /// Which of its ranges this node would not answer for at `now`, a fresh reading of the clock.
    pub(super) fn serving(&self, core: &HandoffCore, now: Timestamp) -> ServingReport {
        if self.may_serve(now) {
            return core.unserved();
        }
        let me = &core.me().life;
        let ranges = core
            .assignment()
            .into_iter()
            .flat_map(|held| held.ranges().iter());
        let mut owned = ranges
            .filter(|(_, range)| range.owner == *me)
            .map(|(slice, _)| slice)
            .peekable();
        let first = owned.peek().map(|slice| (*slice, WhyUnserved::Unconfirmed));
        ServingReport {
            unserved: owned.count() as u64,
            first,
        }
    }

    /// Whether the node should be counted as ready: it follows an assignment, serves, does not leave, and nothing is
    /// still on its way to it. The error says what is missing.
    ///
    /// # Errors
    /// What it waits for.
    pub fn readiness(&self) -> Result<(), &'static str> {
        let core = self.core();
        let counts = core.counts();
        if self.is_draining() {
            Err("draining")
        } else if self.is_suspended() {
            Err("suspended after standing still: waiting for the Assigner")
        } else if let Some(why) = *self.barred.lock() {
            Err(why)
        } else if core.assignment().is_none() {
            Err("waiting for an assignment")
        } else if !self.is_tenured(self.clock.now()) {
            Err("without a lease: waiting for the Assigner to renew it")
        } else if counts.pending > 0 {
            Err("taking over ranges")
        } else if core.unserved().unserved > 0 {
            Err(
                "not serving all that the assignment gives it: the Assigner is told, and `softstore status` shows which",
            )
        } else if core.pulls_open() > 0 {
            Err("pulling entries")
        } else {
            Ok(())
        }
    }

    /// Whether another node may leave out which cluster it is of: a build is listed that does not say it, or nothing is known
    /// yet, and nothing is held that it could ask for.
    pub(super) fn may_peers_be_silent(&self) -> bool {
        let held = self.assignment.borrow();
        held.as_ref().is_none_or(|held| held.lists_unidentified())
    }

    /// Why the Assigner does not hear this node, for the readiness; none: it does.
    pub(super) fn set_barred(&self, why: Option<&'static str>) {
        *self.barred.lock() = why;
    }

    /// Gauges and counters that are read when they are scraped.
    pub(super) fn readings(&self) -> Vec<Reading> {
        let stats = self.store.stats();
        let (counts, pulls, generation) = {
            let core = self.core();
            let generation = core
                .assignment()
                .map_or(0, |assignment| assignment.generation().number);
            (core.counts(), core.pulls_open(), generation)
        };
        let totals = self.load.totals();
        let load = |total: &std::sync::atomic::AtomicU64| total.load(std::sync::atomic::Ordering::Relaxed);
        let gauge = |name, help, value| Reading {
            name,
            help,
            unit: None,
            is_counter: false,
            value,
        };
        let bytes = |name, help, value| Reading {
            name,
            help,
            unit: Some(Unit::Bytes),
            is_counter: false,
            value,
        };
        let counter = |name, help, value| Reading {
            name,
            help,
            unit: None,
            is_counter: true,
            value,
        };
        vec![
            gauge("entries", "Entries in the store", stats.entries),
            gauge(
                "workers_busy_percent",
                "How much of their time the threads of the node's runtime were busy lately",
                self.saturation.busy_percent(),
            ),
            gauge(
                "queue_delay_us",
                "The longest time that a batch of operations waited to be read lately, in microseconds",
                self.saturation.delay_us(),
            ),
            gauge(
                "longest_pause_ms",
                "The longest time for which the process stood still in the last seconds, in milliseconds: stopped, throttled, or without a processor",
                self.pauses.longest_ms(),
            ),
            gauge(
                "load_operations_per_second",
                "Operations served per second, decayed, as of the last heartbeat",
                load(&totals.operations_per_second),
            ),
            gauge(
                "load_bytes_per_second",
                "Bytes of keys and values per second, in and out, decayed, as of the last heartbeat",
                load(&totals.bytes_per_second),
            ),
            gauge(
                "load_cpu_us_per_second",
                "Microseconds per second for which the threads of the node's runtime were busy, together, decayed, as of the last heartbeat",
                load(&totals.cpu_us_per_second),
            ),
            gauge(
                "hot_keys",
                "Keys that draw a good part of this node's operations each, as of the last heartbeat",
                load(&totals.hot_keys),
            ),
            gauge(
                "hottest_key_operations_per_second",
                "Operations per second on the hottest of them",
                load(&totals.hottest_key_operations_per_second),
            ),
            bytes("memory_used", "Memory counted against the budget", stats.bytes),
            bytes("memory_budget", "The store's budget", stats.budget_bytes),
            counter(
                "foreign_refused",
                "Calls and words of another cluster that were refused here, or of this node that another cluster refused",
                self.identity.refused_count(),
            ),
            counter(
                "unidentified_calls",
                "Calls that did not say which cluster they are of",
                self.identity.unidentified_count(),
            ),
            counter(
                "entries_evicted",
                "Entries evicted for want of room",
                stats.evicted,
            ),
            counter("entries_expired", "Entries found expired", stats.expired),
            counter(
                "entries_imported",
                "Entries received in hand-offs",
                stats.imported,
            ),
            counter(
                "imported_bytes",
                "Keys and values received in hand-offs, in bytes",
                stats.imported_bytes,
            ),
            counter(
                "position_collisions",
                "Entries displaced by another key at the same position",
                stats.collisions,
            ),
            gauge(
                "written_keys",
                "Keys remembered as written during open pulls",
                stats.written_keys,
            ),
            gauge("ranges_held", "Ranges served here", counts.held as u64),
            gauge(
                "ranges_pulling",
                "Ranges served here that are still being filled",
                counts.pulling as u64,
            ),
            gauge(
                "ranges_awaiting",
                "Ranges served here, cold, while what a silent node held of them may come back",
                counts.awaiting as u64,
            ),
            gauge(
                "ranges_offered",
                "Frozen copies that this process's former lives left and offer",
                counts.offered as u64,
            ),
            gauge("ranges_pending", "Ranges to be taken over", counts.pending as u64),
            gauge(
                "ranges_giving",
                "Frozen copies kept for takers",
                counts.giving as u64,
            ),
            gauge(
                "ranges_read",
                "Ranges read as a replica, under a lease",
                counts.reading as u64,
            ),
            gauge(
                "read_leases_lent",
                "Read leases that replicas hold on what is served here",
                counts.lent as u64,
            ),
            gauge("pulls_open", "Pulls open as taker", pulls as u64),
            gauge("generation", "Number of the assignment's generation", generation),
            gauge(
                "draining",
                "1 while this node hands off all it owns",
                u64::from(self.is_draining()),
            ),
            gauge(
                "suspended",
                "1 while serving is suspended",
                u64::from(self.is_suspended()),
            ),
            gauge(
                "requests_held_back",
                "Requests held back now",
                self.held_requests.load(Ordering::Relaxed),
            ),
            gauge(
                "peer_connections",
                "Connections open to other nodes",
                self.channels.len() as u64,
            ),
        ]
    }

    /// How many bytes of requests may be held back now.
    pub(super) fn hold_bytes_max(&self) -> u64 {
        self.memory
            .held_back_bytes()
            .min(self.config.hold_bytes_max as u64)
    }

    /// Whether flushes came faster than what they left can be reclaimed.
    pub(super) fn may_not_flush(&self) -> bool {
        self.store.purges_waiting() >= FLUSH_BACKLOG_PARTS_MAX
    }

    /// Removes everything of a slice that is held here, if all who may read it elsewhere have forgotten it. Returns the parts
    /// that are.
    pub(super) fn flush(self: &Arc<Self>, slice: Slice, clearance: Option<&Clearance>) -> Option<Vec<Slice>> {
        let nobody = Clearance::default();
        self.with_core(|core, now| {
            if !core.may_write(slice, clearance.unwrap_or(&nobody), now) {
                return (None, Vec::new());
            }
            let (flushed, actions) = core.flush(slice);
            (Some(flushed), actions)
        })
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::session::{HandoffOutcome, HandoffReport};
    use softstore_sharding::{Generation, Incarnation, NodeId};
    use softstore_store::{MokaStore, MokaStoreConfig};
    use softstore_transfer::{HandoffConfig, chunk};

    use super::*;

    /// A node called `n` that follows no assignment, and what it says to its slicelet.
    fn any_node() -> (Arc<NodeState>, mpsc::Receiver<SliceletEvent>) {
        let config = NodeConfig {
            memory_bytes: 1 << 20,
            ..NodeConfig::default()
        };
        let me = Peer {
            life: Life {
                node: NodeId::new("n").unwrap(),
                incarnation: Incarnation::new(1),
            },
            address: "host:1".into(),
        };
        let core = HandoffCore::new(me, HandoffConfig::default(), chunk::CHUNK_VERSIONS);
        let store = MokaStore::new(MokaStoreConfig {
            budget_bytes: 1 << 20,
            ..MokaStoreConfig::default()
        });
        NodeState::new(config, core, Arc::new(store))
    }

    fn report(number: u64) -> HandoffReport {
        HandoffReport {
            slice: Slice::FULL,
            since: Generation {
                number,
                assigner: Incarnation::new(1),
            },
            outcome: HandoffOutcome::Started,
        }
    }

    /// Plan: more reports than may wait for the slicelet, whose task does not run. They are bounded, it learns that some are lost,
    /// and the word that the node is to drain gets through.
    #[test]
    fn what_waits_for_the_slicelet_is_bounded() {
        let (state, mut events) = any_node();
        for number in 0..2 * SLICELET_EVENTS_MAX as u64 {
            state.tell_slicelet(SliceletEvent::Handoffs(vec![report(number)]));
        }
        state.tell_slicelet(SliceletEvent::DrainRequested);
        let mut waiting = Vec::new();
        while let Ok(event) = events.try_recv() {
            waiting.push(event);
        }
        assert!(waiting.len() <= SLICELET_EVENTS_MAX, "{}", waiting.len());
        assert_eq!(waiting.last(), Some(&SliceletEvent::DrainRequested));
        assert!(state.take_reports_lost() && !state.take_reports_lost());
    }

    /// Plan: threads step the core all at once, and each step has a report with its number to be sent. The reports must go
    /// out in the order of the steps: if not, a pull's end could overtake its start.
    #[test]
    fn actions_of_successive_steps_keep_their_order() {
        const STEPS: u64 = 2_000;
        let (state, mut events) = any_node();
        let mut steps = 0;
        let numbers = Mutex::new(&mut steps);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..STEPS {
                        state.with_core(|_, _| {
                            let mut number = numbers.lock();
                            **number += 1;
                            ((), vec![Action::Report(vec![report(**number)])])
                        });
                    }
                });
            }
        });
        for number in 1..=4 * STEPS {
            let event = events.try_recv().unwrap();
            assert_eq!(event, SliceletEvent::Handoffs(vec![report(number)]));
        }
    }
}
