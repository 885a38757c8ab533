//! [`Env`]: the virtual clock, the event queue and the network. All that a simulated process may touch besides itself.
//!
//! Time is in microseconds. What is due at the same moment happens in the order in which it was asked for, so that a run
//! is the same every time.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use softstore_sharding::generation::GENERATION_EPOCH_UNIX_MS;
use softstore_sharding::{Assignment, Generation, Incarnation, Life, PullId};
use softstore_transfer::message::Entry;

use crate::config::SimConfig;
use crate::counters::Counters;
use crate::faults::Fault;
use crate::history::History;
use crate::message::{Endpoint, Message};
use crate::plan::Plan;
use crate::random::Random;
use crate::trap::{Phase, Trap};

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Deliver {
        from: Endpoint,
        to: Endpoint,
        message: Message,
    },
    /// For a node's process, if it still runs.
    Node {
        slot: usize,
        process: u64,
        timer: NodeTimer,
    },
    AssignerWake {
        process: u64,
    },
    /// An Assigner looks who answers where a life listens whose session broke.
    Seek {
        process: u64,
        life: Life,
        slot: usize,
    },
    Client {
        client: usize,
        timer: ClientTimer,
    },
    Fault(Fault),
}

#[derive(Clone, Debug)]
pub(crate) enum NodeTimer {
    Core,
    Slicelet,
    Waiting {
        token: u64,
    },
    Peek {
        peek: u64,
    },
    StreamStep {
        stream: u64,
    },
    StreamCheck {
        pull: PullId,
        stream: u64,
        seen: u64,
    },
    ConnectTimeout {
        connection: u64,
    },
    /// A write waits for replicas.
    Readers {
        token: u64,
    },
    /// A replica has not returned its leases.
    Recall {
        order: u64,
    },
    Fill {
        fill: u64,
    },
    DrainDeadline,
    Maintain,
    Execute {
        token: u64,
    },
    /// [`softstore_sharding::planted::Bug::ImportCheckOutsideLock`].
    Import {
        pull: PullId,
        entry: Entry,
    },
    /// [`softstore_sharding::planted::Bug::GoodbyeBeforeStop`].
    StopLate,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ClientTimer {
    Next,
    Watch,
    Retry { operation: u64, attempt: u32 },
    Lost { operation: u64, attempt: u32 },
}

/// A doubled message may come this much later, in microseconds: long after its answer and what followed from that.
const STRAGGLER_US_MAX: u64 = 4_000_000;

/// One connection between a node and the Assigner: messages keep their order in each direction.
#[derive(Clone, Debug)]
struct Connection {
    slot: usize,
    broken: bool,
    last_to_node_us: u64,
    last_to_assigner_us: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Env {
    pub now_us: u64,
    pub config: SimConfig,
    pub plan: Plan,
    pub random: Random,
    pub history: History,
    pub counters: Counters,
    /// What was published last, as the exclusive Assigner of leased ownership stores it before it tells anybody.
    pub stored: Option<Arc<Assignment>>,
    /// By which assignment a life was first listed no more.
    pub left_out: BTreeMap<Incarnation, Generation>,
    /// Hand-off messages that travel through the Assigner, by the number that is their payload.
    pub relayed: BTreeMap<u64, Message>,
    /// By time and order. Boxed: a tree moves what it holds, and an event is large.
    queue: BTreeMap<(u64, u64), Box<Event>>,
    sequence: u64,
    names_given: u64,
    /// Directed pairs that cannot talk.
    cuts: BTreeSet<(Endpoint, Endpoint)>,
    /// Directed pairs whose link stands still, and until when: what is sent arrives after that.
    stalls: BTreeMap<(Endpoint, Endpoint), u64>,
    /// Pairs of giver and taker whose streams break, and until when.
    broken_streams: BTreeMap<(Endpoint, Endpoint), u64>,
    /// What is done at certain phases of hand-offs.
    traps: Vec<Trap>,
    connections: BTreeMap<u64, Connection>,
    /// When the last message of a stream arrives, so that its messages keep their order.
    stream_tails: BTreeMap<u64, u64>,
}

impl Env {
    pub(crate) fn new(config: SimConfig, plan: Plan, random: Random) -> Self {
        Self {
            now_us: 0,
            config,
            plan,
            random,
            history: History::default(),
            counters: Counters::default(),
            stored: None,
            left_out: BTreeMap::new(),
            relayed: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            names_given: 0,
            cuts: BTreeSet::new(),
            stalls: BTreeMap::new(),
            broken_streams: BTreeMap::new(),
            traps: Vec::new(),
            connections: BTreeMap::new(),
            stream_tails: BTreeMap::new(),
        }
    }

    /// The next event, and the clock set to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let ((at_us, _), event) = self.queue.pop_first()?;
        self.now_us = at_us;
        Some(*event)
    }

