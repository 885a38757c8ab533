//! What `get_or_load` puts into the cache while a range is being taken over.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use softstore_client::Client;
use softstore_server::config::AssignerConfig;
use softstore_server::node::{DrainOutcome, Node};
use softstore_tests::embedded::{EmbeddedCluster, PATIENCE, node_config};
use softstore_tests::proxy::Proxy;

/// Asks again and again until `holds`; panics after [`PATIENCE`].
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let looked = tokio::time::timeout(PATIENCE, looking).await;
    assert!(looked.is_ok(), "did not come to be: {what}");
}

/// Plan: n1 has a key's newest value. It drains, and just then nothing it says gets through to n2 (a proxy holds it back), so
/// that n2 learns through the Assigner that it is the owner, and has no answer when it asks for the key. A reader who began
/// before the value was changed misses the key, and loads the old row. It gets that; but when n2 hears n1 again, and has
/// pulled everything, it is the newest value that everybody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_never_covers_what_the_former_owner_still_has() {
    let mut proxy = Proxy::bind().await;
    let advertised = proxy.address().to_string();
    let mut cluster = EmbeddedCluster::start_with(1, AssignerConfig::default(), |config| {
        config.advertise = Some(advertised.clone());
    })
    .await;
    proxy.forward_to(cluster.nodes[0].grpc_addr().to_string());
    let writer = cluster.client().await;
    writer.set("key", "newest").await.expect("n1 serves");
    let config = node_config("n2", cluster.assigner.grpc_addr());
    cluster.nodes.push(Node::start(config).await.expect("n2 starts"));
    cluster.settled().await;

    proxy.hold_back(true);
    let leaving = cluster.nodes.remove(0);
    let draining = tokio::spawn(async move { leaving.drain().await });
    let taken = &cluster.nodes[0].state().metrics.ranges_taken;
    eventually("n2 is the owner", || taken.load(Ordering::Relaxed) == 1).await;
    let seeds = [cluster.nodes[0].grpc_addr().to_string()];
    let reader = Client::builder()
        .seeds(seeds)
        .require_cluster(true)
        .connect()
        .await;
    let reader = reader.expect("n2 answers").with_timeout(PATIENCE);
    let load = async || Ok::<_, io::Error>("old row");
    let loaded = reader.get_or_load("key", None, load).await;
    assert_eq!(loaded.expect("it is loaded"), "old row");
    eventually("the fill has ended", || {
        // The read was answered, and a fill that is applied would be the second.
        let answered = cluster.nodes[0].state().metrics.operations_answered();
        reader.metrics().fills_skipped > 0 || answered > 1
    })
    .await;

    proxy.hold_back(false);
    assert_eq!(draining.await.expect("it ends"), DrainOutcome::Drained);
    cluster.settled().await;
    assert_eq!(
        reader.get("key").await.expect("n2 serves").expect("a hit"),
        "newest"
    );
}
