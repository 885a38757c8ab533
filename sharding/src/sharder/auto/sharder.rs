//! [`AutoSharder`]: the planner as a [`Sharder`] of the Assigner.
//!
//! Neighbours of the same owner and replicas are one range of an assignment, but for hot keys: each has a range of its own, which
//! shows it, and can be moved and replicated by itself. Nodes do not say how much load they bear: each is taken to bear its part by capacity, so tolerances are those of
//! fair shares. A small even load underlies what is reported, so that an idle cluster is spread by key space, and a few
//! operations move nothing.

use std::collections::{BTreeMap, HashMap};

use super::cluster::{Cluster, HotSpot, Node, NodeIndex, Part, Piece, Standing};
use super::density::Density;
use super::plan::{Move, Reason};
use super::settings::{Settings, SettingsError};
use crate::node::{Life, NodeId};
use crate::session::SliceLoad;
use crate::sharder::{ClusterView, NodeRole, NodeView, PlacedMove, Placement, Sharder};
use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// Operations per second and node that underlie what is reported, spread evenly over the key space.
pub const IDLE_OPERATIONS_PER_SECOND: f64 = 100.0;

/// What a hot key's entry is taken to have, in bytes: reports do not say.
const HOT_KEY_BYTES: f64 = 1_024.0;

/// Keeps nodes equally busy, by load and memory. See [`plan`](super::plan()).
#[derive(Clone, Debug)]
pub struct AutoSharder {
    settings: Settings,
}

impl Default for AutoSharder {
    /// The Assigner's nodes report averages over seconds, and the Assigner smooths them: they are taken to waver by 5%, and a
    /// node may bear a tenth more than its share, since what is reported of one node may waver as a whole. How much is moved is
    /// the Assigner's setting ([`ClusterView::churn_max`]).
    fn default() -> Self {
        Self {
            settings: Settings {
                tolerance_high: 0.1,
                tolerance_low: 0.02,
                noise: 0.05,
                slices_per_node_min: 1,
                churn_budget: 1.0,
                replicas_max: 8,
                ..Settings::default()
            },
        }
    }
}

impl AutoSharder {
    /// With settings of one's own.
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.validate()?;
        Ok(Self { settings })
    }

    /// What it strives for.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Sharder for AutoSharder {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn reacts_to_load(&self) -> bool {
        true
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let (cluster, names) = cluster_of(view, IDLE_OPERATIONS_PER_SECOND);
        let settings = Settings {
            churn_budget: self.settings.churn_budget.min(view.churn_max.max(0.0)),
            ..self.settings.clone()
        };
        let plan = super::plan(&cluster, &settings);
        let name = |owner: &NodeIndex| names[*owner as usize].clone();
        let ranges = plan.pieces.iter().map(|piece| {
            let owner = piece.owners.first().unwrap_or(&0);
            (piece.slice, name(owner))
        });
        let replicas = plan.pieces.iter().map(|piece| {
            let others = piece.owners.iter().skip(1);
            (piece.slice, others.map(name).collect())
        });
        let own = plan.pieces.iter().filter(|piece| piece.slice.width() == 1);
        let isolated = own.map(|piece| piece.slice.low());
        let placement = Placement::new(ranges.collect())
            .expect("the planner cuts and joins a complete map")
            .replicated(replicas.collect())
            .isolating(isolated.collect());
        let told = plan.moves.iter().filter(|change| changes_something(change, view));
        let moves = told.map(|change| PlacedMove {
            slice: change.slice,
            from: change.from.as_ref().map(name),
            to: change.to.as_ref().map(name),
            reason: change.reason,
            gain: change.gain_load,
            cost_bytes: change.cost_bytes,
            cost_misses: change.cost_misses,
        });
        let moves = moves.collect();
        placement.because(moves)
    }
}

/// Whether a change is one of the assignment too. A cut between slices of the same owner is not, unless it gives a hot key a
/// range of its own, or takes that back.
fn changes_something(change: &Move, view: &ClusterView<'_>) -> bool {
    let has_own = || {
        let ranges = view.previous.map(|previous| previous.ranges());
        ranges.is_some_and(|ranges| ranges.get_with_slice(change.slice.low()).0 == change.slice)
    };
    match change.reason {
        Reason::HotKeyIsolated => !has_own(),
        Reason::Merged if change.slice.width() == 1 => has_own(),
        _ => change.from != change.to,
    }
}