    /// One wall clock for all: where every node that knew of the highest generation has died together with the Assigner, the
    /// clock is what keeps generations growing.
    pub(crate) fn unix_ms(&self) -> u64 {
        GENERATION_EPOCH_UNIX_MS + 60_000_000 + self.now_us / 1_000
    }

    /// A number never given before.
    pub(crate) fn name(&mut self) -> u64 {
        self.names_given += 1;
        self.names_given
    }

    pub(crate) fn at(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        let place = (at_us.max(self.now_us), self.sequence);
        self.queue.insert(place, Box::new(event));
    }

    pub(crate) fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if self.config.trace {
            eprintln!("{:>11.3} {}", self.now_us as f64 / 1_000.0, line());
        }
    }

    fn delay_us(&mut self, from: Endpoint, to: Endpoint) -> u64 {
        let plan = &self.plan;
        let (low, high, slow) = (plan.delay_us_min, plan.delay_us_max, plan.slow_per_mille);
        let usual_us = if self.random.chance(slow) {
            self.random.between(high, high * 20)
        } else {
            self.random.between(low, high)
        };
        let stalled_until_us = self.stalls.get(&(from, to)).copied().unwrap_or(0);
        usual_us + stalled_until_us.saturating_sub(self.now_us)
    }

    /// The way from one to the other stands still for a while.
    pub(crate) fn stall(&mut self, from: Endpoint, to: Endpoint, for_us: u64) {
        let until_us = self.stalls.entry((from, to)).or_default();
        *until_us = (*until_us).max(self.now_us + for_us);
    }

    /// The streams from a giver to a taker break at their next message, for a while.
    pub(crate) fn break_streams(&mut self, giver: Endpoint, taker: Endpoint, for_us: u64) {
        self.broken_streams.insert((giver, taker), self.now_us + for_us);
    }

    pub(crate) fn set_trap(&mut self, trap: Trap) {
        self.traps.push(trap);
    }

    pub(crate) fn disarm(&mut self) {
        self.traps.clear();
    }

    /// A hand-off reaches a phase: if a trap waits for that, it springs.
    pub(crate) fn reaches(&mut self, phase: Phase, giver: usize, taker: usize) {
        let Some(index) = self.traps.iter().position(|trap| trap.phase == phase) else {
            return;
        };
        let trap = self.traps.remove(index);
        self.counters.traps_sprung += 1;
        for (deed, after_us) in trap.deeds() {
            self.after(after_us, Event::Fault(Fault::Strike { deed, giver, taker }));
        }
        self.traps.extend(trap.next());
    }

    /// Whether a message is too large for its receiver.
    pub(crate) fn refuses(&mut self, message: &Message) -> bool {
        let is_refused = message.is_too_large(&self.plan.handoff);
        self.counters.messages_too_large += u64::from(is_refused);
        is_refused
    }

    fn watch_phases(&mut self, from: Endpoint, to: Endpoint, message: &Message) {
        if let (false, Some((phase, giver, taker))) = (self.traps.is_empty(), Phase::of(from, to, message)) {
            self.reaches(phase, giver, taker);
        }
    }

    pub(crate) fn cut(&mut self, from: Endpoint, to: Endpoint) {
        self.cuts.insert((from, to));
    }

    /// Whether neither hears the other, or one does not.
    pub(crate) fn is_cut(&self, one: Endpoint, other: Endpoint) -> bool {
        self.cuts.contains(&(one, other)) || self.cuts.contains(&(other, one))
    }

    pub(crate) fn heal(&mut self, from: Endpoint, to: Endpoint) {
        self.cuts.remove(&(from, to));
    }

    pub(crate) fn heal_all(&mut self) {
        self.cuts.clear();
        self.stalls.clear();
        self.broken_streams.clear();
        self.traps.clear();
        self.plan.end_of_faults();
    }

    /// Sends a message that may be lost, delayed, overtaken and, if it bears that, doubled.
    pub(crate) fn send(&mut self, from: Endpoint, to: Endpoint, message: Message) {
        if self.refuses(&message) {
            return;
        }
        self.watch_phases(from, to, &message);
        let bears_doubling = matches!(
            message,
            Message::Take(_)
                | Message::TakeReply(_)
                | Message::Release(_)
                | Message::Peek { .. }
                | Message::PeekReply { .. }
                | Message::AskLease { .. }
                | Message::LeaseReply { .. }
                | Message::Invalidate { .. }
                | Message::Invalidated { .. }
                | Message::Fill { .. }
                | Message::FillReply { .. }
        );
        let copies = if bears_doubling && self.random.chance(self.plan.double_per_mille) {
            2
        } else {
            1
        };
        for copy in 0..copies {
            let mut delay_us = self.delay_us(from, to);
            if copy > 0 && self.random.chance(200) {
                delay_us += self.random.below(STRAGGLER_US_MAX);
            }
            if self.cuts.contains(&(from, to)) || self.random.chance(self.plan.loss_per_mille) {
                self.counters.messages_lost += 1;
                continue;
            }
            let message = message.clone();
            self.after(delay_us, Event::Deliver { from, to, message });
        }
    }

