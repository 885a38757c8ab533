//! [`LoadMap`]: what every part of the key space draws, smoothed over the reports of whoever held it.
//!
//! It is kept by range and not by node, so nothing has to be carried over when a range changes hands: whoever takes it takes what
//! is known of it. Only for a while nothing is learned of it then, since its new owner's decaying windows begin at nothing.
//!
//! A cell is even within itself, and is kept as densities: rates for each position of the key space. So it can be cut anywhere.

use crate::session::SliceLoad;
use crate::slice::Slice;
use crate::slice_key::SliceKey;
use crate::time::Timestamp;

/// What a position of the key space, or a range, draws and holds.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Rates {
    pub(super) operations: f64,
    pub(super) bytes_moved: f64,
    pub(super) hits: f64,
    pub(super) cpu_us: f64,
    pub(super) bytes: f64,
}

impl Rates {
    pub(super) fn plus(self, other: Self, times: f64) -> Self {
        Self {
            operations: self.operations + other.operations * times,
            bytes_moved: self.bytes_moved + other.bytes_moved * times,
            hits: self.hits + other.hits * times,
            cpu_us: self.cpu_us + other.cpu_us * times,
            bytes: self.bytes + other.bytes * times,
        }
    }

    pub(super) fn times(self, by: f64) -> Self {
        Self::default().plus(self, by)
    }
}

/// What one node reports of a range that it holds, for each position of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) slice: Slice,
    pub(super) density: Rates,
    /// Who reports it: its place among the reporters.
    pub(super) reporter: usize,
}

/// How a reporter's word is taken.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Trust {
    /// How much a new report weighs, 0 to 1, against what many have said before.
    pub(super) weight: f64,
    /// All that was known is of another load: what it reports now counts, so many times, as so many reports.
    pub(super) anew: Option<(f64, u32)>,
}

/// A range that is even within itself.
#[derive(Clone, Copy, Debug)]
struct Cell {
    slice: Slice,
    density: Rates,
    /// How many reports that is the mean of: the first ones count alike.
    reports: u32,
    /// It has just changed hands: what is reported of it does not count yet.
    fresh_until: Option<Timestamp>,
}

impl Cell {
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.fresh_until.is_some_and(|until| now < until)
    }
}

/// What is known of the load over the key space, hot keys apart: cells in order that do not overlap.
#[derive(Clone, Default, Debug)]
pub(super) struct LoadMap {
    cells: Vec<Cell>,
}

/// What the map and one reporter say of the same ranges, those that have just changed hands apart. Operations per second.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Compared {
    pub(super) known: f64,
    pub(super) reported: f64,
}

impl LoadMap {
    /// All that is known, in operations per second.
    pub(super) fn whole(&self) -> f64 {
        self.cells
            .iter()
            .map(|cell| cell.density.operations * width(cell.slice))
            .sum()
    }

    /// Whether some of it is of fewer reports than that.
    pub(super) fn is_newer_than(&self, reports: u32) -> bool {
        self.cells.iter().any(|cell| cell.reports < reports)
    }

    /// These have changed hands.
    pub(super) fn moved(&mut self, mut slices: Vec<Slice>, until: Timestamp) {
        slices.sort_unstable_by_key(|slice| slice.low());
        let marks: Vec<(Slice, ())> = slices.into_iter().map(|slice| (slice, ())).collect();
        let cells = pieces(&self.cells, &marks, |cell| cell.slice, |mark| mark.0);
        self.cells = cells
            .filter_map(|(slice, cell, mark)| {
                let cell = *cell?;
                let fresh_until = mark.map_or(cell.fresh_until, |_| Some(until));
                Some(Cell {
                    slice,
                    fresh_until,
                    ..cell
                })
            })
            .collect();
    }

