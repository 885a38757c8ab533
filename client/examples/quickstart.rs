//! The operations, one after another. Beside a running cluster (`cargo run --release -- dev`):
//!
//! ```text
//! cargo run --release -p softstore-client --example quickstart
//! ```
//!
//! `SOFTSTORE_SEEDS` names other nodes than 127.0.0.1:7401, separated by commas.

use std::error::Error;
use std::time::Duration;

use softstore_client::{Client, SetOptions, SetOutcome};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seeds = std::env::var("SOFTSTORE_SEEDS").unwrap_or_else(|_| "127.0.0.1:7401".into());
    let client = Client::builder().seeds(seeds.split(',')).connect().await?;

    // Put, get, with a time to live.
    let minute = SetOptions::new().ttl(Duration::from_secs(60));
    client.set_with("greeting", "hello", minute).await?;
    let greeting = client.get("greeting").await?;
    println!("greeting: {greeting:?}");

    // Change a value only if nobody else did meanwhile.
    client.set("counter:text", "1").await?;
    if let Some(found) = client.get_with_version("counter:text").await? {
        let unchanged = SetOptions::new().if_version(found.version);
        match client.set_with("counter:text", "2", unchanged).await? {
            SetOutcome::Stored(version) => println!("stored as version {version:?}"),
            SetOutcome::ConditionFailed { present } => println!("somebody was faster: {present:?}"),
        }
    }

    // Count.
    client.delete("visits").await?;
    client.add("visits", 41).await?;
    println!("visits: {}", client.add("visits", 1).await?);

    // Many at once: one message per node.
    let users: Vec<String> = (0..1_000).map(|number| format!("user:{number}")).collect();
    let entries = users.iter().map(|user| (user, user.to_uppercase()));
    let stored = client.set_many(entries, minute).await;
    println!(
        "stored: {}",
        stored.iter().filter(|outcome| outcome.is_ok()).count()
    );
    let found = client.get_many(&users).await;
    let hits = found.iter().filter(|found| matches!(found, Ok(Some(_)))).count();
    println!("found: {hits} of {}", users.len());
    for result in client.delete_many(&users).await {
        result?;
    }

    let metrics = client.metrics();
    println!(
        "{} operations in {} messages, hit rate {:.3}",
        metrics.batched_ops,
        metrics.batches,
        metrics.hit_rate()
    );
    Ok(())
}
