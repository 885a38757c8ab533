//! One operation, from its decoded form to its reply.
//!
//! [`execute`] admits it and runs it in the store in one stretch under the core's shared lock, or says what it has to
//! wait for ([`Step::Wait`]). [`finish`] waits and tries again, from admission on, since the range may have moved
//! meanwhile. Whoever waits holds no lock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use softstore_proto::v1;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{Generation, PullId, SliceKey, Timestamp, Version};
use softstore_store::{Absence, KEY_BYTES_MAX, OpContext, Outcome, SetCondition, SetOutcome, StoreError};
use softstore_transfer::handoff::{Admission, Serving};
use tokio::time::Instant;

use super::peeks::{HeldBack, Peeks};
use super::state::NodeState;

/// How long an operation may take if the client does not say, in milliseconds.
const OP_DEADLINE_MS_DEFAULT: u64 = 10_000;

/// Longest time to live, in milliseconds: a thousand years.
const TTL_MS_MAX: u64 = 1_000 * 365 * 24 * 3_600 * 1_000;

/// How far an operation came.
pub(super) enum Step {
    /// It was answered.
    Reply(v1::Reply),
    /// It was not applied, and has to wait for something first.
    Wait(Wait),
}

/// What an operation waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// For this node's search for the range to end.
    Owner,
    /// For the assignment that its client knows already.
    Assignment,
    /// For the giver's word about the key.
    Peek(PullId),
}

/// Tries to run an operation.
pub(super) fn execute(state: &Arc<NodeState>, op: &v1::Op, since: Generation, absence: Absence) -> Step {
    // Read afresh for each operation: the process may have stood still since the last one.
    let now = state.clock.now();
    let kind = OpKind::try_from(op.kind).unwrap_or(OpKind::Unspecified);
    if kind == OpKind::Flush {
        return Step::Reply(flush(state, op, now));
    }
    if op.key.is_empty() || op.key.len() > KEY_BYTES_MAX {
        return Step::Reply(refused(op, &StoreError::KeyLength(op.key.len())));
    }
    let at = SliceKey::of_key(&op.key);
    let core = state.core();
    match core.admit(at, since) {
        // Where a range went may be told at any time; serving it may not. The clock is read under the lock: the process
        // may have stood still while it waited for it.
        Admission::Serve(_) if !state.may_serve(state.clock.now()) => {
            Step::Reply(reply(op, Status::NotReady))
        }
        Admission::Serve(serving) => serve(state, op, kind, at, &serving, absence, now),
        Admission::Hold => Step::Wait(Wait::Owner),
        Admission::Behind => Step::Wait(Wait::Assignment),
        Admission::NotReady => Step::Reply(reply(op, Status::NotReady)),
        Admission::Moved(moved) => {
            let moved = Some(NodeState::moved_to_wire(&moved));
            Step::Reply(v1::Reply {
                moved,
                ..reply(op, Status::Moved)
            })
        }
    }
}

