//! Operations that cannot be answered at once: a range that is being taken over, a client that knows a newer
//! assignment, a key that may still be at the giver, one that replicas have to forget first, one to be fetched from its owner,
//! a flush.
//!
//! Who waits holds no lock, and tries again from admission on, since the range may have moved meanwhile. What waits is
//! bounded in count and bytes ([`HeldBack`]).

use std::sync::Arc;
use std::time::Duration;

use softstore_proto::batch::OpView;
use softstore_proto::v1;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{Generation, PullId, Slice, SliceKey, Timestamp};
use softstore_sync::atomic::Ordering;
use softstore_transfer::handoff::{Admission, Clearance};
use tokio::sync::watch;

use super::lending::Cleared;
use super::metrics::{add, count};
use super::operation::{Asked, Execution, Step, StoodStill, Wait, invalid};
use super::peeks::{self, Peeks};
use super::reading::Copies;
use super::replies::Replies;
use super::state::NodeState;

/// How long an operation may take if the client does not say, in milliseconds.
const OP_DEADLINE_MS_DEFAULT: u64 = 10_000;

/// Longest patience that is believed, in milliseconds: a day.
const PATIENCE_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// Share of its patience after which a client is told that a range has no owner yet, in tenths: it can still say so itself.
const PATIENCE_TENTHS_HELD: u64 = 9;

/// What is to be waited for, and how long, by the node's clock, which runs in suspend: a timer of the runtime may be late.
struct Patience {
    /// After this the range's owner is not waited for.
    owner_until: Timestamp,
    /// After this the assignment is not waited for.
    assignment_until: Timestamp,
    /// After this nothing starts.
    expires: Timestamp,
}

/// How long the client of an operation waits, from the arrival of its message, in milliseconds.
pub(super) fn patience_ms(said: Option<u64>) -> u64 {
    said.unwrap_or(OP_DEADLINE_MS_DEFAULT).min(PATIENCE_MS_MAX)
}

/// Runs an operation to its reply, waiting where it must. `said_ms`: how long its client still waits, if it said so.
pub(super) async fn run(
    state: &Arc<NodeState>,
    op: &v1::Op,
    since: Generation,
    said_ms: Option<u64>,
) -> Result<Replies, StoodStill> {
    let expires = state.clock.now().plus_ms(patience_ms(said_ms));
    let mut replies = Replies::default();
    let step = try_once(
        state,
        &Asked::first(&OpView::of(op), since),
        expires,
        &mut replies,
    )?;
    match step {
        Step::Answered(status) => {
            state.metrics.operation(op.kind, status.into());
            Ok(replies)
        }
        Step::Wait(wait) => finish(state, op, since, wait, expires).await,
    }
}

/// Waits for what an operation needs and runs it, until it is answered, its patience ends, or it expires.
pub(super) async fn finish(
    state: &Arc<NodeState>,
    op: &v1::Op,
    since: Generation,
    wait: Wait,
    expires: Timestamp,
) -> Result<Replies, StoodStill> {
    let mut replies = Replies::default();
    let status = wait_and_run(state, op, since, wait, expires, &mut replies).await?;
    state.metrics.operation(op.kind, status.into());
    Ok(replies)
}

async fn wait_and_run(
    state: &Arc<NodeState>,
    op: &v1::Op,
    since: Generation,
    wait: Wait,
    expires: Timestamp,
    replies: &mut Replies,
) -> Result<Status, StoodStill> {
    let begun = state.clock.now();
    // Nearly every flush is answered at its first try, and so takes no place among those that are held back.
    if wait == Wait::Exclusive
        && let Step::Answered(status) = flush(state, op, since, None, replies)?
    {
        return Ok(status);
    }
    let Some(_place) = HeldBack::enter(state, op.key.len() + op.value.len()) else {
        replies.push_status(op.id, Status::Busy);
        return Ok(Status::Busy);
    };
    let view = OpView::of(op);
    let waiting = Waiting {
        state,
        op,
        asked: Asked::first(&view, since),
        cleared: None,
        patience: Patience::from(begun, expires, state),
    };
    waiting.run(wait, replies).await
}

impl Patience {
    fn from(begun: Timestamp, expires: Timestamp, state: &NodeState) -> Self {
        let held_ms_max = expires.ms_since(begun) / 10 * PATIENCE_TENTHS_HELD;
        Self {
            owner_until: begun.plus_ms(state.config.hold_ms_max.min(held_ms_max)),
            assignment_until: begun.plus_ms(state.config.behind_wait_ms.min(held_ms_max)),
            expires,
        }
    }
}

