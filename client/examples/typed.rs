//! Values of one's own types, read through the cache. Beside a running cluster (`cargo run --release -- dev`):
//!
//! ```text
//! cargo run --release -p softstore-client --example typed
//! ```
//!
//! `SOFTSTORE_SEEDS` names other nodes than 127.0.0.1:7401, separated by commas.

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use softstore_client::{Client, SetOptions};

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Session {
    user: u64,
    roles: Vec<String>,
    language: Option<String>,
}

/// The type's name and version belong into the key: the encoding carries neither.
fn key(id: u64) -> String {
    format!("session:v1:{id}")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seeds = std::env::var("SOFTSTORE_SEEDS").unwrap_or_else(|_| "127.0.0.1:7401".into());
    let client = Client::builder().seeds(seeds.split(',')).connect().await?;

    let session = Session {
        user: 7,
        roles: vec!["reader".into(), "writer".into()],
        language: None,
    };
    let hour = Duration::from_secs(3_600);
    client
        .set_typed(key(1), &session, SetOptions::new().ttl(hour))
        .await?;
    println!("session 1: {:?}", client.get_typed::<Session>(key(1)).await?);

    // Not there: made once, however many tasks ask at the same time.
    client.delete(key(2)).await?;
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let make = async || {
                    Ok::<_, std::io::Error>(Session {
                        user: 8,
                        roles: vec![],
                        language: Some("en".into()),
                    })
                };
                client.get_or_load_typed(key(2), Some(hour), make).await
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    println!(
        "100 tasks asked for session 2; it was made {} time(s)",
        client.metrics().loads
    );
    Ok(())
}
