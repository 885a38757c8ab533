//! What a node tells of its ranges: in its hello to an Assigner, and in its status.

use softstore_sharding::session::{ClaimPhase, RangeClaim, ServingReport, WhyUnserved};
use softstore_sharding::{Epoch, Life, Slice};

use super::HandoffCore;
use super::state::{End, Held, Pull};

/// How many ranges are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RangeCounts {
    /// Served here.
    pub held: usize,
    /// Of which still being filled by a pull.
    pub pulling: usize,
    /// Of which cold, while what a silent node held may come back.
    pub awaiting: usize,
    /// To be owned; the search is on.
    pub pending: usize,
    /// Frozen, with the copy still kept for a taker.
    pub giving: usize,
    /// Of which former lives of this process left.
    pub offered: usize,
    /// Read as a replica, under a lease.
    pub reading: usize,
    /// Read leases that replicas hold on what is served here, and that are not known to be over.
    pub lent: usize,
}

impl HandoffCore {
    /// What this node claims, for a hello.
    #[must_use]
    pub fn claims(&self) -> Vec<RangeClaim> {
        let mut claims = Vec::new();
        for (slice, held) in self.held.iter() {
            let pull = held.filled_by().and_then(|pull| self.pulls.get(&pull));
            let giver = pull.and_then(Pull::giver_here);
            let phase = giver.map_or(ClaimPhase::Serving, |giver| {
                ClaimPhase::Pulling(giver.life.clone())
            });
            self.push_claims(slice, held, &phase, &mut claims);
        }
        for (slice, pending) in self.pending.iter() {
            let providers = pending.providers.to_vec();
            claims.push(RangeClaim {
                slice,
                since: pending.since,
                providers,
                phase: ClaimPhase::NotStarted,
            });
        }
        for (slice, past) in self.past.iter() {
            // What a former life held is offered, with its taker. A claim to it would be newer than all that this life holds.
            let is_inherited = past.end.copy().is_some_and(|copy| copy.inherited.is_some());
            if let End::Fenced { taker, .. } = &past.end
                && !is_inherited
            {
                let phase = ClaimPhase::Fenced(taker.life.clone());
                claims.push(RangeClaim {
                    slice,
                    since: past.since,
                    providers: Vec::new(),
                    phase,
                });
            }
        }
        claims.extend(self.contradictions());
        claims
    }

    /// What the assignment gives this node and it will never serve under that acquisition. An Assigner that is new may not
    /// have heard of a fence that came after this node's hello, while the taker, gone since, was not heard at all; until
    /// the range gets a new acquisition, nobody serves it.
    ///
    /// No contradiction is an assignment that is merely older than the fence, or whose directory lists the taker.
    pub(super) fn contradictions(&self) -> Vec<RangeClaim> {
        let Some(assignment) = &self.assignment else {
            return Vec::new();
        };
        let ours = assignment
            .ranges()
            .iter()
            .filter(|(_, range)| range.owner == self.me.life);
        let mut claims = Vec::new();
        for (slice, range) in ours {
            let not_held = self.held.gaps(slice).into_iter();
            let neither = not_held.flat_map(|gap| self.pending.gaps(gap));
            for part in neither.flat_map(|gap| self.parts(gap)) {
                let taker = match self.past.get(part.low()).map(|(_, past)| &past.end) {
                    Some(End::Fenced { since, .. }) if *since > assignment.generation() => continue,
                    Some(End::Fenced { taker, .. }) if assignment.is_living(&taker.life) => continue,
                    Some(End::Fenced { taker, .. }) => taker.life.clone(),
                    Some(End::Offered { .. } | End::Dropped) | None => Life::nobody(),
                };
                claims.push(RangeClaim {
                    slice: part,
                    since: range.since,
                    providers: Vec::new(),
                    phase: ClaimPhase::Fenced(taker),
                });
            }
        }
        claims
    }

    /// Which of the ranges that the assignment gives to this node it does not serve under the acquisition that it names: whoever
    /// knows that is not answered here.
    #[must_use]
    pub fn unserved(&self) -> ServingReport {
        let ranges = self
            .assignment
            .iter()
            .flat_map(|assignment| assignment.ranges().iter())
            .filter(|(_, range)| range.owner == self.me.life);
        let mut report = ServingReport::default();
        for (slice, range) in ranges {
            let held = self
                .held
                .overlapping(slice)
                .filter(|(_, held)| held.since >= range.since);
            if held.map(|(part, _)| part.width()).sum::<u128>() == slice.width() {
                continue;
            }
            report.unserved += 1;
            if report.first.is_none() {
                let why = match self.pending.overlapping(slice).next() {
                    Some(_) => WhyUnserved::Taking,
                    None => WhyUnserved::GivenAway,
                };
                report.first = Some((slice, why));
            }
        }
        report
    }

    /// A held range's claim, with the providers that the assignment lists for it under that acquisition.
    fn push_claims(&self, slice: Slice, held: &Held, phase: &ClaimPhase, claims: &mut Vec<RangeClaim>) {
        let Some(assignment) = &self.assignment else {
            return;
        };
        for (slice, range) in assignment.ranges().overlapping(slice) {
            let ours = range.owner == self.me.life && range.since == held.since;
            let providers = if ours { range.providers.clone() } else { Vec::new() };
            let is_awaiting = ours && held.awaiting.is_some() && !range.awaits.is_empty();
            claims.push(RangeClaim {
                slice,
                since: held.since,
                providers,
                phase: match is_awaiting {
                    true => ClaimPhase::Awaiting(range.awaits.clone()),
                    false => phase.clone(),
                },
            });
        }
    }

    /// The ranges held here, with their epochs in the store.
    pub fn held(&self) -> impl Iterator<Item = (Slice, Epoch)> {
        self.held.iter().map(|(slice, held)| (slice, held.epoch))
    }

    /// The read leases that replicas hold on what is served here, with who holds them.
    pub fn lent(&self) -> impl Iterator<Item = (Slice, &Life)> {
        self.lending.lent()
    }

    /// The ranges read here as a replica, with their owners.
    pub fn readings(&self) -> impl Iterator<Item = (Slice, &Life)> {
        self.readings.all()
    }

    /// How many ranges are in which state.
    #[must_use]
    pub fn counts(&self) -> RangeCounts {
        let held = || self.held.iter().map(|(_, held)| held);
        RangeCounts {
            held: self.held.len(),
            pulling: held().filter(|held| held.filled_by().is_some()).count(),
            awaiting: held().filter(|held| held.awaiting.is_some()).count(),
            pending: self.pending.len(),
            giving: self.copies().count(),
            offered: self.copies().filter(|(_, copy)| copy.inherited.is_some()).count(),
            reading: self.readings().count(),
            lent: self.lent().count(),
        }
    }
}
