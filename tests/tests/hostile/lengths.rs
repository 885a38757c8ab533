//! Messages and frames that lie about their length, and headers that are too long.

use std::time::Duration;

use crate::arena::{Arena, Bounds, SIEGE};
use crate::victim::Victim;
use softstore_tests::attacker::{
    CACHE_EXECUTE, CACHE_STREAM, DATA, END_HEADERS, HEADERS, Raw, SESSION, SETTINGS, TRANSFER_PEEK,
    TRANSFER_TAKE, WINDOW_UPDATE, call_headers, frame, frame_head, header, message,
};

/// The longest message that a node takes by default: `value_bytes_max` and 8 MiB.
const NODE_MESSAGE_BYTES_MAX: u32 = 16 << 20;

/// Plan: on streams of the methods that read messages, heads of messages that announce 4 GiB, or a compression that was not
/// agreed on or does not exist. Each is answered and counted; nobody sets memory aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lying_messages_are_refused_and_counted() {
    const ROUNDS: u32 = 100;
    let mut arena = Arena::open(&[]).await;
    let (node, assigner) = (arena.node("n1"), arena.assigner());
    let lies = [
        message(0, u32::MAX, b"short"),
        message(0, NODE_MESSAGE_BYTES_MAX * 32, b"short"),
        message(1, 5, b"short"),
        message(7, 5, b"short"),
    ];
    let attack = async |victim: &Victim, paths: &[&str]| {
        let mut sent = 0_u32;
        for _ in 0..ROUNDS {
            let mut raw = Raw::open(&victim.grpc).await.reading();
            let mut stream = 1;
            for path in paths {
                for lie in &lies {
                    raw.send(&frame(HEADERS, END_HEADERS, stream, &call_headers(path)))
                        .await;
                    raw.send(&frame(DATA, 0, stream, lie)).await;
                    (stream, sent) = (stream + 2, sent + 1);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        f64::from(sent)
    };
    let before = node.count("bad_requests_total").await;
    let paths = [CACHE_STREAM, CACHE_EXECUTE, TRANSFER_TAKE, TRANSFER_PEEK];
    let bounds = Bounds::growth_mib(48);
    let sent = arena
        .endure("lying message heads", &node, bounds, attack(&node, &paths))
        .await;
    node.counted("bad_requests_total", before, sent * 0.9).await;
    let before = assigner.count("protocol_errors_total").await;
    let sent = arena
        .endure(
            "lying message heads",
            &assigner,
            bounds,
            attack(&assigner, &[SESSION]),
        )
        .await;
    assigner
        .counted("protocol_errors_total", before, sent * 0.9)
        .await;
}

/// Plan: frames that HTTP/2 forbids: longer than agreed, padding longer than the frame, a window beyond 2^31, headers on
/// stream 0, settings of an impossible size. The connection is closed each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lying_frames_end_the_connection() {
    let mut arena = Arena::open(&[]).await;
    let opened = frame(HEADERS, END_HEADERS, 1, &call_headers(CACHE_STREAM));
    let lies = [
        [&opened[..], &frame_head(DATA, 0, 1, 0x00ff_ffff), &[0; 4096]].concat(),
        [&opened[..], &frame(DATA, 8, 1, &[255, 0])].concat(),
        frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        frame(HEADERS, END_HEADERS, 0, &call_headers(CACHE_STREAM)),
        frame(SETTINGS, 0, 0, &[0, 5, 0]),
        frame(HEADERS, END_HEADERS, 1, &[0xff; 64]),
        vec![0xff; 4096],
    ];
    for victim in [arena.node("n1"), arena.assigner()] {
        let grpc = victim.grpc.clone();
        let attack = async {
            for _ in 0..20 {
                for lie in &lies {
                    let mut raw = Raw::open(&grpc).await;
                    raw.send(lie).await;
                    raw.closed().await;
                }
            }
        };
        arena
            .endure("lying frames", &victim, Bounds::growth_mib(32), attack)
            .await;
    }
}

/// Plan: four connections that begin messages as large as a node takes on 64 streams each, 3.75 GiB in all, and send as much of
/// them as they may. What is announced counts, so they are cut before it comes. Then some that begin a small message and
/// never end it: cut when the time for that is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_are_bounded() {
    const BYTES: usize = 15 << 20;
    const STREAMS: u32 = 64;
    const CONNECTIONS: usize = 4;
    let mut arena = Arena::open(&["--transit-bytes-max=64MiB", "--stall-ms-max=2000"]).await;
    let node = arena.node("n1");
    let before = node.count("connections_cut_for_memory_total").await;
    let grpc = node.grpc.clone();
    let attack = async {
        let piece = vec![0; 16 << 10];
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut raw = Raw::open(&grpc).await.reading();
            for stream in (1..2 * STREAMS).step_by(2) {
                raw.send(&frame(HEADERS, END_HEADERS, stream, &call_headers(CACHE_EXECUTE)))
                    .await;
                let head = message(0, NODE_MESSAGE_BYTES_MAX - 1, b"");
                raw.data(stream, &head).await;
            }
            'sending: for _ in 0..BYTES / piece.len() {
                for stream in (1..2 * STREAMS).step_by(2) {
                    // A node that does not take it any more has stopped the flood.
                    let sent = tokio::time::timeout(Duration::from_millis(2_000), raw.data(stream, &piece));
                    if sent.await != Ok(true) {
                        break 'sending;
                    }
                }
            }
            held.push(raw);
        }
        tokio::time::sleep(SIEGE).await;
    };
    arena
        .endure("unfinished messages", &node, Bounds::growth_mib(192), attack)
        .await;
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let connections = CONNECTIONS as f64;
    node.counted("connections_cut_for_memory_total", before, connections)
        .await;

    let before = node.count("connections_stalled_total").await;
    let mut unfinished = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut raw = Raw::open(&node.grpc).await;
        raw.call(1, CACHE_STREAM).await;
        let mut raw = raw.reading();
        raw.data(1, &message(0, 64 << 10, b"and no more")).await;
        unfinished.push(raw);
    }
    node.counted("connections_stalled_total", before, connections)
        .await;
}

