//! The data stream's messages, [`OpBatch`] and [`ReplyBatch`], as they travel: encoded.
//!
//! A batch holds hundreds of small operations, and what a generated type costs each of them (a value of two hundred
//! bytes that is built, moved several times, encoded and dropped) is a good part of what an operation costs at all. So
//! these two messages are not generated. Who sends one appends each operation or reply to an [`Assembly`], encoded at
//! once; who receives one reads them where they lie ([`Ops`], [`ReplyBatch::read`]). The format is that of `cache.proto` all the
//! same, byte for byte what any Protocol Buffers library writes and reads (the property tests compare with prost), and
//! fields that are not known are skipped.
//!
//! ```text
//!   client: OpView --> Assembly --> OpBatch   ~~stream~~>  OpBatch --> Ops --> OpView :node
//!   client: ReplyView <-- ReplyBatch          <~~stream~~  ReplyBatch <-- Assembly <-- ReplyView :node
//!
//!   ops, replies  one operation, one reply     assembly  a batch put together     field  the fields of a message
//! ```
//!
//! Format: Protocol Buffers, "Encoding" (<https://protobuf.dev/programming-guides/encoding/>).

mod assembly;
mod field;
mod ops;
mod replies;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};
use softstore_sharding::session::VersionRange;

pub use assembly::{Assembly, SHARED_BYTES_MIN, Value};
pub use field::Malformed;
pub use ops::{OpView, Ops};
pub use replies::{ReplyBatchNotes, ReplyView};

/// The versions of the data stream that this build speaks.
pub const STREAM_VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };

/// Operations on their way to a node. Taken in as it comes; [`OpBatch::open`] looks inside.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct OpBatch(Encoded);

/// Replies on their way to a client. Taken in as it comes; [`ReplyBatch::read`] looks inside.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct ReplyBatch(Encoded);

/// An encoded message, in pieces that follow each other.
#[derive(Clone, PartialEq, Default, Debug)]
struct Encoded(Vec<Bytes>);

impl Encoded {
    fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// All of it in one piece: without a copy if it is one.
    fn into_frame(mut self) -> Bytes {
        if self.0.len() <= 1 {
            return self.0.pop().unwrap_or_default();
        }
        self.0.concat().into()
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.0.push(piece);
        }
    }

    /// Appends one field as it stands in `buf`, behind its key.
    fn push_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        let mut key = Vec::new();
        prost::encoding::encode_key(tag, wire_type, &mut key);
        let content = match wire_type {
            WireType::LengthDelimited => {
                let mut content = Bytes::new();
                prost::encoding::bytes::merge(wire_type, &mut content, buf, context)?;
                prost::encoding::encode_varint(content.len() as u64, &mut key);
                content
            }
            WireType::Varint => {
                prost::encoding::encode_varint(prost::encoding::decode_varint(buf)?, &mut key);
                Bytes::new()
            }
            WireType::SixtyFourBit => fixed(buf, 8)?,
            WireType::ThirtyTwoBit => fixed(buf, 4)?,
            // Neither message has groups, and an unknown one says nothing.
            WireType::StartGroup | WireType::EndGroup => {
                return prost::encoding::skip_field(wire_type, tag, buf, context);
            }
        };
        self.push(key.into());
        self.push(content);
        Ok(())
    }
}

fn fixed(buf: &mut impl Buf, width: usize) -> Result<Bytes, DecodeError> {
    if buf.remaining() < width {
        // What prost says of a message that ends too soon.
        return prost::encoding::decode_varint(&mut Bytes::new()).map(|_| Bytes::new());
    }
    Ok(buf.copy_to_bytes(width))
}

macro_rules! travels_encoded {
    ($message:ident) => {
        impl $message {
            /// The message that these bytes are, well formed or not.
            #[must_use]
            pub fn from_encoded(bytes: Bytes) -> Self {
                let mut encoded = Encoded::default();
                encoded.push(bytes);
                Self(encoded)
            }

            /// Its length in bytes.
            #[must_use]
            pub fn len_bytes(&self) -> usize {
                self.0.len()
            }
        }

        impl Message for $message {
            fn encode_raw(&self, buf: &mut impl BufMut) {
                for piece in &self.0.0 {
                    buf.put_slice(piece);
                }
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: WireType,
                buf: &mut impl Buf,
                context: DecodeContext,
            ) -> Result<(), DecodeError> {
                self.0.push_field(tag, wire_type, buf, context)
            }

            fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
                // Messages are merged by putting one encoding behind the other.
                self.0.push(buf.copy_to_bytes(buf.remaining()));
                Ok(())
            }

            fn encoded_len(&self) -> usize {
                self.0.len()
            }

            fn clear(&mut self) {
                self.0.0.clear();
            }
        }
    };
}

travels_encoded!(OpBatch);
travels_encoded!(ReplyBatch);

#[cfg(test)]
mod tests;
