//! What no honest peer sends. Each time: an answer that says what was wrong and what to do, a counter where it is a
//! server, and a cluster that goes on as if nothing had happened.

use std::time::Duration;

use softstore_client::{Client, ConnectError, ReadError, WriteError};
use softstore_proto::batch::OpBatch;
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_proto::v1::transfer_client::TransferClient;
use softstore_sharding::session::VersionRange;
use softstore_tests::embedded::any_port;
use softstore_tests::http::{self, Metrics};
use softstore_tests::ledger::Ledger;
use softstore_tests::process::{self, Signal};
use softstore_tests::processes::{ProcessCluster, channel, declared, life, until};
use softstore_tests::proxy::Proxy;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

const KEYS: usize = 500;

/// Bytes that begin no protocol; the same on every run.
fn garbage() -> Vec<u8> {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    let next = std::iter::repeat_with(move || {
        bits = bits
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bits.to_be_bytes()[0]
    });
    next.take(4_096).collect()
}

/// Sends bytes, and waits until the other side has closed the connection.
async fn send(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("the port listens");
    // It may be closed before all is written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// Plan: a filled cluster. Every port of a node and of the Assigner gets garbage, half a beginning of its protocol, a
/// request of the other port's protocol, and garbage behind a good beginning. Each port counts what did not even begin as
/// its protocol; every key is still there, and nobody was taken for dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_is_counted_and_changes_nothing() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let cluster = ProcessCluster::start(2).await;
    let ledger = Ledger::new(cluster.client().await, KEYS, 100);
    ledger.fill().await;
    let node = cluster.node("n1");
    for (grpc, http) in [
        (&node.grpc, &node.http),
        (&cluster.assigner_grpc, &cluster.assigner_http),
    ] {
        let before = Metrics::read(http)
            .await
            .expect("metrics")
            .get("connections_foreign_total");
        send(grpc, &garbage()).await;
        send(grpc, b"GET /metrics HTTP/1.1\r\n\r\n").await;
        send(http, &garbage()).await;
        send(http, PREFACE).await;
        let after = Metrics::read(http)
            .await
            .expect("metrics")
            .get("connections_foreign_total");
        // The preface begins as HTTP/1 would, too: with a word in capitals.
        assert!((after - before - 3.0).abs() < 0.5, "{before} {after}");
        send(grpc, &[PREFACE, &garbage()].concat()).await;
        send(grpc, &PREFACE[..10]).await;
        send(http, b"GET /\xff\xfe HTTP/9.9\r\n\x00\r\n\r\n").await;
        send(
            http,
            &[b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 1 << 20]].concat(),
        )
        .await;
        assert_eq!(http::get(http, "/nothing").await.expect("an answer").0, 404);
    }
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
    let assigner = Metrics::read(&cluster.assigner_http).await.expect("metrics");
    assert!(assigner.get("nodes_died_total") < 1.0);
}

/// Waits for the end of a connection that says nothing.
async fn closed_by_the_server(mut stream: TcpStream) {
    // An end and a reset are both as good.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// Plan: connections that say nothing at all, on every port. The cluster serves meanwhile; after a while (5 s) each is
/// closed by the server, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_are_closed_in_time() {
    let cluster = ProcessCluster::start(2).await;
    let client = cluster.client().await;
    let node = cluster.node("n1");
    let mut silent = Vec::new();
    for address in [
        &node.grpc,
        &node.http,
        &cluster.assigner_grpc,
        &cluster.assigner_http,
    ] {
        for _ in 0..8 {
            silent.push(TcpStream::connect(address).await.expect("the port listens"));
        }
    }
    for index in 0..KEYS {
        client
            .set(format!("key-{index}"), "value")
            .await
            .expect("the cluster serves");
    }
    // HTTP/2 greets first; then comes the end, or a reset.
    let closed = silent.into_iter().map(closed_by_the_server);
    let closed = futures::future::join_all(closed);
    let closed = tokio::time::timeout(Duration::from_secs(15), closed)
        .await
        .expect("each is closed in time");
    assert_eq!(closed.len(), 32);
    for http in [&node.http, &cluster.assigner_http] {
        until("they are counted", async || {
            let silent = Metrics::read(http).await.ok()?.get("connections_silent_total");
            (silent > 15.5).then_some(())
        })
        .await;
    }
    assert!(client.get("key-0").await.expect("the cluster serves").is_some());
}

