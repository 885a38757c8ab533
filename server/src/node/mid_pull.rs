//! For tests of this folder: a node's state in the middle of a pull, whose giver cannot be reached, and a store that lets a
//! test step in between two of its calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use softstore_sharding::slicelet::SliceletEvent;
use softstore_sharding::{
    Assignment, Epoch, FrequencyClass, Generation, Incarnation, Life, NodeEntry, NodeId,
    NodeState as DirectoryState, Peer, PullId, RangeAssignment, Readers, Slice, SliceKey, Timestamp, Version,
};
use softstore_store::{
    Added, Frozen, Import, ImportOutcome, Listing, MokaStore, MokaStoreConfig, OpContext, Outcome, Part,
    PartStats, Reading, SetCondition, SetOutcome, Store, StoreError, StoreStats,
};
use softstore_transfer::handoff::HandoffCore;
use softstore_transfer::message::{Take, TakeAnswer, TakeRange, TakeReply, Verdict};
use softstore_transfer::{HandoffConfig, chunk};
use tokio::sync::mpsc;

use super::standing::Leave;
use super::state::NodeState;
use crate::config::NodeConfig;

/// What a test does between two calls of a store.
type Step = Box<dyn FnOnce() + Send>;

/// A store that does what a test wants, once, after it has looked for a frozen entry.
pub(super) struct SteppedStore {
    inner: MokaStore,
    after_frozen: Mutex<Option<Step>>,
}

impl std::fmt::Debug for SteppedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SteppedStore").finish_non_exhaustive()
    }
}

/// A node that pulls the whole key space, under generation 2, from a giver that had it under generation 1.
pub(super) struct MidPull {
    pub(super) state: Arc<NodeState>,
    pub(super) store: Arc<SteppedStore>,
    pub(super) pull: PullId,
    _to_slicelet: mpsc::Receiver<SliceletEvent>,
}

/// A node that is to take the whole key space over.
pub(super) struct Asking {
    pub(super) state: Arc<NodeState>,
    store: Arc<SteppedStore>,
    to_slicelet: mpsc::Receiver<SliceletEvent>,
}

pub(super) fn generation(number: u64) -> Generation {
    Generation {
        number,
        assigner: Incarnation::new(1),
    }
}

/// A node that listens nowhere.
pub(super) fn peer(name: &str, incarnation: u64) -> Peer {
    Peer {
        life: Life {
            node: NodeId::new(name).expect("a name"),
            incarnation: Incarnation::new(incarnation),
        },
        address: "".into(),
    }
}

/// A peer as directories list it.
pub(super) fn entry(peer: &Peer) -> (NodeId, NodeEntry) {
    let entry = NodeEntry {
        incarnation: peer.life.incarnation,
        process: None,
        address: peer.address.clone(),
        http_address: "".into(),
        zone: "".into(),
        state: DirectoryState::Serving,
    };
    (peer.life.node.clone(), entry)
}

fn assignment(number: u64, owner: &Peer, providers: &[(&Peer, u64)], listed: &[&Peer]) -> Arc<Assignment> {
    let directory: BTreeMap<NodeId, NodeEntry> = listed.iter().copied().map(entry).collect();
    let providers = providers
        .iter()
        .map(|(peer, since)| softstore_sharding::Provider {
            life: peer.life.clone(),
            since: generation(*since),
        });
    let range = RangeAssignment {
        owner: owner.life.clone(),
        since: generation(number),
        providers: providers.collect(),
        readers: Readers::default(),
        awaits: Vec::new(),
    };
    let ranges = vec![(Slice::FULL, range)];
    Arc::new(Assignment::new(generation(number), ranges, directory).expect("valid"))
}

impl MidPull {
    /// Needs a runtime: the pull's stream is tried, in vain, again and again.
    pub(super) fn start() -> Self {
        let taker = Self::asking();
        let state = &taker.state;
        let fenced = TakeReply {
            from: peer("giver", 1).life,
            chunk_versions: chunk::CHUNK_VERSIONS,
            answers: vec![TakeAnswer {
                slice: Slice::FULL,
                since: generation(2),
                from: generation(1),
                verdict: Verdict::Fenced {
                    next_version: Version::new(1),
                },
            }],
        };
        state.with_core(|core, now| ((), core.take_answered(&fenced, now)));
        let at = SliceKey::of_key(b"k");
        let pull = match state.core().admit(at, Generation::NONE) {
            softstore_transfer::handoff::Admission::Serve(serving) => serving.pull,
            other => panic!("it does not serve: {other:?}"),
        };
        Self {
            pull: pull.expect("the pull is open"),
            state: taker.state,
            store: taker.store,
            _to_slicelet: taker.to_slicelet,
        }
    }

    /// The same node before that: it asks the giver, which does not answer.
    pub(super) fn asking() -> Asking {
        let config = NodeConfig {
            memory_bytes: 1 << 20,
            ..NodeConfig::default()
        };
        let (me, giver) = (peer("taker", 2), peer("giver", 1));
        let core = HandoffCore::new(me.clone(), HandoffConfig::default(), chunk::CHUNK_VERSIONS);
        let store = Arc::new(SteppedStore {
            inner: MokaStore::new(MokaStoreConfig {
                budget_bytes: 1 << 20,
                ..MokaStoreConfig::default()
            }),
            after_frozen: Mutex::default(),
        });
        let (state, to_slicelet) = NodeState::new(config, core, store.clone());
        state.slicelet_stepped(Leave::without_end());
        let next = peer("next", 3);
        state.adopt(&assignment(2, &me, &[(&giver, 1)], &[&me, &giver, &next]));
        Asking {
            state,
            store,
            to_slicelet,
        }
    }

