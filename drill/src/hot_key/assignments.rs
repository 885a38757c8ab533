//! What each assignment says of the hot key, as any client of the cluster is told: a watch on a node.

use std::future::Future;
use std::time::Duration;

use softstore_proto::v1;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_sharding::clerk::Clerk;
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{Slice, SliceKey};
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tonic::transport::Endpoint;

/// How long opening a watch may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Before another node is tried.
const PAUSE: Duration = Duration::from_millis(50);

/// The range of the hot key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KeyRange {
    /// It holds no other position than the key's.
    pub(crate) is_own: bool,
    /// Who owns it, by name.
    pub(crate) owner: String,
    /// How many nodes serve reads of it beside the owner.
    pub(crate) replicas: usize,
    /// Other ranges that have replicas: what nodes count as reads of copies is theirs as well.
    pub(crate) others_replicated: usize,
}

/// Tells of assignments as they come.
pub(crate) trait Assignments: Send + 'static {
    /// The next one; the first call gives the present one. Waits for as long as it takes.
    fn next(&mut self) -> impl Future<Output = KeyRange> + Send;
}

/// A watch on one node after the other.
#[derive(Debug)]
pub(crate) struct NodeWatch {
    addresses: Vec<String>,
    at: SliceKey,
    clerk: Clerk,
    updates: Option<Streaming<v1::AssignmentUpdate>>,
    opened: usize,
}

impl NodeWatch {
    /// Requires: `addresses` are `host:port` of nodes, one or more.
    pub(crate) fn new(addresses: Vec<String>, key: &[u8]) -> Self {
        Self {
            addresses,
            at: SliceKey::of_key(key),
            clerk: Clerk::new(),
            updates: None,
            opened: 0,
        }
    }

    async fn open(&mut self) -> Option<Streaming<v1::AssignmentUpdate>> {
        let address = &self.addresses[self.opened % self.addresses.len()];
        self.opened += 1;
        let request = v1::WatchRequest {
            held: Some(self.clerk.generation().into()),
        };
        let opening = async {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
            let channel = endpoint.connect().await.ok()?;
            let watching = CacheClient::new(channel).watch(request).await;
            Some(watching.ok()?.into_inner())
        };
        timeout(OPEN_TIMEOUT, opening).await.ok().flatten()
    }

    /// Whether an update came and was taken.
    async fn update(&mut self) -> Option<()> {
        if self.updates.is_none() {
            self.updates = self.open().await;
        }
        let update = self.updates.as_mut()?.message().await.ok()??;
        let update = AssignmentUpdate::try_from(update).ok()?;
        self.clerk.update(&update).ok()?;
        Some(())
    }

    fn range(&self) -> Option<KeyRange> {
        let assignment = self.clerk.assignment()?;
        let (slice, range) = assignment.ranges().get_with_slice(self.at);
        let others = assignment.ranges().iter().filter(|(other, _)| *other != slice);
        Some(KeyRange {
            is_own: slice == Slice::single(self.at),
            owner: range.owner.node.to_string(),
            replicas: range.readers.replicas.len(),
            others_replicated: others
                .filter(|(_, other)| !other.readers.replicas.is_empty())
                .count(),
        })
    }
}

impl Assignments for NodeWatch {
    async fn next(&mut self) -> KeyRange {
        loop {
            if self.update().await.is_some() {
                if let Some(range) = self.range() {
                    return range;
                }
            } else {
                // The watch broke, or brought a change to an assignment that is not held: a new one begins with all of it.
                self.updates = None;
                self.clerk = Clerk::new();
                sleep(PAUSE).await;
            }
        }
    }
}
