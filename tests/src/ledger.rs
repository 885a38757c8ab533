//! [`Ledger`]: writes and reads a cluster, and knows every stale read.
//!
//! Each key has one writer, which numbers its writes; a value carries its key and number. Before a read is sent, the
//! highest number acknowledged for its key is noted: a value with a lower one is stale, and so is a value older than an
//! acknowledged delete. A miss is always allowed, and counted. A write whose outcome is unknown may show later; its number
//! is higher than any acknowledged before, so it is no stale read.
//!
//! What is lost is asked for at the end, when nothing runs ([`Ledger::audit`]): a key whose last write was acknowledged, was
//! a set, and is not there.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use softstore_client::{Client, WriteError};
use softstore_proto::v1;
use softstore_proto::v1::cache_client::CacheClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// One in so many writes is a delete.
const DELETE_EVERY: u64 = 7;

/// Writers that fill at once.
const FILLERS: usize = 32;

/// What a ledger saw.
#[derive(Debug, Default)]
pub struct Counts {
    /// Reads answered with a value.
    pub hits: AtomicU64,
    /// Reads answered with nothing.
    pub misses: AtomicU64,
    /// Reads that gave an older value than was acknowledged before they were sent.
    pub stale: AtomicU64,
    /// Reads that failed, and writes that failed without a type that says what became of them.
    pub errors: AtomicU64,
    /// Sets and deletes acknowledged.
    pub writes: AtomicU64,
    /// Writes that were not applied, and said so.
    pub unavailable: AtomicU64,
    /// Writes whose outcome is unknown, and that said so.
    pub unknown: AtomicU64,
    /// Reads of a node itself, past the client, that it answered with an older value than was acknowledged before.
    pub stale_at_a_node: AtomicU64,
}

/// What is there when all is over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// Keys that have a value.
    pub present: usize,
    /// Keys, by their numbers, that have none although their last write, a set, was acknowledged.
    pub lost: Vec<usize>,
    /// Keys that have none, and may: deleted, or the outcome of a later write is unknown.
    pub absent: usize,
}

