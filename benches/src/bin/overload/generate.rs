//! A generator: a process of its own that offers operations at times that were fixed before (open loop), or keeps so many
//! in flight (closed loop, to find out what the node sustains).
//!
//! In open loop, operations become due on a grid of one millisecond, as many as the rate asks for, and a latency counts
//! from the moment when its operation was due: what waits in this process, in its client or on the wire counts as well,
//! whether or not the node is to blame, and a slow answer delays no other operation (no coordinated omission).

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use eyre::{Result, WrapErr};
use serde::{Deserialize, Serialize};
use softstore_benches::workload::{Picks, key, value};
use softstore_client::{Client, ReadError, ReadPolicy, WriteError};
use tokio::task::{JoinSet, LocalSet};

use crate::tally::{GeneratorRecord, Outcome, SLOT_MS, Slot};

/// When operations become due, within a second.
const GRID_MS: u64 = 1;

/// A stretch of constant load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stretch {
    /// Operations per second of this generator.
    pub(crate) per_second: f64,
    pub(crate) millis: u64,
}

/// What a generator is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) seeds: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    pub(crate) get_percent: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) seed: u64,
    /// When the first stretch begins, in microseconds since 1970.
    pub(crate) starts_us: u64,
    pub(crate) stretches: Vec<Stretch>,
    /// Closed loop instead: so many in flight, for the length of the stretches.
    pub(crate) in_flight: Option<u32>,
}

/// Is a generator: reads its orders from stdin, writes its record to stdout.
pub(crate) fn run() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let orders: Orders = serde_json::from_str(&text)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    let record = local.block_on(&runtime, offer(orders))?;
    println!("{}", serde_json::to_string(&record)?);
    Ok(())
}

async fn offer(orders: Orders) -> Result<GeneratorRecord> {
    let client = Client::builder()
        .seeds(orders.seeds.clone())
        .connections_per_node(orders.connections)
        .require_cluster(true)
        .connect()
        .await
        .wrap_err("a generator cannot connect")?
        .with_timeout(Duration::from_millis(orders.timeout_ms))
        .with_read_policy(ReadPolicy::Error);
    let load = Rc::new(Load {
        client,
        value: value(orders.value_bytes),
        slots: RefCell::default(),
        unstarted: Cell::new(0),
        picks: RefCell::new(Picks::seeded(orders.seed)),
        orders,
    });
    let starts = UNIX_EPOCH + Duration::from_micros(load.orders.starts_us);
    let wait = starts.duration_since(SystemTime::now()).unwrap_or_default();
    let start = Instant::now() + wait;
    tokio::time::sleep_until(start.into()).await;
    match load.orders.in_flight {
        Some(in_flight) => load.closed_loop(start, in_flight).await,
        None => load.open_loop(start).await,
    }
}

/// An operation to do.
struct Due {
    number: u64,
    is_get: bool,
}

struct Load {
    orders: Orders,
    client: Client,
    value: Bytes,
    slots: RefCell<Vec<Slot>>,
    picks: RefCell<Picks>,
    /// Operations that are due and not begun.
    unstarted: Cell<u64>,
}

impl Load {
    fn pick(&self) -> Due {
        let mut picks = self.picks.borrow_mut();
        Due {
            number: picks.number() % self.orders.keys,
            is_get: picks.number() % 100 < self.orders.get_percent,
        }
    }

    async fn carry_out(&self, due: &Due) -> (Outcome, Option<bool>) {
        let key = key(due.number);
        if due.is_get {
            return match self.client.get(&key).await {
                Ok(found) => (Outcome::Accepted, Some(found.is_some())),
                Err(error) => (read_outcome(&error), None),
            };
        }
        match self.client.set(&key, &self.value).await {
            Ok(_) => (Outcome::Accepted, None),
            Err(error) => (write_outcome(&error), None),
        }
    }

    fn with_slot(&self, due_after: Duration, change: impl FnOnce(&mut Slot)) {
        let index = usize::try_from(due_after.as_millis() / u128::from(SLOT_MS)).expect("a run is short");
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= index {
            slots.resize_with(index + 1, Slot::default);
        }
        change(&mut slots[index]);
    }

