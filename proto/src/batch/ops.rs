//! Operations as they stand in a batch: [`OpView`] is one, [`Ops`] all of one batch.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;
use softstore_sharding::Generation;
use softstore_sharding::session::VersionRange;

use super::OpBatch;
use super::field::{Head, Malformed, Reader, Tag, unzigzag, zigzag};
use crate::error::{WireError, within};
use crate::limits::{BATCH_OPS_MAX, BATCH_SINCES_MAX};
use crate::v1;

const OP_BATCH: &str = "OpBatch";

/// An operation, with its bytes where they are. The fields are those of `Op` in `cache.proto`.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct OpView<'a> {
    /// Chosen by the client; echoed in the reply.
    pub id: u64,
    /// An [`v1::OpKind`], if it is one.
    pub kind: i32,
    /// The key.
    pub key: &'a [u8],
    /// The value of a set.
    pub value: &'a [u8],
    /// Time to live in milliseconds; 0: does not expire.
    pub ttl_ms: u64,
    /// A [`v1::SetCondition`], if it is one.
    pub condition: i32,
    /// The version that the condition is about.
    pub version: u64,
    /// What is added.
    pub delta: i64,
    /// Whether a delete says if the key was present.
    pub report_existence: bool,
    /// When the client stops waiting, on its clock; 0: not said.
    pub deadline_ms: u64,
    /// Where the batch lists the client's acquisition.
    pub since_index: u32,
    /// What a flush is about.
    pub slice: Option<v1::Slice>,
    /// Whether a set needs to know that the key is absent.
    pub fill: bool,
}

impl<'a> OpView<'a> {
    /// The same operation with bytes of its own.
    #[must_use]
    pub fn to_op(self) -> v1::Op {
        v1::Op {
            id: self.id,
            kind: self.kind,
            key: Bytes::copy_from_slice(self.key),
            value: Bytes::copy_from_slice(self.value),
            ttl_ms: self.ttl_ms,
            condition: self.condition,
            version: self.version,
            delta: self.delta,
            report_existence: self.report_existence,
            deadline_ms: self.deadline_ms,
            since_index: self.since_index,
            slice: self.slice,
            fill: self.fill,
        }
    }

    /// The view of an operation.
    #[must_use]
    pub fn of(op: &'a v1::Op) -> Self {
        Self {
            id: op.id,
            kind: op.kind,
            key: &op.key,
            value: &op.value,
            ttl_ms: op.ttl_ms,
            condition: op.condition,
            version: op.version,
            delta: op.delta,
            report_existence: op.report_existence,
            deadline_ms: op.deadline_ms,
            since_index: op.since_index,
            slice: op.slice,
            fill: op.fill,
        }
    }

    /// All but key, value and slice.
    #[inline]
    pub(super) fn write_scalars(&self, head: &mut Head) {
        head.fixed64(Tag::fixed64(1), self.id);
        head.varint(Tag::varint(2), enumeration_to_wire(self.kind));
        head.varint(Tag::varint(5), self.ttl_ms);
        head.varint(Tag::varint(6), enumeration_to_wire(self.condition));
        head.fixed64(Tag::fixed64(7), self.version);
        head.varint(Tag::varint(8), zigzag(self.delta));
        head.varint(Tag::varint(9), self.report_existence.into());
        head.varint(Tag::varint(10), self.deadline_ms);
        head.varint(Tag::varint(11), self.since_index.into());
        head.varint(Tag::varint(13), self.fill.into());
    }

    #[inline]
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        const ID: Tag = Tag::fixed64(1);
        const KIND: Tag = Tag::varint(2);
        const KEY: Tag = Tag::bytes(3);
        const VALUE: Tag = Tag::bytes(4);
        const TTL: Tag = Tag::varint(5);
        const CONDITION: Tag = Tag::varint(6);
        const VERSION: Tag = Tag::fixed64(7);
        const DELTA: Tag = Tag::varint(8);
        const REPORT_EXISTENCE: Tag = Tag::varint(9);
        const DEADLINE: Tag = Tag::varint(10);
        const SINCE_INDEX: Tag = Tag::varint(11);
        const SLICE: Tag = Tag::bytes(12);
        const FILL: Tag = Tag::varint(13);
        let mut reader = Reader::new(message);
        let mut op = Self::default();
        while let Some(tag) = reader.tag()? {
            match tag {
                ID => op.id = reader.fixed64()?,
                KIND => op.kind = enumeration(reader.varint()?),
                KEY => op.key = reader.bytes()?,
                VALUE => op.value = reader.bytes()?,
                TTL => op.ttl_ms = reader.varint()?,
                CONDITION => op.condition = enumeration(reader.varint()?),
                VERSION => op.version = reader.fixed64()?,
                DELTA => op.delta = unzigzag(reader.varint()?),
                REPORT_EXISTENCE => op.report_existence = reader.varint()? != 0,
                DEADLINE => op.deadline_ms = reader.varint()?,
                SINCE_INDEX => op.since_index = low_32_bits(reader.varint()?),
                SLICE => {
                    let merged = op.slice.get_or_insert_default().merge(reader.bytes()?);
                    merged.map_err(|_| Malformed::WRONG_TYPE)?;
                }
                FILL => op.fill = reader.varint()? != 0,
                _ => reader.skip(tag, 1..=13)?,
            }
        }
        Ok(op)
    }
}

