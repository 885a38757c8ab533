//! [`Recovery`]: how a new Assigner learns what the cluster holds before it publishes.
//!
//! It fetches the highest assignment that any hello names, and lays the claims of the hellos over it: per range the
//! highest `since` wins, and providers carry over. It is ready when every life in that assignment, and every one that a
//! member has fenced something for, has said hello, or when
//! the settling time is over. Having heard of no assignment and of nobody who holds one, it begins a cluster: under the
//! founding that it knows, after the settling time; else it founds one, after a longer time that counts from the first
//! hello. The expected number of nodes is a floor for that, and a trigger only where the config says so.
//!
//! The settling time counts from the start; but if nobody was heard of until its end, from the first hello, and if nobody who
//! holds anything, from the first who does: an Assigner that was cut off from all of them must not bury all but the first to
//! come through.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::config::AssignerConfig;
use super::event::SessionId;
use super::member::Member;
use super::next::{Ranges, merged, unowned};
use crate::assignment::{Assignment, RangeAssignment, Readers};
use crate::generation::Generation;
use crate::node::Life;
use crate::planted::{self, Bug};
use crate::range_map::RangeMap;
use crate::session::{ClaimPhase, RangeClaim};
use crate::slice::Slice;
use crate::time::Timestamp;

/// What a new Assigner has learnt so far.
#[derive(Debug)]
pub(super) struct Recovery {
    started: Timestamp,
    settle_from: Timestamp,
    heard_any: bool,
    /// Somebody was heard of who holds an assignment.
    heard_holder: bool,
    /// When the first hello came, or the Assigner went on after it stood still.
    first_heard: Option<Timestamp>,
    /// The longest lease that is known of an Assigner before this one: nodes say under which they serve, and assignments under
    /// which they were published.
    lease_ms: Option<u64>,
    /// What was published last, as far as it is known, word for word.
    best: Option<Arc<Assignment>>,
    /// `best` is what was published last, and not merely the highest that anybody was heard of to hold.
    is_last_known: bool,
    fetching: Option<Fetch>,
    /// Sessions that were asked; none is asked twice.
    asked: BTreeSet<SessionId>,
    /// Lives that have said hello, also those that have died since.
    heard: BTreeSet<Life>,
}

#[derive(Clone, Copy, Debug)]
struct Fetch {
    session: SessionId,
    give_up_at: Timestamp,
}