/// How much more than its share by capacity the most loaded node bears, as a part of that share: 0 if all bear theirs. What
/// `placement` says, or with none what is held. Over the same even load that plans are made by, so that what is left of a load
/// that has ended is no imbalance, and an idle cluster's is that of its shares of the key space.
#[must_use]
pub fn imbalance(view: &ClusterView<'_>, placement: Option<&Placement>) -> f64 {
    let (cluster, names) = cluster_of(view, IDLE_OPERATIONS_PER_SECOND);
    let density = Density::new(&cluster.loads, &cluster.hot_keys);
    let index_of: BTreeMap<&NodeId, usize> = (0..view.nodes.len())
        .map(|index| (&names[index], index))
        .collect();
    let mut borne = vec![0.0; names.len()];
    let mut bear = |slice: Slice, owners: &[usize]| {
        let each = density.of(slice).load / owners.len().max(1) as f64;
        for owner in owners {
            borne[*owner] += each;
        }
    };
    match placement {
        Some(placement) => {
            for (slice, node) in placement.ranges() {
                for (part, replicas) in placement.replicas_in(*slice) {
                    let owners = std::iter::once(node).chain(replicas);
                    let owners: Vec<usize> = owners.filter_map(|node| index_of.get(node).copied()).collect();
                    bear(part, &owners);
                }
            }
        }
        None => {
            for piece in &cluster.pieces {
                let owners: Vec<usize> = piece.owners.iter().map(|owner| *owner as usize).collect();
                bear(piece.slice, &owners);
            }
        }
    }
    let living = cluster.nodes.iter().zip(&borne);
    let takers = living.filter(|(node, _)| matches!(node.standing, Standing::Eligible | Standing::Reserve));
    let relative = takers.map(|(node, borne)| borne / node.capacity_load.max(f64::MIN_POSITIVE) - 1.0);
    if density.total().load > 0.0 {
        relative.fold(0.0, f64::max)
    } else {
        0.0
    }
}

