//! [`Queue`]: what is pending on one stream. Operations wait here until the stream takes them as a batch, and their callers
//! wait here for the answer.
//!
//! This is the hot path: an operation costs one slot in a slab and its bytes in the [`Outbox`], no task, no timer and no
//! channel. Callers, the outgoing half of the stream and its reader meet under one short lock, taken once per operation
//! and once per batch. Deadlines are swept together: the queue knows a lower bound of the earliest, so that a sweep
//! happens about once per timeout and not once per operation.
//!
//! An id is a slot's index and its use count, so the answer to an operation whose caller has gone finds nobody.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use softstore_proto::batch::{OpBatch, OpView, Value};
use softstore_sharding::Generation;
use softstore_sharding::session::VersionRange;

use crate::answer::Answer;
use crate::outbox::{BatchLimits, Outbox, Place};
use crate::window::SendWindow;

/// What became of one attempt at an operation.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The node answered.
    Answer(Answer),
    /// It never left this process, or the node refused to read what came on its stream: certainly not applied.
    NotSent(NotSent),
    /// The node refused it, and the budget for sending again is used up. Not applied.
    Shed,
    /// It was sent, and its answer will not come.
    Lost(Lost),
}

/// Why an operation was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotSent {
    /// Too much is pending.
    Full,
    /// The node refuses work, and it waited too long to be sent, or would have.
    Overloaded,
    /// There is no connection, or it is being closed; or the node refused it.
    NoConnection,
    /// Its deadline passed first.
    Deadline,
    /// The value is longer than the node takes: so many bytes.
    TooLarge(u64),
}

/// Why the answer to an operation will not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    /// The stream broke.
    Broken,
    /// Its deadline passed.
    Deadline,
}

/// How much may be pending, and how large a batch may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) pending_ops_max: usize,
    pub(crate) pending_bytes_max: usize,
    pub(crate) batch: BatchLimits,
}

/// An operation is refused if it waits for more than this part of its time to be sent to a node that is overloaded, and is
/// not taken in if what came before it does.
const WAIT_DIVISOR: u32 = 50;

/// The least time between two searches for such operations.
const SHED_INTERVAL: Duration = Duration::from_millis(5);

/// Bytes that an operation occupies in a message beside its key and value, about.
const OP_OVERHEAD_BYTES: usize = 48;

/// What is pending on one stream.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    outbox: Outbox,
    window: SendWindow,
    /// Operations whose outcome is open: unsent or in flight.
    open: usize,
    /// Bytes of keys and values of those.
    open_bytes: usize,
    /// No open operation's deadline is earlier. `None`: nothing is open, or nothing was since the last sweep.
    earliest: Option<Instant>,
    /// The outgoing half, if it waits for something to send.
    writer: Option<Waker>,
    gate: Gate,
    /// The node has answered the call that opens the stream. Until then nothing is sent: what was refused before was not sent.
    is_opened: bool,
    /// The longest value that the node takes, once it has said so.
    value_bytes_max: u64,
    /// Counts the streams; a half that belongs to an earlier one gets nothing.
    stream: u64,
    /// When to look again for what waits too long.
    next_shed: Instant,
}

/// Whether operations are taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gate {
    /// Yes: a stream is open, or the first attempt to open one is on.
    Open,
    /// No: the node cannot be reached.
    Down,
    /// No: the node closes the stream; what was sent is still answered.
    Closing,
}

#[derive(Debug)]
struct Slot {
    use_count: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Open {
        waker: Option<Waker>,
        deadline: Instant,
        bytes: usize,
        place: Place,
    },
    Done(Attempt),
}

