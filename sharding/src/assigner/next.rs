//! How the next assignment comes out of the present one: the rules for `since` and providers (H1, H4, H6, H7).
//!
//! ```text
//!   previous --refreshed--> without dead providers and completed hand-offs, equal neighbours merged
//!            --placed-----> moved ranges get a new since, and their former owner as first provider
//!            --renewed----> long runs of one owner's ranges get one since, to merge when that has been taken up
//! ```
//!
//! - A range that stays keeps everything. A range that moves gets the new generation as `since`, and as providers its
//!   former owner and that one's providers, newest first, the living only: a draining node that was still taking a range
//!   is its first provider, and the node that it was taking from stays one (H6).
//! - Ranges with providers are neither split nor merged, nor are those whose owner awaits what a silent life held
//!   (`revival`); neighbours merge when equal in owner, `since` and readers.
//! - Replicas go on under a new owner, and none goes while a hand-off is on. That there may be read leases of an earlier acquisition is remembered until the
//!   hand-off is done, or, where there was nobody to hand anything over, for as long as the range stays (H2).

use std::collections::{HashMap, HashSet};

use crate::assignment::{Assignment, PROVIDERS_MAX, Provider, RangeAssignment, Readers};
use crate::generation::{Generation, Incarnation};
use crate::node::{Life, NodeId};
use crate::planted::{self, Bug};
use crate::range_map::RangeMap;
use crate::sharder::Placement;
use crate::slice::Slice;

use super::revival::{Away, awaits_of_taker};

/// An owner with more ranges than this has its runs of neighbouring ranges renewed, so that they merge.
pub(crate) const RANGES_BEFORE_RENEWAL: usize = 64;

/// What a range reads that nobody is known to own.
pub(crate) fn unowned(since: Generation) -> RangeAssignment {
    RangeAssignment {
        owner: Life::nobody(),
        since,
        providers: Vec::new(),
        // Whoever had it may have let others read.
        readers: Readers {
            replicas: Vec::new(),
            leases_out: true,
        },
        awaits: Vec::new(),
    }
}

/// Ranges in order, complete.
pub(crate) type Ranges = Vec<(Slice, RangeAssignment)>;

/// Which lives are living: by node, its present incarnation. Looked up for every range, and never walked through.
pub(crate) type Living = HashMap<NodeId, Incarnation>;

/// What is known of the hand-off of a part, as its taker reported it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reported {
    /// Under which acquisition.
    pub(crate) since: Generation,
    /// Nothing more arrives. Else the taker has begun cold, and awaits.
    pub(crate) is_over: bool,
}

fn lives(living: &Living, life: &Life) -> bool {
    living.get(&life.node) == Some(&life.incarnation)
}

/// `previous` without what no longer holds: dead providers, hand-offs that are `reported` as ended, and the owners of what they
/// have fenced for a life that is dead (`fenced_off`), which nobody owns now.
pub(crate) fn refreshed(
    previous: &Assignment,
    living: &Living,
    reported: &RangeMap<Reported>,
    fenced_off: &RangeMap<Life>,
    away: &Away<'_>,
) -> Ranges {
    let refreshed = previous.ranges().iter().map(|(slice, range)| {
        let mut range = range.clone();
        let is_over = range
            .keeps_whole()
            .then(|| is_over(reported, slice, range.since))
            .flatten();
        if !lives(living, &range.owner) {
            // Nobody awaits anything for the dead, and who came back to them has what they may have overwritten since they began
            // cold: only the last holder counts (H2).
            if !planted::is(Bug::AwaitSurvivesSince) {
                let held = range.clone();
                range.providers.retain(|provider| !held.is_revival(provider));
                range.awaits.clear();
            }
        } else if is_over == Some(true) {
            range.awaits.clear();
        } else if let Some(first) = range
            .providers
            .first()
            .filter(|first| !lives(living, &first.life))
            && (range.awaits.is_empty() || range.is_revival(first))
        {
            range.awaits = away.awaited(range.providers.iter(), &range.owner);
        }
        range.providers.retain(|provider| lives(living, &provider.life));
        if is_over == Some(false) {
            let awaits = range.clone();
            range.providers.retain(|provider| awaits.is_revival(provider));
        }
        if !range.providers.is_empty() && is_over == Some(true) {
            // Whoever gave it away revoked every lease before. An owner that kept what it had revoked nothing.
            let kept = range
                .providers
                .iter()
                .any(|provider| provider.life == range.owner);
            range.readers.leases_out &= kept;
            range.providers.clear();
        }
        if !range.readers.replicas.is_empty() {
            range.readers = range.readers.without(|replica| lives(living, replica));
        }
        (slice, range)
    });
    if fenced_off.is_empty() {
        return merged(refreshed);
    }
    let mut ranges: RangeMap<RangeAssignment> = refreshed.collect();
    for (slice, life) in fenced_off.iter() {
        let owned: Vec<(Slice, Generation)> = ranges
            .overlapping(slice)
            .filter(|(_, range)| range.owner == *life)
            .map(|(part, range)| (part, range.since))
            .collect();
        for (part, since) in owned {
            ranges.insert(part, unowned(since));
        }
    }
    merged(ranges.iter().map(|(slice, range)| (slice, range.clone())))
}

