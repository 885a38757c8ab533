//! [`ModelStore`]: the engine of the simulation, as plain as the contract allows: one lock, one map, and
//! nothing put off for later. It gives the answers that [`MokaStore`](crate::MokaStore) gives, and the same ones every time.
//!
//! With a budget it evicts what was used longest ago, counted in operations, so that a simulation meets evictions too.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use parking_lot::Mutex;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::{Epoch, FrequencyClass, PullId, SliceKey, Timestamp, Version};

use crate::frequency::{Decay, FREQUENCY_HALF_LIFE_MS, Frequency};
use crate::moka_engine::{VALUE_BYTES_MAX, WRITTEN_KEYS_MAX};
use crate::rules::{SetVerdict, add_to, check_entry, check_key, judge_set};
use crate::store::{
    Absence, Added, Frozen, Import, ImportOutcome, Listing, OpContext, Outcome, Part, PartStats, Reading,
    SetCondition, SetOutcome, Store, StoreError, StoreStats,
};

/// What an entry counts beside its key's and value's bytes.
pub const MODEL_ENTRY_OVERHEAD_BYTES: u64 = 64;

/// How a [`ModelStore`] is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModelStoreConfig {
    /// Bytes for keys, values and [`MODEL_ENTRY_OVERHEAD_BYTES`] each, at first and at most. Default: no limit.
    pub budget_bytes: u64,
    /// Longest value in bytes. Default 8 MiB.
    pub value_bytes_max: usize,
    /// After how many milliseconds without access an access count has halved. Default 300,000.
    pub frequency_half_life_ms: u64,
    /// Most keys remembered as written, over all open pulls; and as many again over those whose giver is away. Default 4,194,304.
    pub written_keys_max: u64,
}

impl Default for ModelStoreConfig {
    fn default() -> Self {
        Self {
            budget_bytes: u64::MAX,
            value_bytes_max: VALUE_BYTES_MAX,
            frequency_half_life_ms: FREQUENCY_HALF_LIFE_MS,
            written_keys_max: WRITTEN_KEYS_MAX,
        }
    }
}

/// The simulation's engine. See the head of this file.
#[derive(Debug)]
pub struct ModelStore {
    config: ModelStoreConfig,
    decay: Decay,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Entry {
    key: Bytes,
    value: Bytes,
    epoch: Epoch,
    version: Version,
    deadline: Timestamp,
    frequency: Frequency,
    /// Its place in the order of use.
    used: u64,
}

#[derive(Debug, Default)]
struct Pull {
    written: BTreeSet<SliceKey>,
    overflowed: bool,
    /// It began without a giver.
    is_awaiting: bool,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<SliceKey, Entry>,
    /// Who was used when, longest ago first.
    order: BTreeMap<u64, SliceKey>,
    uses: u64,
    pulls: BTreeMap<PullId, Pull>,
    /// Of the keys remembered as written, those in pulls that began without a giver.
    awaited_keys: u64,
    /// The latest time of an operation, for what is given none.
    latest: Timestamp,
    stats: StoreStats,
}

impl Entry {
    fn weight_bytes(&self) -> u64 {
        weight_bytes(self.key.len(), self.value.len())
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        self.deadline <= now
    }

    fn read(&self, answer: &mut dyn FnMut(Reading<'_>)) {
        let share = || self.value.clone();
        answer(Reading::new(&self.value, self.version, self.deadline).shared_by(&share));
    }
}

fn weight_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
    (key_bytes + value_bytes) as u64 + MODEL_ENTRY_OVERHEAD_BYTES
}

impl State {
    /// The entry that an operation sees. One found expired is removed.
    fn live(&mut self, key: &[u8], at: SliceKey, context: &OpContext<'_>) -> Option<&mut Entry> {
        self.latest = self.latest.max(context.now);
        if self.entries.get(&at)?.is_expired(context.now) {
            self.remove(at);
            self.stats.expired += 1;
            return None;
        }
        self.entries
            .get_mut(&at)
            .filter(|entry| entry.epoch == context.epoch && entry.key == key)
    }

