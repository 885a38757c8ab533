//! H6 and H7: what nobody lost is still there. Judged only in gentle runs, in which nothing happens that may cost entries:
//! no crash, no want of room, no message that stays away for long, no node that leaves before its hand-offs have ended.
//!
//! There, a key that was written without a TTL is found by every read and every addition that begins after the write was
//! acknowledged, unless something that removes it, or gives it a TTL, may have come in between; or the key came back to
//! a node that had it before (A -> B -> A may lose what B had not pulled).

use super::{Violation, by_key};
use crate::history::{Did, Ended, History, Operation};

/// What in a history was lost without a reason.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    if !history.is_gentle {
        return Vec::new();
    }
    by_key(history)
        .into_iter()
        .flat_map(|(key, operations)| check_key(key, &operations, &came_back_us(history, key)))
        .collect()
}

/// When the key came back to a life that had owned it before another one did.
fn came_back_us(history: &History, key: usize) -> Vec<u64> {
    let mut held: Vec<_> = history.ownerships.iter().filter(|held| held.key == key).collect();
    held.sort_by_key(|held| held.from_us);
    let mut returns = Vec::new();
    for (index, later) in held.iter().enumerate() {
        let before = &held[..index];
        let was_elsewhere = before.last().is_some_and(|last| last.life != later.life);
        if was_elsewhere && before.iter().any(|held| held.life == later.life) {
            returns.push(later.from_us);
        }
    }
    returns
}

/// An operation that is not known to have ended may take effect at any later time, and one that was sent twice until its deadline.
fn over_by_us(operation: &Operation) -> u64 {
    match operation.ended {
        Ended::Open | Ended::Unknown => u64::MAX,
        _ if operation.may_come_again => operation.returned_us.max(operation.deadline_us),
        _ => operation.returned_us,
    }
}

fn may_lose(operation: &Operation) -> bool {
    let failed = matches!(
        operation.ended,
        Ended::Failed | Ended::Refused | Ended::Touched(false)
    );
    let loses = match operation.did {
        Did::Remove | Did::Touch { .. } => true,
        Did::Write { ttl_ms, .. } => ttl_ms.is_some(),
        Did::Read | Did::Add(_) => false,
    };
    loses && !failed
}

