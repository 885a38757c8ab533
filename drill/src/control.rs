//! What the drill asks of the control plane: is the cluster at rest, who is in it, what has moved.

use std::future::Future;

use softstore_sharding::Slice;

/// A cluster as its Assigner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ClusterView {
    /// Every range has a living owner and nothing moves, joins or drains.
    pub(crate) settled: bool,
    /// Why not, for people.
    pub(crate) because: String,
    /// Empty nodes that wait to be filled.
    pub(crate) waiting_to_fill: u32,
    pub(crate) nodes: Vec<NodeView>,
}

/// One living node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeView {
    pub(crate) id: String,
    pub(crate) incarnation: u64,
    pub(crate) serving: bool,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Since this incarnation started.
    pub(crate) entries_imported: u64,
    pub(crate) bytes_imported: u64,
    /// What it said it holds in its last heartbeat.
    pub(crate) slices: Vec<Slice>,
}

impl ClusterView {
    pub(crate) fn node(&self, id: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Settled with exactly these nodes, all serving.
    pub(crate) fn settled_with(&self, members: &[String]) -> bool {
        self.settled
            && self.nodes.len() == members.len()
            && members
                .iter()
                .all(|id| self.node(id).is_some_and(|node| node.serving))
    }

    pub(crate) fn state_bytes(&self) -> u64 {
        self.nodes.iter().map(|node| node.bytes).sum()
    }

    pub(crate) fn state_entries(&self) -> u64 {
        self.nodes.iter().map(|node| node.entries).sum()
    }
}

/// Asks the control plane. Implementations bound the time of a call.
pub(crate) trait ClusterControl: Send + Sync {
    /// The cluster now, or in words why nobody knows.
    fn view(&self) -> impl Future<Output = Result<ClusterView, String>> + Send;
}
