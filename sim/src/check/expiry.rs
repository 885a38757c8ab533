//! H5: nothing outlives its TTL, however often it moves.
//!
//! A value written with a TTL expires at the latest that long after its write returned, or could last have begun; unless
//! a touch, even one of unknown outcome, may have given it more. A touch that was acknowledged after the value's write was
//! sets its TTL anew: what the value had before is forgotten, also what touches before that one gave it.

use std::collections::BTreeMap;

use super::{Violation, by_key};
use crate::history::{Did, Ended, History, Operation};

/// Clocks count in milliseconds: both ends may be rounded.
const ROUNDING_US: u64 = 2_000;

/// What in a history breaks H5.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    by_key(history)
        .into_iter()
        .flat_map(|(key, operations)| check_key(key, &operations, history.drift_per_mille))
        .collect()
}

/// The latest moment at which an operation can have run.
fn ran_by_us(operation: &Operation) -> u64 {
    match operation.ended {
        Ended::Open | Ended::Unknown => operation.deadline_us,
        _ => operation.returned_us,
    }
}

/// How long a TTL may last by a clock that is too slow.
fn lasts_us(ttl_ms: u64, drift_per_mille: u64) -> u64 {
    ttl_ms * 1_000 + ttl_ms * drift_per_mille * 2
}

/// A touch that was or may have been applied.
struct Touch {
    from_us: u64,
    by_us: u64,
    /// Until when it may let a value live.
    until_us: u64,
    is_sure: bool,
}

/// A write that was or may have been applied.
#[derive(Clone, Copy)]
struct Placed {
    /// By when it was surely in place; `u64::MAX` if that is not known.
    by_us: u64,
    /// Until when it lives by its own TTL.
    until_us: u64,
}

fn check_key(key: usize, operations: &[&Operation], drift_per_mille: u64) -> Vec<Violation> {
    let mut placed: BTreeMap<i64, Placed> = BTreeMap::new();
    let mut touches: Vec<Touch> = Vec::new();
    for operation in operations {
        let until_us = |ttl_ms| ran_by_us(operation) + lasts_us(ttl_ms, drift_per_mille);
        let is_firm = operation.overtaken_us.is_none();
        let failed = matches!(
            operation.ended,
            Ended::Failed | Ended::Refused | Ended::Touched(false)
        );
        match operation.did {
            Did::Write { value, ttl_ms, .. } => {
                let is_sure = is_firm && matches!(operation.ended, Ended::Written(_));
                let by_us = if is_sure { operation.returned_us } else { u64::MAX };
                let until_us = ttl_ms.map_or(u64::MAX, until_us);
                placed.insert(value, Placed { by_us, until_us });
            }
            Did::Touch { ttl_ms } if !failed => touches.push(Touch {
                from_us: operation.invoked_us,
                by_us: ran_by_us(operation),
                until_us: until_us(ttl_ms),
                is_sure: is_firm && operation.ended == Ended::Touched(true),
            }),
            _ => {}
        }
    }
    let mut violations = Vec::new();
    for operation in operations {
        let Ended::Read(Some((value, _))) = operation.ended else {
            continue;
        };
        let Some(&written) = placed.get(&value) else {
            continue;
        };
        let expires_us = expires_us(written, &touches, operation);
        if operation.invoked_us > expires_us.saturating_add(ROUNDING_US) {
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

/// The latest moment at which a value that was read may expire.
fn expires_us(written: Placed, touches: &[Touch], read: &Operation) -> u64 {
    let until_us = |touch: &Touch| touch.until_us;
    let begun = || touches.iter().filter(|touch| touch.from_us < read.returned_us);
    let given_us = begun().map(until_us).fold(written.until_us, u64::max);
    // Touches that surely found this value: what it had before them is forgotten.
    let anew = begun()
        .filter(|touch| touch.is_sure && touch.from_us > written.by_us && touch.by_us < read.invoked_us);
    let since_us = anew.map(|sure| {
        let not_before = begun().filter(|touch| touch.by_us >= sure.from_us);
        not_before.map(until_us).max().unwrap_or(u64::MAX)
    });
    since_us.fold(given_us, u64::min)
}

#[cfg(test)]
mod tests {
    use softstore_sharding::Version;

    use super::*;
    use crate::check::made;

    fn operation(did: Did, invoked_us: u64, returned_us: u64, ended: Ended) -> Operation {
        Operation {
            deadline_us: 50_000,
            ..made::operation(did, invoked_us, returned_us, ended)
        }
    }

    /// A value that lives for 10 ms.
    fn write(ended: Ended) -> Operation {
        operation(
            Did::Write {
                value: 1,
                ttl_ms: Some(10),
                expected: None,
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

    #[test]
    fn h5_a_touch_that_gives_less_time_is_held_to() {
        let forever = operation(
            Did::Write {
                value: 1,
                ttl_ms: None,
                expected: None,
            },
            0,
            1_000,
            Ended::Written(Version::new(1)),
        );
        let touch = operation(Did::Touch { ttl_ms: 20 }, 5_000, 6_000, Ended::Touched(true));
        assert_eq!(broken(vec![forever, read(99_000)]), 0);
        assert_eq!(broken(vec![forever, touch, read(27_000)]), 0);
        assert_eq!(broken(vec![forever, touch, read(29_000)]), 1);
        let unknown = operation(Did::Touch { ttl_ms: 20 }, 5_000, 6_000, Ended::Unknown);
        assert_eq!(broken(vec![forever, unknown, read(99_000)]), 0);
        let another = operation(Did::Touch { ttl_ms: 90 }, 5_500, 6_500, Ended::Touched(true));
        assert_eq!(broken(vec![forever, touch, another, read(90_000)]), 0);
    }
}
