//! Somebody who speaks the hand-off's protocol and is nobody: a test that went astray, a node of another cluster. What it invents
//! stops no owner from serving.

use std::time::Duration;

use softstore_proto::batch::OpBatch;
use softstore_proto::v1;
use softstore_proto::v1::transfer_client::TransferClient;
use softstore_sharding::generation::GENERATION_NUMBER_MAX;
use softstore_sharding::{Generation, Incarnation, Life, NodeId, Peer, Slice};
use softstore_tests::processes::{NodeProcess, ProcessCluster, channel, declared};
use softstore_transfer::message::{Take, TakeRange};

const KEYS: usize = 500;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Whoever nobody has heard of.
fn stranger() -> Peer {
    let node = NodeId::new("stranger").expect("a name");
    let incarnation = Incarnation::new(77);
    Peer {
        life: Life { node, incarnation },
        address: "127.0.0.1:9".into(),
    }
}

/// Takes everything from a node under an acquisition, as a taker of that name.
async fn take(
    node: &NodeProcess,
    taker: &Peer,
    since: Generation,
    from: Generation,
) -> Result<(), tonic::Code> {
    let to = node.assignment().await;
    let id = NodeId::new(&node.id).expect("a node's name");
    let incarnation = to.directory()[&id].incarnation;
    let slice = Slice::FULL;
    let take = Take {
        to: Life {
            node: id,
            incarnation,
        },
        taker: taker.clone(),
        ranges: vec![TakeRange { slice, since, from }],
    };
    let mut transfer = TransferClient::new(channel(&node.grpc).await);
    let answer = transfer.take(declared(v1::TakeRequest::from(&take))).await;
    answer.map(|_| ()).map_err(|status| status.code())
}

/// Plan: a cluster that holds values is told to hand everything over: by a stranger, under the highest number there is, under one
/// a little above what is held, under the very generation held; and by one who takes another node's name, from another address. All
/// is refused and counted, every value is read as before, and the cluster stays settled.
#[tokio::test(flavor = "multi_thread")]
async fn h8_an_invented_take_fences_nothing() {
    let cluster = ProcessCluster::start(3).await;
    let client = cluster.patient_client().await;
    for number in 0..KEYS {
        client.set(key(number), "value").await.expect("a set is answered");
    }
    let held = cluster.nodes[0].assignment().await.generation();
    let number = |number| Generation { number, ..held };
    let from = number(held.number - 1);
    let mut impostor = stranger();
    let directory = cluster.nodes[0].assignment().await;
    let n3 = NodeId::new("n3").expect("a name");
    impostor.life.incarnation = directory.directory()[&n3].incarnation;
    impostor.life.node = n3;
    for node in &cluster.nodes[..2] {
        for since in [number(GENERATION_NUMBER_MAX), number(held.number + 1_000), held] {
            let refused = take(node, &stranger(), since, from).await;
            assert!(refused.is_err(), "{} answers a take under {since}", node.id);
        }
        for _ in 0..40 {
            let refused = take(node, &impostor, number(held.number + 1_000), from).await;
            assert_eq!(refused, Err(tonic::Code::Unavailable), "{}", node.id);
        }
        let metrics = node.metrics().await;
        assert!(metrics.get("acquisitions_invented_total") >= 1.0);
        assert!(metrics.get("takes_unheard_total") >= 1.0);
        assert!(metrics.get("peer_messages_refused_total") >= 2.0);
        assert_eq!(metrics.get("ranges_fenced_total"), 0.0);
    }
    for number in 0..KEYS {
        let found = client.get(key(number)).await.expect("a get is answered");
        assert_eq!(found.as_deref(), Some(&b"value"[..]), "{number}");
    }
    cluster.settled().await;
}

/// Plan: an operation under an acquisition that cannot be is not waited for: it is answered at once that nobody knows of it.
#[tokio::test(flavor = "multi_thread")]
async fn h8_an_invented_operation_waits_for_nothing() {
    let cluster = ProcessCluster::start_with(1, &[], &["--behind-wait-ms=10000"]).await;
    let node = &cluster.nodes[0];
    let mut cache = node.cache().await;
    let held = node.assignment().await.generation();
    let number = GENERATION_NUMBER_MAX;
    let since = Generation { number, ..held };
    let get = v1::Op {
        kind: v1::OpKind::Get.into(),
        key: "key".into(),
        deadline_ms: 50_000,
        ..v1::Op::default()
    };
    let batch = OpBatch::of(&[get], &[since], 0, None);
    let reply = tokio::time::timeout(Duration::from_secs(8), cache.execute(batch))
        .await
        .expect("nothing is waited for")
        .expect("a batch is answered");
    let replies = reply.into_inner().into_replies().expect("they can be read");
    assert_eq!(replies[0].status(), v1::Status::Behind);
    let metrics = node.metrics().await;
    assert!(metrics.get("acquisitions_invented_total") >= 1.0);
}
