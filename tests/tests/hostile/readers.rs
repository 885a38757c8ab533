//! Clients that ask and do not read.

use std::time::Duration;

use softstore_proto::v1;

use softstore_tests::processes::until;

use crate::arena::{Arena, Bounds, SIEGE};
use crate::victim::{MIB, Victim};
use softstore_tests::attacker::{
    CACHE_EXECUTE, CACHE_STREAM, CACHE_WATCH, DATA, END_HEADERS, END_STREAM, HEADERS, Raw, WINDOW_UPDATE,
    batch, call_headers, encoded, frame,
};

/// A value that makes answers much larger than questions.
const VALUE_BYTES: usize = 1 << 20;

/// Values there are.
const VALUES: usize = 8;

/// Clients that do not read.
const CONNECTIONS: usize = 8;

/// What a node may hold of answers that nobody reads, in this test.
const TRANSIT_MIB: u64 = 64;

fn flags() -> [String; 2] {
    [
        format!("--transit-bytes-max={TRANSIT_MIB}MiB"),
        "--stall-ms-max=2000".to_owned(),
    ]
}

async fn arena_with_values() -> Arena {
    let flags = flags();
    let arena = Arena::open_with(1, &[], &flags.each_ref().map(String::as_str)).await;
    for index in 0..VALUES {
        arena
            .client
            .set(format!("large-{index}"), vec![7; VALUE_BYTES])
            .await
            .expect("the cluster serves");
    }
    arena
}

/// A batch that asks for some megabytes.
fn question() -> Vec<u8> {
    let ops = (0..VALUES).map(|index| v1::Op {
        kind: v1::OpKind::Get.into(),
        key: format!("large-{index}").into_bytes().into(),
        since_index: 9,
        ..v1::Op::default()
    });
    batch(&ops.collect::<Vec<_>>())
}

/// Asks on so many streams of so many connections, and reads nothing.
async fn ask(victim: &Victim, path: &str, connections: usize, streams: u32, window: u32) -> Vec<Raw> {
    let question = question();
    let flags = if path == CACHE_EXECUTE { END_STREAM } else { 0 };
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut raw = Raw::open_with_window(&victim.grpc, Some(window)).await;
        if window > 0 {
            // As much for all streams together.
            raw.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()))
                .await;
        }
        for stream in (1..2 * streams).step_by(2) {
            let call = frame(HEADERS, END_HEADERS, stream, &call_headers(path));
            let asked = [call, frame(DATA, flags, stream, &question)].concat();
            let sent = tokio::time::timeout(Duration::from_millis(500), raw.send(&asked)).await;
            if sent.is_err() {
                break;
            }
        }
        held.push(raw);
    }
    tokio::time::sleep(SIEGE).await;
    held
}

/// Plan: clients that ask for megabytes on many streams: with a window of 0, so that nothing may be sent; with one of 16 MiB
/// and a socket that they never read; on data streams and by unary calls. The node holds no more than its bound for such
/// bytes, and cuts them after `stall_ms_max`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn who_never_reads_replies_is_cut() {
    for (what, path, window) in [
        ("replies not read, window 0, streams", CACHE_STREAM, 0),
        ("replies not read, window 0, unary", CACHE_EXECUTE, 0),
        ("replies not read, window 16 MiB, streams", CACHE_STREAM, 16 << 20),
        ("replies not read, window 16 MiB, unary", CACHE_EXECUTE, 16 << 20),
    ] {
        // A fresh process each time: its allocator keeps what the one before had.
        let mut arena = arena_with_values().await;
        let node = arena.node("n1");
        let victim = node.clone();
        let attack = ask(&victim, path, CONNECTIONS, 64, window);
        // What is bounded; as much on its way until the sweep comes; the allocator's part.
        let bounds = Bounds::growth_mib(2 * TRANSIT_MIB + 64);
        let held = arena.endure(what, &node, bounds, attack).await;
        let cut = async || {
            let metrics = node.metrics().await;
            // What was refused for want of memory owes nothing that could stall; its client answers no ping either.
            let cut = metrics.get("connections_stalled_total")
                + metrics.get("connections_cut_for_memory_total")
                + metrics.get("connections_vanished_total");
            (cut > CONNECTIONS as f64 - 0.5).then_some(())
        };
        until("each is cut", cut).await;
        drop(held);
    }
    println!(
        "one answer holds up to {} MiB",
        (4 * MIB + VALUE_BYTES as u64) / MIB
    );
}

/// Plan: a client that sends batches for ever and never reads an answer: the node stops reading from it, holds a window's worth and
/// one message, and cuts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn who_writes_and_never_reads_is_not_read_from() {
    let mut arena = arena_with_values().await;
    let node = arena.node("n1");
    let before = node.count("connections_stalled_total").await;
    let grpc = node.grpc.clone();
    let attack = async {
        // In frames of the common size: floods of small ones are another matter.
        let question = question().repeat(100);
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut raw = Raw::open_with_window(&grpc, Some(0)).await;
            raw.call(1, CACHE_STREAM).await;
            let mut raw = raw.reading();
            let endless = async { while raw.data(1, &question).await {} };
            let stopped = tokio::time::timeout(Duration::from_millis(500), endless).await;
            assert!(stopped.is_err(), "the connection was closed too early");
            held.push(raw);
        }
        tokio::time::sleep(SIEGE).await;
        held
    };
    let held = arena
        .endure("writes and never reads", &node, Bounds::growth_mib(128), attack)
        .await;
    node.counted("connections_stalled_total", before, 4.0).await;
    drop(held);
}

/// Plan: a thousand watchers that read the first assignment and nothing more, while many assignments are published (nodes join and
/// leave); none is kept for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn watchers_that_do_not_read_cost_little() {
    let mut arena = Arena::open(&[]).await;
    let node = arena.node("n1");
    let grpc = node.grpc.clone();
    let watch = encoded(&v1::WatchRequest { held: None });
    let attack = async {
        let mut held = Vec::new();
        for _ in 0..100 {
            let mut raw = Raw::open_with_window(&grpc, Some(0)).await;
            for stream in (1..20).step_by(2) {
                raw.call(stream, CACHE_WATCH).await;
                raw.send(&frame(DATA, END_STREAM, stream, &watch)).await;
            }
            held.push(raw);
        }
        tokio::time::sleep(SIEGE).await;
    };
    arena
        .endure("watchers that do not read", &node, Bounds::growth_mib(64), attack)
        .await;
}
