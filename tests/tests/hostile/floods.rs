//! Endless small things.

use std::time::{Duration, Instant};

use softstore_proto::v1;

use crate::arena::{Arena, Bounds, SIEGE};
use crate::victim::Victim;
use softstore_tests::attacker::{
    CACHE_STREAM, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SESSION,
    SETTINGS, TRANSFER_PEEK, TRANSFER_TAKE, batch, call_headers, encoded, frame, header, message,
};

/// Connections that flood at once.
const FLOODERS: usize = 4;

/// How much is sent at once.
const BURST_BYTES: usize = 32 << 10;

/// Sends `burst` over and over on some connections; opens another where one is closed. How many were.
async fn flood(address: &str, opening: &[u8], mut burst: impl FnMut(u32) -> Vec<u8>, reads: bool) -> usize {
    let began = Instant::now();
    let mut closed = 0;
    let mut connections = Vec::new();
    let mut rounds = 0;
    while began.elapsed() < SIEGE {
        while connections.len() < FLOODERS {
            let raw = Raw::open(address).await;
            let (drain, unread) = if reads {
                (Some(raw.reading()), None)
            } else {
                (None, Some(raw))
            };
            connections.push((drain, unread, 0_u32));
            let last = connections.last_mut().expect("one was just pushed");
            send(last, opening).await;
        }
        rounds += 1;
        let mut open = Vec::new();
        for mut connection in connections {
            let bytes = burst(connection.2);
            connection.2 += 1;
            if send(&mut connection, &bytes).await {
                open.push(connection);
            } else {
                closed += 1;
            }
        }
        connections = open;
        if rounds % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    closed
}

type Flooder = (Option<softstore_tests::attacker::Drain>, Option<Raw>, u32);

/// False once the server has closed. One that takes nothing more for now is as good as one that takes it.
async fn send(flooder: &mut Flooder, bytes: &[u8]) -> bool {
    let patience = Duration::from_millis(50);
    let sent = match flooder {
        (Some(drain), _, _) => tokio::time::timeout(patience, drain.send(bytes)).await,
        (_, Some(raw), _) => tokio::time::timeout(patience, raw.send(bytes)).await,
        (None, None, _) => Ok(false),
    };
    sent.unwrap_or(true)
}

fn repeated(frame: &[u8]) -> Vec<u8> {
    frame.repeat(BURST_BYTES / frame.len())
}

async fn both_ports(what: &str, opening: &[u8], burst: impl Fn(u32) -> Vec<u8>) {
    let mut arena = Arena::open(&[]).await;
    for victim in [arena.node("n1"), arena.assigner()] {
        for reads in [true, false] {
            let grpc = victim.grpc.clone();
            let attack = flood(&grpc, opening, &burst, reads);
            let what = format!("{what}, answers {}", if reads { "read" } else { "not read" });
            arena.endure(&what, &victim, Bounds::growth_mib(64), attack).await;
        }
    }
}

/// Plan: pings without end, by senders that read the answers and by some that do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_do_not_pile_up() {
    both_ports("ping flood", &[], |_| repeated(&frame(PING, 0, 0, &[7; 8]))).await;
}

/// Plan: settings without end; each wants an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_do_not_pile_up() {
    both_ports("settings flood", &[], |_| repeated(&frame(SETTINGS, 0, 0, &[]))).await;
}

