//! A policy of one's own: a tenant's keys stay on the nodes that it may use. An Assigner with that policy, three nodes and a
//! client, in one process, on free ports of loopback.
//!
//! ```text
//! cargo run --release -p softstore-server --example pinned_tenants
//! ```
//!
//! The tenant `acme` may use `cache-1` and `cache-2`. Its keys live on the first of them, other keys everywhere; when that
//! node leaves, they move to the second, and every value is still there. The policy is `sharder.rs`; how to write one is
//! told in `docs/sharder.md`.

mod sharder;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sharder::PinnedTenants;
use softstore_client::{Client, SetOptions};
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig};
use softstore_server::node::{DrainOutcome, Node};
use softstore_sharding::sharder::Ring;
use softstore_sharding::{Assignment, NodeId, SliceKey};

/// How many values are put into the cache for the tenant, and as many for others.
const VALUES: usize = 300;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let allowed = [NodeId::new("cache-1")?, NodeId::new("cache-2")?];
    let sharder = PinnedTenants::over(Ring::default()).pin("acme", &allowed);
    let config = AssignerConfig {
        listen: any_port,
        expect_nodes: 3,
        founds_at_once: true,
        ..AssignerConfig::default()
    };
    let assigner = AssignerServer::start_with_sharder(config, Box::new(sharder)).await?;
    let mut nodes = Vec::new();
    for id in ["cache-0", "cache-1", "cache-2"] {
        nodes.push(start_node(id, any_port, &assigner).await?);
    }

    let seeds = nodes.iter().map(|node| node.grpc_addr().to_string());
    let client = Client::builder()
        .seeds(seeds)
        .require_cluster(true)
        .connect()
        .await?;
    let of_tenant: Vec<String> = (0..VALUES)
        .map(|number| format!("{{acme}}:user:{number}"))
        .collect();
    let of_others: Vec<String> = (0..VALUES).map(|number| format!("user:{number}")).collect();
    let ttl = SetOptions::new().ttl(Duration::from_secs(300));
    let values = of_tenant
        .iter()
        .chain(&of_others)
        .map(|key| (key, key.to_uppercase()));
    for stored in client.set_many(values, ttl).await {
        stored?;
    }
    println!("acme's keys live on {:?}", homes(&nodes[0], &of_tenant)?);
    println!("other keys live on {:?}", homes(&nodes[0], &of_others)?);

    let outcome = nodes[1].drain().await;
    println!("cache-1 has left: {outcome:?}");
    // The others hear of it from the Assigner, maybe a moment later.
    let mut assignments = nodes[0].state().assignments();
    let left = |assignment: &Arc<Assignment>| !assignment.directory().contains_key(&allowed[0]);
    assignments
        .wait_for(|newest| newest.as_ref().is_some_and(left))
        .await?;
    let after = homes(&nodes[0], &of_tenant)?;
    println!("acme's keys live on {after:?}");
    let found = client.get_many(&of_tenant).await;
    let hits = found.iter().filter(|found| matches!(found, Ok(Some(_)))).count();
    println!("{hits} of {VALUES} values are still there");
    let moved = BTreeMap::from([(allowed[1].clone(), VALUES)]);
    if (outcome, hits, after) != (DrainOutcome::Drained, VALUES, moved) {
        return Err("the tenant's keys are not where they should be".into());
    }
    for node in &nodes {
        node.shutdown().await;
    }
    assigner.shutdown().await;
    Ok(())
}

/// How many of the keys each node owns, by the assignment that this one follows.
fn homes(node: &Node, keys: &[String]) -> Result<BTreeMap<NodeId, usize>, Box<dyn Error>> {
    let assignments = node.state().assignments();
    let assignment = assignments.borrow().clone().ok_or("no assignment yet")?;
    let mut homes = BTreeMap::new();
    for key in keys {
        let at = SliceKey::of_key(key.as_bytes());
        *homes
            .entry(assignment.range_at(at).owner.node.clone())
            .or_default() += 1;
    }
    Ok(homes)
}

/// A node with little memory and no HTTP port.
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

#[cfg(test)]
mod tests {
    use softstore_sharding::sharder::conformance;

    use super::*;

    fn nodes(names: &[&str]) -> Vec<NodeId> {
        let id = |name: &&str| NodeId::new(name).expect("a name");
        names.iter().map(id).collect()
    }

    /// Plan: the suite's clusters have nodes `node-0` to `node-6`. Many tenants are pinned to two of those each, and one to a
    /// node that never comes.
    #[test]
    fn it_conforms() {
        let mut sharder = PinnedTenants::over(Ring::default()).pin("nowhere", &nodes(&["elsewhere"]));
        for number in 0..200 {
            let (one, other) = (format!("node-{}", number % 7), format!("node-{}", number % 5));
            sharder = sharder.pin(&format!("tenant {number}"), &nodes(&[&one, &other]));
        }
        assert_eq!(conformance::check(&sharder), Ok(()));
    }

    /// The example as it stands, with real nodes.
    #[test]
    fn it_runs() {
        main().expect("the tenant's keys are where they should be");
    }
}
