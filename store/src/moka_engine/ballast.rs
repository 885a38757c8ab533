//! [`Ballast`]: how a budget changes while the store runs.
//!
//! moka has the capacity that it was built with, for ever. So it is built for the largest budget that there may be, and what
//! a smaller one takes away is taken by *ballast*: seats that stand for no entry, weigh what is not to be used, and are made
//! the youngest again and again, so that moka does not choose them as victims. Should it choose one all the same (which takes
//! the whole room to be written anew between two rounds of housekeeping), whoever next makes moka evict gives it back first.
//!
//! A budget that falls is followed at once down to what is held, and then in steps of [`STEP_BYTES`], so that nobody who
//! writes has more than that to evict at once: [`Ballast::budget_bytes`] is what holds now, and what all others go by.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use softstore_sync::Mutex;
use softstore_sync::atomic::{AtomicU64, Ordering};

use super::MokaStore;

/// The part of the budget that moka is not told of: 1/32, for writes that it has not applied yet.
const RESERVE_SHIFT: u32 = 5;

/// By how much a budget falls at once: fewer than 1,000 of the smallest entries, about a millisecond.
const STEP_BYTES: u64 = 256 << 10;

/// Most steps of one call: 16 MiB.
const STEPS_MAX: usize = 64;

/// The most that one seat weighs. There are as many as it takes.
const SEAT_BYTES_MAX: u64 = 1 << 31;

/// What the budget is, and what is done about it. See the head of this file.
#[derive(Debug)]
pub(super) struct Ballast {
    budget_bytes_max: u64,
    /// What holds now.
    budget_bytes: AtomicU64,
    /// Where it is to go.
    aim_bytes: AtomicU64,
    /// moka chose some of it as a victim. The standard library's even under an explorer: moka says so with its locks held.
    is_shed: Arc<AtomicBool>,
    /// What moka was told. Whoever holds it is the only one to change anything here.
    told_bytes: Mutex<u64>,
}

impl Ballast {
    pub(super) fn new(budget_bytes: u64, budget_bytes_max: u64) -> Self {
        Self {
            budget_bytes_max: budget_bytes_max.max(budget_bytes),
            budget_bytes: AtomicU64::new(budget_bytes),
            aim_bytes: AtomicU64::new(budget_bytes),
            is_shed: Arc::default(),
            told_bytes: Mutex::new(0),
        }
    }

    /// The budget that holds now.
    pub(super) fn budget_bytes(&self) -> u64 {
        self.budget_bytes.load(Ordering::Relaxed)
    }

    /// The part of it up to which moka lets entries stay.
    pub(super) fn room_bytes(&self) -> u64 {
        room_bytes(self.budget_bytes())
    }

    /// What moka is to be built for.
    pub(super) fn capacity_bytes(&self) -> u64 {
        room_bytes(self.budget_bytes_max)
    }

    /// What moka sets when it has chosen ballast as a victim.
    pub(super) fn is_shed(&self) -> Arc<AtomicBool> {
        self.is_shed.clone()
    }

    /// Whether moka has.
    pub(super) fn was_shed(&self) -> bool {
        self.is_shed.load(Ordering::Acquire)
    }

    /// The next budget on the way, if it is not there yet. What is beyond the entries that are held, and the reserve for those, goes
    /// at once: a store that is still filling must not fill on.
    fn next(&self, held_bytes: u64) -> Option<u64> {
        let (now, aim) = (self.budget_bytes(), self.aim_bytes.load(Ordering::Relaxed));
        let needed = held_bytes.saturating_add(held_bytes / ((1 << RESERVE_SHIFT) - 1));
        (now != aim).then(|| aim.max(now.min(needed).saturating_sub(STEP_BYTES)))
    }
}

#[cfg(test)]
impl Ballast {
    /// How many seats stand for no entry, and what they weigh together.
    pub(super) fn count_and_bytes(&self) -> (u64, u64) {
        let told_bytes = *self.told_bytes.lock();
        (told_bytes.div_ceil(SEAT_BYTES_MAX), told_bytes)
    }
}

fn room_bytes(budget_bytes: u64) -> u64 {
    budget_bytes - (budget_bytes >> RESERVE_SHIFT)
}

impl MokaStore {
    /// Sets where the budget is to go, and begins.
    pub(super) fn aim_at_budget(&self, budget_bytes: u64) {
        let aim = budget_bytes.min(self.ballast.budget_bytes_max);
        self.ballast.aim_bytes.store(aim, Ordering::Relaxed);
        self.approach_budget();
    }

    /// Goes on towards the budget that was set, evicting, in a bounded number of steps.
    pub(super) fn approach_budget(&self) {
        for _ in 0..STEPS_MAX {
            let Some(next) = self.ballast.next(self.gauges.bytes.load(Ordering::Relaxed)) else {
                return;
            };
            self.ballast.budget_bytes.store(next, Ordering::Relaxed);
            self.turns.set_room(self.ballast.room_bytes());
            self.trim_ballast();
            self.run_moka_tasks();
        }
    }

