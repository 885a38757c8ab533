//! Whatever the bytes are, a conversion ends in a value or a typed error (H8).

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use softstore_proto::cache::Moved;
use softstore_proto::limits::{
    KEY_BYTES_MAX, PROVIDERS_MAX, RANGES_MAX, RATE_PER_SECOND_MAX, READ_LEASE_MS, REPLICAS_MAX,
};
use softstore_proto::transfer::Relayed;
use softstore_proto::{WireError, v1};
use softstore_sharding::load::HOT_KEYS_MAX;
use softstore_sharding::session::{
    AssignerMessage, HOT_KEY_BYTES_MAX, Hello, LEASE_MS_MAX, LoadReport, NodeMessage,
};
use softstore_sharding::{Assignment, Generation, Incarnation, Life, Peer, Slice};
use softstore_transfer::message::{
    Entry, FillAnswer, FillRequest, Invalidate, LeaseGrant, LeaseReply, LeaseRequest, PeekAnswer,
    PeekRequest, PullRequest, Release, TAKE_RANGES_MAX, TAKEN_RANGES_MAX, Take, TakeRange, TakeReply,
    TakenRange,
};

use crate::values;

/// Decodes and converts; all that counts is that it returns.
fn probe<W: Message + Default, C: TryFrom<W>>(bytes: &[u8]) {
    if let Ok(wire) = W::decode(bytes) {
        drop(C::try_from(wire));
    }
}

