//! Deadlines, by the injected time and no other.

use softstore_sharding::Timestamp;

use super::rig::{CALM, Rig};
use super::{Config, Make};
use crate::store::{Outcome, SetCondition, SetOutcome};

/// Plan: entries with and without deadlines around the very millisecond; touch moves a deadline both ways; a set
/// without a deadline ends it.
pub fn deadlines_follow_the_injected_time(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.set(CALM, "forever", "v");
    for key in ["plain", "longer", "shorter", "reset"] {
        rig.set_until(CALM, key, "v", rig.after_ms(100));
    }
    assert_eq!(rig.touch(CALM, "longer", rig.after_ms(200)), Outcome::Done(true));
    assert_eq!(rig.touch(CALM, "shorter", rig.after_ms(50)), Outcome::Done(true));
    rig.set(CALM, "reset", "v");
    let present =
        |keys: &[&str]| -> Vec<bool> { keys.iter().map(|key| rig.value(CALM, key).is_some()).collect() };
    let keys = ["forever", "plain", "longer", "shorter", "reset"];
    rig.advance_ms(49);
    assert_eq!(present(&keys), [true; 5]);
    rig.advance_ms(1);
    assert_eq!(present(&keys), [true, true, true, false, true]);
    rig.advance_ms(49);
    assert_eq!(present(&keys), [true, true, true, false, true]);
    rig.advance_ms(1);
    assert_eq!(present(&keys), [true, false, true, false, true]);
    rig.advance_ms(100);
    assert_eq!(present(&keys), [true, false, false, false, true]);
    let Outcome::Done(Some(found)) = rig.get(CALM, "forever") else {
        panic!("must be there");
    };
    assert_eq!(found.deadline, Timestamp::NEVER);
    assert_eq!(rig.store.stats().expired, 3);
}

/// Plan: for each operation a key of its own that has expired; the operation finds it absent, a touch does not revive it.
pub fn the_expired_is_absent_for_every_operation(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let keys = [
        "get", "delete", "touch", "add", "absent", "present", "version", "frozen",
    ];
    let versions = keys.map(|key| rig.set_until(CALM, key, "5", rig.after_ms(10)));
    rig.advance_ms(10);
    assert!(rig.frozen("frozen").is_none());
    assert!(rig.list(CALM.epoch).positions.is_empty());
    assert_eq!(rig.get(CALM, "get"), Outcome::Done(None));
    assert_eq!(rig.delete(CALM, "delete"), Outcome::Done(false));
    assert_eq!(rig.touch(CALM, "touch", rig.after_ms(100)), Outcome::Done(false));
    assert_eq!(rig.get(CALM, "touch"), Outcome::Done(None));
    let Ok(Outcome::Done(added)) = rig.add(CALM, "add", 1) else {
        panic!("must count");
    };
    assert_eq!(added.number, 1);
    let refused = Outcome::Done(SetOutcome::Refused(None));
    assert_eq!(rig.set_if(CALM, "present", "v", SetCondition::IfPresent), refused);
    let if_version = SetCondition::IfVersion(versions[6]);
    assert_eq!(rig.set_if(CALM, "version", "v", if_version), refused);
    assert!(matches!(
        rig.set_if(CALM, "absent", "v", SetCondition::IfAbsent),
        Outcome::Done(SetOutcome::Stored(_))
    ));
}

/// Plan: a store full of entries with deadlines and some without; time passes, nobody asks for anything. Maintain
/// alone gives back the expired ones, and only those.
pub fn an_idle_store_reclaims_the_expired(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    for number in 0..20_000 {
        rig.set_until(CALM, &format!("mortal-{number}"), "v", rig.after_ms(1_000));
    }
    for number in 0..100 {
        rig.set(CALM, &format!("immortal-{number}"), "v");
    }
    rig.maintain_fully();
    assert_eq!(rig.store.stats().entries, 20_100);
    rig.advance_ms(1_000);
    rig.maintain_fully();
    let stats = rig.store.stats();
    assert_eq!((stats.entries, stats.expired), (100, 20_000));
    for number in 0..100 {
        assert!(rig.value(CALM, &format!("immortal-{number}")).is_some());
    }
}
