//! [`AutoSharder`]: the planner as a [`Sharder`] of the Assigner.
//!
//! An assignment names one owner for each range, so nothing is replicated here, and neighbours of the same owner are one range.
//! Nodes do not say how much load they bear: each is taken to bear its part by capacity, so tolerances are those of fair shares.
//! A small even load underlies what is reported, so that an idle cluster is spread by key space, and a few operations move
//! nothing.

use std::collections::BTreeMap;

use super::cluster::{Cluster, HotSpot, Node, NodeIndex, Part, Piece, Standing};
use super::settings::{Settings, SettingsError};
use crate::node::{Life, NodeId};
use crate::session::SliceLoad;
use crate::sharder::{ClusterView, NodeRole, NodeView, Placement, Sharder};
use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// Operations per second and node that underlie what is reported, spread evenly over the key space.
pub const IDLE_OPERATIONS_PER_SECOND: f64 = 1_000.0;

/// What a hot key's entry is taken to have, in bytes: reports do not say.
const HOT_KEY_BYTES: f64 = 1_024.0;

/// Keeps nodes equally busy, by load and memory. See [`plan`](super::plan()).
#[derive(Clone, Debug)]
pub struct AutoSharder {
    settings: Settings,
}

impl Default for AutoSharder {
    /// Reports of the Assigner's nodes are averages over seconds: they are taken to waver by 2%.
    fn default() -> Self {
        Self {
            settings: Settings {
                noise: 0.02,
                slices_per_node_min: 1,
                churn_budget: 1.0,
                ..Settings::default()
            },
        }
    }
}

impl AutoSharder {
    /// With settings of one's own. Whatever they say, nothing is replicated.
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.validate()?;
        let settings = Settings {
            replicas_max: 1,
            ..settings
        };
        Ok(Self { settings })
    }
}

impl Sharder for AutoSharder {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let (cluster, names) = cluster_of(view);
        let plan = super::plan(&cluster, &self.settings);
        let ranges = plan.pieces.iter().map(|piece| {
            let owner = piece.owners.first().map_or(0, |owner| *owner as usize);
            (piece.slice, names[owner].clone())
        });
        let replicas = plan.pieces.iter().map(|piece| {
            let others = piece.owners.iter().skip(1);
            (
                piece.slice,
                others.map(|owner| names[*owner as usize].clone()).collect(),
            )
        });
        let placement = Placement::new(ranges.collect()).expect("the planner cuts and joins a complete map");
        placement.replicated(replicas.collect())
    }
}

/// The view as the planner takes it, and the nodes' names by index.
fn cluster_of(view: &ClusterView<'_>) -> (Cluster, Vec<NodeId>) {
    let idle = IDLE_OPERATIONS_PER_SECOND * view.nodes.len() as f64;
    let loads = parts(&view.loads, idle);
    let whole: f64 = loads.iter().map(|part| part.load).sum();
    let capacity = |node: &NodeView| node.capacity_bytes.max(1) as f64;
    let takers = || view.nodes.iter().filter(|node| node.role.may_take());
    let capacity_of_all: f64 = takers().map(capacity).sum();
    let mut index_of: BTreeMap<Life, NodeIndex> = BTreeMap::new();
    let (mut nodes, mut names) = (Vec::new(), Vec::new());
    for (index, node) in (0..).zip(&view.nodes) {
        index_of.insert(node.life.clone(), index);
        names.push(node.life.node.clone());
        nodes.push(Node {
            name: node.life.node.as_str().into(),
            capacity_load: whole * capacity(node) / capacity_of_all.max(1.0),
            capacity_bytes: node.capacity_bytes.max(1),
            zone: node.zone.clone(),
            standing: match node.role {
                NodeRole::Eligible => Standing::Eligible,
                NodeRole::Reserve => Standing::Reserve,
                NodeRole::Leaving => Standing::Leaving,
            },
        });
    }
    let ranges = view
        .previous
        .into_iter()
        .flat_map(|previous| previous.ranges().iter());
    let mut pieces = Vec::new();
    for (slice, range) in ranges {
        let holders = std::iter::once(&range.owner).chain(&range.readers.replicas);
        let owners = holders.map(|life| {
            *index_of.entry(life.clone()).or_insert_with(|| {
                names.push(life.node.clone());
                nodes.push(gone(life));
                NodeIndex::try_from(nodes.len() - 1).unwrap_or(NodeIndex::MAX)
            })
        });
        pieces.push(Piece {
            slice,
            owners: owners.collect(),
            is_pinned: !range.providers.is_empty(),
        });
    }
    let hot_keys = view.hot_keys.iter().map(|key| HotSpot {
        at: key.at,
        load: key.operations_per_second,
        bytes: HOT_KEY_BYTES,
    });
    let cluster = Cluster {
        nodes,
        pieces,
        loads,
        hot_keys: hot_keys.collect(),
    };
    (cluster, names)
}

/// A life that owns something and is not among the living.
fn gone(life: &Life) -> Node {
    Node {
        name: life.node.as_str().into(),
        capacity_load: 1.0,
        capacity_bytes: 1,
        zone: "".into(),
        standing: Standing::Dead,
    }
}

