//! Epochs: what was left is gone at once, and reclaiming it touches nothing else.

use softstore_sharding::{Epoch, Slice, SliceKey};

use super::rig::{CALM, PULL, Rig, Scene, all_of, importable, position};
use super::{Config, Make};
use crate::store::{ImportOutcome, Outcome, Part, SetCondition, SetOutcome};

const LATER: Scene = Scene {
    epoch: Epoch::new(2),
    ..CALM
};

/// Plan: entries of an epoch that is left; for each operation of the next one they are absent; frozen reads and lists
/// tell the epochs apart.
pub fn epochs_do_not_see_each_other(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let keys = ["get", "delete", "touch", "add", "absent", "present"];
    for key in keys {
        rig.set(CALM, key, "5");
    }
    assert_eq!(rig.get(LATER, "get"), Outcome::Done(None));
    assert_eq!(rig.delete(LATER, "delete"), Outcome::Done(false));
    assert_eq!(rig.touch(LATER, "touch", rig.after_ms(5)), Outcome::Done(false));
    assert_eq!(
        rig.set_if(LATER, "present", "v", SetCondition::IfPresent),
        Outcome::Done(SetOutcome::Refused(None))
    );
    // Nothing of that has changed what the first epoch holds.
    assert_eq!(rig.list(CALM.epoch).positions.len(), keys.len());
    assert_eq!(rig.value(CALM, "delete").as_deref(), Some("5"));
    let Ok(Outcome::Done(added)) = rig.add(LATER, "add", 1) else {
        panic!("must count");
    };
    assert_eq!(added.number, 1);
    rig.set_if(LATER, "absent", "new", SetCondition::IfAbsent);
    assert_eq!(rig.value(LATER, "absent").as_deref(), Some("new"));
    assert_eq!(rig.get(CALM, "absent"), Outcome::Done(None));
    assert_eq!(rig.list(CALM.epoch).positions.len(), 4);
    assert_eq!(rig.list(LATER.epoch).positions.len(), 2);
    let frozen = |key, epoch| rig.store.read_frozen(position(key), epoch, rig.now());
    assert!(frozen("get", CALM.epoch).is_some() && frozen("get", LATER.epoch).is_none());
    // An import finds only its own epoch's entries in its way.
    rig.store.begin_pull(PULL);
    let import = |epoch| {
        rig.store
            .import(PULL, epoch, rig.now(), &importable("get", "imported"))
    };
    assert_eq!(import(CALM.epoch), ImportOutcome::Present);
    assert_eq!(import(LATER.epoch), ImportOutcome::Inserted);
    assert_eq!(rig.value(LATER, "get").as_deref(), Some("imported"));
}

/// Plan: two epochs in one store, and slices; purge a slice of one epoch while the other is being written. Exactly the
/// entries of that slice and epoch go.
pub fn purge_spares_other_epochs(make: Make<'_>) {
    let rig = Rig::new(make, Config::default());
    let key = |number: u64| format!("key-{number}");
    for number in 0..3_000 {
        rig.set(CALM, &key(number), "old");
    }
    let (low_half, high_half) = Slice::FULL
        .split_before(SliceKey::new(1 << 63))
        .expect("cuts in two");
    rig.store.purge(Part {
        slice: low_half,
        epoch: CALM.epoch,
    });
    // Written over what the purge is about to find, and partly while it is at it.
    for number in 0..1_000 {
        rig.set(LATER, &key(number), "new");
        if number % 100 == 0 {
            rig.store.maintain(rig.now());
        }
    }
    rig.maintain_fully();
    for number in 0..1_000 {
        assert_eq!(rig.value(LATER, &key(number)).as_deref(), Some("new"));
    }
    for number in 1_000..3_000 {
        let survives = high_half.contains(position(&key(number)));
        assert_eq!(rig.value(CALM, &key(number)).is_some(), survives);
    }
    let entries = rig.store.stats().entries;
    let listed = |epoch| rig.store.list(&[all_of(epoch)], rig.now()).positions.len() as u64;
    assert_eq!(entries, listed(CALM.epoch) + listed(LATER.epoch));
    rig.store.purge(all_of(CALM.epoch));
    rig.store.purge(all_of(Epoch::new(99)));
    rig.maintain_fully();
    assert_eq!(rig.store.purges_waiting(), 0);
    assert_eq!(rig.store.stats().entries, 1_000);
}
