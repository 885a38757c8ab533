//! The written-keys memory of H3: which positions were written in a pull since its fence.
//!
//! Each lock stripe holds its own part of each open pull's memory, so that an import checks it and inserts in one step
//! under the key's lock. What a pull's parts share is whether it overflowed; what all pulls share is how many keys are
//! remembered, because that is what memory is bounded by. After an overflow the parts stay until the pull ends: an
//! import that does not see the flag yet is still refused what was remembered before.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use softstore_sharding::{PullId, SliceKey};
use softstore_sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What all open pulls share: the keys that are remembered for those with a giver, and apart from them for those that began without.
#[derive(Debug)]
pub(super) struct WrittenLimit {
    pulled: AtomicU64,
    awaited: AtomicU64,
    keys_max: u64,
}

impl WrittenLimit {
    pub(super) fn new(keys_max: u64) -> Self {
        Self {
            pulled: AtomicU64::new(0),
            awaited: AtomicU64::new(0),
            keys_max,
        }
    }

    /// Keys remembered in all open pulls.
    pub(super) fn keys(&self) -> u64 {
        self.pulled.load(Ordering::Relaxed) + self.awaited.load(Ordering::Relaxed)
    }

    fn of(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Pulled => &self.pulled,
            Kind::Awaited => &self.awaited,
        }
    }
}

/// Whether a pull began with a giver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It did.
    Pulled,
    /// Its giver was away, and may come back.
    Awaited,
}

/// One stripe's part of the memories of all open pulls. There are few pulls at a time, so a list is searched.
#[derive(Debug, Default)]
pub(super) struct WrittenKeys {
    pulls: Vec<PullPart>,
}

#[derive(Debug)]
struct PullPart {
    pull: PullId,
    kind: Kind,
    positions: HashSet<SliceKey, RandomState>,
    overflowed: Arc<AtomicBool>,
}

/// What a memory says of a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Memory {
    /// The pull is not open: it was ended, or never begun.
    Closed,
    /// Written since the fence, or too much was written to remember.
    Written,
    /// Not written since the fence.
    Untouched,
}

impl WrittenKeys {
    pub(super) fn begin(&mut self, pull: PullId, kind: Kind, overflowed: Arc<AtomicBool>) {
        self.pulls.push(PullPart {
            pull,
            kind,
            positions: HashSet::with_hasher(RandomState::default()),
            overflowed,
        });
    }

    /// Forgets a pull. Says whether it was open.
    pub(super) fn end(&mut self, pull: PullId, limit: &WrittenLimit) -> bool {
        let Some(index) = self.pulls.iter().position(|part| part.pull == pull) else {
            return false;
        };
        let part = self.pulls.swap_remove(index);
        limit
            .of(part.kind)
            .fetch_sub(part.positions.len() as u64, Ordering::Relaxed);
        true
    }

    /// [`Race::MemoryFreedBeforeEnd`](softstore_sync::planted::Race::MemoryFreedBeforeEnd): frees a pull's memory and leaves
    /// the pull open.
    #[cfg(any(feature = "shuttle", feature = "loom"))]
    pub(super) fn free(&mut self, pull: PullId) {
        for part in self.pulls.iter_mut().filter(|part| part.pull == pull) {
            part.positions.clear();
        }
    }

    /// Remembers a position in a pull; without a pull, or in one that is not open, there is nothing to remember.
    pub(super) fn remember(&mut self, pull: Option<PullId>, at: SliceKey, limit: &WrittenLimit) {
        let Some(part) = pull.and_then(|pull| self.pulls.iter_mut().find(|part| part.pull == pull)) else {
            return;
        };
        if part.overflowed.load(Ordering::Relaxed) || part.positions.contains(&at) {
            return;
        }
        let keys = limit.of(part.kind);
        if keys.fetch_add(1, Ordering::Relaxed) >= limit.keys_max {
            keys.fetch_sub(1, Ordering::Relaxed);
            part.overflowed.store(true, Ordering::Release);
            return;
        }
        part.positions.insert(at);
    }

    pub(super) fn recall(&self, pull: PullId, at: SliceKey) -> Memory {
        match self.pulls.iter().find(|part| part.pull == pull) {
            None => Memory::Closed,
            Some(part) if part.overflowed.load(Ordering::Acquire) => Memory::Written,
            Some(part) if part.positions.contains(&at) => Memory::Written,
            Some(_) => Memory::Untouched,
        }
    }

    pub(super) fn overflowed(&self, pull: PullId) -> bool {
        self.pulls
            .iter()
            .any(|part| part.pull == pull && part.overflowed.load(Ordering::Acquire))
    }
}