fn check_key(key: usize, operations: &[&Operation], returns_us: &[u64]) -> Vec<Violation> {
    let stored = |operation: &&&Operation| {
        matches!(
            (operation.did, operation.ended),
            (Did::Write { ttl_ms: None, .. }, Ended::Written(_)) | (Did::Add(_), Ended::Added { .. })
        )
    };
    let stores: Vec<&Operation> = operations.iter().filter(stored).copied().collect();
    let losers: Vec<&Operation> = operations
        .iter()
        .filter(|operation| may_lose(operation))
        .copied()
        .collect();
    let mut violations = Vec::new();
    for operation in operations {
        let is_absent = match (operation.did, operation.ended) {
            (Did::Read, Ended::Read(None)) => true,
            (Did::Add(delta), Ended::Added { number, .. }) => number == delta,
            _ => false,
        };
        if !is_absent {
            continue;
        }
        let before = stores
            .iter()
            .filter(|stored| stored.returned_us < operation.invoked_us);
        let Some(stored) = before.max_by_key(|stored| stored.invoked_us) else {
            continue;
        };
        // An addition leaves the number the TTL that it has.
        let keeps_ttl = matches!(stored.did, Did::Add(_));
        let reason = losers.iter().any(|loser| {
            let gives_ttl = keeps_ttl && loser.did != Did::Remove;
            (gives_ttl || over_by_us(loser) >= stored.invoked_us) && loser.invoked_us <= operation.returned_us
        });
        let came_back = returns_us
            .iter()
            .any(|at_us| (stored.invoked_us..=operation.returned_us).contains(at_us));
        if !reason && !came_back {
            let (at_us, stored_us) = (operation.returned_us, stored.returned_us);
            violations.push(Violation {
                invariant: "H6",
                what: format!(
                    "key {key} was absent at {at_us} us, although it was stored by {stored_us} us and nothing may have \
                     cost it"
                ),
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use softstore_sharding::{Generation, Incarnation, Life, NodeId, Version};

    use super::*;
    use crate::check::made::operation;
    use crate::history::Ownership;

    fn write(from_us: u64, to_us: u64) -> Operation {
        let did = Did::Write {
            value: 1,
            ttl_ms: None,
            expected: None,
        };
        operation(did, from_us, to_us, Ended::Written(Version::new(1)))
    }

    fn miss(from_us: u64, to_us: u64) -> Operation {
        operation(Did::Read, from_us, to_us, Ended::Read(None))
    }

    fn lost(operations: Vec<Operation>, ownerships: Vec<Ownership>) -> usize {
        check(&History {
            operations,
            ownerships,
            is_gentle: true,
            ..History::default()
        })
        .len()
    }

    /// Plan: a removal was acknowledged before the key was written again; it explains that the key is gone only if an earlier attempt
    /// of it may still have been on its way, before its deadline.
    #[test]
    fn a_removal_that_was_sent_twice_may_come_again() {
        let removal = Operation {
            deadline_us: 25,
            ..operation(Did::Remove, 0, 5, Ended::Removed)
        };
        let twice = Operation {
            may_come_again: true,
            ..removal
        };
        assert_eq!(lost(vec![removal, write(10, 20), miss(21, 24)], Vec::new()), 1);
        assert_eq!(lost(vec![twice, write(10, 20), miss(21, 24)], Vec::new()), 0);
        assert_eq!(lost(vec![twice, write(26, 30), miss(31, 34)], Vec::new()), 1);
    }

    #[test]
    fn h6_a_miss_without_a_reason_is_found() {
        assert_eq!(lost(vec![write(0, 10), miss(20, 30)], Vec::new()), 1);
        assert_eq!(lost(vec![miss(0, 5), write(6, 10)], Vec::new()), 0);
        assert_eq!(lost(vec![write(0, 10), miss(5, 30)], Vec::new()), 0, "concurrent");
        let removal = operation(Did::Remove, 12, 14, Ended::Removed);
        assert_eq!(lost(vec![write(0, 10), removal, miss(20, 30)], Vec::new()), 0);
        let unknown = operation(Did::Remove, 1, 2, Ended::Unknown);
        assert_eq!(lost(vec![unknown, write(3, 10), miss(20, 30)], Vec::new()), 0);
        let over = operation(Did::Remove, 1, 2, Ended::Removed);
        assert_eq!(lost(vec![over, write(3, 10), miss(20, 30)], Vec::new()), 1);
        let added = |number, from_us| {
            let version = Version::new(from_us);
            operation(
                Did::Add(5),
                from_us,
                from_us + 1,
                Ended::Added { number, version },
            )
        };
        assert_eq!(lost(vec![added(5, 1), added(10, 3)], Vec::new()), 0);
        assert_eq!(lost(vec![added(5, 1), added(5, 3)], Vec::new()), 1);
    }

    #[test]
    fn h6_what_came_back_too_soon_may_be_lost() {
        let owned = |name: &str, from_us, to_us| Ownership {
            key: 0,
            life: Life {
                node: NodeId::new(name).unwrap(),
                incarnation: Incarnation::new(1),
            },
            since: Generation::NONE,
            from_us,
            to_us,
        };
        let back = vec![owned("a", 0, 11), owned("b", 12, 14), owned("a", 15, 90)];
        assert_eq!(lost(vec![write(0, 10), miss(20, 30)], back), 0);
        let written_after = vec![owned("a", 0, 1), owned("b", 2, 3), owned("a", 4, 90)];
        assert_eq!(lost(vec![write(6, 10), miss(20, 30)], written_after), 1);
        let on = vec![owned("a", 0, 11), owned("b", 12, 14), owned("c", 15, 90)];
        assert_eq!(lost(vec![write(0, 10), miss(20, 30)], on), 1);
    }
}