    fn must_ask(&self, at: SliceKey, context: &OpContext<'_>) -> bool {
        context.absence == Absence::AskGiver
            && context.pull.is_some_and(|pull| {
                self.pulls
                    .get(&pull)
                    .is_some_and(|pull| !pull.overflowed && !pull.written.contains(&at))
            })
    }

    fn remember(&mut self, at: SliceKey, context: &OpContext<'_>, keys_max: u64) {
        let Some(pull) = context.pull.and_then(|pull| self.pulls.get_mut(&pull)) else {
            return;
        };
        if pull.overflowed || pull.written.contains(&at) {
            return;
        }
        let keys = match pull.is_awaiting {
            true => self.awaited_keys,
            false => self.stats.written_keys - self.awaited_keys,
        };
        if keys >= keys_max {
            pull.overflowed = !planted::is(Bug::OverflowIgnored);
            return;
        }
        self.awaited_keys += u64::from(pull.is_awaiting);
        self.stats.written_keys += 1;
        pull.written.insert(at);
    }

    fn remember_refusal(&mut self, at: SliceKey, context: &OpContext<'_>, keys_max: u64) {
        if context.absence == Absence::Awaited {
            self.remember(at, context, keys_max);
        }
    }

    fn mark_used(&mut self, at: SliceKey) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        self.order.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        self.order.insert(self.uses, at);
    }

    fn insert(&mut self, at: SliceKey, entry: Entry) {
        if let Some(displaced) = self.remove(at) {
            self.stats.collisions += u64::from(displaced.key != entry.key);
        }
        self.stats.entries += 1;
        self.stats.bytes += entry.weight_bytes();
        self.entries.insert(at, entry);
        self.mark_used(at);
        self.evict();
    }

    fn evict(&mut self) {
        while self.stats.bytes > self.stats.budget_bytes {
            let Some((_, &victim)) = self.order.first_key_value() else {
                return;
            };
            self.remove(victim);
            self.stats.evicted += 1;
            if planted::is(Bug::WrittenForgottenOnEviction) {
                self.forget_written(victim);
            }
        }
    }

    fn remove(&mut self, at: SliceKey) -> Option<Entry> {
        let entry = self.entries.remove(&at)?;
        self.order.remove(&entry.used);
        self.stats.entries -= 1;
        self.stats.bytes -= entry.weight_bytes();
        Some(entry)
    }

    /// [`Bug::WrittenForgottenOnEviction`].
    fn forget_written(&mut self, at: SliceKey) {
        for pull in self.pulls.values_mut() {
            let forgotten = u64::from(pull.written.remove(&at));
            self.stats.written_keys -= forgotten;
            self.awaited_keys -= forgotten * u64::from(pull.is_awaiting);
        }
    }

    fn retain(&mut self, part: Option<Part>, is_dead: impl Fn(&Entry) -> bool) -> u64 {
        let (low, last) = part.map_or((SliceKey::MIN, SliceKey::MAX), |part| {
            (part.slice.low(), part.slice.last())
        });
        let dead: Vec<SliceKey> = self
            .entries
            .range(low..=last)
            .filter(|(_, entry)| is_dead(entry))
            .map(|(&at, _)| at)
            .collect();
        for &at in &dead {
            self.remove(at);
        }
        dead.len() as u64
    }
}

impl ModelStore {
    /// An empty store.
    #[must_use]
    pub fn new(config: ModelStoreConfig) -> Self {
        let stats = StoreStats {
            budget_bytes: config.budget_bytes,
            ..StoreStats::default()
        };
        Self {
            config,
            decay: Decay::with_half_life_ms(config.frequency_half_life_ms),
            state: Mutex::new(State {
                stats,
                ..State::default()
            }),
        }
    }

