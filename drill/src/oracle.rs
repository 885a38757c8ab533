//! The oracle: what a drain cut short could have kept at best, had it known which entries are the hottest.
//!
//! It starts from control's records. At each signal it looks at what the signalled node owned, keeps the hottest entries up
//! to a part of their bytes (the part that the cluster really moved, or a given one), and loses the rest. From then on a lost
//! key's next get is a miss, which fills it, as everywhere in the drill; a set ends the loss too. Everything that control missed
//! is missed here as well.
//!
//! Which entries are the hottest is told in two ways. By the *future*: the gets to come until the window's end, which no cache
//! can know; it bounds from above what any order could reach. By the *past*: the gets so far, exact and of unlimited memory; it
//! is what a cache could know at best.
//!
//! What a node held is taken to be every key of its ranges that was read or written and not deleted since. That holds with ample
//! memory; entries that expired meanwhile count too, in bytes only.

use std::cmp::Reverse;
use std::ops::Range;

use softstore_sharding::{Slice, SliceKey};

use crate::record::{Outcome, Record};
use crate::request::{KeyIndex, RequestKind, Sequence};

/// A signal to a node whose entries had to leave it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cut {
    /// Measured position of the signal.
    pub(crate) position: u64,
    /// What the node owned.
    pub(crate) slices: Vec<Slice>,
    /// Bytes of keys and values that came across.
    pub(crate) moved_bytes: u64,
}

/// By what the oracle knows the hottest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foresight {
    /// Gets to come until the end of the window; among equals, gets so far.
    Future,
    /// Gets so far; among equals, the last asked for.
    Past,
}

/// How much it may keep at each cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Budget {
    /// As many bytes as the cluster moved.
    Moved,
    /// This part of the bytes held, 0 to 1.
    Part(f64),
}

/// What is replayed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replayed<'a> {
    pub(crate) sequence: &'a Sequence,
    pub(crate) warm_up: u64,
    /// Control's, by measured position.
    pub(crate) control: &'a [Option<Record>],
    /// Measured positions whose gets count as the future's end.
    pub(crate) window: &'a Range<usize>,
}

/// One key, as the oracle sees it.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    held: bool,
    lost: bool,
    value_bytes: u32,
    gets_past: u32,
    gets_to_come: u32,
    last_position: u64,
}

/// The records of an arm whose drains kept exactly the hottest.
///
/// Requires: `cuts` in the order of their positions.
pub(crate) fn replay(
    replayed: Replayed<'_>,
    cuts: &[Cut],
    foresight: Foresight,
    budget: Budget,
) -> Vec<Option<Record>> {
    let Replayed {
        sequence,
        warm_up,
        control,
        window,
    } = replayed;
    let end = window.end.min(control.len());
    let mut oracle = Oracle::new(sequence);
    for position in warm_up..warm_up + end as u64 {
        oracle.expect(position);
    }
    for position in 0..warm_up {
        oracle.serve(position, None);
    }
    let mut cuts = cuts.iter().peekable();
    let replay = |(index, record): (usize, &Option<Record>)| {
        while let Some(cut) = cuts.next_if(|cut| cut.position <= index as u64) {
            oracle.cut(cut, foresight, budget);
        }
        let outcome = oracle.serve(warm_up + index as u64, record.map(|record| record.outcome));
        record.map(|record| Record {
            outcome: outcome.unwrap_or(record.outcome),
            ..record
        })
    };
    control[..end].iter().enumerate().map(replay).collect()
}

struct Oracle<'a> {
    sequence: &'a Sequence,
    entries: Vec<Entry>,
}

impl<'a> Oracle<'a> {
    fn new(sequence: &'a Sequence) -> Self {
        Self {
            sequence,
            entries: vec![Entry::default(); sequence.keys() as usize],
        }
    }

    /// Counts the request at that position among those to come.
    fn expect(&mut self, position: u64) {
        let request = self.sequence.at(position);
        if request.kind == RequestKind::Get {
            self.entries[request.key.index()].gets_to_come += 1;
        }
    }

    /// Takes in the request at that position; gives what became of it if control's outcome does not hold.
    fn serve(&mut self, position: u64, control: Option<Outcome>) -> Option<Outcome> {
        let request = self.sequence.at(position);
        let entry = &mut self.entries[request.key.index()];
        let was_lost = std::mem::take(&mut entry.lost);
        entry.last_position = position;
        match request.kind {
            RequestKind::Delete => {
                entry.held = false;
                return None;
            }
            RequestKind::Get => {
                entry.gets_past += 1;
                // Those of the warm-up were not expected.
                entry.gets_to_come = entry.gets_to_come.saturating_sub(u32::from(control.is_some()));
            }
            RequestKind::Set => {}
        }
        entry.held = true;
        entry.value_bytes = request.value_bytes;
        (was_lost && control.is_some_and(Outcome::is_hit)).then_some(Outcome::Miss)
    }

    fn cut(&mut self, cut: &Cut, foresight: Foresight, budget: Budget) {
        let mut candidates: Vec<KeyIndex> = (0..self.sequence.keys())
            .map(KeyIndex)
            .filter(|key| self.is_held_in(*key, &cut.slices))
            .collect();
        let held_bytes: u64 = candidates.iter().map(|key| self.bytes(*key)).sum();
        let keep_bytes = match budget {
            Budget::Moved => cut.moved_bytes,
            Budget::Part(part) => part_of(held_bytes, part),
        };
        candidates.sort_by_key(|key| Reverse(self.heat(*key, foresight)));
        let mut kept_bytes = 0;
        for key in candidates {
            kept_bytes += self.bytes(key);
            if kept_bytes > keep_bytes {
                self.entries[key.index()].lost = true;
            }
        }
    }

