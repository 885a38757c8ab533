//! From what was observed to what happened when: each node's part of the hot key's reads, how even the nodes' work was, and from
//! when on the reads were spread. Pure.
//!
//! A node counts the reads that it answered from copies, and only a replica has copies; the drill counts the reads of the key
//! that were answered. What no node answered from a copy, the owner answered, itself or through a replica that asked it. So a
//! replica's part is what it took off the owner, and not more.
//!
//! Counters are read at their own moments, a little apart from node to node; between two readings a counter is taken to grow
//! evenly. All times are microseconds from the first measured request.

use std::ops::Range;

use crate::hot_key::assignments::KeyRange;
use crate::hot_key::counters::NodeCounts;

/// How finely it is told when reads were spread.
pub(crate) const STEP_US: u64 = 200_000;
const SECOND_US: u64 = 1_000_000;
/// No node may answer more than this times an even part of the key's reads.
const EVEN_PART_FACTOR: f64 = 1.5;
/// With fewer reads of the key in a step its parts are chance.
const STEP_READS_MIN: u64 = 20;

/// Everything that was observed beside the records of one arm.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// The nodes' names; elsewhere they are told by their place here.
    pub(crate) nodes: Vec<String>,
    /// By node: when its counters were read, and what they said; in order of time.
    pub(crate) counts: Vec<Vec<(u64, NodeCounts)>>,
    /// When an assignment came, and what it says of the key; in order of time. The first may lie before the first request.
    pub(crate) ranges: Vec<(u64, KeyRange)>,
}

impl Observed {
    /// The newest assignment at that moment.
    pub(crate) fn range_at(&self, at_us: u64) -> Option<&KeyRange> {
        let newer = self.ranges.partition_point(|(came_us, _)| *came_us <= at_us);
        Some(&self.ranges[newer.checked_sub(1)?].1)
    }

    /// When the first assignment came, from `from_us` on, that is as asked.
    pub(crate) fn first(&self, from_us: u64, is_it: impl Fn(&KeyRange) -> bool) -> Option<u64> {
        let later = self.ranges.iter().filter(|(came_us, _)| *came_us >= from_us);
        later
            .filter(|(_, range)| is_it(range))
            .map(|(came_us, _)| *came_us)
            .next()
    }

    /// Operations that each node answered in that time; `None`: a node did not tell.
    pub(crate) fn operations(&self, span: &Range<u64>) -> Option<Vec<f64>> {
        self.grown(span, |counts| counts.operations)
    }

    /// How much a counter of each node grew.
    fn grown(&self, span: &Range<u64>, counter: fn(&NodeCounts) -> u64) -> Option<Vec<f64>> {
        let grown = |readings: &Vec<(u64, NodeCounts)>| {
            Some(value_at(readings, span.end, counter)? - value_at(readings, span.start, counter)?)
        };
        self.counts.iter().map(grown).collect()
    }

    /// Each node's part of the key's reads in that time, of which `answered` were answered; they sum to 1. `None`: too few reads to
    /// tell, or a node did not say.
    pub(crate) fn parts(&self, span: &Range<u64>, answered: u64) -> Option<Vec<f64>> {
        if answered < STEP_READS_MIN {
            return None;
        }
        let owner = &self.range_at(span.end)?.owner;
        let owner = self.nodes.iter().position(|node| node == owner)?;
        let mut copies = self.grown(span, |counts| counts.reads_of_copies)?;
        let of_copies: f64 = copies.iter().sum();
        let all = float(answered).max(of_copies);
        copies[owner] += all - of_copies;
        Some(copies.into_iter().map(|reads| reads / all).collect())
    }

    /// From which moment in `hot` on the key's reads are spread: the end of the first step in which, and in the second that begins with
    /// it, no node answered more than 1.5/n of them, n being the nodes that the assignment lets read the key, and above 1.
    pub(crate) fn spread_us(&self, hot: &Range<u64>, reads: &HotReadTimes) -> Option<u64> {
        let mut start = hot.start;
        while start + SECOND_US <= hot.end {
            let (step, second) = (start..start + STEP_US, start..start + SECOND_US);
            if self.is_spread(&step, reads) && self.is_spread(&second, reads) {
                return Some(step.end);
            }
            start += STEP_US;
        }
        None
    }

    fn is_spread(&self, span: &Range<u64>, reads: &HotReadTimes) -> bool {
        let readers = self.range_at(span.end).map_or(0, |range| 1 + range.replicas);
        let Some(parts) = self.parts(span, reads.answered(span)) else {
            return false;
        };
        let largest = parts.into_iter().fold(0.0, f64::max);
        readers > 1 && largest <= EVEN_PART_FACTOR / float(readers as u64)
    }
}

