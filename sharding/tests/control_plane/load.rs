//! What nodes report of their load reaches the Sharder and operators.

use std::sync::{Arc, Mutex};

use softstore_sharding::generation::GENERATION_EPOCH_UNIX_MS;
use softstore_sharding::load::HOT_KEYS_MAX;
use softstore_sharding::session::{Hello, HotKeyLoad, LoadReport, NodeMessage, SESSION_VERSIONS, SliceLoad};
use softstore_sharding::sharder::{ClusterView, EvenRange, HotKey, Placement, Sharder};
use softstore_sharding::{
    Assigner, AssignerConfig, AssignerEvent, ClusterId, Generation, Incarnation, Life, NodeId, Peer,
    SessionId, Slice, SliceKey, Timestamp,
};

/// What a Sharder was shown last.
type Seen = Arc<Mutex<(Vec<SliceLoad>, Vec<HotKey>)>>;

/// Decides as another does, and remembers what it was shown.
#[derive(Debug)]
struct Watching(Seen);

impl Sharder for Watching {
    fn name(&self) -> &'static str {
        "watching"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        *self.0.lock().expect("not poisoned") = (view.loads.clone(), view.hot_keys.clone());
        EvenRange.place(view)
    }
}

fn hello(name: &str) -> NodeMessage {
    NodeMessage::Hello(Hello {
        peer: Peer {
            life: Life {
                node: NodeId::new(name).expect("an allowed name"),
                incarnation: Incarnation::new(1),
            },
            address: "host:1".into(),
        },
        http_address: "".into(),
        zone: "".into(),
        capacity_bytes: 1 << 30,
        draining: false,
        generation: Generation::NONE,
        claims: Vec::new(),
        versions: SESSION_VERSIONS,
        lease_ms: None,
        process: None,
        cluster: ClusterId::default(),
        offers: None,
    })
}

fn hot_key(at: u64, rate: f64) -> HotKeyLoad {
    HotKeyLoad {
        at: SliceKey::new(at),
        operations_per_second: rate,
        error_per_second: rate / 10.0,
        key: at.to_string().into_bytes(),
        key_bytes: 9,
    }
}

/// Plan: two nodes report slices and hot keys with their heartbeats, each a full list of hot keys, and one of them in
/// common. Then one drains, so that the Sharder is asked. It is shown the load of all slices, and each hot key of an owner's
/// once, hottest first, as a part of that; operators are shown the hottest, with who reports them, no more than one node may
/// report. A later heartbeat replaces all that.
#[test]
fn reported_loads_reach_the_sharder_and_operators() {
    let seen = Seen::default();
    let config = AssignerConfig {
        expect_nodes: Some(2),
        founds_at_once: true,
        ..AssignerConfig::default()
    };
    let now = Timestamp::from_ms(500);
    let mut assigner = Assigner::new(config, Incarnation::new(7), Box::new(Watching(seen.clone())), now);
    let mut say = |session: u64, message| {
        let session = SessionId::new(session);
        let event = AssignerEvent::FromNode { session, message };
        assigner.step_at_once(event, now, GENERATION_EPOCH_UNIX_MS + 1_000);
        assigner.status(now)
    };
    say(1, hello("a"));
    say(2, hello("b"));
    let (low, high) = Slice::FULL.split_before(SliceKey::new(1 << 63)).expect("inside");
    let slice_load = |slice, rate| SliceLoad {
        operations_per_second: rate,
        hits_per_second: rate / 2.0,
        ..SliceLoad::idle(slice)
    };
    let count = HOT_KEYS_MAX as u64;
    let report = |slice, rate: f64, keys: &mut dyn Iterator<Item = u64>| NodeMessage::Heartbeat {
        sequence: 1,
        generation: Generation::NONE,
        load: LoadReport {
            operations_per_second: rate,
            slices: vec![slice_load(slice, rate)],
            hot_keys: (0..count)
                .zip(keys)
                .map(|(index, key)| hot_key(key, (rate - index as f64) / 100.0))
                .collect(),
            ..LoadReport::default()
        },
        lease_ms: None,
    };
    // The hottest that b reports is a's: it has just moved there.
    let in_high = 1_u64 << 63;
    say(1, report(low, 1_000.0, &mut (0..count)));
    let status = say(2, report(high, 2_000.5, &mut std::iter::once(5).chain(in_high..)));
    let rates: Vec<f64> = status
        .nodes
        .iter()
        .map(|node| node.load.operations_per_second)
        .collect();
    assert_eq!(rates, [1_000.0, 2_000.5]);
    assert_eq!(status.hot_keys.len(), HOT_KEYS_MAX);
    assert!(status.hot_keys.iter().all(|hot| hot.owner.node.as_str() == "b"));
    assert_eq!(status.hot_keys[0].load, hot_key(5, 20.005));

    say(2, NodeMessage::Draining);
    let (loads, hot_keys) = seen.lock().expect("not poisoned").clone();
    let within = |slice: Slice| -> f64 {
        let inside = loads.iter().filter(|load| slice.covers(load.slice));
        inside.map(|load| load.operations_per_second).sum()
    };
    assert!((within(low) - 1_000.0).abs() < 1e-6, "{loads:?}");
    assert!((within(high) - 2_000.5).abs() < 1e-6, "{loads:?}");
    assert_eq!(hot_keys.len(), 2 * HOT_KEYS_MAX - 1);
    assert!(hot_keys.is_sorted_by(|a, b| a.operations_per_second >= b.operations_per_second));
    assert_eq!(hot_keys[0].at, SliceKey::new(in_high));
    let single = Slice::single(SliceKey::new(in_high));
    assert!((within(single) - hot_keys[0].operations_per_second).abs() < 1e-6);

    let calm = NodeMessage::Heartbeat {
        sequence: 2,
        generation: Generation::NONE,
        load: LoadReport::default(),
        lease_ms: None,
    };
    let status = say(2, calm);
    assert!(status.hot_keys.iter().all(|hot| hot.owner.node.as_str() == "a"));
}
