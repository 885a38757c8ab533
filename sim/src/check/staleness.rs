//! H2 and H3: once a write or delete is acknowledged, no read returns a value older than it. A miss is always allowed.
//!
//! What is known of the order. A write took effect between its invocation and its acknowledgement; one of unknown outcome,
//! at any time after its invocation, at most once; a read that returned its value is a proof that it had by then. Of two
//! writes the one that surely took effect before the other began is the older. Concurrent ones may stand in either order.
//!
//! An addition is a read and a write: the number it made, less what it added, is the number it found.

use std::collections::BTreeMap;

use super::{Violation, by_key};
use crate::history::{Did, Ended, History, Operation};

/// What is known of one write or removal.
#[derive(Clone, Copy, Debug)]
struct Effect {
    from_us: u64,
    /// By then it had surely happened; `u64::MAX` if that is not known.
    by_us: u64,
    /// It was carried out where a newer owner served already: it hides nothing unless it is seen.
    is_loose: bool,
}

impl Effect {
    fn of(operation: &Operation, is_known: bool) -> Self {
        let by_us = if is_known { operation.returned_us } else { u64::MAX };
        match operation.overtaken_us {
            // Older than all that was done there.
            Some(overtaken_us) => Self {
                from_us: overtaken_us.min(operation.invoked_us),
                by_us: overtaken_us,
                is_loose: true,
            },
            None => Self {
                from_us: operation.invoked_us,
                by_us,
                is_loose: false,
            },
        }
    }
}

/// A value that was seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    value: i64,
    from_us: u64,
    to_us: u64,
}

/// What in a history breaks H2.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    by_key(history)
        .into_iter()
        .flat_map(|(key, operations)| check_key(key, &operations))
        .collect()
}

fn check_key(key: usize, operations: &[&Operation]) -> Vec<Violation> {
    let mut writes: BTreeMap<i64, Effect> = BTreeMap::new();
    let mut removals: Vec<Effect> = Vec::new();
    let mut seen: Vec<Seen> = Vec::new();
    // A sum that nobody was told of may be found by others.
    let mut made_up_allowed = false;
    for operation in operations {
        let (from_us, to_us) = (operation.invoked_us, operation.returned_us);
        let unknown = matches!(operation.ended, Ended::Unknown | Ended::Open);
        let is_loose = operation.overtaken_us.is_some();
        match (operation.did, operation.ended) {
            (Did::Write { value, .. }, Ended::Written(_)) => {
                writes.insert(value, Effect::of(operation, true));
            }
            (Did::Write { value, .. }, _) if unknown => {
                writes.insert(value, Effect::of(operation, false));
            }
            (Did::Add(delta), Ended::Added { number, .. }) => {
                writes.insert(number, Effect::of(operation, true));
                if number != delta && !is_loose {
                    seen.push(Seen {
                        value: number - delta,
                        from_us,
                        to_us,
                    });
                }
            }
            (Did::Add(_), _) if unknown => made_up_allowed = true,
            (Did::Remove, Ended::Removed) => removals.push(Effect::of(operation, true)),
            (Did::Read, Ended::Read(Some((value, _)))) => seen.push(Seen {
                value,
                from_us,
                to_us,
            }),
            _ => {}
        }
    }
    // To have been seen is to have happened.
    let mut effects: Vec<Effect> = Vec::new();
    for Seen { value, to_us, .. } in &seen {
        match writes.get_mut(value) {
            Some(write) if write.is_loose => effects.push(Effect {
                by_us: *to_us,
                ..*write
            }),
            Some(write) => write.by_us = write.by_us.min(*to_us),
            None => {}
        }
    }
    let firm = writes.values().chain(&removals).filter(|effect| !effect.is_loose);
    effects.extend(firm);
    effects.retain(|effect| effect.by_us < u64::MAX);
    effects.sort_by_key(|effect| effect.by_us);
    // For each moment: the latest beginning among all that had surely happened by then.
    let mut latest_us = 0;
    let floors: Vec<(u64, u64)> = effects
        .iter()
        .map(|effect| {
            latest_us = latest_us.max(effect.from_us);
            (effect.by_us, latest_us)
        })
        .collect();
    let mut violations = Vec::new();
    for operation in operations {
        if matches!((operation.did, operation.ended), (Did::Add(_), Ended::Refused)) {
            let at_us = operation.returned_us;
            violations.push(Violation {
                invariant: "H2",
                what: format!(
                    "key {key}: what stood there at {at_us} us is no number, and nobody wrote such a thing"
                ),
            });
        }
    }
    for Seen {
        value,
        from_us,
        to_us,
    } in seen
    {
        let what = match writes.get(&value) {
            None if made_up_allowed => continue,
            None => format!("key {key}: the value {value} at {to_us} us was never written"),
            Some(write) if write.from_us > to_us => {
                format!("key {key}: the value {value} at {to_us} us was written later")
            }
            Some(write) => {
                let before = floors.partition_point(|(by_us, _)| *by_us < from_us);
                let Some(&(_, floor_us)) = before.checked_sub(1).and_then(|index| floors.get(index)) else {
                    continue;
                };
                if write.by_us >= floor_us {
                    continue;
                }
                format!(
                    "key {key}: the value {value}, in place by {} us, was seen between {from_us} and {to_us} us, after \
                     a change that began at {floor_us} us had been acknowledged or seen",
                    write.by_us
                )
            }
        };
        violations.push(Violation {
            invariant: "H2",
            what,
        });
    }
    violations
}

