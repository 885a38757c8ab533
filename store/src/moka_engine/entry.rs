//! [`Entry`]: one key and its value in this engine, and what it weighs.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use bytes::Bytes;
use softstore_sharding::{Epoch, FrequencyClass, SliceKey, Timestamp, Version};

use crate::frequency::Frequency;
use crate::store::{Found, Frozen};

/// What an entry takes beside its key's and value's bytes: this entry, moka's node and deque link, the index, what
/// `Bytes` adds at the first read, and what the allocator rounds up. Measured as growth of resident memory by a million
/// entries of 24 + 100 bytes under jemalloc, the nodes' allocator: 365 after writing, 398 once all were read (under
/// glibc's: 451 and 491); the rest is room for a hash table that has just grown. The test `cost` measures it again.
pub const ENTRY_OVERHEAD_BYTES: usize = 416;

/// What an entry counts against the budget.
pub(super) fn weight_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
    (key_bytes + value_bytes + ENTRY_OVERHEAD_BYTES) as u64
}

/// A key and its value. All but deadline, frequency and turn never change: a write makes a new entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// Key and value in one allocation of their own: one less per entry, and a reader's value pins nothing else.
    payload: Bytes,
    key_bytes: u16,
    /// The turn in which moka was last told of a use (see `turns`).
    told_in: AtomicU16,
    pub(super) epoch: Epoch,
    pub(super) version: Version,
    /// Changed by touch, under the key's lock; read by anyone.
    deadline_ms: AtomicU64,
    pub(super) frequency: Frequency,
}

/// What an [`Entry`] is made of beside key and value.
pub(super) struct Stamp {
    pub(super) epoch: Epoch,
    pub(super) version: Version,
    pub(super) deadline: Timestamp,
    pub(super) frequency: Frequency,
    /// The present turn: to be inserted is a use that moka hears of.
    pub(super) turn: u16,
}

/// Copies a key and a value into one allocation. The caller has checked their lengths.
pub(super) fn copy_payload(key: &[u8], value: &[u8]) -> Bytes {
    let mut payload = Vec::with_capacity(key.len() + value.len());
    payload.extend_from_slice(key);
    payload.extend_from_slice(value);
    payload.into()
}

impl Entry {
    /// The entry of a payload made by [`copy_payload`] with a key of `key_bytes` bytes.
    pub(super) fn new(payload: Bytes, key_bytes: usize, stamp: Stamp) -> Self {
        Self {
            payload,
            key_bytes: u16::try_from(key_bytes).expect("the key's length was checked"),
            told_in: AtomicU16::new(stamp.turn),
            epoch: stamp.epoch,
            version: stamp.version,
            deadline_ms: AtomicU64::new(stamp.deadline.as_ms()),
            frequency: stamp.frequency,
        }
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.payload[..usize::from(self.key_bytes)]
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.payload[usize::from(self.key_bytes)..]
    }

    /// Bytes of key and value.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// What it counts against the budget.
    pub(super) fn weight_bytes(&self) -> u64 {
        weight_bytes(self.payload.len(), 0)
    }

    pub(super) fn deadline(&self) -> Timestamp {
        Timestamp::from_ms(self.deadline_ms.load(Ordering::Acquire))
    }

    /// Replaces the deadline. Under the key's lock.
    pub(super) fn set_deadline(&self, deadline: Timestamp) {
        self.deadline_ms.store(deadline.as_ms(), Ordering::Release);
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.deadline() <= now
    }

    /// Whether moka has yet to be told of a use in this turn. True once per turn.
    pub(super) fn is_first_use_in(&self, turn: u16) -> bool {
        // Looked at before it is written: an entry read by many threads is not passed around between them.
        self.told_in.load(Ordering::Relaxed) != turn && self.told_in.swap(turn, Ordering::Relaxed) != turn
    }

    /// Whether an operation on `key` in `epoch` sees it at `now`.
    pub(super) fn is_seen_by(&self, key: &[u8], epoch: Epoch, now: Timestamp) -> bool {
        self.epoch == epoch && !self.is_expired(now) && self.key() == key
    }

    pub(super) fn found(&self) -> Found {
        Found {
            value: self.payload.slice(usize::from(self.key_bytes)..),
            version: self.version,
            deadline: self.deadline(),
        }
    }

    pub(super) fn frozen(&self, at: SliceKey, class: FrequencyClass) -> Frozen {
        Frozen {
            key: self.payload.slice(..usize::from(self.key_bytes)),
            at,
            value: self.payload.slice(usize::from(self.key_bytes)..),
            version: self.version,
            deadline: self.deadline(),
            class,
        }
    }
}
