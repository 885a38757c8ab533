//! Planted races: protections that are left out on purpose, to show that the explorations find them. In a normal build
//! [`is`] is a constant `false` and nothing of them is compiled. (Mistakes of the protocol between nodes are planted in
//! `sharding::planted`, for the simulation; these are mistakes between the threads of one process.)

/// A protection that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Race {
    /// The store takes a write's version before it locks the key.
    VersionBeforeLock,
    /// The store looks whether a key was written, lets the key's lock go, and then inserts the import.
    ImportCheckBeforeLock,
    /// The store remembers a written key only after it let the key's lock go.
    RememberedAfterLock,
    /// An ended pull's memory is freed while its imports are still taken.
    MemoryFreedBeforeEnd,
    /// An eviction takes whatever stands at its position by then.
    EvictionOfWhateverStands,
    /// A stripe's mark is wiped after its notes were taken, with those that came in between.
    MarkWipedAfterNotes,
    /// A note's mark is set before the note is there.
    MarkSetBeforeNote,
    /// An eviction is counted whether or not an entry went with it.
    CountedOutUnseen,
    /// What is found expired is removed without another look under the lock.
    ExpiredNotLookedAtAgain,
    /// How many seats still grow is said after the list of them is open to others again.
    DebtCountedAfterLock,
    /// The client's task that serves a queue ends, and what waits in the queue is not ended with it.
    NobodyEndsWhatWaits,
    /// A node looks whether it stood still only after it let the core's lock go.
    StandstillLookedForAfterLock,
    /// Who sees the slicelet's step need not see the suspension before it.
    StepSeenUnordered,
    /// A node that stops serving does not wait for those inside the store.
    StopWaitsForNobody,
    /// Decisions are queued only after the lock is let go under which they were made.
    DecidedOutOfOrder,
}

#[cfg(any(feature = "shuttle", feature = "loom"))]
mod switch {
    use std::cell::Cell;

    use super::Race;

    // The explorers run all threads of a scenario on the calling thread: so a test's race is its own.
    std::thread_local! {
        static PLANTED: Cell<Option<Race>> = const { Cell::new(None) };
    }

    /// Whether this protection is left out.
    #[must_use]
    pub fn is(race: Race) -> bool {
        PLANTED.get() == Some(race)
    }

    /// A race that is planted until this is dropped.
    #[derive(Debug)]
    pub(crate) struct Planting;

    impl Planting {
        pub(crate) fn of(race: Race) -> Self {
            PLANTED.set(Some(race));
            Self
        }
    }

    impl Drop for Planting {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}

#[cfg(any(feature = "shuttle", feature = "loom"))]
pub(crate) use switch::Planting;
#[cfg(any(feature = "shuttle", feature = "loom"))]
pub use switch::is;

/// Whether this protection is left out: never, in this build.
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
#[must_use]
#[inline(always)]
pub const fn is(_: Race) -> bool {
    false
}
