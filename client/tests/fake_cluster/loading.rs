//! `get_or_load`: one load at a time per key, whatever becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use softstore_client::{Client, LoadError, SetOptions, WriteError};
use softstore_proto::v1::{OpKind, Status};
use tokio::sync::Semaphore;

use crate::fake::{Act, client_of, cluster, eventually};

/// A loader that counts its runs and waits for a permit.
#[derive(Clone)]
struct Database {
    loads: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
}

impl Database {
    fn new(permits: usize) -> Self {
        Self {
            loads: Arc::default(),
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    async fn load(&self) -> Result<&'static str, std::io::Error> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.expect("never closed").forget();
        Ok("loaded")
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    fn ask(&self, client: &Client) -> tokio::task::JoinHandle<Result<Bytes, LoadError>> {
        let (database, client) = (self.clone(), client.clone());
        tokio::spawn(async move {
            let ttl = Some(Duration::from_secs(60));
            client.get_or_load("k", ttl, async || database.load().await).await
        })
    }
}

/// Plan: a thousand tasks miss the same key at once, on several threads; the loader waits until all have joined. One
/// load runs, all get its value, and it is in the cache afterwards, with its time to live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_misses_load_once() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let database = Database::new(0);
    let callers: Vec<_> = (0..1_000).map(|_| database.ask(&client)).collect();
    eventually("all have missed", async || client.metrics().misses >= 1_000).await;
    database.permits.add_permits(1_000);
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), "loaded");
    }
    assert_eq!(database.loads(), 1);
    let metrics = client.metrics();
    assert_eq!((metrics.loads, metrics.coalesced_loads), (1, 999));
    eventually("it is cached", async || client.get("k").await.unwrap().is_some()).await;
    let state = nodes[0].state.lock();
    let fill = state.ops.iter().find(|op| op.kind() == OpKind::Set).unwrap();
    assert_eq!(fill.ttl_ms, 60_000);
}

/// Plan: the same with a loader that is ready at once, so that calls keep arriving while the fill is under way and
/// after it. Still one load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instant_loader_loads_once_too() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let database = Database::new(1_000);
    let callers: Vec<_> = (0..1_000).map(|_| database.ask(&client)).collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), "loaded");
    }
    assert_eq!(database.loads(), 1);
}

#[tokio::test]
async fn an_error_reaches_all_who_waited_and_is_not_cached() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let gate = Arc::new(Semaphore::new(0));
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let (client, gate) = (client.clone(), gate.clone());
            tokio::spawn(async move {
                let loader = async || {
                    gate.acquire().await.unwrap().forget();
                    Err::<Bytes, _>("the database is down")
                };
                client.get_or_load("k", None, loader).await
            })
        })
        .collect();
    eventually("all have missed", async || client.metrics().misses >= 10).await;
    gate.add_permits(1);
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("the database is down"), "{error}");
        assert!(error.is_retryable());
    }
    assert_eq!((client.metrics().loads, client.metrics().load_errors), (1, 1));
    let database = Database::new(1);
    assert_eq!(database.ask(&client).await.unwrap().unwrap(), "loaded");
}

/// Plan: the leader of a flight is cancelled in mid-load while another caller waits. That one loads, and is not left
/// hanging.
#[tokio::test]
async fn a_cancelled_leader_leaves_the_flight_to_another() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let database = Database::new(0);
    let leader = database.ask(&client);
    eventually("the leader loads", async || database.loads() == 1).await;
    let follower = database.ask(&client);
    eventually("the follower has missed", async || client.metrics().misses == 2).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    database.permits.add_permits(1);
    assert_eq!(follower.await.unwrap().unwrap(), "loaded");
    assert_eq!(database.loads(), 2);
}

/// Plan: another client writes the key while it is being loaded. The load gives its caller what it found and leaves the
/// newer value in the cache.
#[tokio::test]
async fn a_fill_never_covers_a_newer_write() {
    let nodes = cluster(1);
    let (client, other) = (client_of(&nodes).await, client_of(&nodes).await);
    let database = Database::new(0);
    let caller = database.ask(&client);
    eventually("the load is on", async || database.loads() == 1).await;
    other.set("k", "newer").await.unwrap();
    database.permits.add_permits(1);
    assert_eq!(caller.await.unwrap().unwrap(), "loaded");
    eventually("the fill was tried", async || {
        nodes[0].state.lock().count(OpKind::Set) == 2
    })
    .await;
    assert_eq!(client.get("k").await.unwrap().unwrap(), "newer");
}

/// One way to change what is under "k".
type Write = fn(Client) -> BoxFuture<'static, Result<(), WriteError>>;

const WRITES: [(&str, Write); 8] = [
    ("set", |client| {
        async move { client.set("k", "v").await.map(|_| ()) }.boxed()
    }),
    ("delete", |client| async move { client.delete("k").await }.boxed()),
    ("delete_reporting", |client| {
        async move { client.delete_reporting("k").await.map(|_| ()) }.boxed()
    }),
    ("touch", |client| {
        async move { client.touch("k", None).await.map(|_| ()) }.boxed()
    }),
    ("add", |client| {
        async move { client.add("k", 1).await.map(|_| ()) }.boxed()
    }),
    ("set_many", |client| {
        async move {
            client
                .set_many([("k", "v")], SetOptions::new())
                .await
                .remove(0)
                .map(|_| ())
        }
        .boxed()
    }),
    ("delete_many", |client| {
        async move { client.delete_many(["k"]).await.remove(0) }.boxed()
    }),
    ("flush", |client| async move { client.flush_all().await }.boxed()),
];

