//! [`Sketch`]: the heavy hitters among the operations that one thread sampled since the last heartbeat. Space-Saving in
//! sets of eight; the bound, and why, is in `load`.
//!
//! Invariant, per set: the counts add up to what the set got; of each key that is in it, `count - error` is at most how
//! often it came, and `count` at least; one that is not in it came at most as often as the smallest count says.

use crate::slice_key::SliceKey;

/// How many sets a summary has; a power of two.
pub const SETS: usize = 64;

/// How many keys a set has room for.
pub const WAYS: usize = 8;

/// Most bytes of a key that are kept to show it.
const KEY_PREFIX_BYTES: usize = 62;

/// The beginning of a key, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyPrefix {
    /// How long the key is in all, in bytes.
    length: u16,
    bytes: [u8; KEY_PREFIX_BYTES],
}

impl KeyPrefix {
    /// Most bytes of a key that are kept.
    pub const BYTES_MAX: usize = KEY_PREFIX_BYTES;

    const EMPTY: Self = Self {
        length: 0,
        bytes: [0; KEY_PREFIX_BYTES],
    };

    fn set(&mut self, key: &[u8]) {
        let kept = key.len().min(KEY_PREFIX_BYTES);
        self.bytes[..kept].copy_from_slice(&key[..kept]);
        self.length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    }

    /// Its first bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length).min(KEY_PREFIX_BYTES)]
    }

    /// How long the key is in all, in bytes.
    #[must_use]
    pub fn key_bytes(&self) -> u16 {
        self.length
    }
}

/// Eight keys, where a look-up finds them on two lines of the processor's cache. A count of 0: nothing is there.
#[derive(Clone, Copy, Debug)]
struct Set {
    at: [SliceKey; WAYS],
    counts: [u32; WAYS],
    errors: [u32; WAYS],
}

impl Set {
    const EMPTY: Self = Self {
        at: [SliceKey::MIN; WAYS],
        counts: [0; WAYS],
        errors: [0; WAYS],
    };
}

/// What a sketch knows of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    pub(super) at: SliceKey,
    pub(super) count: u32,
    /// At most how much of the count is not this key's.
    pub(super) error: u32,
    pub(super) key: KeyPrefix,
}

/// See the head of this file. 40 KiB.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    sets: Vec<Set>,
    keys: Vec<[KeyPrefix; WAYS]>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            sets: vec![Set::EMPTY; SETS],
            keys: vec![[KeyPrefix::EMPTY; WAYS]; SETS],
        }
    }
}

/// The set of a position. Its low bits are the lowest of the key's hash that a position has.
pub(super) fn set_of(at: SliceKey) -> usize {
    usize::try_from(at.get() % SETS as u64).expect("below the number of sets")
}

impl Sketch {
    /// Counts an operation on the key at `at`.
    pub(super) fn add(&mut self, at: SliceKey, key: &[u8]) {
        let number = set_of(at);
        let set = &mut self.sets[number];
        let known = (0..WAYS).find(|&way| set.at[way] == at && set.counts[way] > 0);
        let way = known.unwrap_or_else(|| {
            let mut least = 0;
            for way in 1..WAYS {
                if set.counts[way] < set.counts[least] {
                    least = way;
                }
            }
            set.at[least] = at;
            set.errors[least] = set.counts[least];
            self.keys[number][least].set(key);
            least
        });
        set.counts[way] = set.counts[way].saturating_add(1);
    }

    /// What is in a set.
    pub(super) fn counted(&self, number: usize) -> impl Iterator<Item = Counted> {
        let (set, keys) = (&self.sets[number], &self.keys[number]);
        let ways = (0..WAYS).filter(|&way| set.counts[way] > 0);
        ways.map(|way| Counted {
            at: set.at[way],
            count: set.counts[way],
            error: set.errors[way],
            key: keys[way],
        })
    }

    /// The most that a key which is not in a set can have come: 0 unless the set is full.
    pub(super) fn floor(&self, number: usize) -> u32 {
        self.sets[number].counts.iter().copied().min().unwrap_or(0)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.sets.fill(Set::EMPTY);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Plan: any stream of keys, few enough that all fall into some few sets. Every key's count is bounded on both
        /// sides as the invariant says, no error is above an eighth of what the set got, and who has more than that is in it.
        #[test]
        fn the_bound_holds(stream in prop::collection::vec(0..60u64, 1..800), sets in 1..4u64) {
            let mut sketch = Sketch::default();
            let mut came: HashMap<SliceKey, u32> = HashMap::new();
            for number in stream {
                let at = SliceKey::new((number << 20) | (number % sets));
                sketch.add(at, &number.to_be_bytes());
                *came.entry(at).or_default() += 1;
            }
            for number in 0..SETS {
                let of_set = came.iter().filter(|(at, _)| set_of(**at) == number);
                let total: u32 = of_set.clone().map(|(_, came)| came).sum();
                let counted: Vec<Counted> = sketch.counted(number).collect();
                prop_assert_eq!(counted.iter().map(|counted| counted.count).sum::<u32>(), total);
                for (at, &came) in of_set {
                    match counted.iter().find(|counted| counted.at == *at) {
                        Some(found) => {
                            prop_assert!(found.count >= came && found.count - found.error <= came);
                            prop_assert!(found.error as usize * WAYS <= total as usize);
                            let name = at.get() >> 20;
                            prop_assert_eq!(found.key.bytes(), &name.to_be_bytes());
                        }
                        None => {
                            prop_assert!(came <= sketch.floor(number));
                            prop_assert!(came as usize * WAYS <= total as usize);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_key_is_cut_and_says_so() {
        let mut key = KeyPrefix::EMPTY;
        key.set(&[7; 1_000]);
        assert_eq!(
            (key.bytes().len(), key.key_bytes()),
            (KeyPrefix::BYTES_MAX, 1_000)
        );
        key.set(b"short");
        assert_eq!((key.bytes(), key.key_bytes()), (b"short".as_slice(), 5));
    }
}
