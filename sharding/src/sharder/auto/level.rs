//! Load: who bears too much gives to who bears least, and who bears too little is given.
//!
//! Loads are known and pieces can be cut, so levelling needs no search. The excess of a node is a number; one piece of just that
//! load, or one cut to it, brings it where it should be, and no taker is filled above its fair share. So what moves is the
//! excess and no more. A node is relieved only above the high mark, and then down to the low one: what wavers between the two
//! moves nothing.

use super::cluster::NodeIndex;
use super::plan::Reason;
use super::work::{PieceIndex, Work};

/// Of the least loaded nodes, so many are tried as takers before a giver is given up.
const TAKERS_TRIED_MAX: usize = 8;

/// A giver is given up after so many steps.
const STEPS_PER_NODE_MAX: usize = 256;

/// A part of what is wanted that is near enough to all of it.
const NEAR: f64 = 0.9;

/// Of the pieces that are more than is wanted, so many are tried to cut.
const CUTS_TRIED_MAX: usize = 4;

/// What cannot be cut may be more than the excess by this factor.
const WHOLE_OVER_EXCESS: f64 = 1.2;

/// A part of what is wanted that is worth a cut.
const WORTH_CUTTING: f64 = 1.0 / 16.0;

/// Where the churn budget does not allow for all that is wanted, a part is moved that is at least this part of a node's load.
const WORTH_MOVING: f64 = 0.01;

/// Of pieces that are at least this part of what is wanted, the one with the fewest bytes for its load goes first.
const WORTH_COMPARING: f64 = 1.0 / 64.0;

/// Standard deviations that the sum of the reports' noise may be off: three.
const NOISE_DEVIATIONS: f64 = 3.0;

/// Relieves the nodes that bear too much, the worst first.
pub(super) fn relieve(work: &mut Work<'_>) {
    // What wavers is left alone; but a key that got or lost replicas changes what every node bears, and is no noise.
    let is_due = work.has_replicated() || work.coldest().any(|node| is_over(work, node));
    if !is_due {
        return;
    }
    let hottest_first = work.coldest().rev();
    let givers: Vec<NodeIndex> = hottest_first.filter(|node| is_above(work, *node)).collect();
    for giver in givers {
        for _ in 0..STEPS_PER_NODE_MAX {
            let low = work.fair_load(giver) + work.settings.tolerance_low * work.unit(giver);
            let excess = work.nodes[giver as usize].load - low;
            if excess <= work.grain(giver) || !relieve_once(work, giver, excess) {
                break;
            }
        }
    }
}

/// Above the high mark, and by more than noise.
fn is_over(work: &Work<'_>, node: NodeIndex) -> bool {
    is_above(work, node) && excess_over_high(work, node) > noise(work, node)
}

/// Above the high mark.
pub(super) fn is_above(work: &Work<'_>, node: NodeIndex) -> bool {
    excess_over_high(work, node) > 0.0
}

fn excess_over_high(work: &Work<'_>, node: NodeIndex) -> f64 {
    let high = work.settings.tolerance_high * work.unit(node) + work.grain(node);
    work.nodes[node as usize].load - work.fair_load(node) - high
}

/// How far what was reported of a node's pieces may be off together. Reports waver independently, however the pieces are cut.
fn noise(work: &Work<'_>, node: NodeIndex) -> f64 {
    let squares = |piece: &PieceIndex| {
        let piece = &work.pieces[*piece];
        piece.weight.squares / (piece.owners.len().max(1) as f64).powi(2)
    };
    let squares: f64 = work.nodes[node as usize].pieces.iter().map(squares).sum();
    NOISE_DEVIATIONS * work.settings.noise * squares.sqrt()
}

fn relieve_once(work: &mut Work<'_>, giver: NodeIndex, excess: f64) -> bool {
    let takers: Vec<NodeIndex> = work.coldest().take(TAKERS_TRIED_MAX).collect();
    takers.into_iter().any(|taker| {
        let room = work.fair_load(taker) - work.nodes[taker as usize].load;
        let wanted = excess.min(room);
        taker != giver
            && wanted > work.grain(taker)
            && transfer(work, giver, taker, wanted, Reason::OverTolerance)
    })
}

/// Gives to the nodes that bear too little, from those that bear most.
pub(super) fn fill_underused(work: &mut Work<'_>) {
    let is_under = |node: &NodeIndex| {
        let least = work.fair_load(*node) - work.settings.underused * work.unit(*node);
        work.nodes[*node as usize].load < least
    };
    let by_more_than_noise = |node: &NodeIndex| {
        let lack = work.fair_load(*node) - work.nodes[*node as usize].load;
        lack > work.settings.underused * work.unit(*node) + noise(work, *node)
    };
    let under = work.coldest().take_while(is_under);
    let takers: Vec<NodeIndex> = under.filter(by_more_than_noise).collect();
    for taker in takers {
        for _ in 0..STEPS_PER_NODE_MAX {
            let Some(giver) = work.coldest().next_back() else {
                break;
            };
            let room = work.fair_load(taker) - work.nodes[taker as usize].load;
            let over = work.nodes[giver as usize].load - work.fair_load(giver);
            if room <= work.grain(taker) || over <= work.grain(giver) {
                break;
            }
            if giver == taker || !transfer(work, giver, taker, room.min(over), Reason::Underused) {
                work.set_aside(giver);
            }
        }
        work.take_in_again();
    }
}

