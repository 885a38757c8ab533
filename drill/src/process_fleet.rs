//! A cluster of child processes: one Assigner and some nodes, on loopback, ports chosen by the system.
//!
//! Each child runs `softstore assigner` or `softstore node` with `--announce` (one JSON line on its stdout when it listens) and
//! `--exit-with-parent` (it ends when its stdin does), so that no child outlives the drill, however the drill ends.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal as Number, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::assigner_status::AssignerStatus;
use crate::error::DrillError;
use crate::fleet::{Fleet, Signal};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const ANNOUNCEMENT_BYTES_MAX: u64 = 4_096;
/// How long children may take to end when the drill is done with them.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What all processes of a cluster have in common.
#[derive(Debug, Clone)]
pub(crate) struct FleetPlan {
    /// The `softstore` binary.
    pub(crate) program: PathBuf,
    /// Where the logs go; exists.
    pub(crate) log_dir: PathBuf,
    /// Prefix of the logs' names.
    pub(crate) name: String,
    pub(crate) nodes: usize,
    pub(crate) transfer: bool,
    pub(crate) rebalance_delay_ms: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) drain_deadline_ms: Option<u64>,
    pub(crate) pull_order: &'static str,
    /// Default: the Assigner's own.
    pub(crate) sharder: Option<&'static str>,
}

/// A running cluster. Dropping it kills its processes.
#[derive(Debug)]
pub(crate) struct ProcessFleet {
    plan: FleetPlan,
    assigner: Process,
    assigner_address: String,
    nodes: Vec<Node>,
    starts: u64,
}

#[derive(Debug)]
struct Node {
    id: String,
    process: Process,
    address: String,
    http: String,
}

#[derive(Debug)]
struct Process {
    child: Child,
    pid: u32,
    log: PathBuf,
}

#[derive(Debug, Deserialize)]
struct AssignerAnnouncement {
    assigner: String,
}

#[derive(Debug, Deserialize)]
struct NodeAnnouncement {
    grpc: String,
    http: String,
}

impl ProcessFleet {
    /// Starts the Assigner, then all nodes. Returns when all listen; they may not be settled yet.
    pub(crate) async fn start_all(plan: FleetPlan) -> Result<Self, DrillError> {
        let mut arguments = vec![
            "assigner".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--expect-nodes={}", plan.nodes),
            "--founds-at-once".to_owned(),
            format!("--rebalance-delay-ms={}", plan.rebalance_delay_ms),
        ];
        arguments.extend(plan.sharder.map(|sharder| format!("--sharder={sharder}")));
        let (assigner, line) = spawn(&plan, "assigner", 0, &arguments).await?;
        let announcement: AssignerAnnouncement = parse("assigner", &assigner, &line)?;
        let nodes = plan.nodes;
        let mut fleet = Self {
            plan,
            assigner,
            assigner_address: announcement.assigner,
            nodes: Vec::new(),
            starts: 0,
        };
        for number in 1..=nodes {
            fleet.start(&format!("n{number}")).await?;
        }
        Ok(fleet)
    }

    /// `host:port` of every node.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// `host:port` of every node's HTTP.
    pub(crate) fn http_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.http.clone()).collect()
    }

    /// The Assigner's status service.
    pub(crate) fn status(&self) -> Result<AssignerStatus, DrillError> {
        AssignerStatus::new(&self.assigner_address).map_err(|reason| DrillError::Start {
            what: "assigner".to_owned(),
            reason: format!("it announced {:?}: {reason}", self.assigner_address),
            log: self.assigner.log.clone(),
        })
    }

    /// Ends all processes at once: nothing of this cluster is needed any more.
    pub(crate) async fn end(mut self) {
        let children = self
            .nodes
            .iter_mut()
            .map(|node| &mut node.process)
            .chain([&mut self.assigner]);
        for process in children {
            // A child that has exited by itself cannot be killed, which is as good.
            let _ = process.child.start_kill();
            let _ = timeout(END_TIMEOUT, process.child.wait()).await;
        }
    }

    fn node(&mut self, id: &str) -> Result<&mut Node, DrillError> {
        let log_dir = &self.plan.log_dir;
        self.nodes
            .iter_mut()
            .find(|node| node.id == id)
            .ok_or_else(|| DrillError::Start {
                what: id.to_owned(),
                reason: "it does not run".to_owned(),
                log: log_dir.clone(),
            })
    }
}

