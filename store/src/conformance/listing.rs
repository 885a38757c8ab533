//! Listings, frozen reads and estimates.

use std::collections::BTreeSet;

use softstore_sharding::{Epoch, FrequencyClass, Slice, SliceKey};

use super::rig::{CALM, Dice, PULL, Rig, Scene, all_of, class, position};
use super::{Config, Make};
use crate::store::{ImportOutcome, Outcome, Part};

/// Plan: entries of known classes over the key space; list slices, narrow ones and several at once. Each listing has
/// exactly the slice's entries, hottest class first, within a class by position, with counts and bytes that add up.
pub fn lists_by_class_and_slice(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.store.begin_pull(PULL);
    let mut expected: Vec<(u8, SliceKey)> = Vec::new();
    for number in 0..2_000_u32 {
        let key = format!("key-{number:04}");
        let class_number = u8::try_from(number % 29).expect("below 32");
        assert_eq!(
            rig.import_as(&key, "value", class(class_number)),
            ImportOutcome::Inserted
        );
        expected.push((class_number, position(&key)));
    }
    let check = |slices: &[Slice]| {
        let parts: Vec<Part> = slices
            .iter()
            .map(|&slice| Part {
                slice,
                epoch: CALM.epoch,
            })
            .collect();
        let listing = rig.store.list(&parts, rig.now());
        let mut wanted: Vec<(u8, SliceKey)> = expected
            .iter()
            .copied()
            .filter(|(_, at)| slices.iter().any(|slice| slice.contains(*at)))
            .collect();
        wanted.sort_by_key(|&(class, at)| (FrequencyClass::COUNT - class, at));
        let positions: Vec<SliceKey> = wanted.iter().map(|&(_, at)| at).collect();
        assert_eq!(listing.positions, positions, "{slices:?}");
        assert_eq!(listing.payload_bytes, positions.len() as u64 * 13);
        for number in 0..FrequencyClass::COUNT {
            let count = wanted.iter().filter(|(class, _)| *class == number).count();
            assert_eq!(listing.class_counts[usize::from(number)], count as u64);
        }
    };
    let slice = |low, last| Slice::between(SliceKey::new(low), SliceKey::new(last)).expect("ordered");
    check(&[Slice::FULL]);
    check(&[]);
    check(&[slice(1 << 60, 1 << 62)]);
    check(&[
        slice(0, 1 << 61),
        slice(7 << 61, u64::MAX),
        slice(1 << 62, 1 << 63),
    ]);
    let one = expected[17].1;
    check(&[Slice::single(one)]);
    check(&[slice(one.get() - 100, one.get() + 100)]);
}

/// Plan: keys used 1, 4 and 64 times; listed as of a moment, classes fall one per half-life; entries that expire by the
/// moment are not listed; another epoch is not.
pub fn lists_as_of_the_fence(make: Make<'_>) {
    let config = Config {
        frequency_half_life_ms: 64_000,
        ..Config::default()
    };
    let rig = Rig::new(make, config);
    for (key, uses) in [("cold", 1), ("warm", 4), ("hot", 64)] {
        rig.set(CALM, key, "v");
        for _ in 1..uses {
            rig.get(CALM, key);
        }
    }
    rig.set_until(CALM, "mortal", "v", rig.after_ms(1_000));
    rig.set(
        Scene {
            epoch: Epoch::new(5),
            ..CALM
        },
        "elsewhere",
        "v",
    );
    assert_eq!(
        ["cold", "warm", "hot"].map(|key| rig.class_of(key)),
        [Some(16), Some(18), Some(22)]
    );
    let fence = rig.after_ms(64_000);
    let listing = rig.store.list(&[all_of(CALM.epoch)], fence);
    assert_eq!(
        listing.positions,
        [position("hot"), position("warm"), position("cold")]
    );
    let counted: Vec<u64> = [15, 17, 21].map(|class| listing.class_counts[class]).into();
    assert_eq!(counted, [1, 1, 1]);
    // However much later it is read, its class is that of the fence.
    rig.advance_ms(1_000_000);
    let frozen = rig.store.read_frozen(position("hot"), CALM.epoch, fence);
    assert_eq!(frozen.map(|frozen| frozen.class), Some(class(21)));
}

/// Plan: one key read frozen a thousand times, another by get; only the second gets hotter.
pub fn frozen_reads_count_no_access(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.set(CALM, "frozen", "v");
    rig.set(CALM, "read", "v");
    for _ in 0..1_023 {
        assert!(rig.frozen("frozen").is_some());
        assert!(matches!(rig.get(CALM, "read"), Outcome::Done(Some(_))));
    }
    assert_eq!(
        (rig.class_of("frozen"), rig.class_of("read")),
        (Some(16), Some(26))
    );
}

/// Plan: a slice of 20,000 entries, one of a few, an empty one; the estimate is exact for the small and within a tenth
/// for the large.
pub fn part_stats_are_close(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    for number in 0..20_000 {
        rig.set(CALM, &format!("key-{number}"), "v");
    }
    let stats = rig.store.stats();
    let whole = rig.store.part_stats(all_of(CALM.epoch));
    assert!(whole.entries.abs_diff(20_000) < 2_000, "{whole:?}");
    assert!(whole.bytes.abs_diff(stats.bytes) < stats.bytes / 10, "{whole:?}");
    let narrow = Slice::between(SliceKey::MIN, SliceKey::new(u64::MAX / 500)).expect("ordered");
    let part = Part {
        slice: narrow,
        epoch: CALM.epoch,
    };
    let counted = rig.store.list(&[part], rig.now()).positions.len() as u64;
    assert_eq!(rig.store.part_stats(part).entries, counted);
    assert!(counted > 10);
    assert_eq!(rig.store.part_stats(all_of(Epoch::new(9))).entries, 0);
}

/// Plan: thousands of sets, overwrites, deletes and expiries at random on a few hundred keys; then a listing, whole and of
/// halves, has exactly the positions that a set beside it has.
pub fn lists_what_stands_after_many_changes(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let mut dice = Dice(11);
    let mut standing = BTreeSet::new();
    for round in 0..20_000_u32 {
        let key = format!("key-{}", dice.roll(300));
        if dice.roll(3) == 0 {
            rig.drop_key(CALM, &key);
            standing.remove(&position(&key));
        } else {
            let length = usize::try_from(dice.roll(3) * 40).expect("small");
            rig.set(CALM, &key, &"v".repeat(length));
            standing.insert(position(&key));
        }
        if round % 5_000 == 4_999 {
            let listed = |low, last| {
                let slice = Slice::between(SliceKey::new(low), SliceKey::new(last)).expect("ordered");
                let part = Part {
                    slice,
                    epoch: CALM.epoch,
                };
                BTreeSet::from_iter(rig.store.list(&[part], rig.now()).positions)
            };
            let half = u64::MAX / 2;
            let (lower, upper) = (listed(0, half), listed(half + 1, u64::MAX));
            assert!(lower.iter().all(|at| at.get() <= half) && upper.iter().all(|at| at.get() > half));
            assert_eq!(&lower | &upper, standing);
            assert_eq!(rig.store.stats().entries, standing.len() as u64);
        }
    }
}
