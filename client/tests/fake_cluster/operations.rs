//! What each call sends and gives back, how calls share messages, and what is refused before anything is sent.

use std::time::Duration;

use softstore_client::{
    Client, KeyError, LoadError, ReadError, SetOptions, SetOutcome, Slice, TypedError, WriteError, ZeroTtl,
};
use softstore_proto::v1::{OpKind, Status};

use crate::fake::{Act, client_of, cluster, key_of};

#[tokio::test]
async fn every_operation_does_what_it_says() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    assert_eq!(client.get("a").await, Ok(None));
    let version = client.set("a", "1").await.unwrap();
    assert_eq!(client.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
    let found = client.get_with_version("a").await.unwrap().unwrap();
    assert_eq!(found.version, version);
    assert_eq!(found.ttl, Some(Duration::from_millis(1_234)));

    let set = |options| client.set_with("a", "2", options);
    let failed = SetOutcome::ConditionFailed {
        present: Some(version),
    };
    assert_eq!(set(SetOptions::new().if_absent()).await, Ok(failed));
    assert!(set(SetOptions::new().if_present()).await.unwrap().is_stored());
    assert!(
        !set(SetOptions::new().if_version(version))
            .await
            .unwrap()
            .is_stored()
    );
    let absent = client.set_with("b", "2", SetOptions::new().if_present()).await;
    assert_eq!(absent, Ok(SetOutcome::ConditionFailed { present: None }));

    assert_eq!(client.touch("a", Some(Duration::from_secs(3))).await, Ok(true));
    assert_eq!(client.touch("b", None).await, Ok(false));
    assert_eq!(client.add("a", 40).await, Ok(42));
    assert_eq!(client.delete_reporting("a").await, Ok(true));
    assert_eq!(client.delete_reporting("a").await, Ok(false));
    assert_eq!(client.delete("a").await, Ok(()));
    client.set("text", "x").await.unwrap();
    assert_eq!(client.add("text", 1).await, Err(WriteError::NotANumber));

    let metrics = client.metrics();
    assert_eq!((metrics.gets, metrics.hits, metrics.misses), (3, 2, 1));
    assert_eq!(
        (metrics.sets, metrics.adds, metrics.touches, metrics.deletes),
        (6, 2, 2, 3)
    );
    let state = nodes[0].state.lock();
    let touch = state.ops.iter().find(|op| op.kind() == OpKind::Touch).unwrap();
    assert_eq!(touch.ttl_ms, 3_000);
    assert!((1..=1_000).contains(&touch.deadline_ms));
    assert!(state.sinces.iter().all(|since| since.number == 10));
}

/// Plan: a time to live of zero, in every call that takes one. It is refused, and nothing is sent or loaded.
#[tokio::test]
async fn a_time_to_live_of_zero_is_refused() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let zero = Some(Duration::ZERO);
    let options = SetOptions::new().ttl(Duration::ZERO);
    let refused = WriteError::InvalidTtl(ZeroTtl);
    assert!(refused.has_no_side_effects() && !refused.is_retryable());
    assert_eq!(client.set_with("k", "v", options).await, Err(refused.clone()));
    assert_eq!(
        client.set_many([("k", "v")], options).await,
        [Err(refused.clone())]
    );
    assert_eq!(client.touch("k", zero).await, Err(refused.clone()));
    assert_eq!(client.add_with_ttl("k", 1, zero).await, Err(refused.clone()));
    let load = async || -> Result<&str, std::io::Error> { panic!("nothing is loaded") };
    let loaded = client.get_or_load("k", zero, load).await;
    assert!(
        matches!(loaded, Err(LoadError::InvalidTtl(ZeroTtl))),
        "{loaded:?}"
    );
    assert!(nodes[0].state.lock().ops.is_empty());
}

#[tokio::test]
async fn what_no_node_would_take_is_not_sent() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    assert_eq!(client.get("").await, Err(ReadError::InvalidKey(KeyError::Empty)));
    let long = vec![b'x'; 65_536];
    assert_eq!(
        client.set(&long, "v").await,
        Err(WriteError::InvalidKey(KeyError::TooLong(65_536)))
    );
    let huge = vec![0_u8; (64 << 20) + 1];
    assert!(matches!(
        client.set("k", huge).await,
        Err(WriteError::ValueTooLarge(_))
    ));
    assert!(nodes[0].state.lock().ops.is_empty());
    // The longest key is one, and a value over the node's own limit is the node's to refuse.
    assert_eq!(client.get(&long[1..]).await, Ok(None));
    nodes[0].first([Act::Answer(Status::ValueTooLarge)]);
    let refused = client.set("k", "v").await.unwrap_err();
    assert!(matches!(refused, WriteError::ValueTooLarge(_)) && refused.has_no_side_effects());
}