/// Whether the hand-off of a whole range under this `since` has been reported as ended, by a cold start at least; and whether
/// nothing more arrives in any part of it.
fn is_over(reported: &RangeMap<Reported>, slice: Slice, since: Generation) -> Option<bool> {
    let is_known = reported.gaps(slice).is_empty()
        && reported
            .overlapping(slice)
            .all(|(_, reported)| reported.since == since);
    is_known.then(|| reported.overlapping(slice).all(|(_, reported)| reported.is_over))
}

/// `ranges` with the owners that `placement` says, at `generation`.
pub(crate) fn placed(
    ranges: Ranges,
    placement: &Placement,
    living: &Living,
    away: &Away<'_>,
    generation: Generation,
) -> Ranges {
    let mut next = Ranges::with_capacity(ranges.len());
    let mut walk = placement.walk();
    for (slice, range) in ranges {
        let is_read = !range.readers.replicas.is_empty() || placement.is_replicated_in(slice);
        let is_whole = range.keeps_whole();
        for (part, node) in walk.next_in(slice) {
            let goes_on = *node == range.owner.node && lives(living, &range.owner);
            if part == slice && goes_on && !is_read && !placement.isolates_in(slice) {
                // Almost all of a large assignment stays as it is.
                next.push((slice, range));
                break;
            }
            let Some(taker) = living_life(living, node) else {
                // A placement that was checked names living nodes only.
                next.push((part, range.clone()));
                continue;
            };
            // While a hand-off is on its readers stay as they are: a replica that the taker itself has lent to, and that went
            // before the hand-off ended, would be forgotten when the end clears the mark of what the giver has revoked.
            let stays_as_it_is = range.owner == taker && !range.providers.is_empty();
            let range = handed_to(&range, taker, living, away, generation);
            if stays_as_it_is {
                next.push((part, range));
                continue;
            }
            for (part, replicas) in placement.replicas_in(part) {
                let replicas = replicas.iter().filter_map(|node| living_life(living, node));
                let replicas = replicas.filter(|replica| *replica != range.owner).collect();
                let readers = range.readers.replaced(replicas);
                let range = RangeAssignment {
                    readers,
                    ..range.clone()
                };
                // What is being handed over stays in one piece.
                let parts = match is_whole {
                    true => vec![part],
                    false => placement.cut(part),
                };
                next.extend(parts.into_iter().map(|part| (part, range.clone())));
            }
        }
    }
    joined(next, |slice| placement.keeps_apart(slice))
}

fn living_life(living: &Living, node: &NodeId) -> Option<Life> {
    let incarnation = *living.get(node)?;
    let node = node.clone();
    Some(Life { node, incarnation })
}

/// What a range reads when `taker` is to own it at `generation`.
fn handed_to(
    range: &RangeAssignment,
    taker: Life,
    living: &Living,
    away: &Away<'_>,
    generation: Generation,
) -> RangeAssignment {
    if range.owner == taker {
        return range.clone();
    }
    let readers = range.readers.under_next_acquisition(&taker);
    let former = Provider {
        life: range.owner.clone(),
        since: range.since,
    };
    let holdings = std::iter::once(&former).chain(&range.providers);
    let awaits = awaits_of_taker(range, holdings, &taker, away);
    let providers = std::iter::once(&former)
        .chain(&range.providers)
        .filter(|provider| lives(living, &provider.life))
        .take(if planted::is(Bug::ProvidersDropped) {
            1
        } else {
            PROVIDERS_MAX
        })
        .cloned()
        .collect();
    RangeAssignment {
        owner: taker,
        since: generation,
        providers,
        readers,
        awaits,
    }
}

