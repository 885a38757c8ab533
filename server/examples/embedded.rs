//! A whole cluster in one process: an Assigner, two nodes and a client, on free ports of loopback.
//!
//! ```text
//! cargo run --release -p softstore-server --example embedded
//! ```
//!
//! An application that is itself sharded starts one [`Node`] in each of its processes, all with the same Assigner (a
//! process of its own, `softstore assigner`), and drains it where it handles SIGTERM. Here all stand together, so that
//! one can watch a hand-over: the first node leaves, and every value is still there.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use softstore_client::{Client, SetOptions};
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig};
use softstore_server::node::{DrainOutcome, Node};
use softstore_sharding::NodeId;

/// How many values are put into the cache.
const VALUES: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // With the number of nodes known, the first assignment waits for them and not for `settle_ms`.
    let config = AssignerConfig {
        listen: any_port,
        expect_nodes: 2,
        founds_at_once: true,
        ..AssignerConfig::default()
    };
    let assigner = AssignerServer::start(config).await?;
    let first = start_node("cache-0", any_port, &assigner).await?;
    let second = start_node("cache-1", any_port, &assigner).await?;

    let seeds = [first.grpc_addr().to_string(), second.grpc_addr().to_string()];
    let client = Client::builder()
        .seeds(seeds)
        .require_cluster(true)
        .connect()
        .await?;
    let keys: Vec<String> = (0..VALUES).map(|number| format!("user:{number}")).collect();
    let values = keys.iter().map(|key| (key, key.to_uppercase()));
    let ttl = SetOptions::new().ttl(Duration::from_secs(300));
    for stored in client.set_many(values, ttl).await {
        stored?;
    }

    // What an application does on SIGTERM. It returns when all is handed over, or at `drain_deadline_ms`.
    let outcome = first.drain().await;
    println!("{} has left: {outcome:?}", first.id());
    let found = client.get_many(&keys).await;
    let hits = found.iter().filter(|found| matches!(found, Ok(Some(_)))).count();
    println!("{hits} of {VALUES} values are still there");
    if (outcome, hits) != (DrainOutcome::Drained, VALUES) {
        return Err("the hand-over lost something".into());
    }

    // The last one has nobody to hand over to: its drain says so, and ends at once.
    println!("{} has left: {:?}", second.id(), second.drain().await);
    assigner.shutdown().await;
    Ok(())
}

/// A node with little memory and no HTTP port. `NodeConfig::default()` says what else there is to choose.
async fn start_node(id: &str, listen: SocketAddr, assigner: &AssignerServer) -> Result<Node, Box<dyn Error>> {
    let config = NodeConfig {
        id: NodeId::new(id)?,
        listen,
        http_listen: None,
        assigner: assigner.grpc_addr().to_string(),
        memory_bytes: 64 << 20,
        ..NodeConfig::default()
    };
    Ok(Node::start(config).await?)
}
