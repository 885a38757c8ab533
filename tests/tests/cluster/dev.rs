//! `softstore dev --json`: its line, and that its children end with it.

use std::collections::BTreeSet;

use rustix::process::{Pid, test_kill_process};
use serde_json::Value;
use softstore_client::Client;
use softstore_tests::process::{Process, Signal};
use softstore_tests::processes::until;
use tempfile::TempDir;

async fn dev(logs: &TempDir) -> (Process, Value) {
    let flags = ["dev", "--json", "--nodes=2", "--port=0", "--memory=64MiB"].map(ToOwned::to_owned);
    Process::start("dev", logs.path(), &flags).await
}

fn fields(object: &Value) -> BTreeSet<&str> {
    object
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

/// All processes that the line names.
fn pids(line: &Value) -> Vec<Pid> {
    let nodes = line["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|node| &node["pid"]);
    let pids = nodes.chain([&line["assigner_pid"]]);
    pids.map(|pid| Pid::from_raw(i32::try_from(pid.as_i64().expect("a pid")).expect("a pid")).expect("a pid"))
        .collect()
}

/// A process that ended may still be listed until its parent, which may be dead, has collected it.
fn has_ended(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// Plan: start `dev`; its line has exactly the documented fields and the cluster works at once. End it by SIGTERM and by
/// SIGKILL, which it cannot answer: no process is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_line_is_as_documented_and_its_children_end_with_it() {
    for signal in [Signal::TERM, Signal::KILL] {
        let logs = TempDir::new().expect("the temporary directory is writable");
        let (mut dev, line) = dev(&logs).await;
        assert_eq!(
            fields(&line),
            BTreeSet::from(["assigner", "assigner_pid", "nodes"])
        );
        let nodes = line["nodes"].as_array().expect("a list");
        assert_eq!(nodes.len(), 2);
        for node in nodes {
            assert_eq!(fields(node), BTreeSet::from(["grpc", "http", "id", "pid"]));
        }
        let seeds = nodes.iter().filter_map(|node| node["grpc"].as_str());
        let client = Client::builder()
            .seeds(seeds)
            .require_cluster(true)
            .connect()
            .await
            .expect("the cluster is ready");
        client.set("key", "value").await.expect("a set succeeds");
        assert!(pids(&line).into_iter().all(|pid| !has_ended(pid)));

        dev.signal(signal);
        let status = dev.exit_within(softstore_tests::embedded::PATIENCE).await;
        assert_eq!(status.code(), (signal == Signal::TERM).then_some(0));
        until("its children have ended", async || {
            pids(&line).into_iter().all(has_ended).then_some(())
        })
        .await;
    }
}
