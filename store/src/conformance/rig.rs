//! A store under test with its injected time, versions and context, and shorthand for operations on it.

use std::sync::atomic::{AtomicU64, Ordering};

use softstore_sharding::{
    Epoch, FrequencyClass, PullId, Slice, SliceKey, Timestamp, Version, VersionCounter,
};

use super::{Config, Make};
use crate::store::{
    Absence, Added, Found, Frozen, Import, ImportOutcome, Listing, OpContext, Outcome, Part, Reading,
    SetCondition, SetOutcome, Store, StoreError,
};

/// The first version that a rig gives out.
pub(super) const FIRST_VERSION: u64 = 1_000;

/// Where a rig's clock starts, in milliseconds.
const START_MS: u64 = 1_000_000;

/// A store under test.
pub(super) struct Rig {
    pub(super) store: Box<dyn Store>,
    versions: VersionCounter,
    now_ms: AtomicU64,
}

/// The context that operations of a test have: epoch, open pull, meaning of absence.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    pub(super) epoch: Epoch,
    pub(super) pull: Option<PullId>,
    pub(super) absence: Absence,
}

/// A range that nothing is pulled into.
pub(super) const CALM: Scene = Scene {
    epoch: Epoch::new(1),
    pull: None,
    absence: Absence::AskGiver,
};

/// A range that [`PULL`] fills.
pub(super) const PULLING: Scene = Scene {
    epoch: Epoch::new(1),
    pull: Some(PULL),
    absence: Absence::AskGiver,
};

/// The same, after the giver was asked.
pub(super) const ASKED: Scene = Scene {
    absence: Absence::Final,
    ..PULLING
};

/// A range whose giver is away.
pub(super) const AWAITING: Scene = Scene {
    absence: Absence::Awaited,
    ..PULLING
};

/// The pull that most tests use.
pub(super) const PULL: PullId = PullId::new(7);

/// A class by number.
pub(super) fn class(number: u8) -> FrequencyClass {
    FrequencyClass::clamped(number)
}

/// All positions of an epoch.
pub(super) fn all_of(epoch: Epoch) -> Part {
    Part {
        slice: Slice::FULL,
        epoch,
    }
}

/// Random numbers that are the same each time (SplitMix64; Steele, Lea and Flood, OOPSLA 2014).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    /// A number below `sides`, low ones much more often: about as skewed as Zipf's law with exponent 1.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank drawn at random needs no precision"
    )]
    pub(super) fn roll_skewed(&mut self, sides: u64) -> u64 {
        let uniform = self.roll(1 << 24) as f64 / f64::from(1 << 24);
        ((sides as f64).powf(uniform) as u64 - 1).min(sides - 1)
    }
}

impl Rig {
    pub(super) fn new(make: Make<'_>, config: Config) -> Self {
        Self {
            store: make(config),
            versions: VersionCounter::starting_at(Version::new(FIRST_VERSION)),
            now_ms: AtomicU64::new(START_MS),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.now_ms.load(Ordering::Relaxed))
    }

    /// The moment `ms` from now.
    pub(super) fn after_ms(&self, ms: u64) -> Timestamp {
        self.now().plus_ms(ms)
    }

    pub(super) fn advance_ms(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Lets the engine keep house until there is nothing left to do, whatever its steps are.
    pub(super) fn maintain_fully(&self) {
        for _ in 0..2_000 {
            self.store.maintain(self.now());
        }
    }

    fn context(&self, scene: Scene) -> OpContext<'_> {
        OpContext {
            now: self.now(),
            epoch: scene.epoch,
            versions: &self.versions,
            pull: scene.pull,
            absence: scene.absence,
        }
    }

    pub(super) fn get(&self, scene: Scene, key: &str) -> Outcome<Option<Found>> {
        self.get_at(scene, key, position(key))
    }

    pub(super) fn get_at(&self, scene: Scene, key: &str, at: SliceKey) -> Outcome<Option<Found>> {
        self.store.get(key.as_bytes(), at, &self.context(scene))
    }

