//! What a former life of this process held: frozen when it was declared dead, and offered to whoever took it over.
//!
//! ```text
//!   held --reborn--> Offered --the first assignment that lists this life--> kept for one owner and its `since`, or dropped
//!                       '------------------- its Take ------------------> Fenced, as any frozen copy
//! ```
//!
//! Freezing is one exclusive step: nothing is imported any more, nothing that waits is applied, nothing is lent or read. From
//! then on nothing changes a copy (H2). It is given to nobody but the owner that began cold after this life had died, and that
//! has remembered since what was written; to anyone else it is dropped, since somebody may have written in between.

use softstore_sharding::planted::{self, Bug};
use softstore_sharding::session::{FORMER_LIVES_MAX, Offer, Offers};
use softstore_sharding::{Epoch, Generation, Peer, PullId, Slice, Timestamp};

use super::state::{Copy, End, Giver, Inherited, Past, Pull};
use super::{Action, CopyEnd, HandoffCore, Notice, drop_copy};
use crate::message::{TakeRange, Verdict};

impl HandoffCore {
    /// Goes on as a new life: the old one was declared dead. What it held, and the copies that it kept for others, are frozen
    /// and offered; all else is dropped. Epochs and pulls are not reused.
    pub fn reborn(&mut self, me: Peer, now: Timestamp) -> Vec<Action> {
        let mut actions: Vec<Action> = Vec::new();
        // Before anything is frozen: an import that comes later finds no pull.
        let pulls = std::mem::take(&mut self.pulls);
        for &pull in pulls.keys() {
            actions.push(Action::EndPull(pull));
            if !planted::is(Bug::FreezeKeepsUpstream) {
                actions.push(Action::StopPull(pull));
            }
        }
        let revival_ms = if self.config.transfer { self.revival_ms } else { 0 };
        let keep_until = now.plus_ms(revival_ms);
        let before = std::mem::replace(&mut self.me, me).life;
        for (slice, past) in self.past.remove(Slice::FULL) {
            if let Some(past) = inherit(slice, past, keep_until, now, &mut actions) {
                self.past.insert(slice, past);
            }
        }
        for (slice, held) in self.held.remove(Slice::FULL) {
            if keep_until <= now {
                actions.push(Action::Purge(slice, held.epoch));
                continue;
            }
            let mut copy = Copy::fenced(held.epoch, None, now, revival_ms);
            (copy.received, copy.inherited) = (None, Some(Inherited::untold(Some(0))));
            if planted::is(Bug::FreezeKeepsUpstream)
                && let Some((id, pull)) = held.pull.and_then(|id| Some((id, pulls.get(&id)?.clone())))
            {
                copy.upstream = Some(id);
                self.pulls.insert(id, pull);
                actions.push(Action::BeginPull(id));
            }
            let since = held.since;
            let end = End::Offered { kept_for: None, copy };
            let next_version = held.versions.peek();
            self.past.insert(
                slice,
                Past {
                    since,
                    next_version,
                    end,
                },
            );
            actions.push(Action::Notice(Notice::Offered { slice, since }));
        }
        if self.copies().next().is_some() {
            self.former.push(before);
        } else {
            self.former.clear();
        }
        if self.former.len() > FORMER_LIVES_MAX {
            self.former.remove(0);
        }
        self.pending.clear();
        self.never.clear();
        self.lending.forget_all();
        self.stop_reading(|_, _| true, &mut actions);
        self.readings.is_replica = false;
        self.assignment = None;
        actions.push(Action::Wake);
        actions
    }

    /// What this process offers of former lives, for a hello; `None`: nothing, or all is settled.
    #[must_use]
    pub fn offers(&self) -> Option<Offers> {
        let offer = |(slice, past): (Slice, &Past)| {
            let copy = past.end.copy()?;
            let taker = match &past.end {
                End::Fenced { taker, since, .. } => Some((taker.life.clone(), *since)),
                End::Offered { .. } | End::Dropped => None,
            };
            let since = past.since;
            copy.is_unsettled().then_some(Offer { slice, since, taker })
        };
        let ranges: Vec<Offer> = self.past.iter().filter_map(offer).collect();
        (!ranges.is_empty()).then(|| Offers {
            former: self.former.clone(),
            last_answer: None,
            ranges,
        })
    }

