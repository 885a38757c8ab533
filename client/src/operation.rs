//! One operation, from its first attempt to its outcome: where it goes, what is tried again, and what its end means.
//!
//! The rules (`docs/protocol.md`, "What each status means"): `MOVED`, `NOT_READY`, `BEHIND` and `BUSY` mean not applied,
//! and so does what never left this process: tried again until the deadline. An answer that was lost is asked for again
//! only where a second application does no harm: reads and unconditional deletes. For everything else the outcome is
//! unknown.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use softstore_proto::batch::{OpView, Value};
use softstore_proto::cache::StatusClass;
use softstore_proto::v1;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{Generation, SliceKey};

use crate::answer::Answer;
use crate::backoff::Backoff;
use crate::error::Cause;
use crate::lane::Ticket;
use crate::metrics::Counters;
use crate::queue::{Attempt, Lost, NotSent};
use crate::routing::{Link, Routing, Target};

/// How soon a read whose owner cannot be reached is tried once more, in case the assignment is about to say why.
const UNREACHABLE_GRACE: Duration = Duration::from_millis(5);

/// An operation with so much time left is tried again although it was shed ...
const PATIENT: Duration = Duration::from_secs(2);

/// ... about so often, in the time that is left.
const PATIENT_TRIES: u32 = 20;

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
    /// Its owner is overloaded: it refused the operation, or refuses so much that it was not even sent. Not applied.
    Shed,
    /// Not applied within its deadline.
    NotApplied(Cause),
    /// Perhaps applied.
    Unknown(Cause),
    /// Refused for good. Not applied.
    Refused { status: Status, message: String },
}

/// An attempt under way, or over.
#[derive(Debug)]
pub(crate) struct Started {
    stage: Stage,
    /// The acquisition that it was sent with.
    since: Generation,
    /// The snapshot by which it was sent.
    epoch: u64,
    /// The node that was asked as a replica; none: its owner was asked.
    replica: Option<Arc<Link>>,
}

#[derive(Debug)]
enum Stage {
    /// Its answer is to come.
    Waiting(Ticket),
    /// It has ended.
    Ended(Attempt),
}

/// What an attempt's end leads to.
enum Next {
    Done(Answer),
    Fail(Failure),
    /// Try again, at once.
    AtOnce(Cause),
    /// Try again after a pause.
    AfterPause(Cause),
    /// A replica did not read it: its owner is asked.
    AskOwner(Cause),
    /// The owner cannot be reached, by the snapshot of this epoch.
    Unreachable(u64),
    /// The owner is overloaded: to be tried again only by those who have much time.
    Shed,
}

/// What the attempts at an operation leave behind for the next.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    backoff: Backoff,
    /// An attempt was sent and its answer lost.
    was_lost: bool,
    was_unreachable: bool,
    /// A replica did not read it.
    asks_owner: bool,
    last: Option<Cause>,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            backoff: Backoff::OPERATION,
            was_lost: false,
            was_unreachable: false,
            asks_owner: false,
            last: None,
        }
    }
}

impl Course {
    /// Why the newest attempt is to be repeated, if one is.
    pub(crate) fn last(&self) -> Option<Cause> {
        self.last
    }
}

/// What operations need of a client.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) routing: Arc<Routing>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) unreachable_wait: Duration,
}

impl Started {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Attempt> {
        match &mut self.stage {
            Stage::Waiting(ticket) => Pin::new(ticket).poll(context),
            Stage::Ended(attempt) => {
                let gone = Attempt::NotSent(NotSent::NoConnection);
                Poll::Ready(std::mem::replace(attempt, gone))
            }
        }
    }
}

impl Operator {
    /// Carries an operation out.
    pub(crate) async fn run(&self, operation: &Operation) -> Result<Answer, Failure> {
        let op = OpView::of(&operation.op);
        let value = Value::of(&operation.op.value);
        match self.try_once(&op, value, operation.at, operation.deadline).await {
            Ok(answer) => Ok(answer),
            Err(ended) => Box::pin(self.finish(operation, ended)).await,
        }
    }

    /// One attempt: an answer that ends the operation, or what else became of it, for [`Operator::finish`]. Nearly all
    /// operations end here. So it takes the caller's own bytes, and all that comes after is kept out of its future.
    pub(crate) async fn try_once(
        &self,
        op: &OpView<'_>,
        value: Value<'_>,
        at: SliceKey,
        deadline: Instant,
    ) -> Result<Answer, Started> {
        let mut value = Some(value);
        let mut started: Option<Started> = None;
        let ended = poll_fn(|context| {
            if let Some(value) = value.take() {
                // The first poll: the queue is told at once whom to wake, so it is not asked a second time.
                let attempt = self.submit(op, value, at, deadline, Some(context.waker().clone()), false);
                if let Stage::Waiting(_) = started.insert(attempt).stage {
                    return Poll::Pending;
                }
            }
            started.as_mut().expect("the first poll started it").poll(context)
        })
        .await;
        match ended {
            Attempt::Answer(answer) if answer.is_final() => Ok(answer),
            attempt => {
                let started = started.expect("the first poll started it");
                Err(Started {
                    stage: Stage::Ended(attempt),
                    ..started
                })
            }
        }
    }

