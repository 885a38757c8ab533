//! One operation, from where it stands in its message to its reply.
//!
//! [`Execution`] is a stretch of operations under the core's shared lock: each is admitted and runs in the store, or
//! [`Step`] says what it has to wait for (`waiting`). So nothing that changes ownership happens between an operation's
//! admission and its effect, and one taking of the lock, and one reading of the clock, serve many operations.

use std::sync::Arc;

use softstore_proto::batch::{OpView, ReplyView, SHARED_BYTES_MIN, Value};
use softstore_proto::v1;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::load::{Served, Was};
use softstore_sharding::{Generation, PullId, Slice, SliceKey, Timestamp, Version, VersionCounter};
use softstore_store::{Absence, KEY_BYTES_MAX, OpContext, Outcome, SetCondition, SetOutcome, StoreError};
use softstore_sync::RwLockReadGuard;
use softstore_sync::planted::{self, Race};
use softstore_transfer::handoff::{Admission, Clearance, CopyHere, HandoffCore, ReadingHere, Serving};

use super::load::Counting;
use super::metrics::count;
use super::reading::{self, Filled};
use super::replies::Replies;
use super::state::NodeState;

/// Longest time to live, in milliseconds: a thousand years.
const TTL_MS_MAX: u64 = 1_000 * 365 * 24 * 3_600 * 1_000;

/// How far an operation came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// It was answered, with this status.
    Answered(Status),
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
    /// For the replicas of its key to forget it, before it is changed.
    Readers,
    /// For the owner's word about a key that this node may read as a replica, and has no copy of.
    Fill,
    /// For nothing: it is a flush, which changes the core, and so does not run in an [`Execution`].
    Exclusive,
}

/// An operation, and what is known of it beside what it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) op: &'a OpView<'a>,
    pub(super) at: SliceKey,
    /// The acquisition that its client knows.
    pub(super) since: Generation,
    /// The pull whose giver was asked for the key already.
    pub(super) peeked: Option<PullId>,
    /// Which readers have forgotten the key; none if nobody was asked to.
    pub(super) clearance: Option<&'a Clearance>,
    /// It is not to be read as by a replica: the owner has said nothing of it.
    pub(super) is_for_owner: bool,
}

impl<'a> Asked<'a> {
    /// An operation at its first try.
    pub(super) fn first(op: &'a OpView<'a>, since: Generation) -> Self {
        Self {
            op,
            at: SliceKey::of_key(op.key),
            since,
            peeked: None,
            clearance: None,
            is_for_owner: false,
        }
    }
}

/// The node stood still for so long, in the middle of an execution, that it may have lost what it served from (H1), or its
/// lease ended. What was read may be stale and what was written may be lost: the replies must not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StoodStill;

impl From<StoodStill> for tonic::Status {
    fn from(_: StoodStill) -> Self {
        Self::unavailable(
            "the node stood still, or its lease ended, while it answered: the outcome is not known",
        )
    }
}

/// Operations that run in one stretch. It holds the core's shared lock: keep it short, and end it with
/// [`Execution::end`].
pub(super) struct Execution<'a> {
    state: &'a NodeState,
    core: RwLockReadGuard<'a, HandoffCore>,
    now: Timestamp,
    may_serve: bool,
    /// Where what is served is counted.
    counting: Counting<'a>,
}

impl<'a> Execution<'a> {
    pub(super) fn begin(state: &'a Arc<NodeState>) -> Self {
        let core = state.core();
        // Read under the lock: the process may have stood still while it waited for it.
        let now = state.clock.now();
        Self {
            state,
            core,
            now,
            may_serve: state.may_serve(now),
            counting: state.load.counting(),
        }
    }

    /// The moment of all its operations.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether no assignment can come that knows the acquisition that a client names: nothing is waited for then (H8).
    pub(super) fn is_invented(&self, since: Generation) -> bool {
        let is_invented = !self.core.is_explained(since, self.now);
        if is_invented {
            count(&self.state.metrics.acquisitions_invented);
        }
        is_invented
    }

