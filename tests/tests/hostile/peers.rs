//! Other nodes that do not keep their part: a taker that never reads its pulls, a giver that never sends, a node that
//! never reads its session.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use softstore_proto::v1;
use softstore_proto::v1::assigner_server::{Assigner, AssignerServer};
use softstore_proto::v1::cache_client::CacheClient;
use softstore_proto::v1::transfer_client::TransferClient;
use softstore_proto::v1::transfer_server::{Transfer, TransferServer};
use softstore_server::config::NodeConfig;
use softstore_server::node::Node;
use softstore_sharding::session::{AssignerMessage, AssignmentUpdate, Hello, NodeMessage, VersionRange};
use softstore_sharding::{ClusterId, Generation, Incarnation, Life, NodeId, Peer, Version};
use softstore_tests::embedded::{PATIENCE, any_port, node_config};
use softstore_tests::handed_over::{generation, handed_over};
use softstore_tests::processes::{channel, declared, until};
use softstore_transfer::chunk;
use softstore_transfer::message::{PullRequest, Take, TakeAnswer, TakeRange, TakeReply, TakenRange, Verdict};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::arena::{Arena, Bounds, SIEGE};
use crate::victim::{MIB, Peak};
use softstore_tests::attacker::{END_HEADERS, HEADERS, Raw, SESSION, call_headers, encoded, frame};

/// Values that the giver holds.
const VALUES: usize = 64;

/// How far the taker's acquisition is ahead of the giver's, in milliseconds: the Assigner's own generations do not get
/// there while a test runs, and until then nobody can say that the taker is dead.
const AHEAD_MS: u64 = 3_600_000;

fn peer(name: &str, address: &str) -> Peer {
    Peer {
        life: Life {
            node: NodeId::new(name).expect("a valid name"),
            incarnation: Incarnation::new(9),
        },
        address: address.into(),
    }
}

