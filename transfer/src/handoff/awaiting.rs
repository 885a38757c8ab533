//! What the owner of a range that began cold awaits: the next life of its last holder, with what that held.
//!
//! ```text
//!   the search ends cold  --begin_awaiting--> awaiting --that life is listed: Take--> Fenced --> an ordinary pull
//!   a pull's giver falls silent --await_again-->  |                                                  |
//!                        the time is over, a flush, too much written, fenced, unlisted               '--> ended
//! ```
//!
//! From the same step on in which it begins to serve, all that is written is remembered (H3), in the memory that becomes the
//! pull's. Nobody is asked for what is absent meanwhile: absence is final, and operations that were refused because of it are
//! remembered as well. So who comes back restores what nobody has touched since, and nothing else.

use bytes::Bytes;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::session::HandoffOutcome;
use softstore_sharding::{Generation, Life, Provider, PullId, RangeAssignment, Slice, Timestamp, Version};

use super::state::{Asking, Awaiting, Giver, Held, Pull};
use super::{Action, HandoffCore, Notice, PullEnd};
use crate::message::{TakeAnswer, TakeReply, Verdict};

/// Most lives that are awaited at once. Who falls silent beyond is not.
const AWAITED_MAX: usize = 64;

/// How much longer than usual a question waits that was answered by a newer acquisition.
const SUPERSEDED_RETRY_FACTOR: u64 = 10;

impl HandoffCore {
    /// The memories of what is written while somebody may come back. If one overflows, say so to `pull_ended`.
    pub fn memories_awaiting(&self) -> impl Iterator<Item = PullId> {
        let away = self.pulls.iter().filter(|(_, pull)| pull.giver_here().is_none());
        away.map(|(&id, _)| id)
    }

