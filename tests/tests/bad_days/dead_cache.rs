//! An application beside a cache that is dead, in part or whole: it must not notice more than that it loads more.

use std::io;
use std::time::{Duration, Instant};

use softstore_client::{Client, SliceKey};
use softstore_tests::embedded::PATIENCE;
use softstore_tests::process::{self, Signal};
use softstore_tests::processes::{ProcessCluster, until};

/// Ten times what a call takes on a quiet machine that waits for nothing, and a third of what it takes to wait for a deadline.
const QUICK: Duration = Duration::from_millis(300);

/// Keys that everybody wants, of one node.
const HOT_KEYS: usize = 20;

/// Callers at a time.
const CALLERS: usize = 8;

/// Keys that a node owns.
async fn keys_of(cluster: &ProcessCluster, id: &str, count: usize) -> Vec<String> {
    let assignment = cluster.node(id).assignment().await;
    let owner = |key: &String| {
        let (_, range) = assignment
            .ranges()
            .get_with_slice(SliceKey::of_key(key.as_bytes()));
        range.owner.node.as_str().to_owned()
    };
    let keys = (0..).map(|number| format!("key-{number}"));
    keys.filter(|key| owner(key) == id).take(count).collect()
}

/// Loads keys through the cache until `end`, from several tasks, with a database that takes a millisecond. How long each call
/// took, shortest first.
async fn load_until(client: &Client, keys: &[String], end: Instant) -> Vec<Duration> {
    let callers = (0..CALLERS).map(|caller| {
        let (client, keys) = (client.clone(), keys.to_vec());
        tokio::spawn(async move {
            let mut took = Vec::new();
            for key in keys.iter().cycle().skip(caller) {
                if Instant::now() >= end {
                    break;
                }
                let begun = Instant::now();
                let load = async || {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Ok::<_, io::Error>("loaded")
                };
                let loaded = client.get_or_load(key, None, load).await;
                assert_eq!(loaded.expect("the database is well"), "loaded");
                took.push(begun.elapsed());
            }
            took
        })
    });
    let mut took = Vec::new();
    for caller in futures::future::join_all(callers).await {
        took.extend(caller.expect("it ends"));
    }
    took.sort_unstable();
    took
}

/// So many in a hundred are as short as this.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Plan: three nodes; an application loads hot keys of one of them through the cache. That node is killed. Until another one owns
/// its ranges, nothing can be stored there: no call waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_owner_holds_no_load_up() {
    let mut cluster = ProcessCluster::start(3).await;
    let client = cluster.client().await;
    let keys = keys_of(&cluster, "n2", HOT_KEYS).await;
    let mut killed = cluster.take("n2");
    killed.process.signal(Signal::KILL);
    killed.process.exit_within(PATIENCE).await;
    // The failure timeout is 3 s.
    let took = load_until(&client, &keys, Instant::now() + Duration::from_secs(3)).await;
    let (median, p99) = (percentile(&took, 50), percentile(&took, 99));
    println!(
        "get_or_load of {} calls beside a dead owner: median {median:?}, p99 {p99:?}",
        took.len()
    );
    assert!(p99 < QUICK, "{p99:?}");
    assert!(client.metrics().fills_failed > 0, "nothing could be stored");
    cluster.settled().await;
    until("loads are stored again", async || {
        let load = async || Ok::<_, io::Error>("loaded");
        let loaded = client.get_or_load(&keys[0], None, load).await;
        loaded.expect("the database is well");
        client.get(&keys[0]).await.expect("a read")
    })
    .await;
}

