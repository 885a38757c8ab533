//! The byte budget: what it refuses, what it evicts, and what it must not.

use softstore_sharding::{FrequencyClass, Timestamp};

use super::rig::{ASKED, CALM, Dice, PULL, PULLING, Rig, class, importable};
use super::{Config, Make};
use crate::store::{ImportOutcome, Outcome, SetCondition, SetOutcome};

const SMALL: Config = Config {
    budget_bytes: 4 << 20,
    value_bytes_max: 1 << 20,
    frequency_half_life_ms: 300_000,
    written_keys_max: 100_000,
};

/// Plan: four times what fits, under skewed reads that make a part of it very hot; then fresh keys are set, each among
/// more hot reads. Each must read back at once: an admission policy that prefers the hot would refuse them.
pub fn an_acknowledged_set_is_readable_when_full_and_hot(make: Make<'_>) {
    let rig = Rig::new(make, SMALL);
    let mut dice = Dice(1);
    let value = "v".repeat(500);
    let held = (SMALL.budget_bytes / 500).max(1);
    for number in 0..4 * held {
        rig.set(CALM, &format!("key-{number}"), &value);
        for _ in 0..4 {
            let hot = 4 * held - dice.roll_skewed(held) - 1;
            rig.get(CALM, &format!("key-{hot}"));
        }
    }
    assert!(rig.store.stats().evicted > held);
    let mut missed = 0;
    for number in 0..500 {
        let fresh = format!("fresh-{number}");
        rig.set(CALM, &fresh, &value);
        // Whatever is deferred inside the engine comes due.
        if number % 10 == 0 {
            rig.store.maintain(rig.now());
        }
        for _ in 0..20 {
            let hot = 4 * held - dice.roll_skewed(held) - 1;
            rig.get(CALM, &format!("key-{hot}"));
        }
        missed += u32::from(rig.value(CALM, &fresh).is_none());
    }
    assert_eq!(missed, 0, "of 500 acknowledged sets");
}

/// Plan: ten times the budget in entries of mixed sizes; after each write what is counted stays within a few percent
/// above the budget, and in the end what is counted is what is listed. Most of the budget is used.
pub fn the_budget_is_kept(make: Make<'_>) {
    let rig = Rig::new(make, SMALL);
    let mut dice = Dice(2);
    let mut written = 0;
    let mut number = 0;
    while written < 10 * SMALL.budget_bytes {
        let bytes = match dice.roll(100) {
            0 => 100_000,
            1..10 => 10_000,
            _ => dice.roll(500),
        };
        let value = "v".repeat(usize::try_from(bytes).expect("small"));
        rig.set(CALM, &format!("key-{}", dice.roll(50_000)), &value);
        written += bytes;
        number += 1;
        let stats = rig.store.stats();
        assert!(
            stats.bytes <= SMALL.budget_bytes + SMALL.budget_bytes / 20,
            "{} of {} bytes after {number} writes",
            stats.bytes,
            SMALL.budget_bytes
        );
    }
    rig.maintain_fully();
    let stats = rig.store.stats();
    assert!(stats.bytes > SMALL.budget_bytes / 4 * 3, "{stats:?}");
    assert_eq!(stats.entries, rig.list(CALM.epoch).positions.len() as u64);
}

/// Plan: a store that evicts all the time, also while it is only read; whenever a key reads as absent, a touch and a
/// conditional set find it absent too, whatever the engine has yet to tidy up.
pub fn absent_to_a_read_is_absent_to_a_write(make: Make<'_>) {
    let config = Config {
        budget_bytes: 128 << 10,
        ..Config::default()
    };
    let rig = Rig::new(make, config);
    let mut dice = Dice(3);
    let value = "v".repeat(300);
    let key = |number: u64| format!("key-{number}");
    for _ in 0..50 {
        for _ in 0..60 {
            rig.set(CALM, &key(dice.roll(500)), &value);
        }
        let mut absent = Vec::new();
        for number in 0..500 {
            if rig.value(CALM, &key(number)).is_none() {
                let touched = rig.touch(CALM, &key(number), Timestamp::NEVER);
                assert_eq!(touched, Outcome::Done(false));
                absent.push(number);
            }
        }
        let added = absent[0];
        assert!(matches!(
            rig.set_if(CALM, &key(added), &value, SetCondition::IfAbsent),
            Outcome::Done(SetOutcome::Stored(_))
        ));
    }
}

/// Plan: a store full of small entries, then values of a fifth of it. Each is readable when set, and enough goes.
pub fn large_values_make_their_room(make: Make<'_>) {
    let rig = Rig::new(make, SMALL);
    for number in 0..20_000 {
        rig.set(CALM, &format!("small-{number}"), "v");
    }
    let large = "v".repeat(usize::try_from(SMALL.budget_bytes / 5).expect("small"));
    for number in 0..20 {
        let key = format!("large-{number}");
        rig.set(CALM, &key, &large);
        assert_eq!(rig.value(CALM, &key).map(|value| value.len()), Some(large.len()));
        let stats = rig.store.stats();
        assert!(
            stats.bytes <= SMALL.budget_bytes + SMALL.budget_bytes / 20,
            "{stats:?}"
        );
    }
}

