//! [`Work`]: the plan in the making. Who owns what so far, what each node bears so far, and the nodes in the order of what they
//! bear, all kept up to date by each change.
//!
//! Every step of the phases costs the pieces of the nodes that it touches and the logarithm of the number of nodes, never the
//! number of all pieces. Only what begins a round (weighing, summing) looks at each piece once.

use std::collections::BTreeSet;

use super::cluster::{Cluster, NodeIndex, Piece, Standing};
use super::density::{Density, Weight};
use super::plan::{Move, Plan, Reason};
use super::settings::Settings;
use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// A piece, by its place in [`Work::pieces`].
pub(super) type PieceIndex = usize;

/// A range on its way to its owners.
#[derive(Clone, Debug)]
pub(super) struct WorkPiece {
    pub(super) slice: Slice,
    pub(super) weight: Weight,
    /// Those that may keep it, primary first. Empty: an orphan.
    pub(super) owners: Vec<NodeIndex>,
    /// Whose it was, if it is an orphan.
    pub(super) former: Option<NodeIndex>,
    /// Its hand-off is on: it is not cut.
    pub(super) is_whole: bool,
    /// It stays where it is: its hand-off is on, or it was placed in this round.
    pub(super) is_settled: bool,
    /// Its hand-off was on before this round.
    is_pinned: bool,
    /// It was merged into a neighbour.
    pub(super) is_gone: bool,
    pub(super) previous: Option<PieceIndex>,
    pub(super) next: Option<PieceIndex>,
}

impl WorkPiece {
    /// What each of its owners bears of it.
    pub(super) fn load_each(&self) -> f64 {
        self.weight.load / self.owners.len().max(1) as f64
    }

    /// Whether a part of it can be cut off.
    pub(super) fn is_cuttable(&self) -> bool {
        !self.is_whole && self.owners.len() <= 1 && self.slice.width() > 1
    }
}

/// What a node bears so far.
#[derive(Clone, Debug)]
pub(super) struct WorkNode {
    pub(super) capacity_load: f64,
    pub(super) capacity_bytes: f64,
    pub(super) load: f64,
    pub(super) bytes: f64,
    pub(super) pieces: Vec<PieceIndex>,
    pub(super) standing: Standing,
    /// It is to bear its fair share.
    pub(super) shares: bool,
}

/// The plan in the making.
pub(super) struct Work<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) settings: &'a Settings,
    pub(super) density: Density,
    pub(super) nodes: Vec<WorkNode>,
    pub(super) pieces: Vec<WorkPiece>,
    /// The nodes that share, by load per capacity.
    order: BTreeSet<(u64, NodeIndex)>,
    /// Those that are left out of the order for now.
    aside: Vec<NodeIndex>,
    /// Capacity of all that share.
    capacity_load: f64,
    capacity_bytes: f64,
    sharing: usize,
    /// How many of `pieces` the cluster had: these lie in order.
    given: usize,
    alive: usize,
    /// Pieces that lost a replica and have others left, with whose it was.
    lost_replicas: Vec<(PieceIndex, NodeIndex)>,
    /// Bytes that balancing has moved in this round.
    churned_bytes: f64,
    /// How many pieces balancing has looked at.
    looks: u64,
    moves: Vec<Move>,
}

impl<'a> Work<'a> {
    pub(super) fn new(cluster: &'a Cluster, settings: &'a Settings) -> Self {
        let density = Density::new(&cluster.loads, &cluster.hot_keys);
        let nodes = cluster.nodes.iter().map(|node| WorkNode {
            capacity_load: node.capacity_load.max(f64::MIN_POSITIVE),
            capacity_bytes: node.capacity_bytes as f64,
            load: 0.0,
            bytes: 0.0,
            pieces: Vec::new(),
            standing: node.standing,
            shares: node.standing == Standing::Eligible,
        });
        let mut work = Self {
            cluster,
            settings,
            density,
            nodes: nodes.collect(),
            pieces: Vec::with_capacity(cluster.pieces.len() + 64),
            order: BTreeSet::new(),
            aside: Vec::new(),
            capacity_load: 0.0,
            capacity_bytes: 0.0,
            sharing: 0,
            given: 0,
            alive: 0,
            lost_replicas: Vec::new(),
            churned_bytes: 0.0,
            looks: 0,
            moves: Vec::new(),
        };
        work.take_pieces();
        work.count_sharing();
        work
    }

