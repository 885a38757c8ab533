//! [`Member`]: what the Assigner knows of one living node.

use std::collections::VecDeque;
use std::sync::Arc;

use super::doubt::Probes;
use super::event::{DeathCause, SessionId};
use crate::generation::Generation;
use crate::identity::{Founding, ProcessId};
use crate::node::{Life, NodeEntry, NodeState};
use crate::planted::{self, Bug};
use crate::session::{ClaimPhase, Hello, LoadReport, Offers, RangeClaim, SESSION_VERSION_OF_REVIVAL};
use crate::sharder::{NodeRole, NodeView};
use crate::slice::Slice;
use crate::slice_map::SLICE_COUNT_MAX;
use crate::time::Timestamp;

/// Answers to heartbeats that are remembered of each life.
const ANSWERS_KEPT: usize = 64;

/// When the last heartbeats of a life were answered, oldest first.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<(u64, Timestamp)>);

impl Answers {
    pub(super) fn answered(&mut self, sequence: u64, now: Timestamp) {
        self.0.push_back((sequence, now));
        if self.0.len() > ANSWERS_KEPT {
            self.0.pop_front();
        }
    }

    /// When this one was answered first.
    pub(super) fn at(&self, sequence: u64) -> Option<Timestamp> {
        let answer = self.0.iter().find(|(answered, _)| *answered == sequence);
        answer.map(|(_, at)| *at)
    }
}

/// What the Assigner knows of one living node.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) life: Life,
    /// The process that lives it; none: a build that does not say.
    pub(super) process: Option<ProcessId>,
    /// The founding that it said it belongs to.
    pub(super) founding: Option<Founding>,
    pub(super) address: Arc<str>,
    pub(super) http_address: Arc<str>,
    pub(super) zone: Arc<str>,
    pub(super) capacity_bytes: u64,
    /// The session that it speaks on; a node without one lives on until it has been silent for too long.
    pub(super) session: Option<SessionId>,
    /// When its last session broke without a goodbye; none while one is open.
    pub(super) session_closed_at: Option<Timestamp>,
    /// When it was last looked for at its address, since that.
    pub(super) sought_at: Option<Timestamp>,
    /// It is dead, for this reason, and somebody waits for its name: that one takes over whole what it had, if it asks soon.
    pub(super) gone: Option<(Timestamp, DeathCause)>,
    /// An operator wants it gone: it is not heard of any more.
    pub(super) forgotten: bool,
    /// The first one that it spoke on.
    pub(super) first_session: Option<SessionId>,
    /// The newest assignment that it will hold once all that was sent on its session has arrived.
    pub(super) sent: Generation,
    /// The assignment that it last said it holds.
    pub(super) acknowledged: Generation,
    /// The first assignment of this Assigner that lists it.
    pub(super) listed_at: Option<Generation>,
    /// It holds an assignment that lists it.
    pub(super) serving: bool,
    pub(super) draining: bool,
    /// It was told that nobody can take what it holds.
    pub(super) told_no_taker: bool,
    pub(super) last_heard: Timestamp,
    /// When the last heartbeat was answered: a lease counts from there.
    pub(super) last_answered: Timestamp,
    /// The length of the leases under which it says that it serves.
    pub(super) lease_ms: Option<u64>,
    pub(super) joined_at: Timestamp,
    /// It joined empty and waits until then to take whole what drains or dies.
    pub(super) reserve_until: Option<Timestamp>,
    /// It joined later than others and does not have its share yet.
    pub(super) is_filling: bool,
    /// Whether it is reached where it says that it listens.
    pub(super) probes: Probes,
    pub(super) load: LoadReport,
    /// The assignment that it held when it reported that.
    pub(super) reported: Generation,
    /// When it reported that.
    pub(super) load_at: Option<Timestamp>,
    /// What its last hello claimed. Kept only while the Assigner recovers.
    pub(super) claims: Vec<RangeClaim>,
    /// Its build knows that what was held may come back.
    pub(super) knows_revival: bool,
    /// What its hello offers. Kept until the first assignment that lists it, which settles it.
    pub(super) offers: Option<Offers>,
    /// When its last heartbeats were answered.
    pub(super) answers: Answers,
}

impl Member {
    pub(super) fn new(hello: &Hello, now: Timestamp) -> Self {
        Self {
            life: hello.peer.life.clone(),
            process: hello.process,
            founding: hello.cluster.founding,
            address: hello.peer.address.clone(),
            http_address: hello.http_address.clone(),
            zone: hello.zone.clone(),
            capacity_bytes: hello.capacity_bytes,
            session: None,
            session_closed_at: None,
            sought_at: None,
            gone: None,
            forgotten: false,
            first_session: None,
            sent: Generation::NONE,
            acknowledged: Generation::NONE,
            listed_at: None,
            serving: false,
            draining: false,
            told_no_taker: false,
            last_heard: now,
            last_answered: now,
            lease_ms: None,
            joined_at: now,
            reserve_until: None,
            is_filling: false,
            probes: Probes::default(),
            load: LoadReport::default(),
            reported: Generation::NONE,
            load_at: None,
            claims: Vec::new(),
            knows_revival: false,
            offers: None,
            answers: Answers::default(),
        }
    }

