//! [`Queue`]: what is pending on one stream. Operations wait here until the stream takes them as a batch, and their callers
//! wait here for the reply.
//!
//! This is the hot path: an operation costs one slot in a slab, no task, no timer and no channel. Callers, the outgoing
//! half of the stream and its reader meet under one short lock, taken once per operation and once per batch. Deadlines
//! are swept together: the queue knows a lower bound of the earliest, so that a sweep happens about once per timeout
//! and not once per operation.
//!
//! An id is a slot's index and its use count, so the reply to an operation whose caller has gone finds nobody.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use softstore_proto::v1;
use softstore_sharding::Generation;

/// What became of one attempt at an operation.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The node answered.
    Reply(v1::Reply),
    /// It never left this process: certainly not applied.
    NotSent(NotSent),
    /// It was sent, and its answer will not come.
    Lost(Lost),
}

/// Why an operation was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotSent {
    /// Too much is pending.
    Full,
    /// There is no connection, or it is being closed.
    NoConnection,
    /// Its deadline passed first.
    Deadline,
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
    pub(crate) batch_ops_max: usize,
    pub(crate) batch_bytes_max: usize,
}

/// Bytes that an operation occupies in a message beside its key and value, about.
const OP_OVERHEAD_BYTES: usize = 48;

/// How many of a batch's acquisitions are compared before one is listed again: few differ, and a repeated one is harmless.
const SINCES_COMPARED: usize = 16;

/// What is pending on one stream.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    unsent: VecDeque<Unsent>,
    /// Operations whose outcome is open: unsent or in flight.
    open: usize,
    /// Bytes of keys and values of those.
    open_bytes: usize,
    /// No open operation's deadline is earlier. `None`: nothing is open, or nothing was since the last sweep.
    earliest: Option<Instant>,
    /// The outgoing half, if it waits for something to send.
    writer: Option<Waker>,
    gate: Gate,
    /// Counts the streams; a half that belongs to an earlier one gets nothing.
    stream: u64,
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
        sent: bool,
    },
    Done(Attempt),
}