    /// Queues an attempt where the key's operations go now.
    pub(crate) fn start(&self, operation: &Operation) -> Started {
        let op = OpView::of(&operation.op);
        let value = Value::of(&operation.op.value);
        self.submit(&op, value, operation.at, operation.deadline, None, false)
    }

    /// The same for an attempt that is not the first.
    pub(crate) fn start_again(&self, operation: &Operation, course: &Course) -> Started {
        let op = OpView::of(&operation.op);
        let value = Value::of(&operation.op.value);
        let (at, deadline) = (operation.at, operation.deadline);
        self.submit(&op, value, at, deadline, None, course.asks_owner)
    }

    fn submit(
        &self,
        op: &OpView<'_>,
        value: Value<'_>,
        at: SliceKey,
        deadline: Instant,
        waker: Option<Waker>,
        asks_owner: bool,
    ) -> Started {
        let table = self.routing.table();
        let epoch = table.epoch();
        let is_read = op.kind == i32::from(OpKind::Get) && !asks_owner;
        let target = if is_read {
            table.target_to_read(at)
        } else {
            table.target(at)
        };
        let (since, submitted, replica) = match target {
            Target::Lane { lane, since, replica } => {
                let submitted = lane.submit(op, value, since, deadline, waker);
                if replica.is_some() {
                    self.counters.replica_reads.one();
                }
                (since, submitted, replica.cloned())
            }
            Target::Nowhere { since } => (since, Err(NotSent::NoConnection), None),
        };
        let stage = match submitted {
            Ok(ticket) => Stage::Waiting(ticket),
            Err(reason) => Stage::Ended(Attempt::NotSent(reason)),
        };
        Started {
            stage,
            since,
            epoch,
            replica,
        }
    }

