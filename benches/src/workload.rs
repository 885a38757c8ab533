//! Keys, values and picks among them, the same in every run.

use bytes::Bytes;

/// Length of a [`Key`], in bytes.
pub const KEY_BYTES: usize = 24;

/// A key. Keys lie side by side, so that to pick one costs a bench no more than its own cache line.
pub type Key = [u8; KEY_BYTES];

/// The key with a number: it differs from others in its last digits only, as generated keys do.
///
/// # Panics
/// If the number has more than 19 digits.
#[must_use]
pub fn key(number: u64) -> Key {
    let text = format!("user:{number:019}");
    text.as_bytes().try_into().expect("five letters and 19 digits")
}

/// The keys numbered from 0.
#[must_use]
pub fn keys(count: u64) -> Vec<Key> {
    (0..count).map(key).collect()
}

/// A value of this length.
#[must_use]
pub fn value(bytes: usize) -> Bytes {
    Bytes::from(vec![b'v'; bytes])
}

/// Evenly spread numbers, the same for the same seed: splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators", 2014). A pick costs about a nanosecond, so it does not show beside what is measured.
#[derive(Clone, Debug)]
pub struct Picks(u64);

impl Picks {
    /// Picks that depend on the seed alone.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    #[inline]
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of a slice's items.
    ///
    /// # Panics
    /// If the slice is empty.
    #[inline]
    pub fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let index = self.number() % items.len() as u64;
        &items[usize::try_from(index).expect("below a length")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ() {
        let mut all = keys(1_000);
        all.dedup();
        assert_eq!(all.len(), 1_000);
    }

    /// The first numbers of splitmix64 from seed 1234567, as its authors' C code gives them.
    #[test]
    fn picks_are_splitmix64() {
        let mut picks = Picks::seeded(1_234_567);
        assert_eq!(picks.number(), 6_457_827_717_110_365_317);
        assert_eq!(picks.number(), 3_203_168_211_198_807_973);
    }
}
