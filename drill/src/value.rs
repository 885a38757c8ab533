//! Values that say what they are: key, write number, filler, checksum.
//!
//! So a read needs no copy of what was written to tell a stale value, another key's value, or a damaged one.

use std::sync::LazyLock;

use bytes::{BufMut, Bytes, BytesMut};
use rand::TryRng;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::position_rng::PositionRng;
use crate::request::KeyIndex;

/// Checksum (8), write number (8), key (4).
pub(crate) const VALUE_BYTES_MIN: u32 = 20;
/// Of the random bytes that values are cut from, so that nothing on the way compresses them.
const FILLER_BYTES: usize = 1 << 16;

static FILLER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut filler = vec![0; FILLER_BYTES];
    let Ok(()) = PositionRng::new(0x66_69_6c_6c, 0).try_fill_bytes(&mut filler);
    filler
});

/// The number of a mutation of one key, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct WriteNumber(pub(crate) u64);

/// Why a value that a read returned is not one that the drill wrote to that key.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ValueError {
    #[error("a value of {0} bytes is shorter than its header")]
    Short(usize),
    #[error("the checksum does not match")]
    Damaged,
    #[error("the value of another key")]
    OtherKey,
}

/// The value of that key and write, `value_bytes` long (at least [`VALUE_BYTES_MIN`]).
pub(crate) fn encode(key: KeyIndex, number: WriteNumber, value_bytes: u32) -> Bytes {
    let length = value_bytes.max(VALUE_BYTES_MIN) as usize;
    let mut value = BytesMut::with_capacity(length);
    value.put_u64_le(0);
    value.put_u64_le(number.0);
    value.put_u32_le(key.0);
    let mut offset = usize::try_from(number.0 % FILLER_BYTES as u64).unwrap_or(0);
    while value.len() < length {
        let part = (length - value.len()).min(FILLER_BYTES - offset);
        value.extend_from_slice(&FILLER[offset..offset + part]);
        offset = 0;
    }
    let checksum = xxh3_64(&value[8..]);
    value[..8].copy_from_slice(&checksum.to_le_bytes());
    value.freeze()
}

/// The write number of a value read for `key`.
pub(crate) fn decode(key: KeyIndex, value: &[u8]) -> Result<WriteNumber, ValueError> {
    let short = ValueError::Short(value.len());
    let Some((checksum, body)) = value.split_first_chunk::<8>() else {
        return Err(short);
    };
    let Some((number, rest)) = body.split_first_chunk::<8>() else {
        return Err(short);
    };
    let Some((owner, _)) = rest.split_first_chunk::<4>() else {
        return Err(short);
    };
    if u64::from_le_bytes(*checksum) != xxh3_64(body) {
        return Err(ValueError::Damaged);
    }
    if u32::from_le_bytes(*owner) != key.0 {
        return Err(ValueError::OtherKey);
    }
    Ok(WriteNumber(u64::from_le_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(key: u32, number: u64, value_bytes in 0u32..200_000) {
            let value = encode(KeyIndex(key), WriteNumber(number), value_bytes);
            prop_assert_eq!(value.len(), value_bytes.max(VALUE_BYTES_MIN) as usize);
            prop_assert_eq!(decode(KeyIndex(key), &value), Ok(WriteNumber(number)));
            prop_assert_eq!(decode(KeyIndex(key.wrapping_add(1)), &value), Err(ValueError::OtherKey));
        }

        #[test]
        fn any_damage_is_seen(value_bytes in 0u32..500, at: prop::sample::Index, flip in 1u8..) {
            let mut value = encode(KeyIndex(3), WriteNumber(9), value_bytes).to_vec();
            let at = at.index(value.len());
            value[at] ^= flip;
            prop_assert_eq!(decode(KeyIndex(3), &value), Err(ValueError::Damaged));
        }
    }

    #[test]
    fn a_cut_value_is_refused() {
        assert_eq!(decode(KeyIndex(0), &[1; 19]), Err(ValueError::Short(19)));
    }
}
