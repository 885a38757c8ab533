//! The owner's side of replicas: read leases, and what they forbid it (H2). `lend`, `waits_for`, `may_write`, `recall`.
//!
//! A replica serves reads of a range under a *read lease*, from copies that it fetched. While one is live the owner changes
//! no key of the range before the replica has forgotten its copy of that key, and is fenced only when the lease was returned
//! or is over. A lease is live here for a tenth longer than for its holder, who counts from the sending of its request: clocks
//! that differ by no more than [`READ_LEASE_DRIFT_PERCENT`] in rate agree that it was over there before it is over here.
//!
//! - A live lease goes on under its *number*; after its end there is another number. So a write that saw it end need not ask.
//! - A lease that was recalled is neither extended nor replaced until it is returned or over: a return that is late must not
//!   void what its holder was granted since, and a write must not take a new lease for the end of the one before.
//! - Nothing is extended for a reader that does not answer (`withhold`). It may still be heard: would its leases go on, a
//!   write would wait for as long as one way between the two is broken (H7). Who answers nothing again when it was lent
//!   something again waits longer each time, so that what such a break costs writes becomes rare; an answer ends that.

use std::collections::{BTreeMap, BTreeSet};

use softstore_sharding::assignment::READ_LEASES_OVER_MS;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::{Generation, Life, Peer, RangeMap, Slice, SliceKey, Timestamp};

use super::giver::check_disjoint;
use super::{Action, HandoffCore};
use crate::message::{LeaseGrant, LeaseReply, LeaseRequest, READ_PARTS_MAX, Refusal};

/// How long a read lease is, in milliseconds from the sending of its request. Not configurable: who starts a range cold waits
/// for the end of leases that another node granted.
pub const READ_LEASE_MS: u64 = 1_000;

/// How often a replica asks for its leases, in milliseconds: three requests may be lost before a lease ends.
pub const READ_LEASE_RENEW_MS: u64 = 250;

/// By how much the rates of two nodes' clocks may differ, in per cent.
pub const READ_LEASE_DRIFT_PERCENT: u64 = 10;

/// By this many milliseconds from now on, on any node's clock, every read lease granted so far is over.
pub const READ_LEASE_OUT_MS_MAX: u64 = lasting_ms(READ_LEASE_MS);

/// Within this time the Assigner forgets that leases may be out.
const _: () = assert!(READ_LEASE_OUT_MS_MAX <= READ_LEASES_OVER_MS);

/// How long a granter waits for a lease of this length: its clock may be the faster one, and shows whole milliseconds.
const fn lasting_ms(lease_ms: u64) -> u64 {
    lease_ms * (100 + READ_LEASE_DRIFT_PERCENT) / 100 + 1
}

/// Longest time for which a reader is lent nothing because it did not answer, in milliseconds. It begins with
/// [`READ_LEASE_OUT_MS_MAX`], and doubles each time.
const WITHHELD_MS_MAX: u64 = 30_000;

/// Most parts in which one reader may hold leases. Who cuts finer is granted no more: each change of the core looks at all.
const LENT_PARTS_MAX: usize = 1 << 14;

/// What this node lends.
#[derive(Clone, Debug, Default)]
pub(super) struct Lending {
    readers: BTreeMap<Life, Reader>,
    /// Nothing is lent here before these moments: a taker waits.
    recalled: RangeMap<Timestamp>,
    /// Those that did not answer.
    withheld: BTreeMap<Life, Withheld>,
    /// The last number given.
    numbers_given: u64,
}

#[derive(Clone, Debug)]
struct Reader {
    peer: Peer,
    lent: RangeMap<Lent>,
}

/// A reader that did not answer, and has not since.
#[derive(Clone, Copy, Debug)]
struct Withheld {
    /// It is lent nothing before.
    until: Timestamp,
    /// For so long, this time.
    pause_ms: u64,
}

impl Withheld {
    /// If it is not withheld again before, it begins anew.
    fn forgotten_at(self) -> Timestamp {
        self.until.plus_ms(WITHHELD_MS_MAX)
    }
}

/// A read lease as its granter knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lent {
    number: u64,
    until: Timestamp,
    is_recalled: bool,
}

/// Who may read a slice, as a write has to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveLease {
    /// Who.
    pub reader: Peer,
    /// The highest number of its live leases there.
    pub number: u64,
    /// When the last of them is over, unless it is extended.
    pub until: Timestamp,
}

