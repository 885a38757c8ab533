//! [`Victim`]: a process under attack, as the kernel sees it: memory, file descriptors, whether it lives.

use std::fs;
use std::time::{Duration, Instant};

use softstore_tests::http::Metrics;
use softstore_tests::process::Process;
use softstore_tests::processes::{NodeProcess, until_within};

/// How long a process may take to give back what an attack took.
const RELEASE_PATIENCE: Duration = Duration::from_secs(30);

/// File descriptors that may be open for other reasons than before: connections to and from peers come and go.
const FDS_SLACK: usize = 24;

/// A process under attack.
#[derive(Clone, Debug)]
pub(crate) struct Victim {
    pub(crate) name: String,
    pub(crate) grpc: String,
    pub(crate) http: String,
    pid: i32,
}

/// A mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

impl Victim {
    pub(crate) fn of_node(node: &NodeProcess) -> Self {
        Self::new(&node.id, &node.process, &node.grpc, &node.http)
    }

    pub(crate) fn new(name: &str, process: &Process, grpc: &str, http: &str) -> Self {
        Self {
            name: name.to_owned(),
            grpc: grpc.to_owned(),
            http: http.to_owned(),
            pid: process.pid().as_raw_nonzero().get(),
        }
    }

    /// Resident memory in bytes; 0 once it has ended.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// Open file descriptors.
    pub(crate) fn fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count)
    }

    /// Processor time used so far, in all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        const TICK: Duration = Duration::from_millis(10);
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // Behind the name, which may hold anything: state is field 3, user and system time are 14 and 15.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |field: usize| {
            fields
                .get(field - 3)
                .and_then(|ticks| ticks.parse().ok())
                .unwrap_or(0)
        };
        TICK * (ticks(14) + ticks(15))
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let read = async || Metrics::read(&self.http).await.ok();
        until_within(
            RELEASE_PATIENCE,
            &format!("{} shows its metrics", self.name),
            read,
        )
        .await
    }

    /// A counter's value.
    pub(crate) async fn count(&self, metric: &str) -> f64 {
        self.metrics().await.get(metric)
    }

    /// Waits until a counter has grown by so much over `before`.
    pub(crate) async fn counted(&self, metric: &str, before: f64, by: f64) {
        until_within(
            RELEASE_PATIENCE,
            &format!("{} counts {by} {metric}", self.name),
            async || {
                let now = Metrics::read(&self.http).await.ok()?.get(metric);
                (now - before > by - 0.5).then_some(())
            },
        )
        .await;
    }

    /// Waits until it holds no more file descriptors than before an attack.
    pub(crate) async fn released(&self, before: usize) {
        let what = format!("{} closes what it holds beyond {before}", self.name);
        until_within(RELEASE_PATIENCE, &what, async || {
            (self.fds() <= before + FDS_SLACK).then_some(())
        })
        .await;
    }
}

/// The largest resident memory seen of a process while it is looked at.
#[derive(Debug)]
pub(crate) struct Peak {
    looking: tokio::task::JoinHandle<()>,
    largest: std::sync::Arc<std::sync::atomic::AtomicU64>,
    pub(crate) before: u64,
    pub(crate) began: Instant,
}

impl Peak {
    pub(crate) fn of(victim: &Victim) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let before = victim.resident_bytes();
        let largest = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(before));
        let (victim, seen) = (victim.clone(), largest.clone());
        let looking = tokio::spawn(async move {
            loop {
                seen.fetch_max(victim.resident_bytes(), Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self {
            looking,
            largest,
            before,
            began: Instant::now(),
        }
    }

    /// How much more than in the beginning it was, in bytes.
    pub(crate) fn growth(self) -> u64 {
        self.looking.abort();
        let largest = self.largest.load(std::sync::atomic::Ordering::Relaxed);
        largest.saturating_sub(self.before)
    }
}
