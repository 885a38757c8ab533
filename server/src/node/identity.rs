//! [`NodeIdentity`]: which process this is and which cluster it belongs to, for all that this node answers and asks; and who
//! is refused for belonging elsewhere, before anything of its call is read.
//!
//! A call that says nothing is one by hand, or of a build that knows of no clusters: clients may say nothing, other nodes only
//! while the directory lists such a build.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use softstore_proto::identity;
use softstore_sharding::{ClusterId, ClusterName, ForeignCluster, Founding, ProcessId};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::state::NodeState;
use crate::clock::new_process_id;

/// Which process a node is, through all of its lives, and which cluster it belongs to.
#[derive(Debug)]
pub struct NodeIdentity {
    process: ProcessId,
    name: Option<ClusterName>,
    /// That of the first assignment that said one: a process keeps it for as long as it runs.
    founding: OnceLock<Founding>,
    /// Calls and assignments of other clusters that were refused here, and calls of this node that another cluster refused.
    refused: AtomicU64,
    /// Calls that did not say which cluster they are of, and were answered.
    unidentified: AtomicU64,
}

impl NodeIdentity {
    /// A process that starts, and holds no assignment yet.
    pub(super) fn new(name: Option<ClusterName>) -> Self {
        Self {
            process: new_process_id(),
            name,
            founding: OnceLock::new(),
            refused: AtomicU64::new(0),
            unidentified: AtomicU64::new(0),
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

    /// How often this node refused another cluster's word, or was refused by one.
    #[must_use]
    pub fn refused_count(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many calls were answered that did not say which cluster they are of.
    #[must_use]
    pub fn unidentified_count(&self) -> u64 {
        self.unidentified.load(Ordering::Relaxed)
    }

    /// An assignment of this founding is held. The slicelet adopts none of another.
    pub(super) fn found(&self, founding: Founding) {
        // Only the first one counts.
        let _ = self.founding.set(founding);
    }

    /// Says in a call to another node which cluster it is of.
    pub(super) fn declare(&self, metadata: &mut MetadataMap) {
        identity::declare(&self.cluster(), metadata);
    }

    /// Counts a refusal for another cluster, given or received.
    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Refuses who belongs to another cluster. `may_be_silent`: a call that says nothing is answered.
    fn admit(
        &self,
        metadata: &MetadataMap,
        may_be_silent: impl FnOnce() -> bool,
    ) -> Result<ClusterId, Status> {
        let theirs = identity::declared(metadata)?;
        let ours = self.cluster();
        let admitted = match ours.admit(&theirs) {
            Ok(()) if theirs.name.is_none() && theirs.founding.is_none() => {
                self.unidentified.fetch_add(1, Ordering::Relaxed);
                if may_be_silent() {
                    Ok(())
                } else {
                    Err(ForeignCluster::Unsaid)
                }
            }
            admitted => admitted,
        };
        admitted.map_err(|why| self.refuse(&why))?;
        Ok(theirs)
    }

    fn refuse(&self, why: &ForeignCluster) -> Status {
        self.count_refused();
        tracing::debug!(%why, "refused a call of another cluster");
        identity::foreign_status(why, &self.cluster())
    }
}

/// A client's call says a founding, and this node knows none yet: it may turn out to be of another one. Nothing that has to wait
/// is waited for on its behalf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unconfirmed(Founding);

impl Unconfirmed {
    /// Whether the call is of this node's cluster; `None`: that is still not known.
    ///
    /// # Errors
    /// It is of another one.
    pub(super) fn look(self, state: &NodeState) -> Result<Option<()>, Status> {
        match state.identity.founding() {
            None => Ok(None),
            Some(ours) if ours == self.0 => Ok(Some(())),
            Some(ours) => Err(state
                .identity
                .refuse(&ForeignCluster::Founding { ours, theirs: self.0 })),
        }
    }
}

impl NodeState {
    /// Lets a client's call in, or refuses it for belonging to another cluster.
    pub(super) fn admit_client(&self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let theirs = self.identity.admit(request.metadata(), || true)?;
        if let Some(founding) = theirs.founding.filter(|_| self.identity.founding().is_none()) {
            request.extensions_mut().insert(Unconfirmed(founding));
        }
        Ok(request)
    }

    /// The same for another node's call.
    pub(super) fn admit_peer(&self, request: Request<()>) -> Result<Request<()>, Status> {
        self.identity
            .admit(request.metadata(), || self.may_peers_be_silent())?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, founding: u128) -> ClusterId {
        ClusterId {
            name: Some(ClusterName::new(name).unwrap()),
            founding: Founding::new(founding),
        }
    }

    fn says(cluster: &ClusterId) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        identity::declare(cluster, &mut metadata);
        metadata
    }

    /// Plan: a node of one cluster is called by its own, by others, and by who says nothing. Others are refused with a typed
    /// answer that says whose node this is, and are counted; silence is the caller's kind to allow.
    #[test]
    fn f3_who_belongs_elsewhere_is_refused_and_counted() {
        let node = NodeIdentity::new(Some(ClusterName::local()));
        node.found(Founding::new(1).unwrap());
        for welcome in [named("local", 1), named("local", 0)] {
            assert_eq!(node.admit(&says(&welcome), || false).unwrap(), welcome);
        }
        for foreign in [named("prod", 1), named("local", 2)] {
            let refused = node.admit(&says(&foreign), || true).unwrap_err();
            assert_eq!(identity::refused_by(&refused), Some(node.cluster()));
        }
        let silent = MetadataMap::new();
        assert!(node.admit(&silent, || true).is_ok());
        assert!(identity::refused_by(&node.admit(&silent, || false).unwrap_err()).is_some());
        assert_eq!((node.refused_count(), node.unidentified_count()), (3, 2));
        // A process keeps the founding that it had first.
        node.found(Founding::new(2).unwrap());
        assert_eq!(node.founding(), Founding::new(1));
    }
}
