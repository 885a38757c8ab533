//! Set, get, delete, touch, add and compare-and-set in a range that nothing is pulled into.

use bytes::Bytes;
use softstore_sharding::{Epoch, SliceKey, Version};

use super::rig::{ASKED, CALM, FIRST_VERSION, PULL, PULLING, Rig, Scene, importable};
use super::{Config, Make};
use crate::store::{Added, Found, KEY_BYTES_MAX, Outcome, SetCondition, SetOutcome, StoreError};

/// Plan: each operation on a present and an absent key; a value is there from its set to its delete.
pub fn what_is_set_is_read_until_deleted(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    assert_eq!(rig.get(CALM, "k"), Outcome::Done(None));
    assert_eq!(rig.delete(CALM, "k"), Outcome::Done(false));
    assert_eq!(rig.touch(CALM, "k", rig.after_ms(5)), Outcome::Done(false));
    rig.set(CALM, "k", "one");
    assert_eq!(rig.value(CALM, "k").as_deref(), Some("one"));
    rig.set(CALM, "k", "two");
    rig.set(CALM, "empty", "");
    assert_eq!(rig.value(CALM, "k").as_deref(), Some("two"));
    assert_eq!(rig.value(CALM, "empty").as_deref(), Some(""));
    assert_eq!(rig.delete(CALM, "k"), Outcome::Done(true));
    assert_eq!(rig.delete(CALM, "k"), Outcome::Done(false));
    assert_eq!(rig.get(CALM, "k"), Outcome::Done(None));
    assert_eq!(rig.store.stats().entries, 1);
    assert_eq!(rig.drop_key(CALM, "empty"), Outcome::Done(true));
    assert_eq!(rig.store.stats().entries, 0);
    assert_eq!(rig.store.stats().bytes, 0);
}

/// Plan: each condition against an absent key, a present one, and a version that was and is no more.
pub fn conditions_decide(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let refused = |version| Outcome::Done(SetOutcome::Refused(version));
    let old = Version::new(1);
    assert_eq!(rig.set_if(CALM, "k", "x", SetCondition::IfPresent), refused(None));
    assert_eq!(
        rig.set_if(CALM, "k", "x", SetCondition::IfVersion(old)),
        refused(None)
    );
    assert_eq!(rig.get(CALM, "k"), Outcome::Done(None));
    let Outcome::Done(SetOutcome::Stored(first)) = rig.set_if(CALM, "k", "1", SetCondition::IfAbsent) else {
        panic!("an absent key must take a set if absent");
    };
    assert_eq!(
        rig.set_if(CALM, "k", "x", SetCondition::IfAbsent),
        refused(Some(first))
    );
    assert_eq!(
        rig.set_if(CALM, "k", "x", SetCondition::IfVersion(old)),
        refused(Some(first))
    );
    assert_eq!(rig.value(CALM, "k").as_deref(), Some("1"));
    let stored = rig.set_if(CALM, "k", "2", SetCondition::IfVersion(first));
    let Outcome::Done(SetOutcome::Stored(second)) = stored else {
        panic!("the present version must match: {stored:?}");
    };
    assert!(second > first);
    let again = rig.set_if(CALM, "k", "x", SetCondition::IfVersion(first));
    assert_eq!(again, refused(Some(second)));
    assert!(matches!(
        rig.set_if(CALM, "k", "3", SetCondition::IfPresent),
        Outcome::Done(SetOutcome::Stored(_))
    ));
    assert_eq!(rig.value(CALM, "k").as_deref(), Some("3"));
}

/// Plan: a counter from nothing, up, down, to both ends; then values that are no numbers, which stay as they were.
pub fn counters_count(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let number = |outcome: Result<Outcome<Added>, StoreError>| match outcome {
        Ok(Outcome::Done(added)) => added.number,
        other => panic!("must count: {other:?}"),
    };
    let deadline = rig.after_ms(1_000);
    assert_eq!(number(rig.add_until(CALM, "n", 5, deadline)), 5);
    // The second deadline is not for a counter that exists.
    assert_eq!(number(rig.add_until(CALM, "n", -7, rig.after_ms(9_000))), -2);
    let Outcome::Done(Some(found)) = rig.get(CALM, "n") else {
        panic!("must be there");
    };
    assert_eq!((&found.value[..], found.deadline), (&b"-2"[..], deadline));
    rig.set(CALM, "n", &i64::MAX.to_string());
    assert_eq!(rig.add(CALM, "n", 1), Err(StoreError::Overflow));
    assert_eq!(number(rig.add(CALM, "n", i64::MIN)), -1);
    assert_eq!(number(rig.add(CALM, "n", i64::MIN + 1)), i64::MIN);
    assert_eq!(rig.add(CALM, "n", -1), Err(StoreError::Overflow));
    for text in ["", "x", "1 ", "+1", "01", "9223372036854775808"] {
        let version = rig.set(CALM, "n", text);
        assert_eq!(rig.add(CALM, "n", 1), Err(StoreError::NotANumber), "{text:?}");
        let Outcome::Done(Some(found)) = rig.get(CALM, "n") else {
            panic!("must be there");
        };
        assert_eq!((&found.value[..], found.version), (text.as_bytes(), version));
    }
}

