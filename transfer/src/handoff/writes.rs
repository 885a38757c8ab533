//! [`Writes`]: which positions are about to be changed. The owner looks here before it reads what a replica fills with.
//!
//! Not part of the core: a mark is set and removed by operations, which have the core shared only. The shell keeps it behind
//! a lock of its own.
//!
//! The order is everything (H2). A write *marks*, then notes the number of the last read lease given and who holds any
//! ([`Clearance`](super::Clearance)), then invalidates, and changes the key only then. A fill *looks*, then reads. So a fill
//! that saw no mark has read before any invalidation of the write was sent, and is not kept by a replica that answered one;
//! and a lease that the write does not know of begins after the mark, so that its fills see it.

use std::collections::BTreeMap;

use softstore_sharding::{Slice, SliceKey};

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    /// Single positions, with the number of writes that are about to change each.
    single: BTreeMap<SliceKey, usize>,
    /// Wide ones: flushes. Few.
    wide: Vec<Slice>,
}

impl Writes {
    /// An operation is about to change a slice: a single position, or what is flushed.
    pub fn begin(&mut self, slice: Slice) {
        if slice.width() == 1 {
            *self.single.entry(slice.low()).or_default() += 1;
        } else {
            self.wide.push(slice);
        }
    }

    /// The operation has changed it, or never will. Once for each `begin`.
    pub fn end(&mut self, slice: Slice) {
        if slice.width() > 1 {
            let index = self.wide.iter().position(|marked| *marked == slice);
            index.map(|index| self.wide.swap_remove(index));
        } else if let Some(count) = self.single.get_mut(&slice.low()) {
            *count -= 1;
            if *count == 0 {
                self.single.remove(&slice.low());
            }
        }
    }

    /// Whether an operation is about to change a position.
    #[must_use]
    pub fn is_marked(&self, at: SliceKey) -> bool {
        self.single.contains_key(&at) || self.wide.iter().any(|slice| slice.contains(at))
    }

    /// How many marks are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.single.values().sum::<usize>() + self.wide.len()
    }

    /// Whether no mark is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.single.is_empty() && self.wide.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plan: two writes of one position and a flush around it; the position is marked until the last of them has ended, and
    /// ending what never began changes nothing.
    #[test]
    fn h2_a_position_is_marked_until_its_last_write_has_ended() {
        let at = SliceKey::new(7);
        let flushed = Slice::between(SliceKey::new(5), SliceKey::new(9)).unwrap();
        let mut writes = Writes::default();
        writes.end(Slice::single(at));
        writes.begin(Slice::single(at));
        writes.begin(Slice::single(at));
        writes.begin(flushed);
        assert_eq!(writes.len(), 3);
        assert!(writes.is_marked(at) && writes.is_marked(SliceKey::new(9)));
        assert!(!writes.is_marked(SliceKey::new(10)));
        writes.end(Slice::single(at));
        writes.end(flushed);
        assert!(writes.is_marked(at) && !writes.is_marked(SliceKey::new(9)));
        writes.end(Slice::single(at));
        assert!(!writes.is_marked(at) && writes.is_empty());
    }
}
