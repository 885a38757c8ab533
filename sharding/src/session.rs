//! What a node and the Assigner say to each other on their session. Pure data; the wire form is in `proto`.
//!
//! A session opens with the node's [`Hello`]. Heartbeats carry load; their answers confirm that the Assigner still
//! counts the node as living. Hand-off messages that two nodes cannot exchange directly are relayed, unread.

use std::sync::Arc;

use crate::assignment::{Assignment, Provider};
use crate::diff::AssignmentDiff;
use crate::generation::Generation;
use crate::identity::{ClusterId, ProcessId};
use crate::load::KeyPrefix;
use crate::node::{Life, Peer};
use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// Versions of a format that a build can read and write, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionRange {
    /// Oldest.
    pub min: u32,
    /// Newest.
    pub max: u32,
}

impl VersionRange {
    /// The newest version that both sides know.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// The session's own format, as spoken by this build.
pub const SESSION_VERSIONS: VersionRange = VersionRange { min: 1, max: 3 };

/// Since this version of the session a node knows leases: it serves under the one that the Assigner's answers grant.
pub const SESSION_VERSION_OF_LEASES: u32 = 2;

/// Since this version of the session a node knows that what it held may come back: it awaits, freezes and offers. From and for
/// older ones nothing comes back.
pub const SESSION_VERSION_OF_REVIVAL: u32 = 3;

/// Most former lives whose entries one process offers.
pub const FORMER_LIVES_MAX: usize = 8;

/// Longest lease, in milliseconds.
pub const LEASE_MS_MAX: u64 = 60_000;

/// How long a process waits before it asks again for a name that another one holds, in milliseconds.
pub const NAME_RETRY_MS: u64 = 250;

/// What a node is, wants and holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Hello {
    /// Its present life and gRPC address.
    pub peer: Peer,
    /// Its HTTP address; empty if none.
    pub http_address: Arc<str>,
    /// Its failure domain; empty if none.
    pub zone: Arc<str>,
    /// Its store's budget in bytes.
    pub capacity_bytes: u64,
    /// It is on its way out and wants nothing new.
    pub draining: bool,
    /// The newest assignment it holds; [`Generation::NONE`] if none.
    pub generation: Generation,
    /// What it claims, with the phases. A fenced range is no claim to own.
    pub claims: Vec<RangeClaim>,
    /// Versions of the session format it speaks.
    pub versions: VersionRange,
    /// The length of the leases under which it serves, in milliseconds, 1 to [`LEASE_MS_MAX`]; none if it serves without
    /// one, or was not told yet.
    pub lease_ms: Option<u64>,
    /// The process that lives this life and the ones before it; none: a build that says neither process nor cluster.
    pub process: Option<ProcessId>,
    /// The cluster that it belongs to: the configured name, and the founding, once it has held an assignment.
    pub cluster: ClusterId,
    /// What its process held in former lives, and offers. It owns nothing by that.
    pub offers: Option<Offers>,
}

/// What a process held in former lives that were declared dead, frozen since it learnt of that.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offers {
    /// The lives under which it held or has offered it, oldest first, at most [`FORMER_LIVES_MAX`].
    pub former: Vec<Life>,
    /// The last heartbeat of the last of them that was answered; none if none was.
    pub last_answer: Option<LastAnswer>,
    /// What it offers, disjoint.
    pub ranges: Vec<Offer>,
}

/// A heartbeat's answer, by the clock of the node that received it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastAnswer {
    /// Which heartbeat.
    pub sequence: u64,
    /// Milliseconds from the answer's receipt until now.
    pub ms_ago: u64,
}

/// A range that a former life held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Which.
    pub slice: Slice,
    /// Since when the former life held it.
    pub since: Generation,
    /// For whom it was fenced, and under which acquisition; none: for nobody.
    pub taker: Option<(Life, Generation)>,
}

/// One range that a node holds, is to hold, or has fenced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeClaim {
    /// Which.
    pub slice: Slice,
    /// Since when it holds or is to hold it.
    pub since: Generation,
    /// The providers it knows for it.
    pub providers: Vec<Provider>,
    /// How far it is.
    pub phase: ClaimPhase,
}

/// How far a node is with a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClaimPhase {
    /// To own it; the search for a provider is on.
    NotStarted,
    /// Owner; nothing is being pulled.
    Serving,
    /// Owner; pulling the entries from this life.
    Pulling(Life),
    /// Owner that began cold, and may still get back what the life before it held under one of these acquisitions.
    Awaiting(Vec<Provider>),
    /// Fenced for this life: no claim, and never one again under that `since`. For [`Life::nobody`], if the node will not
    /// serve the range under that `since` for another reason.
    Fenced(Life),
}

