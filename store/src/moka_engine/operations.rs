//! What clients ask of a store: get, set, delete, touch and add; and the steps under the key's lock that they share.

use softstore_sharding::{Epoch, SliceKey, Timestamp, Version};
use softstore_sync::atomic::Ordering;
use softstore_sync::planted::{self, Race};

use super::MokaStore;
use super::entry::{Entry, Stamp, weight_bytes};
use super::index::Place;
use super::stripe::Stripe;
use super::written::Memory;
use crate::frequency::Frequency;
use crate::rules::{SetVerdict, add_to, check_entry, check_key, judge_set};
use crate::store::{Absence, Added, OpContext, Outcome, Reading, SetCondition, SetOutcome, StoreError};

/// Up to this many bytes of key and value are copied under the key's lock, at some 10 bytes a nanosecond, straight into
/// the entry that they overwrite if they fit it. More are put into an entry of their own before.
const COPIED_UNDER_LOCK_BYTES_MAX: usize = 4 << 10;

/// A key and a value that are to become an entry.
pub(super) struct Draft<'a> {
    key: &'a [u8],
    value: &'a [u8],
    made: Option<Entry>,
}

impl MokaStore {
    pub(super) fn look_up(
        &self,
        key: &[u8],
        at: SliceKey,
        context: &OpContext<'_>,
        answer: &mut dyn FnMut(Reading<'_>),
    ) -> Outcome<bool> {
        let stripe = self.stripes.look(at);
        let Some(entry) = stripe.index.get(at) else {
            return absent(&stripe, key, at, context);
        };
        if entry.is_seen_by(key, context.epoch, context.now) {
            let must_tell = self.count_use(entry, context.now);
            entry.read(answer);
            drop(stripe);
            if must_tell {
                self.tell_use(at);
            }
            return Outcome::Done(true);
        }
        let answer = absent(&stripe, key, at, context);
        if entry.is_expired(context.now) {
            drop(stripe);
            self.reclaim_expired(at, context.now);
        }
        answer
    }

    /// Counts a use of an entry. Says whether moka must be told.
    fn count_use(&self, entry: &Entry, now: Timestamp) -> bool {
        entry.frequency().record(now, self.decay);
        entry.is_first_use_in(self.turns.current())
    }

    /// Tells moka of a use. Outside of the stripe: moka may keep house meanwhile.
    fn tell_use(&self, at: SliceKey) {
        self.seats.touch(at);
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
        let draft = Draft::of(key, value, context.epoch);
        let early = planted::is(Race::VersionBeforeLock).then(|| context.versions.take());
        let mut stripe = self.lock(at);
        let present = live(&stripe, key, at, context);
        let version = present.map(Entry::version);
        match judge_set(condition, version, || must_ask(&stripe, at, context)) {
            SetVerdict::Ask => return Ok(Outcome::Unknown),
            SetVerdict::Refuse(version) => {
                if version.is_none() {
                    self.remember_refusal(&mut stripe, at, context);
                }
                return Ok(Outcome::Done(SetOutcome::Refused(version)));
            }
            SetVerdict::Apply => {}
        }
        let frequency = self.frequency_of_write(present, context.now);
        self.remember(&mut stripe, at, context);
        let version = early.unwrap_or_else(|| context.versions.take());
        let stamp = Stamp {
            epoch: context.epoch,
            version,
            deadline,
            frequency,
        };
        self.put(&mut stripe, at, draft, &stamp, context.now);
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
        let mut stripe = self.lock(at);
        let is_present = live(&stripe, key, at, context).is_some();
        if !is_present && report_existence && must_ask(&stripe, at, context) {
            return Outcome::Unknown;
        }
        let is_late = planted::is(Race::RememberedAfterLock);
        if !is_late {
            self.remember(&mut stripe, at, context);
        }
        if is_present {
            self.remove(&mut stripe, at);
        }
        if is_late {
            drop(stripe);
            self.remember(&mut self.lock(at), at, context);
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
        let mut stripe = self.lock(at);
        let Some(entry) = live(&stripe, key, at, context) else {
            if must_ask(&stripe, at, context) {
                return Outcome::Unknown;
            }
            self.remember_refusal(&mut stripe, at, context);
            return Outcome::Done(false);
        };
        // Exclusive, and so unseen by others: the order of effect and memory shows to nobody.
        entry.set_deadline(deadline);
        let must_tell = self.count_use(entry, context.now);
        self.remember(&mut stripe, at, context);
        drop(stripe);
        if must_tell {
            self.tell_use(at);
        }
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
        let mut stripe = self.lock(at);
        let present = live(&stripe, key, at, context);
        if present.is_none() && must_ask(&stripe, at, context) {
            return Ok(Outcome::Unknown);
        }
        let number = add_to(present.map_or(b"0", Entry::value), delta)?;
        let value = number.to_string();
        self.check_fits(key, value.len())?;
        let deadline = present.map_or(deadline, Entry::deadline);
        let frequency = self.frequency_of_write(present, context.now);
        self.remember(&mut stripe, at, context);
        let version = context.versions.take();
        let stamp = Stamp {
            epoch: context.epoch,
            version,
            deadline,
            frequency,
        };
        let draft = Draft::of(key, value.as_bytes(), context.epoch);
        self.put(&mut stripe, at, draft, &stamp, context.now);
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
            self.ballast.room_bytes(),
        )
    }

    /// Puts an entry in place of whatever stands at its position. moka is told, unless the entry that stood there
    /// weighed the same and was seated in this turn: then its seat is young enough, and goes to the new one.
    pub(super) fn put(
        &self,
        stripe: &mut Stripe,
        at: SliceKey,
        draft: Draft<'_>,
        stamp: &Stamp,
        now: Timestamp,
    ) {
        self.latest.see(now);
        let turn = self.turns.current();
        let weight = draft.weight_bytes();
        let (entry, weight_before) = match stripe.index.place(at) {
            Place::Taken(entry) => {
                self.count_displaced(entry, draft.key, now);
                let before = entry.weight_bytes();
                draft.replace(entry, stamp);
                if weight == before && entry.is_seated_in(turn) {
                    return;
                }
                self.gauges.bytes.fetch_add(weight, Ordering::Relaxed);
                self.gauges.bytes.fetch_sub(before, Ordering::Relaxed);
                self.turns.inserted(weight.saturating_sub(before));
                (entry, Some(before))
            }
            Place::Free(free) => {
                self.gauges.entries.fetch_add(1, Ordering::Relaxed);
                self.gauges.bytes.fetch_add(weight, Ordering::Relaxed);
                self.turns.inserted(weight);
                (free.fill(draft.into_entry(stamp)), None)
            }
        };
        stripe.ticket = stripe.ticket.next();
        self.tell_seat(at, entry.seat(stripe.ticket, turn), weight_before);
    }

    fn count_displaced(&self, entry: &Entry, key: &[u8], now: Timestamp) {
        if entry.key() != key {
            self.gauges.collisions.fetch_add(1, Ordering::Relaxed);
        }
        if entry.is_expired(now) {
            self.gauges.expired.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes whatever stands at a position.
    pub(super) fn remove(&self, stripe: &mut Stripe, at: SliceKey) {
        if let Some(removed) = stripe.index.remove(at) {
            self.forget(at, &removed);
        }
    }

    /// Gives up the seat of an entry that was removed from the index. Still under its stripe.
    pub(super) fn forget(&self, at: SliceKey, removed: &Entry) {
        self.uncount(removed);
        self.give_up_seat(at);
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

    /// Remembers what was refused because its key is absent, where a giver that is away may have it.
    fn remember_refusal(&self, stripe: &mut Stripe, at: SliceKey, context: &OpContext<'_>) {
        if context.absence == Absence::Awaited {
            self.remember(stripe, at, context);
        }
    }

    /// A key that is written goes on being as hot as it was, and a write is a use.
    fn frequency_of_write(&self, present: Option<&Entry>, now: Timestamp) -> Frequency {
        match present {
            None => Frequency::with_count(1.0, now),
            Some(entry) => {
                let frequency = entry.frequency().clone();
                frequency.record(now, self.decay);
                frequency
            }
        }
    }
}

impl<'a> Draft<'a> {
    /// Of a key and a value whose lengths are checked. What is long is copied now.
    pub(super) fn of(key: &'a [u8], value: &'a [u8], epoch: Epoch) -> Self {
        let is_long = key.len() + value.len() > COPIED_UNDER_LOCK_BYTES_MAX;
        let made = is_long.then(|| {
            let blank = Stamp {
                epoch,
                version: Version::new(0),
                deadline: Timestamp::NEVER,
                frequency: Frequency::with_count(0.0, Timestamp::from_ms(0)),
            };
            Entry::new(key, value, &blank)
        });
        Self { key, value, made }
    }

    fn weight_bytes(&self) -> u64 {
        weight_bytes(self.key.len(), self.value.len())
    }

    fn into_entry(self, stamp: &Stamp) -> Entry {
        match self.made {
            Some(entry) => entry.stamped(stamp),
            None => Entry::new(self.key, self.value, stamp),
        }
    }

    /// Replaces what an entry holds, but for its seat.
    fn replace(self, entry: &mut Entry, stamp: &Stamp) {
        if self.made.is_none() && entry.overwrite(self.key, self.value, stamp) {
            return;
        }
        let new = self.into_entry(stamp);
        new.take_seat_of(entry);
        *entry = new;
    }
}

/// The entry that an operation sees.
fn live<'a>(stripe: &'a Stripe, key: &[u8], at: SliceKey, context: &OpContext<'_>) -> Option<&'a Entry> {
    let entry = stripe.index.get(at)?;
    entry.is_seen_by(key, context.epoch, context.now).then_some(entry)
}

/// A read's answer when it sees nothing.
fn absent(stripe: &Stripe, key: &[u8], at: SliceKey, context: &OpContext<'_>) -> Outcome<bool> {
    if must_ask(stripe, at, context) && check_key(key).is_ok() {
        Outcome::Unknown
    } else {
        Outcome::Done(false)
    }
}

/// Whether the giver may have a key that is absent here.
fn must_ask(stripe: &Stripe, at: SliceKey, context: &OpContext<'_>) -> bool {
    context.absence == Absence::AskGiver
        && context
            .pull
            .is_some_and(|pull| stripe.written.recall(pull, at) == Memory::Untouched)
}
