//! [`views`]: what is judged together, where a life went on serving after its ranges had been given away.
//!
//! In `available` mode a node that cannot reach the Assigner serves on, and the Assigner gives its ranges to others. What such
//! a life carries out while a newer acquisition of the key serves already is *loose*; all else is *firm*. (In `leased` mode all
//! is.) Two promises are left for what is loose, and each is judged in a view of its own, which is an ordinary history:
//!
//! - The *trunk* holds what is firm. A loose write may yet be seen there: when the life comes back, its owner may take over what
//!   it holds. It counts as older than all that was done under the newer acquisition, so it may be found only where nobody
//!   has changed the key there ([`Operation::overtaken_us`]). A loose removal or touch does nothing there, and promises nothing.
//! - A *branch* holds what one such life carried out, and what was firm before it was overtaken: as if nobody else were there.
//!
//! If nobody is left who knows that such a life was given up, a later Assigner may believe it again, with all that it holds
//! ([`History::believed_us`]). From then on nothing is promised of its keys, and nothing is judged: its old values may be served,
//! by it or by who takes them from it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use softstore_sharding::{Generation, Incarnation};

use crate::history::{Did, Ended, History, Operation, Ownership};

/// Who carried out an operation that was loose, and since when a newer acquisition served.
#[derive(Clone, Copy)]
struct Loose {
    by: (Incarnation, Generation),
    overtaken_us: u64,
}

/// The histories that are to be judged in place of this one: the trunk first.
#[must_use]
pub fn views(history: &History) -> Vec<Cow<'_, History>> {
    if history.cut_off.is_empty() && history.believed_us.is_empty() {
        return vec![Cow::Borrowed(history)];
    }
    let tenures = Tenures::of(history);
    let carried_out = CarriedOut::of(history);
    let loose: Vec<Option<Loose>> = (0..)
        .zip(&history.operations)
        .map(|(line, operation)| tenures.loose(operation.key, carried_out.of_line(line, operation)?))
        .collect();
    let on_trunk = |(operation, loose): (&Operation, &Option<Loose>)| match loose {
        None => Some(*operation),
        Some(loose) => overtaken(operation, loose.overtaken_us),
    };
    let believed_us = tenures.believed_us(history);
    let is_judged = |operation: &Operation| {
        let until_us = believed_us.get(&operation.key).copied();
        until_us.is_none_or(|until_us| operation.returned_us < until_us)
    };
    let all = || {
        let all = history.operations.iter().zip(&loose);
        (0..).zip(all).filter(|(_, (operation, _))| is_judged(operation))
    };
    let mut views = vec![view(history, all().filter_map(|(_, one)| on_trunk(one)))];
    let branches: BTreeSet<(Incarnation, Generation)> =
        loose.iter().flatten().map(|loose| loose.by).collect();
    for branch in branches {
        let on_branch = all().filter_map(|(line, (operation, loose))| {
            let from_us = tenures.overtaken_us(branch, operation.key)?;
            match loose {
                Some(loose) if loose.by == branch => Some(*operation),
                Some(_) => on_trunk((operation, loose)),
                None => {
                    let done = carried_out.of_line(line, operation);
                    done.is_none_or(|(_, at_us)| at_us < from_us)
                        .then_some(*operation)
                }
            }
        });
        views.push(view(history, on_branch));
    }
    views
}

/// How many operations were carried out by lives that were overtaken.
#[must_use]
pub fn loose_operations(history: &History) -> u64 {
    if history.cut_off.is_empty() {
        return 0;
    }
    let (tenures, carried_out) = (Tenures::of(history), CarriedOut::of(history));
    let is_loose = |(line, operation): &(usize, &Operation)| {
        let done = carried_out.of_line(*line, operation);
        done.is_some_and(|done| tenures.loose(operation.key, done).is_some())
    };
    (0..).zip(&history.operations).filter(is_loose).count() as u64
}

fn view(history: &History, operations: impl Iterator<Item = Operation>) -> Cow<'static, History> {
    Cow::Owned(History {
        operations: operations.collect(),
        ownerships: Vec::new(),
        executions: Vec::new(),
        cut_off: BTreeSet::new(),
        believed_us: BTreeMap::new(),
        ..*history
    })
}

