//! H4: versions, conditions and sums under contention.

use softstore_sharding::{Timestamp, Version};
use softstore_sync::Mutex;
use softstore_sync::explore::{explore, find};
use softstore_sync::planted::Race;

use super::rig::{AMPLE_BYTES, CALM, Rig, SCHEDULES, SCHEDULES_MAX, side_by_side};
use crate::store::{SetCondition, SetOutcome};

const KEY: u64 = 0;

/// Plan: two threads set a key while a third reads it three times. The reader never sees a version step back, and in the
/// end the highest version that was given stands.
fn writers_and_a_reader() {
    let rig = Rig::new(AMPLE_BYTES);
    let given = Mutex::new(Version::default());
    let set = |value| {
        let version = rig.set(CALM, KEY, value);
        let mut given = given.lock();
        *given = version.max(*given);
    };
    let read = || {
        let mut before = Version::default();
        for _ in 0..3 {
            let version = rig.get(CALM, KEY).map_or(before, |found| found.version);
            assert!(version >= before, "a version went back");
            before = version;
        }
    };
    side_by_side(&[&|| set("one"), &|| set("two"), &read]);
    assert_eq!(rig.get(CALM, KEY).map(|found| found.version), Some(*given.lock()));
}

#[test]
fn versions_follow_the_order_of_writes() {
    explore(SCHEDULES, writers_and_a_reader);
}

#[test]
fn a_version_taken_before_the_lock_is_found() {
    find(Race::VersionBeforeLock, SCHEDULES_MAX, writers_and_a_reader);
}

/// Plan: three threads set a key at the version that all of them know; a fourth deletes it. At most one set applies.
#[test]
fn a_condition_holds_for_one() {
    explore(SCHEDULES, || {
        let rig = Rig::new(AMPLE_BYTES);
        let known = SetCondition::IfVersion(rig.set(CALM, KEY, "first"));
        let applied = Mutex::new(0);
        let set = || {
            let outcome = rig.set_if(CALM, KEY, "next", Timestamp::NEVER, known);
            if matches!(outcome, SetOutcome::Stored(_)) {
                *applied.lock() += 1;
            }
        };
        side_by_side(&[&set, &set, &set, &|| _ = rig.delete(CALM, KEY)]);
        assert!(*applied.lock() <= 1, "{applied:?}");
    });
}

/// Plan: three threads add to a counter, twice each, and the sums that they are told are all different.
#[test]
fn additions_add_up() {
    explore(SCHEDULES, || {
        let rig = Rig::new(AMPLE_BYTES);
        let told = Mutex::new(Vec::new());
        let add = || {
            for _ in 0..2 {
                let sum = rig.add(CALM, KEY);
                told.lock().push(sum);
            }
        };
        side_by_side(&[&add, &add, &add]);
        let mut told = told.lock().clone();
        told.sort_unstable();
        assert_eq!(told, [1, 2, 3, 4, 5, 6]);
    });
}
