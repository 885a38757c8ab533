//! [`Fleet`]: an Assigner and nodes that are real slicelets, in virtual time. Time goes on only as the cores ask to be
//! woken, so a missing wake-up shows as a fleet that stands still. A node's hand-offs end as soon as it adopts them, unless
//! it is told to hold them. The Sharder answers at once, or after a delay; nodes report no load, unless there is a
//! [`Fleet::load_of`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use softstore_sharding::assigner::{HolderAnswer, Notice, PlaceJob};
use softstore_sharding::generation::GENERATION_EPOCH_UNIX_MS;
use softstore_sharding::session::{
    AssignerMessage, AssignmentUpdate, ClaimPhase, HandoffOutcome, HandoffReport, LoadReport, Offers,
    RangeClaim,
};
use softstore_sharding::sharder::{EvenRange, Sharder};
use softstore_sharding::slicelet::{DrainEnd, Identity};
use softstore_sharding::{
    Assigner, AssignerAction, AssignerConfig, AssignerEvent, Assignment, ClusterStatus, Incarnation, Life,
    NodeId, Peer, ProcessId, SessionId, Slice, Slicelet, SliceletAction, SliceletConfig, SliceletEvent,
    Timestamp,
};

/// The wall clock at the start.
const UNIX_MS: u64 = GENERATION_EPOCH_UNIX_MS + 1_000_000;

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("an allowed name")
}

pub(crate) struct Node {
    pub(crate) slicelet: Slicelet,
    session: Option<SessionId>,
    wake: Timestamp,
    /// Hand-offs stay open.
    pub(crate) holds_handoffs: bool,
    pub(crate) suspended: bool,
    pub(crate) lives: u32,
    /// What its process offers of former lives.
    pub(crate) offers: Option<Offers>,
    /// What the Assigner said of that.
    pub(crate) offers_heard: Option<Option<u64>>,
    pub(crate) drain_end: Option<DrainEnd>,
    stopped: bool,
    /// Stands still: neither ticks nor reads.
    paused: bool,
    inbox: VecDeque<AssignerMessage>,
}

/// Makes the Sharder of an Assigner.
pub(crate) type MakeSharder = fn() -> Box<dyn Sharder>;

/// What a node measures, given what it holds and the moment.
pub(crate) type LoadOf = Box<dyn FnMut(&Life, Option<&Assignment>, Timestamp) -> LoadReport>;

pub(crate) struct Fleet {
    pub(crate) config: AssignerConfig,
    /// The Sharder of Assigners that start.
    pub(crate) sharder: MakeSharder,
    /// How long the Sharder takes, in milliseconds; none: it never answers.
    pub(crate) place_delay_ms: Option<u64>,
    /// What it was asked, and when it will answer.
    pub(crate) asked: Vec<(Timestamp, PlaceJob)>,
    pub(crate) load_of: Option<LoadOf>,
    assigner: Option<Assigner>,
    assigner_wake: Timestamp,
    assigner_paused: bool,
    queued: VecDeque<AssignerEvent>,
    pub(crate) now: Timestamp,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    sessions: BTreeMap<SessionId, NodeId>,
    /// Nodes that reach nobody.
    cut_off: BTreeSet<NodeId>,
    next_session: u64,
    next_incarnation: u64,
    pub(crate) published: Vec<Arc<Assignment>>,
    /// What nodes were told of assignments, and reached them.
    pub(crate) updates: Vec<(NodeId, AssignmentUpdate)>,
    pub(crate) notices: Vec<Notice>,
}

impl Fleet {
    pub(crate) fn new(config: AssignerConfig) -> Self {
        Self::with_sharder(config, || Box::new(EvenRange))
    }

    pub(crate) fn with_sharder(config: AssignerConfig, sharder: MakeSharder) -> Self {
        let mut fleet = Self {
            config,
            sharder,
            place_delay_ms: Some(0),
            asked: Vec::new(),
            load_of: None,
            assigner: None,
            assigner_wake: Timestamp::ZERO,
            assigner_paused: false,
            queued: VecDeque::new(),
            now: Timestamp::from_ms(10_000),
            nodes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            next_session: 1,
            next_incarnation: 100,
            published: Vec::new(),
            updates: Vec::new(),
            notices: Vec::new(),
        };
        fleet.start_assigner();
        fleet
    }

