//! What the index's order is for: listing a slice by class, handing out frozen entries and estimating what a slice holds,
//! none of which moka can do without walking everything or counting a use.

use softstore_sharding::{Epoch, FrequencyClass, SliceKey, Timestamp};

use super::MokaStore;
use super::stripe::{STRIPE_COUNT, stripes_of};
use crate::store::{Frozen, Listing, Part, PartStats};

/// How many stripes an estimate looks into before it asks whether it has seen enough: 1/16 of them.
const SAMPLE_STRIPES: usize = STRIPE_COUNT / 16;

/// How many entries make a sample good enough: the error is about 1/sqrt(1,024) = 3%.
const SAMPLE_ENTRIES_MIN: u64 = 1_024;

impl MokaStore {
    /// A counting sort: entries go to their class's bucket, buckets are put in the order of positions and joined.
    /// A stripe is locked for its own share of a part only.
    pub(super) fn list_parts(&self, parts: &[Part], as_of: Timestamp) -> Listing {
        let mut buckets: Vec<Vec<SliceKey>> = vec![Vec::new(); usize::from(FrequencyClass::COUNT)];
        let mut payload_bytes = 0;
        for part in parts {
            for number in stripes_of(part.slice) {
                let stripe = self.stripes.look_nth(number);
                for (at, entry) in stripe.index.range(part.slice.low()..=part.slice.last()) {
                    if entry.epoch() == part.epoch && !entry.is_expired(as_of) {
                        let class = entry.frequency().class_at(as_of, self.decay);
                        buckets[usize::from(class.get())].push(at);
                        payload_bytes += entry.payload_bytes() as u64;
                    }
                }
            }
        }
        Listing::of_buckets(buckets, payload_bytes)
    }

    pub(super) fn read_uncounted(&self, at: SliceKey, epoch: Epoch, as_of: Timestamp) -> Option<Frozen> {
        let stripe = self.stripes.look(at);
        let entry = stripe.index.get(at)?;
        let is_seen = entry.epoch() == epoch && !entry.is_expired(as_of);
        is_seen.then(|| entry.frozen(at, entry.frequency().class_at(as_of, self.decay)))
    }

    /// Counts a small part; of a large one, the share of some stripes.
    pub(super) fn estimate(&self, part: Part) -> PartStats {
        let mut counted = PartStats::default();
        let stripes: Vec<usize> = stripes_of(part.slice).collect();
        for (seen, &number) in stripes.iter().enumerate() {
            if seen >= SAMPLE_STRIPES && counted.entries >= SAMPLE_ENTRIES_MIN {
                return scaled(counted, stripes.len() as u64, seen as u64);
            }
            let stripe = self.stripes.look_nth(number);
            for (_, entry) in stripe.index.range(part.slice.low()..=part.slice.last()) {
                if entry.epoch() == part.epoch {
                    counted.entries += 1;
                    counted.bytes += entry.weight_bytes();
                }
            }
        }
        counted
    }
}

fn scaled(sample: PartStats, stripes: u64, seen: u64) -> PartStats {
    PartStats {
        entries: sample.entries * stripes / seen,
        bytes: sample.bytes * stripes / seen,
    }
}
