//! The taker's search: who still holds the range? Providers are asked in turn until one fences it, or none is left.
//!
//! Until its search ends a taker serves nothing of the range; no timer makes it an owner. What a provider says of its
//! own past is believed only if it leads forward in time, so that no chain of answers runs in a circle.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::session::{HandoffOutcome, HandoffReport};
use softstore_sharding::{Generation, Life, Slice, Timestamp, Version};

use super::lending::READ_LEASE_OUT_MS_MAX;
use super::state::{Asking, End, Giver, Pending, Pull};
use super::{Action, ColdReason, HandoffCore, Notice};
use crate::message::{Take, TakeAnswer, TakeRange, TakeReply, Verdict};

/// How much longer than usual a search waits that was told to wait for its assignment.
const SUPERSEDED_RETRY_FACTOR: u64 = 10;

/// Whom a `Take` goes to: the life, where it listens if a provider said so, and whether through the Assigner too.
type Addressee = (Life, Option<Arc<str>>, bool);

impl HandoffCore {
    /// Takes note of a provider's answers. Answers to questions that are no longer asked are ignored.
    pub fn take_answered(&mut self, reply: &TakeReply, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut fenced: Vec<(Slice, Generation, Version, Timestamp)> = Vec::new();
        for answer in &reply.answers {
            for (part, first_sent) in self.asked_parts(&reply.from, answer) {
                match &answer.verdict {
                    Verdict::Fenced { next_version } => {
                        fenced.push((part, answer.since, *next_version, first_sent));
                    }
                    verdict => self.heard(part, verdict, now, &mut actions),
                }
            }
        }
        for fenced in fenced.chunks(self.config.taken_ranges_max) {
            self.take_over(reply, fenced, now, &mut actions);
        }
        self.awaited_answered(reply, now, &mut actions);
        self.search(now, &mut actions);
        actions
    }

    /// The parts of an answer that were asked of that provider and are still open, with the time of first asking.
    fn asked_parts(&self, from: &Life, answer: &TakeAnswer) -> Vec<(Slice, Timestamp)> {
        let parts = self.pending.overlapping(answer.slice);
        parts
            .filter(|(_, pending)| pending.since == answer.since)
            .filter_map(|(part, pending)| {
                let asking = pending.asking.as_ref()?;
                (asking.life == *from && asking.from == answer.from).then_some((part, asking.first_sent?))
            })
            .collect()
    }

    /// An answer other than `Fenced` for one part.
    fn heard(&mut self, part: Slice, verdict: &Verdict, now: Timestamp, actions: &mut Vec<Action>) {
        match verdict {
            Verdict::Fenced { .. } => {}
            Verdict::NotStarted => {
                self.pending.update(part, |_, pending| pending.asking = None);
                self.advance(part, now, actions);
            }
            Verdict::FencedTo { taker, since } if taker.life == self.me.life => {
                self.heard_of_self(part, *since, now, actions);
            }
            Verdict::FencedTo { taker, since } => {
                if self.is_dead(&taker.life) {
                    self.start_cold(part, ColdReason::HolderDead, now, actions);
                    return;
                }
                let next = Asking::new(taker.life.clone(), Some(taker.address.clone()), *since);
                self.pending.update(part, |_, pending| {
                    let leads_on = |asking: &Asking| asking.from < *since && *since < pending.since;
                    if pending.asking.as_ref().is_some_and(leads_on) {
                        pending.asking = Some(next.clone());
                    }
                });
            }
            Verdict::Dropped => self.start_cold(part, ColdReason::HolderDropped, now, actions),
            Verdict::Superseded { .. } => {
                let retry = now.plus_ms(self.config.take_retry_ms * SUPERSEDED_RETRY_FACTOR);
                self.pending.update(part, |_, pending| {
                    if let Some(asking) = &mut pending.asking {
                        asking.superseded = true;
                        asking.send_at = retry;
                    }
                });
                // Nothing was fenced under this acquisition: a newer one, if known, may begin.
                self.settled(part, now, actions);
            }
            // The repeated Take asks again.
            Verdict::Searching => {}
        }
    }