/// Plan: keys of 0, 1, the most and one more bytes; values of the limit and one more; an entry larger than the store.
/// What is refused leaves what stood.
pub fn bad_lengths_change_nothing(make: Make<'_>) {
    let config = Config {
        budget_bytes: 256 << 10,
        value_bytes_max: 1_000,
        ..Config::default()
    };
    let rig = Rig::new(make, config);
    let longest = "k".repeat(KEY_BYTES_MAX);
    let too_long = "k".repeat(KEY_BYTES_MAX + 1);
    for key in ["", &too_long] {
        let error = StoreError::KeyLength(key.len());
        assert_eq!(rig.try_set(CALM, key.as_bytes(), b"v"), Err(error));
        assert_eq!(rig.add(CALM, key, 1), Err(error));
        assert_eq!(rig.get(CALM, key), Outcome::Done(None));
        assert_eq!(rig.delete(CALM, key), Outcome::Done(false));
        assert_eq!(rig.touch(CALM, key, rig.after_ms(5)), Outcome::Done(false));
    }
    assert_eq!(rig.store.stats().entries, 0);
    rig.set(CALM, &longest, "v");
    assert_eq!(rig.value(CALM, &longest).as_deref(), Some("v"));
    let version = rig.set(CALM, "k", &"v".repeat(1_000));
    assert_eq!(
        rig.try_set(CALM, b"k", &[0; 1_001]),
        Err(StoreError::ValueTooLarge {
            bytes: 1_001,
            bytes_max: 1_000
        })
    );
    let tiny = Rig::new(
        make,
        Config {
            budget_bytes: 8_192,
            ..Config::default()
        },
    );
    tiny.set(CALM, "k", "small");
    assert!(matches!(
        tiny.try_set(CALM, b"k", &[0; 9_000]),
        Err(StoreError::LargerThanStore { .. })
    ));
    assert_eq!(tiny.value(CALM, "k").as_deref(), Some("small"));
    let Outcome::Done(Some(found)) = rig.get(CALM, "k") else {
        panic!("must be there");
    };
    assert_eq!((found.value.len(), found.version), (1_000, version));
}

/// H4. Plan: a mix of writes on one key; each version is above the last, also over a delete; a touch and what was
/// refused take none.
pub fn versions_only_grow(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let mut last = rig.set(CALM, "k", "0");
    assert_eq!(last, Version::new(FIRST_VERSION));
    for round in 0..50 {
        let version = match round % 3 {
            0 => rig.set(CALM, "k", "7"),
            1 => match rig.add(CALM, "k", 1) {
                Ok(Outcome::Done(added)) => added.version,
                other => panic!("must count: {other:?}"),
            },
            _ => {
                assert_eq!(rig.delete(CALM, "k"), Outcome::Done(true));
                rig.set(CALM, "k", "7")
            }
        };
        assert!(version > last);
        last = version;
        assert_eq!(rig.touch(CALM, "k", rig.after_ms(1_000)), Outcome::Done(true));
        rig.set_if(CALM, "k", "x", SetCondition::IfAbsent);
        let Outcome::Done(Some(found)) = rig.get(CALM, "k") else {
            panic!("must be there");
        };
        assert_eq!(found.version, last);
    }
    assert_eq!(rig.set(CALM, "k", "0").get(), last.get() + 1);
}

/// Plan: two keys at one position. The later set displaces the earlier, which then is absent; neither is ever taken for
/// the other; it is counted.
pub fn keys_at_one_position_displace_each_other(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let at = SliceKey::new(42);
    let set = |key: &str, condition| {
        rig.try_set_at(CALM, key.as_bytes(), at, key.as_bytes(), condition)
            .expect("within limits")
    };
    set("left", SetCondition::Always);
    assert_eq!(rig.get_at(CALM, "right", at), Outcome::Done(None));
    assert_eq!(
        set("right", SetCondition::IfPresent),
        Outcome::Done(SetOutcome::Refused(None))
    );
    assert_eq!(rig.store.stats().collisions, 0);
    set("right", SetCondition::IfAbsent);
    assert_eq!(rig.get_at(CALM, "left", at), Outcome::Done(None));
    assert!(matches!(rig.get_at(CALM, "right", at), Outcome::Done(Some(_))));
    let stats = rig.store.stats();
    assert_eq!((stats.collisions, stats.entries), (1, 1));
}