    /// Ends it. What its operations answered may be sent only if this says so.
    pub(super) fn end(self) -> Result<(), StoodStill> {
        // It may have stood still since its beginning; if it did so after this, the replies were as good as sent. Looked at
        // under the lock still: to go on in another life takes the exclusive lock, so the trace cannot be gone yet. A node
        // that has stopped meanwhile waits for this to end, and what was admitted before is answered.
        if planted::is(Race::StandstillLookedForAfterLock) {
            drop(self.core);
            let stood_still = self.may_serve && !self.state.is_current(self.state.clock.now());
            return if stood_still { Err(StoodStill) } else { Ok(()) };
        }
        let stood_still = self.may_serve && !self.state.is_current(self.state.clock.now());
        drop(self.core);
        if stood_still {
            return Err(StoodStill);
        }
        Ok(())
    }

    /// Tries to run an operation.
    pub(super) fn run(&mut self, asked: &Asked<'_>, replies: &mut Replies) -> Step {
        let op = asked.op;
        let kind = OpKind::try_from(op.kind).unwrap_or(OpKind::Unspecified);
        if kind == OpKind::Flush {
            return Step::Wait(Wait::Exclusive);
        }
        if op.key.is_empty() || op.key.len() > KEY_BYTES_MAX {
            return refused(op, StoreError::KeyLength(op.key.len()), replies);
        }
        let admission = self.core.admit(asked.at, asked.since);
        if !matches!(admission, Admission::Serve(_))
            && kind == OpKind::Get
            && let Some(copy) = self.may_read_copy(asked)
        {
            return self.read_copy(asked, copy, replies);
        }
        match admission {
            // Where a range went may be told at any time; serving it may not.
            Admission::Serve(_) if !self.may_serve => {
                if !self.state.is_tenured(self.now) {
                    count(&self.state.metrics.operations_without_lease);
                }
                answered(op, Status::NotReady, replies)
            }
            Admission::Serve(_) if kind != OpKind::Get && !self.may_write(Slice::single(asked.at), asked) => {
                Step::Wait(Wait::Readers)
            }
            Admission::Serve(serving) => {
                let context = context_of(asked.peeked, &serving, self.now);
                if kind == OpKind::Get {
                    get(self.state, asked, &serving, &context, replies, &mut self.counting)
                } else {
                    let step = self.write(asked, kind, &serving, &context, replies);
                    if let Step::Answered(_) = step {
                        counted(
                            &mut self.counting,
                            asked,
                            serving.slice,
                            Was::Write,
                            op.value.len(),
                        );
                    }
                    step
                }
            }
            // What a node that has stopped was still to take, it will not own.
            Admission::Hold if self.state.is_stopped() => answered(op, Status::NotReady, replies),
            Admission::Hold => Step::Wait(Wait::Owner),
            Admission::Behind if self.is_invented(asked.since) => answered(op, Status::Behind, replies),
            Admission::Behind => Step::Wait(Wait::Assignment),
            Admission::NotReady => answered(op, Status::NotReady, replies),
            Admission::Moved(moved) => {
                replies.push_moved(op.id, &moved);
                Step::Answered(Status::Moved)
            }
        }
    }

    /// Whether all who may read a slice elsewhere have forgotten what an operation is about to change there.
    fn may_write(&self, slice: Slice, asked: &Asked<'_>) -> bool {
        let nobody = Clearance::default();
        let clearance = asked.clearance.unwrap_or(&nobody);
        self.core.may_write(slice, clearance, self.now)
    }

    /// Leave to answer a get from a copy, if there is.
    fn may_read_copy(&self, asked: &Asked<'_>) -> Option<CopyHere> {
        let may_read = self.may_serve && !asked.is_for_owner;
        may_read
            .then(|| self.core.admit_copy(asked.at, asked.since, self.now))
            .flatten()
    }

    /// Leave to answer a get as a replica, if there is.
    pub(super) fn may_read(&self, asked: &Asked<'_>) -> Option<ReadingHere> {
        let may_read = self.may_serve && !asked.is_for_owner;
        may_read
            .then(|| self.core.admit_read(asked.at, asked.since, self.now))
            .flatten()
    }

    /// Answers a get from a copy, if there is one.
    fn read_copy(&mut self, asked: &Asked<'_>, copy: CopyHere, replies: &mut Replies) -> Step {
        // A copy is read, and nothing is written.
        let versions = VersionCounter::starting_at(Version::default());
        let context = reading::context_of(copy.epoch, &versions, self.now);
        let mut value_bytes = 0;
        if read(self.state, asked, &context, replies, &mut value_bytes) != Outcome::Done(true) {
            return Step::Wait(Wait::Fill);
        }
        count(&self.state.metrics.reads_of_copies);
        counted(&mut self.counting, asked, copy.slice, Was::Hit, value_bytes);
        Step::Answered(Status::Ok)
    }

