//! Hot keys: a key that draws much by itself gets a slice of its own; if it is more than one node should bear, replicas. Both are
//! taken back when it has cooled, at a lower mark than they were done at.

use super::cluster::NodeIndex;
use super::level;
use super::plan::Reason;
use super::work::{PieceIndex, Work};
use crate::slice_key::SliceKey;

/// A first replica takes half of a key's load with it, however little is too much of it. While that is more than so many times
/// what is too much, the key is left alone...
const CHURN_OVER_EXCESS: f64 = 1.5;

/// ...unless that is more than so many times the tolerance.
const EXCESS_BORNE: f64 = 4.0;

/// Cuts hot keys out of their pieces.
pub(super) fn isolate(work: &mut Work<'_>) {
    let least = work.settings.isolate_above * work.fair_load_mean();
    let mut spots: Vec<(SliceKey, f64)> = work.density.spots(least.max(f64::MIN_POSITIVE)).collect();
    // The fair load of a node bounds how many there can be.
    spots.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    for (at, _) in spots {
        let piece = work.piece_at(at);
        if !work.pieces[piece].is_cuttable() {
            continue;
        }
        let own = work.split(piece, at).unwrap_or(piece);
        if let Some(after) = at.next() {
            work.split(own, after);
        }
        work.note(own, Reason::HotKeyIsolated);
    }
}

/// Puts cooled keys back: each is merged with the piece before or after it. If that belongs to another node, it moves there; a
/// single key's bytes are nearly none.
pub(super) fn rejoin_cooled(work: &mut Work<'_>) {
    let cool = work.settings.isolate_above * work.settings.cool_below * work.fair_load_mean();
    let cooled: Vec<PieceIndex> = (0..work.pieces.len())
        .filter(|index| {
            let piece = &work.pieces[*index];
            let is_single = piece.slice.width() == 1 && piece.owners.len() == 1;
            is_single && !piece.is_settled && !piece.is_gone && piece.weight.load < cool
        })
        .collect();
    for piece in cooled {
        if work.pieces[piece].is_gone {
            continue;
        }
        let (before, after) = (work.pieces[piece].previous, work.pieces[piece].next);
        let owners = &work.pieces[piece].owners;
        let fits = |index: &PieceIndex| {
            let neighbour = &work.pieces[*index];
            !neighbour.is_whole && neighbour.owners.len() == 1 && neighbour.slice.width() > 1
        };
        let same = |index: &PieceIndex| work.pieces[*index].owners == *owners;
        let neighbours: Vec<PieceIndex> = before.into_iter().chain(after).filter(fits).collect();
        let chosen = neighbours
            .iter()
            .copied()
            .find(same)
            .or_else(|| neighbours.first().copied());
        let Some(neighbour) = chosen else { continue };
        let (from, to) = (owners[0], work.pieces[neighbour].owners[0]);
        if from == to {
            work.note(piece, Reason::Merged);
        } else if work.is_worth(piece, f64::MAX) {
            work.shift(piece, from, to, Reason::Merged);
            work.pieces[piece].is_settled = false;
        } else {
            continue;
        }
        let left = if Some(neighbour) == before {
            neighbour
        } else {
            piece
        };
        work.merge_next(left);
    }
}

/// Gives keys that are more than one node should bear replicas, and takes those of cooled ones back.
pub(super) fn replicate(work: &mut Work<'_>) {
    let fair = work.fair_load_mean();
    let slack = work.settings.tolerance_low * work.unit_mean();
    let noise = work.settings.noise;
    // In an idle cluster the tolerance is more than a fair share: no key is too much then.
    let bearable = work.settings.replicate_above * fair + slack;
    let is_too_much = |load: f64| {
        // What it is taken for may be a waver: replicas make room for more than they take, so all would follow.
        let excess = load * (1.0 - noise) - fair - slack;
        excess > EXCESS_BORNE * slack || excess * CHURN_OVER_EXCESS > load / 2.0
    };
    let limit = limit(work);
    for piece in 0..work.pieces.len() {
        let this = &work.pieces[piece];
        if this.is_gone || this.is_whole || this.owners.is_empty() {
            continue;
        }
        // Who has replicas has room made for it already, and one more takes less than the first one: a key that grows gets more as
        // soon as each has more than it should, by more than what it is taken for may waver.
        let has_outgrown = this.owners.len() > 1 && this.load_each() * (1.0 - noise) > bearable;
        if this.slice.width() == 1 && (has_outgrown || is_too_much(this.load_each())) {
            while work.pieces[piece].load_each() > bearable && work.pieces[piece].owners.len() < limit {
                let Some(to) = host(work, piece) else { break };
                work.replicate(piece, to, Reason::Replicated);
            }
            widen(work, piece);
        } else if this.owners.len() > 1 {
            let cool = bearable * work.settings.cool_below;
            drop_replicas(work, piece, cool, limit);
        }
    }
}