/// Plan: set and import from slices of a large buffer; the buffer stays its owner's alone.
pub fn bytes_are_copied(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let buffer = Bytes::from(vec![b'x'; 1 << 16]);
    let (key, value) = (buffer.slice(..10), buffer.slice(10..200));
    rig.try_set(CALM, &key, &value).expect("within limits");
    rig.store.begin_pull(PULL);
    let text = std::str::from_utf8(&buffer[..20]).expect("text");
    rig.import_whole(PULL, &importable(text, text));
    drop((key, value));
    assert_eq!(rig.value(CALM, "xxxxxxxxxx").map(|value| value.len()), Some(190));
    assert!(buffer.is_unique());
}

/// Plan: a key absent, present with values short and long, expired, of another epoch, and unknown in a pull. A read says
/// what a get says, calls back once or not at all, and its value can be kept beyond it and beyond an overwrite.
pub fn read_and_get_agree(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.store.begin_pull(PULL);
    rig.set(CALM, "empty", "");
    rig.set(CALM, "short", "value");
    rig.set(CALM, "long", &"v".repeat(100_000));
    rig.set_until(CALM, "mortal", "v", rig.after_ms(10));
    let elsewhere = Scene {
        epoch: Epoch::new(9),
        ..CALM
    };
    rig.set(elsewhere, "elsewhere", "v");
    for is_late in [false, true] {
        if is_late {
            rig.advance_ms(10);
        }
        for scene in [CALM, PULLING, ASKED] {
            for key in ["empty", "short", "long", "mortal", "elsewhere", "absent"] {
                let mut kept = Vec::new();
                let outcome = rig.read(scene, key, &mut |reading| {
                    kept.push(Found {
                        value: reading.share(),
                        version: reading.version,
                        deadline: reading.deadline,
                    });
                    assert_eq!(reading.share(), reading.value);
                });
                let expected = match rig.get(scene, key) {
                    Outcome::Done(found) => {
                        assert_eq!(kept, Vec::from_iter(found.clone()), "{key}");
                        Outcome::Done(found.is_some())
                    }
                    Outcome::Unknown => Outcome::Unknown,
                };
                assert_eq!(outcome, expected, "{key}");
                assert!(kept.len() == usize::from(outcome == Outcome::Done(true)));
            }
        }
    }
    for key in ["short", "long"] {
        let Outcome::Done(Some(before)) = rig.get(CALM, key) else {
            panic!("must be there");
        };
        let copy = before.value.to_vec();
        rig.set(CALM, key, &"w".repeat(copy.len()));
        assert_eq!(before.value, copy, "what was handed out must not change");
        rig.drop_key(CALM, key);
        assert_eq!(before.value, copy);
    }
    // A read is an access as a get is.
    rig.set(CALM, "counted", "v");
    for _ in 0..3 {
        rig.read(CALM, "counted", &mut |_| ());
    }
    assert_eq!(rig.class_of("counted"), Some(18));
}

/// Plan: one key overwritten by values of the same, nearly the same and very other lengths, up and down. Each reads back
/// whole with a version above the last; the gauges end where they began.
pub fn overwrites_of_any_length_replace(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    rig.set(CALM, "k", "");
    let empty = rig.store.stats();
    let mut last = FIRST_VERSION;
    for (round, length) in [
        0, 1, 1, 2, 100, 100, 101, 5_000, 5_000, 70_000, 70_000, 16, 0, 300_000, 0,
    ]
    .into_iter()
    .enumerate()
    {
        let letter = char::from(b'a' + u8::try_from(round).expect("few"));
        let value = String::from(letter).repeat(length);
        let version = rig.set(CALM, "k", &value).get();
        assert!(version > last);
        last = version;
        assert_eq!(rig.value(CALM, "k"), Some(value));
        let stats = rig.store.stats();
        assert_eq!(stats.entries, 1);
        assert!(stats.bytes >= length as u64);
    }
    assert_eq!(rig.store.stats(), empty);
    assert_eq!(rig.list(CALM.epoch).positions.len(), 1);
}
