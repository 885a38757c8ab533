//! Does an Assigner found a cluster, or come to one? It finds out by itself, whatever it is told to expect and whoever comes first.

use std::time::{Duration, Instant};

use softstore_tests::ledger::Ledger;
use softstore_tests::process::{self, Signal};
use softstore_tests::processes::{FINDS_OUT, ProcessCluster, until};
use softstore_tests::proxy::Proxy;

const KEYS: usize = 1_000;

/// Plan: two nodes that hold entries. Their Assigner dies; fresh nodes are started, as many as the next Assigner is told to expect,
/// and it is told so. It keeps what the two hold, and the fresh ones join.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expecting_nodes_over_living_ones_keeps_their_entries() {
    let mut cluster = ProcessCluster::start(2).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 100);
    ledger.fill().await;
    cluster.kill_assigner().await;
    cluster.add("n8", &[]).await;
    cluster.add("n9", &[]).await;
    cluster.restart_assigner_with(&["--expect-nodes=2"]).await;
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
    assert!(cluster.sum("rebirths_total").await < 1.0);
}

/// Plan: an Assigner without any state, as in a pod without a disk, and three nodes, all started at once and told nothing but how
/// many they are. The cluster comes up by itself. Then everything is killed and started again: the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_of_everything_at_once_needs_no_hand() {
    let mut cluster = ProcessCluster::start_with(3, &[FINDS_OUT], &[]).await;
    let first = cluster.status().await.expect("it answers").founding;
    assert_eq!(first.len(), 16);
    for id in ["n1", "n2", "n3"] {
        cluster.take(id).process.signal(Signal::KILL);
    }
    cluster.restart_assigner().await;
    for id in ["n1", "n2", "n3"] {
        cluster.add(id, &[]).await;
    }
    cluster.settled().await;
    let second = cluster.status().await.expect("it answers").founding;
    assert_ne!(first, second, "nobody was left who knew the first");
}

/// Plan: the Assigner is killed and one without state takes its place, while both nodes that hold something stand still, for
/// longer than it settles over living nodes; a fresh node says hello meanwhile, and as many nodes are expected. Nothing is
/// founded. They wake, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_that_come_back_late_keep_what_they_hold() {
    let mut cluster = ProcessCluster::start(2).await;
    let founding = cluster.status().await.expect("it answers").founding;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 100);
    ledger.fill().await;
    for node in &cluster.nodes {
        node.process.stand_still().await;
    }
    cluster.restart_assigner_with(&["--expect-nodes=1"]).await;
    cluster.add("n9", &[]).await;
    let begun = Instant::now();
    until("the fresh node has been there alone for long", async || {
        let status = cluster.status().await?;
        assert!(status.recovering && status.generation.is_none_or(|generation| generation.number == 0));
        (begun.elapsed() > Duration::from_secs(8)).then_some(())
    })
    .await;
    for id in ["n1", "n2"] {
        cluster.node(id).process.signal(Signal::CONT);
    }
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
    let status = cluster.status().await.expect("it answers");
    assert_eq!(status.founding, founding);
    assert!(cluster.sum("rebirths_total").await < 1.0);
}

/// Plan: nodes of two clusters of one name meet at an Assigner that knows neither, since an address leads elsewhere. It publishes
/// nothing, and the status says what to type. Started so, it is the chosen one's; the other's node is refused, and both keep what
/// they hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_foundings_the_operator_chooses() {
    let mut address = Proxy::bind().await;
    let through = address.address().to_string();
    let mut one = ProcessCluster::start(1).await;
    let mut other = ProcessCluster::start_with(1, &["--rebalance-delay-ms=100"], &[]).await;
    address.forward_to(other.assigner_grpc.clone());
    other.add_at("n2", &through).await;
    other.settled().await;
    let (in_one, in_other) = (
        Ledger::new(one.patient_client().await, KEYS, 100),
        Ledger::new(other.patient_client().await, KEYS, 100),
    );
    in_one.fill().await;
    in_other.fill().await;
    let chosen = one.status().await.expect("it answers").founding;
    let chosen: String = chosen.iter().map(|byte| format!("{byte:02x}")).collect();

    one.node("n1").process.stand_still().await;
    other.kill_assigner().await;
    // The other one's node is heard of first.
    one.restart_assigner_with(&["--settle-ms=20000"]).await;
    address.forward_to(one.assigner_grpc.clone());
    until("the other's node is heard of", async || {
        one.status_of("n2").await.map(drop)
    })
    .await;
    one.node("n1").process.signal(Signal::CONT);
    until("both are heard of", async || {
        let status = one.status().await?;
        (status.foundings_to_choose.len() == 2).then_some(())
    })
    .await;
    let (_, shown, _) = process::run(&["status", "--assigner", &one.assigner_grpc]).await;
    assert!(
        shown.contains(&format!("softstore assigner --founding {chosen}")),
        "{shown}"
    );
    one.restart_assigner_with(&[&format!("--founding={chosen}")])
        .await;
    one.settled().await;
    assert_eq!(in_one.read_all().await, KEYS);
    assert_eq!(in_other.read_all().await, KEYS, "its nodes serve on");
    assert!(other.sum("rebirths_total").await < 1.0);
}
