//! Leased ownership: a node serves only while the Assigner's answers to its heartbeats let it. H1 and H2 hold when it is cut
//! off, stopped, or without any Assigner; planned moves cost what they cost without leases; and the mode of a running
//! cluster is the Assigner's to change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_tests::http::Metrics;
use softstore_tests::ledger::{Counts, Ledger};
use softstore_tests::process::{self, Signal};
use softstore_tests::processes::{NodeProcess, ProcessCluster, channel, life, until};
use softstore_tests::proxy::Proxy;
use tonic::transport::Channel;

const KEYS: usize = 400;

/// The leases of these tests, and what the Assigner waits beyond one for clocks that drift.
const LEASE: Duration = Duration::from_millis(1_000);
const LEASE_WAIT: Duration = Duration::from_millis(1_102);

const ASSIGNER_FLAGS: &[&str] = &[
    "--ownership=leased",
    "--lease-ms=1000",
    "--failure-timeout-ms=1000",
    "--settle-ms=1500",
    "--rebalance-delay-ms=0",
];
const NODE_FLAGS: &[&str] = &["--failure-timeout-ms=1000", "--heartbeat-ms=200"];

fn get(index: usize) -> v1::Op {
    v1::Op {
        key: Ledger::key(index).into(),
        // Nothing is held back for long: these tests ask again.
        deadline_ms: 100,
        ..v1::Op::default()
    }
}

/// What a node itself says of a key; none if the call fails.
async fn ask(node: &mut CacheClient<Channel>, index: usize) -> Option<v1::Status> {
    let reply = node.get(get(index)).await.ok()?;
    Some(reply.into_inner().status())
}

/// Whether a node answered as an owner.
fn served(status: Option<v1::Status>) -> bool {
    matches!(status, Some(v1::Status::Ok | v1::Status::NotFound))
}

/// The keys that a node itself answers with a value.
async fn keys_served_by(node: &mut CacheClient<Channel>) -> Vec<usize> {
    let mut served = Vec::new();
    for index in 0..KEYS {
        if ask(node, index).await == Some(v1::Status::Ok) {
            served.push(index);
        }
    }
    served
}

/// Two nodes under leases, of which `n2` reaches the Assigner through a proxy; all keys are written.
struct CutOff {
    cluster: ProcessCluster,
    proxy: Proxy,
    ledger: Arc<Ledger>,
    /// `n2`, taken out of the cluster's list.
    node: NodeProcess,
    /// The keys that it owns.
    owned: Vec<usize>,
}

async fn cut_off_cluster() -> CutOff {
    let mut cluster = ProcessCluster::start_with(1, ASSIGNER_FLAGS, NODE_FLAGS).await;
    let mut proxy = Proxy::bind().await;
    proxy.forward_to(cluster.assigner_grpc.clone());
    cluster.add_at("n2", &proxy.address().to_string()).await;
    until("n2 owns its share", async || {
        let node = cluster.status_of("n2").await?;
        (cluster.status().await?.settled && node.slices > 0).then_some(())
    })
    .await;
    let ledger = Ledger::new(cluster.client().await, KEYS, 50);
    ledger.fill().await;
    let node = cluster.take("n2");
    let owned = keys_served_by(&mut node.cache().await).await;
    assert!(!owned.is_empty(), "it owns about half of the keys");
    CutOff {
        cluster,
        proxy,
        ledger,
        node,
        owned,
    }
}

/// Waits until the nodes that are in the list own everything, and nobody else lives.
async fn alone(cluster: &ProcessCluster) {
    until("the other node owns everything", async || {
        let status = cluster.status().await?;
        (status.settled && status.nodes.len() == cluster.nodes.len()).then_some(())
    })
    .await;
}

