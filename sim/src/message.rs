//! What travels between the simulated processes. The hand-off's and the session's messages are the real ones.

use bytes::Bytes;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::session::{AssignerMessage, AssignmentUpdate, NodeMessage};
use softstore_sharding::{Generation, Life, PullId, Slice, SliceKey, Version};
use softstore_transfer::HandoffConfig;
use softstore_transfer::message::{
    FillAnswer, FillRequest, Invalidate, LeaseReply, LeaseRequest, PeekAnswer, PeekRequest, PullRequest,
    READ_PARTS_MAX, Refusal, Release, Take, TakeReply,
};
use std::sync::Arc;

use crate::history::Answered;

/// Who sends and receives. A node's slot is its address: the next process there answers to it too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Endpoint {
    Assigner,
    Node(usize),
    Client(usize),
}

/// One thing on its way.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Operation(Request),
    OperationReply {
        operation: u64,
        attempt: u32,
        reply: Reply,
        answered: Option<Answered>,
    },
    Watch {
        generation: Generation,
    },
    WatchReply(AssignmentUpdate),
    Take(Take),
    TakeReply(Result<TakeReply, Refusal>),
    Release(Release),
    Peek {
        peek: u64,
        request: PeekRequest,
    },
    PeekReply {
        peek: u64,
        answers: Result<Vec<PeekAnswer>, Refusal>,
    },
    /// From a replica to an owner.
    AskLease {
        sequence: u64,
        request: LeaseRequest,
    },
    LeaseReply {
        sequence: u64,
        answer: Result<LeaseReply, Refusal>,
    },
    /// From an owner to a replica; a refusal is silence.
    Invalidate {
        order: u64,
        message: Invalidate,
    },
    Invalidated {
        order: u64,
    },
    /// From a replica to an owner.
    Fill {
        fill: u64,
        request: FillRequest,
    },
    FillReply {
        fill: u64,
        answers: Result<Vec<FillAnswer>, Refusal>,
    },
    OpenPull {
        stream: u64,
        pull: PullId,
        request: PullRequest,
    },
    Chunk(Chunk),
    PullRefused {
        stream: u64,
        pull: PullId,
        refusal: Refusal,
    },
    /// The taker wants no more.
    ClosePull {
        stream: u64,
    },
    Connect {
        connection: u64,
    },
    Accepted {
        connection: u64,
    },
    Closed {
        connection: u64,
    },
    ToAssigner {
        connection: u64,
        message: NodeMessage,
    },
    ToNode {
        connection: u64,
        message: AssignerMessage,
    },
}

impl Message {
    /// Whether the receiver refuses it for its size: more ranges than such a message may hold.
    pub(crate) fn is_too_large(&self, limits: &HandoffConfig) -> bool {
        let (count, count_max) = match self {
            Self::Take(take) => (take.ranges.len(), limits.take_ranges_max),
            Self::TakeReply(Ok(reply)) => (reply.answers.len(), limits.taken_ranges_max),
            Self::OpenPull { request, .. } => (request.ranges.len(), limits.taken_ranges_max),
            Self::Release(release) => (release.ranges.len(), limits.taken_ranges_max),
            Self::AskLease { request, .. } => (request.ranges.len(), READ_PARTS_MAX),
            Self::LeaseReply {
                answer: Ok(reply), ..
            } => (reply.grants.len(), READ_PARTS_MAX),
            Self::Invalidate { message, .. } => {
                (message.keys.len().max(message.revoked.len()), READ_PARTS_MAX)
            }
            Self::Fill { request, .. } => (request.keys.len(), READ_PARTS_MAX),
            _ => (0, 0),
        };
        count > count_max
    }
}

/// A piece of a pull's stream.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub stream: u64,
    pub pull: PullId,
    /// An encoded chunk; empty for a sign of life.
    pub frame: Bytes,
    pub cursor: Bytes,
    pub is_last: bool,
}

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Get,
    Set {
        value: Bytes,
        ttl_ms: Option<u64>,
        condition: Condition,
    },
    Delete {
        report_existence: bool,
    },
    Touch {
        ttl_ms: u64,
    },
    Add {
        delta: i64,
    },
    Flush {
        slice: Slice,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Condition {
    Always,
    IfAbsent,
    IfPresent,
    IfVersion(Version),
}

impl Operation {
    /// Whether it may be sent again after its first sending was lost.
    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(
            self,
            Self::Get
                | Self::Delete {
                    report_existence: false
                }
                | Self::Flush { .. }
        ) || (planted::is(Bug::AddRetried) && matches!(self, Self::Add { .. }))
    }

    pub(crate) fn changes_something(&self) -> bool {
        !matches!(self, Self::Get)
    }
}

/// An operation on its way to a node.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub operation: u64,
    pub attempt: u32,
    /// The first of its lines in the history.
    pub line: usize,
    pub client: usize,
    pub key: Bytes,
    pub at: SliceKey,
    pub since: Generation,
    pub what: Operation,
    /// How long it may still wait, in microseconds.
    pub remaining_us: u64,
    /// By whom it was carried out: for the checkers, and nothing that a node looks at.
    pub answered: Option<Answered>,
}

/// What a node answers.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Got(Option<(Bytes, Version)>),
    Stored(Version),
    Refused,
    Deleted,
    Touched(bool),
    Added {
        number: i64,
        version: Version,
    },
    /// The parts that were flushed.
    Flushed(Vec<Slice>),
    Moved {
        slice: Slice,
        owner: Life,
        address: Arc<str>,
        since: Generation,
    },
    NotReady,
    Behind,
}
