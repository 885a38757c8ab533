//! The codec of typed values. The only place that knows it.
//!
//! The encoding is bincode 2's standard configuration. It carries no type and no version: reading a value as another
//! type than it was written as is refused where the bytes do not fit, and otherwise gives nonsense; put the type and its
//! version into the key.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use softstore_proto::limits::VALUE_BYTES_CEILING;

/// Bounds what decoding may allocate: a damaged length must not ask for more memory than a value can have.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<VALUE_BYTES_CEILING>,
> = bincode::config::standard().with_limit::<VALUE_BYTES_CEILING>();

/// A value's bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes, String> {
    let encoded = bincode::serde::encode_to_vec(value, CONFIG).map_err(|error| error.to_string())?;
    Ok(encoded.into())
}

/// The value that these bytes are: all of them, or it is refused.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let decoded = bincode::serde::decode_from_slice(bytes, CONFIG);
    let (value, consumed) = decoded.map_err(|error| error.to_string())?;
    if consumed != bytes.len() {
        return Err(format!("{} bytes are left over", bytes.len() - consumed));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_round_trip(value: (u64, String, Vec<Option<i32>>)) {
            prop_assert_eq!(decode(&encode(&value).expect("encodes")), Ok(value));
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            drop(decode::<Vec<String>>(&bytes));
            drop(decode::<(u64, String, Vec<Option<i32>>)>(&bytes));
        }
    }

    #[test]
    fn damaged_values_are_refused() {
        // A length of 2^60 elements, and a value with a byte too many.
        let huge = [253, 0, 0, 0, 0, 0, 0, 0, 16];
        assert!(decode::<Vec<u64>>(&huge).is_err());
        let mut trailing = encode(&7u64).expect("encodes").to_vec();
        trailing.push(0);
        assert!(decode::<u64>(&trailing).is_err());
    }
}
