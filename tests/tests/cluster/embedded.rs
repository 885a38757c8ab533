//! Clusters in this process: what a rolling restart, a drain and a death do to entries and to clients.

use futures::future::join_all;
use softstore_client::Client;
use softstore_proto::batch::OpBatch;
use softstore_proto::v1;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_proto::v1::transfer_client::TransferClient;
use softstore_server::config::AssignerConfig;
use softstore_server::node::{DrainOutcome, Node};
use softstore_tests::embedded::{EmbeddedCluster, PATIENCE, node_config};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

const KEYS: usize = 3_000;

fn key(index: usize) -> Vec<u8> {
    format!("key-{index}").into_bytes()
}

async fn fill(client: &Client) {
    // As long as it takes, on whatever machine: how soon is not what is tested.
    let client = client.with_timeout(PATIENCE);
    let sets = (0..KEYS).map(|index| client.set(key(index), format!("value-{index}").into_bytes()));
    for set in join_all(sets).await {
        set.expect("a set succeeds");
    }
}

/// How many of the keys are there, all with the right value.
async fn hits(client: &Client) -> usize {
    let gets = join_all((0..KEYS).map(|index| client.get(key(index)))).await;
    let mut hits = 0;
    for (index, got) in gets.into_iter().enumerate() {
        if let Some(value) = got.expect("a get succeeds") {
            assert_eq!(value, format!("value-{index}").into_bytes());
            hits += 1;
        }
    }
    hits
}

/// Plan: three nodes with entries; each in turn drains and comes back under its name. Nothing may be lost, and a client
/// that was there from the start goes on through all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    let config = AssignerConfig {
        rebalance_delay_ms: 500,
        ..AssignerConfig::default()
    };
    let mut cluster = EmbeddedCluster::start_with(3, config, |_| {}).await;
    let client = cluster.client().await;
    fill(&client).await;
    assert_eq!(hits(&client).await, KEYS);
    for index in 0..3 {
        let node = cluster.nodes.remove(0);
        assert_eq!(node.drain().await, DrainOutcome::Drained);
        assert_eq!(hits(&client).await, KEYS, "after the drain of {}", node.id());
        let config = node_config(node.id().as_str(), cluster.assigner.grpc_addr());
        drop(node);
        cluster
            .nodes
            .push(Node::start(config).await.expect("the node comes back"));
        cluster.settled().await;
        assert_eq!(hits(&client).await, KEYS, "after the return of node {index}");
    }
}

/// Plan: a node is dropped without a word. Its keys become misses, never errors, and can be written again; the others'
/// stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_costs_the_dead_nodes_entries_only() {
    let mut cluster = EmbeddedCluster::start(3).await;
    let client = cluster.client().await;
    fill(&client).await;
    let dead = cluster.nodes.remove(1);
    dead.abort();
    drop(dead);
    let left = hits(&client).await;
    assert!(left > KEYS / 2 && left < KEYS, "{left} of {KEYS}");
    cluster.settled().await;
    assert_eq!(hits(&client).await, left);
    fill(&client).await;
    assert_eq!(hits(&client).await, KEYS);
}

/// Whether there was an answer, and not just the end of a connection.
fn is_answer<T>(answered: &Result<T, Status>) -> bool {
    let refused = |status: &Status| {
        let code = status.code();
        matches!(
            code,
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound
        )
    };
    answered.as_ref().err().is_none_or(refused)
}

/// Plan: a connection to a node is open and answers: operations, a data stream, and what takers ask. The node is aborted,
/// but not dropped. Nothing answers on that connection any more, and on no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_node_answers_nothing() {
    let cluster = EmbeddedCluster::start(1).await;
    let node = &cluster.nodes[0];
    let address = format!("http://{}", node.grpc_addr());
    let channel = Endpoint::from_shared(address).expect("an address");
    let channel = channel.connect().await.expect("the node listens");
    let mut cache = CacheClient::new(channel.clone());
    let mut transfer = TransferClient::new(channel);
    let stream = cache.stream(futures::stream::pending::<OpBatch>()).await;
    let mut stream = stream.expect("a stream opens").into_inner();
    for aborted in [false, true] {
        if aborted {
            node.abort();
        }
        let answers = [
            is_answer(
                &cache
                    .get(v1::Op {
                        key: key(1).into(),
                        ..v1::Op::default()
                    })
                    .await,
            ),
            is_answer(&cache.execute(OpBatch::default()).await),
            is_answer(&transfer.take(v1::TakeRequest::default()).await),
            is_answer(&transfer.peek(v1::PeekRequest::default()).await),
            is_answer(&transfer.pull(v1::PullRequest::default()).await),
            is_answer(&transfer.release(v1::ReleaseRequest::default()).await),
        ];
        assert_eq!(answers, [!aborted; 6]);
    }
    let ended = tokio::time::timeout(PATIENCE, stream.message()).await;
    let ended = ended.expect("the stream ends");
    assert!(ended.is_err(), "{ended:?}: it was cut, without a last word");
}

/// Plan: values that together are larger than any message may be; all are asked for at once, over one stream, so that one
/// batch of gets asks for all of them. Each comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_values_come_in_several_messages() {
    const VALUE_BYTES: usize = 4 << 20;
    const VALUES: usize = 24;
    let cluster = EmbeddedCluster::start(1).await;
    // A busy machine takes its time for 100 MB, and a read that takes too long is a miss.
    let client = cluster.client().await.with_timeout(PATIENCE);
    for index in 0..VALUES {
        let value = vec![u8::try_from(index).unwrap(); VALUE_BYTES];
        client.set(key(index), value).await.expect("a set succeeds");
    }
    let got = client.get_many((0..VALUES).map(key)).await;
    assert_eq!(got.len(), VALUES);
    for (index, value) in got.into_iter().enumerate() {
        let value = value.expect("a get succeeds").expect("the value is there");
        assert!(value.len() == VALUE_BYTES && value.iter().all(|&byte| usize::from(byte) == index));
    }
}

/// Plan: so many narrow flushes that the node would have to cut what it holds into more parts than it keeps. The one that is
/// too much is answered at once that it was not done, long before its client's patience ends, and the node serves on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_cuts_too_much_is_refused_at_once() {
    let cluster = EmbeddedCluster::start(1).await;
    let client = cluster.client().await.with_timeout(PATIENCE);
    client.set("key", "value").await.expect("a set succeeds");
    let address = format!("http://{}", cluster.nodes[0].grpc_addr());
    let channel = Endpoint::from_shared(address).expect("an address");
    let channel = channel.connect().await.expect("the node listens");
    let mut cache = CacheClient::new(channel);
    let mut refused = None;
    for index in 1..=4_096 {
        // Two positions wide, and apart: no part coalesces with another.
        let low = index << 20;
        let slice = Some(v1::Slice { low, high: low + 2 });
        let op = v1::Op {
            slice,
            deadline_ms: 60_000,
            ..v1::Op::default()
        };
        let reply = tokio::time::timeout(PATIENCE, cache.flush(op)).await;
        let reply = reply.expect("an answer in time").expect("an answer").into_inner();
        if reply.status() != v1::Status::Ok {
            refused = Some(reply.status());
            break;
        }
    }
    assert_eq!(refused, Some(v1::Status::NotReady));
    assert!(client.get("key").await.expect("the node serves").is_some());
}
