//! Random operations against an oracle: a plain map per epoch, what the giver has, and a set of written keys. There is
//! room for everything, so an engine and the oracle must agree on each answer, to the version and the deadline.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use softstore_sharding::{
    Epoch, FrequencyClass, PullId, Slice, SliceKey, Timestamp, Version, VersionCounter,
};
use softstore_store::conformance::Config;
use softstore_store::{
    Absence, Added, Found, Import, ImportOutcome, OpContext, Outcome, Part, SetCondition, SetOutcome, Store,
    StoreError,
};

use crate::conformance::{model_store, moka_store};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
const PULL: PullId = PullId::new(1);
const FIRST_VERSION: u64 = 100;

/// One step of a random run. Keys are indices into [`KEYS`]; a lifetime of 0 is none.
#[derive(Clone, Debug)]
enum Step {
    Get(usize),
    Set {
        key: usize,
        value: u8,
        lifetime_ms: u64,
        condition: Condition,
    },
    Delete {
        key: usize,
        report_existence: bool,
    },
    Touch {
        key: usize,
        lifetime_ms: u64,
    },
    Add {
        key: usize,
        delta: i64,
        lifetime_ms: u64,
    },
    Import {
        key: usize,
        lifetime_ms: u64,
    },
    Advance(u64),
    LeaveEpoch,
    BeginPull,
    EndPull,
    SetAbsence(bool),
    Maintain,
    List,
}

/// A condition whose version is that of the key, or not.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Always,
    IfAbsent,
    IfPresent,
    IfSameVersion,
    IfOtherVersion,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..KEYS.len();
    let lifetime = || prop_oneof![Just(0_u64), 1..30_u64];
    let condition = prop_oneof![
        3 => Just(Condition::Always),
        1 => Just(Condition::IfAbsent),
        1 => Just(Condition::IfPresent),
        1 => Just(Condition::IfSameVersion),
        1 => Just(Condition::IfOtherVersion),
    ];
    let set = (key(), any::<u8>(), lifetime(), condition);
    let step = prop_oneof![
        6 => key().prop_map(Step::Get),
        6 => set.prop_map(|(key, value, lifetime_ms, condition)| Step::Set { key, value, lifetime_ms, condition }),
        3 => (key(), any::<bool>()).prop_map(|(key, report_existence)| Step::Delete { key, report_existence }),
        2 => (key(), lifetime()).prop_map(|(key, lifetime_ms)| Step::Touch { key, lifetime_ms }),
        3 => (key(), -5..5_i64, lifetime())
            .prop_map(|(key, delta, lifetime_ms)| Step::Add { key, delta, lifetime_ms }),
        4 => (key(), lifetime()).prop_map(|(key, lifetime_ms)| Step::Import { key, lifetime_ms }),
        3 => (0..20_u64).prop_map(Step::Advance),
        1 => Just(Step::LeaveEpoch),
        1 => Just(Step::BeginPull),
        1 => Just(Step::EndPull),
        1 => any::<bool>().prop_map(Step::SetAbsence),
        1 => Just(Step::Maintain),
        1 => Just(Step::List),
    ];
    prop::collection::vec(step, 1..150)
}

#[derive(Clone, Debug)]
struct Standing {
    value: Vec<u8>,
    version: u64,
    deadline: Timestamp,
}

/// The oracle, and beside it what it shares with the engine: time, epoch, pull.
struct Oracle {
    entries: BTreeMap<usize, Standing>,
    written: Option<BTreeSet<usize>>,
    is_pulled_before: bool,
    absence: Absence,
    epoch: u32,
    now: Timestamp,
    next_version: u64,
}

impl Oracle {
    fn live(&self, key: usize) -> Option<&Standing> {
        self.entries.get(&key).filter(|entry| entry.deadline > self.now)
    }

    fn must_ask(&self, key: usize) -> bool {
        let is_open = self
            .written
            .as_ref()
            .is_some_and(|written| !written.contains(&key));
        is_open && self.absence == Absence::AskGiver && self.live(key).is_none()
    }

    fn write(&mut self, key: usize, value: Vec<u8>, deadline: Timestamp) -> Version {
        self.written.as_mut().map(|written| written.insert(key));
        let version = self.next_version;
        self.next_version += 1;
        self.entries.insert(
            key,
            Standing {
                value,
                version,
                deadline,
            },
        );
        Version::new(version)
    }