    /// The Assigner heard what is offered; by so much this node's clock may have fallen behind since its former life heard of
    /// it last.
    pub fn offers_heard(&mut self, behind_ms: Option<u64>) {
        let copies = self.past.iter_mut().filter_map(|(_, past)| past.end.copy_mut());
        for inherited in copies.filter_map(|copy| copy.inherited.as_mut()) {
            if !std::mem::replace(&mut inherited.is_told, true) {
                let both = inherited.behind_ms.zip(behind_ms);
                inherited.behind_ms = both.map(|(before, now)| before.saturating_add(now));
            }
        }
    }

    /// The first assignment that lists this life says who wants what is offered: the rest is dropped. So is what was wanted by
    /// one who is dead, and what is wanted no longer.
    pub(super) fn settle_offered(&mut self, actions: &mut Vec<Action>) {
        let Some(assignment) = self.assignment.clone() else {
            return;
        };
        let me = self.me.life.clone();
        if !assignment.is_living(&me) || self.copies().all(|(_, copy)| copy.inherited.is_none()) {
            return;
        }
        let mut unwanted: Vec<(Slice, CopyEnd)> = Vec::new();
        for (slice, range) in assignment.ranges().iter() {
            self.past.update(slice, |part, past| {
                // As what its owner awaits. A later owner that lists it because a former one did has to ask that one.
                let provides = |since: Generation| {
                    let mut providers = range.providers.iter();
                    providers.any(|provider| {
                        provider.life == me && provider.since == since && range.is_revival(provider)
                    })
                };
                let since = past.since;
                if let Some(inherited) = past.end.copy_mut().and_then(|copy| copy.inherited.as_mut()) {
                    inherited.is_unsettled = false;
                }
                let End::Offered { kept_for, .. } = &mut past.end else {
                    return;
                };
                let owner = || (range.owner.clone(), range.since);
                if planted::is(Bug::OwnCopyKept) && range.owner == me {
                    return;
                }
                if !provides(since) {
                    unwanted.push((part, CopyEnd::Unlisted));
                } else if !assignment.is_living(&kept_for.get_or_insert_with(owner).0) {
                    unwanted.push((part, CopyEnd::TakerDead));
                }
            });
        }
        for (part, reason) in unwanted {
            self.drop_offered(part, reason, actions);
        }
    }

    /// Drops what is offered within `slice`. That it was held is remembered: what an older holder has is out of date.
    pub(super) fn drop_offered(&mut self, slice: Slice, reason: CopyEnd, actions: &mut Vec<Action>) {
        self.past.update(slice, |part, past| {
            if let End::Offered { copy, .. } = &past.end {
                drop_copy(part, copy, reason, actions);
                past.end = End::Dropped;
            }
        });
    }

    /// The answer to a `Take` of what a former life held; `None`: it held nothing here under that acquisition.
    pub(super) fn verdict_of_offered(
        &mut self,
        part: Slice,
        asked: &TakeRange,
        taker: &Peer,
        now: Timestamp,
    ) -> Option<Verdict> {
        let age_ms_max = self.config.copy_age_ms_max;
        let (_, past) = self.past.get(part.low())?;
        let mut past = past.clone();
        let End::Offered { kept_for, mut copy } = past.end else {
            return None;
        };
        if past.since != asked.from {
            return None;
        }
        let Some((owner, since)) = kept_for else {
            // Until it is settled whom it is kept for, nobody can be told that there is nothing.
            return Some(Verdict::Searching);
        };
        if (&owner, since) != (&taker.life, asked.since) && !planted::is(Bug::RevivedCopyUnbound) {
            return Some(Verdict::Dropped);
        }
        copy.receive(now, age_ms_max);
        past.end = End::Fenced {
            taker: taker.clone(),
            since: asked.since,
            copy: Some(copy),
        };
        let next_version = past.next_version;
        self.past.insert(part, past);
        Some(Verdict::Fenced { next_version })
    }