/// Calls opened and reset at once: CVE-2023-44487.
fn rapid_resets(path: &'static str) -> impl Fn(u32) -> Vec<u8> {
    const CALLS: u32 = 200;
    move |burst| {
        let block = call_headers(path);
        (0..CALLS)
            .flat_map(|index| {
                let stream = 1 + 2 * (burst * CALLS + index);
                let open = frame(HEADERS, END_HEADERS, stream, &block);
                [open, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
            .collect()
    }
}

/// By this side of the connection, and by the HTTP/2 library before the calls were seen.
async fn cut_for_resets(victim: &Victim) -> f64 {
    let metrics = victim.metrics().await;
    metrics.get("connections_cut_for_resets_total") + metrics.get("connections_faulty_total")
}

/// Plan: streams opened and reset at once, over and over, on both kinds of server. Who does that is cut, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_are_cut() {
    let mut arena = Arena::open(&[]).await;
    let victims: [(Victim, &'static str); 2] =
        [(arena.node("n1"), CACHE_STREAM), (arena.assigner(), SESSION)];
    for (victim, path) in victims {
        let before = cut_for_resets(&victim).await;
        let grpc = victim.grpc.clone();
        let attack = flood(&grpc, &[], rapid_resets(path), true);
        let closed = arena
            .endure("rapid resets", &victim, Bounds::growth_mib(160), attack)
            .await;
        assert!(closed > 0, "nobody was cut");
        let cut = cut_for_resets(&victim).await - before;
        assert!(cut > 0.5, "{closed} were cut, and {cut} counted");
    }
}

/// Plan: a header block that never ends, in CONTINUATION frames that say something, or nothing. The connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_headers_are_cut() {
    let field = header(b"x-more", b"and more and more and more");
    let begin = frame(HEADERS, 0, 1, &call_headers(CACHE_STREAM));
    let mut arena = Arena::open(&[]).await;
    for victim in [arena.node("n1"), arena.assigner()] {
        for (what, more) in [
            ("endless headers", frame(CONTINUATION, 0, 1, &field)),
            ("empty continuations", frame(CONTINUATION, 0, 1, &[])),
        ] {
            let before = victim.count("connections_faulty_total").await;
            let grpc = victim.grpc.clone();
            let attack = flood(&grpc, &begin, |_| repeated(&more), true);
            let closed = arena.endure(what, &victim, Bounds::growth_mib(48), attack).await;
            assert!(closed > 0, "{what}: nobody was cut");
            victim.counted("connections_faulty_total", before, 1.0).await;
        }
    }
}

/// Plan: one data stream that never ends, of empty batches, of batches of unknown fields only, of operations on no key, of
/// empty frames, of frames of one byte. Nothing grows beyond what the windows let in, and others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_streams_of_little_stay_little() {
    let mut arena = Arena::open(&[]).await;
    let node = arena.node("n1");
    let begin = frame(HEADERS, END_HEADERS, 1, &call_headers(CACHE_STREAM));
    let empty = batch(&[]);
    let no_key = batch(&[v1::Op::default()]);
    // Field 1,000 as a number, over and over.
    let unknown = [0xc0, 0x3e, 0x00].repeat(1_000);
    let unknown = message(0, u32::try_from(unknown.len()).expect("short"), &unknown);
    let cases = [
        ("empty batches", empty.repeat(BURST_BYTES / empty.len())),
        ("operations on no key", no_key.repeat(BURST_BYTES / no_key.len())),
        ("unknown fields", unknown.repeat(BURST_BYTES / unknown.len())),
    ];
    for (what, bytes) in cases {
        let grpc = node.grpc.clone();
        let attack = async {
            let endless = (0..FLOODERS).map(async |_| {
                let mut raw = Raw::open(&grpc).await;
                raw.call(1, CACHE_STREAM).await;
                let mut raw = raw.reading();
                while raw.data(1, &bytes).await {}
            });
            // Whoever is cut has ended too early: this is wasteful, but no harm.
            let ended = tokio::time::timeout(SIEGE, futures::future::join_all(endless)).await;
            assert!(ended.is_err(), "{what}: all were cut");
        };
        arena.endure(what, &node, Bounds::growth_mib(192), attack).await;
    }
    for (what, burst) in [
        ("empty frames", repeated(&frame(DATA, 0, 1, &[]))),
        ("frames of a byte", repeated(&frame(DATA, 0, 1, &[0]))),
    ] {
        let before = node.count("connections_faulty_total").await;
        let grpc = node.grpc.clone();
        let attack = flood(&grpc, &begin, |_| burst.clone(), true);
        arena.endure(what, &node, Bounds::growth_mib(64), attack).await;
        node.counted("connections_faulty_total", before, 1.0).await;
    }
}

/// Plan: messages of other nodes, well formed and without meaning, as fast as they go: `Peek`s of many keys and `Take`s of
/// many ranges for another life. Refused and counted; clients keep their latency.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peeks_and_takes_without_meaning_are_refused() {
    let mut arena = Arena::open(&[]).await;
    let node = arena.node("n1");
    let nobody = v1::Life {
        node: "nobody".into(),
        incarnation: 7,
    };
    let me = arena.cluster.node("n1").assignment().await;
    let me = me
        .directory()
        .iter()
        .find(|(id, _)| id.as_str() == "n1")
        .map(|(id, entry)| v1::Life {
            node: id.as_str().into(),
            incarnation: entry.incarnation.get(),
        })
        .expect("n1 is in the directory");
    let since = Some(v1::Generation {
        number: 1,
        assigner: 1,
    });
    let peek = encoded(&v1::PeekRequest {
        to: Some(me),
        taker: Some(nobody.clone()),
        keys: (0..256_u32)
            .map(|key| v1::PeekKey {
                key: key.to_be_bytes().to_vec().into(),
                since,
            })
            .collect(),
    });
    let take = encoded(&v1::TakeRequest {
        to: Some(nobody.clone()),
        taker: Some(v1::Peer {
            life: Some(nobody),
            address: "127.0.0.1:1".into(),
        }),
        ranges: Vec::new(),
    });
    let bounds = Bounds::growth_mib(256);
    // Answering a call costs so little beside reading it that thousands get a turn before an honest operation does. That all are done
    // within their deadline, a second, is judged with the errors; 99 of 100 are done with time to spare (docs/operations.md).
    let slow = bounds.with_p99(Duration::from_millis(800));
    for (what, path, request, metric, bounds) in [
        ("peek flood", TRANSFER_PEEK, peek, "peeks_served_total", bounds),
        (
            "take flood",
            TRANSFER_TAKE,
            take,
            "peer_messages_refused_total",
            slow,
        ),
    ] {
        let before = node.count(metric).await;
        let calls = |burst: u32| -> Vec<u8> {
            (0..8)
                .flat_map(|index| {
                    let stream = 1 + 2 * (burst * 8 + index);
                    let open = frame(HEADERS, END_HEADERS, stream, &call_headers(path));
                    [open, frame(DATA, END_STREAM, stream, &request)].concat()
                })
                .collect()
        };
        let grpc = node.grpc.clone();
        let attack = flood(&grpc, &[], calls, true);
        // As many calls as streams may be open, 1,024 on each connection, at some tens of KiB each.
        arena.endure(what, &node, bounds, attack).await;
        node.counted(metric, before, 100.0).await;
    }
}

/// Plan: a connection that opens 100,000 streams and closes none, and forty that open as many as they may and leave them. The first
/// is held to its limit; what an idle stream costs is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_end_are_held_to_their_limit() {
    const CONNECTIONS: usize = 40;
    const STREAMS_MAX: u32 = 1_024;
    let mut arena = Arena::open(&[]).await;
    let node = arena.node("n1");
    let grpc = node.grpc.clone();
    let open = |first: u32, count: u32| -> Vec<u8> {
        let streams = (first..first + count).map(|index| 1 + 2 * index);
        streams
            .flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &call_headers(CACHE_STREAM)))
            .collect()
    };
    let attack = async {
        let mut raw = Raw::open(&grpc).await.reading();
        let mut sent = 0;
        while sent < 100_000 && raw.send(&open(sent, 500)).await {
            sent += 500;
        }
        drop(raw);
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut raw = Raw::open(&grpc).await.reading();
            raw.send(&open(0, STREAMS_MAX)).await;
            held.push(raw);
        }
        tokio::time::sleep(SIEGE).await;
    };
    arena
        .endure("streams without end", &node, Bounds::growth_mib(512), attack)
        .await;
}
