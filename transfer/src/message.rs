//! What the two nodes of a hand-off say to each other, and an owner and its replicas. Pure data; the wire form is in `proto`.
//!
//! Each message carries ranges, the `since` under which they move, and both incarnations: the receiver's in
//! [`Take::to`], so that a message meant for an earlier life is refused. Repeating a message repeats its answer.

use bytes::Bytes;
use softstore_sharding::session::VersionRange;
use softstore_sharding::{FrequencyClass, Generation, Life, Peer, Slice, SliceKey, Version};

/// Most ranges in one [`Take`]; more are split over several.
pub const TAKE_RANGES_MAX: usize = 4_096;

/// Most parts that a [`Take`] is answered in, and most ranges in a [`PullRequest`] or a [`Release`]: a provider may have
/// held what is asked for in smaller parts, and the taker goes on with those.
pub const TAKEN_RANGES_MAX: usize = 1 << 16;

/// "These ranges are mine now: fence them."
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Take {
    /// The provider's life that is asked.
    pub to: Life,
    /// Who takes.
    pub taker: Peer,
    /// What.
    pub ranges: Vec<TakeRange>,
}

/// One range of a [`Take`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakeRange {
    /// Which.
    pub slice: Slice,
    /// The acquisition it is taken under.
    pub since: Generation,
    /// The acquisition under which the provider is asked to have held it.
    pub from: Generation,
}

/// A provider's answers, per part of what was asked; together they cover the ranges of the [`Take`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TakeReply {
    /// Who answers.
    pub from: Life,
    /// Versions of the chunk format it can send.
    pub chunk_versions: VersionRange,
    /// The answers.
    pub answers: Vec<TakeAnswer>,
}

/// The answer for one part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TakeAnswer {
    /// Which part.
    pub slice: Slice,
    /// The `since` it was asked under.
    pub since: Generation,
    /// The `from` it was asked under.
    pub from: Generation,
    /// What the provider says.
    pub verdict: Verdict,
}

/// What a provider says to a [`Take`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It held the range unfenced; now it is fenced, and the taker is the only owner.
    Fenced {
        /// No version given so far is this high.
        next_version: Version,
    },
    /// It was to own the range, never started, and never will under that `since`.
    NotStarted,
    /// It fenced the range for this life before.
    FencedTo {
        /// The life it was fenced for, and where that listens.
        taker: Peer,
        /// The acquisition it was fenced under.
        since: Generation,
    },
    /// It knows of a higher acquisition: wait for the assignment.
    Superseded {
        /// That acquisition.
        since: Generation,
    },
    /// Its own search for the range is still on: ask again shortly.
    Searching,
    /// It held the range under that acquisition and dropped it, frozen copy and all: whatever an older provider has is
    /// out of date, so the taker starts cold.
    Dropped,
}

/// Why a provider refused a message whole. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The message was meant for another life of this node.
    #[error("the message was meant for another incarnation of this node")]
    WrongIncarnation,
    /// The sender's incarnation is dead, by the assignment that this node holds.
    #[error("the sender's incarnation is dead")]
    SenderDead,
    /// Under an acquisition further ahead than clocks explain.
    #[error("the acquisition lies further ahead than any clock explains")]
    Invented,
    /// Under an acquisition that no assignment here knows yet: the taker asks again, and the Assigner is asked meanwhile.
    #[error("no assignment known here gives the range to the taker yet")]
    Unheard,
    /// The assignment of that very generation gives the range to another.
    #[error("the assignment gives the range to another")]
    Unlisted,
    /// The frozen copy is gone: released, dropped, or never made for this taker and `since`.
    #[error("the frozen copy is gone")]
    Gone,
    /// Both sides share no version of the chunk format that this build writes.
    #[error("no common version of the chunk format")]
    NoCommonVersion,
    /// A message over a limit, or one that contradicts itself.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// A range under the acquisition it was taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakenRange {
    /// Which.
    pub slice: Slice,
    /// The acquisition.
    pub since: Generation,
}

/// "Send me what you froze for me, hottest class first across all of it."
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PullRequest {
    /// The giver's life.
    pub to: Life,
    /// Who pulls.
    pub taker: Life,
    /// What.
    pub ranges: Vec<TakenRange>,
    /// Where to go on; empty from the start. Opaque to the taker.
    pub cursor: Bytes,
    /// Versions of the chunk format that the taker can read.
    pub chunk_versions: VersionRange,
}

