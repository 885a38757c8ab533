//! H3: what arrives from a giver against what happens meanwhile.

use softstore_sharding::Timestamp;
use softstore_sync::explore::{explore, find, roll};
use softstore_sync::planted::Race;

use super::rig::{
    AMPLE_BYTES, CALM, NOW, PULL, PULLING, Rig, SCHEDULES, SCHEDULES_MAX, TIGHT_BYTES, at, side_by_side,
};
use crate::moka_engine::MokaStoreConfig;
use crate::store::{ImportOutcome, Store};

const KEY: u64 = 0;

/// Plan: one thread writes or deletes a key in a pull, another imports the key's old value by a chunk, a third by a peek, a
/// fourth crowds the store so that the key is evicted. From the moment that the write is acknowledged the old value is
/// never read, nor taken in.
fn imports_against_a_write() {
    let rig = Rig::new(TIGHT_BYTES);
    rig.store.begin_pull(PULL);
    let write = || {
        match roll(4) {
            0 => _ = rig.set(PULLING, KEY, "new"),
            1 => _ = rig.delete(PULLING, KEY),
            2 => {
                rig.set(PULLING, KEY, "new");
                rig.delete(PULLING, KEY);
            }
            // Whatever the import brought, if it was first, is gone with it.
            _ => {
                rig.delete(PULLING, KEY);
                rig.add(PULLING, KEY);
            }
        }
        assert_ne!(
            rig.value(PULLING, KEY).as_deref(),
            Some("old"),
            "right after the write"
        );
    };
    side_by_side(&[
        &write,
        &|| _ = rig.import(KEY, false),
        &|| _ = rig.import(KEY, true),
        &|| rig.crowd(CALM, 2, 3),
    ]);
    assert!(rig.store.is_written(PULL, at(KEY)));
    assert_eq!(rig.import(KEY, true), ImportOutcome::Written);
    assert_ne!(rig.value(PULLING, KEY).as_deref(), Some("old"));
    rig.store.end_pull(PULL);
    assert_eq!(rig.store.stats().written_keys, 0);
    rig.store.check_seats();
}

#[test]
fn no_import_stands_over_a_write() {
    explore(SCHEDULES, imports_against_a_write);
}

#[test]
fn an_import_that_looks_before_the_lock_is_found() {
    find(
        Race::ImportCheckBeforeLock,
        SCHEDULES_MAX,
        imports_against_a_write,
    );
}

#[test]
fn a_key_remembered_after_the_lock_is_found() {
    find(Race::RememberedAfterLock, SCHEDULES_MAX, imports_against_a_write);
}

/// Plan: an imported entry is touched so that it expires soon, evicted, and comes in again by a late peek, all at once.
/// If the touch found it, no later import brings it back without the deadline (H3, H5).
#[test]
fn no_import_undoes_a_touch() {
    explore(SCHEDULES, || {
        let rig = Rig::new(TIGHT_BYTES);
        rig.store.begin_pull(PULL);
        rig.import(KEY, false);
        let soon = NOW.plus_ms(5);
        let touch = || {
            if rig.touch(PULLING, KEY, soon) {
                let found = rig.get(PULLING, KEY);
                assert!(
                    found.is_none_or(|found| found.deadline == soon),
                    "right after the touch"
                );
            }
        };
        side_by_side(&[&touch, &|| rig.crowd(CALM, 2, 3), &|| _ = rig.import(KEY, true)]);
        if rig.store.is_written(PULL, at(KEY)) {
            let found = rig.get(PULLING, KEY);
            assert!(found.is_none_or(|found| found.deadline != Timestamp::NEVER));
        }
    });
}

/// Plan: the key is written and deleted in a pull while the pull ends and a peek's answer is on its way in. Whatever comes
/// first, the old value does not stand when all is done, and nothing stays remembered.
fn the_end_of_a_pull_against_a_peek() {
    let rig = Rig::new(AMPLE_BYTES);
    rig.store.begin_pull(PULL);
    let write = || {
        rig.set(PULLING, KEY, "new");
        rig.delete(PULLING, KEY);
        assert_eq!(rig.value(PULLING, KEY), None, "right after the delete");
    };
    side_by_side(&[&write, &|| _ = rig.import(KEY, true), &|| {
        rig.store.end_pull(PULL)
    }]);
    assert_eq!(rig.value(PULLING, KEY), None);
    assert_eq!(rig.import(KEY, true), ImportOutcome::Ended);
    assert_eq!(rig.store.stats().written_keys, 0);
    rig.store.check_seats();
}

#[test]
fn a_memory_is_freed_when_no_import_comes_any_more() {
    explore(SCHEDULES, the_end_of_a_pull_against_a_peek);
}

#[test]
fn a_memory_freed_too_early_is_found() {
    find(
        Race::MemoryFreedBeforeEnd,
        SCHEDULES_MAX,
        the_end_of_a_pull_against_a_peek,
    );
}

/// Plan: room for one remembered key; keys of both stripes are deleted while their old values arrive. The memory overflows,
/// and whichever key it was that was not remembered, its old value is not taken in.
#[test]
fn no_import_slips_through_an_overflow() {
    explore(SCHEDULES, || {
        let rig = Rig::with(MokaStoreConfig {
            budget_bytes: AMPLE_BYTES,
            written_keys_max: 1,
            ..MokaStoreConfig::default()
        });
        rig.store.begin_pull(PULL);
        let delete = |key| {
            rig.delete(PULLING, key);
            assert_eq!(rig.value(PULLING, key), None, "right after the delete");
        };
        side_by_side(&[
            &|| delete(0),
            &|| delete(1),
            &|| _ = rig.import(0, false),
            &|| _ = rig.import(1, true),
        ]);
        assert!(rig.store.pull_overflowed(PULL));
        assert_eq!((rig.value(PULLING, 0), rig.value(PULLING, 1)), (None, None));
        rig.store.end_pull(PULL);
        assert_eq!(rig.store.stats().written_keys, 0);
    });
}