    /// A provider fenced a part for this very node, under an older acquisition. What was made of that decides; if nothing,
    /// then whatever an older provider has is out of date.
    fn heard_of_self(&mut self, slice: Slice, taken: Generation, now: Timestamp, actions: &mut Vec<Action>) {
        for part in self.parts(slice) {
            let Some((_, pending)) = self.pending.get(part.low()) else {
                continue;
            };
            let since = pending.since;
            match self.ask_self(part, taken, since) {
                SelfAnswer::Unfenced => self.keep(part, since, now, actions),
                SelfAnswer::Offered => self.take_back(part, since, now, actions),
                SelfAnswer::FencedTo(asking) if !self.is_dead(&asking.life) => {
                    self.pending
                        .update(part, |_, pending| pending.asking = Some(asking.clone()));
                }
                SelfAnswer::FencedTo(_) => self.start_cold(part, ColdReason::HolderDead, now, actions),
                SelfAnswer::NotStarted | SelfAnswer::Dropped => {
                    self.start_cold(part, ColdReason::HolderDropped, now, actions);
                }
            }
        }
    }

    /// The provider fenced these parts for us: from here on this node is their only owner (H1), and it pulls.
    fn take_over(
        &mut self,
        reply: &TakeReply,
        fenced: &[(Slice, Generation, Version, Timestamp)],
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let ranges: Vec<(Slice, Generation)> =
            fenced.iter().map(|&(part, since, ..)| (part, since)).collect();
        let cold = if self.chunk_versions.newest_common(reply.chunk_versions).is_none() {
            Some(ColdReason::NoCommonVersion)
        } else if self.config.transfer {
            None
        } else {
            Some(ColdReason::TransferOff)
        };
        let epoch = self.next_epoch();
        let pull = cold.is_none().then(|| self.next_pull());
        if let Some(pull) = pull {
            actions.push(Action::BeginPull(pull));
        }
        for &(part, since, next_version, _) in fenced {
            self.start(part, since, epoch, next_version, pull, actions);
            actions.push(Action::Notice(match cold {
                None => Notice::Took {
                    slice: part,
                    giver: reply.from.clone(),
                    since,
                },
                Some(reason) => Notice::StartedCold {
                    slice: part,
                    since,
                    reason,
                },
            }));
        }
        let giver = self.peer_of(&reply.from);
        if let Some(pull) = pull {
            // One Take, one moment of asking; the earliest is right for all (H5: deadlines only come out earlier).
            let first_sent = fenced
                .iter()
                .map(|&(.., first_sent)| first_sent)
                .min()
                .filter(|_| !planted::is(Bug::TtlFromFenced))
                .unwrap_or(now);
            let deadline = now.plus_ms(self.config.pull_deadline_ms);
            self.pulls.insert(
                pull,
                Pull {
                    giver: Giver::Here(giver),
                    first_sent,
                    ranges: ranges.clone(),
                    cursor: Bytes::new(),
                    deadline,
                    awaits_until: None,
                    retry_at: Some(now),
                },
            );
            let outcome = if planted::is(Bug::CompletedTooEarly) {
                HandoffOutcome::Completed
            } else {
                HandoffOutcome::Started
            };
            self.report(&ranges, outcome, actions);
            self.tick_pulls(now, actions);
        } else {
            self.report(&ranges, HandoffOutcome::Completed, actions);
            self.release_to(&giver, &ranges, actions);
        }
        for (part, _) in ranges {
            self.settled(part, now, actions);
        }
    }

    /// Turns to the next provider of a part, or ends its search. (Parts of one pending range move together here.)
    pub(super) fn advance(&mut self, slice: Slice, now: Timestamp, actions: &mut Vec<Action>) {
        for part in self.parts(slice) {
            let Some((_, pending)) = self.pending.get(part.low()) else {
                continue;
            };
            let mut pending: Pending = pending.clone();
            let ending = self.next_question(part, &mut pending);
            let since = pending.since;
            self.pending.insert(part, pending);
            match ending {
                None => {}
                Some(Ending::Keep) => self.keep(part, since, now, actions),
                Some(Ending::TakeBack) => self.take_back(part, since, now, actions),
                Some(Ending::Cold(reason)) => self.start_cold(part, reason, now, actions),
            }
        }
    }

