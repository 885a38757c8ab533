//! Reads of what is replicated: spread over those who may read it, and asked of the owner where a replica may not.

use std::time::Duration;

use softstore_client::Slice;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{Assignment, RangeAssignment};

use crate::fake::{Act, Node, client_of, even, eventually, generation};

/// Three nodes; the first owns everything, the others are its replicas.
fn replicated() -> Vec<Node> {
    let nodes: Vec<Node> = (0..3_u64)
        .map(|index| Node::start(&format!("n{index}"), index + 1))
        .collect();
    let all: Vec<&Node> = nodes.iter().collect();
    let owned = even(10, 10, &all[..1]);
    let range = owned.ranges().iter().next().expect("one").1;
    let replicas = nodes[1..].iter().map(|node| node.life.clone()).collect();
    let readers = range.readers.replaced(replicas);
    let range = RangeAssignment {
        readers,
        ..range.clone()
    };
    let directory = even(10, 10, &all).directory().clone();
    let assignment = Assignment::new(generation(10), vec![(Slice::FULL, range)], directory).expect("valid");
    nodes.iter().for_each(|node| node.publish(&assignment));
    nodes
}

fn reads(nodes: &[Node]) -> Vec<usize> {
    nodes
        .iter()
        .map(|node| node.state.lock().count(OpKind::Get))
        .collect()
}

/// Plan: reads come one at a time, and many at once. Each of the three gets its part of them; writes go to the owner alone.
#[tokio::test]
async fn reads_are_spread_and_writes_are_not() {
    let nodes = replicated();
    let client = client_of(&nodes).await;
    for _ in 0..300 {
        client.get("hot").await.unwrap();
    }
    let keys = std::iter::repeat_n("hot", 3_000);
    client.get_many(keys).await.into_iter().for_each(|read| {
        read.unwrap();
    });
    let reads = reads(&nodes);
    assert_eq!(reads.iter().sum::<usize>(), 3_300);
    assert!(
        reads.iter().all(|reads| (900..1_350).contains(reads)),
        "{reads:?}"
    );
    assert_eq!(client.metrics().replica_reads, (reads[1] + reads[2]) as u64);
    assert_eq!(client.metrics().replica_refusals, 0);
    client.set("hot", "value").await.unwrap();
    client.delete("hot").await.unwrap();
    for node in &nodes[1..] {
        let state = node.state.lock();
        assert_eq!(state.ops.len(), state.count(OpKind::Get));
    }
}

/// Plan: one replica does not answer. Those who wait for it are seen, and all that comes after them goes to the others.
#[tokio::test]
async fn a_slow_replica_is_asked_less() {
    let nodes = replicated();
    let client = client_of(&nodes).await.with_timeout(Duration::from_secs(60));
    nodes[2].script(|_| Act::Silence);
    let stuck: Vec<_> = (0..30)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("hot").await })
        })
        .collect();
    eventually("all but those that wait for it are answered", async || {
        let answered = stuck.iter().filter(|task| task.is_finished()).count();
        let waiting = reads(&nodes)[2];
        waiting > 0 && answered + waiting == stuck.len()
    })
    .await;
    let before = reads(&nodes);
    for _ in 0..200 {
        client.get("hot").await.unwrap();
    }
    let after = reads(&nodes);
    assert_eq!(after[2], before[2], "{before:?} {after:?}");
    stuck.into_iter().for_each(|task| task.abort());
}

/// Plan: a replica has no lease, and says so as nodes do who do not own a key: each way of saying it, a broken stream, and one
/// that is overloaded, so much that the client sends it nothing in the end. The owner is asked, nobody sees an error, and the replica is not asked again at once.
#[tokio::test]
async fn what_a_replica_does_not_read_its_owner_does() {
    let nodes = replicated();
    let client = client_of(&nodes).await;
    client.set("hot", "value").await.unwrap();
    let moved = nodes[0].moved(Slice::FULL, 10);
    let refusals = [
        Act::Moved(moved),
        Act::Answer(Status::NotReady),
        Act::Answer(Status::Behind),
        Act::Break,
        Act::Answer(Status::Busy),
    ];
    for refusal in refusals {
        for node in &nodes[1..] {
            let refusal = refusal.clone();
            node.script(move |_| refusal.clone());
        }
        let before = reads(&nodes);
        for _ in 0..40 {
            let value = client.get("hot").await.unwrap();
            assert_eq!(value.as_deref(), Some(&b"value"[..]), "{refusal:?}");
        }
        let after = reads(&nodes);
        assert_eq!(after[0] - before[0], 40, "{refusal:?}: {before:?} {after:?}");
        let refused = after[1] + after[2] - before[1] - before[2];
        assert!(refused < 20, "{refusal:?}: {refused} of 40 were tried in vain");
    }
}