    /// Takes what a hello of the same life says.
    pub(super) fn greet(&mut self, hello: &Hello, session: SessionId, now: Timestamp) {
        if self.address != hello.peer.address {
            self.probes = Probes::default();
        }
        self.address = hello.peer.address.clone();
        self.http_address = hello.http_address.clone();
        self.zone = hello.zone.clone();
        self.capacity_bytes = hello.capacity_bytes;
        self.founding = hello.cluster.founding;
        self.session = Some(session);
        self.session_closed_at = None;
        self.sought_at = None;
        self.gone = None;
        self.first_session.get_or_insert(session);
        self.sent = if planted::is(Bug::DiffOnWrongBase) {
            self.sent.max(hello.generation)
        } else {
            hello.generation
        };
        self.acknowledged = hello.generation;
        self.lease_ms = hello.lease_ms;
        self.last_heard = now;
        self.knows_revival = hello.versions.max >= SESSION_VERSION_OF_REVIVAL;
        self.offers = hello.offers.clone().filter(|_| self.listed_at.is_none());
    }

    /// A hand-off has ended in `slice`. That may be a part of what the hello claimed in one piece: the node has cut it since,
    /// as by a flush. The rest is claimed as before, and its end is reported by itself.
    pub(super) fn claim_settled(&mut self, slice: Slice, since: Generation) {
        let mut rests = Vec::new();
        for claim in &mut self.claims {
            let is_owned = claim.since == since && !matches!(claim.phase, ClaimPhase::Fenced(_));
            let Some(ended) = claim.slice.intersect(slice).filter(|_| is_owned) else {
                continue;
            };
            let below = claim.slice.split_before(ended.low()).map(|(below, _)| below);
            let above = ended
                .high_excluded()
                .and_then(|high| claim.slice.split_before(high))
                .map(|(_, above)| above);
            rests.extend(below.into_iter().chain(above).map(|slice| RangeClaim {
                slice,
                ..claim.clone()
            }));
            claim.slice = ended;
            claim.phase = ClaimPhase::Serving;
        }
        // No node of this build cuts what it holds into more parts.
        rests.truncate(SLICE_COUNT_MAX.saturating_sub(self.claims.len()));
        self.claims.append(&mut rests);
    }

    pub(super) fn state(&self) -> NodeState {
        match (self.draining, self.serving) {
            (true, _) => NodeState::Draining,
            (false, true) => NodeState::Serving,
            (false, false) => NodeState::Joining,
        }
    }

    pub(super) fn role(&self) -> NodeRole {
        if self.draining {
            NodeRole::Leaving
        } else if self.reserve_until.is_some() {
            NodeRole::Reserve
        } else {
            NodeRole::Eligible
        }
    }

    pub(super) fn entry(&self) -> NodeEntry {
        NodeEntry {
            incarnation: self.life.incarnation,
            process: self.process,
            address: self.address.clone(),
            http_address: self.http_address.clone(),
            zone: self.zone.clone(),
            state: self.state(),
        }
    }

    pub(super) fn view(&self) -> NodeView {
        NodeView {
            life: self.life.clone(),
            state: self.state(),
            capacity_bytes: self.capacity_bytes,
            zone: self.zone.clone(),
            role: self.role(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Incarnation;
    use crate::identity::ClusterId;
    use crate::node::{NodeId, Peer};
    use crate::session::SESSION_VERSIONS;
    use crate::slice_key::SliceKey;

    /// Plan: a member claims all positions, which it pulls, in one piece. It reports the hand-off's end in three parts, the
    /// middle one first, as after a flush that cut it. Each part is settled by its own report, and no other; a report under
    /// another acquisition changes nothing.
    #[test]
    fn h7_a_claim_is_settled_in_parts() {
        let life = Life {
            node: NodeId::new("a").unwrap(),
            incarnation: Incarnation::new(1),
        };
        let since = |number| Generation {
            number,
            assigner: Incarnation::new(1),
        };
        let claim = RangeClaim {
            slice: Slice::FULL,
            since: since(5),
            providers: Vec::new(),
            phase: ClaimPhase::Pulling(Life::nobody()),
        };
        let hello = Hello {
            peer: Peer {
                life,
                address: "a:1".into(),
            },
            http_address: "".into(),
            zone: "".into(),
            capacity_bytes: 0,
            draining: false,
            generation: since(5),
            claims: Vec::new(),
            versions: SESSION_VERSIONS,
            lease_ms: None,
            process: None,
            cluster: ClusterId::default(),
            offers: None,
        };
        let mut member = Member::new(&hello, Timestamp::ZERO);
        member.claims = vec![claim];
        let (low, rest) = Slice::FULL.split_before(SliceKey::new(1 << 60)).unwrap();
        let (middle, high) = rest.split_before(SliceKey::new(1 << 61)).unwrap();
        member.claim_settled(middle, since(4));
        assert_eq!(member.claims.len(), 1);
        for (index, part) in [middle, low, high].into_iter().enumerate() {
            member.claim_settled(part, since(5));
            assert_eq!(member.claims.len(), 3);
            let settled = member
                .claims
                .iter()
                .filter(|claim| claim.phase == ClaimPhase::Serving);
            assert_eq!(settled.count(), index + 1);
            assert!(
                member
                    .claims
                    .iter()
                    .any(|claim| claim.slice == part && claim.phase == ClaimPhase::Serving)
            );
        }
    }
}
