//! Housekeeping: gives back the memory of expired entries and of left epochs, in bounded steps and short locks.

use std::ops::Bound;

use softstore_sharding::{SliceKey, Timestamp};
use softstore_sync::atomic::Ordering;
use softstore_sync::planted::{self, Race};

use super::entry::Entry;
use super::stripe::{STRIPE_COUNT, Stripe, stripes_of};
use super::{Housekeeping, MokaStore};
use crate::store::Part;

/// Most entries that the sweep for expired ones looks at in one step: a store of a million is swept in about 12 s.
const SWEEP_ENTRIES_MAX: usize = 8_192;

/// Most entries that purges look at in one step, a visit to a stripe counting as one.
const PURGE_ENTRIES_MAX: usize = 16_384;

/// Most entries looked at under one lock: some tens of microseconds, or some hundreds if all are removed.
const LOCKED_ENTRIES_MAX: usize = 256;

/// Where the sweep goes on.
#[derive(Debug, Default)]
pub(super) struct SweepCursor {
    stripe: usize,
    after: Option<SliceKey>,
}

/// A purge that is under way.
#[derive(Debug)]
pub(super) struct Purging {
    part: Part,
    stripes_left: Vec<usize>,
    after: Option<SliceKey>,
}

/// What one stretch under a lock did.
struct Stretch {
    looked_at: usize,
    /// Where to go on in this stripe; `None` if it is done.
    after: Option<SliceKey>,
}

impl MokaStore {
    pub(super) fn keep_house(&self, now: Timestamp) {
        self.latest.see(now);
        self.turns.look_at_clock(now);
        // Whoever else keeps house now does all that there is to do.
        let Some(mut house) = self.housekeeping.try_lock() else {
            return;
        };
        self.pay_instalments();
        self.approach_budget();
        self.trim_ballast();
        self.run_moka_tasks();
        self.purge_step(&mut house);
        self.sweep_step(&mut house.sweep, now);
        let reordering = std::mem::take(&mut house.reordering);
        house.reordering = self.reorder(reordering, now);
        self.run_moka_tasks();
    }

    /// Removes the entry at a position, where an expired one was found, unless it was touched or replaced since.
    pub(super) fn reclaim_expired(&self, at: SliceKey, now: Timestamp) {
        let mut stripe = self.lock(at);
        let is_meant = |entry: &Entry| entry.is_expired(now) || planted::is(Race::ExpiredNotLookedAtAgain);
        if let Some(expired) = stripe.index.remove_if(at, is_meant) {
            self.forget(at, &expired);
            self.gauges.expired.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sweep_step(&self, cursor: &mut SweepCursor, now: Timestamp) {
        let mut looked_at = 0;
        let mut stripes_done = 0;
        while looked_at < SWEEP_ENTRIES_MAX && stripes_done < STRIPE_COUNT {
            let mut stripe = self.lock_nth(cursor.stripe);
            let before = stripe.index.len();
            let last = SliceKey::MAX;
            let stretch = self.remove_where(&mut stripe, SliceKey::MIN, last, cursor.after, |entry| {
                entry.is_expired(now)
            });
            let removed = before - stripe.index.len();
            drop(stripe);
            self.gauges.expired.fetch_add(removed as u64, Ordering::Relaxed);
            looked_at += stretch.looked_at;
            cursor.after = stretch.after;
            if stretch.after.is_none() {
                cursor.stripe = (cursor.stripe + 1) % STRIPE_COUNT;
                stripes_done += 1;
            }
        }
    }

    fn purge_step(&self, house: &mut Housekeeping) {
        let mut looked_at = 0;
        while looked_at < PURGE_ENTRIES_MAX {
            let purging = match house.purging.take() {
                Some(purging) => purging,
                None => match self.purges.lock().pop_front() {
                    Some(part) => Purging::of(part),
                    None => return,
                },
            };
            let (purging, stretch) = self.purge_stretch(purging);
            house.purging = purging;
            looked_at += 1 + stretch;
        }
    }

    /// Purges a stretch of one stripe. What is left of the purge, and how many entries were looked at.
    fn purge_stretch(&self, mut purging: Purging) -> (Option<Purging>, usize) {
        let Some(&number) = purging.stripes_left.last() else {
            return (None, 0);
        };
        let Part { slice, epoch } = purging.part;
        let mut stripe = self.lock_nth(number);
        let stretch = self.remove_where(&mut stripe, slice.low(), slice.last(), purging.after, |entry| {
            entry.epoch() == epoch
        });
        drop(stripe);
        purging.after = stretch.after;
        if stretch.after.is_none() {
            purging.stripes_left.pop();
        }
        (Some(purging), stretch.looked_at)
    }

    /// Removes the entries from `low` (or after `after`) to `last` that `is_dead`, looking at a bounded number.
    fn remove_where(
        &self,
        stripe: &mut Stripe,
        low: SliceKey,
        last: SliceKey,
        after: Option<SliceKey>,
        is_dead: impl Fn(&Entry) -> bool,
    ) -> Stretch {
        let from = after.map_or(Bound::Included(low), Bound::Excluded);
        let mut looked_at = 0;
        let mut reached = None;
        let mut dead = Vec::new();
        for (at, entry) in stripe
            .index
            .range((from, Bound::Included(last)))
            .take(LOCKED_ENTRIES_MAX)
        {
            looked_at += 1;
            reached = Some(at);
            if is_dead(entry) {
                dead.push(at);
            }
        }
        for at in dead {
            self.remove(stripe, at);
        }
        Stretch {
            looked_at,
            after: reached.filter(|_| looked_at == LOCKED_ENTRIES_MAX),
        }
    }
}

impl Purging {
    fn of(part: Part) -> Self {
        Self {
            part,
            stripes_left: stripes_of(part.slice).collect(),
            after: None,
        }
    }
}
