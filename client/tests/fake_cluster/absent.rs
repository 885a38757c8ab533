//! A client beside a cluster that is not there, or not any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use softstore_client::{Cause, Client, ConnectError, Health, ReadPolicy, WriteError};
use tracing::span;

use crate::fake::{Node, client_of, cluster, even, eventually, nobody};

/// Far more than an operation takes that waits for nothing, and far less than one that waits for its deadline or for news.
const AT_ONCE: Duration = Duration::from_millis(80);

/// Counts the warnings of the client.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("softstore_client") && *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// How long a client has searched for its cluster; none if it follows one.
fn searching(client: &Client) -> Option<Duration> {
    match client.health() {
        Health::Following => None,
        Health::Searching { lasting, .. } => Some(lasting),
    }
}

/// Plan: nobody listens at the seed when the application starts. It gets its client at once, which says once that the cache is
/// not there. Reads are misses, loads are made, writes are not applied; once that has lasted, none of them waits, though each
/// may take a second. Then a node starts at that address, and everything is served; nobody has to do anything.
#[tokio::test]
async fn an_application_starts_without_its_cache_and_finds_it_later() {
    let warnings = Warnings::default();
    let _logged = tracing::subscriber::set_default(warnings.clone());
    let seed = nobody();
    let begun = Instant::now();
    let client = Client::builder().seeds([seed.clone()]).connect().await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    let Health::Searching {
        has_found_before: false,
        why: ConnectError::Unreachable(failures),
        ..
    } = client.health()
    else {
        panic!("nobody is there: {:?}", client.health())
    };
    assert_eq!(failures[0].seed, seed);
    assert_eq!(client.get("k").await, Ok(None));

    eventually("the cluster counts as absent", async || {
        searching(&client) > Some(Duration::from_secs(1))
    })
    .await;
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(client.get("k").await, Ok(None));
        assert!(begun.elapsed() < AT_ONCE, "a read: {:?}", begun.elapsed());
        let begun = Instant::now();
        let unavailable = WriteError::Unavailable(Cause::Unreachable);
        assert_eq!(client.set("k", "v").await, Err(unavailable));
        assert!(begun.elapsed() < AT_ONCE, "a write: {:?}", begun.elapsed());
        let begun = Instant::now();
        let loaded = client.get_or_load("k", None, async || Ok::<_, std::io::Error>("loaded"));
        assert_eq!(loaded.await.unwrap(), "loaded");
        assert!(begun.elapsed() < AT_ONCE, "a load: {:?}", begun.elapsed());
    }
    let strict = client.with_read_policy(ReadPolicy::Error);
    assert!(strict.get("k").await.is_err());
    assert_eq!(warnings.0.load(Ordering::SeqCst), 1, "it is said once");

    let node = Node::start_at("n0", 1, &seed);
    node.publish(&even(10, 10, &[&node]));
    eventually("the node is found", async || client.set("k", "v").await.is_ok()).await;
    assert!(client.health().is_following());
    assert!(client.get("k").await.unwrap().is_some());
}

/// Plan: who insists is told at once that nobody is there.
#[tokio::test]
async fn who_insists_gets_no_client_without_a_cluster() {
    let builder = Client::builder().seeds([nobody()]).require_cluster(true);
    let error = builder.connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
}

/// Plan: all nodes die. While that is fresh a write waits for somebody to follow them; after a while nothing waits any more,
/// and the client says since when it searches, and that it knew its cluster.
#[tokio::test]
async fn a_cluster_that_is_gone_holds_nobody_up() {
    let nodes = cluster(2);
    let client = client_of(&nodes).await;
    client.set("k", "v").await.unwrap();
    assert!(client.health().is_following());
    drop(nodes);
    eventually("the cluster counts as absent", async || {
        searching(&client) > Some(Duration::from_secs(1))
    })
    .await;
    assert!(matches!(
        client.health(),
        Health::Searching {
            has_found_before: true,
            ..
        }
    ));
    let begun = Instant::now();
    assert_eq!(client.get("k").await, Ok(None));
    let unavailable = WriteError::Unavailable(Cause::Unreachable);
    assert_eq!(client.set("k", "w").await, Err(unavailable));
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}
