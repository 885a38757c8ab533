//! With a real Assigner and many nodes' sessions: how late heartbeats are answered while load is balanced every second.
//!
//! In a debug build 200 nodes, else 1,000, with 64 slices each. The figures are printed:
//!
//!     cargo test --release -p softstore-server --test heartbeats -- --nocapture
//!
//! The nodes are sessions and no more, in this process: whatever delays them, and the machine itself, counts as the Assigner's delay. So
//! a task beside them, which only sleeps and looks how late it wakes, tells how much of it is not the Assigner's. What the Assigner's
//! core itself takes for its longest step is measured by scenarios (`assigner_step_ms`).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_server::assigner::AssignerServer;
use softstore_server::config::AssignerConfig;
use softstore_sharding::session::{
    AssignerMessage, AssignmentUpdate, ClaimPhase, HandoffOutcome, HandoffReport, Hello, LoadReport,
    NodeMessage, RangeClaim, SESSION_VERSIONS, SliceLoad,
};
use softstore_sharding::sharder::{ClusterView, Placement, Sharder};
use softstore_sharding::{
    Assignment, Generation, Incarnation, Life, NodeEntry, NodeId, NodeState, Peer, RangeAssignment, Readers,
    Slice, SliceKey,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const NODES: u32 = if cfg!(debug_assertions) { 200 } else { 1_000 };

const SLICES_PER_NODE: u32 = 64;

/// Sessions on one connection.
const SESSIONS_PER_CHANNEL: u32 = 50;

/// Between two heartbeats of a node.
const BEAT: Duration = Duration::from_secs(1);

/// Heartbeats of each node that are measured, after as many that are not.
const BEATS: u64 = 8;

/// How late an answer may be.
const LATE_MAX: Duration = Duration::from_millis(50);

/// How long something may take that must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Has a few neighbours change places whenever it is asked.
#[derive(Debug)]
struct Swapping;

impl Sharder for Swapping {
    fn name(&self) -> &'static str {
        "swapping"
    }

    fn reacts_to_load(&self) -> bool {
        true
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let held = view.previous.expect("the nodes hold everything");
        let mut ranges: Vec<(Slice, NodeId, bool)> = held
            .ranges()
            .iter()
            .map(|(slice, range)| (slice, range.owner.node.clone(), !range.providers.is_empty()))
            .collect();
        let step = ranges.len() / 16;
        let first = usize::try_from(held.generation().number).expect("64 bits") % (step - 1);
        for index in (first..ranges.len() - 1).step_by(step) {
            if !ranges[index].2 && !ranges[index + 1].2 {
                let other = ranges[index + 1].1.clone();
                ranges[index + 1].1 = std::mem::replace(&mut ranges[index].1, other);
            }
        }
        let ranges = ranges.into_iter().map(|(slice, node, _)| (slice, node));
        Placement::new(ranges.collect()).expect("complete, as it was")
    }
}

fn life(number: u32) -> Life {
    Life {
        node: NodeId::new(&format!("node-{number}")).expect("a name"),
        incarnation: Incarnation::new(u64::from(number) + 1),
    }
}

fn generation() -> Generation {
    Generation {
        number: 1,
        assigner: Incarnation::new(1),
    }
}

/// What the nodes hold when the Assigner starts: equal slices, dealt in turn.
fn held() -> Assignment {
    let count = u64::from(NODES * SLICES_PER_NODE);
    let low = |index: u64| SliceKey::new(u64::MAX / count * index);
    let ranges = (0..count).map(|index| {
        let high = (index + 1 < count).then(|| low(index + 1));
        let owner = u32::try_from(index % u64::from(NODES)).expect("a small number");
        let range = RangeAssignment {
            owner: life(owner),
            since: generation(),
            providers: Vec::new(),
            readers: Readers::default(),
        };
        (Slice::new(low(index), high).expect("they ascend"), range)
    });
    let entry = |number: u32| {
        let entry = NodeEntry {
            incarnation: life(number).incarnation,
            address: "127.0.0.1:1".into(),
            http_address: "".into(),
            zone: "".into(),
            state: NodeState::Serving,
        };
        (life(number).node, entry)
    };
    let directory = (0..NODES).map(entry).collect();
    Assignment::new(generation(), ranges.collect(), directory).expect("a valid assignment")
}

