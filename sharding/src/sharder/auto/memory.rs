//! Memory: who holds too many bytes gives some away, the coldest for their bytes first, so that load stays where it is. Where the
//! taker has no room for the load, it gives less of the same load back.

use super::cluster::NodeIndex;
use super::plan::Reason;
use super::work::{PieceIndex, Work};

/// A giver is given up after so many steps.
const STEPS_PER_NODE_MAX: usize = 64;

/// A part of the wanted bytes that is worth a swap.
const SWAP_PART_MIN: f64 = 1.0 / 32.0;

/// Relieves the nodes that hold too many bytes.
pub(super) fn relieve(work: &mut Work<'_>) {
    let is_over = |node: &NodeIndex| work.nodes[*node as usize].bytes > work.bytes_max(*node);
    let givers: Vec<NodeIndex> = work.coldest().filter(is_over).collect();
    for giver in givers {
        for _ in 0..STEPS_PER_NODE_MAX {
            // Somewhat below the mark, so that growth does not bring it back at once.
            let excess = work.nodes[giver as usize].bytes - work.bytes_max(giver) * 0.98;
            if excess <= 0.0 || !relieve_once(work, giver, excess) {
                break;
            }
        }
    }
}

fn relieve_once(work: &mut Work<'_>, giver: NodeIndex, excess: f64) -> bool {
    let room = |node: NodeIndex| work.bytes_max(node) * 0.98 - work.nodes[node as usize].bytes;
    let taker = work
        .coldest()
        .filter(|node| *node != giver)
        .max_by(|a, b| room(*a).total_cmp(&room(*b)).then(b.cmp(a)));
    let Some(taker) = taker else { return false };
    let wanted = excess.min(room(taker));
    if wanted <= 0.0 {
        return false;
    }
    let pieces = |node: NodeIndex| work.nodes[node as usize].pieces.len();
    if !work.may_look_at(work.sharing() + pieces(giver) * pieces(taker)) {
        return false;
    }
    give(work, giver, taker, wanted)
        || swap(work, giver, taker, wanted)
        || swap_parts(work, giver, taker, wanted)
}

/// How much load a node may still be given.
fn load_room(work: &Work<'_>, node: NodeIndex) -> f64 {
    let most = work.fair_load(node) + work.unit(node) * work.settings.tolerance_high;
    most - work.nodes[node as usize].load
}

fn is_free(work: &Work<'_>, piece: PieceIndex, to: NodeIndex) -> bool {
    let piece = &work.pieces[piece];
    !piece.is_settled && !piece.owners.contains(&to) && piece.weight.bytes > 0.0
}

fn give(work: &mut Work<'_>, giver: NodeIndex, taker: NodeIndex, wanted: f64) -> bool {
    let room = load_room(work, taker);
    let density = |piece: PieceIndex| work.pieces[piece].load_each() / work.pieces[piece].weight.bytes;
    let fits = |piece: &PieceIndex| {
        let this = &work.pieces[*piece];
        let part = (wanted / this.weight.bytes).min(1.0);
        is_free(work, *piece, taker)
            && (this.weight.bytes <= wanted || this.is_cuttable())
            && this.load_each() * part <= room
    };
    let pieces = work.nodes[giver as usize].pieces.iter().copied();
    let coldest = pieces
        .filter(fits)
        .min_by(|a, b| density(*a).total_cmp(&density(*b)).then(a.cmp(b)));
    let Some(mut piece) = coldest else { return false };
    let weight = work.pieces[piece].weight;
    if weight.bytes > wanted {
        let kept = weight.load * (1.0 - wanted / weight.bytes);
        let cut = work
            .density
            .cut(work.pieces[piece].slice, kept, work.grain(giver));
        let Some(part) = cut.and_then(|cut| work.split(piece, cut)) else {
            return false;
        };
        if work.pieces[part].weight.bytes > wanted * 1.1 {
            work.merge_next(piece);
            return false;
        }
        piece = part;
    }
    shift(work, piece, giver, taker)
}

/// Memory has no gain in load: only the budget bounds it.
fn shift(work: &mut Work<'_>, piece: PieceIndex, giver: NodeIndex, taker: NodeIndex) -> bool {
    let is_within = work.pieces[piece].weight.bytes <= work.bytes_left();
    if is_within {
        work.shift(piece, giver, taker, Reason::OverMemory);
    }
    is_within
}

