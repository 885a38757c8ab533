//! Too many connections.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use softstore_client::Client;
use softstore_tests::processes::until;
use tokio::net::TcpStream;

use crate::arena::{Arena, Bounds, SIEGE, raise_fd_limit};
use crate::victim::MIB;
use softstore_tests::attacker::{CACHE_STREAM, Drain, Raw};

/// The crowd.
const CROWD: usize = 10_000;

/// File descriptors that a test with the crowd needs in one process.
const FDS_NEEDED: u64 = 12_000;

/// Connections that fill what is left of a table of file descriptors.
const FILLING: usize = 32;

/// Whether this machine allows the crowd. In CI it must.
fn is_crowd_allowed(test: &str) -> bool {
    let limit = raise_fd_limit();
    if limit >= FDS_NEEDED {
        return true;
    }
    let why = format!("{test}: skipped: the hard limit of open files is {limit}, and it needs {FDS_NEEDED}");
    assert!(std::env::var_os("SOFTSTORE_CI").is_none(), "{why}");
    println!("{why}");
    false
}

/// Opens connections that say what HTTP/2 wants and nothing more.
async fn crowd(address: &str, count: usize) -> Vec<Drain> {
    let mut crowd = Vec::with_capacity(count);
    for _ in 0..count {
        crowd.push(Raw::open(address).await.reading());
    }
    crowd
}

/// Plan: ten thousand idle connections on a node and on the Assigner, with room for them all. What one costs is printed; the
/// honest client does not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn ten_thousand_idle_connections_fit() {
    if !is_crowd_allowed("ten_thousand_idle_connections_fit") {
        return;
    }
    let room = ["--connections-max=11000"];
    let mut arena = Arena::open_with(2, &room, &room).await;
    for victim in [arena.node("n1"), arena.assigner()] {
        let grpc = victim.grpc.clone();
        let looked_at = victim.clone();
        let attack = async {
            let before = looked_at.resident_bytes();
            let crowd = crowd(&grpc, CROWD).await;
            let patient = until("all are accepted", async || {
                (looked_at.fds() >= CROWD).then_some(())
            });
            patient.await;
            tokio::time::sleep(SIEGE).await;
            let each = (looked_at.resident_bytes().saturating_sub(before)) / CROWD as u64;
            println!("an idle connection costs {} bytes of {}", each, looked_at.name);
            drop(crowd);
        };
        arena
            .endure(
                "10,000 idle connections",
                &victim,
                Bounds::growth_mib(320),
                attack,
            )
            .await;
    }
}

/// Plan: ten thousand idle connections on a node that takes 4,096, its default. The rest is turned away and counted; who comes
/// honestly and late still gets in, and the honest client that was there before keeps its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn a_crowd_of_idlers_locks_nobody_out() {
    if !is_crowd_allowed("a_crowd_of_idlers_locks_nobody_out") {
        return;
    }
    let mut arena = Arena::open(&[]).await;
    let node = arena.node("n1");
    let before = node.count("connections_displaced_total").await;
    let (grpc, seed) = (node.grpc.clone(), node.grpc.clone());
    let attack = async {
        let crowd = crowd(&grpc, CROWD).await;
        let late = Client::builder()
            .seeds([seed])
            .require_cluster(true)
            .connect()
            .await;
        let late = late.expect("who comes late gets in");
        for index in 0..100 {
            late.set(format!("late-{index}"), "value")
                .await
                .expect("and is served");
        }
        tokio::time::sleep(SIEGE).await;
        drop(crowd);
    };
    arena
        .endure(
            "10,000 idlers at 4,096 places",
            &node,
            Bounds::growth_mib(192),
            attack,
        )
        .await;
    node.counted("connections_displaced_total", before, 1_000.0).await;
}

