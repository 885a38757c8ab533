//! [`Density`]: how load, bytes and hits lie over the key space, so that any range can be weighed and cut in logarithmic time.
//!
//! The reports become *atoms*, complete and in order, each even within itself; a hot key is an atom of one position. What lies
//! below a position is a running sum over atoms and a fraction of one.

use super::cluster::{HotSpot, Part};
use crate::slice::Slice;
use crate::slice_key::{SLOT_COUNT, SliceKey};

/// Positions in one slot.
const SLOT_WIDTH: u128 = (1 << 64) / SLOT_COUNT as u128;

/// What a range weighs.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Weight {
    pub(super) load: f64,
    pub(super) bytes: f64,
    pub(super) hits: f64,
    /// The sum of the squares of what was reported in one: how far reports that waver independently may be off together.
    pub(super) squares: f64,
}

impl Weight {
    pub(super) fn plus(self, other: Self, times: f64) -> Self {
        Self {
            load: self.load + other.load * times,
            bytes: self.bytes + other.bytes * times,
            hits: self.hits + other.hits * times,
            squares: self.squares + other.squares * times,
        }
    }

    fn scaled(self, by: f64) -> Self {
        Self::default().plus(self, by)
    }
}

/// A range that is even within itself.
#[derive(Clone, Copy, Debug)]
struct Atom {
    low: u64,
    last: u64,
    weight: Weight,
}

impl Atom {
    fn width(&self) -> f64 {
        (u128::from(self.last) - u128::from(self.low) + 1) as f64
    }

    /// A part of it, with its part of the weight.
    fn within(&self, low: u64, last: u64) -> Self {
        let part = Self {
            low,
            last,
            weight: Weight::default(),
        };
        Self {
            weight: Weight {
                squares: self.weight.squares * (part.width() / self.width()).powi(2),
                ..self.weight.scaled(part.width() / self.width())
            },
            ..part
        }
    }
}

/// Load, bytes and hits over the whole key space.
#[derive(Clone, Debug)]
pub(super) struct Density {
    atoms: Vec<Atom>,
    /// The weight of all atoms before each; one more for the whole.
    before: Vec<Weight>,
}

impl Density {
    pub(super) fn new(parts: &[Part], hot: &[HotSpot]) -> Self {
        let mut atoms = complete(parts);
        carve(&mut atoms, hot);
        for atom in &mut atoms {
            atom.weight.squares = atom.weight.load.powi(2);
        }
        let mut sum = Weight::default();
        let mut before = Vec::with_capacity(atoms.len() + 1);
        for atom in &atoms {
            before.push(sum);
            sum = sum.plus(atom.weight, 1.0);
        }
        before.push(sum);
        Self { atoms, before }
    }

    pub(super) fn total(&self) -> Weight {
        self.before[self.atoms.len()]
    }

    fn index_of(&self, position: u64) -> usize {
        self.atoms.partition_point(|atom| atom.low <= position) - 1
    }

    fn below(&self, position: u64) -> Weight {
        let index = self.index_of(position);
        let atom = &self.atoms[index];
        let part = (position - atom.low) as f64 / atom.width();
        self.before[index].plus(atom.weight, part)
    }

    pub(super) fn of(&self, slice: Slice) -> Weight {
        let low = slice.low().get();
        let index = self.index_of(low);
        let atom = &self.atoms[index];
        if slice.last().get() <= atom.last {
            // Within one atom there is no cancellation to lose digits by.
            return atom.within(low, slice.last().get()).weight;
        }
        let high = slice
            .high_excluded()
            .map_or(self.total(), |high| self.below(high.get()));
        let mut weight = high.plus(self.below(low), -1.0);
        weight.squares = self.squares(low, slice.last().get());
        Weight {
            load: weight.load.max(0.0),
            bytes: weight.bytes.max(0.0),
            hits: weight.hits.max(0.0),
            squares: weight.squares.max(0.0),
        }
    }