/// Enumerations are 32 bits, sign-extended on the wire.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what Protocol Buffers do with a longer one"
)]
pub(super) fn enumeration(value: u64) -> i32 {
    value as i32
}

pub(super) fn enumeration_to_wire(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what Protocol Buffers do with a longer one"
)]
pub(super) fn low_32_bits(value: u64) -> u32 {
    value as u32
}

/// A batch that was looked into.
#[derive(Clone, Debug)]
pub struct Ops {
    frame: Bytes,
    places: Vec<Range<usize>>,
    sinces: Vec<Generation>,
    sent_ms: u64,
    versions: Option<VersionRange>,
}

impl OpBatch {
    /// Looks inside: how many operations there are and where, and what the batch says beside them. What an operation
    /// itself says is read by [`Ops::get`].
    ///
    /// # Errors
    /// If it is no such message, or holds more than it may.
    pub fn open(self) -> Result<Ops, WireError> {
        let frame = self.0.into_frame();
        let mut ops = Ops {
            frame: Bytes::new(),
            places: Vec::new(),
            sinces: Vec::new(),
            sent_ms: 0,
            versions: None,
        };
        ops.scan(&frame).map_err(|error| match error {
            ScanError::Malformed(malformed) => malformed.in_message(OP_BATCH),
            ScanError::Refused(error) => error,
        })?;
        ops.frame = frame;
        within("ops", ops.places.len(), BATCH_OPS_MAX)?;
        within("sinces", ops.sinces.len(), BATCH_SINCES_MAX)?;
        Ok(ops)
    }

    /// The batch of these operations, for those who have them whole.
    #[must_use]
    pub fn of(ops: &[v1::Op], sinces: &[Generation], sent_ms: u64, versions: Option<VersionRange>) -> Self {
        let mut assembly = super::Assembly::default();
        for op in ops {
            assembly.push_op(&OpView::of(op), super::Value::of(&op.value));
        }
        assembly.into_op_batch(sinces, sent_ms, versions)
    }
}

enum ScanError {
    Malformed(Malformed),
    Refused(WireError),
}

impl From<Malformed> for ScanError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<WireError> for ScanError {
    fn from(error: WireError) -> Self {
        Self::Refused(error)
    }
}

fn decoded<M: Message + Default>(bytes: &[u8]) -> Result<M, ScanError> {
    M::decode(bytes).map_err(|_| Malformed::WRONG_TYPE.into())
}

impl Ops {
    fn scan(&mut self, frame: &[u8]) -> Result<(), ScanError> {
        const OPS: Tag = Tag::bytes(1);
        const SINCES: Tag = Tag::bytes(2);
        const SENT: Tag = Tag::varint(3);
        const VERSIONS: Tag = Tag::bytes(4);
        let mut reader = Reader::new(frame);
        let mut versions: Option<v1::VersionRange> = None;
        while let Some(tag) = reader.tag()? {
            match tag {
                OPS => {
                    let length = reader.bytes()?.len();
                    let end = frame.len() - reader.left();
                    // One over the limit is enough to say so: what a hostile client lists takes no room here.
                    if self.places.len() <= BATCH_OPS_MAX {
                        self.places.push(end - length..end);
                    }
                }
                SINCES => {
                    let since = decoded::<v1::Generation>(reader.bytes()?)?;
                    if self.sinces.len() <= BATCH_SINCES_MAX {
                        self.sinces.push(since.try_into()?);
                    }
                }
                SENT => self.sent_ms = reader.varint()?,
                VERSIONS => {
                    // A message field that comes twice is one, merged.
                    let merged = versions.get_or_insert_default().merge(reader.bytes()?);
                    merged.map_err(|_| Malformed::WRONG_TYPE)?;
                }
                _ => reader.skip(tag, 1..=4)?,
            }
        }
        self.versions = versions.map(TryInto::try_into).transpose()?;
        Ok(())
    }

    /// How many operations it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// An operation by its place in the batch, below [`Ops::len`].
    ///
    /// # Errors
    /// If it is not well formed.
    #[inline]
    pub fn get(&self, index: usize) -> Result<OpView<'_>, WireError> {
        let message = &self.frame[self.places[index].clone()];
        OpView::read(message).map_err(|malformed| malformed.in_message("Op"))
    }

    /// The acquisition that an operation refers to.
    #[must_use]
    #[inline]
    pub fn since_of(&self, op: &OpView<'_>) -> Generation {
        let index = usize::try_from(op.since_index).ok();
        let since = index.and_then(|index| self.sinces.get(index));
        since.copied().unwrap_or(Generation::NONE)
    }

    /// How long the client of an operation still waited when it sent the batch, in milliseconds. `None`: it did not say.
    #[must_use]
    #[inline]
    pub fn patience_ms(&self, op: &OpView<'_>) -> Option<u64> {
        (op.deadline_ms > 0).then(|| op.deadline_ms.saturating_sub(self.sent_ms))
    }

    /// What the client's clock said when it sent the batch, in milliseconds; 0: it did not say.
    #[must_use]
    pub fn sent_ms(&self) -> u64 {
        self.sent_ms
    }

    /// Which versions of the data stream the client speaks, if it says so.
    #[must_use]
    pub fn versions(&self) -> Option<VersionRange> {
        self.versions
    }
}
