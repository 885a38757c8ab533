//! [`Truth`]: the load of one round as it is, to weigh ranges by. It knows nothing of how the planner weighs them.

use softstore_sharding::sharder::auto::{HotSpot, Part};
use softstore_sharding::{Slice, SliceKey};

/// Load, bytes and hits of a range.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Weight {
    pub(super) load: f64,
    pub(super) bytes: f64,
    pub(super) hits: f64,
}

impl Weight {
    fn add(&mut self, load: f64, bytes: f64, hits: f64) {
        self.load += load;
        self.bytes += bytes;
        self.hits += hits;
    }

    fn minus(self, other: Self) -> Self {
        Self {
            load: self.load - other.load,
            bytes: self.bytes - other.bytes,
            hits: self.hits - other.hits,
        }
    }
}

/// The load of one round.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    /// Complete and in order, without the keys' load.
    parts: Vec<Part>,
    /// In order.
    keys: Vec<HotSpot>,
    parts_before: Vec<Weight>,
    keys_before: Vec<Weight>,
    hit_part: f64,
}

impl Truth {
    pub(super) fn new(parts: Vec<Part>, mut keys: Vec<HotSpot>, hit_part: f64) -> Self {
        keys.sort_by_key(|key| key.at);
        keys.dedup_by_key(|key| key.at);
        let mut sum = Weight::default();
        let mut parts_before = vec![sum];
        for part in &parts {
            sum.add(part.load, part.bytes, part.hits);
            parts_before.push(sum);
        }
        let mut sum = Weight::default();
        let mut keys_before = vec![sum];
        for key in &keys {
            sum.add(key.load, key.bytes, key.load * hit_part);
            keys_before.push(sum);
        }
        Self {
            parts,
            keys,
            parts_before,
            keys_before,
            hit_part,
        }
    }

    /// What lies below a position.
    fn below(&self, position: u128) -> Weight {
        let in_order = |part: &Part| u128::from(part.slice.low().get()) < position;
        let index = self.parts.partition_point(in_order);
        let keys = self
            .keys
            .partition_point(|key| u128::from(key.at.get()) < position);
        let mut sum = self.keys_before[keys];
        let Some(last) = index.checked_sub(1) else {
            return sum;
        };
        let part = &self.parts[last];
        let into = (position - u128::from(part.slice.low().get())) as f64;
        let part_of_it = (into / part.slice.width() as f64).min(1.0);
        let before = self.parts_before[last];
        sum.add(before.load, before.bytes, before.hits);
        sum.add(
            part.load * part_of_it,
            part.bytes * part_of_it,
            part.hits * part_of_it,
        );
        sum
    }

    pub(super) fn of(&self, slice: Slice) -> Weight {
        let low = u128::from(slice.low().get());
        let weight = self.below(low + slice.width()).minus(self.below(low));
        Weight {
            load: weight.load.max(0.0),
            bytes: weight.bytes.max(0.0),
            hits: weight.hits.max(0.0),
        }
    }

    /// A range, cut where parts meet: what its owner reports of it.
    pub(super) fn cuts(&self, slice: Slice) -> impl Iterator<Item = Slice> {
        let first = self.parts.partition_point(|part| part.slice.last() < slice.low());
        let parts = self.parts[first..].iter();
        parts.map_while(move |part| part.slice.intersect(slice))
    }

    pub(super) fn total(&self) -> Weight {
        self.of(Slice::FULL)
    }

    /// Its parts, and its keys, whose load is not in the parts'.
    pub(super) fn apart(&self) -> (Vec<Part>, Vec<HotSpot>) {
        (self.parts.clone(), self.keys.clone())
    }

    /// What nodes report: each part with the load of the keys in it, and the hottest keys.
    pub(super) fn reported(&self, keys_max: usize) -> (Vec<Part>, Vec<HotSpot>) {
        let parts = self.parts.iter().map(|part| {
            let weight = self.of(part.slice);
            Part {
                slice: part.slice,
                load: weight.load,
                bytes: weight.bytes,
                hits: weight.hits,
            }
        });
        let mut keys = self.keys.clone();
        keys.sort_by(|a, b| b.load.total_cmp(&a.load).then(a.at.cmp(&b.at)));
        keys.truncate(keys_max);
        (parts.collect(), keys)
    }

    /// The same keys and parts, each with its load wavering.
    pub(super) fn wavering(&self, mut factor: impl FnMut() -> f64) -> Self {
        let mut parts = self.parts.clone();
        for part in &mut parts {
            let by = factor();
            part.load *= by;
            part.hits *= by;
        }
        let mut keys = self.keys.clone();
        for key in &mut keys {
            key.load *= factor();
        }
        Self::new(parts, keys, self.hit_part)
    }
}

/// Equal parts of the key space, with nothing in them.
pub(super) fn equal_parts(count: u32) -> Vec<Part> {
    let count = u128::from(count.max(1));
    let border = |index: u128| {
        u64::try_from((1_u128 << 64) / count * index + (1_u128 << 64) % count * index / count)
            .unwrap_or(u64::MAX)
    };
    let slice = |index: u128| {
        let low = SliceKey::new(border(index));
        let high = (index + 1 < count).then(|| SliceKey::new(border(index + 1)));
        Slice::new(low, high)
    };
    let parts = (0..count).filter_map(slice).map(|slice| Part {
        slice,
        load: 0.0,
        bytes: 0.0,
        hits: 0.0,
    });
    parts.collect()
}
