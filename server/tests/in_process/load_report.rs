//! With a real node and Assigner: what a node reports of its load with its heartbeats, as the Assigner tells it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use softstore_client::Client;
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig};
use softstore_server::node::Node;
use softstore_sharding::{NodeId, SliceKey};
use tokio::time::MissedTickBehavior;
use tonic::transport::{Channel, Endpoint};

/// How long something may take that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Within so long a step in load must be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Between two batches of gets, and between two looks.
const TICK: Duration = Duration::from_millis(20);

/// Gets of a batch: half of them for the hot key. 4,000 a second.
const BATCH: usize = 80;

const HOT: &str = "the hot key";

const VALUE_BYTES: usize = 200;

struct Cluster {
    _assigner: AssignerServer,
    _node: Node,
    status: AssignerClient<Channel>,
    client: Client,
}

impl Cluster {
    async fn start() -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = AssignerConfig {
            listen: any_port,
            expect_nodes: 1,
            founds_at_once: true,
            ..AssignerConfig::default()
        };
        let assigner = AssignerServer::start(config).await.expect("the Assigner starts");
        let config = NodeConfig {
            id: NodeId::new("n1").expect("a name"),
            listen: any_port,
            http_listen: None,
            assigner: assigner.grpc_addr().to_string(),
            memory_bytes: 64 << 20,
            ..NodeConfig::default()
        };
        let node = Node::start(config).await.expect("the node starts");
        let address = format!("http://{}", assigner.grpc_addr());
        let endpoint = Endpoint::from_shared(address).expect("an address");
        let channel = endpoint.connect().await.expect("the Assigner listens");
        let seed = node.grpc_addr().to_string();
        let client = Client::builder().seeds([seed]).require_cluster(true).connect();
        let client = tokio::time::timeout(PATIENCE, client).await.expect("in time");
        Self {
            _assigner: assigner,
            _node: node,
            status: AssignerClient::new(channel),
            client: client.expect("the client connects").with_timeout(PATIENCE),
        }
    }

    /// What the Assigner knows of the load: the node's, and its hot keys.
    async fn load(&mut self) -> (v1::LoadReport, Vec<v1::HotKeyStatus>) {
        let answer = self.status.status(v1::StatusRequest::default()).await;
        let mut status = answer.expect("the Assigner answers").into_inner();
        let node = status.nodes.pop().expect("one node");
        (node.load.unwrap_or_default(), status.hot_keys)
    }
}

/// Reads 80 keys at each tick, of which half are one, and counts what it has read since it began.
struct Reader {
    began: Instant,
    gets: u64,
    /// How long the machine, and not the node, held things up.
    stood_still: Duration,
    next_key: u64,
}

impl Reader {
    async fn tick(&mut self, client: &Client) {
        let sent = Instant::now();
        let cold = (0..BATCH / 2).map(|_| {
            self.next_key += 1;
            format!("cold {}", self.next_key)
        });
        let keys: Vec<String> = cold.flat_map(|key| [key, HOT.to_owned()]).collect();
        client.get_many(keys).await;
        self.gets += BATCH as u64;
        self.stood_still += sent.elapsed().saturating_sub(2 * TICK);
    }

    fn rate(&self) -> f64 {
        self.gets as f64 / self.began.elapsed().as_secs_f64()
    }
}

/// The client hears the same from the node itself.
async fn told_to_the_application(client: &Client) {
    let told = client.hot_keys().await;
    assert_eq!((told.nodes_answered, told.nodes_silent), (1, 0), "{told:?}");
    let [hot] = &told.keys[..] else {
        panic!("{told:?}");
    };
    assert!(hot.is_whole() && hot.key == HOT, "{told:?}");
    let share = hot.operations_per_second / told.operations_per_second;
    assert!((0.2..0.8).contains(&share), "{told:?}");
}

/// Plan: a node without load reports none. Then a client reads 4,000 keys a second, each second one the same. Within 5 s (and
/// however long this machine stood still) the Assigner knows the rate to a fifth, what bytes come with it, and the
/// hot key by its name, position and rate, within the error that is stated; and the client knows it too. When the reads have ended, it is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_in_load_and_a_hot_key_are_seen_within_five_seconds() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client.clone();
    client.set(HOT, vec![7; VALUE_BYTES]).await.expect("it is stored");
    let (idle, hot_keys) = cluster.load().await;
    assert!(
        idle.operations_per_second < 100.0 && hot_keys.is_empty(),
        "{idle:?} {hot_keys:?}"
    );

    let mut reader = Reader {
        began: Instant::now(),
        gets: 0,
        stood_still: Duration::ZERO,
        next_key: 0,
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (load, hot) = loop {
        ticks.tick().await;
        reader.tick(&client).await;
        let (load, mut hot_keys) = cluster.load().await;
        let is_seen = (load.operations_per_second / reader.rate() - 1.0).abs() < 0.2;
        if is_seen && reader.began.elapsed() > TICK * 10 && !hot_keys.is_empty() {
            break (load, hot_keys.swap_remove(0));
        }
        let patience = SEEN_WITHIN + reader.stood_still;
        assert!(
            reader.began.elapsed() < patience,
            "{load:?} {hot_keys:?}, but {} gets/s",
            reader.rate()
        );
    };
    let key = hot.key.expect("a key");
    assert_eq!((&key.key[..], key.key_bytes), (HOT.as_bytes(), 11));
    assert_eq!(key.at, SliceKey::of_key(HOT.as_bytes()).get());
    assert_eq!(hot.owner.expect("an owner").node, "n1");
    let half = load.operations_per_second / 2.0;
    assert!(key.error_per_second < half, "{key:?}");
    let off = (key.operations_per_second - half).abs();
    assert!(off <= key.error_per_second + 0.1 * half, "{key:?} of {load:?}");
    let bytes_each = load.bytes_per_second / load.operations_per_second;
    let expected = (VALUE_BYTES + HOT.len() + "cold 1234".len()) as f64 / 2.0;
    assert!(
        (bytes_each - expected).abs() < 10.0,
        "{bytes_each} and not {expected}"
    );
    assert!(load.cpu_us_per_second > 0.0);
    told_to_the_application(&client).await;

    let ended = Instant::now();
    loop {
        ticks.tick().await;
        let (load, hot_keys) = cluster.load().await;
        let told = client.hot_keys().await;
        if load.operations_per_second < 0.05 * reader.rate() && hot_keys.is_empty() && told.keys.is_empty() {
            break;
        }
        assert!(ended.elapsed() < PATIENCE, "{load:?} {hot_keys:?}");
    }
}