/// What [`Queue::submit`] asks of its caller beside the id.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) id: u64,
    /// The outgoing half, to be woken after the lock is released.
    pub(crate) wake: Option<Waker>,
    /// The sweeper must be told: this deadline is earlier than the one it sleeps for.
    pub(crate) new_earliest: bool,
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            outbox: Outbox::new(limits.batch),
            window: SendWindow::default(),
            open: 0,
            open_bytes: 0,
            earliest: None,
            writer: None,
            gate: Gate::Open,
            is_opened: false,
            value_bytes_max: u64::MAX,
            stream: 0,
            next_shed: Instant::now(),
        }
    }

    /// Takes an operation in: its `id`, deadline and acquisition are filled in here, and `value` goes for its own. `waker`:
    /// whom to wake when it ends, if that is known already.
    pub(crate) fn submit(
        &mut self,
        op: &OpView<'_>,
        value: Value<'_>,
        since: Generation,
        deadline: Instant,
        waker: Option<Waker>,
    ) -> Result<Submitted, NotSent> {
        if self.gate != Gate::Open {
            return Err(NotSent::NoConnection);
        }
        if value.len() as u64 > self.value_bytes_max {
            return Err(NotSent::TooLarge(self.value_bytes_max));
        }
        let bytes = op.key.len() + value.len() + OP_OVERHEAD_BYTES;
        let too_many = self.open >= self.limits.pending_ops_max;
        let held_bytes = self.open_bytes + self.outbox.withdrawn_bytes();
        let too_large = self.open > 0 && held_bytes + bytes > self.limits.pending_bytes_max;
        // Slots whose answer nobody has fetched yet count as well, if only here.
        let no_slot = self.free.is_empty() && u32::try_from(self.slots.len()).is_err();
        if too_many || too_large || no_slot {
            return Err(NotSent::Full);
        }
        if self.window.is_bounded() && self.waits_too_long(deadline) {
            return Err(NotSent::Overloaded);
        }
        let new_earliest = self.earliest.is_none_or(|earliest| deadline < earliest);
        if new_earliest {
            self.earliest = Some(deadline);
        }
        let (index, use_count) = self.free_slot();
        let id = id_of(index, use_count);
        let place = self
            .outbox
            .push(OpView { id, ..*op }, value, bytes, since, deadline);
        let state = State::Open {
            waker,
            deadline,
            bytes,
            place,
        };
        match self.slots.get_mut(index as usize) {
            Some(slot) => *slot = Slot { use_count, state },
            None => self.slots.push(Slot { use_count, state }),
        }
        self.open += 1;
        self.open_bytes += bytes;
        Ok(Submitted {
            id,
            wake: if self.window.is_open() {
                self.writer.take()
            } else {
                None
            },
            new_earliest,
        })
    }

    /// How many operations are unsent or unanswered. A queue that takes none in counts as full.
    pub(crate) fn pending(&self) -> usize {
        if self.gate == Gate::Open {
            self.open
        } else {
            usize::MAX
        }
    }

    /// Whether what is not sent yet waits too long for an operation with this deadline to wait behind it.
    fn waits_too_long(&self, deadline: Instant) -> bool {
        self.outbox.waits_since().is_some_and(|since| {
            let now = Instant::now();
            now - since > deadline.saturating_duration_since(now) / WAIT_DIVISOR
        })
    }

    /// Refuses what waits for too long to be sent to an overloaded node, oldest first: what came later may still be in time.
    /// Whatever holds it back, the window or the connection, it is the node that does not get to it.
    fn shed_stale(&mut self, now: Instant, wake: &mut Vec<Waker>) {
        if !self.window.is_bounded() || now < self.next_shed {
            return;
        }
        let oldest = self.outbox.waits_since();
        if oldest.is_none_or(|since| now.saturating_duration_since(since) < SHED_INTERVAL) {
            return;
        }
        self.next_shed = now + SHED_INTERVAL;
        self.end_where(wake, |deadline, place, outbox| {
            let since = outbox.batch_begun(place)?;
            let waited = now.saturating_duration_since(since);
            let is_stale = waited > deadline.saturating_duration_since(since) / WAIT_DIVISOR;
            is_stale.then_some(Attempt::NotSent(NotSent::Overloaded))
        });
    }

    /// A slot for the next operation, and the use count that it will have.
    fn free_slot(&mut self) -> (u32, u32) {
        match self.free.pop() {
            Some(index) => (index, self.slots[index as usize].use_count),
            None => (u32::try_from(self.slots.len()).expect("looked at before"), 0),
        }
    }

    fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        let (index, use_count) = parts_of(id);
        let slot = self.slots.get_mut(index)?;
        (slot.use_count == use_count).then_some(slot)
    }

    /// What became of an operation, for its caller. Ready once only; the slot is free then.
    pub(crate) fn poll(&mut self, id: u64, context: &Context<'_>) -> Poll<Attempt> {
        let Some(slot) = self.slot(id) else {
            // Nobody else frees a slot that has a caller.
            return Poll::Ready(Attempt::Lost(Lost::Broken));
        };
        match &mut slot.state {
            State::Open { waker, .. } => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            State::Free => Poll::Ready(Attempt::Lost(Lost::Broken)),
            State::Done(_) => {
                let State::Done(attempt) = std::mem::replace(&mut slot.state, State::Free) else {
                    unreachable!("matched above")
                };
                self.release(id);
                Poll::Ready(attempt)
            }
        }
    }

    /// The caller has gone. If the operation was not sent, it never is.
    pub(crate) fn abandon(&mut self, id: u64) {
        let Some(slot) = self.slot(id) else { return };
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Free => return,
            State::Done(_) => {}
            State::Open { bytes, place, .. } => {
                self.closed(bytes);
                self.outbox.withdraw(place, bytes);
            }
        }
        self.release(id);
    }

    /// Frees a slot. Its next use gets another id.
    fn release(&mut self, id: u64) {
        let (index, _) = parts_of(id);
        self.slots[index].use_count = self.slots[index].use_count.wrapping_add(1);
        self.free.push(u32::try_from(index).expect("it came from a u32"));
    }

    fn closed(&mut self, bytes: usize) {
        self.open -= 1;
        self.open_bytes -= bytes;
    }

    /// Ends an open operation; gives its caller's waker. `None` if nobody waits for it.
    fn finish(&mut self, id: u64, attempt: Attempt) -> Option<Option<Waker>> {
        let slot = self.slot(id)?;
        let State::Open { waker, bytes, .. } = &mut slot.state else {
            return None;
        };
        let (waker, bytes) = (waker.take(), *bytes);
        slot.state = State::Done(attempt);
        self.closed(bytes);
        Some(waker)
    }

    /// Hands answers to their callers, whose wakers are added to `wake`. Answers that nobody waits for are dropped.
    pub(crate) fn dispatch(&mut self, answers: impl Iterator<Item = (u64, Answer)>, wake: &mut Vec<Waker>) {
        let (mut ops, mut refused) = (0, 0);
        for (id, answer) in answers {
            ops += 1;
            let attempt = if answer.is_busy() {
                refused += 1;
                if self.window.may_retry() {
                    Attempt::Answer(answer)
                } else {
                    Attempt::Shed
                }
            } else {
                Attempt::Answer(answer)
            };
            wake.extend(self.finish(id, attempt).flatten());
        }
        let now = Instant::now();
        self.window.answered(now, ops, refused);
        if refused > 0 {
            self.outbox.limit_batches(self.window.message_ops_max());
        }
        self.shed_stale(now, wake);
        if self.window.is_open() && !self.outbox.is_empty() {
            wake.extend(self.writer.take());
        }
    }

    /// Whether the outgoing half of stream `stream` has something to send: `Ready(true)`, or has ended: `Ready(false)`.
    pub(crate) fn poll_unsent(&mut self, stream: u64, context: &Context<'_>) -> Poll<bool> {
        if stream != self.stream || self.gate == Gate::Closing {
            return Poll::Ready(false);
        }
        if !self.is_opened {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        if self.outbox.is_empty() || !self.window.is_open() {
            if !self.outbox.is_empty() {
                self.window.hold_back();
            }
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(true)
    }

    /// Whether a whole batch waits.
    pub(crate) fn has_full_batch(&self) -> bool {
        self.outbox.has_full_batch()
    }

    /// The next batch, and how many operations it holds; `None` if all that waited was withdrawn. The first one of a stream
    /// says which `versions` this client speaks.
    pub(crate) fn take_batch(
        &mut self,
        now: Instant,
        versions: Option<VersionRange>,
    ) -> Option<(OpBatch, usize)> {
        let taken = self.outbox.take(now, versions);
        if let Some((_, ops)) = &taken {
            self.window.sent(*ops);
            self.outbox.limit_batches(self.window.message_ops_max());
        }
        taken
    }

    /// Ends what is past its deadline; gives the earliest deadline left.
    pub(crate) fn sweep(&mut self, now: Instant, wake: &mut Vec<Waker>) -> Option<Instant> {
        if self.earliest.is_some_and(|earliest| earliest > now) {
            return self.earliest;
        }
        let mut earliest: Option<Instant> = None;
        self.end_where(wake, |deadline, place, outbox| {
            if deadline > now {
                earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                return None;
            }
            Some(if outbox.is_sent(place) {
                Attempt::Lost(Lost::Deadline)
            } else {
                Attempt::NotSent(NotSent::Deadline)
            })
        });
        self.earliest = earliest;
        earliest
    }

    /// Ends the open operations for which `judge(deadline, place, outbox)` gives an outcome; those not sent never are.
    fn end_where(
        &mut self,
        wake: &mut Vec<Waker>,
        mut judge: impl FnMut(Instant, &Place, &Outbox) -> Option<Attempt>,
    ) {
        for slot in &mut self.slots {
            let State::Open {
                waker,
                deadline,
                bytes,
                place,
            } = &mut slot.state
            else {
                continue;
            };
            if let Some(attempt) = judge(*deadline, place, &self.outbox) {
                self.open -= 1;
                self.open_bytes -= *bytes;
                wake.extend(waker.take());
                self.outbox.withdraw(place.clone(), *bytes);
                slot.state = State::Done(attempt);
            }
        }
    }

    /// Begins a new stream: operations go there from now on, once it is open. Gives its number.
    pub(crate) fn begin_stream(&mut self, wake: &mut Vec<Waker>) -> u64 {
        self.stream += 1;
        self.is_opened = false;
        self.window.end_stream();
        wake.extend(self.writer.take());
        self.stream
    }

    /// The stream has ended. What was sent is lost, unless the node `has_refused` all of it; what was not sent goes back to its
    /// callers, and nothing more is handed to that stream's outgoing half.
    pub(crate) fn end_stream(&mut self, gate: Gate, has_refused: bool, wake: &mut Vec<Waker>) {
        self.stream += 1;
        self.is_opened = false;
        self.window.end_stream();
        self.gate = gate;
        wake.extend(self.writer.take());
        self.end_where(wake, |_, place, outbox| {
            Some(if outbox.is_sent(place) && !has_refused {
                Attempt::Lost(Lost::Broken)
            } else {
                Attempt::NotSent(NotSent::NoConnection)
            })
        });
        self.outbox.clear();
    }

    /// The node will end the stream: takes nothing more in, returns what was not sent, and still waits for answers.
    pub(crate) fn begin_closing(&mut self, wake: &mut Vec<Waker>) {
        self.gate = Gate::Closing;
        wake.extend(self.writer.take());
        self.end_where(wake, |_, place, outbox| {
            (!outbox.is_sent(place)).then_some(Attempt::NotSent(NotSent::NoConnection))
        });
        self.outbox.clear();
    }

    /// The stream is open: operations are taken in, unless the node is no longer listed, and sent.
    pub(crate) fn open_gate(&mut self, wake: &mut Vec<Waker>) {
        if self.gate != Gate::Closing {
            self.gate = Gate::Open;
        }
        self.is_opened = true;
        wake.extend(self.writer.take());
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    /// The node takes no longer value. Sent all the same it would break the stream, and with it everybody's operations.
    pub(crate) fn limit_values(&mut self, value_bytes_max: u64) {
        self.value_bytes_max = value_bytes_max;
    }

    /// How many operations are open.
    pub(crate) fn open(&self) -> usize {
        self.open
    }
}

fn id_of(index: u32, use_count: u32) -> u64 {
    u64::from(use_count) << 32 | u64::from(index)
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of an id")]
fn parts_of(id: u64) -> (usize, u32) {
    ((id as u32) as usize, (id >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use softstore_proto::batch::Ops;
    use softstore_sharding::Incarnation;

    use super::*;

    const LIMITS: Limits = Limits {
        pending_ops_max: 8,
        pending_bytes_max: 2_000,
        batch: BatchLimits {
            ops_max: 3,
            bytes_max: 1_000,
        },
    };

    fn since(number: u64) -> Generation {
        Generation {
            number,
            assigner: Incarnation::new(1),
        }
    }

    fn submit(queue: &mut Queue, value_bytes: usize, number: u64, deadline: Instant) -> Result<u64, NotSent> {
        let value = vec![0; value_bytes];
        let op = OpView {
            key: b"k",
            ..OpView::default()
        };
        let submitted = queue.submit(&op, Value::Copied(&value), since(number), deadline, None)?;
        Ok(submitted.id)
    }

    /// The next batch, as a node would open it.
    fn take(queue: &mut Queue, now: Instant) -> Option<Ops> {
        let (batch, ops) = queue.take_batch(now, None)?;
        let opened = batch.open().expect("well formed");
        assert_eq!(opened.len(), ops);
        Some(opened)
    }

    fn take_ids(queue: &mut Queue, now: Instant) -> Vec<u64> {
        take(queue, now).map_or_else(Vec::new, |ops| {
            (0..ops.len())
                .map(|index| ops.get(index).expect("well formed").id)
                .collect()
        })
    }

    fn answer(queue: &mut Queue, ids: &[u64]) {
        let answers = ids.iter().map(|id| {
            let mut answer = Answer::default();
            answer.version = *id;
            (*id, answer)
        });
        queue.dispatch(answers, &mut vec![]);
    }

    fn collect(queue: &mut Queue, id: u64) -> Option<Attempt> {
        match queue.poll(id, &Context::from_waker(Waker::noop())) {
            Poll::Ready(attempt) => Some(attempt),
            Poll::Pending => None,
        }
    }

    #[test]
    fn batches_are_bounded_and_list_each_acquisition_once() {
        let now = Instant::now();
        let later = now + Duration::from_millis(1_500);
        let mut queue = Queue::new(LIMITS);
        for number in [5, 5, 6, 7] {
            submit(&mut queue, 1, number, later).expect("room");
        }
        assert!(queue.has_full_batch());
        let batch = take(&mut queue, now).expect("three wait");
        let ops: Vec<_> = (0..batch.len())
            .map(|index| batch.get(index).expect("well formed"))
            .collect();
        let sinces: Vec<Generation> = ops.iter().map(|op| batch.since_of(op)).collect();
        assert_eq!(sinces, [since(5), since(5), since(6)]);
        assert_eq!(ops.iter().map(|op| op.since_index).collect::<Vec<_>>(), [0, 0, 1]);
        let patience_ms = batch.patience_ms(&ops[0]).expect("it is said");
        assert!((1_499..=1_500).contains(&patience_ms), "{patience_ms}");
        assert_eq!(take_ids(&mut queue, now).len(), 1);

        // By bytes: two do not fit together, one larger than a batch travels alone.
        for value_bytes in [700, 700] {
            submit(&mut queue, value_bytes, 5, later).expect("room");
        }
        assert_eq!(take_ids(&mut queue, now).len(), 1);
        assert_eq!(take_ids(&mut queue, now).len(), 1);
        assert!(queue.outbox.is_empty());
    }

    /// Plan: each operation comes under another acquisition, and most callers go before their batch is sent. No batch
    /// lists more acquisitions than a node takes, and what the gone ones left behind counts as pending until it goes.
    #[test]
    fn withdrawn_operations_leave_no_batch_that_a_node_refuses() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut queue = Queue::new(Limits {
            pending_ops_max: 10_000,
            pending_bytes_max: 1 << 20,
            batch: BatchLimits {
                ops_max: 1_024,
                bytes_max: 1 << 20,
            },
        });
        let mut staying = Vec::new();
        for number in 1..=3_000 {
            let id = submit(&mut queue, 1, number, later).expect("room");
            if number % 10 == 0 {
                staying.push(id);
            } else {
                queue.abandon(id);
            }
        }
        assert!(queue.outbox.withdrawn_bytes() > 0);
        let mut sent = Vec::new();
        while !queue.outbox.is_empty() {
            sent.extend(take_ids(&mut queue, now));
        }
        assert_eq!(sent, staying);
        assert_eq!(queue.outbox.withdrawn_bytes(), 0);
    }

    #[test]
    fn what_is_pending_is_bounded_by_count_and_bytes() {
        let later = Instant::now() + Duration::from_secs(1);
        let mut queue = Queue::new(LIMITS);
        let first = submit(&mut queue, 5_000, 1, later).expect("alone");
        assert_eq!(submit(&mut queue, 1, 1, later), Err(NotSent::Full));
        queue.abandon(first);
        let ids: Vec<u64> = (0..8)
            .map(|_| submit(&mut queue, 1, 1, later).expect("room"))
            .collect();
        assert_eq!(submit(&mut queue, 1, 1, later), Err(NotSent::Full));
        answer(&mut queue, &ids[3..4]);
        assert!(submit(&mut queue, 1, 1, later).is_ok());
    }

    /// Plan: one operation sent, one not, and the deadline passes; then the same with a stream that ends. The sent one is
    /// lost (its outcome unknown), the other certainly not applied. An answer after that finds nobody, not even a later
    /// operation in the same slot.
    #[test]
    fn sent_and_unsent_are_told_apart() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(10);
        let mut queue = Queue::new(LIMITS);
        let mut wake = vec![];
        let sent = submit(&mut queue, 1, 1, soon).expect("room");
        assert_eq!(take_ids(&mut queue, now), [sent]);
        let unsent = submit(&mut queue, 1, 1, soon).expect("room");
        assert_eq!(queue.sweep(now, &mut wake), Some(soon));
        assert!(collect(&mut queue, sent).is_none());
        assert_eq!(queue.sweep(soon, &mut wake), None);
        assert!(matches!(
            collect(&mut queue, sent),
            Some(Attempt::Lost(Lost::Deadline))
        ));
        assert!(matches!(
            collect(&mut queue, unsent),
            Some(Attempt::NotSent(NotSent::Deadline))
        ));
        assert!(take(&mut queue, now).is_none());

        let reused = submit(&mut queue, 1, 1, soon).expect("room");
        answer(&mut queue, &[sent, unsent]);
        assert!(collect(&mut queue, reused).is_none());

        assert_eq!(take_ids(&mut queue, now), [reused]);
        let unsent = submit(&mut queue, 1, 1, soon).expect("room");
        queue.end_stream(Gate::Down, false, &mut wake);
        assert!(matches!(
            collect(&mut queue, reused),
            Some(Attempt::Lost(Lost::Broken))
        ));
        assert!(matches!(
            collect(&mut queue, unsent),
            Some(Attempt::NotSent(NotSent::NoConnection))
        ));
        assert_eq!(submit(&mut queue, 1, 1, soon), Err(NotSent::NoConnection));
        assert_eq!((queue.open, queue.open_bytes), (0, 0));
        queue.open_gate(&mut wake);
        let fresh = submit(&mut queue, 1, 1, soon).expect("room");
        assert_eq!(take_ids(&mut queue, now), [fresh]);
    }

    /// Plan: an operation waits while a stream is being opened. Nothing leaves before the node has answered; then the outgoing
    /// half is woken. A node that refuses the stream after it has read the first batch has run nothing of it.
    #[test]
    fn nothing_leaves_before_the_node_has_answered_and_a_refusal_is_no_loss() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let context = Context::from_waker(Waker::noop());
        let mut queue = Queue::new(LIMITS);
        let stream = queue.begin_stream(&mut vec![]);
        let id = submit(&mut queue, 1, 1, later).expect("room");
        assert_eq!(queue.poll_unsent(stream, &context), Poll::Pending);
        let mut wake = vec![];
        queue.open_gate(&mut wake);
        assert_eq!(wake.len(), 1, "the outgoing half");
        assert_eq!(queue.poll_unsent(stream, &context), Poll::Ready(true));
        assert_eq!(take_ids(&mut queue, now), [id]);
        queue.end_stream(Gate::Down, true, &mut vec![]);
        assert!(matches!(
            collect(&mut queue, id),
            Some(Attempt::NotSent(NotSent::NoConnection))
        ));
    }

    #[test]
    fn a_closing_stream_still_answers_what_was_sent() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut queue = Queue::new(LIMITS);
        let stream = queue.begin_stream(&mut vec![]);
        let sent = submit(&mut queue, 1, 1, later).expect("room");
        take(&mut queue, now);
        let unsent = submit(&mut queue, 1, 1, later).expect("room");
        queue.begin_closing(&mut vec![]);
        let context = Context::from_waker(Waker::noop());
        assert_eq!(queue.poll_unsent(stream, &context), Poll::Ready(false));
        assert!(matches!(collect(&mut queue, unsent), Some(Attempt::NotSent(_))));
        answer(&mut queue, &[sent]);
        assert!(matches!(collect(&mut queue, sent), Some(Attempt::Answer(_))));
    }

    fn refuse(queue: &mut Queue, ids: &[u64]) {
        let answers = ids
            .iter()
            .map(|id| (*id, Answer::with_status(softstore_proto::v1::Status::Busy)));
        queue.dispatch(answers, &mut vec![]);
    }

    /// Plan: a node refuses more than the budget allows to send again. The first are given back to be tried again, then
    /// callers are told that they were shed.
    #[test]
    fn what_is_refused_beyond_the_budget_is_shed() {
        let now = Instant::now();
        let mut queue = Queue::new(LIMITS);
        let (mut again, mut shed) = (0, 0);
        for _ in 0..1_200 {
            let id = submit(&mut queue, 1, 1, now + Duration::from_secs(1)).expect("room");
            take_ids(&mut queue, now);
            refuse(&mut queue, &[id]);
            match collect(&mut queue, id) {
                Some(Attempt::Answer(answer)) if answer.is_busy() => again += 1,
                Some(Attempt::Shed) => shed += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((again, shed), (1_000, 200));
    }

    /// Plan: a node refuses, so the window is narrow, and full. What comes is held back and the outgoing half gets
    /// nothing; an operation with little time is refused at once when others wait already, one with much time is not. As
    /// soon as the node has answered, the outgoing half is woken.
    #[test]
    fn a_full_window_holds_back_and_refuses_who_has_no_time() {
        let now = Instant::now();
        let later = now + Duration::from_secs(3_600);
        let mut queue = Queue::new(Limits {
            pending_ops_max: 1_000,
            pending_bytes_max: 1_000_000,
            ..LIMITS
        });
        let context = Context::from_waker(Waker::noop());
        let stream = queue.begin_stream(&mut vec![]);
        queue.open_gate(&mut vec![]);
        let mut sent = Vec::new();
        for _ in 0..20 {
            sent.push(submit(&mut queue, 1, 1, later).expect("room"));
        }
        while !take_ids(&mut queue, now).is_empty() {}
        refuse(&mut queue, &sent[..1]);
        assert!(
            !queue.window.is_open(),
            "19 are unanswered, and the window is 16 wide"
        );

        submit(&mut queue, 1, 1, now + Duration::from_secs(3_600)).expect("nobody waits yet");
        assert_eq!(queue.poll_unsent(stream, &context), Poll::Pending);
        let hurried = Instant::now();
        assert_eq!(submit(&mut queue, 1, 1, hurried), Err(NotSent::Overloaded));
        submit(&mut queue, 1, 1, later).expect("it has time");

        let mut wake = vec![];
        let answers = sent[1..8].iter().map(|id| (*id, Answer::default()));
        queue.dispatch(answers, &mut wake);
        assert_eq!(wake.len(), 1, "the outgoing half");
        assert_eq!(queue.poll_unsent(stream, &context), Poll::Ready(true));
    }

    /// Plan: a node refuses, and then gets to nothing for a while. Of those who wait to be sent, who has little time is
    /// refused with the next answer; who has much goes on waiting. Where nothing was ever refused, nobody is.
    #[test]
    fn who_waits_too_long_for_an_overloaded_node_is_refused() {
        let refused_before = |was_refused: bool| {
            let now = Instant::now();
            let mut queue = Queue::new(Limits {
                pending_ops_max: 1_000,
                ..LIMITS
            });
            let sent: Vec<u64> = (0..4)
                .map(|_| submit(&mut queue, 1, 1, now + Duration::from_secs(60)).expect("room"))
                .collect();
            while !take_ids(&mut queue, now).is_empty() {}
            if was_refused {
                refuse(&mut queue, &sent[..1]);
            }
            let hurried = submit(&mut queue, 1, 1, now + Duration::from_millis(500)).expect("room");
            let patient = submit(&mut queue, 1, 1, now + Duration::from_secs(60)).expect("room");
            std::thread::sleep(Duration::from_millis(15));
            answer(&mut queue, &sent[1..2]);
            assert!(collect(&mut queue, patient).is_none());
            (queue, hurried)
        };
        let (mut queue, hurried) = refused_before(true);
        assert!(matches!(
            collect(&mut queue, hurried),
            Some(Attempt::NotSent(NotSent::Overloaded))
        ));
        assert_eq!(take_ids(&mut queue, Instant::now()).len(), 1, "the patient one");
        let (mut queue, hurried) = refused_before(false);
        assert!(collect(&mut queue, hurried).is_none());
    }

    proptest! {
        /// Any order of submitting, sending, answering, sweeping and abandoning: the counts agree with a model, what is
        /// sent is what was submitted and not abandoned, and an answer reaches the caller whose id it names and no other.
        #[test]
        fn every_caller_gets_its_own_outcome(steps in prop::collection::vec((0..7u8, any::<prop::sample::Index>()), 1..200)) {
            let now = Instant::now();
            let mut queue = Queue::new(LIMITS);
            let (mut unsent, mut sent, mut stale): (Vec<u64>, Vec<u64>, Vec<u64>) = (vec![], vec![], vec![]);
            for (step, pick) in steps {
                match step {
                    0..=2 => {
                        let value_bytes = pick.index(400);
                        let bytes = value_bytes + 1 + OP_OVERHEAD_BYTES;
                        let has_room = unsent.len() + sent.len() < LIMITS.pending_ops_max
                            && (queue.open == 0 || queue.open_bytes + queue.outbox.withdrawn_bytes() + bytes <= LIMITS.pending_bytes_max);
                        let result = submit(&mut queue, value_bytes, 1, now + Duration::from_secs(1));
                        prop_assert_eq!(result.is_ok(), has_room);
                        unsent.extend(result.ok());
                    }
                    3 => {
                        for id in take_ids(&mut queue, now) {
                            prop_assert_eq!(unsent.remove(0), id);
                            sent.push(id);
                        }
                    }
                    4 if !sent.is_empty() => {
                        let id = sent.remove(pick.index(sent.len()));
                        answer(&mut queue, &[id]);
                        match collect(&mut queue, id) {
                            Some(Attempt::Answer(answer)) => prop_assert_eq!(answer.version, id),
                            other => prop_assert!(false, "{:?}", other),
                        }
                        stale.push(id);
                    }
                    5 if !unsent.is_empty() => {
                        let id = unsent.remove(pick.index(unsent.len()));
                        queue.abandon(id);
                        stale.push(id);
                    }
                    6 if !stale.is_empty() => {
                        answer(&mut queue, &[stale[pick.index(stale.len())]]);
                    }
                    _ => {}
                }
                prop_assert_eq!(queue.open, unsent.len() + sent.len());
                prop_assert_eq!(queue.outbox.is_empty(), unsent.is_empty());
                for id in unsent.iter().chain(&sent) {
                    prop_assert!(collect(&mut queue, *id).is_none());
                }
            }
        }
    }
}
