//! Operations that cannot be answered at once: a range that is being taken over, a client that knows a newer
//! assignment, a key that may still be at the giver, a flush.
//!
//! Who waits holds no lock, and tries again from admission on, since the range may have moved meanwhile. What waits is
//! bounded in count and bytes ([`HeldBack`]).

use std::sync::Arc;
use std::time::Duration;

use softstore_proto::batch::OpView;
use softstore_proto::v1;
use softstore_proto::v1::Status;
use softstore_sharding::{Generation, Slice, SliceKey};
use softstore_sync::atomic::Ordering;
use softstore_transfer::handoff::Admission;
use tokio::time::Instant;

use super::metrics::{add, count};
use super::operation::{Asked, Execution, Step, StoodStill, Wait, invalid};
use super::peeks::Peeks;
use super::replies::Replies;
use super::state::NodeState;

/// How long an operation may take if the client does not say, in milliseconds.
const OP_DEADLINE_MS_DEFAULT: u64 = 10_000;

/// Longest patience that is believed, in milliseconds: a day.
const PATIENCE_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// What is to be waited for, and how long.
struct Patience {
    /// After this the range's owner is not waited for.
    owner_until: Instant,
    /// After this the assignment is not waited for.
    assignment_until: Instant,
    /// After this nothing starts.
    expires: Instant,
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
    let patience_ms = patience_ms(said_ms);
    let mut replies = Replies::default();
    let step = if patience_ms == 0 {
        replies.push_status(op.id, Status::Expired);
        Step::Answered(Status::Expired)
    } else {
        try_once(state, &Asked::first(&OpView::of(op), since), &mut replies)?
    };
    match step {
        Step::Answered(status) => {
            state.metrics.operation(op.kind, status.into());
            Ok(replies)
        }
        Step::Wait(wait) => finish(state, op, since, wait, Duration::from_millis(patience_ms)).await,
    }
}

/// Waits for what an operation needs and runs it, until it is answered, its patience or its deadline ends.
pub(super) async fn finish(
    state: &Arc<NodeState>,
    op: &v1::Op,
    since: Generation,
    wait: Wait,
    patience: Duration,
) -> Result<Replies, StoodStill> {
    let mut replies = Replies::default();
    let status = wait_and_run(state, op, since, wait, patience, &mut replies).await?;
    state.metrics.operation(op.kind, status.into());
    Ok(replies)
}

async fn wait_and_run(
    state: &Arc<NodeState>,
    op: &v1::Op,
    since: Generation,
    mut wait: Wait,
    patience: Duration,
    replies: &mut Replies,
) -> Result<Status, StoodStill> {
    let begun = Instant::now();
    // Nearly every flush is answered at its first try, and so takes no place among those that are held back.
    if wait == Wait::Exclusive
        && let Step::Answered(status) = flush(state, op, since, replies)?
    {
        return Ok(status);
    }
    let Some(_place) = HeldBack::enter(state, op.key.len() + op.value.len()) else {
        replies.push_status(op.id, Status::Busy);
        return Ok(Status::Busy);
    };
    let patience = Patience {
        owner_until: begun + Duration::from_millis(state.config.hold_ms_max),
        assignment_until: begun + Duration::from_millis(state.config.behind_wait_ms),
        expires: begun + patience,
    };
    let view = OpView::of(op);
    let mut asked = Asked::first(&view, since);
    loop {
        if Instant::now() >= patience.expires {
            replies.push_status(op.id, Status::Expired);
            return Ok(Status::Expired);
        }
        // Subscribed before the next try, so that no wake is missed in between.
        let mut wakes = state.wakes();
        let (until, status) = match wait {
            Wait::Peek(pull) => {
                Peeks::ask(state, pull, asked.at, asked.op.key).await;
                asked.peeked = Some(pull);
                if Instant::now() >= patience.expires {
                    continue;
                }
                match try_once(state, &asked, replies)? {
                    Step::Answered(status) => return Ok(status),
                    Step::Wait(next) => wait = next,
                }
                continue;
            }
            Wait::Exclusive => match flush(state, op, since, replies)? {
                Step::Answered(status) => return Ok(status),
                Step::Wait(Wait::Assignment) => (patience.assignment_until, Status::Behind),
                Step::Wait(_) => (patience.owner_until, Status::NotReady),
            },
            Wait::Owner | Wait::Assignment => {
                // What it waited for may have come before the subscription.
                match try_once(state, &asked, replies)? {
                    Step::Answered(status) => return Ok(status),
                    Step::Wait(again) if again != wait => {
                        wait = again;
                        continue;
                    }
                    Step::Wait(Wait::Assignment) => (patience.assignment_until, Status::Behind),
                    Step::Wait(_) => (patience.owner_until, Status::NotReady),
                }
            }
        };
        let woken = tokio::time::timeout_at(until.min(patience.expires), wakes.changed()).await;
        if woken.is_err() && Instant::now() < patience.expires {
            replies.push_status(op.id, status);
            return Ok(status);
        }
    }
}

fn try_once(state: &Arc<NodeState>, asked: &Asked<'_>, replies: &mut Replies) -> Result<Step, StoodStill> {
    let execution = Execution::begin(state);
    let step = execution.run(asked, replies);
    execution.end()?;
    Ok(step)
}

/// Drops the entries of a flush's slice that are held here. Done when all of it was; otherwise it says, of the first
/// position that is not here, what its client or it has to wait for. Flushing again does no harm, so the client asks again
/// for all of it, after finding out who owns the rest.
fn flush(
    state: &Arc<NodeState>,
    op: &v1::Op,
    since: Generation,
    replies: &mut Replies,
) -> Result<Step, StoodStill> {
    let view = OpView::of(op);
    let Some(Ok(slice)) = op.slice.map(Slice::try_from) else {
        return Ok(invalid(&view, "a flush needs a slice that is not empty", replies));
    };
    // A node that may not serve, or knows less of the range than the client, drops nothing that it might not own.
    let before = look(state, op, slice.low(), since, replies)?;
    if let Some(step) = before {
        return Ok(step);
    }
    let flushed = state.flush(slice);
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
        if requests >= state.config.hold_requests_max as u64
            || held + bytes > state.config.hold_bytes_max as u64
        {
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