    fn take_pieces(&mut self) {
        for piece in &self.cluster.pieces {
            self.take_piece(piece);
        }
        if self.pieces.is_empty() {
            self.take_piece(&Piece {
                slice: Slice::FULL,
                owners: Vec::new(),
                is_pinned: false,
            });
        }
        let count = self.pieces.len();
        (self.given, self.alive) = (count, count);
        for index in 0..count {
            self.pieces[index].previous = index.checked_sub(1);
            self.pieces[index].next = (index + 1 < count).then_some(index + 1);
        }
    }

    fn take_piece(&mut self, piece: &Piece) {
        let may_keep = |owner: &&NodeIndex| {
            let node = self.nodes.get(**owner as usize);
            node.is_some_and(|node| matches!(node.standing, Standing::Eligible | Standing::Reserve))
        };
        let owners: Vec<NodeIndex> = piece.owners.iter().filter(may_keep).copied().collect();
        let weight = self.density.of(piece.slice);
        let index = self.pieces.len();
        let each = weight.load / owners.len().max(1) as f64;
        for &owner in &owners {
            let node = &mut self.nodes[owner as usize];
            node.load += each;
            node.bytes += weight.bytes;
            node.pieces.push(index);
            // A reserve that owns something is none any more.
            node.shares = true;
        }
        let known = |owner: &NodeIndex| (*owner as usize) < self.nodes.len();
        if !owners.is_empty() {
            let lost = piece
                .owners
                .iter()
                .filter(|owner| known(owner) && !owners.contains(owner));
            self.lost_replicas.extend(lost.map(|owner| (index, *owner)));
        }
        let is_pinned = piece.is_pinned && !owners.is_empty();
        self.pieces.push(WorkPiece {
            slice: piece.slice,
            weight,
            former: piece
                .owners
                .first()
                .copied()
                .filter(|owner| owners.is_empty() && known(owner)),
            is_whole: piece.is_pinned,
            is_settled: is_pinned,
            is_pinned: piece.is_pinned,
            owners,
            is_gone: false,
            previous: None,
            next: None,
        });
    }

