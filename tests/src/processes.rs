//! [`ProcessCluster`]: an Assigner and nodes as real processes, on free ports of loopback.
//!
//! Nothing here sleeps to let something happen: what a test waits for is asked for again and again ([`until`]), up to a
//! deadline that a loaded machine keeps easily.

use std::future::Future;
use std::time::{Duration, Instant};

use softstore_client::Client;
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{Assignment, ClusterId, ClusterName};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::embedded::PATIENCE;
use crate::http::{self, Metrics};
use crate::log_pipe::LogTo;
use crate::process::{Process, Signal, softstore};

/// Between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
///
/// # Panics
/// When the tests' patience is over.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    until_within(PATIENCE, what, ask).await
}

/// Asks until there is an answer, for so long.
///
/// # Panics
/// When there was none.
pub async fn until_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A message that says it is of the cluster that has no other name, as every node's message to another one does.
pub fn declared<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let cluster = ClusterId {
        name: Some(ClusterName::local()),
        founding: None,
    };
    softstore_proto::identity::declare(&cluster, request.metadata_mut());
    request
}

/// A node's process.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its name.
    pub id: String,
    /// It.
    pub process: Process,
    /// Where its gRPC port listens.
    pub grpc: String,
    /// Where its HTTP port listens.
    pub http: String,
}

impl NodeProcess {
    /// Its metrics.
    ///
    /// # Panics
    /// If they cannot be had.
    pub async fn metrics(&self) -> Metrics {
        Metrics::read(&self.http).await.expect("a node shows its metrics")
    }

    /// Status code and text of its `/readyz`; none if it does not answer.
    pub async fn ready(&self) -> Option<(u16, String)> {
        http::get(&self.http, "/readyz").await.ok()
    }

    /// Its data plane, without the client around it.
    ///
    /// # Panics
    /// If it does not listen.
    pub async fn cache(&self) -> CacheClient<Channel> {
        CacheClient::new(channel(&self.grpc).await)
    }

    /// The assignment that it follows, as any client may watch it.
    ///
    /// # Panics
    /// If it shows none.
    pub async fn assignment(&self) -> Assignment {
        let mut updates = self
            .cache()
            .await
            .watch(v1::WatchRequest { held: None })
            .await
            .expect("a node answers");
        let update = updates
            .get_mut()
            .message()
            .await
            .expect("a node shows its assignment");
        match AssignmentUpdate::try_from(update.expect("it is not the last")) {
            Ok(AssignmentUpdate::Full(assignment)) => Assignment::clone(&assignment),
            other => panic!("a first update is whole, not {other:?}"),
        }
    }
}

/// Connects to a gRPC port.
///
/// # Panics
/// If nothing listens.
pub async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("the port listens")
}

/// A cluster of processes.
#[derive(Debug)]
pub struct ProcessCluster {
    /// The Assigner's process.
    pub assigner: Process,
    /// Where the Assigner's gRPC port listens.
    pub assigner_grpc: String,
    /// Where the Assigner's HTTP port listens.
    pub assigner_http: String,
    /// The nodes, in the order of their start.
    pub nodes: Vec<NodeProcess>,
    assigner_flags: Vec<String>,
    node_flags: Vec<String>,
    assigner_log: LogTo,
    node_log: LogTo,
    starts: u32,
    logs: TempDir,
}

/// A flag for the Assigner: it finds out by itself that the cluster is new, as it does in production.
pub const FINDS_OUT: &str = "--founds-at-once=false";

/// The cluster is new: its first Assigner need not wait for nodes that may hold something.
const FOUNDS_AT_ONCE: &str = "--founds-at-once";

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(ToString::to_string).collect()
}

impl ProcessCluster {
    /// Starts a cluster of nodes `n1`, `n2`, ... and waits until it is settled.
    pub async fn start(nodes: u32) -> Self {
        Self::start_with(nodes, &[], &[]).await
    }

