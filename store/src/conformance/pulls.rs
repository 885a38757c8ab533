//! Pulls: imports, the written-keys memory of H3, and when an operation must ask the giver first.

use softstore_sharding::{PullId, SliceKey, Timestamp, Version};

use super::rig::{ASKED, AWAITING, CALM, PULL, PULLING, Rig, Scene, class, importable, position};
use super::{Config, Make};
use crate::store::{Import, ImportOutcome, KEY_BYTES_MAX, Outcome, SetCondition, SetOutcome, StoreError};

/// H3. Plan: each kind of write on a key of its own, then the giver's entry of that key arrives. What the write left
/// stands, be it absence.
pub fn each_kind_of_write_is_remembered(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.store.begin_pull(PULL);
    rig.set(PULLING, "set", "new");
    rig.set_if(ASKED, "set-if-absent", "new", SetCondition::IfAbsent);
    assert_eq!(rig.delete(ASKED, "delete-absent"), Outcome::Done(false));
    assert_eq!(rig.drop_key(PULLING, "drop-absent"), Outcome::Done(false));
    rig.add(ASKED, "add", 1).expect("an absent key counts");
    for key in ["delete", "touch", "replace"] {
        assert_eq!(rig.import(key, "old"), ImportOutcome::Inserted);
    }
    assert_eq!(rig.delete(PULLING, "delete"), Outcome::Done(true));
    assert_eq!(rig.touch(PULLING, "touch", rig.after_ms(10)), Outcome::Done(true));
    rig.set_if(PULLING, "replace", "new", SetCondition::IfPresent);
    let left = [
        ("set", Some("new")),
        ("set-if-absent", Some("new")),
        ("delete-absent", None),
        ("drop-absent", None),
        ("add", Some("1")),
        ("delete", None),
        ("touch", Some("old")),
        ("replace", Some("new")),
    ];
    assert_eq!(rig.store.stats().written_keys, left.len() as u64);
    for (key, value) in left {
        assert!(rig.store.is_written(PULL, position(key)), "{key}");
        assert_eq!(rig.import(key, "old"), ImportOutcome::Written, "{key}");
        let peeked = rig
            .store
            .import_peeked(PULL, PULLING.epoch, rig.now(), &importable(key, "old"));
        assert_eq!(peeked, ImportOutcome::Written, "{key}");
        assert_eq!(rig.value(PULLING, key).as_deref(), value, "{key}");
    }
    // The touched entry runs out, and does not come back with its old deadline.
    rig.advance_ms(10);
    assert_eq!(rig.get(PULLING, "touch"), Outcome::Done(None));
    assert_eq!(rig.import("touch", "old"), ImportOutcome::Written);
}

/// Plan: reads, and writes that were refused, failed or belong to a range without the pull, do not keep the giver's
/// entry out.
pub fn what_changed_nothing_is_not_remembered(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.store.begin_pull(PULL);
    rig.get(ASKED, "get");
    rig.get(PULLING, "unknown");
    rig.delete(PULLING, "unknown");
    rig.add(PULLING, "unknown", 1).expect("unknown is no error");
    rig.set_if(PULLING, "unknown", "v", SetCondition::IfPresent);
    rig.touch(PULLING, "unknown", rig.after_ms(10));
    rig.touch(ASKED, "touch-absent", rig.after_ms(10));
    rig.set_if(ASKED, "if-present", "v", SetCondition::IfPresent);
    assert!(rig.try_set(PULLING, b"too-large", &[0; (1 << 20) + 1]).is_err());
    rig.set(CALM, "elsewhere", "v");
    rig.drop_key(CALM, "elsewhere");
    for key in [
        "get",
        "unknown",
        "touch-absent",
        "if-present",
        "too-large",
        "elsewhere",
    ] {
        assert!(!rig.store.is_written(PULL, position(key)), "{key}");
        assert_eq!(rig.import(key, "old"), ImportOutcome::Inserted, "{key}");
        assert_eq!(rig.value(PULLING, key).as_deref(), Some("old"), "{key}");
    }
    assert_eq!(rig.store.stats().written_keys, 0);
    let at = position("not-a-number");
    assert_eq!(rig.import("not-a-number", "x"), ImportOutcome::Inserted);
    assert_eq!(rig.add(PULLING, "not-a-number", 1), Err(StoreError::NotANumber));
    assert!(!rig.store.is_written(PULL, at));
}

