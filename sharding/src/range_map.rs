//! [`RangeMap`]: values over disjoint slices, with gaps. The cores keep per-range state in it.
//!
//! A change that touches part of a stored slice splits it first, so a value always belongs to exactly the slice that
//! it is returned with. Neighbours stay apart until [`RangeMap::coalesce`].

use std::collections::BTreeMap;

use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// Values over disjoint slices.
#[derive(Clone, Debug)]
pub struct RangeMap<T> {
    /// Low bound -> (last position, value).
    ranges: BTreeMap<SliceKey, (SliceKey, T)>,
}

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        Self {
            ranges: BTreeMap::new(),
        }
    }
}

impl<T: PartialEq> PartialEq for RangeMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.ranges == other.ranges
    }
}

impl<T> RangeMap<T> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of slices that do not overlap. Much quicker than to insert one after the other, above all in order.
    ///
    /// Requires: no two of them overlap.
    #[must_use]
    pub fn of_disjoint(ranges: Vec<(Slice, T)>) -> Self {
        let stored = ranges
            .into_iter()
            .map(|(slice, value)| (slice.low(), (slice.last(), value)));
        let ranges: BTreeMap<SliceKey, (SliceKey, T)> = stored.collect();
        debug_assert!(
            ranges
                .iter()
                .zip(ranges.iter().skip(1))
                .all(|((_, (last, _)), (low, _))| last < low),
            "two slices overlap"
        );
        Self { ranges }
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many stored slices it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// The value at a position, with the stored slice that holds it.
    #[must_use]
    pub fn get(&self, position: SliceKey) -> Option<(Slice, &T)> {
        let (&low, (last, value)) = self.ranges.range(..=position).next_back()?;
        (position <= *last).then(|| (stored(low, *last), value))
    }

    /// All stored slices in order.
    pub fn iter(&self) -> impl Iterator<Item = (Slice, &T)> {
        self.ranges
            .iter()
            .map(|(&low, (last, value))| (stored(low, *last), value))
    }

    /// All stored slices in order, with values that may be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Slice, &mut T)> {
        self.ranges
            .iter_mut()
            .map(|(&low, (last, value))| (stored(low, *last), value))
    }

    /// What is stored within `slice`, clipped to it, in order.
    pub fn overlapping(&self, slice: Slice) -> impl Iterator<Item = (Slice, &T)> {
        let from = self
            .get(slice.low())
            .map_or(slice.low(), |(first, _)| first.low());
        self.ranges
            .range(from..=slice.last())
            .filter_map(move |(&low, (last, value))| Some((stored(low, *last).intersect(slice)?, value)))
    }

    /// The parts of `slice` that hold nothing, in order.
    #[must_use]
    pub fn gaps(&self, slice: Slice) -> Vec<Slice> {
        let mut gaps = Vec::new();
        let mut next = Some(slice.low());
        for (held, _) in self.overlapping(slice) {
            if let (Some(from), Some(before)) = (next, held.low().previous()) {
                gaps.extend(Slice::between(from, before));
            }
            next = held.high_excluded();
        }
        gaps.extend(next.and_then(|from| Slice::between(from, slice.last())));
        gaps
    }
}

impl<T: Clone> RangeMap<T> {
    /// Stores `value` over `slice`, in place of whatever stood there.
    pub fn insert(&mut self, slice: Slice, value: T) {
        self.remove(slice);
        self.ranges.insert(slice.low(), (slice.last(), value));
    }

    /// Takes out what is stored within `slice`, clipped to it.
    pub fn remove(&mut self, slice: Slice) -> Vec<(Slice, T)> {
        self.split_at_bounds(slice);
        let lows: Vec<SliceKey> = self
            .ranges
            .range(slice.low()..=slice.last())
            .map(|(&low, _)| low)
            .collect();
        lows.into_iter()
            .filter_map(|low| {
                self.ranges
                    .remove(&low)
                    .map(|(last, value)| (stored(low, last), value))
            })
            .collect()
    }

    /// Changes what is stored within `slice`, clipped to it.
    pub fn update(&mut self, slice: Slice, mut change: impl FnMut(Slice, &mut T)) {
        self.split_at_bounds(slice);
        for (&low, (last, value)) in self.ranges.range_mut(slice.low()..=slice.last()) {
            change(stored(low, *last), value);
        }
    }

