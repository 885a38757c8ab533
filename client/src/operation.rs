//! One operation, from its first attempt to its outcome: where it goes, what is tried again, and what its end means.
//!
//! The rules (DESIGN, section 7): `MOVED`, `NOT_READY`, `BEHIND` and `BUSY` mean not applied, and so does what never left
//! this process: tried again until the deadline. An answer that was lost is asked for again only where a second
//! application does no harm: reads and unconditional deletes. For everything else the outcome is unknown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use softstore_proto::cache::{Moved, StatusClass};
use softstore_proto::v1;
use softstore_proto::v1::Status;
use softstore_sharding::{Generation, SliceKey};

use crate::backoff::Backoff;
use crate::error::Cause;
use crate::lane::Ticket;
use crate::metrics::Counters;
use crate::queue::{Attempt, Lost, NotSent};
use crate::routing::{Routing, Target};

/// How soon a read whose owner cannot be reached is tried once more, in case the assignment is about to say why.
const UNREACHABLE_GRACE: Duration = Duration::from_millis(5);

/// What an operation may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    /// A read: harmless, and worth nothing once its owner is known to be out of reach.
    Read,
    /// A write that may be applied twice.
    Harmless,
    /// A write that must not be applied twice.
    Never,
}

/// An operation to be carried out.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) op: v1::Op,
    pub(crate) at: SliceKey,
    pub(crate) deadline: Instant,
    pub(crate) repeat: Repeat,
}

/// Why an operation has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// Too much is pending here. Not applied.
    Busy,
    /// Not applied within its deadline.
    NotApplied(Cause),
    /// Perhaps applied.
    Unknown(Cause),
    /// Refused for good. Not applied.
    Refused { status: Status, message: String },
}

/// An attempt under way.
#[derive(Debug)]
pub(crate) enum Started {
    /// Its answer is to come.
    Waiting {
        ticket: Ticket,
        since: Generation,
        epoch: u64,
    },
    /// It went nowhere.
    NotSent { reason: NotSent, epoch: u64 },
}

/// What an attempt's end leads to.
enum Next {
    Done(v1::Reply),
    Fail(Failure),
    /// Try again, at once.
    AtOnce(Cause),
    /// Try again after a pause.
    AfterPause(Cause),
    /// The owner cannot be reached, by the snapshot of this epoch.
    Unreachable(u64),
}

/// What the attempts at an operation leave behind for the next.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    backoff: Backoff,
    /// An attempt was sent and its answer lost.
    was_lost: bool,
    was_unreachable: bool,
    last: Option<Cause>,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            backoff: Backoff::OPERATION,
            was_lost: false,
            was_unreachable: false,
            last: None,
        }
    }
}

/// What operations need of a client.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) routing: Arc<Routing>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) unreachable_wait: Duration,
}

impl Operator {
    /// Carries an operation out.
    pub(crate) async fn run(&self, operation: &Operation) -> Result<v1::Reply, Failure> {
        let started = self.start(operation);
        self.finish(operation, started).await
    }

    /// Queues an attempt where the key's operations go now.
    pub(crate) fn start(&self, operation: &Operation) -> Started {
        let table = self.routing.table();
        let epoch = table.epoch();
        let Target::Lane { lane, since } = table.target(operation.at) else {
            let reason = NotSent::NoConnection;
            return Started::NotSent { reason, epoch };
        };
        match lane.submit(operation.op.clone(), since, operation.deadline) {
            Ok(ticket) => Started::Waiting { ticket, since, epoch },
            Err(reason) => Started::NotSent { reason, epoch },
        }
    }

    /// Sees an attempt, and those after it, to the end.
    pub(crate) async fn finish(&self, operation: &Operation, started: Started) -> Result<v1::Reply, Failure> {
        let mut course = Course::default();
        let result = self.finish_on(operation, started, &mut course).await;
        match result {
            // An earlier attempt may have been applied, whatever became of the later ones.
            Err(Failure::NotApplied(cause)) if course.was_lost => Err(Failure::Unknown(cause)),
            Err(Failure::Busy | Failure::Refused { .. }) if course.was_lost => {
                Err(Failure::Unknown(Cause::Broken))
            }
            other => other,
        }
    }

    async fn finish_on(
        &self,
        operation: &Operation,
        mut started: Started,
        course: &mut Course,
    ) -> Result<v1::Reply, Failure> {
        loop {
            let next = self.end_of(operation, started, course.last).await;
            if let Some(reply) = self.before_next(operation, next, course).await? {
                return Ok(reply);
            }
            started = self.start(operation);
        }
    }

    /// One attempt, and the pause that is due after it. `None`: to be tried again.
    pub(crate) async fn once(
        &self,
        operation: &Operation,
        started: Started,
        course: &mut Course,
    ) -> Result<Option<v1::Reply>, Failure> {
        let next = self.end_of(operation, started, course.last).await;
        self.before_next(operation, next, course).await
    }

    async fn end_of(&self, operation: &Operation, started: Started, last: Option<Cause>) -> Next {
        match started {
            Started::Waiting { ticket, since, epoch } => {
                self.judge(operation, ticket.await, since, epoch, last)
            }
            Started::NotSent { reason, epoch } => not_sent(reason, epoch, last),
        }
    }

