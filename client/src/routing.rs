//! [`Routing`]: the clerk's shell. Which connection a key's operations take, and since when its owner has it.
//!
//! The pure [`Clerk`] decides; this keeps a snapshot of it that operations read without a lock, beside the connections to
//! the nodes it names. A change clones the clerk, changes the clone and swaps it in. Connections are kept by (address,
//! incarnation): a node that restarts, or moves, gets new ones, and those of a life that nobody names any more end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use softstore_proto::cache::Moved;
use softstore_sharding::clerk::{Clerk, Route, UpdateError};
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{ClusterId, Generation, Incarnation, Life, Peer, Slice, SliceKey};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::ClientConfig;
use crate::lane::Lane;
use crate::metrics::Counters;

/// The connections to one life of a node at one address. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    address: Arc<str>,
    lanes: Box<[Arc<Lane>]>,
    /// The node refused to read what it was said to be a replica of: until then it is not asked to.
    reads_from: Mutex<Option<Instant>>,
    _retire: DropGuard,
}

impl Link {
    fn start(
        address: Arc<str>,
        cluster: &ClusterId,
        config: &Arc<ClientConfig>,
        counters: &Arc<Counters>,
    ) -> Arc<Self> {
        let retired = CancellationToken::new();
        let lanes = (0..config.connections_per_node)
            .map(|_| {
                Lane::start(
                    address.clone(),
                    cluster.clone(),
                    config,
                    counters,
                    retired.clone(),
                )
            })
            .collect();
        Arc::new(Self {
            address,
            lanes,
            reads_from: Mutex::new(None),
            _retire: retired.drop_guard(),
        })
    }

    /// The node has refused to read as a replica: it has no lease yet, or any more, or too much to do.
    pub(crate) fn refused_to_read(&self) {
        *self.reads_from.lock() = Some(Instant::now() + REPLICA_REST);
    }

    fn may_read(&self) -> bool {
        self.reads_from.lock().is_none_or(|from| Instant::now() >= from)
    }

    /// The connection for a key: always the same one, so that one caller's operations on it keep their order.
    fn lane(&self, at: SliceKey) -> &Arc<Lane> {
        match &*self.lanes {
            [only] => only,
            lanes => {
                let index = at.get() % lanes.len() as u64;
                &lanes[usize::try_from(index).expect("below a usize")]
            }
        }
    }
}

/// The cluster counts as absent when no node has told its assignment for so long, or for as long as a read is to wait for that.
/// Many times what it takes to find another node to follow, unless none is there.
const ABSENT_AFTER: Duration = Duration::from_secs(1);

/// How long a node is not asked to read as a replica after it has refused to.
const REPLICA_REST: Duration = Duration::from_millis(50);

/// Where an operation goes.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    /// There.
    Lane {
        /// The connection.
        lane: &'a Arc<Lane>,
        /// The acquisition to send along.
        since: Generation,
        /// The node is asked as a replica; none: as the owner.
        replica: Option<&'a Arc<Link>>,
    },
    /// The owner is dead and has no successor yet, or nothing is known.
    Nowhere {
        /// Since when, as far as known.
        since: Generation,
    },
}

type Links = HashMap<Incarnation, Arc<Link>, foldhash::fast::RandomState>;

/// One snapshot.
#[derive(Debug, Default)]
pub(crate) struct Table {
    clerk: Clerk,
    links: Links,
    /// Owners that `Moved` answers named, with the `since` under which they did: kept until an assignment as new.
    named_by_moved: Vec<(Peer, Generation)>,
    /// Counts the snapshots.
    epoch: u64,
}

