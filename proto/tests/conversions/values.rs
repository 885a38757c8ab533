//! Arbitrary values of the cores' message types.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use softstore_proto::limits::READ_LEASE_MS;
use softstore_sharding::generation::GENERATION_NUMBER_MAX;
use softstore_sharding::session::{
    AssignerMessage, AssignmentUpdate, ClaimPhase, DrainReport, FORMER_LIVES_MAX, HOT_KEY_BYTES_MAX,
    HandoffOutcome, HandoffReport, Hello, HotKeyLoad, LEASE_MS_MAX, LastAnswer, LoadReport, NodeMessage,
    Offer, Offers, RangeClaim, ServingReport, SliceLoad, VersionRange, WhyUnserved,
};
use softstore_sharding::{
    Assignment, AssignmentDiff, ClusterId, ClusterName, Founding, FrequencyClass, Generation, Incarnation,
    Life, NodeEntry, NodeId, NodeState, Peer, ProcessId, Provider, REVIVAL_MS_MAX, RangeAssignment, Readers,
    Slice, SliceKey, Version,
};
use softstore_transfer::message::{
    Entry, FillAnswer, FillKey, FillRequest, Invalidate, LeaseGrant, LeaseReply, LeaseRequest, PeekAnswer,
    PeekKey, PeekRequest, PullRequest, Release, Take, TakeAnswer, TakeRange, TakeReply, TakenRange, Verdict,
};

pub(crate) fn generation() -> impl Strategy<Value = Generation> {
    (1..=GENERATION_NUMBER_MAX, any::<u64>()).prop_map(|(number, assigner)| Generation {
        number,
        assigner: Incarnation::new(assigner),
    })
}

pub(crate) fn slice() -> impl Strategy<Value = Slice> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(a, b)| Slice::between(SliceKey::new(a.min(b)), SliceKey::new(a.max(b))).expect("ordered"))
}

fn life() -> impl Strategy<Value = Life> {
    ("[A-Za-z0-9._-]{1,12}", 1..=u64::MAX).prop_map(|(name, incarnation)| Life {
        node: NodeId::new(&name).expect("allowed characters"),
        incarnation: Incarnation::new(incarnation),
    })
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "[ -~]{0,20}".prop_map(Arc::from)
}

fn peer() -> impl Strategy<Value = Peer> {
    (life(), text()).prop_map(|(life, address)| Peer { life, address })
}

fn provider() -> impl Strategy<Value = Provider> {
    (life(), generation()).prop_map(|(life, since)| Provider { life, since })
}

fn entry_of_node() -> impl Strategy<Value = (NodeId, NodeEntry)> {
    let state = prop_oneof![
        Just(NodeState::Joining),
        Just(NodeState::Serving),
        Just(NodeState::Draining)
    ];
    (life(), process(), text(), text(), text(), state).prop_map(
        |(life, process, address, http_address, zone, state)| {
            let entry = NodeEntry {
                incarnation: life.incarnation,
                process,
                address,
                http_address,
                zone,
                state,
            };
            (life.node, entry)
        },
    )
}

/// A range's assignment whose `since` is `ceiling` and whose providers are older, newest first.
fn range(ceiling: u64) -> impl Strategy<Value = RangeAssignment> {
    let readers = (vec(life(), 0..4), any::<bool>());
    (life(), vec(life(), 0..4), readers).prop_map(move |(owner, providers, (replicas, leases_out))| {
        let replicas: BTreeMap<NodeId, Life> = replicas
            .into_iter()
            .filter(|replica| *replica != owner)
            .map(|replica| (replica.node.clone(), replica))
            .collect();
        let since = |age: u64| Generation {
            number: ceiling - age,
            assigner: Incarnation::new(9),
        };
        let awaited = |life: &Life| Provider {
            life: life.clone(),
            since: since(1),
        };
        let awaits = providers.first().filter(|life| **life != owner).map(awaited);
        let awaits = awaits.into_iter().filter(|_| leases_out).collect();
        let providers = providers.into_iter().zip(1..);
        RangeAssignment {
            owner,
            since: since(0),
            providers: providers
                .map(|(life, age)| Provider {
                    life,
                    since: since(age),
                })
                .collect(),
            readers: Readers {
                replicas: replicas.into_values().collect(),
                leases_out,
            },
            awaits,
        }
    })
}

/// Adjoining slices from `cuts`, each with a range.
fn ranges() -> impl Strategy<Value = Vec<(Slice, RangeAssignment)>> {
    vec((1..=u64::MAX, range(1_000)), 1..8).prop_map(|cuts| {
        let mut cuts: BTreeMap<u64, RangeAssignment> = cuts.into_iter().collect();
        let first = cuts.pop_first().expect("at least one").1;
        cuts.insert(0, first);
        let lows: Vec<u64> = cuts.keys().copied().collect();
        cuts.into_values()
            .enumerate()
            .map(|(index, range)| {
                let high = lows.get(index + 1).map(|&high| SliceKey::new(high));
                (
                    Slice::new(SliceKey::new(lows[index]), high).expect("ascending"),
                    range,
                )
            })
            .collect()
    })
}

