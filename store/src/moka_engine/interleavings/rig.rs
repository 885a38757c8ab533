//! A small engine, and shorthand for operations on it. Keys are numbers and stand at the position of that number, so that
//! even ones share a stripe and odd ones the other.

use softstore_sharding::{
    Epoch, FrequencyClass, PullId, Slice, SliceKey, Timestamp, Version, VersionCounter,
};
use softstore_sync::explore::thread;

use crate::moka_engine::{MokaStore, MokaStoreConfig};
use crate::store::{
    Absence, Found, Import, ImportOutcome, OpContext, Outcome, Part, SetCondition, SetOutcome, Store,
};

/// How many schedules a scenario is explored under if nobody says otherwise.
pub(super) const SCHEDULES: usize = 600;

/// Within how many a planted race must be found.
pub(super) const SCHEDULES_MAX: usize = 1 << 14;

pub(super) const PULL: PullId = PullId::new(7);
pub(super) const NOW: Timestamp = Timestamp::from_ms(1_000_000);

/// A budget for about three small entries: each of those here weighs 368 or 384 bytes.
pub(super) const TIGHT_BYTES: u64 = 1_250;

/// A budget for all that a scenario writes.
pub(super) const AMPLE_BYTES: u64 = 1 << 20;

/// The versions of imports: below all that are given here.
const OLD: Version = Version::new(1);
const FIRST: u64 = 100;

pub(super) struct Rig {
    pub(super) store: MokaStore,
    versions: VersionCounter,
}

/// What the range is to an operation.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    pub(super) epoch: Epoch,
    pub(super) pull: Option<PullId>,
    pub(super) now: Timestamp,
}

/// Nothing is pulled.
pub(super) const CALM: Scene = Scene {
    epoch: Epoch::new(1),
    pull: None,
    now: NOW,
};

/// [`PULL`] fills it, and the giver was asked.
pub(super) const PULLING: Scene = Scene {
    pull: Some(PULL),
    ..CALM
};

impl Rig {
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self::with(MokaStoreConfig {
            budget_bytes,
            ..MokaStoreConfig::default()
        })
    }

    pub(super) fn with(config: MokaStoreConfig) -> Self {
        Self {
            store: MokaStore::new(config),
            versions: VersionCounter::starting_at(Version::new(FIRST)),
        }
    }

    pub(super) fn context(&self, scene: Scene) -> OpContext<'_> {
        OpContext {
            now: scene.now,
            epoch: scene.epoch,
            versions: &self.versions,
            pull: scene.pull,
            absence: Absence::Final,
        }
    }

    pub(super) fn set(&self, scene: Scene, key: u64, value: &str) -> Version {
        self.set_until(scene, key, value, Timestamp::NEVER)
    }

    pub(super) fn set_until(&self, scene: Scene, key: u64, value: &str, deadline: Timestamp) -> Version {
        match self.set_if(scene, key, value, deadline, SetCondition::Always) {
            SetOutcome::Stored(version) => version,
            SetOutcome::Refused(_) => panic!("an unconditional set must apply"),
        }
    }

    pub(super) fn set_if(
        &self,
        scene: Scene,
        key: u64,
        value: &str,
        deadline: Timestamp,
        condition: SetCondition,
    ) -> SetOutcome {
        let (name, context) = (key.to_string(), self.context(scene));
        let outcome = self.store.set(
            name.as_bytes(),
            at(key),
            value.as_bytes(),
            deadline,
            condition,
            &context,
        );
        match outcome {
            Ok(Outcome::Done(outcome)) => outcome,
            other => panic!("absence is final here: {other:?}"),
        }
    }

    pub(super) fn delete(&self, scene: Scene, key: u64) -> bool {
        let outcome = self
            .store
            .delete(key.to_string().as_bytes(), at(key), true, &self.context(scene));
        outcome == Outcome::Done(true)
    }

    pub(super) fn touch(&self, scene: Scene, key: u64, deadline: Timestamp) -> bool {
        let outcome = self.store.touch(
            key.to_string().as_bytes(),
            at(key),
            deadline,
            &self.context(scene),
        );
        outcome == Outcome::Done(true)
    }

    pub(super) fn add(&self, scene: Scene, key: u64) -> i64 {
        let (name, context) = (key.to_string(), self.context(scene));
        let outcome = self
            .store
            .add(name.as_bytes(), at(key), 1, Timestamp::NEVER, &context);
        match outcome {
            Ok(Outcome::Done(added)) => added.number,
            other => panic!("absence is final here: {other:?}"),
        }
    }

    pub(super) fn get(&self, scene: Scene, key: u64) -> Option<Found> {
        let outcome = self
            .store
            .get(key.to_string().as_bytes(), at(key), &self.context(scene));
        match outcome {
            Outcome::Done(found) => found,
            Outcome::Unknown => panic!("absence is final here"),
        }
    }

    pub(super) fn value(&self, scene: Scene, key: u64) -> Option<String> {
        let found = self.get(scene, key)?;
        Some(String::from_utf8(found.value.to_vec()).expect("tests write text"))
    }

    /// An import of a value called "old", by a chunk or by a peek.
    pub(super) fn import(&self, key: u64, is_peeked: bool) -> ImportOutcome {
        let name = key.to_string();
        let import = Import {
            key: name.as_bytes(),
            at: at(key),
            value: b"old",
            version: OLD,
            deadline: Timestamp::NEVER,
            class: FrequencyClass::clamped(20),
        };
        let epoch = PULLING.epoch;
        if is_peeked {
            self.store.import_peeked(PULL, epoch, NOW, &import)
        } else {
            self.store.import(PULL, epoch, NOW, &import)
        }
    }

    /// Fills a tight store with other keys, so that what was there is evicted.
    pub(super) fn crowd(&self, scene: Scene, from: u64, count: u64) {
        for key in from..from + count {
            self.set(scene, key, "crowd");
        }
    }
}

pub(super) fn at(key: u64) -> SliceKey {
    SliceKey::new(key)
}

pub(super) fn all_of(epoch: Epoch) -> Part {
    Part {
        slice: Slice::FULL,
        epoch,
    }
}

/// Runs threads side by side until all have ended.
pub(super) fn side_by_side(threads: &[&(dyn Fn() + Sync)]) {
    thread::scope(|scope| {
        for thread in threads {
            scope.spawn(thread);
        }
    });
}