impl Recovery {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            started: now,
            settle_from: now,
            heard_any: false,
            heard_holder: false,
            first_heard: None,
            lease_ms: None,
            best: None,
            is_last_known: false,
            fetching: None,
            asked: BTreeSet::new(),
            heard: BTreeSet::new(),
        }
    }

    /// One that knows what was published last.
    pub(super) fn resuming(stored: Arc<Assignment>, now: Timestamp) -> Self {
        Self {
            lease_ms: former_lease_ms(&stored),
            best: Some(stored),
            is_last_known: true,
            ..Self::new(now)
        }
    }

    /// The founding that the fetched assignment is of is nobody's any more.
    pub(super) fn forget_fetched(&mut self) {
        if !self.is_last_known {
            self.best = None;
        }
        self.fetching = None;
        self.asked.clear();
    }

    /// What was published last, as far as it is known.
    pub(super) fn known(&self) -> Option<&Assignment> {
        self.best.as_deref()
    }

    /// Whether a life is dead that holds something: what was published last does not list it.
    pub(super) fn is_dead(&self, life: &Life) -> bool {
        let unlisted = |best: &Arc<Assignment>| !best.is_living(life);
        self.is_last_known && self.best.as_ref().is_some_and(unlisted)
    }

    /// Counts the settling time anew, because the Assigner itself stood still.
    pub(super) fn restart(&mut self, now: Timestamp) {
        self.settle_from = now;
        self.first_heard = self.first_heard.map(|_| now);
    }

    /// A life said hello, whether it holds an assignment, and under which leases it serves.
    pub(super) fn hello(
        &mut self,
        life: &Life,
        holds: bool,
        lease_ms: Option<u64>,
        now: Timestamp,
        config: &AssignerConfig,
    ) {
        self.lease_ms = self.lease_ms.max(lease_ms);
        let is_first = !self.heard_any || (holds && !self.heard_holder);
        if is_first && now >= self.settle_from.plus_ms(config.settle_ms) {
            self.settle_from = now;
        }
        self.heard_any = true;
        self.heard_holder |= holds;
        self.first_heard.get_or_insert(now);
        self.heard.insert(life.clone());
    }

    /// A node answered with what it holds.
    pub(super) fn fetched(&mut self, session: SessionId, held: Option<Arc<Assignment>>) {
        if self.fetching.is_none_or(|fetch| fetch.session != session) {
            return;
        }
        self.fetching = None;
        let best = self.best_generation();
        if let Some(held) =
            held.filter(|held| held.generation() > best && super::hello::is_possible(held.generation()))
        {
            self.lease_ms = self.lease_ms.max(former_lease_ms(&held));
            self.best = Some(held);
        }
    }

    pub(super) fn session_closed(&mut self, session: SessionId) {
        if self.fetching.is_some_and(|fetch| fetch.session == session) {
            self.fetching = None;
        }
        self.asked.remove(&session);
    }

    /// The session to fetch from now, if any: that of the highest generation above what is known.
    pub(super) fn next_fetch<'a>(
        &mut self,
        members: impl Iterator<Item = &'a Member>,
        now: Timestamp,
        config: &AssignerConfig,
    ) -> Option<SessionId> {
        if self.fetching.is_some_and(|fetch| now >= fetch.give_up_at) {
            self.fetching = None;
        }
        if self.fetching.is_some() {
            return None;
        }
        let best = self.best_generation();
        let (_, session) = members
            .filter_map(|member| Some((member.acknowledged, member.session?)))
            .filter(|(generation, session)| *generation > best && !self.asked.contains(session))
            .max()?;
        self.asked.insert(session);
        self.fetching = Some(Fetch {
            session,
            give_up_at: now.plus_ms(config.failure_timeout_ms),
        });
        Some(session)
    }

    /// Whether enough is known to publish. Requires that [`Recovery::next_fetch`] has been asked.
    pub(super) fn is_ready<'a>(
        &self,
        members: impl Iterator<Item = &'a Member> + Clone,
        is_founded: bool,
        now: Timestamp,
        config: &AssignerConfig,
    ) -> bool {
        if self.fetching.is_some() || !self.heard_any {
            return false;
        }
        if now < self.leases_over_at(config) && !planted::is(Bug::LeaseWaitSkipped) {
            return false;
        }
        if planted::is(Bug::NoSettleTime) || (planted::is(Bug::EmptyHelloTakesAll) && self.best.is_none()) {
            return true;
        }
        if let Some(best) = &self.best {
            let mut listed = best.directory().iter().map(|(node, entry)| Life {
                node: node.clone(),
                incarnation: entry.incarnation,
            });
            let mut members = members;
            return now >= self.settled_at(config)
                || (listed.all(|life| self.heard.contains(&life))
                    && members.all(|member| self.heard_takers_of(member)));
        }
        if members
            .clone()
            .any(|member| member.acknowledged > Generation::NONE)
        {
            return now >= self.settled_at(config);
        }
        self.may_begin(members.count(), is_founded, now, config)
    }

    /// Whether nobody is known to hold anything, and enough was waited for those who might: a cluster may begin, empty.
    fn may_begin(&self, present: usize, is_founded: bool, now: Timestamp, config: &AssignerConfig) -> bool {
        let are_all_here = config.expect_nodes.is_some_and(|expected| present >= expected);
        if are_all_here && (config.founds_at_once || planted::is(Bug::ExpectNodesTriggers)) {
            return true;
        }
        if config.expect_nodes.is_some() && !are_all_here && !config.founds_at_once {
            return false;
        }
        let from = if is_founded || config.founds_at_once {
            self.settled_at(config)
        } else {
            self.founds_at(config)
        };
        now >= from
    }

    /// When a cluster may be founded, by an Assigner that knows of none: who holds something of one may come back late, and after
    /// others.
    pub(super) fn founds_at(&self, config: &AssignerConfig) -> Timestamp {
        let heard = self
            .first_heard
            .map_or(Timestamp::ZERO, |first| first.plus_ms(config.founding_settle_ms));
        heard.max(self.settled_at(config))
    }

    /// Whether all have said hello for whom a member has fenced something. One may own a range by an assignment that only
    /// it had received, and is not listed in the one that was fetched; it is given the settling time to come.
    fn heard_takers_of(&self, member: &Member) -> bool {
        member.claims.iter().all(|claim| match &claim.phase {
            ClaimPhase::Fenced(taker) => *taker == Life::nobody() || self.heard.contains(taker),
            _ => true,
        })
    }

    /// Leased ownership: when every lease is over that an Assigner before this one may have given. Also when every life in
    /// the fetched assignment has said hello, there may be one that holds a newer assignment which nobody else received.
    /// Their length was that Assigner's: each node that it gave one to tells it, and so does each assignment of its. Who serves
    /// under one may be out of reach.
    pub(super) fn leases_over_at(&self, config: &AssignerConfig) -> Timestamp {
        self.started.plus_ms(config.lease_wait_ms(self.lease_ms))
    }

    /// When the settling time is over.
    pub(super) fn settled_at(&self, config: &AssignerConfig) -> Timestamp {
        self.settle_from.plus_ms(config.settle_ms)
    }

    /// The lives of the fetched assignment that have not said hello.
    pub(super) fn unheard(&self) -> Vec<Life> {
        let directory = self.best.iter().flat_map(|best| best.directory().iter());
        directory
            .map(|(node, entry)| Life {
                node: node.clone(),
                incarnation: entry.incarnation,
            })
            .filter(|life| !self.heard.contains(life))
            .collect()
    }

    /// With the recovery over: the assignment that was fetched or stored, as it was published.
    pub(super) fn take_known(&mut self) -> Option<Arc<Assignment>> {
        self.best.take()
    }

    fn best_generation(&self) -> Generation {
        self.best
            .as_ref()
            .map_or(Generation::NONE, |best| best.generation())
    }

    /// What the cluster holds, by the fetched assignment and the members' claims; `None` if nobody holds anything.
    /// `highest` is at least every generation heard of.
    pub(super) fn merge<'a>(
        &self,
        members: impl Iterator<Item = &'a Member> + Clone,
        highest: Generation,
    ) -> Option<Ranges> {
        let best = self.best.as_deref();
        let published = best.into_iter().flat_map(|best| best.ranges().iter());
        let mut ranges =
            RangeMap::of_disjoint(published.map(|(slice, range)| (slice, range.clone())).collect());
        for member in members.clone() {
            lay_claims(&mut ranges, member, best);
        }
        for member in members.clone() {
            lay_fences(&mut ranges, member, highest);
        }
        if ranges.is_empty() {
            return None;
        }
        for gap in ranges.gaps(Slice::FULL) {
            ranges.insert(gap, unowned(highest));
        }
        // Each range of what was fetched has its owner's name to itself: from here on they share it.
        let living: HashSet<&Life> = members.map(|member| &member.life).collect();
        Some(merged(ranges.iter().map(|(slice, range)| {
            let mut range = range.clone();
            if let Some(&life) = living.get(&range.owner) {
                range.owner = life.clone();
            }
            (slice, range)
        })))
    }
}

