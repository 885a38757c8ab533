//! What may be a key or a value: [`IntoBytes`], and the checks that need no server.

use bytes::Bytes;
use softstore_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_CEILING};
use thiserror::Error;

/// What can be given as a key or a value. Owned bytes are taken without a copy, borrowed ones are copied.
pub trait IntoBytes {
    /// The bytes.
    fn into_bytes(self) -> Bytes;
}

macro_rules! owned {
    ($($kind:ty),*) => {$(
        impl IntoBytes for $kind {
            fn into_bytes(self) -> Bytes {
                self.into()
            }
        }
    )*};
}

macro_rules! borrowed {
    ($($kind:ty),*) => {$(
        impl IntoBytes for &$kind {
            fn into_bytes(self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        }
    )*};
}

owned!(Bytes, Vec<u8>, String, Box<[u8]>);
borrowed!([u8], str, Vec<u8>, String);

impl IntoBytes for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl<const N: usize> IntoBytes for [u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self)
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

/// Why bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// It has no bytes.
    #[error("a key has at least one byte")]
    Empty,
    /// It has too many.
    #[error("a key has at most {KEY_BYTES_MAX} bytes, not {0}")]
    TooLong(usize),
}

pub(crate) fn check_key(key: &Bytes) -> Result<(), KeyError> {
    match key.len() {
        0 => Err(KeyError::Empty),
        length if length > KEY_BYTES_MAX => Err(KeyError::TooLong(length)),
        _ => Ok(()),
    }
}

/// Whether a value is larger than any node can be configured to take. (Below that, the node decides.)
pub(crate) fn is_hopelessly_large(value: &Bytes) -> bool {
    value.len() > VALUE_BYTES_CEILING
}

/// Values up to this many bytes are copied out of the message they came in.
const DETACH_BYTES_MAX: usize = 64 << 10;

/// A value for the caller. A small slice would keep the whole message it came in alive, so it is copied; a large one
/// makes up most of its message.
pub(crate) fn detached(value: Bytes) -> Bytes {
    if value.len() > DETACH_BYTES_MAX {
        return value;
    }
    Bytes::copy_from_slice(&value)
}