    /// The squares of the atoms of a range that spans several: a part of an atom wavers as the atom does.
    fn squares(&self, low: u64, last: u64) -> f64 {
        let (first, end) = (self.index_of(low), self.index_of(last));
        let whole = self.before[end].squares - self.before[first + 1].squares;
        let part = |index: usize, low: u64, last: u64| self.atoms[index].within(low, last).weight.squares;
        let ends = part(first, low, self.atoms[first].last) + part(end, self.atoms[end].low, last);
        whole.max(0.0) + ends
    }

    /// Where to cut a range so that about `load` lies before the cut: on a slot border if one is within `grain` of it. `None`
    /// if there is no such place inside.
    pub(super) fn cut(&self, slice: Slice, load: f64, grain: f64) -> Option<SliceKey> {
        let goal = self.below(slice.low().get()).load + load;
        let index = self.before.partition_point(|before| before.load <= goal) - 1;
        let index = index.min(self.atoms.len() - 1);
        let atom = &self.atoms[index];
        let part = match atom.weight.load > 0.0 {
            true => ((goal - self.before[index].load) / atom.weight.load).clamp(0.0, 1.0),
            false => 0.0,
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a part of the key space's width, which 65 bits hold"
        )]
        let into = (atom.width() * part) as u128;
        let exact = u128::from(atom.low) + into;
        let border = (exact + SLOT_WIDTH / 2) / SLOT_WIDTH * SLOT_WIDTH;
        let at = |position: u128| u64::try_from(position).ok().map(SliceKey::new);
        let inside = |key: &SliceKey| slice.low() < *key && *key <= slice.last();
        let on_border = at(border)
            .filter(inside)
            .filter(|key| (self.below(key.get()).load - goal).abs() <= grain);
        // A position cannot be cut: before or after it, whichever is nearer.
        let exact = match atom.low == atom.last {
            true => u128::from(atom.low) + u128::from(part > 0.5),
            false => exact,
        };
        on_border.or_else(|| at(exact).filter(inside))
    }

    /// Single positions that draw at least `load`, with their load.
    pub(super) fn spots(&self, load: f64) -> impl Iterator<Item = (SliceKey, f64)> {
        let spots = self.atoms.iter().filter(|atom| atom.low == atom.last);
        spots
            .filter(move |atom| atom.weight.load >= load)
            .map(|atom| (SliceKey::new(atom.low), atom.weight.load))
    }
}

/// The reports as atoms in order, with nothing where none is.
fn complete(parts: &[Part]) -> Vec<Atom> {
    let number = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
    let mut parts: Vec<Atom> = parts
        .iter()
        .map(|part| Atom {
            low: part.slice.low().get(),
            last: part.slice.last().get(),
            weight: Weight {
                load: number(part.load),
                bytes: number(part.bytes),
                hits: number(part.hits),
                squares: 0.0,
            },
        })
        .collect();
    parts.sort_by_key(|atom| (atom.low, atom.last));
    let mut atoms = Vec::with_capacity(parts.len() + 1);
    let mut next = Some(0_u64);
    let nothing = |low, last| Atom {
        low,
        last,
        weight: Weight::default(),
    };
    for part in parts {
        let Some(from) = next else { break };
        if part.last < from {
            continue;
        }
        if part.low > from {
            atoms.push(nothing(from, part.low - 1));
        }
        atoms.push(part.within(part.low.max(from), part.last));
        next = part.last.checked_add(1);
    }
    if let Some(from) = next {
        atoms.push(nothing(from, u64::MAX));
    }
    atoms
}

/// Takes hot keys out of the atoms around them, as atoms of their own. What is left of an atom lies evenly around them.
fn carve(atoms: &mut Vec<Atom>, hot: &[HotSpot]) {
    let mut hot: Vec<HotSpot> = hot.iter().copied().filter(|spot| spot.load > 0.0).collect();
    hot.sort_by_key(|spot| spot.at);
    hot.dedup_by_key(|spot| spot.at);
    if hot.is_empty() {
        return;
    }
    let mut carved = Vec::with_capacity(atoms.len() + 2 * hot.len());
    let mut from = 0;
    for atom in atoms.drain(..) {
        let until = from + hot[from..].partition_point(|spot| spot.at.get() <= atom.last);
        let inside = &hot[from..until];
        from = until;
        let around = atom.width() - inside.len() as f64;
        if inside.is_empty() || around < 1.0 {
            carved.push(atom);
            continue;
        }
        carve_one(atom, inside, around, &mut carved);
    }
    *atoms = carved;
}