/// Whether a claim says what the assignment that was fetched or stored says: of a range that nobody hands over. It changes nothing
/// then, whatever others claim.
fn is_as_published(claim: &RangeClaim, life: &Life, best: &Assignment) -> bool {
    let (slice, range) = best.ranges().get_with_slice(claim.slice.low());
    slice.covers(claim.slice)
        && range.owner == *life
        && range.since == claim.since
        && !range.keeps_whole()
        && claim.phase == ClaimPhase::Serving
}

/// A member's claims win where their `since` is the highest; an equal one of the same owner tells that a hand-off ended.
fn lay_claims(ranges: &mut RangeMap<RangeAssignment>, member: &Member, best: Option<&Assignment>) {
    for claim in &member.claims {
        let is_known = best.is_some_and(|best| is_as_published(claim, &member.life, best));
        if is_known || matches!(claim.phase, ClaimPhase::Fenced(_)) {
            continue;
        }
        let claimed = RangeAssignment {
            owner: member.life.clone(),
            since: claim.since,
            providers: match claim.phase {
                ClaimPhase::Serving => Vec::new(),
                _ => claim.providers.clone(),
            },
            // What the assignment says that it holds the range by, nobody else has told: it may be replicated by that.
            readers: Readers {
                replicas: Vec::new(),
                leases_out: true,
            },
            awaits: match &claim.phase {
                ClaimPhase::Awaiting(awaits) => awaits.clone(),
                _ => Vec::new(),
            },
        };
        let same = |held: &RangeAssignment| {
            held.owner == claimed.owner && held.since == claimed.since && claim.phase == ClaimPhase::Serving
        };
        let wins: Vec<Slice> = ranges
            .overlapping(claim.slice)
            .filter(|(_, held)| claimed.since > held.since || same(held))
            .map(|(part, _)| part)
            .chain(ranges.gaps(claim.slice))
            .collect();
        for part in wins {
            let known = ranges
                .get(part.low())
                .map(|(_, held)| held)
                .filter(|held| same(held));
            let readers = known.map_or_else(|| claimed.readers.clone(), |held| held.readers.clone());
            let claimed = claimed.clone();
            ranges.insert(part, RangeAssignment { readers, ..claimed });
        }
    }
}