/// Plan: an application is served by two nodes; both are killed. Reads, loads and writes are quick all the time: misses, loads,
/// and errors that say that nothing was applied. Nodes come back, at other addresses, so the application is told of one by a
/// restart: it starts while none is there, and is served when there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_cluster_is_no_reason_to_wait_or_not_to_start() {
    let mut cluster = ProcessCluster::start(2).await;
    let client = cluster.client().await;
    client.set("key", "value").await.expect("it is there");
    let address = cluster.node("n1").grpc.clone();
    for id in ["n1", "n2"] {
        let mut killed = cluster.take(id);
        killed.process.signal(Signal::KILL);
        killed.process.exit_within(PATIENCE).await;
    }
    let restarted = Client::builder().seeds([address.clone()]).connect().await;
    let restarted = restarted.expect("an application starts without its cache");
    assert!(!restarted.health().is_following());
    until("the cluster counts as absent", async || {
        let begun = Instant::now();
        client.set("key", "other").await.expect_err("nobody is there");
        (begun.elapsed() < QUICK).then_some(())
    })
    .await;
    let keys: Vec<String> = (0..HOT_KEYS).map(|number| format!("key-{number}")).collect();
    let took = load_until(&client, &keys, Instant::now() + Duration::from_secs(1)).await;
    let p99 = percentile(&took, 99);
    println!(
        "get_or_load of {} calls without a cluster: p99 {p99:?}",
        took.len()
    );
    assert!(p99 < QUICK, "{p99:?}");
    let error = client.set("key", "other").await.expect_err("nobody is there");
    assert!(error.has_no_side_effects() && error.is_retryable(), "{error}");

    cluster.add("n3", &[&format!("--listen={address}")]).await;
    until("the application finds the node", async || {
        restarted.set("key", "new").await.ok()
    })
    .await;
    assert!(restarted.health().is_following());
}

/// Plan: three nodes, of which the first is killed. Without being told of a node the command line asks the Assigner who there is, and
/// reads and writes what the others own at once, and everything once the Assigner has given the dead one's ranges away. Told of
/// several nodes, a dead one among them is no obstacle. If nobody answers, the error says what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_asks_who_lives() {
    let mut cluster = ProcessCluster::start(3).await;
    let assigner = cluster.assigner_grpc.clone();
    let living = keys_of(&cluster, "n2", 1).await.remove(0);
    let dead = keys_of(&cluster, "n1", 1).await.remove(0);
    let mut killed = cluster.take("n1");
    killed.process.signal(Signal::KILL);
    killed.process.exit_within(PATIENCE).await;
    let set = ["set", &living, "value", "--json", "--assigner", &assigner];
    let (code, out, said) = process::run(&set).await;
    assert_eq!(code, Some(0), "{said}");
    let stored: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let version = stored["version"].as_str().expect("a version is a string");
    let get = ["get", &living, "--json", "--assigner", &assigner];
    let (code, out, said) = process::run(&get).await;
    assert_eq!(code, Some(0), "{said}");
    let found: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(found["version"], version);
    // As jq prints it.
    let version = found["version"].to_string();
    let change = [
        "set",
        &living,
        "other",
        "--if-version",
        &version,
        "--assigner",
        &assigner,
    ];
    let (code, _, said) = process::run(&change).await;
    assert_eq!(code, Some(0), "{said}");
    let seeds = format!("{},{}", killed.grpc, cluster.node("n3").grpc);
    let (code, out, said) = process::run(&["get", &living, "--seeds", &seeds]).await;
    assert_eq!((code, out.as_str()), (Some(0), "other"), "{said}");

    until("the dead node's ranges are served", async || {
        let (code, _, said) = process::run(&["get", &dead, "--assigner", &assigner]).await;
        let is_helpful = said.contains("softstore status");
        assert!(
            code == Some(1) || (code == Some(2) && is_helpful),
            "{code:?} {said}"
        );
        (code == Some(1)).then_some(())
    })
    .await;

    cluster.kill_assigner().await;
    let (code, _, said) = process::run(&["get", &living, "--assigner", &assigner]).await;
    assert_eq!(code, Some(2));
    let is_helpful = said.contains(&assigner) && said.contains("--seeds") && said.lines().count() == 1;
    assert!(is_helpful, "{said}");
}
