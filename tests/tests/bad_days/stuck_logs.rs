//! Logs that nobody reads: stderr is a full pipe, as with a log shipper that is paused. Nothing waits for it: HTTP answers, a
//! drain hands everything over, nobody is declared dead, and processes end in their time.

use std::time::{Duration, Instant};

use softstore_tests::http::{self, Metrics};
use softstore_tests::ledger::Ledger;
use softstore_tests::log_pipe::LogTo;
use softstore_tests::process::Signal;
use softstore_tests::processes::{ProcessCluster, until};

/// Keys that a drain has to hand over.
const KEYS: usize = 20_000;

/// Who waits for a reader of its log is silent for longer than that. A loaded machine is not.
const NOBODY_IS_SLOW: &str = "--failure-timeout-ms=10000";

/// How long a process waits at its end for somebody to read its last lines, and what it takes to end besides on a loaded machine.
const END: Duration = Duration::from_secs(1 + 9);

/// Plan: two nodes hold 20,000 entries, a third waits to take whole what drains; logs are stuck from the first line on. HTTP
/// answers. The first node drains by SIGTERM: it ends with 0, the third took all, nothing is lost, and nobody was declared dead.
/// Then the Assigner gets SIGTERM, and ends in its time.
async fn nobody_waits(assigner_log: LogTo, node_log: LogTo) {
    let flags = ["--log=info,softstore_server=trace", NOBODY_IS_SLOW];
    let assigner_flags = [&["--rebalance-delay-ms=600000", "--settle-ms=20000"][..], &flags].concat();
    let mut cluster = ProcessCluster::start_logging(2, &assigner_flags, &flags, assigner_log, node_log).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 100);
    ledger.fill().await;
    cluster.add("n3", &[]).await;
    cluster.settled().await;
    for node in &cluster.nodes {
        assert_eq!(
            http::get(&node.http, "/healthz").await.expect("HTTP answers").0,
            200
        );
        cluster.ready(&node.id).await;
    }
    let held = cluster.node("n1").metrics().await.get("entries");
    assert!(held > 1_000.0, "n1 holds its share: {held}");

    let mut leaving = cluster.take("n1");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.exit_code().await, 0);
    cluster.settled().await;
    let moved = cluster.node("n3").metrics().await.get("entries_imported_total");
    assert!(moved > held - 0.5, "{moved} of {held} entries came over");
    assert_eq!(ledger.read_all().await, KEYS, "nothing is lost");
    let assigner = Metrics::read(&cluster.assigner_http).await.expect("HTTP answers");
    let died = assigner.get("nodes_died_total");
    assert!(
        (died - 1.0).abs() < 0.5,
        "nobody but n1, which said goodbye: {died}"
    );
    assert!(cluster.sum("rebirths_total").await < 0.5);

    let begun = Instant::now();
    cluster.assigner.signal(Signal::TERM);
    let ended = cluster.assigner.exit_within(END).await;
    assert_eq!(ended.code(), Some(0), "after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_logs_nobody_reads_go_on() {
    nobody_waits(LogTo::of_this_run(), LogTo::Stuck).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assigner_whose_log_nobody_reads_goes_on() {
    nobody_waits(LogTo::Stuck, LogTo::of_this_run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_logs_nobody_reads_goes_on() {
    nobody_waits(LogTo::Stuck, LogTo::Stuck).await;
}

/// Plan: a node whose log nobody reads logs more than its queue holds. What is lost is counted; once somebody reads again, the log
/// says that lines are missing, and what comes then is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_nobody_read_are_counted_and_said() {
    let flags = ["--log=trace,h2=trace"];
    let cluster = ProcessCluster::start_logging(1, &[], &flags, LogTo::of_this_run(), LogTo::Stuck).await;
    let client = cluster.client().await;
    let node = cluster.node("n1");
    until("lines are lost", async || {
        for _ in 0..50 {
            client
                .get("key")
                .await
                .expect("a node whose log is stuck answers");
        }
        let lost = node.metrics().await.get("log_lines_lost_total");
        (lost > 0.5).then_some(())
    })
    .await;
    node.process.log_pipe().let_go();
    node.process.logged("log lines are missing before this one").await;
}

/// Plan: a command whose stderr nobody reads fails. It ends with its exit code, in its time.
#[tokio::test]
async fn a_command_that_cannot_say_why_it_failed_ends() {
    let command =
        softstore_tests::process::softstore(&["status".to_owned(), "--assigner=127.0.0.1:1".to_owned()]);
    let logs = tempfile::tempdir().expect("the temporary directory is writable");
    let code = softstore_tests::log_pipe::run_stuck(command, logs.path(), END).await;
    assert_eq!(code, Some(2));
}
