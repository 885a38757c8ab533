//! [`WireError`]: why a peer's message was refused, and the small checks that every conversion is made of.
//!
//! Keeps H8: what does not fit is refused with the field's name, and nothing is half converted.

use thiserror::Error;

/// Why a message of a peer is no value of the cores. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// A field without which the message means nothing.
    #[error("the field {field} is missing")]
    Missing {
        /// Its name, as in the .proto file.
        field: &'static str,
    },
    /// A field whose value is impossible.
    #[error("the field {field} is refused: {why}")]
    Bad {
        /// Its name, as in the .proto file.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A list, text or byte string over its limit.
    #[error("the field {field} has {found} elements or bytes; the limit is {limit}")]
    Limit {
        /// Its name, as in the .proto file.
        field: &'static str,
        /// How long it may be.
        limit: usize,
        /// How long it is.
        found: usize,
    },
    /// Bytes that are no message at all.
    #[error("not decodable as {message}: {why}")]
    Undecodable {
        /// What it was to be.
        message: &'static str,
        /// The decoder's words.
        why: String,
    },
}

impl WireError {
    pub(crate) fn bad(field: &'static str, why: impl ToString) -> Self {
        Self::Bad {
            field,
            why: why.to_string(),
        }
    }
}

#[cfg(feature = "services")]
impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// The field's message, or [`WireError::Missing`].
pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or(WireError::Missing { field })
}

/// Refuses what is longer than `limit`.
pub(crate) fn within(field: &'static str, found: usize, limit: usize) -> Result<(), WireError> {
    if found > limit {
        return Err(WireError::Limit { field, limit, found });
    }
    Ok(())
}

/// Converts each element of a list of at most `limit`.
pub(crate) fn each<W, C>(field: &'static str, list: Vec<W>, limit: usize) -> Result<Vec<C>, WireError>
where
    C: TryFrom<W, Error = WireError>,
{
    within(field, list.len(), limit)?;
    list.into_iter().map(C::try_from).collect()
}

/// A text of at most `limit` bytes.
pub(crate) fn text<T: From<String>>(
    field: &'static str,
    value: String,
    limit: usize,
) -> Result<T, WireError> {
    within(field, value.len(), limit)?;
    Ok(value.into())
}
