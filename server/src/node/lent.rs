//! For tests of this folder: an owner of everything and a replica that reads all of it, each as a node's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use softstore_sharding::{Assignment, Peer, RangeAssignment, Readers, Slice};
use softstore_store::{MokaStore, MokaStoreConfig};
use softstore_transfer::handoff::HandoffCore;
use softstore_transfer::message::{LeaseReply, LeaseRequest, TakenRange};
use softstore_transfer::{HandoffConfig, chunk};
use tokio::net::TcpListener;

use super::lending;
use super::mid_pull::{entry, generation, peer};
use super::standing::Leave;
use super::state::NodeState;
use crate::config::NodeConfig;

/// Who owns, who reads, and their assignment.
pub(super) struct Lent {
    pub(super) owner: Peer,
    pub(super) reader: Peer,
    assignment: Arc<Assignment>,
}

impl Lent {
    /// The owner listens at one address, the reader at the other.
    pub(super) fn between(owner: &str, reader: &str) -> Self {
        let at = |name: &str, incarnation: u64, address: &str| Peer {
            address: address.into(),
            ..peer(name, incarnation)
        };
        let (owner, reader) = (at("owner", 1, owner), at("reader", 2, reader));
        let range = RangeAssignment {
            owner: owner.life.clone(),
            since: generation(1),
            providers: Vec::new(),
            readers: Readers {
                replicas: vec![reader.life.clone()],
                leases_out: false,
            },
            awaits: Vec::new(),
        };
        let directory: BTreeMap<_, _> = [entry(&owner), entry(&reader)].into();
        let assignment = Assignment::new(generation(1), vec![(Slice::FULL, range)], directory);
        Self {
            assignment: Arc::new(assignment.expect("valid")),
            owner,
            reader,
        }
    }

    /// One of the two.
    pub(super) fn node(&self, me: &Peer) -> Arc<NodeState> {
        let config = NodeConfig {
            memory_bytes: 1 << 20,
            ..NodeConfig::default()
        };
        let core = HandoffCore::new(me.clone(), HandoffConfig::default(), chunk::CHUNK_VERSIONS);
        let store = MokaStore::new(MokaStoreConfig {
            budget_bytes: 1 << 20,
            ..MokaStoreConfig::default()
        });
        let (state, _) = NodeState::new(config, core, Arc::new(store));
        state.slicelet_stepped(Leave::without_end());
        state.adopt(&self.assignment);
        state
    }

    /// What the owner answers when the reader asks.
    pub(super) fn lend(&self, owner: &Arc<NodeState>) -> LeaseReply {
        let request = LeaseRequest {
            to: self.owner.life.clone(),
            reader: self.reader.life.clone(),
            ranges: vec![TakenRange {
                slice: Slice::FULL,
                since: generation(1),
            }],
        };
        lending::answer_lease(owner, &request).expect("it is answered")
    }
}

/// Somewhere to listen, and its address.
pub(super) async fn any_port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    (listener, address)
}
