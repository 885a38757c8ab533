//! Processes that stand still for less than a second: a client whose machine is suspended, a node that is throttled by a quota.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use softstore_proto::batch::OpBatch;
use softstore_proto::v1;
use softstore_tests::embedded::PATIENCE;
use softstore_tests::process::{Process, Signal};
use softstore_tests::processes::{ProcessCluster, until};
use tokio::sync::mpsc;

/// How long an operation may take by its client's word.
const PATIENCE_MS: u64 = 500;

/// For how long the client's machine is suspended: its clock stands, and the node's does not.
const SUSPENDED_MS: u64 = 800;

/// Plan: a client with a clock of its own sends bursts of batches on one stream, says when each was sent, and that it may take half
/// a second. Then its clock stands still for 0.8 s, as that of a suspended machine does. Nothing that it sends afterwards is
/// refused as expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_suspended_is_served() {
    let cluster = ProcessCluster::start(1).await;
    let (batches, outgoing) = mpsc::channel::<OpBatch>(64);
    let outgoing = tokio_stream_of(outgoing);
    let mut cache = cluster.node("n1").cache().await;
    let mut replies = cache.stream(outgoing).await.expect("a stream").into_inner();
    let begun = Instant::now();
    let since_begun_ms = || 1 + u64::try_from(begun.elapsed().as_millis()).expect("a short test");
    let mut burst = async |behind_ms: u64| {
        const BATCHES: usize = 8;
        for _ in 0..BATCHES {
            let sent_ms = since_begun_ms() - behind_ms;
            let op = v1::Op {
                kind: v1::OpKind::Get.into(),
                key: "key".into(),
                deadline_ms: sent_ms + PATIENCE_MS,
                since_index: u32::MAX,
                ..v1::Op::default()
            };
            let batch = OpBatch::of(&vec![op; 256], &[], sent_ms, None);
            batches.send(batch).await.expect("the stream is open");
        }
        let (mut answered, mut expired) = (0, 0);
        while answered < BATCHES * 256 {
            let batch = replies.message().await.expect("the stream goes on");
            let batch = batch
                .expect("the stream goes on")
                .into_replies()
                .expect("well formed");
            answered += batch.len();
            expired += batch
                .iter()
                .filter(|reply| reply.status() == v1::Status::Expired)
                .count();
        }
        expired
    };
    for _ in 0..20 {
        assert_eq!(burst(0).await, 0);
    }
    tokio::time::sleep(Duration::from_millis(SUSPENDED_MS)).await;
    let mut expired = 0;
    for _ in 0..100 {
        expired += burst(SUSPENDED_MS).await;
    }
    println!(
        "of {} operations of a client that was suspended, {expired} were refused as expired",
        100 * 8 * 256
    );
    assert_eq!(expired, 0);
}

fn tokio_stream_of<T>(mut receiver: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::poll_fn(move |context| receiver.poll_recv(context))
}

/// Where version 1 of control groups keeps the processor's.
const CPU: &str = "/sys/fs/cgroup/cpu";

/// A control group with a quota. Its processes are let go, and it is removed, when it is dropped.
struct Quota(PathBuf);

impl Quota {
    /// So many microseconds of processor time in each tenth of a second. If that cannot be had here, says so; in CI, where the
    /// machine has the controller, that is a failure.
    fn new(test: &str, quota_us: u32) -> Option<Self> {
        let has_controller = fs::exists(format!("{CPU}/cpu.cfs_quota_us")).unwrap_or(false);
        let path = PathBuf::from(format!("{CPU}/softstore-{test}-{}", std::process::id()));
        let made = fs::create_dir(&path).and_then(|()| {
            let group = Self(path);
            fs::write(group.0.join("cpu.cfs_period_us"), "100000")?;
            fs::write(group.0.join("cpu.cfs_quota_us"), quota_us.to_string())?;
            Ok(group)
        });
        match made {
            Ok(group) => Some(group),
            Err(error) => {
                eprintln!("{test}: skipped, no quota of processor time can be set here: {error}");
                let is_ci = std::env::var("SOFTSTORE_CI").as_deref() == Ok("1");
                assert!(
                    !(has_controller && is_ci),
                    "with SOFTSTORE_CI=1 a skip is a failure"
                );
                None
            }
        }
    }

    fn hold(&self, process: &Process) {
        let pid = process.pid().as_raw_nonzero().to_string();
        fs::write(self.0.join("cgroup.procs"), pid).expect("a process can be moved");
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        for pid in fs::read_to_string(self.0.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            let _ = fs::write(format!("{CPU}/cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

const KEYS: u64 = 30_000;

/// Plan: a node under a quota of a tenth of a processor, which it uses up, stands still for most of each tenth of a second. It drains, to a node
/// without a quota, under reads of what it holds. Its peeks take longer than they are waited for usually, but the taker knows why,
/// and waits: few reads are misses. Those that are, are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_giver_is_waited_for() {
    let Some(quota) = Quota::new("a_throttled_giver_is_waited_for", 10_000) else {
        return;
    };
    let mut cluster = ProcessCluster::start(1).await;
    let client = cluster.patient_client().await;
    let entries = (0..KEYS).map(|number| (format!("key-{number}"), vec![7_u8; 1_000]));
    for written in client
        .set_many(entries, softstore_client::SetOptions::new())
        .await
    {
        written.expect("there is room");
    }
    cluster.add("n2", &[]).await;
    cluster.settled().await;
    quota.hold(&cluster.node("n1").process);

    let (stop, misses, reads) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let readers: Vec<_> = (0..16_u64)
        .map(|reader| {
            let (client, stop, misses, reads) = (client.clone(), stop.clone(), misses.clone(), reads.clone());
            tokio::spawn(async move {
                let mut number = reader * 1_777;
                while !stop.load(Ordering::Relaxed) {
                    number = (number + 7_919) % KEYS;
                    let found = client.get(format!("key-{number}")).await.expect("a read");
                    reads.fetch_add(1, Ordering::Relaxed);
                    misses.fetch_add(u64::from(found.is_none()), Ordering::Relaxed);
                }
            })
        })
        .collect();
    until("the node is throttled, and knows it", async || {
        let longest = cluster.node("n1").metrics().await.get("longest_pause_ms");
        (longest > 60.0).then_some(())
    })
    .await;
    let mut leaving = cluster.take("n1");
    leaving.process.signal(Signal::TERM);
    leaving.process.exit_within(2 * PATIENCE).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("it ends");
    }
    let taker = cluster.node("n2").metrics().await;
    let (misses, reads) = (misses.load(Ordering::Relaxed), reads.load(Ordering::Relaxed));
    let asked = taker.get("peeks_asked_total");
    let (late, unanswered) = (
        taker.get("peeks_answered_late_total"),
        taker.get("peeks_unanswered_total"),
    );
    let unconfirmed = taker.get("absences_unconfirmed_total");
    println!(
        "{reads} reads while a throttled node drained: {misses} misses; of {asked} peeks {late} were answered late and \
         {unanswered} not; {unconfirmed} absences unconfirmed"
    );
    assert!(late > 0.0, "the quota was no hindrance: nothing was tried");
    assert!(unanswered * 10.0 <= asked, "{unanswered} of {asked}");
    assert!(unconfirmed + 0.5 > unanswered, "what became a miss is counted");
}