/// Plan: keys of 0 and of 65,536 bytes and a value over the limit, by raw gRPC (unary and batch) and through the client;
/// the longest key and the largest value that are allowed, too. Refused with the limit in the message, and counted by
/// outcome; the allowed ones are stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_out_of_range_are_refused_by_name() {
    let cluster = ProcessCluster::start_with(1, &[], &["--value-bytes-max=100000"]).await;
    let node = cluster.node("n1");
    let mut raw = node.cache().await;
    let longest = vec![b'k'; 65_535];
    for (key, value, status, said) in [
        (vec![], 1, v1::Status::InvalidKey, "0"),
        (vec![b'k'; 65_536], 1, v1::Status::InvalidKey, "65536"),
        (b"key".to_vec(), 100_001, v1::Status::ValueTooLarge, "100000"),
    ] {
        let op = v1::Op {
            key: key.into(),
            value: vec![7; value].into(),
            ..v1::Op::default()
        };
        let reply = raw.set(op.clone()).await.expect("an answer").into_inner();
        assert_eq!(reply.status(), status);
        assert!(reply.message.contains(said), "{}", reply.message);
        let op = v1::Op {
            kind: v1::OpKind::Set.into(),
            id: 7,
            ..op
        };
        let batch = OpBatch::of(&[op], &[], 0, None);
        let replies = raw.execute(batch).await.expect("an answer").into_inner();
        let replies = replies.into_replies().expect("well formed");
        assert_eq!((replies[0].id, replies[0].status()), (7, status));
    }
    let metrics = node.metrics().await;
    let refused = |outcome| metrics.get(&format!("operations_total{{kind=\"set\",outcome=\"{outcome}\"}}"));
    assert!((refused("invalid_key") - 4.0).abs() < 0.5);
    assert!((refused("value_too_large") - 2.0).abs() < 0.5);

    let client = cluster.client().await;
    for key in [&[][..], &[b'k'; 65_536]] {
        assert!(matches!(client.get(key).await, Err(ReadError::InvalidKey(_))));
        let refused = client.set(key, "value").await;
        assert!(matches!(refused, Err(WriteError::InvalidKey(_))), "{refused:?}");
    }
    let refused = client
        .set("key", vec![7; 100_001])
        .await
        .expect_err("it is too large");
    assert!(matches!(&refused, WriteError::ValueTooLarge(_)), "{refused:?}");
    assert!(refused.to_string().contains("100000"), "{refused}");
    // One beyond what the node reads as a message would end the stream, and with it everybody's operations.
    let streams = client.metrics().streams_opened;
    let refused = client.set("key", vec![7; 20 << 20]).await;
    assert!(
        matches!(&refused, Err(WriteError::ValueTooLarge(_))),
        "{refused:?}"
    );
    assert_eq!(client.metrics().streams_opened, streams);
    client
        .set(&longest[..], vec![7; 100_000 - 65_535])
        .await
        .expect("the longest key is one");
    client
        .set("key", vec![7; 100_000])
        .await
        .expect("the largest value is one");
    assert_eq!(
        client
            .get(&longest[..])
            .await
            .expect("a read")
            .map(|value| value.len()),
        Some(100_000 - 65_535)
    );
    assert_eq!(
        client.get("key").await.expect("a read").map(|value| value.len()),
        Some(100_000)
    );
}

