//! The cluster under test, through the Rust client with its defaults: an unreachable owner makes a read a miss.

use std::time::Duration;

use bytes::Bytes;
use softstore_client::{Client, SetOptions, WriteError};

use crate::error::DrillError;
use crate::target::{ReadOutcome, Target, WriteOutcome};

/// A connected client.
#[derive(Debug)]
pub(crate) struct ClientTarget {
    client: Client,
}

impl ClientTarget {
    /// Requires: `seeds` are `host:port` of nodes.
    pub(crate) async fn connect(seeds: Vec<String>) -> Result<Self, DrillError> {
        let connecting = Box::pin(Client::builder().seeds(seeds).require_cluster(true).connect());
        let client = connecting
            .await
            .map_err(|error| DrillError::Connect(error.to_string()))?;
        Ok(Self { client })
    }
}

impl Target for ClientTarget {
    async fn get(&self, key: Bytes) -> ReadOutcome {
        match self.client.get(key).await {
            Ok(Some(value)) => ReadOutcome::Hit(value),
            Ok(None) => ReadOutcome::Miss,
            Err(error) => ReadOutcome::Failed(error.to_string()),
        }
    }

    async fn set(&self, key: Bytes, value: Bytes, ttl_ms: u64) -> WriteOutcome {
        let options = SetOptions::new();
        let options = if ttl_ms > 0 {
            options.ttl(Duration::from_millis(ttl_ms))
        } else {
            options
        };
        class(self.client.set_with(key, value, options).await)
    }

    async fn delete(&self, key: Bytes) -> WriteOutcome {
        class(self.client.delete(key).await)
    }
}

/// A refusal for want of an owner in time is what a cache may do; any other refusal means that the drill or the cluster is
/// wrong.
fn class<T>(answer: Result<T, WriteError>) -> WriteOutcome {
    match answer {
        Ok(_) => WriteOutcome::Applied,
        Err(error) if error.is_outcome_unknown() => WriteOutcome::OutcomeUnknown,
        Err(error) if error.is_retryable() => WriteOutcome::Refused(error.to_string()),
        Err(error) => WriteOutcome::Failed(error.to_string()),
    }
}
