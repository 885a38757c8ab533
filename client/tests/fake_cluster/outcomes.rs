//! What is tried again, what is not, and what an operation ends in when its answer does not come.

use std::time::{Duration, Instant};

use softstore_client::{Cause, Client, ReadError, ReadPolicy, SetOptions, WriteError};
use softstore_proto::v1::{OpKind, Status};

use crate::fake::{Act, client_of, cluster, even, eventually, key_of};

#[tokio::test]
async fn what_was_not_applied_is_tried_again() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    nodes[0].first([Status::NotReady, Status::Behind, Status::Busy].map(Act::Answer));
    client.set("k", "v").await.unwrap();
    let metrics = client.metrics();
    assert_eq!(
        (
            metrics.retries_not_ready,
            metrics.retries_behind,
            metrics.retries_busy
        ),
        (1, 1, 1)
    );
    assert_eq!(nodes[0].state.lock().count(OpKind::Set), 4);
}

/// Plan: a node that is never ready. A write ends at its deadline, certainly not applied; a read is a miss, or the typed
/// error if asked for.
#[tokio::test]
async fn a_node_that_is_never_ready_ends_in_the_deadline() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await.with_timeout(Duration::from_millis(60));
    nodes[0].script(|_| Act::Answer(Status::NotReady));
    let begun = Instant::now();
    let error = client.set("k", "v").await.unwrap_err();
    assert_eq!(error, WriteError::Unavailable(Cause::NotReady));
    assert!(error.is_retryable() && !error.is_outcome_unknown());
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert_eq!(client.get("k").await, Ok(None));
    assert_eq!(client.metrics().unreachable_misses, 1);
    let strict = client.with_read_policy(ReadPolicy::Error);
    assert_eq!(
        strict.get("k").await,
        Err(ReadError::Unreachable(Cause::NotReady))
    );
}

/// Plan: the stream breaks instead of the answer to each kind of operation. Reads and unconditional deletes are sent
/// again and succeed; everything else is sent once, and says that its outcome is unknown.
#[tokio::test]
async fn only_reads_and_plain_deletes_are_sent_again_after_a_loss() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let sent = |kind| nodes[0].state.lock().count(kind);
    client.set("k", "v").await.unwrap();

    nodes[0].first([Act::Break]);
    assert!(client.get("k").await.unwrap().is_some());
    assert_eq!(sent(OpKind::Get), 2);

    nodes[0].first([Act::ServeAndBreak]);
    assert_eq!(client.delete("k").await, Ok(()));
    assert_eq!(sent(OpKind::Delete), 2);
    assert_eq!(client.metrics().retries_broken, 2);

    let unknown = WriteError::OutcomeUnknown(Cause::Broken);
    nodes[0].first([Act::ServeAndBreak]);
    assert_eq!(client.set("k", "v").await, Err(unknown.clone()));
    assert_eq!(sent(OpKind::Set), 2);
    nodes[0].first([Act::Break]);
    assert_eq!(client.touch("k", None).await, Err(unknown.clone()));
    nodes[0].first([Act::Break]);
    assert_eq!(client.add("k", 1).await, Err(unknown.clone()));
    nodes[0].first([Act::Break]);
    assert_eq!(client.delete_reporting("k").await, Err(unknown.clone()));
    assert_eq!(sent(OpKind::Delete), 3);
    nodes[0].first([Act::Break]);
    assert_eq!(client.flush_all().await, Err(unknown.clone()));
    assert!(unknown.is_outcome_unknown() && !unknown.is_retryable());
    assert_eq!(client.metrics().outcome_unknown, 5);
}

#[tokio::test]
async fn sets_are_sent_again_only_if_asked_for_and_unconditional() {
    let nodes = cluster(1);
    let client = Client::builder()
        .seeds([nodes[0].address.clone()])
        .resend_sets(true)
        .connect()
        .await
        .unwrap();
    nodes[0].first([Act::Break]);
    client.set("k", "v").await.unwrap();
    assert_eq!(nodes[0].state.lock().count(OpKind::Set), 2);
    nodes[0].first([Act::Break]);
    let conditional = client.set_with("k", "v", SetOptions::new().if_present()).await;
    assert_eq!(conditional, Err(WriteError::OutcomeUnknown(Cause::Broken)));
    assert_eq!(nodes[0].state.lock().count(OpKind::Set), 3);
}