    /// Compares with what each of so many reporters says.
    pub(super) fn compare(&self, measured: &[Measured], reporters: usize, now: Timestamp) -> Vec<Compared> {
        let mut compared = vec![Compared::default(); reporters];
        for (slice, cell, part) in pieces(&self.cells, measured, |cell| cell.slice, |part| part.slice) {
            let Some(part) = part.filter(|_| cell.is_none_or(|cell| !cell.is_fresh(now))) else {
                continue;
            };
            let both = &mut compared[part.reporter];
            both.known += cell.map_or(0.0, |cell| cell.density.operations * width(slice));
            both.reported += part.density.operations * width(slice);
        }
        compared
    }

    /// What all report together, in operations per second, with what is known where nobody's word counts.
    pub(super) fn reported(&self, measured: &[Measured], now: Timestamp) -> f64 {
        pieces(&self.cells, measured, |cell| cell.slice, |part| part.slice)
            .map(|(slice, cell, part)| match (cell, part) {
                (Some(cell), Some(_)) if cell.is_fresh(now) => cell.density.operations * width(slice),
                (_, Some(part)) => part.density.operations * width(slice),
                (Some(cell), None) => cell.density.operations * width(slice),
                (None, None) => 0.0,
            })
            .sum()
    }

    /// Takes in what is reported. `are_all_known`: every owner has reported; before that there is nothing to smooth.
    pub(super) fn hear(
        &mut self,
        measured: &[Measured],
        trust: &[Trust],
        are_all_known: bool,
        now: Timestamp,
    ) {
        let mut cells: Vec<Cell> = Vec::with_capacity(self.cells.len().max(measured.len()));
        // The part whose last piece is the last of the cells, and what was known of that.
        let mut open: Option<(Measured, Known)> = None;
        for (slice, cell, part) in pieces(&self.cells, measured, |cell| cell.slice, |part| part.slice) {
            let goes_on = open.as_ref().is_some_and(|(of, known)| {
                part.is_some_and(|part| part.slice == of.slice) && known.slice.touches(slice)
            });
            let fresh = cell.filter(|cell| part.is_none() || cell.is_fresh(now));
            if !goes_on || fresh.is_some() {
                cells.extend(
                    open.take()
                        .map(|(part, known)| known.heard(part, trust, are_all_known)),
                );
            }
            match (fresh, part) {
                (Some(cell), part) => {
                    // What has arrived of it counts at once.
                    let arrived = part.map_or(0.0, |part| part.density.bytes);
                    let mut cell = Cell { slice, ..*cell };
                    cell.density.bytes = cell.density.bytes.max(arrived);
                    cells.push(cell);
                }
                (None, Some(part)) => {
                    let (_, known) = open.get_or_insert_with(|| (*part, Known::nothing(slice)));
                    known.add(slice, cell);
                }
                (None, None) => {}
            }
        }
        cells.extend(
            open.take()
                .map(|(part, known)| known.heard(part, trust, are_all_known)),
        );
        self.cells = cells;
    }

    /// All of it, so many times.
    pub(super) fn shown(&self, times: f64) -> impl Iterator<Item = SliceLoad> {
        self.cells.iter().map(move |cell| {
            let rates = cell.density.times(width(cell.slice));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a number of bytes is not negative; the cast stops at the ends"
            )]
            let bytes = rates.bytes.round() as u64;
            SliceLoad {
                slice: cell.slice,
                operations_per_second: rates.operations * times,
                bytes,
                bytes_per_second: rates.bytes_moved * times,
                hits_per_second: rates.hits * times,
                cpu_us_per_second: rates.cpu_us * times,
            }
        })
    }
}

/// What was known of a range before a report of it.
struct Known {
    slice: Slice,
    /// Of the range, not of a position.
    rates: Rates,
    reports: u32,
}

impl Known {
    fn nothing(slice: Slice) -> Self {
        Self {
            slice,
            rates: Rates::default(),
            reports: u32::MAX,
        }
    }

    /// It goes on up to the end of `slice`, with what a cell says of that.
    fn add(&mut self, slice: Slice, cell: Option<&Cell>) {
        self.slice = Slice::between(self.slice.low(), slice.last()).unwrap_or(slice);
        self.reports = self.reports.min(cell.map_or(0, |cell| cell.reports));
        if let Some(cell) = cell {
            self.rates = self.rates.plus(cell.density, width(slice));
        }
    }