/// Plan: a node with room for 64 connections, all taken by clients that are at work on streams; then it drains, and the other
/// node must reach it to take over. Connections of other nodes have places of their own: every key arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn a_full_house_does_not_lock_out_other_nodes() {
    const KEYS: usize = 2_000;
    const PLACES: usize = 64;
    let mut arena = Arena::open_with(1, &[], &["--connections-max=64"]).await;
    for index in 0..KEYS {
        let key = format!("key-{index}");
        arena
            .client
            .set(key, vec![b'v'; 1_000])
            .await
            .expect("the cluster serves");
    }
    let node = arena.node("n1");
    let before = node.count("connections_refused_total").await;
    let mut full = Vec::new();
    for _ in 0..2 * PLACES {
        let mut raw = Raw::open(&node.grpc).await;
        raw.call(1, CACHE_STREAM).await;
        full.push(raw.reading());
    }
    node.counted("connections_refused_total", before, 32.0).await;
    arena.cluster.add("n2", &[]).await;
    arena.cluster.settled().await;
    let mut leaving = arena.cluster.take("n1");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.exit_code().await, 0);
    arena.cluster.settled().await;
    drop(full);
    let mut found = 0;
    let client = arena.cluster.patient_client().await;
    for index in 0..KEYS {
        found += usize::from(
            client
                .get(format!("key-{index}"))
                .await
                .expect("a read")
                .is_some(),
        );
    }
    assert_eq!(found, KEYS, "{}", leaving.process.log());
}

/// Plan: the Assigner's places are taken by operators' calls that idle; a node that starts then gets its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn a_crowd_at_the_assigner_does_not_lock_out_nodes() {
    if !is_crowd_allowed("a_crowd_at_the_assigner_does_not_lock_out_nodes") {
        return;
    }
    let mut arena = Arena::open_with(1, &["--connections-max=500"], &[]).await;
    let assigner = arena.assigner();
    let crowd = crowd(&assigner.grpc, 2_000).await;
    arena.cluster.add("n2", &[]).await;
    arena.cluster.settled().await;
    assert!(assigner.count("connections_displaced_total").await > 1_000.0);
    drop(crowd);
}

/// Plan: a node whose table of file descriptors is full (its limit is lowered to what it has open). Who comes then is turned
/// away at once and counted, not left waiting; the node does not spin; the honest client goes on; once there is room again, others
/// get in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo test -p softstore-tests --test hostile -- --include-ignored"]
async fn a_full_table_of_files_is_survived() {
    let mut arena = Arena::open(&[]).await;
    let node = arena.node("n1");
    let errors = node.count("accept_errors_total").await;
    let pid = arena.cluster.node("n1").process.pid();
    let open = node.fds() as u64;
    let old = prlimit(
        Some(pid),
        Resource::Nofile,
        Rlimit {
            current: Some(open),
            maximum: Some(raise_fd_limit()),
        },
    );
    let old = old.expect("a process may lower its child's limit");
    let (grpc, looked_at) = (node.grpc.clone(), node.clone());
    let attack = async {
        // Numbers below the limit that are free; these connections stay.
        let filling = crowd(&grpc, FILLING).await;
        let before = looked_at.cpu();
        let mut turned_away = 0;
        for _ in 0..200 {
            let connection = TcpStream::connect(&grpc).await.expect("the backlog has room");
            let raw = {
                let (read, write) = connection.into_split();
                Raw { read, write }
            };
            let closed = tokio::time::timeout(Duration::from_secs(2), raw.closed()).await;
            turned_away += usize::from(closed.is_ok());
        }
        tokio::time::sleep(SIEGE).await;
        drop(filling);
        (turned_away, looked_at.cpu().saturating_sub(before))
    };
    let (turned_away, cpu) = arena
        .endure("a full table of files", &node, Bounds::growth_mib(16), attack)
        .await;
    assert_eq!(turned_away, 200, "nobody is left waiting");
    println!("a full table of files: {cpu:?} of processor time");
    prlimit(Some(pid), Resource::Nofile, old).expect("and raise it again");
    node.counted("accept_errors_total", errors, 1.0).await;
    let late = Client::builder()
        .seeds([node.grpc.clone()])
        .require_cluster(true)
        .connect()
        .await;
    let late = late.expect("who comes afterwards gets in");
    late.set("late", "value").await.expect("and is served");
    println!("resident: {} MiB", node.resident_bytes() / MIB);
}
