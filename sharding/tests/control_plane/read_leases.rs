//! The mark of an assignment that former readers of a range may hold leases: it outlasts those, and no more.

use std::cell::RefCell;

use softstore_sharding::assigner::AssignerEvent;
use softstore_sharding::assignment::READ_LEASES_OVER_MS;
use softstore_sharding::sharder::{ClusterView, EvenRange, Placement, Sharder};
use softstore_sharding::{AssignerConfig, NodeId, Slice, SliceKey};

use crate::fleet::{Fleet, id};

/// What is replicated: one key of node a's, somewhere in the middle.
const KEY: SliceKey = SliceKey::new(1 << 60);

/// From the moment that a replica is taken away the mark lasts so long: the owner hears of that at once here, and tells it with
/// a heartbeat that is soon; then its leases end; then it is published, and not more often than every 20 ms.
const MARKED_MS_MAX: u64 = READ_LEASES_OVER_MS + 100;

thread_local! {
    /// Who is to read the key.
    static READERS: RefCell<Vec<NodeId>> = const { RefCell::new(Vec::new()) };
}

/// Even ranges, and the replicas that the test wants.
#[derive(Debug)]
struct Wanted;

impl Sharder for Wanted {
    fn name(&self) -> &'static str {
        "wanted"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let placement = EvenRange.place(view);
        let living = |node: &NodeId| view.nodes.iter().any(|view| view.life.node == *node);
        let owner = placement.overlapping(Slice::single(KEY)).next();
        let owner = owner.map(|(_, owner)| owner.clone());
        let readers = READERS.with_borrow(|readers| {
            let others = readers
                .iter()
                .filter(|node| living(node) && Some(*node) != owner.as_ref());
            others.cloned().collect()
        });
        placement.replicated(vec![(Slice::single(KEY), readers)])
    }
}

/// Three nodes, of which b reads a's key.
fn replicated() -> Fleet {
    let config = AssignerConfig {
        rebalance_delay_ms: 0,
        ..AssignerConfig::default()
    };
    READERS.set(Vec::new());
    let mut fleet = Fleet::settled_with(config, || Box::new(Wanted), &["a", "b", "c"]);
    assert_eq!((fleet.assignment().ranges().len(), marked(&fleet)), (3, false));
    want(&mut fleet, &["b"]);
    fleet.run_ms(1_000);
    assert_eq!((fleet.assignment().ranges().len(), marked(&fleet)), (5, false));
    fleet
}

/// Has other nodes read the key, from now on.
fn want(fleet: &mut Fleet, readers: &[&str]) {
    READERS.set(readers.iter().map(|name| id(name)).collect());
    fleet.tell_assigner(AssignerEvent::Freeze { for_ms: None });
    fleet.tell_assigner(AssignerEvent::Unfreeze);
    fleet.run_ms(25);
}

/// Whether the key's range is marked.
fn marked(fleet: &Fleet) -> bool {
    let (_, range) = fleet.assignment().ranges().get_with_slice(KEY);
    range.readers.leases_out
}

/// Plan: the key's only replica is taken away. Its leases last for a while, and so does the mark; then it is cleared, and the
/// key's range is one with what lies around it again, under the acquisition that it had. In all that no node has to do anything.
#[test]
fn the_mark_ends_with_the_leases_and_the_range_merges() {
    let mut fleet = replicated();
    let before = fleet.published.len();
    want(&mut fleet, &[]);
    assert!(marked(&fleet));
    fleet.run_ms(READ_LEASES_OVER_MS - 30);
    assert!(marked(&fleet), "cleared while the replica may read");
    fleet.run_ms(MARKED_MS_MAX - READ_LEASES_OVER_MS);
    assert_eq!((fleet.assignment().ranges().len(), marked(&fleet)), (3, false));
    assert_eq!(fleet.published.len(), before + 2, "taken away, and cleared");
    fleet.run_ms(5_000);
    assert_eq!(fleet.published.len(), before + 2);
}

/// Plan: the replica is taken away while the owner does not hear of that: it lends on. The mark stays until the owner is back,
/// and for its last leases then.
#[test]
fn h2_the_mark_waits_for_an_owner_that_has_not_heard() {
    let mut fleet = replicated();
    fleet.cut_off("a");
    want(&mut fleet, &[]);
    fleet.run_ms(2 * READ_LEASES_OVER_MS);
    assert!(marked(&fleet), "cleared although the owner may lend still");
    fleet.reconnect("a");
    fleet.run_ms(READ_LEASES_OVER_MS - 100);
    assert!(marked(&fleet), "cleared with the owner's last leases out");
    fleet.run_ms(3_000);
    assert!(!marked(&fleet));
}

/// Plan: b is taken away, then given back and taken away again just before its leases of the first time would be over. These
/// are of the second time, too: the mark lasts as if there had been no first one. Another replica that comes and stays changes
/// nothing in the end.
#[test]
fn h2_what_changes_meanwhile_begins_the_wait_anew() {
    let mut fleet = replicated();
    want(&mut fleet, &[]);
    fleet.run_ms(READ_LEASES_OVER_MS - 200);
    want(&mut fleet, &["b"]);
    want(&mut fleet, &[]);
    fleet.run_ms(READ_LEASES_OVER_MS - 30);
    assert!(marked(&fleet), "b was lent to anew");
    want(&mut fleet, &["c"]);
    fleet.run_ms(MARKED_MS_MAX);
    assert!(!marked(&fleet), "nobody but c can hold a lease");
    assert_eq!(fleet.assignment().ranges().len(), 5);
}

/// Plan: the owner dies while the mark is on: whoever takes the range gets it with the mark, and has to wait before it starts.
/// Then it ends as any other.
#[test]
fn h2_who_takes_over_gets_the_mark() {
    let mut fleet = replicated();
    want(&mut fleet, &[]);
    fleet.kill("a");
    fleet.start("a");
    let dead = fleet.published.len();
    // Its former life is found gone half a second later.
    fleet.run_ms(700);
    assert!(fleet.published.len() > dead);
    assert!(marked(&fleet));
    fleet.run_ms(3_000);
    assert!(!marked(&fleet));
}

/// Plan: a new Assigner finds the mark in what the nodes hold, and clears it when the owner has heard of *its* assignment.
#[test]
fn a_new_assigner_clears_what_it_finds() {
    let mut fleet = replicated();
    want(&mut fleet, &[]);
    fleet.kill_assigner();
    fleet.run_ms(500);
    fleet.start_assigner();
    let started = fleet.published.len();
    while fleet.published.len() == started {
        fleet.run_ms(10);
    }
    assert!(marked(&fleet));
    fleet.run_ms(3_000);
    assert_eq!((fleet.assignment().ranges().len(), marked(&fleet)), (3, false));
}
