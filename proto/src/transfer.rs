//! `transfer.proto`: what the two nodes of a hand-off say to each other, to and from `softstore_transfer::message`.

use bytes::Bytes;
use prost::Message as _;
use softstore_sharding::{FrequencyClass, Version};
use softstore_transfer::message::{
    Entry, PeekAnswer, PeekKey, PeekRequest, PullRequest, Release, Take, TakeAnswer, TakeRange, TakeReply,
    TakenRange, Verdict,
};

use crate::assignment::{generation, life, peer, slice, versions};
use crate::error::{WireError, each, required, within};
use crate::limits::{
    CURSOR_BYTES_MAX, KEY_BYTES_MAX, PEEK_KEYS_MAX, RELAY_BYTES_MAX, TAKE_RANGES_MAX, TAKEN_RANGES_MAX,
    VALUE_BYTES_CEILING,
};
use crate::v1;

impl From<&Take> for v1::TakeRequest {
    fn from(take: &Take) -> Self {
        let ranges = take.ranges.iter().map(|range| v1::TakeRange {
            slice: Some(range.slice.into()),
            since: Some(range.since.into()),
            from: Some(range.from.into()),
        });
        Self {
            to: Some((&take.to).into()),
            taker: Some((&take.taker).into()),
            ranges: ranges.collect(),
        }
    }
}

impl TryFrom<v1::TakeRange> for TakeRange {
    type Error = WireError;

    fn try_from(wire: v1::TakeRange) -> Result<Self, WireError> {
        Ok(Self {
            slice: slice("take_range.slice", wire.slice)?,
            since: generation("take_range.since", wire.since)?,
            from: generation("take_range.from", wire.from)?,
        })
    }
}

impl TryFrom<v1::TakeRequest> for Take {
    type Error = WireError;

    fn try_from(wire: v1::TakeRequest) -> Result<Self, WireError> {
        Ok(Self {
            to: life("take.to", wire.to)?,
            taker: peer("take.taker", wire.taker)?,
            ranges: each("take.ranges", wire.ranges, TAKE_RANGES_MAX)?,
        })
    }
}

impl From<&TakeAnswer> for v1::TakeAnswer {
    fn from(answer: &TakeAnswer) -> Self {
        use v1::take_answer as wire;
        let verdict = match &answer.verdict {
            Verdict::Fenced { next_version } => wire::Verdict::Fenced(wire::Fenced {
                next_version: next_version.get(),
            }),
            Verdict::NotStarted => wire::Verdict::NotStarted(wire::NotStarted {}),
            Verdict::FencedTo { taker, since } => wire::Verdict::FencedTo(wire::FencedTo {
                taker: Some(taker.into()),
                since: Some((*since).into()),
            }),
            Verdict::Superseded { since } => wire::Verdict::Superseded(wire::Superseded {
                since: Some((*since).into()),
            }),
            Verdict::Searching => wire::Verdict::Searching(wire::Searching {}),
            Verdict::Dropped => wire::Verdict::Dropped(wire::Dropped {}),
        };
        Self {
            slice: Some(answer.slice.into()),
            since: Some(answer.since.into()),
            from: Some(answer.from.into()),
            verdict: Some(verdict),
        }
    }
}

impl TryFrom<v1::TakeAnswer> for TakeAnswer {
    type Error = WireError;

    fn try_from(wire: v1::TakeAnswer) -> Result<Self, WireError> {
        use v1::take_answer::Verdict as Wire;
        let verdict = match required("take_answer.verdict", wire.verdict)? {
            Wire::Fenced(fenced) => Verdict::Fenced {
                next_version: Version::new(fenced.next_version),
            },
            Wire::NotStarted(_) => Verdict::NotStarted,
            Wire::FencedTo(fenced) => Verdict::FencedTo {
                taker: peer("fenced_to.taker", fenced.taker)?,
                since: generation("fenced_to.since", fenced.since)?,
            },
            Wire::Superseded(superseded) => Verdict::Superseded {
                since: generation("superseded.since", superseded.since)?,
            },
            Wire::Searching(_) => Verdict::Searching,
            Wire::Dropped(_) => Verdict::Dropped,
        };
        Ok(Self {
            slice: slice("take_answer.slice", wire.slice)?,
            since: generation("take_answer.since", wire.since)?,
            from: generation("take_answer.from", wire.from)?,
            verdict,
        })
    }
}

