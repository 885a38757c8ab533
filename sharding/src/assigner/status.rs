//! [`ClusterStatus`]: what the Assigner knows of the cluster, for operators and for `wait --settled`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::balance::HeldBack;
use super::departures::Departure;
use super::{Assigner, Pending};
use crate::generation::Generation;
use crate::identity::{ClusterId, Founding};
use crate::load::HOT_KEYS_MAX;
use crate::node::{Life, NodeId, NodeState};
use crate::session::{HotKeyLoad, LoadReport};
use crate::sharder::NodeRole;
use crate::slice::Slice;
use crate::slice_key::SliceKey;
use crate::time::Timestamp;

/// What the cluster looks like from the Assigner.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterStatus {
    /// The newest assignment; [`Generation::NONE`] before the first.
    pub generation: Generation,
    /// The living nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// Every range has an owner that answers for it: it lives, was heard of lately, can be reached where it says that it listens,
    /// and says itself that it serves all it owns. No hand-off is open, nobody joins or drains, and nothing waits to be published.
    /// Nodes that wait to be filled do not matter.
    pub settled: bool,
    /// Why the cluster is not settled, for people; empty if it is.
    pub unsettled_because: String,
    /// Nodes that joined later and do not have their share yet.
    pub waiting_to_fill: u32,
    /// Ranges with a hand-off open.
    pub ranges_moving: u32,
    /// Ranges whose owner is dead.
    pub ranges_unreachable: u32,
    /// Which silent lives may bring back what they held, and of how many ranges. It does not matter to `settled`.
    pub awaited: BTreeMap<Life, u32>,
    /// Whether the Assigner still gathers hellos before it publishes.
    pub recovering: bool,
    /// Leased ownership: the leases' length in milliseconds. None: `available`.
    pub lease_ms: Option<u64>,
    /// The hottest keys of the cluster, hottest first, at most [`HOT_KEYS_MAX`].
    pub hot_keys: Vec<HotKeyStatus>,
    /// Whether and how load is balanced.
    pub balance: BalanceStatus,
    /// Processes that wait for a name which another one holds, by name.
    pub name_waits: Vec<NameWaitStatus>,
    /// Which cluster this is. Its founding is not certain while the Assigner gathers hellos.
    pub cluster: ClusterId,
    /// The foundings between which the operator is to choose, this one first; empty if there is nothing to choose.
    pub foundings_to_choose: Vec<Founding>,
    /// Other clusters whose nodes were refused lately.
    pub foreign: Vec<ForeignStatus>,
    /// Nodes whose build says neither its process nor its cluster.
    pub unidentified_nodes: u32,
    /// The lives that have drained and left, oldest first, at most [`DEPARTURES_MAX`](super::DEPARTURES_MAX).
    pub departures: Vec<Departure>,
}

/// Another cluster, nodes of which said hello here and were refused.
#[derive(Clone, PartialEq, Debug)]
pub struct ForeignStatus {
    /// Which.
    pub cluster: ClusterId,
    /// The last of its nodes that asked.
    pub node: NodeId,
    /// Where that listens.
    pub address: Arc<str>,
    /// How often its nodes were refused.
    pub refused: u64,
    /// Milliseconds since the last time.
    pub ago_ms: u64,
}

/// A process that waits for a name which another one holds.
#[derive(Clone, PartialEq, Debug)]
pub struct NameWaitStatus {
    /// The name.
    pub node: NodeId,
    /// Where the process that waits listens.
    pub address: Arc<str>,
    /// Where the holder does; empty if that is yet to come back.
    pub holder: Arc<str>,
    /// For how long the process has waited, in milliseconds.
    pub waits_ms: u64,
    /// Milliseconds since the holder was last heard of.
    pub holder_silent_ms: u64,
}

/// Whether and how load is balanced.
#[derive(Clone, PartialEq, Debug)]
pub struct BalanceStatus {
    /// The Sharder's name.
    pub sharder: &'static str,
    /// Whether it reacts to load.
    pub reacts_to_load: bool,
    /// Why nothing is balanced now; `None` if it is.
    pub held_back: Option<HeldBack>,
    /// What balancing may still move within this minute, as a part of the data set's bytes.
    pub churn_left: f64,
}

/// A key that draws much load, and who said so.
#[derive(Clone, PartialEq, Debug)]
pub struct HotKeyStatus {
    /// The key and its load, all together.
    pub load: HotKeyLoad,
    /// Who owns it, or reports the most of it.
    pub owner: Life,
    /// Who else serves reads of it.
    pub replicas: Vec<Life>,
}

