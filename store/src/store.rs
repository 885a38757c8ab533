//! [`Store`]: what every storage engine offers, what its caller guarantees and what it must do.
//!
//! # The caller guarantees
//! - `at` is `SliceKey::of_key(key)`, and [`OpContext`] is that of the range holding `at`, read while the range cannot
//!   be fenced. Nothing is executed for a range after it was fenced.
//! - Keys are 1 to [`KEY_BYTES_MAX`] bytes; values are at most the engine's configured maximum. (Engines check all the
//!   same and answer with a [`StoreError`].)
//! - An [`Epoch`] is never reused, and a [`PullId`] is begun once and ended once.
//!
//! # An engine must
//! - make each operation atomic per key: condition, version, effect and the written-keys memory in one step;
//! - show an operation only entries of its context's epoch; an entry of any other epoch is absent;
//! - take a version for each write from [`OpContext::versions`] under the key's lock (H4);
//! - keep an acknowledged set readable until it is overwritten, deleted, expired, or evicted *for want of room*; no
//!   admission policy refuses it;
//! - while [`OpContext::pull`] names an open pull: remember the SliceKey of each set, delete (present or not), touch
//!   and add *before* applying it, and refuse an import of a remembered SliceKey, checking and inserting in one step
//!   under the key's lock, *even if the entry was evicted meanwhile* (H3);
//! - answer [`Outcome::Unknown`], having changed nothing, when the reply or effect depends on the present value, the
//!   key is absent, not remembered as written, and [`OpContext::absence`] is [`Absence::AskGiver`] with a pull open;
//! - where [`OpContext::absence`] is [`Absence::Awaited`], take absence as final, and remember as written, too, what was refused
//!   because the key is absent;
//! - once a pull is ended, refuse its imports, however late, and free its memory;
//! - count keys, values and metadata in the byte budget, and copy what it keeps of the bytes it is given;
//! - read time only from `now`.

use std::fmt;

use bytes::Bytes;
use softstore_sharding::{
    Epoch, FrequencyClass, PullId, Slice, SliceKey, Timestamp, Version, VersionCounter,
};
use thiserror::Error;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 65_535;

/// What an operation knows of the range that it acts in.
#[derive(Clone, Copy, Debug)]
pub struct OpContext<'a> {
    /// The moment of the operation.
    pub now: Timestamp,
    /// The range's epoch: the only one whose entries the operation sees and writes.
    pub epoch: Epoch,
    /// Where the range's versions come from.
    pub versions: &'a VersionCounter,
    /// The open pull that still fills the range, if any.
    pub pull: Option<PullId>,
    /// What to do when the key is absent here but the giver of `pull` may have it.
    pub absence: Absence,
}

/// What absence means to an operation in a range that is being pulled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absence {
    /// Answer [`Outcome::Unknown`]: the caller asks the giver and comes again.
    AskGiver,
    /// Absent is absent: the giver was asked, or there is none.
    Final,
    /// Absent is absent: there is no giver yet. One may come back; then what is refused now was right, and so it is remembered as
    /// a write is.
    Awaited,
}

/// An operation's result, or the word that the giver has to be asked first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// Done.
    Done(T),
    /// Nothing was done: the giver may have the key.
    Unknown,
}

impl<T> Outcome<T> {
    /// The same outcome with what `change` makes of its result.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(result) => Outcome::Done(change(result)),
            Self::Unknown => Outcome::Unknown,
        }
    }
}

/// A live entry as a reader gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The value. Cheap to clone.
    pub value: Bytes,
    /// Its CAS token.
    pub version: Version,
    /// When it expires; [`Timestamp::NEVER`] if it does not.
    pub deadline: Timestamp,
}

/// A live entry while it is being read: its value where the store has it. See [`Store::read`].
#[non_exhaustive]
pub struct Reading<'a> {
    /// The value.
    pub value: &'a [u8],
    /// Its CAS token.
    pub version: Version,
    /// When it expires; [`Timestamp::NEVER`] if it does not.
    pub deadline: Timestamp,
    /// How the engine makes a value that outlives the reading; if it has no way of its own, by copying.
    share: Option<&'a dyn Fn() -> Bytes>,
}