/// Runs an admitted operation in the store.
fn serve(
    state: &NodeState,
    op: &v1::Op,
    kind: OpKind,
    at: SliceKey,
    serving: &Serving<'_>,
    absence: Absence,
    now: Timestamp,
) -> Step {
    let (epoch, versions, pull) = (serving.epoch, serving.versions, serving.pull);
    let context = OpContext {
        now,
        epoch,
        versions,
        pull,
        absence,
    };
    let store = &state.store;
    let answered = match kind {
        OpKind::Get => found(store.get(&op.key, at, &context), |found| match found {
            None => reply(op, Status::NotFound),
            Some(found) => v1::Reply {
                value: found.value,
                version: found.version.get(),
                ttl_ms: ttl_left_ms(found.deadline, now),
                ..reply(op, Status::Ok)
            },
        }),
        OpKind::Set => match set_condition(op) {
            None => Ok(Some(invalid(op, "the set's condition is none of this protocol"))),
            Some(condition) => store
                .set(
                    &op.key,
                    at,
                    &op.value,
                    deadline_of(op.ttl_ms, now),
                    condition,
                    &context,
                )
                .map(|outcome| found_some(outcome, |outcome| set_reply(op, outcome))),
        },
        OpKind::Delete => found(
            store.delete(&op.key, at, op.report_existence, &context),
            |existed| {
                reply(
                    op,
                    if existed || !op.report_existence {
                        Status::Ok
                    } else {
                        Status::NotFound
                    },
                )
            },
        ),
        OpKind::Touch => found(
            store.touch(&op.key, at, deadline_of(op.ttl_ms, now), &context),
            |existed| reply(op, if existed { Status::Ok } else { Status::NotFound }),
        ),
        OpKind::Add => store
            .add(&op.key, at, op.delta, deadline_of(op.ttl_ms, now), &context)
            .map(|outcome| {
                found_some(outcome, |added| v1::Reply {
                    number: added.number,
                    version: added.version.get(),
                    ..reply(op, Status::Ok)
                })
            }),
        OpKind::Flush | OpKind::Unspecified => {
            Ok(Some(invalid(op, "the operation's kind is none of this protocol")))
        }
    };
    match (answered, pull) {
        (Ok(Some(reply)), _) => Step::Reply(reply),
        (Err(error), _) => Step::Reply(refused(op, &error)),
        (Ok(None), Some(pull)) => Step::Wait(Wait::Peek(pull)),
        // A store answers `Unknown` only while a pull is open.
        (Ok(None), None) => Step::Reply(reply(op, Status::NotReady)),
    }
}

fn found_some<T>(outcome: Outcome<T>, answer: impl FnOnce(T) -> v1::Reply) -> Option<v1::Reply> {
    match outcome {
        Outcome::Done(value) => Some(answer(value)),
        Outcome::Unknown => None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "all kinds answer in one form")]
fn found<T>(
    outcome: Outcome<T>,
    answer: impl FnOnce(T) -> v1::Reply,
) -> Result<Option<v1::Reply>, StoreError> {
    Ok(found_some(outcome, answer))
}

/// Waits for what an operation needs and runs it, until it is answered, its patience or its deadline ends.
pub(super) async fn finish(
    state: &Arc<NodeState>,
    op: &v1::Op,
    since: Generation,
    wait: Wait,
    arrived: Instant,
) -> v1::Reply {
    let expires = arrived + op_deadline(op);
    let Some(_place) = HeldBack::enter(state, op.key.len() + op.value.len()) else {
        return reply(op, Status::Busy);
    };
    let owner_until = arrived + Duration::from_millis(state.config.hold_ms_max);
    let assignment_until = arrived + Duration::from_millis(state.config.behind_wait_ms);
    let mut wait = wait;
    let mut absence = Absence::AskGiver;
    loop {
        // Subscribed before the next try, so that no wake is missed in between.
        let mut wakes = state.wakes();
        match wait {
            Wait::Peek(pull) => {
                Peeks::ask(state, pull, SliceKey::of_key(&op.key), &op.key).await;
                absence = Absence::Final;
            }
            Wait::Owner | Wait::Assignment => {
                // The first try came before the subscription.
                match execute(state, op, since, absence) {
                    Step::Reply(reply) => return reply,
                    Step::Wait(again) if again != wait => {
                        wait = again;
                        continue;
                    }
                    Step::Wait(_) => {}
                }
                let (until, status) = match wait {
                    Wait::Owner => (owner_until, Status::NotReady),
                    _ => (assignment_until, Status::Behind),
                };
                if tokio::time::timeout_at(until.min(expires), wakes.changed())
                    .await
                    .is_err()
                {
                    return reply(
                        op,
                        if Instant::now() >= expires {
                            Status::Expired
                        } else {
                            status
                        },
                    );
                }
            }
        }
        if Instant::now() >= expires {
            return reply(op, Status::Expired);
        }
        match execute(state, op, since, absence) {
            Step::Reply(reply) => return reply,
            Step::Wait(next) => wait = next,
        }
    }
}