    /// With a report of it.
    fn heard(self, part: Measured, trust: &[Trust], are_all_known: bool) -> Cell {
        let Trust { weight, anew } = trust[part.reporter];
        let (by, reports) = anew.unwrap_or((1.0, self.reports.saturating_add(u32::from(are_all_known))));
        let weight = match anew {
            Some(_) => 1.0,
            None => weight.max(1.0 / f64::from(self.reports.saturating_add(1))),
        };
        let before = self.rates.times(1.0 / width(self.slice));
        let mut density = before.plus(before, -weight).plus(part.density, weight * by);
        density.bytes = part.density.bytes;
        Cell {
            slice: self.slice,
            density,
            reports,
            fresh_until: None,
        }
    }
}

/// How many positions a slice has.
pub(super) fn width(slice: Slice) -> f64 {
    slice.width() as f64
}

/// The pieces into which the bounds of two lists cut the key space, with what lies there in each; without those where neither has
/// anything. Both are in order and do not overlap.
fn pieces<'a, A, B>(
    left: &'a [A],
    right: &'a [B],
    left_slice: impl Fn(&A) -> Slice,
    right_slice: impl Fn(&B) -> Slice,
) -> impl Iterator<Item = (Slice, Option<&'a A>, Option<&'a B>)> {
    let (mut at_left, mut at_right) = (0, 0);
    let mut next = Some(SliceKey::MIN);
    std::iter::from_fn(move || {
        let from = next?;
        while left
            .get(at_left)
            .is_some_and(|item| left_slice(item).last() < from)
        {
            at_left += 1;
        }
        while right
            .get(at_right)
            .is_some_and(|item| right_slice(item).last() < from)
        {
            at_right += 1;
        }
        let (a, b) = (left.get(at_left), right.get(at_right));
        let bounds = [a.map(&left_slice), b.map(&right_slice)];
        let low = bounds.iter().flatten().map(|slice| slice.low().max(from)).min()?;
        let holds = |slice: &Slice| slice.low() <= low;
        // Up to where one of them ends or the other begins.
        let ends = bounds.iter().flatten().filter_map(|slice| match holds(slice) {
            true => Some(slice.last()),
            false => slice.low().previous(),
        });
        let last = ends.min()?;
        next = last.next();
        let within = Slice::between(low, last)?;
        let [in_left, in_right] = bounds.map(|slice| slice.is_some_and(|slice| holds(&slice)));
        Some((within, a.filter(|_| in_left), b.filter(|_| in_right)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_000);

    fn slice(low: u64, last: u64) -> Slice {
        Slice::between(SliceKey::new(low), SliceKey::new(last)).expect("in order")
    }

    fn measured(slice: Slice, operations: f64, reporter: usize) -> Measured {
        let rates = Rates {
            operations,
            bytes: operations,
            ..Rates::default()
        };
        Measured {
            slice,
            density: rates.times(1.0 / width(slice)),
            reporter,
        }
    }

    fn trust(weight: f64) -> Trust {
        Trust { weight, anew: None }
    }

    /// What is shown of a slice: operations per second and bytes.
    fn of(map: &LoadMap, slice: Slice) -> (f64, f64) {
        let parts = map.cells.iter().filter_map(|cell| {
            let common = cell.slice.intersect(slice)?;
            Some(cell.density.times(width(common)))
        });
        let sum = parts.fold(Rates::default(), |sum, part| sum.plus(part, 1.0));
        (sum.operations, sum.bytes)
    }

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-6
    }

    /// Plan: a slice is known, and its upper half changes hands. What the new owner reports of that does not count while it is
    /// fresh, but what has arrived there does; afterwards it counts as every report does. The lower half is learned all the while.
    #[test]
    fn what_has_changed_hands_is_known_as_it_was() {
        let (lower, upper) = (slice(0, 49), slice(50, 99));
        let mut map = LoadMap::default();
        map.hear(&[measured(slice(0, 99), 200.0, 0)], &[trust(0.5)], true, NOW);
        map.moved(vec![upper], NOW.plus_ms(10));
        let reports = [measured(lower, 140.0, 0), measured(upper, 400.0, 1)];
        assert!(near(map.reported(&reports, NOW), 240.0));
        let compared = map.compare(&reports, 2, NOW);
        assert!(near(compared[0].known, 100.0) && near(compared[0].reported, 140.0));
        assert!(near(compared[1].known, 0.0) && near(compared[1].reported, 0.0));
        map.hear(&reports, &[trust(0.5); 2], true, NOW);
        assert!(near(of(&map, lower).0, 120.0));
        assert!(near(of(&map, upper).0, 100.0) && near(of(&map, upper).1, 400.0));
        map.hear(&reports, &[trust(0.25); 2], true, NOW.plus_ms(10));
        assert!(near(of(&map, upper).0, 250.0), "its second report counts half");
        assert!(
            near(of(&map, lower).0, 120.0 + 20.0 / 3.0),
            "and the other's third a third"
        );
        assert!(near(map.whole(), of(&map, slice(0, 99)).0));
        assert!(map.is_newer_than(3) && !map.is_newer_than(2));
    }

    /// Plan: what nobody reports stays; and a reporter whose load took a step is taken at its word.
    #[test]
    fn silence_changes_nothing_and_a_step_all() {
        let (lower, upper) = (slice(0, 49), slice(50, 99));
        let mut map = LoadMap::default();
        let reports = [measured(lower, 100.0, 0), measured(upper, 100.0, 1)];
        for _ in 0..9 {
            map.hear(&reports, &[trust(0.1); 2], true, NOW);
        }
        let step = Trust {
            weight: 0.1,
            anew: Some((0.5, 4)),
        };
        map.hear(&[measured(lower, 600.0, 0)], &[step], true, NOW);
        assert!(
            near(of(&map, lower).0, 300.0),
            "the mean of its odd reports is half of the last"
        );
        assert!(near(of(&map, upper).0, 100.0));
        assert!(map.is_newer_than(5) && !map.is_newer_than(4));
    }

    proptest! {
        /// Pieces are in order, do not overlap, cover what either list does, and lie within what they name.
        #[test]
        fn pieces_are_what_both_bounds_cut(cuts in prop::collection::vec(0_u64..200, 0..24), ends in any::<bool>()) {
            let list = |skip: usize| -> Vec<Slice> {
                let mut bounds: Vec<u64> = cuts.iter().copied().skip(skip).step_by(2).collect();
                bounds.sort_unstable();
                bounds.dedup();
                let last = |pair: &[u64]| if ends { u64::MAX - 400 + pair[1] - 1 } else { pair[1] - 1 };
                let low = |pair: &[u64]| if ends { u64::MAX - 400 + pair[0] } else { pair[0] };
                bounds.windows(2).step_by(if skip == 0 { 1 } else { 2 }).map(|pair| slice(low(pair), last(pair))).collect()
            };
            let (left, right) = (list(0), list(1));
            let cut: Vec<_> = pieces(&left, &right, |slice| *slice, |slice| *slice).collect();
            let covered: u128 = cut.iter().map(|(piece, _, _)| piece.width()).sum();
            prop_assert!(cut.windows(2).all(|pair| pair[0].0.last() < pair[1].0.low()));
            for (piece, a, b) in &cut {
                prop_assert!(a.is_some() || b.is_some());
                prop_assert!(a.is_none_or(|a| a.covers(*piece)) && b.is_none_or(|b| b.covers(*piece)));
                prop_assert_eq!(a.is_some(), left.iter().any(|slice| slice.contains(piece.low())));
                prop_assert_eq!(b.is_some(), right.iter().any(|slice| slice.contains(piece.low())));
            }
            let both = left.iter().flat_map(|a| right.iter().filter_map(|b| a.intersect(*b)));
            let both: u128 = both.map(Slice::width).sum();
            let sum: u128 = left.iter().chain(&right).map(|slice| slice.width()).sum();
            prop_assert_eq!(covered, sum - both);
        }
    }
}
