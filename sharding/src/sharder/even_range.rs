//! [`EvenRange`]: each node owns a part of the key space in proportion to its capacity, and as little as possible moves.
//!
//! - First: one contiguous range per node, cut on slot borders, so that any Redis Cluster client can route to it.
//! - What a leaving (draining or dead) node owns goes whole to a reserve node if one waits, so that in a rolling restart
//!   with a surge node each key moves once. Without one it is spread over the others so that all end even.
//! - Otherwise ranges move only when some node's part is off its share by more than [`TOLERANCE_SLOTS`], and then only
//!   what is over at one node goes to where it lacks.
//! - Moves prefer whole ranges, then the end of a range beside the taker's own, and cut on slot borders where a range
//!   has one, so that the number of ranges stays low over many restarts.
//! - Ranges whose hand-off is on stay (or, their owner leaving, move whole), and count in their owner's share.
//!
//! Shares are those of the key space, not of load: the mapping to SliceKeys is a hash.

use std::collections::{BTreeMap, BTreeSet};

use super::{ClusterView, NodeRole, NodeView, NodesByName, Placement, Sharder};
use crate::node::{Life, NodeId};
use crate::slice::Slice;
use crate::slice_key::{SLOT_COUNT, SliceKey};

/// A node's part may differ from its share by this many slots (0.01% of the key space) before anything moves.
pub const TOLERANCE_SLOTS: u32 = 2;

/// Positions in the key space.
const SPACE: i128 = 1 << 64;

/// Positions in one slot.
const SLOT_WIDTH: i128 = SPACE / SLOT_COUNT as i128;

/// Less than this is not worth a move: cuts fall on the nearest slot border.
const GRAIN: i128 = SLOT_WIDTH / 2;

/// Capacity-weighted even ranges with minimal movement.
#[derive(Clone, Copy, Debug, Default)]
pub struct EvenRange;

impl Sharder for EvenRange {
    fn name(&self) -> &'static str {
        "even"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let mut plan = Plan::of(view);
        plan.fill_reserves();
        plan.spread_orphans();
        plan.level();
        plan.finish()
    }
}

/// A range on its way to its place.
#[derive(Clone, Debug)]
struct Piece {
    slice: Slice,
    place: Place,
    /// Its hand-off is on: it is not cut.
    whole: bool,
    /// Someone living holds its entries: once it has moved, its hand-off is on.
    warm: bool,
    /// It stays where it is.
    fixed: bool,
}

/// Who is to own a piece, so far.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// A node that may take, by its index.
    Taker(usize),
    /// Nobody: this owner leaves.
    Orphan(Life),
}

impl Piece {
    fn width(&self) -> i128 {
        // At most 2^64.
        self.slice.width().cast_signed()
    }

    /// Gives it to a node. What is warm stays there, since its hand-off begins; what is cold may be shared out further, unless it
    /// is not to be cut: that might go to and fro for ever.
    fn settle_with(&mut self, taker: usize) {
        self.place = Place::Taker(taker);
        self.fixed = self.warm || self.whole;
    }

    fn is_orphan(&self) -> bool {
        matches!(self.place, Place::Orphan(_))
    }

    fn is_movable_from(&self, giver: usize) -> bool {
        self.place == Place::Taker(giver) && !self.fixed
    }
}

/// The placement in the making.
struct Plan<'a> {
    takers: Vec<&'a NodeView>,
    /// Reserves that have been given nothing: they take no part in the sharing. Indices into `takers`.
    waiting: BTreeSet<usize>,
    /// In order and complete.
    pieces: Vec<Piece>,
}