/// Plan: n2 is cut off from the Assigner, in both directions, while it is asked all the time for what it owns, and n1 is, too.
/// n2 stops answering as an owner before n1 begins: every answer of n2 was asked for before n1's first came back. Then all
/// keys are written anew, and n2, which still hears nothing, never gives a value. When the cut heals it is told that it is
/// dead, comes back, and the cluster has all that was acknowledged; no read through the client was stale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_stops_before_others_serve() {
    let CutOff {
        mut cluster,
        proxy,
        ledger,
        node: cut_off,
        owned,
    } = cut_off_cluster().await;
    let old_life = life(&cluster.status_of("n2").await.expect("n2 is there")).clone();
    let load = ledger.run(2, Duration::from_millis(2));
    let mut old = cut_off.cache().await;
    let mut new = cluster.node("n1").cache().await;

    proxy.cut(true);
    let cut_at = Instant::now();
    let (key, mut last_asked) = (owned[0], cut_at);
    let first_answered = loop {
        let asked = Instant::now();
        if served(ask(&mut old, key).await) {
            last_asked = asked;
        }
        if served(ask(&mut new, key).await) {
            break Instant::now();
        }
        assert!(
            cut_at.elapsed() < softstore_tests::embedded::PATIENCE,
            "n1 never serves"
        );
    };
    let served_for = last_asked - cut_at;
    assert!(
        served_for < LEASE,
        "it served for {served_for:?} after its last word"
    );
    assert!(first_answered > last_asked);
    alone(&cluster).await;
    load.stop().await;
    ledger.fill_at_last().await;
    for index in &owned {
        let status = ask(&mut old, *index).await;
        assert!(
            !served(status),
            "{status:?} for key {index}, which it does not own any more"
        );
    }
    let metrics = cut_off.metrics().await;
    assert!(metrics.get("leases_ended_total") > 0.5);
    assert!(metrics.get("operations_without_lease_total") > 0.5);
    assert!(metrics.get("lease_remaining_seconds") < 0.001);
    assert!((metrics.get("lease_length_seconds") - 1.0).abs() < 0.001);
    cut_off.process.logged("the lease is over").await;
    let (code, why) = cut_off.ready().await.expect("its HTTP port answers");
    assert_eq!((code, why.contains("lease")), (503, true), "{why}");

    proxy.cut(false);
    until("it came back as a new life", async || {
        let node = cluster.status_of("n2").await?;
        (life(&node).incarnation != old_life.incarnation).then_some(())
    })
    .await;
    cluster.nodes.push(cut_off);
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
    assert_eq!(Counts::of(&ledger.counts.stale), 0);
    assert_eq!(Counts::of(&ledger.counts.errors), 0);
    assert!(cluster.node("n2").metrics().await.get("lease_remaining_seconds") > 0.1);
}

/// Plan: n2 is stopped (SIGSTOP) until n1 owns everything, all keys are written anew, and n2 is woken, cut off from the
/// Assigner. It is asked directly for twice a lease, and longer than a node without leases waits before it serves on: it never
/// gives a value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_wakes_without_an_assigner_serves_nothing() {
    let CutOff {
        mut cluster,
        proxy,
        ledger,
        node: zombie,
        owned,
    } = cut_off_cluster().await;
    let mut direct = zombie.cache().await;
    zombie.process.stand_still().await;
    proxy.cut(true);
    alone(&cluster).await;
    ledger.fill_at_last().await;

    zombie.process.signal(Signal::CONT);
    let woken = Instant::now();
    let mut answers = 0;
    while woken.elapsed() < 2 * LEASE {
        for index in &owned {
            let status = ask(&mut direct, *index).await;
            assert!(!served(status), "{status:?}, {:?} after it woke", woken.elapsed());
            answers += u32::from(status.is_some());
        }
    }
    assert!(answers > 0, "it is awake");
    proxy.cut(false);
    cluster.nodes.push(zombie);
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
    assert_eq!(Counts::of(&ledger.counts.stale), 0);
}

/// Plan: two nodes under load; the Assigner is killed. After a lease nobody serves; no acknowledged write is lost and no read
/// is stale. Another Assigner starts: it publishes nothing before a lease and the drift allowance are over, then all keys are
/// served by whom they were served before, and nothing was moved or lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_assigner_serving_ends_and_begins_again() {
    let mut cluster = ProcessCluster::start_with(2, ASSIGNER_FLAGS, NODE_FLAGS).await;
    let ledger = Ledger::new(cluster.client().await, KEYS, 50);
    ledger.fill().await;
    let (mut first, mut second) = (cluster.node("n1").cache().await, cluster.node("n2").cache().await);
    let owned = [
        keys_served_by(&mut first).await,
        keys_served_by(&mut second).await,
    ];
    assert_eq!(owned[0].len() + owned[1].len(), KEYS);
    let load = ledger.run(2, Duration::from_millis(2));

    cluster.kill_assigner().await;
    for node in &cluster.nodes {
        until("its lease is over", async || {
            (node.metrics().await.get("leases_ended_total") > 0.5).then_some(())
        })
        .await;
    }
    assert_eq!(
        keys_served_by(&mut first).await.len() + keys_served_by(&mut second).await.len(),
        0
    );
    let begun = Instant::now();
    cluster.start_assigner_again().await;
    until("the new Assigner publishes", async || {
        (!cluster.status().await?.recovering).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= LEASE_WAIT, "{:?}", begun.elapsed());
    cluster.settled().await;
    load.stop().await;
    for metric in ["ranges_fenced_total", "entries_imported_total", "rebirths_total"] {
        assert!(cluster.sum(metric).await < 1.0, "{metric}");
    }
    ledger.fill().await;
    assert_eq!(ledger.read_all().await, KEYS);
    assert_eq!(keys_served_by(&mut first).await, owned[0]);
    assert_eq!(keys_served_by(&mut second).await, owned[1]);
    assert_eq!(Counts::of(&ledger.counts.stale), 0);
    assert_eq!(Counts::of(&ledger.counts.errors), 0);
}

