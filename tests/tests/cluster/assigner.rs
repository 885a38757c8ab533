//! The Assigner dies and comes back: no request notices, nothing moves, and what it is needed for works again.

use std::time::Duration;

use softstore_tests::ledger::{Counts, Ledger};
use softstore_tests::process::Signal;
use softstore_tests::processes::{NodeProcess, ProcessCluster, until};

const KEYS: usize = 1_000;

/// Per range: bounds, owner and its incarnation, and the acquisition.
async fn ownership(node: &NodeProcess) -> Vec<String> {
    let assignment = node.assignment().await;
    let ranges = assignment.ranges().iter();
    ranges
        .map(|(slice, range)| format!("{slice} {} {} {:?}", range.owner, range.since, range.providers))
        .collect()
}

/// Plan: three nodes under load; the Assigner is killed and another started on its port. The load sees no error, no miss,
/// no write refused. Every node ends up on an assignment of the new Assigner in which each range has the owner and the
/// acquisition that it had; no entry was imported, no range fenced. Then a drain works, and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_back_and_nobody_notices() {
    let mut cluster = ProcessCluster::start(3).await;
    let ledger = Ledger::new(cluster.client().await, KEYS, 100);
    ledger.fill().await;
    let before = ownership(cluster.node("n1")).await;
    let generation = cluster.node("n1").assignment().await.generation();
    let load = ledger.run(4, Duration::from_millis(1));

    cluster.restart_assigner().await;
    cluster.settled().await;
    for node in &cluster.nodes {
        until("the node holds the new Assigner's assignment", async || {
            let newest = cluster.status().await?.generation?.number;
            (cluster.status_of(&node.id).await?.generation?.number == newest).then_some(())
        })
        .await;
        assert!(node.assignment().await.generation() >= generation);
        assert_eq!(ownership(node).await, before, "{}", node.id);
    }
    for metric in [
        "ranges_fenced_total",
        "entries_imported_total",
        "suspensions_total",
        "rebirths_total",
    ] {
        assert!(cluster.sum(metric).await < 1.0, "{metric}");
    }
    load.stop().await;
    let counts = &ledger.counts;
    for (counter, name) in [
        (&counts.stale, "stale"),
        (&counts.errors, "errors"),
        (&counts.unavailable, "unavailable"),
        (&counts.unknown, "unknown"),
    ] {
        assert_eq!(Counts::of(counter), 0, "{name}");
    }

    ledger.fill().await;
    let mut leaving = cluster.take("n3");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.exit_code().await, 0);
    assert!(
        leaving.process.log().contains("drained: all was handed over"),
        "{}",
        leaving.process.log()
    );
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
}

/// Plan: the Assigner is killed in the middle of nothing, a node gets SIGTERM while there is none, and a new Assigner
/// comes within the time that the node waits: the drain that was waiting is carried out, and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_it_and_then_goes_on() {
    let mut cluster = ProcessCluster::start_with(2, &[], &["--assigner-wait-ms=20000"]).await;
    let ledger = Ledger::new(cluster.client().await, KEYS, 100);
    ledger.fill().await;
    cluster.assigner.stand_still().await;
    let mut leaving = cluster.take("n1");
    leaving.process.signal(Signal::TERM);
    until("the drain has begun", async || {
        (leaving.ready().await?.0 == 503).then_some(())
    })
    .await;
    cluster.restart_assigner().await;
    assert_eq!(leaving.process.exit_code().await, 0);
    assert!(
        leaving.process.log().contains("drained: all was handed over"),
        "{}",
        leaving.process.log()
    );
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
}
