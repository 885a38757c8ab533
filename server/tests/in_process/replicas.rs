//! With real nodes and an Assigner whose Sharder replicates what a test wants: reads are served by replicas, and none is ever
//! older than what was acknowledged before it began (H2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use softstore_client::Client;
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig};
use softstore_server::node::Node;
use softstore_sharding::sharder::{ClusterView, EvenRange, Placement, Sharder};
use softstore_sharding::{NodeId, Slice, SliceKey};

/// How long something may take that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test writes and reads.
const BUSY: Duration = Duration::from_millis(2_500);

const HOT: &str = "the hot key";

/// Longer than the end of any read lease is waited for.
const LEASES_OVER: Duration = Duration::from_millis(1_500);

/// Even ranges, of which one position is read by everybody.
#[derive(Debug)]
struct Replicating;

impl Sharder for Replicating {
    fn name(&self) -> &'static str {
        "replicating"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let placement = EvenRange.place(view);
        let at = SliceKey::of_key(HOT.as_bytes());
        let pinned = view.pinned();
        if pinned.iter().any(|(slice, _)| slice.contains(at)) {
            // It was cut out already, or is not to be while it moves.
            return placement;
        }
        let owner = placement
            .overlapping(Slice::single(at))
            .next()
            .map(|(_, owner)| owner.clone());
        let others = view.nodes.iter().filter(|node| node.role.may_take());
        let others = others.map(|node| node.life.node.clone());
        let replicas = others.filter(|node| Some(node) != owner.as_ref()).collect();
        placement.replicated(vec![(Slice::single(at), replicas)])
    }
}

struct Cluster {
    assigner: AssignerServer,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn start(nodes: u32) -> Self {
        let config = AssignerConfig {
            listen: any_port(),
            expect_nodes: nodes,
            founds_at_once: true,
            rebalance_delay_ms: 0,
            ..AssignerConfig::default()
        };
        let assigner = AssignerServer::start_with_sharder(config, Box::new(Replicating)).await;
        let mut cluster = Self {
            assigner: assigner.expect("the Assigner starts"),
            nodes: Vec::new(),
        };
        for number in 0..nodes {
            cluster.start_node(number).await;
        }
        cluster
    }

    async fn start_node(&mut self, number: u32) {
        let config = NodeConfig {
            id: NodeId::new(&format!("n{number}")).expect("a name"),
            listen: any_port(),
            http_listen: None,
            assigner: self.assigner.grpc_addr().to_string(),
            memory_bytes: 64 << 20,
            ..NodeConfig::default()
        };
        self.nodes
            .push(Node::start(config).await.expect("the node starts"));
    }

    async fn client(&self) -> Client {
        let seeds = self.nodes.iter().map(|node| node.grpc_addr().to_string());
        let client = Client::builder().seeds(seeds).require_cluster(true).connect();
        let client = tokio::time::timeout(PATIENCE, client).await.expect("in time");
        client
            .expect("the client connects")
            .with_timeout(Duration::from_secs(5))
    }

    /// The node that owns the hot key.
    fn owner(&self) -> usize {
        let owner = |node: &Node| {
            let assignment = node.state().assignments().borrow().clone();
            let at = SliceKey::of_key(HOT.as_bytes());
            assignment.map(|assignment| assignment.range_at(at).owner.node.clone())
        };
        let owner = self.nodes.iter().find_map(owner).expect("there is an assignment");
        let at = self.nodes.iter().position(|node| *node.id() == owner);
        at.expect("it is one of them")
    }

    /// Reads that were answered from copies.
    fn reads_of_copies(&self) -> Vec<u64> {
        let reads = |node: &Node| node.state().metrics.reads_of_copies.load(Ordering::Relaxed);
        self.nodes.iter().map(reads).collect()
    }