/// Plan: messages over the limit, batches with too many operations and operations of no kind, on unary calls and on the
/// stream, on a node and on the Assigner. Each is answered with a status that says what was wrong, and is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_over_the_limit_are_refused_and_counted() {
    let cluster = ProcessCluster::start_with(1, &[], &["--value-bytes-max=1000"]).await;
    let node = cluster.node("n1");
    let huge = v1::Op {
        key: "key".into(),
        value: vec![0; 9 << 20].into(),
        ..v1::Op::default()
    };
    let raw = || async { CacheClient::new(channel(&node.grpc).await) };
    let refused = raw().await.set(huge.clone()).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().contains("too large"), "{refused}");

    let in_stream = async |batch: OpBatch| {
        // An open stream: the refusal comes without the client's end.
        let batches = futures::StreamExt::chain(futures::stream::iter([batch]), futures::stream::pending());
        let mut replies = raw().await.stream(batches).await?.into_inner();
        replies.message().await
    };
    let refused = in_stream(OpBatch::of(&[huge], &[], 0, None)).await;
    let refused = refused.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let many = OpBatch::of(&vec![v1::Op::default(); 1_025], &[], 0, None);
    let refused = in_stream(many.clone()).await.expect_err("too many");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("1024"), "{refused}");
    assert_eq!(
        raw().await.execute(many).await.expect_err("too many").code(),
        Code::InvalidArgument
    );
    let op = v1::Op {
        kind: 99,
        key: "key".into(),
        ..v1::Op::default()
    };
    let replies = in_stream(OpBatch::of(std::slice::from_ref(&op), &[], 0, None)).await;
    let replies = replies.expect("an answer").expect("an answer").into_replies();
    let status = replies.expect("well formed")[0].status();
    assert_eq!(status, v1::Status::InvalidRequest);
    // An operation whose key says that it is longer than its message.
    let malformed = OpBatch::from_encoded(vec![0x0a, 0x03, 0x1a, 0x09, b'k'].into());
    let refused = in_stream(malformed).await.expect_err("malformed");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    // A client of the far future.
    let versions = VersionRange { min: 7, max: 9 };
    let refused = in_stream(OpBatch::of(&[op], &[], 0, Some(versions))).await;
    let refused = refused.expect_err("no common version");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("7 to 9"), "{refused}");
    let bad = node.metrics().await.get("bad_requests_total");
    assert!(bad > 5.5, "{bad}");

    // A hello that names no node, on the Assigner's port.
    let before = Metrics::read(&cluster.assigner_http)
        .await
        .expect("metrics")
        .get("protocol_errors_total");
    let hello = v1::node_message::Message::Hello(v1::Hello::default());
    let says = futures::StreamExt::chain(
        futures::stream::iter([v1::NodeMessage { message: Some(hello) }]),
        futures::stream::pending(),
    );
    let mut assigner = AssignerClient::new(channel(&cluster.assigner_grpc).await);
    let mut session = assigner.session(says).await.expect("a session").into_inner();
    let refused = session.message().await.expect_err("no hello");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let refused = assigner
        .drain(v1::DrainRequest {
            node: "no/name".into(),
        })
        .await
        .expect_err("no name");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let after = Metrics::read(&cluster.assigner_http)
        .await
        .expect("metrics")
        .get("protocol_errors_total");
    assert!(after > before, "{before} {after}");

    let client = cluster.client().await;
    client.set("key", "value").await.expect("the cluster serves");
}

/// Plan: a `Take`, a `Pull` and a `Peek` that are meant for an earlier life of a node, and one that contradicts itself.
/// Refused by their code, counted, and the node serves on what it owns: no range is fenced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_off_messages_for_another_life_are_refused() {
    let cluster = ProcessCluster::start(2).await;
    let node = cluster.node("n1");
    let present = life(&cluster.status_of("n1").await.expect("n1 is there")).clone();
    let stale = v1::Life {
        incarnation: present.incarnation ^ 1,
        ..present.clone()
    };
    let taker = life(&cluster.status_of("n2").await.expect("n2 is there")).clone();
    let assignment = node.assignment().await;
    let (slice, range) = assignment
        .ranges()
        .iter()
        .find(|(_, range)| range.owner.node.as_str() == "n1")
        .expect("n1 owns something");
    let since = v1::Generation {
        number: range.since.number + 1,
        assigner: 1,
    };
    let take = |to: &v1::Life| v1::TakeRequest {
        to: Some(to.clone()),
        taker: Some(v1::Peer {
            life: Some(taker.clone()),
            address: cluster.node("n2").grpc.clone(),
        }),
        ranges: vec![v1::TakeRange {
            slice: Some(slice.into()),
            since: Some(since),
            from: Some(range.since.into()),
        }],
    };
    let mut raw = TransferClient::new(channel(&node.grpc).await);
    let before = node.metrics().await.get("peer_messages_refused_total");
    let refused = raw.take(declared(take(&stale))).await.expect_err("another life");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused = raw
        .peek(declared(v1::PeekRequest {
            to: Some(stale.clone()),
            taker: Some(taker.clone()),
            keys: Vec::new(),
        }))
        .await
        .expect_err("another life");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused = raw
        .release(declared(v1::ReleaseRequest {
            to: Some(stale),
            taker: Some(taker.clone()),
            ranges: Vec::new(),
        }))
        .await
        .expect_err("another life");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let metrics = node.metrics().await;
    assert!((metrics.get("peer_messages_refused_total") - before - 3.0).abs() < 0.5);

    let before = metrics.get("bad_requests_total");
    let refused = raw
        .take(declared(v1::TakeRequest {
            ranges: Vec::new(),
            taker: None,
            ..take(&present)
        }))
        .await;
    assert_eq!(refused.expect_err("no taker").code(), Code::InvalidArgument);
    let metrics = node.metrics().await;
    assert!((metrics.get("bad_requests_total") - before - 1.0).abs() < 0.5);
    assert!(metrics.get("ranges_fenced_total") < 1.0);
}