/// Plan: leases of 6 s. Each of three nodes drains and comes back under its name. Nothing is lost, and each time others have
/// taken all over long before a lease could have ended: nobody waits for the lease of a node that says goodbye.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_waits_for_no_lease_and_loses_nothing() {
    let long = [
        "--ownership=leased",
        "--lease-ms=6000",
        "--rebalance-delay-ms=500",
    ];
    let mut cluster = ProcessCluster::start_with(3, &long, &[]).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 200);
    ledger.fill().await;
    for id in ["n1", "n2", "n3"] {
        let mut node = cluster.take(id);
        let begun = Instant::now();
        node.process.signal(Signal::TERM);
        assert_eq!(node.process.exit_code().await, 0);
        assert!(node.process.log().contains("drained: all was handed over"));
        cluster.settled().await;
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        assert_eq!(ledger.read_all().await, KEYS, "after the drain of {id}");
        cluster.add(id, &[]).await;
        cluster.settled().await;
        assert_eq!(ledger.read_all().await, KEYS, "after the return of {id}");
    }
    assert_eq!(Counts::of(&ledger.counts.stale), 0);
}

/// Plan: a cluster without leases, under load, gets an Assigner with leases, then one with shorter ones, then one without.
/// Each time the cluster settles when all nodes serve as the new one says, without any move; and while leases hold, the
/// status and the nodes' metrics say so. Nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mode_of_a_running_cluster_can_be_changed() {
    let mut cluster = ProcessCluster::start(2).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 50);
    ledger.fill().await;
    for (flags, lease_ms) in [
        (&["--ownership=leased", "--lease-ms=2000"][..], 2_000),
        (&["--ownership=leased", "--lease-ms=1000"], 1_000),
        (&["--ownership=available"], 0),
    ] {
        cluster.restart_assigner_with(flags).await;
        cluster.settled().await;
        let status = cluster.status().await.expect("the Assigner answers");
        assert_eq!(status.lease_ms, lease_ms);
        for node in &cluster.nodes {
            assert_eq!(
                cluster.status_of(&node.id).await.expect("it lives").lease_ms,
                lease_ms
            );
            let length = node.metrics().await.get("lease_length_seconds");
            let wanted = Duration::from_millis(lease_ms).as_secs_f64();
            assert!((length - wanted).abs() < 0.001, "{length}");
        }
        assert_eq!(ledger.read_all().await, KEYS, "with {flags:?}");
    }
    assert!(cluster.sum("ranges_fenced_total").await < 1.0);
    assert!(cluster.sum("rebirths_total").await < 1.0);
    assert_eq!(Counts::of(&ledger.counts.stale), 0);
}

/// Plan: a node of a build that knows no leases (session version 1) says hello, to an Assigner with leases and to one
/// without. The first refuses it, says why, and counts it; the second takes it in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knows_no_leases_is_refused_where_there_are_leases() {
    use v1::assigner_message::Message;
    for (flags, refused) in [(ASSIGNER_FLAGS, true), (&[], false)] {
        let cluster = ProcessCluster::start_with(1, flags, NODE_FLAGS).await;
        let hello = v1::Hello {
            peer: Some(v1::Peer {
                life: Some(v1::Life {
                    node: "old".to_owned(),
                    incarnation: 7,
                }),
                address: "127.0.0.1:1".to_owned(),
            }),
            versions: Some(v1::VersionRange { min: 1, max: 1 }),
            ..v1::Hello::default()
        };
        let message = Some(v1::node_message::Message::Hello(hello));
        let said = futures::stream::iter([v1::NodeMessage { message }]).chain(futures::stream::pending());
        let mut assigner = AssignerClient::new(channel(&cluster.assigner_grpc).await);
        let mut session = assigner
            .session(said)
            .await
            .expect("a session opens")
            .into_inner();
        let answer = session.message().await.expect("an answer").expect("an answer");
        let metrics = Metrics::read(&cluster.assigner_http).await.expect("metrics");
        if refused {
            let Some(Message::Refused(refusal)) = answer.message else {
                panic!("{answer:?}")
            };
            assert!(refusal.reason.contains("knows no leases"), "{}", refusal.reason);
            assert!(metrics.get("protocol_errors_total") > 0.5);
            cluster.assigner.logged("knows no leases").await;
        } else {
            assert!(matches!(answer.message, Some(Message::Update(_))), "{answer:?}");
        }
    }
}

/// Plan: leases out of their range, and a mode that there is not, end the Assigner with code 2 and say what to choose.
#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    for (flags, expected) in [
        (["--ownership=leased", "--lease-ms=499"], "choose 500 to 60000"),
        (["--ownership=borrowed", "--lease-ms=1000"], "available, leased"),
    ] {
        let (code, _, said) =
            process::run(&[&["assigner", "--listen=127.0.0.1:0"][..], &flags].concat()).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
