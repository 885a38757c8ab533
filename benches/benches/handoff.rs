//! A whole hand-off between two nodes in this process, over real sockets: from the order to drain until the giver has
//! stopped. A million small entries (24 + 100 bytes), and ten thousand large ones (24 bytes + 100 KiB).
//!
//! The state is filled once. Each iteration starts an empty node, which is not timed, and drains the one that holds the
//! state into it, which is; then the roles change, as in a rolling restart. After each, all entries must have arrived.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use softstore_benches::cluster::{InProcess, client_of, fill};
use softstore_benches::measured::is_smoke_run;
use softstore_benches::workload::{KEY_BYTES, keys, value};
use softstore_server::node::{DrainOutcome, Node};
use tokio::runtime::Runtime;

/// Of each node: twice what the larger state needs.
const MEMORY_BYTES: u64 = 4 << 30;

struct State {
    name: &'static str,
    entries: u64,
    value_bytes: usize,
}

/// A cluster whose state moves on with each hand-off.
struct Relay {
    cluster: InProcess,
    holder: Node,
    entries: u64,
}

impl Relay {
    async fn filled(state: &State) -> Self {
        let (cluster, holder) = InProcess::start(MEMORY_BYTES).await.expect("a cluster starts");
        let client = client_of(&holder).await.expect("the client connects");
        fill(&client, &keys(state.entries), &value(state.value_bytes))
            .await
            .expect("the cluster takes the entries");
        Self {
            cluster,
            holder,
            entries: state.entries,
        }
    }

    async fn hand_over(&mut self) -> Duration {
        let taker = self.cluster.add_node().await.expect("a second node starts");
        let giver = std::mem::replace(&mut self.holder, taker);
        let started = Instant::now();
        let outcome = giver.drain().await;
        let took = started.elapsed();
        assert!(matches!(outcome, DrainOutcome::Drained), "{outcome:?}");
        let arrived = self.holder.state().store.stats().imported;
        assert_eq!(arrived, self.entries, "every entry arrives");
        took
    }
}

fn hand_off(criterion: &mut Criterion, runtime: &Runtime, state: &State) {
    let mut group = criterion.benchmark_group("handoff");
    let payload_bytes = state.entries * (KEY_BYTES + state.value_bytes) as u64;
    group.throughput(Throughput::Bytes(payload_bytes));
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1));
    let mut relay = None;
    group.bench_function(state.name, |bencher| {
        let relay = relay.get_or_insert_with(|| runtime.block_on(Relay::filled(state)));
        bencher.iter_custom(|iterations| {
            runtime.block_on(async {
                let mut took = Duration::ZERO;
                for _ in 0..iterations {
                    took += relay.hand_over().await;
                }
                took
            })
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let (small, large) = if is_smoke_run() {
        (1_000, 20)
    } else {
        (1_000_000, 10_000)
    };
    let runtime = Runtime::new().expect("a runtime starts");
    for state in [
        State {
            name: "small",
            entries: small,
            value_bytes: 100,
        },
        State {
            name: "large",
            entries: large,
            value_bytes: 100 << 10,
        },
    ] {
        hand_off(&mut criterion, &runtime, &state);
    }
    criterion.final_summary();
}
