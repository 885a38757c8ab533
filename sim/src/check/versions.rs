//! H4: the versions of a key only grow, across owners and crashes.
//!
//! A write that began after another write, or a read that told a version, had returned gets a higher version than that.
//! And a read tells the version that its value was acknowledged with.
//!
//! A set at a version happens at most once for each version, and no other write's version lies between the one it
//! expected and the one it got.

use std::collections::BTreeMap;

use softstore_sharding::Version;

use super::floors::Floors;
use super::{Violation, by_key};
use crate::history::{Did, Ended, History, Operation};

/// What in a history breaks H4.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    by_key(history)
        .into_iter()
        .flat_map(|(key, operations)| check_key(key, &operations))
        .collect()
}

fn check_key(key: usize, operations: &[&Operation]) -> Vec<Violation> {
    let mut told: Vec<(u64, Version)> = Vec::new();
    let mut written: Vec<(u64, Version)> = Vec::new();
    let mut of_value: BTreeMap<i64, Version> = BTreeMap::new();
    for operation in operations {
        let (value, version) = match (operation.did, operation.ended) {
            (Did::Write { value, .. }, Ended::Written(version)) => (Some(value), version),
            (_, Ended::Added { number, version }) => (Some(number), version),
            (_, Ended::Read(Some((_, version)))) => (None, version),
            _ => continue,
        };
        of_value.extend(value.map(|value| (value, version)));
        if operation.overtaken_us.is_some() {
            continue;
        }
        if value.is_some() {
            written.push((operation.invoked_us, version));
        }
        told.push((operation.returned_us, version));
    }
    let mut violations = Vec::new();
    let mut complain = |what: String| {
        violations.push(Violation {
            invariant: "H4",
            what,
        })
    };
    let floors = Floors::of(told);
    for &(from_us, version) in &written {
        if let Some((by_us, floor)) = floors.before(from_us).filter(|(_, floor)| *floor >= version) {
            let (version, floor) = (version.get(), floor.get());
            complain(format!(
                "key {key}: a write begun at {from_us} us got version {version}, though {floor} was told by {by_us} us"
            ));
        }
    }
    let mut expected_once: BTreeMap<Version, Version> = BTreeMap::new();
    for operation in operations
        .iter()
        .filter(|operation| operation.overtaken_us.is_none())
    {
        let (
            Did::Write {
                expected: Some(expected),
                ..
            },
            Ended::Written(got),
        ) = (operation.did, operation.ended)
        else {
            continue;
        };
        let (from, to) = (expected.get(), got.get());
        if let Some(other) = expected_once.insert(expected, got) {
            let other = other.get();
            complain(format!(
                "key {key}: two sets at version {from} were applied, as {other} and as {to}"
            ));
        }
        let between = |(_, version): &&(u64, Version)| expected < *version && *version < got;
        if let Some((_, other)) = written.iter().find(between) {
            let other = other.get();
            complain(format!(
                "key {key}: a set at version {from} was applied as {to}, over a write with version {other}"
            ));
        }
    }
    for operation in operations {
        if let Ended::Read(Some((value, version))) = operation.ended
            && let Some(acknowledged) = of_value.get(&value).filter(|known| **known != version)
        {
            let (version, known, at_us) = (version.get(), acknowledged.get(), operation.returned_us);
            complain(format!(
                "key {key}: a read at {at_us} us tells version {version} of the value {value}, which got {known}"
            ));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::made::operation;

    fn write(value: i64, version: u64, from_us: u64, to_us: u64) -> Operation {
        let ended = Ended::Written(Version::new(version));
        let did = Did::Write {
            value,
            ttl_ms: None,
            expected: None,
        };
        operation(did, from_us, to_us, ended)
    }

    fn read(value: i64, version: u64, from_us: u64, to_us: u64) -> Operation {
        operation(
            Did::Read,
            from_us,
            to_us,
            Ended::Read(Some((value, Version::new(version)))),
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
    fn h4_growing_versions_and_concurrent_ones_are_fine() {
        assert_eq!(
            broken(vec![write(1, 5, 0, 10), write(2, 6, 20, 30), read(2, 6, 40, 50)]),
            0
        );
        assert_eq!(broken(vec![write(1, 6, 0, 30), write(2, 5, 10, 20)]), 0);
    }

    #[test]
    fn h4_a_version_that_does_not_grow_is_found() {
        assert_eq!(broken(vec![write(1, 5, 0, 10), write(2, 5, 20, 30)]), 1);
        assert_eq!(broken(vec![write(1, 5, 0, 10), write(2, 4, 20, 30)]), 1);
        assert_eq!(broken(vec![read(1, 5, 0, 10), write(2, 4, 20, 30)]), 1);
        let add = operation(
            Did::Add(1),
            20,
            30,
            Ended::Added {
                number: 1,
                version: Version::new(3),
            },
        );
        assert_eq!(broken(vec![write(9, 5, 0, 10), add]), 1);
    }

    fn set_at(expected: u64, version: u64, from_us: u64) -> Operation {
        let did = Did::Write {
            value: i64::try_from(version).unwrap(),
            ttl_ms: None,
            expected: Some(Version::new(expected)),
        };
        operation(did, from_us, from_us + 50, Ended::Written(Version::new(version)))
    }

    #[test]
    fn a_set_at_a_version_happens_once_and_replaces_what_it_expected() {
        assert_eq!(broken(vec![write(1, 5, 0, 10), set_at(5, 6, 20)]), 0);
        assert_eq!(
            broken(vec![write(1, 5, 0, 10), set_at(5, 6, 20), set_at(5, 7, 20)]),
            2
        );
        assert_eq!(
            broken(vec![write(1, 5, 0, 10), write(2, 6, 20, 30), set_at(5, 7, 20)]),
            1
        );
    }

    #[test]
    fn h4_another_version_of_the_same_value_is_found() {
        assert_eq!(broken(vec![write(1, 5, 0, 10), read(1, 6, 20, 30)]), 1);
    }
}
