//! Operations on many keys at once: one message per node and batch, a result per key, in the order of the keys.
//!
//! All first attempts are queued before any is awaited, so what goes to one node travels together. What must be tried
//! again is tried key by key; it holds up no other.

use bytes::Bytes;
use futures::future::join_all;

use crate::answer::Answer;
use crate::client::Client;
use crate::error::{ReadError, WriteError};
use crate::load::Keys;
use crate::operation::{Failure, Operation, Repeat};
use crate::options::{SetOptions, SetOutcome};
use crate::payload::IntoBytes;

/// Most operations of one call that are pending at a time.
const WINDOW_OPS: usize = 4_096;

impl Client {
    /// What is under each key, in the order of the keys.
    pub async fn get_many<K: IntoBytes>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Bytes>, ReadError>> {
        let keys = keys.into_iter();
        let operations: Vec<_> = keys.map(|key| self.get_operation(key.into_bytes())).collect();
        self.run_many(operations, |client, result| {
            Ok(client.read(result)?.map(|answer| answer.value))
        })
        .await
    }

    /// Puts each value under its key, as the options say. One outcome per pair, in order.
    pub async fn set_many<K: IntoBytes, V: IntoBytes>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
        options: SetOptions,
    ) -> Vec<Result<SetOutcome, WriteError>> {
        let entries = entries.into_iter();
        let operations: Vec<_> = entries
            .map(|(key, value)| self.set_operation(key.into_bytes(), value.into_bytes(), options))
            .collect();
        self.run_many(operations, Self::set_outcome).await
    }

    /// Removes what is under each key. One result per key, in order.
    pub async fn delete_many<K: IntoBytes>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<(), WriteError>> {
        let keys = keys.into_iter();
        let operations: Vec<_> = keys
            .map(|key| self.delete_operation(key.into_bytes(), false))
            .collect();
        self.run_many(operations, |client, result| client.wrote(result).map(drop))
            .await
    }

    async fn run_many<T, E: Clone>(
        &self,
        operations: Vec<Result<Operation, E>>,
        interpret: impl Fn(&Self, Result<Answer, Failure>) -> Result<T, E>,
    ) -> Vec<Result<T, E>> {
        let operator = &self.shared.operator;
        let mut results = Vec::with_capacity(operations.len());
        for window in operations.chunks(WINDOW_OPS) {
            // All are queued before the first is awaited.
            let started: Vec<_> = window
                .iter()
                .map(|operation| {
                    operation.as_ref().map(|operation| {
                        let is_write = operation.repeat != Repeat::Read;
                        let flights = &self.shared.flights;
                        let own = is_write.then(|| flights.own_write(Keys::One(&operation.op.key)));
                        (operation, own, operator.start(operation))
                    })
                })
                .collect();
            let finishing = started.into_iter().map(async |started| match started {
                Ok((operation, _own, started)) => interpret(self, operator.finish(operation, started).await),
                Err(error) => Err(error.clone()),
            });
            results.extend(join_all(finishing).await);
        }
        results
    }
}
