//! [`Slice`]: a half-open range of [`SliceKey`]s, never empty, as narrow as one position and as wide as the key space.
//!
//! Spoken of and written on the wire as `[low, high)`. It is kept as its first and last position, because the end of
//! the key space has no SliceKey of its own and the algebra is free of special cases that way.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::slice_key::{SliceKey, Slot};

/// A range of the key space, ordered by its low bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slice {
    low: SliceKey,
    last: SliceKey,
}

impl Slice {
    /// The whole key space.
    pub const FULL: Self = Self {
        low: SliceKey::MIN,
        last: SliceKey::MAX,
    };

    /// `[low, high_excluded)`, where `None` is the end of the key space. `None` if that is empty.
    #[must_use]
    pub fn new(low: SliceKey, high_excluded: Option<SliceKey>) -> Option<Self> {
        let last = match high_excluded {
            None => SliceKey::MAX,
            Some(high) => high.previous()?,
        };
        Self::between(low, last)
    }

    /// From `low` to `last`, both included. `None` if that is empty.
    #[must_use]
    pub fn between(low: SliceKey, last: SliceKey) -> Option<Self> {
        (low <= last).then_some(Self { low, last })
    }

    /// The slice of one position.
    #[must_use]
    pub const fn single(position: SliceKey) -> Self {
        Self {
            low: position,
            last: position,
        }
    }

    /// All positions of a slot.
    #[must_use]
    pub const fn of_slot(slot: Slot) -> Self {
        Self {
            low: SliceKey::first_of_slot(slot),
            last: SliceKey::last_of_slot(slot),
        }
    }

    /// Its first position.
    #[must_use]
    pub const fn low(self) -> SliceKey {
        self.low
    }

    /// Its last position, included.
    #[must_use]
    pub const fn last(self) -> SliceKey {
        self.last
    }

    /// The first position after it; `None` is the end of the key space.
    #[must_use]
    pub const fn high_excluded(self) -> Option<SliceKey> {
        self.last.next()
    }

    /// Whether a position lies in it.
    #[must_use]
    pub fn contains(self, position: SliceKey) -> bool {
        self.low <= position && position <= self.last
    }

    /// Whether another slice lies in it whole.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.low <= other.low && other.last <= self.last
    }

    /// What it shares with another.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::between(self.low.max(other.low), self.last.min(other.last))
    }

    /// Whether `next` begins where this one ends.
    #[must_use]
    pub fn touches(self, next: Self) -> bool {
        self.high_excluded() == Some(next.low)
    }

    /// How many positions it holds, 1 to 2^64.
    #[must_use]
    pub const fn width(self) -> u128 {
        self.last.get() as u128 - self.low.get() as u128 + 1
    }

    /// It, cut before `position`; `None` unless both parts hold something.
    #[must_use]
    pub fn split_before(self, position: SliceKey) -> Option<(Self, Self)> {
        if position <= self.low || position > self.last {
            return None;
        }
        let left = Self {
            low: self.low,
            last: position.previous()?,
        };
        Some((
            left,
            Self {
                low: position,
                last: self.last,
            },
        ))
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.high_excluded() {
            Some(high) => write!(f, "[{}, {})", self.low, high),
            None => write!(f, "[{}, end)", self.low),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(position: u64) -> SliceKey {
        SliceKey::new(position)
    }

    #[test]
    fn empty_slices_cannot_be_made() {
        assert!(Slice::new(key(5), Some(key(5))).is_none());
        assert!(Slice::new(key(0), Some(key(0))).is_none());
        assert_eq!(Slice::new(key(5), Some(key(6))), Some(Slice::single(key(5))));
        assert_eq!(Slice::new(SliceKey::MIN, None), Some(Slice::FULL));
        assert_eq!(Slice::FULL.width(), 1 << 64);
    }

    #[test]
    fn cuts_and_meets() {
        let (left, right) = Slice::FULL.split_before(key(10)).expect("10 lies inside");
        assert!(left.touches(right));
        assert!(!right.touches(left));
        assert_eq!(left.intersect(right), None);
        assert!(Slice::FULL.covers(left) && !left.covers(Slice::FULL));
        assert!(Slice::FULL.split_before(SliceKey::MIN).is_none());
        assert_eq!(left.high_excluded(), Some(key(10)));
        assert_eq!(right.high_excluded(), None);
    }
}