    fn check_fits(&self, state: &State, key: &[u8], value_bytes: usize) -> Result<(), StoreError> {
        let weight = weight_bytes(key.len(), value_bytes);
        check_entry(
            key,
            value_bytes,
            self.config.value_bytes_max,
            weight,
            state.stats.budget_bytes,
        )
    }

    /// Puts a written value in place, with the heat of what it replaces.
    fn put(
        &self,
        state: &mut State,
        key: &[u8],
        at: SliceKey,
        value: &[u8],
        deadline: Timestamp,
        context: &OpContext<'_>,
    ) -> Version {
        state.remember(at, context, self.config.written_keys_max);
        let version = context.versions.take();
        let frequency = match state.live(key, at, context) {
            None => Frequency::with_count(1.0, context.now),
            Some(entry) => {
                entry.frequency.record(context.now, self.decay);
                entry.frequency.clone()
            }
        };
        let entry = Entry {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            epoch: context.epoch,
            version,
            deadline,
            frequency,
            used: 0,
        };
        state.insert(at, entry);
        version
    }

    fn take_in(
        &self,
        pull: PullId,
        epoch: Epoch,
        now: Timestamp,
        import: &Import<'_>,
        is_awaited: bool,
    ) -> ImportOutcome {
        let mut state = self.state.lock();
        if self.check_fits(&state, import.key, import.value.len()).is_err() {
            return ImportOutcome::Refused;
        }
        state.latest = state.latest.max(now);
        let overwrites = planted::is(Bug::ChunkOverwrites);
        match state.pulls.get(&pull) {
            None if planted::is(Bug::LatePeekImported) => {}
            Some(_) if overwrites || planted::is(Bug::ImportCheckOutsideLock) => {}
            None => return ImportOutcome::Ended,
            Some(pull) if pull.overflowed || pull.written.contains(&import.at) => {
                return ImportOutcome::Written;
            }
            Some(_) => {}
        }
        if import.deadline <= now {
            return ImportOutcome::Expired;
        }
        let standing = state.entries.get(&import.at);
        if standing.is_some_and(|entry| entry.epoch == epoch && !entry.is_expired(now)) && !overwrites {
            return ImportOutcome::Present;
        }
        let entry = Entry {
            key: Bytes::copy_from_slice(import.key),
            value: Bytes::copy_from_slice(import.value),
            epoch,
            version: import.version,
            deadline: import.deadline,
            frequency: Frequency::of_class(import.class, now),
            used: 0,
        };
        if !is_awaited && !self.has_room_for(&state, &entry, import.class, now) {
            return ImportOutcome::TooCold;
        }
        state.stats.imported += 1;
        state.stats.imported_bytes += (import.key.len() + import.value.len()) as u64;
        state.insert(import.at, entry);
        ImportOutcome::Inserted
    }

    /// Whether there is room for an import, or what would be evicted first is colder.
    fn has_room_for(&self, state: &State, entry: &Entry, class: FrequencyClass, now: Timestamp) -> bool {
        if state.stats.bytes + entry.weight_bytes() <= state.stats.budget_bytes {
            return true;
        }
        let victim = state
            .order
            .first_key_value()
            .and_then(|(_, at)| state.entries.get(at));
        victim
            .is_none_or(|victim| victim.is_expired(now) || victim.frequency.class_at(now, self.decay) < class)
    }
}