impl Table {
    /// Where operations on the key at `at` go.
    pub(crate) fn target(&self, at: SliceKey) -> Target<'_> {
        match self.clerk.route(at) {
            Route::To { life, address, since } => match self.links.get(&life.incarnation) {
                Some(link) if link.address == *address => Target::Lane {
                    lane: link.lane(at),
                    since,
                    replica: None,
                },
                _ => Target::Nowhere { since },
            },
            Route::Unreachable { since } => Target::Nowhere { since },
            Route::Unknown => Target::Nowhere {
                since: Generation::NONE,
            },
        }
    }

    /// Where a read of the key at `at` goes: to one of those who may read it. Of two drawn at random, the one with less pending
    /// here: a node that is slow has more, and with two to choose from the fullest is not much fuller than the others
    /// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
    pub(crate) fn target_to_read(&self, at: SliceKey) -> Target<'_> {
        if !self.clerk.has_replicas() {
            return self.target(at);
        }
        let Some(readable) = self.clerk.readers(at) else {
            return self.target(at);
        };
        let count = readable.count();
        let one = rand::random_range(0..count);
        let other = (one + rand::random_range(1..count)) % count;
        let choice = |index: usize| {
            let peer = readable.peer(index)?;
            let link = self.links.get(&peer.life.incarnation)?;
            let is_open = link.address == peer.address && (index == 0 || link.may_read());
            let lane = link.lane(at);
            is_open.then(|| (lane.pending(), index, link, lane))
        };
        let (one, other) = (choice(one), choice(other));
        // Where one of the two may not be asked, the owner stands in for it.
        let owner = if one.is_some() && other.is_some() {
            None
        } else {
            choice(0)
        };
        let chosen = [one, other, owner].into_iter().flatten();
        match chosen.min_by_key(|(pending, ..)| *pending) {
            Some((_, index, link, lane)) => Target::Lane {
                lane,
                since: readable.since(),
                replica: (index > 0).then_some(link),
            },
            None => self.target(at),
        }
    }

    fn since(&self, at: SliceKey) -> Generation {
        match self.target(at) {
            Target::Lane { since, .. } | Target::Nowhere { since } => since,
        }
    }

    /// Counts the snapshots: a higher one is newer.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The newest assignment's generation.
    pub(crate) fn generation(&self) -> Generation {
        self.clerk.generation()
    }

    /// `slice`, cut where the assignment cuts it: each part has one owner, as far as the assignment knows.
    pub(crate) fn parts(&self, slice: Slice) -> Vec<Slice> {
        let Some(assignment) = self.clerk.assignment() else {
            return vec![slice];
        };
        let ranges = assignment.ranges().overlapping(slice);
        ranges.map(|(part, _)| part).collect()
    }

    /// Where the living nodes listen.
    pub(crate) fn addresses(&self) -> Vec<Arc<str>> {
        let directory = self.clerk.assignment().map(|held| held.directory().values());
        let entries = directory.into_iter().flatten();
        entries.map(|entry| entry.address.clone()).collect()
    }

    fn living(&self) -> Vec<Peer> {
        let Some(assignment) = self.clerk.assignment() else {
            return Vec::new();
        };
        let entries = assignment.directory().iter();
        entries
            .map(|(node, entry)| Peer {
                life: Life {
                    node: node.clone(),
                    incarnation: entry.incarnation,
                },
                address: entry.address.clone(),
            })
            .collect()
    }
}

/// The clerk's shell.
#[derive(Debug)]
pub(crate) struct Routing {
    table: ArcSwap<Table>,
    /// Held while the next snapshot is made.
    changing: Mutex<()>,
    /// The epoch of the newest snapshot; also told when the source of assignments comes or goes.
    changes: watch::Sender<u64>,
    /// Since when no assignments are coming in, in milliseconds after `begun`, and 1; 0: they are.
    lost_ms: AtomicU64,
    begun: Instant,
    /// Told when an operation found no way to its key's owner.
    out_of_reach: Notify,
    config: Arc<ClientConfig>,
    counters: Arc<Counters>,
}

impl Routing {
    pub(crate) fn new(config: Arc<ClientConfig>, counters: Arc<Counters>) -> Self {
        Self {
            table: ArcSwap::default(),
            changing: Mutex::new(()),
            changes: watch::Sender::new(0),
            lost_ms: AtomicU64::new(1),
            begun: Instant::now(),
            out_of_reach: Notify::new(),
            config,
            counters,
        }
    }

    /// The newest snapshot.
    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Told at each new snapshot, and when the source of assignments comes or goes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Says that an operation found no way to its key's owner.
    pub(crate) fn set_out_of_reach(&self) {
        self.out_of_reach.notify_one();
    }

    /// Waits until an operation found no way to its key's owner: since the last such wait, or from now on.
    pub(crate) async fn owner_out_of_reach(&self) {
        self.out_of_reach.notified().await;
    }

    /// Whether assignments are coming in.
    pub(crate) fn is_followed(&self) -> bool {
        self.lost_ms.load(Ordering::Acquire) == 0
    }

    /// For how long no assignments have been coming in; none if they are.
    pub(crate) fn lost_for(&self) -> Option<Duration> {
        let since_ms = self.lost_ms.load(Ordering::Acquire).checked_sub(1)?;
        Some(
            self.begun
                .elapsed()
                .saturating_sub(Duration::from_millis(since_ms)),
        )
    }

