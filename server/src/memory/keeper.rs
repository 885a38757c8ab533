//! [`Keeper`]: the thread that looks at the memory, asks the [`Governor`], and does what it says; and [`MemoryGauges`], what it
//! saw.
//!
//! A thread of its own and not a task: when it matters most, the runtime's threads are busy with what takes the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::registry::Unit;

use super::governor::{Change, Decision, Governor, Reading, Tell};
use super::kernel::{Kernel, Limit};
use super::plan::{self, MemoryPlan};
use super::{Allocator, Bytes};
use crate::clock::Clock;
use crate::listener::ListenerCounters;
use crate::node::StoreEngine;
use crate::readings;

/// How long what the kernel said of limits is believed: a dozen small files. What is resident is asked at each look.
const LIMIT_AGE: Duration = Duration::from_millis(100);

/// What a keeper keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) kernel: Kernel,
    pub(crate) allocator: Arc<dyn Allocator>,
    pub(crate) store: Arc<dyn StoreEngine>,
    pub(crate) gauges: Arc<MemoryGauges>,
    /// What its ports count as in transit.
    pub(crate) listeners: Arc<ListenerCounters>,
    /// What was decided for the store and for messages in transit, in bytes; 0: derived from the limit.
    pub(crate) memory_bytes: u64,
    pub(crate) transit_bytes_max: u64,
}

/// What is known of the memory, for metrics and for those who have a part of it.
#[derive(Debug)]
pub struct MemoryGauges {
    plan: Mutex<Option<MemoryPlan>>,
    /// What messages in transit may take now, in bytes.
    transit_bytes: Arc<AtomicUsize>,
    resident_bytes: AtomicU64,
    ceiling_bytes: AtomicU64,
    purges: AtomicU64,
    shrinks: AtomicU64,
    grows: AtomicU64,
}

impl Default for MemoryGauges {
    /// Before anything is planned, nothing is bounded here.
    fn default() -> Self {
        Self {
            plan: Mutex::default(),
            transit_bytes: Arc::new(AtomicUsize::new(usize::MAX)),
            resident_bytes: AtomicU64::new(0),
            ceiling_bytes: AtomicU64::new(0),
            purges: AtomicU64::new(0),
            shrinks: AtomicU64::new(0),
            grows: AtomicU64::new(0),
        }
    }
}

impl MemoryGauges {
    /// The plan that holds; none before the first.
    #[must_use]
    pub fn plan(&self) -> Option<MemoryPlan> {
        self.plan.lock().clone()
    }

    /// From now on this plan holds.
    pub(crate) fn set_plan(&self, plan: &MemoryPlan) {
        *self.plan.lock() = Some(plan.clone());
    }

    /// From now on messages in transit may take so much.
    pub(crate) fn set_transit(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.transit_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What messages in transit may take, in bytes, as it changes.
    pub(crate) fn transit_bytes(&self) -> Arc<AtomicUsize> {
        self.transit_bytes.clone()
    }

    /// What requests that are held back may take of that, in bytes.
    pub(crate) fn held_back_bytes(&self) -> u64 {
        plan::held_back_bytes(self.transit_bytes.load(Ordering::Relaxed) as u64)
    }

    /// For a page of metrics.
    pub(crate) fn readings(&self) -> Vec<readings::Reading> {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let bytes = |name, help, value| readings::Reading {
            name,
            help,
            unit: Some(Unit::Bytes),
            is_counter: false,
            value,
        };
        let counter = |name, help, value| readings::Reading {
            name,
            help,
            unit: None,
            is_counter: true,
            value: read(value),
        };
        let planned = |part: fn(&MemoryPlan) -> u64| self.plan.lock().as_ref().map_or(0, part);
        vec![
            bytes(
                "memory_resident",
                "Resident memory of the process",
                read(&self.resident_bytes),
            ),
            bytes(
                "memory_ceiling",
                "What may be resident before some limit is reached, with what others take of it",
                read(&self.ceiling_bytes),
            ),
            bytes(
                "memory_limit",
                "The limit that counts: the lowest of the control groups, else the machine's memory",
                planned(|plan| plan.limit_bytes),
            ),
            bytes(
                "memory_store_max",
                "The part of the limit that is planned for the store: its budget is this, or less while memory is short",
                planned(|plan| plan.store_bytes),
            ),
            bytes(
                "memory_transit_max",
                "What messages in transit may take now: what is planned for them, or less while memory is short",
                self.transit_bytes.load(Ordering::Relaxed) as u64,
            ),
            bytes(
                "memory_reserve",
                "The part of the limit that is left for everything else",
                planned(MemoryPlan::reserve_bytes),
            ),
            counter(
                "memory_purges",
                "Times that the allocator was made to give back what was free",
                &self.purges,
            ),
            counter(
                "memory_shrinks",
                "Times that the store's budget was lowered because memory was short",
                &self.shrinks,
            ),
            counter(
                "memory_grows",
                "Times that the store's budget was raised again",
                &self.grows,
            ),
        ]
    }
}

/// Keeps a node's memory until it is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Its end is the thread's.
    _alive: mpsc::Sender<()>,
}