    /// Sets whom a search asks next; or says how it ends.
    fn next_question(&self, part: Slice, pending: &mut Pending) -> Option<Ending> {
        if planted::is(Bug::ServesBeforeFence) {
            return Some(Ending::Cold(ColdReason::NoProvider));
        }
        while let Some(provider) = pending.providers.get(pending.next) {
            if planted::is(Bug::SecondProviderSkipped) && pending.next > 0 {
                break;
            }
            let (life, from) = (provider.life.clone(), provider.since);
            pending.next += 1;
            if life == self.me.life {
                match self.ask_self(part, from, pending.since) {
                    SelfAnswer::Unfenced => return Some(Ending::Keep),
                    SelfAnswer::Offered => return Some(Ending::TakeBack),
                    SelfAnswer::NotStarted => {}
                    SelfAnswer::FencedTo(asking) if self.is_dead(&asking.life) => {
                        return Some(Ending::Cold(ColdReason::HolderDead));
                    }
                    SelfAnswer::FencedTo(asking) => {
                        pending.asking = Some(asking);
                        return None;
                    }
                    SelfAnswer::Dropped => return Some(Ending::Cold(ColdReason::HolderDropped)),
                }
            } else if !self.is_dead(&life) {
                pending.asking = Some(Asking::new(life, None, from));
                return None;
            }
        }
        pending.asking = None;
        Some(Ending::Cold(ColdReason::NoProvider))
    }

    /// What this node itself, listed as a provider, has of a part for its acquisition under `since`.
    fn ask_self(&self, part: Slice, from: Generation, since: Generation) -> SelfAnswer {
        if let Some((_, held)) = self.held.get(part.low()) {
            return if from > held.since {
                SelfAnswer::NotStarted
            } else {
                SelfAnswer::Unfenced
            };
        }
        match self.past.get(part.low()).map(|(_, past)| past) {
            Some(past) if past.since >= from => match &past.end {
                End::Fenced { taker, since, .. } => SelfAnswer::FencedTo(Asking::new(
                    taker.life.clone(),
                    Some(taker.address.clone()),
                    *since,
                )),
                // Kept for another, or for an earlier acquisition, it may be older than what was written under that.
                End::Offered { kept_for, .. }
                    if past.since == from
                        && kept_for
                            .as_ref()
                            .is_some_and(|kept| *kept == (self.me.life.clone(), since)) =>
                {
                    SelfAnswer::Offered
                }
                End::Offered { .. } | End::Dropped => SelfAnswer::Dropped,
            },
            _ => SelfAnswer::NotStarted,
        }
    }

    /// The range never left: its holding goes on under the new acquisition.
    fn keep(&mut self, part: Slice, since: Generation, now: Timestamp, actions: &mut Vec<Action>) {
        let held: Vec<_> = self
            .held
            .overlapping(part)
            .map(|(part, held)| (part, held.epoch, held.filled_by(), held.since))
            .collect();
        for (part, epoch, pull, before) in held {
            self.start(part, since, epoch, Version::default(), pull, actions);
            actions.push(Action::Notice(Notice::Renewed { slice: part, since }));
            let outcome = if pull.is_some() {
                HandoffOutcome::Started
            } else {
                HandoffOutcome::Completed
            };
            self.report(&[(part, since)], outcome, actions);
            debug_assert!(before < since, "a renewal leads forward");
        }
        self.settled(part, now, actions);
    }

    /// Ends a search without a provider: at once, or, where replicas of a former owner may still serve reads, when the last of
    /// their leases is over (H2). A part reads the same throughout.
    fn start_cold(&mut self, part: Slice, reason: ColdReason, now: Timestamp, actions: &mut Vec<Action>) {
        let Some((_, pending)) = self.pending.get(part.low()) else {
            return;
        };
        let since = pending.since;
        if pending.leases_out && !planted::is(Bug::ColdStartUnwaited) {
            let (at, reason) = pending
                .cold_at
                .unwrap_or((now.plus_ms(READ_LEASE_OUT_MS_MAX), reason));
            if now < at {
                self.pending.update(part, |_, pending| {
                    pending.asking = None;
                    pending.cold_at = Some((at, reason));
                });
                return;
            }
        }
        let own_copy = self.own_copy_kept_by_mistake(part);
        let epoch = match own_copy {
            Some(epoch) => epoch,
            None => self.next_epoch(),
        };
        let awaited = self.begin_awaiting(part, since, now, actions);
        let memory = awaited.as_ref().map(|(memory, _)| *memory);
        self.start(part, since, epoch, Version::default(), memory, actions);
        if planted::is(Bug::ColdRestartsVersions)
            && let Some((_, held)) = self.held.iter_mut().find(|(slice, _)| *slice == part)
        {
            held.versions = softstore_sharding::VersionCounter::starting_at(Version::new(1));
        }
        actions.push(Action::Notice(Notice::StartedCold {
            slice: part,
            since,
            reason,
        }));
        match awaited {
            Some((_, life)) => self.awaits(part, since, life, actions),
            None => self.report(&[(part, since)], HandoffOutcome::Completed, actions),
        }
        self.settled(part, now, actions);
    }

