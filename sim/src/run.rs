//! [`run`]: one simulated cluster, from its start through its faults to the moment when nothing moves any more.

use std::collections::BTreeSet;

use softstore_sharding::Life;
use softstore_sharding::assigner::{DeathCause, HolderAnswer};

use crate::check::{self, Violation};
use crate::client::Client;
use crate::config::{Mode, SimConfig};
use crate::control::Control;
use crate::counters::Counters;
use crate::env::{Env, Event};
use crate::faults::{self, Fault};
use crate::history::{Ended, History};
use crate::message::{Endpoint, Message};
use crate::node::Node;
use crate::plan::Plan;
use crate::random::Random;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct SimReport {
    /// Which run.
    pub seed: u64,
    /// What must not be, and was.
    pub violations: Vec<Violation>,
    /// How often what happened.
    pub counters: Counters,
    /// What clients saw and who served what: the same for the same seed.
    pub history: History,
    /// Virtual time that passed, in milliseconds.
    pub simulated_ms: u64,
    /// Lives that served on after they had been given up, since nothing was heard of them: `available` ownership allows that.
    pub cut_off: u64,
    /// Operations that they carried out where a newer owner served already. Little is promised of those
    /// ([`check::branches`]).
    pub loose_operations: u64,
    /// Lives that had been given up, and that an Assigner believed again who met nobody that knew of it: from then on nothing is
    /// promised of their keys.
    pub believed: u64,
}

/// How often it is looked whether the cluster is at rest, in microseconds.
const REST_CHECK_US: u64 = 100_000;

/// How long the last reads of all keys may take, in microseconds.
const LAST_READS_US: u64 = 6_000_000;

/// A standstill of so much of a failure timeout, in per cent, is noticed by a node whatever it knew before: by its own rule
/// (`sharding/src/slicelet/standstill.rs`) from 57% on, and clocks differ by 2%.
const ASLEEP_PERCENT: u64 = 60;

/// An address, and the process that listens there, if any.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) node: Option<Node>,
    pub(crate) paused_from_us: u64,
    pub(crate) paused_until_us: u64,
    /// When it has woken, its tasks go on in any order: it reads nothing of the Assigner's before this.
    pub(crate) session_sleeps_until_us: u64,
    /// Before this, nothing keeps it from the Assigner.
    pub(crate) silence_free_us: u64,
    /// When its process has left, another one starts after this.
    pub(crate) back_after_us: Option<u64>,
    pub(crate) is_start_planned: bool,
    /// It has been paused, and has not gone on yet.
    pub(crate) stood_still: bool,
}

impl Slot {
    /// Whether it stands still, for so long that it notices when it goes on. Who was cut off before it stood still for a moment goes
    /// on as one that is cut off.
    fn is_asleep(&self, env: &Env) -> bool {
        let least_us = env.plan.assigner.failure_timeout_ms * 10 * ASLEEP_PERCENT;
        self.paused_until_us > env.now_us && self.paused_until_us - self.paused_from_us >= least_us
    }

    pub(crate) fn takes_part(&self) -> bool {
        self.node.as_ref().is_some_and(|node| !node.is_draining())
    }
}

/// A run under way.
pub(crate) struct Simulation {
    pub(crate) env: Env,
    pub(crate) slots: Vec<Slot>,
    pub(crate) control: Option<Control>,
    pub(crate) clients: Vec<Client>,
    pub(crate) faults_ended: bool,
    events: u64,
    /// Lives that were buried while they stood still.
    buried_asleep: BTreeSet<Life>,
    wrong_burials: Vec<Violation>,
}

