//! Names that are local to one node: [`Epoch`], [`PullId`] and [`FrequencyClass`].

use serde::{Deserialize, Serialize};

/// Tells one node's successive holdings of a range apart. Each entry in a store carries the epoch under which it was
/// written or imported, and is visible only to operations of that epoch. So a range is dropped or flushed in one step
/// by leaving its epoch, however many entries it has: a frozen copy can never be mistaken for a live one, and the
/// memory is reclaimed afterwards. Never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Names one pull of a taker, from `Fenced` to its end. Never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PullId(u64);

impl PullId {
    /// The pull with this number.
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

/// How often an entry is used: a decayed access rate on a logarithmic scale, so that it compares across nodes. Each
/// class is twice as hot as the one below; 0 is coldest, [`FrequencyClass::HOTTEST`] hottest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct FrequencyClass(u8);

impl FrequencyClass {
    /// How many classes there are.
    pub const COUNT: u8 = 32;
    /// The coldest class.
    pub const COLDEST: Self = Self(0);
    /// The hottest class.
    pub const HOTTEST: Self = Self(Self::COUNT - 1);

    /// The class with this number, or the hottest if there is none.
    #[must_use]
    pub const fn clamped(number: u8) -> Self {
        if number < Self::COUNT {
            Self(number)
        } else {
            Self::HOTTEST
        }
    }

    /// Its number, 0 to 31.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}
