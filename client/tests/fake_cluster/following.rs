//! Following the cluster: assignments, `Moved`, lost seeds, restarts at new addresses.

use std::time::{Duration, Instant};

use softstore_client::{Cause, Client, ConnectError, Slice, WriteError};
use softstore_proto::v1::OpKind;

use crate::fake::{Act, Node, client_of, cluster, even, eventually, key_of, nobody};

/// Plan: a node says that everything went to another one, under a higher `since`, before any assignment does. The
/// operation follows at once, and later ones go straight there, with the new `since`.
#[tokio::test]
async fn moved_is_followed_and_remembered() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    let taker = Node::start("taker", 77);
    let moved = taker.moved(Slice::FULL, 11);
    nodes[0].script(move |_| Act::Moved(moved.clone()));
    client.set("k", "v").await.unwrap();
    client.set("k", "w").await.unwrap();
    assert_eq!(nodes[0].state.lock().count(OpKind::Set), 1);
    let state = taker.state.lock();
    assert_eq!(state.count(OpKind::Set), 2);
    assert!(state.sinces.iter().all(|since| since.number == 11));
    assert_eq!(client.metrics().retries_moved, 1);
}

/// Plan: two nodes point at each other under the `since` that the client already knows. It does not run between them: it
/// backs off where it is, and ends at its deadline.
#[tokio::test]
async fn moved_in_circles_is_not_followed() {
    let nodes = cluster(2);
    let client = client_of(&nodes).await.with_timeout(Duration::from_millis(150));
    for (node, other) in [(0, 1), (1, 0)] {
        let moved = nodes[other].moved(Slice::FULL, 10);
        nodes[node].script(move |_| Act::Moved(moved.clone()));
    }
    let error = client.set(key_of(0, 2), "v").await.unwrap_err();
    assert_eq!(error, WriteError::Unavailable(Cause::Moved));
    let asked: usize = nodes.iter().map(|node| node.state.lock().ops.len()).sum();
    assert!(asked <= 15, "{asked} attempts in 150 ms");
    assert!(nodes[1].state.lock().ops.is_empty());
}

/// Plan: a node restarts at a new address, and an assignment says so. Operations go there; the old life gets nothing.
#[tokio::test]
async fn a_restarted_node_is_found_at_its_new_address() {
    let mut nodes = cluster(2);
    let client = client_of(&nodes).await;
    let key = key_of(0, 2);
    client.set(&key, "old").await.unwrap();
    let reborn = Node::start("n0", 100);
    let next = even(20, 20, &[&reborn, &nodes[1]]);
    nodes[1].publish(&next);
    nodes[0].publish(&next);
    eventually("the new life is asked", async || {
        client.get(&key).await == Ok(None)
    })
    .await;
    drop(nodes.remove(0));
    client.set(&key, "new").await.unwrap();
    assert_eq!(reborn.state.lock().count(OpKind::Set), 1);
    assert_eq!(client.metrics().assignments, 2);
}

/// Plan: a client is given one seed, whose cluster has three nodes. All but the last node are killed, one after
/// another, each publishing nothing. The client finds a living node to follow each time, by the directory.
#[tokio::test]
async fn any_living_node_is_followed() {
    let mut nodes = cluster(3);
    let client = client_of(&nodes[..1]).await;
    let mut number = 20;
    while nodes.len() > 1 {
        drop(nodes.remove(0));
        eventually("another node is followed", async || {
            nodes.iter().map(Node::watchers).sum::<usize>() == 1
        })
        .await;
        let living: Vec<&Node> = nodes.iter().collect();
        let next = even(number, number, &living);
        nodes.iter().for_each(|node| node.publish(&next));
        number += 10;
        let count = nodes.len() as u64;
        for index in 0..count {
            let key = key_of(index, count);
            eventually("all keys are served", async || {
                client.set(&key, "v").await.is_ok()
            })
            .await;
        }
    }
}

/// Plan: a client follows the one of its seeds that has an assignment; the others answer, and know nothing. That one dies, and
/// its successor, which only the assignment names, tells what became of its range. Among the many that have nothing to say
/// the client finds the one that has.
#[tokio::test]
async fn a_node_that_knows_less_is_no_source() {
    let mut nodes = cluster(2);
    let ignorant: Vec<Node> = (0..8)
        .map(|index| Node::start(&format!("i{index}"), 50 + index))
        .collect();
    let seeds: Vec<&Node> = ignorant.iter().chain(&nodes[..1]).collect();
    let clients = (0..3).map(|_| {
        let seeds = seeds.iter().map(|node| node.address.clone());
        Client::builder().seeds(seeds).connect()
    });
    let clients: Vec<Client> = futures::future::try_join_all(clients).await.unwrap();
    let key = key_of(0, 2);
    for client in &clients {
        client.set(&key, "v").await.unwrap();
    }
    drop(nodes.remove(0));
    nodes[0].publish(&even(20, 20, &[&nodes[0]]));
    for client in &clients {
        eventually("the successor is asked", async || {
            client.set(&key, "w").await.is_ok()
        })
        .await;
    }
    eventually("the ignorant are left alone", async || {
        ignorant.iter().all(|node| node.watchers() == 0)
    })
    .await;
}

