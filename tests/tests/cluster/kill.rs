//! SIGKILL: nothing can be handed over. What is lost reads as a miss; nothing that failed looks successful.

use std::time::{Duration, Instant};

use softstore_tests::embedded::PATIENCE;
use softstore_tests::http::Metrics;
use softstore_tests::ledger::{Counts, Ledger};
use softstore_tests::process::Signal;
use softstore_tests::processes::{ProcessCluster, life, until};

const KEYS: usize = 600;

/// Until all slices are served again: the failure timeout of 3 s, and 2 s for everything else.
const SERVED_AGAIN: Duration = Duration::from_secs(5);

/// Plan: three nodes under reads, sets and deletes on all keys; one is killed. Within 5 s every key can be written again.
/// No read is stale or fails (they miss), each write that was not applied says so, and no node is left waiting for the
/// dead one. It comes back under its name as a new life, and the cluster settles with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_costs_misses_only() {
    let mut cluster = ProcessCluster::start_with(3, &["--rebalance-delay-ms=500"], &[]).await;
    let client = cluster.client().await;
    let ledger = Ledger::new(client.clone(), KEYS, 100);
    ledger.fill().await;
    let old_life = life(&cluster.status_of("n2").await.expect("n2 is there")).clone();
    let load = ledger.run(4, Duration::from_millis(1));

    let mut killed = cluster.take("n2");
    let begun = Instant::now();
    killed.process.signal(Signal::KILL);
    killed.process.exit_within(PATIENCE).await;
    until("all slices are served again", async || {
        let writes = (0..KEYS).map(|index| client.set(format!("probe-{index}"), "here"));
        let written = futures::future::join_all(writes).await;
        written.iter().all(Result::is_ok).then_some(())
    })
    .await;
    let served_again = begun.elapsed();
    assert!(served_again < SERVED_AGAIN, "{served_again:?}");
    cluster.settled().await;

    cluster.add("n2", &[]).await;
    cluster.settled().await;
    until("the node that came back is filled", async || {
        let node = cluster.status_of("n2").await?;
        (node.slices > 0 && !node.waiting_to_fill).then_some(())
    })
    .await;
    let new_life = life(&cluster.status_of("n2").await.expect("n2 is back")).clone();
    assert_eq!(new_life.node, old_life.node);
    assert_ne!(new_life.incarnation, old_life.incarnation);
    load.stop().await;
    let assigner = Metrics::read(&cluster.assigner_http).await.expect("metrics");
    assert!(
        assigner.get("protocol_errors_total") < 1.0,
        "a broken connection is no malformed message"
    );

    let counts = &ledger.counts;
    assert_eq!(Counts::of(&counts.stale), 0);
    assert_eq!(Counts::of(&counts.errors), 0);
    assert!(Counts::of(&counts.misses) > 0, "a third of the entries was lost");
    assert!(
        Counts::of(&counts.unavailable) + Counts::of(&counts.unknown) > 0,
        "while nobody owned a slice, writes to it said that they were not applied"
    );
    // All that was acknowledged since is there.
    ledger.fill().await;
    assert_eq!(ledger.read_all().await, KEYS);
}
