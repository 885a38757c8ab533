//! A restart into a build that speaks another chunk format: cold between the two, and nothing else.

use softstore_tests::ledger::Ledger;
use softstore_tests::process::Signal;
use softstore_tests::processes::ProcessCluster;

const KEYS: usize = 2_000;

/// Plan: two nodes of this build, and a third with chunk version 2 only that takes whole what the first of them leaves:
/// a hand-off between builds. It starts cold, counts and logs it; what the others held stays. Then the second drains to
/// the only other node of this build, which is not cold: that pair shares a version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_chunk_version_is_cold_for_that_pair_only() {
    let mut cluster = ProcessCluster::start_with(3, &["--rebalance-delay-ms=600000"], &[]).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 100);
    ledger.fill().await;
    let lost = entries(&cluster, "n1").await;
    assert!(lost > 0);

    // n4 joins empty, so it takes whole what n1 leaves.
    cluster.add("n4", &["--chunk-versions=2-2"]).await;
    cluster.settled().await;
    let mut leaving = cluster.take("n1");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.exit_code().await, 0);
    cluster.settled().await;
    let other = cluster.node("n4");
    let metrics = other.metrics().await;
    let cold = metrics.get("ranges_cold_for_chunk_version_total");
    assert!(cold > 0.0);
    assert!(metrics.get("entries_imported_total") < 1.0);
    other.process.logged("took ranges over cold").await;
    other.process.logged("NoCommonVersion").await;
    assert_eq!(
        ledger.read_all().await,
        KEYS - lost,
        "only what passed between the builds is gone"
    );

    // n5 is of this build and takes whole what n2 leaves: warm.
    cluster.add("n5", &[]).await;
    cluster.settled().await;
    let kept = entries(&cluster, "n2").await;
    let mut leaving = cluster.take("n2");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.exit_code().await, 0);
    cluster.settled().await;
    assert_eq!(entries(&cluster, "n5").await, kept);
    assert!((cluster.sum("ranges_cold_for_chunk_version_total").await - cold).abs() < 0.5);
    assert_eq!(ledger.read_all().await, KEYS - lost);
}

async fn entries(cluster: &ProcessCluster, id: &str) -> usize {
    let entries = cluster.node(id).metrics().await.get("entries");
    format!("{entries:.0}").parse().expect("a count")
}