/// What a write knows of the readers of what it is about to change. The default knows nothing: it permits a write where
/// nobody reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Clearance {
    /// The last number given when the write had marked the slice, if it has: whoever got a later one sees the mark.
    mark: Option<u64>,
    answered: BTreeSet<Life>,
}

impl Clearance {
    /// A reader has answered that it has forgotten.
    pub fn answered(&mut self, reader: Life) {
        self.answered.insert(reader);
    }

    /// Whether the write has marked the slice.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.mark.is_some()
    }
}

impl HandoffCore {
    /// Answers a replica that asks for leases: grants what this node holds unfenced under exactly the `since` asked for, is to
    /// be read by that replica by the assignment adopted here, and is not recalled. `tenure_left_ms`: for how long this node
    /// itself may serve, `None` without an end; a read lease ends before that. A node that may not serve does not ask this.
    ///
    /// # Errors
    /// If the message is for another life, from a dead one, or malformed.
    pub fn lend(
        &mut self,
        request: &LeaseRequest,
        tenure_left_ms: Option<u64>,
        now: Timestamp,
    ) -> Result<LeaseReply, Refusal> {
        self.check_addressee(&request.to)?;
        if request.ranges.len() > READ_PARTS_MAX {
            return Err(Refusal::Malformed("too many ranges in one request for leases"));
        }
        check_disjoint(request.ranges.iter().map(|range| range.slice))?;
        let newest = request.ranges.iter().map(|range| range.since).max();
        self.check_living(&request.reader, newest)?;
        self.lending.forget_ended(now);
        let within_tenure_ms = |left_ms: u64| left_ms * 100 / (100 + READ_LEASE_DRIFT_PERCENT);
        let lease_ms = tenure_left_ms.map_or(READ_LEASE_MS, |left_ms| {
            within_tenure_ms(left_ms).min(READ_LEASE_MS)
        });
        let mut grants = Vec::new();
        let reader = self
            .assignment
            .as_ref()
            .and_then(|assignment| assignment.peer(&request.reader));
        if let Some(reader) = reader.filter(|_| lease_ms > 0)
            && !self.lending.is_withheld(&request.reader, now)
        {
            let lendable: Vec<(Slice, Generation)> = request
                .ranges
                .iter()
                .flat_map(|range| self.lendable(range.slice, range.since, &request.reader))
                .collect();
            self.lending.lend(&reader, &lendable, lease_ms, now, &mut grants);
        }
        Ok(LeaseReply {
            from: self.me.life.clone(),
            grants,
        })
    }

    /// The parts of a slice that a reader may be granted under an acquisition.
    fn lendable(&self, slice: Slice, since: Generation, reader: &Life) -> Vec<(Slice, Generation)> {
        let Some(assignment) = &self.assignment else {
            return Vec::new();
        };
        let held = self.held.overlapping(slice);
        held.filter(|(_, held)| held.since == since)
            .flat_map(|(part, _)| assignment.ranges().overlapping(part))
            .filter(|(_, range)| {
                range.owner == self.me.life && range.since == since && range.readers.replicas.contains(reader)
            })
            .flat_map(|(part, _)| self.lending.recalled.gaps(part))
            .map(|part| (part, since))
            .collect()
    }

    /// What a write of a slice begins with, once it has *marked* it (`Writes::begin`): not before.
    #[must_use]
    pub fn clearance(&self) -> Clearance {
        Clearance {
            mark: Some(self.lending.numbers_given),
            answered: BTreeSet::new(),
        }
    }

    /// Whose answers, or whose leases' ends, a write of a slice has to wait for still. Each holds a live lease that the write
    /// knows of, and has not answered.
    #[must_use]
    pub fn waits_for(&self, slice: Slice, clearance: &Clearance, now: Timestamp) -> Vec<LiveLease> {
        let waited_for =
            |lent: &Lent| lent.until > now && clearance.mark.is_none_or(|mark| lent.number <= mark);
        let readers = self.lending.readers.iter();
        readers
            .filter(|(life, _)| !clearance.answered.contains(*life))
            .filter_map(|(_, reader)| {
                let live = || {
                    reader
                        .lent
                        .overlapping(slice)
                        .filter(|(_, lent)| waited_for(lent))
                };
                Some(LiveLease {
                    reader: reader.peer.clone(),
                    number: live().map(|(_, lent)| lent.number).max()?,
                    until: live().map(|(_, lent)| lent.until).max()?,
                })
            })
            .collect()
    }

