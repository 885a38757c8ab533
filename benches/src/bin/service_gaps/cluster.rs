//! [`Cluster`]: an Assigner and nodes as processes of this program, which end with it.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use eyre::{ContextCompat, Result, WrapErr, bail, ensure};
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig, Ownership};
use softstore_server::node::Node;
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{Assignment, NodeId};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tonic::transport::{Channel, Endpoint};

/// How long the cluster may take to settle, and a process to start or end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the Assigner's status.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A node's budget: what is stored here is a small part of it.
const MEMORY_BYTES: u64 = 512 << 20;

/// What a node's process is told to make it drain.
const DRAIN: &str = "drain";

/// A process of the cluster.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: String,
    pub(crate) address: String,
    child: Child,
    stdin: ChildStdin,
    /// Held open: the child must be able to write.
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    async fn start(id: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .wrap_err_with(|| format!("cannot start {id}"))?;
        let stdin = child.stdin.take().wrap_err("stdin is a pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().wrap_err("stdout is a pipe")?);
        let mut address = String::new();
        tokio::time::timeout(PATIENCE, stdout.read_line(&mut address)).await??;
        ensure!(!address.is_empty(), "{id} has ended at once");
        Ok(Self {
            id: id.to_owned(),
            address: address.trim().to_owned(),
            child,
            stdin,
            _stdout: stdout,
        })
    }

    /// Has a node drain, and waits for its end.
    pub(crate) async fn drain(mut self) -> Result<()> {
        self.stdin.write_all(format!("{DRAIN}\n").as_bytes()).await?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        ensure!(status.success(), "{} ended with {status}", self.id);
        Ok(())
    }

    /// SIGKILL, and waits for its end.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// The processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Process>,
    assigner: Option<Process>,
    assigner_address: String,
    /// Connects by itself, and again to the next Assigner: no connection per look is in the way of the probes.
    assigner_channel: Channel,
    ownership: Ownership,
}

impl Cluster {
    /// Starts them, and waits until they are settled.
    pub(crate) async fn start(nodes: u32, ownership: Ownership) -> Result<Self> {
        let mut cluster = Self {
            nodes: Vec::new(),
            assigner: None,
            assigner_address: "127.0.0.1:0".to_owned(),
            assigner_channel: Endpoint::from_static("http://127.0.0.1:0").connect_lazy(),
            ownership,
        };
        cluster.start_assigner(nodes).await?;
        for number in 1..=nodes {
            cluster.add(&format!("n{number}")).await?;
        }
        cluster.settled().await?;
        Ok(cluster)
    }

    /// `expected`: nodes that the first assignment waits for; 0 for an Assigner that follows another.
    async fn start_assigner(&mut self, expected: u32) -> Result<()> {
        let (expected, ownership) = (expected.max(2).to_string(), self.ownership.to_string());
        let arguments = [
            "--be=assigner",
            "--assigner",
            &self.assigner_address,
            "--nodes",
            &expected,
            "--ownership",
            &ownership,
        ];
        let assigner = Process::start("the Assigner", &arguments).await?;
        self.assigner_address.clone_from(&assigner.address);
        let endpoint = Endpoint::from_shared(format!("http://{}", self.assigner_address))?;
        self.assigner_channel = endpoint.connect_lazy();
        self.assigner = Some(assigner);
        Ok(())
    }

    /// Kills the Assigner and starts another.
    pub(crate) async fn replace_assigner(&mut self) -> Result<()> {
        if let Some(assigner) = self.assigner.take() {
            assigner.kill().await?;
        }
        self.start_assigner(0).await
    }

    /// Starts a node.
    pub(crate) async fn add(&mut self, id: &str) -> Result<()> {
        let arguments = ["--be=node", "--id", id, "--assigner", &self.assigner_address];
        self.nodes.push(Process::start(id, &arguments).await?);
        Ok(())
    }

    async fn status(&self) -> Result<v1::ClusterStatus> {
        let mut assigner = AssignerClient::new(self.assigner_channel.clone());
        Ok(assigner.status(v1::StatusRequest::default()).await?.into_inner())
    }

    /// Waits until the Assigner says what is wanted of it.
    async fn until(&self, wanted: impl Fn(&v1::ClusterStatus) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status.as_ref().is_ok_and(&wanted) {
                return Ok(());
            }
            if Instant::now() >= until {
                bail!(
                    "the cluster does not settle: {:?}",
                    status.map(|status| status.unsettled_because)
                );
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until all nodes that are here own something, and nothing moves.
    pub(crate) async fn settled(&self) -> Result<()> {
        let here = self.nodes.len();
        self.until(|status| {
            status.settled && status.nodes.len() == here && status.nodes.iter().all(|node| node.slices > 0)
        })
        .await
    }

    /// Waits until the Assigner counts a node as dead.
    pub(crate) async fn buried(&self, id: &str) -> Result<()> {
        let is = |node: &v1::NodeStatus| node.life.as_ref().is_some_and(|life| life.node == id);
        self.until(|status| !status.nodes.iter().any(is)).await
    }

    /// The assignment that the first node follows.
    pub(crate) async fn assignment(&self) -> Result<Assignment> {
        let node = self.nodes.first().wrap_err("a cluster has nodes")?;
        let channel = Endpoint::from_shared(format!("http://{}", node.address))?
            .connect()
            .await?;
        let mut updates = CacheClient::new(channel)
            .watch(v1::WatchRequest { held: None })
            .await?
            .into_inner();
        let update = updates.message().await?.wrap_err("the node ends")?;
        match AssignmentUpdate::try_from(update)? {
            AssignmentUpdate::Full(assignment) => Ok(Assignment::clone(&assignment)),
            AssignmentUpdate::Diff(_) => bail!("a first update is whole"),
        }
    }
}

/// Is the Assigner: prints where it listens, and runs until stdin ends.
pub(crate) fn be_assigner(listen: &str, expect_nodes: u32, ownership: Ownership) -> Result<()> {
    let listen: SocketAddr = listen.parse()?;
    let config = AssignerConfig {
        listen,
        // One at a fixed address follows another.
        expect_nodes: if listen.port() == 0 { expect_nodes } else { 0 },
        founds_at_once: listen.port() == 0,
        rebalance_delay_ms: 0,
        ownership,
        ..AssignerConfig::default()
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let assigner = AssignerServer::start(config).await?;
        println!("{}", assigner.grpc_addr());
        next_order().await?;
        Ok(())
    })
}

/// Is a node: prints where it listens, drains when it is told to, and ends when stdin does.
pub(crate) fn be_node(id: &str, assigner: &str) -> Result<()> {
    let config = NodeConfig {
        id: NodeId::new(id)?,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        http_listen: None,
        assigner: assigner.to_owned(),
        memory_bytes: MEMORY_BYTES,
        ..NodeConfig::default()
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let node = Node::start(config).await?;
        println!("{}", node.grpc_addr());
        if next_order().await?.as_deref() == Some(DRAIN) {
            node.drain().await;
        }
        Ok(())
    })
}

/// The next line of stdin; none at its end.
async fn next_order() -> Result<Option<String>> {
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next().transpose()).await?;
    Ok(line?)
}
