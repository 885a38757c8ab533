//! `softstore dev` with real processes on free ports: the line that it prints, commands against it, and that nothing is
//! left of it, however it ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

const BINARY: &str = env!("CARGO_BIN_EXE_softstore");

/// A running `softstore dev`. Killed when dropped; its processes then end by themselves.
struct Dev {
    process: Child,
    line: Value,
}

impl Dev {
    fn start() -> Self {
        let mut process = Command::new(BINARY)
            .args([
                "dev",
                "--port",
                "0",
                "--nodes",
                "3",
                "--memory",
                "64MiB",
                "--json",
                "--exit-with-parent",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built for this test");
        let stdout = process.stdout.take().expect("stdout is a pipe");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("dev prints a line");
        let line = serde_json::from_str(&line).expect("the line is JSON");
        Self { process, line }
    }

    fn assigner(&self) -> &str {
        self.line["assigner"].as_str().expect("an address")
    }

    /// `softstore` with these arguments, against this cluster.
    fn run(&self, arguments: &[&str]) -> Output {
        let cluster = ["--assigner", self.assigner()];
        Command::new(BINARY)
            .args(arguments)
            .args(cluster)
            .output()
            .expect("the binary was built for this test")
    }

    /// All processes but `dev` itself.
    fn pids(&self) -> Vec<u64> {
        let nodes = self.line["nodes"].as_array().expect("a list");
        let pids = nodes
            .iter()
            .map(|node| &node["pid"])
            .chain([&self.line["assigner_pid"]]);
        pids.map(|pid| pid.as_u64().expect("a pid")).collect()
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill")
            .args([signal, &pid])
            .status()
            .expect("kill is a program everywhere");
        assert!(sent.success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks again and again until it is so; panics when patience is over.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_running(pid: u64) -> bool {
    // A zombie has ended; nobody may be there to collect it.
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Plan: write, read and delete a value of bytes that are no text; drain a node meanwhile, which keeps it; ask for the
/// status; end it by SIGTERM. Exit codes are those that the help promises, and no process is left.
#[test]
fn a_cluster_is_used_drained_and_ended() {
    let mut dev = Dev::start();
    let pids = dev.pids();
    assert_eq!(pids.len(), 4);
    let value = std::env::temp_dir().join(format!("softstore-dev-{}", std::process::id()));
    std::fs::write(&value, b"\x00\xff\n").unwrap();
    let set = dev.run(&["set", "key", "--file", value.to_str().unwrap()]);
    std::fs::remove_file(&value).unwrap();
    assert_eq!(set.status.code(), Some(0), "{set:?}");
    assert_eq!(
        dev.run(&["set", "key", "other", "--if-absent"]).status.code(),
        Some(1)
    );

    for node in ["node-0", "node-1"] {
        let drain = dev.run(&["drain", node]);
        assert_eq!(drain.status.code(), Some(0), "{drain:?}");
        assert!(
            String::from_utf8_lossy(&drain.stdout).contains("has left"),
            "{drain:?}"
        );
        if node == "node-0" {
            // The seed has left: use another.
            dev.line["nodes"].as_array_mut().unwrap().remove(0);
        }
    }
    // The last node's addresses: the other two have left.
    dev.line["nodes"].as_array_mut().unwrap().remove(0);
    assert_eq!(dev.run(&["wait", "--settled"]).status.code(), Some(0));
    let get = dev.run(&["get", "key"]);
    assert_eq!(
        (get.status.code(), get.stdout.as_slice()),
        (Some(0), &b"\x00\xff\n"[..])
    );
    let status = dev.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["settled"], true);
    assert_eq!(status["nodes"][0]["id"], "node-2");

    assert_eq!(dev.run(&["del", "key"]).status.code(), Some(0));
    assert_eq!(dev.run(&["get", "key"]).status.code(), Some(1));
    assert_eq!(dev.run(&["flush"]).status.code(), Some(0));

    dev.signal("-TERM");
    assert_eq!(dev.process.wait().unwrap().code(), Some(0));
    until("all processes have ended", || {
        !pids.iter().any(|pid| is_running(*pid))
    });
}

/// Plan: kill `dev` so that it cannot tell anybody; its processes end all the same.
#[test]
fn a_killed_dev_leaves_nothing_behind() {
    let dev = Dev::start();
    let pids = dev.pids();
    assert!(pids.iter().all(|pid| is_running(*pid)));
    dev.signal("-KILL");
    until("all processes have ended", || {
        !pids.iter().any(|pid| is_running(*pid))
    });
}

/// Plan: a parent starts a node, sends it SIGTERM and closes its stdin at the same time, as waiting for a child often
/// does. The signal counts, once: the node drains, whichever of the two it sees first.
#[test]
fn a_signal_beside_the_end_of_stdin_is_a_drain() {
    let nowhere = "--assigner=127.0.0.1:1";
    let mut node = Command::new(BINARY)
        .args([
            "node",
            "--id=a",
            "--listen=127.0.0.1:0",
            "--http-listen=off",
            "--memory=16MiB",
            nowhere,
        ])
        .args([
            "--assigner-wait-ms=0",
            "--announce",
            "--exit-with-parent",
            "--log-format=json",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let pid = node.id().to_string();
    // The end of stdin first: the harder order.
    drop(node.stdin.take());
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = node.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(r#""reason":"Terminate""#), "{said}");
    assert!(!said.contains("a second signal"), "{said}");
}