fn swap(work: &mut Work<'_>, giver: NodeIndex, taker: NodeIndex, wanted: f64) -> bool {
    let (there, back) = (load_room(work, taker), load_room(work, giver).max(0.0));
    let weight = |piece: PieceIndex| (work.pieces[piece].weight.bytes, work.pieces[piece].load_each());
    let mut best: Option<(f64, PieceIndex, PieceIndex)> = None;
    for &out in &work.nodes[giver as usize].pieces {
        for &home in &work.nodes[taker as usize].pieces {
            let ((out_bytes, out_load), (home_bytes, home_load)) = (weight(out), weight(home));
            let (bytes, load) = (out_bytes - home_bytes, out_load - home_load);
            let fits = bytes <= wanted && bytes > wanted * SWAP_PART_MIN && load <= there && -load <= back;
            let is_better = best.is_none_or(|(most, ..)| bytes > most);
            if fits && is_better && is_free(work, out, taker) && is_free(work, home, giver) {
                best = Some((bytes, out, home));
            }
        }
    }
    let Some((_, out, home)) = best else { return false };
    let bytes = weight(out).0 + weight(home).0;
    if bytes > work.bytes_left() {
        return false;
    }
    work.shift(out, giver, taker, Reason::OverMemory);
    work.shift(home, taker, giver, Reason::OverMemory);
    true
}

/// Exchanges parts of the same load: of what is coldest for its bytes, and of what is hottest for them at the taker.
fn swap_parts(work: &mut Work<'_>, giver: NodeIndex, taker: NodeIndex, wanted: f64) -> bool {
    let grain = work.grain(giver);
    let candidates = |work: &Work<'_>, from: NodeIndex, to: NodeIndex| -> Vec<(f64, PieceIndex)> {
        let fits = |piece: &PieceIndex| {
            let this = &work.pieces[*piece];
            is_free(work, *piece, to) && this.is_cuttable() && this.load_each() > grain
        };
        let pieces = work.nodes[from as usize].pieces.iter().copied().filter(fits);
        let bytes_per_load = |piece: PieceIndex| {
            let weight = work.pieces[piece].weight;
            (weight.bytes / weight.load, piece)
        };
        pieces.map(bytes_per_load).collect()
    };
    let by = |a: &(f64, PieceIndex), b: &(f64, PieceIndex)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
    let heavy = candidates(work, giver, taker).into_iter().max_by(by);
    let light = candidates(work, taker, giver).into_iter().min_by(by);
    let (Some((heavy_each, out)), Some((light_each, home))) = (heavy, light) else {
        return false;
    };
    if heavy_each <= light_each {
        return false;
    }
    let most = work.pieces[out].weight.load.min(work.pieces[home].weight.load);
    let load = (wanted / (heavy_each - light_each)).min(most);
    let (rest_out, rest_home) = (cut_off(work, out, load), cut_off(work, home, load));
    let (there, back) = (work.pieces[out].weight, work.pieces[home].weight);
    let gained = there.bytes - back.bytes;
    let is_useful = gained > wanted * SWAP_PART_MIN && gained <= wanted * 1.1;
    let keeps_load = (there.load - back.load).abs() <= 2.0 * grain;
    if !is_useful || !keeps_load || there.bytes + back.bytes > work.bytes_left() {
        for (piece, was_cut) in [(out, rest_out), (home, rest_home)] {
            if was_cut {
                work.merge_next(piece);
            }
        }
        return false;
    }
    work.shift(out, giver, taker, Reason::OverMemory);
    work.shift(home, taker, giver, Reason::OverMemory);
    true
}

/// Leaves about so much load to a piece and makes a piece of the rest, if there is a rest. Whether it did.
fn cut_off(work: &mut Work<'_>, piece: PieceIndex, load: f64) -> bool {
    let slice = work.pieces[piece].slice;
    let grain = work.pieces[piece]
        .owners
        .first()
        .map_or(0.0, |owner| work.grain(*owner));
    let cut = work.density.cut(slice, load, grain);
    cut.and_then(|cut| work.split(piece, cut)).is_some()
}