/// An operation that is held back, with what it has obtained so far.
struct Waiting<'a> {
    state: &'a Arc<NodeState>,
    op: &'a v1::Op,
    asked: Asked<'a>,
    /// Leave to change what replicas may read.
    cleared: Option<Cleared<'a>>,
    patience: Patience,
}

impl Waiting<'_> {
    async fn run(mut self, mut wait: Wait, replies: &mut Replies) -> Result<Status, StoodStill> {
        loop {
            if self.has_expired() {
                return Ok(self.end(Status::Expired, replies));
            }
            // Subscribed before the next try, so that no wake is missed in between.
            let mut wakes = self.state.wakes();
            let step = match wait {
                Wait::Readers => self.readers(replies).await?,
                Wait::Fill => {
                    fill(
                        self.state,
                        self.op,
                        &mut self.asked,
                        self.patience.expires,
                        replies,
                    )
                    .await?
                }
                Wait::Peek(pull) => self.peek(pull, replies).await?,
                Wait::Exclusive | Wait::Owner | Wait::Assignment => {
                    self.cleared = None;
                    // What it waited for may have come before the subscription.
                    self.try_now(replies)?
                }
            };
            match step {
                Step::Answered(status) => return Ok(status),
                Step::Wait(again @ (Wait::Owner | Wait::Assignment)) if again == wait => {
                    if let Some(status) = self.wake(wait, &mut wakes).await {
                        return Ok(self.end(status, replies));
                    }
                }
                Step::Wait(next) => wait = next,
            }
        }
    }

    fn has_expired(&self) -> bool {
        self.state.clock.now() >= self.patience.expires
    }

    fn end(&self, status: Status, replies: &mut Replies) -> Status {
        replies.push_status(self.op.id, status);
        status
    }

    /// Tries to run it, with what it has obtained.
    fn try_now(&self, replies: &mut Replies) -> Result<Step, StoodStill> {
        let clearance = self.cleared.as_ref().map(Cleared::clearance);
        if self.op.kind == i32::from(OpKind::Flush) {
            return flush(self.state, self.op, self.asked.since, clearance, replies);
        }
        let asked = Asked {
            clearance,
            ..self.asked
        };
        try_once(self.state, &asked, self.patience.expires, replies)
    }

    /// Waits until replicas have forgotten what it changes, and tries.
    async fn readers(&mut self, replies: &mut Replies) -> Result<Step, StoodStill> {
        // The one before ends first, so that nobody is asked twice at a time.
        self.cleared = None;
        let Some(slice) = changed_slice(self.op, self.asked.at) else {
            return Ok(Step::Answered(refuse_slice(self.asked.op, replies)));
        };
        self.cleared = Cleared::get(self.state, slice, self.patience.expires).await;
        if self.cleared.is_some() {
            self.try_now(replies)
        } else if self.has_expired() {
            Ok(Step::Wait(Wait::Readers))
        } else {
            // The node ends.
            Ok(Step::Answered(self.end(Status::NotReady, replies)))
        }
    }

    /// Waits for the giver's word about its key, and tries.
    async fn peek(&mut self, pull: PullId, replies: &mut Replies) -> Result<Step, StoodStill> {
        let known = Peeks::ask(self.state, pull, self.asked.at, self.asked.op.key).await;
        // A fill needs the giver's word: what it holds back would be refused for ever where the fill stands.
        let is_unfounded = known == peeks::Asked::Unknown && self.op.fill;
        if known == peeks::Asked::Unknown && !self.op.fill {
            count(&self.state.metrics.absences_unconfirmed);
        }
        self.asked.peeked = (!is_unfounded).then_some(pull);
        match self.try_now(replies)? {
            Step::Wait(Wait::Peek(again)) if is_unfounded && again == pull => {
                Ok(Step::Answered(self.end(Status::NotReady, replies)))
            }
            step => Ok(step),
        }
    }

    /// Waits for a change that may let it go on; what to say if there is none in time.
    async fn wake(&self, wait: Wait, wakes: &mut watch::Receiver<u64>) -> Option<Status> {
        let (until, status) = match wait {
            Wait::Assignment => (self.patience.assignment_until, Status::Behind),
            _ => (self.patience.owner_until, Status::NotReady),
        };
        let left_ms = until.min(self.patience.expires).ms_since(self.state.clock.now());
        let woken = tokio::time::timeout(Duration::from_millis(left_ms), wakes.changed()).await;
        (woken.is_err() && !self.has_expired()).then_some(status)
    }
}

/// What an operation changes: a flush its slice, if it names one, and every other the position of its key.
fn changed_slice(op: &v1::Op, at: SliceKey) -> Option<Slice> {
    if op.kind == i32::from(OpKind::Flush) {
        op.slice.and_then(|slice| Slice::try_from(slice).ok())
    } else {
        Some(Slice::single(at))
    }
}