#[cfg(test)]
mod tests {
    use softstore_sharding::Version;

    use super::*;
    use crate::check::made::operation;

    const V: Version = Version::new(1);

    fn write(value: i64, from_us: u64, to_us: u64) -> Operation {
        operation(
            Did::Write {
                value,
                ttl_ms: None,
                expected: None,
            },
            from_us,
            to_us,
            Ended::Written(V),
        )
    }

    fn unknown(value: i64, from_us: u64, to_us: u64) -> Operation {
        operation(
            Did::Write {
                value,
                ttl_ms: None,
                expected: None,
            },
            from_us,
            to_us,
            Ended::Unknown,
        )
    }

    fn read(value: i64, from_us: u64, to_us: u64) -> Operation {
        operation(Did::Read, from_us, to_us, Ended::Read(Some((value, V))))
    }

    fn miss(from_us: u64, to_us: u64) -> Operation {
        operation(Did::Read, from_us, to_us, Ended::Read(None))
    }

    fn remove(from_us: u64, to_us: u64) -> Operation {
        operation(Did::Remove, from_us, to_us, Ended::Removed)
    }

    fn add(delta: i64, number: i64, from_us: u64, to_us: u64) -> Operation {
        operation(
            Did::Add(delta),
            from_us,
            to_us,
            Ended::Added { number, version: V },
        )
    }

    fn stale(operations: Vec<Operation>) -> usize {
        check(&History {
            operations,
            ..History::default()
        })
        .len()
    }

    #[test]
    fn h2_what_is_allowed() {
        assert_eq!(stale(vec![write(1, 0, 10), write(2, 20, 30), read(2, 40, 50)]), 0);
        // Misses, whatever was written.
        assert_eq!(stale(vec![write(1, 0, 10), miss(20, 30), read(1, 40, 50)]), 0);
        // Concurrent writes, in either order.
        assert_eq!(stale(vec![write(1, 0, 30), write(2, 10, 20), read(1, 40, 50)]), 0);
        assert_eq!(stale(vec![write(1, 0, 30), write(2, 10, 20), read(2, 40, 50)]), 0);
        // A read concurrent with the newer write.
        assert_eq!(stale(vec![write(1, 0, 10), write(2, 20, 40), read(1, 25, 50)]), 0);
        // A write of unknown outcome may take effect later.
        assert_eq!(
            stale(vec![
                unknown(1, 0, 10),
                write(2, 20, 30),
                read(2, 40, 50),
                read(1, 60, 70)
            ]),
            0
        );
        // Deleted and written again.
        assert_eq!(
            stale(vec![
                write(1, 0, 10),
                remove(20, 30),
                write(2, 40, 50),
                read(2, 60, 70)
            ]),
            0
        );
    }

    #[test]
    fn h2_older_than_acknowledged_is_found() {
        assert_eq!(stale(vec![write(1, 0, 10), write(2, 20, 30), read(1, 40, 50)]), 1);
        assert_eq!(
            stale(vec![
                write(1, 0, 10),
                write(2, 20, 30),
                miss(32, 34),
                read(1, 40, 50)
            ]),
            1
        );
    }

    #[test]
    fn h3_a_resurrected_delete_is_found() {
        assert_eq!(stale(vec![write(1, 0, 10), remove(20, 30), read(1, 40, 50)]), 1);
    }

    #[test]
    fn h2_what_was_seen_has_happened() {
        // The newer write is not acknowledged, but was seen.
        assert_eq!(
            stale(vec![
                write(1, 0, 10),
                unknown(2, 20, 30),
                read(2, 40, 50),
                read(1, 60, 70)
            ]),
            1
        );
        // The older one of unknown outcome was seen before the newer began: it takes effect only once.
        let once = vec![
            unknown(1, 0, 10),
            read(1, 12, 14),
            write(2, 20, 30),
            read(1, 40, 50),
        ];
        assert_eq!(stale(once), 1);
    }

    #[test]
    fn h2_values_from_nowhere_are_found() {
        assert_eq!(stale(vec![read(7, 40, 50)]), 1);
        assert_eq!(stale(vec![read(7, 0, 5), write(7, 10, 20)]), 1);
    }

    #[test]
    fn h2_a_sum_tells_what_it_was_added_to() {
        assert_eq!(
            stale(vec![add(5, 5, 0, 10), add(3, 8, 20, 30), add(4, 12, 40, 50)]),
            0
        );
        // Lost, and begun anew.
        assert_eq!(stale(vec![add(5, 5, 0, 10), add(3, 3, 20, 30)]), 0);
        // Added to what was no longer there.
        assert_eq!(
            stale(vec![add(5, 5, 0, 10), add(3, 8, 20, 30), add(4, 9, 40, 50)]),
            1
        );
        assert_eq!(
            stale(vec![add(5, 5, 0, 10), remove(20, 30), add(4, 9, 40, 50)]),
            1
        );
    }
}