fn carve_one(atom: Atom, inside: &[HotSpot], positions_around: f64, carved: &mut Vec<Atom>) {
    let claimed: f64 = inside.iter().map(|spot| spot.load).sum();
    let believed = (atom.weight.load / claimed).min(1.0);
    let mut rest = atom.weight;
    let own: Vec<Weight> = inside
        .iter()
        .map(|spot| {
            let load = spot.load * believed;
            let weight = Weight {
                load,
                bytes: spot.bytes.clamp(0.0, rest.bytes),
                hits: atom.weight.hits * load / atom.weight.load.max(f64::MIN_POSITIVE),
                squares: 0.0,
            };
            rest = rest.plus(weight, -1.0);
            weight
        })
        .collect();
    let even = |low: u64, last: u64| {
        let mut piece = Atom {
            low,
            last,
            weight: Weight::default(),
        };
        piece.weight = rest.scaled(piece.width() / positions_around);
        piece.weight.load = piece.weight.load.max(0.0);
        piece
    };
    let mut next = Some(atom.low);
    for (spot, weight) in inside.iter().zip(own) {
        let at = spot.at.get();
        if let Some(low) = next.filter(|low| *low < at) {
            carved.push(even(low, at - 1));
        }
        carved.push(Atom {
            low: at,
            last: at,
            weight,
        });
        next = at.checked_add(1);
    }
    if let Some(low) = next.filter(|low| *low <= atom.last) {
        carved.push(even(low, atom.last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(low: u64, last: u64, load: f64) -> Part {
        Part {
            slice: Slice::between(SliceKey::new(low), SliceKey::new(last)).unwrap(),
            load,
            bytes: load * 10.0,
            hits: load,
        }
    }

    /// Plan: reports with a gap, an overlap and a hot key. Every range weighs what the reports say, and the whole is kept.
    #[test]
    fn ranges_weigh_what_was_reported() {
        let parts = [
            part(1 << 60, (1 << 61) - 1, 100.0),
            part(3 << 60, (5 << 60) - 1, 40.0),
        ];
        let spot = HotSpot {
            at: SliceKey::new(3 << 59),
            load: 60.0,
            bytes: 1.0,
        };
        let density = Density::new(&parts, &[spot]);
        assert!((density.total().load - 140.0).abs() < 1e-9);
        assert_eq!(density.of(Slice::single(spot.at)).load, 60.0);
        let left = Slice::between(SliceKey::MIN, SliceKey::new((3 << 59) - 1)).unwrap();
        assert!((density.of(left).load - 20.0).abs() < 1e-6);
        assert_eq!(density.spots(1.0).collect::<Vec<_>>(), [(spot.at, 60.0)]);
        let late = Slice::between(SliceKey::new(1 << 63), SliceKey::MAX).unwrap();
        assert_eq!(density.of(late).load, 0.0);
    }

    /// Plan: cuts by load fall on slot borders where those are near enough, else exactly; never inside a single position.
    #[test]
    fn cuts_fall_where_the_load_is() {
        let even = Density::new(&[part(0, u64::MAX, 16_384.0)], &[]);
        let cut = even.cut(Slice::FULL, 100.4, 1.0).unwrap();
        assert!(cut.is_slot_border());
        assert_eq!(cut.slot().get(), 100);
        let fine = even.cut(Slice::FULL, 100.4, 0.1).unwrap();
        assert!(!fine.is_slot_border());
        assert_eq!(even.cut(Slice::single(SliceKey::new(5)), 0.0, 1.0), None);
    }
}