/// A key that is more than its node should bear, and that no replicas can make less, goes to a larger node.
pub(super) fn rehome(work: &mut Work<'_>) {
    let least = work.settings.isolate_above * work.fair_load_mean();
    let hot: Vec<PieceIndex> = (0..work.pieces.len())
        .filter(|index| {
            let piece = &work.pieces[*index];
            let is_single = piece.slice.width() == 1 && !piece.is_gone && !piece.is_whole;
            is_single && piece.owners.len() == 1 && piece.weight.load >= least
        })
        .collect();
    for piece in hot {
        let (owner, load) = (work.pieces[piece].owners[0], work.pieces[piece].weight.load);
        // Whatever wavers, a key on a node that is too small for it does not go to and fro: it costs nothing to move, too.
        if work.fair_load(owner) >= load || !level::is_above(work, owner) {
            continue;
        }
        if !work.may_look_at(work.sharing()) {
            return;
        }
        let over = |node: &NodeIndex| {
            let relative = load / work.nodes[*node as usize].capacity_load - work.mean();
            relative.max(0.0)
        };
        // Where several could bear it, the least loaded.
        let best = work.coldest().min_by(|a, b| over(a).total_cmp(&over(b)));
        let Some(best) = best else { return };
        let is_better = over(&best) + work.settings.tolerance_low < over(&owner);
        if is_better && work.is_worth(piece, f64::MAX) {
            work.shift(piece, owner, best, Reason::OverTolerance);
        }
    }
}

/// Gives a key more replicas while those that have it bear too much, and others have room. A replica of one key is nearly no
/// bytes; what would have to make room for it is many.
pub(super) fn widen(work: &mut Work<'_>, piece: PieceIndex) {
    while work.pieces[piece].owners.len() < limit(work) {
        let owners = &work.pieces[piece].owners;
        if owners.is_empty() || !owners.iter().any(|owner| room(work, *owner) < 0.0) {
            return;
        }
        let Some(to) = host(work, piece).filter(|to| room(work, *to) > work.grain(*to)) else {
            return;
        };
        work.replicate(piece, to, Reason::Replicated);
    }
}

/// Most replicas of a key.
fn limit(work: &Work<'_>) -> usize {
    (work.settings.replicas_max as usize).min(work.sharing())
}

/// How much more a node may bear before it is above the low mark.
fn room(work: &Work<'_>, node: NodeIndex) -> f64 {
    let low = work.fair_load(node) + work.settings.tolerance_low * work.unit(node) + work.grain(node);
    low - work.nodes[node as usize].load
}

/// The least loaded node that has it not, in a zone that has it not if there is one among the colder half.
fn host(work: &Work<'_>, piece: PieceIndex) -> Option<NodeIndex> {
    let owners = &work.pieces[piece].owners;
    let zone = |node: NodeIndex| &work.cluster.nodes[node as usize].zone;
    let has_zone = |node: &NodeIndex| owners.iter().any(|owner| zone(*owner) == zone(*node));
    let free = || work.coldest().filter(|node| !owners.contains(node));
    let colder = work.sharing() / 2 + 1;
    let elsewhere = free().take(colder).find(|node| !has_zone(node));
    elsewhere.or_else(|| free().next())
}

/// Drops replicas, those of the most loaded nodes first, while those that are left bear it coolly and have room for it.
fn drop_replicas(work: &mut Work<'_>, piece: PieceIndex, cool: f64, limit: usize) {
    loop {
        let this = &work.pieces[piece];
        let count = this.owners.len();
        let is_cool = count > 1 && this.weight.load / (count - 1) as f64 <= cool;
        if count <= limit.max(1) && !is_cool {
            return;
        }
        let load = |node: &NodeIndex| {
            let node = &work.nodes[*node as usize];
            node.load / node.capacity_load
        };
        // Never the primary: it is the one that takes writes.
        let hottest = this.owners[1..]
            .iter()
            .copied()
            .max_by(|a, b| load(a).total_cmp(&load(b)).then(b.cmp(a)));
        let Some(hottest) = hottest else { return };
        let more = this.weight.load / (count - 1) as f64 - this.load_each();
        let mut left = this.owners.iter().filter(|owner| **owner != hottest);
        if count <= limit.max(1) && left.any(|owner| room(work, *owner) < more) {
            return;
        }
        work.dereplicate(piece, hottest);
    }
}
