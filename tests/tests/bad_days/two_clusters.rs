//! Addresses that lead elsewhere: pods, containers and ports are reused, a name resolves to another cluster. Each meeting of two
//! clusters is a typed refusal that changes nothing. Both clusters here have the same name: it is their founding that differs.

use softstore_client::Client;
use softstore_tests::embedded::PATIENCE;
use softstore_tests::ledger::Ledger;
use softstore_tests::process::Signal;
use softstore_tests::processes::{NodeProcess, ProcessCluster, channel, until};
use softstore_tests::proxy::Proxy;

const KEYS: usize = 500;

fn key(index: usize) -> String {
    format!("key-{index}")
}

async fn fill(client: &Client, value: &str) {
    let writes = (0..KEYS).map(|index| client.set(key(index), value.to_owned()));
    for written in futures::future::join_all(writes).await {
        written.expect("a settled cluster takes writes");
    }
}

/// How many keys hold this value; none may hold another one.
async fn count(client: &Client, value: &str) -> usize {
    let reads = (0..KEYS).map(|index| client.get(key(index)));
    let read = futures::future::join_all(reads).await.into_iter();
    let found = read.filter_map(|got| got.expect("a read is a miss at worst"));
    found
        .map(|got| assert_eq!(got.as_ref(), value.as_bytes(), "another cluster's value"))
        .count()
}

async fn refused(node: &NodeProcess) -> f64 {
    node.metrics().await.get("foreign_refused_total")
}

/// Plan: clusters A and B with the same keys and other values. A node of A is killed, and a node of B starts at its address. A's
/// client goes on reading and writing for longer than A needs to bury the dead node. It never reads a value of B's, and B's
/// entries are untouched by what it writes; both sides count the refusals. A call that says nothing is answered, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_led_to_another_cluster_reads_and_writes_nothing_there() {
    let mut a = ProcessCluster::start(3).await;
    let mut b = ProcessCluster::start_with(1, &["--rebalance-delay-ms=100"], &[]).await;
    let of_a = a.patient_client().await;
    fill(&of_a, "a").await;
    let of_b = b.patient_client().await;
    fill(&of_b, "b").await;

    // A buries nobody until its client has met the node of B.
    a.assigner.stand_still().await;
    let mut killed = a.take("n2");
    killed.process.signal(Signal::KILL);
    killed.process.exit_within(PATIENCE).await;
    b.add("n2", &["--listen", &killed.grpc]).await;
    b.settled().await;
    until("the node of B is filled", async || {
        (b.status_of("n2").await?.slices > 0).then_some(())
    })
    .await;
    let impatient = of_a.with_timeout(std::time::Duration::from_millis(200));
    let read_and_write = async || {
        count(&impatient, "a").await;
        for index in 0..KEYS / 10 {
            // Of keys that nobody owns for a while, writes fail.
            let _ = impatient.set(key(index), "a").await;
        }
    };
    until("A's client was refused", async || {
        read_and_write().await;
        let was_refused = refused(b.node("n2")).await >= 1.0 && of_a.metrics().foreign_refused > 0;
        was_refused.then_some(())
    })
    .await;
    a.assigner.signal(Signal::CONT);
    until("A has given the dead node's ranges away", async || {
        read_and_write().await;
        a.status().await?.settled.then_some(())
    })
    .await;
    assert_eq!(count(&of_b, "b").await, KEYS);
    count(&of_a, "a").await;
    fill(&of_a, "a").await;
    assert_eq!(count(&of_a, "a").await, KEYS);

    let before = b.node("n2").metrics().await.get("unidentified_calls_total");
    let mut by_hand = softstore_proto::v1::cache_client::CacheClient::new(channel(&killed.grpc).await);
    let op = softstore_proto::v1::Op {
        key: b"key-1".to_vec().into(),
        ..softstore_proto::v1::Op::default()
    };
    by_hand.get(op).await.expect("a call by hand is answered");
    assert!(b.node("n2").metrics().await.get("unidentified_calls_total") > before);
}

/// Plan: A's nodes reach their Assigner at an address that comes to lead to B's. They are refused there, keep all that they hold,
/// and go on serving; B does not notice. B's Assigner restarts while they ask: B keeps its entries and its own nodes alone. The
/// address leads to A's Assigner again, and all is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_led_to_another_assigner_keep_what_they_hold() {
    let state = tempfile::tempdir().expect("the temporary directory is writable");
    let state_dir = format!("--state-dir={}", state.path().display());
    let mut address = Proxy::bind().await;
    let through = address.address().to_string();
    let mut a = ProcessCluster::start(1).await;
    address.forward_to(a.assigner_grpc.clone());
    a.add_at("n2", &through).await;
    a.add_at("n3", &through).await;
    a.settled().await;
    let mut b = ProcessCluster::start_with(2, &[&state_dir], &[]).await;
    let (in_a, in_b) = (
        Ledger::new(a.patient_client().await, KEYS, 100),
        Ledger::new(b.patient_client().await, KEYS, 100),
    );
    in_a.fill().await;
    in_b.fill().await;

    a.kill_assigner().await;
    address.forward_to(b.assigner_grpc.clone());
    until("B's Assigner has refused both", async || {
        let status = b.status().await?;
        let nodes: Vec<&str> = status
            .foreign
            .iter()
            .map(|foreign| foreign.node.as_str())
            .collect();
        let refused: u64 = status.foreign.iter().map(|foreign| foreign.refused).sum();
        (!nodes.is_empty() && refused >= 4 && status.nodes.len() == 2).then_some(())
    })
    .await;
    b.restart_assigner().await;
    b.settled().await;
    until("it refuses them again", async || {
        let status = b.status().await?;
        (!status.foreign.is_empty() && status.nodes.len() == 2).then_some(())
    })
    .await;
    assert_eq!(in_b.read_all().await, KEYS);
    assert_eq!(in_a.read_all().await, KEYS, "A's nodes serve on");
    let node = a.node("n2");
    assert!(refused(node).await >= 1.0);
    let (code, why) = node.ready().await.expect("it answers");
    assert!(code == 503 && why.contains("another cluster"), "{code} {why}");
    assert!(node.process.log().contains("the Assigner is of another cluster"));

    a.start_assigner_again().await;
    address.forward_to(a.assigner_grpc.clone());
    a.settled().await;
    for cluster in [&a, &b] {
        assert!(cluster.sum("rebirths_total").await < 1.0);
    }
    assert_eq!(in_a.read_all().await, KEYS);
    assert_eq!(in_b.read_all().await, KEYS);
}