impl<'a> Plan<'a> {
    fn of(view: &'a ClusterView<'_>) -> Self {
        let takers: Vec<&NodeView> = view.nodes.iter().filter(|node| node.role.may_take()).collect();
        let index_of: BTreeMap<&Life, usize> = takers
            .iter()
            .enumerate()
            .map(|(index, node)| (&node.life, index))
            .collect();
        let ranges = view
            .previous
            .into_iter()
            .flat_map(|previous| previous.ranges().iter());
        let nodes = NodesByName::of(view);
        let mut pieces: Vec<Piece> = ranges
            .map(|(slice, range)| Piece {
                slice,
                place: match index_of.get(&range.owner) {
                    Some(&index) => Place::Taker(index),
                    None => Place::Orphan(range.owner.clone()),
                },
                whole: range.keeps_whole(),
                warm: !range.providers.is_empty() || nodes.node(&range.owner).is_some(),
                fixed: nodes.is_pinned(range),
            })
            .collect();
        if pieces.is_empty() {
            pieces = first_pieces(&takers);
        }
        let owns = |index: usize| pieces.iter().any(|piece| piece.place == Place::Taker(index));
        let waits = |index: &usize| takers[*index].role == NodeRole::Reserve && !owns(*index);
        let waiting = (0..takers.len()).filter(waits).collect();
        Self {
            takers,
            waiting,
            pieces,
        }
    }

    /// Pairs leaving owners, the widest first, with waiting reserves: one of the same name if there is one, else the
    /// largest.
    fn fill_reserves(&mut self) {
        let mut leaving: BTreeMap<Life, i128> = BTreeMap::new();
        for piece in &self.pieces {
            if let Place::Orphan(life) = &piece.place {
                *leaving.entry(life.clone()).or_default() += piece.width();
            }
        }
        let mut leaving: Vec<(Life, i128)> = leaving.into_iter().collect();
        leaving.sort_by_key(|(_, width)| std::cmp::Reverse(*width));
        for (life, _) in leaving {
            let rank = |index: &&usize| {
                let node = self.takers[**index];
                (
                    node.life.node == life.node,
                    node.capacity_bytes,
                    std::cmp::Reverse(**index),
                )
            };
            let Some(&reserve) = self.waiting.iter().max_by_key(rank) else {
                return;
            };
            self.waiting.remove(&reserve);
            for piece in &mut self.pieces {
                if piece.place == Place::Orphan(life.clone()) {
                    piece.settle_with(reserve);
                }
            }
        }
    }

    /// Gives away what is left without an owner, to whoever lacks most.
    fn spread_orphans(&mut self) {
        let targets = self.targets();
        if targets.is_empty() {
            return;
        }
        let mut lacks = self.lacks(&targets);
        while self.pieces.iter().any(Piece::is_orphan) {
            let Some((&taker, &lack)) = lacks
                .iter()
                .max_by_key(|(index, lack)| (**lack, std::cmp::Reverse(**index)))
            else {
                return;
            };
            let given = self.give(taker, lack.max(SLOT_WIDTH), Piece::is_orphan);
            lacks.insert(taker, lack - given);
        }
    }

    /// Moves what is over to where it lacks, if any node is off by more than the tolerance.
    fn level(&mut self) {
        let targets = self.targets();
        let mut lacks = self.lacks(&targets);
        let tolerance = i128::from(TOLERANCE_SLOTS) * SLOT_WIDTH;
        if lacks.values().all(|lack| lack.abs() <= tolerance) {
            return;
        }
        loop {
            let neediest = lacks
                .iter()
                .max_by_key(|(index, lack)| (**lack, std::cmp::Reverse(**index)));
            let fullest = lacks.iter().min_by_key(|(index, lack)| (**lack, **index));
            let (Some((&taker, &lack)), Some((&giver, &surplus))) = (neediest, fullest) else {
                return;
            };
            let need = lack.min(-surplus);
            if need <= GRAIN {
                return;
            }
            let given = self.give(taker, need, |piece| piece.is_movable_from(giver));
            if given == 0 {
                // All it owns is on the move already.
                lacks.remove(&giver);
                continue;
            }
            lacks.insert(taker, lack - given);
            lacks.insert(giver, surplus + given);
        }
    }

    fn finish(self) -> Placement {
        let node_of = |place: &Place| -> NodeId {
            match place {
                Place::Taker(index) => self.takers[*index].life.node.clone(),
                Place::Orphan(life) => life.node.clone(),
            }
        };
        let ranges = self
            .pieces
            .iter()
            .map(|piece| (piece.slice, node_of(&piece.place)))
            .collect();
        Placement::new(ranges).expect("the pieces were cut from a complete map and lie in order")
    }