/// What was seen, by all nodes.
#[derive(Default)]
struct Seen {
    lateness: Vec<Duration>,
    updates: u64,
    whole: u64,
}

/// A node's side of its session.
struct Member {
    life: Life,
    slices: Vec<Slice>,
    held: Arc<Assignment>,
    generation: Generation,
    to_assigner: mpsc::Sender<v1::NodeMessage>,
    sent_at: Option<Instant>,
    beats: u64,
}

impl Member {
    fn new(number: u32, held: Arc<Assignment>, to_assigner: mpsc::Sender<v1::NodeMessage>) -> Self {
        let life = life(number);
        let owned = held.ranges().iter().filter(|(_, range)| range.owner == life);
        Self {
            slices: owned.map(|(slice, _)| slice).collect(),
            generation: held.generation(),
            life,
            held,
            to_assigner,
            sent_at: None,
            beats: 0,
        }
    }

    async fn say(&self, message: NodeMessage) {
        let sent = self.to_assigner.send((&message).into()).await;
        sent.expect("the session is open");
    }

    async fn say_hello(&self) {
        let claim = |slice: &Slice| RangeClaim {
            slice: *slice,
            since: generation(),
            providers: Vec::new(),
            phase: ClaimPhase::Serving,
        };
        let hello = Hello {
            peer: Peer {
                life: self.life.clone(),
                address: "127.0.0.1:1".into(),
            },
            http_address: "".into(),
            zone: "".into(),
            capacity_bytes: 1 << 30,
            draining: false,
            generation: self.generation,
            claims: self.slices.iter().map(claim).collect(),
            versions: SESSION_VERSIONS,
            lease_ms: None,
        };
        self.say(NodeMessage::Hello(hello)).await;
    }

    async fn beat(&mut self) {
        let load = |slice: &Slice| SliceLoad {
            operations_per_second: 1_000.0,
            bytes: 1 << 20,
            hits_per_second: 900.0,
            ..SliceLoad::idle(*slice)
        };
        let message = NodeMessage::Heartbeat {
            sequence: self.beats + 1,
            generation: self.generation,
            load: LoadReport {
                slices: self.slices.iter().map(load).collect(),
                ..LoadReport::default()
            },
            lease_ms: None,
        };
        self.beats += 1;
        self.sent_at = Some(Instant::now());
        self.say(message).await;
    }

    async fn hear(&mut self, message: AssignerMessage, seen: &Mutex<Seen>) {
        match message {
            AssignerMessage::HeartbeatAnswer { .. } => {
                let late = self.sent_at.take().map(|sent| sent.elapsed());
                if self.beats > BEATS {
                    seen.lock().expect("not poisoned").lateness.extend(late);
                }
            }
            AssignerMessage::FetchAssignment => {
                let held = Some(self.held.clone());
                self.say(NodeMessage::HeldAssignment(held)).await;
            }
            AssignerMessage::Update(update) => {
                let mut seen = seen.lock().expect("not poisoned");
                seen.updates += 1;
                seen.whole += u64::from(matches!(update, AssignmentUpdate::Full(_)));
                drop(seen);
                self.take(update).await;
            }
            other => panic!("a node was told {other:?}"),
        }
    }

    /// What it is given has arrived at once.
    async fn take(&mut self, update: AssignmentUpdate) {
        let AssignmentUpdate::Diff(diff) = update else {
            return;
        };
        assert_eq!(diff.base, self.generation);
        self.generation = diff.next;
        let taken = diff
            .ranges
            .iter()
            .filter(|(_, range)| range.owner == self.life && !range.providers.is_empty());
        let report = |(slice, range): &(Slice, RangeAssignment)| HandoffReport {
            slice: *slice,
            since: range.since,
            outcome: HandoffOutcome::Completed,
        };
        let reports: Vec<HandoffReport> = taken.map(report).collect();
        if !reports.is_empty() {
            self.say(NodeMessage::Handoffs(reports)).await;
        }
    }

