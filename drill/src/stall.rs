//! The longest time in which some slot group was asked and answered nothing.
//!
//! For each request of the window: the time from its intended sending to the next answer of its slot group, whichever
//! request that answers. A group that nobody asks does not stall; a group that answers others meanwhile does not either.

use std::ops::Range;

use crate::pace::Rate;
use crate::record::Record;
use crate::slots::SLOT_GROUPS;

/// In milliseconds, rounded down. `group_of` gives the slot group of a measured position.
pub(crate) fn longest_ms(
    records: &[Option<Record>],
    window: Range<usize>,
    rate: Rate,
    group_of: impl Fn(usize) -> usize,
) -> u64 {
    let mut asked = vec![Vec::new(); SLOT_GROUPS];
    let mut answered = vec![Vec::new(); SLOT_GROUPS];
    let due_us = |position: usize| rate.due_us(position as u64);
    for (position, record) in records.iter().enumerate() {
        let group = group_of(position);
        if window.contains(&position) {
            asked[group].push(due_us(position));
        }
        if let Some(record) = record.filter(|record| record.outcome.is_answer()) {
            answered[group].push(due_us(position) + u64::from(record.latency_us));
        }
    }
    let last_us = due_us(records.len());
    let longest_us = asked.iter().zip(&mut answered).map(|(asked, answered)| {
        answered.sort_unstable();
        longest_wait_us(asked, answered, last_us)
    });
    longest_us.max().unwrap_or(0) / 1_000
}

/// Both sorted.
fn longest_wait_us(asked: &[u64], answered: &[u64], last_us: u64) -> u64 {
    let mut next = 0;
    let mut longest = 0;
    for &asked_us in asked {
        while answered.get(next).is_some_and(|answer_us| *answer_us < asked_us) {
            next += 1;
        }
        let answer_us = answered.get(next).copied().unwrap_or(last_us.max(asked_us));
        longest = longest.max(answer_us - asked_us);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outcome;

    const RATE: Rate = Rate { per_second: 1_000 };

    fn record(outcome: Outcome, latency_ms: u32) -> Option<Record> {
        Some(Record {
            outcome,
            latency_us: latency_ms * 1_000,
        })
    }

    /// Plan: two groups take turns, one request a millisecond. From 100 to 200 ms the requests of group 1 all wait until
    /// 250 ms, while group 0 answers at once. From 201 ms on the requests of group 1 are answered at once, which ends the stall
    /// before the waiting ones are: it lasted 100 ms, from 101 on.
    #[test]
    fn a_group_that_stops_is_seen_although_another_goes_on() {
        let stuck = |position: usize| position % 2 == 1 && (100..200).contains(&position);
        let records: Vec<_> = (0..400usize)
            .map(|position| {
                let wait = if stuck(position) {
                    u32::try_from(250 - position).unwrap()
                } else {
                    0
                };
                record(Outcome::Hit, wait)
            })
            .collect();
        let of = |position| position % 2;
        assert_eq!(longest_ms(&records, 0..400, RATE, of), 100);
        assert_eq!(longest_ms(&records, 300..400, RATE, of), 0);
    }

    #[test]
    fn errors_are_no_answers() {
        let mut records = vec![record(Outcome::Hit, 0); 50];
        records.extend(vec![record(Outcome::GetError, 0); 70]);
        records.extend(vec![record(Outcome::Miss, 0); 50]);
        assert_eq!(longest_ms(&records, 0..170, RATE, |_| 0), 70);
    }
}
