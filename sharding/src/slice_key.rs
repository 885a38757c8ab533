//! [`SliceKey`]: a key's 64-bit position in the hashed key space, and the Redis Cluster [`Slot`] in its top bits.
//!
//! The mapping is fixed for ever and the same on every platform: values that two nodes of different builds hold must
//! be found by both. The golden vectors in this file's tests are the contract. It is
//!
//! ```text
//!  63        50 49                                   0
//! +------------+--------------------------------------+
//! | slot (14)  |  xxh3_64(key) >> 14          (50)    |
//! +------------+--------------------------------------+
//! ```
//!
//! so the order of SliceKeys refines the order of Redis slots: a slice with bounds on slot borders is a run of whole
//! Redis slots, and a slice can still be cut finer, down to one key. This file does not know what owns a position.

use std::fmt;

use crc::{CRC_16_XMODEM, Crc, Table};
use serde::{Deserialize, Serialize};

/// Number of slots of Redis Cluster (Redis Cluster specification, "Key distribution model").
pub const SLOT_COUNT: u16 = 16_384;

/// Bits of a [`SliceKey`] below its slot.
const HASH_BITS: u32 = 50;

static CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// A Redis Cluster slot, 0 to 16,383.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a key: CRC16/XMODEM of the key, or of the part in its first non-empty `{...}`, modulo 16,384.
    /// Source: Redis Cluster specification, "Hash tags".
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        Self(CRC16.checksum(hash_tag(key)) % SLOT_COUNT)
    }

    /// The slot with this number, 0 to 16,383; there is no other.
    #[must_use]
    pub const fn with_number(number: u16) -> Option<Self> {
        if number < SLOT_COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The slot's number, 0 to 16,383.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A position in the hashed key space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SliceKey(u64);

impl SliceKey {
    /// The first position.
    pub const MIN: Self = Self(0);
    /// The last position.
    pub const MAX: Self = Self(u64::MAX);

    /// The position with this number; every number is one.
    #[must_use]
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The position of an application's key.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        let slot = u64::from(Slot::of_key(key).get());
        Self((slot << HASH_BITS) | (xxhash_rust::xxh3::xxh3_64(key) >> (64 - HASH_BITS)))
    }

    /// The first position of a slot.
    #[must_use]
    pub const fn first_of_slot(slot: Slot) -> Self {
        Self((slot.0 as u64) << HASH_BITS)
    }

    /// The last position of a slot.
    #[must_use]
    pub const fn last_of_slot(slot: Slot) -> Self {
        Self(Self::first_of_slot(slot).0 | ((1 << HASH_BITS) - 1))
    }

    /// The number of this position.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The slot that this position belongs to.
    #[must_use]
    pub const fn slot(self) -> Slot {
        Slot((self.0 >> HASH_BITS) as u16)
    }

    /// Whether a cut before this position falls on a slot border.
    #[must_use]
    pub const fn is_slot_border(self) -> bool {
        self.0 & ((1 << HASH_BITS) - 1) == 0
    }

    /// The next position, or `None` after the last.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(position) => Some(Self(position)),
            None => None,
        }
    }

    /// The position before, or `None` before the first.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(position) => Some(Self(position)),
            None => None,
        }
    }
}

impl fmt::Debug for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What of a key is hashed to its slot.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(|&byte| byte == b'}') {
        Some(length) if length > 0 => &rest[..length],
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_vectors_never_change() {
        // The published check values of both hashes, then positions that pin how they are put together.
        assert_eq!(CRC16.checksum(b"123456789"), 0x31c3);
        assert_eq!(xxhash_rust::xxh3::xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(xxhash_rust::xxh3::xxh3_64(b"a"), 0xe6c6_32b6_1e96_4e1f);
        assert_eq!(xxhash_rust::xxh3::xxh3_64(b"123456789"), 0x72dc_b18b_67a1_7dff);
        assert_eq!(SliceKey::of_key(b"123456789").slot().get(), 0x31c3);
        assert_eq!(
            SliceKey::of_key(b"123456789").get(),
            (0x31c3 << 50) | (0x72dc_b18b_67a1_7dff_u64 >> 14)
        );
        assert_eq!(
            SliceKey::of_key(b"a").get(),
            (15495 << 50) | (0xe6c6_32b6_1e96_4e1f_u64 >> 14)
        );
    }

    #[test]
    fn hash_tags_follow_redis_cluster() {
        // The examples of the Redis Cluster specification.
        assert_eq!(Slot::of_key(b"{user1000}.following"), Slot::of_key(b"user1000"));
        assert_eq!(
            Slot::of_key(b"foo{}{bar}"),
            Slot(CRC16.checksum(b"foo{}{bar}") % SLOT_COUNT)
        );
        assert_eq!(
            Slot::of_key(b"foo{{bar}}zap"),
            Slot(CRC16.checksum(b"{bar") % SLOT_COUNT)
        );
        assert_eq!(Slot::of_key(b"foo{bar}{zap}"), Slot::of_key(b"bar"));
        assert_eq!(
            Slot::of_key(b"foo{bar"),
            Slot(CRC16.checksum(b"foo{bar") % SLOT_COUNT)
        );
        // Same tag, different keys: the same slot, different positions.
        assert_ne!(SliceKey::of_key(b"{t}a"), SliceKey::of_key(b"{t}b"));
    }

    #[test]
    fn slot_borders() {
        let border = SliceKey::first_of_slot(Slot(7));
        assert!(border.is_slot_border());
        assert_eq!(border.slot(), Slot(7));
        assert_eq!(border.previous().map(SliceKey::slot), Some(Slot(6)));
        assert!(!border.next().is_some_and(SliceKey::is_slot_border));
    }
}
