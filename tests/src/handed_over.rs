//! What an Assigner says that hands everything over, for tests that play one.

use std::collections::BTreeMap;

use softstore_sharding::{
    Assignment, Generation, Incarnation, NodeEntry, NodeState, Peer, Provider, RangeAssignment, Readers,
    Slice,
};

/// The generation with this number.
#[must_use]
pub fn generation(number: u64) -> Generation {
    let assigner = Incarnation::new(1);
    Generation { number, assigner }
}

/// The whole key space to `owner` under generation 2, who is to take it from `giver`, that had it under generation 1.
///
/// # Panics
/// If both have one name.
#[must_use]
pub fn handed_over(owner: &Peer, giver: &Peer) -> Assignment {
    let range = RangeAssignment {
        owner: owner.life.clone(),
        since: generation(2),
        providers: vec![Provider {
            life: giver.life.clone(),
            since: generation(1),
        }],
        readers: Readers::default(),
        awaits: Vec::new(),
    };
    let entry = |peer: &Peer| NodeEntry {
        incarnation: peer.life.incarnation,
        process: None,
        address: peer.address.clone(),
        http_address: "".into(),
        zone: "".into(),
        state: NodeState::Serving,
    };
    let directory = [owner, giver].map(|peer| (peer.life.node.clone(), entry(peer)));
    let directory: BTreeMap<_, _> = directory.into();
    Assignment::new(generation(2), vec![(Slice::FULL, range)], directory).expect("a valid assignment")
}
