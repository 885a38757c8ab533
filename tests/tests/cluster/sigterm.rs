//! Planned ends: SIGTERM, SIGINT, an operator's order. Nothing is lost while there is somebody to take it; a drain that
//! cannot end is cut off by its deadline or a second signal.

use std::time::{Duration, Instant};

use softstore_tests::embedded::PATIENCE;
use softstore_tests::ledger::Ledger;
use softstore_tests::process::{self, Signal};
use softstore_tests::processes::{NodeProcess, ProcessCluster, until};

const KEYS: usize = 2_000;

/// A drain that has nobody to wait for ends well within this.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A failure timeout that no test outlives: a stopped process stays in the cluster, and who waits for it goes on waiting.
const NEVER_DEAD: &[&str] = &["--failure-timeout-ms=500000"];

async fn loses_nothing_on(signal: Signal) {
    let mut cluster = ProcessCluster::start(3).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 200);
    ledger.fill().await;
    let mut node = cluster.take("n2");
    node.process.signal(signal);
    assert_eq!(node.process.exit_code().await, 0);
    assert!(
        node.process.log().contains("drained: all was handed over"),
        "{}",
        node.process.log()
    );
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
}

/// Plan: a filled cluster, SIGTERM to one node. It exits with 0, and every key is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_loses_nothing() {
    loses_nothing_on(Signal::TERM).await;
}

/// Plan: the same with SIGINT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_drains_and_loses_nothing() {
    loses_nothing_on(Signal::INT).await;
}

/// Two nodes, of which `n2` is stopped, and `n1` began to drain to it: a drain that cannot end by itself.
async fn a_drain_that_hangs(node_flags: &[&str]) -> (ProcessCluster, NodeProcess) {
    let assigner_flags = [NEVER_DEAD, &["--settle-ms=600000"]].concat();
    let node_flags = [NEVER_DEAD, node_flags].concat();
    let mut cluster = ProcessCluster::start_with(2, &assigner_flags, &node_flags).await;
    cluster.ready("n1").await;
    cluster.node("n2").process.stand_still().await;
    let node = cluster.take("n1");
    node.process.signal(Signal::TERM);
    let why = until("/readyz turns to 503", async || {
        let (code, why) = node.ready().await?;
        (code == 503).then_some(why)
    });
    assert_eq!(why.await, "draining\n");
    (cluster, node)
}

/// Plan: a drain that hangs; the node has left `/readyz` but goes on living. A second signal ends it at once, with the
/// code that shells give for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_drain_at_once() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (_cluster, mut node) = a_drain_that_hangs(&["--drain-deadline-ms=600000"]).await;
        assert!(node.process.is_running());
        let begun = Instant::now();
        node.process.signal(signal);
        assert_eq!(node.process.exit_code().await, code);
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }
}

/// Plan: a drain that hangs, with a deadline of 1.5 s. The process ends not before it and soon after it, with 0, and
/// says that something was left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_deadline_is_honoured() {
    let begun = Instant::now();
    let (_cluster, mut node) = a_drain_that_hangs(&["--drain-deadline-ms=1500"]).await;
    let draining = Instant::now();
    assert_eq!(node.process.exit_code().await, 0);
    assert!(
        begun.elapsed() >= Duration::from_millis(1_500),
        "{:?}",
        begun.elapsed()
    );
    let took = draining.elapsed();
    assert!(took < Duration::from_millis(1_500) + AT_ONCE, "{took:?}");
    assert!(
        node.process.log().contains("the drain deadline came"),
        "{}",
        node.process.log()
    );
}

/// Plan: a node without an Assigner gets SIGTERM. It waits for one as long as it is told to, then ends and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_assigner_a_drain_waits_as_long_as_told() {
    let mut cluster = ProcessCluster::start_with(2, &[], &["--assigner-wait-ms=1000"]).await;
    cluster.assigner.signal(Signal::KILL);
    cluster.assigner.exit_within(PATIENCE).await;
    let mut node = cluster.take("n1");
    let begun = Instant::now();
    node.process.signal(Signal::TERM);
    assert_eq!(node.process.exit_code().await, 0);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_millis(1_000) + AT_ONCE,
        "{took:?}"
    );
    assert!(
        node.process.log().contains("no Assigner came"),
        "{}",
        node.process.log()
    );
}

/// Plan: `softstore drain n1` on a filled cluster. The command ends with 0 and says that the node has left, its process
/// ends with 0, and nothing is lost. A name that no node has is refused, and the refusal says where to look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_drain_ends_the_process() {
    let mut cluster = ProcessCluster::start(2).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 200);
    ledger.fill().await;
    let (code, _, said) = process::run(&["drain", "nobody", "--assigner", &cluster.assigner_grpc]).await;
    assert_eq!(code, Some(2));
    assert!(
        said.contains("nobody") && said.contains("softstore status"),
        "{said}"
    );
    let (code, said, errors) = process::run(&["drain", "n1", "--assigner", &cluster.assigner_grpc]).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(said.contains("has left"), "{said}");
    assert_eq!(cluster.take("n1").process.exit_code().await, 0);
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
}

/// Plan: a cluster of one node gets SIGTERM: there is no taker. It ends at once, and says why nothing was handed over.
/// The same for a cluster of which all nodes get SIGTERM together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_nodes_drain_ends_at_once() {
    for nodes in [1, 3] {
        let mut cluster = ProcessCluster::start(nodes).await;
        let begun = Instant::now();
        for node in &cluster.nodes {
            node.process.signal(Signal::TERM);
        }
        for node in &mut cluster.nodes {
            assert_eq!(node.process.exit_code().await, 0);
        }
        assert!(begun.elapsed() < AT_ONCE, "{nodes} nodes: {:?}", begun.elapsed());
        let logs: String = cluster.nodes.iter().map(|node| node.process.log()).collect();
        assert!(logs.contains("no other node could take over"), "{logs}");
    }
}
