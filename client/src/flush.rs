//! Flush: dropping all entries of slices, at all their owners.
//!
//! A flush goes to each range's owner like an operation on a key. Where a range has moved meanwhile, what is left of it
//! is cut anew by what is known then, until the deadline.

use futures::future::join_all;
use softstore_proto::v1;
use softstore_proto::v1::OpKind;
use softstore_sharding::Slice;

use crate::client::{Client, op};
use crate::error::WriteError;
use crate::operation::{Course, Operation, Repeat};

impl Client {
    /// Drops every entry of the cluster. An entry written while it runs may be dropped or not.
    ///
    /// # Errors
    /// As [`Client::flush_slices`].
    pub async fn flush_all(&self) -> Result<(), WriteError> {
        self.flush_slices([Slice::FULL]).await
    }

    /// Drops every entry whose key lies in one of the slices.
    ///
    /// # Errors
    /// The first failure, once everything that could be flushed is. Flushing again is harmless.
    pub async fn flush_slices(&self, slices: impl IntoIterator<Item = Slice>) -> Result<(), WriteError> {
        let deadline = self.deadline();
        let operator = &self.shared.operator;
        let mut left: Vec<(Slice, Course)> = slices
            .into_iter()
            .map(|slice| (slice, Course::default()))
            .collect();
        let mut first_failure = None;
        while !left.is_empty() {
            let attempts: Vec<_> = left
                .drain(..)
                .flat_map(|(slice, course)| {
                    let parts = operator.routing.table().parts(slice);
                    parts.into_iter().map(move |part| (part, course.clone()))
                })
                .map(|(part, course)| {
                    self.shared.counters.flushes.one();
                    let operation = Operation {
                        op: v1::Op {
                            slice: Some(part.into()),
                            ..op(OpKind::Flush, bytes::Bytes::new())
                        },
                        at: part.low(),
                        deadline,
                        repeat: Repeat::Never,
                    };
                    let started = operator.start(&operation);
                    (part, course, operation, started)
                })
                .collect();
            let finishing = attempts
                .into_iter()
                .map(async |(part, mut course, operation, started)| {
                    let result = operator.once(&operation, started, &mut course).await;
                    (part, course, result)
                });
            for (part, course, result) in join_all(finishing).await {
                match result {
                    Ok(Some(_)) => {}
                    Ok(None) => left.push((part, course)),
                    Err(failure) => {
                        let error = self.wrote(Err(failure)).err();
                        first_failure = first_failure.or(error);
                    }
                }
            }
        }
        first_failure.map_or(Ok(()), Err)
    }
}