    /// Reads until every node but the owner has answered from a copy.
    async fn warm_up(&self, client: &Client) {
        let begun = Instant::now();
        let owner = self.owner();
        loop {
            client.get_many(std::iter::repeat_n(HOT, 64)).await;
            let reads = self.reads_of_copies();
            let mut replicas = reads.iter().enumerate().filter(|(node, _)| *node != owner);
            if replicas.all(|(_, reads)| *reads > 0) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{reads:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// What is known of the hot key's value, a number that only grows.
#[derive(Debug, Default)]
struct Known {
    /// Writes up to this one were acknowledged.
    acknowledged: AtomicU64,
    /// Writes that failed, or whose outcome is not known.
    failed: AtomicU64,
    reads: AtomicU64,
    misses: AtomicU64,
    /// What was read, and what it should have been at least.
    stale: parking_lot::Mutex<Vec<(u64, u64)>>,
    is_over: AtomicBool,
}

impl Known {
    /// Reads until it is over. Nothing read is older than what was acknowledged before, nor than what this reader read before.
    async fn read(self: Arc<Self>, client: Client) {
        let mut last = 0;
        while !self.is_over.load(Ordering::Acquire) {
            let least = self.acknowledged.load(Ordering::Acquire).max(last);
            let Ok(Some(value)) = client.get(HOT).await else {
                self.misses.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                continue;
            };
            let value = number(&value);
            if value < least {
                self.stale.lock().push((value, least));
            }
            last = value;
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes one number after the other, for so long. Whatever was not acknowledged may have been written all the same.
    async fn write(&self, client: &Client, long: Duration) -> Duration {
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut next = self.acknowledged.load(Ordering::Acquire);
        while begun.elapsed() < long {
            next += 1;
            let sent = Instant::now();
            if client.set(HOT, next.to_string()).await.is_ok() {
                self.acknowledged.store(next, Ordering::Release);
            } else {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            slowest = slowest.max(sent.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        slowest
    }
}

fn number(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).expect("digits");
    text.parse().expect("a number")
}

struct Busy {
    known: Arc<Known>,
    readers: Vec<tokio::task::JoinHandle<()>>,
    writer: Client,
}

impl Busy {
    /// A writer and readers with clients of their own.
    async fn start(cluster: &Cluster) -> Self {
        let writer = cluster.client().await;
        writer.set(HOT, "0").await.expect("it is stored");
        cluster.warm_up(&writer).await;
        let known = Arc::new(Known::default());
        let mut readers = Vec::new();
        for _ in 0..4 {
            let client = cluster.client().await;
            readers.push(tokio::spawn(known.clone().read(client)));
        }
        Self {
            known,
            readers,
            writer,
        }
    }

    async fn end(self) -> Arc<Known> {
        self.known.is_over.store(true, Ordering::Release);
        for reader in self.readers {
            reader.await.expect("it reads");
        }
        self.known
    }
}

/// Plan: a hot key is written 400 times a second and read all the time. Replicas answer a good part of it, and nothing is older
/// than what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_what_replicas_answer_is_never_older_than_what_was_acknowledged() {
    let cluster = Cluster::start(3).await;
    let busy = Busy::start(&cluster).await;
    let before: u64 = cluster.reads_of_copies().iter().sum();
    busy.known.write(&busy.writer, BUSY).await;
    let known = busy.end().await;
    let copies = cluster.reads_of_copies().iter().sum::<u64>() - before;
    assert!(known.stale.lock().is_empty(), "{:?}", known.stale.lock());
    let (reads, writes) = (
        known.reads.load(Ordering::Relaxed),
        known.acknowledged.load(Ordering::Relaxed),
    );
    assert!(writes > 50 && reads > 1_000, "{writes} writes, {reads} reads");
    assert!(copies > reads / 10, "{copies} of {reads} reads were of copies");
    assert_eq!(known.misses.load(Ordering::Relaxed), 0);
    assert_eq!(known.failed.load(Ordering::Relaxed), 0);
}

/// Plan: every way to change a key, each followed by a read from every node. All see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_every_kind_of_write_is_seen_everywhere() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    client.set(HOT, "1").await.unwrap();
    cluster.warm_up(&client).await;
    let reads = async || {
        let read = client.get_many(std::iter::repeat_n(HOT, 64)).await;
        let mut read: Vec<_> = read.into_iter().map(|value| value.unwrap()).collect();
        read.dedup();
        assert_eq!(read.len(), 1, "{read:?}");
        read.remove(0).map(|value| number(&value))
    };
    assert_eq!(client.add(HOT, 41).await.unwrap(), 42);
    assert_eq!(reads().await, Some(42));
    client.delete(HOT).await.unwrap();
    assert_eq!(reads().await, None);
    client.set(HOT, "7").await.unwrap();
    assert_eq!(reads().await, Some(7));
    client.flush_all().await.unwrap();
    assert_eq!(reads().await, None);
    client.set(HOT, "8").await.unwrap();
    assert_eq!(reads().await, Some(8));
    assert!(client.touch(HOT, Some(Duration::from_millis(300))).await.unwrap());
    assert_eq!(reads().await, Some(8));
    tokio::time::sleep(Duration::from_millis(310)).await;
    assert_eq!(reads().await, None);
}

/// Plan: a replica vanishes while the key is written. A write that waits for its answer goes on when its lease is over; later
/// ones wait for nobody, and nothing stale is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_replica_that_vanishes_holds_a_write_up_no_longer_than_its_lease() {
    let mut cluster = Cluster::start(3).await;
    let busy = Busy::start(&cluster).await;
    let gone = (cluster.owner() + 1) % 3;
    cluster.nodes.remove(gone).abort();
    let slowest = busy.known.write(&busy.writer, BUSY).await;
    assert!(slowest < LEASES_OVER, "a write took {slowest:?}");
    let slowest = busy.known.write(&busy.writer, BUSY / 4).await;
    assert!(slowest < LEASES_OVER / 3, "later, a write took {slowest:?}");
    let known = busy.end().await;
    assert_eq!(
        known.failed.load(Ordering::Relaxed),
        0,
        "its clients have the time"
    );
    assert!(known.stale.lock().is_empty(), "{:?}", known.stale.lock());
}

/// Plan: the owner drains while the key is written and read. The range is handed over, and nothing stale is read, nor is anything
/// missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_a_replicated_range_is_handed_over() {
    let mut cluster = Cluster::start(3).await;
    let busy = Busy::start(&cluster).await;
    let leaver = cluster.nodes.remove(cluster.owner());
    let known = busy.known.clone();
    let (_, drained) = tokio::join!(busy.known.write(&busy.writer, BUSY), leaver.drain());
    leaver.shutdown().await;
    let _ = drained;
    // The taker lends in its turn.
    let before: u64 = cluster.reads_of_copies().iter().sum();
    busy.known.write(&busy.writer, BUSY).await;
    assert!(cluster.reads_of_copies().iter().sum::<u64>() > before);
    busy.end().await;
    assert!(known.stale.lock().is_empty(), "{:?}", known.stale.lock());
    assert_eq!(known.misses.load(Ordering::Relaxed), 0);
    assert_eq!(known.failed.load(Ordering::Relaxed), 0);
}

/// Plan: the owner vanishes. Who takes its range starts cold, and waits for the end of the leases that it gave: what a replica
/// still answers is never older than what the new owner has acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_after_its_owners_death_a_range_waits_for_the_end_of_its_leases() {
    let mut cluster = Cluster::start(3).await;
    let busy = Busy::start(&cluster).await;
    cluster.nodes.remove(cluster.owner()).abort();
    let known = busy.known.clone();
    let before = known.acknowledged.load(Ordering::Relaxed);
    busy.known.write(&busy.writer, Duration::from_secs(8)).await;
    assert!(known.acknowledged.load(Ordering::Relaxed) > before + 50);
    busy.end().await;
    assert!(known.stale.lock().is_empty(), "{:?}", known.stale.lock());
}
