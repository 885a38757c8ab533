//! The replica's side: ranges that another node owns, and this one reads under leases (H2). `lease_answered`, `admit_read`,
//! `revoked`.
//!
//! What it reads are copies in its own store, under an epoch of the *reading*: to forget all copies of a range is to leave the
//! epoch. Copies outlive no gap between two leases, since the owner tells of no write while nobody holds one.
//!
//! - A lease counts from the *sending* of its request, and is over by a fresh look at the clock.
//! - After a revocation, answers to what was asked before are not believed: the owner counts those leases as returned.
//! - Nothing is asked for while any part of the range is held, to be taken, or kept as a frozen copy: its entries and the
//!   copies would share keys of the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use softstore_sharding::planted::{self, Bug};
use softstore_sharding::{
    Epoch, Generation, Life, Peer, RangeAssignment, RangeMap, Slice, SliceKey, Timestamp,
};

use super::giver::check_disjoint;
use super::lending::{READ_LEASE_MS, READ_LEASE_RENEW_MS};
use super::state::End;
use super::{Action, EPOCHS_FLUSHED_MAX, HandoffCore};
use crate::message::{Invalidate, LeaseReply, LeaseRequest, READ_PARTS_MAX, Refusal, TakenRange};

/// Most parts that are read. What is granted beyond is not: each change of the core looks at all.
const READINGS_MAX: usize = 1 << 14;

/// What this node reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    readings: RangeMap<Reading>,
    /// Where leases were revoked of late.
    revoked: RangeMap<Revoked>,
    /// The sequence of the next request.
    sequence_next: u64,
    /// When leases are asked for next, if this node is a replica of anything.
    ask_at: Timestamp,
    /// By the newest assignment.
    pub(super) is_replica: bool,
}

/// A range that is read.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Reading {
    /// The owner's acquisition.
    since: Generation,
    owner: Peer,
    number: u64,
    /// The lease is over then.
    until: Timestamp,
    /// The epoch of the copies.
    epoch: Epoch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Revoked {
    /// Answers to requests before this one are not believed.
    sequence: u64,
    noted: Timestamp,
}

/// Leave to read: what a read at a replica needs to know of its range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadingHere {
    /// The stretch of positions that is read in one piece.
    pub slice: Slice,
    /// The epoch of the copies.
    pub epoch: Epoch,
    /// The lease's number, which a fill names.
    pub number: u64,
    /// The owner's acquisition.
    pub since: Generation,
    /// Whom to ask for what is not here.
    pub owner: Peer,
}

/// Leave to read a copy: what a read needs that finds one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyHere {
    /// The stretch of positions that is read in one piece.
    pub slice: Slice,
    /// The epoch of the copies.
    pub epoch: Epoch,
}

impl HandoffCore {
    /// Whether a plain get, whose client knows the acquisition `since`, may be answered here from a copy. `now` is fresh. Asked
    /// under the shared lock, after `admit` has said that this node does not serve the key; whoever gets no leave answers what
    /// `admit` said, and who finds no copy asks `admit_read`.
    #[must_use]
    #[inline]
    pub fn admit_copy(&self, at: SliceKey, since: Generation, now: Timestamp) -> Option<CopyHere> {
        let (slice, reading) = self.valid_reading(at, since, now)?;
        let epoch = reading.epoch;
        Some(CopyHere { slice, epoch })
    }

    /// The same with what it takes to ask the owner.
    #[must_use]
    pub fn admit_read(&self, at: SliceKey, since: Generation, now: Timestamp) -> Option<ReadingHere> {
        let (slice, reading) = self.valid_reading(at, since, now)?;
        Some(ReadingHere {
            slice,
            epoch: reading.epoch,
            number: reading.number,
            since: reading.since,
            owner: reading.owner.clone(),
        })
    }

    #[inline]
    fn valid_reading(&self, at: SliceKey, since: Generation, now: Timestamp) -> Option<(Slice, &Reading)> {
        let (slice, reading) = self.readings.readings.get(at)?;
        let is_valid = reading.until > now || planted::is(Bug::ReplicaServedBeforeAdmission);
        (is_valid && since <= reading.since).then_some((slice, reading))
    }

