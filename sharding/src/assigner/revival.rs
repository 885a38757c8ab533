//! What a life that died in silence held, and may bring back: its process may only have been away.
//!
//! ```text
//!   (Z, s) dies in silence, or is not heard of at a recovery     B begins cold and remembers what is written since
//!     --awaits---> the next assignment: B owns, and awaits (Z, s)
//!   the next life of Z's process says hello, with offers
//!     --revived--> the first assignment that lists it names it as a provider of what is awaited from it; the rest is settled
//! ```
//!
//! What is awaited belongs to a range, its owner's life and that one's `since` (H2): it never outlives any of them, so of two
//! dead holders only the last counts, in a recovery too. A name that is a living node's again is awaited no longer: its first
//! assignment settles all that its process offers.

use crate::assignment::{PROVIDERS_MAX, Provider, RangeAssignment};
use crate::node::{Life, NodeId};
use crate::planted::{self, Bug};
use crate::range_map::RangeMap;
use crate::session::{Offer, Offers};
use crate::slice::Slice;

use super::next::Ranges;

/// Which lives may come back, and to whom.
pub(crate) struct Away<'a> {
    /// Whether a dead life died in silence, so that its process may live.
    pub(crate) may_return: &'a dyn Fn(&Life) -> bool,
    /// Whether a living node's build knows how to await.
    pub(crate) may_await: &'a dyn Fn(&NodeId) -> bool,
}

impl Away<'static> {
    /// Nothing comes back.
    #[cfg(test)]
    pub(crate) const NOBODY: Self = Self {
        may_return: &|_| false,
        may_await: &|_| true,
    };
}

/// What a living node offers, with the present life.
pub(crate) struct Offering<'a> {
    pub(crate) life: &'a Life,
    /// None: it offers nothing, or what it offered is settled.
    pub(crate) offers: Option<&'a Offers>,
}

impl Away<'_> {
    /// What of the former holdings of a range, newest first, its next owner awaits: those of the last holder, if that died in
    /// silence. A renewal that it never heard of is one of them.
    pub(crate) fn awaited<'p>(
        &self,
        mut holdings: impl Iterator<Item = &'p Provider>,
        owner: &Life,
    ) -> Vec<Provider> {
        let Some(last) = holdings.next().filter(|last| (self.may_return)(&last.life)) else {
            return Vec::new();
        };
        if last.life == *owner || !(self.may_await)(&owner.node) {
            return Vec::new();
        }
        let earlier = holdings.take_while(|held| held.life == last.life);
        std::iter::once(last)
            .chain(earlier)
            .take(PROVIDERS_MAX)
            .cloned()
            .collect()
    }
}

/// What the range of a new owner awaits. `holdings`: as it was held before, newest first.
pub(crate) fn awaits_of_taker<'p>(
    former: &RangeAssignment,
    holdings: impl Iterator<Item = &'p Provider>,
    taker: &Life,
    away: &Away<'_>,
) -> Vec<Provider> {
    if planted::is(Bug::AwaitSurvivesSince) && !former.awaits.is_empty() {
        return former.awaits.clone();
    }
    away.awaited(holdings, taker)
}

/// `ranges` with the next lives of those that are awaited as providers of what they offer. What is awaited under a living node's
/// name and was not offered has not come back.
pub(crate) fn revived<'a>(ranges: Ranges, offering: impl Fn(&NodeId) -> Option<Offering<'a>>) -> Ranges {
    let mut revived = Ranges::with_capacity(ranges.len());
    for (slice, range) in ranges {
        let Some(awaited) = range.awaits.first() else {
            revived.push((slice, range));
            continue;
        };
        let is_listed = range.providers.iter().any(|provider| range.is_revival(provider));
        match offering(&awaited.life.node) {
            Some(offering) if !is_listed => settle(slice, &range, &offering, &mut revived),
            _ => revived.push((slice, range)),
        }
    }
    revived
}

/// Lists the node for the parts of a range that it offers, and ends the waiting for the others.
fn settle(slice: Slice, range: &RangeAssignment, offering: &Offering<'_>, settled: &mut Ranges) {
    let mut parts: RangeMap<RangeAssignment> = RangeMap::new();
    parts.insert(
        slice,
        RangeAssignment {
            awaits: Vec::new(),
            ..range.clone()
        },
    );
    for offer in offering.offers.into_iter().flat_map(|offers| &offers.ranges) {
        let Some(part) = offer.slice.intersect(slice) else {
            continue;
        };
        if offering
            .offers
            .is_some_and(|offers| is_awaited(range, offer, offers))
        {
            parts.insert(part, provided_by(range, offering.life, offer));
        }
    }
    settled.extend(parts.iter().map(|(part, range)| (part, range.clone())));
}

/// Whether an offer is exactly what a range awaits: the same life, the same acquisition, and fenced for nobody but the owner.
fn is_awaited(range: &RangeAssignment, offer: &Offer, offers: &Offers) -> bool {
    let is_named = |awaited: &Provider| awaited.since == offer.since && offers.former.contains(&awaited.life);
    let is_for_owner = |(taker, since): &(Life, _)| *taker == range.owner && *since == range.since;
    range.awaits.iter().any(is_named) && offer.taker.as_ref().is_none_or(is_for_owner)
}

/// The range with another provider, in the order of acquisitions.
fn provided_by(range: &RangeAssignment, life: &Life, offer: &Offer) -> RangeAssignment {
    let mut range = range.clone();
    let index = range
        .providers
        .partition_point(|provider| provider.since > offer.since);
    // An acquisition was one life's.
    range.providers.retain(|provider| provider.since != offer.since);
    let provider = Provider {
        life: life.clone(),
        since: offer.since,
    };
    range.providers.insert(index, provider);
    range.providers.truncate(PROVIDERS_MAX);
    range
}