/// Plan: a node behind a proxy that flips a bit in two of the chunks that it hands over when it drains. The taker refuses
/// them, counts and logs it, and asks again: in the end every entry is there, and each has the value that was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_chunk_is_refused_and_asked_for_again() {
    let mut proxy = Proxy::bind().await;
    let mut cluster = ProcessCluster::start(1).await;
    let advertised = format!("--advertise={}", proxy.address());
    let grpc = cluster.add("n2", &[&advertised]).await.grpc.clone();
    proxy.forward_to(grpc);
    cluster.settled().await;
    let ledger = Ledger::new(cluster.client().await, 2_000, 1_000);
    ledger.fill().await;
    // n1 goes, so that n2 owns all; then a fresh n3 takes that over, through the proxy.
    let mut leaving = cluster.take("n1");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.exit_code().await, 0);
    cluster.add("n3", &[]).await;
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, 2_000);

    proxy.damage(2);
    let mut leaving = cluster.take("n2");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.exit_code().await, 0);
    cluster.settled().await;
    assert_eq!(proxy.left(), 0, "the chunks passed through the proxy");
    let taker = cluster.node("n3");
    let refused = taker.metrics().await.get("chunks_refused_total");
    assert!(refused > 0.5, "{refused}");
    taker.process.logged("refused a chunk").await;
    assert_eq!(
        ledger.read_all().await,
        2_000,
        "nothing is lost, and every value is what was written"
    );
}

/// Plan: an unknown key in a file of settings, a port that is taken (by another program, and by the Assigner for a node),
/// a listener beyond loopback, seeds that are no softstore nodes. The process ends with 2 and one line that names the
/// cause and a way out; the client's error is typed and names each seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_gets_wrong_is_said() {
    let dir = TempDir::new().expect("the temporary directory is writable");
    let file = dir.path().join("softstore.toml");
    std::fs::write(&file, "[node]\nmemory_byte = 7\n").expect("the temporary directory is writable");
    let file = file.to_str().expect("its name is text");
    let taken = TcpListener::bind(any_port())
        .await
        .expect("loopback has a free port");
    let taken = taken
        .local_addr()
        .map(|at| (taken, at.to_string()))
        .expect("it has an address");
    for (arguments, expected) in [
        (vec!["node", "--config", file], vec!["memory_byte", file]),
        (
            vec!["node", "--listen", &taken.1],
            vec![&taken.1, "choose another port"],
        ),
        (
            vec!["node", "--listen=127.0.0.1:0", "--http-listen", &taken.1],
            vec![&taken.1, "choose another port"],
        ),
        (
            vec!["assigner", "--listen", &taken.1],
            vec![&taken.1, "choose another port"],
        ),
        (vec!["node", "--listen=0.0.0.0:0"], vec!["0.0.0.0", "--insecure"]),
    ] {
        let (code, out, said) = process::run(&arguments).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        assert!(
            expected.iter().all(|part| said.contains(part)),
            "{arguments:?}: {said}"
        );
    }

    let cluster = ProcessCluster::start(1).await;
    let node = cluster.node("n1");
    // A port that accepts and never answers; one that nobody has; the HTTP port of a node; the Assigner.
    let nobody = TcpListener::bind(any_port())
        .await
        .expect("a port")
        .local_addr()
        .expect("its address")
        .to_string();
    let wrong = [
        taken.1.clone(),
        nobody,
        node.http.clone(),
        cluster.assigner_grpc.clone(),
    ];
    let builder = || {
        let builder = Client::builder().connect_timeout(Duration::from_millis(500));
        builder.require_cluster(true)
    };
    match builder().seeds(wrong.clone()).connect().await {
        Err(ConnectError::Unreachable(failures)) => {
            let named: Vec<&String> = failures.iter().map(|failure| &failure.seed).collect();
            assert_eq!(named.len(), wrong.len(), "{failures:?}");
            assert!(wrong.iter().all(|seed| named.contains(&seed)), "{failures:?}");
            assert!(
                failures.iter().all(|failure| !failure.reason.is_empty()),
                "{failures:?}"
            );
        }
        other => panic!("no seed is a softstore node: {:?}", other.map(|_| "a client")),
    }
    // With one good seed among them it works.
    let seeds = wrong.into_iter().chain([node.grpc.clone()]);
    let client = builder()
        .seeds(seeds)
        .connect()
        .await
        .expect("one seed is a node");
    client.set("key", "value").await.expect("the cluster serves");
    let (code, _, said) = process::run(&["get", "key", "--seeds", &cluster.assigner_grpc]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&cluster.assigner_grpc), "{said}");
}
