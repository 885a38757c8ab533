//! Planted bugs: deliberate protocol mistakes, to show that the simulation finds them. Without the feature `planted-bugs`
//! [`is`] is a constant `false`, and nothing of them is compiled; with it, one at a time is switched on at run time, for
//! the calling thread, by `plant`. No binary that serves data may be built with the feature.
//!
//! Each is planted where the decision is taken that it gets wrong: in the cores, the model engine, or, for mistakes that
//! only a shell can make, in the simulation's shells, which do what the server's do.

macro_rules! bugs {
    ($($variant:ident, $name:literal, $seeds:literal, $what:literal;)*) => {
        /// A deliberate mistake.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Bug {
            $(#[doc = $what] $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The simulation finds it within this many seeds, counted from the first.
            #[must_use]
            pub const fn seeds_max(self) -> u64 {
                match self { $(Self::$variant => $seeds,)* }
            }

            /// Whether it is a mistake about leases, which only the leased mode shows.
            #[must_use]
            pub const fn is_of_leases(self) -> bool {
                matches!(self, Self::LeaseFromReply
                        | Self::LeaseNotAwaited
                        | Self::FormerLeaseForgotten
                        | Self::LeaseWaitSkipped)
            }

            /// What it gets wrong, in a line.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

bugs! {
    NoFenceWait, "no-fence-wait", 50, "an operation that was admitted before the fence goes on after it";
    WritesOutliveFence, "writes-outlive-fence", 50, "`Fenced` is answered before writes that wait for a peek have ended; they end in the frozen copy";
    FencedToTwo, "fenced-to-two", 2000, "`Fenced` is given to a second taker";
    CopyToRestartedTaker, "copy-to-restarted-taker", 300, "the frozen copy of a taker that died is given to its next life";
    IncarnationReused, "incarnation-reused", 50, "a restarted node answers for its former life";
    SinceIgnored, "since-ignored", 2000, "a giver fences for an old `Take` although it knows of a higher acquisition (ABA)";
    LeftoversKept, "leftovers-kept", 50, "the entries of a lost range are seen again when it comes back";
    LateReleaseDropsLive, "late-release-drops-live", 2000, "a late `Release` drops the entries of a range that is owned again";
    ServesAfterFence, "serves-after-fence", 50, "a giver goes on serving after it has answered `Fenced`";
    ServesBeforeFence, "serves-before-fence", 50, "a taker serves before any provider has answered";
    ChunkOverwrites, "chunk-overwrites", 50, "a chunk's entry replaces one that stands there";
    WrittenForgottenOnEviction, "written-forgotten-on-eviction", 500, "a written key is forgotten when its entry is evicted";
    LatePeekImported, "late-peek-imported", 2000, "a peek answered after the pull has ended, and its written keys are freed, is imported";
    AbsentDeleteUnrecorded, "absent-delete-unrecorded", 50, "the delete of an absent key is not remembered in a pull";
    TouchUnrecorded, "touch-unrecorded", 2000, "a touch is not remembered in a pull";
    AddWithoutPeek, "add-without-peek", 300, "an addition takes an absent key for 0 without asking the giver";
    CasOnAbsent, "cas-on-absent", 50, "a set at a version is applied to a key that is absent";
    OverflowIgnored, "overflow-ignored", 2000, "imports go on after the memory of written keys has overflowed";
    WaiterGetsPeekedValue, "waiter-gets-peeked-value", 300, "who waited for a peek gets what the giver said, although the key was written meanwhile";
    NegativePeekMidChain, "negative-peek-mid-chain", 50, "a giver in mid-pull calls a key absent without asking its own giver";
    ResumePositionLost, "resume-position-lost", 2000, "a pull resumes after a chunk that could not be decoded";
    TtlFromArrival, "ttl-from-arrival", 50, "an imported TTL counts from the entry's arrival";
    TtlFromFenced, "ttl-from-fenced", 300, "imported TTLs count from the arrival of `Fenced`, not from the sending of `Take`";
    ColdRestartsVersions, "cold-restarts-versions", 50, "a range that begins cold begins its versions anew";
    MovedAfterApplying, "moved-after-applying", 50, "`Moved` is answered for an operation that was applied";
    AddRetried, "add-retried", 50, "a client repeats an addition whose reply was lost";
    ExpiredHeldWrite, "expired-held-write", 300, "a write that was held back is applied after its deadline";
    ImportCheckOutsideLock, "import-check-outside-lock", 50, "an import looks whether a key was written, and inserts a moment later";
    CrcIgnored, "crc-ignored", 50, "a chunk's checksum is not compared";
    SecondProviderSkipped, "second-provider-skipped", 50, "a search ends cold after its first provider";
    NotStartedWhileSearching, "not-started-while-searching", 50, "a provider says `NotStarted` while its own `Take` is open";
    CompletedTooEarly, "completed-too-early", 50, "a taker reports a hand-off as complete when its pull begins";
    CopyOutlivesTaker, "copy-outlives-taker", 300, "a giver keeps its frozen copy for a taker that has died";
    SilentTaker, "silent-taker", 50, "a taker tells neither giver nor Assigner that a hand-off has ended";
    TakeSentOnce, "take-sent-once", 50, "a lost `Take` is not repeated";
    FlushKeepsPull, "flush-keeps-pull", 2000, "a flush does not end the pulls of its slice";
    LeavesUnreleased, "leaves-unreleased", 50, "a draining node leaves while takers still pull from it";
    GoodbyeBeforeStop, "goodbye-before-stop", 2000, "a node says goodbye before it has stopped serving";
    ZombieServes, "zombie-serves", 300, "a node that stood still for longer than the failure timeout serves at once when it wakes";
    StandstillFromLastStep, "standstill-from-last-step", 2000, "a node counts its standstill from its last step, as if a heartbeat had gone out with it";
    DiffOnWrongBase, "diff-on-wrong-base", 2000, "a diff is sent for, and applied to, another assignment than its base";
    TimersBeforeInbox, "timers-before-inbox", 300, "an Assigner that stood still buries who is silent before it reads what they sent";
    NoSettleTime, "no-settle-time", 2000, "a new Assigner publishes as soon as it has heard of anybody";
    EmptyHelloTakesAll, "empty-hello-takes-all", 300, "the first hello that holds nothing makes a new Assigner begin anew";
    ProvidersDropped, "providers-dropped", 50, "a range that moves on in mid-pull keeps its last owner as only provider";
    OversizeTake, "oversize-take", 2000, "all ranges asked of a provider go into one `Take`, whatever a message may hold";
    LeaseFromReply, "lease-from-reply", 2000, "a lease counts from the arrival of the heartbeat's answer (leased mode)";
    LeaseNotAwaited, "lease-not-awaited", 2000, "a silent node's ranges are given away before its lease is over (leased mode)";
    FormerLeaseForgotten, "former-lease-forgotten", 2000, "a new Assigner does not wait for the longer leases that the last assignment tells of (leased mode)";
    LeaseWaitSkipped, "lease-wait-skipped", 2000, "a new Assigner does not wait for the leases of the one before (leased mode)";
    ReplicaServedBeforeAdmission, "replica-served-before-admission", 2000, "a replica reads although its lease is over";
    FillCrossesInvalidation, "fill-crosses-invalidation", 2000, "a fill's answer is kept although the key was invalidated meanwhile";
    FillKeptWhileWritten, "fill-kept-while-written", 2000, "a fill's answer is kept although the owner was about to change the key";
    FillSharedWhileWritten, "fill-shared-while-written", 2000, "who came while a fill was under way gets its value, although a change was under way, too";
    LeaseOutlivesFence, "lease-outlives-fence", 2000, "a range is fenced while replicas hold read leases on it";
    ReadLeaseOverstayed, "read-lease-overstayed", 2000, "a replica reads on for as long again when its lease has ended";
    ColdStartUnwaited, "cold-start-unwaited", 2000, "a range starts cold while a former owner's read leases may be out";
    RevokedLeaseRevived, "revoked-lease-revived", 2000, "a grant that was on its way when the lease was revoked is believed, and the copies of before with it";
    CopiesKeptOverLeases, "copies-kept-over-leases", 2000, "a replica keeps its copies from one lease to the next";
    RevivedCopyUnbound, "revived-copy-unbound", 2000, "a life that came back gives what it held to any owner, and not only to the one that began cold after it";
    AwaitSurvivesSince, "await-survives-since", 2000, "what is awaited of a range is awaited by the next owner, too";
    OwnCopyKept, "own-copy-kept", 2000, "a node that owns a range again goes on with what its former life held, whoever owned it in between";
    FlushKeepsAwait, "flush-keeps-await", 2000, "a flush does not end the waiting for what may come back";
    AwaitMemoryLate, "await-memory-late", 2000, "what is written is remembered only since the awaited life is there";
    FreezeKeepsUpstream, "freeze-keeps-upstream", 2000, "what a dead life held is still filled by its pulls, whose written keys are freed";
    WriteAfterFreeze, "write-after-freeze", 2000, "a write that waited when its node was declared dead is applied to what was frozen";
    RevivedTtlFromFreeze, "revived-ttl-from-freeze", 2000, "TTLs of what comes back count from the moment at which it was frozen";
    WriteBeforeInvalidated, "write-before-invalidated", 2000, "an owner changes a key before its replicas have forgotten it";
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether this mistake is to be made.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this mistake is to be made: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}

/// Switches a mistake on for the calling thread, or all off.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        for (index, bug) in Bug::ALL.iter().enumerate() {
            let name = bug.name();
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
            assert!(
                Bug::ALL[..index].iter().all(|other| other.name() != name),
                "{name}"
            );
            assert!(bug.seeds_max() <= 2_000 && !bug.what().is_empty());
        }
        assert!(Bug::ALL.len() >= 25);
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[test]
    fn none_is_made_unasked() {
        assert!(Bug::ALL.iter().all(|bug| !is(*bug)));
    }
}