    async fn run(
        mut self,
        channel: Channel,
        said: mpsc::Receiver<v1::NodeMessage>,
        number: u32,
        seen: Arc<Mutex<Seen>>,
    ) {
        self.say_hello().await;
        let mut client = AssignerClient::new(channel).max_decoding_message_size(64 << 20);
        let session = client.session(ReceiverStream::new(said)).await;
        let mut told = session.expect("a session").into_inner();
        let first = tokio::time::Instant::now() + BEAT * number / NODES;
        let mut beats = tokio::time::interval_at(first, BEAT);
        while self.beats < 2 * BEATS || self.sent_at.is_some() {
            tokio::select! {
                message = told.message() => {
                    let message = message.expect("it goes on").expect("it is not ended");
                    let message = AssignerMessage::try_from(message).expect("it is understood");
                    self.hear(message, &seen).await;
                }
                _ = beats.tick(), if self.sent_at.is_none() => self.beat().await,
            }
        }
    }
}

/// How late a task wakes that does nothing else.
async fn wakes_late(late: Arc<Mutex<Vec<Duration>>>) {
    let nap = Duration::from_millis(5);
    loop {
        let began = Instant::now();
        tokio::time::sleep(nap).await;
        let by = began.elapsed().saturating_sub(nap);
        late.lock().expect("not poisoned").push(by);
    }
}

/// The least that so many parts of them are no higher than, and the highest.
fn quantiles(values: &mut [Duration]) -> [Duration; 3] {
    values.sort_unstable();
    let at = |part: usize| values[(values.len() * part / 100).min(values.len() - 1)];
    [at(50), at(99), at(100)]
}

/// Plan: a new Assigner over nodes that hold everything. They say hello, one is asked for the assignment; then every node sends a
/// heartbeat a second, with the load of all it owns, while the Assigner asks its Sharder once a second, publishes what that moves, and
/// again when the hand-offs are over. Nobody is told all: what a node holds, a diff leads on from. Answers come in time, apart from
/// what this process and machine delay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_of_many_nodes_are_answered_while_load_is_balanced() {
    let config = AssignerConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        failure_timeout_ms: 60_000,
        settle_ms: 100_000,
        balance_churn_percent_per_minute: 1_000,
        ..AssignerConfig::default()
    };
    let assigner = AssignerServer::start_with_sharder(config, Box::new(Swapping)).await;
    let assigner = assigner.expect("it starts");
    let address = format!("http://{}", assigner.grpc_addr());
    let (held, seen, late) = (
        Arc::new(held()),
        Arc::new(Mutex::new(Seen::default())),
        Arc::default(),
    );
    let control = tokio::spawn(wakes_late(Arc::clone(&late)));
    let mut nodes = tokio::task::JoinSet::new();
    let mut channel = None;
    for number in 0..NODES {
        if number % SESSIONS_PER_CHANNEL == 0 {
            let endpoint = Endpoint::from_shared(address.clone()).expect("an address");
            channel = Some(endpoint.connect().await.expect("it listens"));
        }
        let (to_assigner, said) = mpsc::channel(16);
        let member = Member::new(number, Arc::clone(&held), to_assigner);
        let channel = channel.clone().expect("opened for the first");
        nodes.spawn(member.run(channel, said, number, Arc::clone(&seen)));
    }
    let all = async {
        while nodes
            .join_next()
            .await
            .transpose()
            .expect("no node fails")
            .is_some()
        {}
    };
    tokio::time::timeout(PATIENCE, all).await.expect("in time");
    control.abort();
    let [wake_p50, wake_p99, wake_max] = quantiles(&mut late.lock().expect("not poisoned"));
    let mut seen = seen.lock().expect("not poisoned");
    let [p50, p99, max] = quantiles(&mut seen.lateness);
    println!(
        "{NODES} nodes, {} ranges, {} heartbeats, {} updates: answered after {p50:?} in the middle, {p99:?} at p99, {max:?} at \
         most; a task that only sleeps woke {wake_p50:?}, {wake_p99:?}, {wake_max:?} late",
        held.ranges().len(),
        seen.lateness.len(),
        seen.updates,
    );
    assert_eq!(seen.whole, 0, "somebody was told all");
    assert!(seen.updates >= u64::from(NODES) * 4, "{}", seen.updates);
    assert!(p50 <= LATE_MAX, "{p50:?}");
    assert!(p99 <= LATE_MAX + wake_max, "{p99:?}, and {wake_max:?}");
    drop(seen);
    assigner.shutdown().await;
}