impl<'a> Reading<'a> {
    /// A reading whose value is copied by whoever keeps it.
    #[must_use]
    pub fn new(value: &'a [u8], version: Version, deadline: Timestamp) -> Self {
        Self {
            value,
            version,
            deadline,
            share: None,
        }
    }

    /// The same, with a way to keep the value that the engine knows: `share` returns the bytes of `value`.
    #[must_use]
    pub fn shared_by(self, share: &'a dyn Fn() -> Bytes) -> Self {
        Self {
            share: Some(share),
            ..self
        }
    }

    /// The value for whoever keeps it: a long one without copying it if the engine can. It then keeps the whole entry
    /// in memory, outside of the byte budget once the store has let go of it.
    #[must_use]
    pub fn share(&self) -> Bytes {
        match self.share {
            Some(share) => share(),
            None => Bytes::copy_from_slice(self.value),
        }
    }
}

impl fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("value_bytes", &self.value.len())
            .field("version", &self.version)
            .field("deadline", &self.deadline)
            .finish()
    }
}

/// When a set applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetCondition {
    /// Always.
    #[default]
    Always,
    /// Only if the key is absent.
    IfAbsent,
    /// Only if the key is present.
    IfPresent,
    /// Only if the key is present with this version.
    IfVersion(Version),
}

/// What became of a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetOutcome {
    /// Applied, with the version it got.
    Stored(Version),
    /// The condition did not hold; the present version, if the key is present.
    Refused(Option<Version>),
}

/// What became of a counter add.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Added {
    /// The number after the addition.
    pub number: i64,
    /// The version it got.
    pub version: Version,
}

/// Why a store refused an operation. It changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The key is empty or longer than [`KEY_BYTES_MAX`].
    #[error("a key is 1 to {KEY_BYTES_MAX} bytes, not {0}")]
    KeyLength(usize),
    /// The value is longer than the engine takes.
    #[error("the value has {bytes} bytes; the limit is {bytes_max}")]
    ValueTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The entry alone exceeds the store's room.
    #[error("the entry needs {bytes} bytes; the whole store has {budget_bytes}")]
    LargerThanStore {
        /// What it needs, metadata included.
        bytes: usize,
        /// The budget, less what the engine keeps in reserve.
        budget_bytes: u64,
    },
    /// An add found a value that is no decimal 64-bit integer.
    #[error("the value is not a decimal integer of 64 bits")]
    NotANumber,
    /// An add would leave the range of 64-bit integers.
    #[error("the addition would overflow 64 bits")]
    Overflow,
}

/// An entry that arrives from a giver, by chunk or by peek.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Import<'a> {
    /// The application's key.
    pub key: &'a [u8],
    /// Its position.
    pub at: SliceKey,
    /// The value; copied.
    pub value: &'a [u8],
    /// The version it had at the giver.
    pub version: Version,
    /// When it expires on this node's clock; [`Timestamp::NEVER`] if it does not.
    pub deadline: Timestamp,
    /// How hot it was at the fence.
    pub class: FrequencyClass,
}

/// What became of an import.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImportOutcome {
    /// Inserted.
    Inserted,
    /// The key is present under this epoch already (imported before, or written): what stands here stands.
    Present,
    /// The key was written, deleted, touched or added to since the fence (H3).
    Written,
    /// Expired on arrival.
    Expired,
    /// The store is full of entries that it judges at least as hot: the caller should give up the rest of this class
    /// and all colder ones.
    TooCold,
    /// The pull was ended; the import came late.
    Ended,
    /// The entry does not fit this store (too large).
    Refused,
}

/// An entry as a giver hands it out. No access is counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frozen {
    /// The application's key.
    pub key: Bytes,
    /// Its position.
    pub at: SliceKey,
    /// The value.
    pub value: Bytes,
    /// Its version.
    pub version: Version,
    /// When it expires on this node's clock; [`Timestamp::NEVER`] if it does not.
    pub deadline: Timestamp,
    /// How hot it was at the moment asked for.
    pub class: FrequencyClass,
}

