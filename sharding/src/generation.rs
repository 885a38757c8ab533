//! [`Generation`], [`Incarnation`] and the [`Version`]s that grow out of them (invariant H4).
//!
//! A version (CAS token) of a key is 64 bits: the generation number at which the key's range was acquired (42 bits) and
//! a counter (22 bits) that may carry into the number. Because a number is at least milliseconds since 2025, and an
//! owner would have to write more than 4 M times in each of them to outrun it, a range acquired later starts above
//! every version given before.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Bits of a [`Version`] that count writes within a generation number.
pub const VERSION_COUNTER_BITS: u32 = 22;

/// Generation numbers stay below this, so that one and a counter fit a [`Version`].
pub const GENERATION_NUMBER_MAX: u64 = (1 << 42) - 1;

/// Milliseconds from 1970-01-01 to 2025-01-01, both UTC: where generation numbers count from.
pub const GENERATION_EPOCH_UNIX_MS: u64 = 1_735_689_600_000;

/// How far the clocks of a cluster may be off each other, in milliseconds: a day, so that one set to local time is still
/// understood. A generation number that lies further ahead of what is known is taken for invented
/// ([`Generation::is_explained_by`]).
pub const CLOCKS_OFF_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// Tells the restarts of one process apart (a node's, or an Assigner's). Drawn at start; compared for equality only,
/// except inside a [`Generation`], where it breaks a tie. 0 means "none" and is never drawn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The incarnation with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The stamp of an assignment, totally ordered; a newer one always wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Generation {
    /// Grows with every assignment; at least the milliseconds since 2025-01-01 UTC; at most [`GENERATION_NUMBER_MAX`].
    pub number: u64,
    /// The Assigner that gave it out.
    pub assigner: Incarnation,
}

impl Generation {
    /// Before every generation that an Assigner gives out: "knows of none".
    pub const NONE: Self = Self {
        number: 0,
        assigner: Incarnation(0),
    };

    /// The generation that follows `highest` at wall-clock time `unix_ms`: (max(highest + 1, ms since 2025), `assigner`).
    #[must_use]
    pub fn following(highest: Self, unix_ms: u64, assigner: Incarnation) -> Self {
        let by_clock = unix_ms.saturating_sub(GENERATION_EPOCH_UNIX_MS);
        let number = (highest.number + 1).max(by_clock).min(GENERATION_NUMBER_MAX);
        Self { number, assigner }
    }

    /// Whether an Assigner may have given this out, as far as somebody can tell who holds `held` ([`Generation::NONE`]: nothing)
    /// and whose wall clock says `unix_ms` (0: it has none): its number is at most [`CLOCKS_OFF_MS_MAX`] above both. Not to be
    /// asked about what one's own Assigner says: that is believed, however wrong either clock is, and is `held` from then on.
    #[must_use]
    pub fn is_explained_by(self, held: Self, unix_ms: u64) -> bool {
        let by_clock = unix_ms.saturating_sub(GENERATION_EPOCH_UNIX_MS);
        self.number <= held.number.max(by_clock).saturating_add(CLOCKS_OFF_MS_MAX)
    }

    /// The lowest version that an owner who acquired a range at this generation may give out.
    #[must_use]
    pub const fn first_version(self) -> Version {
        Version(self.number << VERSION_COUNTER_BITS)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.assigner)
    }
}

/// A key's CAS token: it only grows, across owners and crashes (H4). 0 is never given out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Version(u64);

impl Version {
    /// The version with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The `next_version` of an owned range. Versions are taken from it under the key's lock. A clone (a split range's other
/// part) counts on by itself from where the original stood.
#[derive(Debug)]
pub struct VersionCounter(AtomicU64);

impl VersionCounter {
    /// The counter whose next version is `first`.
    #[must_use]
    pub const fn starting_at(first: Version) -> Self {
        Self(AtomicU64::new(first.0))
    }

    /// Takes the next version.
    #[must_use]
    pub fn take(&self) -> Version {
        Version(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// What [`VersionCounter::take`] would give. Exact only while nothing else takes.
    #[must_use]
    pub fn peek(&self) -> Version {
        Version(self.0.load(Ordering::Relaxed))
    }

    /// Sees to it that the next version is at least `floor`.
    pub fn raise_to(&self, floor: Version) {
        self.0.fetch_max(floor.0, Ordering::Relaxed);
    }
}

impl Clone for VersionCounter {
    fn clone(&self) -> Self {
        Self::starting_at(self.peek())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_follow_the_clock_and_never_step_back() {
        let assigner = Incarnation::new(7);
        let first = Generation::following(Generation::NONE, GENERATION_EPOCH_UNIX_MS + 5_000, assigner);
        assert_eq!(first.number, 5_000);
        // The wall clock was set back: still newer.
        let second = Generation::following(first, GENERATION_EPOCH_UNIX_MS, assigner);
        assert!(second > first);
        // A tie between two Assigners is broken by their incarnations.
        assert!(
            Generation {
                number: 9,
                assigner: Incarnation::new(2)
            } > Generation {
                number: 9,
                assigner: Incarnation::new(1)
            }
        );
        assert!(Generation::NONE < first);
    }

    /// Plan: what is held and the clock each allow for a day more, whichever is further; a clock that stands at 1970 counts for
    /// nothing, and takes nothing away.
    #[test]
    fn h8_what_no_clock_explains_is_invented() {
        let number = |number| Generation {
            number,
            assigner: Incarnation::new(1),
        };
        let held = number(5 * CLOCKS_OFF_MS_MAX);
        let ahead = GENERATION_EPOCH_UNIX_MS + 7 * CLOCKS_OFF_MS_MAX;
        for (unix_ms, days) in [(0, 6), (ahead, 8)] {
            assert!(number(days * CLOCKS_OFF_MS_MAX).is_explained_by(held, unix_ms));
            assert!(!number(days * CLOCKS_OFF_MS_MAX + 1).is_explained_by(held, unix_ms));
        }
        assert!(!number(GENERATION_NUMBER_MAX).is_explained_by(held, ahead));
    }

    #[test]
    fn h4_a_later_acquisition_starts_above() {
        let earlier = Generation {
            number: 100,
            assigner: Incarnation::new(1),
        };
        let later = Generation {
            number: 101,
            assigner: Incarnation::new(1),
        };
        let counter = VersionCounter::starting_at(earlier.first_version());
        let given = counter.take();
        assert!(later.first_version() > given);
        counter.raise_to(later.first_version());
        assert_eq!(counter.take(), later.first_version());
        counter.raise_to(earlier.first_version());
        assert!(counter.take() > later.first_version());
    }
}
