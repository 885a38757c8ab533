//! The giver's side: fences, frozen copies, and what may be read of them.

use softstore_sharding::planted::{self, Bug};
use softstore_sharding::{Epoch, Generation, Life, Peer, PullId, Slice, SliceKey, Timestamp};

use super::state::{Copy, End, Past};
use super::{Action, CopyEnd, HandoffCore, Notice, PullEnd, drop_copy};
use crate::chunk::ChunkFormat;
use crate::message::{
    PullRequest, Refusal, Release, TAKE_RANGES_MAX, Take, TakeAnswer, TakeRange, TakeReply, Verdict,
};

/// Leave to read a part of a frozen copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyGrant {
    /// Which part.
    pub slice: Slice,
    /// The epoch of its entries.
    pub epoch: Epoch,
    /// When the range was frozen: classes are as of it.
    pub as_of: Timestamp,
    /// When this life received the `Take`: TTLs are told relative to it.
    pub received: Timestamp,
    /// By how much this node's clock may have fallen behind before that; `None`: nobody knows.
    pub behind_ms: Option<u64>,
    /// The pull that still fills it: what is absent may yet arrive, and has to be asked about upstream.
    pub upstream: Option<PullId>,
}

/// Nobody knows how long an entry may live, so it is not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownTtl;

impl CopyGrant {
    /// The milliseconds that an entry with this deadline had left when the `Take` was received; none: it does not expire.
    ///
    /// # Errors
    /// If nobody knows: such an entry is not to be given.
    pub fn ttl_ms(&self, deadline: Timestamp) -> Result<Option<u64>, UnknownTtl> {
        if deadline == Timestamp::NEVER {
            return Ok(None);
        }
        let behind_ms = self.behind_ms.ok_or(UnknownTtl)?;
        Ok(Some(deadline.ms_since(self.received).saturating_sub(behind_ms)))
    }
}

