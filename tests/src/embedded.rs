//! [`EmbeddedCluster`]: an Assigner and nodes in the test's own process, on free ports of loopback.

use std::net::SocketAddr;
use std::time::Duration;

use softstore_client::Client;
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig};
use softstore_server::node::Node;
use softstore_sharding::NodeId;
use tonic::transport::Endpoint;

/// How long a test waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An Assigner and some nodes.
#[derive(Debug)]
pub struct EmbeddedCluster {
    /// The control plane.
    pub assigner: AssignerServer,
    /// The nodes, in the order of their start.
    pub nodes: Vec<Node>,
}

/// A port of loopback that is free.
#[must_use]
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Settings of a test's node.
#[must_use]
pub fn node_config(id: &str, assigner: SocketAddr) -> NodeConfig {
    NodeConfig {
        id: NodeId::new(id).expect("a test's name is valid"),
        listen: any_port(),
        http_listen: Some(any_port()),
        assigner: assigner.to_string(),
        memory_bytes: 256 << 20,
        ..NodeConfig::default()
    }
}

impl EmbeddedCluster {
    /// Starts a cluster and waits until it is settled.
    pub async fn start(nodes: u32) -> Self {
        Self::start_with(nodes, AssignerConfig::default(), |_| {}).await
    }

    /// The same with other settings.
    pub async fn start_with(nodes: u32, assigner: AssignerConfig, change: impl Fn(&mut NodeConfig)) -> Self {
        let config = AssignerConfig {
            listen: any_port(),
            expect_nodes: nodes,
            founds_at_once: true,
            ..assigner
        };
        let assigner = AssignerServer::start(config).await.expect("the Assigner starts");
        let mut cluster = Self {
            assigner,
            nodes: Vec::new(),
        };
        for index in 1..=nodes {
            let mut config = node_config(&format!("n{index}"), cluster.assigner.grpc_addr());
            change(&mut config);
            cluster
                .nodes
                .push(Node::start(config).await.expect("the node starts"));
        }
        cluster.settled().await;
        cluster
    }

    /// A client that knows the first node.
    pub async fn client(&self) -> Client {
        let seeds = self.nodes.iter().map(|node| node.grpc_addr().to_string());
        Client::builder()
            .seeds(seeds)
            .require_cluster(true)
            .connect()
            .await
            .expect("the client connects")
    }

    /// What the Assigner says.
    pub async fn status(&self) -> v1::ClusterStatus {
        let address = format!("http://{}", self.assigner.grpc_addr());
        let channel = Endpoint::from_shared(address)
            .expect("an address")
            .connect()
            .await
            .expect("the Assigner listens");
        let mut client = AssignerClient::new(channel);
        client
            .status(v1::StatusRequest::default())
            .await
            .expect("the Assigner answers")
            .into_inner()
    }

    /// Waits until the nodes that are here, and no others, serve and nothing moves.
    pub async fn settled(&self) {
        let mut why = String::new();
        let settled = async {
            loop {
                let status = self.status().await;
                if status.settled && status.nodes.len() == self.nodes.len() {
                    return;
                }
                why = format!("{} nodes; {}", status.nodes.len(), status.unsettled_because);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, settled).await;
        assert!(ended.is_ok(), "the cluster does not settle: {why}");
    }
}
