//! The request sequence: what is asked at each position. Generated or from a trace, the same for every arm.
//!
//! Keys are dense indices here (the ledger and the slot groups are arrays over them); [`Sequence::key_bytes`] gives the
//! bytes that travel. A key's value size depends on the key alone, so that arms hold the same bytes.

use bytes::Bytes;
use rand::RngExt;
use rand_distr::{Distribution, LogNormal, Zipf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::hot_key::{Crowd, CrowdRead};
use crate::position_rng::PositionRng;
use crate::trace::Trace;
use crate::value::VALUE_BYTES_MIN;
use crate::workload::WorkloadSpec;

/// Spread of value sizes: the standard deviation of the logarithm. About two thirds lie between half the median and its double.
const VALUE_SIZE_SIGMA: f64 = 0.6;
/// No generated or traced value is larger: the default limit of a node.
pub(crate) const VALUE_BYTES_MAX: u32 = 8 << 20;
/// Keeps the streams for sizes apart from those for positions.
const SIZE_STREAM: u64 = 0x5153_u64 << 48;

/// A key as a dense index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyIndex(pub(crate) u32);

impl KeyIndex {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is done with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Get,
    Set,
    Delete,
}

/// One position's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) key: KeyIndex,
    pub(crate) kind: RequestKind,
    /// Of the value that a set, or the fill after a miss, writes.
    pub(crate) value_bytes: u32,
    /// 0: does not expire.
    pub(crate) ttl_ms: u64,
}

/// The requests of a drill, by position.
#[derive(Debug)]
pub(crate) struct Sequence {
    source: Source,
    spec: WorkloadSpec,
    seed: u64,
    /// Distinguishes the keys of runs against one standing cluster; 0 for clusters of the drill's own.
    run_nonce: u64,
    sizes: LogNormal<f64>,
    /// Whose positions ask for something else (the scenario `hot-key`).
    crowd: Option<Crowd>,
}

#[derive(Debug)]
enum Source {
    Generated { ranks: Zipf<f64> },
    Trace(Trace),
}

impl Sequence {
    /// Requires: a spec that [`crate::DrillOptions::validate`] has passed.
    pub(crate) fn generated(spec: &WorkloadSpec, seed: u64, run_nonce: u64) -> Self {
        let ranks =
            Zipf::new(f64::from(spec.keys), spec.zipf_alpha).expect("validated: keys >= 1, alpha >= 0");
        Self::new(Source::Generated { ranks }, spec, seed, run_nonce)
    }

    pub(crate) fn from_trace(trace: Trace, spec: &WorkloadSpec, seed: u64, run_nonce: u64) -> Self {
        Self::new(Source::Trace(trace), spec, seed, run_nonce)
    }

    fn new(source: Source, spec: &WorkloadSpec, seed: u64, run_nonce: u64) -> Self {
        let sizes = LogNormal::new(f64::from(spec.value_bytes_median.max(1)).ln(), VALUE_SIZE_SIGMA)
            .expect("a positive, finite spread");
        Self {
            source,
            spec: spec.clone(),
            seed,
            run_nonce,
            sizes,
            crowd: None,
        }
    }

    /// The same, but for the positions of a crowd.
    pub(crate) fn with_crowd(self, crowd: Crowd) -> Self {
        Self {
            crowd: Some(crowd),
            ..self
        }
    }

    /// Whether a position is a crowd's.
    pub(crate) fn is_crowd(&self, position: u64) -> bool {
        self.crowd.as_ref().is_some_and(|crowd| crowd.has(position))
    }

