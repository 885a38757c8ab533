//! The ideal cache: one LRU over all of a cluster's bytes, replaying the same sequence.
//!
//! It tells what memory alone costs. With a third of the nodes away, a third of the bytes is gone, and no transfer can make
//! up for it; what an ideal cache of the remaining bytes reaches is what a lossless transfer could reach. LRU, because
//! it is well understood and needs no tuning; it is no upper bound, and a cluster may do better than it.
//!
//! Bytes are those of key and value and a fixed overhead per entry, which is found so that the simulated entries weigh what the
//! cluster says that its entries weigh. Lifetimes are kept by intended moments; the warm-up takes no time.

use std::ops::Range;

use crate::pace::Rate;
use crate::record::{Outcome, Record};
use crate::request::{KeyIndex, Request, RequestKind, Sequence};

/// What is replayed, and what the cluster held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replayed<'a> {
    pub(crate) sequence: &'a Sequence,
    pub(crate) warm_up: u64,
    pub(crate) rate: Rate,
    /// Measured positions up to which is replayed.
    pub(crate) end: usize,
    /// What one entry costs beyond key and value.
    pub(crate) overhead_bytes: u64,
}

/// From this measured position on the cache has so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) from_position: u64,
    pub(crate) bytes: u64,
}

/// The records of the ideal cache (latencies are 0).
///
/// Requires: `rooms` in the order of their positions, the first at 0.
pub(crate) fn replay(replayed: Replayed<'_>, rooms: &[Room]) -> Vec<Option<Record>> {
    let mut cache = Lru::new(replayed.sequence, rooms.first().map_or(0, |room| room.bytes));
    for position in 0..replayed.warm_up {
        let request = replayed.sequence.at(position);
        cache.serve(request, replayed.cost_bytes(request), 0);
    }
    let mut rooms = rooms.iter().peekable();
    let mut records = Vec::with_capacity(replayed.end);
    for position in 0..replayed.end as u64 {
        while let Some(room) = rooms.next_if(|room| room.from_position <= position) {
            cache.resize(room.bytes);
        }
        let request = replayed.sequence.at(replayed.warm_up + position);
        let now_us = replayed.rate.due_us(position);
        let outcome = cache.serve(request, replayed.cost_bytes(request), now_us);
        records.push(Some(Record {
            outcome,
            latency_us: 0,
        }));
    }
    records
}

impl Replayed<'_> {
    fn cost_bytes(&self, request: Request) -> u64 {
        payload_bytes(self.sequence, request.value_bytes) + self.overhead_bytes
    }
}

fn payload_bytes(sequence: &Sequence, value_bytes: u32) -> u64 {
    u64::from(value_bytes) + sequence.key_length() as u64
}

/// What an entry costs a cluster beyond key and value, found from what it held before the measured position `at`.
pub(crate) fn overhead_bytes(
    sequence: &Sequence,
    positions: Range<u64>,
    state_bytes: u64,
    state_entries: u64,
) -> u64 {
    // Each entry costs 1: it holds as many as the cluster did, whatever their sizes.
    let mut cache = Lru::new(sequence, state_entries);
    let mut value_bytes = vec![0; sequence.keys() as usize];
    for position in positions {
        let request = sequence.at(position);
        cache.serve(request, 1, 0);
        value_bytes[request.key.index()] = request.value_bytes;
    }
    let held = (0..sequence.keys()).filter(|key| cache.entries[*key as usize].cost > 0);
    let (mut payload, mut entries) = (0, 0);
    for key in held {
        payload += payload_bytes(sequence, value_bytes[key as usize]);
        entries += 1;
    }
    let each = |bytes: u64, entries: u64| bytes.checked_div(entries).unwrap_or(0);
    each(state_bytes, state_entries).saturating_sub(each(payload, entries))
}

/// No key: the end of the list.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    newer: u32,
    older: u32,
    /// 0: not held.
    cost: u64,
    expires_us: u64,
}

/// Least recently used goes first. A doubly linked list over the dense keys.
#[derive(Debug)]
struct Lru {
    entries: Vec<Entry>,
    newest: u32,
    oldest: u32,
    held: u64,
    room: u64,
}

impl Lru {
    fn new(sequence: &Sequence, room: u64) -> Self {
        let empty = Entry {
            newer: NONE,
            older: NONE,
            cost: 0,
            expires_us: u64::MAX,
        };
        Self {
            entries: vec![empty; sequence.keys() as usize],
            newest: NONE,
            oldest: NONE,
            held: 0,
            room,
        }
    }

    /// Read-through: a get that misses sets.
    fn serve(&mut self, request: Request, cost: u64, now_us: u64) -> Outcome {
        let KeyIndex(key) = request.key;
        let entry = self.entries[request.key.index()];
        match request.kind {
            RequestKind::Get if entry.cost > 0 && entry.expires_us > now_us => {
                self.unlink(key);
                self.insert(key, entry.cost, entry.expires_us);
                Outcome::Hit
            }
            RequestKind::Delete => {
                self.unlink(key);
                Outcome::Applied
            }
            kind => {
                let expires_us = match request.ttl_ms {
                    0 => u64::MAX,
                    ttl_ms => now_us.saturating_add(ttl_ms.saturating_mul(1_000)),
                };
                self.unlink(key);
                self.insert(key, cost, expires_us);
                self.shrink();
                if kind == RequestKind::Get {
                    Outcome::Miss
                } else {
                    Outcome::Applied
                }
            }
        }
    }

