//! What may be a key or a value: [`IntoBytes`], and the checks that need no server.

use bytes::Bytes;
use softstore_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_CEILING};
use thiserror::Error;

/// What can be given as a key or a value. Owned bytes are taken without a copy, borrowed ones are copied.
pub trait IntoBytes {
    /// The bytes.
    fn as_slice(&self) -> &[u8];

    /// The bytes, owned.
    fn into_bytes(self) -> Bytes;
}

macro_rules! owned {
    ($($kind:ty),*) => {$(
        impl IntoBytes for $kind {
            fn as_slice(&self) -> &[u8] {
                self.as_ref()
            }

            fn into_bytes(self) -> Bytes {
                self.into()
            }
        }
    )*};
}

macro_rules! borrowed {
    ($($kind:ty),*) => {$(
        impl IntoBytes for &$kind {
            fn as_slice(&self) -> &[u8] {
                (*self).as_ref()
            }

            fn into_bytes(self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        }
    )*};
}

owned!(Bytes, Vec<u8>, String, Box<[u8]>);
borrowed!([u8], str, Vec<u8>, String);

impl IntoBytes for &Bytes {
    fn as_slice(&self) -> &[u8] {
        self
    }

    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl<const N: usize> IntoBytes for [u8; N] {
    fn as_slice(&self) -> &[u8] {
        self
    }

    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self)
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn as_slice(&self) -> &[u8] {
        *self
    }

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

pub(crate) fn check_key(key: &[u8]) -> Result<(), KeyError> {
    match key.len() {
        0 => Err(KeyError::Empty),
        length if length > KEY_BYTES_MAX => Err(KeyError::TooLong(length)),
        _ => Ok(()),
    }
}

/// Whether a value is larger than any node can be configured to take. (Below that, the node decides.)
pub(crate) fn is_hopelessly_large(value: &[u8]) -> bool {
    value.len() > VALUE_BYTES_CEILING
}
