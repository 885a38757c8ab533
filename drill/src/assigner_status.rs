//! [`ClusterControl`] over the Assigner's gRPC `Status`.

use std::time::Duration;

use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_proto::v1::{ClusterStatus, NodeState, NodeStatus, StatusRequest};
use tonic::transport::{Channel, Endpoint};

use crate::control::{ClusterControl, ClusterView, NodeView};

const TIMEOUT: Duration = Duration::from_secs(2);

/// An Assigner's status service.
#[derive(Debug, Clone)]
pub(crate) struct AssignerStatus {
    client: AssignerClient<Channel>,
}

impl AssignerStatus {
    /// `address`: `host:port`. Connects when first asked.
    pub(crate) fn new(address: &str) -> Result<Self, String> {
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
        let channel = endpoint.timeout(TIMEOUT).connect_timeout(TIMEOUT).connect_lazy();
        Ok(Self {
            client: AssignerClient::new(channel),
        })
    }
}

impl ClusterControl for AssignerStatus {
    async fn view(&self) -> Result<ClusterView, String> {
        let mut client = self.client.clone();
        let status = client.status(StatusRequest::default()).await;
        status
            .map(|reply| view(reply.into_inner()))
            .map_err(|error| format!("the Assigner does not answer: {error}"))
    }
}

fn view(status: ClusterStatus) -> ClusterView {
    ClusterView {
        settled: status.settled && !status.recovering,
        because: status.unsettled_because,
        waiting_to_fill: status.waiting_to_fill,
        nodes: status.nodes.into_iter().map(node).collect(),
    }
}

fn node(status: NodeStatus) -> NodeView {
    let serving = status.state() == NodeState::Serving;
    let life = status.life.unwrap_or_default();
    let load = status.load.unwrap_or_default();
    NodeView {
        id: life.node,
        incarnation: life.incarnation,
        serving,
        entries: load.entries,
        bytes: load.bytes,
        entries_imported: load.entries_imported,
        bytes_imported: load.bytes_imported,
        slices: load
            .slices
            .into_iter()
            .filter_map(|held| held.slice?.try_into().ok())
            .collect(),
    }
}