/// What a loose operation is to those who see the newer acquisition only.
fn overtaken(operation: &Operation, overtaken_us: u64) -> Option<Operation> {
    let may_be_seen = match (operation.did, operation.ended) {
        (_, Ended::Failed | Ended::Refused) | (Did::Read | Did::Remove, _) => false,
        (Did::Write { .. } | Did::Add(_) | Did::Touch { .. }, _) => true,
    };
    may_be_seen.then_some(Operation {
        overtaken_us: Some(overtaken_us),
        ..*operation
    })
}

/// Who served which key when, of lives that were cut off.
struct Tenures<'a> {
    of_key: BTreeMap<usize, Vec<&'a Ownership>>,
    cut_off: &'a BTreeSet<Incarnation>,
}

impl<'a> Tenures<'a> {
    fn of(history: &'a History) -> Self {
        let mut of_key: BTreeMap<usize, Vec<&Ownership>> = BTreeMap::new();
        for held in &history.ownerships {
            of_key.entry(held.key).or_default().push(held);
        }
        let cut_off = &history.cut_off;
        Self { of_key, cut_off }
    }

    /// When another life first served the key under a newer acquisition than this one of that life.
    fn overtaken_us(&self, (by, since): (Incarnation, Generation), key: usize) -> Option<u64> {
        let of_key = self.of_key.get(&key).filter(|_| self.cut_off.contains(&by))?;
        let newer = of_key
            .iter()
            .filter(|held| held.life.incarnation != by && held.since > since);
        newer.map(|held| held.from_us).min()
    }

    fn loose(&self, key: usize, (by, at_us): (Incarnation, u64)) -> Option<Loose> {
        let of_key = self.of_key.get(&key)?.iter();
        let own = of_key.filter(|held| held.life.incarnation == by && held.from_us <= at_us);
        let since = own.map(|held| held.since).max()?;
        let by = (by, since);
        let overtaken_us = self.overtaken_us(by, key).filter(|from_us| *from_us <= at_us)?;
        Some(Loose { by, overtaken_us })
    }

    /// The keys of lives that were believed again, and since when.
    fn believed_us(&self, history: &History) -> BTreeMap<usize, u64> {
        let since = |held: &&Ownership| history.believed_us.get(&held.life.incarnation).copied();
        let of_key = self.of_key.iter();
        let believed = of_key.filter_map(|(&key, held)| Some((key, held.iter().filter_map(since).min()?)));
        believed.collect()
    }
}

/// Who carried out what of which the client does not know the outcome.
struct CarriedOut(BTreeMap<usize, (Incarnation, u64)>);

impl CarriedOut {
    fn of(history: &History) -> Self {
        let done = history.executions.iter();
        let done = done.map(|done| (done.operation, (done.life.incarnation, done.at_us)));
        Self(done.collect())
    }