/// What one living node looks like from the Assigner.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeStatus {
    /// Its present life.
    pub life: Life,
    /// `host:port` of its gRPC port.
    pub address: Arc<str>,
    /// `host:port` of its HTTP port; empty if none.
    pub http_address: Arc<str>,
    /// Its failure domain; empty if none.
    pub zone: Arc<str>,
    /// What it is doing.
    pub state: NodeState,
    /// Its store's budget in bytes.
    pub capacity_bytes: u64,
    /// How many ranges it owns.
    pub slices: u32,
    /// The part of the key space that it owns, 0 to 1.
    pub share: f64,
    /// Its last load report.
    pub load: LoadReport,
    /// Milliseconds since it was last heard of.
    pub silent_ms: u64,
    /// Whether it does not have its share yet: it waits for what drains or dies, owns nothing, or is still being given more.
    pub waiting_to_fill: bool,
    /// Why it is not relied on that it answers for what it owns, for people; empty if it is.
    pub doubt: String,
    /// The assignment that it last said it holds.
    pub generation: Generation,
    /// The length of the leases under which it said that it serves, in milliseconds. None: it serves without one, or was
    /// not told yet.
    pub lease_ms: Option<u64>,
}

/// What one node owns.
#[derive(Clone, Copy, Default)]
struct Owned {
    slices: u32,
    width: u128,
    /// The newest of its acquisitions.
    newest: Generation,
}

/// What the ranges of the newest assignment say, counted.
#[derive(Default)]
struct Counted {
    owned: BTreeMap<Life, Owned>,
    moving: u32,
    unreachable: u32,
    awaited: BTreeMap<Life, u32>,
}