/// (max - mean) / mean of the nodes' operations: 0 is even. `None`: nothing was done.
pub(crate) fn imbalance(operations: &[f64]) -> Option<f64> {
    let sum: f64 = operations.iter().sum();
    let mean = sum / float(operations.len().max(1) as u64);
    let most = operations.iter().copied().fold(0.0, f64::max);
    (mean > 0.0).then(|| (most - mean) / mean)
}

/// A counter at a moment between two readings; `None` outside of them.
fn value_at(readings: &[(u64, NodeCounts)], at_us: u64, counter: fn(&NodeCounts) -> u64) -> Option<f64> {
    let later = readings.partition_point(|(read_us, _)| *read_us < at_us);
    let (after_us, after) = readings.get(later)?;
    let after_value = float(counter(after));
    if *after_us == at_us {
        return Some(after_value);
    }
    let (before_us, before) = &readings[later.checked_sub(1)?];
    let passed = float(at_us - before_us) / float(after_us - before_us);
    let before_value = float(counter(before));
    Some(before_value + passed * (after_value - before_value))
}

/// When reads of the hot key were answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct HotReadTimes(Vec<u64>);

impl HotReadTimes {
    pub(crate) fn new(mut answered_us: Vec<u64>) -> Self {
        answered_us.sort_unstable();
        Self(answered_us)
    }

    /// How many in that time.
    pub(crate) fn answered(&self, span: &Range<u64>) -> u64 {
        let before = |at_us: u64| self.0.partition_point(|answered_us| *answered_us < at_us);
        (before(span.end) - before(span.start)) as u64
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and times of one drill lie far below 2^52"
)]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(replicas: usize) -> KeyRange {
        KeyRange {
            is_own: true,
            owner: "n1".to_owned(),
            replicas,
            others_replicated: 0,
        }
    }

    fn counts(operations: u64, reads_of_copies: u64) -> NodeCounts {
        NodeCounts {
            operations,
            reads_of_copies,
        }
    }

    /// 1,000 reads a second, evenly.
    fn reads(seconds: u64) -> HotReadTimes {
        HotReadTimes::new((0..seconds * 1_000).map(|read| read * 1_000).collect())
    }

    /// Plan: the assignment lets n2 read the key from 2 s on. n2 answers 100 a second from 2.4 s on, and half of 1,000 a second from 4 s
    /// on. It is spread in the first step that lies after 4 s; the hundred are not enough; without n2's counter nothing is known.
    #[test]
    fn reads_are_spread_once_each_reader_answers_its_part() {
        let n2 = vec![
            (0, counts(0, 0)),
            (2_400_000, counts(0, 0)),
            (4_000_000, counts(0, 160)),
            (9_000_000, counts(0, 2_660)),
        ];
        let n1 = vec![(0, counts(0, 0)), (9_000_000, counts(0, 0))];
        let observed = Observed {
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
            counts: vec![n1, n2],
            ranges: vec![(0, range(0)), (2_000_000, range(1))],
        };
        let reads = reads(10);
        assert_eq!(observed.spread_us(&(0..8_000_000), &reads), Some(4_200_000));
        assert_eq!(
            observed.spread_us(&(0..4_900_000), &reads),
            None,
            "no whole second of it"
        );
        let parts = observed.parts(&(3_000_000..4_000_000), 1_000).unwrap();
        assert!(
            (parts[0] - 0.9).abs() < 1e-6 && (parts[1] - 0.1).abs() < 1e-6,
            "{parts:?}"
        );
        let silent = Observed {
            counts: vec![observed.counts[0].clone(), Vec::new()],
            ..observed.clone()
        };
        assert_eq!(silent.spread_us(&(0..8_000_000), &reads), None);
        let unsaid = Observed {
            ranges: vec![(0, range(0))],
            ..observed
        };
        assert_eq!(
            unsaid.spread_us(&(0..8_000_000), &reads),
            None,
            "nobody else may read it"
        );
    }

    #[test]
    fn counters_grow_evenly_between_readings_and_are_unknown_outside() {
        let readings = [(1_000, counts(10, 0)), (3_000, counts(30, 0))];
        let at = |at_us| value_at(&readings, at_us, |counts| counts.operations);
        assert_eq!(
            (at(1_000), at(2_000), at(3_000)),
            (Some(10.0), Some(20.0), Some(30.0))
        );
        assert_eq!((at(999), at(3_001)), (None, None));
    }

    #[test]
    fn imbalance_is_how_far_the_busiest_node_is_above_the_mean() {
        assert_eq!(imbalance(&[30.0, 30.0, 30.0]), Some(0.0));
        assert_eq!(imbalance(&[60.0, 15.0, 15.0]), Some(1.0));
        assert_eq!(imbalance(&[0.0, 0.0]), None);
    }
}