impl Keeper {
    /// Begins to look.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub(crate) fn start(kept: Kept) -> std::io::Result<Self> {
        let (alive, ended) = mpsc::channel();
        let mut looking = Looking::new(kept);
        thread::Builder::new()
            .name("softstore-memory".to_owned())
            .spawn(move || {
                let mut wait = Duration::ZERO;
                while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    wait = looking.look();
                }
            })?;
        Ok(Self { _alive: alive })
    }
}

/// The thread's state.
struct Looking {
    kept: Kept,
    governor: Governor,
    plan: MemoryPlan,
    /// When the limits were read, and what may be resident by them.
    limits_read: Instant,
    ceiling_bytes: u64,
}

impl Looking {
    fn new(kept: Kept) -> Self {
        let governor = Governor::new(kept.store.stats().budget_bytes);
        let limit = kept.kernel.limit();
        let plan = MemoryPlan::new(&limit, kept.memory_bytes, kept.transit_bytes_max);
        let mut looking = Self {
            kept,
            governor,
            plan,
            limits_read: Instant::now(),
            ceiling_bytes: 0,
        };
        let resident_bytes = looking.kept.kernel.resident_bytes().unwrap_or(0);
        looking.follow(&limit, resident_bytes);
        looking
    }

    /// Looks, and does what is to be done. How long to wait until the next time.
    fn look(&mut self) -> Duration {
        // Where it is not told, nothing can be kept.
        let resident_bytes = self.kept.kernel.resident_bytes().unwrap_or(0);
        if self.limits_read.elapsed() >= LIMIT_AGE {
            let limit = self.kept.kernel.limit();
            self.follow(&limit, resident_bytes);
        }
        let stats = self.kept.store.stats();
        let reading = Reading {
            limit_bytes: self.plan.limit_bytes,
            ceiling_bytes: self.ceiling_bytes,
            resident_bytes,
            store_bytes: stats.bytes,
            budget_bytes: stats.budget_bytes,
            planned_bytes: self.plan.store_bytes,
            transit_bytes: self.kept.listeners.transit_bytes.load(Ordering::Relaxed),
            planned_transit_bytes: self.plan.transit_bytes,
        };
        let decision = self.governor.step(&reading, Clock.now());
        self.carry_out(&decision, &reading);
        Duration::from_millis(decision.look_again_ms)
    }

    /// Takes in what the kernel says of limits.
    fn follow(&mut self, limit: &Limit, resident_bytes: u64) {
        self.limits_read = Instant::now();
        // What others take is left out of it until they are looked at again.
        self.ceiling_bytes = limit.bytes.min(resident_bytes.saturating_add(limit.room_bytes));
        let plan = MemoryPlan::new(limit, self.kept.memory_bytes, self.kept.transit_bytes_max);
        if plan != self.plan {
            tracing::info!(%plan, before = %self.plan, "the memory limit has changed");
            self.plan = plan;
        }
        self.kept.gauges.set_plan(&self.plan);
    }

