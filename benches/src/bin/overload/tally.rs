//! What became of the operations of one generator, per tenth of a second of *intended* send time: so an operation that
//! was sent late, or answered after its phase, counts where it belongs.

use std::time::Duration;

use eyre::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Length of a slot, in milliseconds.
pub(crate) const SLOT_MS: u64 = 100;

/// Longest latency that is told apart, in microseconds: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What became of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Answered: found, not found, stored.
    Accepted,
    /// Shed, and said so: a typed error that may be tried again.
    Shed,
    /// Not applied within its deadline.
    Late,
    /// Perhaps applied: no answer within its deadline.
    Unknown,
    /// Any other error.
    Failed,
}

/// Counts of outcomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) offered: u64,
    pub(crate) accepted: u64,
    pub(crate) shed: u64,
    pub(crate) late: u64,
    pub(crate) unknown: u64,
    pub(crate) failed: u64,
    /// Reads among the accepted, and those of them that found something.
    pub(crate) reads: u64,
    pub(crate) hits: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.accepted += other.accepted;
        self.shed += other.shed;
        self.late += other.late;
        self.unknown += other.unknown;
        self.failed += other.failed;
        self.reads += other.reads;
        self.hits += other.hits;
    }
}

/// Latencies in microseconds, to two digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u32>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(LATENCY_US_MAX, 2).expect("the bounds are valid"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us.clamp(1, LATENCY_US_MAX));
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.0.add(&other.0)?;
        Ok(())
    }

    /// A percentile in milliseconds; 0 if nothing was recorded.
    pub(crate) fn percentile_ms(&self, percentile: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        self.0.value_at_percentile(percentile) as f64 / 1e3
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    fn sparse(&self) -> Vec<(u64, u32)> {
        let recorded = self.0.iter_recorded();
        recorded
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect()
    }

    fn from_sparse(counts: &[(u64, u32)]) -> Result<Self> {
        let mut latencies = Self::default();
        for (value, count) in counts {
            latencies.0.record_n((*value).clamp(1, LATENCY_US_MAX), *count)?;
        }
        Ok(latencies)
    }
}

/// One slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) counts: Counts,
    pub(crate) accepted: Latencies,
    pub(crate) shed: Latencies,
    /// How late operations were begun: the generator's own fault.
    pub(crate) begun_late: Latencies,
}

impl Slot {
    pub(crate) fn record(&mut self, outcome: Outcome, latency: Duration) {
        let counts = &mut self.counts;
        match outcome {
            Outcome::Accepted => {
                counts.accepted += 1;
                self.accepted.record(latency);
            }
            Outcome::Shed => {
                counts.shed += 1;
                self.shed.record(latency);
            }
            Outcome::Late => counts.late += 1,
            Outcome::Unknown => counts.unknown += 1,
            Outcome::Failed => counts.failed += 1,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.counts.add(&other.counts);
        self.accepted.add(&other.accepted)?;
        self.shed.add(&other.shed)?;
        self.begun_late.add(&other.begun_late)
    }
}

/// A slot as it travels between processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SlotRecord {
    counts: Counts,
    accepted: Vec<(u64, u32)>,
    shed: Vec<(u64, u32)>,
    begun_late: Vec<(u64, u32)>,
}

impl From<&Slot> for SlotRecord {
    fn from(slot: &Slot) -> Self {
        Self {
            counts: slot.counts,
            accepted: slot.accepted.sparse(),
            shed: slot.shed.sparse(),
            begun_late: slot.begun_late.sparse(),
        }
    }
}

impl SlotRecord {
    pub(crate) fn into_slot(self) -> Result<Slot> {
        Ok(Slot {
            counts: self.counts,
            accepted: Latencies::from_sparse(&self.accepted)?,
            shed: Latencies::from_sparse(&self.shed)?,
            begun_late: Latencies::from_sparse(&self.begun_late)?,
        })
    }
}

/// All that one generator reports.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct GeneratorRecord {
    pub(crate) slots: Vec<SlotRecord>,
    /// What the client counted.
    pub(crate) retries_busy: u64,
    /// Closed loop: operations answered per second.
    pub(crate) closed_loop_per_second: f64,
    /// ... and not answered.
    pub(crate) closed_loop_refused_per_second: f64,
}
