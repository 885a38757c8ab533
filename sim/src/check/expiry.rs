//! H5: nothing outlives its TTL, however often it moves.
//!
//! A value written with a TTL expires at the latest that long after its write returned, or could last have begun; unless
//! a touch, even one of unknown outcome, may have given it more.

use std::collections::BTreeMap;

use super::Violation;
use crate::history::{Did, Ended, History, Operation};

/// Clocks count in milliseconds: both ends may be rounded.
const ROUNDING_US: u64 = 2_000;

/// What in a history breaks H5.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut by_key: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        by_key.entry(operation.key).or_default().push(operation);
    }
    by_key
        .into_iter()
        .flat_map(|(key, operations)| check_key(key, &operations))
        .collect()
}

/// The latest moment at which an operation can have run.
fn ran_by_us(operation: &Operation) -> u64 {
    match operation.ended {
        Ended::Open | Ended::Unknown => operation.deadline_us,
        _ => operation.returned_us,
    }
}

fn check_key(key: usize, operations: &[&Operation]) -> Vec<Violation> {
    let mut expires_us: BTreeMap<i64, u64> = BTreeMap::new();
    // Beginning of a touch, and until when it may let a value live.
    let mut touches: Vec<(u64, u64)> = Vec::new();
    for operation in operations {
        let failed = matches!(
            operation.ended,
            Ended::Failed | Ended::Refused | Ended::Touched(false)
        );
        match operation.did {
            Did::Write {
                value,
                ttl_ms: Some(ttl_ms),
            } => {
                expires_us.insert(value, ran_by_us(operation) + ttl_ms * 1_000);
            }
            Did::Touch { ttl_ms } if !failed => {
                touches.push((operation.invoked_us, ran_by_us(operation) + ttl_ms * 1_000));
            }
            _ => {}
        }
    }
    let mut violations = Vec::new();
    for operation in operations {
        let Ended::Read(Some((value, _))) = operation.ended else {
            continue;
        };
        let Some(&written_us) = expires_us.get(&value) else {
            continue;
        };
        let touched = touches
            .iter()
            .filter(|(from_us, _)| *from_us < operation.returned_us);
        let expires_us = touched.map(|(_, until_us)| *until_us).fold(written_us, u64::max);
        if operation.invoked_us > expires_us + ROUNDING_US {
            let what = format!(
                "key {key}: the value {value} was read after {} us; it expired at {expires_us} us at the latest",
                operation.invoked_us
            );
            violations.push(Violation {
                invariant: "H5",
                what,
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use softstore_sharding::Version;

    use super::*;

    fn operation(did: Did, invoked_us: u64, returned_us: u64, ended: Ended) -> Operation {
        Operation {
            client: 0,
            key: 0,
            did,
            invoked_us,
            returned_us,
            deadline_us: 50_000,
            ended,
        }
    }

    /// A value that lives for 10 ms.
    fn write(ended: Ended) -> Operation {
        operation(
            Did::Write {
                value: 1,
                ttl_ms: Some(10),
            },
            0,
            1_000,
            ended,
        )
    }

    fn read(from_us: u64) -> Operation {
        operation(
            Did::Read,
            from_us,
            from_us + 100,
            Ended::Read(Some((1, Version::new(1)))),
        )
    }

    fn broken(operations: Vec<Operation>) -> usize {
        check(&History {
            operations,
            ..History::default()
        })
        .len()
    }

    #[test]
    fn h5_in_time_is_fine_and_late_is_found() {
        let written = write(Ended::Written(Version::new(1)));
        assert_eq!(broken(vec![written, read(12_000)]), 0);
        assert_eq!(broken(vec![written, read(14_000)]), 1);
        // It may have begun as late as its deadline.
        assert_eq!(broken(vec![write(Ended::Unknown), read(61_000)]), 0);
        assert_eq!(broken(vec![write(Ended::Unknown), read(63_000)]), 1);
    }

    #[test]
    fn h5_a_touch_gives_more_time_but_not_for_ever() {
        let written = write(Ended::Written(Version::new(1)));
        let touch = operation(Did::Touch { ttl_ms: 20 }, 5_000, 6_000, Ended::Touched(true));
        assert_eq!(broken(vec![written, touch, read(27_000)]), 0);
        assert_eq!(broken(vec![written, touch, read(29_000)]), 1);
        let in_vain = operation(Did::Touch { ttl_ms: 20 }, 5_000, 6_000, Ended::Touched(false));
        assert_eq!(broken(vec![written, in_vain, read(27_000)]), 1);
    }
}