    /// Whether an operation that may change something within a slice (everything but a plain get; a flush) may run now. Asked
    /// under the lock under which it runs, each time that it is tried.
    #[must_use]
    #[inline]
    pub fn may_write(&self, slice: Slice, clearance: &Clearance, now: Timestamp) -> bool {
        self.lending.readers.is_empty()
            || (planted::is(Bug::WriteBeforeInvalidated) && clearance.is_marked())
            || self.waits_for(slice, clearance, now).is_empty()
    }

    /// Whether a reader holds a live lease of that number at a position: what it asks for to fill its copy may be told. The
    /// shell sees to it that this node serves the position, and looks whether it is marked *before* it reads.
    #[must_use]
    pub fn is_lent(&self, at: SliceKey, reader: &Life, number: u64, now: Timestamp) -> bool {
        let lent = self
            .lending
            .readers
            .get(reader)
            .and_then(|reader| reader.lent.get(at));
        lent.is_some_and(|(_, lent)| lent.number == number && lent.until > now)
    }

    /// A reader has answered that it reads these slices no more, by leases up to this number (of `Action::Recall`).
    pub fn returned(&mut self, reader: &Life, slices: &[Slice], number: u64) {
        let Some(held) = self.lending.readers.get_mut(reader) else {
            return;
        };
        for &slice in slices {
            let after: Vec<(Slice, Lent)> = held
                .lent
                .remove(slice)
                .into_iter()
                .filter(|(_, lent)| lent.number > number)
                .collect();
            for (part, lent) in after {
                held.lent.insert(part, lent);
            }
        }
        if held.lent.is_empty() {
            self.lending.readers.remove(reader);
        }
    }

    /// A reader has not answered for a while: it is lent nothing, so that what it holds ends. For twice as long as the last
    /// time, if it has not answered since (`answered_again`). Said again meanwhile, it changes nothing.
    pub fn withhold(&mut self, reader: &Life, now: Timestamp) {
        if !self.lending.readers.contains_key(reader) || self.lending.is_withheld(reader, now) {
            return;
        }
        let before = self.lending.withheld.get(reader);
        let pause_ms = before.map_or(READ_LEASE_OUT_MS_MAX, |before| {
            (2 * before.pause_ms).min(WITHHELD_MS_MAX)
        });
        let until = now.plus_ms(pause_ms);
        self.lending
            .withheld
            .insert(reader.clone(), Withheld { until, pause_ms });
    }

    /// Whether a reader has yet to answer what it was withheld for. Then `answered_again` is to be told that it did.
    #[must_use]
    pub fn owes_an_answer(&self, reader: &Life) -> bool {
        self.lending.withheld.contains_key(reader)
    }

    /// A reader has answered what it was told: it may be lent to again.
    pub fn answered_again(&mut self, reader: &Life) {
        self.lending.withheld.remove(reader);
    }

    /// A taker wants a part. Whether replicas hold live leases on it: nothing is lent there then for a while, and the replicas
    /// are told.
    pub(super) fn recall(&mut self, part: Slice, now: Timestamp, actions: &mut Vec<Action>) -> bool {
        self.lending.forget_ended(now);
        let is_lent = |reader: &Reader| reader.lent.overlapping(part).next().is_some();
        if !self.lending.readers.values().any(is_lent) {
            return false;
        }
        self.lending.recalled.insert(part, now.plus_ms(READ_LEASE_MS));
        self.lending.recall(part, |_| true, actions);
        true
    }

    /// Tells the replicas that the newest assignment names no more for what they hold: they answer sooner than their leases
    /// end. (Once; it is not waited for.)
    pub(super) fn recall_unlisted(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(assignment) = self.assignment.clone() else {
            return;
        };
        if planted::is(Bug::LeaseOutlivesFence) {
            return;
        }
        self.lending.forget_ended(now);
        let lent: Vec<Slice> = self
            .lending
            .readers
            .values()
            .flat_map(|reader| reader.lent.iter().map(|(slice, _)| slice))
            .collect();
        for slice in lent {
            for (part, range) in assignment.ranges().overlapping(slice) {
                let is_ours = range.owner == self.me.life;
                let unlisted = |reader: &Life| !(is_ours && range.readers.replicas.contains(reader));
                self.lending.recall(
                    part,
                    |reader| unlisted(reader) && assignment.is_living(reader),
                    actions,
                );
            }
        }
    }
}