    /// The same with more flags for the Assigner and for every node.
    pub async fn start_with(nodes: u32, assigner_flags: &[&str], node_flags: &[&str]) -> Self {
        let log = LogTo::of_this_run();
        Self::start_logging(nodes, assigner_flags, node_flags, log, log).await
    }

    /// The same with the logs of the Assigner and of the nodes somewhere else.
    pub async fn start_logging(
        nodes: u32,
        assigner_flags: &[&str],
        node_flags: &[&str],
        assigner_log: LogTo,
        node_log: LogTo,
    ) -> Self {
        let logs = TempDir::new().expect("the temporary directory is writable");
        let expected = format!("--expect-nodes={nodes}");
        let mut assigner_flags = [owned(&[&expected]), owned(assigner_flags)].concat();
        if !assigner_flags.iter().any(|flag| flag == FINDS_OUT) {
            assigner_flags.push(FOUNDS_AT_ONCE.to_owned());
        }
        let (assigner, grpc, http) =
            start_assigner(&logs, assigner_log, 0, "127.0.0.1:0", &assigner_flags).await;
        let mut cluster = Self {
            assigner,
            assigner_grpc: grpc,
            assigner_http: http,
            nodes: Vec::new(),
            assigner_flags,
            node_flags: owned(node_flags),
            assigner_log,
            node_log,
            starts: 0,
            logs,
        };
        for number in 1..=nodes {
            cluster.add(&format!("n{number}"), &[]).await;
        }
        cluster.settled().await;
        cluster
    }

    /// Starts a node under a name, and waits until it listens.
    pub async fn add(&mut self, id: &str, more_flags: &[&str]) -> &mut NodeProcess {
        let assigner = self.assigner_grpc.clone();
        self.start_node(id, &assigner, more_flags).await
    }

    /// The same, for a node that reaches the Assigner at another address.
    pub async fn add_at(&mut self, id: &str, assigner: &str) -> &mut NodeProcess {
        self.start_node(id, assigner, &[]).await
    }

    async fn start_node(&mut self, id: &str, assigner: &str, more_flags: &[&str]) -> &mut NodeProcess {
        let flags = [
            owned(&[
                "node",
                "--announce",
                "--exit-with-parent",
                "--log-format=json",
                "--memory=256MiB",
            ]),
            owned(&["--http-listen=127.0.0.1:0", "--id", id, "--assigner", assigner]),
            self.node_flags.clone(),
            owned(more_flags),
        ];
        let mut flags = flags.concat();
        if !flags.iter().any(|flag| flag.starts_with("--listen")) {
            flags.push("--listen=127.0.0.1:0".to_owned());
        }
        self.starts += 1;
        let log = format!("{id}-{}", self.starts);
        let (process, line) =
            Process::start_logging(&log, self.logs.path(), self.node_log, softstore(&flags)).await;
        let text = |field: &str| {
            line[field]
                .as_str()
                .expect("an announcement has this field")
                .to_owned()
        };
        let node = NodeProcess {
            id: text("id"),
            process,
            grpc: text("grpc"),
            http: text("http"),
        };
        self.nodes.push(node);
        self.nodes.last_mut().expect("one was just pushed")
    }

    /// Takes a node out of the list, to do with its process as the test likes.
    ///
    /// # Panics
    /// If it is not there.
    pub fn take(&mut self, id: &str) -> NodeProcess {
        let index = self.nodes.iter().position(|node| node.id == id);
        self.nodes.remove(index.expect("the node is there"))
    }