/// What there is to choose from.
struct Choice {
    piece: PieceIndex,
    load: f64,
    bytes: f64,
    /// Load per byte: the more, the less there is to pull.
    density: f64,
    /// It touches something of the taker's, and may be merged with it one day.
    is_beside: bool,
    is_cuttable: bool,
}

/// Moves about so much load, or some of it, from one node to another. Whether anything moved.
fn transfer(work: &mut Work<'_>, giver: NodeIndex, taker: NodeIndex, wanted: f64, reason: Reason) -> bool {
    let pieces = |node: NodeIndex| work.nodes[node as usize].pieces.len();
    if !work.may_look_at(pieces(giver) + pieces(taker)) {
        return false;
    }
    let choices = choices(work, giver, taker);
    let at_most = wanted + work.grain(taker);
    let by_density = |a: &&Choice, b: &&Choice| {
        let order = a
            .is_beside
            .cmp(&b.is_beside)
            .then(a.density.total_cmp(&b.density));
        order.then(b.piece.cmp(&a.piece))
    };
    // What cannot be cut may fill the taker up to the low mark, if it is not much more than what the giver has too much.
    let low = work.fair_load(taker) + work.settings.tolerance_low * work.unit(taker);
    let slack = work.settings.tolerance_low * work.unit(giver);
    let excess = work.nodes[giver as usize].load - work.fair_load(giver) - slack;
    let whole_at_most = (excess * WHOLE_OVER_EXCESS).min(low - work.nodes[taker as usize].load);
    let whole_at_most = at_most.max(whole_at_most);
    let most = |choice: &Choice| match choice.is_cuttable {
        true => at_most,
        false => whole_at_most,
    };
    let bytes_left = work.bytes_left();
    let is_affordable = |choice: &Choice| choice.bytes <= bytes_left;
    let fitting = || {
        let affordable = choices.iter().filter(|choice| is_affordable(choice));
        affordable.filter(|choice| choice.load <= most(choice))
    };
    let near = fitting().filter(|choice| choice.load >= wanted * NEAR);
    if let Some(piece) = near.max_by(by_density).map(|choice| choice.piece) {
        return try_shift(work, piece, giver, taker, reason);
    }
    let larger = choices
        .iter()
        .filter(|choice| choice.load > at_most || !is_affordable(choice));
    let mut cuttable: Vec<&Choice> = larger
        .filter(|choice| work.pieces[choice.piece].is_cuttable())
        .collect();
    cuttable.sort_by(|a, b| by_density(b, a));
    let pieces: Vec<PieceIndex> = cuttable
        .iter()
        .take(CUTS_TRIED_MAX)
        .map(|choice| choice.piece)
        .collect();
    for piece in pieces {
        let affordable = affordable_load(work, piece);
        let is_worth_it = affordable >= wanted || affordable >= WORTH_MOVING * work.unit(taker);
        if is_worth_it && cut_and_shift(work, piece, (giver, taker), wanted.min(affordable), reason) {
            return true;
        }
    }
    let comparable = fitting().filter(|choice| choice.load >= wanted * WORTH_COMPARING);
    let by_load = |a: &&Choice, b: &&Choice| a.load.total_cmp(&b.load).then(b.piece.cmp(&a.piece));
    let smaller = comparable
        .max_by(by_density)
        .or_else(|| fitting().max_by(by_load));
    if let Some(piece) = smaller.map(|choice| choice.piece)
        && try_shift(work, piece, giver, taker, reason)
    {
        return true;
    }
    swap(work, &choices, (giver, taker), wanted, reason) || overshoot(work, &choices, (giver, taker), reason)
}

fn choices(work: &Work<'_>, giver: NodeIndex, taker: NodeIndex) -> Vec<Choice> {
    let room = work.bytes_max(taker) - work.nodes[taker as usize].bytes;
    let grain = work.grain(giver) / 16.0;
    let is_takers = |index: Option<PieceIndex>| {
        index.is_some_and(|index| work.pieces[index].owners.first() == Some(&taker))
    };
    let of = |&index: &PieceIndex| {
        let piece = &work.pieces[index];
        let load = piece.load_each();
        let is_free = !piece.is_settled && load > grain && !piece.owners.contains(&taker);
        let fits = piece.weight.bytes <= room || piece.is_cuttable();
        (is_free && fits).then(|| Choice {
            piece: index,
            load,
            bytes: piece.weight.bytes,
            density: load / piece.weight.bytes.max(1.0),
            is_beside: is_takers(piece.previous) || is_takers(piece.next),
            is_cuttable: piece.is_cuttable(),
        })
    };
    let pieces = &work.nodes[giver as usize].pieces;
    pieces.iter().filter_map(of).collect()
}

