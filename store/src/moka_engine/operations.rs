//! What clients ask of a store: get, set, delete, touch and add; and the steps under the key's lock that they share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use softstore_sharding::{SliceKey, Timestamp};

use super::MokaStore;
use super::entry::{Entry, Stamp, copy_payload, weight_bytes};
use super::stripe::Stripe;
use super::written::Memory;
use crate::frequency::Frequency;
use crate::rules::{SetVerdict, add_to, check_entry, check_key, judge_set};
use crate::store::{Absence, Added, Found, OpContext, Outcome, SetCondition, SetOutcome, StoreError};

impl MokaStore {
    pub(super) fn read(&self, key: &[u8], at: SliceKey, context: &OpContext<'_>) -> Outcome<Option<Found>> {
        let stripe = self.stripes.look(at);
        let Some(entry) = stripe.index.get(&at) else {
            return absent(&stripe, key, at, context);
        };
        if entry.is_seen_by(key, context.epoch, context.now) {
            let entry = Arc::clone(entry);
            drop(stripe);
            self.used(at, &entry, context.now);
            return Outcome::Done(Some(entry.found()));
        }
        let answer = absent(&stripe, key, at, context);
        if entry.is_expired(context.now) {
            let expired = Arc::clone(entry);
            drop(stripe);
            self.reclaim_expired(at, &expired, context.now);
        }
        answer
    }

    /// Counts a use of an entry. Outside of the stripe: moka may keep house meanwhile.
    fn used(&self, at: SliceKey, entry: &Entry, now: Timestamp) {
        entry.frequency.record(now, self.decay);
        if entry.is_first_use_in(self.turns.current()) {
            // Tells moka of the use.
            let _ = self.cache.get(&at);
        }
    }

    pub(super) fn write(
        &self,
        key: &[u8],
        at: SliceKey,
        value: &[u8],
        deadline: Timestamp,
        condition: SetCondition,
        context: &OpContext<'_>,
    ) -> Result<Outcome<SetOutcome>, StoreError> {
        self.check_fits(key, value.len())?;
        // Copied before the lock is taken: a value may have megabytes.
        let payload = copy_payload(key, value);
        let mut stripe = self.stripes.lock(at);
        let present = live(&stripe, key, at, context);
        let version = present.as_ref().map(|entry| entry.version);
        match judge_set(condition, version, || must_ask(&stripe, at, context)) {
            SetVerdict::Ask => return Ok(Outcome::Unknown),
            SetVerdict::Refuse(version) => return Ok(Outcome::Done(SetOutcome::Refused(version))),
            SetVerdict::Apply => {}
        }
        self.remember(&mut stripe, at, context);
        let version = context.versions.take();
        let stamp = Stamp {
            epoch: context.epoch,
            version,
            deadline,
            frequency: self.frequency_of_write(present.as_deref(), context.now),
            turn: self.turns.current(),
        };
        self.insert(
            &mut stripe,
            at,
            Entry::new(payload, key.len(), stamp),
            context.now,
        );
        Ok(Outcome::Done(SetOutcome::Stored(version)))
    }

    pub(super) fn erase(
        &self,
        key: &[u8],
        at: SliceKey,
        report_existence: bool,
        context: &OpContext<'_>,
    ) -> Outcome<bool> {
        if check_key(key).is_err() {
            return Outcome::Done(false);
        }
        let mut stripe = self.stripes.lock(at);
        let is_present = live(&stripe, key, at, context).is_some();
        if !is_present && report_existence && must_ask(&stripe, at, context) {
            return Outcome::Unknown;
        }
        self.remember(&mut stripe, at, context);
        if is_present {
            self.remove(&mut stripe, at);
        }
        Outcome::Done(is_present)
    }

    pub(super) fn move_deadline(
        &self,
        key: &[u8],
        at: SliceKey,
        deadline: Timestamp,
        context: &OpContext<'_>,
    ) -> Outcome<bool> {
        if check_key(key).is_err() {
            return Outcome::Done(false);
        }
        let mut stripe = self.stripes.lock(at);
        let Some(entry) = live(&stripe, key, at, context) else {
            return if must_ask(&stripe, at, context) {
                Outcome::Unknown
            } else {
                Outcome::Done(false)
            };
        };
        self.remember(&mut stripe, at, context);
        entry.set_deadline(deadline);
        drop(stripe);
        self.used(at, &entry, context.now);
        Outcome::Done(true)
    }

