//! No operation starts at a node after its deadline, and none hangs: each returns to its client within a bound.

use super::Violation;
use crate::history::{Ended, History};

/// How much later than the last moment at which a node may start it an operation may return, in microseconds.
const RETURN_US_MAX: u64 = 2_000_000;

/// What in a history came too late.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for done in &history.executions {
        let Some(operation) = history.operations.get(done.operation) else {
            continue;
        };
        if done.at_us > operation.deadline_us {
            violations.push(Violation {
                invariant: "deadline",
                what: format!(
                    "{} started an operation on key {} at {} us, after its deadline at {} us",
                    done.life, done.key, done.at_us, operation.deadline_us
                ),
            });
        }
    }
    for operation in &history.operations {
        let is_late = operation.returned_us > operation.deadline_us.saturating_add(RETURN_US_MAX);
        if is_late || operation.ended == Ended::Open {
            let (key, from_us) = (operation.key, operation.invoked_us);
            violations.push(Violation {
                invariant: "liveness",
                what: format!("an operation on key {key} invoked at {from_us} us hung"),
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use softstore_sharding::{Generation, Incarnation, Life, NodeId};

    use super::*;
    use crate::history::{Did, Execution, Operation};

    fn late(at_us: u64, returned_us: u64) -> Vec<Violation> {
        let operation = Operation {
            client: 0,
            key: 0,
            did: Did::Remove,
            invoked_us: 0,
            returned_us,
            deadline_us: 100,
            ended: Ended::Removed,
            may_come_again: false,
            answered: None,
            overtaken_us: None,
        };
        let life = Life {
            node: NodeId::new("a").unwrap(),
            incarnation: Incarnation::new(1),
        };
        let done = Execution {
            at_us,
            key: 0,
            life,
            since: Generation::NONE,
            operation: 0,
        };
        check(&History {
            operations: vec![operation],
            executions: vec![done],
            ..History::default()
        })
    }

    #[test]
    fn late_starts_and_late_answers_are_found() {
        assert_eq!(late(100, 120), []);
        assert_eq!(late(101, 120).len(), 1);
        assert_eq!(late(99, 101 + RETURN_US_MAX).len(), 1);
    }
}
