//! [`Outbox`]: operations that wait to be sent, encoded already, in the batches in which they will travel.
//!
//! An operation is encoded when it comes, from the caller's own bytes, and never moved again: what waits is bytes, and a
//! note of where each operation stands in them. One that is withdrawn is cut out when its batch is sent.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use softstore_proto::batch::{Assembly, OpBatch, OpView, Value};
use softstore_proto::limits::BATCH_SINCES_MAX;
use softstore_sharding::Generation;
use softstore_sharding::session::VersionRange;

/// How large a batch may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    pub(crate) ops_max: usize,
    pub(crate) bytes_max: usize,
}

/// How many of a batch's acquisitions are compared before one is listed again: few differ, and a repeated one is harmless.
const SINCES_COMPARED: usize = 16;

/// Where an operation waits, or waited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    batch: u64,
    range: Range<usize>,
}

/// What waits to be sent on one stream.
#[derive(Debug)]
pub(crate) struct Outbox {
    limits: BatchLimits,
    batches: VecDeque<Batch>,
    /// The number of the first batch that waits, or of the next to come. Those before it have been taken.
    first: u64,
    /// The length of the last batch taken, but for shared values: the next may be as long.
    last_bytes: usize,
    /// Bytes of withdrawn operations in batches that hold others, too.
    withdrawn_bytes: usize,
    /// Most operations of a batch just now: the limit, or fewer.
    ops_max: usize,
    clock: Clock,
}

#[derive(Debug)]
struct Batch {
    begun: Instant,
    assembly: Assembly,
    /// Operations in it that were not withdrawn.
    ops: usize,
    withdrawn_bytes: usize,
    sinces: Vec<Generation>,
}

/// The clock that the node is told of deadlines by: milliseconds since this stream's queue was made, from 1 on.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn ms(self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.0);
        since.as_secs() * 1_000 + u64::from(since.subsec_millis()) + 1
    }
}

impl Outbox {
    pub(crate) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            ops_max: limits.ops_max,
            batches: VecDeque::new(),
            first: 0,
            last_bytes: 0,
            withdrawn_bytes: 0,
            clock: Clock(Instant::now()),
        }
    }

    /// Adds an operation to the last batch, or to a new one if that is full. Its deadline and acquisition are filled in.
    pub(crate) fn push(
        &mut self,
        op: OpView<'_>,
        value: Value<'_>,
        bytes: usize,
        since: Generation,
        deadline: Instant,
    ) -> Place {
        let limits = self.limits;
        let ops_max = self.ops_max;
        let fits = |batch: &Batch| {
            batch.ops < ops_max
                && batch.sinces.len() < BATCH_SINCES_MAX
                && batch.assembly.len_bytes() + bytes <= limits.bytes_max
        };
        if !self
            .batches
            .back()
            .is_some_and(|batch| batch.ops == 0 || fits(batch))
        {
            self.batches.push_back(Batch {
                begun: Instant::now(),
                assembly: Assembly::with_capacity(self.last_bytes),
                ops: 0,
                withdrawn_bytes: 0,
                sinces: Vec::new(),
            });
        }
        let batch_number = self.first + self.batches.len() as u64 - 1;
        let batch = self.batches.back_mut().expect("one was there, or just pushed");
        let op = OpView {
            deadline_ms: self.clock.ms(deadline),
            since_index: index_of(&mut batch.sinces, since),
            ..op
        };
        batch.ops += 1;
        Place {
            batch: batch_number,
            range: batch.assembly.push_op(&op, value),
        }
    }

    /// Whether what was put there has left.
    pub(crate) fn is_sent(&self, place: &Place) -> bool {
        place.batch < self.first
    }

    /// Bytes that are held for operations that were withdrawn.
    pub(crate) fn withdrawn_bytes(&self) -> usize {
        self.withdrawn_bytes
    }

    /// Takes an operation of so many bytes back, unless it has left.
    pub(crate) fn withdraw(&mut self, place: Place, bytes: usize) {
        let Some(index) = place.batch.checked_sub(self.first) else {
            return;
        };
        let index = usize::try_from(index).expect("as many as there are batches");
        let Some(batch) = self.batches.get_mut(index) else {
            return;
        };
        batch.ops -= 1;
        if batch.ops == 0 {
            self.withdrawn_bytes -= std::mem::take(&mut batch.withdrawn_bytes);
            batch.assembly = Assembly::default();
            batch.sinces.clear();
        } else {
            self.withdrawn_bytes += bytes;
            batch.withdrawn_bytes += bytes;
            batch.assembly.withdraw(place.range);
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.iter().all(|batch| batch.ops == 0)
    }

    /// Whether a whole batch waits.
    pub(crate) fn has_full_batch(&self) -> bool {
        self.batches.len() > 1
            || self
                .batches
                .front()
                .is_some_and(|batch| batch.ops >= self.ops_max)
    }

    /// Batches that are begun from now on hold no more operations than this, if that is less than the limit.
    pub(crate) fn limit_batches(&mut self, ops_max: usize) {
        self.ops_max = ops_max.clamp(1, self.limits.ops_max);
    }

    /// When the first operation that waits came, or a little earlier.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        let mut waiting = self.batches.iter().filter(|batch| batch.ops > 0);
        waiting.next().map(|batch| batch.begun)
    }

    /// When the batch was begun in which an operation waits; none if it has left.
    pub(crate) fn batch_begun(&self, place: &Place) -> Option<Instant> {
        let index = usize::try_from(place.batch.checked_sub(self.first)?).ok()?;
        self.batches.get(index).map(|batch| batch.begun)
    }

    /// The next batch, and how many operations it holds.
    pub(crate) fn take(&mut self, now: Instant, versions: Option<VersionRange>) -> Option<(OpBatch, usize)> {
        loop {
            let Batch {
                begun: _,
                assembly,
                ops,
                withdrawn_bytes,
                sinces,
            } = self.batches.pop_front()?;
            self.first += 1;
            self.withdrawn_bytes -= withdrawn_bytes;
            if ops > 0 {
                self.last_bytes = assembly.inline_bytes().min(self.limits.bytes_max);
                let sent_ms = self.clock.ms(now);
                return Some((assembly.into_op_batch(&sinces, sent_ms, versions), ops));
            }
        }
    }

    /// Drops what waits.
    pub(crate) fn clear(&mut self) {
        self.first += self.batches.len() as u64;
        self.batches.clear();
        self.withdrawn_bytes = 0;
    }
}

/// Where the batch lists an acquisition.
fn index_of(sinces: &mut Vec<Generation>, since: Generation) -> u32 {
    let skipped = sinces.len().saturating_sub(SINCES_COMPARED);
    let known = sinces[skipped..].iter().rposition(|listed| *listed == since);
    let index = known.map_or(sinces.len(), |at| skipped + at);
    if index == sinces.len() {
        sinces.push(since);
    }
    u32::try_from(index).expect("a batch lists no more than the limit")
}