impl Lending {
    /// Extends what is live, under its number; the rest gets a new one.
    fn lend(
        &mut self,
        reader: &Peer,
        lendable: &[(Slice, Generation)],
        lease_ms: u64,
        now: Timestamp,
        grants: &mut Vec<LeaseGrant>,
    ) {
        if lendable.is_empty() {
            return;
        }
        let until = now.plus_ms(lasting_ms(lease_ms));
        let new_number = self.numbers_given + 1;
        let held = self.readers.entry(reader.life.clone()).or_insert_with(|| Reader {
            peer: reader.clone(),
            lent: RangeMap::new(),
        });
        for &(slice, since) in lendable {
            if held.lent.len() >= LENT_PARTS_MAX {
                break;
            }
            let gaps = held.lent.gaps(slice);
            let mut granted: Vec<(Slice, u64)> = Vec::new();
            held.lent.update(slice, |part, lent| {
                if !lent.is_recalled {
                    // Not sooner than before: a lease granted earlier may have been the longer one.
                    lent.until = lent.until.max(until);
                    granted.push((part, lent.number));
                }
            });
            for gap in gaps {
                self.numbers_given = new_number;
                let lent = Lent {
                    number: new_number,
                    until,
                    is_recalled: false,
                };
                held.lent.insert(gap, lent);
                granted.push((gap, new_number));
            }
            grants.extend(granted.into_iter().map(|(slice, number)| LeaseGrant {
                slice,
                since,
                number,
                lease_ms,
            }));
        }
        held.lent.coalesce(|left, right| left == right);
        if held.lent.is_empty() {
            self.readers.remove(&reader.life);
        }
    }

    /// Asks those of the readers of a part back that `whom` names, in one message each, and each lease once: the shell repeats
    /// the message until it is answered, or the lease is over.
    fn recall(&mut self, part: Slice, whom: impl Fn(&Life) -> bool, actions: &mut Vec<Action>) {
        let number = self.numbers_given;
        for (life, reader) in self.readers.iter_mut().filter(|(life, _)| whom(life)) {
            let mut recalled = Vec::new();
            reader.lent.update(part, |slice, lent| {
                if !std::mem::replace(&mut lent.is_recalled, true) {
                    recalled.push(slice);
                }
            });
            let said = actions.iter_mut().find_map(|action| match action {
                Action::Recall { reader, slices, .. } if reader.life == *life => Some(slices),
                _ => None,
            });
            match said {
                Some(slices) => slices.extend(recalled),
                None if recalled.is_empty() => {}
                None => actions.push(Action::Recall {
                    reader: reader.peer.clone(),
                    slices: recalled,
                    number,
                }),
            }
        }
    }

    pub(super) fn lent(&self) -> impl Iterator<Item = (Slice, &Life)> {
        let readers = self.readers.iter();
        readers.flat_map(|(life, reader)| reader.lent.iter().map(move |(slice, _)| (slice, life)))
    }

    fn is_withheld(&self, reader: &Life, now: Timestamp) -> bool {
        self.withheld
            .get(reader)
            .is_some_and(|withheld| withheld.until > now)
    }

    /// Forgets what is over.
    pub(super) fn forget_ended(&mut self, now: Timestamp) {
        self.readers.retain(|_, reader| {
            if reader.lent.iter().any(|(_, lent)| lent.until <= now) {
                reader.lent.extract(|_, lent| lent.until <= now);
            }
            !reader.lent.is_empty()
        });
        self.recalled.extract(|_, until| *until <= now);
        self.withheld.retain(|_, withheld| withheld.forgotten_at() > now);
    }

    /// Forgets all that was lent: whoever serves next waits for its end. Numbers are not given again.
    pub(super) fn forget_all(&mut self) {
        self.readers.clear();
        self.recalled.clear();
        self.withheld.clear();
    }

    /// When something is over next.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        let lent = self
            .readers
            .values()
            .flat_map(|reader| reader.lent.iter().map(|(_, lent)| lent.until));
        let recalled = self.recalled.iter().map(|(_, until)| *until);
        let withheld = self.withheld.values().map(|withheld| withheld.forgotten_at());
        lent.chain(recalled).chain(withheld).min()
    }
}