/// Plan: 256 tasks read at once over one connection. They share messages: far fewer than operations. The reply of each
/// is its own.
#[tokio::test]
async fn concurrent_operations_share_messages() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let keys: Vec<String> = (0..256).map(|number| format!("k{number}")).collect();
    let stored = client
        .set_many(keys.iter().map(|key| (key, key)), SetOptions::new())
        .await;
    assert!(stored.iter().all(|outcome| outcome.as_ref().unwrap().is_stored()));
    let before = client.metrics().batches;
    let readers: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let client = client.clone();
            tokio::spawn(async move { (client.get(&key).await.unwrap().unwrap(), key) })
        })
        .collect();
    for reader in readers {
        let (value, key) = reader.await.unwrap();
        assert_eq!(value, key.as_bytes());
    }
    let batches = client.metrics().batches - before;
    assert!(batches <= 32, "{batches} messages for 256 operations");
}

/// Plan: 1,500 keys over three nodes, written, read and deleted by the `_many` calls. Results come in the order of the
/// keys, with the bad key's error in its place, and each node gets few messages.
#[tokio::test]
async fn many_keys_travel_together_and_keep_their_order() {
    let nodes = cluster(3);
    let client = client_of(&nodes).await;
    let keys: Vec<String> = (0..1_500).map(|number| format!("key-{number}")).collect();
    let entries = keys.iter().map(|key| (key, format!("value of {key}")));
    let outcomes = client
        .set_many(entries, SetOptions::new().ttl(Duration::from_secs(9)))
        .await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.as_ref().unwrap().is_stored())
    );

    let mut asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    asked[700] = "";
    asked[900] = "never written";
    let found = client.get_many(asked.iter().copied()).await;
    for (key, found) in asked.iter().zip(&found) {
        match *key {
            "" => assert_eq!(found, &Err(ReadError::InvalidKey(KeyError::Empty))),
            "never written" => assert_eq!(found, &Ok(None)),
            key => assert_eq!(
                found.as_ref().unwrap().as_ref().unwrap(),
                format!("value of {key}").as_bytes()
            ),
        }
    }
    for node in &nodes {
        let state = node.state.lock();
        assert!(state.batches.len() <= 6, "{:?}", state.batches);
        assert!(state.ops.iter().any(|op| op.ttl_ms == 9_000));
    }
    assert!(client.delete_many(&keys).await.iter().all(Result::is_ok));
    assert!(nodes.iter().all(|node| node.state.lock().entries.is_empty()));
}

/// Plan: three nodes hold entries, and one of them is not ready for its first two flushes. A flush of everything
/// empties all three, and asks the others once.
#[tokio::test]
async fn a_flush_reaches_every_owner() {
    let nodes = cluster(3);
    let client = client_of(&nodes).await;
    let keys: Vec<String> = (0..300).map(|number| format!("key-{number}")).collect();
    client
        .set_many(keys.iter().map(|key| (key, "v")), SetOptions::new())
        .await;
    nodes[1].first([Act::Answer(Status::NotReady), Act::Answer(Status::NotReady)]);
    client.flush_all().await.unwrap();
    for (node, flushes) in nodes.iter().zip([1, 3, 1]) {
        let state = node.state.lock();
        assert!(state.entries.is_empty());
        assert_eq!(state.count(OpKind::Flush), flushes);
    }

    // A part of the key space: only there.
    let (inside, outside) = (key_of(0, 3), key_of(2, 3));
    client.set(&inside, "v").await.unwrap();
    client.set(&outside, "v").await.unwrap();
    let single = Slice::single(softstore_client::SliceKey::of_key(inside.as_bytes()));
    client.flush_slices([single]).await.unwrap();
    assert_eq!(client.get(&inside).await, Ok(None));
    assert!(client.get(&outside).await.unwrap().is_some());
}

#[tokio::test]
async fn typed_values_come_back_as_they_were() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let value = (7_u32, "seven".to_string(), vec![1.5_f64]);
    client.set_typed("t", &value, SetOptions::new()).await.unwrap();
    assert_eq!(
        client.get_typed::<(u32, String, Vec<f64>)>("t").await,
        Ok(Some(value.clone()))
    );
    assert_eq!(client.get_typed::<u8>("nothing").await, Ok(None));
    assert!(matches!(
        client.get_typed::<String>("t").await,
        Err(TypedError::Codec { .. })
    ));
    let loaded = client
        .get_or_load_typed("t2", None, async || Ok::<_, std::io::Error>(value.clone()))
        .await;
    assert_eq!(loaded.unwrap(), value);
}

/// Plan: one connection that takes two pending operations, to a node that never answers. The third is refused at once,
/// and says that it may be retried.
#[tokio::test]
async fn what_is_pending_is_bounded() {
    let nodes = cluster(1);
    nodes[0].script(|_| Act::Silence);
    let client = Client::builder()
        .seeds([nodes[0].address.clone()])
        .pending_ops_max(2)
        .connect()
        .await
        .unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.set("k", "v").await })
        })
        .collect();
    crate::fake::eventually("both are sent", async || nodes[0].state.lock().ops.len() == 2).await;
    let refused = client.set("k", "v").await.unwrap_err();
    assert_eq!(refused, WriteError::Busy);
    assert!(refused.is_retryable() && refused.has_no_side_effects());
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    // Callers that have gone make room.
    for task in waiting {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    nodes[0].script(|_| Act::Serve);
    assert!(client.set("k", "v").await.is_ok());
}
