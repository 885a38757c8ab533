//! [`Index`]: what is present at the positions of one lock stripe.
//!
//! Two structures over the same positions: a hash table with the entries, for whoever knows the position, and the
//! ordered set of positions, for whoever walks a slice. An overwrite changes the first alone. The table's buckets hold
//! the position beside the entry's pointer, so that a miss touches no entry.
//!
//! Invariant: a position is in both or in neither.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::ops::RangeBounds;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table;
use softstore_sharding::SliceKey;

use super::entry::Entry;

/// The entries of one stripe. See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashTable<(SliceKey, Entry)>,
    positions: BTreeSet<SliceKey>,
    /// Positions are hashes already, but within a stripe their low bits are the same, and a client may choose keys so
    /// that others are: one multiplication with what the process chose at random takes care of both.
    hasher: RandomState,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, at: SliceKey) -> Option<&Entry> {
        let held = self
            .entries
            .find(self.hasher.hash_one(at), |(held, _)| *held == at);
        held.map(|(_, entry)| entry)
    }

    /// The place of a position, to read it, change it and fill it in one look-up.
    pub(super) fn place(&mut self, at: SliceKey) -> Place<'_> {
        let hasher = &self.hasher;
        let place = self.entries.entry(
            hasher.hash_one(at),
            |(held, _)| *held == at,
            |(held, _)| hasher.hash_one(held),
        );
        match place {
            hash_table::Entry::Occupied(taken) => Place::Taken(&mut taken.into_mut().1),
            hash_table::Entry::Vacant(vacant) => Place::Free(Free {
                vacant,
                positions: &mut self.positions,
                at,
            }),
        }
    }

    pub(super) fn remove(&mut self, at: SliceKey) -> Option<Entry> {
        self.remove_if(at, |_| true)
    }

    /// Removes what is at a position if it is the one that is meant.
    pub(super) fn remove_if(&mut self, at: SliceKey, is_meant: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        let found = self
            .entries
            .find_entry(self.hasher.hash_one(at), |(held, _)| *held == at)
            .ok()?;
        if !is_meant(&found.get().1) {
            return None;
        }
        let ((_, entry), _) = found.remove();
        self.positions.remove(&at);
        Some(entry)
    }

    /// The entries of a range, in the order of positions.
    pub(super) fn range(
        &self,
        range: impl RangeBounds<SliceKey>,
    ) -> impl Iterator<Item = (SliceKey, &Entry)> {
        self.positions
            .range(range)
            .filter_map(|&at| Some((at, self.get(at)?)))
    }

    /// All entries, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SliceKey, &Entry)> {
        self.entries.iter().map(|(at, entry)| (*at, entry))
    }
}

/// A position of an [`Index`].
pub(super) enum Place<'a> {
    /// An entry is there.
    Taken(&'a mut Entry),
    /// Nothing is.
    Free(Free<'a>),
}

/// A position with nothing at it.
pub(super) struct Free<'a> {
    vacant: hash_table::VacantEntry<'a, (SliceKey, Entry)>,
    positions: &'a mut BTreeSet<SliceKey>,
    at: SliceKey,
}

impl<'a> Free<'a> {
    pub(super) fn fill(self, entry: Entry) -> &'a mut Entry {
        self.positions.insert(self.at);
        &mut self.vacant.insert((self.at, entry)).into_mut().1
    }
}
