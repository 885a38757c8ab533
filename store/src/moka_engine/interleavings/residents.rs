//! What is resident: the index, moka's seats and the gauges agree, whatever was evicted, expired or purged meanwhile.

use softstore_sharding::Epoch;
use softstore_sync::explore::{explore, find, roll};
use softstore_sync::planted::Race;

use super::rig::{
    AMPLE_BYTES, CALM, NOW, Rig, SCHEDULES, SCHEDULES_MAX, Scene, TIGHT_BYTES, all_of, side_by_side,
};
use crate::store::Store;

/// More than any scenario holds: a gauge that stands above it has gone below nothing.
const BELOW_NOTHING: u64 = 1 << 40;

/// A value that takes more room than a short one.
const LONG: &str =
    "a value that is too long for the size class of the short ones, by some ten or twenty bytes and more";

/// Plan: in a store with room for three, threads set, overwrite by other lengths, delete and purge, and one keeps house,
/// while the gauges are looked at. They never fall below nothing. When all is quiet, moka knows just what is resident and
/// the gauges count just that; when all is deleted, they say nothing.
fn everything_at_once() {
    let rig = Rig::new(TIGHT_BYTES);
    rig.set(CALM, 0, "first");
    let change = |keys: [u64; 3]| {
        for key in keys {
            match roll(4) {
                0 => _ = rig.delete(CALM, key),
                1 => _ = rig.set(CALM, key, LONG),
                _ => _ = rig.set(CALM, key, "v"),
            }
        }
    };
    let keep_house = || {
        rig.store.purge(all_of(CALM.epoch));
        rig.store.maintain(NOW);
    };
    let look = || {
        for _ in 0..3 {
            let stats = rig.store.stats();
            assert!(
                stats.bytes < BELOW_NOTHING && stats.entries < BELOW_NOTHING,
                "{stats:?}"
            );
        }
    };
    side_by_side(&[&|| change([0, 1, 2]), &|| change([2, 0, 4]), &keep_house, &look]);
    rig.store.check_seats();
    for key in 0..5 {
        rig.delete(CALM, key);
    }
    let stats = rig.store.stats();
    assert_eq!((stats.entries, stats.bytes), (0, 0));
    rig.store.check_seats();
}

#[test]
fn gauges_add_up() {
    explore(SCHEDULES, everything_at_once);
}

#[test]
fn an_entry_counted_out_unseen_is_found() {
    find(Race::CountedOutUnseen, SCHEDULES_MAX, everything_at_once);
}

/// Plan: a store with room for three is written to by two threads, the same keys again and again, and read from. Evictions
/// are noted late, after the key was set again. Every entry that stays has its seat, and every seat its entry.
fn evictions_against_overwrites() {
    let rig = Rig::new(TIGHT_BYTES);
    let write = |keys: &[u64]| {
        for &key in keys {
            rig.set(CALM, key, "v");
        }
    };
    side_by_side(&[&|| write(&[0, 2, 4, 6, 0]), &|| write(&[6, 0, 2, 8, 0]), &|| {
        drop(rig.get(CALM, 0))
    }]);
    rig.store.check_seats();
}

#[test]
fn seats_and_entries_agree() {
    explore(SCHEDULES, evictions_against_overwrites);
}

#[test]
fn an_eviction_of_whatever_stands_is_found() {
    find(
        Race::EvictionOfWhateverStands,
        SCHEDULES_MAX,
        evictions_against_overwrites,
    );
}

#[test]
fn a_mark_wiped_after_its_notes_is_found() {
    find(
        Race::MarkWipedAfterNotes,
        SCHEDULES_MAX,
        evictions_against_overwrites,
    );
}

/// Plan: a key has expired. One thread reads it, which reclaims it, one keeps house, and one sets it anew: what was set
/// stays.
fn expiry_against_a_set() {
    let rig = Rig::new(AMPLE_BYTES);
    rig.set_until(CALM, 0, "brief", NOW.plus_ms(1));
    let later = Scene {
        now: NOW.plus_ms(2),
        ..CALM
    };
    side_by_side(&[
        &|| assert_ne!(rig.value(later, 0).as_deref(), Some("brief")),
        &|| _ = rig.set(later, 0, "new"),
        &|| rig.store.maintain(later.now),
    ]);
    assert_eq!(rig.value(later, 0).as_deref(), Some("new"));
    let stats = rig.store.stats();
    assert_eq!((stats.entries, stats.expired), (1, 1));
    rig.store.check_seats();
}

#[test]
fn what_is_set_over_the_expired_stays() {
    explore(SCHEDULES, expiry_against_a_set);
}

#[test]
fn an_expiry_without_another_look_is_found() {
    find(Race::ExpiredNotLookedAtAgain, SCHEDULES_MAX, expiry_against_a_set);
}

/// Plan: a range left its epoch, which is purged while operations of the next epoch write and read the same keys. They see
/// nothing of the old epoch and lose nothing of their own; in the end nothing of the old one is left.
#[test]
fn a_purge_takes_one_epoch_only() {
    explore(SCHEDULES, || {
        let rig = Rig::new(AMPLE_BYTES);
        for key in 0..3 {
            rig.set(CALM, key, "left");
        }
        let next = Scene {
            epoch: Epoch::new(2),
            ..CALM
        };
        let purge = || {
            rig.store.purge(all_of(CALM.epoch));
            rig.store.maintain(NOW);
        };
        let write = || {
            for key in [0, 1] {
                assert_eq!(rig.value(next, key), None, "of the epoch before");
                rig.set(next, key, "new");
                assert_eq!(rig.value(next, key).as_deref(), Some("new"));
            }
        };
        side_by_side(&[&purge, &write, &|| {
            assert_eq!(rig.value(next, 2), None);
            rig.store.maintain(NOW);
        }]);
        rig.store.maintain(NOW);
        assert_eq!(rig.store.list(&[all_of(CALM.epoch)], NOW).positions, []);
        assert_eq!(rig.store.stats().entries, 2);
        rig.store.check_seats();
    });
}
