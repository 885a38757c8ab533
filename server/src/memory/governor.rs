//! [`Governor`]: decides, from what is resident and what may be, when the allocator is to give back what is free, what
//! budget the store has, and how much may be in transit. Pure: a reading and a time go in, a decision comes out.
//!
//! ```text
//!   0                                             ceiling
//!   |------------------ resident -----------|-- room ---|
//!                                            ^     ^    ^
//!                       more for the store: room > 3c   |
//!                                     tight: room < 2c  |
//!                                              short: room < c
//! ```
//!
//! `c`, what is to stay clear, is 4% of the limit within 16 to 64 MiB: what may come in before the next look, and before
//! that has an effect.
//! - *Tight*: the allocator purges. If it still is tight then, the store loses what is missing to 2.5 `c`, and the
//!   allocator purges again once that is evicted; and so on.
//! - *Short*: the same, without waiting for what was decided before to be carried out.
//! - *More*: beyond 3 `c`, and some seconds after the store lost anything, it gets half of what is beyond 2.5 `c`, once a
//!   second, up to what the plan says. What the store may take and has not taken yet counts as taken. An entry costs less
//!   than twice what it counts, so what is given back does not make it tight again: no swinging to and fro.
//!
//! What is in transit comes in milliseconds, and the store cannot give way as fast: so no more may be in transit than is, and
//! what is left of the room above `c`, be that less than planned. As the store gives way, it is more.

use softstore_sharding::Timestamp;

/// The part of the limit that is to stay clear: 1/25.
const CLEAR_DIVISOR: u64 = 25;
const CLEAR_BYTES_LEAST: u64 = 16 << 20;
const CLEAR_BYTES_MOST: u64 = 64 << 20;

/// Between two purges while it is tight, and while it is short, in milliseconds.
const PURGE_INTERVAL_MS: u64 = 100;
const PURGE_INTERVAL_SHORT_MS: u64 = 20;

/// How long the store gets nothing back after it lost something, in milliseconds.
const GROW_AFTER_MS: u64 = 3_000;

/// Between two times that the store gets something back, in milliseconds.
const GROW_INTERVAL_MS: u64 = 1_000;

/// The least that the store keeps: 1/16 of what is planned, and 1 MiB.
const FLOOR_SHIFT: u32 = 4;
const FLOOR_BYTES_LEAST: u64 = 1 << 20;

/// The least that may be in transit: a large message or two.
const TRANSIT_BYTES_LEAST: u64 = 16 << 20;

/// The store has all but this part of what is planned: 1/16. It is not worth a word.
const WHOLE_SHIFT: u32 = 4;

/// While it stays less, how often that is said, in milliseconds.
const REMIND_MS: u64 = 600_000;

/// How soon to look again: usually, and when there is no more room than might be taken until then, in milliseconds.
const LOOK_MS: u64 = 100;
const LOOK_SOON_MS: u64 = 10;

/// What is known of the memory at a moment. All in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    /// The limit that counts.
    pub(super) limit_bytes: u64,
    /// What may be resident before some limit is reached, others' share considered.
    pub(super) ceiling_bytes: u64,
    /// What is.
    pub(super) resident_bytes: u64,
    /// What the store counts.
    pub(super) store_bytes: u64,
    /// The store's budget that holds: it may be on its way to the one that was decided.
    pub(super) budget_bytes: u64,
    /// What is planned for the store.
    pub(super) planned_bytes: u64,
    /// What is in transit, and what is planned for that.
    pub(super) transit_bytes: u64,
    pub(super) planned_transit_bytes: u64,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decision {
    /// The allocator is to give back what is free. After the budget is set.
    pub(super) purge: bool,
    /// The store's budget, from now on. May be set again and again.
    pub(super) budget_bytes: u64,
    /// What may be in transit, from now on.
    pub(super) transit_bytes: u64,
    /// The budget is less, or more, than before.
    pub(super) change: Option<Change>,
    /// What the log is to say.
    pub(super) tell: Option<Tell>,
    /// When to look again, in milliseconds.
    pub(super) look_again_ms: u64,
}

/// How a budget changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// The store has to evict.
    Less,
    /// It may hold more.
    More,
}

/// What is said of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tell {
    /// The store gets less than planned.
    Begun,
    /// It still does.
    Lasts,
    /// It gets what is planned again.
    Ended,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Governor {
    budget_bytes: u64,
    purged: Option<Timestamp>,
    /// Something was evicted since, or is being evicted: a purge may help again.
    is_purge_due: bool,
    /// The store has to evict for what was decided: then it is time for a purge, whatever the room.
    is_evicting: bool,
    shrunk: Option<Timestamp>,
    grown: Option<Timestamp>,
    /// The store has less than planned, and this was said last then.
    told: Option<Timestamp>,
}