/// Plan: a delete is applied and its answer lost, and from then on the node is never ready. It may not claim that it
/// was not applied.
#[tokio::test]
async fn a_lost_answer_is_not_forgotten_by_later_attempts() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await.with_timeout(Duration::from_millis(100));
    let mut is_first = true;
    nodes[0].script(move |_| {
        if std::mem::take(&mut is_first) {
            Act::ServeAndBreak
        } else {
            Act::Answer(Status::NotReady)
        }
    });
    assert!(client.delete("k").await.unwrap_err().is_outcome_unknown());
}

/// Plan: a flush that a node answers with `NOT_READY` until the deadline: it may have dropped what it held before. Then one
/// of which one owner does its part and the other is gone. Neither may claim that it had no effect. One that reaches nobody
/// may.
#[tokio::test]
async fn a_flush_that_may_have_been_done_in_part_is_not_called_unapplied() {
    let mut nodes = cluster(2);
    let client = client_of(&nodes).await.with_timeout(Duration::from_millis(100));
    for node in &nodes {
        node.script(|_| Act::Answer(Status::NotReady));
    }
    let error = client.flush_all().await.unwrap_err();
    assert!(
        error.is_outcome_unknown() && !error.has_no_side_effects(),
        "{error}"
    );

    nodes[1].script(|_| Act::Serve);
    drop(nodes.remove(0));
    eventually("the loss is noticed", async || {
        let flushed = client.flush_all().await;
        flushed == Err(WriteError::OutcomeUnknown(Cause::Unreachable))
    })
    .await;
    assert_eq!(client.metrics().writes_unavailable, 0);

    drop(nodes);
    eventually("both losses are noticed", async || {
        client.flush_all().await == Err(WriteError::Unavailable(Cause::Unreachable))
    })
    .await;
}

/// Plan: a node refuses streams before it has read anything of them, and one that it has read without running anything, for the
/// version. Writes that must not be applied twice are tried again each time, and applied once. A node that closes every
/// connection as soon as something comes has applied nothing either.
#[tokio::test]
async fn what_was_refused_before_anything_was_read_is_not_called_unknown() {
    let mut nodes = cluster(2);
    nodes[0].state.lock().streams_to_refuse = 3;
    nodes[0].first([Act::RefuseVersion]);
    let rude = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    nodes[1].address = rude.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = rude.accept().await {
            use tokio::io::AsyncReadExt;
            socket.read_exact(&mut [0; 1]).await.ok();
        }
    });
    nodes[0].publish(&even(20, 20, &[&nodes[0], &nodes[1]]));
    let client = client_of(&nodes[..1]).await;
    let (refused, rude) = (key_of(0, 2), key_of(1, 2));
    assert_eq!(client.add(&refused, 1).await, Ok(1));
    let hasty = client.with_timeout(Duration::from_millis(200));
    let unavailable = WriteError::Unavailable(Cause::Unreachable);
    for _ in 0..10 {
        assert_eq!(hasty.add(&rude, 1).await, Err(unavailable.clone()));
    }
    assert_eq!(client.metrics().outcome_unknown, 0);
    let state = nodes[0].state.lock();
    assert_eq!((state.count(OpKind::Add), state.streams_to_refuse), (2, 0));
    assert_eq!(state.entries[refused.as_bytes()].0, b"1");
}

/// Plan: a node takes operations and never answers. Each ends at its deadline, soon after it: a read as a miss, a write
/// as unknown, neither sent twice. Another node's operations take no notice.
#[tokio::test]
async fn silence_ends_in_the_deadline() {
    let nodes = cluster(2);
    let client = client_of(&nodes).await;
    let (silent, healthy) = (key_of(0, 2), key_of(1, 2));
    client.set(&healthy, "v").await.unwrap();
    nodes[0].script(|_| Act::Silence);
    let hasty = client.with_timeout(Duration::from_millis(80));
    let begun = Instant::now();
    let (read, write, other) = tokio::join!(hasty.get(&silent), hasty.set(&silent, "v"), async {
        (client.get(&healthy).await, begun.elapsed())
    });
    assert_eq!(read, Ok(None));
    assert_eq!(write, Err(WriteError::OutcomeUnknown(Cause::NoAnswer)));
    assert!(begun.elapsed() >= Duration::from_millis(80));
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert!(other.0.unwrap().is_some() && other.1 < Duration::from_millis(80));
    assert_eq!(client.metrics().unreachable_misses, 1);
    let state = nodes[0].state.lock();
    assert_eq!((state.count(OpKind::Get), state.count(OpKind::Set)), (1, 1));
}