/// What a member has fenced under the `since` that seems to win, it will never serve again: it went to another life, of
/// which nothing was heard. Nobody owns it now.
fn lay_fences(ranges: &mut RangeMap<RangeAssignment>, member: &Member, highest: Generation) {
    for claim in &member.claims {
        if matches!(claim.phase, ClaimPhase::Fenced(_)) {
            let owned: Vec<Slice> = ranges
                .overlapping(claim.slice)
                .filter(|(_, held)| held.owner == member.life && held.since <= claim.since)
                .map(|(part, _)| part)
                .collect();
            for part in owned {
                ranges.insert(part, unowned(highest));
            }
        }
    }
}

/// The leases under which an assignment was published.
fn former_lease_ms(assignment: &Assignment) -> Option<u64> {
    assignment
        .lease_ms()
        .filter(|_| !planted::is(Bug::FormerLeaseForgotten))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::generation::Incarnation;
    use crate::identity::ClusterId;
    use crate::node::{NodeEntry, NodeId, NodeState, Peer};
    use crate::session::{Hello, SESSION_VERSIONS};

    fn since(number: u64) -> Generation {
        let assigner = Incarnation::new(1);
        Generation { number, assigner }
    }

    fn life(name: &str) -> Life {
        Life {
            node: NodeId::new(name).unwrap(),
            incarnation: Incarnation::new(1),
        }
    }

    fn hello(name: &str) -> Hello {
        Hello {
            peer: Peer {
                life: life(name),
                address: "host:1".into(),
            },
            http_address: "".into(),
            zone: "".into(),
            capacity_bytes: 0,
            draining: false,
            generation: since(1),
            claims: Vec::new(),
            versions: SESSION_VERSIONS,
            lease_ms: None,
            process: None,
            cluster: ClusterId::default(),
            offers: None,
        }
    }

    /// Plan: an Assigner that gives leases of 1 s, over a node that serves under 3 s of the one before. Whoever is not heard
    /// of may have such a lease, too: nothing is published before that is over.
    #[test]
    fn h1_leases_of_the_assigner_before_are_waited_for() {
        let config = AssignerConfig {
            lease_ms: Some(1_000),
            ..AssignerConfig::default()
        };
        let now = Timestamp::from_ms(1_000);
        let mut recovery = Recovery::new(now);
        assert_eq!(recovery.leases_over_at(&config), now.plus_ms(1_102));
        recovery.hello(&life("a"), true, Some(3_000), now, &config);
        recovery.hello(&life("b"), true, None, now, &config);
        assert_eq!(recovery.leases_over_at(&config), now.plus_ms(3_302));
        assert_eq!(recovery.leases_over_at(&AssignerConfig::default()), now);
    }

    /// Plan: the node that serves under 3 s of the Assigner before is cut off, and the one that says hello serves under none. That
    /// Assigner's assignment says how long its leases were, whether it was fetched or stored.
    #[test]
    fn h1_leases_that_only_an_assignment_tells_of_are_waited_for() {
        let config = AssignerConfig {
            lease_ms: Some(1_000),
            ..AssignerConfig::default()
        };
        let now = Timestamp::from_ms(1_000);
        let range = RangeAssignment {
            owner: life("cut-off"),
            since: since(1),
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        let published = Assignment::new(since(2), vec![(Slice::FULL, range)], BTreeMap::new());
        let published = Arc::new(published.unwrap().under_leases(Some(3_000)));
        let session = SessionId::new(1);
        let mut fetching = Recovery::new(now);
        fetching.hello(&life("a"), true, None, now, &config);
        fetching.fetching = Some(Fetch {
            session,
            give_up_at: now.plus_ms(1_000),
        });
        fetching.fetched(session, Some(published.clone()));
        for recovery in [fetching, Recovery::resuming(published, now)] {
            assert_eq!(recovery.leases_over_at(&config), now.plus_ms(3_302));
        }
    }

    /// Plan: a alone is listed in the assignment that was fetched, and says that it fenced its range for b. b took it by a
    /// newer assignment that nobody else received, and has not come back yet. To publish now would give the range to
    /// another while b serves it (H1): b is waited for until the settling time is over.
    #[test]
    fn h1_a_taker_that_only_its_giver_knows_of_is_waited_for() {
        let (config, now) = (AssignerConfig::default(), Timestamp::from_ms(1_000));
        let range = RangeAssignment {
            owner: life("a"),
            since: since(1),
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        let entry = NodeEntry {
            incarnation: life("a").incarnation,
            process: None,
            address: "host:1".into(),
            http_address: "".into(),
            zone: "".into(),
            state: NodeState::Serving,
        };
        let directory = [(life("a").node, entry)].into_iter().collect();
        let best = Assignment::new(since(1), vec![(Slice::FULL, range)], directory).unwrap();
        let mut recovery = Recovery::new(now);
        recovery.best = Some(Arc::new(best));
        recovery.hello(&life("a"), true, None, now, &config);
        let mut a = Member::new(&hello("a"), now);
        assert!(recovery.is_ready([&a].into_iter(), false, now, &config));
        a.claims = vec![RangeClaim {
            slice: Slice::FULL,
            since: since(1),
            providers: Vec::new(),
            phase: ClaimPhase::Fenced(life("b")),
        }];
        assert!(!recovery.is_ready([&a].into_iter(), false, now, &config));
        assert!(recovery.is_ready([&a].into_iter(), false, now.plus_ms(config.settle_ms), &config));
        recovery.hello(&life("b"), true, None, now, &config);
        let b = Member::new(&hello("b"), now);
        assert!(recovery.is_ready([&a, &b].into_iter(), false, now, &config));
    }
}
