//! Who the nodes are: [`NodeId`], [`Peer`] and the directory's [`NodeEntry`].

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::generation::Incarnation;
use crate::identity::ProcessId;

/// Longest node id in bytes.
pub const NODE_ID_BYTES_MAX: usize = 128;

/// A node's stable name; it survives restarts. 1 to 128 bytes of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(Arc<str>);

/// Why a string is no [`NodeId`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a node id is 1 to {NODE_ID_BYTES_MAX} characters of A-Z a-z 0-9 . _ -, not {0:?}")]
pub struct NodeIdError(String);

impl NodeId {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// If it is empty, too long, or has a character outside the set.
    pub fn new(name: &str) -> Result<Self, NodeIdError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > NODE_ID_BYTES_MAX || !name.chars().all(allowed) {
            return Err(NodeIdError(name.chars().take(NODE_ID_BYTES_MAX).collect()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a node: its name and the incarnation that tells it from the lives before and after.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Life {
    /// The node's name.
    pub node: NodeId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl Life {
    /// A life that no node has, so that it counts as dead: the owner of what nobody is known to own. Its incarnation is not
    /// 0, which no peer would read, but one that is drawn once in 2^64 times.
    ///
    /// # Panics
    /// Never: the name is made of allowed characters.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            node: NodeId::new("nobody").expect("the name is made of allowed characters"),
            incarnation: Incarnation::new(u64::MAX),
        }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.node, self.incarnation)
    }
}

/// A life of a node and where it listens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Who.
    pub life: Life,
    /// `host:port` of its gRPC port, as other machines reach it.
    pub address: Arc<str>,
}

/// What a node is doing, as the Assigner sees it. (Dead nodes are not listed.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum NodeState {
    /// Said hello; holds no assignment yet.
    Joining,
    /// Holds an assignment, even if it owns nothing.
    Serving,
    /// Hands off all it owns before it leaves.
    Draining,
}

/// The directory's line about a living node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its present life; every other one is dead.
    pub incarnation: Incarnation,
    /// The process that lives it; none: a build that says neither process nor cluster.
    pub process: Option<ProcessId>,
    /// `host:port` of its gRPC port.
    pub address: Arc<str>,
    /// `host:port` of its HTTP port (metrics, health); empty if it has none.
    pub http_address: Arc<str>,
    /// Failure domain; empty if none was named.
    pub zone: Arc<str>,
    /// What it is doing.
    pub state: NodeState,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        assert!(NodeId::new("cache-0.eu_1").is_ok());
        for bad in ["", "a b", "ü", "a/b", &"x".repeat(NODE_ID_BYTES_MAX + 1)] {
            assert!(NodeId::new(bad).is_err(), "{bad:?}");
        }
    }
}