/// Plan: one of two nodes is killed. Reads of its keys become misses, quickly and counted; its writes fail as not
/// applied at their deadline; the other node serves on.
#[tokio::test]
async fn an_unreachable_owner_is_a_miss_for_reads() {
    let mut nodes = cluster(2);
    let client = client_of(&nodes).await;
    let (gone, healthy) = (key_of(0, 2), key_of(1, 2));
    client.set(&gone, "v").await.unwrap();
    client.set(&healthy, "v").await.unwrap();
    drop(nodes.remove(0));
    eventually("the loss is noticed", async || {
        client.get(&gone).await == Ok(None)
    })
    .await;
    assert!(client.metrics().unreachable_misses >= 1);
    let begun = Instant::now();
    assert_eq!(client.get(&gone).await, Ok(None));
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "a read waits for nothing"
    );
    let strict = client.with_read_policy(ReadPolicy::Error);
    let error = strict.get(&gone).await.unwrap_err();
    assert_eq!(error, ReadError::Unreachable(Cause::Unreachable));
    assert!(error.is_retryable());
    let write = client
        .with_timeout(Duration::from_millis(50))
        .set(&gone, "v")
        .await;
    assert_eq!(write, Err(WriteError::Unavailable(Cause::Unreachable)));
    assert!(client.get(&healthy).await.unwrap().is_some());
}

/// Plan: the only node is killed, and with it the watch: a read of its keys may wait 10 s for news. One with a deadline
/// of 30 ms ends at its deadline all the same.
#[tokio::test]
async fn waiting_for_news_of_the_owner_ends_at_the_deadline() {
    const NEWS: Duration = Duration::from_secs(10);
    let mut nodes = cluster(1);
    let builder = Client::builder().seeds([nodes[0].address.clone()]);
    let client = builder
        .configure(|config| config.unreachable_wait_ms = 10_000)
        .connect()
        .await
        .unwrap();
    client.set("k", "v").await.unwrap();
    drop(nodes.remove(0));
    let hasty = client.with_timeout(Duration::from_millis(30));
    let begun = Instant::now();
    // Until the loss is noticed, a read ends otherwise.
    for _ in 0..20 {
        assert_eq!(hasty.get("k").await, Ok(None));
        assert!(begun.elapsed() < NEWS / 2, "{:?}", begun.elapsed());
    }
    assert!(client.metrics().retries_unreachable > 0, "{:?}", client.metrics());
}

/// Plan: a node announces the end of its streams while sets are running, answers what still comes, and ends them when
/// the client closes its halves. Every set is applied, on the old stream or a new one, and no outcome is unknown.
#[tokio::test]
async fn a_planned_end_of_a_stream_loses_nothing() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                for number in 0..200 {
                    client.set(format!("{writer}-{number}"), "v").await.unwrap();
                }
            })
        })
        .collect();
    eventually("writing has begun", async || {
        nodes[0].state.lock().ops.len() > 100
    })
    .await;
    nodes[0].close_streams();
    for writer in writers {
        writer.await.unwrap();
    }
    eventually("another stream is opened", async || {
        client.metrics().streams_opened == 2
    })
    .await;
    let state = nodes[0].state.lock();
    assert_eq!((state.entries.len(), state.ops.len()), (1_600, 1_600));
}

/// Plan: the runtime in which the client was made ends, as that of an earlier test may, and with it the tasks that serve its
/// connections. Operations from another runtime end all the same, and say that there is no connection.
#[tokio::test]
async fn a_client_outlives_its_runtime_without_hanging() {
    let nodes = cluster(1);
    let seed = nodes[0].address.clone();
    let connect = async move {
        let builder = Client::builder().seeds([seed]);
        let client = builder.connect().await.expect("the node answers");
        client.set("k", "v").await.expect("the node answers");
        client
    };
    let made = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(connect)
    });
    let client = tokio::task::spawn_blocking(|| made.join())
        .await
        .unwrap()
        .expect("made");
    let client = client.with_timeout(Duration::from_millis(100));
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        (client.get("k").await, client.set("k", "w").await)
    });
    let (read, written) = ended.await.expect("operations end");
    assert_eq!(read, Ok(None));
    assert!(matches!(written, Err(WriteError::Unavailable(_))), "{written:?}");
}
