//! A node that stood still for longer than the others waited for it wakes up to find its slices gone.

use softstore_proto::v1;
use softstore_tests::ledger::{Counts, Ledger};
use softstore_tests::process::Signal;
use softstore_tests::processes::{ProcessCluster, life, until};
use softstore_tests::proxy::Proxy;

const KEYS: usize = 400;

/// Plan: two nodes with a failure timeout of 1 s, all keys written. One is stopped (SIGSTOP) until the other owns
/// everything, and every key is written anew there. It is woken (SIGCONT) while it is being asked directly, over
/// connections that were open before it slept, for keys that it used to own: it never answers with a value. Reads through
/// the client are never older than what was acknowledged. What the Assigner says to it is held back at that moment, so that
/// it cannot know; when that arrives, the node learns that it is dead and comes back as a new life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_nothing_that_it_lost() {
    let assigner_flags = [
        "--failure-timeout-ms=1000",
        "--settle-ms=1500",
        "--rebalance-delay-ms=0",
    ];
    let node_flags = ["--failure-timeout-ms=1000", "--heartbeat-ms=200"];
    let mut cluster = ProcessCluster::start_with(1, &assigner_flags, &node_flags).await;
    let mut proxy = Proxy::bind().await;
    proxy.forward_to(cluster.assigner_grpc.clone());
    cluster.add_at("n2", &proxy.address().to_string()).await;
    until("n2 owns its share", async || {
        let node = cluster.status_of("n2").await?;
        (cluster.status().await?.settled && node.slices > 0).then_some(())
    })
    .await;
    let client = cluster.client().await;
    let ledger = Ledger::new(client.clone(), KEYS, 50);
    ledger.fill().await;
    let zombie = cluster.take("n2");
    let old_life = life(&cluster.status_of("n2").await.expect("n2 is there")).clone();
    let mut direct = zombie.cache().await;
    let owned = keys_served_by(&mut direct).await;
    assert!(!owned.is_empty(), "it owns about half of the keys");

    zombie.process.stand_still().await;
    proxy.hold_back(true);
    until("the other node owns everything", async || {
        let status = cluster.status().await?;
        (status.settled && status.nodes.len() == 1).then_some(())
    })
    .await;
    ledger.fill_at_last().await;

    // Asked while it still sleeps, so that the questions are the first that it sees.
    let asked: Vec<_> = owned.iter().map(|index| (direct.clone(), get(*index))).collect();
    let answers = asked
        .into_iter()
        .map(|(mut direct, get)| tokio::spawn(async move { direct.get(get).await }));
    let answers: Vec<_> = answers.collect();
    zombie.process.signal(Signal::CONT);
    for answer in answers {
        // The connection may break, too: no answer is no old value.
        if let Ok(reply) = answer.await.expect("asking does not panic") {
            let status = reply.into_inner().status();
            assert_ne!(
                status,
                v1::Status::Ok,
                "it answered with a value that it does not own any more"
            );
        }
    }
    proxy.hold_back(false);
    until("it came back as a new life", async || {
        let node = cluster.status_of("n2").await?;
        (life(&node).incarnation != old_life.incarnation).then_some(())
    })
    .await;
    assert_eq!(ledger.read_all().await, KEYS);
    assert_eq!(Counts::of(&ledger.counts.stale), 0);
    assert_eq!(Counts::of(&ledger.counts.errors), 0);
    let metrics = zombie.metrics().await;
    assert!(metrics.get("rebirths_total") > 0.5);
    assert!(metrics.get("suspensions_total") > 0.5);

    // And it is of use again: the other one drains to it.
    let mut other = cluster.take("n1");
    other.process.signal(Signal::TERM);
    assert_eq!(other.process.exit_code().await, 0);
    cluster.nodes.push(zombie);
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
}

fn get(index: usize) -> v1::Op {
    v1::Op {
        key: Ledger::key(index).into(),
        ..v1::Op::default()
    }
}

/// The keys that a node itself answers with a value.
async fn keys_served_by(node: &mut v1::cache_client::CacheClient<tonic::transport::Channel>) -> Vec<usize> {
    let mut served = Vec::new();
    for index in 0..KEYS {
        let reply = node.get(get(index)).await.expect("the node answers").into_inner();
        if reply.status() == v1::Status::Ok {
            served.push(index);
        }
    }
    served
}
