//! Assignments of as many slices as wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{
    Assignment, Clerk, Generation, Incarnation, Life, NodeEntry, NodeId, NodeState, RangeAssignment, Readers,
    Slice, SliceKey,
};

use crate::workload::Picks;

/// The key space cut at random into `slices` slices, dealt to `nodes` nodes in turn; each slice with a `since` of its own.
/// (Even slices would coincide with the cells of the lookup's table, which is its best case.)
///
/// # Panics
/// If there are no slices, more than 2^20, or no nodes.
#[must_use]
pub fn random(slices: u32, nodes: u32) -> Assignment {
    let lives: Vec<Life> = (0..nodes).map(life).collect();
    let mut picks = Picks::seeded(u64::from(slices));
    let mut lows = BTreeSet::from([SliceKey::MIN]);
    while lows.len() < slices as usize {
        lows.insert(SliceKey::new(picks.number()));
    }
    let highs = lows.iter().skip(1).copied().map(Some).chain([None]);
    let ranges = lows.iter().zip(highs).zip(0..).map(|((&low, high), index)| {
        let slice = Slice::new(low, high).expect("bounds ascend");
        let range = RangeAssignment {
            owner: lives[(index % nodes) as usize].clone(),
            since: generation(u64::from(index) + 1),
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        (slice, range)
    });
    let directory: BTreeMap<NodeId, NodeEntry> = lives.iter().map(entry).collect();
    Assignment::new(generation(u64::from(slices) + 1), ranges.collect(), directory)
        .expect("complete and in order")
}

/// A clerk that follows the assignment.
///
/// # Panics
/// If it does not take the assignment; a full one is always taken.
#[must_use]
pub fn clerk(assignment: Assignment) -> Clerk {
    let mut clerk = Clerk::new();
    let taken = clerk.update(&AssignmentUpdate::Full(Arc::new(assignment)));
    assert!(matches!(taken, Ok(true)), "{taken:?}");
    clerk
}

fn generation(number: u64) -> Generation {
    Generation {
        number,
        assigner: Incarnation::new(1),
    }
}

fn life(index: u32) -> Life {
    let node = NodeId::new(&format!("node-{index}")).expect("a valid name");
    Life {
        node,
        incarnation: Incarnation::new(u64::from(index) + 1),
    }
}

fn entry(life: &Life) -> (NodeId, NodeEntry) {
    let entry = NodeEntry {
        incarnation: life.incarnation,
        process: None,
        address: format!("{}:7401", life.node).into(),
        http_address: "".into(),
        zone: "".into(),
        state: NodeState::Serving,
    };
    (life.node.clone(), entry)
}