    fn get(&self, key: usize) -> Outcome<Option<Found>> {
        if self.must_ask(key) {
            return Outcome::Unknown;
        }
        Outcome::Done(self.live(key).map(|entry| Found {
            value: entry.value.clone().into(),
            version: Version::new(entry.version),
            deadline: entry.deadline,
        }))
    }

    fn condition(&self, key: usize, condition: Condition) -> SetCondition {
        let version = self.live(key).map_or(1, |entry| entry.version);
        match condition {
            Condition::Always => SetCondition::Always,
            Condition::IfAbsent => SetCondition::IfAbsent,
            Condition::IfPresent => SetCondition::IfPresent,
            Condition::IfSameVersion => SetCondition::IfVersion(Version::new(version)),
            Condition::IfOtherVersion => SetCondition::IfVersion(Version::new(version + 1)),
        }
    }

    fn set(
        &mut self,
        key: usize,
        value: Vec<u8>,
        deadline: Timestamp,
        condition: SetCondition,
    ) -> Outcome<SetOutcome> {
        if condition != SetCondition::Always && self.must_ask(key) {
            return Outcome::Unknown;
        }
        let present = self.live(key).map(|entry| Version::new(entry.version));
        let applies = match condition {
            SetCondition::Always => true,
            SetCondition::IfAbsent => present.is_none(),
            SetCondition::IfPresent => present.is_some(),
            SetCondition::IfVersion(version) => present == Some(version),
        };
        Outcome::Done(if applies {
            SetOutcome::Stored(self.write(key, value, deadline))
        } else {
            SetOutcome::Refused(present)
        })
    }

    fn delete(&mut self, key: usize, report_existence: bool) -> Outcome<bool> {
        if report_existence && self.must_ask(key) {
            return Outcome::Unknown;
        }
        let was_present = self.live(key).is_some();
        self.written.as_mut().map(|written| written.insert(key));
        self.entries.remove(&key);
        Outcome::Done(was_present)
    }

    fn touch(&mut self, key: usize, deadline: Timestamp) -> Outcome<bool> {
        if self.must_ask(key) {
            return Outcome::Unknown;
        }
        if self.live(key).is_none() {
            return Outcome::Done(false);
        }
        self.written.as_mut().map(|written| written.insert(key));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.deadline = deadline;
        }
        Outcome::Done(true)
    }

    fn add(&mut self, key: usize, delta: i64, deadline: Timestamp) -> Result<Outcome<Added>, StoreError> {
        if self.must_ask(key) {
            return Ok(Outcome::Unknown);
        }
        let (number, deadline) = match self.live(key) {
            None => (0, deadline),
            Some(entry) => {
                let text = String::from_utf8(entry.value.clone()).map_err(|_| StoreError::NotANumber)?;
                (text.parse().map_err(|_| StoreError::NotANumber)?, entry.deadline)
            }
        };
        let number: i64 = number;
        let number = number + delta;
        let version = self.write(key, number.to_string().into_bytes(), deadline);
        Ok(Outcome::Done(Added { number, version }))
    }

    fn import(&mut self, key: usize, deadline: Timestamp) -> ImportOutcome {
        let Some(written) = &self.written else {
            return ImportOutcome::Ended;
        };
        if written.contains(&key) {
            return ImportOutcome::Written;
        }
        if deadline <= self.now {
            return ImportOutcome::Expired;
        }
        if self.live(key).is_some() {
            return ImportOutcome::Present;
        }
        self.entries.insert(
            key,
            Standing {
                value: b"imported".to_vec(),
                version: 7,
                deadline,
            },
        );
        ImportOutcome::Inserted
    }

    fn positions(&self) -> Vec<SliceKey> {
        let mut positions: Vec<SliceKey> = (0..KEYS.len())
            .filter(|&key| self.live(key).is_some())
            .map(position)
            .collect();
        positions.sort_unstable();
        positions
    }
}

fn position(key: usize) -> SliceKey {
    SliceKey::of_key(KEYS[key].as_bytes())
}

/// A value that is a number as often as not.
fn value(seed: u8) -> Vec<u8> {
    if seed.is_multiple_of(2) {
        seed.to_string().into_bytes()
    } else {
        format!("text {seed}").into_bytes()
    }
}

