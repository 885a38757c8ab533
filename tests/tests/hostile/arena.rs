//! [`Arena`]: a cluster with an honest client at work, and the judgement of what an attack did to both.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use softstore_client::Client;
use softstore_tests::processes::ProcessCluster;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

use crate::victim::{MIB, Peak, Victim};

/// Honest operations at once.
const WORKERS: usize = 8;

/// Keys of each honest worker.
const KEYS_PER_WORKER: usize = 64;

/// Between an honest worker's operations.
const PAUSE: Duration = Duration::from_millis(2);

/// How long the honest client is measured before an attack.
const CALM: Duration = Duration::from_millis(1_500);

/// How long an attack is kept up at the least, so that there is something to measure.
pub(crate) const SIEGE: Duration = Duration::from_secs(3);

/// How long an honest operation may take before it counts as an error.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// One attack at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A cluster, and an honest client at work on it.
pub(crate) struct Arena {
    pub(crate) cluster: ProcessCluster,
    pub(crate) client: Client,
    /// The honest client's own threads: attackers do not share theirs.
    runtime: Option<Runtime>,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// What an attack may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How much the process under attack may grow.
    pub(crate) growth_bytes: u64,
    /// What the honest client's p99 may be, beside ten times of that without an attack.
    pub(crate) p99: Duration,
}

impl Bounds {
    pub(crate) fn growth_mib(mib: u64) -> Self {
        Self {
            growth_bytes: mib * MIB,
            p99: Duration::from_millis(250),
        }
    }

    pub(crate) fn with_p99(self, p99: Duration) -> Self {
        Self { p99, ..self }
    }
}

/// What the honest client felt.
#[derive(Debug, Default)]
struct Felt {
    latencies_us: Vec<u64>,
    errors: Vec<String>,
}

impl Felt {
    fn add(&mut self, took_us: [u64; 2], error: Option<String>) {
        self.latencies_us.extend(took_us);
        self.errors.extend(error);
    }

    fn percentile(&mut self, percent: usize) -> Duration {
        self.latencies_us.sort_unstable();
        let index = (self.latencies_us.len() * percent / 100).min(self.latencies_us.len().saturating_sub(1));
        Duration::from_micros(self.latencies_us.get(index).copied().unwrap_or(0))
    }
}

/// Honest work that goes on until it is dropped.
struct Honest {
    felt: Arc<Mutex<Felt>>,
    stop: Arc<AtomicBool>,
    workers: JoinSet<()>,
}

impl Honest {
    fn start(on: &Handle, client: &Client) -> Self {
        let (felt, stop) = (Arc::<Mutex<Felt>>::default(), Arc::<AtomicBool>::default());
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let (client, felt, stop) = (client.clone(), felt.clone(), stop.clone());
            let working = async move {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let key = format!("honest-{worker}-{}", round % KEYS_PER_WORKER);
                    let (took_us, error) = once(&client, &key, round).await;
                    felt.lock().add(took_us, error);
                    tokio::time::sleep(PAUSE).await;
                }
            };
            workers.spawn_on(working, on);
        }
        Self { felt, stop, workers }
    }

    async fn end(mut self) -> Felt {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.workers.join_next().await {
            done.expect("an honest worker does not panic");
        }
        std::mem::take(&mut *self.felt.lock())
    }
}

/// A write, and a read that must see it: nobody else writes the key.
async fn once(client: &Client, key: &str, round: usize) -> ([u64; 2], Option<String>) {
    let value = format!("{key}#{round}");
    let began = Instant::now();
    let written = client.set(key, value.as_str()).await;
    let wrote = began.elapsed();
    let read = client.get(key).await;
    let took = [wrote, began.elapsed() - wrote];
    let error = match (written, read) {
        (Ok(_), Ok(Some(read))) if read == value.as_bytes() => None,
        (written, read) => Some(format!("{key} after {round} writes: {written:?}, {read:?}")),
    };
    (
        took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        error,
    )
}

impl Arena {
    /// Two nodes, an Assigner, and these flags on every node.
    pub(crate) async fn open(node_flags: &[&str]) -> Self {
        Self::open_with(2, &[], node_flags).await
    }