/// The view as the planner takes it, over an even load of `idle` operations per second and node; and the nodes' names by index.
fn cluster_of(view: &ClusterView<'_>, idle: f64) -> (Cluster, Vec<NodeId>) {
    let loads = parts(&view.loads, idle * view.nodes.len() as f64);
    let whole: f64 = loads.iter().map(|part| part.load).sum();
    let capacity = |node: &NodeView| node.capacity_bytes.max(1) as f64;
    let takers = || view.nodes.iter().filter(|node| node.role.may_take());
    let capacity_of_all: f64 = takers().map(capacity).sum();
    let mut index_of: HashMap<Life, NodeIndex> = HashMap::with_capacity(view.nodes.len());
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
        let owners = holders.map(|life| match index_of.get(life) {
            Some(&index) => index,
            None => *index_of.entry(life.clone()).or_insert_with(|| {
                names.push(life.node.clone());
                nodes.push(gone(life));
                NodeIndex::try_from(nodes.len() - 1).unwrap_or(NodeIndex::MAX)
            }),
        });
        pieces.push(Piece {
            slice,
            owners: owners.collect(),
            is_pinned: range.keeps_whole(),
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

/// The reports, in order and complete, over an even load of `idle` operations per second. What several report of the same range
/// is added up: replicas share its reads.
fn parts(reports: &[SliceLoad], idle: f64) -> Vec<Part> {
    let density = |load: &SliceLoad| {
        let number = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
        let width = load.slice.width() as f64;
        let (rate, hits) = (number(load.operations_per_second), number(load.hits_per_second));
        [rate / width, hits / width, load.bytes as f64 / width]
    };
    let mut reports: Vec<&SliceLoad> = reports.iter().collect();
    reports.sort_by_key(|report| report.slice.low());
    let mut reports = reports.into_iter().peekable();
    // Those that reach over the present position, and where each ends.
    let mut open: Vec<(SliceKey, [f64; 3])> = Vec::new();
    let mut parts = Vec::with_capacity(reports.len() + 1);
    let mut next = Some(SliceKey::MIN);
    while let Some(from) = next {
        while let Some(report) = reports.next_if(|report| report.slice.low() <= from) {
            open.push((report.slice.last(), density(report)));
        }
        open.retain(|(last, _)| *last >= from);
        let ends = open.iter().map(|(last, _)| *last);
        let before_next = reports
            .peek()
            .map(|report| SliceKey::new(report.slice.low().get() - 1));
        let last = ends.chain(before_next).fold(SliceKey::MAX, SliceKey::min);
        let Some(slice) = Slice::between(from, last) else {
            break;
        };
        let width = slice.width() as f64;
        // Summed anew each time: what is added and taken away again leaves digits behind.
        let [load, hits, bytes] = open.iter().fold([0.0; 3], |sum: [f64; 3], (_, each)| {
            std::array::from_fn(|index| sum[index] + each[index] * width)
        });
        parts.push(Part {
            slice,
            load: load + idle * width / Slice::FULL.width() as f64,
            bytes,
            hits,
        });
        next = slice.high_excluded();
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

    /// Plan: two nodes report one half, as the owner and the replica of a hot slice do; another one a quarter of that again.
    /// Everything counts, where it lies.
    #[test]
    fn what_several_report_is_added_up() {
        let slice = |low: u64, last: u64| Slice::between(SliceKey::new(low), SliceKey::new(last)).unwrap();
        let report = |slice, rate, bytes| SliceLoad {
            operations_per_second: rate,
            bytes,
            ..SliceLoad::idle(slice)
        };
        let half = 1_u64 << 63;
        let reports = [
            report(slice(0, half - 1), 100.0, 10),
            report(slice(0, half - 1), 60.0, 0),
            report(slice(half / 2, half - 1), 7.0, 0),
            report(Slice::single(SliceKey::new(5)), 900.0, 0),
        ];
        let parts = parts(&reports, 0.0);
        let load: f64 = parts.iter().map(|part| part.load).sum();
        assert!((load - 1_067.0).abs() < 1e-6, "{load}");
        let width: u128 = parts.iter().map(|part| part.slice.width()).sum();
        assert_eq!(width, Slice::FULL.width());
        let at = |position: u64| {
            let at = SliceKey::new(position);
            parts.iter().find(|part| part.slice.contains(at)).unwrap()
        };
        assert!((at(5).load - 900.0).abs() < 1e-6);
        assert!((at(half / 4).load - 80.0).abs() < 1e-6);
        assert!((at(half - 1).load - 87.0).abs() < 1e-6);
        assert_eq!(at(u64::MAX).load, 0.0);
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
            churn_max: 1.0,
        };
        let widths = AutoSharder::default().place(&view).widths();
        let share = |name: &str| {
            let width = widths[&NodeId::new(name).unwrap()];
            width as f64 / Slice::FULL.width() as f64
        };
        assert!((share("n0") - 0.25).abs() < 0.01, "{widths:?}");
        assert!((share("n1") - 0.5).abs() < 0.01, "{widths:?}");
    }

    /// Plan: a key draws as much as all else, and there are no replicas. It ends on a node that has little besides, and the same view gives nothing more to
    /// move.
    #[test]
    fn a_hot_key_ends_alone() {
        let nodes = nodes(&[1, 1, 1, 1]);
        let first = ClusterView {
            previous: None,
            nodes: nodes.clone(),
            loads: Vec::new(),
            hot_keys: Vec::new(),
            churn_max: 1.0,
        };
        let assignment = |placement: &Placement| {
            let ranges = placement.ranges().iter().map(|(slice, id)| {
                let owner = nodes.iter().find(|node| node.life.node == *id).unwrap();
                let range = RangeAssignment {
                    owner: owner.life.clone(),
                    since: Generation::NONE,
                    providers: Vec::new(),
                    readers: Readers::default(),
                    awaits: Vec::new(),
                };
                (*slice, range)
            });
            Assignment::new(Generation::NONE, ranges.collect(), BTreeMap::new()).unwrap()
        };
        let sharder = AutoSharder::new(Settings {
            replicas_max: 1,
            ..AutoSharder::default().settings
        });
        let sharder = sharder.unwrap();
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
            churn_max: 1.0,
        };
        let placed = sharder.place(&view(&even));
        let host = placed.overlapping(Slice::single(at)).next().unwrap().1.clone();
        assert!(placed.widths()[&host] < Slice::FULL.width() / 20, "{placed:?}");
        let settled = assignment(&placed);
        let again = sharder.place(&view(&settled));
        assert_eq!(again.ranges(), placed.ranges());
        assert!(again.is_as_held(&settled) && !placed.is_as_held(&even));
    }
}