    /// Sends the `Take`s that are due, one message per provider, and passes over providers that have died.
    pub(super) fn search(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let dead: Vec<(Slice, bool)> = self
            .pending
            .iter()
            .filter_map(|(slice, pending)| {
                let asking = pending
                    .asking
                    .as_ref()
                    .filter(|asking| self.is_dead(&asking.life))?;
                // A holder that another provider pointed to is the newest: with it everything is lost.
                Some((slice, asking.address.is_some()))
            })
            .collect();
        for (slice, pointed_to) in dead {
            self.pending.update(slice, |_, pending| pending.asking = None);
            if pointed_to {
                self.start_cold(slice, ColdReason::HolderDead, now, actions);
            } else {
                self.advance(slice, now, actions);
            }
        }
        let waited: Vec<(Slice, ColdReason)> = self
            .pending
            .iter()
            .filter_map(|(slice, pending)| Some((slice, pending.cold_at?)))
            .filter(|(_, (at, _))| *at <= now)
            .map(|(slice, (_, reason))| (slice, reason))
            .collect();
        for (slice, reason) in waited {
            for part in self.parts(slice) {
                self.start_cold(part, reason, now, actions);
            }
        }
        self.send_takes(now, actions);
    }

    fn send_takes(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let mut due: BTreeMap<Addressee, Vec<TakeRange>> = BTreeMap::new();
        let (retry_ms, relay_after_ms) = (self.config.take_retry_ms, self.config.take_relay_after_ms);
        let pending = self.pending.iter_mut();
        let pending =
            pending.filter_map(|(slice, pending)| Some((slice, pending.since, pending.asking.as_mut()?)));
        let held = self.held.iter_mut();
        let awaited = held.filter_map(|(slice, held)| {
            let asking = held.awaiting.as_mut()?.asking.as_mut()?;
            Some((slice, held.since, asking))
        });
        for (slice, since, asking) in pending
            .chain(awaited)
            .filter(|(.., asking)| asking.send_at <= now)
        {
            let first_sent = *asking.first_sent.get_or_insert(now);
            asking.superseded = false;
            asking.send_at = if planted::is(Bug::TakeSentOnce) {
                Timestamp::NEVER
            } else {
                now.plus_ms(retry_ms)
            };
            let relay = now.ms_since(first_sent) >= relay_after_ms;
            let range = TakeRange {
                slice,
                since,
                from: asking.from,
            };
            due.entry((asking.life.clone(), asking.address.clone(), relay))
                .or_default()
                .push(range);
        }
        for ((life, address, relay), ranges) in due {
            let address = address.unwrap_or_else(|| self.peer_of(&life).address);
            let at_once = if planted::is(Bug::OversizeTake) {
                usize::MAX
            } else {
                self.config.take_ranges_max
            };
            for ranges in ranges.chunks(at_once) {
                let take = Take {
                    to: life.clone(),
                    taker: self.me.clone(),
                    ranges: ranges.to_vec(),
                };
                actions.push(Action::SendTake {
                    take,
                    address: address.clone(),
                    relay,
                });
            }
        }
    }

    /// A life's address; empty if the directory does not list it (then only the Assigner can reach it).
    pub(super) fn peer_of(&self, life: &Life) -> softstore_sharding::Peer {
        let listed = self
            .assignment
            .as_ref()
            .and_then(|assignment| assignment.peer(life));
        listed.unwrap_or_else(|| softstore_sharding::Peer {
            life: life.clone(),
            address: "".into(),
        })
    }

    pub(super) fn report(
        &self,
        ranges: &[(Slice, Generation)],
        outcome: HandoffOutcome,
        actions: &mut Vec<Action>,
    ) {
        let reports = ranges.iter().map(|&(slice, since)| HandoffReport {
            slice,
            since,
            outcome,
        });
        actions.push(Action::Report(reports.collect()));
    }
}

/// How a search ends without asking anyone else.
enum Ending {
    /// This node holds the range unfenced: it keeps all.
    Keep,
    /// A former life of this process held it last: what it left is this node's.
    TakeBack,
    /// Nothing is to be had.
    Cold(ColdReason),
}

/// What a node finds when it is listed as its own provider.
enum SelfAnswer {
    Unfenced,
    NotStarted,
    Offered,
    FencedTo(Asking),
    Dropped,
}