/// Runs a seed to its end and judges it.
#[must_use]
pub fn run(seed: u64, config: &SimConfig) -> SimReport {
    let mut random = Random::new(seed);
    let plan = Plan::draw(&mut random, config);
    let end_us = plan.begin_us() + config.active_ms * 1_000;
    let mut simulation = Simulation::start(Env::new(config.clone(), plan, random));
    simulation.run_until(end_us);
    let mut violations = simulation.come_to_rest();

    let Simulation {
        env, wrong_burials, ..
    } = simulation;
    violations.extend(wrong_burials);
    violations.extend(check::check(&env.history));
    if env.counters.hellos_refused > 0 {
        let what = format!(
            "{} hellos of honest nodes were refused",
            env.counters.hellos_refused
        );
        violations.push(Violation {
            invariant: "liveness",
            what,
        });
    }
    if env.counters.messages_too_large > 0 {
        let what = format!(
            "{} messages were larger than their receivers take",
            env.counters.messages_too_large
        );
        violations.push(Violation {
            invariant: "H8",
            what,
        });
    }
    SimReport {
        cut_off: env.history.cut_off.len() as u64,
        believed: env.history.believed_us.len() as u64,
        loose_operations: check::branches::loose_operations(&env.history),
        seed,
        violations,
        counters: env.counters,
        simulated_ms: env.now_us / 1_000,
        history: env.history,
    }
}

/// How many faults a seed draws.
pub(crate) fn faults_drawn(seed: u64, config: &SimConfig) -> usize {
    let mut random = Random::new(seed);
    let plan = Plan::draw(&mut random, config);
    let config = SimConfig {
        faults_kept: None,
        ..config.clone()
    };
    let mut faults_random = random.fork();
    // Not the end of all faults, which is one of them.
    faults::draw(&plan, &config, &mut faults_random).len() - 1
}

impl Simulation {
    fn start(mut env: Env) -> Self {
        let mut faults_random = env.random.fork();
        for (at_us, fault) in faults::draw(&env.plan, &env.config, &mut faults_random) {
            env.at(at_us, Event::Fault(fault));
        }
        env.history.is_gentle = env.plan.is_gentle;
        env.history.drift_per_mille = env.plan.drift_per_mille;
        let mut slots: Vec<Slot> = Vec::new();
        slots.resize_with(env.plan.slots, Slot::default);
        let control = Some(Control::start(true, &mut env));
        for (slot, state) in slots.iter_mut().enumerate().take(env.plan.nodes) {
            let at_us = env.random.below(200_000);
            state.is_start_planned = true;
            env.at(at_us, Event::Fault(Fault::Start { slot }));
        }
        let clients = (0..env.plan.clients)
            .map(|index| Client::start(index, &mut env))
            .collect();
        Self {
            env,
            slots,
            control,
            clients,
            faults_ended: false,
            events: 0,
            buried_asleep: BTreeSet::new(),
            wrong_burials: Vec::new(),
        }
    }