    pub(super) fn count(
        &self,
        key: &[u8],
        at: SliceKey,
        delta: i64,
        deadline: Timestamp,
        context: &OpContext<'_>,
    ) -> Result<Outcome<Added>, StoreError> {
        check_key(key)?;
        let mut stripe = self.stripes.lock(at);
        let present = live(&stripe, key, at, context);
        if present.is_none() && must_ask(&stripe, at, context) {
            return Ok(Outcome::Unknown);
        }
        let number = add_to(present.as_ref().map_or(b"0", |entry| entry.value()), delta)?;
        let value = number.to_string();
        self.check_fits(key, value.len())?;
        self.remember(&mut stripe, at, context);
        let version = context.versions.take();
        let stamp = Stamp {
            epoch: context.epoch,
            version,
            deadline: present.as_ref().map_or(deadline, |entry| entry.deadline()),
            frequency: self.frequency_of_write(present.as_deref(), context.now),
            turn: self.turns.current(),
        };
        let entry = Entry::new(copy_payload(key, value.as_bytes()), key.len(), stamp);
        self.insert(&mut stripe, at, entry, context.now);
        Ok(Outcome::Done(Added { number, version }))
    }

    /// Checks that this store takes a key and a value of these lengths.
    pub(super) fn check_fits(&self, key: &[u8], value_bytes: usize) -> Result<(), StoreError> {
        let weight = weight_bytes(key.len(), value_bytes);
        check_entry(
            key,
            value_bytes,
            self.config.value_bytes_max,
            weight,
            self.room_bytes,
        )
    }

    /// Puts an entry in place of whatever stands at its position.
    pub(super) fn insert(&self, stripe: &mut Stripe, at: SliceKey, entry: Entry, now: Timestamp) {
        self.latest.see(now);
        self.turns.inserted(entry.weight_bytes());
        let entry = Arc::new(entry);
        self.gauges.entries.fetch_add(1, Ordering::Relaxed);
        self.gauges
            .bytes
            .fetch_add(entry.weight_bytes(), Ordering::Relaxed);
        if let Some(displaced) = stripe.index.insert(at, Arc::clone(&entry)) {
            if displaced.key() != entry.key() {
                self.gauges.collisions.fetch_add(1, Ordering::Relaxed);
            }
            if displaced.is_expired(now) {
                self.gauges.expired.fetch_add(1, Ordering::Relaxed);
            }
            self.uncount(&displaced);
        }
        self.cache.insert(at, entry);
    }

    /// Removes whatever stands at a position.
    pub(super) fn remove(&self, stripe: &mut Stripe, at: SliceKey) {
        if let Some(removed) = stripe.index.remove(&at) {
            self.uncount(&removed);
            self.cache.invalidate(&at);
        }
    }

    /// Takes an entry that has left the index out of the gauges.
    pub(super) fn uncount(&self, entry: &Entry) {
        self.gauges.entries.fetch_sub(1, Ordering::Relaxed);
        self.gauges
            .bytes
            .fetch_sub(entry.weight_bytes(), Ordering::Relaxed);
    }

    /// H3: remembers a position as written, before the write is applied.
    fn remember(&self, stripe: &mut Stripe, at: SliceKey, context: &OpContext<'_>) {
        stripe.written.remember(context.pull, at, &self.written_limit);
    }

    /// A key that is written goes on being as hot as it was, and a write is a use.
    fn frequency_of_write(&self, present: Option<&Entry>, now: Timestamp) -> Frequency {
        match present {
            None => Frequency::with_count(1.0, now),
            Some(entry) => {
                let frequency = entry.frequency.clone();
                frequency.record(now, self.decay);
                frequency
            }
        }
    }
}

/// The entry that an operation sees.
fn live(stripe: &Stripe, key: &[u8], at: SliceKey, context: &OpContext<'_>) -> Option<Arc<Entry>> {
    let entry = stripe.index.get(&at)?;
    entry
        .is_seen_by(key, context.epoch, context.now)
        .then(|| Arc::clone(entry))
}

/// A read's answer when it sees nothing.
fn absent<T>(stripe: &Stripe, key: &[u8], at: SliceKey, context: &OpContext<'_>) -> Outcome<Option<T>> {
    if must_ask(stripe, at, context) && check_key(key).is_ok() {
        Outcome::Unknown
    } else {
        Outcome::Done(None)
    }
}

/// Whether the giver may have a key that is absent here.
fn must_ask(stripe: &Stripe, at: SliceKey, context: &OpContext<'_>) -> bool {
    context.absence == Absence::AskGiver
        && context
            .pull
            .is_some_and(|pull| stripe.written.recall(pull, at) == Memory::Untouched)
}