    pub(super) fn read(&self, scene: Scene, key: &str, answer: &mut dyn FnMut(Reading<'_>)) -> Outcome<bool> {
        self.store
            .read(key.as_bytes(), position(key), &self.context(scene), answer)
    }

    /// The value of a key; `None` if it is absent or unknown.
    pub(super) fn value(&self, scene: Scene, key: &str) -> Option<String> {
        match self.get(scene, key) {
            Outcome::Done(Some(found)) => {
                Some(String::from_utf8(found.value.to_vec()).expect("tests write text"))
            }
            _ => None,
        }
    }

    pub(super) fn set(&self, scene: Scene, key: &str, value: &str) -> Version {
        self.set_until(scene, key, value, Timestamp::NEVER)
    }

    pub(super) fn set_until(&self, scene: Scene, key: &str, value: &str, deadline: Timestamp) -> Version {
        let at = position(key);
        let outcome = self.store.set(
            key.as_bytes(),
            at,
            value.as_bytes(),
            deadline,
            SetCondition::Always,
            &self.context(scene),
        );
        match outcome {
            Ok(Outcome::Done(SetOutcome::Stored(version))) => version,
            other => panic!("an unconditional set must apply: {other:?}"),
        }
    }

    pub(super) fn set_if(
        &self,
        scene: Scene,
        key: &str,
        value: &str,
        condition: SetCondition,
    ) -> Outcome<SetOutcome> {
        self.try_set_at(scene, key.as_bytes(), position(key), value.as_bytes(), condition)
            .expect("the lengths are within limits")
    }

    pub(super) fn try_set(
        &self,
        scene: Scene,
        key: &[u8],
        value: &[u8],
    ) -> Result<Outcome<SetOutcome>, StoreError> {
        self.try_set_at(scene, key, SliceKey::of_key(key), value, SetCondition::Always)
    }

    pub(super) fn try_set_at(
        &self,
        scene: Scene,
        key: &[u8],
        at: SliceKey,
        value: &[u8],
        condition: SetCondition,
    ) -> Result<Outcome<SetOutcome>, StoreError> {
        self.store
            .set(key, at, value, Timestamp::NEVER, condition, &self.context(scene))
    }

    /// A delete that reports existence.
    pub(super) fn delete(&self, scene: Scene, key: &str) -> Outcome<bool> {
        self.store
            .delete(key.as_bytes(), position(key), true, &self.context(scene))
    }

    /// A delete that does not.
    pub(super) fn drop_key(&self, scene: Scene, key: &str) -> Outcome<bool> {
        self.store
            .delete(key.as_bytes(), position(key), false, &self.context(scene))
    }

    pub(super) fn touch(&self, scene: Scene, key: &str, deadline: Timestamp) -> Outcome<bool> {
        self.store
            .touch(key.as_bytes(), position(key), deadline, &self.context(scene))
    }

    pub(super) fn add(&self, scene: Scene, key: &str, delta: i64) -> Result<Outcome<Added>, StoreError> {
        self.add_until(scene, key, delta, Timestamp::NEVER)
    }

    pub(super) fn add_until(
        &self,
        scene: Scene,
        key: &str,
        delta: i64,
        deadline: Timestamp,
    ) -> Result<Outcome<Added>, StoreError> {
        self.store.add(
            key.as_bytes(),
            position(key),
            delta,
            deadline,
            &self.context(scene),
        )
    }

    /// Imports into [`PULL`] and [`PULLING`]'s epoch.
    pub(super) fn import(&self, key: &str, value: &str) -> ImportOutcome {
        self.import_as(key, value, class(10))
    }

    pub(super) fn import_as(&self, key: &str, value: &str, class: FrequencyClass) -> ImportOutcome {
        self.import_whole(
            PULL,
            &Import {
                class,
                ..importable(key, value)
            },
        )
    }

    pub(super) fn import_whole(&self, pull: PullId, import: &Import<'_>) -> ImportOutcome {
        self.store.import(pull, PULLING.epoch, self.now(), import)
    }

    pub(super) fn list(&self, epoch: Epoch) -> Listing {
        self.store.list(&[all_of(epoch)], self.now())
    }

    pub(super) fn frozen(&self, key: &str) -> Option<Frozen> {
        self.store.read_frozen(position(key), CALM.epoch, self.now())
    }

    /// A key's class now.
    pub(super) fn class_of(&self, key: &str) -> Option<u8> {
        self.frozen(key).map(|frozen| frozen.class.get())
    }
}

/// An import of a version below all that a rig gives out.
pub(super) fn importable<'a>(key: &'a str, value: &'a str) -> Import<'a> {
    Import {
        key: key.as_bytes(),
        at: position(key),
        value: value.as_bytes(),
        version: Version::new(FIRST_VERSION - 1),
        deadline: Timestamp::NEVER,
        class: class(10),
    }
}

pub(super) fn position(key: &str) -> SliceKey {
    SliceKey::of_key(key.as_bytes())
}
