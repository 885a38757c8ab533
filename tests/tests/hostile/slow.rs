//! Connections that say nothing, or a byte at a time, or vanish.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::arena::{Arena, Bounds};
use softstore_tests::attacker::{CACHE_EXECUTE, END_HEADERS, HEADERS, PREFACE, Raw, call_headers, frame};

/// Connections of each kind.
const EACH: usize = 50;

/// Sends one byte after the other until the server closes. How many it took.
async fn dribble(address: String, bytes: Vec<u8>, pause: Duration) -> usize {
    let stream = TcpStream::connect(&address).await.expect("the port listens");
    let (mut read, mut write) = stream.into_split();
    let mut gone = tokio::spawn(async move {
        let mut buffer = vec![0; 4_096];
        while let Ok(1..) = read.read(&mut buffer).await {}
    });
    for (sent, byte) in bytes.iter().enumerate() {
        if write.write_all(&[*byte]).await.is_err() {
            return sent;
        }
        tokio::select! {
            _ = &mut gone => return sent,
            () = tokio::time::sleep(pause) => {}
        }
    }
    // All is said: and now nothing.
    let _ = gone.await;
    bytes.len()
}

/// Plan: on the gRPC ports, connections that say nothing, half a preface, a preface a byte at a time, a preface and nothing
/// more, and a beginning of a call a byte at a time; on the HTTP ports, nothing, a request line a byte at a time, headers a byte
/// at a time. All at once, beside an honest client. Every one is closed by the server, within 40 s, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn slow_writers_are_cut_on_every_port() {
    let mut arena = Arena::open(&["--stall-ms-max=5000"]).await;
    let second = Duration::from_millis(500);
    let call = frame(HEADERS, END_HEADERS, 1, &call_headers(CACHE_EXECUTE));
    let opened = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let grpc_says: [Vec<u8>; 5] = [
        Vec::new(),
        PREFACE[..12].to_vec(),
        PREFACE.repeat(20),
        opened.clone(),
        [opened, call.repeat(20)].concat(),
    ];
    let header = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_vec();
    let http_says: [Vec<u8>; 3] = [
        Vec::new(),
        b"GETGETGETGETG".to_vec(),
        [header, vec![b'x'; 10_000]].concat(),
    ];
    for victim in [arena.node("n1"), arena.assigner()] {
        let before = victim.count("connections_silent_total").await;
        let (grpc, http) = (victim.grpc.clone(), victim.http.clone());
        let attack = async {
            let grpc_says = grpc_says.iter().map(|says| (grpc.clone(), says.clone()));
            let http_says = http_says.iter().map(|says| (http.clone(), says.clone()));
            let all = grpc_says.chain(http_says);
            let all = all.flat_map(|each| std::iter::repeat_n(each, EACH));
            let all: Vec<_> = all
                .map(|(address, says)| tokio::spawn(dribble(address, says, second)))
                .collect();
            let ended = tokio::time::timeout(Duration::from_secs(45), futures::future::join_all(all)).await;
            assert!(ended.is_ok(), "slow connections are kept");
        };
        arena
            .endure("slow writers", &victim, Bounds::growth_mib(48), attack)
            .await;
        // Nothing, half a preface, a slow preface; nothing and no method on HTTP.
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let expected = 5.0 * EACH as f64;
        victim.counted("connections_silent_total", before, expected).await;
    }
}

/// Plan: clients that ask for `/metrics` over and over on one connection and read nothing. The process holds no more of the
/// answers than one each, and cuts them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn slow_readers_of_pages_are_cut() {
    let mut arena = Arena::open(&["--stall-ms-max=2000"]).await;
    let node = arena.node("n1");
    let before = node.count("connections_stalled_total").await;
    let http = node.http.clone();
    let attack = async {
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
        let mut held = Vec::new();
        for _ in 0..EACH {
            let mut stream = TcpStream::connect(&http).await.expect("the port listens");
            let sent = stream.write_all(&request);
            // It stops taking requests when its answers are not read.
            let _ = tokio::time::timeout(Duration::from_millis(200), sent).await;
            held.push(stream);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        held
    };
    let held = arena
        .endure("slow readers of pages", &node, Bounds::growth_mib(64), attack)
        .await;
    #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
    let expected = EACH as f64;
    node.counted("connections_stalled_total", before, expected).await;
    drop(held);
}

/// Plan: clients that vanish without a FIN: they opened their connection and calls as they should, and from then on answer not
/// even a ping. Cut by the keepalive within 40 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn who_vanishes_is_cut() {
    let mut arena = Arena::open(&[]).await;
    for victim in [arena.node("n1"), arena.assigner()] {
        let grpc = victim.grpc.clone();
        let attack = async {
            let mut raws = Vec::new();
            for _ in 0..EACH {
                let mut raw = Raw::open(&grpc).await;
                raw.call(1, CACHE_EXECUTE).await;
                raws.push(raw);
            }
            futures::future::join_all(raws.into_iter().map(Raw::closed)).await;
        };
        arena
            .endure("vanished clients", &victim, Bounds::growth_mib(32), attack)
            .await;
    }
}