    fn carry_out(&self, decision: &Decision, reading: &Reading) {
        let gauges = &self.kept.gauges;
        gauges
            .resident_bytes
            .store(reading.resident_bytes, Ordering::Relaxed);
        gauges
            .ceiling_bytes
            .store(reading.ceiling_bytes, Ordering::Relaxed);
        gauges.set_transit(decision.transit_bytes);
        let counter = match decision.change {
            Some(Change::Less) => Some(&gauges.shrinks),
            Some(Change::More) => Some(&gauges.grows),
            None => None,
        };
        counter.iter().for_each(|counter| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        if decision.budget_bytes != reading.budget_bytes {
            self.kept.store.set_budget(decision.budget_bytes);
        }
        if decision.purge {
            gauges.purges.fetch_add(1, Ordering::Relaxed);
            self.kept.allocator.purge();
        }
        if let Some(tell) = decision.tell {
            self.tell(tell, decision, reading);
        }
    }

    fn tell(&self, tell: Tell, decision: &Decision, reading: &Reading) {
        let budget = Bytes(decision.budget_bytes);
        let planned = Bytes(reading.planned_bytes);
        let resident = Bytes(reading.resident_bytes);
        let limit = Bytes(reading.limit_bytes);
        let source = &self.plan.source;
        match tell {
            Tell::Begun => tracing::warn!(
                %resident, %limit, %source, %budget, %planned,
                "memory is short: the store gets less than planned, and evicts more, until there is room again"
            ),
            Tell::Lasts => tracing::warn!(
                %resident, %limit, %source, %budget, %planned,
                "memory is still short: give the process more, or plan less for the store (--memory)"
            ),
            Tell::Ended => tracing::info!(
                %resident, %limit, %source, %budget, "memory is not short any more: the store has what is planned"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use softstore_store::{MokaStore, MokaStoreConfig, Store};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[derive(Debug, Default)]
    struct CountedPurges(AtomicU64);

    impl Allocator for CountedPurges {
        fn purge(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Plan: a store that may have 48 of 64 MiB, derived, in a group of version 2 made up of files. The group fills, and is
    /// emptied and its limit doubled: the store is given less and in the end more than it had; the plan, the metrics and what
    /// messages in transit may take follow; the allocator was asked.
    #[test]
    fn it_does_what_the_files_say() {
        let root = std::env::temp_dir().join(format!("softstore-keeper-{}", std::process::id()));
        let write = |path: &str, text: String| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let page = rustix::param::page_size() as u64;
        let resident = |mib: u64| write("proc/self/statm", format!("9 {} 0\n", mib * MIB / page));
        let group = |limit_mib: u64, used_mib: u64| {
            write("sys/fs/cgroup/memory.max", (limit_mib * MIB).to_string());
            write("sys/fs/cgroup/memory.current", (used_mib * MIB).to_string());
        };
        write("proc/self/cgroup", "0::/\n".to_owned());
        resident(10);
        group(512, 10);
        let store = Arc::new(MokaStore::new(MokaStoreConfig {
            budget_bytes: 384 * MIB,
            budget_bytes_max: 4_096 * MIB,
            ..MokaStoreConfig::default()
        }));
        let allocator = Arc::new(CountedPurges::default());
        let gauges = Arc::<MemoryGauges>::default();
        let mut looking = Looking::new(Kept {
            kernel: Kernel::under(&root),
            allocator: allocator.clone(),
            store: store.clone(),
            gauges: gauges.clone(),
            listeners: Arc::default(),
            memory_bytes: 0,
            transit_bytes_max: 0,
        });
        let mut look = |times: usize| {
            for _ in 0..times {
                looking.limits_read -= LIMIT_AGE;
                looking.look();
            }
        };
        look(3);
        let near = |bytes: u64, mib: u64| bytes.abs_diff(mib * MIB) < MIB;
        assert!(near(store.stats().budget_bytes, 384));
        assert!(near(gauges.transit_bytes().load(Ordering::Relaxed) as u64, 64));
        // Others in the group took the rest.
        group(512, 500);
        look(40);
        assert!(store.stats().budget_bytes < 100 * MIB, "{:?}", store.stats());
        assert!(allocator.0.load(Ordering::Relaxed) > 0);
        let metric = |name: &str| {
            let readings = gauges.readings();
            readings
                .iter()
                .find(|reading| reading.name == name)
                .unwrap()
                .value
        };
        assert!(near(metric("memory_ceiling"), 22) && metric("memory_shrinks") > 0);
        group(1_024, 10);
        looking.limits_read -= LIMIT_AGE;
        looking.look();
        assert!(near(metric("memory_limit"), 1_024) && near(metric("memory_store_max"), 768));
        assert!(near(gauges.transit_bytes().load(Ordering::Relaxed) as u64, 128));
        fs::remove_dir_all(&root).unwrap();
    }
}
