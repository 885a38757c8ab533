//! [`Client::get_or_load`]: read through the cache, with one load at a time per key and process.
//!
//! Who misses joins the key's *flight*: the first leads and loads, the others wait for what it brings. A leader that is
//! cancelled leaves the flight to one of them. What was loaded is handed to all of them at once, and to whoever misses the key
//! while it is on its way into the cache: that is nobody's wait (`fill`). A caller whose read began before a flight ended,
//! and who finds no flight any more, reads once more instead of loading a second time.
//!
//! A load that began before a write of this client ended may have read what the write replaced. So an [`OwnWrite`]
//! *detaches* the flights of its keys, when it begins and when it ends: who joined before gets what they bring, who comes
//! after starts anew, and what a detached flight brings is not put into the cache. (Other clients' writes are not seen here;
//! against them stands only that a fill needs the key to be absent, and that none is on its way for long.)

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use softstore_sharding::{Slice, SliceKey};
use tokio::sync::watch;

use crate::client::Client;
use crate::error::{LoadError, ReadError};
use crate::fill::{Fill, Filling};
use crate::options::check_ttl;
use crate::payload::IntoBytes;

type LoaderError = Arc<dyn std::error::Error + Send + Sync>;

/// Where a flight is.
#[derive(Clone, Debug)]
enum Stage {
    /// The leader loads.
    Loading,
    /// The value is there, and on its way into the cache.
    Loaded(Bytes),
    /// The load failed. Nobody joins any more.
    Failed(LoaderError),
}

type FlightsByKey = HashMap<Bytes, watch::Receiver<Stage>, foldhash::fast::RandomState>;

/// The loads under way in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights(pub(crate) Arc<FlightsState>);

#[derive(Debug, Default)]
pub(crate) struct FlightsState {
    /// Those that may be joined.
    by_key: Mutex<FlightsByKey>,
    /// How many these are: so writes need no lock while nothing is loaded, which is nearly always.
    joinable: AtomicUsize,
    ended: AtomicU64,
    /// What is on its way into the cache.
    pub(crate) filling: Filling,
}

/// A write of this client, from before its first attempt until its end.
pub(crate) struct OwnWrite<'a> {
    flights: &'a Flights,
    keys: Keys<'a>,
}

/// What a write is about.
#[derive(Clone, Copy)]
pub(crate) enum Keys<'a> {
    One(&'a [u8]),
    In(&'a [Slice]),
}

impl Drop for OwnWrite<'_> {
    fn drop(&mut self) {
        self.flights.detach(self.keys);
    }
}

/// A place in a flight.
enum Place {
    Leader(Leader),
    Follower(watch::Receiver<Stage>),
}

/// Leads a flight; when dropped, the flight has ended.
pub(crate) struct Leader {
    flights: Flights,
    pub(crate) key: Bytes,
    stage: watch::Sender<Stage>,
}

impl Drop for Leader {
    fn drop(&mut self) {
        let state = &self.flights.0;
        let mut by_key = state.by_key.lock();
        state.ended.fetch_add(1, Ordering::AcqRel);
        if self.is_joinable(&by_key) {
            by_key.remove(&self.key);
            state.joinable.store(by_key.len(), Ordering::Release);
        }
    }
}

impl Leader {
    /// Whether it was not detached: under its key there may be another flight by now.
    fn is_joinable(&self, by_key: &FlightsByKey) -> bool {
        by_key
            .get(&self.key)
            .is_some_and(|stage| stage.same_channel(&self.stage.subscribe()))
    }

    /// Begins something, unless the flight is detached; and no own write begins meanwhile.
    pub(crate) fn unless_detached<T>(&self, begin: impl FnOnce() -> T) -> Option<T> {
        let by_key = self.flights.0.by_key.lock();
        self.is_joinable(&by_key).then(begin)
    }
}

impl Flights {
    fn ended(&self) -> u64 {
        self.0.ended.load(Ordering::Acquire)
    }

    fn join(&self, key: &Bytes) -> Place {
        let mut by_key = self.0.by_key.lock();
        let held = by_key.get(key);
        if let Some(stage) = held.filter(|stage| !matches!(*stage.borrow(), Stage::Failed(_))) {
            return Place::Follower(stage.clone());
        }
        // A copy: the caller's key may be a slice of something large.
        let key = Bytes::copy_from_slice(key);
        let (stage, waiting) = watch::channel(Stage::Loading);
        by_key.insert(key.clone(), waiting);
        self.0.joinable.store(by_key.len(), Ordering::Release);
        Place::Leader(Leader {
            flights: self.clone(),
            key,
            stage,
        })
    }

    /// To be kept while this client writes these keys.
    pub(crate) fn own_write<'a>(&'a self, keys: Keys<'a>) -> OwnWrite<'a> {
        self.detach(keys);
        OwnWrite { flights: self, keys }
    }

    fn detach(&self, keys: Keys<'_>) {
        if self.0.joinable.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut by_key = self.0.by_key.lock();
        match keys {
            Keys::One(key) => drop(by_key.remove(key)),
            Keys::In(slices) => by_key.retain(|key, _| {
                let at = SliceKey::of_key(key);
                !slices.iter().any(|slice| slice.contains(at))
            }),
        }
        self.0.joinable.store(by_key.len(), Ordering::Release);
    }
}

impl Client {
    /// What is under `key`; if nothing is, what `loader` gives, which is put into the cache with the time to live `ttl`
    /// (`None`: it does not expire). However many calls for a key miss at once in this process, one load runs.
    ///
    /// The client's deadline covers its own reads; how long the loader takes is the loader's business. If the cache cannot be
    /// reached, the value is loaded. Nobody waits until it is in the cache, nor whether it gets there: within the deadline,
    /// and a second at most, and with others 64 MiB at most, it is tried. Meanwhile calls that miss the key get the value, too.
    ///
    /// The set is queued before this returns. So a [`get`](Client::get) that follows finds the value, as long as the key's owner
    /// serves it, it has no replicas, and nobody removes the entry; while ownership changes, or the owner is out of reach or
    /// overloaded, the `get` may miss.
    ///
    /// # Errors
    /// The loader's error, which is not cached: all calls that waited for that load get it, the next one loads anew. A
    /// key that is none; a time to live of 0.
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
        check_ttl(ttl)?;
        let key = key.into_bytes();
        let flights = &self.shared.flights;
        let ended = flights.ended();
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
                // Under way before anybody has the value: what they ask next comes after it.
                let fill = Fill::begin(self, &leader, value.clone(), ttl);
                leader.stage.send_replace(Stage::Loaded(value.clone()));
                if let Some(fill) = fill {
                    tokio::spawn(fill.finish(self.clone(), leader));
                }
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
