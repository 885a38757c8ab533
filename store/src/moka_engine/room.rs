//! Keeps what is resident within the budget, and the index in step with what moka evicted.
//!
//! moka applies inserts in batches of 64 and more, so by itself it overshoots by the weight of a batch, which is much
//! when values are large. Resident is what the index counts: inserted and not yet removed, evicted entries included
//! until they are removed. Runs after each write, outside of lock stripes.
//!
//! # What it costs a single operation
//! moka evicts, in one run of its tasks, all that was inserted since the last. So a run is due as soon as that is
//! [`APPLIED_BYTES_MAX`], and nothing is inserted at more than an instalment at once (`instalments`): an operation evicts
//! a few hundred entries at most, in less than a millisecond or about one. Only a writer that finds the budget exceeded,
//! reserve and all, goes on until it is not.

use softstore_sharding::SliceKey;
use softstore_sync::RwLockWriteGuard;
use softstore_sync::atomic::Ordering;
use softstore_sync::planted::{self, Race};

use super::MokaStore;
use super::entry::Entry;
use super::seat::Seat;
use super::stripe::{STRIPE_COUNT, Stripe, stripe_index};

/// From how many stripes a write takes victims while there is room. A write evicts one entry of its own size on average,
/// so their number shrinks.
const CLEARED_STRIPES_MAX: usize = 8;

/// After how much weight that moka has not applied a writer makes it do so.
const APPLIED_BYTES_MAX: u64 = 128 << 10;

/// How often a writer that finds the budget exceeded and no instalment owed runs moka's tasks before it lets others do
/// the rest.
const SETTLE_ROUNDS_MAX: usize = 8;

