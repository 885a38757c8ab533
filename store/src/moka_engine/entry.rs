//! [`Entry`]: one key and its value in this engine, and what it weighs.
//!
//! One allocation: reference count, header, length, key, value. A look-up that has found the entry's pointer is one
//! cache miss away from all of it, or two if the value is long.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use softstore_sharding::{Epoch, FrequencyClass, SliceKey, Timestamp, Version};
use triomphe::{Arc, ThinArc};

use super::seat::{Seat, Ticket};
use crate::frequency::Frequency;
use crate::store::{Frozen, Reading};

/// What an entry takes beside the allocation that holds its key and value: moka's nodes and links, the index, and what
/// the allocator rounds up there. Measured as growth of resident memory by a million entries of 24 + 100 bytes under
/// jemalloc, the nodes' allocator: 372 beyond key and value, of which the entry's own allocation has 68. The test `cost`
/// measures it again.
pub const ENTRY_OVERHEAD_BYTES: usize = 304;

/// What the entry's allocation holds beside key and value: the reference count, the header and the length.
const HEAD_BYTES: usize = size_of::<Header>() + 2 * size_of::<usize>();

/// A value up to this long is copied for whoever keeps it; of a longer one the entry is shared. Below, a copy costs
/// less than counting references on a line that others read, and pins no more than it is.
const COPIED_BYTES_MAX: usize = 1_024;

/// The longest payload that is put together in a buffer which the thread keeps.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

/// Up to here an allocation is rounded up to a size class, above to whole pages.
const CLASS_BYTES_MAX: usize = 16 << 10;

const PAGE_BYTES: usize = 4 << 10;

/// What an entry counts against the budget: what its allocation takes, by jemalloc's size classes (jemalloc(3),
/// "Implementation notes"), and what is kept about it elsewhere. So values of nearly the same length weigh the same.
pub(super) fn weight_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
    (allocated_bytes(HEAD_BYTES + key_bytes + value_bytes) + ENTRY_OVERHEAD_BYTES) as u64
}

fn allocated_bytes(bytes: usize) -> usize {
    let spacing = match bytes {
        0..=128 => 16,
        129..=CLASS_BYTES_MAX => 1 << ((bytes - 1).ilog2() - 2),
        _ => PAGE_BYTES,
    };
    bytes.next_multiple_of(spacing)
}

/// A key and its value. Cloning shares it. What others may hold never changes but for the atomics: a write puts a new
/// entry in its place, or overwrites it if nobody shares it.
#[derive(Clone, Debug)]
pub(super) struct Entry(ThinArc<Header, u8>);

#[derive(Debug)]
struct Header {
    epoch: Epoch,
    version: Version,
    /// Changed by touch, under the key's lock; read by anyone.
    deadline_ms: AtomicU64,
    frequency: Frequency,
    /// The ticket of its seat. Changed under the key's lock.
    ticket: AtomicU32,
    /// The turn in which it was seated (see `turns`). Changed under the key's lock.
    seated_in: AtomicU16,
    /// The turn in which moka was last told of a use.
    told_in: AtomicU16,
    key_bytes: u16,
}

/// What an [`Entry`] is made of beside key and value.
#[derive(Debug)]
pub(super) struct Stamp {
    pub(super) epoch: Epoch,
    pub(super) version: Version,
    pub(super) deadline: Timestamp,
    pub(super) frequency: Frequency,
}

