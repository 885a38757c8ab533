//! The moka engine at a million entries of 24 + 100 bytes: get hit and miss, set of a new key and over one. One thread;
//! keys are picked at random, so no neighbour helps. Figures include finding the key's position. `hit` reads entries that
//! are in use; `hit_after_a_while` reads each for the first time in more than a minute, which the engine tells moka.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use softstore_benches::measured::is_smoke_run;
use softstore_benches::workload::{Key, Picks, key, keys, value};
use softstore_sharding::{Epoch, SliceKey, Timestamp, Version, VersionCounter};
use softstore_store::{Absence, MokaStore, MokaStoreConfig, OpContext, Outcome, SetCondition, Store};

/// Room for the entries and for those that `set/new` adds: no eviction is measured.
const BUDGET_BYTES: u64 = 16 << 30;

/// Longer than the engine goes without telling moka of an entry's use.
const A_WHILE_MS: u64 = 100_000;

/// A prime: its multiples visit all keys, far from each other.
const SCATTER: u64 = 7_919;

fn set(store: &MokaStore, key: &[u8], value: &[u8], context: &OpContext<'_>) {
    let at = SliceKey::of_key(key);
    let stored = store.set(key, at, value, Timestamp::NEVER, SetCondition::Always, context);
    assert!(matches!(stored, Ok(Outcome::Done(_))), "{stored:?}");
}

fn is_hit(store: &MokaStore, key: &[u8], context: &OpContext<'_>) -> bool {
    matches!(
        store.get(key, SliceKey::of_key(key), context),
        Outcome::Done(Some(_))
    )
}

fn store(criterion: &mut Criterion) {
    let entries = if is_smoke_run() { 1_000 } else { 1_000_000 };
    let versions = VersionCounter::starting_at(Version::new(1));
    let context = OpContext {
        now: Timestamp::from_ms(1_000_000),
        epoch: Epoch::new(1),
        versions: &versions,
        pull: None,
        absence: Absence::Final,
    };
    let store = MokaStore::new(MokaStoreConfig {
        budget_bytes: BUDGET_BYTES,
        ..MokaStoreConfig::default()
    });
    let (present, value) = (keys(entries), value(100));
    let absent: Vec<Key> = (0..entries).map(|number| key(entries * 1_000 + number)).collect();
    for key in &present {
        set(&store, key, &value, &context);
    }
    store.maintain(context.now);

    for key in &present {
        assert!(is_hit(&store, key, &context));
    }

    let mut picks = Picks::seeded(7);
    let mut group = criterion.benchmark_group("store");
    group.bench_function("get/hit", |bencher| {
        bencher.iter(|| assert!(is_hit(&store, picks.of::<Key>(&present), &context)));
    });
    let mut now = context.now;
    group.bench_function("get/hit_after_a_while", |bencher| {
        bencher.iter_custom(|gets| {
            let mut took = Duration::ZERO;
            let mut left = gets;
            while left > 0 {
                now = now.plus_ms(A_WHILE_MS);
                store.maintain(now);
                let context = OpContext { now, ..context };
                let round = left.min(entries);
                let started = Instant::now();
                for number in 0..round {
                    let index = number * SCATTER % entries;
                    let key = &present[usize::try_from(index).expect("below a length")];
                    assert!(is_hit(&store, key, &context));
                }
                took += started.elapsed();
                left -= round;
            }
            took
        });
    });
    group.bench_function("get/miss", |bencher| {
        bencher.iter(|| assert!(!is_hit(&store, picks.of::<Key>(&absent), &context)));
    });
    group.bench_function("set/over", |bencher| {
        bencher.iter(|| set(&store, picks.of::<Key>(&present), &value, &context));
    });
    // Last, since it makes the store larger: each iteration has a key of its own.
    let mut number = entries * 1_000_000;
    group.bench_function("set/new", |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                key(number)
            },
            |key| set(&store, black_box(&key), &value, &context),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    store(&mut criterion);
    criterion.final_summary();
}
