//! Gets by the native client from a node in the same process, over a real socket, with 1, 64 and 256 in flight: as many
//! tasks, each of which sends its next get when the last was answered. Client and node share the runtime's threads, so
//! this is the cost of both together; `against_redis` keeps them apart.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use softstore_benches::cluster::{InProcess, client_of, fill};
use softstore_benches::measured::is_smoke_run;
use softstore_benches::workload::{Key, Picks, keys, value};
use softstore_client::Client;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const MEMORY_BYTES: u64 = 1 << 30;

/// `gets` gets by `in_flight` tasks, shared out evenly.
async fn round_trips(client: &Client, keys: &'static [Key], in_flight: u64, gets: u64) -> Duration {
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for task in 0..in_flight {
        let client = client.clone();
        let gets = gets / in_flight + u64::from(task < gets % in_flight);
        tasks.spawn(async move {
            let mut picks = Picks::seeded(task);
            for _ in 0..gets {
                let found = client.get(picks.of(keys)).await;
                assert!(matches!(found, Ok(Some(_))), "{found:?}");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("each get finds its value");
    }
    started.elapsed()
}

fn round_trip(criterion: &mut Criterion, runtime: &Runtime) {
    let count = if is_smoke_run() { 1_000 } else { 100_000 };
    // The tasks outlive no bench, but a task's borrows must outlive everything.
    let keys: &'static [Key] = keys(count).leak();
    let (_cluster, _node, client) = runtime.block_on(async {
        let (cluster, node) = InProcess::start(MEMORY_BYTES).await.expect("a cluster starts");
        let client = client_of(&node).await.expect("the client connects");
        fill(&client, keys, &value(100))
            .await
            .expect("the node takes the entries");
        (cluster, node, client)
    });
    let mut group = criterion.benchmark_group("round_trip");
    group.throughput(Throughput::Elements(1));
    for in_flight in [1, 64, 256] {
        group.bench_function(BenchmarkId::new("get", in_flight), |bencher| {
            bencher.iter_custom(|gets| runtime.block_on(round_trips(&client, keys, in_flight, gets)));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Runtime::new().expect("a runtime starts");
    round_trip(&mut criterion, &runtime);
    criterion.final_summary();
}
