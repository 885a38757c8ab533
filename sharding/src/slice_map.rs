//! [`SliceMap`]: a complete, gap-free map of the key space with a fast lookup. Immutable once built.
//!
//! Lookup is one load from a table indexed by the position's top bits, then a binary search among the slices that begin
//! in that table cell: about one, since the table has at least as many cells as there are slices. A skewed map (many
//! slices in few cells) degrades to the binary search over all, never below it.

use thiserror::Error;

use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// Most cells of the lookup table: 2^16 four-byte cells.
const TABLE_BITS_MAX: u32 = 16;

/// A value for every position.
#[derive(Clone, Debug)]
pub struct SliceMap<T> {
    /// Low bounds, ascending; the first is [`SliceKey::MIN`].
    lows: Box<[SliceKey]>,
    values: Box<[T]>,
    /// For each cell, the index of the slice that holds the cell's first position; one more cell closes the last.
    table: Box<[u32]>,
    /// How far to shift a position for its cell.
    table_shift: u32,
}

/// Why a list of slices does not cover the key space exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SliceMapError {
    /// Nothing covers the position.
    #[error("no slice covers position {0}")]
    Gap(SliceKey),
    /// A slice begins before its predecessor ends.
    #[error("slices overlap or are out of order at position {0}")]
    Overlap(SliceKey),
    /// More slices than an index can name.
    #[error("{0} slices are more than the limit of {max}", max = SLICE_COUNT_MAX)]
    TooMany(usize),
}

/// Most slices in one map.
pub const SLICE_COUNT_MAX: usize = 1 << 20;

impl<T> SliceMap<T> {
    /// Builds the map from slices in order.
    ///
    /// # Errors
    /// If they leave a gap, overlap, are out of order, or are too many.
    pub fn new(ranges: Vec<(Slice, T)>) -> Result<Self, SliceMapError> {
        if ranges.len() > SLICE_COUNT_MAX {
            return Err(SliceMapError::TooMany(ranges.len()));
        }
        let mut next = Some(SliceKey::MIN);
        for (slice, _) in &ranges {
            match next {
                Some(expected) if slice.low() > expected => return Err(SliceMapError::Gap(expected)),
                Some(expected) if slice.low() == expected => next = slice.high_excluded(),
                _ => return Err(SliceMapError::Overlap(slice.low())),
            }
        }
        if let Some(uncovered) = next {
            return Err(SliceMapError::Gap(uncovered));
        }
        let (lows, values): (Vec<SliceKey>, Vec<T>) = ranges
            .into_iter()
            .map(|(slice, value)| (slice.low(), value))
            .unzip();
        let table_bits = lows
            .len()
            .next_power_of_two()
            .trailing_zeros()
            .clamp(1, TABLE_BITS_MAX);
        let table_shift = u64::BITS - table_bits;
        let table = (0..1_u64 << table_bits)
            .map(|cell| index_of(&lows, SliceKey::new(cell << table_shift)))
            .chain([index_of(&lows, SliceKey::MAX)])
            .map(|index| u32::try_from(index).expect("bounded by SLICE_COUNT_MAX"))
            .collect();
        Ok(Self {
            lows: lows.into(),
            values: values.into(),
            table,
            table_shift,
        })
    }