    /// A settled fleet of nodes with these names.
    pub(crate) fn settled(names: &[&str]) -> Self {
        Self::settled_with(AssignerConfig::default(), || Box::new(EvenRange), names)
    }

    pub(crate) fn settled_with(config: AssignerConfig, sharder: MakeSharder, names: &[&str]) -> Self {
        let config = AssignerConfig {
            expect_nodes: Some(names.len()),
            founds_at_once: true,
            ..config
        };
        let mut fleet = Self::with_sharder(config, sharder);
        for name in names {
            fleet.start(name);
        }
        fleet.settle();
        fleet
    }

    pub(crate) fn start_assigner(&mut self) {
        assert_eq!(self.config.validate(), Ok(()));
        let incarnation = self.draw_incarnation();
        self.assigner = Some(Assigner::new(
            self.config,
            incarnation,
            (self.sharder)(),
            self.now,
        ));
        self.asked.clear();
        self.assigner_wake = self.now;
    }

    /// One that knows what was published last.
    pub(crate) fn resume_stored_assigner(&mut self) {
        let stored = self.assignment().clone();
        let incarnation = self.draw_incarnation();
        let assigner = Assigner::resuming(self.config, incarnation, (self.sharder)(), stored, self.now);
        self.asked.clear();
        self.assigner = Some(assigner);
        self.assigner_wake = self.now;
    }

    pub(crate) fn start_assigner_if_none(&mut self) {
        if self.assigner.is_none() {
            self.start_assigner();
        }
    }

