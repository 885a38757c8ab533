//! One name, two processes: somebody has copied a unit file, or a supervisor has lost track. The first keeps its name and its
//! entries, the second waits and says so, and has the name when the first is gone.

use softstore_tests::embedded::PATIENCE;
use softstore_tests::ledger::Ledger;
use softstore_tests::process::{self, Signal};
use softstore_tests::processes::{ProcessCluster, life, until};

const KEYS: usize = 1_000;

/// For so long both are left to themselves.
const BOTH_MS: u64 = 4_000;

/// Plan: three nodes that hold entries, and a second process of n2's name. It waits, unready, as long as one lets it, while
/// nothing is buried, moved or lost; its log, the Assigner's and the status say so. The first is killed: the second has the name,
/// and the first's ranges, long before the first would count as silent. Nothing else is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_waits_until_the_first_has_died() {
    let mut cluster = ProcessCluster::start(3).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 100);
    ledger.fill().await;
    let first = life(&cluster.status_of("n2").await.expect("n2 is there")).clone();

    cluster.add("n2", &[]).await;
    let twin = cluster.nodes.pop().expect("it was just added");
    let wait = until("both have been there for a while", async || {
        let waits = cluster.status().await?.name_waits;
        waits.into_iter().find(|wait| wait.waits_ms >= BOTH_MS)
    })
    .await;
    assert_eq!(
        (wait.node.as_str(), wait.address.as_str()),
        ("n2", twin.grpc.as_str())
    );
    assert_eq!(wait.holder, cluster.node("n2").grpc);
    assert_eq!(life(&cluster.status_of("n2").await.expect("n2 is there")), &first);
    assert!(cluster.sum("rebirths_total").await < 1.0);
    assert_eq!(ledger.read_all().await, KEYS);
    let (code, why) = twin.ready().await.expect("it answers");
    assert!(
        code == 503 && why.contains("holds this node's name"),
        "{code} {why}"
    );
    let waits = "another process holds this node's name";
    assert_eq!(
        twin.process.log().matches(waits).count(),
        1,
        "{}",
        twin.process.log()
    );
    let said = cluster.assigner.log();
    assert_eq!(
        said.matches("a second process wants this node's name").count(),
        1,
        "{said}"
    );
    let (_, shown, _) = process::run(&["status", "--assigner", &cluster.assigner_grpc]).await;
    assert!(shown.contains("softstore forget n2"), "{shown}");

    let mut killed = cluster.take("n2");
    cluster.nodes.push(twin);
    killed.process.signal(Signal::KILL);
    killed.process.exit_within(PATIENCE).await;
    until("the second has the name", async || {
        let node = cluster.status_of("n2").await?;
        (node.address == cluster.node("n2").grpc && node.slices > 0).then_some(())
    })
    .await;
    cluster.settled().await;
    cluster.ready("n2").await;
    assert!(cluster.status().await.expect("it answers").name_waits.is_empty());
    assert!(
        ledger.read_all().await >= KEYS / 2,
        "what the others held is there"
    );
}

/// Plan: the holder of a name stands still, and a second process waits for it. An operator has it forgotten: the second has the
/// name at once. The first wakes, is told that it is dead, and waits in its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_have_a_holder_forgotten() {
    // It would not count as dead by itself in this test.
    let slow = "--failure-timeout-ms=60000";
    let flags = [slow, "--settle-ms=61000"];
    let mut cluster = ProcessCluster::start_with(2, &flags, &[slow]).await;
    cluster.add("n2", &[]).await;
    let twin = cluster.nodes.pop().expect("it was just added");
    until("the second waits", async || {
        (!cluster.status().await?.name_waits.is_empty()).then_some(())
    })
    .await;
    cluster.node("n2").process.stand_still().await;
    let (code, _, said) = process::run(&["forget", "n2", "--assigner", &cluster.assigner_grpc]).await;
    assert_eq!(code, Some(0), "{said}");
    until("the second has the name", async || {
        (cluster.status_of("n2").await?.address == twin.grpc).then_some(())
    })
    .await;
    cluster.node("n2").process.signal(Signal::CONT);
    until("the first waits", async || {
        let waits = cluster.status().await?.name_waits;
        let waits = waits.iter().any(|wait| wait.address == cluster.node("n2").grpc);
        waits.then_some(())
    })
    .await;
    assert_eq!(
        cluster.status_of("n2").await.expect("n2 is there").address,
        twin.grpc
    );
    let (code, _, said) = process::run(&["forget", "n9", "--assigner", &cluster.assigner_grpc]).await;
    assert!(code == Some(2) && said.contains("n9"), "{said}");
}