/// H3. Plan: nobody is there to be asked yet. Absence is final; besides writes, what was refused because the key is absent is
/// remembered, and a plain read is not. What comes back then fills what nobody has touched.
pub fn who_awaits_asks_nobody_and_remembers_refusals(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.store.begin_awaiting(PULL);
    assert_eq!(rig.get(AWAITING, "read"), Outcome::Done(None));
    rig.set_if(AWAITING, "filled", "new", SetCondition::IfAbsent);
    let refused = rig.set_if(AWAITING, "if-present", "new", SetCondition::IfPresent);
    assert_eq!(refused, Outcome::Done(SetOutcome::Refused(None)));
    let stale = SetCondition::IfVersion(Version::new(3));
    rig.set_if(AWAITING, "if-version", "new", stale);
    assert_eq!(
        rig.touch(AWAITING, "touch", rig.after_ms(10)),
        Outcome::Done(false)
    );
    assert_eq!(rig.delete(AWAITING, "delete"), Outcome::Done(false));
    rig.add(AWAITING, "add", 1).expect("an absent key counts");
    for key in ["filled", "if-present", "if-version", "touch", "delete", "add"] {
        assert_eq!(rig.import(key, "old"), ImportOutcome::Written, "{key}");
    }
    assert_eq!(rig.import("read", "old"), ImportOutcome::Inserted);
    assert_eq!(rig.value(PULLING, "filled").as_deref(), Some("new"));
}

/// Plan: so much is written while somebody is awaited that it cannot be remembered. A pull that goes on beside it is none the
/// worse, and the other way round; each takes what the limit says.
pub fn who_awaits_takes_no_memory_from_a_pull(make: Make<'_>) {
    let config = Config {
        written_keys_max: 50,
        ..Config::default()
    };
    let rig = Rig::new(make, config);
    let other = PullId::new(8);
    rig.store.begin_awaiting(PULL);
    rig.store.begin_pull(other);
    let pulling = Scene {
        pull: Some(other),
        ..PULLING
    };
    for number in 0..51 {
        rig.set(AWAITING, &format!("awaited-{number}"), "v");
    }
    assert!(rig.store.pull_overflowed(PULL));
    for number in 0..50 {
        rig.set(pulling, &format!("pulled-{number}"), "v");
    }
    assert!(!rig.store.pull_overflowed(other));
    rig.store.end_pull(PULL);
    rig.store.begin_awaiting(PULL);
    rig.set(pulling, "one-more", "v");
    rig.set(AWAITING, "again", "v");
    assert!(rig.store.pull_overflowed(other) && !rig.store.pull_overflowed(PULL));
    rig.store.end_pull(other);
    rig.store.end_pull(PULL);
    assert_eq!(rig.store.stats().written_keys, 0);
}

/// H3. Plan: a write in a pull, then so many others that it is evicted; the giver's older entry is refused all the same,
/// and the key is absent without asking.
pub fn memory_outlives_eviction(make: Make<'_>) {
    let config = Config {
        budget_bytes: 256 << 10,
        ..Config::default()
    };
    let rig = Rig::new(make, config);
    rig.store.begin_pull(PULL);
    rig.set(PULLING, "written", "new");
    for number in 0..2_000 {
        rig.set(CALM, &format!("filler-{number}"), &"x".repeat(1_000));
    }
    rig.maintain_fully();
    assert_eq!(rig.get(PULLING, "written"), Outcome::Done(None));
    assert_eq!(rig.import("written", "old"), ImportOutcome::Written);
    assert_eq!(rig.get(PULLING, "written"), Outcome::Done(None));
    assert!(rig.store.stats().evicted > 1_000);
}