    /// Number of positions; `None`: without end.
    pub(crate) fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Generated { .. } => None,
            Source::Trace(trace) => Some(trace.requests()),
        }
    }

    /// Distinct keys; every [`KeyIndex`] lies below.
    pub(crate) fn keys(&self) -> u32 {
        match &self.source {
            Source::Generated { .. } => self.spec.keys,
            Source::Trace(trace) => trace.keys(),
        }
    }

    /// The request at a position.
    ///
    /// Requires: a position below [`Self::length`].
    pub(crate) fn at(&self, position: u64) -> Request {
        match self.crowd.as_ref().and_then(|crowd| crowd.read(position)) {
            None => self.own(position),
            Some(CrowdRead::Hot(key)) => self.get(key),
            Some(CrowdRead::AsAt(earlier)) => self.get(self.own(earlier).key),
        }
    }

    fn get(&self, key: KeyIndex) -> Request {
        Request {
            key,
            kind: RequestKind::Get,
            value_bytes: self.value_bytes(key),
            ttl_ms: self.spec.ttl_ms_max,
        }
    }

    /// The request at a position if there is no crowd.
    fn own(&self, position: u64) -> Request {
        let mut rng = PositionRng::new(self.seed, position);
        match &self.source {
            Source::Generated { ranks } => {
                let key = rank_to_key(ranks.sample(&mut rng), self.spec.keys);
                Request {
                    key,
                    kind: self.draw_kind(&mut rng),
                    value_bytes: self.value_bytes(key),
                    ttl_ms: self.draw_ttl_ms(&mut rng),
                }
            }
            Source::Trace(trace) => {
                let row = trace.at(position);
                Request {
                    key: row.key,
                    kind: row.kind,
                    value_bytes: row.value_bytes.unwrap_or_else(|| self.value_bytes(row.key)),
                    ttl_ms: row.ttl_ms,
                }
            }
        }
    }

    fn draw_kind(&self, rng: &mut PositionRng) -> RequestKind {
        let mix = self.spec.mix;
        let draw = rng.random_range(0..mix.total());
        if draw < mix.reads {
            RequestKind::Get
        } else if draw < mix.reads + mix.writes {
            RequestKind::Set
        } else {
            RequestKind::Delete
        }
    }

    fn draw_ttl_ms(&self, rng: &mut PositionRng) -> u64 {
        if self.spec.ttl_ms_min == 0 {
            0
        } else {
            rng.random_range(self.spec.ttl_ms_min..=self.spec.ttl_ms_max)
        }
    }

    /// The size of a key's value where the trace names none: log-normal, drawn from the key.
    pub(crate) fn value_bytes(&self, key: KeyIndex) -> u32 {
        let mut rng = PositionRng::new(self.seed ^ SIZE_STREAM, u64::from(self.size_id(key)));
        let bytes = self
            .sizes
            .sample(&mut rng)
            .clamp(f64::from(VALUE_BYTES_MIN), f64::from(VALUE_BYTES_MAX));
        #[expect(clippy::cast_possible_truncation, reason = "clamped to a range within u32")]
        let bytes = bytes as u32;
        bytes
    }

    /// What a key's size is drawn from: an object's own id where a trace has one, so that it does not hang on the order.
    fn size_id(&self, key: KeyIndex) -> u32 {
        match &self.source {
            Source::Generated { .. } => key.0,
            Source::Trace(trace) => trace.object_id(key),
        }
    }

    /// The bytes of a key: 16 hexadecimal digits, padded to the configured length.
    pub(crate) fn key_bytes(&self, key: KeyIndex) -> Bytes {
        let id = xxh3_64_with_seed(&key.0.to_le_bytes(), self.run_nonce);
        let mut text = format!("{id:016x}").into_bytes();
        text.resize(self.key_length(), b'.');
        Bytes::from(text)
    }

    /// The length of every key in bytes.
    pub(crate) fn key_length(&self) -> usize {
        self.spec.key_bytes.max(16)
    }

    /// Bytes of keys and values if every key is held.
    pub(crate) fn state_bytes_max(&self) -> u64 {
        (0..self.keys())
            .map(|key| u64::from(self.largest_value_bytes(KeyIndex(key))) + self.spec.key_bytes as u64)
            .sum()
    }

    fn largest_value_bytes(&self, key: KeyIndex) -> u32 {
        match &self.source {
            Source::Generated { .. } => self.value_bytes(key),
            Source::Trace(trace) => trace
                .largest_value_bytes(key)
                .unwrap_or_else(|| self.value_bytes(key)),
        }
    }
}

/// Zipf's ranks start at 1; a key is its rank less one.
fn rank_to_key(rank: f64, keys: u32) -> KeyIndex {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a sample lies between 1 and `keys`, a u32"
    )]
    let rank = rank as u32;
    KeyIndex(rank.clamp(1, keys) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Mix, Preset};

    fn requests(spec: &WorkloadSpec, seed: u64, count: u64) -> Vec<Request> {
        let sequence = Sequence::generated(spec, seed, 0);
        (0..count).map(|position| sequence.at(position)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_sequence_and_another_seed_another() {
        let spec = WorkloadSpec::preset(Preset::Invalidation);
        assert_eq!(requests(&spec, 7, 2_000), requests(&spec, 7, 2_000));
        assert_ne!(requests(&spec, 7, 2_000), requests(&spec, 8, 2_000));
    }

    /// Plan: draw 100,000 requests of a mixed, skewed load; the shares of operations, the share of the first key (for Zipf
    /// 1/H(n)) and the median size must lie near what was asked for.
    #[test]
    fn generated_shares_match_the_spec() {
        let spec = WorkloadSpec {
            keys: 1_000,
            zipf_alpha: 1.0,
            mix: Mix {
                reads: 6,
                writes: 3,
                deletes: 1,
            },
            ..WorkloadSpec::default()
        };
        let drawn = requests(&spec, 1, 100_000);
        let share = |test: &dyn Fn(&Request) -> bool| {
            drawn.iter().filter(|request| test(request)).count() as f64 / drawn.len() as f64
        };
        assert!((share(&|request| request.kind == RequestKind::Get) - 0.6).abs() < 0.01);
        assert!((share(&|request| request.kind == RequestKind::Delete) - 0.1).abs() < 0.01);
        let harmonic: f64 = (1..=1_000).map(|rank| 1.0 / f64::from(rank)).sum();
        assert!((share(&|request| request.key == KeyIndex(0)) - 1.0 / harmonic).abs() < 0.01);
        let sequence = Sequence::generated(&spec, 1, 0);
        let mut sizes: Vec<_> = (0..1_000)
            .map(|key| sequence.value_bytes(KeyIndex(key)))
            .collect();
        sizes.sort_unstable();
        assert!((200..260).contains(&sizes[500]), "median {}", sizes[500]);
    }

    #[test]
    fn keys_have_the_asked_length_and_differ() {
        let spec = WorkloadSpec {
            key_bytes: 19,
            ..WorkloadSpec::default()
        };
        let sequence = Sequence::generated(&spec, 1, 0);
        let keys: std::collections::HashSet<_> =
            (0..1_000).map(|key| sequence.key_bytes(KeyIndex(key))).collect();
        assert_eq!(keys.len(), 1_000);
        assert!(keys.iter().all(|key| key.len() == 19));
    }
}