/// Plan: the only node left to a client knows nothing. The client watches it, but does not take its silence for "nothing has
/// changed": a read whose owner is out of reach waits for news until its deadline.
#[tokio::test]
async fn silence_does_not_count_as_following() {
    let mut nodes = cluster(1);
    let ignorant = Node::start("i", 50);
    let client = Client::builder()
        .seeds([nodes[0].address.clone(), ignorant.address.clone()])
        .configure(|config| config.unreachable_wait_ms = 10_000)
        .connect()
        .await
        .unwrap();
    client.set("k", "v").await.unwrap();
    drop(nodes.remove(0));
    eventually("the ignorant one is watched", async || ignorant.watchers() > 0).await;
    let patience = Duration::from_millis(400);
    let hasty = client.with_timeout(patience);
    eventually("the loss is noticed", async || {
        hasty.get("k").await.is_ok() && client.metrics().retries_unreachable > 0
    })
    .await;
    // For longer than the client gives a node to say something.
    for _ in 0..6 {
        let begun = Instant::now();
        assert_eq!(hasty.get("k").await, Ok(None));
        assert!(begun.elapsed() >= patience * 9 / 10, "{:?}", begun.elapsed());
    }
}

/// Plan: a client follows a node that knows what it knows. Then that node is cut off from the news: another node dies, and
/// only a third hears who follows it. The client, which meets an owner that is out of reach, finds the one that knows more and
/// follows it from then on; one that knows less is not taken.
#[tokio::test]
async fn a_source_that_has_fallen_behind_is_left() {
    let mut nodes = cluster(3);
    let stale = Node::start("stale", 50);
    let listed: Vec<&Node> = nodes.iter().collect();
    let held = even(10, 10, &listed);
    stale.publish(&held);
    nodes[2].publish(&even(5, 5, &listed));
    let client = client_of(std::slice::from_ref(&stale)).await;
    assert_eq!(stale.watchers(), 1);
    let key = key_of(0, 3);
    client.set(&key, "v").await.unwrap();
    drop(nodes.remove(0));
    let next = even(20, 20, &[&nodes[0], &nodes[1]]);
    nodes[0].publish(&next);
    eventually("the successor is asked", async || {
        client.set(&key, "w").await.is_ok()
    })
    .await;
    let watchers = || [stale.watchers(), nodes[0].watchers(), nodes[1].watchers()];
    eventually("the one that knows more is watched", async || {
        watchers() == [0, 1, 0]
    })
    .await;
}

/// Plan: of four seeds only one lives: one port is closed, one accepts and never answers, one talks no gRPC. The client
/// connects all the same. Without the living one, the error tells of each.
#[tokio::test]
async fn one_living_seed_is_enough() {
    let nodes = cluster(1);
    let closed = nobody();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rude = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rude_address = rude.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = rude.accept().await {
            use tokio::io::AsyncWriteExt;
            socket.write_all(b"HTTP/1.1 400 no\r\n\r\n").await.ok();
        }
    });
    let mut seeds = vec![
        closed.clone(),
        silent.local_addr().unwrap().to_string(),
        rude_address.clone(),
        nodes[0].address.clone(),
    ];
    let client = Client::builder().seeds(seeds.clone()).connect().await.unwrap();
    client.set("k", "v").await.unwrap();

    seeds.pop();
    let builder = Client::builder().seeds(seeds);
    let builder = builder
        .connect_timeout(Duration::from_millis(150))
        .require_cluster(true);
    let Err(ConnectError::Unreachable(failures)) = builder.connect().await else {
        panic!("nobody is there");
    };
    assert_eq!(failures.len(), 3);
    let reason = |seed: &str| {
        let failure = failures.iter().find(|failure| failure.seed == seed);
        failure.unwrap().reason.clone()
    };
    assert!(reason(&closed).contains("refused"), "{}", reason(&closed));
    assert!(
        reason(&rude_address).contains("softstore"),
        "{}",
        reason(&rude_address)
    );
}

#[tokio::test]
async fn a_cluster_without_an_assignment_is_told_apart() {
    let node = Node::start("n0", 1);
    let builder = Client::builder().seeds([node.address.clone()]);
    let builder = builder
        .connect_timeout(Duration::from_millis(40))
        .require_cluster(true);
    let connected = builder.ready_timeout(Duration::from_millis(100)).connect().await;
    let Err(ConnectError::NoAssignment { seed, .. }) = connected else {
        panic!("{:?}", connected.err());
    };
    assert_eq!(seed, node.address);
}

/// Plan: the last clone of a client is dropped. Its watch and its streams end: nothing of it stays behind.
#[tokio::test]
async fn nothing_outlives_the_last_clone() {
    let nodes = cluster(1);
    let client = client_of(&nodes).await;
    client.set("k", "v").await.unwrap();
    assert_eq!(nodes[0].watchers(), 1);
    drop(client.clone());
    assert!(client.get("k").await.unwrap().is_some());
    drop(client);
    eventually("the watch ends", async || nodes[0].watchers() == 0).await;
}
