//! One client through all of a rolling restart: what was acknowledged holds, once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use softstore_client::{Client, SetOptions, SetOutcome, WriteError};
use softstore_tests::embedded::PATIENCE;
use softstore_tests::ledger::{Counts, Ledger};
use softstore_tests::process::Signal;
use softstore_tests::processes::ProcessCluster;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Keys of the ledger, counters, and registers changed by CAS.
const KEYS: usize = 400;
const COUNTERS: usize = 20;
const REGISTERS: usize = 20;

/// What makes a hand-off last: entries that nobody touches meanwhile.
const BALLAST: usize = 6_000;
const BALLAST_BYTES: usize = 16_384;

/// Ballast is written and read so many at a time.
const IN_FLIGHT: usize = 256;

const WORKERS: usize = 4;

/// What the workers on counters or registers saw.
#[derive(Debug, Default)]
struct Seen {
    /// Per key: each number that an acknowledged change produced.
    produced: Vec<Vec<i64>>,
    /// Changes whose outcome is unknown.
    unknown: usize,
}

/// Adds 1 to all counters, over and over.
async fn add(client: Client, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen {
        produced: vec![Vec::new(); COUNTERS],
        unknown: 0,
    };
    while !stop.load(Ordering::Relaxed) {
        for index in 0..COUNTERS {
            match client.add(format!("counter-{index}"), 1).await {
                Ok(number) => seen.produced[index].push(number),
                Err(WriteError::OutcomeUnknown(_)) => seen.unknown += 1,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    seen
}

/// Reads all registers and sets each to one more, if nobody did meanwhile, over and over.
async fn compare_and_set(client: Client, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen {
        produced: vec![Vec::new(); REGISTERS],
        unknown: 0,
    };
    while !stop.load(Ordering::Relaxed) {
        for index in 0..REGISTERS {
            let key = format!("register-{index}");
            let Some(found) = client.get_with_version(&key).await.expect("reads never fail") else {
                panic!("{key} is lost");
            };
            let number: i64 = str::from_utf8(&found.value)
                .expect("text")
                .parse()
                .expect("a number");
            let options = SetOptions::new().if_version(found.version);
            match client.set_with(&key, (number + 1).to_string(), options).await {
                Ok(SetOutcome::Stored(_)) => seen.produced[index].push(number + 1),
                Ok(SetOutcome::ConditionFailed { .. }) => {}
                Err(WriteError::OutcomeUnknown(_)) => seen.unknown += 1,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    seen
}

/// No two acknowledged changes of a key produced the same number, and the last number is their count, give or take the
/// changes of which nobody knows.
fn judge(all: &[Seen], finals: &[i64]) {
    let unknown: usize = all.iter().map(|seen| seen.unknown).sum();
    let mut surplus = 0;
    for (index, last) in finals.iter().enumerate() {
        let produced: Vec<i64> = all
            .iter()
            .flat_map(|seen| seen.produced[index].iter().copied())
            .collect();
        let distinct: HashSet<i64> = produced.iter().copied().collect();
        assert_eq!(
            distinct.len(),
            produced.len(),
            "key {index}: two changes gave the same number"
        );
        let acknowledged = i64::try_from(produced.len()).expect("a count");
        assert!(
            *last >= acknowledged,
            "key {index}: {last} after {acknowledged} acknowledged changes"
        );
        assert!(acknowledged > 0, "key {index} was changed");
        surplus += usize::try_from(last - acknowledged).expect("a count");
    }
    assert!(
        surplus <= unknown,
        "{surplus} changes too many, {unknown} of unknown outcome"
    );
    // A planned end leaves no operation unanswered.
    assert_eq!(unknown, 0, "a rolling restart made outcomes unknown");
}

/// Plan: three nodes with 100 MB of ballast, so that each hand-off lasts; one client with a ledger (set, delete, get),
/// counters and CAS registers under load, all the time. Each node in turn drains by SIGTERM and comes back at another
/// address, until all three are new and filled: the client knows no address any more that it began with. Peeks have
/// happened. No read was stale, none missed what was never deleted; no counter or register lost or doubled a change; no
/// write had an unknown outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_follows_a_rolling_restart_and_changes_count_once() {
    // A peek that a busy machine answers late counts as absent, which is right, but would make a counter start anew.
    let mut cluster =
        ProcessCluster::start_with(3, &["--rebalance-delay-ms=1000"], &["--peek-timeout-ms=10000"]).await;
    let client = cluster.patient_client().await;
    fill(&client).await;
    let ledger = Ledger::new(client.clone(), KEYS, 200);
    ledger.fill().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut adders, mut setters) = (JoinSet::new(), JoinSet::new());
    for _ in 0..WORKERS {
        adders.spawn(add(client.clone(), stop.clone()));
        setters.spawn(compare_and_set(client.clone(), stop.clone()));
    }
    let load = ledger.run(WORKERS, Duration::from_millis(2));

    let mut peeks = 0.0;
    for id in ["n1", "n2", "n3"] {
        let mut leaving = cluster.take(id);
        leaving.process.signal(Signal::TERM);
        assert_eq!(leaving.process.exit_code().await, 0);
        assert!(
            leaving.process.log().contains("drained: all was handed over"),
            "{}",
            leaving.process.log()
        );
        cluster.settled().await;
        cluster.add(id, &[]).await;
        cluster.settled().await;
        peeks += cluster.sum("peeks_asked_total").await;
    }
    assert!(
        peeks > 0.0,
        "nothing was asked for during a pull: the hand-offs were too short to prove anything"
    );

    stop.store(true, Ordering::Relaxed);
    load.stop().await;
    let (added, set) = (adders.join_all().await, setters.join_all().await);
    let counters =
        futures::future::join_all((0..COUNTERS).map(|index| client.add(format!("counter-{index}"), 0)));
    let counters: Vec<i64> = counters
        .await
        .into_iter()
        .map(|number| number.expect("an add"))
        .collect();
    judge(&added, &counters);
    let registers =
        futures::future::join_all((0..REGISTERS).map(|index| client.get(format!("register-{index}"))));
    let registers = registers
        .await
        .into_iter()
        .map(|value| value.expect("a read").expect("a register"));
    let registers: Vec<i64> = registers
        .map(|value| str::from_utf8(&value).expect("text").parse().expect("a number"))
        .collect();
    judge(&set, &registers);

    let counts = &ledger.counts;
    assert_eq!((Counts::of(&counts.stale), Counts::of(&counts.errors)), (0, 0));
    assert_eq!(
        (Counts::of(&counts.unknown), Counts::of(&counts.unavailable)),
        (0, 0)
    );
    let mut there = 0;
    for some in (0..BALLAST).collect::<Vec<_>>().chunks(IN_FLIGHT) {
        let reads = some.iter().map(|index| client.get(format!("ballast-{index}")));
        let reads = futures::future::join_all(reads).await.into_iter();
        there += reads
            .filter(|read| matches!(read, Ok(Some(value)) if value.len() == BALLAST_BYTES))
            .count();
    }
    assert_eq!(there, BALLAST);
}

/// The ballast, and every register at 0.
async fn fill(client: &Client) {
    for index in 0..REGISTERS {
        client
            .set(format!("register-{index}"), "0")
            .await
            .expect("a set succeeds");
    }
    let all: Vec<usize> = (0..BALLAST).collect();
    for some in all.chunks(IN_FLIGHT) {
        let sets = some
            .iter()
            .map(|index| client.set(format!("ballast-{index}"), vec![b'b'; BALLAST_BYTES]));
        for set in futures::future::join_all(sets).await {
            set.expect("a set succeeds");
        }
    }
}

/// Plan: a client with four seeds of which only the last lives, and not for long: two of the dead do not listen, one
/// accepts and says nothing. It connects; the node then moves to another address by a replacement that takes over all.
/// The client follows, with every value, and a new client that knows only the replacement finds the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_living_seed_is_enough() {
    let mut cluster = ProcessCluster::start(1).await;
    let mute = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let mute_at = mute.local_addr().expect("it has an address").to_string();
    let mut seeds = vec![mute_at];
    for _ in 0..2 {
        let gone = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        seeds.push(gone.local_addr().expect("it has an address").to_string());
    }
    seeds.push(cluster.node("n1").grpc.clone());
    let client = Client::builder()
        .seeds(seeds)
        .require_cluster(true)
        .connect()
        .await
        .expect("one seed lives")
        .with_timeout(PATIENCE);
    let ledger = Ledger::new(client.clone(), KEYS, 100);
    ledger.fill().await;

    cluster.add("n2", &[]).await;
    cluster.settled().await;
    let mut leaving = cluster.take("n1");
    leaving.process.signal(Signal::TERM);
    assert_eq!(leaving.process.exit_code().await, 0);
    assert_eq!(ledger.read_all().await, KEYS);
    cluster.settled().await;
    assert_eq!(ledger.read_all().await, KEYS);
    ledger.fill().await;
    assert_eq!(ledger.read_all().await, KEYS);
    let other = cluster.patient_client().await;
    assert!(other.get(Ledger::key(0)).await.expect("a read").is_some());
}