impl Entry {
    /// Copies a key and a value, whose lengths the caller has checked, into an entry without a seat.
    pub(super) fn new(key: &[u8], value: &[u8], stamp: &Stamp) -> Self {
        thread_local! {
            static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let make = |payload: &mut Vec<u8>| {
            payload.extend_from_slice(key);
            payload.extend_from_slice(value);
            Self(ThinArc::from_header_and_slice(Header::new(key, stamp), payload))
        };
        if key.len() + value.len() > SCRATCH_BYTES_MAX {
            return make(&mut Vec::with_capacity(key.len() + value.len()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            make(scratch)
        })
    }

    /// Puts a key and a value of the same lengths, and another stamp, in place of its own, if nobody shares it. Its seat
    /// stays. Says whether it did.
    pub(super) fn overwrite(&mut self, key: &[u8], value: &[u8], stamp: &Stamp) -> bool {
        if self.key().len() != key.len() || self.value().len() != value.len() {
            return false;
        }
        self.0.with_arc_mut(|entry| {
            let Some(alone) = Arc::get_mut(entry) else {
                return false;
            };
            alone.header_mut().stamp(stamp);
            let (old_key, old_value) = alone.slice_mut().split_at_mut(key.len());
            old_key.copy_from_slice(key);
            old_value.copy_from_slice(value);
            true
        })
    }

    /// Stamps an entry that was made before its stamp was known, and that nobody shares yet.
    pub(super) fn stamped(mut self, stamp: &Stamp) -> Self {
        self.0.with_arc_mut(|entry| {
            let alone = Arc::get_mut(entry).expect("it was just made, and is shared with nobody");
            alone.header_mut().stamp(stamp);
        });
        self
    }

    fn header(&self) -> &Header {
        &self.0.header.header
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.header().epoch
    }

    pub(super) fn version(&self) -> Version {
        self.header().version
    }

    pub(super) fn frequency(&self) -> &Frequency {
        &self.header().frequency
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.0.slice[..usize::from(self.header().key_bytes)]
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.0.slice[usize::from(self.header().key_bytes)..]
    }

    /// Bytes of key and value.
    pub(super) fn payload_bytes(&self) -> usize {
        self.0.slice.len()
    }

    /// What it counts against the budget.
    pub(super) fn weight_bytes(&self) -> u64 {
        weight_bytes(self.payload_bytes(), 0)
    }

    pub(super) fn deadline(&self) -> Timestamp {
        Timestamp::from_ms(self.header().deadline_ms.load(Ordering::Acquire))
    }

    /// Replaces the deadline. Under the key's lock.
    pub(super) fn set_deadline(&self, deadline: Timestamp) {
        self.header()
            .deadline_ms
            .store(deadline.as_ms(), Ordering::Release);
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.deadline() <= now
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket::from_number(self.header().ticket.load(Ordering::Relaxed))
    }

    /// Gives it a seat, of which moka is to be told in this turn. Under the key's lock.
    pub(super) fn seat(&self, ticket: Ticket, turn: u16) -> Seat {
        let header = self.header();
        header.ticket.store(ticket.number(), Ordering::Relaxed);
        header.seated_in.store(turn, Ordering::Relaxed);
        header.told_in.store(turn, Ordering::Relaxed);
        Seat {
            ticket,
            weight_bytes: u32::try_from(self.weight_bytes()).unwrap_or(u32::MAX),
        }
    }

    /// Takes over the seat of an entry that weighs the same. Under the key's lock.
    pub(super) fn take_seat_of(&self, other: &Self) {
        let (header, other) = (self.header(), other.header());
        let copy =
            |to: &AtomicU16, from: &AtomicU16| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        header
            .ticket
            .store(other.ticket.load(Ordering::Relaxed), Ordering::Relaxed);
        copy(&header.seated_in, &other.seated_in);
        copy(&header.told_in, &other.told_in);
    }

    /// Whether its seat is of this turn.
    pub(super) fn is_seated_in(&self, turn: u16) -> bool {
        self.header().seated_in.load(Ordering::Relaxed) == turn
    }

    /// Whether moka has yet to be told of a use in this turn. True once per turn.
    pub(super) fn is_first_use_in(&self, turn: u16) -> bool {
        let told_in = &self.header().told_in;
        // Looked at before it is written: an entry read by many threads is not passed around between them.
        told_in.load(Ordering::Relaxed) != turn && told_in.swap(turn, Ordering::Relaxed) != turn
    }

    /// Whether an operation on `key` in `epoch` sees it at `now`.
    pub(super) fn is_seen_by(&self, key: &[u8], epoch: Epoch, now: Timestamp) -> bool {
        self.epoch() == epoch && !self.is_expired(now) && self.key() == key
    }

    /// The entry as a reader gets it.
    pub(super) fn read(&self, answer: &mut dyn FnMut(Reading<'_>)) {
        let share = || self.share(Self::value);
        answer(Reading::new(self.value(), self.version(), self.deadline()).shared_by(&share));
    }

    pub(super) fn frozen(&self, at: SliceKey, class: FrequencyClass) -> Frozen {
        Frozen {
            key: self.share(Self::key),
            at,
            value: self.share(Self::value),
            version: self.version(),
            deadline: self.deadline(),
            class,
        }
    }

    /// A part of it for whoever keeps it.
    fn share(&self, part: fn(&Self) -> &[u8]) -> Bytes {
        if part(self).len() <= COPIED_BYTES_MAX {
            return Bytes::copy_from_slice(part(self));
        }
        Bytes::from_owner(Shared {
            entry: self.clone(),
            part,
        })
    }
}

/// A part of an entry that is kept outside of the store.
struct Shared {
    entry: Entry,
    part: fn(&Entry) -> &[u8],
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        (self.part)(&self.entry)
    }
}

impl Header {
    fn new(key: &[u8], stamp: &Stamp) -> Self {
        Self {
            epoch: stamp.epoch,
            version: stamp.version,
            deadline_ms: AtomicU64::new(stamp.deadline.as_ms()),
            frequency: stamp.frequency.clone(),
            ticket: AtomicU32::new(0),
            seated_in: AtomicU16::new(0),
            told_in: AtomicU16::new(0),
            key_bytes: u16::try_from(key.len()).expect("the key's length was checked"),
        }
    }

    fn stamp(&mut self, stamp: &Stamp) {
        self.epoch = stamp.epoch;
        self.version = stamp.version;
        *self.deadline_ms.get_mut() = stamp.deadline.as_ms();
        self.frequency = stamp.frequency.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(version: u64) -> Stamp {
        Stamp {
            epoch: Epoch::new(1),
            version: Version::new(version),
            deadline: Timestamp::NEVER,
            frequency: Frequency::with_count(1.0, Timestamp::from_ms(1)),
        }
    }

    #[test]
    fn an_entry_of_the_usual_size_fits_three_cache_lines() {
        const { assert!(HEAD_BYTES <= 64) };
        assert_eq!(allocated_bytes(HEAD_BYTES + 24 + 100), 192);
    }

    /// The classes are jemalloc's: 16 bytes apart up to 128, four to each doubling from there.
    #[test]
    fn weights_follow_size_classes() {
        let classes = [
            (1, 16),
            (16, 16),
            (17, 32),
            (128, 128),
            (129, 160),
            (160, 160),
            (161, 192),
            (256, 256),
            (257, 320),
            (513, 640),
            (14_337, 16_384),
            (16_384, 16_384),
            (16_385, 20_480),
            (1 << 20, 1 << 20),
            ((1 << 20) + 1, (1 << 20) + 4_096),
        ];
        for (bytes, class) in classes {
            assert_eq!(allocated_bytes(bytes), class, "{bytes}");
        }
    }

    /// Plan: an entry is overwritten while it is shared, then when it is not, then by other lengths.
    #[test]
    fn what_others_hold_is_not_overwritten() {
        let mut entry = Entry::new(b"key", b"one", &stamp(1));
        entry.seat(Ticket::from_number(7), 3);
        let held = entry.clone();
        assert!(!entry.overwrite(b"key", b"two", &stamp(2)));
        assert_eq!((held.value(), held.version().get()), (&b"one"[..], 1));
        drop(held);
        assert!(entry.overwrite(b"key", b"two", &stamp(2)));
        assert_eq!((entry.value(), entry.version().get()), (&b"two"[..], 2));
        assert_eq!(
            (entry.key(), entry.ticket()),
            (&b"key"[..], Ticket::from_number(7))
        );
        assert!(!entry.overwrite(b"key", b"three", &stamp(3)));
        assert!(!entry.overwrite(b"longer", b"", &stamp(3)));
        assert_eq!((entry.value(), entry.version().get()), (&b"two"[..], 2));
    }

    /// Plan: values below and above the length from which they are shared; the bytes are the same, only the long one's
    /// are where the entry's are, and they outlive it.
    #[test]
    fn long_values_are_shared_and_short_ones_copied() {
        for (bytes, is_shared) in [(COPIED_BYTES_MAX, false), (COPIED_BYTES_MAX + 1, true)] {
            let value = vec![b'v'; bytes];
            let entry = Entry::new(b"key", &value, &stamp(1));
            let shared = entry.share(Entry::value);
            assert_eq!(std::ptr::eq(&shared[..], entry.value()), is_shared);
            drop(entry);
            assert_eq!(shared, value);
        }
    }
}