    /// A node.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn node(&self, id: &str) -> &NodeProcess {
        self.nodes
            .iter()
            .find(|node| node.id == id)
            .expect("the node is there")
    }

    /// Kills the Assigner and starts another at the same address.
    pub async fn restart_assigner(&mut self) {
        self.kill_assigner().await;
        self.start_assigner_again().await;
    }

    /// The same with other flags than at the start.
    pub async fn restart_assigner_with(&mut self, flags: &[&str]) {
        self.assigner_flags = owned(flags);
        self.restart_assigner().await;
    }

    /// Kills the Assigner.
    pub async fn kill_assigner(&mut self) {
        self.assigner.signal(Signal::KILL);
        self.assigner.exit_within(PATIENCE).await;
    }

    /// Starts an Assigner at the address of the one that was killed. The cluster is not new to it.
    pub async fn start_assigner_again(&mut self) {
        self.starts += 1;
        self.assigner_flags.retain(|flag| flag != FOUNDS_AT_ONCE);
        let (assigner, grpc, http) = start_assigner(
            &self.logs,
            self.assigner_log,
            self.starts,
            &self.assigner_grpc,
            &self.assigner_flags,
        )
        .await;
        (self.assigner, self.assigner_grpc, self.assigner_http) = (assigner, grpc, http);
    }

    /// A client that knows all nodes that are there, set up as it is by default.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn client(&self) -> Client {
        let seeds = self.nodes.iter().map(|node| node.grpc.clone());
        Client::builder()
            .seeds(seeds)
            .require_cluster(true)
            .connect()
            .await
            .expect("the client connects")
    }

    /// The same with deadlines that a loaded machine keeps: for tests of what is kept, where a read that was given up
    /// must not look like a loss.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn patient_client(&self) -> Client {
        self.client().await.with_timeout(PATIENCE)
    }

    /// What the Assigner says of the cluster; none while it does not answer.
    pub async fn status(&self) -> Option<v1::ClusterStatus> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.assigner_grpc)).expect("an address");
        let channel = endpoint.connect().await.ok()?;
        let status = AssignerClient::new(channel)
            .status(v1::StatusRequest::default())
            .await;
        status.ok().map(tonic::Response::into_inner)
    }

    /// What the Assigner says of one node; none while it knows of no such.
    pub async fn status_of(&self, id: &str) -> Option<v1::NodeStatus> {
        let nodes = self.status().await?.nodes;
        nodes.into_iter().find(|node| life(node).node == id)
    }

    /// Waits until all nodes that are there serve and nothing moves.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn settled(&self) {
        let here = self.nodes.len();
        until("the cluster is settled", async || {
            let status = self.status().await?;
            (status.settled && status.nodes.len() == here).then_some(())
        })
        .await;
    }

    /// Waits until a node's process says that it is ready.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn ready(&self, id: &str) {
        let node = self.node(id);
        until(&format!("{id} is ready"), async || {
            (node.ready().await?.0 == 200).then_some(())
        })
        .await;
    }

    /// The sum of a counter over all nodes that are there.
    pub async fn sum(&self, metric: &str) -> f64 {
        let mut sum = 0.0;
        for node in &self.nodes {
            sum += node.metrics().await.get(metric);
        }
        sum
    }
}

/// The life that a status line tells of.
///
/// # Panics
/// If it tells of none.
#[must_use]
pub fn life(node: &v1::NodeStatus) -> &v1::Life {
    node.life.as_ref().expect("a status line names its node")
}

async fn start_assigner(
    logs: &TempDir,
    log_to: LogTo,
    number: u32,
    listen: &str,
    flags: &[String],
) -> (Process, String, String) {
    let all = [
        owned(&[
            "assigner",
            "--announce",
            "--exit-with-parent",
            "--log-format=json",
        ]),
        owned(&["--http-listen=127.0.0.1:0", "--listen", listen]),
        flags.to_vec(),
    ];
    let (name, command) = (format!("assigner-{number}"), softstore(&all.concat()));
    let (process, line) = Process::start_logging(&name, logs.path(), log_to, command).await;
    let text = |field: &str| {
        line[field]
            .as_str()
            .expect("an announcement has this field")
            .to_owned()
    };
    (process, text("assigner"), text("http"))
}