/// Plan: more keys written than the memory takes. The pull says so; from then on each import is refused and no key is
/// asked about; ended, it frees the memory and the next pull works.
pub fn an_overflow_refuses_all_imports(make: Make<'_>) {
    let config = Config {
        written_keys_max: 50,
        ..Config::default()
    };
    let rig = Rig::new(make, config);
    rig.store.begin_pull(PULL);
    for number in 0..50 {
        rig.set(PULLING, &format!("key-{number}"), "v");
        // A key is remembered once, however often it is written.
        rig.set(PULLING, &format!("key-{number}"), "w");
    }
    assert!(!rig.store.pull_overflowed(PULL));
    assert_eq!(rig.import("fine", "old"), ImportOutcome::Inserted);
    assert_eq!(rig.get(PULLING, "other"), Outcome::Unknown);
    rig.set(PULLING, "one-more", "v");
    assert!(rig.store.pull_overflowed(PULL));
    for key in ["one-more", "other", "key-3"] {
        assert!(rig.store.is_written(PULL, position(key)));
        assert_eq!(rig.import(key, "old"), ImportOutcome::Written);
    }
    assert_eq!(rig.get(PULLING, "other"), Outcome::Done(None));
    assert_eq!(rig.store.stats().written_keys, 50);
    rig.store.end_pull(PULL);
    assert_eq!(rig.store.stats().written_keys, 0);
    assert!(!rig.store.pull_overflowed(PULL));
    let next = PullId::new(8);
    rig.store.begin_pull(next);
    assert_eq!(
        rig.import_whole(next, &importable("other", "old")),
        ImportOutcome::Inserted
    );
}

/// Plan: imports into pulls that were ended, or never begun, change nothing; another pull stays open; nothing is asked
/// about in an ended one.
pub fn an_ended_pull_takes_nothing(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let other = PullId::new(8);
    rig.store.begin_pull(PULL);
    rig.store.begin_pull(other);
    assert_eq!(rig.import("early", "v"), ImportOutcome::Inserted);
    rig.store.end_pull(PULL);
    rig.store.end_pull(PULL);
    assert_eq!(rig.import("late", "v"), ImportOutcome::Ended);
    let peeked = rig
        .store
        .import_peeked(PULL, PULLING.epoch, rig.now(), &importable("late", "v"));
    assert_eq!(peeked, ImportOutcome::Ended);
    assert_eq!(rig.get(PULLING, "late"), Outcome::Done(None));
    assert!(rig.store.is_written(PULL, position("late")));
    assert_eq!(rig.value(PULLING, "early").as_deref(), Some("v"));
    assert_eq!(
        rig.import_whole(PullId::new(99), &importable("late", "v")),
        ImportOutcome::Ended
    );
    assert_eq!(
        rig.import_whole(other, &importable("late", "v")),
        ImportOutcome::Inserted
    );
}

/// Plan: each operation, on a key that is absent, present, or absent and written; with the giver to be asked, asked, or
/// no pull. Unknown exactly if absent, not written, to be asked, and the answer matters.
pub fn unknown_exactly_when_it_must_be(make: Make<'_>) {
    let final_only = |scene: Scene, key: &str, expected: bool| {
        let rig = Rig::new(make, Config::default());
        rig.store.begin_pull(PULL);
        rig.import("present", "5");
        rig.drop_key(PULLING, "written");
        let condition = [
            SetCondition::IfAbsent,
            SetCondition::IfPresent,
            SetCondition::IfVersion(Version::new(3)),
        ];
        for condition in condition {
            let is_unknown = rig.set_if(scene, key, "1", condition) == Outcome::Unknown;
            let applied = !expected && condition == SetCondition::IfAbsent && key != "present";
            assert_eq!(is_unknown, expected, "{condition:?} {key}");
            if applied {
                rig.drop_key(CALM, key);
            }
        }
        assert_eq!(rig.get(scene, key) == Outcome::Unknown, expected, "get {key}");
        let touched = rig.touch(scene, key, Timestamp::NEVER);
        assert_eq!(touched == Outcome::Unknown, expected, "touch {key}");
        let deleted = rig.delete(scene, key);
        assert_eq!(deleted == Outcome::Unknown, expected, "delete {key}");
        let added = rig.add(scene, key, 1);
        let is_expected = !expected || added == Ok(Outcome::Unknown);
        assert!(is_expected, "add {key}: {added:?}");
        if expected {
            assert!(!rig.store.is_written(PULL, position(key)));
            assert_eq!(rig.store.stats().entries, 1);
        }
        // What does not depend on the present value never asks.
        assert_ne!(rig.drop_key(scene, key), Outcome::Unknown);
        assert!(matches!(
            rig.set_if(scene, key, "v", SetCondition::Always),
            Outcome::Done(SetOutcome::Stored(_))
        ));
    };
    final_only(PULLING, "absent", true);
    for scene in [ASKED, CALM] {
        final_only(scene, "absent", false);
    }
    for scene in [PULLING, ASKED, CALM] {
        final_only(scene, "present", false);
        final_only(scene, "written", false);
    }
}

