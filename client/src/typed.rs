//! Typed values: anything that serde can carry, encoded with bincode. The only place that knows the codec.
//!
//! The encoding is bincode 2's standard configuration. It carries no type and no version: reading a value as another
//! type than it was written as is refused where the bytes do not fit, and otherwise gives nonsense; put the type and its
//! version into the key.

use std::any::type_name;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use softstore_proto::limits::VALUE_BYTES_CEILING;

use crate::client::Client;
use crate::error::{ReadError, TypedError, WriteError};
use crate::options::{SetOptions, SetOutcome};
use crate::payload::IntoBytes;

/// Bounds what decoding may allocate: a damaged length must not ask for more memory than a value can have.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<VALUE_BYTES_CEILING>,
> = bincode::config::standard().with_limit::<VALUE_BYTES_CEILING>();

fn encode<T: Serialize>(value: &T) -> Result<Bytes, String> {
    let encoded = bincode::serde::encode_to_vec(value, CONFIG).map_err(|error| error.to_string())?;
    Ok(encoded.into())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let decoded = bincode::serde::decode_from_slice(bytes, CONFIG);
    let (value, consumed) = decoded.map_err(|error| error.to_string())?;
    if consumed != bytes.len() {
        return Err(format!("{} bytes are left over", bytes.len() - consumed));
    }
    Ok(value)
}

fn codec_error<T, E>(why: String) -> TypedError<E> {
    TypedError::Codec {
        kind: type_name::<T>(),
        why,
    }
}

impl Client {
    /// What is under `key`, as a `T`; `None` if nothing is.
    ///
    /// # Errors
    /// As [`Client::get`], and if what is there is no encoded `T`.
    pub async fn get_typed<T: DeserializeOwned>(
        &self,
        key: impl IntoBytes,
    ) -> Result<Option<T>, TypedError<ReadError>> {
        match self.get(key).await.map_err(TypedError::Operation)? {
            None => Ok(None),
            Some(bytes) => decode(&bytes).map(Some).map_err(codec_error::<T, _>),
        }
    }

    /// Puts a value under `key`, as the options say.
    ///
    /// # Errors
    /// As [`Client::set_with`], and if serde cannot encode the value.
    pub async fn set_typed<T: Serialize>(
        &self,
        key: impl IntoBytes,
        value: &T,
        options: SetOptions,
    ) -> Result<SetOutcome, TypedError<WriteError>> {
        let encoded = encode(value).map_err(codec_error::<T, _>)?;
        let outcome = self.set_with(key, encoded, options).await;
        outcome.map_err(TypedError::Operation)
    }

    /// As [`Client::get_or_load`], for a `T`. A cached value that is no encoded `T` is an error, not a miss.
    ///
    /// # Errors
    /// As [`Client::get_or_load`], and if a value cannot be encoded or decoded.
    pub async fn get_or_load_typed<T, E, F>(
        &self,
        key: impl IntoBytes,
        ttl: Option<Duration>,
        loader: impl FnOnce() -> F,
    ) -> Result<T, TypedError<crate::error::LoadError>>
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Future<Output = Result<T, E>>,
    {
        let load = || async {
            let value = loader().await.map_err(Into::into)?;
            encode(&value).map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        };
        let bytes = self.get_or_load(key, ttl, load).await;
        decode(&bytes.map_err(TypedError::Operation)?).map_err(codec_error::<T, _>)
    }
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
