//! The smallest parts that load is counted by: slots, and the pieces of a slot that is cut finer.

use crate::slice::Slice;
use crate::slice_key::{SliceKey, Slot};

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Atom {
    /// Its positions.
    pub(super) slice: Slice,
    /// The slot that it is or lies in.
    pub(super) slot: Slot,
    /// Whether it is a piece of the slot only.
    pub(super) is_piece: bool,
}

/// The atom of a position in a range that is counted by itself.
#[inline]
pub(super) fn atom_of(at: SliceKey, range: Slice) -> Atom {
    let slot = at.slot();
    let (first, last) = (SliceKey::first_of_slot(slot), SliceKey::last_of_slot(slot));
    let is_piece = range.low() > first || range.last() < last;
    let slice = Slice::between(first.max(range.low()), last.min(range.last())).unwrap_or(Slice::single(at));
    Atom {
        slice,
        slot,
        is_piece,
    }
}

/// The atoms of a range, in order.
pub(super) fn atoms(range: Slice) -> impl Iterator<Item = Atom> {
    std::iter::successors(Some(atom_of(range.low(), range)), move |atom| {
        let next = atom.slice.high_excluded()?;
        range.contains(next).then(|| atom_of(next, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plan: a range that begins in the middle of slot 1 and ends in the middle of slot 4 has two pieces around two slots;
    /// one within a slot is one piece; the whole key space has no piece.
    #[test]
    fn a_range_is_made_of_slots_and_pieces() {
        let at = |slot: u16, offset: u64| {
            let slot = Slot::with_number(slot).expect("a slot");
            SliceKey::new(SliceKey::first_of_slot(slot).get() + offset)
        };
        let range = Slice::between(at(1, 5), at(4, 9)).expect("ordered");
        let parts: Vec<Atom> = atoms(range).collect();
        let pieces: Vec<bool> = parts.iter().map(|atom| atom.is_piece).collect();
        assert_eq!(pieces, [true, false, false, true]);
        assert!(parts.windows(2).all(|pair| pair[0].slice.touches(pair[1].slice)));
        assert_eq!(
            parts.iter().map(|atom| atom.slice.width()).sum::<u128>(),
            range.width()
        );
        let key = Slice::single(at(7, 7));
        let only: Vec<Atom> = atoms(key).collect();
        assert_eq!((only.len(), only[0].slice, only[0].is_piece), (1, key, true));
        assert_eq!(atoms(Slice::FULL).filter(|atom| !atom.is_piece).count(), 16_384);
        assert_eq!(Slot::with_number(16_384), None);
    }
}