    pub(crate) async fn open_with(nodes: u32, assigner_flags: &[&str], node_flags: &[&str]) -> Self {
        let turn = TURN.lock().await;
        raise_fd_limit();
        let cluster = ProcessCluster::start_with(nodes, assigner_flags, node_flags).await;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        let seeds: Vec<String> = cluster.nodes.iter().map(|node| node.grpc.clone()).collect();
        let connecting = runtime.spawn(Client::builder().seeds(seeds).require_cluster(true).connect());
        let client = connecting.await.expect("connecting does not panic");
        let client = client
            .expect("the client connects")
            .with_timeout(OPERATION_TIMEOUT);
        Self {
            cluster,
            client,
            runtime: Some(runtime),
            _turn: turn,
        }
    }

    pub(crate) fn node(&self, id: &str) -> Victim {
        Victim::of_node(self.cluster.node(id))
    }

    pub(crate) fn assigner(&self) -> Victim {
        let (cluster, assigner) = (&self.cluster, &self.cluster.assigner);
        Victim::new(
            "assigner",
            assigner,
            &cluster.assigner_grpc,
            &cluster.assigner_http,
        )
    }

    /// Runs an attack on a process beside the honest client, and judges. Returns what the attack returned.
    ///
    /// # Panics
    /// If what must hold does not.
    pub(crate) async fn endure<T>(
        &mut self,
        what: &str,
        victim: &Victim,
        bounds: Bounds,
        attack: impl Future<Output = T>,
    ) -> T {
        let mut calm = self.calm().await;
        let (fds, cpu) = (victim.fds(), victim.cpu());
        let peak = Peak::of(victim);
        let honest = self.honest();
        let done = attack.await;
        let mut felt = honest.end().await;
        let (lasted, growth) = (peak.began.elapsed(), peak.growth());
        let cpu = victim.cpu().saturating_sub(cpu);
        let mut after = self.calm().await;
        println!(
            "{what} ({}): {:.1} s, +{} MiB, {} fds before, {:.0}% of a processor; honest p99 {:?} before, {:?} during, \
             {:?} after, worst {:?}, {} operations, {} errors",
            victim.name,
            lasted.as_secs_f64(),
            growth / MIB,
            fds,
            100.0 * cpu.as_secs_f64() / lasted.as_secs_f64(),
            calm.percentile(99),
            felt.percentile(99),
            after.percentile(99),
            felt.percentile(100),
            felt.latencies_us.len(),
            felt.errors.len(),
        );
        let calm = calm.percentile(99).max(after.percentile(99));
        self.judge(what, bounds.p99 + 10 * calm, felt);
        assert!(
            growth <= bounds.growth_bytes,
            "{what}: {} grew by {} MiB, more than {}",
            victim.name,
            growth / MIB,
            bounds.growth_bytes / MIB
        );
        victim.released(fds).await;
        self.cluster.settled().await;
        done
    }

    fn honest(&self) -> Honest {
        let runtime = self.runtime.as_ref().expect("it runs until the arena is closed");
        Honest::start(runtime.handle(), &self.client)
    }

    /// What the honest client feels while nobody attacks.
    ///
    /// # Panics
    /// If not all is well.
    async fn calm(&self) -> Felt {
        let honest = self.honest();
        tokio::time::sleep(CALM).await;
        let felt = honest.end().await;
        assert!(felt.errors.is_empty(), "without an attack: {:?}", felt.errors);
        felt
    }

    /// `allowed`: what the honest client's p99 may be.
    fn judge(&mut self, what: &str, allowed: Duration, mut felt: Felt) {
        assert!(self.cluster.assigner.is_running(), "{what} ended the Assigner");
        for node in &mut self.cluster.nodes {
            assert!(node.process.is_running(), "{what} ended {}", node.id);
        }
        assert!(
            felt.errors.is_empty(),
            "{what}: {} errors, as {}",
            felt.errors.len(),
            felt.errors[0]
        );
        assert!(!felt.latencies_us.is_empty(), "{what}: nothing was served");
        // Attackers, servers and the honest client share the machine's processors: so not equal, but of the same order.
        let p99 = felt.percentile(99);
        assert!(p99 <= allowed, "{what}: p99 {p99:?}, more than {allowed:?}");
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Not awaited: a runtime may not be waited for within another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// File descriptors that this process may open, raised as far as it may; what it starts inherits that.
pub(crate) fn raise_fd_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("a process may use what its hard limit allows");
    maximum.unwrap_or(u64::MAX)
}
