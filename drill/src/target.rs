//! What the drill sends its requests to: a cluster through the client, or a fake in tests.

use std::future::Future;

use bytes::Bytes;

/// How a get ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    Hit(Bytes),
    Miss,
    /// No answer that an application could use: an error of the drill's verdict.
    Failed(String),
}

/// How a set or delete ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// Acknowledged.
    Applied,
    /// Not applied, and never will be.
    Refused(String),
    /// It may have been applied, or be applied later.
    OutcomeUnknown,
    /// Anything else: an error of the drill's verdict. May have been applied.
    Failed(String),
}

/// A cache as an application sees it. Implementations bound the time of each call.
pub(crate) trait Target: Send + Sync + 'static {
    fn get(&self, key: Bytes) -> impl Future<Output = ReadOutcome> + Send;
    /// `ttl_ms` 0: does not expire.
    fn set(&self, key: Bytes, value: Bytes, ttl_ms: u64) -> impl Future<Output = WriteOutcome> + Send;
    /// Unconditional; says nothing about whether the key was there.
    fn delete(&self, key: Bytes) -> impl Future<Output = WriteOutcome> + Send;
}