/// A part of the key space under one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which positions.
    pub slice: Slice,
    /// Entries of which epoch.
    pub epoch: Epoch,
}

/// The entries of some parts that do not overlap, hottest class first; within a class in the order of positions.
/// 8 bytes per entry.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Positions, hottest class first.
    pub positions: Vec<SliceKey>,
    /// Number of entries in each class, coldest first.
    pub class_counts: [u64; FrequencyClass::COUNT as usize],
    /// Keys and values together, in bytes.
    pub payload_bytes: u64,
}

impl Listing {
    /// The listing of positions by class, coldest class first, each class in any order.
    #[must_use]
    pub(crate) fn of_buckets(mut buckets: Vec<Vec<SliceKey>>, payload_bytes: u64) -> Self {
        let mut class_counts = [0; FrequencyClass::COUNT as usize];
        let mut positions = Vec::with_capacity(buckets.iter().map(Vec::len).sum());
        for (class, bucket) in buckets.iter_mut().enumerate().rev() {
            bucket.sort_unstable();
            class_counts[class] = bucket.len() as u64;
            positions.extend_from_slice(bucket);
            // Frees it now: a listing of millions is not held twice.
            *bucket = Vec::new();
        }
        Self {
            positions,
            class_counts,
            payload_bytes,
        }
    }
}

/// A store's gauges and counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreStats {
    /// Entries, those of left epochs and expired ones included until they are reclaimed.
    pub entries: u64,
    /// Bytes counted against the budget.
    pub bytes: u64,
    /// The budget. See [`Store::set_budget`].
    pub budget_bytes: u64,
    /// Entries evicted for want of room, since the start.
    pub evicted: u64,
    /// Entries found expired, since the start.
    pub expired: u64,
    /// Imports inserted, since the start.
    pub imported: u64,
    /// Keys and values of imports inserted, in bytes, since the start.
    pub imported_bytes: u64,
    /// Keys remembered as written in open pulls.
    pub written_keys: u64,
    /// Entries displaced by another key at the same position (see the crate's head), since the start.
    pub collisions: u64,
}

/// What a range holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartStats {
    /// Entries.
    pub entries: u64,
    /// Bytes counted against the budget.
    pub bytes: u64,
}

