//! Which hellos are refused for good (H8): a session format that this build does not speak, or a claim that no node of
//! this build can make. A refused hello changes nothing.

use thiserror::Error;

use crate::assignment::{PROVIDERS_MAX, Provider};
use crate::generation::{GENERATION_NUMBER_MAX, Generation};
use crate::node::Life;
use crate::range_map::RangeMap;
use crate::session::{
    ClaimPhase, FORMER_LIVES_MAX, Hello, Offers, RangeClaim, SESSION_VERSION_OF_LEASES, SESSION_VERSIONS,
};
use crate::slice_map::SLICE_COUNT_MAX;

/// Generation numbers above this are refused: at one for each millisecond the clock reaches it in 2094, and a number
/// near the end of the 42 bits would leave no room for the next.
const GENERATION_NUMBER_HEARD_MAX: u64 = GENERATION_NUMBER_MAX / 2;

/// Why a hello is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum HelloError {
    #[error(
        "the node speaks session versions {min} to {max}, this Assigner {ours_min} to {ours_max}: upgrade the older one",
        ours_min = SESSION_VERSIONS.min, ours_max = SESSION_VERSIONS.max
    )]
    Version { min: u32, max: u32 },
    #[error(
        "ownership is leased here, and the node knows no leases (it speaks session versions up to {max}, leases came with \
         {SESSION_VERSION_OF_LEASES}): it would go on serving when its lease is over. Upgrade the node, or run the Assigner \
         with ownership = \"available\""
    )]
    NoLeases { max: u32 },
    #[error("generation {0} is too far in the future: the clock of the Assigner that gave it out was wrong")]
    Generation(Generation),
    #[error(
        "the claim to {0} is newer than the assignment that the node says it holds, or its providers are impossible"
    )]
    Claim(crate::slice::Slice),
    #[error("two claims to the same part of {0}")]
    Overlap(crate::slice::Slice),
    #[error("{0} claims are more than {SLICE_COUNT_MAX}")]
    TooManyClaims(usize),
    #[error("it offers what former lives held, and names none of its own, or more than {FORMER_LIVES_MAX}")]
    FormerLives,
    #[error("the cluster already has {0} nodes, its limit")]
    TooManyNodes(usize),
}

pub(super) fn is_possible(generation: Generation) -> bool {
    generation.number <= GENERATION_NUMBER_HEARD_MAX
}

/// `is_leased`: nodes serve under leases here.
pub(super) fn check(hello: &Hello, is_leased: bool) -> Result<(), HelloError> {
    if SESSION_VERSIONS.newest_common(hello.versions).is_none() {
        let (min, max) = (hello.versions.min, hello.versions.max);
        return Err(HelloError::Version { min, max });
    }
    if is_leased && hello.versions.max < SESSION_VERSION_OF_LEASES {
        return Err(HelloError::NoLeases {
            max: hello.versions.max,
        });
    }
    if !is_possible(hello.generation) {
        return Err(HelloError::Generation(hello.generation));
    }
    if hello.claims.len() > SLICE_COUNT_MAX {
        return Err(HelloError::TooManyClaims(hello.claims.len()));
    }
    // A node may serve a range and be to own it anew, under a newer acquisition whose search is still on (a range that comes
    // back before it has left): one claim of each kind.
    let (mut served, mut to_own) = (RangeMap::new(), RangeMap::new());
    for claim in &hello.claims {
        if !is_claim_possible(claim, hello) {
            return Err(HelloError::Claim(claim.slice));
        }
        let claimed = match claim.phase {
            ClaimPhase::Fenced(_) => continue,
            ClaimPhase::NotStarted => &mut to_own,
            ClaimPhase::Serving | ClaimPhase::Pulling(_) | ClaimPhase::Awaiting(_) => &mut served,
        };
        if claimed.overlapping(claim.slice).next().is_some() {
            return Err(HelloError::Overlap(claim.slice));
        }
        claimed.insert(claim.slice, ());
    }
    match &hello.offers {
        Some(offers) => check_offers(offers, &hello.peer.life),
        None => Ok(()),
    }
}

/// An offer owns nothing, and whatever it says is compared with what is awaited. So what is refused is what costs.
fn check_offers(offers: &Offers, life: &Life) -> Result<(), HelloError> {
    let is_former = |former: &Life| former.node == life.node && former != life;
    let is_named = (1..=FORMER_LIVES_MAX).contains(&offers.former.len());
    if !is_named || !offers.former.iter().all(is_former) {
        return Err(HelloError::FormerLives);
    }
    if offers.ranges.len() > SLICE_COUNT_MAX {
        return Err(HelloError::TooManyClaims(offers.ranges.len()));
    }
    let mut offered = RangeMap::new();
    for offer in &offers.ranges {
        if !is_possible(offer.since) {
            return Err(HelloError::Generation(offer.since));
        }
        if offered.overlapping(offer.slice).next().is_some() {
            return Err(HelloError::Overlap(offer.slice));
        }
        offered.insert(offer.slice, ());
    }
    Ok(())
}

/// As in an assignment: one other life's acquisitions, newest first, all older than the claim.
fn is_awaited_possible(claim: &RangeClaim, awaits: &[Provider], owner: &Life) -> bool {
    let mut newest = claim.since;
    let in_order = awaits.iter().all(|awaited| {
        let is_older = awaited.since < newest;
        newest = awaited.since;
        is_older && awaited.life == awaits[0].life && awaited.life != *owner
    });
    in_order && (1..=PROVIDERS_MAX).contains(&awaits.len())
}

