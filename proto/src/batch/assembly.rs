//! [`Assembly`]: a batch that is being put together.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;
use softstore_sharding::Generation;
use softstore_sharding::session::VersionRange;

use super::field::{Head, Tag, bytes_field_bytes, present_field_bytes, varint_bytes};
use super::{Encoded, OpBatch, OpView, ReplyBatch, ReplyBatchNotes, ReplyView};
use crate::v1;

/// From this length on, a value had better be shared than copied into the batch.
pub const SHARED_BYTES_MIN: usize = 4 << 10;

/// A value on its way into a batch.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// To be copied.
    Copied(&'a [u8]),
    /// To be sent from where it is.
    Shared(Bytes),
}

impl<'a> Value<'a> {
    /// Shared if it is large, else copied.
    #[must_use]
    pub fn of(bytes: &'a Bytes) -> Self {
        if bytes.len() >= SHARED_BYTES_MIN {
            Self::Shared(bytes.clone())
        } else {
            Self::Copied(bytes)
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Copied(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an `OpBatch` says beside its operations.
#[derive(Clone, PartialEq, Message)]
struct OpBatchRest {
    #[prost(message, repeated, tag = "2")]
    sinces: Vec<v1::Generation>,
    #[prost(uint64, tag = "3")]
    sent_ms: u64,
    #[prost(message, optional, tag = "4")]
    versions: Option<v1::VersionRange>,
}

/// What a `ReplyBatch` says beside its replies.
#[derive(Clone, PartialEq, Message)]
struct ReplyBatchRest {
    #[prost(bool, tag = "2")]
    closing: bool,
    #[prost(uint32, tag = "3")]
    version: u32,
    #[prost(uint64, tag = "4")]
    value_bytes_max: u64,
}

/// Operations, or replies, encoded as they come.
#[derive(Debug, Default)]
pub struct Assembly {
    /// All but shared values.
    bytes: Vec<u8>,
    /// Shared values, each before the byte at this position.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
    /// What was taken back, in the order of positions.
    withdrawn: Vec<Range<usize>>,
}

impl Assembly {
    /// An empty batch with room for so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ..Self::default()
        }
    }

    /// Makes room for so many bytes more.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Bytes so far, what was taken back included.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len() + self.shared_bytes
    }

    /// The same without shared values.
    #[must_use]
    pub fn inline_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends an operation; `value` goes for that of `op`. Gives its place, for [`Assembly::withdraw`].
    #[inline]
    pub fn push_op(&mut self, op: &OpView<'_>, value: Value<'_>) -> Range<usize> {
        let mut head = Head::new();
        op.write_scalars(&mut head);
        let slice = op.slice.map(|slice| slice.encode_to_vec());
        self.push(
            head,
            [
                (Tag::bytes(3), said(op.key)),
                // A message that is there says so even if it has no bytes: the slice of the whole key space has none.
                (Tag::bytes(12), slice.as_deref()),
            ],
            value,
            Tag::bytes(4),
        )
    }

    /// Appends a reply; `value` goes for that of `reply`.
    #[inline]
    pub fn push_reply(&mut self, reply: &ReplyView<'_>, value: Value<'_>) {
        let mut head = Head::new();
        reply.write_scalars(&mut head);
        let fields = [
            (Tag::bytes(7), said(reply.moved)),
            (Tag::bytes(8), said(reply.message)),
        ];
        self.push(head, fields, value, Tag::bytes(3));
    }

    /// Appends an element of field 1: scalars, byte strings as far as they are there, and the value at the end.
    #[inline]
    fn push(
        &mut self,
        scalars: Head,
        fields: [(Tag, Option<&[u8]>); 2],
        value: Value<'_>,
        value_tag: Tag,
    ) -> Range<usize> {
        let start = self.bytes.len();
        let value_bytes = match value.len() {
            0 => 0,
            length => bytes_field_bytes(length),
        };
        let length = scalars.as_slice().len()
            + fields
                .iter()
                .filter_map(|(_, bytes)| Some(present_field_bytes((*bytes)?.len())))
                .sum::<usize>()
            + value_bytes;
        self.bytes
            .reserve(1 + varint_bytes(length as u64) + length.min(SHARED_BYTES_MIN));
        let mut outer = Head::new();
        outer.begin_bytes(Tag::bytes(1), length);
        self.bytes.extend_from_slice(outer.as_slice());
        self.bytes.extend_from_slice(scalars.as_slice());
        let copied = match &value {
            Value::Copied(bytes) => said(bytes),
            Value::Shared(_) => None,
        };
        for (tag, bytes) in fields.into_iter().chain([(value_tag, copied)]) {
            if let Some(bytes) = bytes {
                self.put_bytes_head(tag, bytes.len());
                self.bytes.extend_from_slice(bytes);
            }
        }
        match value {
            Value::Copied(_) => {}
            Value::Shared(bytes) => {
                self.put_bytes_head(value_tag, bytes.len());
                self.shared_bytes += bytes.len();
                self.shared.push((self.bytes.len(), bytes));
            }
        }
        start..self.bytes.len()
    }

    #[inline]
    fn put_bytes_head(&mut self, tag: Tag, length: usize) {
        let mut head = Head::new();
        head.begin_bytes(tag, length);
        self.bytes.extend_from_slice(head.as_slice());
    }

    /// Appends all of another batch's operations, or replies.
    pub fn append(&mut self, other: Self) {
        let Encoded(pieces) = other.into_encoded();
        for piece in pieces {
            if piece.len() >= SHARED_BYTES_MIN {
                self.shared_bytes += piece.len();
                self.shared.push((self.bytes.len(), piece));
            } else {
                self.bytes.extend_from_slice(&piece);
            }
        }
    }

    /// Takes an operation back: it will not be in the batch.
    pub fn withdraw(&mut self, place: Range<usize>) {
        let index = self.withdrawn.partition_point(|other| other.start < place.start);
        self.withdrawn.insert(index, place);
    }

    /// The batch of operations, with the acquisitions that they refer to.
    #[must_use]
    pub fn into_op_batch(
        mut self,
        sinces: &[Generation],
        sent_ms: u64,
        versions: Option<VersionRange>,
    ) -> OpBatch {
        let rest = OpBatchRest {
            sinces: sinces.iter().map(|since| (*since).into()).collect(),
            sent_ms,
            versions: versions.map(Into::into),
        };
        self.put_message(&rest);
        OpBatch(self.into_encoded())
    }

    /// The batch of replies.
    #[must_use]
    pub fn into_reply_batch(mut self, notes: ReplyBatchNotes) -> ReplyBatch {
        if notes != ReplyBatchNotes::default() {
            let ReplyBatchNotes {
                closing,
                version,
                value_bytes_max,
            } = notes;
            self.put_message(&ReplyBatchRest {
                closing,
                version,
                value_bytes_max,
            });
        }
        ReplyBatch(self.into_encoded())
    }

    fn put_message(&mut self, message: &impl Message) {
        message.encode_raw(&mut self.bytes);
    }

    /// Cuts the bytes where shared values go in, and leaves out what was withdrawn.
    fn into_encoded(self) -> Encoded {
        if self.shared.is_empty() && self.withdrawn.is_empty() {
            let mut encoded = Encoded::default();
            encoded.push(self.bytes.into());
            return encoded;
        }
        let bytes = Bytes::from(self.bytes);
        let mut encoded = Encoded::default();
        let mut shared = self.shared.into_iter().peekable();
        let ends = self.withdrawn.iter().map(|gone| gone.start).chain([bytes.len()]);
        let starts = [0].into_iter().chain(self.withdrawn.iter().map(|gone| gone.end));
        for (start, end) in starts.zip(ends) {
            let mut at = start;
            // A shared value ends its operation, so one where a stretch starts belongs to what was withdrawn before it.
            while let Some((position, value)) = shared.next_if(|(position, _)| *position <= end) {
                if position > start || start == 0 {
                    encoded.push(bytes.slice(at..position));
                    encoded.push(value);
                    at = position;
                }
            }
            encoded.push(bytes.slice(at..end));
        }
        encoded
    }
}

/// A byte string that is left out if it is empty.
fn said(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}