    /// Waits as long as is due before the next attempt. `Some`: there is an answer, and no next attempt.
    async fn before_next(
        &self,
        operation: &Operation,
        next: Next,
        course: &mut Course,
    ) -> Result<Option<v1::Reply>, Failure> {
        let cause = match next {
            Next::Done(reply) => return Ok(Some(reply)),
            Next::Fail(failure) => return Err(failure),
            Next::AtOnce(Cause::Moved) => Cause::Moved,
            Next::AtOnce(cause) => {
                let was_lost_before = std::mem::replace(&mut course.was_lost, true);
                if was_lost_before {
                    self.pause(course.backoff.pause(), operation, cause).await?;
                }
                cause
            }
            Next::AfterPause(cause) => {
                self.pause(course.backoff.pause(), operation, cause).await?;
                cause
            }
            Next::Unreachable(epoch) => {
                self.pause_unreachable(epoch, operation, course).await?;
                Cause::Unreachable
            }
        };
        if Instant::now() >= operation.deadline {
            return Err(Failure::NotApplied(cause));
        }
        self.count_retry(cause);
        course.last = Some(cause);
        Ok(None)
    }

    async fn pause_unreachable(
        &self,
        epoch: u64,
        operation: &Operation,
        course: &mut Course,
    ) -> Result<(), Failure> {
        let before = std::mem::replace(&mut course.was_unreachable, true);
        if !before {
            return self.pause(UNREACHABLE_GRACE, operation, Cause::Unreachable).await;
        }
        if operation.repeat == Repeat::Read {
            self.wait_for_news(epoch).await?;
        }
        let pause = course.backoff.pause();
        self.pause(pause, operation, Cause::Unreachable).await
    }

    /// What the end of an attempt leads to.
    fn judge(
        &self,
        operation: &Operation,
        attempt: Attempt,
        since: Generation,
        epoch: u64,
        last: Option<Cause>,
    ) -> Next {
        let lost = match attempt {
            Attempt::Reply(reply) => return self.judge_reply(operation, reply, since),
            Attempt::NotSent(reason) => return not_sent(reason, epoch, last),
            Attempt::Lost(lost) => lost,
        };
        let may_repeat = operation.repeat != Repeat::Never;
        match lost {
            Lost::Broken if may_repeat => Next::AtOnce(Cause::Broken),
            Lost::Broken => Next::Fail(Failure::Unknown(Cause::Broken)),
            Lost::Deadline => Next::Fail(Failure::Unknown(Cause::NoAnswer)),
        }
    }

    fn judge_reply(&self, operation: &Operation, reply: v1::Reply, since: Generation) -> Next {
        let status = reply.status();
        match (status.class(), status) {
            (StatusClass::Answer, _) => Next::Done(reply),
            (_, Status::Moved) => {
                let moved = reply.moved.map(|moved| Moved::try_from(*moved));
                let Some(Ok(moved)) = moved else {
                    return Next::AfterPause(Cause::Moved);
                };
                if self.routing.moved(moved, operation.at, since) {
                    Next::AtOnce(Cause::Moved)
                } else {
                    Next::AfterPause(Cause::Moved)
                }
            }
            (_, Status::NotReady) => Next::AfterPause(Cause::NotReady),
            (_, Status::Behind) => Next::AfterPause(Cause::Behind),
            (_, Status::Busy) => Next::AfterPause(Cause::NodeBusy),
            (StatusClass::Expired, _) => Next::Fail(Failure::NotApplied(Cause::NoAnswer)),
            (StatusClass::Refused, _) => Next::Fail(Failure::Refused {
                status,
                message: reply.message,
            }),
            // A status of a later version: nothing is known of what it did.
            (StatusClass::Unknown | StatusClass::Retry, _) => Next::Fail(Failure::Unknown(Cause::NoAnswer)),
        }
    }

    async fn pause(&self, pause: Duration, operation: &Operation, cause: Cause) -> Result<(), Failure> {
        let left = operation.deadline.saturating_duration_since(Instant::now());
        if left <= pause {
            tokio::time::sleep(left).await;
            return Err(Failure::NotApplied(cause));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// For a read whose owner cannot be reached by the snapshot of `epoch`: returns once there is a newer snapshot. If
    /// assignments are coming in, they would have said so: the read ends. If they are not, it waits for them a little.
    async fn wait_for_news(&self, epoch: u64) -> Result<(), Failure> {
        let unreachable = Err(Failure::NotApplied(Cause::Unreachable));
        let mut changes = self.routing.changes();
        let news = async {
            loop {
                if self.routing.table().epoch() > epoch {
                    return Ok(());
                }
                if self.routing.is_followed() || changes.changed().await.is_err() {
                    return Err(Failure::NotApplied(Cause::Unreachable));
                }
            }
        };
        tokio::time::timeout(self.unreachable_wait, news)
            .await
            .unwrap_or(unreachable)
    }

    fn count_retry(&self, cause: Cause) {
        let counters = &self.counters;
        match cause {
            Cause::Moved => counters.retries_moved.one(),
            Cause::NotReady => counters.retries_not_ready.one(),
            Cause::Behind => counters.retries_behind.one(),
            Cause::NodeBusy => counters.retries_busy.one(),
            Cause::Unreachable => counters.retries_unreachable.one(),
            Cause::Broken | Cause::NoAnswer => counters.retries_broken.one(),
        }
    }
}

fn not_sent(reason: NotSent, epoch: u64, last: Option<Cause>) -> Next {
    match reason {
        NotSent::Full => Next::Fail(Failure::Busy),
        NotSent::NoConnection => Next::Unreachable(epoch),
        NotSent::Deadline => Next::Fail(Failure::NotApplied(last.unwrap_or(Cause::Unreachable))),
    }
}
