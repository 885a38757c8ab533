//! Restarts with a replacement that is started first, or that comes back in place: how often an entry moves.

use softstore_tests::ledger::Ledger;
use softstore_tests::process::Signal;
use softstore_tests::processes::ProcessCluster;

const KEYS: usize = 3_000;

/// Plan: three filled nodes, a delay before an empty node is filled that the test does not outlive. Three times: a
/// replacement joins, then one of the old nodes drains. The replacement takes whole what the old one had, so in the end
/// each entry was imported once, give or take what was evened out, and every key is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_surge_node_each_key_moves_once() {
    let mut cluster = ProcessCluster::start_with(3, &["--rebalance-delay-ms=600000"], &[]).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 500);
    ledger.fill().await;
    let mut imported = 0;
    let mut stored = 0;
    for node in &cluster.nodes {
        let metrics = node.metrics().await;
        assert!(
            metrics.get("entries_imported_total") < 1.0,
            "nothing has moved yet"
        );
        stored += whole(metrics.get("entries"));
    }
    assert_eq!(stored, KEYS);
    for (old, new) in [("n1", "m1"), ("n2", "m2"), ("n3", "m3")] {
        cluster.add(new, &[]).await;
        cluster.settled().await;
        let mut leaving = cluster.take(old);
        leaving.process.signal(Signal::TERM);
        assert_eq!(leaving.process.exit_code().await, 0);
        cluster.settled().await;
        cluster.ready(new).await;
    }
    for node in &cluster.nodes {
        imported += whole(node.metrics().await.get("entries_imported_total"));
    }
    assert_eq!(ledger.read_all().await, KEYS);
    assert_eq!(imported, KEYS, "each entry is imported exactly once");
}

fn whole(value: f64) -> usize {
    format!("{value:.0}").parse().expect("a count")
}

/// Plan: three filled nodes are restarted in place, one after the other, each under its name. 1 + 2/n of the data set
/// move (each node's share once, and the first one's share twice more: to make room for it and to fill the last), not 2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_place_a_rolling_restart_moves_less_than_twice() {
    let mut cluster = ProcessCluster::start_with(3, &["--rebalance-delay-ms=2000"], &[]).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 500);
    ledger.fill().await;
    let mut imported = 0;
    for id in ["n1", "n2", "n3"] {
        let mut leaving = cluster.take(id);
        imported += whole(leaving.metrics().await.get("entries_imported_total"));
        leaving.process.signal(Signal::TERM);
        assert_eq!(leaving.process.exit_code().await, 0);
        cluster.add(id, &[]).await;
        cluster.settled().await;
        cluster.ready(id).await;
    }
    until_filled(&cluster).await;
    for node in &cluster.nodes {
        imported += whole(node.metrics().await.get("entries_imported_total"));
    }
    assert_eq!(ledger.read_all().await, KEYS);
    let bound = KEYS + 2 * KEYS / 3 + KEYS / 10;
    assert!(
        imported <= bound,
        "{imported} of {KEYS} entries were imported, more than {bound}"
    );
}

async fn until_filled(cluster: &ProcessCluster) {
    softstore_tests::processes::until("the last node is filled", async || {
        let status = cluster.status().await?;
        (status.settled && status.waiting_to_fill == 0).then_some(())
    })
    .await;
}