/// The reports, in order and complete, over an even load of `idle` operations per second. Where two reports overlap, the first
/// one counts.
fn parts(reports: &[SliceLoad], idle: f64) -> Vec<Part> {
    let mut reports: Vec<&SliceLoad> = reports.iter().collect();
    reports.sort_by_key(|report| (report.slice.low(), report.slice.last()));
    let part = |slice: Slice, load: f64, bytes: f64| {
        let idle = idle * slice.width() as f64 / Slice::FULL.width() as f64;
        let load = if load.is_finite() { load.max(0.0) } else { 0.0 };
        Part {
            slice,
            load: load + idle,
            bytes,
            hits: load,
        }
    };
    let mut parts = Vec::with_capacity(reports.len() + 1);
    let mut next = Some(SliceKey::MIN);
    for report in reports {
        let Some(from) = next else { break };
        let Some(kept) = Slice::between(report.slice.low().max(from), report.slice.last()) else {
            continue;
        };
        if let Some(gap) = Slice::new(from, Some(kept.low())) {
            parts.push(part(gap, 0.0, 0.0));
        }
        let of_it = kept.width() as f64 / report.slice.width() as f64;
        let (load, bytes) = (report.operations_per_second, report.bytes as f64);
        parts.push(part(kept, load * of_it, bytes * of_it));
        next = kept.high_excluded();
    }
    if let Some(from) = next
        && let Some(rest) = Slice::between(from, SliceKey::MAX)
    {
        parts.push(part(rest, 0.0, 0.0));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::{Generation, Incarnation};
    use crate::node::NodeState;
    use crate::sharder::{HotKey, conformance};
    use crate::{Assignment, RangeAssignment, Readers};

    fn nodes(capacities: &[u64]) -> Vec<NodeView> {
        let node = |(index, capacity): (usize, &u64)| NodeView {
            life: Life {
                node: NodeId::new(&format!("n{index}")).unwrap(),
                incarnation: Incarnation::new(1),
            },
            state: NodeState::Serving,
            capacity_bytes: capacity << 30,
            zone: "".into(),
            role: NodeRole::Eligible,
        };
        capacities.iter().enumerate().map(node).collect()
    }

    #[test]
    fn it_conforms() {
        assert_eq!(conformance::check(&AutoSharder::default()), Ok(()));
    }

    /// Plan: nothing is reported. A node of double capacity gets double the key space.
    #[test]
    fn an_idle_cluster_is_spread_by_capacity() {
        let view = ClusterView {
            previous: None,
            nodes: nodes(&[1, 2, 1]),
            loads: Vec::new(),
            hot_keys: Vec::new(),
        };
        let widths = AutoSharder::default().place(&view).widths();
        let share = |name: &str| {
            let width = widths[&NodeId::new(name).unwrap()];
            width as f64 / Slice::FULL.width() as f64
        };
        assert!((share("n0") - 0.25).abs() < 0.01, "{widths:?}");
        assert!((share("n1") - 0.5).abs() < 0.01, "{widths:?}");
    }

    /// Plan: a key draws as much as all else. It ends on a node that has little besides, and the same view gives nothing more to
    /// move.
    #[test]
    fn a_hot_key_ends_alone() {
        let nodes = nodes(&[1, 1, 1, 1]);
        let first = ClusterView {
            previous: None,
            nodes: nodes.clone(),
            loads: Vec::new(),
            hot_keys: Vec::new(),
        };
        let assignment = |placement: &Placement| {
            let ranges = placement.ranges().iter().map(|(slice, id)| {
                let owner = nodes.iter().find(|node| node.life.node == *id).unwrap();
                let range = RangeAssignment {
                    owner: owner.life.clone(),
                    since: Generation::NONE,
                    providers: Vec::new(),
                    readers: Readers::default(),
                };
                (*slice, range)
            });
            Assignment::new(Generation::NONE, ranges.collect(), BTreeMap::new()).unwrap()
        };
        let sharder = AutoSharder::default();
        let even = assignment(&sharder.place(&first));
        let at = SliceKey::of_key(b"the one");
        let report = |slice: Slice| SliceLoad {
            slice,
            operations_per_second: if slice.contains(at) { 130_000.0 } else { 30_000.0 },
            bytes: 1 << 28,
            ..SliceLoad::idle(slice)
        };
        let view = |previous| ClusterView {
            previous: Some(previous),
            nodes: nodes.clone(),
            loads: even.ranges().iter().map(|(slice, _)| report(slice)).collect(),
            hot_keys: vec![HotKey {
                at,
                operations_per_second: 100_000.0,
            }],
        };
        let placed = sharder.place(&view(&even));
        let host = placed.overlapping(Slice::single(at)).next().unwrap().1.clone();
        assert!(placed.widths()[&host] < Slice::FULL.width() / 20, "{placed:?}");
        let settled = assignment(&placed);
        assert_eq!(sharder.place(&view(&settled)), placed);
    }
}