    /// What each node that shares should own. A node that must keep more than its share keeps that, and the others share
    /// the rest.
    fn targets(&self) -> BTreeMap<usize, i128> {
        let mut sharing: BTreeMap<usize, i128> = (0..self.takers.len())
            .filter(|index| !self.waiting.contains(index))
            .map(|index| (index, 0))
            .collect();
        for piece in self.pieces.iter().filter(|piece| piece.fixed) {
            if let Place::Taker(index) = piece.place
                && let Some(kept) = sharing.get_mut(&index)
            {
                *kept += piece.width();
            }
        }
        let mut targets = BTreeMap::new();
        loop {
            let left = SPACE - targets.values().sum::<i128>();
            let shares = shares(
                sharing
                    .keys()
                    .map(|index| (*index, self.takers[*index].capacity_bytes)),
                left,
            );
            let full: Vec<(usize, i128)> = sharing
                .iter()
                .filter(|(index, kept)| shares.get(index).is_some_and(|share| *kept > share))
                .map(|(index, kept)| (*index, *kept))
                .collect();
            if full.is_empty() {
                targets.extend(shares);
                return targets;
            }
            for (index, kept) in full {
                sharing.remove(&index);
                targets.insert(index, kept);
            }
        }
    }

    /// What each node lacks of its target; negative: what it has too much.
    fn lacks(&self, targets: &BTreeMap<usize, i128>) -> BTreeMap<usize, i128> {
        let mut lacks = targets.clone();
        for piece in &self.pieces {
            if let Place::Taker(index) = piece.place
                && let Some(lack) = lacks.get_mut(&index)
            {
                *lack -= piece.width();
            }
        }
        lacks
    }

    /// Gives `taker` one piece of about `need` positions, or a smaller whole one, from those that `from` allows. Returns
    /// how many positions that was; 0 if there is nothing to give.
    fn give(&mut self, taker: usize, need: i128, from: impl Fn(&Piece) -> bool) -> i128 {
        let candidates: Vec<usize> = (0..self.pieces.len())
            .filter(|index| from(&self.pieces[*index]))
            .collect();
        let width = |index: usize| self.pieces[index].width();
        let beside = |index: usize| self.is_beside(index, taker);
        let lowest = std::cmp::Reverse::<usize>;

        let fitting = candidates
            .iter()
            .copied()
            .filter(|&index| (width(index) - need).abs() <= GRAIN);
        let smaller = candidates.iter().copied().filter(|&index| width(index) < need);
        let cuttable = candidates
            .iter()
            .copied()
            .filter(|&index| !self.pieces[index].whole && width(index) > need);
        let chosen = if let Some(index) = fitting.max_by_key(|&index| (beside(index), lowest(index))) {
            index
        } else if let Some(index) = cuttable.clone().find(|&index| beside(index)) {
            let at_high_end = self.owner_is(index + 1, taker);
            self.cut(index, need, at_high_end)
        } else if let Some(index) = smaller.max_by_key(|&index| (width(index), beside(index), lowest(index)))
        {
            index
        } else if let Some(index) = cuttable.max_by_key(|&index| (width(index), lowest(index))) {
            self.cut(index, need, true)
        } else if let Some(index) = candidates.iter().copied().min_by_key(|&index| width(index)) {
            index
        } else {
            return 0;
        };
        self.pieces[chosen].settle_with(taker);
        self.pieces[chosen].width()
    }

    fn owner_is(&self, index: usize, taker: usize) -> bool {
        self.pieces
            .get(index)
            .is_some_and(|piece| piece.place == Place::Taker(taker))
    }

    fn is_beside(&self, index: usize, taker: usize) -> bool {
        self.owner_is(index + 1, taker) || (index > 0 && self.owner_is(index - 1, taker))
    }

    /// Cuts about `amount` positions off an end of a wider piece, on a slot border if one is near. Returns the index of
    /// what was cut off.
    fn cut(&mut self, index: usize, amount: i128, at_high_end: bool) -> usize {
        let slice = self.pieces[index].slice;
        let (low, end) = (i128::from(slice.low().get()), i128::from(slice.last().get()) + 1);
        let exact = if at_high_end { end - amount } else { low + amount };
        let border = (exact + GRAIN) / SLOT_WIDTH * SLOT_WIDTH;
        let at = if low < border && border < end {
            border
        } else {
            exact
        };
        let Some((left, right)) = u64::try_from(at)
            .ok()
            .and_then(|at| slice.split_before(SliceKey::new(at)))
        else {
            return index;
        };
        let mut rest = self.pieces[index].clone();
        rest.slice = right;
        self.pieces[index].slice = left;
        self.pieces.insert(index + 1, rest);
        if at_high_end { index + 1 } else { index }
    }
}