impl Fleet for ProcessFleet {
    fn members(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.id.clone()).collect()
    }

    fn signal(&mut self, node: &str, signal: Signal) -> Result<(), DrillError> {
        let number = match signal {
            Signal::Terminate => Number::TERM,
            Signal::Kill => Number::KILL,
        };
        let pid = self.node(node)?.process.pid;
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .expect("a child's process id");
        // The child is not reaped before `exited`, so the id is still its own.
        kill_process(pid, number).map_err(|error| DrillError::System {
            what: "cannot signal a node",
            source: error.into(),
        })
    }

    async fn exited(&mut self, node: &str) -> Result<(), DrillError> {
        let exited = self.node(node)?.process.child.wait().await;
        exited.map_err(|source| DrillError::System {
            what: "cannot wait for a node",
            source,
        })?;
        self.nodes.retain(|other| other.id != node);
        Ok(())
    }

    fn no_exit(&self, node: &str, waited_ms: u64) -> DrillError {
        let log = self
            .nodes
            .iter()
            .find(|other| other.id == node)
            .map(|node| node.process.log.clone());
        DrillError::NoExit {
            node: node.to_owned(),
            waited_ms,
            log: log.unwrap_or_default(),
        }
    }

    async fn start(&mut self, node: &str) -> Result<(), DrillError> {
        let mut arguments = vec![
            "node".to_owned(),
            format!("--id={node}"),
            "--listen=127.0.0.1:0".to_owned(),
            "--http-listen=127.0.0.1:0".to_owned(),
            format!("--assigner={}", self.assigner_address),
            format!("--memory={}", self.plan.memory_bytes),
            format!("--transfer={}", if self.plan.transfer { "on" } else { "off" }),
            format!("--pull-order={}", self.plan.pull_order),
        ];
        if let Some(deadline_ms) = self.plan.drain_deadline_ms {
            arguments.push(format!("--drain-deadline-ms={deadline_ms}"));
        }
        self.starts += 1;
        let (process, line) = spawn(&self.plan, node, self.starts, &arguments).await?;
        let announcement: NodeAnnouncement = parse(node, &process, &line)?;
        self.nodes.push(Node {
            id: node.to_owned(),
            process,
            address: announcement.grpc,
            http: announcement.http,
        });
        Ok(())
    }
}

/// Starts a child and waits for the line that it announces itself with.
async fn spawn(
    plan: &FleetPlan,
    what: &str,
    start: u64,
    arguments: &[String],
) -> Result<(Process, String), DrillError> {
    let log = plan.log_dir.join(format!("{}-{start}-{what}.log", plan.name));
    let fail = |reason: String| DrillError::Start {
        what: what.to_owned(),
        reason,
        log: log.clone(),
    };
    let stderr = File::create(&log).map_err(|source| DrillError::File {
        path: log.clone(),
        source,
    })?;
    let mut child = Command::new(&plan.program)
        .args(arguments)
        .args(["--announce", "--exit-with-parent"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| fail(format!("{}: {error}", plan.program.display())))?;
    let pid = child
        .id()
        .ok_or_else(|| fail("it has no process id".to_owned()))?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| fail("it has no stdout".to_owned()))?;
    let line = match timeout(START_TIMEOUT, announcement(stdout)).await {
        Ok(Ok(line)) if line.is_empty() => return Err(fail("it ended before it listened".to_owned())),
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return Err(fail(error.to_string())),
        Err(_) => {
            return Err(fail(format!(
                "it did not announce itself within {} s",
                START_TIMEOUT.as_secs()
            )));
        }
    };
    Ok((
        Process {
            child,
            pid,
            log: log.clone(),
        },
        line,
    ))
}