    /// Sees an attempt, and those after it, to the end.
    pub(crate) async fn finish(&self, operation: &Operation, started: Started) -> Result<Answer, Failure> {
        let mut course = Course::default();
        let result = self.finish_on(operation, started, &mut course).await;
        match result {
            // An earlier attempt may have been applied, whatever became of the later ones.
            Err(Failure::NotApplied(cause)) if course.was_lost => Err(Failure::Unknown(cause)),
            Err(Failure::Busy | Failure::Shed | Failure::Refused { .. }) if course.was_lost => {
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
    ) -> Result<Answer, Failure> {
        loop {
            let next = self.end_of(operation, started, course.last).await;
            if let Some(reply) = self.before_next(operation, next, course).await? {
                return Ok(reply);
            }
            started = self.start_again(operation, course);
        }
    }

    /// One attempt, and the pause that is due after it. `None`: to be tried again.
    pub(crate) async fn once(
        &self,
        operation: &Operation,
        started: Started,
        course: &mut Course,
    ) -> Result<Option<Answer>, Failure> {
        let next = self.end_of(operation, started, course.last).await;
        self.before_next(operation, next, course).await
    }

    async fn end_of(&self, operation: &Operation, started: Started, last: Option<Cause>) -> Next {
        let Started {
            stage,
            since,
            epoch,
            replica,
        } = started;
        let attempt = match stage {
            Stage::Waiting(ticket) => ticket.await,
            Stage::Ended(attempt) => attempt,
        };
        let next = self.judge(operation, attempt, since, epoch, last);
        match replica {
            Some(replica) => self.judge_replica(&replica, next),
            None => next,
        }
    }

    /// What the end of an attempt at a replica leads to: whatever stands in its way does not stand in the owner's. That goes for
    /// its overload, too. The owner is asked once, and what it says then holds: it sheds for itself.
    fn judge_replica(&self, replica: &Link, next: Next) -> Next {
        let cause = match next {
            // It may not read yet, or any more; or it knows that the range went elsewhere, and so does the routing now.
            Next::AtOnce(cause @ Cause::Moved)
            | Next::AfterPause(cause @ (Cause::Moved | Cause::NotReady | Cause::Behind)) => cause,
            Next::AtOnce(cause @ Cause::Broken) | Next::AfterPause(cause @ Cause::NodeBusy) => cause,
            Next::Shed | Next::Fail(Failure::Busy) => Cause::NodeBusy,
            Next::Unreachable(_) => Cause::Unreachable,
            other => return other,
        };
        self.counters.replica_refusals.one();
        replica.refused_to_read();
        Next::AskOwner(cause)
    }

    /// Waits as long as is due before the next attempt. `Some`: there is an answer, and no next attempt.
    async fn before_next(
        &self,
        operation: &Operation,
        next: Next,
        course: &mut Course,
    ) -> Result<Option<Answer>, Failure> {
        let cause = match next {
            Next::Done(reply) => return Ok(Some(reply)),
            Next::Fail(failure) => return Err(failure),
            Next::AtOnce(Cause::Moved) => Cause::Moved,
            Next::AskOwner(cause) => {
                course.asks_owner = true;
                cause
            }
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
            Next::Shed => {
                self.pause_shed(operation).await?;
                Cause::NodeBusy
            }
            Next::Unreachable(epoch) => {
                self.routing.set_out_of_reach();
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

    /// Who has little time hears at once that it was shed. Who has much tries again now and then, which at these
    /// intervals is no load.
    async fn pause_shed(&self, operation: &Operation) -> Result<(), Failure> {
        let left = operation.deadline.saturating_duration_since(Instant::now());
        if left < PATIENT {
            // A caller that at once tries again, without end, must not keep the connections' tasks from their turns.
            tokio::task::yield_now().await;
            return Err(Failure::Shed);
        }
        let pause = (left / PATIENT_TRIES).mul_f64(rand::random_range(0.5..=1.0));
        self.pause(pause, operation, Cause::NodeBusy).await
    }

    async fn pause_unreachable(
        &self,
        epoch: u64,
        operation: &Operation,
        course: &mut Course,
    ) -> Result<(), Failure> {
        if self.routing.is_absent() {
            // As in `pause_shed`: the tasks that look for the cluster have their turns.
            tokio::task::yield_now().await;
            return Err(Failure::NotApplied(Cause::Unreachable));
        }
        let before = std::mem::replace(&mut course.was_unreachable, true);
        if !before {
            return self.pause(UNREACHABLE_GRACE, operation, Cause::Unreachable).await;
        }
        if operation.repeat == Repeat::Read {
            self.wait_for_news(epoch, operation.deadline).await?;
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
            Attempt::Answer(answer) => return self.judge_answer(operation, answer, since),
            Attempt::NotSent(reason) => return not_sent(reason, epoch, last),
            Attempt::Shed => return Next::Shed,
            Attempt::Lost(lost) => lost,
        };
        let may_repeat = operation.repeat != Repeat::Never;
        match lost {
            Lost::Broken if may_repeat => Next::AtOnce(Cause::Broken),
            Lost::Broken => Next::Fail(Failure::Unknown(Cause::Broken)),
            Lost::Deadline => Next::Fail(Failure::Unknown(Cause::NoAnswer)),
        }
    }

    fn judge_answer(&self, operation: &Operation, mut answer: Answer, since: Generation) -> Next {
        let status = answer.status();
        match (status.class(), status) {
            (StatusClass::Answer, _) => Next::Done(answer),
            (_, Status::Moved) => {
                let moved = answer.take_moved();
                if moved.is_some_and(|moved| self.routing.moved(moved, operation.at, since)) {
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
                message: answer.into_message(),
            }),
            // A status of a later version: nothing is known of what it did.
            (StatusClass::Unknown | StatusClass::Retry, _) => Next::Fail(Failure::Unknown(Cause::NoAnswer)),
        }
    }

    async fn pause(&self, pause: Duration, operation: &Operation, cause: Cause) -> Result<(), Failure> {
        let left = operation.deadline.saturating_duration_since(Instant::now());
        if left <= pause {
            if cause == Cause::NodeBusy {
                // To wait for the deadline would only make it late.
                return Err(Failure::Shed);
            }
            tokio::time::sleep(left).await;
            return Err(Failure::NotApplied(cause));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// For a read whose owner cannot be reached by the snapshot of `epoch`: returns once there is a newer snapshot. If
    /// assignments are coming in, they would have said so: the read ends. If they are not, it waits for them a little, and
    /// no longer than until its deadline.
    async fn wait_for_news(&self, epoch: u64, deadline: Instant) -> Result<(), Failure> {
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
        let until = deadline.min(Instant::now() + self.unreachable_wait);
        tokio::time::timeout_at(until.into(), news)
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
        NotSent::Overloaded => Next::Shed,
        NotSent::TooLarge(bytes_max) => Next::Fail(Failure::Refused {
            status: Status::ValueTooLarge,
            message: format!("the value is longer than the {bytes_max} bytes that the node takes"),
        }),
        NotSent::NoConnection => Next::Unreachable(epoch),
        NotSent::Deadline => Next::Fail(Failure::NotApplied(last.unwrap_or(Cause::Unreachable))),
    }
}
