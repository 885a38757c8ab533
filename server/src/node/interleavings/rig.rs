//! A node that owns everything, and shorthand for operations on it.

use std::sync::Arc;

use softstore_proto::batch::OpView;
use softstore_proto::v1::{OpKind, Reply, Status};
use softstore_sharding::slicelet::SliceletEvent;
use softstore_sharding::{
    Assignment, Epoch, Generation, Incarnation, Life, NodeEntry, NodeId, NodeState as EntryState, Peer,
    Provider, PullId, RangeAssignment, Readers, Slice, SliceKey, Timestamp, Version,
};
use softstore_store::{Frozen, MokaStore, MokaStoreConfig};
use softstore_sync::explore::thread;
use softstore_transfer::handoff::{Admission, HandoffCore};
use softstore_transfer::{HandoffConfig, chunk};
use tokio::sync::mpsc;

use crate::config::NodeConfig;
use crate::node::operation::{Asked, Execution, Step, StoodStill};
use crate::node::replies::Replies;
use crate::node::standing::Leave;
use crate::node::state::NodeState;

/// How many schedules a scenario is explored under if nobody says otherwise.
pub(super) const SCHEDULES: usize = 600;

/// Within how many a planted race must be found.
pub(super) const SCHEDULES_MAX: usize = 1 << 14;

pub(super) const KEY: &[u8] = b"k";

/// This node, node `b`, and what they are called in `Take`s.
pub(super) const ME: &str = "a";
pub(super) const OTHER: &str = "b";

pub(super) struct Rig {
    pub(super) state: Arc<NodeState>,
    pub(super) events: mpsc::Receiver<SliceletEvent>,
}

/// A reply, and what of it the scenarios look at.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) version: Version,
    pub(super) value: Vec<u8>,
}

impl Rig {
    /// A node with an assignment by which it owns everything since 1, alone.
    pub(super) fn owner() -> Self {
        let rig = Self::with(NodeConfig::default());
        rig.state.adopt(&whole(1, ME, 1, &[]));
        rig
    }

    /// A node without an assignment.
    pub(super) fn with(config: NodeConfig) -> Self {
        let core = HandoffCore::new(peer(ME), HandoffConfig::default(), chunk::CHUNK_VERSIONS);
        let store = MokaStore::new(MokaStoreConfig {
            budget_bytes: 1 << 20,
            ..MokaStoreConfig::default()
        });
        let (state, events) = NodeState::new(config, core, Arc::new(store));
        let rig = Self { state, events };
        rig.may_serve_on();
        rig
    }

    /// Its slicelet looks around: it may serve for another failure timeout.
    pub(super) fn may_serve_on(&self) {
        let now = self.state.clock.now();
        self.state.slicelet_stepped(Leave {
            serves_until: now.plus_ms(self.state.config.failure_timeout_ms),
            leased_until: Timestamp::NEVER,
            lease_ms: None,
        });
    }

    /// Runs one operation on [`KEY`], as the data stream does.
    pub(super) fn run(&self, kind: OpKind, value: &[u8]) -> Result<Answer, StoodStill> {
        self.run_after(kind, value, None, || {})
    }

    /// The same: of a key whose giver was asked in `peeked`, with something done just before it ends.
    pub(super) fn run_after(
        &self,
        kind: OpKind,
        value: &[u8],
        peeked: Option<PullId>,
        before_end: impl FnOnce(),
    ) -> Result<Answer, StoodStill> {
        let op = OpView {
            id: 1,
            kind: kind.into(),
            key: KEY,
            value,
            delta: 1,
            ..OpView::default()
        };
        let mut replies = Replies::default();
        let mut execution = Execution::begin(&self.state);
        let asked = Asked {
            peeked,
            ..Asked::first(&op, Generation::NONE)
        };
        let step = execution.run(&asked, &mut replies);
        before_end();
        execution.end()?;
        assert!(
            matches!(step, Step::Answered(_)),
            "{step:?}: nothing here is waited for"
        );
        let reply: Reply = replies.into_single().expect("it was answered");
        Ok(Answer {
            status: reply.status(),
            version: Version::new(reply.version),
            value: reply.value.to_vec(),
        })
    }

    /// The epoch under which this node holds [`KEY`].
    pub(super) fn epoch(&self) -> Epoch {
        match self.state.core().admit(at(), Generation::NONE) {
            Admission::Serve(serving) => serving.epoch,
            other => panic!("it is the owner: {other:?}"),
        }
    }

    /// What stands at [`KEY`] under an epoch, whoever may see it.
    pub(super) fn standing(&self, epoch: Epoch) -> Option<Frozen> {
        self.state.store.read_frozen(at(), epoch, self.state.clock.now())
    }
}

/// Runs threads side by side until all have ended.
pub(super) fn side_by_side(threads: &[&(dyn Fn() + Sync)]) {
    thread::scope(|scope| {
        for thread in threads {
            scope.spawn(thread);
        }
    });
}

pub(super) fn at() -> SliceKey {
    SliceKey::of_key(KEY)
}

pub(super) fn since(number: u64) -> Generation {
    let assigner = Incarnation::new(1);
    Generation { number, assigner }
}

pub(super) fn life(name: &str) -> Life {
    Life {
        node: NodeId::new(name).expect("a name"),
        incarnation: Incarnation::new(1),
    }
}

pub(super) fn peer(name: &str) -> Peer {
    Peer {
        life: life(name),
        // Nobody listens there; an empty address is not called.
        address: "".into(),
    }
}

/// An assignment of the whole key space to one owner, of [`ME`] and [`OTHER`].
pub(super) fn whole(
    generation: u64,
    owner: &str,
    owned_since: u64,
    providers: &[(&str, u64)],
) -> Arc<Assignment> {
    let entry = |name: &str| {
        let entry = NodeEntry {
            incarnation: life(name).incarnation,
            process: None,
            address: peer(name).address,
            http_address: "".into(),
            zone: "".into(),
            state: EntryState::Serving,
        };
        (life(name).node, entry)
    };
    let range = RangeAssignment {
        owner: life(owner),
        since: since(owned_since),
        providers: providers
            .iter()
            .map(|&(name, number)| Provider {
                life: life(name),
                since: since(number),
            })
            .collect(),
        readers: Readers::default(),
        awaits: Vec::new(),
    };
    let directory = [ME, OTHER].map(entry).into();
    let assignment = Assignment::new(since(generation), vec![(Slice::FULL, range)], directory);
    Arc::new(assignment.expect("well formed"))
}