/// Plan: calls with a megabyte of headers, in one field or in many, and a path of that size. Refused each time; the
/// process sets none of it aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_metadata_is_refused() {
    let mut arena = Arena::open(&[]).await;
    let many: Vec<u8> = (0..20_000)
        .flat_map(|index| header(format!("x-{index}").as_bytes(), b"some value of some length"))
        .collect();
    let blocks = [
        [
            call_headers(CACHE_STREAM),
            header(b"x-huge", &vec![b'x'; 1 << 20]),
        ]
        .concat(),
        [call_headers(CACHE_STREAM), many].concat(),
        call_headers(&format!("/{}", "x".repeat(1 << 20))),
    ];
    for victim in [arena.node("n1"), arena.assigner()] {
        let grpc = victim.grpc.clone();
        let attack = async {
            for round in 0..30 {
                for block in &blocks {
                    let mut raw = Raw::open(&grpc).await.reading();
                    let mut pieces = block.chunks(16 << 10);
                    let first = pieces.next().unwrap_or_default();
                    let mut open = raw.send(&frame(HEADERS, 0, 1, first)).await;
                    let rest: Vec<&[u8]> = pieces.collect();
                    for (index, piece) in rest.iter().enumerate() {
                        let flags = if index + 1 == rest.len() { END_HEADERS } else { 0 };
                        open = open
                            && raw
                                .send(&frame(softstore_tests::attacker::CONTINUATION, flags, 1, piece))
                                .await;
                    }
                    if round % 2 == 0 {
                        drop(raw);
                    } else {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        };
        arena
            .endure("huge metadata", &victim, Bounds::growth_mib(48), attack)
            .await;
    }
}