impl Store for ModelStore {
    fn read(
        &self,
        key: &[u8],
        at: SliceKey,
        context: &OpContext<'_>,
        answer: &mut dyn FnMut(Reading<'_>),
    ) -> Outcome<bool> {
        let mut state = self.state.lock();
        let Some(entry) = state.live(key, at, context) else {
            return if check_key(key).is_ok() && state.must_ask(at, context) {
                Outcome::Unknown
            } else {
                Outcome::Done(false)
            };
        };
        entry.frequency.record(context.now, self.decay);
        entry.read(answer);
        state.mark_used(at);
        Outcome::Done(true)
    }

    fn set(
        &self,
        key: &[u8],
        at: SliceKey,
        value: &[u8],
        deadline: Timestamp,
        condition: SetCondition,
        context: &OpContext<'_>,
    ) -> Result<Outcome<SetOutcome>, StoreError> {
        let mut state = self.state.lock();
        self.check_fits(&state, key, value.len())?;
        let present = state.live(key, at, context).map(|entry| entry.version);
        match judge_set(condition, present, || state.must_ask(at, context)) {
            SetVerdict::Ask => Ok(Outcome::Unknown),
            SetVerdict::Refuse(version) => {
                if version.is_none() {
                    state.remember_refusal(at, context, self.config.written_keys_max);
                }
                Ok(Outcome::Done(SetOutcome::Refused(version)))
            }
            SetVerdict::Apply => {
                let version = self.put(&mut state, key, at, value, deadline, context);
                Ok(Outcome::Done(SetOutcome::Stored(version)))
            }
        }
    }

    fn delete(
        &self,
        key: &[u8],
        at: SliceKey,
        report_existence: bool,
        context: &OpContext<'_>,
    ) -> Outcome<bool> {
        if check_key(key).is_err() {
            return Outcome::Done(false);
        }
        let mut state = self.state.lock();
        let is_present = state.live(key, at, context).is_some();
        if !is_present && report_existence && state.must_ask(at, context) {
            return Outcome::Unknown;
        }
        if is_present || !planted::is(Bug::AbsentDeleteUnrecorded) {
            state.remember(at, context, self.config.written_keys_max);
        }
        if is_present {
            state.remove(at);
        }
        Outcome::Done(is_present)
    }

    fn touch(&self, key: &[u8], at: SliceKey, deadline: Timestamp, context: &OpContext<'_>) -> Outcome<bool> {
        if check_key(key).is_err() {
            return Outcome::Done(false);
        }
        let mut state = self.state.lock();
        if state.live(key, at, context).is_none() {
            if state.must_ask(at, context) {
                return Outcome::Unknown;
            }
            state.remember_refusal(at, context, self.config.written_keys_max);
            return Outcome::Done(false);
        }
        if !planted::is(Bug::TouchUnrecorded) {
            state.remember(at, context, self.config.written_keys_max);
        }
        if let Some(entry) = state.live(key, at, context) {
            entry.deadline = deadline;
            entry.frequency.record(context.now, self.decay);
        }
        state.mark_used(at);
        Outcome::Done(true)
    }

    fn add(
        &self,
        key: &[u8],
        at: SliceKey,
        delta: i64,
        deadline: Timestamp,
        context: &OpContext<'_>,
    ) -> Result<Outcome<Added>, StoreError> {
        check_key(key)?;
        let mut state = self.state.lock();
        let present = state
            .live(key, at, context)
            .map(|entry| (entry.value.clone(), entry.deadline));
        if present.is_none() && !planted::is(Bug::AddWithoutPeek) && state.must_ask(at, context) {
            return Ok(Outcome::Unknown);
        }
        let (value, deadline) = present.unwrap_or((Bytes::from_static(b"0"), deadline));
        let number = add_to(&value, delta)?;
        let value = number.to_string();
        self.check_fits(&state, key, value.len())?;
        let version = self.put(&mut state, key, at, value.as_bytes(), deadline, context);
        Ok(Outcome::Done(Added { number, version }))
    }

    fn begin_pull(&self, pull: PullId) {
        self.state.lock().pulls.insert(pull, Pull::default());
    }

    fn begin_awaiting(&self, pull: PullId) {
        let awaiting = Pull {
            is_awaiting: true,
            ..Pull::default()
        };
        self.state.lock().pulls.insert(pull, awaiting);
    }

    fn end_pull(&self, pull: PullId) {
        let mut state = self.state.lock();
        let Some(ended) = state.pulls.remove(&pull) else {
            return;
        };
        let forgotten = ended.written.len() as u64;
        state.stats.written_keys -= forgotten;
        state.awaited_keys -= forgotten * u64::from(ended.is_awaiting);
        if state.stats.bytes < state.stats.budget_bytes / 2 {
            return;
        }
        // Imports came hottest first; from now on the coldest shall go first. See the moka engine's `recency`.
        let latest = state.latest;
        let mut coldest_first: Vec<(usize, u64, SliceKey)> = state
            .entries
            .iter()
            .map(|(&at, entry)| (entry.frequency.heat_at(latest, self.decay), entry.used, at))
            .collect();
        coldest_first.sort_unstable();
        for (_, _, at) in coldest_first {
            state.mark_used(at);
        }
    }

    fn pull_overflowed(&self, pull: PullId) -> bool {
        self.state
            .lock()
            .pulls
            .get(&pull)
            .is_some_and(|pull| pull.overflowed)
    }

    fn import(&self, pull: PullId, epoch: Epoch, now: Timestamp, import: &Import<'_>) -> ImportOutcome {
        self.take_in(pull, epoch, now, import, false)
    }

    fn import_peeked(
        &self,
        pull: PullId,
        epoch: Epoch,
        now: Timestamp,
        import: &Import<'_>,
    ) -> ImportOutcome {
        self.take_in(pull, epoch, now, import, true)
    }

    fn is_written(&self, pull: PullId, at: SliceKey) -> bool {
        self.state
            .lock()
            .pulls
            .get(&pull)
            .is_none_or(|pull| pull.overflowed || pull.written.contains(&at))
    }

    fn list(&self, parts: &[Part], as_of: Timestamp) -> Listing {
        let state = self.state.lock();
        let mut buckets: Vec<Vec<SliceKey>> = vec![Vec::new(); usize::from(FrequencyClass::COUNT)];
        let mut payload_bytes = 0;
        for part in parts {
            for (&at, entry) in state.entries.range(part.slice.low()..=part.slice.last()) {
                if entry.epoch == part.epoch && !entry.is_expired(as_of) {
                    let class = entry.frequency.class_at(as_of, self.decay);
                    buckets[usize::from(class.get())].push(at);
                    payload_bytes += (entry.key.len() + entry.value.len()) as u64;
                }
            }
        }
        Listing::of_buckets(buckets, payload_bytes)
    }

    fn read_frozen(&self, at: SliceKey, epoch: Epoch, as_of: Timestamp) -> Option<Frozen> {
        let state = self.state.lock();
        let entry = state.entries.get(&at)?;
        let is_seen = entry.epoch == epoch && !entry.is_expired(as_of);
        is_seen.then(|| Frozen {
            key: entry.key.clone(),
            at,
            value: entry.value.clone(),
            version: entry.version,
            deadline: entry.deadline,
            class: entry.frequency.class_at(as_of, self.decay),
        })
    }

    fn purge(&self, part: Part) {
        self.state
            .lock()
            .retain(Some(part), |entry| entry.epoch == part.epoch);
    }

    fn purges_waiting(&self) -> usize {
        0
    }

    fn part_stats(&self, part: Part) -> PartStats {
        let state = self.state.lock();
        let entries = state.entries.range(part.slice.low()..=part.slice.last());
        entries.filter(|(_, entry)| entry.epoch == part.epoch).fold(
            PartStats::default(),
            |sum, (_, entry)| PartStats {
                entries: sum.entries + 1,
                bytes: sum.bytes + entry.weight_bytes(),
            },
        )
    }

    fn maintain(&self, now: Timestamp) {
        let mut state = self.state.lock();
        let expired = state.retain(None, |entry| entry.is_expired(now));
        state.stats.expired += expired;
    }

    fn set_budget(&self, budget_bytes: u64) {
        let mut state = self.state.lock();
        state.stats.budget_bytes = budget_bytes.min(self.config.budget_bytes);
        state.evict();
    }

    fn stats(&self) -> StoreStats {
        self.state.lock().stats
    }
}