/// "Have you these keys?" Asked before a taker in mid-pull calls them absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeekRequest {
    /// The giver's life.
    pub to: Life,
    /// Who asks.
    pub taker: Life,
    /// The keys, each with the acquisition of its range.
    pub keys: Vec<PeekKey>,
}

/// One key of a [`PeekRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeekKey {
    /// The application's key.
    pub key: Bytes,
    /// The acquisition under which its range was taken.
    pub since: Generation,
}

/// The answer for one peeked key, in the order of the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeekAnswer {
    /// Here it is.
    Found(Entry),
    /// The giver does not have it, nor does anyone before it.
    Absent,
    /// The giver does not have it, but somebody before it may, and did not answer it in time.
    Unknown,
    /// The frozen copy is gone: this ends the taker's pull of the range.
    Gone,
}

/// An entry on its way from giver to taker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The application's key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Its version at the giver.
    pub version: Version,
    /// Milliseconds it had left when the giver received the [`Take`]; `None` if it does not expire (H5).
    pub ttl_ms: Option<u64>,
    /// How hot it was at the fence.
    pub class: FrequencyClass,
}

impl Entry {
    /// The position of its key.
    #[must_use]
    pub fn at(&self) -> SliceKey {
        SliceKey::of_key(&self.key)
    }
}

/// "These ranges are complete or given up: drop your frozen copy."
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// The giver's life.
    pub to: Life,
    /// Who took.
    pub taker: Life,
    /// What.
    pub ranges: Vec<TakenRange>,
}

/// Most ranges in a [`LeaseRequest`], grants in a [`LeaseReply`], and keys or slices in an [`Invalidate`].
pub const READ_PARTS_MAX: usize = 1 << 16;

/// "Let me serve reads of these ranges." From a replica to the owner, at once when it becomes one, and again and again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseRequest {
    /// The owner's life.
    pub to: Life,
    /// Who asks.
    pub reader: Life,
    /// What, each under the acquisition by which the asker knows the owner.
    pub ranges: Vec<TakenRange>,
}

/// The owner's answer to a [`LeaseRequest`]. What is not granted is absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseReply {
    /// Who answers.
    pub from: Life,
    /// What it grants.
    pub grants: Vec<LeaseGrant>,
}

/// A read lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseGrant {
    /// On what.
    pub slice: Slice,
    /// The acquisition it was asked under.
    pub since: Generation,
    /// Which lease: the same number as before if it goes on. From 1 on; one owner's life gives a number to a reader once.
    pub number: u64,
    /// How long it is, in milliseconds from the *sending* of the request.
    pub lease_ms: u64,
}

/// "I am about to change these keys: forget your copies of them", and "these leases are over". Answered when it was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invalidate {
    /// The replica's life.
    pub to: Life,
    /// Who says so.
    pub owner: Life,
    /// Where copies go, and fills that are under way are not kept.
    pub keys: Vec<SliceKey>,
    /// Where the leases that this owner granted are over.
    pub revoked: Vec<Slice>,
}

/// "What have you under these keys?" From a replica that holds leases to the owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FillRequest {
    /// The owner's life.
    pub to: Life,
    /// Who asks.
    pub reader: Life,
    /// The keys. The answers come in this order. Fewer of them than keys if the entries are large, one at least: the rest is to
    /// be asked for again.
    pub keys: Vec<FillKey>,
}

/// One key of a [`FillRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FillKey {
    /// The application's key.
    pub key: Bytes,
    /// The read lease that its position is under.
    pub number: u64,
}

/// The answer for one key of a [`FillRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FillAnswer {
    /// Here it is.
    Found {
        /// The entry; its TTL counts from the sending of the request (H5).
        entry: Entry,
        /// Nobody is about to change it: it may be kept, and given to whoever asked while the request was under way. Else it
        /// is for those alone who asked before the request was sent.
        may_keep: bool,
    },
    /// The owner does not have it.
    Absent,
    /// The owner does not serve the position, knows no such lease, or cannot tell yet: ask it as a client would.
    NotLent,
}
