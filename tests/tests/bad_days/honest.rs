//! What is said of the cluster is what a client finds: settled, filled, drained.

use softstore_proto::v1;
use softstore_tests::embedded::any_port;
use softstore_tests::process::{self, Signal};
use softstore_tests::processes::{ProcessCluster, until};
use softstore_tests::proxy::Proxy;
use tokio::net::TcpListener;

const KEYS: usize = 2_000;

async fn fill(cluster: &ProcessCluster) {
    let client = cluster.patient_client().await;
    for number in 0..KEYS {
        client
            .set(format!("key-{number}"), vec![b'v'; 1_000])
            .await
            .expect("a set is answered");
    }
}

/// `softstore wait` with these flags: its exit code, and what it said.
async fn wait(cluster: &ProcessCluster, flags: &[&str]) -> (Option<i32>, String) {
    let of = ["wait", "--assigner", &cluster.assigner_grpc];
    let (code, _, said) = process::run(&[&of[..], flags].concat()).await;
    (code, said)
}

/// What the Assigner says against settling, once it does.
async fn unsettled_by(cluster: &ProcessCluster, node: &str) -> String {
    until(&format!("{node} is doubted"), async || {
        let status = cluster.status().await?;
        let because = status.unsettled_because;
        (!status.settled && because.starts_with(&format!("{node} "))).then_some(because)
    })
    .await
}

/// Plan: one of three owners stands still. Before it is dead, and whatever the others say, the cluster is not settled, and the
/// status says which node and why; `softstore wait` does not return. When it goes on, the cluster is settled again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_is_not_settled() {
    // Long enough that it is not called dead meanwhile.
    let cluster = ProcessCluster::start_with(
        3,
        &["--failure-timeout-ms=20000", "--settle-ms=21000"],
        &["--failure-timeout-ms=20000"],
    )
    .await;
    let stopped = &cluster.node("n2").process;
    stopped.signal(Signal::STOP);
    let because = unsettled_by(&cluster, "n2").await;
    assert!(
        because.contains("was not heard of") || because.contains("cannot be reached"),
        "{because}"
    );
    let status = cluster.status_of("n2").await.expect("it is not dead yet");
    assert!(!status.doubt.is_empty());
    let (code, said) = wait(&cluster, &["--settled", "--timeout", "1s"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("n2"), "{said}");
    stopped.signal(Signal::CONT);
    cluster.settled().await;
}

/// Plan: a node joins whose advertised address leads nowhere. It is given nothing, and the others are settled without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_nobody_reaches_is_given_nothing() {
    let nobody = TcpListener::bind(any_port()).await.expect("a port");
    let address = nobody.local_addr().expect("its address").to_string();
    drop(nobody);
    let advertise = format!("--advertise={address}");

    let mut cluster = ProcessCluster::start_with(2, &["--rebalance-delay-ms=1000"], &[]).await;
    cluster.add("n3", &[&advertise]).await;
    until("n3 is doubted", async || {
        let n3 = cluster.status_of("n3").await?;
        n3.doubt.contains(&address).then_some(())
    })
    .await;
    // A node that can be reached is filled beside it, which shows that it could have been, too.
    cluster.add("n4", &[]).await;
    let (code, said) = wait(&cluster, &["--settled", "--timeout", "20s"]).await;
    assert_eq!(code, Some(0), "{said}");
    until("n4 is filled", async || {
        (cluster.status_of("n4").await?.slices > 0).then_some(())
    })
    .await;
    assert_eq!(cluster.status_of("n3").await.map(|n3| n3.slices), Some(0));
}

/// Plan: a node owns half of everything, behind an address that then leads nowhere. That is not settled, the status names the
/// address, nothing is balanced onto it, and `wait` does not return. When the address leads there again, all is settled.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_nobody_reaches_is_not_settled() {
    let mut proxy = Proxy::bind().await;
    let address = proxy.address().to_string();
    let mut cluster = ProcessCluster::start_with(1, &["--rebalance-delay-ms=1000"], &[]).await;
    let n2 = cluster
        .add("n2", &[&format!("--advertise={address}")])
        .await
        .grpc
        .clone();
    proxy.forward_to(n2);
    until("n2 owns its half", async || {
        (cluster.status_of("n2").await?.share > 0.4).then_some(())
    })
    .await;
    cluster.settled().await;
    proxy.hold_back(true);
    let because = unsettled_by(&cluster, "n2").await;
    assert!(because.contains(&address), "{because}");
    let status = cluster.status().await.expect("the Assigner answers");
    assert_eq!(
        status.balance.map(|balance| balance.hold()),
        Some(v1::balance_status::Hold::Doubted)
    );
    let (code, said) = wait(&cluster, &["--timeout", "1s"]).await;
    assert_eq!(code, Some(1), "{said}");
    proxy.hold_back(false);
    cluster.settled().await;
}

/// Plan: a cluster that holds what was written, and has no traffic, gets another node. `wait --filled` returns when it has its
/// share, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn filled_means_that_it_has_its_share() {
    let mut cluster = ProcessCluster::start_with(3, &["--rebalance-delay-ms=1000"], &[]).await;
    fill(&cluster).await;
    cluster.add("n4", &[]).await;
    until("n4 is known", async || cluster.status_of("n4").await.map(|_| ())).await;
    // Three quarters of a minute's budget are needed at most.
    let (mut code, mut said) = (None, String::new());
    for _ in 0..8 {
        (code, said) = wait(&cluster, &["--filled", "--timeout", "20s"]).await;
        if code == Some(0) {
            break;
        }
    }
    assert_eq!(code, Some(0), "{said}");
    let n4 = cluster.status_of("n4").await.expect("it is there");
    assert!(n4.share > 0.2, "n4 has {} of the key space", n4.share);
}

/// Plan: a node that holds a third of all drains. What it says that it held and gave is what the others say that they took, in
/// entries and in bytes, and it adds up to what was written there.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_adds_up() {
    let mut cluster = ProcessCluster::start(3).await;
    fill(&cluster).await;
    until("n2 has reported all", async || {
        let status = cluster.status().await?;
        let loads = status.nodes.iter().filter_map(|node| node.load.as_ref());
        (loads.map(|load| load.entries).sum::<u64>() == KEYS as u64).then_some(())
    })
    .await;
    let held = cluster
        .status_of("n2")
        .await
        .and_then(|node| node.load)
        .expect("it reports")
        .entries;
    let (code, said, remarks) = process::run(&[
        "drain",
        "n2",
        "--timeout",
        "50s",
        "--assigner",
        &cluster.assigner_grpc,
    ])
    .await;
    assert_eq!(code, Some(0), "{remarks}");
    let all = format!("it held {held} entries and gave {held} (");
    assert!(said.contains(&all), "{said}, of {held}");
    assert!(
        said.contains(&format!("the others took over {held} entries (")),
        "{said}"
    );
    assert!(said.trim_end().ends_with("nothing was left behind"), "{said}");
    let sizes: Vec<&str> = said
        .split('(')
        .skip(1)
        .filter_map(|part| part.split([')', ' ']).next())
        .collect();
    assert_eq!(sizes.len(), 2, "{said}");
    assert_eq!(sizes[0], sizes[1], "{said}");
    cluster.take("n2");
    cluster.settled().await;
}
