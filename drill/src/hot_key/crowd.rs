//! Who turns to the hot key: a part of the positions, drawn by the seed.
//!
//! The crowd is there all the time, in both arms. As long as nothing is hot it reads what the warm-up read, so what it asks for is
//! in the cache already and it fills nothing. While the key is hot, the crowd of the hot arm reads that key and nothing else.
//! So the rate is the same all the time, and all other positions ask for the same and find the same in both arms: where they
//! do not, the hot key did it.

use std::ops::Range;

use rand::RngExt;

use crate::position_rng::PositionRng;
use crate::request::KeyIndex;
use crate::workload::Mix;

/// Keeps the crowd's draws apart from those for positions and sizes.
const CROWD_STREAM: u64 = 0x4352_u64 << 48;

/// A part of the positions of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Crowd {
    /// What it reads while `hot`.
    pub(crate) key: KeyIndex,
    /// Positions of the sequence, the warm-up included; empty: it never does.
    pub(crate) hot: Range<u64>,
    /// Positions before this are the warm-up; the crowd is not in it.
    pub(crate) warm_up: u64,
    /// Part of the positions, 0 to 1.
    part: f64,
    seed: u64,
}

/// What a position of the crowd asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrowdRead {
    /// The hot key.
    Hot(KeyIndex),
    /// The key that this position of the warm-up asked for.
    AsAt(u64),
}

impl Crowd {
    /// `share`: of all reads, when the other positions read and write as `mix` says.
    pub(crate) fn new(key: KeyIndex, share: f64, mix: Mix, warm_up: u64, hot: Range<u64>, seed: u64) -> Self {
        let reads = f64::from(mix.reads) / f64::from(mix.total());
        Self {
            key,
            hot,
            warm_up,
            // part / (part + (1 - part) * reads) = share
            part: share * reads / (1.0 - share + share * reads),
            seed: seed ^ CROWD_STREAM,
        }
    }

    /// Whether that position is one of the crowd's.
    pub(crate) fn has(&self, position: u64) -> bool {
        position >= self.warm_up && self.rng(position).random_bool(self.part)
    }

    /// What a position of the crowd asks for; `None`: it is not the crowd's.
    pub(crate) fn read(&self, position: u64) -> Option<CrowdRead> {
        if !self.has(position) {
            return None;
        }
        if self.hot.contains(&position) {
            return Some(CrowdRead::Hot(self.key));
        }
        if self.warm_up == 0 {
            return None;
        }
        let mut rng = self.rng(position);
        let _in_the_crowd = rng.random_bool(self.part);
        Some(CrowdRead::AsAt(rng.random_range(0..self.warm_up)))
    }

    fn rng(&self, position: u64) -> PositionRng {
        PositionRng::new(self.seed, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: Mix = Mix {
        reads: 1,
        writes: 0,
        deletes: 0,
    };

    /// Plan: a crowd of half of all reads, hot from 6,000 to 12,000 of which 1,000 are warm-up. None of it in the warm-up; half of the rest; of
    /// these the hot key exactly in that time, and before and after it only what the warm-up asked for.
    #[test]
    fn the_crowd_turns_to_the_key_and_back() {
        let crowd = Crowd::new(KeyIndex(9), 0.5, READS, 1_000, 6_000..12_000, 1);
        let read = |positions: Range<u64>| positions.map(|position| crowd.read(position)).collect::<Vec<_>>();
        assert!(read(0..1_000).iter().all(Option::is_none));
        let hot = read(6_000..12_000);
        let turned = hot.iter().flatten().count();
        assert!((2_800..3_200).contains(&turned), "{turned}");
        assert!(
            hot.iter()
                .flatten()
                .all(|read| *read == CrowdRead::Hot(KeyIndex(9)))
        );
        for cool in [read(1_000..6_000), read(12_000..17_000)] {
            let elsewhere = |read: &CrowdRead| matches!(read, CrowdRead::AsAt(position) if *position < 1_000);
            assert!(cool.iter().flatten().all(elsewhere));
            assert!((2_300..2_700).contains(&cool.iter().flatten().count()));
        }
    }

    #[test]
    fn the_share_is_of_the_reads_where_others_write() {
        let mix = Mix {
            reads: 1,
            writes: 1,
            deletes: 0,
        };
        let crowd = Crowd::new(KeyIndex(0), 0.5, mix, 0, 0..10_000, 1);
        let hot = (0..10_000)
            .filter(|position| crowd.read(*position).is_some())
            .count();
        // A third of the positions reads the key, a third something else, a third writes.
        assert!((3_200..3_470).contains(&hot), "{hot}");
    }
}