    /// Whether the reading under this epoch is still valid at a position: what was filled under it may be kept.
    #[must_use]
    pub fn reading_stands(&self, at: SliceKey, epoch: Epoch, now: Timestamp) -> bool {
        self.readings
            .readings
            .get(at)
            .is_some_and(|(_, reading)| reading.epoch == epoch && reading.until > now)
    }

    /// The epoch of the copies at a position, valid or not: where an invalidation forgets one.
    #[must_use]
    pub fn reading_epoch(&self, at: SliceKey) -> Option<Epoch> {
        let (_, reading) = self.readings.readings.get(at)?;
        Some(reading.epoch)
    }

    /// Takes note of what an owner has granted, where it is one, and this node its replica. `sequence` and `sent`: of the request
    /// (`Action::AskLease`); `sent` no later than it left.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn lease_answered(
        &mut self,
        reply: &LeaseReply,
        sequence: u64,
        sent: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Action>, Refusal> {
        if reply.grants.len() > READ_PARTS_MAX {
            return Err(Refusal::Malformed("too many grants in one answer"));
        }
        // Else each may be as wide as all that is read.
        check_disjoint(reply.grants.iter().map(|grant| grant.slice))?;
        let mut actions = Vec::new();
        let Some(assignment) = self.assignment.clone() else {
            return Ok(actions);
        };
        let Some(owner) = assignment.peer(&reply.from) else {
            return Ok(actions);
        };
        let times = if planted::is(Bug::ReadLeaseOverstayed) {
            2
        } else {
            1
        };
        let mut epoch = None;
        for grant in &reply.grants {
            if self.readings.readings.len() >= READINGS_MAX {
                break;
            }
            // No longer than whoever waits for its end believes.
            let until = sent.plus_ms(times * grant.lease_ms.min(READ_LEASE_MS));
            if until <= now {
                continue;
            }
            let parts: Vec<Slice> = assignment
                .ranges()
                .overlapping(grant.slice)
                .filter(|(part, range)| {
                    let (whole, _) = assignment.ranges().get_with_slice(part.low());
                    let is_asked = range.owner == reply.from && range.since == grant.since;
                    is_asked && self.is_replica_of(range) && !self.has_entries_in(whole)
                })
                .flat_map(|(part, _)| self.readings.not_revoked_since(part, sequence))
                .collect();
            for part in parts {
                let reading = Reading {
                    since: grant.since,
                    owner: owner.clone(),
                    number: grant.number,
                    until,
                    // Set when it begins.
                    epoch: Epoch::new(0),
                };
                self.read(part, &reading, &mut epoch, now, &mut actions);
            }
        }
        self.readings.readings.coalesce(|left, right| left == right);
        Ok(actions)
    }

    /// Extends a reading, or begins it.
    fn read(
        &mut self,
        part: Slice,
        granted: &Reading,
        new_epoch: &mut Option<Epoch>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let goes_on = |reading: &Reading| {
            let is_same = reading.owner.life == granted.owner.life && reading.since == granted.since;
            is_same
                && ((reading.number == granted.number
                    && (reading.until > now || planted::is(Bug::RevokedLeaseRevived)))
                    || planted::is(Bug::CopiesKeptOverLeases))
        };
        let mut anew = self.readings.readings.gaps(part);
        self.readings.readings.update(part, |slice, reading| {
            if goes_on(reading) {
                reading.until = reading.until.max(granted.until);
                reading.number = granted.number;
            } else {
                actions.push(Action::Purge(slice, reading.epoch));
                anew.push(slice);
            }
        });
        for slice in anew {
            self.readings.readings.remove(slice);
            // Each end of a reading costs an epoch, and clients can cause it by flushes.
            if new_epoch.is_none() && self.epochs_given < EPOCHS_FLUSHED_MAX {
                *new_epoch = Some(self.next_epoch());
            }
            if let Some(epoch) = *new_epoch {
                let reading = Reading {
                    epoch,
                    ..granted.clone()
                };
                self.readings.readings.insert(slice, reading);
            }
        }
    }