/// Load and fill of a part of what a node owns. Rates are decayed, with a half-life of
/// [`HALF_LIFE_MS`](crate::load::HALF_LIFE_MS), finite and never negative.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SliceLoad {
    /// Which. It lies within one range of its node, and its bounds fall on slot borders unless they are the range's.
    pub slice: Slice,
    /// Operations per second.
    pub operations_per_second: f64,
    /// Resident bytes, an estimate.
    pub bytes: u64,
    /// Bytes of keys and values per second, in and out.
    pub bytes_per_second: f64,
    /// Gets that found something, per second: what would be missed if the slice were empty.
    pub hits_per_second: f64,
    /// Microseconds of processor time per second: its share, by the three above, of what the node's threads were busy.
    pub cpu_us_per_second: f64,
}

impl SliceLoad {
    /// A slice that draws no load and holds nothing.
    #[must_use]
    pub fn idle(slice: Slice) -> Self {
        Self {
            slice,
            operations_per_second: 0.0,
            bytes: 0,
            bytes_per_second: 0.0,
            hits_per_second: 0.0,
            cpu_us_per_second: 0.0,
        }
    }
}

/// Most bytes of a hot key that are reported; of a longer one, its beginning.
pub const HOT_KEY_BYTES_MAX: usize = KeyPrefix::BYTES_MAX;

/// A key that draws much load by itself. How it is found, and what the bound is: [`load`](crate::load).
#[derive(Clone, PartialEq, Debug)]
pub struct HotKeyLoad {
    /// Its position.
    pub at: SliceKey,
    /// Operations per second, decayed; finite, never negative.
    pub operations_per_second: f64,
    /// At most how much that is off, either way; finite, never negative.
    pub error_per_second: f64,
    /// The key, for people: its first bytes, at most [`HOT_KEY_BYTES_MAX`].
    pub key: Vec<u8>,
    /// The key's length in bytes.
    pub key_bytes: u16,
}

/// Why a node does not answer for a range that its assignment gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhyUnserved {
    /// It is still to take it: its search for who has it is on.
    Taking,
    /// It has fenced it for a taker that the assignment does not name, or will not serve it under that acquisition.
    GivenAway,
    /// It serves nothing: it stood still, or its lease is over, and the Assigner has not confirmed it since.
    Unconfirmed,
}

/// Which of the ranges that the assignment gives to a node, as of the generation that the same heartbeat names, it would not
/// answer for if it were asked now. Nothing unserved is the claim that it answers for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServingReport {
    /// How many.
    pub unserved: u64,
    /// The first of them, and why.
    pub first: Option<(Slice, WhyUnserved)>,
}

/// What a node that drains says of its drain. Entries and bytes (keys and values) are counted as its takers count them: one for
/// each entry, however often it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DrainReport {
    /// Entries that it held when the drain began.
    pub entries_held: u64,
    /// Entries that takers were sent since.
    pub entries_given: u64,
    /// Their keys and values.
    pub bytes_given: u64,
}

/// What a heartbeat tells of a node's condition.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LoadReport {
    /// What it does not answer for; none from a build that does not say: it is taken to answer for all that it has taken up.
    pub serving: Option<ServingReport>,
    /// How far its drain is; none while it does not drain, and from a build that does not say.
    pub drain: Option<DrainReport>,
    /// Live entries.
    pub entries: u64,
    /// Bytes used of the budget.
    pub bytes: u64,
    /// Reads since the start of this life.
    pub gets: u64,
    /// Of which found.
    pub hits: u64,
    /// Hand-offs in progress as taker (ranges pulling or not started).
    pub ranges_taking: u64,
    /// Ranges fenced whose frozen copy is still held.
    pub ranges_giving: u64,
    /// Entries received in hand-offs since the start of this life.
    pub entries_imported: u64,
    /// Bytes (keys and values) received in hand-offs since the start of this life.
    pub bytes_imported: u64,
    /// Operations served per second, decayed.
    pub operations_per_second: f64,
    /// Bytes of keys and values per second, in and out, decayed.
    pub bytes_per_second: f64,
    /// For how many microseconds per second the node's threads were busy, measured and decayed: of several threads the sum, with
    /// all that they do. What the slices have of it adds up to it, if they draw anything.
    pub cpu_us_per_second: f64,
    /// How much of their time the node's threads were busy lately, measured, 0 to 100.
    pub busy_percent: u8,
    /// Parts that cover what it owns, in order, cut by load; may be empty. At most
    /// [`SLICE_REPORTS_MAX`](crate::load::SLICE_REPORTS_MAX), or one for each range if there are more.
    pub slices: Vec<SliceLoad>,
    /// The keys that draw a good part of that, hottest first, at most [`HOT_KEYS_MAX`](crate::load::HOT_KEYS_MAX).
    pub hot_keys: Vec<HotKeyLoad>,
    /// What a person needs to know of the node (no name resolves, messages are refused), a line each: at most
    /// [`CONDITIONS_MAX`] of at most [`CONDITION_BYTES_MAX`].
    pub conditions: Vec<String>,
}