pub(crate) fn assignment() -> impl Strategy<Value = Assignment> {
    let nodes = vec(entry_of_node(), 0..5);
    let terms = (lease_ms(), 0..=REVIVAL_MS_MAX, founding());
    (1_000..GENERATION_NUMBER_MAX, ranges(), nodes, terms).prop_map(
        |(number, ranges, nodes, (lease_ms, revival_ms, founding))| {
            let generation = Generation {
                number,
                assigner: Incarnation::new(u64::MAX),
            };
            let assignment = Assignment::new(generation, ranges, nodes.into_iter().collect());
            let assignment = assignment.expect("valid").under_leases(lease_ms);
            assignment.with_revival_ms(revival_ms).of_founding(founding)
        },
    )
}

fn diff() -> impl Strategy<Value = AssignmentDiff> {
    (
        generation(),
        generation(),
        ranges(),
        vec(entry_of_node(), 0..5),
        vec(life(), 0..4),
        (lease_ms(), 0..=REVIVAL_MS_MAX, founding()),
    )
        .prop_map(
            |(base, next, ranges, joined, left, (lease_ms, revival_ms, founding))| AssignmentDiff {
                base,
                next,
                ranges: ranges.into_iter().skip(1).collect(),
                joined,
                left: left.into_iter().map(|life| life.node).collect(),
                lease_ms,
                founding,
                revival_ms,
            },
        )
}

pub(crate) fn update() -> impl Strategy<Value = AssignmentUpdate> {
    prop_oneof![
        assignment().prop_map(|full| AssignmentUpdate::Full(Arc::new(full))),
        diff().prop_map(|diff| AssignmentUpdate::Diff(Arc::new(diff))),
    ]
}

fn versions() -> impl Strategy<Value = VersionRange> {
    (any::<u32>(), any::<u32>()).prop_map(|(a, b)| VersionRange {
        min: a.min(b),
        max: a.max(b),
    })
}

