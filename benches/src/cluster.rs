//! [`InProcess`]: an Assigner and nodes in this process, on free ports of loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eyre::{Result, WrapErr, ensure};
use softstore_client::{Client, SetOptions};
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig};
use softstore_server::node::Node;
use softstore_sharding::NodeId;
use tonic::transport::{Channel, Endpoint};

use crate::workload::Key;

/// How long a cluster may take to settle.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at the Assigner's status.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Most entries of one `set_many` while filling, and most bytes of values.
const FILL_ENTRIES: usize = 4_096;
const FILL_BYTES: usize = 8 << 20;

/// An Assigner, and the nodes that the caller starts.
#[derive(Debug)]
pub struct InProcess {
    assigner: AssignerServer,
    status: AssignerClient<Channel>,
    memory_bytes: u64,
    nodes_started: u32,
}

impl InProcess {
    /// An Assigner and its first node, serving. Every node has a budget of `memory_bytes`.
    ///
    /// # Errors
    /// If one of them cannot start, or the cluster does not settle.
    pub async fn start(memory_bytes: u64) -> Result<(Self, Node)> {
        let config = AssignerConfig {
            listen: any_port(),
            expect_nodes: 1,
            founds_at_once: true,
            ..AssignerConfig::default()
        };
        let assigner = AssignerServer::start(config)
            .await
            .wrap_err("cannot start the Assigner")?;
        let address = format!("http://{}", assigner.grpc_addr());
        let channel = Endpoint::from_shared(address)?
            .connect()
            .await
            .wrap_err("cannot reach the Assigner")?;
        let status = AssignerClient::new(channel);
        let mut cluster = Self {
            assigner,
            status,
            memory_bytes,
            nodes_started: 0,
        };
        let node = cluster.add_node().await?;
        Ok((cluster, node))
    }

    /// Starts a node, and waits until it is listed as serving and nothing moves. One that joins later stays empty: it
    /// waits to take whole what drains next.
    ///
    /// # Errors
    /// If it cannot start, or the cluster does not settle.
    pub async fn add_node(&mut self) -> Result<Node> {
        self.nodes_started += 1;
        let config = NodeConfig {
            id: NodeId::new(&format!("n{}", self.nodes_started))?,
            listen: any_port(),
            http_listen: None,
            assigner: self.assigner.grpc_addr().to_string(),
            memory_bytes: self.memory_bytes,
            drain_deadline_ms: 600_000,
            ..NodeConfig::default()
        };
        let node = Node::start(config).await.wrap_err("cannot start the node")?;
        self.wait_for(&node).await?;
        Ok(node)
    }

    async fn wait_for(&mut self, node: &Node) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self
                .status
                .status(v1::StatusRequest::default())
                .await?
                .into_inner();
            let is_listed = |listed: &v1::NodeStatus| {
                listed
                    .life
                    .as_ref()
                    .is_some_and(|life| life.node == node.id().as_str())
                    && listed.state() == v1::NodeState::Serving
            };
            if status.settled && status.nodes.iter().any(is_listed) && node.readiness().is_ok() {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "the cluster does not settle: {}",
                status.unsettled_because
            );
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// A client that knows this node.
///
/// # Errors
/// If it cannot connect.
pub async fn client_of(node: &Node) -> Result<Client> {
    Ok(Client::builder()
        .seeds([node.grpc_addr().to_string()])
        .require_cluster(true)
        .connect()
        .await?)
}

/// Sets all keys to the value.
///
/// # Errors
/// The first set that failed.
pub async fn fill(client: &Client, keys: &[Key], value: &Bytes) -> Result<()> {
    let client = client.with_timeout(PATIENCE);
    let at_a_time = (FILL_BYTES / value.len().max(1)).clamp(1, FILL_ENTRIES);
    for some in keys.chunks(at_a_time) {
        let entries = some.iter().map(|key| (key, value));
        for outcome in client.set_many(entries, SetOptions::new()).await {
            outcome?;
        }
    }
    Ok(())
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
