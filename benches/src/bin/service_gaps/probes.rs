//! [`Probes`]: one task per key that sets and gets it in turn, and notes when it was answered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eyre::{Result, bail};
use softstore_client::Client;
use softstore_sharding::{Slice, SliceKey};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How long a key may stay without an answer when all is well again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A key, and when operations on it were acknowledged.
#[derive(Debug)]
struct Probe {
    key: String,
    at: SliceKey,
    acknowledged: Mutex<Vec<Instant>>,
}

impl Probe {
    fn acknowledged(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        // A list of moments is whole whenever its holder panicked.
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running probes. They end when dropped.
#[derive(Debug)]
pub(crate) struct Probes {
    probes: Vec<Arc<Probe>>,
    _tasks: JoinSet<()>,
}

impl Probes {
    /// Probes so many keys, spread evenly over the key space, as often as said.
    pub(crate) fn start(client: &Client, count: u32, every: Duration) -> Self {
        let probes: Vec<Arc<Probe>> = (0..count).map(|index| Arc::new(probe(index, count))).collect();
        let mut tasks = JoinSet::new();
        for probe in probes.clone() {
            tasks.spawn(run(client.clone(), probe, every));
        }
        Self {
            probes,
            _tasks: tasks,
        }
    }

    /// Forgets what was before now, the last answer of each key apart.
    pub(crate) fn begin(&self) {
        for probe in &self.probes {
            let mut acknowledged = probe.acknowledged();
            let last = acknowledged.pop();
            acknowledged.clear();
            acknowledged.extend(last);
        }
    }

    /// Waits until every key was answered again after this was called.
    pub(crate) async fn all_answered(&self) -> Result<()> {
        let asked = Instant::now();
        for probe in &self.probes {
            while probe.acknowledged().last().is_none_or(|at| *at <= asked) {
                if asked.elapsed() > PATIENCE {
                    bail!("{} is not served", probe.key);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    /// The longest time between two acknowledged operations in a slice since [`Probes::begin`]; none if no key of it is
    /// probed.
    pub(crate) fn longest_gap(&self, slice: Slice) -> Option<Duration> {
        let inside = self.probes.iter().filter(|probe| slice.contains(probe.at));
        let mut all: Vec<Instant> = inside.flat_map(|probe| probe.acknowledged().clone()).collect();
        all.sort_unstable();
        all.windows(2).map(|pair| pair[1] - pair[0]).max()
    }
}

/// A key in the `index`th of `count` equal parts of the key space.
fn probe(index: u32, count: u32) -> Probe {
    let width = (1_u128 << 64) / u128::from(count);
    let wanted = |at: SliceKey| u128::from(at.get()) / width == u128::from(index);
    let keys = (0_u64..).map(|number| format!("probe:{index}:{number}"));
    let mut placed = keys.map(|key| (SliceKey::of_key(key.as_bytes()), key));
    let (at, key) = placed
        .find(|(at, _)| wanted(*at))
        .expect("hashes reach every part");
    Probe {
        key,
        at,
        acknowledged: Mutex::default(),
    }
}

async fn run(client: Client, probe: Arc<Probe>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u64.. {
        ticks.tick().await;
        let answered = if round.is_multiple_of(2) {
            client.set(&*probe.key, "probed").await.is_ok()
        } else {
            client.get(&*probe.key).await.is_ok()
        };
        if answered {
            probe.acknowledged().push(Instant::now());
        }
    }
}