impl MokaStore {
    /// Locks the stripe of a position to change it, and takes from it what moka has evicted there: so whoever holds a
    /// stripe to write sees no entry whose eviction was noted.
    pub(super) fn lock(&self, at: SliceKey) -> RwLockWriteGuard<'_, Stripe> {
        self.lock_nth(stripe_index(at))
    }

    /// The same for a stripe by number, below [`STRIPE_COUNT`].
    pub(super) fn lock_nth(&self, number: usize) -> RwLockWriteGuard<'_, Stripe> {
        let mut stripe = self.stripes.lock_nth(number);
        if self.evictions.has_notes(number) {
            self.clear_evicted(&mut stripe, number);
        }
        stripe
    }

    /// Takes the entries from a stripe whose seats moka took. One that has another seat by now stays.
    fn clear_evicted(&self, stripe: &mut Stripe, number: usize) {
        for (at, ticket) in self.evictions.take(number) {
            let is_meant =
                |entry: &Entry| entry.ticket() == ticket || planted::is(Race::EvictionOfWhateverStands);
            if let Some(victim) = stripe.index.remove_if(at, is_meant) {
                self.evictions.learn_of(&victim, self.latest.get());
                self.uncount(&victim);
            } else if planted::is(Race::CountedOutUnseen) {
                self.gauges.entries.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes what was evicted from some stripes, and evicts: a bounded step, or as much as the budget is exceeded by.
    pub(super) fn settle(&self) {
        self.clear_stripes(CLEARED_STRIPES_MAX);
        if !self.pay_instalment() && self.unapplied_bytes.load(Ordering::Relaxed) > APPLIED_BYTES_MAX {
            self.run_moka_tasks();
        }
        let mut rounds = 0;
        while self.gauges.bytes.load(Ordering::Relaxed) > self.ballast.budget_bytes() {
            if self.pay_instalment() {
                continue;
            }
            if rounds == SETTLE_ROUNDS_MAX {
                return;
            }
            rounds += 1;
            self.run_moka_tasks();
        }
    }

    /// The same after an import. The first one that finds no room is made to evict at once: later ones are judged by
    /// its victim, which in a store that was empty before the pull is one of the hottest imports.
    pub(super) fn settle_import(&self) {
        let bytes = self.gauges.bytes.load(Ordering::Relaxed);
        if bytes > self.ballast.room_bytes() && self.evictions.has_seen_none() {
            self.run_moka_tasks();
        }
        self.settle();
    }

    /// Lets moka apply what it has pending, and takes all that it evicted from the index.
    pub(super) fn run_moka_tasks(&self) {
        self.unapplied_bytes.store(0, Ordering::Relaxed);
        if self.ballast.was_shed() {
            self.trim_ballast();
        }
        self.seats.apply();
        self.clear_stripes(STRIPE_COUNT);
    }

    /// Gives an entry's seat to moka, in place of that of an entry of `weight_before`, if there was one. Under its stripe.
    pub(super) fn tell_seat(&self, at: SliceKey, seat: Seat, weight_before: Option<u64>) {
        let told = self.instalments.pay(at, seat, 0);
        let is_other_weight = |before| before != u64::from(seat.weight_bytes) || told != seat;
        if weight_before.is_some_and(is_other_weight) {
            self.give_up_seat(at);
        }
        self.unapplied_bytes
            .fetch_add(u64::from(told.weight_bytes), Ordering::Relaxed);
        self.seats.give(at, told);
    }

    /// Gives up the seat that moka has at a position, if any: because the entry goes, or before its weight changes. For
    /// a seat that is updated and given up before moka has applied the update, moka 0.12.16 adds the weight before the
    /// update and subtracts the one after it, and its count drifts away from what it holds. A seat that never changes
    /// its weight leaves nothing to drift. Under the position's stripe.
    pub(super) fn give_up_seat(&self, at: SliceKey) {
        self.seats.give_up(at);
    }

    fn clear_stripes(&self, count_max: usize) {
        for _ in 0..count_max {
            let Some(number) = self.evictions.some_noted_stripe() else {
                return;
            };
            drop(self.lock_nth(number));
        }
    }
}

#[cfg(test)]
impl MokaStore {
    /// What is resident is what moka knows, by the same tickets, and the gauges count just that.
    pub(super) fn check_seats(&self) {
        while self.pay_instalment() {}
        self.run_moka_tasks();
        let mut bytes = 0;
        let mut entries = 0;
        for number in 0..STRIPE_COUNT {
            let stripe = self.lock_nth(number);
            for (at, entry) in stripe.index.iter() {
                let seat = self.seats.at(at).expect("resident, so known to moka");
                assert_eq!(seat.ticket, entry.ticket());
                assert_eq!(u64::from(seat.weight_bytes), entry.weight_bytes());
                bytes += entry.weight_bytes();
                entries += 1;
            }
            assert_eq!(stripe.index.range(..).count(), stripe.index.len());
        }
        let stats = crate::store::Store::stats(self);
        assert_eq!((stats.entries, stats.bytes), (entries, bytes));
        self.seats.apply();
        let (ballast_seats, ballast_bytes) = self.ballast.count_and_bytes();
        let seats = (entries + ballast_seats, bytes + ballast_bytes);
        assert_eq!(self.seats.count_and_bytes(), seats);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use softstore_sharding::{Epoch, Timestamp, Version, VersionCounter};

    use super::*;
    use crate::moka_engine::MokaStoreConfig;
    use crate::moka_engine::instalments::INSTALMENT_BYTES;
    use crate::moka_engine::seat::Ticket;
    use crate::store::{Absence, OpContext, Outcome, SetCondition, SetOutcome, Store};

    struct Rig {
        store: MokaStore,
        versions: VersionCounter,
    }

    impl Rig {
        fn new(budget_bytes: u64) -> Self {
            Self {
                store: MokaStore::new(MokaStoreConfig {
                    budget_bytes,
                    ..MokaStoreConfig::default()
                }),
                versions: VersionCounter::starting_at(Version::new(1)),
            }
        }

        fn context(&self) -> OpContext<'_> {
            OpContext {
                now: Timestamp::from_ms(1),
                epoch: Epoch::new(1),
                versions: &self.versions,
                pull: None,
                absence: Absence::Final,
            }
        }

        /// A set that does not settle: what moka evicted waits, but for the key's own stripe.
        fn write(&self, number: usize, value: &[u8]) -> SliceKey {
            let (key, condition) = (number.to_string(), SetCondition::Always);
            let at = position(number);
            let never = Timestamp::NEVER;
            let outcome = self
                .store
                .write(key.as_bytes(), at, value, never, condition, &self.context());
            assert!(matches!(outcome, Ok(Outcome::Done(SetOutcome::Stored(_)))));
            at
        }

        fn ticket(&self, at: SliceKey) -> Option<Ticket> {
            let stripe = self.store.stripes.look_nth(stripe_index(at));
            stripe.index.get(at).map(|entry| entry.ticket())
        }

        fn seat(&self, at: SliceKey) -> Option<Seat> {
            self.store.seats.at(at)
        }

        /// Makes an entry's seat look like one of this turn, as if nothing were older in moka's order.
        fn rejuvenate(&self, at: SliceKey) {
            let stripe = self.store.stripes.look_nth(stripe_index(at));
            let entry = stripe.index.get(at).expect("stands");
            entry.seat(entry.ticket(), self.store.turns.current());
        }

        /// Numbers below `count` that the index has and moka has evicted, after so many writes.
        fn evicted(&self, count: usize) -> Vec<usize> {
            for number in 0..count {
                self.write(number, b"v");
            }
            self.store.seats.apply();
            (0..count)
                .filter(|&number| {
                    let at = position(number);
                    self.ticket(at).is_some() && self.seat(at).is_none()
                })
                .collect()
        }
    }

    fn position(number: usize) -> SliceKey {
        SliceKey::of_key(number.to_string().as_bytes())
    }

    /// Plan: fill the store without draining, so that moka has evicted what the index still lists; put half of that
    /// back, some as if seated in this turn; drain. What was put back stays, in moka and in the index; the other half
    /// goes.
    #[test]
    fn what_is_overwritten_after_its_eviction_is_seated_again() {
        let rig = Rig::new(64 << 10);
        let evicted = rig.evicted(400);
        assert!(evicted.len() > 100, "{}", evicted.len());
        let (back, gone) = evicted[..100].split_at(50);
        for &number in back {
            if number % 2 == 0 && rig.ticket(position(number)).is_some() {
                rig.rejuvenate(position(number));
            }
            rig.write(number, b"w");
        }
        rig.store.clear_stripes(STRIPE_COUNT);
        for &number in back {
            let at = position(number);
            assert_eq!(rig.ticket(at), rig.seat(at).map(|seat| seat.ticket));
            assert!(rig.ticket(at).is_some(), "an acknowledged set is gone");
        }
        assert!(!gone.iter().any(|&number| rig.ticket(position(number)).is_some()));
        rig.store.check_seats();
    }

    /// Plan: moka has taken seats, but their notes have yet to come (they are held back). Overwritten in a later turn, an
    /// entry is seated anew and spared by the late note; overwritten in the turn of its seat, it goes with the seat that
    /// moka chose. None stays that moka does not know.
    #[test]
    fn a_note_that_comes_late_means_the_seat_and_not_the_key() {
        for is_same_turn in [false, true] {
            let rig = Rig::new(64 << 10);
            let evicted = rig.evicted(400);
            let held: Vec<_> = (0..STRIPE_COUNT)
                .flat_map(|number| rig.store.evictions.take(number))
                .collect();
            let overwritten = &evicted[..50];
            for &number in overwritten {
                let at = position(number);
                let before = rig.ticket(at);
                if is_same_turn {
                    rig.rejuvenate(at);
                } else {
                    rig.store.turns.end();
                }
                rig.write(number, b"w");
                assert_eq!(rig.ticket(at) == before, is_same_turn);
            }
            for (at, ticket) in held {
                rig.store.evictions.note(at, ticket);
            }
            rig.store.clear_stripes(STRIPE_COUNT);
            for &number in overwritten {
                let at = position(number);
                assert_eq!(rig.ticket(at).is_some(), !is_same_turn);
                assert_eq!(rig.seat(at).is_some(), !is_same_turn);
            }
            rig.store.check_seats();
        }
    }

    /// Plan: overwrites of the same weight and of others, in one turn and over turns. moka hears of those that change
    /// weight or come in a later turn, and of no others; weights agree throughout.
    #[test]
    fn moka_hears_of_an_overwrite_that_changes_weight_or_turn() {
        let rig = Rig::new(1 << 20);
        let at = rig.write(1, &[b'a'; 100]);
        let first = rig.ticket(at);
        rig.write(1, &[b'b'; 100]);
        assert_eq!(rig.ticket(at), first);
        // Another length in the same size class: another allocation, the same seat.
        rig.write(1, &[b'c'; 101]);
        assert_eq!(rig.ticket(at), first);
        rig.store.check_seats();
        rig.write(1, &[b'd'; 1_000]);
        let second = rig.ticket(at);
        assert_ne!(second, first);
        rig.store.check_seats();
        rig.store.turns.end();
        rig.write(1, &[b'e'; 1_000]);
        assert_ne!(rig.ticket(at), second);
        rig.write(1, b"");
        rig.store.check_seats();
        rig.store.delete(b"1", at, false, &rig.context());
        rig.store.check_seats();
        assert_eq!(rig.store.stats().bytes, 0);
    }

    /// Plan: threads set, overwrite by values of equal and of other weights, delete and read in a store that evicts all
    /// the time; what a thread has set is its own to check: moka evicts it only if it is old. When all is quiet,
    /// everything resident is known to moka.
    #[test]
    fn nothing_stays_that_moka_does_not_know() {
        let rig = Rig::new(96 << 10);
        let lost = AtomicU64::new(0);
        thread::scope(|scope| {
            for worker in 0..4_usize {
                let (rig, lost) = (&rig, &lost);
                scope.spawn(move || {
                    for round in 0..10_000_usize {
                        let number = (round * 7 + round / 3 * 5) % 400 * 4 + worker;
                        let key = number.to_string();
                        let at = position(number);
                        if round % 11 == 0 {
                            rig.store.delete(key.as_bytes(), at, false, &rig.context());
                            continue;
                        }
                        for length in [1, 1, 2, 90 * (round % 5)] {
                            rig.write(number, &vec![b'v'; length]);
                            rig.store.settle();
                        }
                        let found = rig.store.get(key.as_bytes(), at, &rig.context());
                        if !matches!(found, Outcome::Done(Some(_))) {
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        rig.store.check_seats();
        // Only a thread that was off the processor for as long as the others took to write the whole store loses any.
        assert!(lost.load(Ordering::Relaxed) < 400, "{lost:?}");
    }

    /// Plan: a store full of small entries takes a value for which thousands must go, but which fits the reserve. The set
    /// and each of the operations after it evict a few hundred at most; in the end moka knows the whole weight. Of values
    /// beyond the reserve the budget is kept at once.
    #[test]
    fn a_large_value_makes_its_room_bit_by_bit() {
        let rig = Rig::new(64 << 20);
        let smallest = rig
            .store
            .check_fits(b"k", 0)
            .map(|()| crate::moka_engine::entry::weight_bytes(1, 0));
        let few = 4 * u64::from(INSTALMENT_BYTES) / smallest.expect("fits");
        let set = |number: usize, value: &[u8]| {
            let before = rig.store.evictions.evicted();
            rig.write(number, value);
            rig.store.settle();
            rig.store.evictions.evicted() - before
        };
        let mut number = 0;
        while rig.store.evictions.evicted() == 0 {
            set(number, b"v");
            number += 1;
        }
        let large = vec![b'v'; 1 << 20];
        let mut evicted = set(1_000_000, &large);
        assert!(evicted <= few, "{evicted} at once");
        for other in 0..100 {
            let more = set(2_000_000 + other, b"v");
            assert!(more <= few, "{more} at once");
            evicted += more;
        }
        assert!(evicted > 1_500, "{evicted} in all");
        assert!(rig.ticket(position(1_000_000)).is_some());
        for large_number in 0..8 {
            set(3_000_000 + large_number, &large);
            let stats = rig.store.stats();
            assert!(stats.bytes <= stats.budget_bytes);
        }
        rig.store.check_seats();
    }
}