/// Runs the steps on both and compares. All versions come from the same start, so they must be equal too.
fn compare(store: &dyn Store, steps: &[Step]) -> Result<(), TestCaseError> {
    let versions = VersionCounter::starting_at(Version::new(FIRST_VERSION));
    let mut oracle = Oracle {
        entries: BTreeMap::new(),
        written: None,
        is_pulled_before: false,
        absence: Absence::AskGiver,
        epoch: 1,
        now: Timestamp::from_ms(1_000),
        next_version: FIRST_VERSION,
    };
    for step in steps {
        compare_step(store, &versions, &mut oracle, step)?;
    }
    Ok(())
}

fn compare_step(
    store: &dyn Store,
    versions: &VersionCounter,
    oracle: &mut Oracle,
    step: &Step,
) -> Result<(), TestCaseError> {
    let now = oracle.now;
    let epoch = Epoch::new(oracle.epoch);
    let context = OpContext {
        now,
        epoch,
        versions,
        pull: oracle.is_pulled_before.then_some(PULL),
        absence: oracle.absence,
    };
    let deadline = |lifetime_ms: u64| match lifetime_ms {
        0 => Timestamp::NEVER,
        _ => now.plus_ms(lifetime_ms),
    };
    let name = |key: usize| KEYS[key].as_bytes();
    match *step {
        Step::Get(key) => {
            prop_assert_eq!(store.get(name(key), position(key), &context), oracle.get(key));
        }
        Step::Set {
            key,
            value: seed,
            lifetime_ms,
            condition,
        } => {
            let condition = oracle.condition(key, condition);
            let (value, deadline) = (value(seed), deadline(lifetime_ms));
            let outcome = store.set(name(key), position(key), &value, deadline, condition, &context);
            prop_assert_eq!(outcome, Ok(oracle.set(key, value, deadline, condition)));
        }
        Step::Delete {
            key,
            report_existence,
        } => {
            let outcome = store.delete(name(key), position(key), report_existence, &context);
            prop_assert_eq!(outcome, oracle.delete(key, report_existence));
        }
        Step::Touch { key, lifetime_ms } => {
            let deadline = deadline(lifetime_ms);
            let outcome = store.touch(name(key), position(key), deadline, &context);
            prop_assert_eq!(outcome, oracle.touch(key, deadline));
        }
        Step::Add {
            key,
            delta,
            lifetime_ms,
        } => {
            let deadline = deadline(lifetime_ms);
            let outcome = store.add(name(key), position(key), delta, deadline, &context);
            prop_assert_eq!(outcome, oracle.add(key, delta, deadline));
        }
        Step::Import { key, lifetime_ms } => {
            let import = Import {
                key: name(key),
                at: position(key),
                value: b"imported",
                version: Version::new(7),
                deadline: deadline(lifetime_ms),
                class: FrequencyClass::clamped(9),
            };
            let outcome = store.import(PULL, epoch, now, &import);
            prop_assert_eq!(outcome, oracle.import(key, import.deadline));
        }
        Step::Advance(ms) => oracle.now = now.plus_ms(ms),
        Step::LeaveEpoch => {
            // The pull of the old epoch ends with it, as the contract has it.
            store.end_pull(PULL);
            store.purge(Part {
                slice: Slice::FULL,
                epoch,
            });
            oracle.written = None;
            oracle.epoch += 1;
            oracle.entries.clear();
        }
        Step::BeginPull if !oracle.is_pulled_before => {
            store.begin_pull(PULL);
            oracle.is_pulled_before = true;
            oracle.written = Some(BTreeSet::new());
        }
        Step::BeginPull => {}
        Step::EndPull => {
            store.end_pull(PULL);
            oracle.written = None;
        }
        Step::SetAbsence(is_final) => {
            oracle.absence = if is_final {
                Absence::Final
            } else {
                Absence::AskGiver
            };
        }
        Step::Maintain => store.maintain(now),
        Step::List => {
            let part = Part {
                slice: Slice::FULL,
                epoch,
            };
            let mut positions = store.list(&[part], now).positions;
            positions.sort_unstable();
            prop_assert_eq!(positions, oracle.positions());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn moka_agrees_with_the_oracle(steps in steps()) {
        compare(&*moka_store(Config::default()), &steps)?;
    }

    #[test]
    fn the_model_agrees_with_the_oracle(steps in steps()) {
        compare(&*model_store(Config::default()), &steps)?;
    }
}