impl Counts {
    /// One number.
    #[must_use]
    pub fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The keys, and what is acknowledged of each.
#[derive(Debug)]
pub struct Ledger {
    client: Client,
    acknowledged: Vec<AtomicU64>,
    /// Whether the last acknowledged write was a set.
    is_set: Vec<AtomicBool>,
    next: Vec<AtomicU64>,
    value_bytes: usize,
    /// What was seen.
    pub counts: Counts,
    stop: AtomicBool,
}

/// A load that runs until it is stopped.
#[derive(Debug)]
pub struct Running {
    ledger: Arc<Ledger>,
    tasks: JoinSet<()>,
}

impl Ledger {
    /// A ledger of so many keys, with values of about so many bytes.
    #[must_use]
    pub fn new(client: Client, keys: usize, value_bytes: usize) -> Arc<Self> {
        let numbers = || (0..keys).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            client,
            acknowledged: numbers(),
            is_set: (0..keys).map(|_| AtomicBool::new(false)).collect(),
            next: numbers(),
            value_bytes,
            counts: Counts::default(),
            stop: AtomicBool::new(false),
        })
    }

    /// The key of this number.
    #[must_use]
    pub fn key(index: usize) -> Vec<u8> {
        format!("ledger-{index}").into_bytes()
    }

    fn value(&self, index: usize, number: u64) -> Vec<u8> {
        let mut value = format!("ledger-{index}#{number}#").into_bytes();
        value.resize(value.len().max(self.value_bytes), b'.');
        value
    }

    /// The number of a write by its value.
    fn number_in(index: usize, value: &[u8]) -> Option<u64> {
        let text = str::from_utf8(value).ok()?;
        let mut parts = text.split('#');
        let key = parts.next()?;
        (key.as_bytes() == Self::key(index)).then_some(())?;
        parts.next()?.parse().ok()
    }

    /// Writes every key once, and expects that to succeed.
    ///
    /// # Panics
    /// If a write fails.
    pub async fn fill(self: &Arc<Self>) {
        self.fill_trying(1).await;
    }

    /// Writes every key until that is acknowledged: the cluster has just lost a node, and the client may not have heard.
    ///
    /// # Panics
    /// If a key cannot be written in ten tries.
    pub async fn fill_at_last(self: &Arc<Self>) {
        self.fill_trying(10).await;
    }

    async fn fill_trying(self: &Arc<Self>, tries: u32) {
        let mut tasks = JoinSet::new();
        for worker in 0..FILLERS {
            let ledger = self.clone();
            tasks.spawn(async move {
                for index in (worker..ledger.acknowledged.len()).step_by(FILLERS) {
                    let mut written = ledger.set(index).await;
                    for _ in 1..tries {
                        if written.is_err() {
                            written = ledger.set(index).await;
                        }
                    }
                    written.expect("a set succeeds");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("filling succeeds");
        }
    }

    /// Writes a key's next value. Only one task at a time may write a key.
    async fn set(&self, index: usize) -> Result<(), WriteError> {
        let number = self.next[index].fetch_add(1, Ordering::SeqCst) + 1;
        self.client
            .set(Self::key(index), self.value(index, number))
            .await?;
        self.is_set[index].store(true, Ordering::SeqCst);
        self.acknowledged[index].store(number, Ordering::SeqCst);
        Ok(())
    }

    /// Writes some keys anew through another client than the ledger's own, which may still wait for an owner that is gone. No
    /// other task may write them.
    ///
    /// # Panics
    /// If a key cannot be written in ten tries.
    pub async fn write_anew(&self, client: &Client, keys: Range<usize>) {
        for index in keys {
            let mut written = false;
            for _ in 0..10 {
                let number = self.next[index].fetch_add(1, Ordering::SeqCst) + 1;
                let set = client.set(Self::key(index), self.value(index, number)).await;
                if set.is_ok() {
                    self.is_set[index].store(true, Ordering::SeqCst);
                    self.acknowledged[index].store(number, Ordering::SeqCst);
                    written = true;
                    break;
                }
            }
            assert!(written, "key {index} can be written");
        }
    }

    /// Deletes some keys through another client than the ledger's own. No other task may write them.
    ///
    /// # Panics
    /// If a key cannot be deleted in ten tries.
    pub async fn delete_anew(&self, client: &Client, keys: Range<usize>) {
        for index in keys {
            let mut deleted = false;
            for _ in 0..10 {
                let number = self.next[index].fetch_add(1, Ordering::SeqCst) + 1;
                if client.delete(Self::key(index)).await.is_ok() {
                    self.is_set[index].store(false, Ordering::SeqCst);
                    self.acknowledged[index].store(number, Ordering::SeqCst);
                    deleted = true;
                    break;
                }
            }
            assert!(deleted, "key {index} can be deleted");
        }
    }

    async fn delete(&self, index: usize) -> Result<(), WriteError> {
        let number = self.next[index].fetch_add(1, Ordering::SeqCst) + 1;
        self.client.delete(Self::key(index)).await?;
        self.is_set[index].store(false, Ordering::SeqCst);
        self.acknowledged[index].store(number, Ordering::SeqCst);
        Ok(())
    }

    /// Reads a key and judges what comes.
    pub async fn read(&self, index: usize) {
        let before = self.acknowledged[index].load(Ordering::SeqCst);
        match self.client.get(Self::key(index)).await {
            Ok(None) => count(&self.counts.misses),
            Ok(Some(value)) => match Self::number_in(index, &value) {
                Some(number) if number >= before => count(&self.counts.hits),
                Some(number) => {
                    eprintln!("stale: key {index} gave write {number} after {before} was acknowledged");
                    count(&self.counts.stale);
                }
                None => count(&self.counts.errors),
            },
            Err(error) => {
                eprintln!("a read failed: {error}");
                count(&self.counts.errors);
            }
        }
    }

    /// Asks one node itself for a key, past the client and all that it knows of owners, and judges what comes. A node that
    /// does not own the key says so; no answer is none.
    pub async fn read_from(&self, mut node: CacheClient<Channel>, index: usize) {
        let before = self.acknowledged[index].load(Ordering::SeqCst);
        let get = v1::Op {
            key: Self::key(index).into(),
            ..v1::Op::default()
        };
        let Ok(reply) = node.get(get).await else { return };
        let reply = reply.into_inner();
        if reply.status() != v1::Status::Ok {
            return;
        }
        match Self::number_in(index, &reply.value) {
            Some(number) if number >= before => {}
            Some(number) => {
                eprintln!("stale at a node: key {index} gave write {number} after {before} was acknowledged");
                count(&self.counts.stale_at_a_node);
            }
            None => count(&self.counts.errors),
        }
    }

    /// Reads every key once, when nothing else runs any more, and says what is there and what is lost.
    ///
    /// # Panics
    /// If a key cannot be read; so give it a client for which that is an error and no miss.
    pub async fn audit(&self, client: &Client) -> Audit {
        let mut audit = Audit::default();
        for index in 0..self.acknowledged.len() {
            let acknowledged = self.acknowledged[index].load(Ordering::SeqCst);
            let value = client.get(Self::key(index)).await.expect("every key can be read");
            if let Some(value) = value {
                audit.present += 1;
                if Self::number_in(index, &value).is_none_or(|number| number < acknowledged) {
                    eprintln!("stale: key {index} is still of before write {acknowledged}");
                    count(&self.counts.stale);
                }
            } else if self.is_set[index].load(Ordering::SeqCst)
                && self.next[index].load(Ordering::SeqCst) == acknowledged
            {
                audit.lost.push(index);
            } else {
                audit.absent += 1;
            }
        }
        audit
    }

    async fn write(&self, index: usize, round: u64) {
        let written = if round.is_multiple_of(DELETE_EVERY) {
            self.delete(index).await
        } else {
            self.set(index).await
        };
        match written {
            Ok(()) => count(&self.counts.writes),
            Err(WriteError::OutcomeUnknown(_)) => count(&self.counts.unknown),
            Err(error) if error.is_retryable() => count(&self.counts.unavailable),
            Err(error) => {
                eprintln!("a write failed: {error}");
                count(&self.counts.errors);
            }
        }
    }

    /// Reads every key once; how many were there.
    pub async fn read_all(self: &Arc<Self>) -> usize {
        let before = Counts::of(&self.counts.hits);
        let reads = (0..self.acknowledged.len()).map(|index| self.read(index));
        futures::future::join_all(reads).await;
        usize::try_from(Counts::of(&self.counts.hits) - before).unwrap_or(usize::MAX)
    }

    /// Reads and writes all keys over and over, with so many writers and as many readers, until it is stopped. A short
    /// pause between operations leaves the machine to the cluster.
    #[must_use]
    pub fn run(self: &Arc<Self>, workers: usize, pause: Duration) -> Running {
        self.run_writing(workers, pause, self.acknowledged.len())
    }

    /// The same, but only the first so many keys are written: what is lost of the others stays lost until the audit.
    #[must_use]
    pub fn run_writing(self: &Arc<Self>, workers: usize, pause: Duration, written: usize) -> Running {
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            let ledger = self.clone();
            tasks.spawn(async move {
                let mut round = worker as u64;
                while !ledger.stop.load(Ordering::Relaxed) {
                    for index in (worker..written).step_by(workers) {
                        if ledger.stop.load(Ordering::Relaxed) {
                            return;
                        }
                        round += 1;
                        ledger.write(index, round).await;
                        tokio::time::sleep(pause).await;
                    }
                }
            });
            let ledger = self.clone();
            tasks.spawn(async move {
                let keys = ledger.acknowledged.len();
                // A stride that is coprime to any even number of keys reaches them all in a scattered order.
                let mut index = worker;
                while !ledger.stop.load(Ordering::Relaxed) {
                    index = (index + 7_919) % keys;
                    ledger.read(index).await;
                    tokio::time::sleep(pause).await;
                }
            });
        }
        Running {
            ledger: self.clone(),
            tasks,
        }
    }
}

impl Running {
    /// Ends the load and waits for its last operations.
    ///
    /// # Panics
    /// If one of its tasks panicked.
    pub async fn stop(mut self) {
        self.ledger.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.expect("the load runs through");
        }
        self.ledger.stop.store(false, Ordering::Relaxed);
    }
}
