//! What lasts and needs a person is said: in the log when it begins and when it ends, in `/readyz`, in the metrics, and in
//! `softstore status` as long as the Assigner hears of the node. None of it takes more than a few lines.

use std::time::Duration;

use softstore_tests::log_pipe::LogTo;
use softstore_tests::process;
use softstore_tests::processes::{NodeProcess, ProcessCluster, until};

/// How much longer than it takes to be noticed an Assigner is away.
const AWAY: Duration = Duration::from_secs(5);

/// Logs that are read, whatever this run does with those of others.
async fn cluster(nodes: u32) -> ProcessCluster {
    ProcessCluster::start_logging(nodes, &[], &[], LogTo::File, LogTo::File).await
}

/// Waits until a node tells of a condition, with this word in its line.
async fn tells(node: &NodeProcess, condition: &str, word: &str) {
    until(&format!("{} tells of {condition}: {word}", node.id), async || {
        let (_, told) = node.ready().await?;
        let mut lines = told.lines().filter(|line| line.starts_with(condition));
        lines.any(|line| line.contains(word)).then_some(())
    })
    .await;
    assert!(is_on(node, condition).await);
}

async fn is_on(node: &NodeProcess, condition: &str) -> bool {
    let name = format!("condition{{condition=\"{condition}\"}}");
    node.metrics().await.get(&name) > 0.5
}

/// Plan: the Assigner is killed, and comes back after some seconds. Its node says so once in the meantime, with the reason, shows
/// it, and says when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assigner_that_is_away_is_told_of() {
    let mut cluster = cluster(1).await;
    assert!(!is_on(cluster.node("n1"), "no_assigner").await);
    cluster.kill_assigner().await;
    tells(cluster.node("n1"), "no_assigner", "connection refused").await;
    // The length of the fault itself, in which the node tries to connect again and again.
    tokio::time::sleep(AWAY).await;
    let process = &cluster.node("n1").process;
    process.logged("no Assigner can be reached").await;
    let said = |log: &str| log.lines().filter(|line| line.contains("no_assigner")).count();
    assert_eq!(said(&process.log()), 1, "it is said once, and not with each try");
    cluster.start_assigner_again().await;
    cluster.settled().await;
    let node = cluster.node("n1");
    node.process.logged("the Assigner is reached again").await;
    assert!(!is_on(node, "no_assigner").await);
    let (code, told) = node.ready().await.expect("its HTTP port answers");
    assert_eq!((code, told.as_str()), (200, "ready\n"));
}

/// Plan: a node whose Assigner's name does not resolve, and one whose own name does not. Each says so, and why; the second, which
/// the Assigner hears of, in `status` too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_do_not_resolve_are_told_of() {
    let mut cluster = cluster(1).await;
    let lost = cluster.add_at("lost", "nowhere.invalid:7400").await;
    tells(lost, "no_assigner", "does not resolve").await;
    let (code, told) = lost.ready().await.expect("its HTTP port answers");
    assert_eq!(
        (code, told.lines().next()),
        (503, Some("waiting for an assignment"))
    );

    let misnamed = cluster
        .add("misnamed", &["--advertise=nowhere.invalid:7401"])
        .await;
    tells(misnamed, "own_name", "nowhere.invalid:7401").await;
    let assigner = cluster.assigner_grpc.clone();
    until("status shows it", async || {
        let (_, text, _) = process::run(&["status", "--assigner", &assigner]).await;
        text.contains("! misnamed: own_name: ").then_some(())
    })
    .await;
    let (_, json, _) = process::run(&["status", "--json", "--assigner", &assigner]).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("status prints JSON");
    let conditions = json["conditions"].as_array().expect("a list");
    assert!(conditions.iter().any(|told| told["node"] == "misnamed"), "{json}");
}