impl HandoffCore {
    /// Answers a `Take`, as far as one answer may go. When this returns, what it fenced is fenced: the caller had the core to itself, so no operation
    /// was inside the store.
    ///
    /// # Errors
    /// If the message is for another life, from a dead one, malformed, or under an acquisition that is not known to be the
    /// taker's (see `belief`); nothing was changed then.
    pub fn take(&mut self, take: &Take, now: Timestamp) -> Result<(TakeReply, Vec<Action>), Refusal> {
        self.check_addressee(&take.to)?;
        if take.ranges.len() > TAKE_RANGES_MAX {
            return Err(Refusal::Malformed("too many ranges in one Take"));
        }
        if take.ranges.iter().any(|range| range.from >= range.since) {
            return Err(Refusal::Malformed(
                "a range is taken under an acquisition no newer than the provider's",
            ));
        }
        if take.taker.life == self.me.life {
            return Err(Refusal::Malformed("a node cannot take from itself"));
        }
        check_disjoint(take.ranges.iter().map(|range| range.slice))?;
        self.check_living(
            &take.taker.life,
            take.ranges.iter().map(|range| range.since).max(),
        )?;
        self.check_acquisitions(take, now)?;
        let mut actions = Vec::new();
        let mut answers: Vec<TakeAnswer> = Vec::new();
        // Once there is no room left, `Searching` is left out: it says nothing that silence does not.
        let mut is_short = false;
        'all: for range in &take.ranges {
            for slice in self.parts(range.slice) {
                if answers.len() >= self.config.taken_ranges_max {
                    if !std::mem::replace(&mut is_short, true) {
                        answers.retain(|answer| answer.verdict != Verdict::Searching);
                    }
                    if answers.len() >= self.config.taken_ranges_max {
                        // The repeated `Take` asks for the rest.
                        break 'all;
                    }
                }
                let verdict = self.verdict(slice, range, &take.taker, now, &mut actions);
                if is_short && verdict == Verdict::Searching {
                    continue;
                }
                let joined = answers.last_mut().filter(|last| {
                    last.slice.touches(slice) && (last.since, last.from) == (range.since, range.from)
                });
                match joined.and_then(|last| Some((join(&last.verdict, &verdict)?, last))) {
                    Some((verdict, last)) => {
                        last.slice =
                            Slice::between(last.slice.low(), slice.last()).expect("touching parts ascend");
                        last.verdict = verdict;
                    }
                    None => answers.push(TakeAnswer {
                        slice,
                        since: range.since,
                        from: range.from,
                        verdict,
                    }),
                }
            }
        }
        let reply = TakeReply {
            from: self.me.life.clone(),
            chunk_versions: self.chunk_versions,
            answers,
        };
        Ok((reply, actions))
    }

    /// The answer for a part that reads the same throughout.
    fn verdict(
        &mut self,
        part: Slice,
        asked: &TakeRange,
        taker: &Peer,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Verdict {
        let at = part.low();
        if let Some(past) = self.past.get(at).map(|(_, past)| past)
            && let End::Fenced {
                taker: before, since, ..
            } = &past.end
            && (&before.life, *since) == (&taker.life, asked.since)
            && self.held.get(at).is_none()
            && past.since >= asked.from
        {
            let next_version = past.next_version;
            let age_ms_max = self.config.copy_age_ms_max;
            self.past.update(part, |_, past| {
                if let Some(copy) = past.end.copy_mut() {
                    copy.receive(now, age_ms_max);
                }
            });
            return Verdict::Fenced { next_version };
        }
        if (planted::is(Bug::CopyToRestartedTaker) || planted::is(Bug::FencedToTwo))
            && let Some(verdict) = self.fenced_again(part, asked, taker)
        {
            return verdict;
        }
        let knows_higher = |highest: &Generation| *highest > asked.since && !planted::is(Bug::SinceIgnored);
        let highest = self
            .highest_known(at)
            .max(self.overruling(at, asked, &taker.life));
        if let Some(highest) = highest.filter(knows_higher) {
            return Verdict::Superseded { since: highest };
        }
        if self.held.get(at).is_none()
            && let Some(verdict) = self.verdict_of_offered(part, asked, taker, now)
        {
            return verdict;
        }
        if let Some((_, pending)) = self.pending.get(at) {
            // Whatever was asked about: an open Take may have made this node the newest holder without its knowing. It
            // is older than the asker's claim (else: Superseded), so nodes that wait for each other form no circle.
            if pending.take_is_open() && !planted::is(Bug::NotStartedWhileSearching) {
                return Verdict::Searching;
            }
            if pending.since == asked.from {
                self.pending.remove(part);
                return self.never_started(part, asked.from);
            }
        }
        if let Some((_, held)) = self.held.get(at) {
            return if asked.from > held.since {
                self.never_started(part, asked.from)
            } else if !planted::is(Bug::LeaseOutlivesFence) && self.recall(part, now, actions) {
                // The taker asks again, and finds the leases returned, or over.
                Verdict::Searching
            } else {
                self.fence(part, taker, asked.since, now, actions)
            };
        }
        match self.past.get(at).map(|(_, past)| past) {
            Some(past) if past.since >= asked.from => match &past.end {
                End::Fenced { taker, since, .. } => Verdict::FencedTo {
                    taker: taker.clone(),
                    since: *since,
                },
                End::Offered { .. } | End::Dropped => Verdict::Dropped,
            },
            _ => self.never_started(part, asked.from),
        }
    }

    /// [`Bug::CopyToRestartedTaker`] and [`Bug::FencedToTwo`]: what was fenced for another life is fenced for this one, too.
    fn fenced_again(&mut self, part: Slice, asked: &TakeRange, taker: &Peer) -> Option<Verdict> {
        let (_, past) = self.past.get(part.low())?;
        let mut past = past.clone();
        let End::Fenced {
            taker: before,
            since,
            copy,
        } = &mut past.end
        else {
            return None;
        };
        let is_meant = if planted::is(Bug::FencedToTwo) {
            before.life != taker.life
        } else {
            before.life.node == taker.life.node && before.life != taker.life && copy.is_some()
        };
        if !is_meant || *since >= asked.since {
            return None;
        }
        (*before, *since) = (taker.clone(), asked.since);
        let next_version = past.next_version;
        self.past.insert(part, past);
        Some(Verdict::Fenced { next_version })
    }

    /// Promises never to start under `from`, and says that it has not.
    fn never_started(&mut self, part: Slice, from: Generation) -> Verdict {
        let highest = self
            .never
            .overlapping(part)
            .map(|(_, since)| *since)
            .max()
            .map_or(from, |since| since.max(from));
        self.never.insert(part, highest);
        Verdict::NotStarted
    }

    /// Stops serving a part for good.
    fn fence(
        &mut self,
        part: Slice,
        taker: &Peer,
        since: Generation,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Verdict {
        let mut next_version = softstore_sharding::Version::default();
        let before = self.held.remove(part);
        if planted::is(Bug::ServesAfterFence) {
            for (part, held) in &before {
                self.held.insert(*part, held.clone());
            }
        }
        for (part, held) in before {
            next_version = next_version.max(held.versions.peek());
            let copy = Copy::fenced(held.epoch, held.filled_by(), now, self.config.copy_age_ms_max);
            let end = End::Fenced {
                taker: taker.clone(),
                since,
                copy: Some(copy),
            };
            let past = Past {
                since: held.since,
                next_version: held.versions.peek(),
                end,
            };
            self.remember_end(part, past, actions);
            if held.awaiting.is_some()
                && let Some(memory) = held.pull
            {
                self.leave_pull(memory, part, held.since, PullEnd::Unwanted, actions);
            }
            actions.push(Action::Notice(Notice::Fenced {
                slice: part,
                taker: taker.life.clone(),
                since,
            }));
        }
        // A claim of ours is older than the taker's and has no open Take (see `verdict`): it ends with the holding.
        self.pending.remove(part);
        actions.push(Action::Wake);
        Verdict::Fenced { next_version }
    }

    /// The highest acquisition that this node knows of at a position.
    fn highest_known(&self, at: SliceKey) -> Option<Generation> {
        let assigned = self
            .assignment
            .as_ref()
            .map(|assignment| assignment.range_at(at).since);
        let held = self.held.get(at).map(|(_, held)| held.since);
        let pending = self.pending.get(at).map(|(_, pending)| pending.since);
        let taken = self.past.get(at).and_then(|(_, past)| match &past.end {
            End::Fenced { since, .. } => Some(*since),
            End::Offered { .. } | End::Dropped => None,
        });
        assigned.max(held).max(pending).max(taken)
    }

    /// What a taker may pull: the parts of the ranges asked for that are still kept for it.
    ///
    /// # Errors
    /// If the request is for another life, in no format that both sides know, asks for something twice, or nothing of what it
    /// asks for is kept for that taker.
    pub fn grant_pull(&self, request: &PullRequest) -> Result<Vec<CopyGrant>, Refusal> {
        self.check_addressee(&request.to)?;
        self.chunk_format(request)?;
        check_disjoint(request.ranges.iter().map(|range| range.slice))?;
        let grants: Vec<CopyGrant> = request
            .ranges
            .iter()
            .flat_map(|range| self.grants(range.slice, range.since, &request.taker))
            .collect();
        if grants.is_empty() {
            Err(Refusal::Gone)
        } else {
            Ok(grants)
        }
    }

    /// The newest chunk format that this node is set to speak and the taker reads.
    ///
    /// # Errors
    /// If there is none, or this build cannot write it.
    pub fn chunk_format(&self, request: &PullRequest) -> Result<ChunkFormat, Refusal> {
        let common = self.chunk_versions.newest_common(request.chunk_versions);
        let version = common.ok_or(Refusal::NoCommonVersion)?;
        ChunkFormat::of_version(version).map_err(|_| Refusal::NoCommonVersion)
    }

    /// The copy at a position, if it is still kept for that taker under that acquisition.
    #[must_use]
    pub fn copy_at(&self, at: SliceKey, since: Generation, taker: &Life) -> Option<CopyGrant> {
        self.grants(Slice::single(at), since, taker).next()
    }

    fn grants(&self, slice: Slice, taken: Generation, by: &Life) -> impl Iterator<Item = CopyGrant> {
        self.past
            .overlapping(slice)
            .filter_map(move |(slice, past)| match &past.end {
                End::Fenced {
                    taker,
                    since,
                    copy: Some(copy),
                } if taker.life == *by && *since == taken => Some(CopyGrant {
                    slice,
                    epoch: copy.epoch,
                    as_of: copy.as_of,
                    received: copy.received?,
                    behind_ms: copy.behind_ms(),
                    upstream: copy.upstream,
                }),
                _ => None,
            })
    }

    /// Drops what a taker is done with. Releasing twice, or what was never kept, changes nothing.
    ///
    /// # Errors
    /// If the message is for another life, or names something twice.
    pub fn release(&mut self, release: &Release) -> Result<Vec<Action>, Refusal> {
        self.check_addressee(&release.to)?;
        check_disjoint(release.ranges.iter().map(|range| range.slice))?;
        let mut actions = Vec::new();
        for range in &release.ranges {
            self.drop_copies(range.slice, CopyEnd::Released, &mut actions, |taker, since, _| {
                *taker == release.taker && since == range.since
            });
            if planted::is(Bug::LateReleaseDropsLive) {
                let live = self.held.overlapping(range.slice);
                actions.extend(live.map(|(slice, held)| Action::Purge(slice, held.epoch)));
            }
        }
        Ok(actions)
    }

    /// Drops the copies whose taker is dead or that this node is no longer listed for.
    pub(super) fn drop_orphaned_copies(&mut self, actions: &mut Vec<Action>) {
        let Some(assignment) = self.assignment.clone() else {
            return;
        };
        let keeps_for_the_dead =
            planted::is(Bug::CopyOutlivesTaker) || planted::is(Bug::CopyToRestartedTaker);
        self.drop_copies(Slice::FULL, CopyEnd::TakerDead, actions, |taker, since, _| {
            since <= assignment.generation() && !assignment.is_living(taker) && !keeps_for_the_dead
        });
        if keeps_for_the_dead {
            return;
        }
        let me = self.me.life.clone();
        for (slice, range) in assignment.ranges().iter() {
            let listed = |since: Generation| range.providers.iter().any(|p| p.life == me && p.since == since);
            self.drop_copies(slice, CopyEnd::Unlisted, actions, |_, taken, held| {
                taken <= assignment.generation() && !listed(held)
            });
        }
        self.forget_ended(assignment.generation());
    }

    pub(super) fn drop_old_copies(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let old: Vec<Slice> = self
            .copies()
            .filter(|(_, copy)| copy.keep_until <= now)
            .filter(|_| !planted::is(Bug::CopyOutlivesTaker))
            .map(|(slice, _)| slice)
            .collect();
        for slice in old {
            self.drop_copies(slice, CopyEnd::TooOld, actions, |_, _, _| true);
            self.drop_offered(slice, CopyEnd::TooOld, actions);
        }
    }

    /// Drops the copies within `slice` that `which(taker, taken since, held since)` names.
    fn drop_copies(
        &mut self,
        slice: Slice,
        reason: CopyEnd,
        actions: &mut Vec<Action>,
        which: impl Fn(&Life, Generation, Generation) -> bool,
    ) {
        let parts: Vec<Slice> = self
            .past
            .overlapping(slice)
            .filter(|(_, past)| {
                matches!(&past.end, End::Fenced { taker, since, copy: Some(_) } if which(&taker.life, *since, past.since))
            })
            .map(|(part, _)| part)
            .collect();
        for part in parts {
            let mut upstream = Vec::new();
            self.past.update(part, |part, past| {
                let held = past.since;
                if let End::Fenced { copy, .. } = &mut past.end
                    && let Some(copy) = copy.take()
                {
                    drop_copy(part, &copy, reason, actions);
                    upstream.extend(copy.upstream.map(|pull| (pull, part, held)));
                }
            });
            for (pull, part, held) in upstream {
                self.leave_pull(pull, part, held, PullEnd::Unwanted, actions);
            }
        }
    }

    /// Forgets how holdings ended once an assignment as new as their end is held and nothing is kept: whoever asks under
    /// an older acquisition is told `Superseded` by the assignment, and who asks under a newer one is not told to come
    /// here. A holding that this node is still listed for as provider is remembered, since it may be asked about. A
    /// promise never to start is kept until the range itself has moved on: the assignment that asks for what was promised
    /// may be the very one that is held, or the next. What contradicts the assignment (see `contradictions`) is remembered
    /// until that is put right: forgotten, this node would serve again what it fenced, under the same acquisition.
    fn forget_ended(&mut self, generation: Generation) {
        let Some(assignment) = self.assignment.clone() else {
            return;
        };
        let me = &self.me.life;
        let listed = |slice: Slice, since: Generation| {
            assignment
                .ranges()
                .overlapping(slice)
                .any(|(_, range)| range.providers.iter().any(|p| p.life == *me && p.since >= since))
        };
        let given_again = |slice: Slice, ended: Generation| {
            let mut ranges = assignment.ranges().overlapping(slice);
            ranges.any(|(_, range)| range.owner == *me && range.since <= ended)
        };
        self.past.extract(|slice, past| match &past.end {
            End::Fenced { copy: Some(_), .. } | End::Offered { .. } => false,
            End::Fenced { since, .. } => {
                *since <= generation && !listed(slice, past.since) && !given_again(slice, *since)
            }
            End::Dropped => !listed(slice, past.since) && !given_again(slice, past.since),
        });
        let moved_on = |slice: Slice, since: Generation| {
            let mut ranges = assignment.ranges().overlapping(slice);
            ranges.all(|(_, range)| range.since > since)
        };
        self.never
            .extract(|slice, since| moved_on(slice, *since) && !listed(slice, *since));
    }

    pub(super) fn check_addressee(&self, to: &Life) -> Result<(), Refusal> {
        if *to == self.me.life {
            Ok(())
        } else {
            Err(Refusal::WrongIncarnation)
        }
    }

    /// A sender that the assignment does not list is dead, if the assignment is as new as what it wants.
    pub(super) fn check_living(&self, sender: &Life, since: Option<Generation>) -> Result<(), Refusal> {
        let Some(assignment) = &self.assignment else {
            return Ok(());
        };
        let known = since.is_some_and(|since| since <= assignment.generation());
        if known && !assignment.is_living(sender) {
            Err(Refusal::SenderDead)
        } else {
            Ok(())
        }
    }
}

/// Refuses ranges that share a position. No node asks for one twice; answered, what such a message costs would grow with
/// the product of what it names and what is kept here, under the exclusive lock (H8).
pub(super) fn check_disjoint(slices: impl Iterator<Item = Slice>) -> Result<(), Refusal> {
    let mut slices: Vec<Slice> = slices.collect();
    slices.sort_unstable();
    if slices.windows(2).any(|pair| pair[0].last() >= pair[1].low()) {
        return Err(Refusal::Malformed("two of its ranges overlap"));
    }
    Ok(())
}

/// One answer for two parts that touch, if there is one. Parts fenced together answer together, however much they were
/// cut up here: the highest of their versions is above all that any of them has given (H4).
fn join(left: &Verdict, right: &Verdict) -> Option<Verdict> {
    match (left, right) {
        (Verdict::Fenced { next_version: left }, Verdict::Fenced { next_version: right }) => {
            let next_version = *left.max(right);
            Some(Verdict::Fenced { next_version })
        }
        (left, right) => (left == right).then(|| left.clone()),
    }
}