impl From<&TakeReply> for v1::TakeReply {
    fn from(reply: &TakeReply) -> Self {
        Self {
            from: Some((&reply.from).into()),
            chunk_versions: Some(reply.chunk_versions.into()),
            answers: reply.answers.iter().map(Into::into).collect(),
            // Of the process, and not of the protocol: who sends it fills it in.
            longest_pause_ms: 0,
        }
    }
}

impl TryFrom<v1::TakeReply> for TakeReply {
    type Error = WireError;

    fn try_from(wire: v1::TakeReply) -> Result<Self, WireError> {
        Ok(Self {
            from: life("take_reply.from", wire.from)?,
            chunk_versions: versions("take_reply.chunk_versions", wire.chunk_versions)?,
            answers: each("take_reply.answers", wire.answers, TAKEN_RANGES_MAX)?,
        })
    }
}

impl From<&TakenRange> for v1::TakenRange {
    fn from(range: &TakenRange) -> Self {
        Self {
            slice: Some(range.slice.into()),
            since: Some(range.since.into()),
        }
    }
}

impl TryFrom<v1::TakenRange> for TakenRange {
    type Error = WireError;

    fn try_from(wire: v1::TakenRange) -> Result<Self, WireError> {
        Ok(Self {
            slice: slice("taken_range.slice", wire.slice)?,
            since: generation("taken_range.since", wire.since)?,
        })
    }
}

impl From<&PullRequest> for v1::PullRequest {
    fn from(pull: &PullRequest) -> Self {
        Self {
            to: Some((&pull.to).into()),
            taker: Some((&pull.taker).into()),
            ranges: pull.ranges.iter().map(Into::into).collect(),
            cursor: pull.cursor.clone(),
            chunk_versions: Some(pull.chunk_versions.into()),
        }
    }
}

impl TryFrom<v1::PullRequest> for PullRequest {
    type Error = WireError;

    fn try_from(wire: v1::PullRequest) -> Result<Self, WireError> {
        within("pull.cursor", wire.cursor.len(), CURSOR_BYTES_MAX)?;
        Ok(Self {
            to: life("pull.to", wire.to)?,
            taker: life("pull.taker", wire.taker)?,
            ranges: each("pull.ranges", wire.ranges, TAKEN_RANGES_MAX)?,
            cursor: wire.cursor,
            chunk_versions: versions("pull.chunk_versions", wire.chunk_versions)?,
        })
    }
}

impl From<&PeekRequest> for v1::PeekRequest {
    fn from(peek: &PeekRequest) -> Self {
        let keys = peek.keys.iter().map(|key| v1::PeekKey {
            key: key.key.clone(),
            since: Some(key.since.into()),
        });
        Self {
            to: Some((&peek.to).into()),
            taker: Some((&peek.taker).into()),
            keys: keys.collect(),
        }
    }
}

impl TryFrom<v1::PeekKey> for PeekKey {
    type Error = WireError;

    fn try_from(wire: v1::PeekKey) -> Result<Self, WireError> {
        Ok(Self {
            key: checked_key("peek_key.key", wire.key)?,
            since: generation("peek_key.since", wire.since)?,
        })
    }
}

impl TryFrom<v1::PeekRequest> for PeekRequest {
    type Error = WireError;

    fn try_from(wire: v1::PeekRequest) -> Result<Self, WireError> {
        Ok(Self {
            to: life("peek.to", wire.to)?,
            taker: life("peek.taker", wire.taker)?,
            keys: each("peek.keys", wire.keys, PEEK_KEYS_MAX)?,
        })
    }
}

impl From<&PeekAnswer> for v1::PeekAnswer {
    fn from(answer: &PeekAnswer) -> Self {
        use v1::peek_answer::Kind;
        let (kind, entry) = match answer {
            PeekAnswer::Found(entry) => (Kind::Found, Some(entry.into())),
            PeekAnswer::Absent => (Kind::Absent, None),
            PeekAnswer::Gone => (Kind::Gone, None),
            PeekAnswer::Unknown => (Kind::Unknown, None),
        };
        Self {
            kind: kind.into(),
            entry,
        }
    }
}

impl TryFrom<v1::PeekAnswer> for PeekAnswer {
    type Error = WireError;