    fn resize(&mut self, room: u64) {
        self.room = room;
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.held > self.room && self.oldest != NONE {
            self.unlink(self.oldest);
        }
    }

    /// Requires: the key is not held.
    fn insert(&mut self, key: u32, cost: u64, expires_us: u64) {
        let cost = cost.max(1);
        self.entries[key as usize] = Entry {
            newer: NONE,
            older: self.newest,
            cost,
            expires_us,
        };
        match self.newest {
            NONE => self.oldest = key,
            newest => self.entries[newest as usize].newer = key,
        }
        self.newest = key;
        self.held += cost;
    }

    /// Takes a key out, if it is held.
    fn unlink(&mut self, key: u32) {
        let Entry {
            newer, older, cost, ..
        } = self.entries[key as usize];
        if cost == 0 {
            return;
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        self.entries[key as usize].cost = 0;
        self.held -= cost;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::trace::{Detail, Trace};
    use crate::workload::WorkloadSpec;

    const KEY_BYTES: u64 = 24;
    const VALUE_BYTES: u32 = 76;
    const EACH: u64 = KEY_BYTES + VALUE_BYTES as u64;

    /// Requests of (key, kind), each value of the same size, and a lifetime in seconds (0: none).
    fn sequence(requests: &[(u32, RequestKind)], ttl_s: u32) -> Sequence {
        let trace = Trace {
            sequence: requests.iter().map(|(key, _)| KeyIndex(*key)).collect(),
            details: requests
                .iter()
                .map(|(_, kind)| Detail {
                    kind: *kind,
                    value_bytes: VALUE_BYTES,
                    ttl_s,
                })
                .collect(),
            object_ids: (0..8).collect(),
            largest_value_bytes: vec![VALUE_BYTES; 8],
        };
        let spec = WorkloadSpec {
            key_bytes: 24,
            ..WorkloadSpec::default()
        };
        Sequence::from_trace(trace, &spec, 1, 0)
    }

    fn gets(keys: &[u32]) -> Vec<(u32, RequestKind)> {
        keys.iter().map(|key| (*key, RequestKind::Get)).collect()
    }

    fn hits(sequence: &Sequence, rooms: &[Room]) -> Vec<bool> {
        let replayed = Replayed {
            sequence,
            warm_up: 0,
            rate: Rate { per_second: 1 },
            end: usize::try_from(sequence.length().unwrap()).unwrap(),
            overhead_bytes: 0,
        };
        let records = replay(replayed, rooms);
        records
            .iter()
            .map(|record| record.unwrap().outcome.is_hit())
            .collect()
    }

    fn room(from_position: u64, entries: u64) -> Room {
        Room {
            from_position,
            bytes: entries * EACH,
        }
    }

    /// Plan: three entries fit, later two, later three again. Shrinking loses the least recently read at once, and growing brings
    /// nothing back.
    #[test]
    fn less_room_loses_the_oldest_and_more_room_brings_nothing_back() {
        let sequence = sequence(&gets(&[0, 1, 2, 0, 0, 1, 2, 0, 1]), 0);
        let all = hits(&sequence, &[room(0, 3)]);
        assert_eq!(all, [false, false, false, true, true, true, true, true, true]);
        let shrunk = hits(&sequence, &[room(0, 3), room(4, 2), room(6, 3)]);
        assert_eq!(
            shrunk,
            [false, false, false, true, true, false, false, true, true]
        );
    }

    #[test]
    fn deletes_and_lifetimes_end_entries_and_sets_begin_them() {
        let get = |key| (key, RequestKind::Get);
        let requests = [
            (0, RequestKind::Set),
            get(0),
            (0, RequestKind::Delete),
            get(0),
            get(0),
        ];
        assert_eq!(
            hits(&sequence(&requests, 0), &[room(0, 4)])[1..],
            [true, false, false, true]
        );
        // One request a second: at 2 s it has expired.
        assert_eq!(
            hits(&sequence(&gets(&[0, 0, 0]), 2), &[room(0, 4)]),
            [false, true, false]
        );
    }

    #[test]
    fn the_overhead_is_what_the_cluster_counts_beyond_keys_and_values() {
        let sequence = sequence(&gets(&[0, 1, 2, 3, 4]), 0);
        assert_eq!(overhead_bytes(&sequence, 0..5, 3 * (EACH + 70), 3), 70);
        assert_eq!(overhead_bytes(&sequence, 0..5, 0, 0), 0);
    }

    proptest! {
        /// Plan: random gets in random room against a queue that is searched and sorted by hand.
        #[test]
        fn it_does_as_a_plain_queue(keys in prop::collection::vec(0u32..8, 1..60), entries in 1u64..6) {
            let mut queue = VecDeque::new();
            let expected: Vec<bool> = keys.iter().map(|key| {
                let hit = queue.iter().position(|held| held == key).map(|at| queue.remove(at)).is_some();
                queue.push_back(*key);
                if queue.len() as u64 > entries {
                    queue.pop_front();
                }
                hit
            }).collect();
            prop_assert_eq!(hits(&sequence(&gets(&keys), 0), &[room(0, entries)]), expected);
        }
    }
}