/// Plan: an import keeps version, deadline and class; a second one finds it present; expired, oversized and keyless ones
/// are refused; it reads like any entry, and its version is good for compare-and-set.
pub fn imports_stand_as_they_came(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.store.begin_pull(PULL);
    let import = Import {
        version: Version::new(77),
        deadline: rig.after_ms(1_000),
        class: class(20),
        ..importable("k", "v")
    };
    assert_eq!(rig.import_whole(PULL, &import), ImportOutcome::Inserted);
    assert_eq!(rig.import("k", "again"), ImportOutcome::Present);
    let frozen = rig.frozen("k").expect("imported");
    assert_eq!(
        (frozen.version, frozen.deadline, frozen.class),
        (import.version, import.deadline, import.class)
    );
    assert_eq!((&frozen.key[..], &frozen.value[..]), (&b"k"[..], &b"v"[..]));
    assert_eq!(rig.value(PULLING, "k").as_deref(), Some("v"));
    let expired = Import {
        deadline: rig.now(),
        ..importable("expired", "v")
    };
    assert_eq!(rig.import_whole(PULL, &expired), ImportOutcome::Expired);
    let too_long = "k".repeat(KEY_BYTES_MAX + 1);
    let too_large = "v".repeat((1 << 20) + 1);
    for refused in [
        importable("", "v"),
        importable(&too_long, "v"),
        importable("large", &too_large),
    ] {
        assert_eq!(rig.import_whole(PULL, &refused), ImportOutcome::Refused);
    }
    let stats = rig.store.stats();
    assert_eq!((stats.imported, stats.imported_bytes, stats.entries), (1, 2, 1));
    // At one position another key of this epoch stands: it stays.
    let collides = Import {
        at: import.at,
        ..importable("other", "v")
    };
    assert_eq!(rig.import_whole(PULL, &collides), ImportOutcome::Present);
    let stored = rig.set_if(PULLING, "k", "w", SetCondition::IfVersion(Version::new(77)));
    assert!(matches!(stored, Outcome::Done(SetOutcome::Stored(version)) if version > import.version));
}

/// Plan: two pulls remember different keys of one store; each memory is its pull's own and goes with it.
pub fn memories_are_freed(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let other = Scene {
        pull: Some(PullId::new(8)),
        ..PULLING
    };
    rig.store.begin_pull(PULL);
    rig.store.begin_pull(PullId::new(8));
    for number in 0..1_000 {
        rig.set(PULLING, &format!("key-{number}"), "v");
    }
    for number in 0..10 {
        rig.set(other, &format!("other-{number}"), "v");
    }
    assert_eq!(rig.store.stats().written_keys, 1_010);
    assert!(!rig.store.is_written(PULL, position("other-1")));
    assert!(!rig.store.is_written(PULL, SliceKey::MAX));
    rig.store.end_pull(PULL);
    assert_eq!(rig.store.stats().written_keys, 10);
    rig.store.end_pull(PullId::new(8));
    assert_eq!(rig.store.stats().written_keys, 0);
    // A context may still name a pull that has just ended: its writes are plain ones.
    rig.set(PULLING, "key-1", "w");
    assert_eq!(rig.store.stats().written_keys, 0);
}