    /// Keeps what `keep` says; returns the rest.
    pub fn extract(&mut self, mut drop: impl FnMut(Slice, &mut T) -> bool) -> Vec<(Slice, T)> {
        let mut lows = Vec::new();
        for (slice, value) in self.iter_mut() {
            if drop(slice, value) {
                lows.push(slice.low());
            }
        }
        lows.into_iter()
            .filter_map(|low| {
                self.ranges
                    .remove(&low)
                    .map(|(last, value)| (stored(low, last), value))
            })
            .collect()
    }

    /// Joins touching neighbours that `same` calls equal; the left one's value stays.
    pub fn coalesce(&mut self, mut same: impl FnMut(&T, &T) -> bool) {
        let mut merged: BTreeMap<SliceKey, (SliceKey, T)> = BTreeMap::new();
        for (low, (last, value)) in std::mem::take(&mut self.ranges) {
            if let Some(mut left) = merged.last_entry() {
                let (left_last, left_value) = left.get_mut();
                if left_last.next() == Some(low) && same(left_value, &value) {
                    *left_last = last;
                    continue;
                }
            }
            merged.insert(low, (last, value));
        }
        self.ranges = merged;
    }

    /// Cuts the stored slices that reach over a bound of `slice`.
    fn split_at_bounds(&mut self, slice: Slice) {
        self.split_before(slice.low());
        if let Some(high) = slice.high_excluded() {
            self.split_before(high);
        }
    }

    fn split_before(&mut self, position: SliceKey) {
        let Some((held, value)) = self.get(position) else {
            return;
        };
        let Some((left, right)) = held.split_before(position) else {
            return;
        };
        let value = value.clone();
        if let Some((last, _)) = self.ranges.get_mut(&left.low()) {
            *last = left.last();
        }
        self.ranges.insert(right.low(), (right.last(), value));
    }
}

impl<T: Clone> FromIterator<(Slice, T)> for RangeMap<T> {
    fn from_iter<I: IntoIterator<Item = (Slice, T)>>(ranges: I) -> Self {
        let mut map = Self::new();
        for (slice, value) in ranges {
            map.insert(slice, value);
        }
        map
    }
}

fn stored(low: SliceKey, last: SliceKey) -> Slice {
    Slice::between(low, last).expect("a stored slice is never empty")
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "positions in these tests are below 24"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACE: u64 = 24;

    fn slice(low: u64, last: u64) -> Slice {
        Slice::between(SliceKey::new(low.min(last)), SliceKey::new(low.max(last))).expect("ordered")
    }

    proptest! {
        /// Against a plain array of positions: whatever is inserted, removed, changed and coalesced, each position reads
        /// the same, and gaps are exactly the positions without a value.
        #[test]
        fn behaves_as_an_array(steps in prop::collection::vec((0u8..4, 0..SPACE, 0..SPACE, 0u8..3), 1..40)) {
            let mut map = RangeMap::new();
            let mut model = [None; SPACE as usize];
            for (step, a, b, value) in steps {
                let range = slice(a, b);
                let cells = &mut model[range.low().get() as usize..=range.last().get() as usize];
                match step {
                    0 | 1 => { map.insert(range, value); cells.fill(Some(value)); }
                    2 => { map.remove(range); cells.fill(None); }
                    _ => {
                        map.update(range, |_, held| *held = 2 - *held);
                        for cell in cells.iter_mut().flatten() { *cell = 2 - *cell; }
                    }
                }
                if value == 0 { map.coalesce(|left, right| left == right); }
                for position in 0..SPACE {
                    let read = map.get(SliceKey::new(position));
                    prop_assert_eq!(read.map(|(_, value)| *value), model[position as usize]);
                    prop_assert!(read.is_none_or(|(held, _)| held.contains(SliceKey::new(position))));
                }
                let free: u128 = map.gaps(slice(0, SPACE - 1)).iter().map(|gap| gap.width()).sum();
                prop_assert_eq!(free, model.iter().filter(|cell| cell.is_none()).count() as u128);
                let seen: u128 = map.overlapping(range).map(|(part, _)| part.width()).sum();
                let expected = (range.low().get()..=range.last().get()).filter(|&p| model[p as usize].is_some()).count();
                prop_assert_eq!(seen, expected as u128);
            }
        }
    }

    #[test]
    fn coalesce_joins_equal_neighbours_only() {
        let mut map: RangeMap<u8> = [
            (slice(0, 3), 1),
            (slice(4, 5), 1),
            (slice(6, 7), 2),
            (slice(9, 9), 2),
        ]
        .into_iter()
        .collect();
        map.coalesce(|left, right| left == right);
        assert_eq!(
            map.iter().map(|(s, _)| s).collect::<Vec<_>>(),
            [slice(0, 5), slice(6, 7), slice(9, 9)]
        );
    }
}
