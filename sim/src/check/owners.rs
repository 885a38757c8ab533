//! H1: no two nodes serve a key as its owner at a time, and each operation is carried out by who owns the key then. A life that
//! was cut off and given up may serve on beside those with newer acquisitions.

use super::Violation;
use crate::history::{Execution, History, Ownership};

/// What in a history breaks H1.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let keys = 1 + history.ownerships.iter().map(|held| held.key).max().unwrap_or(0);
    for key in 0..keys {
        let of_key = || history.ownerships.iter().filter(|held| held.key == key);
        let mut held: Vec<Ownership> = of_key().cloned().collect();
        for held in &mut held {
            if history.cut_off.contains(&held.life.incarnation) {
                let newer = of_key().filter(|other| other.life != held.life && other.since > held.since);
                let overtaken_us = newer.map(|other| other.from_us).min();
                held.to_us = held.to_us.min(overtaken_us.unwrap_or(u64::MAX));
            }
        }
        // One that it takes up again was overtaken before.
        held.retain(|held| held.from_us <= held.to_us);
        held.sort_by_key(|held| (held.from_us, held.to_us));
        let mut latest: Option<&Ownership> = None;
        for next in &held {
            if let Some(before) =
                latest.filter(|before| before.life != next.life && before.to_us > next.from_us)
            {
                violations.push(broken(format!(
                    "key {key} is served by {} until {} us and by {} from {} us on",
                    before.life, before.to_us, next.life, next.from_us
                )));
            }
            if latest.is_none_or(|before| before.to_us <= next.to_us) {
                latest = Some(next);
            }
        }
        let executions = history.executions.iter().filter(|done| done.key == key);
        let mut newest: Option<&Execution> = None;
        for done in executions {
            let is_older = newest.is_some_and(|newest| done.since < newest.since);
            if is_older && history.cut_off.contains(&done.life.incarnation) {
                continue;
            }
            // An acquisition belongs to one life, and a newer one ends the older.
            let before = newest.filter(|before| {
                done.since < before.since || (done.since == before.since && done.life != before.life)
            });
            if let Some(before) = before {
                violations.push(broken(format!(
                    "{} serves key {key} since {} at {} us, after {} since {}",
                    done.life, done.since, done.at_us, before.life, before.since
                )));
            }
            newest = Some(done);
        }
    }
    violations
}

fn broken(what: String) -> Violation {
    Violation {
        invariant: "H1",
        what,
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::{Generation, Incarnation, Life, NodeId};

    use super::*;

    fn life(name: &str) -> Life {
        Life {
            node: NodeId::new(name).unwrap(),
            incarnation: Incarnation::new(1),
        }
    }

    fn since(number: u64) -> Generation {
        Generation {
            number,
            assigner: Incarnation::new(1),
        }
    }

    fn owned(name: &str, number: u64, from_us: u64, to_us: u64) -> Ownership {
        Ownership {
            key: 0,
            life: life(name),
            since: since(number),
            from_us,
            to_us,
        }
    }

    fn done(name: &str, number: u64, at_us: u64) -> Execution {
        Execution {
            at_us,
            key: 0,
            life: life(name),
            since: since(number),
            operation: usize::MAX,
        }
    }

    fn broken_by(ownerships: Vec<Ownership>, executions: Vec<Execution>) -> usize {
        check(&History {
            operations: Vec::new(),
            ownerships,
            executions,
            ..History::default()
        })
        .len()
    }

    #[test]
    fn h1_one_after_the_other_is_fine() {
        let held = vec![
            owned("a", 1, 0, 10),
            owned("b", 2, 10, 20),
            owned("a", 3, 25, u64::MAX),
        ];
        assert_eq!(
            broken_by(held, vec![done("a", 1, 5), done("b", 2, 12), done("a", 3, 30)]),
            0
        );
        // A renewal is the same owner's.
        let held = vec![owned("a", 1, 0, 10), owned("a", 2, 10, 20)];
        assert_eq!(broken_by(held, vec![done("a", 1, 5), done("a", 2, 15)]), 0);
    }

    #[test]
    fn h1_two_at_a_time_are_found() {
        assert_eq!(
            broken_by(vec![owned("a", 1, 0, 11), owned("b", 2, 10, 20)], Vec::new()),
            1
        );
        let nested = vec![
            owned("a", 1, 0, 100),
            owned("b", 2, 10, 20),
            owned("c", 3, 30, 40),
        ];
        assert_eq!(broken_by(nested, Vec::new()), 2);
        assert_eq!(
            broken_by(
                vec![owned("a", 1, 0, u64::MAX), owned("b", 2, 10, u64::MAX)],
                Vec::new()
            ),
            1
        );
    }

    #[test]
    fn h1_who_was_given_up_may_serve_on_beside_newer_owners_only() {
        let history = |ownerships, executions| History {
            ownerships,
            executions,
            cut_off: [Incarnation::new(2)].into(),
            ..History::default()
        };
        let cut_off = |number, from_us, to_us| Ownership {
            life: Life {
                incarnation: Incarnation::new(2),
                ..life("z")
            },
            ..owned("z", number, from_us, to_us)
        };
        let beside = vec![
            cut_off(1, 0, 30),
            owned("b", 2, 10, 20),
            owned("c", 3, 20, 90),
            cut_off(1, 40, 100),
        ];
        assert_eq!(check(&history(beside, Vec::new())), []);
        let both = vec![cut_off(1, 0, 100), owned("b", 2, 10, 25), owned("c", 3, 20, 90)];
        assert_eq!(check(&history(both, Vec::new())).len(), 1);
        let too_new = vec![owned("b", 2, 10, 25), cut_off(3, 20, 100)];
        assert_eq!(check(&history(too_new, Vec::new())).len(), 1);
        let late = |number| Execution {
            life: cut_off(1, 0, 0).life,
            ..done("z", number, 7)
        };
        assert_eq!(
            check(&history(
                Vec::new(),
                vec![done("b", 2, 6), late(1), done("b", 2, 8)]
            )),
            []
        );
    }

    #[test]
    fn h1_an_operation_of_an_owner_that_was_is_found() {
        assert_eq!(
            broken_by(
                Vec::new(),
                vec![done("a", 1, 5), done("b", 2, 6), done("a", 1, 7)]
            ),
            1
        );
        assert_eq!(broken_by(Vec::new(), vec![done("a", 1, 5), done("b", 1, 6)]), 1);
    }
}