/// Plan: with the Assigner gone, so that members are believed, the test fences a node by hand, in the name of the other one and
/// under an acquisition newer than any, and opens 32 pulls of all that it holds, of which it reads nothing. The giver holds some chunks for each, and cuts the connection after `stall_ms_max`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taker_that_never_reads_is_cut() {
    const PULLS: usize = 32;
    let mut arena = Arena::open_with(2, &[], &["--stall-ms-max=2000"]).await;
    for index in 0..VALUES {
        let value = vec![7; 1 << 20];
        arena
            .client
            .set(format!("large-{index}"), value)
            .await
            .expect("it serves");
    }
    arena.cluster.kill_assigner().await;
    let node = arena.node("n1");
    let before = node.count("connections_stalled_total").await;
    let assignment = arena.cluster.node("n1").assignment().await;
    let mut giver = TransferClient::new(channel(&node.grpc).await);
    let peer_called = |name| {
        let node = NodeId::new(name).expect("a valid name");
        let incarnation = assignment.directory()[&node].incarnation;
        assignment
            .peer(&Life { node, incarnation })
            .expect("it is listed")
    };
    let (to, taker) = (peer_called("n1").life, peer_called("n2"));
    let since = Generation {
        number: assignment.generation().number + AHEAD_MS,
        assigner: assignment.generation().assigner,
    };
    let ranges: Vec<_> = assignment
        .ranges()
        .iter()
        .filter(|(_, range)| range.owner == to)
        .collect();
    let take = Take {
        to: to.clone(),
        taker: taker.clone(),
        ranges: ranges
            .iter()
            .map(|&(slice, range)| TakeRange {
                slice,
                since,
                from: range.since,
            })
            .collect(),
    };
    until("the take is answered", async || {
        let taken = giver.clone().take(declared(v1::TakeRequest::from(&take))).await;
        taken.ok()
    })
    .await;
    let pull = PullRequest {
        to,
        taker: taker.life,
        ranges: ranges
            .iter()
            .map(|&(slice, _)| TakenRange { slice, since })
            .collect(),
        cursor: Bytes::new(),
        chunk_versions: chunk::CHUNK_VERSIONS,
    };
    let peak = Peak::of(&node);
    let mut unread = Vec::new();
    for _ in 0..PULLS {
        let pulled = giver.pull(declared(v1::PullRequest::from(&pull))).await;
        unread.push(pulled.expect("the pull is granted").into_inner());
    }
    node.counted("connections_stalled_total", before, 1.0).await;
    let growth = peak.growth();
    println!("{PULLS} pulls that nobody reads: +{} MiB", growth / MIB);
    // Chunks of a mebibyte, as large as the values: two that wait, one that is made, one encoded, one handed over, and the
    // windows.
    assert!(growth < 7 * PULLS as u64 * MIB, "{}", growth / MIB);
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An Assigner that gives everything to whoever says hello, and the node to take it from: that grants every `Take`, and is
/// never heard of again.
#[derive(Clone)]
struct Mute {
    me: Peer,
    peeks: Arc<AtomicU64>,
    pulls: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl Assigner for Mute {
    type SessionStream = Boxed<v1::AssignerMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (mut inbound, mute) = (request.into_inner(), self.clone());
        let (to_node, messages) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(said)) = inbound.message().await {
                let message = match NodeMessage::try_from(said) {
                    Ok(NodeMessage::Hello(hello)) => {
                        let assignment = Arc::new(handed_over(&hello.peer, &mute.me));
                        AssignerMessage::Update(AssignmentUpdate::Full(assignment))
                    }
                    Ok(NodeMessage::Heartbeat { sequence, .. }) => AssignerMessage::HeartbeatAnswer {
                        sequence,
                        generation: generation(2),
                        lease_ms: None,
                    },
                    _ => continue,
                };
                if to_node
                    .send(Ok(v1::AssignerMessage::from(&message)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        let messages = futures::stream::unfold(messages, async |mut messages| {
            let message = messages.recv().await?;
            Some((message, messages))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::ClusterStatus>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn plan(&self, _: Request<v1::PlanRequest>) -> Result<Response<v1::PlanReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn freeze(&self, _: Request<v1::FreezeRequest>) -> Result<Response<v1::FreezeReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn unfreeze(&self, _: Request<v1::UnfreezeRequest>) -> Result<Response<v1::UnfreezeReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn forget(&self, _: Request<v1::ForgetRequest>) -> Result<Response<v1::ForgetReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

#[tonic::async_trait]
impl Transfer for Mute {
    type PullStream = Boxed<v1::PullItem>;

    async fn take(&self, request: Request<v1::TakeRequest>) -> Result<Response<v1::TakeReply>, Status> {
        let take = Take::try_from(request.into_inner())?;
        let fenced = |range: &TakeRange| TakeAnswer {
            slice: range.slice,
            since: range.since,
            from: range.from,
            verdict: Verdict::Fenced {
                next_version: Version::default(),
            },
        };
        let reply = TakeReply {
            from: self.me.life.clone(),
            chunk_versions: chunk::CHUNK_VERSIONS,
            answers: take.ranges.iter().map(fenced).collect(),
        };
        Ok(Response::new((&reply).into()))
    }

    async fn peek(&self, _: Request<v1::PeekRequest>) -> Result<Response<v1::PeekReply>, Status> {
        self.peeks.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }

    async fn pull(&self, _: Request<v1::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        self.pulls.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(Box::pin(futures::stream::pending())))
    }

    async fn read_lease(&self, _: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn fill(&self, _: Request<v1::FillRequest>) -> Result<Response<v1::FillReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn invalidate(
        &self,
        _: Request<v1::InvalidateRequest>,
    ) -> Result<Response<v1::InvalidateReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseReply>, Status> {
        Ok(Response::new(v1::ReleaseReply {}))
    }

    async fn identify(&self, _: Request<v1::IdentifyRequest>) -> Result<Response<v1::IdentifyReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// Plan: a node that takes everything over from one that fences and then neither answers a peek nor sends an entry. It serves: each
/// read waits for a peek's timeout and no longer. Its pull ends at its deadline, and after that reads wait for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_giver_that_never_sends_costs_its_entries_and_no_more() {
    const READS: u64 = 50;
    let listener = TcpListener::bind(any_port()).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let mute = Mute {
        me: peer("mute", &address.to_string()),
        peeks: Arc::default(),
        pulls: Arc::default(),
    };
    let serving = Server::builder()
        .add_service(AssignerServer::new(mute.clone()))
        .add_service(TransferServer::new(mute.clone()))
        .serve_with_incoming(TcpIncoming::from(listener));
    let serving = tokio::spawn(serving);
    let config = NodeConfig {
        pull_deadline_ms: 3_000,
        failure_timeout_ms: 60_000,
        ..node_config("n1", address)
    };
    let node = Node::start(config).await.expect("it starts");
    let mut cache = CacheClient::new(channel(&node.grpc_addr().to_string()).await);
    let began = Instant::now();
    while mute.pulls.load(Ordering::Relaxed) == 0 {
        assert!(began.elapsed() < PATIENCE, "the node takes nothing over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let get = |index: u64| v1::Op {
        key: format!("key-{index}").into_bytes().into(),
        deadline_ms: 5_000,
        ..v1::Op::default()
    };
    let mut slowest = Duration::ZERO;
    for index in 0..READS {
        let asked = Instant::now();
        let reply = cache.get(get(index)).await.expect("it answers").into_inner();
        assert!(
            [v1::Status::NotFound, v1::Status::NotReady].contains(&reply.status()),
            "{reply:?}"
        );
        slowest = slowest.max(asked.elapsed());
    }
    assert!(mute.peeks.load(Ordering::Relaxed) > 0, "nothing was peeked");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let metrics = &node.state().metrics;
    while metrics.pulls_given_up.load(Ordering::Relaxed) == 0 {
        assert!(began.elapsed() < PATIENCE, "the pull has no end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let peeks = mute.peeks.load(Ordering::Relaxed);
    let asked = Instant::now();
    for index in 0..READS {
        let reply = cache.get(get(index)).await.expect("it answers").into_inner();
        assert_eq!(reply.status(), v1::Status::NotFound);
    }
    assert_eq!(
        mute.peeks.load(Ordering::Relaxed),
        peeks,
        "nobody is asked any more"
    );
    println!(
        "a giver that never sends: the slowest of {READS} reads took {slowest:?}; afterwards all took {:?}",
        asked.elapsed()
    );
    serving.abort();
}

/// Plan: a node that says hello and then heartbeats without end, and never reads an answer, on sessions with a window of 0. The
/// Assigner keeps a bounded number of messages for it and closes the session; the cluster does not move for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_reads_its_session_is_closed() {
    let mut arena = Arena::open(&[]).await;
    let assigner = arena.assigner();
    let before = assigner.count("sessions_overflowed_total").await;
    let hello = NodeMessage::Hello(Hello {
        peer: peer("deaf", "127.0.0.1:1"),
        http_address: "".into(),
        zone: "".into(),
        capacity_bytes: 1 << 30,
        draining: false,
        generation: Generation::NONE,
        claims: Vec::new(),
        versions: VersionRange { min: 1, max: 1 },
        lease_ms: None,
        process: None,
        cluster: ClusterId::default(),
        offers: None,
    });
    let hello = encoded(&v1::NodeMessage::from(&hello));
    let heartbeat = encoded(&v1::NodeMessage {
        message: Some(v1::node_message::Message::Heartbeat(v1::Heartbeat {
            load: Some(v1::LoadReport::default()),
            ..v1::Heartbeat::default()
        })),
    });
    let heartbeats = heartbeat.repeat(1_000);
    let grpc = assigner.grpc.clone();
    let attack = async {
        let mut raw = Raw::open_with_window(&grpc, Some(0)).await.reading();
        raw.send(&frame(HEADERS, END_HEADERS, 1, &call_headers(SESSION)))
            .await;
        raw.data(1, &hello).await;
        let endless = async { while raw.data(1, &heartbeats).await {} };
        let _ = tokio::time::timeout(SIEGE, endless).await;
    };
    arena
        .endure("a deaf session", &assigner, Bounds::growth_mib(48), attack)
        .await;
    assigner.counted("sessions_overflowed_total", before, 1.0).await;
}
