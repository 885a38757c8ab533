//! [`NodeIdentity`]: which process this is and which cluster it belongs to, for all that this node answers and asks.

use std::sync::OnceLock;

use softstore_sharding::{ClusterId, ClusterName, Founding, ProcessId};

use crate::clock::new_process_id;

/// Which process a node is, through all of its lives, and which cluster it belongs to.
#[derive(Debug)]
pub struct NodeIdentity {
    process: ProcessId,
    name: Option<ClusterName>,
    /// That of the first assignment that said one: a process keeps it for as long as it runs.
    founding: OnceLock<Founding>,
}

impl NodeIdentity {
    /// A process that starts, and holds no assignment yet.
    pub(super) fn new(name: Option<ClusterName>) -> Self {
        Self {
            process: new_process_id(),
            name,
            founding: OnceLock::new(),
        }
    }

    /// Which process this is.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Its cluster's founding, once it has held an assignment that says it.
    #[must_use]
    pub fn founding(&self) -> Option<Founding> {
        self.founding.get().copied()
    }

    /// Which cluster it belongs to, as far as it knows.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        ClusterId {
            name: self.name.clone(),
            founding: self.founding(),
        }
    }

    /// An assignment of this founding is held. The slicelet adopts none of another.
    pub(super) fn found(&self, founding: Founding) {
        let _ = self.founding.set(founding);
    }
}