/// Most conditions that a heartbeat tells of.
pub const CONDITIONS_MAX: usize = 16;

/// Longest line about a condition, in bytes.
pub const CONDITION_BYTES_MAX: usize = 1_024;

/// How a hand-off of a range ended, as its taker tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandoffOutcome {
    /// The search ended, the taker owns and serves; a pull may still be on.
    Started,
    /// The search ended cold, the owner serves, and may still get back what the life before it held: whoever else was to
    /// provide may let go.
    Awaiting,
    /// All entries that the giver had have arrived, or nothing is to be had (cold), nor awaited.
    Completed,
    /// The pull was given up (deadline, full, giver gone); what had not arrived is lost.
    GaveUp,
}

/// A taker's word about a range it acquired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandoffReport {
    /// Which.
    pub slice: Slice,
    /// Under which acquisition.
    pub since: Generation,
    /// What happened.
    pub outcome: HandoffOutcome,
}

/// From a node to the Assigner.
#[derive(Clone, PartialEq, Debug)]
pub enum NodeMessage {
    /// First on every session.
    Hello(Hello),
    /// "I live"; answered with [`AssignerMessage::HeartbeatAnswer`].
    Heartbeat {
        /// Grows with each heartbeat of a life.
        sequence: u64,
        /// The assignment it holds.
        generation: Generation,
        /// Its condition.
        load: LoadReport,
        /// As in [`Hello::lease_ms`]: so the Assigner learns which of its answers arrived.
        lease_ms: Option<u64>,
    },
    /// A diff did not fit what it holds: send a full assignment.
    NeedFull,
    /// It leaves: move everything away.
    Draining,
    /// It has stopped serving, for good.
    Goodbye,
    /// Hand-offs started, completed or given up.
    Handoffs(Vec<HandoffReport>),
    /// The answer to [`AssignerMessage::FetchAssignment`].
    HeldAssignment(Option<Arc<Assignment>>),
    /// Pass this on, unread.
    Relay {
        /// To whom.
        to: Life,
        /// An encoded hand-off message.
        payload: Vec<u8>,
    },
}

/// A new assignment, whole or as what changed.
#[derive(Clone, PartialEq, Debug)]
pub enum AssignmentUpdate {
    /// All of it.
    Full(Arc<Assignment>),
    /// What changed since its base.
    Diff(Arc<AssignmentDiff>),
}

/// From the Assigner to a node.
#[derive(Clone, PartialEq, Debug)]
pub enum AssignerMessage {
    /// A newer assignment.
    Update(AssignmentUpdate),
    /// Your heartbeat arrived; you are counted as living, and this is the newest generation published.
    HeartbeatAnswer {
        /// Which heartbeat.
        sequence: u64,
        /// The newest generation that the Assigner has published.
        generation: Generation,
        /// Leased ownership: serve for so long after you *sent* that heartbeat, in milliseconds, 1 to [`LEASE_MS_MAX`], and
        /// no longer. None: serve until you are told otherwise.
        lease_ms: Option<u64>,
    },
    /// Your incarnation is dead, for ever: come back as a new one.
    YouAreDead,
    /// What the hello offers was heard. The clock of the node fell behind the Assigner's by at most so many milliseconds since the
    /// answer that the offers name; none: that is not known. Sent before any assignment that lists the node.
    OffersHeard {
        /// At most so much.
        behind_ms: Option<u64>,
    },
    /// Send the assignment you hold: a new Assigner recovers from it.
    FetchAssignment,
    /// An operator asked this node to leave.
    Drain,
    /// There is no node to take what you hold: end your drain at once.
    NoTaker,
    /// A hand-off message from another node that could not reach you.
    Relay {
        /// From whom.
        from: Life,
        /// An encoded hand-off message.
        payload: Vec<u8>,
    },
    /// Another process holds this node's name: wait, and say hello again. Nothing of what was said counts.
    NameTaken {
        /// Where the holder listens; empty if it is yet to come back to an Assigner that recovers.
        holder: Arc<str>,
    },
    /// This Assigner is of another cluster than the node. Nothing of what was said counts: the node keeps what it holds, and asks
    /// again.
    OtherCluster {
        /// The Assigner's.
        cluster: ClusterId,
    },
    /// The hello was refused for good (a format of another version, an impossible claim).
    Refused {
        /// What to tell the operator.
        reason: String,
    },
}