    /// How many slices there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a complete map is never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.lows.len()
    }

    /// The value at a position.
    #[inline]
    #[must_use]
    pub fn get(&self, position: SliceKey) -> &T {
        &self.values[self.index_at(position)]
    }

    /// The value at a position, with its slice.
    #[must_use]
    pub fn get_with_slice(&self, position: SliceKey) -> (Slice, &T) {
        let index = self.index_at(position);
        (self.slice_at(index), &self.values[index])
    }

    /// All slices in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Slice, &T)> {
        self.values
            .iter()
            .enumerate()
            .map(|(index, value)| (self.slice_at(index), value))
    }

    /// What lies within `slice`, clipped to it, in order.
    pub fn overlapping(&self, slice: Slice) -> impl Iterator<Item = (Slice, &T)> {
        let (first, last) = (self.index_at(slice.low()), self.index_at(slice.last()));
        (first..=last)
            .filter_map(move |index| Some((self.slice_at(index).intersect(slice)?, &self.values[index])))
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 16 bits are left after the shift"
    )]
    fn index_at(&self, position: SliceKey) -> usize {
        let cell = (position.get() >> self.table_shift) as usize;
        let (first, last) = (self.table[cell] as usize, self.table[cell + 1] as usize);
        first + self.lows[first + 1..=last].partition_point(|&low| low <= position)
    }

    fn slice_at(&self, index: usize) -> Slice {
        Slice::new(self.lows[index], self.lows.get(index + 1).copied()).expect("bounds ascend")
    }
}

impl<T: PartialEq> PartialEq for SliceMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.lows == other.lows && self.values == other.values
    }
}

fn index_of(lows: &[SliceKey], position: SliceKey) -> usize {
    lows.partition_point(|&low| low <= position) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map_of(cuts: &[u64]) -> SliceMap<usize> {
        let mut lows: Vec<u64> = cuts.iter().copied().chain([0]).collect();
        lows.sort_unstable();
        lows.dedup();
        let ranges = lows.iter().enumerate().map(|(index, &low)| {
            let high = lows.get(index + 1).map(|&high| SliceKey::new(high));
            (Slice::new(SliceKey::new(low), high).expect("ascending"), index)
        });
        SliceMap::new(ranges.collect()).expect("complete")
    }

    proptest! {
        /// Every position finds the slice that a linear walk finds, on evenly spread and on crowded bounds.
        #[test]
        fn lookup_agrees_with_a_walk(
            wide in prop::collection::vec(any::<u64>(), 0..80),
            narrow in prop::collection::vec(0u64..500, 0..80),
            probes in prop::collection::vec(any::<u64>(), 20),
        ) {
            let cuts: Vec<u64> = wide.iter().copied().chain(narrow.iter().map(|n| (3 << 60) + n)).collect();
            let map = map_of(&cuts);
            for probe in probes.into_iter().chain(cuts.iter().copied()).chain([0, u64::MAX]).map(SliceKey::new) {
                let (slice, &value) = map.get_with_slice(probe);
                prop_assert!(slice.contains(probe));
                prop_assert_eq!(*map.get(probe), value);
                let walked = map.iter().find(|(slice, _)| slice.contains(probe)).map(|(_, value)| *value);
                prop_assert_eq!(walked, Some(value));
            }
        }
    }

    #[test]
    fn incomplete_maps_are_refused() {
        let slice =
            |low: u64, last: u64| Slice::between(SliceKey::new(low), SliceKey::new(last)).expect("ordered");
        let new =
            |ranges: &[Slice]| SliceMap::new(ranges.iter().map(|&range| (range, ())).collect()).map(|_| ());
        assert_eq!(new(&[Slice::FULL]), Ok(()));
        assert_eq!(new(&[]), Err(SliceMapError::Gap(SliceKey::MIN)));
        assert_eq!(new(&[slice(1, u64::MAX)]), Err(SliceMapError::Gap(SliceKey::MIN)));
        assert_eq!(
            new(&[slice(0, 5), slice(7, u64::MAX)]),
            Err(SliceMapError::Gap(SliceKey::new(6)))
        );
        assert_eq!(
            new(&[slice(0, 5), slice(5, u64::MAX)]),
            Err(SliceMapError::Overlap(SliceKey::new(5)))
        );
        assert_eq!(new(&[slice(0, 5)]), Err(SliceMapError::Gap(SliceKey::new(6))));
        assert_eq!(
            new(&[Slice::FULL, slice(0, 5)]),
            Err(SliceMapError::Overlap(SliceKey::MIN))
        );
    }
}
