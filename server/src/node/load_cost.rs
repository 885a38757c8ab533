//! What it costs to measure load, told as a share of a get. Not run by itself:
//!
//! ```sh
//! cargo test --release -p softstore-server --lib -- --ignored --nocapture cost_of_measuring
//! ```
//!
//! tells the time. For instructions, which repeat, run the test's binary (named by the command above) under
//! `valgrind --tool=callgrind --toggle-collect='*load_cost::gets*'`, and compare the inclusive counts of `gets_counted` and
//! `gets_uncounted` in `callgrind_annotate --inclusive=yes`. A get is here what a node does of it between a decoded batch
//! and an encoded reply: position, admission, store, reply. What the streams and the kernel do comes on top of that.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use softstore_proto::batch::OpView;
use softstore_proto::v1;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{
    Assignment, Generation, NodeEntry, NodeState as DirectoryState, RangeAssignment, Readers, Slice, SliceKey,
};
use softstore_store::{MokaStore, MokaStoreConfig};
use softstore_transfer::handoff::HandoffCore;
use softstore_transfer::{HandoffConfig, chunk};

use super::mid_pull::{generation, peer};
use super::operation::{Asked, Execution, Step};
use super::replies::Replies;
use super::standing::Leave;
use super::state::NodeState;
use crate::config::NodeConfig;

const BUDGET_BYTES: u64 = 256 << 20;

/// Enough that the store is out of the processor's near caches.
const KEYS: u64 = 100_000;

/// Operations of a part of a batch.
const PART_OPS: usize = 32;

const PARTS: usize = 4_000;

const ROUNDS: usize = 9;

/// A node that serves everything, alone.
fn owner() -> Arc<NodeState> {
    let config = NodeConfig {
        memory_bytes: BUDGET_BYTES,
        ..NodeConfig::default()
    };
    let me = peer("n", 1);
    let core = HandoffCore::new(me.clone(), HandoffConfig::default(), chunk::CHUNK_VERSIONS);
    let store = MokaStore::new(MokaStoreConfig {
        budget_bytes: BUDGET_BYTES,
        ..MokaStoreConfig::default()
    });
    let (state, _) = NodeState::new(config, core, Arc::new(store));
    state.slicelet_stepped(Leave::without_end());
    let entry = NodeEntry {
        incarnation: me.life.incarnation,
        address: me.address.clone(),
        http_address: "".into(),
        zone: "".into(),
        state: DirectoryState::Serving,
    };
    let range = RangeAssignment {
        owner: me.life.clone(),
        since: generation(1),
        providers: Vec::new(),
        readers: Readers::default(),
    };
    let directory = BTreeMap::from([(me.life.node, entry)]);
    let assignment = Assignment::new(generation(1), vec![(Slice::FULL, range)], directory);
    state.adopt(&Arc::new(assignment.expect("valid")));
    state
}

fn op(kind: OpKind, number: u64) -> v1::Op {
    v1::Op {
        id: number,
        kind: kind.into(),
        key: format!("{number:024}").into(),
        value: if kind == OpKind::Set {
            vec![7; 100]
        } else {
            Vec::new()
        }
        .into(),
        ..v1::Op::default()
    }
}

/// Runs operations as the data stream does, in parts.
fn run(state: &Arc<NodeState>, ops: &[v1::Op], is_counted: bool) {
    for part in ops.chunks(PART_OPS) {
        let mut replies = Replies::default();
        replies.reserve(PART_OPS * 160);
        let mut execution = if is_counted {
            Execution::begin(state)
        } else {
            Execution::begin_uncounted(state)
        };
        for op in part {
            let step = execution.run(&Asked::first(&OpView::of(op), Generation::NONE), &mut replies);
            assert_eq!(step, Step::Answered(Status::Ok));
        }
        execution.end().expect("time stands");
        black_box(&replies);
    }
}

#[inline(never)]
fn gets_counted(state: &Arc<NodeState>, ops: &[v1::Op]) {
    run(state, ops, true);
}

#[inline(never)]
fn gets_uncounted(state: &Arc<NodeState>, ops: &[v1::Op]) {
    run(state, ops, false);
}

fn timed(run: impl FnOnce()) -> Duration {
    let started = Instant::now();
    run();
    started.elapsed()
}

/// Plan: the same gets, with and without counting, in turns; the least time of each counts, since whatever else the machine
/// does only adds to it.
#[test]
#[ignore = "a measurement"]
fn cost_of_measuring() {
    let state = owner();
    let sets: Vec<v1::Op> = (0..KEYS).map(|number| op(OpKind::Set, number)).collect();
    run(&state, &sets, false);
    let picks = (0..(PARTS * PART_OPS) as u64).map(|pick| SliceKey::of_key(&pick.to_be_bytes()).get() % KEYS);
    let gets: Vec<v1::Op> = picks.map(|number| op(OpKind::Get, number)).collect();
    gets_uncounted(&state, &gets);
    let (mut counted, mut uncounted) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        counted = counted.min(timed(|| gets_counted(&state, &gets)));
        uncounted = uncounted.min(timed(|| gets_uncounted(&state, &gets)));
    }
    let each = |took: Duration| took.as_secs_f64() * 1e9 / gets.len() as f64;
    println!(
        "a get takes {:.0} ns, and {:.0} ns with its load measured: {:+.1} ns, {:+.1}%",
        each(uncounted),
        each(counted),
        each(counted) - each(uncounted),
        (each(counted) / each(uncounted) - 1.0) * 100.0
    );
}