    /// Sends a message of a stream: in order, or the stream is broken. `false`: it is broken.
    pub(crate) fn send_on_stream(
        &mut self,
        from: Endpoint,
        to: Endpoint,
        stream: u64,
        message: Message,
    ) -> bool {
        if self.refuses(&message) {
            return false;
        }
        self.watch_phases(from, to, &message);
        let loss_per_mille = self.plan.loss_per_mille + self.plan.stream_loss_per_mille;
        let is_broken = self
            .broken_streams
            .get(&(from, to))
            .is_some_and(|until_us| self.now_us < *until_us);
        if is_broken || self.cuts.contains(&(from, to)) || self.random.chance(loss_per_mille) {
            self.counters.messages_lost += 1;
            return false;
        }
        let arrives_us = self.now_us + self.delay_us(from, to);
        let tail = self.stream_tails.entry(stream).or_default();
        *tail = arrives_us.max(*tail + 1);
        let at_us = *tail;
        self.at(at_us, Event::Deliver { from, to, message });
        true
    }

    /// A node asks for a session with the Assigner.
    pub(crate) fn connect(&mut self, slot: usize) -> u64 {
        let connection = self.name();
        let state = Connection {
            slot,
            broken: false,
            last_to_node_us: 0,
            last_to_assigner_us: 0,
        };
        self.connections.insert(connection, state);
        self.send_to_assigner(connection, Message::Connect { connection });
        connection
    }

    pub(crate) fn send_to_assigner(&mut self, connection: u64, message: Message) {
        self.send_on_connection(connection, true, message);
    }

    pub(crate) fn send_to_node(&mut self, connection: u64, message: Message) {
        self.send_on_connection(connection, false, message);
    }

    fn send_on_connection(&mut self, connection: u64, to_assigner: bool, message: Message) {
        let Some(state) = self.connections.get(&connection) else {
            return;
        };
        let node = Endpoint::Node(state.slot);
        let (from, to) = if to_assigner {
            (node, Endpoint::Assigner)
        } else {
            (Endpoint::Assigner, node)
        };
        let delay_us = self.delay_us(from, to);
        let Some(state) = self.connections.get_mut(&connection) else {
            return;
        };
        if state.broken {
            return;
        }
        if self.cuts.contains(&(from, to)) {
            self.break_connection(connection);
            return;
        }
        let tail = if to_assigner {
            &mut state.last_to_assigner_us
        } else {
            &mut state.last_to_node_us
        };
        *tail = (self.now_us + delay_us).max(*tail + 1);
        let at_us = *tail;
        self.at(at_us, Event::Deliver { from, to, message });
    }

    /// Both ends learn, each in its time, that a connection is gone.
    pub(crate) fn break_connection(&mut self, connection: u64) {
        let Some(state) = self.connections.get_mut(&connection) else {
            return;
        };
        if std::mem::replace(&mut state.broken, true) {
            return;
        }
        let node = Endpoint::Node(state.slot);
        for (from, to) in [(Endpoint::Assigner, node), (node, Endpoint::Assigner)] {
            let delay_us = self.random.between(500, 150_000);
            self.after(
                delay_us,
                Event::Deliver {
                    from,
                    to,
                    message: Message::Closed { connection },
                },
            );
        }
    }

    /// One end closes a connection: what was sent before still arrives.
    pub(crate) fn close_connection(&mut self, connection: u64, by_node: bool) {
        self.send_on_connection(connection, by_node, Message::Closed { connection });
        if let Some(state) = self.connections.get_mut(&connection) {
            state.broken = true;
        }
    }

    /// The connections of a node's slot, or all.
    pub(crate) fn connections_of(&self, slot: Option<usize>) -> Vec<u64> {
        let of_slot = |state: &Connection| slot.is_none_or(|slot| slot == state.slot);
        self.connections
            .iter()
            .filter(|(_, state)| !state.broken && of_slot(state))
            .map(|(&connection, _)| connection)
            .collect()
    }

    /// Whether a timer that fires is the one that was set last: `due_us`. Each that had been set before, for later, is still in
    /// the queue; were it let do anything, it would set another one, and timers would become ever more.
    pub(crate) fn is_due(&self, due_us: &mut Option<u64>) -> bool {
        due_us.take_if(|due_us| *due_us <= self.now_us).is_some()
    }

    /// Puts off what is for a node that stands still.
    pub(crate) fn put_off(&mut self, until_us: u64, event: Event) {
        self.at(until_us, event);
    }
}
