//! A disk that is full, as `/dev/full` has it: logs that cannot be written are lost, and nothing else; reports that cannot be
//! written are an error with its reason and exit code 2. Nobody panics.

use std::fs::File;
use std::process::Stdio;

use serde_json::Value;
use softstore_tests::embedded::PATIENCE;
use softstore_tests::process::softstore;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

fn full() -> File {
    File::options()
        .write(true)
        .open("/dev/full")
        .expect("Linux has /dev/full")
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

/// Plan: an Assigner and a node whose logs go to a full disk from their first line on. Both start, the node is ready, and
/// both end by SIGTERM as always.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_stops_nobody() {
    let start = async |arguments: Vec<String>| {
        let mut child = softstore(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(full())
            .spawn()
            .expect("the binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        let read = timeout(PATIENCE, stdout.read_line(&mut line)).await;
        read.expect("it announces itself")
            .expect("its stdout can be read");
        let line: Value = serde_json::from_str(&line).expect("its first line is JSON");
        (child, stdout, line)
    };
    let common = ["--announce", "--exit-with-parent", "--log=trace"];
    let assigner = [
        "assigner",
        "--listen=127.0.0.1:0",
        "--expect-nodes=1",
        "--founds-at-once",
    ];
    let (mut assigner, _assigner_out, line) = start(owned(&[&assigner[..], &common].concat())).await;
    let address = line["assigner"].as_str().expect("an address");
    let node = [
        "node",
        "--listen=127.0.0.1:0",
        "--http-listen=127.0.0.1:0",
        "--memory=64MiB",
        "--assigner",
        address,
    ];
    let (mut node, _node_out, line) = start(owned(&[&node[..], &common].concat())).await;
    let http = line["http"].as_str().expect("an address");
    softstore_tests::processes::until("the node is ready", async || {
        let (code, _) = softstore_tests::http::get(http, "/readyz").await.ok()?;
        (code == 200).then_some(())
    })
    .await;
    for (child, name) in [(&mut node, "node"), (&mut assigner, "assigner")] {
        let pid = child.id().expect("it runs").cast_signed();
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it can be signalled");
        let ended = timeout(PATIENCE, child.wait()).await.expect("it ends");
        assert_eq!(ended.expect("it can be waited for").code(), Some(0), "{name}");
    }
}

/// Plan: commands that end with an error, whose stderr is a full disk. The error is lost, its exit code is not.
#[tokio::test]
async fn an_error_that_cannot_be_told_keeps_its_exit_code() {
    for arguments in [
        &["status", "--assigner", "127.0.0.1:1"][..],
        &["node", "--memory=1"],
        &["drill", "--trace", "/nowhere.csv"],
    ] {
        let ended = softstore(&owned(arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(full())
            .status();
        let ended = timeout(PATIENCE, ended).await.expect("it ends").expect("it runs");
        assert_eq!(ended.code(), Some(2), "{arguments:?}");
    }
}

/// Plan: three short drills at once: one whose report, one whose JSON, one whose stdout and stderr go to a full disk. What was
/// asked for and could not be written is an error that names the file, with exit code 2; so is a table that could not be
/// printed. Progress that nobody sees is none.
#[tokio::test]
async fn a_report_that_cannot_be_written_is_an_error() {
    let drill = |more: &[&str]| {
        let drill = [
            "drill",
            "--keys=500",
            "--rate=300",
            "--warm-up-requests=500",
            "--absent-s=0.1",
            "--lead-in-s=0.2",
            "--rebalance-delay-ms=300",
            "--arms=control,transfer",
        ];
        softstore(&owned(&[&drill[..], more].concat()))
    };
    let report = async |more: &[&str]| {
        let output = drill(more).stdin(Stdio::null()).output();
        let output = timeout(3 * PATIENCE, output)
            .await
            .expect("it ends")
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let table = async {
        let mut drill = drill(&[]);
        let ended = drill.stdin(Stdio::null()).stdout(full()).stderr(full()).status();
        timeout(3 * PATIENCE, ended)
            .await
            .expect("it ends")
            .expect("it runs")
    };
    let (html, json, table) = tokio::join!(
        report(&["--quiet", "--report=/dev/full"]),
        report(&["--quiet", "--json=/dev/full"]),
        table
    );
    for (code, said) in [html, json] {
        assert_eq!(code, Some(2), "{said}");
        let told = said.contains("/dev/full: No space left");
        assert!(told && !said.contains("panicked"), "{said}");
    }
    assert_eq!(table.code(), Some(2), "the table could not be printed");
}