    /// This node owns again what a former life of its held last: it gives that to itself, as to any owner that began cold.
    pub(super) fn take_back(
        &mut self,
        slice: Slice,
        since: Generation,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let age_ms_max = self.config.copy_age_ms_max;
        for (part, mut past) in self.past.remove(slice) {
            let End::Offered { mut copy, .. } = past.end else {
                continue;
            };
            let pull = self.pull_from_self(now, actions);
            let epoch = self.next_epoch();
            self.start(part, since, epoch, past.next_version, Some(pull), actions);
            copy.receive(now, age_ms_max);
            past.end = End::Fenced {
                taker: self.me.clone(),
                since,
                copy: Some(copy),
            };
            self.past.insert(part, past);
            if let Some(pull) = self.pulls.get_mut(&pull) {
                pull.ranges.push((part, since));
            }
            let giver = self.me.life.clone();
            actions.push(Action::Notice(Notice::CameBack {
                slice: part,
                giver,
                since,
            }));
            self.report(
                &[(part, since)],
                softstore_sharding::session::HandoffOutcome::Started,
                actions,
            );
            self.settled(part, now, actions);
        }
    }

    /// A pull from this node itself whose stream is not open yet.
    fn pull_from_self(&mut self, now: Timestamp, actions: &mut Vec<Action>) -> PullId {
        let me = self.peer_of(&self.me.life);
        let is_unopened = |pull: &Pull| {
            let is_mine = pull.giver_here().is_some_and(|giver| giver.life == me.life);
            is_mine && pull.retry_at == Some(now) && pull.ranges.len() < self.config.taken_ranges_max
        };
        if let Some((&pull, _)) = self.pulls.iter().find(|(_, pull)| is_unopened(pull)) {
            return pull;
        }
        let id = self.next_pull();
        actions.push(Action::BeginPull(id));
        let pull = Pull {
            giver: Giver::Here(me),
            first_sent: now,
            ranges: Vec::new(),
            cursor: bytes::Bytes::new(),
            deadline: now.plus_ms(self.config.pull_deadline_ms),
            awaits_until: None,
            retry_at: Some(now),
        };
        self.pulls.insert(id, pull);
        id
    }

    /// [`Bug::OwnCopyKept`]: what a former life held is this node's again, whoever has owned it since.
    pub(super) fn own_copy_kept_by_mistake(&mut self, part: Slice) -> Option<Epoch> {
        if !planted::is(Bug::OwnCopyKept) {
            return None;
        }
        let (_, past) = self.past.get(part.low())?;
        let End::Offered { copy, .. } = &past.end else {
            return None;
        };
        let epoch = copy.epoch;
        self.past.remove(part);
        Some(epoch)
    }
}

impl Inherited {
    /// What is known when a life ends, of entries whose deadlines were right but for this.
    fn untold(behind_ms: Option<u64>) -> Self {
        Self {
            behind_ms,
            is_told: false,
            is_unsettled: true,
        }
    }
}

impl Copy {
    fn is_unsettled(&self) -> bool {
        self.inherited.is_some_and(|inherited| inherited.is_unsettled)
    }
}

/// What the next life keeps of how a holding ended: the copies that are kept for others, and those that were offered already.
fn inherit(
    slice: Slice,
    mut past: Past,
    keep_until: Timestamp,
    now: Timestamp,
    actions: &mut Vec<Action>,
) -> Option<Past> {
    if let End::Offered { kept_for, .. } = &mut past.end {
        *kept_for = None;
    }
    let copy = past.end.copy_mut()?;
    let is_old = copy.inherited.is_some();
    if keep_until <= now && !is_old {
        drop_copy(slice, copy, CopyEnd::TooOld, actions);
        return None;
    }
    copy.inherited = Some(Inherited::untold(copy.behind_ms()));
    (copy.received, copy.upstream) = (None, None);
    if !is_old {
        copy.keep_until = copy.keep_until.min(keep_until);
    }
    Some(past)
}