    /// Makes the ballast weigh what it must, and the youngest of all.
    pub(super) fn trim_ballast(&self) {
        let ballast = &self.ballast;
        let mut told_bytes = ballast.told_bytes.lock();
        let was_shed = ballast.is_shed.swap(false, Ordering::AcqRel);
        let weigh_bytes = ballast.capacity_bytes() - ballast.room_bytes();
        let seats = weigh_bytes.max(*told_bytes).div_ceil(SEAT_BYTES_MAX);
        let share =
            |bytes: u64, number: u64| bytes.saturating_sub(number * SEAT_BYTES_MAX).min(SEAT_BYTES_MAX);
        for number in 0..seats {
            let (before, weight) = (share(*told_bytes, number), share(weigh_bytes, number));
            let (number, weight) = (number.try_into(), weight.try_into());
            let (number, weight) = (number.unwrap_or(u32::MAX), weight.unwrap_or(u32::MAX));
            self.seats
                .give_ballast(number, weight, was_shed || before != u64::from(weight));
        }
        *told_bytes = weigh_bytes;
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::{Epoch, SliceKey, Timestamp, Version, VersionCounter};

    use crate::moka_engine::{MokaStore, MokaStoreConfig};
    use crate::store::{Absence, OpContext, Outcome, SetCondition, Store};

    struct Rig {
        store: MokaStore,
        versions: VersionCounter,
    }

    impl Rig {
        fn new(budget_bytes: u64, budget_bytes_max: u64) -> Self {
            let store = MokaStore::new(MokaStoreConfig {
                budget_bytes,
                budget_bytes_max,
                ..MokaStoreConfig::default()
            });
            let versions = VersionCounter::starting_at(Version::new(1));
            Self { store, versions }
        }

        fn set(&self, number: usize, value: &[u8]) {
            let context = OpContext {
                now: Timestamp::from_ms(1),
                epoch: Epoch::new(1),
                versions: &self.versions,
                pull: None,
                absence: Absence::Final,
            };
            let key = number.to_string();
            let (at, condition) = (SliceKey::of_key(key.as_bytes()), SetCondition::Always);
            let never = Timestamp::NEVER;
            let set = self
                .store
                .set(key.as_bytes(), at, value, never, condition, &context);
            assert!(matches!(set, Ok(Outcome::Done(_))));
        }

        fn bytes(&self) -> u64 {
            self.store.check_seats();
            self.store.stats().bytes
        }
    }

    const MIB: u64 = 1 << 20;

    /// Plan: a store that is full gets less, twice, then all again, and is filled each time with housekeeping seldom, so
    /// that moka comes to choose ballast. It holds nearly what it may and never more; what moka knows is what is there.
    #[test]
    fn a_budget_is_followed_down_and_up() {
        let rig = Rig::new(4 * MIB, 0);
        let fill = |from: usize| (from..from + 40_000).for_each(|number| rig.set(number, &[7; 200]));
        fill(0);
        for (budget_bytes, from) in [(3 * MIB, 100_000), (MIB, 200_000), (4 * MIB, 300_000)] {
            rig.store.set_budget(budget_bytes);
            assert_eq!(rig.store.stats().budget_bytes, budget_bytes);
            assert!(rig.bytes() <= budget_bytes);
            fill(from);
            let bytes = rig.bytes();
            assert!(
                bytes <= budget_bytes && bytes > budget_bytes / 10 * 9,
                "{bytes} of {budget_bytes}"
            );
            rig.store.maintain(Timestamp::from_ms(2));
        }
    }

    /// Plan: a store that was built for more than it may use. It uses what it may; given more, that; never more than it was
    /// built for.
    #[test]
    fn what_it_was_built_for_is_the_most() {
        let rig = Rig::new(MIB, 3 * MIB);
        (0..20_000).for_each(|number| rig.set(number, &[7; 200]));
        assert!(rig.bytes() <= MIB);
        rig.store.set_budget(9 * MIB);
        assert_eq!(rig.store.stats().budget_bytes, 3 * MIB);
        (0..40_000).for_each(|number| rig.set(number, &[7; 200]));
        let bytes = rig.bytes();
        assert!(bytes > 2 * MIB && bytes <= 3 * MIB, "{bytes}");
    }

    /// Plan: a store of 64 MiB that holds some 10 gets 12, and 6. What it does not hold goes at once, in the first call, and costs no
    /// entry.
    #[test]
    fn a_budget_that_is_not_used_falls_at_once() {
        let rig = Rig::new(64 * MIB, 0);
        (0..16_000).for_each(|number| rig.set(number, &[7; 200]));
        let held = rig.bytes();
        assert!(held > 8 * MIB && held < 11 * MIB, "{held}");
        rig.store.set_budget(12 * MIB);
        let stats = rig.store.stats();
        assert_eq!(
            (stats.budget_bytes, stats.bytes, stats.evicted),
            (12 * MIB, held, 0)
        );
        rig.store.set_budget(6 * MIB);
        assert_eq!(rig.store.stats().budget_bytes, 6 * MIB);
        assert!(rig.bytes() <= 6 * MIB);
    }

    /// Plan: a store of 64 MiB gets 8. One call does a bounded part of that, housekeeping the rest, and a write in between
    /// evicts no more than a step.
    #[test]
    fn a_budget_that_falls_far_is_followed_in_steps() {
        let rig = Rig::new(64 * MIB, 0);
        (0..200_000).for_each(|number| rig.set(number, &[7; 200]));
        rig.store.set_budget(8 * MIB);
        let reached = rig.store.stats().budget_bytes;
        let steps_bytes = super::STEPS_MAX as u64 * super::STEP_BYTES;
        assert!(reached.abs_diff(64 * MIB - steps_bytes) < MIB, "{reached}");
        let before = rig.store.stats().evicted;
        rig.set(1_000_000, &[7; 200]);
        assert!(rig.store.stats().evicted - before < 2_000);
        for _ in 0..4 {
            rig.store.maintain(Timestamp::from_ms(2));
        }
        assert_eq!(rig.store.stats().budget_bytes, 8 * MIB);
        assert!(rig.bytes() <= 8 * MIB);
    }
}