#[derive(Debug)]
struct Unsent {
    id: u64,
    since: Generation,
    op: v1::Op,
    deadline: Instant,
    bytes: usize,
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
            unsent: VecDeque::new(),
            open: 0,
            open_bytes: 0,
            earliest: None,
            writer: None,
            gate: Gate::Open,
            stream: 0,
        }
    }

    /// Takes an operation in. Its `id`, deadline and acquisition are filled in when it is sent.
    pub(crate) fn submit(
        &mut self,
        op: v1::Op,
        since: Generation,
        deadline: Instant,
    ) -> Result<Submitted, NotSent> {
        if self.gate != Gate::Open {
            return Err(NotSent::NoConnection);
        }
        let bytes = op.key.len() + op.value.len() + OP_OVERHEAD_BYTES;
        let too_many = self.open >= self.limits.pending_ops_max;
        let too_large = self.open > 0 && self.open_bytes + bytes > self.limits.pending_bytes_max;
        if too_many || too_large {
            return Err(NotSent::Full);
        }
        let new_earliest = self.earliest.is_none_or(|earliest| deadline < earliest);
        if new_earliest {
            self.earliest = Some(deadline);
        }
        let id = self.occupy(deadline, bytes);
        self.open += 1;
        self.open_bytes += bytes;
        self.unsent.push_back(Unsent {
            id,
            since,
            op,
            deadline,
            bytes,
        });
        Ok(Submitted {
            id,
            wake: self.writer.take(),
            new_earliest,
        })
    }

    fn occupy(&mut self, deadline: Instant, bytes: usize) -> u64 {
        let state = State::Open {
            waker: None,
            deadline,
            bytes,
            sent: false,
        };
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.use_count = slot.use_count.wrapping_add(1);
            slot.state = state;
            return id_of(index, slot.use_count);
        }
        let index = u32::try_from(self.slots.len()).expect("bounded by pending_ops_max");
        self.slots.push(Slot { use_count: 0, state });
        id_of(index, 0)
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
            State::Open { bytes, .. } => self.closed(bytes),
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

    /// Hands replies to their callers, whose wakers are added to `wake`. Replies that nobody waits for are dropped.
    pub(crate) fn dispatch(&mut self, replies: Vec<v1::Reply>, wake: &mut Vec<Waker>) {
        for reply in replies {
            wake.extend(self.finish(reply.id, Attempt::Reply(reply)).flatten());
        }
    }

    /// Whether the outgoing half of stream `stream` has something to send: `Ready(true)`, or has ended: `Ready(false)`.
    pub(crate) fn poll_unsent(&mut self, stream: u64, context: &Context<'_>) -> Poll<bool> {
        if stream != self.stream || self.gate == Gate::Closing {
            return Poll::Ready(false);
        }
        if self.unsent.is_empty() {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(true)
    }

    /// Whether a whole batch waits.
    pub(crate) fn has_full_batch(&self) -> bool {
        self.unsent.len() >= self.limits.batch_ops_max
    }

    /// The next batch; empty if all that waited was abandoned or came too late. Callers that came too late are added to
    /// `wake`.
    pub(crate) fn take_batch(&mut self, now: Instant, wake: &mut Vec<Waker>) -> v1::OpBatch {
        let mut batch = v1::OpBatch {
            ops: Vec::with_capacity(self.unsent.len().min(self.limits.batch_ops_max)),
            sinces: Vec::new(),
        };
        let mut batch_bytes = 0;
        while let Some(next) = self.unsent.front() {
            let is_full = batch.ops.len() >= self.limits.batch_ops_max
                || batch_bytes + next.bytes > self.limits.batch_bytes_max;
            if is_full && !batch.ops.is_empty() {
                break;
            }
            let Some(unsent) = self.unsent.pop_front() else {
                break;
            };
            if unsent.deadline <= now {
                let attempt = Attempt::NotSent(NotSent::Deadline);
                wake.extend(self.finish(unsent.id, attempt).flatten());
                continue;
            }
            if !self.mark_sent(unsent.id) {
                continue;
            }
            batch_bytes += unsent.bytes;
            let mut op = unsent.op;
            op.id = unsent.id;
            op.deadline_ms = milliseconds_left(unsent.deadline, now);
            op.since_index = index_of(&mut batch.sinces, unsent.since);
            batch.ops.push(op);
        }
        batch
    }

    /// Marks an operation as sent; false if its caller has gone.
    fn mark_sent(&mut self, id: u64) -> bool {
        match self.slot(id).map(|slot| &mut slot.state) {
            Some(State::Open { sent, .. }) => {
                *sent = true;
                true
            }
            _ => false,
        }
    }

    /// Ends what is past its deadline; gives the earliest deadline left.
    pub(crate) fn sweep(&mut self, now: Instant, wake: &mut Vec<Waker>) -> Option<Instant> {
        if self.earliest.is_some_and(|earliest| earliest > now) {
            return self.earliest;
        }
        let mut earliest: Option<Instant> = None;
        self.end_where(wake, |deadline, sent| {
            if deadline > now {
                earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
                return None;
            }
            Some(if sent {
                Attempt::Lost(Lost::Deadline)
            } else {
                Attempt::NotSent(NotSent::Deadline)
            })
        });
        self.earliest = earliest;
        earliest
    }

    /// Ends the open operations for which `judge(deadline, sent)` gives an outcome.
    fn end_where(&mut self, wake: &mut Vec<Waker>, mut judge: impl FnMut(Instant, bool) -> Option<Attempt>) {
        for slot in &mut self.slots {
            let State::Open {
                waker,
                deadline,
                bytes,
                sent,
            } = &mut slot.state
            else {
                continue;
            };
            if let Some(attempt) = judge(*deadline, *sent) {
                self.open -= 1;
                self.open_bytes -= *bytes;
                wake.extend(waker.take());
                slot.state = State::Done(attempt);
            }
        }
    }

    /// Begins a new stream: operations go there from now on. Gives its number.
    pub(crate) fn begin_stream(&mut self, wake: &mut Vec<Waker>) -> u64 {
        self.stream += 1;
        wake.extend(self.writer.take());
        self.stream
    }

    /// The stream has ended. What was sent is lost, what was not goes back to its callers, and nothing more is handed to
    /// that stream's outgoing half.
    pub(crate) fn end_stream(&mut self, gate: Gate, wake: &mut Vec<Waker>) {
        self.stream += 1;
        self.gate = gate;
        self.unsent.clear();
        wake.extend(self.writer.take());
        self.end_where(wake, |_, sent| {
            Some(if sent {
                Attempt::Lost(Lost::Broken)
            } else {
                Attempt::NotSent(NotSent::NoConnection)
            })
        });
    }

    /// The node will end the stream: takes nothing more in, returns what was not sent, and still waits for answers.
    pub(crate) fn begin_closing(&mut self, wake: &mut Vec<Waker>) {
        self.gate = Gate::Closing;
        self.unsent.clear();
        wake.extend(self.writer.take());
        self.end_where(wake, |_, sent| {
            (!sent).then_some(Attempt::NotSent(NotSent::NoConnection))
        });
    }

    pub(crate) fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate
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

/// At least 1, since 0 stands for the node's own default.
fn milliseconds_left(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now).as_millis();
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

/// Where the batch lists an acquisition.
fn index_of(sinces: &mut Vec<v1::Generation>, since: Generation) -> u32 {
    let since = v1::Generation::from(since);
    let skipped = sinces.len().saturating_sub(SINCES_COMPARED);
    let known = sinces[skipped..].iter().rposition(|listed| *listed == since);
    let index = known.map_or(sinces.len(), |at| skipped + at);
    if index == sinces.len() {
        sinces.push(since);
    }
    u32::try_from(index).expect("at most one per operation of a batch")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use softstore_sharding::Incarnation;

    use super::*;

    const LIMITS: Limits = Limits {
        pending_ops_max: 8,
        pending_bytes_max: 2_000,
        batch_ops_max: 3,
        batch_bytes_max: 1_000,
    };

    fn op(value_bytes: usize) -> v1::Op {
        v1::Op {
            key: Bytes::from_static(b"k"),
            value: vec![0; value_bytes].into(),
            ..Default::default()
        }
    }

    fn since(number: u64) -> Generation {
        Generation {
            number,
            assigner: Incarnation::new(1),
        }
    }

    fn collect(queue: &mut Queue, id: u64) -> Option<Attempt> {
        match queue.poll(id, &Context::from_waker(Waker::noop())) {
            Poll::Ready(attempt) => Some(attempt),
            Poll::Pending => None,
        }
    }

    fn reply(id: u64) -> v1::Reply {
        v1::Reply {
            id,
            ..Default::default()
        }
    }

    #[test]
    fn batches_are_bounded_and_list_each_acquisition_once() {
        let now = Instant::now();
        let later = now + Duration::from_millis(1_500);
        let mut queue = Queue::new(LIMITS);
        for number in [5, 5, 6, 7] {
            queue.submit(op(1), since(number), later).expect("room");
        }
        let batch = queue.take_batch(now, &mut vec![]);
        assert_eq!(batch.ops.len(), 3);
        assert_eq!(batch.sinces, vec![since(5).into(), since(6).into()]);
        let indexes: Vec<u32> = batch.ops.iter().map(|op| op.since_index).collect();
        assert_eq!(indexes, [0, 0, 1]);
        assert_eq!(batch.ops[0].deadline_ms, 1_500);
        assert_eq!(queue.take_batch(now, &mut vec![]).ops.len(), 1);

        // By bytes: two do not fit together, one larger than a batch travels alone.
        for value_bytes in [700, 700] {
            queue.submit(op(value_bytes), since(5), later).expect("room");
        }
        assert_eq!(queue.take_batch(now, &mut vec![]).ops.len(), 1);
        assert_eq!(queue.take_batch(now, &mut vec![]).ops.len(), 1);
    }

    #[test]
    fn what_is_pending_is_bounded_by_count_and_bytes() {
        let later = Instant::now() + Duration::from_secs(1);
        let mut queue = Queue::new(LIMITS);
        let first = queue.submit(op(5_000), since(1), later).expect("alone").id;
        assert_eq!(queue.submit(op(1), since(1), later).err(), Some(NotSent::Full));
        queue.abandon(first);
        let ids: Vec<u64> = (0..8)
            .map(|_| queue.submit(op(1), since(1), later).expect("room").id)
            .collect();
        assert_eq!(queue.submit(op(1), since(1), later).err(), Some(NotSent::Full));
        queue.dispatch(vec![reply(ids[3])], &mut vec![]);
        assert!(queue.submit(op(1), since(1), later).is_ok());
    }

    /// Plan: one operation sent, one not, and the deadline passes; then the same with a stream that ends. The sent one is
    /// lost (its outcome unknown), the other certainly not applied. A reply after that finds nobody, not even a later
    /// operation in the same slot.
    #[test]
    fn sent_and_unsent_are_told_apart() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(10);
        let mut queue = Queue::new(LIMITS);
        let mut wake = vec![];
        let sent = queue.submit(op(1), since(1), soon).expect("room").id;
        queue.take_batch(now, &mut wake);
        let unsent = queue.submit(op(1), since(1), soon).expect("room").id;
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
        assert!(queue.take_batch(now, &mut wake).ops.is_empty());

        let reused = queue.submit(op(1), since(1), soon).expect("room").id;
        queue.dispatch(vec![reply(sent), reply(unsent)], &mut wake);
        assert!(collect(&mut queue, reused).is_none());

        queue.take_batch(now, &mut wake);
        let unsent = queue.submit(op(1), since(1), soon).expect("room").id;
        queue.end_stream(Gate::Down, &mut wake);
        assert!(matches!(
            collect(&mut queue, reused),
            Some(Attempt::Lost(Lost::Broken))
        ));
        assert!(matches!(
            collect(&mut queue, unsent),
            Some(Attempt::NotSent(NotSent::NoConnection))
        ));
        assert_eq!(
            queue.submit(op(1), since(1), soon).err(),
            Some(NotSent::NoConnection)
        );
        assert_eq!((queue.open, queue.open_bytes), (0, 0));
    }

    #[test]
    fn a_closing_stream_still_answers_what_was_sent() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut queue = Queue::new(LIMITS);
        let stream = queue.begin_stream(&mut vec![]);
        let sent = queue.submit(op(1), since(1), later).expect("room").id;
        queue.take_batch(now, &mut vec![]);
        let unsent = queue.submit(op(1), since(1), later).expect("room").id;
        queue.begin_closing(&mut vec![]);
        let context = Context::from_waker(Waker::noop());
        assert_eq!(queue.poll_unsent(stream, &context), Poll::Ready(false));
        assert!(matches!(collect(&mut queue, unsent), Some(Attempt::NotSent(_))));
        queue.dispatch(vec![reply(sent)], &mut vec![]);
        assert!(matches!(collect(&mut queue, sent), Some(Attempt::Reply(_))));
    }

    proptest! {
        /// Any order of submitting, sending, answering, sweeping and abandoning: the counts agree with a model, and a
        /// reply reaches the caller whose id it names and no other.
        #[test]
        fn every_caller_gets_its_own_outcome(steps in prop::collection::vec((0..6u8, any::<prop::sample::Index>()), 1..200)) {
            let now = Instant::now();
            let mut queue = Queue::new(LIMITS);
            let (mut unsent, mut sent, mut stale): (Vec<u64>, Vec<u64>, Vec<u64>) = (vec![], vec![], vec![]);
            for (step, pick) in steps {
                match step {
                    0 | 1 => {
                        let result = queue.submit(op(1), since(1), now + Duration::from_secs(1));
                        prop_assert_eq!(result.is_ok(), unsent.len() + sent.len() < LIMITS.pending_ops_max);
                        unsent.extend(result.ok().map(|submitted| submitted.id));
                    }
                    2 => {
                        let batch = queue.take_batch(now, &mut vec![]);
                        for op in batch.ops {
                            prop_assert_eq!(unsent.remove(0), op.id);
                            sent.push(op.id);
                        }
                    }
                    3 if !sent.is_empty() => {
                        let id = sent.remove(pick.index(sent.len()));
                        queue.dispatch(vec![reply(id)], &mut vec![]);
                        match collect(&mut queue, id) {
                            Some(Attempt::Reply(reply)) => prop_assert_eq!(reply.id, id),
                            other => prop_assert!(false, "{:?}", other),
                        }
                        stale.push(id);
                    }
                    4 if !unsent.is_empty() => {
                        let id = unsent.remove(pick.index(unsent.len()));
                        queue.abandon(id);
                        stale.push(id);
                    }
                    5 if !stale.is_empty() => {
                        queue.dispatch(vec![reply(stale[pick.index(stale.len())])], &mut vec![]);
                    }
                    _ => {}
                }
                prop_assert_eq!(queue.open, unsent.len() + sent.len());
                for id in unsent.iter().chain(&sent) {
                    prop_assert!(collect(&mut queue, *id).is_none());
                }
            }
        }
    }
}