/// A storage engine. See the head of this file for the contract.
pub trait Store: Send + Sync + 'static {
    /// Reads a key and counts the access. `answer` is called with what is found, once, before this returns; not at all
    /// if the key is absent or unknown. Says whether it was called.
    ///
    /// `answer` may run under the key's lock, which holds up writers to it and its neighbours: it must not call the
    /// store, nor wait, and should copy a few KiB at most. A longer value it takes by [`Reading::share`].
    fn read(
        &self,
        key: &[u8],
        at: SliceKey,
        context: &OpContext<'_>,
        answer: &mut dyn FnMut(Reading<'_>),
    ) -> Outcome<bool>;

    /// The same for whoever keeps what is found.
    fn get(&self, key: &[u8], at: SliceKey, context: &OpContext<'_>) -> Outcome<Option<Found>> {
        let mut found = None;
        let outcome = self.read(key, at, context, &mut |reading| {
            found = Some(Found {
                value: reading.share(),
                version: reading.version,
                deadline: reading.deadline,
            });
        });
        match outcome {
            Outcome::Done(_) => Outcome::Done(found),
            Outcome::Unknown => Outcome::Unknown,
        }
    }

    /// Writes a key. `deadline` is [`Timestamp::NEVER`] for an entry that does not expire.
    ///
    /// # Errors
    /// If the key or value is refused for its length.
    fn set(
        &self,
        key: &[u8],
        at: SliceKey,
        value: &[u8],
        deadline: Timestamp,
        condition: SetCondition,
        context: &OpContext<'_>,
    ) -> Result<Outcome<SetOutcome>, StoreError>;

    /// Removes a key. Says whether it was present; with `report_existence` false that answer may be wrong in a range
    /// that is being pulled, and the operation is never [`Outcome::Unknown`].
    fn delete(
        &self,
        key: &[u8],
        at: SliceKey,
        report_existence: bool,
        context: &OpContext<'_>,
    ) -> Outcome<bool>;

    /// Replaces a key's deadline, if it is present; its version stays. Says whether it was present.
    fn touch(&self, key: &[u8], at: SliceKey, deadline: Timestamp, context: &OpContext<'_>) -> Outcome<bool>;

    /// Adds to the decimal integer that the value is; an absent key counts as 0 and is created with `deadline`; a
    /// present one keeps its own.
    ///
    /// # Errors
    /// If the value is no decimal integer, or the sum overflows.
    fn add(
        &self,
        key: &[u8],
        at: SliceKey,
        delta: i64,
        deadline: Timestamp,
        context: &OpContext<'_>,
    ) -> Result<Outcome<Added>, StoreError>;

    /// Opens a pull: from now on writes with it in their context are remembered.
    fn begin_pull(&self, pull: PullId);

    /// The same for a pull whose giver is away, and may never come back. What is remembered for it counts against a limit as large
    /// as that of all others, and apart from it: who awaits takes nothing from a planned pull.
    fn begin_awaiting(&self, pull: PullId);

    /// Ends a pull: later imports are refused, its memory is freed. Ending an unknown pull does nothing.
    fn end_pull(&self, pull: PullId);

    /// Whether the pull's written-keys memory overflowed. The caller then ends the pull and its peeks; until it does,
    /// the engine refuses the pull's imports as [`ImportOutcome::Written`] and treats every key as written.
    fn pull_overflowed(&self, pull: PullId) -> bool;

    /// Inserts an entry that arrived from a giver, unless H3 or room forbids it.
    fn import(&self, pull: PullId, epoch: Epoch, now: Timestamp, import: &Import<'_>) -> ImportOutcome;

    /// Inserts an entry that a peek brought: as [`Store::import`], but room is made for it as for a set, since an
    /// operation waits for it. Never [`ImportOutcome::TooCold`].
    fn import_peeked(&self, pull: PullId, epoch: Epoch, now: Timestamp, import: &Import<'_>)
    -> ImportOutcome;

    /// Whether a key is remembered as written in a pull (also true if the memory overflowed or the pull has ended).
    fn is_written(&self, pull: PullId, at: SliceKey) -> bool;

    /// Lists the entries of `parts` without walking the others, classed as of `as_of` (the moment of the fence), and
    /// without those that have expired by then.
    fn list(&self, parts: &[Part], as_of: Timestamp) -> Listing;

    /// Hands out an entry of a fenced range, classed as of `as_of`. Counts no access.
    fn read_frozen(&self, at: SliceKey, epoch: Epoch, as_of: Timestamp) -> Option<Frozen>;

    /// Reclaims the entries of a part whose epoch was left, at once or in later calls of [`Store::maintain`]. Removes
    /// nothing of another epoch. May be called while others use the store; takes the locks for short stretches only.
    fn purge(&self, part: Part);

    /// How many purged parts are yet to be reclaimed by [`Store::maintain`].
    fn purges_waiting(&self) -> usize;

    /// What a part holds (an estimate is enough).
    fn part_stats(&self, part: Part) -> PartStats;

    /// The engine's housekeeping; called every 100 ms or so with the time. Bounded work.
    fn maintain(&self, now: Timestamp);

    /// Gives the store another budget in bytes, from now on: less, and it evicts what it holds beyond, as for want of room;
    /// more, and it evicts later. An engine that was built for a largest budget goes no further than that. Bounded work: what
    /// is left to evict then is evicted by the next call, by [`Store::maintain`], or by those who write, and
    /// [`StoreStats::budget_bytes`] says what holds until then.
    fn set_budget(&self, budget_bytes: u64);

    /// Gauges and counters.
    fn stats(&self) -> StoreStats;
}