fn claim() -> impl Strategy<Value = RangeClaim> {
    let phase = prop_oneof![
        Just(ClaimPhase::NotStarted),
        Just(ClaimPhase::Serving),
        life().prop_map(ClaimPhase::Pulling),
        life().prop_map(ClaimPhase::Fenced),
        vec(provider(), 1..3).prop_map(ClaimPhase::Awaiting),
    ];
    (slice(), generation(), vec(provider(), 0..3), phase).prop_map(|(slice, since, providers, phase)| {
        RangeClaim {
            slice,
            since,
            providers,
            phase,
        }
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    (
        peer(),
        text(),
        text(),
        any::<u64>(),
        any::<bool>(),
        option::of(generation()),
        vec(claim(), 0..4),
        versions(),
        (lease_ms(), option::of(offers()), process(), cluster()),
    )
        .prop_map(
            |(peer, http_address, zone, capacity_bytes, draining, held, claims, versions, terms)| Hello {
                peer,
                http_address,
                zone,
                capacity_bytes,
                draining,
                generation: held.unwrap_or(Generation::NONE),
                claims,
                versions,
                lease_ms: terms.0,
                offers: terms.1,
                process: terms.2,
                cluster: terms.3,
            },
        )
}

fn process() -> impl Strategy<Value = Option<ProcessId>> {
    any::<u64>().prop_map(ProcessId::new)
}

fn founding() -> impl Strategy<Value = Option<Founding>> {
    option::of(any::<u128>()).prop_map(|bits| bits.and_then(Founding::new))
}

fn cluster() -> impl Strategy<Value = ClusterId> {
    let name =
        option::of("[a-z0-9._-]{1,128}").prop_map(|name| name.and_then(|name| ClusterName::new(&name).ok()));
    (name, founding()).prop_map(|(name, founding)| ClusterId { name, founding })
}

fn offers() -> impl Strategy<Value = Offers> {
    let offer = (slice(), generation(), option::of((life(), generation())));
    let offer = offer.prop_map(|(slice, since, taker)| Offer { slice, since, taker });
    let last = option::of((any::<u64>(), any::<u64>()));
    (vec(life(), 1..=FORMER_LIVES_MAX), last, vec(offer, 0..4)).prop_map(|(former, last, ranges)| Offers {
        former,
        last_answer: last.map(|(sequence, ms_ago)| LastAnswer { sequence, ms_ago }),
        ranges,
    })
}

fn lease_ms() -> impl Strategy<Value = Option<u64>> {
    option::of(1..=LEASE_MS_MAX)
}

fn serving() -> impl Strategy<Value = ServingReport> {
    let why = prop_oneof![
        Just(WhyUnserved::Taking),
        Just(WhyUnserved::GivenAway),
        Just(WhyUnserved::Unconfirmed),
    ];
    option::of((1..=u64::MAX, slice(), why)).prop_map(|unserved| match unserved {
        None => ServingReport::default(),
        Some((unserved, slice, why)) => ServingReport {
            unserved,
            first: Some((slice, why)),
        },
    })
}

fn drain() -> impl Strategy<Value = DrainReport> {
    any::<[u64; 3]>().prop_map(|[entries_held, entries_given, bytes_given]| DrainReport {
        entries_held,
        entries_given,
        bytes_given,
    })
}

fn load() -> impl Strategy<Value = LoadReport> {
    let rates = || [0.0..1e9, 0.0..1e9, 0.0..1e9, 0.0..1e9];
    let slice_load = (slice(), rates(), any::<u64>()).prop_map(|(slice, rates, bytes)| SliceLoad {
        slice,
        operations_per_second: rates[0],
        bytes,
        bytes_per_second: rates[1],
        hits_per_second: rates[2],
        cpu_us_per_second: rates[3],
    });
    let key = (vec(any::<u8>(), 0..=HOT_KEY_BYTES_MAX), 0..60_000u16);
    let hot_key = (any::<u64>(), rates(), key).prop_map(|(at, rates, (key, more))| HotKeyLoad {
        at: SliceKey::new(at),
        operations_per_second: rates[0],
        error_per_second: rates[1],
        key_bytes: u16::try_from(key.len()).expect("short") + more,
        key,
    });
    let lists = (
        vec(slice_load, 0..4),
        vec(hot_key, 0..4),
        vec("[ -~]{0,40}", 0..4),
    );
    let said = (option::of(serving()), option::of(drain()));
    let all = (any::<[u64; 8]>(), rates(), 0..=100u8, lists, said);
    all.prop_map(
        |(n, rates, busy_percent, (slices, hot_keys, conditions), (serving, drain))| LoadReport {
            entries: n[0],
            bytes: n[1],
            gets: n[2],
            hits: n[3],
            ranges_taking: n[4],
            ranges_giving: n[5],
            entries_imported: n[6],
            bytes_imported: n[7],
            operations_per_second: rates[0],
            bytes_per_second: rates[1],
            cpu_us_per_second: rates[2],
            busy_percent,
            slices,
            hot_keys,
            conditions,
            serving,
            drain,
        },
    )
}

fn handoff() -> impl Strategy<Value = HandoffReport> {
    let outcome = prop_oneof![
        Just(HandoffOutcome::Started),
        Just(HandoffOutcome::Completed),
        Just(HandoffOutcome::GaveUp)
    ];
    (slice(), generation(), outcome).prop_map(|(slice, since, outcome)| HandoffReport {
        slice,
        since,
        outcome,
    })
}

pub(crate) fn node_message() -> impl Strategy<Value = NodeMessage> {
    prop_oneof![
        hello().prop_map(NodeMessage::Hello),
        (any::<u64>(), generation(), load(), lease_ms()).prop_map(
            |(sequence, generation, load, lease_ms)| {
                NodeMessage::Heartbeat {
                    sequence,
                    generation,
                    load,
                    lease_ms,
                }
            }
        ),
        Just(NodeMessage::NeedFull),
        Just(NodeMessage::Draining),
        Just(NodeMessage::Goodbye),
        vec(handoff(), 0..5).prop_map(NodeMessage::Handoffs),
        option::of(assignment()).prop_map(|held| NodeMessage::HeldAssignment(held.map(Arc::new))),
        (life(), vec(any::<u8>(), 0..50)).prop_map(|(to, payload)| NodeMessage::Relay { to, payload }),
    ]
}

pub(crate) fn assigner_message() -> impl Strategy<Value = AssignerMessage> {
    prop_oneof![
        update().prop_map(AssignerMessage::Update),
        (any::<u64>(), generation(), lease_ms()).prop_map(|(sequence, generation, lease_ms)| {
            AssignerMessage::HeartbeatAnswer {
                sequence,
                generation,
                lease_ms,
            }
        }),
        Just(AssignerMessage::YouAreDead),
        Just(AssignerMessage::FetchAssignment),
        Just(AssignerMessage::Drain),
        Just(AssignerMessage::NoTaker),
        (life(), vec(any::<u8>(), 0..50))
            .prop_map(|(from, payload)| AssignerMessage::Relay { from, payload }),
        "[ -~]{0,40}".prop_map(|reason| AssignerMessage::Refused { reason }),
        text().prop_map(|holder| AssignerMessage::NameTaken { holder }),
        cluster().prop_map(|cluster| AssignerMessage::OtherCluster { cluster }),
    ]
}

pub(crate) fn take() -> impl Strategy<Value = Take> {
    let range = (slice(), generation(), generation()).prop_map(|(slice, since, from)| TakeRange {
        slice,
        since,
        from,
    });
    (life(), peer(), vec(range, 0..5)).prop_map(|(to, taker, ranges)| Take { to, taker, ranges })
}

pub(crate) fn take_reply() -> impl Strategy<Value = TakeReply> {
    let verdict = prop_oneof![
        any::<u64>().prop_map(|next| Verdict::Fenced {
            next_version: Version::new(next)
        }),
        Just(Verdict::NotStarted),
        (peer(), generation()).prop_map(|(taker, since)| Verdict::FencedTo { taker, since }),
        generation().prop_map(|since| Verdict::Superseded { since }),
        Just(Verdict::Searching),
        Just(Verdict::Dropped),
    ];
    let answer =
        (slice(), generation(), generation(), verdict).prop_map(|(slice, since, from, verdict)| TakeAnswer {
            slice,
            since,
            from,
            verdict,
        });
    (life(), versions(), vec(answer, 0..5)).prop_map(|(from, chunk_versions, answers)| TakeReply {
        from,
        chunk_versions,
        answers,
    })
}

fn taken() -> impl Strategy<Value = TakenRange> {
    (slice(), generation()).prop_map(|(slice, since)| TakenRange { slice, since })
}

fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), length).prop_map(Bytes::from)
}

