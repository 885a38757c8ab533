//! One measurement: so many tasks, each with one operation in flight, for so long; what they completed, and the processor
//! time that it cost on either side.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use eyre::{Result, WrapErr, ensure, eyre};
use softstore_benches::workload::{Key, Picks};
use tokio::task::JoinSet;

use crate::contestant::Contestant;

/// Ticks of processor time per second in `/proc/PID/stat` (`USER_HZ`, fixed on Linux).
const TICKS_PER_SECOND: f64 = 100.0;

/// What all measurements have in common.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The keys, all present.
    pub(crate) keys: Arc<[Key]>,
    /// What they are set to.
    pub(crate) value: Bytes,
    /// How long a measurement takes.
    pub(crate) millis: u64,
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Operations per second.
    pub(crate) ops_per_second: f64,
    /// Processor time of this process per operation, in microseconds.
    pub(crate) client_cpu_us: f64,
    /// Processor time of the server per operation, in microseconds.
    pub(crate) server_cpu_us: f64,
}

/// What the tasks share.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    stop: AtomicBool,
}

/// Measures one contestant.
pub(crate) async fn measure(
    contestant: &impl Contestant,
    server_pid: u32,
    plan: &Plan,
    in_flight: u32,
    get_percent: u32,
) -> Result<Sample> {
    let progress = Arc::new(Progress::default());
    let mut tasks = JoinSet::new();
    for task in 0..in_flight {
        let worker = work(
            contestant.clone(),
            plan.clone(),
            get_percent,
            u64::from(task),
            progress.clone(),
        );
        tasks.spawn(worker);
    }
    tokio::time::sleep(Duration::from_millis(plan.millis / 10)).await;
    let own_pid = std::process::id();
    let before = (
        cpu_seconds(own_pid)?,
        cpu_seconds(server_pid)?,
        progress.done.load(Ordering::Relaxed),
    );
    let started = Instant::now();
    tokio::time::sleep(Duration::from_millis(plan.millis)).await;
    let done = progress.done.load(Ordering::Relaxed) - before.2;
    let seconds = started.elapsed().as_secs_f64();
    let (own, servers) = (
        cpu_seconds(own_pid)? - before.0,
        cpu_seconds(server_pid)? - before.1,
    );
    progress.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.wrap_err("a task failed")??;
    }
    ensure!(done > 0, "nothing was answered in {} ms", plan.millis);
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
    let operations = done as f64;
    Ok(Sample {
        ops_per_second: operations / seconds,
        client_cpu_us: own * 1e6 / operations,
        server_cpu_us: servers * 1e6 / operations,
    })
}

async fn work(
    mut contestant: impl Contestant,
    plan: Plan,
    get_percent: u32,
    seed: u64,
    progress: Arc<Progress>,
) -> Result<()> {
    let mut picks = Picks::seeded(seed);
    while !progress.stop.load(Ordering::Relaxed) {
        let key = picks.of(&plan.keys);
        if get_percent == 100 || picks.number() % 100 < u64::from(get_percent) {
            let bytes = contestant.get(key).await?;
            ensure!(bytes == plan.value.len(), "a value of {bytes} bytes came back");
        } else {
            contestant.set(key, &plan.value).await?;
        }
        progress.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Processor time that a process has used, user and system, in seconds (proc(5), `/proc/PID/stat`, fields 14 and 15).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).wrap_err("cannot read a process' times")?;
    // The name in parentheses may hold anything; the fields after it are numbers.
    let after_name = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest)
        .ok_or_else(|| eyre!("no process stat: {stat}"))?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth).and_then(|field| field.parse::<f64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok((user + system) / TICKS_PER_SECOND),
        _ => Err(eyre!("no process stat: {stat}")),
    }
}