    /// An owner revokes leases: what it granted there is over at once. When this returns, nothing that was admitted before is
    /// inside the store. (Of the message's keys the shell forgets the copies, see `Fills::invalidate` and `reading_epoch`.)
    ///
    /// # Errors
    /// If the message is for another life, or malformed.
    pub fn revoked(&mut self, message: &Invalidate, now: Timestamp) -> Result<Vec<Action>, Refusal> {
        self.check_invalidate(message)?;
        let mut actions = Vec::new();
        for &slice in &message.revoked {
            let revoked = Revoked {
                sequence: self.readings.sequence_next,
                noted: now,
            };
            self.note_revoked(slice, &message.owner, revoked);
            if self.readings.revoked.len() > READ_PARTS_MAX {
                // Too finely cut to be remembered: all that is under way is not believed.
                self.readings.revoked.insert(Slice::FULL, revoked);
            }
            let parts = self.readings.readings.overlapping(slice);
            let ended: Vec<Slice> = parts
                .filter(|(_, reading)| reading.owner.life == message.owner)
                .map(|(part, _)| part)
                .collect();
            for part in ended {
                if planted::is(Bug::RevokedLeaseRevived) {
                    self.readings
                        .readings
                        .update(part, |_, reading| reading.until = now);
                    continue;
                }
                self.stop_reading_part(part, &mut actions);
            }
        }
        Ok(actions)
    }

    /// Only where that node is the owner: of others, answers under the acquisitions that this node asked for are not under way.
    fn note_revoked(&mut self, slice: Slice, owner: &Life, revoked: Revoked) {
        let Some(assignment) = &self.assignment else {
            return;
        };
        for (part, range) in assignment.ranges().overlapping(slice) {
            if range.owner == *owner {
                self.readings.revoked.insert(part, revoked);
            }
        }
    }

    /// Whether an invalidation is for this life, and well formed.
    ///
    /// # Errors
    /// If not.
    pub fn check_invalidate(&self, message: &Invalidate) -> Result<(), Refusal> {
        self.check_addressee(&message.to)?;
        if message.keys.len() > READ_PARTS_MAX || message.revoked.len() > READ_PARTS_MAX {
            return Err(Refusal::Malformed("too many parts in one invalidation"));
        }
        check_disjoint(message.revoked.iter().copied())
    }

    /// Ends the readings that `which` names.
    pub(super) fn stop_reading(
        &mut self,
        which: impl Fn(Slice, Timestamp) -> bool,
        actions: &mut Vec<Action>,
    ) {
        let ended = self
            .readings
            .readings
            .extract(|slice, reading| which(slice, reading.until));
        actions.extend(
            ended
                .into_iter()
                .map(|(slice, reading)| Action::Purge(slice, reading.epoch)),
        );
    }

    fn stop_reading_part(&mut self, part: Slice, actions: &mut Vec<Action>) {
        let ended = self.readings.readings.remove(part);
        actions.extend(
            ended
                .into_iter()
                .map(|(slice, reading)| Action::Purge(slice, reading.epoch)),
        );
    }

    /// Ends the readings that the newest assignment does not know.
    pub(super) fn stop_reading_by_assignment(&mut self, actions: &mut Vec<Action>) {
        let Some(assignment) = self.assignment.clone() else {
            return;
        };
        let mut ended: Vec<Slice> = Vec::new();
        for (slice, reading) in self.readings.readings.iter() {
            let parts = assignment.ranges().overlapping(slice);
            let is_over = |range: &RangeAssignment| {
                let is_same = range.owner == reading.owner.life && range.since == reading.since;
                !is_same || !self.is_replica_of(range) || !assignment.is_living(&range.owner)
            };
            ended.extend(parts.filter(|(_, range)| is_over(range)).map(|(part, _)| part));
        }
        for part in ended {
            self.stop_reading_part(part, actions);
        }
        let is_replica = assignment
            .ranges()
            .iter()
            .any(|(_, range)| self.is_replica_of(range));
        self.readings.is_replica = is_replica;
    }

    fn is_replica_of(&self, range: &RangeAssignment) -> bool {
        range.readers.replicas.contains(&self.me.life)
    }

    /// Whether this node holds, is to take, or keeps a copy of any part of a slice.
    fn has_entries_in(&self, slice: Slice) -> bool {
        self.held.overlapping(slice).next().is_some()
            || self.pending.overlapping(slice).next().is_some()
            || self
                .past
                .overlapping(slice)
                .any(|(_, past)| matches!(&past.end, End::Fenced { copy: Some(_), .. }))
    }