    /// Answers a get with what the owner has under its key.
    pub(super) fn answer_filled(
        &mut self,
        asked: &Asked<'_>,
        reading: &ReadingHere,
        filled: &Filled,
        replies: &mut Replies,
    ) -> Option<Status> {
        let id = asked.op.id;
        let (status, value_bytes) = match filled {
            // An entry that has expired on its way is none.
            Filled::Found { deadline, .. } if *deadline <= self.now => (Status::NotFound, 0),
            Filled::Found {
                value,
                version,
                deadline,
                ..
            } => {
                let reply = ReplyView {
                    version: version.get(),
                    ttl_ms: ttl_left_ms(*deadline, self.now),
                    ..ReplyView::new(id, Status::Ok)
                };
                replies.push(&reply, Value::of(value));
                (Status::Ok, value.len())
            }
            Filled::Absent => (Status::NotFound, 0),
            Filled::Unread => return None,
        };
        let mut was = Was::Hit;
        if status == Status::NotFound {
            was = Was::Miss;
            replies.push_status(id, status);
        }
        counted(&mut self.counting, asked, reading.slice, was, value_bytes);
        Some(status)
    }

    /// Runs an admitted operation that is no get in the store.
    fn write(
        &self,
        asked: &Asked<'_>,
        kind: OpKind,
        serving: &Serving<'_>,
        context: &OpContext<'_>,
        replies: &mut Replies,
    ) -> Step {
        let (op, at) = (asked.op, asked.at);
        let store = &self.state.store;
        let deadline = deadline_of(op.ttl_ms, context.now);
        let outcome = match kind {
            OpKind::Set => match set_condition(op) {
                None => return invalid(op, "the set's condition is none of this protocol", replies),
                Some(condition) => store
                    .set(op.key, at, op.value, deadline, condition, context)
                    .map(|outcome| outcome.map(|outcome| stored(op, outcome, replies))),
            },
            OpKind::Delete => Ok(store
                .delete(op.key, at, op.report_existence, context)
                .map(|existed| present(op, existed || !op.report_existence, replies))),
            OpKind::Touch => Ok(store
                .touch(op.key, at, deadline, context)
                .map(|existed| present(op, existed, replies))),
            OpKind::Add => store.add(op.key, at, op.delta, deadline, context).map(|outcome| {
                outcome.map(|added| {
                    replies.push_plain(&ReplyView {
                        number: added.number,
                        version: added.version.get(),
                        ..ReplyView::new(op.id, Status::Ok)
                    });
                    Step::Answered(Status::Ok)
                })
            }),
            OpKind::Get | OpKind::Flush | OpKind::Unspecified => {
                return invalid(op, "the operation's kind is none of this protocol", replies);
            }
        };
        match outcome {
            Ok(Outcome::Done(step)) => step,
            Err(error) => refused(op, error, replies),
            Ok(Outcome::Unknown) => unknown(op, serving, replies),
        }
    }

    /// Where this node's word on a position stands, for an operation that is not run here.
    pub(super) fn admit(&self, at: SliceKey, since: Generation) -> Admission<'_> {
        match self.core.admit(at, since) {
            Admission::Serve(_) if !self.may_serve => Admission::NotReady,
            Admission::Hold if self.state.is_stopped() => Admission::NotReady,
            admission => admission,
        }
    }
}

/// How the store is asked for a key of a range that is served here. `peeked`: the pull whose giver was asked for it already.
pub(super) fn context_of<'a>(peeked: Option<PullId>, serving: &Serving<'a>, now: Timestamp) -> OpContext<'a> {
    let is_peeked = serving.pull.is_some() && serving.pull == peeked;
    let absence = match (serving.is_awaiting, is_peeked) {
        (true, _) => Absence::Awaited,
        (false, true) => Absence::Final,
        (false, false) => Absence::AskGiver,
    };
    OpContext {
        now,
        epoch: serving.epoch,
        versions: serving.versions,
        pull: serving.pull,
        absence,
    }
}