    fn run_until(&mut self, until_us: u64) {
        while self.env.now_us < until_us && self.events < self.env.config.events_max {
            let Some(event) = self.env.next() else {
                return;
            };
            self.events += 1;
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Node { slot, process, timer } => {
                let state = &mut self.slots[slot];
                if state.paused_until_us > self.env.now_us {
                    let until_us = state.paused_until_us;
                    return self.env.put_off(until_us, Event::Node { slot, process, timer });
                }
                self.wake(slot);
                let state = &mut self.slots[slot];
                if let Some(node) = state.node.as_mut().filter(|node| node.process() == process) {
                    node.timer_fired(timer, &mut self.env);
                }
                self.clear(slot);
            }
            Event::AssignerWake { process } => {
                if let Some(control) = self
                    .control
                    .as_mut()
                    .filter(|control| control.process() == process)
                {
                    if let Some(until_us) = control.stands_still_until_us(&self.env) {
                        return self.env.put_off(until_us, Event::AssignerWake { process });
                    }
                    control.wake(&mut self.env);
                }
                self.judge_burials();
            }
            Event::Seek { process, life, slot } => self.seek(process, life, slot),
            Event::Client { client, timer } => self.clients[client].timer_fired(timer, &mut self.env),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    /// Looks for an Assigner who answers at an address.
    fn seek(&mut self, process: u64, life: Life, slot: usize) {
        let still_us = self
            .control
            .as_ref()
            .and_then(|control| control.stands_still_until_us(&self.env));
        if let Some(until_us) = still_us {
            return self.env.put_off(until_us, Event::Seek { process, life, slot });
        }
        let state = &self.slots[slot];
        let is_deaf = self.env.is_cut(Endpoint::Assigner, Endpoint::Node(slot))
            || state.paused_until_us > self.env.now_us;
        let answer = match &state.node {
            _ if is_deaf => HolderAnswer::Unknown,
            Some(node) => HolderAnswer::Process(node.process_id()),
            None => HolderAnswer::Refused,
        };
        let asker = self
            .control
            .as_mut()
            .filter(|control| control.process() == process);
        if let Some(control) = asker {
            control.sought(life, answer, &mut self.env);
        }
        self.judge_burials();
    }

    fn deliver(&mut self, from: Endpoint, to: Endpoint, message: Message) {
        match to {
            Endpoint::Node(slot) => {
                let Some(state) = self.slots.get_mut(slot) else {
                    return;
                };
                let until_us = if from == Endpoint::Assigner {
                    state.paused_until_us.max(state.session_sleeps_until_us)
                } else {
                    state.paused_until_us
                };
                if until_us > self.env.now_us {
                    return self.env.put_off(until_us, Event::Deliver { from, to, message });
                }
                self.wake(slot);
                let state = &mut self.slots[slot];
                if let Some(node) = &mut state.node {
                    node.receive(from, message, &mut self.env);
                }
                self.clear(slot);
            }
            Endpoint::Assigner => {
                let still_us = self
                    .control
                    .as_ref()
                    .and_then(|control| control.stands_still_until_us(&self.env));
                if let Some(until_us) = still_us {
                    return self.env.put_off(until_us, Event::Deliver { from, to, message });
                }
                match (&mut self.control, message) {
                    (Some(control), message) => control.receive(message, &mut self.env),
                    (None, Message::Connect { connection }) => self.env.break_connection(connection),
                    (None, _) => {}
                }
                self.judge_burials();
            }
            Endpoint::Client(client) => self.clients[client].receive(message, &mut self.env),
        }
    }

    /// A process that stood still goes on: before anything else it looks at its clock.
    pub(crate) fn wake(&mut self, slot: usize) {
        let state = &mut self.slots[slot];
        if state.paused_until_us <= self.env.now_us && std::mem::take(&mut state.stood_still) {
            if let Some(node) = &mut state.node {
                node.go_on(&mut self.env);
            }
            self.clear(slot);
        }
    }

    /// After each event of a node: a process that has left is cleared away.
    pub(crate) fn clear(&mut self, slot: usize) {
        let buried = &self.buried_asleep;
        let node = self.slots[slot].node.as_ref();
        if let Some(node) = node.filter(|node| node.resumed_alone && buried.contains(node.life())) {
            // It did not reach the Assigner when it woke: in `available` mode it serves on.
            self.env.history.cut_off.insert(node.life().incarnation);
        }
        if self.slots[slot].node.as_ref().is_some_and(|node| node.stopped) {
            self.end_process(slot);
        }
    }

    pub(crate) fn end_process(&mut self, slot: usize) {
        let Some(node) = self.slots[slot].node.take() else {
            return;
        };
        node.end(&mut self.env);
        self.slots[slot].stood_still = false;
        self.slots[slot].paused_until_us = 0;
        self.slots[slot].session_sleeps_until_us = 0;
        if let Some(after_us) = self.slots[slot].back_after_us.take() {
            self.slots[slot].is_start_planned = true;
            self.env.after(after_us, Event::Fault(Fault::Start { slot }));
        }
    }

    /// Whether a life that was buried for its silence in truth lives, and whether that is the Assigner's fault: it may bury
    /// only whom it has not heard for a failure timeout, in which it ran itself, or after its settling time.
    fn judge_burials(&mut self) {
        let Some(control) = &mut self.control else {
            return;
        };
        if let Some(assignment) = control.take_published()
            && self.env.config.mode == Mode::Available
            && !control.is_settling(&self.env)
        {
            // A new Assigner that was cut off from a node, and heard of it by nobody else, knows of no life to bury. It has
            // waited for its settling time, then: one that publishes before is judged.
            let left_out = |node: &&Node| node.holds_ranges() && !assignment.is_living(node.life());
            for slot in &self.slots {
                let node = slot.node.as_ref().filter(left_out);
                let Some(node) = node.filter(|node| !control.heard_lately(node.life(), &self.env)) else {
                    continue;
                };
                if slot.is_asleep(&self.env) {
                    self.buried_asleep.insert(node.life().clone());
                } else {
                    self.env.history.cut_off.insert(node.life().incarnation);
                }
            }
        }
        for burial in control.take_burials() {
            let life = burial.life;
            let slot = self
                .slots
                .iter()
                .find(|slot| slot.node.as_ref().is_some_and(|node| *node.life() == life));
            let Some(slot) = slot else {
                continue;
            };
            self.env.trace(|| format!("{life} was buried alive"));
            let is_wrong = match burial.cause {
                DeathCause::NotRecovered => burial.settling,
                _ => burial.heard_lately || burial.woke_lately,
            };
            if is_wrong {
                let at_us = self.env.now_us;
                let what = format!("the Assigner buries the living {life} at {at_us} us without a reason");
                self.wrong_burials.push(Violation {
                    invariant: "liveness",
                    what,
                });
            } else if slot.is_asleep(&self.env) {
                self.buried_asleep.insert(life);
            } else if self.env.config.mode == Mode::Available {
                self.env.history.cut_off.insert(life.incarnation);
            }
        }
    }

    /// After the faults: everything has to come to rest, then every key to answer.
    fn come_to_rest(&mut self) -> Vec<Violation> {
        let give_up_us = self.env.now_us + self.env.config.settle_ms_max * 1_000;
        loop {
            self.run_until(self.env.now_us + REST_CHECK_US);
            if self.events >= self.env.config.events_max {
                let (events, now_us) = (self.events, self.env.now_us);
                let what = format!("{events} events by {now_us} us, and no end of them");
                let invariant = "liveness";
                return vec![Violation { invariant, what }];
            }
            let left = self.unrest();
            if left.is_empty() {
                break;
            }
            if self.env.now_us >= give_up_us {
                return vec![Violation {
                    invariant: "liveness",
                    what: left,
                }];
            }
        }
        let first = self.env.history.operations.len();
        self.clients[0].read_all(&mut self.env);
        self.run_until(self.env.now_us + LAST_READS_US);
        let unread = |operation: &&crate::history::Operation| !matches!(operation.ended, Ended::Read(_));
        let reads = self.env.history.operations[first..].iter();
        reads
            .filter(unread)
            .map(|read| {
                let what = format!(
                    "key {} cannot be read in a cluster at rest: {:?}",
                    read.key, read.ended
                );
                Violation {
                    invariant: "liveness",
                    what,
                }
            })
            .collect()
    }

    /// What is still on; empty if nothing is.
    fn unrest(&self) -> String {
        let mut left: Vec<String> = Vec::new();
        match &self.control {
            None => left.push("no Assigner".to_owned()),
            Some(control) => left.push(control.unsettled(&self.env)),
        }
        let nodes: Vec<&Node> = self.slots.iter().filter_map(|slot| slot.node.as_ref()).collect();
        left.extend(nodes.iter().map(|node| node.unfinished(&self.env)));
        let living: BTreeSet<&Life> = nodes.iter().map(|node| node.life()).collect();
        left.extend(nodes.iter().flat_map(|node| node.wrong_leases(&living)));
        if self.slots.iter().any(|slot| slot.is_start_planned) {
            left.push("a node is to start".to_owned());
        }
        if !self.clients.iter().all(Client::is_idle) {
            left.push("operations are open".to_owned());
        }
        for key in 0..self.env.plan.keys() {
            let at = softstore_sharding::SliceKey::of_key(&self.env.plan.key_bytes(key));
            let owners = nodes.iter().filter(|node| node.serves(at, &self.env)).count();
            if owners != 1 {
                left.push(format!("key {key} is served by {owners} nodes"));
            }
        }
        left.retain(|reason| !reason.is_empty());
        left.join("; ")
    }
}
