//! How many slices there are: enough to measure load by, and not more than assignments should carry. Nothing moves for it.

use std::collections::BinaryHeap;

use super::plan::Reason;
use super::work::{PieceIndex, Work};
use crate::slice::Slice;

/// Pieces are not cut below a slot's width only to have more of them, unless there are to be more than slots.
const SLOT_WIDTH: u128 = 1 << 50;

/// Above the maximum, pieces are merged until there is room for this part of it.
const MERGED_PART: usize = 10;

/// Pieces of the same owner are merged only if they are cold: together at most this part of a node's fair load.
const MERGED_LOAD_MAX: f64 = 0.25;

/// Cuts the hottest pieces in half until there are enough.
pub(super) fn split_to_minimum(work: &mut Work<'_>) {
    let enough = work.settings.slices_per_node_min as usize * work.sharing();
    if work.piece_count() >= enough {
        return;
    }
    let narrowest = SLOT_WIDTH.min(Slice::FULL.width() / (8 * enough.max(1)) as u128);
    let mut heap: BinaryHeap<(u64, std::cmp::Reverse<PieceIndex>)> = BinaryHeap::new();
    let entry = |work: &Work<'_>, index: PieceIndex| {
        let piece = &work.pieces[index];
        let is_wide = !piece.is_gone && piece.is_cuttable() && piece.slice.width() > narrowest;
        let has_load = is_wide && piece.weight.load > 0.0;
        has_load.then(|| (piece.weight.load.to_bits(), std::cmp::Reverse(index)))
    };
    heap.extend((0..work.pieces.len()).filter_map(|index| entry(work, index)));
    while work.piece_count() < enough {
        let Some((_, std::cmp::Reverse(index))) = heap.pop() else {
            return;
        };
        let piece = &work.pieces[index];
        let half = piece.weight.load / 2.0;
        let Some(cut) = work.density.cut(piece.slice, half, half / 2.0) else {
            continue;
        };
        let Some(part) = work.split(index, cut) else {
            continue;
        };
        work.note(part, Reason::Split);
        heap.extend([entry(work, index), entry(work, part)].into_iter().flatten());
    }
}

/// Merges cold neighbours of the same owner while there are too many pieces.
pub(super) fn merge_to_maximum(work: &mut Work<'_>) {
    let most = work.settings.slices_per_node_max as usize * work.sharing();
    if work.piece_count() <= most {
        return;
    }
    let goal = most - most / MERGED_PART;
    let cold = work.fair_load_mean() * MERGED_LOAD_MAX;
    let together = |work: &Work<'_>, index: PieceIndex| {
        let piece = &work.pieces[index];
        let next = &work.pieces[piece.next?];
        let load = piece.weight.load + next.weight.load;
        let is_free = |index: PieceIndex| {
            let piece = &work.pieces[index];
            !piece.is_whole && piece.owners.len() == 1
        };
        let fits = !piece.is_gone && piece.owners == next.owners && load <= cold;
        (fits && is_free(index) && is_free(piece.next?)).then_some(load)
    };
    while work.piece_count() > goal {
        let mut pairs: Vec<(f64, PieceIndex)> = (0..work.pieces.len())
            .filter_map(|index| Some((together(work, index)?, index)))
            .collect();
        if pairs.is_empty() {
            return;
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // What was merged in this pass waits for the next one: its load has changed.
        for (load, index) in pairs {
            if work.piece_count() <= goal {
                return;
            }
            if together(work, index) == Some(load) {
                work.note(index, Reason::Merged);
                work.merge_next(index);
            }
        }
    }
}
