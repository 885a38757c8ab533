//! [`Desk`]: an Assigner that is spoken to message by message, by hellos of named processes.

use softstore_sharding::assigner::{DeathCause, Notice};
use softstore_sharding::generation::GENERATION_EPOCH_UNIX_MS;
use softstore_sharding::session::{
    AssignerMessage, ClaimPhase, Hello, LoadReport, NodeMessage, RangeClaim, SESSION_VERSIONS,
};
use softstore_sharding::sharder::EvenRange;
use softstore_sharding::{
    Assigner, AssignerAction, AssignerConfig, AssignerEvent, Assignment, ClusterId, Generation, Incarnation,
    Life, NodeId, Peer, ProcessId, SessionId, Timestamp,
};

const UNIX_MS: u64 = GENERATION_EPOCH_UNIX_MS + 1_000_000;

/// An Assigner that is spoken to message by message.
pub(crate) struct Desk {
    pub(crate) assigner: Assigner,
    pub(crate) now: Timestamp,
    sequence: u64,
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("an allowed name")
}

/// The hello of a process's life that holds nothing. The process is told by its number, and so is the life.
pub(crate) fn fresh(name: &str, process: u64, incarnation: u64) -> Hello {
    Hello {
        peer: Peer {
            life: Life {
                node: id(name),
                incarnation: Incarnation::new(incarnation),
            },
            address: format!("{name}-{process}:1").into(),
        },
        http_address: "".into(),
        zone: "".into(),
        capacity_bytes: 1 << 30,
        draining: false,
        generation: Generation::NONE,
        claims: Vec::new(),
        versions: SESSION_VERSIONS,
        lease_ms: None,
        offers: None,
        process: ProcessId::new(process),
        cluster: ClusterId::default(),
    }
}

/// The same life once it holds all of an assignment.
pub(crate) fn holding(hello: &Hello, assignment: &Assignment) -> Hello {
    let mine = assignment.ranges().iter();
    let claims = mine
        .filter(|(_, range)| range.owner == hello.peer.life)
        .map(|(slice, range)| RangeClaim {
            slice,
            since: range.since,
            providers: Vec::new(),
            phase: ClaimPhase::Serving,
        });
    Hello {
        generation: assignment.generation(),
        claims: claims.collect(),
        cluster: ClusterId {
            founding: assignment.founding(),
            ..hello.cluster.clone()
        },
        ..hello.clone()
    }
}

impl Desk {
    pub(crate) fn new(config: AssignerConfig) -> Self {
        Self::of(config, |assigner| assigner)
    }

    /// One whose Assigner is made more of at its start.
    pub(crate) fn of(config: AssignerConfig, make: impl FnOnce(Assigner) -> Assigner) -> Self {
        let now = Timestamp::from_ms(10_000);
        let assigner = Assigner::new(config, Incarnation::new(77), Box::new(EvenRange), now);
        let mut desk = Self {
            assigner: make(assigner),
            now,
            sequence: 0,
        };
        desk.step(AssignerEvent::Tick);
        desk
    }

    /// Running, with the process 1 of "a" on session 1 and the process 2 of "b" on session 2.
    pub(crate) fn running(lease_ms: Option<u64>) -> Self {
        let mut desk = Self::new(AssignerConfig {
            expect_nodes: Some(2),
            founds_at_once: true,
            lease_ms,
            ..AssignerConfig::default()
        });
        desk.hello(1, fresh("a", 1, 11));
        desk.hello(2, fresh("b", 2, 21));
        desk.run_ms(if lease_ms.is_some() { 7_000 } else { 100 }, &[1, 2]);
        assert!(desk.assigner.assignment().is_some());
        desk
    }

    pub(crate) fn step(&mut self, event: AssignerEvent) -> Vec<AssignerAction> {
        self.assigner
            .step_at_once(event, self.now, UNIX_MS + self.now.as_ms())
    }

    pub(crate) fn hello(&mut self, session: u64, hello: Hello) -> Vec<AssignerAction> {
        self.say(session, NodeMessage::Hello(hello))
    }

    pub(crate) fn say(&mut self, session: u64, message: NodeMessage) -> Vec<AssignerAction> {
        let session = SessionId::new(session);
        self.step(AssignerEvent::FromNode { session, message })
    }

    /// Time goes on, and those on these sessions are heard of.
    pub(crate) fn run_ms(&mut self, ms: u64, heard: &[u64]) -> Vec<AssignerAction> {
        let mut actions = Vec::new();
        for _ in 0..ms / 100 {
            self.now = self.now.plus_ms(100);
            for session in heard {
                self.sequence += 1;
                let generation = self
                    .assigner
                    .assignment()
                    .map_or(Generation::NONE, |held| held.generation());
                let heartbeat = NodeMessage::Heartbeat {
                    sequence: self.sequence,
                    generation,
                    load: LoadReport::default(),
                    lease_ms: None,
                };
                actions.extend(self.say(*session, heartbeat));
            }
            actions.extend(self.step(AssignerEvent::Tick));
        }
        actions
    }

    pub(crate) fn holder(&self, name: &str) -> Option<Life> {
        let status = self.assigner.status(self.now);
        let node = status.nodes.into_iter().find(|node| node.life.node == id(name));
        node.map(|node| node.life)
    }
}

pub(crate) fn is_told_to_wait(actions: &[AssignerAction], session: u64) -> bool {
    actions.iter().any(|action| {
        matches!(action, AssignerAction::Send { session: to, message: AssignerMessage::NameTaken { .. } }
            if to.get() == session)
    })
}

pub(crate) fn is_told_dead(actions: &[AssignerAction], session: u64) -> bool {
    actions.iter().any(|action| {
        matches!(action, AssignerAction::Send { session: to, message: AssignerMessage::YouAreDead }
            if to.get() == session)
    })
}

pub(crate) fn deaths(actions: &[AssignerAction]) -> Vec<DeathCause> {
    let died = actions.iter().filter_map(|action| match action {
        AssignerAction::Notice(Notice::Died { cause, .. }) => Some(*cause),
        _ => None,
    });
    died.collect()
}
