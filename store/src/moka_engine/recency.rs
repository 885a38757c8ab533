//! Puts entries in the order of their heat after a pull.
//!
//! A pull's imports stand in moka's LRU order as they came: hottest first, so hottest oldest, so hottest evicted first
//! by the next writes. After a pull has ended, the store therefore uses its entries once more itself, coldest first by
//! their decayed access counts, so that the hottest become the youngest. All entries, not the imports alone: they would
//! come to stand before what was used during the pull. From then on real uses move entries as ever. This counts as no
//! access; among entries used once the order of counts is that of recency, so little that LRU knew is lost.
//!
//! While it runs, the oldest are those whose turn has not come, so it is quick about it; and in a store that is less
//! than half full it does not run: by the time that one evicts, uses have long put its entries in order.
//!
//! Runs from `maintain`, in steps. moka drops read records when its buffer is full, so its pending tasks run in
//! between; a record lost all the same leaves one entry out of order and nothing else.

use softstore_sharding::{SliceKey, Timestamp};
use softstore_sync::atomic::Ordering;

use super::MokaStore;
use super::stripe::STRIPE_COUNT;
use crate::frequency::HEAT_COUNT;

/// Most entries that one step looks at to sort them, but for the last stripe of the step: about 10 ms.
const SORT_ENTRIES_MAX: usize = 65_536;

/// Most entries that one step uses: about 15 ms. A million takes 6 s at ten steps a second.
const USE_ENTRIES_MAX: usize = 16_384;

/// How many read records moka is given before its pending tasks run. Its buffer takes 384.
const READS_PER_RUN: usize = 64;

/// Where the reordering stands.
#[derive(Debug, Default)]
pub(super) enum Reordering {
    /// Nothing to do.
    #[default]
    Idle,
    /// Sorting entries by heat.
    Sorting {
        next_stripe: usize,
        buckets: Vec<Vec<SliceKey>>,
    },
    /// Using them. The coldest are at the end, from where they are taken.
    Using { hottest_first: Vec<SliceKey> },
}

impl MokaStore {
    /// One step. Says what is left.
    pub(super) fn reorder(&self, state: Reordering, now: Timestamp) -> Reordering {
        match state {
            Reordering::Idle if self.reordering_wanted.swap(false, Ordering::AcqRel) => {
                if self.gauges.bytes.load(Ordering::Relaxed) < self.ballast.room_bytes() / 2 {
                    return Reordering::Idle;
                }
                self.sort_by_heat(0, vec![Vec::new(); HEAT_COUNT], now)
            }
            Reordering::Idle => Reordering::Idle,
            Reordering::Sorting { next_stripe, buckets } => self.sort_by_heat(next_stripe, buckets, now),
            Reordering::Using { hottest_first } => self.use_coldest(hottest_first),
        }
    }

    fn sort_by_heat(
        &self,
        mut next_stripe: usize,
        mut buckets: Vec<Vec<SliceKey>>,
        now: Timestamp,
    ) -> Reordering {
        let mut looked_at = 0;
        while next_stripe < STRIPE_COUNT && looked_at < SORT_ENTRIES_MAX {
            let stripe = self.stripes.look_nth(next_stripe);
            for (at, entry) in stripe.index.iter() {
                buckets[entry.frequency().heat_at(now, self.decay)].push(at);
            }
            looked_at += stripe.index.len();
            next_stripe += 1;
        }
        if next_stripe < STRIPE_COUNT {
            return Reordering::Sorting { next_stripe, buckets };
        }
        let mut hottest_first = Vec::with_capacity(buckets.iter().map(Vec::len).sum());
        for bucket in buckets.into_iter().rev() {
            hottest_first.extend(bucket);
        }
        Reordering::Using { hottest_first }
    }

    fn use_coldest(&self, mut hottest_first: Vec<SliceKey>) -> Reordering {
        let kept = hottest_first.len().saturating_sub(USE_ENTRIES_MAX);
        for (used, at) in hottest_first.drain(kept..).rev().enumerate() {
            // An entry that is gone by now is a miss, which moka does not mind.
            self.seats.touch(at);
            if used % READS_PER_RUN == 0 {
                self.seats.apply();
            }
        }
        if hottest_first.is_empty() {
            return Reordering::Idle;
        }
        Reordering::Using { hottest_first }
    }
}