    async fn open_loop(self: Rc<Self>, start: Instant) -> Result<GeneratorRecord> {
        let mut running = JoinSet::new();
        let mut at = Duration::ZERO;
        for stretch in self.orders.stretches.clone() {
            let end = at + Duration::from_millis(stretch.millis);
            let per_tick = stretch.per_second * GRID_MS as f64 / 1e3;
            let mut owed = 0.0;
            while at < end {
                tokio::time::sleep_until((start + at).into()).await;
                // When it is late already, the sleep does not give way to what was started.
                tokio::task::yield_now().await;
                owed += per_tick;
                while owed >= 1.0 {
                    owed -= 1.0;
                    self.unstarted.set(self.unstarted.get() + 1);
                    running.spawn_local(self.clone().one(start, at));
                    while running.try_join_next().is_some() {}
                }
                // The runtime starts a few at each turn only. Without this, what is due would pile up unseen where it is not
                // even begun, and a slow generator would look like a slow node.
                while self.unstarted.get() > 0 {
                    tokio::task::yield_now().await;
                }
                at += Duration::from_millis(GRID_MS);
            }
        }
        while running.join_next().await.is_some() {}
        Ok(self.record())
    }

    async fn one(self: Rc<Self>, start: Instant, at: Duration) {
        self.unstarted.set(self.unstarted.get() - 1);
        let begun_late = (start + at).elapsed();
        let due = self.pick();
        let (outcome, found) = self.carry_out(&due).await;
        let latency = (start + at).elapsed();
        self.with_slot(at, |slot| {
            slot.counts.offered += 1;
            slot.begun_late.record(begun_late);
            slot.record(outcome, latency);
            if let Some(found) = found {
                slot.counts.reads += 1;
                slot.counts.hits += u64::from(found);
            }
        });
    }

    async fn closed_loop(self: Rc<Self>, start: Instant, in_flight: u32) -> Result<GeneratorRecord> {
        let length = Duration::from_millis(self.orders.stretches.iter().map(|stretch| stretch.millis).sum());
        // The first fifth warms up.
        let warm = length / 5;
        let mut tasks = JoinSet::new();
        for _ in 0..in_flight {
            let load = self.clone();
            tasks.spawn_local(async move {
                let (mut answered, mut refused): (u64, u64) = (0, 0);
                while start.elapsed() < length {
                    let due = load.pick();
                    let (outcome, _) = load.carry_out(&due).await;
                    if start.elapsed() > warm {
                        let is_answered = outcome == Outcome::Accepted;
                        *(if is_answered { &mut answered } else { &mut refused }) += 1;
                    }
                }
                (answered, refused)
            });
        }
        let mut all = (0, 0);
        while let Some(done) = tasks.join_next().await {
            let (answered, refused) = done?;
            all = (all.0 + answered, all.1 + refused);
        }
        let per_second = |count: u64| count as f64 / (length - warm).as_secs_f64();
        Ok(GeneratorRecord {
            closed_loop_per_second: per_second(all.0),
            closed_loop_refused_per_second: per_second(all.1),
            ..self.record()
        })
    }

    fn record(&self) -> GeneratorRecord {
        GeneratorRecord {
            slots: self.slots.borrow().iter().map(Into::into).collect(),
            retries_busy: self.client.metrics().retries_busy,
            ..GeneratorRecord::default()
        }
    }
}

fn read_outcome(error: &ReadError) -> Outcome {
    match error {
        ReadError::Busy => Outcome::Shed,
        ReadError::Unreachable(_) => Outcome::Late,
        _ => Outcome::Failed,
    }
}

fn write_outcome(error: &WriteError) -> Outcome {
    match error {
        WriteError::Busy => Outcome::Shed,
        WriteError::Unavailable(_) => Outcome::Late,
        WriteError::OutcomeUnknown(_) => Outcome::Unknown,
        _ => Outcome::Failed,
    }
}