/// How much of a piece's load may move by what is left of the churn budget, if load and bytes lie alike within it. A little less,
/// since a cut falls where there is a border to cut at.
fn affordable_load(work: &Work<'_>, piece: PieceIndex) -> f64 {
    let (bytes_left, piece) = (work.bytes_left(), &work.pieces[piece]);
    if piece.weight.bytes <= bytes_left {
        return f64::INFINITY;
    }
    let part = bytes_left / piece.weight.bytes;
    (piece.load_each() * part - work.grain(piece.owners[0])).max(0.0)
}

/// Moves a piece if that is worth its price and there is room.
fn try_shift(
    work: &mut Work<'_>,
    piece: PieceIndex,
    giver: NodeIndex,
    taker: NodeIndex,
    reason: Reason,
) -> bool {
    let bytes = work.pieces[piece].weight.bytes;
    let has_room = work.nodes[taker as usize].bytes + bytes <= work.bytes_max(taker);
    if !has_room || !work.is_worth(piece, work.gain(piece, giver, taker)) {
        return false;
    }
    work.shift(piece, giver, taker, reason);
    true
}

/// Cuts just what is wanted off one end of a piece and moves it: beside what the taker has, if the piece touches that.
fn cut_and_shift(
    work: &mut Work<'_>,
    piece: PieceIndex,
    (giver, taker): (NodeIndex, NodeIndex),
    wanted: f64,
    reason: Reason,
) -> bool {
    let before = work.pieces[piece].previous;
    let is_beside = before.is_some_and(|index| work.pieces[index].owners.first() == Some(&taker));
    [is_beside, !is_beside].into_iter().any(|at_low_end| {
        let this = &work.pieces[piece];
        let offset = if at_low_end {
            wanted
        } else {
            this.weight.load - wanted
        };
        let cut = work.density.cut(this.slice, offset, work.grain(taker));
        let Some(high) = cut.and_then(|cut| work.split(piece, cut)) else {
            return false;
        };
        let part = if at_low_end { piece } else { high };
        let load = work.pieces[part].weight.load;
        // A hot spot, which cannot be cut, may have let the cut fall elsewhere.
        let is_useful = load > wanted * WORTH_CUTTING && load <= wanted + 2.0 * work.grain(taker);
        if is_useful && try_shift(work, part, giver, taker, reason) {
            return true;
        }
        work.merge_next(piece);
        false
    })
}

/// Exchanges a piece for a lesser one, so that about what is wanted changes hands: for pieces that cannot be cut.
fn swap(
    work: &mut Work<'_>,
    choices: &[Choice],
    (giver, taker): (NodeIndex, NodeIndex),
    wanted: f64,
    reason: Reason,
) -> bool {
    let at_most = wanted + work.grain(taker);
    let mut backs: Vec<(f64, PieceIndex)> = work.nodes[taker as usize]
        .pieces
        .iter()
        .filter(|&&index| {
            let piece = &work.pieces[index];
            !piece.is_settled && !piece.owners.contains(&giver)
        })
        .map(|&index| (work.pieces[index].load_each(), index))
        .collect();
    backs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut best: Option<(f64, PieceIndex, PieceIndex)> = None;
    for choice in choices.iter().filter(|choice| choice.load > at_most) {
        // The least that leaves no more than is wanted.
        let least = choice.load - at_most;
        let at = backs.partition_point(|(load, _)| *load < least);
        if let Some(&(load, back)) = backs.get(at) {
            let moved = choice.load - load;
            if moved > wanted / 2.0 && best.is_none_or(|(most, ..)| moved > most) {
                best = Some((moved, choice.piece, back));
            }
        }
    }
    let Some((_, there, back)) = best else {
        return false;
    };
    let (out, home) = (work.pieces[there].weight.bytes, work.pieces[back].weight.bytes);
    let fits = work.nodes[taker as usize].bytes + out - home <= work.bytes_max(taker)
        && work.nodes[giver as usize].bytes + home - out
            <= work.bytes_max(giver).max(work.nodes[giver as usize].bytes);
    let gain = best.map_or(0.0, |(moved, ..)| moved);
    if !fits || out + home > work.bytes_left() || !work.is_worth(there, gain) || !work.is_worth(back, gain) {
        return false;
    }
    work.shift(there, giver, taker, reason);
    work.shift(back, taker, giver, reason);
    true
}

/// Moves the least piece that is more than is wanted, if that is still better than not.
fn overshoot(
    work: &mut Work<'_>,
    choices: &[Choice],
    (giver, taker): (NodeIndex, NodeIndex),
    reason: Reason,
) -> bool {
    let least = choices
        .iter()
        .min_by(|a, b| a.load.total_cmp(&b.load).then(a.piece.cmp(&b.piece)));
    let Some(choice) = least else { return false };
    let gain = work.gain(choice.piece, giver, taker);
    // Half of what it moves, at least: else it is put from one bad place into another.
    let load = work.nodes[taker as usize].load + choice.load - work.fair_load(taker);
    let lowers_the_peak = load < (work.nodes[giver as usize].load - work.fair_load(giver)) / 2.0;
    lowers_the_peak && gain > work.grain(giver) && try_shift(work, choice.piece, giver, taker, reason)
}