    fn is_held_in(&self, key: KeyIndex, slices: &[Slice]) -> bool {
        let entry = &self.entries[key.index()];
        if !entry.held || entry.lost {
            return false;
        }
        let at = SliceKey::of_key(&self.sequence.key_bytes(key));
        slices.iter().any(|slice| slice.contains(at))
    }

    fn bytes(&self, key: KeyIndex) -> u64 {
        u64::from(self.entries[key.index()].value_bytes) + self.sequence.key_length() as u64
    }

    fn heat(&self, key: KeyIndex, foresight: Foresight) -> (u32, u32, u64) {
        let entry = &self.entries[key.index()];
        match foresight {
            Foresight::Future => (entry.gets_to_come, entry.gets_past, entry.last_position),
            Foresight::Past => (entry.gets_past, 0, entry.last_position),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a count of bytes far below 2^52"
)]
fn part_of(bytes: u64, part: f64) -> u64 {
    (bytes as f64 * part.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;
    use crate::workload::WorkloadSpec;

    /// Reads of these objects in turn; sizes are equal enough for the budgets used here to be a number of entries.
    fn reads(keys: &[u32]) -> Sequence {
        let sequence: Vec<_> = keys.iter().copied().map(KeyIndex).collect();
        let trace = Trace {
            object_ids: (0..=keys.iter().copied().max().unwrap()).collect(),
            sequence,
            ..Trace::default()
        };
        let spec = WorkloadSpec {
            // Every drawn size is then raised to the least one, so that all are equal.
            value_bytes_median: 1,
            key_bytes: 24,
            ..WorkloadSpec::default()
        };
        Sequence::from_trace(trace, &spec, 1, 0)
    }

    const ENTRY_BYTES: u64 = 24 + crate::value::VALUE_BYTES_MIN as u64;

    fn hits(count: usize) -> Vec<Option<Record>> {
        let hit = Record {
            outcome: Outcome::Hit,
            latency_us: 1,
        };
        vec![Some(hit); count]
    }

    fn everything_at(position: u64, entries_moved: u64) -> Cut {
        Cut {
            position,
            slices: vec![Slice::FULL],
            moved_bytes: entries_moved * ENTRY_BYTES,
        }
    }

    /// The measured positions that miss.
    fn misses(
        sequence: &Sequence,
        warm_up: u64,
        cuts: &[Cut],
        foresight: Foresight,
        budget: Budget,
    ) -> Vec<usize> {
        let length = usize::try_from(sequence.length().unwrap() - warm_up).unwrap();
        let control = hits(length);
        let replayed = Replayed {
            sequence,
            warm_up,
            control: &control,
            window: &(0..length),
        };
        let records = replay(replayed, cuts, foresight, budget);
        let missed = |(index, record): (usize, &Option<Record>)| {
            (record.unwrap().outcome == Outcome::Miss).then_some(index)
        };
        records.iter().enumerate().filter_map(missed).collect()
    }

    /// Plan: object 0 was asked for most, object 2 will be, object 1 neither. One entry may stay. By the past 0 stays, by the future
    /// 2 does; each lost object costs the first get after the cut and no other.
    #[test]
    fn past_and_future_keep_different_entries_and_a_loss_costs_one_miss() {
        let sequence = reads(&[0, 0, 0, 1, 2, /* measured: */ 0, 2, 2, 2, 1, 0]);
        let cuts = [everything_at(0, 1)];
        let missed = |foresight| misses(&sequence, 5, &cuts, foresight, Budget::Moved);
        assert_eq!(missed(Foresight::Past), [1, 4]);
        assert_eq!(missed(Foresight::Future), [0, 4]);
    }

    #[test]
    fn a_part_is_reckoned_of_what_the_node_held_and_ranges_of_others_stay() {
        let sequence = reads(&[0, 1, 2, 3, 0, 1, 2, 3]);
        let by_part = |part| {
            let cuts = [everything_at(0, 0)];
            misses(&sequence, 4, &cuts, Foresight::Past, Budget::Part(part)).len()
        };
        assert_eq!([by_part(0.0), by_part(0.5), by_part(1.0)], [4, 2, 0]);
        let key = SliceKey::of_key(&sequence.key_bytes(KeyIndex(2)));
        let cuts = [Cut {
            slices: vec![Slice::single(key)],
            ..everything_at(0, 0)
        }];
        assert_eq!(misses(&sequence, 4, &cuts, Foresight::Past, Budget::Moved), [2]);
    }

    /// Plan: cut everything twice. What was filled in between is there to be lost again; what was not is not there to be kept.
    #[test]
    fn a_second_cut_loses_what_was_filled_since_the_first() {
        let sequence = reads(&[0, 1, /* measured: */ 0, 0, 0, 1]);
        let cuts = [everything_at(0, 0), everything_at(2, 0)];
        assert_eq!(
            misses(&sequence, 2, &cuts, Foresight::Future, Budget::Moved),
            [0, 2, 3]
        );
    }

    #[test]
    fn what_control_missed_stays_missed() {
        let sequence = reads(&[0, 0, 0]);
        let mut control = hits(2);
        control[1].as_mut().unwrap().outcome = Outcome::GetError;
        let replayed = Replayed {
            sequence: &sequence,
            warm_up: 1,
            control: &control,
            window: &(0..2),
        };
        assert_eq!(replay(replayed, &[], Foresight::Past, Budget::Moved), control);
    }
}
