//! A database behind the cache: how many queries the cache saves. The database is SQLite, in memory; its queries are
//! counted. Beside a running cluster (`cargo run --release -- dev`):
//!
//! ```text
//! cargo run --release -p softstore-client --example database
//! ```
//!
//! `SOFTSTORE_SEEDS` names other nodes than 127.0.0.1:7401, separated by commas. Restart nodes while it runs (`softstore
//! drain NODE`, or SIGTERM): the number of queries hardly changes.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use softstore_client::Client;

const PRODUCTS: u64 = 5_000;
const READERS: u64 = 64;
const READS_PER_READER: u64 = 500;
/// One in so many requests changes a product's price.
const WRITE_EVERY: u64 = 100;

/// The source of truth, and a count of what it was asked.
#[derive(Clone)]
struct Database {
    connection: Arc<Mutex<Connection>>,
    queries: Arc<AtomicU64>,
}

impl Database {
    fn open() -> rusqlite::Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        connection
            .execute_batch("CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, cents INTEGER)")?;
        let filling = connection.transaction()?;
        for id in 0..PRODUCTS {
            let name = format!("product {id}");
            filling.execute("INSERT INTO product VALUES (?1, ?2, 100)", params![id, name])?;
        }
        filling.commit()?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            queries: Arc::default(),
        })
    }

    /// Runs a query where it may block.
    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Box<dyn Error + Send + Sync>> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        let connection = self.connection.clone();
        let blocking = move || {
            let connection = connection.lock().map_err(|_| "an earlier query panicked")?;
            Ok::<_, Box<dyn Error + Send + Sync>>(query(&connection)?)
        };
        tokio::task::spawn_blocking(blocking).await?
    }

    async fn product(&self, id: u64) -> Result<String, Box<dyn Error + Send + Sync>> {
        self.query(move |connection| {
            connection.query_row(
                "SELECT name || ': ' || cents || ' cents' FROM product WHERE id = ?1",
                [id],
                |row| row.get(0),
            )
        })
        .await
    }

    async fn raise_price(&self, id: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.query(move |connection| {
            connection
                .execute("UPDATE product SET cents = cents + 1 WHERE id = ?1", [id])
                .map(drop)
        })
        .await
    }
}

fn key(id: u64) -> String {
    format!("product:v1:{id}")
}

/// Few products are asked for often, most of them rarely: about Zipf's law.
fn pick(reader: u64, read: u64) -> u64 {
    let mut bits = reader.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ read.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let unit = (bits >> 40) as f64 / (1_u64 << 24) as f64;
    let rank = (PRODUCTS as f64).powf(unit) - 1.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to PRODUCTS"
    )]
    let id = rank as u64;
    id.min(PRODUCTS - 1)
}

/// A user of the shop: reads through the cache; a change goes to the database and removes what is cached.
async fn reader(number: u64, client: Client, database: Database) -> Result<(), Box<dyn Error + Send + Sync>> {
    let ttl = Some(Duration::from_secs(300));
    for read in 0..READS_PER_READER {
        let id = pick(number, read);
        if (number + read).is_multiple_of(WRITE_EVERY) {
            database.raise_price(id).await?;
            client.delete(key(id)).await?;
        } else {
            client.get_or_load(key(id), ttl, || database.product(id)).await?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let seeds = std::env::var("SOFTSTORE_SEEDS").unwrap_or_else(|_| "127.0.0.1:7401".into());
    let client = Client::builder().seeds(seeds.split(',')).connect().await?;
    let database = Database::open()?;
    // Leftovers of an earlier run tell of another database.
    for result in client.delete_many((0..PRODUCTS).map(key)).await {
        result?;
    }

    let begun = Instant::now();
    let readers: Vec<_> = (0..READERS)
        .map(|number| tokio::spawn(reader(number, client.clone(), database.clone())))
        .collect();
    for reader in readers {
        reader.await??;
    }

    let requests = READERS * READS_PER_READER;
    let queries = database.queries.load(Ordering::Relaxed);
    let metrics = client.metrics();
    println!("{requests} requests in {:.2} s", begun.elapsed().as_secs_f64());
    println!(
        "{queries} database queries instead of {requests}: {:.1} % saved",
        100.0 * (1.0 - queries as f64 / requests as f64)
    );
    println!(
        "hit rate {:.3}; {} loads, {} shared another's load",
        metrics.hit_rate(),
        metrics.loads,
        metrics.coalesced_loads
    );
    Ok(())
}