impl Assigner {
    /// What the cluster looks like at a moment.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> ClusterStatus {
        let counted = self.count();
        let unsettled_because = self.unsettled_because(&counted, now).unwrap_or_default();
        let nodes: Vec<NodeStatus> = self
            .members
            .values()
            .map(|member| {
                let owned = counted.owned.get(&member.life).copied().unwrap_or_default();
                NodeStatus {
                    life: member.life.clone(),
                    address: member.address.clone(),
                    http_address: member.http_address.clone(),
                    zone: member.zone.clone(),
                    state: member.state(),
                    capacity_bytes: member.capacity_bytes,
                    slices: owned.slices,
                    share: owned.width as f64 / Slice::FULL.width() as f64,
                    load: member.load.clone(),
                    silent_ms: now.ms_since(member.last_heard),
                    waiting_to_fill: member.role() != NodeRole::Leaving
                        && (member.role() == NodeRole::Reserve || member.is_filling),
                    doubt: self
                        .doubt(member, owned.newest, now)
                        .map_or_else(String::new, |doubt| doubt.to_string()),
                    generation: member.acknowledged,
                    lease_ms: member.lease_ms,
                }
            })
            .collect();
        let mut hot_keys = self.hot_keys();
        hot_keys.truncate(HOT_KEYS_MAX);
        ClusterStatus {
            generation: self.generation(),
            waiting_to_fill: saturated(nodes.iter().filter(|node| node.waiting_to_fill).count()),
            nodes,
            settled: unsettled_because.is_empty(),
            unsettled_because,
            ranges_moving: counted.moving,
            ranges_unreachable: counted.unreachable,
            awaited: counted.awaited,
            recovering: self.recovery.is_some(),
            lease_ms: self.config.lease_ms,
            hot_keys,
            balance: BalanceStatus {
                sharder: self.sharder.name(),
                reacts_to_load: self.sharder.reacts_to_load(),
                held_back: self.held_back(now),
                churn_left: self.balance.churn_left(&self.config, now),
            },
            name_waits: self.name_waits(now),
            cluster: self.belonging.cluster.clone(),
            foundings_to_choose: self.foundings_to_choose(now),
            foreign: self.foreign(now),
            unidentified_nodes: saturated(self.unidentified_count()),
            departures: self.departures.all(),
        }
    }

    /// How many nodes are of a build that says neither its process nor its cluster.
    #[must_use]
    pub fn unidentified_count(&self) -> usize {
        self.members
            .values()
            .filter(|member| member.process.is_none())
            .count()
    }

    /// How many processes wait for a name which another one holds.
    #[must_use]
    pub fn name_waits_count(&self) -> usize {
        self.waiters.iter().count()
    }

    fn name_waits(&self, now: Timestamp) -> Vec<NameWaitStatus> {
        let waits = self.waiters.iter().map(|(node, waiter)| {
            let holder = self.members.get(node);
            NameWaitStatus {
                node: node.clone(),
                address: waiter.address.clone(),
                holder: holder.map_or_else(|| "".into(), |holder| holder.address.clone()),
                waits_ms: now.ms_since(waiter.since),
                holder_silent_ms: holder.map_or(0, |holder| now.ms_since(holder.last_heard)),
            }
        });
        waits.collect()
    }

    /// The hot keys that the members report, hottest first, each once. What its owner and its replicas say of one is added up.
    fn hot_keys(&self) -> Vec<HotKeyStatus> {
        let mut hot: BTreeMap<SliceKey, HotKeyStatus> = BTreeMap::new();
        for member in self.members.values() {
            for key in &member.load.hot_keys {
                let range = self.assignment().map(|current| current.range_at(key.at));
                let replicas = range.map_or(&[][..], |range| &range.readers.replicas);
                let new = HotKeyStatus {
                    load: key.clone(),
                    owner: member.life.clone(),
                    replicas: replicas.to_vec(),
                };
                let Some(held) = hot.get_mut(&key.at) else {
                    hot.insert(key.at, new);
                    continue;
                };
                let is_owner = |life: &Life| range.is_some_and(|range| range.owner == *life);
                let (mine, theirs) = (key.operations_per_second, held.load.operations_per_second);
                if replicas.is_empty() {
                    // It has just moved, and both say the same.
                    if mine > theirs {
                        *held = new;
                    }
                    continue;
                }
                held.load.operations_per_second += mine;
                held.load.error_per_second += key.error_per_second;
                if is_owner(&member.life) {
                    held.owner = member.life.clone();
                }
            }
        }
        let mut hot: Vec<HotKeyStatus> = hot.into_values().collect();
        hot.sort_by(|a, b| {
            b.load
                .operations_per_second
                .total_cmp(&a.load.operations_per_second)
        });
        hot
    }

    fn count(&self) -> Counted {
        let mut counted = Counted::default();
        for (slice, range) in self
            .assignment()
            .into_iter()
            .flat_map(|current| current.ranges().iter())
        {
            let owned = counted.owned.entry(range.owner.clone()).or_default();
            owned.slices += 1;
            owned.width += slice.width();
            owned.newest = owned.newest.max(range.since);
            if let Some(awaited) = range.awaits.first() {
                *counted.awaited.entry(awaited.life.clone()).or_default() += 1;
            }
            counted.moving += u32::from(!range.providers.is_empty());
            counted.unreachable += u32::from(!self.is_living(&range.owner));
        }
        counted
    }

    fn foundings_to_choose(&self, now: Timestamp) -> Vec<Founding> {
        let rivals = self.belonging.rivals(now);
        let own = self.belonging.cluster.founding.filter(|_| !rivals.is_empty());
        own.into_iter().chain(rivals).collect()
    }

    fn foreign(&self, now: Timestamp) -> Vec<ForeignStatus> {
        let others = self.belonging.others(now).map(|(cluster, seen)| ForeignStatus {
            cluster: cluster.clone(),
            node: seen.node.clone(),
            address: seen.address.clone(),
            refused: seen.refused,
            ago_ms: now.ms_since(seen.last),
        });
        others.collect()
    }

    /// The first reason, for people; `None` if the cluster is settled.
    fn unsettled_because(&self, counted: &Counted, now: Timestamp) -> Option<String> {
        if self.recovery.is_some() {
            if let [one, other, ..] = self.foundings_to_choose(now)[..] {
                return Some(format!(
                    "nodes of two foundings say hello, {one} and {other}: start the Assigner with --founding and the one to \
                     keep; nodes of the other keep what they hold, and are refused"
                ));
            }
            if let Some(expected) = self
                .config
                .expect_nodes
                .filter(|expected| self.members.len() < *expected)
            {
                let present = self.members.len();
                return Some(format!(
                    "{present} of the {expected} nodes that are expected are here"
                ));
            }
            return Some(format!(
                "the Assigner still gathers the hellos of the nodes ({} so far)",
                self.members.len()
            ));
        }
        if counted.unreachable > 0 {
            return Some(format!("{} ranges have no living owner", counted.unreachable));
        }
        for (state, verb) in [(NodeState::Joining, "joins"), (NodeState::Draining, "drains")] {
            if let Some(member) = self.members.values().find(|member| member.state() == state) {
                return Some(format!("{} {verb}", member.life.node));
            }
        }
        if counted.moving > 0 {
            return Some(format!("{} ranges are being handed over", counted.moving));
        }
        let behind = |(life, owned): (&Life, &Owned)| {
            let member = self.members.get(&life.node)?;
            (member.acknowledged < owned.newest).then(|| life.node.clone())
        };
        if let Some(node) = counted.owned.iter().find_map(behind) {
            return Some(format!("{node} has not taken up what it was given"));
        }
        let doubted = |(life, owned): (&Life, &Owned)| {
            let member = self.members.get(&life.node)?;
            let doubt = self.doubt(member, owned.newest, now)?;
            Some(format!("{} {doubt}", life.node))
        };
        if let Some(doubt) = counted.owned.iter().find_map(doubted) {
            return Some(doubt);
        }
        // After a change of the mode, or of the length: until then the node keeps to what it was told before.
        if let Some(member) = self
            .members
            .values()
            .find(|member| member.lease_ms != self.config.lease_ms)
        {
            return Some(match self.config.lease_ms {
                Some(lease_ms) => format!(
                    "{} does not serve under a lease of {lease_ms} ms yet",
                    member.life.node
                ),
                None => format!("{} still serves under leases", member.life.node),
            });
        }
        let is_asking = self
            .round
            .as_ref()
            .is_some_and(|round| round.urgency != Pending::Nothing);
        (is_asking || self.pending != Pending::Nothing)
            .then(|| "an assignment is about to be published".to_owned())
    }

    fn generation(&self) -> Generation {
        self.assignment()
            .map_or(Generation::NONE, |current| current.generation())
    }
}

fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
