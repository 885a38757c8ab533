//! [`Client::get_or_load`]: read through the cache, with one load at a time per key and process.
//!
//! Who misses joins the key's *flight*: the first leads and loads, the others wait for what it brings. A leader that is
//! cancelled leaves the flight to one of them. The loaded value is put into the cache only if nothing is there by then,
//! so a load never covers a newer write; while that is under way, latecomers wait and then read anew. A caller whose read
//! began before a flight ended, and who finds no flight any more, reads once more instead of loading a second time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::client::Client;
use crate::error::{LoadError, ReadError};
use crate::options::SetOptions;
use crate::payload::IntoBytes;

type LoaderError = Arc<dyn std::error::Error + Send + Sync>;

/// Where a flight is.
#[derive(Clone, Debug)]
enum Stage {
    /// The leader loads.
    Loading,
    /// The value is there, and on its way into the cache. Who waited during the load takes it.
    Loaded(Bytes),
    /// The load failed.
    Failed(LoaderError),
}

/// The loads under way in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights {
    by_key: Arc<Mutex<HashMap<Bytes, watch::Receiver<Stage>, foldhash::fast::RandomState>>>,
    ended: Arc<AtomicU64>,
}

/// A place in a flight.
enum Place {
    Leader(Leader),
    /// Joined during the load.
    Follower(watch::Receiver<Stage>),
    /// Came after it.
    Latecomer(watch::Receiver<Stage>),
}

/// Leads a flight; when dropped, the flight has ended.
struct Leader {
    flights: Flights,
    key: Bytes,
    stage: watch::Sender<Stage>,
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.flights.ended.fetch_add(1, Ordering::AcqRel);
        self.flights.by_key.lock().remove(&self.key);
    }
}

impl Flights {
    fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    fn join(&self, key: &Bytes) -> Place {
        let mut by_key = self.by_key.lock();
        if let Some(stage) = by_key.get(key) {
            let is_loading = matches!(*stage.borrow(), Stage::Loading);
            let stage = stage.clone();
            return if is_loading {
                Place::Follower(stage)
            } else {
                Place::Latecomer(stage)
            };
        }
        // A copy: the caller's key may be a slice of something large.
        let key = Bytes::copy_from_slice(key);
        let (stage, waiting) = watch::channel(Stage::Loading);
        by_key.insert(key.clone(), waiting);
        Place::Leader(Leader {
            flights: self.clone(),
            key,
            stage,
        })
    }
}

impl Client {
    /// What is under `key`; if nothing is, what `loader` gives, which is put into the cache with the time to live `ttl`
    /// (`None`: it does not expire). However many calls for a key miss at once in this process, one load runs.
    ///
    /// The client's deadline covers its own reads and writes; how long the loader takes is the loader's business. If
    /// the cache cannot be reached, the value is loaded. A value that cannot be put into the cache is given all the same.
    ///
    /// # Errors
    /// The loader's error, which is not cached: all calls that waited for that load get it, the next one loads anew. A
    /// key that is none.
    pub async fn get_or_load<V, E, F>(
        &self,
        key: impl IntoBytes,
        ttl: Option<Duration>,
        loader: impl FnOnce() -> F,
    ) -> Result<Bytes, LoadError>
    where
        V: IntoBytes,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Future<Output = Result<V, E>>,
    {
        let key = key.into_bytes();
        let flights = &self.shared.flights;
        let mut ended = flights.ended();
        let mut must_read = true;
        let leader = loop {
            if must_read && let Some(value) = self.read_for_load(&key).await? {
                return Ok(value);
            }
            match flights.join(&key) {
                Place::Leader(leader) if flights.ended() == ended => break leader,
                Place::Leader(leader) => {
                    // A flight ended since the read began: perhaps this key's.
                    if let Some(value) = self.read_for_load(&key).await? {
                        return Ok(value);
                    }
                    break leader;
                }
                Place::Follower(stage) => match self.follow(stage).await {
                    Some(outcome) => return outcome,
                    None => must_read = false,
                },
                Place::Latecomer(mut stage) => {
                    // Ends in an error when the leader is gone, which is what is waited for.
                    while stage.changed().await.is_ok() {}
                    ended = flights.ended();
                    must_read = true;
                }
            }
        };
        self.lead(leader, ttl, loader).await
    }

    /// Waits for the leader's value or error. `None`: it was cancelled.
    async fn follow(&self, mut stage: watch::Receiver<Stage>) -> Option<Result<Bytes, LoadError>> {
        let outcome = match stage.wait_for(|stage| !matches!(stage, Stage::Loading)).await {
            Err(_) => return None,
            Ok(stage) => match &*stage {
                Stage::Loading => return None,
                Stage::Loaded(value) => Ok(value.clone()),
                Stage::Failed(error) => Err(LoadError::Loader(error.clone())),
            },
        };
        self.shared.counters.coalesced_loads.one();
        Some(outcome)
    }

    async fn lead<V, E, F>(
        &self,
        leader: Leader,
        ttl: Option<Duration>,
        loader: impl FnOnce() -> F,
    ) -> Result<Bytes, LoadError>
    where
        V: IntoBytes,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Future<Output = Result<V, E>>,
    {
        self.shared.counters.loads.one();
        match loader().await {
            Err(error) => {
                self.shared.counters.load_errors.one();
                let error: LoaderError = Arc::from(error.into());
                leader.stage.send_replace(Stage::Failed(error.clone()));
                Err(LoadError::Loader(error))
            }
            Ok(value) => {
                let value = value.into_bytes();
                leader.stage.send_replace(Stage::Loaded(value.clone()));
                // Apart from the caller, who has what it asked for: a slow or unreachable cache is not its problem.
                tokio::spawn(fill(self.clone(), leader, value.clone(), ttl));
                Ok(value)
            }
        }
    }

    /// A read whose failures count as misses, but for a key that is none.
    async fn read_for_load(&self, key: &Bytes) -> Result<Option<Bytes>, LoadError> {
        match self.get(key).await {
            Ok(found) => Ok(found),
            Err(error @ (ReadError::InvalidKey(_) | ReadError::Refused { .. })) => Err(error.into()),
            Err(ReadError::Busy | ReadError::Unreachable(_)) => Ok(None),
        }
    }
}

/// Puts a loaded value into the cache; the flight ends with it.
async fn fill(client: Client, leader: Leader, value: Bytes, ttl: Option<Duration>) {
    let mut options = SetOptions::new().if_absent();
    options.ttl = ttl;
    if let Err(error) = client.set_with(&leader.key, value, options).await {
        client.shared.counters.fills_failed.one();
        tracing::debug!(%error, "a loaded value was not put into the cache");
    }
}