    pub(crate) fn kill_assigner(&mut self) {
        self.assigner = None;
        self.queued.clear();
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.close(session, false);
        }
    }

    /// Starts a process: a new life of the node with this name.
    pub(crate) fn start(&mut self, name: &str) {
        let incarnation = self.draw_incarnation();
        let identity = Identity {
            peer: Peer {
                life: Life {
                    node: id(name),
                    incarnation,
                },
                address: format!("{name}:7401").into(),
            },
            http_address: "".into(),
            zone: "".into(),
            capacity_bytes: 1 << 30,
            process: ProcessId::new(incarnation.get()).expect("not 0"),
            cluster: None,
        };
        let node = Node {
            slicelet: Slicelet::new(SliceletConfig::default(), identity, self.now),
            session: None,
            wake: self.now,
            holds_handoffs: false,
            suspended: false,
            lives: 1,
            offers: None,
            offers_heard: None,
            drain_end: None,
            stopped: false,
            paused: false,
            inbox: VecDeque::new(),
        };
        self.nodes.insert(id(name), node);
    }

    /// Ends a process without a word.
    pub(crate) fn kill(&mut self, name: &str) {
        let node = self.nodes.remove(&id(name)).expect("the node runs");
        if let Some(session) = node.session {
            self.close(session, true);
        }
    }

    /// Cuts a node off from the Assigner; what it sends vanishes.
    pub(crate) fn cut_off(&mut self, name: &str) {
        self.cut_off.insert(id(name));
    }

    pub(crate) fn reconnect(&mut self, name: &str) {
        self.cut_off.remove(&id(name));
        if let Some(session) = self.nodes[&id(name)].session {
            self.close(session, true);
        }
    }

    pub(crate) fn pause(&mut self, name: &str) {
        self.node(name).paused = true;
    }

    pub(crate) fn resume(&mut self, name: &str) {
        self.node(name).paused = false;
        let inbox = std::mem::take(&mut self.node(name).inbox);
        for message in inbox {
            self.step_node(&id(name), SliceletEvent::FromAssigner(message));
        }
    }

    pub(crate) fn pause_assigner(&mut self) {
        self.assigner_paused = true;
    }

    pub(crate) fn resume_assigner(&mut self) {
        self.assigner_paused = false;
        self.pump();
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(&id(name)).expect("the node runs")
    }

    /// The session that a node speaks on.
    pub(crate) fn session_of(&mut self, name: &str) -> SessionId {
        self.node(name).session.expect("it has a session")
    }

    pub(crate) fn life(&mut self, name: &str) -> Life {
        self.node(name).slicelet.life().clone()
    }

    pub(crate) fn assignment(&self) -> &Arc<Assignment> {
        self.published.last().expect("an assignment was published")
    }

    pub(crate) fn assigner(&mut self) -> &mut Assigner {
        self.assigner.as_mut().expect("an Assigner runs")
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        self.assigner.as_ref().expect("an Assigner runs").status(self.now)
    }

    /// The part of the key space that the node owns by the newest assignment, in thousandths.
    pub(crate) fn share(&self, name: &str) -> u32 {
        let owned = self
            .assignment()
            .ranges()
            .iter()
            .filter(|(_, range)| range.owner.node == id(name));
        thousandths(owned.map(|(slice, _)| slice.width()).sum())
    }

    /// How much of the key space has changed hands since the assignment at this index of `published`, in thousandths,
    /// counting what moved twice twice.
    pub(crate) fn moved_since(&self, index: usize) -> u32 {
        let pairs = self.published[index..].windows(2);
        thousandths(pairs.map(|pair| changed_hands(&pair[0], &pair[1])).sum())
    }

    /// Tells a node to leave, as a signal does.
    pub(crate) fn drain(&mut self, name: &str) {
        self.step_node(&id(name), SliceletEvent::DrainRequested);
        self.pump();
    }

    pub(crate) fn tell_assigner(&mut self, event: AssignerEvent) -> Vec<AssignerAction> {
        let unix_ms = UNIX_MS + self.now.as_ms();
        let Some(assigner) = &mut self.assigner else {
            return Vec::new();
        };
        let actions = match self.place_delay_ms {
            Some(0) => assigner.step_at_once(event, self.now, unix_ms),
            _ => assigner.step(event, self.now, unix_ms),
        };
        for action in &actions {
            self.carry_out(action.clone());
        }
        actions
    }

    /// Lets time pass.
    pub(crate) fn run_ms(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        loop {
            self.pump();
            let running = self.nodes.values().filter(|node| !node.paused && !node.stopped);
            let placed = self.asked.iter().map(|(at, _)| *at).min();
            let assigner = match (&self.assigner, self.assigner_paused) {
                (Some(_), false) => self.assigner_wake.min(placed.unwrap_or(Timestamp::NEVER)),
                _ => Timestamp::NEVER,
            };
            let next = running
                .map(|node| node.wake)
                .fold(assigner, Timestamp::min)
                .max(self.now);
            if next > until {
                break;
            }
            // Never the same moment for ever: a core that wants to be woken at once has one millisecond to do something.
            self.now = if next == self.now { next.plus_ms(1) } else { next };
            self.tick();
        }
        self.now = self.now.max(until);
    }

    /// Lets time pass until the cluster is settled.
    pub(crate) fn settle(&mut self) {
        for _ in 0..2_000 {
            self.run_ms(10);
            if self.status().settled && self.published.last().is_some() {
                return;
            }
        }
        panic!("not settled after 20 s: {}", self.status().unsettled_because);
    }

    fn draw_incarnation(&mut self) -> Incarnation {
        self.next_incarnation += 1;
        Incarnation::new(self.next_incarnation)
    }

    fn tick(&mut self) {
        let due: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.paused && !node.stopped && node.wake <= self.now)
            .map(|(node, _)| node.clone())
            .collect();
        for node in due {
            let load = match &mut self.load_of {
                Some(load_of) => {
                    let slicelet = &self.nodes[&node].slicelet;
                    load_of(slicelet.life(), slicelet.assignment().map(Arc::as_ref), self.now)
                }
                None => LoadReport::default(),
            };
            self.step_node(&node, SliceletEvent::Tick { load });
        }
        self.pump();
        if !self.assigner_paused {
            let now = self.now;
            let is_due = |(at, _): &mut (Timestamp, PlaceJob)| *at <= now;
            let answered: Vec<_> = self.asked.extract_if(.., is_due).collect();
            for (_, job) in answered {
                self.tell_assigner(job.run());
            }
        }
        if !self.assigner_paused && self.assigner_wake <= self.now {
            self.tell_assigner(AssignerEvent::Tick);
        }
    }

    fn pump(&mut self) {
        while !self.assigner_paused {
            let Some(event) = self.queued.pop_front() else {
                return;
            };
            self.tell_assigner(event);
        }
    }

    fn carry_out(&mut self, action: AssignerAction) {
        match action {
            AssignerAction::Send { session, message } => {
                let Some(node) = self.sessions.get(&session).cloned() else {
                    return;
                };
                if self.cut_off.contains(&node) {
                    return;
                }
                if let AssignerMessage::Update(update) = &message {
                    self.updates.push((node.clone(), update.clone()));
                }
                let running = self.nodes.get_mut(&node).expect("a session's node runs");
                if running.paused {
                    running.inbox.push_back(message);
                } else {
                    self.step_node(&node, SliceletEvent::FromAssigner(message));
                }
            }
            AssignerAction::CloseSession { session } => {
                if self
                    .sessions
                    .get(&session)
                    .is_some_and(|node| !self.nodes[node].paused)
                {
                    self.close(session, false);
                }
            }
            AssignerAction::Published(assignment) => self.published.push(assignment),
            AssignerAction::WakeAt(at) => self.assigner_wake = at,
            AssignerAction::Notice(notice) => self.notices.push(notice),
            AssignerAction::Place(job) => {
                let delay_ms = self.place_delay_ms;
                let at = delay_ms.map_or(Timestamp::NEVER, |ms| self.now.plus_ms(ms));
                self.asked.push((at, job));
            }
            AssignerAction::SeekHolder { life, .. } => {
                let running = self.nodes.get(&life.node);
                let process = running.map(|node| HolderAnswer::Process(node.slicelet.process()));
                let answer = process.unwrap_or(HolderAnswer::Refused);
                self.queued
                    .push_back(AssignerEvent::HolderSought { life, answer });
            }
            AssignerAction::DrainAnswered { .. }
            | AssignerAction::ForgetAnswered { .. }
            | AssignerAction::Remember { .. } => {}
        }
    }

    fn close(&mut self, session: SessionId, tell_assigner: bool) {
        if tell_assigner {
            self.queued.push_back(AssignerEvent::SessionClosed { session });
        }
        let Some(node) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(running) = self
            .nodes
            .get_mut(&node)
            .filter(|node| node.session == Some(session))
        {
            running.session = None;
            self.step_node(&node, SliceletEvent::SessionClosed);
        }
    }

    fn step_node(&mut self, node: &NodeId, event: SliceletEvent) {
        let now = self.now;
        let Some(running) = self.nodes.get_mut(node).filter(|node| !node.stopped) else {
            return;
        };
        let actions = running.slicelet.step(event, now);
        self.carry_out_for(node, actions);
    }

    fn carry_out_for(&mut self, id: &NodeId, actions: Vec<SliceletAction>) {
        for action in actions {
            let now = self.now;
            let node = self.nodes.get_mut(id).expect("the node runs");
            match action {
                SliceletAction::OpenSession => self.open_session(id),
                SliceletAction::CloseSession => {
                    if let Some(session) = node.session.take() {
                        self.sessions.remove(&session);
                        self.queued.push_back(AssignerEvent::SessionClosed { session });
                    }
                }
                SliceletAction::Send(message) => {
                    if let Some(session) = node.session
                        && !self.cut_off.contains(id)
                    {
                        self.queued
                            .push_back(AssignerEvent::FromNode { session, message });
                    }
                }
                SliceletAction::Adopt(assignment) => self.adopted(id, &assignment),
                SliceletAction::Suspend => node.suspended = true,
                SliceletAction::Resume => node.suspended = false,
                SliceletAction::Reborn => {
                    node.lives += 1;
                    let incarnation = self.draw_incarnation();
                    let node = self.nodes.get_mut(id).expect("the node runs");
                    let actions = node.slicelet.reborn(incarnation, now);
                    self.carry_out_for(id, actions);
                }
                SliceletAction::BeginDrain => {}
                SliceletAction::EndDrain { reason } => {
                    node.drain_end = Some(reason);
                    self.step_node(id, SliceletEvent::StoppedServing);
                }
                SliceletAction::Stop => node.stopped = true,
                SliceletAction::WakeAt(at) => node.wake = at,
                SliceletAction::Deliver { .. }
                | SliceletAction::Refused { .. }
                | SliceletAction::Barred(_)
                | SliceletAction::Admitted
                | SliceletAction::ForeignAssignment { .. }
                | SliceletAction::LeaseEnded
                | SliceletAction::LeaseRegained
                | SliceletAction::ServesUnder { .. } => {}
                SliceletAction::OffersHeard { behind_ms } => node.offers_heard = Some(behind_ms),
            }
        }
    }

    fn open_session(&mut self, id: &NodeId) {
        if self.assigner.is_none() || self.cut_off.contains(id) {
            self.step_node(id, SliceletEvent::SessionClosed);
            return;
        }
        let session = SessionId::new(self.next_session);
        self.next_session += 1;
        self.sessions.insert(session, id.clone());
        let node = self.nodes.get_mut(id).expect("the node runs");
        node.session = Some(session);
        let claims = claims(node);
        let life = node.slicelet.life();
        let offers = node.offers.clone().filter(|offers| !offers.former.contains(life));
        self.step_node(id, SliceletEvent::SessionOpened { claims, offers });
    }

    /// The node acts on an assignment: its hand-offs end, and a drain that has nothing left is over.
    fn adopted(&mut self, id: &NodeId, assignment: &Assignment) {
        let node = &self.nodes[id];
        let life = node.slicelet.life().clone();
        let taking = assignment
            .ranges()
            .iter()
            .filter(|(_, range)| range.owner == life && !range.providers.is_empty());
        let reports: Vec<HandoffReport> = taking
            .map(|(slice, range)| HandoffReport {
                slice,
                since: range.since,
                outcome: HandoffOutcome::Completed,
            })
            .collect();
        let concerned = assignment.ranges().iter().any(|(_, range)| {
            range.owner == life || range.providers.iter().any(|provider| provider.life == life)
        });
        if !node.holds_handoffs {
            self.step_node(id, SliceletEvent::Handoffs(reports));
        }
        if !concerned && self.nodes[id].slicelet.is_draining() {
            self.step_node(id, SliceletEvent::Drained);
        }
    }

    /// The time is over in which anything may come back.
    pub(crate) fn await_no_longer(&mut self) {
        for id in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let slicelet = &self.nodes[&id].slicelet;
            let (life, held) = (slicelet.life(), slicelet.assignment());
            let ranges = held.into_iter().flat_map(|held| held.ranges().iter());
            let awaiting = ranges.filter(|(_, range)| range.owner == *life && !range.awaits.is_empty());
            let reports = awaiting.map(|(slice, range)| HandoffReport {
                slice,
                since: range.since,
                outcome: HandoffOutcome::GaveUp,
            });
            let reports: Vec<HandoffReport> = reports.collect();
            self.step_node(&id, SliceletEvent::Handoffs(reports));
        }
        self.pump();
    }

    /// Ends the hand-offs that a node holds.
    pub(crate) fn complete_handoffs(&mut self, name: &str) {
        self.node(name).holds_handoffs = false;
        if let Some(assignment) = self.node(name).slicelet.assignment().cloned() {
            self.adopted(&id(name), &assignment);
        }
        self.pump();
    }
}