/// Asks the owner for the key of a get that this node may answer as a replica. What the owner does not say is for it to answer.
async fn fill(
    state: &Arc<NodeState>,
    op: &v1::Op,
    asked: &mut Asked<'_>,
    expires: Timestamp,
    replies: &mut Replies,
) -> Result<Step, StoodStill> {
    let reading = Execution::begin(state).may_read(asked);
    if let Some(reading) = reading {
        let left_ms = expires.ms_since(state.clock.now());
        let filling = Copies::fill(state, &op.key, asked.at, &reading);
        let filled = tokio::time::timeout(Duration::from_millis(left_ms), filling).await;
        let Ok(filled) = filled else {
            replies.push_status(op.id, Status::Expired);
            return Ok(Step::Answered(Status::Expired));
        };
        let mut execution = Execution::begin(state);
        let status = execution.answer_filled(asked, &reading, &filled, replies);
        execution.end()?;
        if let Some(status) = status {
            return Ok(Step::Answered(status));
        }
    }
    asked.is_for_owner = true;
    try_once(state, asked, expires, replies)
}

/// Tries to run an operation, unless it has expired. The clock is read under the lock: nothing starts late, however long the
/// lock was waited for.
fn try_once(
    state: &Arc<NodeState>,
    asked: &Asked<'_>,
    expires: Timestamp,
    replies: &mut Replies,
) -> Result<Step, StoodStill> {
    let mut execution = Execution::begin(state);
    let step = if execution.now() < expires {
        execution.run(asked, replies)
    } else {
        replies.push_status(asked.op.id, Status::Expired);
        Step::Answered(Status::Expired)
    };
    execution.end()?;
    Ok(step)
}

/// Drops the entries of a flush's slice that are held here. Done when all of it was; otherwise it says, of the first
/// position that is not here, what its client or it has to wait for. Flushing again does no harm, so the client asks again
/// for all of it, after finding out who owns the rest. Busy if earlier flushes left more than is reclaimed by now.
fn flush(
    state: &Arc<NodeState>,
    op: &v1::Op,
    since: Generation,
    clearance: Option<&Clearance>,
    replies: &mut Replies,
) -> Result<Step, StoodStill> {
    let view = OpView::of(op);
    let Some(Ok(slice)) = op.slice.map(Slice::try_from) else {
        return Ok(Step::Answered(refuse_slice(&view, replies)));
    };
    // A node that may not serve, or knows less of the range than the client, drops nothing that it might not own.
    let before = look(state, op, slice.low(), since, replies)?;
    if let Some(step) = before {
        return Ok(step);
    }
    if state.may_not_flush() {
        count(&state.metrics.flushes_refused);
        replies.push_status(op.id, Status::Busy);
        return Ok(Step::Answered(Status::Busy));
    }
    let Some(flushed) = state.flush(slice, clearance) else {
        return Ok(Step::Wait(Wait::Readers));
    };
    let whole: u128 = flushed.iter().map(|part| part.width()).sum();
    if whole == slice.width() {
        replies.push_status(op.id, Status::Ok);
        return Ok(Step::Answered(Status::Ok));
    }
    let elsewhere =
        std::iter::once(slice.low()).chain(flushed.iter().filter_map(|part| part.high_excluded()));
    for at in elsewhere.filter(|at| slice.contains(*at)) {
        if let Some(step) = look(state, op, at, since, replies)? {
            return Ok(step);
        }
    }
    // All of it is here by now, or it would cut what this node holds into too many parts: the client decides.
    replies.push_status(op.id, Status::NotReady);
    Ok(Step::Answered(Status::NotReady))
}

fn refuse_slice(op: &OpView<'_>, replies: &mut Replies) -> Status {
    let _ = invalid(op, "a flush needs a slice that is not empty", replies);
    Status::InvalidRequest
}

/// What stands against flushing at a position; `None`: nothing.
fn look(
    state: &Arc<NodeState>,
    op: &v1::Op,
    at: SliceKey,
    since: Generation,
    replies: &mut Replies,
) -> Result<Option<Step>, StoodStill> {
    let execution = Execution::begin(state);
    let step = match execution.admit(at, since) {
        Admission::Serve(_) => None,
        Admission::Hold => Some(Step::Wait(Wait::Owner)),
        Admission::Behind if execution.is_invented(since) => {
            replies.push_status(op.id, Status::Behind);
            Some(Step::Answered(Status::Behind))
        }
        Admission::Behind => Some(Step::Wait(Wait::Assignment)),
        Admission::NotReady => {
            replies.push_status(op.id, Status::NotReady);
            Some(Step::Answered(Status::NotReady))
        }
        Admission::Moved(moved) => {
            replies.push_moved(op.id, &moved);
            Some(Step::Answered(Status::Moved))
        }
    };
    execution.end()?;
    Ok(step)
}

