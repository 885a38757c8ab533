//! The two clients, as the measurement sees them. Each as an application would use it: a clone per task, one connection.

use std::future::Future;

use bytes::Bytes;
use eyre::{Result, WrapErr, eyre};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use softstore_benches::workload::Key;
use softstore_client::Client;

use crate::server::{RedisServer, SoftstoreServer};

/// A client to be measured.
pub(crate) trait Contestant: Clone + Send + 'static {
    /// Reads a key that is there; gives the length of its value.
    fn get(&mut self, key: &Key) -> impl Future<Output = Result<usize>> + Send;

    /// Writes a key.
    fn set(&mut self, key: &Key, value: &Bytes) -> impl Future<Output = Result<()>> + Send;
}

/// The native client.
#[derive(Clone, Debug)]
pub(crate) struct Softstore(Client);

impl Softstore {
    pub(crate) async fn connect(server: &SoftstoreServer) -> Result<Self> {
        let seeds = [server.address().to_owned()];
        let client = Client::builder()
            .seeds(seeds)
            .require_cluster(true)
            .connect()
            .await
            .wrap_err("cannot connect to the node")?;
        Ok(Self(client))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0
    }
}

impl Contestant for Softstore {
    async fn get(&mut self, key: &Key) -> Result<usize> {
        let value = self.0.get(key).await?;
        value
            .map(|value| value.len())
            .ok_or_else(|| eyre!("softstore has lost {}", key.escape_ascii()))
    }

    async fn set(&mut self, key: &Key, value: &Bytes) -> Result<()> {
        self.0.set(key, value).await?;
        Ok(())
    }
}

/// redis-rs, multiplexed.
#[derive(Clone, Debug)]
pub(crate) struct Redis(MultiplexedConnection);

impl Redis {
    /// Connects; `timed`: with redis-rs' default response timeout, else with none.
    pub(crate) async fn connect(server: &RedisServer, timed: bool) -> Result<Self> {
        let client = redis::Client::open(server.url())?;
        let mut config = redis::AsyncConnectionConfig::new();
        if !timed {
            config = config.set_response_timeout(None);
        }
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        Ok(Self(connection.wrap_err("cannot connect to redis-server")?))
    }
}

impl Contestant for Redis {
    async fn get(&mut self, key: &Key) -> Result<usize> {
        let value: Option<Vec<u8>> = self.0.get(&key[..]).await?;
        value
            .map(|value| value.len())
            .ok_or_else(|| eyre!("Redis has lost {}", key.escape_ascii()))
    }

    async fn set(&mut self, key: &Key, value: &Bytes) -> Result<()> {
        let () = self.0.set(&key[..], &value[..]).await?;
        Ok(())
    }
}

/// Sets all keys to the value.
pub(crate) async fn fill_redis(redis: &Redis, keys: &[Key], value: &Bytes) -> Result<()> {
    let mut connection = redis.0.clone();
    for some in keys.chunks(1_000) {
        let mut pipeline = redis::pipe();
        for key in some {
            pipeline.set(&key[..], &value[..]).ignore();
        }
        let () = pipeline.query_async(&mut connection).await?;
    }
    Ok(())
}
