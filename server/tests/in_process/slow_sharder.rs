//! With a real Assigner: a Sharder that does not answer holds up no heartbeat and no operator, and no end of the process.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig};
use softstore_server::node::Node;
use softstore_sharding::NodeId;
use softstore_sharding::sharder::{ClusterView, EvenRange, Placement, Sharder};
use tonic::transport::Endpoint;

/// How long something may take that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How late an answer may be.
const LATE_MAX: Duration = Duration::from_millis(50);

/// Questions that are asked while the Sharder is stuck.
const QUESTIONS: u64 = 40;

/// A door that is open or shut, and how many stand before it.
#[derive(Debug, Default)]
struct Door {
    is_shut: Mutex<(bool, u32)>,
    turned: Condvar,
}

impl Door {
    fn turn(&self, is_shut: bool) {
        self.is_shut.lock().expect("not poisoned").0 = is_shut;
        self.turned.notify_all();
    }

    fn waiting(&self) -> u32 {
        self.is_shut.lock().expect("not poisoned").1
    }
}

/// Even ranges, behind a door.
#[derive(Debug)]
struct Behind(Arc<Door>);

impl Sharder for Behind {
    fn name(&self) -> &'static str {
        "behind a door"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let mut held = self.0.is_shut.lock().expect("not poisoned");
        held.1 += 1;
        self.0.turned.notify_all();
        while held.0 {
            held = self.0.turned.wait(held).expect("not poisoned");
        }
        held.1 -= 1;
        EvenRange.place(view)
    }
}

/// Plan: an Assigner with a node, and the Sharder's door is shut. A second node joins, so that the Sharder is asked, and gets stuck.
/// Questions to the task that answers heartbeats, through the same queue, are answered all the same, in the middle within 50 ms
/// (this machine may stand still for one or the other); the nodes' heartbeats have been heard. A drain is placed after
/// `place_timeout_ms`. With the door still shut, the Assigner ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_are_answered_while_the_sharder_is_stuck() {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = AssignerConfig {
        listen: any_port,
        expect_nodes: 1,
        founds_at_once: true,
        place_timeout_ms: 1_500,
        ..AssignerConfig::default()
    };
    let door = Arc::new(Door::default());
    let sharder = Box::new(Behind(door.clone()));
    let assigner = AssignerServer::start_with_sharder(config, sharder)
        .await
        .expect("it starts");
    let address = assigner.grpc_addr().to_string();
    let node = |id: &str| NodeConfig {
        id: NodeId::new(id).expect("a name"),
        listen: any_port,
        http_listen: None,
        assigner: address.clone(),
        memory_bytes: 64 << 20,
        ..NodeConfig::default()
    };
    let _first = Node::start(node("first")).await.expect("it starts");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut client = AssignerClient::new(endpoint.connect().await.expect("it listens"));
    until(async || {
        let status = client.clone().status(v1::StatusRequest::default()).await;
        status.expect("it answers").into_inner().settled
    })
    .await;

    door.turn(true);
    let _second = Node::start(node("second")).await.expect("it starts");
    until(async || door.waiting() > 0).await;
    let mut lateness = Vec::new();
    let asked = Instant::now();
    for _ in 0..QUESTIONS {
        let sent = Instant::now();
        let status = tokio::time::timeout(PATIENCE, client.status(v1::StatusRequest::default())).await;
        let status = status.expect("in time").expect("it answers").into_inner();
        lateness.push(sent.elapsed());
        assert!(
            status.nodes.iter().all(|node| node.silent_ms < 2_500),
            "{status:?}"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(
        door.waiting() > 0,
        "the Sharder was stuck all the while ({:?})",
        asked.elapsed()
    );
    lateness.sort();
    println!(
        "late by {:?} in the middle, {:?} at most",
        lateness[lateness.len() / 2],
        lateness[lateness.len() - 1]
    );
    assert!(lateness[lateness.len() / 2] <= LATE_MAX, "{lateness:?}");

    // By then it was given up: what must move is placed without it.
    until(async || {
        let status = client.clone().status(v1::StatusRequest::default()).await;
        let balance = status
            .expect("it answers")
            .into_inner()
            .balance
            .unwrap_or_default();
        balance.hold() == v1::balance_status::Hold::SharderOverdue
    })
    .await;
    let drained = client.drain(v1::DrainRequest { node: "first".into() }).await;
    drained.expect("the second one takes it");
    until(async || {
        let status = client.clone().status(v1::StatusRequest::default()).await;
        let nodes = status.expect("it answers").into_inner().nodes;
        let second = nodes
            .iter()
            .find(|node| node.life.as_ref().is_some_and(|life| life.node == "second"));
        second.is_some_and(|node| node.share > 0.99)
    })
    .await;
    assert!(door.waiting() > 0);
    tokio::time::timeout(PATIENCE, assigner.shutdown())
        .await
        .expect("it ends");
    door.turn(false);
}

/// Plan: an operator asks what the Sharder would do, and it gets stuck. He is told so after `place_timeout_ms`, and so is whoever
/// asks meanwhile, at once; when the Sharder is free again, there is a plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_a_stuck_sharder_for_a_plan_is_told_so() {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = AssignerConfig {
        listen: any_port,
        expect_nodes: 1,
        founds_at_once: true,
        place_timeout_ms: 300,
        ..AssignerConfig::default()
    };
    let door = Arc::new(Door::default());
    let assigner = AssignerServer::start_with_sharder(config, Box::new(Behind(door.clone())))
        .await
        .expect("it starts");
    let address = assigner.grpc_addr().to_string();
    let config = NodeConfig {
        id: NodeId::new("only").expect("a name"),
        listen: any_port,
        http_listen: None,
        assigner: address.clone(),
        memory_bytes: 64 << 20,
        ..NodeConfig::default()
    };
    let _node = Node::start(config).await.expect("it starts");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let client = AssignerClient::new(endpoint.connect().await.expect("it listens"));
    let plan = async || client.clone().plan(v1::PlanRequest::default()).await;
    until(async || plan().await.is_ok()).await;

    door.turn(true);
    let (stuck, refused) = tokio::join!(plan(), async {
        until(async || door.waiting() > 0).await;
        plan().await
    });
    let stuck = stuck.expect_err("there is no plan");
    assert_eq!(stuck.code(), tonic::Code::DeadlineExceeded, "{stuck}");
    assert!(stuck.message().contains("Sharder"), "{stuck}");
    let refused = refused.expect_err("there is no plan");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    door.turn(false);
    until(async || plan().await.is_ok()).await;
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < end, "not so after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