/// A node prints nothing on stdout after its announcement, so the pipe may be dropped after it.
async fn announcement(stdout: ChildStdout) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stdout.take(ANNOUNCEMENT_BYTES_MAX))
        .read_line(&mut line)
        .await?;
    Ok(line)
}

fn parse<T: for<'de> Deserialize<'de>>(what: &str, process: &Process, line: &str) -> Result<T, DrillError> {
    serde_json::from_str(line).map_err(|error| DrillError::Start {
        what: what.to_owned(),
        reason: format!("it announced {line:?}, which is not what a softstore process says: {error}"),
        log: process.log.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    /// A program that announces itself as told and then waits for the end of its stdin, or for a signal.
    fn plan(dir: &Path, announce: &str) -> FleetPlan {
        let program = dir.join("softstore");
        std::fs::write(&program, format!("#!/bin/sh\n{announce}\nexec cat\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        FleetPlan {
            program,
            log_dir: dir.to_owned(),
            name: "test".to_owned(),
            nodes: 2,
            transfer: true,
            rebalance_delay_ms: 10,
            memory_bytes: 1 << 20,
            drain_deadline_ms: Some(5),
            pull_order: "hottest",
            sharder: Some("auto"),
        }
    }

    const SOUND: &str = r#"echo "$@" >&2
        if [ $1 = assigner ]; then echo '{"assigner":"127.0.0.1:7","pid":1,"http":"127.0.0.1:8"}'
        else echo '{"id":"x","pid":1,"grpc":"127.0.0.1:9","http":"127.0.0.1:8"}'; fi"#;

    /// Plan: start an Assigner and two nodes, end one of each kind of signal, start one of them again. Members and addresses must
    /// follow, and the flags must have reached the processes.
    #[tokio::test]
    async fn processes_come_and_go() {
        let dir = TempDir::new().unwrap();
        let mut fleet = ProcessFleet::start_all(plan(dir.path(), SOUND)).await.unwrap();
        assert_eq!(fleet.members(), ["n1", "n2"]);
        assert_eq!(fleet.addresses(), ["127.0.0.1:9", "127.0.0.1:9"]);
        for (node, signal) in [("n1", Signal::Terminate), ("n2", Signal::Kill)] {
            fleet.signal(node, signal).unwrap();
            fleet.exited(node).await.unwrap();
        }
        assert!(fleet.members().is_empty());
        assert!(
            matches!(fleet.signal("n1", Signal::Kill), Err(DrillError::Start { .. })),
            "it is gone"
        );
        fleet.start("n1").await.unwrap();
        assert_eq!(fleet.members(), ["n1"]);
        let log = std::fs::read_to_string(dir.path().join("test-3-n1.log")).unwrap();
        for flag in [
            "node --id=n1",
            "--assigner=127.0.0.1:7",
            "--transfer=on",
            "--drain-deadline-ms=5",
            "--announce",
        ] {
            assert!(log.contains(flag), "{flag} is missing in {log}");
        }
        fleet.end().await;
    }

    #[tokio::test]
    async fn a_process_that_does_not_announce_itself_is_an_error() {
        for (announce, told) in [
            ("exit 3", "before it listened"),
            ("echo hello", "not what a softstore process says"),
        ] {
            let dir = TempDir::new().unwrap();
            match ProcessFleet::start_all(plan(dir.path(), announce)).await {
                Err(DrillError::Start { what, reason, .. }) => {
                    assert_eq!(what, "assigner");
                    assert!(reason.contains(told), "{reason}");
                }
                other => panic!("{other:?}"),
            }
        }
        let dir = TempDir::new().unwrap();
        let nowhere = FleetPlan {
            program: "/nonexistent".into(),
            ..plan(dir.path(), SOUND)
        };
        assert!(matches!(
            ProcessFleet::start_all(nowhere).await,
            Err(DrillError::Start { .. })
        ));
    }
}