    /// Whether no node has told where everything is for so long that none is likely to within an operation's time.
    pub(crate) fn is_absent(&self) -> bool {
        let after = ABSENT_AFTER.max(Duration::from_millis(self.config.unreachable_wait_ms));
        self.lost_for().is_some_and(|lost| lost >= after)
    }

    /// Says whether assignments are coming in.
    pub(crate) fn set_followed(&self, is_followed: bool) {
        if is_followed {
            self.lost_ms.store(0, Ordering::Release);
        } else if self.is_followed() {
            let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
            self.lost_ms.store(now_ms + 1, Ordering::Release);
        }
        self.changes.send_modify(|_| ());
    }

    /// The cluster that this client follows, as far as it knows.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster_of(&self.table().clerk)
    }

    fn cluster_of(&self, clerk: &Clerk) -> ClusterId {
        ClusterId {
            name: self.config.cluster.clone(),
            founding: clerk.founding(),
        }
    }

    /// Whether an update is of the cluster that this client follows. One that is not is counted.
    pub(crate) fn is_ours(&self, update: &AssignmentUpdate) -> bool {
        let theirs = match update {
            AssignmentUpdate::Full(next) => next.founding(),
            AssignmentUpdate::Diff(diff) => diff.founding,
        };
        let is_ours = self.table().clerk.admit(theirs).is_ok();
        if !is_ours {
            self.counters.foreign_refused.one();
        }
        is_ours
    }

    /// Counts a node of another cluster that refused this client.
    pub(crate) fn count_foreign(&self) {
        self.counters.foreign_refused.one();
    }

    /// Forgets the cluster that was followed, and all that was known of it.
    pub(crate) fn forget_cluster(&self) {
        let _changing = self.changing.lock();
        let held = self.table.load_full();
        self.counters.clusters_followed_anew.one();
        self.swap_in(&held, Clerk::new(), Vec::new());
    }

    /// Takes a new assignment.
    pub(crate) fn update(&self, update: &AssignmentUpdate) -> Result<(), UpdateError> {
        let _changing = self.changing.lock();
        let held = self.table.load_full();
        let mut clerk = held.clerk.clone();
        if clerk.update(update)? {
            self.counters.assignments.one();
            let generation = clerk.generation();
            let mut named_by_moved = held.named_by_moved.clone();
            named_by_moved.retain(|(_, since)| *since > generation);
            self.swap_in(&held, clerk, named_by_moved);
        }
        Ok(())
    }

    /// Takes a node's word for where the key at `at` went. Whether the key's operations go elsewhere than under
    /// `sent_since` now: by this word, or by another that came in between.
    pub(crate) fn moved(&self, moved: Moved, at: SliceKey, sent_since: Generation) -> bool {
        if moved.since > self.table().since(at) {
            let _changing = self.changing.lock();
            let held = self.table.load_full();
            let mut clerk = held.clerk.clone();
            let owner = moved.owner;
            if clerk.moved(
                moved.slice,
                owner.life.clone(),
                owner.address.clone(),
                moved.since,
                unix_ms(),
            ) {
                let mut named_by_moved = held.named_by_moved.clone();
                named_by_moved.retain(|(peer, _)| *peer != owner);
                named_by_moved.push((owner, moved.since));
                self.swap_in(&held, clerk, named_by_moved);
            }
        }
        self.table().since(at) > sent_since
    }

    fn swap_in(&self, held: &Table, clerk: Clerk, named_by_moved: Vec<(Peer, Generation)>) {
        let epoch = held.epoch + 1;
        let cluster = self.cluster_of(&clerk);
        let mut next = Table {
            clerk,
            links: Links::default(),
            named_by_moved,
            epoch,
        };
        let named = next.named_by_moved.iter().map(|(peer, _)| peer.clone());
        let peers: Vec<Peer> = next.living().into_iter().chain(named).collect();
        for peer in peers {
            let incarnation = peer.life.incarnation;
            let kept = held.links.get(&incarnation);
            let link = match kept.filter(|link| link.address == peer.address) {
                Some(link) => link.clone(),
                None => Link::start(peer.address, &cluster, &self.config, &self.counters),
            };
            next.links.insert(incarnation, link);
        }
        self.table.store(Arc::new(next));
        self.changes.send_replace(epoch);
    }
}

/// Milliseconds since 1970, UTC; 0 on a machine whose clock stands before that.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