/// What a node says it holds: all that its assignment gives it.
fn claims(node: &Node) -> Vec<RangeClaim> {
    let life = node.slicelet.life();
    let ranges = node
        .slicelet
        .assignment()
        .into_iter()
        .flat_map(|held| held.ranges().iter());
    ranges
        .filter(|(_, range)| range.owner == *life)
        .map(|(slice, range)| RangeClaim {
            slice,
            since: range.since,
            providers: range.providers.clone(),
            phase: match range.providers.first() {
                Some(_) if node.holds_handoffs => ClaimPhase::NotStarted,
                _ if !range.awaits.is_empty() => ClaimPhase::Awaiting(range.awaits.clone()),
                _ => ClaimPhase::Serving,
            },
        })
        .collect()
}

/// How many positions have another owner.
pub(crate) fn changed_hands(before: &Assignment, after: &Assignment) -> u128 {
    let moved = after.ranges().iter().flat_map(|(slice, range)| {
        let parts = before.ranges().overlapping(slice);
        parts
            .filter(|(_, former)| former.owner != range.owner)
            .map(|(part, _)| part.width())
    });
    moved.sum()
}

pub(crate) fn thousandths(width: u128) -> u32 {
    u32::try_from((width * 1_000 + Slice::FULL.width() / 2) / Slice::FULL.width())
        .expect("a part of the key space")
}
