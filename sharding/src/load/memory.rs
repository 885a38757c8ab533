//! [`Memory`]: what the parts of a node's ranges hold, in bytes. A store estimates the bytes of a part by looking into it,
//! which costs some hundred microseconds for a large one; so the parts are on a fixed grid, and few are looked into at a
//! heartbeat, in turn.

use crate::slice::Slice;
use crate::slice_key::{SLOT_COUNT, SliceKey, Slot};

/// Slots of a part: no more than 128 parts for the whole key space.
const PART_SLOTS: u16 = SLOT_COUNT / 128;

/// A full round of looks takes so many heartbeats: 8 s by default.
const ROUND_HEARTBEATS: usize = 16;

/// A part, and what it held when it was last looked into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) slice: Slice,
    pub(super) bytes: u64,
    /// The number of the look; 0: it was not looked into yet.
    looked: u64,
}

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// In order.
    parts: Vec<Part>,
    looks: u64,
}

impl Memory {
    /// Looks into those parts of `held` (in order) that are new, and into some of the others: those whose last look is
    /// longest ago. `bytes_of` is the look, which gets the range of `held` by its number, and the part of it.
    pub fn look(&mut self, held: &[Slice], mut bytes_of: impl FnMut(usize, Slice) -> u64) {
        let old = std::mem::take(&mut self.parts);
        let mut ranges = Vec::new();
        for (number, range) in held.iter().enumerate() {
            for slice in on_grid(*range) {
                let known = old.binary_search_by_key(&slice, |part| part.slice);
                self.parts.push(known.map_or(
                    Part {
                        slice,
                        bytes: 0,
                        looked: 0,
                    },
                    |index| old[index],
                ));
                ranges.push(number);
            }
        }
        let mut oldest: Vec<usize> = (0..self.parts.len()).collect();
        oldest.sort_by_key(|&index| self.parts[index].looked);
        let new = oldest.partition_point(|&index| self.parts[index].looked == 0);
        oldest.truncate(new.max(self.parts.len().div_ceil(ROUND_HEARTBEATS)));
        for index in oldest {
            self.looks += 1;
            let part = &mut self.parts[index];
            part.bytes = bytes_of(ranges[index], part.slice);
            part.looked = self.looks;
        }
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

/// The parts of a range: cut where the grid is.
fn on_grid(range: Slice) -> impl Iterator<Item = Slice> {
    let part_at = move |low: SliceKey| {
        let next = (low.slot().get() / PART_SLOTS + 1) * PART_SLOTS;
        let last = Slot::with_number(next)
            .and_then(|slot| SliceKey::first_of_slot(slot).previous())
            .unwrap_or(SliceKey::MAX);
        Slice::between(low, last.min(range.last()))
    };
    std::iter::successors(part_at(range.low()), move |part| {
        let next = part.high_excluded()?;
        range.contains(next).then(|| part_at(next)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plan: a node holds everything, then all but the first position. At first each part is looked into; afterwards an
    /// eighth-and-a-bit at a time, in turn, and what is new at once.
    #[test]
    fn new_parts_are_looked_into_at_once_and_the_others_in_turn() {
        let mut memory = Memory::default();
        let mut looks = 0;
        memory.look(&[Slice::FULL], |_, _| {
            looks += 1;
            1
        });
        assert_eq!((looks, memory.parts().len()), (128, 128));
        for _ in 0..ROUND_HEARTBEATS {
            looks = 0;
            memory.look(&[Slice::FULL], |_, _| {
                looks += 1;
                2
            });
            assert_eq!(looks, 128 / ROUND_HEARTBEATS);
        }
        assert!(memory.parts().iter().all(|part| part.bytes == 2));
        let rest = Slice::between(SliceKey::new(1), SliceKey::MAX).expect("ordered");
        let mut seen = Vec::new();
        memory.look(&[rest], |_, slice| {
            seen.push(slice);
            3
        });
        assert!(seen.iter().any(|slice| slice.low() == SliceKey::new(1)));
        assert!(seen.len() <= 128 / ROUND_HEARTBEATS, "{seen:?}");
        assert_eq!(
            memory.parts().iter().map(|part| part.slice.width()).sum::<u128>(),
            rest.width()
        );
    }
}