    /// Where none but reserves are left, they share.
    fn count_sharing(&mut self) {
        if !self.nodes.iter().any(|node| node.shares) {
            for node in &mut self.nodes {
                node.shares = node.standing == Standing::Reserve;
            }
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].shares {
                self.count_in(index);
            }
        }
    }

    fn count_in(&mut self, index: usize) {
        let node = &self.nodes[index];
        self.capacity_load += node.capacity_load;
        self.capacity_bytes += node.capacity_bytes;
        self.sharing += 1;
        let key = self.key_of(index);
        self.order.insert(key);
    }

    /// From now on a reserve shares.
    pub(super) fn let_share(&mut self, node: NodeIndex) {
        if !std::mem::replace(&mut self.nodes[node as usize].shares, true) {
            self.count_in(node as usize);
        }
    }

    fn key_of(&self, index: usize) -> (u64, NodeIndex) {
        let node = &self.nodes[index];
        // Bits of floats that are not negative are in the order of the floats.
        let relative = (node.load / node.capacity_load).max(0.0);
        (
            relative.to_bits(),
            NodeIndex::try_from(index).unwrap_or(NodeIndex::MAX),
        )
    }

    // What is fair.

    /// How many nodes share.
    pub(super) fn sharing(&self) -> usize {
        self.sharing
    }

    /// Load per capacity, over all.
    pub(super) fn mean(&self) -> f64 {
        self.density.total().load / self.capacity_load.max(f64::MIN_POSITIVE)
    }

    /// What a node of mean capacity should bear.
    pub(super) fn fair_load_mean(&self) -> f64 {
        self.density.total().load / self.sharing.max(1) as f64
    }

    pub(super) fn fair_load(&self, node: NodeIndex) -> f64 {
        self.mean() * self.nodes[node as usize].capacity_load
    }

    /// What a tolerance of 1 is in load units, for this node.
    pub(super) fn unit(&self, node: NodeIndex) -> f64 {
        self.mean().max(1.0) * self.nodes[node as usize].capacity_load
    }

    /// The same for a node of mean capacity.
    pub(super) fn unit_mean(&self) -> f64 {
        self.mean().max(1.0) * self.capacity_load / self.sharing.max(1) as f64
    }

    /// Less load than this is not worth a step.
    pub(super) fn grain(&self, node: NodeIndex) -> f64 {
        self.unit(node) * 5e-4
    }

    /// How many bytes a node may hold.
    pub(super) fn bytes_max(&self, node: NodeIndex) -> f64 {
        let node = &self.nodes[node as usize];
        let fair = self.density.total().bytes * node.capacity_bytes / self.capacity_bytes.max(1.0);
        let tolerated = fair * (1.0 + self.settings.memory_tolerance);
        tolerated.max(node.capacity_bytes * self.settings.memory_free_below)
    }

    /// How much load all nodes are above their fair shares, if one bore this.
    fn excess(&self, node: NodeIndex, load: f64) -> f64 {
        (load - self.fair_load(node)).max(0.0)
    }

    // The order of the nodes.

    /// The nodes that share, the least loaded first.
    pub(super) fn coldest(&self) -> impl DoubleEndedIterator<Item = NodeIndex> {
        self.order.iter().map(|(_, node)| *node)
    }

    /// Leaves a node out of the order; it is not looked at again in this phase.
    pub(super) fn set_aside(&mut self, node: NodeIndex) {
        let key = self.key_of(node as usize);
        if self.order.remove(&key) {
            self.aside.push(node);
        }
    }

    /// Takes all that were set aside in again.
    pub(super) fn take_in_again(&mut self) {
        for node in std::mem::take(&mut self.aside) {
            let key = self.key_of(node as usize);
            self.order.insert(key);
        }
    }

    // The pieces.

    /// How many pieces there are.
    pub(super) fn piece_count(&self) -> usize {
        self.alive
    }

    /// The piece that holds a position.
    pub(super) fn piece_at(&self, position: SliceKey) -> PieceIndex {
        let mut index = self.pieces[..self.given]
            .partition_point(|piece| piece.slice.low() <= position)
            .saturating_sub(1);
        while self.pieces[index].is_gone {
            let Some(previous) = self.pieces[index].previous else {
                break;
            };
            index = previous;
        }
        while !self.pieces[index].slice.contains(position) {
            let Some(next) = self.pieces[index].next else {
                break;
            };
            index = next;
        }
        index
    }

    /// Cuts a piece before a position. Returns the part from there on; `None` if that is not inside.
    pub(super) fn split(&mut self, piece: PieceIndex, before: SliceKey) -> Option<PieceIndex> {
        let (low, high) = self.pieces[piece].slice.split_before(before)?;
        let index = self.pieces.len();
        let mut part = self.pieces[piece].clone();
        part.slice = high;
        part.weight = self.density.of(high);
        part.previous = Some(piece);
        if let Some(next) = part.next {
            self.pieces[next].previous = Some(index);
        }
        let left = &mut self.pieces[piece];
        left.next = Some(index);
        left.slice = low;
        left.weight = self.density.of(low);
        for owner in &part.owners {
            self.nodes[*owner as usize].pieces.push(index);
        }
        self.pieces.push(part);
        self.alive += 1;
        Some(index)
    }

    /// Joins a piece with its next neighbour of the same owners; the neighbour is gone.
    pub(super) fn merge_next(&mut self, piece: PieceIndex) {
        let Some(next) = self.pieces[piece].next else {
            return;
        };
        let (left, right) = (self.pieces[piece].slice, self.pieces[next].slice);
        let Some(joined) = Slice::between(left.low(), right.last()) else {
            return;
        };
        let after = self.pieces[next].next;
        for owner in self.pieces[next].owners.clone() {
            self.nodes[owner as usize].pieces.retain(|held| *held != next);
        }
        let weight = self.pieces[piece].weight.plus(self.pieces[next].weight, 1.0);
        let settled = self.pieces[next].is_settled;
        self.pieces[next].is_gone = true;
        self.pieces[next].previous = Some(piece);
        let kept = &mut self.pieces[piece];
        kept.slice = joined;
        kept.weight = weight;
        kept.is_settled |= settled;
        kept.next = after;
        if let Some(after) = after {
            self.pieces[after].previous = Some(piece);
        }
        self.alive -= 1;
    }

    /// Gives a piece other owners. Sums and order follow.
    pub(super) fn set_owners(&mut self, piece: PieceIndex, owners: Vec<NodeIndex>) {
        let before = std::mem::replace(&mut self.pieces[piece].owners, owners);
        let weight = self.pieces[piece].weight;
        let after = self.pieces[piece].owners.clone();
        for &owner in &before {
            let each = weight.load / before.len() as f64;
            self.bear(owner, -each, -weight.bytes);
            if !after.contains(&owner) {
                self.nodes[owner as usize].pieces.retain(|held| *held != piece);
            }
        }
        for &owner in &after {
            let each = weight.load / after.len() as f64;
            self.bear(owner, each, weight.bytes);
            if !before.contains(&owner) {
                self.nodes[owner as usize].pieces.push(piece);
            }
        }
    }

    fn bear(&mut self, node: NodeIndex, load: f64, bytes: f64) {
        let index = node as usize;
        let key = self.key_of(index);
        let was_in = self.order.remove(&key);
        let changed = &mut self.nodes[index];
        changed.load += load;
        changed.bytes += bytes;
        if was_in {
            let key = self.key_of(index);
            self.order.insert(key);
        }
    }

    // What a round may take.

    /// Balancing is about to look at so many pieces or nodes. Whether it may.
    pub(super) fn may_look_at(&mut self, count: usize) -> bool {
        self.looks = self.looks.saturating_add(count as u64);
        self.looks <= self.settings.looks_max
    }

    // Moves, and their price.

    /// What a pull of a piece costs: bytes, and hits that may be lost meanwhile.
    fn cost(&self, piece: PieceIndex) -> (f64, f64) {
        let weight = self.pieces[piece].weight;
        let seconds = weight.bytes / self.settings.pull_bytes_per_s;
        (weight.bytes, seconds * weight.hits)
    }

    /// How many load units less are in the wrong place when one replica of a piece moves.
    pub(super) fn gain(&self, piece: PieceIndex, from: NodeIndex, to: NodeIndex) -> f64 {
        let load = self.pieces[piece].load_each();
        let (giver, taker) = (self.nodes[from as usize].load, self.nodes[to as usize].load);
        self.excess(from, giver) - self.excess(from, giver - load) + self.excess(to, taker)
            - self.excess(to, taker + load)
    }

    /// Whether what a move costs is made up for in time, and within the budget.
    pub(super) fn is_worth(&self, piece: PieceIndex, gain_load: f64) -> bool {
        let (bytes, misses) = self.cost(piece);
        let budget = self.settings.churn_budget * self.density.total().bytes;
        let is_within = self.settings.churn_budget > 0.0 && self.churned_bytes + bytes <= budget;
        is_within && misses <= gain_load * self.settings.payback_s
    }

    /// How many bytes balancing may still move.
    pub(super) fn bytes_left(&self) -> f64 {
        self.settings.churn_budget * self.density.total().bytes - self.churned_bytes
    }

    /// Gives an orphan to a node.
    pub(super) fn place(&mut self, piece: PieceIndex, to: NodeIndex, reason: Reason) {
        let from = self.pieces[piece].former;
        let dead = from.is_none_or(|from| self.nodes[from as usize].standing == Standing::Dead);
        let (bytes, misses) = if dead { (0.0, 0.0) } else { self.cost(piece) };
        let load = self.nodes[to as usize].load;
        let gain_load = self.excess(to, load) - self.excess(to, load + self.pieces[piece].weight.load);
        self.record(piece, from, Some(to), reason, gain_load, (bytes, misses));
        self.set_owners(piece, vec![to]);
        // What nobody holds has no hand-off, and may be shared out further.
        self.pieces[piece].is_settled = !dead || self.pieces[piece].is_whole;
    }

    /// Moves one replica.
    pub(super) fn shift(&mut self, piece: PieceIndex, from: NodeIndex, to: NodeIndex, reason: Reason) {
        let gain = self.gain(piece, from, to);
        let cost = self.cost(piece);
        self.churned_bytes += cost.0;
        self.record(piece, Some(from), Some(to), reason, gain, cost);
        let mut owners = self.pieces[piece].owners.clone();
        for owner in &mut owners {
            if *owner == from {
                *owner = to;
            }
        }
        self.set_owners(piece, owners);
        self.pieces[piece].is_settled = true;
    }

    /// Pieces that lost a replica and have others left, with whose it was.
    pub(super) fn lost_replicas(&self) -> Vec<(PieceIndex, NodeIndex)> {
        self.lost_replicas.clone()
    }

    /// Adds a replica.
    pub(super) fn replicate(&mut self, piece: PieceIndex, to: NodeIndex, reason: Reason) {
        let before: f64 = self.excess_of(&self.pieces[piece].owners) + self.excess_of(&[to]);
        let cost = self.cost(piece);
        let from = self.pieces[piece].owners.first().copied();
        let mut owners = self.pieces[piece].owners.clone();
        owners.push(to);
        self.set_owners(piece, owners);
        let gain = before - self.excess_of(&self.pieces[piece].owners);
        if !reason.is_membership() {
            self.churned_bytes += cost.0;
        }
        self.record(piece, from, Some(to), reason, gain, cost);
    }

    /// Drops a replica.
    pub(super) fn dereplicate(&mut self, piece: PieceIndex, from: NodeIndex) {
        let before = self.excess_of(&self.pieces[piece].owners);
        let owners: Vec<NodeIndex> = self.pieces[piece]
            .owners
            .iter()
            .copied()
            .filter(|owner| *owner != from)
            .collect();
        self.set_owners(piece, owners);
        let gain = before - self.excess_of(&self.pieces[piece].owners) - self.excess_of(&[from]);
        self.record(piece, Some(from), None, Reason::Dereplicated, gain, (0.0, 0.0));
    }

    fn excess_of(&self, nodes: &[NodeIndex]) -> f64 {
        let of = |node: &NodeIndex| self.excess(*node, self.nodes[*node as usize].load);
        nodes.iter().map(of).sum()
    }

    /// Notes a change in which nothing moves.
    pub(super) fn note(&mut self, piece: PieceIndex, reason: Reason) {
        let owner = self.pieces[piece].owners.first().copied();
        self.record(piece, owner, owner, reason, 0.0, (0.0, 0.0));
    }

    fn record(
        &mut self,
        piece: PieceIndex,
        from: Option<NodeIndex>,
        to: Option<NodeIndex>,
        reason: Reason,
        gain_load: f64,
        (cost_bytes, cost_misses): (f64, f64),
    ) {
        self.moves.push(Move {
            slice: self.pieces[piece].slice,
            from,
            to,
            reason,
            gain_load,
            cost_bytes,
            cost_misses,
        });
    }

    /// Whether a key got or lost replicas in this round.
    pub(super) fn has_replicated(&self) -> bool {
        let is_such = |change: &Move| matches!(change.reason, Reason::Replicated | Reason::Dereplicated);
        self.moves.iter().any(is_such)
    }

    pub(super) fn finish(self) -> Plan {
        let mut pieces = Vec::with_capacity(self.alive);
        let mut next = Some(0);
        while let Some(index) = next {
            let piece = &self.pieces[index];
            let owners = match (piece.owners.is_empty(), piece.former) {
                (true, Some(former)) => vec![former],
                _ => piece.owners.clone(),
            };
            pieces.push(Piece {
                slice: piece.slice,
                owners,
                is_pinned: piece.is_pinned,
            });
            next = piece.next;
        }
        Plan {
            pieces,
            moves: self.moves,
        }
    }
}