    fn try_from(wire: v1::PeekAnswer) -> Result<Self, WireError> {
        use v1::peek_answer::Kind;
        const FIELD: &str = "peek_answer.kind";
        match Kind::try_from(wire.kind).map_err(|error| WireError::bad(FIELD, error))? {
            Kind::Unspecified => Err(WireError::Missing { field: FIELD }),
            Kind::Found => Ok(Self::Found(
                required("peek_answer.entry", wire.entry)?.try_into()?,
            )),
            Kind::Absent => Ok(Self::Absent),
            Kind::Gone => Ok(Self::Gone),
            Kind::Unknown => Ok(Self::Unknown),
        }
    }
}

/// The reply to a peek; answers in the order of the keys asked for.
#[must_use]
pub fn peek_reply_to_wire(answers: &[PeekAnswer]) -> v1::PeekReply {
    v1::PeekReply {
        answers: answers.iter().map(Into::into).collect(),
        longest_pause_ms: 0,
    }
}

/// The answers of a peek for `keys_asked` keys. A giver whose entries are large answers the first keys only; the rest is
/// asked for again.
///
/// # Errors
/// If there is no answer, there are more than keys, or an answer is malformed.
pub fn peek_reply_from_wire(wire: v1::PeekReply, keys_asked: usize) -> Result<Vec<PeekAnswer>, WireError> {
    if !(1..=keys_asked).contains(&wire.answers.len()) {
        let why = format!("{} answers for {keys_asked} keys", wire.answers.len());
        return Err(WireError::bad("peek_reply.answers", why));
    }
    each("peek_reply.answers", wire.answers, PEEK_KEYS_MAX)
}

impl From<&Entry> for v1::Entry {
    fn from(entry: &Entry) -> Self {
        Self {
            key: entry.key.clone(),
            value: entry.value.clone(),
            version: entry.version.get(),
            ttl_ms: entry.ttl_ms,
            class: entry.class.get().into(),
        }
    }
}

impl TryFrom<v1::Entry> for Entry {
    type Error = WireError;

    fn try_from(wire: v1::Entry) -> Result<Self, WireError> {
        within("entry.value", wire.value.len(), VALUE_BYTES_CEILING)?;
        let class = u8::try_from(wire.class).ok();
        let class = class.filter(|class| *class < FrequencyClass::COUNT);
        let class = class.ok_or_else(|| WireError::bad("entry.class", "above the hottest class"))?;
        Ok(Self {
            key: checked_key("entry.key", wire.key)?,
            value: wire.value,
            version: Version::new(wire.version),
            ttl_ms: wire.ttl_ms,
            class: FrequencyClass::clamped(class),
        })
    }
}

impl From<&Release> for v1::ReleaseRequest {
    fn from(release: &Release) -> Self {
        Self {
            to: Some((&release.to).into()),
            taker: Some((&release.taker).into()),
            ranges: release.ranges.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::ReleaseRequest> for Release {
    type Error = WireError;

    fn try_from(wire: v1::ReleaseRequest) -> Result<Self, WireError> {
        Ok(Self {
            to: life("release.to", wire.to)?,
            taker: life("release.taker", wire.taker)?,
            ranges: each("release.ranges", wire.ranges, TAKEN_RANGES_MAX)?,
        })
    }
}

pub(crate) fn checked_key(field: &'static str, key: Bytes) -> Result<Bytes, WireError> {
    if key.is_empty() {
        return Err(WireError::Missing { field });
    }
    within(field, key.len(), KEY_BYTES_MAX)?;
    Ok(key)
}

/// What two nodes that cannot reach each other send through the Assigner, which passes the bytes on unread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Relayed {
    /// A taker's question.
    Take(Take),
    /// A provider's answer.
    TakeReply(TakeReply),
}

impl Relayed {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use v1::relayed::Message;
        let message = match self {
            Self::Take(take) => Message::Take(take.into()),
            Self::TakeReply(reply) => Message::TakeReply(reply.into()),
        };
        v1::Relayed {
            message: Some(message),
        }
        .encode_to_vec()
    }

    /// Reads what [`Relayed::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are none, or more than [`RELAY_BYTES_MAX`].
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        use v1::relayed::Message;
        within("relay.payload", payload.len(), RELAY_BYTES_MAX)?;
        let wire = v1::Relayed::decode(payload).map_err(|error| WireError::Undecodable {
            message: "Relayed",
            why: error.to_string(),
        })?;
        Ok(match required("relayed.message", wire.message)? {
            Message::Take(take) => Self::Take(take.try_into()?),
            Message::TakeReply(reply) => Self::TakeReply(reply.try_into()?),
        })
    }
}
