//! Flush: dropping all entries of slices, at all their owners.
//!
//! A flush goes to each range's owner like an operation on a key. Where a range has moved meanwhile, what is left of it
//! is cut anew by what is known then, until the deadline.
//!
//! Unlike an operation on a key, a flush may be applied in part: one owner is done and another cannot be reached, or a node
//! drops what it holds of a slice before it says that the rest is elsewhere. From then on a failure does not mean "not
//! applied" any more, whatever the last attempt ended in ([`Progress`]).

use futures::future::join_all;
use softstore_proto::v1;
use softstore_proto::v1::OpKind;
use softstore_sharding::Slice;

use crate::answer::Answer;
use crate::client::{Client, op};
use crate::error::{Cause, WriteError};
use crate::load::Keys;
use crate::operation::{Course, Failure, Operation, Repeat};

/// How far a flush has come.
#[derive(Debug, Default)]
struct Progress {
    /// Some entries may have been dropped.
    may_have_dropped: bool,
    first_failure: Option<Failure>,
}

impl Progress {
    /// Notes how an attempt at a part ended. Whether the part is to be tried again.
    fn note(&mut self, result: Result<Option<Answer>, Failure>, course: &Course) -> bool {
        self.may_have_dropped |= match &result {
            Ok(Some(_)) => true,
            // What kept it from being sent had no effect; what a node answered may follow on one.
            Ok(None) => course.last().is_some_and(|cause| cause != Cause::Unreachable),
            Err(Failure::NotApplied(cause) | Failure::Unknown(cause)) => *cause != Cause::Unreachable,
            Err(Failure::Busy | Failure::Shed | Failure::Refused { .. }) => false,
        };
        match result {
            Ok(done) => done.is_none(),
            Err(failure) => {
                self.first_failure.get_or_insert(failure);
                false
            }
        }
    }

    /// How the whole flush ended.
    fn into_result(self) -> Result<Answer, Failure> {
        let Some(failure) = self.first_failure else {
            return Ok(Answer::default());
        };
        Err(match failure {
            Failure::NotApplied(cause) if self.may_have_dropped => Failure::Unknown(cause),
            Failure::Busy | Failure::Shed | Failure::Refused { .. } if self.may_have_dropped => {
                Failure::Unknown(Cause::NodeBusy)
            }
            failure => failure,
        })
    }
}

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
    /// The first failure, once everything that could be flushed is. If anything may have been dropped, it is
    /// [`WriteError::OutcomeUnknown`], whatever kept the rest. Flushing again is harmless.
    pub async fn flush_slices(&self, slices: impl IntoIterator<Item = Slice>) -> Result<(), WriteError> {
        let deadline = self.deadline();
        let operator = &self.shared.operator;
        let slices: Vec<Slice> = slices.into_iter().collect();
        let _own = self.shared.flights.own_write(Keys::In(&slices));
        let mut left: Vec<(Slice, Course)> = slices.iter().map(|slice| (*slice, Course::default())).collect();
        let mut progress = Progress::default();
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
                if progress.note(result, &course) {
                    left.push((part, course));
                }
            }
        }
        self.wrote(progress.into_result()).map(drop)
    }
}