    /// The node called next takes all of it, under generation 3.
    pub(super) fn fenced_for(&self, taker: &Peer) {
        let take = Take {
            to: self.state.core().me().life.clone(),
            taker: taker.clone(),
            ranges: vec![TakeRange {
                slice: Slice::FULL,
                since: generation(3),
                from: generation(2),
            }],
        };
        let reply = self.state.with_core(|core, now| match core.take(&take, now) {
            Ok((reply, actions)) => (Ok(reply), actions),
            Err(refusal) => (Err(refusal), Vec::new()),
        });
        let answers = reply.expect("it is answered").answers;
        assert!(
            matches!(answers[0].verdict, Verdict::Fenced { .. }),
            "{answers:?}"
        );
    }

    /// The pull brings an entry.
    pub(super) fn import(state: &NodeState, pull: PullId, key: &[u8], value: &[u8]) {
        let at = SliceKey::of_key(key);
        let target = state.core().import_target(pull, at).expect("it is filling");
        let import = Import {
            key,
            at,
            value,
            version: Version::new(1),
            deadline: Timestamp::NEVER,
            class: FrequencyClass::COLDEST,
        };
        let outcome = state.store.import(pull, target.epoch, state.clock.now(), &import);
        assert_eq!(outcome, ImportOutcome::Inserted);
    }
}

impl SteppedStore {
    /// What is to happen after the next look for a frozen entry, before whoever looked goes on.
    pub(super) fn after_frozen(&self, step: impl FnOnce() + Send + 'static) {
        *self.after_frozen.lock() = Some(Box::new(step));
    }
}

impl Store for SteppedStore {
    fn read_frozen(&self, at: SliceKey, epoch: Epoch, as_of: Timestamp) -> Option<Frozen> {
        let frozen = self.inner.read_frozen(at, epoch, as_of);
        let step = self.after_frozen.lock().take();
        if let Some(step) = step {
            step();
        }
        frozen
    }

    fn read(
        &self,
        key: &[u8],
        at: SliceKey,
        context: &OpContext<'_>,
        answer: &mut dyn FnMut(Reading<'_>),
    ) -> Outcome<bool> {
        self.inner.read(key, at, context, answer)
    }

    fn set(
        &self,
        key: &[u8],
        at: SliceKey,
        value: &[u8],
        deadline: Timestamp,
        condition: SetCondition,
        context: &OpContext<'_>,
    ) -> Result<Outcome<SetOutcome>, StoreError> {
        self.inner.set(key, at, value, deadline, condition, context)
    }

    fn delete(&self, key: &[u8], at: SliceKey, report: bool, context: &OpContext<'_>) -> Outcome<bool> {
        self.inner.delete(key, at, report, context)
    }

    fn touch(&self, key: &[u8], at: SliceKey, deadline: Timestamp, context: &OpContext<'_>) -> Outcome<bool> {
        self.inner.touch(key, at, deadline, context)
    }

    fn add(
        &self,
        key: &[u8],
        at: SliceKey,
        delta: i64,
        deadline: Timestamp,
        context: &OpContext<'_>,
    ) -> Result<Outcome<Added>, StoreError> {
        self.inner.add(key, at, delta, deadline, context)
    }

    fn begin_pull(&self, pull: PullId) {
        self.inner.begin_pull(pull);
    }

    fn begin_awaiting(&self, pull: PullId) {
        self.inner.begin_awaiting(pull);
    }

    fn end_pull(&self, pull: PullId) {
        self.inner.end_pull(pull);
    }

    fn pull_overflowed(&self, pull: PullId) -> bool {
        self.inner.pull_overflowed(pull)
    }

    fn import(&self, pull: PullId, epoch: Epoch, now: Timestamp, import: &Import<'_>) -> ImportOutcome {
        self.inner.import(pull, epoch, now, import)
    }

    fn import_peeked(
        &self,
        pull: PullId,
        epoch: Epoch,
        now: Timestamp,
        import: &Import<'_>,
    ) -> ImportOutcome {
        self.inner.import_peeked(pull, epoch, now, import)
    }

    fn is_written(&self, pull: PullId, at: SliceKey) -> bool {
        self.inner.is_written(pull, at)
    }

    fn list(&self, parts: &[Part], as_of: Timestamp) -> Listing {
        self.inner.list(parts, as_of)
    }

    fn purge(&self, part: Part) {
        self.inner.purge(part);
    }

    fn purges_waiting(&self) -> usize {
        self.inner.purges_waiting()
    }

    fn part_stats(&self, part: Part) -> PartStats {
        self.inner.part_stats(part)
    }

    fn maintain(&self, now: Timestamp) {
        self.inner.maintain(now);
    }

    fn set_budget(&self, budget_bytes: u64) {
        self.inner.set_budget(budget_bytes);
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}