/// Plan: a load is under way, and then this client writes the key, in each way there is, and removes it. A later call does
/// not join that load, whose row may be older than the write: it loads anew. The first load still serves its own caller, and
/// what it brought does not get into the cache; what the second brings does. A read or a write of another key leaves a
/// flight as it is.
#[tokio::test]
async fn a_load_is_not_shared_with_who_comes_after_an_own_write() {
    for (name, write) in WRITES {
        let nodes = cluster(1);
        let client = client_of(&nodes).await;
        let database = Database::new(0);
        let before = database.ask(&client);
        eventually("the first load is on", async || database.loads() == 1).await;
        client.set("other", "v").await.unwrap();
        assert_eq!(client.get("k").await, Ok(None));
        let joined = database.ask(&client);
        eventually("it is joined", async || client.metrics().misses == 3).await;

        assert_eq!(write(client.clone()).await, Ok(()), "{name}");
        nodes[0].state.lock().entries.clear();
        let after = database.ask(&client);
        eventually("it loads anew", async || database.loads() == 2).await;
        // In the order in which they asked.
        database.permits.add_permits(1);
        assert_eq!(before.await.unwrap().unwrap(), "loaded", "{name}");
        assert_eq!(joined.await.unwrap().unwrap(), "loaded", "{name}");
        eventually("the fill is skipped", async || {
            client.metrics().fills_skipped == 1
        })
        .await;
        assert_eq!(client.get("k").await, Ok(None), "{name}");
        database.permits.add_permits(1);
        assert_eq!(after.await.unwrap().unwrap(), "loaded", "{name}");
        eventually("it is cached", async || client.get("k").await.unwrap().is_some()).await;
        assert_eq!(database.loads(), 2, "{name}");
        assert_eq!(client.metrics().fills_failed, 0, "{name}");
    }
}

/// Plan: a load began while a delete was under way, which is answered only then. Who comes after the delete's end does not
/// share it.
#[tokio::test]
async fn a_load_that_began_during_an_own_write_is_not_shared_after_it() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let gate = Arc::new(AtomicUsize::new(0));
    let passed = gate.clone();
    nodes[0].script(move |op| match op.kind() {
        OpKind::Delete if passed.load(Ordering::SeqCst) == 0 => Act::Answer(Status::NotReady),
        _ => Act::Serve,
    });
    let deleting = client.clone();
    let deleting = tokio::spawn(async move { deleting.delete("k").await });
    eventually("the delete is on", async || {
        client.metrics().retries_not_ready > 0
    })
    .await;
    let database = Database::new(0);
    let during = database.ask(&client);
    eventually("the load is on", async || database.loads() == 1).await;
    gate.store(1, Ordering::SeqCst);
    deleting.await.unwrap().unwrap();
    let after = database.ask(&client);
    eventually("it loads anew", async || database.loads() == 2).await;
    database.permits.add_permits(2);
    assert_eq!(during.await.unwrap().unwrap(), "loaded");
    assert_eq!(after.await.unwrap().unwrap(), "loaded");
}

/// Plan: the key's owner answers reads, and says nothing to sets, so that what was loaded is on its way for a second. Whoever
/// asks meanwhile gets the value at once, from that one load.
#[tokio::test]
async fn what_cannot_be_stored_holds_nobody_up() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    nodes[0].script(|op| match op.kind() {
        OpKind::Set => Act::Silence,
        _ => Act::Serve,
    });
    let database = Database::new(100);
    for asked in 0..30 {
        let begun = std::time::Instant::now();
        assert_eq!(database.ask(&client).await.unwrap().unwrap(), "loaded");
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(300), "{took:?}, asked {asked} times");
    }
    assert_eq!(database.loads(), 1);
    eventually("the fill has failed", async || client.metrics().fills_failed == 1).await;
    assert_eq!(database.ask(&client).await.unwrap().unwrap(), "loaded");
    assert_eq!(
        database.loads(),
        2,
        "no load is shared for longer than its fill lasts"
    );
}

/// Plan: many keys are loaded, each by several who ask at once; each of these reads its key right after it has the value. It is
/// there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_get_finds_what_was_loaded() {
    let nodes = cluster(2);
    let client = client_of(&nodes).await;
    let asking = (0..1_000).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let key = format!("key-{}", number / 4);
            let load = async || Ok::<_, std::io::Error>("loaded");
            assert_eq!(client.get_or_load(&key, None, load).await.unwrap(), "loaded");
            assert!(client.get(&key).await.unwrap().is_some(), "{key}");
        })
    });
    for asked in futures::future::join_all(asking).await {
        asked.unwrap();
    }
}

/// Plan: the owner says nothing to sets, and many megabytes are loaded. What is on its way is bounded; the rest is given to its
/// callers and not put into the cache.
#[tokio::test]
async fn what_is_on_its_way_into_the_cache_is_bounded() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    nodes[0].script(|op| match op.kind() {
        OpKind::Set => Act::Silence,
        _ => Act::Serve,
    });
    let value = Bytes::from(vec![7; 1 << 20]);
    for number in 0..70 {
        let load = async || Ok::<_, std::io::Error>(value.clone());
        let loaded = client.get_or_load(format!("key-{number}"), None, load).await;
        assert_eq!(loaded.unwrap().len(), 1 << 20);
    }
    let metrics = client.metrics();
    assert_eq!(metrics.loads, 70);
    assert!(metrics.fills_failed >= 6, "64 MiB at a time: {metrics:?}");
}

/// Plan: the cache answers nothing at all. The value is loaded all the same, and given before the fill has failed.
#[tokio::test]
async fn a_cache_that_is_away_costs_a_load_and_no_error() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await.with_timeout(Duration::from_millis(50));
    nodes[0].script(|_| Act::Silence);
    let database = Database::new(5);
    assert_eq!(database.ask(&client).await.unwrap().unwrap(), "loaded");
    eventually("the fill has failed", async || client.metrics().fills_failed == 1).await;
}