/// What is to stay clear below a limit, in bytes.
pub(super) fn clear_bytes(limit_bytes: u64) -> u64 {
    (limit_bytes / CLEAR_DIVISOR).clamp(CLEAR_BYTES_LEAST, CLEAR_BYTES_MOST)
}

/// What may be in transit, in bytes.
fn transit_bytes(reading: &Reading, room: u64, clear: u64) -> u64 {
    let fits = reading.transit_bytes + room.saturating_sub(clear);
    fits.max(TRANSIT_BYTES_LEAST).min(reading.planned_transit_bytes)
}

impl Governor {
    /// Of a store with this budget.
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            purged: None,
            is_purge_due: true,
            is_evicting: false,
            shrunk: None,
            grown: None,
            told: None,
        }
    }

    /// Decides what follows from a reading. To be called again after `look_again_ms`, and not much later.
    pub(super) fn step(&mut self, reading: &Reading, now: Timestamp) -> Decision {
        let clear = clear_bytes(reading.limit_bytes);
        let room = reading.ceiling_bytes.saturating_sub(reading.resident_bytes);
        let before = self.budget_bytes;
        self.budget_bytes = before.min(reading.planned_bytes);
        let mut purge = false;
        if self.is_evicting && reading.budget_bytes <= self.budget_bytes {
            self.is_evicting = false;
            self.is_purge_due = false;
            self.purged = Some(now);
            purge = true;
        } else if room < 2 * clear {
            purge = self.purge_or_shrink(reading, room, clear, now);
        } else {
            self.is_purge_due = true;
            self.grow(reading, room, clear, now);
        }
        let change = match self.budget_bytes.cmp(&before) {
            std::cmp::Ordering::Less => {
                self.is_evicting = true;
                Some(Change::Less)
            }
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Change::More),
        };
        let is_calm = room > 6 * clear && reading.budget_bytes == self.budget_bytes;
        Decision {
            purge,
            budget_bytes: self.budget_bytes,
            transit_bytes: transit_bytes(reading, room, clear),
            change,
            tell: self.tell(reading, now),
            look_again_ms: if is_calm { LOOK_MS } else { LOOK_SOON_MS },
        }
    }

    /// It is tight: purges if that may help, and takes from the store if it did not. Whether to purge.
    fn purge_or_shrink(&mut self, reading: &Reading, room: u64, clear: u64, now: Timestamp) -> bool {
        let is_short = room < clear;
        let is_settled = reading.budget_bytes <= self.budget_bytes;
        let interval_ms = if is_short {
            PURGE_INTERVAL_SHORT_MS
        } else {
            PURGE_INTERVAL_MS
        };
        if self.is_purge_due && self.purged.is_none_or(|at| now.ms_since(at) >= interval_ms) {
            self.purged = Some(now);
            // While the store is still evicting, there will be more.
            self.is_purge_due = !is_settled;
            return true;
        }
        if (is_settled && !self.is_purge_due) || is_short {
            let holds = self
                .budget_bytes
                .min(reading.budget_bytes)
                .min(reading.store_bytes);
            let less = holds
                .saturating_sub(clear * 5 / 2 - room)
                .max(self.floor(reading));
            if less < self.budget_bytes {
                self.budget_bytes = less;
                self.shrunk = Some(now);
            }
            self.is_purge_due = true;
        }
        false
    }

    fn floor(&self, reading: &Reading) -> u64 {
        let floor = (reading.planned_bytes >> FLOOR_SHIFT).max(FLOOR_BYTES_LEAST);
        floor.min(self.budget_bytes)
    }

    fn grow(&mut self, reading: &Reading, room: u64, clear: u64, now: Timestamp) {
        let is_too_soon = |at: Option<Timestamp>, ms: u64| at.is_some_and(|at| now.ms_since(at) < ms);
        if is_too_soon(self.shrunk, GROW_AFTER_MS) || is_too_soon(self.grown, GROW_INTERVAL_MS) {
            return;
        }
        let untaken = self.budget_bytes.saturating_sub(reading.store_bytes);
        let spare = room.saturating_sub(untaken);
        if spare > 3 * clear && self.budget_bytes < reading.planned_bytes {
            let more = (spare - clear * 5 / 2) / 2;
            self.budget_bytes = (self.budget_bytes + more).min(reading.planned_bytes);
            self.grown = Some(now);
        }
    }

    fn tell(&mut self, reading: &Reading, now: Timestamp) -> Option<Tell> {
        let missing = reading.planned_bytes.saturating_sub(self.budget_bytes);
        let is_whole = missing <= reading.planned_bytes >> WHOLE_SHIFT;
        match self.told {
            None if is_whole => None,
            None => {
                self.told = Some(now);
                Some(Tell::Begun)
            }
            Some(_) if is_whole => {
                self.told = None;
                Some(Tell::Ended)
            }
            Some(at) if now.ms_since(at) >= REMIND_MS => {
                self.told = Some(now);
                Some(Tell::Lasts)
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A process whose store takes `tenths` tenths of what it counts, and that has free pages which only a purge gives back.
    struct Process {
        governor: Governor,
        now_ms: u64,
        limit_bytes: u64,
        /// Others in the group.
        others_bytes: u64,
        base_bytes: u64,
        /// What the load would have the store count.
        load_bytes: u64,
        store_bytes: u64,
        tenths: u64,
        free_bytes: u64,
        budget_bytes: u64,
        planned_bytes: u64,
        purges: u64,
        changes: Vec<(u64, Change, u64)>,
        told: Vec<Tell>,
    }

    impl Process {
        fn new(limit_mib: u64, tenths: u64) -> Self {
            let planned_bytes = limit_mib * MIB / 4 * 3;
            Self {
                governor: Governor::new(planned_bytes),
                now_ms: 0,
                limit_bytes: limit_mib * MIB,
                others_bytes: 0,
                base_bytes: 24 * MIB,
                load_bytes: 0,
                store_bytes: 0,
                tenths,
                free_bytes: 0,
                budget_bytes: planned_bytes,
                planned_bytes,
                purges: 0,
                changes: Vec::new(),
                told: Vec::new(),
            }
        }

        fn resident_bytes(&self) -> u64 {
            self.base_bytes + self.store_bytes * self.tenths / 10 + self.free_bytes
        }

        fn room_bytes(&self) -> u64 {
            (self.limit_bytes - self.others_bytes).saturating_sub(self.resident_bytes())
        }

        /// One look: the load grows the store by up to `step_bytes`, which leaves as much free as it evicts.
        fn look(&mut self, step_bytes: u64) {
            let target = (self.store_bytes + step_bytes)
                .min(self.load_bytes)
                .min(self.budget_bytes);
            if target < self.store_bytes {
                // What is evicted is free until the next purge.
                self.free_bytes += (self.store_bytes - target) * self.tenths / 10;
            }
            self.store_bytes = target;
            let reading = Reading {
                limit_bytes: self.limit_bytes,
                ceiling_bytes: self.limit_bytes - self.others_bytes,
                resident_bytes: self.resident_bytes(),
                store_bytes: self.store_bytes,
                budget_bytes: self.budget_bytes,
                planned_bytes: self.planned_bytes,
                transit_bytes: 0,
                planned_transit_bytes: self.limit_bytes / 8,
            };
            let decision = self.governor.step(&reading, Timestamp::from_ms(self.now_ms));
            // The store evicts 16 MiB a look.
            let reached = self.budget_bytes.min(self.store_bytes);
            self.budget_bytes = decision.budget_bytes.max(reached.saturating_sub(16 * MIB));
            if decision.purge {
                self.purges += 1;
                self.free_bytes = 0;
            }
            self.changes.extend(
                decision
                    .change
                    .map(|change| (self.now_ms, change, decision.budget_bytes)),
            );
            self.told.extend(decision.tell);
            self.now_ms += decision.look_again_ms;
        }

        fn run(&mut self, seconds: u64, step_bytes: u64) {
            let end_ms = self.now_ms + seconds * 1_000;
            while self.now_ms < end_ms {
                self.look(step_bytes);
                assert!(self.room_bytes() > 0, "killed at {} ms", self.now_ms);
            }
        }
    }

    /// Plan: a dense store, far below the limit. Nothing is done, however long.
    #[test]
    fn where_there_is_room_nothing_is_done() {
        let mut process = Process::new(1_024, 11);
        process.load_bytes = 400 * MIB;
        process.run(60, 4 * MIB);
        assert_eq!(
            (process.purges, &process.changes[..], &process.told[..]),
            (0, &[][..], &[][..])
        );
    }

    /// Plan: at each limit, a load that fills the store, whose entries take 1.5 times what they count, at 4 MiB a look (400 MB a
    /// second when it is tight). Never out of room; the store keeps 60% of what is left beside 64 MiB; once it has settled,
    /// nothing swings: no more than a few changes a minute. One word in the log.
    #[test]
    fn a_store_that_takes_more_than_it_counts_gets_less() {
        for limit_mib in [256, 512, 1_024, 4_096] {
            let mut process = Process::new(limit_mib, 15);
            process.load_bytes = u64::MAX;
            process.run(60, 4 * MIB);
            let settled = process.changes.len();
            process.run(300, 4 * MIB);
            let least = (limit_mib - 64) * MIB / 10 * 6;
            assert!(
                process.store_bytes >= least,
                "{limit_mib}: {}",
                process.store_bytes / MIB
            );
            let later = &process.changes[settled..];
            assert!(later.len() <= 10, "{limit_mib}: {later:?}");
            assert_eq!(process.told, [Tell::Begun], "{limit_mib}");
        }
    }

    /// Plan: what may be in transit, with ample room and with little, with nothing in transit and with much.
    #[test]
    fn no_more_may_be_in_transit_than_there_is_room_for() {
        let reading = |resident_mib: u64, transit_mib: u64| Reading {
            limit_bytes: 512 * MIB,
            ceiling_bytes: 512 * MIB,
            resident_bytes: resident_mib * MIB,
            store_bytes: 300 * MIB,
            budget_bytes: 384 * MIB,
            planned_bytes: 384 * MIB,
            transit_bytes: transit_mib * MIB,
            planned_transit_bytes: 64 * MIB,
        };
        let clear_mib = clear_bytes(512 * MIB) / MIB;
        for (resident_mib, transit_mib, may_mib) in [
            (300, 0, 64),
            (512 - 40 - clear_mib, 0, 40),
            (512 - 40 - clear_mib, 20, 60),
            (500, 0, 16),
            (500, 50, 50),
            (600, 100, 64),
        ] {
            let decision =
                Governor::new(384 * MIB).step(&reading(resident_mib, transit_mib), Timestamp::from_ms(1));
            assert!(
                decision.transit_bytes.abs_diff(may_mib * MIB) <= MIB,
                "{resident_mib} {transit_mib}: {decision:?}"
            );
        }
    }

    /// Plan: memory that is free and not given back makes it tight. It is purged, and nothing is taken from the store.
    #[test]
    fn a_purge_comes_first() {
        let mut process = Process::new(512, 10);
        process.load_bytes = 300 * MIB;
        process.run(10, 4 * MIB);
        process.free_bytes = process.room_bytes() - 30 * MIB;
        process.run(10, 0);
        assert_eq!((process.purges, process.changes.len()), (1, 0));
    }

    /// Plan: a full store; the limit falls to what is resident and 64 MiB, then back. The store follows down at once, and up again
    /// slowly; the log says both.
    #[test]
    fn limits_are_followed_down_and_up() {
        let mut process = Process::new(4_096, 12);
        process.load_bytes = 2_000 * MIB;
        process.run(60, 40 * MIB);
        assert_eq!(process.changes, []);
        process.limit_bytes = process.resident_bytes() + 64 * MIB;
        process.planned_bytes = process.limit_bytes / 4 * 3;
        process.run(5, MIB);
        let clear = clear_bytes(process.limit_bytes);
        assert!(
            process.room_bytes() >= 2 * clear,
            "{}",
            process.room_bytes() / MIB
        );
        assert!(process.store_bytes > 1_700 * MIB);
        process.limit_bytes = 4_096 * MIB;
        process.planned_bytes = process.limit_bytes / 4 * 3;
        process.run(60, 4 * MIB);
        assert_eq!(process.store_bytes, 2_000 * MIB);
        assert_eq!(process.governor.budget_bytes, process.planned_bytes);
    }

    /// Plan: others in the group take what there is and more than the store can give way. It goes down to its floor and not to
    /// nothing, and comes back when they go. While they stay, the log reminds seldom.
    #[test]
    fn it_gives_way_to_others_and_comes_back() {
        let mut process = Process::new(512, 12);
        process.load_bytes = u64::MAX;
        process.run(30, 4 * MIB);
        process.others_bytes = 420 * MIB;
        let end_ms = process.now_ms + 1_500_000;
        while process.now_ms < end_ms {
            process.look(MIB);
        }
        assert_eq!(process.store_bytes, process.planned_bytes >> FLOOR_SHIFT);
        let reminders = process.told.iter().filter(|tell| **tell == Tell::Lasts).count();
        assert_eq!((process.told[0], reminders), (Tell::Begun, 2));
        process.others_bytes = 0;
        process.run(60, 4 * MIB);
        assert!(process.store_bytes >= 300 * MIB, "{}", process.store_bytes / MIB);
    }
}
