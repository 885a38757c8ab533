//! The settings of the commands that use a running cluster: where it is, and how long to wait for it.

use softstore_sharding::ClusterName;

use super::settings;

/// Where a cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientConfig {
    /// `HOST:PORT` of some nodes; one that lives is enough. Default: none, and the Assigner is asked who they are.
    pub(crate) seeds: Vec<String>,
    /// `HOST:PORT` of the Assigner. Default 127.0.0.1:7400.
    pub(crate) assigner: String,
    /// The cluster's name; none: whichever the seeds are of. Default none.
    pub(crate) cluster: Option<ClusterName>,
    /// How long one operation may take. Milliseconds, default 1,000.
    pub(crate) deadline_ms: u64,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            seeds: Vec::new(),
            assigner: "127.0.0.1:7400".to_owned(),
            cluster: None,
            deadline_ms: 1_000,
        }
    }
}

settings! {
    /// What may be said about the cluster to use.
    ClientSettings of ClientConfig, table "client", machine dependent [];

    /// Some of the cluster's nodes, with commas between; one that lives is enough. Default: those that the Assigner knows, or
    /// 127.0.0.1:7401 if none answers at 127.0.0.1:7400.
    #[arg(long, env = "SOFTSTORE_SEEDS", value_name = "HOST:PORT,..", value_delimiter = ',')]
    seeds: Vec<String>,
    /// The Assigner's address.
    #[arg(long, env = "SOFTSTORE_ASSIGNER", value_name = "HOST:PORT")]
    assigner: String,
    /// The cluster's name: nodes of another one are refused. Without it, whichever cluster answers first is the one.
    #[arg(long, env = "SOFTSTORE_CLUSTER", value_name = "NAME")]
    cluster: ClusterName,
    /// How long one operation may take, in milliseconds.
    #[arg(long, env = "SOFTSTORE_DEADLINE_MS", value_name = "MS")]
    deadline_ms: u64,
}