/// Runs an operation to its reply, waiting where it must.
pub(super) async fn run(state: &Arc<NodeState>, op: &v1::Op, since: Generation) -> v1::Reply {
    let reply = match execute(state, op, since, Absence::AskGiver) {
        Step::Reply(reply) => reply,
        Step::Wait(wait) => finish(state, op, since, wait, Instant::now()).await,
    };
    state.metrics.operation(op.kind, reply.status);
    reply
}

fn flush(state: &Arc<NodeState>, op: &v1::Op, now: Timestamp) -> v1::Reply {
    let Some(Ok(slice)) = op.slice.map(softstore_sharding::Slice::try_from) else {
        return invalid(op, "a flush needs a slice that is not empty");
    };
    if !state.may_serve(now) {
        return reply(op, Status::NotReady);
    }
    let flushed = state.flush(slice);
    let whole: u128 = flushed.iter().map(|part| part.width()).sum();
    if whole == slice.width() {
        return reply(op, Status::Ok);
    }
    // Flushing twice does no harm: the client asks again for all of it, after finding out who owns the rest.
    let core = state.core();
    let elsewhere =
        std::iter::once(slice.low()).chain(flushed.iter().filter_map(|part| part.high_excluded()));
    for at in elsewhere.filter(|at| slice.contains(*at)) {
        if let Admission::Moved(moved) = core.admit(at, Generation::NONE) {
            let moved = Some(NodeState::moved_to_wire(&moved));
            return v1::Reply {
                moved,
                ..reply(op, Status::Moved)
            };
        }
    }
    reply(op, Status::NotReady)
}

fn set_condition(op: &v1::Op) -> Option<SetCondition> {
    Some(match v1::SetCondition::try_from(op.condition).ok()? {
        v1::SetCondition::Always => SetCondition::Always,
        v1::SetCondition::IfAbsent => SetCondition::IfAbsent,
        v1::SetCondition::IfPresent => SetCondition::IfPresent,
        v1::SetCondition::IfVersion => SetCondition::IfVersion(Version::new(op.version)),
    })
}

fn set_reply(op: &v1::Op, outcome: SetOutcome) -> v1::Reply {
    match outcome {
        SetOutcome::Stored(version) => v1::Reply {
            version: version.get(),
            ..reply(op, Status::Ok)
        },
        SetOutcome::Refused(present) => v1::Reply {
            version: present.map_or(0, Version::get),
            ..reply(op, Status::ConditionFailed)
        },
    }
}

/// How long the client still waits.
pub(super) fn op_deadline(op: &v1::Op) -> Duration {
    Duration::from_millis(if op.deadline_ms == 0 {
        OP_DEADLINE_MS_DEFAULT
    } else {
        op.deadline_ms.into()
    })
}

fn deadline_of(ttl_ms: u64, now: Timestamp) -> Timestamp {
    if ttl_ms == 0 {
        Timestamp::NEVER
    } else {
        now.plus_ms(ttl_ms.min(TTL_MS_MAX))
    }
}

/// 0 says "does not expire", so an entry in its last millisecond has one left.
fn ttl_left_ms(deadline: Timestamp, now: Timestamp) -> u64 {
    if deadline == Timestamp::NEVER {
        0
    } else {
        deadline.ms_since(now).max(1)
    }
}

/// An empty reply to an operation.
pub(super) fn reply(op: &v1::Op, status: Status) -> v1::Reply {
    v1::Reply {
        id: op.id,
        status: status.into(),
        value: Bytes::new(),
        version: 0,
        ttl_ms: 0,
        number: 0,
        moved: None,
        message: String::new(),
    }
}

fn invalid(op: &v1::Op, why: &str) -> v1::Reply {
    v1::Reply {
        message: why.to_owned(),
        ..reply(op, Status::InvalidRequest)
    }
}

fn refused(op: &v1::Op, error: &StoreError) -> v1::Reply {
    let status = match error {
        StoreError::KeyLength(_) => Status::InvalidKey,
        StoreError::ValueTooLarge { .. } | StoreError::LargerThanStore { .. } => Status::ValueTooLarge,
        StoreError::NotANumber => Status::NotANumber,
        StoreError::Overflow => Status::Overflow,
    };
    v1::Reply {
        message: error.to_string(),
        ..reply(op, status)
    }
}