    /// After a new assignment: asks, if there is anything to be read that is not yet.
    pub(super) fn ask_at_once(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let is_read = |range: &TakenRange| self.readings.readings.gaps(range.slice).is_empty();
        let wanted = self.wanted();
        if wanted.values().any(|(_, ranges)| !ranges.iter().all(is_read)) {
            self.ask(wanted, now, actions);
        }
    }

    /// Does what is due: leases that are over, and the next request.
    pub(super) fn tick_readings(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if !ended_leases_stay() {
            self.stop_reading(|_, until| until <= now, actions);
        }
        // What was asked for before is over by then, whatever the answer.
        self.readings
            .revoked
            .extract(|_, revoked| revoked.noted.plus_ms(READ_LEASE_MS) <= now);
        if self.readings.is_replica && self.readings.ask_at <= now {
            let wanted = self.wanted();
            self.ask(wanted, now, actions);
        }
    }

    pub(super) fn readings_wake_at(&self) -> Option<Timestamp> {
        let readings = &self.readings;
        let ask_at = readings.is_replica.then_some(readings.ask_at);
        let ends = readings.readings.iter().map(|(_, reading)| reading.until);
        let forgotten = readings.revoked.iter();
        let forgotten = forgotten.map(|(_, revoked)| revoked.noted.plus_ms(READ_LEASE_MS));
        ends.filter(|_| !ended_leases_stay())
            .chain(ask_at)
            .chain(forgotten)
            .min()
    }

    /// The ranges that leases are to be asked for, by owner.
    fn wanted(&self) -> BTreeMap<Life, (Arc<str>, Vec<TakenRange>)> {
        let mut wanted: BTreeMap<Life, (Arc<str>, Vec<TakenRange>)> = BTreeMap::new();
        let Some(assignment) = self.assignment.as_ref().filter(|_| self.readings.is_replica) else {
            return wanted;
        };
        for (slice, range) in assignment.ranges().iter() {
            if !self.is_replica_of(range) || self.has_entries_in(slice) {
                continue;
            }
            if let Some(entry) = assignment.entry_of(&range.owner) {
                let ranges = wanted
                    .entry(range.owner.clone())
                    .or_insert_with(|| (entry.address.clone(), Vec::new()));
                ranges.1.push(TakenRange {
                    slice,
                    since: range.since,
                });
            }
        }
        wanted
    }

    fn ask(
        &mut self,
        wanted: BTreeMap<Life, (Arc<str>, Vec<TakenRange>)>,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.readings.ask_at = now.plus_ms(READ_LEASE_RENEW_MS);
        for (to, (address, ranges)) in wanted {
            for ranges in ranges.chunks(READ_PARTS_MAX) {
                let request = LeaseRequest {
                    to: to.clone(),
                    reader: self.me.life.clone(),
                    ranges: ranges.to_vec(),
                };
                let sequence = self.readings.sequence_next;
                self.readings.sequence_next += 1;
                actions.push(Action::AskLease {
                    request,
                    address: address.clone(),
                    sequence,
                });
            }
        }
    }

    /// What is read here as a replica, in order, with the epochs of the copies.
    pub fn read_parts(&self) -> impl Iterator<Item = (Slice, Epoch)> {
        let readings = self.readings.readings.iter();
        readings.map(|(slice, reading)| (slice, reading.epoch))
    }
}

impl Readings {
    pub(super) fn all(&self) -> impl Iterator<Item = (Slice, &Life)> {
        let readings = self.readings.iter();
        readings.map(|(slice, reading)| (slice, &reading.owner.life))
    }

    /// The parts of a slice where nothing was revoked after the request with this sequence.
    fn not_revoked_since(&self, slice: Slice, sequence: u64) -> Vec<Slice> {
        if planted::is(Bug::RevokedLeaseRevived) {
            return vec![slice];
        }
        let mut believed = self.revoked.gaps(slice);
        let revoked = self.revoked.overlapping(slice);
        believed.extend(
            revoked
                .filter(|(_, revoked)| revoked.sequence <= sequence)
                .map(|(part, _)| part),
        );
        believed
    }
}

/// For the planted bugs that go on after the end of a lease.
fn ended_leases_stay() -> bool {
    planted::is(Bug::ReplicaServedBeforeAdmission)
        || planted::is(Bug::CopiesKeptOverLeases)
        || planted::is(Bug::RevokedLeaseRevived)
}