/// Joins neighbours that are equal and need not be kept whole. A single position stays by itself: it has a range of its own because it
/// is hot, and whether it still is so the next placement says.
pub(crate) fn merged(ranges: impl IntoIterator<Item = (Slice, RangeAssignment)>) -> Ranges {
    joined(ranges, |slice| slice.width() == 1)
}

/// Joins neighbours that are equal and need not be kept whole, but for those slices that are to stay apart.
fn joined(
    ranges: impl IntoIterator<Item = (Slice, RangeAssignment)>,
    stays_apart: impl Fn(Slice) -> bool,
) -> Ranges {
    let mut joined: Ranges = Vec::new();
    for (slice, range) in ranges {
        if let Some((left, held)) = joined.last_mut()
            && !stays_apart(*left)
            && !stays_apart(slice)
            && left.touches(slice)
            && !range.keeps_whole()
            && *held == range
            && let Some(both) = Slice::between(left.low(), slice.last())
        {
            *left = both;
            continue;
        }
        joined.push((slice, range));
    }
    joined
}

/// Renews the runs of neighbouring ranges of each owner that has too many: a new `since` with the owner as its only
/// provider, so that nothing moves, and the run merges when the owner has taken it up. Done for an owner only while no
/// hand-off to it is open. `stays` says which owners neither drain nor are dead, `stays_apart` which ranges merge with none.
pub(crate) fn renewed(
    mut ranges: Ranges,
    generation: Generation,
    stays: impl Fn(&Life) -> bool,
    stays_apart: impl Fn(Slice) -> bool,
) -> Ranges {
    let mut counts: HashMap<&Life, (usize, bool)> = HashMap::new();
    for (slice, range) in &ranges {
        let (count, moving) = counts.entry(&range.owner).or_default();
        *count += usize::from(!stays_apart(*slice));
        *moving |= range.keeps_whole();
    }
    let has_too_many = |(owner, (count, moving)): (&Life, (usize, bool))| {
        (count > RANGES_BEFORE_RENEWAL && !moving && stays(owner)).then(|| owner.clone())
    };
    let fragmented: HashSet<Life> = counts.into_iter().filter_map(has_too_many).collect();
    if fragmented.is_empty() {
        return ranges;
    }
    let same_as_next: Vec<bool> = ranges
        .windows(2)
        .map(|pair| {
            let may_merge = !stays_apart(pair[0].0) && !stays_apart(pair[1].0);
            may_merge && pair[0].1.owner == pair[1].1.owner
        })
        .collect();
    let mut renewed: Vec<usize> = Vec::new();
    for (index, (_, range)) in ranges.iter_mut().enumerate() {
        let after = same_as_next.get(index).copied().unwrap_or(false);
        let before = index > 0 && same_as_next[index - 1];
        // What was acquired just now, cold, has no former acquisition; the others get the same `since` as it.
        let is_older = range.since < generation;
        if (before || after) && is_older && fragmented.contains(&range.owner) {
            let former = Provider {
                life: range.owner.clone(),
                since: range.since,
            };
            range.since = generation;
            range.providers = vec![former];
            range.readers = range.readers.under_next_acquisition(&range.owner);
            renewed.push(index);
        }
    }
    // Leases that may be out in a part of a run may be out in the whole of it: so its parts read the same, and merge.
    let same_run = |left: &usize, right: &usize| left + 1 == *right && same_as_next[*left];
    for run in renewed.chunk_by(same_run) {
        let leases_out = run.iter().any(|&index| ranges[index].1.readers.leases_out);
        for &index in run {
            ranges[index].1.readers.leases_out = leases_out;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::slice_key::SliceKey;

    fn life(name: &str) -> Life {
        Life {
            node: NodeId::new(name).unwrap(),
            incarnation: Incarnation::new(1),
        }
    }

    fn generation(number: u64) -> Generation {
        Generation {
            number,
            assigner: Incarnation::new(1),
        }
    }

    fn over(number: u64) -> Reported {
        Reported {
            since: generation(number),
            is_over: true,
        }
    }

    fn living(names: &[&str]) -> Living {
        names
            .iter()
            .map(|name| (life(name).node, Incarnation::new(1)))
            .collect()
    }

    fn range(owner: &str, since: u64, providers: &[(&str, u64)]) -> RangeAssignment {
        let provider = |(name, since): &(&str, u64)| Provider {
            life: life(name),
            since: generation(*since),
        };
        RangeAssignment {
            owner: life(owner),
            since: generation(since),
            providers: providers.iter().map(provider).collect(),
            readers: Readers::default(),
            awaits: Vec::new(),
        }
    }

    /// Plan: what one range reads after it goes to a taker, by who lives. Rows: range, taker, living, expected.
    #[test]
    fn since_and_providers_of_the_next_range() {
        let rows = [
            // It stays: everything stays.
            (range("a", 1, &[]), "a", &["a", "b"][..], range("a", 1, &[])),
            (
                range("b", 5, &[("a", 1)]),
                "b",
                &["a", "b"],
                range("b", 5, &[("a", 1)]),
            ),
            // It moves: the former owner first.
            (range("a", 1, &[]), "b", &["a", "b"], range("b", 9, &[("a", 1)])),
            (
                range("b", 5, &[("a", 1)]),
                "c",
                &["a", "b", "c"],
                range("c", 9, &[("b", 5), ("a", 1)]),
            ),
            // The owner is dead: the surviving providers, or cold.
            (
                range("b", 5, &[("a", 1)]),
                "c",
                &["a", "c"],
                range("c", 9, &[("a", 1)]),
            ),
            (range("a", 1, &[]), "b", &["b"], range("b", 9, &[])),
            // Back to where it came from: the taker is among its own providers.
            (
                range("b", 5, &[("a", 1)]),
                "a",
                &["a", "b"],
                range("a", 9, &[("b", 5), ("a", 1)]),
            ),
        ];
        for (before, taker, lives, expected) in rows {
            let lives = living(lives);
            let placement = Placement::new(vec![(Slice::FULL, life(taker).node)]).unwrap();
            let next = placed(
                vec![(Slice::FULL, before.clone())],
                &placement,
                &lives,
                &Away::NOBODY,
                generation(9),
            );
            assert_eq!(next, [(Slice::FULL, expected)], "{before:?} to {taker}");
        }
    }

    /// Plan: one range whose hand-off is reported as ended, in parts. Only when all of it is, under its own since, is the
    /// provider dropped; then it merges with its equal neighbour.
    #[test]
    fn a_hand_off_ends_when_all_of_it_is_reported() {
        let (low, high) = Slice::FULL.split_before(SliceKey::new(1 << 63)).unwrap();
        let (first, second) = low.split_before(SliceKey::new(1 << 62)).unwrap();
        let ranges = vec![(low, range("b", 5, &[("a", 1)])), (high, range("b", 5, &[]))];
        let held = Assignment::new(generation(6), ranges.clone(), BTreeMap::new()).unwrap();
        let after = |reports: &[(Slice, u64)]| {
            let done = reports
                .iter()
                .map(|(slice, since)| (*slice, over(*since)))
                .collect();
            refreshed(
                &held,
                &living(&["a", "b"]),
                &done,
                &RangeMap::new(),
                &Away::NOBODY,
            )
        };
        assert_eq!(after(&[(first, 5)]), ranges);
        assert_eq!(after(&[(first, 5), (second, 4)]), ranges);
        assert_eq!(
            after(&[(first, 5), (second, 5)]),
            [(Slice::FULL, range("b", 5, &[]))]
        );
    }

    /// Plan: an owner with too many neighbouring ranges. They are renewed with itself as provider, and merge into one when
    /// it reports; an owner with few, one in the middle of a hand-off, and one that leaves are left alone.
    #[test]
    fn fragmented_neighbours_are_renewed_and_merge() {
        let count = RANGES_BEFORE_RENEWAL as u64 + 1;
        let width = u64::MAX / count;
        let ranges = |count: u64| -> Ranges {
            let low = |index: u64| SliceKey::new(index * width);
            (0..count)
                .map(|index| {
                    let high = (index + 1 < count).then(|| low(index + 1));
                    (Slice::new(low(index), high).unwrap(), range("a", index + 1, &[]))
                })
                .collect()
        };
        let stays = |_: &Life| true;
        assert_eq!(
            renewed(ranges(count - 1), generation(900), stays, |_| false),
            ranges(count - 1)
        );
        assert_eq!(
            renewed(ranges(count), generation(900), |_| false, |_| false),
            ranges(count)
        );
        let mut moving = ranges(count);
        moving[3].1.providers = range("a", 4, &[("b", 1)]).providers;
        assert_eq!(renewed(moving.clone(), generation(900), stays, |_| false), moving);

        // One of them was taken over from a dead owner in this very assignment: it stands, and the result is valid.
        let mut taken_cold = ranges(count);
        taken_cold[3].1.since = generation(900);
        let next = renewed(taken_cold, generation(900), stays, |_| false);
        assert_eq!(next[3].1, range("a", 900, &[]));
        assert_eq!(next[4].1, range("a", 900, &[("a", 5)]));
        assert!(Assignment::new(generation(900), next, BTreeMap::new()).is_ok());

        let next = renewed(ranges(count), generation(900), stays, |_| false);
        for (index, (_, renewed)) in (1..).zip(&next) {
            assert_eq!(*renewed, range("a", 900, &[("a", index)]));
        }
        let held = Assignment::new(generation(900), next, BTreeMap::new()).unwrap();
        let done = [(Slice::FULL, over(900))].into_iter().collect();
        let merged = refreshed(&held, &living(&["a"]), &done, &RangeMap::new(), &Away::NOBODY);
        assert_eq!(merged, [(Slice::FULL, range("a", 900, &[]))]);
    }

    /// Plan: a range that `a` owns, read by `b` and `c` besides. Whatever ends somebody's reading or its owner's tenure leaves a
    /// mark that leases may be out, until a hand-off is done; a new owner is no replica of its own; who is dead is none.
    #[test]
    fn h2_read_leases_of_before_are_remembered() {
        let readers = |names: &[&str], leases_out| Readers {
            replicas: names.iter().map(|name| life(name)).collect(),
            leases_out,
        };
        let replicated = RangeAssignment {
            readers: readers(&["b", "c"], false),
            ..range("a", 1, &[])
        };
        let next =
            |lives: &[&str], owner: &str, replicas: &[&str], done: &[u64], before: &RangeAssignment| {
                let held = Assignment::new(
                    generation(9),
                    vec![(Slice::FULL, before.clone())],
                    BTreeMap::new(),
                );
                let done = done.iter().map(|since| (Slice::FULL, over(*since))).collect();
                let lives = living(lives);
                let ranges = refreshed(&held.unwrap(), &lives, &done, &RangeMap::new(), &Away::NOBODY);
                let nodes = replicas.iter().map(|name| life(name).node).collect();
                let placement = Placement::new(vec![(Slice::FULL, life(owner).node)]).unwrap();
                let placement = placement.replicated(vec![(Slice::FULL, nodes)]);
                placed(ranges, &placement, &lives, &Away::NOBODY, generation(9))[0]
                    .1
                    .clone()
            };
        let all = ["a", "b", "c"];
        assert_eq!(next(&all, "a", &["b", "c"], &[], &replicated), replicated);
        let cooled = next(&all, "a", &[], &[], &replicated);
        assert_eq!(cooled.readers, readers(&[], true));
        assert_eq!(
            next(&all, "a", &["b"], &[], &cooled).readers,
            readers(&["b"], true)
        );
        assert_eq!(
            next(&["a", "b"], "a", &["b"], &[], &replicated).readers,
            readers(&["b"], true)
        );
        let moved = next(&all, "b", &["c"], &[], &replicated);
        assert_eq!(moved.readers, readers(&["c"], true));
        // Done: the giver has revoked all leases.
        assert_eq!(
            next(&all, "b", &["c"], &[9], &moved).readers,
            readers(&["c"], false)
        );
        // The owner died: nobody has, and nobody says that anything is done.
        let cold = next(&["b", "c"], "b", &["c"], &[], &replicated);
        assert_eq!(
            cold,
            RangeAssignment {
                readers: readers(&["c"], true),
                ..range("b", 9, &[])
            }
        );
        assert_eq!(next(&["b", "c"], "b", &["c"], &[9], &cold), cold);
    }

    /// Plan: `b` has taken a range from `a` and still pulls; it lends to `c`. The policy wants `c` no more. It stays until the
    /// hand-off has ended, which clears the mark of what `a` had lent; then it goes, and that is remembered.
    #[test]
    fn h2_a_replica_goes_only_when_no_hand_off_is_on() {
        let pulled = RangeAssignment {
            readers: Readers {
                replicas: vec![life("c")],
                leases_out: true,
            },
            ..range("b", 5, &[("a", 1)])
        };
        let lives = living(&["a", "b", "c"]);
        let placement = Placement::new(vec![(Slice::FULL, life("b").node)]).unwrap();
        let open = placed(
            vec![(Slice::FULL, pulled.clone())],
            &placement,
            &lives,
            &Away::NOBODY,
            generation(9),
        );
        assert_eq!(open, [(Slice::FULL, pulled)]);
        let held = Assignment::new(generation(9), open, BTreeMap::new()).unwrap();
        let done = [(Slice::FULL, over(5))].into_iter().collect();
        let ended = refreshed(&held, &lives, &done, &RangeMap::new(), &Away::NOBODY);
        let next = placed(ended, &placement, &lives, &Away::NOBODY, generation(10));
        let gone = Readers {
            replicas: Vec::new(),
            leases_out: true,
        };
        assert_eq!(next[0].1.readers, gone);
        assert!(next[0].1.providers.is_empty());
    }

    /// Plan: z fell silent, and b began cold in its place; z's next life is back, and listed for b. b dies before it is known to
    /// have asked. b may have written what z's next life has in an older form, so that one provides it to nobody, be it to itself.
    #[test]
    fn a2_h2_who_came_back_to_an_owner_that_died_provides_nothing() {
        let next_life = Life {
            incarnation: Incarnation::new(2),
            ..life("z")
        };
        let awaited = Provider {
            life: life("z"),
            since: generation(1),
        };
        let revived = Provider {
            life: next_life.clone(),
            ..awaited
        };
        let waiting = RangeAssignment {
            providers: vec![revived],
            awaits: vec![awaited],
            ..range("b", 5, &[])
        };
        let lives: Living = [(next_life.node.clone(), next_life.incarnation)].into();
        let held = Assignment::new(generation(9), vec![(Slice::FULL, waiting)], BTreeMap::new()).unwrap();
        let nothing = RangeMap::new();
        let left = refreshed(&held, &lives, &nothing, &RangeMap::new(), &Away::NOBODY);
        let placement = Placement::new(vec![(Slice::FULL, next_life.node.clone())]).unwrap();
        let next = placed(left, &placement, &lives, &Away::NOBODY, generation(10));
        let RangeAssignment { owner, providers, .. } = &next[0].1;
        assert_eq!((owner, providers.as_slice()), (&next_life, &[][..]));
    }

    /// Plan: an owner that keeps its range under a new acquisition is done. It has revoked nothing: the mark stays, as it does
    /// where it is one of several providers.
    #[test]
    fn h2_an_owner_that_keeps_its_range_revokes_no_lease() {
        let after = |providers: &[(&str, u64)]| {
            let mut kept = range("a", 9, providers);
            kept.readers.leases_out = true;
            let held = Assignment::new(generation(9), vec![(Slice::FULL, kept)], BTreeMap::new());
            let done = [(Slice::FULL, over(9))].into_iter().collect();
            let next = refreshed(
                &held.unwrap(),
                &living(&["a", "b"]),
                &done,
                &RangeMap::new(),
                &Away::NOBODY,
            );
            assert!(next[0].1.providers.is_empty());
            next[0].1.readers.leases_out
        };
        assert!(after(&[("a", 1)]));
        assert!(after(&[("b", 5), ("a", 1)]));
        assert!(!after(&[("b", 5)]));
    }

    /// Plan: a run of an owner's ranges is renewed; in one of them leases may be out. All of it says so then, and merges; another
    /// owner's range does not.
    #[test]
    fn a_renewed_run_reads_the_same_throughout() {
        let count = RANGES_BEFORE_RENEWAL as u64 + 3;
        let width = u64::MAX / count;
        let low = |index: u64| SliceKey::new(index * width);
        let slice = |index: u64| Slice::new(low(index), (index + 1 < count).then(|| low(index + 1))).unwrap();
        let owner = |index: u64| if index == count - 3 { "b" } else { "a" };
        let mut ranges: Ranges = (0..count)
            .map(|index| (slice(index), range(owner(index), index + 1, &[])))
            .collect();
        ranges[5].1.readers.leases_out = true;
        let next = renewed(ranges, generation(900), |_| true, |_| false);
        for (index, (_, range)) in (0..).zip(&next) {
            assert_eq!(range.readers.leases_out, index < count - 3, "range {index}");
        }
        let held = Assignment::new(generation(900), next, BTreeMap::new()).unwrap();
        let done = [(Slice::FULL, over(900))].into_iter().collect();
        let merged = refreshed(
            &held,
            &living(&["a", "b"]),
            &done,
            &RangeMap::new(),
            &Away::NOBODY,
        );
        assert_eq!(merged.len(), 3);
    }

    /// Plan: one owner's whole key space, in which one position is isolated, by a placement that says nothing else; then by one
    /// that does not say that any more. In between it stays by itself, however often what is held is looked at, and is not renewed
    /// into one with its neighbours.
    #[test]
    fn a_position_has_a_range_of_its_own_while_the_placement_says_so() {
        let lives = living(&["a"]);
        let at = SliceKey::new(1 << 40);
        let plain = Placement::new(vec![(Slice::FULL, life("a").node)]).unwrap();
        let isolating = plain.clone().isolating(vec![at]);
        let whole = vec![(Slice::FULL, range("a", 1, &[]))];
        let cut = placed(whole.clone(), &isolating, &lives, &Away::NOBODY, generation(9));
        let slices: Vec<Slice> = cut.iter().map(|(slice, _)| *slice).collect();
        assert_eq!((slices.len(), slices[1]), (3, Slice::single(at)));
        assert!(
            cut.iter().all(|(_, part)| *part == whole[0].1),
            "nothing else changes"
        );
        assert_eq!(merged(cut.clone()), cut);
        let held = |ranges: &Ranges| Assignment::new(generation(9), ranges.clone(), BTreeMap::new()).unwrap();
        assert!(isolating.is_as_held(&held(&cut)) && !isolating.is_as_held(&held(&whole)));
        assert!(plain.is_as_held(&held(&whole)) && !plain.is_as_held(&held(&cut)));
        assert_eq!(
            placed(cut.clone(), &isolating, &lives, &Away::NOBODY, generation(10)),
            cut
        );
        assert_eq!(placed(cut, &plain, &lives, &Away::NOBODY, generation(10)), whole);
        // While it is handed over it is one.
        let moving = vec![(Slice::FULL, range("a", 5, &[("b", 1)]))];
        assert_eq!(
            placed(
                moving.clone(),
                &isolating,
                &living(&["a", "b"]),
                &Away::NOBODY,
                generation(9)
            ),
            moving
        );
    }

    /// Plan: an owner with so many isolated positions that it has too many ranges. They are not what a renewal could merge: nothing
    /// is renewed for their sake, however often it is asked.
    #[test]
    fn isolated_positions_are_not_renewed() {
        let ranges: Ranges = (0..3 * RANGES_BEFORE_RENEWAL as u64)
            .map(|index| match index % 2 {
                0 => Slice::between(SliceKey::new(index << 32), SliceKey::new(((index + 1) << 32) - 1)),
                _ => Slice::between(SliceKey::new(index << 32), SliceKey::new(index << 32)),
            })
            .map(|slice| (slice.unwrap(), range("a", 1, &[])))
            .collect();
        let single = |slice: Slice| slice.width() == 1;
        assert_eq!(renewed(ranges.clone(), generation(900), |_| true, single), ranges);
    }
}