fn probe_all(bytes: &[u8]) {
    probe::<v1::NodeMessage, NodeMessage>(bytes);
    probe::<v1::AssignerMessage, AssignerMessage>(bytes);
    probe::<v1::Assignment, Assignment>(bytes);
    probe::<v1::TakeRequest, Take>(bytes);
    probe::<v1::TakeReply, TakeReply>(bytes);
    probe::<v1::PullRequest, PullRequest>(bytes);
    probe::<v1::PeekRequest, PeekRequest>(bytes);
    probe::<v1::PeekAnswer, PeekAnswer>(bytes);
    probe::<v1::ReleaseRequest, Release>(bytes);
    probe::<v1::LeaseRequest, LeaseRequest>(bytes);
    probe::<v1::LeaseReply, LeaseReply>(bytes);
    probe::<v1::FillRequest, FillRequest>(bytes);
    probe::<v1::FillAnswer, FillAnswer>(bytes);
    probe::<v1::InvalidateRequest, Invalidate>(bytes);
    probe::<v1::Moved, Moved>(bytes);
    drop(Relayed::decode(bytes));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        probe_all(&bytes);
    }

    /// Valid messages with some bytes overwritten get much deeper than noise does.
    #[test]
    fn damaged_messages_never_panic(
        node in values::node_message(),
        assigner in values::assigner_message(),
        take in values::take_reply(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let encoded = [
            v1::NodeMessage::from(&node).encode_to_vec(),
            v1::AssignerMessage::from(&assigner).encode_to_vec(),
            v1::TakeReply::from(&take).encode_to_vec(),
        ];
        for mut bytes in encoded.into_iter().filter(|bytes| !bytes.is_empty()) {
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            probe_all(&bytes);
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    let life = v1::Life {
        node: "a".into(),
        incarnation: 1,
    };
    let since = v1::Generation {
        number: 5,
        assigner: 1,
    };
    let field = |error: WireError| match error {
        WireError::Missing { field } | WireError::Bad { field, .. } | WireError::Limit { field, .. } => field,
        WireError::Undecodable { message, .. } => message,
    };
    let refused = |result: Result<(), WireError>| field(result.expect_err("refused"));

    let nameless = v1::Life {
        node: String::new(),
        incarnation: 1,
    };
    assert_eq!(refused(Life::try_from(nameless).map(drop)), "life.node");
    let unborn = v1::Life {
        incarnation: 0,
        ..life.clone()
    };
    assert_eq!(refused(Life::try_from(unborn).map(drop)), "life.incarnation");
    let for_ever = v1::Hello {
        peer: Some(v1::Peer {
            life: Some(life.clone()),
            address: "a:1".into(),
        }),
        versions: Some(v1::VersionRange { min: 1, max: 2 }),
        lease_ms: u64::MAX,
        ..v1::Hello::default()
    };
    assert_eq!(refused(Hello::try_from(for_ever).map(drop)), "hello.lease_ms");
    let empty = v1::Slice { low: 5, high: 5 };
    assert_eq!(refused(Slice::try_from(empty).map(drop)), "slice");
    let huge = v1::Generation {
        number: 1 << 42,
        assigner: 1,
    };
    assert_eq!(refused(Generation::try_from(huge).map(drop)), "generation.number");

    let gap = v1::Assignment {
        generation: Some(since),
        ..Default::default()
    };
    assert_eq!(refused(Assignment::try_from(gap).map(drop)), "assignment.ranges");

    let crowded = v1::RangeAssignment {
        slice: Some(v1::Slice { low: 0, high: 0 }),
        owner: Some(life.clone()),
        since: Some(since),
        providers: vec![v1::Provider::default(); PROVIDERS_MAX + 1],
        ..Default::default()
    };
    let crowded = v1::Assignment {
        generation: Some(since),
        ranges: vec![crowded],
        ..Default::default()
    };
    assert_eq!(
        refused(Assignment::try_from(crowded).map(drop)),
        "range.providers"
    );

    let widely_read = v1::RangeAssignment {
        slice: Some(v1::Slice { low: 0, high: 0 }),
        owner: Some(life.clone()),
        since: Some(since),
        replicas: vec![life.clone(); REPLICAS_MAX + 1],
        ..Default::default()
    };
    let widely_read = v1::Assignment {
        generation: Some(since),
        ranges: vec![widely_read],
        ..Default::default()
    };
    assert_eq!(
        refused(Assignment::try_from(widely_read).map(drop)),
        "range.replicas"
    );

    let long_leased = v1::Assignment {
        generation: Some(since),
        lease_ms: LEASE_MS_MAX + 1,
        ..Default::default()
    };
    assert_eq!(
        refused(Assignment::try_from(long_leased).map(drop)),
        "assignment.lease_ms"
    );

    let twin = v1::NodeEntry {
        life: Some(life),
        state: v1::NodeState::Serving.into(),
        ..Default::default()
    };
    let twins = v1::Assignment {
        generation: Some(since),
        directory: vec![twin.clone(), twin],
        ..Default::default()
    };
    assert_eq!(
        refused(Assignment::try_from(twins).map(drop)),
        "assignment.directory"
    );

    let entry = |key: Vec<u8>, class| v1::Entry {
        key: Bytes::from(key),
        class,
        ..Default::default()
    };
    assert_eq!(refused(Entry::try_from(entry(vec![], 0)).map(drop)), "entry.key");
    let long = entry(vec![0; KEY_BYTES_MAX + 1], 0);
    assert_eq!(refused(Entry::try_from(long).map(drop)), "entry.key");
    assert_eq!(
        refused(Entry::try_from(entry(vec![1], 32)).map(drop)),
        "entry.class"
    );
    assert_eq!(refused(Relayed::decode(&[0xff]).map(drop)), "Relayed");
}

/// Plan: a valid report, with one thing wrong at a time: each field that is a rate is no number, infinite, negative, or
/// beyond belief; a list or a text is too long. Each is refused by its name.
#[test]
fn h8_impossible_loads_are_refused() {
    fn slice_load() -> v1::SliceLoad {
        v1::SliceLoad {
            slice: Some(v1::Slice { low: 0, high: 0 }),
            ..Default::default()
        }
    }
    fn hot_key(key_bytes: u32) -> v1::HotKey {
        v1::HotKey {
            key: vec![0; 3].into(),
            key_bytes,
            ..Default::default()
        }
    }
    let refused = |change: &dyn Fn(&mut v1::LoadReport)| {
        let mut report = v1::LoadReport {
            slices: vec![slice_load()],
            hot_keys: vec![hot_key(3)],
            ..Default::default()
        };
        assert!(LoadReport::try_from(report.clone()).is_ok());
        change(&mut report);
        match LoadReport::try_from(report) {
            Err(WireError::Bad { field, .. } | WireError::Limit { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    type Rate = fn(&mut v1::LoadReport) -> &mut f64;
    let rates: [(&str, Rate); 9] = [
        ("load.operations_per_second", |load| {
            &mut load.operations_per_second
        }),
        ("load.bytes_per_second", |load| &mut load.bytes_per_second),
        ("load.cpu_us_per_second", |load| &mut load.cpu_us_per_second),
        ("slice_load.operations_per_second", |load| {
            &mut load.slices[0].operations_per_second
        }),
        ("slice_load.bytes_per_second", |load| {
            &mut load.slices[0].bytes_per_second
        }),
        ("slice_load.hits_per_second", |load| {
            &mut load.slices[0].hits_per_second
        }),
        ("slice_load.cpu_us_per_second", |load| {
            &mut load.slices[0].cpu_us_per_second
        }),
        ("hot_key.operations_per_second", |load| {
            &mut load.hot_keys[0].operations_per_second
        }),
        ("hot_key.error_per_second", |load| {
            &mut load.hot_keys[0].error_per_second
        }),
    ];
    for (name, rate) in rates {
        for wrong in [f64::NAN, f64::INFINITY, -1.0, 2.0 * RATE_PER_SECOND_MAX] {
            assert_eq!(refused(&|load| *rate(load) = wrong), name);
        }
    }
    assert_eq!(refused(&|load| load.busy_percent = 101), "load.busy_percent");
    assert_eq!(
        refused(&|load| load.slices = vec![slice_load(); RANGES_MAX + 1]),
        "load.slices"
    );
    assert_eq!(
        refused(&|load| load.hot_keys = vec![hot_key(3); HOT_KEYS_MAX + 1]),
        "load.hot_keys"
    );
    assert_eq!(
        refused(&|load| load.hot_keys[0] = hot_key(65_536)),
        "hot_key.key_bytes"
    );
    assert_eq!(
        refused(&|load| load.hot_keys[0] = hot_key(2)),
        "hot_key.key_bytes"
    );
    let long = vec![0; HOT_KEY_BYTES_MAX + 1];
    assert_eq!(
        refused(&|load| load.hot_keys[0].key = long.clone().into()),
        "hot_key.key"
    );
}

/// The core takes this many ranges in one Take and no more; a provider may have held them in smaller parts, and what is
/// taken is pulled and released by those.
#[test]
fn a_take_is_bounded_as_the_core_bounds_it() {
    let peer = Peer {
        life: Life::nobody(),
        address: "host:1".into(),
    };
    let since = Generation::following(Generation::NONE, 0, Incarnation::new(1));
    let take = |count: usize| Take {
        to: peer.life.clone(),
        taker: peer.clone(),
        ranges: vec![
            TakeRange {
                slice: Slice::FULL,
                since,
                from: since,
            };
            count
        ],
    };
    let converted = |count| Take::try_from(v1::TakeRequest::from(&take(count)));
    assert!(converted(TAKE_RANGES_MAX).is_ok());
    let refused = WireError::Limit {
        field: "take.ranges",
        limit: TAKE_RANGES_MAX,
        found: TAKE_RANGES_MAX + 1,
    };
    assert_eq!(converted(TAKE_RANGES_MAX + 1), Err(refused));
    let slice = Slice::FULL;
    let release = |count: usize| Release {
        to: peer.life.clone(),
        taker: peer.life.clone(),
        ranges: vec![TakenRange { slice, since }; count],
    };
    let converted = |count| Release::try_from(v1::ReleaseRequest::from(&release(count)));
    assert!(converted(TAKEN_RANGES_MAX).is_ok());
    assert!(converted(TAKEN_RANGES_MAX + 1).is_err());
}

/// A longer read lease would outlast what others wait for (H2); one of no length says nothing.
#[test]
fn h2_a_read_lease_is_no_longer_than_all_believe() {
    let granted = |lease_ms| {
        let wire = v1::LeaseGrant {
            slice: Some(Slice::FULL.into()),
            since: Some(Generation::NONE.into()),
            number: 1,
            lease_ms,
        };
        LeaseGrant::try_from(wire).map(|grant| grant.lease_ms)
    };
    assert_eq!(granted(READ_LEASE_MS), Ok(READ_LEASE_MS));
    for lease_ms in [0, READ_LEASE_MS + 1, u64::MAX] {
        let refused = granted(lease_ms);
        assert!(
            matches!(refused, Err(WireError::Bad { field, .. }) if field == "lease_grant.lease_ms"),
            "{refused:?}"
        );
    }
}
