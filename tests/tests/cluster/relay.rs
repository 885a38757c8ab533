//! A giver that its taker cannot reach: the hand-off's word travels through the Assigner.

use std::sync::atomic::{AtomicU64, Ordering};

use softstore_proto::v1;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_server::config::AssignerConfig;
use softstore_server::node::{DrainOutcome, Node};
use softstore_tests::embedded::{EmbeddedCluster, any_port, node_config};
use softstore_tests::processes::{channel, until};
use tokio::net::TcpListener;

/// Plan: n1 owns everything, under an address that nobody listens on: no other node can reach it, as behind a firewall.
/// n2 joins, and n1 drains. n2's questions travel over both nodes' sessions with the Assigner, and so do the answers: n1
/// fences, n2 becomes the owner and serves. The entries cannot travel like that: n2 gives its pull up at its deadline, and
/// the Assigner's next assignment lets n1 go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_travels_through_the_assigner() {
    let nobody = TcpListener::bind(any_port()).await.expect("a port");
    let address = nobody.local_addr().expect("its address").to_string();
    drop(nobody);
    let mut cluster = EmbeddedCluster::start_with(1, AssignerConfig::default(), |config| {
        config.advertise = Some(address.clone());
    })
    .await;
    let leaving = cluster.nodes.remove(0);
    let mut direct = CacheClient::new(channel(&leaving.grpc_addr().to_string()).await);
    let set = v1::Op {
        key: "key".into(),
        value: "value".into(),
        ..v1::Op::default()
    };
    let reply = direct.set(set).await.expect("n1 answers").into_inner();
    assert_eq!(reply.status(), v1::Status::Ok);

    let mut config = node_config("n2", cluster.assigner.grpc_addr());
    config.pull_deadline_ms = 500;
    let taker = Node::start(config).await.expect("n2 starts");
    // n1 is still there, and both are known.
    cluster.nodes.extend([leaving, taker]);
    until("both serve", async || {
        let nodes = cluster.status().await.nodes;
        let serving = nodes.iter().filter(|node| node.state() == v1::NodeState::Serving);
        (serving.count() == 2).then_some(())
    })
    .await;
    let leaving = cluster.nodes.remove(0);
    assert_eq!(leaving.drain().await, DrainOutcome::Drained);

    cluster.settled().await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let of_taker = &cluster.nodes[0].state().metrics;
    assert!(count(&of_taker.messages_relayed) > 0);
    assert_eq!(count(&of_taker.ranges_taken), 1, "fenced by n1 for n2");
    assert_eq!(count(&leaving.state().metrics.ranges_fenced), 1);
    assert_eq!(count(&of_taker.pulls_given_up), 1);
    let client = cluster.client().await;
    assert_eq!(client.get("key").await.expect("n2 serves"), None);
    client.set("key", "new").await.expect("n2 serves");
    assert_eq!(
        client.get("key").await.expect("n2 serves").as_deref(),
        Some(&b"new"[..])
    );
}
