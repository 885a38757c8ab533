//! [`Floors`]: the highest version of a key that anybody had been told by when.

use softstore_sharding::Version;

/// By time: when a version was told, and the highest that was told by then.
pub(super) struct Floors(Vec<(u64, Version)>);

impl Floors {
    /// From when each version was told, in microseconds, in any order.
    pub(super) fn of(told: impl IntoIterator<Item = (u64, Version)>) -> Self {
        let mut told: Vec<(u64, Version)> = told.into_iter().collect();
        told.sort_unstable();
        let mut highest = Version::default();
        for (_, version) in &mut told {
            highest = highest.max(*version);
            *version = highest;
        }
        Self(told)
    }

    /// When the last version before that moment was told, and the highest that had been told by then; `None`: none was.
    pub(super) fn before(&self, at_us: u64) -> Option<(u64, Version)> {
        let told = self.0.partition_point(|(by_us, _)| *by_us < at_us);
        self.0.get(told.checked_sub(1)?).copied()
    }
}
