//! What happened at each measured position: outcome and latency, eight bytes each.
//!
//! Everything that is judged is computed from these afterwards, so every arm is judged by the same code on the same
//! positions. Positions here count from the first measured request (the warm-up is not recorded).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Positions per block; blocks are allocated as they are reached.
const BLOCK_POSITIONS: u64 = 1 << 16;

/// How a position's request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A get that returned a value that it may return.
    Hit,
    /// A get that found nothing (and loaded from the backend).
    Miss,
    /// A get that returned a value older than allowed.
    StaleHit,
    /// A get that failed or returned a wrong value (and loaded from the backend).
    GetError,
    /// A set or delete acknowledged.
    Applied,
    /// A set or delete refused.
    Refused,
    /// A set or delete whose outcome is unknown.
    Unknown,
    /// A set or delete that ended in any other way.
    WriteError,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Hit,
        Self::Miss,
        Self::StaleHit,
        Self::GetError,
        Self::Applied,
        Self::Refused,
        Self::Unknown,
        Self::WriteError,
    ];

    pub(crate) fn is_get(self) -> bool {
        matches!(self, Self::Hit | Self::Miss | Self::StaleHit | Self::GetError)
    }

    /// A value came back (a stale one too: staleness is counted apart).
    pub(crate) fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::StaleHit)
    }

    pub(crate) fn is_backend_load(self) -> bool {
        matches!(self, Self::Miss | Self::GetError)
    }

    /// The cluster gave an answer.
    pub(crate) fn is_answer(self) -> bool {
        matches!(self, Self::Hit | Self::StaleHit | Self::Miss | Self::Applied)
    }

    /// Only the owner of a key can have given this answer (a miss may be the client's, for an owner out of reach).
    pub(crate) fn proves_an_owner(self) -> bool {
        matches!(self, Self::Hit | Self::StaleHit | Self::Applied)
    }
}

/// One position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) outcome: Outcome,
    /// From the intended sending to the answer.
    pub(crate) latency_us: u32,
}

impl Record {
    /// 0 is kept for "not yet".
    fn pack(self) -> u64 {
        u64::from(self.latency_us) | (1 + self.outcome as u64) << 32
    }

    fn unpack(word: u64) -> Option<Self> {
        let [latency_us, outcome] = [word & 0xffff_ffff, word >> 32];
        let outcome = *Outcome::ALL.get(usize::try_from(outcome.checked_sub(1)?).ok()?)?;
        Some(Self {
            outcome,
            latency_us: u32::try_from(latency_us).ok()?,
        })
    }
}

/// The records of an arm in the making; written by many tasks at once.
#[derive(Debug)]
pub(crate) struct Records {
    blocks: Vec<OnceLock<Box<[AtomicU64]>>>,
}

impl Records {
    pub(crate) fn new(positions_max: u64) -> Self {
        Self {
            blocks: (0..positions_max.div_ceil(BLOCK_POSITIONS))
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    fn place(&self, position: u64) -> Option<(&OnceLock<Box<[AtomicU64]>>, usize)> {
        let block = self
            .blocks
            .get(usize::try_from(position / BLOCK_POSITIONS).ok()?)?;
        Some((block, usize::try_from(position % BLOCK_POSITIONS).ok()?))
    }

    /// A position beyond the capacity is not recorded.
    pub(crate) fn set(&self, position: u64, record: Record) {
        let Some((block, index)) = self.place(position) else {
            return;
        };
        let block = block.get_or_init(|| (0..BLOCK_POSITIONS).map(|_| AtomicU64::new(0)).collect());
        block[index].store(record.pack(), Ordering::Relaxed);
    }

    /// `None`: not answered yet.
    pub(crate) fn get(&self, position: u64) -> Option<Record> {
        let (block, index) = self.place(position)?;
        Record::unpack(block.get()?[index].load(Ordering::Relaxed))
    }

    /// The records of positions 0 to `end_excluded`; all have ended.
    pub(crate) fn freeze(&self, end_excluded: u64) -> Vec<Option<Record>> {
        (0..end_excluded).map(|position| self.get(position)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_written() {
        let records = Records::new(BLOCK_POSITIONS + 10);
        for (position, outcome) in (BLOCK_POSITIONS - 4..).zip(Outcome::ALL) {
            records.set(
                position,
                Record {
                    outcome,
                    latency_us: u32::MAX,
                },
            );
        }
        for (position, outcome) in (BLOCK_POSITIONS - 4..).zip(Outcome::ALL) {
            assert_eq!(
                records.get(position),
                Some(Record {
                    outcome,
                    latency_us: u32::MAX
                })
            );
        }
        assert_eq!(records.get(0), None);
        records.set(
            u64::MAX,
            Record {
                outcome: Outcome::Hit,
                latency_us: 1,
            },
        );
        assert_eq!(records.get(u64::MAX), None);
    }
}
