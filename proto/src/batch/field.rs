//! The fields of a message: [`Reader`] takes them from a slice, [`Head`] puts small ones together.

use thiserror::Error;

use crate::error::WireError;

/// Bytes that are no message of the kind they should be. H8: nothing of it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

impl Malformed {
    pub(super) const ENDS_EARLY: Self = Self("it ends in the middle of a field");
    const LONG_VARINT: Self = Self("a number has more than 64 bits");
    pub(super) const WRONG_TYPE: Self = Self("a field has another type than its number says");
    const NO_FIELD: Self = Self("a field has the number 0, or a type that there is not");

    pub(super) fn in_message(self, message: &'static str) -> WireError {
        WireError::Undecodable {
            message,
            why: self.0.to_owned(),
        }
    }
}

/// The number and wire type of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag(u32);

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH_DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

impl Tag {
    pub(super) const fn varint(number: u32) -> Self {
        Self(number << 3 | VARINT)
    }

    pub(super) const fn fixed64(number: u32) -> Self {
        Self(number << 3 | FIXED64)
    }

    pub(super) const fn bytes(number: u32) -> Self {
        Self(number << 3 | LENGTH_DELIMITED)
    }

    pub(super) const fn number(self) -> u32 {
        self.0 >> 3
    }
}

/// What is left of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// The next field's tag; `None` at the end.
    #[inline]
    pub(super) fn tag(&mut self) -> Result<Option<Tag>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed::NO_FIELD)?;
        if tag >> 3 == 0 {
            return Err(Malformed::NO_FIELD);
        }
        Ok(Some(Tag(tag)))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        match self.0 {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.0 = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (index, byte) in self.0.iter().take(10).enumerate() {
            // The tenth byte has room for one bit more.
            if index == 9 && *byte > 1 {
                return Err(Malformed::LONG_VARINT);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 {
            Malformed::ENDS_EARLY
        } else {
            Malformed::LONG_VARINT
        })
    }

    #[inline]
    pub(super) fn fixed64(&mut self) -> Result<u64, Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed::ENDS_EARLY)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// A byte string, text or message.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed::ENDS_EARLY)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed::ENDS_EARLY)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Passes over the content of a field that is not known here. A known one of another type is refused, as prost does.
    #[cold]
    pub(super) fn skip(&mut self, tag: Tag, known: std::ops::RangeInclusive<u32>) -> Result<(), Malformed> {
        if known.contains(&tag.number()) {
            return Err(Malformed::WRONG_TYPE);
        }
        match tag.0 & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            LENGTH_DELIMITED => self.bytes().map(drop),
            FIXED32 => {
                self.0 = self.0.get(4..).ok_or(Malformed::ENDS_EARLY)?;
                Ok(())
            }
            // Groups: no version of this protocol has had one.
            _ => Err(Malformed::NO_FIELD),
        }
    }
}

/// ZigZag, for `sint64`.
pub(super) fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Bytes that a number takes as varint.
pub(super) fn varint_bytes(value: u64) -> usize {
    // Seven bits a byte.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Room for all scalar fields of an operation or reply, each at its longest.
const HEAD_BYTES: usize = 112;

/// Small fields, one behind the other.
pub(super) struct Head {
    bytes: [u8; HEAD_BYTES],
    length: usize,
}

impl Head {
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; HEAD_BYTES],
            length: 0,
        }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    #[inline]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    #[inline]
    pub(super) fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            #[expect(clippy::cast_possible_truncation, reason = "its low seven bits")]
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
        self.byte(value as u8);
    }

    /// A field that is left out at 0, its default.
    #[inline]
    pub(super) fn varint(&mut self, tag: Tag, value: u64) {
        if value != 0 {
            self.raw_varint(tag.0.into());
            self.raw_varint(value);
        }
    }

    /// A field that is left out at 0, its default.
    #[inline]
    pub(super) fn fixed64(&mut self, tag: Tag, value: u64) {
        if value != 0 {
            self.raw_varint(tag.0.into());
            self.bytes[self.length..self.length + 8].copy_from_slice(&value.to_le_bytes());
            self.length += 8;
        }
    }

    /// Begins a byte string of this length, which follows.
    #[inline]
    pub(super) fn begin_bytes(&mut self, tag: Tag, length: usize) {
        self.raw_varint(tag.0.into());
        self.raw_varint(length as u64);
    }
}

/// Bytes that a byte string takes with its tag (of one byte) and length; none if it is empty, and left out.
pub(super) fn bytes_field_bytes(length: usize) -> usize {
    if length == 0 {
        return 0;
    }
    present_field_bytes(length)
}

/// The same for one that is there even if it has no bytes.
pub(super) fn present_field_bytes(length: usize) -> usize {
    1 + varint_bytes(length as u64) + length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64) {
            let mut head = Head::new();
            head.raw_varint(value);
            prop_assert_eq!(head.as_slice().len(), varint_bytes(value));
            prop_assert_eq!(Reader::new(head.as_slice()).varint(), Ok(value));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }

        /// As prost reads them, errors included.
        #[test]
        fn varints_are_read_as_prost_reads_them(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut expected = bytes.as_slice();
            let mut reader = Reader::new(&bytes);
            match prost::encoding::decode_varint(&mut expected) {
                Ok(value) => {
                    prop_assert_eq!(reader.varint(), Ok(value));
                    prop_assert_eq!(reader.0, expected);
                }
                Err(_) => prop_assert!(reader.varint().is_err()),
            }
        }
    }
}
