//! What must move because of who came and went: it goes first, and no budget holds it up.
//!
//! What a leaver had goes whole to a waiting reserve, if there is one: the one of its own name, else the largest. So in a rolling
//! restart each key moves once. What is left goes, the hottest first, to whoever bears least, cut so that nobody is filled
//! above the fair share.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::cluster::{NodeIndex, Standing};
use super::hot;
use super::plan::Reason;
use super::work::{PieceIndex, Work};

/// Of the least loaded nodes, so many are tried for one that has room in its memory.
const TAKERS_TRIED_MAX: usize = 16;

/// What nobody owns.
fn orphans(work: &Work<'_>) -> Vec<PieceIndex> {
    let is_orphan = |piece: &PieceIndex| {
        let piece = &work.pieces[*piece];
        piece.owners.is_empty() && !piece.is_gone
    };
    (0..work.pieces.len()).filter(is_orphan).collect()
}

/// Gives what a leaver had to a waiting reserve, whole.
pub(super) fn fill_reserves(work: &mut Work<'_>) {
    let (orphans, lost) = (orphans(work), work.lost_replicas());
    if orphans.is_empty() && lost.is_empty() {
        return;
    }
    let mut waiting: Vec<NodeIndex> = (0..)
        .zip(&work.nodes)
        .filter(|(_, node)| node.standing == Standing::Reserve && !node.shares)
        .map(|(index, _)| index)
        .collect();
    if waiting.is_empty() {
        return;
    }
    let mut leavers: BTreeMap<NodeIndex, (f64, Vec<PieceIndex>)> = BTreeMap::new();
    for piece in orphans {
        if let Some(former) = work.pieces[piece].former {
            let had = leavers.entry(former).or_default();
            had.0 += work.pieces[piece].weight.load;
            had.1.push(piece);
        }
    }
    for (piece, leaver) in &lost {
        leavers.entry(*leaver).or_default().0 += work.pieces[*piece].load_each();
    }
    let mut leavers: Vec<(NodeIndex, (f64, Vec<PieceIndex>))> = leavers.into_iter().collect();
    let name = |node: NodeIndex| &work.cluster.nodes[node as usize].name;
    let has_namesake = |leaver: NodeIndex| waiting.iter().any(|node| name(*node) == name(leaver));
    // Who comes back as itself takes what it had; of the others the most loaded first.
    leavers.sort_by(|left, right| {
        let by_load = right.1.0.total_cmp(&left.1.0).then(left.0.cmp(&right.0));
        has_namesake(right.0).cmp(&has_namesake(left.0)).then(by_load)
    });
    for (leaver, (_, pieces)) in leavers {
        let nodes = &work.cluster.nodes;
        let rank = |reserve: &NodeIndex| {
            let node = &nodes[*reserve as usize];
            let is_namesake = node.name == nodes[leaver as usize].name;
            (is_namesake, node.capacity_bytes, Reverse(*reserve))
        };
        let Some(reserve) = waiting.iter().copied().max_by_key(rank) else {
            return;
        };
        waiting.retain(|other| *other != reserve);
        work.let_share(reserve);
        for piece in pieces {
            work.place(piece, reserve, Reason::ReserveFill);
        }
        for (piece, _) in lost.iter().filter(|(_, whose)| *whose == leaver) {
            if !work.pieces[*piece].owners.contains(&reserve) {
                work.replicate(*piece, reserve, Reason::ReserveFill);
            }
        }
    }
}

/// Gives hot keys that nobody owns an owner, so that they can be replicated before all else is spread around them. Where nobody
/// has room for one, several share it; so do those that are left of a key's owners.
pub(super) fn place_hot_orphans(work: &mut Work<'_>) {
    for piece in orphans(work) {
        let this = &work.pieces[piece];
        if this.slice.width() == 1
            && let Some(to) = taker(work, this.weight.bytes)
        {
            let reason = reason(work, piece);
            work.place(piece, to, reason);
            hot::widen(work, piece);
        }
    }
    for (piece, _) in work.lost_replicas() {
        hot::widen(work, piece);
    }
}

/// Gives every orphan an owner, as far as there are nodes that may take.
pub(super) fn spread(work: &mut Work<'_>) {
    let mut left = orphans(work);
    let load = |work: &Work<'_>, piece: PieceIndex| work.pieces[piece].weight.load;
    // From the back: the hottest.
    left.sort_by(|a, b| load(work, *a).total_cmp(&load(work, *b)).then(b.cmp(a)));
    while let Some(piece) = left.pop() {
        let Some(to) = taker(work, work.pieces[piece].weight.bytes) else {
            return;
        };
        let room = work.fair_load(to) - work.nodes[to as usize].load;
        let over = load(work, piece) - room;
        let slack = work.unit(to) * work.settings.tolerance_low / 2.0;
        // Where all have their share already, there is nothing to cut for.
        if over > slack && room > work.grain(to) && work.pieces[piece].is_cuttable() {
            let slice = work.pieces[piece].slice;
            let cut = work.density.cut(slice, room, work.grain(to));
            if let Some(rest) = cut.and_then(|cut| work.split(piece, cut)) {
                left.push(rest);
            }
        }
        let reason = reason(work, piece);
        work.place(piece, to, reason);
    }
}

fn reason(work: &Work<'_>, piece: PieceIndex) -> Reason {
    match work.pieces[piece].former {
        Some(former) if work.nodes[former as usize].standing == Standing::Leaving => Reason::Drain,
        _ => Reason::LostNode,
    }
}

/// The least loaded node with room for so many bytes; if none of the first has it, the least loaded.
fn taker(work: &Work<'_>, bytes: f64) -> Option<NodeIndex> {
    let has_room = |node: &NodeIndex| work.nodes[*node as usize].bytes + bytes <= work.bytes_max(*node);
    let with_room = work.coldest().take(TAKERS_TRIED_MAX).find(has_room);
    with_room.or_else(|| work.coldest().next())
}