fn is_claim_possible(claim: &RangeClaim, hello: &Hello) -> bool {
    let mut newest = claim.since;
    let ordered = claim.providers.iter().all(|provider| {
        let older = provider.since < newest;
        newest = provider.since;
        older
    });
    let is_awaited_possible = match &claim.phase {
        ClaimPhase::Awaiting(awaits) => is_awaited_possible(claim, awaits, &hello.peer.life),
        _ => true,
    };
    claim.since <= hello.generation
        && is_awaited_possible
        && ordered
        && claim.providers.len() <= PROVIDERS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Incarnation;
    use crate::identity::ClusterId;
    use crate::node::{Life, NodeId, Peer};
    use crate::session::Offer;
    use crate::slice::Slice;

    fn since(number: u64) -> Generation {
        let assigner = Incarnation::new(1);
        Generation { number, assigner }
    }

    fn claim(number: u64, phase: ClaimPhase) -> RangeClaim {
        RangeClaim {
            slice: Slice::FULL,
            since: since(number),
            providers: Vec::new(),
            phase,
        }
    }

    fn saying(claims: Vec<RangeClaim>) -> Hello {
        let node = NodeId::new("a").unwrap();
        let incarnation = Incarnation::new(1);
        Hello {
            peer: Peer {
                life: Life { node, incarnation },
                address: "a:1".into(),
            },
            http_address: "".into(),
            zone: "".into(),
            capacity_bytes: 0,
            draining: false,
            generation: since(9),
            claims,
            versions: SESSION_VERSIONS,
            lease_ms: None,
            process: None,
            cluster: ClusterId::default(),
            offers: None,
        }
    }

    /// A node of a build that knows no leases would serve on when it is cut off: it has no place where one owner is promised
    /// under every partition. Without leases it is welcome.
    #[test]
    fn h1_a_node_that_knows_no_leases_is_refused_where_there_are_leases() {
        let mut old = saying(Vec::new());
        old.versions.max = SESSION_VERSION_OF_LEASES - 1;
        assert_eq!(check(&old, false), Ok(()));
        let refused = check(&old, true);
        assert_eq!(refused, Err(HelloError::NoLeases { max: 1 }));
        assert!(refused.unwrap_err().to_string().contains("Upgrade the node"));
        assert_eq!(check(&saying(Vec::new()), true), Ok(()));
    }

    /// Plan: offers that no node of this build makes: of nobody's life, of another node's or its own present one, of a range twice, of an
    /// acquisition that no clock explains. And a claim that awaits its owner, or two lives.
    #[test]
    fn h8_impossible_offers_are_refused() {
        let life = |name: &str, incarnation| Life {
            node: NodeId::new(name).unwrap(),
            incarnation: Incarnation::new(incarnation),
        };
        let offer = |since| Offer {
            slice: Slice::FULL,
            since,
            taker: None,
        };
        let offering = |former: Vec<Life>, ranges: Vec<Offer>| {
            let mut hello = saying(Vec::new());
            hello.offers = Some(Offers {
                former,
                last_answer: None,
                ranges,
            });
            check(&hello, false)
        };
        let fine = offering(vec![life("a", 2)], vec![offer(since(5))]);
        assert_eq!(fine, Ok(()));
        for former in [
            vec![],
            vec![life("b", 2)],
            vec![life("a", 1)],
            vec![life("a", 2); 9],
        ] {
            let refused = offering(former, vec![offer(since(5))]);
            assert_eq!(refused, Err(HelloError::FormerLives));
        }
        let twice = offering(vec![life("a", 2)], vec![offer(since(5)), offer(since(6))]);
        assert_eq!(twice, Err(HelloError::Overlap(Slice::FULL)));
        let far = since(GENERATION_NUMBER_MAX);
        let refused = offering(vec![life("a", 2)], vec![offer(far)]);
        assert_eq!(refused, Err(HelloError::Generation(far)));

        let awaiting = |lives: &[Life]| {
            let held = lives.iter().zip([4, 3]);
            let awaits = held.map(|(life, number)| Provider {
                life: life.clone(),
                since: since(number),
            });
            check(
                &saying(vec![claim(5, ClaimPhase::Awaiting(awaits.collect()))]),
                false,
            )
        };
        assert_eq!(awaiting(&[life("a", 2)]), Ok(()));
        for lives in [&[][..], &[life("a", 1)], &[life("b", 1), life("c", 1)]] {
            assert_eq!(awaiting(lives), Err(HelloError::Claim(Slice::FULL)), "{lives:?}");
        }
    }

    /// A range comes back to the node that still serves it under an older acquisition, and the session breaks before the
    /// search has ended. Refused, the node would soon be taken for dead.
    #[test]
    fn a_range_may_be_served_and_to_be_owned_anew() {
        let both = vec![claim(5, ClaimPhase::Serving), claim(9, ClaimPhase::NotStarted)];
        assert_eq!(check(&saying(both), false), Ok(()));
        for phase in [ClaimPhase::Serving, ClaimPhase::NotStarted] {
            let twice = vec![claim(5, phase.clone()), claim(9, phase)];
            assert_eq!(
                check(&saying(twice), false),
                Err(HelloError::Overlap(Slice::FULL))
            );
        }
    }
}