    /// The memory for a part that is about to begin cold, if the assignment says that what somebody held there may come back.
    pub(super) fn begin_awaiting(
        &mut self,
        part: Slice,
        since: Generation,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Option<(PullId, Life)> {
        let range = self.own_range(part, since)?;
        let life = range
            .awaits
            .first()
            .filter(|_| self.config.transfer)?
            .life
            .clone();
        if self.revival_ms == 0 {
            return None;
        }
        // All that awaits under it may be pulled under it, in one message.
        let parts_awaiting = |id: PullId| {
            let held = self.held.iter().filter(|(_, held)| held.pull == Some(id));
            held.count()
        };
        let is_same = |id: PullId, pull: &Pull| {
            matches!(&pull.giver, Giver::Away(away) if *away == life)
                && pull.deadline > now
                && parts_awaiting(id) < self.config.taken_ranges_max
        };
        let known = self
            .pulls
            .iter()
            .find(|(id, pull)| is_same(**id, pull))
            .map(|(&id, _)| id);
        if known.is_none() && self.memories_awaiting().count() >= AWAITED_MAX {
            return None;
        }
        let memory = known.unwrap_or_else(|| self.open_memory(&life, now, actions));
        Some((memory, life))
    }

    fn open_memory(&mut self, life: &Life, now: Timestamp, actions: &mut Vec<Action>) -> PullId {
        let id = self.next_pull();
        let until = now.plus_ms(self.revival_ms);
        let pull = Pull {
            giver: Giver::Away(life.clone()),
            first_sent: now,
            ranges: Vec::new(),
            cursor: Bytes::new(),
            deadline: until,
            awaits_until: Some(until),
            retry_at: None,
        };
        self.pulls.insert(id, pull);
        if !planted::is(Bug::AwaitMemoryLate) {
            actions.push(Action::BeginAwaiting(id));
        }
        id
    }

    /// A part has begun cold, with a memory, and awaits.
    pub(super) fn awaits(&mut self, part: Slice, since: Generation, life: Life, actions: &mut Vec<Action>) {
        self.held
            .update(part, |_, held| held.awaiting = Some(Awaiting::default()));
        self.report(&[(part, since)], HandoffOutcome::Awaiting, actions);
        let slice = part;
        actions.push(Action::Notice(Notice::Awaiting { slice, since, life }));
    }

    /// The giver of a pull has died. If the Assigner says that it may come back, the pull becomes a memory again: until so long
    /// after it was away for the first time. Says whether it does.
    pub(super) fn await_again(
        &mut self,
        id: PullId,
        giver: &Life,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> bool {
        let may_return = |core: &Self, slice: Slice, held: &Held| {
            let range = core.own_range(slice, held.since);
            let awaited = range.and_then(|range| range.awaits.first());
            awaited.is_some_and(|awaited| awaited.life.node == giver.node)
        };
        let filled = self.held.iter().filter(|(_, held)| held.pull == Some(id));
        let filled: Vec<Slice> = filled.map(|(slice, _)| slice).collect();
        let (mut awaiting, mut lost) = (Vec::new(), Vec::new());
        for part in filled.into_iter().flat_map(|slice| self.parts(slice)) {
            let Some((_, held)) = self.held.get(part.low()) else {
                continue;
            };
            match may_return(self, part, held) {
                true => awaiting.push((part, held.since)),
                false => lost.push((part, held.since)),
            }
        }
        let revival_ms = self.revival_ms;
        let Some(pull) = self.pulls.get_mut(&id) else {
            return true;
        };
        let until = *pull.awaits_until.get_or_insert(now.plus_ms(revival_ms));
        if awaiting.is_empty() || until <= now {
            return false;
        }
        pull.giver = Giver::Away(giver.clone());
        pull.ranges.clear();
        (pull.cursor, pull.deadline, pull.retry_at) = (Bytes::new(), until, None);
        self.fill_no_copies_by(id);
        actions.push(Action::StopPull(id));
        for (part, since) in awaiting {
            self.awaits(part, since, giver.clone(), actions);
        }
        for (part, since) in lost {
            self.held.update(part, |_, held| held.pull = None);
            self.leave_pull(id, part, since, PullEnd::GiverDead, actions);
        }
        actions.push(Action::Wake);
        true
    }

    /// After an assignment: who is awaited may be there, or not be awaited any more.
    pub(super) fn look_for_the_awaited(&mut self, actions: &mut Vec<Action>) {
        let awaiting = self.held.iter().filter(|(_, held)| held.awaiting.is_some());
        let parts: Vec<Slice> = awaiting.flat_map(|(slice, _)| self.parts(slice)).collect();
        for part in parts {
            let Some(since) = self.held.get(part.low()).map(|(_, held)| held.since) else {
                continue;
            };
            let range = self.own_range(part, since);
            let range = range.filter(|range| !range.awaits.is_empty());
            let back = range.map(|range| {
                let is_back =
                    |provider: &&Provider| range.is_revival(provider) && !self.is_dead(&provider.life);
                let back = range.providers.iter().find(is_back);
                back.map(|provider| (provider.life.clone(), provider.since))
            });
            let Some(back) = back else {
                self.await_no_longer(part, PullEnd::Unwanted, actions);
                continue;
            };
            self.held.update(part, |_, held| {
                if let Some(awaiting) = &mut held.awaiting {
                    awaiting.ask(back.as_ref());
                }
            });
        }
    }

    /// The range of the assignment that this node owns under an acquisition. A part reads the same throughout.
    fn own_range(&self, part: Slice, since: Generation) -> Option<&RangeAssignment> {
        let range = self.assignment.as_ref()?.range_at(part.low());
        (range.owner == self.me.life && range.since == since).then_some(range)
    }

    /// A part goes on without what it awaited.
    fn await_no_longer(&mut self, part: Slice, end: PullEnd, actions: &mut Vec<Action>) {
        let mut left = Vec::new();
        self.held.update(part, |part, held| {
            if held.awaiting.take().is_some() {
                left.extend(held.pull.take().map(|memory| (memory, part, held.since)));
            }
        });
        for (memory, part, since) in left {
            self.leave_pull(memory, part, since, end, actions);
        }
    }

    /// The questions to those that are back.
    pub(super) fn asking_the_awaited(&self) -> impl Iterator<Item = &Asking> {
        let awaiting = self.held.iter().filter_map(|(_, held)| held.awaiting.as_ref());
        awaiting.filter_map(|awaiting| awaiting.asking.as_ref())
    }

    /// Takes note of the answers of one that is back.
    pub(super) fn awaited_answered(&mut self, reply: &TakeReply, now: Timestamp, actions: &mut Vec<Action>) {
        let has_common_version = self.chunk_versions.newest_common(reply.chunk_versions).is_some();
        let mut given: Vec<(Slice, Generation)> = Vec::new();
        for answer in &reply.answers {
            for (part, first_sent) in self.awaited_parts(&reply.from, answer) {
                match &answer.verdict {
                    Verdict::Fenced { next_version } if has_common_version && self.has_room_for(part) => {
                        self.given_back(part, *next_version, first_sent, reply, now, actions);
                        given.push((part, answer.since));
                    }
                    Verdict::Searching => {}
                    Verdict::Superseded { .. } => self.ask_later(part, now),
                    // It has nothing, or nothing for this node.
                    _ => self.await_no_longer(part, PullEnd::Gone, actions),
                }
            }
        }
        if !given.is_empty() {
            self.report(&given, HandoffOutcome::Started, actions);
            self.tick_pulls(now, actions);
            actions.push(Action::Wake);
        }
    }

    /// The parts of an answer that were asked of one that is back, with the time of first asking.
    fn awaited_parts(&self, from: &Life, answer: &TakeAnswer) -> Vec<(Slice, Timestamp)> {
        let parts = self.held.overlapping(answer.slice);
        parts
            .filter(|(_, held)| held.since == answer.since)
            .filter_map(|(part, held)| {
                let asking = held.awaiting.as_ref()?.asking.as_ref()?;
                (asking.life == *from && asking.from == answer.from).then_some((part, asking.first_sent?))
            })
            .collect()
    }

    fn ask_later(&mut self, part: Slice, now: Timestamp) {
        let send_at = now.plus_ms(self.config.take_retry_ms * SUPERSEDED_RETRY_FACTOR);
        self.held.update(part, |_, held| {
            if let Some(asking) = held
                .awaiting
                .as_mut()
                .and_then(|awaiting| awaiting.asking.as_mut())
            {
                asking.send_at = send_at;
            }
        });
    }

    /// Whether the pull under which a part awaits can hold one more: an answer may be in smaller parts than were asked for.
    fn has_room_for(&self, part: Slice) -> bool {
        let memory = self.held.get(part.low()).and_then(|(_, held)| held.pull);
        let pull = memory.and_then(|id| self.pulls.get(&id));
        pull.is_some_and(|pull| pull.ranges.len() < self.config.taken_ranges_max)
    }

    /// The copy of a part is fenced for this node: its memory becomes the pull's without a gap. Versions go on above what the
    /// holder gave out, before anything is imported (H4).
    fn given_back(
        &mut self,
        part: Slice,
        next_version: Version,
        first_sent: Timestamp,
        reply: &TakeReply,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let Some((_, held)) = self.held.get(part.low()) else {
            return;
        };
        let (since, Some(id)) = (held.since, held.pull) else {
            return;
        };
        self.held.update(part, |_, held| {
            held.versions.raise_to(next_version);
            held.awaiting = None;
        });
        let giver = self.peer_of(&reply.from);
        let deadline = now.plus_ms(self.config.pull_deadline_ms);
        let Some(pull) = self.pulls.get_mut(&id) else {
            return;
        };
        if pull.giver_here().is_none() {
            if planted::is(Bug::AwaitMemoryLate) {
                actions.push(Action::BeginAwaiting(id));
            }
            // No entry of an earlier giver is on its way any more (H5).
            pull.first_sent = first_sent;
        }
        pull.first_sent = pull.first_sent.min(first_sent);
        pull.giver = Giver::Here(giver);
        pull.ranges.push((part, since));
        // With each part the stream begins anew: imports are idempotent.
        (pull.cursor, pull.deadline, pull.retry_at) = (Bytes::new(), deadline, Some(now));
        actions.push(Action::Notice(Notice::CameBack {
            slice: part,
            giver: reply.from.clone(),
            since,
        }));
    }
}

impl Awaiting {
    /// Asks who is back, and nobody else.
    fn ask(&mut self, back: Option<&(Life, Generation)>) {
        let is_asked = |(life, from): &(Life, Generation)| {
            let asking = self.asking.as_ref();
            asking.is_some_and(|asking| (&asking.life, asking.from) == (life, *from))
        };
        if !back.is_some_and(is_asked) {
            self.asking = back.map(|(life, from)| Asking::new(life.clone(), None, *from));
        }
    }
}