/// A place among the requests held back: bounded in count and bytes.
#[derive(Debug)]
pub(super) struct HeldBack<'a> {
    state: &'a NodeState,
    bytes: u64,
}

impl<'a> HeldBack<'a> {
    /// Takes a place, if there is one.
    pub(super) fn enter(state: &'a NodeState, bytes: usize) -> Option<Self> {
        let bytes = bytes as u64;
        let requests = state.held_requests.fetch_add(1, Ordering::Relaxed);
        let held = state.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = Self { state, bytes };
        if requests >= state.config.hold_requests_max as u64 || held + bytes > state.hold_bytes_max() {
            count(&state.metrics.hold_overflows);
            return None;
        }
        add(&state.metrics.operations_held_back, 1);
        Some(place)
    }
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        self.state.held_requests.fetch_sub(1, Ordering::Relaxed);
        self.state.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::mid_pull::{MidPull, generation};
    use bytes::Bytes;
    use softstore_proto::v1::SetCondition;

    fn get(id: u64) -> v1::Op {
        v1::Op {
            id,
            kind: v1::OpKind::Get.into(),
            key: b"key".as_slice().into(),
            ..v1::Op::default()
        }
    }

    async fn status_of(state: &Arc<NodeState>, said_ms: u64) -> Status {
        let expires = state.clock.now().plus_ms(said_ms);
        let mut replies = Replies::default();
        let op = get(1);
        let status = wait_and_run(state, &op, generation(2), Wait::Owner, expires, &mut replies).await;
        status.unwrap()
    }

    /// Plan: an operation waits for its range's owner, which nobody settles. It is told so while its client is still there
    /// to be told, and not at the end of its patience, when all the client knows is that there was no answer.
    #[tokio::test]
    async fn who_waits_in_vain_is_told_before_its_patience_ends() {
        let state = MidPull::asking().state;
        let begun = state.clock.now();
        assert_eq!(status_of(&state, 500).await, Status::NotReady);
        let waited_ms = state.clock.now().ms_since(begun);
        assert!((400..500).contains(&waited_ms), "{waited_ms}");
    }

    /// Plan: the node stops serving while an operation waits for a range that it was to take over. It never will, and says so
    /// at once.
    #[tokio::test]
    async fn who_waits_at_a_node_that_stops_is_told_at_once() {
        let state = MidPull::asking().state;
        let waiting = tokio::spawn({
            let state = state.clone();
            async move { status_of(&state, 60_000).await }
        });
        while state.held_requests.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        state.stop_serving();
        assert_eq!(waiting.await.unwrap(), Status::NotReady);
    }

    /// Plan: an operation whose deadline came while it was on its way to the store. It does not start.
    #[tokio::test]
    async fn nothing_starts_after_its_deadline() {
        let state = MidPull::asking().state;
        let mut replies = Replies::default();
        let op = get(1);
        let view = OpView::of(&op);
        let asked = Asked::first(&view, generation(2));
        let step = try_once(&state, &asked, state.clock.now(), &mut replies);
        assert_eq!(step, Ok(Step::Answered(Status::Expired)));
    }

    /// Plan: a node in mid-pull whose giver cannot be reached. A set for an absent key takes the giver's silence for absence, as
    /// operations do; a fill does not, and changes nothing: what the pull brings then still gets in. A fill for a key that was
    /// written here, or that the pull brought, is answered.
    #[tokio::test]
    async fn h_a_fill_needs_the_givers_word() {
        let mid_pull = MidPull::start();
        let state = &mid_pull.state;
        let run_set = async |key: &'static [u8], fill| {
            let op = v1::Op {
                kind: OpKind::Set.into(),
                key: Bytes::from_static(key),
                value: Bytes::from_static(b"loaded"),
                condition: SetCondition::IfAbsent.into(),
                fill,
                ..Default::default()
            };
            let replies = run(state, &op, Generation::NONE, Some(5_000)).await;
            replies.unwrap().into_single().unwrap().status()
        };
        assert_eq!(run_set(b"filled", true).await, Status::NotReady);
        assert_eq!(run_set(b"plain", false).await, Status::Ok);
        MidPull::import(state, mid_pull.pull, b"filled", b"newer");
        assert_eq!(run_set(b"filled", true).await, Status::ConditionFailed);
        assert_eq!(run_set(b"plain", true).await, Status::ConditionFailed);
    }
}
