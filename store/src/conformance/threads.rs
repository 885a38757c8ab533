//! Many threads at once on few keys. Interleavings are the scheduler's; each property holds in all of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use softstore_sharding::Timestamp;

use super::rig::{ASKED, CALM, Dice, PULL, PULLING, Rig, all_of, importable, position};
use super::{Config, Make};
use crate::store::{ImportOutcome, Outcome};

const KEYS: u64 = 64;
const WRITERS: u64 = 4;
const IMPORTERS: u64 = 3;
const ROUNDS: u64 = 4_000;

/// H3. Plan: writers set and delete, importers bring old values of the same keys, over and over. In the end each key has
/// been written, so no old value stands, and no import of one is taken any more.
pub fn no_import_stands_over_a_write(make: Make<'_>) {
    import_race(make, Config::default());
}

/// H3. The same in a store so small that writes are evicted all the time.
pub fn no_import_stands_over_an_evicted_write(make: Make<'_>) {
    let config = Config {
        budget_bytes: 16 << 10,
        ..Config::default()
    };
    import_race(make, config);
}

fn import_race(make: Make<'_>, config: Config) {
    for seed in 0..4 {
        let rig = Rig::new(make, config);
        rig.store.begin_pull(PULL);
        let key = |number: u64| format!("key-{number}");
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let rig = &rig;
                scope.spawn(move || {
                    let mut dice = Dice(seed * 100 + writer);
                    for _ in 0..ROUNDS {
                        // Each key is written late by one thread and early by another, so that imports meet both.
                        let key = key(dice.roll(KEYS));
                        if dice.roll(3) == 0 {
                            rig.drop_key(PULLING, &key);
                        } else {
                            rig.set(PULLING, &key, "new");
                        }
                        let seen = rig.value(ASKED, &key);
                        assert_ne!(seen.as_deref(), Some("old"), "an import replaced a write");
                    }
                });
            }
            for importer in 0..IMPORTERS {
                let rig = &rig;
                scope.spawn(move || {
                    let mut dice = Dice(seed * 100 + 50 + importer);
                    for _ in 0..ROUNDS {
                        let key = key(dice.roll(KEYS));
                        let outcome = rig.import(&key, "old");
                        let is_known = matches!(
                            outcome,
                            ImportOutcome::Inserted
                                | ImportOutcome::Present
                                | ImportOutcome::Written
                                | ImportOutcome::TooCold
                        );
                        assert!(is_known, "{outcome:?}");
                    }
                });
            }
            let rig = &rig;
            scope.spawn(move || {
                for _ in 0..200 {
                    rig.store.maintain(rig.now());
                }
            });
        });
        for number in 0..KEYS {
            assert!(rig.store.is_written(PULL, position(&key(number))));
            assert_eq!(rig.import(&key(number), "old"), ImportOutcome::Written);
            assert_ne!(rig.value(ASKED, &key(number)).as_deref(), Some("old"));
        }
    }
}

/// H2, H4 at the level of one store. Plan: writers overwrite, delete and touch a few keys while readers that take no
/// part follow them; per key and reader, versions never step back. Values carry their key, so that no reader is handed
/// another's. In a store that evicts, too.
pub fn readers_never_see_a_version_go_back(make: Make<'_>) {
    for budget_bytes in [1 << 20, 16 << 10] {
        let config = Config {
            budget_bytes,
            ..Config::default()
        };
        let rig = Rig::new(make, config);
        let writers_left = AtomicU64::new(3);
        let hits = AtomicU64::new(0);
        thread::scope(|scope| {
            for writer in 0..3 {
                let (rig, writers_left) = (&rig, &writers_left);
                scope.spawn(move || {
                    let mut dice = Dice(writer);
                    for _ in 0..20_000 {
                        let key = format!("key-{}", dice.roll(40));
                        match dice.roll(10) {
                            0 => drop(rig.drop_key(CALM, &key)),
                            1 => drop(rig.touch(CALM, &key, Timestamp::NEVER)),
                            _ => drop(rig.set(CALM, &key, &key)),
                        }
                    }
                    writers_left.fetch_sub(1, Ordering::Release);
                });
            }
            for reader in 0..2 {
                let (rig, writers_left, hits) = (&rig, &writers_left, &hits);
                scope.spawn(move || {
                    let mut dice = Dice(1_000 + reader);
                    let mut seen = vec![0; 40];
                    while writers_left.load(Ordering::Acquire) > 0 {
                        let number = usize::try_from(dice.roll(40)).expect("small");
                        let key = format!("key-{number}");
                        if let Outcome::Done(Some(found)) = rig.get(CALM, &key) {
                            assert_eq!(&found.value[..], key.as_bytes());
                            assert!(found.version.get() >= seen[number], "a version went back");
                            seen[number] = found.version.get();
                            hits.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(hits.load(Ordering::Relaxed) > 0);
    }
}

/// Plan: threads add to a few counters at once; the sums come out.
pub fn counters_lose_nothing(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..10_000 {
                    let key = format!("counter-{}", round % 5);
                    assert!(matches!(rig.add(CALM, &key, 1), Ok(Outcome::Done(_))));
                }
            });
        }
    });
    for number in 0..5 {
        let sum = rig.value(CALM, &format!("counter-{number}"));
        assert_eq!(sum.as_deref(), Some("8000"));
    }
}

/// Plan: everything at once in a store that evicts, expires and purges; when all is quiet, the gauges say what a listing
/// says, what is listed can be read, and no more.
pub fn gauges_agree_when_all_is_done(make: Make<'_>) {
    let config = Config {
        budget_bytes: 256 << 10,
        ..Config::default()
    };
    let rig = Rig::new(make, config);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let rig = &rig;
                scope.spawn(move || {
                    let mut dice = Dice(worker);
                    for _ in 0..10_000 {
                        let key = format!("key-{}", dice.roll(2_000));
                        match dice.roll(10) {
                            0 => drop(rig.drop_key(CALM, &key)),
                            1 => drop(rig.set_until(CALM, &key, "brief", rig.after_ms(3))),
                            2 => drop(rig.get(CALM, &key)),
                            3 => rig.advance_ms(1),
                            _ => drop(rig.set(CALM, &key, &"v".repeat(200))),
                        }
                    }
                })
            })
            .collect();
        let (rig, is_done) = (&rig, &is_done);
        scope.spawn(move || {
            while !is_done.load(Ordering::Acquire) {
                rig.store.maintain(rig.now());
            }
        });
        for worker in workers {
            worker.join().expect("a worker found a fault");
        }
        is_done.store(true, Ordering::Release);
    });
    rig.advance_ms(1_000);
    rig.maintain_fully();
    let stats = rig.store.stats();
    let listing = rig.store.list(&[all_of(CALM.epoch)], rig.now());
    assert_eq!(stats.entries, listing.positions.len() as u64);
    assert!(stats.bytes <= config.budget_bytes);
    let readable = (0..2_000)
        .filter(|number| rig.value(CALM, &format!("key-{number}")).is_some())
        .count();
    assert_eq!(readable as u64, stats.entries);
    for number in 0..2_000 {
        rig.drop_key(CALM, &format!("key-{number}"));
    }
    rig.maintain_fully();
    assert_eq!((rig.store.stats().entries, rig.store.stats().bytes), (0, 0));
    // The budget's gauges do not drift, so what they say now is true of an empty store.
    rig.store.begin_pull(PULL);
    assert_eq!(
        rig.import_whole(PULL, &importable("k", "v")),
        ImportOutcome::Inserted
    );
    assert_eq!(rig.store.stats().entries, 1);
}