/// `total` positions in proportion to the weights, in whole slots as far as `total` is.
fn shares(weights: impl Iterator<Item = (usize, u64)>, total: i128) -> BTreeMap<usize, i128> {
    let weights: Vec<(usize, u64)> = weights.collect();
    // Scaled to 32 bits at most, so that a product with the key space fits; a node without capacity weighs least.
    let widest = weights.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
    let shift = 32_u32.saturating_sub(widest.leading_zeros());
    let scaled = |weight: u64| i128::from((weight >> shift).max(1));
    let sum: i128 = weights.iter().map(|(_, weight)| scaled(*weight)).sum();
    let (mut before, mut given) = (0, 0);
    let mut shares = BTreeMap::new();
    for (place, (index, weight)) in weights.iter().enumerate() {
        before += scaled(*weight);
        let exact = total * before / sum;
        let is_last = place + 1 == weights.len();
        let until = if is_last {
            total
        } else {
            (exact + GRAIN) / SLOT_WIDTH * SLOT_WIDTH
        };
        let until = until.clamp(given, total);
        shares.insert(*index, until - given);
        given = until;
    }
    shares
}

/// One contiguous range per node, in the order of the nodes.
fn first_pieces(takers: &[&NodeView]) -> Vec<Piece> {
    let weights = takers
        .iter()
        .enumerate()
        .map(|(index, node)| (index, node.capacity_bytes));
    let mut from: i128 = 0;
    let mut pieces = Vec::new();
    for (index, share) in shares(weights, SPACE) {
        let until = from + share;
        let bounds = (u64::try_from(from), u64::try_from(until - 1));
        if let (true, (Ok(low), Ok(last))) = (share > 0, bounds)
            && let Some(slice) = Slice::between(SliceKey::new(low), SliceKey::new(last))
        {
            pieces.push(Piece {
                slice,
                place: Place::Taker(index),
                whole: false,
                warm: false,
                fixed: false,
            });
        }
        from = until;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::assignment::{Assignment, Provider, RangeAssignment, Readers};
    use crate::generation::{Generation, Incarnation};
    use crate::node::NodeState;

    fn node(name: &str, capacity_bytes: u64, role: NodeRole) -> NodeView {
        NodeView {
            life: Life {
                node: NodeId::new(name).unwrap(),
                incarnation: Incarnation::new(1),
            },
            state: NodeState::Serving,
            capacity_bytes,
            zone: "".into(),
            role,
        }
    }

    fn place(previous: Option<&Assignment>, nodes: &[NodeView]) -> Placement {
        let view = ClusterView {
            previous,
            nodes: nodes.to_vec(),
            loads: Vec::new(),
            hot_keys: Vec::new(),
            churn_max: 1.0,
        };
        let placement = EvenRange.place(&view);
        assert_eq!(placement.check(&view), Ok(()));
        placement
    }

    fn assignment_of(placement: &Placement, nodes: &[NodeView]) -> Assignment {
        let ranges = placement.ranges().iter().map(|(slice, id)| {
            let owner = nodes
                .iter()
                .find(|node| node.life.node == *id)
                .unwrap()
                .life
                .clone();
            let range = RangeAssignment {
                owner,
                since: Generation::NONE,
                providers: Vec::new(),
                readers: Readers::default(),
                awaits: Vec::new(),
            };
            (*slice, range)
        });
        Assignment::new(Generation::NONE, ranges.collect(), BTreeMap::new()).unwrap()
    }

    /// Plan: half of the space is a dead node's, and is not to be cut, since what a silent life held of it is awaited. It is given away
    /// once, and not to and fro for ever.
    #[test]
    fn what_is_not_to_be_cut_is_given_away_once() {
        let life = |name: &str| node(name, 1, NodeRole::Eligible).life;
        let range = |owner: &str, awaits: &[&str]| RangeAssignment {
            owner: life(owner),
            since: Generation {
                number: 2,
                assigner: Incarnation::new(9),
            },
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: awaits
                .iter()
                .map(|name| Provider {
                    life: life(name),
                    since: Generation::NONE,
                })
                .collect(),
        };
        let half = SliceKey::new(1 << 63);
        let slices = Slice::FULL.split_before(half).unwrap();
        let ranges = vec![(slices.0, range("dead", &["away"])), (slices.1, range("a", &[]))];
        let generation = range("a", &[]).since;
        let previous = Assignment::new(generation, ranges, BTreeMap::new()).unwrap();
        let nodes = ["a", "b", "c"].map(|name| node(name, 1 << 30, NodeRole::Eligible));
        let placement = place(Some(&previous), &nodes);
        assert!(placement.ranges().iter().any(|(slice, _)| *slice == slices.0));
    }

    fn slots(placement: &Placement, name: &str) -> i128 {
        let width = placement
            .widths()
            .get(&NodeId::new(name).unwrap())
            .copied()
            .unwrap_or(0);
        width.cast_signed() / SLOT_WIDTH
    }

    #[test]
    fn first_ranges_follow_capacity_and_slot_borders() {
        let nodes = [
            node("a", 2 << 30, NodeRole::Eligible),
            node("b", 1 << 30, NodeRole::Eligible),
            node("c", 1 << 30, NodeRole::Eligible),
        ];
        let placement = place(None, &nodes);
        assert_eq!(placement.ranges().len(), 3);
        assert!(
            placement
                .ranges()
                .iter()
                .all(|(slice, _)| slice.low().is_slot_border())
        );
        assert_eq!(
            ["a", "b", "c"].map(|name| slots(&placement, name)),
            [8_192, 4_096, 4_096]
        );
        // Capacities without bound, or none at all, are shares like any other.
        let odd = place(
            None,
            &[
                node("a", u64::MAX, NodeRole::Eligible),
                node("b", u64::MAX / 3, NodeRole::Eligible),
            ],
        );
        assert_eq!(slots(&odd, "a"), 12_288);
        let none = place(
            None,
            &[node("a", 0, NodeRole::Eligible), node("b", 0, NodeRole::Eligible)],
        );
        assert_eq!(slots(&none, "a"), 8_192);
    }

    /// Plan: two nodes a few slots off even. Within the tolerance nothing moves; beyond it, just what is over.
    #[test]
    fn small_differences_are_left_alone() {
        let nodes = [node("a", 1, NodeRole::Eligible), node("b", 1, NodeRole::Eligible)];
        let at = |slots: u64| {
            let cut = SliceKey::new(slots << 50);
            let (low, high) = Slice::FULL.split_before(cut).unwrap();
            let held = vec![
                (low, nodes[0].life.node.clone()),
                (high, nodes[1].life.node.clone()),
            ];
            place(
                Some(&assignment_of(&Placement::new(held).unwrap(), &nodes)),
                &nodes,
            )
        };
        assert_eq!(slots(&at(8_192 + 2), "a"), 8_194);
        assert_eq!(slots(&at(8_192 - 2), "a"), 8_190);
        assert_eq!(slots(&at(8_192 + 3), "a"), 8_192);
        assert_eq!(
            at(12_000).ranges().len(),
            2,
            "the end beside the taker's own range moved"
        );
    }

    /// Plan: ten nodes, each with one range; one leaves. Its range is cut among nine, nothing else moves, and each ends with
    /// a ninth.
    #[test]
    fn a_leavers_range_is_spread_evenly() {
        let mut nodes: Vec<NodeView> = (0..10)
            .map(|number| node(&format!("n{number}"), 1, NodeRole::Eligible))
            .collect();
        let before = place(None, &nodes);
        let held = assignment_of(&before, &nodes);
        nodes[4].role = NodeRole::Leaving;
        let after = place(Some(&held), &nodes);
        for (slice, owner) in before
            .ranges()
            .iter()
            .filter(|(_, owner)| *owner != nodes[4].life.node)
        {
            assert!(after.overlapping(*slice).all(|(_, now)| now == owner));
        }
        for number in (0..10).filter(|number| *number != 4) {
            assert!((slots(&after, &format!("n{number}")) - 16_384 / 9).abs() <= 1);
        }
        assert!(
            after
                .ranges()
                .iter()
                .all(|(slice, _)| slice.low().is_slot_border())
        );
        assert!(after.ranges().len() <= 9 + 9);
    }
}