    /// Who carried it out, and when; by whose answer the client goes, if it has one.
    fn of_line(&self, line: usize, operation: &Operation) -> Option<(Incarnation, u64)> {
        match (operation.answered, operation.ended) {
            (Some(answered), _) => Some((answered.by, answered.at_us)),
            (None, Ended::Unknown | Ended::Open) => self.0.get(&line).copied(),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::{Life, NodeId, Version};

    use super::*;
    use crate::check::{check, made};
    use crate::history::Answered;

    const OLD: Incarnation = Incarnation::new(1);
    const NEW: Incarnation = Incarnation::new(2);

    /// From 100 on the key is served by another life, too.
    fn history(operations: Vec<Operation>) -> History {
        let owned = |incarnation: Incarnation, number, from_us| Ownership {
            key: 0,
            life: Life {
                node: NodeId::new("a").unwrap(),
                incarnation,
            },
            since: Generation {
                number,
                assigner: Incarnation::new(9),
            },
            from_us,
            to_us: 1_000,
        };
        History {
            operations,
            ownerships: vec![owned(OLD, 1, 0), owned(NEW, 2, 100)],
            cut_off: BTreeSet::from([OLD]),
            ..History::default()
        }
    }

    fn done(by: Incarnation, did: Did, from_us: u64, ended: Ended) -> Operation {
        Operation {
            answered: Some(Answered {
                by,
                at_us: from_us + 1,
            }),
            ..made::operation(did, from_us, from_us + 2, ended)
        }
    }

    fn write(by: Incarnation, value: i64, from_us: u64) -> Operation {
        let did = Did::Write {
            value,
            ttl_ms: None,
            expected: None,
        };
        let version = Version::new(u64::try_from(value).unwrap());
        done(by, did, from_us, Ended::Written(version))
    }

    fn read(by: Incarnation, value: i64, from_us: u64) -> Operation {
        let version = Version::new(u64::try_from(value).unwrap());
        done(by, Did::Read, from_us, Ended::Read(Some((value, version))))
    }

    fn broken(operations: Vec<Operation>) -> usize {
        check(&history(operations)).len()
    }

    #[test]
    fn each_side_is_judged_by_itself() {
        let both = vec![
            write(OLD, 1, 10),
            write(NEW, 5, 110),
            read(OLD, 1, 120),
            write(OLD, 2, 130),
            read(NEW, 5, 140),
            read(OLD, 2, 150),
        ];
        assert_eq!(broken(both.clone()), 0);
        let goes_back = [both.clone(), vec![read(OLD, 1, 160)]].concat();
        assert!(broken(goes_back) > 0, "on the branch");
        let resurrected = [both, vec![read(NEW, 1, 160)]].concat();
        assert!(
            broken(resurrected) > 0,
            "what was firm is older than the newer write"
        );
        let crossed = vec![write(NEW, 5, 110), read(OLD, 5, 120)];
        assert_eq!(broken(crossed), 1, "nothing comes to a branch from the trunk");
    }

    /// Plan: an Assigner believes the life that was overtaken, and the old value is seen, there and at who takes it from there.
    /// What was done before is judged, what comes after is not.
    #[test]
    fn who_is_believed_again_is_judged_until_then() {
        let again = |operations| {
            let mut history = history(operations);
            history.believed_us.insert(OLD, 300);
            branches_broken(&history)
        };
        let before = vec![write(OLD, 1, 10), write(NEW, 5, 110)];
        let after = vec![read(OLD, 1, 320), read(NEW, 1, 340)];
        assert_eq!(again([before.clone(), after].concat()), 0);
        assert!(again([before, vec![read(NEW, 1, 200)]].concat()) > 0);
    }

    /// What is broken in the views; the ownerships are not looked at.
    fn branches_broken(history: &History) -> usize {
        let views = views(history);
        views
            .iter()
            .map(|view| crate::check::staleness::check(view).len())
            .sum()
    }

    /// Plan: a value is written where a newer owner serves already, and comes back with its life. It may be found where nobody has
    /// changed the key, also after misses, and then stays; after any change there it may not, even one that ended before
    /// the write began.
    #[test]
    fn a_loose_write_may_come_back_to_an_untouched_key() {
        let miss = done(NEW, Did::Read, 110, Ended::Read(None));
        let back = vec![miss, write(OLD, 7, 150), read(NEW, 7, 200)];
        assert_eq!(broken(back), 0);
        let removal = done(NEW, Did::Remove, 110, Ended::Removed);
        assert_eq!(broken(vec![removal, write(OLD, 7, 150), read(NEW, 7, 200)]), 1);
        assert!(broken(vec![write(NEW, 9, 110), write(OLD, 7, 150), read(NEW, 7, 200)]) > 0);
        // Its removal there promises nothing here, and removes nothing.
        let loose_removal = done(OLD, Did::Remove, 170, Ended::Removed);
        let ignored = vec![write(OLD, 7, 150), loose_removal, read(NEW, 7, 200)];
        assert_eq!(broken(ignored), 0);
        // Once seen, it has happened.
        let older = vec![
            write(OLD, 3, 10),
            write(OLD, 7, 150),
            read(NEW, 7, 200),
            read(NEW, 3, 220),
        ];
        assert!(broken(older) > 0);
    }
}