/// Plan: a store full of its own entries of class 16. Imports of class 20 displace them, those of class 12 are refused
/// without evicting anything, but one that an operation waits for gets in.
pub fn a_full_store_takes_hotter_imports_only(make: Make<'_>) {
    let rig = Rig::new(make, SMALL);
    let value = "v".repeat(1_000);
    for number in 0..8_000 {
        rig.set(CALM, &format!("own-{number}"), &value);
    }
    rig.maintain_fully();
    rig.store.begin_pull(PULL);
    let import = |prefix: &str, number: u32, class: FrequencyClass| {
        rig.import_as(&format!("{prefix}-{number}"), &value, class)
    };
    // Fills the slack below the budget.
    let mut number = 0;
    while import("slack", number, class(16)) == ImportOutcome::Inserted {
        number += 1;
        assert!(number < 1_000, "what is no hotter must be refused in the end");
    }
    let evicted = rig.store.stats().evicted;
    for number in 0..100 {
        assert_eq!(import("cold", number, class(12)), ImportOutcome::TooCold);
    }
    assert_eq!(rig.store.stats().evicted, evicted);
    for number in 0..500 {
        assert_eq!(import("hot", number, class(20)), ImportOutcome::Inserted);
    }
    rig.maintain_fully();
    assert!(rig.store.stats().evicted >= evicted + 400);
    let peeked = |key: &str| {
        rig.store
            .import_peeked(PULL, PULLING.epoch, rig.now(), &importable(key, &value))
    };
    for number in 0..200 {
        let key = format!("peeked-{number}");
        assert_eq!(peeked(&key), ImportOutcome::Inserted);
        assert!(rig.value(ASKED, &key).is_some());
    }
}

/// Plan: a store full of entries gets a quarter of its budget, while an eighth of its entries is in use, and then all again.
/// Housekeeping brings it below the smaller one without losing what is in use; what is set is readable throughout; with
/// the whole budget it fills up again, and more than it was made for it never takes.
pub fn another_budget_is_followed(make: Make<'_>) {
    let rig = Rig::new(make, SMALL);
    let value = "v".repeat(1_000);
    let count = SMALL.budget_bytes / 1_500;
    let fill = |prefix: &str| {
        for number in 0..2 * count {
            rig.set(CALM, &format!("{prefix}-{number}"), &value);
            assert!(rig.value(CALM, &format!("{prefix}-{number}")).is_some());
        }
        rig.maintain_fully();
        let stats = rig.store.stats();
        assert!(
            stats.bytes <= stats.budget_bytes + stats.budget_bytes / 20,
            "{stats:?}"
        );
        assert!(stats.bytes > stats.budget_bytes / 4 * 3, "{stats:?}");
    };
    fill("first");
    let used = |number: u64| format!("first-{}", 2 * count - 1 - number);
    let evicted = rig.store.stats().evicted;
    rig.store.set_budget(SMALL.budget_bytes / 4);
    for _ in 0..8 {
        assert!((0..count / 8).all(|number| rig.value(CALM, &used(number)).is_some()));
        rig.maintain_fully();
    }
    let stats = rig.store.stats();
    assert_eq!(stats.budget_bytes, SMALL.budget_bytes / 4);
    assert!(
        stats.bytes <= stats.budget_bytes + stats.budget_bytes / 20,
        "{stats:?}"
    );
    assert!(stats.evicted > evicted);
    fill("second");
    rig.store.set_budget(2 * SMALL.budget_bytes);
    assert_eq!(rig.store.stats().budget_bytes, SMALL.budget_bytes);
    fill("third");
}

/// Plan: an empty store is pulled full, hottest class first; then the pull ends and fresh writes displace a third of it.
/// What is left of the imports is the hotter part, and what was read much during the pull.
pub fn the_hottest_imports_outlive_the_pull(make: Make<'_>) {
    let rig = Rig::new(make, SMALL);
    rig.store.begin_pull(PULL);
    let value = "v".repeat(1_000);
    let mut imported = 0_u32;
    let class_at = |number: u32| class(u8::try_from(30 - (number / 200).min(30)).expect("small"));
    while rig.import_as(&format!("key-{imported}"), &value, class_at(imported)) == ImportOutcome::Inserted {
        imported += 1;
        assert!(imported < 100_000, "a full store must refuse colder imports");
    }
    assert!(imported > 2_000);
    // A few of the coldest turn out hot while the pull is on.
    let used = imported - 20..imported;
    for number in used.clone().cycle().take(20 * 100) {
        assert!(rig.value(PULLING, &format!("key-{number}")).is_some());
    }
    rig.store.end_pull(PULL);
    rig.maintain_fully();
    for number in 0..imported / 3 {
        rig.set(CALM, &format!("fresh-{number}"), &value);
    }
    rig.maintain_fully();
    let is_held = |number: u32| matches!(rig.get(CALM, &format!("key-{number}")), Outcome::Done(Some(_)));
    let held = |numbers: std::ops::Range<u32>| {
        let count = numbers.end - numbers.start;
        let held = numbers.filter(|&number| is_held(number)).count();
        held * 100 / usize::try_from(count).expect("small")
    };
    let percent_hottest = held(0..imported / 2);
    let hottest_lost = (0..200).filter(|&number| !is_held(number)).count();
    assert!(hottest_lost <= 10, "{hottest_lost} of the 200 hottest");
    let percent_coldest = held(imported * 4 / 5..imported - 20);
    assert!(percent_hottest >= 90, "{percent_hottest}% of the hottest half");
    assert!(percent_coldest <= 10, "{percent_coldest}% of the coldest fifth");
    assert_eq!(held(used), 100);
}
