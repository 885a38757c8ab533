//! Replies as they stand in a batch: [`ReplyView`] is one, [`ReplyBatch::read`] gives all of one batch.

use bytes::Bytes;
use prost::Message;

use super::field::{Head, Malformed, Reader, Tag, unzigzag, zigzag};
use super::ops::{enumeration, enumeration_to_wire};
use super::{Assembly, ReplyBatch, Value};
use crate::error::WireError;
use crate::v1;

const REPLY_BATCH: &str = "ReplyBatch";

/// A reply, with its bytes where they are. The fields are those of `Reply` in `cache.proto`.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct ReplyView<'a> {
    /// The operation's.
    pub id: u64,
    /// A [`v1::Status`], if it is one.
    pub status: i32,
    /// The value found.
    pub value: &'a [u8],
    /// The version.
    pub version: u64,
    /// Milliseconds left; 0: does not expire.
    pub ttl_ms: u64,
    /// The sum of an add.
    pub number: i64,
    /// Where the slice went: a `Moved`, encoded. Empty: not said.
    pub moved: &'a [u8],
    /// Why it was refused, in UTF-8.
    pub message: &'a [u8],
}

impl<'a> ReplyView<'a> {
    /// A reply that says no more than a status.
    #[must_use]
    #[inline]
    pub fn new(id: u64, status: v1::Status) -> Self {
        Self {
            id,
            status: status.into(),
            ..Self::default()
        }
    }

    /// All but the byte strings.
    #[inline]
    pub(super) fn write_scalars(&self, head: &mut Head) {
        head.fixed64(Tag::fixed64(1), self.id);
        head.varint(Tag::varint(2), enumeration_to_wire(self.status));
        head.fixed64(Tag::fixed64(4), self.version);
        head.varint(Tag::varint(5), self.ttl_ms);
        head.varint(Tag::varint(6), zigzag(self.number));
    }

    #[inline]
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        const ID: Tag = Tag::fixed64(1);
        const STATUS: Tag = Tag::varint(2);
        const VALUE: Tag = Tag::bytes(3);
        const VERSION: Tag = Tag::fixed64(4);
        const TTL: Tag = Tag::varint(5);
        const NUMBER: Tag = Tag::varint(6);
        const MOVED: Tag = Tag::bytes(7);
        const MESSAGE: Tag = Tag::bytes(8);
        let mut reader = Reader::new(message);
        let mut reply = Self::default();
        while let Some(tag) = reader.tag()? {
            match tag {
                ID => reply.id = reader.fixed64()?,
                STATUS => reply.status = enumeration(reader.varint()?),
                VALUE => reply.value = reader.bytes()?,
                VERSION => reply.version = reader.fixed64()?,
                TTL => reply.ttl_ms = reader.varint()?,
                NUMBER => reply.number = unzigzag(reader.varint()?),
                MOVED => reply.moved = reader.bytes()?,
                MESSAGE => reply.message = reader.bytes()?,
                _ => reader.skip(tag, 1..=8)?,
            }
        }
        Ok(reply)
    }

    /// Where the slice went, if it is said.
    ///
    /// # Errors
    /// If that is no `Moved`.
    pub fn moved(&self) -> Result<Option<v1::Moved>, WireError> {
        if self.moved.is_empty() {
            return Ok(None);
        }
        let moved = v1::Moved::decode(self.moved).map_err(|_| Malformed::WRONG_TYPE.in_message("Moved"))?;
        Ok(Some(moved))
    }

    /// Why it was refused.
    #[must_use]
    pub fn message(&self) -> String {
        String::from_utf8_lossy(self.message).into_owned()
    }
}

/// What a batch says beside its replies.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReplyBatchNotes {
    /// The node is about to end the stream.
    pub closing: bool,
    /// The stream's version; 0: not said.
    pub version: u32,
    /// The longest value that the node takes, in bytes; 0: not said.
    pub value_bytes_max: u64,
}

impl ReplyBatch {
    /// Gives `take` each reply, and the message that its bytes are a part of.
    ///
    /// # Errors
    /// If it is no such message. Replies before the place where it is not well formed have been given.
    pub fn read(self, mut take: impl FnMut(ReplyView<'_>, &Bytes)) -> Result<ReplyBatchNotes, WireError> {
        let frame = self.0.into_frame();
        scan(&frame, &mut take).map_err(|malformed| malformed.in_message(REPLY_BATCH))
    }

    /// The batch of these replies, for those who have them whole.
    #[must_use]
    pub fn of(replies: &[v1::Reply], notes: ReplyBatchNotes) -> Self {
        let mut assembly = Assembly::default();
        for reply in replies {
            let moved = reply
                .moved
                .as_ref()
                .map_or_else(Vec::new, |moved| moved.encode_to_vec());
            let view = ReplyView {
                id: reply.id,
                status: reply.status,
                value: &reply.value,
                version: reply.version,
                ttl_ms: reply.ttl_ms,
                number: reply.number,
                moved: &moved,
                message: reply.message.as_bytes(),
            };
            assembly.push_reply(&view, Value::of(&reply.value));
        }
        assembly.into_reply_batch(notes)
    }

    /// The replies, whole.
    ///
    /// # Errors
    /// If it is no such message.
    pub fn into_replies(self) -> Result<Vec<v1::Reply>, WireError> {
        let mut replies = Vec::new();
        let mut failed = None;
        self.read(|reply, frame| {
            match reply.moved() {
                Ok(moved) => replies.push(v1::Reply {
                    id: reply.id,
                    status: reply.status,
                    value: frame.slice_ref(reply.value),
                    version: reply.version,
                    ttl_ms: reply.ttl_ms,
                    number: reply.number,
                    moved: moved.map(Box::new),
                    message: reply.message(),
                }),
                Err(error) => failed = Some(error),
            };
        })?;
        failed.map_or(Ok(replies), Err)
    }
}

fn scan(frame: &Bytes, take: &mut impl FnMut(ReplyView<'_>, &Bytes)) -> Result<ReplyBatchNotes, Malformed> {
    const REPLIES: Tag = Tag::bytes(1);
    const CLOSING: Tag = Tag::varint(2);
    const VERSION: Tag = Tag::varint(3);
    const VALUE_BYTES_MAX: Tag = Tag::varint(4);
    let mut notes = ReplyBatchNotes::default();
    let mut reader = Reader::new(frame);
    while let Some(tag) = reader.tag()? {
        match tag {
            REPLIES => take(ReplyView::read(reader.bytes()?)?, frame),
            CLOSING => notes.closing = reader.varint()? != 0,
            VERSION => notes.version = super::ops::low_32_bits(reader.varint()?),
            VALUE_BYTES_MAX => notes.value_bytes_max = reader.varint()?,
            _ => reader.skip(tag, 1..=4)?,
        }
    }
    Ok(notes)
}
