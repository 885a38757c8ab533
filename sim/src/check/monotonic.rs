//! H2, by versions: no read goes back. Once any operation has told a version of a key, whoever served it, no read that begins
//! later returns an older one; a miss is always allowed.
//!
//! Stricter than `staleness` in one thing: of two concurrent writes that checker lets either be the newer for each reader. The
//! versions that nodes tell say which one was (H4), and all readers have to see them in that order.

use super::floors::Floors;
use super::{Violation, by_key};
use crate::history::{Ended, History, Operation};

/// What in a history goes back.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    by_key(history)
        .into_iter()
        .flat_map(|(key, operations)| check_key(key, &operations))
        .collect()
}

fn check_key(key: usize, operations: &[&Operation]) -> Vec<Violation> {
    let told = operations
        .iter()
        .filter(|operation| operation.overtaken_us.is_none());
    let told = told.filter_map(|operation| {
        let version = match operation.ended {
            Ended::Written(version) | Ended::Added { version, .. } | Ended::Read(Some((_, version))) => {
                version
            }
            _ => return None,
        };
        Some((operation.returned_us, version))
    });
    let floors = Floors::of(told);
    let mut violations = Vec::new();
    for operation in operations {
        let Ended::Read(Some((_, version))) = operation.ended else {
            continue;
        };
        let from_us = operation.invoked_us;
        if let Some((by_us, floor)) = floors.before(from_us).filter(|(_, floor)| *floor > version) {
            let (version, floor) = (version.get(), floor.get());
            violations.push(Violation {
                invariant: "H2",
                what: format!(
                    "key {key}: a read begun at {from_us} us returned version {version}, though {floor} was told by \
                     {by_us} us"
                ),
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use softstore_sharding::Version;

    use super::*;
    use crate::check::made::operation;
    use crate::history::Did;

    fn read(version: u64, from_us: u64, to_us: u64) -> Operation {
        let found = Some((i64::try_from(version).unwrap(), Version::new(version)));
        operation(Did::Read, from_us, to_us, Ended::Read(found))
    }

    fn goes_back(operations: Vec<Operation>) -> usize {
        check(&History {
            operations,
            ..History::default()
        })
        .len()
    }

    #[test]
    fn h2_reads_that_go_back_are_found() {
        assert_eq!(
            goes_back(vec![read(1, 0, 10), read(2, 5, 15), read(2, 20, 30)]),
            0
        );
        // Both under way at once: in either order.
        assert_eq!(goes_back(vec![read(2, 0, 10), read(1, 10, 20)]), 0);
        assert_eq!(goes_back(vec![read(2, 0, 10), read(1, 11, 20)]), 1);
        let miss = operation(Did::Read, 11, 20, Ended::Read(None));
        assert_eq!(goes_back(vec![read(2, 0, 10), miss]), 0);
        let written = operation(
            Did::Add(1),
            0,
            10,
            Ended::Added {
                number: 1,
                version: Version::new(3),
            },
        );
        assert_eq!(goes_back(vec![written, read(2, 20, 30)]), 1);
    }
}
