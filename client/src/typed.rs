//! Typed values: anything that serde can carry. How they are encoded is `codec`'s matter.

use std::any::type_name;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::codec::{decode, encode};
use crate::error::{ReadError, TypedError, WriteError};
use crate::options::{SetOptions, SetOutcome};
use crate::payload::IntoBytes;

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