pub(crate) fn pull() -> impl Strategy<Value = PullRequest> {
    (life(), life(), vec(taken(), 0..5), bytes(0..40), versions()).prop_map(
        |(to, taker, ranges, cursor, chunk_versions)| PullRequest {
            to,
            taker,
            ranges,
            cursor,
            chunk_versions,
        },
    )
}

pub(crate) fn release() -> impl Strategy<Value = Release> {
    (life(), life(), vec(taken(), 0..5)).prop_map(|(to, taker, ranges)| Release { to, taker, ranges })
}

pub(crate) fn peek() -> impl Strategy<Value = PeekRequest> {
    let key = (bytes(1..40), generation()).prop_map(|(key, since)| PeekKey { key, since });
    (life(), life(), vec(key, 0..5)).prop_map(|(to, taker, keys)| PeekRequest { to, taker, keys })
}

fn entry() -> impl Strategy<Value = Entry> {
    (
        bytes(1..40),
        bytes(0..40),
        any::<u64>(),
        option::of(any::<u64>()),
        0..FrequencyClass::COUNT,
    )
        .prop_map(|(key, value, version, ttl_ms, class)| Entry {
            key,
            value,
            version: Version::new(version),
            ttl_ms,
            class: FrequencyClass::clamped(class),
        })
}

pub(crate) fn peek_answer() -> impl Strategy<Value = PeekAnswer> {
    prop_oneof![
        entry().prop_map(PeekAnswer::Found),
        Just(PeekAnswer::Absent),
        Just(PeekAnswer::Unknown),
        Just(PeekAnswer::Gone)
    ]
}

pub(crate) fn lease_request() -> impl Strategy<Value = LeaseRequest> {
    (life(), life(), vec(taken(), 0..5)).prop_map(|(to, reader, ranges)| LeaseRequest { to, reader, ranges })
}

pub(crate) fn lease_reply() -> impl Strategy<Value = LeaseReply> {
    let grant = (slice(), generation(), any::<u64>(), 1..=READ_LEASE_MS);
    let grant = grant.prop_map(|(slice, since, number, lease_ms)| LeaseGrant {
        slice,
        since,
        number,
        lease_ms,
    });
    (life(), vec(grant, 0..5)).prop_map(|(from, grants)| LeaseReply { from, grants })
}

pub(crate) fn fill() -> impl Strategy<Value = FillRequest> {
    let key = (bytes(1..40), any::<u64>()).prop_map(|(key, number)| FillKey { key, number });
    (life(), life(), vec(key, 0..5)).prop_map(|(to, reader, keys)| FillRequest { to, reader, keys })
}

pub(crate) fn fill_answer() -> impl Strategy<Value = FillAnswer> {
    prop_oneof![
        (entry(), any::<bool>()).prop_map(|(entry, may_keep)| FillAnswer::Found { entry, may_keep }),
        Just(FillAnswer::Absent),
        Just(FillAnswer::NotLent)
    ]
}

pub(crate) fn invalidate() -> impl Strategy<Value = Invalidate> {
    let key = any::<u64>().prop_map(SliceKey::new);
    (life(), life(), vec(key, 0..5), vec(slice(), 0..5)).prop_map(|(to, owner, keys, revoked)| Invalidate {
        to,
        owner,
        keys,
        revoked,
    })
}