/// Runs an admitted get. By itself, because it must cost little to count one.
#[inline]
fn get(
    state: &NodeState,
    asked: &Asked<'_>,
    serving: &Serving<'_>,
    context: &OpContext<'_>,
    replies: &mut Replies,
    counting: &mut Counting<'_>,
) -> Step {
    let mut value_bytes = 0;
    match read(state, asked, context, replies, &mut value_bytes) {
        Outcome::Done(true) => {
            counted(counting, asked, serving.slice, Was::Hit, value_bytes);
            Step::Answered(Status::Ok)
        }
        Outcome::Done(false) => {
            counted(counting, asked, serving.slice, Was::Miss, 0);
            answered(asked.op, Status::NotFound, replies)
        }
        Outcome::Unknown => unknown(asked.op, serving, replies),
    }
}

/// Whether there is an entry under the key, which is then the reply.
#[inline]
fn read(
    state: &NodeState,
    asked: &Asked<'_>,
    context: &OpContext<'_>,
    replies: &mut Replies,
    value_bytes: &mut usize,
) -> Outcome<bool> {
    let id = asked.op.id;
    state.store.read(asked.op.key, asked.at, context, &mut |found| {
        let reply = ReplyView {
            version: found.version.get(),
            ttl_ms: ttl_left_ms(found.deadline, context.now),
            ..ReplyView::new(id, Status::Ok)
        };
        *value_bytes = found.value.len();
        let value = if found.value.len() < SHARED_BYTES_MIN {
            Value::Copied(found.value)
        } else {
            Value::Shared(found.share())
        };
        replies.push(&reply, value);
    })
}

/// The store cannot tell before the giver was asked.
#[cold]
fn unknown(op: &OpView<'_>, serving: &Serving<'_>, replies: &mut Replies) -> Step {
    match serving.pull {
        Some(pull) => Step::Wait(Wait::Peek(pull)),
        // A store answers `Unknown` only while a pull is open.
        None => answered(op, Status::NotReady, replies),
    }
}

/// Counts an operation that was answered.
#[inline]
fn counted(counting: &mut Counting<'_>, asked: &Asked<'_>, range: Slice, was: Was, value_bytes: usize) {
    if let Some(tally) = counting {
        tally.count(&Served {
            at: asked.at,
            range,
            key: asked.op.key,
            bytes: asked.op.key.len() + value_bytes,
            was,
        });
    }
}

fn set_condition(op: &OpView<'_>) -> Option<SetCondition> {
    Some(match v1::SetCondition::try_from(op.condition).ok()? {
        v1::SetCondition::Always => SetCondition::Always,
        v1::SetCondition::IfAbsent => SetCondition::IfAbsent,
        v1::SetCondition::IfPresent => SetCondition::IfPresent,
        v1::SetCondition::IfVersion => SetCondition::IfVersion(Version::new(op.version)),
    })
}

fn stored(op: &OpView<'_>, outcome: SetOutcome, replies: &mut Replies) -> Step {
    let (status, version) = match outcome {
        SetOutcome::Stored(version) => (Status::Ok, version.get()),
        SetOutcome::Refused(present) => (Status::ConditionFailed, present.map_or(0, Version::get)),
    };
    replies.push_plain(&ReplyView {
        version,
        ..ReplyView::new(op.id, status)
    });
    Step::Answered(status)
}

fn present(op: &OpView<'_>, is_present: bool, replies: &mut Replies) -> Step {
    answered(
        op,
        if is_present { Status::Ok } else { Status::NotFound },
        replies,
    )
}

fn answered(op: &OpView<'_>, status: Status, replies: &mut Replies) -> Step {
    replies.push_status(op.id, status);
    Step::Answered(status)
}

pub(super) fn invalid(op: &OpView<'_>, why: &str, replies: &mut Replies) -> Step {
    replies.push_refusal(op.id, Status::InvalidRequest, why);
    Step::Answered(Status::InvalidRequest)
}

fn refused(op: &OpView<'_>, error: StoreError, replies: &mut Replies) -> Step {
    let status = match error {
        StoreError::KeyLength(_) => Status::InvalidKey,
        StoreError::ValueTooLarge { .. } | StoreError::LargerThanStore { .. } => Status::ValueTooLarge,
        StoreError::NotANumber => Status::NotANumber,
        StoreError::Overflow => Status::Overflow,
    };
    replies.push_refusal(op.id, status, &error.to_string());
    Step::Answered(status)
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
